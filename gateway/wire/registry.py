"""The table of wire formats, and the taps that watch them.

A format is one file of this package, one line here and one folder of vectors. The proxy and the
demo upstream ask here; nothing else names a format's classes.
"""

from collections.abc import Callable
from typing import Literal, get_args

import msgspec

from gateway.wire import (
    anthropic_messages_dialect,
    gemini_dialect,
    openai_chat_dialect,
    openai_responses_dialect,
)
from gateway.wire.anthropic_messages import MessagesBodyTap, MessagesStreamTap
from gateway.wire.format import BodyTap, Dialect, StreamTap
from gateway.wire.gemini import GeminiArrayTap, GeminiBodyTap, GeminiStreamTap
from gateway.wire.native import NativeBodyTap, NativeStreamTap
from gateway.wire.openai_chat import ChatBodyTap, ChatStreamTap
from gateway.wire.openai_responses import ResponsesBodyTap, ResponsesStreamTap

FormatName = Literal[
    "openai_chat",
    "openai_responses",
    "openai_completions",
    "openai_embeddings",
    "anthropic_messages",
    "gemini",
    "gemini_embeddings",
    "native",
]


class WireFormat(msgspec.Struct, frozen=True):
    """How the answers of one format are watched."""

    name: FormatName
    stream: Callable[[], StreamTap]
    body: Callable[[], BodyTap]


_TABLE = (
    WireFormat("openai_chat", ChatStreamTap, ChatBodyTap),
    WireFormat("openai_responses", ResponsesStreamTap, ResponsesBodyTap),
    WireFormat("openai_completions", ChatStreamTap, ChatBodyTap),
    WireFormat("openai_embeddings", NativeStreamTap, ChatBodyTap),
    WireFormat("anthropic_messages", MessagesStreamTap, MessagesBodyTap),
    WireFormat("gemini", GeminiStreamTap, GeminiBodyTap),
    WireFormat("gemini_embeddings", NativeStreamTap, GeminiBodyTap),
    WireFormat("native", NativeStreamTap, NativeBodyTap),
)

FORMATS: dict[str, WireFormat] = {one.name: one for one in _TABLE}
assert tuple(FORMATS) == get_args(FormatName)


DIALECTS: dict[str, Dialect] = {
    one.name: one
    for one in (
        openai_chat_dialect.DIALECT,
        openai_responses_dialect.DIALECT,
        anthropic_messages_dialect.DIALECT,
        gemini_dialect.DIALECT,
    )
}
"""The formats that are translated into each other."""


def dialect(format: str) -> Dialect:
    """How a format is read and written. KeyError for one that is only passed through."""
    return DIALECTS[format]


def stream_tap(format: str, *, strip_usage: bool = False, json_array: bool = False) -> StreamTap:
    """Return a new tap for one streamed answer.

    `strip_usage` (openai_chat only) takes out the usage chunk that only the gateway asked for;
    `json_array` is a Gemini stream without `alt=sse`. KeyError for an unknown format.
    """
    if strip_usage and format == "openai_chat":
        return ChatStreamTap(strip_usage=True)
    if json_array and format == "gemini":
        return GeminiArrayTap()
    return FORMATS[format].stream()


def body_tap(format: str) -> BodyTap:
    """Return a new tap for one answer that is a JSON document. KeyError: unknown format."""
    return FORMATS[format].body()
