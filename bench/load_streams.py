"""Paced streams: many open at once, each chunk's time between upstream and client measured.

Every stream is read to its end and must hold all its chunks and its format's terminal event (in
chat `[DONE]`), in well-formed HTTP.
Called by `loadgen.py`.
"""

import asyncio
import time
from array import array
from collections import Counter
from typing import cast

import httptools
import msgspec

from bench import payloads
from bench.formats import FORMATS
from bench.load_requests import ATTEMPT_SECONDS_MAX, Aim
from bench.measure import Spread, Window, WindowMeter, rss_bytes, spread_ms
from bench.pacing import Pace

SETTLE_SECONDS = 0.5
"""Between the last stream's opening and the measured window, and between that and its end."""

_MARK_BYTES = len(payloads.STAMP_MARK)


class StreamsResult(msgspec.Struct, frozen=True):
    """What `streams` at once cost and how late their chunks came.

    `first_byte` counts from the request's write to the first byte of the body, over streams
    opened one by one; `late` is a chunk's arrival minus its stamp; `gap_error` how far the gap
    between two chunks of a stream grew or shrank on the way. `pace` is chunks read over chunks
    due in the window: under 0.97 somebody could not keep up. `open_at_once` is how many were open
    as the window opened: fewer than `streams` if the machine was too busy to open them in time.
    `rss_per_stream_bytes` compares these with none, in a process that had already served requests.
    """

    streams: int
    open_at_once: int
    chunks: int
    pace: float
    window: Window
    first_byte: Spread
    late: Spread
    gap_error: Spread
    rss_idle_bytes: int | None
    rss_open_bytes: int | None
    rss_per_stream_bytes: float | None
    errors: dict[str, int]


class _Run:
    """The samples of all streams."""

    def __init__(self) -> None:
        self.first_byte_ns = array("q")
        self.late_ns = array("q")
        self.gap_error_ns = array("q")
        self.errors: Counter[str] = Counter()
        self.measuring = False
        self.opened = 0
        self.ended = 0


class StreamReader(asyncio.Protocol):
    """One connection with one stream: sends at once, reads to the end, checks all of it."""

    def __init__(self, run: _Run, request: bytes, chunks: int, ending: bytes) -> None:
        self._run = run
        self._request = request
        self._chunks_due = chunks
        self._ending = ending
        self._chunks_seen = 0
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._started_ns = 0
        self._now_ns = 0
        self._late_before_ns = 0
        self._partial = b""
        self._begun = False
        self._terminated = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request at once."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._started_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone."""
        self._transport = None
        self._end("connection lost")

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._now_ns = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a fault of this file, not of the peer
        except httptools.HttpParserError as fault:
            self._end(f"answer is not HTTP: {fault}")

    def on_body(self, body: bytes) -> None:
        """Read the chunks that came whole; keep a partial one."""
        if not self._begun:
            self._begun = True
            self._run.opened += 1
            self._run.first_byte_ns.append(self._now_ns - self._started_ns)
        if self._partial or not body.endswith((b"\n\n", b"\r\n\r\n")):
            body = self._partial + body
            # Both kinds of blank line end with an LF of which no raw one stands inside JSON.
            whole = body.rfind(b"\n") + 1
            body, self._partial = body[:whole], body[whole:]
        at = body.find(payloads.STAMP_MARK)
        while at >= 0:
            stamp = at + _MARK_BYTES
            self._chunk(int(body[stamp : stamp + payloads.STAMP_DIGITS]))
            at = body.find(payloads.STAMP_MARK, stamp)
        if body.find(self._ending) >= 0:
            self._terminated = True

    def _chunk(self, stamp_ns: int) -> None:
        late_ns = self._now_ns - stamp_ns
        if self._run.measuring:
            self._run.late_ns.append(late_ns)
            self._run.gap_error_ns.append(abs(late_ns - self._late_before_ns))
        self._late_before_ns = late_ns
        self._chunks_seen += 1

    def on_message_complete(self) -> None:
        """The answer ended: was it all there?"""
        status = self._parser.get_status_code()
        if status != 200:
            self._end(f"status {status}")
        elif not self._terminated:
            self._end(f"the stream ended without {self._ending.decode().strip()}")
        elif self._chunks_seen != self._chunks_due:
            self._end(f"{self._chunks_seen} chunks of {self._chunks_due}")
        else:
            self._end(None)

    def _end(self, fault: str | None) -> None:
        if self.ended.done():
            return
        self._run.ended += 1
        if fault is not None:
            self._run.errors[fault] += 1
        self.ended.set_result(None)
        if self._transport is not None:
            self._transport.abort()


class _Opener:
    """Opens one stream per due slot, keeping every task and reader."""

    def __init__(self, run: _Run, aim: Aim, request: bytes, chunks: int) -> None:
        self._run = run
        self._port = aim.port
        self._request = request
        self._chunks = chunks
        self._ending = FORMATS[aim.call.speaks].ending
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> "_Opener":
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._group.__aexit__(None, None, None)

    def due(self, _scheduled_ns: int) -> None:
        self._group.create_task(self._read_one())

    async def _read_one(self) -> None:
        try:
            _transport, reader = await asyncio.get_running_loop().create_connection(
                lambda: StreamReader(self._run, self._request, self._chunks, self._ending),
                "127.0.0.1",
                self._port,
            )
        except OSError as fault:
            self._run.errors[f"connect: {fault}"] += 1
            return
        await reader.ended


async def paced_streams(
    aim: Aim, streams: int, open_s: float, seconds: float, body_bytes: int
) -> StreamsResult:
    """Open `streams` evenly over `open_s`, measure `seconds` with all open, read all to the end."""
    chunks = round((open_s + 3 * SETTLE_SECONDS + seconds) / payloads.CHUNK_INTERVAL_S)
    request = aim.request(body_bytes, chunks)
    run = _Run()
    rss_idle = None if aim.proxy_pid is None else rss_bytes(aim.proxy_pid)
    async with asyncio.timeout(open_s + seconds + 2 * ATTEMPT_SECONDS_MAX):
        async with _Opener(run, aim, request, chunks) as opener:
            pace = Pace(streams / open_s, streams, opener.due)
            pace.start()
            await pace.finished
            await asyncio.sleep(SETTLE_SECONDS)
            open_at_once = run.opened - run.ended
            run.measuring = True
            meter = WindowMeter(aim.proxy_pid, aim.upstream_pid)
            await asyncio.sleep(seconds)
            run.measuring = False
            window = meter.close()
            rss_open = None if aim.proxy_pid is None else rss_bytes(aim.proxy_pid)
    per_stream = None
    if rss_idle is not None and rss_open is not None:
        per_stream = (rss_open - rss_idle) / max(1, open_at_once)
    if not run.late_ns:
        raise RuntimeError(f"no chunk was read: {dict(run.errors)}")
    return StreamsResult(
        streams=streams,
        open_at_once=open_at_once,
        chunks=len(run.late_ns),
        pace=len(run.late_ns) * payloads.CHUNK_INTERVAL_S / (streams * window.seconds),
        window=window,
        first_byte=spread_ms(run.first_byte_ns),
        late=spread_ms(run.late_ns),
        gap_error=spread_ms(run.gap_error_ns),
        rss_idle_bytes=rss_idle,
        rss_open_bytes=rss_open,
        rss_per_stream_bytes=per_stream,
        errors=dict(run.errors),
    )
