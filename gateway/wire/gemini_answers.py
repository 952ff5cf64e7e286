"""Gemini generateContent answers, read and written; their errors and their usage.

A 200 may hold no answer: a blocked prompt (`promptFeedback`), or a reason to finish that is a
failure (`MALFORMED_FUNCTION_CALL`, `UNEXPECTED_TOOL_CALL`); both are `Answer.error`. Calls come
with `STOP`. Usage is read by the meter of `gemini.py`; written, cached tokens are part of the
prompt, thoughts stand beside the candidates. Pure. Source: ai.google.dev API reference,
"GenerateContentResponse" (November 2026), and recorded traffic.
"""

import hashlib
import re
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from gateway.wire import gemini, lenient
from gateway.wire import gemini_parts as parts
from gateway.wire.call_ids import made
from gateway.wire.conversation import (
    Answer,
    AnswerError,
    Audio,
    Block,
    Choice,
    Citation,
    Document,
    Image,
    Opaque,
    Refusal,
    StopReason,
    Text,
    Thinking,
    ToolCall,
)
from gateway.wire.format import Asked
from gateway.wire.gemini_parts import FORMAT
from gateway.wire.neutral import Usage

ABSENT = lenient.ABSENT
MESSAGE_CHARS_MAX = lenient.FAULT_MESSAGE_CHARS_MAX

Json = dict[str, object]


class AnswerPart(msgspec.Struct, rename="camel", gc=False):
    """A part as a model says it. One without any of these is of a kind of Gemini's own."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: Raw = ABSENT
    inline_data: Raw = ABSENT


class _Content(msgspec.Struct, gc=False):
    parts: list[AnswerPart] | None = None


class Candidate(msgspec.Struct, rename="camel", gc=False):
    """One alternative, or a piece of one."""

    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    index: int | None = None
    grounding_metadata: Raw = ABSENT


class _Feedback(msgspec.Struct, rename="camel", gc=False):
    block_reason: str | None = None
    block_reason_message: str | None = None


class Chunk(msgspec.Struct, rename="camel", gc=False):
    """A whole answer, or a piece of a stream."""

    candidates: list[Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: Raw = ABSENT
    error: Raw = ABSENT
    response_id: str | None = None
    model_version: str | None = None


class _Call(msgspec.Struct, gc=False):
    name: str
    id: str | None = None
    args: Raw = ABSENT


class _Blob(msgspec.Struct, rename="camel", gc=False):
    mime_type: str
    data: str


class _RawContent(msgspec.Struct, gc=False):
    parts: list[Raw] | None = None


class _RawCandidate(msgspec.Struct, gc=False):
    content: _RawContent | None = None


class _RawChunk(msgspec.Struct, gc=False):
    candidates: list[_RawCandidate] | None = None


class _Web(msgspec.Struct, gc=False):
    uri: str | None = None
    title: str | None = None


class _Source(msgspec.Struct, rename="camel", gc=False):
    web: _Web | None = None
    retrieved_context: _Web | None = None


class _Segment(msgspec.Struct, rename="camel", gc=False):
    start_index: int | None = None
    end_index: int | None = None
    text: str | None = None


class _Supported(msgspec.Struct, rename="camel", gc=False):
    segment: _Segment | None = None
    grounding_chunk_indices: list[int] | None = None


class _Grounding(msgspec.Struct, rename="camel", gc=False):
    grounding_chunks: list[_Source] | None = None
    grounding_supports: list[_Supported] | None = None


CHUNK = msgspec.json.Decoder(Chunk)
_CALL = msgspec.json.Decoder(_Call)
_BLOB = msgspec.json.Decoder(_Blob)
_RAW_CHUNK = msgspec.json.Decoder(_RawChunk)
_GROUNDING = msgspec.json.Decoder(_Grounding)

STOPS: dict[str, StopReason] = {
    "STOP": "end",
    "MAX_TOKENS": "max_tokens",
    "SAFETY": "refusal",
    "RECITATION": "refusal",
    "BLOCKLIST": "refusal",
    "PROHIBITED_CONTENT": "refusal",
    "SPII": "refusal",
    "IMAGE_SAFETY": "refusal",
    "IMAGE_PROHIBITED_CONTENT": "refusal",
    "IMAGE_RECITATION": "refusal",
    "MODEL_ARMOR": "refusal",
    "CONTINUATION": "pause",
}
"""Every other reason, known or not, is a failure: it must not look like an end."""

FINISHES: dict[StopReason, str] = {
    "end": "STOP",
    "tool_call": "STOP",
    "stop_sequence": "STOP",
    "max_tokens": "MAX_TOKENS",
    "refusal": "SAFETY",
    "pause": "OTHER",
}
"""The reason that is written for each; a pause has a message, too (`finish`)."""

_DELAY = re.compile(r"(\d+(?:\.\d+)?)s\Z")


class CallIds:
    """Makes ids for the calls of one answer that have none; `seed` tells answers apart."""

    def __init__(self) -> None:
        self.seed = ""
        self._count = 0

    def begin(self, response_id: str | None, data: bytes) -> None:
        """Set the seed: the answer's id, or where it has none a digest of its first bytes."""
        self.seed = response_id or hashlib.blake2b(data, digest_size=12).hexdigest()

    def next(self) -> str:
        """The id for one more call."""
        self._count += 1
        return made(self.seed, self._count)


