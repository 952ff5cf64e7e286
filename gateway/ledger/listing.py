"""Pages of users, keys and codes, and who spent most: what admins look through.

Functions take a connection that reads, as in `store.py`. Pages are gone through by key, a page's
last row naming the next page; each call looks at ROWS_LOOKED_AT_MAX rows at most, however many
there are, and where that was not enough for a page, `complete` is False and `further` goes on from
there. Sums are over days of the table `usage`, never over receipts.
"""

import sqlite3
from collections.abc import Iterable
from typing import Any, Generic, Literal, TypeVar

import msgspec

from gateway.ledger.records import CREDIT_ACCOUNT, Code, email_form

ROWS_LOOKED_AT_MAX = 20_000

KeyState = Literal["active", "revoked", "expired", "suspended"]
CodeState = Literal["active", "redeemed", "expired"]

T = TypeVar("T")


class Slice(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list; `further` is where the next begins, None at the end.

    `complete` is False where the search stopped at its bound before the page was full.
    """

    rows: list[T]
    further: int | None = None
    complete: bool = True


class Top(msgspec.Struct, frozen=True):
    """Sums of one user, provider or model; `of` is what tells it from the others."""

    of: tuple[int | str, ...]
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    nano_usd: int
    list_nano_usd: int


class Told(msgspec.Struct, frozen=True):
    """An alert that a channel delivered. `subject` is "provider:<name>" or "user:<id>"."""

    day: int
    subject: str
    threshold: Literal["alert", "stop"]
    channel: str
    sent_ms: int


def user_ids(conn: sqlite3.Connection, text: str = "", *, above: int = 0, limit: int) -> Slice[int]:
    """Users whose name or e-mail holds `text`, in any case of letters, first made first."""
    wanted = _like(text)
    by_form = _like(email_form(text))
    rows = conn.execute(
        """SELECT id, name LIKE ? ESCAPE '!' OR email_form LIKE ? ESCAPE '!'
        FROM users WHERE id > ? ORDER BY id LIMIT ?""",
        (wanted, by_form, above, ROWS_LOOKED_AT_MAX + 1),
    )
    return _slice(((row[0], row[0], bool(row[1])) for row in rows), limit)


def key_ids(
    conn: sqlite3.Connection,
    *,
    now_ms: int,
    user_id: int | None = None,
    state: KeyState | None = None,
    below: int | None = None,
    limit: int,
) -> Slice[str]:
    """Ids of keys, last made first; one user's, and of one state, where asked for."""
    whose, params = ("k.user_id = ? AND", [user_id]) if user_id is not None else ("", [])
    rows = conn.execute(
        f"""SELECT k.rowid, k.id, CASE WHEN k.revoked_ms IS NOT NULL THEN 'revoked'
                WHEN u.suspended_ms IS NOT NULL THEN 'suspended'
                WHEN k.expires_ms <= ? THEN 'expired' ELSE 'active' END
        FROM keys k JOIN users u ON u.id = k.user_id
        WHERE {whose} k.rowid < ? ORDER BY k.rowid DESC LIMIT ?""",
        (now_ms, *params, _below(below), ROWS_LOOKED_AT_MAX + 1),
    )
    return _slice(((row[0], row[1], state in (None, row[2])) for row in rows), limit)


def codes(
    conn: sqlite3.Connection,
    *,
    now_ms: int,
    state: CodeState | None = None,
    below: int | None = None,
    limit: int,
) -> Slice[Code]:
    """Codes, last made first; of one state where asked for."""
    rows = conn.execute(
        """SELECT c.rowid, CASE WHEN c.redeemed_ms IS NOT NULL THEN 'redeemed'
                WHEN c.expires_ms <= ? THEN 'expired' ELSE 'active' END,
            c.id, c.hint, c.nano_usd, c.created_ms, c.expires_ms, c.redeemed_ms, u.name
        FROM codes c LEFT JOIN users u ON u.id = c.redeemed_by
        WHERE c.rowid < ? ORDER BY c.rowid DESC LIMIT ?""",
        (now_ms, _below(below), ROWS_LOOKED_AT_MAX + 1),
    )
    return _slice(((row[0], Code(*row[2:]), state in (None, row[1])) for row in rows), limit)


def issued(conn: sqlite3.Connection) -> int:
    """All credit that users were given less what was taken from them again, in nano-USD."""
    row = conn.execute(
        "SELECT -nano_usd FROM balances WHERE account = ?", (CREDIT_ACCOUNT,)
    ).fetchone()
    return int(row[0]) if row else 0


def key_counts(conn: sqlite3.Connection, users: Iterable[int]) -> dict[int, int]:
    """How many keys each of these users has that are not revoked."""
    wanted = list(users)
    return dict(
        conn.execute(
            f"""SELECT user_id, count(*) FROM keys
            WHERE user_id IN ({_places(wanted)}) AND revoked_ms IS NULL GROUP BY user_id""",
            wanted,
        )
    )


def spent(
    conn: sqlite3.Connection, users: Iterable[int], since_day: int, until_day: int
) -> dict[int, int]:
    """What each of these users was charged in these days, both included; nano-USD."""
    wanted = list(users)
    days = list(range(since_day, until_day + 1))
    return dict(
        conn.execute(
            f"""SELECT user_id, sum(nano_usd) FROM usage
            WHERE day IN ({_places(days)}) AND user_id IN ({_places(wanted)}) GROUP BY user_id""",
            [*days, *wanted],
        )
    )


_TOP = {
    "user": ("user_id", "user_id > 0"),
    "provider": ("provider", "true"),
    "model": ("provider, model", "model <> ''"),
}


def top(
    conn: sqlite3.Connection,
    by: Literal["user", "provider", "model"],
    since_day: int,
    until_day: int,
    limit: int,
) -> list[Top]:
    """Who or what was charged most in these days, both included; then by requests."""
    columns, which = _TOP[by]
    rows = conn.execute(
        f"""SELECT sum(requests), sum(failed), sum(input_tokens), sum(output_tokens),
            sum(nano_usd), sum(list_nano_usd), {columns}
        FROM usage WHERE day BETWEEN ? AND ? AND {which}
        GROUP BY {columns} ORDER BY 5 DESC, 1 DESC, {columns} LIMIT ?""",
        (since_day, until_day, limit),
    )
    return [Top(row[6:], *row[:6]) for row in rows]


def told(conn: sqlite3.Connection, since_day: int, limit: int) -> list[Told]:
    """Alerts that were delivered, about days from `since_day` on; the last sent first."""
    rows = conn.execute(
        """SELECT day, subject, threshold, channel, sent_ms FROM alerts_sent WHERE day >= ?
        ORDER BY sent_ms DESC, subject, threshold, channel LIMIT ?""",
        (since_day, limit),
    )
    return [Told(*row) for row in rows]


def _slice(rows: Iterable[tuple[int, T, bool]], limit: int) -> Slice[T]:
    """Of rows in order (where, what, whether it fits) the first `limit` that fit."""
    found: list[T] = []
    last = 0
    for looked_at, (where, what, fits) in enumerate(rows):
        if looked_at == ROWS_LOOKED_AT_MAX:
            return Slice(found, last, complete=False)
        if fits:
            if len(found) == limit:
                return Slice(found, last)
            found.append(what)
        last = where
    return Slice(found)


def _below(row: int | None) -> int:
    return (1 << 63) - 1 if row is None else row


def _like(text: str) -> str:
    escaped = text
    for char in "!%_":
        escaped = escaped.replace(char, "!" + char)
    return f"%{escaped}%"


def _places(values: list[Any]) -> str:
    return ", ".join("?" * len(values))
