"""Who means harm: a stranger, a neighbouring site, a user who wants more, and what they send.

Who may see which page is in `test_page_access.py`; here are the ways around that. Whatever is sent,
nothing fails inside, nothing of another's is told or changed, and nobody waits for it.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import harness
import msgspec
import pytest
from aiohttp import web
from multidict import CIMultiDict
from web_client import PASSWORD, Seen, Visitor, WebSite, web_site

from gateway.accounts import codes, keys
from gateway.accounts.accounts import Accounts
from gateway.accounts.changes import KeySpec, UserChanges, same_form
from gateway.accounts.passwords import check_rules
from gateway.errors import Conflict
from gateway.ledger.records import email_form
from gateway.web import security
from gateway.web.once import REMEMBERED_MAX, Once
from gateway.web.site import NOTICES_MAX, REDEEMS_MAX, TOLD_MAX, Notice, Site

MARKS = "a" + "\u0345" * 15_000 + "\u0316" * 15_000
"""60 KB that NFC would put in order for seconds."""


def cookie(visitor: Visitor) -> bytes:
    """The cookies of a visitor, as their browser sends them."""
    return "; ".join(f"{one.key}={one.value}" for one in visitor.session.cookie_jar).encode()


def form_fields(visitor: Visitor, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The header of a form that a visitor sends byte by byte."""
    return [
        (b"Cookie", cookie(visitor)),
        (b"Origin", b"http://gateway.test"),
        (b"Content-Type", b"application/x-www-form-urlencoded"),
        *more,
    ]


async def raw_form(
    visitor: Visitor, path: str, body: bytes, *more: tuple[bytes, bytes]
) -> harness.Answer:
    """Send a form as these bytes."""
    client = await visitor.running.client()
    answer = await client.request("POST", path, form_fields(visitor, *more), body)
    client.close()
    return answer


# --- a stranger -----------------------------------------------------------------------------------


async def test_marks_that_combine_without_end_keep_nobody_waiting(site: WebSite) -> None:
    await site.user("ada")
    stranger = site.visitor()
    token = (await stranger.get("/dashboard/sign-in")).token
    began = time.process_time()
    # As they are: spelled with % they would not fit into a form.
    for sent in (f"email={MARKS}&password=x", f"email=a@b&password={MARKS}"):
        answer = await raw_form(stranger, "/dashboard/sign-in", f"csrf={token}&{sent}".encode())
        assert answer.status == 401
    # CPU time, whatever else the machine does; before it was bounded this took over 20 s.
    assert time.process_time() - began < 2


def test_what_is_too_long_to_be_somebodys_is_not_put_into_a_form() -> None:
    assert same_form(MARKS) is MARKS
    assert email_form(MARKS) == email_form(MARKS[:300])
    with pytest.raises(Conflict, match="password: expected 10 to 256 characters"):
        check_rules(MARKS)


def test_what_shrinks_to_an_allowed_length_is_still_put_into_its_form() -> None:
    # One character in NFC, four as typed (the canonical decomposition of U+1F82).
    typed = "\u03b1\u0313\u0300\u0345" * 64
    assert same_form(typed) == "\u1f82" * 64
    check_rules(typed * 4, None)
    with pytest.raises(Conflict):
        check_rules(typed * 4 + "x", None)


