"""Anthropic Messages: requests written, as an upstream of this format wants them.

Neighbours of one role are merged, tool results come before anything else in their turn, and empty
text is left out, as it is refused. What cannot be said is refused with the caller's field, what
need not be said is named to the caller (`ignored`). Shapes: docs.anthropic.com, "Messages", "Count
tokens" (November 2026), anthropic 2.11, and recorded traffic. Used by the dialect.
"""

import base64
import binascii

import msgspec

from gateway.errors import GatewayError
from gateway.wire import custom_tools
from gateway.wire.anthropic_messages_blocks import (
    FORMAT,
    Unwritable,
    cache_member,
    object_of,
    quoted,
    replace,
    written_call,
    written_image,
    written_text,
    written_thinking,
)
from gateway.wire.anthropic_messages_reasoning import settled, version
from gateway.wire.call_ids import safe
from gateway.wire.conversation import (
    Audio,
    Block,
    Citation,
    Document,
    Feature,
    Image,
    Message,
    Opaque,
    Refusal,
    Request,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.wire.format import Toward
from gateway.wire.output_schemas import for_anthropic

MAX_TOKENS_DEFAULT = 4096
"""`max_tokens` for a model of which nothing is known: every Claude since 3 can write that much."""

USER_ID_CHARS_MAX = 256

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])

_LATE_SYSTEM = "<system>\n%s\n</system>"
"""How a system message amid the turns is marked: most models take none there by role."""


def write_request(request: Request, toward: Toward) -> tuple[bytes, list[str]]:
    """The body for a Messages upstream, and the caller's fields that were left out.

    `max_tokens`, which must be sent, is the model's own limit where the caller gave none. Raises
    `GatewayError` `unsupported_parameter` with the caller's field as `param`.
    """
    members, ignored = _members(request, toward)
    return _joined(members), ignored


def write_count(request: Request, toward: Toward) -> tuple[bytes, list[str]]:
    """The body for `count_tokens`: of the same request what goes into the prompt."""
    members, ignored = _members(request, toward)
    return _joined({key: members[key] for key in members if key in _COUNTED}), ignored


_COUNTED = frozenset(
    ("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config")
)


def _joined(members: dict[str, bytes]) -> bytes:
    return b"{%b}" % b",".join([b'"%b":%b' % (key.encode(), members[key]) for key in members])


def _members(request: Request, toward: Toward) -> tuple[dict[str, bytes], list[str]]:
    max_tokens = request.max_output_tokens or toward.max_output_tokens or MAX_TOKENS_DEFAULT
    request, told = for_anthropic(request)
    writing = _Writing(request)
    writing.ignored += told
    members = {
        "model": quoted(toward.model),
        "max_tokens": b"%d" % max_tokens,
        "messages": writing.messages(),
    }
    if request.stream:
        members["stream"] = b"true"
    if system := writing.system():
        members["system"] = system
    writing.tools(members, toward)
    if request.stop:
        members["stop_sequences"] = writing.stop()
    chosen = settled(request, toward, max_tokens)
    writing.ignored += chosen.ignored
    for name in ("thinking", "temperature", "top_p", "top_k"):
        value = getattr(chosen, name)
        if value is not None:
            members[name] = quoted(value)
    if config := writing.output_config(chosen.effort):
        members["output_config"] = config
    writing.hints(members)
    return members, list(dict.fromkeys(writing.ignored))


