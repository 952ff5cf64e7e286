"""A user's API keys: made within the account's limits, shown once, changed, revoked, and theirs."""

import html
import shlex
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from web_client import Seen, Visitor, WebSite, web_site

from gateway.accounts.accounts import KeySpec
from gateway.accounts.changes import UserChanges
from gateway.web import keys
from gateway.web.samples import first_call

KEYS = "/dashboard/keys"


async def created(visitor: Visitor, **fields: str) -> tuple[str, str]:
    """A key made through the form: its id and its text."""
    await visitor.get(KEYS)
    seen = await visitor.send(KEYS, fields)
    assert seen.status == 200, seen
    return seen.path.split("/")[3], text_of(seen)


def text_of(seen: Seen) -> str:
    return html.unescape(seen.text.split('id="key-text" value="')[1].split('"')[0])


def samples_of(seen: Seen) -> list[str]:
    return [html.unescape(one.split("</code>")[0]) for one in
            seen.text.split('<code class="language-')[1:]]  # fmt: skip


async def call(site: WebSite, text: str, model: str = "basic") -> int:
    body = msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": "Hi"}]})
    answer = await site.running.call("/v1/chat/completions", body, key=text.encode())
    return answer.status


async def test_a_key_is_shown_once_and_works(site: WebSite) -> None:
    ada = await site.user("ada")
    key_id, text = await created(ada, name="laptop")
    made = ada.last
    assert made is not None
    assert "This is the only time that it is shown" in made.words
    assert await call(site, text) == 200
    again = await ada.get(made.path)
    assert again.path == f"{KEYS}/{key_id}"
    for path in (again.path, KEYS, "/dashboard", f"{KEYS}/{key_id}/created"):
        assert text not in (await ada.get(path)).text
    listed = await ada.get(KEYS)
    assert f"laptop {text[:7]}… active" in listed.words


async def test_another_session_of_the_same_user_does_not_see_the_text(site: WebSite) -> None:
    ada = await site.user("ada")
    elsewhere = site.visitor()
    await elsewhere.sign_in("ada@example.org")
    await ada.get(KEYS)
    sent = await ada.send(KEYS, {"name": "one"}, follow=False)
    assert sent.status == 303
    path = sent.headers["Location"]
    assert (await elsewhere.get(path)).path == path.removesuffix("/created")
    assert text_of(await ada.get(path)).startswith("gw-")


async def test_the_samples_name_this_server_and_a_model_that_the_key_may_call(
    site: WebSite,
) -> None:
    ada = await site.user("ada")
    _, text = await created(ada, models="demo\n")
    assert ada.last is not None
    curl, python, node = (one.partition(">")[2] for one in samples_of(ada.last))
    words = shlex.split(curl.replace("\\\n", ""))
    assert words[:2] == ["curl", f"{ada.base}/v1/chat/completions"]
    assert f"Authorization: Bearer {text}" in words
    body = words[words.index("-d") + 1].encode()
    answer = await site.running.call("/v1/chat/completions", body, key=text.encode())
    assert answer.status == 200, answer
    assert msgspec.json.decode(body)["model"] == "demo"
    compile(python, "sample", "exec")
    for sample in (python, node):
        assert f'"{ada.base}/v1"' in sample
        assert f'"{text}"' in sample
        assert '"demo"' in sample


def test_what_goes_into_a_sample_is_quoted_for_its_language() -> None:
    model = 'it\'s "$(rm -rf ~)" `x`\n\\'
    curl, python, _ = (one.text for one in first_call("http://h", "gw-x", model))
    words = shlex.split(curl.replace(" \\\n", " "))
    assert msgspec.json.decode(words[words.index("-d") + 1])["model"] == model
    assert len(words) == 8
    literal = python.split("model=")[1].split(",\n")[0]
    assert msgspec.json.decode(literal) == model
    assert eval(literal) == model


async def test_a_key_has_what_the_form_said(site: WebSite) -> None:
    ada = await site.user("ada")
    key_id, _ = await created(
        ada, name="all of it", expires="2096-02-29", rpm="10", tpm="2000", concurrent="3",
        models="basic, demo\nbasic", spend_cap="$0.000105", on_disconnect="drain",
    )  # fmt: skip
    key = site.running.gateway.accounts.key(key_id)
    assert (key.name, key.rpm, key.tpm, key.concurrent) == ("all of it", 10, 2000, 3)
    assert (key.models, key.spend_cap_nano_usd, key.on_disconnect) == (
        ["basic", "demo"], 105_000, "drain",
    )  # fmt: skip
    assert key.expires_ms == datetime(2096, 2, 29, tzinfo=UTC).timestamp() * 1000
    seen = await ada.get(f"{KEYS}/{key_id}")
    assert "2096-02-29 00:00:00 UTC" in seen.words
    assert "Spent $0.00 of $0.000105" in seen.words
    listed = await ada.get(KEYS)
    assert "10 RPM, 2,000 TPM, 3 at once, 2 models $0.00 of $0.000105" in listed.words


