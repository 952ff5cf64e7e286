"""A user's own account: what it shows, to whom, and what it takes."""

from pathlib import Path

import pytest
from admin_site import CHAT_NANO_USD, admin_site
from harness import OWN_KEY, scenario

PREFIXES = ["/v1", "/api/v1", "/v1/v1", "/api/v1/v1"]


@pytest.mark.parametrize("prefix", PREFIXES)
@scenario
async def test_the_account_shows_balance_limits_and_the_day(prefix: str, tmp_path: Path) -> None:
    async with admin_site(tmp_path, limits="rpm = 60\ntpm = 5000\nconcurrent = 9") as site:
        key = await site.user("ann", "1.00", tpm=3000, rpm=90)
        assert (await site.chat(key)).status == 200
        account = (await site.gateway.call(f"{prefix}/account", method="GET", key=key)).json()
        left = 10**9 - CHAT_NANO_USD
        assert account == {
            "object": "account",
            "user": "ann",
            "balance": {"nano_usd": left, "amount": "0.9955"},
            "held": {"nano_usd": 0, "amount": "0.00"},
            "limits": {"rpm": 60, "tpm": 3000, "concurrent": 9},
            "today": {"requests": 1, "tokens": 1200, "nano_usd": CHAT_NANO_USD},
        }


@scenario
async def test_a_keys_own_limits_go_before_the_servers(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.user("ann", rpm=50)
        made = await site.done("POST", "/keys", {"user": "ann", "rpm": 10, "tpm": 10**6})
        key = made["key"].encode()
        account = (await site.gateway.call("/v1/account", method="GET", key=key)).json()
        assert account["limits"] == {"rpm": 10, "tpm": 10**6, "concurrent": 100}


@pytest.mark.parametrize("prefix", PREFIXES)
@scenario
async def test_a_provider_key_of_ones_own_has_no_account(prefix: str, tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        for method, path, body in (
            ("GET", "account", b""),
            ("GET", "usage", b""),
            ("POST", "account/redeem", b'{"code":"x"}'),
        ):
            answer = await site.gateway.call(f"{prefix}/{path}", body, method=method, key=OWN_KEY)
            assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")
        assert not site.upstream.calls


@scenario
async def test_usage_is_of_the_callers_user_alone(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        ann, bob = await site.user("ann", "1.00"), await site.user("bob", "1.00")
        for key, calls in ((ann, 2), (bob, 1)):
            for _ in range(calls):
                await site.chat(key)
        (issued,) = (await site.done("GET", "/keys?user=ann"))["data"]

        async def lines(query: str, key: bytes = ann) -> list[dict[str, object]]:
            answer = await site.gateway.call(f"/v1/usage{query}", method="GET", key=key)
            assert answer.status == 200, answer
            found = answer.json()["data"]
            assert isinstance(found, list)
            return found

        plain = await lines("")
        (line,) = plain
        assert set(line) == {
            "day", "requests", "failed", "input_tokens", "output_tokens", "nano_usd", "amount"
        }  # fmt: skip
        assert (line["requests"], line["nano_usd"]) == (2, 2 * CHAT_NANO_USD)
        assert line["amount"] == "0.009"
        (line,) = await lines("?group_by=model,key")
        assert (line["model"], line["key"]) == ("gpt-4o", issued["id"])
        assert await lines(f"?key_id={issued['id']}") == plain
        assert await lines(f"?key_id={issued['id']}", bob) == []
        for query, field in (
            ("group_by=user", "group_by"),
            ("group_by=provider", "group_by"),
            ("since=x", "since"),
            ("until=2026-13-01", "until"),
        ):
            refused = await site.gateway.call(f"/v1/usage?{query}", method="GET", key=ann)
            assert (refused.status, refused.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{}", 400),
        (b'{"code":7}', 400),
        (b'{"code":"x","user":"bob"}', 400),
        (b"[" * 5000, 413),
        (b'{"code":"\xff"}', 400),
        (b'{"code":"code-nothing"}', 400),
    ],
)
@scenario
async def test_what_is_no_code_is_refused(body: bytes, status: int, tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        key = await site.user("ann")
        answer = await site.gateway.call("/v1/account/redeem", body, key=key)
        assert answer.status == status
        assert answer.json()["error"]["message"]


@scenario
async def test_a_code_that_was_never_issued_is_not_found(tmp_path: Path) -> None:
    elsewhere, here = tmp_path / "a", tmp_path / "b"
    for directory in (elsewhere, here):
        directory.mkdir()
    async with admin_site(elsewhere) as other:
        made = await other.done("POST", "/codes", {"amount": "1.00"})
        text = made["data"][0]["code"].encode()
    async with admin_site(here) as site:
        key = await site.user("ann")
        answer = await site.gateway.call("/v1/account/redeem", b'{"code":"%b"}' % text, key=key)
        assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")


@scenario
async def test_other_paths_named_alike_are_the_providers(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        for method, path in (("POST", "/v1/account/redeem/x"), ("POST", "/v1/x/account/redeem")):
            answer = await site.gateway.call(path, b"{}", method=method)
            assert answer.status == 200
        assert len(site.upstream.calls) == 2
