"""Embeddings of one format in front of the other: OpenAI's `/v1/embeddings` and Gemini's
`embedContent` and `batchEmbedContents`.

A request is read into `Embedding`, of which each format's writer makes its own; the same for
answers and `Vectors`. Numbers of a vector are passed on as they are spelled; OpenAI's base64 is
little-endian 32-bit floats. What cannot be said in the other format is refused by field name, or
named as ignored. Pure. Source: platform.openai.com API reference, "Embeddings"; ai.google.dev API
reference, "Embeddings" (November 2026), and recorded traffic.
"""

import base64
import binascii
import struct
from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Raw

from gateway.errors import GatewayError
from gateway.wire import gemini, gemini_bodies, lenient
from gateway.wire.neutral import Usage

Method = Literal["embedContent", "batchEmbedContents"]

INPUTS_MAX = 2048
"""What OpenAI takes in one request (API reference, November 2026)."""

_MODELS = "models/"


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to be embedded. `base64` asks for vectors as such; `single` is one text, alone.

    `left_out` are the caller's fields that are hints of its own format's, and told as ignored.
    """

    inputs: tuple[str, ...]
    dimensions: int | None = None
    dimensions_field: str = ""
    base64: bool = False
    single: bool = False
    left_out: tuple[str, ...] = ()


class Vectors(msgspec.Struct, frozen=True):
    """The vectors, each a JSON array of numbers, in the order of the inputs; one at least.

    That there are as many as inputs is for who sent the request to check.
    """

    vectors: tuple[Raw, ...]
    usage: Usage | None = None


def _refuse(message: str, param: str | None, code: str = "invalid_request") -> GatewayError:
    return GatewayError(code, message, param=param)


# -- OpenAI ------------------------------------------------------------------------------------


class _Item(msgspec.Struct, gc=False):
    embedding: Raw
    index: int | None = None


class _OpenAIUsage(msgspec.Struct, gc=False):
    prompt_tokens: lenient.Count | None = None


class _OpenAIAnswer(msgspec.Struct, gc=False):
    data: list[_Item]
    usage: Raw = lenient.ABSENT


_TEXTS = msgspec.json.Decoder(str | list[str])
_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_SETTINGS = frozenset(("input", "model", "dimensions", "encoding_format"))


class _OpenAISettings(msgspec.Struct, gc=False):
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None


_OPENAI_SETTINGS = msgspec.json.Decoder(_OpenAISettings)
_OPENAI_USAGE = msgspec.json.Decoder(_OpenAIUsage)
_OPENAI_ANSWER = msgspec.json.Decoder(_OpenAIAnswer)
_STRING = msgspec.json.Decoder(str)


def read_openai(body: bytes) -> Embedding:
    """Read an `/v1/embeddings` request. Raises `GatewayError`; tokens as input are refused."""
    try:
        fields = _FIELDS.decode(body)
        settings = _OPENAI_SETTINGS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _refuse(f"The request body cannot be read: {exc}", None) from None
    raw = fields.get("input", lenient.ABSENT)
    if not raw or bytes(raw) in (b"null", b'""', b"[]"):
        raise _refuse("input is missing.", "input")
    try:
        inputs = _TEXTS.decode(raw)
    except msgspec.ValidationError:
        message = "input: numbers of tokens mean nothing to this model's provider; send text."
        raise _refuse(message, "input", "unsupported_parameter") from None
    texts = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    if len(texts) > INPUTS_MAX:
        raise _refuse(f"input: {INPUTS_MAX} texts at most.", "input")
    return Embedding(
        inputs=texts,
        dimensions=settings.dimensions,
        dimensions_field="dimensions",
        base64=settings.encoding_format == "base64",
        single=isinstance(inputs, str),
        left_out=tuple(sorted(fields.keys() - _SETTINGS)),
    )


def write_openai(asked: Embedding, model: str) -> bytes:
    """An `/v1/embeddings` request for a provider, vectors asked for as numbers."""
    document: dict[str, object] = {"model": model, "input": list(asked.inputs)}
    if asked.dimensions is not None:
        document["dimensions"] = asked.dimensions
    document["encoding_format"] = "float"
    return msgspec.json.encode(document)


def read_openai_answer(body: bytes) -> Vectors | None:
    """Read a provider's vectors; None where the body is no such answer."""
    found = lenient.decode(_OPENAI_ANSWER, body)
    if found is None:
        return None
    items = sorted(enumerate(found.data), key=lambda one: _place(one[1].index, one[0]))
    vectors = [_numbers(one.embedding) for _, one in items]
    if not vectors or not all(vectors):
        return None
    told = lenient.counts(_OPENAI_USAGE, found.usage)
    tokens = told.prompt_tokens if told is not None else None
    return Vectors(tuple(vectors), Usage(input_tokens=tokens) if tokens is not None else None)


def write_openai_answer(found: Vectors, asked: Embedding, model: str) -> bytes:
    """The answer for an OpenAI caller, in the encoding that it asked for.

    Raises `GatewayError` `bad_upstream_response` where a vector does not fit into that.
    """
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(one) if asked.base64 else one}
        for index, one in enumerate(found.vectors)
    ]
    tokens = found.usage.input_tokens if found.usage is not None else 0
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})


def _place(index: int | None, position: int) -> int:
    return position if index is None else index


# -- Gemini ------------------------------------------------------------------------------------


class _One(msgspec.Struct, rename="camel", gc=False):
    content: gemini_bodies.Content | None = None
    model: str | None = None
    output_dimensionality: int | None = None


class _GeminiVector(msgspec.Struct, gc=False):
    values: Raw


