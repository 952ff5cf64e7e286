"""Routes whose targets fail in every way at once, in every format, over shared connections.

The client of each call gets the answer of the first target that has one, whole and unmixed, or one
503; its receipt names every attempt in order; it pays for that answer alone, at its target's price.
"""

import asyncio
import contextlib
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import fault_answers as answers
import msgspec
import pytest
from fault_gateway import scaled, seeded
from harness import Answer, Call, Running, Upstream, reply, scenario, serving
from route_cases import STATUSES, TARGETS_MAX, WAYS, Case, Told, error_body, foretell, make

from gateway.accounts.changes import KeySpec
from gateway.ledger import money
from gateway.ledger.catalog import Catalog

pytestmark = pytest.mark.faults

CASES = scaled(300, 3000)
AT_ONCE = 12
SILENCE_S = 0.5
"""How long an upstream is waited for; the sweep that sees to it comes four times a second."""

CREDIT_NANO_USD = 10**15
WIDE = KeySpec(rpm=10**9, tpm=10**12, concurrent=10**6)
_TAG = re.compile(rb"tag-\d{6}")
_KEY = re.compile(rb"key-(\d)-of-p(\d+)-(\d)")


class Upstreams:
    """The upstreams of all cases: they find the case by the key that a request comes with."""

    def __init__(self, cases: list[Case]) -> None:
        self.cases = cases
        self.met: Counter[str] = Counter()
        self._used: set[asyncio.StreamWriter] = set()

    async def answer(self, call: Call) -> None:
        found = set(_KEY.findall(call.head))
        assert len(found) == 1, call.head
        key, number, target = map(int, found.pop())
        case, asked = self.cases[number], (target, key)
        aim = case.aims[target]
        way = aim.ways[key]
        self.met[way] += 1
        if case.asked[-1:] != [asked]:
            case.asked.append(asked)
        else:
            # Once more, and on a fresh connection, after one that had been used before.
            assert way in ("goes_stale", "closes", "resets"), (case, asked)
            assert call.writer not in self._used, (case, asked)
        assert call.target.startswith(f"/{aim.provider}/")
        if case.kind.format == "gemini":
            assert f"/models/{aim.model}:" in call.target
        else:
            assert msgspec.json.decode(call.body)["model"] == aim.model
        await self._play(call, case, asked)

    async def _play(self, call: Call, case: Case, asked: tuple[int, int]) -> None:
        way = case.aims[asked[0]].ways[asked[1]]
        reused = call.writer in self._used
        self._used.add(call.writer)
        if way in STATUSES:
            await self._say_status(call, case, asked)
        elif way == "closes" or (way == "goes_stale" and reused):
            call.close()
        elif way == "resets":
            call.reset()
        elif way == "stalls":
            await call.gone(30)
        elif way == "garbles":
            await call.send(b"SMTP ready, say hello\r\n\r\n")
        elif way in ("cuts_body", "stalls_in_body"):
            body = case.reply(*asked).body
            head = answers.head(case.kind, length=len(body))
            await call.send(head, body[: int(len(body) * case.cut)])
            await self._break(call, stalls=way == "stalls_in_body")
        elif way in ("cuts_opening", "stalls_in_opening", "cuts_late"):
            sent = case.late(*asked) if way == "cuts_late" else case.opening(*asked)
            await call.send(answers.head(case.kind), answers.chunk(sent))
            await self._break(call, stalls=way == "stalls_in_opening")
        elif way == "opens_with_error":
            await call.send(
                answers.head(case.kind), answers.chunk(case.fault(*asked)), answers.LAST_CHUNK
            )
        else:
            await self._answer(call, case, asked)

    async def _answer(self, call: Call, case: Case, asked: tuple[int, int]) -> None:
        events = case.reply(*asked).events
        if case.kind.stream:
            pieces = [answers.chunk(event) for event in events]
            await call.send(answers.head(case.kind), *pieces, answers.LAST_CHUNK)
        else:
            await call.send(answers.head(case.kind, length=len(events[0])) + events[0])

    async def _say_status(self, call: Call, case: Case, asked: tuple[int, int]) -> None:
        way = case.aims[asked[0]].ways[asked[1]]
        number = case.aims[asked[0]].numbers[asked[1]]
        fields = []
        if way == "says_429":
            fields.append((b"retry-after", b"30"))
        elif way == "says_429_now":
            fields.append((b"retry-after", b"0"))
        status = STATUSES[way]
        await call.send(reply(error_body(number, status), status=status, fields=fields))

    async def _break(self, call: Call, *, stalls: bool) -> None:
        if stalls:
            await call.gone(30)
        else:
            call.close()


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """The URL of a port that is nobody else's and does not listen."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextlib.asynccontextmanager
async def gateway_of(
    cases: list[Case], directory: Path
) -> AsyncIterator[tuple[Running, Counter[str]]]:
    """A gateway whose routes are these cases, before upstreams that play them."""
    behind = Upstreams(cases)
    async with contextlib.AsyncExitStack() as stack:
        urls = [
            (await stack.enter_async_context(Upstream(behind.answer).running())).url
            for _ in range(TARGETS_MAX)
        ]
        dead = stack.enter_context(refusing())
        text = f"""
