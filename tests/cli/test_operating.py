"""Money, limits, providers and models from the command line, with a server and without one."""

import contextlib
import io
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from gateway.admin import show
from gateway.admin.verbs import VERBS
from gateway.cli import _parser, main

ROOT = Path(__file__).resolve().parents[2]
PROVIDER_KEY = "sk-provider-0123456789abcdefghij"

CONFIG = """\
[server]
port = {port}

[store]
path = "{store}"

[providers.demo]
format = "all"
base_url = "builtin:demo"
unmetered = true

[providers.openai]
format = "openai"
base_url = "https://api.openai.com/v1"
keys = ["env:A_KEY_THAT_IS_NOT_SET"]

[models.premium]
targets = ["openai/gpt-4o", "demo/demo"]
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Site:
    """A directory with a configuration, and the command run on it in processes of its own."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.config = directory / "config.toml"
        self.store = directory / "gateway.db"
        self.config.write_text(CONFIG.format(store=self.store, port=self.port))
        self.environ = os.environ | {"PYTHONPATH": str(ROOT), "JOURNAL_STREAM": "1:1"}

    def command(self, words: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "gateway", "--config", str(self.config), *words]

    def run(self, *words: str) -> Done:
        """In this process: starting one takes ten times as long as most verbs."""
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            code = main(["--config", str(self.config), *words])
        return Done(code, out.getvalue(), err.getvalue())

    def process(self, *words: str, typed: str = "") -> Done:
        """In a process of its own, with something on its standard input."""
        done = subprocess.run(
            self.command(words),
            input=typed,
            capture_output=True,
            encoding="utf-8",
            env=self.environ,
            timeout=30,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert (done.code, done.err) == (0, ""), done
        return msgspec.json.decode(done.out)

    @contextlib.contextmanager
    def serving(self) -> Iterator["subprocess.Popen[bytes]"]:
        """A server on this store; it ends well."""
        with subprocess.Popen(
            self.command(["serve"]), env=self.environ, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as server:  # fmt: skip
            try:
                self._wait(server)
                yield server
            finally:
                server.send_signal(signal.SIGTERM)
                _, err = server.communicate(timeout=30)
            assert server.returncode == 0, err

    def _wait(self, server: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end and server.poll() is None:
            with contextlib.suppress(OSError), self.open("/readyz") as answer:
                if answer.status == 200:
                    return
            time.sleep(0.02)  # polls another process, bounded above
        raise AssertionError("the server does not serve")

    def open(self, path: str, key: str = "", body: bytes | None = None) -> Any:
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body)
        asked.add_header("Content-Type", "application/json")
        if key:
            asked.add_header("Authorization", f"Bearer {key}")
        return urllib.request.urlopen(asked, timeout=10)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(params=["served", "alone"])
def either(request: pytest.FixtureRequest, site: Site) -> Iterator[Site]:
    """The command before a running server, and on the store itself."""
    with site.serving() if request.param == "served" else contextlib.nullcontext():
        yield site


# --- with a server and without ----------------------------------------------------------------


def test_credit_is_given_once_per_key_of_idempotency(either: Site) -> None:
    either.run("users", "create", "ann")
    first = either.json("credit", "ann", "10.00", "--idempotency-key", "k")
    assert (first["nano_usd"], first["balance"]["amount"]) == (10 * 10**9, "10.00")
    assert either.json("credit", "ann", "10.00", "--idempotency-key", "k") == first
    changed = either.run("credit", "ann", "10.01", "--idempotency-key", "k")
    assert (changed.code, changed.err.count("\n")) == (1, 1)
    assert "was used before" in changed.err
    shown = either.run("correct", "ann", "-0.000000001", "--reason", "a mistake")
    assert "-0.000000001 USD for ann: the balance is 9.999999999 USD" in shown.out
    assert "9.999999999" in either.run("users", "show", "ann").out
    check = either.run("ledger", "check")
    assert (check.code, check.err) == (0, "")
    assert "every balance is the sum of its entries" in check.out


def test_users_and_keys_are_changed_and_none_takes_a_limit_away(either: Site) -> None:
    either.run("users", "create", "ann")
    changed = either.json(
        "users", "set", "ann", "--rate-multiplier", "1.2", "--rpm", "5", "--daily-alert-usd", "2",
        "--email", "a@b.example", "--admin",
    )  # fmt: skip
    assert (changed["rate_multiplier"], changed["rpm"], changed["admin"]) == ("1.2", 5, True)
    cleared = either.json("users", "set", "ann", "--rpm", "none", "--email", "none", "--no-admin")
    assert (cleared["rpm"], cleared["email"], cleared["admin"]) == (None, None, False)
    assert cleared["daily_alert"]["amount"] == "2.00"
    key = either.json(
        "keys", "create", "--user", "ann", "--spend-cap", "5.00", "--on-disconnect", "drain"
    )
    assert (key["spend_cap"]["amount"], key["on_disconnect"]) == ("5.00", "drain")
    changed = either.json(
        "keys", "set", key["id"], "--spend-cap", "none", "--on-disconnect", "none", "--models", "a",
        "--expires", "30d", "--tpm", "9",
    )  # fmt: skip
    assert (changed["spend_cap"], changed["on_disconnect"]) == (None, None)
    assert (changed["models"], changed["tpm"]) == (["a"], 9)
    assert either.run("users", "suspend", "ann").code == 0
    assert "work again" in either.run("users", "resume", "ann").out
    assert either.json("keys", "list", "--user", "ann")["data"][0]["status"] == "active"


def test_codes_are_made_redeemed_once_and_listed_without_their_text(either: Site) -> None:
    either.run("users", "create", "ann")
    made = either.json("codes", "create", "5.00", "--count", "2", "--expires", "30d")["data"]
    text = made[0]["code"]
    assert either.json("codes", "redeem", text, "--user", "ann")["balance"]["amount"] == "5.00"
    again = either.run("codes", "redeem", text, "--user", "ann")
    assert (again.code, "redeemed before" in again.err) == (1, True)
    listed = either.run("codes", "list").out
    assert text[10:] not in listed
    assert listed.count("redeemed") == 1
    assert len(either.json("codes", "list", "--status", "active")["data"]) == 1
    assert "only time" in either.run("codes", "create", "1.00").out


def test_caps_are_set_listed_and_lifted(either: Site) -> None:
    either.run("users", "create", "ann")
    assert either.json("caps", "set", "ann", "premium", "0.05")["nano_usd"] == 50_000_000
    assert "0.05" in either.run("caps", "list", "ann").out
    assert "may cost anything" in either.run("caps", "set", "ann", "premium", "none").out
    assert either.json("caps", "list", "ann")["data"] == []


def test_a_provider_key_is_read_from_standard_input_and_shown_masked(either: Site) -> None:
    for words, typed in ((["-"], f"{PROVIDER_KEY}\n"), ([], PROVIDER_KEY[::-1])):
        done = either.process("providers", "add-key", "openai", *words, typed=typed)
        assert (done.code, done.err) == (0, "")
        assert PROVIDER_KEY[5:-5] not in done.out
    provider = next(
        one for one in either.json("providers", "list")["data"] if one["name"] == "openai"
    )
    states = {key["id"]: key["state"] for key in provider["keys"]}
    assert states.pop(None) == "no_value"
    assert list(states.values()) == ["usable", "usable"]
    assert provider["active"] is True
    one = next(iter(states))
    assert either.json("providers", "disable-key", one)["state"] == "disabled"
    assert either.json("providers", "enable-key", one)["state"] == "usable"
    assert either.json("providers", "rotate-master")["keys"] == 2
    assert either.json("providers", "remove-key", one)["deleted"] is True
    assert either.run("providers", "remove-key", one).code == 1
    text = either.run("providers", "list").out
    assert "env:A_KEY_THAT_IS_NOT_SET" in text
    assert PROVIDER_KEY[5:-5] not in text
    files = [path for path in either.store.parent.iterdir() if path.is_file()]
    assert not [path for path in files if PROVIDER_KEY.encode() in path.read_bytes()]


def test_providers_are_paused_and_resumed(either: Site) -> None:
    assert either.json("providers", "pause", "demo")["paused_by"] == "admin"
    assert "paused by admin" in either.run("providers", "list").out
    assert either.json("providers", "resume", "demo")["paused_by"] is None
    refused = either.run("providers", "pause", "nobody")
    assert (refused.code, "there is no provider 'nobody'" in refused.err) == (1, True)


def test_models_are_listed_shown_set_and_unset(either: Site) -> None:
    either.run("users", "create", "ann")  # reading makes no store
    shown = either.json("models", "show", "premium")
    assert [one["id"] for one in shown["targets"]] == ["openai/gpt-4o", "demo/demo"]
    assert (shown["alias"], shown["strategy"]) == (True, "failover")
    changed = either.json(
        "models", "set", "openai/gpt-4o", "--price", "input=1.00,output=2", "--multiplier", "1.5",
        "--max-output", "100", "--disable",
    )  # fmt: skip
    assert changed["price"] == {"input_per_mtok": "1.00", "output_per_mtok": "2"}
    assert (changed["multiplier"], changed["enabled"]) == ("1.5", False)
    assert changed["max_output_tokens"] == 100
    kept = either.json("models", "set", "openai/gpt-4o", "--enable", "--price", "none")
    assert (kept["enabled"], kept["multiplier"]) == (True, "1.5")
    assert kept["price"]["input_per_mtok"] == "2.50"
    assert len(either.json("models", "list", "--changed")["data"]) == 1
    assert "gpt-4o-mini" in either.run("models", "list", "--provider", "openai").out
    assert either.json("models", "unset", "openai/gpt-4o")["deleted"] is True
    assert either.run("models", "show", "no-such-model").code == 1


# --- with a server ----------------------------------------------------------------------------


def test_what_the_command_changes_holds_in_the_running_server_at_once(site: Site) -> None:
    chat = b'{"model":"demo","messages":[{"role":"user","content":"hello"}]}'
    with site.serving() as server:
        site.run("users", "create", "ann")
        key = site.json("keys", "create", "--user", "ann")["key"]
        assert site.process("credit", "ann", "1.00").code == 0
        with site.open("/v1/chat/completions", key, chat) as answer:
            assert answer.status == 200
        with site.open("/v1/account", key) as answer:
            account = msgspec.json.decode(answer.read())
        assert account["today"]["requests"] == 1
        assert site.json("usage", "--user", "ann")["total"]["requests"] == 1
        table = site.run("usage", "--by", "day,model", "--since", "1d").out
        assert "demo" in table
        assert "total" in table
        site.run("providers", "pause", "demo")
        with pytest.raises(urllib.error.HTTPError) as refused:
            site.open("/v1/chat/completions", key, chat)
        assert refused.value.code == 429
        refused.value.close()
        assert site.json("in-flight")["data"] == []
        site.config.write_text(site.config.read_text() + "\n[limits]\nrpm = 7\n")
        assert site.json("reload")["changed"] == ["limits.rpm"]
        with site.open("/v1/account", key) as answer:
            assert msgspec.json.decode(answer.read())["limits"]["rpm"] == 7
        site.config.write_text(site.config.read_text() + "\n[nonsense]\n")
        # A wrong file is told by whoever reads it first: here the command itself.
        assert site.run("reload").code == 1
        assert server.poll() is None
        with site.open("/healthz") as answer:
            assert answer.status == 200


# --- without a server -------------------------------------------------------------------------


def test_what_only_a_server_can_do_says_that_none_runs(site: Site) -> None:
    site.run("users", "create", "ann")
    for words in (["reload"], ["in-flight"]):
        done = site.run(*words)
        assert (done.code, done.out) == (1, "")
        assert done.err == "gateway: no server is running on this store\n"
    moved = site.run(
        "providers", "set", "mine", "--base-url", "https://1.1.1.1", "--format", "openai"
    )
    assert (moved.code, "while a server runs" in moved.err) == (1, True)


def test_books_that_were_changed_by_hand_are_told_and_exit_with_1(site: Site) -> None:
    site.run("users", "create", "ann")
    site.run("credit", "ann", "1.00")
    with contextlib.closing(sqlite3.connect(site.store)) as conn, conn:
        conn.execute("UPDATE balances SET nano_usd = nano_usd + 1 WHERE account = 1")
    done = site.run("ledger", "check")
    assert done.code == 1
    assert "WRONG: account 1" in done.out
    found = site.run("ledger", "check", "--json")
    assert found.code == 1
    assert msgspec.json.decode(found.out)["ok"] is False


@pytest.mark.parametrize(
    "words",
    [
        ["credit"], ["credit", "ann"], ["codes"], ["codes", "redeem", "x"], ["caps", "set", "ann"],
        ["correct", "ann", "1.00"], ["users", "set", "ann", "--rpm", "many"],
        ["keys", "set", "x", "--on-disconnect", "odd"], ["keys", "create", "--on-disconnect", "x"],
        ["models", "set", "gpt-4o"], ["models", "set", "openai/gpt-4o", "--price", "cheap"],
        ["models", "set", "a/b", "--enable", "--disable"], ["usage", "--since", "soon"],
        ["providers", "set", "x", "--format", "odd", "--base-url", "https://x"], ["ledger"],
    ],
)  # fmt: skip
def test_wrong_words_are_exit_code_2_and_touch_nothing(site: Site, words: list[str]) -> None:
    done = site.run(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert not site.store.exists()


def test_every_verb_can_be_typed_and_shown() -> None:
    assert set(show._SHOWN) == set(VERBS)
    assert typed() == set(VERBS) - {"providers.add_key", "receipts.verify", "ledger.check"}


def typed() -> set[str]:
    """The verbs of all leaves of the grammar; three are run by the command itself."""

    def leaves(parser: ArgumentParser) -> Iterator[str]:
        for action in parser._actions:
            if isinstance(action, _SubParsersAction):
                for child in action.choices.values():
                    yield from leaves(child)
        if verb := parser.get_default("verb"):
            yield verb

    return set(leaves(_parser()))
