"""What tests of a running gateway share: the gateway, a scripted upstream, a client, all raw.

Nothing here parses HTTP with a library that the gateway uses too, so that a fault of that library
cannot hide itself. `scenario` runs a test on uvloop, as the product does, within a time limit, and
fails it for anything that went unhandled in the loop.
"""

import asyncio
import contextlib
import functools
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Literal, ParamSpec

import msgspec
import uvloop

from gateway import config as cfg
from gateway.accounts.changes import UNLIMITED, KeySpec
from gateway.app import Gateway

P = ParamSpec("P")
Fields = list[tuple[bytes, bytes]]
Framing = Literal["length", "chunked", "close"]

FULL = os.environ.get("GATEWAY_TEST_SCALE") == "full"
"""Whether repetitions run in the numbers of a release check instead of in those of every run."""

SCENARIO_SECONDS = 900 if FULL else 90
READ_BYTES = 1 << 16
OWN_KEY = b"sk-caller-own-key-0123456789"


def scenario(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on a uvloop of its own; what nobody handled fails it."""

    async def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        unhandled: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: unhandled.append(what))
        async with asyncio.timeout(SCENARIO_SECONDS):
            await test(*args, **kwargs)
        assert not unhandled

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(guarded(*args, **kwargs))

    return run


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something to become true; TimeoutError when it does not."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - polls state of another party, bounded above
            await asyncio.sleep(0.002)


# --- the client -------------------------------------------------------------------------------


class Answer(msgspec.Struct):
    """What a client got. `complete` is False where the body lacks the end its framing promised."""

    status: int
    fields: Fields
    body: bytes
    complete: bool = True

    def all(self, name: bytes) -> list[bytes]:
        return [value for have, value in self.fields if have.lower() == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        return next(iter(self.all(name)), None)

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def receipt_id(self) -> str:
        found = self.get(b"X-Badgr-Receipt-Id")
        assert found is not None, self
        return found.decode()


class Client:
    """One connection, and what goes over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(
        self,
        method: str,
        target: str,
        fields: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
    ) -> Answer:
        await self.send(request_bytes(method, target, fields, body))
        return await self.answer(method)

    async def head(self) -> tuple[int, Fields]:
        """The next status line and header section, informational ones passed over."""
        while True:
            line = await self.reader.readuntil(b"\r\n")
            status = int(line.split(b" ", 2)[1])
            fields = await read_fields(self.reader)
            if status >= 200:
                return status, fields

    async def answer(self, method: str = "POST") -> Answer:
        status, fields = await self.head()
        answer = Answer(status, fields, b"")
        if method == "HEAD" or status in (204, 304):
            return answer
        body = bytearray()
        try:
            await self._body(answer, body)
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            body += getattr(exc, "partial", b"")
            answer.complete = False
        answer.body = bytes(body)
        return answer

    async def _body(self, answer: Answer, body: bytearray) -> None:
        if (size := answer.get(b"content-length")) is not None:
            assert answer.get(b"transfer-encoding") is None
            body += await self.reader.readexactly(int(size))
        elif answer.get(b"transfer-encoding") == b"chunked":
            async for piece in chunks(self.reader):
                body += piece
        else:
            body += await self.reader.read()

    async def piece(self) -> bytes:
        """One chunk of a chunked body; b"" at its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def closed(self, seconds: float = 5.0) -> bool:
        """Whether the gateway closes the connection without a further byte."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        reset(self.writer)


def request_bytes(
    method: str, target: str, fields: Iterable[tuple[bytes, bytes]] = (), body: bytes = b""
) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target.encode()), b"Host: gateway.test"]
    lines += [b"%b: %b" % field for field in fields]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def read_fields(reader: asyncio.StreamReader) -> Fields:
    fields = []
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        name, _, value = line[:-2].partition(b":")
        fields.append((name, value.strip()))
    return fields


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The pieces of a chunked body; IncompleteReadError where it breaks off."""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if not size:
            await read_fields(reader)
            return
        yield await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a crash or a firewall does."""
    found = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# --- the upstream -----------------------------------------------------------------------------


class Call:
    """One request as the upstream got it, and the way to answer it."""

    def __init__(self, head: bytes, connection: int, upstream: "Upstream") -> None:
        self.head = head
        first, *lines = head[:-4].split(b"\r\n")
        self.method, self.target, self.version = first.decode("latin-1").split(" ")
        self.fields: Fields = [
            (name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)
        ]
        self.connection = connection
        self.body = b""
        self.body_bytes = 0
        self._upstream = upstream
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    def all(self, name: bytes) -> list[bytes]:
        return [value for have, value in self.fields if have.lower() == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        return next(iter(self.all(name)), None)

    async def send(self, *pieces: bytes) -> None:
        """Write each piece for itself, so that the gateway reads it for itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def gone(self, seconds: float = 5.0) -> bool:
        """Whether the gateway closes the connection within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        reset(self.writer)


Script = Callable[[Call], Awaitable[None]]


class Upstream:
    """Answers every request by `script`; keeps the requests that came, in `calls`.

    `keep_bodies` False only counts the bytes of request bodies, for the very large.
    """

    def __init__(self, script: Script, *, keep_bodies: bool = True) -> None:
        self.script = script
        self.keep_bodies = keep_bodies
        self.calls: list[Call] = []
        self.connections = 0
        self.port = 0
        self.errors: list[BaseException] = []
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self, context: ssl.SSLContext | None = None) -> AsyncIterator["Upstream"]:
        server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=context, limit=1 << 20, backlog=512
        )
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
        assert not self.errors, self.errors

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.connections += 1
        number = self.connections
        try:
            while not writer.is_closing():
                await self._one(reader, writer, number)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            pass
        except Exception as exc:  # noqa: BLE001 - a script's own failure must fail the test
            self.errors.append(exc)
        finally:
            writer.close()
            self._serving.discard(task)

    async def _one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        call = Call(await reader.readuntil(b"\r\n\r\n"), number, self)
        call.reader, call.writer = reader, writer
        self.calls.append(call)
        if call.get(b"transfer-encoding") == b"chunked":
            async for piece in chunks(reader):
                self._keep(call, piece)
        else:
            left = int(call.get(b"content-length") or 0)
            while left:
                piece = await reader.read(min(left, READ_BYTES))
                if not piece:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(piece)
                self._keep(call, piece)
        await self.script(call)

    def _keep(self, call: Call, piece: bytes) -> None:
        call.body_bytes += len(piece)
        if self.keep_bodies:
            call.body += piece


