"""The store's file: its tables, how it is made, opened, checked and brought up to date.

This module says what the tables are; `store.py` and those it names say what is done with them.
Every refusal is a StoreError of one line that opens with the file's path; a file that cannot be
read as our ledger is never replaced by an empty one.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable

from gateway.errors import StoreError
from gateway.ledger import chain, sign_in, usage
from gateway.ledger.disk import sync_directory

APPLICATION_ID = 0x47574C31
"""In the file's header: tells a ledger from any other SQLite file."""

QUICK_CHECK_BYTES_MAX = 64 * 1024 * 1024
"""Larger files are not walked at start (about a second per GB); `verify` reads all of them."""

BUSY_TIMEOUT_S = 5.0

# UnicodeDecodeError: SQLite quotes a damaged schema in its message, bytes and all.
_UNREADABLE = (sqlite3.Error, OSError, UnicodeDecodeError)

_FIRST = (
    """CREATE TABLE migrations (
        version INTEGER PRIMARY KEY, applied_ms INTEGER NOT NULL) STRICT""",
    """CREATE TABLE users (
        id INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id > 0), name TEXT NOT NULL UNIQUE,
        email TEXT, admin INTEGER NOT NULL, created_ms INTEGER NOT NULL, suspended_ms INTEGER,
        rate_multiplier TEXT NOT NULL DEFAULT '1', rpm INTEGER, tpm INTEGER, concurrent INTEGER
    ) STRICT""",
    """CREATE TABLE keys (
        id TEXT PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users (id), name TEXT NOT NULL,
        hint TEXT NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER, revoked_ms INTEGER,
        rpm INTEGER, tpm INTEGER, concurrent INTEGER, models TEXT,
        hash BLOB NOT NULL UNIQUE CHECK (length(hash) > 0)) STRICT""",
    # An opening lives for one request: without a rowid its insert and its delete touch one b-tree.
    """CREATE TABLE openings (
        id BLOB PRIMARY KEY CHECK (length(id) = 16), body BLOB NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE receipts (
        seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
        owner TEXT NOT NULL, created_ms INTEGER NOT NULL, status TEXT NOT NULL,
        model TEXT NOT NULL, body BLOB NOT NULL, hash BLOB NOT NULL CHECK (length(hash) = 32)
    ) STRICT""",
    "CREATE INDEX receipts_by_owner ON receipts (owner, seq)",
    # Who made a response that its provider stores, and which provider that is: all gateway keys
    # share the provider's account, and only its maker may go on with it.
    """CREATE TABLE responses (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, provider TEXT NOT NULL) STRICT, WITHOUT ROWID""",
    # Both sides of a transfer in one row: it cannot be posted by half.
    """CREATE TABLE transfers (
        seq INTEGER PRIMARY KEY, ref TEXT NOT NULL, kind TEXT NOT NULL, debit INTEGER NOT NULL,
        credit INTEGER NOT NULL, nano_usd INTEGER NOT NULL CHECK (nano_usd > 0),
        created_ms INTEGER NOT NULL, UNIQUE (ref, kind), CHECK (debit <> credit)) STRICT""",
    # Sums of transfers, kept by the trigger below, so that a balance is one look-up.
    "CREATE TABLE balances (account INTEGER PRIMARY KEY, nano_usd INTEGER NOT NULL) STRICT",
    """CREATE TRIGGER transfers_are_summed AFTER INSERT ON transfers BEGIN
        INSERT INTO balances VALUES (NEW.debit, -NEW.nano_usd)
            ON CONFLICT (account) DO UPDATE SET nano_usd = nano_usd - NEW.nano_usd;
        INSERT INTO balances VALUES (NEW.credit, NEW.nano_usd)
            ON CONFLICT (account) DO UPDATE SET nano_usd = nano_usd + NEW.nano_usd;
    END""",
    """CREATE TABLE chain (
        id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, hash BLOB NOT NULL,
        mac BLOB NOT NULL) STRICT""",
    *(
        f"""CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table} BEGIN
            SELECT RAISE(ABORT, '{table} are append-only: add a correction'); END"""
        for table in ("receipts", "transfers")
        for verb in ("UPDATE", "DELETE")
    ),
    f"PRAGMA application_id = {APPLICATION_ID}",
)

