"""Reading the input of OpenAI Responses: items, instructions, tools and text format.

Shared by create, compact and input_tokens, so that the three weigh a request alike. Raises
`Refusal` as `openai_shapes` does. Used by `openai_responses.py`.
"""

from typing import Any

import msgspec
import orjson

from gateway.demo import tokens
from gateway.demo.answer import Ask, Tool, ToolResult
from gateway.demo.openai_models import check_responses
from gateway.demo.openai_shapes import (
    Body,
    check_output_schema,
    check_role,
    check_sampling,
    effort_tokens,
    get_bool,
    get_list,
    get_object,
    get_string,
    get_whole,
    invalid_value,
    missing,
    read_choice,
    read_content,
    read_tool,
    wrong_type,
)
from gateway.demo.reply import Refusal
from gateway.demo.seals import is_sealed
from gateway.demo.switches import Switches

ROLES = ("assistant", "system", "developer", "user")


class Reading(msgspec.Struct):
    """A request read: the question, its items (those of earlier turns first), the users' words."""

    ask: Ask
    items: list[Any]
    user_texts: list[str]


class _Walk(msgspec.Struct):
    pieces: list[str] = []
    user_texts: list[str] = []
    results: list[ToolResult] = []
    seen: list[str] = []
    recalls: bool = False
    call_names: dict[str, str] = {}
    open_calls: list[str] = []
    lone: str | None = None
    """The id of a reasoning item whose following item has not come yet."""


def read(body: Body, earlier: list[Any], switches: Switches) -> Reading:
    """Check a request and read what the answer depends on."""
    check_sampling(body)
    check_responses(body["model"], body, get_object(body, "reasoning"))
    given = body.get("input")
    if given is None and not earlier:
        raise missing("input")
    if given is not None and not isinstance(given, str | list):
        raise wrong_type("input", "one of a string or array of input items", given)
    new = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or [])
    items = [*earlier, *new]
    walk = _Walk()
    for index, item in enumerate(items):
        _read_item(item, f"input[{max(index - len(earlier), 0)}]", walk)
    _check_complete(walk)
    offered = _read_tools(body)
    tools = tuple(tool for tool, _ in offered)
    choice, only = read_choice(_function_choice(body), [tool.name for tool in tools])
    schema, json_object = _read_format(body)
    prompt = tokens.split(get_string(body, "instructions") or "")
    prompt += [piece for _, pieces in offered for piece in pieces]
    ask = Ask(
        prompt=tuple(prompt + walk.pieces),
        user_text=walk.user_texts[-1] if walk.user_texts else "",
        results=tuple(walk.results),
        seen=tuple(walk.seen),
        recalls=walk.recalls,
        tools=tools,
        choice=choice,
        only=only,
        parallel=get_bool(body, "parallel_tool_calls", True),
        schema=schema,
        json_object=json_object,
        max_tokens=get_whole(body, "max_output_tokens", 16),
        thinking_tokens=effort_tokens(
            get_object(body, "reasoning").get("effort"), "reasoning.effort"
        ),
        length=switches.tokens,
    )
    return Reading(ask, items, walk.user_texts)


def _read_item(item: Any, param: str, walk: _Walk) -> None:
    if not isinstance(item, dict):
        raise wrong_type(param, "an object", item)
    kind = item.get("type", "message" if "role" in item else None)
    if kind is None:
        raise missing(f"{param}.type")
    if kind == "reasoning":
        _read_reasoning(item, param, walk)
        return
    if walk.lone is not None and (kind == "function_call_output" or item.get("role") == "user"):
        _check_complete(walk)
    walk.lone = None
    if kind == "function_call_output":
        _read_output(item, param, walk)
        return
    walk.results, walk.seen = [], []
    if kind == "message":
        _read_message(item, param, walk)
    elif kind == "function_call":
        _read_call(item, param, walk)
    else:
        # Compaction and whatever the future brings count by their text.
        walk.pieces += tokens.split(orjson.dumps(item).decode())


