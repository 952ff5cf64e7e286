"""`strategy`: shares by weight, and the order of targets by their first byte."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.proxy.strategy import (
    EWMA_NEW,
    MEASURED_MAX,
    MEASURING_SECONDS,
    STALE_SECONDS,
    WHEELS_MAX,
    Latencies,
    Wheels,
)

NAMES = (("a", "m"), ("b", "m"), ("c", "m"))


def test_turns_are_spread_and_do_not_come_in_runs() -> None:
    wheels = Wheels()
    turns = [wheels.first(NAMES, (5, 1, 1), (0, 1, 2)) for _ in range(7)]
    assert turns == [0, 0, 1, 0, 2, 0, 0]


def test_without_weights_all_take_turns() -> None:
    wheels = Wheels()
    assert [wheels.first(NAMES, (), (0, 1, 2)) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=16), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_over_whole_rounds_each_has_exactly_its_weight(weights: list[int], rounds: int) -> None:
    wheels = Wheels()
    names = tuple((f"p{number}", "m") for number in range(len(weights)))
    everyone = range(len(weights))
    turns = Counter(
        wheels.first(names, tuple(weights), everyone) for _ in range(sum(weights) * rounds)
    )
    assert turns == {index: weight * rounds for index, weight in enumerate(weights)}


@given(st.lists(st.integers(1, 20), min_size=2, max_size=8), st.data())
@settings(max_examples=100, deadline=None)
def test_at_no_moment_has_anybody_had_more_than_a_round_beyond_the_share(
    weights: list[int], data: st.DataObject
) -> None:
    wheels = Wheels()
    names = tuple((f"p{number}", "m") for number in range(len(weights)))
    turns: Counter[int] = Counter()
    steps = data.draw(st.integers(1, 200))
    for step in range(1, steps + 1):
        turns[wheels.first(names, tuple(weights), range(len(weights)))] += 1
        for index, weight in enumerate(weights):
            assert abs(turns[index] - step * weight / sum(weights)) <= len(weights)


def test_who_was_away_gained_nothing_and_floods_nobody() -> None:
    wheels = Wheels()
    for _ in range(1000):
        assert wheels.first(NAMES, (1, 1, 1), (0, 1)) in (0, 1)
    turns = [wheels.first(NAMES, (1, 1, 1), (0, 1, 2)) for _ in range(9)]
    assert Counter(turns) == {0: 3, 1: 3, 2: 3}


def test_routes_turn_apart_and_are_bounded() -> None:
    wheels = Wheels()
    assert wheels.first(NAMES[:2], (1, 1), (0, 1)) == 0
    assert wheels.first(NAMES[:2], (1, 2), (0, 1)) == 1
    assert wheels.first(NAMES[:2], (1, 1), (0, 1)) == 1
    for number in range(WHEELS_MAX + 10):
        wheels.first(((f"p{number}", "m"),), (), (0,))
    assert len(wheels._wheels) <= WHEELS_MAX


# --- latency ----------------------------------------------------------------------------------


def measured(*seconds: float, now: float = 0.0) -> Latencies:
    latencies = Latencies()
    for name, one in zip(NAMES, seconds, strict=False):
        latencies.observe(name, one, now)
    return latencies


def test_the_soonest_goes_first() -> None:
    assert measured(0.3, 0.1, 0.2).rank(NAMES, (0, 1, 2), 1.0) == [1, 2, 0]


def test_equals_keep_their_order() -> None:
    assert measured(0.2, 0.2, 0.1).rank(NAMES, (0, 1, 2), 1.0) == [2, 0, 1]


def test_the_average_moves_towards_what_is_new() -> None:
    latencies = measured(1.0)
    latencies.observe(NAMES[0], 0.0, 1.0)
    assert latencies.of("a") == {"m": 1.0 - EWMA_NEW}
    for _ in range(20):
        latencies.observe(NAMES[0], 0.0, 1.0)
    assert latencies.of("a")["m"] < 0.01
    assert latencies.of("b") == {}


def test_one_call_measures_an_unknown_target_and_the_others_do_not_follow_it() -> None:
    latencies = measured(0.3, 0.1)
    assert latencies.rank(NAMES, (0, 1, 2), 1.0) == [2, 1, 0]
    assert [latencies.rank(NAMES, (0, 1, 2), 1.0 + step) for step in range(5)] == [[1, 0, 2]] * 5
    assert latencies.rank(NAMES, (0, 1, 2), 1.0 + MEASURING_SECONDS) == [2, 1, 0]
    latencies.observe(NAMES[2], 0.2, 12.0)
    assert latencies.rank(NAMES, (0, 1, 2), 12.0) == [1, 2, 0]


def test_a_measurement_that_is_stale_is_made_again_and_replaces_the_old_one() -> None:
    latencies = measured(0.3, 0.1)
    stale = STALE_SECONDS + 0.1
    latencies.observe(NAMES[1], 0.1, stale)
    assert latencies.rank(NAMES, (0, 1), stale) == [0, 1]
    assert latencies.rank(NAMES, (0, 1), stale) == [1, 0]
    latencies.observe(NAMES[0], 0.05, stale)
    assert latencies.of("a") == {"m": 0.05}
    assert latencies.rank(NAMES, (0, 1), stale) == [0, 1]


def test_with_nothing_measured_each_is_measured_once_and_then_the_configured_order_holds() -> None:
    latencies = Latencies()
    orders = [latencies.rank(NAMES, (0, 1, 2), 0.0) for _ in range(4)]
    assert [order[0] for order in orders] == [0, 1, 2, 0]
    assert orders[3] == [0, 1, 2]


def test_targets_remembered_are_bounded() -> None:
    latencies = Latencies()
    for number in range(MEASURED_MAX + 10):
        latencies.observe(("a", f"m{number}"), 0.1, 0.0)
    assert len(latencies.of("a")) == MEASURED_MAX
