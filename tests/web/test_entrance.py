"""Getting in and out: the sign-in, the one-time link, sign-up; what guards every page."""

from pathlib import Path

import pytest
from web_client import PASSWORD, WebSite, web_site


async def test_a_page_sends_a_stranger_to_the_sign_in_and_back_afterwards(site: WebSite) -> None:
    await site.user("ada")
    stranger = site.visitor()
    seen = await stranger.get("/dashboard?days=7")
    assert seen.path == "/dashboard/sign-in?next=/dashboard?days%3D7"
    fields = {"email": "ada@example.org", "password": PASSWORD}
    fields["next"] = "/dashboard?days=7"
    seen = await stranger.send("/dashboard/sign-in", fields)
    assert seen.path == "/dashboard?days=7"


@pytest.mark.parametrize(
    "next_path",
    ["//evil.example", "https://evil.example/dashboard", "/dashboard\\@evil.example", "/docs\n/x",
     "/dashboardx", "javascript:alert(1)", "/\\evil.example", "/dashboard/\\..//evil.example"],
)  # fmt: skip
async def test_a_sign_in_leads_nowhere_but_to_pages_of_ours(site: WebSite, next_path: str) -> None:
    await site.user("ada")
    stranger = site.visitor()
    await stranger.get("/dashboard/sign-in")
    fields = {"email": "ada@example.org", "password": PASSWORD, "next": next_path}
    seen = await stranger.send("/dashboard/sign-in", fields, follow=False)
    assert (seen.status, seen.headers["Location"]) == (303, "/dashboard")


async def test_a_wrong_password_tells_nothing_and_keeps_the_address(site: WebSite) -> None:
    await site.user("ada")
    stranger = site.visitor()
    await stranger.get("/dashboard/sign-in")
    wrong = {"email": "ada@example.org", "password": "not the password"}
    unknown = {"email": "nobody@example.org", "password": "not the password"}
    for fields in (wrong, unknown):
        seen = await stranger.send("/dashboard/sign-in", fields)
        assert seen.status == 401
        assert "The e-mail address or the password is wrong" in seen.words
        assert fields["email"] in seen.text
        assert "not the password" not in seen.text


async def test_too_many_wrong_passwords_are_refused_with_the_time_to_wait(site: WebSite) -> None:
    await site.user("ada")
    stranger = site.visitor()
    await stranger.get("/dashboard/sign-in")
    fields = {"email": "ada@example.org", "password": "not the password"}
    seen = [await stranger.send("/dashboard/sign-in", fields) for _ in range(11)]
    assert [one.status for one in seen] == [401] * 10 + [429]
    assert 0 < int(seen[-1].headers["Retry-After"]) <= 900


async def test_signing_out_ends_the_session_on_the_server(site: WebSite) -> None:
    ada = await site.user("ada")
    cookie = {c.key: c.value for c in ada.session.cookie_jar}["gateway_session"]
    await ada.send("/dashboard/sign-out")
    assert ada.last is not None
    assert ada.last.path == "/dashboard/sign-in"
    thief = site.visitor()
    seen = await thief.get("/dashboard", cookies={"gateway_session": cookie})
    assert seen.path.startswith("/dashboard/sign-in")


async def test_a_one_time_link_sets_a_password_once(site: WebSite) -> None:
    gateway = site.running.gateway
    await gateway.accounts.create_user("root", admin=True)
    token, _ = await gateway.sign_in.make_link("root")
    fields = {"token": token, "email": "root@example.org", "password": PASSWORD, "again": PASSWORD}
    visitor = site.visitor()
    await visitor.get("/dashboard/welcome")
    differing = await visitor.send("/dashboard/welcome", fields | {"again": "another"})
    assert differing.status == 400
    assert "The passwords differ" in differing.words
    short = await visitor.send("/dashboard/welcome", fields | {"password": "x", "again": "x"})
    assert short.status == 400
    entered = await visitor.send("/dashboard/welcome", fields)
    assert (entered.status, entered.path) == (200, "/dashboard")
    again = site.visitor()
    await again.get("/dashboard/welcome")
    seen = await again.send("/dashboard/welcome", fields)
    assert seen.status == 401
    assert "used before" in seen.words


async def test_sign_up_is_closed_unless_the_operator_opens_it(site: WebSite) -> None:
    visitor = site.visitor()
    assert (await visitor.get("/dashboard/sign-up")).status == 404
    await visitor.get("/dashboard/sign-in")
    fields = {"name": "eve", "email": "eve@example.org", "password": PASSWORD, "again": PASSWORD}
    assert (await visitor.send("/dashboard/sign-up", fields)).status == 404
    assert not site.running.gateway.accounts.list_users()


