"""Pages of users, keys and codes by key, and who spent most: against all rows, in plain Python."""

import sqlite3

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger import listing, money, schema, store
from gateway.ledger.listing import ROWS_LOOKED_AT_MAX, Slice
from gateway.ledger.records import Code, Key

NOW_MS = 1_000_000


@pytest.fixture
def conn() -> sqlite3.Connection:
    return empty()


def empty() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    for steps in schema.MIGRATIONS:
        for step in steps:
            made.execute(step) if isinstance(step, str) else step(made)
    return made


def add_users(conn: sqlite3.Connection, count: int) -> None:
    conn.executemany(
        "INSERT INTO users (name, admin, created_ms) VALUES (?, 0, 1)",
        ((f"user {number}",) for number in range(count)),
    )


def add_key(conn: sqlite3.Connection, user_id: int, name: str, **more: int) -> str:
    key = Key(f"key_{name}", user_id, "", name, "gw-", 1, hash=name.encode())
    return store.create_key(conn, msgspec.structs.replace(key, **more)).id


def test_a_search_stops_at_its_bound_and_goes_on_from_there(conn: sqlite3.Connection) -> None:
    add_users(conn, ROWS_LOOKED_AT_MAX + 2)
    last = f"user {ROWS_LOOKED_AT_MAX + 1}"
    first = listing.user_ids(conn, last, limit=5)
    assert first == Slice([], ROWS_LOOKED_AT_MAX, complete=False)
    assert first.further is not None
    found = listing.user_ids(conn, last, above=first.further, limit=5)
    assert found == Slice([ROWS_LOOKED_AT_MAX + 2])


@given(
    names=st.lists(st.sampled_from(["ada", "bob", "%", "_", "!"]), max_size=12),
    text=st.sampled_from(["", "a", "b", "%", "_", "!", "A"]),
    limit=st.integers(1, 5),
)
def test_all_pages_together_are_all_users_that_fit(names: list[str], text: str, limit: int) -> None:
    conn = empty()
    conn.executemany(
        "INSERT INTO users (name, admin, created_ms) VALUES (?, 0, 1)",
        ((f"{name} {number}",) for number, name in enumerate(names)),
    )
    wanted = [number for number, name in enumerate(names, 1) if text.lower() in name]
    found: list[int] = []
    above: int | None = 0
    while above is not None:
        page = listing.user_ids(conn, text, above=above, limit=limit)
        assert len(page.rows) <= limit
        found += page.rows
        above = page.further
    assert found == wanted


def test_keys_have_the_state_that_requests_would_find(conn: sqlite3.Connection) -> None:
    add_users(conn, 2)
    store.suspend_user(conn, "user 1", 5)
    active = add_key(conn, 1, "active")
    expired = add_key(conn, 1, "expired", expires_ms=NOW_MS)
    revoked = add_key(conn, 1, "revoked", expires_ms=NOW_MS, revoked_ms=1)
    suspended = add_key(conn, 2, "suspended", expires_ms=NOW_MS)
    for state, ids in (
        (None, [suspended, revoked, expired, active]), ("active", [active]),
        ("expired", [expired]), ("revoked", [revoked]), ("suspended", [suspended]),
    ):  # fmt: skip
        assert listing.key_ids(conn, now_ms=NOW_MS, state=state, limit=9).rows == ids  # type: ignore[arg-type]
    assert listing.key_ids(conn, now_ms=NOW_MS, user_id=2, limit=9).rows == [suspended]
    assert listing.key_counts(conn, [1, 2, 3]) == {1: 2, 2: 1}


def test_pages_of_one_users_keys_go_by_key_past_those_of_others(conn: sqlite3.Connection) -> None:
    add_users(conn, 2)
    made = [add_key(conn, 1 + number % 2, f"k{number}") for number in range(9)]
    found: list[str] = []
    below = None
    while True:
        page = listing.key_ids(conn, now_ms=NOW_MS, user_id=1, below=below, limit=2)
        found += page.rows
        below = page.further
        if below is None:
            break
    assert found == made[::-2]


def test_codes_are_listed_by_state(conn: sqlite3.Connection) -> None:
    add_users(conn, 1)
    money.add_codes(
        conn,
        [Code("a", "a…", 1, 1, hash=b"a"), Code("b", "b…", 2, 1, NOW_MS, hash=b"b"),
         Code("c", "c…", 3, 1, NOW_MS, hash=b"c")],
    )  # fmt: skip
    money.redeem(conn, b"c", 1, 2)
    for state, ids in (
        (None, ["c", "b", "a"]), ("active", ["a"]), ("expired", ["b"]), ("redeemed", ["c"]),
    ):  # fmt: skip
        found = listing.codes(conn, now_ms=NOW_MS, state=state, limit=9)  # type: ignore[arg-type]
        assert [code.id for code in found.rows] == ids
    assert listing.codes(conn, now_ms=NOW_MS, limit=1).rows[0].redeemed_by == "user 0"
    assert listing.issued(conn) == 3


USAGE = st.lists(
    st.tuples(
        st.integers(0, 4), st.integers(0, 3), st.sampled_from(["k", "l"]),
        st.sampled_from(["", "p", "q"]), st.sampled_from(["", "m", "n"]),
    ),
    unique=True, max_size=25,
)  # fmt: skip


@given(rows=USAGE, since=st.integers(0, 4), until=st.integers(0, 4), limit=st.integers(1, 4))
def test_sums_are_those_of_the_days_asked_for(
    rows: list[tuple[int, int, str, str, str]], since: int, until: int, limit: int
) -> None:
    conn = empty()
    sums = {row: 1 + number for number, row in enumerate(rows)}
    conn.executemany(
        "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*row, n, n, n, n, n * n, n) for row, n in sums.items()],
    )
    inside = [(row, n) for row, n in sums.items() if since <= row[0] <= until]
    spent: dict[int, int] = {}
    for row, n in inside:
        spent[row[1]] = spent.get(row[1], 0) + n * n
    asked = {user: nano for user, nano in spent.items() if user in (1, 2)}
    assert listing.spent(conn, [1, 2], since, until) == asked
    by_user = sorted(((-nano, user) for user, nano in spent.items() if user))[:limit]
    found = listing.top(conn, "user", since, until, limit)
    assert [one.nano_usd for one in found] == [-nano for nano, _ in by_user]
    models: dict[tuple[str, str], int] = {}
    for row, n in inside:
        if row[4]:
            models[row[3:]] = models.get(row[3:], 0) + n
    every = listing.top(conn, "model", since, until, 99)
    assert {one.of: one.requests for one in every} == models
    assert {one.of: one.list_nano_usd for one in every} == models
