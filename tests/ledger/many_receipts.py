"""Stores with many receipts, as they would look after weeks of use; for tests and for trying.

    .venv/bin/python -m tests.ledger.many_receipts --receipts 1000000 --store /tmp/many.db

makes a store that `gateway serve` opens and `gateway ledger check` finds in order: real users with
balances and keys (whose texts are printed), receipts by several formats, models and providers,
failed, cancelled and failed over, charged at the catalog's prices, in one valid chain. Written
through the code that writes every receipt. The same seed gives the same receipts, apart from the
keys. A million take about a minute and 900 MB.
"""

import argparse
import asyncio
import heapq
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

from gateway.accounts import secret
from gateway.accounts.accounts import Accounts
from gateway.accounts.changes import KeySpec
from gateway.ledger import ids, prices, usage
from gateway.ledger.batch import Store
from gateway.ledger.catalog import Catalog
from gateway.ledger.entry import Attempt, Entry, Failure, Opening, PriceShown
from gateway.ledger.records import Key, User
from gateway.ledger.writer import Ledger
from gateway.wire.neutral import Usage

T = TypeVar("T")

DAYS = 60
COMMIT_RECEIPTS = 4096
COMMITS_PER_CHECKPOINT = 8
PREFIX = "gw-"


class Person(NamedTuple):
    """A user with keys: `share` of all requests are theirs, `key_shares` of these each key's."""

    name: str
    email: str
    admin: bool
    share: float
    key_shares: dict[str, float]


PEOPLE = (
    Person("admin", "admin@example.org", True, 2, {"laptop": 1}),
    Person("ada", "ada@example.org", False, 55, {"production": 90, "staging": 9.9, "trial": 0.02}),
    Person("bob", "bob@example.org", False, 25, {"web": 60, "batch": 40}),
    Person("carol", "carol@example.org", False, 12, {"notebook": 1}),
    Person("dan", "dan@example.org", False, 3, {"cli": 80, "evaluation": 20}),
    Person("eve", "eve@example.org", False, 0.02, {"first": 1}),
)
BYOK_SHARE = 3.0
BYOK_OWNERS = tuple(f"byok:{number:064x}" for number in (0xC0FFEE, 0xBEEF, 0xFACADE))


class Kind(NamedTuple):
    """A way to call: what is asked for and where it goes, first choice first."""

    share: float
    model: str
    endpoint: str
    format: str
    targets: tuple[tuple[str, str, str], ...]
    """provider, model, format."""


_CHAT, _MESSAGES = "/v1/chat/completions", "/v1/messages"
_GPT_4O = ("openai", "gpt-4o", "openai_chat")
_SONNET = ("anthropic", "claude-sonnet-4-5", "anthropic_messages")
KINDS = (
    Kind(30, "gpt-4o-mini", _CHAT, "openai_chat", (("openai", "gpt-4o-mini", "openai_chat"),)),
    Kind(18, "premium", _CHAT, "openai_chat", (_GPT_4O, _SONNET)),
    Kind(14, "claude-sonnet-4-5", _MESSAGES, "anthropic_messages", (_SONNET, _GPT_4O)),
    Kind(12, "gpt-4o", "/v1/responses", "openai_responses",
         (("openai", "gpt-4o", "openai_responses"),)),
    Kind(9, "gemini-2.5-flash", "/v1beta/models/gemini-2.5-flash:streamGenerateContent", "gemini",
         (("google", "gemini-2.5-flash", "gemini"),)),
    Kind(7, "text-embedding-3-small", "/v1/embeddings", "openai_embeddings",
         (("openai", "text-embedding-3-small", "openai_embeddings"),)),
    Kind(5, "basic", _MESSAGES, "anthropic_messages",
         (("deepseek", "deepseek-chat", "openai_chat"),
          ("openai", "gpt-4o-mini", "openai_chat"))),
    Kind(0.02, "gemini-2.5-pro", _CHAT, "openai_chat", (("google", "gemini-2.5-pro", "gemini"),)),
)  # fmt: skip

REFUSALS = (
    (429, Failure("rate_limit", "rate_limit_exceeded", "Rate limit exceeded: 600 RPM")),
    (402, Failure("balance", "insufficient_balance", "Insufficient credit balance: top up or "
                  "lower max_tokens")),
    (400, Failure("routing", "unknown_model_pricing", "Unknown model pricing: gpt-7-preview")),
    (403, Failure("routing", "model_not_allowed", "This key may not call this model")),
)  # fmt: skip
FAILURES = (
    (503, "upstream_status", 529, "upstream_error", "All upstream providers failed"),
    (503, "upstream_connect", None, "upstream_error", "All upstream providers failed"),
    (504, "upstream_timeout", None, "upstream_timeout", "No answer within 60 s"),
    (200, "upstream_stream", 200, "truncated", "The stream ended without its end"),
)
FAILURE_SHARES = (60, 20, 15, 5)


class Made(NamedTuple):
    """What `make` made: the users, their keys, and each key's text by its id."""

    users: list[User]
    keys: list[Key]
    texts: dict[str, str]


