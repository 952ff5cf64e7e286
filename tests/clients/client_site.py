"""A gateway as a user runs it, and what its clients can see of a call's receipt.

`serving(directory)` starts two processes: the demo upstream, which stands for OpenAI, Anthropic
and Google, and the gateway before it. `Caller` is who calls: a key of the gateway, or a provider
key of the caller's own. `Watch` is given to an SDK's own HTTP client as an event hook and keeps
the heads of the answers; it changes nothing about them. `Site.settled` reads the receipt that such
a head names and holds it to what the SDK reported.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import orjson

ROOT = Path(__file__).resolve().parents[2]
START_S = 20.0
ADMIN_TOKEN = "admin-token-of-these-tests"
STOP_S = 10.0
FINAL_S = 2.0

Name = Literal["gateway_key", "own_key", "gateway_key_of_another"]
Family = Literal["openai", "anthropic", "gemini"]

PROVIDERS: dict[Family, str] = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}

# What the tiers stand for at each provider. The demo answers to every model name and the prices
# are those of the catalog.
MODELS: dict[Family, str] = {
    "openai": "gpt-4o",
    "anthropic": "claude-opus-4-5",
    "gemini": "gemini-2.5-pro",
}
# An alias whose first target speaks the family's format: what comes back is the provider's own.
ALIASES: dict[Family, str] = {"openai": "premium", "anthropic": "opus", "gemini": "pro"}
TIERS = ("budget", "basic", "normal", "premium")

_CONFIG = """
[server]
port = 0

[store]
path = "{directory}/gateway.db"

[admin]
token = "{admin_token}"

[providers.openai]
format = "openai"
base_url = "{upstream}/v1"
keys = ["sk-of-the-server"]

[providers.anthropic]
format = "anthropic"
base_url = "{upstream}/anthropic/v1"
keys = ["sk-ant-of-the-server"]

[providers.google]
format = "gemini"
base_url = "{upstream}/gemini/v1beta"
keys = ["AIza-of-the-server"]

# A server that speaks chat completions alone, and shows its thoughts.
[providers.moonshot]
format = "openai"
base_url = "{upstream}/v1"
keys = ["sk-of-the-server"]

[providers.demo]
format = "all"
base_url = "builtin:demo"

[models.budget]
targets = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash-lite"]

[models.basic]
targets = ["openai/gpt-4.1-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash"]

[models.normal]
targets = ["openai/gpt-4.1", "anthropic/claude-sonnet-4-5", "google/gemini-2.5-pro"]

[models.premium]
targets = ["openai/gpt-4o", "anthropic/claude-opus-4-5", "google/gemini-2.5-pro"]

[models.opus]
targets = ["anthropic/claude-opus-4-5"]

[models.pro]
targets = ["google/gemini-2.5-pro"]

[model_map]
"aibadgr/budget" = "budget"
"aibadgr/basic" = "basic"
"aibadgr/normal" = "normal"
"aibadgr/premium" = "premium"
"""


class Caller(msgspec.Struct, frozen=True):
    """Who calls. A gateway key asks for a tier by its alias, an own key for a provider's model."""

    name: Name
    key: str

    @property
    def billed(self) -> bool:
        return self.name != "own_key"

    def model(self, family: Family) -> str:
        return ALIASES[family] if self.billed else MODELS[family]


class Used(msgspec.Struct, frozen=True):
    """Usage as a receipt counts it: everything in, everything out."""

    input: int
    output: int


class Answer(msgspec.Struct, frozen=True):
    """The head of one answer, as it came to an SDK."""

    status: int
    headers: Mapping[str, str]
    path: str


