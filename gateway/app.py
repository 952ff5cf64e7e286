"""The composition root: builds the parts, wires them, serves, drains, shuts down.

The only module that imports all others. `serve` is the whole life of a process (the `serve` verb);
`Gateway` is the same without signals, for whoever holds a loop of their own, tests above all.
"""

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp.http_parser
import uvloop
from aiohttp import web

from gateway import config as cfg
from gateway import first_run, logs
from gateway.accounts import secret as server_secret
from gateway.accounts.accounts import Accounts
from gateway.accounts.sign_in import SignIn
from gateway.accounts.upstream_settings import UpstreamSettings
from gateway.accounts.vault import Vault
from gateway.admin import http_api, local_socket
from gateway.admin.authentication import Authentication
from gateway.admin.context import Context
from gateway.alerts import sender
from gateway.alerts.daily import Daily, thresholds_of
from gateway.alerts.sender import Alerts, Around
from gateway.alerts.sent import Sent
from gateway.api import account, callers, models, operations, receipts
from gateway.config import Config
from gateway.control import Control
from gateway.demo import server as demo
from gateway.errors import ConfigError, GatewayError, scrub
from gateway.ledger.catalog import Catalog
from gateway.ledger.writer import Ledger
from gateway.limits.limiter import Limiter
from gateway.metrics import Metrics
from gateway.proxy import guard
from gateway.proxy.handler import Proxy
from gateway.proxy.health import Health
from gateway.proxy.routing import Router
from gateway.proxy.server import ClientServer
from gateway.proxy.services import Services
from gateway.proxy.upstream import Upstreams
from gateway.web import pages

BACKLOG = 4096
FATAL_EXIT = 70
"""Exit code when the ledger failed in a way nobody can know the outcome of (EX_SOFTWARE)."""

