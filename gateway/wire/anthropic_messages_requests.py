"""Anthropic Messages: requests read, and `SUPPORT`: what has a place here of all that is asked for.

Reading is strict: what is not shaped as documented is the caller's mistake, a field that is not
documented is named in `Request.unknown`. A count_tokens body is the same request without
`max_tokens`. Requests are written by `anthropic_messages_bodies.py`. Shapes: docs.anthropic.com,
"Messages", "Count tokens" (November 2026), anthropic 2.11, and recorded traffic. Used by the
dialect.
"""

import re
from typing import Annotated

import msgspec

from gateway.errors import GatewayError
from gateway.wire.anthropic_messages_blocks import (
    FORMAT,
    CacheControl,
    content,
    replace,
)
from gateway.wire.conversation import (
    Block,
    Document,
    Feature,
    Image,
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
    ToolChoice,
    ToolResult,
)
from gateway.wire.searches import Searches

SUPPORT: dict[Feature, Support] = {
    "late_system": "yes",
    "message_name": "ignored",
    "prefill": "yes",
    "image_data": "yes",
    "image_url": "yes",
    "image_detail": "ignored",
    "audio": "refused",
    "document_data": "yes",
    "document_url": "yes",
    "document_text": "yes",
    "file_id": "refused",
    "video": "refused",
    "tools": "yes",
    # A function with one argument; the grammar stands in its description, and binds nobody.
    "custom_tools": "yes",
    "tool_grammar": "ignored",
    "provider_tools": "refused",
    "offered_search": "ignored",
    "strict_tools": "yes",
    "tool_choice": "yes",
    "tool_choice_several": "yes",
    "parallel_tool_calls": "yes",
    "tool_result_image": "yes",
    "tool_result_document": "yes",
    "tool_result_error": "yes",
    "json_object": "refused",
    "json_schema": "yes",
    "stop": "yes",
    "temperature": "yes",
    "temperature_above_1": "refused",
    "top_p": "yes",
    "top_k": "yes",
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
    "metadata": "ignored",
    "service_tier": "ignored",
    "prompt_cache": "yes",
    "safety_settings": "ignored",
    "store": "ignored",
    "stored_state": "refused",
    "background": "refused",
    "truncation": "ignored",
    "include": "ignored",
    "moderation": "refused",
}


class _Turn(msgspec.Struct, frozen=True):
    role: Role
    content: msgspec.Raw


