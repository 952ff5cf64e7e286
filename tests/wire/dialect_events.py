"""Events of a reader, checked and gathered into what an answer would hold."""

from collections.abc import Iterable

from gateway.wire.conversation import Block, Refusal, Text, Thinking, ToolCall
from gateway.wire.events import BlockStart, Delta, Event, Finish, Grammar, MessageEnd
from gateway.wire.format import StreamReader
from gateway.wire.neutral import Usage


def read(reader: StreamReader, pieces: Iterable[bytes]) -> list[Event]:
    """All events of a stream that ends cleanly; they keep to the grammar. Raises `Truncated`."""
    grammar = Grammar()
    events = []
    for piece in pieces:
        events += _seen(grammar, reader.feed(piece))
    return events + _seen(grammar, reader.eof())


def _seen(grammar: Grammar, events: list[Event]) -> list[Event]:
    for event in events:
        grammar.see(event)
    return events


def gathered(events: Iterable[Event]) -> dict[int, list[Block]]:
    """The blocks of each choice with their texts and arguments put together, without signatures."""
    begun: dict[int, BlockStart] = {}
    said: dict[int, str] = {}
    for event in events:
        if isinstance(event, BlockStart):
            begun[event.index] = event
            said[event.index] = ""
        elif isinstance(event, Delta) and event.kind != "signature":
            said[event.index] += event.text
    out: dict[int, list[Block]] = {}
    for index, start in begun.items():
        out.setdefault(start.choice, []).append(_whole(start.block, said[index]))
    return out


def _whole(block: Block, said: str) -> Block:
    match block:
        case Text():
            return Text(block.text + said)
        case Refusal():
            return Refusal(block.text + said)
        case Thinking():
            return Thinking(block.text + said, block.signature, block.redacted)
        case ToolCall():
            return ToolCall(block.id, block.name, block.arguments + said, block.custom)
    return block


def joined(blocks: Iterable[Block]) -> list[Block]:
    """Blocks, with texts that follow each other as one: not all formats say where one ends."""
    out: list[Block] = []
    for block in blocks:
        last = out[-1] if out else None
        if isinstance(block, Text) and isinstance(last, Text):
            out[-1] = Text(last.text + block.text)
        else:
            out.append(block)
    return out


def finishes(events: Iterable[Event]) -> dict[int, Finish]:
    return {event.choice: event for event in events if isinstance(event, Finish)}


def usage(events: Iterable[Event]) -> Usage | None:
    return next((event.usage for event in events if isinstance(event, MessageEnd)), None)
