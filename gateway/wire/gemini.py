"""Gemini generateContent and embedContent: their meter and their taps.

A stream is SSE (`alt=sse`) or one JSON array; neither has a terminal event, so `terminal` stays
False and the end of the body is the end. `usageMetadata` repeats in a stream: the last stands as a
whole, since an earlier one may count more of one kind and less of another. Cached tokens are part
of the prompt; tool-use prompt tokens and thoughts come on top. Source: ai.google.dev API reference,
"GenerateContentResponse" (2026-08), and recorded traffic.
"""

import re

import msgspec

from gateway.wire import lenient, sse
from gateway.wire.lenient import ABSENT, Count
from gateway.wire.neutral import Metered, Usage
from gateway.wire.tap import (
    PARTIAL_EVENT_BYTES_MAX,
    SAMPLES,
    TAP_EVENT_BYTES_MAX,
    Answer,
    JsonTap,
    SseTap,
)


class ModalityCount(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens of one modality: TEXT, IMAGE, AUDIO, VIDEO, DOCUMENT."""

    modality: str | None = None
    token_count: Count | None = None


class UsageMetadata(msgspec.Struct, frozen=True, rename="camel"):
    """`usageMetadata`. embedContent spells its details `promptTokenDetails`."""

    prompt_token_count: Count | None = None
    cached_content_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    prompt_tokens_details: list[ModalityCount] | None = None
    prompt_token_details: list[ModalityCount] | None = None
    candidates_tokens_details: list[ModalityCount] | None = None


class _Chunk(msgspec.Struct, frozen=True, rename="camel"):
    candidates: msgspec.Raw = ABSENT
    usage_metadata: msgspec.Raw = ABSENT
    prompt_feedback: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    response_id: msgspec.Raw = ABSENT
    model_version: msgspec.Raw = ABSENT


_USAGE = msgspec.json.Decoder(UsageMetadata)
_CHUNK = msgspec.json.Decoder(_Chunk)


def _media(details: list[ModalityCount] | None) -> tuple[int | None, int | None]:
    """Tokens of sound and of images; None where none of that modality are told."""
    audio = image = None
    for one in details or ():
        if one.modality == "AUDIO":
            audio = (audio or 0) + (one.token_count or 0)
        elif one.modality == "IMAGE":
            image = (image or 0) + (one.token_count or 0)
    return audio, image


def usage_from(found: UsageMetadata) -> Usage | None:
    """Turn Gemini's counts into neutral ones; None where it holds no token count."""
    if found.prompt_token_count is None and found.candidates_token_count is None:
        return None
    input_audio, input_image = _media(found.prompt_tokens_details or found.prompt_token_details)
    output_audio, output_image = _media(found.candidates_tokens_details)
    thoughts = found.thoughts_token_count
    tool_use = found.tool_use_prompt_token_count
    return Usage(
        input_tokens=(found.prompt_token_count or 0) + (tool_use or 0),
        output_tokens=(found.candidates_token_count or 0) + (thoughts or 0),
        cache_read_input_tokens=found.cached_content_token_count,
        reasoning_tokens=thoughts,
        input_audio_tokens=input_audio,
        input_image_tokens=input_image,
        input_tool_use_tokens=tool_use,
        output_audio_tokens=output_audio,
        output_image_tokens=output_image,
    )


def read_usage(raw: bytes | msgspec.Raw) -> Usage | None:
    """Read a usageMetadata object's JSON; None where it is absent, malformed or empty."""
    found = lenient.counts(_USAGE, raw)
    return usage_from(found) if found is not None else None


def _ended(chunk: _Chunk, candidates: object) -> bool:
    """Tell whether a candidate has its finish reason, or the prompt was blocked."""
    if isinstance(candidates, list) and any(
        isinstance(one, dict) and one.get("finishReason") for one in candidates
    ):
        return True
    feedback = lenient.anything(chunk.prompt_feedback)
    return isinstance(feedback, dict) and bool(feedback.get("blockReason"))


def _note(answer: Answer, chunk: _Chunk) -> None:
    answer.name(chunk.response_id, chunk.model_version)
    answer.usage = read_usage(chunk.usage_metadata) or answer.usage
    if chunk.error:
        answer.fault = lenient.fault(chunk.error) or answer.fault


def _text_in(candidates: object) -> int:
    if not isinstance(candidates, list):
        return 0
    return sum(
        lenient.text_bytes(one.get("content")) for one in candidates if isinstance(one, dict)
    )


class GeminiStreamTap(SseTap):
    """Watches a `streamGenerateContent?alt=sse` stream."""

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        super().__init__()
        self._latest = b""  # the last piece that passed with a usageMetadata, read when asked

    def _quiet(self, data: bytes) -> bool:
        # `find`, not `in`: on bytes the latter first tries the operand as a number.
        find = data.find
        if find(b'"finishReason"') >= 0 or find(b'"error"') >= 0 or find(b'"blockReason"') >= 0:
            return False
        if find(b'"usageMetadata"') >= 0:
            self._latest = data
        self._deltas += data.count(b"\r\n\r\n") or data.count(b"\n\n") or 1
        self._text += len(data)
        return True

    def _event(self, event: bytes) -> bool:
        if self._sampled >= SAMPLES and self._quiet(event):
            return True
        data = sse.data_of(event)
        chunk = lenient.decode(_CHUNK, data) if data else None
        if chunk is None:
            return True
        if chunk.usage_metadata:
            self._latest = b""
        _note(self.answer, chunk)
        candidates = lenient.anything(chunk.candidates)
        if _ended(chunk, candidates):
            self.answer.complete = self.content = True
        text = _text_in(candidates)
        if text:
            self.content = True
            self._count(event, text)
        elif isinstance(candidates, list) and candidates:
            # Something other than text (an inline image): content all the same.
            self.content = self.content or any(
                isinstance(one, dict) and one.get("content") for one in candidates
            )
        return True

    def metered(self) -> Metered:
        """See `format.StreamTap.metered`."""
        latest, self._latest = self._latest, b""
        start = 0
        while latest and start < len(latest):
            end = sse.event_end(latest, start)
            end = end if end >= 0 else len(latest)
            data = sse.data_of(latest[start:end])
            chunk = lenient.decode(_CHUNK, data) if data else None
            if chunk is not None:
                _note(self.answer, chunk)
            start = end
        return super().metered()


class GeminiArrayTap:
    r"""Watches a stream that is one JSON array: `[{…}\n,\r\n{…}]`, no `alt=sse`.

    An event is an element; the comma before it goes with it. An element is found by counting
    braces outside strings, resumed wherever the bytes were cut.
    """

    __slots__ = ("_depth", "_in_string", "_partial", "_released", "_scanned", "_sent", "_text",
                 "answer", "content", "terminal")  # fmt: skip

    _OUTSIDE = re.compile(rb'["{}]')
    _INSIDE = re.compile(rb'["\\]')

    def __init__(self) -> None:
        self.terminal = False
        self.content = False
        self.answer = Answer()
        self._partial = bytearray()
        self._scanned = 0
        self._sent = 0
        self._depth = 0
        self._in_string = False
        self._released = False
        self._text = 0

    def feed(self, data: bytes) -> bytes:
        """See `format.StreamTap.feed`."""
        if self._released:
            return data
        self._partial += data
        out = b""
        while (end := self._element_end()) >= 0:
            element = bytes(memoryview(self._partial)[:end])
            out += element[self._sent :]
            del self._partial[:end]
            self._sent = self._scanned = 0
            self._element(element[element.find(b"{") :])
        return out + self._wait()

    def _element_end(self) -> int:
        """Scan on; return the offset past the element that ends first, or -1."""
        buffer, at = self._partial, self._scanned
        while at < len(buffer):
            match = (self._INSIDE if self._in_string else self._OUTSIDE).search(buffer, at)
            if match is None:
                break
            at = match.end()
            found = buffer[at - 1]
            if found == 0x5C:  # a backslash: whatever follows it is inside the string
                if at == len(buffer):
                    self._scanned = at - 1
                    return -1
                at += 1
            elif found == 0x22:
                self._in_string = not self._in_string
            elif found == 0x7B:
                self._depth += 1
            elif self._depth:
                self._depth -= 1
                if not self._depth:
                    self._scanned = at
                    return at
        else:
            self._scanned = at
            return -1
        self._scanned = len(buffer)
        return -1

    def _wait(self) -> bytes:
        partial = self._partial
        size = len(partial)
        # Outside an element there is only punctuation: the array's own end must not wait.
        closed = not self._depth and b"]" in partial
        if not closed and not self._sent and size <= PARTIAL_EVENT_BYTES_MAX:
            return b""
        out = bytes(memoryview(partial)[self._sent :])
        if size > TAP_EVENT_BYTES_MAX:
            # Too large to read: forget all but a byte that makes the rest no JSON.
            escape = self._scanned < size
            self._partial = partial = bytearray(b"\0\\" if escape else b"\0")
            self._scanned = 1
        self._sent = len(partial)
        return out

    def _element(self, data: bytes) -> None:
        chunk = lenient.decode(_CHUNK, data)
        if chunk is None:
            return
        _note(self.answer, chunk)
        candidates = lenient.anything(chunk.candidates)
        if _ended(chunk, candidates):
            self.answer.complete = self.content = True
        if isinstance(candidates, list) and candidates:
            self.content = True
            self._text += _text_in(candidates)

    def release(self) -> bytes:
        """See `format.StreamTap.release`."""
        if self._released:
            return b""
        self._released = True
        out = bytes(memoryview(self._partial)[self._sent :])
        self._partial = bytearray()
        return out

    def drop_partial(self) -> bytes:
        """See `format.StreamTap.drop_partial`."""
        self._released = True
        self._partial = bytearray()
        return b""

    def metered(self) -> Metered:
        """See `format.StreamTap.metered`."""
        return self.answer.metered(self._text)


class GeminiBodyTap(JsonTap):
    """Reads a generateContent, embedContent or batchEmbedContents answer."""

    __slots__ = ()

    USAGE_KEYS = (b'"usageMetadata"',)

    def _document(self, data: bytes) -> bool:
        chunk = lenient.decode(_CHUNK, data)
        if chunk is None:
            return False
        _note(self.answer, chunk)
        return True

    def _text(self, data: bytes) -> int:
        chunk = lenient.decode(_CHUNK, data)
        return _text_in(lenient.anything(chunk.candidates)) if chunk is not None else 0
