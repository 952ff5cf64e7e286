"""The items of a Responses request read: its conversation and its tools.

`Reading` is one request's, used by `openai_responses_requests.py`: it takes in `input` and `tools`,
and notes which features they use and how their caller calls the field. Everything raises
`GatewayError` `invalid_request` with that field.
"""

import base64
import binascii
import re
from typing import TypeVar

import msgspec
from msgspec import Raw

from gateway.errors import GatewayError
from gateway.wire import signatures
from gateway.wire.conversation import (
    Audio,
    Block,
    Document,
    Feature,
    Image,
    Message,
    Opaque,
    Refusal,
    Role,
    Signature,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.wire.searches import Searches

NAME = "openai_responses"

# Items that a tool's result came back in: they stand on the caller's side of the conversation.
_RESULT_ITEMS = frozenset(
    (
        "computer_call_output", "local_shell_call_output", "shell_call_output",
        "apply_patch_call_output", "tool_search_output", "mcp_approval_response",
    )
)  # fmt: skip

# Items that mean something to the provider alone, without which the conversation is another one.
_STATE_ITEMS = frozenset(("item_reference", "compaction", "compaction_summary"))

# Tools that find something for the model. A search for tools finds those that were kept back;
# without it the others can be called.
_SEARCHES = ("web_search", "tool_search")

_ABSENT = Raw()
_NULL = Raw(b"null")
_PATH = re.compile(r" - at `\$(.*)`$")
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_DATA_URI = re.compile(r"data:([^,;]*)([^,]*),")

T = TypeVar("T")


class _Item(msgspec.Struct, gc=False):
    id: str | None = None
    type: str | None = None
    role: str | None = None
    content: Raw = _ABSENT
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Raw = _ABSENT
    input: Raw = _ABSENT
    output: Raw = _ABSENT
    summary: Raw = _ABSENT
    encrypted_content: str | None = None
    tools: Raw = _ABSENT
    phase: str | None = None


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None
    input_audio: "_Audio | None" = None
    prompt_cache_breakpoint: Raw = _ABSENT


class _Audio(msgspec.Struct, gc=False):
    data: str
    format: str


class _Tool(msgspec.Struct, gc=False):
    type: str = ""
    name: str | None = None
    description: str | None = None
    parameters: Raw = _ABSENT
    strict: bool | None = None
    format: "_ToolFormat | None" = None
    tools: Raw = _ABSENT
    defer_loading: bool | None = None
    output_schema: Raw = _ABSENT
    allowed_callers: Raw = _ABSENT


class _ToolFormat(msgspec.Struct, gc=False):
    type: str = "text"
    syntax: str | None = None
    definition: str | None = None


STRING = msgspec.json.Decoder(str)
_RAWS: msgspec.json.Decoder[list[Raw]] = msgspec.json.Decoder(list[Raw])
_ITEMS: msgspec.json.Decoder[list[_Item]] = msgspec.json.Decoder(list[_Item])
_PARTS: msgspec.json.Decoder[list[_Part]] = msgspec.json.Decoder(list[_Part])
_TOOLS: msgspec.json.Decoder[list[_Tool]] = msgspec.json.Decoder(list[_Tool])


def refuse(message: str, param: str) -> GatewayError:
    """An `invalid_request` that names a field."""
    return GatewayError("invalid_request", message, param=param)


def decode(decoder: msgspec.json.Decoder[T], raw: bytes | Raw, param: str) -> T:
    """Decode a field of a request; `param` is its name where it is not as expected."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as exc:
        found = _PATH.search(str(exc))
        where = param + found[1] if found else param
        what = _PATH.sub("", str(exc))
        raise refuse(f"{where} has the wrong type: {what}.", where) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise refuse(f"{param} is not valid JSON.", param) from None


def sent(raw: Raw) -> bool:
    """Tell whether a value was sent that is not null."""
    return bool(raw) and (len(raw) != 4 or bytes(raw) != b"null")


def is_string(raw: Raw) -> bool:
    """Tell whether a value is a string."""
    return bytes(memoryview(raw)[:1]) == b'"'


class Reading:
    """One request as it is read: its turns so far, and the features that it uses."""

    def __init__(self) -> None:
        self.system: list[Block] = []
        self.tools: list[Tool] = []
        self.spelled: dict[Feature, str] = {}
        self.unknown: list[str] = []
        self._untold: set[str] = set()
        self._turns: list[tuple[Role, list[Block], str]] = []
        self._namespaces: dict[tuple[str, str], str] = {}
        self._signature: Signature | None = None  # of the call that comes next
        self._searches = Searches()

    def spell(self, feature: Feature, field: str) -> None:
        """Note a feature, and what its caller calls it; the first field stands."""
        self.spelled.setdefault(feature, field)

    def untold(self, field: str, kind: str) -> None:
        """Note a field that no other format has; the first of its kind stands for all."""
        if kind not in self._untold:
            self._untold.add(kind)
            self.unknown.append(field)

    def noted(
        self, feature: Feature, value: T | None, usual: object = None, field: str | None = None
    ) -> T | None:
        """Note a feature where its value is not the usual one; return the value."""
        if value is not None and value != usual:
            self.spell(feature, field or feature)
        return value

    def messages(self) -> tuple[Message, ...]:
        """The turns read so far."""
        if self._turns:
            role, blocks, _ = self._turns[-1]
            if role == "assistant" and blocks and isinstance(blocks[-1], Text):
                self.spell("prefill", "input")
        return tuple(Message(role, tuple(blocks)) for role, blocks, _ in self._turns)

    def _add(self, role: Role, blocks: list[Block], kind: str = "message") -> None:
        """Add to the conversation; neighbours of one kind ("turn", "results") are one message."""
        if kind != "message" and self._turns and self._turns[-1][2] == kind:
            self._turns[-1][1].extend(blocks)
        else:
            self._turns.append((role, blocks, kind))

    # -- items ---------------------------------------------------------------------------------

    def read_input(self, raw: Raw | None) -> None:
        """Read the conversation: a string, or items."""
        if raw is None:
            return
        if is_string(raw):
            self._add("user", [Text(decode(STRING, raw, "input"))])
            return
        items = decode(_ITEMS, raw, "input")
        raws: list[Raw] | None = None
        for number, item in enumerate(items):
            if not self._known_item(item, f"input[{number}]"):
                raws = raws or decode(_RAWS, raw, "input")
                kind = item.type or "message"
                self._opaque_item(bytes(raws[number]), kind, f"input[{number}]")
            if item.type != "reasoning":
                self._signature = None  # it is for the very next item

    def _known_item(self, item: _Item, at: str) -> bool:
        match item.type:
            case "message" | None:
                self._message(item, at)
            case "reasoning":
                self._reasoning(item, at)
            case "function_call" | "custom_tool_call":
                self._call(item, at)
            case "function_call_output" | "custom_tool_call_output":
                self._result(item, at)
            case "additional_tools":
                self.read_tools(item.tools, f"{at}.tools")
            case _:
                return False
        return True

    def _opaque_item(self, item: bytes, kind: str, at: str) -> None:
        self.spell("stored_state" if kind in _STATE_ITEMS else "opaque_history", at)
        if kind in _RESULT_ITEMS:
            self._add("user", [Opaque(NAME, item, kind)], "results")
        else:
            self._add("assistant", [Opaque(NAME, item, kind)], "turn")

    def _message(self, item: _Item, at: str) -> None:
        role = item.role or "user"
        if role not in ("user", "assistant", "system", "developer"):
            raise refuse(f"{at}.role is not a role: {role}", f"{at}.role")
        if item.phase:
            self.untold(f"{at}.phase", "phase")
        blocks = self._content(item.content, f"{at}.content")
        if role == "user":
            self._add("user", blocks)
        elif role == "assistant":
            self._add("assistant", blocks, "turn")
        elif self._turns:
            self.spell("late_system", f"{at}.role")
            self._add("system", blocks)
        else:
            self.system += blocks

    def _reasoning(self, item: _Item, at: str) -> None:
        summary = decode(_PARTS, item.summary, f"{at}.summary") if sent(item.summary) else []
        content = decode(_PARTS, item.content, f"{at}.content") if sent(item.content) else []
        text = "\n\n".join(part.text for part in summary or content if part.text)
        if not item.encrypted_content:
            if text:
                self.spell("thinking_history", at)
                self._add("assistant", [Thinking(text)], "turn")
            else:
                # Known to its provider alone, by its id.
                self.unknown.append(at)
            return
        self.spell("thinking_history", at)
        foreign = signatures.opened(item.encrypted_content)
        signature, kind = foreign or (signature_of(item.id, item.encrypted_content), "thinking")
        if kind == "next":
            self._signature = signature
        elif kind == "previous":
            self._sign_last_call(signature)
        else:
            self._add("assistant", [Thinking(text, signature, kind == "redacted")], "turn")

    def _sign_last_call(self, signature: Signature) -> None:
        blocks = self._turns[-1][1] if self._turns else []
        if blocks and isinstance(blocks[-1], ToolCall):
            blocks[-1] = msgspec.structs.replace(blocks[-1], signature=signature)

    def _call(self, item: _Item, at: str) -> None:
        custom = item.type == "custom_tool_call"
        raw, field = (item.input, "input") if custom else (item.arguments, "arguments")
        arguments = decode(STRING, raw, f"{at}.{field}") if sent(raw) else ""
        if not item.call_id or not item.name:
            missing = "name" if item.call_id else "call_id"
            raise refuse(f"{at}.{missing} is required.", f"{at}.{missing}")
        if custom:
            self.spell("custom_tools", at)
        name = item.name
        if item.namespace:
            name = self._namespaces.get((item.namespace, item.name), item.name)
            if name == item.name:
                self.untold(f"{at}.namespace", "namespace")
        signature, self._signature = self._signature, None
        call = ToolCall(item.call_id, name, arguments, custom, signature)
        self._add("assistant", [call], "turn")

    def _result(self, item: _Item, at: str) -> None:
        if not item.call_id:
            raise refuse(f"{at}.call_id is required.", f"{at}.call_id")
        content = self._content(item.output, f"{at}.output")
        for block in content:
            if isinstance(block, Image):
                self.spell("tool_result_image", f"{at}.output")
            elif isinstance(block, Document):
                self.spell("tool_result_document", f"{at}.output")
        self._add("user", [ToolResult(item.call_id, tuple(content))], "results")

    # -- parts of content ----------------------------------------------------------------------

    def _content(self, raw: Raw, at: str) -> list[Block]:
        if not sent(raw):
            return []
        if is_string(raw):
            return [Text(decode(STRING, raw, at))]
        blocks: list[Block] = []
        raws: list[Raw] | None = None
        parts = decode(_PARTS, raw, at)
        for number, part in enumerate(parts):
            block = self._part(part, f"{at}[{number}]")
            if block is None:
                raws = raws or decode(_RAWS, raw, at)
                self.spell("opaque_history", f"{at}[{number}]")
                block = Opaque(NAME, bytes(raws[number]), part.type)
            blocks.append(block)
        return blocks

    def _part(self, part: _Part, at: str) -> Block | None:
        """Read a part; None for one that only this format knows."""
        match part.type:
            case "input_text" | "output_text" | "text" | "summary_text":
                if sent(part.prompt_cache_breakpoint):
                    self.spell("prompt_cache", f"{at}.prompt_cache_breakpoint")
                    return Text(part.text or "", "5m")
                return Text(part.text or "")
            case "refusal":
                return Refusal(part.refusal or "")
            case "input_image":
                return self._image(part, at)
            case "input_file":
                return self._file(part, at)
            case "input_audio" if part.input_audio is not None:
                self.spell("audio", at)
                return Audio(f"audio/{part.input_audio.format}", part.input_audio.data)
            case _:
                return None

    def _image(self, part: _Part, at: str) -> Block | None:
        if part.file_id:
            self.spell("file_id", f"{at}.file_id")
            return None
        if not part.image_url:
            raise refuse(f"{at}.image_url is required.", f"{at}.image_url")
        detail = None if part.detail == "auto" else part.detail
        if detail is not None:
            self.spell("image_detail", f"{at}.detail")
        inline = from_data_uri(part.image_url)
        if inline is None:
            self.spell("image_url", f"{at}.image_url")
            return Image(url=part.image_url, detail=detail)
        self.spell("image_data", f"{at}.image_url")
        return Image(inline[0], inline[1], detail=detail)

    def _file(self, part: _Part, at: str) -> Block | None:
        if part.file_url:
            self.spell("document_url", f"{at}.file_url")
            return Document(url=part.file_url, name=part.filename)
        if part.file_data is None:
            self.spell("file_id", f"{at}.file_id")
            return None
        media_type, data = from_data_uri(part.file_data) or ("application/pdf", part.file_data)
        text = _decoded_text(data) if media_type.startswith("text/") else None
        if text is not None:
            self.spell("document_text", f"{at}.file_data")
            return Document(media_type, text=text, name=part.filename)
        self.spell("document_data", f"{at}.file_data")
        return Document(media_type, data, name=part.filename)

    # -- tools ---------------------------------------------------------------------------------

    def read_tools(self, raw: Raw | None, at: str) -> None:
        """Read definitions of tools; `raw` may be absent."""
        if raw is None or not sent(raw):
            return
        raws: list[Raw] | None = None
        tools = decode(_TOOLS, raw, at)
        for number, tool in enumerate(tools):
            where = f"{at}[{number}]"
            if tool.type in ("function", "custom"):
                self.tools.append(self._tool(tool, where))
            elif tool.type == "namespace" and tool.name:
                self._namespace(tool, where)
            else:
                raws = raws or decode(_RAWS, raw, at)
                opaque = Opaque(NAME, bytes(raws[number]), tool.type)
                search = tool.type.startswith(_SEARCHES)
                if search:
                    self._searches.note(tool.type, where)
                else:
                    self.spell("provider_tools", where)
                self.tools.append(Tool(tool.name or tool.type, opaque=opaque, search=search))

    def settle_tools(self) -> None:
        """Call it once all tools are read."""
        found = self._searches.feature(self.tools)
        if found is not None:
            self.spell(*found)

    def _tool(self, tool: _Tool, at: str) -> Tool:
        if not tool.name:
            raise refuse(f"{at}.name is required.", f"{at}.name")
        self.spell("tools", "tools")
        if tool.strict:
            self.spell("strict_tools", f"{at}.strict")
        # Of use to tools that the provider runs; without these every tool can just be called.
        for name in ("defer_loading", "output_schema", "allowed_callers"):
            value = getattr(tool, name)
            if value and value != _NULL:
                self.untold(f"{at}.{name}", name)
        schema = bytes(tool.parameters) if sent(tool.parameters) else None
        if tool.type != "custom":
            return Tool(tool.name, tool.description, schema, tool.strict)
        self.spell("custom_tools", at)
        form = tool.format
        grammar = None
        if form is not None and form.syntax and form.definition is not None:
            grammar = (form.syntax, form.definition)
            self.spell("tool_grammar", f"{at}.format")
        return Tool(tool.name, tool.description, custom=True, grammar=grammar)

    def _namespace(self, group: _Tool, at: str) -> None:
        """Tools that are told apart by their group's name: here it becomes part of theirs."""
        prefix = group.name or ""
        if group.description:
            self.unknown.append(f"{at}.description")
        if not sent(group.tools):
            return
        tools = decode(_TOOLS, group.tools, f"{at}.tools")
        for number, one in enumerate(tools):
            tool = self._tool(one, f"{at}.tools[{number}]")
            joint = "" if prefix.endswith("__") else "__"
            name = f"{prefix}{joint}{tool.name}"
            self._namespaces[prefix, tool.name] = name
            self.tools.append(msgspec.structs.replace(tool, name=name, namespace=prefix))


def signature_of(item: str | None, encrypted: str) -> Signature:
    """The signature of a reasoning item: encrypted for its id alone, so both belong to it."""
    return Signature(NAME, f"{item} {encrypted}" if item and " " not in item else encrypted)


def signed_item(signature: Signature) -> tuple[str | None, str]:
    """The id and the encrypted content of which `signature_of` made a signature."""
    item, space, encrypted = signature.value.partition(" ")
    return (item, encrypted) if space else (None, signature.value)


def from_data_uri(uri: str) -> tuple[str, str] | None:
    """Return (media type, base64) of a data URI; None where it is none."""
    head = _DATA_URI.match(uri)
    if head is None:
        return None
    media_type, data = head[1] or "text/plain", uri[head.end() :]
    if head[2].lower().endswith(";base64"):
        return media_type, data
    return media_type, base64.b64encode(_ESCAPED.sub(_unescaped, data.encode())).decode()


def _unescaped(escape: re.Match[bytes]) -> bytes:
    return bytes((int(escape[1], 16),))


def _decoded_text(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
