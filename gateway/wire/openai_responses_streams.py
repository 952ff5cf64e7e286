"""OpenAI Responses, for translation: streams written.

Items may overlap here, so every block goes out as it comes: text as the parts of one message until
something else begins, calls and thoughts as items of their own. What closes a text waits for the
next block, whose text may go on in the same part, or be a citation of it. Every event has a
`sequence_number`, without gaps; the last one has the whole response. Used by
`openai_responses_dialect.py`; reading is in `openai_responses_reader.py`.
"""

from typing import Any, assert_never

import msgspec
import orjson
from msgspec import Raw

from gateway.wire import call_ids, signatures
from gateway.wire.conversation import (
    AnswerError,
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
from gateway.wire.openai_responses_answers import (
    Envelope,
    annotation,
    call_item,
    carrier_item,
    image_item,
    item_id,
    message_item,
    reasoning_item,
    status_of,
    text_of,
    text_part,
)
from gateway.wire.openai_responses_items import NAME

# A comment: clients that know no `keepalive` event would trip over one.
_PING = b": ping\n\n"

Json = dict[str, Any]


class _Part:
    """A part of a message: text (several blocks of it may follow each other) or a refusal."""

    __slots__ = (
        "annotations", "busy", "head", "length", "number", "refusal", "start", "tail", "texts"
    )  # fmt: skip

    def __init__(self, number: int, place: Json, *, refusal: bool) -> None:
        self.number = number
        self.refusal = refusal
        self.busy = True  # a block of it is open
        self.texts: list[str] = []
        self.length = 0
        self.start = 0  # where its last block begins
        self.annotations: list[Json] = []
        kind = "response.refusal.delta" if refusal else "response.output_text.delta"
        self.head = _delta_head(kind, {**place, "content_index": number})
        self.tail = b"" if refusal else b',"logprobs":[]'

    def json(self) -> Json:
        text = "".join(self.texts)
        if self.refusal:
            return {"type": "refusal", "refusal": text}
        return text_part(text, self.annotations)


class _Message:
    """The message that is being written."""

    __slots__ = ("at", "id", "parts", "written")

    def __init__(self, at: int, name: str) -> None:
        self.at = at
        self.id = name
        self.parts: list[_Part] = []
        self.written: list[Json] = []  # parts that are done

    @property
    def place(self) -> Json:
        return {"item_id": self.id, "output_index": self.at}


class _Thought:
    """A reasoning item that is being written."""

    __slots__ = ("at", "block", "head", "id", "tail", "texts")

    def __init__(self, at: int, name: str, block: Thinking) -> None:
        self.at = at
        self.id = name
        self.block = block
        self.texts: list[str] = []
        place = {"item_id": name, "output_index": at, "summary_index": 0}
        self.head = _delta_head("response.reasoning_summary_text.delta", place)
        self.tail = b""


class _Call:
    """A call that is being written."""

    __slots__ = ("at", "block", "call_id", "head", "id", "signature", "tail", "texts")

    def __init__(self, at: int, name: str, block: ToolCall, call_id: str) -> None:
        self.at = at
        self.id = name
        self.block = block
        self.call_id = call_id
        self.signature: Signature | None = None
        self.texts: list[str] = []
        kind = "custom_tool_call_input" if block.custom else "function_call_arguments"
        self.head = _delta_head(f"response.{kind}.delta", {"item_id": name, "output_index": at})
        self.tail = b""


def _delta_head(kind: str, place: Json) -> bytes:
    """All of a delta event that stands before its text."""
    members = orjson.dumps({"type": kind, **place})[:-1]
    return b"event: %b\ndata: %b" % (kind.encode(), members) + b',"delta":'


class ResponsesWriter:
    """See `format.StreamWriter`."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._envelope = Envelope(asked)
        self._sequence = -1
        self._output: list[Json | Raw | None] = []
        self._open: dict[int, _Part | _Thought | _Call] = {}
        self._message: _Message | None = None
        self._finish: Finish | None = None
        self._refused = False
        self._status = "completed"
        self._over = False

    def write(self, event: Event) -> bytes:
        """See `format.StreamWriter.write`."""
        if self._over:
            return b""
        if isinstance(event, Delta):
            return self._delta(event)
        match event:
            case BlockStart(index=index, block=block, choice=choice):
                return self._start(index, block) if choice == 0 else b""
            case BlockStop(index=index):
                return self._stop(index)
            case MessageStart():
                response = self._envelope.begun()
                return self._whole("response.created", response) + self._whole(
                    "response.in_progress", response
                )
            case Finish(choice=choice):
                return self._ended(event) if choice == 0 else b""
            case MessageEnd():
                return self._complete(event)
            case StreamError():
                return self._failed(event)
            case Ping():
                return _PING
            case _:
                assert_never(event)

    # -- events --------------------------------------------------------------------------------

    def _event(self, kind: str, members: Json) -> bytes:
        self._sequence += 1
        data = msgspec.json.encode({"type": kind, **members, "sequence_number": self._sequence})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

    def _whole(self, kind: str, response: bytes) -> bytes:
        return self._event(kind, {"response": Raw(response)})

    def _delta(self, event: Delta) -> bytes:
        found = self._open.get(event.index)
        if found is None:
            return b""
        if event.kind == "signature":
            self._sign(found, Signature(event.format, event.text))
            return b""
        return self._text(found, event.text)

    def _text(self, found: "_Part | _Thought | _Call", text: str) -> bytes:
        if not text:
            return b""
        opening = b""
        if type(found) is _Part:
            found.length += len(text)
        elif type(found) is _Thought and not found.texts:
            opening = self._summary(found, "added", "")
        found.texts.append(text)
        self._sequence += 1
        return opening + b'%b%b%b,"sequence_number":%d}\n\n' % (
            found.head, orjson.dumps(text), found.tail, self._sequence,
        )  # fmt: skip

    # -- blocks --------------------------------------------------------------------------------

    def _start(self, index: int, block: Block) -> bytes:
        match block:
            case Text(text=text) | Refusal(text=text):
                return self._start_text(index, text, refusal=isinstance(block, Refusal))
            case Citation():
                return self._cite(block)
            case Thinking():
                return self._end_message() + self._start_thought(index, block)
            case ToolCall():
                return self._end_message() + self._start_call(index, block)
            case _:
                return self._start_other(index, block)

    def _start_other(self, index: int, block: Block) -> bytes:
        plain = text_of(block)
        if plain:
            return self._start_text(index, plain, refusal=False)
        if isinstance(block, Image) and block.data is not None:
            closing = self._end_message()
            item: Json | Raw = image_item(self._id("ig"), block)
        elif isinstance(block, Opaque) and block.format == NAME:
            closing = self._end_message()
            item = Raw(block.json)
        else:
            return b""
        at = self._place()
        return closing + self._added(at, item) + self._done(at, item)

    def _id(self, kind: str) -> str:
        return item_id(kind, self._asked, len(self._output))

    def _place(self) -> int:
        self._output.append(None)
        return len(self._output) - 1

    def _added(self, at: int, item: Json | Raw) -> bytes:
        return self._event("response.output_item.added", {"output_index": at, "item": item})

    def _done(self, at: int, item: Json | Raw) -> bytes:
        self._output[at] = item
        return self._event("response.output_item.done", {"output_index": at, "item": item})

    def _start_text(self, index: int, text: str, *, refusal: bool) -> bytes:
        self._refused = self._refused or refusal
        opening = b""
        message = self._message
        if message is None:
            name = self._id("msg")
            message = self._message = _Message(self._place(), name)
            opening = self._added(message.at, message_item(name, [], "in_progress"))
        part = message.parts[-1] if message.parts else None
        if part is not None and not part.busy and not refusal and not part.refusal:
            part.busy, part.start = True, part.length
        else:
            opening += self._end_parts(message)
            number = len(message.parts)
            part = _Part(number, message.place, refusal=refusal)
            message.parts.append(part)
            opening += self._event(
                "response.content_part.added",
                {**message.place, "content_index": number, "part": part.json()},
            )
        self._open[index] = part
        return opening + self._text(part, text)

    def _cite(self, block: Citation) -> bytes:
        message = self._message
        part = message.parts[-1] if message is not None and message.parts else None
        if message is None or part is None or part.refusal:
            return b""
        found = annotation(block, part.start, part.length)
        part.annotations.append(found)
        return self._event(
            "response.output_text.annotation.added",
            {
                **message.place,
                "content_index": part.number,
                "annotation_index": len(part.annotations) - 1,
                "annotation": found,
            },
        )

    def _end_parts(self, message: _Message) -> bytes:
        """Say of the parts that no open block goes on with that they are done, in order."""
        out = b""
        for part in message.parts[len(message.written) :]:
            if part.busy:
                break
            found = part.json()
            message.written.append(found)
            place = {**message.place, "content_index": part.number}
            if part.refusal:
                out += self._event("response.refusal.done", {**place, "refusal": found["refusal"]})
            else:
                text = {"text": found["text"], "logprobs": []}
                out += self._event("response.output_text.done", {**place, **text})
            out += self._event("response.content_part.done", {**place, "part": found})
        return out

    def _end_message(self, status: str = "completed") -> bytes:
        """End the message, unless a block of it is still open."""
        message = self._message
        if message is None or any(part.busy for part in message.parts):
            return b""
        out = self._end_parts(message)
        self._message = None
        return out + self._done(message.at, message_item(message.id, message.written, status))

    def _start_thought(self, index: int, block: Thinking) -> bytes:
        name = self._id("rs")
        thought = _Thought(self._place(), name, block)
        self._open[index] = thought
        opening = self._added(thought.at, {"id": name, "type": "reasoning", "summary": []})
        return opening + self._text(thought, block.text)

    def _summary(self, thought: _Thought, what: str, text: str) -> bytes:
        return self._event(
            f"response.reasoning_summary_part.{what}",
            {
                "item_id": thought.id,
                "output_index": thought.at,
                "summary_index": 0,
                "part": {"type": "summary_text", "text": text},
            },
        )

    def _start_call(self, index: int, block: ToolCall) -> bytes:
        opening = b""
        if block.signature is not None:
            opening = self._carry(block.signature, "next")
        name = self._id("ctc" if block.custom else "fc")
        call_id = block.id or call_ids.made(self._asked.id, len(self._output))
        call = _Call(self._place(), name, block, call_id)
        self._open[index] = call
        empty = msgspec.structs.replace(block, arguments="")
        item = call_item(name, empty, call_id, self._asked)
        if not block.custom:
            item |= {"arguments": "", "status": "in_progress"}
        opening += self._added(call.at, item)
        return opening + self._text(call, block.arguments)

    def _carry(self, signature: Signature, kind: signatures.Kind) -> bytes:
        item = carrier_item(self._id("rs"), signature, kind)
        at = self._place()
        return self._added(at, item) + self._done(at, item)

    def _sign(self, found: "_Part | _Thought | _Call", signature: Signature) -> None:
        """Keep a signature that came late. Texts have no place for one; nobody refuses its lack."""
        if isinstance(found, _Thought):
            found.block = msgspec.structs.replace(found.block, signature=signature)
        elif isinstance(found, _Call):
            found.signature = signature

    def _stop(self, index: int) -> bytes:
        found = self._open.pop(index, None)
        match found:
            case _Part():
                found.busy = False
                return b""
            case _Thought():
                return self._stop_thought(found)
            case _Call():
                return self._stop_call(found)
            case None:
                return b""
            case _:
                assert_never(found)

    def _stop_thought(self, thought: _Thought) -> bytes:
        out, text = b"", "".join(thought.texts)
        if text:
            place = {"item_id": thought.id, "output_index": thought.at, "summary_index": 0}
            out += self._event("response.reasoning_summary_text.done", {**place, "text": text})
            out += self._summary(thought, "done", text)
        return out + self._done(thought.at, reasoning_item(thought.id, thought.block, text))

    def _stop_call(self, call: _Call) -> bytes:
        custom = call.block.custom
        out = b"" if call.texts or custom else self._text(call, "{}")
        arguments = "".join(call.texts)
        block = msgspec.structs.replace(call.block, arguments=arguments)
        item = call_item(call.id, block, call.call_id, self._asked)
        place: Json = {"item_id": call.id, "output_index": call.at}
        if custom:
            place["input"] = arguments
            out += self._event("response.custom_tool_call_input.done", place)
        else:
            place |= {"name": item["name"], "arguments": arguments}
            out += self._event("response.function_call_arguments.done", place)
        out += self._done(call.at, item)
        if call.signature is not None:
            out += self._carry(call.signature, "previous")
        return out

    # -- the end -------------------------------------------------------------------------------

    def _ended(self, event: Finish) -> bytes:
        self._finish = event
        self._status = status_of(event.stop, (Refusal(""),) if self._refused else ())
        return self._end_message(self._status)

    def _items(self) -> list[Json | Raw]:
        return [item for item in self._output if item is not None]

    def _complete(self, event: MessageEnd) -> bytes:
        self._over = True
        stop = self._finish.stop if self._finish is not None else "end"
        response = self._envelope.finished(stop, self._status, self._items(), event.usage)
        return self._whole(f"response.{self._status}", response)

    def _failed(self, event: StreamError) -> bytes:
        self._over = True
        error = AnswerError(event.message, event.type, event.code)
        return self._whole("response.failed", self._envelope.failed(error, self._items()))
