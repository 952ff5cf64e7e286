"""Transfers, what is done once, codes, caps, and the proof of the books."""

import re
import sqlite3
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_building import SECRET, an_entry, an_opening

from gateway.errors import Conflict, KeyReused, Missing
from gateway.ledger import money, store
from gateway.ledger.batch import Store
from gateway.ledger.entry import Entry
from gateway.ledger.ids import to_bytes
from gateway.ledger.records import CREDIT_ACCOUNT, OPERATOR_ACCOUNT, Cap, Code, User


def credit(conn: sqlite3.Connection, user_id: int, nano_usd: int, ref: str = "first") -> bool:
    given = money.Transfer(ref, "credit", CREDIT_ACCOUNT, user_id, nano_usd, 9)
    return money.post_transfer(conn, given)


def a_code(number: int = 1, nano_usd: int = 500, expires_ms: int | None = None) -> Code:
    text = f"code_{number}"
    return Code(text, "code-abcd", nano_usd, 5, expires_ms, hash=f"hash {number}".encode())


# --- transfers --------------------------------------------------------------------------------


def test_credit_is_posted_once_for_one_reference(conn: sqlite3.Connection, user: User) -> None:
    assert money.balance(conn, user.id) == 0
    assert credit(conn, user.id, 500)
    assert not credit(conn, user.id, 500)
    with pytest.raises(Conflict, match="other content"):
        credit(conn, user.id, 501)
    assert credit(conn, user.id, 7, "second")
    assert money.balance(conn, user.id) == 507
    assert money.balance(conn, CREDIT_ACCOUNT) == -507
    assert money.balances(conn) == {user.id: 507}


def test_what_a_user_was_given_is_listed_newest_first_by_pages_without_charges(
    opened: Store, conn: sqlite3.Connection, user: User
) -> None:
    other = store.create_user(conn, name="another", email=None, admin=False, created_ms=1)
    credit(conn, user.id, 500)
    credit(conn, other.id, 9, "not theirs")
    opened.commit((), [an_entry(an_opening(user.id), 5)])
    money.correct(conn, "c1", user.id, -20, "given twice", 8)
    money.add_codes(conn, [a_code()])
    money.redeem(conn, b"hash 1", user.id, 9)
    found = money.given(conn, user.id, limit=9)
    assert [(one.kind, one.nano_usd, one.reason, one.code_hint) for one in found] == [
        ("credit", 500, None, "code-abcd"), ("correction", -20, "given twice", None),
        ("credit", 500, None, None),
    ]  # fmt: skip
    assert money.given(conn, user.id, limit=2) == found[:2]
    assert money.given(conn, user.id, before=found[1].seq, limit=2) == found[2:]
    plan = conn.execute(
        "EXPLAIN QUERY PLAN SELECT seq FROM transfers WHERE kind <> 'charge'"
        " AND max(debit, credit) = 1 AND seq < 9 ORDER BY seq DESC"
    ).fetchall()
    assert "transfers_given" in plan[0][-1]


@pytest.mark.parametrize("nano_usd", [0, -1, 2**63])
def test_a_transfer_moves_more_than_nothing(
    conn: sqlite3.Connection, user: User, nano_usd: int
) -> None:
    with pytest.raises(Conflict):
        credit(conn, user.id, nano_usd)


def test_a_transfer_has_two_ends_that_exist(conn: sqlite3.Connection) -> None:
    with pytest.raises(Missing, match="99"):
        credit(conn, 99, 5)
    with pytest.raises(Conflict):
        credit(conn, CREDIT_ACCOUNT, 5)
    assert money.check_books(conn).wrong == []


@pytest.mark.parametrize(
    ("cost", "billed", "user_id"), [(0, True, 1), (None, True, 1), (5, False, 1), (5, True, None)]
)
def test_what_is_free_unpriced_or_not_billed_is_not_charged(
    opened: Store, cost: int | None, billed: bool, user_id: int | None
) -> None:
    opened.commit((), [an_entry(an_opening(user_id), cost, billed=billed)])
    assert opened.conn.execute("SELECT count(*) FROM transfers").fetchone() == (0,)
    assert money.check_books(opened.conn).wrong == []


