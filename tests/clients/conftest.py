"""One running gateway for all client tests, called with both kinds of key."""

import os
from collections.abc import Iterator
from pathlib import Path

import node_packages
import pytest
from client_site import Caller, Name, Site, Watch, environment, serving


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    # The control socket lies beside the store, and a socket's path has to be short.
    with serving(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(params=["gateway_key", "own_key"])
def caller(request: pytest.FixtureRequest, site: Site) -> Caller:
    name: Name = request.param
    return site.caller(name)


@pytest.fixture
def gateway_key(site: Site) -> Caller:
    return site.caller("gateway_key")


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which Node's packages are installed."""
    directory = tmp_path_factory.mktemp("node")
    node_packages.install(directory)
    return directory


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client picks up a key, a proxy or a tracing service from whoever runs the tests."""
    kept = environment()
    for name in os.environ:
        if name not in kept:
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
