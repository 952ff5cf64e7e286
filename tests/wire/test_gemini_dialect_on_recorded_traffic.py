"""Every recorded generateContent request, answer and stream, read and written by the dialect."""

import random
import re
from collections.abc import Callable

import gemini_records as recorded
import msgspec
import pytest
from gemini_records import Exchange
from test_taps_on_recorded_traffic import expected as expected_usage
from wire_records import cut, random_cuts

from gateway.wire.conversation import (
    Block,
    Choice,
    Message,
    Opaque,
    Request,
    Text,
    ToolCall,
    ToolResult,
)
from gateway.wire.events import Event, Finish, MessageEnd, Truncated, check_grammar
from gateway.wire.format import Asked, Toward
from gateway.wire.gemini_dialect import DIALECT

pytestmark = pytest.mark.recorded

BYTE_BY_BYTE_BYTES_MAX = 16 * 1024

NOTHING_KNOWN = Request(format="gemini", model="m", stream=False)


def read(record: Exchange) -> Request:
    return DIALECT.read_request(bytes(record.request_body), model=record.model, stream=False)


def asked(record: Exchange, *, array: bool = False) -> Asked:
    return Asked(NOTHING_KNOWN, record.model, "answer-1", 1_790_000_000, array)


def whole(record: Exchange) -> list[int]:
    return []


def scattered(record: Exchange) -> list[int]:
    return random_cuts(record.body, record.id)


def every_byte(record: Exchange) -> list[int]:
    return list(range(1, len(record.body)))


def test_every_request_is_read_with_all_that_was_said() -> None:
    tried = 0
    for record in recorded.requests():
        found = read(record)
        body = msgspec.json.decode(record.request_body)
        turns = [one for one in body["contents"] if one.get("parts")]
        assert [len(one.content) for one in found.messages] == [len(one["parts"]) for one in turns]
        assert not [name for name in found.unknown if name not in KNOWN_UNKNOWN], record.id
        tried += 1
    assert tried >= 280


KNOWN_UNKNOWN = {
    "toolConfig.includeServerSideToolInvocations",
    "tools.functionDeclarations.responseJsonSchema",
    "generationConfig.imageConfig",
}
"""Fields of the recorded requests that no other format has: told as left out."""

LOST = {
    "safety_settings": "no other format has any; the neutral model has no place for them",
    "stored_state": "cachedContent is refused toward every other format",
    "image_detail": "mediaResolution is a hint, and dropped",
    "tool_choice": "a choice among none but Google's own tools is not said",
    "image_output": "responseModalities is written as TEXT and IMAGE",
}
"""What does not come back when a request is written to Gemini again, and why.

Besides: ids are made for calls without one (and then written); empty text without a signature is
left out; system text becomes parts of its own; neighbours of one role become one turn, results
apart; parameters and responseSchema come back as JSON Schema; a call of another model's gets a
signature that Gemini 3 does not check; VALIDATED without names is AUTO, and a choice of tools
among none but Google's own is not said.
"""


def test_requests_come_back_the_same_in_meaning() -> None:
    for record in recorded.requests():
        first = read(record)
        written, ignored = DIALECT.write_request(first, Toward(record.model, "google"))
        again = DIALECT.read_request(written, model=record.model, stream=False)
        assert not ignored, record.id
        if first.tool_choice is not None and again.tool_choice is None:
            assert all(tool.opaque for tool in first.tools), record.id
            again = msgspec.structs.replace(again, tool_choice=first.tool_choice)
        assert meaning(again) == meaning(first), record.id
        assert set(first.spelled) - set(again.spelled) <= set(LOST), record.id


def meaning(request: Request) -> Request:
    """A request without what `LOST` explains."""
    turns: list[Message] = []
    for message in request.messages:
        content = tuple(normal(block) for block in message.content if block != Text(""))
        if turns and turns[-1].role == message.role:
            turns[-1] = Message(message.role, (*turns[-1].content, *content))
        elif content:
            turns.append(Message(message.role, content))
    return msgspec.structs.replace(
        request,
        system=tuple(block for block in request.system if block != Text("")),
        messages=tuple(turns),
        unknown=(),
        spelled={},
    )


def normal(block: Block) -> Block:
    if isinstance(block, ToolCall):
        return msgspec.structs.replace(block, signature=None)
    if isinstance(block, ToolResult):
        return msgspec.structs.replace(block, content=tuple(map(normal, block.content)))
    if isinstance(block, Opaque):
        return Opaque(
            block.format, msgspec.json.encode(msgspec.json.decode(block.json)), block.kind
        )
    return block


