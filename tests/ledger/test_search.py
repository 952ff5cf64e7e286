"""Looking for receipts: whatever is asked, and in whatever steps, gives what a plain filter gives.

The store of these tests holds every difficulty on purpose: requests that end long after later ones,
some that a crash left open for hours, days without any request, keys and providers of a few days.
"""

import asyncio
import functools
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_building import never_fatal
from many_receipts import make

from gateway.accounts import secret
from gateway.errors import StoreError
from gateway.ledger import ids, money, overview, schema, search, store, usage
from gateway.ledger.batch import Store
from gateway.ledger.entry import Attempt, Entry, Failure, Opening, Status
from gateway.ledger.records import Key, Receipt
from gateway.ledger.search import Wanted
from gateway.ledger.writer import Ledger
from gateway.wire.neutral import Usage

SECRET = b"another secret of thirty-two bytes or more"
DAY_MS = usage.DAY_MS
BEGIN_MS = 20_000 * DAY_MS + 77
DAYS = 75
MINUTE_MS = 60_000

OWNERS = (("user:1", 1, "key_a"), ("user:1", 1, "key_b"), ("user:2", 2, "key_c"),
          ("byok:c0ffee", None, None))  # fmt: skip
MODELS = ("premium", "gpt-4o", "a_name_of_nothing")
PROVIDERS = ("openai", "anthropic", "open")
ERRORS = ("upstream_error", "upstream", "rate_limit_exceeded")


class Site:
    """A store and what is in it, oldest record first; it grows while it is looked at."""

    def __init__(self, opened: Store) -> None:
        self.opened = opened
        self.conn = opened.conn
        self.rng = random.Random(5)
        self.receipts: list[Receipt] = []

    def __repr__(self) -> str:
        return f"{len(self.receipts)} receipts"

    def add(self, entries: list[Entry]) -> None:
        self.opened.commit((), entries)
        known = len(self.receipts)
        rows = self.conn.execute(f"{store.RECEIPT} WHERE r.seq > ? ORDER BY r.seq", (known,))
        self.receipts.extend(store.to_receipt(row) for row in rows)


def a_receipt(rng: random.Random, new_id_at: int, *, rare: bool = False) -> Entry:
    owner, user_id, key_id = rng.choice(OWNERS)
    if rare and user_id == 1:
        key_id = "key_rare"
    opening = Opening(
        id=ids.id_source(lambda: new_id_at * 1_000_000, rng.randbytes)(),
        owner=owner,
        created_ms=new_id_at,
        endpoint="/v1/chat/completions",
        format="openai_chat",
        model="rare" if rare else rng.choice(MODELS),
        stream=False,
        bytes=1,
        user_id=user_id,
        key_id=key_id,
    )
    status: Status = rng.choices(("succeeded", "failed", "cancelled"), (80, 15, 5))[0]
    first, last = rng.choice(PROVIDERS), "rare" if rare else rng.choice(PROVIDERS)
    refused = status == "failed" and rng.random() < 0.4
    return Entry(
        opening=opening,
        status=status,
        http_status=200,
        failure=None
        if status == "succeeded"
        else Failure("upstream_status", rng.choice(ERRORS), f"{first} said no"),
        provider=None if refused else last,
        route_model="m",
        attempts=[Attempt(first, "m", "upstream_status", 500, 1.0)],
        usage=Usage(input_tokens=rng.randrange(99), output_tokens=1),
        cost_nano_usd=rng.randrange(999),
        billed=user_id is not None,
    )


