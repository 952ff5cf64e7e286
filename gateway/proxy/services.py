"""What the hot path works with: its parts, and the Protocols of those that may be replaced.

`app.py` makes one `Services`; the handler, the exchange and `api/` read it. The ledger and the
accounts are Protocols here, so that another store is one file. The proxy knows no SQL.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from gateway.accounts.funds import Funds
from gateway.alerts.daily import Daily
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.ledger import ids
from gateway.ledger.entry import Entry, Opening
from gateway.ledger.records import Key, User
from gateway.limits.limiter import Limits, Refusal, Standing, Subject, Whose
from gateway.metrics import Metrics
from gateway.proxy.health import Health
from gateway.proxy.providers import Provider
from gateway.proxy.routing import Router
from gateway.proxy.upstream import Upstreams

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange


class Ledger(Protocol):
    """What the hot path asks of the ledger; see `ledger/writer.py`."""

    @property
    def writable(self) -> bool:
        """False while receipts cannot be written."""

    def begin(self, opening: Opening) -> int:
        """Queue the row that opens a receipt; returns its ticket."""

    def when_durable(self, ticket: int, callback: Callable[[], None]) -> None:
        """Call back once that row is durable."""

    def finish(self, entry: Entry, callback: Callable[[], None] | None) -> None:
        """Queue a receipt with its charge; call back once durable."""

    async def state_owner(self, response_id: str) -> tuple[str, str] | None:
        """Who made a stored response and which provider holds it: (owner, provider)."""


class Accounts(Protocol):
    """What the hot path asks of the accounts; see `accounts/accounts.py`."""

    def identify(self, credential: bytes, now_ms: int) -> Key | None:
        """The key that a credential is."""

    def refusal(self, credential: bytes, now_ms: int) -> GatewayError:
        """Why it is none."""

    def user(self, user_id: int) -> User:
        """A key's user."""

    def funds(self, user_id: int) -> Funds:
        """A user's balance, in memory."""

    def key_funds(self, key_id: str) -> Funds:
        """What a key may still spend, in memory."""

    def cap(self, user_id: int, model: str) -> int | None:
        """The most that one call of a model may cost a user, nano-USD."""


class Limiter(Protocol):
    """What the hot path asks of the limits; see `limits/limiter.py`. `now` is monotonic seconds."""

    def subject(self, name: str, whose: Whose, limits: Limits, now: float) -> Subject:
        """The state of a key or a user, under these limits from now on."""

    def check(self, subjects: tuple[Subject, ...], tokens: int, now: float) -> Refusal | None:
        """Why one more request is not admitted; consumes nothing."""

    def take(self, subjects: tuple[Subject, ...], tokens: int, now: float) -> None:
        """Admit a request that `check` had nothing against."""

    def finish(self, subjects: tuple[Subject, ...], taken: int, used: int, now: float) -> None:
        """A request ended and used so many tokens."""

    def cancel(self, subjects: tuple[Subject, ...], taken: int, now: float) -> None:
        """A request that was taken is not made after all."""

    def standing(self, subjects: tuple[Subject, ...], now: float | None = None) -> Standing:
        """What is left, for the header fields of an answer."""


class Caller(msgspec.Struct, frozen=True):
    """Who is calling: a gateway key (`key`), or the provider's own key in `slot`.

    `owner` is who may read the receipt; `secret` is the caller's own provider key, if it is one.
    What limits a gateway key is here by reference: its and its user's `subjects` and funds.
    """

    owner: str
    key: Key | None
    slot: bytes
    secret: bytes
    multiplier: str = "1"
    cors: bytes = b""
    subjects: tuple[Subject, ...] = ()
    funds: Funds | None = None
    key_funds: Funds | None = None


class Services:
    """What the hot path works with; `config`, `router` and `providers` change on reload.

    `generation` counts the changes: what was remembered under another is forgotten.
    """

    def __init__(  # noqa: PLR0913 - the composition root's one list of parts
        self,
        *,
        config: Config,
        providers: Mapping[str, Provider],
        router: Router,
        ledger: Ledger,
        accounts: Accounts,
        limiter: Limiter,
        health: Health,
        daily: Daily,
        upstreams: Upstreams,
        metrics: Metrics,
        owner_hash: Callable[[bytes], str],
        log_request: Callable[[Entry, Caller], None] | None,
    ) -> None:
        self.config = config
        self.providers: Mapping[str, Provider] = providers
        self.router = router
        self.generation = 0
        self.ledger = ledger
        self.accounts = accounts
        self.limiter = limiter
        self.health = health
        self.daily = daily
        self.upstreams = upstreams
        self.metrics = metrics
        self.owner_hash = owner_hash
        self.log_request = log_request
        self.loop = asyncio.get_running_loop()
        self.time = time.monotonic  # uvloop's clock counts whole milliseconds
        self.new_id = ids.new_id
        self.exchanges: set[Exchange] = set()
        self.draining = False
        self.key_prefix = config.keys.prefix.encode()
        self.receipt_lines = _receipt_lines(config)

    def change(self, config: Config, providers: Mapping[str, Provider], router: Router) -> None:
        """Go on with these; requests that have begun end with what they began with."""
        self.config, self.providers, self.router = config, providers, router
        self.receipt_lines = _receipt_lines(config)
        self.generation += 1

    @staticmethod
    def wall_ms() -> int:
        """The wall clock, milliseconds since 1970."""
        return time.time_ns() // 1_000_000


def _receipt_lines(config: Config) -> bytes:
    """The header lines that name a receipt, with places for its id."""
    server = config.server
    return (
        f"{server.receipt_id_header}: %b\r\n{server.receipt_url_header}: /v1/receipts/%b\r\n"
        "x-request-id: %b\r\nrequest-id: %b\r\n"
    ).encode()
