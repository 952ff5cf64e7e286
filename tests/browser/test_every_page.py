"""Every page that there is, as it looks: in light and dark, on a screen and on a phone.

A page without anything in braces in its path is looked at because it is listed; another needs its
address in `ADDRESSES`. Where GATEWAY_SCREENSHOTS names a directory for pictures, they are taken, of
all ways to see it.
"""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from browser_site import ADMIN, USER, BrowserSite
from chromium import NARROW, WIDE, Desk
from playwright.sync_api import Page

from gateway.web.pages import PAGES

PICTURE_PX_MAX = 3200
"""Of a page's height: the list of models goes on like that."""

_WHO = {"anyone": None, "user": USER, "admin": ADMIN}

# Not a page of its own: what is looked at every second on the page of the same name.
PARTS = {"/dashboard/admin/in-flight/rows"}


def _receipts(site: BrowserSite, user: str, status: str) -> str:
    found = site.ask("GET", f"/receipts?user={user}&status={status}&limit=1")
    receipt_id: str = found["data"][0]["id"]
    return receipt_id


def _user(site: BrowserSite, name: str) -> int:
    number: int = site.ask("GET", f"/users/{name}")["id"]
    return number


def _key(site: BrowserSite) -> str:
    keys = site.ask("GET", f"/keys?user={USER}")["data"]
    key_id: str = next((one["id"] for one in keys if one["name"] == "notebook"), keys[-1]["id"])
    return key_id


ADDRESSES: dict[str, Callable[[BrowserSite], str]] = {
    "/dashboard/keys/{id}": lambda site: f"/dashboard/keys/{_key(site)}",
    "/dashboard/receipts/{id}": lambda site: (
        f"/dashboard/receipts/{_receipts(site, USER, 'succeeded')}"
    ),
    "/dashboard/admin/receipts/{id}": lambda site: (
        f"/dashboard/admin/receipts/{_receipts(site, USER, 'failed')}"
    ),
    "/dashboard/admin/users/{id}": lambda site: f"/dashboard/admin/users/{_user(site, USER)}",
    "/dashboard/admin/keys/{id}": lambda site: f"/dashboard/admin/keys/{_key(site)}",
    "/dashboard/admin/providers/{name}": lambda _: "/dashboard/admin/providers/openai",
    "/dashboard/admin/models/one": lambda _: (
        "/dashboard/admin/models/one?provider=openai&model=gpt-4o"
    ),
}

# What else these pages can look like: who looks, and at what.
OTHERS: dict[str, tuple[str | None, Callable[[BrowserSite], str]]] = {
    "nothing yet, overview": ("newcomer", lambda _: "/dashboard"),
    "nothing yet, keys": ("newcomer", lambda _: "/dashboard/keys"),
    "nothing yet, receipts": ("newcomer", lambda _: "/dashboard/receipts"),
    "nothing yet, top-up": ("newcomer", lambda _: "/dashboard/top-up"),
    "nothing but a refusal": ("refused", lambda _: "/dashboard"),
    "suspended": ("suspended", lambda _: "/dashboard"),
    "a cap being set": (USER, lambda _: "/dashboard/models?q=gpt-4o&cap=gpt-4o"),
    "receipts, none found": (USER, lambda _: "/dashboard/receipts?model=no-such-model"),
    "receipts, a wrong id": (USER, lambda _: "/dashboard/receipts?id=what"),
    "receipt, cancelled": (
        USER, lambda site: f"/dashboard/receipts/{_receipts(site, USER, 'cancelled')}"
    ),
    "paused provider": (ADMIN, lambda _: "/dashboard/admin/providers/moonshot"),
    "no such page": (None, lambda _: "/dashboard/nothing/here"),
    "not for users": (USER, lambda _: "/dashboard/admin"),
}  # fmt: skip

# Of a table that goes on and on, the rows after these are like those before.
AXE = """
async () => {
  const asked = { resultTypes: ["violations"] };
  const where = { include: [["html"]], exclude: [["tbody tr:nth-child(n+20)"]] };
  const { violations } = await axe.run(where, asked);
  return violations
    .filter((one) => one.impact === "serious" || one.impact === "critical")
    .map((one) => `${one.id} (${one.impact}): ${one.nodes.slice(0, 3).map((node) =>
      `${node.html.slice(0, 160)} ${node.failureSummary}`).join(" | ")}`);
}
"""


