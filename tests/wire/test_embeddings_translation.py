"""Embeddings between OpenAI's and Gemini's formats, both ways."""

import base64
import gzip
import struct
from typing import Any

import msgspec
import pytest
from google.genai import types as gemini_types
from openai.types import CreateEmbeddingResponse
from wire_records import directory

from gateway.errors import GatewayError
from gateway.wire import embeddings_translation as embeddings
from gateway.wire.neutral import Usage


def encoded(**members: Any) -> bytes:
    return msgspec.json.encode(members)


def test_an_openai_request_becomes_a_batch() -> None:
    asked = embeddings.read_openai(
        encoded(model="m", input=["a", "b"], dimensions=3, user="u", encoding_format="base64")
    )
    assert asked.left_out == ("user",)
    body, method = embeddings.write_gemini(asked, "gemini-embedding-001")
    assert method == "batchEmbedContents"
    each = {"model": "models/gemini-embedding-001", "outputDimensionality": 3}
    assert msgspec.json.decode(body) == {
        "requests": [
            {**each, "content": {"parts": [{"text": "a"}]}},
            {**each, "content": {"parts": [{"text": "b"}]}},
        ]
    }


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_of_gemini_come_back_as_openai_has_them(encoding: str) -> None:
    asked = embeddings.read_openai(encoded(model="m", input="a", encoding_format=encoding))
    found = embeddings.read_gemini_answer(
        b'{"embeddings":[{"values":[0.50, -1.0e-3]}],"usageMetadata":{"promptTokenCount":7}}'
    )
    assert found is not None
    written = embeddings.write_openai_answer(found, asked, "alias")
    document: Any = msgspec.json.decode(written)
    if encoding == "base64":
        # The SDK unpacks it before it holds the answer to its type.
        packed = base64.b64decode(document["data"][0]["embedding"])
        document["data"][0]["embedding"] = list(struct.unpack("<2f", packed))
    else:
        assert b'"embedding":[0.50, -1.0e-3]' in written
    answer = CreateEmbeddingResponse.model_validate(document)
    assert answer.data[0].embedding == pytest.approx([0.5, -0.001])
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 7
    assert answer.model == "alias"


@pytest.mark.parametrize("method", ["embedContent", "batchEmbedContents"])
def test_a_gemini_request_becomes_openais_and_its_answer_comes_back(method: Any) -> None:
    one = {
        "model": "models/m",
        "content": {"parts": [{"text": "a"}, {"text": "b"}]},
        "output_dimensionality": 2,
        "taskType": "RETRIEVAL_QUERY",
    }
    body = encoded(**one) if method == "embedContent" else encoded(requests=[one, one])
    asked = embeddings.read_gemini(body, method)
    texts = ["a\nb"] if method == "embedContent" else ["a\nb", "a\nb"]
    assert msgspec.json.decode(embeddings.write_openai(asked, "up")) == {
        "model": "up", "input": texts, "dimensions": 2, "encoding_format": "float",
    }  # fmt: skip
    assert asked.left_out == (("taskType",) if asked.single else ("requests.taskType",))
    data = [{"embedding": [index, 0.25], "index": index} for index in range(len(texts))]
    found = embeddings.read_openai_answer(
        encoded(object="list", data=data[::-1], usage={"prompt_tokens": 4, "total_tokens": 4})
    )
    assert found is not None
    written = msgspec.json.decode(embeddings.write_gemini_answer(found, asked))
    assert written["usageMetadata"] == {"promptTokenCount": 4}
    if asked.single:
        assert written["embedding"] == {"values": [0, 0.25]}
    else:
        assert [one["values"] for one in written["embeddings"]] == [[0, 0.25], [1, 0.25]]
        gemini_types.EmbedContentResponse.model_validate(written)


@pytest.mark.parametrize("method", ["embedContent", "batchEmbedContents"])
@pytest.mark.parametrize("name", ["embedContentConfig", "embed_content_config"])
def test_settings_in_the_newer_place_are_read_as_well(name: str, method: Any) -> None:
    inside = {"output_dimensionality": 3, "taskType": "CLUSTERING", "content": "no place for it"}
    one = {"content": {"parts": [{"text": "a"}]}, name: inside}
    body = encoded(**one) if method == "embedContent" else encoded(requests=[one, one])
    asked = embeddings.read_gemini(body, method)
    prefix = "" if asked.single else "requests."
    assert asked.dimensions == 3
    assert set(asked.inputs) == {"a"}
    assert asked.left_out == (f"{prefix}{name}.taskType", f"{prefix}{name}.content")


