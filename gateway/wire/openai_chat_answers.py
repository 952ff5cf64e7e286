"""Whole answers of OpenAI chat: read into the neutral model, and written; errors; usage.

Reading is tolerant, as compatible servers are many: legacy `function_call`, empty ids and names,
arguments as an object, lists of content, thoughts in any of their fields, an error in place of an
answer. Nothing raises on account of the bytes. Usage is counted by the format's one meter
(`openai_chat.py`). Used by `openai_chat_dialect.py` and `openai_chat_streams.py`; pure.

Written besides what OpenAI documents, as compatible servers do: thoughts in `reasoning_content`,
what this format's own providers signed in `reasoning_details`, images in `images`.

Source: platform.openai.com API reference, "Chat Completions" (2026-11), and recorded traffic.
"""

from collections.abc import Iterable, Mapping

import orjson

from gateway.wire import call_ids, lenient
from gateway.wire.conversation import (
    Answer,
    AnswerError,
    Audio,
    Block,
    Choice,
    Citation,
    Image,
    Opaque,
    Refusal,
    StopReason,
    Text,
    Thinking,
    ToolCall,
)
from gateway.wire.format import Asked
from gateway.wire.neutral import Usage
from gateway.wire.openai_chat import ChatBodyTap
from gateway.wire.openai_chat_thoughts import (
    NAME,
    SEPARATOR,
    json_of,
    own_details,
    thinking_of,
)

_Object = dict[str, object]

UNFINISHED = "The answer has no finish reason"

_STOPS: Mapping[str, StopReason] = {
    "stop": "end",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "model_length": "max_tokens",  # Mistral: the context is full
    "model_context_window_exceeded": "max_tokens",
    "content_filter": "refusal",
    "sensitive": "refusal",  # Z.ai
    "refusal": "refusal",
}
"""Other words, made up by compatible servers ("eos", "end_turn"), are an end too."""

FAILURES: Mapping[str, str] = {
    "error": "The provider broke off with an error",
    "insufficient_system_resource": "The provider broke off for lack of resources",  # DeepSeek
    "network_error": "The provider broke off with a network error",  # Z.ai
}
"""Finish reasons of an answer that is none."""

FINISH: Mapping[StopReason, str] = {
    "end": "stop",
    "max_tokens": "length",
    "tool_call": "tool_calls",
    "stop_sequence": "stop",
    "refusal": "content_filter",
    "pause": "length",  # not an end: the turn could go on
}

_ANNOTATION = "url_citation"


def stop_of(reason: str, *, calls: bool, refused: bool) -> StopReason:
    """Why an answer ended; what it holds is trusted over the reason, but for a cut.

    `reason` "" is none: of a whole answer it says that it is cut, unless it calls tools.
    """
    stop = _STOPS.get(reason, "end" if reason else "max_tokens")
    if calls and (stop == "end" or not reason):
        return "tool_call"
    if refused and stop == "end":
        return "refusal"
    return stop


def read_answer(body: bytes) -> Answer | None:
    """See `format.Dialect.read_answer`."""
    value = lenient.anything(body)
    if not isinstance(value, dict):
        return None
    tap = ChatBodyTap()
    tap.feed(body)
    metered = tap.metered()
    model, answer_id = metered.response_model, metered.response_id
    error = error_in(value)
    found = value.get("choices")
    if error is None and not isinstance(found, list):
        return None
    choices: list[Choice] = []
    for raw in found if isinstance(found, list) and error is None else ():
        if not isinstance(raw, dict):
            continue
        choice = _read_choice(raw, answer_id or "", len(choices))
        if isinstance(choice, AnswerError):
            error = choice
            break
        choices.append(choice)
    if error is None and not choices:
        error = AnswerError("The answer has no choices")
    created = value.get("created")
    return Answer(
        id=answer_id,
        model=model,
        choices=() if error is not None else tuple(choices),
        usage=metered.usage,
        created_s=created if isinstance(created, int) else None,
        error=error,
    )


def error_in(value: _Object) -> AnswerError | None:
    """The error that an answer or a chunk is, or None."""
    if value.get("error"):
        return error_of(value["error"])
    if value.get("object") == "error":
        return error_of(value)
    return None


