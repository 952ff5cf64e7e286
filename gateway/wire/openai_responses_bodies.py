"""OpenAI Responses, for translation: bodies of requests written, from what any format asked.

Nothing is kept at the provider (`store: false`): the caller's format sends its whole conversation
each time. Reasoning that the provider must see again comes encrypted in the answer and goes back
in its item; each such item needs the item that followed it, so one that nothing follows is left
out. Source: platform.openai.com API reference, "Create a model response" (November 2026). Used by
`openai_responses_dialect.py`; `tools` and `tool_choice` also by answers, which repeat them.
"""

import base64
import re
from typing import Any, assert_never

import msgspec
from msgspec import Raw

from gateway.errors import GatewayError
from gateway.wire import call_ids
from gateway.wire.conversation import (
    Audio,
    Block,
    Citation,
    Document,
    Feature,
    Image,
    Message,
    Opaque,
    OutputFormat,
    Reasoning,
    Refusal,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.wire.format import Toward
from gateway.wire.openai_responses_items import NAME, signed_item
from gateway.wire.output_schemas import for_openai

CALL_ID_CHARS_MAX = 64
USER_CHARS_MAX = 64
OUTPUT_TOKENS_MIN = 16
"""OpenAI's own bounds (its 400s, November 2026); compatible servers have none or others."""

_OPENAI = frozenset(("openai", "azure"))

# OpenAI's models that do not reason answer 400 to `reasoning`, and those that do not encrypt their
# reasoning to `include` (its model list, November 2026).
_PLAIN_MODEL = re.compile(r"(gpt-3|gpt-4|chatgpt-4o|gpt-5[\d.]*-chat)")
_REASONING_MODEL = re.compile(r"(o\d|gpt-5|codex)")

# Tokens of a budget, and the effort that spends about as much.
_EFFORTS = ((4096, "low"), (16384, "medium"))

Json = dict[str, Any]


def write_request(request: Request, toward: Toward) -> tuple[bytes, list[str]]:
    """See `format.Dialect.write_request`."""
    request, told = for_openai(request)
    writing = _Writing(request)
    for message in request.messages:
        writing.message(message)
    writing.drop_thoughts()
    body: Json = {
        "model": toward.model,
        "input": writing.items,
        "store": False,
        "stream": request.stream,
    }
    if request.system:
        body["instructions"] = _instructions(request)
    if request.tools:
        body["tools"] = tools(request)
    if request.tool_choice is not None and (request.tools or request.tool_choice.mode != "none"):
        body["tool_choice"] = tool_choice(request.tool_choice, request.tools)
    if request.parallel_tool_calls is not None and request.tools:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.output is not None:
        body["text"] = {"format": text_format(request.output)}
    _add_sampling(body, request, toward, writing)
    _add_reasoning(body, request, toward, writing)
    return msgspec.json.encode(body), list(dict.fromkeys(writing.left_out + told))


def _refuse(request: Request, message: str, feature: Feature, usual: str) -> GatewayError:
    param = request.spelled.get(feature, usual)
    return GatewayError("unsupported_parameter", f"{param} {message}", param=param)


def _instructions(request: Request) -> str:
    texts = [block.text for block in request.system if isinstance(block, Text)]
    if len(texts) != len(request.system):
        raise _refuse(
            request,
            "may hold nothing but text toward this model's provider",
            "image_data",
            "system",
        )
    return "\n\n".join(texts)


def _add_sampling(body: Json, request: Request, toward: Toward, writing: "_Writing") -> None:
    limit = request.max_output_tokens
    if limit is not None:
        if limit < OUTPUT_TOKENS_MIN and toward.provider in _OPENAI:
            raise _refuse(
                request,
                f"must be at least {OUTPUT_TOKENS_MIN} for this model",
                "max_output_tokens",
                "max_output_tokens",
            )
        body["max_output_tokens"] = limit
    # Models that reason refuse both, even at the value that they have anyway.
    if request.temperature is not None and request.temperature != 1:
        body["temperature"] = request.temperature
    if request.top_p is not None and request.top_p != 1:
        body["top_p"] = request.top_p
    if request.metadata:
        body["metadata"] = dict(request.metadata)
    if request.user is not None:
        if len(request.user) > USER_CHARS_MAX and toward.provider in _OPENAI:
            writing.leave_out("user", "user")
        else:
            body["user"] = request.user


def _add_reasoning(body: Json, request: Request, toward: Toward, writing: "_Writing") -> None:
    asked = request.reasoning
    if toward.provider in _OPENAI and _PLAIN_MODEL.match(toward.model):
        if asked is not None and ((asked.effort or "none") != "none" or asked.budget_tokens):
            writing.leave_out("reasoning", "reasoning")
        return
    reasoning: Json = {}
    if asked is not None:
        effort = asked.effort or _effort(asked, toward.model)
        if effort is not None:
            reasoning["effort"] = effort
        if asked.show:
            reasoning["summary"] = "auto"
    if reasoning:
        body["reasoning"] = reasoning
    if reasoning or writing.signed or _REASONING_MODEL.match(toward.model):
        body["include"] = ["reasoning.encrypted_content"]


def _effort(asked: Reasoning, model: str) -> str | None:
    """The effort that comes nearest to a budget; None where the model is to choose."""
    budget = asked.budget_tokens
    if budget is None or budget < 0:
        return None
    if budget == 0:
        # What models know for the least: gpt-5.1 and later, gpt-5, all before.
        later = re.match(r"gpt-5\.[1-9]", model)
        return "none" if later else "minimal" if model.startswith("gpt-5") else "low"
    return next((effort for most, effort in _EFFORTS if budget <= most), "high")


def tools(request: Request) -> list[Json | Raw]:
    """The tools of a request as this format defines them.

    One that may be strict or not is not: this format alone would otherwise take it for strict.
    """
    found: list[Json | Raw] = []
    for tool in request.tools:
        if tool.opaque is not None:
            if tool.search and tool.opaque.format != NAME:
                continue
            if tool.opaque.format != NAME:
                raise _refuse(
                    request, "cannot be run by this model's provider", "provider_tools", "tools"
                )
            found.append(Raw(tool.opaque.json))
        elif tool.custom:
            found.append(_custom_tool(tool))
        else:
            found.append(_function(tool, own=request.format == NAME))
    return found


def _function(tool: Tool, *, own: bool) -> Json:
    schema = tool.schema if tool.schema is not None else b'{"type":"object","properties":{}}'
    written: Json = {"type": "function", "name": tool.name, "parameters": Raw(schema)}
    if tool.description is not None:
        written["description"] = tool.description
    if tool.strict is not None or not own:
        written["strict"] = bool(tool.strict)
    return written


def _custom_tool(tool: Tool) -> Json:
    written: Json = {"type": "custom", "name": tool.name}
    if tool.description is not None:
        written["description"] = tool.description
    if tool.grammar is not None:
        syntax, definition = tool.grammar
        written["format"] = {"type": "grammar", "syntax": syntax, "definition": definition}
    return written


def tool_choice(choice: ToolChoice, defined: tuple[Tool, ...]) -> str | Json:
    """A choice of tools as this format says it."""
    if not choice.names:
        return choice.mode
    custom = {tool.name for tool in defined if tool.custom}
    named = [
        {"type": "custom" if name in custom else "function", "name": name} for name in choice.names
    ]
    if choice.mode == "required" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": named}


def text_format(output: OutputFormat) -> Json:
    """A format of output as this format says it."""
    if output.schema is None:
        return {"type": "json_object"}
    written: Json = {
        "type": "json_schema",
        "name": output.name or "output",
        "schema": Raw(output.schema),
    }
    if output.description is not None:
        written["description"] = output.description
    if output.strict is not None:
        written["strict"] = output.strict
    return written


def function_name(tool_name: str, defined: tuple[Tool, ...]) -> tuple[str, str | None]:
    """A tool's own name, and the namespace that its caller dispatches by."""
    for tool in defined:
        if tool.name == tool_name and tool.namespace is not None:
            own = tool_name.removeprefix(tool.namespace)
            return own if tool.namespace.endswith("__") else own.removeprefix("__"), tool.namespace
    return tool_name, None


class _Writing:
    """The items of one conversation as they are written."""

    def __init__(self, request: Request) -> None:
        self.items: list[Json | Raw] = []
        self.left_out: list[str] = []
        self.signed = False
        self._request = request
        self._custom: set[str] = set()
        self._parts: list[Json | Raw] = []
        self._said_so_far = ""  # the assistant's words, which are one text without parts
        self._thoughts: list[Json] = []  # they go out with the item that follows them

    def leave_out(self, feature: Feature, usual: str) -> None:
        """Note a field of the caller's that has no place here."""
        self.left_out.append(self._request.spelled.get(feature, usual))

    def message(self, message: Message) -> None:
        """Write one turn, or a part of one."""
        if message.role != "assistant":
            self.drop_thoughts()
        for block in message.content:
            if message.role == "assistant":
                self._said(block)
            else:
                self._given(block, message.role)
        self._flush(message.role)

    def drop_thoughts(self) -> None:
        """Leave out thoughts that no item of their turn follows: the provider would refuse them."""
        if self._thoughts:
            self._thoughts = []
            self.leave_out("thinking_history", "messages")

    def _item(self, item: Json | Raw) -> None:
        if self._thoughts:
            self.items += self._thoughts
            self._thoughts = []
            self.signed = True
        self.items.append(item)

    def _flush(self, role: str) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._item({"type": "message", "role": role, "content": parts})
        if self._said_so_far:
            text, self._said_so_far = self._said_so_far, ""
            self._item({"type": "message", "role": role, "content": text})

    def _said(self, block: Block) -> None:
        """Write a block of the assistant's side."""
        match block:
            case Text(text=text) | Refusal(text=text):
                self._said_so_far += text
                if isinstance(block, Text) and block.signature is not None:
                    self.leave_out("thinking_history", "signature")
            case Thinking():
                self._flush("assistant")
                self._thinking(block)
            case ToolCall():
                self._flush("assistant")
                self._call(block)
            case Opaque():
                self._opaque(block, "assistant")
            case Citation():
                # Where an earlier answer had its words from; the words stand.
                self.leave_out("opaque_history", "citations")
            case Image() | Document() | Audio() | ToolResult():
                raise _refuse(
                    self._request,
                    "cannot be on the assistant's side toward this model's provider",
                    _feature(block),
                    "messages",
                )
            case _:
                assert_never(block)

    def _thinking(self, block: Thinking) -> None:
        signature = block.signature
        if signature is None or signature.format != NAME:
            self.leave_out("thinking_history", "messages")
            return
        summary = [{"type": "summary_text", "text": block.text}] if block.text else []
        item, encrypted = signed_item(signature)
        thought = {"type": "reasoning", "summary": summary, "encrypted_content": encrypted}
        # Without its id it is taken too, under another one it is refused.
        self._thoughts.append(thought if item is None else {"id": item, **thought})

    def _call(self, block: ToolCall) -> None:
        if block.signature is not None:
            self.leave_out("thinking_history", "signature")
        call_id = _call_id(block.id)
        if block.custom:
            self._custom.add(call_id)
            item = {"type": "custom_tool_call", "name": block.name, "input": block.arguments}
        else:
            arguments = block.arguments or "{}"
            item = {"type": "function_call", "name": block.name, "arguments": arguments}
        self._item({**item, "call_id": call_id})

    def _opaque(self, block: Opaque, role: str) -> None:
        if block.format != NAME:
            self.leave_out("opaque_history", "messages")
        elif block.kind.startswith(("input_", "output_")):
            self._parts.append(Raw(block.json))
        else:
            self._flush(role)
            self._item(Raw(block.json))

    def _given(self, block: Block, role: str) -> None:
        """Write a block of the caller's side."""
        match block:
            case ToolResult():
                self._flush(role)
                self._result(block)
            case Opaque():
                self._opaque(block, role)
            case Text() | Image() | Document():
                part = self._part(block)
                if part is not None:
                    self._parts.append(part)
            case Audio():
                raise _refuse(
                    self._request, "cannot be sent to this model's provider", "audio", "messages"
                )
            case Refusal(text=text):
                self._parts.append({"type": "input_text", "text": text})
            case Thinking() | ToolCall() | Citation():
                raise _refuse(
                    self._request, "cannot be on the user's side", "thinking_history", "messages"
                )
            case _:
                assert_never(block)

    def _part(self, block: Text | Image | Document) -> Json | None:
        match block:
            case Text(text=text):
                return {"type": "input_text", "text": text} if text else None
            case Image(url=url):
                if url is None:
                    url = f"data:{block.media_type or 'image/png'};base64,{block.data or ''}"
                return {"type": "input_image", "image_url": url, "detail": block.detail or "auto"}
            case Document():
                return _file(block)
            case _:
                assert_never(block)

    def _result(self, block: ToolResult) -> None:
        if block.is_error:
            self.leave_out("tool_result_error", "messages")
        call_id = _call_id(block.call_id)
        kind = "custom_tool_call_output" if call_id in self._custom else "function_call_output"
        self._item({"type": kind, "call_id": call_id, "output": self._output(block)})

    def _output(self, block: ToolResult) -> str | list[Json | Raw]:
        parts: list[Json | Raw] = []
        for one in block.content:
            if isinstance(one, Opaque) and one.format == NAME:
                parts.append(Raw(one.json))
            elif isinstance(one, (Text, Image, Document)):
                part = self._part(one)
                if part is not None:
                    parts.append(part)
            elif isinstance(one, Opaque):
                self.leave_out("opaque_history", "messages")
            else:
                raise _refuse(
                    self._request,
                    "cannot be in a tool's result toward this model's provider",
                    "audio",
                    "messages",
                )
        texts = [one.text for one in block.content if isinstance(one, Text)]
        if len(texts) == len(block.content) <= 1:
            return texts[0] if texts else ""
        return parts or ""


def _feature(block: Image | Document | Audio | ToolResult) -> Feature:
    """By which feature the field of a block is known."""
    match block:
        case Image(url=url):
            return "image_data" if url is None else "image_url"
        case Document(url=url):
            return "document_data" if url is None else "document_url"
        case Audio():
            return "audio"
        case ToolResult():
            return "tools"
        case _:
            assert_never(block)


def _call_id(call_id: str) -> str:
    return call_id if 0 < len(call_id) <= CALL_ID_CHARS_MAX else call_ids.made(call_id, 0)


def _file(block: Document) -> Json:
    if block.url is not None:
        return {"type": "input_file", "file_url": block.url}
    media_type, data, usual = block.media_type or "application/pdf", block.data, "document.pdf"
    if block.text is not None:
        media_type, usual = block.media_type or "text/plain", "document.txt"
        data = base64.b64encode(block.text.encode()).decode()
    return {
        "type": "input_file",
        "filename": block.name or usual,
        "file_data": f"data:{media_type};base64,{data or ''}",
    }
