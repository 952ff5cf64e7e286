"""Circuit breakers: which targets are passed over because they keep failing, and who probes them.

A breaker is an automaton per target (provider and model), made by its first failure and forgotten
at its first success:

    closed   fewer failures in a row than open it
    open     passed over for a while
    due      the while is over: the next try is the probe
    probing  one try is on its way; all others still pass the target over

A failed probe opens it again for twice as long, at most LONGEST times the first while. A probe that
ends without a verdict (its client left) frees its place. Pure: the clock is passed in, `now` is
monotonic seconds. Used by `health.py`; calls with a caller's own key touch no breaker.
"""

from typing import Literal

import msgspec

LONGEST = 64
"""An open breaker waits at most so many times the configured seconds."""

PROBE_SECONDS_MAX = 60.0
"""A probe that has told nothing for so long makes room for another: some answers take minutes."""

FORGOTTEN_SECONDS = 600.0
"""A target nobody has tried for so long after its last failure starts afresh."""

BREAKERS_MAX = 1024
"""Breakers kept. Model names come from callers (dated spellings of a listed model), so the memory
must have an end; beyond it the one that failed first goes."""

Name = tuple[str, str]
"""A provider's name and the name it knows a model by."""

State = Literal["closed", "open", "due", "probing"]


class BreakerView(msgspec.Struct, frozen=True):
    """A breaker as an admin sees it; `opens_s` is the time until the next probe, 0.0 when due."""

    provider: str
    model: str
    state: State
    failures: int
    opens_s: float | None = None


class Breaker:
    """One target's failures in a row; see the module docstring."""

    __slots__ = ("failed_at", "failures", "opened", "probe", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.opened = 0
        """How many times in a row it was opened; 0 while it is closed."""
        self.until = 0.0
        self.failed_at = 0.0
        self.probe: Probe | None = None

    def state(self, now: float) -> State:
        """Where the automaton stands."""
        if not self.opened:
            return "closed"
        if self.probe is not None and now - self.probe.begun_at < PROBE_SECONDS_MAX:
            return "probing"
        return "open" if now < self.until else "due"


class Probe:
    """The one try of an open target. It ends by the verdict on its attempt, or by `end`."""

    __slots__ = ("_breaker", "begun_at")

    def __init__(self, breaker: Breaker, now: float) -> None:
        self._breaker = breaker
        self.begun_at = now
        breaker.probe = self

    @property
    def holds(self) -> bool:
        """Whether its verdict is still waited for."""
        return self._breaker.probe is self

    def end(self) -> None:
        """Free its place without a verdict; does nothing once there is one."""
        if self._breaker.probe is self:
            self._breaker.probe = None


class Breakers:
    """The breakers of one process, by target. Empty while every last try succeeded."""

    def __init__(self, failures: int, seconds: float) -> None:
        self.failures = failures
        self.seconds = seconds
        self._kept: dict[Name, Breaker] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def passed_over(self, name: Name, now: float) -> bool:
        """Whether a target is left out while its route has others."""
        breaker = self._kept.get(name)
        return breaker is not None and breaker.state(now) in ("open", "probing")

    def begin(self, name: Name, now: float) -> Probe | None:
        """A try of a target begins: its place as the probe, where the target is due for one."""
        breaker = self._kept.get(name)
        if breaker is None or breaker.state(now) != "due":
            return None
        return Probe(breaker, now)

    def succeeded(self, name: Name) -> bool:
        """The target answered: forget its failures. True where that closes an open breaker."""
        breaker = self._kept.pop(name, None)
        if breaker is None:
            return False
        breaker.probe = None
        return breaker.opened > 0

    def failed(self, name: Name, now: float, probe: Probe | None = None) -> float | None:
        """The target failed; the seconds that it is open for, where this opens it (again).

        While it is open only the probe counts: tries that began before it opened, or that had
        nowhere else to go, say nothing new.
        """
        breaker = self._kept.get(name)
        if breaker is None:
            breaker = self._made(name)
        state = breaker.state(now)
        holds = probe is not None and breaker.probe is probe
        if state == "open" or (state == "probing" and not holds):
            return None
        breaker.failed_at = now
        breaker.failures += 1
        if state == "closed" and breaker.failures < self.failures:
            return None
        breaker.probe = None
        wait_s = self.seconds * min(1 << breaker.opened, LONGEST)
        breaker.opened = min(breaker.opened + 1, LONGEST)
        breaker.until = now + wait_s
        return wait_s

    def forget(self, now: float) -> None:
        """Drop those that nobody has tried for long: a failure of yesterday is none in a row."""
        late = [
            name
            for name, one in self._kept.items()
            if now - max(one.failed_at, one.until) > FORGOTTEN_SECONDS
        ]
        for name in late:
            del self._kept[name]

    def drop(self, provider: str) -> None:
        """Forget a provider's: it is another one now, by an old name."""
        for name in [name for name in self._kept if name[0] == provider]:
            del self._kept[name]

    def view(self, now: float) -> list[BreakerView]:
        """All of them, in the order of their first failures."""
        return [
            BreakerView(
                provider=name[0],
                model=name[1],
                state=one.state(now),
                failures=one.failures,
                opens_s=max(0.0, one.until - now) if one.opened else None,
            )
            for name, one in self._kept.items()
        ]

    def _made(self, name: Name) -> Breaker:
        if len(self._kept) >= BREAKERS_MAX:
            del self._kept[next(iter(self._kept))]
        breaker = self._kept[name] = Breaker()
        return breaker