class _Writing:
    """One request on its way out."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.ignored: list[str] = []
        self._marked = False

    def _field(self, feature: Feature | None) -> str:
        """The caller's name for a feature; where it was not noted, for the conversation."""
        if feature is not None and feature in self.request.spelled:
            return self.request.spelled[feature]
        named = {"gemini": "contents", "openai_responses": "input"}
        return named.get(self.request.format, "messages")

    def _refused(self, feature: Feature | None, reason: str) -> GatewayError:
        field = self._field(feature)
        return GatewayError("unsupported_parameter", f"{field}: {reason}", param=field)

    def messages(self) -> bytes:
        """The turns: neighbours merged, results first, what is empty left out."""
        turns: list[tuple[Role, list[bytes], list[bytes]]] = []
        for message in self.request.messages:
            role, blocks = self._placed(message)
            if not turns or turns[-1][0] != role:
                turns.append((role, [], []))
            _, results, others = turns[-1]
            for block in blocks:
                written = self._written(block, role)
                if written is not None:
                    (results if isinstance(block, ToolResult) else others).append(written)
        out = [
            b'{"role":"%b","content":[%b]}' % (role.encode(), b",".join([*results, *others]))
            for role, results, others in turns
            if results or others
        ]
        if not out:
            raise self._refused(None, "this model's provider wants at least one message with text")
        return b"[%b]" % b",".join(out)

    def _placed(self, message: Message) -> tuple[Role, tuple[Block, ...]]:
        """Where a message goes: one of the system amid the turns is the user's, marked."""
        last = message is self.request.messages[-1]
        if message.role == "assistant" and last and message.content:
            return message.role, (*message.content[:-1], _without_tail(message.content[-1]))
        if message.role != "system" or self.request.format == FORMAT:
            return message.role, message.content
        return "user", tuple(
            replace(block, text=_LATE_SYSTEM % block.text) if isinstance(block, Text) else block
            for block in message.content
        )

    def _written(self, block: Block, role: Role) -> bytes | None:
        if type(block) is Text and block.cache is None and block.signature is None:
            text = block.text
            return written_text(text) if text and not text.isspace() else None
        try:
            return self._block(block, role)
        except Unwritable as exc:
            raise self._refused(exc.feature, exc.reason) from None

    def _block(self, block: Block, role: Role) -> bytes | None:
        if isinstance(block, Text | ToolCall) and block.signature is not None:
            # Signatures of calls and texts are other formats'.
            self.ignored.append(self._field("thinking_history"))
        match block:
            case Text(text=text, cache=cache):
                self._marked |= cache is not None
                return written_text(text, cache) if text and not text.isspace() else None
            case Refusal(text=text):
                return written_text(text) if text and not text.isspace() else None
            case Thinking():
                return self._thinking(block)
            case ToolCall():
                return _call(block)
            case ToolResult():
                return self._result(block)
            case Image() if role != "assistant":
                self._marked |= block.cache is not None
                return written_image(block)
            case Document() if role != "assistant":
                self._marked |= block.cache is not None
                return _document(block)
            case Opaque(format=format, json=json) if format == FORMAT:
                return json
            case _:
                self._misfit(block)
                return None

    def _misfit(self, block: Block) -> None:
        if isinstance(block, Citation):
            # Only with the provider's own index would it be taken back.
            self.ignored.append("citations")
            return
        if isinstance(block, Audio):
            raise Unwritable("audio", "sound has no place in the Messages format")
        if isinstance(block, Opaque):
            raise Unwritable("opaque_history", f"{block.kind or 'this item'} has no equivalent")
        raise Unwritable(None, "only users' turns may hold images and documents")

    def _thinking(self, block: Thinking) -> bytes | None:
        if block.signature is not None and block.signature.format == FORMAT:
            return written_thinking(block)
        self.ignored.append(self._field("thinking_history"))
        return None

    def _result(self, result: ToolResult) -> bytes:
        self._marked |= result.cache is not None
        inner = [self._block(block, "user") for block in result.content]
        blocks = b",".join(one for one in inner if one is not None)
        return b'{"type":"tool_result","tool_use_id":%b%b%b%b}' % (
            quoted(safe(result.call_id)),
            b',"content":[%b]' % blocks if blocks else b"",
            b',"is_error":true' if result.is_error else b"",
            cache_member(result.cache),
        )

    def system(self) -> bytes:
        """The system text, b"" where there is none."""
        blocks = []
        for block in self.request.system:
            if not isinstance(block, Text | Opaque):
                raise self._refused(None, "system instructions can only be text here")
            written = self._written(block, "system")
            if written is not None:
                blocks.append(written)
        return b"[%b]" % b",".join(blocks) if blocks else b""

    def tools(self, members: dict[str, bytes], toward: Toward) -> None:
        """Tools and choice. One that allows only some of them leaves the others out."""
        choice = self.request.tool_choice
        offered = self.request.tools
        if choice is not None and (
            len(choice.names) > 1 or (choice.names and choice.mode == "auto")
        ):
            offered = tuple(tool for tool in offered if tool.name in choice.names)
        offered = tuple(
            tool
            for tool in offered
            if not (tool.search and tool.opaque is not None and tool.opaque.format != FORMAT)
        )
        if offered:
            members["tools"] = b"[%b]" % b",".join(self._tool(tool, toward) for tool in offered)
        serial = self.request.parallel_tool_calls is False
        if choice is None and not serial:
            return
        if not offered and (choice is None or choice.mode != "required"):
            return  # Without tools there is nothing to choose; saying so is refused.
        found: dict[str, object] = {"type": "auto"}
        if choice is not None and choice.mode == "none":
            found, serial = {"type": "none"}, False
        elif choice is not None and choice.mode == "required":
            found = {"type": "any"}
            if len(choice.names) == 1:
                found = {"type": "tool", "name": choice.names[0]}
        if serial:
            found["disable_parallel_tool_use"] = True
        members["tool_choice"] = quoted(found)

    def _tool(self, tool: Tool, toward: Toward) -> bytes:
        if tool.opaque is not None:
            if tool.opaque.format == FORMAT:
                return tool.opaque.json
            raise self._refused("provider_tools", f"{tool.opaque.kind} has no equivalent")
        if tool.custom:
            tool = custom_tools.as_function(tool)
        described = b""
        if tool.description:
            described = b',"description":' + quoted(tool.description)
        strict = b""
        if tool.strict and (version(toward.model) or (9, 0)) < (4, 1):
            self.ignored.append(self._field("strict_tools"))
        elif tool.strict:
            strict = b',"strict":true'
        self._marked |= tool.cache is not None
        return b'{"name":%b%b,"input_schema":%b%b%b}' % (
            quoted(tool.name), described, _typed(tool.schema), strict, cache_member(tool.cache),
        )  # fmt: skip

    def stop(self) -> bytes:
        """The stop sequences; blank ones are refused by the provider."""
        if any(not one.strip() for one in self.request.stop):
            raise self._refused("stop", "a stop sequence must not be blank for this provider")
        return quoted(list(self.request.stop))

    def output_config(self, effort: str | None) -> bytes:
        """Effort and the schema of the output, b"" where there is neither."""
        wanted = self.request.output
        found: dict[str, bytes] = {}
        if effort is not None:
            found["effort"] = quoted(effort)
        if wanted is not None and wanted.schema is None:
            raise self._refused("json_object", "JSON output needs a schema for this provider")
        if wanted is not None and wanted.schema is not None:
            schema = _with(wanted.schema, "description", wanted.description)
            found["format"] = b'{"type":"json_schema","schema":%b}' % schema
        return _joined(found) if found else b""

    def hints(self, members: dict[str, bytes]) -> None:
        """What identifies the user, and the hints that found no place."""
        user = self.request.user
        if user and len(user) <= USER_ID_CHARS_MAX:
            members["metadata"] = quoted({"user_id": user})
        elif user:
            self.ignored.append(self._field("user"))
        if "prompt_cache" in self.request.spelled and not self._marked:
            self.ignored.append(self._field("prompt_cache"))


