"""LiteLLM, unmodified, with the tiers as `aibadgr/…` and the base URL `…/api/v1`.

LiteLLM takes the first part of a model's name for the provider. A release that knows `aibadgr`
sends the rest, `premium`. One that does not is told to speak OpenAI's format
(`custom_llm_provider`, or `openai/` before the name) and sends the whole name, `aibadgr/premium`.
The gateway has to serve both.
"""

import importlib.util
import os
from typing import Any

# Read when LiteLLM is imported: it would fetch its table of prices from the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import pytest
from client_site import TIERS, Caller, Site, Used
from litellm import exceptions
from litellm.llms.openai_like.json_loader import JSONProviderRegistry, SimpleProviderConfig

pytestmark = [
    pytest.mark.clients,
    # LiteLLM's own types, as they are.
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class '.*' is using:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*' attribute:DeprecationWarning"),
]

MESSAGES = [{"role": "user", "content": "Grüße aus Köln 🙂"}]
SAID = 'You said: "Grüße aus Köln 🙂".'
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_forecast",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
OPENAI_MODELS = {
    "budget": "gpt-4o-mini",
    "basic": "gpt-4.1-mini",
    "normal": "gpt-4.1",
    "premium": "gpt-4o",
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm, "suppress_debug_info", True)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM as with an entry for `aibadgr` in its file of OpenAI-compatible providers."""
    entry = {"base_url": "http://127.0.0.1:9/api/v1", "api_key_env": "AIBADGR_API_KEY"}
    monkeypatch.setitem(
        JSONProviderRegistry._providers, "aibadgr", SimpleProviderConfig("aibadgr", entry)
    )


@pytest.fixture
def call(site: Site, caller: Caller) -> dict[str, Any]:
    """What every call says of where and who."""
    return {"api_base": f"{site.gateway}/api/v1", "api_key": caller.key}


def headers_of(answer: Any) -> dict[str, str]:
    """The answer's own header fields, which LiteLLM shows with a prefix to their names."""
    shown: dict[str, str] = answer._hidden_params["additional_headers"]
    prefix = "llm_provider-"
    return {
        name.removeprefix(prefix): value for name, value in shown.items() if name.startswith(prefix)
    }


def used(usage: Any) -> Used:
    return Used(usage.prompt_tokens, usage.completion_tokens)


def gather(chunks: list[Any]) -> tuple[str, Any]:
    """A stream's text and its usage."""
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    (usage,) = [usage for chunk in chunks if (usage := getattr(chunk, "usage", None))]
    return text, usage


def spelled(tier: str, spelling: str) -> dict[str, Any]:
    if spelling == "custom_llm_provider":
        return {"model": f"aibadgr/{tier}", "custom_llm_provider": "openai"}
    return {"model": f"{spelling}{tier}"}


