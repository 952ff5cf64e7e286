"""A gateway's ledger in a process of its own, to be killed, starved or refused.

    ledger_child.py work PATH        write requests for ever; a line when one began, one when done
    ledger_child.py open PATH        open and close; the refusal goes to standard output
    ledger_child.py full PATH        on a file system of a few MB: fill it, then make room again
    ledger_child.py io-error PATH    make the kernel refuse writes to the store half way

Lines on standard output are written with one system call each, so that a reader sees all that
was acknowledged before a kill.
"""

import asyncio
import os
import resource
import sys
from functools import partial

from ledger_building import SECRET, an_entry, an_opening, durable, finished, never_fatal, until

from gateway.errors import StoreError
from gateway.ledger import money, store
from gateway.ledger.entry import Failure
from gateway.ledger.writer import Ledger


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def fill(path: str) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as exc:
            say("filled:", exc.strerror)


def limit_file_size(limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))


async def work(path: str) -> None:
    ledger = await Ledger.open(path, secret=SECRET, durability="full", on_fatal=never_fatal)

    async def request() -> None:
        opening = an_opening()
        await durable(ledger, ledger.begin(opening))
        say("began", opening.id)
        await finished(ledger, an_entry(opening, 1))
        say("done", opening.id)

    async def client() -> None:
        while True:
            await request()

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(client()) for _ in range(100)]
    del clients


async def just_open(path: str) -> None:
    try:
        ledger = await Ledger.open(path, secret=SECRET, durability="full", on_fatal=never_fatal)
    except StoreError as exc:
        say(exc)
        return
    await ledger.close()
    say("opened")


async def full(path: str) -> None:
    ledger = await Ledger.open(path, secret=SECRET, durability="full", on_fatal=never_fatal)
    openings = [an_opening() for _ in range(300)]
    for opening in openings:
        ticket = ledger.begin(opening)
    await durable(ledger, ticket)
    filler = f"{path}.filler"
    fill(filler)
    entries = [an_entry(opening) for opening in openings]
    for entry in entries:
        entry.failure = Failure("gateway", "internal_error", "m" * 6000)
    await finished(ledger, *entries)
    say("landed with the disk full:", not ledger.writable, size(f"{path}.ballast") == 0)
    try:
        await ledger.execute(store.list_users)
    except StoreError:
        say("control plane refused")
    os.unlink(filler)
    await until(lambda: ledger.writable)
    say("writable again, ballast:", size(f"{path}.ballast") > 0)
    await finished(ledger, an_entry(an_opening()))
    verdict = await ledger.read(lambda conn: store.verify(conn, SECRET))
    say("verified:", verdict.ok, verdict.checked, (await ledger.read(money.check_books)).wrong)
    await ledger.close()


async def io_error(path: str) -> None:
    fatal: list[BaseException] = []
    stopped = asyncio.Event()

    def on_fatal(exc: BaseException) -> None:
        fatal.append(exc)
        stopped.set()

    ledger = await Ledger.open(path, secret=SECRET, durability="full", on_fatal=on_fatal)
    before = an_opening()
    await durable(ledger, ledger.begin(before))
    await finished(ledger, an_entry(before))
    say("done", before.id)
    # Past this size the kernel answers EFBIG, which SQLite takes for a failing disk.
    # The log is longer than what is in it: the limit must lie just behind that.
    with open(f"{path}-wal", "rb") as file:  # noqa: ASYNC230 - a script, and nothing else runs
        used = len(file.read().rstrip(b"\0"))
    limit_file_size(used + 8192)
    acknowledged: list[int] = []
    for n in range(200):
        ledger.finish(an_entry(an_opening()), partial(acknowledged.append, n))
    waiting = asyncio.ensure_future(ledger.execute(store.list_users))
    await asyncio.wait_for(stopped.wait(), 10)
    say("fatal:", type(fatal[0]).__name__, fatal[0], "writable:", ledger.writable)
    say("acknowledged:", acknowledged)
    try:
        await asyncio.wait_for(waiting, 10)
    except StoreError:
        say("control plane told")
    ledger.finish(an_entry(an_opening()), lambda: say("never"))
    await asyncio.wait_for(ledger.close(), 10)
    say("closed")


VERBS = {"work": work, "open": just_open, "full": full, "io-error": io_error}

if __name__ == "__main__":
    asyncio.run(VERBS[sys.argv[1]](sys.argv[2]))
