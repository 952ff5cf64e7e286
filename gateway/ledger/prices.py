"""What a request's tokens cost, in integer nano-USD.

Here live the price of a model (`Price`), the sum of one answer (`cost`), the same sum line by line
(`explain`) and the price as a receipt shows it (`shown`). Pure: no catalog, clock or store, and no
float anywhere. Anyone above `wire` may call it; `cost` is on the hot path.

A `Usage` counts parts inside totals (cached tokens inside input, reasoning inside output). A cost
needs the opposite: *disjoint* classes, so that no token is charged twice. `_classes` makes that
split in one place, and the short way through `cost` is the same split for the common answer; a
test holds the two equal.
"""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Literal, get_args

import msgspec

from gateway.ledger.entry import PriceShown
from gateway.wire.neutral import SidePass, Usage

TOKENS_PER_PRICE = 1_000_000
"""A price is for this many tokens."""

NANO_PER_USD = 1_000_000_000

Class = Literal[
    "input",
    "output",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "reasoning",
    "input_audio",
    "cache_read_audio",
    "output_audio",
    "input_image",
    "cache_read_image",
    "output_image",
]
"""A kind of token with a price of its own: the fields of `Price`."""

CLASSES: tuple[Class, ...] = get_args(Class)
"""Every class, in the order in which prices and lines are shown."""

Multiplier = Decimal | str | int
"""An exact factor: "1.2", Decimal("0.5"), 2. A float is refused."""


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nano-USD per million tokens, per class; 2.50 US dollars is 2_500_000_000.

    None means that the vendor has no price of its own for the class, which is not 0. Its tokens
    are then charged as the wider class they belong to: cached and cache-written tokens, audio and
    images as `input` (1 h cache writes as `cache_write` first, cached audio and images as
    `cache_read` first), reasoning and generated audio and images as `output`. `cache_write` is the
    5 minute write where a vendor sells two lifetimes.

    `tiers` are ordered by `above`. The highest tier whose `above` is less than the request's total
    input (cached tokens included) prices the *whole* request, output included, and not only the
    excess: vendors sell long context as a cliff (genai-prices 0.2.3, `TieredPrices`, for Anthropic,
    Google, OpenAI and xAI).
    """

    input: int
    output: int = 0
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    input_audio: int | None = None
    cache_read_audio: int | None = None
    output_audio: int | None = None
    input_image: int | None = None
    cache_read_image: int | None = None
    output_image: int | None = None
    tiers: tuple["Tier", ...] = ()

    def at(self, input_tokens: int) -> "Price":
        """The price that a request with so many input tokens is charged at."""
        price = self
        for tier in self.tiers:
            if input_tokens <= tier.above:
                break
            price = tier.price
        return price


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole price of a request whose input is more than `above` tokens; has no tiers itself."""

    above: int
    price: Price


class Line(msgspec.Struct, frozen=True):
    """One line of a bill: `tokens` of a class at `per_mtok` nano-USD per million.

    `nano_usd` includes the multipliers. `model` is set where the tokens were spent in a side pass
    on another model, `pass_kind` where they were spent in any side pass.
    """

    cls: Class
    tokens: int
    per_mtok: int
    nano_usd: int
    pass_kind: str | None = None
    model: str | None = None


PriceOf = Callable[[str], Price | None]
"""Finds the price of another model by its name, None where it is not known."""