def _read_choice(raw: _Object, seed: str, number: int) -> Choice | AnswerError:
    reason = text_of(raw.get("finish_reason"))
    if raw.get("error"):
        return error_of(raw["error"])
    if reason in FAILURES:
        return AnswerError(FAILURES[reason], reason)
    message = raw.get("message")
    if not isinstance(message, dict):
        message = {}
    blocks = list(_read_blocks(message, f"{seed}/{number}" if number else seed))
    if not blocks and not reason:
        return AnswerError(UNFINISHED)
    calls = any(isinstance(block, ToolCall) for block in blocks)
    refused = any(isinstance(block, Refusal) for block in blocks)
    stop = stop_of(reason, calls=calls, refused=refused)
    matched = raw.get("stop_reason")  # vLLM: the text, or the number of the token
    if stop == "end" and isinstance(matched, str) and matched:
        return Choice(tuple(blocks), "stop_sequence", matched)
    return Choice(tuple(blocks), stop)


def _read_blocks(message: _Object, seed: str) -> Iterable[Block]:
    thought = text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))
    thinking = thinking_of(thought, message.get("reasoning_details"))
    if thinking is not None:
        yield thinking
    yield from read_parts(message.get("content"))
    refusal = text_of(message.get("refusal"))
    if refusal:
        yield Refusal(refusal)
    yield from read_citations(message.get("annotations"))
    yield from read_images(message.get("images"))
    audio = message.get("audio")
    if isinstance(audio, dict) and audio.get("data"):
        yield Opaque(NAME, json_of(audio), "audio")
    calls = message.get("tool_calls")
    found = [_read_call(one) for one in calls] if isinstance(calls, list) else []
    found.append(_read_call({"function": message.get("function_call")}))
    number = 0
    for call in found:
        if call is not None:
            yield call if call.id else _with_id(call, call_ids.made(seed, number))
            number += 1


def _with_id(call: ToolCall, call_id: str) -> ToolCall:
    return ToolCall(call_id, call.name, call.arguments, call.custom)


def read_parts(content: object) -> Iterable[Text | Thinking | Refusal]:
    """Content: a string, or a list of parts (Mistral)."""
    if isinstance(content, str):
        if content:
            yield Text(content)
        return
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        match part.get("type"):
            case "text" if text_of(part.get("text")):
                yield Text(text_of(part["text"]))
            case "refusal" if text_of(part.get("refusal")):
                yield Refusal(text_of(part["refusal"]))
            case "thinking":
                thought = _joined(part.get("thinking"))
                if thought:
                    yield Thinking(thought)
            case _:
                pass


def _joined(thinking: object) -> str:
    if isinstance(thinking, list):
        return "".join(text_of(one.get("text")) for one in thinking if isinstance(one, dict))
    return text_of(thinking)


def _read_call(raw: object) -> ToolCall | None:
    """A call, its id "" where it has none; None where it calls nothing.

    Some servers send every member that there might be, empty (0d347caa).
    """
    if not isinstance(raw, dict):
        return None
    call_id = text_of(raw.get("id"))
    function, custom = raw.get("function"), raw.get("custom")
    if isinstance(function, dict) and text_of(function.get("name")):
        return ToolCall(call_id, text_of(function["name"]), arguments_of(function.get("arguments")))
    if isinstance(custom, dict) and text_of(custom.get("name")):
        return ToolCall(call_id, text_of(custom["name"]), text_of(custom.get("input")), custom=True)
    return None


def arguments_of(value: object) -> str:
    """Arguments as JSON text; some servers send the object itself."""
    if isinstance(value, dict):
        return json_of(value).decode()
    return text_of(value)


def read_citations(annotations: object) -> Iterable[Citation]:
    """Annotations that cite a page."""
    for one in annotations if isinstance(annotations, list) else ():
        found = one.get(_ANNOTATION) if isinstance(one, dict) else None
        if isinstance(found, dict):
            start, end = found.get("start_index"), found.get("end_index")
            yield Citation(
                url=text_of(found.get("url")) or None,
                title=text_of(found.get("title")) or None,
                quoted=text_of(found.get("content")) or None,
                start=start if isinstance(start, int) else None,
                end=end if isinstance(end, int) else None,
            )


