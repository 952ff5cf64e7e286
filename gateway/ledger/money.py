"""Whose money is where: transfers between accounts, what makes them, and the proof of the books.

Double entry: a transfer moves nano-USD from one account to another and is never changed; a mistake
is corrected by a further transfer (`correct`). An account above 0 is the user of that id, the
others are in `records.py`. Charges are written by the requests themselves (`batch.py`).

Functions take a connection, as in `store.py`: those that write are for `Ledger.execute`, where one
runs at a time and each in a savepoint of its own, so that looking and writing are one step.
A refusal is a `Conflict` (`Missing`, `KeyReused`) whose message opens with the argument at fault.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from gateway.errors import Conflict, KeyReused, Missing
from gateway.ledger import ids, usage
from gateway.ledger.records import CREDIT_ACCOUNT, OPERATOR_ACCOUNT, Cap, Code, TransferKind

WRONG_MAX = 1000
"""Lines of what is wrong with the books; more are counted only."""


class Transfer(NamedTuple):
    """What is to be moved. `nano_usd` is above 0; `ref` and `kind` together are unique."""

    ref: str
    kind: TransferKind
    debit: int
    credit: int
    nano_usd: int
    created_ms: int
    reason: str | None = None


def post_transfer(conn: sqlite3.Connection, transfer: Transfer) -> bool:
    """Move `nano_usd` from account `debit` to account `credit`.

    False where this `ref` and `kind` was posted before with the same content; Conflict where
    with another, where the amount is not above 0, or where an account is no user's.
    """
    ref, kind, debit, credit, nano_usd, _, _ = transfer
    if not 0 < nano_usd < 2**63 or debit == credit:
        raise Conflict("a transfer moves more than nothing from one account to another")
    for account in (debit, credit):
        if (
            account > 0
            and not conn.execute("SELECT 1 FROM users WHERE id = ?", (account,)).fetchone()
        ):
            raise Missing(f"there is no user {account}")
    known = conn.execute(
        "SELECT debit, credit, nano_usd FROM transfers WHERE ref = ? AND kind = ?", (ref, kind)
    ).fetchone()
    if known is not None:
        if known != (debit, credit, nano_usd):
            raise Conflict(f"{kind} {ref!r} was posted before with other content")
        return False
    conn.execute(
        "INSERT INTO transfers (ref, kind, debit, credit, nano_usd, created_ms, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        transfer,
    )
    return True


def balance(conn: sqlite3.Connection, user_id: int) -> int:
    """What an account was credited less what it was debited, in nano-USD."""
    row = conn.execute("SELECT nano_usd FROM balances WHERE account = ?", (user_id,)).fetchone()
    return int(row[0]) if row else 0


def balances(conn: sqlite3.Connection) -> dict[int, int]:
    """The balance of every user who ever had a transfer, by id."""
    return dict(conn.execute("SELECT account, nano_usd FROM balances WHERE account > 0"))


def once(
    conn: sqlite3.Connection,
    key: str,
    fingerprint: bytes,
    make_answer: Callable[[], bytes],
    at_ms: int,
) -> tuple[bytes, bool]:
    """Do a thing once: its answer, and whether it was done by this call.

    The first call with `key` makes the answer and keeps it, in the transaction that does the
    thing; a further one with the same `fingerprint` (of the parameters) gets the same answer and
    does nothing. KeyReused where the fingerprint is another. What `make_answer` raises is not
    kept: nothing was done, and the key is free.
    """
    row = conn.execute(
        "SELECT fingerprint, answer FROM idempotency WHERE key = ?", (key,)
    ).fetchone()
    if row is not None:
        if row[0] != fingerprint:
            raise KeyReused(f"idempotency_key: {key!r} was used before with other parameters")
        return bytes(row[1]), False
    answer = make_answer()
    conn.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?)", (key, fingerprint, answer, at_ms))
    return answer, True


def correct(
    conn: sqlite3.Connection, ref: str, user_id: int, nano_usd: int, reason: str, at_ms: int
) -> int:
    """Add to a user's balance, or take from it where below zero, and say why: the new balance."""
    debit, credit = (CREDIT_ACCOUNT, user_id) if nano_usd > 0 else (user_id, CREDIT_ACCOUNT)
    post_transfer(conn, Transfer(ref, "correction", debit, credit, abs(nano_usd), at_ms, reason))
    return balance(conn, user_id)


class Given(NamedTuple):
    """A credit or a correction of a user; `nano_usd` is below zero where it took away.

    `seq` is its place among all transfers; `code_hint` is set where a code was redeemed.
    """

    seq: int
    ref: str
    kind: TransferKind
    nano_usd: int
    created_ms: int
    reason: str | None
    code_hint: str | None


