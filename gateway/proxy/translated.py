"""Calls to an upstream that speaks another format than its caller: requests out, answers back.

The relays are those of `passthrough.py` with a reader and a writer inside: a stream is translated
event by event as it comes (`TranslatedStream` over `wire.translate.TranslatingTap`), anything else
is kept whole and translated at its end (`TranslatedBody`). What the upstream says of an error
becomes one of the caller's format, with its status; a stream that ends without its end, cleanly
or not, is an error to the caller and never a normal stop. The sender asks for a `request`, which
leaves the `Foreign` call on its exchange; `relaying.py` asks that for the relay of its answer.

Conversations are here; `translated_embeddings.py` and `counting.py` have the other calls.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

import msgspec

from gateway.config import Family
from gateway.errors import GatewayError
from gateway.proxy import errors, headers
from gateway.proxy.connection import Broken
from gateway.proxy.headers import Answer, retry_lines
from gateway.proxy.passthrough import Buffered, Relay, Streamed
from gateway.proxy.routing import Target
from gateway.proxy.server import head
from gateway.wire import registry
from gateway.wire.conversation import Answer as Answered
from gateway.wire.conversation import AnswerError
from gateway.wire.format import Asked, BodyTap, Toward
from gateway.wire.neutral import Metered
from gateway.wire.translate import TranslatingTap, Translation, metered_of

if TYPE_CHECKING:
    from gateway.proxy.admission import Plan
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.sending import Remembered

IGNORED_CHARS_MAX = 1000
"""Of the names of ignored fields in a header: callers make them up."""


_PATHS = {
    "openai_chat": "chat/completions",
    "openai_responses": "responses",
    "anthropic_messages": "messages",
}
_FAMILIES: dict[str, Family] = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "openai_embeddings": "openai",
    "anthropic_messages": "anthropic",
    "gemini": "gemini",
    "gemini_embeddings": "gemini",
}
_FIXED_LINES = {"anthropic_messages": b"anthropic-version: 2023-06-01\r\n"}
_JSON = b"Content-Type: application/json\r\nAccept-Encoding: identity\r\n"


class Foreign(Protocol):
    """One call to a target of another format, as its exchange keeps it."""

    def relay(self, exchange: "Exchange", status: int, answer: Answer) -> Relay:
        """The relay for the answer."""
        ...


class Whole(Protocol):
    """What a `TranslatedBody` is told of its call.

    `ignored` are the caller's fields that were left out, `told` header lines of the answer, known
    once it is made. `streams` says that the answer is made as a stream, in one piece.
    """

    @property
    def ignored(self) -> Sequence[str]: ...

    @property
    def told(self) -> bytes: ...

    @property
    def streams(self) -> bool: ...

    def tap(self) -> BodyTap | None:
        """The meter of the upstream's format; None where there is nothing to be metered."""
        ...

    def read_error(self, status: int, body: bytes) -> AnswerError:
        """What an error answer of the upstream says."""
        ...

    def answer(self, body: bytes, metered: Metered | None) -> bytes | AnswerError | None:
        """The answer in the caller's format; the error it tells of; None: it is none."""
        ...


def request(
    exchange: "Exchange", plan: "Plan", target: Target, memory: "Remembered | None" = None
) -> bytes:
    """A conversation as a target of another format gets it; leaves its call on the exchange.

    `memory` keeps the head that goes with the caller's, where it is the same for each request.
    Raises `GatewayError` where it cannot be said in the target's format.
    """
    endpoint, claim = exchange.endpoint, exchange.claim
    assert target.speaks is not None
    caller, upstream = registry.dialect(endpoint.format), registry.dialect(target.speaks)
    if plan.request is None:
        streams = endpoint.streams if endpoint.family == "gemini" else None
        plan.request = caller.read_request(plan.body, model=endpoint.model, stream=streams)
    wanted = plan.request
    if claim is not None and claim.max_output_tokens is not None:
        wanted = msgspec.structs.replace(wanted, max_output_tokens=claim.max_output_tokens)
    translation = Translation(caller, upstream, wanted)
    body = translation.body(toward(exchange, target))
    exchange.translation = Conversation(translation)
    if memory is None:
        return outgoing(exchange, plan, target, _path(target, stream=wanted.stream), body)
    key = None if exchange.key is None else exchange.key.text
    if memory.target is not target or memory.key != key or memory.stream is not wanted.stream:
        memory.head = _start(exchange, plan, target, _path(target, stream=wanted.stream))
        memory.target, memory.key, memory.stream = target, key, wanted.stream
    return _with_body(memory.head, body)


