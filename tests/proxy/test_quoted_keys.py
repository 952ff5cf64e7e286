"""A provider that quotes the key it was called with: an operator's is taken out, a caller's not."""

from pathlib import Path

import pytest
from harness import Call, Script, Upstream, chunk, config_text, reply, scenario, serving

from gateway.wire import registry

TARGET = "/v1/chat/completions"
CHAT = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}],"max_tokens":5}'
STREAMED = CHAT[:-1] + b',"stream":true}'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DELTA = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
OWN = b"a-callers-own-provider-key"
PROVIDERS = b"provider-key-openai"


def error(key: bytes) -> bytes:
    return b'{"error":{"message":"Bad key %b; not %b.","type":"t","code":"none"}}' % (key, key)


def quoting(status: int) -> Script:
    async def script(call: Call) -> None:
        key = (call.get(b"authorization") or b"").removeprefix(b"Bearer ")
        if b'"stream":true' in call.body:
            event = b"data: " + error(key) + b"\n\n"
            await call.send(STREAM, chunk(DELTA), chunk(event), chunk(DONE) + b"0\r\n\r\n")
        else:
            await call.send(reply(error(key), status=status, fields=[(b"X-Request-Id", key)]))

    return script


@pytest.mark.parametrize("status", [400, 404, 500])
@scenario
async def test_an_error_body_reaches_a_gateway_keys_caller_without_the_operators_key(
    status: int, tmp_path: Path
) -> None:
    async with (
        Upstream(quoting(status)).running() as upstream,
        serving(config_text(tmp_path / "gateway.db", upstream.url)) as running,
    ):
        key = await running.key()
        answer = await running.call(TARGET, CHAT, key=key)
        assert answer.status == status
        assert answer.body == error(b"[redacted]")
        receipt = await running.receipt(answer, key)
        assert receipt["route"]["upstream_request_id"] is None
        own = await running.call(TARGET, CHAT, key=OWN)
        assert own.body == error(OWN)
        assert OWN.decode() not in str(await running.receipt(own, OWN))


@scenario
async def test_an_error_in_a_stream_is_told_and_kept_without_the_operators_key(
    tmp_path: Path,
) -> None:
    async with (
        Upstream(quoting(200)).running() as upstream,
        serving(config_text(tmp_path / "gateway.db", upstream.url)) as running,
    ):
        key = await running.key()
        answer = await running.call(TARGET, STREAMED, key=key)
        told = b"data: " + error(b"[redacted]") + b"\n\n"
        assert answer.body == DELTA + told + DONE
        receipt = await running.receipt(answer, key)
        assert receipt["failure"]["message"] == "Bad key [redacted]; not [redacted]."
        own = await running.call(TARGET, STREAMED, key=OWN)
        assert own.body == DELTA + b"data: " + error(OWN) + b"\n\n" + DONE
        failure = (await running.receipt(own, OWN))["failure"]
        assert failure["message"] == "Bad key [redacted]; not [redacted]."


@scenario
async def test_a_placeholder_for_a_key_is_a_word_like_any_other(tmp_path: Path) -> None:
    async with Upstream(quoting(400)).running() as upstream:
        text = config_text(tmp_path / "gateway.db", upstream.url)
        text = text.replace(PROVIDERS.decode(), "none")
        async with serving(text) as running:
            answer = await running.call(TARGET, CHAT, key=await running.key())
            assert answer.body == error(b"none")


def test_a_tap_hands_an_error_event_back_as_another_object_and_quiet_ones_as_the_same() -> None:
    tap = registry.stream_tap("openai_chat", strip_usage=False)
    for _ in range(20):
        assert tap.feed(DELTA) is DELTA
    event = b"data: " + error(OWN) + b"\n\n"
    out = tap.feed(event)
    assert out == event
    assert out is not event
