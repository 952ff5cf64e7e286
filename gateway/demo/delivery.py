"""Sends a `Reply` over the connection, exactly as the switches ask.

The bytes are written below aiohttp's response objects, because cutting a connection at a byte,
leaving the end of a body unframed or sending what is not HTTP is what the demo is for. Contract:
`deliver` returns an already sent response for aiohttp to log, raises `ConnectionError` when the
caller has left, and ends early when `closing` is set (the server is stopping). Used by `server.py`.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from gateway.demo.reply import Reply
from gateway.demo.switches import Framing, Switches

# Without handler cancellation aiohttp tells a waiting handler nothing when its caller leaves.
_DEPARTURE_POLL_S = 0.1

# Nothing tells when a transport's buffer has emptied without also being told when it fills.
_FLUSH_POLL_S = 0.01

# Shorter waits are slept in one go; longer ones watch for departure and shutdown.
_SLEEP_MAX_S = 0.5

_NOT_HTTP = b"\x16\x03\x01 this is not HTTP\r\n\x00\xff\xfe\r\n\r\n"

_NOT_JSON = b'{"id": "demo", "choices": [{"index": 0, "message": {"role": "assist'


class Sent(web.StreamResponse):
    """A response whose bytes have already gone; aiohttp only reads its status and keep-alive."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._reusable = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection can carry another request."""
        return self._reusable

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing is left to prepare."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


async def deliver(
    request: web.Request, reply: Reply, switches: Switches, closing: asyncio.Event
) -> Sent:
    """Send `reply` to the caller of `request` under `switches`."""
    connection = _Connection(request, closing)
    if switches.hang:
        await connection.hold()
    await connection.rest(switches.delay)
    if switches.reset or switches.hang:
        return await connection.reset()
    if switches.garbage:
        await connection.write(_NOT_HTTP)
        return Sent(502, keep_alive=False)
    if switches.badjson:
        reply = Reply(body=_NOT_JSON, headers=reply.headers)
    return await _send(connection, reply, switches)


async def _send(connection: "_Connection", reply: Reply, switches: Switches) -> Sent:
    request = connection.request
    framing = _framing(request, reply, switches)
    pieces = _pieces(reply, switches)
    if switches.close is not None:
        pieces = list(_until(pieces, switches.close))
    abrupt = switches.close is not None or framing == "close"
    keep_alive = request.keep_alive and not abrupt
    length = sum(map(len, pieces)) if framing == "length" else None
    head = _head(reply, framing, length, keep_alive=keep_alive)
    broken_at = switches.stall if switches.stall is not None else switches.cut
    if broken_at is not None:
        pieces = list(_until(pieces, broken_at))

    if reply.events is None:
        await connection.rest(switches.first)
        body = b"".join(_chunk(piece) if framing == "chunked" else piece for piece in pieces)
        await connection.write(head if request.method == hdrs.METH_HEAD else head + body)
    else:
        await connection.write(head)
        wait = switches.first
        for piece in pieces:
            await connection.rest(wait)
            await connection.write(_chunk(piece) if framing == "chunked" else piece)
            wait = switches.pace
    if switches.stall is not None:
        await connection.hold()
        return await connection.reset()
    if switches.cut is not None:
        return await connection.reset()
    if framing == "chunked" and request.method != hdrs.METH_HEAD:
        await connection.write(b"0\r\n\r\n")
    return Sent(reply.status, keep_alive=keep_alive)


class _Connection:
    """The caller's connection: writes, waits and the ways to end it."""

    def __init__(self, request: web.Request, closing: asyncio.Event) -> None:
        self.request = request
        self._closing = closing

    async def write(self, data: bytes) -> None:
        """Write as is; waits while the caller reads slowly. Empty data writes nothing."""
        if data:
            await self.request.writer.write(data)

    async def rest(self, wait_ms: int) -> None:
        """Wait; raises `ConnectionError` when the caller leaves or the server stops meanwhile."""
        if wait_ms <= _SLEEP_MAX_S * 1000:
            # Also for no wait at all: a long stream at full speed must let others have their turn.
            await asyncio.sleep(wait_ms / 1000)
        else:
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await self.hold()
            except TimeoutError:
                return
            raise ConnectionResetError("gone while waiting")

    async def hold(self) -> None:
        """Keep the connection open, silent, until the caller leaves or the server stops."""
        while not self._gone() and not self._closing.is_set():
            await self._tick(_DEPARTURE_POLL_S)

    async def reset(self) -> Sent:
        """End the TCP connection with a reset, after what was written before has left."""
        while not self._gone() and self._unsent() and not self._closing.is_set():
            await self._tick(_FLUSH_POLL_S)
        transport = self.request.transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                # Lingering for no time is how TCP says "reset"; a plain close would read as an end.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        return Sent(499, keep_alive=False)

    async def _tick(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def _unsent(self) -> bool:
        transport = self.request.transport
        return transport is not None and transport.get_write_buffer_size() > 0

    def _gone(self) -> bool:
        transport = self.request.transport
        return transport is None or transport.is_closing()


def _framing(request: web.Request, reply: Reply, switches: Switches) -> Framing:
    default: Framing = "length" if reply.events is None else "chunked"
    framing = switches.framing or default
    if framing == "chunked" and request.version < (1, 1):
        return "close"
    return framing


def _pieces(reply: Reply, switches: Switches) -> list[bytes]:
    if reply.events is None:
        return [reply.body]
    if switches.error is None or reply.fault is None:
        return reply.events
    # The last event closes the answer: an error after it would not be one.
    after = min(switches.error, len(reply.events) - 1)
    return [*reply.events[:after], *reply.fault(after)]


def _until(pieces: list[bytes], limit: int) -> Iterator[bytes]:
    for piece in pieces:
        if limit <= 0:
            return
        yield piece[:limit]
        limit -= len(piece)


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


def _head(reply: Reply, framing: Framing, length: int | None, *, keep_alive: bool) -> bytes:
    try:
        reason = HTTPStatus(reply.status).phrase
    except ValueError:
        reason = "Overloaded" if reply.status == 529 else "Unknown"
    lines = [
        f"HTTP/1.1 {reply.status} {reason}",
        f"date: {formatdate(usegmt=True)}",
        "server: demo",
        f"content-type: {reply.content_type}",
        *(f"{name}: {value}" for name, value in reply.headers.items()),
    ]
    if length is not None:
        lines.append(f"content-length: {length}")
    elif framing == "chunked":
        lines.append("transfer-encoding: chunked")
    lines.append(f"connection: {'keep-alive' if keep_alive else 'close'}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
