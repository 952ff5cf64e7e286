"""Receipt ids: UUIDs of version 7 (RFC 9562 §5.7), in their 36-character text form.

Contract: `new_id()` never repeats, and sorts as text in the order of the calls, within one process,
even when the wall clock steps back. Not thread-safe: the event loop's thread alone calls it.
Measured: 0.5 µs per id (Python 3.11, `timeit`, two shared cores). Anyone may import this module.
"""

import os
import time
from collections.abc import Callable, Iterator

RANDOM_BLOCK_BYTES = 4096
"""Drawn at once: one `getrandom` call costs more than a whole id."""

_VARIANT = 0b10 << 62
# A millisecond begins in the lower half of the 62 random bits and steps by at most 2^32, so there
# is room for 2^29 ids in it; what is left is looked at each time random bytes are drawn.
_START_MASK = (1 << 61) - 1
_NEARLY_SPENT = _VARIANT | ((1 << 62) - (1 << 44))


def id_source(
    clock_ns: Callable[[], int] = time.time_ns, urandom: Callable[[int], bytes] = os.urandom
) -> Callable[[], str]:
    """Make a source of ids over a wall clock in nanoseconds and a source of random bytes.

    Within one millisecond the next id is the last plus a random step (RFC 9562 §6.2, method 2), so
    ids stay ordered and the next one stays unguessable. A closure, for it takes half the time of
    an object with attributes.
    """
    last_ms = -1
    low = 0
    prefix = ""
    steps: Iterator[int] = iter(())

    def begin(now_ms: int) -> None:
        nonlocal last_ms, low, prefix
        last_ms = now_ms
        seed = int.from_bytes(urandom(10), "big")
        low = _VARIANT | (seed & _START_MASK)
        stamp = f"{now_ms & ((1 << 48) - 1):012x}"
        prefix = f"{stamp[:8]}-{stamp[8:]}-7{seed >> 68:03x}-"

    def draw() -> int:
        nonlocal steps
        steps = iter(memoryview(urandom(RANDOM_BLOCK_BYTES)).cast("I"))
        if low > _NEARLY_SPENT:
            begin(last_ms + 1)
        return next(steps)

    def forget() -> None:
        nonlocal steps, last_ms
        steps = iter(())
        last_ms = -1

    def next_id() -> str:
        nonlocal low
        now_ms = clock_ns() // 1_000_000
        if now_ms > last_ms:
            begin(now_ms)
        else:
            step = next(steps, None)
            if step is None:
                step = draw()
            low += step + 1
        digits = "%016x" % low  # noqa: UP031 - a third faster than the f-string
        return f"{prefix}{digits[:4]}-{digits[4:]}"

    # A forked child must not go on with the random bytes that its parent drew.
    os.register_at_fork(after_in_child=forget)
    return next_id


new_id = id_source()
"""The process's source of ids."""


def to_bytes(text: str) -> bytes:
    """The 16 bytes of an id in its 36-character form; ValueError for anything else."""
    raw = bytes.fromhex(text.replace("-", ""))
    if len(raw) != 16 or len(text) != 36:
        raise ValueError("an id is 32 hexadecimal digits in five groups")
    return raw


def to_text(raw: bytes) -> str:
    """The 36-character form of 16 bytes."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
