import asyncio
import sqlite3
import statistics
import time
from functools import partial

import pytest
from ledger_building import (
    DEADLINE_S,
    SECRET,
    an_entry,
    an_opening,
    durable,
    finished,
    open_ledger,
    until,
)

from gateway.errors import Conflict, StoreError
from gateway.ledger import money, store
from gateway.ledger.entry import Opening
from gateway.ledger.records import CREDIT_ACCOUNT, Receipt, User
from gateway.ledger.writer import Ledger


async def test_many_requests_share_a_commit_and_each_waiter_is_woken(ledger: Ledger) -> None:
    commits: list[tuple[float, int]] = []
    ledger.on_commit = lambda seconds, rows: commits.append((seconds, rows))
    openings = [an_opening() for _ in range(500)]
    woken: list[str] = []
    for opening in openings:
        ledger.when_durable(ledger.begin(opening), partial(woken.append, opening.id))
    await until(lambda: len(woken) == 500)
    assert woken == [opening.id for opening in openings]
    assert len(commits) < 50
    await finished(ledger, *(an_entry(opening) for opening in openings))
    assert sum(rows for _, rows in commits) == 1000
    assert all(seconds > 0 for seconds, _ in commits)
    assert ledger.queue_depth == 0
    left = await ledger.read(lambda conn: conn.execute("SELECT count(*) FROM openings").fetchone())
    assert left == (0,)


async def test_a_callback_for_what_is_durable_comes_at_once(ledger: Ledger) -> None:
    ticket = ledger.begin(an_opening())
    await durable(ledger, ticket)
    called: list[int] = []
    ledger.when_durable(ticket, lambda: called.append(1))
    assert called == [1]


async def test_two_callbacks_may_wait_for_one_ticket(ledger: Ledger) -> None:
    ticket = ledger.begin(an_opening())
    called: list[int] = []
    ledger.when_durable(ticket, lambda: called.append(1))
    ledger.when_durable(ticket, lambda: called.append(2))
    await durable(ledger, ticket)
    assert called == [1, 2]


async def test_nothing_is_acknowledged_before_another_connection_can_read_it(
    ledger: Ledger, path: str
) -> None:
    reader = sqlite3.connect(path)
    seen: list[tuple[int]] = []
    done = asyncio.Event()
    opening = an_opening()

    def acknowledged() -> None:
        seen.append(reader.execute("SELECT count(*) FROM receipts").fetchone())
        done.set()

    ledger.finish(an_entry(opening), acknowledged)
    await asyncio.wait_for(done.wait(), DEADLINE_S)
    reader.close()
    assert seen == [(1,)]


async def test_a_receipt_is_in_progress_until_it_is_final(ledger: Ledger) -> None:
    opening = an_opening()
    await durable(ledger, ledger.begin(opening))
    assert await ledger.receipt(opening.id, opening.owner) == opening
    assert await ledger.receipt(opening.id, "user:2") is None
    acknowledged = asyncio.Event()
    ledger.finish(an_entry(opening), acknowledged.set)
    assert opening.id in ledger.in_flight
    await asyncio.wait_for(acknowledged.wait(), DEADLINE_S)
    assert opening.id not in ledger.in_flight
    receipt = await ledger.receipt(opening.id, opening.owner)
    assert isinstance(receipt, Receipt)
    assert receipt.entry == an_entry(opening)
    assert await ledger.receipt(opening.id, "user:2") is None
    assert await ledger.receipt(opening.id, None) == receipt


@pytest.mark.parametrize("receipt_id", ["", "nonsense", "01a1fd13-fb96-7264-9405-a1fcbbabbde0"])
async def test_an_unknown_receipt_is_none(ledger: Ledger, receipt_id: str) -> None:
    assert await ledger.receipt(receipt_id, None) is None


async def test_a_callback_that_raises_does_not_cost_the_others_theirs(ledger: Ledger) -> None:
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    ticket = ledger.begin(an_opening())

    def broken() -> None:
        raise RuntimeError("a waiter's bug")

    called: list[int] = []
    ledger.when_durable(ticket, broken)
    ledger.when_durable(ticket, lambda: called.append(1))
    await durable(ledger, ledger.begin(an_opening()))
    assert called == [1]
    assert told == ["a waiter's bug"]


