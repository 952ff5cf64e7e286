"""Structured logs on standard error: one line an event, text or JSON, without secrets.

A filter replaces anything that looks like a credential before a line is written, so that a
mistake elsewhere cannot put one there. Keys appear as their hint (prefix and four characters).
"""

import logging
import sys
import time

import orjson

from gateway.config import Log
from gateway.errors import scrub
from gateway.ledger.entry import Entry
from gateway.proxy.services import Caller

_requests = logging.getLogger("gateway.requests")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}"
            f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = getattr(record, "fields", None)
        if isinstance(extra, dict):
            line.update(extra)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return scrub(orjson.dumps(line, default=str).decode())


def configure(settings: Log) -> None:
    """Set the root logger up; the last call counts."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.format == "json":
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(_Text("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    # aiohttp's server logs quote malformed header lines, credentials included.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    # At debug it tells every statement with all of its values.
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)


def log_request(entry: Entry, caller: Caller) -> None:
    """One line for a request that ended."""
    key = "own" if caller.key is None else caller.key.hint
    failure = entry.failure
    _requests.info(
        "%s %s %s %s %s %.1f ms%s",
        entry.opening.id,
        key,
        entry.opening.endpoint,
        entry.opening.model[:100],
        entry.http_status,
        entry.total_ms,
        "" if failure is None else f" {failure.stage}: {failure.code}",
        extra={
            "fields": {
                "receipt": entry.opening.id,
                "key": key,
                "endpoint": entry.opening.endpoint,
                "model": entry.opening.model[:100],
                "provider": entry.provider,
                "status": entry.http_status,
                "total_ms": entry.total_ms,
                "cost_nano_usd": entry.cost_nano_usd,
                "failure": None if failure is None else failure.stage,
            }
        },
    )
