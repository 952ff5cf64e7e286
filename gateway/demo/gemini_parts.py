"""Reading the turns and tools of Gemini requests: their shapes, their order, what is in them.

Names are taken in camel case and in snake case, as Google's JSON reading does, and refused where
nobody knows them (`gemini_names.py`). Pictures are looked at (`images.py`). Gemini 3 wants the
demo's own signature, or one of those that Google documents for others' calls, on the first call of
each step of the turn under way. Raises `Refusal`. Used by `gemini_input.py` and `gemini.py`.

Source: ai.google.dev, "Image understanding", "Function calling", "Thought signatures" (November
2026), and public reports of the messages.
"""

import re
from typing import Any

import msgspec
import orjson

from gateway.demo import images, tokens
from gateway.demo.answer import Tool, ToolResult
from gateway.demo.gemini_names import SKIPPED, check_names, invalid, release, unknown_name
from gateway.demo.seals import is_sealed
from gateway.demo.strictness import gemini_schema, unsound

MEDIA_TOKENS = 258

Body = dict[str, Any]

_IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
_MEDIA_TYPE = re.compile(r"(?:audio|video|text)/[\w.+-]+|application/(?:pdf|json|x-[\w-]+)")
_FUNCTION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_DATA = ("text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode",
         "codeExecutionResult", "toolCall", "toolResponse", "thoughtSignature")  # fmt: skip


class Prompt(msgspec.Struct):
    """The prompt gathered in order; `results` and `seen` are of the last turn, `recalls` is whether
    the last of the model's had a signature of its own.
    """

    pieces: list[str] = []
    media: int = 0
    user_text: str = ""
    results: list[ToolResult] = []
    seen: list[str] = []
    recalls: bool = False


def camel(body: Body) -> Body:
    """The same object with its own keys in camel case; values are left alone."""
    return {re.sub(r"_([a-z])", lambda hit: hit[1].upper(), key): body[key] for key in body}


def section(body: Body, name: str) -> Body:
    """An object field, its keys in camel case; empty where absent or null."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"Invalid value at '{name}': an object is expected.", name)
    return camel(value)


def items(holder: Body, name: str) -> list[Any]:
    """A list field; empty where absent or null."""
    value = holder.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(f"Invalid value at '{name}': a list is expected.", name)
    return value


def as_content(content: Any) -> Body:
    """A turn as an object, keys in camel case; a bare string is its text."""
    if isinstance(content, str):
        return {"parts": [{"text": content}]}
    if not isinstance(content, dict):
        raise invalid("Invalid value at 'contents': an object is expected.", "contents")
    return camel(content)


def content_text(content: Any) -> str:
    """The text of a content object's parts; for embeddings."""
    return read_content(as_content(content), "content", Prompt())


def read_contents(given: list[Any], model: str, prompt: Prompt) -> None:
    """Check all turns, one by one and in their order, and add them to `prompt`."""
    contents = [as_content(one) for one in given]
    for index, content in enumerate(contents):
        read_content(content, f"contents[{index}]", prompt)
    _check_order(contents)
    known = release(model)
    if known is not None and known >= (3, 0):
        _check_signed(contents)


def read_content(content: Body, path: str, prompt: Prompt) -> str:
    """Check one turn and add it to `prompt`; returns its text."""
    check_names(content, "content", path)
    role = content.get("role") or "user"
    if role not in ("user", "model", "function", "system"):
        raise invalid("Please use a valid role: user, model.", f"{path}.role")
    parts = _parts(content)
    if parts in ([], [None]):
        raise invalid(f"* GenerateContentRequest.{path}.parts: contents.parts must not be empty.\n")
    prompt.pieces.append(f"<{role}>")
    turn = Prompt()
    texts = []
    for index, part in enumerate(parts):
        where = f"{path}.parts[{index}]"
        if not isinstance(part, dict):
            raise invalid(f"Invalid value at '{where}': an object is expected.", where)
        texts.append(_read_part(camel(part), where, turn))
    text = "\n".join(one for one in texts if one)
    prompt.pieces += turn.pieces
    prompt.media += turn.media
    if role != "system":
        # A turn of results may be followed by one of what else belongs to it.
        goes_on = role != "model" and not turn.results
        prompt.results = prompt.results if goes_on and not text else turn.results
        prompt.seen = turn.seen
        prompt.recalls = turn.recalls if role == "model" else prompt.recalls
        if role == "user" and not turn.results:
            prompt.user_text = text
    return text


