import sqlite3

import msgspec
import pytest

from gateway.errors import Conflict, Missing
from gateway.ledger import store
from gateway.ledger.records import Key, User


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
        spend_cap_nano_usd=700,
        on_disconnect="drain",
        admin=True,
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
    assert store.resume_user(conn, "ada") == user
    assert store.resume_user(conn, "ada") == user
    with pytest.raises(Missing, match="bob"):
        store.resume_user(conn, "bob")


def test_only_what_was_asked_of_a_user_changes(conn: sqlite3.Connection, user: User) -> None:
    bob = store.create_user(conn, name="bob", email=None, admin=False, created_ms=6)
    changes = {
        "email": None, "admin": False, "rate_multiplier": "1.25", "rpm": 3, "tpm": 4,
        "concurrent": 5, "daily_alert_nano_usd": 6,
    }  # fmt: skip
    for column, value in changes.items():
        user = msgspec.structs.replace(user, **{column: value})
        assert store.update_user(conn, "ada", **{column: value}) == user
    assert store.update_user(conn, "ada", rpm=None, tpm=9) == msgspec.structs.replace(
        user, rpm=None, tpm=9
    )
    assert store.find_user(conn, "bob") == bob
    with pytest.raises(Missing, match="carl"):
        store.update_user(conn, "carl", rpm=1)


@pytest.mark.parametrize("models", [None, [], ["premium", "gpt-4o"]])
def test_a_key_is_kept_as_made(
    conn: sqlite3.Connection, user: User, models: list[str] | None
) -> None:
    key = a_key(user, models=models)
    assert store.create_key(conn, key) == key
    assert store.list_keys(conn) == store.list_keys(conn, "ada") == [key]
    assert store.list_keys(conn, "bob") == []


def test_only_what_was_asked_of_a_key_changes(conn: sqlite3.Connection, user: User) -> None:
    key = store.create_key(conn, a_key(user))
    other = store.create_key(conn, a_key(user, "key_2"))
    changes = {
        "name": "ci", "expires_ms": 99, "rpm": None, "tpm": 4, "concurrent": 5,
        "models": ["m"], "spend_cap_nano_usd": 0, "on_disconnect": None,
    }  # fmt: skip
    for column, value in changes.items():
        key = msgspec.structs.replace(key, **{column: value})
        assert store.update_key(conn, "key_1", **{column: value}) == key
    assert store.list_keys(conn) == [key, other]
    with pytest.raises(Missing, match="key_3"):
        store.update_key(conn, "key_3", rpm=1)


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
