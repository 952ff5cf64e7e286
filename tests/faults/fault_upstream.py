"""An upstream made of raw sockets that does exactly what a script says, to the byte.

A request is recognised by the tag in its body; its `Script` is what `scripts` holds for the tag, or
what `make` makes of it. The script records what happened on the wire.
"""

import asyncio
import itertools
import re
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, TypeAlias

_TAG = re.compile(rb"tag-(\d{6,})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LINGER_NOT = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Pause:
    """The upstream thinks for a while."""

    seconds: float


Step: TypeAlias = bytes | Pause | Literal["hold", "cut", "reset", "stall", "retire"]
"""Bytes to send; `hold` waits for `go`; `cut` ends the connection, `reset` does so with RST;
`stall` says nothing until the other side closes; `retire` ends it unless another request came."""


@dataclass
class Script:
    """What to do with one request, and what came of it."""

    steps: Sequence[Step]
    more: Iterable[Step] = ()
    """Steps behind those, made as they are needed."""
    received: int = 0
    finished: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    at_hold: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """The gateway closed the connection before the script was through."""


@dataclass(frozen=True)
class Seen:
    """A request as it arrived: its number, its bytes, how many came before on its connection."""

    number: int
    head: bytes
    body: bytes
    earlier: int


class Upstream:
    """Use as an async context manager; `port` is where it listens."""

    def __init__(self, make: Callable[[Seen], Script] | None = None) -> None:
        self.make = make
        self.scripts: dict[int, Script] = {}
        self.connections: set[_Connection] = set()
        self.answering = 0
        self.accepted = 0
        self.bytes_in = 0
        self.port = 0
        self.drop_reused: Callable[[int], bool] = lambda _: False
        """Whether to close a used connection when its next request begins to come in."""
        self.dropped = 0

    async def __aenter__(self) -> "Upstream":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", 0, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.close()
        self.close_all()
        tasks = [one.task for one in self.connections if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def close_all(self) -> None:
        """Close every connection, so that only the gateway's own descriptors are left."""
        for connection in list(self.connections):
            connection.transport.abort()

    def script(self, seen: Seen) -> Script:
        script = self.scripts.get(seen.number)
        if script is None:
            assert self.make is not None, f"no script for {seen.number}"
            script = self.make(seen)
        return script


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.task: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()
        self._got = bytearray()
        self._served = 0
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def writable(self) -> bool:
        """False while the other side takes nothing."""
        return self._writable.is_set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.upstream.connections.add(self)
        self.upstream.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.upstream.connections.discard(self)
        self.lost.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._served and not self._got and self.upstream.drop_reused(self._served):
            self.upstream.dropped += 1
            self.transport.abort()
            return
        self._got += data
        self.upstream.bytes_in += len(data)
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._got[: end + 4])
        found = _LENGTH.search(head)
        size = int(found[1]) if found else 0
        if len(self._got) < len(head) + size:
            return
        body = bytes(self._got[len(head) : len(head) + size])
        self._got.clear()
        tag = _TAG.search(body)
        seen = Seen(int(tag[1]) if tag else -1, head, body, self._served)
        self._served += 1
        answer = self._answer(self.upstream.script(seen), self._served)
        self.task = asyncio.get_running_loop().create_task(answer)

    async def _answer(self, script: Script, number: int) -> None:
        script.received += 1
        self.upstream.answering += 1
        try:
            for step in itertools.chain(script.steps, script.more):
                if step == "retire":
                    script.finished += 1
                    self._retire(number)
                    return
                await self._step(step, script)
                if self.lost.is_set() and step not in ("cut", "reset"):
                    script.closed.set()
                    return
            script.finished += 1
        finally:
            self.upstream.answering -= 1

    def _retire(self, number: int) -> None:
        if number == self._served and not self._got:
            self.transport.close()

    async def _step(self, step: Step, script: Script) -> None:
        if isinstance(step, bytes):
            if not self.transport.is_closing():
                self.transport.write(step)
            await asyncio.sleep(0)
            await self._writable.wait()
        elif isinstance(step, Pause):
            await self._unless_lost(asyncio.sleep(step.seconds))
        elif step == "hold":
            script.at_hold.set()
            await self._unless_lost(script.go.wait())
        elif step == "stall":
            script.at_hold.set()
            await self.lost.wait()
        elif step == "reset":
            raw: socket.socket = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self.transport.abort()
            await self.lost.wait()
        else:
            self.transport.close()
            await self.lost.wait()

    async def _unless_lost(self, what: Coroutine[object, object, object]) -> None:
        """Wait for something, or for the end of the connection."""
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(what), loop.create_task(self.lost.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
