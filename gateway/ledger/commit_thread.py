"""The one thread that writes, and what it is given.

Used by `writer.py` alone. The thread has the connection, the lock and the ballast; it takes queued
values in order and answers the event loop only through `call_soon_threadsafe`, by the callables of
`Ears`. It never reads or writes anything of the loop's.
"""

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from gateway.errors import StoreError
from gateway.ledger import store
from gateway.ledger.batch import Store
from gateway.ledger.disk import Ballast, StoreLock, lay_out_log
from gateway.ledger.entry import Entry, Failure, Opening

log = logging.getLogger("gateway.ledger")

T = TypeVar("T")

BATCH_ITEMS_MAX = 4096
"""Bounds one transaction: a few megabytes of log, under a tenth of a second of work."""

CHECKPOINT_PAGES = 3000
"""Pages of 4 KiB between checkpoints: three quarters of the log that `lay_out_log` makes."""

_COMMIT_PAGES = 6
_ROWS_PER_PAGE = 3
"""What a commit adds to the log, roughly: the ends of every table and index, then its rows."""

RETRY_FIRST_S = 0.02
RETRY_LAST_S = 0.5

GIVE_UP_S = 5.0
"""How long, once asked to stop, the thread goes on trying to write to a full disk."""

INTERRUPTED = Failure(
    "gateway", "internal_error", "the gateway stopped while this request was in flight"
)
"""What the receipt of a request says whose gateway died. Its `http_status` is 0: nobody knows
what the client was sent. Its times are 0 for the same reason, and it is not charged."""


class Job(Generic[T]):
    """A control-plane write: run once in the batch's transaction, told once it is durable."""

    def __init__(self, fn: Callable[[sqlite3.Connection], T], future: asyncio.Future[T]) -> None:
        self._fn = fn
        self._future = future
        self._outcome: tuple[T] | None = None
        self.error: Exception | None = None

    def __call__(self, conn: sqlite3.Connection) -> None:
        """Run on the writer's thread. Raises only what concerns the whole transaction."""
        try:
            self._outcome = (store.in_savepoint(conn, self._fn),)
        except Exception as exc:
            if isinstance(exc, sqlite3.Error) and store.verdict(exc) != "refused":
                raise
            self.error = exc

    def tell(self) -> None:
        """Wake whoever awaits it; on the loop's thread."""
        if self._future.done():
            return
        if self.error is not None:
            self._future.set_exception(self.error)
        elif self._outcome is not None:
            self._future.set_result(self._outcome[0])
        else:
            self._future.set_exception(StoreError("the ledger stopped before this was written"))


class Stop:
    """Wakes the thread to see that `stopping` is set."""


Item = Opening | Entry | Job[Any] | Stop


class Commit(NamedTuple):
    """One transaction that is durable.

    `items` were taken from the queue for it, in order; `finished` are the ids of its entries;
    `seconds` the transaction took from its first row to the end of its fsync.
    """

    items: int
    finished: Sequence[str]
    jobs: Sequence[Job[Any]]
    seconds: float
    rows: int


class Ears(NamedTuple):
    """What the thread tells; each is called on the loop's thread."""

    committed: Callable[[Commit], None]
    writable: Callable[[bool], None]
    stopped: Callable[[BaseException, Sequence[Item]], None]


