"""A receipt as it is shown: the public JSON, and the lines of an export. Pure.

The JSON is the README's: names, order and meaning of every member are a contract. What the
provider did not report, and what is not known, is null, which is not 0.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from gateway.ledger.entry import Entry, Opening
from gateway.ledger.records import Receipt
from gateway.wire.neutral import Usage

ExportFormat = Literal["jsonl", "csv"]

_encode = msgspec.json.Encoder().encode

_ALWAYS_SHOWN = (
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_tokens",
)
_SHOWN_WHERE_KNOWN = (
    "cache_write_5m",
    "cache_write_1h",
    "input_audio_tokens",
    "input_image_tokens",
    "input_tool_use_tokens",
    "output_audio_tokens",
    "output_image_tokens",
    "server_tool_requests",
    "billed_besides",
)


def render(entry: Entry, *, sequence: int, previous: bytes, hash: bytes) -> bytes:
    """The public JSON of a final receipt; hashes as hexadecimal digits."""
    integrity = {"sequence": sequence, "previous": previous.hex(), "hash": hash.hex()}
    return _encode(_shown(entry) | {"integrity": integrity})


def render_in_progress(opening: Opening, now_ms: int) -> bytes:
    """The public JSON of a request that is still running: the same members, mostly null."""
    entry = Entry(opening=opening, status="failed", http_status=0, cost_nano_usd=None)
    shown = _shown(entry)
    shown["status"] = "in_progress"
    shown["timing"] |= {"total_ms": max(0, now_ms - opening.created_ms), "gateway_ms": None}
    shown["http_status"] = None
    return _encode(shown | {"integrity": None})


def amount(nano_usd: int) -> str:
    """US dollars as a decimal, exact, without exponent or needless zeros: 105000 -> "0.000105"."""
    sign = "-" if nano_usd < 0 else ""
    dollars, nano = divmod(abs(nano_usd), 10**9)
    return f"{sign}{dollars}.{nano:09d}".rstrip("0").rstrip(".")


def timestamp(ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC, with milliseconds: "…T05:00:00.123Z"."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def export(receipts: Iterable[Receipt], form: ExportFormat) -> Iterator[bytes]:
    """Lines, each with its end: receipts as JSON, or a CSV table that opens with its header."""
    if form == "csv":
        return _csv(receipts)
    return (
        render(r.entry, sequence=r.sequence, previous=r.previous, hash=r.hash) + b"\n"
        for r in receipts
    )


def _shown(entry: Entry) -> dict[str, Any]:
    opening = entry.opening
    failure = entry.failure
    return {
        "id": opening.id,
        "object": "receipt",
        "created_at": timestamp(opening.created_ms),
        "status": entry.status,
        "failure": failure
        and {"stage": failure.stage, "code": failure.code, "message": failure.message},
        "request": {
            "endpoint": opening.endpoint,
            "format": opening.format,
            "model": opening.model,
            "stream": opening.stream,
            "bytes": opening.bytes,
        },
        "route": _route(entry),
        "usage": _usage(entry.usage, entry.usage_source),
        "cost": _cost(entry),
        "timing": {
            "connect_ms": _ms(entry.connect_ms),
            "first_byte_ms": _ms(entry.first_byte_ms),
            "total_ms": _ms(entry.total_ms),
            "gateway_ms": _ms(entry.gateway_ms),
        },
        "http_status": entry.http_status,
    }


def _route(entry: Entry) -> dict[str, Any]:
    return {
        "provider": entry.provider,
        "model": entry.route_model,
        "format": entry.route_format,
        "translated": entry.translated,
        "upstream_request_id": entry.upstream_request_id,
        "attempts": [
            {
                "provider": attempt.provider,
                "model": attempt.model,
                "outcome": attempt.outcome,
                "status": attempt.status,
                "ms": _ms(attempt.ms),
            }
            for attempt in entry.attempts
        ],
    }


def _usage(usage: Usage | None, source: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "input_tokens": usage and usage.input_tokens,
        "output_tokens": usage and usage.output_tokens,
    }
    for name in _ALWAYS_SHOWN:
        shown[name] = usage and getattr(usage, name)
    shown["total_tokens"] = usage and usage.total_tokens
    shown["source"] = source
    for name in _SHOWN_WHERE_KNOWN:
        value = getattr(usage, name, None)
        if value is not None:
            shown[name] = value
    return shown


def _cost(entry: Entry) -> dict[str, Any]:
    cost = entry.cost_nano_usd
    price = entry.price
    return {
        "currency": "USD",
        "amount": None if cost is None else amount(cost),
        "nano_usd": cost,
        "held_nano_usd": entry.hold_nano_usd,
        "billed": entry.billed,
        "price_version": price and price.version,
        "price": price and price.per_mtok,
        "rate_multiplier": entry.rate_multiplier,
        "model_multiplier": entry.model_multiplier,
    }


def _ms(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


# --- the table --------------------------------------------------------------------------------

_COLUMNS = (
    "sequence",
    "id",
    "created_at",
    "owner",
    "status",
    "failure_stage",
    "failure_code",
    "http_status",
    "endpoint",
    "model",
    "provider",
    "provider_model",
    "stream",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_tokens",
    "usage_source",
    "amount_usd",
    "nano_usd",
    "billed",
    "price_version",
    "first_byte_ms",
    "total_ms",
    "hash",
)


def _csv(receipts: Iterable[Receipt]) -> Iterator[bytes]:
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for receipt in receipts:
        yield _taken(line)
        writer.writerow([_cell(value) for value in _row(receipt)])
    yield _taken(line)


def _taken(line: io.StringIO) -> bytes:
    text = line.getvalue()
    line.seek(0)
    line.truncate()
    return text.encode()


def _cell(value: object) -> object:
    """A cell that a spreadsheet will not run: model names are whatever a caller sent."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def _row(receipt: Receipt) -> tuple[object, ...]:
    entry = receipt.entry
    opening = entry.opening
    usage = entry.usage
    return (
        receipt.sequence,
        opening.id,
        timestamp(opening.created_ms),
        opening.owner,
        entry.status,
        entry.failure and entry.failure.stage,
        entry.failure and entry.failure.code,
        entry.http_status,
        opening.endpoint,
        opening.model,
        entry.provider,
        entry.route_model,
        opening.stream,
        usage and usage.input_tokens,
        usage and usage.output_tokens,
        usage and usage.cache_read_input_tokens,
        usage and usage.cache_creation_input_tokens,
        usage and usage.reasoning_tokens,
        entry.usage_source,
        None if entry.cost_nano_usd is None else amount(entry.cost_nano_usd),
        entry.cost_nano_usd,
        entry.billed,
        entry.price and entry.price.version,
        _ms(entry.first_byte_ms),
        _ms(entry.total_ms),
        receipt.hash.hex(),
    )
