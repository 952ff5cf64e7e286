"""What is asked of the store and told to it about receipts, users and keys.

Money is in `money.py`, sums of usage in `usage.py`, providers and models in `control.py`, passwords
and sessions in `sign_in.py`, and what requests write in `batch.py`. These functions take a
connection: those that write are for `Ledger.execute`, those that only read are also for
`Ledger.read`. They know rows and values, no threads and no event loop. SQL lives in these modules
and in `schema.py`, and nowhere else.

A contradiction with what is stored is a Conflict, Missing where what is named is not there.
sqlite3 errors leave as they are, because the writer must tell a full disk from a broken one
(`verdict`).
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

import msgspec

from gateway.errors import Conflict, Missing, StoreError
from gateway.ledger import chain, ids, schema
from gateway.ledger.entry import Entry
from gateway.ledger.records import Key, Receipt, User, VerifyResult, email_form

_decode_entry = msgspec.msgpack.Decoder(Entry).decode

T = TypeVar("T")


def verdict(exc: sqlite3.Error) -> Literal["later", "fatal", "refused"]:
    """What an sqlite3 error means for whoever wrote.

    "later": nothing was written and trying again can help (disk full, file busy). "fatal": the
    outcome is unknown, only a fresh start can read the truth (I/O error, damage). "refused": the
    statement itself is at fault.
    """
    primary = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "later"
    if primary in (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_TOOBIG,
    ):
        return "refused"
    return "fatal"


def in_savepoint(conn: sqlite3.Connection, fn: Callable[[sqlite3.Connection], T]) -> T:
    """Run `fn` so that, if it raises, only what it wrote is taken back."""
    conn.execute("SAVEPOINT job")
    try:
        result = fn(conn)
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK TO job")
            conn.execute("RELEASE job")
        raise
    conn.execute("RELEASE job")
    return result


# --- receipts ---------------------------------------------------------------------------------

RECEIPT = """SELECT r.seq, r.body, r.hash,
    (SELECT p.hash FROM receipts p WHERE p.seq = r.seq - 1) FROM receipts r"""


def receipt_query(receipt_id: str, owner: str | None) -> tuple[str, tuple[Any, ...]] | None:
    """SQL and parameters for one receipt; None where the id is not one. `owner` None: anybody's."""
    try:
        key = ids.to_bytes(receipt_id)
    except ValueError:
        return None
    return f"{RECEIPT} WHERE r.id = ? AND (? IS NULL OR r.owner = ?)", (key, owner, owner)


def listing_query(owner: str | None, after: str | None, limit: int) -> tuple[str, tuple[Any, ...]]:
    """SQL and parameters for receipts, newest first; see `Ledger.receipts`.

    What is asked of them besides is for `search.py`, which bounds the work.
    """
    where: list[str] = []
    params: list[Any] = []
    if owner is not None:
        where.append("r.owner = ?")
        params.append(owner)
    if after is not None:
        # An id that is not the owner's, or no id at all, compares with NULL: nothing is listed.
        where.append("r.seq < (SELECT seq FROM receipts WHERE id = ? AND ? IN (owner, ''))")
        try:
            params += [ids.to_bytes(after), owner or ""]
        except ValueError:
            params += [None, ""]
    clause = f" WHERE {' AND '.join(where)}" if where else ""
    return f"{RECEIPT}{clause} ORDER BY r.seq DESC LIMIT ?", (*params, limit)


RESPONSE_OWNER = "SELECT owner, provider FROM responses WHERE id = ?"


def to_receipt(row: Any) -> Receipt:
    """A row of the two queries above as a value; StoreError where its body cannot be read."""
    sequence, body, digest, previous = row
    try:
        entry = _decode_entry(body)
    except msgspec.MsgspecError as exc:
        raise StoreError(f"receipt {sequence} cannot be read: {exc}") from exc
    return Receipt(sequence, previous or chain.GENESIS, digest, entry)


def receipts_since(conn: sqlite3.Connection, since_ms: int = 0) -> Iterator[Receipt]:
    """Every receipt of a request that arrived at `since_ms` or later, oldest record first."""
    rows = conn.execute(f"{RECEIPT} WHERE r.created_ms >= ? ORDER BY r.seq", (since_ms,))
    return (to_receipt(row) for row in rows)


def verify_file(path: str, secret: bytes) -> VerifyResult:
    """`verify` on a file that no `Ledger` has open, or will open: it refuses a broken chain."""
    if not os.path.isfile(path):
        raise StoreError(f"{path}: no such file")
    try:
        conn = schema.open_reader(path)
        try:
            return verify(conn, secret)
        finally:
            conn.close()
    except (sqlite3.Error, UnicodeDecodeError) as exc:
        raise StoreError(f"{path}: {exc}") from exc


