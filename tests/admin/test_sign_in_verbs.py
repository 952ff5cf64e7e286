"""One-time links and the end of sessions, as admins ask for them."""

import logging
from pathlib import Path

import pytest
from admin_site import AdminSite, admin_site
from harness import scenario

from gateway.accounts.sign_in import SignInRefused

GOOD = "correct horse battery"


async def enter(site: AdminSite, token: str, email: str | None = None) -> str:
    """What the page behind a link does with it."""
    sign_in = site.gateway.gateway.sign_in
    return await sign_in.use_link(token, GOOD, email, "192.0.2.1", lifetime_ms=10**6)


@scenario
async def test_a_link_is_made_for_a_user_and_lets_them_in(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        user = await site.done("POST", "/users", {"name": "ann"})
        link = await site.done("POST", "/users/ann/sign-in-link")
        assert (link["object"], link["user"]) == ("sign_in_link", "ann")
        assert link["path"] == f"/dashboard/welcome#{link['token']}"
        assert link["expires_at"] > user["created_at"]
        session = await enter(site, link["token"], "ann@example.org")
        found = site.gateway.gateway.sign_in.session(session)
        assert found is not None
        assert found.user_id == user["id"]
        assert (await site.done("GET", "/users/ann"))["email"] == "ann@example.org"


@scenario
async def test_a_link_begins_with_the_public_url_or_with_what_the_gateway_listens_on(
    tmp_path: Path,
) -> None:
    # The port was left open: its own address is not in the configuration.
    async with admin_site(tmp_path) as site:
        await site.done("POST", "/users", {"name": "ann"})
        assert (await site.done("POST", "/users/ann/sign-in-link"))["url"] is None
    public = 'public_url = "https://llm.example.com"'
    async with admin_site(tmp_path, dashboard=public) as site:
        link = await site.done("POST", "/users/ann/sign-in-link")
        assert link["url"] == f"https://llm.example.com{link['path']}"


@scenario
async def test_sessions_end_when_an_admin_says_so(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.done("POST", "/users", {"name": "ann", "email": "ann@example.org"})
        link = await site.done("POST", "/users/ann/sign-in-link")
        first = await enter(site, link["token"])
        sign_in = site.gateway.gateway.sign_in
        second = await sign_in.sign_in("ann@example.org", GOOD, "192.0.2.1", lifetime_ms=10**6)
        ended = await site.done("DELETE", "/users/ann/sessions")
        assert ended == {"object": "sessions_ended", "user": "ann", "ended": 2}
        assert sign_in.session(first) is None
        assert sign_in.session(second) is None
        assert (await site.done("DELETE", "/users/ann/sessions"))["ended"] == 0


@scenario
async def test_links_are_refused_for_nobody_and_without_pages(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        for method, path in (
            ("POST", "/users/none/sign-in-link"), ("DELETE", "/users/none/sessions"),
        ):  # fmt: skip
            assert await site.refused(method, path) == (404, "not_found", None)
    async with admin_site(tmp_path, dashboard="enabled = false") as site:
        await site.done("POST", "/users", {"name": "ann"})
        refused = await site.refused("POST", "/users/ann/sign-in-link")
        assert refused == (409, "conflict", None)


@scenario
async def test_a_taken_e_mail_is_refused_by_its_field(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.done("POST", "/users", {"name": "ann", "email": "ann@example.org"})
        await site.done("POST", "/users", {"name": "bob"})
        conflict = (409, "conflict", "email")
        made = {"name": "eve", "email": "ANN@example.org"}
        assert await site.refused("POST", "/users", made) == conflict
        change = {"email": "Ann@example.org"}
        assert await site.refused("PATCH", "/users/bob", change) == conflict
        assert (await site.done("PATCH", "/users/ann", change))["email"] == "Ann@example.org"


@scenario
async def test_the_log_says_who_had_a_link_made_and_not_the_link(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with admin_site(tmp_path) as site:
        await site.done("POST", "/users", {"name": "ann"})
        link = await site.done("POST", "/users/ann/sign-in-link")
        assert "admin token: users.link name='ann'" in caplog.text
        assert link["token"] not in caplog.text


@scenario
async def test_a_link_outlives_a_restart_and_is_used_once_over_both(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        await site.done("POST", "/users", {"name": "ann"})
        link = await site.done("POST", "/users/ann/sign-in-link")
    async with admin_site(tmp_path) as site:
        session = await enter(site, link["token"], "ann@example.org")
    async with admin_site(tmp_path) as site:
        assert site.gateway.gateway.sign_in.session(session) is not None
        with pytest.raises(SignInRefused):
            await enter(site, link["token"], "ann@example.org")
