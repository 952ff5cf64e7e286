"""What people do with the pages, from the first link to the last refusal."""

from browser_site import PASSWORD
from chromium import Desk
from playwright.sync_api import expect


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
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")

    again = desk.visitor()
    again.goto(link["path"])
    again.get_by_label("Password", exact=True).fill("another password")
    again.get_by_label("Password again").fill("another password")
    again.get_by_role("button", name="Set password and sign in").click()
    expect(again.get_by_role("heading", level=1)).to_have_text("Choose a password")
    assert not any(link["token"] in address.partition("#")[0] for address in desk.asked)
