"""Answers in the four formats, JSON and streamed, each with its usage and its tag in every piece.

A `Kind` is a format and a way of delivery. `request` makes the client's bytes, `reply` what the
upstream answers: `events` are the pieces that must arrive whole or not at all. Everything of a
reply follows from its number, so that a reader can tell whose answer it got and what it costs.
"""

import random
from dataclasses import dataclass

import orjson

ANTHROPIC_HEAD = b"event: "


@dataclass(frozen=True)
class Kind:
    format: str
    stream: bool
    array: bool = False

    @property
    def name(self) -> str:
        return f"{self.format}-{'array' if self.array else 'sse' if self.stream else 'json'}"

    @property
    def ends_itself(self) -> bool:
        """Whether the format has a terminal event."""
        return self.stream and self.format != "gemini"

    @property
    def content_type(self) -> bytes:
        return b"text/event-stream" if self.stream and not self.array else b"application/json"


FORMATS = ("openai_chat", "openai_responses", "anthropic_messages", "gemini")
JSON_KINDS = tuple(Kind(one, stream=False) for one in FORMATS)
STREAM_KINDS = tuple(Kind(one, stream=True) for one in FORMATS)
ARRAY = Kind("gemini", stream=True, array=True)
KINDS = (*JSON_KINDS, *STREAM_KINDS, ARRAY)
ENDING_MARKS = {
    "openai_chat": b"data: [DONE]",
    "openai_responses": b"response.completed",
    "anthropic_messages": b"message_stop",
    "gemini": b'"finishReason"',
}
ERROR_MARKS = {
    "openai_chat": b'data: {"error"',
    "openai_responses": b"event: response.failed",
    "anthropic_messages": b"event: error",
    "gemini": b'data: {"error"',
}
MODELS = {
    "openai_chat": "gpt-4o-mini",
    "openai_responses": "gpt-4o-mini",
    "anthropic_messages": "claude-haiku-4-5",
    "gemini": "gemini-2.5-flash",
}


@dataclass(frozen=True)
class Reply:
    """An answer. `reports[i]` are the (input, output) tokens known once events[:i] are through."""

    kind: Kind
    events: tuple[bytes, ...]
    reports: tuple[tuple[int, int] | None, ...]

    @property
    def body(self) -> bytes:
        return b"".join(self.events)

    @property
    def usage(self) -> tuple[int, int]:
        last = self.reports[-1]
        assert last is not None
        return last

    def whole_events(self, size: int) -> int:
        """How many events the first `size` bytes of the body hold whole."""
        count = end = 0
        for event in self.events:
            end += len(event)
            if end > size:
                break
            count += 1
        return count

    def reported(self, size: int) -> set[tuple[int, int] | None]:
        """What may be known of the usage after `size` bytes: an event's line ends may lack."""
        bare = self.whole_events(size)
        known = {self.reports[bare]}
        if bare < len(self.events):
            start = sum(map(len, self.events[:bare]))
            if size - start >= len(self.events[bare].rstrip()):
                known.add(self.reports[bare + 1])
        return known


def tag(number: int) -> str:
    return f"tag-{number:06d}"


def usage_of(number: int) -> tuple[int, int]:
    """Input and output tokens of an answer: more output than its text could be counted as."""
    return 1000 + number % 997, 2000 + number % 1009


def path(kind: Kind) -> str:
    if kind.format == "gemini":
        method = "streamGenerateContent" if kind.stream else "generateContent"
        query = "?alt=sse" if kind.stream and not kind.array else ""
        return f"/v1beta/models/{MODELS['gemini']}:{method}{query}"
    return {
        "openai_chat": "/v1/chat/completions",
        "openai_responses": "/v1/responses",
        "anthropic_messages": "/v1/messages",
    }[kind.format]


def request_body(
    kind: Kind, number: int, *, size: int = 0, ask_usage: bool = True, model: str = ""
) -> bytes:
    """A request with its tag in the prompt, padded to `size` bytes: what its receipt is told by."""
    text = f"{tag(number)} "
    body = _request(kind, text, ask_usage=ask_usage, model=model or MODELS[kind.format])
    if size > len(body):
        text += "x" * (size - len(body))
        body = _request(kind, text, ask_usage=ask_usage, model=model or MODELS[kind.format])
    return body


