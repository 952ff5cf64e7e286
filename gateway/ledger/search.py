"""Looking for receipts: pages of those that fit a filter, and those that an id begins.

Functions take a connection that reads, as in `store.py`; `Ledger.search` and `Ledger.read` give
them one. Each call looks at a bounded number of rows, however many receipts there are, and says
where the next is to go on: a page is paid for by its reader, never by the proxy. Whoever wants
more asks again.

Order is that of `seq`: of the moments when requests ended. What is asked by the time when they
began is found by bisection in that order, with LATE_MS to spare: a request that lasted longer may
be passed over by `since_ms`, `until_ms` and the days that are skipped. Everything else is exact.

What is no column of its own (key, provider, error) is looked for in the encoded body by SQLite,
bytes as they are, and only what holds them is decoded: each row that leaves SQLite costs a turn
for the interpreter lock, and a busy event loop gives it back slowly. Days in which the sums of
usage know nothing of the key or the provider are not looked at.

Measured at a million receipts (Python 3.11, SQLite 3.40, file cached, one of two shared cores): a
row of everybody's costs 0.4 µs, of one owner's 1 to 2.3 (as its rows lie together or apart), the
bytes of its body 1 more.
"""

import re
import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from gateway.ledger import ids, store
from gateway.ledger.entry import Entry, Status
from gateway.ledger.records import Receipt
from gateway.ledger.usage import DAY_MS, NAME_CHARS_MAX

ROWS_LOOKED_AT_MAX = 16_000
"""Of one call, of everybody's: 7 ms."""

OWNED_LOOKED_AT_MAX = 6000
"""Of one call, where they are reached through an index: 5 to 14 ms."""

BODIES_LOOKED_AT_MAX = 4000
"""Of one call, where bodies must be looked into: 6 to 15 ms."""

LATE_MS = 3_600_000
"""How far `created_ms` may be behind that of the rows before: how long a request may last."""

PREFIX_DIGITS_MIN = 8
"""Of an id: 32 of the 48 bits of its time, which are the requests of 66 seconds."""

FOUND_MAX = 50

DAYS_SKIPPED_MAX = 31
"""Of one call: 20 ms where 10,000 keys and models were used on each."""

_SKIP_ROWS = 300
"""What skipping days costs, in rows."""

_WINDOW = 16
"""Rows that are taken together in a bisection: so many may be late in a row."""

_FAR_MS = 1 << 53

_IS_USER = re.compile("[0-9]{1,18}")

