import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_building import SECRET, an_entry, an_opening

from gateway.errors import Conflict
from gateway.ledger import store
from gateway.ledger.batch import Store
from gateway.ledger.entry import Entry
from gateway.ledger.records import CREDIT_ACCOUNT, OPERATOR_ACCOUNT, Key, User


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


def credit(conn: sqlite3.Connection, user: User, nano_usd: int, ref: str = "first") -> bool:
    return store.post_transfer(
        conn,
        ref=ref,
        kind="credit",
        debit=CREDIT_ACCOUNT,
        credit=user.id,
        nano_usd=nano_usd,
        created_ms=9,
    )


def a_key(user: User, key_id: str = "key_1", models: list[str] | None = None) -> Key:
    return Key(
        id=key_id,
        user_id=user.id,
        user_name=user.name,
        name="laptop",
        hint="gw-abcd",
        created_ms=6,
        rpm=10,
        models=models,
        hash=key_id.encode(),
    )


def test_a_user_is_kept_as_made(conn: sqlite3.Connection, user: User) -> None:
    assert user == User(1, "ada", "a@example.org", True, 5)
    assert store.find_user(conn, "ada") == user
    assert store.find_user(conn, "bob") is None
    bob = store.create_user(conn, name="bob", email=None, admin=False, created_ms=6)
    assert store.list_users(conn) == [user, bob]


def test_a_name_is_taken_once(conn: sqlite3.Connection, user: User) -> None:
    with pytest.raises(Conflict, match="ada"):
        store.create_user(conn, name="ada", email=None, admin=False, created_ms=6)
    assert store.list_users(conn) == [user]


def test_a_suspended_user_keeps_the_time_of_the_first(conn: sqlite3.Connection, user: User) -> None:
    assert store.suspend_user(conn, "ada", 70).suspended_ms == 70
    assert store.suspend_user(conn, "ada", 80).suspended_ms == 70
    with pytest.raises(Conflict, match="bob"):
        store.suspend_user(conn, "bob", 80)
    assert [found.suspended_ms for found in store.list_users(conn)] == [70]
    assert user.suspended_ms is None


@pytest.mark.parametrize("models", [None, [], ["premium", "gpt-4o"]])
def test_a_key_is_kept_as_made(
    conn: sqlite3.Connection, user: User, models: list[str] | None
) -> None:
    key = a_key(user, models=models)
    assert store.create_key(conn, key) == key
    assert store.list_keys(conn) == store.list_keys(conn, "ada") == [key]
    assert store.list_keys(conn, "bob") == []


def test_a_key_needs_its_user_and_its_own_id_and_hash(conn: sqlite3.Connection, user: User) -> None:
    key = store.create_key(conn, a_key(user))
    for wrong in (
        key,
        msgspec.structs.replace(key, id="key_2"),
        msgspec.structs.replace(key, hash=b"other"),
        msgspec.structs.replace(key, id="key_2", hash=b"other", user_id=99),
        msgspec.structs.replace(key, id="key_2", hash=b""),
    ):
        with pytest.raises(Conflict):
            store.create_key(conn, wrong)
    assert store.list_keys(conn) == [key]


def test_a_revoked_key_keeps_the_time_of_the_first(conn: sqlite3.Connection, user: User) -> None:
    store.create_key(conn, a_key(user))
    assert store.revoke_key(conn, "key_1", 70).revoked_ms == 70
    assert store.revoke_key(conn, "key_1", 80).revoked_ms == 70
    with pytest.raises(Conflict, match="key_2"):
        store.revoke_key(conn, "key_2", 80)


def test_credit_is_posted_once_for_one_reference(conn: sqlite3.Connection, user: User) -> None:
    assert store.balance(conn, user.id) == 0
    assert credit(conn, user, 500)
    assert not credit(conn, user, 500)
    with pytest.raises(Conflict, match="other content"):
        credit(conn, user, 501)
    assert credit(conn, user, 7, "second")
    assert store.balance(conn, user.id) == 507
    assert store.balance(conn, CREDIT_ACCOUNT) == -507


