"""Reading Gemini requests: checks that answer as the real API does, and the prompt.

Shared by generating and counting, so that the two agree. Field names are taken in camel case and in
snake case, as Google's JSON reading does; an unknown top-level name is a 400, as it is there.
Raises `Refusal`. Used by `gemini.py`.
"""

from typing import Any

import msgspec

from gateway.demo.answer import Ask, Choice
from gateway.demo.gemini_names import check_names, invalid, thinking_tokens, unknown_name
from gateway.demo.gemini_parts import (
    Body,
    Prompt,
    as_content,
    camel,
    items,
    read_content,
    read_contents,
    read_tools,
    section,
)
from gateway.demo.strictness import gemini_schema, unsound
from gateway.demo.switches import Switches

_REQUEST_FIELDS = frozenset(
    {
        "model", "contents", "tools", "toolConfig", "safetySettings", "systemInstruction",
        "generationConfig", "cachedContent", "serviceTier", "store", "labels",
    }
)  # fmt: skip


class Reading(msgspec.Struct):
    """A request read: the question, the number of candidates, whether thoughts are shown."""

    ask: Ask
    candidates: int
    show_thoughts: bool
    text_tokens: int
    media_tokens: int


def read(body: Body, model: str, switches: Switches) -> Reading:
    """Check a generate request and read what the answer depends on."""
    body = camel(body)
    for name in body:
        if name not in _REQUEST_FIELDS:
            raise unknown_name(name, "")
    prompt = Prompt()
    system = body.get("systemInstruction")
    if system is not None:
        content = {**as_content(system), "role": "system"}
        read_content(content, "system_instruction", prompt)
    tools = read_tools(body, prompt)
    contents = body.get("contents")
    if not contents:
        message = "* GenerateContentRequest.contents: contents is not specified\n"
        raise invalid(message)
    read_contents(contents if isinstance(contents, list) else [contents], model, prompt)
    config = section(body, "generationConfig")
    check_names(config, "generation_config", "generation_config")
    choice, only = _read_choice(body)
    thinking = None
    if config.get("thinkingConfig") is not None:
        thinking = section(config, "thinkingConfig")
    schema, json_object = _read_format(config)
    _check_sampling(config)
    ask = Ask(
        prompt=tuple(prompt.pieces),
        user_text=prompt.user_text,
        results=tuple(prompt.results),
        seen=tuple(prompt.seen),
        recalls=prompt.recalls,
        tools=tuple(tools),
        choice=choice,
        only=only,
        schema=schema,
        json_object=json_object,
        stop=_read_stops(config),
        max_tokens=_whole(config, "maxOutputTokens", 1, 1 << 31),
        thinking_tokens=thinking_tokens(model, thinking),
        length=switches.tokens,
        seed=str(config.get("seed", "")),
    )
    candidates = _whole(config, "candidateCount", 1, 8) or 1
    shown = thinking is not None and thinking.get("includeThoughts") is True
    return Reading(ask, candidates, shown, len(prompt.pieces) - prompt.media, prompt.media)


def _read_choice(body: Body) -> tuple[Choice, tuple[str, ...]]:
    config = section(section(body, "toolConfig"), "functionCallingConfig")
    field = "tool_config.function_calling_config"
    check_names(config, "function_calling_config", field)
    mode = str(config.get("mode") or "AUTO")
    modes: dict[str, Choice] = {
        "MODE_UNSPECIFIED": "auto", "AUTO": "auto", "VALIDATED": "auto",
        "ANY": "required", "NONE": "none",
    }  # fmt: skip
    if mode not in modes:
        field += ".mode"
        raise invalid(f"Invalid value at '{field}' (TYPE_ENUM), \"{mode}\"", field)
    names = tuple(str(name) for name in items(config, "allowedFunctionNames"))
    if names and mode not in ("ANY", "VALIDATED"):
        message = "Function calling mode must be ANY or VALIDATED to set allowed_function_names."
        raise invalid(message, f"{field}.allowed_function_names")
    return modes[mode], names


def _read_format(config: Body) -> tuple[dict[str, Any] | None, bool]:
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    kind = config.get("responseMimeType")
    if schema is None:
        return None, kind == "application/json"
    if kind != "application/json":
        message = "* GenerateContentRequest.generation_config.response_schema: only allowed when "
        raise invalid(f"{message}response_mime_type is application/json\n")
    if not isinstance(schema, dict):
        field = "generation_config.response_schema"
        raise invalid(f"Invalid value at '{field}': an object is expected.", field)
    if config.get("responseJsonSchema"):
        wrong = unsound(schema)
        if wrong is not None:
            raise invalid(f"Invalid JSON schema in response_json_schema: {wrong}")
        return schema, False
    name = gemini_schema(schema)
    if name is not None:
        raise unknown_name(name, "generation_config.response_schema")
    return schema, False


def _check_sampling(config: Body) -> None:
    for name, high in (("temperature", 2.0), ("topP", 1.0)):
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            field = f"generation_config.{name}"
            raise invalid(f"Invalid value at '{field}' (TYPE_FLOAT), \"{value}\"", field)
        if not 0 <= value <= high:
            message = f"* GenerateContentRequest.generation_config.{name}: {name} must be in the "
            raise invalid(f"{message}range [0.0, {high}].\n")


def _read_stops(config: Body) -> tuple[str, ...]:
    stops = config.get("stopSequences") or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        field = "generation_config.stop_sequences"
        raise invalid(f"Invalid value at '{field}' (TYPE_STRING)", field)
    if len(stops) > 5:
        message = "* GenerateContentRequest.generation_config.stop_sequences: at most 5 allowed\n"
        raise invalid(message)
    return tuple(stops)


def _whole(config: Body, name: str, low: int, high: int) -> int | None:
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        field = f"generation_config.{name}"
        raise invalid(f"Invalid value at '{field}' (TYPE_INT32), \"{value}\"", field)
    if not low <= value <= high:
        message = f"* GenerateContentRequest.generation_config.{name}: must be from {low} to {high}"
        raise invalid(f"{message}.\n")
    return value
