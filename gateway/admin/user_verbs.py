"""Verbs about users: who may have keys, at what price, within which limits, and who signs in."""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from gateway.accounts import changes as bounds
from gateway.accounts.amounts import maybe_money, money, nano_of
from gateway.accounts.changes import LIMIT_MAX, UserChanges
from gateway.admin.context import (
    Arguments,
    Context,
    NoArguments,
    changes,
    checking,
    reads,
    when,
)
from gateway.admin.views import SessionsEndedView, SignInLinkView, UserList, UserView
from gateway.config import base_url
from gateway.errors import Conflict
from gateway.ledger.receipt import timestamp
from gateway.ledger.records import User

Limit = Annotated[int, Meta(ge=1, le=LIMIT_MAX)]


WELCOME_PATH = "/dashboard/welcome#"
"""A token stands behind the `#`, so that it is in no log, no history of a proxy, no Referer."""


class UsersCreate(Arguments, frozen=True, kw_only=True):
    """A new user; `admin` may have keys for the admin API."""

    name: str
    email: str | None = None
    admin: bool = False


class UserNamed(Arguments, frozen=True, kw_only=True):
    """A user, by name."""

    name: str


class UsersSet(Arguments, frozen=True, kw_only=True):
    """What to change of a user; what is left out stays, null takes a limit away.

    `rate_multiplier` is a plain decimal that every price is multiplied with. `daily_alert` is US
    dollars of a day; "0" is never, null is as the configuration says.
    """

    name: str
    email: str | UnsetType | None = UNSET
    admin: bool | UnsetType = UNSET
    rate_multiplier: str | UnsetType = UNSET
    rpm: Limit | UnsetType | None = UNSET
    tpm: Limit | UnsetType | None = UNSET
    concurrent: Limit | UnsetType | None = UNSET
    daily_alert: str | UnsetType | None = UNSET


def user_view(context: Context, user: User) -> UserView:
    """A user with the balance of this moment."""
    funds = context.accounts.funds(user.id)
    return UserView(
        id=user.id,
        name=user.name,
        email=user.email,
        admin=user.admin,
        status="active" if user.suspended_ms is None else "suspended",
        created_at=timestamp(user.created_ms),
        suspended_at=when(user.suspended_ms),
        rate_multiplier=user.rate_multiplier,
        rpm=user.rpm,
        tpm=user.tpm,
        concurrent=user.concurrent,
        daily_alert=maybe_money(user.daily_alert_nano_usd),
        balance=money(funds.balance),
        held=money(funds.held),
    )


async def _create(context: Context, args: UsersCreate) -> UserView:
    with checking():
        bounds.checked_name(args.name)
        if args.email is not None:
            bounds.check_email(args.email)
    user = await context.accounts.create_user(args.name, email=args.email, admin=args.admin)
    return user_view(context, user)


async def _list(context: Context, _: NoArguments) -> UserList:
    return UserList(data=[user_view(context, user) for user in context.accounts.list_users()])


async def _show(context: Context, args: UserNamed) -> UserView:
    return user_view(context, context.accounts.user_named(args.name))


async def _set(context: Context, args: UsersSet) -> UserView:
    with checking():
        alert = args.daily_alert
        wanted = UserChanges(
            email=args.email,
            admin=args.admin,
            rate_multiplier=args.rate_multiplier,
            rpm=args.rpm,
            tpm=args.tpm,
            concurrent=args.concurrent,
            daily_alert_nano_usd=(
                nano_of(alert, "daily_alert") if isinstance(alert, str) else alert
            ),
        )
        bounds.of_user(wanted)
    user = await context.accounts.update_user(args.name, wanted)
    if context.user_changed is not None:
        context.user_changed(user)
    return user_view(context, user)


async def _suspend(context: Context, args: UserNamed) -> UserView:
    return user_view(context, await context.accounts.suspend_user(args.name))


async def _resume(context: Context, args: UserNamed) -> UserView:
    return user_view(context, await context.accounts.resume_user(args.name))


async def _link(context: Context, args: UserNamed) -> SignInLinkView:
    config = context.config()
    if not config.dashboard.enabled:
        raise Conflict("there are no pages to sign in to: dashboard.enabled is false")
    user = context.accounts.user_named(args.name)
    token, expires_ms = await context.sign_in.make_link(user.name)
    path = WELCOME_PATH + token
    where = base_url(config)
    return SignInLinkView(
        user=user.name,
        token=token,
        path=path,
        url=None if where is None else where + path,
        expires_at=timestamp(expires_ms),
    )


async def _end_sessions(context: Context, args: UserNamed) -> SessionsEndedView:
    user = context.accounts.user_named(args.name)
    ended = await context.sign_in.end_sessions(user.id)
    return SessionsEndedView(user=user.name, ended=ended)


VERBS = (
    changes("users.create", UsersCreate, UserView, _create),
    reads("users.list", NoArguments, UserList, _list),
    reads("users.show", UserNamed, UserView, _show),
    changes("users.set", UsersSet, UserView, _set),
    changes("users.suspend", UserNamed, UserView, _suspend),
    changes("users.resume", UserNamed, UserView, _resume),
    changes("users.link", UserNamed, SignInLinkView, _link),
    changes("users.end_sessions", UserNamed, SessionsEndedView, _end_sessions),
)
