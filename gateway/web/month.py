"""A month of usage, as its chart and its tables show it: by day, and by model.

`read` asks the ledger for the sums of the last `DAYS` days (UTC), of one user or of everybody;
`chart.js` draws `Month.chart`, and `month.html` has the macros that write both.
"""

from collections.abc import Iterable
from datetime import date, timedelta

import msgspec

from gateway.ledger import usage
from gateway.ledger.usage import DAY_MS, REPORT_ROWS_MAX, GroupBy, ReportRow
from gateway.ledger.writer import Ledger

DAYS = 30

BANDS_MAX = 5
"""Models that have a band of their own in the chart; all others are one more."""

MODELS_SHOWN = 50

_EPOCH = date(1970, 1, 1)


class Sums(msgspec.Struct):
    """What was done on a day, or with a model; `name` is which. Money is nano-USD, as charged."""

    name: str
    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    nano_usd: int = 0

    @property
    def tokens(self) -> int:
        """Both ways together."""
        return self.input_tokens + self.output_tokens

    def add(self, row: ReportRow) -> None:
        """Count the sums of a row among these."""
        self.requests += row.requests
        self.failed += row.failed
        self.input_tokens += row.input_tokens
        self.output_tokens += row.output_tokens
        self.nano_usd += row.nano_usd


class Band(msgspec.Struct):
    """What one model adds to the bar of each day."""

    name: str
    nano_usd: list[int]
    tokens: list[int]


class Chart(msgspec.Struct):
    """The bars, the oldest day first; `days` as `2026-11-21`."""

    days: list[str]
    bands: list[Band]


class Month(msgspec.Struct):
    """`days` are all, oldest first; `models` those that cost most, and `hidden` counts the rest."""

    days: list[Sums]
    models: list[Sums]
    hidden: int
    total: Sums
    chart: Chart

    @property
    def chart_json(self) -> str:
        """What `chart.js` reads."""
        return msgspec.json.encode(self.chart).decode()


async def read(ledger: Ledger, now_ms: int, user_id: int | None = None) -> Month:
    """The month that ends with today. Raises `StoreError`."""
    until = now_ms // DAY_MS
    since = until - DAYS + 1
    groups: tuple[GroupBy, ...] = ("day", "model")
    rows = await ledger.read(
        lambda conn: usage.report(
            conn, since_day=since, until_day=until, user_id=user_id, group_by=groups
        )
    )
    if len(rows) > REPORT_ROWS_MAX:
        # Too many names to tell apart: then the days alone, which are as many as ever.
        rows = await ledger.read(
            lambda conn: usage.report(
                conn, since_day=since, until_day=until, user_id=user_id, group_by=("day",)
            )
        )
    return of_rows(rows, since)


def of_rows(rows: Iterable[ReportRow], since: int) -> Month:
    """The month that begins with the day `since`, of rows that lie in it."""
    days = [Sums(day_text(since + number)) for number in range(DAYS)]
    models: dict[str, Sums] = {}
    total = Sums("Total")
    known = list(rows)
    for row in known:
        assert row.day is not None
        days[row.day - since].add(row)
        total.add(row)
        name = row.model or ""
        models.setdefault(name, Sums(name)).add(row)
    ordered = sorted(models.values(), key=lambda one: (-one.nano_usd, -one.tokens, one.name))
    shown = [one for one in ordered if one.nano_usd or one.tokens][:BANDS_MAX]
    return Month(
        days=days,
        models=ordered[:MODELS_SHOWN],
        hidden=max(0, len(ordered) - MODELS_SHOWN),
        total=total,
        chart=Chart([one.name for one in days], _bands(known, since, [one.name for one in shown])),
    )


def day_text(day: int) -> str:
    """A day, counted from 1970, as `2026-11-21`."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def _bands(rows: list[ReportRow], since: int, names: list[str]) -> list[Band]:
    bands = {name: Band(name or "unknown", [0] * DAYS, [0] * DAYS) for name in names}
    others = Band("other models", [0] * DAYS, [0] * DAYS)
    for row in rows:
        assert row.day is not None
        band = bands.get(row.model or "", others)
        band.nano_usd[row.day - since] += row.nano_usd
        band.tokens[row.day - since] += row.input_tokens + row.output_tokens
    found = list(bands.values())
    # Refused calls cost nothing and are of no band: a chart of nothing else has this one.
    return [*found, others] if any(others.tokens) or any(others.nano_usd) or not found else found
