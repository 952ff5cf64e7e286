"""What an operator may ask of users and keys, and the bounds of it. Pure.

Every number, name and list is bounded here, before it comes near the store; a refusal is a
`Conflict` whose message opens with the field. Used by `accounts.py`; the admin verbs make the
values.
"""

import re
import unicodedata
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.errors import Conflict
from gateway.ledger import prices
from gateway.ledger.records import EMAIL_CHARS_MAX

NAME_CHARS_MAX = 64
NFC_SHRINKS_MAX = 4
"""How many characters NFC makes one of, at most (Unicode 15, U+1F82 and its like)."""

MODELS_MAX = 256
MODEL_CHARS_MAX = 256
REASON_CHARS_MAX = 500
IDEMPOTENCY_KEY_CHARS_MAX = 255
CODES_MAX = 1000
"""Made at once."""

LIMIT_MAX = 10**12
"""Bounds a number an operator may type, far inside SQLite's 64 bits."""

AMOUNT_NANO_USD_MAX = 10**16
"""Ten million dollars: bounds one credit, code, cap or correction."""

RATE_MULTIPLIER_MAX = 1000

EXPIRES_MS_MAX = 253_402_300_799_999
"""The end of the year 9999, the last that a date can show."""

OnDisconnect = Literal["cancel", "drain"]

_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Printable by their category, and nothing to be seen (Unicode 15: fillers, a blank of braille)."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


class KeySpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a new key may do; None is "as the user, or the server's default".

    `spend_cap_nano_usd` bounds all that it ever spends. An `admin` key is for the admin API alone,
    and only for a user who is an admin.
    """

    name: str = ""
    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    models: tuple[str, ...] | None = None
    expires_ms: int | None = None
    spend_cap_nano_usd: int | None = None
    on_disconnect: OnDisconnect | None = None
    admin: bool = False


UNLIMITED = KeySpec()
"""A key that narrows nothing: its user's limits, or the server's defaults, hold."""


class KeyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of a key: UNSET leaves a field, None takes its limit away."""

    name: str | UnsetType = UNSET
    rpm: int | UnsetType | None = UNSET
    tpm: int | UnsetType | None = UNSET
    concurrent: int | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    expires_ms: int | UnsetType | None = UNSET
    spend_cap_nano_usd: int | UnsetType | None = UNSET
    on_disconnect: OnDisconnect | UnsetType | None = UNSET


class UserChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of a user: UNSET leaves a field, None takes its limit away.

    `rate_multiplier` is a plain decimal of 0 or more, as text, that every price is multiplied
    with. `daily_alert_nano_usd` 0 means never, None as the configuration says.
    """

    email: str | UnsetType | None = UNSET
    admin: bool | UnsetType = UNSET
    rate_multiplier: str | UnsetType = UNSET
    rpm: int | UnsetType | None = UNSET
    tpm: int | UnsetType | None = UNSET
    concurrent: int | UnsetType | None = UNSET
    daily_alert_nano_usd: int | UnsetType | None = UNSET


def of_user(changes: UserChanges) -> dict[str, Any]:
    """The changed columns of a user; Conflict where one is out of bounds."""
    asked = _asked(changes)
    _check_limits(asked)
    if asked.get("email") is not None:
        check_email(asked["email"])
    if "rate_multiplier" in asked:
        _check_multiplier(asked["rate_multiplier"])
    _check_between("daily_alert_nano_usd", asked.get("daily_alert_nano_usd"), 0)
    return asked


def of_key(changes: KeySpec | KeyChanges, now_ms: int) -> dict[str, Any]:
    """The columns that a new key has, or that change; Conflict where one is out of bounds."""
    asked = _asked(changes)
    _check_limits(asked)
    name = asked.get("name", "")
    if len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise Conflict(f"name: expected at most {NAME_CHARS_MAX} printable characters")
    check_expiry(asked.get("expires_ms"), now_ms)
    _check_between("spend_cap_nano_usd", asked.get("spend_cap_nano_usd"), 0)
    models = asked.get("models")
    if models is not None:
        if not 1 <= len(models) <= MODELS_MAX:
            raise Conflict(f"models: expected 1 to {MODELS_MAX} names")
        for model in models:
            check_model("models", model)
        asked["models"] = list(models)
    return asked


def _asked(changes: msgspec.Struct) -> dict[str, Any]:
    fields = msgspec.structs.asdict(changes)
    return {name: value for name, value in fields.items() if value is not UNSET}


def _check_limits(asked: dict[str, Any]) -> None:
    for field in ("rpm", "tpm", "concurrent"):
        limit = asked.get(field)
        if limit is not None and not 1 <= limit <= LIMIT_MAX:
            raise Conflict(f"{field}: expected 1 to {LIMIT_MAX}")


def _check_between(field: str, nano_usd: int | None, least: int) -> None:
    if nano_usd is not None and not least <= nano_usd <= AMOUNT_NANO_USD_MAX:
        raise Conflict(f"{field}: expected {least} to {AMOUNT_NANO_USD_MAX} nano-USD")


def _check_multiplier(text: str) -> None:
    """By the rule of the prices themselves, which would refuse it at the user's first request."""
    try:
        fits = prices.exact(text) <= RATE_MULTIPLIER_MAX
    except ValueError:
        fits = False
    if not fits:
        raise Conflict(
            f"rate_multiplier: expected a plain decimal from 0 to {RATE_MULTIPLIER_MAX}, "
            'such as "1.2"'
        )


