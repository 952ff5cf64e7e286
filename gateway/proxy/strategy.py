"""Which target of a route goes first: by weight, or by how soon its first byte came of late.

Pure: the clock is passed in. The state is kept here, bounded, and outlives a reload: it belongs to
the names of the targets. Used by `health.py`, which takes out beforehand what cannot be tried.
"""

from collections.abc import Sequence

from gateway.proxy.breaker import Name

WHEELS_MAX = 1024
"""Weighted routes remembered; they are as many as aliases and formats, unless callers reload."""

MEASURED_MAX = 1024
"""Targets whose speed is remembered; model names come from callers."""

EWMA_NEW = 0.3
"""The share of the newest measurement in the average: some ten calls forget the past."""

STALE_SECONDS = 60.0
"""A measurement older than this is one no longer: the target goes first once, to be measured."""

MEASURING_SECONDS = 10.0
"""For so long others do not follow the one call that measures a target: it may be slow."""


class Wheels:
    """Smooth weighted round-robin: with weights 3 and 1, the order is a a b a, not a a a b."""

    def __init__(self) -> None:
        self._wheels: dict[tuple[tuple[Name, ...], tuple[int, ...]], list[int]] = {}

    def first(
        self, names: tuple[Name, ...], weights: tuple[int, ...], candidates: Sequence[int]
    ) -> int:
        """The candidate (an index into `names`) that goes first; over time each by its weight.

        `weights` is empty for equal ones. Those who are no candidates at the moment gain nothing:
        they do not come back with a flood.
        """
        wheel = self._wheels.get((names, weights))
        if wheel is None:
            if len(self._wheels) >= WHEELS_MAX:
                self._wheels.clear()
            wheel = self._wheels[names, weights] = [0] * len(names)
        total = 0
        best = candidates[0]
        for index in candidates:
            weight = weights[index] if weights else 1
            total += weight
            wheel[index] += weight
            if wheel[index] > wheel[best]:
                best = index
        wheel[best] -= total
        return best


class _Speed:
    __slots__ = ("asked_at", "average_s", "measured_at")

    def __init__(self) -> None:
        self.average_s: float | None = None
        self.measured_at = 0.0
        self.asked_at = -MEASURING_SECONDS


class Latencies:
    """An exponential moving average of the time to the first byte, per target."""

    def __init__(self) -> None:
        self._speeds: dict[Name, _Speed] = {}

    def observe(self, name: Name, seconds: float, now: float) -> None:
        """A first byte came after so many seconds."""
        speed = self._speed(name)
        known = speed.average_s
        if known is None or now - speed.measured_at > STALE_SECONDS:
            speed.average_s = seconds
        else:
            speed.average_s = known + EWMA_NEW * (seconds - known)
        speed.measured_at = now

    def of(self, provider: str) -> dict[str, float]:
        """The averages of a provider's models, in seconds."""
        return {
            name[1]: speed.average_s
            for name, speed in self._speeds.items()
            if name[0] == provider and speed.average_s is not None
        }

    def rank(self, names: tuple[Name, ...], candidates: Sequence[int], now: float) -> list[int]:
        """The candidates (indices into `names`), the soonest first; unmeasured ones go last.

        But for one call: a target that is unknown or stale goes first to be measured, and while
        that call is on its way (MEASURING_SECONDS at most) the others go by what is known.
        """
        for index in candidates:
            speed = self._speed(names[index])
            fresh = speed.average_s is not None and now - speed.measured_at <= STALE_SECONDS
            if not fresh and now - speed.asked_at >= MEASURING_SECONDS:
                speed.asked_at = now
                return [index, *(one for one in self._ranked(names, candidates) if one != index)]
        return self._ranked(names, candidates)

    def _ranked(self, names: tuple[Name, ...], candidates: Sequence[int]) -> list[int]:
        def key(index: int) -> tuple[bool, float]:
            average_s = self._speed(names[index]).average_s
            return average_s is None, average_s or 0.0

        return sorted(candidates, key=key)

    def _speed(self, name: Name) -> _Speed:
        speed = self._speeds.get(name)
        if speed is None:
            if len(self._speeds) >= MEASURED_MAX:
                del self._speeds[next(iter(self._speeds))]
            speed = self._speeds[name] = _Speed()
        return speed
