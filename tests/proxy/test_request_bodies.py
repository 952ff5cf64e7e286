"""Request bodies: what stays byte for byte, what is changed, decoded, refused, streamed."""

import asyncio
import gzip
import re
import sys
import zlib
from pathlib import Path

import pytest
from harness import (
    OWN_KEY,
    Answer,
    Call,
    Client,
    answering,
    chunk,
    config_text,
    gateway_before,
    reply,
    scenario,
    serving,
    until,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHAT = b'{"model":"gpt-4o","messages":[]}'
ODD = (
    b'{ "temperature" : 1.10,\t"seed":12345678901234567890123 ,\r\n"model" : "%b", "big":1e400,'
    b'"nested":{"model":"premium","model":"twice is fine here"},"u":"\\u00e9\xc3\xa9\\/","x":[ ]}  '
)
ALIASES = """
[models.premium]
targets = ["openai/gpt-4o"]

[models.opus]
targets = ["anthropic/claude-opus-4-5"]

[models.flash]
targets = ["google/gemini-2.5-flash"]

[model_map]
"gpt-3.5*" = "premium"
"""


@scenario
async def test_a_body_that_nothing_changes_goes_on_byte_for_byte(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        for body in (ODD % b"gpt-4o", CHAT, b'{"model":"gpt-4o"}' + b" " * 70_000):
            answer = await gateway.call("/v1/chat/completions", body)
            assert answer.status == 200
            assert upstream.calls[-1].body == body


@pytest.mark.parametrize("name", [b"premium", b"openai/gpt-4o", b"gpt-3.5-turbo-x"])
@scenario
async def test_an_alias_is_renamed_and_every_other_byte_stays(name: bytes, tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply()), more=ALIASES) as (gateway, upstream):
        key = await gateway.key()
        for secret in (key, OWN_KEY):
            answer = await gateway.call("/v1/chat/completions", ODD % name, key=secret)
            assert answer.status == 200
            assert upstream.calls[-1].body == ODD % b"gpt-4o"
            receipt = await gateway.receipt(answer, secret)
            assert receipt["request"]["model"] == name.decode()
            assert receipt["route"]["model"] == "gpt-4o"


@scenario
async def test_an_alias_of_gemini_is_renamed_in_the_path(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply()), more=ALIASES) as (gateway, upstream):
        key = await gateway.key()
        body = b'{"contents":[], "temperature":1.10}'
        answer = await gateway.call("/v1beta/models/flash:generateContent?a=b", body, key=key)
        assert answer.status == 200
        assert upstream.calls[0].target == "/v1beta/models/gemini-2.5-flash:generateContent?a=b"
        assert upstream.calls[0].body == body


@scenario
async def test_what_is_not_translated_is_refused_by_the_models_name(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply()), more=ALIASES) as (gateway, upstream):
        body = b'{"model":"claude-opus-4-5","prompt":"Once upon","max_tokens":5}'
        answer = await gateway.call("/v1/completions", body, key=await gateway.key())
        assert answer.status == 400
        assert b"claude-opus-4-5" in answer.body
        assert answer.json()["error"]["code"] == "unsupported_parameter"
        assert answer.json()["error"]["param"] == "model"
        assert not upstream.calls