_SECOND: "Steps" = (
    "ALTER TABLE transfers ADD COLUMN reason TEXT",
    "ALTER TABLE users ADD COLUMN daily_alert_nano_usd INTEGER",
    "ALTER TABLE keys ADD COLUMN spend_cap_nano_usd INTEGER",
    "ALTER TABLE keys ADD COLUMN on_disconnect TEXT",
    "ALTER TABLE keys ADD COLUMN admin INTEGER NOT NULL DEFAULT 0",
    """CREATE TABLE codes (
        id TEXT PRIMARY KEY, hint TEXT NOT NULL, nano_usd INTEGER NOT NULL CHECK (nano_usd > 0),
        created_ms INTEGER NOT NULL, expires_ms INTEGER, redeemed_ms INTEGER,
        redeemed_by INTEGER REFERENCES users (id),
        hash BLOB NOT NULL UNIQUE CHECK (length(hash) > 0)) STRICT""",
    # Answers to what must not be done twice: the same key gets the same answer again.
    """CREATE TABLE idempotency (
        key TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, answer BLOB NOT NULL,
        created_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE caps (
        user_id INTEGER NOT NULL REFERENCES users (id), model TEXT NOT NULL,
        nano_usd INTEGER NOT NULL CHECK (nano_usd > 0),
        PRIMARY KEY (user_id, model)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE provider_keys (
        id TEXT PRIMARY KEY, provider TEXT NOT NULL, hint TEXT NOT NULL,
        created_ms INTEGER NOT NULL, version INTEGER NOT NULL, sealed BLOB NOT NULL,
        disabled_ms INTEGER) STRICT""",
    """CREATE TABLE provider_settings (
        provider TEXT PRIMARY KEY, paused_ms INTEGER, paused_by TEXT, format TEXT, base_url TEXT,
        catalog TEXT) STRICT, WITHOUT ROWID""",
    """CREATE TABLE model_settings (
        provider TEXT NOT NULL, model TEXT NOT NULL, enabled INTEGER NOT NULL,
        multiplier TEXT NOT NULL, price TEXT, context_length INTEGER, max_output_tokens INTEGER,
        PRIMARY KEY (provider, model)) STRICT, WITHOUT ROWID""",
    # Sums of receipts, written with them: a day's counters survive a restart, a key's spending
    # is known without reading its receipts.
    """CREATE TABLE usage (
        day INTEGER NOT NULL, user_id INTEGER NOT NULL, key_id TEXT NOT NULL,
        provider TEXT NOT NULL, model TEXT NOT NULL, requests INTEGER NOT NULL,
        failed INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
        nano_usd INTEGER NOT NULL, list_nano_usd INTEGER NOT NULL,
        PRIMARY KEY (day, user_id, key_id, provider, model)) STRICT, WITHOUT ROWID""",
    usage.recount,
    # What was told of a day: one message a day, subject, threshold and channel.
    """CREATE TABLE alerts_sent (
        day INTEGER NOT NULL, subject TEXT NOT NULL, threshold TEXT NOT NULL,
        channel TEXT NOT NULL, sent_ms INTEGER NOT NULL,
        PRIMARY KEY (day, subject, threshold, channel)) STRICT, WITHOUT ROWID""",
)

_THIRD: "Steps" = (
    # What addresses are compared by: SQLite folds the case of ASCII only. Not unique, because
    # stores of before may hold one address twice.
    "ALTER TABLE users ADD COLUMN email_form TEXT",
    sign_in.fill_email_forms,
    "CREATE INDEX users_by_email ON users (email_form)",
    """CREATE TABLE passwords (
        user_id INTEGER PRIMARY KEY REFERENCES users (id), hash TEXT NOT NULL,
        changed_ms INTEGER NOT NULL) STRICT""",
    """CREATE TABLE sessions (
        hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
        user_id INTEGER NOT NULL REFERENCES users (id), created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL) STRICT""",
    "CREATE INDEX sessions_by_user ON sessions (user_id)",
    "CREATE INDEX sessions_by_end ON sessions (expires_ms)",
    """CREATE TABLE sign_in_links (
        hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
        user_id INTEGER NOT NULL REFERENCES users (id), created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL, used_ms INTEGER) STRICT""",
)

_FOURTH: "Steps" = (
    # Looking for what went wrong. Written for receipts that did not succeed and no others: within
    # the noise of a commit, where an index of all by owner and model would cost it a sixth more.
    "CREATE INDEX receipts_unsuccessful ON receipts (seq, status) WHERE status <> 'succeeded'",
    """CREATE INDEX receipts_unsuccessful_by_owner ON receipts (owner, seq, status)
        WHERE status <> 'succeeded'""",
)

_FIFTH: "Steps" = (
    # Whose a key is, and what a user was given, for pages of them. Charges are in no index but
    # their own: the requests that write them pay for a comparison.
    "CREATE INDEX keys_by_user ON keys (user_id)",
    """CREATE INDEX transfers_given ON transfers (max(debit, credit), seq)
        WHERE kind <> 'charge'""",
)

Steps = tuple[str | Callable[[sqlite3.Connection], None], ...]
"""Statements, and what no statement can do, in order and in one transaction."""

Migrations = tuple[Steps, ...]

MIGRATIONS: Migrations = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH)
"""Version n is `MIGRATIONS[n - 1]`. Append; never edit one that was released."""


