r"""Server-sent events as bytes: where an event ends, and what its `data` is.

Sans-io and stateless; the taps (`tap.py`) hold the state. An event ends with a blank line; lines
end with LF, CRLF or CR, mixed at will (WHATWG HTML, section 9.2.5, as of 2026-08). The rule here
does not depend on how the bytes were cut: `\n\n`, `\n\r\n` and `\r\r` end an event at once, and
`\n\r` does once the byte after it is known not to be `\n`. A line end that is left over then opens
the next event, where leading line ends mean nothing.
"""

import re

_END = re.compile(rb"\n\n|\n\r\n|\r\r|\n\r(?=[^\n])")
_LINE = re.compile(rb"\r\n|\n|\r")
_LINE_ENDS = b"\r\n"
_BOM = b"\xef\xbb\xbf"

END_LOOKBACK = 2
"""Bytes before newly arrived ones at which the end of an event may already have begun."""


def event_end(buffer: bytes | bytearray, start: int = 0) -> int:
    """Return the offset just past the first event that ends at or after `start`, or -1."""
    match = _END.search(buffer, start)
    return match.end() if match else -1


def whole_end(buffer: bytes) -> int:
    """Return the offset just past the last whole event of `buffer`, or 0.

    Sees the two spellings that servers use (LF LF and CRLF CRLF); others are found by
    `event_end`, one event at a time.
    """
    lf = buffer.rfind(b"\n\n")
    crlf = buffer.rfind(b"\r\n\r\n")
    return max(lf + 2 if lf >= 0 else 0, crlf + 4 if crlf >= 0 else 0)


def lead(event: bytes) -> int:
    """Return how many line ends open `event`: left over from the blank line before it."""
    return len(event) - len(event.lstrip(_LINE_ENDS))


def data_of(event: bytes) -> bytes:
    r"""Return the event's `data`, its lines joined by LF; b"" where it has none (a comment)."""
    if event.startswith(b"data: {") and event.find(b"\n") >= len(event) - 2:
        return event[6:].rstrip(_LINE_ENDS)
    return b"\n".join(_fields(event, b"data"))


def name_of(event: bytes) -> bytes:
    """Return the event's `event` field (the last one), b"" where it has none."""
    names = _fields(event, b"event")
    return names[-1] if names else b""


def _fields(event: bytes, name: bytes) -> list[bytes]:
    values = []
    for line in _LINE.split(event.removeprefix(_BOM)):
        field, colon, value = line.partition(b":")
        if field == name:
            values.append(value.removeprefix(b" ") if colon else b"")
    return values
