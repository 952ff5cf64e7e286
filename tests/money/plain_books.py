"""What the money should be: plain numbers, no store, no holds of anybody else's making.

The oracle of the state machine. It knows the prices as dollars, the billing table as a list, and
what a process forgets when it dies; nothing here is read from the parts that are under test, but
for the worst case of a call, which is a pure function with properties of its own.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from gateway.ledger.catalog import Model
from gateway.ledger.worst_case import fitting_output, worst_case
from gateway.proxy.settlement import Ended
from gateway.wire.neutral import Demand, Metered, Usage

USD_PER_MTOK = {
    "thrifty": ("0.15", "0.60", "0.075"),
    "plain": ("2.50", "10.00", "1.25"),
    "dear": ("60.00", "240.00", "30.00"),
    "tiered": ("1.25", "10.00", "0.31"),
    "tiered, above 700": ("2.50", "15.00", "2.50"),
}
"""Fresh input, output, cached input."""

FACTORS = {("backup", "dear"): "1.25"}

ROWS: tuple[tuple[Ended, bool | None, bool], ...] = (
    # refused upstream, unreachable, timed out, a status from 400 up, a fault of the gateway
    ("no_answer", None, False),
    ("no_answer", True, True),
    ("complete", True, True),
    ("complete", False, True),
    ("complete", None, False),
    ("upstream_broke", True, False),
    ("upstream_broke", False, False),
    ("client_left", True, False),
    ("client_left", True, True),
    ("client_left", False, False),
    ("client_left", None, False),
)
"""How a call ends; whether usage was reported (None: nothing was read at all), and all of it."""


def counted(size: int) -> int:
    """Tokens of so many bytes of text: four to one, and a part of one is one."""
    return (size + 3) // 4


def tokens_due(
    ended: Ended, metered: Metered | None, request_bytes: int
) -> tuple[int, int, int] | None:
    """Input, output and, of the input, cached tokens that are charged; None: nothing is."""
    if ended == "no_answer" or metered is None:
        return None
    reported, text = metered.usage, counted(metered.text_bytes)
    if reported is not None:
        output = reported.output_tokens
        if ended == "client_left" and not metered.complete:
            output = max(output, text)
        return reported.input_tokens, output, reported.cache_read_input_tokens or 0
    if ended == "complete" or (ended == "client_left" and text):
        return counted(request_bytes), text, 0
    return None


def nano_usd(model: str, tokens: tuple[int, int, int], *factors: str) -> int:
    """What tokens cost, times the factors, rounded half up."""
    fresh, output, cached = tokens[0] - tokens[2], tokens[1], tokens[2]
    if model == "tiered" and tokens[0] > 700:
        model = "tiered, above 700"
    rates = [Fraction(usd) * 1000 for usd in USD_PER_MTOK[model]]
    total = fresh * rates[0] + output * rates[1] + cached * rates[2]
    for factor in factors:
        total *= Fraction(factor)
    return int(total + Fraction(1, 2))


@dataclass
class Person:
    """A user. `taken` is what corrections took away: no hold stands in their way."""

    id: int
    name: str
    balance: int = 0
    held: int = 0
    taken: int = 0
    suspended: bool = False
    multiplier: str = "1"
    caps: dict[str, int] = field(default_factory=dict)


@dataclass
class Issued:
    """A key. `cap` None: its user's balance alone bounds it."""

    id: str
    text: str
    person: Person
    concurrent: int
    cap: int | None = None
    spent: int = 0
    held: int = 0
    flights: int = 0
    revoked: bool = False


@dataclass
class Ending:
    """A call that has ended, as its receipt should say."""

    receipt_id: str
    issued: Issued
    day: int
    target: tuple[str, str]
    status: str = "failed"
    held: int = 0
    charged: int = 0
    listed: int = 0
    tokens: tuple[int, int] = (0, 0)

    @property
    def beyond(self) -> int:
        """What it cost more than was held for it."""
        return max(0, self.charged - self.held)


