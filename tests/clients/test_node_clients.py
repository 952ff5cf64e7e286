"""Node's `openai` and `@anthropic-ai/sdk`, unmodified, and its built-in `fetch`.

`node_packages.py` installs them; where Node is absent, or its packages cannot be had, the tests
are skipped.
"""

from pathlib import Path

import msgspec
import pytest
from client_site import Caller, Family, Site, Used
from node_packages import NODE, ask

pytestmark = pytest.mark.clients

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
