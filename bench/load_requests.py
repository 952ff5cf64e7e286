"""JSON requests: closed loop (how much CPU, how many a second) and open loop (how late).

Raw protocols on httptools; a request is one prebuilt `write`, an answer is compared byte for byte
with what the upstream sends (if translated: `formats.AnswerCheck`). Called by `loadgen.py`.
"""

import asyncio
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from typing import cast

import httptools
import msgspec

from bench.formats import AnswerCheck, Call
from bench.measure import Spread, Window, WindowMeter, spread_ms
from bench.pacing import Pace

ATTEMPT_SECONDS_MAX = 30.0
"""Bounds connecting and draining: a dead target fails the run instead of hanging it."""


class Aim(msgspec.Struct, frozen=True):
    """Whom to load with what, and whose CPU to read.

    `proxy_pid` is None when the upstream is the target.
    """

    port: int
    key: str
    upstream_pid: int
    proxy_pid: int | None
    call: Call = Call()

    def request(self, body_bytes: int, stream_chunks: int | None = None) -> bytes:
        """The whole request, with a body of that size."""
        body = self.call.body(body_bytes, stream_chunks)
        return self.call.request(self.port, self.key, body, stream=stream_chunks is not None)


class ClosedResult(msgspec.Struct, frozen=True):
    """N connections, each sending its next request when the last was answered."""

    requests: int
    window: Window
    latency: Spread
    errors: dict[str, int]


class OpenResult(msgspec.Struct, frozen=True):
    """A fixed rate, whatever the target does. Times count from the scheduled instant.

    `send_lag` is how late the generator itself was: the part of the times that is its own.
    """

    per_second: float
    requests: int
    first_byte: Spread
    whole: Spread
    send_lag: Spread
    connections: int
    window: Window
    errors: dict[str, int]


