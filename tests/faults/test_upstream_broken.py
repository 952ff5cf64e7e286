"""An upstream that is cut, reset, stalled or garbled at any byte of its head and its body.

One receipt each, with the stage where it broke; the client gets a real error status while nothing
was sent, else what came, then one error event of its format. Never an ending that the upstream did
not send, never an error behind a complete answer, no charge but for what was reported.
"""

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import fault_answers as answers
import orjson
import pytest
from fault_client import Answer, ask
from fault_gateway import Books, Gateway, Setup, due_nano_usd, running, scaled, seeded
from fault_upstream import Script, Step, Upstream

from gateway.ledger.entry import Entry

pytestmark = pytest.mark.faults

CUTS = scaled(16, 100)
"""Random bytes at which the upstream breaks, for each kind and each way of breaking."""

AT_ONCE = 60
BASE_BYTES = 700
FIRST_BYTE_S = IDLE_S = 1.5

Way = Literal["cut", "reset", "stall", "garbage"]
Framing = Literal["length", "chunked", "close"]


@dataclass
class Case:
    """An answer of which `at` bytes are sent, head included, before it breaks."""

    number: int
    kind: answers.Kind
    way: Way
    framing: Framing
    reply: answers.Reply
    head_bytes: int
    at: int
    script: Script
    wire: bytes

    @property
    def size(self) -> int:
        return BASE_BYTES + self.number

    @property
    def body(self) -> bytes:
        """What came of the body."""
        rest = self.wire[self.head_bytes : self.at]
        return answers.dechunked(rest) if self.framing == "chunked" else rest

    @property
    def in_head(self) -> bool:
        return self.at < self.head_bytes

    def __str__(self) -> str:
        where = f"{self.at} of {self.head_bytes}+{len(self.wire) - self.head_bytes}"
        return f"{self.kind.name} {self.framing} {self.way} at {where}, body {len(self.body)}"


def a_case(kind: answers.Kind, way: Way, number: int, rng: random.Random) -> Case:
    reply = answers.reply(kind, number)
    framing: Framing = "chunked" if kind.stream or rng.random() < 0.5 else "length"
    if framing == "length":
        head, body = answers.head(kind, length=len(reply.body)), reply.body
    else:
        head = answers.head(kind)
        pieces = answers.cut_anywhere(reply.body, rng.randint(1, 20), rng)
        body = b"".join(map(answers.chunk, pieces)) + answers.LAST_CHUNK
    wire = head + body
    # One in four within the head, which is short; one in eight where hardly more than
    # the framing's end lacks.
    at = rng.randrange(len(wire))
    if rng.random() < 0.25:
        at = rng.randrange(len(head))
    elif rng.random() < 0.125:
        at = len(wire) - rng.randint(1, 12)
    steps: list[Step] = [wire[:at]] if at else []
    if way == "garbage":
        steps += [bytes(rng.randrange(256) for _ in range(200)), "cut"]
    else:
        steps += [way]
    return Case(number, kind, way, framing, reply, len(head), at, Script(steps), wire)


async def run(
    gateway: Gateway, upstream: Upstream, cases: list[Case]
) -> list[tuple[Case, Answer, Entry]]:
    """Ask for every case, AT_ONCE at once; the answers and the receipts, one each."""
    got: dict[int, Answer] = {}
    free = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> None:
        upstream.scripts[case.number] = case.script
        body = answers.request_body(case.kind, case.number, size=case.size)
        async with free:
            got[case.number] = await ask(
                gateway.port, answers.request(gateway.base, gateway.key, case.kind, body)
            )

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(one(case))
    await gateway.idle()
    books = gateway.books()
    assert books.openings == 0
    assert len(books.entries) == len(cases)
    return [(case, got[case.number], _receipt(books, case, got[case.number])) for case in cases]


def _receipt(books: Books, case: Case, answer: Answer) -> Entry:
    entries = books.by_bytes().get(case.size, [])
    assert len(entries) == 1, str(case)
    entry = entries[0]
    assert answer.receipt_id == entry.opening.id, str(case)
    amounts = [nano for ref, nano in books.charges if ref == entry.opening.id]
    assert entry.cost_nano_usd == due_nano_usd(entry), str(case)
    assert amounts == ([entry.cost_nano_usd] if entry.cost_nano_usd else []), str(case)
    assert case.script.received in (1, 2), str(case)  # twice: a used connection was found closed
    return entry