def test_base64_of_a_provider_is_read() -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, 2.0)).decode()
    found = embeddings.read_openai_answer(encoded(data=[{"embedding": packed}]))
    assert found == embeddings.Vectors((msgspec.Raw(b"[0.5,2.0]"),))


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"{}", "input", "invalid_request"),
        (b'{"input":[]}', "input", "invalid_request"),
        (b'{"input":[1,2]}', "input", "unsupported_parameter"),
        (b'{"input":[[1],[2]]}', "input", "unsupported_parameter"),
        (b'{"input":"a","dimensions":"x"}', None, "invalid_request"),
        (b"nothing", None, "invalid_request"),
    ],
)
def test_openai_requests_that_cannot_be_told_are_refused(
    body: bytes, param: str | None, code: str
) -> None:
    with pytest.raises(GatewayError) as refused:
        embeddings.read_openai(body)
    assert (refused.value.param, refused.value.code) == (param, code)


IMAGE = {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
TEXT = {"parts": [{"text": "a"}]}


@pytest.mark.parametrize(
    ("document", "param", "code"),
    [
        ({"requests": []}, "requests", "invalid_request"),
        ({"requests": [{}]}, "requests.content", "invalid_request"),
        ({"requests": [{"content": {"parts": [IMAGE]}}]}, "requests.content.parts",
         "unsupported_parameter"),
        ({"requests": [{"content": TEXT}, {"content": TEXT, "outputDimensionality": 3}]},
         "requests.outputDimensionality", "unsupported_parameter"),
        ({"requests": "x"}, None, "invalid_request"),
    ],
)  # fmt: skip
def test_gemini_requests_that_cannot_be_told_are_refused(
    document: Any, param: str | None, code: str
) -> None:
    with pytest.raises(GatewayError) as refused:
        embeddings.read_gemini(msgspec.json.encode(document), "batchEmbedContents")
    assert (refused.value.param, refused.value.code) == (param, code)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"embeddings":[]}', b'{"embeddings":[{"values":5}]}', b'{"data":[]}']
)
def test_what_is_no_answer_is_told_apart(body: bytes) -> None:
    assert embeddings.read_gemini_answer(body) is None
    assert embeddings.read_openai_answer(body) is None


def test_a_vector_that_does_not_fit_is_the_upstreams_fault() -> None:
    asked = embeddings.read_openai(encoded(input="a", encoding_format="base64"))
    for vector in (b"[1e300]", b'["a"]', b"[]"):
        found = embeddings.Vectors((msgspec.Raw(vector),))
        with pytest.raises(GatewayError) as refused:
            embeddings.write_openai_answer(found, asked, "m")
        assert refused.value.code == "bad_upstream_response"


class Exchange(msgspec.Struct):
    path: str
    status: int
    request_body: msgspec.Raw
    response_body_text: str | None
    expected_usage: dict[str, Any] | None


@pytest.mark.recorded
def test_recorded_exchanges_are_read_and_come_back() -> None:
    found = directory() / "google_embed.jsonl.gz"
    if not found.is_file():
        pytest.skip("no recorded traffic: set GATEWAY_RECORDED_DIR to its directory")
    tried = 0
    for line in gzip.decompress(found.read_bytes()).splitlines():
        record = msgspec.json.decode(line, type=Exchange)
        method: Any = record.path.rpartition(":")[2]
        if record.status != 200 or method == "predict":
            continue
        asked = embeddings.read_gemini(bytes(record.request_body), method)
        body, other = embeddings.write_gemini(asked, "m")
        again = embeddings.read_gemini(body, other)
        assert (again.inputs, again.dimensions) == (asked.inputs, asked.dimensions)
        answer = (record.response_body_text or "").encode()
        vectors = embeddings.read_gemini_answer(answer)
        assert vectors is not None
        assert len(vectors.vectors) == len(asked.inputs)
        usage = record.expected_usage
        assert vectors.usage == (Usage(input_tokens=usage["input"]) if usage else None)
        written = embeddings.write_gemini_answer(vectors, asked)
        assert embeddings.read_gemini_answer(written) == vectors
        CreateEmbeddingResponse.model_validate_json(
            embeddings.write_openai_answer(vectors, asked, "m")
        )
        tried += 1
    assert tried >= 11
