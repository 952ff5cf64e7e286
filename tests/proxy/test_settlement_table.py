"""The billing table of the README, row by row."""

import pytest

from gateway.ledger.catalog import Catalog
from gateway.ledger.prices import cost
from gateway.proxy.settlement import BYTES_PER_TOKEN, Ended, bill, usage_of
from gateway.wire.neutral import Metered, Usage

REPORTED = Usage(input_tokens=100, output_tokens=7, cache_read_input_tokens=40)
WHOLE = Metered(usage=REPORTED, complete=True, text_bytes=4000)
SOFAR = Metered(usage=REPORTED, complete=False, text_bytes=4000)
LITTLE = Metered(usage=REPORTED, complete=False, text_bytes=4)
SILENT = Metered(usage=None, complete=True, text_bytes=41)
NOTHING = Metered()
TOKENS = -(-41 // BYTES_PER_TOKEN)


@pytest.mark.parametrize(
    ("ended", "metered", "usage", "source"),
    [
        # refused, never answered, a status from 400 up, or the gateway's own fault
        ("no_answer", None, None, "none"),
        ("no_answer", WHOLE, None, "none"),
        # complete
        ("complete", WHOLE, REPORTED, "reported"),
        ("complete", SOFAR, REPORTED, "reported"),
        ("complete", SILENT, Usage(25, TOKENS), "estimated"),
        ("complete", NOTHING, Usage(25, 0), "estimated"),
        ("complete", None, None, "none"),
        # the upstream broke: what it reported so far, else nothing
        ("upstream_broke", SOFAR, REPORTED, "partial"),
        ("upstream_broke", SILENT, None, "none"),
        ("upstream_broke", NOTHING, None, "none"),
        # the client left: reported input, and the output that was counted
        ("client_left", WHOLE, REPORTED, "reported"),
        ("client_left", LITTLE, REPORTED, "partial"),
        ("client_left", SOFAR, Usage(100, 1000, cache_read_input_tokens=40), "partial"),
        ("client_left", SILENT, Usage(25, TOKENS), "estimated"),
        ("client_left", NOTHING, None, "none"),
        ("client_left", None, None, "none"),
    ],
)
def test_usage_by_how_a_request_ended(
    ended: Ended, metered: Metered | None, usage: Usage | None, source: str
) -> None:
    assert usage_of(ended, metered, "openai_chat", 100) == (usage, source)


@pytest.mark.parametrize(
    ("wire_format", "usage"),
    [
        ("openai_chat", Usage(25, TOKENS)),
        ("openai_responses", Usage(25, TOKENS)),
        ("openai_completions", Usage(25, TOKENS)),
        ("anthropic_messages", Usage(25, TOKENS)),
        ("gemini", Usage(25, TOKENS)),
        ("openai_embeddings", Usage(25)),
        ("gemini_embeddings", Usage(25)),
        ("native", None),
    ],
)
def test_an_estimate_is_made_where_tokens_are_what_is_billed(
    wire_format: str, usage: Usage | None
) -> None:
    found = usage_of("complete", SILENT, wire_format, 100)
    assert found == (usage, "none" if usage is None else "estimated")


def test_the_cost_is_the_catalogs_price_times_the_users_rate() -> None:
    model = Catalog.load().find("openai", "gpt-4o")
    assert model is not None
    charged = bill(
        "complete", WHOLE, wire_format="openai_chat", request_bytes=100, model=model,
        multipliers=("1.5", "1"),
    )  # fmt: skip
    # 60 fresh and 40 cached tokens in, 7 out, at 2.50, 1.25 and 10 dollars per million.
    assert charged.nano_usd == (60 * 2500 + 40 * 1250 + 7 * 10_000) * 3 // 2
    assert charged.nano_usd == cost(REPORTED, model.price, rate_multiplier="1.5")
    assert charged.price is not None
    assert charged.price.per_mtok["input_per_mtok"] == "2.50"
    assert charged.source == "reported"


def test_nothing_is_charged_where_nothing_was_used() -> None:
    model = Catalog.load().find("openai", "gpt-4o")
    free = bill("no_answer", WHOLE, wire_format="openai_chat", request_bytes=9, model=model)
    assert (free.usage, free.source, free.nano_usd, free.price) == (None, "none", 0, None)


def test_an_unknown_price_is_unknown_and_not_zero() -> None:
    found = bill("complete", WHOLE, wire_format="openai_chat", request_bytes=9, model=None)
    assert found.nano_usd is None
    assert found.usage == REPORTED


def test_a_long_prompt_is_shown_at_the_price_of_its_tier() -> None:
    models = Catalog.load().models("google")
    tiered = next(one for one in models if one.id == "gemini-2.5-pro")
    assert tiered.price.tiers
    above = tiered.price.tiers[0].above
    shown = [
        bill(
            "complete", Metered(usage=Usage(tokens, 1), complete=True),
            wire_format="gemini", request_bytes=9, model=tiered,
        ).price
        for tokens in (above, above + 1)
    ]  # fmt: skip
    assert shown[0] is not None
    assert shown[1] is not None
    assert float(shown[1].per_mtok["input_per_mtok"]) > float(shown[0].per_mtok["input_per_mtok"])
