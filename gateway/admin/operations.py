"""What only a running server can do or knows, as the admin verbs ask for it.

`control.py` implements `Operations`; the command line, where it opens the store itself, has none.
Values only: no I/O here. Times are milliseconds since the epoch, money is integer nano-USD.
"""

from typing import Literal, Protocol

import msgspec

KeyState = Literal["usable", "resting", "set_aside", "no_value"]
"""Of a provider's key: in use; waiting after a 429; refused by the provider; its variable unset."""


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload changed, and what it left as it was until a restart: paths of keys."""

    changed: list[str]
    needs_restart: list[str]


class KeyHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One of a provider's keys.

    `id` is that of a key which an admin added, None for one of the configuration. `hint` is what
    may be shown of it. `models` are those that it is set aside for, where it is not for all.
    """

    id: str | None
    hint: str
    state: KeyState
    rests_until_ms: int | None = None
    models: list[str] = []


class BreakerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The breaker of a model that failed lately: one without failures is not shown."""

    model: str
    state: Literal["closed", "open", "due", "probing"]
    failures: int
    probes_at_ms: int | None = None


class ProviderHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A provider as the running server has it.

    `active` is whether it has a key, or needs none. `today_nano_usd` is what keys issued here cost
    at it this day, at list price; `alert_nano_usd` and `stop_nano_usd` are the day's thresholds.
    """

    name: str
    active: bool
    paused_by: str | None = None
    keys: list[KeyHealth] = []
    breakers: list[BreakerHealth] = []
    today_nano_usd: int = 0
    alert_nano_usd: int | None = None
    stop_nano_usd: int | None = None


class InFlight(msgspec.Struct, frozen=True, kw_only=True):
    """A request being served. `id` is its receipt's; `owner` is as receipts have it."""

    id: str
    owner: str
    endpoint: str
    model: str
    stream: bool
    created_ms: int
    provider: str | None = None
    attempts: int = 0
    held_nano_usd: int = 0


class Operations(Protocol):
    """The running server."""

    async def reload(self) -> ReloadReport:
        """Read the configuration again. Raises `ConfigError`; nothing was changed then."""

    def health(self) -> list[ProviderHealth]:
        """Every provider."""

    def in_flight(self, limit: int | None = None) -> list[InFlight]:
        """The requests being served, the oldest first; no more than `limit` of them."""
