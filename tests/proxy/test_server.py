"""The client's side of the wire: pipelining, HTTP/1.0, malformed requests, TLS, sockets, CORS.

Also what `proxy/server.py` relies on inside aiohttp, so that another version fails here first.
"""

import asyncio
import inspect
import re
import ssl
from pathlib import Path

import aiohttp.http_parser
import pytest
import trustme
from aiohttp.web_protocol import RequestHandler
from harness import (
    OWN_KEY,
    Call,
    Client,
    Upstream,
    answering,
    chunk,
    config_text,
    gateway_before,
    reply,
    request_bytes,
    scenario,
    serving,
    until,
)

from gateway.proxy.server import ClientConnection, is_proxied

CHAT = b'{"model":"gpt-4o","messages":[]}'
OWN = [(b"x-api-key", b"own")]
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = b'data: {"id":"c","choices":[{"delta":{"content":"Hi"}}]}\n\n', b"data: [DONE]\n\n"


async def echoes(call: Call) -> None:
    """Answers with the model it was asked for, as JSON or as a stream."""
    if b'"stream":true' in call.body:
        await call.send(STREAM, *map(chunk, EVENTS), b"0\r\n\r\n")
    else:
        name = call.body.split(b'"model":"')[1].split(b'"')[0] if b"model" in call.body else b""
        await call.send(reply(b'{"id":"%b"}' % name))


def chat(name: str, *, stream: bool = False) -> bytes:
    body = b'{"model":"%b"%b}' % (name.encode(), b',"stream":true' if stream else b"")
    return request_bytes("POST", "/v1/chat/completions", OWN, body)


@pytest.mark.parametrize(
    ("method", "path", "proxied"),
    [
        ("POST", "/v1/chat/completions", True),
        ("GET", "/v1/responses/r", True),
        ("GET", "/v1/receipts", False),
        ("GET", "/v1/receipts?limit=2", False),
        ("GET", "/api/v1/receipts/x", False),
        ("HEAD", "/v1/models/gpt-4o", False),
        ("GET", "/v1beta/models", False),
        ("GET", "/v1/v1/models", False),
        ("GET", "/v1/openai/models", True),
        ("GET", "/v1/modelsx", True),
        ("POST", "/v1beta/models/g:generateContent", True),
        ("DELETE", "/v1/models/ft-1", True),
        ("OPTIONS", "/v1/receipts", True),
        ("GET", "/healthz", False),
        ("POST", "/healthz", False),
        ("GET", "/", False),
        ("GET", "//v1/files", True),
        ("POST", "/upload/v1beta/files", True),
    ],
)
def test_own_pages_are_told_from_what_is_passed_on(method: str, path: str, proxied: bool) -> None:
    assert is_proxied(method, path) is proxied


def test_what_is_relied_on_inside_aiohttp_is_there() -> None:
    source = inspect.getsource(RequestHandler)
    ours = inspect.getsource(ClientConnection)
    own = {"_begin", "_body_broke", "_busy", "_declined", "_done", "_drained", "_next", "_page"}
    own |= {"_proxy", "_refuse", "_rest", "_wake"}
    used = set(re.findall(r"self\.(_\w+)", ours)) - own
    assert used
    missing = {name for name in used if name not in source and not hasattr(RequestHandler, name)}
    assert not missing
    assert aiohttp.http_parser.HttpRequestParser.__module__.endswith("_http_parser")
    assert aiohttp.__version__ == "3.14.5"


@scenario
async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, echoes) as (gateway, _):
        client = await gateway.client()
        names = [f"model-{number}" for number in range(30)]
        requests = [chat(name, stream=number % 3 == 1) for number, name in enumerate(names)]
        requests.insert(10, request_bytes("GET", "/healthz"))
        requests.insert(20, request_bytes("GET", "/v1/nothing/..", OWN))
        await client.send(b"".join(requests))
        got = [await client.answer() for _ in requests]
        assert got.pop(20).status == 404
        assert got.pop(10).json() == {"status": "ok"}
        for number, (name, answer) in enumerate(zip(names, got, strict=True)):
            if number % 3 == 1:
                assert answer.body == b"".join(EVENTS)
            else:
                assert answer.json() == {"id": name}


