"""Admin: what everybody did and what it cost, how the server is, what it is doing now.

Sums of a month are over the rows of everybody, which may be many: an answer is kept for
`KEPT_TIMES` as long as it took, so that looking at it again and again costs next to nothing.
"""

import contextlib
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from gateway.admin.operations import InFlight
from gateway.errors import Conflict
from gateway.ledger import listing, usage
from gateway.ledger.listing import Told, Top
from gateway.ledger.usage import DAY_MS, ReportRow
from gateway.ledger.writer import Ledger
from gateway.web import admin_providers, month
from gateway.web.month import DAYS, Month, day_text
from gateway.web.site import Notice, Page, Problem, Visit

PATH = "/dashboard/admin"
IN_FLIGHT = PATH + "/in-flight"
IN_FLIGHT_SHOWN = 200
TOP_SHOWN = 10
PROVIDERS_SHOWN = 50
TOLD_DAYS = 7
TOLD_SHOWN = 20
KEPT_TIMES = 20


class Everyone(msgspec.Struct):
    """The sums of a month: `days` has all of them, the last first."""

    days: list[ReportRow]
    total: ReportRow
    month: Month
    users: list[Top]
    providers: list[Top]
    models: list[Top]
    told: list[Told]
    issued: int


class _Kept(NamedTuple):
    everyone: Everyone
    until: float


_kept: "weakref.WeakKeyDictionary[Ledger, _Kept]" = weakref.WeakKeyDictionary()
_being_checked: "weakref.WeakSet[Ledger]" = weakref.WeakSet()


async def everyone(visit: Visit) -> web.StreamResponse:
    """The overview."""
    return await _shown(visit)


async def _shown(visit: Visit, problem: Problem | None = None) -> web.Response:
    context, services = visit.site.context, visit.site.services
    sums = await _month(context.ledger, context.clock_ms() // DAY_MS)
    providers = await admin_providers.lines(visit)
    return await visit.render(
        "admin/everyone.html",
        status=200 if problem is None else 409,
        everyone=sums,
        month=sums.month,
        today=sums.days[0],
        day_text=day_text,
        name_of=lambda user_id: context.accounts.user(user_id).name,
        providers=providers,
        troubled=[one for one in providers if one.status in ("paused", "down")],
        in_flight=len(services.exchanges),
        queue=context.ledger.queue_depth,
        writable=context.ledger.writable,
        problem=problem,
    )


async def _month(ledger: Ledger, today: int) -> Everyone:
    kept = _kept.get(ledger)
    if kept is not None and time.monotonic() < kept.until:
        return kept.everyone
    began = time.monotonic()
    found = await ledger.read(lambda conn: _read(conn, today))
    ended = time.monotonic()
    _kept[ledger] = _Kept(found, ended + KEPT_TIMES * (ended - began))
    return found


def _read(conn: Any, today: int) -> Everyone:
    since = today - DAYS + 1
    rows = usage.report(conn, since_day=since, until_day=today, group_by=("day", "model"))
    if len(rows) > usage.REPORT_ROWS_MAX:
        # Too many names to tell apart in a chart: the days are as many as ever.
        rows = usage.report(conn, since_day=since, until_day=today, group_by=("day",))
    by_day: list[list[ReportRow]] = [[] for _ in range(DAYS)]
    for row in rows:
        assert row.day is not None
        by_day[row.day - since].append(row)
    days = [_sum(since + number, found) for number, found in enumerate(by_day)]
    return Everyone(
        days=days[::-1],
        total=_sum(None, days),
        month=month.of_rows(rows, since),
        users=listing.top(conn, "user", since, today, TOP_SHOWN),
        providers=listing.top(conn, "provider", since, today, PROVIDERS_SHOWN),
        models=listing.top(conn, "model", since, today, TOP_SHOWN),
        told=listing.told(conn, today - TOLD_DAYS + 1, TOLD_SHOWN),
        issued=listing.issued(conn),
    )


_SUMMED = ("requests", "failed", "input_tokens", "output_tokens", "nano_usd", "list_nano_usd")


def _sum(day: int | None, rows: Iterable[ReportRow]) -> ReportRow:
    rows = list(rows)
    sums = {name: sum(getattr(row, name) for row in rows) for name in _SUMMED}
    return ReportRow(day, None, None, None, None, **sums)


# --- the running server -------------------------------------------------------------------------


async def reload(visit: Visit) -> web.StreamResponse:
    """Read the configuration again, and say what came of it."""
    try:
        report = await visit.verb("reload")
    except Conflict as exc:
        return await _shown(visit, Problem(str(exc)))
    text = f"Reloaded. Changed: {', '.join(report['changed']) or 'nothing'}."
    if report["needs_restart"]:
        text += f" A restart is needed for {', '.join(report['needs_restart'])}."
    return visit.go(PATH, told=Notice(path=PATH, text=text))


@contextlib.contextmanager
def _checking(ledger: Ledger) -> Iterator[None]:
    """One at a time: each walks over everything."""
    if ledger in _being_checked:
        raise Conflict("a check is under way already: wait for its end")
    _being_checked.add(ledger)
    try:
        yield
    finally:
        _being_checked.discard(ledger)


async def check(visit: Visit) -> web.StreamResponse:
    """Prove the books, or the chain of receipts, now; the answer comes when that is done."""
    what = "receipts.verify" if visit.given("what") == "chain" else "ledger.check"
    began = time.monotonic()
    try:
        with _checking(visit.site.context.ledger):
            found = await visit.verb(what)
    except Conflict as exc:
        return await _shown(visit, Problem.of(exc))
    took_ms = (time.monotonic() - began) * 1000
    return await visit.render("admin/check.html", what=what, found=found, took_ms=took_ms)


class Flying(NamedTuple):
    """A request in flight, as shown: how long since it came, in milliseconds; whose it is."""

    request: InFlight
    age_ms: int
    user: str | None
    user_id: int | None


async def in_flight(visit: Visit) -> web.StreamResponse:
    """What is being served now."""
    return await visit.render("admin/in_flight.html", **_flying(visit))


async def in_flight_rows(visit: Visit) -> web.StreamResponse:
    """The same without its frame, for the script that puts it there every second."""
    return await visit.render("admin/in_flight_rows.html", **_flying(visit))


def _flying(visit: Visit) -> dict[str, Any]:
    context = visit.site.context
    assert context.operations is not None, "pages are of a running server"
    now_ms = context.clock_ms()
    rows = []
    for one in context.operations.in_flight(IN_FLIGHT_SHOWN):
        kind, _, owner = one.owner.partition(":")
        user_id = int(owner) if kind == "user" else None
        name = None if user_id is None else context.accounts.user(user_id).name
        rows.append(Flying(one, max(0, now_ms - one.created_ms), name, user_id))
    return {"rows": rows, "count": len(visit.site.services.exchanges)}


PAGES = (
    Page("GET", PATH, everyone, "admin"),
    Page("POST", PATH + "/reload", reload, "admin"),
    Page("POST", PATH + "/check", check, "admin"),
    Page("GET", IN_FLIGHT, in_flight, "admin"),
    Page("GET", IN_FLIGHT + "/rows", in_flight_rows, "admin"),
)
