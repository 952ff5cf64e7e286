"""Reading Anthropic Messages requests: checks that answer as the real API does, and the prompt.

Shared by creating a message and counting its tokens, so that the two agree. Every check raises
`Refusal` in the API's wording (`messages.0.role: …`). Unknown top-level fields are refused, as the
real API does, unless an `anthropic-beta` header is sent. Used by `anthropic_messages.py`.
"""

import base64
import hashlib
from typing import Any

import msgspec
import orjson

from gateway.demo import tokens
from gateway.demo.answer import Ask, Choice, Tool, ToolResult
from gateway.demo.reply import Refusal
from gateway.demo.switches import Switches
from gateway.demo.tokens import Lifetime, Mark

IMAGE_TOKENS = 258
DOCUMENT_TOKENS = 500
THINKING_TOKENS_MAX = 48
"""A demo model thinks briefly, however large its budget."""

Body = dict[str, Any]

_FIELDS = frozenset(
    {
        "model", "messages", "max_tokens", "system", "stop_sequences", "stream", "temperature",
        "top_k", "top_p", "tools", "tool_choice", "thinking", "metadata", "service_tier",
        "output_config", "output_format", "cache_control", "container", "context_management",
        "mcp_servers", "inference_geo", "speed",
    }
)  # fmt: skip


class Reading(msgspec.Struct):
    """A request read: the question, and where its cache points are."""

    ask: Ask
    marks: list[Mark]


class _Prompt(msgspec.Struct):
    """The prompt gathered in the order the cache sees it: tools, system, messages."""

    pieces: list[str] = []
    marks: list[Mark] = []
    user_text: str = ""
    results: list[ToolResult] = []
    call_names: dict[str, str] = {}

    def mark(self, holder: Body) -> None:
        """Note a cache point after what was added last, if `holder` carries one."""
        control = holder.get("cache_control")
        if isinstance(control, dict):
            lifetime: Lifetime = "1h" if control.get("ttl") == "1h" else "5m"
            self.marks.append(Mark(len(self.pieces), lifetime))


def fault(path: str, message: str) -> Refusal:
    """A 400 that names the field, as the API words it."""
    return Refusal(400, f"{path}: {message}")


def read(body: Body, switches: Switches, *, counting: bool, beta: bool) -> Reading:
    """Check a request and read what the answer depends on; `counting` needs no `max_tokens`."""
    if not beta:
        for name in body:
            if name not in _FIELDS:
                raise fault(name, "Extra inputs are not permitted")
    max_tokens = _read_max_tokens(body, counting=counting)
    prompt = _Prompt()
    tools = _read_tools(body, prompt)
    _read_system(body.get("system"), prompt)
    _read_messages(body, prompt)
    prompt.mark(body)
    choice, only, parallel = _read_choice(body, tools)
    thinking = _read_thinking(body, max_tokens, forced=choice == "required")
    _check_sampling(body, thinking=thinking > 0)
    ask = Ask(
        prompt=tuple(prompt.pieces),
        user_text=prompt.user_text,
        results=tuple(prompt.results),
        tools=tuple(tools),
        choice=choice,
        only=only,
        parallel=parallel,
        schema=_read_schema(body),
        stop=_read_stops(body),
        max_tokens=max_tokens,
        thinking_tokens=thinking,
        length=switches.tokens,
    )
    return Reading(ask, prompt.marks)


def sign(thinking: str) -> str:
    """The signature of a thinking block: the API takes a block back only with its own."""
    digest = hashlib.blake2b(
        thinking.encode("utf-8", "surrogatepass"), digest_size=48, key=b"demo thinking"
    )
    return base64.b64encode(b"demo" + digest.digest()).decode()


def _read_max_tokens(body: Body, *, counting: bool) -> int | None:
    value = body.get("max_tokens")
    if value is None:
        if counting:
            return None
        raise fault("max_tokens", "Field required")
    if isinstance(value, bool) or not isinstance(value, int):
        raise fault("max_tokens", "Input should be a valid integer")
    if value < 1:
        raise fault("max_tokens", "must be greater than or equal to 1")
    return value