def open_writer(path: str, key: bytes, migrations: Migrations = MIGRATIONS) -> sqlite3.Connection:
    """The one connection that writes, on the calling thread. The caller holds the store's lock.

    Makes the file where there is none; `key` seals a new chain and checks an old one's seal.
    Raises StoreError.
    """
    try:
        if not _look_at(path):
            _create(path, key, migrations)
        conn = _connect(path)
    except _UNREADABLE as exc:
        raise StoreError(f"{path}: {exc}") from exc
    try:
        _check(conn, path, len(migrations))
        _migrate(conn, migrations)
        _check_head(conn, path, key)
    except BaseException as exc:
        conn.close()
        if isinstance(exc, _UNREADABLE):
            raise StoreError(f"{path}: {exc}") from exc
        raise
    return conn


def open_reader(path: str) -> sqlite3.Connection:
    """A connection that can only read, for the calling thread."""
    conn = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
    conn.execute(READER_PRAGMA)
    return conn


READER_PRAGMA = "PRAGMA query_only = ON"


def _look_at(path: str) -> bool:
    """Whether there is a file that may be ours; StoreError where there is one that is not."""
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise StoreError(f"{path}: the directory {directory} does not exist")
    if not os.path.lexists(path):
        if os.path.lexists(f"{path}-wal"):
            # A new file in its place would have the old log played back into it.
            raise StoreError(f"{path}: missing, though its log {path}-wal is there")
        return False
    if not os.path.isfile(path):
        raise StoreError(f"{path}: not a file")
    with open(path, "rb") as file:
        magic = file.read(16)
    if magic != b"SQLite format 3\0":
        raise StoreError(f"{path}: not a ledger (the file is empty or of another kind)")
    return True


def _create(path: str, key: bytes, migrations: Migrations) -> None:
    """Make a complete store under another name first: no crash leaves half of one."""
    fresh = f"{path}.new"
    for leftover in (fresh, f"{fresh}-wal", f"{fresh}-shm", f"{fresh}-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leftover)
    # SQLite gives its log the file's mode: receipts are nobody else's to read.
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    conn = _connect(fresh)
    try:
        _migrate(conn, migrations)
        mac = chain.seal(key, 0, chain.GENESIS)
        conn.execute("INSERT INTO chain VALUES (1, 0, ?, ?)", (chain.GENESIS, mac))
    finally:
        conn.close()
    os.rename(fresh, path)
    sync_directory(path)


def _connect(path: str) -> sqlite3.Connection:
    conn = sqlite3.connect(
        path, isolation_level=None, timeout=BUSY_TIMEOUT_S, cached_statements=256
    )
    try:
        (mode,) = conn.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{path}: its file system cannot hold a write-ahead log")
        for pragma in (
            "synchronous = FULL",
            "foreign_keys = ON",
            # Else INSERT OR REPLACE would delete without asking the append-only triggers.
            "recursive_triggers = ON",
            "trusted_schema = OFF",
            "temp_store = MEMORY",
            # The writer checkpoints itself, after it has told the waiters of a commit.
            "wal_autocheckpoint = 0",
            "journal_size_limit = 67108864",
            "cache_size = -16384",
        ):
            conn.execute(f"PRAGMA {pragma}")
    except BaseException:
        conn.close()
        raise
    return conn


def _check(conn: sqlite3.Connection, path: str, known: int) -> None:
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise StoreError(f"{path}: a SQLite file, but not a ledger")
    version = _version(conn)
    if version > known:
        raise StoreError(
            f"{path}: written by a newer gateway (version {version}; this one knows up to {known})"
        )
    if os.path.getsize(path) <= QUICK_CHECK_BYTES_MAX:
        (verdict,) = conn.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"{path}: damaged: {' '.join(verdict.split())}")


def _version(conn: sqlite3.Connection) -> int:
    (version,) = conn.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
    return int(version)


def _migrate(conn: sqlite3.Connection, migrations: Migrations) -> None:
    (tables,) = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    version = _version(conn) if tables else 0
    for number, statements in enumerate(migrations[version:], version + 1):
        conn.execute("BEGIN IMMEDIATE")
        for statement in statements:
            if isinstance(statement, str):
                conn.execute(statement)
            else:
                statement(conn)
        conn.execute("INSERT INTO migrations VALUES (?, ?)", (number, time.time_ns() // 1_000_000))
        conn.execute("COMMIT")


def _check_head(conn: sqlite3.Connection, path: str, key: bytes) -> None:
    head = conn.execute("SELECT seq, hash, mac FROM chain").fetchone()
    if head is None:
        raise StoreError(f"{path}: the end of its receipt chain is missing")
    if not chain.sealed(key, *head):
        raise StoreError(
            f"{path}: the end of its receipt chain was sealed with another secret, or changed"
        )
    last = conn.execute("SELECT seq, hash FROM receipts ORDER BY seq DESC LIMIT 1").fetchone()
    if (last or (0, chain.GENESIS)) != head[:2]:
        # Going on would bury it: the next record would close over the gap.
        raise StoreError(f"{path}: its last receipt is not the one that the chain ends with")
    # A write that changes nothing: a read-only file is refused now and not at the first request.
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("UPDATE chain SET seq = seq")
    conn.execute("ROLLBACK")
