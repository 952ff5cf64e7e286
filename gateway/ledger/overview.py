"""What an overview shows: sums over days as lines of a chart, and how many receipts there are.

All from the table `usage`, which the writer keeps with the receipts (`usage.py`): no receipt is
read, whatever their number. Functions take a connection that reads, as in `store.py`.

Asked for one user, each day is sought by itself, so that only the user's own rows are read: 1 to
3 ms for 60 days. For everybody all rows of the days are, at 1.5 µs each: 12 ms for 60 days of a
dozen keys, a second where 2000 keys each called five models on each of them. Whoever shows that
often keeps the answer for a while (Python 3.11, SQLite 3.40).
"""

import sqlite3
from typing import Any, Literal

import msgspec

Measure = Literal["requests", "failed", "tokens", "nano_usd", "list_nano_usd"]
By = Literal["model", "provider", "key", "user"]

DAYS_MAX = 400

LINES = 6

_COLUMNS: dict[By, str] = {
    "model": "u.model",
    "provider": "u.provider",
    "key": "u.key_id",
    "user": "CAST(u.user_id AS TEXT)",
}
_MEASURES: dict[Measure, str] = {
    "requests": "u.requests",
    "failed": "u.failed",
    "tokens": "u.input_tokens + u.output_tokens",
    "nano_usd": "u.nano_usd",
    "list_nano_usd": "u.list_nano_usd",
}


class Line(msgspec.Struct, frozen=True):
    """One line of a chart: `values` by day, `total` their sum; `name` None is all the others.

    A name is a model's, a provider's, a key's id or a user's number. Requests that came to no
    provider are of "", and so is what a caller's own key did not get (`usage.group`).
    """

    name: str | None
    total: int
    values: list[int]


class Series(msgspec.Struct, frozen=True):
    """Lines over the same days, of UTC, counted from 1970; the largest line first, others last."""

    days: list[int]
    lines: list[Line]


def series(
    conn: sqlite3.Connection,
    *,
    user_id: int | None,
    days: tuple[int, int],
    measure: Measure,
    by: By = "model",
    lines: int = LINES,
) -> Series:
    """A sum for each day from the first to the last of `days`, by what is largest over all of them.

    `user_id` None is everybody, 0 all callers with a provider's key of their own. Of more than
    DAYS_MAX days the last ones are given.
    """
    since, until = _bounded(days)
    source, params = _source(user_id, since, until)
    found: dict[str | None, list[int]] = {}
    for name, day, value in conn.execute(
        f"""WITH RECURSIVE {source}, sums (name, day, value) AS MATERIALIZED (
            SELECT {_COLUMNS[by]}, u.day, sum({_MEASURES[measure]}) FROM found u GROUP BY 1, 2),
        largest (name) AS (
            SELECT name FROM sums GROUP BY name ORDER BY sum(value) DESC, name LIMIT ?)
        SELECT CASE WHEN name IN largest THEN name END, day, sum(value) FROM sums GROUP BY 1, 2""",
        (*params, lines),
    ):
        found.setdefault(name, [0] * (until - since + 1))[day - since] = value
    made = [Line(name, sum(values), values) for name, values in found.items()]
    made.sort(key=lambda line: (line.name is None, -line.total, line.name or ""))
    return Series(list(range(since, until + 1)), [line for line in made if line.total])


def count(conn: sqlite3.Connection, owner: str | None) -> int | None:
    """How many final receipts an owner has, None where nothing keeps count: of one provider key.

    `owner` None is everybody. Never by counting them: receipts are numbered, requests summed.
    """
    if owner is None:
        row = conn.execute("SELECT seq FROM chain").fetchone()
        return int(row[0]) if row else 0
    number = owner.removeprefix("user:")
    if not (number.isascii() and number.isdigit()) or len(number) > len(str(1 << 62)) - 1:
        return None
    (requests,) = conn.execute(
        """WITH RECURSIVE days (day) AS (
            SELECT min(day) FROM usage UNION ALL
            SELECT (SELECT min(day) FROM usage WHERE day > days.day) FROM days
            WHERE days.day IS NOT NULL)
        SELECT coalesce(sum(u.requests), 0) FROM days
            CROSS JOIN usage u ON u.day = days.day AND u.user_id = ?""",
        (int(number),),
    ).fetchone()
    return int(requests)


def _bounded(days: tuple[int, int]) -> tuple[int, int]:
    since, until = days
    assert since <= until
    return max(since, until - DAYS_MAX + 1), until


def _source(user_id: int | None, since: int, until: int) -> tuple[str, list[Any]]:
    """The table expression `found`: the rows of usage that are summed, and its parameters."""
    if user_id is None:
        return "found AS (SELECT * FROM usage WHERE day BETWEEN ? AND ?)", [since, until]
    return (
        """days (day) AS (
            VALUES (?) UNION ALL SELECT day + 1 FROM days WHERE day < ?),
        found AS (SELECT u.* FROM days CROSS JOIN usage u ON u.day = days.day AND u.user_id = ?)""",
        [since, until, user_id],
    )
