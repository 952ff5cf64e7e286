"""One receipt: what happened when, what was counted, how the price follows, and its proof."""

from typing import Any

import msgspec
from aiohttp import web

from gateway.errors import Missing
from gateway.ledger import receipt as rendering
from gateway.ledger import store
from gateway.ledger.entry import Opening
from gateway.ledger.records import Receipt
from gateway.web import arithmetic, waterfall
from gateway.web.receipts import key_name, owner_name
from gateway.web.site import Page, Visit

CHARGED_WHY = {
    "reported": "As the provider reported.",
    "partial": "Reported so far, when it ended early; output that was seen is counted.",
    "estimated": "The provider reported nothing: estimated from the bytes, four to a token.",
    "none": "Nothing was counted, so nothing is charged.",
}


async def own(visit: Visit) -> web.StreamResponse:
    """One of the viewer's."""
    return await _show(visit, f"user:{visit.user.id}", "/dashboard/receipts")


async def anybodys(visit: Visit) -> web.StreamResponse:
    """Anybody's, for admins."""
    return await _show(visit, None, "/dashboard/admin/receipts")


async def _show(visit: Visit, owner: str | None, base: str) -> web.StreamResponse:
    ledger = visit.site.context.ledger
    found = await ledger.receipt(visit.request.match_info["id"].lower(), owner)
    match found:
        case None:
            raise Missing("There is no such receipt")
        case Opening():
            return await visit.render(
                "receipt_in_progress.html", opening=found, base=base,
                now_ms=visit.site.services.wall_ms(), owner=owner_name(visit, found.owner),
            )  # fmt: skip
        case Receipt():
            sequence = found.sequence
            fits = await ledger.read(lambda conn: store.record_fits(conn, sequence))
            return await visit.render("receipt.html", base=base, **_values(visit, found, fits))


def _values(visit: Visit, found: Receipt, fits: bool) -> dict[str, Any]:
    entry = found.entry
    raw = rendering.render(entry, sequence=found.sequence, previous=found.previous, hash=found.hash)
    key_id = entry.opening.key_id
    return {
        "receipt": found,
        "entry": entry,
        "opening": entry.opening,
        "shown": msgspec.json.decode(raw),
        "raw": msgspec.json.format(raw, indent=2).decode(),
        "bars": waterfall.bars(entry),
        "width": waterfall.WIDTH,
        "bill": arithmetic.bill_of(entry),
        "charged": (entry.cost_nano_usd or 0) if entry.billed else 0,
        "why": CHARGED_WHY[entry.usage_source],
        "fits": fits,
        "key": None if key_id is None else key_name(visit, key_id),
        "owner": owner_name(visit, entry.opening.owner),
    }


PAGES = (
    Page("GET", "/dashboard/receipts/{id}", own),
    Page("GET", "/dashboard/admin/receipts/{id}", anybodys, "admin"),
)
