"""Verbs about providers: their keys, pauses and base URLs, and what a running server sees of them.

Also the two verbs that are about the running server itself: `reload` and `in_flight.list`.
"""

from typing import Annotated, Literal

from msgspec import Meta

from gateway.accounts.amounts import maybe_money, money
from gateway.accounts.upstream_settings import KEY_CHARS_MAX, KEY_CHARS_MIN, hint
from gateway.admin.context import (
    Arguments,
    BadArguments,
    Context,
    NoArguments,
    changes,
    reads,
    when,
)
from gateway.admin.operations import Operations, ProviderHealth
from gateway.admin.views import (
    BreakerView,
    DayView,
    DeletedView,
    InFlightList,
    InFlightView,
    ProviderKeyView,
    ProviderList,
    ProviderView,
    ReloadView,
    RotationView,
)
from gateway.config import BUILTIN_DEMO, ENV_PREFIX, Provider, secret
from gateway.errors import ConfigError, Conflict, Missing
from gateway.ledger.receipt import timestamp
from gateway.ledger.records import ProviderKey, ProviderSettings

ProviderName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class ProviderNamed(Arguments, frozen=True, kw_only=True):
    """A provider, by name."""

    name: ProviderName


class ProvidersAddKey(Arguments, frozen=True, kw_only=True):
    """A key for a provider, kept encrypted. It is not shown again."""

    provider: ProviderName
    key: Annotated[
        str,
        Meta(min_length=KEY_CHARS_MIN, max_length=KEY_CHARS_MAX, pattern=r"^(?!env:)[\x21-\x7e]+$"),
    ]


class ProvidersSetKey(Arguments, frozen=True, kw_only=True):
    """Use an added key, or keep it without using it; of this provider, where named."""

    id: str
    enabled: bool
    provider: str | None = None


class ProvidersRemoveKey(Arguments, frozen=True, kw_only=True):
    """Forget an added key; of this provider, where named."""

    id: str
    provider: str | None = None


class ProvidersSet(Arguments, frozen=True, kw_only=True):
    """Where a provider is: https and public. One that the configuration does not have is made.

    `catalog` names the provider of the catalog that prices it.
    """

    name: ProviderName
    format: Literal["openai", "anthropic", "gemini"]
    base_url: str
    catalog: ProviderName | None = None


def known_providers(context: Context) -> dict[str, tuple[Provider | None, ProviderSettings]]:
    """Every provider there is: what the configuration says, and what admins set."""
    config, upstreams = context.config(), context.upstreams
    found: dict[str, tuple[Provider | None, ProviderSettings]] = {
        name: (one, upstreams.providers.get(name) or ProviderSettings(name))
        for name, one in config.providers.items()
    }
    for name, settings in upstreams.providers.items():
        if name not in found and settings.base_url is not None:
            found[name] = (None, settings)
    return found


def require_provider(context: Context, name: str) -> None:
    """Raise Missing where no provider has this name."""
    if name not in known_providers(context):
        raise Missing(f"there is no provider {name!r}")


async def _list(context: Context, _: NoArguments) -> ProviderList:
    health = _health(context)
    return ProviderList(
        data=[
            _view(context, name, *both, None if health is None else health.get(name))
            for name, both in known_providers(context).items()
        ]
    )


def _shown(context: Context, name: str) -> ProviderView:
    found = known_providers(context).get(name)
    if found is None:
        raise Missing(f"there is no provider {name!r}")
    health = _health(context)
    return _view(context, name, *found, None if health is None else health.get(name))


def _health(context: Context) -> dict[str, ProviderHealth] | None:
    if context.operations is None:
        return None
    return {one.name: one for one in context.operations.health()}


def _view(
    context: Context,
    name: str,
    configured: Provider | None,
    settings: ProviderSettings,
    health: ProviderHealth | None,
) -> ProviderView:
    moved = settings.base_url is not None
    keys = [_stored_view(context, key, health) for key in context.upstreams.list_keys(name)]
    if configured is not None and not moved:
        # The configuration's keys are for the configuration's address.
        keys = [*_configured_views(name, configured, health), *keys]
    keyless = configured is not None and not moved and not configured.keys
    return ProviderView(
        name=name,
        source="admin" if moved else "config",
        format=settings.format or (configured.format if configured else ""),
        base_url=settings.base_url or (configured.base_url if configured else ""),
        catalog=settings.catalog or (configured.catalog if configured else None),
        active=health.active if health else keyless or any(_in_use(key) for key in keys),
        paused_at=when(settings.paused_ms),
        paused_by=health.paused_by if health else settings.paused_by,
        keys=keys,
        breakers=None if health is None else _breakers(health),
        today=None if health is None else _today(health),
    )


def _in_use(key: ProviderKeyView) -> bool:
    return key.state not in ("no_value", "disabled", "unreadable")


def _breakers(health: ProviderHealth) -> list[BreakerView]:
    return [
        BreakerView(
            model=one.model,
            state=one.state,
            failures=one.failures,
            probes_at=when(one.probes_at_ms),
        )
        for one in health.breakers
    ]


def _today(health: ProviderHealth) -> DayView:
    return DayView(
        spent=money(health.today_nano_usd),
        alert=maybe_money(health.alert_nano_usd),
        stop=maybe_money(health.stop_nano_usd),
    )