async def test_a_cookie_that_is_no_text_is_a_cookie_like_another(site: WebSite) -> None:
    for name in (b"gateway_visit", b"gateway_session"):
        answer = await site.running.call(
            "/dashboard/sign-in", method="GET", key=b"", fields=[(b"Cookie", name + b"=\xff\xfe")]
        )
        assert answer.status == 200, answer


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        # HAProxy adds a line of its own behind the one that its client sent.
        (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1", "198.51.100.2, 203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9", "nonsense"], "127.0.0.1"),
        ([""], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
def test_an_address_is_what_the_proxy_of_this_machine_says_last(
    lines: list[str], address: str
) -> None:
    header = CIMultiDict([("x-forwarded-for", line) for line in lines])
    assert security.address_of("127.0.0.1", header) == address
    assert security.address_of("192.0.2.7", header) == "192.0.2.7"


async def test_guesses_through_a_proxy_are_counted_by_who_guesses_not_by_what_they_claim(
    site: WebSite,
) -> None:
    await site.user("ada")
    stranger = site.visitor()
    token = (await stranger.get("/dashboard/sign-in")).token
    seen = []
    for number in range(31):
        sent = {"csrf": token, "email": f"{number}@example.org", "password": "not the password"}
        answer = await raw_form(
            stranger, "/dashboard/sign-in", urlencode(sent).encode(),
            (b"X-Forwarded-For", f"198.51.100.{number}".encode()),
            (b"X-Forwarded-For", b"203.0.113.9"),
        )  # fmt: skip
        seen.append(answer.status)
    assert seen == [401] * 30 + [429]


@pytest.mark.parametrize(
    "wanted",
    [
        "%2F%2Fevil.example", "/%2Fevil.example", "%5C%5Cevil.example", "/%5Cevil.example",
        "/dashboard%5C@evil.example", "/dashboard%0d%0aSet-Cookie:%20x=1", "/dashboard%00",
        "/dashboard%09/x", "/dashboard/%E2%80%AE", "https:%2F%2Fevil.example", "%20/evil",
        "/dashboard@evil.example", "/dashboard:80@evil.example/", "//dashboard", "/docsx",
        "/dashboard/sign-in%3Fnext=//evil.example&next=//evil.example",
    ],
)  # fmt: skip
async def test_no_spelling_of_next_leads_away(site: WebSite, wanted: str) -> None:
    ada = await site.user("ada")
    seen = await ada.get(f"/dashboard/sign-in?next={wanted}", follow=False)
    assert seen.status == 303
    where = seen.headers["Location"]
    assert where == "/dashboard" or where.startswith("/dashboard/sign-in?next=//evil.example")
    # The latter is a page of ours, which trusts its own `next` no more.
    assert (await ada.get(where)).path == "/dashboard"


@pytest.mark.parametrize(
    "path",
    ["/dashboard/keys/a%0d%0aSet-Cookie:%20x=1", "/dashboard/receipts/a%0aX: 1", "/docs/%0d%0aX:1"],
)
async def test_no_header_line_comes_of_a_path(site: WebSite, path: str) -> None:
    ada = await site.user("ada")
    target = path.replace(" ", "%20")
    answer = await site.running.call(
        target, method="GET", key=b"",
        fields=[(b"Cookie", cookie(ada))],
    )  # fmt: skip
    assert answer.status == 404
    assert not answer.all(b"x")
    assert not [one for one in answer.all(b"set-cookie") if not one.startswith(b"gateway_")]


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        (b"text/html", True), (b"image/svg+xml", True), (b"", True), (b"text/plain", True),
        (b"application/octet-stream", True), (b"Text/HTML ; charset=utf-7", True),
        (b"application/json", False), (b"application/json; charset=utf-8", False),
        (b"text/event-stream", False),
    ],
)  # fmt: skip
@harness.scenario
async def test_what_a_provider_keeps_is_no_page_at_the_dashboards_origin(
    kind: bytes, page: bool, tmp_path: Path
) -> None:
    """A link with a stranger's own key opens the stranger's file in the browser of who is here."""
    body = b"""{"_": "<script>fetch('/dashboard/keys')</script>"}"""
    lowered = [(b"Content-Security-Policy", b"default-src *"), (b"Connection", b"x-frame-options")]
    reply = harness.reply(body, kind=kind, fields=lowered)
    async with harness.gateway_before(tmp_path, harness.answering(reply)) as (running, _):
        answer = await running.call(
            "/v1/files/file-1/content?key=sk-strangers-own-key-0123456789", method="GET", key=b""
        )
    assert (answer.status, answer.body) == (200, body)
    # Where there are several policies all of them hold (CSP 3, section 8.1).
    assert (b"sandbox" in answer.all(b"content-security-policy")) == page
    assert (b"nosniff" in answer.all(b"x-content-type-options")) == page


