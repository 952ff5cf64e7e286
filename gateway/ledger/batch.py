"""What requests write: openings, receipts, charges and their sums, many requests to a transaction.

`Store` owns the one connection that writes and lives on the writer's thread (`writer.py`). It
keeps no queue and knows no event loop. What is asked of the store is in `store.py`, `money.py`,
`usage.py` and `control.py`; SQL lives in these modules only.

Measured, CPU of opening, finishing and charging one request, two commits with fsync and their
share of checkpoints (Python 3.11, SQLite 3.40, ext4, one of two shared cores): 370 µs alone, 61 µs
with 8 requests to a commit, 18 µs with 64. Without fsync: 104, 28 and 14 µs; so a small batch
costs what the fsync costs, and a large one what its b-trees do.

The sums of usage add to these figures 1 µs with 64 to a commit (2.5 where all 64 are different
users), 3 µs with 8 and 11 µs alone: one more statement, and one more page to write.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain as joined
from typing import Any

import msgspec

from gateway.errors import StoreError
from gateway.ledger import chain, ids, schema, usage
from gateway.ledger.entry import COST_NANO_USD_MAX, Entry, Failure, Opening
from gateway.ledger.records import OPERATOR_ACCOUNT

log = logging.getLogger("gateway.ledger")

_encode = msgspec.msgpack.Encoder().encode
_decode_opening = msgspec.msgpack.Decoder(Opening).decode

ROWS_MAX = 256
"""Rows of one statement; more go into several."""


def _prepared(head: str, columns: int, tail: str) -> dict[int, str]:
    """The statement for 1, 2, 4, … rows: `head`, rows, `tail`."""
    row = f"({', '.join('?' * columns)})"
    sizes = [1 << power for power in range(ROWS_MAX.bit_length())]
    return {size: f"{head}{', '.join([row] * size)}{tail}" for size in sizes}


# Each call into sqlite3 gives the interpreter lock away, and a busy event loop gives it back up to
# a switch interval (5 ms by default) later, so a batch is few statements, one for each table:
# rows of NULLs fill it up to the next prepared size. (One statement for all tables, through a view
# and its triggers, was measured too: 22 µs a request at 64 where this takes 14.)
_FILLED = ") WHERE column1 IS NOT NULL"
_OPENINGS = _prepared(
    "INSERT INTO openings SELECT * FROM (VALUES ", 2, f"{_FILLED} ON CONFLICT DO NOTHING"
)
_RECEIPTS = _prepared("INSERT INTO receipts SELECT * FROM (VALUES ", 8, _FILLED)
_CHARGES = _prepared(
    "INSERT INTO transfers (ref, kind, debit, credit, nano_usd, created_ms) SELECT * FROM (VALUES ",
    6,
    f"{_FILLED} ON CONFLICT (ref, kind) DO NOTHING",
)
_RESPONSES = _prepared(
    "INSERT INTO responses SELECT * FROM (VALUES ", 3, f"{_FILLED} ON CONFLICT DO NOTHING"
)
_SUMS = _prepared(
    "INSERT INTO usage SELECT * FROM (VALUES ",
    11,
    f"""{_FILLED} ON CONFLICT (day, user_id, key_id, provider, model) DO UPDATE SET
        requests = requests + excluded.requests, failed = failed + excluded.failed,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        nano_usd = nano_usd + excluded.nano_usd,
        list_nano_usd = list_nano_usd + excluded.list_nano_usd""",
)
_CLOSED = _prepared("DELETE FROM openings WHERE id IN (VALUES ", 1, ")")

STATEFUL_FORMAT = "openai_responses"
"""The one format whose answers a provider keeps for later calls."""

Job = Callable[[sqlite3.Connection], None]
Row = tuple[Any, ...]


class Store:
    """The writing side: one connection, used by the thread that opened it."""

    def __init__(self, conn: sqlite3.Connection, path: str, key: bytes) -> None:
        self.conn = conn
        self._path = path
        self._key = key
        seq, head = conn.execute("SELECT seq, hash FROM chain").fetchone()
        self._seq: int = seq
        self._head: bytes = head
        self._open = {bytes(key) for (key,) in conn.execute("SELECT id FROM openings")}
        """The openings that are in the file: most requests end before theirs got there."""

    @classmethod
    def open(cls, path: str, secret: bytes) -> "Store":
        """Open or make the file and bring it up to date; StoreError where that cannot be."""
        key = chain.seal_key(secret)
        return cls(schema.open_writer(path, key), path, key)

    def left_open(self) -> list[Opening]:
        """The requests that were in flight when the last process ended."""
        rows = self.conn.execute("SELECT body FROM openings ORDER BY id").fetchall()
        try:
            return [_decode_opening(body) for (body,) in rows]
        except msgspec.MsgspecError as exc:
            raise StoreError(f"{self._path}: a request left open cannot be read: {exc}") from exc

    def commit(
        self, openings: Sequence[Opening], entries: Sequence[Entry], jobs: Sequence[Job] = ()
    ) -> int:
        """Write one transaction and return how many rows it added, once they are durable.

        Each entry brings its receipt, its charge, its part of the sums (`usage.py`), the maker of
        the response that its provider stores, and the removal of its opening. An entry whose id has
        a receipt already was written by an earlier commit and is passed over, charge and all. Jobs
        run last; what one raises undoes the whole transaction, so it keeps to itself
        what concerns only its own caller (`in_savepoint`). After any error call `rollback`.
        """
        try:
            return self._commit(openings, entries, jobs)
        except sqlite3.IntegrityError:
            self.rollback()
            unwritten = self._unwritten(entries)
            if len(unwritten) == len(entries):
                raise
            log.warning("passed over %d receipts written before", len(entries) - len(unwritten))
            return self._commit(openings, unwritten, jobs)

    def _commit(
        self, openings: Sequence[Opening], entries: Sequence[Entry], jobs: Sequence[Job]
    ) -> int:
        conn = self.conn
        opened = [(ids.to_bytes(opening.id), _encoded_opening(opening)) for opening in openings]
        sums: usage.Sums = {}
        seq, head, receipts, charges, responses = self._chained(entries, sums)
        alone = not receipts and not jobs and len(opened) <= ROWS_MAX
        if not alone:
            conn.execute("BEGIN IMMEDIATE")
        _write(conn, _OPENINGS, opened)
        if receipts:
            _write(conn, _RECEIPTS, receipts)
            _write(conn, _CHARGES, charges)
            _write(conn, _SUMS, [(*group, *counts) for group, counts in sums.items()])
            _write(conn, _RESPONSES, responses)
            closed = [(row[1],) for row in receipts if row[1] in self._open]
            _write(conn, _CLOSED, closed)
            mac = chain.seal(self._key, seq, head)
            conn.execute("UPDATE chain SET seq = ?, hash = ?, mac = ?", (seq, head, mac))
        for job in jobs:
            job(conn)
        if not alone:
            conn.execute("COMMIT")
        self._open.update(key for key, _ in opened)
        self._open.difference_update(row[1] for row in receipts)
        self._seq, self._head = seq, head
        return len(opened) + len(receipts)

    def _chained(
        self, entries: Sequence[Entry], sums: usage.Sums
    ) -> tuple[int, bytes, list[Row], list[Row], list[Row]]:
        """Encode, number, hash, sum: the end of the chain; rows of receipts, charges, responses."""
        seq, head = self._seq, self._head
        receipts: list[Row] = []
        charges: list[Row] = []
        responses: list[Row] = []
        for given in entries:
            entry, body = _encoded_entry(given)
            opening = entry.opening
            seq += 1
            created_ms = opening.created_ms
            row: chain.Row = (
                seq,
                ids.to_bytes(opening.id),
                opening.owner,
                created_ms,
                entry.status,
                opening.model,
                body,
            )
            head = chain.digest(head, row)
            receipts.append((*row, head))
            nano_usd = usage.add(sums, entry)
            if nano_usd:
                charges.append(
                    (
                        opening.id,
                        "charge",
                        opening.user_id,
                        OPERATOR_ACCOUNT,
                        nano_usd,
                        created_ms,
                    )
                )
            if entry.billed and entry.response_id and opening.format == STATEFUL_FORMAT:
                responses.append((entry.response_id, opening.owner, entry.provider or ""))
        return seq, head, receipts, charges, responses

    def _unwritten(self, entries: Sequence[Entry]) -> list[Entry]:
        fresh: dict[str, Entry] = {}
        for entry in entries:
            known = self.conn.execute(
                "SELECT 1 FROM receipts WHERE id = ?", (ids.to_bytes(entry.opening.id),)
            ).fetchone()
            if known is None:
                fresh.setdefault(entry.opening.id, entry)
        return list(fresh.values())

    def rollback(self) -> None:
        """Undo what `commit` began; never raises."""
        # SQLite has rolled back by itself after some errors, and then refuses to do it again.
        with contextlib.suppress(sqlite3.Error):
            if self.conn.in_transaction:
                self.conn.execute("ROLLBACK")

    def checkpoint(self) -> None:
        """Move what readers no longer hold back from the log into the file."""
        self.conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Close; the last connection to close empties the log into the file."""
        self.conn.close()


