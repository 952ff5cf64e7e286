"""config.toml: the shipped file holds, everything wrong is refused with the path of its key."""

import socket
from pathlib import Path

import msgspec
import pytest

from gateway import config as cfg
from gateway.errors import ConfigError

PROVIDER = '[providers.p]\nformat = "openai"\nbase_url = "https://p.test/v1"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nport = 'x'", "server.port: "),
        ("[server]\nport = 70000", "server.port: "),
        ("[server]\nprot = 1", "server.prot: unknown key"),
        ("[server]\nport = true", "server.port: "),
        ("[server]\nmax_body_bytes = 10", "server.max_body_bytes: "),
        ("[server]\ndrain_seconds = 0", "server.drain_seconds: "),
        ("[server]\nreceipt_id_header = 'a: b'", "server.receipt_id_header: "),
        ("[server]\ntls_cert = 'x'", "server.tls_key: "),
        ("[server]\ncors_origins = [1]", "server.cors_origins"),
        ("server = 5", "server: "),
        ("[sevrer]", "sevrer: unknown key"),
        ("port = 5", "port: unknown key"),
        ("[store]\ndurability = 'maybe'", "store.durability: "),
        ("[keys]\nprefix = 'no dash'", "keys.prefix: "),
        ("[keys]\nprefix = ''", "keys.prefix: "),
        ("[limits]\nrpm = 0", "limits.rpm: "),
        ("[log]\nlevel = 'loud'", "log.level: "),
        ("[billing]\non_disconnect = 'ask'", "billing.on_disconnect: "),
        ("[providers.P]\nformat = 'openai'\nbase_url = 'https://x'", "providers.P: "),
        ("[providers.p]\nformat = 'openai'", "providers.p.base_url: is required"),
        ("[providers.p]\nbase_url = 'https://x'", "providers.p.format: is required"),
        (PROVIDER + "key = 'x'", "providers.p.key: unknown key"),
        (PROVIDER + "keys = 'x'", "providers.p.keys: "),
        (PROVIDER + "keys = [5]", "providers.p.keys"),
        ("[providers]\np = 5", "providers.p: "),
        ("providers = 5", "providers: expected a table"),
        ("[model_map]\n'a*' = 5", 'model_map."a*": '),
        (PROVIDER + "[models.m]\ntargets = []", "models.m.targets: "),
        (PROVIDER + "[models.m]\ntargets = ['p']", "models.m.targets[0]: "),
        (PROVIDER + "[models.m]\ntargets = ['p/a', 'q/b']", "models.m.targets[1]: no provider q"),
        (PROVIDER + "[models.m]\ntargets = ['p/a']\nweights = [1, 2]", "models.m.weights: "),
        (PROVIDER + "[models.m]\ntargets = ['p/a']\nstrategy = 'x'", "models.m.strategy: "),
        (PROVIDER + "[byok]\nanthropic = 'p'", "byok.anthropic: provider p speaks openai"),
        ("[providers.p]\nformat = 'openai'\nbase_url = 'builtin:demo'", "providers.p.format: "),
        ("[providers.p]\nformat = 'all'\nbase_url = 'https://x'", "providers.p.format: "),
        ("[server]\nhost = 'env:GATEWAY_NO_SUCH_NAME'", "server.host: environment variable"),
        ("[server\n", "config: not TOML: "),
        *(
            (f"[dashboard]\npublic_url = '{url}'", "dashboard.public_url: ")
            for url in (
                "llm.example.com",
                "https://",
                "https://h/",
                "https://h/path",
                "https://h?q",
                "https://h#f",
                "https://u:p@h",
                "ftp://h",
                "https://h:0",
                "https://h:65536",
                "https://h:x",
                "https://h h",
                "//h",
                "https://-h",
                "https://h\\x",
                "https://é",
            )
        ),
        ("[dashboard]\nsession_hours = 0", "dashboard.session_hours: "),
        ("[dashboard]\nsignup = 'yes'", "dashboard.signup: "),
    ],
)
def test_what_is_wrong_is_refused_by_the_path_of_its_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cfg.parse(text)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com/v1",
        "ftp://x/v1",
        "https://",
        "https://x:0/",
        "https://x:99999/",
        "https://x:port/",
        "https://u:p@x/",
        "https://x/?a=b",
        "https://x/#a",
        "https://x /",
        "https://bücher.test/",
        "https://x/a\\r\\nb",
        "https://[::1",
        "file:///etc/passwd",
    ],
)
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^providers\.p\.base_url: "):
        cfg.parse(f'[providers.p]\nformat = "openai"\nbase_url = "{url}"')


def test_the_environment_is_read_where_a_string_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TEST_HOST", "10.0.0.1")
    monkeypatch.setenv("GATEWAY_TEST_KEY", "sk-1")
    config = cfg.parse("[server]\nhost = 'env:GATEWAY_TEST_HOST'\n" + PROVIDER + "keys = ['env:K']")
    assert config.server.host == "10.0.0.1"
    assert config.providers["p"].keys == ("env:K",)  # resolved when used, so never shown
    assert cfg.secret("env:GATEWAY_TEST_KEY") == "sk-1"
    assert cfg.secret("env:GATEWAY_TEST_NOT_SET") is None
    assert cfg.secret("plain") == "plain"
    assert cfg.secret("") is None


def test_the_shipped_file_is_the_defaults_and_complete() -> None:
    path = Path(__file__).parents[2] / "config.toml"
    config = cfg.load(path)
    plain = cfg.parse("")
    assert config.server == plain.server
    assert config.store == plain.store
    assert config.upstream == plain.upstream
    assert config.log == plain.log
    assert set(config.providers) >= {
        "openai",
        "anthropic",
        "google",
        "deepseek",
        "moonshot",
        "demo",
    }
    text = path.read_text()
    for section in (config.server, config.store, config.byok, config.upstream, config.log):
        for field in msgspec.structs.fields(section):
            assert f"\n{field.name} = " in text, field.name


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        cfg.load(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "port", "url"),
    [
        ("", 0, "http://127.0.0.1:8000"),
        ("", 8123, "http://127.0.0.1:8123"),
        ("[server]\nport = 0", 0, None),
        ("[server]\nport = 0", 8123, "http://127.0.0.1:8123"),
        ("[server]\nhost = '::1'", 0, "http://[::1]:8000"),
        ("[server]\ntls_cert = 'c'\ntls_key = 'k'", 0, "https://127.0.0.1:8000"),
        ("[server]\nunix_socket = '/run/g'", 0, None),
        ("[server]\nhost = '0.0.0.0'", 0, f"http://{socket.gethostname()}:8000"),
        ("[dashboard]\npublic_url = 'https://a.example'", 8123, "https://a.example"),
        ("[dashboard]\npublic_url = 'http://[2001:db8::1]:81'", 0, "http://[2001:db8::1]:81"),
    ],
)
def test_where_browsers_find_the_gateway(text: str, port: int, url: str | None) -> None:
    assert cfg.base_url(cfg.parse(text), port) == url
