"""A ledger, or a store, in a directory of its own."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from ledger_building import SECRET, open_ledger

from gateway.ledger import store
from gateway.ledger.batch import Store
from gateway.ledger.records import User
from gateway.ledger.writer import Ledger


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "gateway.db")


@pytest.fixture
async def ledger(path: str) -> AsyncIterator[Ledger]:
    opened = await open_ledger(path)
    yield opened
    await opened.close()


@pytest.fixture
def opened(path: str) -> Iterator[Store]:
    made = Store.open(path, SECRET)
    yield made
    made.close()


@pytest.fixture
def conn(opened: Store) -> sqlite3.Connection:
    return opened.conn


@pytest.fixture
def user(conn: sqlite3.Connection) -> User:
    return store.create_user(conn, name="ada", email="a@example.org", admin=True, created_ms=5)
