"""`/docs/api`: the description at `/openapi.json`, for people. Rendered here, once per process.

`described` reads the document into operations by tag and schemas by name; schemas become flat
tables of fields, whose names have dots and `[]` where objects and lists are within each other.
What is described in full gets an example, made from its schema.
"""

import asyncio
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from gateway.api.openapi import document
from gateway.web.docs import rendered
from gateway.web.site import Page, Visit

_COMPONENTS = "#/components/schemas/"
_DEPTH_MAX = 6
"""Of objects within each other, in tables and examples."""

_TAGS: Mapping[str, str] = {
    "OpenAI": "OpenAI's formats. Bodies are OpenAI's own; any chat model of this server answers.",
    "Anthropic": "Anthropic's format. Bodies are Anthropic's own.",
    "Gemini": "Gemini's format. Bodies are Google's own.",
    "Passthrough": "Whatever else a provider knows, passed on as it is.",
    "Receipts": "What became of each call.",
    "Models": "What can be called.",
    "Account": "The calling key's user.",
    "Operations": "Of the server itself. No key is needed.",
    "Admin": "For the operator: an admin's key, or the token of the configuration.",
}
"""What stands above the operations of a tag."""

_ELSEWHERE: Mapping[str, str] = {
    "/v1/chat/completions": "/docs/chat",
    "/v1/responses": "/docs/responses",
    "/v1/messages": "/docs/messages",
    "/v1/messages/count_tokens": "/docs/tokens#messages",
    "/v1/responses/input_tokens": "/docs/tokens#responses",
    "/v1/embeddings": "/docs/embeddings",
    "/v1beta/models/{model}:generateContent": "/docs/gemini",
    "/v1beta/models/{model}:streamGenerateContent": "/docs/gemini#stream",
    "/v1beta/models/{model}:countTokens": "/docs/tokens#gemini",
    "/v1beta/models/{model}:embedContent": "/docs/embeddings#gemini",
    "/v1beta/models/{model}:batchEmbedContents": "/docs/embeddings#gemini",
    "/v1/receipts": "/docs/receipts#list",
    "/v1/receipts/{id}": "/docs/receipts#one",
    "/v1/models": "/docs/models",
    "/v1/models/{id}": "/docs/models#one",
    "/v1/account": "/docs/account",
    "/v1/usage": "/docs/account#usage",
    "/v1/account/redeem": "/docs/account#redeem",
}
"""Where a path has samples."""


class Row(NamedTuple):
    """A field of an object, or a parameter. `refers` is the schema that its type names."""

    name: str
    type: str
    refers: str | None
    required: bool
    text: str
    where: str = ""


class Operation(NamedTuple):
    """One method of one path."""

    id: str
    method: str
    path: str
    summary: str
    text: str
    open: bool
    samples: str | None
    parameters: tuple[Row, ...]
    body: tuple[Row, ...]
    body_schema: str | None
    example: str | None
    answer: str | None


class Described(NamedTuple):
    """The whole document."""

    version: str
    tags: tuple[tuple[str, str, tuple[Operation, ...]], ...]
    schemas: tuple[tuple[str, str, tuple[Row, ...], str], ...]


async def reference(visit: Visit) -> web.StreamResponse:
    """The page. The first one takes about 12 ms to make ready: on a thread, beside the calls."""
    return await rendered(visit, api=await asyncio.to_thread(described))


@functools.cache
def described() -> Described:
    """The description of this server, ready for the page."""
    whole = document("")
    schemas: dict[str, Any] = whole["components"]["schemas"]
    by_tag: dict[str, list[Operation]] = {tag: [] for tag in _TAGS}
    for path, methods in whole["paths"].items():
        for method, operation in methods.items():
            made = _operation(path, method, operation, schemas)
            by_tag.setdefault(operation["tags"][0], []).append(made)
    return Described(
        whole["info"]["version"],
        tuple(
            (tag, _TAGS.get(tag, ""), tuple(operations))
            for tag, operations in by_tag.items()
            if operations
        ),
        tuple(
            (
                name,
                schema.get("description", ""),
                tuple(_rows(schema)),
                _pretty(example_of(schema, schemas)),
            )
            for name, schema in sorted(schemas.items())
        ),
    )


