"""The request bodies of generateContent and countTokens, decoded.

Google reads its JSON by protobuf's rules: every name in camel case or snake case, one object where
a list is due, numbers as strings, null for absent. What SDKs usually send is decoded straight into
the Structs here. A body that is spelled otherwise is first rewritten (`_tidy`): names to camel
case, fields that nobody knows taken out and remembered. Used by `gemini_requests.py` and
`gemini_counting.py`. Source: ai.google.dev API reference, "generateContent" (November 2026), and
recorded traffic.
"""

import re
from collections.abc import Callable
from typing import Any, get_args

import msgspec
from msgspec import Raw

from gateway.errors import GatewayError

ABSENT = Raw()
"""The default of every Raw field: tells "not sent" from null."""


class _Strict(
    msgspec.Struct,
    rename="camel",
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
):
    """An object of which nothing but the listed members is known."""


class FunctionCall(_Strict):
    """A call; `args` is an object."""

    name: str
    id: str | None = None
    args: Raw = ABSENT


class Blob(_Strict):
    """Inline media, `data` as base64."""

    mime_type: str | None = None
    data: str | None = None
    display_name: str | None = None


class FileData(_Strict):
    """Media by URI: of the File API, a bucket, or anywhere on the web."""

    file_uri: str | None = None
    mime_type: str | None = None
    display_name: str | None = None


class ResultPart(_Strict):
    """Media within a function's result (Gemini 3)."""

    inline_data: Blob | None = None
    file_data: FileData | None = None


class FunctionResponse(_Strict):
    """What a function returned; `response` is an object."""

    name: str
    id: str | None = None
    response: Raw = ABSENT
    parts: list[ResultPart] | None = None
    will_continue: Raw = ABSENT
    scheduling: Raw = ABSENT


class Part(_Strict):
    """A part of a turn. `unread` is one of a kind that is none of these, as it came."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None
    video_metadata: Raw = ABSENT
    media_resolution: Raw = ABSENT
    part_metadata: Raw = ABSENT
    executable_code: Raw = ABSENT
    code_execution_result: Raw = ABSENT
    tool_call: Raw = ABSENT
    tool_response: Raw = ABSENT
    unread: Raw = msgspec.field(name="unread part", default=ABSENT)


class Content(_Strict):
    """A turn."""

    parts: list[Part] | None = None
    role: str | None = None


class FunctionDeclaration(_Strict):
    """A function: `parameters` is an OpenAPI subset, `parameters_json_schema` JSON Schema."""

    name: str
    description: str | None = None
    parameters: Raw = ABSENT
    parameters_json_schema: Raw = ABSENT
    response: Raw = ABSENT
    response_json_schema: Raw = ABSENT
    behavior: str | None = None


class FunctionCallingConfig(_Strict):
    """AUTO, ANY, NONE, VALIDATED."""

    mode: str | None = None
    allowed_function_names: list[str] | None = None
    stream_function_call_arguments: Raw = ABSENT


class ToolConfig(_Strict):
    """How tools are used."""

    function_calling_config: FunctionCallingConfig | None = None


class ThinkingConfig(_Strict):
    """How much to think, by tokens or by level."""

    thinking_budget: int | None = None
    thinking_level: str | None = None
    include_thoughts: bool | None = None


class GenerationConfig(_Strict):
    """Sampling, limits and the kind of output."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    candidate_count: int | None = None
    max_output_tokens: int | None = None
    stop_sequences: list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    response_mime_type: str | None = None
    response_schema: Raw = ABSENT
    response_json_schema: Raw = ABSENT
    response_modalities: list[str] | None = None
    thinking_config: ThinkingConfig | None = None
    media_resolution: Raw = ABSENT
    speech_config: Raw = ABSENT
    image_config: Raw = ABSENT


class Body(_Strict):
    """A generateContent request. `tools` are objects with one kind of tool to a key."""

    contents: list[Content] | None = None
    system_instruction: Content | None = None
    generation_config: GenerationConfig | None = None
    tools: list[dict[str, Raw]] | None = None
    tool_config: ToolConfig | None = None
    safety_settings: list[Raw] | None = None
    cached_content: str | None = None
    labels: dict[str, str] | None = None
    service_tier: Raw = ABSENT
    store: Raw = ABSENT
    model: str | None = None


class CountBody(_Strict):
    """A countTokens request: turns alone, or a whole request."""

    contents: list[Content] | None = None
    generate_content_request: Body | None = None
    model: str | None = None


class Read(msgspec.Struct, frozen=True):
    """A body, the names that its caller spelled otherwise, and those that nobody knows.

    `respelled` has the caller's own last name of a path in camel case.
    """

    body: Body
    respelled: dict[str, str]
    unknown: tuple[str, ...]

    def spelling(self, path: str) -> str:
        """What the caller calls the field at `path` (camel case, without indexes)."""
        if not self.respelled:
            return path
        names = path.split(".")
        paths = [".".join(names[: depth + 1]) for depth in range(len(names))]
        said = zip(paths, names, strict=True)
        return ".".join(self.respelled.get(inner, name) for inner, name in said)


class _Notes:
    def __init__(self) -> None:
        self.respelled: dict[str, str] = {}
        self.unknown: dict[str, None] = {}


_BODY = msgspec.json.Decoder(Body)
_BODY_LOOSE = msgspec.json.Decoder(Body, strict=False)
_COUNT = msgspec.json.Decoder(CountBody)
_COUNT_LOOSE = msgspec.json.Decoder(CountBody, strict=False)
_DECLARATIONS = msgspec.json.Decoder(list[FunctionDeclaration])
_DECLARATIONS_LOOSE = msgspec.json.Decoder(list[FunctionDeclaration], strict=False)
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_LIST = msgspec.json.Decoder(list[Raw])
_WHERE = re.compile(r" - at `\$\.?([^`]*)`")
_INDEX = re.compile(r"\[[^\]]*\]")
_SNAKE = re.compile(r"_([a-z0-9])")


