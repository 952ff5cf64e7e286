"""What a call takes before it is sent: caps of calls and of keys, holds, and what failover adds."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from plain_books import reported
from shop import DEFAULT_OUTPUT, Shop, chat

from gateway.accounts.changes import KeyChanges, UserChanges
from gateway.accounts.funds import NO_CAP
from gateway.errors import GatewayError
from gateway.ledger.prices import usd_text
from gateway.wire.neutral import Metered

USD = 10**9
CENT = 10**7
DAY_MS = 20_000 * 86_400_000


class Customer:
    """Somebody with a key, in a shop of their own."""

    def __init__(self, shop: Shop, text: str, key_id: str) -> None:
        self.shop = shop
        self.text = text
        self.key_id = key_id
        accounts = shop.accounts
        self.id = accounts.user_named("ada").id
        self.funds = accounts.funds(self.id)
        self.key_funds = accounts.key_funds(key_id)

    def refused(self, body: bytes) -> GatewayError:
        """The refusal of a call; that it took nothing is asserted here."""
        before = self.standing()
        with pytest.raises(GatewayError) as caught:
            self.shop.call(self.text, body)
        assert self.standing() == before
        return caught.value

    def standing(self) -> tuple[object, ...]:
        """All that a call could take something from."""
        caller = self.shop.caller(self.text)
        levels = [
            (one.in_flight, one.requests and one.requests.level, one.tokens and one.tokens.level)
            for one in caller.subjects
        ]
        funds = (self.funds.balance, self.funds.held, self.key_funds.balance, self.key_funds.held)
        return (*levels, *funds)

    def worst(self, body: bytes) -> int:
        """What a call holds, found by holding it and giving it back."""
        flight = self.shop.call(self.text, body)
        held = flight.claim.held
        flight.end("no_answer", None)
        return held

    async def cap(self, nano_usd: int | None, model: str = "plain") -> None:
        await self.shop.accounts.set_cap("ada", model, nano_usd)

    async def leave(self, nano_usd: int) -> None:
        """Make the balance this much."""
        await self.shop.accounts.correct("ada", nano_usd - self.funds.balance, "so much is left")


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncIterator[Customer]:
    shop = await Shop.open(tmp_path / "gateway.db", lambda: DAY_MS)
    await shop.accounts.create_user("ada")
    await shop.accounts.credit("ada", USD)
    key, text = await shop.accounts.create_key("ada")
    yield Customer(shop, text, key.id)
    shop.close()


# --- the cap of one call


async def test_a_call_above_its_cap_is_refused_with_the_max_tokens_that_fits(ada: Customer) -> None:
    body = chat("plain", max_tokens=1000)
    worst = ada.worst(body)
    cap = worst - CENT // 2
    await ada.cap(cap)
    error = ada.refused(body)
    assert (error.code, error.status, error.stage, error.param) == (
        "call_cap_exceeded", 402, "balance", "max_tokens",
    )  # fmt: skip
    start = (
        f"This call of plain may cost up to ${usd_text(worst)}, more than your cap of "
        f"${usd_text(cap)} per call: max_tokens of at most "
    )
    assert error.message.startswith(start)
    assert error.message.endswith(" would fit")
    fits = int(error.message.removeprefix(start).removesuffix(" would fit"))
    assert 0 < fits < 1000
    flight = ada.shop.call(ada.text, chat("plain", max_tokens=fits))
    assert 0 < flight.claim.held <= cap
    assert flight.claim.max_output_tokens is None, "the caller's own bound is left alone"
    ada.refused(chat("plain", max_tokens=fits + 1))


async def test_a_cap_counts_every_choice_that_is_asked_for(ada: Customer) -> None:
    one = chat("plain", max_tokens=1000)
    await ada.cap(ada.worst(one))
    ada.shop.call(ada.text, one)
    error = ada.refused(chat("plain", max_tokens=1000, n=4))
    fits = int(error.message.rpartition(" of at most ")[2].split()[0])
    assert fits < 1000 // 4 + 1
    ada.shop.call(ada.text, chat("plain", max_tokens=fits, n=4))


async def test_a_prompt_that_alone_exceeds_the_cap_is_told_that_nothing_fits(ada: Customer) -> None:
    await ada.cap(CENT // 100)
    for max_tokens in (None, 1):
        error = ada.refused(chat("plain", "x" * 5000, max_tokens=max_tokens))
        assert error.code == "call_cap_exceeded"
        assert error.message.endswith(": no max_tokens fits")
        assert error.param is None


async def test_a_call_without_max_tokens_is_given_the_most_that_fits_its_cap(ada: Customer) -> None:
    cap = CENT
    await ada.cap(cap)
    flight = ada.shop.call(ada.text, chat("plain"))
    given = flight.claim.max_output_tokens
    assert given is not None
    assert given > DEFAULT_OUTPUT
    assert flight.claim.held <= cap
    # What is given is what a caller could have asked for: their body is a few bytes longer.
    ada.shop.call(ada.text, chat("plain", max_tokens=given - 10))
    ada.refused(chat("plain", max_tokens=given + 1))


async def test_a_call_that_is_given_few_tokens_holds_no_more_than_they_cost(ada: Customer) -> None:
    unbounded = ada.worst(chat("plain"))
    cap = unbounded - CENT // 10
    await ada.cap(cap)
    flight = ada.shop.call(ada.text, chat("plain"))
    given = flight.claim.max_output_tokens
    assert given is not None
    assert given < DEFAULT_OUTPUT
    assert cap - 10_000 < flight.claim.held <= cap, "all of the cap but less than a token's worth"


async def test_a_cap_wider_than_the_models_longest_answer_sets_nothing(ada: Customer) -> None:
    await ada.cap(USD, "down")
    flight = ada.shop.call(ada.text, chat("down"))
    assert flight.target.model == "dear"
    assert flight.claim.max_output_tokens is None


async def test_a_cap_holds_for_the_name_that_is_called_and_for_its_user_alone(
    ada: Customer,
) -> None:
    accounts = ada.shop.accounts
    await accounts.create_user("bob")
    await accounts.credit("bob", USD)
    _, bobs = await accounts.create_key("bob")
    await ada.cap(1, "up")
    assert ada.refused(chat("up", max_tokens=9)).code == "call_cap_exceeded"
    ada.shop.call(ada.text, chat("plain", max_tokens=9))
    ada.shop.call(bobs, chat("up", max_tokens=9))
    await ada.cap(None, "up")
    ada.shop.call(ada.text, chat("up", max_tokens=9))


# --- balances, and what a key may spend


async def test_a_balance_admits_the_calls_that_it_pays_for_and_says_what_is_left(
    ada: Customer,
) -> None:
    body = chat("plain", max_tokens=1000)
    worst = ada.worst(body)
    await ada.leave(3 * worst + 7)
    flights = [ada.shop.call(ada.text, body) for _ in range(3)]
    error = ada.refused(body)
    assert (error.code, error.status, error.stage) == ("insufficient_balance", 402, "balance")
    assert error.message == (
        f"Insufficient credit balance: this call may cost up to ${usd_text(worst)}, "
        f"$0.000000007 is left; top up or lower max_tokens"
    )
    assert ada.funds.held == 3 * worst
    flights.pop().end("no_answer", None)
    ada.shop.call(ada.text, body)


async def test_a_key_spends_up_to_its_cap_whatever_its_user_has(ada: Customer) -> None:
    body = chat("plain", max_tokens=1000)
    worst = ada.worst(body)
    changes = KeyChanges(spend_cap_nano_usd=2 * worst - 1)
    await ada.shop.accounts.update_key(ada.key_id, changes)
    flight = ada.shop.call(ada.text, body)
    error = ada.refused(body)
    assert error.code == "insufficient_balance"
    assert error.message == (
        f"Insufficient credit balance: this call may cost up to ${usd_text(worst)}, this key's "
        f"spending cap leaves ${usd_text(worst - 1)}; top up or lower max_tokens"
    )
    flight.end("complete", Metered(usage=reported(100, 10, 0), complete=True))
    ada.shop.call(ada.text, body)
    _, other = await ada.shop.accounts.create_key("ada")
    ada.shop.call(other, body)


async def test_a_cap_set_later_counts_what_the_key_has_spent(ada: Customer) -> None:
    body = chat("plain", max_tokens=1000)
    flight = ada.shop.call(ada.text, body)
    flight.end("complete", Metered(usage=reported(100, 1000, 0), complete=True))
    spent = USD - ada.funds.balance
    assert spent > 0
    update = ada.shop.accounts.update_key
    await update(ada.key_id, KeyChanges(spend_cap_nano_usd=spent + ada.worst(body) - 1))
    assert "spending cap leaves" in ada.refused(body).message
    await update(ada.key_id, KeyChanges(spend_cap_nano_usd=spent + USD))
    ada.shop.call(ada.text, body)
    await update(ada.key_id, KeyChanges(spend_cap_nano_usd=None))
    assert ada.key_funds.balance == NO_CAP - spent


async def test_whoever_pays_nothing_needs_no_credit(ada: Customer) -> None:
    await ada.shop.accounts.update_user("ada", UserChanges(rate_multiplier="0"))
    await ada.leave(0)
    flight = ada.shop.call(ada.text, chat("plain", max_tokens=1000))
    assert flight.claim.held == 0
    flight.end("complete", Metered(usage=reported(10_000, 10_000, 0), complete=True))
    assert (ada.funds.balance, ada.funds.held) == (0, 0)
    await ada.shop.accounts.update_user("ada", UserChanges(rate_multiplier="0.000001"))
    assert ada.refused(chat("plain", max_tokens=1000)).code == "insufficient_balance"


async def test_a_claim_is_settled_once(ada: Customer) -> None:
    flight = ada.shop.call(ada.text, chat("plain", max_tokens=10))
    flight.claim.settle(5, 15, ada.shop.now)
    after = ada.standing()
    flight.claim.settle(7, 15, ada.shop.now)
    flight.end("complete", Metered(usage=reported(10, 10, 0), complete=True))
    assert ada.standing() == after
    assert (ada.funds.balance, ada.funds.held) == (USD - 5, 0)


# --- failover


async def test_a_dearer_next_target_raises_the_hold_and_a_cheaper_one_leaves_it(
    ada: Customer,
) -> None:
    body = chat("up", max_tokens=200)
    flight = ada.shop.call(ada.text, body)
    held = [flight.claim.held]
    for model in ("plain", "dear"):
        flight.fail_over()
        assert flight.target.model == model
        held.append(flight.claim.held)
    assert held == sorted(set(held))
    assert ada.funds.held == ada.key_funds.held == held[-1]
    flight.end("no_answer", None)
    flight = ada.shop.call(ada.text, chat("down", max_tokens=200))
    dear = flight.claim.held
    flight.fail_over()
    assert flight.claim.held == ada.funds.held == dear


async def test_a_target_that_cannot_be_paid_is_refused_and_the_hold_stays(ada: Customer) -> None:
    body = chat("up", max_tokens=200)
    flight = ada.shop.call(ada.text, body)
    await ada.leave(CENT)
    flight.fail_over()
    held = flight.claim.held
    with pytest.raises(GatewayError) as caught:
        flight.fail_over()
    assert caught.value.code == "insufficient_balance"
    assert f"${usd_text(CENT)} is left" in caught.value.message
    assert ada.funds.held == ada.key_funds.held == flight.claim.held == held
    flight.end("no_answer", None)
    assert ada.funds.held == ada.key_funds.held == 0


async def test_a_key_whose_cap_is_too_small_for_the_next_target_leaves_its_user_untouched(
    ada: Customer,
) -> None:
    flight = ada.shop.call(ada.text, chat("up", max_tokens=200))
    held = flight.claim.held
    await ada.shop.accounts.update_key(ada.key_id, KeyChanges(spend_cap_nano_usd=held + 1))
    with pytest.raises(GatewayError, match=r"this key's spending cap leaves"):
        flight.fail_over()
    assert ada.funds.held == ada.key_funds.held == held


async def test_the_cap_of_a_call_is_fitted_anew_to_each_target(ada: Customer) -> None:
    await ada.cap(5 * CENT, "down")
    flight = ada.shop.call(ada.text, chat("down"))
    at_dear = flight.claim.max_output_tokens
    assert flight.target.model == "dear"
    assert at_dear is not None
    flight.fail_over()
    at_plain = flight.claim.max_output_tokens
    assert at_plain is not None
    assert at_plain > 10 * at_dear
    flight.fail_over()
    assert flight.target.model == "thrifty"
    assert flight.claim.max_output_tokens is None, "its longest answer costs less than the cap"
    assert flight.claim.held <= 5 * CENT


async def test_a_target_above_the_cap_is_refused_though_the_balance_would_do(ada: Customer) -> None:
    body = chat("up", max_tokens=200)
    await ada.cap(CENT, "up")
    flight = ada.shop.call(ada.text, body)
    flight.fail_over()
    held = flight.claim.held
    with pytest.raises(GatewayError, match=r"more than your cap of \$0\.01 per call"):
        flight.fail_over()
    assert ada.funds.held == flight.claim.held == held


# --- refusals take nothing


async def _cap(ada: Customer) -> bytes:
    await ada.cap(1)
    return chat("plain", max_tokens=100)


async def _balance(ada: Customer) -> bytes:
    await ada.leave(1)
    return chat("plain", max_tokens=100)


async def _key_cap(ada: Customer) -> bytes:
    await ada.shop.accounts.update_key(ada.key_id, KeyChanges(spend_cap_nano_usd=1))
    return chat("plain", max_tokens=100)


async def _not_allowed(ada: Customer) -> bytes:
    await ada.shop.accounts.update_key(ada.key_id, KeyChanges(models=("up",)))
    return chat("plain", max_tokens=100)


async def _unknown(_: Customer) -> bytes:
    return chat("made-up", max_tokens=100)


async def _busy(ada: Customer) -> bytes:
    await ada.shop.accounts.update_key(ada.key_id, KeyChanges(concurrent=1))
    ada.shop.call(ada.text, chat("plain", max_tokens=100))
    return chat("plain", max_tokens=100)


async def _rpm(ada: Customer) -> bytes:
    await ada.shop.accounts.update_key(ada.key_id, KeyChanges(rpm=1))
    ada.shop.call(ada.text, chat("plain", max_tokens=100)).end("no_answer", None)
    return chat("plain", max_tokens=100)


async def _tpm(ada: Customer) -> bytes:
    await ada.shop.accounts.update_key(ada.key_id, KeyChanges(tpm=200))
    flight = ada.shop.call(ada.text, chat("plain", max_tokens=100))
    flight.end("complete", Metered(usage=reported(100, 99, 0), complete=True))
    return chat("plain", max_tokens=100)


@pytest.mark.parametrize(
    ("ready", "code"),
    [
        (_cap, "call_cap_exceeded"),
        (_balance, "insufficient_balance"),
        (_key_cap, "insufficient_balance"),
        (_not_allowed, "model_not_allowed"),
        (_unknown, "unknown_model_pricing"),
        (_busy, "rate_limit_exceeded"),
        (_rpm, "rate_limit_exceeded"),
        (_tpm, "rate_limit_exceeded"),
    ],
)
async def test_a_refusal_takes_neither_requests_nor_tokens_nor_money(
    ada: Customer, ready: Callable[[Customer], Awaitable[bytes]], code: str
) -> None:
    body = await ready(ada)
    for _ in range(3):
        assert ada.refused(body).code == code


async def test_limits_are_asked_before_prices_and_prices_before_the_balance(ada: Customer) -> None:
    body = await _rpm(ada)
    await ada.leave(1)
    assert ada.refused(chat("made-up")).code == "rate_limit_exceeded"
    await ada.shop.accounts.update_key(ada.key_id, KeyChanges(rpm=None))
    assert ada.refused(chat("made-up")).code == "unknown_model_pricing"
    assert ada.refused(body).code == "insufficient_balance"


async def test_tokens_are_put_right_once_they_are_known(ada: Customer) -> None:
    await ada.shop.accounts.update_key(ada.key_id, KeyChanges(tpm=10_000))
    (subject,) = ada.shop.caller(ada.text).subjects
    bucket = subject.tokens
    assert bucket is not None
    full = bucket.level
    per_token = full // 10_000
    flight = ada.shop.call(ada.text, chat("plain", max_tokens=1000))
    assert full - bucket.level == flight.claim.tokens * per_token > 1000 * per_token
    flight.end("complete", Metered(usage=reported(50, 30, 0), complete=True))
    assert full - bucket.level == 80 * per_token
