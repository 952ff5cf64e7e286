"""A client that leaves: during its upload, before any answer, at any byte of it, with FIN or RST.

In each case exactly one receipt, with the charge of the billing table; the upstream is closed
within a second (`cancel`) or read on to its end within bounds (`drain`); nothing stays behind.
"""

import asyncio
import itertools
import random
import time
from dataclasses import dataclass
from pathlib import Path

import fault_answers as answers
import pytest
from fault_client import Client
from fault_gateway import Books, Gateway, Setup, due_nano_usd, eventually, running, scaled, seeded
from fault_upstream import Script, Step, Upstream

from gateway.ledger.entry import Entry

pytestmark = pytest.mark.faults

CUTS = scaled(12, 100)
"""Random bytes of the answer at which a client leaves, for each kind and each policy."""

AT_ONCE = 36
CLOSE_S = 1.0
ABORTS = scaled(400, 2000)
RSS_GROWTH_KIB_MAX = 8 * 1024
BASE_BYTES = 700


@dataclass
class Case:
    """One client that leaves when it has what `sent` bytes of the answer's body let it have."""

    number: int
    kind: answers.Kind
    reply: answers.Reply
    sent: int
    script: Script
    reset: bool

    @property
    def size(self) -> int:
        return BASE_BYTES + self.number

    @property
    def ended(self) -> bool:
        """Whether the terminal event was among what was sent."""
        return self.kind.ends_itself and self.sent == len(self.reply.body)

    @property
    def readable(self) -> int:
        """The bytes of the body that must reach the client: whole events."""
        if not self.kind.stream:
            return 0
        return sum(map(len, self.reply.events[: self.reply.whole_events(self.sent)]))


def a_case(kind: answers.Kind, number: int, rng: random.Random) -> Case:
    reply = answers.reply(kind, number)
    # One in ten has all but the end of the framing: its receipt is made, the upstream open.
    sent = rng.randint(0 if not kind.stream else 1, len(reply.body) - 1)
    if rng.random() < 0.1:
        sent = len(reply.body)
    first, rest = reply.body[:sent], reply.body[sent:]
    steps: list[Step] = [answers.head(kind) + answers.chunk(first), "hold"]
    steps += [answers.chunk(rest) + answers.LAST_CHUNK]
    return Case(number, kind, reply, sent, Script(steps), rng.random() < 0.5)


async def leave(gateway: Gateway, upstream: Upstream, case: Case) -> None:
    """Ask, read as far as it goes, leave."""
    upstream.scripts[case.number] = case.script
    body = answers.request_body(case.kind, case.number, size=case.size)
    assert len(body) == case.size
    client = await Client.connect(gateway.port)
    client.send(answers.request(gateway.base, gateway.key, case.kind, body))
    await case.script.at_hold.wait()
    if case.readable:
        answer = await client.read(case.readable)
        assert answer.status == 200
        assert case.reply.body.startswith(bytes(answer.body))
        assert len(answer.body) >= case.readable
    await client.leave(reset=case.reset)


async def closed_in_time(case: Case) -> None:
    begun = time.monotonic()
    await asyncio.wait_for(case.script.closed.wait(), CLOSE_S)
    assert time.monotonic() - begun < CLOSE_S


def charged(books: Books, entry: Entry) -> None:
    """A receipt's charge is its cost, which is what its tokens come to."""
    amounts = [nano for ref, nano in books.charges if ref == entry.opening.id]
    assert entry.cost_nano_usd == due_nano_usd(entry)
    assert amounts == ([entry.cost_nano_usd] if entry.cost_nano_usd else [])


def only(books: Books, case: Case) -> Entry:
    entries = books.by_bytes().get(case.size, [])
    assert len(entries) == 1, (case.kind.name, case.sent, entries)
    charged(books, entries[0])
    return entries[0]


def is_cancelled(entry: Entry) -> None:
    assert entry.status == "cancelled"
    assert entry.failure is not None
    assert entry.failure.stage == "client_disconnect"


