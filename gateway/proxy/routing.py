"""Model name -> ordered targets. Pure: no clock, no state but a bounded cache.

Order: the operator's `[models.<name>]`, a catalog model served by an active provider,
`provider/model`, the patterns of `[model_map]`. A caller with a key of their own goes to the
provider that owns the format (or that the path or the name says), whatever the catalog knows.
What admins set about models (`overlay.py`) goes before the catalog: a model that is disabled is no
target for gateway keys, one with a price of its own is, whether the catalog knows it or not.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from gateway.config import Config, Family
from gateway.errors import GatewayError
from gateway.ledger.catalog import Catalog, Model
from gateway.ledger.prices import Price, PriceOf
from gateway.ledger.records import ModelSettings
from gateway.proxy.breaker import Name
from gateway.proxy.endpoints import COMPACTING, COUNTING
from gateway.proxy.overlay import Overlay
from gateway.proxy.providers import Base, Provider
from gateway.wire import registry

SPOKEN: dict[Family, str] = {
    "openai": "openai_chat", "anthropic": "anthropic_messages", "gemini": "gemini",
}  # fmt: skip
"""What a provider of a family is asked in by callers of another format."""

EMBEDDED: dict[Family, str] = {"openai": "openai_embeddings", "gemini": "gemini_embeddings"}
"""The same for embeddings; Anthropic makes none."""

COUNTED: dict[Family, str] = {
    "openai": "openai_responses", "anthropic": "anthropic_messages", "gemini": "gemini",
}  # fmt: skip
"""By whose counter a provider of a family counts tokens for callers of another format."""

ESTIMATED = "estimated"
"""What a target that counts for nobody `speaks` where a count is wanted: it is not asked."""

_ASKED_IN: dict[str, dict[Family, str]] = {
    **dict.fromkeys(registry.DIALECTS, SPOKEN), **dict.fromkeys(EMBEDDED.values(), EMBEDDED),
    COUNTING: COUNTED,
}  # fmt: skip

_OF_RESPONSES = ("openai_responses", COMPACTING)

CACHE_MAX = 4096
"""Routes remembered; model names come from clients, so the memory must have an end."""

Strategy = Literal["failover", "weighted", "latency"]


class Target(msgspec.Struct, frozen=True):
    """A provider, where it is reached, and the name that it knows the model by.

    The catalog's entry is not part of it: prices may change with the clock, routes do not.
    """

    provider: Provider
    base: Base
    model: str
    speaks: str | None = None
    """The wire format that the provider is asked in, where it is not the caller's own; or
    `ESTIMATED`."""


class Route(msgspec.Struct, frozen=True):
    """Where a model name leads, in order; `health.Health.order` applies the strategy.

    `weights` are those of the targets, in their order; empty where all are equal.
    """

    targets: tuple[Target, ...]
    strategy: Strategy = "failover"
    weights: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[Name, ...]:
        """The targets by name, for what is remembered of them across configurations."""
        return tuple((one.provider.name, one.model) for one in self.targets)


class Offer(msgspec.Struct, frozen=True):
    """A model that gateway keys can call: by which name, at which price, times `multiplier`."""

    id: str
    model: Model
    multiplier: str


class _Found(msgspec.Struct, frozen=True):
    """What a name stands for, before it is looked at what can serve: provider, model, weight."""

    candidates: tuple[tuple[Provider, str, int], ...] = ()
    strategy: Strategy = "failover"


class Router:
    """Routes of one configuration; made anew when it changes, or when admins change a model."""

    def __init__(
        self,
        config: Config,
        providers: Mapping[str, Provider],
        catalog: Catalog,
        models: Mapping[tuple[str, str], ModelSettings] | None = None,
    ) -> None:
        self.catalog = catalog
        self._config = config
        self._providers = providers
        self._overlay = Overlay(catalog, models or {})
        self._routes: dict[tuple[str, Family, str | None, str], Route] = {}
        self._own: dict[tuple[str, Family, str | None], Route] = {}

    def route(self, model: str, family: Family, named: str | None, wanted: str = "") -> Route:
        """Targets for a gateway key; `named` is the provider that the path names.

        A provider that does not speak the caller's `family` is a target where what is `wanted`
        (`Endpoint.wants`) can be translated. Where a count is wanted every provider is one, so that
        the order is that of the calls themselves; one that does not count `speaks` `ESTIMATED`.

        Raises `GatewayError`: `unknown_model_pricing` (nothing serves the name, or no price is
        known: never free), `unsupported_parameter` (only providers of another format serve it),
        `not_found` (every target is disabled), `no_active_api_keys`.
        """
        key = (model, family, named, wanted)
        route = self._routes.get(key)
        if route is None:
            if len(self._routes) >= CACHE_MAX:
                self._routes.clear()
            route = self._routes[key] = self._resolve(model, family, named, wanted)
        return route

    def own(self, model: str, family: Family, named: str | None) -> Route:
        """The one target for a caller's own key. Raises `GatewayError`."""
        key = (model, family, named)
        route = self._own.get(key)
        if route is None:
            if len(self._own) >= CACHE_MAX:
                self._own.clear()
            route = self._own[key] = Route((self._own_target(model, family, named),))
        return route

    def owner(self, family: Family, named: str | None) -> tuple[Provider, Base]:
        """The provider that a call without a model goes to, and where. Raises `GatewayError`."""
        name = named or getattr(self._config.byok, family)
        provider = self._providers.get(name)
        if provider is None:
            raise GatewayError(
                "not_found", f"No provider {name} is configured", stage="routing", param="model"
            )
        base = provider.bases.get(family)
        if base is None:
            raise GatewayError(
                "not_found", f"Provider {name} does not speak the {family} API", stage="routing"
            )
        return provider, base

    def known(self, target: Target) -> Model | None:
        """A target's model at the price of this moment, as admins set it or the catalog has it."""
        return self._overlay.known(target.provider, target.model)

    def multiplier(self, target: Target) -> str:
        """The factor on the price of a target's model: exact decimal text, "1" without one."""
        return self._overlay.multiplier(target.provider, target.model)

    def price_of(self, target: Target) -> PriceOf:
        """Finds the prices of other models at a target's provider, for `prices.cost`."""

        def price_of(name: str) -> Price | None:
            model = self._overlay.known(target.provider, name)
            return None if model is None else model.price

        return price_of

    def offers(self, provider: Provider) -> Iterator[Offer]:
        """The models of a provider that gateway keys can call, by the names to call them by.

        One that only an admin gave a price is called by its provider's name, too.
        """
        overlay = self._overlay
        for model in self.catalog.models(provider.catalog_name):
            known = overlay.known(provider, model.id)
            if known is not None and overlay.enabled(provider, model.id):
                yield Offer(model.id, known, overlay.multiplier(provider, model.id))
        for name in overlay.added(provider):
            known = overlay.known(provider, name)
            if known is not None and overlay.enabled(provider, name):
                factor = overlay.multiplier(provider, name)
                yield Offer(f"{provider.name}/{name}", known, factor)

    # -- gateway keys --------------------------------------------------------------------------

    def _resolve(self, model: str, family: Family, named: str | None, wanted: str) -> Route:
        found = self._candidates(model, named)
        if not found.candidates:
            raise _unpriced(model)
        spoken = [
            (target, weight)
            for provider, name, weight in found.candidates
            if (target := _target(provider, name, family, wanted)) is not None
        ]
        if not spoken:
            lacks = "has no Responses API" if wanted == COMPACTING else (
                f"does not speak the {family} format of this endpoint"
            )  # fmt: skip
            raise GatewayError(
                "unsupported_parameter",
                f"Model {model} is served by {found.candidates[0][0].name}, which {lacks}",
                stage="routing",
                param="model",
            )
        enabled = [one for one in spoken if self._overlay.enabled(one[0].provider, one[0].model)]
        if not enabled:
            raise GatewayError(
                "not_found", f"Model {model} is disabled", stage="routing", param="model"
            )
        active = [one for one in enabled if one[0].provider.active]
        if not active:
            name = enabled[0][0].provider.name
            raise GatewayError(
                "no_active_api_keys", f"No active API keys for provider {name}", stage="routing"
            )
        priced = [one for one in active if self.known(one[0]) is not None]
        if not priced:
            raise _unpriced(model)
        targets = tuple(target for target, _ in priced)
        weights = tuple(weight for _, weight in priced) if found.strategy == "weighted" else ()
        return Route(targets, found.strategy, weights)

    def _candidates(self, model: str, named: str | None) -> _Found:
        if named is not None:
            provider = self._providers.get(named)
            if provider is None:
                return _Found()
            return _Found(((provider, model.removeprefix(f"{named}/"), 1),))
        for look in (self._alias, self._served, self._prefixed, self._mapped):
            if (found := look(model)).candidates:
                return found
        return _Found()

    def _alias(self, model: str) -> _Found:
        alias = self._config.models.get(model)
        if alias is None:
            return _Found()
        found = []
        weights = alias.weights or (1,) * len(alias.targets)
        for target, weight in zip(alias.targets, weights, strict=True):
            name, _, rest = target.partition("/")
            if provider := self._providers.get(name):
                found.append((provider, rest, weight))
        return _Found(tuple(found), alias.strategy)

    def _served(self, model: str) -> _Found:
        serving = {name for name, _ in self.catalog.provider_of(model)}
        found = [
            (provider, model, 1)
            for provider in self._providers.values()
            if provider.catalog_name in serving
        ]
        return _Found(tuple(sorted(found, key=lambda one: not one[0].active)))

    def _prefixed(self, model: str) -> _Found:
        name, slash, rest = model.partition("/")
        provider = self._providers.get(name)
        return _Found(((provider, rest, 1),)) if slash and rest and provider else _Found()

    def _mapped(self, model: str) -> _Found:
        for pattern, name in self._config.model_map.items():
            if fnmatchcase(model, pattern):
                for look in (self._alias, self._served, self._prefixed):
                    if (found := look(name)).candidates:
                        return found
                return _Found()
        return _Found()

    # -- a caller's own key --------------------------------------------------------------------

    def _own_target(self, model: str, family: Family, named: str | None) -> Target:
        prefixed = () if named else self._prefixed(model).candidates
        if prefixed and family in prefixed[0][0].bases:
            named, model = prefixed[0][0].name, prefixed[0][1]
        provider, base = self.owner(family, named)
        for candidate, name, _ in self._alias(model).candidates or self._mapped(model).candidates:
            if candidate is provider:
                model = name
                break
        model = model.removeprefix(f"{provider.name}/")
        return Target(provider, base, model)


def _target(provider: Provider, model: str, family: Family, wanted: str) -> Target | None:
    """A provider as a target: in the caller's format, or in one that it is translated to."""
    base = provider.bases.get(family)
    counting = wanted == COUNTING
    # The counter of OpenAI's family is a part of its Responses API.
    responses = wanted in _OF_RESPONSES or (counting and family == "openai")
    if base is not None and (provider.responses or not responses):
        return Target(provider, base, model)
    asked_in = _ASKED_IN.get(wanted, {})
    for other, found in provider.bases.items():
        if other in asked_in and (provider.responses or asked_in[other] != "openai_responses"):
            return Target(provider, found, model, asked_in[other])
    if counting:
        return Target(provider, next(iter(provider.bases.values())), model, ESTIMATED)
    if base is None or wanted == COMPACTING:
        return None  # what it made could be read by no other server either
    return Target(provider, base, model)


def _unpriced(model: str) -> GatewayError:
    return GatewayError(
        "unknown_model_pricing",
        f"Unknown model pricing: {model}",
        stage="routing",
        param="model",
    )
