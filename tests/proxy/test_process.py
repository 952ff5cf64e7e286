"""A gateway in a process of its own: memory, SIGTERM, secrets, a full disk's refusal."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import (
    Answer,
    Call,
    Client,
    Script,
    Upstream,
    chunk,
    config_text,
    reply,
    request_bytes,
    scenario,
    until,
)

OWN = [(b"x-api-key", b"own")]
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"c","choices":[{"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
START_SECONDS = 20


class Process:
    """`python -m gateway serve` on a free port."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self.process = process
        self._errors = errors
        self.port = 0
        self._clients: list[Client] = []

    def log(self) -> str:
        return self._errors.read_text()

    async def started(self) -> None:
        def listening() -> bool:
            assert self.process.returncode is None, self.log()
            return "listening on" in self.log()

        await until(listening, START_SECONDS)
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.log())
        assert found is not None, self.log()
        self.port = int(found[1])

    def rss_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    async def forget(self) -> None:
        for client in self._clients:
            client.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()

    async def call(self, target: str, body: bytes = b"", method: str = "POST") -> Answer:
        client = await self.client()
        answer = await client.request(method, target, OWN, body)
        client.close()
        return answer


@contextlib.asynccontextmanager
async def process_before(
    directory: Path, script: Script, *, keep_bodies: bool = True, **sections: str
) -> AsyncIterator[tuple[Process, Upstream]]:
    async with Upstream(script, keep_bodies=keep_bodies).running() as upstream:
        file = directory / "config.toml"
        file.write_text(config_text(directory / "gateway.db", upstream.url, **sections))
        with (directory / "errors").open("wb") as errors, (directory / "out").open("wb") as out:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "serve", "--config", str(file),
                stdout=out, stderr=errors,
                env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
        running = Process(child, directory / "errors")
        try:
            await running.started()
            yield running, upstream
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
            await running.forget()


# --- memory -----------------------------------------------------------------------------------


@scenario
async def test_an_upload_of_100_mb_passes_in_flat_memory(tmp_path: Path) -> None:
    size, piece = 100 * 1024 * 1024, b"u" * (256 * 1024)
    opening = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f.jsonl"\r\n\r\n'
    closing = b"\r\n--b--\r\n"
    total = len(opening) + size + len(closing)

    async def script(call: Call) -> None:
        await call.send(reply(b'{"id":"file-1","object":"file"}'))

    async with process_before(tmp_path, script, keep_bodies=False) as (gateway, upstream):
        await gateway.call("/v1/files", b"warm up")
        before = gateway.rss_kib()
        most = before
        client = await gateway.client()
        await client.send(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nx-api-key: own\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n%b"
            % (total, opening)
        )
        for number in range(size // len(piece)):
            await client.send(piece)
            if number % 20 == 0:
                most = max(most, gateway.rss_kib())
        await client.send(closing)
        answer = await client.answer()
        assert answer.status == 200
        assert upstream.calls[-1].body_bytes == total
        most = max(most, gateway.rss_kib())
        print(f"\n100 MB upload: RSS {before} -> {most} KiB at most")  # noqa: T201
        assert most - before < 30 * 1024


@scenario
async def test_an_upload_waits_for_an_upstream_that_does_not_read(tmp_path: Path) -> None:
    reading = asyncio.Event()
    taken = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.readuntil(b"\r\n\r\n")
        await reading.wait()
        while taken < total:
            taken += len(await reader.read(1 << 20))
        writer.write(reply(b"{}"))
        await writer.drain()
        writer.close()

    total = 64 * 1024 * 1024
    server = await asyncio.start_server(slow, "127.0.0.1", 0)

    async def never(call: Call) -> None:
        raise AssertionError

    port = server.sockets[0].getsockname()[1]
    more = f'[providers.slow]\nformat = "openai"\nbase_url = "http://127.0.0.1:{port}"'
    async with server, process_before(tmp_path, never, more=more) as (gateway, _):
        before = gateway.rss_kib()
        client = await gateway.client()
        await client.send(
            b"POST /v1/slow/files HTTP/1.1\r\nHost: x\r\nx-api-key: own\r\n"
            b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % total
        )

        async def push() -> None:
            for _ in range(total >> 18):
                await client.send(b"u" * (1 << 18))

        pushing = asyncio.ensure_future(push())
        grown = -1
        while grown != gateway.rss_kib():
            grown = gateway.rss_kib()
            await asyncio.sleep(0.3)
        assert not pushing.done()
        assert grown - before < 30 * 1024
        reading.set()
        await pushing
        assert (await client.answer()).status == 200
        assert taken == total


@scenario
async def test_clients_that_do_not_read_hold_no_memory(tmp_path: Path) -> None:
    total = 50 * 1024 * 1024
    sent: dict[int, int] = {}

    async def floods(call: Call) -> None:
        number = len(sent)
        sent[number] = 0
        stream = call.target.endswith("completions")
        length = b"" if stream else b"Content-Length: %d\r\n" % total
        head = b"HTTP/1.1 200 OK\r\n%b\r\n" % length
        piece = b"x" * 65_536
        if stream:
            head = STREAM
            piece = chunk(b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"x" * 8000))
        await call.send(head)
        while sent[number] < total:
            call.writer.write(piece)
            sent[number] += len(piece)
            await call.writer.drain()

    async with process_before(tmp_path, floods) as (gateway, _):
        before = gateway.rss_kib()
        clients = []
        for number in range(12):
            client = await gateway.client()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            body = b'{"model":"m","stream":true}'
            await client.send(
                request_bytes("POST", "/v1/chat/completions", OWN, body)
                if number % 2
                else request_bytes("GET", "/v1/files/f/content", OWN)
            )
            clients.append(client)
        seen = -1
        while len(sent) < 12 or seen != sum(sent.values()):
            seen = sum(sent.values())
            await asyncio.sleep(0.25)
        grown = gateway.rss_kib() - before
        print(f"\n12 stopped readers: {seen >> 20} MiB taken, RSS +{grown} KiB")  # noqa: T201
        assert max(sent.values()) < total // 2
        assert grown < 12 * 1024
        for client in clients:
            client.reset()


