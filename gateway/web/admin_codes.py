"""Admin: redemption codes: made in numbers, their texts shown once; and what became of each."""

from typing import Any, get_args

from aiohttp import web

from gateway.admin.context import BadArguments
from gateway.errors import Conflict
from gateway.ledger import listing
from gateway.ledger.listing import CodeState
from gateway.ledger.records import Code
from gateway.web import fields
from gateway.web.shown import count, usd
from gateway.web.site import Notice, Page, Problem, Visit

PATH = "/dashboard/admin/codes"


async def codes(visit: Visit) -> web.StreamResponse:
    """All codes, the last made first; of one state where asked for."""
    return await _listed(visit)


async def _listed(visit: Visit, problem: Problem | None = None) -> web.Response:
    context = visit.site.context
    now_ms, state = context.clock_ms(), _state(visit.asked("status"))

    def read(conn: Any) -> listing.Slice[Code]:
        return listing.codes(
            conn, now_ms=now_ms, state=state, below=fields.row(visit, "below"),
            limit=fields.PAGE_ROWS,
        )  # fmt: skip

    return await visit.render(
        "admin/codes.html", status=200 if problem is None else 400,
        found=await context.ledger.read(read), state=state, states=get_args(CodeState),
        state_of=lambda code: _state_of(code, now_ms), problem=problem, typed=visit.form,
    )  # fmt: skip


def _state(text: str) -> CodeState | None:
    return next((one for one in get_args(CodeState) if one == text), None)


def _state_of(code: Code, now_ms: int) -> CodeState:
    if code.redeemed_ms is not None:
        return "redeemed"
    return "expired" if code.expires_ms is not None and code.expires_ms <= now_ms else "active"


async def create(visit: Visit) -> web.StreamResponse:
    """New codes; the next page shows their texts, once."""
    try:
        number = fields.whole(visit, "count")
        if number is None:
            raise BadArguments("count: is required")
        made = await visit.verb(
            "codes.create", amount=fields.dollars(visit, "amount") or "", count=number,
            expires_ms=fields.end_of_day(visit, "expires"),
        )  # fmt: skip
    except Conflict as exc:
        return await _listed(visit, Problem.of(exc))
    texts = tuple(one["code"] for one in made["data"])
    what = "A code" if len(texts) == 1 else f"{count(len(texts))} codes"
    worth = usd(made["data"][0]["nano_usd"])
    text = f"{what} of {worth}{' each' if len(texts) > 1 else ''}. Shown only now."
    return visit.go(PATH, told=Notice(path=PATH, text=text, secrets=texts))


PAGES = (
    Page("GET", PATH, codes, "admin"),
    Page("POST", PATH, create, "admin"),
)
