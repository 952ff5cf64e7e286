"""`breaker.Breakers`: when a target is passed over, who probes it, and when it is forgotten."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.proxy.breaker import (
    BREAKERS_MAX,
    FORGOTTEN_SECONDS,
    LONGEST,
    PROBE_SECONDS_MAX,
    Breakers,
    Probe,
)

A, B = ("openai", "gpt-4o"), ("anthropic", "claude")


def opened(failures: int = 3, seconds: float = 5.0) -> Breakers:
    breakers = Breakers(failures, seconds)
    for _ in range(failures):
        breakers.failed(A, 0.0)
    return breakers


def test_only_failures_in_a_row_open_it() -> None:
    breakers = Breakers(3, 5.0)
    assert breakers.failed(A, 0.0) is None
    assert breakers.failed(A, 0.0) is None
    assert not breakers.succeeded(A)
    assert breakers.failed(A, 0.0) is None
    assert breakers.failed(A, 0.0) is None
    assert not breakers.passed_over(A, 0.0)
    assert breakers.failed(A, 0.0) == 5.0
    assert breakers.passed_over(A, 0.0)
    assert not breakers.passed_over(B, 0.0)


def test_one_failure_is_enough_where_it_is_told_so() -> None:
    assert Breakers(1, 2.0).failed(A, 0.0) == 2.0


def test_when_the_time_is_up_exactly_one_try_is_the_probe() -> None:
    breakers = opened()
    assert breakers.begin(A, 4.9) is None
    assert breakers.passed_over(A, 4.9)
    assert not breakers.passed_over(A, 5.0)
    probe = breakers.begin(A, 5.0)
    assert probe is not None
    assert probe.holds
    assert breakers.passed_over(A, 5.0)
    assert [breakers.begin(A, 5.0 + step) for step in range(50)] == [None] * 50


def test_a_success_closes_it_and_starts_the_count_and_the_wait_afresh() -> None:
    breakers = opened()
    probe = breakers.begin(A, 5.0)
    breakers.failed(A, 5.0, probe)
    probe = breakers.begin(A, 15.0)
    assert probe is not None
    assert breakers.succeeded(A)
    assert not probe.holds
    assert len(breakers) == 0
    assert [breakers.failed(A, 16.0) for _ in range(3)] == [None, None, 5.0]


def test_each_failed_probe_doubles_the_wait_up_to_its_longest() -> None:
    breakers = opened(seconds=2.0)
    now, waits = 2.0, []
    for _ in range(10):
        probe = breakers.begin(A, now)
        assert probe is not None
        wait_s = breakers.failed(A, now, probe)
        assert wait_s is not None
        waits.append(wait_s)
        now += wait_s
    assert waits == [4.0, 8.0, 16.0, 32.0, 64.0, 2.0 * LONGEST, *[2.0 * LONGEST] * 4]


def test_failures_that_come_late_neither_prolong_it_nor_speak_for_the_probe() -> None:
    breakers = opened()
    assert [breakers.failed(A, 1.0) for _ in range(20)] == [None] * 20
    assert not breakers.passed_over(A, 5.0)
    probe = breakers.begin(A, 5.0)
    assert breakers.failed(A, 5.1) is None
    assert probe is not None
    assert probe.holds
    assert breakers.failed(A, 5.2, probe) == 10.0
    assert breakers.passed_over(A, 15.1)


def test_a_failure_of_a_due_target_counts_as_its_probe() -> None:
    breakers = opened()
    assert breakers.failed(A, 6.0) == 10.0
    assert breakers.passed_over(A, 15.9)


def test_a_probe_without_a_verdict_frees_its_place() -> None:
    breakers = opened()
    first = breakers.begin(A, 5.0)
    assert first is not None
    first.end()
    assert not breakers.passed_over(A, 5.1)
    second = breakers.begin(A, 5.1)
    assert second is not None
    first.end()
    assert second.holds


def test_a_probe_that_tells_nothing_for_long_makes_room_for_another() -> None:
    breakers = opened()
    first = breakers.begin(A, 5.0)
    assert breakers.begin(A, 5.0 + PROBE_SECONDS_MAX - 0.1) is None
    second = breakers.begin(A, 5.0 + PROBE_SECONDS_MAX)
    assert second is not None
    assert first is not None
    assert not first.holds
    assert breakers.failed(A, 70.0, first) is None
    assert second.holds


def test_what_nobody_has_tried_for_long_is_forgotten() -> None:
    breakers = opened()
    breakers.failed(B, 100.0)
    breakers.forget(5.0 + FORGOTTEN_SECONDS)
    assert len(breakers) == 2
    breakers.forget(6.0 + FORGOTTEN_SECONDS)
    assert [one.provider for one in breakers.view(700.0)] == ["anthropic"]


def test_a_provider_is_dropped_with_all_its_models() -> None:
    breakers = opened()
    breakers.failed(("openai", "other"), 0.0)
    breakers.failed(B, 0.0)
    breakers.drop("openai")
    assert [one.model for one in breakers.view(0.0)] == ["claude"]


def test_the_number_of_breakers_is_bounded() -> None:
    breakers = Breakers(1, 5.0)
    for number in range(BREAKERS_MAX + 50):
        breakers.failed(("openai", f"gpt-{number}"), 0.0)
    assert len(breakers) == BREAKERS_MAX
    assert breakers.passed_over(("openai", f"gpt-{BREAKERS_MAX + 49}"), 0.0)
    assert not breakers.passed_over(("openai", "gpt-0"), 0.0)


def test_a_view_tells_the_state_and_the_time_that_is_left() -> None:
    breakers = opened()
    breakers.failed(B, 0.0)
    first, second = breakers.view(2.0)
    assert (first.state, first.failures, first.opens_s) == ("open", 3, 3.0)
    assert (second.state, second.failures, second.opens_s) == ("closed", 1, None)
    assert breakers.view(5.0)[0].state == "due"
    breakers.begin(A, 5.0)
    assert (breakers.view(6.0)[0].state, breakers.view(6.0)[0].opens_s) == ("probing", 0.0)


class Automaton(RuleBasedStateMachine):
    """One target under any order of tries, compared with the words of the documentation."""

    def __init__(self) -> None:
        super().__init__()
        self.breakers = Breakers(3, 4.0)
        self.now = 0.0
        self.in_a_row = 0
        self.waits: list[float] = []
        self.open_until: float | None = None
        self.probe: Probe | None = None

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 4.0, 8.0, 55.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.probe is not None and self.now - self.probe.begun_at >= PROBE_SECONDS_MAX:
            self.probe = None

    @rule()
    def a_try_begins(self) -> None:
        due = self.open_until is not None and self.now >= self.open_until and self.probe is None
        probe = self.breakers.begin(A, self.now)
        assert (probe is not None) == due
        if probe is not None:
            self.probe = probe

    @rule()
    def a_try_that_is_no_probe_fails(self) -> None:
        opened_s = self.breakers.failed(A, self.now)
        if self.open_until is None:
            self.in_a_row += 1
            if self.in_a_row == 3:
                self._opens(opened_s)
                return
        elif self.now >= self.open_until and self.probe is None:
            self._opens(opened_s)
            return
        assert opened_s is None

    @precondition(lambda self: self.probe is not None)
    @rule()
    def the_probe_fails(self) -> None:
        self._opens(self.breakers.failed(A, self.now, self.probe))
        self.probe = None

    @precondition(lambda self: self.probe is not None)
    @rule()
    def the_probes_client_leaves(self) -> None:
        assert self.probe is not None
        self.probe.end()
        self.probe = None

    @rule()
    def a_try_succeeds(self) -> None:
        assert self.breakers.succeeded(A) == (self.open_until is not None)
        self.in_a_row, self.waits, self.open_until, self.probe = 0, [], None, None

    @invariant()
    def it_is_passed_over_while_open_or_being_probed_and_at_no_other_time(self) -> None:
        waiting = self.open_until is not None and (
            self.now < self.open_until or self.probe is not None
        )
        assert self.breakers.passed_over(A, self.now) == waiting

    def _opens(self, opened_s: float | None) -> None:
        expected = min(4.0 * 2 ** len(self.waits), 4.0 * LONGEST)
        assert opened_s == expected
        self.waits.append(expected)
        self.open_until = self.now + expected


TestAutomaton: Any = Automaton.TestCase
TestAutomaton.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize("failures", [1, 2, 5])
@given(outcomes=st.lists(st.booleans(), max_size=60))
@settings(max_examples=60, deadline=None)
def test_it_opens_at_the_first_run_of_failures_and_not_before(
    failures: int, outcomes: list[bool]
) -> None:
    breakers = Breakers(failures, 1e6)
    run = 0
    for good in outcomes:
        if good:
            breakers.succeeded(A)
            run = 0
        else:
            breakers.failed(A, 0.0)
            run += 1
        assert breakers.passed_over(A, 0.0) == (run >= failures)
