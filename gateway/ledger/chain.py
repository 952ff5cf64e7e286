"""The hash chain over receipts: pure functions over bytes.

A record's hash covers every column of its row and the hash of the record before it; the end of the
chain is sealed with a key made from the server's secret, so that neither a changed column nor a
cut-off end goes unseen by whoever holds the secret. What it cannot show: a whole store put back as
it was at an earlier moment, seal included. Called by `store.py`.
"""

import hashlib
import hmac

import msgspec

GENESIS = bytes(32)
"""The hash before the first record."""

_encode = msgspec.msgpack.Encoder().encode

Row = tuple[int, bytes, str, int, str, str, bytes]
"""seq, id, owner, created_ms, status, model, body: the columns of a receipt less its hash."""


def digest(previous: bytes, row: Row) -> bytes:
    """The 32-byte hash of a record: SHA-256 over `previous`, then the row as a msgpack array.

    msgpack writes each length before its bytes, so no two rows share one encoding.
    """
    return hashlib.sha256(previous + _encode(row)).digest()


def seal_key(secret: bytes) -> bytes:
    """The key that seals this store's chain; one purpose, one key."""
    return hmac.digest(secret, b"gateway ledger chain", "sha256")


def seal(key: bytes, sequence: int, head: bytes) -> bytes:
    """The 32-byte seal over the number and the hash of the last record."""
    return hashlib.blake2b(sequence.to_bytes(8, "big") + head, key=key, digest_size=32).digest()


def sealed(key: bytes, sequence: int, head: bytes, mac: bytes) -> bool:
    """Whether `mac` is the seal of this end of the chain."""
    return hmac.compare_digest(seal(key, sequence, head), mac)
