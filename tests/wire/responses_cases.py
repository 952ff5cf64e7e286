"""What the tests of the Responses dialect share: its records, and events put together again."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from wire_records import Record, records

from gateway.wire.conversation import (
    Block,
    Choice,
    Refusal,
    Request,
    Signature,
    StopReason,
    Text,
    Thinking,
    ToolCall,
)
from gateway.wire.events import (
    BlockStart,
    Delta,
    Event,
    Finish,
    MessageEnd,
    StreamError,
    check_grammar,
)
from gateway.wire.format import Asked, Toward
from gateway.wire.neutral import Usage
from gateway.wire.openai_responses_dialect import DIALECT

TOWARD = Toward("gpt-5.6", "openai", 8192)


def of_responses() -> Iterator[Record]:
    return (one for one in records() if one.endpoint == "openai.responses")


def request_of(**fields: Any) -> Request:
    """A request as its caller sends it: "hi" to a model, and these fields."""
    body = {"model": "m", "input": "hi", **fields}
    return DIALECT.read_request(msgspec.json.encode(body), model=None, stream=None)


def asked_of(request: Request | None = None) -> Asked:
    return Asked(request or request_of(), "premium", "0199-ab-cd", 1_790_000_000)


def read_stream(*pieces: bytes) -> list[Event]:
    """All events of a stream that ends well; they keep to the grammar."""
    reader = DIALECT.reader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    events += reader.eof()
    check_grammar(events)
    return events


def written(request: Request, toward: Toward = TOWARD) -> tuple[dict[str, Any], list[str]]:
    body, left_out = DIALECT.write_request(request, toward)
    return msgspec.json.decode(body), left_out


def write_stream(events: Iterable[Event], asked: Asked) -> bytes:
    writer = DIALECT.writer(asked)
    return b"".join(map(writer.write, events))


def joined(events: Iterable[Event]) -> tuple[Choice, Usage | None]:
    """The answer that a stream's events tell."""
    blocks: dict[int, Block] = {}
    usage: Usage | None = None
    stop: StopReason | None = None
    for event in events:
        match event:
            case BlockStart(index=index, block=block):
                blocks[index] = block
            case Delta(index=index):
                blocks[index] = _more(blocks[index], event)
            case Finish():
                stop = event.stop
            case MessageEnd():
                usage = event.usage
            case StreamError():
                raise AssertionError(event)
            case _:
                pass
    assert stop is not None
    return Choice(tuple(blocks[index] for index in sorted(blocks)), stop), usage


def _more(block: Block, delta: Delta) -> Block:
    replace = msgspec.structs.replace
    if delta.kind == "signature":
        assert isinstance(block, Thinking | ToolCall | Text)
        return replace(block, signature=Signature(delta.format, delta.text))
    if isinstance(block, ToolCall):
        assert delta.kind == "arguments"
        return replace(block, arguments=block.arguments + delta.text)
    assert delta.kind == "text"
    assert isinstance(block, Thinking | Text | Refusal)
    return replace(block, text=block.text + delta.text)
