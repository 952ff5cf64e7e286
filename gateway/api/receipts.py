"""`GET /v1/receipts/{id}` and `GET /v1/receipts`: a caller's own, and nobody else's."""

import re
from typing import get_args

from aiohttp import web

from gateway.api.callers import caller_of, json_answer
from gateway.errors import GatewayError
from gateway.ledger import receipt
from gateway.ledger.entry import Opening, Status
from gateway.ledger.records import Receipt
from gateway.ledger.writer import Ledger
from gateway.proxy.services import Services

LIMIT_MAX = 100
LEDGER: web.AppKey[Ledger] = web.AppKey("ledger", Ledger)

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_STATUSES: dict[str, Status] = {status: status for status in get_args(Status)}


async def show(request: web.Request) -> web.Response:
    """One receipt; 404 for another's as for none, 401 without a credential."""
    caller = caller_of(request)
    receipt_id = request.match_info["id"].lower()
    found = None
    if _ID.fullmatch(receipt_id):
        found = await request.app[LEDGER].receipt(receipt_id, caller.owner)
    if found is None:
        raise GatewayError("not_found", "No such receipt")
    if isinstance(found, Opening):
        return json_answer(receipt.render_in_progress(found, Services.wall_ms()))
    return json_answer(_render(found))


async def listing(request: web.Request) -> web.Response:
    """A page of receipts, newest first: `limit` (1-100), `after` (an id), `status`, `model`."""
    caller = caller_of(request)
    query = request.query
    limit = _limit(query.get("limit", "20"))
    after = query.get("after")
    if after is not None and not _ID.fullmatch(after):
        raise GatewayError("invalid_request", "after must be a receipt id", param="after")
    status = _STATUSES.get(query.get("status", ""))
    if status is None and "status" in query:
        raise GatewayError(
            "invalid_request", f"status must be one of {', '.join(_STATUSES)}", param="status"
        )
    found = await request.app[LEDGER].receipts(
        caller.owner, limit=limit + 1, after=after, status=status, model=query.get("model")
    )
    page = found[:limit]
    data = b",".join(map(_render, page))
    last = b"null" if not page else b'"%b"' % page[-1].entry.opening.id.encode()
    more = b"true" if len(found) > limit else b"false"
    return json_answer(b'{"object":"list","data":[%b],"has_more":%b,"last_id":%b}'
                       % (data, more, last))  # fmt: skip


def _limit(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= LIMIT_MAX:
        return int(text)
    raise GatewayError("invalid_request", f"limit must be from 1 to {LIMIT_MAX}", param="limit")


def _render(found: Receipt) -> bytes:
    return receipt.render(
        found.entry, sequence=found.sequence, previous=found.previous, hash=found.hash
    )
