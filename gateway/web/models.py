"""`/dashboard/models`: what a user's keys can call, at the price they are billed, and their caps.

A cap is the most that one call of a model may cost its user, by the name that the call uses.
"""

import asyncio
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from gateway.accounts.amounts import nano_of
from gateway.api.models import Listed, billed_price, offered
from gateway.errors import Conflict
from gateway.ledger.prices import NANO_PER_USD, usd_text
from gateway.web import fields
from gateway.web.keys import callable_name
from gateway.web.site import Notice, Page, Problem, Visit

QUERY_CHARS_MAX = 200
"""Every word is looked for in every model's names."""

ROWS_MAX = 1000
"""Of one page; a search finds the others."""

CAPS_MAX = 500
"""Of one user: they are in memory."""

_PATH = "/dashboard/models"
_AT_ONCE = 40
"""Prices worked out before other work has its turn: about 0.5 ms."""


async def listing(visit: Visit) -> web.StreamResponse:
    """All models, aliases first; `q` finds some, `cap` opens the form of one."""
    return await _listing(visit, visit.asked("q")[:QUERY_CHARS_MAX], editing=visit.asked("cap"))


async def set_cap(visit: Visit) -> web.StreamResponse:
    """Set a cap, or lift it where the amount is left empty."""
    query, model = visit.form.get("q", "")[:QUERY_CHARS_MAX].strip(), visit.given("model") or ""
    amount = fields.dollars(visit, "amount")
    try:
        if amount is not None:
            _check_cap(visit, model, amount)
        await visit.verb("caps.set", user=visit.user.name, model=model, amount=amount)
    except Conflict as exc:
        return await _listing(visit, query, editing=model, problem=Problem.of(exc))
    told = f"Calls of {model} may cost what they cost again."
    if amount is not None:
        told = f"A call of {model} may cost ${usd_text(nano_of(amount, 'amount'))} at most."
    path = f"{_PATH}?{urlencode({'q': query})}" if query else _PATH
    return visit.go(path, told=Notice(path=_PATH, text=told))


def _check_cap(visit: Visit, model: str, amount: str) -> None:
    if not nano_of(amount, "amount"):
        raise Conflict("amount: above zero, or empty for no cap")
    capped = {cap.model for cap in visit.site.context.accounts.caps(visit.user.name)}
    if model in capped:
        return
    if not callable_name(visit.site.services, model):
        raise Conflict(f"model: there is no model {model[:100]!r} here")
    if len(capped) >= CAPS_MAX:
        raise Conflict(f"model: you have {CAPS_MAX} caps already; lift one of them")


async def _listing(
    visit: Visit, query: str, *, editing: str = "", problem: Problem | None = None
) -> web.Response:
    caps = {cap.model: cap.nano_usd for cap in visit.site.context.accounts.caps(visit.user.name)}
    rows, found = await _rows(visit, query)
    here = {row["id"] for row in rows}
    return await visit.render(
        "models.html",
        status=200 if problem is None else 400,
        problem=problem,
        form=visit.form,
        query=query,
        rows=rows,
        found=found,
        caps=caps,
        elsewhere=[] if query else [name for name in sorted(caps) if name not in here],
        editing=editing,
    )


async def _rows(visit: Visit, query: str) -> tuple[list[dict[str, Any]], int]:
    """The first rows that have all words of the query, and how many there are."""
    words = query.lower().split()
    rows: list[dict[str, Any]] = []
    found = 0
    for number, one in enumerate(offered(visit.site.services, visit.user.rate_multiplier), 1):
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
        text = f"{one.id} {one.model.name} {one.owned_by} {one.model.kind}".lower()
        if all(word in text for word in words):
            found += 1
            if len(rows) < ROWS_MAX:
                rows.append(_row(one))
    return rows, found


def _row(one: Listed) -> dict[str, Any]:
    model = one.model
    price = billed_price(model.price, one.multiplier)
    return {
        "id": one.id,
        "alias": one.owned_by == "gateway",
        "provider": model.provider if one.owned_by == "gateway" else one.owned_by,
        "stands_for": model.id,
        "name": model.name,
        "kind": model.kind,
        "deprecated": model.deprecated,
        "input": _per_million(price.input),
        "output": _per_million(price.output),
        "dearer_above": price.tiers[0].above if price.tiers else None,
        "context_length": model.context_length,
        "max_output_tokens": model.max_output_tokens,
    }


def _per_million(nano_usd: int) -> Decimal:
    return Decimal(nano_usd) / NANO_PER_USD


PAGES = (
    Page("GET", _PATH, listing),
    Page("POST", _PATH + "/cap", set_cap),
)