@pytest.mark.parametrize("nano_usd", [0, -1, 2**63])
def test_a_transfer_moves_more_than_nothing(
    conn: sqlite3.Connection, user: User, nano_usd: int
) -> None:
    with pytest.raises(Conflict):
        credit(conn, user, nano_usd)


def test_a_transfer_has_two_ends_that_exist(conn: sqlite3.Connection, user: User) -> None:
    with pytest.raises(Conflict, match="99"):
        credit(conn, msgspec.structs.replace(user, id=99), 5)
    with pytest.raises(Conflict):
        credit(conn, msgspec.structs.replace(user, id=CREDIT_ACCOUNT), 5)
    assert store.check_books(conn) == []


@pytest.mark.parametrize(
    ("cost", "billed", "user_id"), [(0, True, 1), (None, True, 1), (5, False, 1), (5, True, None)]
)
def test_what_is_free_unpriced_or_not_billed_is_not_charged(
    opened: Store, cost: int | None, billed: bool, user_id: int | None
) -> None:
    opened.commit((), [an_entry(an_opening(user_id), cost, billed=billed)])
    assert opened.conn.execute("SELECT count(*) FROM transfers").fetchone() == (0,)
    assert store.check_books(opened.conn) == []


def test_the_books_name_what_does_not_add_up(opened: Store) -> None:
    conn = opened.conn
    entry = an_entry(an_opening(), 5)
    opened.commit((), [entry])
    conn.execute("UPDATE balances SET nano_usd = nano_usd + 1 WHERE account = 1")
    assert store.check_books(conn) == ["account 1: balance -4 is not the sum of its transfers, -5"]
    conn.execute("UPDATE balances SET nano_usd = nano_usd - 1 WHERE account = 1")
    conn.execute("DROP TRIGGER transfers_refuse_update")
    conn.execute("UPDATE transfers SET ref = 'elsewhere'")
    assert store.check_books(conn) == [
        f"receipt {entry.opening.id}: not charged what it says",
        "charge elsewhere: without a receipt",
    ]


costs = st.one_of(st.none(), st.integers(min_value=0, max_value=10**12))
requests = st.lists(st.tuples(costs, st.booleans(), st.booleans()), max_size=150)
credits = st.lists(st.integers(min_value=1, max_value=10**15), max_size=5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(requests, credits), min_size=1, max_size=4))
def test_a_balance_is_the_sum_of_its_transfers_whatever_was_written_how_often(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[tuple[list[tuple[int | None, bool, bool]], list[int]]],
) -> None:
    folder: Path = tmp_path_factory.mktemp("books")
    opened = Store.open(str(folder / "gateway.db"), SECRET)
    conn = opened.conn
    user = store.create_user(conn, name="u", email=None, admin=False, created_ms=1)
    due = 0
    count = 0
    for number, (wanted, given_credit) in enumerate(batches):
        entries: list[Entry] = []
        for cost, billed, twice in wanted:
            entry = an_entry(an_opening(user.id), cost, billed=billed)
            entries += [entry] * (1 + twice)
            count += 1
            due -= cost if billed and cost else 0
        opened.commit([entry.opening for entry in entries[::3]], ())
        opened.commit((), entries)
        opened.commit((), entries[:5])
        for at, nano_usd in enumerate(given_credit):
            credit(conn, user, nano_usd, f"{number}-{at}")
            due += nano_usd
    assert store.balance(conn, user.id) == due
    assert store.check_books(conn) == []
    total = sum(nano_usd for (nano_usd,) in conn.execute("SELECT nano_usd FROM balances"))
    assert total == 0
    assert conn.execute("SELECT count(*) FROM openings").fetchone() == (0,)
    found = store.verify(conn, SECRET)
    assert (found.ok, found.checked) == (True, count)
    assert -store.balance(conn, OPERATOR_ACCOUNT) == due - sum(
        nano_usd for _, given_credit in batches for nano_usd in given_credit
    )
    opened.close()
