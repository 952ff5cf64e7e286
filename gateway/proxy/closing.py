"""The end of an exchange as it is accounted for: bill, claim, counters, receipt. No I/O.

Called by `Exchange._settle`, once per request and synchronously: what is charged here and what the
receipt says are the same number.
"""

from typing import TYPE_CHECKING

from gateway.ledger.catalog import Model
from gateway.ledger.entry import Entry, Failure, Status
from gateway.proxy import headers, settlement
from gateway.wire.neutral import Metered

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange

_REFUSED = frozenset(("validation", "routing", "balance", "rate_limit"))


def close(
    exchange: "Exchange",
    ended: settlement.Ended,
    metered: Metered | None,
    status: Status,
    http_status: int,
    failure: Failure | None,
) -> Entry:
    """Charge what is due, give back what was held, and return what the receipt will say."""
    services, caller, target = exchange.services, exchange.caller, exchange.target
    now = services.time()
    opening = exchange.opened()
    wire_format = exchange.endpoint.format
    if target is not None and target.speaks is not None:
        wire_format = target.speaks
    known, bill, model_multiplier = _bill(exchange, ended, metered, wire_format, opening.bytes)
    claim = exchange.claim
    connect_s = exchange.connect_s
    own_s = exchange.own_seconds(now)
    entry = Entry(
        opening=opening,
        status=status,
        http_status=http_status,
        failure=failure,
        upstream_request_id=exchange.upstream_request_id,
        attempts=exchange.attempts,
        usage=bill.usage,
        usage_source=bill.source,
        cost_nano_usd=bill.nano_usd,
        billed=caller.key is not None,
        price=bill.price,
        rate_multiplier=caller.multiplier,
        model_multiplier=model_multiplier,
        connect_ms=None if connect_s is None else connect_s * 1000,
        total_ms=(now - exchange.started_at) * 1000,
        gateway_ms=own_s * 1000 if own_s > 0.0 else 0.0,
        hold_nano_usd=0 if claim is None else claim.held,
        list_nano_usd=bill.list_nano_usd,
    )
    if target is not None:
        entry.provider = target.provider.name
        entry.route_model = target.model
        entry.route_format = wire_format
        entry.translated = target.speaks is not None
    if exchange.first_byte_at:
        entry.first_byte_ms = (exchange.first_byte_at - exchange.started_at) * 1000
    if metered is not None:
        entry.response_id = metered.response_id
        entry.response_model = metered.response_model
    if len(exchange.secret) >= headers.SECRET_BYTES_MIN:
        secret = exchange.secret.decode("latin-1")
        if failure or secret in f"{entry.response_id}\n{entry.response_model}":
            _forget(secret, entry)
    if caller.key is not None:
        _account(exchange, entry, now)
    services.metrics.settled(entry, "other" if known is None else known.id)
    if services.log_request is not None:
        services.log_request(entry, caller)
    return entry


def _bill(
    exchange: "Exchange",
    ended: settlement.Ended,
    metered: Metered | None,
    wire_format: str,
    request_bytes: int,
) -> tuple[Model | None, settlement.Bill, str]:
    """What the call costs: the model that is priced, the bill, the model's multiplier."""
    services, caller, target = exchange.services, exchange.caller, exchange.target
    known = None
    price_of = None
    model_multiplier = "1"
    if target is not None and not exchange.endpoint.free:
        claim = exchange.claim
        if claim is not None and claim.target is target:
            known, model_multiplier = claim.known, claim.multiplier
        else:
            known = services.router.known(target)
            if caller.key is not None:
                model_multiplier = services.router.multiplier(target)
        if metered is not None and metered.usage is not None and metered.usage.billed_besides:
            price_of = services.router.price_of(target)
    bill = settlement.bill(
        ended,
        metered,
        wire_format=wire_format,
        request_bytes=request_bytes,
        model=known,
        multipliers=(caller.multiplier, model_multiplier),
        price_of=price_of,
    )
    return known, bill, model_multiplier


def _forget(secret: str, entry: Entry) -> None:
    """Take the key in use out of an upstream's words: they stay in the store for good."""
    entry.response_id = _without(secret, entry.response_id)
    entry.response_model = _without(secret, entry.response_model)
    failure = entry.failure
    if failure is not None and (secret in failure.message or secret in failure.code):
        word = headers.REDACTED.decode()
        entry.failure = Failure(
            failure.stage, failure.code.replace(secret, word), failure.message.replace(secret, word)
        )


def _without(secret: str, told: str | None) -> str | None:
    if told is None or secret not in told:
        return told
    return told.replace(secret, headers.REDACTED.decode())


def _account(exchange: "Exchange", entry: Entry, now: float) -> None:
    """Settle the claim, if there is one, and count the day's sums as the ledger will.

    It counts every receipt, those of refused calls too: a restart must not change what was told.
    """
    claim, key = exchange.claim, exchange.caller.key
    assert key is not None
    usage = entry.usage
    tokens = 0 if usage is None else usage.input_tokens + usage.output_tokens
    charged = entry.cost_nano_usd or 0
    if claim is None:
        pass  # refused before it took anything
    elif not exchange.sent_at and entry.failure is not None and entry.failure.stage in _REFUSED:
        claim.cancel()  # nothing was sent: a refusal consumes nothing
    else:
        claim.settle(charged, tokens, now)
    exchange.services.daily.add(
        key.user_id, entry.provider or "", tokens, charged, entry.list_nano_usd or 0,
        entry.opening.created_ms,
    )  # fmt: skip
