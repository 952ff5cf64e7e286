"""A client on raw sockets: it reads exactly as far as it is told, and leaves as it is told."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

_LINGER_NOT = struct.pack("ii", 1, 0)
READ_S = 30.0
"""Nothing in these tests takes nearly as long: what does, hangs."""


class Incomplete(Exception):
    """The connection ended before the answer's own framing did."""


@dataclass
class Answer:
    """What was received. `whole` says that the framing came to its end."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False

    @property
    def receipt_id(self) -> str:
        return self.headers[b"x-badgr-receipt-id"].decode()


class Client:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, data: bytes) -> Answer:
        """Send a request and read its whole answer; Incomplete where it is cut off."""
        self.send(data)
        answer = await self.read()
        if not answer.whole:
            raise Incomplete
        return answer

    async def read(self, body_bytes: int | None = None) -> Answer:
        """Read an answer to its end, or until `body_bytes` of its body are here."""
        answer = Answer()
        try:
            async with asyncio.timeout(READ_S):
                await self._head(answer)
                await self._body(answer, body_bytes)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        return answer

    async def _head(self, answer: Answer) -> None:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].split(b"\r\n")
        answer.status = int(first.split(b" ")[1])
        for line in lines:
            name, _, value = line.partition(b":")
            answer.headers[name.strip().lower()] = value.strip()

    async def _body(self, answer: Answer, enough: int | None) -> None:
        length = answer.headers.get(b"content-length")
        if length is not None:
            left = int(length)
            while left and (enough is None or len(answer.body) < enough):
                answer.body += (piece := await self._some(left))
                left -= len(piece)
            answer.whole = not left
            return
        while enough is None or len(answer.body) < enough:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            left = size
            while left:
                answer.body += (piece := await self._some(left))
                left -= len(piece)
            await self.reader.readexactly(2)
            if size == 0:
                answer.whole = True
                return

    async def _some(self, most: int) -> bytes:
        piece = await self.reader.read(most)
        if not piece:
            raise ConnectionResetError
        return piece

    async def leave(self, *, reset: bool = False) -> None:
        """Close, with FIN or with RST."""
        if reset:
            raw: socket.socket = self.writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # closed already, by the other side
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self.writer.transport.abort()
        else:
            self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def ask(port: int, data: bytes) -> Answer:
    """One request on a connection of its own; a cut answer has `whole` False."""
    client = await Client.connect(port)
    try:
        client.send(data)
        return await client.read()
    finally:
        await client.leave()