def _path(target: Target, *, stream: bool) -> str:
    """Where a target takes conversations, relative to its base URL."""
    assert target.speaks is not None
    if target.speaks == "gemini":
        return gemini_path(target, "streamGenerateContent?alt=sse" if stream else "generateContent")
    return _PATHS[target.speaks]


def family_of(wire_format: str) -> Family:
    """Whose credentials and errors go with a format that a target speaks."""
    return _FAMILIES[wire_format]


def toward(exchange: "Exchange", target: Target) -> Toward:
    """The model that a request to a target is written for."""
    known = exchange.services.router.known(target)
    longest = None if known is None else known.max_output_tokens
    return Toward(target.model, target.provider.catalog_name, longest)


def gemini_path(target: Target, method: str) -> str:
    """The path of a method of Gemini's, relative to the base URL."""
    return f"models/{quote(target.model, safe='')}:{method}"


def outgoing(exchange: "Exchange", plan: "Plan", target: Target, path: str, body: bytes) -> bytes:
    """A request to a target in the format that it speaks, head and body in one piece.

    Of the caller's own header fields nothing goes along but the user agent: the others belong to
    the caller's format.
    """
    return _with_body(_start(exchange, plan, target, path), body)


def _with_body(start: bytes, body: bytes) -> bytes:
    return b"%bContent-Length: %d\r\n\r\n%b" % (start, len(body), body)


def _start(exchange: "Exchange", plan: "Plan", target: Target, path: str) -> bytes:
    """The head, but for its framing and the blank line."""
    assert target.speaks is not None
    key = exchange.key
    family = family_of(target.speaks)
    credential = b"" if key is None else headers.provider_credential(family, key.text)
    agent = plan.inbound.notes.get(b"user-agent")
    if agent is not None:
        credential += b"User-Agent: %b\r\n" % agent
    return b"POST %b/%b HTTP/1.1\r\nHost: %b\r\n%b%b%b" % (
        target.base.prefix.encode(), path.encode(), target.base.origin.netloc.encode(), credential,
        _FIXED_LINES.get(target.speaks, b""), _JSON,
    )  # fmt: skip


class Conversation:
    """A call of one chat format to a target of another; see `Foreign` and `Whole`.

    It is its own tap: what its answer reports of itself need not be read from it twice.
    """

    __slots__ = ("_asked", "_body", "_found", "_translation", "ignored", "streams")

    told = b""

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self.ignored: Sequence[str] = translation.ignored
        self.streams = translation.request.stream
        self._body = b""
        self._found: Answered | None = None

    def relay(self, exchange: "Exchange", status: int, answer: Answer) -> Relay:
        """See `Foreign.relay`."""
        translation = self._translation
        self._asked = asked = Asked(
            translation.request, exchange.model, exchange.id, exchange.opened().created_ms // 1000,
            exchange.endpoint.array,
        )  # fmt: skip
        streamed = answer.content_type == b"text/event-stream" and answer.content_encoding is None
        if status < 300 and streamed and self.streams:
            lines = _head(exchange, self, 200, stream=True)
            return TranslatedStream(exchange, lines, translation.tap(asked))
        return TranslatedBody(exchange, self, status, answer)

    def tap(self) -> BodyTap:
        """See `Whole.tap`."""
        return self

    def feed(self, data: bytes) -> None:
        """See `BodyTap.feed`."""
        self._body += data

    def metered(self) -> Metered:
        """See `BodyTap.metered`."""
        body = self._body
        self._found = found = self._translation.read(body)
        counted = found is not None and found.usage is not None and found.error is None
        if found is not None and counted and body.find(b'"error"') < 0:
            return metered_of(found)
        # Nothing was counted, or there is more to be told.
        tap = registry.body_tap(self._translation.upstream.name)
        tap.feed(body)
        return tap.metered()

    def read_error(self, status: int, body: bytes) -> AnswerError:
        """See `Whole.read_error`."""
        return self._translation.upstream.read_error(status, body)

    def answer(self, body: bytes, metered: Metered | None) -> bytes | AnswerError | None:
        """See `Whole.answer`."""
        found = self._found
        if found is None or found.error is not None:
            return None if found is None else found.error
        return self._translation.written(found, self._asked)


