"""Tells of crossings: each once by each channel, remembered in the ledger, tried until it is told.

The contract: `Alerts.crossed` only queues, so nothing here slows a request. Each channel has one
task that tells one crossing after the other. What was delivered is marked in the ledger, and what
is marked is not told again; a process that dies between the two repeats that one message, with the
same id. A channel that fails rests for 5 s, then 30 s, 2 min, 10 min and an hour each time; the
next success ends that. What could not be told an hour after its day was over is given up.

`app.py` makes one `Alerts`, gives its `crossed` to `Daily`, and calls `start`, `use` at a reload,
and `stop`.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec

from gateway.alerts import event as events
from gateway.alerts.daily import DAY_MS, DAYS_KEPT, Crossing
from gateway.alerts.event import Channel, Event, Undelivered
from gateway.alerts.mail import Mail
from gateway.alerts.sent import Ledger, Mark, Sent
from gateway.alerts.webhook import Webhook
from gateway.config import Alerts as Settings
from gateway.errors import StoreError
from gateway.ledger.prices import usd_text

PAUSES_SECONDS: Final = (5.0, 30.0, 120.0, 600.0, 3600.0)
"""How long a channel rests after its first failure in a row, its second, ...; the last goes on."""

GRACE_MS: Final = 3_600_000
"""So long after its day a crossing is still told: one shortly before midnight has its tries."""

STOP_SECONDS: Final = 5.0
"""A message that is being sent when the gateway stops may take so long, or it would be repeated."""

T = TypeVar("T")

Pause = Callable[[float, asyncio.Event], Awaitable[None]]
"""Waits so many seconds, or until the event is set."""

_log = logging.getLogger("gateway.alerts")


def channels(settings: Settings) -> tuple[Channel, ...]:
    """The channels that are configured; raises ConfigError where one cannot be used."""
    found: list[Channel] = []
    if settings.smtp_host:
        found.append(Mail(settings))
    if settings.webhook_url:
        found.append(Webhook(settings.webhook_url, settings.webhook_secret))
    return tuple(found)


def wall_ms() -> int:
    """Now, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def rest(seconds: float, roused: asyncio.Event) -> None:
    """Wait so long, or until the event is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await roused.wait()


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What the alerts need of the world beside the ledger.

    `secret` (that of the server) makes the ids of events this installation's own. `user_name` is
    asked for a user's name. `keep_paused`, where given, pauses a provider durably: it is tried
    like a message, and once done not repeated after a restart, when an admin may have resumed the
    provider. After a crash right at the crossing it is what pauses the provider at all.
    """

    secret: bytes
    user_name: Callable[[int], str | None] = lambda user_id: None
    keep_paused: Callable[[str], Awaitable[None]] | None = None
    clock_ms: Callable[[], int] = wall_ms
    pause: Pause = rest


class Alerts:
    """The alerts of one process. All calls come from the event loop's thread."""

    def __init__(self, ledger: Ledger, channels: Sequence[Channel], around: Around) -> None:
        self._sent = Sent(ledger)
        self._around = around
        self._crossings: dict[int, list[Crossing]] = {}
        self._channels = tuple(channels)
        self._lines: dict[str, _Line] = {}
        self._told = _Told(self._sent)
        self._running = False

    def crossed(self, crossing: Crossing) -> None:
        """A threshold was reached: tell it. Waits for nothing; may be called before `start`."""
        _of_day(self._crossings, crossing.day, list).append(crossing)
        for line in self._lines.values():
            line.put(crossing)

    def start(self) -> None:
        """Begin to tell, on the running loop: what has been crossed so far, too."""
        self._running = True
        self.use(self._channels)

    def use(self, channels: Sequence[Channel]) -> None:
        """These channels from now on, for what they have not told yet. They try at once."""
        self._channels = tuple(channels)
        if not self._running:
            return
        wanted: dict[str, Channel] = {channel.name: channel for channel in self._channels}
        if self._around.keep_paused is not None:
            wanted[_Pausing.name] = _Pausing(self._around.keep_paused)
        for name in self._lines.keys() - wanted.keys():
            self._lines[name].use(None)
        for name, channel in wanted.items():
            line = self._lines.get(name)
            if line is None:
                line = self._lines[name] = _Line(name, self._told, self._around)
            line.use(channel)
            for crossing in itertools.chain.from_iterable(self._crossings.values()):
                line.put(crossing)

    async def stop(self, within_s: float = STOP_SECONDS) -> None:
        """Tell no more. A message on its way may arrive; what was not told is told next time."""
        self._running = False
        tasks = [line.close() for line in self._lines.values()]
        self._lines = {}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=within_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Pausing:
    """Making a provider's pause durable, as a channel: tried again, marked, done once."""

    name = "pause"

    def __init__(self, keep_paused: Callable[[str], Awaitable[None]]) -> None:
        self._keep_paused = keep_paused

    async def send(self, event: Event, now_ms: int) -> None:
        """Pause the provider; raises Undelivered where the store refuses."""
        try:
            await self._keep_paused(event.crossing.subject.removeprefix("provider:"))
        except StoreError as exc:
            raise Undelivered(str(exc)) from None


