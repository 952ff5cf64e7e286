"""Admin: all users, and one of them with all that can be done about them.

A user's page is at their number, since a name may be any text. Each of its forms posts to a path of
its own; one that is refused is shown again with what was typed, beside the others as they are.
Nobody takes their own right to these pages, or suspends themselves: the last admin would lock
everybody out.
"""

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from gateway.accounts.accounts import Accounts
from gateway.accounts.funds import Funds
from gateway.admin.context import BadArguments
from gateway.errors import Conflict, KeyReused, Missing
from gateway.ledger import listing, money
from gateway.ledger.prices import usd_text
from gateway.ledger.records import User
from gateway.ledger.usage import DAY_MS
from gateway.web import fields
from gateway.web.admin_keys import KeyLine, key_line
from gateway.web.shown import usd
from gateway.web.site import Handler, Notice, Page, Problem, Visit

PATH = "/dashboard/admin/users"
DAYS = 30
KEYS_SHOWN = 20
GIVEN_SHOWN = 20
TEXT_CHARS_MAX = 200

Change = Callable[[Visit, User], Awaitable[Notice]]


class UserLine(NamedTuple):
    """A row of the list."""

    user: User
    funds: Funds
    spent: int
    keys: int


async def users(visit: Visit) -> web.StreamResponse:
    """The list, searched by name or e-mail."""
    return await _listed(visit)


async def _listed(visit: Visit, problem: Problem | None = None) -> web.Response:
    text, above = visit.asked("q")[:TEXT_CHARS_MAX], fields.row(visit, "above") or 0
    today = visit.site.context.clock_ms() // DAY_MS

    def read(conn: Any) -> tuple[listing.Slice[int], dict[int, int], dict[int, int]]:
        found = listing.user_ids(conn, text, above=above, limit=fields.PAGE_ROWS)
        ids = found.rows
        return (
            found, listing.spent(conn, ids, today - DAYS + 1, today), listing.key_counts(conn, ids)
        )  # fmt: skip

    found, spent, keys = await visit.site.context.ledger.read(read)
    accounts = visit.site.context.accounts
    lines = [
        UserLine(user, accounts.funds(user.id), spent.get(user.id, 0), keys.get(user.id, 0))
        for user in _known(accounts, found.rows)
    ]
    return await visit.render(
        "admin/users.html", status=200 if problem is None else 400, lines=lines, found=found,
        text=text, above=above, problem=problem, typed=visit.form,
    )  # fmt: skip


def _known(accounts: Accounts, ids: list[int]) -> list[User]:
    """The users as they are now; one made this very moment may not be known yet."""
    found = []
    for user_id in ids:
        try:
            found.append(accounts.user(user_id))
        except KeyError:
            continue
    return found


async def create(visit: Visit) -> web.StreamResponse:
    """A new user, and the one-time link with which they choose a password."""
    try:
        made = await visit.verb(
            "users.create", name=fields.required(visit, "name"), email=visit.given("email"),
            admin=visit.given("admin") is not None,
        )  # fmt: skip
    except Conflict as exc:
        return await _listed(visit, Problem.of(exc))
    user = visit.site.context.accounts.user(made["id"])
    return visit.go(_path(user), told=await _make_link(visit, user))


# --- one user -----------------------------------------------------------------------------------


async def user(visit: Visit) -> web.StreamResponse:
    """One user."""
    return await _shown(visit, _asked_for(visit))


def _asked_for(visit: Visit) -> User:
    try:
        return visit.site.context.accounts.user(int(visit.request.match_info["id"]))
    except KeyError:
        raise Missing("there is no such user") from None


def _path(user: User) -> str:
    return f"{PATH}/{user.id}"


async def _shown(
    visit: Visit, user: User, at: str = "", problem: Problem | None = None
) -> web.Response:
    """The page; `at` is the form that `problem` is of, which shows what was typed."""
    site, context = visit.site, visit.site.context
    now_ms, below = context.clock_ms(), fields.row(visit, "given_below")
    today = now_ms // DAY_MS

    def read(
        conn: Any,
    ) -> tuple[dict[int, int], dict[int, int], listing.Slice[str], list[money.Given]]:
        return (
            listing.spent(conn, [user.id], today - DAYS + 1, today),
            listing.key_counts(conn, [user.id]),
            listing.key_ids(conn, now_ms=now_ms, user_id=user.id, limit=KEYS_SHOWN),
            money.given(conn, user.id, before=below, limit=GIVEN_SHOWN + 1),
        )

    spent, key_count, keys, given = await context.ledger.read(read)
    caps = await visit.verb("caps.list", user=user.name)
    lines: list[KeyLine] = [key_line(context, context.accounts.key(key_id)) for key_id in keys.rows]
    return await visit.render(
        "admin/user.html",
        status=200 if problem is None else 400,
        user=user,
        path=_path(user),
        is_self=user.id == visit.user.id,
        funds=context.accounts.funds(user.id),
        spent=spent.get(user.id, 0),
        today=site.services.daily.today(user.id, now_ms),
        sessions=site.sign_in.sessions(user.id),
        caps=caps["data"],
        keys=lines,
        keys_further=keys.further,
        key_count=key_count.get(user.id, 0),
        given=given[:GIVEN_SHOWN],
        given_further=given[GIVEN_SHOWN - 1].seq if len(given) > GIVEN_SHOWN else None,
        given_below=below,
        once=_once_key(visit, problem),
        alert="" if user.daily_alert_nano_usd is None else usd_text(user.daily_alert_nano_usd),
        at=at,
        problem=problem,
        typed=visit.form,
    )