_encode = msgspec.msgpack.Encoder().encode


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which receipts; None is any.

    `model` is the name that was asked for, `provider` the last one tried, `error` a failure's
    code. `since_ms` is included, `until_ms` is not; both are about when the request arrived.
    """

    owner: str | None = None
    status: Status | None = None
    model: str | None = None
    key_id: str | None = None
    provider: str | None = None
    error: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class Page(msgspec.Struct, frozen=True):
    """Receipts, newest first, and where to go on.

    `next_before` continues toward older ones, None at the end; `next_after` toward newer ones, None
    at the head. `complete` is False where the bound on rows was reached before the page was full:
    what is given is right, all down (or up) to `searched_to_ms` was looked at, and the next call
    goes on from there. `searched_to_ms` is the arrival of the last row looked at; None at the end.
    """

    receipts: list[Receipt]
    next_before: int | None
    next_after: int | None
    searched_to_ms: int | None
    complete: bool


class Found(msgspec.Struct, frozen=True):
    """What an id, or its beginning, names; newest first. `more` where these are not all."""

    receipts: list[Receipt]
    more: bool = False


NOTHING = Page([], None, None, None, True)


def page(
    conn: sqlite3.Connection,
    wanted: Wanted,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int,
    rows_max: int | None = None,
) -> Page:
    """The newest `limit` receipts that fit, of those below `before`; or the oldest above `after`.

    `before` and `after` are sequences, one of them at most. `rows_max` is how many rows may be
    looked at; by default as many as take some 15 ms, by what is asked. Raises StoreError where a
    receipt cannot be read.
    """
    assert before is None or after is None
    plan = _plan(conn, wanted)
    if plan is None:
        return NOTHING
    walk = _Walk(conn, plan, rows_max or plan.rows_max, down=after is None)
    # One more than asked for tells whether there is more.
    ended, edge = walk.go(*_bounds(conn, wanted, before, after), limit + 1)
    found = walk.found
    further: int | None = None if ended else edge
    if len(found) > limit:
        found = found[:limit]
        further = found[-1].sequence
    searched_to_ms = None if further is None else _created_ms(conn, further)
    complete = ended or len(found) == limit
    if after is None:
        newer = None
        if before is not None:
            newer = found[0].sequence if found else before - 1
        return Page(found, further, newer, searched_to_ms, complete)
    found.reverse()
    older = found[-1].sequence if found else after + 1
    return Page(found, older, further, searched_to_ms, complete)


def joined(first: Page, then: Page, *, down: bool) -> Page:
    """Two pages as one; `then` went on from where `first` ended."""
    if down:
        newer = first.next_after
        if newer is not None and not first.receipts and then.receipts:
            newer = then.receipts[0].sequence
        return msgspec.structs.replace(
            then, receipts=first.receipts + then.receipts, next_after=newer
        )
    older = first.next_before
    if not first.receipts and then.receipts:
        older = then.receipts[-1].sequence
    return msgspec.structs.replace(then, receipts=then.receipts + first.receipts, next_before=older)


def find(conn: sqlite3.Connection, text: str, owner: str | None) -> Found:
    """The receipts whose id is `text` or begins with it; `owner` None looks among everybody's.

    Hyphens and case do not count. Less than PREFIX_DIGITS_MIN digits find nothing; of the requests
    in flight nothing is known here.
    """
    digits = text.strip().replace("-", "").lower()
    if not PREFIX_DIGITS_MIN <= len(digits) <= 32 or not set(digits) <= set("0123456789abcdef"):
        return Found([])
    begun = """SELECT seq FROM receipts WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT ?"""
    ranged = (
        bytes.fromhex(digits.ljust(32, "0")),
        bytes.fromhex(digits.ljust(32, "f")),
        ROWS_LOOKED_AT_MAX,
    )
    rows = conn.execute(
        f"""{store.RECEIPT} WHERE r.seq IN (SELECT seq FROM ({begun}))
            AND (? IS NULL OR r.owner = ?) ORDER BY r.seq DESC LIMIT ?""",
        (*ranged, owner, owner, FOUND_MAX + 1),
    )
    found = [store.to_receipt(row) for row in rows]
    (looked_at,) = conn.execute(f"SELECT count(*) FROM ({begun})", ranged).fetchone()
    return Found(found[:FOUND_MAX], len(found) > FOUND_MAX or looked_at == ROWS_LOOKED_AT_MAX)


def sequence_of(conn: sqlite3.Connection, receipt_id: str, owner: str | None) -> int | None:
    """The place in the chain of an owner's receipt; None where there is none of that id."""
    try:
        key = ids.to_bytes(receipt_id)
    except ValueError:
        return None
    for (seq,) in conn.execute(
        "SELECT seq FROM receipts WHERE id = ? AND (? IS NULL OR owner = ?)", (key, owner, owner)
    ):
        return int(seq)
    return None


# --- what is asked, as SQL --------------------------------------------------------------------


class _Plan(NamedTuple):
    """A filter as SQL: `rows` says which rows are looked at, `fits` which of them are given.

    Both are conditions with their parameters. `spread` is False where the rows looked at are all
    rows. `days` are the conditions on the sums of usage, None where they cannot tell.
    """

    wanted: Wanted
    index_hint: str
    rows: str
    row_params: list[Any]
    fits: str
    fit_params: list[Any]
    rows_max: int
    spread: bool
    days: str | None
    day_params: list[Any]


def _plan(conn: sqlite3.Connection, wanted: Wanted) -> _Plan | None:
    """None where nothing can fit."""
    owner = wanted.owner
    if wanted.key_id is not None:
        keys = _text(wanted.key_id)
        row = conn.execute("SELECT user_id FROM keys WHERE id = ?", (keys,)).fetchone()
        if row is None or owner not in (None, f"user:{row[0]}"):
            return None
        # A key's receipts are its user's, who has an index.
        owner = f"user:{row[0]}"
    if wanted.error is not None and wanted.status == "succeeded":
        return None
    unsuccessful = wanted.error is not None or wanted.status in ("failed", "cancelled")
    rows, row_params = [], []
    if owner is not None:
        rows.append("r.owner = ?")
        row_params.append(_text(owner))
    if unsuccessful:
        # As it is in the index: a parameter would not prove to SQLite that the index has them all.
        rows.append("r.status <> 'succeeded'")
    fits, fit_params = _fits(wanted)
    days, day_params = _days(wanted, owner)
    rows_max = OWNED_LOOKED_AT_MAX if rows else ROWS_LOOKED_AT_MAX
    if (wanted.key_id, wanted.provider, wanted.error) != (None, None, None):
        rows_max = BODIES_LOOKED_AT_MAX
    return _Plan(
        wanted,
        _INDEXES[owner is not None, unsuccessful],
        "".join(f" AND {one}" for one in rows),
        row_params,
        "".join(f" AND {one}" for one in fits),
        fit_params,
        rows_max,
        bool(rows),
        days,
        day_params,
    )


