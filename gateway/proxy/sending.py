"""Requests on their way to an upstream: built, sent, tried again. Used by the handler."""

from urllib.parse import quote

import msgspec

from gateway.errors import GatewayError
from gateway.ledger.records import User
from gateway.proxy import counting, headers, translated, translated_embeddings
from gateway.proxy.admission import BODYLESS_METHODS, Plan
from gateway.proxy.connection import Broken, UpstreamConnection
from gateway.proxy.endpoints import Endpoint
from gateway.proxy.exchange import Exchange, Verdict
from gateway.proxy.headers import Inbound
from gateway.proxy.routing import EMBEDDED, Target
from gateway.proxy.server import Downstream
from gateway.proxy.services import Caller, Services
from gateway.wire import envelope, gemini_renaming

UPLOAD_BUFFER_BYTES_MAX = 256 * 1024
"""Bytes of a streamed upload that may wait for the upstream: the bound on memory per upload."""


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
    generation: int
    target: Target | None = None
    key: bytes | None = None
    stream: bool = False
    """Of a translated call: whether a stream is asked for, which is in the path of some formats."""
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


class Sender:
    """Sends the requests of one gateway."""

    def __init__(self, services: Services) -> None:
        self.services = services

    async def send(
        self, exchange: Exchange, plan: Plan, first: int = 0, *, fresh: bool = False
    ) -> None:
        """Try targets from the `first` on until the client is answered."""
        targets = plan.targets
        last = len(targets) - 1
        for index, target in enumerate(targets[first:], first):
            more = index < last
            if not self._may_try(exchange, target, more=more):
                continue
            while True:
                try:
                    data = self.request(exchange, plan, target)
                except counting.Uncountable:
                    exchange.answer_here(*counting.estimated(plan.body, exchange.endpoint))
                    await settled(exchange)
                    return
                except GatewayError as error:  # this target's format cannot express it
                    exchange.passed_over(target, error, more=more)
                    verdict = "next"
                    break
                verdict = await self._try(exchange, target, data, more=more, fresh=fresh)
                if verdict == "rekey":
                    self.arm(exchange, target)
                elif verdict != "again":
                    break
                fresh = verdict == "again"
            if verdict == "done":
                return
            fresh = False
        await settled(exchange)

    def arm(self, exchange: Exchange, target: Target) -> None:
        """Choose the key of the provider's that an attempt goes with; raises `GatewayError`."""
        if exchange.caller.key is not None:
            services = self.services
            exchange.key = key = services.health.key(target, services.time())
            exchange.secret = b"" if key is None else key.text

    def _may_try(self, exchange: Exchange, target: Target, *, more: bool) -> bool:
        """Whether a target may be tried: it has a key, and a further one is paid for as the first.

        False where it is passed over; where it was the last one the client is told why.
        """
        if target is exchange.target:
            return True  # begun without a task
        services = self.services
        exchange.keys_tried = 0
        try:
            if exchange.attempts and exchange.claim is not None:
                if more and not services.health.ready(target, services.time()):
                    return False
                exchange.claim.aim(target)
            self.arm(exchange, target)
        except GatewayError as error:
            exchange.passed_over(target, error, more=more)
            return False
        return True

    async def _try(
        self, exchange: Exchange, target: Target, data: bytes, *, more: bool, fresh: bool
    ) -> Verdict:
        exchange.attempt(target, more=more)
        verdict_to_come = exchange.verdict()
        upstream = self.services.config.upstream
        left_s = exchange.started_at + upstream.deadline_seconds - self.services.time()
        if left_s <= 0:
            told = f"No answer within {upstream.deadline_seconds:g} s over all attempts"
            exchange.give_up(GatewayError("upstream_timeout", told, stage="upstream_timeout"))
            return await verdict_to_come
        exchange.hurried = left_s < target.base.origin.first_byte_s
        connection = await self._connection(exchange, target, fresh=fresh, left_s=left_s)
        if connection is not None:
            if exchange.hurried:
                connection.first_byte_by = self.services.loop.time() + left_s
            exchange.send(connection, data)
        return await verdict_to_come

    async def _connection(
        self, exchange: Exchange, target: Target, *, fresh: bool, left_s: float | None = None
    ) -> UpstreamConnection | None:
        """An idle or a new connection; None when the attempt failed (the verdict tells)."""
        services = self.services
        pool = services.upstreams.pool(target.base.origin)
        if not fresh and (idle := pool.take()) is not None:
            exchange.connect_s = 0.0
            return idle
        begun = services.time()
        try:
            connection = await pool.connect(left_s)
        except Broken as error:
            exchange.broken(error)
            return None
        finally:
            exchange.connect_s = services.time() - begun
        return connection

    def request(
        self,
        exchange: Exchange,
        plan: Plan,
        target: Target,
        memory: Remembered | None = None,
    ) -> bytes:
        """The request as this target gets it, head and body in one piece for one write."""
        if target.speaks is not None:
            return _translated(exchange, plan, target, memory)
        exchange.translation = None
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
                if endpoint.format != "gemini" and endpoint.model != target.model:
                    body = gemini_renaming.renamed(body, seen, target.model)
            claim = exchange.claim
            bound = None if claim is None else claim.max_output_tokens
            if ask or renamed is not None or bound is not None:
                body = envelope.rewrite(
                    body, seen, model=renamed, include_usage=ask, max_output_tokens=bound,
                    max_tokens_key=None if bound is None else _max_tokens_key(endpoint, target),
                )  # fmt: skip
        key = None if exchange.key is None else exchange.key.text
        if memory is None:
            start = self._head(exchange, plan, target, key)
        elif memory.target is target and memory.key == key:
            start = memory.head
        else:
            start = memory.head = self._head(exchange, plan, target, key)
            memory.target, memory.key = target, key
        if body or exchange.down.method not in BODYLESS_METHODS:
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
            start.encode("utf-8", "surrogateescape"), credential, inbound.forward,
        )  # fmt: skip

    # -- streamed uploads ----------------------------------------------------------------------

    def streams_upload(self, exchange: Exchange, inbound: Inbound) -> bool:
        """Whether a body goes on unread: anything but JSON on an endpoint without a meter."""
        if exchange.endpoint.metered or exchange.down.method in BODYLESS_METHODS:
            return False
        if exchange.down.body_read:
            return False
        kind = inbound.notes.get(b"content-type", b"").partition(b";")[0].strip().lower()
        size = inbound.notes.get(b"content-length", b"")
        large = size.isdigit() and int(size) > self.services.config.server.max_body_bytes
        return kind != b"application/json" or large

    async def upload(self, exchange: Exchange, plan: Plan) -> None:
        """Send a body on as it comes, in flat memory, over a connection of its own."""
        target = plan.targets[0]
        self.arm(exchange, target)
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
            key = None if exchange.key is None else exchange.key.text
            start = self._head(exchange, plan, target, key)
            exchange.send(connection, b"%b%b\r\n" % (start, framing))
            await self._pump(exchange, connection, chunked=size is None)
        await settled(exchange)

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


def _translated(exchange: Exchange, plan: Plan, target: Target, memory: Remembered | None) -> bytes:
    """The request as a target of another format gets it."""
    endpoint = exchange.endpoint
    if endpoint.counts is not None:
        return counting.request(exchange, plan, target)
    if endpoint.format in EMBEDDED.values():
        return translated_embeddings.request(exchange, plan, target)
    return translated.request(exchange, plan, target, memory)


def _max_tokens_key(endpoint: Endpoint, target: Target) -> str | None:
    """What the bound of an answer is called in a body; None for Gemini, whose config holds it."""
    if endpoint.format == "openai_chat" and target.provider.catalog_name != "openai":
        return "max_tokens"  # the name that every other server of this format knows
    names = envelope.MAX_TOKENS_KEYS.get(endpoint.format)
    return names[0] if names else None


async def settled(exchange: Exchange) -> None:
    """Wait until the client has its answer."""
    if exchange in exchange.services.exchanges:
        await exchange.verdict()