def test_a_correction_goes_both_ways_below_zero_too_and_says_why(
    conn: sqlite3.Connection, user: User
) -> None:
    credit(conn, user.id, 10)
    assert money.correct(conn, "c1", user.id, 5, "a bonus", 7) == 15
    assert money.correct(conn, "c2", user.id, -20, "given twice", 8) == -5
    kept = conn.execute(
        "SELECT ref, debit, credit, nano_usd, reason FROM transfers WHERE kind = 'correction'"
    ).fetchall()
    assert kept == [
        ("c1", CREDIT_ACCOUNT, user.id, 5, "a bonus"),
        ("c2", user.id, CREDIT_ACCOUNT, 20, "given twice"),
    ]
    books = money.check_books(conn)
    assert (books.wrong, books.credited) == ([], -5)


@pytest.mark.parametrize("table", ["transfers", "receipts"])
@pytest.mark.parametrize(
    "change", ["UPDATE {} SET created_ms = 0", "DELETE FROM {}", "INSERT OR REPLACE INTO {} {}"]
)
def test_what_was_entered_is_never_changed(opened: Store, table: str, change: str) -> None:
    opened.commit((), [an_entry(an_opening())])
    before = opened.conn.execute(f"SELECT * FROM {table}").fetchall()
    copy = f"SELECT * FROM {table} LIMIT 1"
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        opened.conn.execute(change.format(table, copy))
    assert opened.conn.execute(f"SELECT * FROM {table}").fetchall() == before


# --- once -------------------------------------------------------------------------------------


def test_a_thing_is_done_once_and_answered_the_same_for_ever(path: str, user: User) -> None:
    done: list[str] = []

    def answer(text: str) -> bytes:
        done.append(text)
        return text.encode()

    for number in range(3):
        opened = Store.open(path, SECRET) if number else None
        conn = sqlite3.connect(path, isolation_level=None) if opened is None else opened.conn
        got = money.once(conn, "k", b"same", lambda n=number: answer(f"answer {n}"), number)  # type: ignore[misc]
        assert got == (b"answer 0", number == 0)
        with pytest.raises(KeyReused, match=r"^idempotency_key: 'k'"):
            money.once(conn, "k", b"other", lambda: answer("other"), 5)
        conn.close()
    assert done == ["answer 0"]


def test_what_was_refused_leaves_its_key_free(conn: sqlite3.Connection, user: User) -> None:
    def refuse() -> bytes:
        credit(conn, user.id, 5)
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        store.in_savepoint(conn, lambda conn: money.once(conn, "k", b"f", refuse, 1))
    assert money.balance(conn, user.id) == 0
    assert money.once(conn, "k", b"other", lambda: b"yes", 2) == (b"yes", True)


# --- codes and caps ---------------------------------------------------------------------------


def test_a_code_is_redeemed_once_by_whoever_is_first(conn: sqlite3.Connection, user: User) -> None:
    money.add_codes(conn, [a_code(1), a_code(2, 7, 100)])
    assert money.list_codes(conn) == [a_code(1), a_code(2, 7, 100)]
    got = money.redeem(conn, b"hash 1", user.id, 70)
    assert got == msgspec.structs.replace(a_code(1), redeemed_ms=70, redeemed_by="ada")
    assert money.list_codes(conn)[0] == got
    other = store.create_user(conn, name="bob", email=None, admin=False, created_ms=6)
    for user_id in (user.id, other.id):
        with pytest.raises(Conflict, match=r"^code: it has been redeemed"):
            money.redeem(conn, b"hash 1", user_id, 71)
    assert money.balances(conn) == {user.id: 500}
    assert money.check_books(conn).wrong == []


