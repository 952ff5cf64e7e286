"""What providers refuse of a JSON schema, in their own words.

Each function gives the fault that a provider's check would find first, or None. Contract: bounded
time, whatever the schema; a reference is looked at where it is defined, not where it is used. Pure;
used by the readers of requests.

Sources: developers.openai.com "Structured outputs", "Supported schemas"; platform.claude.com
"Structured outputs", "JSON Schema limitations"; ai.google.dev API reference, "Schema" (November
2026), and public reports of their messages.
"""

from collections.abc import Iterator
from typing import Any

DEPTH_MAX = 64

_TYPES = frozenset(("object", "array", "string", "integer", "number", "boolean", "null"))
_ONE = ("items", "additionalProperties", "not", "contains")
_MANY = ("anyOf", "allOf", "oneOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions", "patternProperties")

_CLAUDE_LACKS: dict[str, tuple[str, ...]] = {
    "integer": ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"),
    "number": ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"),
    "string": ("maxLength", "minLength"),
    "array": ("maxItems", "uniqueItems"),
}

_GEMINI_SCHEMA = frozenset(
    {
        "type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems",
        "properties", "required", "minProperties", "maxProperties", "minLength", "maxLength",
        "pattern", "example", "anyOf", "propertyOrdering", "default", "items", "minimum", "maximum",
        "additionalProperties", "ref", "defs",
    }
)  # fmt: skip

Schema = dict[str, Any]
Way = tuple[str, ...]


def walk(schema: Any, way: Way = ()) -> Iterator[tuple[Way, Schema]]:
    """Every schema within a schema, with the way to it, outermost first; down to `DEPTH_MAX`."""
    if not isinstance(schema, dict) or len(way) > DEPTH_MAX:
        return
    yield way, schema
    for word in _ONE:
        yield from walk(schema.get(word), (*way, word))
    for word in _MANY:
        options = schema.get(word)
        for index, option in enumerate(options if isinstance(options, list) else ()):
            yield from walk(option, (*way, word, str(index)))
    for word in _NAMED:
        named = schema.get(word)
        for name, inner in named.items() if isinstance(named, dict) else ():
            yield from walk(inner, (*way, word, str(name)))


def unsound(schema: Any) -> str | None:
    """The first `type` that JSON Schema does not know (Gemini's upper-case words are such)."""
    for way, inner in walk(schema):
        kind = inner.get("type", "object")
        kinds = kind if isinstance(kind, list) else [kind]
        for one in kinds:
            if not isinstance(one, str) or one not in _TYPES:
                return f"In context={way}, {one!r} is not valid under any of the given schemas."
    return None


def openai_strict(schema: Schema) -> str | None:
    """Why OpenAI does not take a schema with `strict: true`."""
    if schema.get("type") != "object":
        kind = schema.get("type")
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
    for way, inner in walk(schema):
        if inner.get("type") != "object":
            continue
        if inner.get("additionalProperties") is not False:
            return (
                f"In context={way}, 'additionalProperties' is required to be supplied and to be "
                "false."
            )
        properties, required = inner.get("properties"), inner.get("required")
        names = list(properties) if isinstance(properties, dict) else []
        given = required if isinstance(required, list) else []
        for name in names:
            if name not in given:
                return (
                    f"In context={way}, 'required' is required to be supplied and to be an array "
                    f"including every key in properties. Missing '{name}'."
                )
    return None


def anthropic_output(schema: Schema) -> str | None:
    """Why Anthropic does not take a schema for its output."""
    for _, inner in walk(schema):
        kind = inner.get("type")
        if kind == "object":
            given = inner.get("additionalProperties")
            if given is None:
                return "For 'object' type, 'additionalProperties' must be explicitly set to false"
            if given is not False:
                spelled = "true" if given is True else "object"
                return (
                    f"For 'object' type, 'additionalProperties: {spelled}' is not supported. "
                    "Please set 'additionalProperties' to false"
                )
        lacking = _CLAUDE_LACKS.get(kind, ()) if isinstance(kind, str) else ()
        found = [word for word in lacking if word in inner]
        if found:
            return f"For '{kind}' type, properties {', '.join(found)} are not supported"
    return None


def gemini_schema(schema: Any) -> str | None:
    """The first name in one of Gemini's own schemas that its API does not know."""
    if not isinstance(schema, dict):
        return None
    left: list[tuple[Any, int]] = [(schema, 0)]
    while left:
        inner, depth = left.pop()
        if not isinstance(inner, dict) or depth > DEPTH_MAX:
            continue
        for name, value in inner.items():
            if _camel(name) not in _GEMINI_SCHEMA:
                return str(name)
            if name in ("properties", "defs"):
                left += [(one, depth + 1) for one in value.values()] if _is_dict(value) else []
            elif _camel(name) == "anyOf":
                left += [(one, depth + 1) for one in value] if isinstance(value, list) else []
            elif name == "items":
                left.append((value, depth + 1))
    return None


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
