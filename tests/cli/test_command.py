"""The command, as a user types it: what it prints, what it returns, and what it never does."""

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from gateway.accounts import keys, secret
from gateway.accounts.accounts import Accounts
from gateway.accounts.sign_in import SignIn, SignInRefused
from gateway.accounts.upstream_settings import UpstreamSettings
from gateway.accounts.vault import Vault
from gateway.admin import client, local_socket
from gateway.admin.verbs import Context
from gateway.cli import main
from gateway.ledger.entry import Entry, Failure, Opening
from gateway.ledger.ids import new_id
from gateway.ledger.writer import Ledger
from gateway.wire.neutral import Usage

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """\
[store]
path = "{store}"

[server]
drain_seconds = 7

[providers.demo]
format = "all"
base_url = "builtin:demo"

[providers.openai]
format = "openai"
base_url = "https://api.openai.com/v1"
keys = ["env:A_KEY_THAT_IS_NOT_SET"]
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Site(NamedTuple):
    """A directory with a configuration, and the command run on it."""

    directory: Path
    run: Callable[..., Done]

    @property
    def store(self) -> str:
        return str(self.directory / "gateway.db")

    def json(self, *words: str) -> dict[str, object]:
        done = self.run(*words, "--json")
        assert (done.code, done.err) == (0, ""), done
        return msgspec.json.decode(done.out, type=dict[str, object])


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    (tmp_path / "config.toml").write_text(CONFIG.format(store=tmp_path / "gateway.db"))

    def run(*words: str) -> Done:
        code = main(["--config", str(tmp_path / "config.toml"), *words])
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return Site(tmp_path, run)


def process(site: Site, words: Sequence[str], **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gateway", "--config", str(site.directory / "config.toml"), *words],
        capture_output=True,
        encoding="utf-8",
        cwd=site.directory,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environ,
        timeout=30,
        check=False,
    )


async def _opened(site: Site) -> Ledger:
    def fail(exc: BaseException) -> None:
        raise AssertionError(exc)

    key = secret.load(site.store)
    return await Ledger.open(site.store, secret=key, durability="full", on_fatal=fail)


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Context]:
    """The store open and its control socket answering, on a loop in a thread of its own."""
    started = threading.Event()
    found: list[Context] = []
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        ledger = await _opened(site)
        key = secret.load(site.store)
        accounts = await Accounts.load(ledger, key, "gw-")
        context = Context(
            accounts,
            ledger,
            key,
            await UpstreamSettings.load(ledger, Vault.load(site.store)),
            await SignIn.load(ledger, accounts, key),
        )
        runner = await local_socket.start(context, site.store + ".sock")
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        found.append(context)
        stop.append(lambda: loop.call_soon_threadsafe(over.set))
        started.set()
        await over.wait()
        await runner.cleanup()
        await ledger.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield found[0]
    finally:
        stop[0]()
        thread.join(10)


def write_receipts(site: Site, count: int, *, owner: str = "user:1", model: str = "m") -> list[str]:
    """Put `count` finished requests into the store; returns their ids, oldest first."""

    async def write() -> list[str]:
        ledger = await _opened(site)
        made = []
        for number in range(count):
            opening = Opening(
                id=new_id(),
                owner=owner,
                created_ms=1_700_000_000_000 + number * 1000,
                endpoint="/v1/chat/completions",
                format="openai_chat",
                model=model,
                stream=False,
                bytes=10,
            )
            failed = number % 2 == 1
            ledger.begin(opening)
            ledger.finish(
                Entry(
                    opening=opening,
                    status="failed" if failed else "succeeded",
                    http_status=503 if failed else 200,
                    failure=Failure("routing", "upstream_error", "x") if failed else None,
                    provider="demo",
                    usage=Usage(input_tokens=3, output_tokens=4),
                    usage_source="reported",
                    cost_nano_usd=105_000,
                )
            )
            made.append(opening.id)
        await ledger.close()
        return made

    return asyncio.run(write())


# Users and keys


def test_a_new_admin_gets_a_link_and_nobody_else_does(site: Site) -> None:
    made = site.json("users", "create", "root", "--admin")
    link = made["sign_in_link"]
    assert isinstance(link, dict)
    assert link["url"] == f"http://127.0.0.1:8000/dashboard/welcome#{link['token']}"
    assert "sign_in_link" not in site.json("users", "create", "ann")
    shown = site.run("users", "create", "boss", "--admin").out.splitlines()
    assert shown[0] == "user boss created (id 3)"
    assert "    http://127.0.0.1:8000/dashboard/welcome#" in shown[2]


def test_without_pages_a_new_admin_is_made_all_the_same(site: Site) -> None:
    with (site.directory / "config.toml").open("a") as file:
        file.write("\n[dashboard]\nenabled = false\n")
    assert "sign_in_link" not in site.json("users", "create", "root", "--admin")
    done = site.run("users", "link", "root")
    assert (done.code, done.out) == (1, "")
    assert "dashboard.enabled" in done.err


def test_a_link_that_the_command_made_is_taken_by_the_server(site: Site) -> None:
    site.run("users", "create", "ann", "--email", "ann@example.org")
    link = site.json("users", "link", "ann")
    with serving(site) as context:
        where = "192.0.2.1"
        before = str(link["token"])
        later = str(site.json("users", "link", "ann")["token"])

        async def enter(token: str) -> str:
            return await context.sign_in.use_link(
                token, "correct horse battery", None, where, lifetime_ms=10**6
            )

        with pytest.raises(SignInRefused):
            on_the_loop(context, enter(before))
        session = on_the_loop(context, enter(later))
        assert context.sign_in.session(session) is not None
        shown = site.run("users", "end-sessions", "ann").out
        assert shown == "user ann was signed out in 1 place\n"
        assert context.sign_in.session(session) is None
    assert site.run("users", "end-sessions", "ann").out.endswith(" 0 places\n")


def on_the_loop(context: Context, work: Coroutine[Any, Any, str]) -> str:
    """Run it where the context lives."""
    return asyncio.run_coroutine_threadsafe(work, context.ledger._loop).result(10)


def test_a_user_and_a_key_are_made_listed_and_revoked_without_a_server(site: Site) -> None:
    assert site.json("users", "create", "ann", "--email", "a@b", "--admin")["id"] == 1
    made = site.json(
        *("keys", "create", "--user", "ann", "--name", "ci", "--rpm", "5", "--tpm", "6"),
        *("--concurrent", "7", "--models", "a, b", "--expires", "2999-01-31T12:00+01:00"),
    )
    assert keys.check("gw-", str(made["key"])) == "ok"
    listed = site.run("keys", "list").out
    assert "2999-01-31 11:00" in listed
    assert "a,b" in listed
    assert str(made["hint"]) in listed
    assert str(made["key"])[7:] not in listed
    assert "active" in listed
    assert "is revoked" in site.run("keys", "revoke", str(made["id"])).out
    assert "revoked" in site.run("keys", "list", "--user", "ann").out
    row = site.run("users", "list").out.splitlines()[1].split()
    assert row[:5] == ["1", "ann", "a@b", "yes", "active"]


def test_the_key_is_printed_once_with_a_word_that_it_will_not_be_again(site: Site) -> None:
    site.run("users", "create", "ann")
    done = site.run("keys", "create", "--user", "ann")
    words = done.out.split()
    assert keys.check("gw-", words[words.index("key") + 1]) == "ok"
    assert "only time" in done.out


def test_options_stand_before_or_after_the_verb(site: Site) -> None:
    site.run("users", "create", "ann")
    config = str(site.directory / "config.toml")
    listing = site.run("--json", "users", "list").out
    assert msgspec.json.decode(listing)["object"] == "list"
    for words in (
        ["users", "list", "--json", "--config", config],
        ["users", "--json", "--config", config, "list"],
        ["--json", "--config", config, "users", "list"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *words],
            capture_output=True,
            encoding="utf-8",
            cwd="/",
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, listing, "")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["users", "suspend", "nobody"], "there is no user 'nobody'"),
        (["users", "create", "a\nb"], "name: "),
        (["keys", "create", "--user", "nobody"], "there is no user 'nobody'"),
        (["keys", "create", "--user", "ann", "--rpm", "0"], "rpm: "),
        (["keys", "create", "--user", "ann", "--expires", "2001-01-01"], "expires: is in the past"),
        (["keys", "revoke", "key_none"], "there is no key 'key_none'"),
        (["keys", "list", "--user", "nobody"], "there is no user 'nobody'"),
        (["receipts", "show", "none"], "there is no receipt 'none'"),
        (["receipts", "list", "--limit", "0"], "limit"),
        (["receipts", "list", "--after", "none"], "there is no receipt 'none'"),
    ],
)
@pytest.mark.parametrize("served", [False, True])
def test_a_refusal_is_one_line_and_exit_code_1_with_a_server_and_without(
    site: Site, words: list[str], why: str, served: bool
) -> None:
    site.run("users", "create", "ann")
    with serving(site) if served else contextlib.nullcontext():
        done = site.run(*words)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("gateway: ")
    assert why in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["users"],
        ["explode"],
        ["users", "create"],
        ["keys", "create"],
        ["keys", "create", "--user", "a", "--rpm", "many"],
        ["keys", "create", "--user", "a", "--models", "a,,b"],
        ["keys", "create", "--user", "a", "--expires", "soon"],
        ["keys", "create", "--user", "a", "--expires", "d"],
        ["keys", "create", "--user", "a", "--expires", "99999999999999999999d"],
        ["receipts", "list", "--status", "odd"],
        ["receipts", "list", "--user", "a", "--owner", "b"],
        ["receipts", "export", "--format", "xml"],
        ["receipts", "export", "--format", "csv", "--json"],
    ],
)
def test_wrong_usage_is_exit_code_2_and_touches_nothing(site: Site, words: list[str]) -> None:
    done = site.run(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert [path.name for path in site.directory.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    "words",
    [["users", "list"], ["keys", "list"], ["receipts", "verify"], ["receipts", "export"]],
)
def test_reading_refuses_a_store_that_is_not_there_and_makes_none(
    site: Site, words: list[str]
) -> None:
    done = site.run(*words)
    assert done.code == 1
    assert done.err == f"gateway: there is no store at {site.store} (store.path) yet\n"
    assert [path.name for path in site.directory.iterdir()] == ["config.toml"]


def test_no_failure_ends_in_a_traceback(site: Site) -> None:
    config = site.directory / "config.toml"
    good = config.read_text()
    for broken in ("[store", "[store]\npath = 7", '[store]\npath = "/nowhere/at/all.db"'):
        config.write_text(broken)
        done = process(site, ["users", "create", "ann"])
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
    config.write_text(good)
    Path(site.store).write_bytes(b"not a ledger at all, whatever it is" * 100)
    for words in (["users", "create", "ann"], ["receipts", "verify"], ["receipts", "export"]):
        done = process(site, words, GATEWAY_SECRET="00" * 32)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert done.stderr.startswith("gateway: ")
        assert done.stderr.count("\n") == 1


def test_commands_given_at_once_wait_for_each_other_and_all_succeed(site: Site) -> None:
    config = str(site.directory / "config.toml")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "gateway", "--config", config, "users", "create", f"u{number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for number in range(3)
    ]
    ended = [(*child.communicate(timeout=30), child.returncode) for child in started]
    assert [(err, code) for _, err, code in ended] == [("", 0)] * 3
    listed = msgspec.convert(site.json("users", "list")["data"], list[dict[str, object]])
    assert {user["name"] for user in listed} == {"u0", "u1", "u2"}


# With a server


def test_a_verb_reaches_the_running_server_and_takes_effect_there_at_once(site: Site) -> None:
    with serving(site) as context:
        site.run("users", "create", "ann")
        made = site.json("keys", "create", "--user", "ann")
        text = str(made["key"]).encode()
        assert context.accounts.identify(text, context.clock_ms()) is not None
        site.run("keys", "revoke", str(made["id"]))
        assert context.accounts.identify(text, context.clock_ms()) is None
        assert context.accounts.why_refused(text, context.clock_ms()) == "revoked"
    # And it was written: the command now opens the store itself and finds it.
    assert "revoked" in site.run("keys", "list").out


def test_a_server_that_died_leaves_no_obstacle(site: Site) -> None:
    with serving(site):
        pass
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(site.store + ".sock")
    assert site.run("users", "create", "ann").code == 0


def test_a_locked_store_without_a_socket_is_a_clear_refusal(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BUSY_SECONDS", 0.1)
    with serving(site):
        os.unlink(site.store + ".sock")
        done = site.run("users", "create", "ann")
    assert done.code == 1
    assert "in use by another gateway process" in done.err


def test_the_socket_may_be_put_elsewhere(site: Site) -> None:
    with serving(site) as context:
        moved = site.directory / "c.sock"
        os.rename(site.store + ".sock", moved)
        with (site.directory / "config.toml").open("a") as config:
            config.write(f'\n[admin]\nsocket = "{moved}"\n')
        assert site.run("users", "create", "ann").code == 0
        assert [user.name for user in context.accounts.list_users()] == ["ann"]


# Receipts


def test_receipts_are_shown_listed_in_pages_and_filtered(site: Site) -> None:
    site.run("users", "create", "ann")
    made = write_receipts(site, 5)
    other = write_receipts(site, 1, owner="byok:abc", model="evil\x1b[2J")
    shown = site.json("receipts", "show", made[1].upper())
    assert shown["id"] == made[1]
    assert shown["http_status"] == 503
    text = site.run("receipts", "show", made[1]).out
    assert "failure.stage" in text
    assert "cost.amount" in text

    def ids(*words: str) -> list[str]:
        data = msgspec.convert(
            site.json("receipts", "list", *words)["data"], list[dict[str, object]]
        )
        return [str(receipt["id"]) for receipt in data]

    newest_first = (made + other)[::-1]
    assert ids() == newest_first
    assert ids("--limit", "2") == newest_first[:2]
    assert ids("--limit", "2", "--after", newest_first[1]) == newest_first[2:4]
    assert ids("--user", "ann") == made[::-1]
    assert ids("--owner", "byok:abc") == other
    assert ids("--status", "failed", "--model", "m") == [made[3], made[1]]
    page = site.run("receipts", "list", "--limit", "3")
    assert f"--after {newest_first[2]}" in page.out
    assert "\x1b" not in page.out
    assert "0.000105" in page.out
    assert "--after" not in site.run("receipts", "list", "--limit", "6").out


def test_a_request_still_running_is_shown_as_such(site: Site) -> None:
    with serving(site) as context:
        opening = Opening(
            new_id(),
            "user:1",
            context.clock_ms(),
            "/v1/messages",
            "anthropic_messages",
            "m",
            True,
            9,
        )
        context.ledger.in_flight[opening.id] = opening
        assert site.json("receipts", "show", opening.id)["status"] == "in_progress"
        del context.ledger.in_flight[opening.id]


def test_verify_passes_a_whole_chain_and_names_a_changed_record(site: Site) -> None:
    made = write_receipts(site, 4)
    for served in (False, True):
        with serving(site) if served else contextlib.nullcontext():
            done = site.run("receipts", "verify")
            assert (done.code, done.err) == (0, "")
            assert done.out == "4 receipts verified: none changed, removed or added\n"
    tamper(site, "UPDATE receipts SET model = 'cheap' WHERE seq = 3")
    done = site.run("receipts", "verify")
    assert done.code == 1
    assert f"receipt 3 ({made[2]}) was changed" in done.out
    result = msgspec.json.decode(site.run("receipts", "verify", "--json").out)
    assert (result["ok"], result["problem"], result["sequence"]) == (False, "changed", 3)


def test_verify_names_a_cut_off_end_though_the_store_no_longer_opens(site: Site) -> None:
    write_receipts(site, 4)
    tamper(site, "DELETE FROM receipts WHERE seq = 4")
    assert site.run("users", "list").code == 1
    done = site.run("receipts", "verify")
    assert done.code == 1
    assert "receipt 4 was removed" in done.out


def test_verify_asks_the_server_where_the_secret_is_the_servers_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_receipts(site, 2)
    kept = Path(site.store + ".secret")
    with serving(site):
        text = kept.read_text()
        kept.unlink()
        assert site.run("receipts", "verify").code == 0
    assert "is missing but the store" in site.run("receipts", "verify").err
    monkeypatch.setenv("GATEWAY_SECRET", text)
    assert site.run("receipts", "verify").code == 0


def tamper(site: Site, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(site.store)) as conn, conn:
        triggers = conn.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            conn.execute(f"DROP TRIGGER {name}")
        conn.execute(statement)


@pytest.mark.parametrize("served", [False, True])
def test_export_writes_every_receipt_oldest_first(site: Site, served: bool) -> None:
    made = write_receipts(site, 3)
    with serving(site) if served else contextlib.nullcontext():
        lines = process(site, ["receipts", "export"]).stdout.splitlines()
        assert [msgspec.json.decode(line)["id"] for line in lines] == made
        table = process(site, ["receipts", "export", "--format", "csv"]).stdout.splitlines()
        assert table[0].startswith("sequence,id,")
        assert [row.split(",")[1] for row in table[1:]] == made
        array = msgspec.json.decode(process(site, ["receipts", "export", "--json"]).stdout)
        assert [receipt["id"] for receipt in array] == made
        since = ["receipts", "export", "--since", "2023-11-14T22:13:21"]
        assert len(process(site, since).stdout.splitlines()) == 2
        assert process(site, ["receipts", "export", "--since", "1d"]).stdout == ""


def test_export_to_a_file_and_to_a_pipe_are_the_same_bytes(site: Site) -> None:
    write_receipts(site, 3)
    target = site.directory / "out.csv"
    words = [
        "--config",
        str(site.directory / "config.toml"),
        *("receipts", "export"),
        "--format=csv",
    ]
    command = [sys.executable, "-m", "gateway", *words]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with target.open("wb") as file:
        subprocess.run(command, stdout=file, env=environ, timeout=30, check=True)
    piped = subprocess.run(command, stdout=subprocess.PIPE, env=environ, timeout=30, check=True)
    assert target.read_bytes() == piped.stdout
    assert piped.stdout.count(b"\r\n") == 4


def test_a_reader_that_has_had_enough_is_no_error(site: Site) -> None:
    write_receipts(site, 300)
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "gateway", "receipts", "export"),
            *("--config", str(site.directory / "config.toml")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(30) == 0


# Secrets


def test_what_the_command_makes_is_private(site: Site) -> None:
    before = os.umask(0)
    try:
        site.run("users", "create", "ann")
    finally:
        os.umask(before)
    for path in site.directory.iterdir():
        if path.name != "config.toml":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_key_reaches_standard_output_and_no_file(site: Site) -> None:
    site.run("users", "create", "ann")
    text = str(site.json("keys", "create", "--user", "ann")["key"])
    for path in site.directory.iterdir():
        assert text[7:].encode() not in path.read_bytes(), path


# The rest


def test_check_config_says_what_a_file_amounts_to(site: Site) -> None:
    done = site.run("check-config")
    assert done.code == 0
    assert "0 of 1 set (inactive)" in done.out
    providers = msgspec.convert(site.json("check-config")["providers"], list[dict[str, object]])
    assert {str(one["name"]): one["active"] for one in providers} == {"demo": True, "openai": False}
    (site.directory / "config.toml").write_text("[server]\nprot = 1\n")
    done = site.run("check-config")
    assert (done.code, done.err) == (1, "gateway: server.prot: unknown key\n")


def test_help_and_unit_are_quick_because_they_import_little(site: Site) -> None:
    script = (
        "import sys; from gateway.cli import main; code = main(sys.argv[1:]);"
        " heavy = {'aiohttp', 'asyncio', 'sqlite3', 'uvloop', 'aiosqlite'} & set(sys.modules);"
        " sys.exit(f'imported {heavy}' if heavy else code)"
    )
    config = str(site.directory / "config.toml")
    for words in (["--help"], ["keys", "create", "--help"], ["unit", "--config", config]):
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            capture_output=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


def test_an_interrupt_ends_the_command_quietly(site: Site) -> None:
    # A socket that accepts and never answers stands for a server that is busy.
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as busy:
        busy.bind(site.store + ".sock")
        busy.listen(2)
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "gateway", "users", "list"),
                *("--config", str(site.directory / "config.toml")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ) as child:
            busy.accept()[0].close()  # the probe
            asked, _ = busy.accept()  # the verb: the command is waiting for its answer now
            asked.recv(4096)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=30)
            asked.close()
    assert (child.returncode, out, err) == (130, b"", b"")
