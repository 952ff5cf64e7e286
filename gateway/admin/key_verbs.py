"""Verbs about gateway keys: issuing them, what they may do, taking them back."""

from typing import Literal

from msgspec import UNSET, UnsetType

from gateway.accounts import changes as bounds
from gateway.accounts.amounts import maybe_money, money, nano_of
from gateway.accounts.changes import KeyChanges, KeySpec
from gateway.accounts.funds import NO_CAP
from gateway.admin.context import Arguments, Context, changes, checking, reads, when
from gateway.admin.user_verbs import Limit
from gateway.admin.views import KeyList, KeyView
from gateway.ledger.receipt import timestamp
from gateway.ledger.records import Key

OnDisconnect = Literal["cancel", "drain"]


class KeysCreate(Arguments, frozen=True, kw_only=True):
    """A new key of a user; what is left out is as the user or the server has it.

    `expires_ms` is milliseconds since 1970. `spend_cap` is US dollars, all that it may ever spend.
    An `admin` key, of a user who is an admin, is for the admin API and for nothing else.
    """

    user: str
    name: str = ""
    rpm: Limit | None = None
    tpm: Limit | None = None
    concurrent: Limit | None = None
    models: tuple[str, ...] | None = None
    expires_ms: int | None = None
    spend_cap: str | None = None
    on_disconnect: OnDisconnect | None = None
    admin: bool = False


class KeysList(Arguments, frozen=True, kw_only=True):
    """Keys of one user where named, else all."""

    user: str | None = None


class KeysSet(Arguments, frozen=True, kw_only=True):
    """What to change of a key; what is left out stays, null takes a limit away."""

    id: str
    name: str | UnsetType = UNSET
    rpm: Limit | UnsetType | None = UNSET
    tpm: Limit | UnsetType | None = UNSET
    concurrent: Limit | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    expires_ms: int | UnsetType | None = UNSET
    spend_cap: str | UnsetType | None = UNSET
    on_disconnect: OnDisconnect | UnsetType | None = UNSET


class KeysRevoke(Arguments, frozen=True, kw_only=True):
    """A key, by id."""

    id: str


def _view(context: Context, key: Key, text: str | UnsetType = UNSET) -> KeyView:
    cap = key.spend_cap_nano_usd
    left = context.accounts.key_funds(key.id).balance
    return KeyView(
        id=key.id,
        key=text,
        user=key.user_name,
        name=key.name,
        hint=key.hint,
        status=context.accounts.key_status(key, context.clock_ms()),
        admin=key.admin,
        created_at=timestamp(key.created_ms),
        expires_at=when(key.expires_ms),
        revoked_at=when(key.revoked_ms),
        rpm=key.rpm,
        tpm=key.tpm,
        concurrent=key.concurrent,
        models=key.models,
        spend_cap=maybe_money(cap),
        spent=money((NO_CAP if cap is None else cap) - left),
        on_disconnect=key.on_disconnect,
    )


async def _create(context: Context, args: KeysCreate) -> KeyView:
    with checking():
        cap = args.spend_cap
        spec = KeySpec(
            name=args.name,
            rpm=args.rpm,
            tpm=args.tpm,
            concurrent=args.concurrent,
            models=args.models,
            expires_ms=args.expires_ms,
            spend_cap_nano_usd=None if cap is None else nano_of(cap, "spend_cap"),
            on_disconnect=args.on_disconnect,
            admin=args.admin,
        )
        bounds.of_key(spec, context.clock_ms())
    key, text = await context.accounts.create_key(args.user, spec)
    return _view(context, key, text)


async def _list(context: Context, args: KeysList) -> KeyList:
    return KeyList(data=[_view(context, key) for key in context.accounts.list_keys(args.user)])


async def _set(context: Context, args: KeysSet) -> KeyView:
    with checking():
        cap = args.spend_cap
        wanted = KeyChanges(
            name=args.name,
            rpm=args.rpm,
            tpm=args.tpm,
            concurrent=args.concurrent,
            models=args.models,
            expires_ms=args.expires_ms,
            spend_cap_nano_usd=nano_of(cap, "spend_cap") if isinstance(cap, str) else cap,
            on_disconnect=args.on_disconnect,
        )
        bounds.of_key(wanted, context.clock_ms())
    return _view(context, await context.accounts.update_key(args.id, wanted))


async def _revoke(context: Context, args: KeysRevoke) -> KeyView:
    return _view(context, await context.accounts.revoke_key(args.id))


VERBS = (
    changes("keys.create", KeysCreate, KeyView, _create),
    reads("keys.list", KeysList, KeyList, _list),
    changes("keys.set", KeysSet, KeyView, _set),
    changes("keys.revoke", KeysRevoke, KeyView, _revoke),
)
