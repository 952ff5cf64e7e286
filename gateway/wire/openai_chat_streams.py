"""Reading streamed answers of OpenAI chat: chunks to events. `openai_chat_chunks.py` writes them.

The reader makes the life of blocks up, as the format has none: text, thoughts and refusals of a
choice are one block until another kind begins; a call is one from its name on. Calls of a choice
stay open together, since their arguments may come in turns; one whose arguments are whole when the
next begins is closed then. Whatever compatible servers do otherwise (no index, one index for all
calls, ids that are empty or repeated, whole calls, a second finish, no `[DONE]`) ends up as the
same events. `finish_reason` is only believed at the end of the stream: some servers send it early,
or twice. Usage is counted by `openai_chat.ChatStreamTap`. Used by `openai_chat_dialect.py`; pure.

Source: platform.openai.com API reference, "Streaming" (2026-11), and recorded traffic.
"""

from collections.abc import Hashable, Mapping
from typing import Annotated

import msgspec
import orjson

from gateway.wire import call_ids, lenient, sse
from gateway.wire.conversation import (
    AnswerError,
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
    Truncated,
)
from gateway.wire.neutral import Metered
from gateway.wire.openai_chat import ChatStreamTap
from gateway.wire.openai_chat_answers import (
    FAILURES,
    UNFINISHED,
    arguments_of,
    error_in,
    error_of,
    read_citations,
    read_images,
    read_parts,
    stop_of,
    text_of,
)
from gateway.wire.openai_chat_thoughts import Details
from gateway.wire.tap import TAP_EVENT_BYTES_MAX

_Object = dict[str, object]

_DONE = b"[DONE]"
_CALLS = b'"tool_calls":['
_DATA = b"data: {"
_PING = Ping()
_RAW = msgspec.json.Decoder(msgspec.Raw)
_EMPTY: Mapping[type[Block], Block] = {Text: Text(""), Thinking: Thinking(""), Refusal: Refusal("")}


class _UsualDelta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    role: str | None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class _UsualChoice(msgspec.Struct, gc=False):
    delta: _UsualDelta
    index: Annotated[int, msgspec.Meta(ge=0)] = 0
    finish_reason: None = None
    error: None = None


class _UsualChunk(msgspec.Struct, gc=False):
    """The chunk that nearly all are: more text, or more of a thought."""

    choices: list[_UsualChoice]
    error: None = None


_USUAL = msgspec.json.Decoder(_UsualChunk)


class _Call:
    """A call that is being told: `block` is its index once it has a name."""

    __slots__ = ("block", "closed", "custom", "id", "name", "pieces")

    def __init__(self) -> None:
        self.block = -1
        self.closed = False
        self.custom = False
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []

    def whole(self) -> bool:
        """Whether its arguments are complete: then none can follow."""
        try:
            _RAW.decode("".join(self.pieces))
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


