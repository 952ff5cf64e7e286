"""The Protocols a wire format's pieces satisfy; implemented by one file per format.

A tap watches one answer pass and never changes what the client reads, except that `StreamTap`
takes out the one usage chunk that only the gateway asked for. Sans-io: no await, no clock.
"""

from typing import Protocol

from gateway.wire.neutral import Metered


class StreamTap(Protocol):
    r"""Watches one streamed answer (SSE, or a Gemini JSON array) as its bytes go by.

    `feed` takes the bytes as they arrived, cut anywhere, and returns those that may go on to the
    client now: whole events only, so that an error event can always be added on a boundary, and a
    partial event waits (up to PARTIAL_EVENT_BYTES_MAX, after which it is let through). The
    common piece, whole events with nothing held, comes back as the same object.

    Once the format's terminal event (`data: [DONE]`, `message_stop`, `response.completed`,
    `response.incomplete`, `response.failed`) is in, `terminal` is True; that event and all that
    follows stay held until `release()`, so that the receipt is durable before it leaves.
    Everything `feed` and `release` return, joined, is what came in, byte for byte, less the
    stripped usage chunk.
    """

    terminal: bool
    content: bool
    """True once real content (not just an opening, a ping or a comment) has come."""

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; return what may be sent on now (possibly b"")."""
        ...

    def release(self) -> bytes:
        """Return everything held. After it `feed` passes all bytes straight through."""
        ...

    def drop_partial(self) -> bytes:
        """The upstream broke: return held whole events, discard a partial one."""
        ...

    def metered(self) -> Metered:
        """What is known so far; call at any time."""
        ...


class BodyTap(Protocol):
    """Watches one answer that is a single JSON document.

    `feed` whole or in pieces; memory is bounded however long the body is.
    """

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        ...

    def metered(self) -> Metered:
        """What the body reported; call once the last piece was fed."""
        ...
