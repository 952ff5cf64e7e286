"""The worst case bounds every cost that a request can have, and what fits a cap is the most."""

from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.ledger import prices
from gateway.ledger.catalog import Catalog, Model
from gateway.ledger.prices import Price, Tier, cost
from gateway.ledger.worst_case import (
    CONTEXT_TOKENS_UNKNOWN,
    IMAGE_TOKENS,
    OUTPUT_TOKENS_MAX,
    fitting_output,
    worst_case,
)
from gateway.wire.neutral import Demand, Usage

USD = prices.NANO_PER_USD


def model(
    price: Price, context_length: int | None = None, max_output_tokens: int | None = None
) -> Model:
    return Model(
        provider="p", id="m", name="M", kind="chat", price=price, price_version="v",
        context_length=context_length, max_output_tokens=max_output_tokens,
    )  # fmt: skip


RATE = st.integers(0, 10**12)
CLASSES = {name: st.none() | RATE for name in prices.CLASSES if name not in ("input", "output")}
FLAT = st.builds(Price, input=RATE, output=RATE, **CLASSES)
TIERED = st.builds(
    lambda first, aboves, others: Price(
        **{name: getattr(first, name) for name in prices.CLASSES},
        tiers=tuple(map(Tier, sorted(aboves), others)),
    ),
    FLAT,
    st.sets(st.integers(0, 4000), max_size=3),
    st.lists(FLAT, min_size=3, max_size=3),
)
LENGTH = st.none() | st.integers(1, 3000)
MODELS = st.builds(model, FLAT | TIERED, LENGTH, LENGTH)
PART = st.none() | st.integers(0, 5000)
DEMANDS = st.builds(
    Demand,
    input_bytes=st.integers(0, 3000),
    max_output_tokens=st.none() | st.integers(0, 3000),
    choices=st.integers(1, 4),
    unbounded=st.booleans(),
    separate=st.booleans(),
    images=st.sampled_from([0, 0, 1]),
    template_tokens=st.integers(0, 300),
    input_audio=st.booleans(),
    input_image=st.booleans(),
    output_audio=st.booleans(),
    output_image=st.booleans(),
    cache_write=st.sampled_from([None, "5m", "1h"]),
)
MULTIPLIERS = st.sampled_from(["1", "0", "1.2", "0.333333333", "17"])


def most_input(demand: Demand, known: Model) -> int:
    """The definition, spelled another way than in the module."""
    text = demand.input_bytes + demand.template_tokens + demand.images * IMAGE_TOKENS
    context = known.context_length
    if demand.unbounded:
        most = context or CONTEXT_TOKENS_UNKNOWN
        return most if context and not demand.separate else max(most, text)
    return text if demand.separate or context is None else min(text, context)


@given(
    DEMANDS, MODELS, st.integers(0, 2000), MULTIPLIERS, MULTIPLIERS,
    st.fixed_dictionaries(
        {"input": st.floats(0, 1), "output": st.floats(0, 1), "read": PART, "write": PART,
         "hour": PART, "reasoning": PART, "audio_in": PART, "image_in": PART, "audio_out": PART,
         "image_out": PART, "write_5m": PART}
    ),
)  # fmt: skip
def test_no_usage_within_the_demand_costs_more(
    demand: Demand, known: Model, default_output: int, rate: str, factor: str, used: dict[str, int]
) -> None:
    each = default_output if demand.max_output_tokens is None else demand.max_output_tokens
    for bound in (known.max_output_tokens, known.context_length):
        each = each if bound is None else min(each, bound)
    writes = demand.cache_write is not None
    usage = Usage(
        input_tokens=int(most_input(demand, known) * used["input"]),
        output_tokens=int(each * demand.choices * used["output"]),
        cache_read_input_tokens=used["read"],
        cache_creation_input_tokens=used["write"] if writes else None,
        cache_write_5m=used["write_5m"] if writes else None,
        cache_write_1h=used["hour"] if demand.cache_write == "1h" else None,
        reasoning_tokens=used["reasoning"],
        input_audio_tokens=used["audio_in"] if demand.input_audio else None,
        input_image_tokens=used["image_in"] if demand.input_image else None,
        output_audio_tokens=used["audio_out"] if demand.output_audio else None,
        output_image_tokens=used["image_out"] if demand.output_image else None,
    )
    worst = worst_case(
        demand, known, default_output=default_output, rate_multiplier=rate, model_multiplier=factor
    )
    charged = cost(usage, known.price, rate_multiplier=rate, model_multiplier=factor)
    assert charged <= worst


