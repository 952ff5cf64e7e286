"""Admin: the keys of everybody, and one of them, to change or to revoke."""

from typing import Any, NamedTuple, get_args

from aiohttp import web

from gateway.accounts.accounts import KeyStatus
from gateway.accounts.funds import NO_CAP
from gateway.admin.context import Context
from gateway.errors import Conflict, Missing
from gateway.ledger import listing
from gateway.ledger.listing import KeyState
from gateway.ledger.prices import usd_text
from gateway.ledger.records import Key
from gateway.web import fields
from gateway.web.site import Notice, Page, Problem, Visit

PATH = "/dashboard/admin/keys"


class KeyLine(NamedTuple):
    """A row of a list of keys. `spent` is all that the key was ever charged."""

    key: Key
    status: KeyStatus
    spent: int


def key_line(context: Context, key: Key) -> KeyLine:
    """A key as lists show it."""
    cap = NO_CAP if key.spend_cap_nano_usd is None else key.spend_cap_nano_usd
    status = context.accounts.key_status(key, context.clock_ms())
    return KeyLine(key, status, cap - context.accounts.key_funds(key.id).balance)


async def keys(visit: Visit) -> web.StreamResponse:
    """All keys, the last made first; of one user or one status where asked for."""
    context = visit.site.context
    name, state = visit.asked("user"), _state(visit.asked("status"))
    user_id, problem = None, None
    if name:
        try:
            user_id = context.accounts.user_named(name).id
        except Missing as exc:
            problem = Problem.of(exc)

    def read(conn: Any) -> listing.Slice[str]:
        return listing.key_ids(
            conn, now_ms=context.clock_ms(), user_id=user_id, state=state,
            below=fields.row(visit, "below"), limit=fields.PAGE_ROWS,
        )  # fmt: skip

    empty: listing.Slice[str] = listing.Slice([])
    found = empty if problem is not None else await context.ledger.read(read)
    lines = [key_line(context, context.accounts.key(key_id)) for key_id in found.rows]
    return await visit.render(
        "admin/keys.html", lines=lines, found=found, user=name, state=state, problem=problem,
        states=get_args(KeyState),
    )  # fmt: skip


def _state(text: str) -> KeyState | None:
    return next((one for one in get_args(KeyState) if one == text), None)


async def key(visit: Visit) -> web.StreamResponse:
    """One key."""
    return await _shown(visit, _asked_for(visit))


def _asked_for(visit: Visit) -> Key:
    return visit.site.context.accounts.key(visit.request.match_info["id"])


async def _shown(visit: Visit, key: Key, problem: Problem | None = None) -> web.Response:
    cap = key.spend_cap_nano_usd
    return await visit.render(
        "admin/key.html", status=200 if problem is None else 400, key=key,
        line=key_line(visit.site.context, key), path=f"{PATH}/{key.id}", problem=problem,
        typed=visit.form if problem is not None else None,
        expires=fields.day_of(key.expires_ms), cap="" if cap is None else usd_text(cap),
    )  # fmt: skip


async def change(visit: Visit) -> web.StreamResponse:
    """Its name, its limits, its end."""
    key = _asked_for(visit)
    try:
        wanted = {
            "name": visit.form.get("name", "").strip(),
            "rpm": fields.whole(visit, "rpm"),
            "tpm": fields.whole(visit, "tpm"),
            "concurrent": fields.whole(visit, "concurrent"),
            "models": fields.names(visit, "models"),
            "spend_cap": fields.dollars(visit, "spend_cap"),
            "on_disconnect": visit.given("on_disconnect"),
        }
        if (visit.given("expires") or "") != fields.day_of(key.expires_ms):
            # Left as it is, it keeps its time of day; and one that is over may stay so.
            wanted["expires_ms"] = fields.end_of_day(visit, "expires")
        await visit.verb("keys.set", id=key.id, **wanted)
    except Conflict as exc:
        return await _shown(visit, key, Problem.of(exc))
    return visit.done(f"{PATH}/{key.id}", "Saved. It holds from the next request on.")


async def revoke(visit: Visit) -> web.StreamResponse:
    """Refuse it from now on."""
    key = _asked_for(visit)
    await visit.verb("keys.revoke", id=key.id)
    path = f"{PATH}/{key.id}"
    return visit.go(path, told=Notice(path=path, text="Revoked: it is refused from now on."))


PAGES = (
    Page("GET", PATH, keys, "admin"),
    Page("GET", PATH + "/{id:[A-Za-z0-9_]{1,64}}", key, "admin"),
    Page("POST", PATH + "/{id:[A-Za-z0-9_]{1,64}}", change, "admin"),
    Page("POST", PATH + "/{id:[A-Za-z0-9_]{1,64}}/revoke", revoke, "admin"),
)
