"""Switches in the model name that make the demo misbehave, or answer to measure.

A model name may carry switches: `demo+status=429+retry_after=2`, `demo+tokens=500+pace=0`,
`demo+cut=300`. Each is `name=value`, or the bare name of a flag, joined by `+`. They work on every
endpoint that takes a model and in every format. `SWITCHES` is the whole list, in the order of a
request's life; documentation and tests read it, and the parser accepts nothing else.

What they do, in short:

    delay, first, pace      how long to wait before the head, before the first event, between
    tokens                  how long the answer is
    status, retry_after     answer with an error status, in the format's own envelope
    hang, reset, garbage    no answer, a connection reset before any byte, bytes that are not HTTP
    badjson, nousage        a broken body, an answer that reports no usage
    error                   a 200 stream that turns into the format's own error event
    stall, cut, close       stop, reset or end short after so many bytes of the body
    framing                 how the body's end is told: chunked, length or close

`stall`, `cut` and `close` count bytes of the body as the client decodes it, chunk framing not
counted; a body shorter than that ends as if the number were its length. Read by the demo's server;
the documentation pages may import `SWITCHES`.
"""

from typing import Literal

import msgspec

Framing = Literal["chunked", "length", "close"]
Kind = Literal["flag", "ms", "bytes", "count", "events", "status", "seconds", "framing"]

DEFAULT_FIRST_MS = 20
DEFAULT_PACE_MS = 5

# The largest value each kind of number takes: a typo must not pin memory or a connection for days.
_MAXIMA: dict[Kind, int] = {
    "ms": 600_000,
    "bytes": 1 << 31,
    "count": 100_000,
    "events": 100_000,
    "seconds": 86_400,
}

_FRAMINGS: dict[str, Framing] = {"chunked": "chunked", "length": "length", "close": "close"}


class Switch(msgspec.Struct, frozen=True):
    """One switch as documented: its name, what its value is, and what it does."""

    name: str
    kind: Kind
    value: str
    meaning: str


SWITCHES: tuple[Switch, ...] = (
    Switch("delay", "ms", "milliseconds", "wait before anything of the answer is sent (default 0)"),
    Switch("hang", "flag", "", "accept the request and never answer; the connection stays open"),
    Switch("reset", "flag", "", "reset the TCP connection before anything is sent"),
    Switch("garbage", "flag", "", "send bytes that are not HTTP, then close"),
    Switch(
        "status",
        "status",
        "300-599",
        "answer with this status and the format's error envelope (3xx: with a location header)",
    ),
    Switch(
        "retry_after",
        "seconds",
        "seconds",
        "with status: how long to wait, in a retry-after header (Gemini: in RetryInfo); 429 says 1 "
        "where it is not given",
    ),
    Switch("badjson", "flag", "", "200 and application/json, with a body that is not JSON"),
    Switch("nousage", "flag", "", "leave every usage report out of the answer"),
    Switch("tokens", "count", "number", "length of the answer's text, in tokens"),
    Switch(
        "first",
        "ms",
        "milliseconds",
        f"wait before the first event, or before an undivided body (default {DEFAULT_FIRST_MS})",
    ),
    Switch(
        "pace",
        "ms",
        "milliseconds",
        f"wait between the events of a stream (default {DEFAULT_PACE_MS}; 0: none)",
    ),
    Switch(
        "error",
        "events",
        "events",
        "200, then after this many events (0 if bare) the format's own error event and the end; an "
        "undivided body is the error envelope",
    ),
    Switch("stall", "bytes", "bytes", "after this much of the body send nothing more, stay open"),
    Switch("cut", "bytes", "bytes", "after this much of the body reset the TCP connection"),
    Switch(
        "close",
        "bytes",
        "bytes",
        "after this much of the body end the HTTP message properly, the format's terminal missing",
    ),
    Switch(
        "framing",
        "framing",
        "chunked, length or close",
        "how the end of the body is told (default: length for a document, chunked for a stream)",
    ),
)

_BY_NAME = {switch.name: switch for switch in SWITCHES}


class Switches(msgspec.Struct, frozen=True):
    """The switches of one request; the defaults are a provider that behaves."""

    delay: int = 0
    hang: bool = False
    reset: bool = False
    garbage: bool = False
    status: int | None = None
    retry_after: int | None = None
    badjson: bool = False
    nousage: bool = False
    tokens: int | None = None
    first: int = DEFAULT_FIRST_MS
    pace: int = DEFAULT_PACE_MS
    error: int | None = None
    stall: int | None = None
    cut: int | None = None
    close: int | None = None
    framing: Framing | None = None


class BadSwitch(Exception):
    """A model name carries a switch that does not exist or a value that it cannot take."""


def parse(model: str) -> tuple[str, Switches]:
    """Split a model name into its base name and its switches; raises `BadSwitch`."""
    base, *parts = model.split("+")
    values: dict[str, int | bool | str] = {}
    for part in parts:
        name, has_value, value = part.partition("=")
        switch = _BY_NAME.get(name)
        if switch is None:
            known = ", ".join(_BY_NAME)
            raise BadSwitch(f"Unknown switch '{name}' in the model name. Switches are: {known}.")
        if name in values:
            raise BadSwitch(f"Switch '{name}' is given twice in the model name.")
        values[name] = _value(switch, value if has_value else None)
    if len(values.keys() & {"stall", "cut", "close"}) > 1:
        raise BadSwitch("Only one of the switches 'stall', 'cut' and 'close' can be given.")
    if "retry_after" in values and "status" not in values:
        raise BadSwitch("Switch 'retry_after' needs the switch 'status'.")
    return base, msgspec.convert(values, Switches)


def _value(switch: Switch, text: str | None) -> int | bool | str:
    if switch.kind == "flag":
        if text not in (None, "1", "true"):
            raise BadSwitch(f"Switch '{switch.name}' takes no value.")
        return True
    if text is None and switch.kind == "events":
        return 0
    if switch.kind == "framing":
        if text not in _FRAMINGS:
            raise BadSwitch(f"Switch 'framing' must be {switch.value}, not '{text or ''}'.")
        return text
    # isdecimal alone lets other scripts' digits through; isascii keeps to 0-9.
    if text is None or not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise BadSwitch(f"Switch '{switch.name}' needs a number ({switch.value}).")
    number = int(text)
    low, high = (300, 599) if switch.kind == "status" else (0, _MAXIMA[switch.kind])
    if not low <= number <= high:
        raise BadSwitch(f"Switch '{switch.name}' must be from {low} to {high}, not {number}.")
    return number
