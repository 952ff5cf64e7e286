"""How often somebody may try: at most so many attempts in any window of time. Pure.

Times are milliseconds of a clock that never goes back, given by the caller (`sign_in.py`). An
attempt counts from when it begins, whatever becomes of it, so that those in flight are bounded too;
one that was no guess is given back. A refused attempt is none and counts for nothing.
"""

import hashlib
import ipaddress
from collections import OrderedDict

KEYS_MAX = 100_000
"""Bounds the memory of one limiter: 30 MB where each tried once. Beyond it, whoever tried longest
ago is forgotten; passwords are not checked fast enough to get there within a window."""


class Attempts:
    """At most `most` attempts of one key in any `window_ms`; `len` is how many keys it knows."""

    def __init__(self, most: int, window_ms: int, keys_max: int = KEYS_MAX) -> None:
        self._most = most
        self._window_ms = window_ms
        self._keys_max = keys_max
        # By the latest attempt, the oldest first.
        self._times: OrderedDict[bytes, list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def wait_ms(self, key: str, now_ms: int) -> int:
        """How long until `key` may try; 0 is now. Looks only."""
        inside = self._inside(_digest(key), now_ms)
        return 0 if len(inside) < self._most else inside[0] + self._window_ms - now_ms

    def take(self, key: str, now_ms: int) -> None:
        """Count an attempt; only where `wait_ms` is 0."""
        digest = _digest(key)
        inside = self._inside(digest, now_ms)
        assert len(inside) < self._most
        self._times[digest] = [*inside, now_ms]
        self._times.move_to_end(digest)
        while True:
            oldest = next(iter(self._times.values()))
            if len(self._times) <= self._keys_max and oldest[-1] + self._window_ms > now_ms:
                return
            self._times.popitem(last=False)

    def give_back(self, key: str, at_ms: int) -> None:
        """Let the attempt that was taken at `at_ms` count no longer."""
        digest = _digest(key)
        times = self._times.get(digest)
        if times is not None and at_ms in times:
            times.remove(at_ms)
            if not times:
                del self._times[digest]

    def _inside(self, digest: bytes, now_ms: int) -> list[int]:
        return [at for at in self._times.get(digest, ()) if at + self._window_ms > now_ms]

    def clear(self, key: str) -> None:
        """Forget all attempts of a key."""
        self._times.pop(_digest(key), None)


def address_form(address: str) -> str:
    """What clients are told apart by: an IPv4 address, or the /64 that an IPv6 address is in.

    Whoever has one address of a /64 usually has all of them (RFC 6177 section 2).
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def _digest(key: str) -> bytes:
    """A key of bounded size: what people type has none."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
