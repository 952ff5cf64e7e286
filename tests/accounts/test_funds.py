"""Holds and charges, in any order: nobody spends what is not there."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.accounts.funds import NO_CAP, Funds


def test_of_a_thousand_calls_at_once_those_are_admitted_that_the_balance_pays_for() -> None:
    funds = Funds(10 * 7 + 6)
    admitted = [funds.hold(7) for _ in range(1000)]
    assert admitted == [True] * 10 + [False] * 990
    assert (funds.balance, funds.held, funds.available) == (76, 70, 6)


def test_a_hold_of_nothing_needs_something_there() -> None:
    assert not Funds(0).hold(0)
    assert not Funds(-1).hold(0)
    funds = Funds(1)
    assert funds.hold(0)
    assert funds.hold(1)
    assert not funds.hold(0)


def test_a_hold_is_raised_by_what_is_left_and_no_more() -> None:
    funds = Funds(10)
    assert funds.hold(6)
    assert not funds.more(5)
    assert funds.held == 6
    assert funds.more(4)
    assert funds.more(0)
    assert (funds.held, funds.available) == (10, 0)


def test_what_is_charged_beyond_its_hold_is_charged_in_full() -> None:
    funds = Funds(10)
    assert funds.hold(10)
    funds.settle(10, 13)
    assert (funds.balance, funds.held) == (-3, 0)
    assert not funds.hold(0)
    funds.deposit(4)
    assert funds.hold(1)
    assert not funds.hold(1)


def test_without_a_cap_no_user_can_have_enough_to_reach_it() -> None:
    funds = Funds(NO_CAP)
    for _ in range(1000):
        assert funds.hold(10**15)
        funds.settle(10**15, 10**15)
    assert funds.available > 10**18


class Interleaving(RuleBasedStateMachine):
    """Calls that hold, hold more, settle, fail and overshoot, and money that comes and goes."""

    def __init__(self) -> None:
        super().__init__()
        self.funds = Funds()
        self.deposited = 0
        self.taken_back = 0
        self.charged = 0
        self.overshot = 0
        self.holds: list[int] = []

    @rule(nano_usd=st.integers(0, 1000))
    def deposit(self, nano_usd: int) -> None:
        self.funds.deposit(nano_usd)
        self.deposited += nano_usd

    @rule(nano_usd=st.integers(0, 300))
    def take_back(self, nano_usd: int) -> None:
        self.funds.deposit(-nano_usd)
        self.taken_back += nano_usd

    @rule(nano_usd=st.integers(0, 400))
    def hold(self, nano_usd: int) -> None:
        free = self.funds.balance - sum(self.holds)
        admitted = self.funds.hold(nano_usd)
        assert admitted == (free >= nano_usd and free > 0)
        if admitted:
            self.holds.append(nano_usd)

    @rule(at=st.integers(0, 50), nano_usd=st.integers(0, 200))
    def more(self, at: int, nano_usd: int) -> None:
        if self.holds:
            free = self.funds.balance - sum(self.holds)
            assert self.funds.more(nano_usd) == (free >= nano_usd)
            if free >= nano_usd:
                self.holds[at % len(self.holds)] += nano_usd

    @rule(at=st.integers(0, 50), part=st.floats(0, 1.2))
    def settle(self, at: int, part: float) -> None:
        if self.holds:
            held = self.holds.pop(at % len(self.holds))
            charged = int(held * part)
            self.funds.settle(held, charged)
            self.charged += charged
            self.overshot += max(0, charged - held)

    @rule(at=st.integers(0, 50))
    def release(self, at: int) -> None:
        if self.holds:
            self.funds.release(self.holds.pop(at % len(self.holds)))

    @invariant()
    def nothing_is_lost_or_made(self) -> None:
        assert self.funds.held == sum(self.holds)
        assert self.funds.balance == self.deposited - self.taken_back - self.charged
        assert self.funds.available == self.funds.balance - self.funds.held

    @invariant()
    def below_zero_only_by_what_no_hold_covered(self) -> None:
        # Money that an operator takes back may have been held or spent already.
        assert self.funds.available >= -self.overshot - self.taken_back


Interleaving.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_any_interleaving = Interleaving.TestCase


@given(
    st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 10**5), st.floats(0, 1)), max_size=60)
)
def test_with_holds_that_bound_their_charges_a_balance_never_falls_below_zero(
    balance: int, calls: list[tuple[int, float]]
) -> None:
    funds = Funds(balance)
    running: list[tuple[int, float]] = []
    for call in calls:
        if funds.hold(call[0]):
            running.append(call)
        if len(running) > 5:
            held, part = running.pop(0)
            funds.settle(held, int(held * part))
        assert 0 <= funds.held <= funds.balance
    for held, part in running:
        funds.settle(held, int(held * part))
    assert funds.held == 0
    assert funds.balance >= 0
