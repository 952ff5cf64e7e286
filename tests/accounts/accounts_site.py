"""A clock that moves when told to, and a ledger for accounts; for the tests of the accounts."""

from pathlib import Path

from gateway.ledger.writer import Ledger

SECRET = bytes(range(32))
PREFIX = "gw-"


class Clock:
    """Wall-clock milliseconds that move when told to."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms


async def opened(path: Path) -> Ledger:
    def fail(exc: BaseException) -> None:
        raise AssertionError(exc)

    return await Ledger.open(str(path), secret=SECRET, durability="full", on_fatal=fail)