@pytest.mark.parametrize(
    "body",
    [
        {"model": "x" * 3_000_000, "messages": []},
        {"model": "basic", "messages": [], "x" * 3_000_000: {}, "temperature": "hot"},
        {"model": "basic", "max_tokens": "9" * 3_000_000, "messages": []},
        {"model": "basic", "messages": [{"role": "x" * 3_000_000}]},
    ],
)
async def test_what_a_call_says_at_length_is_kept_and_shown_in_brief(
    site: WebSite, body: dict[str, Any]
) -> None:
    ada = await site.user("ada")
    _, key = await site.running.gateway.accounts.create_key("ada")
    for credential in (key.encode(), harness.OWN_KEY):
        answer = await site.running.call(
            "/v1/chat/completions", msgspec.json.encode(body), key=credential
        )
        receipt = await site.running.call(
            f"/v1/receipts/{answer.receipt_id}", method="GET", key=credential
        )
        assert len(receipt.body) < 10_000
    assert len((await ada.get("/dashboard/receipts")).text) < 50_000


async def test_a_models_name_may_be_as_long_as_any_that_there_is(site: WebSite) -> None:
    await site.user("ada")
    _, key = await site.running.gateway.accounts.create_key("ada")
    for name, said in (("demo/" + "m" * 507, "Unknown model pricing"), ("m" * 513, "over 512")):
        for target, body in (
            ("/v1/chat/completions", {"model": name, "messages": []}),
            (f"/v1beta/models/{name}:generateContent", {"contents": []}),
        ):
            answer = await site.running.call(target, msgspec.json.encode(body), key=key.encode())
            assert answer.status == 400
            assert said in answer.body.decode()
            receipt = await site.running.receipt(answer, key.encode())
            assert receipt["request"]["model"] == name[:512]


# --- whose rights ended meanwhile -----------------------------------------------------------------


async def _demoted(site: WebSite) -> None:
    await site.running.gateway.accounts.update_user("eve", UserChanges(admin=False))


async def _suspended(site: WebSite) -> None:
    await site.running.gateway.accounts.suspend_user("eve")


async def _signed_out(site: WebSite) -> None:
    gateway = site.running.gateway
    await gateway.sign_in.end_sessions(gateway.accounts.user_named("eve").id)


@pytest.mark.parametrize(
    ("end", "status"), [(_demoted, 403), (_suspended, 403), (_signed_out, 401)]
)
async def test_a_form_that_is_held_back_counts_as_of_who_its_sender_is_when_it_comes(
    site: WebSite, end: Callable[[WebSite], Coroutine[Any, Any, None]], status: int
) -> None:
    eve = await site.user("eve", admin=True)
    accounts: Accounts = site.running.gateway.accounts
    await accounts.create_user("ada")
    token = (await eve.get("/dashboard/admin")).token
    body = urlencode(
        {"csrf": token, "amount": "1000", "idempotency_key": "dashboard-0123456789"}
    ).encode()
    client = await site.running.client()
    path = f"/dashboard/admin/users/{accounts.user_named('ada').id}/credit"
    head = [b"POST %b HTTP/1.1" % path.encode(), b"Host: gateway.test"]
    head += [b"%b: %b" % one for one in form_fields(eve, (b"Content-Length", b"%d" % len(body)))]
    await client.send(b"\r\n".join(head) + b"\r\n\r\n" + body[:10])
    # Served after what is held back began to be: one loop, in order.
    assert (await eve.get("/dashboard")).status == 200
    await end(site)
    await client.send(body[10:])
    assert (await client.answer()).status == status
    assert accounts.funds(accounts.user_named("ada").id).balance == 0


async def test_who_signs_in_again_leaves_no_session_behind(site: WebSite) -> None:
    ada = await site.user("ada")
    thief = site.visitor()
    thief.session.headers["Cookie"] = cookie(ada).decode()
    assert (await thief.get("/dashboard")).path == "/dashboard"
    token = (await ada.get("/dashboard")).token
    sent = {"email": "ada@example.org", "password": PASSWORD}
    assert (await ada.send("/dashboard/sign-in", sent, token=token)).path == "/dashboard"
    assert (await thief.get("/dashboard")).path.startswith("/dashboard/sign-in")
    sign_in = site.running.gateway.sign_in
    assert len(sign_in.sessions(site.running.gateway.accounts.user_named("ada").id)) == 1