def stop_of(reason: str, *, called: bool) -> StopReason | None:
    """What a finishReason means; None for a failure. Calls come with STOP."""
    stop = STOPS.get(reason)
    return "tool_call" if called and stop == "end" else stop


def failure(candidate: Candidate) -> AnswerError | None:
    """The error that a candidate's finishReason is, if it is one."""
    reason = candidate.finish_reason
    if not reason or reason in STOPS:
        return None
    message = candidate.finish_message or f"The model's answer ended with {reason}."
    return AnswerError(message[:MESSAGE_CHARS_MAX], type=reason, code=reason)


def refusal_of(chunk: Chunk) -> AnswerError | None:
    """The error that a chunk is: one that says so, or a blocked prompt."""
    if chunk.error:
        told = lenient.fault(chunk.error)
        if told is not None:
            return _error_of(lenient.anything(chunk.error)) or AnswerError(told.message, told.type)
    feedback = chunk.prompt_feedback
    if feedback is None or not feedback.block_reason or chunk.candidates:
        return None
    reason = feedback.block_reason
    message = feedback.block_reason_message or f"The prompt was blocked: {reason}."
    return AnswerError(message[:MESSAGE_CHARS_MAX], type="content_filter", code=reason)


def read_part(part: AnswerPart, ids: CallIds) -> Block | None:
    """The block of a part that is not text; None for a kind of Gemini's own."""
    if part.function_call:
        call = lenient.decode(_CALL, part.function_call)
        if call is None:
            return None
        found = parts.read_signature(part.thought_signature)
        call_id = call.id or ids.next()
        arguments = parts.call_arguments(call.args)
        return ToolCall(call_id, call.name, arguments, signature=found[0] if found else None)
    blob = lenient.decode(_BLOB, part.inline_data) if part.inline_data else None
    return parts.inline_block(blob.mime_type, blob.data) if blob is not None else None


def opaque_part(data: bytes, candidate: int, position: int) -> Opaque | None:
    """The part at a place of a chunk, as it came."""
    chunk = lenient.decode(_RAW_CHUNK, data)
    if chunk is None or not chunk.candidates:
        return None
    content = chunk.candidates[candidate].content
    if content is None or not content.parts:
        return None
    raw = content.parts[position]
    value = lenient.anything(raw)
    named = [key for key in value if key != "thoughtSignature"] if isinstance(value, dict) else []
    return Opaque(FORMAT, bytes(raw), named[0] if named else "")


def read_citations(raw: Raw, texts: Sequence[str]) -> list[Citation]:
    """The sources that `groundingMetadata` gives, once for each place in the text they support.

    Google counts bytes of the whole text; the places are told where there is one block of it.
    """
    found = lenient.decode(_GROUNDING, raw) if raw else None
    if found is None or not found.grounding_chunks:
        return []
    text = texts[0].encode("utf-8", "replace") if len(texts) == 1 else None
    out = []
    for supported in found.grounding_supports or ():
        start, end = _place(supported.segment, text)
        for number in supported.grounding_chunk_indices or ():
            if 0 <= number < len(found.grounding_chunks):
                source = found.grounding_chunks[number]
                site = source.web or source.retrieved_context or _Web()
                out.append(Citation(site.uri, site.title, None, start, end))
    return out


def _place(segment: _Segment | None, text: bytes | None) -> tuple[int | None, int | None]:
    if segment is None or text is None or segment.end_index is None:
        return None, None
    start, end = segment.start_index or 0, segment.end_index
    if not 0 <= start <= end <= len(text):
        return None, None
    return tuple(len(text[:at].decode("utf-8", "replace")) for at in (start, end))  # type: ignore[return-value]