class _Choice:
    """One choice of a stream: its open block of text (`kind`, `block`), and its calls."""

    __slots__ = (
        "block", "calls", "citations", "details", "kind", "last", "made", "matched", "number",
        "order", "plain", "reason", "refused",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.kind: type[Block] | None = None
        self.block = -1
        self.calls: dict[Hashable, _Call] = {}
        self.order: list[_Call] = []
        self.last: _Call | None = None
        self.made = 0
        self.details = Details()
        self.citations: list[Citation] = []
        self.plain = False  # thoughts came as plain text
        self.reason = ""
        self.matched = ""
        self.refused = False


class ChatStreamReader:
    """Implements `format.StreamReader`.

    A single event may be large (an image, a whole call, encrypted thoughts): up to
    TAP_EVENT_BYTES_MAX wait for its end.
    """

    __slots__ = (
        "_blocks", "_choices", "_id", "_out", "_over", "_partial", "_started", "_tap",
    )  # fmt: skip

    def __init__(self) -> None:
        self._tap = ChatStreamTap()
        self._partial = bytearray()
        self._out: list[Event] = []
        self._choices: dict[int, _Choice] = {}
        self._blocks = 0
        self._started = False
        self._over = False
        self._id = ""

    def feed(self, data: bytes) -> list[Event]:
        """See `format.StreamReader.feed`."""
        if self._over:
            return []
        self._tap.feed(data)
        if not self._partial and data.endswith(b"\n\n") and data.find(b"\r") < 0:
            if data.find(b"\n") == len(data) - 2 and data.startswith(_DATA):
                self._data(data[6:-2])
                return self._taken()
            return self._whole(data)
        start = 0
        if self._partial:
            partial = self._partial
            old = len(partial)
            partial += data
            start = max(0, old - sse.END_LOOKBACK)
            if sse.event_end(partial, start) < 0:
                return self._wait()
            data = bytes(partial)
            partial.clear()
        begin = 0
        while (end := sse.event_end(data, max(begin, start))) >= 0:
            self._event(data[begin:end] if end - begin < len(data) else data)
            begin = end
            if self._over:
                return self._taken()
        if begin < len(data):
            self._partial += memoryview(data)[begin:]
        return self._wait()

    def _whole(self, data: bytes) -> list[Event]:
        """Whole events with the usual line ends, which need no searching."""
        for event in data.split(b"\n\n"):
            if event.startswith(_DATA) and event.find(b"\n") < 0:
                self._data(event[6:])
            else:
                self._event(event)
            if self._over:
                break
        return self._taken()

    def eof(self) -> list[Event]:
        """See `format.StreamReader.eof`.

        Without `[DONE]` (Perplexity) an answer is at its end when every choice has finished and
        usage has been told; some servers leave the last blank line out.
        """
        if not self._over and self._partial:
            last = bytes(self._partial)
            self._partial.clear()
            if _readable(sse.data_of(last)):
                self._event(last)
        if not self._over:
            finished = self._choices and all(one.reason for one in self._choices.values())
            if not (finished and self._tap.metered().complete):
                raise Truncated
            self._end()
        return self._taken()

    def metered(self) -> Metered:
        """See `format.StreamReader.metered`."""
        return self._tap.metered()

    def _taken(self) -> list[Event]:
        out, self._out = self._out, []
        return out

    def _wait(self) -> list[Event]:
        if len(self._partial) > TAP_EVENT_BYTES_MAX:
            self._partial.clear()
            self._fail(AnswerError("The upstream sent an event that is too large"))
        return self._taken()

    def _fail(self, error: AnswerError) -> None:
        self._out.append(StreamError(error.message, error.type, error.code))
        self._over = True

    def _event(self, event: bytes) -> None:
        data = sse.data_of(event)
        if not data:
            if event.strip(b"\r\n"):
                self._out.append(_PING)
            return
        self._data(data)

    def _data(self, data: bytes) -> None:
        if self._started and data.find(_CALLS) < 0 and self._usual(data):
            return
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            if data.strip() == _DONE:
                self._end()
                return
            chunk = lenient.anything(data)  # half a surrogate pair in its text
        if type(chunk) is dict:
            self._chunk(chunk)
        else:
            self._fail(AnswerError("The upstream sent an event that cannot be read"))

    def _usual(self, data: bytes) -> bool:
        """Read a usual chunk; False, and nothing read, where it is not one."""
        try:
            chunk = _USUAL.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        for found in chunk.choices:
            choice = self._at(found.index)
            delta = found.delta
            thought = delta.reasoning_content or delta.reasoning
            if thought:
                choice.plain = True
                self._say(choice, Thinking, thought)
            if delta.content:
                self._say(choice, Text, delta.content)
        return True

    def _at(self, number: int) -> _Choice:
        choice = self._choices.get(number)
        if choice is None:
            choice = self._choices[number] = _Choice(number)
        return choice

    def _chunk(self, chunk: _Object) -> None:
        error = error_in(chunk)
        if error is not None:
            self._fail(error)
            return
        choices = chunk.get("choices")
        if type(choices) is not list:
            self._out.append(_PING)
            return
        if not self._started:
            self._start(chunk)
        for choice in choices:
            if type(choice) is dict and not self._over:
                self._choice(choice)

    def _start(self, chunk: _Object) -> None:
        self._started = True
        created = chunk.get("created")
        self._id = text_of(chunk.get("id"))
        self._out.append(
            MessageStart(
                self._id or None,
                text_of(chunk.get("model")) or None,
                None,
                created if type(created) is int and created > 0 else None,
            )
        )

    def _choice(self, raw: _Object) -> None:
        number = raw.get("index")
        choice = self._at(number if type(number) is int and number >= 0 else 0)
        delta = raw.get("delta")
        if type(delta) is not dict:
            delta = raw.get("message")  # beside a delta it repeats all text so far (Perplexity)
        if type(delta) is dict:
            self._delta(choice, delta)
        reason = raw.get("finish_reason")
        if reason is not None or raw.get("error"):
            self._reason(choice, raw, text_of(reason))

    def _reason(self, choice: _Choice, raw: _Object, reason: str) -> None:
        if raw.get("error"):
            self._fail(error_of(raw["error"]))
        elif reason in FAILURES:
            self._fail(AnswerError(FAILURES[reason], reason))
        elif not choice.reason:
            choice.reason = reason
            choice.matched = text_of(raw.get("stop_reason"))

    def _delta(self, choice: _Choice, delta: _Object) -> None:
        """A delta of any kind; thoughts come before what they led to."""
        self._thoughts(choice, delta)
        for part in read_parts(delta.get("content")):
            self._say(choice, type(part), part.text)
        refusal = text_of(delta.get("refusal"))
        if refusal:
            self._say(choice, Refusal, refusal)
        for image in read_images(delta.get("images")):
            self._close(choice)
            self._out.append(BlockStop(self._open(image, choice)))
        choice.citations += read_citations(delta.get("annotations"))
        calls = delta.get("tool_calls")
        if type(calls) is list:
            for call in calls:
                if type(call) is dict and not self._over:
                    self._call(choice, call.get("index"), call)
        legacy = delta.get("function_call")
        if type(legacy) is dict and (legacy.get("name") or legacy.get("arguments")):
            self._call(choice, "function_call", {"function": legacy})

    # Blocks of text.

    def _open(self, block: Block, choice: _Choice) -> int:
        index = self._blocks
        self._blocks += 1
        self._out.append(BlockStart(index, block, choice.number))
        return index

    def _say(self, choice: _Choice, kind: type[Block], text: str) -> None:
        if choice.kind is not kind:
            self._close(choice, before=kind)
            choice.kind = kind
            choice.block = self._open(_EMPTY[kind], choice)
            choice.refused = choice.refused or kind is Refusal
        self._out.append(Delta(choice.block, text))

    def _thoughts(self, choice: _Choice, delta: _Object) -> None:
        """Thoughts; those in `reasoning_details` count where they do not repeat plain ones."""
        thought = text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning"))
        choice.plain = choice.plain or bool(thought)
        details = delta.get("reasoning_details")
        if details:
            text = choice.details.add(details)
            thought = thought if choice.plain else text
        if thought:
            self._say(choice, Thinking, thought)

    def _close(self, choice: _Choice, before: type[Block] | None = None) -> None:
        """Close the open block of text, with what belongs to it; what was signed comes with it."""
        kind, choice.kind = choice.kind, None
        signature = None
        if before is not Thinking and (signature := choice.details.signature()) is not None:
            choice.details.clear()
        if kind is Thinking and signature is not None:
            value, issuer = signature.value, signature.format
            self._out.append(Delta(choice.block, value, "signature", issuer))
        if kind is not None:
            self._out.append(BlockStop(choice.block))
        if kind is not Thinking and signature is not None:
            self._redacted(choice, signature)
        if kind is Text:
            for citation in choice.citations:
                self._out.append(BlockStop(self._open(citation, choice)))
            choice.citations = []

    def _redacted(self, choice: _Choice, signature: Signature) -> None:
        thinking = Thinking("", signature, redacted=True)
        self._out.append(BlockStop(self._open(thinking, choice)))

    # Calls.

    def _call(self, choice: _Choice, index: object, raw: _Object) -> None:
        function = raw.get("function")
        custom = raw.get("custom")
        if type(function) is dict and (function.get("name") or type(custom) is not dict):
            name, arguments = text_of(function.get("name")), arguments_of(function.get("arguments"))
        elif type(custom) is dict:
            name, arguments = text_of(custom.get("name")), text_of(custom.get("input"))
        else:
            name = arguments = ""
        call = self._which(choice, index, text_of(raw.get("id")), name)
        call.id = call.id or text_of(raw.get("id"))
        if not call.name and name:
            call.name = name
            call.custom = type(function) is not dict
        if call.block < 0 and call.name:
            self._begin(choice, call)
        if arguments:
            self._argue(call, arguments)

    def _which(self, choice: _Choice, index: object, call_id: str, name: str) -> _Call:
        """The call that a delta goes on with, or a new one.

        Servers leave the index out, or say 0 for every call: then a name that comes with another
        id, or when the arguments of the call before are whole, begins a new one.
        """
        key: Hashable = index if isinstance(index, (int, str)) else None
        call = choice.last if key is None else choice.calls.get(key)
        if call is not None:
            another = call_id != call.id if call_id and call.id else call.whole()
            if not (name and call.name and another):
                return call
        call = _Call()
        choice.calls[key] = choice.last = call
        choice.order.append(call)
        return call

    def _begin(self, choice: _Choice, call: _Call) -> None:
        self._close(choice)
        for other in choice.order:
            if other.block >= 0 and not other.closed and other.whole():
                self._stop(other)
        seed = f"{self._id}/{choice.number}" if choice.number else self._id
        if not call.id:
            call.id = call_ids.made(seed, choice.made)
        choice.made += 1
        call.block = self._open(ToolCall(call.id, call.name, "", call.custom), choice)
        if call.pieces:
            self._out.append(Delta(call.block, "".join(call.pieces), "arguments"))

    def _argue(self, call: _Call, arguments: str) -> None:
        if call.closed:
            if arguments.strip():
                self._fail(AnswerError("The upstream went on with a tool call that was complete"))
            return
        call.pieces.append(arguments)
        if call.block >= 0:
            self._out.append(Delta(call.block, arguments, "arguments"))

    def _stop(self, call: _Call) -> None:
        call.closed = True
        self._out.append(BlockStop(call.block))

    # The end.

    def _end(self) -> None:
        choices = [self._choices[number] for number in sorted(self._choices)]
        for choice in choices:
            self._close(choice)
            for call in choice.order:
                if call.block < 0 and call.pieces:
                    self._fail(AnswerError("The upstream sent a tool call without a name"))
                    return
                if call.block >= 0 and not call.closed:
                    self._stop(call)
            if not choice.reason:
                self._fail(AnswerError(UNFINISHED))
                return
            self._out.append(_finish(choice))
        if not choices:
            self._fail(AnswerError("The answer has no choices"))
            return
        self._over = True
        self._out.append(MessageEnd(self._tap.metered().usage))


def _finish(choice: _Choice) -> Finish:
    calls = any(call.block >= 0 for call in choice.order)
    stop: StopReason = stop_of(choice.reason, calls=calls, refused=choice.refused)
    if stop == "end" and choice.matched:
        return Finish("stop_sequence", choice.matched, choice.number)
    return Finish(stop, None, choice.number)


def _readable(data: bytes) -> bool:
    """Whether the data of an event that did not end is whole."""
    return data.strip() == _DONE or isinstance(lenient.anything(data), dict)