async def test_a_session_ends_here_even_where_that_cannot_be_written(site: WebSite) -> None:
    ada = await site.user("ada")
    thief = site.visitor()
    thief.session.headers["Cookie"] = cookie(ada).decode()
    token = (await ada.get("/dashboard")).token
    await site.running.gateway.ledger.close()
    seen = await ada.send("/dashboard/sign-out", token=token)
    assert (seen.status, "Signed out for now" in seen.words) == (503, True)
    assert "gateway_session" not in cookie(ada).decode()
    assert (await thief.get("/dashboard")).path.startswith("/dashboard/sign-in")


# --- what is told once ----------------------------------------------------------------------------


async def test_two_keys_that_are_made_at_once_are_both_shown(site: WebSite) -> None:
    ada = await site.user("ada")
    await ada.get("/dashboard/keys")
    first = await ada.send("/dashboard/keys", {"name": "one"}, follow=False)
    second = await ada.send("/dashboard/keys", {"name": "two"}, follow=False)
    shown = [await ada.get(one.headers["Location"]) for one in (first, second)]
    for seen in shown:
        assert seen.path.endswith("/created")
        assert 'value="gw-' in seen.text or "gw-" in seen.words
    # Once: not again.
    assert not (await ada.get(first.headers["Location"])).path.endswith("/created")


async def test_what_is_shown_once_waits_for_somebody_who_reads_it(site: WebSite) -> None:
    ada = await site.user("ada")
    await ada.get("/dashboard/keys")
    made = await ada.send("/dashboard/keys", {"name": "one"}, follow=False)
    where = made.headers["Location"]
    async with ada.session.head(ada.base + where, allow_redirects=False) as answer:
        assert answer.status == 303
    assert (await ada.get(where)).path == where


