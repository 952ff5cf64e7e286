"""Hashes of passwords: what fits, what is refused, and how much work may be under way."""

import asyncio
import os
import threading
from typing import Literal

import pytest
from argon2 import PasswordHasher

from gateway.accounts import passwords
from gateway.accounts.passwords import Passwords, PasswordsBusy, check_rules
from gateway.errors import Conflict
from gateway.ledger import background

GOOD = "correct horse battery"


def cheap(memory_cost: int = 8) -> PasswordHasher:
    return PasswordHasher(time_cost=1, memory_cost=memory_cost, parallelism=1)


class Counting(PasswordHasher):
    """Counts checks, notes how nice its thread is, and waits where told to."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.checks: list[tuple[str, int]] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Semaphore(0)

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        self.begun.release()
        assert self.go.wait(10)
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        self.checks.append((str(hash), nice))
        return super().verify(hash, password)


async def test_a_password_fits_its_own_hash_and_no_other() -> None:
    checked = Passwords(cheap())
    mine, other = await checked.hash(GOOD), await checked.hash("something else")
    assert mine != await checked.hash(GOOD)
    fit = await checked.find([other, mine], GOOD)
    assert fit == (1, mine)
    assert await checked.find([other, mine], GOOD + "!") is None
    assert await checked.find([], GOOD) is None


async def test_as_shipped_a_hash_is_argon2id_with_the_low_memory_parameters_of_the_rfc() -> None:
    hashed = await Passwords().hash(GOOD)
    assert hashed.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert GOOD not in hashed


async def test_one_spelling_of_a_character_is_as_good_as_the_other() -> None:
    checked = Passwords(cheap())
    hashed = await checked.hash("Schlu\u0308sselwort")
    assert await checked.find([hashed], "Schl\u00fcsselwort") is not None


async def test_a_hash_of_older_parameters_is_made_anew_where_the_password_fits() -> None:
    old = await Passwords(cheap()).hash(GOOD)
    now = Passwords(cheap(memory_cost=16))
    fit = await now.find([old], GOOD)
    assert fit is not None
    assert fit.keep != old
    assert "m=16," in fit.keep
    assert await now.find([fit.keep], GOOD) == (0, fit.keep)
    assert await now.find([old], "wrong") is None


async def test_a_hash_that_cannot_be_read_fits_nothing() -> None:
    checked = Passwords(cheap())
    for damaged in ("", "x", "$argon2id$v=19$m=8,t=1,p=1$AAAA", "$2b$12$abc", "ж"):
        assert await checked.find([damaged], GOOD) is None


async def test_where_there_is_no_hash_a_check_costs_what_it_costs_elsewhere() -> None:
    hasher = Counting()
    checked = Passwords(hasher)
    await checked.find([], GOOD)
    await checked.find([await checked.hash("another one")], GOOD)
    (of_nobody, _), (of_somebody, _) = hasher.checks
    assert of_nobody.split("$")[:4] == of_somebody.split("$")[:4]
    assert [len(part) for part in of_nobody.split("$")] == [
        len(part) for part in of_somebody.split("$")
    ]


async def test_the_threads_that_check_give_way_to_the_rest_of_the_process() -> None:
    hasher = Counting()
    before = os.getpriority(os.PRIO_PROCESS, 0)
    await Passwords(hasher).find([], GOOD)
    assert hasher.checks[0][1] == background.NICENESS
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


async def test_above_a_bound_a_check_is_refused_and_taken_again_once_others_are_done() -> None:
    hasher = Counting()
    hasher.go.clear()
    checked = Passwords(hasher)
    hashed = await checked.hash(GOOD)
    room = passwords.THREADS + passwords.WAITING_MAX
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(checked.find([hashed], GOOD)) for _ in range(room)]
    for _ in range(passwords.THREADS):
        assert await asyncio.to_thread(hasher.begun.acquire, timeout=10)
    with pytest.raises(PasswordsBusy):
        await checked.find([hashed], GOOD)
    with pytest.raises(PasswordsBusy):
        await checked.hash(GOOD)
    # One that waits is given up: there is room again at once, and its work is never done.
    tasks[-1].cancel()
    await asyncio.gather(tasks[-1], return_exceptions=True)
    tasks[-1] = loop.create_task(checked.find([hashed], GOOD))
    await asyncio.sleep(0)
    hasher.go.set()
    assert all(await asyncio.gather(*tasks))
    assert len(hasher.checks) == room


async def test_a_check_that_is_given_up_while_it_runs_keeps_its_room_until_it_ends() -> None:
    hasher = Counting()
    hasher.go.clear()
    checked = Passwords(hasher)
    room = passwords.THREADS + passwords.WAITING_MAX
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(checked.find([], GOOD)) for _ in range(room)]
    await asyncio.sleep(0)
    for _ in range(passwords.THREADS):
        assert await asyncio.to_thread(hasher.begun.acquire, timeout=10)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    with pytest.raises(PasswordsBusy):
        await checked.find([], GOOD)
    hasher.go.set()
    await asyncio.gather(*tasks[1:])


@pytest.mark.parametrize(
    "password",
    ["", "x" * 9, "x" * 257, "Ann@Example.org", " ann@example.org ", "ANN EXAMPLE", "\ud800" * 12],
)
def test_a_password_that_breaks_a_rule_is_refused_without_being_quoted(password: str) -> None:
    with pytest.raises(Conflict) as caught:
        check_rules(password, "ann@example.org", "Ann Example", None)
    message = str(caught.value)
    assert message.startswith("password: ")
    assert not password.strip() or password.strip() not in message


@pytest.mark.parametrize(
    "password", ["x" * 10, "x" * 256, "пароль-пароль", "          ", "🔑" * 10]
)
def test_any_other_password_may_be_one(password: str) -> None:
    check_rules(password, "ann@example.org", "ann", None)
