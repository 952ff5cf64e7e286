"""Writing streamed answers of OpenAI chat: events to chunks.

A choice begins with a chunk of its role, then one chunk per delta, one with its finish reason, the
usage where the caller asked for it (`stream_options.include_usage`), and `[DONE]`; an error is
`data: {"error": …}` and nothing after it. What is written besides what OpenAI documents is told in
`openai_chat_answers.py`. Used by `openai_chat_dialect.py`; pure.

Source: platform.openai.com API reference, "Streaming" (2026-11), and recorded traffic (658f07f4).
"""

from collections.abc import Mapping

import orjson

from gateway.wire.conversation import (
    Audio,
    Block,
    Citation,
    Image,
    Opaque,
    Refusal,
    Signature,
    Text,
    Thinking,
    ToolCall,
)
from gateway.wire.events import (
    BlockStart,
    BlockStop,
    Delta,
    Event,
    Finish,
    MessageEnd,
    MessageStart,
    Ping,
    StreamError,
)
from gateway.wire.format import Asked
from gateway.wire.neutral import Usage
from gateway.wire.openai_chat_answers import (
    finish_of,
    is_legacy,
    write_audio,
    write_citation,
    write_image,
    write_usage,
)
from gateway.wire.openai_chat_thoughts import SEPARATOR, json_of, own_details

_ERROR_TYPES: Mapping[str, str] = {
    "rate_limit_error": "rate_limit_error",
    "RESOURCE_EXHAUSTED": "rate_limit_error",
    "invalid_request_error": "invalid_request_error",
    "INVALID_ARGUMENT": "invalid_request_error",
    "FAILED_PRECONDITION": "invalid_request_error",
    "authentication_error": "server_error",  # the operator's key, not the caller's
    "UNAUTHENTICATED": "server_error",
    "permission_error": "server_error",
    "PERMISSION_DENIED": "server_error",
    "api_error": "server_error",
    "overloaded_error": "server_error",
    "INTERNAL": "server_error",
    "UNAVAILABLE": "server_error",
    "DEADLINE_EXCEEDED": "server_error",
}

_Object = dict[str, object]


class _Line:
    """A block being written: the bytes around each of its deltas, and the characters so far."""

    __slots__ = ("before", "chars", "choice", "head", "kind", "tail")

    def __init__(self, kind: type[Block], choice: int, head: bytes, tail: bytes) -> None:
        self.kind = kind
        self.choice = choice
        self.head = head
        self.tail = tail
        self.chars = 0
        self.before = b""
        """What separates it from the block before, until it says something."""


class _Written:
    """One choice being written."""

    __slots__ = ("calls", "chars", "listed", "refused", "start", "thought")

    def __init__(self) -> None:
        self.calls = 0
        self.refused = False
        self.thought = False
        self.start = 0  # where the last block of text began, in characters of all text
        self.chars = 0
        self.listed: dict[str, int] = {}  # how many items of each list have been sent


