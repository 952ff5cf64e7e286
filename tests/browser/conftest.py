"""The running site and the browser before it; tests that sit at a desk run on its thread."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser_site
import chromium
import node_packages
import pytest
from browser_site import BrowserSite
from chromium import Chromium, Desk

NODE = Path(__file__).parent / "node"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    desk = pyfuncitem.funcargs.get("desk")
    if not isinstance(desk, Desk):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    desk.chromium.run(pyfuncitem.obj, **arguments)
    return True


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    path = chromium.executable()
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium, or GATEWAY_CHROMIUM")
    with chromium.running(path) as started:
        yield started


@pytest.fixture(scope="session")
def site(browser: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserSite]:
    # The control socket lies beside the store, and a socket's path has to be short.
    with browser_site.serving(tmp_path_factory.mktemp("site")) as running:
        browser_site.busy(running)
        yield running


@pytest.fixture(scope="session")
def cookies() -> dict[str, Any]:
    return {}


@pytest.fixture
def desk(browser: Chromium, site: BrowserSite, cookies: dict[str, Any]) -> Iterator[Desk]:
    """Nothing may have gone wrong in the pages that the test saw."""
    made = Desk(browser, site, cookies)
    try:
        yield made
    finally:
        browser.run(made.close)
    assert not made.problems


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of axe-core."""
    directory = tmp_path_factory.mktemp("axe")
    node_packages.install(directory, NODE)
    return (directory / "node_modules/axe-core/axe.min.js").read_text()