SPELLINGS = ["custom_llm_provider", "openai/aibadgr/", "openai/"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_answers_by_any_spelling_of_its_name(
    call: dict[str, Any], site: Site, caller: Caller, tier: str, spelling: str
) -> None:
    answer: Any = litellm.completion(messages=MESSAGES, **spelled(tier, spelling), **call)
    assert answer.choices[0].message.content.startswith(SAID)
    receipt = site.settled(headers_of(answer), caller, used(answer.usage), family="openai")
    assert receipt["route"]["model"] == OPENAI_MODELS[tier]
    # The catalog's price of the model behind the tier.
    assert receipt["cost"]["price"]["input_per_mtok"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_tier_streams_by_any_spelling_of_its_name(
    call: dict[str, Any], site: Site, caller: Caller, spelling: str
) -> None:
    stream: Any = litellm.completion(
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
        **spelled("premium", spelling),
        **call,
    )
    text, usage = gather(list(stream))
    assert text.startswith(SAID)
    site.settled(headers_of(stream), caller, used(usage), family="openai", stream=True)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("tier", TIERS)
def test_a_litellm_that_knows_the_provider_needs_no_more_than_the_name(
    call: dict[str, Any], site: Site, caller: Caller, tier: str
) -> None:
    model = f"aibadgr/{tier}"
    answer: Any = litellm.completion(model=model, messages=MESSAGES, **call)
    assert answer.choices[0].message.content.startswith(SAID)
    receipt = site.settled(headers_of(answer), caller, used(answer.usage), family="openai")
    assert receipt["request"]["model"] == tier
    stream: Any = litellm.completion(
        model=model,
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
        **call,
    )
    text, usage = gather(list(stream))
    assert text == answer.choices[0].message.content
    site.settled(headers_of(stream), caller, used(usage), family="openai", stream=True)


async def test_the_asynchronous_calls_answer_and_stream(
    call: dict[str, Any], site: Site, caller: Caller
) -> None:
    asked = spelled("premium", "custom_llm_provider") | call
    answer: Any = await litellm.acompletion(messages=MESSAGES, **asked)
    site.settled(headers_of(answer), caller, used(answer.usage), family="openai")
    stream: Any = await litellm.acompletion(
        messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **asked
    )
    text, usage = gather([chunk async for chunk in stream])
    assert text == answer.choices[0].message.content
    site.settled(headers_of(stream), caller, used(usage), family="openai", stream=True)


@pytest.mark.skipif(
    importlib.util.find_spec("mcp") is None,
    reason="this LiteLLM takes tools only with its extra `mcp`, which is not installed",
)
def test_a_tool_is_called(call: dict[str, Any], site: Site, caller: Caller) -> None:
    answer: Any = litellm.completion(
        messages=[{"role": "user", "content": "Use get_forecast"}],
        tools=TOOLS,
        **spelled("premium", "custom_llm_provider"),
        **call,
    )
    (made,) = answer.choices[0].message.tool_calls
    assert (made.function.name, made.function.arguments) == (
        "get_forecast",
        '{"city":"demo city"}',
    )
    site.settled(headers_of(answer), caller, used(answer.usage), family="openai")


def test_embeddings_are_made(call: dict[str, Any], site: Site, caller: Caller) -> None:
    answer: Any = litellm.embedding(
        model="openai/text-embedding-3-small", input=["one", "two"], **call
    )
    assert [len(one["embedding"]) for one in answer.data] == [1536, 1536]
    site.settled(headers_of(answer), caller, Used(answer.usage.prompt_tokens, 0), family="openai")


def test_anthropic_and_gemini_models_answer_in_their_own_formats(
    site: Site, caller: Caller
) -> None:
    model = caller.model("anthropic")
    answer: Any = litellm.completion(
        model=f"anthropic/{model}",
        api_base=site.gateway,
        api_key=caller.key,
        messages=MESSAGES,
        max_tokens=300,
    )
    assert answer.choices[0].message.content.startswith(SAID)
    site.settled(headers_of(answer), caller, used(answer.usage), family="anthropic")
    answer = litellm.completion(
        model=f"gemini/{caller.model('gemini')}",
        api_base=f"{site.gateway}/v1beta",
        api_key=caller.key,
        messages=MESSAGES,
    )
    assert answer.choices[0].message.content.startswith(SAID)
    # LiteLLM shows no header fields of a Gemini answer.
    site.settled(site.newest(caller), caller, used(answer.usage), family="gemini")


def test_errors_are_told_as_litellm_tells_them(site: Site, gateway_key: Caller) -> None:
    base = {"api_base": f"{site.gateway}/api/v1", "messages": MESSAGES}
    with pytest.raises(exceptions.BadRequestError, match="Unknown model pricing: aibadgr/none"):
        litellm.completion(model="openai/aibadgr/none", api_key=gateway_key.key, **base)
    with pytest.raises(exceptions.AuthenticationError, match="Invalid API key"):
        litellm.completion(model="openai/premium", api_key=gateway_key.key + "x", **base)
    with pytest.raises(exceptions.RateLimitError):
        litellm.completion(
            model="openai/demo+status=429+retry_after=0",
            api_key=gateway_key.key,
            max_retries=0,
            **base,
        )
