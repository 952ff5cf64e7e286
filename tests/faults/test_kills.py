"""`kill -9` at random moments under load: what was read to its end has its receipt and charge.

The oracle is what each client wrote down when it had read an answer to its end. The load goes on
with connections that stay, every format, JSON and streamed, quick and slow; usage differs from
answer to answer, so that a receipt with another's charge is seen.
"""

import asyncio
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fault_answers as answers
import pytest
from fault_client import Client, Incomplete
from fault_gateway import (
    REPOSITORY,
    Gateway,
    Setup,
    due_nano_usd,
    eventually,
    running,
    scaled,
    seeded,
)
from fault_upstream import Pause, Script, Seen, Step, Upstream

pytestmark = pytest.mark.faults

KILLS = scaled(5, 100)
CLIENTS = 150
IN_FLIGHT_MIN = 100
TERMS = scaled(3, 20)


@dataclass
class Load:
    """What the clients know: receipt ids of answers read to the end, and how many they asked."""

    gateway: Gateway
    numbers: Iterator[int]
    rng: random.Random
    kinds: dict[int, answers.Kind] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    asked: int = 0
    stopping: bool = False

    async def client(self) -> None:
        """Ask, read, write down, until the gateway is gone."""
        while not self.stopping:
            try:
                client = await Client.connect(self.gateway.port)
            except ConnectionError:
                return
            try:
                while not self.stopping:
                    await self._one(client)
            except (Incomplete, ConnectionError):
                if not self.stopping:
                    return
            finally:
                await client.leave(reset=True)

    async def _one(self, client: Client) -> None:
        number = next(self.numbers)
        kind = self.kinds[number] = self.rng.choice(answers.KINDS)
        body = answers.request_body(kind, number, ask_usage=number % 2 == 0)
        self.asked += 1
        answer = await client.ask(answers.request(self.gateway.base, self.gateway.key, kind, body))
        if answer.status == 503:
            self.refused += 1
            raise Incomplete
        assert answer.status == 200, bytes(answer.body)
        text = bytes(answer.body)
        assert answers.tag(number).encode() in text
        if kind.ends_itself:
            assert answers.ENDING_MARKS[kind.format] in text[-len(text) // 2 :]
            assert answers.ERROR_MARKS[kind.format] not in text
        assert answer.receipt_id not in self.finished
        self.finished[answer.receipt_id] = number

    def script(self, seen: Seen) -> Script:
        """An answer for a request: three of four take their time."""
        kind = self.kinds[seen.number]
        reply = answers.reply(kind, seen.number)
        rng = random.Random(seen.number)
        think = rng.uniform(0.1, 0.8) if rng.random() < 0.75 else 0.0
        if not kind.stream:
            return Script([Pause(think), answers.head(kind, length=len(reply.body)), reply.body])
        pieces = answers.cut_anywhere(reply.body, 5, rng)
        steps: list[Step] = [answers.head(kind)]
        for piece in pieces:
            steps += [Pause(think / 5), answers.chunk(piece)]
        return Script([*steps, answers.LAST_CHUNK])


async def under_load(upstream: Upstream, load: Load) -> list[asyncio.Task[None]]:
    """Start the clients; returns once enough requests are in flight."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(load.client()) for _ in range(CLIENTS)]
    await enough_in_flight(upstream)
    return tasks


async def enough_in_flight(upstream: Upstream) -> None:
    async def now() -> int:
        return upstream.answering

    await eventually(now, lambda count: count >= IN_FLIGHT_MIN, 10)


def check(load: Load, since: int) -> Counter[str]:
    """Hold the store to what the clients know; returns how the receipts since then ended."""
    books = load.gateway.books(since)
    assert books.openings == 0, "a dead process left requests open"
    charged = Counter(ref for ref, _ in books.charges)
    assert set(charged.values()) <= {1}
    charges = dict(books.charges)
    entries = {entry.opening.id: entry for entry in books.entries}
    assert len(entries) == len(books.entries)
    assert len(entries) <= load.asked
    ended: Counter[str] = Counter()
    for entry in books.entries:
        failure = entry.failure
        number = load.finished.get(entry.opening.id)
        if entry.status == "succeeded":
            assert entry.cost_nano_usd == due_nano_usd(entry) > 0
            assert charges[entry.opening.id] == entry.cost_nano_usd
            assert entry.usage_source == "reported"
        else:
            assert number is None
            assert entry.status == "failed"
            assert failure is not None
            assert failure.stage == "gateway"
            assert entry.opening.id not in charges
            assert entry.cost_nano_usd in (0, None)
        if number is not None:
            assert entry.usage is not None
            usage = (entry.usage.input_tokens, entry.usage.output_tokens)
            assert usage == answers.usage_of(number)
        ended["acknowledged" if number is not None else entry.status] += 1
    lost = set(load.finished) - set(entries)
    assert not lost, f"{len(lost)} acknowledged answers have no receipt: {sorted(lost)[:3]}"
    return ended


async def verified_by_command(gateway: Gateway) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "receipts", "verify", "--config", str(gateway.config),
        cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, out


async def test_what_a_client_read_to_its_end_survives_kill_9(tmp_path: Path) -> None:
    rng = seeded(1)
    numbers = itertools.count(1)
    totals: Counter[str] = Counter()
    flights: list[int] = []
    async with Upstream() as upstream, running(tmp_path, Setup(upstream.port)) as gateway:
        for kill in range(KILLS):
            since = gateway.last_sequence()
            load = Load(gateway, numbers, rng)
            upstream.make = load.script
            tasks = await under_load(upstream, load)
            await asyncio.sleep(rng.uniform(0.0, 0.5))  # the random moment is the test
            await enough_in_flight(upstream)
            flights.append(upstream.answering)
            await gateway.kill()
            await asyncio.gather(*tasks)
            begun = time.monotonic()
            await gateway.start()
            totals["restart_ms"] += round((time.monotonic() - begun) * 1000)
            totals += check(load, since)
            assert load.refused == 0
            if kill % 10 == 9:
                gateway.check_books()
        verdict = gateway.check_books()
        await verified_by_command(gateway)
        totals["verified"] = verdict.checked
    assert min(flights) >= IN_FLIGHT_MIN
    assert totals["acknowledged"] > KILLS * 20
    assert totals["failed"] >= KILLS * IN_FLIGHT_MIN // 2, "the kills did not hit requests"
    print(f"{KILLS} kills, {min(flights)}-{max(flights)} in flight: {dict(totals)}")  # noqa: T201


async def test_sigterm_lets_streams_end_and_every_answer_read_has_its_receipt(
    tmp_path: Path,
) -> None:
    rng = seeded(15)
    numbers = itertools.count(1)
    drain_s = 1.0
    totals: Counter[str] = Counter()
    slowest = 0.0
    async with (
        Upstream() as upstream,
        running(tmp_path, Setup(upstream.port, drain_s=drain_s)) as gateway,
    ):
        for term in range(TERMS):
            since = gateway.last_sequence()
            load = Load(gateway, numbers, rng)
            upstream.make = load.script
            if term % 2:  # every other time some streams never end and must be cut
                upstream.make = lambda seen, load=load: _endless(load, seen)
            tasks = await under_load(upstream, load)
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            load.stopping = True
            begun = time.monotonic()
            gateway.terminate()
            assert await asyncio.wait_for(gateway.ended(), drain_s + 10) == 0
            took = time.monotonic() - begun
            slowest = max(slowest, took)
            assert took <= drain_s + 2
            await asyncio.gather(*tasks)
            await gateway.start()
            totals += check(load, since)
        gateway.check_books()
    assert totals["acknowledged"] > TERMS * IN_FLIGHT_MIN // 2
    print(f"{TERMS} SIGTERMs, slowest exit {slowest:.2f} s: {dict(totals)}")  # noqa: T201


def _endless(load: Load, seen: Seen) -> Script:
    script = load.script(seen)
    if load.kinds[seen.number].stream and seen.number % 3 == 0:
        script.steps = [*script.steps[:4], "stall"]
    return script