def check_amount(field: str, nano_usd: int) -> None:
    """Conflict unless it is an amount above zero, and not more than anybody means to give."""
    if nano_usd <= 0:
        raise Conflict(f"{field}: the amount must be above zero")
    if nano_usd > AMOUNT_NANO_USD_MAX:
        raise Conflict(f"{field}: the amount must be at most {AMOUNT_NANO_USD_MAX} nano-USD")


def check_email(email: str) -> None:
    """Conflict unless it has the form of an address."""
    if len(email) > EMAIL_CHARS_MAX or not _EMAIL.fullmatch(email) or not email.isprintable():
        raise Conflict("email: not an e-mail address")


def check_expiry(expires_ms: int | None, now_ms: int) -> None:
    """Conflict unless it is a moment to come that can be shown."""
    if expires_ms is not None and expires_ms <= now_ms:
        raise Conflict("expires: is in the past")
    if expires_ms is not None and expires_ms > EXPIRES_MS_MAX:
        raise Conflict("expires: is after the year 9999")


def check_model(field: str, model: str) -> None:
    """Conflict unless it can be the name of a model."""
    if not model or not model.isprintable() or len(model) > MODEL_CHARS_MAX:
        raise Conflict(f"{field}: a name is empty, too long, or not printable")


def check_text(field: str, text: str, chars_max: int) -> None:
    """Conflict unless it is a line of text that is not empty."""
    if not 1 <= len(text) <= chars_max or not text.isprintable() or not text.strip():
        raise Conflict(f"{field}: expected 1 to {chars_max} printable characters")


def same_form(name: str) -> str:
    """NFC, or two users could have names that look the same and differ in bytes.

    What is too long to become a name that way is left as it is: it is nobody's, and NFC takes time
    that grows with the square of a run of combining marks.
    """
    if len(name) > NAME_CHARS_MAX * NFC_SHRINKS_MAX:
        return name
    return unicodedata.normalize("NFC", name)


def checked_name(name: str) -> str:
    """The name of a user, in its one form; Conflict where it cannot be one."""
    name = same_form(name)
    if (
        not 1 <= len(name) <= NAME_CHARS_MAX
        or not name.isprintable()
        or name != name.strip()
        or name.startswith("-")
        or not _BLANKS.isdisjoint(name)
    ):
        raise Conflict(
            f"name: expected 1 to {NAME_CHARS_MAX} printable characters, with no space at either "
            "end and no dash at the start"
        )
    return name
