"""A store with its vault and settings, opened and reopened; for the tests of upstream settings."""

import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.accounts.upstream_settings import UpstreamSettings
from gateway.accounts.vault import Vault
from gateway.ledger.writer import Ledger

SECRET = bytes(range(32))
NOW_MS = 1_800_000_000_000


def key_text(number: int) -> str:
    return f"sk-provider-key-{number:04d}-0123456789abcdef"


def never_fatal(exc: BaseException) -> None:
    raise AssertionError(f"the ledger stopped: {exc!r}")


_MOMENTS = itertools.count(NOW_MS)


def later_ms() -> int:
    """A clock that no two questions, in no two starts, find at the same millisecond."""
    return next(_MOMENTS)


async def any_url(url: str) -> str:
    return url.rstrip("/")


@contextlib.asynccontextmanager
async def opened(
    directory: Path, kind: type[Ledger] = Ledger, environ: dict[str, str] | None = None
) -> AsyncIterator[UpstreamSettings]:
    """The settings of the store in a directory, as a start of the gateway would find them."""
    path = str(directory / "gateway.db")
    vault = Vault.load(path, environ or {})
    ledger = await kind.open(path, secret=SECRET, durability="full", on_fatal=never_fatal)
    try:
        yield await UpstreamSettings.load(ledger, vault, clock_ms=later_ms, check_base_url=any_url)
    finally:
        await ledger.close()


def texts(settings: UpstreamSettings) -> dict[str, list[str]]:
    return {name: [text for _, text in held] for name, held in settings.stored_keys.items()}
