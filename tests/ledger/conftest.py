"""A ledger in a directory of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ledger_building import open_ledger

from gateway.ledger.writer import Ledger


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "gateway.db")


@pytest.fixture
async def ledger(path: str) -> AsyncIterator[Ledger]:
    opened = await open_ledger(path)
    yield opened
    await opened.close()
