"""Passwords: the rules they follow, their hashes, and the threads that make and check those.

Argon2id with argon2-cffi's defaults, the low-memory parameters of RFC 9106 section 4: 64 MiB, three
passes, four lanes. One check takes about 100 ms of two cores, so at most `THREADS` run
at a time and `WAITING_MAX` wait; above that it is refused. The threads give way to everybody else:
a check that is late is nothing, a stream that is late is what people see.

Used by `sign_in.py`. No password is in a message, a repr or a log line.
"""

import asyncio
import base64
import contextlib
import secrets
import threading
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.accounts import changes
from gateway.errors import Conflict
from gateway.ledger import background

CHARS_MIN = 10
CHARS_MAX = 256

TYPED_CHARS_MAX = CHARS_MAX * changes.NFC_SHRINKS_MAX
"""What is longer cannot become a password by NFC, and is not put into it: that takes time that
grows with the square of a run of combining marks."""

THREADS = 2
WAITING_MAX = 16
"""At 100 ms a check (two cores, shared) they are all done within two seconds."""

_SALT_BYTES = 16

T = TypeVar("T")


class PasswordsBusy(Exception):
    """Too many passwords are being checked at once; try again shortly."""


class Fit(NamedTuple):
    """Which of the hashes a password fits, and the hash to keep of it from now on."""

    place: int
    keep: str


class Passwords:
    """Makes and checks hashes. Event-loop thread only; its own threads do the work."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        """Other parameters than the defaults are for tests."""
        self._hasher = hasher or PasswordHasher()
        self._nobodys = _hash_of_nothing(self._hasher)
        self._room = threading.BoundedSemaphore(THREADS + WAITING_MAX)
        self._threads = background.threads(THREADS, "password")

    async def hash(self, password: str) -> str:
        """The hash to keep. Raises `PasswordsBusy`."""
        return await self._run(lambda: self._hasher.hash(_bytes(password)))

    async def find(self, hashes: Sequence[str], password: str) -> Fit | None:
        """The first hash that a password fits. Raises `PasswordsBusy`.

        Without any hash it takes as long as with one, so that time does not tell who has one.
        `Fit.keep` is another hash where the parameters have changed since.
        """
        return await self._run(lambda: self._find(hashes, password))

    def _find(self, hashes: Sequence[str], password: str) -> Fit | None:
        typed = _bytes(password)
        for place, known in enumerate(hashes or (self._nobodys,)):
            # A hash that cannot be read fits nothing: a new link mends that.
            with contextlib.suppress(VerificationError, InvalidHashError, UnicodeEncodeError):
                self._hasher.verify(known, typed)
                old = self._hasher.check_needs_rehash(known)
                return Fit(place, self._hasher.hash(typed) if old else known)
        return None

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._room.acquire(blocking=False):
            raise PasswordsBusy
        try:
            future = self._threads.submit(work)
        except BaseException:
            self._room.release()
            raise
        # Also where the caller is gone before its turn: then the work is cancelled, and over.
        future.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(future)


def check_rules(password: str, *known: str | None) -> None:
    """Conflict unless it may be a password; `known` is what everybody knows of its owner."""
    form = _form(password)
    if not CHARS_MIN <= len(form) <= CHARS_MAX:
        raise Conflict(f"password: expected {CHARS_MIN} to {CHARS_MAX} characters")
    if any("\ud800" <= char <= "\udfff" for char in form):
        raise Conflict("password: is not text")
    if any(name and _folded(form) == _folded(name) for name in known):
        raise Conflict("password: must not be the e-mail address or the name")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().casefold()


def _form(password: str) -> str:
    """NFC, or the same word typed on another system would be another password (RFC 8265)."""
    return password if len(password) > TYPED_CHARS_MAX else unicodedata.normalize("NFC", password)


def _bytes(password: str) -> bytes:
    return _form(password).encode("utf-8", "surrogatepass")


def _hash_of_nothing(hasher: PasswordHasher) -> str:
    """A hash that costs what a real one does and that no password is known to fit.

    Put together, not calculated: the start of the gateway does not wait for it.
    """

    def text(length: int) -> str:
        return base64.b64encode(secrets.token_bytes(length)).decode().rstrip("=")

    return (
        f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
        f"${text(_SALT_BYTES)}${text(hasher.hash_len)}"
    )