def _read_tools(body: Body, prompt: _Prompt) -> list[Tool]:
    tools = []
    for index, tool in enumerate(_list(body, "tools")):
        path = f"tools.{index}"
        if not isinstance(tool, dict):
            raise fault(path, "Input should be a valid dictionary")
        if not isinstance(tool.get("name"), str):
            raise fault(f"{path}.name", "Field required")
        prompt.pieces += tokens.split(orjson.dumps(_bare(tool)).decode())
        prompt.mark(tool)
        # Tools that the provider runs itself are accepted and never used.
        if tool.get("type", "custom") in (None, "custom"):
            schema = tool.get("input_schema")
            if not isinstance(schema, dict):
                raise fault(f"{path}.custom.input_schema", "Field required")
            if schema.get("type") != "object":
                raise fault(f"{path}.custom.input_schema.type", "Input should be 'object'")
            tools.append(Tool(tool["name"], schema))
    return tools


def _read_system(system: Any, prompt: _Prompt) -> None:
    if system is None:
        return
    if isinstance(system, str):
        prompt.pieces += ["<system>", *tokens.split(system)]
        return
    if not isinstance(system, list):
        raise fault("system", "Input should be a valid list")
    prompt.pieces.append("<system>")
    for index, block in enumerate(system):
        if not isinstance(block, dict) or not isinstance(block.get("text"), str):
            raise fault(f"system.{index}.text", "Field required")
        prompt.pieces += tokens.split(block["text"])
        prompt.mark(block)


def _read_messages(body: Body, prompt: _Prompt) -> None:
    messages = body.get("messages")
    if messages is None:
        raise fault("messages", "Field required")
    if not isinstance(messages, list):
        raise fault("messages", "Input should be a valid list")
    if not messages:
        raise fault("messages", "at least one message is required")
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        path = f"messages.{index}"
        if not isinstance(message, dict):
            raise fault(path, "Input should be a valid dictionary")
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise fault(f"{path}.role", "Input should be 'user' or 'assistant'")
        blocks = _blocks(message.get("content"), path)
        _check_answered(blocks, open_calls, path)
        open_calls = {str(block.get("id")) for block in blocks if block.get("type") == "tool_use"}
        prompt.pieces.append(f"<{role}>")
        prompt.results = []
        texts = _read_blocks(blocks, path, prompt)
        if role == "user":
            prompt.user_text = "\n".join(texts)
    if open_calls:
        _check_answered([], open_calls, f"messages.{len(messages) - 1}")


def _blocks(content: Any, path: str) -> list[Body]:
    if content is None:
        raise fault(f"{path}.content", "Field required")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise fault(f"{path}.content", "Input should be a valid list")
    for index, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise fault(f"{path}.content.{index}.type", "Field required")
    return content


def _check_answered(blocks: list[Body], open_calls: set[str], path: str) -> None:
    answered = {str(block.get("tool_use_id")) for block in blocks if block["type"] == "tool_result"}
    forgotten = sorted(open_calls - answered)
    if forgotten:
        message = "`tool_use` ids were found without `tool_result` blocks immediately after: "
        raise fault(path, message + ", ".join(forgotten))
    unasked = sorted(answered - open_calls)
    if unasked:
        message = "unexpected `tool_use_id` found in `tool_result` blocks: "
        raise fault(f"{path}.content", message + ", ".join(unasked))


def _read_blocks(blocks: list[Body], path: str, prompt: _Prompt) -> list[str]:
    texts = []
    for index, block in enumerate(blocks):
        where = f"{path}.content.{index}"
        kind = block["type"]
        if kind == "text":
            text = block.get("text")
            if not isinstance(text, str):
                raise fault(f"{where}.text.text", "Field required")
            if not text:
                raise fault(path, "text content blocks must be non-empty")
            texts.append(text)
            prompt.pieces += tokens.split(text)
        elif kind == "tool_result":
            _read_result(block, where, prompt)
        elif kind == "tool_use":
            prompt.call_names[str(block.get("id"))] = str(block.get("name"))
            prompt.pieces += tokens.split(orjson.dumps(_bare(block)).decode())
        elif kind == "thinking":
            _check_thinking(block, where)
            prompt.pieces += tokens.split(block["thinking"])
        elif kind in {"image", "document"}:
            weight = IMAGE_TOKENS if kind == "image" else DOCUMENT_TOKENS
            payload = orjson.dumps(_bare(block)).decode()
            prompt.pieces += tokens.media_tokens(payload, weight)
        else:
            prompt.pieces += tokens.split(orjson.dumps(_bare(block)).decode())
        prompt.mark(block)
    return texts


