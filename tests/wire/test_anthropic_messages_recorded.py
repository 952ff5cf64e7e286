"""Every recorded Messages exchange: read as recorded, and written again with the same meaning."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pydantic
import pytest
from sdk_schemas import check_request, read_answer, read_stream
from test_taps_on_recorded_traffic import expected
from wire_records import Record, cut, random_cuts, records

from gateway.wire.anthropic_messages_answers import STOPS
from gateway.wire.anthropic_messages_dialect import DIALECT
from gateway.wire.conversation import (
    Block,
    Choice,
    Citation,
    Message,
    Opaque,
    Request,
    StopReason,
    Text,
    ToolCall,
    ToolResult,
)
from gateway.wire.events import (
    BlockStart,
    Delta,
    Event,
    Finish,
    MessageEnd,
    MessageStart,
    Ping,
    check_grammar,
)
from gateway.wire.format import Asked, Toward
from gateway.wire.neutral import Metered, Usage

pytestmark = pytest.mark.recorded

QUESTION = Request(format="anthropic_messages", model="m", stream=True)
ASKED = Asked(QUESTION, "premium", "0199-ab", 1_790_000_000)
BYTE_BY_BYTE_BYTES_MAX = 64 * 1024


def requests() -> Iterator[tuple[Record, Request]]:
    for record in records():
        if record.endpoint in ("anthropic.messages", "anthropic.count_tokens"):
            body = bytes(record.request_body)
            if body.startswith(b"{"):
                yield record, DIALECT.read_request(body, model=None, stream=None)


def answers() -> Iterator[Record]:
    return (
        one for one in records()
        if one.endpoint == "anthropic.messages" and one.status == 200 and not one.streamed
    )  # fmt: skip


def streams() -> Iterator[Record]:
    return (
        one for one in records()
        if one.endpoint == "anthropic.messages" and one.status == 200 and one.streamed
    )  # fmt: skip


# --- requests ---------------------------------------------------------------------------------


def test_every_request_reads_with_all_its_text_and_calls() -> None:
    tried = 0
    for record, found in requests():
        document = msgspec.json.decode(record.request_body)
        turns = [("system", document.get("system") or "")]
        turns += [(one["role"], one["content"]) for one in document["messages"]]
        said = [said_of(content) for _, content in turns]
        heard = [
            text_of(content)
            for content in [found.system, *(message.content for message in found.messages)]
        ]
        assert heard == said, record.id
        assert len(found.tools) == len(document.get("tools") or ()), record.id
        assert found.model == document.get("model", "")  # other hosts have it in the path
        tried += 1
    assert tried >= 300


def said_of(content: Any) -> list[str]:
    """What a message says: its texts, calls and results, and the types of all else."""
    if isinstance(content, str):
        return [content] if content else []
    out = []
    for block in content:
        match block["type"]:
            case "text":
                out.append(block["text"])
            case "tool_use":
                out += [block["id"], block["name"], *map(str, flat(block["input"]))]
            case "tool_result":
                out += [block["tool_use_id"], *said_of(block.get("content") or "")]
            case "thinking" | "redacted_thinking" | "image" | "document":
                pass
            case kind:
                out.append(kind)
    return out


def text_of(blocks: tuple[Block, ...]) -> list[str]:
    out: list[str] = []
    for block in blocks:
        match block:
            case Text(text=text):
                out.append(text)
            case ToolCall():
                arguments = msgspec.json.decode(block.arguments)
                out += [block.id, block.name, *map(str, flat(arguments))]
            case Opaque(kind=kind) if kind not in ("image", "document"):
                out.append(kind)
            case ToolResult(call_id=call_id, content=content):
                out += [call_id, *text_of(content)]
            case _:
                pass
    return out


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in [key, *flat(inner)]]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in flat(inner)]
    return [value]


DIFFERENT: dict[str, str] = {
    "temperature": "1 is the default, and left out as thinking goes with no other",
    "max_output_tokens": "must be sent: the default where the request was to be counted",
    "reasoning": "an effort alone makes other models think, so it is sent with adaptive thinking; "
    "not thinking is the default of the older ones; 4.6 knows no effort above high but max",
    "messages": "neighbours are merged; citations are left out and told, as they need an index of "
    "the provider's",
    "tools": "an empty description is none",
    "spelled": "field names follow from the differences above",
    "unknown": "fields that only this format knows are told, not sent",
}
"""What a request may differ in once it was read, written and read again, with the reason."""


def test_requests_written_again_mean_the_same() -> None:
    seen: set[str] = set()
    for record, found in requests():
        body, ignored = DIALECT.write_request(found, Toward(found.model, "anthropic"))
        again = DIALECT.read_request(body, model=None, stream=None)
        for name in Request.__struct_fields__:
            before, after = getattr(found, name), getattr(again, name)
            if before != after:
                seen.add(name)
                assert name in DIFFERENT, (record.id, name, before, after)
                check_difference(name, before, after)
        assert set(ignored) <= {"citations", "cache_control"}, record.id
    assert seen == set(DIFFERENT)


def check_difference(name: str, before: Any, after: Any) -> None:
    match name:
        case "temperature":
            assert (before, after) == (1, None)
        case "max_output_tokens":
            assert before is None
        case "messages":
            assert merged(before) == merged(after)
        case "tools":
            described = [one.description or None for one in before]
            assert described == [one.description for one in after]
        case "unknown":
            assert after == ()
        case _:
            pass


def merged(messages: tuple[Message, ...]) -> list[tuple[str, list[Block]]]:
    out: list[tuple[str, list[Block]]] = []
    for message in messages:
        if not out or out[-1][0] != message.role:
            out.append((message.role, []))
        out[-1][1].extend(one for one in message.content if not isinstance(one, Citation))
    return out


def test_requests_written_again_are_such_as_the_sdk_sends() -> None:
    """But for those that hold what its types do not know even as they were recorded."""
    tried = 0
    for record, found in requests():
        if record.endpoint != "anthropic.messages":
            continue
        sent = msgspec.json.decode(record.request_body)
        for name in found.unknown:
            sent.pop(name, None)
        try:
            check_request("anthropic_messages", msgspec.json.encode(sent))
        except pydantic.ValidationError:
            continue
        body, _ = DIALECT.write_request(found, Toward(found.model, "anthropic"))
        check_request("anthropic_messages", body)
        tried += 1
    assert tried >= 240


# --- answers and streams ----------------------------------------------------------------------


def check_content(record: Record, content: tuple[Block, ...], choice: Choice | Finish) -> None:
    assert record.expected_content is not None
    (wanted,) = record.expected_content["choices"]
    texts = "".join(one.text for one in content if isinstance(one, Text))
    assert texts == wanted["text"], record.id
    calls = [one for one in content if isinstance(one, ToolCall)]
    assert [(one.id, one.name) for one in calls] == [
        (one["id"], one["name"]) for one in wanted["tool_calls"]
    ], record.id
    for call, one in zip(calls, wanted["tool_calls"], strict=True):
        if isinstance(one["arguments"], str):
            assert call.arguments == one["arguments"], record.id
        else:
            assert msgspec.json.decode(call.arguments or "{}") == one["arguments"], record.id
    assert choice.stop == stop_of(wanted["stop"], bool(calls)), record.id


def stop_of(word: str, calls: bool) -> StopReason:
    stop = STOPS[word]
    return "tool_call" if calls and stop == "end" else stop


def test_every_answer_reads_as_it_was_given() -> None:
    tried = 0
    for record in answers():
        found = DIALECT.read_answer(record.body)
        assert found is not None, record.id
        assert found.usage == expected(record), record.id
        (choice,) = found.choices
        check_content(record, choice.content, choice)
        tried += 1
    assert tried >= 215


def test_answers_written_again_mean_the_same_and_are_read_by_the_sdk() -> None:
    for record in answers():
        found = DIALECT.read_answer(record.body)
        assert found is not None
        body = DIALECT.write_answer(found, ASKED)
        again = DIALECT.read_answer(body)
        assert again is not None
        assert counted(again.usage) == counted(found.usage), record.id
        assert plain(again.choices[0].content) == plain(found.choices[0].content), record.id
        assert again.choices[0].stop == found.choices[0].stop
        assert again.choices[0].stop_sequence == found.choices[0].stop_sequence
        try:
            read_answer("anthropic_messages", record.body)
        except pydantic.ValidationError:
            continue  # kinds of blocks that the types have only under `beta`
        read_answer("anthropic_messages", body)


def plain(content: tuple[Block, ...]) -> list[Any]:
    """A whole answer's blocks less what is not kept: citations without an address, spacing."""
    out: list[Any] = []
    for block in content:
        if isinstance(block, Opaque):
            out.append(msgspec.json.decode(block.json))
        elif not (isinstance(block, Citation) and block.url is None) and block != Text(""):
            out.append(block)
    return out


