"""Who is calling, what they ask for, and where it may go. Used by the handler.

Everything that can refuse a request before it is sent is here; a refusal is a `GatewayError`.
"""

import hmac
from typing import cast

import msgspec

from gateway.config import Family
from gateway.errors import GatewayError, scrub
from gateway.ledger.records import Key
from gateway.limits.limiter import Limits
from gateway.proxy import claims, endpoints, headers
from gateway.proxy.claims import Claim
from gateway.proxy.endpoints import MODEL_CHARS_MAX, Endpoint
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import Inbound
from gateway.proxy.providers import Provider
from gateway.proxy.routing import Route, Target
from gateway.proxy.services import Caller, Services
from gateway.wire import envelope
from gateway.wire.conversation import Request
from gateway.wire.envelope import Envelope

PATHS_MAX = 4096
"""Paths remembered with what they mean; clients choose them, so there is an end."""

NO_LIMITS = Limits(None, None, None)

BODYLESS_METHODS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))


class Plan(msgspec.Struct):
    """What is sent, and where it may go: `targets` in the order of this moment."""

    targets: tuple[Target, ...]
    body: bytes
    envelope: Envelope | None
    inbound: Inbound
    query: str
    request: Request | None = None
    """The body read, once a target of another format has wanted it."""


class Admission:
    """The checks of one gateway."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._paths: dict[tuple[str, bool, Family | None], Endpoint | None] = {}
        self._paths_of = services.generation

    def endpoint(self, path: str, query: str, speaks: Family | None) -> Endpoint | None:
        """What a path asks for, remembered; `speaks` is the family that the headers show."""
        key = (path, "alt=sse" in query, speaks)
        if self._paths_of != self.services.generation:
            self._paths_of = self.services.generation
            self._paths.clear()
        try:
            return self._paths[key]
        except KeyError:
            pass
        if len(self._paths) >= PATHS_MAX:
            self._paths.clear()
        providers = self.services.providers
        endpoint = endpoints.classify(path, query, providers, speaks=speaks)
        if endpoint is not None and endpoint.provider is not None:
            bases = providers[endpoint.provider].bases
            if endpoint.family not in bases and len(bases) == 1:
                endpoint = endpoints.as_family(endpoint, next(iter(bases)), query)
        self._paths[key] = endpoint
        return endpoint

    def check_open(self) -> None:
        """Refuse while draining or while receipts cannot be written."""
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
            if key.admin:
                raise GatewayError("permission_denied", "An admin's key is for /admin/v1 alone")
            return self._key_caller(key, slot, cors)
        token = services.config.admin.token.encode()
        if token and hmac.compare_digest(credential, token):
            # Taken for a caller's own key, it would go to a provider.
            raise GatewayError("permission_denied", "The admin token is for /admin/v1 alone")
        if not services.config.byok.enabled:
            raise GatewayError("invalid_api_key", "Only keys issued by this gateway are accepted")
        return Caller(services.owner_hash(credential), None, slot, credential, "1", cors)

    def _key_caller(self, key: Key, slot: bytes, cors: bytes) -> Caller:
        services = self.services
        accounts, limiter, defaults = services.accounts, services.limiter, services.config.limits
        user = accounts.user(key.user_id)
        now = services.time()
        own = Limits(
            key.rpm or defaults.rpm, key.tpm or defaults.tpm, key.concurrent or defaults.concurrent
        )
        subjects = [limiter.subject(f"key:{key.id}", "key", own, now)]
        shared = Limits(user.rpm, user.tpm, user.concurrent)
        if shared != NO_LIMITS:
            subjects.append(limiter.subject(f"user:{user.id}", "user", shared, now))
        return Caller(
            f"user:{user.id}", key, slot, b"", user.rate_multiplier, cors,
            tuple(subjects), accounts.funds(user.id), accounts.key_funds(key.id),
        )  # fmt: skip

    async def plan(self, exchange: Exchange, inbound: Inbound, query: str, body: bytes) -> Plan:
        """Read the envelope, route, claim what the call may take; raises `GatewayError`."""
        endpoint = exchange.endpoint
        json = body[:1] == b"{" or endpoint.metered or (endpoint.free and bool(body))
        stateful = endpoint.state_id is not None  # whose it is counts, not what the body names
        if not json or stateful or exchange.down.method in BODYLESS_METHODS:
            exchange.about(endpoint.model or "", stream=False, size=len(body))
            return await self.plan_native(exchange, inbound, query, body)
        seen = envelope.peek(body, endpoint.format)
        model = endpoint.model or seen.model
        exchange.about(model or "", stream=seen.stream or endpoint.streams, size=len(body))
        if model is None and endpoint.metered:
            raise GatewayError("invalid_request", "model is required", param="model")
        state = seen.previous_response_id
        if endpoint.counts is not None:
            state = _counted_state(seen)
        if state is not None:
            await self._check_state(exchange, state)
        if model is None:
            return await self.plan_native(exchange, inbound, query, body)
        ordered = cast("tuple[Target, ...] | None", exchange.down.ordered)
        shared = kept_at_provider(seen)
        if shared is not None and exchange.caller.key is not None:
            ordered = ordered or self._targets(
                endpoint, exchange.caller, model, self.services.time()
            )
            _check_shared(shared, ordered)
        targets, claim = self.claim(endpoint, exchange.caller, model, body, seen, ordered)
        exchange.claim = claim
        return Plan(targets, body, seen, inbound, query)

    def claim(
        self,
        endpoint: Endpoint,
        caller: Caller,
        model: str,
        body: bytes,
        seen: Envelope,
        ordered: tuple[Target, ...] | None = None,
    ) -> tuple[tuple[Target, ...], Claim | None]:
        """Where a call goes, and what it took: limits first, then model and price, then the hold.

        `ordered` are the targets, where they were found for this call a moment before. Raises
        `GatewayError`; nothing is taken then. Synchronous: nothing comes in between.
        """
        services = self.services
        now = services.time()
        if caller.key is None:
            return ordered or self._targets(endpoint, caller, model, now), None
        default_output = services.config.billing.default_max_output_tokens
        demand, tokens = claims.demanded(endpoint, body, seen, default_output)
        claims.check(services, caller, tokens, now)
        targets = ordered or self._targets(endpoint, caller, model, now)
        claim = Claim(services, caller, model, demand, tokens)
        if not endpoint.metered:
            for target in targets:
                self._check_metered(caller, endpoint, target.provider)
            if not endpoint.free:
                claim.require_credit()
        claim.aim(targets[0])
        services.limiter.take(caller.subjects, tokens, now)
        return targets, claim

    def _targets(
        self, endpoint: Endpoint, caller: Caller, model: str, now: float
    ) -> tuple[Target, ...]:
        route = self.route(endpoint, caller, model)
        return self.services.health.order(route, now, own=caller.key is None)

    def route(self, endpoint: Endpoint, caller: Caller, model: str) -> Route:
        """Where a model of this caller may go; raises `GatewayError`."""
        if len(model) > MODEL_CHARS_MAX:
            raise GatewayError(
                "invalid_request", f"model is over {MODEL_CHARS_MAX} characters", param="model"
            )
        key = caller.key
        router = self.services.router
        if key is None:
            return router.own(model, endpoint.family, endpoint.provider)
        if key.models is not None and model not in key.models:
            raise GatewayError(
                "model_not_allowed", f"This key is not allowed model {model}", param="model"
            )
        try:
            return router.route(model, endpoint.family, endpoint.provider, endpoint.wants)
        except GatewayError as error:
            if not endpoint.free or error.code != "unknown_model_pricing":
                raise
        provider, base = router.owner(endpoint.family, endpoint.provider)
        return Route((Target(provider, base, model),))

    async def plan_native(
        self, exchange: Exchange, inbound: Inbound, query: str, body: bytes
    ) -> Plan:
        """A call about no model: to the provider that the path, or the format, says."""
        endpoint, caller, services = exchange.endpoint, exchange.caller, self.services
        named = endpoint.provider
        if endpoint.state_id is not None:
            named = await self._check_state(exchange, endpoint.state_id) or named
        now = services.time()
        if caller.key is not None:
            claims.check(services, caller, 0, now)
        provider, base = services.router.owner(endpoint.family, named)
        self._check_metered(caller, endpoint, provider)
        route = Route((Target(provider, base, ""),))
        targets = services.health.order(route, now, own=caller.key is None)
        if caller.key is not None:
            claim = Claim(services, caller, "", None, 0)
            if not endpoint.free:
                claim.require_credit()
            services.limiter.take(caller.subjects, 0, now)
            exchange.claim = claim
        return Plan(targets, body, None, inbound, query)

    @staticmethod
    def _check_metered(caller: Caller, endpoint: Endpoint, provider: Provider) -> None:
        """Refuse a gateway key what its answer does not price, named model or not: never free."""
        if caller.key is None or endpoint.metered or endpoint.free or provider.unmetered:
            return
        raise GatewayError(
            "unknown_model_pricing",
            f"Unknown model pricing: what {scrub(endpoint.path[:200])} costs at "
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


KEPT = frozenset(("conversation", "cachedContent", "cached_content"))
"""Fields that name what the provider keeps for the account, whoever made it."""


def kept_at_provider(seen: Envelope) -> str | None:
    """The field of a request, if any, that names a conversation or a cache kept by its provider."""
    fields = seen.fields
    named = [name for name in KEPT if name in fields and bytes(fields[name]) != b"null"]
    return named[0] if named else None


def _check_shared(field: str, targets: tuple[Target, ...]) -> None:
    """Refuse what one user of the operator's account could read of another's.

    Whose conversations and caches are is not known here: keys make them only at providers that are
    `unmetered`, where the operator trusts them with the whole account.
    """
    for target in targets:
        if not target.provider.unmetered:
            raise GatewayError(
                "unsupported_parameter",
                f"{field} names what {target.provider.name} keeps for an account that the keys of "
                "this gateway share, so they may not use it",
                param=field, stage="routing",
            )  # fmt: skip


_TEXT = msgspec.json.Decoder(str)


def _counted_state(seen: Envelope) -> str | None:
    """The stored response that a request to be counted goes on from; a provider refuses others."""
    raw = seen.fields.get("previous_response_id")
    if raw is None or memoryview(raw)[0] != 0x22:
        return None
    return _TEXT.decode(raw)
