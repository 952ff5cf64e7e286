"""Sums of receipts, by day, user, key, provider and model: the table `usage`, and what was told.

The writer adds a batch's receipts to the table in the batch's own transaction (`add`, `rows`), so
that the sums are those of the receipts after any crash; `check_books` (`money.py`) proves it.
`sums` and `spent_by_key` restore counters at start, `report` answers who spent what. The alerts
remember here what they sent. Functions take a connection, as in `store.py`.

A day is a UTC day, counted from 1970, of the moment when the request arrived.
"""

import sqlite3
from typing import Literal

import msgspec

from gateway.ledger.entry import COST_NANO_USD_MAX, Entry, Opening
from gateway.ledger.records import UsageRow

DAY_MS = 86_400_000

TOKENS_MAX = 10**12
"""Counted of one request at most. A provider may report any number, and a sum past 64 bits would
be refused together with the whole batch."""

NAME_CHARS_MAX = 256
"""Longer names of models are cut: callers choose them, and each has a row of its own."""

REPORT_ROWS_MAX = 10_000

GroupBy = Literal["day", "model", "key", "user", "provider"]

Group = tuple[int, int, str, str, str]
"""day, user_id, key_id, provider, model: the key of a row."""

Sums = dict[Group, list[int]]
"""requests, failed, input_tokens, output_tokens, nano_usd, list_nano_usd by group."""


class Tokens(msgspec.Struct, frozen=True):
    """Of a `Usage`, what is summed."""

    input_tokens: int = 0
    output_tokens: int = 0


class Summed(msgspec.Struct, frozen=True, array_like=True):
    """Of an `Entry`, what is summed, field by field in its order; the rest is not decoded.

    A third of the time of an `Entry`, where a million of them are read.
    """

    opening: Opening
    status: str
    http_status: msgspec.Raw
    failure: msgspec.Raw
    provider: str | None
    route_model: str | None
    route_format: msgspec.Raw
    translated: msgspec.Raw
    upstream_request_id: msgspec.Raw
    attempts: msgspec.Raw
    usage: Tokens | None
    usage_source: msgspec.Raw
    cost_nano_usd: int | None
    billed: bool
    price: msgspec.Raw
    rate_multiplier: msgspec.Raw
    model_multiplier: msgspec.Raw
    connect_ms: msgspec.Raw
    first_byte_ms: msgspec.Raw
    total_ms: msgspec.Raw
    gateway_ms: msgspec.Raw
    response_id: msgspec.Raw
    response_model: msgspec.Raw
    hold_nano_usd: int = 0
    list_nano_usd: int | None = None


assert Summed.__struct_fields__ == Entry.__struct_fields__[: len(Summed.__struct_fields__)]

decode = msgspec.msgpack.Decoder(Summed).decode
"""What is summed of a receipt's body; raises msgspec.MsgspecError."""


def charged(entry: Entry | Summed) -> int:
    """What a receipt's user is charged for it, in nano-USD."""
    if entry.billed and entry.opening.user_id:
        return entry.cost_nano_usd or 0
    return 0


def group(entry: Entry | Summed) -> Group:
    """The row that a receipt is counted in.

    A caller's own provider key is user 0 and key "". Its requests that did not succeed are of no
    model: a caller may make names up, and each would be a row.
    """
    opening = entry.opening
    day = opening.created_ms // DAY_MS
    provider = (entry.provider or "")[:NAME_CHARS_MAX]
    model = (entry.route_model or "")[:NAME_CHARS_MAX]
    if not opening.user_id:
        return day, 0, "", provider, model if entry.status == "succeeded" else ""
    return day, opening.user_id, opening.key_id or "", provider, model


def add(sums: Sums, entry: Entry | Summed) -> int:
    """Count a receipt; returns what is charged for it, in nano-USD. 0.6 µs."""
    nano_usd = charged(entry)
    key = group(entry)
    row = sums.get(key)
    if row is None:
        row = sums[key] = [0, 0, 0, 0, 0, 0]
    row[0] += 1
    if entry.status != "succeeded":
        row[1] += 1
    usage = entry.usage
    if usage is not None:
        tokens = usage.input_tokens
        row[2] += tokens if 0 <= tokens <= TOKENS_MAX else _bounded(tokens, TOKENS_MAX)
        tokens = usage.output_tokens
        row[3] += tokens if 0 <= tokens <= TOKENS_MAX else _bounded(tokens, TOKENS_MAX)
    if nano_usd:
        row[4] += nano_usd
    if entry.list_nano_usd and key[1]:
        row[5] += _bounded(entry.list_nano_usd, COST_NANO_USD_MAX)
    return nano_usd


