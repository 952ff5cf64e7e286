"""What admins type into forms, as the verbs want it; and pieces that their pages share.

Empty is None. A refusal is a `BadArguments` that opens with the field, as a verb's. Pure.
"""

import re
from datetime import UTC, date, datetime, timedelta

from gateway.admin.context import BadArguments
from gateway.web.site import Visit

PAGE_ROWS = 100

_WHOLE = re.compile(r"[0-9]{1,15}")
_ROW = re.compile(r"[0-9]{1,18}")


def whole(visit: Visit, name: str) -> int | None:
    """A whole number; `10,000` and `10 000` are ones, too."""
    text = visit.given(name)
    if text is None:
        return None
    digits = re.sub("[, \u202f\u00a0_]", "", text)
    if not _WHOLE.fullmatch(digits):
        raise BadArguments(f"{name}: expected a whole number, or nothing")
    return int(digits)


def dollars(visit: Visit, name: str) -> str | None:
    """US dollars as text, for a verb to judge: without a dollar sign or commas."""
    text = visit.given(name)
    return None if text is None else text.removeprefix("$").replace(",", "").strip()


def required(visit: Visit, name: str) -> str:
    """What may not be left out."""
    text = visit.given(name)
    if text is None:
        raise BadArguments(f"{name}: is required")
    return text


def names(visit: Visit, name: str) -> list[str] | None:
    """Names of models, separated by commas, spaces or lines."""
    found = re.split(r"[\s,]+", visit.form.get(name, ""))
    return [one for one in found if one] or None


def end_of_day(visit: Visit, name: str) -> int | None:
    """The end of a day (UTC), in milliseconds."""
    text = visit.given(name)
    if text is None:
        return None
    try:
        after = date.fromisoformat(text) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise BadArguments(f"{name}: expected a day such as 2026-11-21") from None
    return round(datetime(after.year, after.month, after.day, tzinfo=UTC).timestamp() * 1000) - 1


def day_of(ms: int | None) -> str:
    """The day (UTC) of a moment, as a date field has it."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()


def row(visit: Visit, name: str) -> int | None:
    """Where a page of a list begins, of the query; None where it is not there, or is no number."""
    text = visit.asked(name)
    return int(text) if _ROW.fullmatch(text) else None
