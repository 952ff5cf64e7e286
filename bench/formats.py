"""What crosses the wire in each format that is measured: requests, answers, streams, checks.

OpenAI chat is in `payloads.py`; here are Anthropic Messages and Gemini, with the same text, counts,
pace and stamps, so that a client and an upstream of any two formats can be put together and an
answer that came through a translation still be checked. Shapes and headers are those of the
vendors' API references and Python SDKs (docs.anthropic.com, ai.google.dev, read 2026-11). Pure
values, no I/O.
"""

from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec

from bench import payloads

FormatName = Literal["chat", "messages", "gemini"]

TEXT = "Paris is the capital of France."
INPUT_TOKENS = 261
OUTPUT_TOKENS = 8


class Chunks(Protocol):
    """The events of one stream, framed for the chunked coding; `finish` has the terminal event."""

    opening: bytes

    def content(self, now_ns: int) -> bytes:
        """A delta that says when it was written."""
        ...

    def finish(self, *, usage: bool) -> bytes:
        """All that comes after the last delta; `usage`: the caller asked for it to be told."""
        ...


class Said(msgspec.Struct, frozen=True):
    """What a whole answer says, whatever its format."""

    text: str
    input_tokens: int
    output_tokens: int
    stop: str | None


class Format(msgspec.Struct, frozen=True):
    """One format, as its SDK speaks it and as its provider answers.

    `model` is one that the gateway's catalog knows of this provider. `head` takes a port, a key, a
    path and a length. `path` takes a model and whether to stream. `ending` stands in a stream's
    terminal event and nowhere else.
    """

    model: str
    stop: str
    head: str
    path: Callable[[str, bool], str]
    body: Callable[[int, int | None, str], bytes]
    answer: bytes
    said: Callable[[bytes], Said]
    chunks: Callable[[int], Chunks]
    ending: bytes


# -- OpenAI chat -------------------------------------------------------------------------------


class _ChatChunks:
    def __init__(self, stream_id: int) -> None:
        text = payloads.ChunkText(stream_id)
        self.opening = text.opening
        self.content = text.content
        self._finish = text.finish
        self._usage = text.usage

    def finish(self, *, usage: bool) -> bytes:
        told = self._usage if usage else b""
        return self._finish + told + payloads.framed(payloads.DONE_EVENT)


class _ChatMessage(msgspec.Struct):
    content: str


class _ChatChoice(msgspec.Struct):
    message: _ChatMessage
    finish_reason: str


class _ChatUsage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _ChatAnswer(msgspec.Struct):
    choices: list[_ChatChoice]
    usage: _ChatUsage


def _chat_said(body: bytes) -> Said:
    found = msgspec.json.decode(body, type=_ChatAnswer)
    (choice,) = found.choices
    usage = found.usage
    return Said(
        choice.message.content, usage.prompt_tokens, usage.completion_tokens, choice.finish_reason
    )


# -- Anthropic Messages ------------------------------------------------------------------------

_MESSAGES_HEAD = payloads.REQUEST_HEAD.replace("OpenAI/Python", "Anthropic/Python").replace(
    "Authorization: Bearer {key}\r\n", "X-Api-Key: {key}\r\nanthropic-version: 2023-06-01\r\n"
)
_MESSAGE_USAGE = (
    b'"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":'
    b'{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}'
)

MESSAGES_ANSWER = (
    b'{"model":"claude-sonnet-4-5-20250929","id":"msg_01BkT1sQmWnXq0a7cC5y3v9Z","type":"message",'
    b'"role":"assistant","content":[{"type":"text","text":"Paris is the capital of France."}],'
    b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":261,%b,'
    b'"output_tokens":8,"service_tier":"standard"}}'
) % _MESSAGE_USAGE


class _Turn(msgspec.Struct):
    role: str
    content: str


class _MessagesBody(msgspec.Struct, omit_defaults=True):
    model: str
    system: str
    messages: list[_Turn]
    max_tokens: int
    temperature: float
    stream: bool = False


def _messages_body(size_bytes: int, stream_chunks: int | None, model: str) -> bytes:
    def encode(text: str) -> bytes:
        return msgspec.json.encode(
            _MessagesBody(
                model=model,
                system="You are a terse assistant.",
                messages=[_Turn("user", text)],
                max_tokens=stream_chunks if stream_chunks is not None else 64,
                temperature=0.2,
                stream=stream_chunks is not None,
            )
        )

    return payloads.fitted(encode, size_bytes)


class _MessagesText(msgspec.Struct):
    text: str


class _MessagesUsage(msgspec.Struct):
    input_tokens: int
    output_tokens: int


