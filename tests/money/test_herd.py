"""A herd of calls on a small balance: as many are admitted as it pays for, and not one more.

All calls of a round are in before the upstream answers the first, so those that were admitted hold
their worst case while the others ask.
"""

import asyncio
import itertools
from collections import Counter
from pathlib import Path

import msgspec
from harness import (
    FULL,
    Answer,
    Call,
    Running,
    answering,
    chunk,
    gateway_before,
    reply,
    request_bytes,
    scenario,
)

from gateway.accounts.changes import KeySpec
from gateway.app import raise_nofile
from gateway.ledger import money

CALLS = 1000
PAID_FOR = 10
ROUNDS = 50 if FULL else 5
TARGET = "/v1/chat/completions"
PROMPT = b"Tell me about herds. " * 20
MODES = ("answers", "fails", "streams", "breaks", "left")
WIDE = KeySpec(rpm=10**9, tpm=10**12, concurrent=10**6)


class Herd:
    """The upstream of a round: holds every call until all others were refused, then does `mode`."""

    def __init__(self) -> None:
        self.mode = "answers"
        self.arrived = 0
        self.go = asyncio.Event()

    def begin(self, mode: str) -> None:
        self.mode, self.arrived, self.go = mode, 0, asyncio.Event()

    async def __call__(self, call: Call) -> None:
        self.arrived += 1
        go, mode = self.go, self.mode
        await go.wait()
        if mode == "answers":
            await call.send(reply(completion(100)))
        elif mode == "fails":
            await call.send(reply(b'{"error":{"message":"no"}}', status=500))
        else:
            await call.send(STREAM_HEAD, chunk(FIRST))
            if mode == "streams":
                await call.send(chunk(USAGE + b"data: [DONE]\n\n"), b"0\r\n\r\n")
            elif mode == "breaks":
                call.reset()
            else:
                await call.gone()


def completion(output_tokens: int) -> bytes:
    return msgspec.json.encode(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "gpt-4o",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Herds"},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 120,
                "completion_tokens": output_tokens,
                "total_tokens": 120 + output_tokens,
            },
        }
    )


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
FIRST = (
    b'data: {"id":"c","object":"chat.completion.chunk","model":"gpt-4o","choices":'
    b'[{"index":0,"delta":{"role":"assistant","content":"Herds are many"}}]}\n\n'
)
USAGE = (
    b'data: {"id":"c","object":"chat.completion.chunk","model":"gpt-4o","choices":[],"usage":'
    b'{"prompt_tokens":120,"completion_tokens":40,"total_tokens":160}}\n\n'
)


def body(mode: str) -> bytes:
    stream = mode in ("streams", "breaks", "left")
    return msgspec.json.encode(
        {
            "model": "gpt-4o",
            "max_tokens": 200,
            "stream": stream,
            "messages": [{"role": "user", "content": PROMPT.decode()}],
        }
    )


async def one(running: Running, key: bytes, mode: str, refused: list[Answer]) -> int:
    """One call of the herd; returns its status, 0 where this client left in mid-answer."""
    client = await running.client()
    fields = [(b"Authorization", b"Bearer " + key), (b"Content-Type", b"application/json")]
    await client.send(request_bytes("POST", TARGET, fields, body(mode)))
    if mode != "left":
        answer = await client.answer()
        if answer.status == 402:
            refused.append(answer)
        client.close()
        return answer.status
    status, found = await client.head()
    if status == 402:
        size = next(int(value) for name, value in found if name.lower() == b"content-length")
        refused.append(Answer(status, found, await client.reader.readexactly(size)))
    else:
        await client.piece()
        status = 0
    client.reset()
    return status


async def hold_of_one(running: Running, herd: Herd, key: bytes, mode: str) -> int:
    """What one such call holds, as its receipt says."""
    herd.begin("fails")
    herd.go.set()
    answer = await running.call(TARGET, body(mode), key=key)
    receipt = await running.receipt(answer, key)
    held: int = receipt["cost"]["held_nano_usd"]
    assert held > 0
    return held


@scenario
async def test_a_balance_for_ten_calls_admits_ten_of_a_thousand_and_ends_as_the_books_say(
    tmp_path: Path,
) -> None:
    raise_nofile(8192)
    herd = Herd()
    async with gateway_before(tmp_path, herd, upstream="first_byte_seconds = 60") as (running, _):
        accounts, ledger = running.gateway.accounts, running.gateway.ledger
        key = await running.key("herd", WIDE, credit_nano_usd=10**9)
        user = accounts.user_named("herd")
        funds = accounts.funds(user.id)
        for number, mode in zip(range(ROUNDS), itertools.cycle(MODES)):
            hold = await hold_of_one(running, herd, key, mode)
            missing = PAID_FOR * hold - funds.balance
            if missing:
                await accounts.correct("herd", missing, f"round {number}")
            assert (funds.balance, funds.held) == (PAID_FOR * hold, 0)
            herd.begin(mode)
            refused: list[Answer] = []
            calls = [asyncio.ensure_future(one(running, key, mode, refused)) for _ in range(CALLS)]
            async with asyncio.timeout(60):
                while len(refused) < CALLS - PAID_FOR or herd.arrived < PAID_FOR:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            assert funds.held == PAID_FOR * hold
            herd.go.set()
            statuses = Counter(await asyncio.gather(*calls))
            admitted = {"answers": 200, "fails": 500, "streams": 200, "breaks": 200, "left": 0}
            assert statuses == {402: CALLS - PAID_FOR, admitted[mode]: PAID_FOR}
            assert herd.arrived == PAID_FOR
            assert b"Insufficient credit balance: " in refused[0].body
            async with asyncio.timeout(30):
                while running.gateway.services.exchanges:  # noqa: ASYNC110 - another party's state
                    await asyncio.sleep(0.005)
            assert funds.held == 0
            assert 0 <= funds.balance <= PAID_FOR * hold
            assert funds.balance == await accounts.balance("herd")
            books = await ledger.read(money.check_books)
            assert books.wrong == []
            assert books.overspent == 0
            charged = {"fails": False}.get(mode, mode != "breaks")
            assert (funds.balance < PAID_FOR * hold) is charged


@scenario
async def test_a_balance_is_below_zero_only_by_what_an_answer_cost_beyond_its_hold(
    tmp_path: Path,
) -> None:
    async with gateway_before(tmp_path, answering(reply(completion(100_000)))) as (running, _):
        accounts, ledger = running.gateway.accounts, running.gateway.ledger
        key = await running.key("herd", WIDE, credit_nano_usd=10**9)
        funds = accounts.funds(accounts.user_named("herd").id)
        first = await running.receipt(await running.call(TARGET, body("answers"), key=key), key)
        hold, cost = first["cost"]["held_nano_usd"], first["cost"]["nano_usd"]
        assert cost > hold > 0
        await accounts.correct("herd", hold - funds.balance, "one call")
        assert (await running.call(TARGET, body("answers"), key=key)).status == 200
        assert funds.balance == hold - cost < 0
        assert (await running.call(TARGET, body("answers"), key=key)).status == 402
        books = await ledger.read(money.check_books)
        assert books.wrong == []
        assert books.overspent == 2 * (cost - hold)