def read_images(images: object) -> Iterable[Image]:
    """Images that a model made (OpenRouter's `images`)."""
    for one in images if isinstance(images, list) else ():
        found = one.get("image_url") if isinstance(one, dict) else None
        url = text_of(found.get("url")) if isinstance(found, dict) else ""
        head, comma, data = url.partition(";base64,")
        if comma and head[:5] == "data:":
            yield Image(head[5:].partition(";")[0] or None, data)
        elif url:
            yield Image(url=url)


def text_of(value: object) -> str:
    """The value where it is a string, else ""."""
    return value if isinstance(value, str) else ""


# Errors.


def read_error(status: int, body: bytes) -> AnswerError:
    """See `format.Dialect.read_error`."""
    value = lenient.anything(body)
    if isinstance(value, list) and value:  # Google's servers wrap theirs
        value = value[0]
    if isinstance(value, dict):
        inner = value.get("error") or value.get("detail") or value
        found = error_of(inner if isinstance(inner, (dict, str)) else value)
        if found.message:
            return found
        return AnswerError(f"The upstream answered {status}", found.type, found.code)
    said = body[: 4 * lenient.FAULT_MESSAGE_CHARS_MAX].decode("utf-8", "replace").strip()
    if not said or said.startswith("<"):
        return AnswerError(f"The upstream answered {status} without saying why")
    return AnswerError(said[: lenient.FAULT_MESSAGE_CHARS_MAX])


def error_of(value: object) -> AnswerError:
    """An error value of any server: an object, or a bare string."""
    if not isinstance(value, dict):
        return AnswerError(text_of(value)[: lenient.FAULT_MESSAGE_CHARS_MAX])
    message = next(
        (text for key in ("message", "detail", "error") if (text := text_of(value.get(key)))), ""
    )
    kind = text_of(value.get("type")) or text_of(value.get("status")) or None
    code = value.get("code")
    return AnswerError(
        message[: lenient.FAULT_MESSAGE_CHARS_MAX],
        kind,
        str(code) if isinstance(code, (str, int)) and code != "" else None,
        _retry_after(value.get("details")),
    )


def _retry_after(details: object) -> float | None:
    """Seconds of Google's RetryInfo ("3s")."""
    for one in details if isinstance(details, list) else ():
        delay = text_of(one.get("retryDelay")) if isinstance(one, dict) else ""
        number = delay.removesuffix("s")
        if delay.endswith("s") and number.replace(".", "", 1).isascii():
            try:
                return max(float(number), 0.0)
            except ValueError:
                continue
    return None


# Writing.


def write_answer(answer: Answer, asked: Asked) -> bytes:
    """See `format.Dialect.write_answer`."""
    body: _Object = {
        "id": f"chatcmpl-{asked.id}",
        "object": "chat.completion",
        "created": asked.created_s,
        "model": asked.model,
        "choices": [
            _write_choice(choice, number, asked) for number, choice in enumerate(answer.choices)
        ],
    }
    if answer.usage is not None:
        body["usage"] = write_usage(answer.usage)
    return orjson.dumps(body)


def is_legacy(asked: Asked) -> bool:
    """Whether the caller uses `functions`, and reads `function_call` alone."""
    return asked.request.spelled.get("tools") == "functions"


def finish_of(stop: StopReason, *, refused: bool, legacy: bool) -> str:
    """`finish_reason`; a refusal in words is an end like any other (44aa3217)."""
    if stop == "refusal" and refused:
        return "stop"
    if stop == "tool_call" and legacy:
        return "function_call"
    return FINISH[stop]


def _write_choice(choice: Choice, number: int, asked: Asked) -> _Object:
    message: _Object = {"role": "assistant", "content": None, "refusal": None}
    if len(choice.content) == 1 and isinstance(only := choice.content[0], Text):
        message["content"] = only.text
        finish = finish_of(choice.stop, refused=False, legacy=is_legacy(asked))
        return {"index": number, "message": message, "logprobs": None, "finish_reason": finish}
    text, annotations = _write_text(choice.content)
    refusals = [block.text for block in choice.content if isinstance(block, Refusal)]
    calls = [block for block in choice.content if isinstance(block, ToolCall)]
    if refusals:
        message["refusal"] = "".join(refusals)
    if text or not (calls or refusals):
        message["content"] = text
    _write_thoughts(choice.content, message)
    if annotations:
        message["annotations"] = annotations
    images = [write_image(block) for block in choice.content if isinstance(block, Image)]
    if images:
        message["images"] = images
    for block in choice.content:
        if isinstance(block, (Audio, Opaque)):
            _write_audio(block, message, asked)
    legacy = is_legacy(asked)
    _write_calls(calls, message, legacy=legacy)
    return {
        "index": number,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_of(choice.stop, refused=bool(refusals), legacy=legacy),
    }