def _request(kind: Kind, text: str, *, ask_usage: bool, model: str) -> bytes:
    if kind.format == "gemini":
        return orjson.dumps({"contents": [{"role": "user", "parts": [{"text": text}]}]})
    out: dict[str, object] = {"model": model, "stream": kind.stream}
    if kind.format == "openai_responses":
        out["input"] = text
    else:
        out["messages"] = [{"role": "user", "content": text}]
    if kind.format == "anthropic_messages":
        out["max_tokens"] = 4096
    if kind.format == "openai_chat" and kind.stream and ask_usage:
        out["stream_options"] = {"include_usage": True}
    return orjson.dumps(out)


def request(base: str, key: str, kind: Kind, body: bytes, *, at: str = "") -> bytes:
    """The whole request as bytes; `at` replaces the path."""
    host = base.partition("//")[2]
    return (
        f"POST {at or path(kind)} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def reply(kind: Kind, number: int, *, deltas: int = 8) -> Reply:
    """The answer to the request of that number."""
    words = [f"{tag(number)} word {i} é{'z' * ((number + i) % 23)} " for i in range(deltas)]
    tokens = usage_of(number)
    if not kind.stream:
        body = orjson.dumps(_document(kind.format, "".join(words), *tokens, number))
        return Reply(kind, (body,), (None, tokens))
    if kind.format == "openai_chat":
        return _chat(kind, words, tokens, number)
    if kind.format == "openai_responses":
        return _responses(kind, words, tokens, number)
    if kind.format == "anthropic_messages":
        return _messages(kind, words, tokens, number)
    return _gemini(kind, words, tokens, number)


def _document(wire: str, text: str, tokens_in: int, tokens_out: int, number: int) -> object:
    total = tokens_in + tokens_out
    if wire == "openai_chat":
        message = {"role": "assistant", "content": text}
        return {
            "id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out,
                      "total_tokens": total},
        }  # fmt: skip
    if wire == "openai_responses":
        content = [{"type": "output_text", "text": text, "annotations": []}]
        return {
            "id": f"resp_{number}", "object": "response", "status": "completed",
            "model": "gpt-4o-mini-2024-07-18",
            "output": [{"type": "message", "id": "msg_1", "role": "assistant",
                        "status": "completed", "content": content}],
            "usage": {"input_tokens": tokens_in, "output_tokens": tokens_out,
                      "total_tokens": total},
        }  # fmt: skip
    if wire == "anthropic_messages":
        return {
            "id": f"msg_{number}", "type": "message", "role": "assistant",
            "model": "claude-haiku-4-5", "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": tokens_in, "output_tokens": tokens_out},
        }  # fmt: skip
    return _candidate(text, tokens_in, tokens_out, last=True)


def _candidate(text: str, tokens_in: int, tokens_out: int, *, last: bool) -> dict[str, object]:
    candidate: dict[str, object] = {
        "content": {"parts": [{"text": text}], "role": "model"},
        "index": 0,
    }
    if last:
        candidate["finishReason"] = "STOP"
    return {
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": tokens_in,
            "candidatesTokenCount": tokens_out,
            "totalTokenCount": tokens_in + tokens_out,
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r1",
    }


def _data(value: object, name: str = "") -> bytes:
    opening = f"event: {name}\n" if name else ""
    return opening.encode() + b"data: " + orjson.dumps(value) + b"\n\n"


def _late(events: list[bytes], tokens: tuple[int, int], at: int) -> Reply:
    """A reply whose usage comes with the event at index `at`."""
    reports = tuple(tokens if i > at else None for i in range(len(events) + 1))
    return Reply(Kind("", stream=True), tuple(events), reports)


def _chat(kind: Kind, words: list[str], tokens: tuple[int, int], number: int) -> Reply:
    def chunk(delta: object, finish: str | None = None) -> bytes:
        return _data(
            {
                "id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": 1,
                "model": "gpt-4o-mini-2024-07-18",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            }
        )  # fmt: skip

    events = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": word}) for word in words]
    events.append(chunk({}, "stop"))
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1],
             "total_tokens": sum(tokens)}  # fmt: skip
    events.append(
        _data(
            {
                "id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": 1,
                "model": "gpt-4o-mini-2024-07-18", "choices": [], "usage": usage,
            }
        )
    )  # fmt: skip
    events.append(b"data: [DONE]\n\n")
    late = _late(events, tokens, len(events) - 2)
    return Reply(kind, late.events, late.reports)


