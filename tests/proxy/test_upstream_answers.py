"""Every shape that HTTP/1.1 lets an answer have, and how it reaches the client."""

import asyncio
from pathlib import Path

import pytest
from harness import (
    OWN_KEY,
    Call,
    Client,
    Framing,
    answering,
    chunk,
    gateway_before,
    reply,
    scenario,
    until,
)

CHAT = b'{"model":"gpt-4o","messages":[]}'
USAGE = b'{"id":"c","usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}, "n": 1.10 }'
AUDIO = bytes(range(256)) * 600
SSE = b'data: {"id":"c","choices":[{"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n'

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize(
    ("target", "kind", "body"),
    [
        ("/v1/chat/completions", b"application/json", USAGE),
        ("/v1/chat/completions", b"application/json; charset=utf-8", USAGE + b"\n"),
        ("/v1/chat/completions", b"text/event-stream; charset=utf-8", SSE),
        ("/v1/audio/speech", b"audio/mpeg", AUDIO),
        ("/v1/audio/speech", b"", AUDIO),
        ("/v1/files/f/content", b"application/octet-stream", b""),
        ("/v1/files/f/content", b"application/json", b" " * 5_000_000 + b"{}"),
        ("/v1/thing", b"text/plain", b"hello"),
    ],
)
@scenario
async def test_a_body_is_the_same_under_every_framing(
    framing: Framing, target: str, kind: bytes, body: bytes, tmp_path: Path
) -> None:
    script = answering(reply(body, kind=kind, framing=framing), close=framing == "close")
    async with gateway_before(tmp_path, script) as (gateway, _):
        answer = await gateway.call(target, CHAT)
        assert answer.status == 200
        assert answer.body == body
        assert answer.complete
        assert answer.get(b"content-type") == (kind or None)
        receipt = await gateway.receipt(answer)
        assert receipt["status"] == "succeeded"
        assert receipt["http_status"] == 200


@scenario
async def test_a_connection_serves_answer_after_answer(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply(USAGE))) as (gateway, upstream):
        client = await gateway.client()
        fields = [(b"x-api-key", b"own")]
        for _ in range(20):
            answer = await client.request("POST", "/v1/chat/completions", fields, CHAT)
            assert answer.body == USAGE
        assert upstream.connections == 1


@pytest.mark.parametrize(
    ("first", "kept"),
    [
        (reply(framing="chunked"), True),
        (reply(), True),
        (reply(fields=[(b"Connection", b"close")]), False),
        (reply(fields=[(b"Connection", b"CLOSE, x")]), False),
        (reply().replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 55\r\nETag: x\r\n\r\n", True),
        (reply(status=404), True),
    ],
)
@scenario
async def test_an_upstream_connection_is_reused_exactly_where_it_may_be(
    first: bytes, kept: bool, tmp_path: Path
) -> None:
    async with gateway_before(tmp_path, answering(first)) as (gateway, upstream):
        for _ in range(3):
            answer = await gateway.call("/v1/thing", CHAT)
            assert answer.complete
        assert upstream.connections == (1 if kept else 3)


@scenario
async def test_informational_answers_are_passed_over(tmp_path: Path) -> None:
    early = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\nContent-Length: 5\r\n\r\n"
    )

    async def script(call: Call) -> None:
        whole = early + reply(USAGE, fields=[(b"X-Real", b"1")])
        if len(upstream.calls) == 1:
            await call.send(whole)
        else:
            await call.send(*(whole[n : n + 1] for n in range(len(whole))))

    async with gateway_before(tmp_path, script) as (gateway, upstream):
        for _ in range(2):
            answer = await gateway.call("/v1/chat/completions", CHAT)
            assert answer.status == 200
            assert answer.body == USAGE
            assert answer.get(b"link") is None
            assert answer.get(b"x-real") == b"1"
        assert upstream.connections == 1


@scenario
async def test_a_close_delimited_answer_behind_an_informational_one_ends_at_the_close(
    tmp_path: Path,
) -> None:
    data = b"HTTP/1.1 103 Early\r\nContent-Length: 5\r\n\r\n" + reply(USAGE, framing="close")
    async with gateway_before(tmp_path, answering(data, close=True)) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.body == USAGE


@scenario
async def test_head_has_no_body_whatever_its_length_says(tmp_path: Path) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 4711\r\nETag: x\r\n\r\n"
    async with gateway_before(tmp_path, answering(data)) as (gateway, _):
        client = await gateway.client()
        fields = [(b"x-api-key", b"own")]
        for _ in range(3):
            answer = await client.request("HEAD", "/v1/files/f", fields)
            assert answer.status == 200
            assert answer.get(b"content-length") == b"4711"
            assert answer.get(b"etag") == b"x"


@pytest.mark.parametrize("status", [204, 304])
@scenario
async def test_answers_without_a_body_keep_their_status(status: int, tmp_path: Path) -> None:
    data = b"HTTP/1.1 %d X\r\nETag: x\r\n\r\n" % status
    async with gateway_before(tmp_path, answering(data)) as (gateway, _):
        client = await gateway.client()
        fields = [(b"x-api-key", b"own")]
        for _ in range(3):
            answer = await client.request("GET", "/v1/files/f", fields)
            assert answer.status == status
            assert answer.get(b"content-length") is None
            assert answer.get(b"transfer-encoding") is None
            receipt = await gateway.receipt(answer, b"own")
            assert receipt["status"] == "succeeded"


