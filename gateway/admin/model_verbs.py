"""Verbs about models: what the providers offer, and what admins set about it."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.accounts.upstream_settings import TOKENS_MAX
from gateway.admin.context import Arguments, BadArguments, Context, changes, reads
from gateway.admin.provider_verbs import ProviderName, known_providers, require_provider
from gateway.admin.views import (
    DeletedView,
    ModelList,
    ModelNameView,
    ModelSettingsView,
    ModelView,
)
from gateway.errors import Missing
from gateway.ledger.catalog import Model, RatesRecord
from gateway.ledger.prices import Class, shown
from gateway.ledger.records import ModelSettings

Tokens = Annotated[int, Meta(ge=1, le=TOKENS_MAX)]
ModelName = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,256}$")]


class ModelsList(Arguments, frozen=True, kw_only=True):
    """Models of one provider where named, else of all; `changed` keeps those with settings."""

    provider: str | None = None
    changed: bool = False


class ModelsShow(Arguments, frozen=True, kw_only=True):
    """What a name stands for: an alias, `provider/model`, or a model of any provider."""

    name: str


class ModelsSet(Arguments, frozen=True, kw_only=True):
    """What to set about a model; what is left out stays, null is as the catalog has it.

    `price` is US dollars per million tokens as text, by class (`input`, `output`, …); `multiplier`
    a plain decimal on top of any price. One that is not `enabled` is no target for gateway keys.
    """

    provider: ProviderName
    model: ModelName
    enabled: bool | UnsetType = UNSET
    multiplier: Annotated[str, Meta(pattern=r"^[0-9]{1,4}(\.[0-9]{1,9})?$")] | UnsetType = UNSET
    price: dict[Class, str] | UnsetType | None = UNSET
    context_length: Tokens | UnsetType | None = UNSET
    max_output_tokens: Tokens | UnsetType | None = UNSET


class ModelsUnset(Arguments, frozen=True, kw_only=True):
    """A model of a provider."""

    provider: str
    model: str


async def _list(context: Context, args: ModelsList) -> ModelList:
    if args.provider is not None:
        require_provider(context, args.provider)
    wanted = [name for name in known_providers(context) if args.provider in (None, name)]
    found = (view for name in wanted for view in _models_of(context, name))
    return ModelList(data=[one for one in found if one.settings or not args.changed])


async def _show(context: Context, args: ModelsShow) -> ModelNameView:
    alias = context.config().models.get(args.name)
    if alias is not None:
        targets = [model_view(context, *target.split("/", 1)) for target in alias.targets]
        return ModelNameView(name=args.name, alias=True, strategy=alias.strategy, targets=targets)
    providers = known_providers(context)
    provider, slash, model = args.name.partition("/")
    pairs = [(provider, model)] if slash and provider in providers else []
    pairs = pairs or [(name, args.name) for name in providers]
    targets = [model_view(context, *pair) for pair in pairs]
    targets = [one for one in targets if one.price is not None or one.settings is not None]
    if not targets:
        raise Missing(f"there is no model {args.name!r}")
    return ModelNameView(name=args.name, alias=False, strategy=None, targets=targets)


async def _set(context: Context, args: ModelsSet) -> ModelView:
    require_provider(context, args.provider)
    if isinstance(args.price, dict):
        try:
            msgspec.convert(args.price, RatesRecord)
        except msgspec.ValidationError as exc:
            raise BadArguments(f"price: US dollars per million tokens as text: {exc}") from None
    asked = {
        name: value
        for name in ("enabled", "multiplier", "price", "context_length", "max_output_tokens")
        if (value := getattr(args, name)) is not UNSET
    }
    async with context.order:
        before = context.upstreams.models.get((args.provider, args.model))
        before = before or ModelSettings(args.provider, args.model)
        await context.upstreams.set_model(msgspec.structs.replace(before, **asked))
    return model_view(context, args.provider, args.model)


async def _unset(context: Context, args: ModelsUnset) -> DeletedView:
    await context.upstreams.remove_model(args.provider, args.model)
    return DeletedView(id=f"{args.provider}/{args.model}")


def _models_of(context: Context, provider: str) -> Iterator[ModelView]:
    listed = set()
    for model in context.catalog().models(_catalog_name(context, provider)):
        listed.add(_plain(model.id))
        yield _view(provider, model.id, model, _settings(context, provider, model.id, model))
    for (name, model_name), settings in context.upstreams.models.items():
        if name == provider and _plain(model_name) not in listed:
            known = context.catalog().find(_catalog_name(context, provider), model_name)
            yield _view(provider, model_name, known, settings)


def model_names(context: Context, provider: str) -> list[str]:
    """The models of a provider, as `models.list` gives them: the catalog's, then all others that
    something is set about.
    """
    named = [model.id for model in context.catalog().models(_catalog_name(context, provider))]
    listed = {_plain(name) for name in named}
    others = (name for (of, name) in context.upstreams.models if of == provider)
    return named + [name for name in others if _plain(name) not in listed]


def model_view(context: Context, provider: str, model: str) -> ModelView:
    """A model of a provider, whether or not anything is known of it."""
    known = context.catalog().find(_catalog_name(context, provider), model)
    return _view(provider, model, known, _settings(context, provider, model, known))


def _settings(
    context: Context, provider: str, model: str, known: Model | None
) -> ModelSettings | None:
    """By the name itself, else by the one that the catalog lists: as requests are priced."""
    by_name = {
        _plain(name): one for (of, name), one in context.upstreams.models.items() if of == provider
    }
    found = by_name.get(_plain(model))
    return found or (None if known is None else by_name.get(_plain(known.id)))


def _view(
    provider: str, model: str, known: Model | None, settings: ModelSettings | None
) -> ModelView:
    price, version = None, None
    if settings is not None and settings.price is not None:
        price = {f"{cls}_per_mtok": text for cls, text in settings.price.items()}
        version = "override"
    elif known is not None:
        price = shown(known.price, known.price_version).per_mtok
        version = known.price_version
    context_length = known.context_length if known else None
    max_output = known.max_output_tokens if known else None
    return ModelView(
        id=f"{provider}/{model}",
        provider=provider,
        name=known.name if known else model,
        enabled=settings is None or settings.enabled,
        price=price,
        price_version=version,
        multiplier="1" if settings is None else settings.multiplier,
        context_length=(settings and settings.context_length) or context_length,
        max_output_tokens=(settings and settings.max_output_tokens) or max_output,
        settings=None if settings is None else _settings_view(settings),
    )


def _settings_view(settings: ModelSettings) -> ModelSettingsView:
    return ModelSettingsView(
        enabled=settings.enabled,
        multiplier=settings.multiplier,
        price=settings.price,
        context_length=settings.context_length,
        max_output_tokens=settings.max_output_tokens,
    )


def _catalog_name(context: Context, provider: str) -> str:
    configured = context.config().providers.get(provider)
    settings = context.upstreams.providers.get(provider)
    if settings is not None and settings.catalog is not None:
        return settings.catalog
    return (configured.catalog if configured else None) or provider


def _plain(model: str) -> str:
    """A name as the catalog compares it."""
    return model.lower().removeprefix("models/")


VERBS = (
    reads("models.list", ModelsList, ModelList, _list),
    reads("models.show", ModelsShow, ModelNameView, _show),
    changes("models.set", ModelsSet, ModelView, _set),
    changes("models.unset", ModelsUnset, DeletedView, _unset),
)
