"""Model name -> ordered targets. Pure: no clock, no state but a bounded cache.

Order: the operator's `[models.<name>]`, a catalog model served by an active provider,
`provider/model`, the patterns of `[model_map]`. A caller with a key of their own goes to the
provider that owns the format (or that the path or the name says), whatever the catalog knows.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import msgspec

from gateway.config import Config, Family
from gateway.errors import GatewayError
from gateway.ledger.catalog import Catalog, Model
from gateway.proxy.providers import Base, Provider

CACHE_MAX = 4096
"""Routes remembered; model names come from clients, so the memory must have an end."""


class Target(msgspec.Struct, frozen=True):
    """A provider, where it is reached, and the name that it knows the model by.

    The catalog's entry is not part of it: prices may change with the clock, routes do not.
    """

    provider: Provider
    base: Base
    model: str


class Route(msgspec.Struct, frozen=True):
    """Where a model name leads, in order."""

    targets: tuple[Target, ...]


class Router:
    """Routes of one configuration; made anew when it changes."""

    def __init__(self, config: Config, providers: Mapping[str, Provider], catalog: Catalog) -> None:
        self._config = config
        self._providers = providers
        self._catalog = catalog
        self._routes: dict[tuple[str, Family, str | None], Route] = {}
        self._own: dict[tuple[str, Family, str | None], Route] = {}

    def route(self, model: str, family: Family, named: str | None) -> Route:
        """Targets for a gateway key; `named` is the provider that the path names.

        Raises `GatewayError`: `unknown_model_pricing` (nothing serves the name, or no price is
        known: never free), `unsupported_parameter` (only providers of another format serve it),
        `no_active_api_keys`.
        """
        key = (model, family, named)
        route = self._routes.get(key)
        if route is None:
            if len(self._routes) >= CACHE_MAX:
                self._routes.clear()
            route = self._routes[key] = self._resolve(model, family, named)
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
        """The catalog's entry for a target, at the price of this moment."""
        return self._catalog.find(target.provider.catalog_name, target.model)

    # -- gateway keys --------------------------------------------------------------------------

    def _resolve(self, model: str, family: Family, named: str | None) -> Route:
        candidates = self._candidates(model, named)
        if not candidates:
            raise _unpriced(model)
        spoken = [
            Target(provider, base, name)
            for provider, name in candidates
            if (base := provider.bases.get(family)) is not None
        ]
        if not spoken:
            raise GatewayError(
                "unsupported_parameter",
                f"Model {model} is served by {candidates[0][0].name}, which does not speak the "
                f"{family} format of this endpoint",
                stage="routing",
                param="model",
            )
        active = [target for target in spoken if target.provider.active]
        if not active:
            name = spoken[0].provider.name
            raise GatewayError(
                "no_active_api_keys", f"No active API keys for provider {name}", stage="routing"
            )
        priced = tuple(target for target in active if self.known(target) is not None)
        if not priced:
            raise _unpriced(model)
        return Route(priced)

    def _candidates(self, model: str, named: str | None) -> list[tuple[Provider, str]]:
        if named is not None:
            provider = self._providers.get(named)
            return [] if provider is None else [(provider, model.removeprefix(f"{named}/"))]
        return (
            self._alias(model)
            or self._served(model)
            or self._prefixed(model)
            or self._mapped(model)
        )

    def _alias(self, model: str) -> list[tuple[Provider, str]]:
        alias = self._config.models.get(model)
        if alias is None:
            return []
        found = []
        for target in alias.targets:
            name, _, rest = target.partition("/")
            if provider := self._providers.get(name):
                found.append((provider, rest))
        return found

    def _served(self, model: str) -> list[tuple[Provider, str]]:
        serving = {name for name, _ in self._catalog.provider_of(model)}
        found = [
            (provider, model)
            for provider in self._providers.values()
            if provider.catalog_name in serving
        ]
        return sorted(found, key=lambda pair: not pair[0].active)

    def _prefixed(self, model: str) -> list[tuple[Provider, str]]:
        name, slash, rest = model.partition("/")
        provider = self._providers.get(name)
        return [(provider, rest)] if slash and rest and provider is not None else []

    def _mapped(self, model: str) -> list[tuple[Provider, str]]:
        for pattern, name in self._config.model_map.items():
            if fnmatchcase(model, pattern):
                return self._alias(name) or self._served(name) or self._prefixed(name)
        return []

    # -- a caller's own key --------------------------------------------------------------------

    def _own_target(self, model: str, family: Family, named: str | None) -> Target:
        prefixed = [] if named else self._prefixed(model)
        if prefixed and family in prefixed[0][0].bases:
            named, model = prefixed[0][0].name, prefixed[0][1]
        provider, base = self.owner(family, named)
        for candidate, name in self._alias(model) or self._mapped(model):
            if candidate is provider:
                model = name
                break
        model = model.removeprefix(f"{provider.name}/")
        return Target(provider, base, model)


def _unpriced(model: str) -> GatewayError:
    return GatewayError(
        "unknown_model_pricing",
        f"Unknown model pricing: {model}",
        stage="routing",
        param="model",
    )
