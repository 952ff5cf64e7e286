"""A provider's keys: which one goes next, which rest, which are set aside. Pure.

The keys of a provider take turns. What a provider refuses a key with decides:

    401   the key is set aside, until `reinstate` (an admin resumes the provider, or a reload)
    403   it is set aside for that model only: keys differ in what they may call
    429   it rests, for what the answer's header says (`retry_after_s`)

The state belongs to the text of a key: a pool that replaces another takes it over (`adopt`), so
that a reload neither wakes a resting key nor loses sight of a refused one. `now` is monotonic
seconds. Used by `providers.py` and `health.py`; event-loop thread only.
"""

from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Literal

import msgspec

from gateway.accounts.upstream_settings import hint

REST_DEFAULT_SECONDS = 1.0
"""A rest where the answer says nothing (or nothing readable) about how long."""

REST_SECONDS_MAX = 300.0
"""The longest rest. Some providers name the end of a day or month; asking again costs one call."""

REFUSED_MODELS_MAX = 256
"""Models kept that a key was refused for; beyond it the first goes. Callers choose the names."""

KeyState = Literal["usable", "resting", "set_aside"]


class PoolKey(msgspec.Struct, frozen=True):
    """One key. `id` is that of a stored key, None for one of the configuration."""

    id: str | None
    text: bytes
    hint: str

    def __repr__(self) -> str:
        return f"PoolKey({self.id!r}, {self.hint!r})"


class KeyView(msgspec.Struct, frozen=True):
    """A key as an admin sees it; `not_for` are models that it was refused for (403)."""

    id: str | None
    hint: str
    state: KeyState
    rests_s: float | None = None
    not_for: tuple[str, ...] = ()


def made(text: str, stored_id: str | None = None) -> PoolKey:
    """A key with the hint that stands for it."""
    return PoolKey(stored_id, text.encode(), hint(text))


class Record:
    """What became of a key: shared by the pools that hold the same text."""

    __slots__ = ("aside", "refused", "rests_until")

    def __init__(self) -> None:
        self.aside = False
        self.rests_until = 0.0
        self.refused: dict[str, None] = {}


class KeyPool:
    """The keys of one provider, in turn. A keyless one (`keys` empty) has nothing to refuse."""

    def __init__(self, keys: Iterable[PoolKey]) -> None:
        named: dict[bytes, PoolKey] = {}
        for key in keys:
            named.setdefault(key.text, key)
        self.keys = tuple(named.values())
        self.records = {key.text: Record() for key in self.keys}
        self.turn = 0

    def adopt(self, older: "KeyPool") -> None:
        """Take over the state of the keys that were in an older pool of the same provider.

        It is shared from then on: requests that began with the older one report to both.
        """
        for text, record in older.records.items():
            if text in self.records:
                self.records[text] = record
        self.turn = older.turn % len(self.keys) if self.keys else 0

    def next_key(self, model: str, now: float) -> PoolKey | None:
        """The next key in turn that may be used for a model; None where there is none."""
        keys, turn = self.keys, self.turn
        for step in range(len(keys)):
            at = (turn + step) % len(keys)
            if self._usable(keys[at], model, now):
                self.turn = (at + 1) % len(keys)
                return keys[at]
        return None

    def usable(self, model: str, now: float) -> bool:
        """Whether a call of a model could go with one of the keys; always, without any."""
        return not self.keys or any(self._usable(key, model, now) for key in self.keys)

    def rests_s(self, model: str, now: float) -> float | None:
        """Seconds until the first of the keys that rest may be used; None where none rests."""
        ends = [
            record.rests_until - now
            for record in self.records.values()
            if record.rests_until > now and not record.aside and model not in record.refused
        ]
        return min(ends, default=None)

    def rest(self, key: PoolKey, seconds: float, now: float) -> bool:
        """Let a key rest (429). False where it did already: calls at the same time fail alike."""
        record = self.records[key.text]
        resting = record.rests_until > now
        record.rests_until = max(record.rests_until, now + seconds)
        return not resting

    def set_aside(self, key: PoolKey, model: str | None) -> bool:
        """Use a key no more (401), or not for one model (403); False where it was so already."""
        record = self.records[key.text]
        if model is None:
            already, record.aside = record.aside, True
            return not already
        if model in record.refused:
            return False
        if len(record.refused) >= REFUSED_MODELS_MAX:
            del record.refused[next(iter(record.refused))]
        record.refused[model] = None
        return True

    def reinstate(self) -> None:
        """Use the keys again that were set aside; those that rest go on resting."""
        for record in self.records.values():
            record.aside = False
            record.refused.clear()

    def calm(self, now: float) -> bool:
        """Whether every key may be used for every model."""
        return all(
            not one.aside and not one.refused and one.rests_until <= now
            for one in self.records.values()
        )

    def view(self, now: float) -> tuple[KeyView, ...]:
        """The keys as an admin sees them."""
        return tuple(self._view(key, now) for key in self.keys)

    def _view(self, key: PoolKey, now: float) -> KeyView:
        record = self.records[key.text]
        state: KeyState = "usable"
        rests_s = None
        if record.aside:
            state = "set_aside"
        elif record.rests_until > now:
            state, rests_s = "resting", record.rests_until - now
        return KeyView(key.id, key.hint, state, rests_s, tuple(record.refused))

    def _usable(self, key: PoolKey, model: str, now: float) -> bool:
        record = self.records[key.text]
        return (
            not record.aside
            and record.rests_until <= now
            and (not record.refused or model not in record.refused)
        )


def retry_after_s(lines: Iterable[bytes], wall_s: float) -> float:
    """How long a key rests after a 429 with these header lines: 0 to REST_SECONDS_MAX seconds.

    `retry-after-ms` (milliseconds, as OpenAI's SDKs read it) goes before `retry-after`, which is
    seconds, a fraction allowed, or an HTTP date (RFC 9110 §10.2.3), read against `wall_s`, seconds
    since 1970. Neither, or neither readable: REST_DEFAULT_SECONDS.
    """
    found: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        lowered = name.lower()
        if colon and lowered in (b"retry-after", b"retry-after-ms"):
            found.setdefault(lowered, value.strip())
    seconds = _number(found.get(b"retry-after-ms"), 1000.0)
    if seconds is None:
        seconds = _number(found.get(b"retry-after"), 1.0)
    if seconds is None:
        seconds = _until(found.get(b"retry-after"), wall_s)
    if seconds is None:
        return REST_DEFAULT_SECONDS
    return min(max(seconds, 0.0), REST_SECONDS_MAX)


def _number(value: bytes | None, per_second: float) -> float | None:
    if value is None or not value.replace(b".", b"", 1).isdigit():
        return None  # also what float() would take for a number: "nan", "inf", "1e3", "1_0"
    return float(value) / per_second  # infinite from 310 digits on, which the bound cuts


def _until(value: bytes | None, wall_s: float) -> float | None:
    if value is None:
        return None
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp() - wall_s
    except (TypeError, ValueError, OverflowError):
        return None
