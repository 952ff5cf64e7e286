"""Who calls one of the gateway's own endpoints, and how a refusal is told.

Used by the other modules of this package; the proxy's own identification does the work.
"""

from aiohttp import web

from gateway.config import Family
from gateway.errors import GatewayError
from gateway.proxy import errors, headers
from gateway.proxy.handler import Proxy
from gateway.proxy.services import Caller

PROXY: web.AppKey[Proxy] = web.AppKey("proxy", Proxy)


def family_of(request: web.Request) -> Family:
    """The API family whose shapes this caller reads."""
    if "/v1beta" in request.path:
        return "gemini"
    return headers.spoken(headers.read(request.raw_headers)) or "openai"


def caller_of(request: web.Request) -> Caller:
    """The caller, by the same rules as for proxied calls; raises `GatewayError`."""
    inbound = headers.read(request.raw_headers)
    _, key = headers.take_key(request.query_string)
    if key is not None:
        inbound.credentials.setdefault(b"key", key)
    return request.app[PROXY].admission.identify(inbound, b"")


def json_answer(body: bytes, status: int = 200) -> web.Response:
    """A JSON answer of ready bytes."""
    return web.Response(body=body, status=status, content_type="application/json")


def refusal(request: web.Request, error: GatewayError) -> web.Response:
    """An error in the caller's format."""
    answer = json_answer(errors.body(error, family_of(request), None), error.status)
    _add(answer, errors.headers(error))
    return answer


def dress(request: web.Request, answer: web.StreamResponse) -> None:
    """Let an allowed web origin read an answer, and name no versions in it."""
    answer.headers["Server"] = "gateway"
    if "Origin" in request.headers:
        _add(answer, request.app[PROXY].admission.cors(headers.read(request.raw_headers)))


def _add(answer: web.StreamResponse, lines: bytes) -> None:
    for line in lines.decode("latin-1").splitlines():
        name, _, value = line.partition(": ")
        answer.headers[name] = value
