"""A day's counters are the sums of what was added, under any clock; a threshold passes once."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from alert_site import DAY, NOON_MS, Book
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import config as cfg
from gateway.alerts.daily import (
    DAY_MS,
    DAYS_KEPT,
    Crossing,
    Daily,
    ProviderThresholds,
    Thresholds,
    Today,
    thresholds_of,
)
from gateway.alerts.sent import Sent
from gateway.ledger.records import UsageRow, User

NO_THRESHOLDS = Thresholds()


class Watched:
    """A `Daily`, what it told and whom it stopped, in order."""

    def __init__(self, thresholds: Thresholds = NO_THRESHOLDS) -> None:
        self.told: list[Crossing] = []
        self.stopped: list[str] = []
        self.calls: list[str] = []
        self.daily = Daily(thresholds, self._tell, self._stop)

    def _tell(self, crossing: Crossing) -> None:
        self.calls.append(f"tell {crossing.threshold}")
        self.told.append(crossing)

    def _stop(self, provider: str) -> None:
        self.calls.append("stop")
        self.stopped.append(provider)

    @property
    def thresholds_told(self) -> list[tuple[str, str]]:
        return [(one.subject, one.threshold) for one in self.told]


def openai(alert: int | None = None, stop: int | None = None) -> Thresholds:
    return Thresholds(providers={"openai": ProviderThresholds(alert, stop)})


requests = st.tuples(
    st.sampled_from([0, 1, 2]),
    st.sampled_from(["openai", "google", "", None]),
    st.integers(0, 1000),
    st.integers(0, 60),
    st.integers(0, 60),
    # Anywhere in as many days as are kept, most of them close to midnight: the clock jumps.
    st.builds(
        lambda day, at: (DAY + day) * DAY_MS + at,
        st.integers(0, DAYS_KEPT - 1),
        st.sampled_from([0, 1, DAY_MS // 2, DAY_MS - 1]),
    ),
)

PROVIDER_LIMITS = {"openai": (100, 200), "google": (None, 50)}
USER_LIMITS = {1: 80, 2: 150}


@settings(max_examples=150, deadline=None)
@given(st.lists(requests, max_size=60))
def test_counters_and_crossings_are_those_of_a_naive_model_under_any_clock(
    added: list[tuple[int, str | None, int, int, int, int]],
) -> None:
    watched = Watched(
        Thresholds(
            providers={name: ProviderThresholds(*two) for name, two in PROVIDER_LIMITS.items()},
            user_default=150,
            users={1: 80},
        )
    )
    counts: Counter[tuple[int, int, str]] = Counter()
    spent: Counter[tuple[int, str]] = Counter()
    expected: dict[tuple[int, str, str], int] = {}
    for user, provider, tokens, nano, listed, now_ms in added:
        watched.daily.add(user, provider, tokens, nano, listed, now_ms)
        day = now_ms // DAY_MS
        if not user:
            continue
        counts[day, user, "requests"] += 1
        counts[day, user, "tokens"] += tokens
        counts[day, user, "nano"] += nano
        spent[day, f"user:{user}"] += nano
        limits = [(f"user:{user}", "alert", USER_LIMITS[user])]
        if provider:
            spent[day, f"provider:{provider}"] += listed
            alert, stop = PROVIDER_LIMITS[provider]
            limits += [(f"provider:{provider}", "stop", stop or 0)]
            limits += [(f"provider:{provider}", "alert", alert)] if alert else []
        for subject, threshold, limit in limits:
            if spent[day, subject] >= limit:
                expected.setdefault((day, subject, threshold), spent[day, subject])
    for day in range(DAY, DAY + DAYS_KEPT):
        for user in (0, 1, 2):
            kinds = ("requests", "tokens", "nano")
            assert watched.daily.today(user, day * DAY_MS) == Today(
                *(counts[day, user, kind] for kind in kinds)
            )
        for name in ("openai", "google"):
            found = watched.daily.provider_today(name, (day + 1) * DAY_MS - 1)
            assert found == spent[day, f"provider:{name}"]
    told = [(one.day, one.subject, one.threshold) for one in watched.told]
    assert len(told) == len(set(told))
    assert {
        key: one.spent_nano_usd for key, one in zip(told, watched.told, strict=True)
    } == expected
    stops = Counter(subject for _, subject, threshold in told if threshold == "stop")
    assert Counter(f"provider:{name}" for name in watched.stopped) == stops


def test_a_thousand_requests_past_a_threshold_tell_it_once() -> None:
    watched = Watched(openai(alert=50, stop=100))
    for _ in range(1000):
        watched.daily.add(7, "openai", 18, 10, 10, NOON_MS)
    assert watched.told == [
        Crossing(DAY, "provider:openai", "alert", 50, 50, NOON_MS),
        Crossing(DAY, "provider:openai", "stop", 100, 100, NOON_MS),
    ]
    assert watched.stopped == ["openai"]


def test_the_next_day_begins_at_nothing_and_tells_again() -> None:
    watched = Watched(openai(alert=50))
    midnight = (DAY + 1) * DAY_MS
    watched.daily.add(7, "openai", 1, 60, 60, midnight - 1)
    watched.daily.add(7, "openai", 1, 49, 49, midnight)
    assert watched.daily.today(7, midnight) == Today(1, 1, 49)
    assert [one.day for one in watched.told] == [DAY]
    watched.daily.add(7, "openai", 1, 1, 1, midnight)
    assert [one.day for one in watched.told] == [DAY, DAY + 1]


def test_a_clock_set_back_over_midnight_goes_on_where_that_day_was() -> None:
    watched = Watched(openai(stop=100))
    midnight = (DAY + 1) * DAY_MS
    for now_ms in (midnight - 5, midnight + 5, midnight - 4, midnight + 6):
        watched.daily.add(7, "openai", 1, 60, 60, now_ms)
    assert watched.daily.provider_today("openai", midnight - 1) == 120
    assert watched.daily.provider_today("openai", midnight) == 120
    assert watched.stopped == ["openai", "openai"]
    watched.daily.add(7, "openai", 1, 60, 60, midnight - 3)
    assert len(watched.told) == 2


def test_only_the_latest_days_are_held_in_memory() -> None:
    watched = Watched()
    for day in range(100):
        watched.daily.add(7, "openai", 1, 1, 1, (DAY + day) * DAY_MS)
    assert len(watched.daily._days) == DAYS_KEPT
    assert watched.daily.today(7, (DAY + 99) * DAY_MS) == Today(1, 1, 1)
    assert watched.daily.today(7, DAY * DAY_MS) == Today()


def test_reading_another_day_does_not_disturb_the_counting() -> None:
    watched = Watched(openai(stop=2))
    watched.daily.add(7, "openai", 1, 1, 1, NOON_MS)
    assert watched.daily.today(7, NOON_MS + 30 * DAY_MS) == Today()
    assert watched.daily.provider_today("openai", NOON_MS - DAY_MS) == 0
    watched.daily.add(7, "openai", 1, 1, 1, NOON_MS)
    assert watched.stopped == ["openai"]


def test_the_provider_is_stopped_before_anybody_is_told() -> None:
    watched = Watched(openai(alert=50, stop=100))
    watched.daily.add(7, "openai", 1, 500, 500, NOON_MS)
    assert watched.calls == ["stop", "tell stop", "tell alert"]


def test_a_limit_of_zero_is_at_the_first_cost_for_providers_and_never_for_users() -> None:
    watched = Watched(
        Thresholds(providers={"openai": ProviderThresholds(stop=0)}, user_default=5, users={7: 0})
    )
    watched.daily.add(7, "openai", 1, 0, 0, NOON_MS)
    assert watched.told == []
    watched.daily.add(7, "openai", 1, 10, 1, NOON_MS)
    assert watched.thresholds_told == [("provider:openai", "stop")]


def test_who_is_to_hear_of_it_may_fail_and_the_request_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(value: object) -> None:
        raise RuntimeError("no ears")

    daily = Daily(openai(alert=1, stop=1), fail, fail)
    daily.add(7, "openai", 1, 5, 5, NOON_MS)
    daily.add(7, "openai", 1, 5, 5, NOON_MS)
    assert daily.provider_today("openai", NOON_MS) == 10
    assert daily.today(7, NOON_MS) == Today(2, 2, 10)
    assert len([one for one in caplog.records if one.exc_info]) == 3


# --- changes --------------------------------------------------------------------------------------


def test_a_raised_limit_stops_again_when_it_is_reached_and_the_old_one_does_not() -> None:
    watched = Watched(openai(stop=100))
    watched.daily.add(7, "openai", 1, 105, 105, NOON_MS)
    watched.daily.set_thresholds(openai(stop=200), NOON_MS)
    assert watched.stopped == ["openai"]
    watched.daily.set_thresholds(openai(stop=100), NOON_MS)
    watched.daily.set_thresholds(openai(stop=200), NOON_MS)
    assert watched.stopped == ["openai"]
    watched.daily.add(7, "openai", 1, 95, 95, NOON_MS)
    assert watched.stopped == ["openai", "openai"]
    assert [one.limit_nano_usd for one in watched.told] == [100, 200]


def test_a_limit_lowered_below_what_was_spent_is_passed_at_once() -> None:
    watched = Watched(openai(stop=100))
    watched.daily.add(7, "openai", 1, 70, 70, NOON_MS)
    watched.daily.set_thresholds(openai(alert=60, stop=70), NOON_MS)
    assert watched.stopped == ["openai"]
    assert watched.thresholds_told == [("provider:openai", "stop"), ("provider:openai", "alert")]


def test_yesterdays_spending_does_not_stop_a_provider_under_a_new_limit() -> None:
    watched = Watched()
    watched.daily.add(7, "openai", 1, 70, 70, NOON_MS)
    watched.daily.set_thresholds(openai(stop=60), NOON_MS + DAY_MS)
    assert watched.told == []


def test_a_user_may_have_another_threshold_than_the_default() -> None:
    watched = Watched(Thresholds(user_default=100))
    watched.daily.add(7, None, 1, 60, 0, NOON_MS)
    watched.daily.set_user_threshold(7, 50, NOON_MS)
    assert watched.thresholds_told == [("user:7", "alert")]
    watched.daily.set_user_threshold(7, 0, NOON_MS)
    watched.daily.add(7, None, 1, 60, 0, NOON_MS)
    assert len(watched.told) == 1
    watched.daily.set_user_threshold(7, None, NOON_MS)
    assert [one.limit_nano_usd for one in watched.told] == [50, 100]


def test_the_configuration_and_the_users_say_the_thresholds() -> None:
    config = cfg.parse(
        "[alerts]\nuser_daily_usd = 2.5\n"
        '[providers.openai]\nformat = "openai"\nbase_url = "https://api.openai.com/v1"\n'
        "daily_alert_usd = 0.1\ndaily_stop_usd = 100\n"
        '[providers.demo]\nformat = "all"\nbase_url = "builtin:demo"\n'
    )
    users = [
        User(1, "ann", None, False, 0),
        User(2, "bob", None, False, 0, daily_alert_nano_usd=0),
        User(3, "eve", None, False, 0, daily_alert_nano_usd=7),
    ]
    assert thresholds_of(config, users) == Thresholds(
        providers={
            "openai": ProviderThresholds(100_000_000, 100_000_000_000),
            "demo": ProviderThresholds(),
        },
        user_default=2_500_000_000,
        users={2: 0, 3: 7},
    )


# --- restarts -------------------------------------------------------------------------------------


def row(day: int, user_id: int, provider: str, model: str, nano: int) -> UsageRow:
    key = f"key_{user_id}" if user_id else ""
    return UsageRow(day, user_id, key, provider, model, 2, 1, 10, 8, nano, nano)


def test_counters_go_on_after_a_restart_and_what_was_reached_is_told_but_nobody_stopped() -> None:
    watched = Watched(
        Thresholds(providers={"openai": ProviderThresholds(50, 100)}, user_default=1000)
    )
    rows = [
        row(DAY, 0, "openai", "gpt-4o", 0),
        row(DAY, 7, "openai", "gpt-4o", 70),
        row(DAY, 7, "openai", "gpt-4.1", 40),
        row(DAY, 7, "", "", 0),
        row(DAY, 8, "openai", "gpt-4o", 5),
    ]
    watched.daily.load(rows, NOON_MS)
    assert watched.daily.today(7, NOON_MS) == Today(6, 54, 110)
    assert watched.daily.today(0, NOON_MS) == Today()
    assert watched.daily.provider_today("openai", NOON_MS) == 115
    assert watched.thresholds_told == [("provider:openai", "stop"), ("provider:openai", "alert")]
    # An admin may have resumed the provider since: only spending anew stops.
    assert watched.stopped == []
    watched.daily.add(7, "openai", 1, 890, 1, NOON_MS)
    assert watched.thresholds_told[2:] == [("user:7", "alert")]
    assert watched.stopped == []


def test_the_ledgers_rows_of_yesterday_and_today_are_what_is_loaded(tmp_path: Path) -> None:
    book = Book(tmp_path / "gateway.db")
    book.conn.executemany(
        f"INSERT INTO usage VALUES ({', '.join('?' * 11)})",
        [
            tuple(getattr(one, name) for name in UsageRow.__struct_fields__)
            for one in (row(DAY - 2, 7, "openai", "m", 1), row(DAY - 1, 7, "openai", "m", 60),
                        row(DAY, 7, "openai", "m", 20))
        ],
    )  # fmt: skip
    watched = Watched(openai(alert=50))
    watched.daily.load(asyncio.run(Sent(book).recent(NOON_MS)), NOON_MS)
    book.close()
    assert watched.daily.provider_today("openai", NOON_MS) == 20
    assert watched.daily.provider_today("openai", NOON_MS - DAY_MS) == 60
    assert watched.daily.provider_today("openai", NOON_MS - 2 * DAY_MS) == 0
    # Yesterday's is told, if it was not; `Alerts` knows, and for how long it still matters.
    assert [(one.day, one.threshold) for one in watched.told] == [(DAY - 1, "alert")]
