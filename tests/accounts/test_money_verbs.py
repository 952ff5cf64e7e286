"""Credits, corrections, codes, caps: each once, durable first, and then in the funds."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from accounts_site import PREFIX, SECRET, Clock, opened

from gateway.accounts import codes, keys
from gateway.accounts.accounts import Accounts, Credit, KeySpec
from gateway.accounts.changes import AMOUNT_NANO_USD_MAX, KeyChanges
from gateway.accounts.funds import NO_CAP
from gateway.errors import Conflict, KeyReused, Missing, StoreError
from gateway.ledger import money
from gateway.ledger.entry import Entry, Opening
from gateway.ledger.ids import new_id
from gateway.ledger.records import Cap, Key
from gateway.ledger.writer import Ledger


async def books_are_clean(ledger: Ledger) -> money.Books:
    books = await ledger.read(money.check_books)
    assert books.wrong == []
    return books


async def charge(ledger: Ledger, key: Key, nano_usd: int, *, billed: bool = True) -> None:
    """A finished request of a key, as the proxy writes it."""
    opening = Opening(
        new_id(), f"user:{key.user_id}", 1_800_000_000_000, "/v1/chat/completions", "openai_chat",
        "m", False, 1, key.user_id, key.id,
    )  # fmt: skip
    done = asyncio.Event()
    entry = Entry(
        opening=opening, status="succeeded", http_status=200, cost_nano_usd=nano_usd, billed=billed
    )
    ledger.finish(entry, done.set)
    await asyncio.wait_for(done.wait(), 10)


def all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


# --- credits ----------------------------------------------------------------------------------


async def test_a_credit_is_in_the_balance_and_the_funds(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    user = await accounts.create_user("ann")
    funds = accounts.funds(user.id)
    assert (await accounts.balance("ann"), funds.balance) == (0, 0)
    first = await accounts.credit("ann", 5_000_000_000)
    second = await accounts.credit("ann", 7)
    assert first == Credit(first.id, "ann", 5_000_000_000, 5_000_000_000, clock.now_ms)
    assert (second.nano_usd, second.balance_nano_usd) == (7, 5_000_000_007)
    assert first.id != second.id
    assert accounts.funds(user.id) is funds
    assert (await accounts.balance("ann"), funds.balance) == (5_000_000_007, 5_000_000_007)
    assert (await books_are_clean(ledger)).credited == 5_000_000_007


async def test_of_a_hundred_racing_copies_of_a_credit_one_is_given_and_all_are_answered_alike(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    user = await accounts.create_user("ann")

    async def copy(number: int) -> Credit:
        clock.now_ms += number
        return await accounts.credit("ann", 10**9, idempotency_key="order 17")

    answers = await asyncio.gather(*(copy(number) for number in range(100)))
    assert len({msgspec.json.encode(answer) for answer in answers}) == 1
    assert accounts.funds(user.id).balance == await accounts.balance("ann") == 10**9
    await accounts.credit("ann", 5)
    again = await Accounts.load(ledger, SECRET, PREFIX, clock_ms=clock)
    assert await again.credit("ann", 10**9, idempotency_key="order 17") == answers[0]
    assert again.funds(user.id).balance == 10**9 + 5
    assert (await books_are_clean(ledger)).transfers == 2


async def test_an_idempotency_key_is_for_one_amount_and_one_user(
    ledger: Ledger, accounts: Accounts
) -> None:
    for name in ("ann", "bob"):
        await accounts.create_user(name)
    await accounts.credit("ann", 5, idempotency_key="k")
    for name, nano_usd in (("ann", 6), ("bob", 5)):
        with pytest.raises(KeyReused, match=r"^idempotency_key: "):
            await accounts.credit(name, nano_usd, idempotency_key="k")
    await accounts.credit("bob", 5, idempotency_key="K")
    assert [await accounts.balance(name) for name in ("ann", "bob")] == [5, 5]
    await books_are_clean(ledger)


@pytest.mark.parametrize("nano_usd", [0, -1, AMOUNT_NANO_USD_MAX + 1, 2**63, 10**40])
async def test_an_amount_out_of_bounds_is_refused_by_every_verb(
    ledger: Ledger, accounts: Accounts, nano_usd: int
) -> None:
    await accounts.create_user("ann")
    with pytest.raises(Conflict, match=r"^credit: "):
        await accounts.credit("ann", nano_usd, idempotency_key="k")
    with pytest.raises(Conflict, match=r"^amount: "):
        await accounts.create_codes(nano_usd)
    with pytest.raises(Conflict, match=r"^cap: "):
        await accounts.set_cap("ann", "m", nano_usd)
    if not -AMOUNT_NANO_USD_MAX <= nano_usd < 0:
        with pytest.raises(Conflict, match=r"^correction: "):
            await accounts.correct("ann", nano_usd, "why")
    assert (
        await ledger.read(lambda conn: conn.execute("SELECT * FROM idempotency").fetchall()) == []
    )
    assert await accounts.balance("ann") == 0


@pytest.mark.parametrize("key", ["", " ", "a\n", "x" * 256, "\ud800"])
async def test_what_is_no_idempotency_key_is_refused(accounts: Accounts, key: str) -> None:
    await accounts.create_user("ann")
    with pytest.raises(Conflict, match=r"^idempotency_key: "):
        await accounts.credit("ann", 1, idempotency_key=key)


async def test_a_credit_whose_caller_left_is_in_the_funds_all_the_same(accounts: Accounts) -> None:
    user = await accounts.create_user("ann")
    leaver = asyncio.ensure_future(accounts.credit("ann", 5))
    await asyncio.sleep(0)  # it has begun, and waits for the commit
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    await accounts.create_user("bob")  # verbs run one at a time
    assert accounts.funds(user.id).balance == await accounts.balance("ann") == 5


async def test_what_could_not_be_committed_is_not_in_the_funds(
    ledger: Ledger, accounts: Accounts
) -> None:
    user = await accounts.create_user("ann")
    ((_, text),) = await accounts.create_codes(7)
    await ledger.close()
    for verb in (
        accounts.credit("ann", 5),
        accounts.correct("ann", -5, "why"),
        accounts.redeem("ann", text),
        accounts.set_cap("ann", "m", 5),
    ):
        with pytest.raises(StoreError):
            await verb
    assert accounts.funds(user.id).balance == 0
    assert accounts.cap(user.id, "m") is None


async def test_a_correction_may_leave_a_debt(ledger: Ledger, accounts: Accounts) -> None:
    user = await accounts.create_user("ann")
    await accounts.credit("ann", 10)
    made = await accounts.correct("ann", -15, "credited twice")
    assert (made.user, made.nano_usd, made.balance_nano_usd) == ("ann", -15, -5)
    assert accounts.funds(user.id).balance == await accounts.balance("ann") == -5
    assert not accounts.funds(user.id).hold(0)
    assert (await accounts.correct("ann", 6, "too much")).balance_nano_usd == 1
    assert (await books_are_clean(ledger)).transfers == 3
    for reason in ("", "  ", "a\nb", "x" * 501):
        with pytest.raises(Conflict, match=r"^reason: "):
            await accounts.correct("ann", 1, reason)


# --- codes ------------------------------------------------------------------------------------


async def test_of_a_hundred_racing_redemptions_of_a_code_one_succeeds(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    users = [await accounts.create_user(f"user {number}") for number in range(10)]
    ((code, text),) = await accounts.create_codes(10**9)
    tries = (accounts.redeem(users[number % 10].name, text) for number in range(100))
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    assert len(won) == 1
    redeemed, balance = won[0]
    assert (redeemed.id, redeemed.redeemed_ms, balance) == (code.id, clock.now_ms, 10**9)
    lost = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    assert {str(outcome) for outcome in lost} == {"code: it has been redeemed before"}
    assert sorted(accounts.funds(user.id).balance for user in users) == [0] * 9 + [10**9]
    again = await Accounts.load(ledger, SECRET, PREFIX, clock_ms=clock)
    with pytest.raises(Conflict, match="has been redeemed"):
        await again.redeem("user 1", text)
    assert await again.list_codes() == [redeemed]
    assert (await books_are_clean(ledger)).credited == 10**9


async def test_codes_are_shown_once_and_kept_hashed(accounts: Accounts, tmp_path: Path) -> None:
    made = await accounts.create_codes(5, 20, None)
    texts = [text for _, text in made]
    assert len(set(texts)) == 20
    assert all(keys.check(codes.PREFIX, text) == "ok" for text in texts)
    listed = await accounts.list_codes()
    assert sorted(code.id for code in listed) == sorted(code.id for code, _ in made)
    assert {code.hint for code in listed} == {text[:9] for text in texts}
    content = all_bytes(tmp_path)
    for text in texts:
        assert text[:9].encode() in content
        assert text[9:].encode() not in content


async def test_a_code_expires_to_the_millisecond(accounts: Accounts, clock: Clock) -> None:
    await accounts.create_user("ann")
    expiry = clock.now_ms + 5
    made = await accounts.create_codes(5, 2, expiry)
    clock.now_ms = expiry - 1
    assert (await accounts.redeem("ann", f"  {made[0][1]}\n"))[1] == 5
    clock.now_ms = expiry
    with pytest.raises(Conflict, match=r"^code: it has expired"):
        await accounts.redeem("ann", made[1][1])


async def test_a_typo_in_a_code_is_told_from_a_code_that_was_never_issued(
    accounts: Accounts,
) -> None:
    await accounts.create_user("ann")
    unknown = keys.mint(codes.PREFIX)
    with pytest.raises(Missing, match=r"^code: no such code"):
        await accounts.redeem("ann", unknown)
    typo = unknown[:-1] + ("a" if unknown[-1] != "a" else "b")
    for bad in (typo, "", "code-", keys.mint(PREFIX), "\ud800", "x" * 9000):
        with pytest.raises(Conflict, match=r"^code: its checksum") as caught:
            await accounts.redeem("ann", bad)
        assert not bad or bad not in str(caught.value)


@pytest.mark.parametrize(("count", "expires_ms"), [(0, None), (1001, None), (1, 5), (1, 10**15)])
async def test_codes_that_nobody_means_to_make_are_refused(
    accounts: Accounts, count: int, expires_ms: int | None
) -> None:
    with pytest.raises(Conflict, match=r"^(count|expires): "):
        await accounts.create_codes(5, count, expires_ms)
    assert await accounts.list_codes() == []


# --- caps -------------------------------------------------------------------------------------


async def test_a_cap_is_per_user_and_model_and_survives_a_restart(
    ledger: Ledger, accounts: Accounts
) -> None:
    ann = await accounts.create_user("ann")
    bob = await accounts.create_user("bob")
    await accounts.set_cap("ann", "premium", 5)
    await accounts.set_cap("ann", "basic", 6)
    await accounts.set_cap("ann", "premium", 7)
    for one in (accounts, await Accounts.load(ledger, SECRET, PREFIX)):
        assert one.cap(ann.id, "premium") == 7
        assert one.cap(bob.id, "premium") is None
        assert one.caps("ann") == [Cap(ann.id, "basic", 6), Cap(ann.id, "premium", 7)]
        assert one.caps("bob") == []
    await accounts.set_cap("ann", "premium", None)
    assert accounts.cap(ann.id, "premium") is None
    assert (await Accounts.load(ledger, SECRET, PREFIX)).caps("ann") == [Cap(ann.id, "basic", 6)]
    with pytest.raises(Conflict, match=r"^model: "):
        await accounts.set_cap("ann", "", 5)


async def test_a_keys_spending_counts_against_its_cap_however_that_changes(
    ledger: Ledger, accounts: Accounts
) -> None:
    await accounts.create_user("ann")
    await accounts.credit("ann", 1000)
    key, _ = await accounts.create_key("ann", KeySpec(spend_cap_nano_usd=100))
    free, _ = await accounts.create_key("ann")
    funds = accounts.key_funds(key.id)
    assert funds.hold(60)
    funds.settle(60, 40)
    await charge(ledger, key, 40)
    assert (funds.available, accounts.key_funds(free.id).available) == (60, NO_CAP)
    await accounts.update_key(key.id, KeyChanges(rpm=5))
    assert funds.available == 60
    await accounts.update_key(key.id, KeyChanges(spend_cap_nano_usd=50))
    assert funds.available == 10
    assert not funds.hold(11)
    await accounts.update_key(key.id, KeyChanges(spend_cap_nano_usd=30))
    assert not funds.hold(0)
    await accounts.update_key(key.id, KeyChanges(spend_cap_nano_usd=None))
    assert funds.balance == NO_CAP - 40
    await accounts.update_key(key.id, KeyChanges(spend_cap_nano_usd=70))
    assert accounts.key_funds(key.id) is funds
    await accounts.revoke_key(key.id)
    assert funds.available == 30


async def test_a_restart_finds_balances_and_spending_as_they_were(
    ledger: Ledger, accounts: Accounts
) -> None:
    user = await accounts.create_user("ann")
    await accounts.credit("ann", 1000)
    capped, _ = await accounts.create_key("ann", KeySpec(spend_cap_nano_usd=100))
    free, _ = await accounts.create_key("ann")
    for key, nano_usd in ((capped, 30), (free, 200), (capped, 25)):
        for funds in (accounts.funds(user.id), accounts.key_funds(key.id)):
            assert funds.hold(nano_usd)
            funds.settle(nano_usd, nano_usd)
        await charge(ledger, key, nano_usd)
    await charge(ledger, free, 7, billed=False)
    assert accounts.funds(user.id).hold(10)
    assert accounts.held("ann") == 10
    assert await accounts.balance("ann") == 745
    again = await Accounts.load(ledger, SECRET, PREFIX)
    assert again.held("ann") == 0
    assert again.funds(user.id).balance == accounts.funds(user.id).balance == 745
    for key in (capped, free):
        assert again.key_funds(key.id).balance == accounts.key_funds(key.id).balance
    assert again.key_funds(capped.id).available == 45
    assert (await books_are_clean(ledger)).charged == 255


async def test_a_first_start_credits_once_even_when_it_is_cut_off(tmp_path: Path) -> None:
    for _ in range(3):
        ledger = await opened(tmp_path / "gateway.db")
        accounts = await Accounts.load(ledger, SECRET, PREFIX)
        if not accounts.list_users():
            await accounts.create_user("demo")
        await accounts.credit("demo", 10, idempotency_key="first-run")
        assert accounts.funds(accounts.user_named("demo").id).balance == 10
        await ledger.close()
