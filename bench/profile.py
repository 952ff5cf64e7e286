"""Where the gateway's time goes: py-spy under the JSON load and under the stream load.

    python -m bench.profile [--seconds 8] [--top 30] [--native] [--target gateway|naive]
                            [--speaks chat] [--upstream messages] [--only closed|streams]

Prints, and writes beside the results, a table per load: functions by self time, with their share
of all samples and the share of samples that they are anywhere in. Only samples on the CPU count.
A C function's time is its Python caller's, unless `--native` is given and symbols are there.
py-spy (development dependency) samples without stopping the process; it needs ptrace rights.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench import run as bench_run
from bench import targets
from bench.formats import FORMATS
from bench.measure import raise_descriptor_limit
from bench.targets import BenchError, Cores, Running, TargetName

RATE_PER_SECOND = 397
"""Samples a second: a prime, so as not to fall into step with the streams' 1 ms timer."""

_THREAD = re.compile(r"^thread \(\w+\): ")

_LOADS: dict[str, tuple[list[str], float]] = {
    # kind -> options of bench.loadgen, seconds until the load has settled
    "closed": (["--connections=64"], 2.0),
    "streams": (["--streams=1000", "--open-seconds=2"], 4.0),
}


class Row(msgspec.Struct, frozen=True):
    """A function's share of the samples: as the innermost frame, and anywhere in the stack."""

    function: str
    own: float
    within: float


def rank(collapsed: str) -> list[Row]:
    """Rows by self time, from `frame;frame;frame count` lines (innermost frame last)."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in collapsed.splitlines():
        stack, _space, count = line.rpartition(" ")
        # A thread's number says nothing and would keep two profiles from being compared.
        frames = [_THREAD.sub("thread ", frame) for frame in stack.split(";")]
        if not stack or not count.isdecimal():
            continue
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):  # a recursive function is in a sample once
            within[frame] += int(count)
    return [
        Row(function, samples / total, within[function] / total)
        for function, samples in own.most_common()
    ]


def text_table(title: str, rows: list[Row], top: int) -> str:
    """The first `top` rows as text."""
    lines = [title, f"{'self':>7} {'total':>7}  function"]
    lines += [f"{row.own:7.1%} {row.within:7.1%}  {row.function}" for row in rows[:top]]
    rest = sum(row.own for row in rows[top:])
    return "\n".join([*lines, f"{rest:7.1%} {'':>7}  (everything below)"])


def _record(pid: int, seconds: float, folder: Path, *, native: bool) -> str:
    """Sample a process; its collapsed stacks. BenchError if py-spy cannot."""
    out = folder / "stacks.txt"
    command = [
        str(Path(sys.executable).parent / "py-spy"),
        "record",
        f"--pid={pid}",
        f"--duration={round(seconds)}",
        f"--rate={RATE_PER_SECOND}",
        "--format=raw",
        "--function",
        "--threads",
        "--nonblocking",
        f"--output={out}",
    ]
    if native:
        # Native frames cannot be unwound while the process runs on.
        command.remove("--nonblocking")
        command.append("--native")
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=seconds + 60, text=True, check=False
        )
    except FileNotFoundError:
        raise BenchError("py-spy is not installed beside this Python") from None
    if done.returncode != 0 or not out.exists():
        raise BenchError(f"py-spy: exit {done.returncode}: {done.stderr[-2000:]}")
    return out.read_text()


def profile_load(
    proxy: Running, upstream: Running, kind: str, folder: Path, options: argparse.Namespace
) -> str:
    """Put one load on `proxy` and sample it while the load is steady."""
    extra, settle_s = _LOADS[kind]
    # The load outlasts the sampling on both sides.
    command = [
        sys.executable,
        "-m",
        "bench.loadgen",
        kind,
        f"--port={proxy.port}",
        f"--upstream-pid={upstream.pid}",
        f"--proxy-pid={proxy.pid}",
        f"--seconds={options.seconds + settle_s + 2}",
        f"--speaks={options.speaks}",
        f"--upstream={options.upstream}",
        *extra,
    ]
    log = folder / f"{kind}.out"
    load = targets.spawn(command, Cores.choose().load, log, {"BENCH_KEY": proxy.key})
    try:
        try:
            load.wait(settle_s)
            raise BenchError(f"the load ended at once: {log.read_text()[-2000:]}")
        except subprocess.TimeoutExpired:
            stacks = _record(proxy.pid, options.seconds, folder, native=options.native)
        if load.wait(options.seconds + bench_run.GRACE_SECONDS) != 0:
            raise BenchError(f"{kind}: {log.read_text()[-2000:]}")
    finally:
        targets.stop(load)
    load_words = f"{options.speaks} → {options.upstream}, {kind}"
    sampled = f"{options.seconds:g} s, {RATE_PER_SECOND} samples a second"
    title = f"{proxy.name}, {load_words}: {sampled}"
    return text_table(title, rank(stacks), options.top)


def profile(options: argparse.Namespace) -> str:
    """Both loads on one fresh target; the tables."""
    cores = Cores.choose()
    name: TargetName = msgspec.convert(options.target, TargetName)
    work = targets.ROOT / "build"
    work.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="profile-", dir=work) as temporary:
        folder = Path(temporary)
        with (
            targets.upstream(cores.load, folder) as upstream,
            bench_run.start(name, cores.proxy, folder, upstream.port) as proxy,
        ):
            kinds = [options.only] if options.only else list(_LOADS)
            tables = [profile_load(proxy, upstream, kind, folder, options) for kind in kinds]
    return "\n\n".join(tables)


def main() -> int:
    parser = argparse.ArgumentParser(description="Functions of the gateway by self time.")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--top", type=int, default=30)
    parser.add_argument("--native", action="store_true", help="see into C extensions")
    parser.add_argument("--only", choices=tuple(_LOADS), help="one of the loads")
    parser.add_argument("--speaks", choices=tuple(FORMATS), default="chat")
    parser.add_argument("--upstream", choices=tuple(FORMATS), default="chat")
    parser.add_argument("--target", choices=("gateway", "naive"), default="gateway")
    parser.add_argument("--out", default=str(targets.ROOT / "bench" / "results"))
    options = parser.parse_args()
    raise_descriptor_limit()
    try:
        text = profile(options)
    except BenchError as fault:
        print(f"profile: {fault}", file=sys.stderr)
        return 1
    print(text)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    pair = "" if options.speaks == options.upstream else f"-{options.speaks}-{options.upstream}"
    path = out / f"local-profile-{options.target}{pair}-{datetime.now(UTC):%Y-%m-%d}.txt"
    path.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
