"""The measuring tools measure: what they count is what was sent, and faults are not overlooked."""

import asyncio
import http.client
import itertools
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from bench import payloads, targets
from bench.load_requests import Aim, ClosedResult, OpenResult, closed_loop, open_loop
from bench.load_streams import StreamsResult, paced_streams
from bench.measure import WindowMeter, cpu_ns, filesystem_of, machine, rss_bytes, spread_ms
from bench.pacing import Pace
from bench.run import Loader
from bench.targets import BenchError, Cores, Running

CORES = Cores.choose()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def upstream(folder: Path) -> Iterator[Running]:
    with targets.upstream(CORES.load, folder) as running:
        yield running


@pytest.fixture(scope="module")
def naive(folder: Path, upstream: Running) -> Iterator[Running]:
    with targets.naive(CORES.proxy, folder, upstream.port) as running:
        yield running


def post(port: int, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/chat/completions", body=body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[Aim]:
    """A server whose connections are all handled to their end before this returns."""
    handling: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.append(task)
        try:
            await handler(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Aim(port=port, key="k", upstream_pid=os.getpid(), proxy_pid=os.getpid())
    finally:
        server.close()
        async with asyncio.timeout(10):
            await asyncio.gather(*handling)


async def read_request(reader: asyncio.StreamReader) -> bool:
    """Consume one request; False at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    return True


# Payloads and the upstream


@pytest.mark.parametrize("size", [400, 1024, 4096, 102_400])
def test_a_request_body_has_exactly_the_size_asked_for_and_is_json(size: int) -> None:
    body = payloads.request_body(size, 7)
    assert len(body) == size
    assert msgspec.json.decode(body, type=payloads.ChatRequest) == payloads.ChatRequest(
        stream=True, max_tokens=7
    )


def test_a_request_body_too_small_to_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="as small as 20 bytes"):
        payloads.request_body(20)


def test_the_json_answer_is_json_with_usage() -> None:
    answer = msgspec.json.decode(payloads.ANSWER)
    assert answer["usage"]["total_tokens"] == 269
    assert 500 <= len(payloads.ANSWER) <= 800


@pytest.mark.parametrize("size", [1024, 102_400])
def test_the_upstream_answers_json_to_small_and_large_bodies(upstream: Running, size: int) -> None:
    assert post(upstream.port, payloads.request_body(size)) == (200, payloads.ANSWER)


def test_the_upstream_refuses_what_is_not_json_and_paths_it_does_not_know(
    upstream: Running,
) -> None:
    assert post(upstream.port, b"{")[0] == 400
    assert targets.get(upstream.port, "/v1/other")[0] == 404


@pytest.mark.parametrize("through", ["upstream", "naive"])
@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_has_its_chunks_paced_and_stamped_and_usage_only_if_asked(
    through: str, usage: bool, request: pytest.FixtureRequest
) -> None:
    target: Running = request.getfixturevalue(through)
    body = msgspec.json.decode(payloads.request_body(1024, 3))
    if usage:
        body["stream_options"] = {"include_usage": True}
    before_ns = time.monotonic_ns()
    status, stream = post(target.port, msgspec.json.encode(body))
    after_ns = time.monotonic_ns()
    assert status == 200
    *events, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    documents = [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events]
    texts = [choice["delta"].get("content") for d in documents for choice in d["choices"]]
    stamps = [int(text[1:]) for text in texts if text]
    assert texts == ["", *(f"@{stamp:019d}" for stamp in stamps), None]
    assert len(stamps) == 3
    assert before_ns < stamps[0] < stamps[1] < stamps[2] < after_ns
    assert all(later - sooner > 40_000_000 for sooner, later in itertools.pairwise(stamps))
    assert [d["usage"]["completion_tokens"] for d in documents if "usage" in d] == [140] * usage
    assert all(200 <= len(event) <= 330 for event in events[1:-1])


# The generator against good targets


def test_every_kind_of_load_on_the_naive_proxy_ends_without_errors(
    folder: Path, upstream: Running, naive: Running
) -> None:
    loader = Loader(CORES.load, upstream, folder)
    closed = loader.load(naive, "closed", ClosedResult, seconds=0.3, connections=4)
    assert closed.requests == closed.latency.count > 0
    # No proxy can use more than the one core that it has.
    assert closed.window.proxy_cpu_ns is not None
    assert 0 < closed.window.proxy_cpu_ns <= closed.window.seconds * 1.05e9
    opened = loader.load(naive, "open", OpenResult, seconds=0.5, per_second=200)
    assert opened.requests >= 100
    assert opened.first_byte.p50 <= opened.whole.p50
    streams = loader.load(
        naive, "streams", StreamsResult, streams=20, open_seconds=0.2, seconds=0.5
    )
    assert streams.first_byte.count == streams.open_at_once == 20
    # 20 streams, 20 chunks a second each, half a second; the window's edges may cut.
    assert 160 <= streams.chunks <= 260
    assert streams.rss_idle_bytes is not None


def test_the_gateway_is_measured_with_metered_calls_and_loses_none(
    folder: Path, upstream: Running
) -> None:
    loader = Loader(CORES.load, upstream, folder)
    with targets.gateway(CORES.proxy, folder, upstream.port) as gateway:
        closed = loader.load(gateway, "closed", ClosedResult, seconds=0.3, connections=4)
        streams = loader.load(
            gateway, "streams", StreamsResult, streams=10, open_seconds=0.1, seconds=0.2
        )
        counted = targets.get(gateway.port, "/metrics")[1].decode()
    assert closed.errors == streams.errors == {}
    requests = re.search(r'^gateway_requests_total{.*status="200"} (\S+)$', counted, re.MULTILINE)
    assert requests is not None
    # The two metered calls of the start, the streams, and at least the requests in the window.
    assert float(requests[1]) >= 2 + 10 + closed.requests
    assert not list(folder.glob("gateway-*"))


def test_a_load_without_a_proxy_reads_no_proxy(folder: Path, upstream: Running) -> None:
    loader = Loader(CORES.load, upstream, folder)
    closed = loader.load(upstream, "closed", ClosedResult, seconds=0.2, connections=2)
    assert closed.window.proxy_cpu_ns is None
    assert closed.window.upstream_cpu_ns > 0


# The generator against bad targets


async def test_an_error_status_is_an_error_and_is_quoted() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(b"HTTP/1.1 429 No\r\ncontent-length: 4\r\n\r\nslow")

    async with listening(refuse) as aim:
        with pytest.raises(RuntimeError, match="status 429: slow"):
            await closed_loop(aim, 1024, 2, 0.0, 0.1)


async def test_an_altered_body_is_an_error_even_if_most_are_right() -> None:
    served = 0

    async def alter_the_third(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        while await read_request(reader):
            served += 1
            answer = payloads.ANSWER_BYTES
            writer.write(answer.replace(b"Paris", b"Lyons") if served == 3 else answer)

    async with listening(alter_the_third) as aim:
        result = await closed_loop(aim, 1024, 2, 0.0, 0.1)
    assert result.errors == {"the body is not what the upstream sent": 1}


async def test_a_connection_lost_in_mid_request_is_an_error() -> None:
    served = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        while await read_request(reader):
            served += 1
            if served == 5:
                break
            writer.write(payloads.ANSWER_BYTES)

    async with listening(hang_up) as aim:
        result = await closed_loop(aim, 1024, 2, 0.0, 0.1)
    assert result.errors == {"connection lost": 1}


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        (b"0\r\n\r\n", "the stream ended without [DONE]"),
        (payloads.STREAM_END, "1 chunks of 36"),
        (b"", "connection lost"),
        (b"zz\r\n", "answer is not HTTP"),
    ],
)
async def test_a_stream_that_ends_badly_is_an_error(ending: bytes, fault: str) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await read_request(reader)
        text = payloads.ChunkText(1)
        writer.write(payloads.STREAM_HEAD + text.opening + text.content(time.monotonic_ns()))
        writer.write(ending)

    async with listening(cut) as aim:
        with pytest.raises(RuntimeError, match="no chunk was read") as caught:
            await paced_streams(aim, streams=2, open_s=0.1, seconds=0.2, body_bytes=1024)
    assert fault in str(caught.value)


async def test_chunks_cut_anywhere_and_joined_are_all_counted() -> None:
    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await read_request(reader)
        loop = asyncio.get_running_loop()
        text = payloads.ChunkText(1)
        opened = asyncio.Event()
        writer.write(payloads.STREAM_HEAD + text.opening)
        # 44 are due: all but the last in one piece amid the window, the last in single bytes.
        loop.call_later(0.8, opened.set)
        await opened.wait()
        writer.write(b"".join(text.content(time.monotonic_ns()) for _ in range(43)))
        last = text.content(time.monotonic_ns())
        event = last[last.index(b"data: ") : -len(b"\r\n")]
        for byte in event:
            writer.write(payloads.framed(bytes([byte])))
            await writer.drain()
        loop.call_later(0.7, lambda: writer.write(text.finish + payloads.STREAM_END))
        assert not await read_request(reader)

    async with listening(dribble) as aim:
        result = await paced_streams(aim, streams=2, open_s=0.1, seconds=0.6, body_bytes=1024)
    # A chunk missed or counted twice anywhere would be "… chunks of 44".
    assert result.errors == {}


async def test_a_stall_counts_against_every_request_that_it_delayed() -> None:
    stalled = False

    async def stall_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal stalled
        while await read_request(reader):
            if not stalled:
                stalled = True
                over = asyncio.Event()
                asyncio.get_running_loop().call_later(0.5, over.set)
                await over.wait()
            writer.write(payloads.ANSWER_BYTES)

    async with listening(stall_once) as aim:
        # 120 requests due within 0.6 s on one connection: nearly all wait for the first.
        result = await open_loop(aim, 1024, per_second=200, connections=1, seconds=0.5)
    assert result.errors == {}
    # A generator that waits for its answers would have seen one slow request among fast ones.
    assert result.whole.p50 > 100


async def test_a_pace_calls_each_slot_once_at_even_times() -> None:
    scheduled: list[int] = []
    pace = Pace(1000, 50, scheduled.append)
    pace.start()
    await asyncio.wait_for(pace.finished, 5)
    gaps = [later - sooner for sooner, later in itertools.pairwise(scheduled)]
    assert gaps == [1_000_000] * 49
    pace.stop()


# What is read from the kernel


def test_cpu_time_counts_all_threads_and_agrees_with_the_process_itself() -> None:
    def burn() -> None:
        started = time.thread_time_ns()
        while time.thread_time_ns() - started < 30_000_000:
            pass

    before_ns = cpu_ns(os.getpid())
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
    assert cpu_ns(os.getpid()) - before_ns >= 30_000_000
    assert abs(cpu_ns(os.getpid()) - time.process_time_ns()) < 20_000_000


def test_the_cpu_time_of_a_process_that_is_gone_is_an_error(naive: Running) -> None:
    assert cpu_ns(naive.pid) > 0
    with pytest.raises(OSError, match="Invalid argument"):
        cpu_ns(2**22 + 1)


def test_memory_that_is_touched_shows_up_as_resident() -> None:
    before = rss_bytes(os.getpid())
    held = bytearray(os.urandom(1)) * 32_000_000
    assert rss_bytes(os.getpid()) - before > 25_000_000
    del held


def test_a_window_splits_cpu_between_proxy_upstream_and_generator(
    naive: Running, upstream: Running
) -> None:
    meter = WindowMeter(naive.pid, upstream.pid)
    for _ in range(20):
        assert post(naive.port, payloads.request_body(1024))[0] == 200
    window = meter.close()
    assert window.proxy_cpu_ns is not None
    assert window.proxy_cpu_ns > window.upstream_cpu_ns > 0
    assert window.generator_cpu_ns > 0


def test_percentiles_are_exact_nearest_ranks() -> None:
    spread = spread_ms(n * 1_000_000 for n in range(1000, 0, -1))
    assert (spread.count, spread.p50, spread.p90, spread.p99, spread.p999, spread.max) == (
        1000,
        500.0,
        900.0,
        990.0,
        999.0,
        1000.0,
    )
    assert spread_ms([5]).p999 == 5e-6
    with pytest.raises(ValueError, match="no samples"):
        spread_ms([])


def test_the_machine_is_described() -> None:
    described = machine()
    assert described.versions["aiohttp"] != "absent"
    assert described.cores >= 1
    assert filesystem_of(Path("/proc/self")) == "proc"


# Starting and stopping


def test_a_server_that_cannot_start_is_told_with_its_log(folder: Path) -> None:
    log = folder / "none.log"
    process = targets.spawn(["/bin/sh", "-c", "echo no such server; exit 3"], CORES.proxy, log)
    with pytest.raises(BenchError, match="no such server"):
        targets.await_ready(process, targets.free_port(), "/healthz", log)
    targets.stop(process)


def test_a_spawned_process_is_pinned_and_the_parent_is_not(folder: Path) -> None:
    before = os.sched_getaffinity(0)
    process = targets.spawn(["/bin/sleep", "20"], CORES.load, folder / "sleep.log")
    try:
        assert os.sched_getaffinity(process.pid) == {CORES.load}
        assert os.sched_getaffinity(0) == before
    finally:
        targets.stop(process)
    assert process.returncode is not None


def test_a_gateway_without_receipts_is_not_measured(naive: Running) -> None:
    with pytest.raises(BenchError, match="a first call was answered 200"):
        targets.check_metering(naive, stream=False)
