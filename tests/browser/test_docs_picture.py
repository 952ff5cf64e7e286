"""The documentation's picture of the page API keys, and how it is taken anew.

    GATEWAY_WRITE_DOCS=1 .venv/bin/python -m pytest tests/browser/test_docs_picture.py

writes it from the page as it is.
"""

import io
import os
from pathlib import Path

import pytest
from chromium import WIDE, Desk
from PIL import Image

PICTURE = Path(__file__).resolve().parents[2] / "gateway/web/static/docs-keys.png"
BYTES_MAX = 64 * 1024
TALL = 640

# Keys and moments that are nobody's.
_TIDY = """
() => {
  const hints = ["gw-Fv2k…", "gw-9QxB…", "gw-tM3e…"];
  document.querySelectorAll("td .mono").forEach((one, at) => (one.textContent = hints[at]));
  document.querySelectorAll("time").forEach((one, at) => {
    one.textContent = `2026-11-${String(20 - 3 * at).padStart(2, "0")} 09:${30 + at}:12`;
  });
}
"""


@pytest.mark.skipif(
    not os.environ.get("GATEWAY_WRITE_DOCS"), reason="GATEWAY_WRITE_DOCS is not set"
)
def test_the_picture_is_taken_of_the_page_as_it_is(desk: Desk) -> None:
    site = desk.site
    site.user("pictured")
    for name, more in (
        ("evaluation", {"rpm": 60, "spend_cap": "5.00", "models": ["basic"]}),
        ("production", {"rpm": 600}),
        ("notebook", {"tpm": 200_000, "spend_cap": "20.00"}),
    ):
        made = {"rpm": None, "tpm": None, "name": name, **more}
        key = site.key("pictured", **made)
        for _ in range(3):
            assert site.call(key, "basic").status_code == 200
    page = desk.visitor()
    desk.sign_in(page, "pictured")
    page.goto("/dashboard/keys")
    page.evaluate(_TIDY)
    taken = page.screenshot(clip={"x": 0, "y": 0, "width": WIDE, "height": TALL}, full_page=True)
    # The page has few colours: a palette of them is a third of the bytes.
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(64).save(PICTURE, optimize=True)


def test_the_picture_is_small_and_shown_in_the_quick_start(desk: Desk) -> None:
    assert PICTURE.stat().st_size < BYTES_MAX
    page = desk.visitor()
    page.goto("/docs")
    picture = page.get_by_role("img", name="The page API keys of the dashboard")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('figure img').complete")
    shown = picture.evaluate(
        "(one) => [one.naturalWidth, one.clientWidth, one.getAttribute('src')]"
    )
    assert shown[0] == WIDE
    assert 300 < shown[1] <= WIDE
    assert shown[2].startswith("/dashboard/static/")