@scenario
async def test_requests_cut_anywhere_are_served_all_the_same(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, echoes) as (gateway, _):
        client = await gateway.client(server_hostname=None)
        data = chat("one") + chat("two", stream=True) + chat("three")
        for at in range(len(data)):
            client.writer.write(data[at : at + 1])
            await asyncio.sleep(0)
        assert (await client.answer()).json() == {"id": "one"}
        assert (await client.answer()).body == b"".join(EVENTS)
        assert (await client.answer()).json() == {"id": "three"}


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_an_http_10_client_is_served_and_closed(stream: bool, tmp_path: Path) -> None:
    async with gateway_before(tmp_path, echoes) as (gateway, _):
        client = await gateway.client()
        await client.send(chat("one", stream=stream).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await client.answer()
        assert answer.status == 200
        assert answer.get(b"transfer-encoding") is None
        assert answer.body == (b"".join(EVENTS) if stream else b'{"id":"one"}')
        assert await client.closed()
        assert (await gateway.receipt(answer, b"own"))["status"] == "succeeded"


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_connection_close_is_honoured(stream: bool, tmp_path: Path) -> None:
    async with gateway_before(tmp_path, echoes) as (gateway, _):
        client = await gateway.client()
        await client.send(
            chat("one", stream=stream).replace(b"Host:", b"Connection: close\r\nHost:")
        )
        answer = await client.answer()
        assert answer.complete
        assert answer.get(b"connection") == b"close"
        assert await client.closed()


@scenario
async def test_a_request_line_with_a_whole_url_is_served(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, echoes) as (gateway, _):
        client = await gateway.client()
        await client.send(chat("one").replace(b"POST /v1/", b"POST http://gateway.example/v1/"))
        assert (await client.answer()).json() == {"id": "one"}


CANARY = b"canary-credential-in-a-malformed-request"


@scenario
async def test_a_header_line_without_end_is_refused_as_too_large_and_not_quoted(
    tmp_path: Path,
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        client = await gateway.client()
        long = b"X-Long: %b%b\r\nHost:" % (CANARY, b"a" * 40_000)
        await client.send(chat("one").replace(b"Host:", long))
        answer = await client.answer()
        assert answer.status == 431
        assert answer.json()["error"]["code"] == "invalid_request"
        assert CANARY not in answer.body
        assert await client.closed()
        assert not upstream.calls


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization Bearer %b\r\n\r\n"
        % CANARY,
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: %b\x00\r\n\r\n" % CANARY,
        b"GET /healthz HTTP/9.9\r\nHost: x\r\nx-api-key: %b\r\n\r\n" % CANARY,
        b"%b\r\n\r\n" % CANARY,
        b"GET /healthz?key=%b HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\n" % CANARY,
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nx-api-key: %b\r\nContent-Length: 5\r\n"
        b"Content-Length: 6\r\n\r\nhello!" % CANARY,
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nx-api-key: %b\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % CANARY,
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nx-api-key: %b\r\n"
        b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" % CANARY,
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nx-api-key: %b\r\n"
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" % CANARY,
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n folded: %b\r\n\r\n" % CANARY,
        b"GET /healthz HTTP/1.1\r\nHost : x\r\nX: %b\r\n\r\n" % CANARY,
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\nX: %b\r\n\r\n" % CANARY,
    ],
)
@scenario
async def test_what_is_not_http_gets_a_400_that_quotes_nothing_and_a_close(
    request_: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        client = await gateway.client()
        await client.send(request_)
        answer = await client.answer()
        assert answer.status == 400
        assert answer.json()["error"]["code"] == "invalid_request"
        assert CANARY not in answer.body
        assert await client.closed()
        assert not upstream.calls
    assert CANARY.decode() not in caplog.text


@scenario
async def test_the_rest_of_a_refused_body_is_never_read_as_a_request(tmp_path: Path) -> None:
    smuggled = chat("smuggled")
    async with gateway_before(tmp_path, echoes) as (gateway, upstream):
        client = await gateway.client()
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            % (len(smuggled) + 10)
        )
        answer = await client.answer()
        assert answer.status == 401
        await client.send(smuggled)
        assert await client.closed()
        assert not upstream.calls


