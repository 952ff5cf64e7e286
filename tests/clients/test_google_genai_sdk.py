"""The Python `google-genai` package, unmodified, in the version of the API that it chooses."""

import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from client_site import Caller, Site, Used, Watch, steady
from google import genai
from google.genai import errors, types

pytestmark = pytest.mark.clients

SAID = 'You said: "Grüße aus Köln 🙂".'
CONTENTS = "Grüße aus Köln 🙂"
FORECAST = types.FunctionDeclaration(
    name="get_forecast",
    description="The weather to come",
    parameters=types.Schema(
        type=types.Type.OBJECT,
        properties={
            "city": types.Schema(type=types.Type.STRING),
            "days": types.Schema(type=types.Type.INTEGER),
        },
        required=["city", "days"],
    ),
)
CALLING = types.GenerateContentConfig(
    tools=[types.Tool(function_declarations=[FORECAST])],
    automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
)


def connect(base_url: str, key: str, watch: Watch, version: str | None = None) -> genai.Client:
    options = types.HttpOptions(
        base_url=base_url,
        api_version=version,
        client_args={"event_hooks": {"response": [watch.see]}},
        async_client_args={"event_hooks": {"response": [watch.see_async]}},
    )
    return genai.Client(api_key=key, http_options=options)


@pytest.fixture(params=[None, "v1beta"], ids=["default_version", "v1beta"])
def version(request: pytest.FixtureRequest) -> str | None:
    """The version that the package takes by itself, and the one that most examples name."""
    chosen: str | None = request.param
    return chosen


@pytest.fixture
def client(site: Site, caller: Caller, watch: Watch, version: str | None) -> Iterator[genai.Client]:
    with connect(site.gateway, caller.key, watch, version) as made:
        yield made


@pytest.fixture
def direct(site: Site) -> Iterator[genai.Client]:
    """The same package at the upstream itself."""
    with connect(f"{site.upstream}/gemini", "key-of-the-caller", Watch()) as made:
        yield made


def used(answer: Any) -> Used:
    """What a receipt says of a usage report: Gemini counts thoughts beside the candidates."""
    usage = answer.usage_metadata
    output = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    return Used(usage.prompt_token_count, output)


def dump(answer: Any) -> Any:
    return steady(answer.model_dump())


def test_content_is_what_the_provider_generates(
    client: genai.Client, direct: genai.Client, site: Site, caller: Caller, watch: Watch
) -> None:
    model = caller.model("gemini")
    answer = client.models.generate_content(model=model, contents=CONTENTS)
    plain = direct.models.generate_content(model=model, contents=CONTENTS)
    assert answer.text == plain.text
    assert (answer.text or "").startswith(SAID)
    assert answer.model_version == "gemini-2.5-pro"
    plain.model_version = answer.model_version
    assert dump(answer) == dump(plain)
    site.settled(watch.last.headers, caller, used(answer), family="gemini")


def test_a_content_stream_has_the_provider_s_chunks(
    client: genai.Client, direct: genai.Client, site: Site, caller: Caller, watch: Watch
) -> None:
    def chunks(sdk: genai.Client, model: str) -> list[Any]:
        return list(sdk.models.generate_content_stream(model=model, contents=CONTENTS))

    got = chunks(client, caller.model("gemini"))
    plain = chunks(direct, "gemini-2.5-pro")
    assert [dump(one) for one in got] == [dump(one) for one in plain]
    assert "".join(one.text or "" for one in got).startswith(SAID)
    assert got[-1].candidates[0].finish_reason is types.FinishReason.STOP
    site.settled(watch.last.headers, caller, used(got[-1]), family="gemini", stream=True)


