"""The client's side: aiohttp's server protocol, thinned to what a proxy needs.

aiohttp parses (its C parser), keeps connections alive and serves every ordinary page. For proxied
paths `ClientConnection` hands the parsed message straight to the proxy as a `Downstream`: raw
header tuples in, ready bytes out, no `Request`, no `StreamResponse`, no task per request (each
costs more than the proxy's own work). Malformed requests get our own 400, which quotes nothing of
them: aiohttp's quotes header lines, credentials included. The version of aiohttp is pinned and
tests/proxy/test_server.py holds what is relied on.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from aiohttp import web
from aiohttp.http import HttpVersion10, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from gateway.errors import GatewayError

READ_BUFFER_BYTES = 1 << 18
"""Buffered per client before reading pauses; a 100 KB body arrives in one or two pieces."""

WRITE_BUFFER_BYTES_MAX = 1 << 16
"""Bytes to a slow client above which its upstream is paused: the bound on memory per reader."""

REASONS: dict[int, bytes] = {
    200: b"OK", 201: b"Created", 202: b"Accepted", 204: b"No Content", 206: b"Partial Content",
    301: b"Moved Permanently", 302: b"Found", 303: b"See Other", 304: b"Not Modified",
    307: b"Temporary Redirect", 308: b"Permanent Redirect", 400: b"Bad Request",
    401: b"Unauthorized", 402: b"Payment Required", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 408: b"Request Timeout", 409: b"Conflict",
    413: b"Content Too Large", 422: b"Unprocessable Content", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout", 529: b"Overloaded",
}  # fmt: skip

HEADERS_TOO_LARGE = (
    b'{"error":{"message":"A header line is over 16384 bytes, or there are too many","type":'
    b'"invalid_request_error","param":null,"code":"invalid_request"}}'
)

BAD_REQUEST = (
    b'{"error":{"message":"The request is not valid HTTP/1.1","type":"invalid_request_error",'
    b'"param":null,"code":"invalid_request"}}'
)


class Reader(Protocol):
    """What a client connection tells about its client while a request runs."""

    def client_paused(self) -> None:
        """The client does not keep up: its write buffer is above the mark."""

    def client_resumed(self) -> None:
        """The buffer drained."""


class Downstream:
    """The client's side of one request."""

    __slots__ = ("_body", "_connection", "_payload", "gone", "headers", "http10", "keep_alive",
                 "method", "ordered", "path", "query", "reader")  # fmt: skip

    def __init__(
        self, connection: "ClientConnection", message: RawRequestMessage, payload: StreamReader
    ) -> None:
        self._connection = connection
        self._payload = payload
        self._body: bytes | None = None
        self.method: str = message.method
        self.path, _, self.query = message.path.partition("?")
        self.headers: tuple[tuple[bytes, bytes], ...] = message.raw_headers
        self.http10 = message.version == HttpVersion10
        self.keep_alive = not message.should_close
        self.reader: Reader | None = None
        self.ordered: object = None
        """What `Proxied.begin` keeps of a request that it leaves to `serve`."""
        self.gone: Callable[[], None] | None = None
        """Called when the client leaves; what it is given after that goes nowhere."""

    @property
    def memory(self) -> object:
        """What `Proxied.begin` keeps of this connection's last request, for its next."""
        return self._connection.memory

    @memory.setter
    def memory(self, value: object) -> None:
        self._connection.memory = value

    @property
    def peer_gone(self) -> bool:
        """Whether the client closed its connection."""
        return self._connection.transport is None

    @property
    def body_read(self) -> bool:
        """Whether the whole body is here."""
        return self._payload.is_eof()

    def write(self, data: bytes) -> None:
        """Send bytes as they are; silently nothing once the client is gone."""
        transport = self._connection.transport
        if transport is not None:
            transport.write(data)

    def writer(self) -> Callable[[bytes], None]:
        """What `write` does, for who writes often; to be let go of when the client leaves."""
        transport = self._connection.transport
        return nowhere if transport is None else transport.write

    def paused(self) -> bool:
        """Whether the client's write buffer is above the mark now."""
        return self._connection.writing_paused

    def abort(self) -> None:
        """Cut the connection without a proper end: the answer is not complete."""
        self.keep_alive = False
        transport = self._connection.transport
        if transport is not None:
            transport.abort()

    def body_now(self, limit: int) -> bytes:
        """The whole body, where it is here (`body_read`); raises `request_too_large`."""
        body = self._body
        if body is None:
            body = self._body = self._payload.read_nowait(-1)
        if len(body) > limit:
            raise too_large(limit)
        return body

    async def body(self, limit: int, seconds: float) -> bytes:
        """The whole body.

        Raises `GatewayError` `request_too_large` above `limit`, `invalid_request` when it does
        not come within `seconds` or breaks off.
        """
        payload = self._payload
        if payload.is_eof():
            return self.body_now(limit)
        pieces: list[bytes] = []
        total = 0
        try:
            async with asyncio.timeout(seconds):
                while piece := await payload.readany():
                    total += len(piece)
                    if total > limit:
                        raise too_large(limit)
                    pieces.append(piece)
        except TimeoutError:
            self.keep_alive = False
            raise GatewayError(
                "invalid_request", f"The request body did not arrive within {seconds:g} s"
            ) from None
        except web.RequestPayloadError as exc:
            self.keep_alive = False
            raise GatewayError("invalid_request", "The request body is malformed") from exc
        return b"".join(pieces)

    def body_broke(self) -> None:
        """Tell who waits for the body that it will never be whole."""
        if not self._payload.is_eof():
            self._payload.set_exception(web.RequestPayloadError("malformed"))

    async def piece(self) -> bytes:
        """The next piece of a streamed body, b"" at its end; raises `GatewayError`."""
        try:
            return await self._payload.readany()
        except web.RequestPayloadError as exc:
            self.keep_alive = False
            raise GatewayError("invalid_request", "The request body is malformed") from exc