class _Told:
    """The marks in the ledger, each day's read once."""

    def __init__(self, sent: Sent) -> None:
        self._sent = sent
        self._marks: dict[int, set[Mark]] = {}

    async def has(self, crossing: Crossing, name: str) -> bool:
        """Whether a channel of that name has told it; raises StoreError."""
        marks = self._marks.get(crossing.day)
        if marks is None:
            read = await self._sent.marks(crossing.day)
            # Another line may have read them, and marked since, while this one waited.
            marks = _of_day(self._marks, crossing.day, set)
            marks |= read
        return (crossing.subject, crossing.threshold, name) in marks

    async def add(self, crossing: Crossing, name: str, now_ms: int) -> None:
        """Mark it; raises StoreError."""
        await self._sent.mark(crossing, name, now_ms)
        if (marks := self._marks.get(crossing.day)) is not None:
            marks.add((crossing.subject, crossing.threshold, name))


class _Line:
    """One channel's queue and the task that empties it."""

    def __init__(self, name: str, told: _Told, around: Around) -> None:
        self._name = name
        self._told = told
        self._around = around
        self._channel: Channel | None = None
        self._waiting: deque[Crossing] = deque()
        self._taken: dict[int, set[tuple[str, str]]] = {}
        # Delivered, but not marked yet: the ledger refused. Only the mark is tried again.
        self._unmarked: set[Crossing] = set()
        self._failures = 0
        self._arrived = asyncio.Event()
        self._roused = asyncio.Event()
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"alerts by {name}")

    def use(self, channel: Channel | None) -> None:
        """Tell by that channel, and by none where None; try at once."""
        self._channel = channel
        self._failures = 0
        self._roused.set()
        self._arrived.set()

    def put(self, crossing: Crossing) -> None:
        """Tell it, unless it is being told or was."""
        if self._name == _Pausing.name and crossing.threshold != "stop":
            return
        taken = _of_day(self._taken, crossing.day, set)
        key = (crossing.subject, f"{crossing.threshold} {self._mark(crossing)}")
        if key not in taken:
            taken.add(key)
            self._waiting.append(crossing)
            self._arrived.set()

    def close(self) -> "asyncio.Task[None]":
        """End after what is being sent; the task that ends."""
        self._closing = True
        self._roused.set()
        self._arrived.set()
        return self._task

    def _mark(self, crossing: Crossing) -> str:
        """What the ledger remembers it by. A limit that was raised pauses again when reached."""
        if self._name == _Pausing.name:
            return f"{self._name} at {usd_text(crossing.limit_nano_usd)}"
        return self._name

    async def _run(self) -> None:
        while not self._closing:
            if self._channel is None or not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            # What rouses from here on ends the pause after this try, too.
            self._roused.clear()
            crossing = self._waiting[0]
            why = await self._tell(crossing, self._channel)
            self._waiting.popleft()
            if why is None:
                self._failures = 0
                continue
            self._waiting.append(crossing)
            pause_s = PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS) - 1)]
            self._failures += 1
            _log.warning(
                "alert by %s failed, %d waiting, next try in %g s: %s",
                self._name, len(self._waiting), pause_s, why,
            )  # fmt: skip
            await self._around.pause(pause_s, self._roused)

    async def _tell(self, crossing: Crossing, channel: Channel) -> str | None:
        """Why it could not be told; None where it is settled."""
        named = f"{crossing.subject} {crossing.threshold}"
        now_ms = self._around.clock_ms()
        if now_ms >= _deadline_ms(crossing):
            day = events.day_text(crossing.day)
            _log.error("alert by %s given up: %s of %s", self._name, named, day)
            self._unmarked.discard(crossing)
            return None
        mark = self._mark(crossing)
        try:
            if crossing not in self._unmarked:
                if await self._told.has(crossing, mark):
                    return None
                await channel.send(self._event(crossing), now_ms)
                self._unmarked.add(crossing)
                _log.info("alert by %s: %s", self._name, named)
            await self._told.add(crossing, mark, now_ms)
        except (Undelivered, StoreError) as exc:
            return str(exc)
        except Exception as exc:  # noqa: BLE001 - the task must live, and may not quote secrets
            return type(exc).__name__
        self._unmarked.discard(crossing)
        return None

    def _event(self, crossing: Crossing) -> Event:
        kind, _, name = crossing.subject.partition(":")
        user_name = self._around.user_name(int(name)) if kind == "user" else None
        return events.event_of(crossing, self._around.secret, user_name)


def _deadline_ms(crossing: Crossing) -> int:
    return (crossing.day + 1) * DAY_MS + GRACE_MS


def _of_day(days: dict[int, T], day: int, make: Callable[[], T]) -> T:
    """What is kept of a day, made where there is nothing; the oldest day makes room for a new."""
    kept = days.get(day)
    if kept is None:
        if len(days) >= DAYS_KEPT:
            del days[min(days)]
        kept = days[day] = make()
    return kept