def _read_result(block: Body, where: str, prompt: _Prompt) -> None:
    content = block.get("content", "")
    inner = _Prompt()
    texts = _read_blocks(_blocks(content, where), where, inner) if content else []
    prompt.pieces += ["<result>", *inner.pieces]
    name = prompt.call_names.get(str(block.get("tool_use_id")), "")
    prompt.results = [*prompt.results, ToolResult(name, "\n".join(texts))]


def _check_thinking(block: Body, where: str) -> None:
    thinking, signature = block.get("thinking"), block.get("signature")
    if not isinstance(thinking, str):
        raise fault(f"{where}.thinking.thinking", "Field required")
    if signature != sign(thinking):
        raise fault(where, "Invalid `signature` in `thinking` block")


def _read_choice(body: Body, tools: list[Tool]) -> tuple[Choice, tuple[str, ...], bool]:
    choice = body.get("tool_choice")
    if choice is None:
        return "auto", (), True
    if not isinstance(choice, dict):
        raise fault("tool_choice", "Input should be a valid dictionary")
    if not body.get("tools"):
        raise Refusal(400, "tool_choice may only be specified while providing tools.")
    parallel = not choice.get("disable_parallel_tool_use", False)
    kind = str(choice.get("type"))
    if kind == "tool":
        name = choice.get("name")
        if name not in [tool.name for tool in tools]:
            raise fault("tool_choice.tool.name", f"Tool '{name}' not found in provided tools")
        return "required", (str(name),), parallel
    kinds: dict[str, Choice] = {"auto": "auto", "any": "required", "none": "none"}
    if kind not in kinds:
        message = f"Input tag '{kind}' found does not match any of the expected tags: "
        raise fault("tool_choice", message + "'auto', 'any', 'tool', 'none'")
    return kinds[kind], (), parallel


def _read_thinking(body: Body, max_tokens: int | None, *, forced: bool) -> int:
    thinking = body.get("thinking")
    if thinking is None:
        return 0
    if not isinstance(thinking, dict):
        raise fault("thinking", "Input should be a valid dictionary")
    kind = thinking.get("type")
    if kind == "disabled":
        return 0
    if kind not in ("enabled", "adaptive"):
        message = f"Input tag '{kind}' found does not match any of the expected tags: "
        raise fault("thinking", message + "'disabled', 'enabled', 'adaptive'")
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if isinstance(budget, bool) or not isinstance(budget, int):
            raise fault("thinking.enabled.budget_tokens", "Field required")
        if budget < 1024:
            message = "Input should be greater than or equal to 1024"
            raise fault("thinking.enabled.budget_tokens", message)
        if max_tokens is not None and budget >= max_tokens:
            raise Refusal(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
    if forced:
        raise Refusal(400, "Thinking may not be enabled when tool_choice forces tool use.")
    return THINKING_TOKENS_MAX


def _check_sampling(body: Body, *, thinking: bool) -> None:
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise fault(name, "Input should be a valid number")
        if not 0 <= value <= 1:
            raise fault(name, "range: 0..1")
    if thinking and body.get("temperature") not in (None, 1):
        raise Refusal(400, "`temperature` may only be set to 1 when thinking is enabled.")


def _read_schema(body: Body) -> dict[str, Any] | None:
    config = body.get("output_config")
    wanted = config.get("format") if isinstance(config, dict) else None
    wanted = wanted or body.get("output_format")
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") != "json_schema":
        raise fault("output_config.format.type", "Input should be 'json_schema'")
    schema = wanted.get("schema")
    if not isinstance(schema, dict):
        raise fault("output_config.format.schema", "Field required")
    return schema


def _read_stops(body: Body) -> tuple[str, ...]:
    stops = _list(body, "stop_sequences")
    for stop in stops:
        if not isinstance(stop, str):
            raise fault("stop_sequences.0", "Input should be a valid string")
        if not stop.strip():
            raise fault("stop_sequences", "each stop sequence must contain non-whitespace")
    return tuple(stops)


def _list(body: Body, name: str) -> list[Any]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise fault(name, "Input should be a valid list")
    return value


def _bare(holder: Body) -> Body:
    """Without its cache point, which is no part of the prompt."""
    return {key: value for key, value in holder.items() if key != "cache_control"}
