"""Answers of endpoints without a format of their own here: images, audio, files, assistants.

They pass untouched; a usage object at the top level of a JSON body, or of a stream's event, is
metered whichever provider's shape it has. A bare `{"input_tokens": 13}` (count_tokens,
responses/input_tokens) is an answer to a question, not usage, and is left alone.
"""

import re

import msgspec

from gateway.wire import anthropic_messages, gemini, lenient, openai_chat, sse
from gateway.wire.lenient import ABSENT
from gateway.wire.neutral import Usage
from gateway.wire.tap import SAMPLES, Answer, JsonTap, SseTap

_ENDINGS = (".completed", ".done", ".failed", ".incomplete", "message_stop")
_MATTERS = re.compile(
    rb'"usage(?:Metadata)?"|"error"|\[DONE\]|message_stop|\.(?:completed|done|failed|incomplete)"'
)


class _Document(msgspec.Struct, frozen=True):
    type: msgspec.Raw = ABSENT
    id: msgspec.Raw = ABSENT
    model: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    usage_metadata: msgspec.Raw = msgspec.field(name="usageMetadata", default=ABSENT)
    error: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT
    message: msgspec.Raw = ABSENT


_DOCUMENT = msgspec.json.Decoder(_Document)


def _usage(found: _Document) -> Usage | None:
    if found.usage_metadata:
        return gemini.read_usage(found.usage_metadata)
    if not found.usage:
        return None
    if _is_anthropic(found):
        counts = anthropic_messages.read_usage(found.usage)
        return anthropic_messages.usage_from(counts) if counts is not None else None
    return openai_chat.read_usage(found.usage)


def _is_anthropic(found: _Document) -> bool:
    """Tell by what only Anthropic has: there `input_tokens` excludes what was cached."""
    if lenient.text(found.type) in ("message", "message_start", "message_delta"):
        return True
    usage = bytes(found.usage)
    return b'"cache_read_input_tokens"' in usage and b'"prompt_tokens"' not in usage


def _note(answer: Answer, found: _Document) -> None:
    answer.name(found.id, found.model)
    answer.usage = _usage(found) or answer.usage
    if found.error:
        answer.fault = lenient.fault(found.error) or answer.fault
    for raw in (found.response, found.message):
        inner = lenient.decode(_DOCUMENT, raw) if raw else None
        if inner is not None:
            answer.name(inner.id, inner.model)
            answer.usage = _usage(inner) or answer.usage


class NativeStreamTap(SseTap):
    """Watches a stream of unknown grammar; only `[DONE]` is known to be terminal."""

    __slots__ = ()

    def _quiet(self, data: bytes) -> bool:
        if _MATTERS.search(data):
            return False
        self._text += len(data)
        return True

    def _event(self, event: bytes) -> bool:
        if self._sampled >= SAMPLES and self._quiet(event):
            return True
        data = sse.data_of(event)
        if not data:
            return True
        if data.strip() == b"[DONE]":
            self.terminal = self.answer.complete = True
            return True
        found = lenient.decode(_DOCUMENT, data)
        if found is None:
            return True
        _note(self.answer, found)
        kind = lenient.text(found.type) or sse.name_of(event).decode("utf-8", "replace")
        if kind == "error":
            self.answer.fault = self.answer.fault or lenient.fault(data)
        elif self.answer.fault is None:
            self.content = True
            self._sampled = SAMPLES  # of an unknown grammar all bytes count
        if kind.endswith(_ENDINGS):
            self.answer.complete = True
        self._text += len(event)
        return True


class NativeBodyTap(JsonTap):
    """Reads whatever JSON body; a body that is not JSON (audio, a file) leaves no usage."""

    __slots__ = ()

    USAGE_KEYS = (b'"usage"', b'"usageMetadata"')

    def _document(self, data: bytes) -> bool:
        found = lenient.decode(_DOCUMENT, data)
        if found is None:
            return False
        _note(self.answer, found)
        return True

    def _text(self, data: bytes) -> int:
        return 0