def test_a_code_expires_to_the_millisecond(conn: sqlite3.Connection, user: User) -> None:
    money.add_codes(conn, [a_code(1, 5, 100), a_code(2, 7, 100)])
    with pytest.raises(Conflict, match=r"^code: it has expired"):
        money.redeem(conn, b"hash 1", user.id, 100)
    money.redeem(conn, b"hash 2", user.id, 99)
    assert money.balances(conn) == {user.id: 7}


def test_a_code_that_was_never_issued_is_missing(conn: sqlite3.Connection, user: User) -> None:
    with pytest.raises(Missing, match=r"^code: no such code"):
        money.redeem(conn, b"nothing", user.id, 1)


def test_a_cap_is_set_changed_and_lifted(conn: sqlite3.Connection, user: User) -> None:
    money.set_cap(conn, user.id, "premium", 5)
    money.set_cap(conn, user.id, "basic", 3)
    money.set_cap(conn, user.id, "premium", 6)
    assert money.caps(conn) == [Cap(user.id, "basic", 3), Cap(user.id, "premium", 6)]
    money.set_cap(conn, user.id, "premium", None)
    money.set_cap(conn, user.id, "premium", None)
    assert money.caps(conn) == [Cap(user.id, "basic", 3)]


# --- the proof --------------------------------------------------------------------------------


def written(opened: Store) -> list[Entry]:
    """Two users, a code redeemed by the first and one that is not, and three receipts of theirs."""
    conn = opened.conn
    for name in ("ada", "bob"):
        store.create_user(conn, name=name, email=None, admin=False, created_ms=1)
    money.add_codes(conn, [a_code(1), a_code(2)])
    money.redeem(conn, b"hash 1", 1, 9)
    credit(conn, 2, 1000)
    entries = [an_entry(an_opening(1), 5), an_entry(an_opening(2), 7), an_entry(an_opening(1), 0)]
    entries[0].hold_nano_usd = 3
    entries[1].hold_nano_usd = 20
    opened.commit((), entries)
    return entries


def test_the_books_are_summed_up(opened: Store) -> None:
    written(opened)
    assert money.check_books(opened.conn) == money.Books(
        wrong=[], accounts=2, transfers=4, receipts=3, credited=1500, charged=12, overspent=2
    )


def test_the_books_of_a_new_store_are_empty(conn: sqlite3.Connection) -> None:
    assert money.check_books(conn) == money.Books([], 0, 0, 0, 0, 0, 0)


