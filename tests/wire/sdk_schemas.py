"""What the official SDKs take: requests by their types, answers and streams by their parsers.

The SDKs' request types are TypedDicts (google-genai: models). Here they are closed, as the APIs
are: a field that is in no type is an error. Iterables become lists, which pydantic would otherwise
look into only when somebody reads them. Answers are read by the models, strictly (the clients
themselves construct them unchecked), streams event by event and by the SDK's own accumulator.
"""

import collections.abc
import os
import types
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import anthropic.types as an
import msgspec
import openai.types.chat as chat
import openai.types.responses as responses
import pydantic
import typing_extensions
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import message_create_params
from google.genai import types as gemini
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params

from gateway.wire import sse

# --- requests ---------------------------------------------------------------------------------


def _closed(kind: Any) -> Any:
    """The same type with TypedDicts that take no further keys, and lists for iterables."""
    if typing_extensions.is_typeddict(kind):
        return _closed_dict(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing_extensions.Required, typing_extensions.NotRequired):
        return origin[_closed(args[0])]
    if origin is typing.Annotated:
        return _closed(args[0])
    if origin in (typing.Union, types.UnionType):
        return _either(_closed(one) for one in args if not _only_in_python(one))
    if origin in (collections.abc.Iterable, collections.abc.Sequence, list):
        return types.GenericAlias(list, _closed(args[0]))
    if origin is dict:
        return types.GenericAlias(dict, (args[0], _closed(args[1])))
    return kind


def _either(kinds: Iterable[Any]) -> Any:
    return typing.Union.__getitem__(tuple(kinds))


