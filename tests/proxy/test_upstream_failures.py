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
    until,
)

CHAT = b'{"model":"gpt-4o","messages":[]}'
SHORT = "connect_seconds = 1\nfirst_byte_seconds = 0.3\nidle_seconds = 0.3"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
SSE = CHUNKED % b"text/event-stream"


class Stream:
    """A streamed call of one format: its request, its first events, its proper end."""

    def __init__(self, target: str, body: bytes, opening: bytes, kind: bytes, marks: bytes) -> None:
        self.target = target
        self.body = body
        self.opening = opening
        self.head = CHUNKED % kind
        self.terminal = marks


STREAMS = {
    "chat": Stream(
        "/v1/chat/completions",
        b'{"model":"gpt-4o","stream":true,"messages":[],"stream_options":{"include_usage":true}}',
        b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n',
        b"text/event-stream",
        b"[DONE]",
    ),
    "responses": Stream(
        "/v1/responses",
        b'{"model":"gpt-4o","stream":true,"input":"x"}',
        b'event: response.created\ndata: {"type":"response.created","sequence_number":0,'
        b'"response":{"id":"resp_1","status":"in_progress"}}\n\n'
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
        b'"sequence_number":7,"delta":"Hel"}\n\n',
        b"text/event-stream",
        b"response.completed",
    ),
    "messages": Stream(
        "/v1/messages",
        b'{"model":"claude-sonnet-4-5","stream":true,"max_tokens":10,"messages":[]}',
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","usage":'
        b'{"input_tokens":12,"output_tokens":1}}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"Hel"}}\n\n',
        b"text/event-stream",
        b"message_stop",
    ),
    "gemini": Stream(
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        b'{"contents":[]}',
        b'data: {"candidates":[{"content":{"parts":[{"text":"Hel"}]}}]}\r\n\r\n',
        b"text/event-stream",
        b"finishReason",
    ),
    "array": Stream(
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        b'{"contents":[]}',
        b'[{"candidates":[{"content":{"parts":[{"text":"Hel"}]}}]}\n',
        b"application/json",
        b"finishReason",
    ),
}


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


# --- trying again -----------------------------------------------------------------------------


@pytest.mark.parametrize("close", [Call.close, Call.reset])
@scenario
async def test_a_stale_pooled_connection_is_retried_once_on_a_fresh_one(
    close: Callable[[Call], None], tmp_path: Path
) -> None:
    async def script(call: Call) -> None:
        if call.connection == 1 and len(upstream.calls) > 1:
            close(call)  # took the request and closed before a byte: exactly the race
            return
        await call.send(reply(b'{"id":"%d"}' % call.connection))

    async with gateway_before(tmp_path, script) as (gateway, upstream):
        first = await gateway.call("/v1/chat/completions", CHAT)
        assert first.json() == {"id": "1"}
        second = await gateway.call("/v1/chat/completions", CHAT)
        assert second.json() == {"id": "2"}
        assert [call.connection for call in upstream.calls] == [1, 1, 2]
        assert upstream.calls[2].body == CHAT
        receipt = await gateway.receipt(second)
        assert receipt["status"] == "succeeded"
        assert len(receipt["route"]["attempts"]) == 1


