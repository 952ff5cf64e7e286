"""What people type into forms, as the verbs want it; and pieces that pages share.

Empty is None. A refusal is a `BadArguments` that opens with the field, as a verb's. Pure.
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from gateway.admin.context import BadArguments
from gateway.web.site import Visit

PAGE_ROWS = 100

_WHOLE = re.compile("[0-9]{1,15}|[0-9]{1,3}(?:[, _\u202f\u00a0][0-9]{3}){1,4}")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
_ROW = re.compile(r"[0-9]{1,18}")


def whole(visit: Visit, name: str, *, least: Literal[0, 1] = 0) -> int | None:
    """A whole number; `10,000` and `10 000` are ones, too."""
    text = visit.given(name)
    if text is None:
        return None
    number = int(re.sub("[^0-9]", "", text)) if _WHOLE.fullmatch(text) else -1
    if number < least:
        above = " above zero" if least else ""
        raise BadArguments(f"{name}: expected a whole number{above}, or nothing")
    return number


def dollars(visit: Visit, name: str) -> str | None:
    """US dollars as text, for a verb to judge: without a dollar sign, and commas of thousands.

    Any other comma stays, to be refused: who types 10,50 does not mean a thousand.
    """
    text = visit.given(name)
    if text is None:
        return None
    text = text.removeprefix("$").strip()
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


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
