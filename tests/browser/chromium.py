"""Chromium on a thread of its own, and a `Desk` at which a test opens pages.

Playwright keeps an event loop running on the thread that started it, where no other loop could run
then: so that thread is none of pytest's, and tests that sit at a desk run on it (`conftest.py`).
A desk keeps everything that must not happen: errors of scripts, what the content security policy
stopped, dialogs, files that are missing.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from browser_site import PASSWORD, BrowserSite
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Error,
    Page,
    Playwright,
    Response,
    sync_playwright,
)  # fmt: skip

P = ParamSpec("P")
T = TypeVar("T")

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--font-render-hinting=none",
)  # fmt: skip

WIDE, NARROW = 1280, 390
STEP_MS = 20_000
"""Until a step of a test fails: machines are slow at times."""

# Told to the console too: a page that cannot be had (401, 404, 429 and so on), and what somebody
# put into an address that is no date.
_FINE = re.compile(
    r"Failed to load resource: the server responded with a status of 4\d\d"
    r"|The specified value .* does not conform to the required format, \"yyyy-MM-dd\"",
    re.DOTALL,
)

_WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""


def executable() -> str | None:
    """Which Chromium to start; None where there is none."""
    named = os.environ.get("GATEWAY_CHROMIUM", "/usr/bin/chromium")
    return shutil.which(named) or shutil.which("chromium")


class Chromium:
    """A running browser; everything about it happens on its thread."""

    def __init__(self, path: str) -> None:
        self._thread = ThreadPoolExecutor(1, "chromium")
        self._playwright: Playwright
        self.browser: Browser
        self.run(self._start, path)

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it on the browser's thread."""
        return self._thread.submit(function, *args, **kwargs).result()

    def _start(self, path: str) -> None:
        self._playwright = sync_playwright().start()
        self.browser = self._playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))

    def close(self) -> None:
        """End the browser and the thread."""
        try:
            self.run(self._stop)
        finally:
            self._thread.shutdown()

    def _stop(self) -> None:
        with contextlib.suppress(Error):
            self.browser.close()
        self._playwright.stop()


class Desk:
    """Where one test opens pages."""

    def __init__(self, chromium: Chromium, site: BrowserSite, cookies: dict[str, Any]) -> None:
        self.chromium = chromium
        self.site = site
        self.problems: list[str] = []
        self.asked: list[str] = []
        """Every address that was asked for."""
        self.dialogs: list[str] = []
        self.accept_dialogs = False
        self._cookies = cookies
        self._contexts: list[BrowserContext] = []

    def visitor(
        self, who: str | None = None, *, width: int = WIDE, dark: bool = False,
        scripts: bool = True, **more: Any,
    ) -> Page:  # fmt: skip
        """A page of somebody's browser; `who` is signed in there already."""
        options: dict[str, Any] = {
            "viewport": {"width": width, "height": 900 if width == WIDE else 844},
            "color_scheme": "dark" if dark else "light",
            "java_script_enabled": scripts,
            "base_url": self.site.url,
            "reduced_motion": "reduce",
            "locale": "en-US",
            "timezone_id": "UTC",
            **more,
        }
        if who is not None:
            options["storage_state"] = self._signed_in(who)
        context = self.chromium.browser.new_context(**options)
        self._contexts.append(context)
        context.set_default_timeout(STEP_MS)
        if scripts:
            context.add_init_script(_WATCH)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.problems.append(f"error: {error.error}"))
        context.on("dialog", self._dialog)
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("response", self._response)
        return context.new_page()

    def sign_in(self, page: Page, who: str, password: str = PASSWORD) -> None:
        """Through the form."""
        page.goto("/dashboard/sign-in")
        page.get_by_label("E-mail").fill(f"{who}@example.org")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()

    def _signed_in(self, who: str) -> Any:
        """The cookies of a session, made once for all tests."""
        if who not in self._cookies:
            context = self.chromium.browser.new_context(base_url=self.site.url)
            page = context.new_page()
            page.set_default_timeout(STEP_MS)
            self.sign_in(page, who)
            page.wait_for_url("**/dashboard")
            self._cookies[who] = context.storage_state()
            self.site.secrets.update(
                one["value"] for one in context.cookies() if one["name"].endswith("session")
            )
            context.close()
        return self._cookies[who]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _FINE.match(message.text):
            self.problems.append(f"console: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        if self.accept_dialogs:
            dialog.accept()
        else:
            self.problems.append(f"dialog: {dialog.message}")
            dialog.dismiss()

    def _response(self, response: Response) -> None:
        bad = response.status >= 500 or (
            response.status >= 400 and not response.request.is_navigation_request()
        )
        if bad:
            self.problems.append(f"{response.status} {response.url}")

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@contextlib.contextmanager
def running(path: str) -> Iterator[Chromium]:
    """Chromium, until the end."""
    chromium = Chromium(path)
    try:
        yield chromium
    finally:
        chromium.close()