def _responses(kind: Kind, words: list[str], tokens: tuple[int, int], number: int) -> Reply:
    events: list[bytes] = []

    def add(name: str, **more: object) -> None:
        events.append(_data({"type": name, "sequence_number": len(events), **more}, name))

    started = {"id": f"resp_{number}", "object": "response", "status": "in_progress", "output": []}
    add("response.created", response=started)
    add("response.output_item.added", output_index=0, item={"type": "message", "content": []})
    for word in words:
        add("response.output_text.delta", item_id="msg_1", output_index=0, delta=word)
    add("response.output_text.done", item_id="msg_1", output_index=0, text="".join(words))
    add(
        "response.completed",
        response=_document("openai_responses", "".join(words), *tokens, number),
    )
    late = _late(events, tokens, len(events) - 1)
    return Reply(kind, late.events, late.reports)


def _messages(kind: Kind, words: list[str], tokens: tuple[int, int], number: int) -> Reply:
    events: list[bytes] = []

    def add(name: str, **more: object) -> None:
        events.append(_data({"type": name, **more}, name))

    message: dict[str, object] = {
        "id": f"msg_{number}", "type": "message", "role": "assistant", "content": [],
        "model": "claude-haiku-4-5", "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": tokens[0], "output_tokens": 1},
    }  # fmt: skip
    add("message_start", message=message)
    add("content_block_start", index=0, content_block={"type": "text", "text": ""})
    add("ping")
    for word in words:
        add("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
    add("content_block_stop", index=0)
    add(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={"output_tokens": tokens[1]},
    )
    add("message_stop")
    last = len(events) - 2
    reports: list[tuple[int, int] | None] = [None]
    reports += [(tokens[0], 1) if i < last else tokens for i in range(len(events))]
    return Reply(kind, tuple(events), tuple(reports))


def _gemini(kind: Kind, words: list[str], tokens: tuple[int, int], number: int) -> Reply:
    count = len(words)
    values = [
        orjson.dumps(_candidate(word, tokens[0], tokens[1] - count + 1 + i, last=i == count - 1))
        for i, word in enumerate(words)
    ]
    reports: list[tuple[int, int] | None] = [None]
    reports += [(tokens[0], tokens[1] - count + 1 + i) for i in range(count)]
    if not kind.array:
        return Reply(kind, tuple(b"data: " + v + b"\r\n\r\n" for v in values), tuple(reports))
    events = [(b"[" if i == 0 else b",\r\n") + value for i, value in enumerate(values)]
    return Reply(kind, (*events, b"\n]"), (*reports, tokens))


def head(kind: Kind, *, length: int | None = None, close: bool = False) -> bytes:
    """The head of an answer: with a length, chunked, or delimited by the connection's end."""
    out = b"HTTP/1.1 200 OK\r\ncontent-type: " + kind.content_type + b"\r\nx-request-id: up-1\r\n"
    if close:
        return out + b"connection: close\r\n\r\n"
    if length is not None:
        return out + b"content-length: %d\r\n\r\n" % length
    return out + b"transfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


LAST_CHUNK = b"0\r\n\r\n"


def cut_anywhere(data: bytes, pieces: int, rng: random.Random) -> list[bytes]:
    """The bytes in so many pieces, cut at random, none of them empty."""
    count = min(pieces - 1, max(len(data) - 1, 0))
    at = sorted(rng.sample(range(1, len(data)), count)) if count else []
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


def dechunked(wire: bytes) -> bytes:
    """The body bytes that a chunked prefix carries, the last chunk perhaps in part."""
    out = bytearray()
    at = 0
    while (line := wire.find(b"\r\n", at)) >= 0:
        size = int(wire[at:line], 16)
        if size == 0:
            break
        out += wire[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
        if at > len(wire):
            break
    return bytes(out)
