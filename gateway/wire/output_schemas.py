"""JSON Schemas as providers take them, where another caller's say what they do not take.

Providers that hold an answer to a schema want objects that are closed, and OpenAI in `strict` mode
that every property is required: what is added for that only narrows what fits, so an answer of the
new schema is one of the caller's. What a provider has no word for at all is said in descriptions
(`schema_limits.py`) and told; where the shape itself cannot be had, the schema of a tool or of
OpenAI's output is not strict, which is told, and an output of Anthropic's is refused by the
caller's own field. A schema that needs none of that keeps its bytes. Pure; used by the writers of
requests.

Source: developers.openai.com "Structured outputs", "Supported schemas"; platform.claude.com
"Structured outputs", "JSON Schema limitations" (November 2026).
"""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from gateway.errors import GatewayError
from gateway.wire.conversation import Feature, Request, Text, Tool
from gateway.wire.schema_limits import (
    OPENAI_STRICT_LACKS,
    Object,
    is_circular,
    relax_for_anthropic,
    relax_for_gemini,
    walk,
)

_OPENAI = ("openai_chat", "openai_responses")

_SAYS_JSON = "Answer in JSON."

_ANY = msgspec.json.Decoder()


def for_openai(request: Request) -> tuple[Request, list[str]]:
    """The request with its strict schemas as OpenAI takes them, and the caller's fields for which
    strictness had to be given up. OpenAI's own callers are left to OpenAI.

    Gemini holds to every schema of an output, OpenAI to strict ones alone: so Gemini's callers ask
    for that, too. JSON of no schema is refused where no message has the word: a system message then
    says it.
    """
    if request.format in _OPENAI:
        return request, []
    ignored = []
    output, tools = request.output, request.tools
    if output is not None and output.schema is None and not _says_json(request):
        request = replace(request, system=(*request.system, Text(_SAYS_JSON)))
    held = output is not None and (
        output.strict if output.strict is not None else request.format == "gemini"
    )
    if output is not None and output.schema is not None and held:
        fitting = strict(output.schema)
        output = replace(output, strict=fitting is not None, schema=fitting or output.schema)
        if fitting is None:
            ignored.append(request.spelled.get("json_schema", "output"))
    adapted = tuple(map(_strict_tool, tools))
    if any(tool.strict and not after.strict for tool, after in zip(tools, adapted, strict=True)):
        ignored.append(request.spelled.get("strict_tools", "tools"))
    return replace(request, output=output, tools=adapted), ignored


def _says_json(request: Request) -> bool:
    said = [*request.system, *(one for turn in request.messages for one in turn.content)]
    return any(isinstance(one, Text) and "json" in one.text.lower() for one in said)


def _strict_tool(tool: Tool) -> Tool:
    if not tool.strict or tool.schema is None:
        return tool
    fitting = strict(tool.schema)
    return replace(tool, strict=fitting is not None, schema=fitting or tool.schema)


class _Misfit(Exception):
    """A schema whose shape a provider does not take; says why."""


def for_anthropic(request: Request) -> tuple[Request, list[str]]:
    """The request with its schemas as Anthropic holds to them, and what of them was only said.

    Raises `GatewayError` `unsupported_parameter` where the shape of the output cannot be had.
    """
    if request.format == "anthropic_messages":
        return request, []
    told: list[str] = []
    output = request.output
    if output is not None and output.schema is not None:
        field = request.spelled.get("json_schema", "output")
        try:
            schema, words = _held_by_anthropic(output.schema)
        except _Misfit as exc:
            raise GatewayError(
                "unsupported_parameter", f"{field}: {exc} for this model's provider", param=field
            ) from None
        output = replace(output, schema=schema)
        told += _told(request, "json_schema", words)
    tools = []
    for tool in request.tools:
        if tool.strict and tool.schema is not None:
            try:
                schema, words = _held_by_anthropic(tool.schema)
                tool = replace(tool, schema=schema)
                told += _told(request, "tools", words)
            except _Misfit:
                tool = replace(tool, strict=None)
                told.append(request.spelled.get("strict_tools", "tools"))
        tools.append(tool)
    return replace(request, output=output, tools=tuple(tools)), list(dict.fromkeys(told))


def for_gemini(request: Request) -> tuple[Request, list[str]]:
    """The request with the schema of its output as Gemini reads it, and what was only said."""
    output = request.output
    if request.format == "gemini" or output is None or output.schema is None:
        return request, []
    words: list[str] = []

    def relax(schema: Object) -> bool:
        before = dict(schema)
        words.extend(relax_for_gemini(schema))
        return schema != before

    changed = _changed(output.schema, relax)
    output = replace(output, schema=changed or output.schema)
    return replace(request, output=output), list(
        dict.fromkeys(_told(request, "json_schema", words))
    )


def _told(request: Request, feature: Feature, words: list[str]) -> list[str]:
    """The words by the caller's field that they stand in, however deep."""
    field = request.spelled.get(feature, feature)
    return [f"{field}.{word}" for word in words]


def _held_by_anthropic(schema: bytes) -> tuple[bytes, list[str]]:
    """A schema that Anthropic can hold an answer to, and the words of what it cannot."""
    words: list[str] = []

    def relax(inner: Object) -> bool:
        found = relax_for_anthropic(inner)
        words.extend(found)
        if not _is_object(inner):
            return bool(found)
        touched = _close(inner)
        if inner["additionalProperties"] is not False:
            raise _Misfit("objects with properties of any name cannot be asked for")
        return touched or bool(found)

    root = _decoded(schema)
    if isinstance(root, dict) and is_circular(root):
        raise _Misfit("a schema that refers to itself cannot be asked for")
    return _changed(schema, relax) or schema, words


def strict(schema: bytes) -> bytes | None:
    """The schema as OpenAI takes it with `strict`; None where it would mean something else then.

    Objects are closed, and properties that may be null become required.
    """
    root = _decoded(schema)
    if not isinstance(root, dict) or root.get("type") != "object" or "anyOf" in root:
        return None
    return _changed(schema, _make_strict)


def _changed(schema: bytes, change: Callable[[Object], bool | None]) -> bytes | None:
    """The schema with `change` applied to every schema in it, its bytes untouched where none did.

    `change` says whether it changed anything, None to give up.
    """
    try:
        root = _ANY.decode(schema)
        touched = False
        for inner in walk(root):
            done = change(inner)
            if done is None:
                return None
            touched |= done
        return msgspec.json.encode(root) if touched else schema
    except (msgspec.DecodeError, RecursionError, OverflowError):
        return None


def _decoded(schema: bytes) -> object:
    try:
        return _ANY.decode(schema)
    except (msgspec.DecodeError, RecursionError, OverflowError):
        return None


def _is_object(schema: Object) -> bool:
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _close(schema: Object) -> bool:
    if "additionalProperties" in schema:
        return False
    schema["additionalProperties"] = False
    return True


def _make_strict(schema: Object) -> bool | None:
    if not OPENAI_STRICT_LACKS.isdisjoint(schema):
        return None
    if not _is_object(schema):
        return False
    touched = _close(schema)
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if schema["additionalProperties"] is not False or not isinstance(properties, dict):
        return None
    if not isinstance(required, list):
        return None
    missing = [name for name in properties if name not in required]
    if not all(_may_be_null(properties[name]) for name in missing):
        return None
    if missing:
        schema["required"] = [*required, *missing]
    return touched or bool(missing)


def _may_be_null(schema: object) -> bool:
    if not isinstance(schema, dict):
        return False
    kind, options = schema.get("type"), schema.get("anyOf")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return True
    return isinstance(options, list) and any(_may_be_null(option) for option in options)
