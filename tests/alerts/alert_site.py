"""Servers that alerts are sent to, a ledger on one thread, and a clock that only tests turn."""

import asyncio
import contextlib
import sqlite3
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import trustme
from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from gateway.alerts.daily import DAY_MS, Crossing, Threshold
from gateway.alerts.event import Event, Undelivered
from gateway.config import Alerts as Settings
from gateway.errors import StoreError
from gateway.ledger import schema, store

SECRET = b"a secret of at least thirty-two bytes"
USER, PASSWORD = "postmaster", "canary-smtp-password-Zq81"
DEADLINE_S = 10.0

DAY = 20_778
NOON_MS = DAY * DAY_MS + DAY_MS // 2

T = TypeVar("T")


def a_crossing(
    subject: str = "provider:openai",
    threshold: Threshold = "alert",
    *,
    day: int = DAY,
    limit: int = 50 * 10**9,
) -> Crossing:
    return Crossing(day, subject, threshold, limit + 21_000_000, limit, day * DAY_MS + 5_000)


async def soon(awaitable: Awaitable[T]) -> T:
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


# --- mail -------------------------------------------------------------------------------------


class Mailbox:
    """What the SMTP server does: collects messages; every command it was sent is in `commands`."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Envelope] = asyncio.Queue()
        self.commands: list[str] = []
        self.refused: set[str] = set()
        self.drop_at_data = False
        self.drop_at_quit = False

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, host: str, lines: list[str]
    ) -> list[str]:
        self.commands.append(f"EHLO {host}")
        session.host_name = host
        return lines

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.commands.append(f"MAIL {address}")
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return f"550 no mailbox for the password {PASSWORD}"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.commands.append("DATA")
        if self.drop_at_data:
            _abort(server)
            return "451 gone"
        self.messages.put_nowait(envelope)
        return "250 taken"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.commands.append("QUIT")
        if self.drop_at_quit:
            _abort(server)
        return "221 bye"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        self.commands.append(f"AUTH {mechanism}")
        right = data == LoginPassword(USER.encode(), PASSWORD.encode())
        # A server may say anything in its refusal, even what it was told.
        message = None if right else f"535 wrong: {data.password.decode()}"
        return AuthResult(success=right, handled=False, message=message)


def _abort(protocol: SMTP) -> None:
    if protocol.transport is not None:
        # uvloop's transports are of no class of asyncio's.
        cast("asyncio.WriteTransport", protocol.transport).abort()


class Authority:
    """Certificates for 127.0.0.1, and the file that vouches for them."""

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        authority = trustme.CA()
        self.ca_file = str(directory / f"authority-{host}.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host).configure_cert(self.context)


@contextlib.asynccontextmanager
async def smtp_server(
    mailbox: Mailbox,
    tls: ssl.SSLContext | None = None,
    *,
    implicit: bool = False,
    auth: bool = True,
    port: int = 0,
) -> AsyncIterator[int]:
    """Serve SMTP on 127.0.0.1; the port. STARTTLS (or TLS from the start) and AUTH are required."""
    loop = asyncio.get_running_loop()
    protocols: list[SMTP] = []

    def serve() -> SMTP:
        with warnings.catch_warnings():
            # It knows nothing of TLS that it did not begin itself.
            warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS", UserWarning)
            protocol = SMTP(
                mailbox,
                hostname="mail.test",
                tls_context=None if implicit else tls,
                require_starttls=tls is not None and not implicit,
                auth_required=auth,
                auth_require_tls=not implicit and tls is not None,
                authenticator=mailbox.authenticate,
                loop=loop,
            )
        protocols.append(protocol)
        return protocol

    server = await loop.create_server(
        serve, "127.0.0.1", port, ssl=tls if implicit else None, reuse_address=True
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for protocol in protocols:
            _abort(protocol)
            # Its task would be destroyed while it waits for a line.
            task = protocol._handler_coroutine
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await server.wait_closed()


def mail_settings(port: int, ca_file: str = "", **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "smtp_host": "127.0.0.1",
        "smtp_port": port,
        "smtp_user": USER,
        "smtp_password": PASSWORD,
        "smtp_ca_file": ca_file,
        "mail_from": "Gateway <gateway@example.org>",
        "mail_to": ("ops@example.org", "Ann Lee <ann@example.org>"),
    }
    return Settings(**(values | changes))


# --- webhook ----------------------------------------------------------------------------------


class Hook:
    """What the web server does: collects posts, answers with the next of `answers`, else 204."""

    def __init__(self) -> None:
        self.posts: asyncio.Queue[tuple[bytes, dict[str, str]]] = asyncio.Queue()
        self.answers: list[web.Response] = []
        self.go = asyncio.Event()
        self.go.set()

    async def handle(self, request: web.Request) -> web.Response:
        self.posts.put_nowait((await request.read(), dict(request.headers)))
        await self.go.wait()
        return self.answers.pop(0) if self.answers else web.Response(status=204)


@contextlib.asynccontextmanager
async def hook_server(hook: Hook, port: int = 0) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", hook.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


# --- what the sender works with -----------------------------------------------------------------


class Book:
    """The ledger's tables, on one thread. `marked` gets a value for each write."""

    def __init__(self, path: Path) -> None:
        self.conn = schema.open_writer(str(path), SECRET)
        self.marked: asyncio.Queue[None] = asyncio.Queue()
        self.refuses = False

    async def execute(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        if self.refuses:
            raise StoreError("cannot be written at present")
        self.conn.execute("BEGIN")
        result = store.in_savepoint(self.conn, fn)
        self.conn.execute("COMMIT")
        self.marked.put_nowait(None)
        return result

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        return fn(self.conn)

    def close(self) -> None:
        self.conn.close()


class Clock:
    """A wall clock, and pauses that end when the test says so."""

    def __init__(self) -> None:
        self.now_ms = NOON_MS
        self.pauses: asyncio.Queue[float] = asyncio.Queue()
        self._over = asyncio.Event()

    def __call__(self) -> int:
        return self.now_ms

    async def pause(self, seconds: float, roused: asyncio.Event) -> None:
        self._over.clear()
        self.pauses.put_nowait(seconds)
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(one.wait()) for one in (self._over, roused)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def paused(self) -> float:
        """Wait until somebody pauses; how long."""
        return await soon(self.pauses.get())

    def end_pause(self) -> None:
        self._over.set()


class Scripted:
    """A channel that fails as often as `failures` says, and keeps what it delivered."""

    def __init__(self, name: str = "mail") -> None:
        self.name = name
        self.failures: list[Exception] = []
        self.delivered: asyncio.Queue[Event] = asyncio.Queue()
        self.tries = 0
        self.go = asyncio.Event()
        self.go.set()

    def fail(self, times: int) -> None:
        self.failures += [Undelivered("the server is down")] * times

    async def send(self, event: Event, now_ms: int) -> None:
        self.tries += 1
        await self.go.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.delivered.put_nowait(event)
