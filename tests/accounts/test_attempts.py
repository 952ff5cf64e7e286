"""The limiter of attempts against a plain list of what happened."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts.attempts import Attempts, address_form

MOST, WINDOW_MS = 3, 100

# A step: milliseconds that pass, who tries, what becomes of it.
STEPS = st.lists(
    st.tuples(
        st.integers(0, 120),
        st.sampled_from(["ann", "bob", "", "ж" * 3000, "\ud800"]),
        st.sampled_from(["fails", "fails", "fails", "given back", "succeeds"]),
    ),
    max_size=60,
)


@given(STEPS)
def test_no_window_holds_more_than_so_many_attempts_and_the_wait_is_exact(
    steps: list[tuple[int, str, str]],
) -> None:
    limiter = Attempts(MOST, WINDOW_MS)
    counted: dict[str, list[int]] = {}
    now_ms = 1_000_000
    for passed_ms, key, outcome in steps:
        now_ms += passed_ms
        times = counted.setdefault(key, [])
        inside = [at for at in times if at > now_ms - WINDOW_MS]
        wait_ms = limiter.wait_ms(key, now_ms)
        assert bool(wait_ms) == (len(inside) >= MOST)
        if wait_ms:
            assert limiter.wait_ms(key, now_ms + wait_ms - 1) == 1
            assert limiter.wait_ms(key, now_ms + wait_ms) == 0
            continue
        limiter.take(key, now_ms)
        if outcome == "fails":
            times.append(now_ms)
        elif outcome == "given back":
            limiter.give_back(key, now_ms)
        else:
            limiter.clear(key)
            times.clear()
    for times in counted.values():
        assert all(
            len([at for at in times if first <= at < first + WINDOW_MS]) <= MOST for first in times
        )


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=200))
def test_it_knows_no_more_keys_than_it_may_and_forgets_those_that_count_no_longer(
    tries: list[tuple[int, int]],
) -> None:
    limiter = Attempts(MOST, WINDOW_MS, keys_max=8)
    latest: dict[str, int] = {}
    now_ms = 0
    for passed_ms, number in tries:
        now_ms += passed_ms
        key = str(number)
        if limiter.wait_ms(key, now_ms):
            continue
        limiter.take(key, now_ms)
        latest[key] = now_ms
        live = [at for at in latest.values() if at > now_ms - WINDOW_MS]
        assert len(limiter) == min(8, len(live))


def test_whoever_tried_longest_ago_is_forgotten_first() -> None:
    limiter = Attempts(1, WINDOW_MS, keys_max=2)
    for at_ms, key in enumerate(("first", "second", "third")):
        limiter.take(key, at_ms)
    assert limiter.wait_ms("first", 3) == 0
    assert limiter.wait_ms("second", 3) == 98
    assert limiter.wait_ms("third", 3) == 99


def test_an_attempt_that_was_not_counted_cannot_be_given_back() -> None:
    limiter = Attempts(1, WINDOW_MS)
    limiter.take("ann", 5)
    limiter.give_back("ann", 6)
    limiter.give_back("bob", 5)
    assert limiter.wait_ms("ann", 7) == 98


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_an_address_is_what_one_client_has(address: str, form: str) -> None:
    assert address_form(address) == form
