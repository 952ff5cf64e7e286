"""Recorded generateContent traffic as the tests of its dialect need it."""

import gzip
from functools import cache
from typing import Any

import msgspec
import pytest
from wire_records import Record, directory

from gateway.wire.conversation import Block, Choice, Refusal, Text, Thinking, ToolCall
from gateway.wire.events import (
    BlockStart,
    BlockStop,
    Delta,
    Event,
    Finish,
    Grammar,
    MessageEnd,
    StreamError,
)
from gateway.wire.format import StreamReader
from gateway.wire.neutral import Usage


class Exchange(Record):
    """A record, with what the request of a Gemini call has in its path."""

    path: str = ""
    model: str = ""


@cache
def exchanges() -> tuple[Exchange, ...]:
    found = directory() / "google_generate.jsonl.gz"
    if not found.is_file():
        pytest.skip("no recorded traffic: set GATEWAY_RECORDED_DIR to its directory")
    decoder = msgspec.json.Decoder(Exchange)
    return tuple(decoder.decode(line) for line in gzip.decompress(found.read_bytes()).splitlines())


def requests() -> list[Exchange]:
    return [one for one in exchanges() if bytes(one.request_body) != b"null"]


def answers() -> list[Exchange]:
    return [one for one in exchanges() if one.status == 200 and not one.streamed]


def streams() -> list[Exchange]:
    return [one for one in exchanges() if one.status == 200 and one.streamed]


def collect(reader: StreamReader, pieces: Any) -> list[Event]:
    """Read a stream to its end; its events keep to the grammar."""
    events: list[Event] = []
    for piece in pieces:
        events += reader.feed(piece)
    events += reader.eof()
    grammar = Grammar()
    for event in events:
        grammar.see(event)
    assert grammar.over
    return events


def joined(events: list[Event]) -> list[Event]:
    """The same events, with pieces of a block's text that follow each other made one."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if (
            isinstance(event, Delta)
            and isinstance(last, Delta)
            and (event.index, event.kind) == (last.index, last.kind)
            and event.kind != "signature"
        ):
            out[-1] = Delta(event.index, last.text + event.text, event.kind)
        else:
            out.append(event)
    return out


def choices_of(events: list[Event]) -> tuple[Choice, ...]:
    """The choices that the events of a whole stream make."""
    from gateway.wire.conversation import Signature

    blocks: dict[int, Block] = {}
    owner: dict[int, int] = {}
    stops: dict[int, Finish] = {}
    for event in events:
        if isinstance(event, BlockStart):
            blocks[event.index] = event.block
            owner[event.index] = event.choice
        elif isinstance(event, Delta):
            block = blocks[event.index]
            assert isinstance(block, (Text, Thinking, ToolCall, Refusal))
            if event.kind == "signature":
                assert isinstance(block, (Text, Thinking, ToolCall))
                block = msgspec.structs.replace(
                    block, signature=Signature(event.format, event.text)
                )
            elif isinstance(block, ToolCall):
                block = msgspec.structs.replace(block, arguments=block.arguments + event.text)
            else:
                block = msgspec.structs.replace(block, text=block.text + event.text)
            blocks[event.index] = block
        elif isinstance(event, Finish):
            stops[event.choice] = event
    return tuple(
        Choice(
            tuple(blocks[index] for index in sorted(blocks) if owner[index] == choice),
            stop.stop,
            stop.stop_sequence,
        )
        for choice, stop in sorted(stops.items())
    )


def usage_of(events: list[Event]) -> Usage | None:
    ends = [event for event in events if isinstance(event, MessageEnd)]
    return ends[0].usage if ends else None


def failed(events: list[Event]) -> StreamError | None:
    return next((event for event in events if isinstance(event, StreamError)), None)


def seen(choice: Choice) -> dict[str, Any]:
    """A choice in the words of `expected_content`, less what the provider called its stop."""
    calls = [block for block in choice.content if isinstance(block, ToolCall)]
    return {
        "text": "".join(one.text for one in choice.content if isinstance(one, Text)),
        "reasoning_chars": sum(
            len(one.text) for one in choice.content if isinstance(one, Thinking)
        ),
        "tool_calls": [
            {"name": one.name, "arguments": msgspec.json.decode(one.arguments)} for one in calls
        ],
    }


def expected(record: Exchange) -> list[dict[str, Any]]:
    assert record.expected_content is not None
    return [
        {
            "text": one["text"],
            "reasoning_chars": one["reasoning_chars"],
            "tool_calls": [
                {"name": call["name"], "arguments": call["arguments"]} for call in one["tool_calls"]
            ],
        }
        for one in record.expected_content["choices"]
    ]


def stops(record: Exchange) -> list[str]:
    assert record.expected_content is not None
    return [
        "tool_call" if one["tool_calls"] and one["stop"] == "STOP" else WORDS[one["stop"]]
        for one in record.expected_content["choices"]
    ]


WORDS = {"STOP": "end", "MAX_TOKENS": "max_tokens", "UNEXPECTED_TOOL_CALL": "failure"}


def of_stop(event: Event) -> bool:
    return isinstance(event, BlockStop)
