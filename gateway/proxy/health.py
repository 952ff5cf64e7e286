"""What is known of the upstreams' health: pauses, resting and refused keys, breakers, latencies.

One `Health` per process; it outlives reloads (`configure`). Admission asks it in which order to try
a route's targets (`order`), the sender for the key to go with (`key`) and whether the try is a
probe (`begin`), and the exchange reports every attempt of a gateway key (`attempted`,
`key_refused`). Calls with a caller's own key are stopped by pauses only: what befalls them says
nothing about the operator's keys, and their model names are anybody's.

While nothing is paused, open, resting or set aside (`calm`), all of this costs next to nothing.
Pure but for its log and the wall clock of HTTP dates; `now` is monotonic seconds. Event-loop
thread only; knows no store: who pauses also writes it down.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from gateway.config import Config
from gateway.errors import GatewayError
from gateway.ledger.records import ProviderSettings
from gateway.proxy.breaker import Breakers, BreakerView, Name, Probe
from gateway.proxy.key_pool import KeyView, PoolKey, retry_after_s
from gateway.proxy.providers import Provider
from gateway.proxy.routing import Route, Target
from gateway.proxy.strategy import Latencies, Wheels

CALM_AGAIN_SECONDS = 0.5
"""How often it is looked whether all troubles are over: rests end without anybody's doing."""

PAUSED_RETRY_SECONDS = 60.0
"""What callers of a paused provider are told to wait. Nobody knows when it is resumed, but without
a number clients come back at once, and forever."""

_KEY_STATUSES = frozenset((401, 403, 429))
_FAILED_STAGES = frozenset(("upstream_connect", "upstream_timeout", "upstream_stream"))

_log = logging.getLogger(__name__)


class ProviderView(msgspec.Struct, frozen=True):
    """A provider as an admin sees it.

    `up` is whether a gateway key could be served by it now (breakers aside: they are a model's);
    `first_byte_s` is the moving average by model, where the strategy "latency" measures.
    """

    name: str
    up: bool
    active: bool
    keyless: bool
    paused_by: str | None
    keys: tuple[KeyView, ...]
    breakers: tuple[BreakerView, ...]
    first_byte_s: dict[str, float]


