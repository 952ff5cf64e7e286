"""What providers cannot hold an answer to, of a JSON Schema: said in words where it stands.

A provider that takes schemas takes a subset of JSON Schema. Bounds and patterns that it refuses, or
passes over in silence, are taken out of the schema and put into the `description` beside them, as
Anthropic's own SDKs do: the model is still told them, and nothing holds it to them, which the
caller is told. Pure; used by `output_schemas.py`.

Sources: platform.claude.com "Structured outputs", "JSON Schema limitations"; ai.google.dev API
reference, "GenerationConfig", `responseJsonSchema`; developers.openai.com "Structured outputs",
"Supported schemas" (November 2026).
"""

import graphlib
import re
from collections.abc import Iterator

import msgspec

DEPTH_MAX = 100
"""Deepest nesting that is looked into; real schemas have a dozen levels."""

Object = dict[str, object]

_ONE = ("items", "additionalProperties", "not")
_MANY = ("anyOf", "allOf", "oneOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions")

_CONDITIONS = frozenset(
    (
        "not", "if", "then", "else", "contains", "minContains", "maxContains", "dependentRequired",
        "dependentSchemas", "patternProperties", "propertyNames", "unevaluatedItems",
        "unevaluatedProperties", "minProperties", "maxProperties", "uniqueItems",
    )
)  # fmt: skip
_RARE_BOUNDS = frozenset(("exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
_LENGTHS = frozenset(("minLength", "maxLength"))

ANTHROPIC_LACKS = (
    _CONDITIONS | _RARE_BOUNDS | _LENGTHS | {"minimum", "maximum", "maxItems", "prefixItems"}
)
GEMINI_LACKS = _CONDITIONS | _RARE_BOUNDS | _LENGTHS | {"pattern", "allOf", "const"}
OPENAI_STRICT_LACKS = _CONDITIONS | _LENGTHS | {"allOf", "oneOf"}

_TYPES: dict[type, str] = {str: "string", int: "integer", float: "number"}
"""Of the values that Gemini's `enum` takes."""

ANTHROPIC_FORMATS = frozenset(
    (
        "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
    )
)  # fmt: skip
_ANTHROPIC_MIN_ITEMS = (0, 1)
_LOOKS_AROUND = re.compile(r"\(\?(?:[=!]|<[=!])|\\[1-9bB]")
"""What Anthropic's patterns have none of: looking around, going back, borders of words."""


def walk(schema: object, depth: int = 0) -> Iterator[Object]:
    """Every schema within a schema, outermost first; what is taken out of one is not entered."""
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        return
    yield schema
    for word in _ONE:
        yield from walk(schema.get(word), depth + 1)
    for word in _MANY:
        options = schema.get(word)
        for option in options if isinstance(options, list) else ():
            yield from walk(option, depth + 1)
    for word in _NAMED:
        named = schema.get(word)
        for inner in named.values() if isinstance(named, dict) else ():
            yield from walk(inner, depth + 1)


def is_circular(root: Object) -> bool:
    """Whether a definition refers to itself, by way of others or not."""
    graph = {
        f"#/{word}/{name}": _references(inner)
        for word in ("$defs", "definitions")
        if isinstance(named := root.get(word), dict)
        for name, inner in named.items()
    }
    graph["#"] = _references(root)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError:
        return True
    return False


def _references(schema: object) -> list[str]:
    return [one for inner in walk(schema) if isinstance(one := inner.get("$ref"), str)]


def relax_for_anthropic(schema: Object) -> list[str]:
    """Take out of one schema (not of those within) what Anthropic refuses; the words of it."""
    out: Object = {}
    if isinstance(schema.get("oneOf"), list) and "anyOf" not in schema:
        schema["anyOf"] = schema.pop("oneOf")
        out["oneOf"] = "exactly one"
    for word in [word for word in schema if word in ANTHROPIC_LACKS]:
        out[word] = schema.pop(word)
    if (least := schema.get("minItems")) is not None and least not in _ANTHROPIC_MIN_ITEMS:
        out["minItems"] = schema.pop("minItems")
        schema["minItems"] = 1
    form, pattern = schema.get("format"), schema.get("pattern")
    if isinstance(form, str) and form not in ANTHROPIC_FORMATS:
        out["format"] = schema.pop("format")
    if isinstance(pattern, str) and _LOOKS_AROUND.search(pattern):
        out["pattern"] = schema.pop("pattern")
    return _described(schema, out)


def relax_for_gemini(schema: Object) -> list[str]:
    """Take out of one schema what Gemini passes over in silence; the words of it.

    `const` becomes the one value of an `enum`, and a reference stands alone, as Gemini has it.
    """
    kind = _TYPES.get(type(schema.get("const")))
    if kind is not None and "enum" not in schema:
        schema["enum"] = [schema.pop("const")]
        schema.setdefault("type", kind)
    out = {word: schema.pop(word) for word in [one for one in schema if one in GEMINI_LACKS]}
    told = _described(schema, out)
    if "$ref" in schema and "anyOf" not in schema and any(one[0] != "$" for one in schema if one):
        schema["anyOf"] = [{"$ref": schema.pop("$ref")}]
    return told


def _described(schema: Object, out: Object) -> list[str]:
    """Say in the description what was taken out."""
    if not out:
        return []
    said = schema.get("description")
    words = "Must hold too: " + msgspec.json.encode(out).decode()
    schema["description"] = f"{said}\n{words}" if isinstance(said, str) and said else words
    return list(out)
