"""What admins set about models, over what the catalog says: price, multiplier, size, disabled.

Settings are found by the exact name that a provider is sent, then by the id under which the catalog
lists it: what is set for `gpt-4o` holds for its dated and `-latest` spellings, too, unless they
have settings of their own. So no other spelling of a name escapes a price. Pure; used by
`routing.py`, made anew with it.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation

import msgspec
import orjson

from gateway.ledger.catalog import Catalog, Model
from gateway.ledger.prices import Price, nano_from_text
from gateway.ledger.records import ModelSettings
from gateway.proxy.providers import Provider

KNOWN_MAX = 4096
"""Models remembered with their settings applied; their names come from clients."""

_log = logging.getLogger(__name__)


class _Set(msgspec.Struct, frozen=True):
    """Settings, checked: `sound` is false where what is stored cannot be billed by."""

    settings: ModelSettings
    price: Price | None = None
    version: str = ""
    sound: bool = True


class Overlay:
    """See the module docstring."""

    def __init__(self, catalog: Catalog, models: Mapping[tuple[str, str], ModelSettings]) -> None:
        self._catalog = catalog
        self._set = {
            (provider, _plain(model)): _checked(settings)
            for (provider, model), settings in models.items()
        }
        self._known: dict[tuple[str, str], tuple[Model | None, Model | None]] = {}

    def known(self, provider: Provider, model: str) -> Model | None:
        """A provider's model at the price of this moment; None where no price is known."""
        listed = self._catalog.find(provider.catalog_name, model)
        if not self._set:
            return listed
        key = (provider.name, model)
        memory = self._known.get(key)
        if memory is not None and memory[0] is listed:  # a scheduled price gives another one
            return memory[1]
        found = self._find(provider, model, listed)
        result = listed if found is None else _applied(found, listed, provider)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[key] = listed, result
        return result

    def multiplier(self, provider: Provider, model: str) -> str:
        """The factor on its price, "1" where none is set."""
        found = self._lookup(provider, model)
        return "1" if found is None else found.settings.multiplier

    def enabled(self, provider: Provider, model: str) -> bool:
        """Whether gateway keys may be routed to it."""
        found = self._lookup(provider, model)
        return found is None or found.settings.enabled

    def added(self, provider: Provider) -> Iterator[str]:
        """The models of a provider that have a price from an admin and none from the catalog."""
        for (name, _), one in self._set.items():
            model = one.settings.model
            priced = name == provider.name and one.price is not None
            if priced and self._catalog.find(provider.catalog_name, model) is None:
                yield model

    def _lookup(self, provider: Provider, model: str) -> _Set | None:
        if not self._set:
            return None
        return self._find(provider, model, self._catalog.find(provider.catalog_name, model))

    def _find(self, provider: Provider, model: str, listed: Model | None) -> _Set | None:
        found = self._set.get((provider.name, _plain(model)))
        if found is None and listed is not None:
            found = self._set.get((provider.name, _plain(listed.id)))
        return found


def _plain(model: str) -> str:
    """A name as the catalog compares it."""
    return model.lower().removeprefix("models/")


def _checked(settings: ModelSettings) -> _Set:
    """Settings with their price as integers.

    The verbs that store them refuse what is unsound. Should a store hold it all the same, the model
    is left without a price, hence not callable, rather than billed by another one.
    """
    try:
        factor = Decimal(settings.multiplier)
        if not factor.is_finite() or factor < 0:
            raise ValueError("a multiplier that is none")
        if settings.price is None:
            return _Set(settings)
        price = msgspec.convert(
            {name: nano_from_text(usd) for name, usd in settings.price.items()}, Price
        )
    except (ValueError, InvalidOperation, msgspec.ValidationError) as error:
        _log.error(
            "the stored settings of %s/%.100s cannot be used: %s",
            settings.provider, settings.model, error,
        )  # fmt: skip
        return _Set(settings, sound=False)
    text = orjson.dumps(settings.price, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.blake2b(text, digest_size=6).hexdigest()
    return _Set(settings, price, f"override:{digest}")


def _applied(found: _Set, listed: Model | None, provider: Provider) -> Model | None:
    settings = found.settings
    if not found.sound:
        return None
    if listed is None:
        if found.price is None:
            return None
        listed = Model(
            provider=provider.catalog_name,
            id=settings.model,
            name=settings.model,
            kind="chat",
            price=found.price,
            price_version=found.version,
        )
    return msgspec.structs.replace(
        listed,
        price=listed.price if found.price is None else found.price,
        price_version=found.version or listed.price_version,
        context_length=settings.context_length or listed.context_length,
        max_output_tokens=settings.max_output_tokens or listed.max_output_tokens,
    )
