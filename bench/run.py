"""`make bench`: direct, naive proxy, gateway and nginx (if installed), side by side, one table.

    python -m bench.run [--quick] [--rounds N] [--targets naive,gateway] [--out FOLDER]
                        [--only proxies|translated]

A round measures each target once, in a fresh process, one after the other; the ratios are taken
within a round and the medians over rounds, so a machine that drifts moves all targets alike. Then
the gateway alone, with clients and upstreams of different formats beside those of one (`pairs.py`).
Exit status 1, and no figures, if any answer was wrong. `README.md` says what each figure means.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from bench import pairs, report, report_pairs, targets
from bench.formats import Call
from bench.load_requests import ClosedResult, OpenResult
from bench.load_streams import StreamsResult
from bench.measure import filesystem_of, fsync_ms, machine, raise_descriptor_limit
from bench.targets import BenchError, Cores, Running, TargetName

T = TypeVar("T", ClosedResult, OpenResult, StreamsResult)

GRACE_SECONDS = 60.0
"""How long past its own duration a load may take before it is killed."""


class Plan(msgspec.Struct, frozen=True):
    """How much is measured. A round that would overrun `budget_s` is not begun."""

    rounds: int
    budget_s: float
    small_s: float
    large_s: float
    open_s: float
    streams: int
    streams_open_s: float
    streams_s: float
    pair_rounds: int
    pair_small_s: float
    pair_streams: int
    pair_streams_s: float


FULL = Plan(
    rounds=4,
    budget_s=350,
    small_s=3,
    large_s=2,
    open_s=2,
    streams=1000,
    streams_open_s=2,
    streams_s=4,
    pair_rounds=3,
    pair_small_s=2,
    pair_streams=600,
    pair_streams_s=2.5,
)
QUICK = Plan(
    rounds=2,
    budget_s=56,
    small_s=0.8,
    large_s=0.5,
    open_s=0.7,
    streams=300,
    streams_open_s=0.5,
    streams_s=1,
    pair_rounds=1,
    pair_small_s=0.5,
    pair_streams=100,
    pair_streams_s=0.5,
)


class Loader:
    """Runs `bench.loadgen` against one server, on the core of the load."""

    def __init__(self, core: int, upstream: Running, folder: Path) -> None:
        self._core = core
        self._upstream = upstream
        self._folder = folder

    def load(self, target: Running, kind: str, result: type[T], **options: float | str) -> T:
        """One load; BenchError if anything was answered wrongly."""
        command = [
            sys.executable,
            "-m",
            "bench.loadgen",
            kind,
            f"--port={target.port}",
            f"--upstream-pid={self._upstream.pid}",
            *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()),
        ]
        if target.pid != self._upstream.pid:
            command.append(f"--proxy-pid={target.pid}")
        log = self._folder / "loadgen.out"
        log.unlink(missing_ok=True)
        process = targets.spawn(command, self._core, log, {"BENCH_KEY": target.key})
        try:
            process.wait(float(options.get("seconds", 0)) * 2 + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{kind} against {target.name} did not end") from None
        finally:
            targets.stop(process)
        said = log.read_bytes()
        if process.returncode != 0:
            raise BenchError(f"{kind} against {target.name}: {said[-3000:].decode()}")
        return msgspec.json.decode(said, type=result)


def _measure_streams(loader: Loader, target: Running, plan: Plan) -> StreamsResult:
    return loader.load(
        target,
        "streams",
        StreamsResult,
        streams=plan.streams,
        open_seconds=plan.streams_open_s,
        seconds=plan.streams_s,
    )


def measure_direct(loader: Loader, upstream: Running, plan: Plan, round_: int) -> report.Block:
    """The upstream without a proxy: what everything else is compared with."""
    return report.Block(
        target="direct",
        round=round_,
        streams=_measure_streams(loader, upstream, plan),
        small=loader.load(upstream, "closed", ClosedResult, seconds=plan.small_s),
        large=loader.load(
            upstream, "closed", ClosedResult, seconds=plan.large_s, body_bytes=102400
        ),
    )


def measure_proxy(
    loader: Loader, upstream: Running, proxy: Running, plan: Plan, round_: int
) -> report.Block:
    """One proxy: streams first, while its memory is still that of a young process."""
    # A few connections only: caches fill up, but no memory of a crowd is left to be reused.
    loader.load(proxy, "closed", ClosedResult, seconds=0.5, connections=8)
    streams = _measure_streams(loader, proxy, plan)
    small = loader.load(proxy, "closed", ClosedResult, seconds=plan.small_s)
    large = loader.load(proxy, "closed", ClosedResult, seconds=plan.large_s, body_bytes=102400)
    rate = small.requests / small.window.seconds / 3
    alone = loader.load(upstream, "open", OpenResult, seconds=plan.open_s, per_second=rate)
    through = loader.load(proxy, "open", OpenResult, seconds=plan.open_s, per_second=rate)
    return report.Block(
        target=proxy.name,
        round=round_,
        streams=streams,
        small=small,
        large=large,
        open=through,
        open_direct=alone,
    )


def start(
    name: TargetName, core: int, folder: Path, upstream_port: int
) -> AbstractContextManager[Running]:
    """A fresh process of a proxy, by name."""
    match name:
        case "naive":
            return targets.naive(core, folder, upstream_port)
        case "gateway":
            return targets.gateway(core, folder, upstream_port)
        case "nginx":
            return targets.nginx(core, folder, upstream_port)
        case "direct":
            raise ValueError("the upstream is not a proxy")


def measure(plan: Plan, names: list[TargetName], folder: Path) -> list[report.Block]:
    """All rounds; stops early rather than overrun the plan's budget."""
    cores = Cores.choose()
    blocks: list[report.Block] = []
    began = time.monotonic()
    longest_s = 0.0
    with targets.upstream(cores.load, folder) as upstream:
        loader = Loader(cores.load, upstream, folder)
        for round_ in range(plan.rounds):
            round_began = time.monotonic()
            if round_began - began + longest_s > plan.budget_s:
                print(f"stopped after {round_} rounds: the time is up", file=sys.stderr)
                break
            blocks.append(measure_direct(loader, upstream, plan, round_))
            # Every other round in reverse, so that none is always first on a warmed-up core.
            for name in names if round_ % 2 == 0 else reversed(names):
                with start(name, cores.proxy, folder, upstream.port) as proxy:
                    blocks.append(measure_proxy(loader, upstream, proxy, plan, round_))
                print(f"round {round_ + 1} of {plan.rounds}: {name} done", file=sys.stderr)
            longest_s = max(longest_s, time.monotonic() - round_began)
    return blocks


