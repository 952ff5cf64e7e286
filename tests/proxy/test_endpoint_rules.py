"""`endpoints.classify`: what a path asks for, row by row and as properties."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Family
from gateway.proxy.endpoints import Endpoint, as_family, classify

PROVIDERS = {"openai", "anthropic", "google", "demo"}


def found(path: str, query: str = "", speaks: Family | None = None) -> Endpoint:
    endpoint = classify(path, query, PROVIDERS, speaks=speaks)
    assert endpoint is not None
    return endpoint


@pytest.mark.parametrize(
    ("path", "format_", "label"),
    [
        ("/v1/chat/completions", "openai_chat", "/v1/chat/completions"),
        ("/v1/responses", "openai_responses", "/v1/responses"),
        ("/v1/responses/compact", "openai_responses", "/v1/responses/compact"),
        ("/v1/embeddings", "openai_embeddings", "/v1/embeddings"),
        ("/v1/completions", "openai_completions", "/v1/completions"),
        ("/v1/messages", "anthropic_messages", "/v1/messages"),
        ("/v1/openai/chat/completions", "openai_chat", "/v1/openai/chat/completions"),
        ("/v1/anthropic/messages", "anthropic_messages", "/v1/anthropic/messages"),
        ("/v1beta/models/g:generateContent", "gemini", "/v1beta/models/{model}:generateContent"),
        (
            "/v1beta/tunedModels/g:generateContent",
            "gemini",
            "/v1beta/models/{model}:generateContent",
        ),
        (
            "/v1beta/models/g:embedContent",
            "gemini_embeddings",
            "/v1beta/models/{model}:embedContent",
        ),
        (
            "/v1beta/models/g:batchEmbedContents",
            "gemini_embeddings",
            "/v1beta/models/{model}:batchEmbedContents",
        ),
    ],
)
def test_metered_endpoints_have_the_format_of_their_answer(
    path: str, format_: str, label: str
) -> None:
    endpoint = found(path)
    assert endpoint.metered
    assert not endpoint.free
    assert (endpoint.format, endpoint.label) == (format_, label)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/responses/input_tokens",
        "/v1/moderations",
        "/v1/messages/count_tokens",
        "/v1beta/models/g:countTokens",
        "/v1/responses/resp_1",
        "/v1/responses/resp_1/cancel",
    ],
)
def test_what_providers_do_not_bill_is_free(path: str) -> None:
    endpoint = found(path)
    assert endpoint.free
    assert not endpoint.metered


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/batches",
        "/v1/messages/batches",
        "/v1/responses/resp_1/other",
        "/v1beta/models/g:predict",
        "/v1beta/cachedContents",
        "/v1/openai/anything",
    ],
)
def test_everything_else_is_neither_metered_nor_free(path: str) -> None:
    endpoint = found(path)
    assert not endpoint.metered
    assert not endpoint.free


def test_the_id_of_a_stored_response_is_read_decoded() -> None:
    assert found("/v1/responses/resp%5F1").state_id == "resp_1"
    assert found("/v1/openai/responses/resp_1/input_items").state_id == "resp_1"
    assert found("/v1/responses/compact").state_id is None
    assert found("/v1/responses/input_tokens").state_id is None


def test_gemini_tells_model_and_stream_in_its_path() -> None:
    named = found("/v1beta/models/openai/gpt-5:generateContent")
    assert named.model == "openai/gpt-5"
    assert named.label == "/v1beta/models/{model}:generateContent"
    plain = found("/v1beta/models/g-2.5%2Fx:generateContent")
    assert (plain.model, plain.streams, plain.array) == ("g-2.5/x", False, False)
    events = found("/v1beta/models/g:streamGenerateContent", "alt=sse")
    assert (events.model, events.streams, events.array) == ("g", True, False)
    array = found("/v1beta/models/g:streamGenerateContent")
    assert (array.streams, array.array) == (True, True)


@pytest.mark.parametrize(
    ("path", "speaks", "family"),
    [
        ("/v1/files", None, "openai"),
        ("/v1/files", "anthropic", "anthropic"),
        ("/v1/chat/completions", "anthropic", "openai"),
        ("/v1/messages", None, "anthropic"),
        ("/v1/messages/batches", "openai", "anthropic"),
        ("/v1/models/g:generateContent", None, "gemini"),
        ("/v1beta/files", "anthropic", "gemini"),
        ("/v1/files", "gemini", "gemini"),
    ],
)
def test_the_family_is_the_paths_where_it_says_and_the_callers_elsewhere(
    path: str, speaks: Family | None, family: Family
) -> None:
    assert found(path, speaks=speaks).family == family


def test_a_named_provider_settles_the_family() -> None:
    endpoint = found("/v1/google/models/g:generateContent")
    assert (endpoint.provider, endpoint.family) == ("google", "gemini")
    other = as_family(found("/v1/anthropic/files"), "anthropic", "")
    assert (other.family, other.provider, other.path) == ("anthropic", "anthropic", "files")
    assert found("/v1/unknown/chat/completions").provider is None


@given(st.text(alphabet="av1/.:%2eE-_{}", max_size=40), st.sampled_from(["/v1/", "/v1beta/", "/"]))
def test_no_path_climbs_out_and_no_label_is_unbounded(rest: str, prefix: str) -> None:
    endpoint = classify(prefix + rest, "", PROVIDERS)
    if endpoint is None:
        return
    assert not any(unquote(part) in (".", "..") for part in endpoint.path.split("/"))
    assert not endpoint.path.startswith("/")
    assert "//" not in endpoint.path
    head = endpoint.label.rpartition("/")[2]
    assert len(endpoint.label) < 80
    assert head


def test_what_providers_have_is_labelled_by_its_first_word() -> None:
    assert found("/v1/files/f1/content").label == "/v1/files"
    assert found("/v1/images/edits").label == "/v1/images"
    assert found("/v1beta/cachedContents/c1").label == "/v1beta/cachedContents"
    assert found("/v1/anthropic/skills").label == "/v1/anthropic/skills"


def test_labels_do_not_grow_with_what_callers_make_up() -> None:
    labels = {found(f"/v1/madeup{chr(97 + n % 26)}{chr(97 + n // 26)}/x").label for n in range(99)}
    labels |= {found(f"/v1beta/models/m{n}:generateContent").label for n in range(100)}
    labels |= {found(f"/v1/responses/resp_{n}").label for n in range(100)}
    assert labels == {
        "/v1/other",
        "/v1beta/models/{model}:generateContent",
        "/v1/responses/{id}",
    }
