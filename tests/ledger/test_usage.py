"""The sums of usage are those of the receipts, however these came to be written."""

import sqlite3
import time
from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_building import SECRET, an_entry, an_opening

from gateway.errors import StoreError
from gateway.ledger import chain, money, schema, store, usage
from gateway.ledger.batch import Store
from gateway.ledger.entry import COST_NANO_USD_MAX, Entry, Failure, Opening
from gateway.ledger.records import UsageRow
from gateway.ledger.usage import DAY_MS, GroupBy, ReportRow
from gateway.wire.neutral import Usage

DAY = 20_000


def at(day: int, user_id: int | None = 1, key_id: str | None = "key_1") -> Opening:
    opening = an_opening(user_id)
    return msgspec.structs.replace(opening, created_ms=day * DAY_MS + 5, key_id=key_id)


def spent(opening: Opening, cost: int = 0, **changes: object) -> Entry:
    return msgspec.structs.replace(an_entry(opening, cost), **changes)


def kept(conn: sqlite3.Connection) -> list[UsageRow]:
    return [UsageRow(*row) for row in conn.execute("SELECT * FROM usage")]


def test_a_day_is_summed_by_user_key_provider_and_model(opened: Store) -> None:
    failure = Failure("upstream_status", "upstream_error", "no")
    opened.commit(
        (),
        [
            spent(at(DAY), 5, list_nano_usd=4),
            spent(at(DAY), 6, list_nano_usd=5),
            spent(at(DAY), usage=None, status="failed", failure=failure, billed=False),
            spent(at(DAY), status="cancelled", usage=Usage(1, 0), route_model="gpt-4"),
            spent(at(DAY, 2, "key_2"), 7, provider="anthropic", usage=Usage(100, 200)),
            spent(at(DAY + 1), 9),
        ],
    )
    assert usage.sums(opened.conn, DAY) == [
        UsageRow(DAY, 1, "key_1", "openai", "gpt-4", 1, 1, 1, 0, 0, 0),
        UsageRow(DAY, 1, "key_1", "openai", "gpt-4o", 3, 1, 20, 16, 11, 9),
        UsageRow(DAY, 2, "key_2", "anthropic", "gpt-4o", 1, 0, 100, 200, 7, 0),
    ]
    assert usage.sums(opened.conn, DAY - 1) == []
    assert usage.spent_by_key(opened.conn) == {"key_1": 20, "key_2": 7}


def test_a_day_begins_at_midnight(opened: Store) -> None:
    moments = [DAY * DAY_MS - 1, DAY * DAY_MS, (DAY + 1) * DAY_MS - 1, (DAY + 1) * DAY_MS]
    openings = [msgspec.structs.replace(an_opening(), created_ms=moment) for moment in moments]
    opened.commit((), [spent(opening) for opening in openings])
    assert [(row.day, row.requests) for row in kept(opened.conn)] == [
        (DAY - 1, 1), (DAY, 2), (DAY + 1, 1),
    ]  # fmt: skip


def test_a_request_that_got_nowhere_is_of_no_provider_and_no_model(opened: Store) -> None:
    opened.commit((), [spent(at(DAY), provider=None, route_model=None, status="failed")])
    assert kept(opened.conn) == [UsageRow(DAY, 1, "key_1", "", "", 1, 1, 10, 8, 0, 0)]


def test_callers_with_their_own_keys_are_counted_together_and_cost_nothing(opened: Store) -> None:
    """Nor do the names that they make up become rows of their own."""
    own = [spent(at(DAY, None, None), 5, billed=False, list_nano_usd=5) for _ in range(2)]
    made_up = [
        spent(at(DAY, None, None), status="failed", usage=None, route_model=f"made up {n}")
        for n in range(50)
    ]
    opened.commit((), own + made_up)
    assert kept(opened.conn) == [
        UsageRow(DAY, 0, "", "openai", "", 50, 50, 0, 0, 0, 0),
        UsageRow(DAY, 0, "", "openai", "gpt-4o", 2, 0, 20, 16, 0, 0),
    ]
    assert usage.spent_by_key(opened.conn) == {}
    assert money.check_books(opened.conn).wrong == []


