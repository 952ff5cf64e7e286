"""What a redemption code is made of. Pure: no store, no clock.

A code is a key of another prefix (`keys.py`): 166 random bits and a checksum, so that a typo is
told from a code that was never issued. Only its hash is stored; it is shown once, when made.
`accounts.py` calls this module.
"""

from gateway.accounts import keys
from gateway.errors import Conflict
from gateway.ledger.records import Code

PREFIX = "code-"

_ID_CHARS = 16


def mint(secret: bytes, nano_usd: int, created_ms: int, expires_ms: int | None) -> tuple[Code, str]:
    """A new code and its text, which the caller shows once."""
    text = keys.mint(PREFIX)
    code = Code(
        id="code_" + keys.random_text(_ID_CHARS),
        hint=keys.hint(PREFIX, text),
        nano_usd=nano_usd,
        created_ms=created_ms,
        expires_ms=expires_ms,
        hash=digest(secret, text),
    )
    return code, text


def digest(secret: bytes, text: str) -> bytes:
    """What a code is looked up by; Conflict where the text cannot be a code. Quotes none of it."""
    text = text.strip()
    if keys.check(PREFIX, text) == "malformed":
        raise Conflict("code: its checksum does not match; check it for a typo")
    return keys.hash_key(secret, text.encode())
