"""A client that stops reading: memory stays bounded, and leaving or stalling ends it properly."""

import asyncio
import time
from pathlib import Path

import fault_answers as answers
import pytest
from fault_client import Client
from fault_gateway import Gateway, Setup, due_nano_usd, eventually, running
from fault_upstream import Script, Step, Upstream

pytestmark = pytest.mark.faults

READERS = 12
FLOOD_BYTES = 24 * 1024 * 1024
RSS_PER_READER_KIB_MAX = 1024
CLOSE_S = 1.0
CHAT = answers.Kind("openai_chat", stream=True)


def flood(number: int) -> tuple[Script, answers.Reply]:
    """More than any socket buffer holds, then the regular end with its usage."""
    reply = answers.reply(CHAT, number)
    filler = answers.chunk(reply.events[1] * 400)
    steps: list[Step] = [answers.head(CHAT) + answers.chunk(reply.events[0])]
    steps += [filler] * (FLOOD_BYTES // len(filler))
    steps += [answers.chunk(b"".join(reply.events[-3:])) + answers.LAST_CHUNK]
    return Script(steps), reply


async def stopped_readers(gateway: Gateway, upstream: Upstream) -> list[tuple[Client, Script]]:
    """Clients that asked and read nothing, once the gateway stopped reading their upstreams."""
    waiting = []
    for number in range(1, READERS + 1):
        script, _ = flood(number)
        upstream.scripts[number] = script
        client = await Client.connect(gateway.port)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        body = answers.request_body(CHAT, number)
        client.send(answers.request(gateway.base, gateway.key, CHAT, body))
        waiting.append((client, script))

    async def blocked() -> int:
        return sum(not one.writable for one in upstream.connections)

    await eventually(blocked, lambda count: count == READERS, 10)
    return waiting


@pytest.mark.parametrize("policy", ["cancel", "drain"])
async def test_a_client_that_stopped_reading_may_leave(tmp_path: Path, policy: str) -> None:
    setup_of_drain = 64 * 1024 * 1024
    async with (
        Upstream() as upstream,
        running(
            tmp_path, Setup(upstream.port, on_disconnect=policy, drain_bytes=setup_of_drain)
        ) as gateway,
    ):
        baseline = gateway.descriptors()
        before = gateway.rss_kib()
        waiting = await stopped_readers(gateway, upstream)
        grown = gateway.rss_kib() - before
        assert grown <= READERS * RSS_PER_READER_KIB_MAX
        begun = time.monotonic()
        for index, (client, _) in enumerate(waiting):
            await client.leave(reset=index % 2 == 0)
        if policy == "cancel":
            await asyncio.gather(*(script.closed.wait() for _, script in waiting))
            assert time.monotonic() - begun < CLOSE_S
        await gateway.idle(30)
        books = gateway.books()
        assert len(books.entries) == READERS
        for entry in books.entries:
            assert entry.status == "cancelled"
            assert entry.failure is not None
            assert entry.failure.stage == "client_disconnect"
            assert entry.cost_nano_usd == due_nano_usd(entry) > 0
            assert entry.usage_source == ("reported" if policy == "drain" else "estimated")
        assert len(books.charges) == READERS
        upstream.close_all()
        await gateway.descriptors_back(baseline)
    print(f"{READERS} stopped readers took {grown} KiB")  # noqa: T201


async def test_a_client_that_never_reads_again_is_given_up(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        running(tmp_path, Setup(upstream.port, idle_s=3.0)) as gateway,
    ):
        baseline = gateway.descriptors()
        waiting = await stopped_readers(gateway, upstream)
        await gateway.idle(8)
        books = gateway.books()
        assert len(books.entries) == READERS
        for entry in books.entries:
            assert entry.failure is not None
            assert entry.failure.stage == "client_disconnect"
            assert entry.status == "cancelled"
            assert entry.cost_nano_usd == due_nano_usd(entry) > 0
        await gateway.descriptors_back(baseline)
        for client, _ in waiting:
            await client.leave(reset=True)
