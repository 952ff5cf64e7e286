"""Reading Gemini requests: checks that answer as the real API does, and the prompt.

Shared by generating and counting, so that the two agree. Field names are taken in camel case and in
snake case, as Google's JSON reading does; an unknown top-level name is a 400, as it is there.
Raises `Refusal`. Used by `gemini.py`.
"""

import re
from typing import Any

import msgspec
import orjson

from gateway.demo import tokens
from gateway.demo.answer import Ask, Choice, Tool, ToolResult
from gateway.demo.reply import Refusal
from gateway.demo.switches import Switches

MEDIA_TOKENS = 258
THINKING_TOKENS = 48
"""What a demo model thinks where thinking is on; a budget may ask for less."""

Body = dict[str, Any]

_LEVEL_TOKENS = {"MINIMAL": 8, "LOW": 16, "MEDIUM": 32, "HIGH": THINKING_TOKENS}

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


class _Prompt(msgspec.Struct):
    pieces: list[str] = []
    media: int = 0
    user_text: str = ""
    results: list[ToolResult] = []


def invalid(message: str, field: str | None = None) -> Refusal:
    """A 400 INVALID_ARGUMENT, with the field's violation where one is named."""
    details = None
    if field is not None:
        violation = {"field": field, "description": message}
        kind = "type.googleapis.com/google.rpc.BadRequest"
        details = [{"@type": kind, "fieldViolations": [violation]}]
    return Refusal(400, message, details=details)


def camel(body: Body) -> Body:
    """The same object with its own keys in camel case; values are left alone."""
    return {re.sub(r"_([a-z])", lambda hit: hit[1].upper(), key): body[key] for key in body}


def section(body: Body, name: str) -> Body:
    """An object field, its keys in camel case; empty where absent or null."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"Invalid value at '{name}': an object is expected.", name)
    return camel(value)


def read(body: Body, switches: Switches) -> Reading:
    """Check a generate request and read what the answer depends on."""
    body = camel(body)
    for name in body:
        if name not in _REQUEST_FIELDS:
            message = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
            raise invalid(message, name)
    prompt = _Prompt()
    system = body.get("systemInstruction")
    if system is not None:
        _read_content({"role": "system", **_as_content(system)}, "systemInstruction", prompt)
    tools = _read_tools(body, prompt)
    contents = body.get("contents")
    if not contents:
        message = "* GenerateContentRequest.contents: contents is not specified\n"
        raise invalid(message)
    for index, content in enumerate(contents if isinstance(contents, list) else [contents]):
        _read_content(_as_content(content), f"contents[{index}]", prompt)
    config = section(body, "generationConfig")
    choice, only = _read_choice(body)
    thinking, show = _read_thinking(config)
    schema, json_object = _read_format(config)
    _check_sampling(config)
    ask = Ask(
        prompt=tuple(prompt.pieces),
        user_text=prompt.user_text,
        results=tuple(prompt.results),
        tools=tuple(tools),
        choice=choice,
        only=only,
        schema=schema,
        json_object=json_object,
        stop=_read_stops(config),
        max_tokens=_whole(config, "maxOutputTokens", 1, 1 << 31),
        thinking_tokens=thinking,
        length=switches.tokens,
        seed=str(config.get("seed", "")),
    )
    candidates = _whole(config, "candidateCount", 1, 8) or 1
    return Reading(ask, candidates, show, len(prompt.pieces) - prompt.media, prompt.media)


def content_text(content: Any) -> str:
    """The text of a content object's parts; for embeddings."""
    prompt = _Prompt()
    return _read_content(_as_content(content), "content", prompt)


def _as_content(content: Any) -> Body:
    if isinstance(content, str):
        return {"parts": [{"text": content}]}
    if not isinstance(content, dict):
        raise invalid("Invalid value at 'contents': an object is expected.", "contents")
    return camel(content)