def given(
    conn: sqlite3.Connection, user_id: int, *, before: int | None = None, limit: int
) -> list[Given]:
    """What a user was given, or had taken again, newest first; `before` is a `seq`."""
    # As it is in the index, which knows the user's side of a transfer as the greater one.
    rows = conn.execute(
        """SELECT t.seq, t.ref, t.kind, CASE WHEN t.credit = ? THEN t.nano_usd ELSE -t.nano_usd END,
            t.created_ms, t.reason, c.hint
        FROM transfers t LEFT JOIN codes c ON c.id = substr(t.ref, 6)
        WHERE t.kind <> 'charge' AND max(t.debit, t.credit) = ? AND t.seq < ?
        ORDER BY t.seq DESC LIMIT ?""",
        (user_id, user_id, 1 << 62 if before is None else before, limit),
    )
    return [Given(*row) for row in rows]


# --- redemption codes ---------------------------------------------------------------------------

_CODE = """SELECT c.id, c.hint, c.nano_usd, c.created_ms, c.expires_ms, c.redeemed_ms, u.name,
    c.hash FROM codes c LEFT JOIN users u ON u.id = c.redeemed_by"""


def add_codes(conn: sqlite3.Connection, codes: Iterable[Code]) -> None:
    """Keep new codes."""
    conn.executemany(
        "INSERT INTO codes (id, hint, nano_usd, created_ms, expires_ms, hash)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [(c.id, c.hint, c.nano_usd, c.created_ms, c.expires_ms, c.hash) for c in codes],
    )


def list_codes(conn: sqlite3.Connection) -> list[Code]:
    """Every code, first made first; redeemed and expired ones too."""
    return [Code(*row) for row in conn.execute(f"{_CODE} ORDER BY c.created_ms, c.id")]


def redeem(conn: sqlite3.Connection, digest: bytes, user_id: int, at_ms: int) -> Code:
    """Credit a code to a user: each code once, ever. `digest` is the hash of its text.

    Missing where there is none such; Conflict where it was redeemed before or has expired.
    """
    row = conn.execute(f"{_CODE} WHERE c.hash = ?", (digest,)).fetchone()
    if row is None:
        raise Missing("code: no such code was issued here")
    code = Code(*row)
    if code.redeemed_ms is not None:
        raise Conflict("code: it has been redeemed before")
    if code.expires_ms is not None and code.expires_ms <= at_ms:
        raise Conflict("code: it has expired")
    conn.execute(
        "UPDATE codes SET redeemed_ms = ?, redeemed_by = ? WHERE id = ? AND redeemed_ms IS NULL",
        (at_ms, user_id, code.id),
    )
    ref = code_ref(code.id)
    post_transfer(conn, Transfer(ref, "credit", CREDIT_ACCOUNT, user_id, code.nano_usd, at_ms))
    return Code(*conn.execute(f"{_CODE} WHERE c.id = ?", (code.id,)).fetchone())


def code_ref(code_id: str) -> str:
    """The `ref` of the credit that a code was redeemed for."""
    return f"code:{code_id}"


# --- caps ---------------------------------------------------------------------------------------


def set_cap(conn: sqlite3.Connection, user_id: int, model: str, nano_usd: int | None) -> None:
    """Bound what one call of a model may cost a user; None lifts the bound."""
    conn.execute("DELETE FROM caps WHERE user_id = ? AND model = ?", (user_id, model))
    if nano_usd is not None:
        conn.execute("INSERT INTO caps VALUES (?, ?, ?)", (user_id, model, nano_usd))


def caps(conn: sqlite3.Connection) -> list[Cap]:
    """Every cap, by user and model."""
    rows = conn.execute("SELECT user_id, model, nano_usd FROM caps ORDER BY user_id, model")
    return [Cap(*row) for row in rows]


# --- the proof ----------------------------------------------------------------------------------


class Books(msgspec.Struct, frozen=True):
    """What a walk through the books found. Amounts are nano-USD over all users.

    `wrong` has a line for each thing wrong, none where all is well. `credited` is what users were
    given less what was taken from them again, `charged` what their requests cost them, `overspent`
    what these cost beyond what was held for them: sum of max(0, charged - held).
    """

    wrong: list[str]
    accounts: int
    transfers: int
    receipts: int
    credited: int
    charged: int
    overspent: int


def check_books(conn: sqlite3.Connection) -> Books:
    """Check all the money; reads only, all transfers and receipts, at one moment of the store.

    Checked: each balance is the sum of its transfers; all balances together are zero; each billed
    receipt has one charge, of its cost, to its user, and no charge is without its receipt; each
    redeemed code has its one credit, of its worth, to who redeemed it, and no such credit is
    without its code; the sums of usage are those of the receipts.

    Transfers and receipts are read side by side in the order of their ids, so memory is what the
    accounts and the sums take, however many there are: 6.4 s and 2 MB for a million.
    """
    owns = not conn.in_transaction
    if owns:
        conn.execute("BEGIN")
    try:
        return _Check(conn).books()
    finally:
        if owns:
            conn.execute("ROLLBACK")


Posting = tuple[str, str, int, int, int]
"""ref, kind, debit, credit, nano_usd."""


