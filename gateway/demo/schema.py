"""A small valid value for a JSON schema.

What the demo calls a tool with, and what it answers where a schema is asked for. Understands the
parts of JSON Schema that tool definitions use (types, enum, const, required, references, unions,
bounds, common formats) and Gemini's spelling of them (upper-case types, `nullable`). Contract: the
value is made in bounded time and memory, whatever the schema. Pure; used by the demo alone.
"""

import math
from typing import Any

DEPTH_MAX = 24
"""A schema that refers to itself without an end would never stop."""

VALUES_MAX = 2000
"""One that refers to itself twice would double at each step."""

# From this depth on what may be empty is empty; what may be null, from half of it.
_SHALLOW = 8

# A hostile minItems or minLength must not fill the memory.
_ITEMS_MAX = 64
_CHARACTERS_MAX = 4096

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

Schema = dict[str, Any]


def sample(schema: Any) -> Any:
    """A value that satisfies `schema`: its required properties, or all where none is required."""
    root = schema if isinstance(schema, dict) else {}
    return _Sampler(root).value(root, "value", 0)


class _Sampler:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._left = VALUES_MAX

    def value(self, schema: Any, name: str, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth > DEPTH_MAX or self._left < 0:
            return None
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return schema["enum"][0]
        for word in ("anyOf", "oneOf"):
            options = schema.get(word)
            if isinstance(options, list) and options:
                return self.value(self._option(options, depth), name, depth + 1)
        parts = schema.get("allOf")
        if isinstance(parts, list) and parts:
            return self.value(self._merged(schema, parts), name, depth + 1)
        return self._typed(schema, name, depth)

    def _typed(self, schema: Schema, name: str, depth: int) -> Any:
        match _type_of(schema, depth):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "string":
                return _string(schema, name)
            case "integer":
                return int(_bounded(schema, whole=True))
            case "number":
                value = _bounded(schema, whole=False)
                return int(value) if value.is_integer() else value
            case "boolean":
                return True
            case _:
                return None

    def _object(self, schema: Schema, depth: int) -> Schema:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        given = schema.get("required")
        required = [key for key in given if isinstance(key, str)] if isinstance(given, list) else []
        wanted = required or ([] if depth > _SHALLOW else list(properties))
        return {key: self.value(properties.get(key, {}), key, depth + 1) for key in wanted}

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        fixed = schema.get("prefixItems")
        if isinstance(fixed, list):
            return [self.value(item, name, depth + 1) for item in fixed[:_ITEMS_MAX]]
        # One item where it may be, for an empty list says little.
        wanted = _whole(schema.get("minItems"), 1 if depth < _SHALLOW else 0)
        wanted = min(wanted, _whole(schema.get("maxItems"), _ITEMS_MAX), _ITEMS_MAX)
        items = schema.get("items", {"type": "string"})
        return [self.value(items, name, depth + 1) for _ in range(wanted)]

    def _resolve(self, schema: Schema) -> Schema:
        for _ in range(DEPTH_MAX):
            reference = schema.get("$ref")
            if not isinstance(reference, str) or not reference.startswith("#"):
                return schema
            target: Any = self._root
            for step in reference.lstrip("#").strip("/").split("/"):
                if step:
                    key = step.replace("~1", "/").replace("~0", "~")
                    target = target.get(key) if isinstance(target, dict) else None
            if not isinstance(target, dict):
                return {}
            schema = target
        return {}

    def _option(self, options: list[Any], depth: int) -> Any:
        """The first option that is not null and not a reference; deep down null, if it may be."""
        known = [option for option in options if isinstance(option, dict)]
        nulls = [option for option in known if _type_of(self._resolve(option), 0) == "null"]
        if nulls and depth > _SHALLOW // 2:
            return nulls[0]
        real = [option for option in known if option not in nulls]
        plain = [option for option in real if "$ref" not in option]
        return next(iter(plain or real or nulls), None)

    def _merged(self, schema: Schema, parts: list[Any]) -> Schema:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in parts:
            for key, value in self._resolve(part).items() if isinstance(part, dict) else ():
                held = merged.get(key)
                if isinstance(value, dict) and isinstance(held, dict):
                    merged[key] = {**held, **value}
                elif isinstance(value, list) and isinstance(held, list):
                    merged[key] = [*held, *value]
                else:
                    merged.setdefault(key, value)
        return merged


def _type_of(schema: Schema, depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        if depth > _SHALLOW // 2 and "null" in kind:
            return "null"
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind.lower()
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def _string(schema: Schema, name: str) -> str:
    known = _FORMATS.get(str(schema.get("format", "")))
    if known is not None:
        return known
    text = f"demo {name}".ljust(min(_whole(schema.get("minLength"), 0), _CHARACTERS_MAX), "x")
    return text[: _whole(schema.get("maxLength"), _CHARACTERS_MAX)]


def _bounded(schema: Schema, *, whole: bool) -> float:
    """1, moved into the bounds and to a multiple where these are asked for."""
    step = 1.0 if whole else 0.5
    low = max(_real(schema.get("minimum"), -math.inf), _above(schema, whole, step))
    high = min(_real(schema.get("maximum"), math.inf), _below(schema, whole, step))
    value = min(max(1.0, low), high)
    if whole and not value.is_integer():
        value = float(math.ceil(value)) if value == low else float(math.floor(value))
    multiple = _real(schema.get("multipleOf"), 0.0)
    if multiple > 1e-9:
        value = math.ceil(value / multiple) * multiple
    return value if math.isfinite(value) else 1.0


def _above(schema: Schema, whole: bool, step: float) -> float:
    bound = _real(schema.get("exclusiveMinimum"), -math.inf)
    return math.floor(bound) + 1.0 if whole and math.isfinite(bound) else bound + step


def _below(schema: Schema, whole: bool, step: float) -> float:
    bound = _real(schema.get("exclusiveMaximum"), math.inf)
    return math.ceil(bound) - 1.0 if whole and math.isfinite(bound) else bound - step


def _real(value: Any, default: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    # Beyond this a bound is a fault or a trap; floats lose whole numbers there anyway.
    return float(value) if abs(value) <= 2**53 else default


def _whole(value: Any, default: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return default
    return value