def refuse(message: str, param: str | None = None) -> GatewayError:
    """An `invalid_request`."""
    return GatewayError("invalid_request", message, param=param)


def decode(body: bytes) -> Read:
    """Decode a generateContent body. Raises `GatewayError` `invalid_request`."""
    found, notes = _decode(body, Body, _BODY, _BODY_LOOSE)
    return Read(found, notes.respelled, tuple(notes.unknown))


def decode_count(body: bytes) -> tuple[CountBody, Read]:
    """Decode a countTokens body, and the request that it counts. Raises as `decode` does."""
    found, notes = _decode(body, CountBody, _COUNT, _COUNT_LOOSE)
    counted = found.generate_content_request or Body(contents=found.contents)
    return found, Read(counted, notes.respelled, tuple(notes.unknown))


def declarations(raw: Raw, path: str) -> tuple[list[FunctionDeclaration], list[str]]:
    """Decode the `functionDeclarations` at `path`; also the unknown names in it.

    Raises as `decode` does.
    """
    try:
        return _DECLARATIONS.decode(raw), []
    except msgspec.ValidationError:
        notes = _Notes()
        tidy = _list(raw, lambda one: _tidy(one, FunctionDeclaration, path, notes))
        return _loosely(_DECLARATIONS_LOOSE, tidy, path), [*notes.unknown]


def _decode(
    body: bytes,
    kind: type[msgspec.Struct],
    strict: msgspec.json.Decoder[Any],
    loose: msgspec.json.Decoder[Any],
) -> tuple[Any, _Notes]:
    notes = _Notes()
    try:
        if not body.isascii():
            body.decode()
        try:
            return strict.decode(body), notes
        except msgspec.ValidationError:
            return _loosely(loose, _tidy(Raw(body), kind, "", notes), ""), notes
    except msgspec.DecodeError as exc:
        raise refuse(f"The request body is not valid JSON: {exc}") from None
    except UnicodeDecodeError as exc:
        raise refuse(f"The request body is not valid UTF-8 at byte {exc.start}.") from None
    except RecursionError:
        raise refuse("The request body is nested too deep.") from None


def _loosely(decoder: msgspec.json.Decoder[Any], raw: Raw, path: str) -> Any:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as exc:
        text = str(exc)
        found = _WHERE.search(text)
        inner = _INDEX.sub("", found[1]).strip(".") if found else ""
        param = ".".join(filter(None, (path, inner))) or None
        said = _WHERE.sub("", text).rstrip(".")
        raise refuse(f"{param or 'The request body'}: {said}.", param) from None


def camel(name: str) -> str:
    """A name in snake case, in camel case."""
    return _SNAKE.sub(lambda found: found[1].upper(), name)


def _nested(annotation: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The Struct that a field's type holds, and whether it is a list."""
    for option in get_args(annotation) or (annotation,):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option, False
        if getattr(option, "__origin__", None) is list:
            inner = get_args(option)[0]
            struct = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
            return (inner if struct else None), True
    return None, False


_Shape = dict[str, tuple[type[msgspec.Struct] | None, bool]]
_SHAPES: dict[type[msgspec.Struct], _Shape] = {
    kind: {field.encode_name: _nested(field.type) for field in msgspec.structs.fields(kind)}
    for kind in (
        FunctionCall, Blob, FileData, ResultPart, FunctionResponse, Part, Content,
        FunctionDeclaration, FunctionCallingConfig, ToolConfig, ThinkingConfig, GenerationConfig,
        Body, CountBody,
    )
}  # fmt: skip
_BESIDES = frozenset(("thought", "thoughtSignature", "partMetadata", "mediaResolution"))
"""Fields of a part that say nothing of its kind."""


def _tidy(raw: Raw, kind: type[msgspec.Struct], path: str, notes: _Notes) -> Raw:
    """The object with its names in camel case and without unknown members."""
    if memoryview(raw)[0] != 0x7B:
        return raw
    members = _OBJECT.decode(raw)
    shape = _SHAPES[kind]
    out: dict[str, Raw] = {}
    unknown = []
    for key, value in members.items():
        name = key if key in shape else camel(key)
        if name not in shape:
            if bytes(value) != b"null":
                unknown.append(f"{path}.{key}".strip("."))
            continue
        if name in out:
            raise refuse(f"{name} is said twice, in two spellings.", name)
        where = f"{path}.{name}".strip(".")
        if name != key:
            notes.respelled[where] = key
        if bytes(value) != b"null":
            out[name] = _member(value, *shape[name], where, notes)
    if kind is Part and unknown and not out.keys() - _BESIDES:
        return Raw(msgspec.json.encode({"unread part": raw}))
    notes.unknown.update(dict.fromkeys(unknown))
    return Raw(msgspec.json.encode(out))


def _member(
    raw: Raw, kind: type[msgspec.Struct] | None, many: bool, path: str, notes: _Notes
) -> Raw:
    def one(item: Raw) -> Raw:
        return _tidy(item, kind, path, notes) if kind is not None else item

    return _list(raw, one) if many else one(raw)


def _list(raw: Raw, one: Callable[[Raw], Raw]) -> Raw:
    items = _LIST.decode(raw) if memoryview(raw)[0] == 0x5B else [raw]
    return Raw(msgspec.json.encode([one(item) for item in items]))