class CommitThread:
    """Opens the store, writes until stopped, closes it.

    `started` resolves once the store is open and recovered, or raises StoreError; `ended` once
    everything is closed, however it came to that. `gather_s`: how long a batch may gather. To
    end it set `stopping`, then queue a `Stop`: what is queued is written first.
    """

    def __init__(self, path: str, secret: bytes, ears: Ears, *, gather_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._secret = secret
        self._ears = ears
        self._gather_s = gather_s
        self._ballast = Ballast(path)
        self._store: Store | None = None
        self._held = False
        self._broken = False
        self._give_up_at: float | None = None
        self.stopping = False
        self._log_pages = 0
        self.queue: queue.SimpleQueue[list[Item]] = queue.SimpleQueue()
        self.started: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)

    def _tell(self, fn: Callable[..., object], *args: object) -> None:
        # The loop may have been closed under us; then nobody is left to be told.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(fn, *args)

    # --- begin and end

    def _run(self) -> None:
        lock: StoreLock | None = None
        try:
            lock = StoreLock(self._path)
            opened = self._open()
        except BaseException as exc:  # noqa: BLE001 - raised to whoever awaits the start
            if lock is not None:
                lock.release()
            self._tell(_settle, self.started, exc)
            return
        self._tell(_settle, self.started, None)
        try:
            while not (self._broken or (self.stopping and self.queue.empty())):
                self._turn(opened)
        finally:
            try:
                opened.close()
            except sqlite3.Error:
                log.exception("closing the store")
            lock.release()
            self._tell(_settle, self.ended, None)

    def _open(self) -> Store:
        opened = Store.open(self._path, self._secret)
        try:
            left = [
                Entry(opening=opening, status="failed", http_status=0, failure=INTERRUPTED)
                for opening in opened.left_open()
            ]
            if left:
                opened.commit((), left)
                log.warning("closed %d requests that the last process left open", len(left))
        except BaseException as exc:
            opened.close()
            if isinstance(exc, sqlite3.Error):
                raise StoreError(f"{self._path}: {exc}") from exc
            raise
        lay_out_log(self._path)
        if not self._ballast.load():
            log.error("%s: the disk is nearly full: no new requests", self._path)
            self._hold()
        return opened

    # --- the cycle

    def _turn(self, opened: Store) -> None:
        try:
            batch = self._take(RETRY_LAST_S if self._held else None)
        except queue.Empty:
            self._let_go()
            return
        try:
            self._write(opened, batch)
        except BaseException as exc:
            log.exception("the ledger stops: it cannot know what became of its last write")
            opened.rollback()
            self._broken = True
            self._tell(self._ears.stopped, exc, batch)

    def _take(self, timeout_s: float | None) -> list[Item]:
        """Wait until something is queued and take all there is; queue.Empty after `timeout_s`."""
        source = self.queue
        items = source.get(timeout=timeout_s)
        if self._gather_s and not self.stopping:
            time.sleep(self._gather_s)
        while len(items) < BATCH_ITEMS_MAX and not source.empty():
            items += source.get_nowait()
        if self.stopping and self._give_up_at is None:
            self._give_up_at = time.monotonic() + GIVE_UP_S
        return items

    def _write(self, opened: Store, batch: list[Item]) -> None:
        """Commit `batch`, trying again while the disk is full; raises any other failure."""
        delay_s = 0.0
        while True:
            openings, entries, jobs = _sorted(batch)
            begun = time.perf_counter()
            try:
                rows = opened.commit(openings, entries, jobs)
            except sqlite3.Error as exc:
                if store.verdict(exc) != "later":
                    raise
                opened.rollback()
                self._put_off(exc, jobs)
            else:
                seconds = time.perf_counter() - begun
                finished = [entry.opening.id for entry in entries]
                commit = Commit(len(batch), finished, jobs, seconds, rows)
                self._tell(self._ears.committed, commit)
                self._after(opened, rows)
                return
            if self._give_up_at is not None and time.monotonic() > self._give_up_at:
                log.error("%s: gave up on %d writes: no space", self._path, len(batch))
                return
            # At once the first time: giving the ballast back may have been enough.
            if delay_s:
                with contextlib.suppress(queue.Empty):
                    batch += self._take(delay_s)
            delay_s = min(delay_s * 2 or RETRY_FIRST_S, RETRY_LAST_S)

    def _after(self, opened: Store, rows: int) -> None:
        if self._held:
            self._let_go()
        self._log_pages += _COMMIT_PAGES + rows // _ROWS_PER_PAGE
        if self._log_pages < CHECKPOINT_PAGES:
            return
        self._log_pages = 0
        try:
            opened.checkpoint()
        except sqlite3.Error as exc:
            # A file that cannot grow leaves its rows in the log, where they are as safe.
            if store.verdict(exc) != "later":
                raise

    # --- a full disk

    def _put_off(self, exc: sqlite3.Error, jobs: Sequence[Job[Any]]) -> None:
        if not self._held:
            log.error("%s: cannot write: %s; no new requests until it can", self._path, exc)
            self._ballast.drop()
            self._hold()
        # The control plane is told at once; only what requests are owed is tried again.
        for job in jobs:
            job.error = StoreError(f"{self._path}: {exc}")
            self._tell(job.tell)

    def _hold(self) -> None:
        self._held = True
        self._tell(self._ears.writable, False)

    def _let_go(self) -> None:
        """Take work again, but only once there is space for what is under way as well."""
        if self._ballast.load():
            self._held = False
            log.warning("%s: can be written again", self._path)
            self._tell(self._ears.writable, True)


def _sorted(batch: Sequence[Item]) -> tuple[list[Opening], list[Entry], list[Job[Any]]]:
    """Openings, entries, jobs; without the openings that their own entry has overtaken."""
    openings: dict[str, Opening] = {}
    entries: list[Entry] = []
    jobs: list[Job[Any]] = []
    for item in batch:
        if type(item) is Opening:
            openings[item.id] = item
        elif type(item) is Entry:
            openings.pop(item.opening.id, None)
            entries.append(item)
        elif type(item) is Job and item.error is None:
            jobs.append(item)
    return list(openings.values()), entries, jobs


def _settle(future: asyncio.Future[None], exc: BaseException | None) -> None:
    if future.done():
        return
    if exc is None:
        future.set_result(None)
    else:
        future.set_exception(exc)