def test_a_function_is_called_and_its_result_taken_back(
    client: genai.Client, site: Site, caller: Caller, watch: Watch
) -> None:
    model = caller.model("gemini")
    ask = "Use get_forecast for Köln"
    answer = client.models.generate_content(model=model, contents=ask, config=CALLING)
    assert answer.function_calls is not None
    (call,) = answer.function_calls
    assert (call.name, call.args) == ("get_forecast", {"city": "demo city", "days": 1})
    site.settled(watch.last.headers, caller, used(answer), family="gemini")
    assert answer.candidates is not None
    said = answer.candidates[0].content
    assert said is not None
    result = types.Part.from_function_response(
        name="get_forecast", response={"result": "Rain, 12 degrees."}
    )
    turn: Any = [
        types.Content(role="user", parts=[types.Part(text=ask)]),
        said,
        types.Content(role="user", parts=[result]),
    ]
    after = client.models.generate_content(model=model, contents=turn, config=CALLING)
    assert "Rain, 12 degrees." in (after.text or "")


def test_a_function_call_is_streamed(
    client: genai.Client, site: Site, caller: Caller, watch: Watch
) -> None:
    chunks = list(
        client.models.generate_content_stream(
            model=caller.model("gemini"), contents="Use get_forecast for Köln", config=CALLING
        )
    )
    calls = [call for one in chunks for call in one.function_calls or []]
    assert [(call.name, call.args) for call in calls] == [
        ("get_forecast", {"city": "demo city", "days": 1})
    ]
    site.settled(watch.last.headers, caller, used(chunks[-1]), family="gemini", stream=True)


def test_thoughts_are_counted_as_output(
    client: genai.Client, site: Site, caller: Caller, watch: Watch
) -> None:
    answer = client.models.generate_content(
        model=caller.model("gemini"),
        contents=CONTENTS,
        config=types.GenerateContentConfig(
            thinking_config=types.ThinkingConfig(thinking_budget=128, include_thoughts=True)
        ),
    )
    assert answer.usage_metadata is not None
    thoughts = answer.usage_metadata.thoughts_token_count
    assert thoughts
    receipt = site.settled(watch.last.headers, caller, used(answer), family="gemini")
    assert receipt["usage"]["reasoning_tokens"] == thoughts


def test_a_structured_output_is_parsed(
    client: genai.Client, site: Site, caller: Caller, watch: Watch
) -> None:
    schema = types.Schema(
        type=types.Type.OBJECT,
        properties={"city": types.Schema(type=types.Type.STRING)},
        required=["city"],
    )
    answer = client.models.generate_content(
        model=caller.model("gemini"),
        contents=CONTENTS,
        config=types.GenerateContentConfig(
            response_mime_type="application/json", response_schema=schema
        ),
    )
    assert answer.parsed == {"city": "demo city"}
    site.settled(watch.last.headers, caller, used(answer), family="gemini")


def test_tokens_are_counted_free_of_charge(
    client: genai.Client, direct: genai.Client, site: Site, caller: Caller, watch: Watch
) -> None:
    model = caller.model("gemini")
    counted = client.models.count_tokens(model=model, contents=CONTENTS)
    assert counted.total_tokens
    plain = direct.models.count_tokens(model=model, contents=CONTENTS)
    assert counted.total_tokens == plain.total_tokens
    receipt = site.receipt(watch.last.headers, caller)
    assert receipt["status"] == "succeeded"
    assert not receipt["cost"]["nano_usd"]


def test_embeddings_are_what_the_provider_makes(
    client: genai.Client, direct: genai.Client, site: Site, caller: Caller, watch: Watch
) -> None:
    def embed(sdk: genai.Client) -> Any:
        texts: Any = ["one", "two"]
        answer = sdk.models.embed_content(model="gemini-embedding-001", contents=texts)
        assert answer.embeddings is not None
        return [one.values for one in answer.embeddings]

    got = embed(client)
    assert got == embed(direct)
    assert [len(one) for one in got] == [768, 768]
    receipt = site.receipt(watch.last.headers, caller)
    assert receipt["status"] == "succeeded"
    assert receipt["usage"]["input_tokens"] == 2
    assert receipt["cost"]["nano_usd"] > 0
    assert receipt["cost"]["billed"] is caller.billed