class _Choice(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thought(msgspec.Struct, frozen=True):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class _Format(msgspec.Struct, frozen=True):
    type: str
    schema: msgspec.Raw


class _Output(msgspec.Struct, frozen=True):
    effort: str | None = None
    format: _Format | None = None
    task_budget: msgspec.Raw = msgspec.Raw()


class _Metadata(msgspec.Struct, frozen=True):
    user_id: str | None = None


class _Body(msgspec.Struct, frozen=True):
    messages: list[_Turn]
    model: str | None = None
    system: msgspec.Raw = msgspec.Raw()
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: _Choice | None = None
    thinking: _Thought | None = None
    output_config: _Output | None = None
    output_format: _Format | None = None
    metadata: _Metadata | None = None
    cache_control: CacheControl | None = None


class _Strict(_Body, frozen=True, forbid_unknown_fields=True):
    """A body whose members are all known."""


class _Tool(msgspec.Struct, frozen=True):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    cache_control: CacheControl | None = None


_BODY = msgspec.json.Decoder(_Body)
_STRICT = msgspec.json.Decoder(_Strict)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TOOL = msgspec.json.Decoder(_Tool)
_WHERE = re.compile(r" - at `\$\.?([^`]*)`$")

_SEARCHES = ("web_search_", "web_fetch_", "tool_search_tool_")
"""How the types of tools begin that Anthropic runs to find something for the model."""

_HINTS: dict[str, Feature] = {
    "service_tier": "service_tier",
    "speed": "service_tier",
    "mcp_servers": "provider_tools",
    "container": "provider_tools",
    "thread": "stored_state",
    "compaction": "provider_tools",
}
"""Fields that are a feature by being there."""


class _Reading:
    """What comes up while a request is read."""

    def __init__(self) -> None:
        self.spelled: dict[Feature, str] = {}
        self.left_out: list[str] = []
        self.searches = Searches()

    def note(self, feature: Feature, field: str) -> None:
        """Keep the first field that asks for a feature."""
        self.spelled.setdefault(feature, field)


def read_request(body: bytes, *, model: str | None = None, stream: bool | None = None) -> Request:
    """Read a request; `model` and `stream` stand in where the body does not say them.

    Raises `GatewayError` `invalid_request` with the field at fault as `param`.
    """
    found, fields = _decoded(body)
    reading = _Reading()
    system, messages = _conversation(found, reading)
    tools = tuple(_tool(raw, at, reading) for at, raw in enumerate(found.tools or ()))
    if tools:
        reading.note("tools", "tools")
    searches = reading.searches.feature(tools)
    if searches is not None:
        reading.note(*searches)
    if b'"cache_control"' in body:
        reading.note("prompt_cache", "cache_control")
    _note_fields(found, fields, reading)
    known = _Body.__struct_fields__
    unknown = [key for key in fields if key not in known and key not in _HINTS]
    return Request(
        format=FORMAT,
        model=found.model or model or "",
        stream=found.stream if found.stream is not None else bool(stream),
        system=system,
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(found.tool_choice, tools, reading),
        parallel_tool_calls=_parallel(found.tool_choice, reading),
        output=_output_format(found, reading),
        reasoning=_reasoning(found, reading),
        max_output_tokens=found.max_tokens,
        temperature=found.temperature,
        top_p=found.top_p,
        top_k=found.top_k,
        stop=tuple(found.stop_sequences or ()),
        user=found.metadata.user_id if found.metadata else None,
        spelled=reading.spelled,
        unknown=tuple(dict.fromkeys([*unknown, *reading.left_out])),
    )


def _decoded(body: bytes) -> tuple[_Body, dict[str, msgspec.Raw]]:
    """The body, and all its members where there are any but the known ones."""
    try:
        return _STRICT.decode(body), {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        fields = _FIELDS.decode(body)
        return _BODY.decode(body), fields
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _invalid(exc, "") from None


def _invalid(exc: Exception, inside: str) -> GatewayError:
    """The refusal for what a decoder did not take; `inside` is the field that it decoded."""
    text = str(exc)
    match = _WHERE.search(text)
    path = match[1] if match else ""
    param = f"{inside}.{path}".strip(".") if inside else path
    reason = text[: match.start()] if match else text
    message = f"{param}: {reason}" if param else f"The request body is not valid: {reason}"
    return GatewayError("invalid_request", message, param=param or None)


def _refuse(message: str, param: str) -> GatewayError:
    return GatewayError("invalid_request", f"{param}: {message}", param=param)


def _conversation(found: _Body, reading: _Reading) -> tuple[tuple[Block, ...], tuple[Message, ...]]:
    system: tuple[Block, ...] = ()
    if found.system and bytes(found.system) != b"null":
        system = tuple(
            block for block in _content(found.system, "system", reading) if block != Text("")
        )
    messages: list[Message] = []
    for at, turn in enumerate(found.messages):
        blocks = _content(turn.content, f"messages.{at}.content", reading)
        if turn.role == "system":
            if not messages and all(isinstance(block, Text) for block in blocks):
                system += blocks
                continue
            reading.note("late_system", f"messages.{at}.role")
        messages.append(Message(turn.role, blocks))
    if messages and messages[-1].role == "assistant":
        reading.note("prefill", f"messages.{len(found.messages) - 1}.role")
    if found.cache_control is not None:
        _mark_last(messages, found.cache_control)
    return system, tuple(messages)


def _content(raw: msgspec.Raw, field: str, reading: _Reading) -> tuple[Block, ...]:
    try:
        blocks = content(raw, reading.left_out)
    except msgspec.DecodeError as exc:
        raise _invalid(exc, field) from None
    for block in blocks:
        if not isinstance(block, Text):
            _note_block(block, field, reading)
    return blocks


def _mark_last(messages: list[Message], control: CacheControl) -> None:
    """Mark the last block that can be: what `cache_control` at the top level asks for."""
    for at in range(len(messages) - 1, -1, -1):
        blocks = list(messages[at].content)
        for index in range(len(blocks) - 1, -1, -1):
            block = blocks[index]
            if isinstance(block, Text | Image | Document | ToolResult):
                if block.cache is None:
                    blocks[index] = replace(block, cache=control.lifetime)
                    messages[at] = replace(messages[at], content=tuple(blocks))
                return


def _note_block(block: Block, field: str, reading: _Reading, *, result: bool = False) -> None:
    match block:
        case Image():
            reading.note("image_data" if block.data is not None else "image_url", field)
            if result:
                reading.note("tool_result_image", field)
        case Document():
            inline: Feature = "document_text" if block.text is not None else "document_data"
            reading.note("document_url" if block.url is not None else inline, field)
            if result:
                reading.note("tool_result_document", field)
        case ToolResult():
            if block.is_error:
                reading.note("tool_result_error", field)
            for inner in block.content:
                _note_block(inner, field, reading, result=True)
        case Thinking():
            reading.note("thinking_history", field)
        case Opaque(kind=kind):
            of_file = kind in ("image", "document", "container_upload")
            reading.note("file_id" if of_file else "opaque_history", field)
        case _:
            pass


def _tool(raw: msgspec.Raw, at: int, reading: _Reading) -> Tool:
    try:
        found = _TOOL.decode(raw)
        members = _FIELDS.decode(raw)
    except msgspec.DecodeError as exc:
        raise _invalid(exc, f"tools.{at}") from None
    if found.type not in (None, "custom"):
        kind = found.type or ""
        search = kind.startswith(_SEARCHES)
        if search:
            reading.searches.note(kind, f"tools.{at}.type")
        else:
            reading.note("provider_tools", f"tools.{at}.type")
        return Tool(found.name, opaque=Opaque(FORMAT, bytes(raw), kind), search=search)
    if found.strict:
        reading.note("strict_tools", f"tools.{at}.strict")
    reading.left_out += [f"tools.{key}" for key in members if key not in _Tool.__struct_fields__]
    return Tool(
        found.name,
        found.description,
        bytes(found.input_schema) or None,
        found.strict,
        cache=found.cache_control.lifetime if found.cache_control else None,
    )


def _tool_choice(
    found: _Choice | None, tools: tuple[Tool, ...], reading: _Reading
) -> ToolChoice | None:
    if found is None:
        return None
    reading.note("tool_choice", "tool_choice")
    match found.type:
        case "auto":
            return ToolChoice("auto")
        case "any":
            return ToolChoice("required")
        case "none":
            return ToolChoice("none")
        case "tool" if found.name:
            if any(tool.name == found.name and tool.search for tool in tools):
                reading.note("provider_tools", "tool_choice")
            return ToolChoice("required", (found.name,))
        case _:
            raise _refuse("must be auto, any, none, or tool with a name", "tool_choice")


def _parallel(found: _Choice | None, reading: _Reading) -> bool | None:
    if found is None or not found.disable_parallel_tool_use:
        return None
    reading.note("parallel_tool_calls", "tool_choice.disable_parallel_tool_use")
    return False


def _output_format(found: _Body, reading: _Reading) -> OutputFormat | None:
    config = found.output_config
    field = "output_config.format"
    wanted = config.format if config is not None else None
    if wanted is None:
        wanted, field = found.output_format, "output_format"
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        raise _refuse("must be of type json_schema", field)
    reading.note("json_schema", field)
    return OutputFormat(bytes(wanted.schema), strict=True)


def _reasoning(found: _Body, reading: _Reading) -> Reasoning | None:
    thought, config = found.thinking, found.output_config
    named = config.effort if config is not None else None
    if named is not None:
        reading.note("reasoning", "output_config.effort")
    if thought is not None:
        reading.spelled["reasoning"] = "thinking"
    elif named is None:
        return None
    effort = "xhigh" if named == "max" else named
    if effort not in (None, "low", "medium", "high", "xhigh"):
        raise _refuse("must be low, medium, high, xhigh or max", "output_config.effort")
    budget: int | None = None
    show: bool | None = None
    if thought is not None:
        budget = _budget(thought)
        if budget != 0:
            show = thought.display != "omitted"
    # The effort was looked up in the list of those that there are.
    return Reasoning(effort, budget, show)  # type: ignore[arg-type]


def _budget(thought: _Thought) -> int:
    if thought.type == "disabled":
        return 0
    if thought.type != "enabled":
        return -1  # adaptive, between_tools
    if thought.budget_tokens is None or thought.budget_tokens < 1:
        raise _refuse("must be a whole number above 0", "thinking.budget_tokens")
    return thought.budget_tokens


def _note_fields(found: _Body, fields: dict[str, msgspec.Raw], reading: _Reading) -> None:
    if found.stop_sequences:
        reading.note("stop", "stop_sequences")
    if found.max_tokens is not None:
        reading.note("max_output_tokens", "max_tokens")
    for name in ("temperature", "top_p", "top_k"):
        if getattr(found, name) is not None:
            reading.note(name, name)
    if found.metadata is not None and found.metadata.user_id:
        reading.note("user", "metadata.user_id")
    if found.output_config is not None and found.output_config.task_budget:
        reading.left_out.append("output_config.task_budget")
    for key, feature in _HINTS.items() if fields else ():
        if key in fields and bytes(fields[key]) not in (b"null", b"[]"):
            reading.note(feature, key)
