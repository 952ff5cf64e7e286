"""The bytes that cross the wire in every measurement; other formats than chat: `formats.py`.

One place for the request that a client sends, the JSON answer, and the streamed chunks, so that
the upstream that writes them and the load generator that checks them cannot disagree. Shapes and
headers are those of OpenAI's chat completions API and its Python SDK (platform.openai.com,
API reference, read 2026-11); sizes are what a short real call has. Pure values, no I/O.
"""

from collections.abc import Callable

import msgspec

MODEL = "gpt-4o"
"""The name asked for: present in the price catalog, so that a gateway really prices the call."""

ANSWER_MODEL = "gpt-4o-2024-08-06"
CHUNK_INTERVAL_S = 0.05
"""Pace of every paced stream: 20 chunks a second is a usual speed of a hosted model."""

STAMP_MARK = b'"@'
STAMP_DIGITS = 19
"""Each streamed chunk's text is `@` and CLOCK_MONOTONIC in nanoseconds at the moment it was
written, in this many digits. The clock is one for all processes of a machine, so the reader
subtracts and has the time that the chunk spent between the upstream and itself."""

DONE_EVENT = b"data: [DONE]\n\n"


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options` of a chat request."""

    include_usage: bool = False


class ChatRequest(msgspec.Struct, frozen=True):
    """The fields of a chat request that decide how the upstream answers.

    `max_tokens` (or `max_completion_tokens`) is the number of content chunks of a stream.
    """

    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None

    @property
    def chunks(self) -> int:
        """The number of content chunks, if streamed."""
        return self.max_tokens or self.max_completion_tokens or 16


class _Message(msgspec.Struct):
    role: str
    content: str


class _Body(msgspec.Struct, omit_defaults=True):
    model: str
    messages: list[_Message]
    max_tokens: int
    temperature: float
    stream: bool = False


def _prose(length: int) -> str:
    """Text of exactly `length` characters that does not repeat verbatim within a line."""
    parts: list[str] = []
    total = 0
    line = 0
    while total < length:
        part = f'Order {line} was "{line * 7919 % 1009}" units, shipped on day {line % 365}.\n'
        parts.append(part)
        total += len(part)
        line += 1
    return "".join(parts)[:length]


def fitted(encode: Callable[[str], bytes], size_bytes: int) -> bytes:
    """What `encode` makes of a text just long enough for exactly `size_bytes`.

    Raises ValueError if the size cannot hold even an empty text.
    """
    room = size_bytes - len(encode(""))
    if room < 0:
        raise ValueError(f"a request body cannot be as small as {size_bytes} bytes")
    prose = _prose(room)
    # Quotes and newlines take two bytes each in JSON: cut the text, then fill up with letters.
    while len(encode(prose)) > size_bytes:
        prose = prose[: len(prose) - max(1, (len(encode(prose)) - size_bytes) // 2)]
    return encode(prose + "x" * (size_bytes - len(encode(prose))))


def request_body(size_bytes: int, stream_chunks: int | None = None, model: str = MODEL) -> bytes:
    """A chat request of exactly `size_bytes`; streamed, with that many chunks, if given.

    Raises ValueError if the size cannot hold even an empty user message.
    """

    def encode(text: str) -> bytes:
        return msgspec.json.encode(
            _Body(
                model=model,
                messages=[
                    _Message("system", "You are a terse assistant."),
                    _Message("user", text),
                ],
                max_tokens=stream_chunks if stream_chunks is not None else 64,
                temperature=0.2,
                stream=stream_chunks is not None,
            )
        )

    return fitted(encode, size_bytes)


REQUEST_HEAD = (
    "POST {path} HTTP/1.1\r\n"
    "Host: 127.0.0.1:{port}\r\n"
    "Accept-Encoding: gzip, deflate\r\n"
    "Connection: keep-alive\r\n"
    "Accept: application/json\r\n"
    "Content-Type: application/json\r\n"
    "User-Agent: OpenAI/Python 2.8.0\r\n"
    "X-Stainless-Lang: python\r\n"
    "X-Stainless-Package-Version: 2.8.0\r\n"
    "X-Stainless-OS: Linux\r\n"
    "X-Stainless-Arch: x64\r\n"
    "X-Stainless-Runtime: CPython\r\n"
    "X-Stainless-Runtime-Version: 3.11.7\r\n"
    "X-Stainless-Async: false\r\n"
    "x-stainless-retry-count: 0\r\n"
    "x-stainless-read-timeout: 600\r\n"
    "Authorization: Bearer {key}\r\n"
    "Content-Length: {length}\r\n\r\n"
)
"""The header that OpenAI's Python SDK sends, to be filled in."""


# Headers of a real answer, the ones that a CDN adds left out.
_ANSWER_HEADERS = (
    "openai-organization: org-bench\r\n"
    "openai-processing-ms: 212\r\n"
    "openai-version: 2020-10-01\r\n"
    "x-ratelimit-limit-requests: 10000\r\n"
    "x-ratelimit-limit-tokens: 2000000\r\n"
    "x-ratelimit-remaining-requests: 9999\r\n"
    "x-ratelimit-remaining-tokens: 1999970\r\n"
    "x-ratelimit-reset-requests: 6ms\r\n"
    "x-ratelimit-reset-tokens: 0s\r\n"
    "x-request-id: req_4f1d0c1f6a0e4cf7a6a2f5d1b8a5c9e3\r\n"
)

ANSWER = (
    b'{"id":"chatcmpl-BkT1sQmWnXq0a7cC5y3v9ZrD2hLpE","object":"chat.completion",'
    b'"created":1780000000,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Paris is the capital of France.","refusal":null,'
    b'"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":261,'
    b'"completion_tokens":8,"total_tokens":269,"prompt_tokens_details":{"cached_tokens":0,'
    b'"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
    b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},'
    b'"service_tier":"default","system_fingerprint":"fp_a288987b44"}'
)
"""The JSON answer, the same for every request; the reader compares it byte for byte."""


def answered(body: bytes) -> bytes:
    """A whole HTTP answer with that JSON body."""
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{_ANSWER_HEADERS}\r\n"
    )
    return head.encode() + body


ANSWER_BYTES = answered(ANSWER)

STREAM_HEAD = (
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    f"transfer-encoding: chunked\r\n{_ANSWER_HEADERS}\r\n"
).encode()

_CHUNK_OPEN = (
    b'data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":1780000000,'
    b'"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_a288987b44",'
)


def framed(payload: bytes) -> bytes:
    """One chunk of the chunked transfer coding (RFC 9112 §7.1)."""
    return b"%x\r\n%s\r\n" % (len(payload), payload)


LAST_CHUNK = b"0\r\n\r\n"
STREAM_END = framed(DONE_EVENT) + LAST_CHUNK


class ChunkText:
    """The events of one stream, already framed; only the timestamp is filled in per chunk."""

    __slots__ = ("_after", "_before", "finish", "opening", "usage")

    def __init__(self, stream_id: int) -> None:
        opened = _CHUNK_OPEN % (b"%029d" % stream_id)
        delta = b'"choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}]}\n\n'
        self.opening = framed(
            opened + delta % (b'{"role":"assistant","content":"","refusal":null}', b"null")
        )
        self.finish = framed(opened + delta % (b"{}", b'"stop"'))
        self.usage = framed(
            opened + b'"choices":[],"usage":{"prompt_tokens":261,"completion_tokens":140,'
            b'"total_tokens":401,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
            b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
            b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}\n\n'
        )
        stamp = b"9" * STAMP_DIGITS  # a run of digits that the id cannot hold
        whole = framed(opened + delta % (b'{"content":"@%s"}' % stamp, b"null"))
        self._before, self._after = whole.split(stamp)

    def content(self, now_ns: int) -> bytes:
        """A content chunk that says when it was written."""
        return b"%s%019d%s" % (self._before, now_ns, self._after)
