"""`/docs/pricing`: every model that can be called here, and what its tokens cost.

Prices are those that a key of this server is billed, before its user's own multiplier. The page is
bounded: a search (`q`) finds what is beyond its rows.
"""

import asyncio
from decimal import Decimal
from typing import NamedTuple

from aiohttp import web

from gateway.api.models import Listed, billed_price, offered
from gateway.ledger.prices import CLASSES, NANO_PER_USD, Class, Price
from gateway.web.docs import rendered
from gateway.web.site import Page, Visit

ROWS_MAX = 600
"""Of one page."""

QUERY_CHARS_MAX = 200

WORDS: dict[Class, str] = {
    "input": "in",
    "output": "out",
    "cache_read": "cached",
    "cache_write": "cache write",
    "cache_write_1h": "cache write, 1 h",
    "reasoning": "reasoning",
    "input_audio": "audio in",
    "cache_read_audio": "cached audio",
    "output_audio": "audio out",
    "input_image": "images in",
    "cache_read_image": "cached images",
    "output_image": "images out",
}
assert tuple(WORDS) == CLASSES

_AT_ONCE = 40
"""Prices worked out before other work has its turn: about 0.5 ms."""

_IN_COLUMNS: tuple[Class, ...] = ("input", "output", "cache_read", "cache_write")


class Row(NamedTuple):
    """A model as the page shows it. Prices are US dollars per million tokens; None: none of its
    own. `more` are the classes without a column, `tiers` the prices above so many tokens in.
    """

    id: str
    provider: str
    alias: bool
    name: str
    kind: str
    deprecated: bool
    columns: tuple[Decimal | None, ...]
    more: tuple[tuple[str, Decimal], ...]
    tiers: tuple[tuple[int, tuple[tuple[str, Decimal], ...]], ...]
    context_length: int | None
    max_output_tokens: int | None


async def pricing(visit: Visit) -> web.StreamResponse:
    """The list, or what `q` finds of it."""
    query = visit.asked("q")[:QUERY_CHARS_MAX]
    rows, found, total = await _rows(visit, query)
    catalog = visit.site.services.router.catalog
    return await rendered(
        visit, rows=rows, found=found, total=total, query=query, catalog_date=catalog.date,
    )  # fmt: skip


async def _rows(visit: Visit, query: str) -> tuple[list[Row], int, int]:
    """The first rows that have all words of the query; how many have; how many there are."""
    words = query.lower().split()
    rows: list[Row] = []
    found = total = 0
    for total, one in enumerate(offered(visit.site.services, "1"), 1):
        if total % _AT_ONCE == 0:
            await asyncio.sleep(0)
        text = f"{one.id} {one.model.name} {one.owned_by} {one.model.provider} {one.model.kind}"
        text = text.lower()
        if all(word in text for word in words):
            found += 1
            if len(rows) < ROWS_MAX:
                rows.append(_row(one))
    return rows, found, total


def _row(one: Listed) -> Row:
    model = one.model
    price = billed_price(model.price, one.multiplier)
    alias = one.owned_by == "gateway"
    return Row(
        id=one.id,
        provider=model.provider if alias else one.owned_by,
        alias=alias,
        name=model.id if alias else model.name,
        kind=model.kind,
        deprecated=model.deprecated,
        columns=tuple(_shown(price, cls) for cls in _IN_COLUMNS),
        more=_classes(price, except_for=_IN_COLUMNS),
        tiers=tuple((tier.above, _classes(tier.price, except_for=())) for tier in price.tiers),
        context_length=model.context_length,
        max_output_tokens=model.max_output_tokens,
    )


def _classes(price: Price, except_for: tuple[Class, ...]) -> tuple[tuple[str, Decimal], ...]:
    """The classes with a price of their own, in words."""
    return tuple(
        (words, value)
        for cls, words in WORDS.items()
        if cls not in except_for and (value := _shown(price, cls)) is not None
    )


def _shown(price: Price, cls: Class) -> Decimal | None:
    nano_usd: int | None = getattr(price, cls)
    if nano_usd is None or (cls == "output" and nano_usd == 0 and price.input):
        return None  # an embedding has no output to charge for
    return Decimal(nano_usd) / NANO_PER_USD


PAGES = (Page("GET", "/docs/pricing", pricing, "anyone"),)
