"""JSON Schemas as strict providers take them, where another caller's is looser.

Providers that hold an answer to a schema want objects that are closed, and OpenAI in `strict` mode
that every property is required. What is added here only narrows what fits: an answer of the new
schema is one of the caller's. A schema that would have to change otherwise is left as it is. Pure;
used by the writers of requests.

Source: developers.openai.com "Structured outputs", "Supported schemas"; platform.claude.com
"Structured outputs", "JSON Schema limitations" (November 2026).
"""

from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from gateway.wire.conversation import Request, Tool

DEPTH_MAX = 100
"""Deepest nesting that is looked into; real schemas have a dozen levels."""

_OPENAI = ("openai_chat", "openai_responses")

_ANY = msgspec.json.Decoder()
_ONE = ("items", "additionalProperties", "not")
_MANY = ("anyOf", "allOf", "oneOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions")

_Object = dict[str, object]


def for_openai(request: Request) -> tuple[Request, list[str]]:
    """The request with its strict schemas as OpenAI takes them, and the caller's fields for which
    strictness had to be given up. OpenAI's own callers are left to OpenAI.
    """
    if request.format in _OPENAI:
        return request, []
    ignored = []
    output, tools = request.output, request.tools
    if output is not None and output.strict and output.schema is not None:
        fitting = strict(output.schema)
        output = replace(output, strict=fitting is not None, schema=fitting or output.schema)
        if fitting is None:
            ignored.append(request.spelled.get("json_schema", "output"))
    adapted = tuple(map(_strict_tool, tools))
    if any(tool.strict and not after.strict for tool, after in zip(tools, adapted, strict=True)):
        ignored.append(request.spelled.get("strict_tools", "tools"))
    return replace(request, output=output, tools=adapted), ignored


def _strict_tool(tool: Tool) -> Tool:
    if not tool.strict or tool.schema is None:
        return tool
    fitting = strict(tool.schema)
    return replace(tool, strict=fitting is not None, schema=fitting or tool.schema)


def closed(schema: bytes) -> bytes:
    """The schema with every object closed that does not say whether it is."""
    return _changed(schema, _close) or schema


def strict(schema: bytes) -> bytes | None:
    """The schema as OpenAI takes it with `strict`; None where it would mean something else then.

    Objects are closed, and properties that may be null become required.
    """
    return _changed(schema, _make_strict)


def _changed(schema: bytes, change: Callable[[_Object], bool | None]) -> bytes | None:
    """The schema with `change` applied to every schema in it, its bytes untouched where none did.

    `change` says whether it changed anything, None to give up.
    """
    try:
        root = _ANY.decode(schema)
        touched = False
        for inner in _walk(root, 0):
            if inner.get("type") != "object":
                continue
            done = change(inner)
            if done is None:
                return None
            touched |= done
        return msgspec.json.encode(root) if touched else schema
    except (msgspec.DecodeError, RecursionError, OverflowError):
        return None


def _walk(schema: object, depth: int) -> Iterator[_Object]:
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        return
    yield schema
    for word in _ONE:
        yield from _walk(schema.get(word), depth + 1)
    for word in _MANY:
        options = schema.get(word)
        for option in options if isinstance(options, list) else ():
            yield from _walk(option, depth + 1)
    for word in _NAMED:
        named = schema.get(word)
        for inner in named.values() if isinstance(named, dict) else ():
            yield from _walk(inner, depth + 1)


def _close(schema: _Object) -> bool:
    if "additionalProperties" in schema:
        return False
    schema["additionalProperties"] = False
    return True


def _make_strict(schema: _Object) -> bool | None:
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
