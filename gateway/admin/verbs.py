"""The table of control verbs: JSON arguments in, JSON result out.

`VERBS` is the one list of what an operator can do. The local socket serves it, and the command
line calls it directly where no server runs, so both do exactly the same. Arguments are strict: an
unknown one is refused. Results never hold a key's text or hash, save the answer of `keys.create`.
"""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar, assert_never

import msgspec
from msgspec import Meta

from gateway.accounts.accounts import Accounts, KeySpec, KeyStatus, wall_clock_ms
from gateway.errors import Conflict
from gateway.ledger import store
from gateway.ledger.entry import Opening
from gateway.ledger.receipt import render, render_in_progress, timestamp
from gateway.ledger.records import Key, Receipt, User, VerifyResult
from gateway.ledger.writer import Ledger


class BadArguments(Conflict):
    """The arguments of a verb are not what it takes; the message names the one at fault."""


class UnknownVerb(Exception):
    """No verb has this name."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the verbs act on. `secret` is the server's, for checking the receipt chain."""

    accounts: Accounts
    ledger: Ledger
    secret: bytes = field(repr=False)
    clock_ms: Callable[[], int] = wall_clock_ms


Call = Callable[[Context, bytes], Coroutine[object, object, bytes]]
"""A verb: raises BadArguments, Conflict or StoreError."""

A = TypeVar("A", bound="Arguments")
R = TypeVar("R", bound=msgspec.Struct | msgspec.Raw)


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a verb takes."""


class NoArguments(Arguments, frozen=True):
    """Nothing."""


class UsersCreate(Arguments, frozen=True):
    """`users.create`."""

    name: str
    email: str | None = None
    admin: bool = False


class UsersSuspend(Arguments, frozen=True):
    """`users.suspend`."""

    name: str


class KeysCreate(Arguments, frozen=True):
    """`keys.create`; `expires_ms` is milliseconds since the epoch."""

    user: str
    name: str = ""
    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    models: tuple[str, ...] | None = None
    expires_ms: int | None = None


class KeysList(Arguments, frozen=True):
    """`keys.list`; of one user where named."""

    user: str | None = None


class KeysRevoke(Arguments, frozen=True):
    """`keys.revoke`."""

    id: str


class ReceiptsShow(Arguments, frozen=True):
    """`receipts.show`; `id` is a UUID in its 36-character form."""

    id: str


class ReceiptsList(Arguments, frozen=True):
    """`receipts.list`: newest first, from below the receipt `after`; of everybody by default.

    `user` is a user's name, `owner` an owner as receipts keep it; at most one of them.
    """

    user: str | None = None
    owner: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    after: str | None = None
    status: Literal["succeeded", "failed", "cancelled"] | None = None
    model: str | None = None


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    """A user, as shown."""

    id: int
    object: Literal["user"] = "user"
    name: str
    email: str | None
    admin: bool
    status: Literal["active", "suspended"]
    created_at: str
    suspended_at: str | None


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key, as shown. `key` is its text: present in the answer that made it, and only there."""

    id: str
    object: Literal["api_key"] = "api_key"
    key: str | msgspec.UnsetType = msgspec.UNSET
    user: str
    name: str
    hint: str
    status: KeyStatus
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    rpm: int | None
    tpm: int | None
    concurrent: int | None
    models: list[str] | None


class UserList(msgspec.Struct, frozen=True, kw_only=True):
    """All users."""

    object: Literal["list"] = "list"
    data: list[UserView]


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """Some keys."""

    object: Literal["list"] = "list"
    data: list[KeyView]


class ReceiptList(msgspec.Struct, frozen=True, kw_only=True):
    """Some receipts, each as the public JSON of a receipt."""

    object: Literal["list"] = "list"
    data: list[msgspec.Raw]
    has_more: bool


