"""A periodic wake-up finer than the event loop's own timers.

uvloop's timers have a grain of 1 ms: a generator on them sends its requests in bursts and
measures its own bursts as latency. A timerfd(2) wakes the loop with the kernel's high-resolution
timer. Linux only; Python 3.11 has no binding, hence ctypes.
"""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_CLOEXEC = 0o2000000
_NS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Pace:
    """Calls `due(scheduled_ns)` once per slot of a fixed-rate schedule, `count` times in all.

    A slot that is late is still called, with the time at which it should have been: the caller
    measures from there, so a stall of anything, the generator included, counts against every
    request that it delayed (no coordinated omission).
    """

    def __init__(self, per_second: float, count: int, due: Callable[[int], None]) -> None:
        self._interval_ns = _NS / per_second
        self._count = count
        self._due = due
        self._called = 0
        self._started_ns = 0
        self._descriptor = -1
        self._loop = asyncio.get_running_loop()
        self.finished: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        """Arm the timer; `finished` resolves after the last call. OSError if the kernel refuses."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        interval = _Timespec(*divmod(max(1, round(self._interval_ns)), _NS))
        setting = _Itimerspec(interval, interval)
        if libc.timerfd_settime(self._descriptor, 0, ctypes.byref(setting), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        self._started_ns = time.monotonic_ns()
        self._loop.add_reader(self._descriptor, self._wake)

    def stop(self) -> None:
        """Disarm; safe to call twice."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        if not self.finished.done():
            self.finished.set_result(None)

    def _wake(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return
        now_ns = time.monotonic_ns()
        while self._called < self._count:
            scheduled_ns = self._started_ns + round((self._called + 1) * self._interval_ns)
            if scheduled_ns > now_ns:
                return
            self._called += 1
            self._due(scheduled_ns)
        self.stop()
