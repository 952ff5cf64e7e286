"""What a request is billed, by how it ended: the billing table of the README, as code. Pure.

Used by the exchange once per request; the ledger writes down what comes out.
"""

from functools import lru_cache
from typing import Literal

import msgspec

from gateway.ledger.catalog import Model
from gateway.ledger.entry import COST_NANO_USD_MAX, PriceShown, UsageSource
from gateway.ledger.prices import Price, PriceOf, cost, shown
from gateway.wire.neutral import Metered, Usage

BYTES_PER_TOKEN = 4
"""The base of an estimate: about four bytes of text to a token, in every vendor's tokenizer."""

Ended = Literal["complete", "upstream_broke", "client_left", "no_answer"]
"""`no_answer`: refused, never reached an answer, an answer of status ≥ 400, or our own fault."""

_GENERATES = frozenset(("openai_chat", "openai_responses", "openai_completions",
                        "anthropic_messages", "gemini"))  # fmt: skip
_READS = frozenset(("openai_embeddings", "gemini_embeddings"))


class Bill(msgspec.Struct, frozen=True):
    """What goes on the receipt. `nano_usd` is None where no price is known.

    `list_nano_usd` is the cost without multipliers.
    """

    usage: Usage | None
    source: UsageSource
    nano_usd: int | None
    price: PriceShown | None
    list_nano_usd: int | None = None


def bill(  # noqa: PLR0913 - everything a bill depends on, by name
    ended: Ended,
    metered: Metered | None,
    *,
    wire_format: str,
    request_bytes: int,
    model: Model | None,
    multipliers: tuple[str, str] = ("1", "1"),
    price_of: PriceOf | None = None,
) -> Bill:
    """Usage, where it comes from, and its cost in nano-USD; `multipliers` of user and model."""
    usage, source = usage_of(ended, metered, wire_format, request_bytes)
    if usage is None:
        return Bill(None, "none", 0, None, 0)
    if model is None:
        return Bill(usage, source, None, None)
    tier = _tier(model.price, usage.input_tokens) if model.price.tiers else 0
    listed = nano = cost(usage, model.price, price_of=price_of)
    if multipliers != ("1", "1"):
        nano = cost(
            usage, model.price, rate_multiplier=multipliers[0], model_multiplier=multipliers[1],
            price_of=price_of,
        )  # fmt: skip
    price = _show(model.price, model.price_version, tier)
    if max(nano, listed) > COST_NANO_USD_MAX:
        # The receipt shows it by its usage.
        return Bill(usage, source, None, price, None)
    return Bill(usage, source, nano, price, listed)


def usage_of(
    ended: Ended, metered: Metered | None, wire_format: str, request_bytes: int
) -> tuple[Usage | None, UsageSource]:
    """The usage that counts, and its provenance."""
    if ended == "no_answer" or metered is None:
        return None, "none"
    reported = metered.usage
    if ended == "complete":
        if reported is not None:
            return reported, "reported"
        return _estimate(wire_format, request_bytes, metered.text_bytes)
    if ended == "upstream_broke":
        return (None, "none") if reported is None else (reported, "partial")
    if reported is None:
        if not metered.text_bytes:
            return None, "none"
        return _estimate(wire_format, request_bytes, metered.text_bytes)
    if metered.complete:
        return reported, "reported"
    counted = _tokens(metered.text_bytes)
    if counted <= reported.output_tokens:
        return reported, "partial"
    return msgspec.structs.replace(reported, output_tokens=counted), "partial"


def _estimate(
    wire_format: str, request_bytes: int, text_bytes: int
) -> tuple[Usage | None, UsageSource]:
    if wire_format in _GENERATES:
        return Usage(_tokens(request_bytes), _tokens(text_bytes)), "estimated"
    if wire_format in _READS:
        return Usage(_tokens(request_bytes)), "estimated"
    return None, "none"


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)


@lru_cache(1024)
def _show(price: Price, version: str, tier: int) -> PriceShown:
    """The price as shown, remembered: the same few models make nearly all requests."""
    return shown(price, version, input_tokens=tier + 1 if tier else 0)


def _tier(price: Price, input_tokens: int) -> int:
    """The `above` of the tier that prices a request of this size, 0 for the first."""
    return max((step.above for step in price.tiers if input_tokens > step.above), default=0)
