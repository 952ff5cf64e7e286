"""Which relay an answer gets: by its status, its content type, and what was asked. Pure choice.

Called by the exchange when an answer's head is in.
"""

from typing import TYPE_CHECKING

from gateway.proxy.headers import Answer
from gateway.proxy.passthrough import Buffered, Raw, Relay, Streamed
from gateway.proxy.server import head
from gateway.wire import registry

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange

_NEVER_PAGES = frozenset((b"application/json", b"text/event-stream"))
"""What browsers show as text, whatever is in it."""

_NO_PAGE = b"Content-Security-Policy: sandbox\r\nX-Content-Type-Options: nosniff\r\n"
"""A file kept at a provider may be anybody's HTML, and a link with `?key=` opens it in a browser at
the very origin of the dashboard. There it has no origin of its own, and runs nothing."""


def choose(exchange: "Exchange", status: int, answer: Answer) -> Relay:
    """The relay for an answer; notes its length and the upstream's id of it on the exchange."""
    length = answer.content_length
    exchange.content_length = int(length) if length is not None and length.isdigit() else None
    quotes = exchange.secret and exchange.secret in (answer.request_id or b"")
    if answer.request_id is not None and not quotes:
        exchange.upstream_request_id = answer.request_id.decode("latin-1")
    if exchange.translation is not None:
        return exchange.translation.relay(exchange, status, answer)
    kind = answer.content_type
    no_page = b"" if kind in _NEVER_PAGES else _NO_PAGE
    lines = head(status, answer.lines + no_page + exchange.own_lines())
    endpoint = exchange.endpoint
    encoded = answer.content_encoding is not None
    wire_format = endpoint.format
    if exchange.bodyless or status in (204, 304):
        exchange.bodyless = True
        exchange.bodyless_length = None if status == 204 else length
        return Buffered(exchange, lines, None)
    if status >= 300:
        return Buffered(exchange, lines, None)
    if kind == b"text/event-stream" and not encoded:
        lines += b"X-Accel-Buffering: no\r\n"
        tap = registry.stream_tap(wire_format, strip_usage=exchange.strip_usage)
        return Streamed(exchange, lines, tap)
    if endpoint.array and not encoded:
        lines += b"X-Accel-Buffering: no\r\n"
        return Streamed(exchange, lines, registry.stream_tap(wire_format, json_array=True))
    if kind == b"application/json" and not encoded:
        return Buffered(exchange, lines, registry.body_tap(wire_format))
    body_tap = registry.body_tap(wire_format) if endpoint.metered else None
    return Raw(exchange, lines, body_tap, exchange.content_length)
