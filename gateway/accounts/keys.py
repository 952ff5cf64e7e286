"""What a gateway key is made of. Pure: no store, no clock.

A key is `<prefix><28 random base62 characters><6-character checksum>`. The checksum is the CRC-32
of everything before it, so a typo is told from an unknown key without a look-up, and a secret
scanner can confirm a match by itself. Only `hash_key` of a key is ever stored; `hint` is what
lists and logs may show of it. `accounts.py` and the request handler call this module.
"""

import hashlib
import secrets
import zlib
from typing import Literal

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""base62, digits first: the order of ASCII, so that a checksum sorts as its number."""

RANDOM_CHARS = 28
"""28 characters of base62 are 166.7 bits: more than the 160 that leave nothing to guess."""

CHECKSUM_CHARS = 6
"""62⁶ = 5.7·10¹⁰ is the first power of 62 that holds every CRC-32."""

HINT_CHARS = 4
HASH_BYTES = 32

_BASE62 = frozenset(ALPHABET)


def mint(prefix: str) -> str:
    """Make a new key; the caller shows it once and keeps only its hash."""
    body = prefix + random_text(RANDOM_CHARS)
    return body + _checksum(body)


def random_text(chars: int) -> str:
    """`chars` characters of base62 from the system's random source, each equally likely."""
    return "".join(secrets.choice(ALPHABET) for _ in range(chars))


def looks_like(prefix: str, text: str) -> bool:
    """Whether a credential claims to be a gateway key; any other is the caller's own (BYOK)."""
    return text.startswith(prefix)


def check(prefix: str, text: str) -> Literal["ok", "malformed"]:
    """Tell a typo from a key that could exist. "ok" says nothing about whether it does."""
    body, checksum = text[:-CHECKSUM_CHARS], text[-CHECKSUM_CHARS:]
    if (
        len(text) != len(prefix) + RANDOM_CHARS + CHECKSUM_CHARS
        or not text.startswith(prefix)
        or not _BASE62.issuperset(body[len(prefix) :])
        or _checksum(body) != checksum
    ):
        return "malformed"
    return "ok"


def hash_key(secret: bytes, text: bytes) -> bytes:
    """The 32 bytes a key is stored and looked up by: BLAKE2b keyed with the server secret.

    A slow password hash would buy nothing against 166 random bits and would let anyone exhaust
    the CPU with wrong keys. `secret` has 1 to 64 bytes (RFC 7693 §2.1), else ValueError.
    """
    return hashlib.blake2b(text, key=secret, digest_size=HASH_BYTES).digest()


def hint(prefix: str, text: str) -> str:
    """The part of a key that may be shown: its prefix and the four characters after it."""
    return text[: len(prefix) + HINT_CHARS]


def _checksum(body: str) -> str:
    rest = zlib.crc32(body.encode("utf-8", "surrogatepass"))
    digits = []
    for _ in range(CHECKSUM_CHARS):
        rest, digit = divmod(rest, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