def weeks_of_receipts(rng: random.Random) -> list[Entry]:
    """In the order of their ends. The 40th day has a crash, and the next start is 10 hours later.

    In the hour before the crash it is busy, and of what began then half is still in flight.
    """
    crash_ms = BEGIN_MS + 40 * DAY_MS
    start_ms = crash_ms + 600 * MINUTE_MS
    arrivals = [crash_ms - rng.randrange(55 * MINUTE_MS) for _ in range(80)]
    now_ms = BEGIN_MS
    while now_ms < BEGIN_MS + DAYS * DAY_MS:
        if not crash_ms <= now_ms < start_ms:
            arrivals.append(now_ms)
        now_ms += rng.choice((1, 1000, 30 * MINUTE_MS, 4 * 60 * MINUTE_MS))
        if rng.random() < 0.01:
            now_ms += 3 * DAY_MS
    ended = []
    for arrival_ms in sorted(arrivals):
        day = (arrival_ms - BEGIN_MS) // DAY_MS
        entry = a_receipt(rng, arrival_ms, rare=day in (3, 60) and rng.random() < 0.3)
        end_ms = arrival_ms + rng.choice((5, 900, 55 * MINUTE_MS, 55 * MINUTE_MS))
        if arrival_ms < crash_ms <= end_ms:
            end_ms = start_ms
        ended.append((end_ms, entry))
    ended.sort(key=lambda one: one[0])
    return [entry for _, entry in ended]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = str(tmp_path_factory.mktemp("search") / "gateway.db")
    opened = Store.open(path, SECRET)
    made = Site(opened)
    with opened.conn:
        opened.conn.execute("BEGIN")
        for name, key_ids in (("ada", ("key_a", "key_b", "key_rare", "key_new")),
                              ("bob", ("key_c",))):  # fmt: skip
            user = store.create_user(
                opened.conn, name=name, email=None, admin=False, created_ms=BEGIN_MS
            )
            for key_id in key_ids:
                key = Key(key_id, user.id, name, "k", "gw-", BEGIN_MS, hash=key_id.encode())
                store.create_key(opened.conn, key)
    made.add(weeks_of_receipts(made.rng))
    yield made
    opened.close()


def fits(wanted: Wanted, receipt: Receipt) -> bool:
    entry, opening = receipt.entry, receipt.entry.opening
    return all(
        (
            wanted.owner in (None, opening.owner),
            wanted.status in (None, entry.status),
            wanted.model in (None, opening.model),
            wanted.key_id in (None, opening.key_id),
            wanted.provider in (None, entry.provider),
            wanted.error in (None, entry.failure and entry.failure.code),
            wanted.since_ms is None or opening.created_ms >= wanted.since_ms,
            wanted.until_ms is None or opening.created_ms < wanted.until_ms,
        )
    )


def sequences(receipts: list[Receipt]) -> list[int]:
    return [receipt.sequence for receipt in receipts]


def perhaps(*values: str) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(values)


moments = st.none() | st.integers(BEGIN_MS - DAY_MS, BEGIN_MS + (DAYS + 1) * DAY_MS)
filters = st.builds(
    Wanted,
    owner=perhaps("user:1", "user:2", "byok:c0ffee", "user:3"),
    status=st.sampled_from((None, None, "succeeded", "failed", "cancelled")),
    model=perhaps(*MODELS, "rare", "none"),
    key_id=perhaps("key_a", "key_c", "key_rare", "key_new", "key_unknown"),
    provider=perhaps(*PROVIDERS, "rare", "none"),
    error=perhaps(*ERRORS, "none"),
    since_ms=moments,
    until_ms=moments,
)
one_filter = st.builds(
    lambda wanted, name: Wanted(**{name: getattr(wanted, name)}),
    filters,
    st.sampled_from(Wanted.__struct_fields__),
)
any_filter = one_filter | filters
steps = st.tuples(st.integers(1, 60), st.none() | st.integers(4, 400))
without_growing = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@without_growing
@given(wanted=any_filter, step=steps)
def test_all_pages_toward_older_ones_are_the_filter_while_receipts_come_in(
    site: Site, wanted: Wanted, step: tuple[int, int | None]
) -> None:
    limit, rows_max = step
    expected = [one.sequence for one in reversed(site.receipts) if fits(wanted, one)]
    met: list[int] = []
    before: int | None = None
    for _ in range(len(site.receipts) + 2):
        page = search.page(site.conn, wanted, before=before, limit=limit, rows_max=rows_max)
        assert len(page.receipts) <= limit
        assert page.complete == (len(page.receipts) == limit or page.next_before is None)
        assert before is None or page.next_before is None or page.next_before < before
        met += sequences(page.receipts)
        before = page.next_before
        if before is None:
            break
        newest_ms = site.receipts[-1].entry.opening.created_ms
        if len(site.receipts) < 2000 and site.rng.random() < 0.2:
            site.add([a_receipt(site.rng, newest_ms + 1000)])
    assert met == expected
    assert page.searched_to_ms is None


