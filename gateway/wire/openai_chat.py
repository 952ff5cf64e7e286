"""OpenAI chat completions, legacy completions and embeddings: their meter and their taps.

Compatible servers speak this too, so every oddity seen in their traffic is taken in: usage in a
chunk with choices, in every chunk (the last stands) or in `x_groq`; `choices: []` without usage
first (Azure); no `[DONE]` (Perplexity); counts that leave reasoning (xAI) or audio (Mistral) out.
Source: platform.openai.com API reference, "Chat Completions" (2026-08), and recorded traffic.
"""

import msgspec

from gateway.wire import lenient, sse
from gateway.wire.lenient import ABSENT, Count
from gateway.wire.neutral import Usage
from gateway.wire.tap import SAMPLES, Answer, JsonTap, SseTap

_DONE = b"[DONE]"
_OPENS_OBJECT = (b"data: {", b"data:{")
_USAGE_KEY = b'"usage"'
_NULLS = (b":null", b": null")


class InputDetails(msgspec.Struct, frozen=True):
    """`prompt_tokens_details` / `input_tokens_details`."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class OutputDetails(msgspec.Struct, frozen=True):
    """`completion_tokens_details` / `output_tokens_details`."""

    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class OpenAIUsage(msgspec.Struct, frozen=True):
    """The usage object of every OpenAI endpoint, with what compatible servers put into it.

    `prompt_cache_hit_tokens` is DeepSeek's, `cached_tokens` Moonshot's and Hugging Face's,
    `num_cached_tokens` Mistral's, `cache_*_input_tokens` comes from servers that front Anthropic.
    """

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: InputDetails | None = None
    input_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: Count | None = None
    cached_tokens: Count | None = None
    num_cached_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class _Groq(msgspec.Struct, frozen=True):
    usage: msgspec.Raw = ABSENT


class _Chunk(msgspec.Struct, frozen=True):
    """The members that are metered, of a chunk and of a whole answer alike."""

    id: msgspec.Raw = ABSENT
    model: msgspec.Raw = ABSENT
    choices: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    x_groq: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    object: msgspec.Raw = ABSENT


class _UsualBody(msgspec.Struct, frozen=True):
    """A whole answer of the usual types, in one decode instead of four."""

    id: str | None = None
    model: str | None = None
    usage: OpenAIUsage | None = None
    error: msgspec.Raw = ABSENT


_USUAL_BODY = msgspec.json.Decoder(_UsualBody)
_USAGE = msgspec.json.Decoder(OpenAIUsage)
_CHUNK = msgspec.json.Decoder(_Chunk)
_GROQ = msgspec.json.Decoder(_Groq)


_NO_INPUT_DETAILS = InputDetails()
_NO_OUTPUT_DETAILS = OutputDetails()


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def usage_from(found: OpenAIUsage) -> Usage | None:
    """Turn OpenAI's counts into neutral ones; None where it holds no token count.

    Input counts include cached and cache-written tokens, output counts include reasoning. Where
    `total_tokens` shows that reasoning or input audio was left out, it is added.
    """
    tokens_in = found.input_tokens if found.prompt_tokens is None else found.prompt_tokens
    tokens_out = found.output_tokens if found.completion_tokens is None else found.completion_tokens
    if tokens_in is None and tokens_out is None:
        return None
    tokens_in, tokens_out = tokens_in or 0, tokens_out or 0
    before = found.prompt_tokens_details or found.input_tokens_details or _NO_INPUT_DETAILS
    after = found.completion_tokens_details or found.output_tokens_details or _NO_OUTPUT_DETAILS
    reasoning = after.reasoning_tokens
    if reasoning is None:
        reasoning = found.reasoning_tokens
    missing = (found.total_tokens or 0) - tokens_in - tokens_out
    if missing > 0:
        more_in, more_out = _left_out(missing, before.audio_tokens or 0, reasoning or 0)
        tokens_in += more_in
        tokens_out += more_out
    cached = before.cached_tokens
    if cached is None:
        cached = _first(
            found.prompt_cache_hit_tokens,
            found.cache_read_input_tokens,
            found.cached_tokens,
            found.num_cached_tokens,
        )
    written = before.cache_write_tokens
    return Usage(
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cache_read_input_tokens=cached,
        cache_creation_input_tokens=(
            found.cache_creation_input_tokens if written is None else written
        ),
        reasoning_tokens=reasoning,
        input_audio_tokens=before.audio_tokens,
        input_image_tokens=before.image_tokens,
        output_audio_tokens=after.audio_tokens,
        output_image_tokens=after.image_tokens,
    )


def _left_out(missing: int, audio: int, reasoning: int) -> tuple[int, int]:
    """Return (input, output) tokens that `total_tokens` counts and the two sums do not."""
    if missing == reasoning:
        return 0, reasoning
    if missing == audio:
        return audio, 0
    if missing == audio + reasoning:
        return audio, reasoning
    return 0, 0


def read_usage(raw: bytes | msgspec.Raw) -> Usage | None:
    """Read a usage object's JSON; None where it is null, absent, malformed or without counts."""
    found = lenient.counts(_USAGE, raw)
    return usage_from(found) if found is not None else None


