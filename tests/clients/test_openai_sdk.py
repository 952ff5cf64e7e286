"""The Python `openai` package, unmodified: chat, responses, embeddings, models, errors."""

import asyncio
import struct
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pydantic
import pytest
from client_site import Caller, Site, Used, Watch, steady
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
)
from openai.types.responses import FunctionToolParam

pytestmark = pytest.mark.clients

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Grüße aus Köln 🙂"},
]
SAID = 'You said: "Grüße aus Köln 🙂".'
PARAMETERS: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "get_forecast", "parameters": PARAMETERS}}
]
RESPONSE_TOOLS: list[FunctionToolParam] = [
    {"type": "function", "name": "get_forecast", "parameters": PARAMETERS, "strict": True}
]
ASKING_FOR_TOOL = "Use get_forecast for Köln"
ARGUMENTS = '{"city":"demo city","days":1}'


class Forecast(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.fixture
def client(site: Site, caller: Caller, watch: Watch) -> Iterator[OpenAI]:
    http = openai.DefaultHttpxClient(event_hooks={"response": [watch.see]})
    with OpenAI(base_url=f"{site.gateway}/v1", api_key=caller.key, http_client=http) as made:
        yield made


@pytest.fixture
async def async_client(site: Site, caller: Caller, watch: Watch) -> AsyncIterator[AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [watch.see_async]})
    base_url = f"{site.gateway}/v1"
    async with AsyncOpenAI(base_url=base_url, api_key=caller.key, http_client=http) as made:
        yield made


@pytest.fixture
def direct(site: Site) -> Iterator[OpenAI]:
    """The same package at the upstream itself."""
    with OpenAI(base_url=f"{site.upstream}/v1", api_key="sk-of-the-caller") as made:
        yield made


def chat_used(usage: Any) -> Used:
    return Used(usage.prompt_tokens, usage.completion_tokens)


def response_used(usage: Any) -> Used:
    return Used(usage.input_tokens, usage.output_tokens)


# Chat completions


def test_a_chat_completion_is_what_the_provider_answers(
    client: OpenAI, direct: OpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    answer = client.chat.completions.create(model=caller.model("openai"), messages=MESSAGES)
    plain = direct.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert steady(answer.to_dict()) == steady(plain.to_dict())
    assert (answer.choices[0].message.content or "").startswith(SAID)
    assert answer._request_id == watch.last.headers["x-badgr-receipt-id"]
    assert answer.usage is not None
    site.settled(watch.last.headers, caller, chat_used(answer.usage), family="openai")


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_chat_stream_is_what_the_provider_streams(
    client: OpenAI,
    direct: OpenAI,
    site: Site,
    caller: Caller,
    watch: Watch,
    include_usage: bool,
) -> None:
    asked = {"include_usage": True} if include_usage else None

    def chunks(sdk: OpenAI, model: str) -> list[Any]:
        stream: Any = sdk.chat.completions.create(
            model=model,
            messages=MESSAGES,
            stream=True,
            stream_options=asked if asked is not None else openai.omit,  # type: ignore[arg-type]
        )
        return [chunk.model_dump() for chunk in stream]

    got = chunks(client, caller.model("openai"))
    plain = chunks(direct, "gpt-4o")
    # Nothing of the usage that the gateway asks for on its own account may be seen.
    assert steady(got) == steady(plain)
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in got[:-1]
                   if chunk["choices"])  # fmt: skip
    assert text.startswith(SAID)
    whole = direct.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert whole.usage is not None
    receipt = site.settled(
        watch.last.headers, caller, chat_used(whole.usage), family="openai", stream=True
    )
    if include_usage:
        assert got[-1]["choices"] == []
        assert got[-1]["usage"]["total_tokens"] == receipt["usage"]["total_tokens"]
    else:
        assert got[-1]["choices"][0]["finish_reason"] == "stop"
        assert all(chunk["usage"] is None for chunk in got)