def cost(
    usage: Usage,
    price: Price,
    *,
    rate_multiplier: Multiplier = "1",
    model_multiplier: Multiplier = "1",
    price_of: PriceOf | None = None,
) -> int:
    """Nano-USD of one answer: (Σ tokens × price) / 1e6 × both multipliers, rounded half up once.

    Never negative. Where the counts contradict each other (more cached tokens than input), no more
    tokens are charged than `input_tokens` and `output_tokens` say. Passes of
    `usage.billed_besides` are charged at the price of their own model where `price_of` knows it,
    else at `price`, each by its own tier. Raises ValueError where a multiplier is negative, not a
    finite decimal, or longer than `MULTIPLIER_CHARS_MAX`, TypeError where it is a float.

    0.45 µs for plain usage at multipliers of "1", 0.6 µs with cache reads and writes, 0.2 µs more
    with other multipliers, 7 µs with audio or images (CPython 3.11).
    """
    applied = price.at(usage.input_tokens) if price.tiers else price
    charge = _plain_charge(usage, applied)
    if charge is None:
        charge = sum(tokens * rate for _, tokens, rate in _classes(usage, applied))
    if usage.billed_besides is not None:
        charge += _besides_charge(usage.billed_besides, price, price_of)
    # The product is nano-USD × 1e6 still; only here is anything rounded.
    if rate_multiplier == "1" and model_multiplier == "1":
        return (charge + TOKENS_PER_PRICE // 2) // TOKENS_PER_PRICE
    numerator, denominator = _ratio(rate_multiplier, model_multiplier)
    return _half_up(charge * numerator, denominator * TOKENS_PER_PRICE)


def explain(
    usage: Usage,
    price: Price,
    *,
    rate_multiplier: Multiplier = "1",
    model_multiplier: Multiplier = "1",
    price_of: PriceOf | None = None,
) -> list[Line]:
    """The same sum as `cost`, one line per class that has tokens; the lines add up to it exactly.

    A line alone need not be a whole nano-USD. Each is rounded down, and what is then missing to
    the total goes one by one to the lines that lost most, so that no line is off by a whole unit.
    Raises as `cost` does.
    """
    charged: list[tuple[Class, int, int, str | None, str | None]] = [
        (cls, tokens, rate, None, None)
        for cls, tokens, rate in _classes(usage, price.at(usage.input_tokens))
    ]
    for side in usage.billed_besides or ():
        side_price = _side_price(side, price, price_of)
        charged.extend(
            (cls, tokens, rate, side.kind, side.model)
            for cls, tokens, rate in _classes(_side_usage(side), side_price)
        )
    charged = [line for line in charged if line[1]]
    numerator, denominator = _ratio(rate_multiplier, model_multiplier)
    denominator *= TOKENS_PER_PRICE
    exact = [tokens * rate * numerator for _, tokens, rate, _, _ in charged]
    nano = [part // denominator for part in exact]
    missing = _half_up(sum(exact), denominator) - sum(nano)
    by_loss = sorted(range(len(exact)), key=lambda index: -(exact[index] % denominator))
    for index in by_loss[:missing]:
        nano[index] += 1
    return [
        Line(cls, tokens, rate, nano_usd, pass_kind, model)
        for (cls, tokens, rate, pass_kind, model), nano_usd in zip(charged, nano, strict=True)
    ]


def shown(price: Price, version: str, *, input_tokens: int = 0) -> PriceShown:
    """The price as a receipt shows it: class -> US dollars per million tokens, as text.

    Names are `input_per_mtok`, `output_per_mtok`, `cache_read_per_mtok`, …; only classes with a
    price of their own appear. Where the price has tiers, `input_tokens` picks the one charged.
    """
    applied = price.at(input_tokens)
    per_mtok: dict[str, str] = {}
    for cls in CLASSES:
        rate = _rate(applied, cls)
        if rate is not None:
            per_mtok[f"{cls}_per_mtok"] = usd_text(rate)
    return PriceShown(version, per_mtok)


def usd_text(nano_usd: int) -> str:
    """US dollars as text with two decimals, or as many more as are needed: "2.50", "0.0028"."""
    dollars, rest = divmod(abs(nano_usd), NANO_PER_USD)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano_usd < 0 else ''}{dollars}.{decimals}"


def nano_from_text(usd: str) -> int:
    """Nano-USD of a plain decimal amount of US dollars, such as "2.50".

    Raises ValueError where it is not one, is negative, or has more than nine decimals.
    """
    whole, dot, decimals = usd.partition(".")
    digits = whole + decimals
    if not (digits.isascii() and digits.isdigit() and whole) or bool(dot) != bool(decimals):
        raise ValueError(f"not a plain decimal amount: {usd!r}")
    if len(decimals) > 9:
        raise ValueError(f"more than nine decimals: {usd!r}")
    return int(whole) * NANO_PER_USD + int(decimals.ljust(9, "0"))


def _plain_charge(usage: Usage, price: Price) -> int | None:
    """The charge (nano-USD × 1e6) of text with its caching, or None where `_classes` must split.

    Nearly every answer ends here; the full split takes 6 µs. Anything unusual (a count that
    contradicts another, a modality with tokens, reasoning with a price of its own) is left to it.
    """
    total_in = usage.input_tokens
    total_out = usage.output_tokens
    read = usage.cache_read_input_tokens or 0
    write = usage.cache_creation_input_tokens or 0
    write_1h = usage.cache_write_1h or 0
    if (
        total_out < 0
        or read < 0
        or not 0 <= write_1h <= write
        or read + write > total_in
        or (write == 0 and usage.cache_write_5m)
        or usage.input_audio_tokens
        or usage.output_audio_tokens
        or usage.input_image_tokens
        or usage.output_image_tokens
        or (price.reasoning is not None and usage.reasoning_tokens)
    ):
        return None
    charge = (total_in - read - write) * price.input + total_out * price.output
    if read:
        charge += read * (price.input if price.cache_read is None else price.cache_read)
    if write:
        rate = price.input if price.cache_write is None else price.cache_write
        charge += (write - write_1h) * rate
        charge += write_1h * (rate if price.cache_write_1h is None else price.cache_write_1h)
    return charge


def _classes(usage: Usage, price: Price) -> list[tuple[Class, int, int]]:
    """Every token once: (class, tokens, nano-USD per million). `price` is the tier's.

    Providers do not say which of the cached tokens were audio or images. Text is taken to be
    what was cached, and only what cannot have been fresh counts as cached audio or images.
    """
    total_in = max(usage.input_tokens, 0)
    read = _part(usage.cache_read_input_tokens, total_in)
    written = usage.cache_creation_input_tokens
    if written is None:
        written = max(usage.cache_write_5m or 0, 0) + max(usage.cache_write_1h or 0, 0)
    write = _part(written, total_in - read)
    write_1h = _part(usage.cache_write_1h, write)
    fresh = total_in - read - write
    taken: dict[Class, int] = {"cache_write": write - write_1h, "cache_write_1h": write_1h}

    audio = 0 if price.input_audio is None else _part(usage.input_audio_tokens, fresh + read)
    image = 0 if price.input_image is None else _part(usage.input_image_tokens, fresh + read)
    taken["input_audio"] = _part(audio, fresh)
    fresh -= taken["input_audio"]
    taken["cache_read_audio"] = _part(audio - taken["input_audio"], read)
    read -= taken["cache_read_audio"]
    taken["input_image"] = _part(image, fresh)
    taken["cache_read_image"] = _part(image - taken["input_image"], read)
    taken["input"] = fresh - taken["input_image"]
    taken["cache_read"] = read - taken["cache_read_image"]

    out = max(usage.output_tokens, 0)
    outgoing: tuple[tuple[Class, int | None], ...] = (
        ("output_audio", usage.output_audio_tokens),
        ("output_image", usage.output_image_tokens),
        ("reasoning", usage.reasoning_tokens),
    )
    for cls, reported in outgoing:
        taken[cls] = 0 if _rate(price, cls) is None else _part(reported, out)
        out -= taken[cls]
    taken["output"] = out
    return [(cls, taken[cls], _charged_rate(price, cls)) for cls in CLASSES]


def _part(reported: int | None, whole: int) -> int:
    """`reported`, held between 0 and the whole it is a part of."""
    return min(max(reported or 0, 0), whole)


_WIDER: dict[Class, Class] = {
    "cache_read": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "reasoning": "output",
    "input_audio": "input",
    "cache_read_audio": "cache_read",
    "output_audio": "output",
    "input_image": "input",
    "cache_read_image": "cache_read",
    "output_image": "output",
}


def _rate(price: Price, cls: Class) -> int | None:
    rate: int | None = getattr(price, cls)
    return rate


def _charged_rate(price: Price, cls: Class) -> int:
    """The class's own price, else that of the wider class its tokens belong to."""
    rate = _rate(price, cls)
    while rate is None:
        cls = _WIDER[cls]
        rate = _rate(price, cls)
    return rate


def _side_usage(side: SidePass) -> Usage:
    return Usage(
        input_tokens=side.input_tokens,
        output_tokens=side.output_tokens,
        cache_read_input_tokens=side.cache_read_input_tokens,
        cache_creation_input_tokens=side.cache_creation_input_tokens,
        cache_write_5m=side.cache_write_5m,
        cache_write_1h=side.cache_write_1h,
    )


def _side_price(side: SidePass, price: Price, price_of: PriceOf | None) -> Price:
    own = None
    if side.model is not None and price_of is not None:
        own = price_of(side.model)
    return (price if own is None else own).at(side.input_tokens)


def _besides_charge(sides: list[SidePass], price: Price, price_of: PriceOf | None) -> int:
    return sum(
        tokens * rate
        for side in sides
        for _, tokens, rate in _classes(_side_usage(side), _side_price(side, price, price_of))
    )


MULTIPLIER_CHARS_MAX = 32
"""Bounds the integers that a multiplier can make: "1e999999999" would need gigabytes."""


@lru_cache(maxsize=1024, typed=True)
def _ratio(rate_multiplier: Multiplier, model_multiplier: Multiplier) -> tuple[int, int]:
    """Both multipliers as one exact fraction. Few pairs exist, and parsing one takes 5 µs."""
    product = exact(rate_multiplier) * exact(model_multiplier)
    return product.numerator, product.denominator


def exact(multiplier: Multiplier) -> Fraction:
    """A multiplier as a fraction; ValueError or TypeError where it is none (see `cost`)."""
    if isinstance(multiplier, float):
        raise TypeError("a multiplier is exact: a string, a Decimal or an int, not a float")
    if isinstance(multiplier, Decimal):
        exponent = multiplier.as_tuple().exponent
        if not isinstance(exponent, int) or abs(exponent) > MULTIPLIER_CHARS_MAX:
            raise ValueError("a multiplier is a plain decimal, 0 or more")
        text = format(multiplier, "f")
    else:
        text = str(multiplier)
    digits = text.replace(".", "", 1)
    if len(text) > MULTIPLIER_CHARS_MAX or not (digits.isascii() and digits.isdecimal()):
        raise ValueError(f"a multiplier is a plain decimal, 0 or more: {text[:40]!r}")
    return Fraction(text)


def _half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