class _Who(NamedTuple):
    owner: str
    user_id: int | None = None
    key_id: str | None = None


class _Priced(NamedTuple):
    price: prices.Price
    shown: PriceShown


async def make(
    store_path: str, receipts: int, *, seed: int = 1, until_ms: int, days: int = DAYS
) -> Made:
    """Make a store, its secret beside it, with so many receipts of the `days` before `until_ms`."""
    key = secret.load(store_path, {})
    since_ms = until_ms - days * usage.DAY_MS
    made = await _register(store_path, key, since_ms)
    charged: dict[int, int] = {}
    opened = Store.open(store_path, key)
    try:
        fill(opened, entries(made.keys, receipts, seed, since_ms, until_ms), charged)
    finally:
        opened.close()
    await _credit(store_path, key, made, charged, until_ms)
    return made


def fill(opened: Store, source: Iterator[Entry], charged: dict[int, int]) -> None:
    """Commit all entries; adds what each user is charged to `charged`."""
    commits = 0
    while batch := list(islice(source, COMMIT_RECEIPTS)):
        opened.commit((), batch)
        commits += 1
        if commits % COMMITS_PER_CHECKPOINT == 0:
            opened.checkpoint()
        for entry in batch:
            user_id = entry.opening.user_id
            if user_id is not None:
                charged[user_id] = charged.get(user_id, 0) + usage.charged(entry)


def entries(
    keys: list[Key], receipts: int, seed: int, since_ms: int, until_ms: int
) -> Iterator[Entry]:
    """So many receipts in the order in which their requests ended, which is not that of arrival."""
    rng = random.Random(seed)
    now_ms = 0
    new_id = ids.id_source(lambda: now_ms * 1_000_000, rng.randbytes)
    draw = _Drawing(rng, keys)
    waiting: list[tuple[int, int, Entry]] = []
    for number in range(receipts):
        # Arrivals in order: each takes its part of what is left of the time.
        now_ms = since_ms + int((number + rng.random()) * (until_ms - since_ms) / receipts)
        while waiting and waiting[0][0] <= now_ms:
            yield heapq.heappop(waiting)[2]
        entry = draw.entry(new_id, now_ms)
        heapq.heappush(waiting, (now_ms + int(entry.total_ms), number, entry))
    while waiting:
        yield heapq.heappop(waiting)[2]


class _Drawing:
    """Draws requests; everything that can be is drawn from tables made once."""

    def __init__(self, rng: random.Random, keys: list[Key]) -> None:
        self._rng = rng
        self._who = self._table(_callers(keys))
        self._kinds = self._table([(kind, kind.share) for kind in KINDS])
        catalog = Catalog.load()
        self._priced: dict[tuple[str, str], _Priced] = {}
        for kind in KINDS:
            for provider, model, _ in kind.targets:
                found = catalog.find(provider, model)
                assert found is not None, (provider, model)
                shown = prices.shown(found.price, found.price_version)
                self._priced[provider, model] = _Priced(found.price, shown)

    def _table(self, weighted: list[tuple[T, float]]) -> Callable[[], T]:
        values = [value for value, _ in weighted]
        limits: list[float] = []
        for _, share in weighted:
            limits.append((limits[-1] if limits else 0.0) + share)
        return lambda: self._rng.choices(values, cum_weights=limits)[0]

    def entry(self, new_id: Callable[[], str], now_ms: int) -> Entry:
        rng = self._rng
        who, kind = self._who(), self._kinds()
        opening = Opening(
            id=new_id(),
            owner=who.owner,
            created_ms=now_ms,
            endpoint=kind.endpoint,
            format=kind.format,
            model=kind.model,
            stream=kind.endpoint != "/v1/embeddings" and rng.random() < 0.7,
            bytes=int(rng.lognormvariate(7, 1.5)),
            user_id=who.user_id,
            key_id=who.key_id,
        )
        luck = rng.random()
        if luck < 0.015:
            status, failure = rng.choice(REFUSALS)
            return Entry(
                opening=opening, status="failed", http_status=status, failure=failure,
                total_ms=0.2 + rng.random(), gateway_ms=0.1 + rng.random() / 10,
            )  # fmt: skip
        if luck < 0.035:
            return self._failed(opening, kind)
        return self._answered(opening, kind, cancelled=luck < 0.05, failed_over=luck > 0.97)

    def _tried(self, target: tuple[str, str, str], outcome: str, status: int | None) -> Attempt:
        return Attempt(*target[:2], outcome, status, round(self._rng.lognormvariate(4, 1), 3))

    def _failed(self, opening: Opening, kind: Kind) -> Entry:
        ((http_status, stage, status, code, message),) = self._rng.choices(FAILURES, FAILURE_SHARES)
        attempts = [self._tried(target, stage, status) for target in kind.targets]
        provider, model, wire_format = kind.targets[-1]
        spent_ms = sum(attempt.ms for attempt in attempts)
        return Entry(
            opening=opening,
            status="failed",
            http_status=http_status,
            failure=Failure(stage, code, message),
            provider=provider,
            route_model=model,
            route_format=wire_format,
            translated=wire_format != opening.format,
            attempts=attempts,
            billed=opening.user_id is not None,
            connect_ms=None if stage == "upstream_connect" else 12.0,
            total_ms=spent_ms + 1.0,
            gateway_ms=0.4,
            hold_nano_usd=0,
        )

    def _answered(
        self, opening: Opening, kind: Kind, *, cancelled: bool, failed_over: bool
    ) -> Entry:
        rng = self._rng
        attempts = []
        target = kind.targets[0]
        if failed_over and len(kind.targets) > 1:
            attempts.append(self._tried(target, "upstream_status", 429))
            target = kind.targets[1]
        attempts.append(self._tried(target, "client_disconnect" if cancelled else "succeeded", 200))
        provider, model, wire_format = target
        tokens = int(rng.lognormvariate(6, 1.3)) + 1
        counted = Usage(
            input_tokens=tokens,
            output_tokens=0 if kind.endpoint == "/v1/embeddings" else int(rng.lognormvariate(5, 1)),
            cache_read_input_tokens=tokens * 3 // 4 if rng.random() < 0.3 else None,
        )
        priced = self._priced[provider, model]
        cost = prices.cost(counted, priced.price)
        first_ms = sum(attempt.ms for attempt in attempts) + rng.lognormvariate(5.5, 0.6)
        lasted_ms = first_ms + counted.output_tokens * rng.uniform(8, 40) * opening.stream
        billed = opening.user_id is not None
        return Entry(
            opening=opening,
            status="cancelled" if cancelled else "succeeded",
            http_status=499 if cancelled else 200,
            failure=Failure("client_disconnect", "client_disconnect", "The client disconnected")
            if cancelled
            else None,
            provider=provider,
            route_model=model,
            route_format=wire_format,
            translated=wire_format != opening.format,
            upstream_request_id=f"req_{rng.getrandbits(80):020x}",
            attempts=attempts,
            usage=counted,
            usage_source="partial" if cancelled else "reported",
            cost_nano_usd=cost,
            billed=billed,
            price=priced.shown,
            connect_ms=0.0 if rng.random() < 0.9 else rng.lognormvariate(3, 0.4),
            first_byte_ms=first_ms,
            total_ms=lasted_ms,
            gateway_ms=rng.lognormvariate(-1.6, 0.3),
            response_id=f"resp_{rng.getrandbits(96):024x}",
            response_model=model,
            hold_nano_usd=3 * cost if billed else 0,
            list_nano_usd=cost,
        )