def _once_key(visit: Visit, problem: Problem | None) -> str:
    """What makes a form of credit count once: its own where it is shown again and may be sent so.

    One that was used with another amount is spent.
    """
    used = problem is not None and problem.field == "idempotency_key"
    kept = None if used else visit.given("idempotency_key")
    return kept or f"dashboard-{secrets.token_hex(12)}"


def _form(name: str, change: Change) -> Page:
    """A form of a user's page: what it does, and what is told of it."""

    async def page(visit: Visit) -> web.StreamResponse:
        user = _asked_for(visit)
        try:
            notice = await change(visit, user)
        except KeyReused:
            reused = "Sent before with another amount. Look at the balance, and send it again."
            return await _shown(visit, user, name, Problem(reused, "idempotency_key"))
        except Conflict as exc:
            return await _shown(visit, user, name, Problem.of(exc))
        return visit.go(_path(user), told=notice)

    handler: Handler = page
    return Page("POST", f"{PATH}/{{id:[0-9]{{1,15}}}}/{name}", handler, "admin")


def _told(user: User, text: str, secret: str = "") -> Notice:
    return Notice(path=_path(user), text=text, secret=secret)


async def _credit(visit: Visit, user: User) -> Notice:
    given = await visit.verb(
        "credit", user=user.name, amount=fields.dollars(visit, "amount") or "",
        idempotency_key=fields.required(visit, "idempotency_key"),
    )  # fmt: skip
    left = given["balance"]["nano_usd"]
    return _told(user, f"Credited {usd(given['nano_usd'])}. Balance: {usd(left)}.")


async def _correct(visit: Visit, user: User) -> Notice:
    made = await visit.verb(
        "credit.correct", user=user.name, amount=fields.dollars(visit, "amount") or "",
        reason=fields.required(visit, "reason"),
    )  # fmt: skip
    left = made["balance"]["nano_usd"]
    return _told(user, f"Corrected by {usd(made['nano_usd'])}. Balance: {usd(left)}.")


async def _settings(visit: Visit, user: User) -> Notice:
    is_admin = visit.given("admin") is not None
    if user.id == visit.user.id and not is_admin:
        raise BadArguments("admin: you cannot take this right from yourself; another admin can")
    await visit.verb(
        "users.set", name=user.name, email=visit.given("email"), admin=is_admin,
        rate_multiplier=fields.required(visit, "rate_multiplier"),
        rpm=fields.whole(visit, "rpm"), tpm=fields.whole(visit, "tpm"),
        concurrent=fields.whole(visit, "concurrent"),
        daily_alert=fields.dollars(visit, "daily_alert"),
    )  # fmt: skip
    return _told(user, "Saved. It holds from the next request on.")


async def _suspend(visit: Visit, user: User) -> Notice:
    if user.id == visit.user.id:
        raise BadArguments("suspend: you cannot suspend yourself; another admin can")
    await visit.verb("users.suspend", name=user.name)
    return _told(user, "Suspended: all keys of this user are refused from now on.")


async def _resume(visit: Visit, user: User) -> Notice:
    await visit.verb("users.resume", name=user.name)
    return _told(user, "Resumed: the keys of this user are good again.")


async def _make_link(visit: Visit, user: User) -> Notice:
    link = await visit.verb("users.link", name=user.name)
    url = link["url"] or visit.base_url + link["path"]
    return _told(
        user, f"A link for {user.name}, to choose a password and sign in with. It works once, "
        "within a day, and is shown only now.", url,
    )  # fmt: skip


async def _end_sessions(visit: Visit, user: User) -> Notice:
    ended = (await visit.verb("users.end_sessions", name=user.name))["ended"]
    return _told(user, f"Signed out everywhere: {ended} {'session' if ended == 1 else 'sessions'}.")


async def _set_cap(visit: Visit, user: User) -> Notice:
    model, amount = fields.required(visit, "model"), fields.dollars(visit, "cap")
    try:
        await visit.verb("caps.set", user=user.name, model=model, amount=amount)
    except BadArguments as exc:
        # Its field is called so on this page: two forms beside it have an amount.
        raise BadArguments(str(exc).replace("amount:", "cap:", 1)) from None
    if amount is None:
        return _told(user, f"{model} has no cap for this user any more.")
    return _told(user, f"One call of {model} may cost this user ${amount} at most.")


async def _create_key(visit: Visit, user: User) -> Notice:
    made = await visit.verb("keys.create", user=user.name, name=visit.form.get("name", "").strip())
    return _told(user, "A new key. Its text is shown only now.", made["key"])


PAGES = (
    Page("GET", PATH, users, "admin"),
    Page("POST", PATH, create, "admin"),
    Page("GET", PATH + "/{id:[0-9]{1,15}}", user, "admin"),
    _form("credit", _credit),
    _form("correct", _correct),
    _form("settings", _settings),
    _form("suspend", _suspend),
    _form("resume", _resume),
    _form("link", _make_link),
    _form("end-sessions", _end_sessions),
    _form("cap", _set_cap),
    _form("key", _create_key),
)
