"""OpenAI Responses, for translation: streams read.

Every event names its item (`output_index`) and often a part of it; items have a life of their own
(`output_item.added` to `.done`), so blocks open and close with them. What a `.done` event says
beyond the deltas before it is taken in too: servers send whole calls and whole texts at once. The
terminal event carries the whole response, its usage and why it ended. Used by
`openai_responses_dialect.py`; writing is in `openai_responses_streams.py`.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
from msgspec import Raw

from gateway.wire import lenient, sse
from gateway.wire.conversation import Block, Citation, Refusal, Text, Thinking, ToolCall
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
    Truncated,
)
from gateway.wire.lenient import ABSENT
from gateway.wire.neutral import Metered
from gateway.wire.openai_responses import TERMINAL_EVENTS, note
from gateway.wire.openai_responses_answers import (
    Response,
    arguments_of,
    blocks_of,
    citations_of,
    created_of,
    dicts,
    error_from,
    error_of,
    items_of,
    read_response,
    stop_of,
    string,
    thinking_of,
)
from gateway.wire.openai_responses_items import NAME
from gateway.wire.tap import TAP_EVENT_BYTES_MAX, Answer

_EVENT_LINE = b"event: "
_DATA_OBJECT = b"data: {"

Json = dict[str, Any]


class _Event(msgspec.Struct, gc=False):
    """The members of every event that is read."""

    type: str = ""
    delta: str = ""
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    text: str = ""
    refusal: str = ""
    arguments: str = ""
    input: str = ""
    item: Raw = ABSENT
    part: Raw = ABSENT
    response: Raw = ABSENT
    annotation: Raw = ABSENT
    error: Raw = ABSENT


_EVENT = msgspec.json.Decoder(_Event)
_RAWS = frozenset(("item", "part", "response", "annotation", "error"))


class _Open:
    """A block that is open; `size` is how many characters of it have gone out."""

    __slots__ = ("citations", "index", "open", "size")

    def __init__(self, index: int) -> None:
        self.index = index
        self.size = 0
        self.open = True
        self.citations: list[Citation] = []


class _Item:
    """An item of the output; its blocks by content index, or under 0."""

    __slots__ = ("blocks", "done", "kind", "part", "told")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.blocks: dict[int, _Open] = {}
        self.done = False
        self.told = ""  # whether a reasoning item tells its summary or its text
        self.part = 0  # which part of these


class ResponsesReader:
    """See `format.StreamReader`."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._answer = Answer()
        self._text_bytes = 0
        self._started = False
        self._over = False
        self._next = 0
        self._items: dict[int, _Item] = {}
        self._called = False
        self._events: list[Event] = []

    def feed(self, data: bytes) -> list[Event]:
        """See `format.StreamReader.feed`."""
        partial = self._partial
        if partial and not self._over:
            old = len(partial)
            partial += data
            end = sse.event_end(partial, max(0, old - sse.END_LOOKBACK))
            if end < 0:
                if len(partial) > TAP_EVENT_BYTES_MAX:
                    self._fail(StreamError("An event of the stream is too large."))
                return self._taken()
            event, data = bytes(memoryview(partial)[:end]), bytes(memoryview(partial)[end:])
            self._partial = bytearray()
            self._read(event)
        if data and not self._over:
            self._partial += self._whole(data)
        return self._taken()

    def _whole(self, data: bytes) -> bytes:
        """Read the whole events of `data`; return what is left."""
        if data.find(b"\r") < 0:
            *events, rest = data.split(b"\n\n")
            for event in events:
                if not self._over:
                    self._read(event)
            return rest
        at = 0
        while not self._over and (end := sse.event_end(data, at)) >= 0:
            self._read(data[at:end])
            at = end
        return data[at:]

    def eof(self) -> list[Event]:
        """See `format.StreamReader.eof`."""
        if self._partial and not self._over:
            partial, self._partial = bytes(self._partial), bytearray()
            data = sse.data_of(partial)
            if lenient.is_object(Raw(data)) and lenient.anything(data) is not None:
                self._read(partial)
        if not self._over:
            raise Truncated
        return self._taken()

    def metered(self) -> Metered:
        """See `format.StreamReader.metered`."""
        return self._answer.metered(self._text_bytes)

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # -- events --------------------------------------------------------------------------------

    def _read(self, raw: bytes) -> None:
        """Read one event."""
        data = _data(raw)
        if not data:
            if raw.lstrip(b"\r\n").startswith(b":"):
                self._events.append(Ping())
            return
        try:
            event = _EVENT.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = _tolerant(data)
            if found is None:
                if data.strip() != b"[DONE]":
                    self._fail(StreamError("An event of the stream could not be read."))
                return
            event = found
        if event.type == "response.output_text.delta":
            self._text(event)
            return
        self._other(event, event.type or sse.name_of(raw).decode("utf-8", "replace"), data)

    def _other(self, event: _Event, kind: str, data: bytes) -> None:
        read = self._READERS.get(kind)
        if read is not None:
            read(self, event)
        elif kind in TERMINAL_EVENTS or kind == "response.cancelled":
            self._end(event)
        elif kind == "error" or lenient.is_object(event.error):
            fault = lenient.anything(event.error) or lenient.anything(data)
            found = error_from(fault, "The provider reported an error.")
            named = None if found.type == "error" else found.type
            self._fail(StreamError(found.message, named, found.code), data)
        elif kind in ("keepalive", "ping"):
            self._events.append(Ping())

    def _fail(self, error: StreamError, data: bytes = b"") -> None:
        self._events.append(error)
        self._over = True
        self._answer.fault = lenient.fault(data) or self._answer.fault

    def _begin(self, response: Response | None = None) -> None:
        if not self._started:
            self._started = True
            created = created_of(response) if response is not None else None
            start = MessageStart(
                self._answer.response_id, self._answer.response_model, None, created
            )
            self._events.append(start)

    def _opening(self, event: _Event) -> None:
        note(self._answer, event.response)
        self._begin(read_response(event.response))

    # -- blocks --------------------------------------------------------------------------------

    def _open(self, block: Block) -> _Open:
        opened = _Open(self._next)
        self._events.append(BlockStart(self._next, block))
        self._next += 1
        return opened

    def _close(self, block: _Open) -> None:
        if not block.open:
            return
        block.open = False
        self._events.append(BlockStop(block.index))
        for citation in block.citations:
            self._whole_block(citation)

    def _whole_block(self, block: Block) -> None:
        self._events.append(BlockStart(self._next, block))
        self._events.append(BlockStop(self._next))
        self._next += 1

    def _more(self, block: _Open, text: str, *, arguments: bool = False) -> None:
        if text and block.open:
            block.size += len(text)
            self._text_bytes += (
                len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
            )
            kind = "arguments" if arguments else "text"
            self._events.append(Delta(block.index, text, kind))  # type: ignore[arg-type]

    def _item(self, number: int, kind: str) -> _Item:
        item = self._items.get(number)
        if item is None:
            self._begin()
            item = self._items[number] = _Item(kind)
        return item

    def _part(self, number: int, content: int, *, refusal: bool = False) -> _Open:
        item = self._item(number, "message")
        block = item.blocks.get(content)
        if block is None:
            block = item.blocks[content] = self._open(Refusal("") if refusal else Text(""))
        return block

    def _text(self, event: _Event) -> None:
        item = self._items.get(event.output_index)
        block = item.blocks.get(event.content_index) if item is not None else None
        if block is None:
            block = self._part(event.output_index, event.content_index)
        self._more(block, event.delta)

    def _text_done(self, event: _Event) -> None:
        block = self._part(event.output_index, event.content_index)
        self._more(block, event.text[block.size :])

    def _refusal(self, event: _Event) -> None:
        block = self._part(event.output_index, event.content_index, refusal=True)
        self._more(block, event.delta or event.refusal[block.size :])

    def _part_added(self, event: _Event) -> None:
        part = lenient.anything(event.part)
        if isinstance(part, dict) and part.get("type") in ("output_text", "refusal"):
            refusal = part["type"] == "refusal"
            block = self._part(event.output_index, event.content_index, refusal=refusal)
            self._more(block, string(part, "refusal" if refusal else "text"))

    def _part_done(self, event: _Event) -> None:
        part = lenient.anything(event.part)
        if isinstance(part, dict) and part.get("type") in ("output_text", "refusal"):
            self._finish_part(event.output_index, event.content_index, part)

    def _finish_part(self, number: int, content: int, part: Json) -> None:
        refusal = part["type"] == "refusal"
        block = self._part(number, content, refusal=refusal)
        self._more(block, string(part, "refusal" if refusal else "text")[block.size :])
        if block.open:
            block.citations = citations_of(part.get("annotations")) or block.citations
        self._close(block)

    def _annotation(self, event: _Event) -> None:
        block = self._part(event.output_index, event.content_index)
        if block.open:
            block.citations += citations_of([lenient.anything(event.annotation)])

    def _summary(self, event: _Event) -> None:
        self._thought(event, "summary", event.summary_index)

    def _reasoning(self, event: _Event) -> None:
        self._thought(event, "content", event.content_index)

    def _thought(self, event: _Event, told: str, part: int) -> None:
        item = self._item(event.output_index, "reasoning")
        if (item.told and item.told != told) or not event.delta:
            return  # its other telling, which says the same at another length
        block = item.blocks.get(0)
        if block is None:
            block = item.blocks[0] = self._open(Thinking(""))
        elif part != item.part and block.size:
            self._more(block, "\n\n")
        item.told, item.part = told, part
        self._more(block, event.delta)

    def _arguments(self, event: _Event) -> None:
        item = self._items.get(event.output_index)
        block = item.blocks.get(0) if item is not None else None
        if block is not None:
            whole = event.arguments or event.input
            self._more(block, event.delta or whole[block.size :], arguments=True)

    # -- items ---------------------------------------------------------------------------------

    def _item_added(self, event: _Event) -> None:
        item = lenient.anything(event.item)
        if isinstance(item, dict):
            self._add(event.output_index, item)

    def _add(self, number: int, item: Json) -> _Item:
        kind = string(item, "type")
        found = self._item(number, kind)
        found.kind = kind
        if kind in ("function_call", "custom_tool_call") and 0 not in found.blocks:
            custom = kind == "custom_tool_call"
            call = ToolCall(string(item, "call_id"), string(item, "name"), "", custom)
            self._called = True
            found.blocks[0] = self._open(call)
            whole = string(item, "input") if custom else arguments_of(item)
            self._more(found.blocks[0], whole, arguments=True)
        return found

    def _item_done(self, event: _Event) -> None:
        item = lenient.anything(event.item)
        if isinstance(item, dict):
            self._finish_item(event.output_index, item)

    def _finish_item(self, number: int, item: Json) -> None:
        found = self._add(number, item)
        if found.done:
            return
        found.done = True
        match found.kind:
            case "message":
                for at, part in enumerate(dicts(item.get("content"))):
                    if part.get("type") in ("output_text", "refusal"):
                        self._finish_part(number, at, part)
            case "reasoning":
                self._finish_thought(found, thinking_of(item))
            case "function_call" | "custom_tool_call":
                whole = arguments_of(item) or string(item, "input")
                block = found.blocks[0]
                self._more(block, whole[block.size :], arguments=True)
            case _:
                for whole_block in blocks_of(item):
                    self._whole_block(whole_block)
        for block in found.blocks.values():
            self._close(block)

    def _finish_thought(self, item: _Item, thinking: Thinking | None) -> None:
        block = item.blocks.get(0)
        if thinking is None:
            return
        if block is None:
            block = item.blocks[0] = self._open(Thinking(""))
        if not block.size:
            self._more(block, thinking.text)
        if thinking.signature is not None and block.open:
            value = thinking.signature.value
            self._events.append(Delta(block.index, value, "signature", NAME))

    # -- the end -------------------------------------------------------------------------------

    def _end(self, event: _Event) -> None:
        found = read_response(event.response) or Response()
        note(self._answer, event.response)
        self._answer.complete = True
        self._begin(found)
        error = error_of(found)
        if error is None and event.type not in ("response.completed", "response.incomplete"):
            error = error_from(None, "The response failed.")
        if error is not None:
            self._fail(StreamError(error.message, error.type, error.code))
            return
        if not self._items:
            # Some servers stream nothing and send the whole answer at the end.
            for number, whole in enumerate(items_of(found.output) or ()):
                self._finish_item(number, whole)
        for item in self._items.values():
            for block in item.blocks.values():
                self._close(block)
        calls = (ToolCall("", "", ""),) if self._called else ()
        if not found.status:
            found = msgspec.structs.replace(
                found, status=Raw(msgspec.json.encode(event.type.removeprefix("response.")))
            )
        self._events.append(Finish(stop_of(found, calls)))
        self._events.append(MessageEnd(self._answer.usage))
        self._over = True

    _READERS: ClassVar[dict[str, Callable[["ResponsesReader", _Event], None]]] = {
        "response.created": _opening,
        "response.queued": _opening,
        "response.in_progress": _opening,
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.content_part.added": _part_added,
        "response.content_part.done": _part_done,
        "response.output_text.delta": _text,
        "response.output_text.done": _text_done,
        "response.output_text.annotation.added": _annotation,
        "response.refusal.delta": _refusal,
        "response.refusal.done": _refusal,
        "response.reasoning_summary_text.delta": _summary,
        "response.reasoning_text.delta": _reasoning,
        "response.function_call_arguments.delta": _arguments,
        "response.function_call_arguments.done": _arguments,
        "response.custom_tool_call_input.delta": _arguments,
        "response.custom_tool_call_input.done": _arguments,
    }


def _data(raw: bytes) -> bytes:
    """An event's data; quickly where it is a name and one line, as nearly all are."""
    if raw.startswith(_EVENT_LINE):
        at = raw.find(b"\n") + 1
        if raw.startswith(_DATA_OBJECT, at) and raw.find(b"\n", at) < 0:
            return raw[at + 6 :]
    return sse.data_of(raw)


def _tolerant(data: bytes) -> _Event | None:
    """An event with members of odd types left out; None where it is no object."""
    value = lenient.anything(data)
    if not isinstance(value, dict):
        return None
    event = _Event()
    for name in _Event.__struct_fields__:
        part = value.get(name)
        if part is None:
            continue
        if name in _RAWS:
            setattr(event, name, Raw(msgspec.json.encode(part)))
        elif type(part) is type(getattr(event, name)):
            setattr(event, name, part)
    return event
