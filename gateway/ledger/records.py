"""What the store keeps and gives back, as values.

`store.py` makes them from rows; accounts, admin and the proxy read them. Pure: no SQL, no I/O.
Money is integer nano-USD, times are milliseconds since the epoch.
"""

from typing import Literal

import msgspec

from gateway.ledger.entry import Entry

OPERATOR_ACCOUNT = 0
"""What users were charged: the operator's revenue."""

CREDIT_ACCOUNT = -1
"""Where credit given to users comes from; its balance is minus all credit ever issued."""

TransferKind = Literal["charge", "credit", "correction"]


class User(msgspec.Struct, frozen=True):
    """Somebody with a balance. `id` is also the number of the account; it is above 0."""

    id: int
    name: str
    email: str | None
    admin: bool
    created_ms: int
    suspended_ms: int | None = None
    rate_multiplier: str = "1"
    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None


class Key(msgspec.Struct, frozen=True):
    """A gateway key, without its text: `hash` is the keyed hash of it and is never shown.

    `hint` is the prefix and the first characters, enough for its owner to recognise it.
    """

    id: str
    user_id: int
    user_name: str
    name: str
    hint: str
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    models: list[str] | None = None
    hash: bytes = b""


class Receipt(msgspec.Struct, frozen=True):
    """One committed receipt and its place in the chain; hashes are 32 bytes."""

    sequence: int
    previous: bytes
    hash: bytes
    entry: Entry


class VerifyResult(msgspec.Struct, frozen=True):
    """What a walk along the chain found.

    `ok` with `checked` records, or the first thing wrong: `problem` says what happened to the
    record with number `sequence` (`receipt_id` where it can still be read). "head" means that
    every record fits but the sealed end of the chain does not, or was sealed with another secret.
    """

    ok: bool
    checked: int
    problem: Literal["changed", "removed", "added", "head"] | None = None
    sequence: int | None = None
    receipt_id: str | None = None
    message: str = ""
