"""From raw results to one table, goals met or missed, and a plot; `run.py` calls it.

Pure, but for writing the plot.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.load_requests import ClosedResult, OpenResult
from bench.load_streams import StreamsResult
from bench.measure import Machine, Spread, Window
from bench.report_pairs import PairBlock
from bench.report_pairs import table as pairs_table
from bench.targets import TargetName

FOREIGN_CPU_MAX = 0.05
"""More than this of a core used by others in any window is told below the table."""
PACE_MIN = 0.97


class Block(msgspec.Struct, frozen=True):
    """One target in one round.

    `small` and `large` are 1 KB and 100 KB bodies, closed loop; `open_direct` is the upstream
    alone at the rate of `open`, measured right before it.
    """

    target: TargetName
    round: int
    streams: StreamsResult
    small: ClosedResult
    large: ClosedResult
    open: OpenResult | None = None
    open_direct: OpenResult | None = None


class Disk(msgspec.Struct, frozen=True):
    """What the gateway's store lies on."""

    filesystem: str
    fdatasync: Spread


class Result(msgspec.Struct, frozen=True):
    """A whole run, as written to `results/`."""

    taken_at: str
    commit: str
    machine: Machine
    disk: Disk
    plan: dict[str, Any]
    blocks: list[Block]
    pairs: list[PairBlock] = []
    command: str = "python -m bench.run"


class Round(msgspec.Struct, frozen=True):
    """A target's block beside those that it is compared with, of the same round."""

    own: Block
    direct: Block
    naive: Block | None


class Figure(msgspec.Struct, frozen=True):
    """One column: what is read from a round; None where it does not apply."""

    heading: tuple[str, str]
    read: Callable[[Round], float | None]
    digits: int


def _cpu_us(window: Window, count: int) -> float | None:
    return None if window.proxy_cpu_ns is None else window.proxy_cpu_ns / count / 1000


def _small_us(block: Block) -> float | None:
    return _cpu_us(block.small.window, block.small.requests)


def _large_us(block: Block) -> float | None:
    return _cpu_us(block.large.window, block.large.requests)


def _chunk_us(block: Block) -> float | None:
    return _cpu_us(block.streams.window, block.streams.chunks)


def _ratio(read: Callable[[Block], float | None]) -> Callable[[Round], float | None]:
    def ratio(round_: Round) -> float | None:
        own = read(round_.own)
        naive = None if round_.naive is None else read(round_.naive)
        return None if own is None or not naive else own / naive

    return ratio


def _added(read: Callable[[OpenResult], float]) -> Callable[[Round], float | None]:
    def added(round_: Round) -> float | None:
        through, alone = round_.own.open, round_.own.open_direct
        return None if through is None or alone is None else read(through) - read(alone)

    return added


def _added_to_stream(read: Callable[[StreamsResult], float]) -> Callable[[Round], float | None]:
    def added(round_: Round) -> float | None:
        if round_.own.target == "direct":
            return None
        return read(round_.own.streams) - read(round_.direct.streams)

    return added


def _kib_per_stream(round_: Round) -> float | None:
    per_stream = round_.own.streams.rss_per_stream_bytes
    return None if per_stream is None else per_stream / 1024


FIGURES: Final[dict[str, Figure]] = {
    "small_per_second": Figure(
        ("1 KB", "req/s"), lambda r: r.own.small.requests / r.own.small.window.seconds, 0
    ),
    "small_us": Figure(("1 KB", "µs CPU"), lambda r: _small_us(r.own), 1),
    "small_ratio": Figure(("1 KB", "× naive"), _ratio(_small_us), 2),
    "large_us": Figure(("100 KB", "µs CPU"), lambda r: _large_us(r.own), 1),
    "large_ratio": Figure(("100 KB", "× naive"), _ratio(_large_us), 2),
    "first_byte_p50": Figure(("1st byte", "+p50 ms"), _added(lambda o: o.first_byte.p50), 3),
    "first_byte_p99": Figure(("1st byte", "+p99 ms"), _added(lambda o: o.first_byte.p99), 3),
    "chunk_us": Figure(("chunk", "µs CPU"), lambda r: _chunk_us(r.own), 1),
    "chunk_ratio": Figure(("chunk", "× naive"), _ratio(_chunk_us), 2),
    "chunk_late_p50": Figure(("chunk", "+p50 ms"), _added_to_stream(lambda s: s.late.p50), 3),
    "chunk_late_p99": Figure(("chunk", "+p99 ms"), _added_to_stream(lambda s: s.late.p99), 3),
    "opening_p50": Figure(
        ("stream 1st", "+p50 ms"), _added_to_stream(lambda s: s.first_byte.p50), 3
    ),
    "stream_kib": Figure(("stream", "KiB RSS"), _kib_per_stream, 1),
}

