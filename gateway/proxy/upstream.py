"""Connections to upstreams: a pool per origin, TLS, timeouts.

`Upstreams.send` gives a request to an idle connection, last used first, or opens one. One sweep
timer serves every timeout (connect aside), so that a stream costs no timer per chunk; its period,
SWEEP_SECONDS, is the precision of the first-byte and idle timeouts. Foreign exceptions (OS, TLS,
DNS) are mapped to `Broken` here and nowhere else. Used by the handler; knows no wire format.

A guarded origin (its base URL was set by an admin) is resolved, checked and connected to at the
checked address for every new connection; see `guard.py`.
"""

import asyncio
import contextlib
import math
import ssl
from collections import deque
from urllib.parse import urlsplit

import msgspec

from gateway.proxy.connection import Broken, Sink, UpstreamConnection
from gateway.proxy.guard import GUARD, Guard, Refused

SWEEP_SECONDS = 0.25


class Origin(msgspec.Struct, frozen=True):
    """Where a provider lives and how long it is waited for; hashable: the pool's key."""

    scheme: str
    host: str
    port: int
    ca_file: str
    connect_s: float
    first_byte_s: float
    idle_s: float
    guarded: bool = False
    """Whether only public addresses may be connected to."""

    @property
    def netloc(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


def parse_base_url(base_url: str) -> tuple[str, str, int, str]:
    """Split a checked base URL into scheme, host, port and path prefix (no trailing slash)."""
    url = urlsplit(base_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    return url.scheme, url.hostname or "", port, url.path.rstrip("/")


def tls_context(ca_file: str) -> ssl.SSLContext:
    """A verifying client context; `ca_file` replaces the system's authorities."""
    context = ssl.create_default_context(cafile=ca_file or None)
    context.set_alpn_protocols(["http/1.1"])
    return context


class Pool:
    """The connections to one origin."""

    def __init__(self, upstreams: "Upstreams", origin: Origin) -> None:
        self.loop = upstreams.loop
        self.origin = origin
        self._upstreams = upstreams
        self._idle: deque[UpstreamConnection] = deque()
        self.active: set[UpstreamConnection] = set()
        self.connecting = 0

    @property
    def open(self) -> int:
        """Connections open or being opened."""
        return len(self._idle) + len(self.active) + self.connecting

    def take(self) -> UpstreamConnection | None:
        """The most recently used idle connection that is still good, or None."""
        now = self.loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.expires_at > now:
                connection.reused = True
                connection.first_byte_by = math.inf
                self.active.add(connection)
                return connection
            connection.abort()
        return None

    async def connect(self, limit_s: float | None = None) -> UpstreamConnection:
        """Open a connection; raises `Broken` (`connect`).

        `limit_s` is what is left of the request's own time; the origin's limit holds as well.
        """
        if self.open >= self._upstreams.connections_max:
            raise Broken("connect", "too many connections to this upstream are open")
        wait_s = self.origin.connect_s
        if limit_s is not None and limit_s < wait_s:
            wait_s = max(limit_s, 0.0)
        self.connecting += 1
        try:
            async with asyncio.timeout(wait_s):
                connection = await (
                    self._open_guarded() if self.origin.guarded else self._open(self.origin.host)
                )
        except TimeoutError:
            raise Broken("connect", f"no connection within {round(wait_s, 3):g} s") from None
        except Refused as exc:
            raise Broken("connect", f"connect refused: {exc}") from None
        except ssl.SSLCertVerificationError as exc:
            raise Broken("connect", f"TLS: {exc.verify_message or 'not verified'}") from None
        except ssl.SSLError as exc:
            raise Broken("connect", f"TLS: {exc.reason or 'handshake failed'}") from None
        except UnicodeError:
            raise Broken("connect", "connect failed: the host is no name that resolves") from None
        except OSError as exc:
            why = exc.strerror or str(exc) or "the connection was closed"
            raise Broken("connect", f"connect failed: {why}") from None
        finally:
            self.connecting -= 1
        self.active.add(connection)
        return connection

    async def _open(self, host: str) -> UpstreamConnection:
        """Connect to a name or an address; the certificate is the origin's in either case."""
        origin = self.origin
        tls = self._upstreams.tls(origin) if origin.scheme == "https" else None
        _, connection = await self.loop.create_connection(
            lambda: UpstreamConnection(self),
            host,
            origin.port,
            ssl=tls,
            server_hostname=origin.host if tls is not None else None,
        )
        return connection

    async def _open_guarded(self) -> UpstreamConnection:
        """Connect to the first checked address that answers: never to the name, which may
        resolve to something else by then.
        """
        origin = self.origin
        if origin.scheme != "https":
            raise Refused("the base URL is not https")
        last: OSError = OSError("no address")
        for address in await self._upstreams.guard.addresses(origin.host, origin.port):
            try:
                return await self._open(address)
            except ssl.SSLError:
                raise
            except OSError as exc:
                # Its text would quote the address.
                last = OSError(exc.errno, exc.strerror or "the connection was closed")
        raise last

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose answer ended cleanly."""
        self.active.discard(connection)
        connection.expires_at = self.loop.time() + self._upstreams.keepalive_s
        self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget a closed connection."""
        self.active.discard(connection)
        if not connection.reused and not connection.expires_at:
            return
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Fail what waited too long; close idle connections that expired."""
        first_byte, idle = self.origin.first_byte_s, self.origin.idle_s
        late = [
            connection
            for connection in self.active
            if (
                now - connection.last_activity
                > (idle if connection.answering or connection.paused else first_byte)
                or (now >= connection.first_byte_by and not connection.answering)
            )
            and connection.sink is not None
        ]
        for connection in late:
            if connection.paused:
                error = Broken("client_stalled", f"the client read nothing for {idle:g} s")
            elif connection.answering:
                error = Broken("timeout_idle", f"nothing from the upstream for {idle:g} s")
            elif now - connection.last_activity > first_byte:
                error = Broken("timeout_first_byte", f"no answer within {first_byte:g} s")
            else:
                error = Broken("timeout_first_byte", "no answer in the time the request had left")
            connection.fail(error)
        while self._idle and self._idle[0].expires_at <= now:
            self._idle.popleft().abort()

    def close(self) -> None:
        """Close everything."""
        for connection in [*self._idle, *self.active]:
            connection.abort()
        self._idle.clear()


class Upstreams:
    """All pools."""

    def __init__(self, *, keepalive_s: float, connections_max: int, guard: Guard = GUARD) -> None:
        self.loop = asyncio.get_running_loop()
        self.guard = guard
        self.keepalive_s = keepalive_s
        self.connections_max = connections_max
        self._pools: dict[Origin, Pool] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._timer = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    def pool(self, origin: Origin) -> Pool:
        """The pool of an origin."""
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(self, origin)
        return pool

    def tls(self, origin: Origin) -> ssl.SSLContext:
        """The client context for an origin, one per CA file."""
        context = self._contexts.get(origin.ca_file)
        if context is None:
            context = self._contexts[origin.ca_file] = tls_context(origin.ca_file)
        return context

    def _sweep(self) -> None:
        now = self.loop.time()
        for pool in self._pools.values():
            pool.sweep(now)
        self._timer = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        """Close every connection and stop the sweep."""
        self._timer.cancel()
        for pool in self._pools.values():
            pool.close()


__all__ = ["Broken", "Origin", "Pool", "Sink", "Upstreams", "parse_base_url", "tls_context"]
