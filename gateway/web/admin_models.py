"""Admin: the catalog's models at each provider, one of them with what is set about it, and names.

A model's name may hold any character, so it stands in the query and in the form, not in the path.
"""

from typing import Any, NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from gateway.admin.model_verbs import model_names, model_view
from gateway.admin.provider_verbs import known_providers, require_provider
from gateway.admin.views import ModelView
from gateway.errors import Conflict, Missing
from gateway.ledger.prices import CLASSES, shown
from gateway.web import fields
from gateway.web.site import Notice, Page, Problem, Visit

PATH = "/dashboard/admin/models"
TEXT_CHARS_MAX = 200
ROWS = 50
ALIASES_SHOWN = 200


class Found(NamedTuple):
    """A page of models, of `fitting` ones; `further` is where the next begins."""

    rows: list[ModelView]
    further: int | None
    complete: bool
    fitting: int


def _plain(name: str) -> str:
    return name.lower().removeprefix("models/")


async def models(visit: Visit) -> web.StreamResponse:
    """The models of all providers or of one, searched by name; and what a name stands for."""
    context = visit.site.context
    provider, changed = visit.asked("provider"), visit.asked("changed") != ""
    text, above = visit.asked("q")[:TEXT_CHARS_MAX], fields.row(visit, "above") or 0
    known = list(known_providers(context))
    wanted = [name for name in known if provider in ("", name)]
    return await visit.render(
        "admin/models.html",
        found=_find(visit, wanted, text, changed=changed, above=above),
        providers=known,
        provider=provider,
        text=text,
        above=above,
        changed=changed,
        aliases=list(visit.site.config.models.items())[:ALIASES_SHOWN],
        patterns=list(visit.site.config.model_map.items())[:ALIASES_SHOWN],
        name=visit.asked("name"),
        meaning=await _meaning(visit, visit.asked("name")),
    )


def _find(visit: Visit, providers: list[str], text: str, *, changed: bool, above: int) -> Found:
    """What fits, of the few thousand models that a catalog has: names only, until a page is full.

    1 ms for a thousand.
    """
    context = visit.site.context
    words = text.lower().split()
    set_about = {(of, _plain(name)) for of, name in context.upstreams.models}
    fitting = [
        (provider, model)
        for provider in providers
        for model in model_names(context, provider)
        if all(word in f"{provider}/{model}".lower() for word in words)
        and (not changed or (provider, _plain(model)) in set_about)
    ]
    page = fitting[above : above + ROWS]
    end = above + len(page)
    return Found(
        [model_view(context, *pair) for pair in page],
        end if end < len(fitting) else None,
        True,
        len(fitting),
    )


async def _meaning(visit: Visit, name: str) -> dict[str, Any] | None:
    if not name:
        return None
    try:
        meaning: dict[str, Any] = await visit.verb("models.show", name=name)
    except Missing:
        return {"targets": []}
    return meaning


async def model(visit: Visit) -> web.StreamResponse:
    """One model of a provider."""
    return await _shown(visit, visit.asked("provider"), visit.asked("model"))


async def _shown(
    visit: Visit, provider: str, name: str, problem: Problem | None = None
) -> web.Response:
    context = visit.site.context
    require_provider(context, provider)
    view = model_view(context, provider, name)
    if view.price is None and view.settings is None and name not in model_names(context, provider):
        raise Missing(f"{provider} has no model {name!r} in the catalog")
    known = context.catalog().find(_catalog_name(context, provider), name)
    listed = {} if known is None else shown(known.price, known.price_version).per_mtok
    return await visit.render(
        "admin/model.html",
        status=200 if problem is None else 400,
        model=view,
        settings=view.settings,
        provider=provider,
        name=name,
        known=known,
        classes=[(one, listed.get(f"{one}_per_mtok")) for one in CLASSES],
        problem=problem,
        typed=None if problem is None else visit.form,
    )


def _catalog_name(context: Any, provider: str) -> str:
    configured, settings = known_providers(context)[provider]
    return settings.catalog or (configured.catalog if configured else None) or provider


async def change(visit: Visit) -> web.StreamResponse:
    """Set its price, its factor, its bounds; or turn it off."""
    provider, name = fields.required(visit, "provider"), fields.required(visit, "model")
    try:
        price = {
            one: text
            for one in CLASSES
            if (text := fields.dollars(visit, f"price_{one}")) is not None
        }
        await visit.verb(
            "models.set", provider=provider, model=name,
            enabled=visit.given("enabled") is not None,
            multiplier=visit.given("multiplier") or "1", price=price or None,
            context_length=fields.whole(visit, "context_length"),
            max_output_tokens=fields.whole(visit, "max_output_tokens"),
        )  # fmt: skip
    except Missing:
        raise
    except Conflict as exc:
        return await _shown(visit, provider, name, Problem.of(exc))
    return _done(visit, provider, name, "Saved. It holds from the next request on.")


async def unset(visit: Visit) -> web.StreamResponse:
    """Back to what the catalog says."""
    provider, name = fields.required(visit, "provider"), fields.required(visit, "model")
    await visit.verb("models.unset", provider=provider, model=name)
    return _done(visit, provider, name, "It is as the catalog says again.")


def _done(visit: Visit, provider: str, name: str, text: str) -> web.Response:
    query = urlencode({"provider": provider, "model": name})
    return visit.go(f"{PATH}/one?{query}", told=Notice(path=f"{PATH}/one", text=text))


PAGES = (
    Page("GET", PATH, models, "admin"),
    Page("GET", PATH + "/one", model, "admin"),
    Page("POST", PATH + "/one", change, "admin"),
    Page("POST", PATH + "/unset", unset, "admin"),
)