async def test_a_request_refused_before_it_began_has_a_receipt_too(ledger: Ledger) -> None:
    opening = an_opening()
    await finished(ledger, an_entry(opening, 0, billed=False))
    assert isinstance(await ledger.receipt(opening.id, opening.owner), Receipt)


async def test_a_receipt_finished_twice_is_written_and_charged_once(ledger: Ledger) -> None:
    twice, other = an_opening(), an_opening()
    await finished(ledger, an_entry(twice))
    await finished(ledger, an_entry(twice, 999), an_entry(other), an_entry(other, 7))
    assert await ledger.read(lambda conn: money.balance(conn, 1)) == -210_000
    assert (await ledger.read(money.check_books)).wrong == []
    assert (await ledger.read(lambda conn: store.verify(conn, SECRET))).checked == 2


async def test_what_cannot_be_encoded_is_recorded_and_costs_no_one_else(ledger: Ledger) -> None:
    odd = an_opening(model="caf\udce9")
    await durable(ledger, ledger.begin(odd))
    dear, negative, fine = an_opening(), an_opening(), an_opening()
    await finished(
        ledger,
        an_entry(odd),
        an_entry(dear, 10**30),
        an_entry(negative, -5),
        an_entry(fine),
    )
    shown = {receipt.entry.opening.id: receipt.entry for receipt in await ledger.receipts(None)}
    assert shown[odd.id].opening.model == "caf?"
    assert shown[odd.id].status == "succeeded"
    for refused in (dear, negative):
        failure = shown[refused.id].failure
        assert failure is not None
        assert (failure.stage, failure.code) == ("gateway", "internal_error")
        assert not shown[refused.id].billed
    assert shown[fine.id] == an_entry(fine)
    assert await ledger.read(lambda conn: money.balance(conn, 1)) == -210_000
    assert (await ledger.read(money.check_books)).wrong == []


async def test_close_commits_everything_queued_and_may_be_called_twice(path: str) -> None:
    ledger = await open_ledger(path)
    openings = [an_opening() for _ in range(300)]
    called: list[str] = []
    for opening in openings:
        ledger.begin(opening)
        ledger.finish(an_entry(opening), partial(called.append, opening.id))
    await ledger.close()
    await ledger.close()
    assert called == [opening.id for opening in openings]
    reopened = await open_ledger(path)
    assert len(await reopened.receipts(None, limit=1000)) == 300
    await reopened.close()


async def test_a_closed_ledger_says_so(path: str) -> None:
    ledger = await open_ledger(path)
    await ledger.close()
    with pytest.raises(StoreError, match="closed"):
        await ledger.execute(store.list_users)
    with pytest.raises(StoreError, match="closed"):
        await ledger.receipts(None)


async def test_relaxed_acknowledges_first_and_commits_within_20_ms(path: str) -> None:
    ledger = await open_ledger(path, "relaxed")
    committed = asyncio.Event()
    ledger.on_commit = lambda seconds, rows: committed.set()
    took_s: list[float] = []
    for _ in range(21):
        committed.clear()
        called: list[int] = []
        begun = time.perf_counter()
        opening = an_opening()
        ledger.when_durable(ledger.begin(opening), partial(called.append, 1))
        ledger.finish(an_entry(opening), partial(called.append, 2))
        assert called == [1, 2]
        await asyncio.wait_for(committed.wait(), DEADLINE_S)
        took_s.append(time.perf_counter() - begun)
    await ledger.close()
    assert statistics.median(took_s) < 0.020


async def test_a_relaxed_receipt_is_final_the_moment_it_is_acknowledged(path: str) -> None:
    ledger = await open_ledger(path, "relaxed")
    opening = an_opening()
    ledger.begin(opening)
    ledger.finish(an_entry(opening))
    assert isinstance(await ledger.receipt(opening.id, opening.owner), Receipt)
    ledger.finish(an_entry(later := an_opening()))
    assert [r.entry.opening.id for r in await ledger.receipts(None, limit=1)] == [later.id]
    await ledger.close()


