"""The provider that every measurement talks to: as cheap as Python can make it.

Raw asyncio protocols on uvloop and httptools. `POST /v1/chat/completions` answers one fixed JSON
body, or, for `"stream": true`, a stream of `max_tokens` chunks, one per 50 ms, each stamped with
the time it was written (`payloads.STAMP_MARK`), a usage chunk if asked for, and `[DONE]`;
`/v1/messages` and `/v1beta/models/…` do the same in their formats (`formats.py`). All streams are
paced by one timer wheel. `GET /healthz` answers 200, anything else 404.

    python -m bench.upstream [--port 0] [--max-seconds 900]

prints `port N` once it listens. Loopback only; run by `targets.py` and by tests.
"""

import argparse
import asyncio
import gc
import time
from typing import cast

import httptools
import msgspec
import uvloop

from bench import payloads
from bench.formats import FORMATS, Chunks, FormatName
from bench.measure import raise_descriptor_limit

TICK_S = 0.001
SLOTS = round(payloads.CHUNK_INTERVAL_S / TICK_S)
_HEALTH = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nok\n"
_NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n"
    b'{"error":"not found"}'
)
_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 23\r\n\r\n"
    b'{"error":"bad request"}'
)


class _Generation(msgspec.Struct, rename="camel"):
    max_output_tokens: int = 16


class _GeminiRequest(msgspec.Struct, rename="camel"):
    generation_config: _Generation


_CHAT = msgspec.json.Decoder(payloads.ChatRequest)
_GEMINI = msgspec.json.Decoder(_GeminiRequest)
_ANSWERS = {name: payloads.answered(format_.answer) for name, format_ in FORMATS.items()}
_PATHS: dict[bytes, FormatName] = {
    b"/v1/chat/completions": "chat",
    b"/v1/messages": "messages",
    b"/v1beta/models/%b:generateContent" % FORMATS["gemini"].model.encode(): "gemini",
    b"/v1beta/models/%b:streamGenerateContent?alt=sse" % FORMATS["gemini"].model.encode(): "gemini",
}


def _read(name: FormatName, url: bytes, body: bytes) -> payloads.ChatRequest:
    """What decides about the answer. Messages spells that as chat does; Gemini says half in its
    path. Raises msgspec.DecodeError.
    """
    if name != "gemini":
        return _CHAT.decode(body)
    chunks = _GEMINI.decode(body).generation_config.max_output_tokens
    return payloads.ChatRequest(stream=url.endswith(b"sse"), max_tokens=chunks)


class Wheel:
    """One timer for all streams: a slot per millisecond of the chunk interval.

    A stream joins the slot of the moment it was opened in and is stepped once a turn. A late
    wake-up works off every slot that has come due, so a stream never skips a chunk.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: list[list[Exchange]] = [[] for _ in range(SLOTS)]
        self._streams = 0
        self._tick = 0
        self._started_at = 0.0

    def join(self, exchange: "Exchange") -> None:
        """Step `exchange` every CHUNK_INTERVAL_S from now on."""
        if self._streams == 0:
            self._started_at = self._loop.time()
            self._tick = 0
            self._loop.call_later(TICK_S, self._turn)
        self._streams += 1
        # The slot last worked off, not the present one: its next turn is a whole interval away.
        self._slots[self._tick % SLOTS].append(exchange)

    def _turn(self) -> None:
        due = int((self._loop.time() - self._started_at) / TICK_S)
        for tick in range(self._tick + 1, due + 1):
            slot = self._slots[tick % SLOTS]
            ended = [exchange for exchange in slot if not exchange.step()]
            for exchange in ended:
                slot.remove(exchange)
            self._streams -= len(ended)
        self._tick = due
        if self._streams:
            self._loop.call_later(TICK_S, self._turn)


class Exchange(asyncio.Protocol):
    """One connection: requests one after the other, JSON or streamed."""

    _stream_ids = 0

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._chunks_left = 0
        self._text: Chunks | None = None
        self._include_usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a fault of this file, not of the peer
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.write(_BAD_REQUEST)
                self._transport.close()

    def pause_writing(self) -> None:
        """The reader does not keep up."""
        # A reader that cannot keep up would turn pacing into a lie: fail it where it is seen.
        if self._transport is not None:
            self._transport.abort()

    def on_message_begin(self) -> None:
        """Forget the last body."""
        self._body = []

    def on_url(self, url: bytes) -> None:
        """The request target."""
        self._url = url

    def on_body(self, body: bytes) -> None:
        """Collect the request body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer the request."""
        transport = self._transport
        if transport is None:
            return
        name = _PATHS.get(self._url)
        if name is None:
            transport.write(_HEALTH if self._url == b"/healthz" else _NOT_FOUND)
            return
        if self._text is not None:
            transport.abort()  # pipelining behind a stream: nobody here does that
            return
        try:
            request = _read(name, self._url, b"".join(self._body))
        except msgspec.DecodeError:
            transport.write(_BAD_REQUEST)
            return
        if request.stream:
            self._open_stream(transport, name, request)
        else:
            transport.write(_ANSWERS[name])

    def _open_stream(
        self, transport: asyncio.Transport, name: FormatName, request: payloads.ChatRequest
    ) -> None:
        Exchange._stream_ids += 1
        self._text = FORMATS[name].chunks(Exchange._stream_ids)
        self._chunks_left = request.chunks
        options = request.stream_options
        self._include_usage = options is not None and options.include_usage
        transport.write(
            payloads.STREAM_HEAD + self._text.opening + self._text.content(time.monotonic_ns())
        )
        self._chunks_left -= 1
        self._wheel.join(self)

    def step(self) -> bool:
        """Write the next chunk, or the end; False once there is nothing more to write."""
        transport, text = self._transport, self._text
        if transport is None or text is None:
            return False
        if self._chunks_left > 0:
            self._chunks_left -= 1
            transport.write(text.content(time.monotonic_ns()))
            return True
        transport.write(text.finish(usage=self._include_usage) + payloads.LAST_CHUNK)
        self._text = None
        return False


async def serve(port: int, max_seconds: float) -> None:
    """Listen on 127.0.0.1, print `port N`, and stop after `max_seconds` at the latest."""
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    server = await loop.create_server(lambda: Exchange(wheel), "127.0.0.1", port, backlog=4096)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    # A collection of a thousand streams' objects would show up as somebody's p99.
    gc.disable()
    await asyncio.sleep(max_seconds)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="The upstream of the measurements.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--max-seconds", type=float, default=900)
    options = parser.parse_args()
    raise_descriptor_limit()
    uvloop.run(serve(options.port, options.max_seconds))


if __name__ == "__main__":
    main()
