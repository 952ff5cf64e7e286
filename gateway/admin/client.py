"""How the command line reaches the verbs: through a running server, or on the store itself.

`connect` tries the server's socket first. If nobody answers it opens the store, whose lock then
tells whether a server is there after all. Blocking; called by `cli.py` only. The half that opens
the store is imported when needed, so that talking to a server stays quick.
"""

import asyncio
import contextlib
import http.client
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from gateway.config import Config
from gateway.errors import Conflict, StoreError

if TYPE_CHECKING:
    from gateway.ledger.receipt import ExportFormat

Call = Callable[[str, bytes], bytes]
"""(verb's name, JSON arguments) -> JSON result; raises `Conflict` or `StoreError`."""

BUSY_SECONDS = 3.0
"""How long to wait for a store that another process holds without answering."""

_RETRY_SECONDS = 0.05
_REFUSALS: tuple[int, ...] = (400, 404, 409, 422)


class _Fault(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    error: _Fault


def socket_path(config: Config) -> str:
    """Where the control socket is: `admin.socket`, or beside the store."""
    return config.admin.socket or f"{config.store.path}.sock"


@contextlib.contextmanager
def connect(config: Config, *, writes: bool) -> Iterator[Call]:
    """Give a `Call` for the length of the block. Raises `StoreError` if neither way is open.

    `writes` False refuses a store that does not exist.
    """
    path = socket_path(config)
    if not writes and not _answers(path):
        _refuse_missing(config)
    end = time.monotonic() + BUSY_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            if _answers(path):
                call = _through(path)
                break
            try:
                call = stack.enter_context(_opened(config))
                break
            except StoreError as exc:
                # Somebody has the store's lock: a server about to open its socket, or to end, or
                # another command. Either way the next try finds out.
                locked = isinstance(exc.__cause__, BlockingIOError)
                if not locked or time.monotonic() > end:
                    raise
                time.sleep(_RETRY_SECONDS)
        yield call


def verify(config: Config) -> bytes:
    """Walk the receipt chain and give the result of `receipts.verify`, as JSON.

    In this process and on the file itself, so that a long walk costs a running server nothing
    and a chain too broken for a ledger to open is still told apart. A server is asked only where
    its secret cannot be read from here (`secret.py`, sources 1 and 2).
    """
    _refuse_missing(config)
    import sqlite3

    from gateway.accounts import secret
    from gateway.admin.receipt_verbs import verified
    from gateway.ledger import store

    try:
        key = secret.load(config.store.path)
    except StoreError:
        path = socket_path(config)
        if _answers(path):
            return _through(path)("receipts.verify", b"{}")
        raise
    try:
        return msgspec.json.encode(verified(store.verify_file(config.store.path, key)))
    except sqlite3.Error as exc:
        raise StoreError(f"{config.store.path}: {exc}") from None


def check_books(config: Config) -> bytes:
    """Walk the books and give the result of `ledger.check`, as JSON: in this process, as `verify`.

    Of one moment of the store, whatever a running server writes meanwhile.
    """
    _refuse_missing(config)
    import sqlite3

    from gateway.admin.money_verbs import checked
    from gateway.ledger import money, schema

    try:
        with contextlib.closing(schema.open_reader(config.store.path)) as conn:
            return msgspec.json.encode(checked(money.check_books(conn)))
    except sqlite3.Error as exc:
        raise StoreError(f"{config.store.path}: {exc}") from None


def export(config: Config, since_ms: int, form: "ExportFormat") -> Iterator[bytes]:
    """All receipts since a moment, oldest first, as lines; of one moment of the store.

    In this process for the reason that `verify` is. The store's log cannot be emptied before the
    iterator is: do not let it wait on anybody.
    """
    _refuse_missing(config)
    return _exported(config.store.path, since_ms, form)


def _exported(path: str, since_ms: int, form: "ExportFormat") -> Iterator[bytes]:
    import sqlite3

    from gateway.ledger import receipt, schema, store

    try:
        with contextlib.closing(schema.open_reader(path)) as conn:
            yield from receipt.export(store.receipts_since(conn, since_ms), form)
    except sqlite3.Error as exc:
        raise StoreError(f"{path}: {exc}") from None


def _refuse_missing(config: Config) -> None:
    # Reading must not make an empty store, least of all under a mistyped path.
    if not os.path.exists(config.store.path):
        raise StoreError(f"there is no store at {config.store.path} (store.path) yet")


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError as exc:
            raise StoreError(f"{path}: {exc.strerror or exc} (the server's admin socket)") from None
    return True


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        # No time limit: verifying a long chain takes as long as it takes, and ^C ends it.
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def _through(path: str) -> Call:
    def call(verb: str, arguments: bytes) -> bytes:
        connection = _Connection(path)
        try:
            connection.request(
                "POST", f"/verbs/{verb}", arguments, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as exc:
            raise StoreError(
                f"the server went away before it answered ({exc or type(exc).__name__}); check "
                "whether the verb took effect"
            ) from None
        finally:
            connection.close()
        if status == http.client.OK:
            return body
        try:
            message = msgspec.json.decode(body, type=_Refusal).error.message
        except msgspec.MsgspecError:
            message = f"the server answered {status}"
        raise Conflict(message) if status in _REFUSALS else StoreError(message)

    return call


@contextlib.contextmanager
def _opened(config: Config) -> Iterator[Call]:
    from gateway.accounts import secret
    from gateway.accounts.accounts import Accounts
    from gateway.accounts.sign_in import SignIn
    from gateway.accounts.upstream_settings import UpstreamSettings
    from gateway.accounts.vault import Vault
    from gateway.admin.verbs import VERBS, Context
    from gateway.ledger.writer import Ledger

    fatal: list[BaseException] = []

    async def opened() -> Context:
        key = secret.load(config.store.path)
        # Always "full": there is one verb to commit, and nobody waits for the next.
        ledger = await Ledger.open(
            config.store.path, secret=key, durability="full", on_fatal=fatal.append
        )
        try:
            accounts = await Accounts.load(ledger, key, config.keys.prefix)
            upstreams = await UpstreamSettings.load(ledger, Vault.load(config.store.path))
            sign_in = await SignIn.load(ledger, accounts, key)
        except BaseException:
            await ledger.close()
            raise
        return Context(accounts, ledger, key, upstreams, sign_in, config=lambda: config)

    with asyncio.Runner() as runner:
        context = runner.run(opened())
        try:
            yield lambda verb, arguments: runner.run(VERBS[verb](context, arguments))
        finally:
            runner.run(context.ledger.close())
        if fatal:
            raise StoreError(f"the store failed: {fatal[0]}")
