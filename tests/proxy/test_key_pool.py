"""`key_pool`: whose turn it is, what a refusal does to a key, and what a reload keeps."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy import key_pool
from gateway.proxy.key_pool import (
    REFUSED_MODELS_MAX,
    REST_DEFAULT_SECONDS,
    REST_SECONDS_MAX,
    KeyPool,
    retry_after_s,
)

SECRET = "sk-proj-0123456789abcdefghijklmnopqrstuv"
WALL = 1_795_000_000.0


def pool(*texts: str) -> KeyPool:
    return KeyPool(key_pool.made(text) for text in texts)


def turns(keys: KeyPool, count: int, model: str = "m", now: float = 0.0) -> list[str | None]:
    found = (keys.next_key(model, now) for _ in range(count))
    return [None if key is None else key.text.decode() for key in found]


def test_keys_take_turns() -> None:
    assert turns(pool("a", "b", "c"), 7) == ["a", "b", "c", "a", "b", "c", "a"]


def test_a_key_named_twice_has_one_turn() -> None:
    assert turns(pool("a", "b", "a"), 4) == ["a", "b", "a", "b"]


def test_a_provider_without_keys_is_always_usable_and_gives_none() -> None:
    keys = pool()
    assert keys.usable("m", 0.0)
    assert keys.next_key("m", 0.0) is None
    assert keys.rests_s("m", 0.0) is None
    assert keys.calm(0.0)


def test_a_key_that_rests_is_passed_over_until_its_rest_ends() -> None:
    keys = pool("a", "b")
    assert keys.rest(keys.keys[0], 10.0, 100.0)
    assert turns(keys, 3, now=100.0) == ["b", "b", "b"]
    assert turns(keys, 3, now=109.9) == ["b", "b", "b"]
    assert keys.rests_s("m", 104.0) == 6.0
    assert not keys.calm(109.9)
    assert sorted(map(str, turns(keys, 2, now=110.0))) == ["a", "b"]
    assert keys.calm(110.0)


def test_a_rest_is_never_cut_short_and_told_once() -> None:
    keys = pool("a")
    assert keys.rest(keys.keys[0], 10.0, 0.0)
    assert not keys.rest(keys.keys[0], 1.0, 1.0)
    assert keys.rests_s("m", 2.0) == 8.0
    assert not keys.rest(keys.keys[0], 30.0, 2.0)
    assert keys.rests_s("m", 2.0) == 30.0


def test_when_all_rest_the_first_to_wake_is_told() -> None:
    keys = pool("a", "b")
    keys.rest(keys.keys[0], 10.0, 0.0)
    keys.rest(keys.keys[1], 4.0, 0.0)
    assert not keys.usable("m", 0.0)
    assert keys.rests_s("m", 0.0) == 4.0


def test_the_end_of_a_rest_counts_only_for_a_key_that_could_go_then() -> None:
    keys = pool("a", "b", "c")
    for key, seconds in zip(keys.keys, (1.0, 2.0, 3.0), strict=True):
        keys.rest(key, seconds, 0.0)
    keys.set_aside(keys.keys[0], None)
    keys.set_aside(keys.keys[1], "gpt-4o")
    assert keys.rests_s("gpt-4o", 0.0) == 3.0
    assert keys.rests_s("gpt-4o-mini", 0.0) == 2.0


def test_a_refused_key_is_set_aside_until_it_is_reinstated() -> None:
    keys = pool("a", "b")
    assert keys.set_aside(keys.keys[0], None)
    assert not keys.set_aside(keys.keys[0], None)
    assert turns(keys, 2, now=1e9) == ["b", "b"]
    keys.set_aside(keys.keys[1], None)
    assert turns(keys, 1) == [None]
    assert keys.rests_s("m", 0.0) is None
    keys.reinstate()
    assert sorted(map(str, turns(keys, 2))) == ["a", "b"]


def test_a_key_refused_for_a_model_serves_the_others() -> None:
    keys = pool("a", "b")
    assert keys.set_aside(keys.keys[0], "gpt-4o")
    assert not keys.set_aside(keys.keys[0], "gpt-4o")
    assert turns(keys, 2, "gpt-4o") == ["b", "b"]
    assert set(turns(keys, 2, "gpt-4o-mini")) == {"a", "b"}
    keys.set_aside(keys.keys[1], "gpt-4o")
    assert not keys.usable("gpt-4o", 0.0)
    assert keys.usable("gpt-4o-mini", 0.0)


def test_models_that_a_key_was_refused_for_are_bounded() -> None:
    keys = pool("a")
    for number in range(REFUSED_MODELS_MAX + 1):
        keys.set_aside(keys.keys[0], f"m{number}")
    assert len(keys.view(0.0)[0].not_for) == REFUSED_MODELS_MAX
    assert keys.usable("m0", 0.0)
    assert not keys.usable(f"m{REFUSED_MODELS_MAX}", 0.0)


def test_a_pool_that_replaces_another_keeps_what_became_of_the_keys_that_stay() -> None:
    older = pool("a", "b", "c")
    older.set_aside(older.keys[0], None)
    older.rest(older.keys[1], 10.0, 0.0)
    older.set_aside(older.keys[2], "gpt-4o")
    newer = pool("new", "c", "b", "a")
    newer.adopt(older)
    assert turns(newer, 2, "gpt-4o") == ["new", "new"]
    assert not older.usable("gpt-4o", 0.0)
    assert set(turns(newer, 4)) == {"new", "c"}
    assert set(turns(newer, 6, now=10.0)) == {"new", "c", "b"}


def test_turns_go_on_where_they_were_in_the_older_pool() -> None:
    keys, seen = pool("a", "b", "c"), []
    for _ in range(6):
        seen += turns(keys, 1)
        keys, older = pool("a", "b", "c"), keys
        keys.adopt(older)
    assert seen == ["a", "b", "c"] * 2
    fewer = pool("a")
    fewer.adopt(keys)
    assert turns(fewer, 2) == ["a", "a"]


def test_requests_that_began_with_the_older_pool_report_to_both() -> None:
    older = pool("a", "b")
    newer = pool("a", "b")
    newer.adopt(older)
    older.set_aside(older.keys[0], None)
    assert turns(newer, 2) == ["b", "b"]


def test_a_key_that_was_gone_for_one_reload_is_a_new_one() -> None:
    first, second, third = pool("a", "b"), pool("b"), pool("a", "b")
    first.set_aside(first.keys[0], None)
    second.adopt(first)
    third.adopt(second)
    assert set(turns(third, 2)) == {"a", "b"}


def test_a_view_shows_state_and_hint_and_no_key() -> None:
    keys = KeyPool([key_pool.made(SECRET, "k1"), key_pool.made("short-text"), key_pool.made("x")])
    keys.rest(keys.keys[0], 10.0, 0.0)
    keys.set_aside(keys.keys[1], None)
    keys.set_aside(keys.keys[2], "gpt-4o")
    first, second, third = keys.view(4.0)
    assert (first.id, first.state, first.rests_s) == ("k1", "resting", 6.0)
    assert (second.id, second.state, second.rests_s) == (None, "set_aside", None)
    assert (third.state, third.not_for) == ("usable", ("gpt-4o",))
    told = repr((keys.keys, keys.view(4.0), keys.next_key("m", 0.0)))
    assert SECRET not in told
    assert "short-text" not in told
    assert first.hint == "sk-p…stuv"


@given(st.text(min_size=1, max_size=80))
def test_a_hint_shows_at_most_a_third_of_a_key(text: str) -> None:
    assert len(key_pool.made(text).hint) - 1 <= len(text) / 3


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ([b"retry-after: 20"], 20.0),
        ([b"Retry-After:7"], 7.0),
        ([b"RETRY-AFTER: 0.25 "], 0.25),
        ([b"retry-after-ms: 1500"], 1.5),
        ([b"retry-after: 60", b"retry-after-ms: 250"], 0.25),
        ([b"retry-after-ms: soon", b"retry-after: 3"], 3.0),
        ([b"retry-after: 0"], 0.0),
        ([b"retry-after: 86400"], REST_SECONDS_MAX),
        ([b"retry-after: " + b"9" * 400], REST_SECONDS_MAX),
        ([b"retry-after: " + formatdate(WALL + 90, usegmt=True).encode()], 90.0),
        ([b"retry-after: " + formatdate(WALL - 90, usegmt=True).encode()], 0.0),
        ([b"retry-after: " + formatdate(WALL + 1e6, usegmt=True).encode()], REST_SECONDS_MAX),
        ([b"retry-after: Fri, 31 Dec 9999 23:59:59 GMT"], REST_SECONDS_MAX),
        ([b"HTTP/1.1 429 Too Many Requests", b"x-retry-after: 50"], REST_DEFAULT_SECONDS),
        ([], REST_DEFAULT_SECONDS),
        ([b"retry-after:"], REST_DEFAULT_SECONDS),
        ([b"retry-after: -5"], REST_DEFAULT_SECONDS),
        ([b"retry-after: nan"], REST_DEFAULT_SECONDS),
        ([b"retry-after: inf"], REST_DEFAULT_SECONDS),
        ([b"retry-after: 1e9"], REST_DEFAULT_SECONDS),
        ([b"retry-after: 1_000"], REST_DEFAULT_SECONDS),
        ([b"retry-after: 1.2.3"], REST_DEFAULT_SECONDS),
        ([b"retry-after: tomorrow"], REST_DEFAULT_SECONDS),
        ([b"retry-after: \xb2"], REST_DEFAULT_SECONDS),
        ([b"retry-after: ."], REST_DEFAULT_SECONDS),
        ([b"retry-after: Xxx, 99 Foo 2026 99:99:99 GMT"], REST_DEFAULT_SECONDS),
        ([b"retry-after: 4", b"retry-after: 200"], 4.0),
    ],
)  # fmt: skip
def test_the_rest_after_a_429_is_what_its_header_says(lines: list[bytes], seconds: float) -> None:
    assert retry_after_s(lines, WALL) == seconds


@given(st.binary(max_size=60))
def test_any_header_gives_a_rest_within_its_bounds(value: bytes) -> None:
    for name in (b"retry-after", b"retry-after-ms"):
        seconds = retry_after_s([name + b": " + value], WALL)
        assert 0.0 <= seconds <= REST_SECONDS_MAX