def test_models_are_listed_over_all_pages(client: genai.Client, caller: Caller) -> None:
    found = {model.name: model for model in client.models.list(config={"page_size": 5})}
    assert len(found) > 5
    assert ("models/premium" in found) is caller.billed
    assert "generateContent" in (found["models/gemini-2.5-pro"].supported_actions or [])
    one = client.models.get(model=caller.model("gemini"))
    assert one.name == f"models/{caller.model('gemini')}"
    assert one.input_token_limit


# The package's own session class; said once, by whichever test comes first.
@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_the_asynchronous_client_gets_the_same_content_and_stream(
    site: Site, caller: Caller, watch: Watch
) -> None:
    model = caller.model("gemini")
    client = connect(site.gateway, caller.key, watch)
    async with client.aio as aio:
        answer = await aio.models.generate_content(model=model, contents=CONTENTS)
        text, last = "", answer
        async for chunk in await aio.models.generate_content_stream(model=model, contents=CONTENTS):
            text, last = text + (chunk.text or ""), chunk
    assert text == answer.text
    assert text.startswith(SAID)
    assert used(last) == used(answer)
    client.close()
    assert answer.sdk_http_response is not None
    headers = httpx.Headers(answer.sdk_http_response.headers)
    site.settled(headers, caller, used(answer), family="gemini")


def test_a_chat_remembers_what_was_said(client: genai.Client, caller: Caller) -> None:
    chat = client.chats.create(model=caller.model("gemini"))
    assert 'You said: "first"' in (chat.send_message("first").text or "")
    assert 'You said: "second"' in (chat.send_message("second").text or "")
    assert len(chat.get_history()) == 4


def test_a_mistyped_gateway_key_is_a_client_error(site: Site, watch: Watch) -> None:
    key = site.caller("gateway_key").key
    mistyped = key[:-1] + ("a" if key[-1] != "a" else "b")
    with (
        connect(site.gateway, mistyped, watch) as sdk,
        pytest.raises(errors.ClientError) as caught,
    ):
        sdk.models.generate_content(model="premium", contents=CONTENTS)
    assert (caught.value.code, caught.value.status) == (401, "UNAUTHENTICATED")
    assert mistyped not in str(caught.value)


def test_an_unknown_model_is_a_client_error_with_a_receipt(
    site: Site, gateway_key: Caller, watch: Watch
) -> None:
    with (
        connect(site.gateway, gateway_key.key, watch) as sdk,
        pytest.raises(errors.ClientError) as caught,
    ):
        sdk.models.generate_content(model="no-such-model", contents=CONTENTS)
    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")
    assert caught.value.message == "Unknown model pricing: no-such-model"
    receipt = site.receipt(watch.last.headers, gateway_key)
    assert receipt["failure"]["stage"] == "routing"


def test_an_error_of_the_provider_reaches_the_caller_as_it_is(
    client: genai.Client, site: Site, caller: Caller, watch: Watch
) -> None:
    model = "demo+status=429" if caller.billed else "gemini-2.5-pro+status=429"
    with pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model=model, contents=CONTENTS)
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert caught.value.details["error"]["details"][0]["retryDelay"] == "1s"
    receipt = site.receipt(watch.last.headers, caller)
    assert receipt["failure"]["stage"] == "upstream_status"


def test_a_file_is_uploaded_with_a_key_of_one_s_own(site: Site, watch: Watch) -> None:
    caller = site.caller("own_key")
    with connect(site.gateway, caller.key, watch) as sdk:
        made = sdk.files.upload(
            file=io.BytesIO(b"some text\n" * 100), config={"mime_type": "text/plain"}
        )
        assert made.name is not None
        assert made.size_bytes == 1000
        assert sdk.files.get(name=made.name).name == made.name
        sdk.files.delete(name=made.name)
