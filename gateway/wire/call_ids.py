"""Ids of tool calls, spelled so that every format takes them; stateless and reversible.

Anthropic allows `[A-Za-z0-9_-]{1,}` (400 for others), OpenAI chat up to 40 characters in some
servers, others anything. An id that a writer cannot send as it is becomes `call_x` and the base32
of its bytes, without padding, lower case; `restored` gives the original back when the caller sends
it in a tool result. Gemini answers often have no ids: their reader makes them (`made`).
"""

import base64
import binascii
import hashlib
import re

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_PREFIX = "call_x"


def safe(call_id: str) -> str:
    """The id in `[A-Za-z0-9_-]`, itself where it is so already."""
    if _SAFE.match(call_id) and not call_id.startswith(_PREFIX):
        return call_id
    encoded = base64.b32encode(call_id.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    return _PREFIX + encoded.lower()


def restored(call_id: str) -> str:
    """What `safe` made of an id, undone; any other id as it is."""
    if not call_id.startswith(_PREFIX):
        return call_id
    encoded = call_id[len(_PREFIX) :].upper()
    try:
        raw = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
        original = raw.decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        return call_id
    return original if safe(original) == call_id else call_id


def made(seed: str, number: int) -> str:
    """An id for the call `number` of an answer; `seed` tells answers apart (the answer's id)."""
    digest = hashlib.blake2b(f"{seed}\n{number}".encode("utf-8", "surrogatepass"), digest_size=12)
    return f"call_{digest.hexdigest()}"
