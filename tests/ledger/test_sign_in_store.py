"""Passwords, sessions and links as rows; and stores of before there were any."""

import sqlite3

import pytest
from ledger_building import SECRET, an_entry, an_opening

from gateway.errors import Conflict
from gateway.ledger import chain, schema, sign_in, store
from gateway.ledger.batch import Store
from gateway.ledger.records import Session, SignInLink, User, email_form


def session(number: int, user_id: int, created_ms: int = 10, expires_ms: int = 100) -> Session:
    return Session(f"{number:064x}", user_id, created_ms, expires_ms)


def link(number: int, user_id: int, expires_ms: int = 100) -> SignInLink:
    return SignInLink(f"{number:064x}", user_id, 10, expires_ms)


def ids(*numbers: int) -> list[str]:
    return [f"{number:064x}" for number in numbers]


def test_a_password_is_kept_changed_and_compared(conn: sqlite3.Connection, user: User) -> None:
    sign_in.check_password(conn, user.id, None)
    sign_in.put_password(conn, user.id, "h1", 5)
    assert sign_in.passwords(conn) == {user.id: "h1"}
    sign_in.check_password(conn, user.id, "h1")
    for other in (None, "h2"):
        with pytest.raises(Conflict, match=r"^current_password: "):
            sign_in.check_password(conn, user.id, other)
    sign_in.put_password(conn, user.id, "h2", 6)
    sign_in.rehash_password(conn, user.id, "h3")
    rows = conn.execute("SELECT * FROM passwords").fetchall()
    assert rows == [(user.id, "h3", 6)]


def test_a_password_or_session_of_nobody_is_refused(conn: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        sign_in.put_password(conn, 77, "h", 5)
    with pytest.raises(sqlite3.IntegrityError):
        sign_in.add_session(conn, session(1, 77), 50)


def test_sessions_are_listed_in_order_until_they_expire(
    conn: sqlite3.Connection, user: User
) -> None:
    made = [session(9, user.id, 10, 100), session(3, user.id, 10, 90), session(5, user.id, 9, 100)]
    for one in made:
        assert sign_in.add_session(conn, one, 50) == []
    assert sign_in.live_sessions(conn, 89) == made
    assert sign_in.live_sessions(conn, 90) == [made[0], made[2]]
    assert sign_in.end_expired(conn, 90) == [made[1].id]
    sign_in.end_session(conn, made[0].id)
    sign_in.end_session(conn, made[0].id)
    assert sign_in.live_sessions(conn, 0) == [made[2]]


def test_a_session_above_the_bound_ends_the_oldest_of_its_user_only(
    conn: sqlite3.Connection, user: User
) -> None:
    other = store.create_user(conn, name="bob", email=None, admin=False, created_ms=5)
    sign_in.add_session(conn, session(100, other.id), 3)
    for number in range(3):
        # The clock goes back: the oldest is the one that was made first all the same.
        assert sign_in.add_session(conn, session(number, user.id, 50 - number), 3) == []
    assert sign_in.add_session(conn, session(3, user.id), 3) == ids(0)
    assert sign_in.add_session(conn, session(4, user.id), 3) == ids(1)
    assert {one.id for one in sign_in.live_sessions(conn, 20)} == {*ids(2, 3, 4, 100)}


def test_a_new_session_takes_away_those_that_expired(conn: sqlite3.Connection, user: User) -> None:
    sign_in.add_session(conn, session(1, user.id, 10, 20), 50)
    sign_in.add_link(conn, link(2, user.id, expires_ms=30))
    assert sign_in.add_session(conn, session(3, user.id, 30), 50) == ids(1)
    assert conn.execute("SELECT count(*) FROM sign_in_links").fetchone() == (0,)


def test_all_sessions_of_a_user_end_save_one(conn: sqlite3.Connection, user: User) -> None:
    other = store.create_user(conn, name="bob", email=None, admin=False, created_ms=5)
    for number in range(3):
        sign_in.add_session(conn, session(number, user.id), 50)
    sign_in.add_session(conn, session(9, other.id), 50)
    assert sorted(sign_in.end_sessions(conn, user.id, keep=f"{1:064x}")) == ids(0, 2)
    assert sign_in.end_sessions(conn, user.id) == ids(1)
    assert sign_in.end_sessions(conn, user.id) == []
    assert [one.user_id for one in sign_in.live_sessions(conn, 20)] == [other.id]


def test_a_link_is_used_once_and_in_time(conn: sqlite3.Connection, user: User) -> None:
    sign_in.add_link(conn, link(1, user.id))
    assert sign_in.live_links(conn, 99) == [link(1, user.id)]
    assert sign_in.live_links(conn, 100) == []
    for at_ms, number in ((100, 1), (50, 2)):
        with pytest.raises(Conflict, match=r"^link: "):
            sign_in.use_link(conn, f"{number:064x}", at_ms)
    sign_in.use_link(conn, f"{1:064x}", 99)
    with pytest.raises(Conflict, match=r"^link: "):
        sign_in.use_link(conn, f"{1:064x}", 99)
    assert sign_in.live_links(conn, 50) == []
    assert conn.execute("SELECT used_ms FROM sign_in_links").fetchall() == [(99,)]


def test_a_new_link_voids_those_of_its_user_that_were_not_used(
    conn: sqlite3.Connection, user: User
) -> None:
    other = store.create_user(conn, name="bob", email=None, admin=False, created_ms=5)
    sign_in.add_link(conn, link(1, user.id))
    sign_in.use_link(conn, f"{1:064x}", 20)
    for number, owner in ((2, user.id), (3, other.id), (4, user.id)):
        sign_in.add_link(conn, link(number, owner))
    assert {one.id for one in sign_in.live_links(conn, 50)} == {*ids(3, 4)}
    rows = conn.execute("SELECT count(*) FROM sign_in_links WHERE used_ms IS NOT NULL")
    assert rows.fetchone() == (1,)
    sign_in.end_links(conn, user.id)
    assert [one.id for one in sign_in.live_links(conn, 50)] == ids(3)


# --- e-mail addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann@Example.ORG", "ann@example.org"),
        ("JOS\u00c9@x.org", "jose\u0301@x.org"),
        ("ΣΊΣΥΦΟΣ@x.gr", "σίσυφος@x.gr"),
    ],
)
def test_an_address_is_the_same_in_any_case_and_spelling(
    conn: sqlite3.Connection, one: str, other: str
) -> None:
    assert email_form(one) == email_form(other)
    store.create_user(conn, name="one", email=one, admin=False, created_ms=5)
    with pytest.raises(Conflict, match=r"^email: "):
        store.create_user(conn, name="other", email=other, admin=False, created_ms=5)
    store.create_user(conn, name="other", email=None, admin=False, created_ms=5)
    with pytest.raises(Conflict, match=r"^email: "):
        store.update_user(conn, "other", email=other)
    assert store.update_user(conn, "one", email=other).email == other
    assert store.update_user(conn, "one", email=None).email is None
    assert store.update_user(conn, "other", email=one).email == one