def _callers(keys: list[Key]) -> list[tuple[_Who, float]]:
    people = {person.name: person for person in PEOPLE}
    found = [(_Who(owner), BYOK_SHARE / len(BYOK_OWNERS)) for owner in BYOK_OWNERS]
    for key in sorted(keys, key=lambda key: (key.user_id, key.name)):
        person = people[key.user_name]
        part = person.key_shares[key.name] / sum(person.key_shares.values())
        found.append((_Who(f"user:{key.user_id}", key.user_id, key.id), person.share * part))
    return found


def _stopped(exc: BaseException) -> None:
    raise AssertionError("the ledger stopped") from exc


async def _register(store_path: str, key: bytes, at_ms: int) -> Made:
    ledger = await Ledger.open(store_path, secret=key, durability="full", on_fatal=_stopped)
    try:
        accounts = await Accounts.load(ledger, key, PREFIX, clock_ms=lambda: at_ms)
        texts = {}
        for person in PEOPLE:
            await accounts.create_user(person.name, email=person.email, admin=person.admin)
            for name in person.key_shares:
                made, text = await accounts.create_key(person.name, KeySpec(name=name))
                texts[made.id] = text
        return Made(accounts.list_users(), accounts.list_keys(), texts)
    finally:
        await ledger.close()


async def _credit(
    store_path: str, key: bytes, made: Made, charged: dict[int, int], at_ms: int
) -> None:
    """Give each user credit in whole tens of dollars, so that some 25 dollars are left."""
    ten_usd = 10 * prices.NANO_PER_USD
    ledger = await Ledger.open(store_path, secret=key, durability="full", on_fatal=_stopped)
    try:
        accounts = await Accounts.load(ledger, key, PREFIX, clock_ms=lambda: at_ms)
        for user in made.users:
            spent = charged.get(user.id, 0)
            await accounts.credit(user.name, -(-spent // ten_usd) * ten_usd + 2 * ten_usd)
    finally:
        await ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a store with many receipts.")
    parser.add_argument("--receipts", type=int, default=100_000)
    parser.add_argument("--store", required=True, help="the file to make; it must not exist")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=DAYS)
    args = parser.parse_args()
    now_ms = time.time_ns() // 1_000_000
    begun = time.perf_counter()
    made = asyncio.run(
        make(args.store, args.receipts, seed=args.seed, until_ms=now_ms, days=args.days)
    )
    lines = [f"{args.receipts} receipts in {time.perf_counter() - begun:.0f} s: {args.store}"]
    lines += [
        f"{key.user_name:8} {key.name:12} {key.id:24} {made.texts[key.id]}" for key in made.keys
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
