"""Amounts of money as callers write and read them: US dollars as decimal text, nano-USD inside.

Used by the admin verbs and the account pages. Pure.
"""

import msgspec

from gateway.accounts.changes import AMOUNT_NANO_USD_MAX
from gateway.errors import Conflict
from gateway.ledger.prices import nano_from_text, usd_text


class Money(msgspec.Struct, frozen=True):
    """An amount both ways: `nano_usd` to count with, `amount` in US dollars to read."""

    nano_usd: int
    amount: str


def money(nano_usd: int) -> Money:
    """An amount as shown; never "0.00" for what is not zero."""
    return Money(nano_usd, usd_text(nano_usd))


def maybe_money(nano_usd: int | None) -> Money | None:
    """The same of what may be unset."""
    return None if nano_usd is None else money(nano_usd)


def nano_of(text: str, field: str, *, signed: bool = False) -> int:
    """Nano-USD of US dollars such as "10.00"; with `signed` also "-2.50".

    Raises `Conflict` that opens with the field where it is no such amount.
    """
    negative = signed and text.startswith("-")
    try:
        nano_usd = nano_from_text(text[1:] if negative else text)
    except ValueError:
        raise Conflict(
            f"{field}: expected US dollars such as 10.00, with at most nine decimals"
        ) from None
    if nano_usd > AMOUNT_NANO_USD_MAX:
        raise Conflict(f"{field}: is above {AMOUNT_NANO_USD_MAX // 10**9} dollars")
    return -nano_usd if negative else nano_usd
