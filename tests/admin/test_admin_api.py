"""The admin API over real sockets: what each verb does there, and how strictly it is asked."""

import asyncio
import logging
from collections import Counter
from pathlib import Path

import pytest
from admin_site import CHAT_NANO_USD, TOKEN, USAGE, admin_site
from harness import Call, reply, scenario, until

from gateway.accounts import keys
from gateway.admin.http_api import BODY_BYTES_MAX

PROVIDER_KEY = "sk-provider-0123456789abcdefghij"


# --- users and keys ---------------------------------------------------------------------------


@scenario
async def test_a_user_is_made_changed_and_shown(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        made = await site.done("POST", "/users", {"name": "ann", "email": "a@b.example"})
        assert (made["object"], made["name"], made["rate_multiplier"]) == ("user", "ann", "1")
        assert made["balance"] == {"nano_usd": 0, "amount": "0.00"}
        changed = await site.done(
            "PATCH", "/users/ann", {"rate_multiplier": "1.2", "rpm": 7, "daily_alert": "0.5"}
        )
        assert (changed["rate_multiplier"], changed["rpm"]) == ("1.2", 7)
        assert changed["daily_alert"] == {"nano_usd": 500_000_000, "amount": "0.50"}
        assert changed["email"] == "a@b.example"
        cleared = await site.done("PATCH", "/users/ann", {"rpm": None, "daily_alert": None})
        assert (cleared["rpm"], cleared["daily_alert"]) == (None, None)
        assert cleared["rate_multiplier"] == "1.2"
        assert (await site.done("GET", "/users"))["data"] == [cleared]
        assert await site.done("GET", "/users/ann") == cleared


@scenario
async def test_suspending_stops_a_users_keys_at_once_and_resuming_takes_them_again(
    tmp_path: Path,
) -> None:
    async with admin_site(tmp_path) as site:
        key = await site.user("ann", "1.00")
        assert (await site.chat(key)).status == 200
        assert (await site.done("POST", "/users/ann/suspend"))["status"] == "suspended"
        assert (await site.chat(key)).status == 401
        assert (await site.done("POST", "/users/ann/resume"))["status"] == "active"
        assert (await site.chat(key)).status == 200


@scenario
async def test_a_users_price_and_limits_hold_from_the_next_request_on(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        key = await site.user("ann", "1.00", rate_multiplier="1.5", rpm=2)
        answers = [await site.chat(key) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        balance = (await site.done("GET", "/users/ann"))["balance"]["nano_usd"]
        assert balance == 10**9 - 2 * CHAT_NANO_USD * 3 // 2


@scenario
async def test_a_keys_text_is_in_the_answer_that_made_it_and_nowhere_else(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.done("POST", "/users", {"name": "ann"})
        made = await site.done(
            "POST", "/keys",
            {"user": "ann", "name": "ci", "models": ["gpt-4o"], "spend_cap": "0.000000001"},
        )  # fmt: skip
        assert keys.check("gw-", made["key"]) == "ok"
        assert made["spend_cap"] == {"nano_usd": 1, "amount": "0.000000001"}
        listed = await site.ask("GET", "/keys?user=ann")
        assert made["key"][7:].encode() not in listed.body
        assert listed.json()["data"][0]["id"] == made["id"]
        changed = await site.done(
            "PATCH", f"/keys/{made['id']}", {"spend_cap": None, "on_disconnect": "drain"}
        )
        assert (changed["spend_cap"], changed["on_disconnect"]) == (None, "drain")
        assert changed["models"] == ["gpt-4o"]
        assert (await site.done("DELETE", f"/keys/{made['id']}"))["status"] == "revoked"
        assert (await site.chat(made["key"].encode())).status == 401


@scenario
async def test_a_key_spends_no_more_than_its_cap(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.user("ann", "100.00")
        made = await site.done("POST", "/keys", {"user": "ann", "spend_cap": "0.01"})
        key = made["key"].encode()
        answers = [(await site.chat(key)).status for _ in range(5)]
        assert answers[0] == 200
        assert answers[-1] == 402
        (listed,) = [
            one for one in (await site.done("GET", "/keys"))["data"] if one["id"] == made["id"]
        ]
        assert listed["spent"]["nano_usd"] == answers.count(200) * CHAT_NANO_USD
        assert listed["spent"]["nano_usd"] <= 10_000_000


@scenario
async def test_only_an_admin_has_an_admins_key(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.done("POST", "/users", {"name": "ann"})
        asked = {"user": "ann", "admin": True}
        assert await site.refused("POST", "/keys", asked) == (409, "conflict", "admin")
        await site.done("PATCH", "/users/ann", {"admin": True})
        made = await site.done("POST", "/keys", asked)
        assert (await site.ask("GET", "/users", key=made["key"].encode())).status == 200


# --- money ------------------------------------------------------------------------------------


@scenario
async def test_a_hundred_racing_copies_of_one_credit_give_once_and_answer_alike(
    tmp_path: Path,
) -> None:
    async with admin_site(tmp_path) as site:
        await site.user("ann")
        fields = [(b"Idempotency-Key", b"invoice 4711")]
        answers = await asyncio.gather(
            *(
                site.ask("POST", "/users/ann/credits", {"amount": "10.00"}, fields=fields)
                for _ in range(100)
            )
        )
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
        given = answers[0].json()
        assert (given["object"], given["user"]) == ("credit", "ann")
        assert (given["nano_usd"], given["amount"]) == (10 * 10**9, "10.00")
        assert given["balance"] == {"nano_usd": 10 * 10**9, "amount": "10.00"}
        assert (await site.done("GET", "/users/ann"))["balance"]["amount"] == "10.00"
        for amount, user in (("10.01", "ann"), ("10.00", "bob")):
            if user == "bob":
                await site.user("bob")
            changed = await site.refused(
                "POST", f"/users/{user}/credits", {"amount": amount}, fields=fields
            )
            assert changed == (422, "idempotency_key_reused", "idempotency_key")
        assert (await site.done("GET", "/users/ann"))["balance"]["amount"] == "10.00"
        again = await site.ask("POST", "/users/ann/credits", {"amount": "10.00"}, fields=fields)
        assert again.body == answers[0].body


@scenario
async def test_without_a_key_of_idempotency_every_credit_counts(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.user("ann")
        for _ in range(3):
            await site.done("POST", "/users/ann/credits", {"amount": "0.000000001"})
        assert (await site.done("GET", "/users/ann"))["balance"] == {
            "nano_usd": 3,
            "amount": "0.000000003",
        }


@scenario
async def test_a_correction_takes_away_and_says_why(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.user("ann", "10.00")
        made = await site.done(
            "POST", "/users/ann/corrections", {"amount": "-2.50", "reason": "given twice"}
        )
        assert (made["nano_usd"], made["amount"]) == (-2_500_000_000, "-2.50")
        assert (made["reason"], made["balance"]["amount"]) == ("given twice", "7.50")
        check = await site.done("GET", "/ledger/check")
        assert check["ok"], check
        assert check["credited"]["amount"] == "7.50"


@pytest.mark.parametrize(
    "amount",
    ["0", "0.00", "-1", "1e3", "", " 1", "1.", ".5", "ten", "1,00", "0.0000000001", "9" * 30],
)  # fmt: skip
@scenario
async def test_what_is_no_amount_is_refused_by_name(amount: str, tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.user("ann")
        bad = (400, "invalid_request", "amount")
        assert await site.refused("POST", "/users/ann/credits", {"amount": amount}) == bad
        assert await site.refused("POST", "/codes", {"amount": amount}) == bad
        cap = {"model": "gpt-4o", "amount": amount}
        assert await site.refused("POST", "/users/ann/caps", cap) == bad


@scenario
async def test_a_code_is_made_once_shown_once_and_redeemed_once(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        key = await site.user("ann")
        made = (await site.done("POST", "/codes", {"amount": "5.00", "count": 3}))["data"]
        assert len({code["code"] for code in made}) == 3
        text = made[0]["code"]
        listed = await site.ask("GET", "/codes")
        assert not any(code["code"][10:].encode() in listed.body for code in made)
        answers = await asyncio.gather(
            *(
                site.gateway.call("/v1/account/redeem", b'{"code":"%b"}' % text.encode(), key=key)
                for _ in range(50)
            )
        )
        assert Counter(answer.status for answer in answers) == {200: 1, 409: 49}
        done = next(answer for answer in answers if answer.status == 200).json()
        assert (done["object"], done["balance"]["amount"]) == ("redemption", "5.00")
        by_admin = await site.done(
            "POST", "/codes/redeem", {"code": made[1]["code"], "user": "ann"}
        )
        assert by_admin["balance"]["amount"] == "10.00"
        states = (await site.done("GET", "/codes?status=redeemed"))["data"]
        assert {code["id"] for code in states} == {made[0]["id"], made[1]["id"]}
        assert {code["redeemed_by"] for code in states} == {"ann"}
        assert (await site.done("GET", "/ledger/check"))["ok"]


@scenario
async def test_a_cap_refuses_the_call_that_may_cost_more(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        key = await site.user("ann", "10.00")
        cap = await site.done("POST", "/users/ann/caps", {"model": "gpt-4o", "amount": "0.000001"})
        assert cap["nano_usd"] == 1000
        assert (await site.chat(key)).json()["error"]["code"] == "call_cap_exceeded"
        assert [one["model"] for one in (await site.done("GET", "/users/ann/caps"))["data"]] == [
            "gpt-4o"
        ]
        await site.done("POST", "/users/ann/caps", {"model": "gpt-4o", "amount": None})
        assert (await site.chat(key)).status == 200
        assert (await site.done("GET", "/users/ann/caps"))["data"] == []


@scenario
async def test_usage_adds_up_by_what_was_asked_for(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        for name, calls in (("ann", 2), ("bob", 3)):
            key = await site.user(name, "1.00")
            for _ in range(calls):
                assert (await site.chat(key)).status == 200
        await site.gateway.call("/v1/chat/completions", b'{"model":"gpt-4o"}')
        by_user = await site.done("GET", "/usage?group_by=user,model")
        found = {(line["user"], line["model"]): line for line in by_user["data"]}
        assert found["ann", "gpt-4o"]["requests"] == 2
        assert found["bob", "gpt-4o"]["nano_usd"] == 3 * CHAT_NANO_USD
        assert found["bob", "gpt-4o"]["amount"] == "0.0135"
        assert found[None, "gpt-4o"]["nano_usd"] == 0
        assert by_user["total"]["requests"] == 6
        assert by_user["total"]["list_nano_usd"] == 5 * CHAT_NANO_USD
        only = await site.done("GET", "/usage?user=ann&model=gpt-4o&group_by=day")
        assert [line["requests"] for line in only["data"]] == [2]
        assert set(only["data"][0]) >= {"day", "requests"}
        assert "model" not in only["data"][0]
        none = await site.done("GET", "/usage?user=ann&model=other")
        assert none["data"] == []
        assert none["total"]["requests"] == 0
        for query, field in (
            ("since=yesterday", "since"),
            ("since=2026-11-21&until=2026-11-20", "since"),
            ("group_by=colour", "group_by"),
            ("until=1969-12-31", "until"),
        ):
            assert await site.refused("GET", f"/usage?{query}") == (400, "invalid_request", field)


# --- providers and models ---------------------------------------------------------------------


@scenario
async def test_a_provider_key_is_used_and_never_shown_again(
    tmp_path: Path,
) -> None:
    async with admin_site(tmp_path) as site:
        key = await site.user("ann", "1.00")
        made = await site.done("POST", "/providers/openai/keys", {"key": PROVIDER_KEY})
        assert (made["state"], made["provider"]) == ("usable", "openai")
        for path in ("/providers", "/receipts", "/keys", "/users"):
            assert PROVIDER_KEY.encode()[4:-4] not in (await site.ask("GET", path)).body
        for _ in range(4):
            assert (await site.chat(key)).status == 200
        used = {call.get(b"authorization") for call in site.upstream.calls}
        assert used == {b"Bearer " + PROVIDER_KEY.encode(), b"Bearer provider-key-openai"}
        at = f"/providers/openai/keys/{made['id']}"
        assert (await site.done("PATCH", at, {"enabled": False}))["state"] == "disabled"
        site.upstream.calls.clear()
        for _ in range(3):
            await site.chat(key)
        assert {call.get(b"authorization") for call in site.upstream.calls} == {
            b"Bearer provider-key-openai"
        }
        assert (await site.done("PATCH", at, {"enabled": True}))["state"] == "usable"
        rotated = await site.done("POST", "/providers/rotate-master")
        assert rotated["keys"] == 1
        other = f"/providers/google/keys/{made['id']}"
        assert (await site.refused("DELETE", other))[:2] == (404, "not_found")
        assert (await site.done("DELETE", at))["deleted"] is True
        assert (await site.refused("DELETE", at))[:2] == (404, "not_found")
    kept = [path.read_bytes() for path in tmp_path.iterdir()]  # noqa: ASYNC240 - served no more
    assert not [content for content in kept if PROVIDER_KEY.encode() in content]


@scenario
async def test_a_paused_provider_is_called_by_nobody_until_it_is_resumed(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        key = await site.user("ann", "1.00")
        paused = await site.done("POST", "/providers/openai/pause")
        assert paused["paused_by"] == "admin"
        assert paused["paused_at"]
        refused = await site.chat(key)
        assert refused.status == 429
        assert refused.json()["error"]["message"] == "Provider openai is paused"
        assert not site.upstream.calls
        assert (await site.done("POST", "/providers/openai/resume"))["paused_by"] is None
        assert (await site.chat(key)).status == 200
        assert (await site.refused("POST", "/providers/nobody/pause"))[:2] == (404, "not_found")


@scenario
async def test_resuming_a_provider_tries_its_refused_keys_again(tmp_path: Path) -> None:
    status = 401

    async def script(call: Call) -> None:
        await call.send(reply(USAGE, status=status))

    async with admin_site(tmp_path, script) as site:
        key = await site.user("ann", "1.00")
        assert (await site.chat(key)).status >= 500

        async def state() -> str:
            (one,) = (await site.done("GET", "/providers"))["data"][0]["keys"]
            return str(one["state"])

        assert await state() == "set_aside"
        status = 200
        assert (await site.chat(key)).status == 503
        await site.done("POST", "/providers/openai/resume")
        assert await state() == "usable"
        assert (await site.chat(key)).status == 200


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/v1", "https://127.0.0.1/v1", "https://localhost/v1",
        "https://169.254.169.254/latest", "https://[::1]/v1", "https://user:pw@1.1.1.1/v1",
        "file:///etc/passwd", "nonsense",
    ],
)  # fmt: skip
@scenario
async def test_a_base_url_that_leads_inside_is_refused(url: str, tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        asked = {"format": "openai", "base_url": url}
        refused = await site.refused("PUT", "/providers/mine", asked)
        assert refused == (400, "invalid_request", "base_url")
        names = [one["name"] for one in (await site.done("GET", "/providers"))["data"]]
        assert names == ["openai", "anthropic", "google"]


@scenario
async def test_a_provider_is_added_with_its_key_and_forgotten_again(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        asked = {"format": "openai", "base_url": "https://1.1.1.1/v1", "catalog": "openai"}
        made = await site.done("PUT", "/providers/mine", asked)
        assert (made["source"], made["active"], made["keys"]) == ("admin", False, [])
        await site.done("POST", "/providers/mine/keys", {"key": PROVIDER_KEY})
        (mine,) = [
            one for one in (await site.done("GET", "/providers"))["data"] if one["name"] == "mine"
        ]
        assert mine["active"] is True
        assert mine["catalog"] == "openai"
        moved = asked | {"base_url": "https://8.8.8.8/v1"}
        refused = await site.refused("PUT", "/providers/mine", moved)
        assert refused == (409, "conflict", "base_url")
        assert (await site.done("DELETE", "/providers/mine"))["id"] == "mine"
        assert (await site.refused("DELETE", "/providers/mine"))[:2] == (404, "not_found")


@scenario
async def test_a_models_price_multiplier_and_switch_hold_at_once(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        key = await site.user("ann", "10.00")
        at = "/models/openai/gpt-4o"
        changed = await site.done(
            "PUT", at, {"price": {"input": "1.00", "output": "2.00"}, "multiplier": "3"}
        )
        assert changed["price"] == {"input_per_mtok": "1.00", "output_per_mtok": "2.00"}
        answer = await site.chat(key)
        cost = (await site.gateway.receipt(answer, key))["cost"]
        assert cost["nano_usd"] == 3 * (1000 * 1000 + 200 * 2000)
        assert (await site.done("PUT", at, {"enabled": False}))["multiplier"] == "3"
        assert (await site.chat(key)).status == 404
        shown = await site.done("GET", "/models/openai/gpt-4o")
        assert shown["targets"][0]["enabled"] is False
        (only,) = (await site.done("GET", "/models?changed=true"))["data"]
        assert only["id"] == "openai/gpt-4o"
        await site.done("DELETE", at)
        answer = await site.chat(key)
        cost = (await site.gateway.receipt(answer, key))["cost"]
        assert cost["nano_usd"] == CHAT_NANO_USD
        assert (await site.done("GET", "/models?changed=true"))["data"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"multiplier": "-1"}, "multiplier"),
        ({"multiplier": 2}, "multiplier"),
        ({"price": {"input": 1}}, "price"),
        ({"price": {"output": "1"}}, "price"),
        ({"price": {"input": "1", "colour": "1"}}, "price"),
        ({"price": {"input": "-1"}}, "price"),
        ({"context_length": 0}, "context_length"),
        ({"max_output_tokens": 10**12}, "max_output_tokens"),
        ({"colour": "red"}, "colour"),
    ],
)
@scenario
async def test_settings_of_a_model_that_cannot_be_are_refused_by_name(
    body: dict[str, object], field: str, tmp_path: Path
) -> None:
    async with admin_site(tmp_path) as site:
        refused = await site.refused("PUT", "/models/openai/gpt-4o", body)
        assert refused == (400, "invalid_request", field)
        assert (await site.done("GET", "/models?changed=true"))["data"] == []


# --- the server -------------------------------------------------------------------------------


@scenario
async def test_requests_being_served_are_shown_with_what_they_hold(tmp_path: Path) -> None:
    free = asyncio.Event()

    async def script(call: Call) -> None:
        await free.wait()
        await call.send(reply(USAGE))

    async with admin_site(tmp_path, script) as site:
        key = await site.user("ann", "1.00")
        waiting = asyncio.ensure_future(site.chat(key))
        await until(lambda: bool(site.upstream.calls))
        (one,) = (await site.done("GET", "/in-flight"))["data"]
        assert (one["user"], one["model"], one["provider"]) == ("ann", "gpt-4o", "openai")
        assert one["held"]["nano_usd"] > CHAT_NANO_USD / 10
        assert (await site.done("GET", "/users/ann"))["held"] == one["held"]
        free.set()
        answer = await waiting
        assert answer.receipt_id == one["id"]
        assert (await site.done("GET", "/in-flight"))["data"] == []
        assert (await site.done("GET", f"/receipts/{one['id']}"))["status"] == "succeeded"
        listed = await site.done("GET", "/receipts?user=ann&limit=5")
        assert [receipt["id"] for receipt in listed["data"]] == [one["id"]]


@scenario
async def test_a_reload_without_a_file_is_a_conflict(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        assert (await site.refused("POST", "/reload"))[:2] == (409, "conflict")


@scenario
async def test_a_store_that_cannot_be_written_is_told_as_such(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.user("ann")
        ledger = site.gateway.gateway.ledger
        ledger._set_writable(False)
        answer = await site.ask("POST", "/users/ann/credits", {"amount": "1.00"})
        assert (answer.status, answer.get(b"retry-after")) == (503, b"5")
        assert answer.json()["error"]["code"] == "ledger_unavailable"
        ledger._set_writable(True)
        assert (await site.done("GET", "/users/ann"))["balance"]["nano_usd"] == 0


# --- strictness -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/users", b"", (400, "invalid_request", "name")),
        ("POST", "/users", b"[]", (400, "invalid_request", None)),
        ("POST", "/users", b"nonsense", (400, "invalid_request", None)),
        ("POST", "/users", b'{"name":"\xff"}', (400, "invalid_request", None)),
        ("POST", "/users", b"[" * 100_000, (400, "invalid_request", None)),
        ("POST", "/users", b'{"name":7}', (400, "invalid_request", "name")),
        ("POST", "/users", b'{"name":"a\\nb"}', (400, "invalid_request", "name")),
        ("POST", "/users", b'{"name":"x","email":"y"}', (400, "invalid_request", "email")),
        ("POST", "/users", b'{"name":"x","colour":1}', (400, "invalid_request", "colour")),
        ("PATCH", "/users/ann", b'{"rpm":0}', (400, "invalid_request", "rpm")),
        ("PATCH", "/users/ann", b'{"rpm":1.5}', (400, "invalid_request", "rpm")),
        ("PATCH", "/users/ann", b'{"rate_multiplier":"x"}',
         (400, "invalid_request", "rate_multiplier")),
        ("PATCH", "/users/ann", b'{"daily_alert":"x"}', (400, "invalid_request", "daily_alert")),
        ("PATCH", "/users/ann", b'{"name":"bob"}', (400, "invalid_request", "name")),
        ("PATCH", "/users/nobody", b'{"rpm":1}', (404, "not_found", None)),
        ("POST", "/users", b'{"name":"ann"}', (409, "conflict", None)),
        ("POST", "/keys", b'{"user":"nobody"}', (404, "not_found", None)),
        ("POST", "/keys", b'{"user":"ann","expires_ms":1}', (400, "invalid_request", "expires")),
        ("POST", "/keys", b'{"user":"ann","spend_cap":5}', (400, "invalid_request", "spend_cap")),
        ("POST", "/codes/redeem", b'{"user":"ann","code":"x"}', (400, "invalid_request", "code")),
        ("POST", "/users/ann/credits", b'{"amount":"1","idempotency_key":"k"}',
         (400, "invalid_request", "idempotency_key")),
        ("POST", "/providers/openai/keys", b'{"key":"short"}', (400, "invalid_request", "key")),
        ("POST", "/providers/openai/keys", b'{"key":"env:OPENAI_API_KEY"}',
         (400, "invalid_request", "key")),
        ("GET", "/users/nobody", b"", (404, "not_found", None)),
        ("GET", "/receipts/nothing", b"", (404, "not_found", None)),
        ("GET", "/receipts?limit=0", b"", (400, "invalid_request", "limit")),
        ("GET", "/receipts?limit=many", b"", (400, "invalid_request", "limit")),
        ("GET", "/receipts?limit=1&limit=2", b"", (400, "invalid_request", "limit")),
        ("GET", "/receipts?colour=red", b"", (400, "invalid_request", "colour")),
        ("GET", "/receipts/x?id=y", b"", (400, "invalid_request", "id")),
        ("GET", "/nothing", b"", (404, "not_found", None)),
        ("DELETE", "/users", b"", (405, "method_not_allowed", None)),
        ("DELETE", "/keys/key_none", b"", (404, "not_found", None)),
    ],
)  # fmt: skip
@scenario
async def test_what_is_not_asked_rightly_is_refused_by_name(
    method: str,
    path: str,
    body: bytes,
    expected: tuple[int, str, str | None],
    tmp_path: Path,
) -> None:
    async with admin_site(tmp_path) as site:
        await site.user("ann")
        answer = await site.gateway.call(f"/admin/v1{path}", body, method=method, key=TOKEN)
        error = answer.json()["error"]
        assert (answer.status, error["code"], error["param"]) == expected, error


@scenario
async def test_bytes_that_are_no_text_are_refused_and_answered(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        for method, path in (
            ("GET", "/users/%ff%fe"),
            ("GET", "/users/%00"),
            ("POST", "/users/%ff/suspend"),
            ("GET", "/receipts?user=%ff"),
            ("GET", "/usage?model=%ed%a0%80"),
            ("DELETE", "/models/openai/%ff"),
        ):
            answer = await site.ask(method, path)
            assert answer.status in (200, 400, 404), (path, answer)
            assert answer.json()
        await site.user("ann")
        fields = [(b"Idempotency-Key", b"\xff\xfe")]
        refused = await site.refused(
            "POST", "/users/ann/credits", {"amount": "1.00"}, fields=fields
        )
        assert refused[:2] == (400, "invalid_request")
        assert (await site.done("GET", "/users/ann"))["balance"]["nano_usd"] == 0


@scenario
async def test_a_form_of_another_site_is_no_request(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        client = await site.gateway.client()
        for kind in (b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"):
            fields = [(b"Authorization", b"Bearer " + TOKEN), (b"Content-Type", kind)]
            answer = await client.request("POST", "/admin/v1/users", fields, b'{"name":"ann"}')
            assert answer.status == 400
            assert "application/json" in answer.json()["error"]["message"]
        preflight = await site.gateway.call(
            "/admin/v1/users", method="OPTIONS", key=b"", fields=[(b"Origin", b"https://x.test")]
        )
        assert preflight.get(b"access-control-allow-origin") is None
        assert (await site.done("GET", "/users"))["data"] == []


@scenario
async def test_a_body_beyond_the_bound_is_refused_and_does_nothing(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        body = b'{"name":"%b"}' % (b"x" * BODY_BYTES_MAX)
        answer = await site.gateway.call("/admin/v1/users", body, key=TOKEN)
        assert answer.status == 413
        assert answer.json()["error"]["code"] == "request_too_large"


@scenario
async def test_answers_are_kept_by_nobody_and_head_works(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        answer = await site.ask("GET", "/users")
        assert answer.get(b"cache-control") == b"no-store"
        head = await site.ask("HEAD", "/users")
        assert (head.status, head.body) == (200, b"")


def test_every_change_is_logged_with_who_and_what_and_no_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[str] = []

    @scenario
    async def run() -> None:
        async with admin_site(tmp_path) as site:
            admin = await site.admin_key()
            caplog.set_level(logging.DEBUG)
            key = await site.user("ann", "1.00")
            await site.done("POST", "/providers/openai/keys", {"key": PROVIDER_KEY})
            code = (await site.done("POST", "/codes", {"amount": "1.00"}))["data"][0]["code"]
            await site.ask("POST", "/users/ann/suspend", key=admin)
            await site.ask("GET", "/users", key=admin)
            made.extend((key.decode(), code, admin.decode(), TOKEN.decode(), PROVIDER_KEY))

    run()
    lines = [one.getMessage() for one in caplog.records if one.name == "gateway.admin"]
    assert "admin token: users.create name='ann'" in lines
    assert "admin token: credit user='ann'" in lines
    assert "admin token: providers.add_key provider='openai'" in lines
    assert "admin token: codes.create " in lines
    assert any(
        line.startswith("key key_") and line.endswith("of root: users.suspend name='ann'")
        for line in lines
    )
    assert not any("users.list" in line for line in lines)
    for text in made:
        assert text[8:] not in caplog.text


@scenario
async def test_a_verb_answers_alike_over_the_socket_and_over_http(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.user("ann", "1.00")
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path / 'gateway.db'}.sock")
        body = b'{"name":"ann"}'
        head = b"POST /verbs/users.show HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        raw = await reader.read()
        writer.close()
        assert raw.partition(b"\r\n\r\n")[2] == (await site.ask("GET", "/users/ann")).body
