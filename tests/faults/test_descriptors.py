"""Few descriptors, thousands of cancelled connects, and streams that must not notice.

A cancelled connect that closes a wrong descriptor would let bytes of one request reach another:
fifty long streams carry their own tag in every event and are compared to the byte. Running out of
descriptors altogether must not hurt them either, and must be over two seconds after its cause.
"""

import asyncio
import contextlib
import itertools
import random
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import fault_answers as answers
import orjson
import pytest
from fault_client import Answer, Client, Incomplete, ask
from fault_gateway import Gateway, Setup, running, scaled, seeded
from fault_upstream import Pause, Script, Seen, Step, Upstream

pytestmark = pytest.mark.faults

NOFILE = 256
STREAMS = 50
CANCELLED_CONNECTS = scaled(1500, 10_000)
ABORTED_REQUESTS = scaled(500, 3000)
RECOVERY_S = 2.0
CHAT = answers.Kind("openai_chat", stream=True)


@contextlib.asynccontextmanager
async def unanswering_port() -> AsyncIterator[int]:
    """A port where connects hang: its queue is full and nobody takes from it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    waiting = []
    for _ in range(8):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
        waiting.append(one)
    try:
        yield listener.getsockname()[1]
    finally:
        for one in waiting:
            one.close()
        listener.close()


def an_event(number: int, index: int) -> bytes:
    delta = {"index": 0, "delta": {"content": f"{answers.tag(number)} {index} "}}
    return b"data: " + orjson.dumps({"id": f"s{number}", "choices": [delta]}) + b"\n\n"


class Streams:
    """Long tagged streams, and what was sent on each."""

    def __init__(self, gateway: Gateway, upstream: Upstream) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.sent: dict[int, bytearray] = {}
        self.over = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, numbers: Iterator[int]) -> None:
        loop = asyncio.get_running_loop()
        for number in itertools.islice(numbers, STREAMS):
            self.sent[number] = bytearray()
            self.upstream.scripts[number] = Script([answers.head(CHAT)], more=self._steps(number))
            self.tasks.append(loop.create_task(self._read(number)))

    def _steps(self, number: int) -> Iterator[Step]:
        for index in itertools.count():
            if self.over.is_set():
                break
            event = an_event(number, index)
            self.sent[number] += event
            yield answers.chunk(event)
            yield Pause(0.02)
        tail = b"".join(answers.reply(CHAT, number).events[-3:])
        self.sent[number] += tail
        yield answers.chunk(tail) + answers.LAST_CHUNK

    async def _read(self, number: int) -> None:
        body = answers.request_body(CHAT, number)
        data = answers.request(self.gateway.base, self.gateway.key, CHAT, body)
        client = await Client.connect(self.gateway.port)
        answer = await client.ask(data)
        await client.leave()
        assert answer.status == 200
        assert bytes(answer.body) == bytes(self.sent[number]), f"stream {number} was disturbed"

    async def all_open(self) -> None:
        async with asyncio.timeout(10):
            while not all(self.sent.values()):  # noqa: ASYNC110 - another party's state
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        assert not any(task.done() for task in self.tasks), "a stream ended early"
        self.over.set()
        await asyncio.gather(*self.tasks)


async def cancel_connects(gateway: Gateway, count: int, rng: random.Random) -> None:
    """Ask for what can only hang in its connect, and leave at a random moment."""
    body = answers.request_body(CHAT, 999_999)
    data = answers.request(gateway.base, gateway.key, CHAT, body, at="/v1/hang/chat/completions")
    for _ in range(count):
        client = await Client.connect(gateway.port)
        client.send(data)
        await asyncio.sleep(rng.uniform(0.0, 0.006))  # the random moment is the test
        await client.leave(reset=rng.random() < 0.5)


async def abort_requests(
    gateway: Gateway, count: int, numbers: Iterator[int], rng: random.Random
) -> None:
    """Ask, look at what has come for its own tag, leave at a random moment of the answer."""
    for _ in range(count):
        number = next(numbers)
        client = await Client.connect(gateway.port)
        body = answers.request_body(CHAT, number)
        client.send(answers.request(gateway.base, gateway.key, CHAT, body))
        answer = await client.read(rng.randrange(1, 1200))
        assert answer.status in (200, 503)
        if answer.status == 200:
            foreign = set(re.findall(rb"tag-\d{6}", answer.body)) - {answers.tag(number).encode()}
            assert not foreign
        await client.leave(reset=rng.random() < 0.5)


def short_stream(seen: Seen) -> Script:
    reply = answers.reply(CHAT, seen.number)
    steps: list[Step] = [answers.head(CHAT)]
    for event in reply.events:
        steps += [answers.chunk(event), Pause(0.001)]
    return Script([*steps, answers.LAST_CHUNK])


async def test_cancelled_connects_beside_tagged_streams(tmp_path: Path) -> None:
    rng = seeded(41)
    numbers = itertools.count(1)
    async with contextlib.AsyncExitStack() as stack:
        hang_port = await stack.enter_async_context(unanswering_port())
        upstream = await stack.enter_async_context(Upstream(short_stream))
        setup = Setup(upstream.port, nofile=NOFILE, hang_port=hang_port)
        gateway = await stack.enter_async_context(running(tmp_path, setup))
        baseline = gateway.descriptors()
        streams = Streams(gateway, upstream)
        streams.start(numbers)
        await streams.all_open()
        async with asyncio.TaskGroup() as group:
            for _ in range(25):
                group.create_task(cancel_connects(gateway, CANCELLED_CONNECTS // 25, rng))
            for _ in range(10):
                group.create_task(abort_requests(gateway, ABORTED_REQUESTS // 10, numbers, rng))
        begun = time.monotonic()
        await gateway.descriptors_back(baseline + 2 * STREAMS + 10, RECOVERY_S)
        answer = await ask_one(gateway, next(numbers))
        assert answer.status == 200
        recovered = time.monotonic() - begun
        assert recovered <= RECOVERY_S
        await streams.end()
        await gateway.idle()
        upstream.close_all()
        await gateway.descriptors_back(baseline)
        books = gateway.books()
        assert books.openings == 0
        succeeded = [entry for entry in books.entries if entry.status == "succeeded"]
        assert len(succeeded) >= STREAMS + 1
        hung = [entry for entry in books.entries if entry.provider == "hang"]
        assert len(hung) >= CANCELLED_CONNECTS // 2, "too few requests came as far as a connect"
        for entry in hung:
            assert entry.status == "cancelled"
            assert (entry.usage, entry.cost_nano_usd) == (None, 0)
        gateway.check_books()
    print(f"{len(hung)} cancelled connects, recovered in {recovered:.2f} s")  # noqa: T201


async def ask_one(gateway: Gateway, number: int) -> Answer:
    body = answers.request_body(CHAT, number)
    return await ask(gateway.port, answers.request(gateway.base, gateway.key, CHAT, body))


async def test_running_out_of_descriptors_spares_streams_and_passes(tmp_path: Path) -> None:
    numbers = itertools.count(1)
    async with (
        Upstream(short_stream) as upstream,
        running(tmp_path, Setup(upstream.port, nofile=NOFILE)) as gateway,
    ):
        gateway.expected_errors = re.compile(r"[Tt]oo many open files|out of system resource")
        baseline = gateway.descriptors()
        streams = Streams(gateway, upstream)
        streams.start(numbers)
        await streams.all_open()
        early = [await Client.connect(gateway.port) for _ in range(3)]
        assert (await gateway.get("/healthz")).status == 200
        crowd = [await Client.connect(gateway.port) for _ in range(NOFILE)]
        await until_full(gateway)
        for client in early:  # theirs are open: they get an answer, if only a refusal
            body = answers.request_body(CHAT, next(numbers))
            answer = await client.ask(answers.request(gateway.base, gateway.key, CHAT, body))
            assert answer.status == 503
        for client in [*crowd, *early]:
            await client.leave(reset=True)
        begun = time.monotonic()
        while True:
            with contextlib.suppress(ConnectionError, Incomplete):
                if (await ask_one(gateway, next(numbers))).status == 200:
                    break
            assert time.monotonic() - begun <= RECOVERY_S
        recovered = time.monotonic() - begun
        assert recovered <= RECOVERY_S
        await streams.end()
        await gateway.idle()
        upstream.close_all()
        await gateway.descriptors_back(baseline)
        books = gateway.books()
        failed = [entry for entry in books.entries if entry.status == "failed"]
        assert {one.failure and one.failure.stage for one in failed} == {"upstream_connect"}
        gateway.check_books()
    print(f"out of descriptors, recovered in {recovered:.2f} s")  # noqa: T201


async def until_full(gateway: Gateway) -> None:
    async with asyncio.timeout(10):
        while gateway.descriptors() < NOFILE - 1:  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.01)