GOALS: Final[tuple[tuple[str, str, float], ...]] = (
    ("small_ratio", "CPU per JSON request of 1 KB, × naive", 0.50),
    ("large_ratio", "CPU per JSON request of 100 KB, × naive", 1.00),
    ("chunk_ratio", "CPU per streamed chunk, × naive", 0.65),
    ("first_byte_p50", "added first byte at a third of saturation, p50, ms", 0.3),
    ("first_byte_p99", "added first byte at a third of saturation, p99, ms", 2.0),
    ("stream_kib", "KiB per open stream", 30.0),
)


class Cell(msgspec.Struct, frozen=True):
    """A figure over all rounds."""

    median: float
    low: float
    high: float


def rounds_of(blocks: list[Block], target: TargetName) -> list[Round]:
    """Each block of a target with its round's direct and naive ones."""
    by_place = {(block.target, block.round): block for block in blocks}
    return [
        Round(block, by_place["direct", block.round], by_place.get(("naive", block.round)))
        for block in blocks
        if block.target == target
    ]


def cells(blocks: list[Block], target: TargetName) -> dict[str, Cell]:
    """All figures of a target that apply to it."""
    found: dict[str, Cell] = {}
    for name, figure in FIGURES.items():
        read = [figure.read(round_) for round_ in rounds_of(blocks, target)]
        values = [value for value in read if value is not None]
        if values:
            found[name] = Cell(statistics.median(values), min(values), max(values))
    return found


def _targets(blocks: list[Block]) -> list[TargetName]:
    order: tuple[TargetName, ...] = ("direct", "naive", "gateway", "nginx")
    present = {block.target for block in blocks}
    return [target for target in order if target in present]


def table(result: Result) -> str:
    """The tables: of the proxies, of the pairs of formats, and below them when and where it was."""
    own = [*_proxies(result.blocks), ""] if result.blocks else []
    of_pairs = [pairs_table(result.pairs), ""] if result.pairs else []
    return "\n".join([*own, *of_pairs, *_context(result), *_goals(result), *_doubts(result)])


def _proxies(blocks: list[Block]) -> list[str]:
    """A line of medians per target and under it the spread, least to most."""
    # Two lines of headings, then two lines of values for each target.
    grid: list[list[str]] = [
        ["", *(figure.heading[0] for figure in FIGURES.values())],
        ["", *(figure.heading[1] for figure in FIGURES.values())],
    ]
    for target in _targets(blocks):
        found = cells(blocks, target)
        medians: list[str] = [target]
        spreads: list[str] = [""]
        for name, figure in FIGURES.items():
            cell = found.get(name)
            digits = figure.digits
            medians.append("–" if cell is None else f"{cell.median:.{digits}f}")
            spreads.append("" if cell is None else f"{cell.low:.{digits}f}…{cell.high:.{digits}f}")
        grid += [medians, spreads]
    widths = [max(len(row[column]) for row in grid) for column in range(len(grid[0]))]
    lines = [
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
        for row in grid
    ]
    lines.insert(2, "-" * len(lines[0]))
    return lines


