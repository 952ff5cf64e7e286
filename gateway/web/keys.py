"""`/dashboard/keys`: a user's own API keys: made, shown once, changed, revoked.

A user may make a key narrower than what the account may do, and never wider; an admin may do both,
as the admin API lets them.
"""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from aiohttp import web

from gateway.accounts.accounts import KeyStatus
from gateway.accounts.changes import MODELS_MAX, NAME_CHARS_MAX
from gateway.accounts.funds import NO_CAP
from gateway.config import Config
from gateway.errors import Conflict, GatewayError
from gateway.ledger import usage
from gateway.ledger.prices import usd_text
from gateway.ledger.records import Key, User
from gateway.ledger.usage import DAY_MS
from gateway.proxy.services import Services
from gateway.web import fields, month, samples
from gateway.web.site import Notice, Page, Problem, Visit

LIVE_KEYS_MAX = 100
"""Of one user: keys are in memory, and looked through by people."""

LIVE_KEYS_SHOWN = 200
"""An operator may have made more: a search finds them."""

PAST_KEYS_SHOWN = 50

_LOOKED_AT_ONCE = 500

DAYS_AHEAD_MAX = 36_500

FIELDS = ("name", "expires", "rpm", "tpm", "concurrent", "models", "spend_cap", "admin")
"""Those of the forms that show their own problems."""

LIMITS = {
    "rpm": "requests per minute", "tpm": "tokens per minute", "concurrent": "requests at once",
}  # fmt: skip

_PATH = "/dashboard/keys"
_DAYS = re.compile(r"([0-9]{1,5})\s*(?:d|days?)?")

T = TypeVar("T")
Standing = tuple[Key, KeyStatus]


# --- pages ------------------------------------------------------------------------------------


async def listing(visit: Visit) -> web.StreamResponse:
    """All keys that are in use, and the last of those that are not."""
    return await _listing(visit)


async def create(visit: Visit) -> web.StreamResponse:
    """Make a key; the page after shows its text."""
    context = visit.site.context
    try:
        wanted = read_form(visit, {})
        _check_ceilings(visit, wanted, None)
        if visit.user.admin and visit.given("admin"):
            wanted["admin"] = True
        # Looking and making are one step: nobody makes two at once.
        async with context.order:
            if _live(visit) >= LIVE_KEYS_MAX:
                raise Conflict(f"you have {LIVE_KEYS_MAX} keys in use: revoke one that you do not")
            made = await visit.verb("keys.create", user=visit.user.name, **wanted)
    except Conflict as exc:
        return await _listing(visit, Problem.of(exc))
    path = f"{_PATH}/{made['id']}/created"
    return visit.go(path, told=Notice(path=path, text="The key is made.", secret=made["key"]))


async def created(visit: Visit) -> web.StreamResponse:
    """A new key's text, once, with commands that can be pasted."""
    key = _own(visit)
    notice = visit.told()
    if notice is None or not notice.secret:
        return visit.go(f"{_PATH}/{key.id}")
    calls, model = _calls(visit, key, notice.secret)
    return await visit.render(
        "key_created.html", key=key, secret=notice.secret, calls=calls, model=model
    )


async def show(visit: Visit) -> web.StreamResponse:
    """One key: what it may do and what it did."""
    return await _show(visit, _own(visit))


async def change(visit: Visit) -> web.StreamResponse:
    """Rename it, change its limits."""
    key = _own(visit)
    try:
        wanted = read_form(visit, _form_of(key))
        _check_ceilings(visit, wanted, key)
        if visit.given("expires") == _expiry_text(key.expires_ms):
            del wanted["expires_ms"]
        await visit.verb("keys.set", id=key.id, **wanted)
    except Conflict as exc:
        return await _show(visit, key, Problem.of(exc))
    return visit.done(f"{_PATH}/{key.id}", "Changed: it holds from the next request on.")


async def revoke(visit: Visit) -> web.StreamResponse:
    """Take it back for good."""
    key = _own(visit)
    await visit.verb("keys.revoke", id=key.id)
    name = key.name or f"{key.hint}…"
    return visit.done(_PATH, f"Revoked {name}: it is refused with 401 from now on.")