def a_store_of_version_2(path: str) -> None:
    """With a receipt, and an address that two users share in different cases."""
    key = chain.seal_key(SECRET)
    conn = schema.open_writer(path, key, schema.MIGRATIONS[:2])
    conn.executemany(
        "INSERT INTO users (name, email, admin, created_ms) VALUES (?, ?, ?, 5)",
        [("ann", "Team@X.org", 1), ("bob", "team@x.org", 0), ("eve", None, 0),
         ("zoe", "ZO\u00cb@x.org", 0)],
    )  # fmt: skip
    conn.close()


def test_a_store_of_before_keeps_all_it_had_and_gets_the_new_tables(path: str) -> None:
    a_store_of_version_2(path)
    opened = Store.open(path, SECRET)
    conn = opened.conn
    users = store.list_users(conn)
    assert [(user.name, user.email, user.admin) for user in users] == [
        ("ann", "Team@X.org", True), ("bob", "team@x.org", False), ("eve", None, False),
        ("zoe", "ZO\u00cb@x.org", False),
    ]  # fmt: skip
    sign_in.put_password(conn, users[0].id, "h", 5)
    sign_in.add_session(conn, session(1, users[0].id), 50)
    opened.commit((), [an_entry(an_opening())])
    opened.close()
    again = Store.open(path, SECRET)
    assert sign_in.passwords(again.conn) == {users[0].id: "h"}
    assert store.verify_file(path, SECRET).ok
    again.close()


def test_an_address_that_was_shared_before_may_stay_and_is_given_to_nobody_else(
    path: str,
) -> None:
    a_store_of_version_2(path)
    opened = Store.open(path, SECRET)
    conn = opened.conn
    assert store.update_user(conn, "bob", rpm=7).rpm == 7
    assert store.update_user(conn, "bob", email="team@x.org").email == "team@x.org"
    for email in ("TEAM@x.org", "zoe\u0308@x.org"):
        with pytest.raises(Conflict, match=r"^email: "):
            store.update_user(conn, "eve", email=email)
    store.update_user(conn, "ann", email="ann@x.org")
    store.update_user(conn, "bob", email="bob@x.org")
    assert store.update_user(conn, "eve", email="TEAM@x.org").email == "TEAM@x.org"
    opened.close()
