"""What is usual in Gemini's format, read in one decode and written in one encode.

Requests of turns of plain text and a few settings, answers of one text. What is not plainly that
is None, and goes through `gemini_requests.py`, `gemini_outgoing.py` and `gemini_answers.py`, which
would read the same and write the same bytes (tests/wire/test_usual_reading.py,
tests/wire/test_usual_writing.py). Used by the dialect; pure. Measured (CPython 3.11): a request of
1 KB is read in 2.9 µs instead of 7.8 and written in 2.4 instead of 5.7, an answer read in 2 instead
of 4.7 and written in 3.4 instead of 6.
"""

from typing import Annotated, Literal

import msgspec

from gateway.wire.conversation import (
    Answer,
    Choice,
    Feature,
    Message,
    Request,
    Role,
    StopReason,
    Text,
)
from gateway.wire.format import Asked
from gateway.wire.gemini import UsageMetadata, usage_from
from gateway.wire.gemini_answers import FINISHES, STOPS, usage_metadata
from gateway.wire.gemini_parts import FORMAT
from gateway.wire.usual import is_plain, texts_of

_Said = Annotated[str, msgspec.Meta(min_length=1)]


class _Part(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    text: str


_Parts = Annotated[list[_Part], msgspec.Meta(min_length=1)]


class _Turn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    parts: _Parts
    role: Literal["user", "model"] | None = None


class _System(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    parts: _Parts
    role: str | None = None


class _Generation(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    temperature: Annotated[float, msgspec.Meta(le=1)] | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_output_tokens: int | None = None
    candidate_count: Literal[1] | None = None


class _Body(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    contents: Annotated[list[_Turn], msgspec.Meta(min_length=1)]
    system_instruction: _System | None = None
    generation_config: _Generation | None = None


_BODY = msgspec.json.Decoder(_Body)
_UNSET = _Generation()


def read_request(body: bytes, *, model: str | None, stream: bool | None) -> Request | None:
    """The request, where it is a usual one; the path says its model and whether to stream."""
    if not model:
        return None
    try:
        found = _BODY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    messages = []
    role: Role = "user"
    for turn in found.contents:
        role = "assistant" if turn.role == "model" else "user"
        messages.append(Message(role, tuple([Text(part.text) for part in turn.parts])))
    if role == "assistant":
        return None  # an answer that is begun
    system = found.system_instruction
    config = found.generation_config or _UNSET
    return Request(
        format=FORMAT,
        model=model,
        stream=bool(stream),
        system=() if system is None else tuple([Text(part.text) for part in system.parts]),
        messages=tuple(messages),
        max_output_tokens=config.max_output_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        spelled=_spelled(config),
    )


def _spelled(config: _Generation) -> dict[Feature, str]:
    """The features in use."""
    spelled: dict[Feature, str] = {}
    if config.temperature is not None:
        spelled["temperature"] = "generationConfig.temperature"
    if config.top_p is not None:
        spelled["top_p"] = "generationConfig.topP"
    if config.top_k is not None:
        spelled["top_k"] = "generationConfig.topK"
    if config.max_output_tokens is not None:
        spelled["max_output_tokens"] = "generationConfig.maxOutputTokens"
    return spelled


def write_request(request: Request) -> bytes | None:
    """The body, where the request is a usual one: nothing of it is left out."""
    if not is_plain(request):
        return None
    contents: list[dict[str, object]] = []
    parts: list[dict[str, str]] = []
    before = None
    for message in request.messages:
        said = texts_of(message.content)
        role = message.role
        if not said or role == "system":
            return None
        if role != before:
            parts = []
            contents.append({"role": "model" if role == "assistant" else "user", "parts": parts})
            before = role
        parts += [{"text": text} for text in said]
    if not contents:
        return None
    document: dict[str, object] = {"contents": contents}
    if request.system:
        said = texts_of(request.system)
        if not said:
            return None
        document["systemInstruction"] = {"parts": [{"text": text} for text in said]}
    if config := _config(request):
        document["generationConfig"] = config
    return msgspec.json.encode(document)


def _config(request: Request) -> dict[str, object]:
    config: dict[str, object] = {}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.top_p is not None:
        config["topP"] = request.top_p
    if request.top_k is not None:
        config["topK"] = request.top_k
    if request.max_output_tokens is not None:
        config["maxOutputTokens"] = request.max_output_tokens
    return config


class _AnswerPart(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    text: _Said


class _AnswerContent(msgspec.Struct, gc=False):
    parts: Annotated[list[_AnswerPart], msgspec.Meta(min_length=1, max_length=1)]


class _Candidate(msgspec.Struct, rename="camel", gc=False):
    content: _AnswerContent
    finish_reason: str
    finish_message: str | None = None
    index: int | None = None
    grounding_metadata: None = None


class _Chunk(msgspec.Struct, rename="camel", gc=False):
    candidates: Annotated[list[_Candidate], msgspec.Meta(min_length=1, max_length=1)]
    usage_metadata: UsageMetadata
    prompt_feedback: None = None
    error: None = None
    response_id: str | None = None
    model_version: str | None = None


_CHUNK = msgspec.json.Decoder(_Chunk)


def read_answer(body: bytes) -> Answer | None:
    """The answer, where it is a usual one."""
    try:
        found = _CHUNK.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    (candidate,) = found.candidates
    stop = STOPS.get(candidate.finish_reason)
    usage = usage_from(found.usage_metadata)
    if stop is None or usage is None:
        return None
    (part,) = candidate.content.parts
    return Answer(
        id=found.response_id,
        model=found.model_version,
        choices=(Choice((Text(part.text),), stop),),
        usage=usage,
    )


def write_answer(answer: Answer, asked: Asked) -> bytes | None:
    """The answer's bytes, where it is a usual one."""
    if len(answer.choices) != 1 or answer.usage is None:
        return None
    choice = answer.choices[0]
    said = texts_of(choice.content)
    stop: StopReason = choice.stop
    if len(said) != 1 or stop == "pause":
        return None
    return msgspec.json.encode(
        {
            "candidates": [
                {
                    "content": {"parts": [{"text": said[0]}], "role": "model"},
                    "finishReason": FINISHES[stop],
                    "index": 0,
                }
            ],
            "usageMetadata": usage_metadata(answer.usage),
            "modelVersion": asked.model,
            "responseId": asked.id,
        }
    )