async def test_a_control_write_that_fails_takes_back_only_its_own(ledger: Ledger) -> None:
    def half(conn: sqlite3.Connection) -> None:
        store.create_user(conn, name="half", email=None, admin=False, created_ms=1)
        raise Conflict("thought better of it")

    opening = an_opening()
    ticket = ledger.begin(opening)
    whole = ledger.execute(
        lambda conn: store.create_user(conn, name="whole", email=None, admin=False, created_ms=1)
    )
    failed, made = await asyncio.gather(ledger.execute(half), whole, return_exceptions=True)
    assert isinstance(failed, Conflict)
    assert isinstance(made, User)
    await durable(ledger, ticket)
    assert [user.name for user in await ledger.read(store.list_users)] == ["whole"]


async def test_a_control_write_with_bad_sql_reaches_its_caller_only(ledger: Ledger) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await ledger.execute(lambda conn: conn.execute("SELECT * FROM elsewhere"))
    await durable(ledger, ledger.begin(an_opening()))
    assert ledger.writable


async def test_a_control_write_whose_caller_left_is_still_written(ledger: Ledger) -> None:
    waiting = asyncio.ensure_future(
        ledger.execute(
            lambda conn: store.create_user(conn, name="gone", email=None, admin=False, created_ms=1)
        )
    )
    await asyncio.sleep(0)
    waiting.cancel()
    await durable(ledger, ledger.begin(an_opening()))
    assert [user.name for user in await ledger.read(store.list_users)] == ["gone"]


async def test_reading_connections_cannot_write(ledger: Ledger) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await ledger.read(lambda conn: conn.execute("DELETE FROM users"))


async def test_receipts_are_listed_newest_first_in_pages_and_by_filter(ledger: Ledger) -> None:
    mine = [an_opening(1, model=f"m{n % 2}") for n in range(7)]
    theirs = [an_opening(2) for _ in range(3)]
    for opening in (*mine, *theirs):
        await finished(ledger, an_entry(opening))

    async def page(owner: str | None, limit: int, after: str | None = None) -> list[str]:
        found = await ledger.receipts(owner, limit=limit, after=after)
        return [receipt.entry.opening.id for receipt in found]

    newest_first: list[str] = [opening.id for opening in reversed(mine)]
    assert await page("user:1", 4) == newest_first[:4]
    assert await page("user:1", 4, newest_first[3]) == newest_first[4:]
    assert await page("user:1", 4, newest_first[-1]) == []
    assert await page(None, 3) == [opening.id for opening in reversed(theirs)]
    assert await page(None, 1, theirs[0].id) == newest_first[:1]
    assert await page("user:1", 4, theirs[0].id) == []
    assert await page("user:1", 4, "nonsense") == []
    by_model = await ledger.receipts("user:1", model="m1")
    assert [r.entry.opening.model for r in by_model] == ["m1"] * 3
    assert await ledger.receipts("user:1", status="failed") == []
    assert len(await ledger.receipts("user:1", status="succeeded")) == 7


async def test_concurrent_requests_and_credits_sum_to_the_balance(ledger: Ledger) -> None:
    user = await ledger.execute(
        lambda conn: store.create_user(conn, name="u", email=None, admin=False, created_ms=1)
    )

    async def request(cost: int) -> None:
        opening: Opening = an_opening(user.id)
        await durable(ledger, ledger.begin(opening))
        await finished(ledger, an_entry(opening, cost))

    async def credit(n: int) -> None:
        await ledger.execute(
            lambda conn: money.post_transfer(
                conn,
                money.Transfer(f"credit-{n % 10}", "credit", CREDIT_ACCOUNT, user.id, 10**9, 1),
            )
        )

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for n in range(200):
            group.create_task(request(n))
            if n % 5 == 0:
                group.create_task(credit(n // 5))
    balance = await ledger.read(lambda conn: money.balance(conn, user.id))
    assert balance == 10 * 10**9 - sum(range(200))
    assert (await ledger.read(money.check_books)).wrong == []
    assert (await ledger.read(lambda conn: store.verify(conn, SECRET))).ok
