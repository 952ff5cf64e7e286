"""OpenAI Responses, for translation: its requests read, and what it makes of every feature.

`input` is a string or a list of items; reasoning, calls and their results are items of their own
beside messages. Items that follow each other on the assistant's side become one message, and so do
results; messages stay apart. What only this API knows (items of tools that OpenAI runs, files by
id) becomes `Opaque`. Encrypted reasoning is a `Signature`: this format's own, or the one that it
carries for another (`signatures.py`). Source: platform.openai.com API reference, "Create a model
response", and the request types of openai 2.54 (November 2026), with the shapes that Codex sends.
Used by `openai_responses_dialect.py`; writing is in `openai_responses_bodies.py`.
"""

from collections.abc import Mapping
from typing import TypeVar, get_args

import msgspec
from msgspec import Raw

from gateway.errors import GatewayError
from gateway.wire.conversation import (
    Effort,
    Feature,
    OutputFormat,
    Reasoning,
    Request,
    Support,
    Text,
    ToolChoice,
)
from gateway.wire.openai_responses_items import (
    NAME,
    STRING,
    Reading,
    decode,
    is_string,
    refuse,
    sent,
)

SUPPORT: Mapping[Feature, Support] = {
    "late_system": "yes",
    "message_name": "ignored",
    # A last message of the assistant's is history here, not the beginning of the answer.
    "prefill": "refused",
    "image_data": "yes",
    "image_url": "yes",
    "image_detail": "yes",
    "audio": "refused",
    "document_data": "yes",
    "document_url": "yes",
    "document_text": "yes",
    "file_id": "refused",
    "video": "refused",
    "tools": "yes",
    "custom_tools": "yes",
    "tool_grammar": "yes",
    "provider_tools": "refused",
    "offered_search": "ignored",
    "strict_tools": "yes",
    "tool_choice": "yes",
    "tool_choice_several": "yes",
    "parallel_tool_calls": "yes",
    "tool_result_image": "yes",
    "tool_result_document": "yes",
    # The text of a result says what went wrong; there is no flag beside it.
    "tool_result_error": "ignored",
    "json_object": "yes",
    "json_schema": "yes",
    "stop": "refused",
    "temperature": "yes",
    "temperature_above_1": "yes",
    "top_p": "yes",
    # Narrows what is sampled beside top_p; agents send it with every call.
    "top_k": "ignored",
    "seed": "ignored",
    "choices": "refused",
    "logprobs": "refused",
    "logit_bias": "refused",
    "frequency_penalty": "refused",
    "presence_penalty": "refused",
    "max_output_tokens": "yes",
    "reasoning": "yes",
    "thinking_history": "yes",
    "opaque_history": "refused",
    "audio_output": "refused",
    "image_output": "refused",
    "verbosity": "ignored",
    "prediction": "ignored",
    "user": "yes",
    "metadata": "yes",
    "service_tier": "ignored",
    "prompt_cache": "ignored",
    "safety_settings": "ignored",
    "store": "ignored",
    "stored_state": "refused",
    "background": "refused",
    "truncation": "ignored",
    "include": "ignored",
    "moderation": "ignored",
}
"""Towards an upstream of this format: what a caller of another one finds here."""

_READ = frozenset(
    (
        "model", "stream", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls",
        "text", "reasoning", "max_output_tokens", "temperature", "top_p", "top_logprobs",
        "metadata", "user", "safety_identifier", "store", "previous_response_id", "conversation",
        "prompt", "background", "truncation", "include", "service_tier", "moderation",
        # Of the bytes on the wire alone: padding against eavesdropping.
        "stream_options",
    )
)  # fmt: skip

_ABSENT = Raw()
_EFFORTS = frozenset(get_args(Effort))

T = TypeVar("T")


class _Choice(msgspec.Struct, gc=False):
    type: str = ""
    name: str | None = None
    mode: str | None = None
    tools: "list[_Choice]" = []


class _Reasoning(msgspec.Struct, gc=False):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class _Format(msgspec.Struct, gc=False):
    type: str = "text"
    name: str | None = None
    description: str | None = None
    schema: Raw = _ABSENT
    strict: bool | None = None


class _TextConfig(msgspec.Struct, gc=False):
    format: _Format | None = None
    verbosity: str | None = None


_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_BOOL = msgspec.json.Decoder(bool)
_INT = msgspec.json.Decoder(int)
_FLOAT = msgspec.json.Decoder(float)
_STRINGS = msgspec.json.Decoder(list[str])
_METADATA = msgspec.json.Decoder(dict[str, str])
_CHOICE = msgspec.json.Decoder(_Choice)
_REASONING = msgspec.json.Decoder(_Reasoning)
_TEXT_CONFIG = msgspec.json.Decoder(_TextConfig)


class _Fields:
    """The top-level members of a body, by name."""

    def __init__(self, body: bytes) -> None:
        try:
            self.all = _FIELDS.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise GatewayError(
                "invalid_request", "The request body must be a JSON object."
            ) from None

    def raw(self, name: str) -> Raw | None:
        found = self.all.get(name)
        return found if found is not None and sent(found) else None

    def take(self, name: str, decoder: msgspec.json.Decoder[T]) -> T | None:
        """Decode a member; None where it is absent or null."""
        found = self.raw(name)
        return None if found is None else decode(decoder, found, name)