def is_error_status(case: Case, answer: Answer, entry: Entry, stages: dict[str, int]) -> None:
    """A whole error answer in the caller's format, one of the (stage, status) given, no charge."""
    failure = entry.failure
    assert failure is not None, str(case)
    assert (entry.status, entry.usage, entry.cost_nano_usd) == ("failed", None, 0), str(case)
    assert failure.stage in stages, f"{case}: {failure}"
    assert answer.status == entry.http_status == stages[failure.stage], f"{case}: {answer.status}"
    assert answer.whole
    assert answer.headers[b"content-type"].startswith(b"application/json")
    error = orjson.loads(bytes(answer.body))["error"]
    if case.kind.format == "gemini":
        assert error["code"] == answer.status
    elif case.kind.format == "anthropic_messages":
        assert error["type"]
    else:
        assert error["code"] == failure.code
    assert error["message"]


def split(case: Case, body: bytes) -> tuple[bytes, bytes]:
    """What came through, and the error event behind it."""
    mark = b',\n{"error"' if case.kind.array else answers.ERROR_MARKS[case.kind.format]
    at = body.rfind(mark)
    return (body, b"") if at < 0 else (body[:at], body[at:])


def is_error_event(case: Case, event: bytes) -> None:
    """One well-formed event in the stream's format."""
    if case.kind.array:
        assert orjson.loads(event[2:-2])["error"]["message"], str(case)
        assert event.endswith(b"\n]")
        return
    assert event.endswith((b"\n\n", b"\r\n\r\n")), str(case)
    data = event[event.index(b"data: ") + 6 :]
    value = orjson.loads(data)
    error = value["response"]["error"] if "response" in value else value["error"]
    assert error["message"], str(case)


def stream_is_told_broken(case: Case, answer: Answer, entry: Entry, stage: str) -> None:
    """Whole events as they came, one error event, the end; charged is what was reported so far."""
    body = bytes(answer.body)
    came, event = split(case, body)
    assert answer.status == 200, str(case)
    assert answer.whole, str(case)
    is_error_event(case, event)
    whole = case.reply.whole_events(len(case.body))
    assert case.body.startswith(came), str(case)
    if not case.kind.array:
        assert came == b"".join(case.reply.events[:whole]), str(case)
    if case.kind.ends_itself:
        assert answers.ENDING_MARKS[case.kind.format] not in body, str(case)
    assert entry.status == "failed", str(case)
    assert entry.failure is not None
    assert entry.failure.stage == stage, f"{case}: {entry.failure}"
    usage = entry.usage and (entry.usage.input_tokens, entry.usage.output_tokens)
    assert usage in case.reply.reported(len(case.body)), str(case)
    assert entry.usage_source == ("partial" if usage else "none"), str(case)


def is_complete(case: Case, answer: Answer, entry: Entry) -> None:
    """All of the answer and nothing behind it: only the framing's end was missing."""
    assert answer.status == 200, str(case)
    assert bytes(answer.body) == case.reply.body, str(case)
    assert answer.whole, str(case)
    assert (entry.status, entry.usage_source) == ("succeeded", "reported"), str(case)
    assert entry.usage is not None
    assert (entry.usage.input_tokens, entry.usage.output_tokens) == case.reply.usage


def ends_within(case: Case) -> bool:
    """Whether the answer's own ending was among what came."""
    return case.kind.stream and case.body == case.reply.body


def holds(case: Case, answer: Answer, entry: Entry) -> str:
    """Judge a clean break (cut or stall) at a known byte; returns what it was."""
    timed = case.way == "stall"
    if case.in_head:
        stages = {"upstream_timeout": 504} if timed else {"upstream_connect": 503}
        is_error_status(case, answer, entry, stages)
        return "no head"
    if not case.kind.stream:
        stages = {"upstream_timeout": 504} if timed else {"upstream_stream": 502}
        is_error_status(case, answer, entry, stages)
        return "no whole body"
    if ends_within(case):
        is_complete(case, answer, entry)
        return "complete"
    stage = "upstream_timeout" if timed else "upstream_stream"
    if answer.status != 200:
        assert case.reply.whole_events(len(case.body)) == 0, str(case)
        is_error_status(case, answer, entry, {stage: 504 if timed else 502})
        return "no whole event"
    stream_is_told_broken(case, answer, entry, stage)
    return "mid-stream"


async def all_of(
    gateway: Gateway, upstream: Upstream, ways: tuple[Way, ...], seed: int
) -> list[tuple[Case, Answer, Entry]]:
    rng = seeded(seed)
    numbers = itertools.count(1)
    cases = [
        a_case(kind, way, next(numbers), rng)
        for way in ways
        for kind in answers.KINDS
        for _ in range(CUTS)
    ]
    rng.shuffle(cases)
    baseline = gateway.descriptors()
    judged = await run(gateway, upstream, cases)
    upstream.close_all()
    await gateway.descriptors_back(baseline)
    gateway.check_books()
    return judged