class _Check:
    """One walk; see `check_books`."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._wrong: list[str] = []
        self._more = 0
        self._accounts: dict[int, int] = {}
        self._usage: usage.Sums = {}
        self._transfers = self._receipts = self._charged = self._overspent = 0

    def books(self) -> Books:
        self._match_charges()
        self._compare_balances()
        self._compare_codes()
        self._compare_usage()
        if self._more:
            self._wrong.append(f"and {self._more} more")
        return Books(
            self._wrong,
            sum(account > 0 for account in self._accounts),
            self._transfers,
            self._receipts,
            -self._accounts.get(CREDIT_ACCOUNT, 0),
            self._charged,
            self._overspent,
        )

    def _say(self, line: str) -> None:
        if len(self._wrong) < WRONG_MAX:
            self._wrong.append(line)
        else:
            self._more += 1

    def _postings(self) -> Iterator[Posting]:
        """The charges in the order of their refs, after all others were summed with them."""
        accounts = self._accounts
        for row in self._conn.execute(
            "SELECT ref, kind, debit, credit, nano_usd FROM transfers ORDER BY ref, kind"
        ):
            _, kind, debit, credit, nano_usd = row
            self._transfers += 1
            accounts[debit] = accounts.get(debit, 0) - nano_usd
            accounts[credit] = accounts.get(credit, 0) + nano_usd
            if kind == "charge":
                self._charged += nano_usd
                yield row

    def _match_charges(self) -> None:
        """Join charges and receipts; both come in the order of their ids.

        An id in text sorts as its bytes do: it is hexadecimal in lower case.
        """
        charges = self._postings()
        charge = next(charges, None)
        for seq, raw, body in self._conn.execute("SELECT seq, id, body FROM receipts ORDER BY id"):
            self._receipts += 1
            receipt_id = ids.to_text(raw)
            while charge is not None and charge[0] < receipt_id:
                self._say(f"charge {charge[0]}: without a receipt")
                charge = next(charges, None)
            found = None
            if charge is not None and charge[0] == receipt_id:
                found, charge = charge, next(charges, None)
            try:
                entry = usage.decode(body)
            except msgspec.MsgspecError as exc:
                self._say(f"receipt {seq}: cannot be read: {exc}")
                continue
            self._match(receipt_id, entry, found)
        while charge is not None:
            self._say(f"charge {charge[0]}: without a receipt")
            charge = next(charges, None)

    def _match(self, receipt_id: str, entry: usage.Summed, found: Posting | None) -> None:
        cost = usage.add(self._usage, entry)
        due = (entry.opening.user_id, OPERATOR_ACCOUNT, cost) if cost else None
        if (None if found is None else found[2:]) != due or entry.opening.id != receipt_id:
            self._say(f"receipt {receipt_id}: not charged what it says")
        self._overspent += max(0, cost - entry.hold_nano_usd)

    def _compare_balances(self) -> None:
        kept = dict(self._conn.execute("SELECT account, nano_usd FROM balances"))
        for account in sorted(kept.keys() | self._accounts.keys()):
            summed = self._accounts.get(account, 0)
            if kept.get(account, 0) != summed:
                self._say(
                    f"account {account}: balance {kept.get(account, 0)} is not the sum of its "
                    f"transfers, {summed}"
                )
        if sum(kept.values()):
            self._say(f"all accounts together: {sum(kept.values())} and not 0")

    def _compare_codes(self) -> None:
        credit = (
            "LEFT JOIN transfers t ON t.ref = 'code:' || c.id AND t.kind = 'credit' AND t.debit = ?"
        )
        for code_id, matches in self._conn.execute(
            f"""SELECT c.id, CASE WHEN c.redeemed_ms IS NULL
                THEN t.seq IS NULL AND c.redeemed_by IS NULL
                ELSE t.nano_usd IS c.nano_usd AND t.credit IS c.redeemed_by END AS matches
            FROM codes c {credit} WHERE NOT matches ORDER BY c.id""",
            (CREDIT_ACCOUNT,),
        ):
            assert not matches
            self._say(f"code {code_id}: not credited what it says")
        for (ref,) in self._conn.execute(
            """SELECT ref FROM transfers WHERE ref >= 'code:' AND ref < 'code;'
                AND NOT EXISTS (SELECT 1 FROM codes WHERE id = substr(ref, 6)) ORDER BY ref"""
        ):
            self._say(f"credit {ref}: without its code")

    def _compare_usage(self) -> None:
        left = self._usage
        for row in self._conn.execute("SELECT * FROM usage"):
            key: Any = row[:5]
            summed = left.pop(key, None)
            if summed != list(row[5:]):
                self._say(f"{_told(key)}: not the sums of its receipts")
        for group in sorted(left):
            self._say(f"{_told(group)}: missing")


def _told(group: usage.Group) -> str:
    day, user_id, key_id, provider, model = group
    return f"usage of day {day}, user {user_id}, key {key_id!r}, {provider}/{model}"
