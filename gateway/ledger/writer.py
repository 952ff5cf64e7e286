"""The ledger as the rest of the gateway holds it. Event-loop thread only, every method.

`begin` and `finish` append to a list and return. The list goes to `commit_thread.py` in one piece,
which writes it in one transaction and tells the loop once; what comes meanwhile is the next piece.
So a thread is woken once per commit, not once per request, and a transaction's fixed cost (110 µs
of CPU besides the fsync) is shared. Alone a request waits for one fsync. Above GATHER_ENTRIES_PER_S
a piece also gathers for GATHER_S, where the next commit would come too soon to be worth its cost.

The opening of an answer that is not streamed is in no hurry: nothing reaches its client before its
receipt. It goes with the next piece, after OPENINGS_WAIT_S at the latest, and one whose receipt is
in the same piece is never written at all.

Tickets number what was queued, from 1 and in order. The writer takes the queue in order, so a
count of items is all that it has to tell.

When writing fails: a full disk keeps the batch, gives the ballast back for it and tries again
until there is space (`writable` is False meanwhile, and awaited control-plane writes fail). A
failure of which nobody can know what was kept (I/O error, damage) stops the writer for good and
goes to `on_fatal`: the process must end, and the next start reads the truth.
"""

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

import aiosqlite

from gateway.errors import StoreError
from gateway.ledger import background, schema, search, store
from gateway.ledger.commit_thread import Commit, CommitThread, Ears, Item, Job, Stop
from gateway.ledger.entry import Entry, Opening, Status
from gateway.ledger.records import Receipt
from gateway.ledger.search import Page, Wanted

T = TypeVar("T")

GATHER_ENTRIES_PER_S = 4000
"""Rate above which commits gather. Below it latency counts, and the CPU is there to be spent."""

GATHER_S = 0.001

RATE_WINDOW_S = 0.05
"""The rate is taken over this long: two entries in half a millisecond are no load."""

OPENINGS_WAIT_S = 0.02

Durability = Literal["full", "relaxed"]

READERS_MAX = 4
"""Reads at once; more wait. Verification and the proof of the books are among them."""

RELAXED_GATHER_S = 0.005
"""With "relaxed" nobody waits for a commit, so a batch gathers this long: fewer fsyncs, and
well inside the promised 20 ms."""


