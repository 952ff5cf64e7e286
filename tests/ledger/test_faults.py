import asyncio
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_building import SECRET, an_entry, an_opening, durable, finished, open_ledger

from gateway.errors import StoreError
from gateway.ledger import money, store
from gateway.ledger.batch import Store
from gateway.ledger.records import Receipt

pytestmark = pytest.mark.faults

HERE = Path(__file__).parent
KILLS = 20
CHILD_S = 30.0


def command(verb: str, path: str) -> list[str]:
    return [sys.executable, str(HERE / "ledger_child.py"), verb, path]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}


def run_child(verb: str, path: str, before: str = "") -> list[str]:
    """The lines that the child said; `before` is run by the shell in the child's place first."""
    words = command(verb, path)
    if before:
        words = ["unshare", "-m", "sh", "-c", f'{before} && exec "$@"', "sh", *words]
    done = subprocess.run(
        words, env=environment(), capture_output=True, text=True, timeout=CHILD_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def killed_at_random(path: str, rng: random.Random) -> tuple[set[str], set[str]]:
    """Run the worker, kill it after some acknowledgements; ids that began and that were done."""
    worker = subprocess.Popen(
        command("work", path), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert worker.stdout is not None
    assert worker.stderr is not None
    lines: list[bytes] = []
    target = rng.randrange(1, 600)
    for line in worker.stdout:
        lines.append(line)
        if len(lines) == target:
            worker.kill()
    complaint = worker.stderr.read()
    worker.stdout.close()
    worker.stderr.close()
    assert worker.wait(CHILD_S) == -9, complaint
    told: dict[str, set[str]] = {"began": set(), "done": set()}
    for line in lines:
        word, receipt_id = line.decode().split()
        told[word].add(receipt_id)
    return told["began"], told["done"]


async def test_nothing_acknowledged_is_lost_or_charged_twice_over_kills(path: str) -> None:
    rng = random.Random(20261121)
    began: set[str] = set()
    done: set[str] = set()
    for _ in range(KILLS):
        more_began, more_done = await asyncio.to_thread(killed_at_random, path, rng)
        began |= more_began
        done |= more_done
    ledger = await open_ledger(path)
    entries = await ledger.read(
        lambda conn: {r.entry.opening.id: r.entry for r in store.receipts_since(conn)}
    )
    assert done <= set(entries)
    assert all(entries[receipt_id].status == "succeeded" for receipt_id in done)
    # What began and was not acknowledged is settled one way or the other, and never in between.
    assert began <= set(entries)
    for receipt_id in set(entries) - done:
        entry = entries[receipt_id]
        assert entry.billed == (entry.status == "succeeded")
        assert entry.billed or (entry.failure is not None and entry.failure.stage == "gateway")
    assert any(not entry.billed for entry in entries.values())
    billed = sum(entry.billed for entry in entries.values())
    assert await ledger.read(lambda conn: money.balance(conn, 1)) == -billed
    assert (await ledger.read(money.check_books)).wrong == []
    assert (await ledger.read(lambda conn: store.verify(conn, SECRET))).ok
    assert ledger.in_flight == {}
    await ledger.close()


async def test_what_was_left_open_is_closed_once_and_not_charged(path: str) -> None:
    opening, other = an_opening(), an_opening()
    dying = Store.open(path, SECRET)
    dying.commit([opening, other], [])
    dying.commit([], [an_entry(other)])
    dying.close()
    for _ in range(2):
        ledger = await open_ledger(path)
        receipt = await ledger.receipt(opening.id, opening.owner)
        assert isinstance(receipt, Receipt)
        assert receipt.entry.status == "failed"
        assert receipt.entry.http_status == 0
        failure = receipt.entry.failure
        assert failure is not None
        assert (failure.stage, failure.code) == ("gateway", "internal_error")
        assert len(await ledger.receipts(None)) == 2
        assert await ledger.read(lambda conn: money.balance(conn, 1)) == -105_000
        assert (await ledger.read(lambda conn: store.verify(conn, SECRET))).ok
        await ledger.close()


async def test_a_second_process_is_refused_and_a_second_ledger_too(path: str) -> None:
    ledger = await open_ledger(path)
    lines = await asyncio.to_thread(run_child, "open", path)
    assert lines == [f"{path}: in use by another gateway process (process {os.getpid()})"]
    with pytest.raises(StoreError, match="in use"):
        await open_ledger(path)
    await finished(ledger, an_entry(an_opening()))
    await ledger.close()
    assert await asyncio.to_thread(run_child, "open", path) == ["opened"]


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return tried.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="a small file system needs the right to mount one")
def test_on_a_full_disk_what_is_under_way_lands_and_work_resumes_with_space(
    tmp_path: Path,
) -> None:
    mount = f"mount -t tmpfs -o size=24m none {tmp_path}"
    lines = run_child("full", str(tmp_path / "gateway.db"), before=mount)
    assert lines == [
        "filled: No space left on device",
        "landed with the disk full: True True",
        "control plane refused",
        "writable again, ballast: True",
        "verified: True 301 []",
    ]


@pytest.mark.skipif(not can_mount(), reason="a small file system needs the right to mount one")
def test_a_store_on_a_disk_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "gateway.db")
    Store.open(path, SECRET).close()
    read_only = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    (line,) = run_child("open", path, before=read_only)
    assert line.startswith(f"{path}: ")
    assert "ead-only" in line or "readonly" in line


async def test_an_io_error_stops_the_ledger_and_the_next_start_reads_the_truth(
    path: str,
) -> None:
    lines = await asyncio.to_thread(run_child, "io-error", path)
    done, before = lines[0].split()
    assert (done, lines[1:]) == (
        "done",
        [
            "fatal: OperationalError disk I/O error writable: False",
            "acknowledged: []",
            "control plane told",
            "closed",
        ],
    )
    ledger = await open_ledger(path)
    assert isinstance(await ledger.receipt(before, None), Receipt)
    assert (await ledger.read(money.check_books)).wrong == []
    assert (await ledger.read(lambda conn: store.verify(conn, SECRET))).ok
    await ledger.close()


async def test_a_file_locked_by_a_foreign_tool_delays_writes_and_loses_none(path: str) -> None:
    ledger = await open_ledger(path)
    foreign = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sqlite3, sys\n"
        f"c = sqlite3.connect({path!r}, isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert foreign.stdin is not None
    assert foreign.stdout is not None
    assert await foreign.stdout.readline() == b"locked\n"
    ticket = ledger.begin(an_opening())
    foreign.stdin.close()
    await durable(ledger, ticket)
    assert await foreign.wait() == 0
    await ledger.close()