def nowhere(data: bytes) -> None:
    """Where bytes go that nobody reads any more."""


def too_large(limit: int) -> GatewayError:
    """The 413."""
    return GatewayError("request_too_large", f"The request body is over {limit} bytes")


def head(status: int, lines: bytes) -> bytes:
    """A status line and ready header lines, without the closing blank line."""
    return b"HTTP/1.1 %d %b\r\n%b" % (status, REASONS.get(status, b"Status"), lines)


class Proxied(Protocol):
    """Who serves proxied paths: `handler.Proxy`."""

    def begin(self, down: Downstream, done: Callable[[], None]) -> bool:
        """Serve without a task and call `done` at the end; False to be asked by `serve`."""

    async def serve(self, down: Downstream) -> None:
        """Serve any request."""


class ClientConnection(RequestHandler):
    """One client connection; see the module docstring."""

    __slots__ = ("_busy", "_declined", "downstream", "memory", "proxied")

    def __init__(self, manager: "ClientServer", **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self.proxied: Proxied = manager.proxied
        self.downstream: Downstream | None = None
        self._declined: Downstream | None = None
        self.memory: object = None
        self._busy = False
        """A request runs without a task: `start` must leave the queue alone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound the write buffer, then go on as aiohttp does."""
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        super().connection_made(transport)

    def pause_writing(self) -> None:
        """Tell the running exchange that its client does not keep up."""
        super().pause_writing()
        if self.downstream is not None and self.downstream.reader is not None:
            self.downstream.reader.client_paused()

    def resume_writing(self) -> None:
        """Tell it that it may go on."""
        super().resume_writing()
        if self.downstream is not None and self.downstream.reader is not None:
            self.downstream.reader.client_resumed()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Only what was paused: aiohttp parses nothing and resumes nothing otherwise, twice."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the running request at once; aiohttp also cancels its task, if it has one."""
        down = self.downstream
        super().connection_lost(exc)
        if down is not None and down.gone is not None:
            down.gone()

    def data_received(self, data: bytes) -> None:
        """Parse; begin a complete, common request at once, queue every other for `start`."""
        if self._force_close or self._close:
            return
        if self._payload_parser is not None or self._upgraded or self._parser is None:
            super().data_received(data)
            return
        messages: Sequence[Any]
        try:
            messages, upgraded, tail = self._parser.feed_data(data)
        except HttpProcessingError as exc:
            status = 431 if isinstance(exc, LineTooLong) else 400
            error = _ErrInfo(status=status, exc=exc, message=exc.message)
            messages, upgraded, tail = [(error, EMPTY_PAYLOAD)], False, b""
            self._body_broke()
        if not messages:
            return
        self._request_count += len(messages)
        waiter = self._waiter
        idle = waiter is not None and not waiter.done() and not self._busy
        if idle and len(messages) == 1 and not self._messages and not upgraded:
            message, payload = messages[0]
            if payload.is_eof() and self._begin(message, payload):
                return
        self._messages.extend(messages)
        if idle:
            self._wake()
        if not self._buffer_paused and len(self._messages) >= self._max_msg_queue_size:
            self._pause_reading_for_buffer()
        self._upgraded = upgraded
        if upgraded and tail:
            self._message_tail = tail

    def _body_broke(self) -> None:
        """What came cannot be parsed: if it was part of a body, aiohttp tells nobody."""
        if self.downstream is not None:
            self.downstream.body_broke()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _begin(self, message: Any, payload: StreamReader) -> bool:
        if not isinstance(message, RawRequestMessage) or message.method != "POST":
            return False
        if not is_proxied("POST", message.path):
            return False
        down = self.downstream = Downstream(self, message, payload)
        self._busy = True
        if not self.proxied.begin(down, self._done):
            self._busy = False
            self.downstream = None
            self._declined = down  # it may have read the body already
            return False
        if self._parser is not None:
            self._parser.message_consumed()
        return True

    def _done(self) -> None:
        """The request that ran without a task has its answer."""
        down, self.downstream = self.downstream, None
        self._busy = False
        if down is None or self.transport is None:
            return
        if not down.keep_alive or self._close or self._force_close:
            self.force_close()
            return
        self._rest()
        if self._messages:
            self._wake()

    def _process_keepalive(self) -> None:
        if self._busy:
            self._keepalive_handle = None  # `_rest` starts it again
        else:
            super()._process_keepalive()

    async def start(self) -> None:
        """Serve requests one after another until the connection ends."""
        try:
            while not self._force_close:
                if not self._messages:
                    if self._close:
                        break  # closed by `pre_shutdown` while nothing waited here
                    self._waiter = self._loop.create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                if not await self._next():
                    break
        finally:
            if not self._force_close:
                self._task_handler = None
                if self.transport is not None:
                    self.transport.close()

    async def _next(self) -> bool:
        """Serve the next request; False when the connection must close after it."""
        message, payload = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        assert self._manager is not None
        self._manager.requests_count += 1
        self._request_in_progress = True
        try:
            if not isinstance(message, RawRequestMessage):
                self._refuse(message.status)
                return False
            if not message.path.startswith("/") and message.url.absolute:
                # Absolute-form, as sent to proxies, must be accepted (RFC 9112 §3.2.2).
                message = message._replace(path=message.url.raw_path_qs)
            if is_proxied(message.method, message.path):
                keep = await self._proxy(message, payload)
            else:
                keep = await self._page(message, payload)
        finally:
            self._request_in_progress = False
            if self._handler_waiter is not None and not self._handler_waiter.done():
                self._handler_waiter.set_result(None)
        if not payload.is_eof() and not (keep and await self._drained(payload)):
            return False
        if not keep or self._close or self._force_close:
            return False
        self._rest()
        return True

    async def _proxy(self, message: RawRequestMessage, payload: StreamReader) -> bool:
        downstream, self._declined = self._declined, None
        if downstream is None:
            downstream = Downstream(self, message, payload)
        self.downstream = downstream
        try:
            await self.proxied.serve(downstream)
        except asyncio.CancelledError:
            self.force_close()
            raise
        finally:
            self.downstream = None
            downstream.reader = None
        # A declined upgrade leaves the parser set on raw bytes: no further request comes of it.
        return downstream.keep_alive and not self._upgraded

    async def _page(self, message: RawRequestMessage, payload: StreamReader) -> bool:
        """An ordinary request, through aiohttp's own way."""
        assert self._request_factory is not None
        assert self._request_handler is not None
        writer = web_writer(self, self._loop)
        task = self._task_handler or asyncio.current_task()
        assert task is not None
        request = self._request_factory(message, payload, self, writer, task)
        try:
            response, reset = await self._handle_request(request, None, self._request_handler)
        except ConnectionError:
            return False
        except asyncio.CancelledError:
            self.force_close()
            raise
        finally:
            request._task = None  # type: ignore[assignment]  # noqa: SLF001 - breaks the cycle
        return not reset and bool(response.keep_alive)

    def _refuse(self, status: int) -> None:
        if self.transport is not None:
            lines = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n"
            body = HEADERS_TOO_LARGE if status == 431 else BAD_REQUEST
            self.transport.write(head(status, lines % len(body)) + b"\r\n" + body)

    async def _drained(self, payload: StreamReader) -> bool:
        """Read off the rest of a body nobody wanted, for a while; False if it does not end."""
        with contextlib.suppress(TimeoutError, web.RequestPayloadError):
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof():
                    await payload.readany()
        return payload.is_eof()

    def _rest(self) -> None:
        """Start, or move on, the keep-alive clock."""
        close_time = self._loop.time() + self._keepalive_timeout
        self._next_keepalive_close_time = close_time
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)


