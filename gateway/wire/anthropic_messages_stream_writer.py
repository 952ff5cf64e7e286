"""Anthropic Messages: streams written.

Blocks never overlap here, so those that begin while another is open wait for its end, and a
citation keeps the text before it open. A text block is begun with its first text, since an empty
one that a client sends back is refused. Input is told twice, as far as it is known in
`message_start`, and for good in `message_delta`. Source: docs.anthropic.com, "Streaming messages"
(November 2026), and recorded traffic. Used by the dialect.
"""

from gateway.wire import call_ids, signatures
from gateway.wire.anthropic_messages_answers import (
    message_id,
    stop_members,
    usage_object,
    write_whole,
)
from gateway.wire.anthropic_messages_blocks import (
    FORMAT,
    object_of,
    quoted,
    sealed,
    written_call_signature,
    written_citation,
)
from gateway.wire.conversation import (
    Block,
    Citation,
    Refusal,
    Signature,
    StopReason,
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

_PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_ERROR_TYPES = frozenset(
    (
        "invalid_request_error", "authentication_error", "billing_error", "permission_error",
        "not_found_error", "request_too_large", "rate_limit_error", "timeout_error", "api_error",
        "overloaded_error",
    )
)  # fmt: skip


def _start_event(number: int, block: bytes) -> bytes:
    return (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,'
        b'"content_block":%b}\n\n' % (number, block)
    )


def _stop_event(number: int) -> bytes:
    return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % number


def _delta_head(number: int, kind: bytes) -> bytes:
    return (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
        b'"delta":{"type":%b:' % (number, kind)
    )


_TEXT_DELTA = b'"text_delta","text"'
_THINKING_DELTA = b'"thinking_delta","thinking"'
_INPUT_DELTA = b'"input_json_delta","partial_json"'
_SIGNATURE_DELTA = b'"signature_delta","signature"'
_CITATIONS_DELTA = b'"citations_delta","citation"'
_TAIL = b"}}\n\n"


class _Writing:
    """A block on its way out. `number` is its index on the wire, None before it has begun."""

    __slots__ = ("block", "head", "number", "pieces", "signature", "stopped", "waiting")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.number: int | None = None
        self.head = b""  # what stands before the text of a delta
        self.pieces: list[str] = []  # of a call's arguments
        self.signature: Signature | None = None
        self.waiting: list[Delta] = []
        self.stopped = False


class MessagesStreamWriter:
    """See `format.StreamWriter`. Of several choices the first is written."""

    __slots__ = (
        "_asked", "_blocks", "_cited", "_cut", "_live", "_number", "_over", "_refused", "_sequence",
        "_stop",
    )  # fmt: skip

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._blocks: dict[int, _Writing] = {}  # in order of their beginning; the first is live
        self._live = -1
        self._cited: _Writing | None = None  # a text that has ended but may yet be cited
        self._number = 0
        self._stop: StopReason = "end"
        self._sequence: str | None = None
        self._cut = False
        self._refused = False
        self._over = False

    def write(self, event: Event) -> bytes:
        """See `format.StreamWriter.write`."""
        if self._over:
            return b""
        if type(event) is Delta:
            if event.index == self._live:
                return self._delta(self._blocks[event.index], event)
            waiting = self._blocks.get(event.index)
            if waiting is not None:
                waiting.waiting.append(event)
            return b""
        return self._other(event)

    def _other(self, event: Event) -> bytes:
        match event:
            case MessageStart(usage=usage):
                return self._start(usage or Usage())
            case BlockStart(index=index, block=block, choice=0):
                return self._block(index, block)
            case BlockStop(index=index):
                return self._ended(index)
            case Finish(stop=stop, stop_sequence=sequence, choice=0):
                self._stop, self._sequence = stop, sequence
                return b""
            case MessageEnd(usage=usage):
                return self._end(usage or Usage())
            case StreamError():
                return self._error(event)
            case Ping():
                return _PING
            case _:
                return b""

    def _start(self, usage: Usage) -> bytes:
        return (
            b'event: message_start\ndata: {"type":"message_start","message":{"id":%b,'
            b'"type":"message","role":"assistant","model":%b,"content":[],"stop_reason":null,'
            b'"stop_sequence":null,"usage":%b}}\n\n'
            % (
                quoted(message_id(self._asked)),
                quoted(self._asked.model),
                quoted(usage_object(usage)),
            )
        )

    def _block(self, index: int, block: Block) -> bytes:
        if isinstance(block, Citation):
            return self._cite(block)
        self._refused |= isinstance(block, Refusal)
        self._blocks[index] = _Writing(block)
        return self._advance() if self._live < 0 else b""

    def _advance(self) -> bytes:
        """Begin the block that is next, write what has come of it, and go on while it is whole."""
        out = []
        while self._blocks:
            self._live = next(iter(self._blocks))
            writing = self._blocks[self._live]
            out.append(self._open(writing))
            out += [self._delta(writing, delta) for delta in writing.waiting]
            writing.waiting.clear()
            if not writing.stopped:
                break
            out.append(self._close(writing))
        return b"".join(out)

    def _open(self, writing: _Writing) -> bytes:
        """What can be said of a block at its beginning: of text and thoughts nothing yet."""
        block = writing.block
        match block:
            case Text(text=text) | Refusal(text=text):
                return self._said(writing, text) if text else b""
            case Thinking(text=text, signature=signature, redacted=False):
                writing.signature = signature
                return self._said(writing, text) if text else b""
            case ToolCall():
                return self._call(writing, block)
            case _:
                whole = write_whole(block)
                return b"" if whole is None else self._begin(writing, whole, b"")

    def _begin(self, writing: _Writing, block: bytes, kind: bytes) -> bytes:
        out = self._settle()
        writing.number = self._number
        self._number += 1
        writing.head = _delta_head(writing.number, kind) if kind else b""
        return out + _start_event(writing.number, block)

    def _settle(self) -> bytes:
        """End the text that was kept open for citations."""
        cited, self._cited = self._cited, None
        return b"" if cited is None or cited.number is None else _stop_event(cited.number)

    def _said(self, writing: _Writing, text: str) -> bytes:
        if writing.number is not None:
            return writing.head + quoted(text) + _TAIL
        if isinstance(writing.block, Thinking):
            bare = b'{"type":"thinking","thinking":"","signature":""}'
            out = self._begin(writing, bare, _THINKING_DELTA)
        else:
            out = self._begin(writing, b'{"type":"text","text":""}', _TEXT_DELTA)
        return out + (writing.head + quoted(text) + _TAIL if text else b"")

    def _call(self, writing: _Writing, call: ToolCall) -> bytes:
        if call.custom:
            self._cut = True  # Plain text is no object, and is not made one.
            return b""
        out = b""
        if call.signature is not None and call.signature.format != FORMAT:
            out = self._carry(call.signature, "next")
        bare = b'{"type":"tool_use","id":%b,"name":%b,"input":{}}' % (
            quoted(call_ids.safe(call.id)), quoted(call.name),
        )  # fmt: skip
        out += self._begin(writing, bare, _INPUT_DELTA)
        if call.arguments:
            writing.pieces.append(call.arguments)
            out += writing.head + quoted(call.arguments) + _TAIL
        return out

    def _carry(self, signature: Signature, kind: signatures.Kind) -> bytes:
        """A block of its own for the signature of the call next to it."""
        out = self._settle()
        number = self._number
        self._number += 1
        block = written_call_signature(signature, kind)
        return out + _start_event(number, block) + _stop_event(number)

    def _delta(self, writing: _Writing, delta: Delta) -> bytes:
        kind = delta.kind
        if kind == "text":
            if writing.number is not None:
                return writing.head + quoted(delta.text) + _TAIL if writing.head else b""
            return self._said(writing, delta.text) if delta.text else b""
        if kind == "arguments":
            if not delta.text or not writing.head:
                return b""
            writing.pieces.append(delta.text)
            return writing.head + quoted(delta.text) + _TAIL
        writing.signature = Signature(delta.format or FORMAT, delta.text)
        return b""

    def _cite(self, found: Citation) -> bytes:
        """A citation inside the text that is open, or else the one that has just ended."""
        live = self._blocks.get(self._live)
        text = live if live is not None and isinstance(live.block, Text) else self._cited
        written = written_citation(found)
        if text is None or written is None:
            return b""
        out = self._said(text, "") if text.number is None else b""
        assert text.number is not None
        return out + _delta_head(text.number, _CITATIONS_DELTA) + written + _TAIL

    def _ended(self, index: int) -> bytes:
        writing = self._blocks.get(index)
        if writing is None:
            return b""
        if index != self._live:
            writing.stopped = True
            return b""
        return self._close(writing) + self._advance()

    def _close(self, writing: _Writing) -> bytes:
        """End the live block."""
        del self._blocks[self._live]
        self._live = -1
        if isinstance(writing.block, Text) and writing.number is not None:
            self._cited = writing
            return b""
        out = b""
        if isinstance(writing.block, Thinking) and not writing.block.redacted:
            out = self._sign(writing)
        if writing.number is None:
            return out
        out += _stop_event(writing.number)
        if isinstance(writing.block, ToolCall):
            self._cut |= object_of("".join(writing.pieces)) is None
            if writing.signature is not None and writing.signature.format != FORMAT:
                out += self._carry(writing.signature, "previous")
        return out

    def _sign(self, writing: _Writing) -> bytes:
        """The signature, which comes last in its block, and makes one of thoughts not shown."""
        if writing.signature is None:
            return b""
        out = b"" if writing.number is not None else self._said(writing, "")
        assert writing.number is not None
        value = quoted(sealed(writing.signature, "thinking"))
        return out + _delta_head(writing.number, _SIGNATURE_DELTA) + value + _TAIL

    def _end(self, usage: Usage) -> bytes:
        self._over = True
        stop: StopReason = "refusal" if self._refused else self._stop
        if self._cut and stop != "refusal":
            stop = "max_tokens"
        return b"%bevent: message_delta\ndata: %b\n\n%b" % (
            self._settle(),
            b'{"type":"message_delta","delta":{%b},"usage":%b}'
            % (stop_members(stop, self._sequence), quoted(usage_object(usage, streamed=True))),
            _STOP,
        )

    def _error(self, event: StreamError) -> bytes:
        self._over = True
        kind = event.type if event.type in _ERROR_TYPES else "api_error"
        told = quoted({"type": kind, "message": event.message})
        return b'event: error\ndata: {"type":"error","error":%b}\n\n' % told
