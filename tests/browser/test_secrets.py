"""What no page and no address has: keys, codes, tokens, passwords and their hashes."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from browser_site import ADMIN, PASSWORD, USER, BrowserSite
from chromium import Desk
from client_site import process
from playwright.sync_api import expect
from test_every_page import ADDRESSES, pages

GUARDS = {
    "content-security-policy": r"default-src 'none'; script-src 'nonce-[\w-]{20,}'; .*"
    r"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_TOKEN = re.compile(r'name="csrf" value="([0-9a-f]+)"')


_OVER_TLS = """
[server]
port = 0
tls_cert = "{directory}/cert.pem"
tls_key = "{directory}/key.pem"
[store]
path = "{directory}/gateway.db"
[providers.demo]
format = "all"
base_url = "builtin:demo"
"""


@pytest.fixture
def https(tmp_path: Path) -> Iterator[str]:
    """The address of a gateway that speaks TLS."""
    made = trustme.CA().issue_cert("127.0.0.1")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    for pem in made.cert_chain_pems:
        pem.write_to_path(tmp_path / "cert.pem", append=True)
    (tmp_path / "config.toml").write_text(_OVER_TLS.format(directory=tmp_path))
    with process(tmp_path, "gateway", ["gateway", "serve", "--config", "config.toml"]) as url:
        yield url


def client(site: BrowserSite) -> httpx.Client:
    return httpx.Client(base_url=site.url, trust_env=False, timeout=30)


def send(one: httpx.Client, path: str, at: str | None = None, **fields: str) -> httpx.Response:
    """A form of the page at `at`, which is the one that it is sent to where nothing is said."""
    found = _TOKEN.search(one.get(at or path).text)
    assert found
    origin = {"origin": str(one.base_url).rstrip("/")}
    return one.post(path, data={"csrf": found[1], **fields}, headers=origin)


def sign_in(one: httpx.Client, who: str) -> str:
    """The text of the new session's cookie."""
    answer = send(one, "/dashboard/sign-in", email=f"{who}@example.org", password=PASSWORD)
    assert answer.status_code == 303
    return one.cookies["gateway_session"]


def test_no_page_and_no_address_has_a_secret(desk: Desk) -> None:
    site = desk.site
    key_page = desk.visitor(USER)
    key_page.goto("/dashboard/keys")
    key_page.get_by_label("Name").fill("canary")
    key_page.get_by_role("button", name="Create key").click()
    key_page.wait_for_url("**/created")
    # The one page that shows it, once.
    key = key_page.get_by_label("API key").input_value()
    site.secrets.add(key)
    assert key in key_page.content()
    key_page.reload()
    assert key not in key_page.content()

    site.call(key, "basic", f"my password is {PASSWORD}")
    site.ask("POST", "/providers/openai/keys", key="sk-canary-that-an-admin-adds")
    site.secrets.add("sk-canary-that-an-admin-adds")
    secrets = site.secrets | hashes(site)
    assert any(one.startswith("$argon2") for one in secrets)
    assert len(secrets) > 30
    shown = []
    for who in ("anyone", "user", "admin"):
        with client(site) as one:
            if who != "anyone":
                sign_in(one, USER if who == "user" else ADMIN)
            for path, page in pages().items():
                if page.who != who and path != "/docs":
                    continue
                text = one.get(ADDRESSES[path](site) if path in ADDRESSES else path).text
                shown += [f"{path}: {secret[:12]}…" for secret in secrets if secret in text]
    assert not shown
    assert not [one for one in desk.asked if any(secret in one for secret in secrets)]
    # No cookie is for scripts.
    assert key_page.evaluate("document.cookie") == ""
    log = (site.directory / "gateway.log").read_text()
    assert not [secret for secret in secrets if secret in log]


def hashes(site: BrowserSite) -> set[str]:
    """What the store keeps of passwords, keys, codes, sessions and links."""
    found = set()
    for name in ("passwords", "keys", "codes", "sessions", "sign_in_links", "provider_keys"):
        for value in (value for row in site.store()[name] for value in row):
            if isinstance(value, bytes) and len(value) >= 16:
                found.add(value.hex())
            elif isinstance(value, str) and re.match(r"\$argon2|[0-9a-f]{32}", value):
                found.add(value)
    return found


def test_what_is_shown_once_is_in_no_history(desk: Desk) -> None:
    page = desk.visitor(ADMIN)
    page.goto("/dashboard/admin/codes")
    page.get_by_label("Worth, in US dollars").fill("3")
    page.get_by_role("button", name="Make codes").click()
    code = page.get_by_label("Shown once").input_value()
    page.goto("/dashboard/admin/users")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Redemption codes")
    assert code not in page.content()


def test_a_session_is_a_cookie_that_only_this_server_gets_and_no_script_reads(
    site: BrowserSite,
) -> None:
    with client(site) as one:
        answer = send(one, "/dashboard/sign-in", email=f"{USER}@example.org", password=PASSWORD)
    set_by = answer.headers["set-cookie"]
    for flag in ("HttpOnly", "SameSite=Strict", "Path=/"):
        assert flag in set_by
    assert "Domain" not in set_by
    assert re.search(r"Max-Age=\d+", set_by)


def test_over_tls_cookies_are_bound_to_the_host(desk: Desk, https: str) -> None:
    page = desk.visitor(base_url=https, ignore_https_errors=True)
    page.goto("/dashboard/sign-in")
    page.get_by_label("E-mail").fill(f"{ADMIN}@example.org")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    cookies = page.context.cookies()
    assert [one["name"] for one in cookies] == ["__Host-gateway_visit"]
    assert all(one["secure"] and one["httpOnly"] for one in cookies)
    assert {one["sameSite"] for one in cookies} == {"Strict"}
    assert not [one for one in desk.asked if not one.startswith(https)]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/dashboard/sign-in", 200),
        ("GET", "/docs", 200),
        ("GET", "/dashboard", 303),
        ("GET", "/dashboard/nothing", 404),
        ("GET", "/docs/nothing", 404),
        ("POST", "/dashboard/sign-in", 403),
        ("POST", "/dashboard/keys", 401),
        ("GET", "/dashboard/receipts/none", 303),
    ],
)
def test_every_answer_is_guarded(site: BrowserSite, method: str, path: str, status: int) -> None:
    with client(site) as one:
        body = b"csrf=none" if method == "POST" else None
        fields = {"content-type": "application/x-www-form-urlencoded"} if body else {}
        answer = one.request(method, path, content=body, headers=fields)
    assert answer.status_code == status
    for name, wanted in GUARDS.items():
        assert re.fullmatch(wanted, answer.headers[name]), f"{name}: {answer.headers[name]}"


def test_every_answer_has_a_nonce_of_its_own(site: BrowserSite) -> None:
    with client(site) as one:
        nonces = {
            re.search(r"nonce-([\w-]+)", one.get("/docs").headers["content-security-policy"])[1]  # type: ignore[index]
            for _ in range(5)
        }
    assert len(nonces) == 5


def test_a_sign_in_makes_a_new_session_and_forms_of_the_old_one_are_void(
    site: BrowserSite,
) -> None:
    with client(site) as one:
        first = sign_in(one, USER)
        old = _TOKEN.search(one.get("/dashboard/keys").text)
        assert old
        one.cookies.delete("gateway_session")
        assert sign_in(one, USER) != first
        answer = one.post("/dashboard/keys", data={"csrf": old[1]}, headers={"origin": site.url})
    assert answer.status_code == 403
