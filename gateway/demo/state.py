"""What the demo remembers between requests, all of it bounded.

One `DemoState` per application. Nothing survives a restart. Used by the demo's endpoints alone.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Generic, TypeVar

from gateway.demo.tokens import PromptCache

STORED_OBJECTS_MAX = 512
"""Responses, files and batches kept, each; the oldest go first."""

Value = TypeVar("Value")


class Shelf(Generic[Value]):
    """A dictionary that forgets its oldest entries."""

    def __init__(self, entries_max: int = STORED_OBJECTS_MAX) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[str, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Value | None:
        """The entry, or None where there is none (any more)."""
        return self._entries.get(key)

    def put(self, key: str, value: Value) -> None:
        """Store, and forget the oldest beyond the bound."""
        self._entries[key] = value
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def pop(self, key: str) -> Value | None:
        """Take an entry out."""
        return self._entries.pop(key, None)

    def values(self) -> list[Value]:
        """All entries, the oldest first."""
        return list(self._entries.values())


class DemoState:
    """The memory of one demo upstream. `closing` is set when the server stops."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.closing = asyncio.Event()
        self.prompts = PromptCache()

    def now(self) -> int:
        """Unix time in seconds, as providers stamp their objects."""
        return int(self.clock())

    def timestamp(self) -> str:
        """The time in RFC 3339, as Google and Anthropic stamp theirs."""
        return datetime.fromtimestamp(self.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