_INDEXES = {
    (False, False): "NOT INDEXED",
    (True, False): "INDEXED BY receipts_by_owner",
    (False, True): "INDEXED BY receipts_unsuccessful",
    (True, True): "INDEXED BY receipts_unsuccessful_by_owner",
}


def _fits(wanted: Wanted) -> tuple[list[str], list[Any]]:
    fits: list[str] = []
    params: list[Any] = []
    for column, value in (("status", wanted.status), ("model", wanted.model)):
        if value is not None:
            fits.append(f"r.{column} = ?")
            params.append(_text(value))
    if wanted.since_ms is not None:
        fits.append("r.created_ms >= ?")
        params.append(_near(wanted.since_ms))
    if wanted.until_ms is not None:
        fits.append("r.created_ms < ?")
        params.append(_near(wanted.until_ms))
    for value in (wanted.key_id, wanted.provider, wanted.error):
        if value is not None:
            # Its length goes before a text's bytes, so that none is found within another.
            fits.append("instr(r.body, ?)")
            params.append(_encode(_text(value)))
    return fits, params


def _days(wanted: Wanted, owner: str | None) -> tuple[str | None, list[Any]]:
    if wanted.key_id is None and wanted.provider is None:
        return None, []
    days: list[str] = []
    params: list[Any] = []
    if owner is not None:
        days.append("u.user_id = ?")
        number = owner.removeprefix("user:")
        # All callers with a provider's key of their own are counted as user 0.
        params.append(int(number) if _IS_USER.fullmatch(number) else 0)
    if wanted.key_id is not None:
        days.append("u.key_id = ?")
        params.append(_text(wanted.key_id))
    if wanted.provider is not None:
        days.append("u.provider = ?")
        params.append(_text(wanted.provider)[:NAME_CHARS_MAX])
    return "".join(f" AND {one}" for one in days), params


def _text(value: str) -> str:
    """A text that SQLite takes: what is not UTF-8 was replaced when it was written, too."""
    return value.encode("utf-8", "replace").decode()


def _near(ms: int) -> int:
    return max(-_FAR_MS, min(ms, _FAR_MS))


def _really_fits(wanted: Wanted, entry: Entry) -> bool:
    """Whether what was found in the body is where it belongs."""
    code = entry.failure and entry.failure.code
    return all(
        asked is None or _text(asked) == there
        for asked, there in (
            (wanted.key_id, entry.opening.key_id),
            (wanted.provider, entry.provider),
            (wanted.error, code),
        )
    )


# --- walking ----------------------------------------------------------------------------------