@scenario
async def test_a_client_that_stops_reading_pauses_its_upstream(tmp_path: Path) -> None:
    """Unread bytes stay at the upstream: in this process only what the sockets hold is taken."""
    total = 64 * 1024 * 1024
    sent = 0
    piece = b"x" * 65_536

    async def floods(call: Call) -> None:
        nonlocal sent
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            call.writer.write(piece)
            sent += len(piece)
            await call.writer.drain()

    async with gateway_before(tmp_path, floods) as (gateway, _):
        client = await gateway.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(request_bytes("GET", "/v1/files/f/content", OWN))
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.15)
        assert 0 < sent < total // 2
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        answer = await client.answer()
        assert answer.complete
        assert len(answer.body) == total


# --- TLS and sockets --------------------------------------------------------------------------


@scenario
async def test_the_listener_speaks_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key, trust = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    issued = authority.issue_cert("gateway.test")
    issued.private_key_pem.write_to_path(str(key))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(cert), append=True)
    authority.cert_pem.write_to_path(str(trust))
    context = ssl.create_default_context(cafile=str(trust))
    tls = f'tls_cert = "{cert}"\ntls_key = "{key}"'
    async with gateway_before(tmp_path, echoes, server=tls) as (gateway, _):
        client = await gateway.client(context, server_hostname="gateway.test")
        for name in ("one", "two"):
            await client.send(chat(name))
            assert (await client.answer()).json() == {"id": name}
        await client.send(chat("three", stream=True))
        assert (await client.answer()).body == b"".join(EVENTS)
        with pytest.raises(ssl.SSLCertVerificationError):
            await gateway.client(ssl.create_default_context(), server_hostname="gateway.test")
        plain = await gateway.client()
        await plain.send(chat("plain"))
        assert await plain.closed()


class SecureUpstream:
    """An upstream's TLS context, and the file of the authority that signed it."""

    def __init__(self, directory: Path, host: str = "localhost") -> None:
        authority = trustme.CA()
        self.ca_file = directory / f"ca-{host}.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host).configure_cert(self.context)


@scenario
async def test_an_upstream_is_reached_over_tls_with_an_authority_of_its_own(
    tmp_path: Path,
) -> None:
    secure = SecureUpstream(tmp_path)
    async with Upstream(echoes).running(secure.context) as upstream:
        url = f"https://localhost:{upstream.port}"
        text = config_text(tmp_path / "gateway.db", url, upstream=f'ca_file = "{secure.ca_file}"')
        async with serving(text) as gateway:
            client = await gateway.client()
            for name in ("one", "two"):
                await client.send(chat(name))
                assert (await client.answer()).json() == {"id": name}
            await client.send(chat("three", stream=True))
            assert (await client.answer()).body == b"".join(EVENTS)
            assert upstream.connections == 1
            assert upstream.calls[0].get(b"host") == f"localhost:{upstream.port}".encode()


