"""What a window of time admits at most, whatever the pattern of the calls.

Both runs hold the limiter against the definition alone: of all that was taken between any two
admissions, less what was given back, there is never more than the burst and what came in meanwhile.
Times are whole nanoseconds and the comparison is exact, without a tolerance.
"""

import os
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.bucket import PARTS, Bucket
from gateway.limits.limiter import Limiter, Limits

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
EVENTS = 1_000_000 if os.environ.get("GATEWAY_TEST_SCALE") == "full" else 20_000


class Window:
    """The most that any window ending now has admitted beyond what came in during it.

    With U(t) all that was taken by t, a window from s to t breaks the law where
    U(t) - U(s) > burst + rate × (t - s): so it is enough to know the least of U(s) - rate × s.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.least: int | None = None

    def give_back(self, at: int, amount: int) -> None:
        """Take an estimate back; below 0: it was too low, and the rest is debt."""
        self.used -= amount * PARTS
        if amount > 0:
            self._start(at)

    def _start(self, at: int) -> None:
        base = self.used - self.limit * at
        self.least = base if self.least is None else min(self.least, base)

    def take(self, at: int, amount: int) -> None:
        self._start(at)
        self.used += amount * PARTS
        assert self.least is not None
        admitted = self.used - self.limit * at - self.least
        # Debt may have gone beyond: then only what takes nothing is admitted.
        assert not amount or admitted <= self.limit * PARTS, (
            f"{admitted / PARTS} of {self.limit} at {at}"
        )


Pattern = Callable[[random.Random, int], Iterator[int]]


def steady(gap: int) -> Pattern:
    return lambda rng, limit: iter(lambda: gap * MINUTE // limit // 8, -1)


def at_random(mean: float) -> Pattern:
    def gaps(rng: random.Random, limit: int) -> Iterator[int]:
        while True:
            yield int(rng.expovariate(limit / (mean * MINUTE)))

    return gaps


def bursts(size: int, pause: float) -> Pattern:
    def gaps(rng: random.Random, limit: int) -> Iterator[int]:
        while True:
            for _ in range(size):
                yield rng.choice((0, 1, 999))
            yield int(rng.uniform(0, 2 * pause) * SECOND)

    return gaps


def just_in_time(off: int) -> Pattern:
    """As each request comes in, give or take nanoseconds."""

    def gaps(rng: random.Random, limit: int) -> Iterator[int]:
        while True:
            yield max(MINUTE // limit + rng.randint(-off, off), 0)

    return gaps


def backwards(rng: random.Random, limit: int) -> Iterator[int]:
    while True:
        yield rng.randint(-MINUTE // limit, 2 * MINUTE // limit)


PATTERNS: dict[str, Pattern] = {
    "all at once": steady(0),
    "eight times the limit": steady(1),
    "twice the limit": steady(4),
    "at the limit": steady(8),
    "below the limit": steady(10),
    "random, far above": at_random(0.05),
    "random, above": at_random(0.5),
    "random, at": at_random(1.0),
    "random, below": at_random(1.5),
    "pairs": bursts(2, 0.2),
    "tens": bursts(10, 1.0),
    "hundreds": bursts(100, 5.0),
    "whole bursts": bursts(1000, 60.0),
    "bursts after hours": bursts(3000, 7200.0),
    "as it comes in": just_in_time(0),
    "as it comes in, a nanosecond off": just_in_time(1),
    "as it comes in, a microsecond off": just_in_time(1000),
    "as it comes in, a millisecond off": just_in_time(1_000_000),
    "a clock that goes back": backwards,
    "a nanosecond apart": lambda rng, limit: iter(lambda: 1, -1),
}


def test_there_are_twenty_patterns() -> None:
    assert len(PATTERNS) == 20


@pytest.mark.parametrize("name", PATTERNS)
def test_no_window_admits_more_than_burst_and_rate(name: str) -> None:
    rng = random.Random(name)
    requests_per_minute, tokens_per_minute = rng.choice((1, 7, 60, 600)), rng.choice((90, 40_000))
    limiter = Limiter()
    at = 3 * SECOND
    limits = Limits(requests_per_minute, tokens_per_minute, 50)
    subjects = (limiter.subject("k", "key", limits, at / SECOND),)
    requests, tokens = Window(requests_per_minute), Window(tokens_per_minute)
    gaps = PATTERNS[name](rng, requests_per_minute)
    open_now: list[int] = []
    latest = at
    admitted = refused = 0
    for _ in range(EVENTS):
        at = max(at + next(gaps), 0)
        latest = max(latest, at)  # what an earlier clock says has been counted already
        now = at / SECOND
        if open_now and rng.random() < 0.6:
            estimate = open_now.pop(rng.randrange(len(open_now)))
            used = rng.choice((0, estimate, estimate // 2, estimate + 5, 3 * estimate))
            limiter.finish(subjects, estimate, used, now)
            taken = min(estimate, tokens_per_minute)
            tokens.give_back(latest, taken - used)
            continue
        estimate = rng.choice((1, 10, tokens_per_minute // 3, 2 * tokens_per_minute))
        if limiter.check(subjects, estimate, now) is None:
            limiter.take(subjects, estimate, now)
            requests.take(latest, 1)
            tokens.take(latest, min(estimate, tokens_per_minute))
            open_now.append(estimate)
            admitted += 1
        else:
            refused += 1
        assert subjects[0].in_flight == len(open_now) <= 50
    assert admitted
    assert refused


STEPS = st.lists(
    st.tuples(
        st.integers(-2 * SECOND, 90 * SECOND) | st.integers(0, 3),
        st.sampled_from(("ask", "finish", "cancel")),
        st.integers(0, 300),
        st.integers(0, 300),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 200), st.integers(1, 200), st.integers(1, 4))
def test_what_is_admitted_stays_within_every_limit(
    steps: list[tuple[int, str, int, int]], rpm: int, tpm: int, concurrent: int
) -> None:
    limiter = Limiter()
    subjects = (limiter.subject("k", "key", Limits(rpm, tpm, concurrent), 0.0),)
    requests, tokens = Window(rpm), Window(tpm)
    open_now: list[int] = []
    at = latest = 0
    for gap, step, estimate, used in steps:
        at = max(at + gap, 0)
        latest = max(latest, at)
        now = at / SECOND
        if step == "ask":
            if limiter.check(subjects, estimate, now) is None:
                limiter.take(subjects, estimate, now)
                open_now.append(estimate)
                requests.take(latest, 1)
                tokens.take(latest, min(estimate, tpm))
        elif open_now:
            taken = open_now.pop()
            if step == "cancel":
                limiter.cancel(subjects, taken, now)
                requests.give_back(latest, 1)
                used = 0
            else:
                limiter.finish(subjects, taken, used, now)
            tokens.give_back(latest, min(taken, tpm) - used)
        assert subjects[0].in_flight == len(open_now) <= concurrent


def test_a_bucket_gives_its_limit_at_once_and_then_one_as_each_comes_in() -> None:
    bucket = Bucket(6, 0)
    for _ in range(6):
        assert bucket.fill(0) >= PARTS
        bucket.level -= PARTS
    assert bucket.wait_ns(1) == 10 * SECOND
    assert bucket.fill(10 * SECOND - 1) < PARTS
    assert bucket.fill(10 * SECOND) == PARTS
    assert bucket.fill(10**18) == 6 * PARTS


@given(st.lists(st.integers(0, 10 * MINUTE), min_size=1, max_size=20), st.integers(1, 10**9))
def test_looking_often_gives_neither_more_nor_less(times: list[int], limit: int) -> None:
    often, once = Bucket(limit, 0), Bucket(limit, 0)
    often.level = once.level = -limit * PARTS
    for at in times:
        often.fill(at)
    assert often.level == once.fill(max(times))


@given(st.integers(0, 10**15), st.integers(1, 10**15))
def test_a_clock_that_goes_back_hands_out_nothing(at: int, back: int) -> None:
    bucket = Bucket(60, at)
    bucket.level = 0
    assert bucket.fill(at - back) == 0
    assert bucket.fill(at) == 0, "what the clock undid is not added again"


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Bucket(0, 0)
    with pytest.raises(ValueError, match="1 or more"):
        Bucket(1, 0).change(-1, 0)
