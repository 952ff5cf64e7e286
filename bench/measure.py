"""What the kernel says about a process and the machine, and percentiles.

Linux only. CPU time is read from the process's own CPU-time clock, in nanoseconds, all threads
(ended ones too): the tick-based figures of /proc/PID/stat have a grain of 10 ms.
"""

import ctypes
import os
import platform
import resource
import signal
import sys
import sysconfig
import time
from array import array
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

_CPUCLOCK_SCHED = 2  # linux/posix-timers.h
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int:
    """CPU time of a process, user and system, all threads. OSError if it is gone.

    The clock id is what clock_getcpuclockid(3) computes for a pid.
    """
    return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)


def rss_bytes(pid: int) -> int:
    """Resident memory, exact (statm counts per CPU and can be off by megabytes)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no Rss in smaps_rollup of {pid}")


def machine_busy_ns() -> int:
    """CPU time spent by everything on the machine, stolen time included; grain 10 ms a core."""
    with Path("/proc/stat").open() as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(
            int, stat.readline().split()[1:9]
        )
    return (user + nice + system + irq + softirq + steal) * TICK_NS


class Window(msgspec.Struct, frozen=True):
    """CPU used in one measured stretch of time.

    `proxy_cpu_ns` is None where there is no proxy. `foreign_cpu` is what everything else on the
    machine used, in cores: above a few hundredths the figures are not worth much.
    """

    seconds: float
    proxy_cpu_ns: int | None
    upstream_cpu_ns: int
    generator_cpu_ns: int
    foreign_cpu: float


class WindowMeter:
    """Opens now, closes at `close()`; run by the generator, at the instants that it counts."""

    def __init__(self, proxy_pid: int | None, upstream_pid: int) -> None:
        self._pids = (proxy_pid, upstream_pid, os.getpid())
        self._busy_ns = machine_busy_ns()
        self._cpu_ns = self._read()
        self.opened_ns = time.monotonic_ns()

    def _read(self) -> tuple[int | None, int, int]:
        proxy, upstream, generator = self._pids
        return (None if proxy is None else cpu_ns(proxy), cpu_ns(upstream), cpu_ns(generator))

    def close(self) -> Window:
        """What was used since it was opened."""
        elapsed_ns = time.monotonic_ns() - self.opened_ns
        proxy, upstream, generator = self._read()
        proxy_before, upstream_before, generator_before = self._cpu_ns
        proxy_used = None
        if proxy is not None and proxy_before is not None:
            proxy_used = proxy - proxy_before
        ours = (proxy_used or 0) + upstream - upstream_before + generator - generator_before
        foreign_ns = machine_busy_ns() - self._busy_ns - ours
        return Window(
            seconds=elapsed_ns / 1e9,
            proxy_cpu_ns=proxy_used,
            upstream_cpu_ns=upstream - upstream_before,
            generator_cpu_ns=generator - generator_before,
            foreign_cpu=max(0.0, foreign_ns / elapsed_ns),
        )


class Spread(msgspec.Struct, frozen=True):
    """Percentiles of exact samples, in milliseconds (nearest rank), and their number."""

    count: int
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


def spread_ms(samples_ns: Iterable[int]) -> Spread:
    """Sort all samples; no histogram, hence no bucket error. ValueError if there are none."""
    ordered = array("q", sorted(samples_ns))
    count = len(ordered)
    if count == 0:
        raise ValueError("no samples were taken")

    def rank(per_mille: int) -> float:
        return ordered[max(0, -(-count * per_mille // 1000) - 1)] / 1e6

    return Spread(count, rank(500), rank(900), rank(990), rank(999), ordered[-1] / 1e6)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies: no run leaves a server behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def raise_descriptor_limit() -> None:
    """1,000 streams are 2,000 sockets in a proxy: lift the soft limit to the hard one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def filesystem_of(path: Path) -> str:
    """The file system type that holds `path`, as the kernel names it."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        mount, fs_type = line.split()[1:3]
        inside = path.resolve().is_relative_to(mount)
        if inside and len(mount) >= len(best):
            best, kind = mount, fs_type
    return kind


def fsync_ms(directory: Path, repeats: int = 40) -> Spread:
    """How long a 4 KiB append and fdatasync takes there: what durable receipts stand on."""
    probe = directory / "fsync-probe"
    samples: list[int] = []
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(repeats):
            before = time.monotonic_ns()
            os.write(descriptor, b"\0" * 4096)
            os.fdatasync(descriptor)
            samples.append(time.monotonic_ns() - before)
    finally:
        os.close(descriptor)
        probe.unlink()
    return spread_ms(samples)


class Machine(msgspec.Struct, frozen=True):
    """Where the figures were taken. `pgo` and `lto`: whether this Python was built with them."""

    cpu: str
    cores: int
    kernel: str
    python: str
    pgo: bool
    lto: bool
    versions: dict[str, str]


def machine() -> Machine:
    """Describe this machine and this Python."""
    flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
    packages = ("aiohttp", "uvloop", "httptools", "msgspec", "orjson", "aiosqlite")
    return Machine(
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        kernel=platform.release(),
        python=sys.version.split()[0],
        pgo="--enable-optimizations" in flags,
        lto="--with-lto" in flags,
        versions={package: _version(package) for package in packages},
    )
