"""A listener that counts who reaches it, resolvers that lie, pools; for tests of guarded URLs."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import trustme

from gateway.proxy.connection import Broken, Lines
from gateway.proxy.guard import Guard
from gateway.proxy.upstream import Origin, Pool, Upstreams, parse_base_url

PUBLIC, PUBLIC_6 = "8.8.8.8", "2606:4700:4700::1111"
"""Only resolved to, and never connected to: no test lets them through to a connect."""

NAMES: dict[str, list[str]] = {
    "public.test": [PUBLIC],
    "public6.test": [PUBLIC_6],
    "localhost": ["127.0.0.1", "::1"],
    "sub.localhost": ["127.0.0.1"],
    "localhost.localdomain": ["127.0.0.1"],
    "127.0.0.1.nip.test": ["127.0.0.1"],
    "xn--80ak6aa92e.test": ["127.0.0.1"],
    "private.test": ["10.0.0.1"],
    "mixed.test": [PUBLIC, "127.0.0.1"],
    "mixed6.test": ["::1", PUBLIC_6],
    "mapped.test": ["::ffff:127.0.0.1"],
    "scoped.test": ["fe80::1%1"],
    "nothing.test": [],
    "metadata.google.internal": ["169.254.169.254"],
    "metadata": ["169.254.169.254"],
    "intranet": ["192.168.0.1"],
}


async def resolve(host: str, port: int) -> list[str]:
    """Numbers as the C library reads them, in all their spellings; names from the table above."""
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [str(entry[4][0]) for entry in found]
    name = host.lower().rstrip(".")
    if name not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return NAMES[name]


class Sequenced:
    """A resolver that gives one answer after another, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Counter:
    """Counts accepted connections on one port of every address of this machine."""

    def __init__(self) -> None:
        self.accepts = 0
        self.port = 0

    async def _accept(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepts += 1
        writer.close()


@contextlib.asynccontextmanager
async def counting() -> AsyncIterator[Counter]:
    counter = Counter()
    with contextlib.ExitStack() as stack:
        four = stack.enter_context(socket.socket())
        four.bind(("0.0.0.0", 0))
        counter.port = four.getsockname()[1]
        bound = [four]
        with contextlib.suppress(OSError):
            six = stack.enter_context(socket.socket(socket.AF_INET6))
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            six.bind(("::", counter.port))
            bound.append(six)
        servers = [await asyncio.start_server(counter._accept, sock=one) for one in bound]
        try:
            yield counter
        finally:
            for server in servers:
                server.close()


class Told:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.lines: Lines = []
        self.text = b""
        self.error: Broken | None = None
        self.done = asyncio.Event()

    def head(self, status: int, lines: Lines) -> None:
        self.status, self.lines = status, lines

    def body(self, data: bytes) -> None:
        self.text += data

    def end(self) -> None:
        self.done.set()

    def broken(self, error: Broken) -> None:
        self.error = error
        self.done.set()


class Secure:
    """A TLS upstream's identity, and the file of the authority that signed it."""

    def __init__(self, directory: Path, *names: str) -> None:
        authority = trustme.CA()
        self.ca_file = str(directory / "authority.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self.names: list[str | None] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(self.context)
        self.context.sni_callback = lambda _, name, __: self.names.append(name)


@contextlib.asynccontextmanager
async def upstreams(
    guard: Guard | None = None, connections_max: int = 100
) -> AsyncIterator[Upstreams]:
    made = Upstreams(keepalive_s=60, connections_max=connections_max, guard=guard or Guard(resolve))
    try:
        yield made
    finally:
        made.close()


def origin_of(url: str, *, ca_file: str = "", guarded: bool = True, connect_s: float = 5) -> Origin:
    scheme, host, port, _ = parse_base_url(url)
    return Origin(scheme, host, port, ca_file, connect_s, 600, 300, guarded)


def only(*addresses: str) -> Callable[[str], bool]:
    """Lets these addresses through, as if they were public."""
    allowed: Sequence[str] = addresses
    return lambda address: address in allowed


async def refusal(pool: Pool) -> Broken | None:
    """What a connect was refused with; None where it was made."""
    try:
        connection = await pool.connect()
    except Broken as exc:
        return exc
    connection.abort()
    return None
