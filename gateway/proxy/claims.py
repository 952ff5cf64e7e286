"""What a request of a gateway key takes before it is sent, and gives back when it has ended.

A claim is its place in the limits and its hold on the balances of its user and its key. Checking
and taking happen without an await between them, so that calls at the same time cannot overspend
together. Used by admission (`take`), the sender (`aim`, at each further target) and the closing of
an exchange (`settle`, once, however it ended).
"""

from typing import TYPE_CHECKING

import msgspec

from gateway.errors import GatewayError
from gateway.ledger.catalog import Model
from gateway.ledger.prices import usd_text
from gateway.ledger.worst_case import (
    OUTPUT_TOKENS_MAX,
    fitting_output,
    input_tokens,
    worst_case,
)
from gateway.proxy.endpoints import Endpoint
from gateway.proxy.routing import Target
from gateway.wire import demand as wire_demand
from gateway.wire.envelope import Envelope
from gateway.wire.neutral import Demand

if TYPE_CHECKING:
    from gateway.proxy.services import Caller, Services

TAKES_NO_LIMIT = frozenset(("responses/compact",))
"""Paths of metered calls whose API knows no limit on output, and refuses or ignores one (OpenAI
API reference, November 2026)."""


class _Fixed(Demand, frozen=True):
    """The demand of such a call: `max_output_tokens` is what stands in for a limit.

    A cap is held to that, as a balance is; what does not fit is refused, as nothing can be set.
    """


class Claim:
    """See the module docstring. `held` is in nano-USD; `tokens` was taken from the TPM limits."""

    __slots__ = ("_caller", "_done", "_model", "_services", "demand", "held", "known",
                 "max_output_tokens", "multiplier", "target", "tokens")  # fmt: skip

    def __init__(
        self, services: "Services", caller: "Caller", model: str, demand: Demand | None, tokens: int
    ) -> None:
        self._services = services
        self._caller = caller
        self._model = model
        self._done = False
        self.demand = demand
        self.tokens = tokens
        self.held = 0
        self.target: Target | None = None
        """The target that it was last aimed at, its price (`known`) and its `multiplier`."""
        self.known: Model | None = None
        self.multiplier = "1"
        self.max_output_tokens: int | None = None
        """What the gateway sets where a cap bounds a call that did not bound itself."""

    def aim(self, target: Target) -> None:
        """Hold what the call may cost at this target, or more than was held for the last one.

        Raises `GatewayError` `call_cap_exceeded` or `insufficient_balance`; what was held stays.
        """
        services, demand = self._services, self.demand
        model = services.router.known(target)
        if demand is None or model is None:
            return
        self.target, self.known = target, model
        self.multiplier = services.router.multiplier(target)
        multipliers = (self._caller.multiplier, self.multiplier)
        default_output = services.config.billing.default_max_output_tokens
        worst = worst_case(
            demand, model, default_output=default_output,
            rate_multiplier=multipliers[0], model_multiplier=multipliers[1],
        )  # fmt: skip
        key = self._caller.key
        assert key is not None
        cap = services.accounts.cap(key.user_id, self._model)
        if cap is not None:
            worst = self._cap(cap, worst, model, multipliers)
        if worst > self.held:  # what costs nothing needs no credit
            self._hold(worst)

    def _cap(self, cap: int, worst: int, model: Model, multipliers: tuple[str, str]) -> int:
        """The worst case within the cap of one call; raises `call_cap_exceeded`."""
        demand = self.demand
        assert demand is not None
        fits = fitting_output(
            demand, model, cap,
            rate_multiplier=multipliers[0], model_multiplier=multipliers[1],
        )  # fmt: skip
        bounded = demand.max_output_tokens is not None
        if (bounded and worst > cap) or fits <= 0:
            settable = fits > 0 and not isinstance(demand, _Fixed)
            hint = f"max_tokens of at most {fits} would fit" if settable else "no max_tokens fits"
            raise GatewayError(
                "call_cap_exceeded",
                f"This call of {self._model} may cost up to ${usd_text(worst)}, more than your cap "
                f"of ${usd_text(cap)} per call: {hint}",
                stage="balance",
                param="max_tokens" if settable else None,
            )
        longest = model.max_output_tokens or model.context_length or OUTPUT_TOKENS_MAX
        if bounded or fits >= longest:
            self.max_output_tokens = None
            return worst
        default_output = self._services.config.billing.default_max_output_tokens
        if model.max_output_tokens is None and model.context_length is not None:
            # Upstreams refuse a bound that does not fit into the context beside the prompt.
            room = model.context_length - input_tokens(demand, model)
            fits = min(fits, max(room, default_output))
        self.max_output_tokens = fits
        return worst_case(
            demand, model, default_output=min(fits, default_output),
            rate_multiplier=multipliers[0], model_multiplier=multipliers[1],
        )  # fmt: skip

    def _hold(self, worst: int) -> None:
        """Hold so much in all, on both balances or on neither."""
        user, key = self._caller.funds, self._caller.key_funds
        assert user is not None
        assert key is not None
        more = worst - self.held
        if not user.more(more):
            raise _insufficient(worst, user.available + self.held, "balance")
        if not key.more(more):
            user.release(more)
            raise _insufficient(worst, key.available + self.held, "cap")
        self.held = worst

    def require_credit(self) -> None:
        """Refuse a call that cannot be priced beforehand to whoever has nothing left."""
        caller = self._caller
        assert caller.funds is not None
        assert caller.key_funds is not None
        available = min(caller.funds.available, caller.key_funds.available)
        if available <= 0:
            raise _insufficient(0, available, "balance")

    def settle(self, charged: int, tokens: int, now: float) -> None:
        """End the claim: release the hold, charge, correct the limit. The first call counts."""
        if self._done:
            return
        self._done = True
        caller = self._caller
        assert caller.funds is not None
        assert caller.key_funds is not None
        caller.funds.settle(self.held, charged)
        caller.key_funds.settle(self.held, charged)
        self._services.limiter.finish(caller.subjects, self.tokens, tokens, now)

    def cancel(self) -> None:
        """Give all of it back, the request itself too: it was not made."""
        services, caller = self._services, self._caller
        self._done = True
        if self.held:
            assert caller.funds is not None
            assert caller.key_funds is not None
            caller.funds.release(self.held)
            caller.key_funds.release(self.held)
        services.limiter.cancel(caller.subjects, self.tokens, services.time())


