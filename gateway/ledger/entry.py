"""What the ledger keeps of a request, and the receipt that is shown of it.

`Opening` is written at admission, `Entry` once when the request has ended; both are encoded as
one blob beside a few indexed columns. Pure: `writer.py` stores them, `render` shows them.
"""

from typing import Literal

import msgspec

from gateway.wire.neutral import Usage

Status = Literal["succeeded", "failed", "cancelled"]
UsageSource = Literal["reported", "partial", "estimated", "none"]


COST_NANO_USD_MAX = 10**15
"""A million dollars for one request is a fault in its price or a count: it is not charged."""


class Opening(msgspec.Struct, frozen=True, array_like=True):
    """A request was admitted.

    `id` is a UUIDv7 in its 36-character form, `owner` who may read the receipt: `user:<id>` for
    a gateway key, `byok:<keyed hash>` for a caller's own provider key.
    """

    id: str
    owner: str
    created_ms: int
    endpoint: str
    format: str
    model: str
    stream: bool
    bytes: int
    user_id: int | None = None
    key_id: str | None = None


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One try at one target; `outcome` is "succeeded" or a failure stage."""

    provider: str
    model: str
    outcome: str
    status: int | None
    ms: float


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a request did not succeed."""

    stage: str
    code: str
    message: str


class PriceShown(msgspec.Struct, frozen=True, array_like=True):
    """The price a cost was computed with: class name -> US dollars per million tokens, text."""

    version: str
    per_mtok: dict[str, str]


class Entry(msgspec.Struct, array_like=True, kw_only=True):
    """Everything a receipt says. Appending a field at the end keeps old rows readable.

    Times are milliseconds; `cost_nano_usd` is None where no price is known (BYOK only).
    """

    opening: Opening
    status: Status
    http_status: int
    failure: Failure | None = None
    provider: str | None = None
    route_model: str | None = None
    route_format: str | None = None
    translated: bool = False
    upstream_request_id: str | None = None
    attempts: list[Attempt] = []
    usage: Usage | None = None
    usage_source: UsageSource = "none"
    cost_nano_usd: int | None = 0
    billed: bool = False
    price: PriceShown | None = None
    rate_multiplier: str = "1"
    model_multiplier: str = "1"
    connect_ms: float | None = None
    first_byte_ms: float | None = None
    total_ms: float = 0.0
    gateway_ms: float = 0.0
    response_id: str | None = None
    response_model: str | None = None
    hold_nano_usd: int = 0
    """What was held for it at the end: the worst case at the last target tried."""
    list_nano_usd: int | None = None
    """The cost at list price, without multipliers: what the operator pays."""
