"""A charge, line by line: how a receipt's amount follows from its tokens and its price. Pure.

The lines are made from what the receipt says, not from today's prices. Products of tokens and
prices can be finer than a nano-dollar: they are shown as they are, and the sum is rounded once,
half up, as it was when it was charged. Where the lines do not give the amount (side passes on other
models, whose prices a receipt does not keep), `agrees` is False and the page says so.
"""

from decimal import Decimal, localcontext

import msgspec

from gateway.ledger import prices
from gateway.ledger.entry import Entry
from gateway.ledger.prices import CLASSES, Class, Price

NAMES: dict[Class, str] = {
    "input": "Input",
    "output": "Output",
    "cache_read": "Input read from cache",
    "cache_write": "Input written to cache",
    "cache_write_1h": "Input written to cache for 1 h",
    "reasoning": "Reasoning",
    "input_audio": "Input audio",
    "cache_read_audio": "Input audio read from cache",
    "output_audio": "Output audio",
    "input_image": "Input images",
    "cache_read_image": "Input images read from cache",
    "output_image": "Output images",
}

_DIGITS = 120
"""Enough to be exact: 19 digits of tokens, 19 of a price, 32 of each factor."""


class Line(msgspec.Struct, frozen=True):
    """One class of tokens: `amount` is tokens × price in US dollars, exact."""

    name: str
    tokens: int
    per_mtok: str
    amount: str


class Bill(msgspec.Struct, frozen=True):
    """The lines and what they come to. `agrees` is whether that is what the receipt says.

    `subtotal` is the sum of the lines, `exact` that times both multipliers, before rounding;
    amounts are US dollars as text, `nano_usd` is the rounded charge.
    """

    lines: list[Line]
    subtotal: str
    exact: str
    nano_usd: int
    agrees: bool


def bill_of(entry: Entry) -> Bill | None:
    """The arithmetic of a receipt; None where nothing was counted or no price was known."""
    usage, shown = entry.usage, entry.price
    if usage is None or shown is None:
        return None
    rates = {
        cls: prices.nano_from_text(text)
        for cls in CLASSES
        if (text := shown.per_mtok.get(f"{cls}_per_mtok")) is not None
    }
    if "input" not in rates:
        return None
    price = msgspec.convert(rates, Price)
    with localcontext() as exactly:
        exactly.prec = _DIGITS
        lines: list[Line] = []
        subtotal = Decimal(0)
        for line in prices.explain(usage, price):
            amount = Decimal(line.tokens) * line.per_mtok / Decimal(10**15)
            subtotal += amount
            name = NAMES[line.cls]
            if line.pass_kind is not None:
                name = f"{name} ({line.pass_kind}{f', {line.model}' if line.model else ''})"
            rate = prices.usd_text(line.per_mtok)
            lines.append(Line(name, line.tokens, rate, _text(amount)))
        factors = Decimal(entry.rate_multiplier) * Decimal(entry.model_multiplier)
        exact = subtotal * factors
    nano_usd = prices.cost(
        usage, price, rate_multiplier=entry.rate_multiplier,
        model_multiplier=entry.model_multiplier,
    )  # fmt: skip
    agrees = nano_usd == entry.cost_nano_usd
    return Bill(lines, _text(subtotal), _text(exact), nano_usd, agrees)


def _text(amount: Decimal) -> str:
    whole, _, decimals = format(amount, "f").partition(".")
    return f"{int(whole):,}.{decimals.rstrip('0').ljust(2, '0')}"