def demanded(
    endpoint: Endpoint, body: bytes, seen: Envelope | None, default_output: int
) -> tuple[Demand | None, int]:
    """The most a call may use, and the tokens that its limit is asked for; (None, 0): unmetered."""
    if seen is None or not endpoint.metered:
        return None, 0
    demand = wire_demand.read(body, seen, endpoint.format)
    if endpoint.path in TAKES_NO_LIMIT:
        told = {**msgspec.structs.asdict(demand), "max_output_tokens": default_output}
        demand = _Fixed(**told)
    return demand, wire_demand.tokens(demand, default_output)


def check(services: "Services", caller: "Caller", tokens: int, now: float) -> None:
    """Raise `rate_limit_exceeded` where the limits do not admit one more such call."""
    refusal = services.limiter.check(caller.subjects, tokens, now)
    if refusal is not None:
        raise GatewayError(
            "rate_limit_exceeded", refusal.message,
            stage="rate_limit", retry_after_s=refusal.retry_after_s,
        )  # fmt: skip


def _insufficient(worst: int, available: int, whose: str) -> GatewayError:
    left = f"{'-' if available < 0 else ''}${usd_text(abs(available))}"
    has = f"{left} is left" if whose == "balance" else f"this key's spending cap leaves {left}"
    may = f"this call may cost up to ${usd_text(worst)}, " if worst else ""
    return GatewayError(
        "insufficient_balance",
        f"Insufficient credit balance: {may}{has}; top up or lower max_tokens",
        stage="balance",
    )