async def test_an_open_sign_up_makes_an_ordinary_user_without_credit(tmp_path: Path) -> None:
    async with web_site(tmp_path, "[dashboard]\nsignup = true") as site:
        visitor = site.visitor()
        await visitor.get("/dashboard/sign-up")
        fields = {"name": "eve", "email": "eve@example.org", "password": PASSWORD}
        seen = await visitor.send("/dashboard/sign-up", fields | {"again": PASSWORD})
        assert (seen.status, seen.path) == (200, "/dashboard")
        accounts = site.running.gateway.accounts
        eve = accounts.user_named("eve")
        assert not eve.admin
        assert accounts.funds(eve.id).balance == 0


async def test_the_session_cookie_is_for_this_host_and_no_script(site: WebSite) -> None:
    await site.user("ada")
    stranger = site.visitor()
    await stranger.get("/dashboard/sign-in")
    fields = {"email": "ada@example.org", "password": PASSWORD}
    seen = await stranger.send("/dashboard/sign-in", fields, follow=False)
    cookie = seen.headers["Set-Cookie"]
    assert cookie.startswith("gateway_session=")
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= set(cookie.split("; "))
    assert "Secure" not in cookie


async def test_over_tls_the_cookie_is_bound_to_the_host(tmp_path: Path) -> None:
    more = '[dashboard]\npublic_url = "https://llm.example.org"'
    async with web_site(tmp_path, more) as site:
        seen = await site.visitor().get("/dashboard/sign-in")
        cookie = seen.headers["Set-Cookie"]
        assert cookie.startswith("__Host-gateway_visit=")
        assert {"HttpOnly", "Path=/", "SameSite=Strict", "Secure"} <= set(cookie.split("; "))


@pytest.mark.parametrize("path", ["/dashboard/sign-in", "/dashboard/nowhere", "/docs/nowhere"])
async def test_every_page_forbids_what_it_does_not_need(site: WebSite, path: str) -> None:
    visitor = site.visitor()
    seen = [await visitor.get(path) for _ in range(2)]
    policies = [one.headers["Content-Security-Policy"] for one in seen]
    for policy, one in zip(policies, seen, strict=True):
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        assert rules["default-src"] == "'none'"
        assert rules["frame-ancestors"] == "'none'"
        nonce = rules["script-src"].removeprefix("'nonce-").removesuffix("'")
        assert one.text.count("<script ") == one.text.count(f'<script nonce="{nonce}"') > 0
        assert "unsafe" not in policy
    assert policies[0] != policies[1]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1"])
async def test_a_form_from_elsewhere_does_nothing(site: WebSite, origin: str) -> None:
    ada = await site.user("ada")
    await ada.get("/dashboard")
    assert (await ada.send("/dashboard/sign-out", origin=origin)).status == 403
    assert (await ada.get("/dashboard")).path == "/dashboard"


async def test_a_form_without_the_sessions_own_token_does_nothing(site: WebSite) -> None:
    ada, eve = await site.user("ada"), await site.user("eve")
    foreign = (await eve.get("/dashboard")).token
    for token in ("", "0" * 40, foreign):
        assert (await ada.send("/dashboard/sign-out", token=token)).status == 403
    assert (await ada.get("/dashboard")).path == "/dashboard"


async def test_a_form_too_large_or_of_another_type_is_refused(site: WebSite) -> None:
    ada = await site.user("ada")
    assert (await ada.send("/dashboard/sign-out", {"x": "y" * 70_000})).status == 413
    async with ada.session.post(
        f"{ada.base}/dashboard/sign-out", json={"csrf": "x"}, headers={"Origin": ada.base}
    ) as answer:
        assert answer.status == 400
    assert (await ada.get("/dashboard")).path == "/dashboard"


async def test_the_bare_address_leads_a_browser_to_the_dashboard_and_tells_a_program_its_name(
    site: WebSite,
) -> None:
    visitor = site.visitor()
    seen = await visitor.get("/", headers={"Accept": "text/html,*/*;q=0.8"}, follow=False)
    assert (seen.status, seen.headers["Location"]) == (303, "/dashboard")
    seen = await visitor.get("/", headers={"Accept": "*/*"})
    assert (seen.status, seen.text[:20]) == (200, '{"service":"gateway"')


async def test_files_of_pages_may_be_kept_and_are_packed(site: WebSite) -> None:
    visitor = site.visitor()
    text = (await visitor.get("/dashboard/sign-in")).text
    path = text.split('rel="stylesheet" href="')[1].split('"')[0]
    seen = await visitor.get(path, headers={"Accept-Encoding": "gzip"})
    assert seen.status == 200
    assert "immutable" in seen.headers["Cache-Control"]
    assert seen.headers["Content-Encoding"] == "gzip"
    assert ":root" in seen.text
    assert (await visitor.get("/dashboard/static/x/nothing.css")).status == 404
    assert (await visitor.get("/dashboard/static/x/..%2Fpages.py")).status == 404