def read_answer(body: bytes) -> Answer | None:
    """Read a whole answer; see `format.Dialect.read_answer`."""
    chunk = lenient.decode(CHUNK, body)
    if chunk is None:
        return None
    error = refusal_of(chunk)
    if error is None and not chunk.candidates:
        if chunk.candidates is None and not chunk.usage_metadata:
            return None
        error = AnswerError("The answer has no candidates.")
    ids = CallIds()
    ids.begin(chunk.response_id, body)
    choices = []
    for number, candidate in enumerate(chunk.candidates or ()):
        content = tuple(_content(candidate, ids, body, number))
        called = any(isinstance(block, ToolCall) for block in content)
        stop = stop_of(candidate.finish_reason or "", called=called)
        if stop is None:
            unfinished = AnswerError("The answer has no finishReason: it was cut short.")
            error = error or failure(candidate) or unfinished
        choices.append(Choice(content, stop or "max_tokens"))
    return Answer(
        id=chunk.response_id,
        model=chunk.model_version,
        choices=tuple(choices),
        usage=gemini.read_usage(chunk.usage_metadata),
        error=error,
    )


def _content(candidate: Candidate, ids: CallIds, body: bytes, number: int) -> list[Block]:
    out: list[Block] = []
    said = candidate.content.parts if candidate.content is not None else None
    for position, part in enumerate(said or ()):
        block: Block | None
        if part.function_call or part.inline_data:
            block = read_part(part, ids)
        elif part.text is not None or part.thought_signature is not None:
            _add_text(out, part)
            continue
        else:
            block = None
        block = block or opaque_part(body, number, position)
        if block is not None:
            out.append(block)
    texts = [block.text for block in out if isinstance(block, Text)]
    return out + read_citations(candidate.grounding_metadata, texts)


def _add_text(out: list[Block], part: AnswerPart) -> None:
    """Add a text part, to the block before it where that goes on, as a stream has it."""
    block = parts.text_block(part.text or "", part.thought_signature, thought=bool(part.thought))
    last = out[-1] if out else None
    if type(last) is type(block) and isinstance(last, (Text, Thinking)) and last.signature is None:
        out[-1] = msgspec.structs.replace(block, text=last.text + block.text)
    elif block.text or block.signature is not None:
        out.append(block)


# -- Written -----------------------------------------------------------------------------------


def write_answer(answer: Answer, asked: Asked) -> bytes:
    """Write a whole answer; see `format.Dialect.write_answer`."""
    document: Json = {
        "candidates": [
            _candidate(choice, number) for number, choice in enumerate(answer.choices)
        ],
    }  # fmt: skip
    if answer.usage is not None:
        document["usageMetadata"] = usage_metadata(answer.usage)
    document |= {"modelVersion": asked.model, "responseId": asked.id}
    return msgspec.json.encode(document)


def _candidate(choice: Choice, number: int) -> Json:
    said: list[Json | Raw] = []
    cut = False
    for block in choice.content:
        if isinstance(block, ToolCall) and not callable_part(block):
            cut = True
            continue
        part = write_part(block)
        if part is not None:
            said.append(part)
    refused = any(isinstance(block, Refusal) for block in choice.content)
    out: Json = {
        "content": {"parts": said, "role": "model"} if said else {"role": "model"},
        **finish(choice.stop, cut=cut, refused=refused),
        "index": number,
    }
    texts = [block.text for block in choice.content if isinstance(block, (Text, Refusal))]
    cited = [block for block in choice.content if isinstance(block, Citation)]
    if cited:
        out["groundingMetadata"] = write_grounding(cited, "".join(texts))
    return out


def callable_part(block: ToolCall) -> bool:
    """Tell whether a call's arguments are whole: Gemini's are an object or nothing at all."""
    return block.custom or not block.arguments.strip() or parts.is_object(block.arguments)


def finish(stop: StopReason, *, cut: bool, refused: bool) -> Json:
    """The members of a candidate that say why it ended.

    `cut`: a call was left out, as its arguments were incomplete. `refused`: it has a refusal.
    """
    if cut:
        return {"finishReason": "MAX_TOKENS"}
    if stop == "pause":
        message = "The provider paused the turn; it goes on when it is sent back."
        return {"finishReason": "OTHER", "finishMessage": message}
    if refused and stop == "end":
        return {"finishReason": "SAFETY"}
    return {"finishReason": FINISHES[stop]}


