"""What is tried again, where, and when no more: stale connections, failover, stopping."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import (
    Call,
    chunk,
    gateway_before,
    reply,
    scenario,
    until,
)
from streamed_calls import CHAT, SHORT, SSE, STREAMS

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


SILENCE_MS = 300
"""The first-byte timeout of `SHORT`."""

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
            "/v1/chat/completions", b'{"model":"premium","temperature":1.10}', key=key
        )
        assert answer.status == 200
        assert answer.json()["id"] == "second"
        assert [call.body for call in upstream.calls] == [
            b'{"model":"gpt-4o","temperature":1.10}',
            b'{"model":"gpt-4o-mini","temperature":1.10}',
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
        # What the first target was waited for is not the gateway's own time.
        assert receipt["timing"]["gateway_ms"] < SILENCE_MS / 2


def gateway_of_two(tmp_path: Path, script: Callable[[Call], Any]) -> Any:
    return gateway_before(tmp_path, script, upstream=SHORT, more=ALIAS)


@pytest.mark.parametrize("first", [says_429, says_500, says_401, slams, is_silent, cuts_json])
@scenario
async def test_when_all_of_several_targets_fail_the_client_gets_one_503(
    first: Callable[[Call], Any], tmp_path: Path
) -> None:
    async with gateway_of_two(tmp_path, first) as (gateway, upstream):
        key = await gateway.key()
        answer = await gateway.call("/v1/chat/completions", b'{"model":"premium"}', key=key)
        assert len(upstream.calls) == 2
        assert answer.status == 503
        error = answer.json()["error"]
        assert (error["code"], error["message"]) == (
            "upstream_error",
            "All upstream providers failed",
        )
        assert answer.get(b"retry-after") == b"1"
        receipt = await gateway.receipt(answer, key)
        assert receipt["status"] == "failed"
        assert len(receipt["route"]["attempts"]) == 2
        assert receipt["cost"]["nano_usd"] == 0


@pytest.mark.parametrize(("only", "status"), [(says_429, 429), (says_500, 500), (is_silent, 504)])
@scenario
async def test_the_failure_of_the_only_target_is_told_as_it_is(
    only: Callable[[Call], Any], status: int, tmp_path: Path
) -> None:
    async with gateway_of_two(tmp_path, only) as (gateway, upstream):
        key = await gateway.key()
        answer = await gateway.call("/v1/chat/completions", b'{"model":"openai/gpt-4o"}', key=key)
        assert len(upstream.calls) == 1
        assert answer.status == status
        receipt = await gateway.receipt(answer, key)
        assert receipt["status"] == "failed"
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
        assert answer.json()["error"]["message"] == "All upstream providers failed"
        assert len(upstream.calls) == 2
        receipt = await gateway.receipt(answer, key)
        assert receipt["failure"]["stage"] == "upstream_stream"
        only = await gateway.call(
            "/v1/chat/completions", body.replace(b"premium", b"openai/gpt-4o"), key=key
        )
        assert (only.status, only.body) == (200, b"".join(pieces))  # as it came


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
