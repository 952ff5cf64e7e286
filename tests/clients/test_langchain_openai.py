"""`langchain-openai`, unmodified: chat, streams with usage, the Responses API, embeddings."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import litellm
import openai
import pytest
from client_site import Caller, Site, Used
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

pytestmark = pytest.mark.clients

SAID = 'You said: "Grüße aus Köln 🙂".'
ASK = "Grüße aus Köln 🙂"


class Forecast(BaseModel):
    """The weather to come."""

    city: str
    degrees: int


@tool
def get_forecast(city: str) -> str:
    """Tell the weather to come."""
    return f"Rain in {city}."


class Connect(Protocol):
    def __call__(self, **more: Any) -> ChatOpenAI: ...


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """By itself the package never closes the connections that it opens."""
    with openai.DefaultHttpxClient() as made:
        yield made


@pytest.fixture
async def chat(site: Site, caller: Caller, http: httpx.Client) -> AsyncIterator[Connect]:
    async with openai.DefaultAsyncHttpxClient() as http_async:

        def connect(**more: Any) -> ChatOpenAI:
            return ChatOpenAI(
                model=caller.model("openai"),
                base_url=f"{site.gateway}/v1",
                api_key=SecretStr(caller.key),
                include_response_headers=True,
                http_client=http,
                http_async_client=http_async,
                **more,
            )

        yield connect


def used(message: AIMessage) -> Used:
    usage = message.usage_metadata
    assert usage is not None
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    return Used(usage["input_tokens"], usage["output_tokens"])


def headers_of(message: AIMessage) -> dict[str, str]:
    found: dict[str, str] = message.response_metadata["headers"]
    return found


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_a_chat_model_is_invoked(
    chat: Connect, site: Site, caller: Caller, responses: bool
) -> None:
    answer = chat(use_responses_api=responses).invoke(ASK)
    assert answer.text.startswith(SAID)
    site.settled(headers_of(answer), caller, used(answer), family="openai")


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_a_chat_model_streams_with_usage(
    chat: Connect, site: Site, caller: Caller, responses: bool
) -> None:
    model = chat(use_responses_api=responses, stream_usage=True)
    whole: Any = None
    for chunk in model.stream(ASK):
        whole = chunk if whole is None else whole + chunk
    assert whole.text.startswith(SAID)
    site.settled(headers_of(whole), caller, used(whole), family="openai", stream=True)


async def test_a_chat_model_is_invoked_and_streams_asynchronously(
    chat: Connect, site: Site, caller: Caller
) -> None:
    model = chat(stream_usage=True)
    answer = await model.ainvoke(ASK)
    site.settled(headers_of(answer), caller, used(answer), family="openai")
    whole: Any = None
    async for chunk in model.astream(ASK):
        whole = chunk if whole is None else whole + chunk
    assert whole.text == answer.text
    site.settled(headers_of(whole), caller, used(whole), family="openai", stream=True)


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_a_bound_tool_is_called_and_its_result_taken_back(
    chat: Connect, site: Site, caller: Caller, responses: bool
) -> None:
    model = chat(use_responses_api=responses).bind_tools([get_forecast])
    ask = HumanMessage("Use get_forecast for Köln")
    answer = model.invoke([ask])
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_forecast", {"city": "demo city"})
    site.settled(headers_of(answer), caller, used(answer), family="openai")
    result = ToolMessage(get_forecast.invoke(call["args"]), tool_call_id=call["id"])
    assert "Rain in demo city." in model.invoke([ask, answer, result]).text


def test_a_structured_output_is_parsed(chat: Connect) -> None:
    model = chat().with_structured_output(Forecast)
    assert model.invoke(ASK) == Forecast(city="demo city", degrees=1)


def test_embeddings_are_made_from_token_numbers(
    site: Site, caller: Caller, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tokenizer's table lies in LiteLLM's package: by default it is fetched from the network.
    assert litellm.__file__ is not None
    table = Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(table))
    embeddings = OpenAIEmbeddings(
        model="text-embedding-3-small",
        base_url=f"{site.gateway}/v1",
        api_key=SecretStr(caller.key),
        http_client=http,
    )
    one, two = embeddings.embed_documents(["one text", "another text"])
    assert (len(one), len(two)) == (1536, 1536)
    assert one != two
    assert embeddings.embed_query("one text") == one