@scenario
async def test_a_model_without_a_price_is_refused_to_gateway_keys_alone(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        key = await gateway.key()
        body = b'{"model":"no-such-model"}'
        answer = await gateway.call("/v1/chat/completions", body, key=key)
        assert answer.status == 400
        assert answer.json()["error"]["code"] == "unknown_model_pricing"
        assert answer.json()["error"]["message"] == "Unknown model pricing: no-such-model"
        receipt = await gateway.receipt(answer, key)
        assert receipt["failure"]["stage"] == "routing"
        assert not upstream.calls
        assert (await gateway.call("/v1/chat/completions", body)).status == 200


@pytest.mark.parametrize(
    "target", ["/v1/fine_tuning/jobs", "/v1/audio/speech", "/v1/batches", "/v1/openai/thing"]
)
@scenario
async def test_what_no_answer_prices_is_refused_to_gateway_keys_even_with_a_priced_model(
    target: str, tmp_path: Path
) -> None:
    more = '[providers.mine]\nformat = "openai"\nbase_url = "{url}/v1"\nunmetered = true'
    async with gateway_before(tmp_path, answering(reply()), more=more) as (gateway, upstream):
        key = await gateway.key()
        answer = await gateway.call(target, CHAT, key=key)
        assert answer.status == 400
        assert answer.json()["error"]["code"] == "unknown_model_pricing"
        assert not upstream.calls
        assert (await gateway.call(target, CHAT)).status == 200
        assert (await gateway.call("/v1/mine/thing", b'{"a":1}', key=key)).status == 200


async def stores(call: Call) -> None:
    number = len(call.body)
    await call.send(
        reply(
            b'{"id":"resp_%d","object":"response","status":"completed","output":[],'
            b'"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}' % number
        )
    )


@scenario
async def test_a_stored_response_is_its_makers_alone(tmp_path: Path) -> None:
    """All gateway keys share the provider's account, so the provider would not tell them apart."""
    async with gateway_before(tmp_path, stores) as (gateway, upstream):
        maker, other = await gateway.key("maker"), await gateway.key("other")
        second = await gateway.key("maker")
        made = await gateway.call("/v1/responses", b'{"model":"gpt-4o","input":"x"}', key=maker)
        name = made.json()["id"]
        count = len(upstream.calls)
        follow = b'{"model":"gpt-4o","input":"y","previous_response_id":"%b"}' % name.encode()
        for method, target, body in (
            ("GET", f"/v1/responses/{name}", b""),
            ("DELETE", f"/v1/responses/{name}", b""),
            ("GET", f"/v1/responses/{name}/input_items", b""),
            ("POST", f"/v1/responses/{name}/cancel", b""),
            ("POST", f"/v1/responses/{name}/cancel", b"{}"),
            ("POST", f"/v1/responses/{name}/cancel", b'{"model":"gpt-4o"}'),
            ("POST", f"/v1/openai/responses/{name}/cancel", b'{"model":"gpt-4o"}'),
            ("POST", "/v1/responses", follow),
        ):
            refused = await gateway.call(target, body, method=method, key=other)
            assert refused.status == 404, (method, target)
            assert len(upstream.calls) == count
            for own in (maker, second):
                found = await gateway.call(target, body, method=method, key=own)
                assert found.status == 200, (method, target, found.body)
                count += 1


@pytest.mark.parametrize(
    ("target", "body", "field"),
    [
        ("/v1/responses", b'{"model":"gpt-4o","input":"y","conversation":"conv_1"}',
         "conversation"),
        ("/v1/responses", b'{"model":"gpt-4o","input":"y","conversation":{"id":"conv_1"}}',
         "conversation"),
        ("/v1/responses/input_tokens", b'{"model":"gpt-4o","conversation":"conv_1"}',
         "conversation"),
        ("/v1beta/models/gemini-2.5-flash:generateContent",
         b'{"contents":[],"cachedContent":"cachedContents/x"}', "cachedContent"),
        ("/v1beta/models/gemini-2.5-flash:countTokens",
         b'{"contents":[],"cached_content":"cachedContents/x"}', "cached_content"),
    ],
)  # fmt: skip
@scenario
async def test_what_a_provider_keeps_for_the_shared_account_is_no_keys_to_name(
    tmp_path: Path, target: str, body: bytes, field: str
) -> None:
    async with gateway_before(tmp_path, stores) as (gateway, upstream):
        key = await gateway.key()
        refused = await gateway.call(target, body, key=key)
        assert refused.status == 400, refused
        assert field in refused.json()["error"]["message"]
        assert not upstream.calls
        null = re.sub(b'"(conversation|cached_?[cC]ontent)":.*', rb'"\1":null}', body)
        assert (await gateway.call(target, null, key=key)).status == 200
        assert (await gateway.call(target, body)).status == 200, "the caller's own account"


# --- usage that only the gateway asked for ----------------------------------------------------

EVENTS = [
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n',
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,'
    b'"total_tokens":11}}\n\n',
    b"data: [DONE]\n\n",
]
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def streams(call: Call) -> None:
    await call.send(STREAM, *map(chunk, EVENTS), b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (
            b'{"model":"gpt-4o","stream":true}',
            b'{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream_options":{"include_obfuscation":false}, "stream":true, "model":"gpt-4o"}',
            b'{"stream_options":{"include_obfuscation":false,"include_usage":true}, '
            b'"stream":true, "model":"gpt-4o"}',
        ),
        (
            b'{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":false}}',
            b'{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"model":"gpt-4o","stream":true,"stream_options":null,"temperature":1.10}',
            b'{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"temperature":1.10}',
        ),
    ],
)
@scenario
async def test_usage_is_asked_for_and_taken_out_again(
    sent: bytes, received: bytes, tmp_path: Path
) -> None:
    async with gateway_before(tmp_path, streams) as (gateway, upstream):
        answer = await gateway.call("/v1/chat/completions", sent)
        assert upstream.calls[0].body == received
        assert answer.body == EVENTS[0] + EVENTS[1] + EVENTS[3]
        usage = (await gateway.receipt(answer))["usage"]
        assert (usage["input_tokens"], usage["output_tokens"]) == (9, 2)
        assert usage["source"] == "reported"