async def test_an_upstream_that_closes_in_mid_answer(tmp_path: Path) -> None:
    async with Upstream() as upstream, running(tmp_path, Setup(upstream.port)) as gateway:
        judged = await all_of(gateway, upstream, ("cut",), 21)
        ended = Counter(holds(*one) for one in judged)
    assert min(ended[one] for one in ENDINGS) > 0, ended
    print(f"{len(judged)} cuts: {dict(ended)}")  # noqa: T201


async def test_an_upstream_that_stalls_in_mid_answer(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        setup = Setup(upstream.port, first_byte_s=FIRST_BYTE_S, idle_s=IDLE_S)
        async with running(tmp_path, setup) as gateway:
            judged = await all_of(gateway, upstream, ("stall",), 22)
            ended = Counter(holds(*one) for one in judged)
            for case, _, entry in judged:
                if entry.status == "failed":
                    assert entry.total_ms >= 1000 * min(FIRST_BYTE_S, IDLE_S), str(case)
                assert case.script.closed.is_set(), str(case)
    assert min(ended[one] for one in ENDINGS) > 0, ended
    print(f"{len(judged)} stalls: {dict(ended)}")  # noqa: T201


ENDINGS = ("no head", "no whole body", "complete", "no whole event", "mid-stream")


def holds_whatever_came(case: Case, answer: Answer, entry: Entry) -> str:
    """Judge a break that may have destroyed what was sent before it, or changed it."""
    body = bytes(answer.body)
    if answer.status != 200:
        is_error_status(
            case,
            answer,
            entry,
            {"upstream_connect": 503, "upstream_stream": 502, "upstream_status": 502},
        )
        return "error status"
    assert case.kind.stream, str(case)
    came, event = split(case, body)
    if entry.status == "succeeded":
        assert event == b"", str(case)
        assert answers.ENDING_MARKS[case.kind.format] in body, str(case)
        return "complete"
    assert entry.failure is not None
    assert entry.failure.stage == "upstream_stream", str(case)
    if event:
        is_error_event(case, event)
    if case.kind.ends_itself and case.reply.whole_events(len(case.body)) < len(case.reply.events):
        assert answers.ENDING_MARKS[case.kind.format] not in came, str(case)
    if case.way == "reset":
        assert event, str(case)
        assert case.body.startswith(came), str(case)
    assert entry.usage is None or entry.usage_source == "partial", str(case)
    return "mid-stream"


async def test_an_upstream_that_resets_or_sends_garbage(tmp_path: Path) -> None:
    async with Upstream() as upstream, running(tmp_path, Setup(upstream.port)) as gateway:
        judged = await all_of(gateway, upstream, ("reset", "garbage"), 23)
        ended = Counter((one[0].way, holds_whatever_came(*one)) for one in judged)
    assert len(ended) >= 4, ended
    print(f"{len(judged)} resets and garbled answers: {dict(ended)}")  # noqa: T201


async def test_an_unreachable_upstream_is_told_as_such(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        port = upstream.port
    async with running(tmp_path, Setup(port)) as gateway:
        for number, kind in enumerate(answers.KINDS, 1):
            body = answers.request_body(kind, number, size=BASE_BYTES + number)
            data = answers.request(gateway.base, gateway.key, kind, body)
            answer = await ask(gateway.port, data)
            assert answer.status == 503
            assert b"retry-after" in answer.headers
        books = gateway.books()
        assert len(books.entries) == len(answers.KINDS)
        assert {one.failure and one.failure.stage for one in books.entries} == {"upstream_connect"}
        assert books.charges == []


async def test_a_close_delimited_stream_that_ends_early_is_no_success(tmp_path: Path) -> None:
    rng = seeded(24)
    async with Upstream() as upstream, running(tmp_path, Setup(upstream.port)) as gateway:
        cases = []
        for number, kind in enumerate([*answers.KINDS] * 6, 1):
            reply = answers.reply(kind, number)
            at = rng.randrange(1, len(reply.body) - 4)
            head = answers.head(kind, close=True)
            steps: list[Step] = [head + reply.body[:at], "cut"]
            wire = head + reply.body
            cases.append(
                Case(
                    number, kind, "cut", "close", reply, len(head), len(head) + at, Script(steps),
                    wire,
                )
            )  # fmt: skip
        for case, answer, entry in await run(gateway, upstream, cases):
            assert entry.status == "failed", str(case)
            assert entry.failure is not None
            if not case.kind.stream:
                is_error_status(case, answer, entry, {"upstream_status": 502})
                continue
            assert entry.failure.stage == "upstream_stream", str(case)
            came, _ = split(case, bytes(answer.body))
            assert case.body.startswith(came), str(case)
            assert entry.usage_source in ("partial", "none"), str(case)
