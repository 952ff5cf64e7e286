"""Reading Anthropic Messages requests: checks that answer as the real API does, and the prompt.

Shared by creating a message and counting its tokens, so that the two agree. Every check raises
`Refusal` in the API's wording (`messages.0.role: …`). Unknown top-level fields are refused, as the
real API does, unless an `anthropic-beta` header is sent. Used by `anthropic_messages.py`.
"""

import re
from typing import Any

import msgspec
import orjson

from gateway.demo import tokens
from gateway.demo.answer import Ask, Choice, Tool
from gateway.demo.anthropic_blocks import Body, Prompt, bare, blocks_of, fault, read_blocks
from gateway.demo.reply import Refusal
from gateway.demo.strictness import anthropic_output, unsound
from gateway.demo.switches import Switches
from gateway.demo.tokens import Mark

THINKING_TOKENS_MAX = 48
"""A demo model thinks briefly, however large its budget."""

_FIELDS = frozenset(
    {
        "model", "messages", "max_tokens", "system", "stop_sequences", "stream", "temperature",
        "top_k", "top_p", "tools", "tool_choice", "thinking", "metadata", "service_tier",
        "output_config", "output_format", "cache_control", "container", "context_management",
        "mcp_servers", "inference_geo", "speed",
    }
)  # fmt: skip


_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_GENERATION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


class Reading(msgspec.Struct):
    """A request read: the question, and where its cache points are."""

    ask: Ask
    marks: list[Mark]
    shows_thoughts: bool


def read(body: Body, switches: Switches, *, counting: bool, beta: bool) -> Reading:
    """Check a request and read what the answer depends on; `counting` needs no `max_tokens`."""
    if not beta:
        for name in body:
            if name not in _FIELDS:
                raise fault(name, "Extra inputs are not permitted")
    max_tokens = _read_max_tokens(body, counting=counting)
    prompt = Prompt(beta=beta)
    tools = _read_tools(body, prompt)
    _read_system(body.get("system"), prompt)
    _read_messages(body, prompt)
    prompt.mark(body)
    choice, only, parallel = _read_choice(body, tools)
    thinking = _read_thinking(body, max_tokens, forced=choice == "required")
    _check_effort(body)
    _check_sampling(body, thinking=thinking > 0)
    ask = Ask(
        prompt=tuple(prompt.pieces),
        user_text=prompt.user_text,
        results=tuple(prompt.results),
        seen=tuple(prompt.seen),
        recalls=prompt.recalls,
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
    return Reading(ask, prompt.marks, shows_thoughts=thinking > 0 and _is_shown(body))


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


def _read_tools(body: Body, prompt: Prompt) -> list[Tool]:
    tools = []
    for index, tool in enumerate(_list(body, "tools")):
        path = f"tools.{index}"
        if not isinstance(tool, dict):
            raise fault(path, "Input should be a valid dictionary")
        if not isinstance(tool.get("name"), str):
            raise fault(f"{path}.name", "Field required")
        if not _TOOL_NAME.fullmatch(tool["name"]):
            pattern = "^[a-zA-Z0-9_-]{1,128}$"
            raise fault(f"{path}.custom.name", f"String should match pattern '{pattern}'")
        prompt.pieces += tokens.split(orjson.dumps(bare(tool)).decode())
        prompt.mark(tool)
        # Tools that the provider runs itself are accepted and never used.
        if tool.get("type", "custom") in (None, "custom"):
            schema = tool.get("input_schema")
            if not isinstance(schema, dict):
                raise fault(f"{path}.custom.input_schema", "Field required")
            if schema.get("type") != "object":
                raise fault(f"{path}.custom.input_schema.type", "Input should be 'object'")
            if unsound(schema) is not None:
                message = "JSON schema is invalid. It must match JSON Schema draft 2020-12"
                raise fault(f"{path}.custom.input_schema", message)
            tools.append(Tool(tool["name"], schema))
    return tools


def _read_system(system: Any, prompt: Prompt) -> None:
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


def _read_messages(body: Body, prompt: Prompt) -> None:
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
        blocks = blocks_of(message.get("content"), path)
        _check_answered(blocks, open_calls, path)
        open_calls = {str(block.get("id")) for block in blocks if block.get("type") == "tool_use"}
        prompt.pieces.append(f"<{role}>")
        prompt.results, prompt.seen = [], []
        prompt.recalls = prompt.recalls and role != "assistant"
        texts = read_blocks(blocks, path, str(role), prompt)
        if role == "user":
            prompt.user_text = "\n".join(texts)
    if open_calls:
        _check_answered([], open_calls, f"messages.{len(messages) - 1}")


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
    _check_mode(body, kind)
    if kind == "enabled":
        _check_loop(body["messages"])
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


def _check_mode(body: Body, kind: str) -> None:
    """Whether the model thinks in this way, by its name; other names think in any.

    Source: platform.claude.com, "Adaptive thinking", "Supported models" (November 2026).
    """
    model, generation = _generation(body)
    if generation is None:
        return
    if generation < (3, 7):
        raise Refusal(400, f"'{model}' does not support thinking.")
    if kind == "adaptive" and generation < (4, 6):
        raise Refusal(400, "adaptive thinking is not supported on this model")
    if kind == "enabled" and generation > (4, 6):
        message = '"thinking.type.enabled" is not supported for this model. Use '
        instead = (
            '"thinking.type.adaptive" and "output_config.effort" to control thinking behavior.'
        )
        raise Refusal(400, message + instead)


def _generation(body: Body) -> tuple[str, tuple[int, int] | None]:
    """The model's name without switches, and its generation where it is a Claude."""
    model = str(body.get("model")).partition("+")[0]
    found = _GENERATION.search(model)
    return model, (int(found[1]), int(found[2] or 0)) if found else None


def _is_shown(body: Body) -> bool:
    """Whether thoughts are shown; where it is not said, the newest models keep them."""
    _, generation = _generation(body)
    newest = generation is not None and generation > (4, 6)
    display = body["thinking"].get("display") or ("omitted" if newest else "summarized")
    return bool(display == "summarized")


def _check_loop(messages: list[Body]) -> None:
    """With a budget, a turn that goes on after tool results must begin with what was thought."""
    if len(messages) < 2 or messages[-1]["role"] != "user":
        return
    last = blocks_of(messages[-1]["content"], "messages")
    before = blocks_of(messages[-2]["content"], "messages")
    answers = any(block["type"] == "tool_result" for block in last)
    if answers and before and before[0]["type"] not in ("thinking", "redacted_thinking"):
        message = (
            f"Expected `thinking` or `redacted_thinking`, but found `{before[0]['type']}`. When "
            "`thinking` is enabled, a final `assistant` message must start with a thinking block "
            "(preceeding the lastmost set of `tool_use` and `tool_result` blocks)."
        )
        raise fault(f"messages.{len(messages) - 2}.content.0.type", message)


def _check_effort(body: Body) -> None:
    config = body.get("output_config")
    effort = config.get("effort") if isinstance(config, dict) else None
    if effort is not None and effort not in _EFFORTS:
        known = "'low', 'medium', 'high', 'xhigh' or 'max'"
        raise fault("output_config.effort", f"Input should be {known}")


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
    wrong = unsound(schema) or anthropic_output(schema)
    if wrong is not None:
        raise fault("output_config.format.schema", wrong)
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
