"""`kill -9` under load with holds, limits and two users: the money is right after each start.

Prices are real, credit is short and limits are tight, so that calls are refused for every reason
while others are under way. After a kill a user has the credit that was given less what receipts
charge; nothing is held; the day's counters are the receipts'; and the books prove it.
"""

import asyncio
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fault_answers as answers
import orjson
import pytest
from fault_client import Client, Incomplete, ask
from fault_gateway import REPOSITORY, Gateway, Setup, eventually, running, scaled, seeded
from fault_upstream import Pause, Script, Seen, Step, Upstream

from gateway.ledger import money, schema

pytestmark = pytest.mark.faults

KILLS = scaled(4, 50)
CLIENTS = 40
ADMIN_TOKEN = "the-token-of-the-admin"
USERS = ("ann", "bob")
CONCURRENT = 12
NANO_PER_CENT = 10**7
REFUSED = {402: "no money", 429: "limit", 502: "broken"}


@dataclass
class Shop:
    """Two users with two keys each, what they were given, and what their clients know."""

    gateway: Gateway
    rng: random.Random
    keys: dict[str, list[str]] = field(default_factory=dict)
    given: Counter[str] = field(default_factory=Counter)
    kinds: dict[int, answers.Kind] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)
    """Receipts of answers that were read to their end, with their users."""
    ended: Counter[str] = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def admin(self, path: str, **body: object) -> dict[str, object]:
        data = orjson.dumps(body)
        head = (
            f"POST /admin/v1{path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        answer = await ask(self.gateway.port, head.encode() + data)
        assert answer.status == 200, bytes(answer.body)
        return dict(orjson.loads(answer.body))

    async def open(self) -> None:
        for user in USERS:
            await self.admin("/users", name=user)
            made = [
                await self.admin("/keys", user=user, rpm=100_000, concurrent=CONCURRENT)
                for _ in range(2)
            ]
            self.keys[user] = [str(one["key"]) for one in made]

    async def credit(self, user: str, cents: int) -> None:
        await self.admin(f"/users/{user}/credits", amount=f"{cents / 100:.2f}")
        self.given[user] += cents * NANO_PER_CENT

    async def account(self, user: str) -> dict[str, dict[str, int]]:
        head = (
            "GET /v1/account HTTP/1.1\r\nHost: gateway\r\n"
            f"Authorization: Bearer {self.keys[user][0]}\r\n\r\n"
        )
        answer = await ask(self.gateway.port, head.encode())
        assert answer.status == 200
        return dict(orjson.loads(answer.body))

    async def client(self) -> None:
        """Call until the gateway is gone."""
        while True:
            try:
                client = await Client.connect(self.gateway.port)
            except ConnectionError:
                return
            try:
                for _ in range(20):
                    await self.one(client)
            except (Incomplete, ConnectionError):
                self.ended["cut"] += 1
            finally:
                await client.leave(reset=True)

    async def one(self, client: Client) -> None:
        number, user = next(self.numbers), self.rng.choice(USERS)
        kind = self.kinds[number] = self.rng.choice(answers.KINDS)
        key = self.rng.choice(self.keys[user])
        body = answers.request_body(kind, number)
        answer = await client.ask(answers.request(self.gateway.base, key, kind, body))
        if answer.status == 200:
            self.finished[answer.receipt_id] = user
            self.ended["answered"] += 1
            return
        why = REFUSED.get(answer.status)
        assert why, answer
        self.ended[why] += 1
        await asyncio.sleep(0.02)  # a client that is refused does not come back at once

    def script(self, seen: Seen) -> Script:
        kind = self.kinds[seen.number]
        reply = answers.reply(kind, seen.number)
        rng = random.Random(seen.number)
        if not kind.stream:
            think = Pause(rng.uniform(0.0, 0.4))
            return Script([think, answers.head(kind, length=len(reply.body)), reply.body])
        steps: list[Step] = [
            answers.head(kind),
            Pause(rng.uniform(0.0, 0.4)),
            answers.chunk(reply.body),
        ]
        if seen.number % 11 == 0:  # it breaks off
            return Script([*steps[:2], answers.chunk(reply.body[:40]), "cut"])
        return Script([*steps, answers.LAST_CHUNK])

    async def check(self) -> None:
        """The accounts, the store and the receipts agree to the nano-dollar."""
        books = self.gateway.books()
        assert books.openings == 0
        charged = Counter(ref for ref, _ in books.charges)
        assert set(charged.values()) <= {1}
        charges = dict(books.charges)
        known = {entry.opening.id for entry in books.entries}
        assert not self.finished.keys() - known
        conn = schema.open_reader(self.gateway.path)
        try:
            ids = dict(conn.execute("SELECT name, id FROM users").fetchall())
            balances = money.balances(conn)
        finally:
            conn.close()
        for user in USERS:
            mine = [one for one in books.entries if one.opening.user_id == ids[user]]
            for entry in mine:
                assert charges.get(entry.opening.id, 0) == (entry.cost_nano_usd or 0)
            spent = sum(entry.cost_nano_usd or 0 for entry in mine)
            account = await self.account(user)
            assert balances[ids[user]] == self.given[user] - spent
            assert account["balance"]["nano_usd"] == balances[ids[user]]
            assert account["held"]["nano_usd"] == 0
            tokens = sum(0 if one.usage is None else one.usage.total_tokens for one in mine)
            assert account["today"] == {
                "requests": len(mine), "tokens": tokens, "nano_usd": spent,
            }  # fmt: skip
            self.ended[f"charged {user}"] = spent


async def proven_by_command(gateway: Gateway) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "ledger", "check", "--json",
        "--config", str(gateway.config), cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, out


async def killed_under_load(shop: Shop, upstream: Upstream) -> None:
    loop = asyncio.get_running_loop()
    clients = [loop.create_task(shop.client()) for _ in range(CLIENTS)]
    await asyncio.sleep(shop.rng.uniform(0.6, 1.2))  # the random moment is the test

    for user in USERS:  # it may be used up by now
        await shop.credit(user, shop.rng.randrange(10, 30))

    async def held() -> int:
        return sum([(await shop.account(user))["held"]["nano_usd"] for user in USERS])

    await eventually(held, lambda nano_usd: nano_usd > 0 and upstream.answering > 2, 10)
    await shop.gateway.kill()
    await asyncio.gather(*clients)


async def restarted_as_it_was(shop: Shop) -> None:
    """What a user is told does not change by a restart, refused calls included."""
    before = [await shop.account(user) for user in USERS]
    gateway = shop.gateway
    for user in USERS:
        body = orjson.dumps(
            {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}], "n": 10**6}
        )
        kind = answers.Kind("openai_chat", stream=False)
        request = answers.request(gateway.base, shop.keys[user][0], kind, body)
        assert (await ask(gateway.port, request)).status in (400, 402)
    told = [await shop.account(user) for user in USERS]
    await gateway.stop()
    await gateway.start()
    assert [await shop.account(user) for user in USERS] == told
    assert [one["balance"] for one in told] == [one["balance"] for one in before]


async def test_balances_holds_and_counters_are_right_after_kill_9(tmp_path: Path) -> None:
    rng = seeded(51)
    async with Upstream() as upstream:
        setup = Setup(upstream.port)
        async with running(tmp_path, setup) as gateway:
            await gateway.stop()
            text = setup.text(gateway.path) + f'[admin]\ntoken = "{ADMIN_TOKEN}"\n'
            gateway.config.write_text(text)
            await gateway.start()
            shop = Shop(gateway, rng)
            await shop.open()
            upstream.make = shop.script
            for kill in range(KILLS):
                for user in USERS:
                    await shop.credit(user, rng.randrange(10, 30))
                await killed_under_load(shop, upstream)
                await gateway.start()
                await shop.check()
                if kill % 10 == 0:
                    await proven_by_command(gateway)
            gateway.check_books()
            await proven_by_command(gateway)
            await restarted_as_it_was(shop)
    assert shop.ended["answered"] > KILLS * 20
    assert shop.ended["cut"] > KILLS * 5
    assert shop.ended["limit"] > 0
    assert shop.ended["no money"] > 0
    print(f"{KILLS} kills: {dict(shop.ended)}, given {dict(shop.given)}")  # noqa: T201