# --- SIGTERM ----------------------------------------------------------------------------------


@scenario
async def test_sigterm_lets_streams_finish_and_refuses_what_is_new(tmp_path: Path) -> None:
    finish = asyncio.Event()

    async def script(call: Call) -> None:
        await call.send(STREAM, chunk(EVENT))
        await finish.wait()
        await call.send(chunk(EVENT), chunk(DONE) + b"0\r\n\r\n")

    async with process_before(tmp_path, script, server="drain_seconds = 20") as (gateway, _):
        streams = [await gateway.client() for _ in range(20)]
        idle = await gateway.client()
        assert (await idle.request("GET", "/readyz")).status == 200
        body = b'{"model":"m","stream":true}'
        for client in streams:
            await client.send(request_bytes("POST", "/v1/chat/completions", OWN, body))
        for client in streams:
            assert (await client.head())[0] == 200
            assert await client.piece() == EVENT
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: "stopping" in gateway.log())
        ready = await idle.request("GET", "/readyz")
        assert ready.status == 503
        assert ready.json()["draining"] is True
        assert (await idle.request("GET", "/healthz")).status == 200
        refused = await idle.request("POST", "/v1/chat/completions", OWN, body)
        assert refused.status == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert refused.get(b"retry-after") == b"1"
        assert gateway.process.returncode is None
        finish.set()
        for client in streams:
            got = b""
            while piece := await client.piece():
                got += piece
            assert got == EVENT + DONE
        async with asyncio.timeout(5):
            assert await gateway.process.wait() == 0


