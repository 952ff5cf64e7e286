"""Every way that money moves, in any order, against plain numbers.

Credit, corrections, codes, holds, every row of the billing table, failover, caps, suspension and
death of the process are the rules; after each the store, the memory and the oracle
(`plain_books.py`) agree to the nano-dollar.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from harness import FULL
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from plain_books import FACTORS, ROWS, Asked, Ending, Issued, Person, PlainBooks, nano_usd, reported
from plain_books import tokens_due as due
from shop import ALIASES, DEFAULT_OUTPUT, SECRET, Books, Flight, Shop, chat

from gateway.accounts.changes import KeyChanges, KeySpec, UserChanges
from gateway.accounts.funds import NO_CAP
from gateway.errors import Conflict, GatewayError, KeyReused
from gateway.ledger import ids, money, store, usage
from gateway.ledger.entry import Entry
from gateway.wire import demand, envelope
from gateway.wire.neutral import Metered

RUNS = 10_000 if FULL else 250
STEPS = 50
PEOPLE = 2
KEYS = 4
CONCURRENT = 3

pick = st.integers(0, 1_000_000)
amounts = st.integers(1, 200_000_000) | st.integers(1, 2_000_000)
token_counts = st.integers(0, 3000) | st.integers(0, 30)
models = st.sampled_from(ALIASES)
calls = st.tuples(
    st.tuples(
        pick, models, st.integers(1, 2000), st.none() | st.integers(1, 2000),
        st.none() | st.integers(1, 3),
    ),
    st.sampled_from((1, 1, 5)),
)  # fmt: skip
"""A call, and how many of it come at once."""
ends = st.tuples(
    pick, st.sampled_from(ROWS), st.tuples(token_counts, token_counts), token_counts,
    st.integers(0, 9000),
)  # fmt: skip
traffic = (
    st.tuples(st.just("call"), calls)
    | st.tuples(st.just("end"), ends)
    | st.tuples(st.just("fail over"), st.tuples(pick))
)


class Money(RuleBasedStateMachine):
    """One store and the processes that have it open, one after the other."""

    fresh: Path
    """A new, empty store, made once: making one takes longer than a run."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "gateway.db"
        shutil.copyfile(self.fresh, self.path)
        self.plain = PlainBooks()
        self.flights: list[tuple[Flight, Asked]] = []
        self.settled: list[Flight] = []
        self.entries: list[Entry] = []
        self.wrote = True
        self.wall_ms = 20_000 * usage.DAY_MS
        self._open()

    def _run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    def _open(self) -> None:
        self.shop: Shop = self._run(Shop.open(self.path, lambda: self.wall_ms))
        self.wrote = True

    # --- people, keys and what the operator does

    @initialize(nano=st.sampled_from((10**9, 3 * 10**8, 3 * 10**7, 1)))
    def open_for_business(self, nano: int) -> None:
        for number in range(PEOPLE):
            user = self._run(self.shop.accounts.create_user(f"person-{number}"))
            person = Person(user.id, user.name)
            self.plain.people.append(person)
            self._run(self.shop.accounts.credit(person.name, nano))
            self.plain.give(person, nano)
        for number in range(KEYS):
            self._issue(self.plain.people[number % PEOPLE], 1000 if number else CONCURRENT)

    def _issue(self, person: Person, concurrent: int) -> None:
        spec = KeySpec(concurrent=concurrent)
        key, text = self._run(self.shop.accounts.create_key(person.name, spec))
        self.plain.issued.append(Issued(key.id, text, person, concurrent))

    def _person(self, at: int) -> Person:
        return self.plain.people[at % PEOPLE]

    def _issued(self, at: int) -> Issued:
        """One of the keys, seldom a revoked one."""
        live = [one for one in self.plain.issued if not one.revoked]
        return (live + self.plain.issued)[at % (len(live) + 1)]

    def _wrote(self) -> None:
        """A verb commits, and with it all that was queued."""
        self.plain.write()
        self.wrote = True

    @rule(at=pick, nano=amounts, key=st.none() | st.sampled_from(("a", "b")))
    def credit(self, at: int, nano: int, key: str | None) -> None:
        person = self._person(at)
        known = None if key is None else self.plain.given.get(key)
        giving = self.shop.accounts.credit(person.name, nano, idempotency_key=key)
        if known is None:
            answer = self._run(giving)
            self.plain.give(person, nano)
            self._wrote()
            assert answer.balance_nano_usd == person.balance
            if key is not None:
                self.plain.given[key] = person, nano, answer
        elif known[:2] == (person, nano):
            assert self._run(giving) == known[2]
            self._wrote()
        else:
            with pytest.raises(KeyReused):
                self._run(giving)
            self._wrote()

    @precondition(lambda self: self.plain.given)
    @rule(key=st.sampled_from(("a", "b")))
    def credit_again(self, key: str) -> None:
        if key in self.plain.given:
            person, nano, answer = self.plain.given[key]
            giving = self.shop.accounts.credit(person.name, nano, idempotency_key=key)
            assert self._run(giving) == answer
            self._wrote()

    @rule(at=pick, nano=amounts, away=st.booleans())
    def correct(self, at: int, nano: int, away: bool) -> None:
        person = self._person(at)
        nano = -nano if away else nano
        answer = self._run(self.shop.accounts.correct(person.name, nano, "a mistake"))
        self.plain.give(person, nano)
        self._wrote()
        assert answer.balance_nano_usd == person.balance

    @rule(nano=amounts)
    def make_a_code(self, nano: int) -> None:
        ((_, text),) = self._run(self.shop.accounts.create_codes(nano))
        self.plain.codes.append((text, nano))
        self._wrote()

    @precondition(lambda self: self.plain.codes)
    @rule(at=pick, which=pick)
    def redeem(self, at: int, which: int) -> None:
        person = self._person(at)
        which %= len(self.plain.codes)
        text, nano = self.plain.codes[which]
        redeeming = self.shop.accounts.redeem(person.name, text)
        if which in self.plain.redeemed:
            with pytest.raises(Conflict, match="redeemed before"):
                self._run(redeeming)
            self._wrote()
            return
        code, left = self._run(redeeming)
        self.plain.redeemed.add(which)
        self.plain.give(person, nano)
        self._wrote()
        assert (code.nano_usd, left) == (nano, person.balance)

    @rule(at=pick, model=models, nano=st.none() | amounts)
    def cap_calls(self, at: int, model: str, nano: int | None) -> None:
        person = self._person(at)
        self._run(self.shop.accounts.set_cap(person.name, model, nano))
        person.caps.pop(model, None)
        if nano is not None:
            person.caps[model] = nano
        self._wrote()

    @rule(at=pick, nano=st.none() | amounts | st.just(0))
    def cap_a_key(self, at: int, nano: int | None) -> None:
        issued = self._issued(at)
        self._run(self.shop.accounts.update_key(issued.id, KeyChanges(spend_cap_nano_usd=nano)))
        issued.cap = nano
        self._wrote()

    @rule(at=pick, multiplier=st.sampled_from(("1", "1.5", "0.3333", "0")))
    def change_the_rate(self, at: int, multiplier: str) -> None:
        person = self._person(at)
        changes = UserChanges(rate_multiplier=multiplier)
        self._run(self.shop.accounts.update_user(person.name, changes))
        person.multiplier = multiplier
        self._wrote()

    @rule()
    def suspend_or_resume(self) -> None:
        person, accounts = self.plain.people[-1], self.shop.accounts
        verb = accounts.resume_user if person.suspended else accounts.suspend_user
        self._run(verb(person.name))
        person.suspended = not person.suspended
        self._wrote()

    @rule(at=pick)
    def revoke_and_issue_another(self, at: int) -> None:
        issued = self._issued(at)
        self._run(self.shop.accounts.revoke_key(issued.id))
        issued.revoked = True
        if not issued.person.suspended:
            self._issue(issued.person, issued.concurrent)
        self._wrote()

    # --- calls

    @rule(events=st.lists(traffic, min_size=1, max_size=8))
    def serve(self, events: list[tuple[str, tuple[Any, ...]]]) -> None:
        self._serve(events)

    @rule(events=st.lists(traffic, min_size=1, max_size=8))
    def serve_on(self, events: list[tuple[str, tuple[Any, ...]]]) -> None:
        """Two rules of the same, as what calls do is most of what happens."""
        self._serve(events)

    def _serve(self, events: list[tuple[str, tuple[Any, ...]]]) -> None:
        """Calls come, fail over and end, several at once."""
        for what, details in events:
            if what == "call":
                call, times = details
                for _ in range(times):
                    self._call(*call)
            elif self.flights and what == "fail over":
                self._fail_over(*details)
            elif self.flights:
                self._settle(*details)
            self.memory_is_what_it_should_be()

    def _call(
        self, at: int, model: str, content: int, max_tokens: int | None, n: int | None
    ) -> None:
        issued = self._issued(at)
        body = chat(model, "x" * content, max_tokens=max_tokens, n=n)
        wanted = demand.read(body, envelope.peek(body, "openai_chat"), "openai_chat")
        asked = Asked(issued, model, wanted, issued.person.multiplier)
        before = self._buckets()
        expected = self._expected(asked)
        if isinstance(expected, str):
            with pytest.raises(GatewayError) as caught:
                self.shop.call(issued.text, body)
            assert caught.value.code == expected
            assert self._buckets() == before
            return
        flight = self.shop.call(issued.text, body)
        assert flight.claim.held == expected
        self.plain.begin(flight.exchange.id, issued, self.wall_ms // usage.DAY_MS, expected)
        self.flights.append((flight, asked))

    def _expected(self, asked: Asked) -> int | str:
        issued = asked.issued
        if issued.revoked or issued.person.suspended:
            return "invalid_api_key"
        if issued.flights >= issued.concurrent:
            return "rate_limit_exceeded"
        target = self.shop.services.router.route(asked.model, "openai", None).targets[0]
        return self._hold_at(asked, target, 0)

    def _hold_at(self, asked: Asked, target: Any, held: int) -> int | str:
        known = self.shop.services.router.known(target)
        assert known is not None
        named = (target.provider.name, target.model)
        return asked.hold_at(self.plain, named, known, DEFAULT_OUTPUT, held)

    def _buckets(self) -> list[Any]:
        return [
            (one.name, one.in_flight, one.requests and one.requests.level,
             one.tokens and one.tokens.level)
            for one in self.shop.limiter._subjects.values() if one.in_flight
        ]  # fmt: skip

    def _fail_over(self, at: int) -> None:
        flight, asked = self.flights[at % len(self.flights)]
        if flight.at + 1 == len(flight.targets):
            return
        held = flight.claim.held
        expected = self._hold_at(asked, flight.targets[flight.at + 1], held)
        if isinstance(expected, str):
            with pytest.raises(GatewayError) as caught:
                flight.fail_over()
            assert caught.value.code == expected
            assert flight.claim.held == held
            return
        flight.fail_over()
        assert flight.claim.held == expected
        self.plain.hold(asked.issued, expected - held)

    def _settle(
        self, at: int, row: Any, tokens: tuple[int, int], cached: int, text_bytes: int
    ) -> None:
        flight, asked = self.flights.pop(at % len(self.flights))
        ended, told, complete = row
        metered = None
        if told is not None:
            found = reported(*tokens, cached) if told else None
            metered = Metered(usage=found, complete=complete, text_bytes=text_bytes)
        exchange = flight.exchange
        ending = Ending(
            exchange.id, asked.issued, exchange.opened().created_ms // usage.DAY_MS,
            self._named(flight), held=flight.claim.held,
        )  # fmt: skip
        if ended == "complete":
            ending.status = "succeeded"
        elif ended == "client_left":
            ending.status = "cancelled"
        charged = due(ended, metered, flight.size)
        if charged is not None:
            provider, model = ending.target
            factor = FACTORS.get((provider, model), "1")
            ending.charged = nano_usd(model, charged, asked.multiplier, factor)
            ending.listed = nano_usd(model, charged)
            ending.tokens = charged[:2]
        flight.end(ended, metered)
        self.plain.end(ending)
        self.settled.append(flight)

    @staticmethod
    def _named(flight: Flight) -> tuple[str, str]:
        target = flight.exchange.target
        assert target is not None
        return target.provider.name, target.model

    @precondition(lambda self: self.settled)
    @rule(at=pick, tokens=token_counts)
    def settle_again(self, at: int, tokens: int) -> None:
        flight = self.settled[at % len(self.settled)]
        metered = Metered(usage=reported(tokens, tokens, 0), complete=True)
        flight.end("complete", metered)
        flight.claim.settle(tokens * 1_000_000, tokens, self.shop.now)

    # --- the process and its file

    @precondition(lambda self: self.shop.books.queue)
    @rule()
    def write(self) -> None:
        self._keep_entries()
        self.shop.books.flush()
        self._wrote()

    def _keep_entries(self) -> None:
        queued = (one for one in self.shop.books.queue if isinstance(one, Entry))
        self.entries = [*self.entries, *queued][-20:]

    @precondition(lambda self: self.entries or self.shop.books.queue)
    @rule(at=pick)
    def write_what_was_written_before(self, at: int) -> None:
        self._keep_entries()
        if self.entries:
            self.shop.books.flush([self.entries[at % len(self.entries)]])
            self._wrote()

    @precondition(lambda self: self.flights or self.shop.books.queue)
    @rule(when=st.sampled_from(("before", "during", "after")))
    def die(self, when: str) -> None:
        """The process dies before, in the middle of, or right after writing what is queued."""
        books = self.shop.books
        self.shop.upstreams.close()
        if when == "during":
            books.break_off()
        else:
            if when == "after":
                books.flush()
                self.plain.write()
            books.close()
        closed = self.plain.die()
        self.entries, self.flights, self.settled = [], [], []
        self._open()
        assert sorted(one.id for one in self.shop.books.interrupted) == closed

    @rule()
    def another_day(self) -> None:
        self.wall_ms += usage.DAY_MS

    # --- what holds after each

    @invariant()
    def memory_is_what_it_should_be(self) -> None:
        accounts, limiter = self.shop.accounts, self.shop.limiter
        for person in self.plain.people:
            funds = accounts.funds(person.id)
            assert (funds.balance, funds.held) == (person.balance, person.held)
            assert funds.held >= 0
            assert funds.available + self.plain.beyond(person) + person.taken >= 0
            assert accounts.held(person.name) == person.held
        for issued in self.plain.issued:
            funds = accounts.key_funds(issued.id)
            cap = NO_CAP if issued.cap is None else issued.cap
            assert (funds.balance, funds.held) == (cap - issued.spent, issued.held)
            subject = limiter._subjects.get(f"key:{issued.id}")
            assert (0 if subject is None else subject.in_flight) == issued.flights
        assert sum(flight.claim.held for flight, _ in self.flights) == sum(
            person.held for person in self.plain.people
        )

    @invariant()
    def a_day_is_the_sum_of_its_calls(self) -> None:
        today = self.wall_ms // usage.DAY_MS
        for person in self.plain.people:
            calls = [
                one
                for one in (*self.plain.ended.values(), *self.plain.queued)
                if one.issued.person is person and one.day == today
            ]
            found = self.shop.daily.today(person.id, self.wall_ms)
            assert found.requests == len(calls)
            assert found.tokens == sum(sum(one.tokens) for one in calls)
            assert found.nano_usd == sum(one.charged for one in calls)

    @invariant()
    def the_file_is_what_it_should_be(self) -> None:
        if not self.wrote:
            return
        self.wrote = False
        conn, ended = self.shop.books.store.conn, self.plain.ended.values()
        books = money.check_books(conn)
        assert books.wrong == []
        charged = sum(one.charged for one in ended)
        assert (books.receipts, books.transfers) == (len(ended), self.plain.transfers)
        assert (books.credited, books.charged) == (self.plain.credited, charged)
        assert books.overspent == sum(one.beyond for one in ended)
        assert sum(nano for (nano,) in conn.execute("SELECT nano_usd FROM balances")) == 0
        queued = {person.id: 0 for person in self.plain.people}
        for one in self.plain.queued:
            queued[one.issued.person.id] += one.charged
        for person in self.plain.people:
            assert money.balance(conn, person.id) == person.balance + queued[person.id]
        rows = {row[:5]: list(row[5:]) for row in conn.execute("SELECT * FROM usage")}
        assert rows == self.plain.usage()
        receipts = conn.execute("SELECT id, status, body FROM receipts").fetchall()
        assert {
            ids.to_text(key): (status, usage.charged(usage.decode(body)))
            for key, status, body in receipts
        } == {one.receipt_id: (one.status, one.charged) for one in ended}

    def teardown(self) -> None:
        try:
            self.shop.books.flush()
            self._wrote()
            if self.plain.people:
                self.the_file_is_what_it_should_be()
            assert store.verify(self.shop.books.store.conn, SECRET).ok
        finally:
            self.shop.close()
            self.loop.close()
            self.directory.cleanup()


def test_money_is_where_it_should_be_whatever_happens_in_whatever_order(tmp_path: Path) -> None:
    Money.fresh = tmp_path / "fresh.db"
    Books(Money.fresh).close()
    run_state_machine_as_test(
        Money,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