class _MessagesAnswer(msgspec.Struct):
    content: list[_MessagesText]
    stop_reason: str
    usage: _MessagesUsage


def _messages_said(body: bytes) -> Said:
    found = msgspec.json.decode(body, type=_MessagesAnswer)
    (block,) = found.content
    return Said(block.text, found.usage.input_tokens, found.usage.output_tokens, found.stop_reason)


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, data)


class _MessagesChunks:
    def __init__(self, stream_id: int) -> None:
        self.opening = payloads.framed(
            _event(
                b"message_start",
                b'{"type":"message_start","message":{"model":"claude-sonnet-4-5-20250929",'
                b'"id":"msg_01%022d","type":"message","role":"assistant","content":[],'
                b'"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":261,%b,'
                b'"output_tokens":1,"service_tier":"standard"}}}' % (stream_id, _MESSAGE_USAGE),
            )
            + _event(
                b"content_block_start",
                b'{"type":"content_block_start","index":0,'
                b'"content_block":{"type":"text","text":""}}',
            )
            + _event(b"ping", b'{"type": "ping"}')
        )
        stamp = b"9" * payloads.STAMP_DIGITS
        delta = _event(
            b"content_block_delta",
            b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
            b'"text":"@%b"}        }' % stamp,
        )
        self._before, self._after = payloads.framed(delta).split(stamp)

    def content(self, now_ns: int) -> bytes:
        return b"%b%019d%b" % (self._before, now_ns, self._after)

    def finish(self, *, usage: bool) -> bytes:
        del usage  # told without being asked for
        stop = _event(b"content_block_stop", b'{"type":"content_block_stop","index":0}')
        delta = _event(
            b"message_delta",
            b'{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
            b'"usage":{"input_tokens":261,"cache_creation_input_tokens":0,'
            b'"cache_read_input_tokens":0,"output_tokens":140}}',
        )
        end = _event(b"message_stop", b'{"type":"message_stop"}')
        return payloads.framed(stop + delta + end)


# -- Gemini ------------------------------------------------------------------------------------

_GEMINI_HEAD = (
    "POST {path} HTTP/1.1\r\n"
    "Host: 127.0.0.1:{port}\r\n"
    "Accept: */*\r\n"
    "Accept-Encoding: gzip, deflate\r\n"
    "Connection: keep-alive\r\n"
    "User-Agent: google-genai-sdk/1.49.0 gl-python/3.11.7\r\n"
    "Content-Type: application/json\r\n"
    "x-goog-api-key: {key}\r\n"
    "x-goog-api-client: google-genai-sdk/1.49.0 gl-python/3.11.7\r\n"
    "Content-Length: {length}\r\n\r\n"
)
_GEMINI_USAGE = (
    b'"usageMetadata":{"promptTokenCount":261,"candidatesTokenCount":%d,"totalTokenCount":%d,'
    b'"promptTokensDetails":[{"modality":"TEXT","tokenCount":261}]},'
    b'"modelVersion":"gemini-2.5-flash","responseId":"%b"}'
)

GEMINI_ANSWER = (
    b'{"candidates":[{"content":{"parts":[{"text":"Paris is the capital of France."}],'
    b'"role":"model"},"finishReason":"STOP","index":0}],'
) + _GEMINI_USAGE % (8, 269, b"Zm9vYmFyYmF6cXV4MTIzNDU")


class _Part(msgspec.Struct):
    text: str


class _Content(msgspec.Struct, omit_defaults=True):
    parts: list[_Part]
    role: str | None = None


class _Generation(msgspec.Struct, rename="camel"):
    max_output_tokens: int
    temperature: float


class _GeminiBody(msgspec.Struct, rename="camel"):
    contents: list[_Content]
    system_instruction: _Content
    generation_config: _Generation


def _gemini_body(size_bytes: int, stream_chunks: int | None, model: str) -> bytes:
    del model  # in the path

    def encode(text: str) -> bytes:
        return msgspec.json.encode(
            _GeminiBody(
                contents=[_Content([_Part(text)], "user")],
                system_instruction=_Content([_Part("You are a terse assistant.")]),
                generation_config=_Generation(64 if stream_chunks is None else stream_chunks, 0.2),
            )
        )

    return payloads.fitted(encode, size_bytes)


class _GeminiCandidate(msgspec.Struct, rename="camel"):
    content: _Content
    finish_reason: str


class _GeminiCounts(msgspec.Struct, rename="camel"):
    prompt_token_count: int
    candidates_token_count: int


class _GeminiAnswer(msgspec.Struct, rename="camel"):
    candidates: list[_GeminiCandidate]
    usage_metadata: _GeminiCounts