class PlainBooks:
    """All of it: what the process knows, and which part of that it has written.

    `ended` is in the file; `queued` is known to the process alone. `begun` are the ids of calls
    that the file knows to be under way, `open` those that are.
    """

    def __init__(self) -> None:
        self.people: list[Person] = []
        self.issued: list[Issued] = []
        self.codes: list[tuple[str, int]] = []
        self.redeemed: set[int] = set()
        self.given: dict[str, tuple[Person, int, Any]] = {}
        self.credited = 0
        self.transfers = 0
        self.open: dict[str, tuple[Issued, int]] = {}
        self.begun: dict[str, tuple[Issued, int]] = {}
        self.queued: list[Ending] = []
        self.ended: dict[str, Ending] = {}

    # what the operator does, at once in the file

    def give(self, person: Person, nano: int) -> None:
        person.balance += nano
        person.taken += max(0, -nano)
        self.credited += nano
        self.transfers += 1

    # what calls do

    def begin(self, receipt_id: str, issued: Issued, day: int, held: int) -> None:
        self.open[receipt_id] = issued, day
        issued.flights += 1
        self.hold(issued, held)

    @staticmethod
    def hold(issued: Issued, more: int) -> None:
        issued.held += more
        issued.person.held += more

    def end(self, ending: Ending) -> None:
        issued = ending.issued
        del self.open[ending.receipt_id]
        issued.flights -= 1
        self.hold(issued, -ending.held)
        issued.spent += ending.charged
        issued.person.balance -= ending.charged
        self.queued.append(ending)

    # what the process does

    def write(self) -> None:
        """All that was queued is in the file, with the beginnings of what is under way."""
        for ending in self.queued:
            self._keep(ending)
        self.queued = []
        self.begun.update(self.open)

    def _keep(self, ending: Ending) -> None:
        assert ending.receipt_id not in self.ended
        self.ended[ending.receipt_id] = ending
        self.begun.pop(ending.receipt_id, None)
        self.transfers += ending.charged > 0

    def die(self) -> list[str]:
        """Forget what is not in the file; the ids of the calls that the next start closes."""
        for ending in self.queued:
            ending.issued.spent -= ending.charged
            ending.issued.person.balance += ending.charged
        self.queued = []
        self.open = {}
        for person in self.people:
            person.held = 0
        for issued in self.issued:
            issued.held = issued.flights = 0
        closed = sorted(self.begun)
        for receipt_id in closed:
            issued, day = self.begun[receipt_id]
            self._keep(Ending(receipt_id, issued, day, ("", "")))
        return closed

    # what follows

    def beyond(self, person: Person) -> int:
        """What a user's calls cost more than was held for them."""
        return sum(
            one.beyond
            for one in (*self.ended.values(), *self.queued)
            if one.issued.person is person
        )

    def spendable(self, issued: Issued) -> int:
        """What a key's next call may hold."""
        left = issued.person.balance - issued.person.held
        if issued.cap is not None:
            left = min(left, issued.cap - issued.spent - issued.held)
        return left

    def usage(self) -> dict[tuple[int, int, str, str, str], list[int]]:
        """The sums of what is in the file, by day, user, key, provider and model."""
        sums: dict[tuple[int, int, str, str, str], list[int]] = {}
        for one in self.ended.values():
            key = (one.day, one.issued.person.id, one.issued.id, *one.target)
            row = sums.setdefault(key, [0, 0, 0, 0, 0, 0])
            failed = one.status != "succeeded"
            for at, number in enumerate((1, failed, *one.tokens, one.charged, one.listed)):
                row[at] += number
        return sums


@dataclass(frozen=True)
class Asked:
    """A call: who asks for which model, and the most that it can use."""

    issued: Issued
    model: str
    demand: Demand
    multiplier: str

    def hold_at(
        self, books: PlainBooks, target: tuple[str, str], known: Model, default_output: int,
        held: int,
    ) -> int | str:  # fmt: skip
        """What is held once it is aimed at a target, or the code of the refusal."""
        rates = {
            "rate_multiplier": self.multiplier,
            "model_multiplier": FACTORS.get(target, "1"),
        }
        worst = worst_case(self.demand, known, default_output=default_output, **rates)
        cap = self.issued.person.caps.get(self.model)
        if cap is not None:
            if self.demand.max_output_tokens is not None:
                if worst > cap:
                    return "call_cap_exceeded"
            else:
                fits = fitting_output(self.demand, known, cap, **rates)
                if fits < 1:
                    return "call_cap_exceeded"
                worst = worst_case(
                    self.demand, known, default_output=min(default_output, fits), **rates
                )
        if worst <= held:
            return held
        if worst - held > books.spendable(self.issued):
            return "insufficient_balance"
        return worst


def reported(input_tokens: int, output_tokens: int, cached: int) -> Usage:
    """Usage with so many of its input tokens read from a cache."""
    return Usage(
        input_tokens, output_tokens, cache_read_input_tokens=min(cached, input_tokens) or None
    )