async def test_what_is_told_is_told_to_the_session_that_did_it_alone(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    again = site.visitor()
    await again.sign_in("root@example.org")
    await root.get("/dashboard/admin/codes")
    made = await root.send("/dashboard/admin/codes", {"amount": "5", "count": "1"}, follow=False)
    assert made.status == 303
    assert "<textarea" not in (await again.get("/dashboard/admin/codes")).text
    assert "<textarea" in (await root.get("/dashboard/admin/codes")).text


def test_what_nobody_comes_for_is_bounded() -> None:
    nothing: Any = None
    made = Site(nothing, nothing, nothing, b"", nothing, nothing)
    for number in range(TOLD_MAX + 5):
        made.leave(str(number), Notice(path="/", text="done"))
    assert made.take("4", "/") is None
    assert made.take("5", "/") is not None
    for number in range(NOTICES_MAX + 1):
        made.leave("6", Notice(path=f"/{number}", text="done"))
    # The oldest gave way: that of before, and the first of these.
    assert made.take("6", "/") is made.take("6", "/0") is None
    assert made.take("6", "/1") == Notice(path="/1", text="done")
    assert len(made._left) <= TOLD_MAX


# --- a user who wants more ------------------------------------------------------------------------


async def test_what_is_anothers_is_as_what_is_not_there(site: WebSite) -> None:
    ada, eve = await site.user("ada"), await site.user("eve", usd=0)
    accounts = site.running.gateway.accounts
    key, text = await accounts.create_key("ada", KeySpec(name="hers", rpm=5))
    answer = await site.running.call(
        "/v1/chat/completions", b'{"model":"basic","messages":[]}', key=text.encode()
    )
    await eve.get("/dashboard")
    token = eve.last.token if eve.last else ""
    for path in ("", "/created"):
        there = await eve.get(f"/dashboard/keys/{key.id}{path}")
        nothing = await eve.get(f"/dashboard/keys/{'x' * len(key.id)}{path}")
        assert there.status == nothing.status == 404
        assert there.words.replace(key.id, "") == nothing.words.replace("x" * len(key.id), "")
    form = {"name": "mine", "rpm": "600", "user": "ada", "admin": "1"}
    for path in ("", "/revoke"):
        seen = await eve.send(f"/dashboard/keys/{key.id}{path}", form, token=token)
        assert seen.status == 404
    link = f"/dashboard/receipts/{answer.receipt_id}"
    assert (await eve.get(link)).status == 404
    for query in (
        f"key={key.id}", f"id={answer.receipt_id}", f"id={answer.receipt_id[:8]}", "user=ada",
        "provider=demo", "user=ada&key=&model=basic",
    ):  # fmt: skip
        seen = await eve.get(f"/dashboard/receipts?{query}")
        assert (seen.status, link in seen.text) == (200, False)
    assert accounts.key(key.id) == key
    assert link in (await ada.get(f"/dashboard/receipts?key={key.id}")).text


async def test_fields_that_a_form_does_not_have_do_nothing(site: WebSite) -> None:
    await site.user("ada")
    eve = await site.user("eve", usd=0)
    gateway = site.running.gateway
    before = gateway.accounts.list_users()
    await eve.get("/dashboard/keys")
    more = {"admin": "1", "user": "ada", "user_id": "1", "key": "mine", "rate_multiplier": "0"}
    made = await eve.send("/dashboard/keys", {"name": "k", **more}, follow=False)
    assert made.status == 303
    (key,) = gateway.accounts.list_keys("eve")
    assert not key.admin
    assert not gateway.accounts.list_keys("ada")
    await eve.send("/dashboard/models/cap", {"model": "basic", "amount": "1", "user": "ada"})
    assert not gateway.accounts.caps("ada")
    await eve.send("/dashboard/settings/sessions", {"user": "ada", "name": "ada", "keep": "x"})
    assert gateway.sign_in.sessions(gateway.accounts.user_named("ada").id)
    assert gateway.accounts.list_users() == before


async def test_of_fields_that_come_twice_the_first_is_checked_and_used(site: WebSite) -> None:
    ada = await site.user("ada")
    token = (await ada.get("/dashboard")).token
    for twice, status in ((["0" * 40, token], 403), ([token, "0" * 40], 303)):
        body = urlencode([*(("csrf", one) for one in twice), ("rpm", "7"), ("rpm", "99999")])
        assert (await raw_form(ada, "/dashboard/keys", body.encode())).status == status
    (key,) = site.running.gateway.accounts.list_keys("ada")
    assert key.rpm == 7


async def test_many_keys_are_found_by_their_names_on_a_page_that_stays_small(site: WebSite) -> None:
    ada = await site.user("ada")
    accounts = site.running.gateway.accounts
    for number in range(230):
        await accounts.create_key("ada", KeySpec(name=f"Key {number:03}"))
    seen = await ada.get("/dashboard/keys")
    assert "200 of 230 in use" in seen.words
    # Made within a millisecond they are in the order of their ids.
    ordered = [key.name for key in accounts.list_keys("ada")]
    assert all((name in seen.words) == (name in ordered[30:]) for name in ordered)
    found = await ada.get("/dashboard/keys?q=kEY+02")
    assert "10 of 10, of 230 in use" in found.words
    assert "Key 029" in found.words
    assert "No key in use has such a name" in (await ada.get("/dashboard/keys?q=none")).words
    assert "You have 230 keys in use" in seen.words
    oldest = accounts.list_keys("ada")[0]
    receipts = await ada.get(f"/dashboard/receipts?key={oldest.id}")
    assert receipts.text.count('<option value="key_') == 201
    assert f'<option value="{oldest.id}" selected>' in receipts.text


@pytest.mark.parametrize(
    "name",
    [
        "\u202eadmin", "a\u200bdmin", "\u3164", "root\u2800", "\ufeffroot", "root\x00",
        "ro\u00adot", "-root", "root\u115f", "\u00a0", "n" * 65, "\U000e0061",
    ],
)  # fmt: skip
async def test_no_name_looks_like_none_or_hides_a_part(tmp_path: Path, name: str) -> None:
    async with web_site(tmp_path, "[dashboard]\nsignup = true") as site:
        visitor = site.visitor()
        await visitor.get("/dashboard/sign-up")
        fields = {"email": "eve@example.org", "password": PASSWORD, "again": PASSWORD}
        assert (await visitor.send("/dashboard/sign-up", fields | {"name": name})).status == 400
        assert not site.running.gateway.accounts.list_users()


async def test_who_hangs_up_on_the_answer_has_guessed_a_code_all_the_same(
    site: WebSite, caplog: pytest.LogCaptureFixture
) -> None:
    ada = await site.user("ada")
    token = (await ada.get("/dashboard/top-up")).token
    gateway = site.running.gateway
    at_rest = len(gateway.server.connections)
    async with gateway.accounts._order:  # so that none is answered before its client is gone
        for number in range(1, REDEEMS_MAX + 1):
            body = urlencode({"csrf": token, "code": keys.mint(codes.PREFIX)}).encode()
            client = await site.running.client()
            await client.send(
                harness.request_bytes("POST", "/dashboard/top-up", form_fields(ada), body)
            )
            await harness.until(lambda made=number: len(gateway.accounts._writing) == made)  # type: ignore[misc]
            client.reset()
            await harness.until(lambda: len(gateway.server.connections) <= at_rest)
    seen = await ada.send("/dashboard/top-up", {"code": keys.mint(codes.PREFIX)}, token=token)
    assert seen.status == 429
    await harness.until(lambda: not gateway.accounts._writing)
    gc.collect()
    assert "never retrieved" not in caplog.text


# --- forms that are sent twice --------------------------------------------------------------------


def once_of(seen: Seen, path: str) -> str:
    """What tells a form of a page from the same form shown another time."""
    form = seen.text.split(f'method="post" action="{path}"')[1].split("</form>")[0]
    found: str = form.split('name="once" value="')[1].split('"')[0]
    return found


async def test_a_form_that_is_sent_twice_at_once_makes_what_it_makes_once(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    gateway = site.running.gateway
    ada = await gateway.accounts.create_user("ada")
    users, codes, hers = (
        "/dashboard/admin/users", "/dashboard/admin/codes", f"/dashboard/admin/users/{ada.id}",
    )  # fmt: skip
    for page, path, typed in (
        ("/dashboard/keys", "/dashboard/keys", {"name": "one"}),
        (codes, codes, {"amount": "5", "count": "2"}),
        (hers, f"{hers}/correct", {"amount": "3", "reason": "because"}),
        (hers, f"{hers}/key", {"name": "two"}),
        (users, users, {"name": "bob"}),
    ):
        shown = await root.get(page)
        sent = {**typed, "once": once_of(shown, path)}
        answers = await asyncio.gather(
            *(root.send(path, sent, token=shown.token, follow=False) for _ in range(3))
        )
        assert {one.status for one in answers} == {303}, answers
        assert len({one.headers["Location"] for one in answers}) == 1
        assert once_of(await root.get(page), path) != sent["once"]
    accounts = gateway.accounts
    assert [key.name for key in accounts.list_keys()] == ["one", "two"]
    assert len(await accounts.list_codes()) == 2
    assert accounts.funds(ada.id).balance == 3 * 10**9
    assert [user.name for user in accounts.list_users()] == ["root", "ada", "bob"]


async def test_who_lost_the_answer_gets_it_by_sending_the_form_again(site: WebSite) -> None:
    ada = await site.user("ada")
    shown = await ada.get("/dashboard/keys")
    sent = {"csrf": shown.token, "name": "one", "once": once_of(shown, "/dashboard/keys")}
    client = await site.running.client()
    body = urlencode(sent).encode()
    await client.send(harness.request_bytes("POST", "/dashboard/keys", form_fields(ada), body))
    client.reset()
    answer = await raw_form(ada, "/dashboard/keys", body)
    assert answer.status == 303
    where = (answer.get(b"location") or b"").decode()
    assert "gw-" in (await ada.get(where)).words
    assert len(site.running.gateway.accounts.list_keys("ada")) == 1


async def test_a_form_that_was_refused_may_be_sent_again(site: WebSite) -> None:
    ada = await site.user("ada")
    shown = await ada.get("/dashboard/keys")
    sent = {"name": "one", "rpm": "many", "once": once_of(shown, "/dashboard/keys")}
    assert (await ada.send("/dashboard/keys", sent)).status == 400
    assert (await ada.send("/dashboard/keys", {**sent, "rpm": "5"}, follow=False)).status == 303


async def test_what_was_sent_is_remembered_in_bounds() -> None:
    once = Once()
    done: list[int] = []

    async def do() -> web.StreamResponse:
        done.append(len(done))
        return web.Response(status=303, headers={"Location": f"/{len(done)}"})

    for number in range(REMEMBERED_MAX + 2):
        await once.answer(("session", "/", str(number)), do)
    assert len(once._begun) <= REMEMBERED_MAX + 1
    again = await once.answer(("session", "/", str(REMEMBERED_MAX)), do)
    assert again.headers["Location"] == f"/{REMEMBERED_MAX + 1}"
    await once.answer(("session", "/", "0"), do)
    assert len(done) == REMEMBERED_MAX + 3


# --- what is typed into forms ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed", ["10,50", "1,5", "10,5000", "1,000,00", ",100", "1 000.00", "1e3"]
)
async def test_no_amount_is_read_as_another_that_was_not_meant(site: WebSite, typed: str) -> None:
    root = await site.user("root", admin=True)
    gateway = site.running.gateway
    ada = await gateway.accounts.create_user("ada")
    path = f"/dashboard/admin/users/{ada.id}"
    await root.get(path)
    for form, more in (
        ("credit", {"idempotency_key": "once-0123456789"}), ("correct", {"reason": "because"}),
    ):  # fmt: skip
        seen = await root.send(f"{path}/{form}", {"amount": typed, **more})
        assert (seen.status, "Expected US dollars" in seen.words) == (400, True), seen
    assert gateway.accounts.funds(ada.id).balance == 0


@pytest.mark.parametrize(
    ("typed", "usd"), [("$1,250.00", 1250), ("1,250", 1250), ("1,234,567.00", 1_234_567), ("$5", 5)]
)
async def test_amounts_may_be_typed_as_pages_write_them(
    site: WebSite, typed: str, usd: int
) -> None:
    ada = await site.user("ada")
    await ada.get("/dashboard/models")
    assert (
        await ada.send("/dashboard/models/cap", {"model": "basic", "amount": typed})
    ).status == 200
    (cap,) = site.running.gateway.accounts.caps("ada")
    assert cap.nano_usd == usd * 10**9
    # What the form then shows can be sent again.
    form = (await ada.get("/dashboard/models?cap=basic")).text
    shown = form.split('name="amount"')[1].split('value="')[1].split('"')[0]
    assert (
        await ada.send("/dashboard/models/cap", {"model": "basic", "amount": shown})
    ).status == 200
    assert site.running.gateway.accounts.caps("ada") == [cap]


HOSTILE = (
    "0", "-1", "+1", str(2**63), "1e9", "1e-400", "\u0663", "\uff11", "NaN", "-0", "1_0", "10,5",
    "\x00", "a\x00b", "x" * 300, "9" * 5000, "\u202eevil", "\u2066x", "\ufffe",
    "'; DROP TABLE users; --", "<script>alert(1)</script>", "{{7*7}}", "\r\nSet-Cookie: x=1",
    "9999-12-31T23:59:59.999999-23:59",
    "0001-01-01T00:00:00+23:59", "10000-01-01", "99999d", "0000-00-00",
)  # fmt: skip

FORMS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("ada", "/dashboard/keys", {
        "name": "n", "expires": "", "rpm": "", "tpm": "", "concurrent": "", "models": "",
        "spend_cap": "", "on_disconnect": "",
    }),
    ("ada", "/dashboard/keys/{key}", {
        "name": "n", "expires": "", "rpm": "", "tpm": "", "concurrent": "", "models": "",
        "spend_cap": "", "on_disconnect": "",
    }),
    ("ada", "/dashboard/models/cap", {"model": "basic", "amount": "1", "q": ""}),
    ("root", "/dashboard/admin/users/{id}/settings", {
        "email": "", "rate_multiplier": "1", "rpm": "", "tpm": "", "concurrent": "",
        "daily_alert": "",
    }),
    ("root", "/dashboard/admin/users/{id}/correct", {"amount": "1", "reason": "r"}),
    ("root", "/dashboard/admin/codes", {"amount": "1", "count": "1", "expires": ""}),
    ("root", "/dashboard/admin/models/one", {
        "provider": "demo", "model": "demo", "enabled": "1", "multiplier": "1", "price_input": "1",
        "price_output": "2", "context_length": "", "max_output_tokens": "",
    }),
)  # fmt: skip