def _only_in_python(kind: Any) -> bool:
    """What the SDK turns into JSON itself: an answer's model sent back, an open file."""
    origin = typing.get_origin(kind) or kind
    if origin is typing.Annotated:
        return _only_in_python(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return all(map(_only_in_python, typing.get_args(kind)))
    if typing_extensions.is_typeddict(kind) or not isinstance(origin, type):
        return False
    return issubclass(origin, pydantic.BaseModel | typing.IO | os.PathLike)


@cache
def _closed_dict(kind: Any) -> Any:
    hints = typing_extensions.get_type_hints(kind, include_extras=True)
    fields = {
        name: hint if name in kind.__required_keys__ else typing_extensions.NotRequired[hint]
        for name, hint in ((name, _closed(_bare(hint))) for name, hint in hints.items())
    }
    make: Any = typing_extensions.TypedDict
    made = make(kind.__name__, fields)
    made.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    made.__module__ = kind.__module__
    return made


def _bare(hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing_extensions.Required, typing_extensions.NotRequired):
        return typing.get_args(hint)[0]
    return hint


@cache
def _request_type(name: str) -> pydantic.TypeAdapter[Any]:
    match name:
        case "openai_chat":
            return _of_both(
                completion_create_params.CompletionCreateParamsNonStreaming,
                completion_create_params.CompletionCreateParamsStreaming,
            )
        case "openai_responses":
            return _of_both(
                response_create_params.ResponseCreateParamsNonStreaming,
                response_create_params.ResponseCreateParamsStreaming,
            )
        case "anthropic_messages":
            return _of_both(
                message_create_params.MessageCreateParamsNonStreaming,
                message_create_params.MessageCreateParamsStreaming,
            )
        case "gemini":
            return pydantic.TypeAdapter(_GeminiRequest)
    raise LookupError(f"whose SDK takes {name}?")


def _of_both(whole: Any, streamed: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(_either((_closed(whole), _closed(streamed))))


class _GeminiRequest(pydantic.BaseModel):
    """The fields of generateContent, which the SDK spreads over arguments of its own."""

    model_config = pydantic.ConfigDict(
        extra="forbid", alias_generator=pydantic.alias_generators.to_camel
    )

    contents: list[gemini.Content]
    system_instruction: gemini.Content | None = None
    tools: list[gemini.Tool] | None = None
    tool_config: gemini.ToolConfig | None = None
    generation_config: gemini.GenerationConfig | None = None
    safety_settings: list[gemini.SafetySetting] | None = None
    cached_content: str | None = None
    labels: dict[str, str] | None = None
    service_tier: str | None = None
    store: bool | None = None


_PUT_BY_THE_SERVER = {
    # Gone from the types of SDK 2, though the API takes them (callers use `extra_body`).
    "anthropic_messages": ("temperature", "top_p", "top_k"),
}


def check_request(name: str, body: bytes) -> None:
    """Raise `pydantic.ValidationError` for a body that an SDK of the format could not send."""
    document = msgspec.json.decode(body)
    for key in _PUT_BY_THE_SERVER.get(name, ()):
        document.pop(key, None)
    _request_type(name).validate_python(document)


# --- answers ----------------------------------------------------------------------------------


class SeenCall(msgspec.Struct, frozen=True):
    """A tool call as an SDK gives it to its user; `arguments` parsed, or text that is no JSON."""

    id: str | None
    name: str
    arguments: Any


class SeenChoice(msgspec.Struct, frozen=True):
    text: str
    refusal: str
    calls: tuple[SeenCall, ...]
    stop: str | None
    thoughts: str = ""


class Seen(msgspec.Struct, frozen=True):
    """What an SDK's user sees of an answer. `usage` are the SDK's own fields, as a dict."""

    choices: tuple[SeenChoice, ...]
    usage: dict[str, Any] | None
    id: str | None
    model: str | None


def arguments(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def read_answer(name: str, body: bytes) -> Seen:
    """What the format's SDK reads of a whole answer; raises `pydantic.ValidationError`."""
    match name:
        case "openai_chat":
            return _of_chat(chat.ChatCompletion.model_validate_json(body))
        case "openai_responses":
            return _of_response(responses.Response.model_validate_json(body))
        case "anthropic_messages":
            return _of_message(an.Message.model_validate_json(body))
        case "gemini":
            return _of_gemini([gemini.GenerateContentResponse.model_validate_json(body)])
    raise LookupError(f"whose SDK reads {name}?")


def _of_chat(found: chat.ChatCompletion) -> Seen:
    choices = []
    for choice in sorted(found.choices, key=lambda one: one.index):
        message = choice.message
        calls = []
        for call in message.tool_calls or ():
            if call.type == "function":
                given = call.function
                calls.append(SeenCall(call.id, given.name, arguments(given.arguments)))
            else:
                calls.append(SeenCall(call.id, call.custom.name, call.custom.input))
        thoughts = (message.model_extra or {}).get("reasoning_content") or ""
        choices.append(
            SeenChoice(
                message.content or "", message.refusal or "", tuple(calls), choice.finish_reason,
                thoughts,
            )
        )  # fmt: skip
    usage = None if found.usage is None else found.usage.model_dump()
    return Seen(tuple(choices), usage, found.id, found.model)


def _of_response(found: responses.Response) -> Seen:
    text, refusal, thoughts, calls = "", "", "", []
    for item in found.output:
        if item.type == "message":
            for part in item.content:
                if part.type == "output_text":
                    text += part.text
                else:
                    refusal += part.refusal
        elif item.type == "function_call":
            calls.append(SeenCall(item.call_id, item.name, arguments(item.arguments)))
        elif item.type == "custom_tool_call":
            calls.append(SeenCall(item.call_id, item.name, item.input))
        elif item.type == "reasoning":
            thoughts += "".join(one.text for one in [*item.summary, *(item.content or ())])
    stop: str | None = found.status
    if found.incomplete_details is not None:
        stop = found.incomplete_details.reason
    usage = None if found.usage is None else found.usage.model_dump()
    choice = SeenChoice(text, refusal, tuple(calls), stop, thoughts)
    return Seen((choice,), usage, found.id, str(found.model))


def _of_message(found: an.Message) -> Seen:
    text, thoughts, calls = "", "", []
    for block in found.content:
        if block.type == "text":
            text += block.text
        elif block.type == "thinking":
            thoughts += block.thinking
        elif block.type == "tool_use":
            calls.append(SeenCall(block.id, block.name, block.input))
    choice = SeenChoice(text, "", tuple(calls), found.stop_reason, thoughts)
    return Seen((choice,), found.usage.model_dump(), found.id, str(found.model))


def _of_gemini(chunks: list[gemini.GenerateContentResponse]) -> Seen:
    parts: dict[int, list[gemini.Part]] = {}
    stops: dict[int, str | None] = {}
    usage = None
    for chunk in chunks:
        for candidate in chunk.candidates or ():
            index = candidate.index or 0
            content = candidate.content
            parts.setdefault(index, []).extend((content and content.parts) or ())
            if candidate.finish_reason is not None:
                stops[index] = candidate.finish_reason.value
        usage = chunk.usage_metadata or usage
    choices = []
    for index, found in sorted(parts.items()):
        calls = tuple(
            SeenCall(one.function_call.id, one.function_call.name or "", one.function_call.args)
            for one in found
            if one.function_call is not None
        )
        text = "".join(one.text or "" for one in found if not one.thought)
        thoughts = "".join(one.text or "" for one in found if one.thought)
        choices.append(SeenChoice(text, "", calls, stops.get(index), thoughts))
    last = chunks[-1]
    told = None if usage is None else usage.model_dump()
    return Seen(tuple(choices), told, last.response_id, last.model_version)


# --- streams ----------------------------------------------------------------------------------


def events(body: bytes) -> Iterator[tuple[str | None, bytes]]:
    """The name and data of each event of an SSE stream; what is no whole event is an error."""
    start = 0
    while start < len(body):
        end = sse.event_end(body, start)
        assert end >= 0, f"no whole event: {body[start:][:200]!r}"
        event = body[start:end]
        named = [line[6:].strip() for line in event.splitlines() if line.startswith(b"event:")]
        data = sse.data_of(event)
        if data:
            yield (named[0].decode() if named else None), data
        start = end


def read_stream(name: str, body: bytes, *, array: bool = False) -> Seen:
    """What the format's SDK makes of a whole stream that ended well.

    Raises `pydantic.ValidationError` or `AssertionError` where it would not take an event, or
    misses its end.
    """
    match name:
        case "openai_chat":
            return _chat_stream(body)
        case "openai_responses":
            return _responses_stream(body)
        case "anthropic_messages":
            return _messages_stream(body)
        case "gemini" if array:
            found = msgspec.json.decode(body, type=list[msgspec.Raw])
            return _of_gemini([gemini.GenerateContentResponse.model_validate_json(bytes(one))
                               for one in found])  # fmt: skip
        case "gemini":
            return _of_gemini([gemini.GenerateContentResponse.model_validate_json(data)
                               for _, data in events(body)])  # fmt: skip
    raise LookupError(f"whose SDK reads {name}?")


def _chat_stream(body: bytes) -> Seen:
    *told, (_, last) = events(body)
    assert last == b"[DONE]", last
    state = ChatCompletionStreamState()
    for _, data in told:
        state.handle_chunk(chat.ChatCompletionChunk.model_validate_json(data))
    snapshot = state.current_completion_snapshot
    assert all(one.finish_reason for one in snapshot.choices)
    return _of_chat(chat.ChatCompletion.model_validate(snapshot.model_dump(warnings=False)))


@cache
def _response_events() -> dict[str, type[pydantic.BaseModel]]:
    union = typing.get_args(typing.get_args(responses.ResponseStreamEvent)[0])
    found = {}
    for one in union:
        (kind,) = typing.get_args(one.model_fields["type"].annotation)
        found[kind] = one
    return found


def _responses_stream(body: bytes) -> Seen:
    last = None
    for number, (named, data) in enumerate(events(body)):
        document = msgspec.json.decode(data)
        assert named == document["type"]
        assert document["sequence_number"] == number
        last = _response_events()[document["type"]].model_validate(document)
    assert isinstance(last, responses.ResponseCompletedEvent | responses.ResponseIncompleteEvent)
    return _of_response(last.response)


_MESSAGE_EVENT = pydantic.TypeAdapter[an.RawMessageStreamEvent](an.RawMessageStreamEvent)


def _messages_stream(body: bytes) -> Seen:
    snapshot = None
    pieces: dict[int, bytes] = {}
    over = False
    for named, data in events(body):
        if named == "ping":
            continue
        assert not over
        event = _MESSAGE_EVENT.validate_json(data)
        assert named == event.type
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=pieces)
        over = event.type == "message_stop"
    assert over
    assert snapshot is not None
    return _of_message(an.Message.model_validate(snapshot.model_dump(warnings=False)))
