"""Gemini generateContent requests, read; and what the format has a place for.

Function calls often have no ids: they get one by their place in the history, and results find
theirs by name and order. A result's `{"output": text}` and `{"error": text}` (Google's words for
what a function returned) are that text; any other `response` is kept as JSON text. Pure; writing
is `gemini_outgoing.py`. Source: ai.google.dev API reference, "generateContent", "Function calling"
(November 2026), and recorded traffic.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from gateway.wire import gemini_bodies as bodies
from gateway.wire import gemini_parts as parts
from gateway.wire.call_ids import made
from gateway.wire.conversation import (
    Block,
    Document,
    Effort,
    Feature,
    Message,
    Opaque,
    OutputFormat,
    Reasoning,
    Request,
    Role,
    Support,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.wire.gemini_bodies import refuse
from gateway.wire.gemini_parts import FORMAT
from gateway.wire.gemini_schemas import to_json_schema
from gateway.wire.searches import Searches

SUPPORT: Mapping[Feature, Support] = {
    "late_system": "yes",  # a user turn, marked
    "message_name": "ignored",
    "prefill": "refused",  # a last turn of the model's is history, not a beginning
    "image_data": "yes",
    "image_url": "yes",  # Google fetches it
    "image_detail": "ignored",
    "audio": "yes",
    "document_data": "yes",
    "document_url": "yes",
    "document_text": "yes",
    "file_id": "refused",
    "video": "refused",  # nobody else's requests hold any
    "tools": "yes",
    "custom_tools": "yes",  # a function with one argument
    "tool_grammar": "ignored",
    "provider_tools": "refused",
    "offered_search": "ignored",
    "strict_tools": "ignored",
    "tool_choice": "yes",
    "tool_choice_several": "yes",
    "parallel_tool_calls": "ignored",  # no switch; who asks for one call gets several
    "tool_result_image": "yes",
    "tool_result_document": "yes",
    "tool_result_error": "yes",
    "json_object": "yes",
    "json_schema": "yes",
    "stop": "yes",
    "temperature": "yes",
    "temperature_above_1": "yes",
    "top_p": "yes",
    "top_k": "yes",
    "seed": "yes",
    "choices": "yes",
    "logprobs": "refused",  # an answer's have another shape
    "logit_bias": "refused",
    "frequency_penalty": "yes",
    "presence_penalty": "yes",
    "max_output_tokens": "yes",
    "reasoning": "yes",
    "thinking_history": "yes",  # what Gemini issued; the writer tells of any other
    "opaque_history": "refused",
    "audio_output": "refused",
    "image_output": "yes",
    "verbosity": "ignored",
    "prediction": "ignored",
    "user": "ignored",
    "metadata": "ignored",
    "service_tier": "ignored",
    "prompt_cache": "ignored",  # caching is implicit
    "safety_settings": "ignored",
    "store": "ignored",
    "stored_state": "refused",
    "background": "refused",
    "truncation": "ignored",
    "include": "ignored",
    "moderation": "refused",
}

_ROLES: dict[str | None, Role] = {
    None: "user", "": "user", "user": "user", "function": "user", "model": "assistant",
}  # fmt: skip
_EFFORTS: dict[str, Effort] = {
    "MINIMAL": "minimal", "LOW": "low", "MEDIUM": "medium", "HIGH": "high", "XHIGH": "xhigh",
}  # fmt: skip
_SAID: dict[str, bool] = {"output": False, "error": True}
_JSON_TYPE = "application/json"
_SEARCHES = frozenset(("googleSearch", "googleSearchRetrieval", "urlContext"))
"""Tools that Google runs to find something for the model."""

_TEXTS = msgspec.json.Decoder(dict[str, str])

_SAMPLING: tuple[tuple[str, Feature, str], ...] = (
    ("temperature", "temperature", "temperature"),
    ("top_p", "top_p", "topP"),
    ("top_k", "top_k", "topK"),
    ("max_output_tokens", "max_output_tokens", "maxOutputTokens"),
    ("presence_penalty", "presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequency_penalty", "frequencyPenalty"),
    ("seed", "seed", "seed"),
)
"""Fields that mean the same in the neutral model, under these names."""


def read_request(body: bytes, *, model: str | None, stream: bool | None) -> Request:
    """Read a generateContent body; see `format.Dialect.read_request`.

    The path names the model (a `model` in the body is that of countTokens' inner request).
    """
    return request_of(bodies.decode(body), model=model, stream=bool(stream))


def request_of(read: bodies.Read, *, model: str | None, stream: bool) -> Request:
    """The request that a decoded body is. Raises as `read_request` does."""
    try:
        return _RequestReader(read).request(model, stream)
    except RecursionError:
        raise refuse("The request body is nested too deep.") from None


def given(raw: Raw) -> bool:
    """Tell whether a field was sent, and not as null."""
    return bool(raw) and bytes(raw) != b"null"


class _RequestReader:
    """Reads one request: its features as they come up, and the calls that wait for a result."""

    def __init__(self, read: bodies.Read) -> None:
        self._read = read
        self._body = read.body
        self._spelled: dict[Feature, str] = {}
        self._unknown = list(read.unknown)
        self._calls = 0
        self._waiting: dict[str, list[str]] = {}

    def _note(self, feature: Feature, path: str) -> None:
        if feature not in self._spelled:
            self._spelled[feature] = self._read.spelling(path)

    def request(self, model: str | None, stream: bool) -> Request:
        body = self._body
        name = model or (body.model or "").removeprefix("models/")
        if not name:
            raise refuse("model is missing.", "model")
        if not body.contents:
            raise refuse("contents is not specified.", "contents")
        system = body.system_instruction
        self._top()
        return Request(
            format=FORMAT,
            model=name,
            stream=stream,
            system=self._blocks(system, "systemInstruction") if system is not None else (),
            messages=self._messages(body.contents),
            tools=self._tools(),
            tool_choice=self._choice(),
            metadata=body.labels or {},
            **self._generation(body.generation_config),
            spelled=self._spelled,
            unknown=tuple(self._unknown),
        )

    def _top(self) -> None:
        body = self._body
        if body.safety_settings:
            self._note("safety_settings", "safetySettings")
        if body.cached_content:
            self._note("stored_state", "cachedContent")
        if body.labels:
            self._note("metadata", "labels")
        if given(body.service_tier):
            self._note("service_tier", "serviceTier")
        if given(body.store):
            self._note("store", "store")

    # What was said.

    def _messages(self, contents: list[bodies.Content]) -> tuple[Message, ...]:
        out = []
        for content in contents:
            role = _ROLES.get(content.role)
            if role is None:
                message = f"contents.role: {content.role!r} is neither 'user' nor 'model'."
                raise refuse(message, "contents.role")
            if blocks := self._blocks(content, "contents"):
                out.append(Message(role, blocks))
        if out and out[-1].role == "assistant":
            self._note("prefill", "contents")
        return tuple(out)

    def _blocks(self, content: bodies.Content, path: str) -> tuple[Block, ...]:
        returned: list[bodies.FunctionResponse] = []
        out = []
        for part in content.parts or ():
            result = part.function_response
            if result is not None and result.id:
                if result in returned:
                    continue  # Gemini CLI says a result twice when it resumes; others refuse that
                returned.append(result)
            out.append(self._block(part, path + ".parts"))
        return tuple(out)

    def _block(self, part: bodies.Part, path: str) -> Block:
        if part.text is not None:
            return self._text(part, path)
        if part.function_call is not None:
            return self._call(part.function_call, part.thought_signature, path)
        if part.function_response is not None:
            return self._result(part.function_response, path)
        if given(part.media_resolution):
            self._note("image_detail", path + ".mediaResolution")
        block = self._media(part.inline_data, part.file_data, path)
        return block if block is not None else self._opaque(part, path)

    def _text(self, part: bodies.Part, path: str) -> Block:
        block = parts.text_block(
            part.text or "", part.thought_signature, thought=bool(part.thought)
        )
        if isinstance(block, Thinking):
            self._note("thinking_history", path + ".thought")
        elif block.signature is not None:
            self._note("thinking_history", path + ".thoughtSignature")
        return block

    def _media(
        self, inline: bodies.Blob | None, linked: bodies.FileData | None, path: str
    ) -> Block | None:
        if inline is not None and inline.data is not None and inline.mime_type:
            block = parts.inline_block(inline.mime_type, inline.data)
            self._note(_media_feature(block, inline.mime_type, "data"), path + ".inlineData")
            return block
        if linked is not None and linked.file_uri:
            block = parts.linked_block(linked.file_uri, linked.mime_type)
            self._note(_media_feature(block, linked.mime_type or "", "url"), path + ".fileData")
            return block
        return None

    def _opaque(self, part: bodies.Part, path: str) -> Opaque:
        if part.unread:
            spelled, kind = bytes(part.unread), ""
        else:
            spelled = msgspec.json.encode(part)
            found = (name for name in part.__struct_fields__ if getattr(part, name))
            kind = bodies.camel(next(found, ""))
        if kind not in ("inlineData", "fileData"):
            self._note("opaque_history", f"{path}.{kind}".rstrip("."))
        return Opaque(FORMAT, spelled, kind)

    def _call(self, call: bodies.FunctionCall, signed: str | None, path: str) -> ToolCall:
        self._calls += 1
        call_id = call.id or made("history", self._calls)
        self._waiting.setdefault(call.name, []).append(call_id)
        found = parts.read_signature(signed)
        if found is not None:
            self._note("thinking_history", path + ".thoughtSignature")
        arguments = parts.call_arguments(call.args)
        return ToolCall(call_id, call.name, arguments, signature=found[0] if found else None)

    def _result(self, result: bodies.FunctionResponse, path: str) -> ToolResult:
        waiting = self._waiting.get(result.name, [])
        if result.id and (result.id in waiting or not waiting):
            call_id = result.id
        elif waiting:
            call_id = waiting[0]
        else:
            self._calls += 1
            call_id = made("result", self._calls)
        if call_id in waiting:
            waiting.remove(call_id)
        content, is_error = _returned(result.response)
        if is_error:
            self._note("tool_result_error", path + ".functionResponse.response.error")
        for name in ("will_continue", "scheduling"):
            if given(getattr(result, name)):
                self._unknown.append(f"{path}.functionResponse.{bodies.camel(name)}")
        media = [self._result_part(one, path) for one in result.parts or ()]
        return ToolResult(call_id, (*content, *media), result.name, is_error)

    def _result_part(self, part: bodies.ResultPart, path: str) -> Block:
        path += ".functionResponse.parts"
        block = self._media(part.inline_data, part.file_data, path)
        if block is None:
            self._note("opaque_history", path)
            return Opaque(FORMAT, msgspec.json.encode(part), "functionResponse.parts")
        document = isinstance(block, Document)
        self._note("tool_result_document" if document else "tool_result_image", path)
        return block

    # Tools.

    def _tools(self) -> tuple[Tool, ...]:
        out: list[Tool] = []
        searches = Searches()
        for entry in self._body.tools or ():
            for key, raw in entry.items():
                name = bodies.camel(key)
                if not given(raw):
                    continue
                if name == "functionDeclarations":
                    out += self._functions(raw, f"tools.{key}")
                else:
                    search = name in _SEARCHES
                    if search:
                        searches.note(name, f"tools.{key}")
                    else:
                        self._note("provider_tools", f"tools.{key}")
                    opaque = Opaque(FORMAT, msgspec.json.encode({key: raw}), name)
                    out.append(Tool(name, opaque=opaque, search=search))
        found = searches.feature(out)
        if found is not None:
            self._note(*found)
        return tuple(out)

    def _functions(self, raw: Raw, path: str) -> list[Tool]:
        found, unknown = bodies.declarations(raw, path)
        self._unknown += unknown
        if found:
            self._note("tools", path)
        return [self._function(one, path) for one in found]

    def _function(self, one: bodies.FunctionDeclaration, path: str) -> Tool:
        schema = None
        if given(one.parameters_json_schema):
            schema = bytes(one.parameters_json_schema)
        elif given(one.parameters):
            schema = to_json_schema(one.parameters, path + ".parameters")
        for name in ("response", "response_json_schema", "behavior"):
            if getattr(one, name):
                field = f"{path}.{bodies.camel(name)}"
                if field not in self._unknown:
                    self._unknown.append(field)
        return Tool(one.name, one.description, schema)

    def _choice(self) -> ToolChoice | None:
        config = self._body.tool_config
        calling = config.function_calling_config if config is not None else None
        if calling is None:
            return None
        path = "toolConfig.functionCallingConfig"
        mode = (calling.mode or "AUTO").upper()
        names = tuple(calling.allowed_function_names or ())
        self._note("tool_choice", path)
        if names and (len(names) > 1 or mode != "ANY"):
            self._note("tool_choice_several", path + ".allowedFunctionNames")
        if mode in ("AUTO", "VALIDATED", "MODE_UNSPECIFIED"):
            return ToolChoice("auto", names)
        if mode == "ANY":
            return ToolChoice("required", names)
        if mode == "NONE":
            return ToolChoice("none")
        raise refuse(f"{path}.mode: {calling.mode!r} is no mode.", path + ".mode")

    # Generation.

    def _generation(self, config: bodies.GenerationConfig | None) -> dict[str, Any]:
        if config is None:
            return {}
        path = "generationConfig."
        out: dict[str, Any] = {}
        for name, feature, spelled in _SAMPLING:
            value = getattr(config, name)
            if value is not None:
                out[name] = value
                self._note(feature, path + spelled)
        if config.temperature is not None and config.temperature > 1:
            self._note("temperature_above_1", path + "temperature")
        if config.stop_sequences:
            out["stop"] = tuple(config.stop_sequences)
            self._note("stop", path + "stopSequences")
        if config.candidate_count is not None and config.candidate_count != 1:
            out["choices"] = _positive(config.candidate_count, path + "candidateCount")
            self._note("choices", path + "candidateCount")
        if config.response_logprobs or config.logprobs:
            out["top_logprobs"] = config.logprobs or 0
            self._note("logprobs", path + "responseLogprobs")
        out["output"] = self._output(config)
        out["reasoning"] = self._reasoning(config.thinking_config)
        self._kinds(config)
        return out

    def _output(self, config: bodies.GenerationConfig) -> OutputFormat | None:
        path = "generationConfig."
        media_type = config.response_mime_type
        schema = None
        if media_type not in (None, "", "text/plain", _JSON_TYPE):
            self._unknown.append(path + "responseMimeType")
        if given(config.response_json_schema):
            schema = bytes(config.response_json_schema)
            path += "responseJsonSchema"
        elif given(config.response_schema):
            path += "responseSchema"
            schema = to_json_schema(config.response_schema, path)
        elif media_type != _JSON_TYPE:
            return None
        else:
            path += "responseMimeType"
        self._note("json_object" if schema is None else "json_schema", path)
        return OutputFormat(schema)

    def _reasoning(self, config: bodies.ThinkingConfig | None) -> Reasoning | None:
        if config is None or config == bodies.ThinkingConfig():
            return None
        path = "generationConfig.thinkingConfig"
        level = (config.thinking_level or "").upper()
        effort = _EFFORTS.get(level)
        if level and effort is None and level != "THINKING_LEVEL_UNSPECIFIED":
            message = f"{path}.thinkingLevel: {config.thinking_level!r} is no level."
            raise refuse(message, path + ".thinkingLevel")
        self._note("reasoning", path)
        return Reasoning(effort, config.thinking_budget, config.include_thoughts)

    def _kinds(self, config: bodies.GenerationConfig) -> None:
        path = "generationConfig."
        for modality in config.response_modalities or ():
            if modality.upper() == "IMAGE":
                self._note("image_output", path + "responseModalities")
            elif modality.upper() == "AUDIO":
                self._note("audio_output", path + "responseModalities")
            elif modality.upper() not in ("TEXT", "MODALITY_UNSPECIFIED"):
                raise refuse(f"{modality!r} is no modality.", path + "responseModalities")
        if given(config.speech_config):
            self._note("audio_output", path + "speechConfig")
        if given(config.image_config):
            self._unknown.append(self._read.spelling(path + "imageConfig"))
        if given(config.media_resolution):
            self._note("image_detail", path + "mediaResolution")


def _media_feature(block: Block | None, media_type: str, how: str) -> Feature:
    if block is None:
        return "video" if media_type.startswith("video/") else "file_id"
    if isinstance(block, Document):
        if block.text is not None:
            return "document_text"
        return "document_data" if how == "data" else "document_url"
    if media_type.startswith("audio/"):
        return "audio"
    return "image_data" if how == "data" else "image_url"


def _returned(response: Raw) -> tuple[tuple[Block, ...], bool]:
    """What a function returned, and whether it is an error."""
    if not given(response) or bytes(response) == b"{}":
        return (), False
    try:
        said = _TEXTS.decode(response)
    except (msgspec.DecodeError, RecursionError):
        said = {}
    key = next(iter(said)) if len(said) == 1 else ""
    if key in _SAID:
        return (Text(said[key]),), _SAID[key]
    return (Text(bytes(response).decode()),), False


def _positive(value: int, path: str) -> int:
    if value < 1:
        raise refuse(f"{path} must be 1 or more.", path)
    return value
