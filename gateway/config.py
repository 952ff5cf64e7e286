"""config.toml -> frozen Structs, checked.

The contract: an unknown key, a wrong type, a number out of range or a bad URL is refused with a
`ConfigError` that opens with the key's path (`server.port: …`). A string `"env:NAME"` reads the
environment. Anyone may read a `Config`; only `app.py`, `cli.py` and tests load one. The shipped
`config.toml` documents every key: default, unit, consequence.
"""

import os
import re
import socket
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.errors import ConfigError

BUILTIN_DEMO = "builtin:demo"
"""The `base_url` that stands for the upstream built into the gateway itself."""

ENV_PREFIX = "env:"

ADMIN_TOKEN_CHARS_MIN = 20
"""A token may do everything, and can be tried from afar."""

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 40)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,64}$")]
Usd = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]

Family = Literal["openai", "anthropic", "gemini"]
"""The API family that a provider speaks."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Server(_Section, frozen=True):
    """Where the gateway listens, and what it accepts."""

    host: str = "127.0.0.1"
    port: Port = 8000
    unix_socket: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    metrics_port: Port = 0
    max_body_bytes: Bytes = 33_554_432
    drain_seconds: Seconds = 30.0
    body_seconds: Seconds = 120.0
    nofile: Annotated[int, Meta(ge=256)] = 65_536
    cors_origins: tuple[str, ...] = ()
    receipt_id_header: HeaderName = "X-Badgr-Receipt-Id"
    receipt_url_header: HeaderName = "X-AIBADGR-Receipt-URL"


class Store(_Section, frozen=True):
    """Where receipts and accounts live, and when they count as written."""

    path: str = "gateway.db"
    durability: Literal["full", "relaxed"] = "full"


class Keys(_Section, frozen=True):
    """Keys issued here."""

    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9]{1,16}[-_]$")] = "gw-"


class Admin(_Section, frozen=True):
    """The local control socket, and who may use the admin API besides admins' keys."""

    socket: str = ""
    token: str = ""


class Dashboard(_Section, frozen=True):
    """The pages for people, and who may sign in to them."""

    enabled: bool = True
    signup: bool = False
    public_url: str = ""
    session_hours: Annotated[int, Meta(ge=1, le=8760)] = 168


class Byok(_Section, frozen=True):
    """Callers who bring their own provider key."""

    enabled: bool = True
    openai: Name = "openai"
    anthropic: Name = "anthropic"
    gemini: Name = "google"


class Billing(_Section, frozen=True):
    """What happens to money at the edges."""

    on_disconnect: Literal["cancel", "drain"] = "cancel"
    drain_seconds: Seconds = 300.0
    drain_bytes: Bytes = 16_777_216
    default_max_output_tokens: Count = 4096


class Limits(_Section, frozen=True):
    """Defaults for keys without their own."""

    rpm: Count = 600
    tpm: Count = 400_000
    concurrent: Count = 100


class Upstream(_Section, frozen=True):
    """How upstreams are reached; a provider may set its own."""

    connect_seconds: Seconds = 10.0
    first_byte_seconds: Seconds = 600.0
    idle_seconds: Seconds = 300.0
    keepalive_seconds: Seconds = 55.0
    connections_max: Count = 20_000
    ca_file: str = ""
    deadline_seconds: Seconds = 600.0
    breaker_failures: Count = 5
    breaker_seconds: Seconds = 5.0


class Alerts(_Section, frozen=True):
    """Who is told when a day's spending passes a threshold."""

    smtp_host: str = ""
    smtp_port: Port = 587
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str = ""
    smtp_password: str = ""
    smtp_ca_file: str = ""
    mail_from: str = ""
    mail_to: tuple[str, ...] = ()
    webhook_url: str = ""
    webhook_secret: str = ""
    user_daily_usd: Usd = 0.0


class Log(_Section, frozen=True):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "text"
    requests: bool = False


class Provider(_Section, frozen=True):
    """One upstream provider."""

    format: Literal["openai", "anthropic", "gemini", "all"]
    base_url: str
    keys: tuple[str, ...] = ()
    catalog: Name | None = None
    unmetered: bool = False
    include_usage: bool = True
    responses: bool | None = None
    connect_seconds: Seconds | None = None
    first_byte_seconds: Seconds | None = None
    idle_seconds: Seconds | None = None
    ca_file: str | None = None
    daily_alert_usd: Usd | None = None
    daily_stop_usd: Usd | None = None

    @property
    def daily_alert_nano_usd(self) -> int | None:
        """The day's spending that is told, in nano-USD."""
        return None if self.daily_alert_usd is None else nano_usd(self.daily_alert_usd)

    @property
    def daily_stop_nano_usd(self) -> int | None:
        """The day's spending that pauses the provider, in nano-USD."""
        return None if self.daily_stop_usd is None else nano_usd(self.daily_stop_usd)


