"""Verbs about money: credit and its correction, redemption codes, caps, usage, the books' proof.

Amounts come as US dollars in decimal text.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from gateway.accounts import changes as bounds
from gateway.accounts import codes, statement
from gateway.accounts.amounts import money, nano_of
from gateway.accounts.statement import Asked, Statement
from gateway.admin.context import Arguments, Context, NoArguments, changes, checking, reads, when
from gateway.admin.views import (
    BooksView,
    CapList,
    CapView,
    CodeList,
    CodeView,
    CorrectionView,
    CreditView,
    RedemptionView,
)
from gateway.ledger import money as books
from gateway.ledger.money import Books
from gateway.ledger.prices import usd_text
from gateway.ledger.receipt import timestamp
from gateway.ledger.records import Code
from gateway.ledger.usage import GroupBy


class CreditGive(Arguments, frozen=True, kw_only=True):
    """Credit for a user. The same `idempotency_key` gives once, and the same answer again."""

    user: str
    amount: str
    idempotency_key: str | None = None


class CreditCorrect(Arguments, frozen=True, kw_only=True):
    """An entry that puts a balance right; an amount such as "-2.50" takes away."""

    user: str
    amount: str
    reason: str


class CodesCreate(Arguments, frozen=True, kw_only=True):
    """Redemption codes of an amount each; `expires_ms` is milliseconds since 1970."""

    amount: str
    count: Annotated[int, Meta(ge=1, le=bounds.CODES_MAX)] = 1
    expires_ms: int | None = None


class CodesList(Arguments, frozen=True, kw_only=True):
    """The newest codes, newest first; of one status where named."""

    status: Literal["active", "redeemed", "expired"] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class CodesRedeem(Arguments, frozen=True, kw_only=True):
    """A code's text, and the user to credit it to."""

    code: str
    user: str


class CapsSet(Arguments, frozen=True, kw_only=True):
    """The most that one call of a model (by the name callers use) may cost a user; null lifts it.

    `amount` is US dollars.
    """

    user: str
    model: str
    amount: str | None


class CapsList(Arguments, frozen=True, kw_only=True):
    """The caps of a user."""

    user: str


class UsageAsked(Arguments, frozen=True, kw_only=True):
    """Sums from one UTC day to another, both included (`2026-11-21`); by default 30 days.

    `user` is a name, `key` an id, `model` the name of a provider's model.
    """

    since: str | None = None
    until: str | None = None
    group_by: tuple[GroupBy, ...] = ("day",)
    user: str | None = None
    key: str | None = None
    model: str | None = None


async def _credit(context: Context, args: CreditGive) -> CreditView:
    with checking():
        nano_usd = nano_of(args.amount, "amount")
        bounds.check_amount("amount", nano_usd)
        if args.idempotency_key is not None:
            bounds.check_text(
                "idempotency_key", args.idempotency_key, bounds.IDEMPOTENCY_KEY_CHARS_MAX
            )
    given = await context.accounts.credit(args.user, nano_usd, idempotency_key=args.idempotency_key)
    return CreditView(
        id=given.id,
        user=given.user,
        nano_usd=given.nano_usd,
        amount=usd_text(given.nano_usd),
        balance=money(given.balance_nano_usd),
        created_at=timestamp(given.created_ms),
    )


async def _correct(context: Context, args: CreditCorrect) -> CorrectionView:
    with checking():
        nano_usd = nano_of(args.amount, "amount", signed=True)
        bounds.check_amount("amount", abs(nano_usd))
        bounds.check_text("reason", args.reason, bounds.REASON_CHARS_MAX)
    made = await context.accounts.correct(args.user, nano_usd, args.reason)
    return CorrectionView(
        id=made.id,
        user=made.user,
        nano_usd=made.nano_usd,
        amount=usd_text(made.nano_usd),
        reason=args.reason,
        balance=money(made.balance_nano_usd),
        created_at=timestamp(made.created_ms),
    )


