"""How values are written on pages: filters and functions of the templates. Pure.

Money is never rounded: a thousandth of a cent is shown as that. Times are UTC, in a form that a
script can turn into the visitor's own.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

from markupsafe import Markup, escape

from gateway.ledger.prices import usd_text

_MINUS = "\u2212"
_NARROW_SPACE = "\u202f"


def usd(nano_usd: int | None) -> str:
    """US dollars, exact, two decimals at least: `$0.000105`, `−$1,250.00`; a dash where unset."""
    if nano_usd is None:
        return "–"
    whole, _, decimals = usd_text(abs(nano_usd)).partition(".")
    return f"{_MINUS if nano_usd < 0 else ''}${int(whole):,}.{decimals}"


def price(per_million: str | Decimal | None) -> str:
    """A price of a million tokens, in US dollars, exact: `$0.15`, `$2.50`."""
    if per_million is None:
        return "–"
    text = format(Decimal(per_million).normalize(), "f")
    whole, _, decimals = text.partition(".")
    return f"${int(whole):,}.{decimals.ljust(2, '0')}"


def count(number: int | None) -> str:
    """A whole number: `1,000,000`."""
    return "–" if number is None else f"{number:,}"


def ms(milliseconds: float | None) -> str:
    """A span of time: `0.8 ms`, `312 ms`, `4.21 s`, `3 min 20 s`."""
    if milliseconds is None:
        return "–"
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 100:
        return f"{seconds:.2f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def moment(at: int | str | None) -> Markup:
    """A moment (milliseconds, or RFC 3339), as a `time` element: `2026-11-21 13:05:09 UTC`."""
    if at is None or at == "":
        return Markup("–")
    when = (
        datetime.fromtimestamp(at / 1000, UTC)
        if isinstance(at, int)
        else datetime.fromisoformat(at.replace("Z", "+00:00")).astimezone(UTC)
    )
    machine = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}">{}</time>').format(machine, f"{when:%Y-%m-%d %H:%M:%S} UTC")


def bytes_(number: int | None) -> str:
    """A size: `812 B`, `4.2 KB`, `1.5 MB`."""
    if number is None:
        return "–"
    size = float(number)
    for unit in ("B", "KB", "MB"):
        if size < 1000 or unit == "MB":
            return (
                f"{size:.0f}{_NARROW_SPACE}B" if unit == "B" else f"{size:.1f}{_NARROW_SPACE}{unit}"
            )
        size /= 1000
    raise AssertionError("unreachable")


def short_id(receipt_id: str) -> Markup:
    """The beginning and the end of an id, whole in its title."""
    return Markup('<span class="id" title="{0}">{1}…{2}</span>').format(
        escape(receipt_id), receipt_id[:8], receipt_id[-4:]
    )


FILTERS: dict[str, Callable[..., str]] = {
    "usd": usd,
    "price": price,
    "count": count,
    "ms": ms,
    "moment": moment,
    "bytes": bytes_,
    "short_id": short_id,
}