def counted(usage: Usage | None) -> Any:
    """Usage less what is not told again: passes billed besides, and which counts were absent."""
    if usage is None:
        return None
    return {
        name: getattr(usage, name) or 0
        for name in Usage.__struct_fields__
        if name != "billed_besides"
    }


def run(pieces: Iterator[bytes]) -> tuple[list[Event], Metered]:
    reader = DIALECT.reader()
    found = [event for piece in pieces for event in reader.feed(piece)]
    found += reader.eof()
    return found, reader.metered()


def content_of(found: list[Event]) -> tuple[Block, ...]:
    """The blocks of a stream, whole."""
    blocks: dict[int, Block] = {}
    for event in found:
        if isinstance(event, BlockStart):
            blocks[event.index] = event.block
        elif isinstance(event, Delta):
            block = blocks[event.index]
            if isinstance(block, ToolCall):
                block = msgspec.structs.replace(block, arguments=block.arguments + event.text)
            elif isinstance(block, Text):
                block = msgspec.structs.replace(block, text=block.text + event.text)
            blocks[event.index] = block
    return tuple(blocks.values())


def test_every_stream_reads_as_it_was_given_however_it_was_cut() -> None:
    tried = 0
    for record in streams():
        found, metered = run(iter([record.body]))
        check_grammar(found)
        assert metered.usage == expected(record), record.id
        assert metered.complete
        *_, finish, end = found
        assert isinstance(finish, Finish)
        assert isinstance(end, MessageEnd)
        assert end.usage == metered.usage
        check_content(record, content_of(found), finish)
        assert run(cut(record.body, random_cuts(record.body, record.id))) == (found, metered)
        if len(record.body) <= BYTE_BY_BYTE_BYTES_MAX:
            assert run(cut(record.body, list(range(1, len(record.body))))) == (found, metered)
        tried += 1
    assert tried >= 105


