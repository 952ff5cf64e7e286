"""The Python `anthropic` package, unmodified: messages, helpers, tools, thinking, counting."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam, RawMessageStreamEvent, ToolParam
from client_site import Caller, Site, Used, Watch, steady

pytestmark = pytest.mark.clients

MESSAGES: list[MessageParam] = [{"role": "user", "content": "Grüße aus Köln 🙂"}]
SAID = 'You said: "Grüße aus Köln 🙂".'
TOOLS: list[ToolParam] = [
    {
        "name": "get_forecast",
        "description": "The weather to come",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    }
]
ASKING_FOR_TOOL: list[MessageParam] = [{"role": "user", "content": "Use get_forecast for Köln"}]
# Long enough for the demo's prompt cache, which keeps nothing shorter than 1024 tokens.
LONG_TEXT = "These are the rules of the house, told once more. " * 200


@pytest.fixture
def client(site: Site, caller: Caller, watch: Watch) -> Iterator[Anthropic]:
    http = anthropic.DefaultHttpxClient(event_hooks={"response": [watch.see]})
    with Anthropic(base_url=site.gateway, api_key=caller.key, http_client=http) as made:
        yield made


@pytest.fixture
async def async_client(site: Site, caller: Caller, watch: Watch) -> AsyncIterator[AsyncAnthropic]:
    http = anthropic.DefaultAsyncHttpxClient(event_hooks={"response": [watch.see_async]})
    async with AsyncAnthropic(base_url=site.gateway, api_key=caller.key, http_client=http) as made:
        yield made


@pytest.fixture
def direct(site: Site) -> Iterator[Anthropic]:
    """The same package at the upstream itself."""
    with Anthropic(base_url=f"{site.upstream}/anthropic", api_key="sk-of-the-caller") as made:
        yield made


def used(usage: Any) -> Used:
    """What a receipt says of a usage report: Anthropic counts cached tokens apart."""
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return Used(usage.input_tokens + cached, usage.output_tokens)


def test_a_message_is_what_the_provider_answers(
    client: Anthropic, direct: Anthropic, site: Site, caller: Caller, watch: Watch
) -> None:
    model = caller.model("anthropic")
    answer = client.messages.create(model=model, max_tokens=300, messages=MESSAGES)
    plain = direct.messages.create(model="claude-opus-4-5", max_tokens=300, messages=MESSAGES)
    assert steady(answer.to_dict()) == steady(plain.to_dict())
    assert answer.content[0].type == "text"
    assert answer.content[0].text.startswith(SAID)
    assert answer._request_id == watch.last.headers["x-badgr-receipt-id"]
    site.settled(watch.last.headers, caller, used(answer.usage), family="anthropic")


def test_a_message_stream_has_the_provider_s_events(
    client: Anthropic, direct: Anthropic, site: Site, caller: Caller, watch: Watch
) -> None:
    def events(sdk: Anthropic, model: str) -> list[Any]:
        return list(
            sdk.messages.create(model=model, max_tokens=300, messages=MESSAGES, stream=True)
        )

    got = events(client, caller.model("anthropic"))
    plain = events(direct, "claude-opus-4-5")
    assert [steady(one.to_dict()) for one in got] == [steady(one.to_dict()) for one in plain]
    assert (got[0].type, got[-1].type) == ("message_start", "message_stop")
    receipt_used = Used(got[0].message.usage.input_tokens, got[-2].usage.output_tokens)
    site.settled(watch.last.headers, caller, receipt_used, family="anthropic", stream=True)


def test_the_streaming_helper_ends_with_the_whole_message(
    client: Anthropic, site: Site, caller: Caller, watch: Watch
) -> None:
    model = caller.model("anthropic")
    with client.messages.stream(model=model, max_tokens=300, messages=MESSAGES) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text.startswith(SAID)
    assert final.stop_reason == "end_turn"
    assert final.content[0].type == "text"
    assert final.content[0].text == text
    site.settled(watch.last.headers, caller, used(final.usage), family="anthropic", stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_taken_back(
    client: Anthropic, site: Site, caller: Caller, watch: Watch, stream: bool
) -> None:
    asked: Any = {
        "model": caller.model("anthropic"),
        "max_tokens": 300,
        "messages": ASKING_FOR_TOOL,
        "tools": TOOLS,
    }
    if stream:
        with client.messages.stream(**asked) as events:
            answer: Any = events.get_final_message()
    else:
        answer = client.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    (call,) = answer.content
    assert (call.name, call.input) == ("get_forecast", {"city": "demo city", "days": 1})
    site.settled(watch.last.headers, caller, used(answer.usage), family="anthropic", stream=stream)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain, 12 degrees."}
    asked["messages"] = [
        *ASKING_FOR_TOOL,
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    after = client.messages.create(**asked)
    assert "Rain, 12 degrees." in after.content[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_and_its_signature_arrive_untouched(
    client: Anthropic, direct: Anthropic, site: Site, caller: Caller, watch: Watch, stream: bool
) -> None:
    def ask(sdk: Anthropic, model: str) -> Any:
        asked: Any = {
            "model": model,
            "max_tokens": 2000,
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "messages": MESSAGES,
        }
        if not stream:
            return sdk.messages.create(**asked)
        with sdk.messages.stream(**asked) as events:
            return events.get_final_message()

    answer = ask(client, caller.model("anthropic"))
    plain = ask(direct, "claude-opus-4-5")
    thought, text = answer.content
    assert (thought.type, text.type) == ("thinking", "text")
    assert thought.signature
    assert (thought.thinking, thought.signature, text.text) == (
        plain.content[0].thinking,
        plain.content[0].signature,
        plain.content[1].text,
    )
    site.settled(watch.last.headers, caller, used(answer.usage), family="anthropic", stream=stream)


def test_cached_tokens_are_told_apart_on_the_receipt(
    client: Anthropic, site: Site, caller: Caller, watch: Watch
) -> None:
    # A prompt of this caller's own, so that what is cached depends on no other test.
    system: Any = [
        {
            "type": "text",
            "text": f"{caller.name}: {LONG_TEXT}",
            "cache_control": {"type": "ephemeral"},
        }
    ]
    seen = []
    for _ in range(2):
        answer = client.messages.create(
            model=caller.model("anthropic"), max_tokens=50, system=system, messages=MESSAGES
        )
        receipt = site.settled(watch.last.headers, caller, used(answer.usage), family="anthropic")
        usage = receipt["usage"]
        assert usage["cache_read_input_tokens"] == answer.usage.cache_read_input_tokens
        assert usage["cache_creation_input_tokens"] == answer.usage.cache_creation_input_tokens
        seen.append((answer.usage.cache_creation_input_tokens or 0, receipt["cost"]["nano_usd"]))
    (written, dear), (written_again, cheap) = seen
    assert written > 1024
    assert written_again == 0
    assert cheap < dear


def test_tokens_are_counted_free_of_charge(
    client: Anthropic, direct: Anthropic, site: Site, caller: Caller, watch: Watch
) -> None:
    counted = client.messages.count_tokens(model=caller.model("anthropic"), messages=MESSAGES)
    plain = direct.messages.count_tokens(model="claude-opus-4-5", messages=MESSAGES)
    assert counted.input_tokens == plain.input_tokens > 0
    receipt = site.receipt(watch.last.headers, caller)
    assert receipt["status"] == "succeeded"
    assert not receipt["cost"]["nano_usd"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_beta_interface_and_its_query_work(
    client: Anthropic, site: Site, caller: Caller, watch: Watch, stream: bool
) -> None:
    asked: Any = {
        "model": caller.model("anthropic"),
        "max_tokens": 300,
        "messages": MESSAGES,
        "betas": ["interleaved-thinking-2025-05-14"],
        "extra_query": {"beta": "true"},
    }
    if stream:
        with client.beta.messages.stream(**asked) as events:
            answer: Any = events.get_final_message()
    else:
        answer = client.beta.messages.create(**asked)
    assert answer.content[0].text.startswith(SAID)
    site.settled(watch.last.headers, caller, used(answer.usage), family="anthropic", stream=stream)


async def test_the_asynchronous_client_gets_the_same_message_and_stream(
    async_client: AsyncAnthropic, site: Site, caller: Caller, watch: Watch
) -> None:
    model = caller.model("anthropic")
    answer = await async_client.messages.create(model=model, max_tokens=300, messages=MESSAGES)
    site.settled(watch.last.headers, caller, used(answer.usage), family="anthropic")
    async with async_client.messages.stream(
        model=model, max_tokens=300, messages=MESSAGES
    ) as stream:
        final = await stream.get_final_message()
    assert steady(final.to_dict()["content"]) == steady(answer.to_dict()["content"])
    site.settled(watch.last.headers, caller, used(final.usage), family="anthropic", stream=True)


@pytest.mark.parametrize("suffix", ["", "/v1", "/api", "/api/v1"])
def test_the_base_url_may_carry_a_version_and_the_key_may_be_a_bearer_token(
    site: Site, caller: Caller, watch: Watch, suffix: str
) -> None:
    http = anthropic.DefaultHttpxClient(event_hooks={"response": [watch.see]})
    with Anthropic(
        base_url=f"{site.gateway}{suffix}", auth_token=caller.key, api_key=None, http_client=http
    ) as sdk:
        answer = sdk.messages.create(
            model=caller.model("anthropic"), max_tokens=300, messages=MESSAGES
        )
    assert answer.content[0].type == "text"
    assert answer.content[0].text.startswith(SAID)
    site.settled(watch.last.headers, caller, used(answer.usage), family="anthropic")


def test_the_raw_response_shows_the_receipt(client: Anthropic, site: Site, caller: Caller) -> None:
    raw = client.messages.with_raw_response.create(
        model=caller.model("anthropic"), max_tokens=300, messages=MESSAGES
    )
    answer = raw.parse()
    receipt = site.settled(raw.headers, caller, used(answer.usage), family="anthropic")
    assert raw.headers["request-id"] == receipt["id"]
    assert raw.headers["x-upstream-request-id"] == receipt["route"]["upstream_request_id"]
    assert receipt["request"]["model"] == caller.model("anthropic")
    assert receipt["route"]["model"] == "claude-opus-4-5"


def test_models_are_listed_over_all_pages(client: Anthropic, caller: Caller) -> None:
    found = {model.id: model for model in client.models.list(limit=5)}
    assert len(found) > 5
    assert ("premium" in found) is caller.billed
    assert found["claude-opus-4-5"].display_name == "Claude Opus 4.5"
    assert client.models.retrieve(caller.model("anthropic")).type == "model"


def test_a_mistyped_gateway_key_is_an_authentication_error(site: Site) -> None:
    key = site.caller("gateway_key").key
    mistyped = key[:-1] + ("a" if key[-1] != "a" else "b")
    with (
        Anthropic(base_url=site.gateway, api_key=mistyped) as sdk,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        sdk.messages.create(model="premium", max_tokens=10, messages=MESSAGES)
    assert mistyped not in str(caught.value)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "authentication_error"


def test_an_unknown_model_is_a_bad_request_with_a_receipt(
    site: Site, gateway_key: Caller, watch: Watch
) -> None:
    http = anthropic.DefaultHttpxClient(event_hooks={"response": [watch.see]})
    with (
        Anthropic(base_url=site.gateway, api_key=gateway_key.key, http_client=http) as sdk,
        pytest.raises(anthropic.BadRequestError) as caught,
    ):
        sdk.messages.create(model="no-such-model", max_tokens=10, messages=MESSAGES)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["message"] == "Unknown model pricing: no-such-model"
    receipt = site.receipt(watch.last.headers, gateway_key)
    assert caught.value.body["request_id"] == receipt["id"]
    assert receipt["failure"]["stage"] == "routing"


def test_an_error_of_the_provider_reaches_the_caller_as_it_is(
    client: Anthropic, direct: Anthropic, site: Site, caller: Caller, watch: Watch
) -> None:
    def refused(sdk: Anthropic, model: str) -> Any:
        with pytest.raises(anthropic.BadRequestError) as caught:
            sdk.messages.create(model=model, max_tokens=9, messages=[])
        return caught.value.body

    body = refused(client, caller.model("anthropic"))
    assert steady(body) == steady(refused(direct, "claude-opus-4-5"))
    receipt = site.receipt(watch.last.headers, caller)
    assert (receipt["status"], receipt["http_status"]) == ("failed", 400)


@pytest.mark.parametrize("stream", [False, True])
def test_the_package_tries_again_where_the_provider_is_overloaded(
    site: Site, caller: Caller, watch: Watch, stream: bool
) -> None:
    switches = "+status=529+retry_after=0"
    model = f"demo{switches}" if caller.billed else f"claude-opus-4-5{switches}"
    http = anthropic.DefaultHttpxClient(event_hooks={"response": [watch.see]})
    with (
        Anthropic(
            base_url=site.gateway, api_key=caller.key, http_client=http, max_retries=1
        ) as sdk,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        sdk.messages.create(model=model, max_tokens=50, messages=MESSAGES, stream=stream)
    assert caught.value.status_code == 529
    assert [answer.status for answer in watch.answers] == [529, 529]
    for answer in watch.answers:
        assert site.receipt(answer.headers, caller)["failure"]["stage"] == "upstream_status"


@pytest.mark.parametrize("ending", ["", "+stall=1000000"], ids=["then_ends", "then_hangs"])
def test_a_stream_that_the_provider_breaks_is_an_error_and_never_an_ending(
    client: Anthropic, site: Site, caller: Caller, watch: Watch, ending: str
) -> None:
    model = ("demo+error=6" if caller.billed else "claude-opus-4-5+error=6") + ending
    got: list[RawMessageStreamEvent] = []
    stream = client.messages.create(model=model, max_tokens=300, messages=MESSAGES, stream=True)
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        got.extend(stream)
    stream.close()
    kinds = [event.type for event in got]
    assert kinds[0] == "message_start"
    assert "message_stop" not in kinds
    receipt = site.final(watch.last.headers, caller)
    assert receipt["status"] == "failed"
    assert receipt["failure"]["stage"] == "upstream_stream"