class VerifyView(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk along the receipt chain found; see `ledger.records.VerifyResult`."""

    object: Literal["verification"] = "verification"
    ok: bool
    checked: int
    problem: str | None
    sequence: int | None
    receipt_id: str | None
    message: str


def _when(at_ms: int | None) -> str | None:
    return None if at_ms is None else timestamp(at_ms)


def _user_view(user: User) -> UserView:
    return UserView(
        id=user.id,
        name=user.name,
        email=user.email,
        admin=user.admin,
        status="active" if user.suspended_ms is None else "suspended",
        created_at=timestamp(user.created_ms),
        suspended_at=_when(user.suspended_ms),
    )


def _key_view(context: Context, key: Key, text: str | msgspec.UnsetType) -> KeyView:
    return KeyView(
        id=key.id,
        key=text,
        user=key.user_name,
        name=key.name,
        hint=key.hint,
        status=context.accounts.key_status(key, context.clock_ms()),
        created_at=timestamp(key.created_ms),
        expires_at=_when(key.expires_ms),
        revoked_at=_when(key.revoked_ms),
        rpm=key.rpm,
        tpm=key.tpm,
        concurrent=key.concurrent,
        models=key.models,
    )


async def _users_create(context: Context, args: UsersCreate) -> UserView:
    user = await context.accounts.create_user(args.name, email=args.email, admin=args.admin)
    return _user_view(user)


async def _users_list(context: Context, _: NoArguments) -> UserList:
    return UserList(data=[_user_view(user) for user in context.accounts.list_users()])


async def _users_suspend(context: Context, args: UsersSuspend) -> UserView:
    return _user_view(await context.accounts.suspend_user(args.name))


async def _keys_create(context: Context, args: KeysCreate) -> KeyView:
    spec = KeySpec(
        name=args.name,
        rpm=args.rpm,
        tpm=args.tpm,
        concurrent=args.concurrent,
        models=args.models,
        expires_ms=args.expires_ms,
    )
    key, text = await context.accounts.create_key(args.user, spec)
    return _key_view(context, key, text)


async def _keys_list(context: Context, args: KeysList) -> KeyList:
    found = context.accounts.list_keys(args.user)
    return KeyList(data=[_key_view(context, key, msgspec.UNSET) for key in found])


async def _keys_revoke(context: Context, args: KeysRevoke) -> KeyView:
    return _key_view(context, await context.accounts.revoke_key(args.id), msgspec.UNSET)


async def _receipts_show(context: Context, args: ReceiptsShow) -> msgspec.Raw:
    found = await context.ledger.receipt(args.id.lower(), None)
    match found:
        case Receipt():
            return msgspec.Raw(_rendered(found))
        case Opening():
            return msgspec.Raw(render_in_progress(found, context.clock_ms()))
        case None:
            raise Conflict(f"there is no receipt {args.id!r}")
        case _:
            assert_never(found)


async def _receipts_list(context: Context, args: ReceiptsList) -> ReceiptList:
    owner = args.owner
    if args.user is not None:
        if owner is not None:
            raise BadArguments("arguments: user and owner exclude each other")
        owner = f"user:{context.accounts.user_named(args.user).id}"
    if args.after is not None and await context.ledger.receipt(args.after, owner) is None:
        raise Conflict(f"after: there is no receipt {args.after!r} in this list")
    # One more than asked for tells whether there is more.
    found = await context.ledger.receipts(
        owner, limit=args.limit + 1, after=args.after, status=args.status, model=args.model
    )
    shown = [msgspec.Raw(_rendered(receipt)) for receipt in found[: args.limit]]
    return ReceiptList(data=shown, has_more=len(found) > args.limit)


async def _receipts_verify(context: Context, _: NoArguments) -> VerifyView:
    return verified(await context.ledger.read(lambda conn: store.verify(conn, context.secret)))


def _rendered(receipt: Receipt) -> bytes:
    return render(
        receipt.entry,
        sequence=receipt.sequence,
        previous=receipt.previous,
        hash=receipt.hash,
    )


def verified(result: VerifyResult) -> VerifyView:
    """A verification's result, as shown."""
    return VerifyView(
        ok=result.ok,
        checked=result.checked,
        problem=result.problem,
        sequence=result.sequence,
        receipt_id=result.receipt_id,
        message=result.message,
    )


def _verb(kind: type[A], run: Callable[[Context, A], Awaitable[R]]) -> Call:
    decoder = msgspec.json.Decoder(kind)

    async def call(context: Context, payload: bytes) -> bytes:
        try:
            arguments = decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise BadArguments(f"arguments: {exc}") from None
        return msgspec.json.encode(await run(context, arguments))

    return call


VERBS: dict[str, Call] = {
    "users.create": _verb(UsersCreate, _users_create),
    "users.list": _verb(NoArguments, _users_list),
    "users.suspend": _verb(UsersSuspend, _users_suspend),
    "keys.create": _verb(KeysCreate, _keys_create),
    "keys.list": _verb(KeysList, _keys_list),
    "keys.revoke": _verb(KeysRevoke, _keys_revoke),
    "receipts.show": _verb(ReceiptsShow, _receipts_show),
    "receipts.list": _verb(ReceiptsList, _receipts_list),
    "receipts.verify": _verb(NoArguments, _receipts_verify),
}