def _code_view(code: Code, now_ms: int, text: str | UnsetType = UNSET) -> CodeView:
    status: Literal["active", "redeemed", "expired"] = "active"
    if code.redeemed_ms is not None:
        status = "redeemed"
    elif code.expires_ms is not None and code.expires_ms <= now_ms:
        status = "expired"
    return CodeView(
        id=code.id,
        code=text,
        hint=code.hint,
        nano_usd=code.nano_usd,
        amount=usd_text(code.nano_usd),
        status=status,
        created_at=timestamp(code.created_ms),
        expires_at=when(code.expires_ms),
        redeemed_at=when(code.redeemed_ms),
        redeemed_by=code.redeemed_by,
    )


async def _codes_create(context: Context, args: CodesCreate) -> CodeList:
    now_ms = context.clock_ms()
    with checking():
        nano_usd = nano_of(args.amount, "amount")
        bounds.check_amount("amount", nano_usd)
        bounds.check_expiry(args.expires_ms, now_ms)
    made = await context.accounts.create_codes(nano_usd, args.count, args.expires_ms)
    return CodeList(data=[_code_view(code, now_ms, text) for code, text in made])


async def _codes_list(context: Context, args: CodesList) -> CodeList:
    now_ms = context.clock_ms()
    shown = [_code_view(code, now_ms) for code in reversed(await context.accounts.list_codes())]
    if args.status is not None:
        shown = [code for code in shown if code.status == args.status]
    return CodeList(data=shown[: args.limit])


async def _codes_redeem(context: Context, args: CodesRedeem) -> RedemptionView:
    with checking():
        codes.digest(context.secret, args.code)
    code, balance = await context.accounts.redeem(args.user, args.code)
    return RedemptionView(
        id=code.id,
        user=context.accounts.user_named(args.user).name,
        nano_usd=code.nano_usd,
        amount=usd_text(code.nano_usd),
        balance=money(balance),
    )


async def _caps_set(context: Context, args: CapsSet) -> CapView:
    nano_usd = None
    with checking():
        bounds.check_model("model", args.model)
        if args.amount is not None:
            nano_usd = nano_of(args.amount, "amount")
            bounds.check_amount("amount", nano_usd)
    await context.accounts.set_cap(args.user, args.model, nano_usd)
    return _cap_view(context.accounts.user_named(args.user).name, args.model, nano_usd)


async def _caps_list(context: Context, args: CapsList) -> CapList:
    name = context.accounts.user_named(args.user).name
    found = context.accounts.caps(name)
    return CapList(data=[_cap_view(name, cap.model, cap.nano_usd) for cap in found])


def _cap_view(user: str, model: str, nano_usd: int | None) -> CapView:
    amount = None if nano_usd is None else usd_text(nano_usd)
    return CapView(user=user, model=model, nano_usd=nano_usd, amount=amount)


async def _usage(context: Context, args: UsageAsked) -> Statement:
    accounts = context.accounts
    asked = Asked(
        since=args.since,
        until=args.until,
        group_by=args.group_by,
        user_id=None if args.user is None else accounts.user_named(args.user).id,
        key=args.key,
        model=args.model,
    )
    with checking():
        return await statement.statement(
            context.ledger,
            asked,
            now_ms=context.clock_ms(),
            name_of=lambda user_id: accounts.user(user_id).name,
        )


async def _check(context: Context, _: NoArguments) -> BooksView:
    return checked(await context.ledger.read(books.check_books))


def checked(found: Books) -> BooksView:
    """What a walk through the books found, as shown."""
    return BooksView(
        ok=not found.wrong,
        wrong=found.wrong,
        accounts=found.accounts,
        transfers=found.transfers,
        receipts=found.receipts,
        credited=money(found.credited),
        charged=money(found.charged),
        overspent=money(found.overspent),
    )


VERBS = (
    changes("credit", CreditGive, CreditView, _credit),
    changes("credit.correct", CreditCorrect, CorrectionView, _correct),
    changes("codes.create", CodesCreate, CodeList, _codes_create),
    reads("codes.list", CodesList, CodeList, _codes_list),
    changes("codes.redeem", CodesRedeem, RedemptionView, _codes_redeem),
    changes("caps.set", CapsSet, CapView, _caps_set),
    reads("caps.list", CapsList, CapList, _caps_list),
    reads("usage", UsageAsked, Statement, _usage),
    reads("ledger.check", NoArguments, BooksView, _check),
)
