import sqlite3
from collections.abc import Callable

import pytest
from ledger_building import SECRET, an_entry, an_opening

from gateway.errors import StoreError
from gateway.ledger import chain, store
from gateway.ledger.batch import Store
from gateway.ledger.ids import new_id, to_bytes
from gateway.ledger.records import VerifyResult

RECORDS = 6
KEY = chain.seal_key(SECRET)


@pytest.fixture
def ids_written(path: str) -> list[str]:
    """Six receipts at `path`, written by two commits, and their ids."""
    opened = Store.open(path, SECRET)
    entries = [an_entry(an_opening()) for _ in range(RECORDS)]
    opened.commit((), entries[:4])
    opened.commit((), entries[4:])
    opened.close()
    return [entry.opening.id for entry in entries]


def tamper(path: str, *statements: str, params: tuple[object, ...] = ()) -> None:
    """What somebody with the file and without the secret can do."""
    conn = sqlite3.connect(path)
    for (name,) in conn.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '%refuse%'"
    ).fetchall():
        conn.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        conn.execute(statement, params)
    conn.commit()
    conn.close()


def verdict(path: str, secret: bytes = SECRET) -> VerifyResult:
    return store.verify_file(path, secret)


@pytest.mark.usefixtures("ids_written")
def test_an_untouched_chain_is_whole(path: str) -> None:
    assert verdict(path) == VerifyResult(True, RECORDS, message="6 receipts, none changed")


def test_an_empty_chain_is_whole(path: str) -> None:
    Store.open(path, SECRET).close()
    assert verdict(path).ok


@pytest.mark.parametrize("table", ["receipts", "transfers"])
@pytest.mark.parametrize(
    "attempt",
    [
        "UPDATE {table} SET created_ms = 0",
        "DELETE FROM {table} WHERE seq = 1",
        "INSERT OR REPLACE INTO {table} SELECT * FROM {table} WHERE seq = 1",
    ],
)
@pytest.mark.usefixtures("ids_written")
def test_the_writing_connection_cannot_change_or_delete(
    path: str, table: str, attempt: str
) -> None:
    opened = Store.open(path, SECRET)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        opened.conn.execute(attempt.format(table=table))
    opened.close()


@pytest.mark.parametrize("victim", [1, 3, RECORDS])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        pytest.param("id", to_bytes(new_id()), id="another-id"),
        ("owner", "user:2"),
        ("created_ms", 0),
        ("status", "failed"),
        ("model", "budget"),
        ("body", b"\x90"),
        ("hash", bytes(32)),
    ],
)
def test_the_first_record_with_a_changed_column_is_named(
    path: str, ids_written: list[str], victim: int, column: str, value: object
) -> None:
    tamper(path, f"UPDATE receipts SET {column} = ? WHERE seq = {victim}", params=(value,))
    found = verdict(path)
    assert (found.ok, found.problem, found.sequence) == (False, "changed", victim)
    assert found.checked == victim - 1
    if column != "id":
        assert found.receipt_id == ids_written[victim - 1]
        assert ids_written[victim - 1] in found.message


@pytest.mark.parametrize("victim", [1, 3, RECORDS])
@pytest.mark.usefixtures("ids_written")
def test_the_first_removed_record_is_named(path: str, victim: int) -> None:
    tamper(path, f"DELETE FROM receipts WHERE seq = {victim}")
    found = verdict(path)
    assert (found.problem, found.sequence) == ("removed", victim)


@pytest.mark.usefixtures("ids_written")
def test_a_cut_off_end_is_named(path: str) -> None:
    tamper(path, "DELETE FROM receipts WHERE seq > 3")
    found = verdict(path)
    assert (found.problem, found.sequence, found.checked) == ("removed", 4, 3)


@pytest.mark.usefixtures("ids_written")
def test_a_renumbered_record_is_missing_from_its_place(path: str) -> None:
    tamper(path, "UPDATE receipts SET seq = 100 WHERE seq = 3")
    found = verdict(path)
    assert (found.problem, found.sequence) == ("removed", 3)


@pytest.mark.parametrize(("seq", "checked"), [(RECORDS + 1, RECORDS), (0, 0), (-7, 0)])
@pytest.mark.usefixtures("ids_written")
def test_an_added_record_is_named_even_if_its_hash_fits(path: str, seq: int, checked: int) -> None:
    conn = sqlite3.connect(path)
    (last,) = conn.execute("SELECT hash FROM receipts WHERE seq = ?", (RECORDS,)).fetchone()
    raw, body = conn.execute("SELECT id, body FROM receipts WHERE seq = 1").fetchone()
    conn.close()
    raw = to_bytes(new_id())
    row: chain.Row = (seq, raw, "user:1", 0, "succeeded", "premium", body)
    tamper(
        path,
        "INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        params=(*row, chain.digest(last, row)),
    )
    found = verdict(path)
    assert (found.problem, found.sequence, found.checked) == ("added", seq, checked)


@pytest.mark.usefixtures("ids_written")
def test_an_end_that_was_cut_off_and_forged_is_not_sealed_by_us(path: str) -> None:
    tamper(
        path,
        "DELETE FROM receipts WHERE seq > 3",
        "UPDATE chain SET seq = 3, hash = (SELECT hash FROM receipts WHERE seq = 3)",
    )
    assert verdict(path).problem == "head"


def rehashed(conn: sqlite3.Connection) -> None:
    """Give record 3 another owner, and every record from there on a hash that fits."""
    conn.execute("UPDATE receipts SET owner = 'user:9' WHERE seq = 3")
    (head,) = conn.execute("SELECT hash FROM receipts WHERE seq = 2").fetchone()
    for row in conn.execute(
        "SELECT seq, id, owner, created_ms, status, model, body FROM receipts WHERE seq >= 3"
    ).fetchall():
        head = chain.digest(head, row)
        conn.execute("UPDATE receipts SET hash = ? WHERE seq = ?", (head, row[0]))


@pytest.mark.usefixtures("ids_written")
def test_a_chain_rewritten_to_its_end_does_not_meet_the_seal(path: str) -> None:
    tamper(path)
    conn = sqlite3.connect(path)
    rehashed(conn)
    conn.commit()
    conn.close()
    found = verdict(path)
    assert (found.ok, found.problem, found.sequence) == (False, "changed", RECORDS)


@pytest.mark.usefixtures("ids_written")
def test_another_secret_does_not_verify(path: str) -> None:
    assert verdict(path, b"another secret of thirty-two bytes").problem == "head"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: tamper(path, "DELETE FROM receipts WHERE seq > 3"), "last receipt"),
        (lambda path: tamper(path, "UPDATE receipts SET seq = 9 WHERE seq = 6"), "last receipt"),
        (lambda path: tamper(path, "UPDATE chain SET seq = 5"), "another secret, or changed"),
        (lambda path: tamper(path, "DELETE FROM chain"), "missing"),
    ],
)
@pytest.mark.usefixtures("ids_written")
def test_a_store_whose_end_does_not_fit_is_not_written_to(
    path: str, damage: Callable[[str], None], says: str
) -> None:
    damage(path)
    with pytest.raises(StoreError, match=says):
        Store.open(path, SECRET)


@pytest.mark.usefixtures("ids_written")
def test_a_store_is_not_opened_with_another_secret(path: str) -> None:
    with pytest.raises(StoreError, match="another secret"):
        Store.open(path, b"another secret of thirty-two bytes")
