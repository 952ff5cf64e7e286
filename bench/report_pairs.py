"""The table of what translation costs; `report.py` prints it below its own. Pure."""

import statistics
from collections.abc import Callable
from typing import Final

import msgspec

from bench.formats import Call
from bench.load_requests import ClosedResult
from bench.load_streams import StreamsResult
from bench.measure import Window


class PairBlock(msgspec.Struct, frozen=True):
    """One pair of formats in one round."""

    call: Call
    round: int
    small: ClosedResult
    streams: StreamsResult


class Cell(msgspec.Struct, frozen=True):
    """A figure over all rounds."""

    median: float
    low: float
    high: float


def _cpu_us(window: Window, count: int) -> float:
    assert window.proxy_cpu_ns is not None
    return window.proxy_cpu_ns / count / 1000


def small_us(block: PairBlock) -> float:
    """CPU of the gateway per request, in µs."""
    return _cpu_us(block.small.window, block.small.requests)


def chunk_us(block: PairBlock) -> float:
    """CPU of the gateway per streamed chunk, in µs."""
    return _cpu_us(block.streams.window, block.streams.chunks)


_READ: Final[dict[str, Callable[[PairBlock], float]]] = {"1 KB": small_us, "chunk": chunk_us}
GOALS: Final[dict[str, tuple[str, float]]] = {
    "1 KB": ("CPU per translated JSON request, × passthrough", 1.5),
    "chunk": ("CPU per translated chunk, × passthrough", 2.0),
}


def cells(blocks: list[PairBlock], call: Call) -> dict[str, Cell]:
    """A pair's figures: µs and, if translated, the ratio to the passthrough of both its formats.

    Ratios are taken within a round. `… × caller` compares with the same client on a provider of
    its own format, `… × upstream` with the provider's own client.
    """
    at = {(block.call, block.round): block for block in blocks}
    rounds = [block for block in blocks if block.call == call]
    found: dict[str, Cell] = {}
    for kind, read in _READ.items():
        found[kind] = _cell([read(block) for block in rounds])
        if not call.translated:
            continue
        for name, speaks in (("caller", call.speaks), ("upstream", call.upstream)):
            twin = Call(speaks, speaks)
            ratios = [read(block) / read(at[twin, block.round]) for block in rounds]
            found[f"{kind} × {name}"] = _cell(ratios)
    return found


def _cell(values: list[float]) -> Cell:
    return Cell(statistics.median(values), min(values), max(values))


_COLUMNS: Final[tuple[tuple[str, str], ...]] = tuple(
    (heading, unit) for heading in _READ for unit in ("µs CPU", "× caller", "× upstream")
)


def table(blocks: list[PairBlock]) -> str:
    """A line per pair and under it the spread, least to most; then the goals."""
    calls = list(dict.fromkeys(block.call for block in blocks))
    grid = [["", *(head for head, _unit in _COLUMNS)], ["", *(unit for _head, unit in _COLUMNS)]]
    for call in calls:
        found = cells(blocks, call)
        medians = [f"{call.speaks} → {call.upstream}"]
        spreads = [""]
        for head, unit in _COLUMNS:
            cell = found.get(head if unit == "µs CPU" else f"{head} {unit}")
            digits = 1 if unit == "µs CPU" else 2
            medians.append("–" if cell is None else f"{cell.median:.{digits}f}")
            spreads.append("" if cell is None else f"{cell.low:.{digits}f}…{cell.high:.{digits}f}")
        grid += [medians, spreads]
    widths = [max(len(row[column]) for row in grid) for column in range(len(grid[0]))]
    lines = [
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
        for row in grid
    ]
    lines.insert(2, "-" * len(lines[0]))
    rounds = len({block.round for block in blocks})
    title = f"client → upstream, one gateway, {rounds} rounds; ratios within a round"
    return "\n".join([title, "", *lines, "", *goals(blocks)])


def goals(blocks: list[PairBlock]) -> list[str]:
    """Each goal, by the dearest of the translated pairs and the cheaper of its two passthroughs."""
    lines = []
    for kind, (words, limit) in GOALS.items():
        medians = {
            call: max(found[f"{kind} × {name}"].median for name in ("caller", "upstream"))
            for call in dict.fromkeys(block.call for block in blocks)
            if call.translated and (found := cells(blocks, call))
        }
        if not medians:
            continue
        worst = max(medians, key=lambda call: medians[call])
        verdict = "met   " if medians[worst] <= limit else "MISSED"
        lines.append(
            f"{verdict} {words}: {medians[worst]:.3g} "
            f"({worst.speaks} → {worst.upstream}; goal ≤ {limit:g})"
        )
    return lines