[server]
port = 0
[store]
path = "{directory / "gateway.db"}"
[upstream]
connect_seconds = 5
first_byte_seconds = {SILENCE_S}
idle_seconds = {SILENCE_S}
[byok]
enabled = false
"""
        text += "".join(case.config(urls, dead) for case in cases)
        yield await stack.enter_async_context(serving(text)), behind.met


def check_client(case: Case, told: Told, answer: Answer) -> None:
    """The client saw one answer: that of the target foretold, or the gateway's own refusal."""
    assert answer.status == told.status, (case, told, answer)
    if told.by is None:
        assert _TAG.findall(answer.body) == [], (case, answer)
        check_refusal(case, told, answer)
        return
    aim = case.aims[told.by[0]]
    number, way = aim.numbers[told.by[1]], aim.ways[told.by[1]]
    tags = set(_TAG.findall(answer.body))
    assert tags <= {answers.tag(number).encode()}, (case, told, answer)
    reply = case.reply(*told.by)
    if way in ("answers", "goes_stale"):
        assert answer.complete
        assert answer.body == case.whole(*told.by), (case, answer)
    elif way in STATUSES:
        assert answer.body == error_body(number, STATUSES[way])
    elif way == "opens_with_error":
        assert answer.body == case.fault(*told.by)
    else:
        sent = case.late(*told.by) if way == "cuts_late" else case.opening(*told.by)
        whole = b"".join(reply.events[: reply.whole_events(len(sent))])
        assert answer.body.startswith(whole), (case, answer)
        after = answer.body[len(whole) :]
        mark = answers.ERROR_MARKS[case.kind.format]
        assert after.count(b'{"error"' if case.kind.array else mark) == 1, (case, answer)
        assert answers.ENDING_MARKS[case.kind.format] not in answer.body


def check_refusal(case: Case, told: Told, answer: Answer) -> None:
    error = answer.json()["error"]
    if told.code == "upstream_error":
        assert error["message"].startswith("All upstream providers failed"), error
    if case.kind.format == "gemini":
        assert error["code"] == told.status
        assert error["details"][0]["reason"] == told.code.upper()
    elif case.kind.format != "anthropic_messages":
        assert error["code"] == told.code


def check_receipt(case: Case, told: Told, receipt: dict[str, Any], catalog: Catalog) -> int:
    """Every attempt in its order, and the charge of the answer alone; returns it in nano-USD."""
    route = receipt["route"]
    attempts = [
        (one["provider"], one["model"], one["outcome"], one["status"]) for one in route["attempts"]
    ]
    assert attempts == told.attempts, (case, told)
    assert receipt["http_status"] == told.status
    succeeded = told.attempts[-1][2] == "succeeded"
    assert receipt["status"] == ("succeeded" if succeeded else "failed")
    assert (receipt["failure"] is None) == succeeded
    cost = receipt["cost"]
    assert cost["billed"] is True
    usage = receipt["usage"]
    used = None
    if usage["source"] != "none":
        used = (usage["input_tokens"], usage["output_tokens"])
    assert used in may_have_used(case, told), (case, told, usage)
    if used is None:
        assert cost["nano_usd"] == 0
        return 0
    assert told.by is not None
    aim = case.aims[told.by[0]]
    assert (route["provider"], route["model"]) == (aim.provider, aim.model)
    model = catalog.find(aim.catalog, aim.model)
    assert model is not None
    assert model.price.input
    assert model.price.output
    exact = used[0] * model.price.input + used[1] * model.price.output
    assert cost["nano_usd"] == (exact + 500_000) // 1_000_000
    return int(cost["nano_usd"])


def may_have_used(case: Case, told: Told) -> set[tuple[int, int] | None]:
    """What the target foretold reported; of a stream that broke, by what was read of it."""
    if told.by is None or told.status != 200:
        return {None}
    reply = case.reply(*told.by)
    way = case.aims[told.by[0]].ways[told.by[1]]
    if way in ("answers", "goes_stale"):
        return {reply.usage}
    if way == "opens_with_error":
        events = case.fault(*told.by).partition(answers.ERROR_MARKS[case.kind.format])[0]
        return reply.reported(len(events))
    return reply.reported(
        len(case.late(*told.by) if way == "cuts_late" else case.opening(*told.by))
    )


async def one_call(running: Running, case: Case, key: bytes, catalog: Catalog) -> int:
    told = foretell(case)
    client = await running.client()
    fields = [(b"Authorization", b"Bearer " + key), (b"Content-Type", b"application/json")]
    answer = await client.request("POST", case.path, fields, case.body)
    check_client(case, told, answer)
    assert case.asked == told.asked, (case, told)
    where = f"/v1/receipts/{answer.receipt_id}"
    if answer.get(b"connection") != b"close" and told.status != 200:
        # On the same connection: a byte too many of the answer would spoil what is read here.
        found = await client.request("GET", where, fields)
        receipt = found.json()
    else:
        receipt = await running.receipt(answer, key)
    client.close()
    return check_receipt(case, told, receipt, catalog)


@scenario
async def test_whatever_fails_the_first_healthy_target_answers_and_it_alone_is_paid_for(
    tmp_path: Path,
) -> None:
    rng = seeded(71)
    cases = [make(number, rng) for number in range(CASES)]
    catalog = Catalog.load()
    places = asyncio.Semaphore(AT_ONCE)
    async with gateway_of(cases, tmp_path) as (running, met):
        key = await running.key("caller", WIDE, CREDIT_NANO_USD)

        async def run(case: Case) -> int:
            async with places:
                return await one_call(running, case, key, catalog)

        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(run(case)) for case in cases]
        charges = [call.result() for call in calls]
        gateway = running.gateway
        assert gateway.accounts.held("caller") == 0
        books = await gateway.ledger.read(money.check_books)
        assert books.wrong == []
        assert books.receipts == len(cases)
        assert books.charged == sum(charges) > 0
        assert await gateway.accounts.balance("caller") == CREDIT_NANO_USD - sum(charges)
    assert set(met) | {"refuses"} == WAYS
    told = [foretell(case) for case in cases]
    assert {len(case.aims) for case in cases} == {1, 2, 3}
    assert sum(one.by is not None and one.by[0] > 0 for one in told) > CASES / 5
    assert sum(one.code == "upstream_error" for one in told) > CASES / 20