@scenario
async def test_sigterm_cuts_what_is_not_done_by_the_deadline_and_says_so(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        if b"stream" in call.body:
            await call.send(STREAM, chunk(EVENT))
        await call.gone(30)

    async with process_before(tmp_path, script, server="drain_seconds = 0.3") as (
        gateway,
        upstream,
    ):
        client, waiting = await gateway.client(), await gateway.client()
        body = b'{"model":"m","stream":true}'
        await client.send(request_bytes("POST", "/v1/chat/completions", OWN, body))
        _, fields = await client.head()
        await waiting.send(request_bytes("POST", "/v1/chat/completions", OWN, b'{"model":"m"}'))
        await until(lambda: len(upstream.calls) == 2)
        gateway.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2.3 + 0.7):
            assert await gateway.process.wait() == 0
        rest = await client.reader.read()
        assert DONE not in rest
        assert not rest.endswith(b"0\r\n\r\n")
    receipt = await shown(tmp_path, dict(fields)[b"X-Badgr-Receipt-Id"].decode())
    assert receipt["status"] == "failed"
    assert receipt["failure"]["stage"] == "gateway"
    assert receipt["cost"]["nano_usd"] == 0


async def shown(directory: Path, receipt_id: str) -> dict[str, Any]:
    """A receipt, by the command, from the file that a stopped gateway left."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "receipts", "show", receipt_id, "--json",
        "--config", str(directory / "config.toml"),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await child.communicate()
    assert child.returncode == 0
    return msgspec.json.decode(out, type=dict)


# --- secrets ----------------------------------------------------------------------------------


def canary(slot: str) -> bytes:
    return f"canary{slot}0123456789abcdefghij".encode()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("format_", ["text", "json"])
@scenario
async def test_no_secret_is_in_a_log_an_error_a_metric_or_the_store(
    format_: str, tmp_path: Path
) -> None:
    slots = ("Authorization", "x-api-key", "x-goog-api-key", "api-key", "parameter", "cookie")

    async def script(call: Call) -> None:
        if call.target.endswith("cut"):
            await call.send(reply(b'{"id":"x"}')[:-3])
            call.close()
            return
        quoted = b"bad key: " + (call.get(b"authorization") or b"")
        status = 401 if b"bad" in call.body else 200
        await call.send(
            reply(b'{"error":{"message":"no"}}', status=status, fields=[(b"X-Why", quoted)])
        )

    log = f'level = "debug"\nformat = "{format_}"\nrequests = true'
    more = '[providers.dead]\nformat = "openai"\nbase_url = "http://127.0.0.1:1/v1"'
    async with process_before(tmp_path, script, log=log, more=more) as (gateway, upstream):
        answers: list[Answer] = []
        client = await gateway.client()
        targets = (
            "/v1/chat/completions", "/v1/messages", "/v1/dead/chat/completions", "/v1/nothing/..",
            "/v1/cut", "/v1/receipts", "/v1/models", "/healthz", "/v1beta/models/g:generateContent",
        )  # fmt: skip
        for slot in slots:
            for target in targets:
                for body in (b'{"model":"m","max_tokens":5}', b'{"model":"bad"}', b"not json"):
                    value = b"Bearer " + canary(slot) if slot == "Authorization" else canary(slot)
                    fields = [] if slot == "parameter" else [(slot.encode(), value)]
                    query = f"?key={canary(slot).decode()}" if slot == "parameter" else ""
                    method = "GET" if target in ("/v1/receipts", "/v1/models") else "POST"
                    sent = b"" if method == "GET" else body
                    answers.append(await client.request(method, target + query, fields, sent))
                    if answers[-1].get(b"connection") == b"close":
                        client = await gateway.client()
        broken = await gateway.client()
        await broken.send(b"GET /healthz HTTP/1.1\r\nAuthorization %b\r\n\r\n" % canary("broken"))
        answers.append(await broken.answer())
        answers.append(await client.request("GET", "/metrics"))
        answers.append(await client.request("GET", "/readyz"))
        assert sum(one.status == 200 for one in answers) > 30
        assert upstream.calls
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.process.wait()
        places = contents(tmp_path)
    places["answers"] = b"".join(
        answer.body + b"".join(value for _, value in answer.fields) for answer in answers
    )
    del places["config.toml"]
    assert {"gateway.db", "errors", "out", "answers"} <= set(places)
    assert len(places["errors"]) > 1000
    secrets = [canary(slot) for slot in (*slots, "broken")]
    secrets += [b"provider-key-openai", b"provider-key-anthropic", b"provider-key-google"]
    found = [(place, one) for place, blob in places.items() for one in secrets if one in blob]
    assert not found
