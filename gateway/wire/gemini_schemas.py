"""Gemini's `Schema` (an OpenAPI subset) as JSON Schema.

`parameters` and `responseSchema` have types in upper case, `nullable`, int64 counts as strings,
`propertyOrdering` and names in camel or snake case; every other format, and Gemini's own
`parametersJsonSchema` and `responseJsonSchema`, take JSON Schema. So a `Schema` is only ever read.
Pure; used by `gemini_requests.py`. Source: ai.google.dev API reference, "Schema" (November 2026).
"""

import msgspec
from msgspec import Raw

from gateway.wire.gemini_bodies import camel, refuse

DEPTH_MAX = 100
"""Deepest nesting of a schema; real ones have a dozen levels."""

_TYPES = frozenset(("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"))
_COUNTS = frozenset(
    ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
)
_FORMATS = frozenset(("enum", "float", "double", "int32", "int64"))
"""Formats that repeat the type; strict readers of JSON Schema refuse them."""

_ONE = frozenset(("items", "additionalProperties", "not"))
_MANY = frozenset(("anyOf", "allOf", "oneOf", "prefixItems"))
_NAMED = frozenset(("properties", "defs", "$defs", "patternProperties"))
_DROPPED = frozenset(("nullable", "propertyOrdering", "example"))
_RENAMED = {"defs": "$defs", "ref": "$ref"}
_SNAKE_NAMES = frozenset(
    (
        "any_of", "min_items", "max_items", "min_length", "max_length", "min_properties",
        "max_properties", "property_ordering", "additional_properties",
    )
)  # fmt: skip

_ANY = msgspec.json.Decoder()


def to_json_schema(raw: Raw | bytes, path: str) -> bytes:
    """The schema as JSON Schema. Raises `GatewayError` `invalid_request`; `path` is its field."""
    try:
        return msgspec.json.encode(_converted(_ANY.decode(raw), path, 0))
    except RecursionError:
        raise refuse(f"{path} is nested too deep.", path) from None
    except (msgspec.DecodeError, OverflowError) as exc:
        raise refuse(f"{path} cannot be read: {exc}.", path) from None


def _converted(schema: object, path: str, depth: int) -> object:
    if depth > DEPTH_MAX:
        raise refuse(f"{path} is nested too deep.", path)
    if not isinstance(schema, dict):
        return schema
    out: dict[str, object] = {}
    for key, value in schema.items():
        name = camel(key) if key in _SNAKE_NAMES else key
        if name not in _DROPPED and not (name == "format" and value in _FORMATS):
            out[_RENAMED.get(name, name)] = _member(name, value, path, depth + 1)
    return _nullable(out) if schema.get("nullable") is True else out


def _member(name: str, value: object, path: str, depth: int) -> object:
    if name == "type":
        return _type(value)
    if name in _COUNTS and isinstance(value, str) and value.isdigit() and len(value) < 20:
        return int(value)
    if name in _ONE:
        return _converted(value, path, depth)
    if name in _MANY and isinstance(value, list):
        return [_converted(one, path, depth) for one in value]
    if name in _NAMED and isinstance(value, dict):
        return {key: _converted(one, path, depth) for key, one in value.items()}
    return value


def _type(value: object) -> object:
    if isinstance(value, list):
        return [_type(one) for one in value]
    return value.lower() if isinstance(value, str) and value in _TYPES else value


def _nullable(schema: dict[str, object]) -> dict[str, object]:
    kind = schema.get("type")
    if isinstance(kind, str):
        schema["type"] = [kind, "null"]
    elif isinstance(options := schema.get("anyOf"), list):
        schema["anyOf"] = [*options, {"type": "null"}]
    if isinstance(values := schema.get("enum"), list) and None not in values:
        schema["enum"] = [*values, None]
    return schema
