"""One request, top to bottom: identify, admit, route, send; the exchange relays and settles.

`Proxy` is what `server.ClientConnection` calls for every proxied path: `begin` for the common
request, without a task, `serve` for every other. It awaits the body, a connection and the end of
the exchange, nothing else. What can be refused is in `admission.py`, what is sent in `sending.py`.
"""

import asyncio
import logging
from collections.abc import Callable

from gateway.config import Family
from gateway.errors import GatewayError, scrub
from gateway.proxy import content, counting, errors, headers
from gateway.proxy.admission import KEPT, Admission, Plan
from gateway.proxy.claims import Claim
from gateway.proxy.exchange import Exchange, Verdict
from gateway.proxy.headers import Inbound
from gateway.proxy.sending import Remembered, Sender, settled
from gateway.proxy.server import Downstream, head
from gateway.proxy.services import Services
from gateway.wire import envelope

_log = logging.getLogger(__name__)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))


class Proxy:
    """The proxied endpoints of one gateway."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.admission = Admission(services)
        self.sender = Sender(services)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, down: Downstream) -> None:
        """Serve one request; every failure is answered, in the caller's format."""
        services = self.services
        inbound = headers.read(down.headers)
        query, parameter = headers.take_key(down.query)
        if parameter is not None:
            inbound.credentials.setdefault(b"key", parameter)
        endpoint = self.admission.endpoint(down.path, query, headers.spoken(inbound))
        cors = self.admission.cors(inbound)
        if down.method == "OPTIONS":
            self._preflight(down, inbound, cors)
            return
        try:
            if endpoint is None:
                raise GatewayError("not_found", f"No such endpoint: {scrub(down.path[:200])}")
            if down.method not in _METHODS or (endpoint.metered and down.method != "POST"):
                raise GatewayError("method_not_allowed", f"{down.method} is not allowed here")
            self.admission.check_open()
            caller = self.admission.identify(inbound, cors)
        except GatewayError as error:
            family = _family_of(down.path, inbound) if endpoint is None else endpoint.family
            self._refuse(down, error, family, cors)
            return
        exchange = Exchange(services, down, endpoint, caller)
        down.gone = exchange.client_gone
        try:
            await self._exchange(exchange, inbound, query)
        except GatewayError as error:
            exchange.refuse(error)
            await settled(exchange)
        except asyncio.CancelledError:
            exchange.client_gone()
            raise
        except Exception:  # noqa: BLE001 - whatever failed here, the caller gets an answer
            _log.exception("a request failed: %s %s", down.method, endpoint.label)
            exchange.refuse(GatewayError("internal_error", "The gateway failed", stage="gateway"))
            await settled(exchange)

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
        found = self._plan_now(down, memory)
        if found is None:
            return False
        plan, model, claim = found
        target, seen = plan.targets[0], plan.envelope
        assert seen is not None
        endpoint = memory.endpoint
        connection = services.upstreams.pool(target.base.origin).take()
        if connection is None:
            # A connect takes a task, which ends with its client.
            if claim is not None:
                claim.cancel()
            # To be asked for the order twice would turn a weighted route by two.
            down.ordered = plan.targets
            return False
        exchange = Exchange(services, down, endpoint, memory.caller)
        exchange.claim = claim
        down.gone = exchange.client_gone
        exchange.about(model, stream=seen.stream or endpoint.streams, size=len(plan.body))
        exchange.open()
        exchange.attempt(target, more=len(plan.targets) > 1)
        exchange.connect_s = 0.0

        def watch(verdict: Verdict) -> None:
            if verdict == "done":
                done()
            else:
                self._resume(exchange, plan, verdict, done)

        exchange.watcher = watch
        try:
            self.sender.arm(exchange, target)
            exchange.send(connection, self.sender.request(exchange, plan, target, memory))
        except GatewayError as error:
            connection.abort()
            self._refused(exchange, plan, error, done)
        except Exception:  # noqa: BLE001 - no task would tell: it would end in the client's read
            _log.exception("a request failed: %s", endpoint.label)
            connection.abort()
            exchange.refuse(GatewayError("internal_error", "The gateway failed", stage="gateway"))
        return True

    def _plan_now(
        self, down: Downstream, memory: Remembered
    ) -> tuple[Plan, str, Claim | None] | None:
        """What to send, the model's name and the claim; None, and nothing taken, for a request
        that is not common or is refused: the other way tells it.
        """
        endpoint = memory.endpoint
        try:
            body = down.body_now(self.services.config.server.max_body_bytes)
            seen = envelope.peek(body, endpoint.format)
            model = endpoint.model or seen.model
            if (
                model is None
                or seen.previous_response_id is not None
                or not KEPT.isdisjoint(seen.fields)
            ):
                return None
            targets, claim = self.admission.claim(endpoint, memory.caller, model, body, seen)
        except GatewayError:
            return None
        except Exception:  # noqa: BLE001 - it fails there again, where it can be answered
            return None
        return Plan(targets, body, seen, memory.inbound, down.query), model, claim

    def _recall(self, down: Downstream) -> Remembered | None:
        """Who asks for what; None where the request is not common, or its caller is nobody."""
        services = self.services
        memory = down.memory
        if (
            isinstance(memory, Remembered)
            and memory.fits(down)
            and memory.generation == services.generation
        ):
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
        endpoint = self.admission.endpoint(down.path, down.query, headers.spoken(inbound))
        if endpoint is None or not endpoint.metered:
            return None
        try:
            caller = self.admission.identify(inbound, self.admission.cors(inbound))
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
            credential, caller, user, services.generation,
        )  # fmt: skip
        down.memory = memory
        return memory

    def _refused(
        self, exchange: Exchange, plan: Plan, error: GatewayError, done: Callable[[], None]
    ) -> None:
        """The first target's format cannot express the request: on to the next, or tell it."""
        assert exchange.target is not None
        more = len(plan.targets) > 1
        exchange.passed_over(exchange.target, error, more=more)
        if more:
            self._resume(exchange, plan, "next", done)

    def _resume(
        self, exchange: Exchange, plan: Plan, verdict: Verdict, done: Callable[[], None]
    ) -> None:
        """Go on in a task where the first attempt of `begin` was not enough."""

        async def go_on() -> None:
            try:
                await self._go_on(exchange, plan, verdict)
            except asyncio.CancelledError:
                exchange.client_gone()
            except Exception:  # noqa: BLE001 - whatever failed, the client gets an answer
                _log.exception("a request failed: %s", exchange.id)
                exchange.refuse(
                    GatewayError("internal_error", "The gateway failed", stage="gateway")
                )
                await settled(exchange)
            done()

        task = self.services.loop.create_task(go_on())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def gone() -> None:
            exchange.client_gone()
            task.cancel()  # it may be in a connect that hangs

        if exchange.down.gone is not None:
            exchange.down.gone = gone

    async def _go_on(self, exchange: Exchange, plan: Plan, verdict: Verdict) -> None:
        send = self.sender.send
        if verdict == "next":
            await send(exchange, plan, 1)
            return
        if verdict == "rekey":
            assert exchange.target is not None
            self.sender.arm(exchange, exchange.target)
        await send(exchange, plan, fresh=verdict == "again")

    async def _exchange(self, exchange: Exchange, inbound: Inbound, query: str) -> None:
        down = exchange.down
        if b"expect" in inbound.notes and not down.body_read:
            down.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.sender.streams_upload(exchange, inbound):
            plan = await self.admission.plan_native(exchange, inbound, query, b"")
            exchange.open()
            await self.sender.upload(exchange, plan)
            return
        server = self.services.config.server
        body = await down.body(server.max_body_bytes, server.body_seconds)
        encoding = inbound.notes.get(b"content-encoding")
        if encoding is not None and body:
            body = await content.decode(body, encoding, server.max_body_bytes)
        exchange.ready_at = self.services.time()
        plan = await self.admission.plan(exchange, inbound, query, body)
        exchange.instead = counting.instead(exchange, plan)
        exchange.open()
        await self.sender.send(exchange, plan)

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


def _family_of(path: str, inbound: Inbound) -> Family:
    """In whose envelope to tell somebody that a path does not exist."""
    if "/v1beta" in path:
        return "gemini"
    return headers.spoken(inbound) or "openai"