def verify(conn: sqlite3.Connection, secret: bytes) -> VerifyResult:
    """Walk the chain and name the first record changed, removed or added; reads only.

    Sees one moment of the store, whatever is written meanwhile. A record whose columns and hash
    were both replaced fits itself: it is named by its successor, or by the seal ("head").
    """
    owns = not conn.in_transaction
    text_factory = conn.text_factory
    conn.text_factory = _text_or_bytes
    if owns:
        conn.execute("BEGIN")
    try:
        return _verify(conn, chain.seal_key(secret))
    finally:
        conn.text_factory = text_factory
        if owns:
            conn.execute("ROLLBACK")


def record_fits(conn: sqlite3.Connection, sequence: int) -> bool:
    """Whether one record's hash is that of its columns and of the record before it; reads only.

    It says nothing of the rest of the chain: `verify` does.
    """
    row = conn.execute(
        "SELECT seq, id, owner, created_ms, status, model, body, hash,"
        " (SELECT p.hash FROM receipts p WHERE p.seq = r.seq - 1) FROM receipts r WHERE seq = ?",
        (sequence,),
    ).fetchone()
    if row is None:
        return False
    *columns, digest, previous = row
    if previous is None and sequence > 1:
        return False
    return bool(chain.digest(previous or chain.GENESIS, tuple(columns)) == digest)


def _text_or_bytes(raw: bytes) -> str | bytes:
    """Text that is no longer UTF-8 stays bytes, which hash differently: its record is named."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _verify(conn: sqlite3.Connection, key: bytes) -> VerifyResult:
    row = conn.execute("SELECT seq, hash, mac FROM chain").fetchone()
    end = row[0] if row and chain.sealed(key, *row) else None
    head = chain.GENESIS
    expected = 1
    for *columns, digest in conn.execute(
        "SELECT seq, id, owner, created_ms, status, model, body, hash FROM receipts ORDER BY seq"
    ):
        seq = columns[0]
        receipt_id = ids.to_text(columns[1]) if isinstance(columns[1], bytes) else None
        if seq < 1 or (end is not None and seq > end):
            return _broken(expected - 1, "added", seq, receipt_id)
        if seq > expected:
            return _broken(expected - 1, "removed", expected, None)
        head = chain.digest(head, tuple(columns))
        if head != digest:
            return _broken(expected - 1, "changed", seq, receipt_id)
        expected += 1
    checked = expected - 1
    if end is None:
        return VerifyResult(
            False,
            checked,
            "head",
            None,
            None,
            "the end of the chain is missing or not sealed by us",
        )
    if checked < end:
        return _broken(checked, "removed", expected, None)
    if head != row[1]:
        return _broken(checked, "changed", end, None)
    return VerifyResult(True, checked, message=f"{checked} receipts, none changed")


def _broken(
    checked: int, problem: Literal["changed", "removed", "added"], seq: int, receipt_id: str | None
) -> VerifyResult:
    name = f" ({receipt_id})" if receipt_id else ""
    return VerifyResult(
        False, checked, problem, seq, receipt_id, f"receipt {seq}{name} was {problem}"
    )


# --- users and keys ---------------------------------------------------------------------------

_USER = """SELECT id, name, email, admin, created_ms, suspended_ms, rate_multiplier, rpm, tpm,
    concurrent, daily_alert_nano_usd FROM users"""
_KEY = """SELECT k.id, k.user_id, u.name, k.name, k.hint, k.created_ms, k.expires_ms, k.revoked_ms,
    k.rpm, k.tpm, k.concurrent, k.spend_cap_nano_usd, k.on_disconnect, k.models, k.admin, k.hash
    FROM keys k JOIN users u ON u.id = k.user_id"""


def create_user(
    conn: sqlite3.Connection, *, name: str, email: str | None, admin: bool, created_ms: int
) -> User:
    """Add a user; Conflict where the name or the e-mail is taken."""
    if find_user(conn, name) is not None:
        raise Conflict(f"there is a user {name!r} already")
    form = _free_email(conn, email)
    conn.execute(
        "INSERT INTO users (name, email, email_form, admin, created_ms) VALUES (?, ?, ?, ?, ?)",
        (name, email, form, admin, created_ms),
    )
    return _user_named(conn, name)


def _free_email(conn: sqlite3.Connection, email: str | None, user_id: int = 0) -> str | None:
    """The form of an e-mail that no user but `user_id` has; Conflict where another one has it."""
    if email is None:
        return None
    form = email_form(email)
    if conn.execute(
        "SELECT 1 FROM users WHERE email_form = ? AND id <> ?", (form, user_id)
    ).fetchone():
        raise Conflict("email: another user has it")
    return form


def find_user(conn: sqlite3.Connection, name: str) -> User | None:
    """The user of that name."""
    return next(_users(conn.execute(f"{_USER} WHERE name = ?", (name,))), None)


def list_users(conn: sqlite3.Connection) -> list[User]:
    """Every user, first made first."""
    return list(_users(conn.execute(f"{_USER} ORDER BY id")))


def update_user(conn: sqlite3.Connection, name: str, **changes: Any) -> User:
    """Change what may change of a user (not the id, name, time or suspension); Missing if none.

    Conflict where the e-mail is another user's; one that is shared already may stay.
    """
    before = _user_named(conn, name)
    user = msgspec.structs.replace(before, **changes)
    if user.email != before.email:
        form = _free_email(conn, user.email, user.id)
        conn.execute("UPDATE users SET email_form = ? WHERE id = ?", (form, user.id))
    conn.execute(
        "UPDATE users SET email = ?, admin = ?, rate_multiplier = ?, rpm = ?, tpm = ?,"
        " concurrent = ?, daily_alert_nano_usd = ? WHERE id = ?",
        (
            user.email,
            user.admin,
            user.rate_multiplier,
            user.rpm,
            user.tpm,
            user.concurrent,
            user.daily_alert_nano_usd,
            user.id,
        ),
    )
    return _user_named(conn, name)


def suspend_user(conn: sqlite3.Connection, name: str, at_ms: int) -> User:
    """Suspend a user; one suspended before keeps its time. Missing where there is none."""
    conn.execute(
        "UPDATE users SET suspended_ms = coalesce(suspended_ms, ?) WHERE name = ?", (at_ms, name)
    )
    return _user_named(conn, name)


def resume_user(conn: sqlite3.Connection, name: str) -> User:
    """End a suspension, if there is one. Missing where there is no such user."""
    conn.execute("UPDATE users SET suspended_ms = NULL WHERE name = ?", (name,))
    return _user_named(conn, name)


def _user_named(conn: sqlite3.Connection, name: str) -> User:
    user = find_user(conn, name)
    if user is None:
        raise Missing(f"there is no user {name!r}")
    return user


def _users(rows: Iterable[Any]) -> Iterator[User]:
    for user_id, name, email, admin, *rest in rows:
        yield User(user_id, name, email, bool(admin), *rest)


def create_key(conn: sqlite3.Connection, key: Key) -> Key:
    """Add a key; Conflict where its user is unknown or its id or hash is taken."""
    values = (
        key.id,
        key.user_id,
        key.name,
        key.hint,
        key.created_ms,
        key.expires_ms,
        key.revoked_ms,
        key.rpm,
        key.tpm,
        key.concurrent,
        key.spend_cap_nano_usd,
        key.on_disconnect,
        _models_text(key.models),
        key.admin,
        key.hash,
    )
    try:
        conn.execute(
            "INSERT INTO keys (id, user_id, name, hint, created_ms, expires_ms, revoked_ms, rpm,"
            " tpm, concurrent, spend_cap_nano_usd, on_disconnect, models, admin, hash)"
            f" VALUES ({', '.join('?' * len(values))})",
            values,
        )
    except sqlite3.IntegrityError as exc:
        raise Conflict(f"key {key.id} cannot be added: its user is unknown, or it exists") from exc
    return _key_with(conn, key.id)


def list_keys(conn: sqlite3.Connection, user_name: str | None = None) -> list[Key]:
    """Every key, or one user's, first made first; revoked ones too."""
    return list(
        _keys(
            conn.execute(
                f"{_KEY} WHERE ? IS NULL OR u.name = ? ORDER BY k.created_ms, k.id",
                (user_name, user_name),
            )
        )
    )