# --- what they show ---------------------------------------------------------------------------


async def _listing(visit: Visit, problem: Problem | None = None) -> web.Response:
    context = visit.site.context
    now_ms = context.clock_ms()
    live, past = await _rows(visit, now_ms)
    query = visit.asked("q")[:NAME_CHARS_MAX]
    text = query.casefold()
    found = [row for row in live if text in (row[0].name or row[0].hint).casefold()]
    used = await _last_used(visit, now_ms)
    return await visit.render(
        "keys.html",
        status=200 if problem is None else 400,
        problem=problem,
        form=visit.form,
        fields=FIELDS,
        query=query,
        live=[_row(visit, *row, used) for row in found[:LIVE_KEYS_SHOWN]],
        live_count=len(live),
        found_count=len(found),
        past=[_row(visit, *row, used) for row in past[:PAST_KEYS_SHOWN]],
        past_count=len(past),
        full=len(live) >= LIVE_KEYS_MAX,
        limits=ceilings(visit.user, visit.site.config),
    )


async def _rows(visit: Visit, now_ms: int) -> tuple[list[Standing], list[Standing]]:
    """The keys in use, and those that are not; last made first. Gives way meanwhile."""
    accounts = visit.site.context.accounts
    live: list[Standing] = []
    past: list[Standing] = []
    for number, key in enumerate(reversed(accounts.list_keys(visit.user.name)), 1):
        status = accounts.key_status(key, now_ms)
        (live if _is_live(key, status) else past).append((key, status))
        if number % _LOOKED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return live, past


async def _show(visit: Visit, key: Key, problem: Problem | None = None) -> web.Response:
    context = visit.site.context
    now_ms = context.clock_ms()
    user_id, until = visit.user.id, now_ms // DAY_MS
    days = await context.ledger.read(
        lambda conn: usage.report(
            conn, since_day=until - month.DAYS + 1, until_day=until, user_id=user_id,
            key_id=key.id, group_by=("day",),
        )
    )  # fmt: skip
    calls, model = _calls(visit, key, f"{key.hint}…")
    status = context.accounts.key_status(key, now_ms)
    return await visit.render(
        "key.html",
        status=200 if problem is None else 400,
        problem=problem,
        form=_form_of(key) if problem is None else visit.form,
        fields=FIELDS,
        key=key,
        row=_row(visit, key, status, {}),
        days=[(month.day_text(row.day or 0), row) for row in reversed(days)],
        calls=calls,
        model=model,
        limits=ceilings(visit.user, visit.site.config),
        revocable=key.revoked_ms is None,
    )


def _row(visit: Visit, key: Key, status: KeyStatus, used: dict[str, str]) -> dict[str, Any]:
    funds = visit.site.context.accounts.key_funds(key.id)
    cap = key.spend_cap_nano_usd
    return {
        "key": key,
        "status": status,
        "cap": cap,
        "spent": (NO_CAP if cap is None else cap) - funds.balance,
        "used": used.get(key.id),
    }


async def _last_used(visit: Visit, now_ms: int) -> dict[str, str]:
    """The last day of the month on which each key was used."""
    user_id, until = visit.user.id, now_ms // DAY_MS
    rows = await visit.site.context.ledger.read(
        lambda conn: usage.report(
            conn, since_day=until - month.DAYS + 1, until_day=until, user_id=user_id,
            group_by=("day", "key"),
        )
    )  # fmt: skip
    return {row.key_id or "": month.day_text(row.day or 0) for row in rows}


def _calls(visit: Visit, key: Key, text: str) -> tuple[list[samples.Sample], str | None]:
    if key.admin:
        return samples.admin_call(visit.base_url, text), None
    services = visit.site.services
    model = samples.first_model(services, visit.user.rate_multiplier, key.models)
    if model is None:
        return [], None
    return samples.first_call(visit.base_url, text, model), model


# --- whose, and how many ----------------------------------------------------------------------


def _own(visit: Visit) -> Key:
    key_id = visit.own_key(visit.request.match_info["id"])
    return visit.site.context.accounts.key(key_id)


def _is_live(key: Key, status: KeyStatus) -> bool:
    return key.revoked_ms is None and status != "expired"


