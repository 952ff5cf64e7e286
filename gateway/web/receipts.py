"""Lists of receipts, a user's own and everybody's: filters, search by id, paging by key."""

import re
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from gateway.errors import Missing
from gateway.ledger import search
from gateway.ledger.entry import Opening, Status
from gateway.ledger.records import Key, Receipt
from gateway.ledger.search import Wanted
from gateway.web.site import Page, Problem, Visit

RECEIPTS_MAX = 50
"""On one page."""

IN_FLIGHT_MAX = 20
"""Of a user's requests that are still running, shown above the list."""

KEYS_MAX = 200
"""To choose from."""

_STATUSES: tuple[Status, ...] = ("succeeded", "failed", "cancelled")
_ID = re.compile(r"[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{0,4}){0,3}-?[0-9a-fA-F]{0,12}")
_SEQUENCE = re.compile(r"[0-9]{1,18}")

_FILTERS = ("id", "status", "model", "key", "provider", "error", "user", "since", "until")
TEXT_CHARS_MAX = 256


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the form above the list says, as it was typed."""

    id: str = ""
    status: Literal["", "succeeded", "failed", "cancelled"] = ""
    model: str = ""
    key: str = ""
    provider: str = ""
    error: str = ""
    user: str = ""
    since: str = ""
    until: str = ""

    @property
    def any(self) -> bool:
        """Whether anything is asked for at all."""
        return any(getattr(self, name) for name in _FILTERS)


async def own(visit: Visit) -> web.StreamResponse:
    """The viewer's receipts."""
    return await _list(visit, everybody=False)


async def everybodys(visit: Visit) -> web.StreamResponse:
    """Everybody's, for admins."""
    return await _list(visit, everybody=True)


async def _list(visit: Visit, *, everybody: bool) -> web.StreamResponse:
    base = "/dashboard/admin/receipts" if everybody else "/dashboard/receipts"
    values = {name: visit.asked(name)[:TEXT_CHARS_MAX] for name in _FILTERS}
    if values["status"] not in ("", *_STATUSES):
        values["status"] = ""
    if not everybody:
        values["user"] = values["provider"] = ""
    asked = msgspec.convert(values, Asked)
    problem: Problem | None = None
    page, more = search.NOTHING, False
    try:
        if asked.id:
            found = await _by_id(visit, asked, everybody=everybody)
            if isinstance(found, str):
                return visit.go(f"{base}/{found}")
            page, more = search.Page(found.receipts, None, None, None, True), found.more
        else:
            page = await visit.site.context.ledger.search(
                _wanted(visit, asked, everybody=everybody),
                before=_sequence(visit.asked("before")),
                after=_sequence(visit.asked("after")) if not visit.asked("before") else None,
                limit=RECEIPTS_MAX,
            )
    except (_Refused, Missing) as exc:
        problem = exc.problem if isinstance(exc, _Refused) else Problem(str(exc), "user")
    return await visit.render(
        "receipts.html",
        status=400 if problem is not None else 200,
        base=base,
        everybody=everybody,
        asked=asked,
        statuses=_STATUSES,
        keys=[] if everybody else _choice_of_keys(visit, asked),
        key_names=_key_names(visit, page.receipts),
        page=page,
        more=more,
        older=_link(base, asked, before=page.next_before),
        newer=_link(base, asked, after=page.next_after),
        in_flight=[] if asked.any else _in_flight(visit, everybody=everybody),
        problem=problem,
        owner_name=lambda owner: owner_name(visit, owner),
    )


class _Refused(Exception):
    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.problem = Problem(message, field)


async def _by_id(visit: Visit, asked: Asked, *, everybody: bool) -> search.Found | str:
    """What an id begins; the whole id where it names one, be it in flight."""
    text = asked.id.lower()
    if not _ID.fullmatch(text):
        raise _Refused("Expected an id, or its first 8 characters at least", "id")
    owner = None if everybody else f"user:{visit.user.id}"
    ledger = visit.site.context.ledger
    if len(text) == 36 and await ledger.receipt(text, owner) is not None:
        return text
    found = await ledger.read(lambda conn: search.find(conn, text, owner))
    if len(found.receipts) == 1 and not found.more:
        return found.receipts[0].entry.opening.id
    return found


def _wanted(visit: Visit, asked: Asked, *, everybody: bool) -> Wanted:
    owner: str | None = f"user:{visit.user.id}"
    if everybody:
        owner = None
        if asked.user.startswith("byok:"):
            owner = asked.user
        elif asked.user:
            owner = f"user:{visit.site.context.accounts.user_named(asked.user).id}"
    since, until = _day(asked.since, "since"), _day(asked.until, "until")
    return Wanted(
        owner=owner,
        status=asked.status or None,
        model=asked.model or None,
        key_id=asked.key or None,
        provider=asked.provider or None,
        error=asked.error or None,
        since_ms=since,
        until_ms=None if until is None else until + 86_400_000,
    )


def _day(text: str, field: str) -> int | None:
    """The first millisecond of a day (UTC)."""
    if not text:
        return None
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        return round((day - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))
    except ValueError:
        raise _Refused("Expected a day such as 2026-11-21", field) from None


def _sequence(text: str) -> int | None:
    return int(text) if _SEQUENCE.fullmatch(text) else None


def _link(base: str, asked: Asked, **place: int | None) -> str | None:
    (name, value), *_ = place.items()
    if value is None:
        return None
    given = {one: text for one in _FILTERS if (text := getattr(asked, one))}
    return f"{base}?{urlencode({**given, name: value})}"


def _in_flight(visit: Visit, *, everybody: bool) -> list[Opening]:
    owner = f"user:{visit.user.id}"
    found = []
    for opening in reversed(visit.site.context.ledger.in_flight.values()):
        if everybody or opening.owner == owner:
            found.append(opening)
            if len(found) == IN_FLIGHT_MAX:
                break
    return found


def _choice_of_keys(visit: Visit, asked: Asked) -> list[Key]:
    """The viewer's keys to choose from, last made first: so many, and the one that was chosen."""
    found = visit.site.context.accounts.list_keys(visit.user.name)[::-1]
    rest = [key for key in found[KEYS_MAX:] if key.id == asked.key]
    return found[:KEYS_MAX] + rest


def _key_names(visit: Visit, receipts: list[Receipt]) -> dict[str, str]:
    """Names of the keys on the page, by id."""
    names = {}
    for key_id in {one.entry.opening.key_id for one in receipts}:
        if key_id is not None:
            names[key_id] = key_name(visit, key_id)
    return names


def key_name(visit: Visit, key_id: str) -> str:
    """What a key is called: its name, else the beginning of its text."""
    try:
        key = visit.site.context.accounts.key(key_id)
    except Missing:
        return key_id
    return key.name or key.hint


def owner_name(visit: Visit, owner: str) -> str:
    """Whose receipt it is, as admins read it."""
    kind, _, name = owner.partition(":")
    if kind == "user" and name.isdigit():
        try:
            return visit.site.context.accounts.user(int(name)).name
        except KeyError:
            return owner
    return f"own provider key {name[:8]}…"


PAGES = (
    Page("GET", "/dashboard/receipts", own),
    Page("GET", "/dashboard/admin/receipts", everybodys, "admin"),
)