def _operation(
    path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> Operation:
    content = operation.get("requestBody", {}).get("content", {})
    sent = content.get("application/json", {}).get("schema")
    named = _referred(sent) if sent else None
    answered = operation["responses"]["200"].get("content", {}).get("application/json", {})
    words = f"{method}-{path}".replace("{", "").replace("}", "").replace(":", "-")
    return Operation(
        id="-".join(part for part in words.replace("/", "-").split("-") if part),
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        text=operation.get("description", ""),
        open=operation.get("security") == [],
        samples=_ELSEWHERE.get(path),
        parameters=tuple(_parameter(one) for one in operation["parameters"]),
        body=() if sent is None or named else tuple(_rows(sent)),
        body_schema=named,
        example=None if sent is None else _pretty(example_of(sent, schemas)),
        answer=_referred(answered["schema"]) if answered else None,
    )


def _parameter(one: dict[str, Any]) -> Row:
    schema = one["schema"]
    return Row(
        name=one["name"],
        type=type_of(schema),
        refers=_referred(schema),
        required=one.get("required", False),
        text=schema.get("description", ""),
        where=one["in"],
    )


def _rows(schema: dict[str, Any], before: str = "", depth: int = 0) -> Iterator[Row]:
    """The fields of an object, those of objects within it behind them."""
    required = set(schema.get("required", ()))
    for name, one in schema.get("properties", {}).items():
        inner, marks = _within(one)
        full = f"{before}{name}{marks}"
        yield Row(
            full, type_of(one), _referred(inner), name in required, one.get("description", "")
        )
        if inner.get("properties") and depth < _DEPTH_MAX:
            yield from _rows(inner, f"{full}.", depth + 1)


def _within(schema: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What a list, or something that may be null, has within it; and the marks of a list."""
    marks = ""
    while True:
        if schema.get("type") == "array" and "items" in schema:
            schema, marks = schema["items"], f"{marks}[]"
            continue
        options = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
        if len(options) != 1:
            return schema, marks
        schema = options[0]


def _referred(schema: dict[str, Any]) -> str | None:
    found = _within(schema)[0].get("$ref", "")
    return found.removeprefix(_COMPONENTS) or None


def type_of(schema: dict[str, Any]) -> str:
    """A type in words: `string or null`, `list of Receipt`, `"succeeded", "failed"`."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_COMPONENTS)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_of(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(_json(one) for one in schema["enum"])
    if "const" in schema:
        return _json(schema["const"])
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"list of {type_of(schema['items'])}" if "items" in schema else "list"
    return f"{kind}, {schema['format']}" if "format" in schema else str(kind)


_BY_FORMAT: Mapping[str, Any] = {
    "uuid": "01998f1e-6c0a-7c3e-9d6b-3f0a4f0c2b11",
    "date": "2026-11-21",
    "date-time": "2026-11-21T05:00:00.123Z",
}


def example_of(schema: dict[str, Any], schemas: Mapping[str, Any], depth: int = 0) -> Any:
    """A value that the schema allows: what is required, and of the rest what has no default."""
    if depth > _DEPTH_MAX:
        return None
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(_COMPONENTS)
        return example_of(schemas[name], schemas, depth + 1)
    for known in ("const", "default"):
        if schema.get(known) is not None:
            return schema[known]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        options = [one for one in schema["anyOf"] if one.get("type") != "null"]
        return example_of(options[0], schemas, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {
            name: example_of(one, schemas, depth + 1)
            for name, one in schema.get("properties", {}).items()
        }
    if kind == "array":
        inner = schema.get("items") or {}
        return [example_of(inner, schemas, depth + 1)] if inner else []
    return _simple(schema, kind)


def _simple(schema: dict[str, Any], kind: Any) -> Any:
    if kind == "string":
        return _BY_FORMAT.get(schema.get("format", ""), "…")
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"boolean": False}.get(str(kind))


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


PAGES = (Page("GET", "/docs/api", reference, "anyone"),)