@pytest.mark.parametrize(("who", "path", "base"), FORMS, ids=[one[1] for one in FORMS])
async def test_whatever_is_typed_into_a_field_is_taken_or_refused_and_never_fails(
    site: WebSite, who: str, path: str, base: dict[str, str]
) -> None:
    visitors = {"ada": await site.user("ada"), "root": await site.user("root", admin=True)}
    accounts = site.running.gateway.accounts
    ada = accounts.user_named("ada")
    key, _ = await accounts.create_key("ada")
    path = path.format(key=key.id, id=ada.id)
    visitor = visitors[who]
    token = (await visitor.get("/dashboard")).token
    wrong = []
    for name in base:
        for typed in HOSTILE:
            seen = await visitor.send(path, {**base, name: typed}, token=token, follow=False)
            if seen.status not in (303, 400, 404, 409):
                wrong.append(f"{name}={typed[:40]!r}: {seen.status}")
            assert "x" not in seen.headers.get("Set-Cookie", "")
            assert "<script>alert(1)" not in seen.text
    assert not wrong
    for one in accounts.list_keys("ada"):
        assert all(limit is None or limit >= 1 for limit in (one.rpm, one.tpm, one.concurrent))
        assert one.rpm is None or one.rpm <= site.running.gateway.config.limits.rpm


