"""Whether pages slow calls: p99 at 300 requests a second, with and without a page being reloaded.

    .venv/bin/python -m tests.ledger.many_receipts --receipts 1000000 --store /tmp/many.db
    .venv/bin/python -m bench.dashboard --store /tmp/many.db

One admin reloads the list of everybody's receipts, pages older than the first and filtered ones in
turn: ten times a second, which is more than a browser can, and then, to see where it ends, without
any pause. Rounds of all three follow each other, in changing order. Times of calls count from the
instant at which a call was due to the first byte of its answer (`load_requests.open_loop`); those
of the page are the reader's, from sending the request to the last byte. The store is gone on with:
its receipts grow by those of the calls.
"""

import argparse
import http.client
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from bench import targets
from bench.load_requests import OpenResult
from bench.measure import spread_ms
from bench.run import Loader
from bench.targets import BenchError, Cores, Running

PER_SECOND = 300
PAUSES_S = {"alone": None, "reloaded 10 times a second": 0.1, "reloaded without a pause": 0.0}
PASSWORD = "a password for the bench"
PATHS = (
    "/dashboard/admin/receipts",
    "/dashboard/admin/receipts?before=500000",
    "/dashboard/admin/receipts?status=failed",
    "/dashboard/admin/receipts?user=ada&model=gpt-4o-mini",
)


class _Link(msgspec.Struct):
    token: str


class Reader:
    """An admin's browser, as far as it loads one page after the other."""

    def __init__(self, running: Running, folder: Path) -> None:
        self._port = running.port
        config = targets.config_of(folder, running.port)
        name = f"reader-{running.port}"
        email = f"{name}@example.org"
        targets.must(config, "users", "create", name, "--admin", "--email", email)
        made = targets.must(config, "users", "link", name)
        token = msgspec.json.decode(made, type=_Link).token
        self._cookie = self._enter(token)
        self._stopped = threading.Event()
        self.times_ns: list[int] = []

    def _ask(
        self, connection: http.client.HTTPConnection, path: str, fields: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, str]:
        body = urlencode(fields) if fields else None
        headers = {"Cookie": self._cookie} if self._cookie else {}
        if fields:
            headers["Origin"] = f"http://127.0.0.1:{self._port}"
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request("POST" if fields else "GET", path, body, headers)
        answer = connection.getresponse()
        return answer, answer.read().decode()

    def _enter(self, token: str) -> str:
        """Use a one-time link; gives the session's cookie."""
        self._cookie = ""
        connection = self._connect()
        answer, page = self._ask(connection, "/dashboard/welcome", {})
        self._cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
        if found is None:
            raise BenchError(f"no form to enter by: {answer.status}")
        answer, page = self._ask(
            connection, "/dashboard/welcome",
            {"csrf": found[1], "token": token, "password": PASSWORD, "again": PASSWORD},
        )  # fmt: skip
        connection.close()
        if answer.status != 303:
            raise BenchError(f"the link was refused: {answer.status}")
        return (answer.getheader("Set-Cookie") or "").partition(";")[0]

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)

    def read(self, count: int | None = None, every_s: float = 0.0) -> None:
        """Reload, `count` times or until `stop`; not more often than `every_s`."""
        connection = self._connect()
        number = 0
        while not self._stopped.is_set() and number != count:
            begun = time.perf_counter_ns()
            answer, page = self._ask(connection, PATHS[number % len(PATHS)], {})
            self.times_ns.append(time.perf_counter_ns() - begun)
            if answer.status != 200 or page.count("<tr>") < 10:
                raise BenchError(f"not a page of receipts: {answer.status}")
            number += 1
            self._stopped.wait(every_s - (time.perf_counter_ns() - begun) / 1e9)
        connection.close()

    def start(self, every_s: float) -> threading.Thread:
        """Reload on a thread of its own, until `stop`."""
        self._stopped.clear()
        thread = threading.Thread(target=self.read, args=(None, every_s))
        thread.start()
        return thread

    def stop(self, thread: threading.Thread) -> None:
        """End a `start`."""
        self._stopped.set()
        thread.join()

    def take(self) -> list[int]:
        """The times since the last look."""
        taken, self.times_ns = self.times_ns, []
        return taken


class Measured(msgspec.Struct):
    """The rounds of one way to reload."""

    calls: list[OpenResult] = []
    pages_ns: list[int] = []


def measure(
    loader: Loader, running: Running, reader: Reader, options: argparse.Namespace
) -> dict[str, Measured]:
    """All rounds of all ways."""
    found = {kind: Measured() for kind in PAUSES_S}
    for number in range(options.rounds):
        kinds = list(found)
        # Each is first, second and last as often as the others.
        for kind in kinds[number % 3 :] + kinds[: number % 3]:
            pause_s = PAUSES_S[kind]
            thread = None if pause_s is None else reader.start(pause_s)
            try:
                calls = loader.load(
                    running, "open", OpenResult, seconds=options.seconds, per_second=PER_SECOND
                )
            finally:
                if thread is not None:
                    reader.stop(thread)
            found[kind].calls.append(calls)
            found[kind].pages_ns += reader.take()
    return found


def table(found: dict[str, Measured], alone_ns: list[int]) -> str:
    """Medians over the rounds, with the least and the most; of pages, percentiles."""
    lines = [f"{PER_SECOND} requests/s, first byte, ms: median of the rounds (least to most)"]
    for kind, one in found.items():
        cells = []
        for name in ("p50", "p99"):
            values = sorted(getattr(calls.first_byte, name) for calls in one.calls)
            middle = statistics.median(values)
            cells.append(f"{name} {middle:6.2f} ({values[0]:.2f} to {values[-1]:.2f})")
        lines.append(f"  page {kind:28} {cells[0]:28} {cells[1]}")
    lines.append("the page, ms from request to last byte")
    for kind, times in {
        "nothing else": alone_ns,
        **{k: one.pages_ns for k, one in found.items()},
    }.items():
        if times:
            of = spread_ms(times)
            lines.append(
                f"  {kind:33} {of.count:5} times: p50 {of.p50:.1f}, p90 {of.p90:.1f}, "
                f"p99 {of.p99:.1f}, max {of.max:.1f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure calls while a page is reloaded.")
    parser.add_argument("--store", type=Path, required=True, help="many receipts; it is written to")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--pages", type=int, default=100, help="reloads without any other load")
    options = parser.parse_args()
    if not options.store.exists():
        parser.error(f"{options.store}: no such store")
    cores = Cores.choose()
    os.sched_setaffinity(0, {cores.load})
    with (
        tempfile.TemporaryDirectory() as place,
        targets.upstream(cores.load, folder := Path(place)) as upstream,
        targets.gateway(cores.proxy, folder, upstream.port, options.store.resolve()) as running,
    ):
        reader = Reader(running, folder)
        loader = Loader(cores.load, upstream, folder)
        reader.read(len(PATHS))
        reader.take()
        reader.read(options.pages)
        alone = reader.take()
        loader.load(running, "open", OpenResult, seconds=2, per_second=PER_SECOND)
        found = measure(loader, running, reader, options)
    sys.stdout.write(table(found, alone) + "\n")


if __name__ == "__main__":
    main()