def _head(
    exchange: "Exchange", call: Whole, status: int, *, stream: bool, more: bytes = b""
) -> bytes:
    kind = b"application/json"
    if stream and not exchange.endpoint.array:
        kind = b"text/event-stream"
        more += b"Cache-Control: no-cache\r\n"
    if stream:
        more += b"X-Accel-Buffering: no\r\n"
    if call.ignored:
        names = ", ".join(call.ignored)[:IGNORED_CHARS_MAX]
        told = names.encode("ascii", "replace").replace(b"\r", b"?").replace(b"\n", b"?")
        more += b"X-Gateway-Ignored: %b\r\n" % told
    if exchange.upstream_request_id is not None:
        more += b"X-Upstream-Request-Id: %b\r\n" % exchange.upstream_request_id.encode("latin-1")
    return head(status, b"content-type: %b\r\n%b%b" % (kind, more, exchange.own_lines()))


class TranslatedStream(Streamed):
    """A stream, translated as it comes."""

    __slots__ = ("_translating",)

    def __init__(self, exchange: "Exchange", head: bytes, tap: TranslatingTap) -> None:
        super().__init__(exchange, head, tap)
        self._translating = tap

    def body(self, data: bytes) -> None:
        tap = self._translating
        out = tap.feed(data)
        if self._state != "open" or tap.terminal:
            self._take(out)
        elif out:
            # Nearly every read of a stream ends here.
            out = self._fit(out)
            if out[:1] != b":" or b"\ndata:" in out:
                self._last = out
            self._write(self._frame(out))

    def end(self) -> None:
        tap = self._translating
        if self._state in ("held", "open") and not tap.terminal:
            self.pass_on(tap.end())
            if not tap.terminal and tap.metered().fault is None:
                self._cut(
                    GatewayError(
                        "upstream_error", "The upstream's stream ended before its end",
                        stage="upstream_stream",
                    )
                )  # fmt: skip
                return
        super().end()

    def broken(self, error: Broken) -> None:
        tap = self._translating
        if self._state in ("held", "open") and not tap.terminal:
            # Everything may have been said, with only the end of the framing missing.
            self.pass_on(tap.end())
        super().broken(error)

    def _said_all(self) -> bool:
        return self._translating.terminal


class TranslatedBody(Buffered):
    """Anything but a stream: kept whole, translated at its end."""

    __slots__ = ("_call", "_retry", "_status")

    def __init__(self, exchange: "Exchange", call: Whole, status: int, answer: Answer) -> None:
        super().__init__(exchange, b"", call.tap())
        self._call = call
        self._status = status
        self._retry = retry_lines(answer.lines) if status >= 300 else b""

    def _overflow(self) -> None:
        """Kept whole however long: the exchange bounds it."""

    def end(self) -> None:
        body = b"".join(self._pieces)
        call = self._call
        if self._status >= 300:
            self._fail(call.read_error(self._status, body), self._status)
            return
        metered = None
        if self._tap is not None:
            self._tap.feed(body)
            metered = self._tap.metered()
        out = call.answer(body, metered)
        if out is None:
            self.exchange.refuse_answer(
                "bad_upstream_response",
                "The upstream's answer is not of its format",
                "upstream_status",
            )
            return
        if isinstance(out, AnswerError):
            self._refused(out)
            return
        self._head = _head(self.exchange, call, 200, stream=call.streams, more=call.told)
        self._pieces = [out]
        self.settled = True
        self.exchange.answered(metered, self._durable)

    def _refused(self, error: AnswerError) -> None:
        """200, and yet no answer: a blocked prompt, a failed response."""
        code = "invalid_request" if error.type == "content_filter" else "bad_upstream_response"
        told = self._fit(error.message.encode("utf-8", "replace")).decode()
        message = told or "The upstream gave no answer"
        self.exchange.refuse_answer(code, message, "upstream_status")

    def _fail(self, error: AnswerError, status: int) -> None:
        """An error answer, in the caller's format and with its status."""
        exchange = self.exchange
        shown = errors.foreign_status(status, exchange.endpoint.family)
        self._head = _head(exchange, self._call, shown, stream=False, more=self._retry)
        self._pieces = [errors.foreign(shown, error, exchange.endpoint.family, exchange.id)]
        self.settled = True
        exchange.answered(None, self._durable)
