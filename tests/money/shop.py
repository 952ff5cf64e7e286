"""The gateway's money without its network: real parts on a real file, and no thread.

`Shop` is one process: admission, claims, exchanges, accounts, limits, and the store that the
ledger's thread would write. What requests queue is written when a test says so (`Books.flush`), so
that a test decides what a dying process had written. Time stands still where nobody moves it.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec

from gateway import config as cfg
from gateway.accounts.accounts import Accounts
from gateway.alerts.daily import Daily, Thresholds
from gateway.ledger import usage
from gateway.ledger.batch import Store
from gateway.ledger.catalog import (
    Catalog,
    CatalogRecord,
    ModelRecord,
    PriceRecord,
    ProviderRecord,
    TierRecord,
)
from gateway.ledger.commit_thread import INTERRUPTED, Job, _sorted
from gateway.ledger.entry import Attempt, Entry, Failure, Opening
from gateway.ledger.records import ModelSettings
from gateway.ledger.writer import Ledger
from gateway.limits.limiter import Limiter
from gateway.metrics import Metrics
from gateway.proxy import endpoints, providers, settlement
from gateway.proxy.admission import Admission
from gateway.proxy.exchange import Exchange
from gateway.proxy.health import Health
from gateway.proxy.routing import Router, Target
from gateway.proxy.services import Caller, Services
from gateway.proxy.upstream import Upstreams
from gateway.wire import envelope
from gateway.wire.neutral import Metered

SECRET = b"the secret of this shop, which is 32 bytes or more"
CHAT = "/v1/chat/completions"
DEFAULT_OUTPUT = 512

CONFIG = cfg.parse(f"""
[billing]
default_max_output_tokens = {DEFAULT_OUTPUT}
[limits]
rpm = 1000000000
tpm = 1000000000000
[providers.openai]
format = "openai"
base_url = "http://127.0.0.1:9/v1"
keys = ["provider-key-1"]
[providers.backup]
format = "openai"
base_url = "http://127.0.0.1:9/other/v1"
catalog = "openai"
keys = ["provider-key-2"]
[models.up]
targets = ["openai/thrifty", "openai/plain", "backup/dear"]
[models.down]
targets = ["backup/dear", "openai/plain", "openai/thrifty"]
[models.long]
targets = ["openai/tiered", "backup/plain"]
""")
ALIASES = ("up", "down", "long", "plain")


def _model(
    name: str, price: PriceRecord, context: int | None = None, longest: int | None = None
) -> ModelRecord:
    return ModelRecord(
        id=name,
        name=name,
        kind="chat",
        price=price,
        context_length=context,
        max_output_tokens=longest,
    )


MODELS = (
    _model("thrifty", PriceRecord(input="0.15", output="0.60", cache_read="0.075"), 4096, 1024),
    _model("plain", PriceRecord(input="2.50", output="10.00", cache_read="1.25")),
    _model("dear", PriceRecord(input="60.00", output="240.00", cache_read="30.00"), None, 300),
    _model(
        "tiered",
        PriceRecord(
            input="1.25",
            output="10.00",
            cache_read="0.31",
            tiers=(TierRecord(above=700, input="2.50", output="15.00"),),
        ),
    ),
)
SETTINGS = {("backup", "dear"): ModelSettings("backup", "dear", multiplier="1.25")}

T = TypeVar("T")


CATALOG = Catalog(
    CatalogRecord(
        date=date(2026, 11, 1),
        source="these tests",
        version="1",
        providers=(ProviderRecord(id="openai", name="OpenAI", models=MODELS),),
    )
)


class Books:
    """What the ledger is to everybody else; `flush` does what its thread would.

    `queue` is what a process that dies now has not written.
    """

    def __init__(self, path: Path) -> None:
        self.store = Store.open(str(path), SECRET)
        # A process dies here, not the power: what it has written the file has.
        self.store.conn.execute("PRAGMA synchronous = OFF")
        left = [
            Entry(opening=opening, status="failed", http_status=0, failure=INTERRUPTED)
            for opening in self.store.left_open()
        ]
        if left:
            self.store.commit((), left)
        self.interrupted = [entry.opening for entry in left]
        self.queue: list[Opening | Entry | Job[Any]] = []
        self.waiting: list[Callable[[], None]] = []
        self.writable = True

    def begin(self, opening: Opening) -> int:
        self.queue.append(opening)
        return 0

    def finish(self, entry: Entry, callback: Callable[[], None] | None = None) -> None:
        self.queue.append(entry)
        if callback is not None:
            self.waiting.append(callback)

    async def execute(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.queue.append(Job(fn, future))
        self.flush()
        return await future

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        return fn(self.store.conn)

    def flush(self, again: list[Entry] | None = None) -> None:
        """Write all that is queued, in one transaction, and entries of `again` with it."""
        openings, entries, jobs = _sorted(cast("list[Any]", self.queue))
        self.queue = []
        self.store.commit(openings, [*(again or ()), *entries], jobs)
        for job in jobs:
            job.tell()
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()

    def break_off(self) -> None:
        """Die in the middle of writing: the transaction is begun and never ends."""

        def power_cut(conn: sqlite3.Connection) -> None:
            assert conn.in_transaction
            raise SystemExit

        openings, entries, _ = _sorted(cast("list[Any]", self.queue))
        try:
            self.store.commit(openings, entries, [power_cut])
        except SystemExit:
            assert self.store.conn.in_transaction
        self.close()

    def close(self) -> None:
        self.store.close()


class Flight:
    """A call that was admitted: its exchange, and what it may try next."""

    def __init__(self, exchange: Exchange, targets: tuple[Target, ...], size: int) -> None:
        assert exchange.claim is not None
        self.exchange = exchange
        self.claim = exchange.claim
        self.targets = targets
        self.at = 0
        self.size = size

    @property
    def target(self) -> Target:
        return self.targets[self.at]

    def fail_over(self) -> None:
        """Aim at the next target; GatewayError, and nothing else changes, where it is refused."""
        self.at += 1
        self.claim.aim(self.target)
        self.exchange.attempts.append(
            Attempt(self.targets[self.at - 1].provider.name, "m", "upstream_connect", None, 1.0)
        )
        self.exchange.target = self.target

    def end(self, ended: settlement.Ended, metered: Metered | None) -> None:
        """End it, as the relays would."""
        exchange = self.exchange
        failure = None
        status = "succeeded" if ended == "complete" else "failed"
        if ended == "client_left":
            status = "cancelled"
        if status != "succeeded":
            failure = Failure("gateway", "internal_error", "as the test says")
        exchange._settle(ended, metered, cast("Any", status), 200, failure, exchange.finished)


class Shop:
    """One process; `await Shop.open(path)`, and `close` or `die`."""

    def __init__(self, books: Books, accounts: Accounts, clock_ms: Callable[[], int]) -> None:
        config = CONFIG
        built = providers.build(config, None)
        router = Router(config, built, CATALOG, SETTINGS)
        self.now = 1000.0
        self.books = books
        self.accounts = accounts
        self.limiter = Limiter()
        self.daily = Daily(Thresholds(), on_crossing=lambda _: None, on_stop=lambda _: None)
        self.upstreams = Upstreams(keepalive_s=1.0, connections_max=1)
        health = Health()
        health.configure(config, built)
        self.services = Services(
            config=config,
            providers=built,
            router=router,
            ledger=cast("Any", books),
            accounts=accounts,
            limiter=self.limiter,
            health=health,
            daily=self.daily,
            upstreams=self.upstreams,
            metrics=Metrics(),
            owner_hash=lambda _: "byok:nobody",
            log_request=None,
        )
        self.services.time = lambda: self.now
        cast("Any", self.services).wall_ms = clock_ms
        self.admission = Admission(self.services)
        endpoint = endpoints.classify(CHAT, "", built)
        assert endpoint is not None
        self.endpoint = endpoint

    @classmethod
    async def open(cls, path: Path, clock_ms: Callable[[], int]) -> "Shop":
        books = Books(path)
        ledger = cast("Ledger", books)
        shop = cls(books, await Accounts.load(ledger, SECRET, "gw-", clock_ms=clock_ms), clock_ms)
        day = clock_ms() // usage.DAY_MS
        shop.daily.load(usage.sums(books.store.conn, day), clock_ms())
        return shop

    def close(self) -> None:
        self.upstreams.close()
        self.books.close()

    def caller(self, text: str) -> Caller:
        """Who a key is; GatewayError where it is refused."""
        now_ms = self.services.wall_ms()
        credential = text.encode()
        key = self.accounts.identify(credential, now_ms)
        if key is None:
            raise self.accounts.refusal(credential, now_ms)
        return self.admission._key_caller(key, b"authorization", b"")

    def call(self, text: str, body: bytes) -> Flight:
        """Admit a call; GatewayError, and nothing is taken, where it is refused."""
        caller = self.caller(text)
        seen = envelope.peek(body, self.endpoint.format)
        assert seen.model is not None
        targets, claim = self.admission.claim(self.endpoint, caller, seen.model, body, seen)
        down = SimpleNamespace(method="POST", reader=None, gone=None)
        exchange = Exchange(self.services, cast("Any", down), self.endpoint, caller)
        exchange.about(seen.model, stream=False, size=len(body))
        exchange.claim = claim
        exchange.open()
        exchange.target = targets[0]
        return Flight(exchange, targets, len(body))


def chat(
    model: str, content: str = "Hello", *, max_tokens: int | None = None, n: int | None = None
) -> bytes:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if n is not None:
        body["n"] = n
    return msgspec.json.encode(body)