@pytest.mark.parametrize("tokens", [-(2**63), -1, 2**62, 2**63, 2**64 - 1])
def test_no_number_that_a_provider_may_report_costs_the_batch_its_receipts(
    opened: Store, tokens: int
) -> None:
    name = "m" * 5000
    hostile = spent(at(DAY), usage=Usage(tokens, tokens), route_model=name, list_nano_usd=2**62)
    for _ in range(20):
        opened.commit((), [hostile, spent(at(DAY))])
        hostile = msgspec.structs.replace(hostile, opening=at(DAY))
    rows = {row.model: row for row in usage.sums(opened.conn, DAY)}
    assert rows["gpt-4o"].requests == 20
    row = rows["m" * usage.NAME_CHARS_MAX]
    counted = 20 * usage.TOKENS_MAX if tokens > 0 else 0
    assert (row.requests, row.input_tokens, row.output_tokens) == (20, counted, counted)
    assert row.list_nano_usd == 20 * COST_NANO_USD_MAX
    assert money.check_books(opened.conn).wrong == []


@pytest.mark.parametrize("cost", [-5, COST_NANO_USD_MAX + 1, 10**30])
def test_a_cost_out_of_bounds_is_summed_as_it_is_charged_which_is_not_at_all(
    opened: Store, cost: int
) -> None:
    opened.commit((), [spent(at(DAY), cost, list_nano_usd=7), spent(at(DAY), 3, list_nano_usd=2)])
    rows = usage.sums(opened.conn, DAY)
    assert [(row.requests, row.failed, row.nano_usd, row.list_nano_usd) for row in rows] == [
        (1, 1, 0, 0), (1, 0, 3, 2),
    ]  # fmt: skip
    books = money.check_books(opened.conn)
    assert (books.wrong, books.charged) == ([], 3)


def test_what_was_left_open_is_counted_when_it_is_closed(opened: Store, path: str) -> None:
    opened.commit([at(DAY)], ())
    assert kept(opened.conn) == []
    opened.close()
    again = Store.open(path, SECRET)
    (left,) = again.left_open()
    again.commit((), [Entry(opening=left, status="failed", http_status=0)])
    assert kept(again.conn) == [UsageRow(DAY, 1, "key_1", "", "", 1, 1, 0, 0, 0, 0)]
    again.close()


def test_a_job_that_fails_its_commit_takes_the_sums_with_it(opened: Store) -> None:
    def fail(conn: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk full")

    entry = spent(at(DAY), 5)
    with pytest.raises(sqlite3.OperationalError):
        opened.commit((), [entry], [fail])
    opened.rollback()
    assert kept(opened.conn) == []
    opened.commit((), [entry])
    assert [row.nano_usd for row in kept(opened.conn)] == [5]


callers = st.sampled_from([(None, None), (1, "a"), (1, "b"), (2, "c"), (2, None)])
requests = st.lists(
    st.tuples(
        st.integers(DAY, DAY + 2),
        callers,
        st.sampled_from([None, "openai", "anthropic"]),
        st.sampled_from([None, "m1", "m2"]),
        st.sampled_from(["succeeded", "failed", "cancelled"]),
        st.one_of(st.none(), st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))),
        st.one_of(st.none(), st.integers(0, 10**9)),
        st.booleans(),
    ),
    max_size=120,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(requests, min_size=1, max_size=4), st.data())
