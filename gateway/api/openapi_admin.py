"""The admin API's part of the OpenAPI description, made from its table of routes.

What a route takes and answers is read from the types of its verb, so the description cannot say
anything else than the verb checks. Pure; used by `openapi.py`.
"""

import functools
from typing import Any

import msgspec

from gateway.admin.routes import ROUTES, Route
from gateway.admin.verbs import VERBS

Schema = dict[str, Any]

COMPONENTS = "#/components/schemas/"

_RECEIPT: Schema = {"$ref": f"{COMPONENTS}Receipt"}


@functools.cache
def described() -> tuple[dict[str, dict[str, Any]], dict[str, Schema]]:
    """Paths with their operations, and the schemas that they refer to; not to be changed."""
    verbs = [VERBS[route.verb] for route in ROUTES]
    types = {verb.takes for verb in verbs}
    types |= {verb.gives for verb in verbs if verb.gives is not msgspec.Raw}
    _, schemas = msgspec.json.schema_components(
        sorted(types, key=lambda kind: kind.__name__), ref_template=f"{COMPONENTS}{{name}}"
    )
    schemas["ReceiptList"]["properties"]["data"]["items"] = _RECEIPT
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.shown_path, {})[route.method.lower()] = _operation(route, schemas)
    taken = {verb.takes.__name__ for verb in verbs}
    return paths, {name: one for name, one in schemas.items() if name not in taken}


def _operation(route: Route, schemas: dict[str, Schema]) -> dict[str, Any]:
    verb = VERBS[route.verb]
    takes = schemas[verb.takes.__name__]
    properties: dict[str, Schema] = takes["properties"]
    required = set(takes.get("required", ()))
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": properties[name]}
        for name in route.in_path
    ]
    parameters += [
        {"name": field, "in": "header", "required": False, "schema": properties[name]}
        for field, name in route.headers.items()
    ]
    elsewhere = {*route.in_path, *route.headers.values()}
    rest = {name: one for name, one in properties.items() if name not in elsewhere}
    answer = (
        _RECEIPT if verb.gives is msgspec.Raw else {"$ref": f"{COMPONENTS}{verb.gives.__name__}"}
    )
    operation: dict[str, Any] = {
        "summary": route.summary,
        "description": verb.takes.__doc__ or "",
        "operationId": route.verb.replace(".", "_"),
        "tags": ["Admin"],
        "security": [{"bearer": []}, {"x-api-key": []}],
        "parameters": parameters,
        "responses": answers(answer),
    }
    if route.method == "GET":
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": one}
            | ({"style": "form", "explode": False} if name in route.lists else {})
            for name, one in rest.items()
        ]
    elif rest:
        operation["requestBody"] = json_body(
            {
                "type": "object",
                "properties": rest,
                "required": sorted(required - elsewhere),
                "additionalProperties": False,
            }
        )
    return operation


def json_body(schema: Schema) -> dict[str, Any]:
    """A request body of JSON."""
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def answers(schema: Schema | None) -> dict[str, Any]:
    """What an operation may answer: 200 with this, or an error."""
    ok: dict[str, Any] = {"description": "OK"}
    if schema is not None:
        ok["content"] = {"application/json": {"schema": schema}}
    error = {"application/json": {"schema": {"$ref": f"{COMPONENTS}Error"}}}
    return {"200": ok, "default": {"description": "An error", "content": error}}
