"""Admin's pages of users and keys: what they say, and that their forms do it."""

import re
from urllib.parse import quote

import msgspec
import pytest
from harness import Running
from web_client import PASSWORD, WebSite

from gateway.accounts.accounts import Accounts
from gateway.accounts.changes import KeySpec
from gateway.ledger.money import Given, given

USERS = "/dashboard/admin/users"
KEYS = "/dashboard/admin/keys"

SETTINGS = {"email": "ada@example.org", "rate_multiplier": "1"}


def accounts_of(site: WebSite) -> Accounts:
    return site.running.gateway.accounts


async def call(running: Running, key: str, model: str = "basic") -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}
    answer = await running.call("/v1/chat/completions", msgspec.json.encode(body), key=key.encode())
    return answer.status


async def given_to(site: WebSite, user_id: int) -> list[Given]:
    return await site.running.gateway.ledger.read(lambda conn: given(conn, user_id, limit=100))


@pytest.mark.parametrize(
    "path",
    ["", "/in-flight", "/in-flight/rows", "/users", "/users/1", "/keys", "/keys/key_0",
     "/providers", "/providers/demo", "/models", "/models/one?provider=demo&model=demo", "/codes"],
)  # fmt: skip
async def test_an_admins_page_is_no_page_for_anybody_else(site: WebSite, path: str) -> None:
    ada = await site.user("ada")
    assert (await ada.get(f"/dashboard/admin{path}")).status == 403
    stranger = await site.visitor().get(f"/dashboard/admin{path}")
    assert stranger.path.startswith("/dashboard/sign-in")


async def test_an_admins_form_does_nothing_for_anybody_else(site: WebSite) -> None:
    ada = await site.user("ada")
    await ada.get("/dashboard")
    seen = await ada.send(f"{USERS}/1/credit", {"amount": "5", "idempotency_key": "x"})
    assert seen.status == 403
    assert (await ada.send(USERS, {"name": "eve"})).status == 403
    assert accounts_of(site).funds(1).balance == 10 * 10**9
    assert not accounts_of(site).has_user("eve")