def _read_content(content: Body, path: str, prompt: _Prompt) -> str:
    role = content.get("role") or "user"
    if role not in ("user", "model", "function", "system"):
        raise invalid("Please use a valid role: user, model.", f"{path}.role")
    parts = content.get("parts")
    parts = parts if isinstance(parts, list) else [parts]
    if parts in ([], [None]):
        raise invalid(f"* GenerateContentRequest.{path}.parts: contents.parts must not be empty.\n")
    prompt.pieces.append(f"<{role}>")
    texts = []
    results = []
    for index, part in enumerate(parts):
        where = f"{path}.parts[{index}]"
        if not isinstance(part, dict):
            raise invalid(f"Invalid value at '{where}': an object is expected.", where)
        text, result = _read_part(camel(part), where, prompt)
        texts += [text] if text else []
        results += [result] if result is not None else []
    if role != "system":
        prompt.results = results
        if role == "user" and not results:
            prompt.user_text = "\n".join(texts)
    return "\n".join(texts)


def _read_part(part: Body, where: str, prompt: _Prompt) -> tuple[str, ToolResult | None]:
    if "text" in part:
        if not isinstance(part["text"], str):
            raise invalid(f"Invalid value at '{where}.text' (TYPE_STRING)", f"{where}.text")
        prompt.pieces += tokens.split(part["text"])
        return part["text"], None
    for name in ("inlineData", "fileData"):
        if name in part:
            payload = orjson.dumps(part[name]).decode()
            prompt.pieces += tokens.media_tokens(payload, MEDIA_TOKENS)
            prompt.media += MEDIA_TOKENS
            return "", None
    if "functionResponse" in part:
        given = section(part, "functionResponse")
        if not isinstance(given.get("response", {}), dict):
            field = f"{where}.function_response.response"
            raise invalid(f"Invalid value at '{field}': an object is expected.", field)
        text = orjson.dumps(given.get("response", {})).decode()
        prompt.pieces += ["<result>", *tokens.split(text)]
        return "", ToolResult(str(given.get("name", "")), text)
    known = ("functionCall", "executableCode", "codeExecutionResult", "thoughtSignature")
    if not any(name in part for name in known):
        message = f"* GenerateContentRequest.{where}.data: required oneof field 'data' must have "
        raise invalid(f"{message}one initialized field\n")
    prompt.pieces += tokens.split(orjson.dumps(part).decode())
    return "", None


def _read_tools(body: Body, prompt: _Prompt) -> list[Tool]:
    tools = []
    given = body.get("tools") or []
    for entry in given if isinstance(given, list) else [given]:
        if not isinstance(entry, dict):
            raise invalid("Invalid value at 'tools': an object is expected.", "tools")
        # Tools that the provider runs itself are accepted and never used.
        for given_function in _items(camel(entry), "functionDeclarations"):
            function = camel(given_function) if isinstance(given_function, dict) else {}
            if not isinstance(function.get("name"), str):
                field = "tools[0].function_declarations[0].name"
                raise invalid(f"* GenerateContentRequest.{field}: Invalid function name.\n")
            schema = function.get("parametersJsonSchema") or function.get("parameters")
            tools.append(Tool(function["name"], schema or {"type": "object"}))
            prompt.pieces += tokens.split(orjson.dumps(function).decode())
    return tools


def _read_choice(body: Body) -> tuple[Choice, tuple[str, ...]]:
    config = section(section(body, "toolConfig"), "functionCallingConfig")
    mode = str(config.get("mode") or "AUTO")
    modes: dict[str, Choice] = {
        "MODE_UNSPECIFIED": "auto", "AUTO": "auto", "VALIDATED": "auto",
        "ANY": "required", "NONE": "none",
    }  # fmt: skip
    if mode not in modes:
        field = "tool_config.function_calling_config.mode"
        raise invalid(f"Invalid value at '{field}' (TYPE_ENUM), \"{mode}\"", field)
    return modes[mode], tuple(str(name) for name in _items(config, "allowedFunctionNames"))


def _read_thinking(config: Body) -> tuple[int, bool]:
    if config.get("thinkingConfig") is None:
        return 0, False
    thinking = section(config, "thinkingConfig")
    wanted = _LEVEL_TOKENS.get(str(thinking.get("thinkingLevel", "")).upper(), THINKING_TOKENS)
    budget = thinking.get("thinkingBudget")
    if isinstance(budget, int) and budget >= 0:
        wanted = min(wanted, budget)
    return wanted, bool(thinking.get("includeThoughts"))


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


def _items(holder: Body, name: str) -> list[Any]:
    value = holder.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(f"Invalid value at '{name}': a list is expected.", name)
    return value


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
