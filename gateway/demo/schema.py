"""A small valid value for a JSON schema.

What the demo calls a tool with, and what it answers where a schema is asked for. Understands the
parts of JSON Schema that tool definitions use (types, enum, const, required, references, unions,
bounds, common formats) and Gemini's spelling of them (upper-case types, `nullable`). Pure; used by
the demo alone.
"""

import math
from collections.abc import Callable
from typing import Any

# A schema that refers to itself without an end would never stop.
_DEPTH_MAX = 24

# A hostile minItems must not fill the memory.
_REPEAT_MAX = 64

_FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "person@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def sample(schema: Any) -> Any:
    """A value that satisfies `schema`: required properties, or all where none is required."""
    root = schema if isinstance(schema, dict) else {}
    return _sample(root, root, "value", 0)


def _sample(schema: Any, root: dict[str, Any], name: str, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEPTH_MAX:
        return None
    schema = _resolve(schema, root)
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    for word in ("anyOf", "oneOf"):
        options = schema.get(word)
        if isinstance(options, list) and options:
            return _sample(_simplest(options, root), root, name, depth + 1)
    parts = schema.get("allOf")
    if isinstance(parts, list) and parts:
        return _sample(_merged(schema, parts, root), root, name, depth + 1)
    maker = _MAKERS.get(_type_of(schema))
    return maker(schema, root, name, depth) if maker else None


def _resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    for _ in range(_DEPTH_MAX):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        target: Any = root
        for step in reference.lstrip("#").strip("/").split("/"):
            if step:
                key = step.replace("~1", "/").replace("~0", "~")
                target = target.get(key) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            return {}
        schema = target
    return {}


def _simplest(options: list[Any], root: dict[str, Any]) -> Any:
    """The first option that is not null and not a reference, so that recursion ends."""
    real = [
        option
        for option in options
        if isinstance(option, dict) and _type_of(_resolve(option, root)) != "null"
    ]
    plain = [option for option in real if "$ref" not in option]
    return (plain or real or options)[0]


def _merged(schema: dict[str, Any], parts: list[Any], root: dict[str, Any]) -> dict[str, Any]:
    merged = {key: value for key, value in schema.items() if key != "allOf"}
    for part in parts:
        if not isinstance(part, dict):
            continue
        for key, value in _resolve(part, root).items():
            if key == "properties" and isinstance(value, dict):
                merged[key] = {**merged.get(key, {}), **value}
            elif key == "required" and isinstance(value, list):
                merged[key] = [*merged.get(key, []), *value]
            else:
                merged.setdefault(key, value)
    return merged


def _type_of(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind.lower()
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def _object(schema: dict[str, Any], root: dict[str, Any], name: str, depth: int) -> Any:
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    required = [key for key in schema.get("required") or [] if isinstance(key, str)]
    wanted = required or ([] if depth > _DEPTH_MAX // 2 else list(properties))
    return {key: _sample(properties.get(key, {}), root, key, depth + 1) for key in wanted}


def _array(schema: dict[str, Any], root: dict[str, Any], name: str, depth: int) -> Any:
    fixed = schema.get("prefixItems")
    if isinstance(fixed, list):
        return [_sample(item, root, name, depth + 1) for item in fixed[:_REPEAT_MAX]]
    least = _whole(schema.get("minItems"))
    # One item where it may be: an empty list says little. Deep down none, so that recursion ends.
    wanted = least if least is not None else (1 if depth < _DEPTH_MAX // 2 else 0)
    most = _whole(schema.get("maxItems"))
    wanted = wanted if most is None else min(wanted, most)
    items = schema.get("items", {"type": "string"})
    return [_sample(items, root, name, depth + 1) for _ in range(min(wanted, _REPEAT_MAX))]


def _string(schema: dict[str, Any], root: dict[str, Any], name: str, depth: int) -> Any:
    known = _FORMATS.get(str(schema.get("format", "")))
    if known is not None:
        return known
    text = f"demo {name}"
    least = _whole(schema.get("minLength"))
    if least is not None:
        text = text.ljust(min(least, 4096), "x")
    most = _whole(schema.get("maxLength"))
    return text if most is None else text[:most]


def _integer(schema: dict[str, Any], root: dict[str, Any], name: str, depth: int) -> Any:
    return int(_bounded(schema, whole=True))


def _number(schema: dict[str, Any], root: dict[str, Any], name: str, depth: int) -> Any:
    value = _bounded(schema, whole=False)
    return int(value) if float(value).is_integer() else value


def _bounded(schema: dict[str, Any], *, whole: bool) -> float:
    step = 1.0 if whole else 0.5
    low, high = _real(schema.get("minimum")), _real(schema.get("maximum"))
    above, below = _real(schema.get("exclusiveMinimum")), _real(schema.get("exclusiveMaximum"))
    if above is not None:
        low = max(above + step, -math.inf if low is None else low)
    if below is not None:
        high = min(below - step, math.inf if high is None else high)
    value = 1.0
    if low is not None:
        value = max(value, math.ceil(low) if whole else low)
    if high is not None:
        value = min(value, math.floor(high) if whole else high)
    multiple = _real(schema.get("multipleOf"))
    if multiple:
        value = math.ceil(value / multiple) * multiple
    return value


def _real(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _boolean(schema: dict[str, Any], root: dict[str, Any], name: str, depth: int) -> Any:
    return True


_MAKERS: dict[str, Callable[[dict[str, Any], dict[str, Any], str, int], Any]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}
