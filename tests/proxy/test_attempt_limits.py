"""One attempt waits no longer than its origin allows, and than its request has left."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from guarded_site import Told, origin_of, upstreams
from harness import scenario

from gateway.proxy.connection import Broken
from gateway.proxy.guard import GUARD
from gateway.proxy.upstream import Pool

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


class Scripted:
    """An upstream that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked.put_nowait(writer)
        writer.close()


@contextlib.asynccontextmanager
async def pool_of() -> AsyncIterator[tuple[Pool, Scripted]]:
    upstream = Scripted()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, upstreams() as made:
        yield made.pool(origin_of(url, guarded=False)), upstream


@pytest.mark.parametrize(
    ("limit_s", "connect_s", "told"),
    [(0.05, 5, "0.05"), (5, 0.05, "0.05"), (None, 0.05, "0.05"), (0, 5, "0"), (-1.5, 5, "0")],
)
@scenario
async def test_a_connect_takes_no_longer_than_the_lesser_of_both_limits(
    limit_s: float | None, connect_s: float, told: str
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and never says a word of TLS
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        async with upstreams() as made:
            pool = made.pool(origin_of(url, guarded=False, connect_s=connect_s))
            with pytest.raises(Broken) as broken:
                await pool.connect(limit_s)
            assert broken.value.kind == "connect"
            assert broken.value.message == f"no connection within {told} s"
            assert pool.open == 0


@scenario
async def test_an_answer_that_has_not_begun_in_time_is_given_up() -> None:
    async with pool_of() as (pool, upstream):
        connection, told = await pool.connect(), Told()
        connection.send(told, GET)
        await upstream.asked.get()
        now = pool.loop.time()
        connection.first_byte_by = now + 1
        pool.sweep(now + 0.99)
        assert told.error is None
        pool.sweep(now + 1)
        assert told.error is not None
        assert told.error.kind == "timeout_first_byte"
        assert told.error.message == "no answer in the time the request had left"
        assert not connection.usable


@scenario
async def test_the_sweep_comes_by_itself() -> None:
    async with pool_of() as (pool, _):
        connection, told = await pool.connect(), Told()
        connection.first_byte_by = pool.loop.time()  # before the request is sent, as well
        connection.send(told, GET)
        async with asyncio.timeout(5):
            await told.done.wait()
        assert told.error is not None
        assert told.error.kind == "timeout_first_byte"


@scenario
async def test_the_origins_own_limit_holds_beside_a_later_one() -> None:
    async with pool_of() as (pool, upstream):
        connection, told = await pool.connect(), Told()
        connection.send(told, GET)
        await upstream.asked.get()
        connection.first_byte_by = pool.loop.time() + 10_000
        pool.sweep(pool.loop.time() + 601)
        assert told.error is not None
        assert told.error.message == "no answer within 600 s"


@scenario
async def test_an_answer_that_has_begun_is_not_cut() -> None:
    async with pool_of() as (pool, upstream):
        connection, told = await pool.connect(), Told()
        connection.send(told, GET)
        connection.first_byte_by = pool.loop.time() + 1
        writer = await upstream.asked.get()
        writer.write(HEAD)
        async with asyncio.timeout(5):
            while not connection.answering:  # noqa: ASYNC110 - the head is on its way
                await asyncio.sleep(0.001)
        pool.sweep(pool.loop.time() + 100)
        assert told.error is None
        writer.write(b"12345")
        await told.done.wait()
        assert told.text == b"12345"


@scenario
async def test_a_limit_is_for_one_request() -> None:
    async with pool_of() as (pool, upstream):
        connection, told = await pool.connect(), Told()
        connection.send(told, GET)
        connection.first_byte_by = pool.loop.time() + 1
        (await upstream.asked.get()).write(HEAD + b"12345")
        await told.done.wait()
        again = pool.take()
        assert again is connection
        told = Told()
        again.send(told, GET)
        await upstream.asked.get()
        pool.sweep(pool.loop.time() + 100)
        assert told.error is None


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.test"])
@pytest.mark.parametrize("guarded", [False, True])
@scenario
async def test_a_host_that_cannot_be_looked_up_is_a_failed_connect(
    host: str, guarded: bool
) -> None:
    async with upstreams(GUARD) as made:
        with pytest.raises(Broken) as broken:
            await made.pool(origin_of(f"https://{host}", guarded=guarded)).connect()
        assert broken.value.kind == "connect"
        assert broken.value.message.startswith("connect failed: ")
