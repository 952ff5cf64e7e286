"""One request, top to bottom: identify, admit, route, send; the exchange relays and settles.

`Proxy.serve` is what `server.ClientConnection` calls for every proxied path. It awaits the body,
a connection and the end of the exchange, nothing else. `Services` is what all of it works with,
made by `app.py`; the ledger and accounts are Protocols here, so that another store is one file.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote

import msgspec

from gateway.config import Config, Family
from gateway.errors import GatewayError
from gateway.ledger import ids
from gateway.ledger.entry import Entry, Opening
from gateway.ledger.prices import PriceOf
from gateway.ledger.records import Key, User
from gateway.metrics import Metrics
from gateway.proxy import content, endpoints, errors, headers
from gateway.proxy.connection import Broken, UpstreamConnection
from gateway.proxy.endpoints import Endpoint
from gateway.proxy.exchange import Exchange, Verdict
from gateway.proxy.headers import Inbound
from gateway.proxy.providers import Provider
from gateway.proxy.routing import Route, Router, Target
from gateway.proxy.server import Downstream, head
from gateway.proxy.upstream import Upstreams
from gateway.wire import envelope
from gateway.wire.envelope import Envelope

UPLOAD_BUFFER_BYTES_MAX = 256 * 1024
"""Bytes of a streamed upload that may wait for the upstream: the bound on memory per upload."""

_log = logging.getLogger(__name__)
_BODYLESS_METHODS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))


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


class Caller(msgspec.Struct, frozen=True):
    """Who is calling: a gateway key (`key`), or the provider's own key in `slot`.

    `owner` is who may read the receipt; `secret` is the caller's own provider key, if it is one.
    """

    owner: str
    key: Key | None
    slot: bytes
    secret: bytes
    multiplier: str = "1"
    cors: bytes = b""


class Services:
    """What the hot path works with; `config`, `router` and `providers` change on reload."""

    def __init__(  # noqa: PLR0913 - the composition root's one list of parts
        self,
        *,
        config: Config,
        providers: dict[str, Provider],
        router: Router,
        ledger: Ledger,
        accounts: Accounts,
        upstreams: Upstreams,
        metrics: Metrics,
        price_of: Callable[[Target], PriceOf],
        owner_hash: Callable[[bytes], str],
        log_request: Callable[[Entry, Caller], None] | None,
    ) -> None:
        self.config = config
        self.providers = providers
        self.router = router
        self.ledger = ledger
        self.accounts = accounts
        self.upstreams = upstreams
        self.metrics = metrics
        self.price_of = price_of
        self.owner_hash = owner_hash
        self.log_request = log_request
        self.loop = asyncio.get_running_loop()
        self.time = time.monotonic  # uvloop's clock counts whole milliseconds
        self.new_id = ids.new_id
        self.exchanges: set[Exchange] = set()
        self.draining = False
        server = config.server
        self.key_prefix = config.keys.prefix.encode()
        self.receipt_lines = (
            f"{server.receipt_id_header}: %b\r\n{server.receipt_url_header}: /v1/receipts/%b\r\n"
            "x-request-id: %b\r\nrequest-id: %b\r\n"
        ).encode()

    @staticmethod
    def wall_ms() -> int:
        """The wall clock, milliseconds since 1970."""
        return time.time_ns() // 1_000_000


class Plan(msgspec.Struct):
    """What is sent, and where it may go."""

    route: Route
    body: bytes
    envelope: Envelope | None
    inbound: Inbound
    query: str


class Remembered(msgspec.Struct):
    """A connection's last common request: most clients send the same header section every time.

    `before` and `after` are the section around the one field that changes, Content-Length. Who
    calls is asked anew each time, as a key can be revoked in between; the rest follows from bytes
    that are compared.
    """

    path: str
    query: str
    length_name: bytes
    before: tuple[tuple[bytes, bytes], ...]
    after: tuple[tuple[bytes, bytes], ...]
    inbound: Inbound
    endpoint: Endpoint
    credential: bytes
    caller: Caller
    user: User | None
    target: Target | None = None
    key: bytes | None = None
    head: bytes = b""

    def fits(self, down: Downstream) -> bool:
        """Whether a request has this path and header section."""
        raw = down.headers
        at = len(self.before)
        return (
            len(raw) == at + 1 + len(self.after)
            and raw[at][0] == self.length_name
            and raw[:at] == self.before
            and raw[at + 1 :] == self.after
            and down.path == self.path
            and down.query == self.query
        )


class Proxy:
    """The proxied endpoints of one gateway."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._paths: dict[tuple[str, bool, Family | None], Endpoint | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, down: Downstream) -> None:
        """Serve one request; every failure is answered, in the caller's format."""
        services = self.services
        inbound = headers.read(down.headers)
        query, parameter = headers.take_key(down.query)
        if parameter is not None:
            inbound.credentials.setdefault(b"key", parameter)
        endpoint = self._endpoint(down.path, query, headers.spoken(inbound))
        cors = self.cors(inbound)
        if down.method == "OPTIONS":
            self._preflight(down, inbound, cors)
            return
        try:
            if endpoint is None:
                raise GatewayError("not_found", f"No such endpoint: {down.path[:200]}")
            if down.method not in _METHODS or (endpoint.metered and down.method != "POST"):
                raise GatewayError("method_not_allowed", f"{down.method} is not allowed here")
            self._admissible()
            caller = self.identify(inbound, cors)
        except GatewayError as error:
            family = _family_of(down.path, inbound) if endpoint is None else endpoint.family
            self._refuse(down, error, family, cors)
            return
        exchange = Exchange(services, down, endpoint, caller)
        try:
            await self._exchange(exchange, inbound, query)
        except GatewayError as error:
            exchange.refuse(error)
            await _settled(exchange)
        except asyncio.CancelledError:
            exchange.client_gone()
            raise
        except Exception:  # noqa: BLE001 - whatever failed here, the caller gets an answer
            _log.exception("a request failed: %s %s", down.method, endpoint.label)
            exchange.refuse(GatewayError("internal_error", "The gateway failed", stage="gateway"))
            await _settled(exchange)

    def begin(self, down: Downstream, done: Callable[[], None]) -> bool:
        """Serve the common request without a task; False, and nothing done, for any other.

        Common: a POST to a metered endpoint whose body is here, well-formed, from a caller who is
        admitted, to a target with an idle connection. `done` is called when the client has
        everything. Two futures and two task switches less, a tenth of a request's CPU.
        """
        services = self.services
        if down.method != "POST" or services.draining or not services.ledger.writable:
            return False
        memory = self._recall(down)
        if memory is None:
            return False
        endpoint, caller, inbound = memory.endpoint, memory.caller, memory.inbound
        try:
            body = down.body_now(services.config.server.max_body_bytes)
            seen = envelope.peek(body, endpoint.format)
            model = endpoint.model or seen.model
            if model is None or seen.previous_response_id is not None:
                return False
            route = self._route(endpoint, caller, model)
        except GatewayError:
            return False  # the other way tells it
        target = route.targets[0]
        connection = services.upstreams.pool(target.base.origin).take()
        if connection is None:
            return False
        exchange = Exchange(services, down, endpoint, caller)
        down.gone = exchange.client_gone
        exchange.open(model, stream=seen.stream or endpoint.streams, size=len(body))
        plan = Plan(route, body, seen, inbound, down.query)
        exchange.attempt(target, more=len(route.targets) > 1)
        exchange.connect_s = 0.0

        def watch(verdict: Verdict) -> None:
            if verdict == "done":
                done()
            else:
                self._resume(exchange, plan, verdict, done)

        exchange.watcher = watch
        exchange.send(connection, self._request(exchange, plan, target, memory))
        return True

    def _recall(self, down: Downstream) -> Remembered | None:
        """Who asks for what; None where the request is not common, or its caller is nobody."""
        services = self.services
        memory = down.memory
        if isinstance(memory, Remembered) and memory.fits(down):
            if memory.user is None:
                return memory
            key = services.accounts.identify(memory.credential, services.wall_ms())
            same = key is not None and key is memory.caller.key
            if same and services.accounts.user(memory.user.id) is memory.user:
                return memory
        inbound = headers.read(down.headers)
        notes = inbound.notes
        if b"expect" in notes or b"content-encoding" in notes or "key=" in down.query:
            return None
        endpoint = self._endpoint(down.path, down.query, headers.spoken(inbound))
        if endpoint is None or not endpoint.metered:
            return None
        try:
            caller = self.identify(inbound, self.cors(inbound))
        except GatewayError:
            return None  # the other way tells it
        raw = down.headers
        at = next((i for i, (name, _) in enumerate(raw) if name.lower() == b"content-length"), -1)
        if at < 0:
            return None
        key = caller.key
        user = None if key is None else services.accounts.user(key.user_id)
        credential = inbound.credentials[caller.slot]
        memory = Remembered(
            down.path, down.query, raw[at][0], raw[:at], raw[at + 1 :], inbound, endpoint,
            credential, caller, user,
        )  # fmt: skip
        down.memory = memory
        return memory

    def _resume(
        self, exchange: Exchange, plan: Plan, verdict: Verdict, done: Callable[[], None]
    ) -> None:
        """Go on in a task where the first attempt of `begin` was not enough."""

        async def go_on() -> None:
            if verdict == "again":
                await self._send(exchange, plan, 0, fresh=True)
            else:
                await self._send(exchange, plan, 1)
            done()

        task = self.services.loop.create_task(go_on())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exchange(self, exchange: Exchange, inbound: Inbound, query: str) -> None:
        down = exchange.down
        if b"expect" in inbound.notes and not down.body_read:
            down.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._streams_upload(exchange, inbound):
            plan = await self._plan_native(exchange, inbound, query, b"")
            exchange.open(exchange.endpoint.model or "", stream=False, size=0)
            await self._upload(exchange, plan)
            return
        server = self.services.config.server
        body = await down.body(server.max_body_bytes, server.body_seconds)
        encoding = inbound.notes.get(b"content-encoding")
        if encoding is not None and body:
            body = await content.decode(body, encoding, server.max_body_bytes)
        exchange.ready_at = self.services.time()
        plan = await self._plan(exchange, inbound, query, body)
        await self._send(exchange, plan)

    # -- who, what, where ----------------------------------------------------------------------

    def _endpoint(self, path: str, query: str, speaks: Family | None) -> Endpoint | None:
        key = (path, "alt=sse" in query, speaks)
        try:
            return self._paths[key]
        except KeyError:
            pass
        if len(self._paths) >= 4096:
            self._paths.clear()
        providers = self.services.providers
        endpoint = endpoints.classify(path, query, providers, speaks=speaks)
        if endpoint is not None and endpoint.provider is not None:
            bases = providers[endpoint.provider].bases
            if endpoint.family not in bases and len(bases) == 1:
                endpoint = endpoints.as_family(endpoint, next(iter(bases)), query)
        self._paths[key] = endpoint
        return endpoint

    def _admissible(self) -> None:
        services = self.services
        if services.draining:
            raise GatewayError(
                "shutting_down", "The gateway is shutting down", stage="gateway", retry_after_s=1
            )
        if not services.ledger.writable:
            raise GatewayError(
                "ledger_unavailable", "Receipts cannot be written at the moment; nothing was sent",
                stage="gateway", retry_after_s=5,
            )  # fmt: skip

    def identify(self, inbound: Inbound, cors: bytes) -> Caller:
        """Who is calling; raises `GatewayError` `invalid_api_key`."""
        services = self.services
        chosen = headers.choose(inbound.credentials, services.key_prefix)
        if chosen is None:
            raise GatewayError(
                "invalid_api_key",
                "No API key was given: send it as Authorization: Bearer, x-api-key, "
                "x-goog-api-key or api-key",
            )
        slot, credential = chosen
        if credential.startswith(services.key_prefix):
            now_ms = services.wall_ms()
            key = services.accounts.identify(credential, now_ms)
            if key is None:
                raise services.accounts.refusal(credential, now_ms)
            user = services.accounts.user(key.user_id)
            return Caller(f"user:{key.user_id}", key, slot, b"", user.rate_multiplier, cors)
        if not services.config.byok.enabled:
            raise GatewayError("invalid_api_key", "Only keys issued by this gateway are accepted")
        return Caller(services.owner_hash(credential), None, slot, credential, "1", cors)

    async def _plan(self, exchange: Exchange, inbound: Inbound, query: str, body: bytes) -> Plan:
        endpoint = exchange.endpoint
        json = body[:1] == b"{" or endpoint.metered or (endpoint.free and bool(body))
        stateful = endpoint.state_id is not None  # whose it is counts, not what the body names
        if not json or stateful or exchange.down.method in _BODYLESS_METHODS:
            plan = await self._plan_native(exchange, inbound, query, body)
            exchange.open(endpoint.model or "", stream=False, size=len(body))
            return plan
        seen = envelope.peek(body, endpoint.format)
        model = endpoint.model or seen.model
        exchange.open(model or "", stream=seen.stream or endpoint.streams, size=len(body))
        if model is None:
            if endpoint.metered:
                raise GatewayError("invalid_request", "model is required", param="model")
            return await self._plan_native(exchange, inbound, query, body)
        if seen.previous_response_id is not None:
            await self._check_state(exchange, seen.previous_response_id)
        route = self._route(endpoint, exchange.caller, model)
        for target in route.targets:
            self._check_metered(exchange, target.provider)
        return Plan(route, body, seen, inbound, query)

    def _route(self, endpoint: Endpoint, caller: Caller, model: str) -> Route:
        key = caller.key
        router = self.services.router
        if key is None:
            return router.own(model, endpoint.family, endpoint.provider)
        if key.models is not None and model not in key.models:
            raise GatewayError(
                "model_not_allowed", f"This key is not allowed model {model}", param="model"
            )
        try:
            return router.route(model, endpoint.family, endpoint.provider)
        except GatewayError as error:
            if not endpoint.free or error.code != "unknown_model_pricing":
                raise
        provider, base = router.owner(endpoint.family, endpoint.provider)
        return Route((Target(provider, base, model),))

    async def _plan_native(
        self, exchange: Exchange, inbound: Inbound, query: str, body: bytes
    ) -> Plan:
        """A call about no model: to the provider that the path, or the format, says."""
        endpoint = exchange.endpoint
        named = endpoint.provider
        if endpoint.state_id is not None:
            named = await self._check_state(exchange, endpoint.state_id) or named
        provider, base = self.services.router.owner(endpoint.family, named)
        self._check_metered(exchange, provider)
        if exchange.caller.key is not None and not provider.active:
            raise GatewayError(
                "no_active_api_keys", f"No active API keys for provider {provider.name}",
                stage="routing",
            )  # fmt: skip
        return Plan(Route((Target(provider, base, ""),)), body, None, inbound, query)

    @staticmethod
    def _check_metered(exchange: Exchange, provider: Provider) -> None:
        """Refuse a gateway key what its answer does not price, named model or not: never free."""
        endpoint = exchange.endpoint
        if exchange.caller.key is None or endpoint.metered or endpoint.free or provider.unmetered:
            return
        raise GatewayError(
            "unknown_model_pricing",
            f"Unknown model pricing: what {exchange.down.method} {endpoint.path[:200]} costs at "
            f"{provider.name} cannot be metered, so keys of this gateway may not call it",
            stage="routing",
        )

    async def _check_state(self, exchange: Exchange, response_id: str) -> str | None:
        """The provider that holds a stored response of this caller; 404 if it is not theirs.

        With a gateway key all callers share the provider's account: one must not read another's.
        """
        if exchange.caller.key is None:
            return None
        found = await self.services.ledger.state_owner(response_id)
        if found is None or found[0] != exchange.caller.owner:
            raise GatewayError(
                "not_found", f"Response {response_id[:100]} not found", stage="routing",
                param="previous_response_id" if exchange.endpoint.state_id is None else None,
            )  # fmt: skip
        return found[1]

    # -- sending -------------------------------------------------------------------------------

    async def _send(
        self, exchange: Exchange, plan: Plan, first: int = 0, *, fresh: bool = False
    ) -> None:
        """Try targets from the `first` on until the client is answered."""
        targets = plan.route.targets
        last = len(targets) - 1
        for index, target in enumerate(targets[first:], first):
            data = self._request(exchange, plan, target)
            while True:
                exchange.attempt(target, more=index < last)
                verdict_to_come = exchange.verdict()
                connection = await self._connection(exchange, target, fresh=fresh)
                if connection is not None:
                    exchange.send(connection, data)
                verdict = await verdict_to_come
                if verdict != "again":
                    break
                fresh = True
            if verdict == "done":
                return
            fresh = False

    async def _connection(
        self, exchange: Exchange, target: Target, *, fresh: bool
    ) -> UpstreamConnection | None:
        """An idle or a new connection; None when the attempt failed (the verdict tells)."""
        services = self.services
        pool = services.upstreams.pool(target.base.origin)
        if not fresh and (idle := pool.take()) is not None:
            exchange.connect_s = 0.0
            return idle
        begun = services.time()
        try:
            connection = await pool.connect()
        except Broken as error:
            exchange.broken(error)
            return None
        finally:
            exchange.connect_s = services.time() - begun
        return connection

    def _request(
        self,
        exchange: Exchange,
        plan: Plan,
        target: Target,
        memory: Remembered | None = None,
    ) -> bytes:
        """The request as this target gets it, head and body in one piece for one write."""
        body, seen = plan.body, plan.envelope
        endpoint = exchange.endpoint
        if seen is not None:
            ask = (
                seen.stream
                and endpoint.format == "openai_chat"
                and not seen.include_usage
                and target.provider.include_usage
            )
            exchange.strip_usage = ask
            renamed = target.model if seen.model not in (None, target.model) else None
            if endpoint.model is not None:
                renamed = None
            if ask or renamed is not None:
                body = envelope.rewrite(body, seen, model=renamed, include_usage=ask)
        key = None if exchange.caller.key is None else target.provider.next_key()
        if key is not None:
            exchange.secret = key
        if memory is None:
            start = self._head(exchange, plan, target, key)
        elif memory.target is target and memory.key == key:
            start = memory.head
        else:
            start = memory.head = self._head(exchange, plan, target, key)
            memory.target, memory.key = target, key
        if body or exchange.down.method not in _BODYLESS_METHODS:
            return b"%bContent-Length: %d\r\n\r\n%b" % (start, len(body), body)
        return start + b"\r\n"

    def _head(self, exchange: Exchange, plan: Plan, target: Target, key: bytes | None) -> bytes:
        """The head for a target, but for its framing and the blank line; `key` is the provider's.

        It follows from the caller's headers, the path, the target and the key alone.
        """
        endpoint, caller, inbound = exchange.endpoint, exchange.caller, plan.inbound
        path = endpoint.path
        if endpoint.model is not None and target.model not in ("", endpoint.model):
            path = f"models/{quote(target.model, safe='')}:{path.rpartition(':')[2]}"
        prefix = target.base.prefix
        if endpoint.upload:
            # Google's uploads are at /upload/v1beta: the word stands before the version.
            above, _, version = prefix.rpartition("/")
            prefix = f"{above}/upload/{version}"
        query = f"?{plan.query}" if plan.query else ""
        start = f"{exchange.down.method} {prefix}/{path}{query} HTTP/1.1\r\nHost: {target.base.origin.netloc}\r\n"  # noqa: E501
        if caller.key is None:
            credential = headers.caller_credential(endpoint.family, caller.slot, caller.secret)
            credential += inbound.tenant
        else:
            credential = b"" if key is None else headers.provider_credential(endpoint.family, key)
        return b"%b%b%bAccept-Encoding: identity\r\n" % (
            start.encode("latin-1"), credential, inbound.forward,
        )  # fmt: skip

    # -- streamed uploads ----------------------------------------------------------------------

    def _streams_upload(self, exchange: Exchange, inbound: Inbound) -> bool:
        """Whether a body goes on unread: anything but JSON on an endpoint without a meter."""
        if exchange.endpoint.metered or exchange.down.method in _BODYLESS_METHODS:
            return False
        if exchange.down.body_read:
            return False
        kind = inbound.notes.get(b"content-type", b"").partition(b";")[0].strip().lower()
        size = inbound.notes.get(b"content-length", b"")
        large = size.isdigit() and int(size) > self.services.config.server.max_body_bytes
        return kind != b"application/json" or large

    async def _upload(self, exchange: Exchange, plan: Plan) -> None:
        """Send a body on as it comes, in flat memory, over a connection of its own."""
        target = plan.route.targets[0]
        notes = plan.inbound.notes
        size = notes.get(b"content-length")
        framing = b"Transfer-Encoding: chunked\r\n"
        if size is not None:
            framing = b"Content-Length: %b\r\n" % size
        if b"content-encoding" in notes:
            framing += b"Content-Encoding: %b\r\n" % notes[b"content-encoding"]
        exchange.ready_at = self.services.time()
        exchange.attempt(target, more=False)
        exchange.uploading = True
        connection = await self._connection(exchange, target, fresh=True)
        if connection is not None:
            connection.request_done = False
            key = None if exchange.caller.key is None else target.provider.next_key()
            exchange.secret = key or exchange.secret
            start = self._head(exchange, plan, target, key)
            exchange.send(connection, b"%b%b\r\n" % (start, framing))
            await self._pump(exchange, connection, chunked=size is None)
        await _settled(exchange)

    async def _pump(
        self, exchange: Exchange, connection: UpstreamConnection, *, chunked: bool
    ) -> None:
        while connection.sink is not None and not exchange.settled:
            piece = await exchange.down.piece()
            if not piece:
                break
            connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if connection.write_buffer_bytes() > UPLOAD_BUFFER_BYTES_MAX:
                await connection.writable()
        else:
            return
        if chunked:
            connection.write(b"0\r\n\r\n")
        connection.request_done = True

    # -- answers without an exchange -----------------------------------------------------------

    def _refuse(self, down: Downstream, error: GatewayError, family: Family, cors: bytes) -> None:
        """Answer somebody who is nobody yet: no owner, no receipt."""
        self.services.metrics.rejections.child(error.code)[0] += 1
        body = errors.body(error, family, None)
        if not down.body_read:
            down.keep_alive = False
        closing = b"" if down.keep_alive else b"Connection: close\r\n"
        lines = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        extra = errors.headers(error) + cors + closing
        if down.method == "HEAD":
            body = b""
        down.write(head(error.status, lines + extra) + b"\r\n" + body)

    def cors(self, inbound: Inbound) -> bytes:
        """Header lines that let an allowed web origin read the answer."""
        allowed = self.services.config.server.cors_origins
        if not allowed:
            return b""
        origin = inbound.notes.get(b"origin")
        if origin is None or not ("*" in allowed or origin.decode("latin-1") in allowed):
            return b""
        server = self.services.config.server
        exposed = f"{server.receipt_id_header}, {server.receipt_url_header}, x-request-id"
        return b"Access-Control-Allow-Origin: %b\r\nVary: Origin\r\n" % origin + (
            f"Access-Control-Expose-Headers: {exposed}, retry-after\r\n"
        ).encode("latin-1")

    def _preflight(self, down: Downstream, inbound: Inbound, cors: bytes) -> None:
        asked = headers.find(
            ((name.lower(), value) for name, value in down.headers),
            b"access-control-request-headers",
        )
        lines = cors
        if cors:
            lines += b"Access-Control-Allow-Methods: GET, POST, PUT, PATCH, DELETE\r\n"
            lines += b"Access-Control-Max-Age: 600\r\n"
            if asked:
                lines += b"Access-Control-Allow-Headers: %b\r\n" % asked
        down.write(head(204, lines + b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE\r\n") + b"\r\n")


async def _settled(exchange: Exchange) -> None:
    """Wait until the client has its answer."""
    if exchange in exchange.services.exchanges:
        await exchange.verdict()


def _family_of(path: str, inbound: Inbound) -> Family:
    """In whose envelope to tell somebody that a path does not exist."""
    if "/v1beta" in path:
        return "gemini"
    return headers.spoken(inbound) or "openai"