@scenario
async def test_a_fresh_connection_that_dies_is_not_retried_again(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        if len(upstream.calls) > 1:
            call.close()
            return
        await call.send(reply())

    async with gateway_before(tmp_path, script) as (gateway, upstream):
        await gateway.call("/v1/chat/completions", CHAT)
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.status == 503
        assert len(upstream.calls) == 3


ALIAS = """
[providers.second]
format = "openai"
base_url = "{url}/second"
keys = ["provider-key-second"]
catalog = "openai"

[models.premium]
targets = ["openai/gpt-4o", "second/gpt-4o-mini"]
"""


def two_targets(first: Callable[[Call], Any]) -> Callable[[Call], Any]:
    """A script: `first` answers the first target, the second one works."""

    async def script(call: Call) -> None:
        if call.target.startswith("/second/"):
            await call.send(reply(b'{"id":"second","usage":{"prompt_tokens":3}}'))
        else:
            await first(call)

    return script


async def says_429(call: Call) -> None:
    await call.send(reply(b'{"error":"slow down"}', status=429))


async def says_500(call: Call) -> None:
    await call.send(reply(b'{"error":"oops"}', status=500))


async def says_401(call: Call) -> None:
    await call.send(reply(b'{"error":"provider-key-openai is wrong"}', status=401))


async def slams(call: Call) -> None:
    call.close()


async def is_silent(call: Call) -> None:
    await call.gone()


async def cuts_json(call: Call) -> None:
    await call.send(reply(b'{"id":"x"}')[:-3])
    call.close()


@pytest.mark.parametrize(
    ("first", "outcome", "status"),
    [
        (says_429, "upstream_status", 429),
        (says_500, "upstream_status", 500),
        (says_401, "upstream_status", 401),
        (slams, "upstream_connect", None),
        (is_silent, "upstream_timeout", None),
    ],
)
@scenario
async def test_the_next_target_is_tried_before_anything_was_sent(
    first: Callable[[Call], Any], outcome: str, status: int | None, tmp_path: Path
) -> None:
    async with gateway_of_two(tmp_path, two_targets(first)) as (gateway, upstream):
        key = await gateway.key()
        answer = await gateway.call(
            "/v1/chat/completions", b'{"model":"premium","n":1.10}', key=key
        )
        assert answer.status == 200
        assert answer.json()["id"] == "second"
        assert [call.body for call in upstream.calls] == [
            b'{"model":"gpt-4o","n":1.10}',
            b'{"model":"gpt-4o-mini","n":1.10}',
        ]
        assert [call.get(b"authorization") for call in upstream.calls] == [
            b"Bearer provider-key-openai",
            b"Bearer provider-key-second",
        ]
        receipt = await gateway.receipt(answer, key)
        attempts = receipt["route"]["attempts"]
        assert [(one["provider"], one["outcome"], one["status"]) for one in attempts] == [
            ("openai", outcome, status),
            ("second", "succeeded", 200),
        ]
        assert receipt["route"]["provider"] == "second"
        assert receipt["route"]["model"] == "gpt-4o-mini"
        assert receipt["request"]["model"] == "premium"


def gateway_of_two(tmp_path: Path, script: Callable[[Call], Any]) -> Any:
    return gateway_before(tmp_path, script, upstream=SHORT, more=ALIAS)


@pytest.mark.parametrize(("first", "status"), [(says_429, 429), (says_500, 500), (is_silent, 504)])
@scenario
async def test_when_the_last_target_fails_its_failure_is_told(
    first: Callable[[Call], Any], status: int, tmp_path: Path
) -> None:
    async with gateway_of_two(tmp_path, first) as (gateway, upstream):
        key = await gateway.key()
        answer = await gateway.call("/v1/chat/completions", b'{"model":"premium"}', key=key)
        assert len(upstream.calls) == 2
        assert answer.status == status
        receipt = await gateway.receipt(answer, key)
        assert receipt["status"] == "failed"
        assert len(receipt["route"]["attempts"]) == 2
        assert receipt["cost"]["nano_usd"] == 0


@scenario
async def test_a_client_error_is_passed_on_and_not_tried_elsewhere(tmp_path: Path) -> None:
    async def says_400(call: Call) -> None:
        await call.send(reply(b'{"error":{"message":"too long"}}', status=400))

    async with gateway_of_two(tmp_path, says_400) as (gateway, upstream):
        key = await gateway.key()
        answer = await gateway.call("/v1/chat/completions", b'{"model":"premium"}', key=key)
        assert answer.status == 400
        assert answer.body == b'{"error":{"message":"too long"}}'
        assert len(upstream.calls) == 1


@scenario
async def test_a_stream_that_began_is_never_tried_elsewhere(tmp_path: Path) -> None:
    stream = STREAMS["chat"]

    async def cut(call: Call) -> None:
        await call.send(stream.head, chunk(stream.opening))
        await until(lambda: began)
        call.close()

    began = False
    async with gateway_of_two(tmp_path, two_targets(cut)) as (gateway, upstream):
        key = await gateway.key()
        client = await gateway.client()
        body = stream.body.replace(b"gpt-4o", b"premium")
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (key, len(body), body)
        )
        status, _ = await client.head()
        assert status == 200
        assert await client.piece() == stream.opening
        began = True
        assert b'"error"' in await client.piece()
        assert len(upstream.calls) == 1


@scenario
async def test_a_stream_cut_before_its_first_event_goes_to_the_next_target(tmp_path: Path) -> None:
    async def cut(call: Call) -> None:
        await call.send(SSE, chunk(b"data: {"))
        call.close()

    async with gateway_of_two(tmp_path, two_targets(cut)) as (gateway, upstream):
        key = await gateway.key()
        answer = await gateway.call(
            "/v1/chat/completions", b'{"model":"premium","stream":true}', key=key
        )
        assert answer.json()["id"] == "second"
        assert len(upstream.calls) == 2