@cache
def pages() -> dict[str, Any]:
    plain = re.compile(r"\{(\w+):(?:[^{}]|\{[^}]*\})*\}")
    return {
        plain.sub(r"{\1}", page.path): page
        for page in PAGES
        if page.method == "GET" and page.path not in PARTS
    }


def named(text: str) -> str:
    return re.sub(r"\W+", "-", text).strip("-")


@pytest.fixture(scope="session")
def pictures() -> Path | None:
    named = os.environ.get("GATEWAY_SCREENSHOTS")
    if named is None:
        return None
    directory = Path(named)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def look(desk: Desk, page: Page, axe: str, picture: Path | None) -> None:
    """The ways to see the page that is open, and everything that is wrong with any.

    With pictures all four; else each theme and each width once.
    """
    wrong = []
    page.evaluate(axe)
    for width in (WIDE, NARROW):
        page.set_viewport_size({"width": width, "height": 900 if width == WIDE else 844})
        for theme in ("light", "dark"):
            if picture is None and (theme == "light") != (width == WIDE):
                continue
            page.emulate_media(color_scheme="light" if theme == "light" else "dark")
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                wrong.append(f"{theme}, {width} px: {wide} px wide")
            wrong += [f"{theme}, {width} px: {one}" for one in page.evaluate(AXE)]
            if picture is not None:
                tall = page.evaluate("document.documentElement.scrollHeight")
                page.screenshot(
                    path=picture.with_name(f"{picture.name}-{theme}-{width}.png"),
                    full_page=True,
                    clip={"x": 0, "y": 0, "width": width, "height": min(tall, PICTURE_PX_MAX)},
                )
    assert not wrong, "\n".join(wrong)
    assert not desk.problems


def test_every_page_can_be_found(site: BrowserSite) -> None:
    unknown = [path for path in pages() if "{" in path and path not in ADDRESSES]
    assert not [path for path in unknown if path != "/dashboard/keys/{id}/created"]


@pytest.mark.parametrize("path", [path for path in pages() if not path.endswith("/created")])
def test_every_page_is_accessible_and_fits(
    desk: Desk, axe: str, pictures: Path | None, path: str
) -> None:
    page = desk.visitor(_WHO[pages()[path].who])
    answer = page.goto(ADDRESSES[path](desk.site) if path in ADDRESSES else path)
    assert answer is not None
    assert answer.status == 200, path
    look(
        desk,
        page,
        axe,
        pictures and pictures / named(path),
    )


def test_what_is_wrong_with_a_page_is_found(desk: Desk, axe: str) -> None:
    page = desk.visitor()
    page.goto("/dashboard/sign-in")
    page.evaluate(
        """() => {
          document.querySelector("label").remove();
          document.querySelector("h1").style.cssText = "color: #777; background: #888";
          document.querySelector("main").style.minWidth = "1300px";
        }"""
    )
    with pytest.raises(AssertionError) as found:
        look(desk, page, axe, None)
    for one in ("label (critical)", "color-contrast (serious)", "1300 px wide"):
        assert one in str(found.value)


def test_a_new_key_is_accessible_and_fits(desk: Desk, axe: str, pictures: Path | None) -> None:
    page = desk.visitor(USER)
    page.goto("/dashboard/keys")
    page.get_by_label("Name").fill("for the picture")
    page.get_by_role("button", name="Create key").click()
    page.wait_for_url("**/created")
    look(desk, page, axe, pictures and pictures / "dashboard-keys-created")


@pytest.mark.parametrize("name", OTHERS)
def test_pages_look_right_in_other_states(
    desk: Desk, axe: str, pictures: Path | None, newcomers: None, name: str
) -> None:
    who, address = OTHERS[name]
    page = desk.visitor(who)
    page.goto(address(desk.site))
    look(desk, page, axe, pictures and pictures / f"other-{named(name)}")


@pytest.fixture(scope="session")
def newcomers(site: BrowserSite) -> None:
    site.user("newcomer", usd="0")
    site.user("refused")
    assert site.call(site.key("refused"), "gpt-7-preview").status_code == 400
    site.user("suspended")
    site.ask("POST", "/users/suspended/suspend")
    site.ask("POST", "/providers/moonshot/pause")
