"""What is told when a threshold was reached, and what a way of telling it is.

Pure. `sender.py` makes an `Event` of a crossing; `mail.py` and `webhook.py` are channels.
"""

import hashlib
import hmac
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Protocol

import msgspec

from gateway.alerts.daily import Crossing
from gateway.ledger.prices import usd_text
from gateway.ledger.receipt import amount, timestamp

NAME_CHARS_MAX: Final = 64

_EPOCH: Final = date(1970, 1, 1)


class Event(msgspec.Struct, frozen=True):
    """A crossing with its id and the name of its user, if it is a user's and has one.

    The id is that of the crossing in this installation: the same at each try and after a restart,
    so that a receiver can tell a repetition.
    """

    id: str
    crossing: Crossing
    user_name: str | None = None


class Undelivered(Exception):
    """A channel could not deliver; trying again may help. The message is fit for the log: it
    quotes neither a secret nor the other side.
    """


class Channel(Protocol):
    """A way to tell somebody."""

    @property
    def name(self) -> str:
        """What the ledger remembers it by: "mail"."""

    async def send(self, event: Event, now_ms: int) -> None:
        """Return once the other side has taken it; raises Undelivered."""


def event_of(crossing: Crossing, secret: bytes, user_name: str | None) -> Event:
    """The event of a crossing in the installation that has this secret."""
    named = f"alert/{crossing.day}/{crossing.threshold}/{crossing.subject}"
    digest = hmac.digest(secret, named.encode(), hashlib.sha256).hex()
    return Event(f"alert_{digest[:24]}", crossing, user_name)


def headline(event: Event) -> str:
    """One line, without control characters: "Provider openai has cost $50.02 on 2026-11-21"."""
    crossing = event.crossing
    kind, name = _subject(event)
    spent = f"${usd_text(crossing.spent_nano_usd)} on {day_text(crossing.day)}"
    match kind, crossing.threshold:
        case "user", _:
            return f"User {name} has spent {spent}"
        case _, "stop":
            return f"Provider {name} is paused: it has cost {spent}"
        case _:
            return f"Provider {name} has cost {spent}"


def explanation(event: Event) -> str:
    """A few lines of text: what happened, and what can be done."""
    crossing = event.crossing
    kind, name = _subject(event)
    limit = f"${usd_text(crossing.limit_nano_usd)}"
    seen = f"Seen at {timestamp(crossing.at_ms)}. Days begin at midnight UTC.\n"
    if kind == "user":
        what = f"The daily alert of this user is at {limit}. Nothing was stopped.\n"
    elif crossing.threshold == "stop":
        what = (
            f"Its daily stop (daily_stop_usd) is at {limit}. Calls to it with keys issued here are"
            " refused\nwith 429 until it is resumed, also after today:\n\n"
            f"    gateway providers resume {name}\n"
        )
    else:
        what = (
            f"Its daily alert (daily_alert_usd) is at {limit}, for calls with keys issued here, at"
            " list price.\nNothing was stopped.\n"
        )
    return f"{headline(event)} (UTC).\n\n{what}\n{seen}"


def document(event: Event) -> dict[str, Any]:
    """The event as JSON: money as integer nano-USD and as text in US dollars."""
    crossing = event.crossing
    kind, _, name = crossing.subject.partition(":")
    subject: dict[str, Any] = {"object": kind, "name": name}
    if kind == "user":
        subject = {"object": kind, "id": int(name), "name": event.user_name}
    return {
        "object": "alert",
        "id": event.id,
        "created_at": timestamp(crossing.at_ms),
        "day": day_text(crossing.day),
        "threshold": crossing.threshold,
        "subject": subject,
        "currency": "USD",
        "spent": _money(crossing.spent_nano_usd),
        "limit": _money(crossing.limit_nano_usd),
        "message": headline(event),
    }


def day_text(day: int) -> str:
    """A day counted from 1970 as "2026-11-21"."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def moment(ms: int) -> datetime:
    """Milliseconds since 1970 as a time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def _money(nano_usd: int) -> dict[str, Any]:
    return {"nano_usd": nano_usd, "amount": amount(nano_usd)}


def _subject(event: Event) -> tuple[str, str]:
    kind, _, name = event.crossing.subject.partition(":")
    shown = name if event.user_name is None else event.user_name
    # Names are an operator's, but a line break in one would begin another header of a mail.
    clean = "".join(char if char.isprintable() else " " for char in shown)
    return kind, clean if len(clean) <= NAME_CHARS_MAX else f"{clean[: NAME_CHARS_MAX - 1]}…"
