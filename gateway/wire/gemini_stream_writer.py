"""Gemini streams, written: events to SSE, or to one JSON array.

A call's arguments wait until they are complete; the reason to finish comes with the last chunk, so
that a stream that was cut has none. A keep-alive is an empty line: Google's SDKs take a comment
for JSON. Pure. Source: ai.google.dev API reference, "streamGenerateContent" (November 2026), and
google-genai 3.4.
"""

from typing import assert_never

import msgspec
from msgspec import Raw

from gateway.wire import gemini_answers as answers
from gateway.wire import gemini_parts as parts
from gateway.wire.conversation import (
    Audio,
    Block,
    Citation,
    Document,
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


class _Written:
    """What is known of one block of a stream that is written."""

    __slots__ = ("arguments", "block", "choice", "head")

    def __init__(self, block: Block, choice: int, head: bytes) -> None:
        self.block = block
        self.choice = choice
        self.head = head  # all of a text chunk that comes before the text
        self.arguments: list[str] = []


class _Spoken:
    """What is known of one choice of a stream that is written."""

    __slots__ = ("cited", "cut", "finish", "refused", "text")

    def __init__(self) -> None:
        self.cited: list[Citation] = []
        self.cut = False
        self.refused = False
        self.text: list[str] = []
        self.finish: Finish | None = None


_ERRORS: dict[str, tuple[int, str]] = {
    "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT"),
    "invalid_request_error": (400, "INVALID_ARGUMENT"),
    "content_filter": (400, "INVALID_ARGUMENT"),
    "FAILED_PRECONDITION": (400, "FAILED_PRECONDITION"),
    "PERMISSION_DENIED": (403, "PERMISSION_DENIED"),
    "NOT_FOUND": (404, "NOT_FOUND"),
    "not_found_error": (404, "NOT_FOUND"),
    "RESOURCE_EXHAUSTED": (429, "RESOURCE_EXHAUSTED"),
    "rate_limit_error": (429, "RESOURCE_EXHAUSTED"),
    "rate_limit_exceeded": (429, "RESOURCE_EXHAUSTED"),
    "insufficient_quota": (429, "RESOURCE_EXHAUSTED"),
    "UNAVAILABLE": (503, "UNAVAILABLE"),
    "overloaded_error": (503, "UNAVAILABLE"),
    "DEADLINE_EXCEEDED": (504, "DEADLINE_EXCEEDED"),
    "timeout_error": (504, "DEADLINE_EXCEEDED"),
}
_INTERNAL = (500, "INTERNAL")


