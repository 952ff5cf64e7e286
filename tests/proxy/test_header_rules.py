"""Which header fields cross the gateway, in both directions, over real sockets."""

from pathlib import Path

import pytest
from harness import OWN_KEY, Answer, Call, Upstream, answering, gateway_before, reply, scenario

CHAT = b'{"model":"gpt-4o","messages":[]}'
MESSAGES = b'{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[]}'
ALL_SLOTS = [
    (b"Authorization", b"Bearer canary-bearer"),
    (b"x-api-key", b"canary-x-api-key"),
    (b"X-Goog-Api-Key", b"canary-x-goog-api-key"),
    (b"api-key", b"canary-api-key"),
]


def credentials(call: Call) -> list[tuple[bytes, bytes]]:
    slots = (b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key")
    return [(name.lower(), value) for name, value in call.fields if name.lower() in slots]


@pytest.mark.parametrize(
    ("target", "body", "sent"),
    [
        ("/v1/chat/completions", CHAT, (b"authorization", b"Bearer provider-key-openai")),
        ("/v1/messages", MESSAGES, (b"x-api-key", b"provider-key-anthropic")),
        (
            "/v1beta/models/gemini-2.5-flash:generateContent",
            b'{"contents":[]}',
            (b"x-goog-api-key", b"provider-key-google"),
        ),
    ],
)
@scenario
async def test_every_credential_slot_is_stripped_and_the_providers_own_set(
    target: str, body: bytes, sent: tuple[bytes, bytes], tmp_path: Path
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        key = await gateway.key()
        slots = [*ALL_SLOTS, (b"openai-organization", b"org-canary")]
        for number in range(len(ALL_SLOTS)):
            fields = [*slots]
            value = b"Bearer " + key if number == 0 else key
            fields[number] = (fields[number][0], value)
            separator = "&" if "?" in target else "?"
            answer = await gateway.call(
                f"{target}{separator}key=canary-parameter&beta=true", body, key=b"", fields=fields
            )
            assert answer.status == 200
            call = upstream.calls[-1]
            assert credentials(call) == [sent]
            assert b"canary" not in call.head
            assert key not in call.head
            assert call.target.endswith("?beta=true")


@pytest.mark.parametrize(
    ("slot", "target", "body", "sent"),
    [
        (b"Authorization", "/v1/chat/completions", CHAT, b"authorization"),
        (b"api-key", "/v1/chat/completions", CHAT, b"api-key"),
        (b"x-api-key", "/v1/chat/completions", CHAT, b"authorization"),
        (b"x-api-key", "/v1/messages", MESSAGES, b"x-api-key"),
        (b"Authorization", "/v1/messages", MESSAGES, b"authorization"),
        (b"x-goog-api-key", "/v1beta/models/g:generateContent", b"{}", b"x-goog-api-key"),
        (b"key", "/v1beta/models/g:generateContent", b"{}", b"x-goog-api-key"),
        (b"Authorization", "/v1beta/models/g:generateContent", b"{}", b"authorization"),
    ],
)
@scenario
async def test_a_callers_own_key_goes_on_in_a_slot_its_provider_reads(
    slot: bytes, target: str, body: bytes, sent: bytes, tmp_path: Path
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        fields = [(slot, b"Bearer own" if slot == b"Authorization" else b"own")]
        if slot == b"key":
            target, fields = f"{target}?key=own", []
        answer = await gateway.call(target, body, key=b"", fields=fields)
        assert answer.status == 200
        value = b"Bearer own" if sent == b"authorization" else b"own"
        assert credentials(upstream.calls[0]) == [(sent, value)]
        assert "key=" not in upstream.calls[0].target


@scenario
async def test_only_the_callers_own_organisation_goes_on_with_the_callers_own_key(
    tmp_path: Path,
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        fields = [(b"OpenAI-Organization", b"org-1"), (b"OpenAI-Project", b"proj-1")]
        await gateway.call("/v1/chat/completions", CHAT, fields=fields)
        assert upstream.calls[0].get(b"openai-organization") == b"org-1"
        assert upstream.calls[0].get(b"openai-project") == b"proj-1"


@scenario
async def test_what_is_between_two_hops_only_stays_there(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        dropped = [
            (b"Cookie", b"a=b"),
            (b"Proxy-Authorization", b"Basic Zm9v"),
            (b"TE", b"trailers"),
            (b"Connection", b"keep-alive, X-Per-Hop ,x-other"),
            (b"Keep-Alive", b"timeout=5"),
            (b"X-Per-Hop", b"1"),
            (b"x-OTHER", b"2"),
            (b"X-Forwarded-For", b"10.0.0.1"),
            (b"Via", b"1.1 other"),
            (b"Accept-Encoding", b"gzip, br"),
        ]
        await gateway.call("/v1/chat/completions", CHAT, fields=dropped)
        call = upstream.calls[0]
        assert sorted(name.lower() for name, _ in call.fields) == [
            b"accept-encoding",
            b"authorization",
            b"content-length",
            b"content-type",
            b"host",
        ]
        assert call.get(b"accept-encoding") == b"identity"
        assert call.get(b"host") == f"127.0.0.1:{upstream.port}".encode()


@scenario
async def test_connection_cannot_name_away_what_the_gateway_sets(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        fields = [(b"Connection", b"authorization, content-length, host, accept-encoding")]
        answer = await gateway.call("/v1/chat/completions", CHAT, fields=fields)
        assert answer.status == 200
        assert upstream.calls[0].body == CHAT
        assert upstream.calls[0].get(b"authorization") == b"Bearer " + OWN_KEY


@scenario
async def test_two_connection_fields_both_count(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        fields = [
            (b"Connection", b"X-One"),
            (b"X-One", b"1"),
            (b"Connection", b"X-Two"),
            (b"X-Two", b"2"),
        ]
        await gateway.call("/v1/chat/completions", CHAT, fields=fields)
        assert upstream.calls[0].get(b"x-one") is None
        assert upstream.calls[0].get(b"x-two") is None


@scenario
async def test_everything_else_goes_on_as_it_came(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        kept = [
            (b"anthropic-version", b"2023-06-01"),
            (b"anthropic-beta", b"prompt-caching-2024-07-31, a-B-c"),
            (b"anthropic-beta", b"second"),
            (b"User-Agent", b"Anthropic/Python 1.2"),
            (b"X-Stainless-Retry-Count", b"0"),
            (b"Idempotency-Key", b"stainless-1"),
            (b"x-odd-CASE", b'  tab\tand "quotes"; \xe4\xf6'.strip()),
            (b"Accept", b"text/event-stream"),
        ]
        await gateway.call("/v1/messages?beta=true", MESSAGES, fields=kept)
        call = upstream.calls[0]
        assert [field for field in call.fields if field in kept] == kept
        assert call.target == "/anthropic/v1/messages?beta=true"


async def answered(tmp_path: Path, *fields: tuple[bytes, bytes], status: int = 200) -> Answer:
    script = answering(reply(b'{"id":"x"}', status=status, fields=fields))
    async with gateway_before(tmp_path, script) as (gateway, _):
        return await gateway.call("/v1/chat/completions", CHAT)


@scenario
async def test_the_upstreams_request_id_keeps_a_name_of_its_own(tmp_path: Path) -> None:
    script = answering(reply(fields=[(b"X-Request-Id", b"req_upstream")]))
    async with gateway_before(tmp_path, script) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert answer.all(b"x-upstream-request-id") == [b"req_upstream"]
        own = answer.receipt_id.encode()
        assert answer.all(b"x-request-id") == answer.all(b"request-id") == [own]
        assert answer.get(b"X-AIBADGR-Receipt-URL") == b"/v1/receipts/" + own
        receipt = await gateway.receipt(answer)
        assert receipt["route"]["upstream_request_id"] == "req_upstream"
        assert receipt["id"].encode() == own


@scenario
async def test_limits_and_retry_hints_of_the_upstream_stay(tmp_path: Path) -> None:
    kept = [
        (b"retry-after", b"7"),
        (b"retry-after-ms", b"6900"),
        (b"x-should-retry", b"true"),
        (b"x-ratelimit-remaining-requests", b"0"),
        (b"anthropic-ratelimit-tokens-reset", b"2026-11-21T00:00:00Z"),
        (b"openai-processing-ms", b"12"),
        (b"openai-version", b"2020-10-01"),
        (b"cf-ray", b"abc"),
        (b"x-twice", b"1"),
        (b"x-twice", b"2"),
    ]
    answer = await answered(tmp_path, *kept, status=429)
    assert answer.status == 429
    assert [field for field in answer.fields if field in kept] == kept


@scenario
async def test_cookies_and_connection_fields_of_the_upstream_stop_here(tmp_path: Path) -> None:
    answer = await answered(
        tmp_path,
        (b"Set-Cookie", b"__cf_bm=1; path=/"),
        (b"SET-COOKIE", b"b=2"),
        (b"Connection", b"keep-alive"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"Strict-Transport-Security", b"max-age=1"),
        (b"Alt-Svc", b'h3=":443"'),
        (b"Access-Control-Allow-Origin", b"*"),
        (b"Upgrade", b"h2c"),
    )
    have = {name.lower() for name, _ in answer.fields}
    assert have == {
        b"content-type",
        b"content-length",
        b"x-badgr-receipt-id",
        b"x-aibadgr-receipt-url",
        b"x-request-id",
        b"request-id",
    }


@scenario
async def test_what_an_upstreams_connection_field_names_stops_here(tmp_path: Path) -> None:
    answer = await answered(
        tmp_path, (b"Connection", b"keep-alive, X-Hop"), (b"X-Hop", b"secret of the hop")
    )
    assert answer.get(b"x-hop") is None


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@scenario
async def test_redirects_are_passed_on_and_never_followed(status: int, tmp_path: Path) -> None:
    async def elsewhere(call: Call) -> None:
        raise AssertionError("followed")

    async with Upstream(elsewhere).running() as other:
        place = f"{other.url}/v1/chat/completions".encode()
        script = answering(reply(b"", status=status, fields=[(b"Location", place)]))
        async with gateway_before(tmp_path, script) as (gateway, upstream):
            answer = await gateway.call("/v1/files/f1/content", method="GET")
            assert answer.status == status
            assert answer.get(b"location") == place
            assert len(upstream.calls) == 1
        assert not other.calls


@scenario
async def test_a_header_that_quotes_the_provider_key_is_dropped(tmp_path: Path) -> None:
    fields = [
        (b"Location", b"https://upload.test/x?key=provider-key-openai"),
        (b"X-Echo", b"Bearer provider-key-openai"),
        (b"X-Fine", b"1"),
    ]
    async with gateway_before(tmp_path, answering(reply(fields=fields))) as (gateway, _):
        key = await gateway.key()
        answer = await gateway.call("/v1/chat/completions", CHAT, key=key)
        assert answer.get(b"x-fine") == b"1"
        assert answer.get(b"location") is None
        assert b"provider-key" not in b"".join(value for _, value in answer.fields)


@scenario
async def test_a_folded_header_cannot_smuggle_a_dropped_one(tmp_path: Path) -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1;\r\n  path=/\r\nX-Fine: 1\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    async with gateway_before(tmp_path, answering(raw)) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        assert b"path=/" not in b"".join(value for _, value in answer.fields)
        if answer.status == 200:
            assert answer.get(b"x-fine") == b"1"
        else:
            assert answer.status == 502


@scenario
async def test_receipt_header_names_are_configurable(tmp_path: Path) -> None:
    names = 'receipt_id_header = "X-Receipt"\nreceipt_url_header = "X-Receipt-Where"'
    async with gateway_before(tmp_path, answering(reply()), server=names) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        found = answer.get(b"x-receipt")
        assert found is not None
        assert answer.get(b"x-receipt-where") == b"/v1/receipts/" + found
        assert answer.get(b"x-badgr-receipt-id") is None
