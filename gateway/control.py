"""What can be done to a running gateway: a new configuration, changed upstream settings, a look.

`app.py` makes one `Control` and gives it to the admin verbs (as their `Operations`) and to SIGHUP.
A reload is all or nothing: everything that can fail is read and built before the first thing is
changed, so a bad file leaves the gateway as it was, and the error says why. Requests in flight end
with what they began with. Event-loop thread only.
"""

import asyncio
import heapq
import logging
import ssl
from collections.abc import Awaitable, Callable

import msgspec

from gateway import config as cfg
from gateway import logs
from gateway.accounts.accounts import Accounts
from gateway.accounts.upstream_settings import UpstreamSettings
from gateway.admin.operations import (
    BreakerHealth,
    InFlight,
    KeyHealth,
    ProviderHealth,
    ReloadReport,
)
from gateway.alerts import sender
from gateway.alerts.daily import thresholds_of
from gateway.alerts.sender import Alerts
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.ledger.catalog import Catalog
from gateway.ledger.records import User
from gateway.proxy import providers
from gateway.proxy.breaker import BreakerView
from gateway.proxy.key_pool import KeyView
from gateway.proxy.providers import Provider
from gateway.proxy.routing import Router
from gateway.proxy.services import Services

_log = logging.getLogger(__name__)

RESTART_KEYS = (
    "server.host", "server.port", "server.unix_socket", "server.metrics_port", "server.nofile",
    "server.tls_cert", "server.tls_key", "store.path", "store.durability", "keys.prefix",
    "admin.socket", "dashboard.enabled", "upstream.keepalive_seconds", "upstream.connections_max",
)  # fmt: skip
"""Keys that are read once, at start. A reload leaves them as they are and says so."""


class Control:
    """See the module docstring. `config` is what holds at the moment."""

    def __init__(  # noqa: PLR0913 - the parts that a reload changes, by name
        self,
        *,
        path: str | None,
        services: Services,
        accounts: Accounts,
        catalog: Catalog,
        settings: UpstreamSettings,
        alerts: Alerts,
        tls: ssl.SSLContext | None,
        start_demo: Callable[[], Awaitable[int]],
    ) -> None:
        self._path = path
        self._services = services
        self._accounts = accounts
        self._settings = settings
        self._alerts = alerts
        self._tls = tls
        self._start_demo = start_demo
        self._order = asyncio.Lock()
        self.catalog = catalog
        self.demo_port: int | None = None
        self.on_config: Callable[[Config], None] | None = None
        """Told of each new configuration; the process sets up its log with it."""

    async def reload(self) -> ReloadReport:
        """Read the configuration, the certificate and the catalog again, and go on with them.

        Raises `ConfigError`; nothing was changed then.
        """
        if self._path is None:
            raise ConfigError("reload: this gateway was not started from a file")
        async with self._order:
            before = self._services.config
            wanted, catalog = await asyncio.to_thread(_read, self._path)
            config, kept = _keeping(wanted, before)
            await asyncio.to_thread(_check_certificate, config.server)
            channels = sender.channels(config.alerts)
            await self.prepare(config)
            built, router = self._built(config, catalog)
            if self._tls is not None:
                # New handshakes use it at once; connections that are open keep theirs.
                self._tls.load_cert_chain(config.server.tls_cert, config.server.tls_key)
            self.catalog = catalog
            self._go_on(config, built, router)
            self._alerts.use(channels)
            self._services.health.reinstate()
            self.watch_spending()
            if self.on_config is not None:
                self.on_config(config)
        changed = _changed(before, config)
        _log.info(
            "reloaded %s: %s%s", self._path, ", ".join(changed) or "nothing changed",
            f"; a restart is needed for {', '.join(kept)}" if kept else "",
        )  # fmt: skip
        return ReloadReport(changed=changed, needs_restart=kept)

    async def prepare(self, config: Config) -> None:
        """Start the built-in upstream where a configuration wants it for the first time."""
        wanted = any(one.base_url == cfg.BUILTIN_DEMO for one in config.providers.values())
        if wanted and self.demo_port is None:
            self.demo_port = await self._start_demo()

    def rebuild(self) -> None:
        """Go on with what the upstream settings say now (they call this after each change)."""
        config = self._services.config
        self._go_on(config, *self._built(config, self.catalog))

    def watch_spending(self) -> None:
        """Take the thresholds of a day's spending from the configuration and the users."""
        services = self._services
        thresholds = thresholds_of(services.config, self._accounts.list_users())
        services.daily.set_thresholds(thresholds, services.wall_ms())

    def watch_user(self, user: User) -> None:
        """Take a user's own threshold."""
        services = self._services
        services.daily.set_user_threshold(user.id, user.daily_alert_nano_usd, services.wall_ms())

    def _built(self, config: Config, catalog: Catalog) -> tuple[dict[str, Provider], Router]:
        settings = self._settings
        built = providers.build(config, self.demo_port, settings.providers, settings.stored_keys)
        return built, Router(config, built, catalog, settings.models)

    def _go_on(self, config: Config, built: dict[str, Provider], router: Router) -> None:
        services = self._services
        services.health.configure(config, built, self._settings.providers)
        services.change(config, built, router)
        services.log_request = logs.log_request if config.log.requests else None

    # -- looks -----------------------------------------------------------------------------------

    def health(self) -> list[ProviderHealth]:
        """Every provider with its keys, its breakers and the day's spending."""
        services = self._services
        config, daily = services.config, services.daily
        now, now_ms = services.time(), services.wall_ms()
        found = []
        for view in services.health.view(now):
            settings = config.providers.get(view.name)
            found.append(
                ProviderHealth(
                    name=view.name,
                    active=view.active,
                    paused_by=view.paused_by,
                    keys=[_key(key, now_ms) for key in view.keys],
                    breakers=[_breaker(one, now_ms) for one in view.breakers],
                    today_nano_usd=daily.provider_today(view.name, now_ms),
                    alert_nano_usd=None if settings is None else settings.daily_alert_nano_usd,
                    stop_nano_usd=None if settings is None else settings.daily_stop_nano_usd,
                )
            )
        return found

    def in_flight(self, limit: int | None = None) -> list[InFlight]:
        """The requests being served, the oldest first; no more than `limit` of them."""
        opened = {it.opening.id: it for it in self._services.exchanges if it.opening is not None}
        oldest = sorted(opened) if limit is None else heapq.nsmallest(limit, opened)
        found = []
        for receipt_id in oldest:
            exchange = opened[receipt_id]
            opening, target, claim = exchange.opening, exchange.target, exchange.claim
            assert opening is not None
            found.append(
                InFlight(
                    id=receipt_id,
                    owner=opening.owner,
                    endpoint=opening.endpoint,
                    model=opening.model,
                    stream=opening.stream,
                    created_ms=opening.created_ms,
                    provider=None if target is None else target.provider.name,
                    attempts=len(exchange.attempts),
                    held_nano_usd=0 if claim is None else claim.held,
                )
            )
        return found


