r"""What all taps share: holding the end of a stream back, buffering a body within bounds.

`SseTap` implements `format.StreamTap` for server-sent events and `JsonTap` implements
`format.BodyTap`; a format's file subclasses both and only says what its events mean. Sans-io.

The usual piece, whole events that cannot matter, costs one `endswith` and a few searches
(`_quiet`) and is handed back as the same object. All else goes one event at a time.

A partial event waits for its end, up to PARTIAL_EVENT_BYTES_MAX; then it is let through while a
copy is kept (up to TAP_EVENT_BYTES_MAX) so that its usage can still be read when it ends. An event
that may be the terminal one is not let through early. Where that cannot be told from its start,
the blank line that ends it is still held, without which a client does not dispatch it.
"""

import copy

import msgspec

from gateway.wire import lenient, sse
from gateway.wire.neutral import Metered, StreamFault, Usage

PARTIAL_EVENT_BYTES_MAX = 16 * 1024
"""Bytes of an unfinished event that wait for its end; bounds what a slow event pins."""

TAP_EVENT_BYTES_MAX = 32 * 1024 * 1024
"""Largest event whose usage is read; above it the bytes still pass, the count is lost."""

BODY_DECODE_BYTES_MAX = 8 * 1024 * 1024
"""Largest body decoded as a document; of a larger one only the tail is searched."""

BODY_TAIL_BYTES = 64 * 1024
"""Tail kept of a larger body: every format reports usage after the content."""

SAMPLES = 8
"""Delta events read exactly before the size of the others is trusted."""

_TEXT_BYTES_MIN = 3
"""Bytes of text taken per unread delta event at least: hardly a token is shorter."""

_HEAD_BYTES = 512
_TAIL_TRIES = 16
_ENDS = (b"\n\n", b"\r\n\r\n")


class Answer:
    """What was learned of one answer so far; the state behind `Metered`."""

    __slots__ = ("complete", "fault", "response_id", "response_model", "usage")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self.fault: StreamFault | None = None
        self.response_id: str | None = None
        self.response_model: str | None = None

    def name(self, response_id: msgspec.Raw, model: msgspec.Raw) -> None:
        """Keep the first id and model that are told."""
        if self.response_id is None:
            self.response_id = lenient.text(response_id)
        if self.response_model is None:
            self.response_model = lenient.text(model)

    def metered(self, text_bytes: int) -> Metered:
        """Freeze it."""
        return Metered(
            usage=self.usage,
            complete=self.complete,
            fault=self.fault,
            text_bytes=max(text_bytes, 0),
            response_id=self.response_id,
            response_model=self.response_model,
        )


