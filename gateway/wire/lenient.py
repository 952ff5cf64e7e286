r"""Reading provider JSON for metering: what is there is taken, what is odd never raises.

Providers send counts as floats, details as null, and text with half a surrogate pair. A meter must
neither fail on that nor lose the count beside it. Only this package uses it; requests are read
strictly instead (`envelope.py`).
"""

import re
from typing import Annotated, TypeVar

import msgspec

from gateway.wire.neutral import StreamFault

COUNT_MAX = 2**53
"""Largest believable count: beyond it doubles, and so other readers, lose exactness."""

Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]

FAULT_MESSAGE_CHARS_MAX = 2000
_PRUNE_DEPTH_MAX = 8
ABSENT = msgspec.Raw()
"""The default of every Raw field: tells "not sent" from null."""

T = TypeVar("T")

_ANY = msgspec.json.Decoder()
_TEXT = msgspec.json.Decoder(str)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

# Strings of an answer that name things rather than being generated.
_NOT_TEXT = frozenset(
    (
        "id", "type", "role", "object", "model", "finish_reason", "stop_reason", "finishReason",
        "call_id", "status", "signature", "thoughtSignature", "encrypted_content", "data",
        "mimeType", "phase", "obfuscation", "format",
    )
)  # fmt: skip


def decode(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T | None:
    r"""Decode `data`, or return None: not JSON, of another shape, or nested too deep.

    Half a surrogate pair in any string (models do emit `"\ud83d"` alone) makes msgspec refuse
    the whole document; such escapes are blanked and the rest is read.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    blanked = _SURROGATE_ESCAPE.sub(rb"\\ufffd", bytes(data))
    if blanked == data:
        return None
    try:
        return decoder.decode(blanked)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def anything(data: bytes | msgspec.Raw) -> object:
    """Decode into plain Python values; None where that fails or nothing was sent."""
    return decode(_ANY, data) if data else None


def text(raw: msgspec.Raw) -> str | None:
    """Return the string that `raw` holds; None for anything else and for an empty one."""
    return (decode(_TEXT, raw) or None) if raw else None


def is_object(raw: msgspec.Raw) -> bool:
    """Tell whether a Raw value is a JSON object."""
    return bytes(memoryview(raw)[:1]) == b"{"


def counts(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw) -> T | None:
    """Decode an object of counts, leaving out the fields whose values cannot be counts.

    None where `raw` is not an object at all (null, absent, malformed).
    """
    if not raw:
        return None
    found = decode(decoder, raw)
    if found is not None:
        return found
    value = anything(raw)
    if not isinstance(value, dict):
        return None
    kept = {}
    for key, part in value.items():
        pruned = _prune(part)
        try:
            msgspec.convert({key: pruned}, decoder.type)
        except msgspec.ValidationError:
            continue
        kept[key] = pruned
    return msgspec.convert(kept, decoder.type)


def _prune(value: object, depth: int = 0) -> object:
    if depth > _PRUNE_DEPTH_MAX:
        return None
    if isinstance(value, dict):
        pruned = {key: _prune(part, depth + 1) for key, part in value.items()}
        return {key: part for key, part in pruned.items() if part is not None}
    if isinstance(value, list):
        return [_prune(part, depth + 1) for part in value]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) or (type(value) is int and 0 <= value <= COUNT_MAX):
        return value
    return None


def fault(raw: bytes | msgspec.Raw) -> StreamFault | None:
    """Read an error value: an object of any provider's shape, or a bare string.

    None for null, false, an empty string or object, and what cannot be read.
    """
    value = anything(raw)
    if isinstance(value, str) and value:
        return StreamFault(None, value[:FAULT_MESSAGE_CHARS_MAX])
    if not isinstance(value, dict) or not value:
        return None
    inner = value.get("error")
    if isinstance(inner, dict):
        value = inner
    kind = next((str(value[k]) for k in ("type", "status", "code") if value.get(k)), None)
    message = next((value[k] for k in ("message", "detail") if isinstance(value.get(k), str)), "")
    return StreamFault(kind, message[:FAULT_MESSAGE_CHARS_MAX])


def text_bytes(value: object) -> int:
    """Add up the UTF-8 bytes of the generated strings within a decoded answer."""
    total = 0
    stack = [value]  # not recursion: a provider chooses the depth
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            total += len(part.encode("utf-8", "replace"))
        elif isinstance(part, dict):
            stack.extend(inner for key, inner in part.items() if key not in _NOT_TEXT)
        elif isinstance(part, list):
            stack.extend(part)
    return total
