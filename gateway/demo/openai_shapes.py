"""Reading OpenAI requests: checks that answer as the real API does, and what a prompt weighs.

Shared by the OpenAI endpoints of the demo. Every check raises `Refusal` with OpenAI's wording of
the fault, its `param` and its `code`. Unknown fields are let through, as compatible servers do.
"""

from typing import Any

import orjson

from gateway.demo import tokens
from gateway.demo.answer import Choice, Tool
from gateway.demo.reply import Refusal

IMAGE_TOKENS = 85
AUDIO_TOKENS = 50
FILE_TOKENS = 100

# Thinking of a demo model by effort; the real figures vary, these only have to be told apart.
EFFORT_TOKENS = {
    "none": 0, "minimal": 8, "low": 16, "medium": 32, "high": 64, "xhigh": 128, "max": 256,
}  # fmt: skip

Body = dict[str, Any]


def type_name(value: Any) -> str:
    """The JSON type of a value in OpenAI's words."""
    if value is None:
        return "null"
    names = (
        (bool, "a boolean"), (str, "a string"), (int, "an integer"), (float, "a decimal"),
        (list, "an array"), (dict, "an object"),
    )  # fmt: skip
    return next(name for kind, name in names if isinstance(value, kind))


def wrong_type(param: str, expected: str, value: Any) -> Refusal:
    """The refusal of a field of the wrong type."""
    got = type_name(value)
    message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    return Refusal(400, message, param=param, kind="invalid_request_error", code="invalid_type")


def missing(param: str) -> Refusal:
    """The refusal of a request that lacks a field."""
    return Refusal(
        400,
        f"Missing required parameter: '{param}'.",
        param=param,
        kind="invalid_request_error",
        code="missing_required_parameter",
    )


def invalid_value(param: str, message: str, code: str = "invalid_value") -> Refusal:
    """The refusal of a value that the field cannot take."""
    return Refusal(400, message, param=param, kind="invalid_request_error", code=code)


def get_string(body: Body, name: str) -> str | None:
    """A field that may be absent or null."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return value


def get_bool(body: Body, name: str, default: bool = False) -> bool:
    """A field that may be absent or null."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value


def get_object(body: Body, name: str) -> Body:
    """A field that may be absent or null: then an empty object."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong_type(name, "an object", value)
    return value


def get_list(body: Body, name: str) -> list[Any]:
    """A field that may be absent or null: then an empty list."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong_type(name, "an array of objects", value)
    return value


def get_whole(body: Body, name: str, low: int, high: int | None = None) -> int | None:
    """A whole number within bounds, or None where absent or null."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer", value)
    if value < low:
        message = f"Expected a value >= {low}, but got {value} instead."
        raise invalid_value(
            name,
            f"Invalid '{name}': integer below minimum value. {message}",
            "integer_below_min_value",
        )
    if high is not None and value > high:
        message = f"Expected a value <= {high}, but got {value} instead."
        raise invalid_value(
            name,
            f"Invalid '{name}': integer above maximum value. {message}",
            "integer_above_max_value",
        )
    return value


def check_decimal(body: Body, name: str, low: float, high: float) -> None:
    """Check a number's bounds, where it is given."""
    value = body.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(name, "a decimal", value)
    if value < low or value > high:
        side, sign, bound = ("below minimum", ">=", low) if value < low else (
            "above maximum", "<=", high,
        )  # fmt: skip
        code = "decimal_below_min_value" if value < low else "decimal_above_max_value"
        message = f"Expected a value {sign} {bound:g}, but got {value} instead."
        raise invalid_value(name, f"Invalid '{name}': decimal {side} value. {message}", code)


def check_sampling(body: Body) -> None:
    """The bounds of the sampling fields that chat and responses share."""
    check_decimal(body, "temperature", 0, 2)
    check_decimal(body, "top_p", 0, 1)
    check_decimal(body, "frequency_penalty", -2, 2)
    check_decimal(body, "presence_penalty", -2, 2)


def get_stops(body: Body) -> tuple[str, ...]:
    """The stop sequences: a string, up to four of them, or none."""
    value = body.get("stop")
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise wrong_type("stop", "a string or an array of strings", value)
    if len(stops) > 4:
        message = "Invalid 'stop': array too long. Expected an array with maximum length 4, but "
        got = f"got an array with length {len(stops)} instead."
        raise invalid_value("stop", message + got, "array_above_max_length")
    return tuple(stops)


