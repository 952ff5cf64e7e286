"""One HTTP/1.1 connection to an upstream, on httptools.

Bytes from the socket become calls on a `Sink`: `head`, any number of `body`, then exactly one of
`end` or `broken`. All calls come from the event loop, synchronously from the read that caused
them: no task, no future, no queue. A connection serves one sink at a time and returns itself to
its pool when an answer ended cleanly. Used by `upstream.py` only.
"""

import asyncio
import math
from typing import TYPE_CHECKING, Protocol, cast

import httptools

if TYPE_CHECKING:
    from gateway.proxy.upstream import Pool

HEAD_BYTES_MAX = 64 * 1024
"""Bounds the memory that an upstream's endless header section can take."""

Lines = list[bytes]
"""An answer's head: its status line, then its header lines, without line ends."""


class Broken(Exception):
    """An exchange with an upstream failed; mapped from every foreign exception here.

    `kind` is what happened: `connect` (never reached it), `stale` (a reused connection closed
    before its first byte: safe to repeat once), `timeout_first_byte`, `timeout_idle`, `cut`
    (closed in the middle), `garbage` (not HTTP), `client_stalled` (the client stopped reading),
    `gateway` (our own fault).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Sink(Protocol):
    """Who receives one answer."""

    def head(self, status: int, lines: Lines) -> None:
        """The head is in; those of informational (1xx) answers are not told."""

    def body(self, data: bytes) -> None:
        """The next piece of the body, transfer encoding removed."""

    def end(self) -> None:
        """The body is complete."""

    def broken(self, error: Broken) -> None:
        """No more will come, and what came is not complete."""


class UpstreamConnection(asyncio.Protocol):
    """An `asyncio.Protocol`; see the module docstring."""

    __slots__ = (
        "_bodyless",
        "_closed",
        "_drain",
        "_head",
        "_informational",
        "_keep_alive",
        "_parser",
        "_pool",
        "_time",
        "_transport",
        "_write_paused",
        "answering",
        "expires_at",
        "first_byte_by",
        "last_activity",
        "paused",
        "request_done",
        "reused",
        "sink",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._time = pool.loop.time
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head = b""
        """The bytes of an answer's head: its lines are cut from it, llhttp only checks them."""
        self._bodyless = False
        self._informational = False
        self._keep_alive = False
        self._closed = False
        self._drain: asyncio.Future[None] | None = None
        self._write_paused = False
        self.sink: Sink | None = None
        self.answering = False
        """True from the first byte of an answer on."""
        self.paused = False
        self.reused = False
        self.request_done = True
        """False while the body of a streamed request is still being sent."""
        self.last_activity = 0.0
        self.expires_at = 0.0
        self.first_byte_by = math.inf
        """Loop time by which this request's answer must have begun, whatever the origin allows.
        For one request: the pool gives a connection out without."""

    # -- for the pool and the exchange ---------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether another request can be sent on it."""
        return not self._closed and self.sink is None

    def send(self, sink: Sink, data: bytes, *, bodyless: bool = False) -> None:
        """Send a whole request; the answer goes to `sink`.

        `bodyless` says that the answer has no body whatever its headers say (HEAD).
        """
        self.sink = sink
        self._bodyless = bodyless
        self.answering = False
        self._head = b""
        self.last_activity = self._time()
        assert self._transport is not None
        self._transport.write(data)

    def write(self, data: bytes) -> None:
        """Send a further piece of a streamed request body."""
        self.last_activity = self._time()
        if self._transport is not None:
            self._transport.write(data)

    def write_buffer_bytes(self) -> int:
        """Bytes of the request that the upstream has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def writable(self) -> None:
        """Wait until the upstream took what was written, or the connection is gone."""
        if self._write_paused and self._transport is not None:
            self._drain = self._pool.loop.create_future()
            await self._drain

    def pause(self) -> None:
        """Stop reading: the client does not keep up."""
        if not self.paused and self._transport is not None:
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.paused and self._transport is not None:
            self.paused = False
            self.last_activity = self._time()
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once and tell the sink nothing more."""
        self.sink = None
        self._close()

    def fail(self, error: Broken) -> None:
        """Close at once and tell the sink why."""
        sink, self.sink = self.sink, None
        self._close()
        if sink is not None:
            sink.broken(error)

    def _close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.sink is None:
            # Nothing was asked: an unsolicited answer must never reach the next request.
            self._close()
            return
        self.last_activity = self._time()
        if not self.answering:
            if len(self._head) > HEAD_BYTES_MAX:
                self.fail(Broken("garbage", "the upstream's headers are too large"))
                return
            self._head += data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._parse_failed(exc)

    def _parse_failed(self, exc: httptools.HttpParserError) -> None:
        if self.sink is None:
            self._close()
            return
        context = exc.__context__
        if isinstance(exc, httptools.HttpParserCallbackError) and context is not None:
            # Ours, not the upstream's: a sink raised.
            self.fail(Broken("gateway", f"internal error: {type(context).__name__}"))
            raise context
        kind = "cut" if self.answering else "garbage"
        self.fail(Broken(kind, "the upstream's answer is not valid HTTP"))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._transport = None
        self.resume_writing()
        self._pool.lost(self)
        sink, self.sink = self.sink, None
        if sink is None:
            return
        if self.answering and exc is None and not self._framed():
            sink.end()  # RFC 9112 §6.3 rule 8: the close is the end of such a body
        elif self.answering:
            sink.broken(Broken("cut", "the upstream closed the connection in mid-answer"))
        elif self.reused and not self._head:
            sink.broken(Broken("stale", "a pooled connection had been closed by the upstream"))
        else:
            sink.broken(Broken("cut", "the upstream closed the connection without an answer"))

    def _framed(self) -> bool:
        """Whether the answer says where its body ends."""
        fields = self._head.partition(b"\r\n\r\n")[0].lower()
        return b"\r\ncontent-length:" in fields or b"\r\ntransfer-encoding:" in fields

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    # -- httptools callbacks -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.sink is None:
            self._close()  # a second answer behind the first must not meet the next request

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._informational = True
            self._head = self._head.partition(b"\r\n\r\n")[2]
            return
        self.answering = True
        # Read here: after the last byte llhttp has begun to look at the next message.
        self._keep_alive = self._parser.should_keep_alive()
        sink = self.sink
        if sink is not None:
            head = self._head
            sink.head(status, head[: head.find(b"\r\n\r\n")].split(b"\r\n"))
            if self._bodyless:
                self._keep_alive = False  # llhttp would wait for the body that HEAD never sends
                self._finish()

    def on_body(self, data: bytes) -> None:
        sink = self.sink
        if sink is not None:
            sink.body(data)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            return
        self._finish()

    def _finish(self) -> None:
        sink, self.sink = self.sink, None
        if self._keep_alive and self.request_done and not self._closed:
            self.resume()
            self._pool.release(self)
        else:
            self._close()
            self._pool.lost(self)
        if sink is not None:
            sink.end()