def _read_message(item: Body, param: str, walk: _Walk) -> None:
    role = check_role(item.get("role"), ROLES, f"{param}.role")
    if item.get("content") is None:
        raise missing(f"{param}.content")
    found = read_content(item["content"], f"{param}.content")
    walk.pieces += [f"<{role}>", *found.pieces]
    walk.seen = found.seen
    if role == "user":
        walk.recalls = False
        walk.user_texts.append(found.text)


def _read_call(item: Body, param: str, walk: _Walk) -> None:
    for name in ("call_id", "name", "arguments"):
        if not isinstance(item.get(name), str):
            raise missing(f"{param}.{name}")
    walk.call_names[item["call_id"]] = item["name"]
    walk.open_calls.append(item["call_id"])
    walk.pieces += ["<call>", *tokens.split(item["name"]), *tokens.split(item["arguments"])]


def _read_reasoning(item: Body, param: str, walk: _Walk) -> None:
    """Earlier thoughts: what is encrypted must be the demo's own, and something must follow."""
    for index, part in enumerate(get_list(item, "summary")):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise missing(f"{param}.summary[{index}].text")
    sealed = item.get("encrypted_content")
    if sealed is not None and (not isinstance(sealed, str) or not is_sealed(sealed)):
        message = f"The encrypted content for item {item.get('id')} could not be verified. "
        raise Refusal(
            400,
            f"{message}Reason: Encrypted content could not be decrypted or parsed.",
            kind="invalid_request_error",
            code="invalid_encrypted_content",
        )
    walk.lone = str(item.get("id"))
    walk.recalls = walk.recalls or sealed is not None
    walk.pieces += tokens.split(orjson.dumps(item).decode())


def _check_complete(walk: _Walk) -> None:
    """No thought without what it led to, no call without its output."""
    if walk.lone is not None:
        message = f"Item '{walk.lone}' of type 'reasoning' was provided without its required "
        raise invalid_value("input", f"{message}following item.")
    if walk.open_calls:
        message = f"No tool output found for function call {walk.open_calls[0]}."
        raise invalid_value("input", message)


def _read_output(item: Body, param: str, walk: _Walk) -> None:
    call_id = item.get("call_id")
    if not isinstance(call_id, str):
        raise missing(f"{param}.call_id")
    if call_id not in walk.call_names:
        message = f"No tool call found for function call output with call_id {call_id}."
        raise invalid_value("input", message)
    if item.get("output") is None:
        raise missing(f"{param}.output")
    found = read_content(item["output"], f"{param}.output")
    walk.pieces += ["<output>", *found.pieces]
    if call_id in walk.open_calls:
        walk.open_calls.remove(call_id)
    walk.results = [*walk.results, ToolResult(walk.call_names[call_id], found.text)]
    walk.seen = [*walk.seen, *found.seen]


def _read_tools(body: Body) -> list[tuple[Tool, list[str]]]:
    offered = []
    for index, tool in enumerate(get_list(body, "tools")):
        param = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise wrong_type(param, "an object", tool)
        if "type" not in tool:
            raise missing(f"{param}.type")
        # Tools that the provider runs itself are accepted and never used.
        if tool["type"] == "function":
            weight = tokens.split(orjson.dumps(tool).decode())
            offered.append((read_tool(tool, param), weight))
    return offered


def _function_choice(body: Body) -> Any:
    choice = body.get("tool_choice")
    served = isinstance(choice, dict) and choice.get("type") not in ("function", "allowed_tools")
    return "auto" if served else choice


def _read_format(body: Body) -> tuple[dict[str, Any] | None, bool]:
    wanted = get_object(get_object(body, "text"), "format")
    kind = wanted.get("type", "text")
    if kind == "json_schema":
        for name in ("name", "schema"):
            if wanted.get(name) is None:
                raise missing(f"text.format.{name}")
        return check_output_schema(wanted, "text.format.schema"), False
    if kind not in ("text", "json_object"):
        known = "'text', 'json_schema', and 'json_object'"
        message = f"Invalid value: '{kind}'. Supported values are: {known}."
        raise invalid_value("text.format.type", message)
    return None, kind == "json_object"
