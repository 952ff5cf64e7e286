"""One request, from its admission to its receipt.

The exchange holds what the handler decided and what happened: attempts, times, outcome. It is the
first `Sink` of the connection: the head of an answer makes it choose a relay (`passthrough.py`) or
give the attempt up. Everything that ends a request goes through `_settle`, once, synchronously, so
that no cancellation can come between an ending and its receipt.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from gateway.errors import GatewayError, Stage
from gateway.ledger.entry import Attempt, Failure, Opening, Status
from gateway.proxy import closing, errors, headers, limit_lines, relaying, settlement
from gateway.proxy.breaker import Probe
from gateway.proxy.claims import Claim
from gateway.proxy.connection import Broken, Lines, UpstreamConnection
from gateway.proxy.endpoints import MODEL_CHARS_MAX, Endpoint
from gateway.proxy.key_pool import PoolKey
from gateway.proxy.passthrough import Drained, Relay, stage_of
from gateway.proxy.routing import Target
from gateway.proxy.server import Downstream, head
from gateway.wire.neutral import Metered

if TYPE_CHECKING:
    from gateway.proxy.counting import Instead
    from gateway.proxy.services import Caller, Services
    from gateway.proxy.translated import Foreign

Verdict = Literal["done", "again", "rekey", "next"]
"""How an attempt ended: the client was answered; repeat it on a fresh connection, or with another
of the provider's keys; try the next target."""

_RETRYABLE = frozenset((408, 429))
_UNKNOWN = frozenset((404, 405))
"""What a server says that does not know a path, or the model on it."""
KEY_REFUSED = frozenset((401, 403, 429))


