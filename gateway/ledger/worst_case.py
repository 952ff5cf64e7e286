"""What a request can cost at most: how much is held of a balance before it is sent.

An upper bound of `prices.cost` for every answer within the request's `Demand`: the most tokens that
can go in and come out, each at the dearest class that can apply, at the dearest tier that can be
reached. The sum itself is `prices.cost`'s, so both round alike. Pure, integer nano-USD; called by
admission for the first target and again, with the same demand, for each further one.

Not bounded: what a vendor charges besides tokens (`Model.charges_besides`), side passes, input that
a provider reads several times over in tools or modes of its own, reasoning that a vendor does not
count towards the limit on output (xAI), and output beyond `default_output` where the request names
no limit.
"""

from gateway.ledger.catalog import Model
from gateway.ledger.prices import TOKENS_PER_PRICE, Multiplier, Price, cost
from gateway.wire.neutral import Demand, Usage

IMAGE_TOKENS = 50_000
"""The most tokens of one image: gpt-4o-mini's 2,833 + 8 tiles of 5,667, or 48,169 (OpenAI, "Images
and vision", November 2026). Anthropic and Gemini stay below 5,000."""

CONTEXT_TOKENS_UNKNOWN = 1_048_576
"""Stands in for a context length that the catalog does not know: as long as common ones get."""

OUTPUT_TOKENS_MAX = 1_048_576
"""The most that `fitting_output` offers where nothing else bounds it."""


def worst_case(
    demand: Demand,
    model: Model,
    *,
    default_output: int,
    rate_multiplier: Multiplier = "1",
    model_multiplier: Multiplier = "1",
) -> int:
    """The most that a request can cost at a model, in nano-USD.

    `default_output` stands in for a limit on output tokens that the request does not name. Raises
    for a multiplier as `prices.cost` does. 1.6 µs for text at a price without tiers.
    """
    output = demand.max_output_tokens
    each = _bounded_output(default_output if output is None else output, model)
    tokens = input_tokens(demand, model), each * demand.choices
    # Without tiers there is nothing dearer: a call less for nearly every request.
    priced = _dearest if model.price.tiers else _flat
    return priced(demand, model.price, tokens, rate_multiplier, model_multiplier)


def fitting_output(
    demand: Demand,
    model: Model,
    cap_nano_usd: int,
    *,
    rate_multiplier: Multiplier = "1",
    model_multiplier: Multiplier = "1",
) -> int:
    """The most output tokens (of each answer) whose worst case is within a cap; 0 if none fits.

    Whatever limit the request names itself does not count. Never more than the model makes, or
    `OUTPUT_TOKENS_MAX` where that is not known.
    """
    incoming = input_tokens(demand, model)

    def fits(each: int) -> bool:
        tokens = (incoming, each * demand.choices)
        worst = _dearest(demand, model.price, tokens, rate_multiplier, model_multiplier)
        return worst <= cap_nano_usd

    most = _bounded_output(OUTPUT_TOKENS_MAX, model)
    if fits(most):
        return most
    least = 0
    while most - least > 1:  # `least` fits or is 0, `most` does not
        middle = (least + most) // 2
        if fits(middle):
            least = middle
        else:
            most = middle
    return least


def input_tokens(demand: Demand, model: Model) -> int:
    """The most tokens that can go in."""
    context = model.context_length
    held = (
        demand.input_bytes
        - demand.image_bytes
        + demand.images * IMAGE_TOKENS
        + demand.template_tokens
    )
    if demand.unbounded:
        bound = CONTEXT_TOKENS_UNKNOWN if context is None else context
        return max(bound, held) if demand.separate or context is None else bound
    return held if context is None or demand.separate else min(held, context)


def _bounded_output(tokens: int, model: Model) -> int:
    longest, context = model.max_output_tokens, model.context_length
    if longest is not None and longest < tokens:
        tokens = longest
    return tokens if context is None or tokens <= context else context


def _dearest(
    demand: Demand,
    price: Price,
    tokens: tuple[int, int],
    rate_multiplier: Multiplier,
    model_multiplier: Multiplier,
) -> int:
    """The cost of so many tokens in and out, at the dearest tier that fewer can reach as well."""
    incoming, outgoing = tokens
    tiers = price.tiers
    if not tiers or incoming <= tiers[0].above:
        return _flat(demand, price, tokens, rate_multiplier, model_multiplier)
    reached = [tier for tier in tiers if tier.above < incoming]
    # In each but the last at most as many tokens go in as are not yet in the next.
    tops = [tier.above for tier in reached] + [incoming]
    applied = [price] + [tier.price for tier in reached]
    return max(
        _flat(demand, one, (top, outgoing), rate_multiplier, model_multiplier)
        for one, top in zip(applied, tops, strict=True)
    )


def _flat(
    demand: Demand,
    price: Price,
    tokens: tuple[int, int],
    rate_multiplier: Multiplier,
    model_multiplier: Multiplier,
) -> int:
    rates = _input_rate(price, demand), _output_rate(price, demand)
    if rate_multiplier == "1" and model_multiplier == "1":
        # What `cost` comes to for two plain classes, in a fifth of its time.
        charge = tokens[0] * rates[0] + tokens[1] * rates[1]
        return (charge + TOKENS_PER_PRICE // 2) // TOKENS_PER_PRICE
    return cost(
        Usage(tokens[0], tokens[1]),
        Price(*rates),
        rate_multiplier=rate_multiplier,
        model_multiplier=model_multiplier,
    )


def _input_rate(price: Price, demand: Demand) -> int:
    rate, read = price.input, price.cache_read
    if read is not None and read > rate:
        rate = read
    if demand.cache_write is not None:
        rate = _dearer(rate, price.cache_write)
        if demand.cache_write == "1h":
            rate = _dearer(rate, price.cache_write_1h)
    if demand.input_audio:
        rate = _dearer(_dearer(rate, price.input_audio), price.cache_read_audio)
    if demand.input_image:
        rate = _dearer(_dearer(rate, price.input_image), price.cache_read_image)
    return rate


def _output_rate(price: Price, demand: Demand) -> int:
    rate, reasoning = price.output, price.reasoning
    audio, image = price.output_audio, price.output_image
    if reasoning is not None and reasoning > rate:
        rate = reasoning
    if audio is not None and demand.output_audio and audio > rate:
        rate = audio
    if image is not None and demand.output_image and image > rate:
        rate = image
    return rate


def _dearer(rate: int, other: int | None) -> int:
    return rate if other is None or other <= rate else other