def _write(
    conn: sqlite3.Connection, statements: dict[int, str], rows: Sequence[tuple[Any, ...]]
) -> None:
    for at in range(0, len(rows), ROWS_MAX):
        part = rows[at : at + ROWS_MAX]
        size = 1 << (len(part) - 1).bit_length()
        params = list(joined.from_iterable(part))
        params += [None] * ((size - len(part)) * len(part[0]))
        conn.execute(statements[size], params)


def _encoded_entry(entry: Entry) -> tuple[Entry, bytes]:
    """The entry and its bytes; what cannot be encoded is replaced, never dropped.

    A header or a path may carry bytes that are not UTF-8 (surrogates, once decoded), a provider a
    number past 64 bits. Neither may cost the other requests of the batch their receipts.
    """
    cost = entry.cost_nano_usd
    try:
        if cost is not None and not 0 <= cost <= COST_NANO_USD_MAX:
            raise OverflowError(f"its cost of {cost} nano-USD is out of bounds")
        try:
            return entry, _encode(entry)
        except UnicodeEncodeError:
            entry = msgspec.convert(_clean(msgspec.to_builtins(entry)), Entry)
            return entry, _encode(entry)
    except (ValueError, OverflowError) as exc:
        log.exception("receipt %s could not be encoded", entry.opening.id)
        failure = Failure("gateway", "internal_error", f"the receipt could not be encoded: {exc}")
        opening = _decode_opening(_encoded_opening(entry.opening))
        entry = Entry(
            opening=opening, status="failed", http_status=entry.http_status, failure=failure
        )
        return entry, _encode(entry)


def _encoded_opening(opening: Opening) -> bytes:
    try:
        return _encode(opening)
    except UnicodeEncodeError:
        return _encode(_clean(msgspec.to_builtins(opening)))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value