class SseTap:
    """The event-splitting half of a `StreamTap`; a format says what events mean.

    Text is mostly not decoded to be counted. The first SAMPLES delta events are, which shows how
    many bytes stand around the text, padding (`obfuscation`) included; of each other one that
    many are taken off, leaving _TEXT_BYTES_MIN or more. It is only used where a provider reported
    nothing.
    """

    __slots__ = (
        "_around", "_clear", "_deltas", "_exact", "_held", "_partial", "_released", "_sampled",
        "_sent", "_text", "answer", "content", "terminal",
    )  # fmt: skip

    def __init__(self) -> None:
        self.terminal = False
        self.content = False
        self.answer = Answer()
        self._clear = False  # sampling is over, nothing is held: a quiet piece may pass
        self._partial = bytearray()  # the event that has not ended yet
        self._sent = 0  # how much of it was let through already
        self._held = bytearray()  # the terminal event and all after it
        self._released = False
        self._exact = 0  # bytes of text in the delta events that were read
        self._sampled = 0  # how many these are, up to SAMPLES
        self._around = 0  # bytes around the text of these
        self._deltas = 0  # delta events not read
        self._text = 0  # their bytes

    # What a format says.

    def _quiet(self, data: bytes) -> bool:
        """Tell whether whole events `data` hold nothing to read; if so, count their text."""
        raise NotImplementedError

    def _event(self, event: bytes) -> bool:
        """Read one whole event; return False to take it out of the stream."""
        raise NotImplementedError

    def _may_end(self, head: bytes) -> bool:
        """Tell whether an event that begins with `head` may be the terminal one."""
        return False

    def _lost(self, head: bytes) -> None:
        """Note an event too large to be read, of which `head` is the beginning."""

    # What all formats share.

    def feed(self, data: bytes) -> bytes:
        """See `format.StreamTap.feed`."""
        if self._clear and data.endswith(_ENDS) and self._quiet(data):
            return data
        if self._released:
            return data
        if self.terminal:
            self._held += data
            return b""
        out = self._resume(data) if self._partial else self._take(data)
        self._clear = self._sampled >= SAMPLES and not self.terminal and not self._partial
        if out is data and self.answer.fault is not None:
            return bytes(memoryview(out))  # not the same object: somebody should look at it
        return out

    def release(self) -> bytes:
        """See `format.StreamTap.release`."""
        if self._released:
            return b""
        out = bytes(self._held)
        if self._partial:
            keep = self._read_partial()
            rest = bytes(self._partial[self._sent :])
            out += rest if keep or self._sent else rest[: sse.lead(rest)]
        self._drop()
        return out

    def drop_partial(self) -> bytes:
        """See `format.StreamTap.drop_partial`.

        A partial event of which bytes have gone out cannot be unsent: it is closed with a blank
        line, so that an error event that follows starts on a boundary.
        """
        if self._released:
            return b""
        self._read_partial()
        held = bytes(self._held)
        out = held[: sse.whole_end(held)] if held else b"\n\n" if self._sent else b""
        self._drop()
        return out

    def metered(self) -> Metered:
        """See `format.StreamTap.metered`. Reads a last event that lacks its blank line too."""
        if self._partial:
            # On a copy: if the stream goes on, the event may turn out to say something else.
            ghost = copy.copy(self)
            ghost.answer = copy.copy(self.answer)
            ghost._read_partial()  # noqa: SLF001 - of its own kind
            ghost._partial = bytearray()  # noqa: SLF001 - of its own kind
            return ghost.metered()
        around = self._around * self._deltas // max(self._sampled, 1)
        unread = max(self._text - around, self._deltas * _TEXT_BYTES_MIN)
        return self.answer.metered(self._exact + unread)

    def _drop(self) -> None:
        self._released = True
        self._clear = False
        self._partial = bytearray()
        self._held = bytearray()
        self._sent = 0

    def _read_partial(self) -> bool:
        """Read the unfinished event as if it had ended; a cut one is not JSON and is ignored."""
        if not self._partial:
            return True
        before = self.terminal, self.content, self._exact, self._sampled, self._text, self._deltas
        keep = self._event(bytes(self._partial))
        (
            self.terminal, self.content, self._exact, self._sampled, self._text, self._deltas
        ) = before  # fmt: skip
        return keep

    def _resume(self, data: bytes) -> bytes:
        """Add to the unfinished event; where it ends, read it and go on with the rest."""
        partial = self._partial
        old = len(partial)
        partial += data
        end = sse.event_end(partial, max(0, old - sse.END_LOOKBACK))
        if end < 0:
            return self._wait()
        event = bytes(memoryview(partial)[:end])
        sent, self._sent, self._partial = self._sent, 0, bytearray()
        rest = data[end - old :]
        keep = self._event(event)
        if self.terminal:
            self._held += event[sent:]
            self._held += rest
            return b""
        if not keep and not sent:
            event = event[: sse.lead(event)]
        return event[sent:] + self._take(rest) if rest else event[sent:]

    def _take(self, data: bytes) -> bytes:
        """Take bytes that begin with an event, nothing being held."""
        end = sse.whole_end(data) if self._sampled >= SAMPLES else 0
        out = data if end == len(data) else data[:end]
        if not end or not self._quiet(out):
            out, end = self._each(data)
        if end == len(data):
            return out
        self._partial = bytearray(memoryview(data)[end:])
        return out + self._wait()

    def _each(self, data: bytes) -> tuple[bytes, int]:
        """Read event by event; return what may pass and how far `data` was used up."""
        out: list[bytes] = []
        start = kept = 0
        while (end := sse.event_end(data, start)) >= 0:
            event = data[start:end]
            keep = self._event(event)
            if self.terminal:
                self._held += memoryview(data)[start:]
                out.append(data[kept:start])
                return b"".join(out), len(data)
            if not keep:
                out.append(data[kept : start + sse.lead(event)])
                kept = end
            start = end
        if not out:
            return (data if start == len(data) else data[:start]), start
        out.append(data[kept:start])
        return b"".join(out), start

    def _wait(self) -> bytes:
        """Keep the unfinished event waiting, or let it through once it is too long for that."""
        partial = self._partial
        size = len(partial)
        if not self._sent:
            if size <= PARTIAL_EVENT_BYTES_MAX:
                return b""
            if size <= TAP_EVENT_BYTES_MAX and self._may_end(bytes(partial[:_HEAD_BYTES])):
                return b""
        out = bytes(memoryview(partial)[self._sent :])
        if size > TAP_EVENT_BYTES_MAX:
            head = bytes(partial[:_HEAD_BYTES])
            self._lost(head)
            # A NUL makes what is left of it unreadable on purpose: it is not the event.
            self._partial = partial = bytearray(head + b"\0" + bytes(partial[-sse.END_LOOKBACK :]))
        self._sent = len(partial)
        return out

    def _count(self, event: bytes, text_bytes: int) -> None:
        """Count a delta event that was read; the first ones show the bytes around the text."""
        self._exact += text_bytes
        if self._sampled < SAMPLES:
            self._around += len(event) - text_bytes
            self._sampled += 1


