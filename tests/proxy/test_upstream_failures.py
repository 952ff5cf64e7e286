"""What the client and the receipt are told when an upstream fails, and what is tried again."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import (
    OWN_KEY,
    Answer,
    Call,
    Running,
    answering,
    chunk,
    gateway_before,
    reply,
    scenario,
)
from streamed_calls import CHAT, SHORT, STREAMS


def told(answer: Answer, name: str) -> tuple[str, str]:
    """The code and message of the error event that ends a stream; fails if it is malformed."""
    tail = answer.body
    stream = STREAMS[name]
    if name == "array":  # white space behind an element may go, its bytes may not
        assert tail.startswith(stream.opening.rstrip())
        document = answer.json()[-1]
        return document["error"]["details"][0]["reason"].lower(), document["error"]["message"]
    assert tail.startswith(stream.opening)
    tail = tail.removeprefix(stream.opening)
    lines = tail.decode().replace("\r\n", "\n")
    assert lines.endswith("\n\n")
    assert lines.count("\n\n") == 1
    data = next(line for line in lines.split("\n") if line.startswith("data: "))
    event: dict[str, Any] = Answer(0, [], data.removeprefix("data: ").encode()).json()
    if name == "responses":
        assert lines.startswith("event: response.failed\n")
        assert event["type"] == "response.failed"
        assert event["sequence_number"] == 8
        assert event["response"]["status"] == "failed"
        error = event["response"]["error"]
        return error["code"], error["message"]
    if name == "messages":
        assert lines.startswith("event: error\n")
        assert event["type"] == "error"
        return event["error"]["type"], event["error"]["message"]
    if name == "gemini":
        assert tail.endswith(b"\r\n\r\n")
        return event["error"]["details"][0]["reason"].lower(), event["error"]["message"]
    return event["error"]["code"], event["error"]["message"]


async def failed(gateway: Running, answer: Answer) -> tuple[str, str]:
    """The stage and code on the receipt of a call that failed."""
    receipt = await gateway.receipt(answer)
    assert receipt["status"] == "failed"
    assert receipt["http_status"] == answer.status
    assert receipt["cost"]["billed"] is False
    return receipt["failure"]["stage"], receipt["failure"]["code"]


# --- before anything of an answer -------------------------------------------------------------


@scenario
async def test_a_refused_connection_is_503_upstream_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: a connect is refused
        port = taken.getsockname()[1]
        more = f'[providers.dead]\nformat = "openai"\nbase_url = "http://127.0.0.1:{port}/v1"'
        async with gateway_before(tmp_path, answering(b""), more=more) as (gateway, _):
            answer = await gateway.call("/v1/dead/chat/completions", CHAT)
            assert answer.status == 503
            assert answer.json()["error"]["code"] == "upstream_error"
            assert answer.json()["error"]["message"].startswith("All upstream providers failed")
            assert answer.get(b"retry-after") == b"1"
            assert await failed(gateway, answer) == ("upstream_connect", "upstream_error")


@scenario
async def test_no_answer_in_time_is_504(tmp_path: Path) -> None:
    async def silent(call: Call) -> None:
        assert await call.gone()

    async with gateway_before(tmp_path, silent, upstream=SHORT) as (gateway, upstream):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.status == 504
        assert answer.json()["error"]["code"] == "upstream_timeout"
        assert await failed(gateway, answer) == ("upstream_timeout", "upstream_timeout")
        assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 two hundred OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000,
        b"".join(
            [b"HTTP/1.1 200 OK\r\n", *(b"X-%d: aaaaaaaaaaaaaaaa\r\n" % n for n in range(9999))]
        ),
    ],
)
@scenario
async def test_what_is_not_http_is_502_and_never_passed_on(garbage: bytes, tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(garbage, close=True)) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.status == 502
        assert answer.json()["error"]["code"] == "bad_upstream_response"
        assert await failed(gateway, answer) == ("upstream_status", "bad_upstream_response")


@pytest.mark.parametrize(
    "body", [b"<html>oops</html>", b'{"a":', b"", b'{"a":1}{"b":2}', b"\xff{}"]
)
@scenario
async def test_an_answer_that_says_json_and_is_not_is_502(body: bytes, tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply(body))) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.status == 502
        assert answer.json()["error"]["code"] == "bad_upstream_response"
        assert await failed(gateway, answer) == ("upstream_status", "bad_upstream_response")


@scenario
async def test_a_connection_closed_without_an_answer_is_503(tmp_path: Path) -> None:
    async def slam(call: Call) -> None:
        call.close()

    async with gateway_before(tmp_path, slam) as (gateway, upstream):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.status == 503
        assert await failed(gateway, answer) == ("upstream_connect", "upstream_error")
        assert len(upstream.calls) == 1  # a fresh connection: it may have been processed


# --- in the middle of one ---------------------------------------------------------------------


@pytest.mark.parametrize("end", [Call.close, Call.reset])
@scenario
async def test_a_json_answer_cut_short_is_502(end: Callable[[Call], None], tmp_path: Path) -> None:
    async def cut(call: Call) -> None:
        await call.send(reply(b'{"id":"x","usage":{"prompt_tokens":5}}')[:-10])
        await asyncio.sleep(0.02)  # an RST would overtake bytes that were not read yet
        end(call)

    async with gateway_before(tmp_path, cut) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.status == 502
        assert answer.json()["error"]["code"] == "bad_upstream_response"
        assert await failed(gateway, answer) == ("upstream_stream", "bad_upstream_response")
        receipt = await gateway.receipt(answer)
        assert receipt["usage"]["source"] == "none"


@scenario
async def test_a_json_answer_that_stalls_is_504(tmp_path: Path) -> None:
    async def stall(call: Call) -> None:
        await call.send(reply(b'{"id":"x"}')[:-5])
        assert await call.gone()

    async with gateway_before(tmp_path, stall, upstream=SHORT) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.status == 504
        assert await failed(gateway, answer) == ("upstream_timeout", "upstream_timeout")


@pytest.mark.parametrize("name", STREAMS)
@scenario
async def test_a_stream_cut_in_the_middle_ends_in_an_error_event(name: str, tmp_path: Path) -> None:
    stream = STREAMS[name]

    async def cut(call: Call) -> None:
        await call.send(stream.head, chunk(stream.opening), chunk(b'data: {"half an eve'))
        await asyncio.sleep(0.02)
        call.close()

    async with gateway_before(tmp_path, cut) as (gateway, _):
        client = await gateway.client()
        fields = [(b"Authorization", b"Bearer " + OWN_KEY)]
        answer = await client.request("POST", stream.target, fields, stream.body)
        assert answer.status == 200
        assert answer.complete
        assert stream.terminal not in answer.body
        assert b"half an eve" not in answer.body
        code, message = told(answer, name)
        assert code in ("bad_upstream_response", "api_error")
        assert "closed the connection" in message
        assert await client.closed()
        receipt = await gateway.receipt(answer)
        assert receipt["status"] == "failed"
        assert receipt["failure"]["stage"] == "upstream_stream"
        assert receipt["usage"]["source"] == ("partial" if name == "messages" else "none")
        assert receipt["usage"]["input_tokens"] == (12 if name == "messages" else None)


@pytest.mark.parametrize("name", STREAMS)
@scenario
async def test_a_stream_that_stalls_ends_in_an_error_event(name: str, tmp_path: Path) -> None:
    stream = STREAMS[name]

    async def stall(call: Call) -> None:
        await call.send(stream.head, chunk(stream.opening))
        assert await call.gone()

    async with gateway_before(tmp_path, stall, upstream=SHORT) as (gateway, _):
        answer = await gateway.call(stream.target, stream.body)
        assert answer.complete
        assert stream.terminal not in answer.body
        code, message = told(answer, name)
        assert code in ("upstream_timeout", "timeout_error")
        assert "stalled" in message
        stage, _ = await failed(gateway, answer)
        assert stage == "upstream_timeout"


@pytest.mark.parametrize("name", STREAMS)
@scenario
async def test_a_stream_that_dies_before_its_first_event_gets_a_real_status(
    name: str, tmp_path: Path
) -> None:
    async def cut(call: Call) -> None:
        await call.send(STREAMS[name].head, chunk(b"data: {"))
        await asyncio.sleep(0.02)
        call.close()

    async with gateway_before(tmp_path, cut) as (gateway, _):
        stream = STREAMS[name]
        answer = await gateway.call(stream.target, stream.body)
        assert answer.status == 502
        assert answer.get(b"content-type") == b"application/json"
        assert "error" in answer.json()
        stage, _ = await failed(gateway, answer)
        assert stage == "upstream_stream"


@pytest.mark.parametrize(
    "pieces",
    [
        [b'[{"a":1}\r\n', b",\r\n"],
        [b'[{"a":1}\r\n', b',\r\n{"b":2'],
        [b'[{"a":1}', b",", b'{"b":2}'],
        [b'[{"a":1},', b'{"b":2},'],
        [b'[{"a":"}"}', b" "],
    ],
)
@scenario
async def test_a_streamed_array_cut_anywhere_is_still_a_json_array(
    pieces: list[bytes], tmp_path: Path
) -> None:
    stream = STREAMS["array"]

    async def cut(call: Call) -> None:
        await call.send(stream.head, *map(chunk, pieces))
        await asyncio.sleep(0.02)
        call.close()

    async with gateway_before(tmp_path, cut) as (gateway, _):
        answer = await gateway.call(stream.target, stream.body)
        *elements, last = answer.json()
        assert elements[0] in ({"a": 1}, {"a": "}"})
        assert last["error"]["code"] == 502


@scenario
async def test_an_idle_timeout_starts_again_with_every_byte(tmp_path: Path) -> None:
    stream = STREAMS["chat"]

    async def slow(call: Call) -> None:
        await call.send(stream.head, chunk(stream.opening))
        for _ in range(8):
            await asyncio.sleep(0.12)
            await call.send(chunk(b": still here\n\n"))
        await call.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with gateway_before(tmp_path, slow, upstream=SHORT) as (gateway, _):
        answer = await gateway.call(stream.target, stream.body)
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert answer.body.count(b": still here\n\n") == 8
        assert (await gateway.receipt(answer))["status"] == "succeeded"
