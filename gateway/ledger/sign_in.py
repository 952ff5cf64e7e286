"""Who may sign in to the pages, as rows: passwords, sessions and one-time links.

Functions over a connection, as in `store.py`: those that write are for `Ledger.execute`, where one
runs at a time and each in a savepoint of its own, so that looking and writing are one step. Called
by `accounts/sign_in.py`. A password comes here hashed, and a token as the keyed hash of it; a
session or link is named by that hash in hexadecimal. What contradicts the store is a Conflict.
"""

import sqlite3

from gateway.errors import Conflict
from gateway.ledger.records import Session, SignInLink, email_form


def fill_email_forms(conn: sqlite3.Connection) -> None:
    """Write what addresses are compared by beside each of them (a step of a migration)."""
    found = conn.execute("SELECT id, email FROM users WHERE email IS NOT NULL").fetchall()
    conn.executemany(
        "UPDATE users SET email_form = ? WHERE id = ?",
        [(email_form(email), user_id) for user_id, email in found],
    )


# --- passwords --------------------------------------------------------------------------------


def passwords(conn: sqlite3.Connection) -> dict[int, str]:
    """The hash of every password, by user id."""
    return dict(conn.execute("SELECT user_id, hash FROM passwords"))


def check_password(conn: sqlite3.Connection, user_id: int, expected: str | None) -> None:
    """Conflict unless the user's hash is the one that was looked at; None is no password."""
    row = conn.execute("SELECT hash FROM passwords WHERE user_id = ?", (user_id,)).fetchone()
    if (row[0] if row else None) != expected:
        raise Conflict("current_password: was changed meanwhile")


def put_password(conn: sqlite3.Connection, user_id: int, hashed: str, at_ms: int) -> None:
    """Set a user's password, in place of one that was there."""
    conn.execute("INSERT OR REPLACE INTO passwords VALUES (?, ?, ?)", (user_id, hashed, at_ms))


def rehash_password(conn: sqlite3.Connection, user_id: int, hashed: str) -> None:
    """Keep the same password under another hash of it."""
    conn.execute("UPDATE passwords SET hash = ? WHERE user_id = ?", (hashed, user_id))


# --- sessions ---------------------------------------------------------------------------------


def add_session(conn: sqlite3.Connection, session: Session, most: int) -> list[str]:
    """Add a session: the ids of those that ended for it.

    These are the expired ones of anybody, and its user's oldest above `most`.
    """
    ended = end_expired(conn, session.created_ms)
    conn.execute(
        "INSERT INTO sessions VALUES (?, ?, ?, ?)",
        (bytes.fromhex(session.id), session.user_id, session.created_ms, session.expires_ms),
    )
    # By the row's number: the clock may have been set back between two of them.
    return ended + _ended(
        conn,
        """DELETE FROM sessions WHERE rowid IN (
            SELECT rowid FROM sessions WHERE user_id = ? ORDER BY rowid DESC LIMIT -1 OFFSET ?)
        RETURNING hash""",
        session.user_id,
        most,
    )


def live_sessions(conn: sqlite3.Connection, now_ms: int) -> list[Session]:
    """Every session that has not expired, the oldest first."""
    rows = conn.execute(
        """SELECT hash, user_id, created_ms, expires_ms FROM sessions WHERE expires_ms > ?
        ORDER BY rowid""",
        (now_ms,),
    )
    return [Session(digest.hex(), *rest) for digest, *rest in rows]


def end_session(conn: sqlite3.Connection, session_id: str) -> None:
    """End a session, if it is there."""
    conn.execute("DELETE FROM sessions WHERE hash = ?", (bytes.fromhex(session_id),))


def end_sessions(conn: sqlite3.Connection, user_id: int, keep: str | None = None) -> list[str]:
    """End all sessions of a user, save the one of the id `keep`: the ids of those that ended."""
    kept = None if keep is None else bytes.fromhex(keep)
    return _ended(
        conn,
        "DELETE FROM sessions WHERE user_id = ? AND hash IS NOT ? RETURNING hash",
        user_id,
        kept,
    )


def end_expired(conn: sqlite3.Connection, now_ms: int) -> list[str]:
    """Forget the sessions and links that have expired: the ids of those sessions."""
    conn.execute("DELETE FROM sign_in_links WHERE expires_ms <= ?", (now_ms,))
    return _ended(conn, "DELETE FROM sessions WHERE expires_ms <= ? RETURNING hash", now_ms)


def _ended(conn: sqlite3.Connection, sql: str, *params: object) -> list[str]:
    return [digest.hex() for (digest,) in conn.execute(sql, params).fetchall()]


# --- one-time links ---------------------------------------------------------------------------


def add_link(conn: sqlite3.Connection, link: SignInLink) -> None:
    """Add a link, in place of those of its user that were not used."""
    end_links(conn, link.user_id)
    conn.execute(
        "INSERT INTO sign_in_links VALUES (?, ?, ?, ?, NULL)",
        (bytes.fromhex(link.id), link.user_id, link.created_ms, link.expires_ms),
    )


def live_links(conn: sqlite3.Connection, now_ms: int) -> list[SignInLink]:
    """Every link that can still be used."""
    rows = conn.execute(
        """SELECT hash, user_id, created_ms, expires_ms FROM sign_in_links
        WHERE expires_ms > ? AND used_ms IS NULL""",
        (now_ms,),
    )
    return [SignInLink(digest.hex(), *rest) for digest, *rest in rows]


def use_link(conn: sqlite3.Connection, link_id: str, now_ms: int) -> None:
    """Mark a link used. Conflict where it was used before, has expired, or is none."""
    cursor = conn.execute(
        """UPDATE sign_in_links SET used_ms = ?
        WHERE hash = ? AND used_ms IS NULL AND expires_ms > ?""",
        (now_ms, bytes.fromhex(link_id), now_ms),
    )
    if not cursor.rowcount:
        raise Conflict("link: was used before, or has expired")


def end_links(conn: sqlite3.Connection, user_id: int) -> None:
    """Take back the links of a user that were not used."""
    conn.execute("DELETE FROM sign_in_links WHERE user_id = ? AND used_ms IS NULL", (user_id,))
