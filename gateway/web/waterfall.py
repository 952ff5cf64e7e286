"""A receipt's times as bars of a drawing: attempts that failed, connecting, waiting, the answer."""

from typing import Literal

import msgspec

from gateway.ledger.entry import Entry

WIDTH = 600
"""Of the drawing, in its own units; it grows and shrinks with the page."""

BAR_MIN = 2.0
"""What takes no time can be seen nevertheless."""

Kind = Literal["failed", "connect", "wait", "answer"]


class Bar(msgspec.Struct, frozen=True):
    """One bar: from `start_ms` for `ms`; `x` and `width` are its place in the drawing."""

    kind: Kind
    name: str
    start_ms: float
    ms: float
    x: float
    width: float


def bars(entry: Entry) -> list[Bar]:
    """The bars, in the order in which they began; none where no upstream was asked.

    Times of a receipt count from the request's arrival. What went before the last attempt is as
    long as the attempts that failed; connecting begins the last one.
    """
    if not entry.attempts:
        return []
    total = max(entry.total_ms, 0.001)
    found: list[tuple[Kind, str, float, float]] = []
    at = 0.0
    for attempt in entry.attempts:
        if attempt.outcome == "succeeded":
            continue
        told = attempt.outcome if attempt.status is None else f"{attempt.outcome} {attempt.status}"
        found.append(("failed", f"{attempt.provider}: {told}", at, attempt.ms))
        at += attempt.ms
    if entry.attempts[-1].outcome == "succeeded" or entry.first_byte_ms is not None:
        if entry.connect_ms:
            found.append(("connect", "Connect", at, entry.connect_ms))
            at += entry.connect_ms
        first = total if entry.first_byte_ms is None else entry.first_byte_ms
        if first > at:
            found.append(("wait", "Wait for the first byte", at, first - at))
        if entry.first_byte_ms is not None:
            name = "Stream" if entry.opening.stream else "Answer"
            found.append(("answer", name, first, max(0.0, total - first)))
    return [_bar(kind, name, start, ms, total) for kind, name, start, ms in found]


def _bar(kind: Kind, name: str, start: float, ms: float, total: float) -> Bar:
    begin = min(start, total)
    x = min(round(begin / total * WIDTH, 1), WIDTH - BAR_MIN)
    width = round(min(max((min(start + ms, total) - begin) / total * WIDTH, BAR_MIN), WIDTH - x), 1)
    return Bar(kind, name, start, ms, x, width)
