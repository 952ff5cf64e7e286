"""The built-in upstream: a provider that answers in every format, without any key.

`make_app()` builds it, `start()` serves it on a free port; `python -m gateway.demo --port N` runs
it alone. One port carries three providers:

    /v1/...                  OpenAI: chat completions, completions, responses, embeddings,
                             moderations, models, files, images, audio, batches
    /anthropic/v1/...        Anthropic: messages, count_tokens, models
    /gemini/v1beta/...       Gemini: generate, stream, count, embed, models, files (also at v1)
    /gemini/upload/v1beta/files

Any credential that is not empty is taken; none is a 401 in the provider's own envelope. Any model
name answers; switches in it misbehave on demand (`switches.py`). Sound requests get what the
provider would send, unsound ones its error. Loopback use only: nothing here is authenticated.
Imported by the gateway's composition root and by tests.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import orjson
from aiohttp import hdrs, web

from gateway.demo import (
    anthropic_messages,
    embeddings,
    files,
    gemini,
    media,
    models,
    moderations,
    openai_chat,
    openai_completions,
    openai_responses,
)
from gateway.demo.delivery import Sent, deliver
from gateway.demo.multipart import read_form
from gateway.demo.reply import (
    Family,
    Refusal,
    Reply,
    family_headers,
    new_id,
    refuse,
    switched_status,
)
from gateway.demo.state import DemoState, Shelf
from gateway.demo.switches import BadSwitch, Switches, parse

BODY_BYTES_MAX = 64 * 1024 * 1024
"""Of a JSON body; uploads stream and have no bound."""

_SHUTDOWN_S = 1.0

_BEHAVED = Switches()

_log = logging.getLogger("gateway.demo")

Body = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Exchange(msgspec.Struct):
    """One request under way: whose it is, its id, when it came, the switches once known."""

    family: Family
    request_id: str
    began_s: float
    switches: Switches = _BEHAVED


_EXCHANGE = web.RequestKey("demo_exchange", _Exchange)


def make_app() -> web.Application:
    """Build the application; each has its own memory."""
    server = _Server(DemoState())
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[server.frame])
    server.add_routes(app.router)

    async def release(_: web.Application) -> None:
        server.state.closing.set()

    app.on_shutdown.append(release)
    return app


async def start(
    host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None
) -> tuple[web.AppRunner, int]:
    """Serve on `port` (0: any free one); returns the runner and the port.

    The runner's `cleanup()` stops it and lets go of every connection it holds open.
    """
    runner = web.AppRunner(
        make_app(), access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_S
    )
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=tls)
    try:
        await site.start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner, int(runner.addresses[0][1])


def family_of(path: str) -> Family:
    """Whose API a path belongs to."""
    if path.startswith("/anthropic/"):
        return "anthropic"
    return "gemini" if path.startswith("/gemini/") else "openai"


class _Server:
    """The endpoints of one demo, over its memory."""

    def __init__(self, state: DemoState) -> None:
        self.state = state
        self._responses: openai_responses.Shelved = Shelf()
        self._files: files.Files = Shelf()
        self._gemini_files: files.Files = Shelf()
        self._uploads: files.Uploads = Shelf()
        self._batches: files.Batches = Shelf()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register every path."""
        self._add_openai(router)
        self._add_openai_files(router)
        self._add_anthropic(router)
        self._add_gemini(router)

    @web.middleware
    async def frame(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Credentials before, the provider's own errors after."""
        family = family_of(request.path)
        exchange = _Exchange(family, new_id("req_"), time.monotonic())
        request[_EXCHANGE] = exchange
        try:
            _check_credential(request, family)
            return await handler(request)
        except Refusal as refusal:
            reply = refuse(family, refusal, exchange.request_id)
        except web.HTTPException as error:
            reply = refuse(family, _routing_refusal(request, error), exchange.request_id)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:  # noqa: BLE001 - a fault of the demo is a 500 in the right shape
            _log.exception("the demo failed at %s %s", request.method, request.path)
            broken = Refusal(500, "The demo upstream had an error of its own.")
            reply = refuse(family, broken, exchange.request_id)
        return await self._send(request, reply, _BEHAVED)

    def _add_openai(self, router: web.UrlDispatcher) -> None:
        state, shelf = self.state, self._responses
        creates: dict[str, Callable[[DemoState, Body, Switches], Reply]] = {
            "/v1/chat/completions": openai_chat.create,
            "/v1/completions": openai_completions.create,
            "/v1/embeddings": embeddings.create,
            "/v1/moderations": moderations.create,
            "/v1/images/generations": media.create_image,
            "/v1/audio/speech": media.speak,
        }
        for path, create in creates.items():
            default = "demo" if path == "/v1/moderations" else None
            router.add_post(path, self._create(create, default_model=default))
        stateful = {
            "/v1/responses": openai_responses.create,
            "/v1/responses/compact": openai_responses.compact,
            "/v1/responses/input_tokens": openai_responses.input_tokens,
        }
        for path, act in stateful.items():
            router.add_post(path, self._create(_over(act, shelf)))
        one = "/v1/responses/{id}"
        router.add_get(one, self._by_id(lambda key: openai_responses.fetch(state, shelf, key)))
        router.add_delete(one, self._by_id(lambda key: openai_responses.delete(shelf, key)))
        router.add_post(
            one + "/cancel", self._by_id(lambda key: openai_responses.cancel(state, shelf, key))
        )
        router.add_get("/v1/models", self._by_id(lambda _: models.openai_list()))
        router.add_get("/v1/models/{id:.+}", self._by_id(models.openai_one))

    def _add_openai_files(self, router: web.UrlDispatcher) -> None:
        kept, batches = self._files, self._batches
        router.add_post("/v1/files", self._upload)
        router.add_get("/v1/files", self._by_id(lambda _: files.list_all(kept)))
        router.add_get("/v1/files/{id}", self._by_id(lambda key: files.fetch(kept, key)))
        router.add_delete("/v1/files/{id}", self._by_id(lambda key: files.delete(kept, key)))
        router.add_get(
            "/v1/files/{id}/content", self._by_id(lambda key: files.fetch_content(kept, key))
        )
        router.add_post("/v1/audio/transcriptions", self._transcribe)
        router.add_post("/v1/batches", self._create_batch)
        router.add_get("/v1/batches", self._by_id(lambda _: files.list_batches(batches)))
        router.add_get("/v1/batches/{id}", self._by_id(lambda key: files.fetch_batch(batches, key)))

    def _add_anthropic(self, router: web.UrlDispatcher) -> None:
        router.add_post("/anthropic/v1/messages", self._message)
        router.add_post("/anthropic/v1/messages/count_tokens", self._count_message)
        router.add_get("/anthropic/v1/models", self._by_id(lambda _: models.anthropic_list()))
        router.add_get("/anthropic/v1/models/{id}", self._by_id(models.anthropic_one))

    def _add_gemini(self, router: web.UrlDispatcher) -> None:
        kept = self._gemini_files
        # Google serves both versions alike, and its clients differ in the one they take.
        base = "/gemini/{version:v1|v1beta}"
        router.add_get(base + "/models", self._by_id(lambda _: models.gemini_list()))
        router.add_post(base + "/models/{model:[^:]+}:{verb}", self._gemini)
        router.add_get(base + "/models/{id}", self._by_id(models.gemini_one))
        router.add_post("/gemini/upload/{version:v1|v1beta}/files", self._gemini_upload)
        router.add_get(base + "/files", self._by_id(lambda _: files.gemini_list(kept)))
        router.add_get(
            base + "/{id:files/[^/]+}", self._by_id(lambda key: files.gemini_fetch(kept, key))
        )
        router.add_delete(
            base + "/{id:files/[^/]+}", self._by_id(lambda key: files.gemini_delete(kept, key))
        )

    def _create(
        self,
        act: Callable[[DemoState, Body, Switches], Reply],
        *,
        default_model: str | None = None,
    ) -> Handler:
        """A handler for a JSON body that names its model."""

        async def handle(request: web.Request) -> web.StreamResponse:
            body = await _read_body(request)
            if default_model is not None:
                body.setdefault("model", default_model)
            switches = _model_switches(request, body.get("model"))
            return await self._answer(request, lambda: act(self.state, body, switches))

        return handle

    def _by_id(self, act: Callable[[str], Reply]) -> Handler:
        """A handler that needs no more than the id in the path."""

        async def handle(request: web.Request) -> web.StreamResponse:
            key = request.match_info.get("id", "")
            switches = msgspec.structs.replace(_BEHAVED, first=0)
            return await self._send(request, act(key), switches)

        return handle

    async def _message(self, request: web.Request) -> web.StreamResponse:
        exchange = request[_EXCHANGE]
        body, switches, beta = await self._read_message(request)

        def act() -> Reply:
            return anthropic_messages.create(
                self.state, body, switches, beta=beta, request_id=exchange.request_id
            )

        return await self._answer(request, act)

    async def _count_message(self, request: web.Request) -> web.StreamResponse:
        body, switches, beta = await self._read_message(request)
        return await self._answer(
            request, lambda: anthropic_messages.count_tokens(body, switches, beta=beta)
        )

    async def _read_message(self, request: web.Request) -> tuple[Body, Switches, bool]:
        if not request.headers.get("anthropic-version"):
            raise Refusal(400, "anthropic-version: header is required")
        body = await _read_body(request)
        switches = _model_switches(request, body.get("model"))
        return body, switches, "anthropic-beta" in request.headers

    async def _gemini(self, request: web.Request) -> web.StreamResponse:
        model, verb = request.match_info["model"], request.match_info["verb"]
        if verb != "streamGenerateContent" and verb not in gemini.VERBS:
            raise web.HTTPNotFound
        switches = _model_switches(request, model)
        body = await _read_body(request)
        if verb == "streamGenerateContent":
            sse = request.query.get("alt") == "sse"
            return await self._answer(
                request, lambda: gemini.stream(self.state, model, body, switches, sse=sse)
            )
        act = gemini.VERBS[verb]
        return await self._answer(request, lambda: act(self.state, model, body, switches))

    async def _gemini_upload(self, request: web.Request) -> web.StreamResponse:
        kept, uploads = self._gemini_files, self._uploads
        reply = await files.gemini_upload(self.state, kept, uploads, request)
        return await self._send(request, reply, _BEHAVED)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        reply = await files.upload(self.state, self._files, request)
        return await self._send(request, reply, _BEHAVED)

    async def _transcribe(self, request: web.Request) -> web.StreamResponse:
        form = await read_form(request)
        switches = _model_switches(request, form.fields.get("model"))
        return await self._answer(request, lambda: media.transcribe(form, switches))

    async def _create_batch(self, request: web.Request) -> web.StreamResponse:
        body = await _read_body(request)
        reply = files.create_batch(self.state, self._files, self._batches, body)
        return await self._send(request, reply, _BEHAVED)

    async def _answer(self, request: web.Request, act: Callable[[], Reply]) -> web.StreamResponse:
        """Answer under the request's switches; a status switch answers before anything is read."""
        exchange = request[_EXCHANGE]
        switches = exchange.switches
        if switches.status is not None:
            reply = switched_status(
                exchange.family, switches.status, switches.retry_after, exchange.request_id
            )
        else:
            reply = act()
        if switches.error is not None and reply.events is None and reply.status == 200:
            broken = Refusal(500, "The demo upstream failed while it was answering.")
            error = refuse(exchange.family, broken, exchange.request_id)
            reply = msgspec.structs.replace(reply, body=error.body)
        return await self._send(request, reply, switches)

    async def _send(self, request: web.Request, reply: Reply, switches: Switches) -> Sent:
        exchange = request[_EXCHANGE]
        spent_ms = int((time.monotonic() - exchange.began_s) * 1000) + 1
        # About four bytes to a token: near enough for a rate header.
        weight = (request.content_length or 0) // 4
        headers = family_headers(exchange.family, exchange.request_id, spent_ms, weight)
        reply = msgspec.structs.replace(reply, headers={**headers, **reply.headers})
        return await deliver(request, reply, switches, self.state.closing)


def _over(
    act: Callable[[DemoState, openai_responses.Shelved, Body, Switches], Reply],
    shelf: openai_responses.Shelved,
) -> Callable[[DemoState, Body, Switches], Reply]:
    """An act on a shelf, as one that needs none."""
    return lambda state, body, switches: act(state, shelf, body, switches)


def _check_credential(request: web.Request, family: Family) -> None:
    headers = request.headers
    scheme, _, token = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    bearer = scheme.lower() == "bearer" and bool(token.strip())
    own = {
        "openai": headers.get("api-key", ""),
        "anthropic": headers.get("x-api-key", ""),
        "gemini": headers.get("x-goog-api-key", "") or request.query.get("key", ""),
    }[family]
    # The URL of an open upload is its own credential: Google's clients send no other to it.
    resumes_upload = request.path.startswith("/gemini/upload/") and "upload_id" in request.query
    if bearer or own.strip() or resumes_upload:
        return
    messages = {
        "openai": "You didn't provide an API key. Send it in an Authorization header, as Bearer.",
        "anthropic": "x-api-key header is required",
        "gemini": "Request is missing required authentication credential.",
    }
    kind = {"openai": "invalid_request_error"}.get(family)
    raise Refusal(401, messages[family], kind=kind)


def _routing_refusal(request: web.Request, error: web.HTTPException) -> Refusal:
    """A path, method or size that aiohttp itself turned down."""
    if error.status == 413:
        return Refusal(413, f"The request is larger than {BODY_BYTES_MAX} bytes.")
    if error.status == 405:
        message = f"Not allowed to {request.method} on {request.path}."
    else:
        message = f"Invalid URL ({request.method} {request.path})"
    kind = "invalid_request_error" if family_of(request.path) == "openai" else None
    return Refusal(error.status, message, kind=kind)


async def _read_body(request: web.Request) -> Body:
    raw = await request.read()
    family = request[_EXCHANGE].family
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        messages = {
            "openai": "We could not parse the JSON body of your request: it must be an object.",
            "anthropic": "The request body is not valid JSON: an object is expected.",
            "gemini": "Invalid JSON payload received. Unexpected token.",
        }
        raise Refusal(400, messages[family])
    return body


def _model_switches(request: web.Request, model: Any) -> Switches:
    """Read the switches of a request's model, and note them on its exchange."""
    exchange = request[_EXCHANGE]
    if not isinstance(model, str) or not model:
        missing = {
            "openai": "you must provide a model parameter",
            "anthropic": "model: Field required",
            "gemini": "model is not specified",
        }
        raise Refusal(400, missing[exchange.family])
    try:
        _, exchange.switches = parse(model)
    except BadSwitch as error:
        raise Refusal(400, str(error), param="model") from error
    return exchange.switches
