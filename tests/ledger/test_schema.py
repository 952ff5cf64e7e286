import os
import random
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from ledger_building import SECRET, an_entry, an_opening

from gateway.errors import StoreError
from gateway.ledger import chain, schema, store
from gateway.ledger.batch import Store

MUTATIONS = 60


def written(path: str, count: int = 200) -> None:
    opened = Store.open(path, SECRET)
    opened.commit((), [an_entry(an_opening()) for _ in range(count)])
    opened.close()


def refusal(path: str) -> str:
    with pytest.raises(StoreError) as caught:
        Store.open(path, SECRET)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_new_store_is_private_and_leaves_nothing_half_made(path: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.db.new").write_bytes(b"left by a start that was cut off")
    Store.open(path, SECRET).close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["gateway.db"]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_the_log_is_as_private_as_the_store(path: str) -> None:
    opened = Store.open(path, SECRET)
    opened.commit([an_opening()], ())
    assert stat.S_IMODE(os.stat(f"{path}-wal").st_mode) == 0o600
    opened.close()


def test_a_store_commits_with_fsync_to_a_write_ahead_log(path: str) -> None:
    opened = Store.open(path, SECRET)
    asked = [
        opened.conn.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers")
    ]
    opened.close()
    assert asked == ["wal", 2, 1, 1]


def test_a_missing_directory_is_refused_and_not_made(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere" / "gateway.db")
    assert "directory" in refusal(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 8192, b"SQLite format 3\x00" * 600])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    refusal(path)
    assert Path(path).read_bytes() == content


def test_a_directory_in_its_place_is_refused(path: str) -> None:
    os.mkdir(path)
    assert "not a file" in refusal(path)


def test_another_programs_database_is_refused_and_left_alone(path: str) -> None:
    conn = sqlite3.connect(path)
    conn.execute("CREATE TABLE theirs (a)")
    conn.commit()
    conn.close()
    assert "not a ledger" in refusal(path)
    conn = sqlite3.connect(path)
    assert conn.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
    conn.close()


def test_a_log_without_its_store_is_refused(path: str) -> None:
    Path(f"{path}-wal").write_bytes(b"receipts, perhaps")
    assert "-wal" in refusal(path)
    assert not os.path.exists(path)


def test_a_newer_version_is_refused_and_named(path: str) -> None:
    written(path, 1)
    conn = sqlite3.connect(path)
    conn.execute("INSERT INTO migrations VALUES (?, 0)", (len(schema.MIGRATIONS) + 1,))
    conn.commit()
    conn.close()
    assert f"version {len(schema.MIGRATIONS) + 1}" in refusal(path)


@pytest.mark.parametrize("keep", [100, 4096, 20_000])
def test_a_store_cut_short_is_refused(path: str, keep: int) -> None:
    written(path)
    assert os.path.getsize(path) > 2 * keep
    os.truncate(path, keep)
    refusal(path)
    assert os.path.getsize(path) == keep


def complaint_about(path: str) -> str:
    """Why the store cannot be opened or is not whole; "" where all is well."""
    try:
        Store.open(path, SECRET).close()
        found = store.verify_file(path, SECRET)
    except StoreError as exc:
        return str(exc)
    return "" if found.ok else found.message


def test_a_damaged_store_is_refused_or_the_damage_is_named(tmp_path: Path) -> None:
    """No damage to a receipt goes unseen, and no start answers it with anything but one line."""
    whole = str(tmp_path / "whole.db")
    written(whole)
    conn = schema.open_reader(whole)
    receipts = list(store.receipts_since(conn))
    conn.close()
    rng = random.Random(5)
    refused = 0
    for number in range(MUTATIONS):
        path = str(tmp_path / f"{number}.db")
        shutil.copy(whole, path)
        with open(path, "r+b") as file:
            file.seek(rng.randrange(os.path.getsize(path)))
            file.write(rng.randbytes(rng.choice([1, 16, 512])))
        complaint = complaint_about(path)
        assert "\n" not in complaint
        refused += bool(complaint)
        if not complaint:
            conn = schema.open_reader(path)
            assert list(store.receipts_since(conn)) == receipts
            conn.close()
    assert 0 < refused < MUTATIONS


def test_a_migration_that_fails_leaves_the_version_before_it(path: str) -> None:
    written(path, 1)
    key = chain.seal_key(SECRET)
    fails = (*schema.MIGRATIONS, ("CREATE TABLE first (a INTEGER) STRICT", "CREATE TABLE x (a"))
    with pytest.raises(StoreError, match="incomplete input"):
        schema.open_writer(path, key, fails)
    works = (*schema.MIGRATIONS, ("CREATE TABLE first (a INTEGER) STRICT",))
    conn = schema.open_writer(path, key, works)
    last = len(works)
    assert conn.execute("SELECT version FROM migrations ORDER BY 1").fetchall() == [
        (version,) for version in range(1, last + 1)
    ]
    assert conn.execute("SELECT count(*) FROM first").fetchone() == (0,)
    conn.close()
    assert f"version {last}" in refusal(path)