class _GeminiAnswer(msgspec.Struct, rename="camel", gc=False):
    embedding: _GeminiVector | None = None
    embeddings: list[_GeminiVector] | None = None
    usage_metadata: Raw = lenient.ABSENT


_ONE = msgspec.json.Decoder(_One, strict=False)
_LIST = msgspec.json.Decoder(list[Raw])
_SETTINGS_INSIDE = msgspec.json.Decoder(dict[str, Raw] | None)
_GEMINI_ANSWER = msgspec.json.Decoder(_GeminiAnswer)
_KNOWN = frozenset(("content", "model", "outputDimensionality"))
_SETTING = frozenset(("outputDimensionality",))
_CONFIG = "embedContentConfig"
"""A newer place for the settings."""


def read_gemini(body: bytes, method: Method) -> Embedding:
    """Read a request for one vector, or for several. Raises `GatewayError`."""
    try:
        if method == "embedContent":
            read = [_read_one(Raw(body))]
        else:
            requests = _FIELDS.decode(body).get("requests", Raw(b"[]"))
            read = [_read_one(one) for one in _LIST.decode(requests)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _refuse(f"The request body cannot be read: {exc}", None) from None
    if not read:
        raise _refuse("requests is not specified.", "requests")
    sizes = {one.output_dimensionality for one, _ in read}
    field = "outputDimensionality" if method == "embedContent" else "requests.outputDimensionality"
    if len(sizes) > 1:
        message = f"{field} must be the same for all with this model's provider."
        raise _refuse(message, field, "unsupported_parameter")
    prefix = "" if method == "embedContent" else "requests."
    unknown = {f"{prefix}{name}": None for _, names in read for name in names}
    return Embedding(
        inputs=tuple(_text(one, prefix + "content") for one, _ in read),
        dimensions=sizes.pop(),
        dimensions_field=field,
        single=method == "embedContent",
        left_out=tuple(unknown),
    )


def _read_one(raw: Raw) -> tuple[_One, list[str]]:
    """One request, and the fields in it that say nothing to another format."""
    known, unknown = {}, []
    for prefix, fields in _levels(_FIELDS.decode(raw)):
        for name, value in fields.items():
            camel = gemini_bodies.camel(name)
            if camel in (_SETTING if prefix else _KNOWN):
                known[camel] = value
            else:
                unknown.append(prefix + name)
    return _ONE.decode(msgspec.json.encode(known)), unknown


def _levels(fields: dict[str, Raw]) -> Iterator[tuple[str, dict[str, Raw]]]:
    """The settings inside, with what their names are prefixed by, then the fields around them."""
    outer = dict(fields)
    for name in fields:
        if gemini_bodies.camel(name) == _CONFIG:
            yield f"{name}.", _SETTINGS_INSIDE.decode(outer.pop(name)) or {}
    yield "", outer


def _text(one: _One, field: str) -> str:
    parts = one.content.parts if one.content is not None else None
    if not parts:
        raise _refuse(f"{field} is not specified.", field)
    if any(part.text is None for part in parts):
        message = f"{field}: only text can be embedded by this model's provider."
        raise _refuse(message, field + ".parts", "unsupported_parameter")
    return "\n".join(part.text or "" for part in parts)


def write_gemini(asked: Embedding, model: str) -> tuple[bytes, Method]:
    """A request for a provider, and its method: one text or several, a batch always."""
    each: dict[str, object] = {"model": _MODELS + model.removeprefix(_MODELS)}
    if asked.dimensions is not None:
        each["outputDimensionality"] = asked.dimensions
    requests = [{**each, "content": {"parts": [{"text": text}]}} for text in asked.inputs]
    return msgspec.json.encode({"requests": requests}), "batchEmbedContents"


def read_gemini_answer(body: bytes) -> Vectors | None:
    """Read a provider's vectors; None where the body is no such answer."""
    found = lenient.decode(_GEMINI_ANSWER, body)
    if found is None:
        return None
    several = found.embeddings
    if several is None:
        several = [found.embedding] if found.embedding is not None else None
    if several is None:
        return None
    vectors = tuple(one.values for one in several)
    if not vectors or any(memoryview(one)[0] != 0x5B for one in vectors):
        return None
    return Vectors(vectors, gemini.read_usage(found.usage_metadata))


def write_gemini_answer(found: Vectors, asked: Embedding) -> bytes:
    """The answer for a Gemini caller: one vector, or several."""
    vectors = [{"values": one} for one in found.vectors]
    document: dict[str, object]
    document = {"embedding": vectors[0]} if asked.single else {"embeddings": vectors}
    if found.usage is not None:
        document["usageMetadata"] = {"promptTokenCount": found.usage.input_tokens}
    return msgspec.json.encode(document)


# -- Vectors -----------------------------------------------------------------------------------

_FLOATS = msgspec.json.Decoder(list[float])


def _packed(vector: Raw) -> str:
    """A vector as base64 of 32-bit floats."""
    values = lenient.decode(_FLOATS, vector)
    try:
        packed = struct.pack(f"<{len(values or ())}f", *values or ())
    except OverflowError:
        values = None
    if not values:
        message = "The upstream answered with a vector that is none"
        raise GatewayError("bad_upstream_response", message, stage="upstream_status")
    return base64.b64encode(packed).decode()


def _numbers(vector: Raw) -> Raw:
    """A provider's vector as a JSON array, also where it sent base64; empty if it is neither."""
    if memoryview(vector)[0] == 0x5B:
        return vector
    text = lenient.decode(_STRING, vector)
    try:
        packed = base64.b64decode(text or "", validate=True)
        values = struct.unpack(f"<{len(packed) // 4}f", packed)
    except (binascii.Error, struct.error):
        return Raw()
    return Raw(msgspec.json.encode(values)) if values else Raw()
