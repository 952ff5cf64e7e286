"""`/healthz`, `/readyz`, `/metrics`, `/openapi.json`, `/`: no authentication, no upstream call."""

import resource

import orjson
from aiohttp import web

from gateway import __version__
from gateway.api.callers import PROXY, json_answer
from gateway.api.openapi import document

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NOFILE_WARN = 4096


async def root(request: web.Request) -> web.Response:
    """Says what answers here; clients probe it with HEAD. A browser is led to the dashboard."""
    wants = request.headers.get("Accept", "")
    if "text/html" in wants and request.app[PROXY].services.config.dashboard.enabled:
        return web.Response(status=303, headers={"Location": "/dashboard"})
    return json_answer(orjson.dumps({"service": "gateway", "version": __version__}))


async def healthz(request: web.Request) -> web.Response:
    """200 while the process serves at all."""
    return json_answer(b'{"status":"ok"}')


async def readyz(request: web.Request) -> web.Response:
    """200 when new requests are welcome; 503 while draining or while receipts cannot be written."""
    services = request.app[PROXY].services
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    checks = {
        "draining": services.draining,
        "ledger_writable": services.ledger.writable,
        "in_flight": len(services.exchanges),
        "nofile": nofile,
        "nofile_low": nofile < NOFILE_WARN,
        "providers": {name: one.active for name, one in services.providers.items()},
    }
    ready = not services.draining and services.ledger.writable
    body = orjson.dumps({"status": "ready" if ready else "unavailable", **checks})
    return json_answer(body, 200 if ready else 503)


async def metrics(request: web.Request) -> web.Response:
    """The Prometheus text exposition."""
    body = request.app[PROXY].services.metrics.render()
    return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})


async def openapi(request: web.Request) -> web.Response:
    """The OpenAPI description of this server."""
    return json_answer(orjson.dumps(document(f"{request.scheme}://{request.host}")))
