"""What a verb is, and what it acts on.

A verb is a function from a `Context` and its arguments to an answer. `changes` and `reads` make one
that takes JSON (the socket, the command line) or text (the query of a URL). Arguments are strict:
an unknown or a wrong one is refused, named. `*_verbs.py` define verbs, `verbs.py` is their table.
"""

import asyncio
import contextlib
import functools
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from gateway.accounts.accounts import Accounts, wall_clock_ms
from gateway.accounts.sign_in import SignIn
from gateway.accounts.upstream_settings import UpstreamSettings
from gateway.admin.operations import Operations
from gateway.config import Config
from gateway.errors import Conflict
from gateway.ledger.catalog import Catalog
from gateway.ledger.receipt import timestamp
from gateway.ledger.records import User
from gateway.ledger.writer import Ledger

_log = logging.getLogger("gateway.admin")

_AT = re.compile(r"^(?P<what>.*?) - at `(?:key` in `)?\$\.?(?P<path>[^`]*)`$", re.DOTALL)
_NAMED = re.compile(r"^Object (?P<what>contains unknown|missing required) field `(?P<field>[^`]*)`")
_FIELD = re.compile(r"^(?P<field>[a-z_]+)(?:[.\[][^:]*)?: ")

_SUBJECTS = ("name", "user", "id", "provider", "model")
"""Arguments that say what a verb is about; none of them is secret."""


class BadArguments(Conflict):
    """The arguments of a verb are not what it takes; the message opens with the one at fault."""


class UnknownVerb(Exception):
    """No verb has this name."""


@functools.cache
def shipped_catalog() -> Catalog:
    """The catalog of the package, read once and only where a verb wants it."""
    return Catalog.load()


@dataclass(frozen=True, slots=True)
class Context:
    """What the verbs act on. `secret` is the server's, for checking the receipt chain.

    `operations` is the running server, None where the command line opened the store itself;
    `config` and `catalog` give those of the moment; `user_changed` is told of a user whose
    settings changed, `provider_resumed` of a provider to use again, where other parts of the server
    remember them.
    """

    accounts: Accounts
    ledger: Ledger
    secret: bytes = field(repr=False)
    upstreams: UpstreamSettings
    sign_in: SignIn
    operations: Operations | None = None
    config: Callable[[], Config] = Config
    catalog: Callable[[], Catalog] = shipped_catalog
    clock_ms: Callable[[], int] = wall_clock_ms
    user_changed: Callable[[User], None] | None = None
    provider_resumed: Callable[[str], None] | None = None
    order: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    """Held by verbs that read, then write what they read changed."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a verb takes."""


class NoArguments(Arguments, frozen=True, kw_only=True):
    """Nothing."""


A = TypeVar("A", bound=Arguments)
R = TypeVar("R", bound=msgspec.Struct | msgspec.Raw)


class Verb(Generic[A]):
    """One verb. Raises `BadArguments`, `Conflict` (`Missing`, `KeyReused`) or `StoreError`.

    `name` is that of the table, `takes` the type of its arguments, `gives` that of its answer;
    `writes` is whether it changes anything.
    """

    def __init__(
        self,
        name: str,
        takes: type[A],
        gives: Any,
        run: Callable[[Context, A], Awaitable[msgspec.Struct | msgspec.Raw]],
        *,
        writes: bool,
    ) -> None:
        self.name = name
        self.takes = takes
        self.gives = gives
        self.writes = writes
        self._run = run
        self._decoder = msgspec.json.Decoder(takes)

    async def __call__(self, context: Context, payload: bytes, who: str = "operator") -> bytes:
        """Run it with JSON arguments for `who` (shown in the log) and give its JSON answer."""
        try:
            arguments = self._decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise BadArguments(_told(str(exc))) from None
        return await self.run(context, arguments, who)

    async def from_text(self, context: Context, values: Mapping[str, Any], who: str) -> bytes:
        """The same with arguments that are text, as in a URL, whatever their type."""
        try:
            arguments = msgspec.convert(dict(values), self.takes, strict=False)
        except msgspec.ValidationError as exc:
            raise BadArguments(_told(str(exc))) from None
        return await self.run(context, arguments, who)

    async def run(self, context: Context, arguments: A, who: str) -> bytes:
        """The same with arguments as they are."""
        answer = await self._run(context, arguments)
        if self.writes:
            _log.info("%s: %s %s", who, self.name, _subject(arguments))
        return msgspec.json.encode(answer)


def changes(
    name: str, takes: type[A], gives: type[R], run: Callable[[Context, A], Awaitable[R]]
) -> Verb[A]:
    """A verb that changes something."""
    return Verb(name, takes, gives, run, writes=True)


def reads(
    name: str, takes: type[A], gives: type[R], run: Callable[[Context, A], Awaitable[R]]
) -> Verb[A]:
    """A verb that only looks."""
    return Verb(name, takes, gives, run, writes=False)


@contextlib.contextmanager
def checking() -> Iterator[None]:
    """What is a `Conflict` inside is wrong arguments: nothing was looked at but they."""
    try:
        yield
    except Conflict as exc:
        raise BadArguments(str(exc)) from None


def field_of(message: str) -> str | None:
    """The argument that a refusal opens with."""
    match = _FIELD.match(message)
    return match["field"] if match and match["field"] != "arguments" else None


def when(at_ms: int | None) -> str | None:
    """A moment as shown."""
    return None if at_ms is None else timestamp(at_ms)


def _subject(arguments: Arguments) -> str:
    found = ((name, getattr(arguments, name, None)) for name in _SUBJECTS)
    return " ".join(f"{name}={value!r}" for name, value in found if isinstance(value, str))


def _told(message: str) -> str:
    """What msgspec says, opening with the argument instead of ending in its place."""
    match = _AT.match(message)
    what, path = (match["what"], match["path"]) if match else (message, "")
    if named := _NAMED.match(what):
        path = f"{path}.{named['field']}" if path else named["field"]
        what = "unknown" if named["what"] == "contains unknown" else "is required"
    return f"{path or 'arguments'}: {what[:1].lower()}{what[1:]}".replace("`", "")