def _without_tail(block: Block) -> Block:
    """A text without the blanks at its end, with which a prefill is refused."""
    return replace(block, text=block.text.rstrip()) if isinstance(block, Text) else block


def _call(call: ToolCall) -> bytes:
    if call.custom:
        call = custom_tools.as_arguments(call)
    spelled = object_of(call.arguments)
    if spelled is None:
        raise Unwritable(None, f"the arguments of call {call.id} are not a JSON object")
    return written_call(call, spelled)


def _document(document: Document) -> bytes:
    title = b',"title":' + quoted(document.name) if document.name else b""
    tail = title + cache_member(document.cache)
    return b'{"type":"document","source":%b%b}' % (quoted(_source(document)), tail)


def _source(document: Document) -> dict[str, str]:
    kind = document.media_type or "application/pdf"
    if document.text is not None:
        return {"type": "text", "media_type": "text/plain", "data": document.text}
    if document.url is not None:
        return {"type": "url", "url": document.url}
    if document.data is None:
        raise Unwritable("document_data", "a document without content")
    if kind == "application/pdf":
        return {"type": "base64", "media_type": kind, "data": document.data}
    if not kind.startswith("text/") and kind != "application/json":
        raise Unwritable("document_data", f"documents of type {kind} are not taken here")
    try:
        text = base64.b64decode(document.data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise Unwritable("document_data", f"a document of type {kind} is no text") from None
    return {"type": "text", "media_type": "text/plain", "data": text}


def _typed(schema: bytes | None) -> bytes:
    """A schema with the `type` that this format wants at its top."""
    if schema is None:
        return b'{"type":"object","properties":{}}'
    return _with(schema, "type", "object")


def _with(schema: bytes, key: str, value: str | None) -> bytes:
    """A schema with a member that it lacks; its other bytes as they are."""
    try:
        members = _OBJECT.decode(schema)
    except msgspec.DecodeError:
        return schema
    if key in members or not value:
        return schema
    inner = schema.strip()[1:].lstrip()
    return b"{%b:%b%b%b" % (quoted(key), quoted(value), b"," if members else b"", inner)
