"""`/dashboard`: a user's balance, what is held of it, the day so far, the month, the last calls.

Whoever is locked out learns here why, and what to do.
"""

import asyncio

import msgspec
from aiohttp import web

from gateway.ledger.entry import Opening
from gateway.ledger.records import Key
from gateway.proxy.services import Services
from gateway.web import month
from gateway.web.site import Page, Visit

RECEIPTS_SHOWN = 10
RUNNING_SHOWN = 20

_LOOKED_AT_ONCE = 500


class Lock(msgspec.Struct, frozen=True):
    """Why calls are refused at the moment; `top_up` where money is what is missing."""

    title: str
    text: str
    top_up: bool = False


async def overview(visit: Visit) -> web.StreamResponse:
    """The first page after signing in."""
    services, context = visit.site.services, visit.site.context
    user = visit.user
    owner = f"user:{user.id}"
    now_ms = services.wall_ms()
    keys = context.accounts.list_keys(user.name)
    usable = [key for key in keys if context.accounts.key_status(key, now_ms) == "active"]
    receipts = await context.ledger.receipts(owner, limit=RECEIPTS_SHOWN)
    running = await _running(services, owner)
    return await visit.render(
        "overview.html",
        funds=context.accounts.funds(user.id),
        today=services.daily.today(user.id, now_ms),
        locks=locks(visit),
        has_keys=any(not key.admin for key in usable),
        month=await month.read(context.ledger, now_ms, user.id),
        entries=[one.entry for one in receipts],
        running=running[:RUNNING_SHOWN],
        running_count=len(running),
        now_ms=now_ms,
        expiring=_expiring(usable, now_ms),
    )


def locks(visit: Visit) -> list[Lock]:
    """What stands in the way of this user's calls; the frame of the page tells of a suspension."""
    services = visit.site.services
    funds = services.accounts.funds(visit.user.id)
    found = []
    if funds.balance <= 0:
        found.append(
            Lock(
                "There is no credit on your account." if funds.balance == 0
                else "Your balance is below zero.",
                "Calls with your API keys are refused with 402 insufficient_balance until it is "
                "above zero.",
                top_up=True,
            )
        )  # fmt: skip
    elif funds.available <= 0:
        found.append(
            Lock(
                "All of your balance is held for calls under way.",
                "Further calls are refused with 402 insufficient_balance until some of these have "
                "ended: then what they did not use is free again.",
                top_up=True,
            )
        )
    providers = services.health.view(services.time())
    for one in providers:
        if one.paused_by is not None:
            why = "it cost as much today as it may" if one.paused_by == "daily_stop" else (
                "the operator did it"
            )  # fmt: skip
            found.append(
                Lock(
                    f"Provider {one.name} is paused.",
                    f"Calls that only it can answer get 429 provider_paused until the operator "
                    f"resumes it. The reason: {why}.",
                )
            )
    if not any(one.active for one in providers):
        found.append(
            Lock(
                "No provider has a key.",
                "No model can be called with an API key of this server until its operator gives "
                "one: 503 no_active_api_keys.",
            )
        )
    return found


async def _running(services: Services, owner: str) -> list[Opening]:
    """The requests of an owner that are being served, the latest first. Gives way meanwhile."""
    found = []
    for number, exchange in enumerate(list(services.exchanges), 1):
        opening = exchange.opening
        if opening is not None and opening.owner == owner and not exchange.settled:
            found.append(opening)
        if number % _LOOKED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return sorted(found, key=lambda opening: opening.id, reverse=True)


def _expiring(keys: list[Key], now_ms: int) -> list[Key]:
    """The keys that end within a week."""
    soon = now_ms + 7 * 86_400_000
    return [key for key in keys if key.expires_ms is not None and key.expires_ms <= soon]


PAGES = (Page("GET", "/dashboard", overview),)