def write_part(block: Block) -> Json | Raw | None:
    """The part of an answer's block; None where Gemini has no place for it among the parts.

    A call's arguments must be whole (`callable_part`).
    """
    match block:
        case Text() | Thinking():
            return parts.text_part(block) if block.text or block.signature is not None else None
        case Refusal(text=text):
            return {"text": text} if text else None
        case ToolCall(custom=True):
            arguments = msgspec.json.encode({"input": block.arguments}).decode()
            return parts.call_part(msgspec.structs.replace(block, arguments=arguments))
        case ToolCall():
            return parts.call_part(block)
        case Image() | Document() | Audio():
            return parts.media_part(block)
        case Opaque():
            return parts.opaque_part(block)
        case _:
            return None


def write_grounding(cited: Sequence[Citation], text: str) -> Json:
    """Citations as `groundingMetadata` of a whole text."""
    numbers: dict[tuple[str | None, str | None], int] = {}
    supports: list[Json] = []
    for one in cited:
        number = numbers.setdefault((one.url, one.title), len(numbers))
        segment: Json = {}
        if one.start is not None and one.end is not None:
            quoted = text[one.start : one.end]
            before = len(text[: one.start].encode("utf-8", "replace"))
            after = before + len(quoted.encode("utf-8", "replace"))
            segment = {"startIndex": before, "endIndex": after, "text": quoted}
        supports.append({"segment": segment, "groundingChunkIndices": [number]})
    sources = [
        {"web": {name: told for name, told in (("uri", uri), ("title", title)) if told}}
        for uri, title in numbers
    ]
    return {"groundingChunks": sources, "groundingSupports": supports}


def usage_metadata(usage: Usage) -> Json:
    """Usage by Gemini's count: tool-use prompt beside the prompt, thoughts beside candidates."""
    tool_use = usage.input_tool_use_tokens or 0
    thoughts = usage.reasoning_tokens or 0
    prompt = max(usage.input_tokens - tool_use, 0)
    candidates = max(usage.output_tokens - thoughts, 0)
    out: Json = {"promptTokenCount": prompt, "candidatesTokenCount": candidates}
    out["totalTokenCount"] = prompt + tool_use + candidates + thoughts
    if usage.cache_read_input_tokens is not None:
        out["cachedContentTokenCount"] = usage.cache_read_input_tokens
    if usage.reasoning_tokens is not None:
        out["thoughtsTokenCount"] = thoughts
    if usage.input_tool_use_tokens is not None:
        out["toolUsePromptTokenCount"] = tool_use
    if details := _details(prompt, usage.input_image_tokens, usage.input_audio_tokens):
        out["promptTokensDetails"] = details
    if details := _details(candidates, usage.output_image_tokens, usage.output_audio_tokens):
        out["candidatesTokensDetails"] = details
    return out


def _details(whole: int, image: int | None, audio: int | None) -> list[Json]:
    """The modalities that are told of, and the rest as text."""
    if image is None and audio is None:
        return []
    told = {"TEXT": max(whole - (image or 0) - (audio or 0), 0), "IMAGE": image, "AUDIO": audio}
    return [
        {"modality": name, "tokenCount": count} for name, count in told.items() if count is not None
    ]


# -- Errors ------------------------------------------------------------------------------------


def read_error(status: int, body: bytes) -> AnswerError:
    """What an error answer says; see `format.Dialect.read_error`."""
    value = lenient.anything(body)
    if isinstance(value, list) and value:
        value = value[0]  # a stream's, which is an array without `alt=sse`
    if isinstance(value, dict):
        inner = value.get("error", value)
        if (found := _error_of(inner)) is not None:
            return found
        told = lenient.fault(body)
        if told is not None and told.message:
            return AnswerError(told.message, told.type)
    text = body.decode("utf-8", "replace").strip()
    if not text or text.startswith(("<", "{", "[")):
        text = f"The provider answered with status {status}."
    return AnswerError(text[:MESSAGE_CHARS_MAX])


def _error_of(value: object) -> AnswerError | None:
    """A google.rpc.Status: its reason and delay are in `details`."""
    if isinstance(value, str) and value:
        return AnswerError(value[:MESSAGE_CHARS_MAX])
    if not isinstance(value, dict) or not isinstance(value.get("message"), str):
        return None
    status = value.get("status") or value.get("type")
    reason = None
    delay = None
    details = value.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict):
            reason = detail.get("reason") or reason
            found = _DELAY.match(str(detail.get("retryDelay", "")))
            delay = float(found[1]) if found else delay
    return AnswerError(
        value["message"][:MESSAGE_CHARS_MAX],
        type=status if isinstance(status, str) else None,
        code=reason if isinstance(reason, str) else None,
        retry_after_s=delay,
    )