def reply(
    body: bytes = b"{}",
    *,
    status: int = 200,
    kind: bytes = b"application/json",
    fields: Iterable[tuple[bytes, bytes]] = (),
    framing: Framing = "length",
) -> bytes:
    """A whole answer as bytes; "close" framing wants the connection closed behind it."""
    lines = [b"HTTP/1.1 %d Said So" % status, *(b"%b: %b" % field for field in fields)]
    if kind:
        lines.append(b"Content-Type: " + kind)
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        body = chunk(body) + b"0\r\n\r\n"
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def answering(data: bytes, *, close: bool = False) -> Script:
    """A script that gives every request the same bytes."""

    async def script(call: Call) -> None:
        await call.send(data)
        if close:
            call.close()

    return script


# --- the gateway ------------------------------------------------------------------------------


def config_text(path: Path, url: str, **sections: str) -> str:
    """A configuration whose three providers are one upstream, on three paths.

    `sections` adds lines to a section (`server`, `upstream`, `billing`, …); `more` is appended.
    """
    more = sections.pop("more", "")
    lines = {
        "server": 'port = 0\nhost = "127.0.0.1"\n',
        "store": f'path = "{path}"\n',
    }
    for name, text in sections.items():
        lines[name] = lines.get(name, "") + text + "\n"
    text = "".join(f"[{name}]\n{body}" for name, body in lines.items())
    return (
        text
        + f"""
[providers.openai]
format = "openai"
base_url = "{url}/v1"
keys = ["provider-key-openai"]

[providers.anthropic]
format = "anthropic"
base_url = "{url}/anthropic/v1"
keys = ["provider-key-anthropic"]

[providers.google]
format = "gemini"
base_url = "{url}/v1beta"
keys = ["provider-key-google"]
{more}
"""
    )


class Running:
    """A gateway that serves, in this process."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._clients: list[Client] = []

    @property
    def port(self) -> int:
        return self.gateway.port

    async def client(self, context: ssl.SSLContext | None = None, **options: Any) -> Client:
        """A new connection."""
        socket_path = self.gateway.config.server.unix_socket
        if socket_path:
            reader, writer = await asyncio.open_unix_connection(socket_path, limit=1 << 20)
        else:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=context, limit=1 << 20, **options
            )
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    async def call(
        self,
        target: str,
        body: bytes = b"",
        *,
        method: str = "POST",
        key: bytes = OWN_KEY,
        fields: Iterable[tuple[bytes, bytes]] = (),
    ) -> Answer:
        """One request over a connection of its own."""
        client = await self.client()
        sent = [(b"Authorization", b"Bearer " + key)] if key else []
        if body:
            sent.append((b"Content-Type", b"application/json"))
        answer = await client.request(method, target, [*sent, *fields], body)
        client.close()
        return answer

    async def key(
        self,
        user: str = "somebody",
        spec: KeySpec = UNLIMITED,
        credit_nano_usd: int = 10**12,
    ) -> bytes:
        """A new gateway key; a user made for it gets `credit_nano_usd`."""
        accounts = self.gateway.accounts
        if user not in (one.name for one in accounts.list_users()):
            await accounts.create_user(user)
            if credit_nano_usd:
                await accounts.credit(user, credit_nano_usd)
        return (await accounts.create_key(user, spec))[1].encode()

    async def receipt(self, answer: Answer | str, key: bytes = OWN_KEY) -> dict[str, Any]:
        """The receipt of an answer, read as its caller would."""
        receipt_id = answer if isinstance(answer, str) else answer.receipt_id
        found = await self.call(f"/v1/receipts/{receipt_id}", method="GET", key=key)
        assert found.status == 200, found
        receipt = found.json()
        assert isinstance(receipt, dict)
        return receipt

    def forget(self) -> None:
        for client in self._clients:
            client.close()


@contextlib.asynccontextmanager
async def serving(
    text: str, *, drain_s: float = 1.0, path: Path | None = None
) -> AsyncIterator[Running]:
    """A gateway with this configuration, from the file at `path`; a ledger that fails fails."""
    fatal: list[BaseException] = []
    gateway = Gateway(
        cfg.parse(text), on_fatal=fatal.append, path=None if path is None else str(path)
    )
    await gateway.start()
    running = Running(gateway)
    try:
        yield running
    finally:
        running.forget()
        await gateway.stop(drain_s)
    assert not gateway.services.exchanges
    assert not fatal


@contextlib.asynccontextmanager
async def gateway_before(
    directory: Path, script: Script, **sections: str
) -> AsyncIterator[tuple[Running, Upstream]]:
    """A gateway in `directory`, before an upstream that answers by `script`.

    `sections` as for `config_text`; `{url}` in them is the upstream's.
    """
    async with Upstream(script).running() as upstream:
        told = {name: lines.replace("{url}", upstream.url) for name, lines in sections.items()}
        text = config_text(directory / "gateway.db", upstream.url, **told)
        async with serving(text) as running:
            yield running, upstream