class Caller(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight.

    `answered(caller, fault)` is called when the answer is whole (`fault` None), wrong, or lost.
    """

    def __init__(
        self,
        request: bytes,
        check: AnswerCheck,
        answered: Callable[["Caller", str | None], None],
    ) -> None:
        self._request = request
        self._check = check
        self._answered = answered
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._body: list[bytes] = []
        self._in_flight = False
        self.started_ns = 0
        self.first_byte_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone."""
        self._transport = None
        if self._in_flight:
            self._settle("connection lost")

    def send(self, started_ns: int) -> None:
        """Send the request; times count from `started_ns`."""
        self.started_ns = started_ns
        self.first_byte_ns = 0
        self._body = []
        self._in_flight = True
        if self._transport is None:
            self._settle("connection closed between requests")
        else:
            self._transport.write(self._request)

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self.first_byte_ns == 0:
            self.first_byte_ns = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a fault of this file, not of the peer
        except httptools.HttpParserError as fault:
            self._settle(f"answer is not HTTP: {fault}")
            self.close()

    def on_body(self, body: bytes) -> None:
        """Collect the answer."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Compare the answer with what the upstream sends."""
        status = self._parser.get_status_code()
        if status != 200:
            self._settle(f"status {status}: {b''.join(self._body)[:160].decode(errors='replace')}")
        elif not self._check.right(b"".join(self._body)):
            self._settle("the body is not what the upstream sent")
        else:
            self._settle(None)

    def _settle(self, fault: str | None) -> None:
        if self._in_flight:
            self._in_flight = False
            self._answered(self, fault)


async def _connect(
    aim: Aim, body_bytes: int, count: int, answered: Callable[[Caller, str | None], None]
) -> list[Caller]:
    request, check = aim.request(body_bytes), AnswerCheck(aim.call)
    loop = asyncio.get_running_loop()
    callers: list[Caller] = []
    for _ in range(count):
        _transport, caller = await asyncio.wait_for(
            loop.create_connection(lambda: Caller(request, check, answered), "127.0.0.1", aim.port),
            ATTEMPT_SECONDS_MAX,
        )
        callers.append(caller)
    return callers


class _ClosedLoop:
    """Counts answers while `measuring`; sends on until `stopping`."""

    def __init__(self) -> None:
        self.latencies_ns = array("q")
        self.errors: Counter[str] = Counter()
        self.measuring = False
        self.stopping = False
        self.in_flight = 0
        self.idle = asyncio.Event()

    def begin(self, caller: Caller) -> None:
        self.in_flight += 1
        caller.send(time.monotonic_ns())

    def answered(self, caller: Caller, fault: str | None) -> None:
        self.in_flight -= 1
        if fault is not None:
            # A failed connection is not reopened: one error already spoils the run.
            self.errors[fault] += 1
        elif self.measuring:
            self.latencies_ns.append(time.monotonic_ns() - caller.started_ns)
        if fault is None and not self.stopping:
            self.begin(caller)
        elif self.in_flight == 0:
            self.idle.set()


async def closed_loop(
    aim: Aim, body_bytes: int, connections: int, warm_up_s: float, seconds: float
) -> ClosedResult:
    """Load `aim` for `warm_up_s` + `seconds`; only the latter is counted."""
    run = _ClosedLoop()
    callers = await _connect(aim, body_bytes, connections, run.answered)
    for caller in callers:
        run.begin(caller)
    await asyncio.sleep(warm_up_s)
    run.measuring = True
    meter = WindowMeter(aim.proxy_pid, aim.upstream_pid)
    await asyncio.sleep(seconds)
    run.measuring = False
    window = meter.close()
    run.stopping = True
    if run.in_flight:
        await asyncio.wait_for(run.idle.wait(), ATTEMPT_SECONDS_MAX)
    for caller in callers:
        caller.close()
    if not run.latencies_ns:
        raise RuntimeError(f"no request was answered: {dict(run.errors)}")
    return ClosedResult(
        requests=len(run.latencies_ns),
        window=window,
        latency=spread_ms(run.latencies_ns),
        errors=dict(run.errors),
    )


class _OpenLoop:
    """Gives each due request to an idle connection, or lets it wait for one."""

    def __init__(self, warm_up_count: int) -> None:
        self._warm_up_left = warm_up_count
        self.idle: list[Caller] = []
        self.waiting: deque[int] = deque()
        self.first_byte_ns = array("q")
        self.whole_ns = array("q")
        self.send_lag_ns = array("q")
        self.errors: Counter[str] = Counter()
        self.open_requests = 0
        self.drained = asyncio.Event()

    def due(self, scheduled_ns: int) -> None:
        self.open_requests += 1
        if self._warm_up_left:
            self._warm_up_left -= 1
        else:
            self.send_lag_ns.append(time.monotonic_ns() - scheduled_ns)
        if self.idle:
            # The connection used last is the warmest, and all targets are treated alike.
            self.idle.pop().send(scheduled_ns)
        else:
            self.waiting.append(scheduled_ns)

    def answered(self, caller: Caller, fault: str | None) -> None:
        self.open_requests -= 1
        if fault is not None:
            self.errors[fault] += 1
        else:
            if not self._warm_up_left:
                self.first_byte_ns.append(caller.first_byte_ns - caller.started_ns)
                self.whole_ns.append(time.monotonic_ns() - caller.started_ns)
            if self.waiting:
                caller.send(self.waiting.popleft())
            else:
                self.idle.append(caller)
        if self.open_requests == 0:
            self.drained.set()


async def open_loop(
    aim: Aim, body_bytes: int, per_second: float, connections: int, seconds: float
) -> OpenResult:
    """Send at `per_second` for `seconds`, after a warm-up of a fifth of that."""
    warm_up_count = int(per_second * seconds / 5)
    run = _OpenLoop(warm_up_count)
    run.idle = await _connect(aim, body_bytes, connections, run.answered)
    callers = list(run.idle)
    pace = Pace(per_second, warm_up_count + int(per_second * seconds), run.due)
    meter = WindowMeter(aim.proxy_pid, aim.upstream_pid)
    pace.start()
    try:
        await asyncio.wait_for(pace.finished, seconds * 2 + ATTEMPT_SECONDS_MAX)
        run.drained.clear()
        if run.open_requests:
            await asyncio.wait_for(run.drained.wait(), ATTEMPT_SECONDS_MAX)
    finally:
        pace.stop()
    window = meter.close()
    for caller in callers:
        caller.close()
    if not run.whole_ns:
        raise RuntimeError(f"no request was answered: {dict(run.errors)}")
    return OpenResult(
        per_second=per_second,
        requests=len(run.whole_ns),
        first_byte=spread_ms(run.first_byte_ns),
        whole=spread_ms(run.whole_ns),
        send_lag=spread_ms(run.send_lag_ns),
        connections=connections,
        window=window,
        errors=dict(run.errors),
    )
