"""The proxy that the gateway is compared with: aiohttp in front, `ClientSession` behind.

Fairness: this is what a competent developer writes in an afternoon from aiohttp's documentation,
not a straw man. It runs on uvloop with the C parsers, without an access log, without a connection
limit or a total timeout, keeps upstream connections alive, does not decompress, and answers a
JSON body with one `web.Response` (measured cheaper than a `StreamResponse` of one piece). Only a
stream goes through `StreamResponse`, chunk by chunk as it arrives. It does less than the gateway
does: no key, no limits, no price, no usage, no receipt, no metrics, no time measured.

    python -m bench.naive_proxy --upstream http://127.0.0.1:PORT [--port 0] [--max-seconds 900]

prints `port N` once it listens. Loopback only; run by `targets.py` and by tests.
"""

import argparse
import asyncio
from typing import Final

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from bench.measure import raise_descriptor_limit

BODY_BYTES_MAX = 32 * 1024 * 1024

# RFC 9110 §7.6.1, and what the client library sets by itself.
_NOT_FORWARDED: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
    }
)

_SESSION = web.AppKey("session", aiohttp.ClientSession)
_UPSTREAM = web.AppKey("upstream", str)


def _forwarded(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() not in _NOT_FORWARDED:
            kept.add(name, value)
    return kept


async def forward(request: web.Request) -> web.StreamResponse:
    """Send the request on, and the answer back."""
    body = await request.read()
    async with request.app[_SESSION].request(
        request.method,
        request.app[_UPSTREAM] + request.path_qs,
        headers=_forwarded(request.headers),
        data=body,
        allow_redirects=False,
    ) as answer:
        headers = _forwarded(answer.headers)
        if answer.content_type != "text/event-stream":
            return web.Response(status=answer.status, headers=headers, body=await answer.read())
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def serve(upstream: str, port: int, max_seconds: float) -> None:
    """Listen on 127.0.0.1, print `port N`, and stop after `max_seconds` at the latest."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app[_UPSTREAM] = upstream
    app.router.add_route("*", "/{path:.*}", forward)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    ) as session:
        app[_SESSION] = session
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, backlog=4096)
        await site.start()
        bound = runner.addresses[0]
        print(f"port {bound[1]}", flush=True)
        try:
            await asyncio.sleep(max_seconds)
        finally:
            await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="An ordinary aiohttp proxy.")
    parser.add_argument("--upstream", required=True, help="origin, such as http://127.0.0.1:9000")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--max-seconds", type=float, default=900)
    options = parser.parse_args()
    raise_descriptor_limit()
    uvloop.run(serve(options.upstream, options.port, options.max_seconds))


if __name__ == "__main__":
    main()
