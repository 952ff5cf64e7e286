"""What people do with the pages, from the first link to the last refusal."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
import pytest
from browser_site import ADMIN, PASSWORD, USER, BrowserSite
from chromium import Desk
from playwright.sync_api import Page, expect

ATTEMPTS_MAX = 10
"""Wrong passwords for one e-mail until it is refused for a while."""


def heading(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def client(site: BrowserSite, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{site.url}/v1", api_key=key, max_retries=0, timeout=20)


def say_hello(site: BrowserSite, key: str, model: str = "basic") -> str:
    """One call through the SDK; the id of its receipt."""
    with client(site, key) as sdk:
        answer = sdk.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": "Say hello"}], max_tokens=50
        )
        assert answer.parse().choices[0].message.content
    return str(answer.headers["x-badgr-receipt-id"])


# --- coming and going -------------------------------------------------------------------------


def test_a_one_time_link_leads_to_a_password_and_the_overview(desk: Desk) -> None:
    desk.site.ask("POST", "/users", name="lin", email="lin@example.org")
    link = desk.site.link("lin")
    page = desk.visitor()
    page.goto(link["path"])
    # Read from the address by the page, and taken out of it.
    expect(page.get_by_label("One-time token")).to_have_value(link["token"])
    assert link["token"] not in page.url
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Set password and sign in").click()
    page.wait_for_url("**/dashboard")
    heading(page, "Overview")

    again = desk.visitor()
    again.goto(link["path"])
    again.get_by_label("Password", exact=True).fill("another password")
    again.get_by_label("Password again").fill("another password")
    again.get_by_role("button", name="Set password and sign in").click()
    expect(again.get_by_role("alert").or_(again.locator(".hint.error"))).to_be_visible()
    heading(again, "Choose a password")
    assert not any(link["token"] in address.partition("#")[0] for address in desk.asked)


def test_wrong_passwords_are_limited_and_the_right_one_too_then(desk: Desk) -> None:
    desk.site.user("wrong")
    page = desk.visitor()
    page.goto("/dashboard/sign-in")
    token = page.locator("input[name=csrf]").first.input_value()
    fields: dict[str, str | float | bool]
    fields = {"csrf": token, "email": "wrong@example.org", "password": "not the password"}
    for _ in range(ATTEMPTS_MAX - 1):
        sent = page.request.post(
            "/dashboard/sign-in", form=fields, headers={"origin": desk.site.url}
        )
        assert sent.status == 401
    desk.sign_in(page, "wrong", "not the password")
    expect(page.get_by_role("alert")).not_to_contain_text(re.compile("again in", re.I))
    desk.sign_in(page, "wrong")
    expect(page.get_by_role("alert")).to_contain_text(re.compile("again in", re.I))
    heading(page, "Sign in")
    # Another's door stays open.
    desk.site.user("right")
    desk.sign_in(page, "right")
    heading(page, "Overview")


def test_signing_out_ends_the_session_on_the_server(desk: Desk) -> None:
    desk.site.user("leaver")
    page = desk.visitor()
    desk.sign_in(page, "leaver")
    page.wait_for_url("**/dashboard")
    kept = {one["name"]: one["value"] for one in page.context.cookies()}
    assert httpx.get(f"{desk.site.url}/dashboard", cookies=kept).status_code == 200
    page.get_by_role("button", name="Sign out").click()
    heading(page, "Sign in")
    assert "gateway_session" not in {one["name"] for one in page.context.cookies()}
    page.go_back()
    heading(page, "Sign in")
    answer = httpx.get(f"{desk.site.url}/dashboard", cookies=kept)
    assert (answer.status_code, answer.headers["location"]) == (
        303, "/dashboard/sign-in?next=/dashboard"
    )  # fmt: skip


def test_who_is_suspended_sees_why_their_calls_are_refused(desk: Desk) -> None:
    desk.site.user("sus")
    key = desk.site.key("sus")
    page = desk.visitor()
    desk.sign_in(page, "sus")
    page.wait_for_url("**/dashboard")
    desk.accept_dialogs = True
    admin = desk.visitor(ADMIN)
    admin.goto("/dashboard/admin/users?q=sus@")
    admin.get_by_role("link", name="sus", exact=True).click()
    admin.get_by_role("button", name="Suspend").click()
    expect(admin.get_by_role("heading", level=1)).to_contain_text("suspended")
    with client(desk.site, key) as sdk, pytest.raises(openai.AuthenticationError):
        sdk.models.list()
    for path in ("/dashboard", "/dashboard/keys", "/dashboard/receipts"):
        page.goto(path)
        expect(page.get_by_role("alert")).to_contain_text("This account is suspended")
    admin.get_by_role("button", name="Resume").click()
    expect(admin.get_by_role("button", name="Suspend")).to_be_visible()
    page.reload()
    expect(page.get_by_text("This account is suspended")).to_have_count(0)
    say_hello(desk.site, key)


# --- keys and receipts ------------------------------------------------------------------------


def test_a_key_is_made_used_seen_in_receipts_and_revoked(desk: Desk) -> None:
    site = desk.site
    site.user("maker")
    page = desk.visitor()
    desk.sign_in(page, "maker")
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("Name").fill("my program")
    page.get_by_label("Spending cap, US dollars").fill("2.50")
    page.get_by_role("button", name="Create key").click()
    page.wait_for_url("**/created")
    key = page.get_by_label("API key").input_value()
    site.secrets.add(key)
    expect(page.locator("pre").first).to_contain_text(key)

    receipt_id = say_hello(site, key)
    page.get_by_role("link", name="Receipts").click()
    row = page.get_by_role("row").filter(has_text="my program")
    expect(row).to_contain_text("succeeded")
    expect(row).to_contain_text("basic")
    row.get_by_role("link").click()
    page.wait_for_url(f"**/dashboard/receipts/{receipt_id}")
    receipt = site.ask("GET", f"/receipts/{receipt_id}")
    expect(page.get_by_text(receipt["integrity"]["hash"]).first).to_be_visible()
    expect(page.get_by_text(f"${receipt['cost']['amount']}").first).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("first byte|Answer", re.I))).to_be_visible()

    page.get_by_role("link", name="API keys").click()
    expect(page.get_by_role("row").filter(has_text="my program")).to_contain_text("of $2.50")
    desk.accept_dialogs = True
    page.get_by_role("button", name="Revoke my program").click()
    expect(page.get_by_role("status")).to_contain_text("Revoked my program")
    assert "cannot be taken back" in desk.dialogs[0]
    with client(site, key) as sdk, pytest.raises(openai.AuthenticationError) as refused:
        sdk.models.list()
    assert refused.value.status_code == 401
    # Shown once: its own page is gone, and no other has it.
    page.goto(page.url)
    assert key not in page.content()


def test_a_dialog_that_is_declined_revokes_nothing(desk: Desk) -> None:
    site = desk.site
    key = site.key(USER, name="not this one")
    page = desk.visitor(USER)
    page.goto("/dashboard/keys")
    page.get_by_role("button", name="Revoke not this one").click()
    assert desk.problems.pop().startswith("dialog: Revoke not this one?")
    say_hello(site, key)


def test_spending_and_holds_are_seen_while_a_call_runs(desk: Desk) -> None:
    site = desk.site
    site.user("spender", usd="3")
    key = site.key("spender", name="slow")
    with under_way(site, key):
        page = desk.visitor()
        desk.sign_in(page, "spender")
        held = page.locator(".tile").filter(has_text="Held for calls under way")
        expect(held.locator(".value")).not_to_have_text("$0.00")
        # What is held is not free: together they are the balance.
        user = site.ask("GET", "/users/spender")
        free = user["balance"]["nano_usd"] - user["held"]["nano_usd"]
        assert 0 < free < user["balance"]["nano_usd"]
        expect(held).to_contain_text(f"${free / 1e9:.9f}".rstrip("0"))
        page.get_by_role("link", name="Receipts").click()
        expect(page.get_by_role("region", name="Requests under way")).to_contain_text("demo+")
        admin = desk.visitor(ADMIN)
        admin.goto("/dashboard/admin/in-flight")
        expect(admin.locator("[data-live]")).to_contain_text("spender")
    expect(admin.locator("[data-live]")).not_to_contain_text("spender")
    page.goto("/dashboard")
    expect(held.locator(".value")).to_have_text("$0.00")
    spent = page.locator(".tile").filter(has_text="Spent today")
    expect(spent.locator(".value")).not_to_have_text("$0.00")


@contextmanager
def under_way(site: BrowserSite, key: str) -> Iterator[None]:
    """A streamed call that has begun and goes on until the end."""
    body = {
        "model": "demo+tokens=3000+pace=20", "stream": True, "max_tokens": 3000,
        "messages": [{"role": "user", "content": "Tell me all"}],
    }  # fmt: skip
    headers = {"authorization": f"Bearer {key}"}
    with site.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        # Kept: an iterator that is forgotten closes the answer.
        pieces = answer.iter_raw()
        next(pieces)
        yield


# --- what admins do ---------------------------------------------------------------------------


def test_a_provider_that_is_paused_answers_429_until_it_is_resumed(desk: Desk) -> None:
    site = desk.site
    key = site.key(USER, name="paused")
    desk.accept_dialogs = True
    page = desk.visitor(ADMIN)
    page.goto("/dashboard/admin/providers")
    page.get_by_role("link", name="google").click()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    try:
        with client(site, key) as sdk, pytest.raises(openai.RateLimitError) as refused:
            sdk.chat.completions.create(
                model="gemini-2.5-flash", messages=[{"role": "user", "content": "Hello"}]
            )
        assert refused.value.code == "provider_paused"
        assert "google is paused" in refused.value.message
    finally:
        page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    say_hello(site, key, "gemini-2.5-flash")


def test_a_code_is_redeemed_once(desk: Desk) -> None:
    site = desk.site
    site.user("first", usd="0")
    site.user("second", usd="0")
    admin = desk.visitor(ADMIN)
    admin.goto("/dashboard/admin/codes")
    admin.get_by_label("Worth, in US dollars").fill("7.25")
    admin.get_by_role("button", name="Make codes").click()
    found = re.search(r"code-[0-9A-Za-z]{16,}", admin.content())
    assert found
    site.secrets.add(found[0])

    page = desk.visitor()
    desk.sign_in(page, "first")
    page.get_by_role("link", name="Top up").first.click()
    page.get_by_role("textbox", name="Code").fill(found[0])
    page.get_by_role("button", name="Redeem").click()
    expect(page.get_by_role("status")).to_contain_text("$7.25 added")
    page.get_by_role("textbox", name="Code").fill(found[0])
    page.get_by_role("button", name="Redeem").click()
    expect(page.locator(".hint.error")).to_contain_text("redeemed")

    other = desk.visitor()
    desk.sign_in(other, "second")
    other.goto("/dashboard/top-up")
    other.get_by_role("textbox", name="Code").fill(found[0])
    other.get_by_role("button", name="Redeem").click()
    expect(other.locator(".hint.error")).to_contain_text("redeemed")
    balances = [site.ask("GET", f"/users/{name}")["balance"] for name in ("first", "second")]
    assert [one["nano_usd"] for one in balances] == [7_250_000_000, 0]


def test_a_cap_that_a_user_sets_binds_the_next_call(desk: Desk) -> None:
    site = desk.site
    site.user("careful")
    key = site.key("careful")
    page = desk.visitor()
    desk.sign_in(page, "careful")
    page.get_by_role("link", name="Models").click()
    page.get_by_label("Find").fill("gpt-4o-mini")
    page.get_by_role("link", name="Set the cap of gpt-4o-mini", exact=True).click()
    amount = page.get_by_label("The most that a call of gpt-4o-mini may cost, US dollars")
    amount.fill("0.0005")
    amount.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("gpt-4o-mini may cost $0.0005 at most")
    refused = site.call(key, "gpt-4o-mini", max_tokens=4000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "call_cap_exceeded")
    # Without one of its own the call gets the answer that fits.
    fitted = site.call(key, "gpt-4o-mini", max_tokens=None)
    assert fitted.status_code == 200, fitted.text

    page.get_by_label("Find").fill("gpt-4o-mini")
    page.get_by_role("link", name="Change the cap of gpt-4o-mini", exact=True).click()
    amount.fill("")
    amount.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("what they cost again")
    assert site.call(key, "gpt-4o-mini", max_tokens=4000).status_code == 200


# --- in other ways ----------------------------------------------------------------------------


def test_signing_in_and_making_a_key_work_by_keyboard_alone(desk: Desk) -> None:
    page = desk.visitor()
    page.goto("/dashboard/sign-in")
    # The first field has the keyboard already.
    page.keyboard.type(f"{USER}@example.org")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    step_to(page, "API keys")
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard/keys")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    step_to(page, "Name")
    page.keyboard.type("typed")
    page.keyboard.press("Enter")
    page.wait_for_url("**/created")
    say_hello(desk.site, page.get_by_label("API key").input_value())
    # A group of tabs is one stop; arrows go through it.
    step_to(page, "curl")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Python")).to_be_focused()
    expect(page.get_by_role("tabpanel")).to_contain_text("from openai import OpenAI")
    step_to(page, "Done, I have copied it")
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard/keys")


def step_to(page: Page, name: str, steps: int = 60) -> None:
    """Press Tab until what is called so has the keyboard, and can be seen to have it."""
    for _ in range(steps):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
              const one = document.activeElement;
              const label = one.labels && one.labels.length ? one.labels[0].textContent : "";
              const ring = getComputedStyle(one);
              return [label || one.textContent, ring.outlineStyle, ring.outlineWidth];
            }"""
        )
        if found[0].strip() == name:
            assert found[1] != "none", f"nothing shows that {name} has the keyboard"
            assert found[2] != "0px"
            return
    raise AssertionError(f"{name} is not reached by Tab")


def test_the_main_path_works_without_scripts(desk: Desk) -> None:
    site = desk.site
    site.user("plain")
    page = desk.visitor(scripts=False, width=390)
    desk.sign_in(page, "plain")
    heading(page, "Overview")
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("Name").fill("no scripts")
    page.get_by_role("button", name="Create key").click()
    key = page.get_by_label("API key").input_value()
    receipt_id = say_hello(site, key)
    page.get_by_role("link", name="Receipts").click()
    page.get_by_role("row").filter(has_text="no scripts").get_by_role("link").click()
    heading(page, receipt_id)
    page.get_by_role("link", name="Models").click()
    page.get_by_label("Find").fill("gpt-4o-mini")
    page.get_by_role("button", name="Find").click()
    page.get_by_role("link", name="Set the cap of gpt-4o-mini", exact=True).click()
    page.get_by_label("The most that a call of gpt-4o-mini may cost, US dollars").fill("1")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("$1.00 at most")
    page.get_by_role("link", name="API keys").click()
    page.get_by_role("button", name="Revoke no scripts").click()
    expect(page.get_by_role("status")).to_contain_text("Revoked")
    assert site.call(key, "basic").status_code == 401
    page.get_by_role("button", name="Sign out").click()
    heading(page, "Sign in")
