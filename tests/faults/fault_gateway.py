"""A gateway in a process of its own, and the truth about it: store, descriptors, memory, log."""

import asyncio
import contextlib
import os
import random
import re
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import orjson
from fault_client import Answer, ask

from gateway.accounts import secret as server_secret
from gateway.accounts.accounts import Accounts
from gateway.accounts.changes import KeySpec
from gateway.ledger import money, schema, store
from gateway.ledger.entry import Entry
from gateway.ledger.records import VerifyResult
from gateway.ledger.writer import Ledger

REPOSITORY = Path(__file__).parents[2]
FULL = os.environ.get("GATEWAY_TEST_SCALE") == "full"
SEED = int(os.environ.get("GATEWAY_TEST_SEED", "20261121"))
"""What is random follows from it; the moments at which processes act do not."""

START_S = 30.0
CREDIT_NANO_USD = 10**15

_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")


def seeded(number: int) -> random.Random:
    """The randomness of one test."""
    return random.Random(SEED + number)


def scaled(default: int, full: int) -> int:
    """How often to repeat: the numbers promised take GATEWAY_TEST_SCALE=full."""
    return full if FULL else default


@dataclass(frozen=True)
class Setup:
    """What differs from test to test in the gateway's configuration."""

    upstream_port: int
    on_disconnect: str = "cancel"
    billing_drain_s: float = 300.0
    drain_bytes: int = 16_777_216
    drain_s: float = 30.0
    first_byte_s: float = 60.0
    idle_s: float = 60.0
    connect_s: float = 10.0
    nofile: int = 4096
    durability: str = "full"
    hang_port: int = 0

    def text(self, store_path: str) -> str:
        origin = f"http://127.0.0.1:{self.upstream_port}"
        text = f"""
[server]
port = 0
drain_seconds = {self.drain_s}
nofile = {self.nofile}
[store]
path = "{store_path}"
durability = "{self.durability}"
[billing]
on_disconnect = "{self.on_disconnect}"
drain_seconds = {self.billing_drain_s}
drain_bytes = {self.drain_bytes}
[upstream]
connect_seconds = {self.connect_s}
first_byte_seconds = {self.first_byte_s}
idle_seconds = {self.idle_s}
[providers.openai]
format = "openai"
base_url = "{origin}/v1"
keys = ["provider-key-openai"]
unmetered = true
[providers.anthropic]
format = "anthropic"
base_url = "{origin}/v1"
keys = ["provider-key-anthropic"]
[providers.google]
format = "gemini"
base_url = "{origin}/v1beta"
keys = ["provider-key-google"]
"""
        if self.hang_port:
            text += f"""
[providers.hang]
format = "openai"
base_url = "http://127.0.0.1:{self.hang_port}/v1"
keys = ["provider-key-hang"]
catalog = "openai"
"""
        return text