@without_growing
@given(wanted=any_filter, step=steps, where=st.floats(0, 1))
def test_all_pages_toward_newer_ones_are_the_filter(
    site: Site, wanted: Wanted, step: tuple[int, int | None], where: float
) -> None:
    limit, rows_max = step
    begin = int(where * len(site.receipts))
    met: list[int] = []
    after: int | None = begin
    for _ in range(len(site.receipts) + 2):
        page = search.page(site.conn, wanted, after=after, limit=limit, rows_max=rows_max)
        found = sequences(page.receipts)
        assert found == sorted(found, reverse=True)
        assert page.complete == (len(found) == limit or page.next_after is None)
        met += reversed(found)
        after = page.next_after
        if after is None:
            break
    assert met == [one.sequence for one in site.receipts[begin:] if fits(wanted, one)]


@without_growing
@given(wanted=any_filter, where=st.floats(0, 1), limit=st.integers(1, 40))
def test_a_page_leads_to_the_one_before_and_the_one_after(
    site: Site, wanted: Wanted, where: float, limit: int
) -> None:
    all_fit = [one.sequence for one in reversed(site.receipts) if fits(wanted, one)]
    begin = int(where * len(site.receipts)) + 1
    page = search.page(site.conn, wanted, before=begin, limit=limit)
    if page.next_after is None:
        assert page == search.NOTHING
        return
    newer = search.page(site.conn, wanted, after=page.next_after, limit=limit)
    nearest = [seq for seq in all_fit if seq >= begin][-limit:]
    assert sequences(newer.receipts) == nearest
    if newer.next_before is not None and page.receipts:
        back = search.page(site.conn, wanted, before=newer.next_before, limit=limit)
        assert sequences(back.receipts) == sequences(page.receipts)


def test_times_are_exact_around_requests_that_ended_late(site: Site) -> None:
    highest = _running_max([one.entry.opening.created_ms for one in site.receipts])
    late = [
        one.entry.opening.created_ms
        for one, high in zip(site.receipts, highest, strict=True)
        if high - one.entry.opening.created_ms > MINUTE_MS
    ]
    for moment_ms in late[::5]:
        until, since = Wanted(until_ms=moment_ms), Wanted(since_ms=moment_ms)
        before = [one.sequence for one in reversed(site.receipts) if fits(until, one)]
        page = search.page(site.conn, until, limit=30)
        assert sequences(page.receipts) == before[:30]
        from_then_on = [one.sequence for one in site.receipts if fits(since, one)]
        page = search.page(site.conn, since, after=0, limit=30)
        assert sequences(page.receipts) == from_then_on[:30][::-1]


def test_one_request_that_lasted_for_hours_hides_no_other(tmp_path: Path) -> None:
    rng = random.Random(8)
    opened = Store.open(str(tmp_path / "gateway.db"), SECRET)
    arrivals = [BEGIN_MS + number * 10 * MINUTE_MS for number in range(300)]
    arrivals = [ms - 1200 * MINUTE_MS * (at % 20 == 7) for at, ms in enumerate(arrivals)]
    opened.commit((), [a_receipt(rng, ms) for ms in arrivals])
    for at, ms in enumerate(arrivals):
        found = search.page(opened.conn, Wanted(since_ms=ms), limit=300).receipts
        prompt = {seq for seq in range(at + 1, 301) if (seq - 1) % 20 != 7}
        if at % 20 != 7:
            assert prompt <= set(sequences(found))
        assert all(one.entry.opening.created_ms >= ms for one in found)
    opened.close()