@scenario
async def test_usage_that_the_client_asked_for_stays(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, streams) as (gateway, upstream):
        body = b'{"stream_options": {"include_usage": true}, "stream": true, "model": "gpt-4o"}'
        answer = await gateway.call("/v1/chat/completions", body)
        assert upstream.calls[0].body == body
        assert answer.body == b"".join(EVENTS)


@scenario
async def test_a_provider_that_refuses_stream_options_is_not_asked(tmp_path: Path) -> None:
    more = '[providers.plain]\nformat = "openai"\nbase_url = "{url}/v1"\ninclude_usage = false'
    async with gateway_before(tmp_path, streams, more=more) as (gateway, upstream):
        body = b'{"model":"gpt-4o","stream":true}'
        answer = await gateway.call("/v1/plain/chat/completions", body)
        assert upstream.calls[0].body == body
        assert answer.body == b"".join(EVENTS)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b"not json", None),
        (b'{"model":"gpt-4o"', None),
        (b'{"model":"gpt-4o"} trailing', None),
        (b'{"model":5}', "model"),
        (b'{"messages":[]}', "model"),
        (b'{"model":null}', "model"),
        (b'{"model":"gpt-4o","stream":"yes"}', "stream"),
        (b'{"model":"gpt-4o","model":"gpt-4o-mini"}', "model"),
        (b'{"model":"gpt-4o","mod\\u0065l":"gpt-4o-mini"}', "model"),
        (b'{"stream":true,"model":"gpt-4o","stream":false}', "stream"),
        (b'{"model":"gpt-4o","messages":[],"messages":[1]}', "messages"),
        (b'{"model":"gpt-4o","max_tokens":-5}', "max_tokens"),
        (b'{"model":"gpt-4o","max_tokens":' + b"9" * 400 + b"}", "max_tokens"),
        (b'{"model":"gpt-4o","x":NaN}', None),
        (b'{"model":"gpt-4o","x":"\xff"}', None),
        (b'{"model":"gpt-4o","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", None),
    ],
)
@scenario
async def test_a_body_that_two_readers_could_read_differently_is_400(
    body: bytes, param: str | None, tmp_path: Path
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        answer = await gateway.call("/v1/chat/completions", body)
        assert answer.status == 400
        error = answer.json()["error"]
        assert error["code"] == "invalid_request"
        assert error["param"] == param
        assert not upstream.calls
        receipt = await gateway.receipt(answer)
        assert receipt["failure"]["stage"] == "validation"
        assert receipt["http_status"] == 400


@scenario
async def test_a_body_over_the_limit_is_413(tmp_path: Path) -> None:
    limit = "max_body_bytes = 4096"
    async with gateway_before(tmp_path, answering(reply()), server=limit) as (gateway, upstream):
        for target in ("/v1/chat/completions", "/v1/messages"):
            fits = b'{"model":"m","x":"' + b"a" * 4076 + b'"}'
            assert len(fits) == 4096
            assert (await gateway.call(target, fits)).status == 200
            answer = await gateway.call(target, fits + b" ")
            assert answer.status == 413
            assert answer.get(b"content-type") == b"application/json"
        assert answer.json()["error"]["type"] == "request_too_large"
        assert len(upstream.calls) == 2
        chunked = await send_chunked(gateway.port, [b'{"model":"m","x":"', b"a" * 9000, b'"}'])
        assert chunked.status == 413


async def send_chunked(port: int, pieces: list[bytes], fields: bytes = b"") -> Answer:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: own\r\n%b"
        b"Transfer-Encoding: chunked\r\n\r\n" % fields
    )
    for piece in pieces:
        await client.send(chunk(piece))
    await client.send(b"0\r\n\r\n")
    answer = await client.answer()
    client.close()
    return answer