class Gateway:
    """One store, and the process that serves it; the process may be started again and again."""

    def __init__(self, directory: Path, setup: Setup) -> None:
        self.path = str(directory / "gateway.db")
        self.config = directory / "config.toml"
        self.config.write_text(setup.text(self.path))
        self.nofile = setup.nofile
        self.key = ""
        self.port = 0
        self.log: list[str] = []
        self.expected_errors = re.compile("(?!)")
        """Errors in the log that a test brings about on purpose."""
        self.environment: dict[str, str] = {}
        """What the process finds in its environment besides ours."""
        self.printed = directory / "printed"
        """What it wrote to standard output, all its lives long."""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def make_key(self) -> None:
        """Make the store with a user, credit and a key."""
        secret = server_secret.load(self.path)
        ledger = await Ledger.open(
            self.path, secret=secret, durability="full", on_fatal=_never_fatal
        )
        try:
            accounts = await Accounts.load(ledger, secret, "gw-")
            await accounts.create_user("loader")
            await accounts.credit("loader", CREDIT_NANO_USD)
            wide = KeySpec(rpm=10**9, tpm=10**12, concurrent=10**6)
            _, self.key = await accounts.create_key("loader", wide)
        finally:
            await ledger.close()

    async def start(self) -> None:
        """Start the process and wait until it listens."""

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.nofile, self.nofile))

        with self.printed.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "serve", "--config", str(self.config),
                cwd=REPOSITORY, stdin=asyncio.subprocess.DEVNULL, stdout=out,
                stderr=asyncio.subprocess.PIPE, preexec_fn=limit,
                env=os.environ | self.environment,
            )  # fmt: skip
        loop = asyncio.get_running_loop()
        listening: asyncio.Future[int] = loop.create_future()
        self._reading = loop.create_task(self._read_log(self._process, listening))
        self.port = await asyncio.wait_for(listening, START_S)

    async def _read_log(
        self, process: asyncio.subprocess.Process, listening: "asyncio.Future[int]"
    ) -> None:
        assert process.stderr is not None
        async for raw in process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self.log.append(line)
            found = _LISTENING.search(line)
            if found and not listening.done():
                listening.set_result(int(found[1]))
        if not listening.done():
            listening.set_exception(RuntimeError("the gateway did not start: " + str(self.log)))

    async def ended(self) -> int:
        """Wait for the end of the process, and of its log; returns the exit code."""
        assert self._process is not None
        assert self._reading is not None
        code = await self._process.wait()
        await self._reading
        self._process = None
        return code

    async def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()
        assert await self.ended() == -9

    def terminate(self) -> None:
        assert self._process is not None
        self._process.terminate()

    def hang_up(self) -> None:
        """SIGHUP: read the configuration again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """SIGTERM, if it runs; the log must be free of complaints."""
        if self._process is not None:
            self._process.terminate()
            assert await asyncio.wait_for(self.ended(), 60) == 0, self.log
        self.check_log()

    def check_log(self) -> None:
        """No traceback and no error: a fault outside is no fault of ours."""
        bad = [
            line
            for line in self.log
            if ("Traceback" in line or "ERROR" in line) and not self.expected_errors.search(line)
        ]
        assert not bad, self.log[-60:]

    # -- its resources ---------------------------------------------------------------------------

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_kib(self) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found
        return int(found[1])

    async def get(self, path: str) -> Answer:
        return await ask(self.port, f"GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())

    async def in_flight(self) -> int:
        return int(orjson.loads((await self.get("/readyz")).body)["in_flight"])

    async def idle(self, seconds: float = 10.0) -> None:
        """Wait until no request is left inside it; fails after `seconds`."""
        await eventually(self.in_flight, lambda left: left == 0, seconds)

    async def descriptors_back(self, baseline: int, seconds: float = 5.0) -> None:
        """Wait until it holds no more descriptors than before."""

        async def now() -> int:
            return self.descriptors()

        await eventually(now, lambda count: count <= baseline, seconds)

    # -- its store -------------------------------------------------------------------------------

    def books(self, since: int = 0) -> "Books":
        """What the store says, read from outside; receipts behind number `since` only."""
        conn = schema.open_reader(self.path)
        try:
            rows = conn.execute(
                "SELECT ref, nano_usd, debit FROM transfers WHERE kind = 'charge'"
            ).fetchall()
            entries = [r.entry for r in store.receipts_since(conn) if r.sequence > since]
            (openings,) = conn.execute("SELECT count(*) FROM openings").fetchone()
            return Books(entries, [(ref, nano) for ref, nano, _ in rows], openings)
        finally:
            conn.close()

    def last_sequence(self) -> int:
        conn = schema.open_reader(self.path)
        try:
            return int(conn.execute("SELECT seq FROM chain").fetchone()[0])
        finally:
            conn.close()

    def check_books(self) -> VerifyResult:
        """The chain verifies and the money adds up."""
        conn = schema.open_reader(self.path)
        try:
            assert money.check_books(conn).wrong == []
        finally:
            conn.close()
        verdict = store.verify_file(self.path, server_secret.load(self.path))
        assert verdict.ok, verdict.message
        return verdict


@dataclass(frozen=True)
class Books:
    """Receipts, charges as (receipt id, nano-USD), and how many requests are open."""

    entries: list[Entry]
    charges: list[tuple[str, int]]
    openings: int

    def by_bytes(self) -> dict[int, list[Entry]]:
        """Receipts by the size of their request's body."""
        found: dict[int, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.opening.bytes, []).append(entry)
        return found


def due_nano_usd(entry: Entry) -> int:
    """What a receipt's tokens cost by the price that it shows, computed the long way."""
    if entry.usage is None:
        return 0
    assert entry.price is not None
    price = {name: Decimal(text) for name, text in entry.price.per_mtok.items()}
    assert entry.usage.cache_read_input_tokens in (None, 0)
    dollars_per_million = (
        entry.usage.input_tokens * price["input_per_mtok"]
        + entry.usage.output_tokens * price["output_per_mtok"]
    )
    nano = dollars_per_million * 1000
    return int(nano.quantize(Decimal(1), rounding=ROUND_HALF_UP))


async def eventually(
    look: Callable[[], Awaitable[int]],
    good: Callable[[int], bool],
    seconds: float,
) -> None:
    """Look again and again until it is good; fails with the last look after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not good(found := await look()):
        assert asyncio.get_running_loop().time() < deadline, f"still {found} after {seconds} s"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(directory: Path, setup: Setup) -> AsyncIterator[Gateway]:
    """A gateway with a key, started; stopped at the end, or killed if the test failed."""
    gateway = Gateway(directory, setup)
    await gateway.make_key()
    await gateway.start()
    try:
        yield gateway
    except BaseException:
        if gateway._process is not None:
            await gateway.kill()
        print("\n".join(gateway.log[-40:]))  # noqa: T201 - shown with the failure
        raise
    await gateway.stop()


def _never_fatal(exc: BaseException) -> None:
    raise AssertionError(exc)