class Ledger:
    """Receipts and charges, durable; reads of what is there.

    `in_flight` holds the openings of requests whose receipt is not final yet, by id. `writable` is
    False while nothing can be written: refuse new requests. `on_commit`, when set, is called after
    each commit with the seconds it took and the rows it added.
    """

    def __init__(
        self, path: str, secret: bytes, durability: Durability, on_fatal: Callable[..., None]
    ) -> None:
        """Use `Ledger.open`."""
        self._path = path
        self._relaxed = durability == "relaxed"
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._queued = 0
        self._durable = 0
        self._out: list[Item] = []
        self._urgent = False
        self._scheduled = False
        self._with_thread = False
        self._lazy: asyncio.TimerHandle | None = None
        self._gathers = False
        self._window_entries = 0
        self._window_at = 0.0
        self._waiters: dict[int, Callable[[], None]] = {}
        self._landing: dict[str, int] = {}
        self._landings: set[asyncio.Future[None]] = set()
        self._error: StoreError | None = None
        self._closed = False
        self._reader: aiosqlite.Connection | None = None
        self._readers = background.threads(READERS_MAX, "reader")
        self._searching = asyncio.Lock()
        self.writable = True
        self.on_commit: Callable[[float, int], None] | None = None
        self.in_flight: dict[str, Opening] = {}
        ears = Ears(self._committed, self._set_writable, self._stopped)
        gather_s = RELAXED_GATHER_S if self._relaxed else 0.0
        self._thread = CommitThread(path, secret, ears, gather_s=gather_s)
        self._put = self._thread.queue.put

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        secret: bytes,
        durability: Durability,
        on_fatal: Callable[[BaseException], None],
    ) -> "Ledger":
        """Open the store at `path`, or make it, and close what a dead process left open.

        `secret` (32 bytes or more) seals the receipt chain. `on_fatal` is called once if the
        ledger can no longer write or know what it wrote: end the process with an error. Raises
        StoreError, one line: locked by another process, newer version, damaged, not writable,
        sealed with another secret, directory missing.
        """
        ledger = cls(path, secret, durability, on_fatal)
        ledger._thread.thread.start()
        await asyncio.shield(ledger._thread.started)
        try:
            ledger._reader = await aiosqlite.connect(
                path, isolation_level=None, timeout=schema.BUSY_TIMEOUT_S
            )
            await ledger._reader.execute(schema.READER_PRAGMA)
        except BaseException as exc:
            await ledger.close()
            if isinstance(exc, sqlite3.Error):
                raise StoreError(f"{path}: {exc}") from exc
            raise
        return ledger

    async def close(self) -> None:
        """Commit everything queued, then close. May be called twice; not with requests running.

        On a disk that stays full it gives up after `commit_thread.GIVE_UP_S`.
        """
        if not self._closed:
            self._closed = True
            self._thread.stopping = True
            self._queued += 1
            self._put([*self._out, Stop()])
            self._out = []
            if self._lazy is not None:
                self._lazy.cancel()
        if self._reader is not None:
            await self._reader.close()
            self._reader = None
        await asyncio.shield(self._thread.ended)
        self._thread.thread.join()
        self._readers.shutdown(wait=False)

    @property
    def queue_depth(self) -> int:
        """How many values wait to be durable."""
        return self._queued - self._durable

    # --- the hot path

    def begin(self, opening: Opening) -> int:
        """Queue the row that opens a receipt; returns its ticket. Never blocks."""
        self.in_flight[opening.id] = opening
        self._out.append(opening)
        self._queued += 1
        if opening.stream:
            self._hurry()
        elif self._lazy is None:
            self._lazy = self._loop.call_later(OPENINGS_WAIT_S, self._waited)
        return self._queued

    def when_durable(self, ticket: int, callback: Callable[[], None]) -> None:
        """Call back once everything up to `ticket` is durable; at once, before this returns, if
        it is already, or if durability is "relaxed". Never called if the ledger stops first.
        """
        if self._relaxed or ticket <= self._durable:
            callback()
        else:
            self._wait(ticket, callback)
            self._hurry()

    def finish(self, entry: Entry, callback: Callable[[], None] | None = None) -> None:
        """Queue a receipt with its charge; `begin` need not have been called for it.

        `callback` as for `when_durable`. Each id is finished once; a second entry is passed over.
        """
        self._out.append(entry)
        self._queued += 1
        self._hurry()
        if self._relaxed:
            receipt_id = entry.opening.id
            self.in_flight.pop(receipt_id, None)
            self._landing[receipt_id] = self._queued
            if callback is not None:
                callback()
        elif callback is not None:
            self._waiters[self._queued] = callback

    def _hurry(self) -> None:
        """Somebody waits for what is in the list: hand it over as soon as the thread is free."""
        self._urgent = True
        if not self._with_thread and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._hand_over)

    def _waited(self) -> None:
        self._lazy = None
        if self._out:
            self._hurry()

    def _hand_over(self) -> None:
        self._scheduled = False
        if self._out and not self._with_thread and not self._closed:
            out, self._out = self._out, []
            self._urgent = False
            self._with_thread = True
            self._put(out)

    def _next(self, entries: int) -> None:
        """The thread is free again after a commit of so many entries."""
        self._with_thread = False
        self._window_entries += entries
        now = time.monotonic()
        if now - self._window_at > RATE_WINDOW_S:
            rate = self._window_entries / (now - self._window_at)
            self._gathers = rate > GATHER_ENTRIES_PER_S
            self._window_entries, self._window_at = 0, now
        if self._urgent and not self._scheduled:
            self._scheduled = True
            if self._gathers:
                self._loop.call_later(GATHER_S, self._hand_over)
            else:
                self._hand_over()

    # --- the control plane and reading

    async def execute(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` on the writer's thread; returns what it returned once that is durable.

        It runs in a savepoint of its own in the next transaction: what it raises comes out here
        and undoes its own writes only. It must not begin, commit or roll back. StoreError where
        the ledger cannot write; nothing was kept then, unless the ledger stopped.
        """
        self._refuse_if_gone()
        if not self.writable:
            raise StoreError(f"{self._path}: cannot be written at present")
        future: asyncio.Future[T] = self._loop.create_future()
        self._out.append(Job(fn, future))
        self._queued += 1
        self._hurry()
        return await future

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` in a thread, on a connection of its own that can only read.

        For what is rare or long (verification, exports, loading users and keys). Return values,
        not cursors: the connection is closed when `fn` returns.
        """
        self._refuse_if_gone()
        await self._all_landed()
        return await self._loop.run_in_executor(self._readers, _read, self._path, fn)

    async def receipt(self, receipt_id: str, owner: str | None) -> Receipt | Opening | None:
        """The receipt of that id, or the opening of a request that is still running.

        None where there is none, or where it is not `owner`'s. `owner` None sees everybody's.
        """
        opening = self.in_flight.get(receipt_id)
        if opening is not None:
            return opening if owner in (None, opening.owner) else None
        ticket = self._landing.get(receipt_id)
        if ticket is not None:
            await self._landed(ticket)
        query = store.receipt_query(receipt_id, owner)
        rows = [] if query is None else await self._fetch(*query)
        return rows[0] if rows else None

    async def receipts(
        self,
        owner: str | None,
        *,
        limit: int = 20,
        after: str | None = None,
        status: Status | None = None,
        model: str | None = None,
    ) -> list[Receipt]:
        """Final receipts, newest first, `limit` at most; `owner` None lists everybody's.

        `after` is the id of the last receipt of the page before (one that is not the owner's
        lists nothing), `status` and `model` keep only exact matches.
        """
        await self._all_landed()
        if status is None and model is None:
            return await self._fetch(*store.listing_query(owner, after, limit))
        wanted = Wanted(owner=owner, status=status, model=model)
        before = None
        if after is not None:
            before = await self._looked_at(lambda conn: search.sequence_of(conn, after, owner))
            if before is None:
                return []
        page = await self.search(wanted, before=before, limit=limit, patience_s=math.inf)
        return page.receipts

    async def search(
        self,
        wanted: Wanted,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int,
        patience_s: float = 0.0,
    ) -> Page:
        """A page of final receipts; see `search.page`, of which this is one step or several.

        Steps go on while the page is not full and `patience_s` are not over. Each is a read of its
        own, so that others get in between; of all searches that go on, one at a time takes a step.
        Raises StoreError.
        """
        until = time.monotonic() + patience_s
        page = await self._looked_at(
            lambda conn: search.page(conn, wanted, before=before, after=after, limit=limit)
        )
        while not page.complete and time.monotonic() < until:
            async with self._searching:
                page = await self._further(wanted, page, down=after is None, limit=limit)
        return page

    async def _further(self, wanted: Wanted, page: Page, *, down: bool, limit: int) -> Page:
        """The next step of a search, joined to the page so far."""
        before, after = (page.next_before, None) if down else (None, page.next_after)
        missing = limit - len(page.receipts)
        more = await self._looked_at(
            lambda conn: search.page(conn, wanted, before=before, after=after, limit=missing)
        )
        return search.joined(page, more, down=down)

    async def _looked_at(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self.read(fn)
        except sqlite3.Error as exc:
            raise StoreError(f"{self._path}: {exc}") from exc

    async def state_owner(self, response_id: str) -> tuple[str, str] | None:
        """Who made a response that its provider stores, and the provider: (owner, provider).

        None for a response that no gateway key made. Raises StoreError.
        """
        await self._all_landed()
        for owner, provider in await self._rows(store.RESPONSE_OWNER, (response_id,)):
            return owner, provider
        return None

    async def _fetch(self, sql: str, params: tuple[object, ...]) -> list[Receipt]:
        return [store.to_receipt(row) for row in await self._rows(sql, params)]

    async def _rows(self, sql: str, params: tuple[object, ...]) -> Iterable[Any]:
        self._refuse_if_gone()
        assert self._reader is not None
        try:
            return await self._reader.execute_fetchall(sql, params)
        except sqlite3.Error as exc:
            raise StoreError(f"{self._path}: {exc}") from exc

    def _refuse_if_gone(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise StoreError(f"{self._path}: the ledger is closed")

    # --- waiting

    def _wait(self, ticket: int, callback: Callable[[], None]) -> None:
        first = self._waiters.get(ticket)
        self._waiters[ticket] = callback if first is None else _Both(first, callback)

    async def _all_landed(self) -> None:
        """With "relaxed": wait until all that was acknowledged can be read."""
        if self._landing:
            await self._landed(max(self._landing.values()))

    async def _landed(self, ticket: int) -> None:
        self._refuse_if_gone()
        future: asyncio.Future[None] = self._loop.create_future()
        self._landings.add(future)
        future.add_done_callback(self._landings.discard)
        self._wait(ticket, lambda: None if future.done() else future.set_result(None))
        self._hurry()
        await future

    # --- told by the writer's thread, on this one

    def _committed(self, commit: Commit) -> None:
        self._next(len(commit.finished))
        first = self._durable + 1
        self._durable += commit.items
        for receipt_id in commit.finished:
            self.in_flight.pop(receipt_id, None)
        if self._landing:
            for receipt_id in commit.finished:
                self._landing.pop(receipt_id, None)
        if self._waiters:
            take = self._waiters.pop
            for ticket in range(first, self._durable + 1):
                callback = take(ticket, None)
                if callback is not None:
                    self._call(callback)
        for job in commit.jobs:
            job.tell()
        if self.on_commit is not None:
            self.on_commit(commit.seconds, commit.rows)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as exc:  # noqa: BLE001 - one waiter's bug must not cost the others
            self._loop.call_exception_handler(
                {"message": "a callback of the ledger raised", "exception": exc}
            )

    def _set_writable(self, writable: bool) -> None:
        self.writable = writable and self._error is None

    def _stopped(self, exc: BaseException, batch: Sequence[Item]) -> None:
        self.writable = False
        self._error = StoreError(f"{self._path}: {exc}")
        items = list(batch)
        source = self._thread.queue
        while not source.empty():
            items += source.get_nowait()
        items += self._out
        for item in items:
            if isinstance(item, Job):
                item.error = self._error
                item.tell()
        for future in list(self._landings):
            if not future.done():
                future.set_exception(self._error)
        self._on_fatal(exc)


class _Both:
    """Two callbacks for one ticket; the second is called even if the first raises."""

    def __init__(self, first: Callable[[], None], second: Callable[[], None]) -> None:
        self._first = first
        self._second = second

    def __call__(self) -> None:
        try:
            self._first()
        finally:
            self._second()


def _read(path: str, fn: Callable[[sqlite3.Connection], T]) -> T:
    conn = schema.open_reader(path)
    try:
        return fn(conn)
    finally:
        conn.close()