def cancel_is_billed(entry: Entry, case: Case) -> None:
    """Reported input and counted output; what an answer told whole before the client left."""
    if case.ended:
        assert (entry.status, entry.usage_source) == ("succeeded", "reported")
        assert entry.usage is not None
        assert (entry.usage.input_tokens, entry.usage.output_tokens) == case.reply.usage
        return
    is_cancelled(entry)
    if not case.kind.stream:
        assert (entry.usage, entry.usage_source, entry.cost_nano_usd) == (None, "none", 0)
        return
    known = case.reply.reported(case.sent)
    if entry.usage is None:
        assert None in known
        assert case.readable == 0 or not _has_text(case)
        return
    usage = (entry.usage.input_tokens, entry.usage.output_tokens)
    if entry.usage_source == "estimated":
        assert None in known
        assert 0 < usage[1] <= case.sent
        assert usage[0] == -(-case.size // 4)
        return
    reported = {one for one in known if one is not None}
    assert usage[0] in {one[0] for one in reported}
    assert usage[1] >= min(one[1] for one in reported)
    if entry.usage_source == "reported":
        assert usage in reported
    else:
        assert entry.usage_source == "partial"


def _has_text(case: Case) -> bool:
    return b"word" in case.reply.body[: case.readable]


async def in_batches(
    gateway: Gateway, upstream: Upstream, rng: random.Random, *, drain: bool
) -> list[Case]:
    """Every kind, CUTS times, some at once; all clients have left when it returns."""
    numbers = itertools.count(1)
    cases = [a_case(kind, next(numbers), rng) for kind in answers.KINDS for _ in range(CUTS)]
    rng.shuffle(cases)
    for start in range(0, len(cases), AT_ONCE):
        batch = cases[start : start + AT_ONCE]
        async with asyncio.TaskGroup() as group:
            for case in batch:
                group.create_task(leave(gateway, upstream, case))
        if drain:
            # Answered after the clients' ends were read: nothing is released before that.
            assert (await gateway.get("/healthz")).status == 200
            for case in batch:
                case.script.go.set()
        else:
            await asyncio.gather(*(closed_in_time(case) for case in batch))
    await gateway.idle()
    return cases


async def test_cancel_closes_the_upstream_at_once_and_bills_what_is_known(tmp_path: Path) -> None:
    rng = seeded(7)
    async with Upstream() as upstream, running(tmp_path, Setup(upstream.port)) as gateway:
        baseline = gateway.descriptors()
        cases = await in_batches(gateway, upstream, rng, drain=False)
        books = gateway.books()
        assert books.openings == 0
        assert len(books.entries) == len(cases)
        for case in cases:
            cancel_is_billed(only(books, case), case)
            assert case.script.received == 1
        sources = {entry.usage_source for entry in books.entries}
        assert sources == {"reported", "partial", "estimated", "none"}
        upstream.close_all()
        await gateway.descriptors_back(baseline)
        gateway.check_books()
    print(f"{len(cases)} clients left under cancel")  # noqa: T201


async def test_drain_reads_on_to_the_reported_usage(tmp_path: Path) -> None:
    rng = seeded(8)
    async with (
        Upstream() as upstream,
        running(tmp_path, Setup(upstream.port, on_disconnect="drain")) as gateway,
    ):
        baseline = gateway.descriptors()
        cases = await in_batches(gateway, upstream, rng, drain=True)
        books = gateway.books()
        assert books.openings == 0
        assert len(books.entries) == len(cases)
        for case in cases:
            entry = only(books, case)
            if case.ended:
                assert entry.status == "succeeded"
            else:
                is_cancelled(entry)
                assert case.script.finished == 1
            assert entry.usage_source == "reported"
            assert entry.usage is not None
            assert (entry.usage.input_tokens, entry.usage.output_tokens) == case.reply.usage
        upstream.close_all()
        await gateway.descriptors_back(baseline)
        gateway.check_books()
    print(f"{len(cases)} clients left under drain")  # noqa: T201


async def test_drain_stops_at_its_bound_of_bytes(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        running(
            tmp_path, Setup(upstream.port, on_disconnect="drain", drain_bytes=20_000)
        ) as gateway,
    ):
        for number, kind in enumerate(answers.KINDS, 1):
            reply = answers.reply(kind, number)
            flood = answers.chunk(b": keep-alive\n\n" * 40 if not kind.array else b" " * 560)
            start = sum(map(len, reply.events[:-1])) if kind.stream else 10
            steps: list[Step] = [answers.head(kind) + answers.chunk(reply.body[:start]), "hold"]
            script = Script([*steps, *[flood] * 5_000])
            case = Case(number, kind, reply, start, script, reset=False)
            await leave(gateway, upstream, case)
            assert (await gateway.get("/healthz")).status == 200
            script.go.set()
            await closed_in_time(case)
            assert script.finished == 0
        await gateway.idle()
        books = gateway.books()
        assert len(books.entries) == len(answers.KINDS)
        for entry in books.entries:
            is_cancelled(entry)
            charged(books, entry)


async def test_drain_stops_at_its_bound_of_time(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        running(
            tmp_path, Setup(upstream.port, on_disconnect="drain", billing_drain_s=0.7)
        ) as gateway,
    ):
        rng = seeded(3)
        cases = [a_case(kind, number, rng) for number, kind in enumerate(answers.KINDS, 1)]
        begun = time.monotonic()
        for case in cases:
            case.script.steps = [*case.script.steps[:2], "stall"]
            case.script.go.set()
        async with asyncio.TaskGroup() as group:
            for case in cases:
                group.create_task(leave(gateway, upstream, case))
        open_ones = [case for case in cases if not case.ended]
        for case in open_ones:
            await asyncio.wait_for(case.script.closed.wait(), 0.7 + CLOSE_S)
        assert time.monotonic() - begun >= 0.65
        await gateway.idle()
        books = gateway.books()
        for case in open_ones:
            is_cancelled(only(books, case))


@pytest.mark.parametrize("policy", ["cancel", "drain"])
async def test_leaving_during_the_upload_or_before_any_answer(tmp_path: Path, policy: str) -> None:
    rng = seeded(9)
    async with (
        Upstream() as upstream,
        running(tmp_path, Setup(upstream.port, on_disconnect=policy)) as gateway,
    ):
        baseline = gateway.descriptors()
        uploads = 0
        waiting: list[Case] = []
        for number in range(1, CUTS * 3):
            kind = rng.choice(answers.KINDS)
            body = answers.request_body(kind, number, size=BASE_BYTES + number)
            data = answers.request(gateway.base, gateway.key, kind, body)
            client = await Client.connect(gateway.port)
            if number % 2:
                uploads += 1
                client.send(data[: -rng.randint(1, len(body))])
                await client.writer.drain()
            else:
                reply = answers.reply(kind, number)
                steps: list[Step] = ["hold", answers.head(kind, length=len(reply.body))]
                script = Script([*steps, reply.body])
                waiting.append(Case(number, kind, reply, 0, script, reset=False))
                upstream.scripts[number] = script
                client.send(data)
                await script.at_hold.wait()
            assert (await gateway.get("/healthz")).status == 200
            await client.leave(reset=rng.random() < 0.5)
        assert (await gateway.get("/healthz")).status == 200
        if policy == "cancel":
            await asyncio.gather(*(closed_in_time(case) for case in waiting))
        for case in waiting:
            case.script.go.set()
        await gateway.idle()
        books = gateway.books()
        assert len(books.entries) == uploads + len(waiting)
        for entry in books.by_bytes()[0]:
            is_cancelled(entry)
            assert (entry.usage, entry.cost_nano_usd) == (None, 0)
        assert len(books.by_bytes()[0]) == uploads
        for case in waiting:
            entry = only(books, case)
            is_cancelled(entry)
            if policy == "cancel":
                assert (entry.usage, entry.usage_source, entry.cost_nano_usd) == (None, "none", 0)
            else:
                assert entry.usage is not None
                assert (entry.usage.input_tokens, entry.usage.output_tokens) == case.reply.usage
        upstream.close_all()
        await gateway.descriptors_back(baseline)


async def test_aborted_requests_leave_no_memory_behind(tmp_path: Path) -> None:
    rng = seeded(11)
    numbers = itertools.count(1)
    async with Upstream() as upstream, running(tmp_path, Setup(upstream.port)) as gateway:
        baseline = gateway.descriptors()

        async def abort(count: int) -> None:
            for _ in range(count // 20):
                batch = [a_case(rng.choice(answers.KINDS), next(numbers), rng) for _ in range(20)]
                async with asyncio.TaskGroup() as group:
                    for case in batch:
                        group.create_task(leave(gateway, upstream, case))
                await asyncio.gather(*(closed_in_time(case) for case in batch))
                for case in batch:
                    del upstream.scripts[case.number]
            await gateway.idle()

        await abort(ABORTS // 2)
        before = gateway.rss_kib()
        await abort(ABORTS)
        grown = gateway.rss_kib() - before
        assert grown <= RSS_GROWTH_KIB_MAX
        upstream.close_all()
        await gateway.descriptors_back(baseline)
        assert len(gateway.books().entries) == ABORTS // 2 + ABORTS
    print(f"{ABORTS} aborts: RSS {before} KiB, {grown:+} KiB")  # noqa: T201


async def test_an_upload_that_breaks_off_takes_its_upstream_along(tmp_path: Path) -> None:
    async with Upstream() as upstream, running(tmp_path, Setup(upstream.port)) as gateway:
        baseline = gateway.descriptors()
        upstream.make = lambda _: Script(["stall"])

        async def open_connections() -> int:
            return len(upstream.connections)

        for round_, malformed in enumerate([False, True] * 5, 1):
            head = (
                f"POST /v1/files HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {gateway.key}"
                "\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                "Transfer-Encoding: chunked\r\n\r\n"
            ).encode()
            before = upstream.bytes_in
            client = await Client.connect(gateway.port)
            client.send(head + answers.chunk(b"u" * 50_000))

            async def arrived(before: int = before) -> int:
                return upstream.bytes_in - before

            await eventually(arrived, lambda count: count >= 50_000, 5)
            if malformed:
                client.send(b"zz\r\nnot a chunk\r\n")
                answer = await client.read()
                assert answer.status == 400
            await client.leave(reset=round_ % 3 == 0)
            await eventually(open_connections, lambda count: count == 0, CLOSE_S)
        await gateway.idle()
        books = gateway.books()
        stages = [entry.failure and entry.failure.stage for entry in books.entries]
        assert sorted(map(str, stages)) == ["client_disconnect"] * 5 + ["validation"] * 5
        assert books.charges == []
        await gateway.descriptors_back(baseline)


async def test_a_malformed_body_is_refused_at_once(tmp_path: Path) -> None:
    async with Upstream() as upstream, running(tmp_path, Setup(upstream.port)) as gateway:
        for kind in answers.KINDS:
            client = await Client.connect(gateway.port)
            head = (
                f"POST {answers.path(kind)} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer "
                f"{gateway.key}\r\nContent-Type: application/json\r\n"
                "Transfer-Encoding: chunked\r\n\r\n"
            ).encode()
            client.send(head + answers.chunk(b'{"model":'))
            await client.writer.drain()
            assert (await gateway.get("/healthz")).status == 200
            client.send(b"zz\r\nnot a chunk\r\n")
            begun = time.monotonic()
            answer = await client.read()
            assert answer.status == 400
            assert time.monotonic() - begun < CLOSE_S
            await client.leave()
        await gateway.idle()
        books = gateway.books()
        assert len(books.entries) == len(answers.KINDS)
        assert {one.failure and one.failure.stage for one in books.entries} == {"validation"}
        assert upstream.accepted == 0
