"""Token counts for models whose provider counts in another format, or does not count at all.

Clients (Claude Code, the Gemini CLI) ask before long calls. A count goes where the call itself
would go. A provider of another format is asked in its own (`request`), and what it says is a real
count. Where it has no counter, or counting fails on its side, the answer is an estimate from
bytes, marked by `X-Gateway-Estimated: true`: no count at all would stop an agent that a wrong one
does not. What a provider has against the request itself stays an error. Used by the sender and the
handler.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.errors import GatewayError, Stage
from gateway.proxy import translated
from gateway.proxy.endpoints import Endpoint
from gateway.proxy.headers import Answer
from gateway.proxy.passthrough import Relay
from gateway.proxy.routing import ESTIMATED, SPOKEN, Target
from gateway.wire import demand, envelope, registry
from gateway.wire.conversation import AnswerError, Request
from gateway.wire.counting_translation import COUNTERS, Counter, written
from gateway.wire.neutral import Metered
from gateway.wire.translate import losses

if TYPE_CHECKING:
    from gateway.proxy.admission import Plan
    from gateway.proxy.exchange import Exchange

ESTIMATED_LINE = b"X-Gateway-Estimated: true\r\n"

Instead = Callable[[GatewayError], tuple[bytes, bytes] | None]
"""What to answer instead of a failure, if anything: the body, and header lines."""

_OF_THE_PROVIDER: frozenset[Stage] = frozenset((
    "routing", "upstream_connect", "upstream_timeout", "upstream_status", "upstream_stream",
))  # fmt: skip

_PATHS = {
    "anthropic_messages": "messages/count_tokens",
    "openai_responses": "responses/input_tokens",
}


_STATE = frozenset(("previous_response_id", "conversation", "cachedContent", "cached_content"))


class Uncountable(Exception):
    """No provider is to be asked about this request: what it takes is to be estimated."""


def request(exchange: "Exchange", plan: "Plan", target: Target) -> bytes:
    """A request to count as a target of another format gets it; leaves its call on the exchange.

    Raises `GatewayError` where the call itself would be refused, `Uncountable` where only the
    target's counter cannot be told.
    """
    name = target.speaks
    if name == ESTIMATED:
        raise Uncountable
    assert name is not None
    counter = _counter(exchange.endpoint)
    if plan.request is None:
        plan.request = counter.read_request(plan.body, exchange.endpoint.model)
    body, ignored = _said(plan.request, exchange, target, name)
    exchange.translation = Count(counter, name, ignored)
    path = _PATHS.get(name) or translated.gemini_path(target, "countTokens")
    return translated.outgoing(exchange, plan, target, path, body)


def _said(
    wanted: Request, exchange: "Exchange", target: Target, name: str
) -> tuple[bytes, list[str]]:
    """The body for a target's counter, and what was left out of it."""
    toward = translated.toward(exchange, target)
    called_in = SPOKEN[translated.family_of(name)]
    losses(wanted, registry.DIALECTS[called_in])
    try:
        return written(wanted, name, toward)
    except GatewayError:
        if called_in == name:
            raise
        raise Uncountable from None  # the call itself can be told


def _counter(endpoint: Endpoint) -> Counter:
    assert endpoint.counts is not None
    return COUNTERS[endpoint.counts]


class Count:
    """See `translated.Foreign` and `translated.Whole`."""

    __slots__ = ("_counter", "_name", "ignored")

    streams = False
    told = b""

    def __init__(self, counter: Counter, name: str, ignored: list[str]) -> None:
        self._counter = counter
        self._name = name
        self.ignored = ignored

    def relay(self, exchange: "Exchange", status: int, answer: Answer) -> Relay:
        """See `Foreign.relay`."""
        return translated.TranslatedBody(exchange, self, status, answer)

    def tap(self) -> None:
        """Counting is free at every provider: there is nothing to be metered."""

    def read_error(self, status: int, body: bytes) -> AnswerError:
        """See `Whole.read_error`."""
        return registry.dialect(self._name).read_error(status, body)

    def answer(self, body: bytes, metered: Metered | None) -> bytes | None:
        """See `Whole.answer`."""
        tokens = COUNTERS[self._name].read_answer(body)
        return None if tokens is None else self._counter.write_answer(tokens)


def instead(exchange: "Exchange", plan: "Plan") -> Instead | None:
    """What stands in for a count that no provider gives.

    None where nothing does: callers with a key of their own get what their provider says, and
    about state that a provider keeps nobody else can say anything.
    """
    endpoint = exchange.endpoint
    if endpoint.counts is None or plan.envelope is None or exchange.caller.key is None:
        return None
    if not _STATE.isdisjoint(plan.envelope.fields):
        return None

    def estimate(error: GatewayError) -> tuple[bytes, bytes] | None:
        if error.stage not in _OF_THE_PROVIDER:
            return None
        try:
            return estimated(plan.body, endpoint)
        except GatewayError:
            return None  # nor can this be: what failed says more

    return estimate


def estimated(body: bytes, endpoint: Endpoint) -> tuple[bytes, bytes]:
    """An estimate as the answer: its body, and the header line that marks it.

    Raises `GatewayError` where the request is none of its format, or where what it is about lies
    with a provider.
    """
    counter = _counter(endpoint)
    asked = counter.read_request(body, endpoint.model)
    state = asked.spelled.get("stored_state")
    if state is not None:
        raise GatewayError(
            "unsupported_parameter",
            f"{state} is known to the provider alone, which does not count this model's tokens",
            param=state,
        )
    assert endpoint.counts is not None
    tokens = _tokens(_counted(body, endpoint.counts), endpoint.counts)
    return counter.write_answer(tokens), ESTIMATED_LINE


def _counted(body: bytes, wire_format: str) -> bytes:
    """The request in question: Gemini may wrap it."""
    if wire_format != "gemini":
        return body
    fields = envelope.peek(body, wire_format).fields
    inner = fields.get("generateContentRequest") or fields.get("generate_content_request")
    return body if inner is None else bytes(inner)


def _tokens(body: bytes, wire_format: str) -> int:
    """About as many as a provider would count: text by its bytes, images at a usual size."""
    found = demand.read(body, envelope.peek(body, wire_format), wire_format)
    text = -(-(found.input_bytes - found.image_bytes) // demand.BYTES_PER_TOKEN_USUAL)
    return text + found.images * demand.IMAGE_TOKENS_USUAL
