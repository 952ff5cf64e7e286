"""Accounts over a ledger in a directory of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from accounts_site import PREFIX, SECRET, Clock, opened

from gateway.accounts.accounts import Accounts
from gateway.ledger.writer import Ledger


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = await opened(tmp_path / "gateway.db")
    yield ledger
    await ledger.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def accounts(ledger: Ledger, clock: Clock) -> Accounts:
    return await Accounts.load(ledger, SECRET, PREFIX, clock_ms=clock)