def test_the_streaming_helper_ends_with_the_whole_completion(
    client: OpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    with client.chat.completions.stream(
        model=caller.model("openai"), messages=MESSAGES, stream_options={"include_usage": True}
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.done" in kinds
    assert (final.choices[0].message.content or "").startswith(SAID)
    used = chat_used(final.usage)
    site.settled(watch.last.headers, caller, used, family="openai", stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_with_its_arguments(
    client: OpenAI, site: Site, caller: Caller, watch: Watch, stream: bool
) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": ASKING_FOR_TOOL}]
    model = caller.model("openai")
    if stream:
        options: Any = {"include_usage": True}
        with client.chat.completions.stream(
            model=model, messages=messages, tools=TOOLS, stream_options=options
        ) as events:
            final: Any = events.get_final_completion()
    else:
        final = client.chat.completions.create(model=model, messages=messages, tools=TOOLS)
    choice = final.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_forecast", ARGUMENTS)
    used = chat_used(final.usage)
    site.settled(watch.last.headers, caller, used, family="openai", stream=stream)

    turn: Any = [
        *messages,
        {
            "role": "assistant",
            "tool_calls": [call.model_dump(exclude={"function": {"parsed_arguments"}})],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "Rain, 12 degrees."},
    ]
    answer = client.chat.completions.create(model=model, messages=turn, tools=TOOLS)
    assert "Rain, 12 degrees." in (answer.choices[0].message.content or "")


def test_a_structured_output_is_parsed(
    client: OpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    answer = client.chat.completions.parse(
        model=caller.model("openai"), messages=MESSAGES, response_format=Forecast
    )
    assert answer.choices[0].message.parsed == Forecast(city="demo city", degrees=1)
    site.settled(watch.last.headers, caller, chat_used(answer.usage), family="openai")


def test_the_raw_response_shows_the_receipt(client: OpenAI, site: Site, caller: Caller) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=caller.model("openai"), messages=MESSAGES
    )
    usage = raw.parse().usage
    assert usage is not None
    receipt = site.settled(raw.headers, caller, chat_used(usage), family="openai")
    assert raw.request_id == receipt["id"]
    assert raw.headers["x-upstream-request-id"] == receipt["route"]["upstream_request_id"]
    assert receipt["request"]["model"] == caller.model("openai")
    assert receipt["route"]["model"] == "gpt-4o"
    assert "set-cookie" not in raw.headers


def test_the_raw_streaming_response_shows_the_receipt_before_the_first_event(
    client: OpenAI, site: Site, caller: Caller
) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=caller.model("openai"), messages=MESSAGES, stream=True
    ) as raw:
        running = site.receipt(raw.headers, caller)
        text = "".join(raw.iter_text())
    assert running["status"] == "in_progress"
    assert text.endswith("data: [DONE]\n\n")
    assert site.receipt(raw.headers, caller)["status"] == "succeeded"


async def test_the_asynchronous_client_gets_the_same_completion_and_stream(
    async_client: AsyncOpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    model = caller.model("openai")
    answer = await async_client.chat.completions.create(model=model, messages=MESSAGES)
    assert answer.usage is not None
    used = chat_used(answer.usage)
    site.settled(watch.last.headers, caller, used, family="openai")
    text = ""
    async for chunk in await async_client.chat.completions.create(
        model=model, messages=MESSAGES, stream=True
    ):
        text += chunk.choices[0].delta.content or ""
    assert text == answer.choices[0].message.content
    site.settled(watch.last.headers, caller, used, family="openai", stream=True)


async def test_a_hundred_asynchronous_calls_at_once_get_their_own_answers(
    async_client: AsyncOpenAI, caller: Caller, watch: Watch
) -> None:
    async def ask(number: int) -> str:
        stream = number % 2 == 0
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": f"n{number}!"}]
        model = caller.model("openai")
        if not stream:
            answer = await async_client.chat.completions.create(model=model, messages=messages)
            return answer.choices[0].message.content or ""
        events = await async_client.chat.completions.create(
            model=model, messages=messages, stream=True
        )
        return "".join([event.choices[0].delta.content or "" async for event in events])

    said = await asyncio.gather(*(ask(number) for number in range(100)))
    for number, text in enumerate(said):
        assert text.startswith(f'You said: "n{number}!".')
    ids = {answer.headers["x-badgr-receipt-id"] for answer in watch.answers}
    assert len(ids) == 100


# Responses


def test_a_response_is_what_the_provider_answers(
    client: OpenAI, direct: OpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    answer = client.responses.create(model=caller.model("openai"), input="Grüße aus Köln 🙂")
    plain = direct.responses.create(model="gpt-4o", input="Grüße aus Köln 🙂")
    assert steady(answer.to_dict()) == steady(plain.to_dict())
    assert answer.output_text.startswith(SAID)
    site.settled(watch.last.headers, caller, response_used(answer.usage), family="openai")


def test_a_response_stream_has_the_provider_s_events(
    client: OpenAI, direct: OpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    def events(sdk: OpenAI, model: str) -> list[Any]:
        return list(sdk.responses.create(model=model, input="hello there", stream=True))

    got = events(client, caller.model("openai"))
    plain = events(direct, "gpt-4o")
    assert [steady(one.to_dict()) for one in got] == [steady(one.to_dict()) for one in plain]
    assert got[-1].type == "response.completed"
    used = response_used(got[-1].response.usage)
    site.settled(watch.last.headers, caller, used, family="openai", stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_calls_a_tool(
    client: OpenAI, site: Site, caller: Caller, watch: Watch, stream: bool
) -> None:
    model = caller.model("openai")
    if stream:
        with client.responses.stream(
            model=model, input=ASKING_FOR_TOOL, tools=RESPONSE_TOOLS
        ) as events:
            answer: Any = events.get_final_response()
    else:
        answer = client.responses.create(model=model, input=ASKING_FOR_TOOL, tools=RESPONSE_TOOLS)
    (call,) = answer.output
    assert (call.type, call.name, call.arguments) == ("function_call", "get_forecast", ARGUMENTS)
    used = response_used(answer.usage)
    site.settled(watch.last.headers, caller, used, family="openai", stream=stream)

    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    after = client.responses.create(
        model=model, previous_response_id=answer.id, input=[result], tools=RESPONSE_TOOLS
    )
    assert "Rain." in after.output_text
    assert client.responses.retrieve(after.id).output_text == after.output_text
    assert client.responses.input_tokens.count(model=model, input="hello").input_tokens > 0
    client.responses.delete(after.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(after.id)


def test_a_stored_response_is_its_maker_s_alone(site: Site, gateway_key: Caller) -> None:
    # The provider sees one account, the server's: only the gateway can tell its callers apart.
    another = site.caller("gateway_key_of_another")
    base_url = f"{site.gateway}/v1"
    with (
        OpenAI(base_url=base_url, api_key=gateway_key.key) as maker,
        OpenAI(base_url=base_url, api_key=another.key) as stranger,
    ):
        made = maker.responses.create(model="premium", input="a secret")
        with pytest.raises(openai.NotFoundError):
            stranger.responses.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            stranger.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            stranger.responses.create(model="premium", input="?", previous_response_id=made.id)
        assert maker.responses.retrieve(made.id).id == made.id


def test_a_structured_response_is_parsed(
    client: OpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    answer = client.responses.parse(
        model=caller.model("openai"), input="hello", text_format=Forecast
    )
    assert answer.output_parsed == Forecast(city="demo city", degrees=1)
    site.settled(watch.last.headers, caller, response_used(answer.usage), family="openai")


# Embeddings and models


def test_embeddings_come_as_the_provider_sends_them_in_either_encoding(
    client: OpenAI, direct: OpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    # The package asks for base64 by itself and decodes it.
    texts = ["one text", "another text"]
    model = "text-embedding-3-small"
    answer = client.embeddings.create(model=model, input=texts)
    plain = direct.embeddings.create(model=model, input=texts)
    assert answer.to_dict() == plain.to_dict()
    assert [len(one.embedding) for one in answer.data] == [1536, 1536]
    used = Used(answer.usage.prompt_tokens, 0)
    site.settled(watch.last.headers, caller, used, family="openai")
    packed = client.embeddings.create(model=model, input=texts, encoding_format="base64")
    values = struct.unpack("<1536f", b64decode(str(packed.data[0].embedding)))
    assert list(values) == answer.data[0].embedding


async def test_the_asynchronous_client_gets_embeddings(
    async_client: AsyncOpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    answer = await async_client.embeddings.create(model="text-embedding-3-large", input="a text")
    assert len(answer.data[0].embedding) == 1536
    used = Used(answer.usage.prompt_tokens, 0)
    site.settled(watch.last.headers, caller, used, family="openai")


def test_models_are_listed_with_their_prices(client: OpenAI, caller: Caller) -> None:
    found = {model.id: model for model in client.models.list()}
    assert ("premium" in found) is caller.billed
    assert found["gpt-4o"].owned_by == "openai"
    one = client.models.retrieve(caller.model("openai"))
    extra = one.model_extra or {}
    assert extra["pricing"]["input_per_mtok"] == "2.50"
    assert extra["context_length"] == 128_000


def test_a_base_url_without_version_or_with_api_before_it_works(site: Site, caller: Caller) -> None:
    for suffix in ("", "/v1", "/api/v1", "/v1/v1", "/v1/openai"):
        with OpenAI(base_url=f"{site.gateway}{suffix}", api_key=caller.key) as sdk:
            if suffix:
                answer = sdk.chat.completions.create(
                    model=caller.model("openai") if suffix != "/v1/openai" else "gpt-4o",
                    messages=MESSAGES,
                )
                assert (answer.choices[0].message.content or "").startswith(SAID)
            else:
                with pytest.raises(openai.NotFoundError, match="No such"):
                    sdk.chat.completions.create(model=caller.model("openai"), messages=MESSAGES)


# Errors


def test_a_mistyped_gateway_key_is_an_authentication_error(site: Site, watch: Watch) -> None:
    http = openai.DefaultHttpxClient(event_hooks={"response": [watch.see]})
    key = site.caller("gateway_key").key
    mistyped = key[:-1] + ("a" if key[-1] != "a" else "b")
    with (
        OpenAI(base_url=f"{site.gateway}/v1", api_key=mistyped, http_client=http) as sdk,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        sdk.chat.completions.create(model="premium", messages=MESSAGES)
    error = caught.value
    assert (error.status_code, error.code) == (401, "invalid_api_key")
    assert mistyped not in str(error)
    assert len(watch.answers) == 1


def test_an_unknown_model_is_a_bad_request_with_a_receipt(
    site: Site, gateway_key: Caller, watch: Watch
) -> None:
    http = openai.DefaultHttpxClient(event_hooks={"response": [watch.see]})
    with (
        OpenAI(base_url=f"{site.gateway}/v1", api_key=gateway_key.key, http_client=http) as sdk,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        sdk.chat.completions.create(model="no-such-model", messages=MESSAGES)
    error = caught.value
    assert (error.code, error.param) == ("unknown_model_pricing", "model")
    assert isinstance(error.body, dict)
    assert error.body["message"] == "Unknown model pricing: no-such-model"
    receipt = site.receipt(watch.last.headers, gateway_key)
    assert receipt["status"] == "failed"
    assert receipt["failure"]["stage"] == "routing"
    assert receipt["cost"]["nano_usd"] == 0


def test_an_error_of_the_provider_reaches_the_caller_as_it_is(
    client: OpenAI, direct: OpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    def refused(sdk: OpenAI, model: str) -> openai.BadRequestError:
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.chat.completions.create(model=model, messages=MESSAGES, temperature=99)
        return caught.value

    error = refused(client, caller.model("openai"))
    assert error.body == refused(direct, "gpt-4o").body
    receipt = site.receipt(watch.last.headers, caller)
    assert (receipt["status"], receipt["http_status"]) == ("failed", 400)
    assert receipt["failure"]["stage"] == "upstream_status"
    assert receipt["usage"]["source"] == "none"
    assert receipt["cost"]["nano_usd"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_the_package_waits_as_the_provider_says_and_tries_again(
    site: Site, caller: Caller, watch: Watch, stream: bool
) -> None:
    model = "demo+status=429+retry_after=1"
    if not caller.billed:
        model = "gpt-4o+status=429+retry_after=1"
    http = openai.DefaultHttpxClient(event_hooks={"response": [watch.see]})
    begun = time.monotonic()
    with (
        OpenAI(
            base_url=f"{site.gateway}/v1", api_key=caller.key, http_client=http, max_retries=1
        ) as sdk,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        sdk.chat.completions.create(model=model, messages=MESSAGES, stream=stream)
    # By itself the package tries again after half a second at the most.
    assert time.monotonic() - begun > 0.95
    assert caught.value.status_code == 429
    assert [answer.status for answer in watch.answers] == [429, 429]
    for answer in watch.answers:
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["retry-after-ms"] == "1000"
        receipt = site.receipt(answer.headers, caller)
        assert receipt["failure"]["stage"] == "upstream_status"
        assert receipt["cost"]["nano_usd"] == 0
    assert len({answer.headers["x-badgr-receipt-id"] for answer in watch.answers}) == 2


@pytest.mark.parametrize("ending", ["", "+stall=1000000"], ids=["then_ends", "then_hangs"])
def test_a_stream_that_the_provider_breaks_is_an_error_and_never_an_ending(
    client: OpenAI, site: Site, caller: Caller, watch: Watch, ending: str
) -> None:
    # The package leaves at the error, so whether the upstream ends or not must not matter.
    model = ("demo+error=5" if caller.billed else "gpt-4o+error=5") + ending
    got: list[ChatCompletionChunk] = []
    stream = client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError) as caught:
        got.extend(stream)
    stream.close()
    assert "failed while it was answering" in caught.value.message
    assert len(got) == 5
    assert all(chunk.choices[0].finish_reason is None for chunk in got)
    receipt = site.final(watch.last.headers, caller)
    assert receipt["status"] == "failed"
    assert receipt["failure"]["stage"] == "upstream_stream"


def test_a_stream_that_is_cut_is_an_error_and_never_an_ending(
    client: OpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    model = "demo+cut=2000" if caller.billed else "gpt-4o+cut=2000"
    got: list[ChatCompletionChunk] = []
    stream = client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError):
        got.extend(stream)
    assert got
    assert all(chunk.choices[0].finish_reason is None for chunk in got)
    receipt = site.receipt(watch.last.headers, caller)
    assert receipt["status"] == "failed"
    assert receipt["failure"]["stage"] == "upstream_stream"


# Everything else of the provider's


def test_files_are_uploaded_listed_and_read_back(
    client: OpenAI, site: Site, caller: Caller, watch: Watch
) -> None:
    content = b'{"custom_id":"1"}\n' * 100
    if caller.billed:
        # All keys of a gateway share one account at the provider, so files are not theirs to see.
        with pytest.raises(openai.BadRequestError, match="cannot be metered"):
            client.files.create(file=("in.jsonl", content), purpose="batch")
        return
    made = client.files.create(file=("in.jsonl", content), purpose="batch")
    assert (made.bytes, made.filename) == (len(content), "in.jsonl")
    receipt = site.receipt(watch.last.headers, caller)
    assert (receipt["status"], receipt["usage"]["source"]) == ("succeeded", "none")
    assert made.id in [one.id for one in client.files.list()]
    assert client.files.content(made.id).read() == content
    assert client.files.delete(made.id).deleted


def test_a_model_of_another_format_answers_in_openai_s(site: Site, gateway_key: Caller) -> None:
    with OpenAI(base_url=f"{site.gateway}/v1", api_key=gateway_key.key) as sdk:
        answer = sdk.chat.completions.create(model="claude-opus-4-5", messages=MESSAGES)
    assert answer.object == "chat.completion"
    assert answer.choices[0].finish_reason == "stop"
    receipt = site.receipt(site.newest(gateway_key), gateway_key)
    assert receipt["route"]["provider"] == "anthropic"
    assert receipt["route"]["translated"] is True
    assert answer.usage is not None
    assert receipt["usage"]["total_tokens"] == answer.usage.total_tokens
