"""Reading OpenAI requests: checks that answer as the real API does, and what a prompt weighs.

Shared by the OpenAI endpoints of the demo. Every check raises `Refusal` with OpenAI's wording of
the fault, its `param` and its `code`. Unknown fields are let through, as compatible servers do.
"""

import re
from typing import Any

import msgspec
import orjson

from gateway.demo import images, tokens
from gateway.demo.answer import Choice, Tool
from gateway.demo.reply import Refusal
from gateway.demo.strictness import openai_strict, unsound

IMAGE_TOKENS = 85
AUDIO_TOKENS = 50
FILE_TOKENS = 100

# Thinking of a demo model by effort; the real figures vary, these only have to be told apart.
EFFORT_TOKENS = {
    "none": 0, "minimal": 8, "low": 16, "medium": 32, "high": 64, "xhigh": 128, "max": 256,
}  # fmt: skip

Body = dict[str, Any]

_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


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


class Content(msgspec.Struct):
    """A message's content: its text, its tokens, and what was seen of its pictures."""

    text: str = ""
    pieces: list[str] = []
    seen: list[str] = []


_TEXTS = frozenset(("text", "input_text", "output_text", "summary_text"))
_DETAILS = ("auto", "low", "high", "original")
_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),(.*)", re.DOTALL)
_IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def read_content(content: Any, param: str) -> Content:
    """Read a message's content, of chat or responses: a string or a list of parts."""
    if isinstance(content, str):
        return Content(content, tokens.split(content))
    if not isinstance(content, list):
        raise wrong_type(param, "one of a string or array of objects", content)
    found = Content()
    texts = []
    for index, part in enumerate(content):
        texts.append(_read_part(part, f"{param}[{index}]", found))
    found.text = "\n".join(text for text in texts if text)
    return found


def _read_part(part: Any, param: str, found: Content) -> str:
    """The text of one content part, empty for media; its tokens go to `found`."""
    if not isinstance(part, dict):
        raise wrong_type(param, "an object", part)
    kind = str(part.get("type"))
    if kind in _TEXTS:
        text = part.get("text")
        if not isinstance(text, str):
            raise (
                missing(f"{param}.text")
                if text is None
                else wrong_type(f"{param}.text", "a string", text)
            )
        found.pieces += tokens.split(text)
        return text
    if kind == "refusal":
        found.pieces += tokens.split(str(part.get("refusal", "")))
        return ""
    weights = {
        "image_url": IMAGE_TOKENS, "input_image": IMAGE_TOKENS,
        "input_audio": AUDIO_TOKENS, "file": FILE_TOKENS, "input_file": FILE_TOKENS,
    }  # fmt: skip
    if kind not in weights:
        known = "'text', 'image_url', 'input_audio', 'refusal', 'audio', and 'file'"
        message = f"Invalid value: '{kind}'. Supported values are: {known}."
        raise invalid_value(f"{param}.type", message)
    if kind == "image_url":
        found.seen += _chat_image(part, param)
    elif kind == "input_image":
        found.seen += _responses_image(part, param)
    found.pieces += tokens.media_tokens(orjson.dumps(part).decode(), weights[kind])
    return ""


def _chat_image(part: Body, param: str) -> list[str]:
    """What is seen of chat's image part: an object with a URL."""
    image = part.get("image_url")
    if not isinstance(image, dict):
        where = f"{param}.image_url"
        raise missing(where) if image is None else wrong_type(where, "an object", image)
    _check_detail(image, f"{param}.image_url.detail")
    url = image.get("url")
    if not isinstance(url, str):
        where = f"{param}.image_url.url"
        raise missing(where) if url is None else wrong_type(where, "a string", url)
    return [_image_of(url, None)]


def _responses_image(part: Body, param: str) -> list[str]:
    """What is seen of an image item: its URL is a plain string; a file is not looked at."""
    _check_detail(part, f"{param}.detail")
    url = part.get("image_url")
    if url is None:
        if not isinstance(part.get("file_id"), str):
            raise missing(f"{param}.image_url")
        return []
    if not isinstance(url, str):
        raise wrong_type(f"{param}.image_url", "a string", url)
    return [_image_of(url, f"{param}.image_url")]


def _check_detail(holder: Body, param: str) -> None:
    detail = holder.get("detail")
    if detail is not None and detail not in _DETAILS:
        known = ", ".join(f"'{name}'" for name in _DETAILS)
        raise invalid_value(param, f"Invalid value: '{detail}'. Supported values are: {known}.")


def _image_of(url: str, param: str | None) -> str:
    """What is seen at a URL; `param` is where Responses has it, chat's faults name no field."""
    if url.startswith(("https://", "http://")):
        return images.sentence_of_url(url)
    found = _DATA_URL.fullmatch(url)
    if found is None:
        if param is not None:
            message = f"Invalid '{param}'. Expected a valid URL, but got a value with an invalid "
            raise invalid_value(param, f"{message}format.", "invalid_url")
        message = "Invalid image URL. Expected an http, https or data URL."
        raise _bad_image(message, "invalid_image_url")
    media_type, options, payload = found[1], found[2], found[3]
    if media_type not in _IMAGE_TYPES:
        raise _bad_image(
            "Invalid MIME type. Only image types are supported.", "invalid_image_format", param
        )
    data = images.decoded(payload) if options.endswith(";base64") else None
    if data is None:
        wanted = "a base64-encoded data URL with an image MIME type (e.g. "
        example = "'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU=')"
        message = f"Invalid image: expected {wanted}{example}, but got invalid base64 data."
        raise _bad_image(message, "invalid_base64", param)
    picture = images.look(data)
    # The type that a data URL names is not held against what the file is.
    if picture is None or picture.media_type not in _IMAGE_TYPES:
        message = "You uploaded an unsupported image. Please make sure your image has of one the "
        formats = "following formats: ['png', 'jpeg', 'gif', 'webp']."
        raise _bad_image(message + formats, "invalid_image_format", param)
    return images.sentence(picture)


def _bad_image(message: str, code: str, param: str | None = None) -> Refusal:
    return Refusal(400, message, param=param, kind="invalid_request_error", code=code)


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
    if not _FUNCTION_NAME.fullmatch(name):
        expected = "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        message = f"Invalid '{param}.name': string does not match pattern. {expected}"
        raise invalid_value(f"{param}.name", message)
    parameters = definition.get("parameters")
    if not isinstance(parameters, dict):
        return Tool(name, {"type": "object"})
    wrong = unsound(parameters)
    if wrong is None and parameters.get("type", "object") != "object":
        kind = parameters["type"]
        wrong = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
    if wrong is None and definition.get("strict") is True:
        wrong = openai_strict(parameters)
    if wrong is not None:
        message = f"Invalid schema for function '{name}': {wrong}"
        raise invalid_value(f"{param}.parameters", message, "invalid_function_parameters")
    return Tool(name, parameters)


def check_output_schema(format_: Body, param: str) -> Body:
    """The schema of `response_format.json_schema` or `text.format`, checked as strictly as asked.

    `param` is the field that the API names.
    """
    schema = get_object(format_, "schema")
    wrong = unsound(schema)
    if wrong is None and format_.get("strict") is True:
        wrong = openai_strict(schema)
    if wrong is not None:
        name = str(format_.get("name", ""))
        message = f"Invalid schema for response_format '{name}': {wrong}"
        raise Refusal(400, message, param=param, kind="invalid_request_error")
    return schema