@scenario
async def test_a_chunked_request_goes_on_whole(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        answer = await send_chunked(gateway.port, [CHAT[:5], CHAT[5:6], CHAT[6:]])
        assert answer.status == 200
        assert upstream.calls[0].body == CHAT
        assert upstream.calls[0].get(b"content-length") == b"%d" % len(CHAT)
        assert upstream.calls[0].get(b"transfer-encoding") is None


# --- encodings --------------------------------------------------------------------------------


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize(
    ("name", "pack"),
    [
        (b"gzip", gzip.compress),
        (b"x-gzip", gzip.compress),
        (b"deflate", zlib.compress),
        (b"deflate", raw_deflate),
        (b"zstd", zstd.compress),
        (b"ZSTD ", zstd.compress),
        (b"identity", bytes),
    ],
)
@scenario
async def test_a_compressed_body_reaches_the_upstream_in_the_clear(
    name: bytes, pack: object, size: int, tmp_path: Path
) -> None:
    assert callable(pack)
    body = b'{"model":"gpt-4o","x":"' + b"ab" * size + b'"}'
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        answer = await gateway.call(
            "/v1/chat/completions", pack(body), fields=[(b"Content-Encoding", name)]
        )
        assert answer.status == 200
        assert upstream.calls[0].body == body
        assert upstream.calls[0].get(b"content-encoding") is None


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        (b"br", CHAT, 400),
        (b"gzip, gzip", CHAT, 400),
        (b"gzip", CHAT, 400),
        (b"gzip", gzip.compress(CHAT, mtime=0)[:-4], 400),
        (b"zstd", zstd.compress(CHAT)[:-2], 400),
        (b"deflate", b"\x78\x9c\x00", 400),
        (b"gzip", gzip.compress(b" " * 200_000, mtime=0), 413),
        (b"zstd", zstd.compress(b" " * 200_000), 413),
        (b"deflate", zlib.compress(b" " * 200_000), 413),
    ],
)
@scenario
async def test_a_compressed_body_that_lies_or_bursts_is_refused(
    name: bytes, body: bytes, status: int, tmp_path: Path
) -> None:
    limit = "max_body_bytes = 100000"
    async with gateway_before(tmp_path, answering(reply()), server=limit) as (gateway, upstream):
        answer = await gateway.call(
            "/v1/chat/completions", body, fields=[(b"Content-Encoding", name)]
        )
        assert answer.status == status
        assert not upstream.calls


# --- bodies that are not read first -----------------------------------------------------------


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/files"])
@scenario
async def test_expect_100_continue_is_answered_before_the_body_comes(
    target: str, tmp_path: Path
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        client = await gateway.client()
        await client.send(
            b"POST %b HTTP/1.1\r\nHost: x\r\nx-api-key: own\r\nExpect: 100-continue\r\n"
            b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n"
            % (
                target.encode(),
                b"multipart/form-data; boundary=x"
                if target == "/v1/files"
                else b"application/json",
                len(CHAT),
            )
        )
        async with asyncio.timeout(2):
            assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(CHAT)
        answer = await client.answer()
        assert answer.status == 200
        assert upstream.calls[0].body == CHAT
        assert upstream.calls[0].get(b"expect") is None


@scenario
async def test_expect_is_answered_by_a_refusal_without_the_body(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, _):
        client = await gateway.client()
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: 99999\r\n\r\n"
        )
        line = await client.reader.readuntil(b"\r\n")
        assert line == b"HTTP/1.1 401 Unauthorized\r\n"


@pytest.mark.parametrize("chunked", [False, True])
@scenario
async def test_an_upload_is_passed_on_while_it_comes(chunked: bool, tmp_path: Path) -> None:
    script = answering(reply(b'{"id":"file-1"}'))
    async with gateway_before(tmp_path, script) as (gateway, upstream):
        client = await gateway.client()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 300000"
        await client.send(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nx-api-key: own\r\n%b\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" % framing
        )
        for number in range(30):
            piece = bytes([number]) * 10_000
            await client.send(chunk(piece) if chunked else piece)
            if number == 9:
                await until(lambda: bool(upstream.calls))
                await until(lambda: upstream.calls[0].body_bytes >= 100_000)
        if chunked:
            await client.send(b"0\r\n\r\n")
        answer = await client.answer()
        assert answer.status == 200
        call = upstream.calls[0]
        assert call.body == b"".join(bytes([number]) * 10_000 for number in range(30))
        assert call.get(b"content-type") == b"multipart/form-data; boundary=b"
        assert (call.get(b"transfer-encoding") is not None) == chunked
        receipt = await gateway.receipt(answer, b"own")
        assert receipt["status"] == "succeeded"


@scenario
async def test_an_upload_refused_early_reaches_the_client(tmp_path: Path) -> None:
    """The upstream answers before it has read the body, and closes."""

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(b'{"error":"too big"}', status=413, fields=[(b"Connection", b"close")]))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hasty, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, serving(config_text(tmp_path / "gateway.db", url)) as gateway:
        client = await gateway.client()
        await client.send(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nx-api-key: own\r\nContent-Length: 5000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        sending = asyncio.ensure_future(client.send(b"z" * 4_000_000))
        answer = await client.answer()
        assert answer.status in (413, 502, 503)
        assert answer.status == 413 or answer.json()["error"]["code"]
        sending.cancel()
        receipt = await gateway.receipt(answer, b"own")
        assert receipt["status"] == "failed"


@scenario
async def test_a_body_that_never_comes_is_given_up(tmp_path: Path) -> None:
    quick = "body_seconds = 0.2"
    async with gateway_before(tmp_path, answering(reply()), server=quick) as (gateway, upstream):
        client = await gateway.client()
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: own\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        answer = await client.answer()
        assert answer.status == 400
        assert "did not arrive" in answer.json()["error"]["message"]
        assert await client.closed()
        assert not upstream.calls
