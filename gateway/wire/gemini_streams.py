"""Gemini streams, read: SSE or one JSON array to events.

A chunk holds whole parts, text in pieces, calls complete. There is no terminal: older models say
`STOP` in every chunk, so choices finish with the stream, if each has told a reason by then. The
last usage stands as a whole. Pure; usage is read by the meter of `gemini.py`. Source:
ai.google.dev API reference, "streamGenerateContent" (November 2026), and recorded traffic.
"""

import msgspec

from gateway.wire import gemini, lenient, sse, utf8
from gateway.wire import gemini_answers as answers
from gateway.wire import gemini_parts as parts
from gateway.wire.conversation import (
    AnswerError,
    Block,
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
from gateway.wire.neutral import Metered, StreamFault
from gateway.wire.tap import TAP_EVENT_BYTES_MAX
from gateway.wire.tap import Answer as MeterState

GROUNDED_TEXT_BYTES_MAX = 1024 * 1024
"""Text kept of a choice to tell which of it a source supports; beyond it places are not told."""

_EMPTY_BYTES = len(b"null")
"""A usage of no more than that tells nothing."""


def _event_end(data: bytes, at: int) -> int:
    """`sse.event_end` of an event that begins at `at`; Google's own at a fifth of the cost."""
    end = data.find(b"\r", at)
    if end >= 0 and data.startswith(b"\r\n\r\n", end) and data.find(b"\n", at, end) < 0:
        return end + 4
    return sse.event_end(data, at)


class _Choice:
    """What is known of one choice of a stream that is read."""

    __slots__ = ("called", "grounding", "kept", "number", "open", "reason", "text", "texts")

    def __init__(self, number: int) -> None:
        self.number = number
        self.open = -1  # the index of its open block
        self.text: type[Text] | type[Thinking] | None = None  # what that is
        self.reason = ""
        self.called = False
        self.grounding = answers.ABSENT
        self.texts: list[list[str]] = []
        self.kept = 0


class _Elements(gemini.GeminiArrayTap):
    """Splits a JSON array into its elements; what the tap passes on is of no interest."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[bytes] = []

    def _element(self, data: bytes) -> None:
        self.found.append(data)

    @property
    def inside(self) -> bool:
        """Whether an element has begun that has not ended."""
        return self._depth > 0


class GeminiStreamReader:
    """Reads one stream; see `format.StreamReader`.

    Events of up to TAP_EVENT_BYTES_MAX are kept until they are whole: an image is one event.
    """

    __slots__ = (
        "_array", "_began", "_choices", "_ids", "_next", "_out", "_over", "_partial", "_state",
        "_text_bytes", "_usage",
    )  # fmt: skip

    def __init__(self) -> None:
        self._partial = bytearray()
        self._array: _Elements | None = None
        self._began = False
        self._choices: dict[int, _Choice] = {}
        self._ids = answers.CallIds()
        self._next = 0
        self._out: list[Event] = []
        self._over = False
        self._state = MeterState()
        self._usage = answers.ABSENT
        self._text_bytes = 0

    def feed(self, data: bytes) -> list[Event]:
        """See `format.StreamReader.feed`."""
        if self._over or not data:
            return []
        if self._array is not None:
            return self._elements(data)
        start = 0
        if not self._partial and data.startswith(b"data: ") and data.endswith(b"\r\n\r\n"):
            size = len(data)
            if data.find(b"\r") == size - 4 and data.find(b"\n") == size - 3:
                self._chunk(data[6:-4])  # one event, in Google's own spelling
                out, self._out = self._out, []
                return out
        if self._partial:
            start = max(0, len(self._partial) - sse.END_LOOKBACK)
            self._partial += data
            if self._began and sse.event_end(self._partial, start) < 0:
                return self._wait()
            data, self._partial = bytes(self._partial), bytearray()
        if not self._began and self._is_array(data):
            return self._elements(data)
        return self._events(data, start)

    def eof(self) -> list[Event]:
        """See `format.StreamReader.eof`."""
        if self._over:
            return []
        if self._partial.strip():
            rest, self._partial = bytes(self._partial), bytearray()
            data = sse.data_of(rest)
            if data and lenient.decode(answers.CHUNK, data) is None:
                self._over = True
                raise Truncated
            self._event(rest)
        cut = self._array is not None and self._array.inside
        if not self._over:
            unfinished = not all(choice.reason for choice in self._choices.values())
            if cut or unfinished or not self._choices:
                self._over = True
                raise Truncated
            self._finish()
        out, self._out = self._out, []
        return out

    def metered(self) -> Metered:
        """See `format.StreamReader.metered`."""
        self._state.usage = gemini.read_usage(self._usage)
        return self._state.metered(self._text_bytes)

    # From bytes to chunks.

    def _is_array(self, data: bytes) -> bool:
        head = data[:1]
        if head == b"d":
            return False
        if head in b" \t\r\n\xef":
            head = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if head not in (b"[", b"{"):
            return False
        self._array = _Elements()
        return True

    def _elements(self, data: bytes) -> list[Event]:
        assert self._array is not None
        self._array.feed(data)
        for element in self._array.found:
            if not self._over:
                self._chunk(element)
        self._array.found.clear()
        out, self._out = self._out, []
        return out

    def _events(self, data: bytes, start: int) -> list[Event]:
        at = 0
        size = len(data)
        while at < size and not self._over:
            end = _event_end(data, start) if start == at else sse.event_end(data, start)
            if end < 0:
                break
            self._event(data if end - at == size else data[at:end])
            at = start = end
        if at < size and not self._over:
            self._partial = bytearray(memoryview(data)[at:])
        return self._wait()

    def _wait(self) -> list[Event]:
        if len(self._partial) > TAP_EVENT_BYTES_MAX:
            self._fail(AnswerError("The upstream sent an event that is too large."))
        out, self._out = self._out, []
        return out

    def _event(self, event: bytes) -> None:
        if event.startswith(b"data: ") and event.find(b"\r") == len(event) - 4:
            # Google's own spelling: one line, ended by CRLF CRLF.
            self._chunk(event[6:-4])
            return
        data = sse.data_of(event)
        if data:
            self._chunk(data)
        elif event.strip():
            self._began = True
            self._out.append(Ping())

    # From chunks to events.

    def _chunk(self, data: bytes) -> None:
        self._began = True
        chunk = lenient.decode(answers.CHUNK, data) if utf8.is_text(data) else None
        if chunk is None:
            self._fail(AnswerError("The upstream sent an event that is not Gemini's."))
            return
        if not self._state.response_id:
            self._state.response_id = chunk.response_id or None
        if not self._state.response_model:
            self._state.response_model = chunk.model_version or None
        if len(chunk.usage_metadata) > _EMPTY_BYTES:
            self._usage = chunk.usage_metadata
        if chunk.error or chunk.prompt_feedback is not None:
            error = answers.refusal_of(chunk)
            if error is not None:
                self._fail(error)
                return
        if not self._ids.seed:
            self._start(chunk, data)
        for position, candidate in enumerate(chunk.candidates or ()):
            self._candidate(candidate, position, data)
            if self._over:
                return

    def _start(self, chunk: answers.Chunk, data: bytes) -> None:
        self._ids.begin(chunk.response_id, data)
        usage = gemini.read_usage(chunk.usage_metadata)
        self._out.append(MessageStart(chunk.response_id, chunk.model_version, usage))

    def _fail(self, error: AnswerError) -> None:
        self._over = True
        self._partial = bytearray()
        self._state.fault = StreamFault(error.type, error.message)
        self._out.append(StreamError(error.message, error.type, error.code))

    def _candidate(self, candidate: answers.Candidate, position: int, data: bytes) -> None:
        number = candidate.index if candidate.index is not None else position
        choice = self._choices.get(number)
        if choice is None:
            choice = self._choices[number] = _Choice(number)
        said = candidate.content.parts if candidate.content is not None else None
        for place, part in enumerate(said or ()):
            whole = part.function_call or part.inline_data
            if not whole and (part.text is not None or part.thought_signature is not None):
                self._text(choice, part)
                continue
            block = answers.read_part(part, self._ids) if whole else None
            block = block or answers.opaque_part(data, position, place)
            if block is not None:
                self._whole(choice, block)
        if candidate.grounding_metadata:
            choice.grounding = candidate.grounding_metadata
        if candidate.finish_reason:
            choice.reason = candidate.finish_reason
            error = answers.failure(candidate)
            if error is not None:
                self._fail(error)

    def _text(self, choice: _Choice, part: answers.AnswerPart) -> None:
        kind = Thinking if part.thought else Text
        text = part.text or ""
        if choice.text is not kind:
            if not text and not part.thought_signature:
                return
            self._open(choice, parts.text_block("", None, thought=bool(part.thought)), kind)
        if text:
            self._text_bytes += len(text)
            self._out.append(Delta(choice.open, text))
            if kind is Text and choice.kept <= GROUNDED_TEXT_BYTES_MAX:
                choice.kept += len(text)
                choice.texts[-1].append(text)
        found = parts.read_signature(part.thought_signature) if part.thought_signature else None
        if found is not None:
            signature = found[0]
            self._out.append(Delta(choice.open, signature.value, "signature", signature.format))
            # What comes next is another part: its signature would not be this one's.
            self._close(choice)

    def _whole(self, choice: _Choice, block: Block) -> None:
        if isinstance(block, ToolCall):
            choice.called = True
            self._text_bytes += len(block.name) + len(block.arguments)
            self._open(choice, msgspec.structs.replace(block, arguments=""), None)
            self._out.append(Delta(choice.open, block.arguments, "arguments"))
        else:
            self._open(choice, block, None)
        self._close(choice)

    def _open(
        self, choice: _Choice, block: Block, kind: type[Text] | type[Thinking] | None
    ) -> None:
        self._close(choice)
        choice.open, choice.text = self._next, kind
        self._next += 1
        if kind is Text:
            choice.texts.append([])
        self._out.append(BlockStart(choice.open, block, choice.number))

    def _close(self, choice: _Choice) -> None:
        if choice.open >= 0:
            self._out.append(BlockStop(choice.open))
            choice.open, choice.text = -1, None

    def _finish(self) -> None:
        self._over = True
        self._state.complete = True
        for choice in self._choices.values():
            self._close(choice)
            if choice.grounding:
                self._cite(choice)
            stop = answers.stop_of(choice.reason, called=choice.called)
            assert stop is not None, "a failure has ended the stream before"
            self._out.append(Finish(stop, None, choice.number))
        self._out.append(MessageEnd(gemini.read_usage(self._usage)))

    def _cite(self, choice: _Choice) -> None:
        texts = ["".join(pieces) for pieces in choice.texts]
        kept = texts if choice.kept <= GROUNDED_TEXT_BYTES_MAX else []
        for citation in answers.read_citations(choice.grounding, kept):
            self._whole(choice, citation)
