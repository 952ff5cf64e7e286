"""The webhook gets a signed document, once it can take it; it is asked nowhere else."""

import hashlib
import hmac

import orjson
import pytest
from aiohttp import web
from alert_site import NOON_MS, SECRET, Hook, a_crossing, hook_server, soon

from gateway.alerts.event import Event, Undelivered, event_of
from gateway.alerts.webhook import Webhook
from gateway.errors import ConfigError

HOOK_SECRET = "canary-hook-secret-x93K"
EVENT = event_of(a_crossing(), SECRET, None)


async def refused(webhook: Webhook, event: Event = EVENT) -> str:
    with pytest.raises(Undelivered) as info:
        await soon(webhook.send(event, NOON_MS))
    assert info.value.__cause__ is None
    return str(info.value)


async def test_the_document_says_who_how_much_and_when() -> None:
    hook = Hook()
    async with hook_server(hook) as port:
        webhook = Webhook(f"http://127.0.0.1:{port}/hooks/x?token=y", "")
        await soon(webhook.send(EVENT, NOON_MS))
        user = event_of(a_crossing("user:7"), SECRET, "Zoë\r\n")
        await soon(webhook.send(user, NOON_MS))
    body, headers = hook.posts.get_nowait()
    assert headers["Content-Type"] == "application/json"
    assert "X-Gateway-Signature" not in headers
    assert orjson.loads(body) == {
        "object": "alert",
        "id": EVENT.id,
        "created_at": "2026-11-21T00:00:05.000Z",
        "day": "2026-11-21",
        "threshold": "alert",
        "subject": {"object": "provider", "name": "openai"},
        "currency": "USD",
        "spent": {"nano_usd": 50_021_000_000, "amount": "50.021"},
        "limit": {"nano_usd": 50_000_000_000, "amount": "50"},
        "message": "Provider openai has cost $50.021 on 2026-11-21",
    }
    body, _ = hook.posts.get_nowait()
    document = orjson.loads(body)
    assert document["subject"] == {"object": "user", "id": 7, "name": "Zoë\r\n"}
    assert document["message"] == "User Zoë   has spent $50.021 on 2026-11-21"


async def test_a_receiver_can_verify_that_the_gateway_sent_it_and_when() -> None:
    hook = Hook()
    async with hook_server(hook) as port:
        await soon(Webhook(f"http://127.0.0.1:{port}/", HOOK_SECRET).send(EVENT, NOON_MS + 1999))
    body, headers = hook.posts.get_nowait()
    fields = dict(part.split("=", 1) for part in headers["X-Gateway-Signature"].split(","))
    assert fields["t"] == str(NOON_MS // 1000 + 1)
    signed = fields["t"].encode() + b"." + body
    assert fields["v1"] == hmac.new(HOOK_SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert HOOK_SECRET not in repr((body, headers))


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_success_is_delivery(status: int) -> None:
    hook = Hook()
    hook.answers = [web.Response(status=status)]
    async with hook_server(hook) as port:
        await soon(Webhook(f"http://127.0.0.1:{port}/", "").send(EVENT, NOON_MS))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    here, there = Hook(), Hook()
    async with hook_server(here) as port, hook_server(there) as other:
        target = {"Location": f"http://127.0.0.1:{other}/"}
        here.answers = [web.Response(status=status, headers=target)]
        why = await refused(Webhook(f"http://127.0.0.1:{port}/", HOOK_SECRET))
    assert why == f"127.0.0.1: answered {status}"
    assert there.posts.empty()


@pytest.mark.parametrize("status", [400, 404, 410, 500, 503])
async def test_an_error_is_a_failure(status: int) -> None:
    hook = Hook()
    hook.answers = [web.Response(status=status, text="the words of the other side")]
    async with hook_server(hook) as port:
        why = await refused(Webhook(f"http://127.0.0.1:{port}/", ""))
    assert why == f"127.0.0.1: answered {status}"


async def test_a_receiver_that_does_not_answer_is_given_up() -> None:
    hook = Hook()
    hook.go.clear()
    async with hook_server(hook) as port:
        webhook = Webhook(f"http://127.0.0.1:{port}/", "", timeout_s=0.1)
        assert await refused(webhook) == "127.0.0.1: no answer in 0.1 s"
        hook.go.set()


async def test_what_cannot_be_reached_is_told_by_its_host_only() -> None:
    async with hook_server(Hook()) as port:
        pass
    secret = "canary-path-4Jq"
    for url in (
        f"http://me:{secret}@127.0.0.1:{port}/{secret}?token={secret}",
        f"https://127.0.0.1:{port}/{secret}",
    ):
        why = await refused(Webhook(url, secret))
        assert why.startswith("127.0.0.1: Client")
        assert secret not in why


@pytest.mark.parametrize(
    "url", ["", "ftp://example.org/", "http://", "http://[::1", "http://a:0/", "http://a:x/"]
)
def test_what_is_no_address_is_refused_with_its_key(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^alerts\.webhook_url: "):
        Webhook(url, "")
