"""OpenAI Responses (and `/compact`): its meter and its taps.

Usage comes once, in the terminal event (`response.completed`, `.incomplete`, `.failed`), which
carries the whole response and so may be large. Source: platform.openai.com API reference,
"Responses" and its streaming events (2026-08), and recorded traffic.
"""

import msgspec

from gateway.wire import lenient, sse
from gateway.wire.lenient import ABSENT
from gateway.wire.openai_chat import read_usage
from gateway.wire.tap import SAMPLES, Answer, JsonTap, SseTap

TERMINAL_EVENTS = frozenset(("response.completed", "response.incomplete", "response.failed"))

# Events that open an answer without yet being any of it.
_OPENING = frozenset(
    ("response.created", "response.queued", "response.in_progress", "keepalive", "ping", "error")
)
_ENDINGS = tuple(name.encode() for name in sorted(TERMINAL_EVENTS))


class _Event(msgspec.Struct, frozen=True):
    type: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    delta: msgspec.Raw = ABSENT


class _Response(msgspec.Struct, frozen=True):
    id: msgspec.Raw = ABSENT
    model: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    output: msgspec.Raw = ABSENT


_EVENT = msgspec.json.Decoder(_Event)
_RESPONSE = msgspec.json.Decoder(_Response)


def note(answer: Answer, raw: bytes | msgspec.Raw) -> bool:
    """Take in a response object; False where it is not one."""
    response = lenient.decode(_RESPONSE, raw)
    if response is None:
        return False
    answer.name(response.id, response.model)
    answer.usage = read_usage(response.usage) or answer.usage
    if response.error:
        answer.fault = lenient.fault(response.error) or answer.fault
    return True


class ResponsesStreamTap(SseTap):
    """Watches a Responses stream. Pieces that are all deltas pass at once."""

    __slots__ = ()

    def _quiet(self, data: bytes) -> bool:
        # A raw line end cannot stand inside JSON: what is counted are `event:` lines.
        deltas = data.count(b".delta\n")
        if not deltas or data.count(b"\n\n") != deltas:
            return False
        self._deltas += deltas
        self._text += len(data)
        return True

    def _event(self, event: bytes) -> bool:
        if self._sampled >= SAMPLES and self._quiet(event):
            return True
        data = sse.data_of(event)
        found = lenient.decode(_EVENT, data) if data else None
        if found is None:
            return True
        kind = lenient.text(found.type) or sse.name_of(event).decode("utf-8", "replace")
        if kind.endswith(".delta"):
            self.content = True
            text = lenient.text_bytes(lenient.anything(found.delta))
            self._count(event, text)
            return True
        if found.response:
            note(self.answer, found.response)
        if kind in TERMINAL_EVENTS:
            self.terminal = self.answer.complete = True
        elif kind == "error" or lenient.is_object(found.error):
            self.answer.fault = lenient.fault(data)
        elif kind not in _OPENING:
            self.content = True
        return True

    def _may_end(self, head: bytes) -> bool:
        return any(name in head for name in _ENDINGS) or b'"response":{' in head

    def _lost(self, head: bytes) -> None:
        # The count is gone with the event, but the ending itself is known.
        if any(name in head for name in _ENDINGS):
            self.answer.complete = True


class ResponsesBodyTap(JsonTap):
    """Reads a Responses (or compact) answer."""

    __slots__ = ()

    def _document(self, data: bytes) -> bool:
        return note(self.answer, data)

    def _text(self, data: bytes) -> int:
        response = lenient.decode(_RESPONSE, data)
        return lenient.text_bytes(lenient.anything(response.output)) if response else 0
