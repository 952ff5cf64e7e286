"""Verbs about receipts: reading them, and the proof that none was changed."""

from typing import Annotated, Literal, assert_never

import msgspec
from msgspec import Meta

from gateway.admin.context import Arguments, BadArguments, Context, NoArguments, reads
from gateway.admin.views import ReceiptList, VerifyView
from gateway.errors import Missing
from gateway.ledger import store
from gateway.ledger.entry import Opening
from gateway.ledger.receipt import render, render_in_progress
from gateway.ledger.records import Receipt, VerifyResult


class ReceiptsShow(Arguments, frozen=True, kw_only=True):
    """A receipt; `id` is a UUID in its 36-character form."""

    id: str


class ReceiptsList(Arguments, frozen=True, kw_only=True):
    """Receipts, newest first, from below the receipt `after`; of everybody by default.

    `user` is a user's name, `owner` an owner as receipts keep it; at most one of them.
    """

    user: str | None = None
    owner: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    after: str | None = None
    status: Literal["succeeded", "failed", "cancelled"] | None = None
    model: str | None = None


async def _show(context: Context, args: ReceiptsShow) -> msgspec.Raw:
    found = await context.ledger.receipt(args.id.lower(), None)
    match found:
        case Receipt():
            return msgspec.Raw(_rendered(found))
        case Opening():
            return msgspec.Raw(render_in_progress(found, context.clock_ms()))
        case None:
            raise Missing(f"there is no receipt {args.id!r}")
        case _:
            assert_never(found)


async def _list(context: Context, args: ReceiptsList) -> ReceiptList:
    owner = args.owner
    if args.user is not None:
        if owner is not None:
            raise BadArguments("owner: user and owner exclude each other")
        owner = f"user:{context.accounts.user_named(args.user).id}"
    if args.after is not None and await context.ledger.receipt(args.after, owner) is None:
        raise BadArguments(f"after: there is no receipt {args.after!r} in this list")
    # One more than asked for tells whether there is more.
    found = await context.ledger.receipts(
        owner, limit=args.limit + 1, after=args.after, status=args.status, model=args.model
    )
    shown = [msgspec.Raw(_rendered(receipt)) for receipt in found[: args.limit]]
    return ReceiptList(data=shown, has_more=len(found) > args.limit)


async def _verify(context: Context, _: NoArguments) -> VerifyView:
    return verified(await context.ledger.read(lambda conn: store.verify(conn, context.secret)))


def _rendered(receipt: Receipt) -> bytes:
    return render(
        receipt.entry,
        sequence=receipt.sequence,
        previous=receipt.previous,
        hash=receipt.hash,
    )


def verified(result: VerifyResult) -> VerifyView:
    """A verification's result, as shown."""
    return VerifyView(
        ok=result.ok,
        checked=result.checked,
        problem=result.problem,
        sequence=result.sequence,
        receipt_id=result.receipt_id,
        message=result.message,
    )


VERBS = (
    reads("receipts.show", ReceiptsShow, msgspec.Raw, _show),
    reads("receipts.list", ReceiptsList, ReceiptList, _list),
    reads("receipts.verify", NoArguments, VerifyView, _verify),
)
