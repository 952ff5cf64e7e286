"""Other sites try to send our forms in a visitor's name, from a real browser.

The attacker's pages lie on another port of this host, which browsers count as the same site, so
that cookies go along, and on another name of it, which is another site. The victim is an admin who
is signed in. What the store holds is compared before and after. That the same forms work from our
own pages is what `test_using_it.py` shows.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from string import Template
from typing import NamedTuple

import httpx
import pytest
from browser_site import ADMIN, PASSWORD, USER, BrowserSite
from chromium import Desk
from playwright.sync_api import Page

Given = dict[str, str]


class Attack(NamedTuple):
    """`page` is the attacker's, with `$site`, `$valid` (the victim's own token of the moment) and
    other tokens in it; `status` is what the gateway answers, None where nothing gets there."""

    page: str
    status: int | None = 403
    same_site: bool = True
    cookies: tuple[str, ...] = ()


FORM = """
<form id=f method=post action="$site/dashboard/keys" %s>
<input name=csrf value="%s"><input name=name value=forged></form>
<script>document.getElementById("f").submit()</script>
"""
SCRIPT = """
<script>
(async () => {
  try { %s } catch (refused) {}
  document.title = "done";
})();
</script>
"""
BODY = 'new URLSearchParams({csrf: "$valid", name: "forged"})'


def form(token: str, attributes: str = "") -> str:
    return FORM % (attributes, token)


def posted(options: str, path: str = "/dashboard/keys") -> str:
    return SCRIPT % f'await fetch("$site{path}", {{method: "POST", {options}}});'


ATTACKS: dict[str, Attack] = {
    "a form without a token": Attack(form("")),
    "a form with a made-up token": Attack(form("0" * 40)),
    "a form with the token of another session": Attack(form("$foreign")),
    "a form with the token of a session that ended": Attack(form("$stale")),
    "a form with the token of a visitor without session": Attack(form("$visit")),
    # Even a token that leaked is worth nothing elsewhere.
    "a form with the victim's own token": Attack(form("$valid")),
    "a form with the victim's own token, of another site": Attack(
        form("$valid"), status=401, same_site=False
    ),
    "a form whose page hides where it is from": Attack(
        "<meta name=referrer content=no-referrer>" + form("$valid")
    ),
    "a form in a frame that is of no origin": Attack(
        '<iframe sandbox="allow-forms allow-scripts" srcdoc="'
        + form("$valid").replace('"', "&quot;") + '"></iframe>' + """
<script>
let soon = setTimeout(end, 1500);
function end() { document.title = "done"; }
document.querySelector("iframe").addEventListener("load", () => {
  clearTimeout(soon);
  soon = setTimeout(end, 700);
});
</script>""",
        status=None,
    ),
    "a form that opens a window": Attack(form("$valid", "target=other")),
    "a form as plain text": Attack(form("$valid", "enctype=text/plain"), status=400),
    "a form in parts": Attack(form("$valid", "enctype=multipart/form-data"), status=400),
    "a form that is a query": Attack(
        form("$valid").replace("method=post", "method=get"), status=200
    ),
    "a form that overrides its method": Attack(
        form("$valid").replace("/dashboard/keys", "/dashboard/keys?_method=POST")
        .replace("method=post", "method=get"), status=200,
    ),
    "a request whose answer nobody reads": Attack(
        posted(f'mode: "no-cors", credentials: "include", body: {BODY}')
    ),
    "a request that asks for the answer": Attack(
        posted(f'credentials: "include", body: {BODY}')
    ),
    "a request that asks for the answer, of another site": Attack(
        posted(f'mode: "no-cors", credentials: "include", body: {BODY}'),
        status=401, same_site=False,
    ),
    "a request with JSON as text": Attack(
        posted(
            'mode: "no-cors", credentials: "include", body: JSON.stringify({name: "forged"}),'
            ' headers: {"content-type": "text/plain"}'
        ), status=400,
    ),
    "a request with JSON": Attack(
        posted(
            'credentials: "include", body: JSON.stringify({name: "forged", csrf: "$valid"}),'
            ' headers: {"content-type": "application/json"}'
        ), status=None,
    ),
    "a request that overrides its method": Attack(
        posted(
            f'credentials: "include", body: {BODY}, headers: {{"x-http-method-override": "PUT"}}'
        ), status=None,
    ),
    "a request that deletes": Attack(
        SCRIPT % 'await fetch("$site/dashboard/keys", {method: "DELETE", credentials: "include"});',
        status=None,
    ),
    "a request to the admin API": Attack(
        posted(
            'mode: "no-cors", credentials: "include", body: JSON.stringify({name: "forged"})',
            "/admin/v1/users",
        ), status=401,
    ),
    "a beacon": Attack(
        SCRIPT % f'navigator.sendBeacon("$site/dashboard/keys", {BODY});'
        'await new Promise((done) => setTimeout(done, 300));'
    ),
    "an old request": Attack(
        SCRIPT % 'await new Promise((done) => { const old = new XMLHttpRequest();'
        'old.open("POST", "$site/dashboard/keys"); old.withCredentials = true;'
        f'old.onloadend = done; old.send({BODY}); }});'
    ),
    "an admin's form": Attack(
        form("$valid").replace("/dashboard/keys", "/dashboard/admin/users/1/credit")
        .replace("name=name value=forged", "name=amount value=1000")
    ),
    "the form that signs out": Attack(
        form("$valid").replace("/dashboard/keys", "/dashboard/sign-out")
    ),
    "the form that signs out, of another site": Attack(
        form("$visit").replace("/dashboard/keys", "/dashboard/sign-out"), same_site=False
    ),
    # Cookies of a host are those of all its ports: here the attacker sets both halves.
    "the form that signs in, with a cookie and its token": Attack(
        form("$visit").replace("/dashboard/keys", "/dashboard/sign-in")
        .replace("name=name value=forged", 'name=email value="$email"')
        .replace("</form>", '<input name=password value="$password"></form>'),
        cookies=("gateway_visit=$visit_cookie; path=/dashboard/sign-in",
                 "gateway_session=; path=/dashboard/sign-in"),
    ),
    "an image and a link that is fetched ahead": Attack(
        '<img src="$site/dashboard/keys?name=forged&csrf=$valid">'
        '<link rel=prefetch href="$site/dashboard/sign-out?csrf=$valid">'
        + SCRIPT % 'await new Promise((done) => setTimeout(done, 300));',
        status=None,
    ),
}  # fmt: skip


class _Attacker(BaseHTTPRequestHandler):
    page = ""
    cookies: tuple[str, ...] = ()

    def do_GET(self) -> None:
        body = self.page.encode() if self.path == "/attack" else b""
        self.send_response(200 if body else 204)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        for cookie in self.cookies:
            self.send_header("set-cookie", cookie)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def attacker(page: str, cookies: tuple[str, ...]) -> Iterator[int]:
    """A server whose page it is; gives its port."""
    handler = type("Attacker", (_Attacker,), {"page": page, "cookies": cookies})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_TOKEN = re.compile(r'name="csrf" value="([0-9a-f]+)"')


def token_of(text: str) -> str:
    found = _TOKEN.search(text)
    assert found
    return found[1]


@pytest.fixture(scope="session")
def known(site: BrowserSite) -> Given:
    """What an attacker has who is a user here, and once saw a page of the victim's."""
    with httpx.Client(base_url=site.url, trust_env=False) as mine:
        visit = token_of(mine.get("/dashboard/sign-in").text)
        cookie = mine.cookies["gateway_visit"]
        foreign = _token_signed_in(mine, USER)
    with httpx.Client(base_url=site.url, trust_env=False) as theirs:
        stale = _token_signed_in(theirs, ADMIN)
        sent = theirs.post(
            "/dashboard/sign-out", data={"csrf": stale}, headers={"origin": site.url}
        )
        assert sent.status_code == 303
    return {
        "site": site.url, "visit": visit, "visit_cookie": cookie, "foreign": foreign,
        "stale": stale, "email": f"{USER}@example.org", "password": PASSWORD,
    }  # fmt: skip


