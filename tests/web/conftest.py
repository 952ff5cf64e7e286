from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from web_client import WebSite, web_site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[WebSite]:
    """A gateway with pages."""
    async with web_site(tmp_path) as made:
        yield made