def update_key(conn: sqlite3.Connection, key_id: str, **changes: Any) -> Key:
    """Change what may change of a key: its name, expiry, limits, models, cap and `on_disconnect`.

    Missing where there is none.
    """
    key = msgspec.structs.replace(_key_with(conn, key_id), **changes)
    conn.execute(
        "UPDATE keys SET name = ?, expires_ms = ?, rpm = ?, tpm = ?, concurrent = ?,"
        " spend_cap_nano_usd = ?, on_disconnect = ?, models = ? WHERE id = ?",
        (
            key.name,
            key.expires_ms,
            key.rpm,
            key.tpm,
            key.concurrent,
            key.spend_cap_nano_usd,
            key.on_disconnect,
            _models_text(key.models),
            key_id,
        ),
    )
    return _key_with(conn, key_id)


def revoke_key(conn: sqlite3.Connection, key_id: str, at_ms: int) -> Key:
    """Revoke a key; one revoked before keeps its time. Missing where there is none."""
    conn.execute(
        "UPDATE keys SET revoked_ms = coalesce(revoked_ms, ?) WHERE id = ?", (at_ms, key_id)
    )
    return _key_with(conn, key_id)


def _key_with(conn: sqlite3.Connection, key_id: str) -> Key:
    for key in _keys(conn.execute(f"{_KEY} WHERE k.id = ?", (key_id,))):
        return key
    raise Missing(f"there is no key {key_id!r}")


def _models_text(models: list[str] | None) -> str | None:
    return None if models is None else msgspec.json.encode(models).decode()


def _keys(rows: Iterable[Any]) -> Iterator[Key]:
    for *columns, cap, on_disconnect, models, admin, digest in rows:
        yield msgspec.structs.replace(
            Key(*columns),
            models=None if models is None else msgspec.json.decode(models, type=list[str]),
            spend_cap_nano_usd=cap,
            on_disconnect=on_disconnect,
            admin=bool(admin),
            hash=digest,
        )
