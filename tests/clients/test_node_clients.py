"""Node's `openai` and `@anthropic-ai/sdk`, unmodified, and its built-in `fetch`.

`node/ask.mjs` makes one call and prints what came. The packages are those of `package-lock.json`,
installed into a temporary directory; where Node is absent, or its packages cannot be had, the
tests are skipped.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from client_site import Caller, Family, Site, Used, environment

pytestmark = pytest.mark.clients

NODE = Path(__file__).parent / "node"
INSTALL_S = 120
CALL_S = 30
SAID = 'You said: "Grüße aus Köln 🙂".'
TOOL = 'get_forecast {"city":"demo city","days":1}'


class Call(msgspec.Struct, frozen=True):
    client: str
    name: str
    family: Family
    opens: str

    @property
    def stream(self) -> bool:
        return self.name.endswith("_stream")

    def __str__(self) -> str:
        return f"{self.client}-{self.name}"


CALLS = [
    Call("openai", "chat", "openai", SAID),
    Call("openai", "chat_stream", "openai", SAID),
    Call("openai", "chat_tool", "openai", TOOL),
    Call("openai", "responses", "openai", SAID),
    Call("openai", "responses_stream", "openai", SAID),
    Call("openai", "embeddings", "openai", "1536"),
    Call("anthropic", "messages", "anthropic", SAID),
    Call("anthropic", "messages_stream", "anthropic", SAID),
    Call("anthropic", "messages_tool", "anthropic", TOOL),
    Call("fetch", "chat", "openai", SAID),
    Call("fetch", "chat_stream", "openai", SAID),
]


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which the packages are installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    directory = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(NODE / name, directory)
    try:
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=directory,
            env=dict(os.environ),
            capture_output=True,
            encoding="utf-8",
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci took more than {INSTALL_S} s")
    if done.returncode != 0 and any(f" {code}" in done.stderr for code in ("E404", "E403")):
        pytest.fail(done.stderr[-2000:])
    if done.returncode != 0:
        pytest.skip(f"npm ci: {done.stderr[-300:]}")
    return directory


def ask(modules: Path, base_url: str, key: str, model: str, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        ["node", str(NODE / "ask.mjs"), *words],
        env={
            **environment(),
            **{"BASE_URL": base_url, "API_KEY": key, "MODEL": model, "MODULES": str(modules)},
        },
        capture_output=True,
        timeout=CALL_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    said: dict[str, Any] = orjson.loads(done.stdout)
    return said


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_call_answers_and_leaves_its_receipt(
    modules: Path, site: Site, caller: Caller, call: Call
) -> None:
    model = caller.model(call.family)
    said = ask(modules, site.gateway, caller.key, model, call.client, call.name)
    assert said["text"].startswith(call.opens)
    used = Used(said["input"], said["output"])
    site.settled(said["headers"], caller, used, family=call.family, stream=call.stream)


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_models_are_listed(modules: Path, site: Site, caller: Caller, client: str) -> None:
    names = ask(modules, site.gateway, caller.key, "", client, "models")["names"]
    assert ("premium" in names) is caller.billed
    assert ("gpt-4o" if client == "openai" else "claude-opus-4-5") in names


@pytest.mark.parametrize(
    ("client", "call"), [("openai", "chat"), ("anthropic", "messages"), ("fetch", "chat")]
)
def test_a_refusal_is_an_error_of_the_right_kind(
    modules: Path, site: Site, gateway_key: Caller, client: str, call: str
) -> None:
    key = gateway_key.key
    unknown = ask(modules, site.gateway, key, "no-such-model", client, call)["error"]
    assert unknown["status"] == 400
    assert unknown["message"].endswith("Unknown model pricing: no-such-model")
    wrong = ask(modules, site.gateway, key + "x", "premium", client, call)["error"]
    assert (wrong["status"], wrong["type"]) == (401, "authentication_error")
    limited = ask(modules, site.gateway, key, "demo+status=429", client, call)["error"]
    assert limited["status"] == 429
    if client != "fetch":
        assert unknown["name"] == "BadRequestError"
        assert wrong["name"] == "AuthenticationError"
        assert limited["name"] == "RateLimitError"


def test_the_lock_names_packages_and_no_place_to_get_them() -> None:
    lock = (NODE / "package-lock.json").read_text()
    assert '"integrity"' in lock
    assert "resolved" not in lock
    assert "://" not in lock