class JsonTap:
    """The buffering half of a `BodyTap`; a format reads the document.

    Up to BODY_DECODE_BYTES_MAX the body is decoded as a whole; of a longer one the last
    BODY_TAIL_BYTES are searched for a usage object that stands at the top level.
    """

    __slots__ = ("_pieces", "_read", "_size", "answer")

    USAGE_KEYS: tuple[bytes, ...] = (b'"usage"',)

    def __init__(self) -> None:
        self.answer = Answer()
        self._pieces: list[bytes] = []
        self._size = 0
        self._read: Metered | None = None

    def _document(self, data: bytes) -> bool:
        """Read the whole document into `answer`; return False where it is not one."""
        raise NotImplementedError

    def _text(self, data: bytes) -> int:
        """Add up the generated text of a document that reported no usage."""
        return lenient.text_bytes(lenient.anything(data))

    def feed(self, data: bytes) -> None:
        """See `format.BodyTap.feed`."""
        self._pieces.append(data)
        self._size += len(data)
        self._read = None
        if self._size > BODY_DECODE_BYTES_MAX and (
            len(self._pieces) > _TAIL_TRIES or len(data) > BODY_TAIL_BYTES
        ):
            self._pieces = [b"".join(self._pieces)[-BODY_TAIL_BYTES:]]

    def metered(self) -> Metered:
        """See `format.BodyTap.metered`."""
        if self._read is None:
            data = b"".join(self._pieces)
            self._pieces = [data]
            self._read = self._whole(data) if self._size <= BODY_DECODE_BYTES_MAX else self._tail()
        return self._read

    def _whole(self, data: bytes) -> Metered:
        self.answer.complete = self._document(data)
        text = self._text(data) if self.answer.complete and self.answer.usage is None else 0
        return self.answer.metered(text)

    def _tail(self) -> Metered:
        """Find the usage object of which the rest of the body makes a document.

        `{` + `"usage":{…}` + everything after it parses exactly when the key stood at the top
        level: any deeper, a closing bracket would be left over.
        """
        data = self._pieces[0][-BODY_TAIL_BYTES:]
        for key in self.USAGE_KEYS:
            at = len(data)
            for _ in range(_TAIL_TRIES):
                at = data.rfind(key, 0, at)
                if at < 0:
                    break
                if self._document(b"{" + data[at:]) and self.answer.usage is not None:
                    self.answer.complete = True
                    return self.answer.metered(self._size)
        self.answer.complete = data.rstrip().endswith(b"}")
        return self.answer.metered(self._size)