def web_writer(connection: RequestHandler, loop: asyncio.AbstractEventLoop) -> Any:
    """The stock writer for one ordinary answer."""
    from aiohttp.http import StreamWriter

    return StreamWriter(connection, loop)


_PREFIXES = ("/v1/", "/v1beta/", "/api/v1/", "/api/v1beta/", "/upload/", "/api/upload/", "//")
_OWN = re.compile(
    r"^/(?:api/)?(?:v1|v1beta)(?:/v1|/v1beta)?/"
    r"(?:(?:receipts|models|account)(?:/[^?]*)?|usage)(?:\?.*)?$"
)
_REDEEM = re.compile(r"^/(?:api/)?v1(?:/v1)?/account/redeem(?:\?.*)?$")


def is_proxied(method: str, path: str) -> bool:
    """Whether a request is for the proxy rather than for the gateway's own pages.

    Reading receipts, models, the account and its usage is ours, and so is redeeming a code; every
    other `/v1…` is an upstream's.
    """
    if not path.startswith(_PREFIXES):
        return False
    if method == "POST":
        return "/account/redeem" not in path or _REDEEM.match(path) is None
    return not (method in ("GET", "HEAD") and _OWN.match(path))


class ClientServer(web.Server):
    """aiohttp's connection factory, making `ClientConnection`s.

    `proxied` serves paths of `is_proxied`, `handler` every other.
    """

    def __init__(self, proxied: Proxied, handler: Any, request_factory: Any) -> None:
        super().__init__(handler, request_factory=request_factory, handler_cancellation=True)
        self.proxied = proxied

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        return ClientConnection(
            self,
            loop=self._loop,
            access_log=None,
            tcp_keepalive=True,
            keepalive_timeout=75.0,
            read_bufsize=READ_BUFFER_BYTES,
            auto_decompress=False,
            max_line_size=16_384,
            max_field_size=16_384,
        )
