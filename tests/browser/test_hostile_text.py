"""Whatever a client can set, set to forty payloads; then every page is opened in the browser.

Clients set model names, user agents, bodies, names of keys and users, e-mails, queries and paths;
providers set error texts, request ids and the model that answered; admins set addresses, reasons
and what models cost. Pages show all of it, as text.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, urlencode

import browser_site
import httpx
import orjson
import pytest
from browser_site import ADMIN, PASSWORD, USER, BrowserSite
from chromium import Chromium, Desk
from client_site import ADMIN_TOKEN
from payloads import HOSTILE, PAYLOADS, WATCH, injected
from playwright.sync_api import Page, expect
from test_every_page import ADDRESSES, pages

SHORT = 64
STORED_MIN = 20
"""Of each kind of field: the others were refused, as they may be."""

_QUERY = (
    "q", "cap", "id", "status", "model", "key", "provider", "error", "user", "since", "until",
    "before", "after", "given_below", "above", "next", "name", "changed",
)  # fmt: skip


class _Echo(BaseHTTPRequestHandler):
    """A provider that says what it was told, wherever a provider says something."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        said = asked["messages"][0]["content"]
        fails = asked.get("seed") == 1
        if fails:
            answer: dict[str, Any] = {
                "error": {"message": said, "type": said, "param": said, "code": said}
            }
        else:
            message = {"role": "assistant", "content": said}
            answer = {
                "id": said, "object": "chat.completion", "created": 1, "model": said,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
                "service_tier": said, "system_fingerprint": said,
            }  # fmt: skip
        body = orjson.dumps(answer)
        self.send_response(400 if fails else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", said.encode("ascii", "ignore").decode())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def echoing() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def hostile(browser: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserSite]:
    """A site on which everything that can be is a payload."""
    with echoing() as url:
        more = f"""
[providers.echo]
format = "openai"
base_url = "{url}"
keys = ["sk-of-the-echo"]
catalog = "openai"
"""
        with browser_site.serving(tmp_path_factory.mktemp("hostile"), more=more) as site:
            stored = {"calls": _calls(site), **_settings(site)}
            assert {name: count for name, count in stored.items() if count < STORED_MIN} == {}
            yield site


@pytest.fixture
def desk(browser: Chromium, hostile: BrowserSite) -> Iterator[Desk]:
    made = Desk(browser, hostile, {})
    try:
        yield made
    finally:
        browser.run(made.close)
    assert not made.problems


def _calls(site: BrowserSite) -> int:
    """Calls by USER whose every word is a payload; how many left a receipt."""
    key = site.key(USER, name=PAYLOADS[0])
    for payload in PAYLOADS:
        fields = {"user-agent": payload.encode(), "x-stainless-lang": payload.encode()}
        more: dict[str, Any] = {"user": payload, "metadata": {payload: payload}, "headers": fields}
        assert site.call(key, payload, payload, **more).status_code in (400, 404)
        assert site.call(key, "echo/gpt-4o-mini", payload, seed=1, **more).status_code == 400
        assert site.call(key, "echo/gpt-4o-mini", payload, **more).status_code == 200
        # With a key of one's own the name goes to the provider, whatever it is.
        assert site.call("sk-of-mine", payload, payload, **more).status_code == 200
    return sum(
        one["request"]["model"] in PAYLOADS
        for status in ("failed", "succeeded")
        for one in site.ask("GET", f"/receipts?status={status}&limit=100")["data"]
    )


def _settings(site: BrowserSite) -> dict[str, int]:
    """Everything that the admin API takes, as payloads; how many of each it took."""

    def took(method: str, path: str, **arguments: object) -> bool:
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        answer = site.http.request(method, f"/admin/v1{path}", headers=headers, json=arguments)
        assert answer.status_code < 500, answer.text
        return answer.status_code == 200

    stored = dict.fromkeys(("users", "emails", "keys", "reasons", "caps", "models", "secrets"), 0)
    for number, payload in enumerate(PAYLOADS):
        short = payload[:SHORT].strip()
        tight = payload.replace(" ", "/").replace("@", "")
        stored["users"] += took("POST", "/users", name=short)
        took("POST", "/users", name=f"e{number}")
        stored["emails"] += took("PATCH", f"/users/e{number}", email=f"{tight}@example.org")
        stored["keys"] += took("POST", "/keys", user=USER, name=short, models=[payload])
        stored["reasons"] += took(
            "POST", f"/users/{USER}/corrections", amount="0.01", reason=payload
        )
        stored["caps"] += took("POST", f"/users/{USER}/caps", model=payload, amount="1")
        path = quote(tight, safe="")
        stored["models"] += took("PUT", f"/models/openai/{path}", multiplier="1.1")
        stored["secrets"] += took("POST", "/providers/echo/keys", key=tight.ljust(20, "x"))
        took(
            "PUT", f"/providers/p{number}", format="openai", catalog=payload,
            base_url=f"https://example.com/{tight}",
        )  # fmt: skip
    return stored


def visitor(desk: Desk, who: str | None) -> Page:
    page = desk.visitor(who)
    page.context.add_init_script(WATCH)
    return page


def harmless(desk: Desk, page: Page) -> None:
    """Nothing that was set became part of the page that is open."""
    assert page.evaluate(HOSTILE) == [], page.url
    assert not desk.problems, page.url
    assert not desk.dialogs, page.url


def test_every_page_shows_payloads_as_text(desk: Desk) -> None:
    visitors = {who: visitor(desk, who) for who in (None, USER, ADMIN)}
    for number, (path, page) in enumerate(pages().items()):
        # What the documentation says nobody can set, but for the models and the address.
        if path.endswith("/created") or (path.startswith("/docs/") and path != "/docs/pricing"):
            continue
        address = ADDRESSES[path](desk.site) if path in ADDRESSES else path
        who = {"anyone": None, "user": USER, "admin": ADMIN}[page.who]
        # What was stored, and then what the address says on top.
        query = [(one, PAYLOADS[(number + at) % 40]) for at, one in enumerate(_QUERY)]
        sign = "&" if "?" in address else "?"
        for one in (address, f"{address}{sign}{urlencode(query)}"):
            visitors[who].goto(one)
            harmless(desk, visitors[who])


def test_every_receipt_shows_payloads_as_text(desk: Desk) -> None:
    page = visitor(desk, ADMIN)
    kinds = [desk.site.ask("GET", f"/receipts?status={one}&limit=60")["data"]
             for one in ("failed", "succeeded")]  # fmt: skip
    for receipt in [one for kind in kinds for one in kind[::3]]:
        page.goto(f"/dashboard/admin/receipts/{receipt['id']}")
        page.locator("summary").last.click()
        harmless(desk, page)
    # As text it is there.
    page.goto("/dashboard/admin/receipts?model=" + quote(PAYLOADS[2]))
    expect(page.get_by_text(PAYLOADS[2]).first).to_be_visible()
    harmless(desk, page)


def test_the_pages_of_keys_users_and_providers_show_payloads_as_text(desk: Desk) -> None:
    page = visitor(desk, ADMIN)
    user_ids = [one["id"] for one in desk.site.ask("GET", "/users")["data"]][-12:]
    key_ids = [one["id"] for one in desk.site.ask("GET", f"/keys?user={USER}")["data"]][-12:]
    page.goto("/dashboard/admin/users")
    for address in (
        *(f"/dashboard/admin/users/{one}" for one in user_ids),
        *(f"/dashboard/admin/keys/{one}" for one in key_ids),
        "/dashboard/admin/providers/echo",
        f"/dashboard/admin/models/one?{urlencode({'provider': 'openai', 'model': PAYLOADS[0]})}",
    ):
        page.goto(address)
        harmless(desk, page)
    # A notice that names it, and a question before.
    page = visitor(desk, USER)
    page.goto("/dashboard/keys")
    desk.accept_dialogs = True
    page.get_by_role("button", name=f"Revoke {PAYLOADS[2]}", exact=True).first.click()
    expect(page.get_by_role("status")).to_contain_text(f"Revoked {PAYLOADS[2]}")
    assert PAYLOADS[2] in desk.dialogs.pop()
    harmless(desk, page)


def test_requests_in_flight_are_shown_as_text_by_the_script_too(desk: Desk) -> None:
    page = visitor(desk, ADMIN)
    model = f"{PAYLOADS[2]}+tokens=3000+pace=20"
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": PAYLOADS[3]}]}
    headers = {"authorization": "Bearer sk-of-mine"}
    calling = desk.site.http.stream("POST", "/v1/chat/completions", json=body, headers=headers)
    with calling as answer:
        assert answer.status_code == 200
        page.goto("/dashboard/admin/in-flight")
        expect(page.locator("[data-live]")).to_contain_text(PAYLOADS[2])
        with page.expect_response("**/in-flight/rows"):
            pass
        expect(page.locator("[data-live]")).to_contain_text(PAYLOADS[2])
        harmless(desk, page)


def test_forms_give_back_what_was_typed_as_text(desk: Desk) -> None:
    """Every form with a field for text, filled with all payloads at once, in every field."""
    sent = 0
    for who in (None, USER, ADMIN):
        page = visitor(desk, who)
        for path in [path for path, one in pages().items() if one.who == _who(who)]:
            if path.endswith("/created") or path.startswith("/docs"):
                continue
            address = ADDRESSES[path](desk.site) if path in ADDRESSES else path
            page.goto(address)
            count = page.evaluate(_FORMS)
            for number in range(count):
                page.goto(address)
                with page.expect_navigation():
                    page.evaluate(_FILL, [number, "".join(PAYLOADS)])
                harmless(desk, page)
                sent += 1
    assert sent >= 20


def _who(who: str | None) -> str:
    return {None: "anyone", USER: "user", ADMIN: "admin"}[who]


# Not what ends the session, nor what a row's buttons do: they have nothing to type into.
_FORMS = """
() => [...document.querySelectorAll('form[method="post"]')].filter((form) =>
  [...form.elements].some((one) => /^(text|email|password|search|url|number|date|textarea)$/
    .test(one.type))).length
"""
_FILL = """
([number, text]) => {
  const typed = /^(text|email|password|search|url|number|date|textarea)$/;
  const form = [...document.querySelectorAll('form[method="post"]')].filter((form) =>
    [...form.elements].some((one) => typed.test(one.type)))[number];
  for (const one of form.elements) {
    if (!typed.test(one.type)) continue;
    if (one.type !== "textarea") one.type = "text";
    one.removeAttribute("maxlength");
    one.value = text;
  }
  HTMLFormElement.prototype.submit.call(form);
}
"""


def test_no_payload_in_a_query_or_path_is_part_of_any_page(hostile: BrowserSite) -> None:
    """All forty in every place of every address, read without a browser."""
    wrong = []
    for who in (None, USER, ADMIN):
        with httpx.Client(base_url=hostile.url, trust_env=False, timeout=30) as client:
            if who is not None:
                sign_in(client, who)
            for path, page in pages().items():
                if page.who != _who(who) or path.startswith("/docs/"):
                    continue
                for number in range(0, 40, 8):
                    query = {one: PAYLOADS[(number + at) % 40] for at, one in enumerate(_QUERY)}
                    strange = path.replace("{id}", quote(PAYLOADS[number], safe="")).replace(
                        "{name}", quote(PAYLOADS[number], safe="")
                    )
                    answer = client.get(strange, params=query)
                    assert answer.status_code < 500, answer.url
                    wrong += [f"{answer.url}: {one}" for one in injected(answer.text)]
    assert not wrong


def test_what_reads_pages_without_a_browser_finds_what_was_injected() -> None:
    page = '<p title="{}">{}</p>'
    found = [one for one in PAYLOADS if injected(page.format(one, one))]
    assert len(found) >= 26
    assert not injected(page.format("plain", "5 &lt; 6"))


def sign_in(client: httpx.Client, who: str) -> None:
    form = client.get("/dashboard/sign-in").text
    token = form.partition('name="csrf" value="')[2].partition('"')[0]
    fields = {"csrf": token, "email": f"{who}@example.org", "password": PASSWORD}
    origin = {"origin": str(client.base_url).rstrip("/")}
    assert client.post("/dashboard/sign-in", data=fields, headers=origin).status_code == 303
