"""Same bytes out, a tap watching: the three ways an answer is relayed.

A relay is the `Sink` of a connection once an answer's head is in. `Buffered` keeps a JSON answer
until its receipt is durable; `Streamed` passes an event stream on as it comes and keeps back only
its terminal event; `Raw` passes anything else and keeps back its last piece. None of them awaits:
all work is done in the read that brought the bytes. What a relay knows of the request is its
`Exchange`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from gateway.errors import GatewayError
from gateway.proxy import errors, headers
from gateway.proxy.connection import Broken, Lines
from gateway.proxy.server import nowhere
from gateway.wire.format import BodyTap, StreamTap
from gateway.wire.neutral import Metered

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange

BUFFERED_BYTES_MAX = 4 * 1024 * 1024
"""A longer JSON answer streams through instead of waiting here: bounds memory per request."""

HELD_BYTES_MAX = 256 * 1024
"""Bytes that may wait for the row that opens the receipt before their upstream is paused. A slow
disk must not let a quick upstream fill the memory."""

OPENING_BYTES_MAX = 16 * 1024
"""Of a stream's opening kept back while another target could still take over: real ones are
shorter, and whatever is not understood must not wait for long."""

LAST_CHUNK = b"0\r\n\r\n"

SIZE_LINES = 2048
_SIZE_LINE = tuple(b"%x\r\n" % size for size in range(SIZE_LINES))
"""The lines that open chunks of the usual sizes: a join is half the price of a format."""


class Relay:
    """What all relays share: they are asked for by the exchange, and called by the connection."""

    __slots__ = ("_held_bytes", "exchange")

    def __init__(self, exchange: "Exchange") -> None:
        self.exchange = exchange
        self._held_bytes = 0

    def _hold(self, data: bytes) -> None:
        """Count what cannot go out yet, and pause the upstream where it gets too much."""
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES_MAX:
            self.exchange.client_paused()

    def _fit(self, out: bytes) -> bytes:
        """Bytes for the caller, without the operator's key where an upstream's error quotes it.

        A caller's own key is theirs to be told of: those answers pass as they came.
        """
        secret = self.exchange.secret
        if (
            len(secret) >= headers.SECRET_BYTES_MIN
            and self.exchange.caller.key is not None
            and secret in out
        ):
            return out.replace(secret, headers.REDACTED)
        return out

    def _let_go(self) -> None:
        """It went out: read on, unless the client is the slow one now."""
        if self._held_bytes > HELD_BYTES_MAX and not self.exchange.down.paused():
            self.exchange.client_resumed()
        self._held_bytes = 0

    def head(self, status: int, lines: Lines) -> None:
        """Never called: the exchange has taken the head."""

    def body(self, data: bytes) -> None:
        """The next piece."""

    def end(self) -> None:
        """The answer is complete."""

    def broken(self, error: Broken) -> None:
        """The upstream failed after the head."""

    def client_gone(self) -> bool:
        """The client left; True when everything of the answer was already accounted for."""
        return False

    def metered(self) -> Metered | None:
        """What is known of the answer so far."""
        return None


class Buffered(Relay):
    """A JSON answer, or an error: held whole, sent in one write when its receipt is durable."""

    __slots__ = ("_head", "_pieces", "_size", "_tap", "settled")

    def __init__(self, exchange: "Exchange", head: bytes, tap: BodyTap | None) -> None:
        super().__init__(exchange)
        self._head = head
        self._pieces: list[bytes] = []
        self._size = 0
        self._tap = tap
        self.settled = False

    def body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > BUFFERED_BYTES_MAX:
            self._overflow()

    def _overflow(self) -> None:
        relay = Raw(self.exchange, self._head, self._tap, self.exchange.content_length)
        self.exchange.relay_with(relay)
        for piece in self._pieces:
            relay.body(piece)
        self._pieces.clear()

    def end(self) -> None:
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = [body]
        metered = None
        if self._tap is not None:
            self._tap.feed(body)
            metered = self._tap.metered()
            unread = metered.usage is None and (body or self.exchange.endpoint.metered)
            if unread and not _is_json(body):
                self.exchange.refuse_answer(
                    "bad_upstream_response", "The upstream's answer is not JSON", "upstream_status"
                )
                return
        self.settled = True
        self.exchange.answered(metered, self._durable)

    def _durable(self) -> None:
        body = self._fit(self._pieces[0])
        exchange = self.exchange
        size = exchange.bodyless_length if exchange.bodyless else b"%d" % len(body)
        length = b"" if size is None else b"content-length: %b\r\n" % size
        exchange.down.write(b"%b%b\r\n%b" % (self._head, length, body))
        exchange.finished()

    def broken(self, error: Broken) -> None:
        self.exchange.answer_broke(error)

    def client_gone(self) -> bool:
        return self.settled


Backlog = list[bytes]


class Streamed(Relay):
    """An event stream (or Gemini's streamed array) on its way through.

    The head goes out with the first whole event, not before: until then an upstream failure still
    gets a real status. Where another target could take over it waits for the first content, since
    some upstreams open a stream with 200 only to say that they are overloaded. The terminal event,
    or for a format without one the end of the body, waits for the receipt.
    """

    __slots__ = ("_backlog", "_chunked", "_ended", "_error", "_head", "_last", "_state", "_tap",
                 "_waiting", "_write")  # fmt: skip

    def __init__(self, exchange: "Exchange", head: bytes, tap: StreamTap) -> None:
        super().__init__(exchange)
        self._head = head
        self._tap = tap
        self._chunked = not exchange.down.http10
        self._backlog: Backlog = []
        self._waiting = False
        self._ended = False
        self._error: bytes = b""
        self._last = b""
        self._write: Callable[[bytes], None] = nowhere
        self._state: Literal["held", "open", "settling", "settled"] = "held"

    def body(self, data: bytes) -> None:
        out = self._tap.feed(data)
        if out is data and self._state == "open":
            # Whole events with nothing to it: nearly every read of a stream ends here.
            if data[:1] != b":" or b"\ndata:" in data:  # a comment alone has no number
                self._last = data
            if self._chunked:
                size = len(data)
                if size < SIZE_LINES:
                    data = b"".join((_SIZE_LINE[size], data, b"\r\n"))
                else:
                    data = b"%x\r\n%b\r\n" % (size, data)
            self._write(data)
            return
        self._take(out)

    def _take(self, out: bytes) -> None:
        """Anything but the common piece."""
        if self._state == "held" and self._opened_with_error():
            return
        self.pass_on(out)
        if self._tap.terminal and self._state in ("held", "open"):
            self._settle()

    def pass_on(self, out: bytes) -> None:
        """Send on what the tap let go, or keep it until the head may go out."""
        if out:
            out = self._fit(out)
            if out[:1] != b":" or b"\ndata:" in out:
                self._last = out
            if self._state == "open":
                self._write(self._frame(out))
            else:
                self._forward(out)

    def _forward(self, out: bytes) -> None:
        """Outside the common case: before the head is out, or behind the terminal event."""
        if self._state == "settled":
            self.exchange.down.write(self._frame(out))
            return
        self._backlog.append(out)
        self._hold(out)
        if not self._waiting and not self._undecided():
            self._waiting = True
            self.exchange.when_opened(self._opened)

    def _undecided(self) -> bool:
        """Whether nothing of substance has come yet, and another target could take over."""
        if not self.exchange.replaceable or self._tap.content:
            return False
        return sum(map(len, self._backlog)) <= OPENING_BYTES_MAX

    def _opened_with_error(self) -> bool:
        """Leave a stream that opened with an error to the next target, if there is one."""
        if self._waiting or not self._undecided() or self._tap.metered().fault is None:
            return False
        self._backlog.clear()
        self.exchange.opened_with_error()
        return True

    def _frame(self, out: bytes) -> bytes:
        if not self._chunked or not out:
            return out
        size = len(out)
        if size < SIZE_LINES:
            return b"".join((_SIZE_LINE[size], out, b"\r\n"))
        return b"%x\r\n%b\r\n" % (size, out)

    def _opened(self) -> None:
        """The row that opens the receipt is durable: the answer may begin."""
        if self._state == "held":
            self._state = "open"
            self._write = self.exchange.down.writer()
            self._begin()

    def _begin(self) -> None:
        out = self._frame(b"".join(self._backlog))
        self._backlog.clear()
        head, self._head = self._head, b""
        if head:
            framing = b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n"
            out = b"%b%b%b" % (head, framing, out)
        self.exchange.down.write(out)
        self._let_go()

    def _settle(self) -> None:
        self._state = "settling"
        self.exchange.streamed(self._tap.metered(), self._durable)

    def _durable(self) -> None:
        """The receipt is durable: the rest may go."""
        self._state = "settled"
        rest = self._tap.drop_partial() if self._error else self._tap.release()
        self._backlog.append(self._fit(rest))
        self._backlog.append(self._error)
        self._begin()
        if self._ended:
            self._close()

    def _close(self) -> None:
        down = self.exchange.down
        if self._chunked:
            down.write(LAST_CHUNK)
        else:
            down.keep_alive = False
        self.exchange.finished()

    def end(self) -> None:
        self._ended = True
        if self._state == "settled":
            self._close()
        elif self._state != "settling":
            self._settle()

    def broken(self, error: Broken) -> None:
        exchange = self.exchange
        if self._state in ("settling", "settled") or self._said_all():
            self.end()  # the answer is whole, only the end of its framing is missing
            return
        if self._state == "held" and not self._waiting:
            exchange.answer_broke(error)
            return
        if error.kind == "client_stalled":
            exchange.client_stalled()
            return
        self._cut(stage_of(error))

    def _cut(self, failure: GatewayError) -> None:
        """End with an error event of the caller's format: an ending is never invented."""
        exchange = self.exchange
        self._error = errors.stream_event(failure, exchange.endpoint, exchange.id, self._last)
        exchange.down.keep_alive = False
        self._ended = True
        self._state = "settling"
        exchange.stream_broke(failure, self._tap.metered(), self._durable)

    def _said_all(self) -> bool:
        """Whether a format without a terminal event has finished, with nothing of it missing.

        The tap also reads an event that lacks its blank line: what counts is what went out whole.
        """
        endpoint, last = self.exchange.endpoint, self._last
        if endpoint.format != "gemini" or not self._tap.metered().complete:
            return False
        if endpoint.array:
            return last.rstrip().endswith(b"]")
        finished = b'"finishReason"' in last or b'"blockReason"' in last
        return finished and last.endswith((b"\n\n", b"\r\n\r\n"))

    def client_gone(self) -> bool:
        if self._state in ("settling", "settled"):
            if not self._ended:
                self._ended = True
                if self._state == "settled":
                    self.exchange.finished()
            return True
        self._state = "open"  # nobody reads: no head to hold, no backlog to keep
        self._write = nowhere
        self._backlog.clear()
        return False

    def metered(self) -> Metered | None:
        return self._tap.metered()


class Raw(Relay):
    """Any other body, or a JSON one too long to keep: straight through, its last piece held."""

    __slots__ = ("_begun", "_framing", "_head", "_held", "_left", "_pending", "_tap", "_waiting",
                 "settled")  # fmt: skip

    def __init__(
        self, exchange: "Exchange", head: bytes, tap: BodyTap | None, length: int | None
    ) -> None:
        super().__init__(exchange)
        self._tap = tap
        self._left = length
        self._held = b""
        self._pending: Backlog = []
        self._begun = False
        self._waiting = False
        self.settled = False
        if length is not None:
            self._framing, lines = "length", b"content-length: %d\r\n\r\n" % length
        elif exchange.down.http10:
            self._framing, lines = "close", b"\r\n"
        else:
            self._framing, lines = "chunked", b"transfer-encoding: chunked\r\n\r\n"
        self._head = head + lines

    def body(self, data: bytes) -> None:
        if self._tap is not None:
            self._tap.feed(data)
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self._held += data
                return
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._framing == "chunked" and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._begun:
            self.exchange.down.write(data)
            return
        self._pending.append(data)
        self._hold(data)
        if not self._waiting:
            self._waiting = True
            self.exchange.when_opened(self._begin)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.exchange.down.write(self._head + b"".join(self._pending))
            self._pending.clear()
            self._let_go()

    def end(self) -> None:
        self.settled = True
        self.exchange.answered(None if self._tap is None else self._tap.metered(), self._durable)

    def _durable(self) -> None:
        self._begin()
        exchange = self.exchange
        if self._held:
            exchange.down.write(self._held)
        if self._framing == "chunked":
            exchange.down.write(LAST_CHUNK)
        elif self._framing == "close":
            exchange.down.keep_alive = False
        exchange.finished()

    def broken(self, error: Broken) -> None:
        if not self._begun and not self._pending:
            self.exchange.answer_broke(error)
            return
        self.settled = True
        if error.kind == "client_stalled":
            self.exchange.client_stalled()
            return
        metered = None if self._tap is None else self._tap.metered()
        self.exchange.stream_broke(stage_of(error), metered, self._cut)

    def _cut(self) -> None:
        # A body of unknown meaning has no in-band error: an unfinished one must look unfinished.
        self.exchange.down.abort()
        self.exchange.finished()

    def client_gone(self) -> bool:
        return self.settled

    def metered(self) -> Metered | None:
        return None if self._tap is None else self._tap.metered()


class Drained:
    """Reads an answer on after its client left, within a bound of bytes."""

    __slots__ = ("_left", "_relay")

    def __init__(self, relay: Relay, bytes_max: int) -> None:
        self._relay = relay
        self._left = bytes_max

    def head(self, status: int, lines: Lines) -> None:
        """Never called: the exchange has taken the head."""

    def body(self, data: bytes) -> None:
        """Count, and pass on to the relay for its tap."""
        self._left -= len(data)
        if self._left < 0:
            self._relay.exchange.drained_enough()
        else:
            self._relay.body(data)

    def end(self) -> None:
        """The answer is complete."""
        self._relay.end()

    def broken(self, error: Broken) -> None:
        """The upstream failed."""
        self._relay.broken(error)


_ANY_JSON = msgspec.json.Decoder(msgspec.Raw)


def _is_json(body: bytes) -> bool:
    """Whether a body is a JSON document."""
    try:
        _ANY_JSON.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def stage_of(error: Broken) -> GatewayError:
    """What a broken exchange is to the caller."""
    if error.kind == "connect":
        return GatewayError(
            "upstream_error", f"All upstream providers failed: {error.message}",
            stage="upstream_connect", retry_after_s=1,
        )  # fmt: skip
    if error.kind == "timeout_first_byte":
        return GatewayError(
            "upstream_timeout", f"Upstream timeout: {error.message}", stage="upstream_timeout"
        )
    if error.kind == "timeout_idle":
        return GatewayError(
            "upstream_timeout", f"Upstream stalled: {error.message}", stage="upstream_timeout"
        )
    if error.kind == "garbage":
        return GatewayError(
            "bad_upstream_response", f"Bad upstream response: {error.message}",
            stage="upstream_status",
        )  # fmt: skip
    if error.kind == "gateway":
        return GatewayError("internal_error", "The gateway failed", stage="gateway")
    return GatewayError(
        "bad_upstream_response", f"Upstream failed: {error.message}", stage="upstream_stream"
    )
