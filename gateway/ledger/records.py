"""What the store keeps and gives back, as values.

`store.py` makes them from rows; accounts, admin and the proxy read them. Pure: no SQL, no I/O.
Money is integer nano-USD, times are milliseconds since the epoch.
"""

import unicodedata
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
    daily_alert_nano_usd: int | None = None


EMAIL_CHARS_MAX = 254
"""Of an address (RFC 5321 section 4.5.3.1.3, erratum 1690)."""


def email_form(email: str) -> str:
    """The form in which addresses are compared: case folded and NFC. Never shown or written to.

    What is longer than any address is cut, and is nobody's still: NFC takes time that grows with
    the square of a run of combining marks, 3 s for the 64 KB that a form may hold.
    """
    email = email[: EMAIL_CHARS_MAX + 1]
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", email).casefold())


class Session(msgspec.Struct, frozen=True):
    """Somebody signed in to the pages; `id` is the keyed hash of the token, in hexadecimal."""

    id: str
    user_id: int
    created_ms: int
    expires_ms: int


class SignInLink(msgspec.Struct, frozen=True):
    """A one-time link that sets a password; `id` is as a session's."""

    id: str
    user_id: int
    created_ms: int
    expires_ms: int


class Key(msgspec.Struct, frozen=True):
    """A gateway key, without its text: `hash` is the keyed hash of it and is never shown.

    `hint` is the prefix and the first characters, enough for its owner to recognise it. An `admin`
    key is for the admin API and for nothing else. `spend_cap_nano_usd` bounds all that the key
    ever spends; `on_disconnect` is its own row of the billing table.
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
    spend_cap_nano_usd: int | None = None
    on_disconnect: Literal["cancel", "drain"] | None = None
    admin: bool = False
    hash: bytes = b""


class Code(msgspec.Struct, frozen=True):
    """A redemption code, without its text: worth `nano_usd` to whoever redeems it first."""

    id: str
    hint: str
    nano_usd: int
    created_ms: int
    expires_ms: int | None = None
    redeemed_ms: int | None = None
    redeemed_by: str | None = None
    """The name of the user who redeemed it."""
    hash: bytes = b""


class ProviderKey(msgspec.Struct, frozen=True):
    """A provider's key that an admin added; `sealed` is its encrypted text.

    `version` is that of the master key it is sealed with. `hint` is what may be shown of it.
    """

    id: str
    provider: str
    hint: str
    created_ms: int
    version: int
    sealed: bytes
    disabled_ms: int | None = None


class ProviderSettings(msgspec.Struct, frozen=True):
    """What an admin, or a daily limit, set about a provider; it goes before the configuration.

    `paused_by` is "admin" or "daily_stop". A provider that the configuration does not know has
    both `format` and `base_url`.
    """

    provider: str
    paused_ms: int | None = None
    paused_by: str | None = None
    format: Literal["openai", "anthropic", "gemini"] | None = None
    base_url: str | None = None
    catalog: str | None = None


class ModelSettings(msgspec.Struct, frozen=True):
    """What an admin set about a model of a provider; it goes before the catalog.

    `price` is US dollars per million tokens as text, by class name of `prices.CLASSES`.
    """

    provider: str
    model: str
    enabled: bool = True
    multiplier: str = "1"
    price: dict[str, str] | None = None
    context_length: int | None = None
    max_output_tokens: int | None = None


class Cap(msgspec.Struct, frozen=True):
    """The most that one call of a model may cost a user. `model` is the name that callers use."""

    user_id: int
    model: str
    nano_usd: int


class UsageRow(msgspec.Struct, frozen=True):
    """Sums over the requests of one UTC day (days since 1970), user, key, provider and model.

    `nano_usd` is what was charged, `list_nano_usd` the same at list price: what it cost the
    operator. Calls with a caller's own key are user 0 and key "", and cost nothing here.
    """

    day: int
    user_id: int
    key_id: str
    provider: str
    model: str
    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    nano_usd: int = 0
    list_nano_usd: int = 0


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
