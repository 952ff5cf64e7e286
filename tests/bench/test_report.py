"""The table and the profile say what was measured."""

from pathlib import Path

import msgspec
import pytest

from bench import profile, report
from bench.load_requests import ClosedResult, OpenResult
from bench.load_streams import StreamsResult
from bench.measure import Window, machine, spread_ms
from bench.targets import TargetName


def window(cpu_us: float, foreign: float = 0.0) -> Window:
    return Window(
        seconds=2.0,
        proxy_cpu_ns=round(cpu_us * 1000),
        upstream_cpu_ns=1,
        generator_cpu_ns=1,
        foreign_cpu=foreign,
    )


def block(target: TargetName, round_: int, cost: float, *, foreign: float = 0.0) -> report.Block:
    """A target whose every figure is `cost`, in the figure's own unit."""
    late = spread_ms([round((1 + cost) * 1e6)])
    closed = ClosedResult(100, window(cost * 100, foreign), late, {})
    opened = OpenResult(100.0, 100, late, late, late, 64, window(cost), {})
    alone = msgspec.structs.replace(
        opened, first_byte=spread_ms([1_000_000]), whole=spread_ms([1_000_000])
    )
    streams = StreamsResult(
        streams=10,
        open_at_once=10,
        chunks=100,
        pace=1.0,
        window=window(cost * 100),
        first_byte=late,
        late=late,
        gap_error=late,
        rss_idle_bytes=0,
        rss_open_bytes=0,
        rss_per_stream_bytes=cost * 1024,
        errors={},
    )
    proxied = target != "direct"
    return report.Block(
        target=target,
        round=round_,
        streams=streams,
        small=closed,
        large=closed,
        open=opened if proxied else None,
        open_direct=alone if proxied else None,
    )


def result(blocks: list[report.Block]) -> report.Result:
    disk = report.Disk("ext4", spread_ms([200_000]))
    return report.Result("2026-11-21T00:00:00+00:00", "abc", machine(), disk, {}, blocks)


# The machine got twice as slow after the first round; the ratio is a quarter throughout.
DRIFTING = [
    block("direct", 0, 0.0),
    block("naive", 0, 0.4),
    block("gateway", 0, 0.1),
    block("direct", 1, 0.0),
    block("naive", 1, 0.8),
    block("gateway", 1, 0.2),
]


def test_ratios_are_taken_within_a_round() -> None:
    ratio = report.cells(DRIFTING, "gateway")["small_ratio"]
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((0.25, 0.25, 0.25))
    cost = report.cells(DRIFTING, "gateway")["small_us"]
    assert (cost.median, cost.low, cost.high) == pytest.approx((0.15, 0.1, 0.2))


def test_added_times_are_less_the_direct_ones() -> None:
    found = report.cells(DRIFTING, "naive")
    assert found["first_byte_p50"].median == pytest.approx(0.6)
    assert found["chunk_late_p99"].median == pytest.approx(0.6)
    assert found["stream_kib"].median == pytest.approx(0.6)


def test_the_table_has_a_row_per_target_and_says_which_goals_are_met() -> None:
    text = report.table(result(DRIFTING))
    first_words = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert [word for word in first_words if word in {"direct", "naive", "gateway", "nginx"}] == [
        "direct",
        "naive",
        "gateway",
    ]
    assert "met    CPU per JSON request of 1 KB, × naive: 0.25 (goal ≤ 0.5)" in text
    assert "MISSED" not in text
    assert "doubt" not in text


def test_a_missed_goal_and_a_busy_machine_are_told() -> None:
    blocks = [block("direct", 0, 0), block("naive", 0, 1), block("gateway", 0, 0.9, foreign=0.4)]
    text = report.table(result(blocks))
    assert "MISSED CPU per JSON request of 1 KB, × naive: 0.9 (goal ≤ 0.5)" in text
    assert "MISSED added first byte at a third of saturation, p50, ms: 0.9 (goal ≤ 0.3)" in text
    assert "doubt: others used 0.40 cores meanwhile (gateway, round 1)" in text


def test_streams_that_were_not_all_open_or_lost_their_pace_are_told() -> None:
    slow = block("gateway", 0, 0.1)
    slow = msgspec.structs.replace(
        slow, streams=msgspec.structs.replace(slow.streams, open_at_once=7, pace=0.8)
    )
    text = report.table(result([block("direct", 0, 0), block("naive", 0, 1), slow]))
    assert "doubt: only 7 of 10 streams were open at once (gateway, round 1)" in text
    assert "doubt: streams ran at 80% of their pace (gateway, round 1)" in text


def test_a_run_without_the_naive_proxy_has_no_ratios() -> None:
    found = report.cells([block("direct", 0, 0), block("gateway", 0, 1)], "gateway")
    assert "small_us" in found
    assert "small_ratio" not in found


def test_results_survive_being_written_and_read() -> None:
    whole = result(DRIFTING)
    assert msgspec.json.decode(msgspec.json.encode(whole), type=report.Result) == whole


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "plot.png"
    assert report.plot(result(DRIFTING), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_profile_ranks_by_self_time_and_counts_recursion_once() -> None:
    collapsed = (
        "thread (71): MainThread;main;work 6\n"
        "thread (71): MainThread;main;work;work 2\n"
        "thread (72): writer;commit 2\n"
        "not a stack\n"
    )
    rows = {row.function: row for row in profile.rank(collapsed)}
    assert next(iter(rows)) == "work"
    assert (rows["work"].own, rows["work"].within) == (0.8, 0.8)
    assert (rows["commit"].own, rows["commit"].within) == (0.2, 0.2)
    table = profile.text_table("title", list(rows.values()), top=1)
    assert table.splitlines()[2] == "  80.0%   80.0%  work"
    assert table.splitlines()[-1].strip().startswith("20.0%")