def _parts(content: Body) -> list[Any]:
    parts = content.get("parts")
    return parts if isinstance(parts, list) else [parts]


def _read_part(part: Body, where: str, turn: Prompt) -> str:
    """Check a part and add it to its turn; returns its text, empty for anything else."""
    check_names(part, "part", where)
    turn.recalls |= _is_signed(part, where)
    data = [name for name in _DATA[:-1] if name in part]
    if len(data) > 1:
        message = f"Invalid value at '{where}' (oneof), oneof field 'data' is already set."
        raise invalid(f"{message} Cannot set '{data[1]}'", where)
    if "text" in part:
        if not isinstance(part["text"], str):
            raise invalid(f"Invalid value at '{where}.text' (TYPE_STRING)", f"{where}.text")
        turn.pieces += tokens.split(part["text"])
        return part["text"]
    if "inlineData" in part or "fileData" in part:
        _read_media(part, where, turn)
    elif "functionResponse" in part:
        _read_result(section(part, "functionResponse"), where, turn)
    elif "functionCall" in part:
        _read_call(section(part, "functionCall"), where, turn)
    elif not any(name in part for name in _DATA):
        message = f"* GenerateContentRequest.{where}.data: required oneof field 'data' must have "
        raise invalid(f"{message}one initialized field\n")
    else:
        turn.pieces += tokens.split(orjson.dumps(part).decode())
    return ""


def _is_signed(part: Body, where: str) -> bool:
    """Whether a part has a signature of the demo's; refuses any but those and the documented."""
    signature = part.get("thoughtSignature")
    if signature is None:
        return False
    if not isinstance(signature, str):
        field = f"{where}.thought_signature"
        raise invalid(f"Invalid value at '{field}' (TYPE_BYTES)", field)
    if signature not in SKIPPED and not is_sealed(signature):
        raise invalid("Corrupted thought signature.")
    return signature not in SKIPPED


def _read_media(part: Body, where: str, turn: Prompt) -> None:
    """Count a picture, a sound or a document, and look at it where it is a picture."""
    name = "inlineData" if "inlineData" in part else "fileData"
    field = f"{where}.{'inline_data' if name == 'inlineData' else 'file_data'}"
    media = section(part, name)
    check_names(media, "inline_data" if name == "inlineData" else "file_data", field)
    kind = media.get("mimeType")
    if name == "inlineData" or kind is not None:
        if not isinstance(kind, str) or not kind:
            message = f"* GenerateContentRequest.{field}.mime_type: mime_type is not specified\n"
            raise invalid(message)
        if kind not in _IMAGE_TYPES and not _MEDIA_TYPE.fullmatch(kind):
            raise invalid(f"Unsupported MIME type: {kind}")
    if name == "inlineData":
        turn.seen += _seen(media.get("data"), str(kind), f"{field}.data")
    else:
        turn.seen += _seen_at(media.get("fileUri"), kind, field)
    turn.pieces += tokens.media_tokens(orjson.dumps(media).decode(), MEDIA_TOKENS)
    turn.media += MEDIA_TOKENS


def _seen(payload: Any, kind: str, field: str) -> list[str]:
    text = payload if isinstance(payload, str) else ""
    # A `bytes` field takes both alphabets of base64.
    data = images.decoded(text.replace("-", "+").replace("_", "/"))
    if data is None:
        message = f"Invalid value at '{field}' (TYPE_BYTES), Base64 decoding failed"
        raise invalid(f'{message} for "{text[:32]}"', field)
    if kind not in _IMAGE_TYPES:
        return []
    picture = images.look(data)
    if picture is None:
        raise invalid("Unable to process input image. Please retry with a valid image.")
    return [images.sentence(picture)]


def _seen_at(uri: Any, kind: str | None, field: str) -> list[str]:
    if not isinstance(uri, str) or not uri:
        raise invalid(f"* GenerateContentRequest.{field}.file_uri: file_uri is not specified\n")
    if not uri.startswith(("https://", "http://", "gs://")):
        raise invalid("Invalid or unsupported file uri: " + uri[:200])
    return [images.sentence_of_url(uri)] if kind in (None, *_IMAGE_TYPES) else []