def read_request(body: bytes, *, model: str | None, stream: bool | None) -> Request:
    """See `format.Dialect.read_request`."""
    fields = _Fields(body)
    reading = Reading()
    reading.unknown += [
        name for name in fields.all if name not in _READ and fields.raw(name) is not None
    ]
    instructions = fields.take("instructions", STRING)
    if instructions:
        reading.system.append(Text(instructions))
    reading.read_tools(fields.raw("tools"), "tools")
    _read_state(fields, reading)
    reading.read_input(fields.raw("input"))
    reading.settle_tools()  # after the input, which may add some
    output, reasoning = _read_output(fields, reading), _read_reasoning(fields, reading)
    name = model or fields.take("model", STRING)
    if not name and "stored_state" not in reading.spelled:
        raise refuse("model is required.", "model")
    include = fields.take("include", _STRINGS) or []
    top_logprobs = _read_include(include, fields.take("top_logprobs", _INT), reading)
    temperature = fields.take("temperature", _FLOAT)
    if temperature is not None:
        reading.spell("temperature", "temperature")
        if temperature > 1:
            reading.spell("temperature_above_1", "temperature")
    choice = fields.raw("tool_choice")
    user_field = "user" if fields.raw("user") else "safety_identifier"
    return Request(
        format=NAME,
        model=name or "",
        stream=fields.take("stream", _BOOL) or False if stream is None else stream,
        system=tuple(reading.system),
        messages=reading.messages(),
        tool_choice=None if choice is None else _read_choice(choice, reading),
        parallel_tool_calls=reading.noted(
            "parallel_tool_calls", fields.take("parallel_tool_calls", _BOOL), True
        ),
        output=output,
        reasoning=reasoning,
        max_output_tokens=reading.noted(
            "max_output_tokens", fields.take("max_output_tokens", _INT)
        ),
        temperature=temperature,
        top_p=reading.noted("top_p", fields.take("top_p", _FLOAT)),
        top_logprobs=top_logprobs,
        user=reading.noted("user", fields.take(user_field, STRING), field=user_field),
        metadata=reading.noted("metadata", fields.take("metadata", _METADATA), {}) or {},
        tools=tuple(reading.tools),
        spelled=reading.spelled,
        unknown=tuple(reading.unknown),
    )


def _read_state(fields: _Fields, reading: Reading) -> None:
    """Note what asks for the provider's own state, or for its ways to run a request."""
    for name in ("previous_response_id", "conversation", "prompt"):
        if fields.raw(name) is not None:
            reading.spell("stored_state", name)
    if fields.raw("input") is None and "stored_state" not in reading.spelled:
        raise refuse("input is required.", "input")
    if fields.take("store", _BOOL):
        reading.spell("store", "store")
    if fields.take("background", _BOOL):
        reading.spell("background", "background")
    if (fields.take("truncation", STRING) or "disabled") != "disabled":
        reading.spell("truncation", "truncation")
    if (fields.take("service_tier", STRING) or "auto") not in ("auto", "default"):
        reading.spell("service_tier", "service_tier")
    if fields.raw("moderation") is not None:
        reading.spell("moderation", "moderation")


def _read_include(include: list[str], top: int | None, reading: Reading) -> int | None:
    """Note what more is wanted in the answer; return how many logprobs, if any.

    Encrypted reasoning is always given where there is any.
    """
    logprobs = "message.output_text.logprobs"
    if set(include) - {logprobs, "reasoning.encrypted_content"}:
        reading.spell("include", "include")
    if not top and logprobs not in include:
        return None
    reading.spell("logprobs", "top_logprobs" if top else "include")
    return top or 0


def _read_output(fields: _Fields, reading: Reading) -> OutputFormat | None:
    config = fields.take("text", _TEXT_CONFIG)
    if config is None:
        return None
    if (config.verbosity or "medium") != "medium":
        reading.spell("verbosity", "text.verbosity")
    form = config.format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        reading.spell("json_object", "text.format")
        return OutputFormat()
    if form.type != "json_schema" or not sent(form.schema):
        raise refuse("text.format must be text, json_object or json_schema.", "text.format")
    reading.spell("json_schema", "text.format")
    return OutputFormat(bytes(form.schema), form.name, form.description, form.strict)


def _read_reasoning(fields: _Fields, reading: Reading) -> Reasoning | None:
    config = fields.take("reasoning", _REASONING)
    if config is None:
        return None
    for name, value in (("context", config.context), ("mode", config.mode)):
        if value is not None:
            reading.unknown.append(f"reasoning.{name}")
    # "max" is more than the neutral scale has; its top is the nearest there is.
    effort = "xhigh" if config.effort == "max" else config.effort
    if effort is not None and effort not in _EFFORTS:
        raise refuse(
            f"reasoning.effort must be one of {', '.join(get_args(Effort))}.", "reasoning.effort"
        )
    show = True if config.summary or config.generate_summary else None
    if effort is None and show is None:
        return None
    reading.spell("reasoning", "reasoning")
    return Reasoning(effort=effort, show=show)  # type: ignore[arg-type]


def _read_choice(raw: Raw, reading: Reading) -> ToolChoice | None:
    if is_string(raw):
        mode = decode(STRING, raw, "tool_choice")
        if mode not in ("auto", "none", "required"):
            raise refuse("tool_choice must be auto, none, required or an object.", "tool_choice")
        if mode != "auto":
            reading.spell("tool_choice", "tool_choice")
        return ToolChoice(mode)  # type: ignore[arg-type]
    choice = decode(_CHOICE, raw, "tool_choice")
    if choice.type in ("function", "custom") and choice.name:
        reading.spell("tool_choice", "tool_choice")
        return ToolChoice("required", (choice.name,))
    names = tuple(one.name for one in choice.tools if one.name)
    if choice.type == "allowed_tools" and len(names) == len(choice.tools):
        reading.spell("tool_choice_several", "tool_choice")
        return ToolChoice("required" if choice.mode == "required" else "auto", names)
    reading.spell("provider_tools", "tool_choice")
    return None