USAGE = r"usage of day \d+, user 1, key 'key_1', openai/gpt-4o: "
UNBALANCED = r"account -?\d+: balance -?\d+ is not the sum of its transfers, -?\d+"
NOT_CHARGED = r"receipt {0}: not charged what it says"
TAMPERED = {
    "a balance": (
        "UPDATE balances SET nano_usd = nano_usd + 1 WHERE account = 1",
        ["account 1: balance 496 is not the sum of its transfers, 495",
         "all accounts together: 1 and not 0"],
    ),
    "two balances": (
        "UPDATE balances SET nano_usd = nano_usd + iif(account = 1, 1, -1) WHERE account IN (1, 2)",
        [UNBALANCED, UNBALANCED],
    ),
    "a balance without transfers": (
        "INSERT INTO balances VALUES (9, 0), (10, 4)",
        ["account 10: balance 4 is not the sum of its transfers, 0",
         "all accounts together: 4 and not 0"],
    ),
    "a charge that is gone": (
        "DELETE FROM transfers WHERE ref = '{0}'", [NOT_CHARGED, UNBALANCED, UNBALANCED],
    ),
    "the amount of a charge": (
        "UPDATE transfers SET nano_usd = 4 WHERE ref = '{0}'",
        [NOT_CHARGED, UNBALANCED, UNBALANCED],
    ),
    "who is charged": (
        "UPDATE transfers SET debit = 2 WHERE ref = '{0}'", [NOT_CHARGED, UNBALANCED, UNBALANCED],
    ),
    "who gets a charge": (
        "UPDATE transfers SET credit = 2 WHERE ref = '{0}'", [NOT_CHARGED, UNBALANCED, UNBALANCED],
    ),
    "the kind of a charge": (
        "UPDATE transfers SET kind = 'credit' WHERE ref = '{0}'", [NOT_CHARGED],
    ),
    "a charge that names another receipt": (
        "UPDATE transfers SET ref = 'elsewhere' WHERE ref = '{0}'",
        [NOT_CHARGED, "charge elsewhere: without a receipt"],
    ),
    "a charge for nothing": (
        "INSERT INTO transfers VALUES (99, '', 'charge', 1, 0, 3, 0, NULL)",
        ["charge : without a receipt"],
    ),
    "a receipt that is gone": (
        "DELETE FROM receipts WHERE id = x'{0:hex}'",
        ["charge {0}: without a receipt", USAGE + "not the sums of its receipts"],
    ),
    "what a receipt says it cost": (
        "UPDATE receipts SET body = x'{0:dearer}' WHERE id = x'{0:hex}'",
        [NOT_CHARGED, USAGE + "not the sums of its receipts"],
    ),
    "a receipt that cannot be read": (
        "UPDATE receipts SET body = x'01' WHERE id = x'{0:hex}'",
        ["receipt 1: cannot be read: .*", USAGE + "not the sums of its receipts"],
    ),
    "a receipt with the body of another": (
        "UPDATE receipts SET body = (SELECT body FROM receipts WHERE seq = 2) WHERE seq = 1",
        [NOT_CHARGED, USAGE + "not the sums of its receipts",
         r"usage of day \d+, user 2, key 'key_1', openai/gpt-4o: not the sums of its receipts"],
    ),
    "a code's worth": (
        "UPDATE codes SET nano_usd = 501 WHERE id = 'code_1'",
        ["code code_1: not credited what it says"],
    ),
    "who redeemed a code": (
        "UPDATE codes SET redeemed_by = 2 WHERE id = 'code_1'",
        ["code code_1: not credited what it says"],
    ),
    "a code that can be redeemed again": (
        "UPDATE codes SET redeemed_ms = NULL, redeemed_by = NULL WHERE id = 'code_1'",
        ["code code_1: not credited what it says"],
    ),
    "a code marked as redeemed": (
        "UPDATE codes SET redeemed_ms = 1, redeemed_by = 2 WHERE id = 'code_2'",
        ["code code_2: not credited what it says"],
    ),
    "a code that is gone": (
        "DELETE FROM codes WHERE id = 'code_1'", ["credit code:code_1: without its code"],
    ),
    "a sum": (
        "UPDATE usage SET nano_usd = nano_usd - 1 WHERE user_id = 1",
        [USAGE + "not the sums of its receipts"],
    ),
    "a count of tokens": (
        "UPDATE usage SET output_tokens = 0 WHERE user_id = 1",
        [USAGE + "not the sums of its receipts"],
    ),
    "a sum that is gone": ("DELETE FROM usage WHERE user_id = 1", [USAGE + "missing"]),
    "a sum of nothing": (
        "INSERT INTO usage SELECT day, 1, 'other', provider, model, 0, 0, 0, 0, 0, 0 FROM usage"
        " WHERE user_id = 1",
        [r"usage of day \d+, user 1, key 'other', openai/gpt-4o: not the sums of its receipts"],
    ),
}  # fmt: skip


class Name(str):
    """The id of an entry; `hex` is its bytes, `dearer` its body with another cost."""

    entry: Entry

    def __format__(self, spec: str) -> str:
        if spec == "hex":
            return to_bytes(self).hex()
        if spec == "dearer":
            return msgspec.msgpack.encode(
                msgspec.structs.replace(self.entry, cost_nano_usd=6)
            ).hex()
        return str(self)