def test_the_store_of_these_tests_is_as_difficult_as_they_say(site: Site) -> None:
    arrivals = [one.entry.opening.created_ms for one in site.receipts]
    late = [high - ms for high, ms in zip(_running_max(arrivals), arrivals, strict=True) if ms]
    assert max(late) < search.LATE_MS
    assert sum(ms > 30 * MINUTE_MS for ms in late) > 10
    days = {ms // DAY_MS for ms in arrivals}
    assert 31 < len(days) < max(days) - min(days)
    assert any(one.entry.opening.key_id == "key_rare" for one in site.receipts)
    assert any(one.entry.provider == "rare" for one in site.receipts)


def _running_max(values: list[int]) -> list[int]:
    highest = 0
    return [highest := max(highest, value) for value in values]


def test_where_a_page_ends_at_its_bound_it_says_how_far_it_looked(site: Site) -> None:
    wanted = Wanted(model="none")
    page = search.page(site.conn, wanted, limit=10, rows_max=100)
    head = len(site.receipts)
    assert (page.receipts, page.complete) == ([], False)
    assert page.next_before == head - 99
    assert page.searched_to_ms == site.receipts[head - 100].entry.opening.created_ms
    up = search.page(site.conn, wanted, after=7, limit=10, rows_max=100)
    assert (up.next_after, up.next_before, up.complete) == (107, 8, False)


def test_the_last_page_is_known_to_be_the_last_even_where_it_is_full(site: Site) -> None:
    total = len(site.receipts)
    page = search.page(site.conn, Wanted(), before=11, limit=10)
    assert sequences(page.receipts) == list(range(10, 0, -1))
    assert (page.next_before, page.next_after, page.complete) == (None, 10, True)
    assert search.page(site.conn, Wanted(), limit=total).next_before is None


def test_a_key_is_looked_for_among_its_own_user_s_receipts_only(site: Site) -> None:
    for wanted in (Wanted(key_id="key_a", owner="user:2"), Wanted(key_id="key_unknown"),
                   Wanted(error="upstream_error", status="succeeded")):  # fmt: skip
        assert search.page(site.conn, wanted, limit=10) == search.NOTHING


def test_days_that_know_nothing_of_a_provider_are_passed_over(site: Site) -> None:
    """Fewer rows may be looked at than lie above the rare ones, and still they are found."""
    rare = [one for one in site.receipts if one.entry.provider == "rare"]
    newest = rare[-1]
    assert len(site.receipts) - newest.sequence > 100
    page = search.page(site.conn, Wanted(provider="rare"), limit=1, rows_max=60)
    if not page.receipts:
        page = search.page(
            site.conn, Wanted(provider="rare"), before=page.next_before, limit=1, rows_max=60
        )
    assert sequences(page.receipts) == [newest.sequence]


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(owner="user:" + "9" * 30, provider="openai"),
        Wanted(owner="user:x", provider="openai"),
        Wanted(model="\ud800"),
        Wanted(provider="\ud800"),
        Wanted(key_id="\ud800"),
        Wanted(error="\x00"),
        Wanted(provider=""),
        Wanted(since_ms=10**30),
        Wanted(until_ms=-(10**30)),
    ],
)
def test_what_nobody_has_is_not_found(site: Site, wanted: Wanted) -> None:
    assert search.page(site.conn, wanted, limit=10).receipts == []


def test_a_receipt_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    opened = Store.open(str(tmp_path / "gateway.db"), SECRET)
    opened.commit((), [a_receipt(random.Random(1), BEGIN_MS)])
    opened.conn.execute("DROP TRIGGER receipts_refuse_update")
    opened.conn.execute("UPDATE receipts SET body = x'c1'")
    with pytest.raises(StoreError, match="receipt 1 cannot be read"):
        search.page(opened.conn, Wanted(), limit=1)
    opened.close()