WRONG = [
    ("rpm", "601", "may have 600 requests per minute at most"),
    ("tpm", "400001", "may have 400,000 tokens per minute at most"),
    ("concurrent", "101", "may have 100 requests at once at most"),
    *(("rpm", value, "whole number") for value in ("0", "-1", "1e3", "٣", "9" * 400)),
    ("name", "x" * 65, "64 printable characters"),
    ("name", "a\nb", "printable"),
    *(("expires", value, "a number of days") for value in ("0", "99999", "soon")),
    ("expires", "2001-01-01", "past"),
    *(("spend_cap", value, "US dollars such as 10.00") for value in ("lots", "-1")),
    ("models", "basic\nno-such", "no model 'no-such'"),
    ("models", "x" * 300, "no model"),
    ("on_disconnect", "other", "on_disconnect"),
]


async def test_a_wrong_field_is_named_and_what_was_typed_is_kept(site: WebSite) -> None:
    ada = await site.user("ada")
    await ada.get(KEYS)
    for field, value, said in WRONG:
        seen = await ada.send(KEYS, {"name": "mine", "spend_cap": "7.5", field: value})
        assert seen.status == 400, (field, value)
        assert said in seen.words, (field, value)
        kept = "7.5" if field == "name" else "mine"
        assert f'value="{kept}"' in seen.text
        if field not in ("on_disconnect", "models"):
            assert f'aria-describedby="h-{field}" aria-invalid="true"' in seen.text
    assert site.running.gateway.accounts.list_keys("ada") == []


async def test_the_limits_of_the_account_bound_those_of_its_keys(site: WebSite) -> None:
    ada = await site.user("ada")
    accounts = site.running.gateway.accounts
    await accounts.update_user("ada", UserChanges(rpm=50, tpm=10**6))
    await ada.get(KEYS)
    seen = await ada.send(KEYS, {"rpm": "51"})
    assert (seen.status, "may have 50 requests" in seen.words) == (400, True)
    key_id, _ = await created(ada, rpm="50", tpm="1000000")
    assert accounts.key(key_id).tpm == 10**6


async def test_what_an_admin_gave_a_key_it_keeps_when_its_user_changes_it(site: WebSite) -> None:
    ada = await site.user("ada")
    accounts = site.running.gateway.accounts
    key, _ = await accounts.create_key("ada", KeySpec(rpm=5000, models=("gone-model",)))
    path = f"{KEYS}/{key.id}"
    await ada.get(path)
    seen = await ada.send(path, {"name": "new name", "rpm": "5000", "models": "gone-model"})
    assert "it holds from the next request on" in seen.words
    changed = accounts.key(key.id)
    assert (changed.name, changed.rpm, changed.models) == ("new name", 5000, ["gone-model"])
    assert (await ada.send(path, {"rpm": "5001"})).status == 400


async def test_a_key_is_changed_and_its_limits_are_taken_away(site: WebSite) -> None:
    ada = await site.user("ada")
    key_id, text = await created(
        ada, name="a", rpm="5", models="basic", spend_cap="1", expires="30", on_disconnect="drain"
    )
    accounts = site.running.gateway.accounts
    path = f"{KEYS}/{key_id}"
    expires_ms = accounts.key(key_id).expires_ms
    seen = await ada.get(path)
    shown = seen.text.split('name="expires" type="text" value="')[1].split('"')[0]
    await ada.send(path, {"name": "b", "rpm": "5", "models": "demo", "expires": shown})
    changed = accounts.key(key_id)
    assert (changed.name, changed.rpm, changed.models) == ("b", 5, ["demo"])
    assert (changed.spend_cap_nano_usd, changed.on_disconnect) == (None, None)
    assert changed.expires_ms == expires_ms, "what was not changed is the same to the millisecond"
    assert await call(site, text, "basic") == 403
    await ada.send(path, {"name": "b"})
    changed = accounts.key(key_id)
    assert (changed.rpm, changed.models, changed.expires_ms) == (None, None, None)
    assert await call(site, text, "basic") == 200


async def test_a_revoked_key_is_refused_at_once_and_stays_in_the_list(site: WebSite) -> None:
    ada = await site.user("ada")
    key_id, text = await created(ada, name="short-lived")
    await ada.get(KEYS)
    seen = await ada.send(f"{KEYS}/{key_id}/revoke")
    assert seen.path == KEYS
    assert "Revoked short-lived" in seen.words
    assert await call(site, text) == 401
    assert "No keys in use." in seen.words
    past = seen.words.split("Revoked and expired")[1]
    assert "short-lived" in past
    page = await ada.get(f"{KEYS}/{key_id}")
    assert "revoked" in page.words
    assert "Revoke this key" not in page.words


