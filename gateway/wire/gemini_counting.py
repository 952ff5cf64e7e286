"""Gemini's countTokens: a request to be counted, and the count.

The body has turns alone (`contents`) or a whole request (`generateContentRequest`, which names its
model as `models/…`). What is counted is a `Request` like any other, so that any format can count
it. Pure. Source: ai.google.dev API reference, "models.countTokens" (November 2026).
"""

import msgspec

from gateway.wire import gemini_bodies, gemini_outgoing, lenient
from gateway.wire.conversation import Request
from gateway.wire.format import Toward
from gateway.wire.gemini_requests import request_of


class _Counted(msgspec.Struct, rename="camel", gc=False):
    total_tokens: lenient.Count | None = None


_ANSWER = msgspec.json.Decoder(_Counted)


def read_count_request(body: bytes, *, model: str | None) -> Request:
    """The request that a countTokens body asks about; `model` is the path's.

    Raises `GatewayError` as `read_request` does, fields named from the body's top.
    """
    outer, read = gemini_bodies.decode_count(body)
    named = (outer.model or "").removeprefix("models/")
    return request_of(read, model=model or named or None, stream=False)


def write_count_request(request: Request, toward: Toward) -> tuple[bytes, list[str]]:
    """A countTokens body of a whole request, and the caller's fields that were left out.

    Raises as `write_request` does. Google counts system text and tools only in this form.
    """
    document, ignored = gemini_outgoing.document_of(request, toward)
    named = {"model": f"models/{toward.model}", **document}
    return msgspec.json.encode({"generateContentRequest": named}), ignored


def read_count_answer(body: bytes) -> int | None:
    """How many tokens an answer tells; None where it tells none."""
    found = lenient.decode(_ANSWER, body)
    return found.total_tokens if found is not None else None


def write_count_answer(tokens: int) -> bytes:
    """The answer for a caller."""
    return b'{"totalTokens":%d}' % tokens