@pytest.mark.parametrize("down", [True, False])
def test_steps_that_are_joined_are_the_page_that_one_call_gives(site: Site, down: bool) -> None:
    wanted = Wanted(model="rare")
    where = {"before": len(site.receipts)} if down else {"after": 1}
    whole = search.page(site.conn, wanted, limit=3, rows_max=5000, **where)
    assert len(whole.receipts) == 3
    page = search.page(site.conn, wanted, limit=3, rows_max=7, **where)
    assert page.receipts == []
    while not page.complete:
        on = {"before": page.next_before} if down else {"after": page.next_after}
        missing = 3 - len(page.receipts)
        then = search.page(site.conn, wanted, limit=missing, rows_max=7, **on)
        page = search.joined(page, then, down=down)
    assert page.receipts == whole.receipts
    near, far = ("next_after", "next_before") if down else ("next_before", "next_after")
    assert getattr(page, near) == getattr(whole, near)
    rest = [
        search.page(site.conn, wanted, limit=3, **{next(iter(where)): getattr(one, far)}).receipts
        for one in (page, whole)
    ]
    assert rest[0] == rest[1] != []


# --- by id ------------------------------------------------------------------------------------


@without_growing
@given(where=st.floats(0, 1), digits=st.integers(8, 32), owner=perhaps("user:1", "user:2"))
def test_an_id_is_found_by_its_beginning(
    site: Site, where: float, digits: int, owner: str | None
) -> None:
    receipt = site.receipts[int(where * (len(site.receipts) - 1))]
    text = receipt.entry.opening.id.replace("-", "")[:digits]
    expected = [
        one.sequence
        for one in reversed(site.receipts)
        if one.entry.opening.id.replace("-", "").startswith(text)
        and owner in (None, one.entry.opening.owner)
    ]
    found = search.find(site.conn, f" {text.upper()}\n", owner)
    assert sequences(found.receipts) == expected[: search.FOUND_MAX]
    assert found.more == (len(expected) > search.FOUND_MAX)


def test_what_is_no_beginning_of_an_id_finds_nothing(site: Site) -> None:
    whole = site.receipts[0].entry.opening.id
    assert sequences(search.find(site.conn, whole, None).receipts) == [1]
    for text in (whole[:7], "", whole + "0", "zzzzzzzz", "%%%%%%%%", whole[:8] + "\x00", "１" * 8):
        assert search.find(site.conn, text, None) == search.Found([])


def test_of_many_with_one_beginning_the_newest_are_shown(tmp_path: Path) -> None:
    opened = Store.open(str(tmp_path / "gateway.db"), SECRET)
    rng = random.Random(3)
    new_id = ids.id_source(lambda: BEGIN_MS * 1_000_000, rng.randbytes)
    made = []
    for _ in range(search.FOUND_MAX + 2):
        entry = a_receipt(rng, BEGIN_MS)
        entry.opening = msgspec.structs.replace(entry.opening, id=new_id())
        made.append(entry)
    opened.commit((), made)
    found = search.find(opened.conn, made[0].opening.id[:8], None)
    assert found.more
    assert sequences(found.receipts) == list(range(len(made), 2, -1))
    opened.close()


# --- sums -------------------------------------------------------------------------------------


