"""An upstream that drops its kept-alive connections whenever it likes costs no request.

It closes behind an answer, at once or a little later, or the moment the next request begins to
come in: what never reached its handler is repeated once on a fresh connection, nothing else is.
"""

import asyncio
import itertools
from pathlib import Path

import fault_answers as answers
import pytest
from fault_client import Client
from fault_gateway import Setup, running, seeded
from fault_upstream import Pause, Script, Seen, Step, Upstream

pytestmark = pytest.mark.faults

REQUESTS = 2000
CLIENTS = 20
BASE_BYTES = 700


async def test_a_storm_of_stale_connections_fails_and_repeats_nothing(tmp_path: Path) -> None:
    rng = seeded(31)
    numbers = iter(range(1, REQUESTS + 1))
    kinds: dict[int, answers.Kind] = {}
    handled: dict[int, int] = {}

    def script(seen: Seen) -> Script:
        handled[seen.number] = handled.get(seen.number, 0) + 1
        kind = kinds[seen.number]
        reply = answers.reply(kind, seen.number, deltas=3)
        steps: list[Step] = [answers.head(kind, length=len(reply.body)) + reply.body]
        fate = rng.random()
        if fate < 0.2:
            steps.append("retire")
        elif fate < 0.5:
            steps += [Pause(rng.uniform(0, 0.003)), "retire"]
        return Script(steps)

    async with Upstream(script) as upstream, running(tmp_path, Setup(upstream.port)) as gateway:
        upstream.drop_reused = lambda _: rng.random() < 0.2
        baseline = gateway.descriptors()

        async def ask_on() -> None:
            client = await Client.connect(gateway.port)
            for number in numbers:
                kind = kinds[number] = rng.choice(answers.KINDS)
                body = answers.request_body(kind, number, size=BASE_BYTES + number)
                data = answers.request(gateway.base, gateway.key, kind, body)
                answer = await client.ask(data)
                assert answer.status == 200, bytes(answer.body)
                assert bytes(answer.body) == answers.reply(kind, number, deltas=3).body
            await client.leave()

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(ask_on())
        await gateway.idle()
        books = gateway.books()
        assert len(books.entries) == REQUESTS
        assert {entry.status for entry in books.entries} == {"succeeded"}
        assert set(map(len, books.by_bytes().values())) == {1}
        assert len(books.charges) == REQUESTS
        assert set(handled) == set(range(1, REQUESTS + 1))
        twice = [number for number, count in handled.items() if count > 1]
        assert not twice, "an answered request was sent twice"
        assert upstream.dropped > REQUESTS // 50
        upstream.close_all()
        await gateway.descriptors_back(baseline)
        gateway.check_books()
    print(f"{REQUESTS} requests, {upstream.dropped} repeated, {upstream.accepted} connections")  # noqa: T201


async def test_a_fresh_connection_that_closes_without_an_answer_is_not_repeated(
    tmp_path: Path,
) -> None:
    numbers = itertools.count(1)
    async with (
        Upstream(lambda _: Script(["cut"])) as upstream,
        running(tmp_path, Setup(upstream.port)) as gateway,
    ):
        for kind in answers.KINDS:
            number = next(numbers)
            body = answers.request_body(kind, number)
            client = await Client.connect(gateway.port)
            answer = await client.ask(answers.request(gateway.base, gateway.key, kind, body))
            assert answer.status == 503
            await client.leave()
        assert upstream.accepted == len(answers.KINDS)
