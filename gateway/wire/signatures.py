"""Signatures of one format carried through another's opaque field, and back.

A caller sends an answer's reasoning back with its next turn, and some providers refuse a turn
without the signature that they issued. A format with an opaque field of its own (`signature`,
`encrypted_content`) can carry a foreign one there: `sealed` writes `gw.<kind>.<format>.<value>`,
`opened` reads it again, so that it reaches its issuer whole and nobody else. Nothing is hidden or
proven: a caller could have sent the value to its issuer just as well. Used by the dialects.
"""

from typing import Literal, get_args

from gateway.wire.conversation import Signature

Kind = Literal["thinking", "redacted", "next", "previous"]
"""What was signed: these thoughts; thoughts of which only the signature is left; the call that
comes next, or the one just before, in formats whose calls have no field for it."""

_PREFIX = "gw"
_KINDS = frozenset(get_args(Kind))


def sealed(signature: Signature, kind: Kind = "thinking") -> str:
    """The signature as one string for another format's opaque field."""
    return f"{_PREFIX}.{kind}.{signature.format}.{signature.value}"


def opened(value: str) -> tuple[Signature, Kind] | None:
    """What `sealed` made, undone; None for any other string: it is the format's own."""
    parts = value.split(".", 3)
    if len(parts) != 4 or parts[0] != _PREFIX or parts[1] not in _KINDS:
        return None
    return Signature(parts[2], parts[3]), parts[1]  # type: ignore[return-value]
