"""Usage as shown: sums of requests, tokens and money, by day, model, key, user or provider.

`statement` reads them from the ledger; the `usage` verb and `GET /v1/usage` answer with them. Days
are UTC days as `2026-11-21`, both ends included.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.errors import Conflict
from gateway.ledger import usage
from gateway.ledger.prices import usd_text
from gateway.ledger.usage import GroupBy, ReportRow
from gateway.ledger.writer import Ledger

DAYS_DEFAULT = 30
_EPOCH = date(1970, 1, 1)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What sums are wanted: None is the last `DAYS_DEFAULT` days, everybody, every model."""

    since: str | None = None
    until: str | None = None
    group_by: tuple[GroupBy, ...] = ()
    user_id: int | None = None
    key: str | None = None
    model: str | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One group's sums. What it is grouped by is there, and no other of the first five.

    `failed` counts cancelled requests too. `nano_usd` is what was charged; `list_nano_usd`, for
    operators only, what the providers charge for it at list price.
    """

    day: str | UnsetType = UNSET
    user: str | UnsetType | None = UNSET
    key: str | UnsetType | None = UNSET
    provider: str | UnsetType | None = UNSET
    model: str | UnsetType | None = UNSET
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    nano_usd: int
    amount: str
    list_nano_usd: int | UnsetType = UNSET
    list_amount: str | UnsetType = UNSET


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """Usage from one day to another, and the sum of all of it."""

    object: Literal["usage"] = "usage"
    since: str
    until: str
    group_by: tuple[GroupBy, ...]
    data: list[Line]
    total: Line


async def statement(
    ledger: Ledger, asked: Asked, *, now_ms: int, name_of: Callable[[int], str] | None
) -> Statement:
    """The sums asked for. `name_of` gives a user's name: with it the answer is an operator's.

    Calls with a caller's own provider key are of user and key null. Raises `Conflict` that opens
    with the field where a day is none or the answer would be too long.
    """
    until = _day(asked.until, "until") if asked.until else _today(now_ms)
    since = _day(asked.since, "since") if asked.since else max(0, until - DAYS_DEFAULT + 1)
    if since > until:
        raise Conflict("since: is after until")
    # The table's sums are by model anyhow: one model's are picked from those of each.
    groups = tuple(dict.fromkeys(asked.group_by))
    by_model = groups if asked.model is None or "model" in groups else (*groups, "model")
    rows = await ledger.read(
        lambda conn: usage.report(
            conn,
            since_day=since,
            until_day=until,
            user_id=asked.user_id,
            key_id=asked.key,
            group_by=by_model,
        )
    )
    if len(rows) > usage.REPORT_ROWS_MAX:
        raise Conflict(f"group_by: gives more than {usage.REPORT_ROWS_MAX} lines; ask for less")
    if asked.model is not None:
        rows = [row for row in rows if row.model == asked.model]
    return Statement(
        since=_shown(since),
        until=_shown(until),
        group_by=groups,
        data=[_line(row, groups, name_of) for row in rows] if groups else [],
        total=_line(_total(rows), (), name_of),
    )


def _line(
    row: ReportRow, groups: tuple[GroupBy, ...], name_of: Callable[[int], str] | None
) -> Line:
    line = Line(
        day=_shown(row.day) if "day" in groups and row.day is not None else UNSET,
        key=(row.key_id or None) if "key" in groups else UNSET,
        provider=(row.provider or None) if "provider" in groups else UNSET,
        model=(row.model or None) if "model" in groups else UNSET,
        requests=row.requests,
        failed=row.failed,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        nano_usd=row.nano_usd,
        amount=usd_text(row.nano_usd),
    )
    if name_of is None:
        return line
    return msgspec.structs.replace(
        line,
        user=(name_of(row.user_id) if row.user_id else None) if "user" in groups else UNSET,
        list_nano_usd=row.list_nano_usd,
        list_amount=usd_text(row.list_nano_usd),
    )


def _total(rows: list[ReportRow]) -> ReportRow:
    def total(field: str) -> int:
        # Without groups there is one row, of sums over nothing: null where nothing was.
        return sum(getattr(row, field) or 0 for row in rows)

    return ReportRow(
        None, None, None, None, None,
        requests=total("requests"),
        failed=total("failed"),
        input_tokens=total("input_tokens"),
        output_tokens=total("output_tokens"),
        nano_usd=total("nano_usd"),
        list_nano_usd=total("list_nano_usd"),
    )  # fmt: skip


def _day(text: str, field: str) -> int:
    try:
        if len(text) != 10:
            raise ValueError
        days = (date.fromisoformat(text) - _EPOCH).days
    except ValueError:
        raise Conflict(f"{field}: expected a day such as 2026-11-21") from None
    if days < 0:
        raise Conflict(f"{field}: is before 1970")
    return days


def _today(now_ms: int) -> int:
    return (datetime.fromtimestamp(now_ms / 1000, UTC).date() - _EPOCH).days


def _shown(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).isoformat()
