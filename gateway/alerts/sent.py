"""What the alerts ask of the ledger: what was spent in a day, and what of it was told.

The only module here that hands functions to the ledger, which is a Protocol: `ledger/writer.py`
is one. Errors of the ledger (StoreError) leave as they are.
"""

import sqlite3
from collections.abc import Callable
from typing import Protocol, TypeVar

from gateway.alerts.daily import DAY_MS, Crossing
from gateway.ledger import usage
from gateway.ledger.records import UsageRow

T = TypeVar("T")

Mark = tuple[str, str, str]
"""subject, threshold, channel."""


class Ledger(Protocol):
    """What is needed of it; see `ledger/writer.py`."""

    async def execute(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` in a transaction; returns once that is durable."""

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` on a connection that can only read."""


class Sent:
    """The ledger's memory of alerts."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def recent(self, now_ms: int) -> list[UsageRow]:
        """The rows of yesterday and today, for `Daily.load`."""
        day = now_ms // DAY_MS

        def rows(conn: sqlite3.Connection) -> list[UsageRow]:
            return usage.sums(conn, day - 1) + usage.sums(conn, day)

        return await self._ledger.read(rows)

    async def marks(self, day: int) -> set[Mark]:
        """What was told of a day."""
        return await self._ledger.read(lambda conn: usage.sent(conn, day))

    async def mark(self, crossing: Crossing, channel: str, at_ms: int) -> None:
        """Remember that a channel has told it."""

        def write(conn: sqlite3.Connection) -> None:
            usage.mark_sent(
                conn, crossing.day, crossing.subject, crossing.threshold, channel, at_ms
            )

        await self._ledger.execute(write)