_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """All parts of one running gateway."""

    def __init__(
        self,
        config: Config,
        *,
        on_fatal: Callable[[BaseException], None],
        path: str | None = None,
    ) -> None:
        """`path` is the file that `config` is from, and that a reload reads again."""
        self.config = config
        self._path = path
        self._on_fatal = on_fatal
        self._stack = contextlib.AsyncExitStack()
        self._listeners: list[asyncio.Server] = []
        self._reloads: set[asyncio.Task[None]] = set()
        self.port = 0
        self.metrics_port = 0

    async def start(self) -> None:
        """Open the store, then the demo upstream, the local socket, and the listeners last.

        Raises `StoreError` or `ConfigError`, one line each; whatever was started is stopped.
        """
        try:
            await self._build()
            await self._listen()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _build(self) -> None:
        config, stack = self.config, self._stack
        secret = server_secret.load(config.store.path)
        self.tls = tls_context(config.server)
        channels = sender.channels(config.alerts)
        self.ledger = ledger = await Ledger.open(
            config.store.path,
            secret=secret,
            durability=config.store.durability,
            on_fatal=self._on_fatal,
        )
        stack.push_async_callback(ledger.close)
        # After the store's lock is held: the command may have been rotating the master key.
        vault = Vault.load(config.store.path)
        self.metrics = Metrics()
        ledger.on_commit = self.metrics.committed
        self.accounts = await Accounts.load(ledger, secret, config.keys.prefix)
        self.sign_in = await SignIn.load(ledger, self.accounts, secret)
        self.settings = await UpstreamSettings.load(
            ledger, vault, check_base_url=guard.check_base_url
        )
        self.alerts = Alerts(
            ledger, channels,
            Around(secret=secret, user_name=self._user_name, keep_paused=self._keep_paused),
        )  # fmt: skip
        self._start(secret)
        await self.control.prepare(config)
        self.control.rebuild()
        self.settings.on_change = self.control.rebuild
        await self._count_today()
        self.alerts.start()
        stack.push_async_callback(self.alerts.stop)
        context = Context(
            self.accounts,
            ledger,
            secret,
            upstreams=self.settings,
            sign_in=self.sign_in,
            operations=self.control,
            config=lambda: self.services.config,
            catalog=lambda: self.control.catalog,
            user_changed=self.control.watch_user,
            provider_resumed=self.services.health.resume,
        )
        self.proxy = Proxy(self.services)
        self.pages = self._pages(context, secret)
        self.pages.freeze()
        await self.pages.startup()
        stack.push_async_callback(self.pages.cleanup)
        self.server = ClientServer(self.proxy, *_page_serving(self.pages))
        admin = await local_socket.start(
            context, config.admin.socket or f"{config.store.path}.sock"
        )
        stack.push_async_callback(admin.cleanup)

    def _start(self, secret: bytes) -> None:
        """Make the hot path's parts, without upstreams yet: `Control.rebuild` gives it those."""
        config, catalog = self.config, Catalog.load()
        upstreams = Upstreams(
            keepalive_s=config.upstream.keepalive_seconds,
            connections_max=config.upstream.connections_max,
        )
        self._stack.callback(upstreams.close)
        thresholds = thresholds_of(config, self.accounts.list_users())
        self.services = Services(
            config=config,
            providers={},
            router=Router(config, {}, catalog),
            ledger=self.ledger,
            accounts=self.accounts,
            limiter=Limiter(),
            health=Health(),
            daily=Daily(thresholds, self.alerts.crossed, self._stop_provider),
            upstreams=upstreams,
            metrics=self.metrics,
            owner_hash=owner_hash(secret),
            log_request=logs.log_request if config.log.requests else None,
        )
        self.control = Control(
            path=self._path,
            services=self.services,
            accounts=self.accounts,
            catalog=catalog,
            settings=self.settings,
            alerts=self.alerts,
            tls=self.tls,
            start_demo=self._start_demo,
        )
        self.metrics.in_flight = lambda: len(self.services.exchanges)
        self.metrics.queue_depth = lambda: self.ledger.queue_depth
        self.metrics.providers_up = self._providers_up

    async def _start_demo(self) -> int:
        runner, port = await demo.start()
        self._stack.push_async_callback(runner.cleanup)
        return port

    async def _count_today(self) -> None:
        """Take up the counters of the day where the last process left them."""
        rows = await Sent(self.ledger).recent(self.services.wall_ms())
        self.services.daily.load(rows, self.services.wall_ms())

    def _stop_provider(self, name: str) -> None:
        """A day's spending reached its stop: at once in memory, then (by the alerts) for good."""
        self.services.health.pause(name, "daily_stop")

    async def _keep_paused(self, name: str) -> None:
        await self.settings.pause(name, "daily_stop")

    def _user_name(self, user_id: int) -> str | None:
        return self.accounts.user(user_id).name

    def _providers_up(self) -> list[tuple[str, bool]]:
        health, now = self.services.health, self.services.time()
        return [(name, health.up(one, now)) for name, one in self.services.providers.items()]

    def _pages(self, context: Context, secret: bytes) -> web.Application:
        app = web.Application(middlewares=[_refusals])
        app[callers.PROXY] = self.proxy
        app[receipts.LEDGER] = self.ledger
        for prefix in ("/v1", "/api/v1", "/v1/v1", "/api/v1/v1"):
            app.router.add_get(f"{prefix}/receipts", receipts.listing)
            app.router.add_get(f"{prefix}/receipts/{{id}}", receipts.show)
            app.router.add_get(f"{prefix}/models", models.listing)
            app.router.add_get(f"{prefix}/models/{{id:.+}}", models.show)
        for prefix in ("/v1beta", "/api/v1beta", "/v1/v1beta", "/v1beta/v1beta"):
            app.router.add_get(f"{prefix}/models", models.listing)
            app.router.add_get(f"{prefix}/models/{{id:.+}}", models.show)
        app.router.add_get("/", operations.root)
        app.router.add_get("/healthz", operations.healthz)
        app.router.add_get("/readyz", operations.readyz)
        app.router.add_get("/openapi.json", operations.openapi)
        if not self.config.server.metrics_port:
            app.router.add_get("/metrics", operations.metrics)
        app[account.ACCOUNTS] = self.accounts
        account.register(app)
        http_api.register(app, context, Authentication(self.accounts, lambda: self.services.config))
        if self.config.dashboard.enabled:
            pages.register(app, context, self.services, self.sign_in, secret)
        return app

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        server = self.config.server
        try:
            if server.unix_socket:
                with contextlib.suppress(FileNotFoundError):
                    await asyncio.to_thread(os.unlink, server.unix_socket)
                self._listeners.append(
                    await loop.create_unix_server(self.server, server.unix_socket, backlog=BACKLOG)
                )
            else:
                listener = await loop.create_server(
                    self.server, server.host, server.port, ssl=self.tls, backlog=BACKLOG
                )
                self.port = listener.sockets[0].getsockname()[1]
                self._listeners.append(listener)
        except OSError as exc:
            where = server.unix_socket or f"{server.host}:{server.port}"
            raise ConfigError(f"server: cannot listen on {where}: {exc.strerror or exc}") from None
        self._stack.push_async_callback(self._close_listeners)
        if server.metrics_port:
            await self._listen_metrics(server)

    async def _listen_metrics(self, server: cfg.Server) -> None:
        app = web.Application()
        app[callers.PROXY] = self.proxy
        app.router.add_get("/metrics", operations.metrics)
        app.router.add_get("/healthz", operations.healthz)
        app.router.add_get("/readyz", operations.readyz)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, server.host, server.metrics_port).start()
        except OSError as exc:
            raise ConfigError(
                f"server.metrics_port: cannot listen: {exc.strerror or exc}"
            ) from None
        self.metrics_port = server.metrics_port

    async def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        # Connections at rest close now. `shutdown` alone would wait for them to the end of its
        # time, and drop in silence what their clients ask meanwhile.
        self.server.pre_shutdown()
        await self.server.shutdown(1.0)

    def reload(self) -> None:
        """Reload in the background (SIGHUP); a refusal goes to the log."""

        async def run() -> None:
            try:
                await self.control.reload()
            except ConfigError as exc:
                _log.error("not reloaded, nothing was changed: %s", exc)
            except Exception:  # noqa: BLE001 - nobody awaits this task
                _log.exception("not reloaded")

        task = asyncio.get_running_loop().create_task(run())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def stop(self, drain_s: float | None = None) -> None:
        """Refuse new requests, let those in flight finish for `drain_s` seconds, then close.

        `/readyz` answers 503 from the start of it. What has not finished by then is cut, and its
        receipt says so.
        """
        services = self.services
        services.draining = True
        limit = self.config.server.drain_seconds if drain_s is None else drain_s
        deadline = services.time() + limit
        if services.exchanges:
            _log.info("draining %d requests", len(services.exchanges))
        while services.exchanges and services.time() < deadline:  # noqa: ASYNC110 - once a life
            await asyncio.sleep(0.02)
        for exchange in list(services.exchanges):
            exchange.cut_short()
        while services.exchanges and self.ledger.writable:  # noqa: ASYNC110 - once a life
            await asyncio.sleep(0.005)
        await self._stack.aclose()