def _context(result: Result) -> list[str]:
    machine = result.machine
    built = f"PGO {'on' if machine.pgo else 'off'}, LTO {'on' if machine.lto else 'off'}"
    versions = " ".join(f"{name} {number}" for name, number in machine.versions.items())
    sync = result.disk.fdatasync
    rounds = len({block.round for block in result.blocks})
    counted = f"{rounds} rounds, " if rounds else ""
    return [
        f"commit {result.commit}, {counted}medians over least…most; {machine.cpu}, "
        f"{machine.cores} cores, Linux {machine.kernel}",
        f"Python {machine.python} ({built}); {versions}",
        f"store on {result.disk.filesystem}: fdatasync p50 {sync.p50:.2f} ms, "
        f"p99 {sync.p99:.2f} ms; durability full",
    ]


def _goals(result: Result) -> list[str]:
    found = cells(result.blocks, "gateway")
    lines = []
    for name, words, limit in GOALS:
        if name in found:
            verdict = "met   " if found[name].median <= limit else "MISSED"
            lines.append(f"{verdict} {words}: {found[name].median:.3g} (goal ≤ {limit:g})")
    return lines


def _doubts(result: Result) -> list[str]:
    """What makes the figures worth less: a busy machine, a load that did not keep its pace."""
    lines = []
    for block in result.blocks:
        windows = [block.small.window, block.large.window]
        windows += [load.window for load in (block.open, block.open_direct) if load is not None]
        where = f"{block.target}, round {block.round + 1}"
        lines += _doubts_of(windows, block.streams, where)
    for pair in result.pairs:
        where = f"{pair.call.speaks} → {pair.call.upstream}, round {pair.round + 1}"
        lines += _doubts_of([pair.small.window], pair.streams, where)
    return lines


def _doubts_of(windows: list[Window], streams: StreamsResult, where: str) -> list[str]:
    lines = []
    foreign = max(window.foreign_cpu for window in [*windows, streams.window])
    if foreign > FOREIGN_CPU_MAX:
        lines.append(f"doubt: others used {foreign:.2f} cores meanwhile ({where})")
    if streams.open_at_once < streams.streams:
        opened = f"{streams.open_at_once} of {streams.streams}"
        lines.append(f"doubt: only {opened} streams were open at once ({where})")
    if streams.pace < PACE_MIN:
        lines.append(f"doubt: streams ran at {streams.pace:.0%} of their pace ({where})")
    return lines


def plot(result: Result, path: Path) -> bool:
    """Draw the figures as bars with their spread; False where matplotlib is not installed."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        return False
    mpl.use("agg")
    panels = (
        ("small_us", "CPU per request, 1 KB body (µs)"),
        ("large_us", "CPU per request, 100 KB body (µs)"),
        ("chunk_us", "CPU per streamed chunk (µs)"),
        ("first_byte_p50", "added first byte, p50 (ms)"),
        ("first_byte_p99", "added first byte, p99 (ms)"),
        ("stream_kib", "memory per open stream (KiB)"),
    )
    proxies = [target for target in _targets(result.blocks) if target != "direct"]
    canvas = Canvas(figsize=(11, 6), layout="constrained")
    axes = canvas.subplots(2, 3)
    for axis, (name, title) in zip(axes.flat, panels, strict=True):
        drawn = [(target, cells(result.blocks, target).get(name)) for target in proxies]
        shown = [(target, cell) for target, cell in drawn if cell is not None]
        medians = [cell.median for _target, cell in shown]
        below = [cell.median - cell.low for _target, cell in shown]
        above = [cell.high - cell.median for _target, cell in shown]
        bars = axis.bar(
            [target for target, _cell in shown], medians, yerr=[below, above], capsize=4
        )
        for bar, (target, _cell) in zip(bars, shown, strict=True):
            bar.set_color("#2f6db5" if target == "gateway" else "#b8bec6")
        axis.bar_label(bars, fmt="%.3g", label_type="center")
        axis.set_title(title, fontsize=10)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    canvas.suptitle(f"{result.commit} · {result.taken_at[:10]} · {result.machine.cpu}", fontsize=11)
    canvas.savefig(path, dpi=100)
    return True