class PairLoader:
    """Implements `pairs.Load` by a plan."""

    def __init__(self, loader: Loader, plan: Plan) -> None:
        self._load = loader.load
        self._plan = plan

    def small(self, gateway: Running, call: Call) -> ClosedResult:
        """Requests of 1 KB in a closed loop."""
        return self._load(
            gateway,
            "closed",
            ClosedResult,
            seconds=self._plan.pair_small_s,
            speaks=call.speaks,
            upstream=call.upstream,
        )

    def streams(self, gateway: Running, call: Call) -> StreamsResult:
        """Paced streams, opened over a second."""
        return self._load(
            gateway,
            "streams",
            StreamsResult,
            streams=self._plan.pair_streams,
            open_seconds=1,
            seconds=self._plan.pair_streams_s,
            speaks=call.speaks,
            upstream=call.upstream,
        )


def measure_pairs(plan: Plan, folder: Path) -> list[report_pairs.PairBlock]:
    """All rounds of what translation costs, each on a fresh gateway."""
    cores = Cores.choose()
    blocks: list[report_pairs.PairBlock] = []
    with targets.upstream(cores.load, folder) as upstream:
        loader = PairLoader(Loader(cores.load, upstream, folder), plan)
        for round_ in range(plan.pair_rounds):
            with targets.gateway(cores.proxy, folder, upstream.port) as gateway:
                blocks += pairs.measure(loader, gateway, round_)
            print(f"round {round_ + 1} of {plan.pair_rounds}: pairs done", file=sys.stderr)
    return blocks


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=targets.ROOT, capture_output=True, text=True, check=False, timeout=10
    )
    return done.stdout.strip()


def _result_stem(*, quick: bool) -> tuple[str, str]:
    """File name (no suffix) and commit. `local-`, which git ignores, where not reproducible."""
    commit = _git("rev-parse", "--short", "HEAD") or "unversioned"
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no")) or commit == "unversioned"
    stem = f"{datetime.now(UTC):%Y-%m-%d}-{commit}"
    if dirty:
        commit += "-dirty"
    return (f"local-{stem}" if dirty or quick else stem), commit


def choose_targets(asked: str | None) -> list[TargetName]:
    """The proxies to measure: those asked for, else naive, gateway, and nginx if installed."""
    if asked is not None:
        chosen: list[TargetName] = msgspec.convert(asked.split(","), list[TargetName])
        return chosen
    names: list[TargetName] = ["naive", "gateway"]
    if targets.nginx_path() is not None:
        names.append("nginx")
    else:
        print("nginx is not installed: left out", file=sys.stderr)
    return names


def _command(options: argparse.Namespace) -> str:
    """What makes such a run again; where the files go says nothing about it."""
    words = ["python -m bench.run"]
    words += ["--quick"] if options.quick else []
    for name in ("rounds", "targets", "only"):
        value = getattr(options, name)
        words += [f"--{name} {value}"] if value else []
    return " ".join(words)


def run(options: argparse.Namespace) -> None:
    """Measure, print the table, write the files."""
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = msgspec.structs.replace(plan, rounds=options.rounds, budget_s=600)
        plan = msgspec.structs.replace(plan, pair_rounds=options.rounds)
    names = [] if options.only == "translated" else choose_targets(options.targets)
    work = targets.ROOT / "build"
    work.mkdir(exist_ok=True)
    # Receipts must reach a disk: the folder is inside the tree and not in /tmp, often a tmpfs.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=work) as temporary:
        folder = Path(temporary)
        disk = report.Disk(filesystem=filesystem_of(folder), fdatasync=fsync_ms(folder))
        blocks = [] if options.only == "translated" else measure(plan, names, folder)
        translated = [] if options.only == "proxies" else measure_pairs(plan, folder)
    stem, commit = _result_stem(quick=options.quick)
    if options.only:
        stem += f"-{options.only}"
    result = report.Result(
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        machine=machine(),
        disk=disk,
        plan=msgspec.to_builtins(plan),
        blocks=blocks,
        pairs=translated,
        command=_command(options),
    )
    print(report.table(result))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    written = out / f"{stem}.json"
    written.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    print(f"\nresults: {os.path.relpath(written)}")
    if blocks and report.plot(result, written.with_suffix(".png")):
        print(f"plot:    {os.path.relpath(written.with_suffix('.png'))}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare proxies in one run.")
    parser.add_argument("--quick", action="store_true", help="a minute: smoke, not figures")
    parser.add_argument("--rounds", type=int, help="how often each target is measured")
    parser.add_argument("--targets", help="of naive,gateway,nginx; default all that exist")
    parser.add_argument("--only", choices=("proxies", "translated"), help="measure only these")
    parser.add_argument("--out", default=str(targets.ROOT / "bench" / "results"))
    options = parser.parse_args()
    raise_descriptor_limit()
    try:
        run(options)
    except BenchError as fault:
        print(f"bench: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