class ChatStreamWriter:
    """Implements `format.StreamWriter`."""

    __slots__ = (
        "_asked", "_base", "_choices", "_end", "_legacy", "_lines", "_over", "_tail", "_usage",
    )  # fmt: skip

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._legacy = is_legacy(asked)
        self._lines: dict[int, _Line] = {}
        self._choices: dict[int, _Written] = {}
        self._over = False
        self._usage = asked.request.include_usage
        self._base = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b' % (
            orjson.dumps(f"chatcmpl-{asked.id}"),
            asked.created_s,
            orjson.dumps(asked.model),
        )
        # With include_usage every chunk but the last carries a null.
        self._end = (b',"usage":null' if self._usage else b"") + b"}\n\n"
        self._tail = b'},"logprobs":null,"finish_reason":null}]' + self._end

    def write(self, event: Event) -> bytes:
        """See `format.StreamWriter.write`."""
        if type(event) is Delta:
            line = self._lines.get(event.index)
            if line is None or self._over:
                return b""
            if event.kind == "signature":
                return self._signature(line, event)
            line.chars += len(event.text)
            if line.before:
                return self._separated(line, event.text)
            return line.head + orjson.dumps(event.text) + line.tail
        if self._over:
            return b""
        return self._other(event)

    def _other(self, event: Event) -> bytes:
        match event:
            case MessageStart():
                return self._begun(0)
            case BlockStart():
                return self._begun(event.choice) + self._block(event)
            case BlockStop():
                return self._stop(event.index)
            case Finish():
                return self._begun(event.choice) + self._finish(event)
            case MessageEnd():
                self._over = True
                return self._usage_chunk(event.usage) + b"data: [DONE]\n\n"
            case StreamError():
                self._over = True
                return _error(event)
            case Ping():
                return b": keep-alive\n\n"
            case _:
                return b""

    def _delta(self, choice: int, members: bytes) -> bytes:
        return self._head(choice) + members + self._tail

    def _head(self, choice: int) -> bytes:
        return self._base + b',"choices":[{"index":%d,"delta":{' % choice

    def _begun(self, choice: int) -> bytes:
        """The chunk that opens a choice, the first time."""
        if choice in self._choices:
            return b""
        self._choices[choice] = _Written()
        return self._delta(choice, b'"role":"assistant","content":"","refusal":null')

    def _block(self, event: BlockStart) -> bytes:
        choice = event.choice
        written = self._choices[choice]
        match event.block:
            case Text(text=text):
                written.start = written.chars
                return self._text(event.index, Text, choice, b'"content":', text)
            case Refusal(text=text):
                written.refused = True
                return self._text(event.index, Refusal, choice, b'"refusal":', text)
            case Thinking(text=text):
                return self._thinking(event, text)
            case ToolCall():
                return self._call(event.index, event.block, choice)
            case Image():
                return self._listed(choice, "images", [write_image(event.block)])
            case Citation(url=str()):
                written_as = write_citation(event.block, written.start, written.chars)
                return self._listed(choice, "annotations", [written_as])
            case Audio():
                return self._whole(choice, "audio", write_audio(event.block, self._asked))
            case Opaque(format="openai_chat", kind="audio", json=raw):
                return self._whole(choice, "audio", orjson.Fragment(raw))
        return b""

    def _listed(self, choice: int, field: str, items: list[_Object]) -> bytes:
        """Items of a list: the official SDK puts those of several chunks together by `index`."""
        listed = self._choices[choice].listed
        start = listed.get(field, 0)
        listed[field] = start + len(items)
        return self._whole(
            choice, field, [{**item, "index": start + at} for at, item in enumerate(items)]
        )

    def _whole(self, choice: int, field: str, value: object) -> bytes:
        return self._delta(choice, b'"%b":%b' % (field.encode(), json_of(value)))

    def _text(self, index: int, kind: type[Block], choice: int, member: bytes, text: str) -> bytes:
        line = _Line(kind, choice, self._head(choice) + member, self._tail)
        self._lines[index] = line
        if not text:
            return b""
        line.chars = len(text)
        return line.head + orjson.dumps(text) + line.tail

    def _thinking(self, event: BlockStart, text: str) -> bytes:
        written = self._choices[event.choice]
        signature = event.block.signature if isinstance(event.block, Thinking) else None
        details = own_details(signature)
        signed = self._listed(event.choice, "reasoning_details", details) if details else b""
        self._text(event.index, Thinking, event.choice, b'"reasoning_content":', "")
        line = self._lines[event.index]
        if written.thought:
            line.before = SEPARATOR.encode()
        return signed + (self.write(Delta(event.index, text)) if text else b"")

    def _separated(self, line: _Line, text: str) -> bytes:
        between, line.before = line.before.decode(), b""
        return line.head + orjson.dumps(between + text) + line.tail

    def _signature(self, line: _Line, event: Delta) -> bytes:
        """Signatures of this format alone have a place."""
        details = own_details(Signature(event.format, event.text))
        return self._listed(line.choice, "reasoning_details", details) if details else b""

    def _call(self, index: int, call: ToolCall, choice: int) -> bytes:
        written = self._choices[choice]
        name, call_id = orjson.dumps(call.name), orjson.dumps(call.id)
        if self._legacy and not written.calls:
            opening = b'"function_call":{"name":%b,"arguments":' % name
            member, close = b'"function_call":{"arguments":', b"}"
        else:
            number = written.calls - self._legacy
            kind, text = (b"custom", b"input") if call.custom else (b"function", b"arguments")
            opening = b'"tool_calls":[{"index":%d,"id":%b,"type":"%b","%b":{"name":%b,"%b":' % (
                number, call_id, kind, kind, name, text,
            )  # fmt: skip
            member = b'"tool_calls":[{"index":%d,"%b":{"%b":' % (number, kind, text)
            close = b"}}]"
        written.calls += 1
        head, tail = self._head(choice), close + self._tail
        line = self._lines[index] = _Line(ToolCall, choice, head + member, tail)
        line.chars = len(call.arguments) or int(call.custom)
        return head + opening + orjson.dumps(call.arguments) + tail

    def _stop(self, index: int) -> bytes:
        line = self._lines.pop(index, None)
        if line is None:
            return b""
        written = self._choices[line.choice]
        if line.kind is Text:
            written.chars += line.chars
        elif line.kind is Thinking:
            written.thought = written.thought or bool(line.chars)
        elif line.kind is ToolCall and not line.chars:
            return line.head + b'"{}"' + line.tail  # no arguments at all
        return b""

    def _finish(self, event: Finish) -> bytes:
        refused = self._choices[event.choice].refused
        reason = finish_of(event.stop, refused=refused, legacy=self._legacy)
        return b'%b},"logprobs":null,"finish_reason":"%b"}]%b' % (
            self._head(event.choice), reason.encode(), self._end,
        )  # fmt: skip

    def _usage_chunk(self, usage: Usage | None) -> bytes:
        if not self._usage or usage is None:
            return b""
        return b'%b,"choices":[],"usage":%b}\n\n' % (self._base, orjson.dumps(write_usage(usage)))


def _error(event: StreamError) -> bytes:
    kind = _ERROR_TYPES.get(event.type or "", "server_error")
    error = {"message": event.message, "type": kind, "param": None, "code": event.code}
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"
