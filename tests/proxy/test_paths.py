"""Which path of a client leads to which path of which upstream."""

from pathlib import Path

import pytest
from harness import OWN_KEY, Call, answering, gateway_before, reply, scenario

CHAT = b'{"model":"gpt-4o","messages":[]}'


@pytest.mark.parametrize(
    ("asked", "reached"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/api/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/api/v1/v1/chat/completions", "/v1/chat/completions"),
        ("//v1//chat/completions", "/v1/chat/completions"),
        ("/v1/openai/chat/completions", "/v1/chat/completions"),
        ("/v1/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions?a=b&c", "/v1/chat/completions?a=b&c"),
        ("/v1/chat/completions?key=own&a=b", "/v1/chat/completions?a=b"),
        ("/v1/chat/completions?a=b&key=own", "/v1/chat/completions?a=b"),
        ("/v1/chat/completions?key=own", "/v1/chat/completions"),
        ("/v1/chat/completions?monkey=own", "/v1/chat/completions?monkey=own"),
        ("/v1/chat/completions?a=b&key=1&key=2&c=d", "/v1/chat/completions?a=b&c=d"),
        ("/v1/responses", "/v1/responses"),
        ("/v1/responses/compact", "/v1/responses/compact"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/completions", "/v1/completions"),
        ("/v1/moderations", "/v1/moderations"),
        ("/v1/images/generations", "/v1/images/generations"),
        ("/v1/messages", "/anthropic/v1/messages"),
        ("/v1/messages?beta=true", "/anthropic/v1/messages?beta=true"),
        ("/v1/messages/count_tokens", "/anthropic/v1/messages/count_tokens"),
        ("/v1/messages/batches", "/anthropic/v1/messages/batches"),
        ("/v1/anthropic/messages", "/anthropic/v1/messages"),
        ("/v1/anthropic/v1/messages", "/anthropic/v1/messages"),
        ("/v1beta/models/g:generateContent", "/v1beta/models/g:generateContent"),
        ("/api/v1beta/models/g:countTokens", "/v1beta/models/g:countTokens"),
        ("/v1/models/g:generateContent", "/v1beta/models/g:generateContent"),
        ("/v1/v1beta/models/g:generateContent", "/v1beta/models/g:generateContent"),
        ("/v1/google/models/g:generateContent", "/v1beta/models/g:generateContent"),
        (
            "/v1beta/models/g:streamGenerateContent?alt=sse&key=own",
            "/v1beta/models/g:streamGenerateContent?alt=sse",
        ),
        ("/v1beta/cachedContents", "/v1beta/cachedContents"),
        ("/upload/v1beta/files", "/upload/v1beta/files"),
        ("/v1/files/f%2F1", "/v1/files/f%2F1"),
    ],
)
@scenario
async def test_a_path_reaches_its_upstream(asked: str, reached: str, tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        answer = await gateway.call(asked, CHAT)
        assert answer.status == 200
        assert [call.target for call in upstream.calls] == [reached]
        assert (await gateway.receipt(answer))["status"] == "succeeded"


@pytest.mark.parametrize(
    ("method", "asked", "reached"),
    [
        ("GET", "/v1/responses/resp_1", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel", "/v1/responses/resp_1/cancel"),
        (
            "GET",
            "/v1/responses/resp_1/input_items?limit=2",
            "/v1/responses/resp_1/input_items?limit=2",
        ),
        ("GET", "/v1/files", "/v1/files"),
        ("DELETE", "/v1/files/f1", "/v1/files/f1"),
        ("GET", "/v1/openai/models", "/v1/models"),
        ("PATCH", "/v1/openai/anything/at/all", "/v1/anything/at/all"),
        ("PUT", "/v1/openai/thing", "/v1/thing"),
        ("GET", "/v1beta/files/f1", "/v1beta/files/f1"),
        ("HEAD", "/v1/files/f1", "/v1/files/f1"),
    ],
)
@scenario
async def test_other_methods_reach_what_the_provider_knows(
    method: str, asked: str, reached: str, tmp_path: Path
) -> None:
    async def script(call: Call) -> None:
        await call.send(reply(b"" if call.method == "HEAD" else b'{"ok":1}'))

    async with gateway_before(tmp_path, script) as (gateway, upstream):
        answer = await gateway.call(asked, method=method)
        assert answer.status == 200
        call = upstream.calls[0]
        assert (call.method, call.target) == (method, reached)
        if method in ("GET", "HEAD", "DELETE"):
            assert call.get(b"content-length") is None
            assert call.get(b"transfer-encoding") is None
        receipt = await gateway.receipt(answer)
        assert receipt["status"] == "succeeded"
        assert receipt["usage"]["source"] == "none"
        assert receipt["cost"]["nano_usd"] == 0


@pytest.mark.parametrize(
    "asked",
    [
        "/v1/../admin",
        "/v1/./files",
        "/v1/files/..",
        "/v1/files/%2e%2e/x",
        "/v1/openai/%2E%2E/%2e%2e/internal",
        "/v1/openai/files/.%2e/x",
        "/v1beta/models/../x:generateContent",
        "/v2/chat/completions",
        "/v1",
        "/v1/",
        "/nothing",
        "/v1beta/",
    ],
)
@scenario
async def test_what_is_no_endpoint_is_404_and_reaches_no_upstream(
    asked: str, tmp_path: Path
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        answer = await gateway.call(asked, CHAT)
        assert answer.status == 404
        error = answer.json()["error"]
        assert error["code"] in ("not_found", 404)
        assert not upstream.calls


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
@scenario
async def test_a_metered_endpoint_takes_post_alone(method: str, tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        answer = await gateway.call("/v1/chat/completions", method=method)
        assert answer.status == 405
        if method != "HEAD":
            assert answer.json()["error"]["code"] == "method_not_allowed"
        assert not upstream.calls


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "BREW"])
@scenario
async def test_odd_methods_reach_no_upstream(method: str, tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        client = await gateway.client()
        await client.send(
            b"%b /v1/files HTTP/1.1\r\nHost: x\r\nx-api-key: own\r\n\r\n" % method.encode()
        )
        status, _ = await client.head()
        assert status in (400, 405)
        assert not upstream.calls


@pytest.mark.parametrize(
    ("path", "fields", "shape"),
    [
        ("/v1/nothing/here/../x", [], "openai"),
        ("/v1/nothing/here/../x", [(b"anthropic-version", b"2023-06-01")], "anthropic"),
        ("/v1beta/nothing/../x", [], "gemini"),
    ],
)
@scenario
async def test_refusals_come_in_the_callers_format(
    path: str, fields: list[tuple[bytes, bytes]], shape: str, tmp_path: Path
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, _):
        answer = await gateway.call(path, b"{}", fields=fields)
        assert answer.status == 404
        assert answer.get(b"content-type") == b"application/json"
        found = answer.json()
        if shape == "openai":
            assert set(found) == {"error"}
            assert set(found["error"]) == {"message", "type", "param", "code"}
        elif shape == "anthropic":
            assert set(found) == {"type", "error", "request_id"}
            assert found["error"]["type"] == "not_found_error"
        else:
            assert set(found["error"]) == {"code", "message", "status", "details"}
            assert found["error"]["status"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (b"", "No API key was given"),
        (b"gw-short", "checksum"),
        (b"gw-" + b"a" * 34, "checksum"),
    ],
)
@scenario
async def test_a_bad_credential_is_401_and_is_not_quoted(
    key: bytes, message: str, tmp_path: Path
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        answer = await gateway.call("/v1/chat/completions", CHAT, key=key)
        assert answer.status == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert message in answer.json()["error"]["message"]
        assert not key or key not in answer.body
        assert answer.get(b"x-badgr-receipt-id") is None
        assert not upstream.calls


@scenario
async def test_own_keys_can_be_switched_off(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply()), byok="enabled = false") as (
        gateway,
        upstream,
    ):
        answer = await gateway.call("/v1/chat/completions", CHAT, key=OWN_KEY)
        assert answer.status == 401
        assert not upstream.calls
        answer = await gateway.call("/v1/chat/completions", CHAT, key=await gateway.key())
        assert answer.status == 200


@scenario
async def test_a_revoked_key_stops_at_once_on_a_connection_that_is_open(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        key = await gateway.key()
        client = await gateway.client()
        fields = [(b"x-api-key", key)]
        for _ in range(2):
            answer = await client.request("POST", "/v1/chat/completions", fields, CHAT)
            assert answer.status == 200
        accounts = gateway.gateway.accounts
        await accounts.revoke_key(accounts.list_keys()[0].id)
        answer = await client.request("POST", "/v1/chat/completions", fields, CHAT)
        assert answer.status == 401
        assert "revoked" in answer.json()["error"]["message"]
        assert len(upstream.calls) == 2


@scenario
async def test_an_escaped_path_goes_on_as_it_came_and_a_raw_one_is_not_http(
    tmp_path: Path,
) -> None:
    async with gateway_before(tmp_path, answering(reply(b'{"candidates":[]}'))) as (
        gateway,
        upstream,
    ):
        client = await gateway.client()
        escaped = "/v1beta/models/%E6%A8%A1%E5%9e%8b:generateContent?q=%C3%a9"
        for _ in range(2):  # the second finds an idle connection and runs without a task
            fields = [(b"x-goog-api-key", b"own"), (b"Content-Type", b"application/json")]
            assert (await client.request("POST", escaped, fields, b"{}")).status == 200
        assert len(upstream.calls) == 2
        assert all(call.target.endswith(escaped) for call in upstream.calls)
        # RFC 9112 §3.2: a request target is ASCII. aiohttp's parser holds to that.
        await client.send("GET /v1/models/模型 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await client.answer()).status == 400


@scenario
async def test_an_error_to_head_has_no_body_that_could_be_read_as_an_answer(
    tmp_path: Path,
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, _):
        client = await gateway.client()
        key = await gateway.key()
        fields = [(b"x-api-key", key)]
        refused = await client.request("HEAD", "/v1/files/f", fields)
        assert refused.status == 400
        assert refused.body == b""
        after = await client.request("GET", "/healthz", [])
        assert after.json() == {"status": "ok"}