@scenario
async def test_trailers_and_chunk_extensions_are_read_and_dropped(tmp_path: Path) -> None:
    data = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        b"Trailer: X-Sum\r\n\r\n"
        b'5;name="va;l"\r\n{"a":\r\n002\r\n1}\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n'
    )
    async with gateway_before(tmp_path, answering(data)) as (gateway, upstream):
        for _ in range(2):
            answer = await gateway.call("/v1/thing", CHAT)
            assert answer.body == b'{"a":1}'
            assert answer.get(b"x-sum") is None
        assert upstream.connections == 1


@scenario
async def test_many_and_long_headers_pass_up_to_the_bound(tmp_path: Path) -> None:
    many = [(b"X-%d" % number, b"v" * 100) for number in range(300)]
    long = [(b"X-Long", b"v" * 16_000)]
    data = reply(USAGE, fields=many + long)
    pieces = [data[at : at + 999] for at in range(0, len(data), 999)]

    async def script(call: Call) -> None:
        await call.send(*pieces)

    async with gateway_before(tmp_path, script) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.status == 200
        assert answer.get(b"x-long") == b"v" * 16_000
        assert answer.get(b"x-299") == b"v" * 100
        assert answer.body == USAGE


@scenario
async def test_a_second_answer_behind_the_first_never_meets_the_next_request(
    tmp_path: Path,
) -> None:
    poison = reply(b'{"id":"poison"}')

    async def script(call: Call) -> None:
        await call.send(reply(b'{"id":"right"}') + poison)

    async with gateway_before(tmp_path, script) as (gateway, _):
        for _ in range(10):
            answer = await gateway.call("/v1/thing", CHAT)
            assert answer.json()["id"] == "right"


@scenario
async def test_an_unasked_answer_on_an_idle_connection_closes_it(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        await call.send(reply(b'{"id":"right"}'))
        await asyncio.sleep(0.02)
        await call.send(reply(b'{"id":"poison"}'))

    async with gateway_before(tmp_path, script) as (gateway, upstream):
        for number in range(5):
            answer = await gateway.call("/v1/thing", CHAT)
            assert answer.json()["id"] == "right"
            await until(lambda number=number: upstream.calls[number].writer.is_closing())  # type: ignore[misc]
        assert upstream.connections == 5


@scenario
async def test_an_encoded_answer_that_was_not_asked_for_still_passes_whole(tmp_path: Path) -> None:
    body = b"\x1f\x8b not really gzip, whatever"
    script = answering(reply(body, fields=[(b"Content-Encoding", b"gzip")]))
    async with gateway_before(tmp_path, script) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.body == body
        assert answer.get(b"content-encoding") == b"gzip"


@pytest.mark.parametrize("status", [400, 404, 409, 422, 429, 500, 503, 529])
@scenario
async def test_an_upstream_error_passes_with_status_body_and_type(
    status: int, tmp_path: Path
) -> None:
    body = b'{"error":{"message":"as the upstream said", "code":null}}'
    script = answering(reply(body, status=status, fields=[(b"Retry-After", b"3")]))
    async with gateway_before(tmp_path, script) as (gateway, _):
        key = await gateway.key()
        for secret in (OWN_KEY, key):
            answer = await gateway.call("/v1/chat/completions", CHAT, key=secret)
            assert answer.status == status
            assert answer.body == body
            assert answer.get(b"retry-after") == b"3"
            receipt = await gateway.receipt(answer, secret)
            assert receipt["failure"]["stage"] == "upstream_status"
            assert receipt["cost"]["nano_usd"] == 0
            assert receipt["usage"]["source"] == "none"


@scenario
async def test_a_body_behind_an_error_status_need_not_be_json(tmp_path: Path) -> None:
    script = answering(reply(b"<html>502</html>", status=502, kind=b"text/html"))
    async with gateway_before(tmp_path, script) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert (answer.status, answer.body) == (502, b"<html>502</html>")


@scenario
async def test_events_reach_the_client_one_by_one_and_the_last_one_with_its_receipt(
    tmp_path: Path,
) -> None:
    first, last = SSE.split(b"\n\n")[0] + b"\n\n", b"data: [DONE]\n\n"
    step = asyncio.Event()

    async def script(call: Call) -> None:
        await call.send(HEAD)
        for _ in range(3):
            await call.send(chunk(first))
            await step.wait()
            step.clear()
        await call.send(chunk(last) + b"0\r\n\r\n")

    async with gateway_before(tmp_path, script) as (gateway, _):
        client = await gateway.client()
        await send_chat(client)
        _, fields = await client.head()
        receipt_id = dict(fields)[b"X-Badgr-Receipt-Id"].decode()
        assert dict(fields)[b"X-Accel-Buffering"] == b"no"
        running = await gateway.receipt(receipt_id)
        assert running["status"] == "in_progress"
        assert running["http_status"] is None
        for _ in range(3):
            got = await client.piece()
            assert first in got
            assert (await gateway.receipt(receipt_id))["status"] == "in_progress"
            step.set()
        assert await client.piece() == last
        assert (await gateway.receipt(receipt_id))["status"] == "succeeded"
        assert await client.piece() == b""


async def send_chat(client: Client) -> None:
    body = b'{"model":"gpt-4o","stream":true,"messages":[]}'
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (OWN_KEY, len(body), body)
    )