class Exchange:
    """See the module docstring. Event-loop thread only."""

    __slots__ = (
        "_attempt_at", "_drain_timer", "_gone", "_own_from", "_own_s", "_relay", "answer_status",
        "attempts", "bodyless", "bodyless_length", "caller", "claim", "connect_s", "connection",
        "content_length", "down", "endpoint", "first_byte_at", "hurried", "id", "instead", "key",
        "keys_tried", "model", "more", "opening", "probe", "ready_at", "secret", "sent_at",
        "services", "settled", "size", "started_at", "stream", "strip_usage", "target", "ticket",
        "translation", "uploading", "upstream_request_id", "watcher",
    )  # fmt: skip

    def __init__(
        self, services: "Services", down: Downstream, endpoint: Endpoint, caller: "Caller"
    ) -> None:
        self.services = services
        self.down = down
        self.endpoint = endpoint
        self.caller = caller
        self.id = services.new_id()
        self.started_at = self.ready_at = services.time()
        self.sent_at = self.first_byte_at = 0.0
        self.connect_s: float | None = None
        self.opening: Opening | None = None
        self.model, self.stream, self.size = endpoint.model or "", False, 0
        self.ticket = 0
        self.claim: Claim | None = None
        self.key: PoolKey | None = None
        """The provider's key in use, where the gateway's own are."""
        self.keys_tried = 0
        self.translation: Foreign | None = None
        """Set for an attempt whose target speaks another format than the caller."""
        self.instead: Instead | None = None
        """What may be answered where no target gives an answer."""
        self.hurried = False
        """Whether the attempt was given less time than its target's own limit."""
        self.probe: Probe | None = None
        self.attempts: list[Attempt] = []
        self.target: Target | None = None
        self.connection: UpstreamConnection | None = None
        self.watcher: Callable[[Verdict], None] | None = None
        """Told how an attempt ended, or that the client has everything."""
        self.more = False
        self.secret = caller.secret
        """The provider key in use, so that nothing that quotes it goes out."""
        self.strip_usage = False
        self.uploading = False
        self.bodyless = down.method == "HEAD"
        self.bodyless_length: bytes | None = None
        self.content_length: int | None = None
        self.answer_status = 0
        self.upstream_request_id: str | None = None
        self.settled = False
        self._relay: Relay | None = None
        self._attempt_at = 0.0
        self._own_from = 0.0
        """When the time of our own that leads to the next attempt began, if not at `ready_at`."""
        self._own_s = 0.0
        self._gone = False
        self._drain_timer: asyncio.TimerHandle | None = None
        services.exchanges.add(self)

    # -- the handler's side --------------------------------------------------------------------

    def about(self, model: str, *, stream: bool, size: int) -> None:
        """What its receipt says it asked for; `size` is the body's, in bytes."""
        self.model, self.stream, self.size = model, stream, size

    def open(self) -> None:
        """The request is admitted: queue the row that opens its receipt."""
        opening = self.opened()
        self.ticket = self.services.ledger.begin(opening)

    def opened(self) -> Opening:
        """What opens its receipt; made by the first call."""
        opening = self.opening
        if opening is None:
            caller = self.caller
            key = caller.key
            opening = self.opening = Opening(
                self.id, caller.owner, self.services.wall_ms(), self.endpoint.label,
                self.endpoint.format, self.model[:MODEL_CHARS_MAX], self.stream, self.size,
                None if key is None else key.user_id, None if key is None else key.id,
            )  # fmt: skip
        return opening

    def attempt(self, target: Target, *, more: bool) -> None:
        """Begin a try at a target; `more` says that another could follow."""
        self.target = target
        self.more = more
        self._attempt_at = self.services.time()
        if self.attempts or self.sent_at:
            self._own_from = self._attempt_at
        health = self.services.health
        if not health.calm and self.caller.key is not None and self.probe is None:
            self.probe = health.begin(target, self._attempt_at)
        self.first_byte_at = 0.0
        self.answer_status = 0
        self.upstream_request_id = None

    def verdict(self) -> asyncio.Future[Verdict]:
        """A future of how the attempt that runs will end."""
        future: asyncio.Future[Verdict] = self.services.loop.create_future()

        def tell(verdict: Verdict) -> None:
            if not future.done():
                future.set_result(verdict)

        self.watcher = tell
        return future

    def send(self, connection: UpstreamConnection, data: bytes) -> None:
        """Hand the request to a connection; the answer comes back through `head` and relays."""
        self.connection = connection
        self.sent_at = self.services.time()
        self._own_s += self.sent_at - (self._own_from or self.ready_at) - (self.connect_s or 0.0)
        connection.send(self, data, bodyless=self.bodyless)

    def own_seconds(self, now: float) -> float:
        """The gateway's own time in all attempts, or until now where nothing was sent."""
        return self._own_s if self.sent_at else now - self.ready_at - (self.connect_s or 0.0)

    def refuse(self, error: GatewayError) -> None:
        """Answer with an error of the gateway, receipted."""
        self.services.metrics.rejections.child(error.code)[0] += 1
        if not self.settled:
            self._drop_connection()  # a streamed upload that broke off in the middle
        self._fail(error)

    def client_gone(self) -> None:
        """The client closed its connection, at any time. Settles unless all was accounted for."""
        if self._gone:
            return
        self._gone = True
        relay, connection = self._relay, self.connection
        # Asked even when settled: a stream past its terminal event waits for its upstream's end.
        accounted = relay is not None and relay.client_gone()
        if self.settled or accounted:
            if connection is not None and connection.sink is relay is not None:
                connection.abort()
            return
        billing = self.services.config.billing
        key = self.caller.key
        on_disconnect = (key and key.on_disconnect) or billing.on_disconnect
        if connection is None or self.uploading or on_disconnect == "cancel":
            self._leave()
            return
        connection.resume()
        if relay is not None:
            connection.sink = Drained(relay, billing.drain_bytes)
        self._drain_timer = self.services.loop.call_later(
            billing.drain_seconds, self.drained_enough
        )

    def drained_enough(self) -> None:
        """The time or the bytes allowed for reading on without a client are used up."""
        if not self.settled:
            self._leave()
            return
        if self.connection is not None:
            self.connection.abort()
        if self._relay is not None:
            self._relay.client_gone()

    def client_stalled(self) -> None:
        """The client read nothing for too long: it is given up, as one that left."""
        self._leave("The client stopped reading")
        self.down.abort()

    def _leave(self, message: str = "The client disconnected") -> None:
        if self.connection is not None:
            self.connection.abort()
        failure = Failure("client_disconnect", "client_disconnect", message)
        metered = None if self._relay is None else self._relay.metered()
        if metered is not None and metered.fault is not None:
            # The upstream's own error event came first; clients leave at it.
            self.streamed(metered, self.finished)
            return
        ended: settlement.Ended = "no_answer" if self._relay is None else "client_left"
        if self.answer_status >= 400:
            ended = "no_answer"
        if self.connection is not None:
            self._attempted("client_disconnect", self.answer_status or None)
        self._settle(ended, metered, "cancelled", 499, failure, self.finished)

    def cut_short(self) -> None:
        """The gateway stops before the answer is whole: its own fault, nothing is charged."""
        if self.settled:
            relay, connection = self._relay, self.connection
            if connection is not None and connection.sink is relay is not None:
                # All was said and only the upstream's own end is missing: not waited for.
                connection.fail(Broken("gateway", "the gateway is stopping"))
            return
        if self.connection is not None:
            self.connection.abort()
            self._attempted("gateway", self.answer_status or None)
        failure = Failure("gateway", "shutting_down", "The gateway was stopped")
        self._settle("no_answer", None, "failed", self.answer_status or 503, failure, self._aborted)

    def _aborted(self) -> None:
        self.down.abort()
        self.finished()

    # -- the connection's side -----------------------------------------------------------------

    def head(self, status: int, lines: Lines) -> None:
        """An answer has begun: relay it, or give up this attempt."""
        self.first_byte_at = self.services.time()
        self.answer_status = status
        if status >= 400 and self._turned_down(status, lines):
            return
        own = self.caller.key is not None
        answer = headers.answer(lines, self.secret, limited=own)
        self.relay_with(relaying.choose(self, status, answer))

    def _turned_down(self, status: int, lines: Lines) -> bool:
        """Whether an error answer ends the attempt, instead of being passed on."""
        own = self.caller.key is not None
        if own and status in KEY_REFUSED and self._rekeyed(status, lines):
            return True
        failed = status >= 500 or status in _RETRYABLE or (own and status in (401, 403))
        if self.instead is not None and status in _UNKNOWN:
            failed, self.more = True, False  # what stands in is for this target, not for the next
        if failed and (self.more or self.instead is not None or self._others_failed()):
            self._given_up("upstream_status", status)
            return True
        if own and status in (401, 403):
            # The operator's key is at fault, not the caller's; the text may quote that key.
            self._drop_connection()
            assert self.target is not None
            self._attempted("upstream_status", status)
            self.refuse_answer(
                "bad_upstream_response",
                f"Provider {self.target.provider.name} refused the gateway's credentials",
                "upstream_status",
            )
            return True
        return False

    def _rekeyed(self, status: int, lines: Lines) -> bool:
        """The provider refused the key in use: whether another one of its keys takes over."""
        if self.key is None:
            return False
        assert self.target is not None
        health, now = self.services.health, self.services.time()
        health.key_refused(self.target, self.key, status, lines, now)
        self.keys_tried += 1
        if self._gone or self.uploading:
            return False
        if not health.another_key(self.target, self.keys_tried, now):
            return False
        self._attempted("upstream_status", status)
        self._drop_connection()
        self._resolve("rekey")
        return True

    def relay_with(self, relay: Relay) -> None:
        """Give the rest of the answer to a relay."""
        self._relay = relay
        connection = self.connection
        if self._gone:
            relay.client_gone()
            if connection is not None:
                connection.sink = Drained(relay, self.services.config.billing.drain_bytes)
            return
        if connection is not None:
            connection.sink = relay
        self.down.reader = self
        if self.down.paused():
            self.client_paused()

    def own_lines(self) -> bytes:
        """The header lines that the gateway adds to every answer: receipt, limits, CORS."""
        caller, services = self.caller, self.services
        last = b"" if self.down.keep_alive else b"Connection: close\r\n"
        if caller.subjects:
            standing = services.limiter.standing(caller.subjects)
            anthropic = self.endpoint.family == "anthropic"
            last += limit_lines.lines(standing, anthropic=anthropic, wall_ms=services.wall_ms())
        return services.receipt_lines % ((self.id.encode(),) * 4) + caller.cors + last

    def body(self, data: bytes) -> None:
        """Never called: a relay took over at the head."""

    def end(self) -> None:
        """Never called: a relay took over at the head."""

    def broken(self, error: Broken) -> None:
        """The attempt failed before any answer."""
        self.connection = None
        if error.kind == "stale" and not self._gone and not self.uploading:
            self._resolve("again")
            return
        if error.kind in ("cut", "stale"):
            error = Broken("connect", error.message)  # nothing was begun: as if never reached
        self.attempt_failed(stage_of(error))

    def attempt_failed(self, failure: GatewayError) -> None:
        """The target gave no answer: go on to the next, or tell the client."""
        self._attempted(failure.stage, None)
        if self.more and not self._gone:
            self._resolve("next")
            return
        deadline_s = self.services.config.upstream.deadline_seconds
        if self._others_failed() and self.services.time() < self.started_at + deadline_s:
            failure = errors.all_failed(failure.stage)
        self._fail(failure)

    def _given_up(self, outcome: Stage, status: int) -> None:
        """A target's answer is not used: go on to the next, or tell the client that all failed."""
        self._attempted(outcome, status)
        self._drop_connection()
        if self.more:
            self._resolve("next")
        else:
            self._fail(errors.all_failed(outcome))

    def _others_failed(self) -> bool:
        """Whether this is not the first target tried: none of several has the last word."""
        assert self.target is not None
        name = (self.target.provider.name, self.target.model)
        return any((one.provider, one.model) != name for one in self.attempts)

    def answer_here(self, body: bytes, lines: bytes) -> None:
        """Answer without any upstream; costs nothing. Whoever was tried has not answered."""
        self.target = self.upstream_request_id = None
        self._answer(200, body, lines, None)

    def give_up(self, error: GatewayError) -> None:
        """No time is left for the attempt that was to begin: nothing is said of its target."""
        self._fail(error)

    def passed_over(self, target: Target, error: GatewayError, *, more: bool) -> None:
        """A target may not be tried: its keys rest, or its price is more than can be held."""
        name = target.provider.name
        if self.sent_at:
            error = errors.all_failed(error.stage, f"{name} was passed over: {error.message}")
        if more or self.sent_at:
            self.attempts.append(Attempt(name, target.model, error.stage, None, 0.0))
        if not more:
            self._fail(error)

    # -- backpressure (server.Reader) ----------------------------------------------------------

    def client_paused(self) -> None:
        """The client does not keep up: stop reading the upstream."""
        if self.connection is not None and not self._gone:
            self.connection.pause()

    def client_resumed(self) -> None:
        """The client caught up."""
        if self.connection is not None:
            self.connection.resume()

    # -- the relays' side ----------------------------------------------------------------------

    def when_opened(self, callback: Callable[[], None]) -> None:
        """Call back once the row that opens the receipt is durable."""
        self.services.ledger.when_durable(self.ticket, callback)

    def answered(self, metered: Metered | None, durable: Callable[[], None]) -> None:
        """A whole answer is in: settle by its status."""
        status = self.answer_status
        if status >= 400:
            failure = Failure("upstream_status", "upstream_status", f"The upstream said {status}")
            self._attempted("upstream_status", status)
            self._settle("no_answer", None, "failed", status, failure, durable)
            return
        self._attempted("succeeded", status)
        self._settle("complete", metered, *self._ending(status), durable)

    def streamed(self, metered: Metered, durable: Callable[[], None]) -> None:
        """A stream came to its end: its own terminal, an error of its own, or just the end."""
        status, fault = self.answer_status, metered.fault
        if fault is not None:
            failure = Failure("upstream_stream", fault.type or "error", fault.message)
        elif not metered.complete and self.endpoint.metered:
            failure = Failure("upstream_stream", "truncated", "The stream ended without its end")
        else:
            self._attempted("succeeded", status)
            self._settle("complete", metered, *self._ending(status), durable)
            return
        self._attempted("upstream_stream", status)
        self._settle("upstream_broke", metered, "failed", status, failure, durable)

    def _ending(self, status: int) -> tuple[Status, int, Failure | None]:
        """A complete answer: "cancelled" still where the client did not stay for it (drain)."""
        if self._gone:
            failure = Failure("client_disconnect", "client_disconnect", "The client disconnected")
            return "cancelled", status, failure
        return "succeeded", status, None

    def stream_broke(
        self, failure: GatewayError, metered: Metered | None, durable: Callable[[], None]
    ) -> None:
        """The upstream failed in mid-answer, with some of it on its way to the client."""
        self.connection = None
        self._attempted(failure.stage, self.answer_status)
        told = Failure(failure.stage, failure.code, failure.message)
        self._settle("upstream_broke", metered, "failed", self.answer_status, told, durable)

    def answer_broke(self, error: Broken) -> None:
        """It failed in mid-answer with nothing sent on: a real status is still possible."""
        self.connection = None
        failure = stage_of(error)
        if error.kind == "cut":
            failure.stage = "upstream_stream"
        self.attempt_failed(failure)

    @property
    def replaceable(self) -> bool:
        """Whether another target, or a 503, can still take its place, as nothing was sent."""
        return (self.more or self._others_failed()) and not self._gone

    def opened_with_error(self) -> None:
        """A stream opened with 200 and an error before any content: on to the next target."""
        self._relay = None
        self._given_up("upstream_stream", self.answer_status)

    def refuse_answer(self, code: str, message: str, stage: Stage) -> None:
        """The answer cannot be passed on."""
        if self.attempts == [] or self.attempts[-1].outcome != stage:
            self._attempted(stage, self.answer_status)
        self._fail(GatewayError(code, message, stage=stage))

    def finished(self) -> None:
        """The client has everything it will get."""
        self.services.exchanges.discard(self)
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        # Undo the cycles among the parts: what reference counts free costs no collection.
        self.down.reader = self.down.gone = None
        self._relay = self.connection = None
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            watcher("done")

    # -- inside --------------------------------------------------------------------------------

    def _resolve(self, verdict: Verdict) -> None:
        if self.watcher is not None:
            self.watcher(verdict)

    def _drop_connection(self) -> None:
        if self.connection is not None:
            self.connection.abort()
            self.connection = None

    def _attempted(self, outcome: str, status: int | None) -> None:
        target, now = self.target, self.services.time()
        assert target is not None
        self.attempts.append(
            Attempt(target.provider.name, target.model, outcome, status,
                    (now - self._attempt_at) * 1000)
        )  # fmt: skip
        services = self.services
        services.metrics.attempts.child(target.provider.name, outcome)[0] += 1
        health = services.health
        if outcome == "succeeded" and health.calm and not health.measures:
            return  # nothing that anybody keeps
        if self.caller.key is not None:
            first_byte_s = self.first_byte_at - self.sent_at if self.first_byte_at else None
            if self.hurried and outcome == "upstream_timeout":
                outcome = "gateway"  # it was given less time than its own: no failure of its own
            health.attempted(target, outcome, status, first_byte_s, now, self.probe)
            self.probe = None

    def _fail(self, error: GatewayError) -> None:
        """Settle as failed and answer with an error in the caller's format."""
        if self.instead is not None and (found := self.instead(error)) is not None:
            self.answer_here(*found)
            return
        if not self.down.body_read:
            self.down.keep_alive = False  # the rest of its body would be read as a request
        body = errors.body(error, self.endpoint.family, self.id)
        told = Failure(error.stage, error.code, error.message)
        self._answer(error.status, body, errors.headers(error), told)

    def _answer(self, status: int, body: bytes, lines: bytes, failure: Failure | None) -> None:
        """Settle without an upstream's answer, and give one of the gateway's own, in JSON."""
        lines = b"content-type: application/json\r\ncontent-length: %d\r\n%b" % (len(body), lines)
        if self.bodyless:
            body = b""  # after HEAD it would be read as the next answer
        out = head(status, lines + self.own_lines()) + b"\r\n" + body

        def durable() -> None:
            self.down.write(out)
            self.finished()

        told: Status = "succeeded" if failure is None else "failed"
        self._settle("no_answer", None, told, status, failure, durable)

    def _settle(
        self,
        ended: settlement.Ended,
        metered: Metered | None,
        status: Status,
        http_status: int,
        failure: Failure | None,
        durable: Callable[[], None],
    ) -> None:
        """Write the receipt: once, whatever happens after."""
        if self.settled:
            return
        self.settled = True
        if self.probe is not None:
            self.probe.end()
            self.probe = None
        entry = closing.close(self, ended, metered, status, http_status, failure)
        self.services.ledger.finish(entry, durable)
