"""Who may see which page and send which form: every page, asked by everybody there can be.

What a page shows to one who may see it is for the page's own tests; here nobody else gets in, and
whoever is refused has changed nothing.
"""

import re
from pathlib import Path

from web_client import WebSite, web_site

from gateway.accounts.changes import UserChanges
from gateway.web.pages import PAGES

_OPEN = re.compile(r"/(?:docs|dashboard/(?:sign-in|sign-out|sign-up|welcome))(?:/.*)?")

_PATTERN = re.compile(r"\{(\w+):(?:[^{}]|\{[^}]*\})*\}")


def filled(path: str) -> str:
    """A page's path; what stands in braces stands for what does not exist."""
    numbered = re.sub(r"\{\w+:\[0-9\]\{[^}]*\}\}", "777", path)
    return re.sub(r"\{\w+\}", "none", _PATTERN.sub(r"{\1}", numbered))


def state(site: WebSite) -> object:
    """All that a form could change."""
    gateway = site.running.gateway
    accounts, settings = gateway.accounts, gateway.settings
    return (
        accounts.list_users(),
        accounts.list_keys(),
        [accounts.funds(user.id).balance for user in accounts.list_users()],
        [accounts.caps(user.name) for user in accounts.list_users()],
        [gateway.sign_in.sessions(user.id) for user in accounts.list_users()],
        dict(gateway.sign_in._links),
        dict(gateway.sign_in._hashes),
        settings.list_keys(),
        dict(settings.providers),
        dict(settings.models),
    )


def test_pages_are_open_only_where_they_must_be() -> None:
    assert {page.path for page in PAGES if page.who == "anyone"} == {
        page.path for page in PAGES if _OPEN.fullmatch(page.path)
    }
    assert {page.path for page in PAGES if page.who == "admin"} == {
        page.path for page in PAGES if page.path.startswith("/dashboard/admin")
    }


def test_no_page_changes_anything_when_it_is_only_looked_at() -> None:
    """Each is GET or POST, and what POSTs goes through the check of its form in `pages.py`."""
    assert {page.method for page in PAGES} == {"GET", "POST"}


async def test_every_route_below_our_paths_is_a_page_or_a_file(site: WebSite) -> None:
    found = {
        (route.method, route.resource.canonical)
        for route in site.running.gateway.pages.router.routes()
        if route.resource is not None
        and route.method != "HEAD"
        and route.resource.canonical.startswith(("/dashboard", "/docs"))
    }
    known = {(page.method, _PATTERN.sub(r"{\1}", page.path)) for page in PAGES}
    known |= {("GET", "/dashboard/static/{version}/{name}")}
    known |= {("GET", "/dashboard/{rest}"), ("GET", "/docs/{rest}")}
    assert found == known


async def test_a_stranger_is_sent_to_the_sign_in_from_every_page_that_wants_somebody(
    site: WebSite,
) -> None:
    await site.user("ada")
    _, key = await site.running.gateway.accounts.create_key("ada")
    stranger = site.visitor()
    token = (await stranger.get("/dashboard/sign-in")).token
    before = state(site)
    # A key opens the API and no page.
    stranger.session.headers["Authorization"] = f"Bearer {key}"
    wrong = []
    for page in PAGES:
        if page.who == "anyone":
            continue
        if page.method == "GET":
            seen = await stranger.get(filled(page.path), follow=False)
            fine = seen.status == 303 and seen.headers["Location"].startswith("/dashboard/sign-in?")
        else:
            seen = await stranger.send(filled(page.path), token=token, follow=False)
            fine = seen.status == 401
        if not fine:
            wrong.append(f"{page.method} {page.path}: {seen.status}")
    assert not wrong
    assert state(site) == before


async def test_no_page_for_admins_opens_for_a_user_nor_for_who_was_an_admin(
    tmp_path: Path,
) -> None:
    async with web_site(tmp_path) as site:
        ada, former = await site.user("ada"), await site.user("former", admin=True)
        accounts = site.running.gateway.accounts
        assert (await former.get("/dashboard/admin")).status == 200
        await accounts.update_user("former", UserChanges(admin=False))
        before = state(site)
        wrong = []
        for visitor in (ada, former):
            token = (await visitor.get("/dashboard")).token
            for page in PAGES:
                if page.who != "admin":
                    continue
                if page.method == "GET":
                    seen = await visitor.get(filled(page.path), follow=False)
                else:
                    seen = await visitor.send(filled(page.path), token=token, follow=False)
                if seen.status != 403:
                    wrong.append(f"{page.method} {page.path}: {seen.status}")
        assert not wrong
        assert state(site) == before


async def test_every_form_without_its_token_is_refused_and_changes_nothing(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await root.get("/dashboard")
    before = state(site)
    wrong = []
    for page in PAGES:
        if page.method != "POST":
            continue
        for token, origin in (("", None), ("0" * 40, None), (None, "http://evil.example")):
            seen = await root.send(filled(page.path), token=token, origin=origin, follow=False)
            if seen.status != 403:
                wrong.append(f"{page.path}: {seen.status}")
    assert not wrong
    assert state(site) == before


async def test_the_dashboard_can_be_switched_off(tmp_path: Path) -> None:
    async with web_site(tmp_path, "[dashboard]\nenabled = false") as site:
        visitor = site.visitor()
        for path in ("/dashboard", "/dashboard/sign-in", "/docs"):
            assert (await visitor.get(path)).status == 404
        seen = await visitor.get("/", headers={"Accept": "text/html"}, follow=False)
        assert seen.status == 200