@pytest.mark.parametrize("what", TAMPERED)
def test_the_books_name_what_was_tampered_with(opened: Store, what: str) -> None:
    entries = written(opened)
    conn = opened.conn
    assert money.check_books(conn).wrong == []
    names = [Name(entry.opening.id) for entry in entries]
    for name, entry in zip(names, entries, strict=True):
        name.entry = entry
    for (trigger,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
        conn.execute(f"DROP TRIGGER {trigger}")
    statement, expected = TAMPERED[what]
    conn.execute(statement.format(*names))
    if what == "a charge for nothing":
        # Its balances fit it: only the missing receipt gives it away.
        conn.execute("UPDATE balances SET nano_usd = nano_usd - 3 WHERE account = 1")
        conn.execute("UPDATE balances SET nano_usd = nano_usd + 3 WHERE account = 0")
    wrong = money.check_books(conn).wrong
    assert len(wrong) == len(expected), wrong
    for line, pattern in zip(wrong, expected, strict=True):
        assert re.fullmatch(pattern.format(*names), line), line


def test_a_list_of_what_is_wrong_has_an_end(opened: Store) -> None:
    conn = opened.conn
    many = money.WRONG_MAX + 30
    conn.execute("BEGIN")
    conn.executemany("INSERT INTO balances VALUES (?, 0)", [(10 + n,) for n in range(many)])
    conn.execute("UPDATE balances SET nano_usd = iif(account % 2, 1, -1)")
    conn.execute("COMMIT")
    wrong = money.check_books(conn).wrong
    assert len(wrong) == money.WRONG_MAX + 1
    assert wrong[-1] == "and 30 more"


def test_the_books_are_read_at_one_moment(opened: Store, path: str) -> None:
    """A charge that is committed while they are read is in all of what was read or in none."""
    written(opened)
    opened.commit((), [an_entry(an_opening(1), 5) for _ in range(97)])
    reader = sqlite3.connect(path, isolation_level=None)
    seen = 0

    def interfere() -> int:
        nonlocal seen
        seen += 1
        if seen == 10:  # among the first rows: each takes a dozen steps and there are hundreds
            opened.commit((), [an_entry(an_opening(1), 5)])
        return 0

    reader.set_progress_handler(interfere, 50)
    books = money.check_books(reader)
    reader.set_progress_handler(None, 0)
    assert seen > 20
    assert (books.wrong, books.receipts) == ([], 100)
    assert money.check_books(reader).receipts == 101
    reader.close()


def test_the_memory_that_a_proof_takes_does_not_grow_with_the_receipts(opened: Store) -> None:
    written(opened)
    count = 6000
    for _ in range(count // 200):
        opened.commit((), [an_entry(an_opening(1), 5) for _ in range(200)])
    money.check_books(opened.conn)  # caches fill
    tracemalloc.start()
    books = money.check_books(opened.conn)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (books.wrong, books.receipts) == ([], count + 3)
    # A dictionary of the charges alone would take some 200 bytes for each.
    assert peak_bytes < 30 * count


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
    credited = charged = count = 0
    for number, (wanted, given_credit) in enumerate(batches):
        entries: list[Entry] = []
        for cost, billed, twice in wanted:
            entry = an_entry(an_opening(user.id), cost, billed=billed)
            entries += [entry] * (1 + twice)
            count += 1
            charged += cost if billed and cost else 0
        opened.commit([entry.opening for entry in entries[::3]], ())
        opened.commit((), entries)
        opened.commit((), entries[:5])
        for at, nano_usd in enumerate(given_credit):
            credit(conn, user.id, nano_usd, f"{number}-{at}")
            credited += nano_usd
    assert money.balance(conn, user.id) == credited - charged
    assert money.balance(conn, OPERATOR_ACCOUNT) == charged
    books = money.check_books(conn)
    assert books.wrong == []
    assert (books.receipts, books.credited, books.charged) == (count, credited, charged)
    assert conn.execute("SELECT count(*) FROM openings").fetchone() == (0,)
    found = store.verify(conn, SECRET)
    assert (found.ok, found.checked) == (True, count)
    opened.close()