class Model(_Section, frozen=True):
    """An alias: what a name that clients use stands for."""

    targets: Annotated[tuple[str, ...], Meta(min_length=1, max_length=16)]
    strategy: Literal["failover", "weighted", "latency"] = "failover"
    weights: tuple[Annotated[int, Meta(ge=1)], ...] = ()


class Config(_Section, frozen=True):
    """The whole file."""

    server: Server = Server()
    store: Store = Store()
    keys: Keys = Keys()
    admin: Admin = Admin()
    dashboard: Dashboard = Dashboard()
    byok: Byok = Byok()
    billing: Billing = Billing()
    limits: Limits = Limits()
    upstream: Upstream = Upstream()
    alerts: Alerts = Alerts()
    log: Log = Log()
    providers: dict[str, Provider] = {}
    models: dict[str, Model] = {}
    model_map: dict[str, str] = {}


_SECTIONS: dict[str, type[_Section]] = {
    "server": Server,
    "store": Store,
    "keys": Keys,
    "admin": Admin,
    "dashboard": Dashboard,
    "byok": Byok,
    "billing": Billing,
    "limits": Limits,
    "upstream": Upstream,
    "alerts": Alerts,
    "log": Log,
}
_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<key>[^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<key>[^`]*)`$")
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
_ORIGIN = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:(?P<port>[0-9]{1,5}))?"
)

S = TypeVar("S", bound=_Section)


def load(path: str | Path) -> Config:
    """Read and check a config file; `ConfigError` names the key (or line) at fault."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from None
    return parse(text, source=str(path))


def parse(text: str, *, source: str = "config") -> Config:
    """Check config text; raises `ConfigError`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{source}: not TOML: {exc}") from None
    sections: dict[str, Any] = {}
    for key, value in raw.items():
        if key in _SECTIONS:
            sections[key] = _convert(value, _SECTIONS[key], key)
        elif key == "providers":
            sections[key] = _named(value, Provider, key)
        elif key == "models":
            sections[key] = _named(value, Model, key, lower=False)
        elif key == "model_map":
            sections[key] = _model_map(value)
        else:
            raise ConfigError(f"{key}: unknown key")
    config = Config(**sections)
    _check(config)
    return config


def nano_usd(usd: float) -> int:
    """Nano-USD of an amount in the file: the decimal that was written, not its nearest float."""
    return int((Decimal(str(usd)) * 10**9).to_integral_value())


def secret(reference: str) -> str | None:
    """Resolve a provider key: the text itself, or for `env:NAME` its value; None if unset."""
    if reference.startswith(ENV_PREFIX):
        return os.environ.get(reference[len(ENV_PREFIX) :]) or None
    return reference or None


def base_url(config: Config, port: int = 0) -> str | None:
    """Where browsers find the gateway, without a slash at the end; None where nobody can tell.

    `dashboard.public_url`, or else the listener's own address; `port` is the one that was taken
    where the configuration leaves that open.
    """
    server = config.server
    if config.dashboard.public_url:
        return config.dashboard.public_url
    port = port or server.port
    if server.unix_socket or not port:
        return None
    host = socket.gethostname() if server.host in ("0.0.0.0", "::", "") else server.host
    scheme = "https" if server.tls_cert else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _convert(value: object, kind: type[S], path: str) -> S:
    try:
        return msgspec.convert(_environ(value, path), kind, strict=True)
    except msgspec.ValidationError as exc:
        raise ConfigError(_tell(str(exc), path)) from None


def _tell(message: str, path: str) -> str:
    match = _AT.match(message)
    what, inner = (match["what"], match["path"] or "") if match else (message, "")
    full = path + inner
    if unknown := _UNKNOWN.match(what):
        return f"{full}.{unknown['key']}: unknown key"
    if missing := _MISSING.match(what):
        return f"{full}.{missing['key']}: is required"
    return f"{full}: {what[:1].lower()}{what[1:]}"


def _environ(value: object, path: str) -> object:
    """Replace `env:NAME` in plain string values; provider keys are resolved when used."""
    if not isinstance(value, dict):
        return value
    out = {}
    for key, item in value.items():
        if isinstance(item, str) and item.startswith(ENV_PREFIX):
            name = item[len(ENV_PREFIX) :]
            if name not in os.environ:
                raise ConfigError(f"{path}.{key}: environment variable {name} is not set")
            item = os.environ[name]
        out[key] = item
    return out