def _live(visit: Visit) -> int:
    context = visit.site.context
    now_ms = context.clock_ms()
    return sum(
        _is_live(key, context.accounts.key_status(key, now_ms))
        for key in context.accounts.list_keys(visit.user.name)
    )


# --- the form ---------------------------------------------------------------------------------


def ceilings(user: User, config: Config) -> dict[str, int]:
    """What a user may give a key at most: the account's own limit, or else the server's."""
    return {name: getattr(user, name) or getattr(config.limits, name) for name in LIMITS}


def _check_ceilings(visit: Visit, wanted: dict[str, Any], before: Key | None) -> None:
    if visit.user.admin:
        return  # they set these limits
    for name, most in ceilings(visit.user, visit.site.config).items():
        asked = wanted.get(name)
        # What an admin gave it, it may keep.
        if asked is not None and asked > most and asked != getattr(before, name, None):
            raise Conflict(
                f"{name}: a key of yours may have {most:,} {LIMITS[name]} at most; ask the "
                "operator for more"
            )


def read_form(visit: Visit, before: dict[str, str]) -> dict[str, Any]:
    """The arguments of `keys.create` and `keys.set`; None is "no limit of its own".

    Models that stood in the form `before` may stay, whether they can be called or not. Raises
    `Conflict` that opens with the field.
    """
    given = visit.given
    known = set(_names(before.get("models", "")))
    return {
        "name": given("name") or "",
        "expires_ms": _if_given(given("expires"), _expiry_ms),
        **{name: fields.whole(visit, name, least=1) for name in LIMITS},
        "models": _if_given(
            given("models"), lambda text: _models(visit.site.services, text, known)
        ),
        "spend_cap": fields.dollars(visit, "spend_cap"),
        "on_disconnect": given("on_disconnect"),
    }


def _if_given(text: str | None, read: Callable[[str], T]) -> T | None:
    return None if text is None else read(text)


def _expiry_ms(text: str) -> int:
    """A number of days from now, or a date (with a time, UTC unless it says otherwise)."""
    try:
        if match := _DAYS.fullmatch(text):
            days = int(match[1])
            if not 1 <= days <= DAYS_AHEAD_MAX:
                raise ValueError
            at = datetime.now(UTC) + timedelta(days=days)
        else:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise Conflict(
            "expires: expected a number of days, such as 90, or a date, such as 2027-01-31"
        ) from None


def _expiry_text(expires_ms: int | None) -> str | None:
    if expires_ms is None:
        return None
    return f"{datetime.fromtimestamp(expires_ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}Z"


def _names(text: str) -> list[str]:
    return [name for one in re.split(r"[,\n]", text) if (name := one.strip())]


def _models(services: Services, text: str, known: set[str]) -> list[str]:
    found = list(dict.fromkeys(_names(text)))
    if len(found) > MODELS_MAX:
        # Before each is looked for: patterns make any number of names callable.
        raise Conflict(f"models: expected {MODELS_MAX} names at most")
    for name in found:
        if name not in known and not callable_name(services, name):
            raise Conflict(f"models: there is no model {name[:100]!r} here")
    return found


def callable_name(services: Services, name: str) -> bool:
    """Whether a name leads to a model that this server knows, if only when its provider is back."""
    try:
        services.router.route(name, "openai", None)
    except GatewayError as refusal:
        return refusal.code != "unknown_model_pricing"
    return True


def _form_of(key: Key) -> dict[str, str]:
    """The form as the key is."""
    cap = key.spend_cap_nano_usd
    found = {
        "name": key.name,
        "expires": _expiry_text(key.expires_ms),
        "models": "\n".join(key.models or ()),
        "spend_cap": None if cap is None else usd_text(cap),
        "on_disconnect": key.on_disconnect,
        **{name: getattr(key, name) for name in LIMITS},
    }
    return {name: "" if value is None else str(value) for name, value in found.items()}


PAGES = (
    Page("GET", _PATH, listing),
    Page("POST", _PATH, create),
    Page("GET", _PATH + "/{id}/created", created),
    Page("GET", _PATH + "/{id}", show),
    Page("POST", _PATH + "/{id}", change),
    Page("POST", _PATH + "/{id}/revoke", revoke),
)
