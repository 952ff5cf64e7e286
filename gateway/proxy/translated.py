"""Calls to an upstream that speaks another format than its caller: requests out, answers back.

The relays are those of `passthrough.py` with a reader and a writer inside: a stream is translated
event by event as it comes (`TranslatedStream` over `wire.translate.TranslatingTap`), anything else
is kept whole and translated at its end (`TranslatedBody`). What the upstream says of an error
becomes one of the caller's format, with its status; a stream that ends without its end, cleanly
or not, is an error to the caller and never a normal stop. Used by the sender (`request`) and
`relaying.py` (`choose`).
"""

from typing import TYPE_CHECKING
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
from gateway.wire.conversation import AnswerError
from gateway.wire.format import Asked, Toward
from gateway.wire.translate import TranslatingTap, Translation

if TYPE_CHECKING:
    from gateway.proxy.admission import Plan
    from gateway.proxy.exchange import Exchange

IGNORED_CHARS_MAX = 1000
"""Of the names of ignored fields in a header: callers make them up."""


_PATHS = {
    "openai_chat": "chat/completions",
    "openai_responses": "responses",
    "anthropic_messages": "messages",
}
_FIXED_LINES = {"anthropic_messages": b"anthropic-version: 2023-06-01\r\n"}
_JSON = b"Content-Type: application/json\r\nAccept-Encoding: identity\r\n"


def request(exchange: "Exchange", plan: "Plan", target: Target) -> bytes:
    """The request as a target of another format gets it; sets the exchange's translation.

    Of the caller's own header fields nothing goes along but the user agent: the others belong to
    the caller's format. Raises `GatewayError` where it cannot be said in the target's format.
    """
    services, endpoint, claim = exchange.services, exchange.endpoint, exchange.claim
    assert target.speaks is not None
    caller, upstream = registry.dialect(endpoint.format), registry.dialect(target.speaks)
    if plan.request is None:
        streams = endpoint.streams if endpoint.family == "gemini" else None
        plan.request = caller.read_request(plan.body, model=endpoint.model, stream=streams)
    wanted = plan.request
    if claim is not None and claim.max_output_tokens is not None:
        wanted = msgspec.structs.replace(wanted, max_output_tokens=claim.max_output_tokens)
    translation = exchange.translation = Translation(caller, upstream, wanted)
    known = services.router.known(target)
    longest = None if known is None else known.max_output_tokens
    body = translation.body(Toward(target.model, target.provider.catalog_name, longest))
    if target.speaks == "gemini":
        method = "streamGenerateContent?alt=sse" if wanted.stream else "generateContent"
        path = f"models/{quote(target.model, safe='')}:{method}"
    else:
        path = _PATHS[target.speaks]
    family = _FAMILIES[target.speaks]
    key = exchange.key
    credential = b"" if key is None else headers.provider_credential(family, key.text)
    agent = plan.inbound.notes.get(b"user-agent")
    if agent is not None:
        credential += b"User-Agent: %b\r\n" % agent
    return b"POST %b/%b HTTP/1.1\r\nHost: %b\r\n%b%b%bContent-Length: %d\r\n\r\n%b" % (
        target.base.prefix.encode(), path.encode(), target.base.origin.netloc.encode(), credential,
        _FIXED_LINES.get(target.speaks, b""), _JSON, len(body), body,
    )  # fmt: skip


_FAMILIES: dict[str, Family] = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "anthropic_messages": "anthropic",
    "gemini": "gemini",
}


def choose(exchange: "Exchange", translation: Translation, status: int, answer: Answer) -> Relay:
    """The relay for an answer that is to be translated."""
    asked = Asked(
        translation.request, exchange.model, exchange.id, exchange.opened().created_ms // 1000,
        exchange.endpoint.array,
    )  # fmt: skip
    streamed = answer.content_type == b"text/event-stream" and answer.content_encoding is None
    if status < 300 and streamed and translation.request.stream:
        lines = _head(exchange, translation, 200, stream=True)
        return TranslatedStream(exchange, lines, translation.tap(asked))
    retry = retry_lines(answer.lines) if status >= 300 else b""
    return TranslatedBody(exchange, translation, asked, status, retry)


def _head(
    exchange: "Exchange", translation: Translation, status: int, *, stream: bool, more: bytes = b""
) -> bytes:
    kind = b"application/json"
    if stream and not exchange.endpoint.array:
        kind = b"text/event-stream"
        more += b"Cache-Control: no-cache\r\n"
    if stream:
        more += b"X-Accel-Buffering: no\r\n"
    if translation.ignored:
        names = ", ".join(translation.ignored)[:IGNORED_CHARS_MAX]
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

    __slots__ = ("_asked", "_retry", "_status", "_translation")

    def __init__(
        self,
        exchange: "Exchange",
        translation: Translation,
        asked: Asked,
        status: int,
        retry: bytes,
    ) -> None:
        super().__init__(exchange, b"", registry.body_tap(translation.upstream.name))
        self._translation = translation
        self._asked = asked
        self._status = status
        self._retry = retry

    def _overflow(self) -> None:
        """Kept whole however long: the exchange bounds it."""

    def end(self) -> None:
        body = b"".join(self._pieces)
        if self._status >= 300:
            self._fail(self._translation.upstream.read_error(self._status, body), self._status)
            return
        assert self._tap is not None
        self._tap.feed(body)
        translation, asked = self._translation, self._asked
        stream = translation.request.stream
        translate = translation.streamed_answer if stream else translation.answer
        out = translate(body, asked)
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
        self._head = _head(self.exchange, translation, 200, stream=stream)
        self._pieces = [out]
        self.settled = True
        self.exchange.answered(self._tap.metered(), self._durable)

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
        self._head = _head(exchange, self._translation, shown, stream=False, more=self._retry)
        self._pieces = [errors.foreign(shown, error, exchange.endpoint.family, exchange.id)]
        self.settled = True
        exchange.answered(None, self._durable)