@pytest.mark.parametrize("fault", ["authority", "name", "plain"])
@scenario
async def test_a_key_is_never_sent_to_an_upstream_that_is_not_verified(
    fault: str, tmp_path: Path
) -> None:
    right = SecureUpstream(tmp_path)
    wrong = SecureUpstream(tmp_path, "other.test" if fault == "name" else "127.0.0.1")
    got: list[bytes] = []

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read(1 << 16))
        writer.close()

    context = None if fault == "plain" else wrong.context
    server = await asyncio.start_server(listens, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        trusted = wrong if fault == "name" else right
        text = config_text(
            tmp_path / "gateway.db",
            f"https://localhost:{port}",
            upstream=f'ca_file = "{trusted.ca_file}"',
        )
        async with serving(text) as gateway:
            key = await gateway.key()
            for secret in (key, OWN_KEY):
                answer = await gateway.call("/v1/chat/completions", CHAT, key=secret)
                assert answer.status == 503
                assert answer.json()["error"]["code"] == "upstream_error"
                receipt = await gateway.receipt(answer, secret)
                assert receipt["failure"]["stage"] == "upstream_connect"
                reason = "connection was closed" if fault == "plain" else "TLS: "
                assert reason in receipt["failure"]["message"]
    assert not any(OWN_KEY in one or b"provider-key" in one for one in got)
    assert not any(b"HTTP/1.1" in one for one in got)


@scenario
async def test_the_listener_can_be_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "listen.sock"
    path.write_text("left behind by a crash")
    async with gateway_before(tmp_path, echoes, server=f'unix_socket = "{path}"') as (gateway, _):
        client = await gateway.client()
        await client.send(chat("one"))
        answer = await client.answer()
        assert answer.json() == {"id": "one"}
        assert (await gateway.receipt(answer, b"own"))["status"] == "succeeded"


# --- browsers ---------------------------------------------------------------------------------

ORIGIN = (b"Origin", b"https://app.example")


async def preflight(client: Client, origin: bytes) -> dict[bytes, bytes]:
    answer = await client.request(
        "OPTIONS",
        "/v1/chat/completions",
        [
            (b"Origin", origin),
            (b"Access-Control-Request-Method", b"POST"),
            (b"Access-Control-Request-Headers", b"authorization,x-stainless-os"),
        ],
    )
    assert answer.status == 204
    return {name.lower(): value for name, value in answer.fields}


@scenario
async def test_a_preflight_is_answered_for_allowed_origins_alone(tmp_path: Path) -> None:
    allowed = 'cors_origins = ["https://app.example"]'
    async with gateway_before(tmp_path, echoes, server=allowed) as (gateway, upstream):
        client = await gateway.client()
        fields = await preflight(client, ORIGIN[1])
        assert fields[b"access-control-allow-origin"] == b"https://app.example"
        assert b"POST" in fields[b"access-control-allow-methods"]
        assert fields[b"access-control-allow-headers"] == b"authorization,x-stainless-os"
        assert fields[b"vary"] == b"Origin"
        other = await preflight(client, b"https://evil.example")
        assert not any(name.startswith(b"access-control") for name in other)
        answer = await client.request("POST", "/v1/chat/completions", [*OWN, ORIGIN], CHAT)
        assert answer.get(b"access-control-allow-origin") == b"https://app.example"
        assert b"X-Badgr-Receipt-Id" in (answer.get(b"access-control-expose-headers") or b"")
        refused = await client.request("POST", "/v1/chat/completions", [ORIGIN], CHAT)
        assert refused.status == 401
        assert refused.get(b"access-control-allow-origin") == b"https://app.example"
        assert len(upstream.calls) == 1


@scenario
async def test_without_origins_no_cors_field_is_sent(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, echoes) as (gateway, _):
        client = await gateway.client()
        fields = await preflight(client, ORIGIN[1])
        assert not any(name.startswith(b"access-control") for name in fields)
        answer = await client.request("POST", "/v1/chat/completions", [*OWN, ORIGIN], CHAT)
        assert answer.get(b"access-control-allow-origin") is None


@scenario
async def test_any_origin_can_be_allowed(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, echoes, server='cors_origins = ["*"]') as (gateway, _):
        client = await gateway.client()
        fields = await preflight(client, b"https://whatever.example")
        assert fields[b"access-control-allow-origin"] == b"https://whatever.example"
        for target in ("/v1/receipts", "/v1/models"):
            own = await client.request("GET", target, [*OWN, ORIGIN])
            assert own.status == 200
            assert own.get(b"access-control-allow-origin") == b"https://app.example"
            assert own.get(b"server") == b"gateway"


# --- a client that leaves ---------------------------------------------------------------------


@scenario
async def test_nothing_of_a_request_stays_when_its_client_leaves(tmp_path: Path) -> None:
    closed = []

    async def waits(call: Call) -> None:
        if b'"stream":true' in call.body:
            await call.send(STREAM, chunk(EVENTS[0]))
        closed.append(await call.gone())

    async with gateway_before(tmp_path, waits) as (gateway, upstream):
        for stream in (False, True):
            client = await gateway.client()
            await client.send(chat("one", stream=stream))
            await until(lambda stream=stream: len(upstream.calls) == 1 + stream)  # type: ignore[misc]
            if stream:
                await client.head()
            client.reset()
            await until(lambda stream=stream: len(closed) == 1 + stream, 1.0)  # type: ignore[misc]
        await until(lambda: not gateway.gateway.services.exchanges)
        assert closed == [True, True]
        listed = await gateway.call("/v1/receipts", method="GET", key=b"own")
        assert [one["status"] for one in listed.json()["data"]] == ["cancelled", "cancelled"]
        stages = [one["failure"]["stage"] for one in listed.json()["data"]]
        assert stages == ["client_disconnect"] * 2