async def test_the_day_that_a_key_was_used_last_is_shown(site: WebSite) -> None:
    ada = await site.user("ada")
    key_id, text = await created(ada, name="used")
    assert "as the account $0.00 – Revoke" in (await ada.get(KEYS)).words
    assert await call(site, text) == 200
    row = (await ada.get(KEYS)).words
    page = await ada.get(f"{KEYS}/{key_id}")
    day = page.words.split("Charged ")[1].split()[0]
    assert f" {day} Revoke" in row
    assert f"{day} 1 0 " in page.words


async def test_anothers_key_is_no_key(site: WebSite) -> None:
    ada, eve = await site.user("ada"), await site.user("eve", admin=True)
    key_id, text = await created(ada, name="adas own")
    assert "adas own" not in (await eve.get(KEYS)).text
    before = site.running.gateway.accounts.key(key_id)
    for one in (key_id, "key_none"):
        for path in (f"{KEYS}/{one}", f"{KEYS}/{one}/created"):
            seen = await eve.get(path)
            assert (seen.status, "adas own" in seen.text) == (404, False)
        for path in (f"{KEYS}/{one}", f"{KEYS}/{one}/revoke"):
            assert (await eve.send(path, {"name": "eves"})).status == 404
    assert site.running.gateway.accounts.key(key_id) == before
    assert await call(site, text) == 200


async def test_no_more_than_a_hundred_keys_are_in_use(site: WebSite) -> None:
    ada = await site.user("ada")
    accounts = site.running.gateway.accounts
    await ada.get(KEYS)
    for number in range(keys.LIVE_KEYS_MAX):
        key, _ = await accounts.create_key("ada", KeySpec(name=f"k{number}"))
    seen = await ada.send(KEYS, {"name": "one more"})
    assert seen.status == 400
    assert "revoke one that you do not" in seen.words
    await accounts.revoke_key(key.id)
    assert (await ada.send(KEYS, {"name": "one more"})).status == 200


async def test_only_an_admin_can_make_a_key_for_the_admin_api(site: WebSite) -> None:
    ada, root = await site.user("ada"), await site.user("root", admin=True)
    assert 'name="admin"' not in (await ada.get(KEYS)).text
    key_id, _ = await created(ada, admin="1")
    assert not site.running.gateway.accounts.key(key_id).admin
    assert 'name="admin"' in (await root.get(KEYS)).text
    key_id, text = await created(root, admin="1", rpm="5000")
    assert site.running.gateway.accounts.key(key_id).admin
    assert root.last is not None
    (curl,) = samples_of(root.last)
    assert f"{root.base}/admin/v1/users" in curl
    answer = await site.running.call("/admin/v1/users", method="GET", key=text.encode())
    assert answer.status == 200


@pytest.mark.parametrize("path", [KEYS, f"{KEYS}/{{id}}", f"{KEYS}/{{id}}/revoke"])
async def test_a_form_from_elsewhere_changes_no_key(site: WebSite, path: str) -> None:
    ada, eve = await site.user("ada"), await site.user("eve")
    key_id, text = await created(ada, name="kept")
    path = path.format(id=key_id)
    foreign = (await eve.get(KEYS)).token
    await ada.get(KEYS)
    for token, origin in (("", None), (foreign, None), (None, "http://evil.example")):
        seen = await ada.send(path, {"name": "evil"}, token=token, origin=origin)
        assert seen.status == 403
        await ada.get(KEYS)
    assert [key.name for key in site.running.gateway.accounts.list_keys("ada")] == ["kept"]
    assert await call(site, text) == 200


async def test_a_suspended_user_is_told_why_there_is_no_new_key(site: WebSite) -> None:
    ada = await site.user("ada")
    await site.running.gateway.accounts.suspend_user("ada")
    await ada.get(KEYS)
    seen = await ada.send(KEYS, {"name": "x"})
    assert seen.status == 400
    assert "suspended" in seen.words


async def test_a_name_is_text_and_nothing_else(site: WebSite) -> None:
    ada = await site.user("ada")
    evil = "\"><script>alert(1)</script>' onx={{7*7}}"
    key_id, _ = await created(ada, name=evil)
    for path in (KEYS, f"{KEYS}/{key_id}"):
        seen = await ada.get(path)
        assert evil in seen.words or "onx={{7*7}}" in seen.words
        assert "<script>alert" not in seen.text


async def test_the_samples_take_the_public_address(tmp_path: Path) -> None:
    more = '[dashboard]\npublic_url = "http://llm.example.org"'
    async with web_site(tmp_path, more) as site:
        ada = await site.user("ada")
        await created(ada)
        assert ada.last is not None
        assert "curl http://llm.example.org/v1/chat/completions" in ada.last.words