def _chunk_usage(chunk: _Chunk) -> Usage | None:
    usage = read_usage(chunk.usage)
    if usage is None and chunk.x_groq:
        groq = lenient.decode(_GROQ, chunk.x_groq)
        usage = read_usage(groq.usage) if groq is not None else None
    return usage


def _note(answer: Answer, chunk: _Chunk) -> None:
    """Take in what a chunk and a whole answer have in common."""
    answer.name(chunk.id, chunk.model)
    usage = _chunk_usage(chunk)
    if usage is not None:
        answer.usage = usage
    if chunk.error:
        answer.fault = lenient.fault(chunk.error) or answer.fault


class ChatStreamTap(SseTap):
    """Watches a chat (or legacy completions) stream; may take the usage-only chunk out."""

    __slots__ = ("_finished", "_strip")

    def __init__(self, *, strip_usage: bool = False) -> None:
        super().__init__()
        self._strip = strip_usage
        self._finished = False

    def _quiet(self, data: bytes) -> bool:
        # `find`, not `in`: on bytes the latter first tries the operand as a number.
        if data.find(b'"error"') >= 0:
            return False
        at = data.find(_USAGE_KEY)
        while at >= 0:
            at += len(_USAGE_KEY)
            if not data.startswith(_NULLS, at):
                return False
            at = data.find(_USAGE_KEY, at)
        events = 1
        if data.find(b"\n") < len(data) - 2:
            events = data.count(b"\n\n") or 1
            if data.find(_DONE) >= 0:
                return False
        elif not data.startswith(_OPENS_OBJECT):
            return False  # one line that opens an object is no [DONE], and need not be searched
        self._deltas += events
        self._text += len(data)
        return True

    def _event(self, event: bytes) -> bool:
        if self._sampled >= SAMPLES and self._quiet(event):
            return True
        data = sse.data_of(event)
        if not data:
            return True
        if data.strip() == _DONE:
            self.terminal = self.answer.complete = True
            return True
        chunk = lenient.decode(_CHUNK, data)
        if chunk is None:
            return True
        _note(self.answer, chunk)
        if chunk.object and lenient.text(chunk.object) == "error":
            self.answer.fault = self.answer.fault or lenient.fault(data)
        choices = lenient.anything(chunk.choices)
        if isinstance(choices, list):
            self._choices(event, choices)
        elif not chunk.usage and self.answer.fault is None:
            self.content = True  # a chunk of a grammar of its own, which is no opening
        if self._finished and self.answer.usage is not None:
            # Some servers never send [DONE]; a finish and a count are all there is to wait for.
            self.answer.complete = True
        return not (self._strip and choices == [] and lenient.is_object(chunk.usage))

    def _choices(self, event: bytes, choices: list[object]) -> None:
        text = 0
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            if choice.get("finish_reason") is not None:
                self._finished = self.content = True
            delta = choice.get("delta") or choice.get("message") or choice
            if isinstance(delta, dict):
                made = {k: v for k, v in delta.items() if v and k not in _NOT_GENERATED}
                self.content = self.content or bool(made)
                made.pop("reasoning_details", None)  # repeats `reasoning`
                text += lenient.text_bytes(made)
        if text:
            self._count(event, text)


_NOT_GENERATED = frozenset(
    (
        "role", "index", "finish_reason", "native_finish_reason", "stop_reason", "logprobs",
        "content_filter_results", "delta", "message", "annotations", "reasoning_opaque",
        "provider_metadata",
    )
)  # fmt: skip


class ChatBodyTap(JsonTap):
    """Reads a chat, completions or embeddings answer."""

    __slots__ = ()

    def _document(self, data: bytes) -> bool:
        if self._usual(data):
            return True
        chunk = lenient.decode(_CHUNK, data)
        if chunk is None:
            return False
        _note(self.answer, chunk)
        return True

    def _usual(self, data: bytes) -> bool:
        """Read a body of the usual types; False, and nothing kept, where it is not one."""
        try:
            body = _USUAL_BODY.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        usage = None if body.usage is None else usage_from(body.usage)
        if usage is None or body.error:
            return False
        answer = self.answer
        answer.usage = usage
        answer.response_id = body.id or None
        answer.response_model = body.model or None
        return True

    def _text(self, data: bytes) -> int:
        chunk = lenient.decode(_CHUNK, data)
        choices = lenient.anything(chunk.choices) if chunk is not None else None
        if not isinstance(choices, list):
            return 0
        return sum(
            lenient.text_bytes(choice.get("message") or choice.get("text"))
            for choice in choices
            if isinstance(choice, dict)
        )
