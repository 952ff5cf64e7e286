"""The Protocols a wire format's pieces satisfy. Sans-io: no await, no clock.

Passing through: a tap watches one answer pass and never changes what the client reads, except that
`StreamTap` takes out the one usage chunk that only the gateway asked for.

Translating: a `Dialect` reads and writes requests, answers, streams and errors of its format, by
way of the neutral model (`conversation.py`, `events.py`); it knows no other format.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from gateway.wire.conversation import Answer, AnswerError, Feature, Request, Support
from gateway.wire.events import Event
from gateway.wire.neutral import Metered


class StreamTap(Protocol):
    r"""Watches one streamed answer (SSE, or a Gemini JSON array) as its bytes go by.

    `feed` takes the bytes as they arrived, cut anywhere, and returns those that may go on to the
    client now: whole events only, so that an error event can always be added on a boundary, and a
    partial event waits (up to PARTIAL_EVENT_BYTES_MAX, after which it is let through). The
    common piece, whole events with nothing held and no error told, comes back as the same object.

    Once the format's terminal event (`data: [DONE]`, `message_stop`, `response.completed`,
    `response.incomplete`, `response.failed`) is in, `terminal` is True; that event and all that
    follows stay held until `release()`, so that the receipt is durable before it leaves.
    Everything `feed` and `release` return, joined, is what came in, byte for byte, less the
    stripped usage chunk.
    """

    terminal: bool
    content: bool
    """True once real content (not just an opening, a ping or a comment) has come."""

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; return what may be sent on now (possibly b"")."""
        ...

    def release(self) -> bytes:
        """Return everything held. After it `feed` passes all bytes straight through."""
        ...

    def drop_partial(self) -> bytes:
        """The upstream broke: return held whole events, discard a partial one."""
        ...

    def metered(self) -> Metered:
        """What is known so far; call at any time."""
        ...


class BodyTap(Protocol):
    """Watches one answer that is a single JSON document.

    `feed` whole or in pieces; memory is bounded however long the body is.
    """

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        ...

    def metered(self) -> Metered:
        """What the body reported; call once the last piece was fed."""
        ...


class Toward(msgspec.Struct, frozen=True):
    """The model that a request is written for.

    `provider` is the catalog's name of whose prices apply ("openai", "deepseek", …): compatible
    servers differ in details. `max_output_tokens` is what the catalog knows of the model.
    """

    model: str
    provider: str
    max_output_tokens: int | None = None


class Asked(msgspec.Struct, frozen=True):
    """What an answer is written for: the request as it was read, and what the gateway adds.

    `model` is the name that the caller used, `id` is unique per answer (letters, digits and
    dashes), `created_s` seconds since 1970. `array`: a Gemini stream as one JSON array.
    """

    request: Request
    model: str
    id: str
    created_s: int
    array: bool = False


class StreamReader(Protocol):
    """The bytes of a streamed answer, cut anywhere, to events that keep to `events.Grammar`.

    `feed` and `eof` raise nothing on account of the bytes but `Truncated` (from `eof`): what cannot
    be read becomes a `StreamError`. Usage is counted by the format's own meter, the one that its
    tap has. Memory is bounded (PARTIAL_EVENT_BYTES_MAX).
    """

    def feed(self, data: bytes) -> list[Event]:
        """Take the next piece; return what it completed (possibly nothing)."""
        ...

    def eof(self) -> list[Event]:
        """The upstream closed its answer cleanly. Raises `Truncated` unless it was at its end."""
        ...

    def metered(self) -> Metered:
        """What is known so far, as a tap tells it; call at any time."""
        ...


class StreamWriter(Protocol):
    """Events to the bytes of a streamed answer; a push state machine.

    `write` of a MessageEnd gives the format's terminal (nothing after it), of a StreamError the
    format's error event, of a Ping its keep-alive.
    """

    def write(self, event: Event) -> bytes:
        """The bytes for an event, possibly none."""
        ...


class Dialect(Protocol):
    """One format, for translation: its eight parts. All functions are pure.

    `support` says for every feature what the format makes of it; `translate.py` refuses and tells
    by it before `write_request` is called, so a writer refuses only values of what it supports.
    """

    name: str
    support: Mapping[Feature, Support]

    def read_request(self, body: bytes, *, model: str | None, stream: bool | None) -> Request:
        """Read a request; `model` and `stream` where the path says them (Gemini).

        Raises `GatewayError` `invalid_request` or `unsupported_parameter`; `param` is the field.
        """
        ...

    def write_request(self, request: Request, toward: Toward) -> tuple[bytes, list[str]]:
        """The body for an upstream of this format, and the caller's fields that were left out.

        Raises `GatewayError` `unsupported_parameter` with the caller's field as `param`.
        """
        ...

    def read_answer(self, body: bytes) -> Answer | None:
        """Read a whole answer; None where it is not one of this format."""
        ...

    def write_answer(self, answer: Answer, asked: Asked) -> bytes:
        """A whole answer as its caller's client reads it. `answer.error` is None."""
        ...

    def reader(self) -> StreamReader:
        """A reader for one stream."""
        ...

    def writer(self, asked: Asked) -> StreamWriter:
        """A writer for one stream."""
        ...

    def read_error(self, status: int, body: bytes) -> AnswerError:
        """What an error answer says, read tolerantly: any JSON, text, HTML, nothing."""
        ...