def _token_signed_in(client: httpx.Client, who: str) -> str:
    token = token_of(client.get("/dashboard/sign-in").text)
    fields = {"csrf": token, "email": f"{who}@example.org", "password": PASSWORD}
    origin = {"origin": str(client.base_url).rstrip("/")}
    assert client.post("/dashboard/sign-in", data=fields, headers=origin).status_code == 303
    return token_of(client.get("/dashboard/settings").text)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_forged_form_changes_nothing(desk: Desk, known: Given, name: str) -> None:
    site, attack = desk.site, ATTACKS[name]
    page = desk.visitor(ADMIN)
    page.goto("/dashboard/settings")
    given = {**known, "valid": token_of(page.content())}
    before = site.store()
    cookies = tuple(Template(one).substitute(given) for one in attack.cookies)
    with attacker(Template(attack.page).substitute(given), cookies) as port:
        host = "127.0.0.1" if attack.same_site else "localhost"
        statuses = _fall_for_it(page, f"http://{host}:{port}/attack", attack)
    assert site.store() == before
    if attack.status is not None:
        assert attack.status in statuses
    # Nobody was signed out, or in as somebody else.
    page.goto(f"{site.url}/dashboard/settings")
    assert (
        page.get_by_text(f"{ADMIN}@example.org")
        .or_(page.locator(f'input[value="{ADMIN}@example.org"]'))
        .count()
    )
    desk.problems.clear()  # the attacker's own


def _fall_for_it(page: Page, address: str, attack: Attack) -> list[int]:
    """Open the attacker's page, and wait until it has tried; what it was answered."""
    # Answers that the browser keeps from the page are told here alone.
    statuses: list[int] = []
    wire = page.context.new_cdp_session(page)
    wire.send("Network.enable")
    wire.on("Network.responseReceivedExtraInfo", lambda one: statuses.append(one["statusCode"]))
    if "document.title" in attack.page:
        page.goto(address)
        page.wait_for_function("document.title === 'done'")
        for _ in range(20):
            if attack.status is None or attack.status in statuses:
                break
            page.wait_for_timeout(50)
        return statuses
    with page.context.expect_event(
        "response", lambda one: "/dashboard" in one.url and "/static/" not in one.url
    ) as event:
        page.goto(address, wait_until="commit")
    page.wait_for_load_state("networkidle")
    return [event.value.status]


def test_no_page_can_be_shown_in_a_frame_of_another_site(desk: Desk) -> None:
    page = desk.visitor(ADMIN)
    frames = "".join(
        f'<iframe src="{desk.site.url}{path}"></iframe>'
        for path in ("/dashboard", "/dashboard/keys", "/dashboard/sign-in", "/docs")
    )
    with attacker(frames, ()) as port:
        page.goto(f"http://127.0.0.1:{port}/attack")
        page.wait_for_load_state("networkidle")
        shown = [frame.url for frame in page.frames if frame is not page.main_frame]
    assert len(shown) == 4
    assert not [address for address in shown if address.startswith(desk.site.url)]
    refused = [one for one in desk.problems if "frame" in one.lower()]
    assert refused
    desk.problems.clear()
