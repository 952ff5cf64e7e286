"""Master keys are rotated without a moment at which a crash would lose a provider key."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from upstream_site import key_text, opened, texts

from gateway.accounts import vault as vaults
from gateway.accounts.vault import path_of
from gateway.errors import Conflict, StoreError
from gateway.ledger.writer import Ledger

T = TypeVar("T")
PROVIDERS = ("openai", "openai", "anthropic")


class Crash(Exception):
    """The process is gone; nothing of ours may catch it."""


class Steps:
    """Counts what reaches the disk. From step `last` on nothing does any more: it raises."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.last: int | None = None
        self.error: Callable[[], Exception] = Crash

    def take(self, name: str) -> None:
        if self.last is not None and len(self.taken) >= self.last:
            raise self.error()
        self.taken.append(name)


STEPS = Steps()


class SteppingLedger(Ledger):
    """A ledger that may crash before a transaction, in it, and right after its commit."""

    async def execute(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        def run(conn: sqlite3.Connection) -> T:
            result = fn(conn)
            STEPS.take("written")
            return result

        STEPS.take("begin")
        result = await super().execute(run)
        STEPS.take("committed")
        return result


def concerns_masters(target: Any) -> bool:
    if isinstance(target, int):
        target = os.readlink(f"/proc/self/fd/{target}")
        return ".master" in target or os.path.isdir(target)
    return ".master" in str(target)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    """Every call of the operating system on the master's file or directory is a step."""

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(target: Any, *args: Any, **kwargs: Any) -> Any:
            if concerns_masters(target):
                STEPS.take(name)
            return real(target, *args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("open", "fsync", "replace", "link", "unlink"):
        watched(name)
    STEPS.last, STEPS.error, STEPS.taken = None, Crash, []
    yield STEPS
    STEPS.last = None


async def filled(directory: Path) -> dict[str, list[str]]:
    async with opened(directory) as settings:
        for number, provider in enumerate(PROVIDERS):
            await settings.add_key(provider, key_text(number))
        await settings.disable_key(settings.list_keys()[0].id)
        await settings.enable_key(settings.list_keys()[0].id)
        return texts(settings)


def masters(directory: Path) -> list[str]:
    return path_of(str(directory / "gateway.db")).read_text().split()


async def rotated_until(directory: Path, steps: Steps, last: int | None) -> Exception | None:
    """Rotate, stopped at a step; what was raised."""
    async with opened(directory, SteppingLedger) as settings:
        steps.taken, steps.last = [], last
        try:
            await settings.rotate_master()
        except (Crash, StoreError) as exc:
            return exc
        finally:
            steps.last = None
        return None


async def test_a_crash_at_any_step_of_a_rotation_loses_no_key(tmp_path: Path, steps: Steps) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    await filled(whole)
    assert await rotated_until(whole, steps, None) is None
    taken = list(steps.taken)
    # Both writes of the file are synced, file and directory, and the rows lie between them.
    assert taken.count("fsync") == 4
    assert taken.count("replace") == 2
    assert taken.index("replace") < taken.index("begin") < taken.index("committed")

    for last in range(len(taken)):
        directory = tmp_path / str(last)
        directory.mkdir()
        expected = await filled(directory)
        before = masters(directory)
        raised = await rotated_until(directory, steps, last)
        assert isinstance(raised, Crash), taken[last]
        async with opened(directory) as settings:
            assert texts(settings) == expected, f"after a crash before {taken[last]}, step {last}"
            assert not settings.unusable
            rotation = await settings.rotate_master()
            assert rotation.resealed == len(PROVIDERS)
            assert texts(settings) == expected
        async with opened(directory) as settings:
            assert texts(settings) == expected
        assert len(masters(directory)) == 1
        assert masters(directory) != before
        left = {one.name for one in directory.iterdir() if ".master" in one.name}
        assert left == {"gateway.db.master"}


async def test_a_full_disk_at_any_step_is_told_and_loses_no_key(
    tmp_path: Path, steps: Steps
) -> None:
    expected = await filled(tmp_path)
    assert await rotated_until(tmp_path, steps, None) is None
    taken = list(steps.taken)
    steps.error = lambda: OSError(28, "No space left on device")
    for last, name in enumerate(taken):
        if name in {"begin", "written", "committed"}:
            continue
        async with opened(tmp_path, SteppingLedger) as settings:
            steps.taken, steps.last = [], last
            with pytest.raises(StoreError, match="No space left on device") as refused:
                await settings.rotate_master()
            steps.last = None
            assert "gateway.db.master" in str(refused.value)
            # The same process goes on: what it seals next opens as well.
            added = await settings.add_key("google", key_text(100 + last))
            assert texts(settings)["google"] == [key_text(100 + last)]
        async with opened(tmp_path) as settings:
            assert texts(settings) == expected | {"google": [key_text(100 + last)]}
            assert not settings.unusable
            await settings.remove_key(added.id)


async def test_twenty_rotations_one_after_another_keep_every_key(tmp_path: Path) -> None:
    expected = await filled(tmp_path)
    versions = set()
    for number in range(20):
        async with opened(tmp_path) as settings:
            rotation = await settings.rotate_master()
            assert rotation.resealed == len(PROVIDERS) + number
            assert rotation.left_to_do is None
            assert {key.version for key in settings.list_keys()} == {rotation.version}
            versions.add(rotation.version)
            await settings.add_key("google", key_text(200 + number))
            expected.setdefault("google", []).append(key_text(200 + number))
            assert texts(settings) == expected
        assert len(masters(tmp_path)) == 1
    assert len(versions) == 20
    async with opened(tmp_path) as settings:
        assert texts(settings) == expected


async def test_what_was_sealed_before_a_rotation_opens_nowhere_after_it(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with opened(tmp_path) as settings:
        old = settings.list_keys()[0]
        await settings.rotate_master()
    vault = vaults.Vault.load(str(tmp_path / "gateway.db"), {})
    with pytest.raises(vaults.Sealed, match="sealed with a master key that is not in"):
        vault.open(old)


async def test_a_rotation_without_keys_makes_a_master(tmp_path: Path) -> None:
    async with opened(tmp_path) as settings:
        rotation = await settings.rotate_master()
        assert rotation.resealed == 0
        await settings.add_key("openai", key_text(1))
    async with opened(tmp_path) as settings:
        assert texts(settings) == {"openai": [key_text(1)]}


async def test_a_key_that_does_not_open_is_not_lost_by_rotating(tmp_path: Path) -> None:
    await filled(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "gateway.db")) as conn, conn:
        conn.execute("UPDATE provider_keys SET sealed = x'00' WHERE provider = 'anthropic'")
    before = masters(tmp_path)
    async with opened(tmp_path) as settings:
        (bad,) = settings.unusable
        with pytest.raises(Conflict, match=f"{bad} of anthropic: damaged.*remove it first"):
            await settings.rotate_master()
        assert masters(tmp_path) == before
        await settings.remove_key(bad)
        assert (await settings.rotate_master()).resealed == 2
    assert masters(tmp_path) != before


async def test_given_masters_are_rotated_and_swapped(tmp_path: Path) -> None:
    old, new = bytes(range(32)).hex(), bytes(range(1, 33)).hex()
    both = {"GATEWAY_MASTER": old, "GATEWAY_MASTER_NEXT": new}
    async with opened(tmp_path, environ={"GATEWAY_MASTER": old}) as settings:
        await settings.add_key("openai", key_text(1))
        with pytest.raises(Conflict, match=r"^master: it is given as GATEWAY_MASTER"):
            await settings.rotate_master()
    async with opened(tmp_path, environ=both) as settings:
        await settings.add_key("openai", key_text(2))
        rotation = await settings.rotate_master()
        assert rotation.resealed == 2
        assert rotation.left_to_do is not None
        assert "as GATEWAY_MASTER from now on" in rotation.left_to_do
        await settings.add_key("openai", key_text(3))
    for environ in (both, {"GATEWAY_MASTER": new}):
        async with opened(tmp_path, environ=environ) as settings:
            assert texts(settings) == {"openai": [key_text(n) for n in (1, 2, 3)]}
    async with opened(tmp_path, environ={"GATEWAY_MASTER": old}) as settings:
        assert len(settings.unusable) == 3
    assert not path_of(str(tmp_path / "gateway.db")).exists()
