"""The models lists in three shapes, priced as this caller is billed.

OpenAI's shape by default, Anthropic's where `anthropic-version` was sent, Gemini's under
`/v1beta` (shapes: platform.openai.com/docs/api-reference/models, docs.anthropic.com/en/api/
models-list, ai.google.dev/api/models, read 2026-08). A gateway key sees the operator's aliases and
the models of active providers, less those that are disabled; a caller's own key those of the
provider that owns the format. An alias has the price of the target that stands first.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import msgspec
import orjson
from aiohttp import web

from gateway.api.callers import PROXY, caller_of, family_of, json_answer
from gateway.config import Family
from gateway.errors import GatewayError
from gateway.ledger.catalog import Model
from gateway.ledger.prices import CLASSES, Price, shown
from gateway.proxy.handler import Proxy
from gateway.proxy.routing import Router, Target
from gateway.proxy.services import Caller, Services

PAGE_MAX = 1000


class Listed(msgspec.Struct, frozen=True):
    """One name that can be called, what stands behind it, and the factor on its list price."""

    id: str
    owned_by: str
    model: Model
    multiplier: Decimal


async def listing(request: web.Request) -> web.Response:
    """All models that this caller can call in this format."""
    caller, family = caller_of(request), family_of(request)
    router = request.app[PROXY].services.router
    created = _created(router)
    found = list(_callable(request.app[PROXY], caller, family))
    if family == "anthropic":
        return json_answer(orjson.dumps(_anthropic_page(found, request, created)))
    if family == "gemini":
        return json_answer(orjson.dumps(_gemini_page(found, request)))
    data = [_openai(one, created) for one in found]
    return json_answer(orjson.dumps({"object": "list", "data": data}))


async def show(request: web.Request) -> web.Response:
    """One model by the name that the caller uses."""
    caller, family = caller_of(request), family_of(request)
    created = _created(request.app[PROXY].services.router)
    name = unquote(request.match_info["id"])
    for one in _callable(request.app[PROXY], caller, family):
        if one.id == name:
            if family == "anthropic":
                return json_answer(orjson.dumps(_anthropic(one, created)))
            if family == "gemini":
                return json_answer(orjson.dumps(_gemini(one)))
            return json_answer(orjson.dumps(_openai(one, created)))
    raise GatewayError("not_found", f"No such model: {name[:200]}", param="model")


def offered(services: Services, multiplier: str, family: Family = "openai") -> Iterator[Listed]:
    """The names that a user's keys can call in a format, each once: aliases first.

    `multiplier` is the user's own factor on every price.
    """
    seen: set[str] = set()
    for one in _offered(services, multiplier, family):
        if one.id not in seen:
            seen.add(one.id)
            yield one


def _callable(proxy: Proxy, caller: Caller, family: Family) -> Iterator[Listed]:
    if caller.key is None:
        yield from _own(proxy.services.router, family)
        return
    allowed = None if caller.key.models is None else set(caller.key.models)
    for one in offered(proxy.services, caller.multiplier, family):
        if allowed is None or one.id in allowed:
            yield one


def _own(router: Router, family: Family) -> Iterator[Listed]:
    provider, base = router.owner(family, None)
    seen: set[str] = set()
    for model in router.catalog.models(provider.catalog_name):
        if model.id not in seen:
            seen.add(model.id)
            known = router.known(Target(provider, base, model.id))
            yield Listed(model.id, provider.name, known or model, Decimal(1))


def _offered(services: Services, multiplier: str, family: Family) -> Iterator[Listed]:
    router = services.router
    rate = Decimal(multiplier)
    for alias in services.config.models:
        try:
            target = router.route(alias, family, None).targets[0]
        except GatewayError:
            continue  # not callable in this format, or no key: not listed
        known = router.known(target)
        if known is not None:
            yield Listed(alias, "gateway", known, rate * Decimal(router.multiplier(target)))
    for provider in services.providers.values():
        if provider.active and (family == "openai" or family in provider.bases):
            for offer in router.offers(provider):
                factor = rate * Decimal(offer.multiplier)
                yield Listed(offer.id, provider.name, offer.model, factor)


def billed_price(price: Price, factor: Decimal) -> Price:
    """A price times its multipliers, per class, to the nano-dollar: what a caller pays."""
    if factor == 1:
        return price
    changed: dict[str, Any] = {
        name: int((Decimal(rate) * factor).to_integral_value())
        for name in CLASSES
        if (rate := getattr(price, name)) is not None
    }
    tiers = tuple(
        msgspec.structs.replace(tier, price=billed_price(tier.price, factor))
        for tier in price.tiers
    )
    return msgspec.structs.replace(price, **changed, tiers=tiers)


def _pricing(model: Model, factor: Decimal) -> dict[str, Any]:
    price = billed_price(model.price, factor)
    first = shown(price, model.price_version)
    pricing: dict[str, Any] = {"currency": "USD", **first.per_mtok, "version": first.version}
    if price.tiers:
        pricing["tiers"] = [
            {
                "above_input_tokens": tier.above,
                **shown(price, model.price_version, input_tokens=tier.above + 1).per_mtok,
            }
            for tier in price.tiers
        ]
    return pricing


def _created(router: Router) -> datetime:
    return datetime.fromisoformat(str(router.catalog.date)).replace(tzinfo=UTC)


def _openai(one: Listed, created: datetime) -> dict[str, Any]:
    model = one.model
    return {
        "id": one.id,
        "object": "model",
        "created": int(created.timestamp()),
        "owned_by": one.owned_by,
        "name": model.name,
        "context_length": model.context_length,
        "max_output_tokens": model.max_output_tokens,
        "pricing": _pricing(model, one.multiplier),
    }


def _anthropic(one: Listed, created: datetime) -> dict[str, Any]:
    return {
        "type": "model",
        "id": one.id,
        "display_name": one.model.name,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "max_input_tokens": one.model.context_length,
        "max_tokens": one.model.max_output_tokens,
        "lifecycle": "deprecated" if one.model.deprecated else "active",
    }


def _anthropic_page(found: list[Listed], request: web.Request, created: datetime) -> dict[str, Any]:
    limit = _count(request.query.get("limit", "20"), "limit")
    ids = [one.id for one in found]
    if (after := request.query.get("after_id")) in ids:
        found = found[ids.index(after or "") + 1 :]
    elif (before := request.query.get("before_id")) in ids:
        found = found[: ids.index(before or "")][-limit:]
    page = found[:limit]
    return {
        "data": [_anthropic(one, created) for one in page],
        "has_more": len(found) > limit,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


_METHODS = {"embedding": ["embedContent", "batchEmbedContents"]}


def _gemini(one: Listed) -> dict[str, Any]:
    model = one.model
    return {
        "name": f"models/{one.id}",
        "version": model.price_version,
        "displayName": model.name,
        "inputTokenLimit": model.context_length,
        "outputTokenLimit": model.max_output_tokens,
        "supportedGenerationMethods": _METHODS.get(
            model.kind, ["generateContent", "streamGenerateContent", "countTokens"]
        ),
    }


def _gemini_page(found: list[Listed], request: web.Request) -> dict[str, Any]:
    size = _count(request.query.get("pageSize", "50"), "pageSize")
    token = request.query.get("pageToken", "")
    ids = [one.id for one in found]
    start = ids.index(token) + 1 if token in ids else 0
    page = found[start : start + size]
    answer: dict[str, Any] = {"models": [_gemini(one) for one in page]}
    if len(found) > start + size:
        answer["nextPageToken"] = page[-1].id
    return answer


def _count(text: str, name: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= PAGE_MAX:
        return int(text)
    raise GatewayError("invalid_request", f"{name} must be from 1 to {PAGE_MAX}", param=name)