def _named(value: object, kind: type[S], path: str, *, lower: bool = True) -> dict[str, S]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a table of tables")
    for name in value:
        if lower and not _NAME.match(name):
            raise ConfigError(
                f"{path}.{name}: a name has only a-z 0-9 . _ - and at most 64 of them"
            )
    return {name: _convert(item, kind, f"{path}.{name}") for name, item in value.items()}


def _model_map(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ConfigError("model_map: expected a table")
    for pattern, model in value.items():
        if not isinstance(model, str):
            raise ConfigError(f'model_map."{pattern}": expected a model name')
    return value


def _check(config: Config) -> None:
    server = config.server
    if bool(server.tls_cert) != bool(server.tls_key):
        raise ConfigError("server.tls_key: tls_cert and tls_key go together")
    for name, provider in config.providers.items():
        _check_provider(name, provider)
    for alias, model in config.models.items():
        _check_model(config, alias, model)
    _check_admin(config.admin)
    _check_dashboard(config.dashboard)
    _check_alerts(config.alerts)
    families: tuple[Family, ...] = ("openai", "anthropic", "gemini")
    for family in families:
        owner = getattr(config.byok, family)
        known = config.providers.get(owner)
        if known is not None and known.format not in (family, "all"):
            raise ConfigError(f"byok.{family}: provider {owner} speaks {known.format}")


def _check_admin(admin: Admin) -> None:
    if admin.token and len(admin.token) < ADMIN_TOKEN_CHARS_MIN:
        raise ConfigError(
            f"admin.token: expected at least {ADMIN_TOKEN_CHARS_MIN} characters, such as "
            "`openssl rand -hex 32` gives"
        )


def _check_dashboard(dashboard: Dashboard) -> None:
    if not dashboard.public_url:
        return
    match = _ORIGIN.fullmatch(dashboard.public_url)
    if match is None or int(match["port"] or 1) not in range(1, 65536):
        raise ConfigError("dashboard.public_url: expected http(s)://host[:port], without a path")


def _check_alerts(alerts: Alerts) -> None:
    if alerts.smtp_host and not (alerts.mail_from and alerts.mail_to):
        raise ConfigError("alerts.mail_to: smtp_host wants mail_from and mail_to")
    if bool(alerts.smtp_user) != bool(alerts.smtp_password):
        raise ConfigError("alerts.smtp_password: smtp_user and smtp_password go together")
    if alerts.smtp_user and alerts.smtp_security == "none":
        raise ConfigError("alerts.smtp_security: a password is not sent without TLS")
    if alerts.webhook_url and not re.fullmatch(r"https?://[\x21-\x7e]+", alerts.webhook_url):
        raise ConfigError("alerts.webhook_url: expected http(s)://host[:port][/path]")


def _check_provider(name: str, provider: Provider) -> None:
    where = f"providers.{name}.base_url"
    if provider.base_url == BUILTIN_DEMO:
        if provider.format != "all":
            raise ConfigError(f'providers.{name}.format: the built-in demo speaks "all"')
        return
    if provider.format == "all":
        raise ConfigError(f'providers.{name}.format: "all" is for {BUILTIN_DEMO} only')
    try:
        url = urlsplit(provider.base_url)
        port = url.port
    except ValueError:
        # Its text quotes what it took for a port, which may be a password without its host.
        raise ConfigError(f"{where}: not a URL: its host or its port cannot be read") from None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise ConfigError(f"{where}: expected http(s)://host[:port][/path]")
    if url.query or url.fragment or url.username or url.password:
        raise ConfigError(f"{where}: takes no query, fragment or credentials")
    if not re.fullmatch(r"[\x21-\x7e]+", provider.base_url):
        raise ConfigError(f"{where}: has spaces or characters outside ASCII")


def _check_model(config: Config, alias: str, model: Model) -> None:
    for index, target in enumerate(model.targets):
        provider, slash, name = target.partition("/")
        where = f"models.{alias}.targets[{index}]"
        if not slash or not name:
            raise ConfigError(f'{where}: expected "provider/model", got "{target}"')
        if provider not in config.providers:
            raise ConfigError(f"{where}: no provider {provider} is configured")
    if model.weights and len(model.weights) != len(model.targets):
        raise ConfigError(f"models.{alias}.weights: one for each target")
    if model.weights and model.strategy != "weighted":
        raise ConfigError(f'models.{alias}.weights: only with strategy = "weighted"')