def _read_result(given: Body, where: str, turn: Prompt) -> None:
    field = f"{where}.function_response"
    check_names(given, "function_response", field)
    if not isinstance(given.get("name"), str) or not given["name"]:
        raise invalid(f"* GenerateContentRequest.{field}.name: Name cannot be empty.\n")
    if not isinstance(given.get("response", {}), dict):
        field += ".response"
        raise invalid(f"Invalid value at '{field}': an object is expected.", field)
    text = orjson.dumps(given.get("response", {})).decode()
    turn.pieces += ["<result>", *tokens.split(text)]
    turn.results.append(ToolResult(given["name"], text))
    for index, part in enumerate(items(given, "parts")):
        inner = f"{field}.parts[{index}]"
        held = camel(part) if isinstance(part, dict) else {}
        if not {"inlineData", "fileData"} & held.keys():
            raise invalid(f"Invalid value at '{inner}': media is expected.", inner)
        for name in ("inlineData", "fileData"):
            if name in held:
                media = section(held, name)
                media.pop("displayName", None)
                held[name] = media
        _read_media(held, inner, turn)


def _read_call(given: Body, where: str, turn: Prompt) -> None:
    field = f"{where}.function_call"
    check_names(given, "function_call", field)
    if not isinstance(given.get("name"), str) or not given["name"]:
        raise invalid(f"* GenerateContentRequest.{field}.name: Name cannot be empty.\n")
    if not isinstance(given.get("args", {}), dict | None):
        field += ".args"
        raise invalid(f"Invalid value at '{field}': an object is expected.", field)
    turn.pieces += tokens.split(orjson.dumps(given).decode())


def _has(content: Body, name: str) -> int:
    """How many of a turn's parts have this name."""
    return sum(name in camel(part) for part in _parts(content))


def _check_order(contents: list[Body]) -> None:
    """Results right after their calls, as many as there were."""
    called = 0
    for content in contents:
        answered = _has(content, "functionResponse")
        if (answered or called) and answered != called:
            if answered and not called:
                message = (
                    "Please ensure that function response turn comes immediately after a function "
                    "call turn."
                )
            else:
                message = (
                    "Please ensure that the number of function response parts is equal to the "
                    "number of function call parts of the function call turn."
                )
            raise invalid(message)
        called = _has(content, "functionCall")
    if called:
        message = "Please ensure that single turn requests end with a user role or the role field "
        raise invalid(f"{message}is empty.")


def _check_signed(contents: list[Body]) -> None:
    """Within the turn under way the first call of each step has its signature."""
    begun = max(
        (
            index
            for index, content in enumerate(contents)
            if content.get("role") != "model" and not _has(content, "functionResponse")
        ),
        default=0,
    )
    for index, content in enumerate(contents[begun:], begun):
        for part in _parts(content):
            held = camel(part)
            if "functionCall" not in held:
                continue
            if not held.get("thoughtSignature"):
                name = held["functionCall"].get("name")
                raise invalid(
                    "Function call is missing a thought_signature in functionCall parts. This is "
                    "required for tools to work correctly, and missing thought_signature may lead "
                    "to degraded model performance. Additional data, function call "
                    f"`default_api:{name}` , position {index + 1}."
                )
            break


def read_tools(body: Body, prompt: Prompt) -> list[Tool]:
    """The functions on offer; tools that the provider runs itself are accepted and never used."""
    tools = []
    given = body.get("tools") or []
    for number, entry in enumerate(given if isinstance(given, list) else [given]):
        if not isinstance(entry, dict):
            raise invalid("Invalid value at 'tools': an object is expected.", "tools")
        for index, one in enumerate(items(camel(entry), "functionDeclarations")):
            field = f"tools[{number}].function_declarations[{index}]"
            function = camel(one) if isinstance(one, dict) else {}
            tools.append(_read_function(function, field))
            prompt.pieces += tokens.split(orjson.dumps(function).decode())
    return tools


def _read_function(function: Body, field: str) -> Tool:
    check_names(function, "function_declaration", field)
    name = function.get("name")
    if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        message = "Invalid function name. Must start with a letter or an underscore."
        raise invalid(f"* GenerateContentRequest.{field}.name: [FIELD_INVALID] {message}\n")
    plain, own = function.get("parametersJsonSchema"), function.get("parameters")
    if plain is not None and own is not None:
        message = "only one of parameters and parameters_json_schema may be set"
        raise invalid(f"* GenerateContentRequest.{field}: {message}\n")
    if plain is not None:
        wrong = unsound(plain)
        if wrong is not None:
            raise invalid(f"Invalid JSON schema in {field}.parameters_json_schema: {wrong}")
    unknown = gemini_schema(own)
    if unknown is not None:
        raise unknown_name(unknown, f"{field}.parameters")
    schema = plain or own
    return Tool(name, schema if isinstance(schema, dict) else {"type": "object"})