async def test_a_form_that_is_sent_again_as_its_refusal_ends_is_simply_tried_again() -> None:
    once, loop = Once(), asyncio.get_running_loop()
    sent, tried = ("session", "/", "form"), 0
    waiting: list[bool] = []

    def again() -> None:
        # The first has ended, and what follows from that has not: one step of the second, now.
        second = once.answer(sent, do)
        waiting.append(second.send(None) is not None)
        second.close()

    async def do() -> web.StreamResponse:
        nonlocal tried
        tried += 1
        if tried == 1:
            loop.call_soon(again)
        return web.Response(status=400)

    assert (await once.answer(sent, do)).status == 400
    assert waiting == [True]
    assert tried == 2


async def test_nothing_that_is_typed_or_shown_once_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    more = '[dashboard]\nsignup = true\n[log]\nlevel = "debug"\nrequests = true'
    async with web_site(tmp_path, more) as site:
        gateway = site.running.gateway
        root = await site.user("root", admin=True)
        ada = await gateway.accounts.create_user("ada", email="ada@example.org")
        link, _ = await gateway.sign_in.make_link("ada")
        ((_, code),) = await gateway.accounts.create_codes(10**9)
        guest = site.visitor()
        await guest.get("/dashboard/welcome")
        chosen = "the password that ada chose"
        sent = {"token": link, "password": chosen, "again": chosen}
        assert (await guest.send("/dashboard/welcome", sent)).path == "/dashboard"
        await guest.send("/dashboard/top-up", {"code": code[:-1]})
        await guest.send("/dashboard/top-up", {"code": code})
        assert gateway.accounts.funds(ada.id).balance == 10**9
        made = await guest.send("/dashboard/keys", {"name": "k"})
        key = made.text.split("Bearer ")[1].split('"')[0].split("&")[0].split("<")[0]
        assert key.startswith("gw-")
        body = b'{"model":"basic","messages":[{"role":"user","content":"hello"}]}'
        answer = await site.running.call("/v1/chat/completions", body, key=key.encode())
        assert answer.status == 200
        await guest.send("/dashboard/settings/password", {"current_password": "guessed wrongly"})
        stranger = site.visitor()
        await stranger.get("/dashboard/sign-in")
        # People type passwords into the field above.
        await stranger.send("/dashboard/sign-in", {"email": chosen, "password": "typed amiss"})
        cookies = [one.value for had in (root, guest) for one in had.session.cookie_jar]
    assert "ada used a one-time link" in caplog.text
    assert answer.receipt_id in caplog.text
    for secret in (link, chosen, code, key, "guessed wrongly", "typed amiss", PASSWORD, *cookies):
        assert len(secret) > 10
        assert secret not in caplog.text