def _gemini_said(body: bytes) -> Said:
    found = msgspec.json.decode(body, type=_GeminiAnswer)
    (candidate,) = found.candidates
    (part,) = candidate.content.parts
    usage = found.usage_metadata
    return Said(
        part.text, usage.prompt_token_count, usage.candidates_token_count, candidate.finish_reason
    )


class _GeminiChunks:
    """A Gemini stream has no opening of its own: its first chunk has text already."""

    opening = b""

    def __init__(self, stream_id: int) -> None:
        stamp = b"9" * payloads.STAMP_DIGITS
        self._usage = _GEMINI_USAGE % (140, 401, b"Zm9vYmFy%015d" % stream_id)
        chunk = (
            b'data: {"candidates": [{"content": {"parts": [{"text": "@%b"}],"role": "model"},'
            b'"index": 0}],%b\r\n\r\n' % (stamp, self._usage)
        )
        self._before, self._after = payloads.framed(chunk).split(stamp)

    def content(self, now_ns: int) -> bytes:
        return b"%b%019d%b" % (self._before, now_ns, self._after)

    def finish(self, *, usage: bool) -> bytes:
        del usage  # told without being asked for
        return payloads.framed(
            b'data: {"candidates": [{"content": {"parts": [{"text": ""}],"role": "model"},'
            b'"finishReason": "STOP","index": 0}],%b\r\n\r\n' % self._usage
        )


def _gemini_path(model: str, stream: bool) -> str:
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"/v1beta/models/{model}:{method}"


# -- all ---------------------------------------------------------------------------------------

FORMATS: Final[dict[FormatName, Format]] = {
    "chat": Format(
        model=payloads.MODEL,
        stop="stop",
        head=payloads.REQUEST_HEAD,
        path=lambda _model, _stream: "/v1/chat/completions",
        body=payloads.request_body,
        answer=payloads.ANSWER,
        said=_chat_said,
        chunks=_ChatChunks,
        ending=b"[DONE]",
    ),
    "messages": Format(
        model="claude-sonnet-4-5",
        stop="end_turn",
        head=_MESSAGES_HEAD,
        path=lambda _model, _stream: "/v1/messages",
        body=_messages_body,
        answer=MESSAGES_ANSWER,
        said=_messages_said,
        chunks=_MessagesChunks,
        ending=b'"message_stop"',
    ),
    "gemini": Format(
        model="gemini-2.5-flash",
        stop="STOP",
        head=_GEMINI_HEAD,
        path=_gemini_path,
        body=_gemini_body,
        answer=GEMINI_ANSWER,
        said=_gemini_said,
        chunks=_GeminiChunks,
        ending=b'"finishReason"',
    ),
}


class Call(msgspec.Struct, frozen=True):
    """A client of one format that asks for a model of the same provider or of another."""

    speaks: FormatName = "chat"
    upstream: FormatName = "chat"

    @property
    def translated(self) -> bool:
        """Whether the gateway has to translate."""
        return self.speaks != self.upstream

    def body(self, size_bytes: int, stream_chunks: int | None = None) -> bytes:
        """The request's body, of exactly that size."""
        model = FORMATS[self.upstream].model
        return FORMATS[self.speaks].body(size_bytes, stream_chunks, model)

    def path(self, *, stream: bool) -> str:
        """The request's target."""
        return FORMATS[self.speaks].path(FORMATS[self.upstream].model, stream)

    def request(self, port: int, key: str, body: bytes, *, stream: bool) -> bytes:
        """The whole request, with its SDK's header."""
        path = self.path(stream=stream)
        head = FORMATS[self.speaks].head.format(port=port, key=key, path=path, length=len(body))
        return head.encode() + body


class AnswerCheck:
    """Tells whether JSON answers to a call are right.

    Passed through, each must be what the upstream sent, byte for byte. Translated, the first is
    read and must say the same; as only its id and time may change, which are of one length, the
    others must be as long and hold the text.
    """

    def __init__(self, call: Call) -> None:
        own = FORMATS[call.speaks]
        self._exact = None if call.translated else own.answer
        self._own = own
        self._length = -1

    def right(self, body: bytes) -> bool:
        """Whether this answer is."""
        if self._exact is not None:
            return body == self._exact
        if self._length < 0 and self._says_the_same(body):
            self._length = len(body)
        return len(body) == self._length and body.find(TEXT.encode()) > 0

    def _says_the_same(self, body: bytes) -> bool:
        try:
            said = self._own.said(body)
        except (msgspec.DecodeError, ValueError):
            return False
        return said == Said(TEXT, INPUT_TOKENS, OUTPUT_TOKENS, self._own.stop)