def effort_tokens(effort: Any, param: str) -> int:
    """How long the demo thinks for a reasoning effort (None: not at all)."""
    if effort is None:
        return 0
    if not isinstance(effort, str) or effort not in EFFORT_TOKENS:
        known = ", ".join(f"'{name}'" for name in EFFORT_TOKENS)
        raise invalid_value(param, f"Invalid value: '{effort}'. Supported values are: {known}.")
    return EFFORT_TOKENS[effort]


def check_role(role: Any, known: tuple[str, ...], param: str) -> str:
    """A message's role."""
    if role is None:
        raise missing(param)
    if not isinstance(role, str) or role not in known:
        names = ", ".join(f"'{name}'" for name in known)
        raise invalid_value(param, f"Invalid value: '{role}'. Supported values are: {names}.")
    return role


def part_tokens(part: Any, param: str) -> tuple[str, list[str]]:
    """The text (empty for media) and the tokens of one content part, of chat or responses."""
    if not isinstance(part, dict):
        raise wrong_type(param, "an object", part)
    kind = str(part.get("type"))
    if kind in {"text", "input_text", "output_text", "summary_text"}:
        text = part.get("text")
        if not isinstance(text, str):
            raise (
                missing(f"{param}.text")
                if text is None
                else wrong_type(f"{param}.text", "a string", text)
            )
        return text, tokens.split(text)
    if kind == "refusal":
        return "", tokens.split(str(part.get("refusal", "")))
    weights = {
        "image_url": IMAGE_TOKENS, "input_image": IMAGE_TOKENS,
        "input_audio": AUDIO_TOKENS, "file": FILE_TOKENS, "input_file": FILE_TOKENS,
    }  # fmt: skip
    if kind not in weights:
        known = "'text', 'image_url', 'input_audio', 'refusal', 'audio', and 'file'"
        message = f"Invalid value: '{kind}'. Supported values are: {known}."
        raise invalid_value(f"{param}.type", message)
    return "", tokens.media_tokens(orjson.dumps(part).decode(), weights[kind])


def content_tokens(content: Any, param: str) -> tuple[str, list[str]]:
    """The text and the tokens of a message's content: a string or a list of parts."""
    if isinstance(content, str):
        return content, tokens.split(content)
    if not isinstance(content, list):
        raise wrong_type(param, "one of a string or array of objects", content)
    texts = []
    pieces: list[str] = []
    for index, part in enumerate(content):
        text, weight = part_tokens(part, f"{param}[{index}]")
        texts.append(text)
        pieces += weight
    return "\n".join(text for text in texts if text), pieces


def read_choice(choice: Any, names: list[str]) -> tuple[Choice, tuple[str, ...]]:
    """`tool_choice` of chat (nested names) and responses (flat ones): choice and allowed names."""
    if choice is None or choice == "auto":
        return "auto", ()
    if choice == "none":
        return "none", ()
    if choice == "required":
        return "required", ()
    if isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            nested = choice.get("allowed_tools")
            allowed = nested if isinstance(nested, dict) else choice
            listed = tuple(_tool_name(tool) for tool in get_list(allowed, "tools"))
            mode: Choice = "required" if allowed.get("mode") == "required" else "auto"
            return mode, listed
        name = _tool_name(choice)
        if name not in names:
            raise invalid_value(
                "tool_choice", f"Tool choice '{name}' not found in 'tools' parameter."
            )
        return "required", (name,)
    known = "'none', 'auto', and 'required'"
    raise invalid_value("tool_choice", f"Invalid value: '{choice}'. Supported values are: {known}.")


def _tool_name(tool: Any) -> str:
    if not isinstance(tool, dict):
        return ""
    function = tool.get("function")
    return str((function if isinstance(function, dict) else tool).get("name", ""))


def read_tool(definition: Any, param: str) -> Tool:
    """A function's definition: the object that carries `name` and `parameters`."""
    if not isinstance(definition, dict):
        raise missing(param) if definition is None else wrong_type(param, "an object", definition)
    name = definition.get("name")
    if not isinstance(name, str):
        raise (
            missing(f"{param}.name")
            if name is None
            else wrong_type(f"{param}.name", "a string", name)
        )
    parameters = definition.get("parameters")
    return Tool(name, parameters if isinstance(parameters, dict) else {"type": "object"})