@web.middleware
async def _refusals(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every error of the ordinary pages as JSON, and what all their answers carry."""
    answer = await _answer(request, handler)
    callers.dress(request, answer)
    return answer


async def _answer(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GatewayError as error:
        return callers.refusal(request, error)
    except web.HTTPMethodNotAllowed as error:
        refused = callers.refusal(
            request, GatewayError("method_not_allowed", f"{request.method} is not allowed here")
        )
        refused.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return refused
    except web.HTTPNotFound:
        return callers.refusal(
            request, GatewayError("not_found", f"No such page: {scrub(request.path[:200])}")
        )
    except asyncio.CancelledError:
        raise
    except Exception:  # noqa: BLE001 - whatever a page raises, the caller gets JSON
        _log.exception("a page failed: %r", request.path[:200])
        return callers.refusal(
            request, GatewayError("internal_error", "The gateway failed", stage="gateway")
        )


def _page_serving(app: web.Application) -> tuple[Any, Any]:
    """The ordinary handler and request factory of an application."""
    return app._handle, lambda *args: app._make_request(*args)  # noqa: SLF001 - as AppRunner does


def owner_hash(secret: bytes) -> Callable[[bytes], str]:
    """Who a caller's own key is on receipts: a keyed hash, so that the store holds no key."""
    keyed = hashlib.blake2b(key=secret, digest_size=16, person=b"gateway.byok")

    def owner(credential: bytes) -> str:
        hasher = keyed.copy()
        hasher.update(credential)
        return f"byok:{hasher.hexdigest()}"

    return owner


def tls_context(server: cfg.Server) -> ssl.SSLContext | None:
    """The listener's certificate; None without TLS. Raises `ConfigError`."""
    if not server.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(server.tls_cert, server.tls_key)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"server.tls_cert: cannot be used: {exc}") from None
    return context


def raise_nofile(wanted: int) -> int:
    """Raise the soft limit of open files towards `wanted`; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        soft = target
    return soft


def calm_collector() -> None:
    """Let the cycle collector look rarely: a request leaves no cycles behind.

    With the defaults it took 13 % of the CPU of small JSON requests. What start-up made is never
    looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def check_parser() -> None:
    """Refuse to run on aiohttp's pure-Python parser, which accepts `chunked, chunked`."""
    if not aiohttp.http_parser.HttpRequestParser.__module__.endswith("_http_parser"):
        raise ConfigError("aiohttp: its C extension is not installed; refusing its Python parser")


def serve(config_path: str) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code. Raises `ConfigError`, `StoreError`."""
    config = cfg.load(config_path)
    logs.configure(config.log)
    check_parser()
    nofile = raise_nofile(config.server.nofile)
    if nofile < operations.NOFILE_WARN:
        _log.warning("only %d files may be open: that bounds how many streams fit", nofile)
    return uvloop.run(_serve(config, config_path))


async def _serve(config: Config, config_path: str) -> int:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not over.done():
            over.set_result(code)

    def fatal(exc: BaseException) -> None:
        # What was committed is unknown: only a fresh start can read the truth.
        _log.critical("the ledger failed: %s", exc)
        end(FATAL_EXIT)

    gateway = Gateway(config, on_fatal=fatal, path=config_path)
    await gateway.start()
    gateway.control.on_config = lambda config: logs.configure(config.log)
    calm_collector()
    loop.add_signal_handler(signal.SIGHUP, gateway.reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    server = config.server
    scheme = "https" if server.tls_cert else "http"
    where = server.unix_socket or f"{scheme}://{_shown_host(server.host)}:{gateway.port}"
    _log.info("listening on %s", where)
    await first_run.greet(gateway.accounts, gateway.sign_in, config, where, sys.stdout)
    code = await over
    if code:
        os._exit(code)
    _log.info("stopping")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, os._exit, 1)
    await gateway.stop()
    return 0


def _shown_host(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