def _key(view: KeyView, now_ms: int) -> KeyHealth:
    rests_ms = None if view.rests_s is None else now_ms + round(view.rests_s * 1000)
    return KeyHealth(
        id=view.id, hint=view.hint, state=view.state, rests_until_ms=rests_ms,
        models=list(view.not_for),
    )  # fmt: skip


def _breaker(view: BreakerView, now_ms: int) -> BreakerHealth:
    at_ms = None if view.opens_s is None else now_ms + round(view.opens_s * 1000)
    # Due for a probe is still open: the next call may be the one.
    state = "open" if view.state == "due" else view.state
    return BreakerHealth(model=view.model, state=state, failures=view.failures, probes_at_ms=at_ms)


def _read(path: str) -> tuple[Config, Catalog]:
    return cfg.load(path), Catalog.load()


def _check_certificate(server: cfg.Server) -> None:
    """Raise `ConfigError` where the certificate, renewed in its place, cannot be used."""
    if server.tls_cert:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(server.tls_cert, server.tls_key)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"server.tls_cert: cannot be used: {exc}") from None


def _keeping(wanted: Config, before: Config) -> tuple[Config, list[str]]:
    """The wanted configuration with the keys that need a restart as they were, and those keys."""
    kept = []
    for path in RESTART_KEYS:
        section, _, key = path.partition(".")
        old = getattr(getattr(before, section), key)
        if getattr(getattr(wanted, section), key) != old:
            kept.append(path)
            changed = msgspec.structs.replace(getattr(wanted, section), **{key: old})
            wanted = msgspec.structs.replace(wanted, **{section: changed})
    return wanted, kept


def _changed(before: Config, after: Config) -> list[str]:
    """Which keys, providers, models and patterns differ, by path; values may be secret."""
    found = []
    for field in msgspec.structs.fields(Config):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if isinstance(old, dict):
            names = sorted({*old, *new})
            found += [f"{field.name}.{name}" for name in names if old.get(name) != new.get(name)]
        else:
            keys = (one.name for one in msgspec.structs.fields(old))
            found += [
                f"{field.name}.{key}" for key in keys if getattr(old, key) != getattr(new, key)
            ]
    return found
