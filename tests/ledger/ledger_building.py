"""Openings and entries to write, and ways to wait; for the tests of the ledger."""

import asyncio
import time
from collections.abc import Callable

from gateway.ledger.entry import Attempt, Entry, Opening, PriceShown
from gateway.ledger.ids import new_id
from gateway.ledger.writer import Durability, Ledger
from gateway.wire.neutral import Usage

SECRET = b"a secret of at least thirty-two bytes"
DEADLINE_S = 10.0


def an_opening(user_id: int | None = 1, model: str = "premium") -> Opening:
    return Opening(
        id=new_id(),
        owner=f"user:{user_id}" if user_id else "byok:c0ffee",
        created_ms=time.time_ns() // 1_000_000,
        endpoint="/v1/chat/completions",
        format="openai_chat",
        model=model,
        stream=True,
        bytes=412,
        user_id=user_id,
        key_id="key_1" if user_id else None,
    )


def an_entry(opening: Opening, cost: int | None = 105_000, *, billed: bool = True) -> Entry:
    return Entry(
        opening=opening,
        status="succeeded",
        http_status=200,
        provider="openai",
        route_model="gpt-4o",
        route_format="openai_chat",
        attempts=[Attempt("openai", "gpt-4o", "succeeded", 200, 31.0)],
        usage=Usage(input_tokens=10, output_tokens=8),
        usage_source="reported",
        cost_nano_usd=cost,
        billed=billed,
        price=PriceShown("2026-11-21", {"input_per_mtok": "2.50", "output_per_mtok": "10.00"}),
        total_ms=1840.2,
    )


def never_fatal(exc: BaseException) -> None:
    raise AssertionError(f"the ledger stopped: {exc!r}")


async def open_ledger(path: str, durability: Durability = "full") -> Ledger:
    return await Ledger.open(path, secret=SECRET, durability=durability, on_fatal=never_fatal)


async def durable(ledger: Ledger, ticket: int) -> None:
    """Return once everything up to `ticket` is durable."""
    done = asyncio.Event()
    ledger.when_durable(ticket, done.set)
    async with asyncio.timeout(DEADLINE_S):
        await done.wait()


async def finished(ledger: Ledger, *entries: Entry) -> None:
    """Finish all entries at once and return when each was acknowledged."""
    left = asyncio.Semaphore(0)
    for entry in entries:
        ledger.finish(entry, left.release)
    async with asyncio.timeout(DEADLINE_S):
        for _ in entries:
            await left.acquire()


async def until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds; TimeoutError if it never does."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - there is nothing to be told by
            await asyncio.sleep(0.005)