async def test_a_suspended_admin_is_none_and_cannot_end_their_suspension(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    assert (await root.get(f"{USERS}/1")).status == 200
    await accounts_of(site).suspend_user("root")
    assert (await root.get(f"{USERS}/1")).status == 403
    await root.get("/dashboard")
    assert (await root.send(f"{USERS}/1/resume")).status == 403
    assert accounts_of(site).user(1).suspended_ms is not None


async def test_a_form_from_elsewhere_or_without_its_token_credits_nobody(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await root.get(f"{USERS}/1")
    fields = {"amount": "5", "idempotency_key": "x"}
    for origin in ("http://evil.example", "null", ""):
        assert (await root.send(f"{USERS}/1/credit", fields, origin=origin)).status == 403
    assert (await root.send(f"{USERS}/1/credit", fields, token="0" * 40)).status == 403
    assert accounts_of(site).funds(1).balance == 10 * 10**9


async def test_a_new_user_gets_a_link_that_is_shown_once_and_works_once(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await root.get(USERS)
    seen = await root.send(USERS, {"name": "eve", "email": "eve@example.org"})
    assert (seen.status, seen.path) == (200, f"{USERS}/2")
    link = re.search(r'value="(http://127\.0\.0\.1:\d+/dashboard/welcome#([^"]+))"', seen.text)
    assert link, seen
    assert link[1] not in (await root.get(f"{USERS}/2")).text
    eve = site.visitor()
    await eve.get("/dashboard/welcome")
    fields = {"token": link[2], "password": PASSWORD, "again": PASSWORD}
    assert (await eve.send("/dashboard/welcome", fields)).path == "/dashboard"
    assert (await eve.get(USERS)).status == 403


async def test_a_user_who_cannot_be_made_leaves_what_was_typed(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await root.get(USERS)
    taken = await root.send(USERS, {"name": "root"})
    assert taken.status == 400
    assert "already" in taken.words
    wrong = await root.send(USERS, {"name": "eve", "email": "nowhere", "admin": "yes"})
    assert wrong.status == 400
    assert "Not an e-mail address" in wrong.words
    assert 'value="nowhere"' in wrong.text
    assert len(accounts_of(site).list_users()) == 1


async def test_users_are_found_by_name_and_e_mail_in_any_case(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await accounts_of(site).create_user("Ada 100%", email="Ärger@example.org")
    await accounts_of(site).create_user("bob_x", email="bob@example.net")
    for text, names in (
        ("aDa", ["Ada 100%"]), ("ärg", ["Ada 100%"]), ("ÄRG", ["Ada 100%"]), ("%", ["Ada 100%"]),
        ("_", ["bob_x"]), ("example.", ["root", "Ada 100%", "bob_x"]), ("!", []), ("zed", []),
    ):  # fmt: skip
        seen = await root.get(f"{USERS}?q={quote(text)}")
        assert re.findall(rf'<a href="{USERS}/\d+">([^<]+)</a>', seen.text) == names, text


async def test_users_are_paged_by_key(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    for number in range(120):
        await accounts_of(site).create_user(f"user {number}")
    first = await root.get(USERS)
    assert "user 98" in first.words
    assert "user 99" not in first.words
    further = re.search(r'href="([^"]+above=\d+)"', first.text)
    assert further, first
    second = await root.get(further[1].replace("&amp;", "&"))
    assert "user 98" not in second.words
    assert "user 119" in second.words
    assert "Next page" not in second.words


async def test_a_user_is_credited_once_however_often_the_form_is_sent(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await site.user("ada", usd=0)
    page = await root.get(f"{USERS}/2")
    once = re.search(r'name="idempotency_key" value="([^"]+)"', page.text)
    assert once
    fields = {"amount": "12.345678901", "idempotency_key": once[1]}
    token = page.token
    for _ in range(2):
        seen = await root.send(f"{USERS}/2/credit", fields, token=token)
        assert "Credited $12.345678901. Balance: $12.345678901." in seen.words
    other = await root.send(f"{USERS}/2/credit", fields | {"amount": "7"}, token=token)
    assert other.status == 400
    assert "Sent before with another amount" in other.words
    fresh = re.search(r'name="idempotency_key" value="([^"]+)"', other.text)
    assert fresh
    assert fresh[1] != once[1]
    assert accounts_of(site).funds(2).balance == 12_345_678_901


async def test_a_correction_wants_a_reason_and_may_go_below_zero(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await site.user("ada", usd=1)
    await root.get(f"{USERS}/2")
    silent = await root.send(f"{USERS}/2/correct", {"amount": "-2.50"})
    assert silent.status == 400
    assert 'value="-2.50"' in silent.text
    seen = await root.send(f"{USERS}/2/correct", {"amount": "-2.50", "reason": "given <twice>"})
    assert "Corrected by −$2.50. Balance: −$1.50." in seen.words
    assert "given &lt;twice&gt;" in seen.text
    kinds = [(one.kind, one.nano_usd, one.reason) for one in await given_to(site, 2)]
    assert kinds == [
        ("correction", -2_500_000_000, "given <twice>"), ("credit", 10**9, None),
    ]  # fmt: skip


async def test_settings_of_a_user_hold_and_a_wrong_one_changes_nothing(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await site.user("ada")
    await root.get(f"{USERS}/2")
    fields = SETTINGS | {"rate_multiplier": "1.2", "rpm": "1,000", "tpm": "", "concurrent": "5"}
    seen = await root.send(f"{USERS}/2/settings", fields | {"daily_alert": "2.50", "admin": "yes"})
    assert seen.path == f"{USERS}/2", seen
    ada = accounts_of(site).user(2)
    assert (ada.rate_multiplier, ada.rpm, ada.tpm, ada.concurrent) == ("1.2", 1000, None, 5)
    assert (ada.daily_alert_nano_usd, ada.admin) == (2_500_000_000, True)
    for name, value in (
        ("rate_multiplier", "much"), ("rate_multiplier", ""), ("rpm", "0"), ("tpm", "many"),
        ("email", "nowhere"), ("email", "ROOT@example.org"), ("daily_alert", "-1"),
    ):  # fmt: skip
        wrong = await root.send(f"{USERS}/2/settings", fields | {name: value})
        assert wrong.status == 400, (name, value)
        assert 'aria-invalid="true"' in wrong.text, (name, value)
    assert accounts_of(site).user(2) == ada


async def test_an_admin_can_neither_demote_nor_suspend_themselves(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    page = await root.get(f"{USERS}/1")
    assert f'action="{USERS}/1/suspend"' not in page.text
    fields = SETTINGS | {"email": "root@example.org"}
    demoted = await root.send(f"{USERS}/1/settings", fields)
    suspended = await root.send(f"{USERS}/1/suspend")
    assert (demoted.status, suspended.status) == (400, 400)
    me = accounts_of(site).user(1)
    assert (me.admin, me.suspended_ms) == (True, None)


async def test_suspending_refuses_keys_and_resuming_takes_them_again(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await site.user("ada")
    _, text = await accounts_of(site).create_key("ada")
    await root.get(f"{USERS}/2")
    assert "Suspended" in (await root.send(f"{USERS}/2/suspend")).words
    assert await call(site.running, text) == 401
    assert "Resumed" in (await root.send(f"{USERS}/2/resume")).words
    assert await call(site.running, text) == 200


async def test_ending_sessions_signs_a_user_out_everywhere(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    ada = await site.user("ada")
    await root.get(f"{USERS}/2")
    assert "1 session" in (await root.send(f"{USERS}/2/end-sessions")).words
    assert (await ada.get("/dashboard")).path.startswith("/dashboard/sign-in")


async def test_a_cap_is_set_and_lifted(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await site.user("ada")
    await root.get(f"{USERS}/2")
    wrong = await root.send(f"{USERS}/2/cap", {"model": "basic", "cap": "a lot"})
    assert wrong.status == 400
    assert 'value="a lot"' in wrong.text
    await root.send(f"{USERS}/2/cap", {"model": "basic", "cap": "0.05"})
    assert accounts_of(site).cap(2, "basic") == 50_000_000
    await root.send(f"{USERS}/2/cap", {"model": "basic"})
    assert accounts_of(site).cap(2, "basic") is None


async def test_a_user_that_there_is_not_is_not_found(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    for path in (f"{USERS}/2", f"{USERS}/999999999999999", f"{USERS}/0", f"{USERS}/x"):
        assert (await root.get(path)).status == 404
    await root.get(USERS)
    assert (await root.send(f"{USERS}/2/suspend")).status == 404


async def test_a_key_made_for_a_user_is_shown_once_and_works(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await site.user("ada")
    await root.get(f"{USERS}/2")
    seen = await root.send(f"{USERS}/2/key", {"name": "production"})
    text = re.search(r'value="(gw-[^"]+)"', seen.text)
    assert text, seen
    assert await call(site.running, text[1]) == 200
    assert text[1] not in (await root.get(f"{USERS}/2")).text


async def test_keys_are_filtered_by_user_and_status(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    accounts = accounts_of(site)
    for name in ("ada", "bob"):
        await accounts.create_user(name)
        for number in range(2):
            key, _ = await accounts.create_key(name, KeySpec(name=f"{name} {number}"))
        await accounts.revoke_key(key.id)
    shown = r'<a href="/dashboard/admin/keys/key_\w+">([^<]+)</a>'
    for query, names in (
        ("", ["bob 1", "bob 0", "ada 1", "ada 0"]),
        ("user=ada", ["ada 1", "ada 0"]),
        ("status=revoked", ["bob 1", "ada 1"]),
        ("user=bob&status=active", ["bob 0"]),
        ("user=bob&status=expired", []),
    ):
        assert re.findall(shown, (await root.get(f"{KEYS}?{query}")).text) == names, query
    await accounts.suspend_user("bob")
    assert re.findall(shown, (await root.get(f"{KEYS}?status=suspended")).text) == ["bob 0"]
    unknown = await root.get(f"{KEYS}?user=nobody")
    assert "There is no user" in unknown.words


async def test_a_key_is_changed_and_its_expiry_stays_to_the_millisecond(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await site.user("ada")
    spec = KeySpec(name="old", expires_ms=4_102_444_812_345)
    key, _ = await accounts_of(site).create_key("ada", spec)
    path = f"{KEYS}/{key.id}"
    assert 'value="2100-01-01"' in (await root.get(path)).text
    fields = {
        "name": "new <b>", "rpm": "10", "tpm": "", "concurrent": "3", "spend_cap": "2.50",
        "models": "basic\ndemo, other", "on_disconnect": "drain", "expires": "2100-01-01",
    }  # fmt: skip
    seen = await root.send(path, fields)
    assert "new &lt;b&gt;" in seen.text
    key = accounts_of(site).key(key.id)
    assert (key.name, key.rpm, key.tpm, key.concurrent) == ("new <b>", 10, None, 3)
    assert (key.spend_cap_nano_usd, key.models) == (2_500_000_000, ["basic", "demo", "other"])
    assert (key.on_disconnect, key.expires_ms) == ("drain", 4_102_444_812_345)
    await root.send(path, fields | {"expires": "2100-01-02", "models": ""})
    key = accounts_of(site).key(key.id)
    assert (key.expires_ms, key.models) == (4_102_617_599_999, None)
    for wrong in (
        {"expires": "2020-01-01"},
        {"expires": "soon"},
        {"rpm": "-1"},
        {"spend_cap": "x"},
    ):
        refused = await root.send(path, fields | wrong)
        assert refused.status == 400, wrong
        assert 'aria-invalid="true"' in refused.text or "2020" in refused.text, wrong
    assert accounts_of(site).key(key.id) == key


async def test_a_revoked_key_is_refused_and_its_page_says_so(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await site.user("ada")
    key, text = await accounts_of(site).create_key("ada")
    await root.get(f"{KEYS}/{key.id}")
    seen = await root.send(f"{KEYS}/{key.id}/revoke")
    assert "Revoked" in seen.words
    assert await call(site.running, text) == 401
    assert f'action="{KEYS}/{key.id}/revoke"' not in seen.text
    assert (await root.get(f"{KEYS}/key_none")).status == 404
