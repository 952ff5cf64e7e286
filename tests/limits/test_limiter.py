"""Keys and users: who refuses, what a refusal says and changes, what an end gives back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.limiter import Limiter, Limits, Standing, Subject

LIMITS = st.builds(
    Limits,
    rpm=st.none() | st.integers(1, 5),
    tpm=st.none() | st.integers(1, 500),
    concurrent=st.none() | st.integers(1, 3),
)


def one(limits: Limits, now: float = 100.0) -> tuple[Limiter, tuple[Subject, ...]]:
    limiter = Limiter()
    return limiter, (limiter.subject("key:1", "key", limits, now),)


def admit(limiter: Limiter, subjects: tuple[Subject, ...], tokens: int, now: float) -> str | None:
    """Check and take; the message where it is refused."""
    refusal = limiter.check(subjects, tokens, now)
    if refusal is None:
        limiter.take(subjects, tokens, now)
        return None
    return refusal.message


def test_every_limit_is_named_exactly_and_says_when_to_come_again() -> None:
    limiter, subjects = one(Limits(rpm=10))
    assert [admit(limiter, subjects, 1, 100.0) for _ in range(10)] == [None] * 10
    refusal = limiter.check(subjects, 1, 100.0)
    assert refusal is not None
    assert (refusal.message, refusal.retry_after_s) == ("Rate limit exceeded: 10 RPM", 6.0)

    limiter, subjects = one(Limits(tpm=400_000))
    assert admit(limiter, subjects, 399_000, 100.0) is None
    refusal = limiter.check(subjects, 21_000, 100.0)
    assert refusal is not None
    assert (refusal.message, refusal.retry_after_s) == ("Rate limit exceeded: 400000 TPM", 3.0)

    limiter, subjects = one(Limits(concurrent=5))
    assert [admit(limiter, subjects, 1, 100.0) for _ in range(5)] == [None] * 5
    refusal = limiter.check(subjects, 1, 100.0)
    assert refusal is not None
    assert refusal.message == "Rate limit exceeded: 5 concurrent requests"
    assert refusal.retry_after_s == 1.0


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(rpm=1), "1 RPM"),
        (Limits(tpm=7), "7 TPM"),
        (Limits(concurrent=1), "1 concurrent requests"),
    ],
)
def test_a_limit_of_the_user_is_told_from_one_of_the_key(limits: Limits, told: str) -> None:
    limiter = Limiter()
    user = limiter.subject("user:1", "user", limits, 100.0)
    subjects = (limiter.subject("key:1", "key", Limits(100, 1000, 100), 100.0), user)
    other = (limiter.subject("key:2", "key", Limits(), 100.0), user)
    assert admit(limiter, subjects, 7, 100.0) is None
    message = f"Rate limit exceeded: {told} (all keys of this user)"
    assert admit(limiter, subjects, 7, 100.0) == message
    assert admit(limiter, other, 7, 100.0) == message
    assert admit(limiter, other[:1], 7, 100.0) is None


def test_the_limit_that_lasts_longest_is_the_one_named() -> None:
    limiter = Limiter()
    key = limiter.subject("key:1", "key", Limits(rpm=60, concurrent=1), 100.0)
    subjects = (key, limiter.subject("user:1", "user", Limits(rpm=1), 100.0))
    assert admit(limiter, subjects, 1, 100.0) is None
    refusal = limiter.check(subjects, 1, 100.0)
    assert refusal is not None
    assert refusal.message == "Rate limit exceeded: 1 RPM (all keys of this user)"
    assert refusal.retry_after_s == 60.0


@given(
    LIMITS, LIMITS,
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 40_000)), min_size=1, max_size=40),
)  # fmt: skip
def test_a_refusal_changes_nothing_and_trying_again_then_succeeds(
    own: Limits, shared: Limits, asked: list[tuple[int, int]]
) -> None:
    limiter, spared = Limiter(), Limiter()
    both = [
        (each.subject("k", "key", own, 100.0), each.subject("u", "user", shared, 100.0))
        for each in (limiter, spared)
    ]
    ms = 100_000
    for tokens, wait_ms in asked:
        ms += wait_ms
        now = ms / 1000
        refusal = limiter.check(both[0], tokens, now)
        if refusal is None:
            for each, subjects in zip((limiter, spared), both, strict=True):
                assert each.check(subjects, tokens, now) is None
                each.take(subjects, tokens, now)
        else:
            assert refusal.retry_after_s > 0
            if "concurrent" not in refusal.message:
                again = limiter.check(both[0], tokens, now + refusal.retry_after_s)
                assert again is None or "concurrent" in again.message
                ms += round(refusal.retry_after_s * 1000)
        now = ms / 1000
        assert limiter.standing(both[0], now) == spared.standing(both[1], now)
        assert [one.in_flight for one in both[0]] == [one.in_flight for one in both[1]]


def test_nothing_is_taken_from_the_key_where_the_user_is_over_the_limit() -> None:
    limiter = Limiter()
    key = limiter.subject("key:1", "key", Limits(5, 100, 5), 100.0)
    user = limiter.subject("user:1", "user", Limits(1, 100, 5), 100.0)
    assert admit(limiter, (key, user), 10, 100.0) is None
    before = limiter.standing((key,), 100.0)
    for _ in range(100):
        assert admit(limiter, (key, user), 10, 100.0) is not None
    assert limiter.standing((key,), 100.0) == before
    assert key.in_flight == 1


def test_an_estimate_above_the_whole_limit_is_admitted_when_the_bucket_is_full() -> None:
    limiter, subjects = one(Limits(tpm=60))
    assert admit(limiter, subjects, 1_000_000, 100.0) is None
    refusal = limiter.check(subjects, 1_000_000, 100.0)
    assert refusal is not None
    assert refusal.retry_after_s == 60.0
    assert admit(limiter, subjects, 1_000_000, 160.0) is None
    limiter.finish(subjects, 1_000_000, 20, 160.0)
    assert limiter.standing(subjects, 160.0).remaining_tokens == 40


def test_an_estimate_above_the_whole_limit_that_proves_right_becomes_debt() -> None:
    limiter, subjects = one(Limits(tpm=60))
    limiter.take(subjects, 180, 100.0)
    limiter.finish(subjects, 180, 180, 100.0)
    assert limiter.standing(subjects, 100.0).reset_tokens_s == 180.0


def test_the_end_of_a_request_puts_its_estimate_right() -> None:
    limiter, subjects = one(Limits(rpm=10, tpm=60, concurrent=1))
    limiter.take(subjects, 50, 100.0)
    limiter.finish(subjects, 50, 20, 100.0)
    assert limiter.standing(subjects, 100.0) == Standing(10, 9, 6.0, 60, 40, 20.0)
    assert subjects[0].in_flight == 0

    limiter.take(subjects, 10, 100.0)
    limiter.finish(subjects, 10, 100, 100.0)  # 60 below nothing
    assert limiter.standing(subjects, 100.0).remaining_tokens == 0
    refusal = limiter.check(subjects, 1, 100.0)
    assert refusal is not None
    assert refusal.retry_after_s == 61.0
    assert limiter.standing(subjects, 100.0).reset_tokens_s == 120.0


def test_what_is_given_back_never_makes_more_than_a_burst() -> None:
    limiter, subjects = one(Limits(rpm=10, tpm=60))
    limiter.take(subjects, 50, 100.0)
    limiter.finish(subjects, 50, 0, 1000.0)
    assert limiter.standing(subjects, 1000.0).remaining_tokens == 60
    limiter.take(subjects, 50, 1000.0)
    limiter.cancel(subjects, 50, 5000.0)
    assert limiter.standing(subjects, 5000.0) == Standing(10, 10, 0.0, 60, 60, 0.0)


def test_a_cancelled_request_was_never_one() -> None:
    limiter, subjects = one(Limits(3, 60, 2))
    before = limiter.standing(subjects, 100.0)
    limiter.take(subjects, 50, 100.0)
    limiter.cancel(subjects, 50, 100.0)
    assert limiter.standing(subjects, 100.0) == before
    assert subjects[0].in_flight == 0


def test_who_owes_tokens_may_still_ask_for_what_takes_none() -> None:
    limiter, subjects = one(Limits(tpm=60))
    limiter.take(subjects, 1, 100.0)
    limiter.finish(subjects, 1, 500, 100.0)
    assert admit(limiter, subjects, 1, 100.0) is not None
    assert admit(limiter, subjects, 0, 100.0) is None


def test_a_raised_limit_applies_at_once_and_keeps_what_was_used() -> None:
    limiter, subjects = one(Limits(2, 100, 1))
    limiter.take(subjects, 80, 100.0)
    again = limiter.subject("key:1", "key", Limits(10, 200, 2), 100.0)
    assert again is subjects[0]
    assert limiter.standing(subjects, 100.0) == Standing(10, 9, 6.0, 200, 120, 24.0)
    assert admit(limiter, subjects, 120, 100.0) is None
    assert admit(limiter, subjects, 0, 100.0) == "Rate limit exceeded: 2 concurrent requests"


def test_a_lowered_limit_applies_at_once_but_makes_no_debt() -> None:
    limiter, subjects = one(Limits(100, 1000, 10))
    for _ in range(50):
        limiter.take(subjects, 10, 100.0)
    limiter.subject("key:1", "key", Limits(10, 60, 60), 100.0)
    assert limiter.standing(subjects, 100.0) == Standing(10, 0, 60.0, 60, 0, 60.0)
    refusal = limiter.check(subjects, 0, 100.0)
    assert refusal is not None
    assert (refusal.message, refusal.retry_after_s) == ("Rate limit exceeded: 10 RPM", 6.0)
    assert admit(limiter, subjects, 1, 106.0) is None


def test_debt_outlives_a_change_of_limit() -> None:
    limiter, subjects = one(Limits(tpm=100))
    limiter.take(subjects, 10, 100.0)
    limiter.finish(subjects, 10, 160, 100.0)
    limiter.subject("key:1", "key", Limits(tpm=60), 100.0)
    assert limiter.standing(subjects, 100.0).reset_tokens_s == 120.0


def test_a_limit_can_be_lifted_and_set_again() -> None:
    limiter, subjects = one(Limits(1, 10, 1))
    assert admit(limiter, subjects, 10, 100.0) is None
    limiter.subject("key:1", "key", Limits(), 100.0)
    assert [admit(limiter, subjects, 10**9, 100.0) for _ in range(50)] == [None] * 50
    assert limiter.standing(subjects, 100.0) == Standing()
    limiter.subject("key:1", "key", Limits(concurrent=51), 100.0)
    assert admit(limiter, subjects, 1, 100.0) == "Rate limit exceeded: 51 concurrent requests"
    with pytest.raises(ValueError, match="1 or more"):
        limiter.subject("key:1", "key", Limits(rpm=0), 100.0)


@given(st.lists(LIMITS, min_size=2, max_size=8), st.lists(st.integers(0, 300), min_size=8))
def test_after_a_change_no_more_passes_than_the_new_limit_lets(
    changes: list[Limits], tokens: list[int]
) -> None:
    limiter, subjects = one(changes[0])
    for limits in changes:
        limiter.subject("key:1", "key", limits, 100.0)
        passed = [some for some in tokens if admit(limiter, subjects, some, 100.0) is None]
        assert limits.rpm is None or len(passed) <= limits.rpm
        assert limits.tpm is None or sum(min(some, limits.tpm) for some in passed) <= limits.tpm
        assert limits.concurrent is None or not passed or (
            subjects[0].in_flight <= limits.concurrent
        )  # fmt: skip


def test_the_tightest_limit_of_each_kind_is_told() -> None:
    limiter = Limiter()
    key = limiter.subject("key:1", "key", Limits(60, 6000, 5), 100.0)
    user = limiter.subject("user:1", "user", Limits(120, 600, None), 100.0)
    limiter.take((key, user), 60, 100.0)
    assert limiter.standing((key, user), 100.0) == Standing(60, 59, 1.0, 600, 540, 6.0)
    for _ in range(30):
        limiter.take((user,), 0, 100.0)
    assert limiter.standing((user, key), 100.0) == Standing(60, 59, 1.0, 600, 540, 6.0)
    assert limiter.standing((), 100.0) == Standing()
