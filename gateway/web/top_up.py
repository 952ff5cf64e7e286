"""`/dashboard/top-up`: redeem a code; what the account was given, and what was taken again."""

import shlex

from aiohttp import web

from gateway.accounts.sign_in import monotonic_ms
from gateway.errors import Conflict
from gateway.ledger import money
from gateway.web import shown
from gateway.web.site import REDEEMS_MAX, Page, Problem, Visit

ROWS = 25

_PATH = "/dashboard/top-up"


async def show(visit: Visit) -> web.StreamResponse:
    """The form, and a page of the list."""
    return await _show(visit)


async def redeem(visit: Visit) -> web.StreamResponse:
    """Credit a code. What is not one counts as a guess."""
    attempts, who, now_ms = visit.site.redeeming, str(visit.user.id), monotonic_ms()
    wait_ms = attempts.wait_ms(who, now_ms)
    if wait_ms:
        minutes = -(-wait_ms // 60_000)
        problem = Problem(
            f"{REDEEMS_MAX} attempts were made: try again in {minutes} "
            f"{'minute' if minutes == 1 else 'minutes'}",
            "code",
        )
        answer = await _show(visit, problem, status=429)
        answer.headers["Retry-After"] = str(-(-wait_ms // 1000))
        return answer
    attempts.take(who, now_ms)
    try:
        done = await visit.verb(
            "codes.redeem", code=visit.given("code") or "", user=visit.user.name
        )
    except Conflict as exc:
        return await _show(visit, Problem.of(exc), status=400)
    except Exception:
        # Not where the client only left: a guess is made all the same.
        attempts.give_back(who, now_ms)
        raise
    attempts.give_back(who, now_ms)
    balance = done["balance"]["nano_usd"]
    told = f"{shown.usd(done['nano_usd'])} added. Your balance is {shown.usd(balance)}."
    return visit.done(_PATH, told)


async def _show(visit: Visit, problem: Problem | None = None, *, status: int = 200) -> web.Response:
    user_id = visit.user.id
    before = visit.asked("before")
    below = int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None
    found = await visit.site.context.ledger.read(
        lambda conn: money.given(conn, user_id, before=below, limit=ROWS + 1)
    )
    return await visit.render(
        "top_up.html",
        status=status,
        problem=problem,
        form=visit.form,
        shell_name=shlex.quote(visit.user.name),
        funds=visit.site.services.accounts.funds(user_id),
        rows=found[:ROWS],
        further=found[ROWS - 1].seq if len(found) > ROWS else None,
        first=below is None,
    )


PAGES = (
    Page("GET", _PATH, show),
    Page("POST", _PATH, redeem),
)