class _Walk:
    """One call's way along `seq`; `found` in the order of the way.

    Bounds are exclusive on both sides.
    """

    def __init__(self, conn: sqlite3.Connection, plan: _Plan, rows_max: int, *, down: bool) -> None:
        self._conn = conn
        self._plan = plan
        self._down = down
        self._left = rows_max
        self._head = _head(conn)
        self.found: list[Receipt] = []

    def go(self, low: int, high: int, enough: int) -> tuple[bool, int]:
        """Walk between the bounds; whether all was looked at, and the last row that was."""
        day: int | None = None
        while high - low > 1 and len(self.found) < enough:
            if self._left <= 0:
                return False, high if self._down else low
            part, has_any = (low, high), True
            skips = self._plan.days is not None and high - low > self._left
            if skips:
                next_day = self._next_day(low, high, day)
                if next_day is None:
                    return True, low
                day, has_any = next_day
                part = self._of_day(day, low, high)
            edge = self._look(*part, enough) if has_any else self._far_end(*part)
            before = low, high
            if self._down:
                high = min(high, edge)
            else:
                low = max(low, edge)
            if skips and before != (low, high):
                # Taken off afterwards, and only for what was won: whoever goes on must get on.
                self._left -= _SKIP_ROWS if has_any else self._left
        return len(self.found) < enough, high if self._down else low

    def _far_end(self, low: int, high: int) -> int:
        return low + 1 if self._down else high - 1

    def _look(self, low: int, high: int, enough: int) -> int:
        """Look at rows, `_left` at most; returns the bound from which to go on."""
        end = self._far_end(low, high)
        if high - low <= 1:
            return end
        count, last = self._measure(low, high)
        self._left -= count
        if not count:
            return end
        if self._left <= 0:
            end = last
            low, high = (last - 1, high) if self._down else (low, last + 1)
        for row in self._rows(low, high):
            receipt = store.to_receipt(row)
            if _really_fits(self._plan.wanted, receipt.entry):
                self.found.append(receipt)
                if len(self.found) == enough:
                    return receipt.sequence
        return end

    def _measure(self, low: int, high: int) -> tuple[int, int]:
        """How many rows there are to look at, `_left` at most, and the last of them."""
        plan = self._plan
        if not plan.spread:
            count = min(self._left, high - low - 1)
            return count, high - count if self._down else low + count
        last, order = ("min", "DESC") if self._down else ("max", "ASC")
        count, seq = self._conn.execute(
            f"""SELECT count(*), {last}(seq) FROM (
                SELECT r.seq FROM receipts r {plan.index_hint}
                WHERE r.seq > ? AND r.seq < ?{plan.rows} ORDER BY r.seq {order} LIMIT ?)""",
            (low, high, *plan.row_params, self._left),
        ).fetchone()
        return count, seq or 0

    def _rows(self, low: int, high: int) -> Iterator[Any]:
        plan = self._plan
        return self._conn.execute(
            f"""{store.RECEIPT} {plan.index_hint}
            WHERE r.seq > ? AND r.seq < ?{plan.rows}{plan.fits}
            ORDER BY r.seq {"DESC" if self._down else "ASC"}""",
            (low, high, *plan.row_params, *plan.fit_params),
        )

    def _next_day(self, low: int, high: int, last: int | None) -> tuple[int, bool] | None:
        """The next day that has any that may fit, and True; `last` was looked at. None: no more.

        Where DAYS_SKIPPED_MAX days have none: the last of them, and False.
        """
        if last is not None:
            day = last - 1 if self._down else last + 1
        elif self._down:
            day = (_latest_ms(self._conn, high - 1) + LATE_MS) // DAY_MS
        else:
            day = (_latest_ms(self._conn, low) - LATE_MS) // DAY_MS if low > 0 else 0
        which, beside, beyond = ("max", "<=", "<") if self._down else ("min", ">=", ">")
        # From day to day along the key, by those that there are.
        row = self._conn.execute(
            f"""WITH RECURSIVE days (day, number) AS (
                SELECT {which}(day), 1 FROM usage WHERE day {beside} ? UNION ALL
                SELECT (SELECT {which}(day) FROM usage WHERE day {beyond} days.day), number + 1
                FROM days WHERE days.day IS NOT NULL)
            SELECT day, EXISTS (SELECT 1 FROM usage u WHERE u.day = days.day{self._plan.days})
                AS has_any
            FROM days WHERE day IS NOT NULL AND (has_any OR number = ?) LIMIT 1""",
            (day, *self._plan.day_params, DAYS_SKIPPED_MAX),
        ).fetchone()
        return None if row is None else (int(row[0]), bool(row[1]))

    def _of_day(self, day: int, low: int, high: int) -> tuple[int, int]:
        """The bounds of a day's rows, within those given."""
        begin = _begin(self._conn, self._head, day * DAY_MS)
        end = _end(self._conn, self._head, (day + 1) * DAY_MS)
        low, high = max(low, begin), min(high, end)
        return (low, high) if low < high else (low, low + 1)


def _bounds(
    conn: sqlite3.Connection, wanted: Wanted, before: int | None, after: int | None
) -> tuple[int, int]:
    head = _head(conn)
    low, high = 0, head + 1
    if wanted.since_ms is not None:
        low = _begin(conn, head, _near(wanted.since_ms))
    if wanted.until_ms is not None:
        high = _end(conn, head, _near(wanted.until_ms))
    if before is not None:
        high = min(high, before)
    if after is not None:
        low = max(low, after)
    return low, high


def _head(conn: sqlite3.Connection) -> int:
    row = conn.execute("SELECT seq FROM chain").fetchone()
    return int(row[0]) if row else 0


def _begin(conn: sqlite3.Connection, head: int, ms: int) -> int:
    """A row at or below which none arrived at `ms` or later."""
    return max(0, _first_at(conn, head, ms - LATE_MS) - _WINDOW)


def _end(conn: sqlite3.Connection, head: int, ms: int) -> int:
    """A row at or above which none arrived before `ms`."""
    return _first_at(conn, head, ms + LATE_MS)


def _first_at(conn: sqlite3.Connection, head: int, ms: int) -> int:
    """Where rows begin that arrived at `ms` or later, nearly: one above the head if none did."""
    low, high = 0, head + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _latest_ms(conn, middle) < ms:
            low = middle
        else:
            high = middle
    return high


def _latest_ms(conn: sqlite3.Connection, seq: int) -> int:
    """The latest arrival among a row and those just before it: one that is late does not count."""
    (ms,) = conn.execute(
        "SELECT max(created_ms) FROM receipts WHERE seq BETWEEN ? AND ?", (seq - _WINDOW + 1, seq)
    ).fetchone()
    return 0 if ms is None else int(ms)


def _created_ms(conn: sqlite3.Connection, seq: int) -> int | None:
    row = conn.execute("SELECT created_ms FROM receipts WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else int(row[0])