class GeminiStreamWriter:
    """Writes one stream; see `format.StreamWriter`.

    Chunks tell the usage that is known by then, the last one all of it. `asked.array` makes the
    stream one JSON array.
    """

    __slots__ = ("_array", "_blocks", "_choices", "_head", "_over", "_tail", "_wrote", "asked")

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._array = asked.array
        self._blocks: dict[int, _Written] = {}
        self._choices: dict[int, _Spoken] = {}
        self._wrote = False
        self._over = False
        self._head = b"" if asked.array else b"data: "
        self._tail = self._ending(None)

    def write(self, event: Event) -> bytes:
        """See `format.StreamWriter.write`."""
        if self._over:
            return b""
        if type(event) is Delta:
            return self._delta(event)
        return self._other(event)

    def _other(self, event: Event) -> bytes:
        match event:
            case Delta():
                return self._delta(event)
            case BlockStart():
                return self._block_start(event)
            case BlockStop(index=index):
                return self._block_stop(self._blocks.pop(index, None))
            case Finish():
                self._spoken(event.choice).finish = event
                return b""
            case MessageStart():
                self._tail = self._ending(event.usage)
                return b""
            case MessageEnd():
                return self._end(event)
            case StreamError():
                return self._error(event)
            case Ping():
                return b"\n" if self._array else b"\r\n"
            case _:
                assert_never(event)

    def _ending(self, usage: Usage | None) -> bytes:
        """All of a chunk that comes after its candidates."""
        rest: dict[str, object] = {}
        if usage is not None:
            rest["usageMetadata"] = answers.usage_metadata(usage)
        rest |= {"modelVersion": self.asked.model, "responseId": self.asked.id}
        end = b"" if self._array else b"\r\n\r\n"
        return b"]," + msgspec.json.encode(rest)[1:] + end

    def _spoken(self, choice: int) -> _Spoken:
        found = self._choices.get(choice)
        if found is None:
            found = self._choices[choice] = _Spoken()
        return found

    def _framed(self, chunk: bytes) -> bytes:
        """A chunk with what comes before it in an array."""
        if not self._array:
            return chunk
        opening = b",\r\n" if self._wrote else b"["
        self._wrote = True
        return opening + chunk

    def _candidates(self, candidates: bytes) -> bytes:
        return self._framed(self._head + b'{"candidates":[' + candidates + self._tail)

    def _part(self, part: answers.Json | Raw | None, choice: int) -> bytes:
        if part is None:
            return b""
        spelled = msgspec.json.encode(part)
        if not self._array and (b"\n" in spelled or b"\r" in spelled):
            # JSON passed on as it was spelled: a line end in it (never within a string) would end
            # the event's line.
            spelled = spelled.replace(b"\n", b" ").replace(b"\r", b" ")
        return self._candidates(
            b'{"content":{"parts":[%b],"role":"model"},"index":%d}' % (spelled, choice)
        )

    def _block_start(self, event: BlockStart) -> bytes:
        block, choice = event.block, event.choice
        thought = b'"thought":true,' if isinstance(block, Thinking) else b""
        head = self._head + b'{"candidates":[{"content":{"parts":[{' + thought + b'"text":'
        self._blocks[event.index] = written = _Written(block, choice, head)
        spoken = self._spoken(choice)
        match block:
            case Citation():
                spoken.cited.append(block)
            case ToolCall():
                if block.arguments:
                    written.arguments.append(block.arguments)
            case Text() | Refusal():
                spoken.refused = spoken.refused or isinstance(block, Refusal)
                spoken.text.append(block.text)
                return self._part(answers.write_part(block), choice)
            case Thinking() | Image() | Document() | Audio() | Opaque():
                return self._part(answers.write_part(block), choice)
            case _:
                pass
        return b""

    def _delta(self, event: Delta) -> bytes:
        written = self._blocks.get(event.index)
        if written is None or not event.text:
            return b""
        if event.kind == "arguments" or isinstance(written.block, ToolCall):
            return self._call_delta(event, written)
        if event.kind == "signature":
            return self._signature(event, written)
        if not isinstance(written.block, Thinking):
            self._choices[written.choice].text.append(event.text)
        chunk = b'%b%b}],"role":"model"},"index":%d}%b' % (
            written.head, msgspec.json.encode(event.text), written.choice, self._tail,
        )  # fmt: skip
        return self._framed(chunk) if self._array else chunk

    def _call_delta(self, event: Delta, written: _Written) -> bytes:
        if event.kind == "arguments":
            written.arguments.append(event.text)
        elif event.kind == "signature" and isinstance(written.block, ToolCall):
            signature = Signature(event.format, event.text)
            written.block = msgspec.structs.replace(written.block, signature=signature)
        return b""

    def _signature(self, event: Delta, written: _Written) -> bytes:
        signature = Signature(event.format, event.text)
        redacted = False
        part: answers.Json = {"text": ""}
        if isinstance(written.block, Thinking):
            part["thought"] = True
            redacted = written.block.redacted
        part["thoughtSignature"] = parts.write_signature(signature, redacted=redacted)
        return self._part(part, written.choice)

    def _block_stop(self, written: _Written | None) -> bytes:
        if written is None or not isinstance(written.block, ToolCall):
            return b""
        call = msgspec.structs.replace(written.block, arguments="".join(written.arguments))
        if not answers.callable_part(call):
            self._spoken(written.choice).cut = True
            return b""
        return self._part(answers.write_part(call), written.choice)

    def _end(self, event: MessageEnd) -> bytes:
        self._over = True
        if event.usage is not None:
            self._tail = self._ending(event.usage)
        finished = []
        for number, spoken in sorted(self._choices.items()):
            if spoken.finish is None:
                continue
            candidate: answers.Json = {
                "content": {"parts": [{"text": ""}], "role": "model"},
                **answers.finish(spoken.finish.stop, cut=spoken.cut, refused=spoken.refused),
                "index": number,
            }
            if spoken.cited:
                text = "".join(spoken.text)
                candidate["groundingMetadata"] = answers.write_grounding(spoken.cited, text)
            finished.append(msgspec.json.encode(candidate))
        return self._candidates(b",".join(finished)) + (b"\r\n]" if self._array else b"")

    def _error(self, event: StreamError) -> bytes:
        self._over = True
        code, status = _ERRORS.get(event.type or "", _INTERNAL)
        error = {"error": {"code": code, "message": event.message, "status": status}}
        chunk = self._framed(self._head + msgspec.json.encode(error))
        return chunk + (b"\r\n]" if self._array else b"\r\n\r\n")
