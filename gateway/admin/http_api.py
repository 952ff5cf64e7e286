"""`/admin/v1`: the verbs over HTTP. Thin: who is it, what is asked, the verb, its answer.

Nothing of a request is read before its sender is known. Bodies are JSON and bounded; errors are
`GatewayError`s, which the application renders. `register` adds the routes; `app.py` calls it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from gateway.admin.context import BadArguments, Context, Verb, field_of
from gateway.admin.routes import PREFIX, ROUTES, Route
from gateway.admin.verbs import VERBS
from gateway.errors import Conflict, GatewayError, KeyReused, Missing, StoreError

BODY_BYTES_MAX = 1 << 20

Authenticate = Callable[[web.Request], str]
"""Who sends a request, as the log says it; raises `GatewayError`."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def register(app: web.Application, context: Context, authenticate: Authenticate) -> None:
    """Add every route of the admin API; each asks `authenticate` first."""
    for route in ROUTES:
        handler = _handler(route, VERBS[route.verb], context, authenticate)
        if route.method == "GET":
            app.router.add_get(PREFIX + route.path, handler)
        else:
            app.router.add_route(route.method, PREFIX + route.path, handler)


def _handler(
    route: Route, verb: Verb[Any], context: Context, authenticate: Authenticate
) -> _Handler:
    async def handle(request: web.Request) -> web.Response:
        who = authenticate(request)
        try:
            if route.method == "GET":
                body = await verb.from_text(context, _query(route, request), who)
            else:
                body = await verb(context, await _payload(route, request), who)
        except (Conflict, StoreError) as exc:
            raise _refusal(exc) from None
        return web.Response(
            body=body, content_type="application/json", headers={"Cache-Control": "no-store"}
        )

    return handle


def _query(route: Route, request: web.Request) -> dict[str, object]:
    """The arguments that a URL gives."""
    values: dict[str, object] = {}
    for name in request.query:
        given = request.query.getall(name)
        if name in route.lists:
            values[name] = [part for one in given for part in one.split(",") if part]
        elif len(given) > 1:
            raise BadArguments(f"{name}: is given twice")
        elif name in route.in_path:
            raise BadArguments(f"{name}: is in the path")
        else:
            values[name] = given[0]
    return values | dict(request.match_info)


async def _payload(route: Route, request: web.Request) -> bytes:
    """The arguments of a body, with those of the path and the header, as one JSON object."""
    body = await _body(request)
    try:
        given = msgspec.json.decode(body or b"{}", type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadArguments(f"the body is not a JSON object: {exc}") from None
    besides: dict[str, str] = dict(request.match_info)
    for field, name in route.headers.items():
        if len(request.headers.getall(field, ())) > 1:
            raise BadArguments(f"{name}: {field} is given twice")
        if field in request.headers:
            besides[name] = request.headers[field]
        elif name in given:
            raise BadArguments(f"{name}: belongs in the header, as {field}")
    for name in besides:
        if name in given:
            raise BadArguments(f"{name}: is in the path or the header")
    try:
        return msgspec.json.encode({**given, **besides})
    except UnicodeEncodeError:
        raise BadArguments("the path or the header is not UTF-8") from None


async def _body(request: web.Request) -> bytes:
    pieces = bytearray()
    async for piece in request.content.iter_any():
        pieces += piece
        if len(pieces) > BODY_BYTES_MAX:
            raise GatewayError("request_too_large", f"The body is over {BODY_BYTES_MAX} bytes")
    # A form of another site's page can send any other type without asking this server first.
    if pieces and request.content_type != "application/json":
        raise BadArguments("the body must be JSON, with Content-Type: application/json")
    return bytes(pieces)


def _refusal(exc: Exception) -> GatewayError:
    message = str(exc)
    if isinstance(exc, BadArguments):
        return GatewayError("invalid_request", message, param=field_of(message))
    if isinstance(exc, Missing):
        return GatewayError("not_found", message)
    if isinstance(exc, KeyReused):
        return GatewayError("idempotency_key_reused", message, param="idempotency_key")
    if isinstance(exc, Conflict):
        return GatewayError("conflict", message, param=field_of(message))
    return GatewayError("ledger_unavailable", message, stage="gateway", retry_after_s=5)