def test_sums_are_those_of_the_receipts_whatever_was_written_how_often(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[Any, ...]]],
    data: st.DataObject,
) -> None:
    path = str(tmp_path_factory.mktemp("sums") / "gateway.db")
    Store.open(path, SECRET).close()
    every: list[Entry] = []
    for wanted in batches:
        opened = Store.open(path, SECRET)  # a restart before each batch
        for name in ("u1", "u2"):
            if store.find_user(opened.conn, name) is None:
                store.create_user(opened.conn, name=name, email=None, admin=False, created_ms=1)
        entries = [
            spent(
                at(day, *caller), cost, provider=provider, route_model=model, status=status,
                usage=None if tokens is None else Usage(*tokens), billed=billed,
            )
            for day, caller, provider, model, status, tokens, cost, billed in wanted
        ]  # fmt: skip
        known = every or entries
        repeats = data.draw(st.lists(st.sampled_from(known), max_size=5)) if known else []
        opened.commit((), entries + repeats)
        every += [entry for entry in entries if entry not in every]
        opened.close()
    conn = schema.open_reader(path)
    summed: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * 5)
    for receipt in store.receipts_since(conn):
        entry, opening = receipt.entry, receipt.entry.opening
        row = summed[opening.created_ms // DAY_MS, opening.user_id or 0]
        row[0] += 1
        row[1] += entry.status != "succeeded"
        row[2] += entry.usage.input_tokens if entry.usage else 0
        row[3] += entry.usage.output_tokens if entry.usage else 0
        row[4] += (entry.cost_nano_usd or 0) if entry.billed and opening.user_id else 0
    got = {
        (row.day, row.user_id): [
            row.requests, row.failed, row.input_tokens, row.output_tokens, row.nano_usd,
        ]
        for row in usage.report(conn, since_day=0, until_day=2 * DAY, group_by=("day", "user"))
    }  # fmt: skip
    assert got == summed
    assert money.check_books(conn).wrong == []
    conn.close()


# --- a store from before there were sums ------------------------------------------------------


def of_version_1(path: str) -> list[Entry]:
    """A store as version 1 left it, with a user, a key, a credit and charged receipts."""
    conn = schema.open_writer(path, chain.seal_key(SECRET), schema.MIGRATIONS[:1])
    conn.execute("INSERT INTO users (name, email, admin, created_ms) VALUES ('ada', NULL, 1, 5)")
    conn.execute(
        "INSERT INTO keys VALUES ('key_1', 1, 'ci', 'gw-ab', 6, NULL, NULL, 9, NULL, NULL,"
        " '[\"m\"]', x'01')"
    )
    conn.execute("INSERT INTO transfers VALUES (1, 'gift', 'credit', -1, 1, 1000, 7)")
    seq, head = 0, chain.GENESIS
    entries = [spent(at(DAY + n % 2), n) for n in range(10)]
    entries.append(spent(at(DAY, None, None), 5, billed=False))
    for seq, entry in enumerate(entries, 1):
        opening = entry.opening
        # Version 1 knew no hold and no list price: the last two fields were not there.
        body = msgspec.msgpack.encode(msgspec.to_builtins(entry)[:-2])
        row: chain.Row = (
            seq, bytes.fromhex(opening.id.replace("-", "")), opening.owner, opening.created_ms,
            entry.status, opening.model, body,
        )  # fmt: skip
        head = chain.digest(head, row)
        conn.execute("INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, head))
        if entry.billed and entry.cost_nano_usd:
            conn.execute(
                "INSERT INTO transfers VALUES (NULL, ?, 'charge', 1, 0, ?, 7)",
                (opening.id, entry.cost_nano_usd),
            )
    mac = chain.seal(chain.seal_key(SECRET), seq, head)
    conn.execute("UPDATE chain SET seq = ?, hash = ?, mac = ?", (seq, head, mac))
    conn.close()
    return entries


def test_a_store_of_version_1_goes_on_with_all_that_is_in_it(path: str) -> None:
    entries = of_version_1(path)
    opened = Store.open(path, SECRET)
    conn = opened.conn
    (user,) = store.list_users(conn)
    (key,) = store.list_keys(conn)
    assert (user.name, user.daily_alert_nano_usd, user.rate_multiplier) == ("ada", None, "1")
    assert (key.models, key.rpm, key.admin, key.spend_cap_nano_usd) == (["m"], 9, False, None)
    assert money.balances(conn) == {1: 1000 - sum(range(10))}
    assert usage.spent_by_key(conn) == {"key_1": sum(range(10))}
    assert sum(row.requests for row in kept(conn)) == len(entries)
    assert [receipt.entry for receipt in store.receipts_since(conn)] == entries
    books = money.check_books(conn)
    assert (books.wrong, books.charged, books.credited) == ([], 45, 1000)
    opened.commit((), [spent(at(DAY), 5)])
    assert money.check_books(conn).wrong == []
    assert store.verify(conn, SECRET).ok
    opened.close()


def test_a_receipt_that_cannot_be_read_stops_the_step_to_version_2_and_is_named(path: str) -> None:
    of_version_1(path)
    conn = sqlite3.connect(path)
    conn.execute("DROP TRIGGER receipts_refuse_update")
    conn.execute("UPDATE receipts SET body = x'01' WHERE seq = 4")
    conn.commit()
    with pytest.raises(StoreError, match="receipt 4 cannot be read"):
        Store.open(path, SECRET)
    assert conn.execute("SELECT max(version) FROM migrations").fetchone() == (1,)
    conn.close()


# --- reports ----------------------------------------------------------------------------------


@pytest.fixture
def reported(opened: Store) -> sqlite3.Connection:
    opened.commit(
        (),
        [
            spent(at(DAY), 1, list_nano_usd=10),
            spent(at(DAY, 1, "key_2"), 2, list_nano_usd=20, route_model="m"),
            spent(at(DAY + 1, 2, "key_3"), 4, list_nano_usd=40, provider="anthropic"),
            spent(at(DAY + 2), 8, list_nano_usd=80, status="cancelled"),
            spent(at(DAY + 2, None, None), billed=False),
        ],
    )
    return opened.conn


def names(rows: list[ReportRow], *fields: str) -> list[tuple[object, ...]]:
    return [(*(getattr(row, field) for field in fields), row.nano_usd) for row in rows]


def test_a_report_without_groups_is_one_row(reported: sqlite3.Connection) -> None:
    assert usage.report(reported, since_day=DAY, until_day=DAY + 2) == [
        ReportRow(None, None, None, None, None, 5, 1, 50, 40, 15, 150)
    ]
    assert usage.report(reported, since_day=0, until_day=DAY - 1) == []


@pytest.mark.parametrize(
    ("group_by", "fields", "expected"),
    [
        (("day",), ("day",), [(DAY, 3), (DAY + 1, 4), (DAY + 2, 8)]),
        (("user",), ("user_id",), [(0, 0), (1, 11), (2, 4)]),
        (("key",), ("key_id",), [("", 0), ("key_1", 9), ("key_2", 2), ("key_3", 4)]),
        (("provider",), ("provider",), [("anthropic", 4), ("openai", 11)]),
        (("model",), ("model",), [("gpt-4o", 13), ("m", 2)]),
        (("model", "day"), ("day", "model"),
         [(DAY, "gpt-4o", 1), (DAY, "m", 2), (DAY + 1, "gpt-4o", 4), (DAY + 2, "gpt-4o", 8)]),
    ],
)  # fmt: skip
def test_a_report_is_grouped_and_ordered_by_what_was_asked(
    reported: sqlite3.Connection,
    group_by: tuple[GroupBy, ...],
    fields: tuple[str, ...],
    expected: list[tuple[object, ...]],
) -> None:
    rows = usage.report(reported, since_day=DAY, until_day=DAY + 2, group_by=group_by)
    assert names(rows, *fields) == expected
    others = {"day", "user_id", "key_id", "provider", "model"} - set(fields)
    assert all(getattr(row, field) is None for row in rows for field in others)


def test_a_report_may_be_of_one_user_one_key_and_some_days(reported: sqlite3.Connection) -> None:
    def total(**wanted: int | str) -> int:
        found = usage.report(reported, **{"since_day": DAY, "until_day": DAY + 2, **wanted})  # type: ignore[arg-type]
        return sum(row.nano_usd for row in found)

    assert total(user_id=1) == 11
    assert total(user_id=1, key_id="key_2") == 2
    assert total(user_id=2, key_id="key_2") == 0
    assert total(since_day=DAY + 1) == 12
    assert total(until_day=DAY + 1) == 7
    assert [row.requests for row in usage.report(
        reported, since_day=0, until_day=2 * DAY, user_id=0)] == [1]  # fmt: skip


def test_a_report_that_is_too_long_shows_that_it_is(conn: sqlite3.Connection) -> None:
    rows = [(day, 1, "k", "p", "m", 1, 0, 0, 0, 0, 0) for day in range(usage.REPORT_ROWS_MAX + 5)]
    conn.execute("BEGIN")
    conn.executemany("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    conn.execute("COMMIT")
    found = usage.report(conn, since_day=0, until_day=10**6, group_by=("day",))
    assert len(found) == usage.REPORT_ROWS_MAX + 1


# --- what was told ----------------------------------------------------------------------------


def test_what_was_told_of_a_day_is_remembered_once(conn: sqlite3.Connection) -> None:
    assert usage.sent(conn, DAY) == set()
    for at_ms in (5, 6):
        usage.mark_sent(conn, DAY, "user:7", "alert", "mail", at_ms)
    usage.mark_sent(conn, DAY, "user:7", "alert", "webhook", 7)
    usage.mark_sent(conn, DAY + 1, "provider:openai", "stop", "mail", 8)
    assert usage.sent(conn, DAY) == {("user:7", "alert", "mail"), ("user:7", "alert", "webhook")}
    assert usage.sent(conn, DAY + 1) == {("provider:openai", "stop", "mail")}
    assert conn.execute("SELECT min(sent_ms) FROM alerts_sent").fetchone() == (5,)


def test_summing_costs_a_request_about_a_microsecond() -> None:
    entries = [spent(at(DAY, n % 5 + 1, f"key_{n % 7}"), 5) for n in range(2000)]

    def once() -> float:
        begun = time.thread_time()
        sums: usage.Sums = {}
        for entry in entries:
            usage.add(sums, entry)
        return (time.thread_time() - begun) / len(entries)

    # 1 µs measured; the bound is what no slow machine excuses, such as a query (10 µs).
    assert min(once() for _ in range(10)) < 8e-6


def test_a_receipt_is_summed_from_its_bytes_as_from_its_entry() -> None:
    entry = spent(at(DAY), 5, list_nano_usd=4, hold_nano_usd=9)
    read = usage.decode(msgspec.msgpack.encode(entry))
    whole: usage.Sums = {}
    part: usage.Sums = {}
    assert usage.add(whole, entry) == usage.add(part, read) == 5
    assert whole == part
    assert (read.opening, read.hold_nano_usd) == (entry.opening, 9)
