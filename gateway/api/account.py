"""A user's own account: `GET /v1/account`, `POST /v1/account/redeem`, `GET /v1/usage`.

For gateway keys. A caller's own provider key has no account here, hence 404. `register` adds the
routes; the application gives it `ACCOUNTS`, and the ledger as `receipts.LEDGER`.
"""

import msgspec
from aiohttp import web

from gateway.accounts import codes, keys, statement
from gateway.accounts.accounts import Accounts
from gateway.accounts.amounts import Money, money
from gateway.accounts.statement import Asked
from gateway.api.callers import PROXY, caller_of, json_answer
from gateway.api.receipts import LEDGER
from gateway.config import Config
from gateway.errors import Conflict, GatewayError, Missing, StoreError
from gateway.ledger.records import Key, User

ACCOUNTS: web.AppKey[Accounts] = web.AppKey("accounts", Accounts)

PREFIXES = ("/v1", "/api/v1", "/v1/v1", "/api/v1/v1")
GROUPS = ("day", "model", "key")
"""What a user may group their usage by; providers are the operator's business."""

BODY_BYTES_MAX = 4096


class Limits(msgspec.Struct, frozen=True):
    """What holds for the calling key: the tighter of its own limits and its user's."""

    rpm: int
    tpm: int
    concurrent: int


class Day(msgspec.Struct, frozen=True):
    """A user's counters of this UTC day."""

    requests: int
    tokens: int
    nano_usd: int


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The account of the calling key's user. `held` is what calls under way may still cost."""

    object: str = "account"
    user: str
    balance: Money
    held: Money
    limits: Limits
    today: Day


class Redeem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A redemption code."""

    code: str


class Redemption(msgspec.Struct, frozen=True, kw_only=True):
    """A code that was redeemed, and the balance right after it."""

    object: str = "redemption"
    id: str
    nano_usd: int
    amount: str
    balance: Money


def register(app: web.Application) -> None:
    """Add the routes, under every spelling of the version."""
    for prefix in PREFIXES:
        app.router.add_get(f"{prefix}/account", show)
        app.router.add_post(f"{prefix}/account/redeem", redeem)
        app.router.add_get(f"{prefix}/usage", usage)


async def show(request: web.Request) -> web.Response:
    """The caller's account, as it is at this moment."""
    key, user = _owner(request)
    services = request.app[PROXY].services
    funds = services.accounts.funds(user.id)
    today = services.daily.today(user.id, services.wall_ms())
    account = Account(
        user=user.name,
        balance=money(funds.balance),
        held=money(funds.held),
        limits=_limits(key, user, services.config),
        today=Day(today.requests, today.tokens, today.nano_usd),
    )
    return json_answer(msgspec.json.encode(account))


async def redeem(request: web.Request) -> web.Response:
    """Credit a redemption code to the caller's user."""
    _, user = _owner(request)
    try:
        asked = msgspec.json.decode(await _body(request), type=Redeem)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise GatewayError(
            "invalid_request", f'expected {{"code": "…"}}: {exc}', param="code"
        ) from None
    if keys.check(codes.PREFIX, asked.code.strip()) == "malformed":
        raise GatewayError("invalid_request", "This is no code: check it for a typo", param="code")
    try:
        code, balance = await request.app[ACCOUNTS].redeem(user.name, asked.code)
    except Missing as exc:
        raise GatewayError("not_found", str(exc), param="code") from None
    except Conflict as exc:
        raise GatewayError("conflict", str(exc), param="code") from None
    except StoreError as exc:
        raise GatewayError(
            "ledger_unavailable", str(exc), stage="gateway", retry_after_s=5
        ) from None
    shown = money(code.nano_usd)
    answer = Redemption(
        id=code.id, nano_usd=shown.nano_usd, amount=shown.amount, balance=money(balance)
    )
    return json_answer(msgspec.json.encode(answer))


async def usage(request: web.Request) -> web.Response:
    """Sums of the caller's user: `since` and `until` (days), `group_by`, `key_id`, `model`.

    The id is not `key`: that parameter is a credential, as Gemini's clients send it.
    """
    _, user = _owner(request)
    query = request.query
    given = query.getall("group_by", ["day"])
    groups = [part for one in given for part in one.split(",") if part]
    if not set(groups) <= set(GROUPS):
        raise GatewayError(
            "invalid_request", f"group_by must be of {', '.join(GROUPS)}", param="group_by"
        )
    asked = msgspec.convert(
        {
            "since": query.get("since"),
            "until": query.get("until"),
            "group_by": groups,
            "user_id": user.id,
            "key": query.get("key_id"),
            "model": query.get("model"),
        },
        Asked,
    )
    now_ms = request.app[PROXY].services.wall_ms()
    try:
        found = await statement.statement(request.app[LEDGER], asked, now_ms=now_ms, name_of=None)
    except Conflict as exc:
        message = str(exc)
        raise GatewayError("invalid_request", message, param=message.partition(":")[0]) from None
    return json_answer(msgspec.json.encode(found))


def _owner(request: web.Request) -> tuple[Key, User]:
    caller = caller_of(request)
    if caller.key is None:
        raise GatewayError("not_found", "A provider's own key has no account here")
    return caller.key, request.app[PROXY].services.accounts.user(caller.key.user_id)


def _limits(key: Key, user: User, config: Config) -> Limits:
    defaults = config.limits

    def tighter(own: int | None, default: int, shared: int | None) -> int:
        limit = own or default
        return limit if shared is None else min(limit, shared)

    return Limits(
        rpm=tighter(key.rpm, defaults.rpm, user.rpm),
        tpm=tighter(key.tpm, defaults.tpm, user.tpm),
        concurrent=tighter(key.concurrent, defaults.concurrent, user.concurrent),
    )


async def _body(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        raise GatewayError("invalid_request", "Content-Type must be application/json")
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise GatewayError("request_too_large", f"The body is over {BODY_BYTES_MAX} bytes")
    return bytes(body)