class Watch:
    """Keeps the heads of the answers that one client gets."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def see(self, response: httpx.Response) -> None:
        self.answers.append(
            Answer(response.status_code, response.headers, response.request.url.path)
        )

    async def see_async(self, response: httpx.Response) -> None:
        self.see(response)

    @property
    def last(self) -> Answer:
        return self.answers[-1]


class Site:
    """A running gateway and the upstream behind it."""

    def __init__(self, gateway: str, upstream: str, keys: Mapping[Name, str]) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self._keys = keys
        self._http = httpx.Client(base_url=gateway, trust_env=False, timeout=10)

    def close(self) -> None:
        self._http.close()

    def caller(self, name: Name) -> Caller:
        return Caller(name, self._keys[name])

    def admin(self, path: str, **arguments: object) -> Any:
        """What the admin API answers to a POST."""
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        answer = self._http.post(f"/admin/v1{path}", headers=headers, json=arguments)
        assert answer.status_code == 200, answer.text
        return orjson.loads(answer.content)

    def receipts(self, key: str) -> list[dict[str, Any]]:
        """The receipts of a key's user, newest first."""
        answer = self.get("/v1/receipts?limit=100", key)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = orjson.loads(answer.content)["data"]
        return found

    def get(self, path: str, key: str | None) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return self._http.get(path, headers=headers)

    def receipt(self, headers: Mapping[str, str], caller: Caller) -> dict[str, Any]:
        """The receipt that an answer's head names, read once and at once."""
        receipt_id = headers["x-badgr-receipt-id"]
        url = headers["x-aibadgr-receipt-url"]
        assert url == f"/v1/receipts/{receipt_id}"
        assert headers["x-request-id"] == receipt_id
        answer = self.get(url, caller.key)
        assert answer.status_code == 200, answer.text
        receipt: dict[str, Any] = orjson.loads(answer.content)
        assert receipt["id"] == receipt_id
        return receipt

    def final(self, headers: Mapping[str, str], caller: Caller) -> dict[str, Any]:
        """The receipt once it is final, for a client that left before the last byte of an answer.

        Only then it may take a moment: what ends the request is that the client has gone.
        """
        deadline = time.monotonic() + FINAL_S
        while (receipt := self.receipt(headers, caller))["status"] == "in_progress":
            assert time.monotonic() < deadline, receipt
        return receipt

    def newest(self, caller: Caller) -> dict[str, str]:
        """The head of a caller's last answer as far as it names a receipt, for a client that
        shows none of it."""
        answer = self.get("/v1/receipts?limit=1", caller.key)
        receipt_id: str = orjson.loads(answer.content)["data"][0]["id"]
        return {
            "x-badgr-receipt-id": receipt_id,
            "x-aibadgr-receipt-url": f"/v1/receipts/{receipt_id}",
            "x-request-id": receipt_id,
        }

    def settled(
        self,
        headers: Mapping[str, str],
        caller: Caller,
        used: Used,
        *,
        family: Family,
        stream: bool = False,
    ) -> dict[str, Any]:
        """The receipt of a call that went well, held to what its client was told of the usage."""
        receipt = self.receipt(headers, caller)
        assert (receipt["status"], receipt["failure"]) == ("succeeded", None)
        assert receipt["http_status"] == 200
        assert receipt["request"]["stream"] is stream
        assert receipt["route"]["provider"] == PROVIDERS[family]
        assert receipt["route"]["translated"] is False
        usage = receipt["usage"]
        assert Used(usage["input_tokens"], usage["output_tokens"]) == used
        assert usage["total_tokens"] == used.input + used.output
        assert usage["source"] == "reported"
        assert receipt["cost"]["nano_usd"] > 0
        assert receipt["cost"]["billed"] is caller.billed
        assert re.fullmatch(r"[0-9a-f]{64}", receipt["integrity"]["hash"])
        return receipt


# What no two answers of the demo have in common.
_OF_ONE_ANSWER = frozenset(
    (
        *("id", "created", "created_at", "completed_at", "response_id", "item_id", "call_id"),
        *("tool_call_id", "request_id", "obfuscation", "create_time", "sdk_http_response"),
    )
)


def steady(value: Any) -> Any:
    """A parsed answer without what differs between two answers to one question."""
    if isinstance(value, Mapping):
        return {
            name: None if name in _OF_ONE_ANSWER else steady(item) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [steady(item) for item in value]
    return value


def environment() -> dict[str, str]:
    """This process's environment without what would lead a client or a server elsewhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.search(
            r"proxy$|^(OPENAI|ANTHROPIC|GEMINI|GOOGLE|LANGCHAIN|LANGSMITH)_", name, re.I
        )
    }
    return {**kept, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Site]:
    """Both processes, with users and keys made by the command; stopped in the end."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(
            process(directory, "upstream", ["gateway.demo", "--port", "0"])
        )
        config = directory / "config.toml"
        config.write_text(
            _CONFIG.format(directory=directory, upstream=upstream, admin_token=ADMIN_TOKEN)
        )
        keys: dict[Name, str] = {
            "gateway_key": _key_of(directory, "ann"),
            "gateway_key_of_another": _key_of(directory, "bob"),
            "own_key": "sk-of-the-caller",
        }
        gateway = stack.enter_context(
            process(directory, "gateway", ["gateway", "serve", "--config", str(config)])
        )
        yield stack.enter_context(contextlib.closing(Site(gateway, upstream, keys)))


def _key_of(directory: Path, user: str) -> str:
    command(directory, "users", "create", user)
    command(directory, "credit", user, "1000.00")
    limits = ("--rpm", "1000000", "--tpm", "1000000000", "--concurrent", "1000")
    key: str = command(directory, "keys", "create", "--user", user, *limits)["key"]
    return key


def command(directory: Path, *words: str) -> Any:
    """What the gateway's command answers to these words, where `config.toml` stands."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "--config", "config.toml", "--json", *words],
        cwd=directory,
        env=environment(),
        capture_output=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return orjson.loads(done.stdout)


@contextlib.contextmanager
def process(directory: Path, name: str, module: list[str]) -> Iterator[str]:
    """A server process; gives the URL that it says it listens on."""
    log = directory / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=directory,
            env=environment(),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        try:
            code = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        assert code == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait for the line that names the address; a server that ends before is told with its log."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = re.search(r"on (https?://[0-9.]+:\d+)\n", log.read_text())
        if found is not None:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.02)  # another process's log: there is nothing to await
    raise AssertionError(f"no server: {log.read_text()}")
