"""Anthropic Messages: streams read.

This format's blocks are the neutral ones, but for citations, which come inside a text block and
are blocks of their own here, and for blocks that the neutral model keeps whole (`server_tool_use`
and all that is unknown): they are gathered until they end. Usage is the meter's
(`anthropic_messages.py`): counts of `message_delta` replace those of `message_start`. Streams are
written by `anthropic_messages_stream_writer.py`. Source: docs.anthropic.com, "Streaming messages"
(November 2026), and recorded traffic. Used by the dialect.
"""

from typing import Annotated, Literal

import msgspec

from gateway.wire import anthropic_messages as meter
from gateway.wire import lenient, signatures, sse, utf8
from gateway.wire.anthropic_messages_answers import (
    stop_of,
)
from gateway.wire.anthropic_messages_blocks import (
    FORMAT,
    citation,
    content_of,
    object_of,
    quoted,
)
from gateway.wire.conversation import (
    Block,
    Opaque,
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
    Truncated,
)
from gateway.wire.neutral import Metered, StreamFault, Usage

EVENT_BYTES_MAX = 32 * 1024 * 1024
"""Largest event, and largest block that is gathered, that is read; results of searches are long."""


class _Delta(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    content: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    citation: msgspec.Raw = lenient.ABSENT


class _Event(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    index: int = -1
    delta: _Delta | None = None
    content_block: msgspec.Raw = lenient.ABSENT
    message: msgspec.Raw = lenient.ABSENT
    usage: msgspec.Raw = lenient.ABSENT
    error: msgspec.Raw = lenient.ABSENT


class _Message(msgspec.Struct, frozen=True):
    id: msgspec.Raw = lenient.ABSENT
    model: msgspec.Raw = lenient.ABSENT
    usage: msgspec.Raw = lenient.ABSENT


class _Open:
    """A block on its way in; `index` is the neutral one, None for a block that is gathered."""

    __slots__ = ("block", "index", "pieces", "raw", "size")

    def __init__(self, block: Block, index: int | None, raw: bytes) -> None:
        self.block = block
        self.index = index
        self.raw = raw
        self.pieces: list[str] = []
        self.size = 0


class _UsualText(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(min_length=1)]
    type: Literal["text_delta"]


class _Usual(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The event that nearly all are, of which the name says what it is as well."""

    type: Literal["content_block_delta"]
    index: int
    delta: _UsualText


_DELTA = b"event: content_block_delta\ndata: "
_USUAL = msgspec.json.Decoder(_Usual)
_NAME_BYTES_MAX = 64
_EVENT = msgspec.json.Decoder(_Event)
_MESSAGE = msgspec.json.Decoder(_Message)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _data(event: bytes) -> bytes:
    """The event's data; the usual two lines are read without splitting."""
    if event.startswith(b"event: "):
        at = event.find(b"\ndata: ")
        if 0 < at < _NAME_BYTES_MAX and event.find(b"\n", at + 7) >= len(event) - 2:
            return event[at + 7 :].rstrip()
    return sse.data_of(event)


class MessagesStreamReader:
    """See `format.StreamReader`."""

    __slots__ = (
        "_calls", "_counts", "_fault", "_id", "_model", "_next", "_open", "_out", "_over",
        "_partial", "_reason", "_sequence", "_started", "_text_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self._partial = bytearray()  # the event that has not ended yet
        self._out: list[Event] = []
        self._open: dict[int, _Open] = {}
        self._next = 0
        self._calls = False
        self._started = False
        self._over = False
        self._reason: str | None = None
        self._sequence: str | None = None
        self._counts: meter.AnthropicUsage | None = None
        self._id: str | None = None
        self._model: str | None = None
        self._fault: StreamFault | None = None
        self._text_bytes = 0

    def feed(self, data: bytes) -> list[Event]:
        """See `format.StreamReader.feed`."""
        if self._over:
            return []
        if not self._partial and (usual := self._usual(data)) is not None:
            return usual
        if self._partial:
            self._resume(data)
        else:
            self._take(data)
        if len(self._partial) > EVENT_BYTES_MAX:
            self._fail("An event of the upstream's stream is too large")
        if self._over:
            self._partial = bytearray()
        out, self._out = self._out, []
        return out

    def _usual(self, data: bytes) -> list[Event] | None:
        """More of a text, in one whole event of the usual spelling; None where it is not that."""
        if not data.startswith(_DELTA) or data.find(b"\n", len(_DELTA)) != len(data) - 2:
            return None
        if not data.endswith(b"\n\n") or data.find(b"\r") >= 0 or not utf8.is_text(data):
            return None
        try:
            found = _USUAL.decode(memoryview(data)[len(_DELTA) :])
        except (msgspec.DecodeError, RecursionError):
            return None
        opened = self._open.get(found.index)
        if opened is None or opened.index is None:
            return None
        text = found.delta.text
        self._text_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        return [Delta(opened.index, text)]

    def _resume(self, data: bytes) -> None:
        """Add to the event that has not ended; where it ends, read it and go on with the rest."""
        partial = self._partial
        old = len(partial)
        partial += data
        end = sse.event_end(partial, max(0, old - sse.END_LOOKBACK))
        if end < 0:
            return
        self._partial = bytearray()
        self._event(bytes(memoryview(partial)[:end]))
        self._take(data[end - old :])

    def _take(self, data: bytes) -> None:
        start = 0
        while not self._over and (end := sse.event_end(data, start)) >= 0:
            self._event(data[start:end])
            start = end
        if start < len(data):
            self._partial = bytearray(memoryview(data)[start:])

    def eof(self) -> list[Event]:
        """See `format.StreamReader.eof`."""
        rest, self._partial = bytes(self._partial), bytearray()
        if not self._over and rest.strip():
            if rest.lstrip().startswith(b"{"):
                # An error that is no stream although it was promised to be one.
                fault = lenient.fault(rest)
                if fault is not None and not self._started:
                    self._fail(fault.message or "The upstream sent no stream", fault.type)
            else:
                self._event(rest, last=True)
        if not self._over:
            raise Truncated
        out, self._out = self._out, []
        return out

    def metered(self) -> Metered:
        """See `format.StreamReader.metered`."""
        return Metered(
            usage=self._usage(),
            complete=self._over and self._fault is None,
            fault=self._fault,
            text_bytes=self._text_bytes,
            response_id=self._id,
            response_model=self._model,
        )

    def _usage(self) -> Usage | None:
        return meter.usage_from(self._counts) if self._counts is not None else None

    def _fail(self, message: str, kind: str | None = None) -> None:
        if not self._over:
            self._over = True
            self._fault = StreamFault(kind, message)
            self._out.append(StreamError(message, kind))

    def _event(self, event: bytes, *, last: bool = False) -> None:
        data = _data(event)
        if not data:
            if event.strip():
                self._out.append(Ping())
            return
        found = lenient.decode(_EVENT, data) if utf8.is_text(data) else None
        if found is None:
            # A last event without its blank line may have been cut anywhere.
            if not last:
                self._unreadable(event, data)
            return
        kind = found.type or sse.name_of(event).decode("utf-8", "replace")
        if kind == "content_block_delta":
            self._delta(found)
        elif kind == "error" or lenient.is_object(found.error):
            fault = lenient.fault(data) or StreamFault(None, "")
            self._fail(fault.message or "The upstream reported an error", fault.type)
        elif self._started or kind in ("ping", "message_start"):
            self._inside(kind, found)
        else:
            self._early(kind)

    def _inside(self, kind: str, found: _Event) -> None:
        match kind:
            case "content_block_start":
                self._block(found.index, found.content_block)
            case "content_block_stop":
                self._stop(found.index)
            case "ping":
                self._out.append(Ping())
            case "message_start":
                self._start(found.message)
            case "message_delta":
                self._counted(found.usage)
                if found.delta is not None and found.delta.stop_reason:
                    self._reason = found.delta.stop_reason
                    self._sequence = found.delta.stop_sequence
            case "message_stop":
                self._end()
            case _:
                pass

    def _early(self, kind: str) -> None:
        if kind.startswith(("content_block", "message")):
            self._fail("The upstream's stream has no beginning")

    def _unreadable(self, event: bytes, data: bytes) -> None:
        """An event that is no JSON object, or of another shape: of a kind that matters, an end."""
        kind = sse.name_of(event)
        known = kind.startswith((b"content_block", b"message")) or not kind
        if known and data != b"[DONE]":
            self._fail("The upstream's stream holds an event that cannot be read")

    def _start(self, raw: msgspec.Raw) -> None:
        if self._started:
            return
        message = lenient.decode(_MESSAGE, raw) if raw else None
        self._started = True
        if message is not None:
            self._id, self._model = lenient.text(message.id), lenient.text(message.model)
            self._counted(message.usage)
        self._out.append(MessageStart(self._id, self._model, self._usage()))

    def _counted(self, raw: msgspec.Raw) -> None:
        found = meter.read_usage(raw)
        if found is not None:
            self._counts = meter.merge(self._counts, found)

    def _block(self, number: int, raw: msgspec.Raw) -> None:
        if number in self._open:
            self._stop(number)
        block = _whole(raw)
        match block:
            case Text(text=text) | Thinking(text=text, redacted=False):
                bare: Block = Text("") if isinstance(block, Text) else Thinking("")
                opened = _Open(bare, self._begin(bare), b"")
                if text:
                    self._text(opened, text)
                if isinstance(block, Thinking) and block.signature is not None:
                    self._signed(opened, block.signature)
            case ToolCall(id=call_id, name=name, arguments=arguments):
                self._calls = True
                call = ToolCall(call_id, name, "")
                opened = _Open(call, self._begin(call), b"")
                if arguments.strip() not in ("{}", "null"):
                    opened.raw = arguments.encode()
            case Thinking():
                opened = _Open(block, self._begin(block), b"")
            case _:
                opened = _Open(block, None, bytes(raw))
        self._open[number] = opened

    def _begin(self, block: Block) -> int:
        index = self._next
        self._next += 1
        self._out.append(BlockStart(index, block))
        return index

    def _text(self, opened: _Open, text: str) -> None:
        self._text_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if opened.index is not None:
            self._out.append(Delta(opened.index, text))

    def _signed(self, opened: _Open, signature: Signature) -> None:
        if opened.index is not None:
            value, format = signature.value, signature.format
            self._out.append(Delta(opened.index, value, "signature", format))

    def _delta(self, found: _Event) -> None:
        opened, delta = self._open.get(found.index), found.delta
        if opened is None or delta is None:
            if not self._started:
                self._early("content_block_delta")
            return
        kind = delta.type
        if kind == "text_delta" or kind == "thinking_delta":
            if text := delta.text or delta.thinking:
                self._text(opened, text)
        elif kind == "input_json_delta":
            self._arguments(opened, delta.partial_json)
        elif kind == "signature_delta":
            if delta.signature:
                self._signed(opened, _signature(delta.signature))
        elif kind == "citations_delta":
            self._cite(delta.citation)
        elif opened.index is None and delta.content is not None:
            self._gather(opened, delta.content)

    def _arguments(self, opened: _Open, text: str) -> None:
        if not text:
            return
        if opened.index is None:
            self._gather(opened, text)
            return
        self._text_bytes += len(text.encode("utf-8", "replace"))
        opened.raw = b""
        self._out.append(Delta(opened.index, text, "arguments"))

    def _gather(self, opened: _Open, text: str) -> None:
        opened.pieces.append(text)
        opened.size += len(text)
        if opened.size > EVENT_BYTES_MAX:
            self._fail("A block of the upstream's stream is too large")

    def _cite(self, raw: msgspec.Raw) -> None:
        try:
            found = citation(raw)
        except msgspec.DecodeError:
            return
        self._out.append(BlockStop(self._begin(found)))

    def _stop(self, number: int) -> None:
        opened = self._open.pop(number, None)
        if opened is None:
            return
        if opened.index is None:
            self._out.append(BlockStop(self._begin(_gathered(opened))))
            return
        if opened.raw:
            # The whole input came with the block's start, and no delta after it.
            self._out.append(Delta(opened.index, opened.raw.decode(), "arguments"))
        self._out.append(BlockStop(opened.index))

    def _end(self) -> None:
        for number in list(self._open):
            self._stop(number)
        if self._reason is None:
            self._fail("The upstream's stream ended without a stop reason")
            return
        self._over = True
        stop = stop_of(self._reason, self._calls)
        self._out.append(Finish(stop, self._sequence if stop == "stop_sequence" else None))
        self._out.append(MessageEnd(self._usage()))


def _whole(raw: msgspec.Raw) -> Block:
    try:
        found = content_of([raw], [])
    except msgspec.DecodeError:
        found = ()
    return found[0] if found else Opaque(FORMAT, bytes(raw) or b"{}", "unknown")


def _signature(value: str) -> Signature:
    carried = signatures.opened(value)
    return carried[0] if carried is not None else Signature(FORMAT, value)


def _gathered(opened: _Open) -> Block:
    """A block of the format's own with what its deltas brought."""
    if not opened.pieces or not isinstance(opened.block, Opaque):
        return opened.block
    text = "".join(opened.pieces)
    kind = opened.block.kind
    try:
        members = dict(_MEMBERS.decode(opened.raw))
    except msgspec.DecodeError:
        return opened.block
    if kind.endswith("tool_use"):
        spelled = object_of(text)
        if spelled is None:
            return opened.block
        members["input"] = msgspec.Raw(spelled)
    else:
        members["content"] = msgspec.Raw(quoted(text))
    return Opaque(FORMAT, msgspec.json.encode(members), kind)
