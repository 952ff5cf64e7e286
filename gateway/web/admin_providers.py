"""Admin: the providers, and one of them: health, keys, the day's spending, pauses, its address.

A provider's key goes into a field that hides it, and never comes back: pages show its two ends.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

from aiohttp import web

from gateway.errors import Conflict, Missing
from gateway.web import fields
from gateway.web.shown import usd
from gateway.web.site import Handler, Notice, Page, Problem, Visit

PATH = "/dashboard/admin/providers"
NAME = "{name:[a-z0-9][a-z0-9._-]{0,63}}"
FORMATS = ("openai", "anthropic", "gemini")

METER_WIDTH = 240

Doing = Callable[[Visit, str], Awaitable[Notice]]


class Meter(NamedTuple):
    """A bar of a day's spending: where it ends, and where its thresholds stand, of `METER_WIDTH`.

    `label` says the same in words.
    """

    fill: int
    alert_at: int | None
    stop_at: int | None
    state: Literal["calm", "alert", "stop"]
    label: str


def meter(today: dict[str, Any] | None) -> Meter | None:
    """The bar of a provider's `today`; None where there is nothing to measure it with."""
    if today is None:
        return None
    spent, alert, stop = (_nano(today[name]) for name in ("spent", "alert", "stop"))
    assert spent is not None
    thresholds = [one for one in (alert, stop) if one is not None]
    if not thresholds:
        return None
    whole = max(*thresholds, spent, 1)
    state: Literal["calm", "alert", "stop"] = "calm"
    if alert is not None and spent >= alert:
        state = "alert"
    if stop is not None and spent >= stop:
        state = "stop"
    label = f"{usd(spent)} today" + "".join(
        f", {name} at {usd(at)}"
        for name, at in (("alert", alert), ("stop", stop))
        if at is not None
    )
    return Meter(_along(spent, whole) or 0, _mark(alert, whole), _mark(stop, whole), state, label)


def _nano(money: dict[str, Any] | None) -> int | None:
    return None if money is None else int(money["nano_usd"])


def _along(nano_usd: int, whole: int) -> int:
    # What is not nothing can be seen.
    return max(1, nano_usd * METER_WIDTH // whole) if nano_usd > 0 else 0


def _mark(nano_usd: int | None, whole: int) -> int | None:
    return None if nano_usd is None else min(METER_WIDTH - 2, _along(nano_usd, whole))


class ProviderLine(NamedTuple):
    """A provider as pages show it; `view` is the verb's answer, `status` one word about it."""

    view: dict[str, Any]
    status: Literal["paused", "inactive", "down", "up"]
    meter: Meter | None


async def lines(visit: Visit) -> list[ProviderLine]:
    """Every provider: there are as many as somebody wrote down."""
    found = await visit.verb("providers.list")
    return [_line(visit, view) for view in found["data"]]


def _line(visit: Visit, view: dict[str, Any]) -> ProviderLine:
    services = visit.site.services
    provider = services.providers.get(view["name"])
    status: Literal["paused", "inactive", "down", "up"] = "up"
    if view["paused_by"] is not None:
        status = "paused"
    elif not view["active"]:
        status = "inactive"
    elif provider is None or not services.health.up(provider, services.time()):
        status = "down"
    return ProviderLine(view, status, meter(view["today"]))


async def providers(visit: Visit) -> web.StreamResponse:
    """All of them."""
    return await _listed(visit)


async def _listed(visit: Visit, problem: Problem | None = None) -> web.Response:
    return await visit.render(
        "admin/providers.html", status=200 if problem is None else 400, lines=await lines(visit),
        formats=FORMATS, problem=problem, typed=visit.form,
    )  # fmt: skip


async def add(visit: Visit) -> web.StreamResponse:
    """A provider that the configuration does not have."""
    try:
        name = fields.required(visit, "name")
        if name in (line.view["name"] for line in await lines(visit)):
            raise Conflict("name: there is such a provider already; change it on its own page")
        await _set(visit, name)
    except Conflict as exc:
        return await _listed(visit, Problem.of(exc))
    return visit.done(f"{PATH}/{name}", "Added. It is used once it has a key.")


async def _set(visit: Visit, name: str) -> None:
    await visit.verb(
        "providers.set", name=name, format=fields.required(visit, "format"),
        base_url=fields.required(visit, "base_url"), catalog=visit.given("catalog"),
    )  # fmt: skip


# --- one provider ---------------------------------------------------------------------------------


async def provider(visit: Visit) -> web.StreamResponse:
    """One of them."""
    return await _shown(visit, visit.request.match_info["name"])


async def _shown(
    visit: Visit, name: str, at: str = "", problem: Problem | None = None
) -> web.Response:
    for line in await lines(visit):
        if line.view["name"] == name:
            break
    else:
        raise Missing(f"there is no provider {name!r}")
    return await visit.render(
        "admin/provider.html", status=200 if problem is None else 400, line=line,
        provider=line.view, path=f"{PATH}/{name}", formats=FORMATS, at=at, problem=problem,
        typed=visit.form, configured=name in visit.site.config.providers,
    )  # fmt: skip


def _form(path: str, doing: Doing) -> Page:
    """A form of a provider's page: what it does, and what is told of it."""

    async def page(visit: Visit) -> web.StreamResponse:
        name = visit.request.match_info["name"]
        try:
            notice = await doing(visit, name)
        except Conflict as exc:
            return await _shown(visit, name, path.rpartition("/")[2], Problem.of(exc))
        return visit.go(notice.path, told=notice)

    handler: Handler = page
    return Page("POST", f"{PATH}/{NAME}/{path}", handler, "admin")


def _told(name: str, text: str) -> Notice:
    return Notice(path=f"{PATH}/{name}", text=text)


async def _pause(visit: Visit, name: str) -> Notice:
    await visit.verb("providers.pause", name=name)
    return _told(name, "Paused: calls to it are answered with 429 until it is resumed.")


async def _resume(visit: Visit, name: str) -> Notice:
    await visit.verb("providers.resume", name=name)
    return _told(name, "Resumed; keys that were set aside get another chance.")


async def _add_key(visit: Visit, name: str) -> Notice:
    key = await visit.verb("providers.add_key", provider=name, key=fields.required(visit, "key"))
    return _told(name, f"Added {key['hint']}. It is kept encrypted, and not shown again.")


async def _change_key(visit: Visit, name: str) -> Notice:
    key_id, do = fields.required(visit, "id"), fields.required(visit, "do")
    if do == "remove":
        await visit.verb("providers.remove_key", id=key_id, provider=name)
        return _told(name, "The key is forgotten.")
    enabled = do == "enable"
    await visit.verb("providers.set_key", id=key_id, enabled=enabled, provider=name)
    return _told(name, "The key is used again." if enabled else "The key is not used any more.")


async def _move(visit: Visit, name: str) -> Notice:
    await _set(visit, name)
    return _told(name, "Saved. Keys are sent to the new address from now on.")


async def _remove(visit: Visit, name: str) -> Notice:
    await visit.verb("providers.remove", name=name)
    if name in visit.site.config.providers:
        return _told(name, "What was set here is forgotten: it is as the configuration says.")
    return Notice(path=PATH, text=f"{name} is removed, with its keys and what was set about it.")


PAGES = (
    Page("GET", PATH, providers, "admin"),
    Page("POST", PATH, add, "admin"),
    Page("GET", f"{PATH}/{NAME}", provider, "admin"),
    _form("pause", _pause),
    _form("resume", _resume),
    _form("keys", _add_key),
    _form("keys/change", _change_key),
    _form("address", _move),
    _form("remove", _remove),
)