FAULT = b'data: {"error":{"message":"overloaded","type":"server_error","code":"x"}}\n\n'
ROLE = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'


@pytest.mark.parametrize("pieces", [[FAULT], [b": wait\n\n", ROLE, FAULT], [ROLE + FAULT]])
@scenario
async def test_a_200_that_opens_with_an_error_goes_to_the_next_target(
    pieces: list[bytes], tmp_path: Path
) -> None:
    async def opens_badly(call: Call) -> None:
        await call.send(SSE, *map(chunk, pieces), b"0\r\n\r\n")

    body = b'{"model":"premium","stream":true}'
    async with gateway_of_two(tmp_path, two_targets(opens_badly)) as (gateway, upstream):
        key = await gateway.key()
        answer = await gateway.call("/v1/chat/completions", body, key=key)
        assert answer.json()["id"] == "second"
        assert len(upstream.calls) == 2
        receipt = await gateway.receipt(answer, key)
        outcomes = [one["outcome"] for one in receipt["route"]["attempts"]]
        assert outcomes == ["upstream_stream", "succeeded"]
        assert receipt["status"] == "succeeded"
    async with gateway_of_two(tmp_path, opens_badly) as (gateway, upstream):
        key = await gateway.key("another")
        answer = await gateway.call("/v1/chat/completions", body, key=key)
        assert answer.body == b"".join(pieces)  # of the last target: as it came
        assert len(upstream.calls) == 2
        receipt = await gateway.receipt(answer, key)
        assert receipt["failure"]["stage"] == "upstream_stream"


@scenario
async def test_a_stream_that_takes_its_time_to_say_something_is_not_kept_back_for_ever(
    tmp_path: Path,
) -> None:
    going_on = asyncio.Event()

    async def dithers(call: Call) -> None:
        await call.send(SSE, chunk(ROLE), chunk(b": " + b"w" * 20_000 + b"\n\n"))
        await going_on.wait()
        await call.send(chunk(STREAMS["chat"].opening), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n")

    async with gateway_of_two(tmp_path, two_targets(dithers)) as (gateway, upstream):
        key = await gateway.key()
        client = await gateway.client()
        body = b'{"model":"premium","stream":true}'
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (key, len(body), body)
        )
        assert (await client.head())[0] == 200
        assert (await client.piece()).startswith(ROLE)
        going_on.set()
        rest = b""
        while piece := await client.piece():
            rest += piece
        assert rest.endswith(STREAMS["chat"].opening + b"data: [DONE]\n\n")
        assert len(upstream.calls) == 1


@scenario
async def test_an_upstream_that_refuses_our_key_is_502_and_its_text_is_kept_back(
    tmp_path: Path,
) -> None:
    async with gateway_before(tmp_path, says_401) as (gateway, _):
        key = await gateway.key()
        answer = await gateway.call("/v1/chat/completions", CHAT, key=key)
        assert answer.status == 502
        assert b"provider-key" not in answer.body
        own = await gateway.call("/v1/chat/completions", CHAT)
        assert own.status == 401
        assert own.body == b'{"error":"provider-key-openai is wrong"}'


# --- stopping ---------------------------------------------------------------------------------


@scenario
async def test_stopping_does_not_wait_for_an_upstream_that_said_all(tmp_path: Path) -> None:
    """A stream past its terminal event, whose upstream never ends the body."""

    async def lingers(call: Call) -> None:
        await call.send(SSE, chunk(STREAMS["chat"].opening), chunk(b"data: [DONE]\n\n"))
        await call.gone(30)

    async with gateway_before(tmp_path, lingers) as (gateway, _):
        client = await gateway.client()
        body = STREAMS["chat"].body
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: own\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        status, _ = await client.head()
        assert status == 200
        got = b""
        while not got.endswith(b"data: [DONE]\n\n"):
            got += await client.piece()
        assert got.startswith(STREAMS["chat"].opening)
        begun = asyncio.get_running_loop().time()
        stopping = asyncio.ensure_future(gateway.gateway.stop(0.1))
        assert await client.piece() == b""
        async with asyncio.timeout(3):
            await stopping
        assert asyncio.get_running_loop().time() - begun < 2.5