class Health:
    """See the module docstring. `wall` gives seconds since 1970."""

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        self.calm = True
        """Whether nothing is paused, failing, resting or set aside."""
        self._wall = wall
        self._providers: Mapping[str, Provider] = {}
        self._paused: dict[str, str] = {}
        self._breakers = Breakers(5, 5.0)
        self._wheels = Wheels()
        self._latencies = Latencies()
        self.measures = False
        """Whether some alias is routed by latency: successes matter even while all is calm."""
        self._look_at = 0.0

    def configure(
        self,
        config: Config,
        providers: Mapping[str, Provider],
        settings: Mapping[str, ProviderSettings] | None = None,
    ) -> None:
        """Go on with this configuration; keys that stay, and breakers, keep their state.

        A provider whose address changed starts afresh. One that was paused and is no longer, by
        `settings`, is resumed: its refused keys are tried again.
        """
        for name, provider in providers.items():
            older = self._providers.get(name)
            if older is None or older is provider:
                continue
            if older.address == provider.address:
                provider.pool.adopt(older.pool)
            else:
                self._breakers.drop(name)
        self._providers = providers
        upstream = config.upstream
        self._breakers.failures = upstream.breaker_failures
        self._breakers.seconds = upstream.breaker_seconds
        self.measures = any(one.strategy == "latency" for one in config.models.values())
        paused = {
            name: one.paused_by or "admin"
            for name, one in (settings or {}).items()
            if one.paused_ms is not None
        }
        for name in self._paused.keys() - paused.keys():
            self.resume(name)
        for name, by in paused.items():
            self.pause(name, by)
        self._look_at = 0.0
        self.calm = False

    # -- admission's side ----------------------------------------------------------------------

    def order(self, route: Route, now: float, *, own: bool = False) -> tuple[Target, ...]:
        """The targets to try, in order; never empty. `own` is for a caller's own provider key.

        Raises `GatewayError`, stage `routing`: `provider_paused`, `no_active_api_keys`, or
        `upstream_error` with `retry_after_s` where all keys of all targets rest after a 429.
        """
        if self.calm and (own or route.strategy == "failover"):
            return route.targets
        targets = route.targets
        found: Sequence[int] = range(len(targets))
        if not self.calm:
            self._look(now)
            found = [index for index in found if targets[index].provider.name not in self._paused]
            if not found:
                raise _paused(targets[0].provider.name)
            if own:
                return tuple(targets[index] for index in found)
            found = self._not_open(targets, self._with_keys(targets, found, now), now)
        if len(found) > 1 and route.strategy != "failover":
            found = self._by_strategy(route, found, now)
        return tuple(targets[index] for index in found)

    def key(self, target: Target, now: float) -> PoolKey | None:
        """The provider's key for a try of a target with a gateway key; None: it wants none.

        Raises `GatewayError` where all its keys have come to rest, or were set aside, since
        `order` was asked.
        """
        pool = target.provider.pool
        if self.calm and pool.keys:
            turn = pool.turn
            pool.turn = (turn + 1) % len(pool.keys)
            return pool.keys[turn]
        key = pool.next_key(target.model, now)
        if key is None and not target.provider.keyless:
            raise _keyless([target], now)
        return key

    def begin(self, target: Target, now: float) -> Probe | None:
        """A try of a target begins with a gateway key: the probe that it is, where it is one.

        The exchange gives it back with `attempted`, or ends it where the attempt has no outcome.
        """
        if self.calm:
            return None
        return self._breakers.begin((target.provider.name, target.model), now)

    def ready(self, target: Target, now: float) -> bool:
        """Whether a target that `order` gave is still worth a try, after others have failed.

        False while it is paused, has no usable key, or its breaker is open or being probed.
        """
        if self.calm:
            return True
        provider = target.provider
        return (
            provider.name not in self._paused
            and provider.pool.usable(target.model, now)
            and not self._breakers.passed_over((provider.name, target.model), now)
        )

    def another_key(self, target: Target, tried: int, now: float) -> bool:
        """Whether a target can be tried again with another key, after `tried` were refused."""
        pool = target.provider.pool
        return tried < len(pool.keys) and pool.usable(target.model, now)

    # -- the exchange's side -------------------------------------------------------------------

    def attempted(
        self,
        target: Target,
        outcome: str,
        status: int | None,
        first_byte_s: float | None,
        now: float,
        probe: Probe | None = None,
    ) -> None:
        """How an attempt with a gateway key ended; `outcome` is that of its `Attempt`.

        A connection refused, a timeout, 408, 5xx, an answer or a stream that broke or that cannot
        be read: a failure. A whole answer, or a 4xx that is the caller's own: the target lives. A
        key that was refused (`key_refused` has it), a client that left, a fault of our own: no
        verdict.
        """
        if outcome == "succeeded":
            self.succeeded(target, first_byte_s, now)
        elif outcome in _FAILED_STAGES:
            self.failed(target, now, probe)
        elif outcome == "upstream_status" and status not in _KEY_STATUSES:
            if status is None or status >= 500 or status == 408 or status < 400:
                self.failed(target, now, probe)  # without an error's status: it was no answer
            else:
                self.succeeded(target, None, now)
        elif probe is not None:
            probe.end()

    def succeeded(self, target: Target, first_byte_s: float | None, now: float) -> None:
        """A target answered, its first byte so many seconds after the request (None: not timed)."""
        if self.measures and first_byte_s is not None:
            self._latencies.observe((target.provider.name, target.model), first_byte_s, now)
        if not self.calm and self._breakers.succeeded((target.provider.name, target.model)):
            _log.info("%s/%.100s answers again", target.provider.name, target.model)

    def failed(self, target: Target, now: float, probe: Probe | None = None) -> None:
        """A target failed, whatever key it was asked with."""
        self.calm = False
        name = (target.provider.name, target.model)
        open_s = self._breakers.failed(name, now, probe)
        if open_s is not None:
            _log.warning(
                "%s/%.100s keeps failing: passed over for %g s while there are others",
                *name, open_s,
            )  # fmt: skip

    def key_refused(
        self, target: Target, key: PoolKey, status: int, lines: Sequence[bytes], now: float
    ) -> None:
        """A provider refused a key: 401, 403 or 429; `lines` are the head of its answer."""
        provider = target.provider
        if provider.builtin:
            return  # it refuses on request: what one caller asks for must not rest it for all
        self.calm = False
        if status == 429:
            seconds = retry_after_s(lines, self._wall())
            if seconds > 0 and provider.pool.rest(key, seconds, now):
                _log.info("%s: key %s rests for %g s after a 429", provider.name, key.hint, seconds)
        elif status == 401:
            if provider.pool.set_aside(key, None):
                _log.warning("%s: key %s was refused and is set aside", provider.name, key.hint)
        elif provider.pool.set_aside(key, target.model):
            _log.warning(
                "%s: key %s was refused for %.100s and is set aside for it",
                provider.name, key.hint, target.model,
            )  # fmt: skip

    # -- the operator's side -------------------------------------------------------------------

    def pause(self, provider: str, by: str) -> None:
        """Stop all calls of a provider; `by` is "admin" or "daily_stop"."""
        self.calm = False
        if provider not in self._paused:
            _log.warning("provider %s is paused (%s)", provider, by)
        self._paused[provider] = by

    def resume(self, provider: str) -> None:
        """Let calls to a provider again; keys that were set aside get another chance, too."""
        if self._paused.pop(provider, None) is not None:
            _log.info("provider %s is resumed", provider)
        self.reinstate(provider)

    def reinstate(self, provider: str | None = None) -> None:
        """Use the keys again that were set aside: of one provider, or of all (a reload)."""
        for name, one in self._providers.items():
            if provider is None or name == provider:
                one.pool.reinstate()

    def paused_by(self, provider: str) -> str | None:
        """Who paused a provider, None where it is not paused."""
        return self._paused.get(provider)

    def up(self, provider: Provider, now: float) -> bool:
        """Whether a gateway key could be served by a provider now, for the metric of this name."""
        return (
            provider.active and provider.name not in self._paused and provider.pool.usable("", now)
        )

    def view(self, now: float) -> tuple[ProviderView, ...]:
        """Every provider with its keys, breakers and speed."""
        breakers = self._breakers.view(now)
        return tuple(
            ProviderView(
                name=name,
                up=self.up(one, now),
                active=one.active,
                keyless=one.keyless,
                paused_by=self._paused.get(name),
                keys=one.pool.view(now),
                breakers=tuple(seen for seen in breakers if seen.provider == name),
                first_byte_s=self._latencies.of(name),
            )
            for name, one in self._providers.items()
        )

    # -- inside --------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Find out, now and then, whether all is calm again."""
        if now < self._look_at:
            return
        self._look_at = now + CALM_AGAIN_SECONDS
        self._breakers.forget(now)
        self.calm = (
            not self._paused
            and not len(self._breakers)
            and all(one.pool.calm(now) for one in self._providers.values())
        )

    @staticmethod
    def _with_keys(targets: tuple[Target, ...], found: Sequence[int], now: float) -> list[int]:
        """Those with a key that can be used now."""
        usable = [
            index
            for index in found
            if targets[index].provider.pool.usable(targets[index].model, now)
        ]
        if not usable:
            raise _keyless([targets[index] for index in found], now)
        return usable

    def _not_open(self, targets: tuple[Target, ...], found: list[int], now: float) -> list[int]:
        """Those whose breaker lets them; all, where none does.

        An open breaker never refuses a call by itself: it is a guess from the past, and with
        nowhere else to go a try costs less than an error that is certain.
        """
        breakers = self._breakers
        if not len(breakers):
            return found
        kept = [
            index
            for index in found
            if not breakers.passed_over((targets[index].provider.name, targets[index].model), now)
        ]
        return kept or found

    def _by_strategy(self, route: Route, found: Sequence[int], now: float) -> list[int]:
        names: tuple[Name, ...] = route.names
        if route.strategy == "latency":
            return self._latencies.rank(names, found, now)
        first = self._wheels.first(names, route.weights, found)
        return [first, *(index for index in found if index != first)]


def _paused(provider: str) -> GatewayError:
    return GatewayError(
        "provider_paused", f"Provider {provider} is paused",
        stage="routing", retry_after_s=PAUSED_RETRY_SECONDS,
    )  # fmt: skip


def _keyless(targets: Sequence[Target], now: float) -> GatewayError:
    """Why no target has a key to go with: the soonest end of a rest, or that none will end."""
    rests = [
        (rest_s, target.provider.name)
        for target in targets
        if (rest_s := target.provider.pool.rests_s(target.model, now)) is not None
    ]
    if not rests:
        name = targets[0].provider.name
        return GatewayError(
            "no_active_api_keys", f"No active API keys for provider {name}", stage="routing"
        )
    rest_s, name = min(rests)
    return GatewayError(
        "upstream_error", f"All upstream providers failed: {name}'s keys rest after its 429",
        stage="routing", retry_after_s=rest_s,
    )  # fmt: skip