def test_every_answer_is_read_as_its_record_says() -> None:
    tried = 0
    for record in recorded.answers():
        found = DIALECT.read_answer(record.body)
        assert found is not None, record.id
        assert found.error is None, record.id
        assert [recorded.seen(one) for one in found.choices] == recorded.expected(record), record.id
        assert [one.stop for one in found.choices] == recorded.stops(record), record.id
        assert found.usage == expected_usage(record), record.id
        tried += 1
    assert tried >= 220


def test_answers_come_back_the_same() -> None:
    for record in recorded.answers():
        first = DIALECT.read_answer(record.body)
        assert first is not None
        again = DIALECT.read_answer(DIALECT.write_answer(first, asked(record)))
        assert again is not None
        assert again.choices == first.choices, record.id
        assert again.usage == first.usage, record.id


@pytest.mark.parametrize("cuts", [whole, scattered])
def test_every_stream_is_read_as_its_record_says(cuts: Callable[[Exchange], list[int]]) -> None:
    tried = 0
    for record in recorded.streams():
        events = recorded.collect(DIALECT.reader(), cut(record.body, cuts(record)))
        error = recorded.failed(events)
        if recorded.stops(record) == ["failure"]:
            assert error is not None
            assert error.type == "UNEXPECTED_TOOL_CALL"
            continue
        assert error is None, record.id
        choices = recorded.choices_of(events)
        assert [recorded.seen(one) for one in choices] == recorded.expected(record), record.id
        assert [one.stop for one in choices] == recorded.stops(record), record.id
        assert recorded.usage_of(events) == expected_usage(record), record.id
        tried += 1
    assert tried >= 80


def test_no_cut_changes_the_events_of_a_stream() -> None:
    for record in recorded.streams():
        first = recorded.collect(DIALECT.reader(), [record.body])
        for cuts in (scattered, every_byte):
            if cuts is every_byte and len(record.body) > BYTE_BY_BYTE_BYTES_MAX:
                continue
            assert recorded.collect(DIALECT.reader(), cut(record.body, cuts(record))) == first


@pytest.mark.parametrize("array", [False, True])
def test_streams_come_back_the_same(array: bool) -> None:
    for record in recorded.streams():
        events = recorded.collect(DIALECT.reader(), [record.body])
        writer = DIALECT.writer(asked(record, array=array))
        written = b"".join(map(writer.write, events))
        again = recorded.collect(DIALECT.reader(), [written])
        if recorded.failed(events) is not None:
            assert recorded.failed(again) is not None
            continue
        assert spaced(recorded.choices_of(again)) == spaced(recorded.choices_of(events)), record.id
        assert recorded.usage_of(again) == recorded.usage_of(events), record.id


def spaced(choices: tuple[Choice, ...]) -> list[tuple[object, ...]]:
    """Choices with line ends in arguments as spaces: on one line of a stream they must be."""
    return [
        (
            [
                msgspec.structs.replace(block, arguments=re.sub("[\r\n]", " ", block.arguments))
                if isinstance(block, ToolCall)
                else block
                for block in choice.content
            ],
            choice.stop,
        )
        for choice in choices
    ]


def test_a_stream_and_the_whole_answer_of_its_chunk_say_the_same() -> None:
    for record in recorded.answers():
        body = record.body.replace(b"\r\n", b"\n")
        found = DIALECT.read_answer(body)
        assert found is not None
        framed = b"".join(b"data: %b\r\n" % line for line in body.split(b"\n")) + b"\r\n"
        events: list[Event] = recorded.collect(DIALECT.reader(), [framed])
        assert recorded.choices_of(events) == found.choices, record.id
        assert recorded.usage_of(events) == found.usage


def test_a_stream_that_was_cut_never_finishes() -> None:
    tried = 0
    for record in recorded.streams():
        if recorded.stops(record) == ["failure"]:
            continue
        first = record.body.index(b'"finishReason"')
        ends = [found.end() for found in re.finditer(rb"\}\s*", record.body[:first])]
        for end in [first, *random.Random(record.id).sample(ends, min(len(ends), 8))]:
            reader = DIALECT.reader()
            events = reader.feed(record.body[:end])
            with pytest.raises(Truncated):
                reader.eof()
            check_grammar(events)
            assert not [one for one in events if isinstance(one, (Finish, MessageEnd))]
            tried += 1
    assert tried >= 150