@without_growing
@given(
    user_id=st.sampled_from((None, 0, 1, 2, 9)),
    since=st.integers(20_000, 20_080),
    length=st.integers(0, 90),
    measure=st.sampled_from(("requests", "failed", "tokens", "nano_usd", "list_nano_usd")),
    by=st.sampled_from(("model", "provider", "key", "user")),
    lines=st.integers(1, 4),
)
def test_a_chart_s_lines_are_the_sums_of_its_receipts(
    site: Site,
    user_id: int | None,
    since: int,
    length: int,
    measure: overview.Measure,
    by: overview.By,
    lines: int,
) -> None:
    days = range(since, since + length + 1)
    expected: dict[str, list[int]] = {}
    for receipt in site.receipts:
        sums: usage.Sums = {}
        usage.add(sums, receipt.entry)
        (((day, user, key, provider, model), row),) = sums.items()
        if day in days and user_id in (None, user):
            name = {"model": model, "provider": provider, "key": key, "user": str(user)}[by]
            values = expected.setdefault(name, [0] * len(days))
            values[day - since] += {
                "requests": row[0], "failed": row[1], "tokens": row[2] + row[3],
                "nano_usd": row[4], "list_nano_usd": row[5],
            }[measure]  # fmt: skip
    order = sorted(expected, key=lambda name: (-sum(expected[name]), name))
    wanted = [overview.Line(name, sum(expected[name]), expected[name]) for name in order[:lines]]
    others = [sum(each) for each in zip(*(expected[name] for name in order[lines:]), strict=True)]
    wanted.append(overview.Line(None, sum(others), others))
    made = overview.series(
        site.conn, user_id=user_id, days=(days[0], days[-1]), measure=measure, by=by, lines=lines
    )
    assert made == overview.Series(list(days), [line for line in wanted if line.total])


def test_receipts_are_counted_without_counting_them(site: Site) -> None:
    assert overview.count(site.conn, None) == len(site.receipts)
    for owner in ("user:1", "user:2", "user:3"):
        theirs = sum(one.entry.opening.owner == owner for one in site.receipts)
        assert overview.count(site.conn, owner) == theirs
    for unknown in ("byok:c0ffee", "user:", "user:" + "9" * 30):
        assert overview.count(site.conn, unknown) is None


# --- a large store ----------------------------------------------------------------------------

MANY = 20_000
UNTIL_MS = BEGIN_MS + 60 * DAY_MS


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("many") / "gateway.db")
    asyncio.run(make(path, MANY, until_ms=UNTIL_MS))
    return path


@pytest.fixture(scope="module")
def all_of_many(many: str) -> list[Receipt]:
    conn = schema.open_reader(many)
    found = list(store.receipts_since(conn))
    conn.close()
    return found


def test_a_store_made_to_try_things_on_is_in_order(many: str, all_of_many: list[Receipt]) -> None:
    assert store.verify_file(many, secret.load(many, {})).checked == MANY
    conn = schema.open_reader(many)
    books = money.check_books(conn)
    assert (books.wrong, books.receipts, books.overspent) == ([], MANY, 0)
    assert all(money.balance(conn, user.id) > 0 for user in store.list_users(conn))
    conn.close()
    statuses = {one.entry.status for one in all_of_many}
    assert statuses == {"succeeded", "failed", "cancelled"}
    arrivals = [one.entry.opening.created_ms for one in all_of_many]
    assert arrivals != sorted(arrivals)
    assert max(arrivals) < UNTIL_MS
    assert min(arrivals) >= UNTIL_MS - 60 * DAY_MS


BROAD = [
    Wanted(model="none"),
    Wanted(owner="user:2", model="none"),
    Wanted(owner="user:2", status="cancelled", model="none"),
    Wanted(error="none"),
    Wanted(owner="user:2", error="none"),
    Wanted(provider="openai", model="none"),
    Wanted(since_ms=UNTIL_MS - 50 * DAY_MS, until_ms=UNTIL_MS - 5 * DAY_MS, model="none"),
]


