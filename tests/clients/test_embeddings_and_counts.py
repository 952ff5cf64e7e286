"""Embeddings and token counts by unmodified SDKs, at providers that speak another format."""

import struct
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import openai
import pytest
from anthropic import Anthropic
from client_site import Caller, Site, Watch
from google import genai
from google.genai import types
from openai import OpenAI

pytestmark = pytest.mark.clients

TEXTS = ["one text", "another text"]
ASKING = "Grüße aus Köln 🙂, how many tokens is this?"
SYSTEM = "Answer briefly."
MODELS = {"gpt-4o": "openai", "claude-opus-4-5": "anthropic", "gemini-2.5-pro": "google"}


@pytest.fixture
def chat(site: Site, gateway_key: Caller, watch: Watch) -> Any:
    hooks: Any = {"response": [watch.see]}
    http = openai.DefaultHttpxClient(event_hooks=hooks)
    with OpenAI(base_url=f"{site.gateway}/v1", api_key=gateway_key.key, http_client=http) as sdk:
        yield sdk


@pytest.fixture
def google(site: Site, gateway_key: Caller) -> Any:
    options = types.HttpOptions(base_url=site.gateway)
    with genai.Client(api_key=gateway_key.key, http_options=options) as sdk:
        yield sdk


def test_the_openai_package_gets_vectors_of_a_gemini_model(
    chat: OpenAI, site: Site, gateway_key: Caller, watch: Watch
) -> None:
    # The package asks for base64 by itself and decodes it.
    answer = chat.embeddings.create(model="gemini-embedding-001", input=TEXTS)
    assert [len(one.embedding) for one in answer.data] == [768, 768]
    assert [one.index for one in answer.data] == [0, 1]
    assert answer.data[0].embedding != answer.data[1].embedding
    floats = chat.embeddings.create(
        model="gemini-embedding-001", input=TEXTS[0], encoding_format="float", dimensions=256
    )
    assert len(floats.data[0].embedding) == 256
    packed = chat.embeddings.create(
        model="gemini-embedding-001", input=TEXTS[0], encoding_format="base64", dimensions=256
    )
    values = struct.unpack("<256f", b64decode(str(packed.data[0].embedding)))
    assert values == pytest.approx(floats.data[0].embedding, rel=1e-6)
    receipt = site.receipt(watch.answers[0].headers, gateway_key)
    assert receipt["route"]["provider"] == "google"
    assert receipt["route"]["translated"] is True
    assert receipt["usage"]["input_tokens"] == answer.usage.prompt_tokens > 0
    assert receipt["usage"]["source"] == "reported"
    assert receipt["cost"]["nano_usd"] > 0


def test_google_genai_gets_vectors_of_an_openai_model(
    google: genai.Client, chat: OpenAI, site: Site, gateway_key: Caller
) -> None:
    contents: Any = TEXTS
    model = "text-embedding-3-small"
    answer = google.models.embed_content(
        model=model,
        contents=contents,
        config=types.EmbedContentConfig(output_dimensionality=64),
    )
    receipt = site.receipt(site.newest(gateway_key), gateway_key)
    assert receipt["route"]["provider"] == "openai"
    assert receipt["route"]["translated"] is True
    assert receipt["cost"]["nano_usd"] > 0
    own = chat.embeddings.create(model=model, input=TEXTS, dimensions=64, encoding_format="float")
    assert receipt["usage"]["input_tokens"] == own.usage.prompt_tokens
    assert [one.values for one in answer.embeddings or ()] == [one.embedding for one in own.data]


def test_a_model_without_embeddings_is_refused_by_name(chat: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat.embeddings.create(model="claude-opus-4-5", input="a")
    assert refused.value.code == "unsupported_parameter"
    assert "anthropic" in refused.value.message


Counting = Callable[[Site, str, str], int]


def anthropic_counts(site: Site, key: str, model: str) -> int:
    with Anthropic(base_url=site.gateway, api_key=key) as sdk:
        counted = sdk.messages.with_raw_response.count_tokens(
            model=model, system=SYSTEM, messages=[{"role": "user", "content": ASKING}]
        )
        assert "x-gateway-estimated" not in counted.headers
        return counted.parse().input_tokens


def openai_counts(site: Site, key: str, model: str) -> int:
    with OpenAI(base_url=f"{site.gateway}/v1", api_key=key) as sdk:
        counted = sdk.responses.input_tokens.with_raw_response.count(
            model=model, instructions=SYSTEM, input=ASKING
        )
        assert "x-gateway-estimated" not in counted.headers
        return counted.parse().input_tokens


def google_counts(site: Site, key: str, model: str) -> int:
    options = types.HttpOptions(base_url=site.gateway)
    with genai.Client(api_key=key, http_options=options) as sdk:
        # The package sends no system text to be counted.
        counted = sdk.models.count_tokens(model=model, contents=ASKING)
        headers = (counted.sdk_http_response or types.HttpResponse()).headers or {}
        assert "x-gateway-estimated" not in {name.lower() for name in headers}
        return counted.total_tokens or 0


def said(site: Site, key: str, model: str, *, system: bool) -> int:
    """The tokens of the same call, as the model's provider reports them."""
    if MODELS[model] == "openai":  # whose counter counts what Responses makes of a conversation
        with OpenAI(base_url=f"{site.gateway}/v1", api_key=key) as own:
            answered = own.responses.create(
                model=model, input=ASKING, instructions=SYSTEM if system else None
            )
            return answered.usage.input_tokens if answered.usage is not None else 0
    with Anthropic(base_url=site.gateway, api_key=key) as sdk:
        more: Any = {"system": SYSTEM} if system else {}
        answer = sdk.messages.create(
            model=model, max_tokens=200, messages=[{"role": "user", "content": ASKING}], **more
        )
        tokens: int = answer.usage.input_tokens
        return tokens


COUNTS: dict[str, Counting] = {
    "anthropic": anthropic_counts, "google-genai": google_counts, "openai": openai_counts
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", COUNTS)
def test_the_count_is_what_the_call_is_then_said_to_take(
    name: str, model: str, site: Site, gateway_key: Caller
) -> None:
    counted = COUNTS[name](site, gateway_key.key, model)
    receipt = site.receipt(site.newest(gateway_key), gateway_key)
    assert receipt["route"]["provider"] == MODELS[model]
    assert receipt["cost"]["nano_usd"] == 0
    system = name != "google-genai"
    assert counted == said(site, gateway_key.key, model, system=system) > 5
