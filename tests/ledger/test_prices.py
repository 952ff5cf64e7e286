"""Costs: each token once, exact integers, one rounding, and a bill that adds up."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger import prices
from gateway.ledger.prices import (
    CLASSES,
    Class,
    Line,
    Multiplier,
    Price,
    Tier,
    cost,
    explain,
    nano_from_text,
    shown,
    usd_text,
)
from gateway.wire.neutral import SidePass, Usage

USD = prices.NANO_PER_USD
GPT_4O = Price(input=2_500_000_000, output=10 * USD, cache_read=1_250_000_000)
CLAUDE = Price(
    input=3 * USD,
    output=15 * USD,
    cache_read=300_000_000,
    cache_write=3_750_000_000,
    cache_write_1h=6 * USD,
)
TIERED = Price(
    input=USD,
    output=10 * USD,
    tiers=(
        Tier(200_000, Price(input=2 * USD, output=15 * USD)),
        Tier(500_000, Price(input=4 * USD, output=20 * USD)),
    ),
)
EVERY_CLASS = Price(
    input=1 * USD,
    output=2 * USD,
    cache_read=3 * USD,
    cache_write=4 * USD,
    cache_write_1h=5 * USD,
    reasoning=6 * USD,
    input_audio=7 * USD,
    cache_read_audio=8 * USD,
    output_audio=9 * USD,
    input_image=10 * USD,
    cache_read_image=11 * USD,
    output_image=12 * USD,
)


def tokens_by_class(lines: list[Line]) -> dict[Class, int]:
    return {line.cls: line.tokens for line in lines}


def test_the_example_of_the_receipt_costs_105000_nano_usd() -> None:
    nano_usd = cost(Usage(input_tokens=10, output_tokens=8), GPT_4O)
    assert nano_usd == 105_000
    assert usd_text(nano_usd) == "0.000105"


def test_both_multipliers_apply_exactly() -> None:
    usage = Usage(input_tokens=10, output_tokens=8)
    expected = 63_000
    assert cost(usage, GPT_4O, rate_multiplier="1.2", model_multiplier="0.5") == expected
    assert (
        cost(usage, GPT_4O, rate_multiplier=Decimal("1.20"), model_multiplier=Decimal("0.5"))
        == expected
    )
    assert cost(usage, GPT_4O, rate_multiplier="0") == 0
    assert cost(usage, GPT_4O, rate_multiplier=2, model_multiplier="1.000") == 210_000


def test_halves_round_up_and_only_the_sum_is_rounded() -> None:
    half_a_nano = Price(input=500_000, output=500_000, cache_read=500_000)
    assert cost(Usage(input_tokens=1), half_a_nano) == 1
    # Three halves: rounded one by one they would make 3.
    usage = Usage(input_tokens=2, output_tokens=1, cache_read_input_tokens=1)
    assert cost(usage, half_a_nano) == 2
    # 1.5 × 0.3 is 0.45; rounded before the multiplier it would be 2 × 0.3, which is 1.
    assert cost(usage, half_a_nano, rate_multiplier="0.3") == 0
    assert cost(Usage(input_tokens=1), Price(input=499_999)) == 0


@pytest.mark.parametrize(
    "multiplier",
    [
        "-1",
        "",
        ".",
        "1e3",
        "nan",
        "1.2.3",
        "1_0",
        " 1",
        "١",
        "1" * 40,
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("-0.5"),
        Decimal("1E+999999999"),
        Decimal("1E-999999999"),
        -1,
    ],
)
def test_a_multiplier_that_is_no_plain_decimal_is_refused(multiplier: Multiplier) -> None:
    usage = Usage(input_tokens=10)
    with pytest.raises(ValueError, match="plain decimal"):
        cost(usage, GPT_4O, rate_multiplier=multiplier)
    with pytest.raises(ValueError, match="plain decimal"):
        explain(usage, GPT_4O, model_multiplier=multiplier)


def test_a_float_multiplier_is_refused_even_beside_an_equal_decimal() -> None:
    usage = Usage(input_tokens=10)
    assert cost(usage, GPT_4O, rate_multiplier=Decimal("1.5")) == 37_500
    with pytest.raises(TypeError, match="not a float"):
        cost(usage, GPT_4O, rate_multiplier=1.5)  # type: ignore[arg-type]


def test_cached_tokens_are_not_charged_as_input_again() -> None:
    usage = Usage(input_tokens=1000, output_tokens=10, cache_read_input_tokens=800)
    assert tokens_by_class(explain(usage, GPT_4O)) == {
        "input": 200,
        "cache_read": 800,
        "output": 10,
    }
    assert cost(usage, GPT_4O) == 200 * 2500 + 800 * 1250 + 10 * 10_000


def test_cache_writes_are_split_by_lifetime_and_the_rest_is_5_minutes() -> None:
    usage = Usage(
        input_tokens=1000,
        cache_read_input_tokens=100,
        cache_creation_input_tokens=600,
        cache_write_5m=100,
        cache_write_1h=200,
    )
    assert tokens_by_class(explain(usage, CLAUDE)) == {
        "input": 300,
        "cache_read": 100,
        "cache_write": 400,
        "cache_write_1h": 200,
    }
    assert cost(usage, CLAUDE) == 300 * 3000 + 100 * 300 + 400 * 3750 + 200 * 6000


def test_a_split_without_a_total_counts_as_written() -> None:
    usage = Usage(input_tokens=1000, cache_write_5m=100, cache_write_1h=200)
    assert cost(usage, CLAUDE) == 700 * 3000 + 100 * 3750 + 200 * 6000


@pytest.mark.parametrize(
    ("usage", "price", "per_token"),
    [
        (Usage(input_tokens=10, cache_read_input_tokens=10), Price(input=5_000_000), 5),
        (Usage(input_tokens=10, cache_creation_input_tokens=10), Price(input=5_000_000), 5),
        (
            Usage(input_tokens=10, cache_creation_input_tokens=10, cache_write_1h=10),
            Price(input=5_000_000, cache_write=6_000_000),
            6,
        ),
        (
            Usage(input_tokens=10, cache_creation_input_tokens=10, cache_write_1h=10),
            Price(input=5_000_000),
            5,
        ),
        (Usage(input_tokens=10, input_audio_tokens=10), Price(input=5_000_000), 5),
        (Usage(input_tokens=10, input_image_tokens=10), Price(input=5_000_000), 5),
        (
            Usage(input_tokens=10, cache_read_input_tokens=10, input_audio_tokens=10),
            Price(input=5_000_000, cache_read=2_000_000, input_audio=9_000_000),
            2,
        ),
        (Usage(output_tokens=10, reasoning_tokens=10), Price(input=1, output=7_000_000), 7),
        (Usage(output_tokens=10, output_audio_tokens=10), Price(input=1, output=7_000_000), 7),
        (Usage(output_tokens=10, output_image_tokens=10), Price(input=1, output=7_000_000), 7),
    ],
)
def test_a_class_without_a_price_is_charged_as_the_wider_class(
    usage: Usage, price: Price, per_token: int
) -> None:
    assert cost(usage, price) == 10 * per_token


def test_a_price_of_zero_is_not_a_missing_price() -> None:
    free_reads = Price(input=5_000_000, cache_read=0)
    assert cost(Usage(input_tokens=10, cache_read_input_tokens=8), free_reads) == 10


def test_reasoning_is_apart_from_output_only_where_it_has_a_price() -> None:
    usage = Usage(input_tokens=10, output_tokens=100, reasoning_tokens=60)
    assert cost(usage, GPT_4O) == 10 * 2500 + 100 * 10_000
    apart = Price(input=2 * USD, output=8 * USD, reasoning=3 * USD)
    assert cost(usage, apart) == 10 * 2000 + 40 * 8000 + 60 * 3000


def test_audio_and_images_are_charged_apart_fresh_before_cached() -> None:
    usage = Usage(
        input_tokens=100,
        output_tokens=50,
        cache_read_input_tokens=40,
        input_audio_tokens=45,
        input_image_tokens=25,
        output_audio_tokens=20,
        output_image_tokens=10,
        reasoning_tokens=5,
    )
    # 60 fresh: 45 audio, 15 images; of the 40 cached the other 10 images.
    assert tokens_by_class(explain(usage, EVERY_CLASS)) == {
        "input_audio": 45,
        "input_image": 15,
        "cache_read_image": 10,
        "cache_read": 30,
        "output": 15,
        "output_audio": 20,
        "output_image": 10,
        "reasoning": 5,
    }
    incoming = 45 * 7 + 15 * 10 + 10 * 11 + 30 * 3
    assert cost(usage, EVERY_CLASS) == 1000 * (incoming + 15 * 2 + 20 * 9 + 10 * 12 + 5 * 6)
    pictures = Usage(output_tokens=50, output_image_tokens=10)
    assert cost(pictures, EVERY_CLASS) == 1000 * (40 * 2 + 10 * 12)
    more_audio = Usage(input_tokens=100, cache_read_input_tokens=40, input_audio_tokens=70)
    assert tokens_by_class(explain(more_audio, EVERY_CLASS)) == {
        "input_audio": 60,
        "cache_read_audio": 10,
        "cache_read": 30,
    }


@pytest.mark.parametrize(
    ("input_tokens", "input_usd", "output_usd"),
    [(200_000, 1, 10), (200_001, 2, 15), (500_000, 2, 15), (500_001, 4, 20)],
)
def test_a_tier_prices_the_whole_request_once_the_input_is_over_it(
    input_tokens: int, input_usd: int, output_usd: int
) -> None:
    usage = Usage(input_tokens=input_tokens, output_tokens=7)
    expected = input_tokens * input_usd * 1000 + 7 * output_usd * 1000
    assert cost(usage, TIERED) == expected
    assert sum(line.nano_usd for line in explain(usage, TIERED)) == expected


def test_cached_tokens_count_towards_the_tier() -> None:
    usage = Usage(input_tokens=200_001, cache_read_input_tokens=200_000)
    assert cost(usage, TIERED) == 200_001 * 2000


@pytest.mark.parametrize(
    ("usage", "classes"),
    [
        (Usage(input_tokens=10, cache_read_input_tokens=99), {"cache_read": 10}),
        (
            Usage(input_tokens=10, cache_read_input_tokens=6, cache_creation_input_tokens=9),
            {"cache_read": 6, "cache_write": 4},
        ),
        (
            Usage(input_tokens=10, cache_creation_input_tokens=3, cache_write_1h=99),
            {"cache_write_1h": 3, "input": 7},
        ),
        (Usage(output_tokens=10, reasoning_tokens=99), {"reasoning": 10}),
        (Usage(input_tokens=5, input_audio_tokens=9, input_image_tokens=9), {"input_audio": 5}),
        (Usage(input_tokens=-5, output_tokens=-5, cache_read_input_tokens=-5), {}),
        (Usage(input_tokens=5, cache_read_input_tokens=-5), {"input": 5}),
        (Usage(input_tokens=5, cache_creation_input_tokens=2, cache_write_1h=-1), None),
    ],
)
def test_contradictory_counts_never_charge_more_tokens_than_the_totals(
    usage: Usage, classes: dict[Class, int] | None
) -> None:
    expected = {"input": 3, "cache_write": 2} if classes is None else classes
    assert tokens_by_class(explain(usage, EVERY_CLASS)) == expected
    assert cost(usage, EVERY_CLASS) == sum(
        tokens * getattr(EVERY_CLASS, cls) // 10**6 for cls, tokens in expected.items()
    )


def test_a_side_pass_is_charged_at_its_own_models_price_and_tier() -> None:
    usage = Usage(
        input_tokens=10,
        output_tokens=8,
        billed_besides=[
            SidePass("advisor_message", "claude", 100, 20, cache_read_input_tokens=50),
            SidePass("compaction", "unheard-of", 300_000, 1),
            SidePass("compaction", None, 4, 5),
        ],
    )
    price_of = {"claude": CLAUDE}.get
    main = 10 * 1000 + 8 * 10_000
    advisor = 50 * 3000 + 50 * 300 + 20 * 15_000
    unknown = 300_000 * 2000 + 15_000
    compaction = 4 * 1000 + 5 * 10_000
    assert cost(usage, TIERED, price_of=price_of) == main + advisor + unknown + compaction
    lines = explain(usage, TIERED, price_of=price_of)
    assert sum(line.nano_usd for line in lines) == main + advisor + unknown + compaction
    assert [(line.pass_kind, line.model) for line in lines if line.cls == "output"] == [
        (None, None),
        ("advisor_message", "claude"),
        ("compaction", "unheard-of"),
        ("compaction", None),
    ]
    # Without a way to look prices up, all passes are at the request's own price.
    at_own = 100 * 1000 + 20 * 10_000
    assert cost(usage, TIERED) == main + at_own + unknown + compaction


def test_a_long_request_does_not_lift_its_side_passes_into_its_tier() -> None:
    usage = Usage(input_tokens=300_000, billed_besides=[SidePass("compaction", None, 10, 0)])
    assert cost(usage, TIERED) == 300_000 * 2000 + 10 * 1000
    assert [line.per_mtok for line in explain(usage, TIERED)] == [2 * USD, 1 * USD]


def test_a_price_is_shown_as_text_with_only_the_classes_it_has() -> None:
    price = Price(input=2_500_000_000, output=10 * USD, cache_read=2_800_000, reasoning=0)
    assert shown(price, "v1").version == "v1"
    assert list(shown(price, "v1").per_mtok.items()) == [
        ("input_per_mtok", "2.50"),
        ("output_per_mtok", "10.00"),
        ("cache_read_per_mtok", "0.0028"),
        ("reasoning_per_mtok", "0.00"),
    ]
    assert len(shown(EVERY_CLASS, "v1").per_mtok) == len(CLASSES)


def test_the_price_shown_is_the_tier_that_was_charged() -> None:
    assert shown(TIERED, "v").per_mtok["output_per_mtok"] == "10.00"
    assert shown(TIERED, "v", input_tokens=200_001).per_mtok["output_per_mtok"] == "15.00"


@pytest.mark.parametrize(
    "text", ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "١", " 1", "1.0000000001"]
)
def test_an_amount_that_is_no_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="decimal"):
        nano_from_text(text)


@given(st.integers(0, 10**18))
def test_amounts_survive_text_and_back(nano_usd: int) -> None:
    text = usd_text(nano_usd)
    assert nano_from_text(text) == nano_usd
    assert Decimal(text) * USD == nano_usd
    decimals = text.partition(".")[2]
    assert len(decimals) == 2 or (len(decimals) > 2 and not decimals.endswith("0"))


def test_a_negative_amount_is_shown_with_its_sign() -> None:
    assert usd_text(-2_500_000_000) == "-2.50"


# Properties.

counts = st.integers(0, 3_000_000)
reported = st.none() | st.integers(-10, 3_000_000)
rates = st.integers(0, 200 * USD)
plain_rates = st.builds(
    Price,
    input=rates,
    output=rates,
    **dict.fromkeys([cls for cls in CLASSES if cls not in ("input", "output")], st.none() | rates),
)
tiers = st.lists(
    st.builds(Tier, st.integers(1, 3_000_000), plain_rates), max_size=2, unique_by=lambda t: t.above
).map(lambda found: tuple(sorted(found, key=lambda tier: tier.above)))
any_price = st.builds(
    lambda price, tiers: Price(**{cls: getattr(price, cls) for cls in CLASSES}, tiers=tiers),
    plain_rates,
    tiers,
)
side_passes = st.builds(
    SidePass,
    kind=st.just("compaction"),
    model=st.sampled_from([None, "known", "unknown"]),
    input_tokens=counts,
    output_tokens=counts,
    cache_read_input_tokens=reported,
    cache_creation_input_tokens=reported,
    cache_write_1h=reported,
)
any_usage = st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cache_read_input_tokens=reported,
    cache_creation_input_tokens=reported,
    reasoning_tokens=reported,
    cache_write_5m=reported,
    cache_write_1h=reported,
    input_audio_tokens=reported,
    input_image_tokens=reported,
    output_audio_tokens=reported,
    output_image_tokens=reported,
    billed_besides=st.none() | st.lists(side_passes, max_size=2),
)
# As most answers are: text, cached or not, so that the short way is taken often.
text_usage = st.builds(
    lambda fresh, read, write, share, output: Usage(
        input_tokens=fresh + read + write,
        output_tokens=output,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=write,
        cache_write_1h=write * share // 4,
        reasoning_tokens=output // 2,
    ),
    counts,
    counts,
    counts,
    st.integers(0, 4),
    counts,
)
multipliers = st.sampled_from(["1", "1.2", "0.5", "0", "0.333", "12"])


def half_up(value: Fraction) -> int:
    return int(value + Fraction(1, 2))


@given(any_usage | text_usage, any_price, multipliers, multipliers)
def test_lines_add_up_to_the_cost_and_each_is_within_one_nano(
    usage: Usage, price: Price, rate: str, model: str
) -> None:
    price_of = {"known": CLAUDE}.get
    total = cost(usage, price, rate_multiplier=rate, model_multiplier=model, price_of=price_of)
    lines = explain(usage, price, rate_multiplier=rate, model_multiplier=model, price_of=price_of)
    assert type(total) is int
    assert total >= 0
    assert all(type(line.nano_usd) is int for line in lines)
    assert sum(line.nano_usd for line in lines) == total
    exact = [
        Fraction(line.tokens * line.per_mtok, 10**6) * Fraction(rate) * Fraction(model)
        for line in lines
    ]
    assert total == half_up(sum(exact, Fraction(0)))
    for line, value in zip(lines, exact, strict=True):
        assert abs(line.nano_usd - value) < 1


@given(any_usage | text_usage, any_price)
def test_every_token_is_in_exactly_one_class(usage: Usage, price: Price) -> None:
    lines = [line for line in explain(usage, price) if line.pass_kind is None]
    assert len({line.cls for line in lines}) == len(lines)
    outgoing = {"output", "reasoning", "output_audio", "output_image"}
    assert sum(line.tokens for line in lines if line.cls in outgoing) == usage.output_tokens
    assert sum(line.tokens for line in lines if line.cls not in outgoing) == usage.input_tokens
    assert all(line.tokens > 0 for line in lines)


@given(text_usage, plain_rates)
def test_cost_equals_the_formula_written_out_in_fractions(usage: Usage, price: Price) -> None:
    read = usage.cache_read_input_tokens or 0
    write = usage.cache_creation_input_tokens or 0
    write_1h = usage.cache_write_1h or 0
    reasoning = usage.reasoning_tokens or 0
    write_rate = price.input if price.cache_write is None else price.cache_write
    sum_of_classes = (
        Fraction(usage.input_tokens - read - write) * price.input
        + Fraction(read) * (price.input if price.cache_read is None else price.cache_read)
        + Fraction(write - write_1h) * write_rate
        + Fraction(write_1h)
        * (write_rate if price.cache_write_1h is None else price.cache_write_1h)
        + Fraction(usage.output_tokens - reasoning) * price.output
        + Fraction(reasoning) * (price.output if price.reasoning is None else price.reasoning)
    )
    expected = half_up(sum_of_classes / 10**6 * Fraction("1.2") * Fraction("0.5"))
    assert cost(usage, price, rate_multiplier="1.2", model_multiplier="0.5") == expected


@given(any_usage | text_usage, plain_rates)
def test_the_short_way_gives_what_the_full_split_gives(usage: Usage, price: Price) -> None:
    short = prices._plain_charge(usage, price)
    full = sum(tokens * rate for _, tokens, rate in prices._classes(usage, price))
    assert short is None or short == full


@given(text_usage, text_usage, plain_rates)
def test_two_answers_cost_what_they_cost_together_but_for_the_rounding(
    one: Usage, two: Usage, price: Price
) -> None:
    both = Usage(
        **{
            field: getattr(one, field) + getattr(two, field)
            for field in (
                "input_tokens",
                "output_tokens",
                "cache_read_input_tokens",
                "cache_creation_input_tokens",
                "cache_write_1h",
                "reasoning_tokens",
            )
        }
    )
    assert abs(cost(one, price) + cost(two, price) - cost(both, price)) <= 1


@given(text_usage, plain_rates, counts, counts)
def test_more_tokens_never_cost_less(
    usage: Usage, price: Price, more_in: int, more_out: int
) -> None:
    longer = Usage(
        input_tokens=usage.input_tokens + more_in,
        output_tokens=usage.output_tokens + more_out,
        cache_read_input_tokens=usage.cache_read_input_tokens,
        cache_creation_input_tokens=usage.cache_creation_input_tokens,
        cache_write_1h=usage.cache_write_1h,
        reasoning_tokens=usage.reasoning_tokens,
    )
    assert cost(longer, price) >= cost(usage, price)
