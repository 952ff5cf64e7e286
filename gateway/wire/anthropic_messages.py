"""Anthropic Messages: its meter and its taps.

`input_tokens` excludes both cache buckets here. In a stream `message_delta` carries cumulative
counts that replace those of `message_start` key by key (older and Vertex deltas carry the output
only); the 5-minute/1-hour split of cache writes comes with `message_start` alone. Passes that are
billed besides the top level (compaction, advisor) are listed in `iterations`. Source:
docs.anthropic.com, "Messages" and "Streaming messages" (2026-08), and recorded traffic.
"""

import msgspec

from gateway.wire import lenient, sse
from gateway.wire.lenient import ABSENT, Count
from gateway.wire.neutral import SidePass, Usage
from gateway.wire.tap import SAMPLES, JsonTap, SseTap


class CacheCreation(msgspec.Struct, frozen=True):
    """`cache_creation`: cache writes by how long they live."""

    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None


class OutputDetails(msgspec.Struct, frozen=True):
    """`output_tokens_details`."""

    thinking_tokens: Count | None = None


class Iteration(msgspec.Struct, frozen=True):
    """One pass of `iterations`; those of type `message` are in the top level already."""

    type: str | None = None
    model: str | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: CacheCreation | None = None


class AnthropicUsage(msgspec.Struct, frozen=True):
    """The usage object of a message, of `message_start` and of `message_delta`."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: CacheCreation | None = None
    output_tokens_details: OutputDetails | None = None
    server_tool_use: dict[str, int | None] | None = None
    iterations: list[Iteration] | None = None


class _Message(msgspec.Struct, frozen=True):
    type: msgspec.Raw = ABSENT
    id: msgspec.Raw = ABSENT
    model: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    content: msgspec.Raw = ABSENT


class _Event(msgspec.Struct, frozen=True):
    type: msgspec.Raw = ABSENT
    message: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    delta: msgspec.Raw = ABSENT
    content_block: msgspec.Raw = ABSENT


_USAGE = msgspec.json.Decoder(AnthropicUsage)
_MESSAGE = msgspec.json.Decoder(_Message)
_EVENT = msgspec.json.Decoder(_Event)


def _split(found: AnthropicUsage | Iteration) -> tuple[int, int | None, int | None, int | None]:
    """Return (all input, cache writes, of them 5 minutes, 1 hour)."""
    kinds = found.cache_creation or CacheCreation()
    five, hour = kinds.ephemeral_5m_input_tokens, kinds.ephemeral_1h_input_tokens
    written = found.cache_creation_input_tokens
    if written is None and found.cache_creation is not None:
        written = (five or 0) + (hour or 0)
    read = found.cache_read_input_tokens or 0
    return (found.input_tokens or 0) + read + (written or 0), written, five, hour


def _side_pass(found: Iteration) -> SidePass:
    tokens_in, written, five, hour = _split(found)
    return SidePass(
        kind=found.type or "unknown",
        model=found.model,
        input_tokens=tokens_in,
        output_tokens=found.output_tokens or 0,
        cache_read_input_tokens=found.cache_read_input_tokens,
        cache_creation_input_tokens=written,
        cache_write_5m=five,
        cache_write_1h=hour,
    )


def usage_from(found: AnthropicUsage) -> Usage | None:
    """Turn Anthropic's counts into neutral ones; None where it holds no token count."""
    if found.input_tokens is None and found.output_tokens is None:
        return None
    tokens_in, written, five, hour = _split(found)
    details = found.output_tokens_details or OutputDetails()
    tools = {name: n for name, n in (found.server_tool_use or {}).items() if n and n > 0}
    besides = [_side_pass(one) for one in found.iterations or () if one.type != "message"]
    return Usage(
        input_tokens=tokens_in,
        output_tokens=found.output_tokens or 0,
        cache_read_input_tokens=found.cache_read_input_tokens,
        cache_creation_input_tokens=written,
        reasoning_tokens=details.thinking_tokens,
        cache_write_5m=five,
        cache_write_1h=hour,
        server_tool_requests=tools or None,
        billed_besides=besides or None,
    )


def merge(start: AnthropicUsage | None, delta: AnthropicUsage) -> AnthropicUsage:
    """Replace the counts of `start` that `delta` carries; never add."""
    if start is None:
        return delta
    carried = {
        name: value
        for name in AnthropicUsage.__struct_fields__
        if (value := getattr(delta, name)) is not None
    }
    return msgspec.structs.replace(start, **carried)


def read_usage(raw: bytes | msgspec.Raw) -> AnthropicUsage | None:
    """Read a usage object's JSON; None where it is null, absent or malformed."""
    return lenient.counts(_USAGE, raw)


class MessagesStreamTap(SseTap):
    """Watches a Messages stream. Pieces that are all `content_block_delta` pass at once."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        super().__init__()
        self._counts: AnthropicUsage | None = None

    def _quiet(self, data: bytes) -> bool:
        # A raw line end cannot stand inside JSON: what is counted are `event:` lines.
        deltas = data.count(b"content_block_delta\n")
        if not deltas or data.count(b"\n\n") != deltas:
            return False
        self._deltas += deltas
        self._text += len(data)
        return True

    def _event(self, event: bytes) -> bool:
        if self._sampled >= SAMPLES and self._quiet(event):
            return True
        data = sse.data_of(event)
        found = lenient.decode(_EVENT, data) if data else None
        if found is None:
            return True
        kind = lenient.text(found.type) or sse.name_of(event).decode("utf-8", "replace")
        if kind == "content_block_delta":
            self.content = True
            self._count(event, lenient.text_bytes(lenient.anything(found.delta)))
        elif kind == "content_block_start":
            # A text or thinking block opens empty; any other is something by itself.
            block = lenient.anything(found.content_block)
            if isinstance(block, dict) and block.get("type") not in ("text", "thinking"):
                self.content = True
        elif kind == "message_start":
            self._start(found.message)
        elif kind == "message_delta":
            self.content = True
            self._counted(found.usage)
        elif kind == "message_stop":
            self.terminal = self.answer.complete = True
        elif kind == "error" or lenient.is_object(found.error):
            self.answer.fault = lenient.fault(data)
        return True

    def _start(self, raw: msgspec.Raw) -> None:
        message = lenient.decode(_MESSAGE, raw) if raw else None
        if message is not None:
            self.answer.name(message.id, message.model)
            self._counted(message.usage)

    def _counted(self, raw: msgspec.Raw) -> None:
        found = read_usage(raw)
        if found is not None:
            self._counts = merge(self._counts, found)
            self.answer.usage = usage_from(self._counts)


class MessagesBodyTap(JsonTap):
    """Reads a Messages answer."""

    __slots__ = ()

    def _document(self, data: bytes) -> bool:
        message = lenient.decode(_MESSAGE, data)
        if message is None:
            return False
        self.answer.name(message.id, message.model)
        found = read_usage(message.usage)
        if found is not None:
            self.answer.usage = usage_from(found)
        if message.error:
            self.answer.fault = lenient.fault(message.error)
        return True

    def _text(self, data: bytes) -> int:
        message = lenient.decode(_MESSAGE, data)
        return lenient.text_bytes(lenient.anything(message.content)) if message else 0