def _bounded(number: int, limit: int) -> int:
    return max(0, min(number, limit))


def recount(conn: sqlite3.Connection) -> None:
    """Fill an empty table from all receipts: what was written before there was one.

    Raises sqlite3.DataError where one cannot be read.
    """
    found: Sums = {}
    for seq, body in conn.execute("SELECT seq, body FROM receipts ORDER BY seq"):
        try:
            add(found, decode(body))
        except msgspec.MsgspecError as exc:
            raise sqlite3.DataError(f"receipt {seq} cannot be read: {exc}") from exc
    conn.executemany(
        "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*key, *counts) for key, counts in found.items()],
    )


# --- asked ------------------------------------------------------------------------------------


def sums(conn: sqlite3.Connection, day: int) -> list[UsageRow]:
    """All rows of one day."""
    rows = conn.execute(
        "SELECT * FROM usage WHERE day = ? ORDER BY user_id, key_id, provider, model", (day,)
    )
    return [UsageRow(*row) for row in rows]


def spent_by_key(conn: sqlite3.Connection) -> dict[str, int]:
    """What each gateway key was ever charged, in nano-USD."""
    return dict(
        conn.execute("SELECT key_id, sum(nano_usd) FROM usage WHERE user_id > 0 GROUP BY key_id")
    )


class ReportRow(msgspec.Struct, frozen=True):
    """Sums over what its first five fields name; None in those not grouped by.

    `failed` counts every request that did not succeed, cancelled ones too.
    """

    day: int | None
    user_id: int | None
    key_id: str | None
    provider: str | None
    model: str | None
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    nano_usd: int
    list_nano_usd: int


_DAYS = """WITH RECURSIVE days (day, last) AS (
        SELECT max(?, first), min(?, latest) FROM (
            SELECT (SELECT min(day) FROM usage) AS first, (SELECT max(day) FROM usage) AS latest)
        UNION ALL SELECT day + 1, last FROM days WHERE day < last)
    SELECT day FROM days WHERE day <= last"""
"""The days of an interval that can have rows."""


def report(
    conn: sqlite3.Connection,
    *,
    since_day: int,
    until_day: int,
    user_id: int | None = None,
    key_id: str | None = None,
    group_by: tuple[GroupBy, ...] = (),
) -> list[ReportRow]:
    """Sums over the days from `since_day` to `until_day`, both included, in order of the groups.

    `user_id` and `key_id` keep only theirs; user 0 is all callers with a key of their own. No more
    than `REPORT_ROWS_MAX` rows; one more than that is given where there are more.
    """
    wanted = [name in group_by for name in ("day", "user", "key", "provider", "model")]
    where, params = "day BETWEEN ? AND ?", [since_day, until_day]
    if user_id is not None:
        # One user's rows lie together within a day: each day is one look, whatever others did.
        where, params = f"day IN ({_DAYS}) AND user_id = ?", [since_day, until_day, user_id]
    rows = conn.execute(
        f"""SELECT CASE WHEN ? THEN day END, CASE WHEN ? THEN user_id END,
            CASE WHEN ? THEN key_id END, CASE WHEN ? THEN provider END,
            CASE WHEN ? THEN model END, sum(requests), sum(failed), sum(input_tokens),
            sum(output_tokens), sum(nano_usd), sum(list_nano_usd)
        FROM usage WHERE {where} AND (? IS NULL OR key_id = ?)
        GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT ?""",
        (*wanted, *params, key_id, key_id, REPORT_ROWS_MAX + 1),
    )
    return [ReportRow(*row) for row in rows]


# --- told -------------------------------------------------------------------------------------


def sent(conn: sqlite3.Connection, day: int) -> set[tuple[str, str, str]]:
    """What was told of a day: (subject, threshold, channel)."""
    return set(
        conn.execute("SELECT subject, threshold, channel FROM alerts_sent WHERE day = ?", (day,))
    )


def mark_sent(
    conn: sqlite3.Connection, day: int, subject: str, threshold: str, channel: str, at_ms: int
) -> None:
    """Remember that it was told; the first time counts."""
    conn.execute(
        "INSERT INTO alerts_sent VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (day, subject, threshold, channel, at_ms),
    )
