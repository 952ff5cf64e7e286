"""The demo's signatures of thoughts: opaque to a caller, known again when they come back.

Providers take a signature back only if they issued it, and with the thought that it is of. A seal
holds a digest of the thought and a keyed digest of that, so the demo tells its own from a forged or
a damaged one without remembering anything. Not a secret: the key is in this file. Pure; used by the
formats that sign thoughts.
"""

import base64
import binascii
import hashlib

_OPENING = b"demo"
_KEY = b"demo thinking"
_DIGEST_BYTES = 24


def seal(text: str) -> str:
    """The signature of a thought, as base64."""
    digest = _digest(text)
    return base64.b64encode(_OPENING + digest + _proof(digest)).decode()


def is_sealed(value: str, text: str | None = None) -> bool:
    """Whether the demo made this signature; with `text`, of this very thought."""
    try:
        # Google's JSON takes both alphabets and needs no padding.
        plain = value.replace("-", "+").replace("_", "/")
        raw = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    opening, digest = raw[: len(_OPENING)], raw[len(_OPENING) : len(_OPENING) + _DIGEST_BYTES]
    proof = raw[len(_OPENING) + _DIGEST_BYTES :]
    if opening != _OPENING or proof != _proof(digest):
        return False
    return text is None or digest == _digest(text)


def _digest(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()


def _proof(digest: bytes) -> bytes:
    return hashlib.blake2b(digest, digest_size=_DIGEST_BYTES, key=_KEY).digest()