def _write_text(blocks: tuple[Block, ...]) -> tuple[str, list[_Object]]:
    """All text in one, and its citations, whose places count from the beginning of all."""
    text = ""
    start = 0
    annotations = []
    for block in blocks:
        if isinstance(block, Text):
            start = len(text)
            text += block.text
        elif isinstance(block, Citation) and block.url is not None:
            annotations.append(write_citation(block, start, len(text)))
    return text, annotations


def write_citation(citation: Citation, start: int, end: int) -> _Object:
    """An annotation; `start` and `end` are those of the text block that it belongs to."""
    found: _Object = {
        "start_index": start + (citation.start or 0),
        "end_index": end if citation.end is None else start + citation.end,
        "title": citation.title or "",
        "url": citation.url,
    }
    if citation.quoted is not None:
        found["content"] = citation.quoted
    return {"type": _ANNOTATION, _ANNOTATION: found}


def write_image(image: Image) -> _Object:
    """An image that a model made, as OpenRouter sends it."""
    url = image.url or f"data:{image.media_type or 'image/png'};base64,{image.data or ''}"
    return {"type": "image_url", "image_url": {"url": url}}


def _write_thoughts(blocks: tuple[Block, ...], message: _Object) -> None:
    thoughts = [block for block in blocks if isinstance(block, Thinking)]
    texts = [thought.text for thought in thoughts if thought.text]
    if texts:
        message["reasoning_content"] = SEPARATOR.join(texts)
    for thought in thoughts:
        details = own_details(thought.signature)
        if details is not None:
            message["reasoning_details"] = details


def _write_audio(block: Audio | Opaque, message: _Object, asked: Asked) -> None:
    if isinstance(block, Audio):
        message["audio"] = write_audio(block, asked)
    elif block.format == NAME and block.kind == "audio":
        message["audio"] = orjson.Fragment(block.json)


def write_audio(audio: Audio, asked: Asked) -> _Object:
    """Spoken output; nothing keeps it, so it has expired when it arrives."""
    return {
        "id": f"audio_{asked.id}",
        "data": audio.data,
        "expires_at": asked.created_s,
        "transcript": audio.transcript or "",
    }


def _write_calls(calls: list[ToolCall], message: _Object, *, legacy: bool) -> None:
    """Calls; a caller of `functions` gets one, and all of them beside it where they are more."""
    if legacy and calls:
        arguments = calls[0].arguments or "{}"
        message["function_call"] = {"name": calls[0].name, "arguments": arguments}
        if len(calls) == 1:
            return
    if calls:
        message["tool_calls"] = [write_call(call) for call in calls]


def write_call(call: ToolCall) -> _Object:
    """A call in an answer."""
    if call.custom:
        custom = {"name": call.name, "input": call.arguments}
        return {"id": call.id, "type": "custom", "custom": custom}
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call.id, "type": "function", "function": function}


def write_usage(usage: Usage) -> _Object:
    """Usage by OpenAI's convention: input includes what was cached, output what was thought.

    What was not reported is left out. Parts are never told as more than the whole.
    """
    tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
    found: _Object = {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }
    before = {
        "cached_tokens": usage.cache_read_input_tokens,
        "cache_write_tokens": usage.cache_creation_input_tokens,
        "audio_tokens": usage.input_audio_tokens,
        "image_tokens": usage.input_image_tokens,
    }
    after = {
        "reasoning_tokens": usage.reasoning_tokens,
        "audio_tokens": usage.output_audio_tokens,
        "image_tokens": usage.output_image_tokens,
    }
    for name, details, whole in (
        ("prompt_tokens_details", before, tokens_in),
        ("completion_tokens_details", after, tokens_out),
    ):
        known = {key: min(count, whole) for key, count in details.items() if count is not None}
        if known:
            found[name] = known
    return found