def test_streams_written_again_mean_the_same_and_are_read_by_the_sdk() -> None:
    for record in streams():
        found, _ = run(iter([record.body]))
        writer = DIALECT.writer(ASKED)
        body = b"".join(map(writer.write, found))
        again, _ = run(iter([body]))
        assert heard(again) == heard(found), record.id
        if "item_fallback" not in record.tags:  # a kind of block only under `beta`
            seen = read_stream("anthropic_messages", body)
            assert seen.model == "premium"


def heard(found: list[Event]) -> list[Any]:
    """The events of a stream less what is not kept: see `plain` and `counted`; and empty text."""
    dropped = {
        event.index
        for event in found
        if isinstance(event, BlockStart)
        and isinstance(event.block, Citation)
        and event.block.url is None
    }
    texts = {event.index for event in found if isinstance(event, Delta)}
    dropped |= {
        event.index
        for event in found
        if isinstance(event, BlockStart)
        and isinstance(event.block, Text)
        and event.index not in texts
    }
    out: list[Any] = []
    numbers: dict[int, int] = {}
    for event in found:
        if isinstance(event, Ping | MessageStart) or getattr(event, "index", None) in dropped:
            continue
        if isinstance(event, MessageEnd):
            out.append(counted(event.usage))
        elif isinstance(event, Finish):
            out.append(event)
        else:
            number = numbers.setdefault(event.index, len(numbers))  # type: ignore[union-attr]
            out.append(msgspec.structs.replace(event, index=number))
    return out


def test_every_error_is_read() -> None:
    tried = 0
    for record in records():
        if record.endpoint == "anthropic.messages" and record.status >= 400:
            found = DIALECT.read_error(record.status, record.body)
            told = msgspec.json.decode(record.body)["error"]
            assert (found.message, found.type) == (told["message"], told["type"])
            too_long = "prompt is too long" in found.message
            assert found.code == ("context_length_exceeded" if too_long else None)
            tried += 1
    assert tried >= 9