def _stored_view(
    context: Context, key: ProviderKey, health: ProviderHealth | None = None
) -> ProviderKeyView:
    unused: Literal["unreadable", "disabled"] | None = None
    if key.id in context.upstreams.unusable:
        unused = "unreadable"
    elif key.disabled_ms is not None:
        unused = "disabled"
    seen = None
    if unused is None and health is not None:
        seen = next((one for one in health.keys if one.id == key.id), None)
    return ProviderKeyView(
        id=key.id,
        provider=key.provider,
        hint=key.hint,
        state=unused or (seen.state if seen else "usable"),
        created_at=timestamp(key.created_ms),
        rests_until=when(seen.rests_until_ms) if seen else None,
        models=seen.models if seen else [],
    )


def _configured_views(
    name: str, configured: Provider, health: ProviderHealth | None
) -> list[ProviderKeyView]:
    views = []
    for reference in configured.keys:
        text = secret(reference)
        if text is None:
            views.append(ProviderKeyView(id=None, provider=name, hint=reference, state="no_value"))
        elif health is None:
            named = reference if reference.startswith(ENV_PREFIX) else hint(text)
            views.append(ProviderKeyView(id=None, provider=name, hint=named, state="usable"))
    if health is not None and configured.base_url != BUILTIN_DEMO:
        views += [
            ProviderKeyView(
                id=None,
                provider=name,
                hint=one.hint,
                state=one.state,
                rests_until=when(one.rests_until_ms),
                models=one.models,
            )
            for one in health.keys
            if one.id is None
        ]
    return views


async def _add_key(context: Context, args: ProvidersAddKey) -> ProviderKeyView:
    require_provider(context, args.provider)
    return _stored_view(context, await context.upstreams.add_key(args.provider, args.key))


async def _set_key(context: Context, args: ProvidersSetKey) -> ProviderKeyView:
    _require_key(context, args.id, args.provider)
    upstreams = context.upstreams
    change = upstreams.enable_key if args.enabled else upstreams.disable_key
    return _stored_view(context, await change(args.id))


async def _remove_key(context: Context, args: ProvidersRemoveKey) -> DeletedView:
    _require_key(context, args.id, args.provider)
    await context.upstreams.remove_key(args.id)
    return DeletedView(id=args.id)


def _require_key(context: Context, key_id: str, provider: str | None) -> None:
    known = context.upstreams.list_keys(provider)
    if not any(key.id == key_id for key in known):
        of = "" if provider is None else f" of {provider}"
        raise Missing(f"there is no provider key {key_id!r}{of}")


async def _pause(context: Context, args: ProviderNamed) -> ProviderView:
    require_provider(context, args.name)
    await context.upstreams.pause(args.name, "admin")
    return _shown(context, args.name)


async def _resume(context: Context, args: ProviderNamed) -> ProviderView:
    require_provider(context, args.name)
    await context.upstreams.resume(args.name)
    if context.provider_resumed is not None:
        # Also where it was not paused: its keys that were set aside get another chance.
        context.provider_resumed(args.name)
    return _shown(context, args.name)


async def _set(context: Context, args: ProvidersSet) -> ProviderView:
    upstreams = context.upstreams
    try:
        await upstreams.set_base_url(args.name, args.format, args.base_url, args.catalog)
    except Conflict as exc:
        # Without keys that it could contradict, and with a server that checks it, the URL itself
        # is what is refused.
        if context.operations is None or upstreams.list_keys(args.name):
            raise
        raise BadArguments(str(exc)) from None
    return _shown(context, args.name)


async def _remove(context: Context, args: ProviderNamed) -> DeletedView:
    await context.upstreams.remove_provider(args.name)
    return DeletedView(id=args.name)


async def _rotate_master(context: Context, _: NoArguments) -> RotationView:
    done = await context.upstreams.rotate_master()
    return RotationView(version=done.version, keys=done.resealed, left_to_do=done.left_to_do)


async def _reload(context: Context, _: NoArguments) -> ReloadView:
    try:
        report = await _running(context).reload()
    except ConfigError as exc:
        raise Conflict(f"nothing was changed: {exc}") from None
    return ReloadView(changed=report.changed, needs_restart=report.needs_restart)


async def _in_flight(context: Context, _: NoArguments) -> InFlightList:
    return InFlightList(
        data=[
            InFlightView(
                id=one.id,
                user=_user_name(context, one.owner),
                owner=one.owner,
                endpoint=one.endpoint,
                model=one.model,
                provider=one.provider,
                stream=one.stream,
                created_at=timestamp(one.created_ms),
                attempts=one.attempts,
                held=money(one.held_nano_usd),
            )
            for one in _running(context).in_flight()
        ]
    )


def _user_name(context: Context, owner: str) -> str | None:
    kind, _, user_id = owner.partition(":")
    return context.accounts.user(int(user_id)).name if kind == "user" else None


def _running(context: Context) -> Operations:
    if context.operations is None:
        raise Conflict("no server is running on this store")
    return context.operations


VERBS = (
    reads("providers.list", NoArguments, ProviderList, _list),
    changes("providers.add_key", ProvidersAddKey, ProviderKeyView, _add_key),
    changes("providers.set_key", ProvidersSetKey, ProviderKeyView, _set_key),
    changes("providers.remove_key", ProvidersRemoveKey, DeletedView, _remove_key),
    changes("providers.pause", ProviderNamed, ProviderView, _pause),
    changes("providers.resume", ProviderNamed, ProviderView, _resume),
    changes("providers.set", ProvidersSet, ProviderView, _set),
    changes("providers.remove", ProviderNamed, DeletedView, _remove),
    changes("providers.rotate_master", NoArguments, RotationView, _rotate_master),
    changes("reload", NoArguments, ReloadView, _reload),
    reads("in_flight.list", NoArguments, InFlightList, _in_flight),
)