@given(DEMANDS, MODELS, st.integers(0, 2000))
def test_the_bound_is_reached_at_a_flat_price(
    demand: Demand, known: Model, default_output: int
) -> None:
    """It is no more than it must be: a request that uses all it may at plain rates costs it."""
    price = Price(input=known.price.input, output=known.price.output)
    flat = model(price, known.context_length, known.max_output_tokens)
    each = default_output if demand.max_output_tokens is None else demand.max_output_tokens
    for bound in (flat.max_output_tokens, flat.context_length):
        each = each if bound is None else min(each, bound)
    all_of_it = Usage(most_input(demand, flat), each * demand.choices)
    assert worst_case(demand, flat, default_output=default_output) == cost(all_of_it, price)


@given(DEMANDS, MODELS, st.integers(0, 10**13), MULTIPLIERS)
def test_what_fits_a_cap_is_the_most_that_does(
    demand: Demand, known: Model, cap: int, rate: str
) -> None:
    fits = fitting_output(demand, known, cap, rate_multiplier=rate)
    most = min(
        OUTPUT_TOKENS_MAX,
        known.max_output_tokens or OUTPUT_TOKENS_MAX,
        known.context_length or OUTPUT_TOKENS_MAX,
    )
    assert 0 <= fits <= most

    def worst(output: int) -> int:
        asked = Demand(
            **{name: getattr(demand, name) for name in Demand.__struct_fields__}
            | {"max_output_tokens": output}
        )
        return worst_case(asked, known, default_output=1, rate_multiplier=rate)

    if fits:
        assert worst(fits) <= cap
    if fits < most:
        assert worst(fits + 1) > cap


@given(DEMANDS, MODELS, st.integers(1, 10**13))
def test_a_request_within_its_cap_always_has_an_output_that_fits(
    demand: Demand, known: Model, cap: int
) -> None:
    assume(demand.max_output_tokens != 0)
    if worst_case(demand, known, default_output=500) <= cap:
        asked = 500 if demand.max_output_tokens is None else demand.max_output_tokens
        ceiling = min(known.max_output_tokens or asked, known.context_length or asked)
        assert fitting_output(demand, known, cap) >= min(asked, ceiling)


def test_the_hold_of_an_everyday_call_is_the_sum_one_expects() -> None:
    known = Catalog.load().find("openai", "gpt-4o")
    assert known is not None
    demand = Demand(1000, 100, template_tokens=500)
    nano_usd = worst_case(demand, known, default_output=4096)
    assert nano_usd == (1500 * 2_500_000_000 + 100 * 10 * USD) // 1_000_000
    twice = worst_case(demand, known, default_output=4096, rate_multiplier="2")
    assert twice == 2 * nano_usd


def test_the_context_bounds_a_long_body_and_an_unbounded_one() -> None:
    known = model(Price(input=USD, output=0), context_length=8000)
    million = Fraction(USD, 1_000_000)
    assert worst_case(Demand(10**7, 1), known, default_output=1) == 8000 * million
    assert worst_case(Demand(10, 1, unbounded=True), known, default_output=1) == 8000 * million
    listed = Demand(20_000, 0, separate=True)
    assert worst_case(listed, known, default_output=1) == 20_000 * million
    nowhere = model(Price(input=USD))
    unknown = worst_case(Demand(10, 1, unbounded=True), nowhere, default_output=1)
    assert unknown == CONTEXT_TOKENS_UNKNOWN * million


def test_bytes_of_images_give_way_to_what_an_image_takes() -> None:
    known = model(Price(input=1_000_000))
    photo = Demand(2_000_100, 1, images=2, image_bytes=2_000_000)
    assert worst_case(photo, known, default_output=1) == 100 + 2 * IMAGE_TOKENS
    pixel = Demand(200, 1, images=1, image_bytes=100)
    assert worst_case(pixel, known, default_output=1) == 100 + IMAGE_TOKENS


def test_a_tier_below_that_is_dearer_counts_as_well() -> None:
    price = Price(input=5_000_000, tiers=(Tier(100, Price(input=1_000_000)),))
    assert worst_case(Demand(200, 0), model(price), default_output=1) == 500
    assert worst_case(Demand(600, 0), model(price), default_output=1) == 600