@pytest.mark.parametrize("wanted", BROAD)
@pytest.mark.parametrize("direction", ["before", "after"])
def test_what_one_call_does_is_bounded_by_the_rows_it_may_look_at(
    many: str, wanted: Wanted, direction: str
) -> None:
    """Counted in SQLite's own steps, of which a row costs a few and the whole store thousands."""

    def steps_of(rows_max: int) -> int:
        conn = schema.open_reader(many)
        search.page(conn, wanted, limit=50)
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        conn.set_progress_handler(tick, 1)
        where = {direction: MANY // 2}
        page = search.page(conn, wanted, limit=50, rows_max=rows_max, **where)
        conn.set_progress_handler(None, 1)
        conn.close()
        assert not page.complete
        return count

    few, more = steps_of(20), steps_of(70)
    assert few < 12_000
    assert more - few < 50 * 60


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(model="gemini-2.5-pro"),
        Wanted(owner="user:2", model="gemini-2.5-pro"),
        Wanted(owner="user:6"),
        Wanted(owner="user:2", error="truncated"),
        Wanted(model="none"),
    ],
)
async def test_with_patience_a_search_goes_on_until_its_page_is_full(
    many: str, all_of_many: list[Receipt], wanted: Wanted
) -> None:
    expected = [one.sequence for one in reversed(all_of_many) if fits(wanted, one)]
    ledger = await Ledger.open(
        many, secret=secret.load(many, {}), durability="full", on_fatal=never_fatal
    )
    try:
        down = await ledger.search(wanted, limit=4, patience_s=60)
        assert sequences(down.receipts) == expected[:4]
        assert down.complete
        up = await ledger.search(wanted, after=0, limit=4, patience_s=60)
        assert sequences(up.receipts) == expected[-4:]
        every = await ledger.search(wanted, limit=MANY, patience_s=60)
        assert sequences(every.receipts) == expected
        assert every.next_before is None
    finally:
        await ledger.close()


async def test_without_patience_a_search_is_one_step(many: str) -> None:
    ledger = await Ledger.open(
        many, secret=secret.load(many, {}), durability="full", on_fatal=never_fatal
    )
    try:
        wanted = Wanted(model="none")
        page = await ledger.search(wanted, limit=4)
        assert (page.receipts, page.complete) == ([], False)
        assert page.next_before == MANY - search.ROWS_LOOKED_AT_MAX + 1
        rest = await ledger.search(wanted, before=page.next_before, limit=4)
        assert rest.complete
    finally:
        await ledger.close()


async def test_lists_by_status_and_model_are_whole_however_many_steps_they_take(
    many: str, all_of_many: list[Receipt]
) -> None:
    ledger = await Ledger.open(
        many, secret=secret.load(many, {}), durability="full", on_fatal=never_fatal
    )
    try:
        for wanted in (
            Wanted(owner="user:2", model="gemini-2.5-pro"),
            Wanted(status="failed", model="text-embedding-3-small"),
            Wanted(model="none"),
            Wanted(owner="user:6", status="succeeded"),
        ):
            listed = functools.partial(
                ledger.receipts, wanted.owner, status=wanted.status, model=wanted.model, limit=100
            )
            expected = [one for one in reversed(all_of_many) if fits(wanted, one)]
            assert await listed() == expected[:100]
            if len(expected) > 1:
                after = expected[0].entry.opening.id
                assert await listed(after=after) == expected[1:101]
        foreign = next(one for one in all_of_many if one.entry.opening.owner != "user:6")
        not_theirs = foreign.entry.opening.id
        assert await ledger.receipts("user:6", after=not_theirs, status="succeeded") == []
        assert await ledger.receipts("user:6", after="x", status="succeeded") == []
    finally:
        await ledger.close()


async def test_searches_that_go_on_do_not_keep_others_from_reading(many: str) -> None:
    ledger = await Ledger.open(
        many, secret=secret.load(many, {}), durability="full", on_fatal=never_fatal
    )
    try:
        searches = [
            asyncio.ensure_future(ledger.receipts(None, model=f"none {number}"))
            for number in range(6)
        ]
        told = [ledger.receipts("user:6", limit=1) for _ in range(6)]
        assert all(len(one) == 1 for one in await asyncio.gather(*told))
        assert await asyncio.gather(*searches) == [[]] * 6
    finally:
        await ledger.close()
