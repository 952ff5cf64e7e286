"""Anthropic Messages streams, read however they were cut and written block after block."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anthropic.types as an
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk_schemas import SeenCall, events, read_stream
from wire_records import cut

from gateway.wire.anthropic_messages_dialect import DIALECT
from gateway.wire.anthropic_messages_streams import EVENT_BYTES_MAX
from gateway.wire.conversation import (
    Block,
    Citation,
    Opaque,
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
    BlockStop,
    Delta,
    Event,
    Finish,
    MessageEnd,
    MessageStart,
    Ping,
    StreamError,
    Truncated,
    check_grammar,
)
from gateway.wire.format import Asked
from gateway.wire.neutral import Metered, Usage

VECTORS = Path(__file__).parent.parent / "vectors/anthropic_messages"
OURS = "anthropic_messages"
BLOCKS = (VECTORS / "blocks.sse").read_bytes()
ASKED = Asked(Request(format=OURS, model="m", stream=True), "premium", "0199-ab", 1_790_000_000)
USAGE = Usage(input_tokens=9, output_tokens=4, cache_read_input_tokens=2, reasoning_tokens=1)


def run(pieces: Iterable[bytes]) -> tuple[list[Event], Metered]:
    """The events of a stream; the last is a Truncated's stand-in where it had no end."""
    reader = DIALECT.reader()
    found = [event for piece in pieces for event in reader.feed(piece)]
    found += reader.eof()
    check_grammar(found)
    return found, reader.metered()


def sse_of(*documents: Any) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (one["type"].encode(), msgspec.json.encode(one))
        for one in documents
    )


START = sse_of({"type": "message_start", "message": {"id": "msg_1", "model": "m"}})
END = sse_of(
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    {"type": "message_stop"},
)


# --- reading ----------------------------------------------------------------------------------

SERVER = (
    b'{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{"query": "rust"}}'
)


def test_every_kind_of_block_becomes_the_neutral_one() -> None:
    found, metered = run([BLOCKS])
    usage = Usage(
        input_tokens=30, output_tokens=44, cache_read_input_tokens=7,
        cache_creation_input_tokens=3, cache_write_5m=1, cache_write_1h=2, reasoning_tokens=5,
    )  # fmt: skip
    early = msgspec.structs.replace(usage, output_tokens=1, reasoning_tokens=None)
    hidden = Thinking("", Signature(OURS, "Emw"), redacted=True)
    assert found == [
        MessageStart("msg_7", "m-4", early),
        BlockStart(0, Thinking("")),
        Ping(),
        Delta(0, "Hm, naïve."),
        Delta(0, "c2ln", "signature", OURS),
        BlockStop(0),
        BlockStart(1, hidden),
        BlockStop(1),
        BlockStart(2, Opaque(OURS, SERVER, "server_tool_use")),
        BlockStop(2),
        BlockStart(3, Text("")),
        BlockStart(4, Citation("https://example.com/r", "R", "Rust is")),
        BlockStop(4),
        Delta(3, "日本 😀"),
        BlockStop(3),
        BlockStart(5, ToolCall("toolu_9", "echo", "")),
        Delta(5, '{"n": 1.0', "arguments"),
        Delta(5, "e5}", "arguments"),
        BlockStop(5),
        BlockStart(6, ToolCall("toolu_10", "whole", "")),
        Delta(6, '{"b":2,"a":1}', "arguments"),
        BlockStop(6),
        Finish("tool_call"),
        MessageEnd(usage),
    ]
    assert metered.usage == usage
    assert (metered.complete, metered.response_id, metered.response_model) == (True, "msg_7", "m-4")
    assert metered.text_bytes > 20


def test_no_cut_changes_what_is_read() -> None:
    whole = run([BLOCKS])
    assert run(BLOCKS[at : at + 1] for at in range(len(BLOCKS))) == whole
    for at in range(len(BLOCKS)):
        assert run([BLOCKS[:at], BLOCKS[at:]]) == whole


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_line_ends_of_all_kinds_are_read(end: bytes) -> None:
    body = BLOCKS.replace(b"\n", end)
    assert run([body]) == run([BLOCKS])
    assert run(body[at : at + 1] for at in range(len(body))) == run([BLOCKS])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6), st.booleans())
def test_no_bytes_make_a_reader_raise_anything_but_truncated(
    pieces: list[bytes], started: bool
) -> None:
    reader = DIALECT.reader()
    found = reader.feed(START) if started else []
    for piece in pieces:
        found += reader.feed(b"event: content_block_delta\ndata: " + piece + b"\n\n")
        found += reader.feed(piece)
    try:
        found += reader.eof()
    except Truncated:
        found.append(StreamError("cut"))
    check_grammar(found)
    assert isinstance(found[-1], StreamError)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_shape_of_an_event_breaks_the_grammar(data: st.DataObject) -> None:
    kinds = st.sampled_from(
        ["content_block_start", "content_block_delta", "content_block_stop", "message_delta",
         "message_start", "ping", "other"]
    )  # fmt: skip
    block = st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "tool_use", "thinking", "server_tool_use", "new"])},
        optional={"text": st.text(max_size=3), "id": st.just("a"), "name": st.just("f"),
                  "input": st.none() | st.just({}) | st.just({"a": 1})},
    )  # fmt: skip
    delta = st.fixed_dictionaries(
        {"type": st.sampled_from(["text_delta", "input_json_delta", "signature_delta", "new",
                                  "citations_delta", "thinking_delta"])},
        optional={"text": st.text(max_size=3), "partial_json": st.text(max_size=3),
                  "signature": st.text(max_size=3), "citation": st.just({"url": "u"})},
    )  # fmt: skip
    event = st.fixed_dictionaries(
        {"type": kinds, "index": st.integers(0, 2)},
        optional={"content_block": block, "delta": delta, "message": st.just({})},
    )
    body = START + sse_of(*data.draw(st.lists(event, max_size=12))) + END
    whole = run([body])
    assert isinstance(whole[0][-1], MessageEnd)
    offsets = data.draw(st.lists(st.integers(0, len(body)), max_size=5))
    assert run(cut(body, offsets)) == whole


@pytest.mark.parametrize("at", range(0, len(BLOCKS) - 60, 37))
def test_a_stream_that_was_cut_has_no_end(at: int) -> None:
    reader = DIALECT.reader()
    found = reader.feed(BLOCKS[:at])
    with pytest.raises(Truncated):
        reader.eof()
    check_grammar(found)
    assert not any(isinstance(event, Finish | MessageEnd) for event in found)
    assert not reader.metered().complete


@pytest.mark.parametrize("missing", [1, 2])
def test_a_last_event_may_lack_its_blank_line(missing: int) -> None:
    assert run([BLOCKS.rstrip(b"\n") + b"\n" * (2 - missing)]) == run([BLOCKS])


def test_a_call_that_was_cut_ends_with_its_reason_and_not_with_an_invented_end() -> None:
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    body = START + sse_of(
        {"type": "content_block_start", "index": 0, "content_block": call},
        {"type": "content_block_delta", "index": 0,
         "delta": {"type": "input_json_delta", "partial_json": '{"x": "cu'}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {}},
        {"type": "message_stop"},
    )  # fmt: skip
    found, _ = run([body])
    assert found[1:] == [
        BlockStart(0, ToolCall("a", "f", "")),
        Delta(0, '{"x": "cu', "arguments"),
        BlockStop(0),
        Finish("max_tokens"),
        MessageEnd(None),
    ]


ERROR = sse_of({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


@pytest.mark.parametrize(
    "before", [b"", START, START + BLOCKS[len(START) : 900].rpartition(b"\n\n")[0]]
)
def test_an_error_in_a_stream_is_one_and_nothing_comes_after(before: bytes) -> None:
    reader = DIALECT.reader()
    found = [*reader.feed(before + b"\n\n" + ERROR + END), *reader.feed(END), *reader.eof()]
    check_grammar(found)
    assert found[-1] == StreamError("Overloaded", "overloaded_error")
    fault = reader.metered().fault
    assert fault is not None
    assert fault.type == "overloaded_error"
    assert not reader.metered().complete


@pytest.mark.parametrize(
    "body",
    [
        b'event: content_block_start\ndata: {"type":"content_block_start"\n\n',
        sse_of({"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}),
        START + b"event: content_block_delta\ndata: {cut\n\n",
        START + sse_of({"type": "message_stop"}),
        b'{"type":"error","error":{"type":"api_error","message":"no stream"}}',
    ],
)
def test_what_is_no_stream_is_an_error(body: bytes) -> None:
    found, metered = run([body])
    assert isinstance(found[-1], StreamError)
    assert metered.fault is not None


def test_an_event_without_an_end_does_not_grow_for_ever() -> None:
    reader = DIALECT.reader()
    piece = b"data: " + b"x" * (1 << 22)
    found = [
        event for _ in range(EVENT_BYTES_MAX // len(piece) + 2) for event in reader.feed(piece)
    ]
    assert [type(event) for event in found] == [StreamError]
    assert reader.feed(END) == []


def test_comments_and_pings_say_that_the_upstream_is_alive() -> None:
    found, _ = run([b": waiting\n\n" + START + b": still\n\n" + sse_of({"type": "ping"}) + END])
    assert [type(event) for event in found] == [
        Ping, MessageStart, Ping, Ping, Finish, MessageEnd,
    ]  # fmt: skip


def test_what_deltas_bring_to_a_block_of_another_kind_is_in_it() -> None:
    body = START + sse_of(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "compaction"}},
        {"type": "content_block_delta", "index": 0,
         "delta": {"type": "compaction_delta", "content": "so far"}},
        {"type": "content_block_stop", "index": 0},
    ) + END  # fmt: skip
    found, _ = run([body])
    block = found[1]
    assert isinstance(block, BlockStart)
    assert block.block == Opaque(OURS, b'{"type":"compaction","content":"so far"}', "compaction")


# --- writing ----------------------------------------------------------------------------------


def write(*given: Event) -> bytes:
    check_grammar(given)
    writer = DIALECT.writer(ASKED)
    return b"".join(map(writer.write, given))


def framed(*blocks: Event, stop: StopReason = "end", sequence: str | None = None) -> list[Event]:
    start = MessageStart("x", "y", None)
    return [start, *blocks, Finish(stop, sequence), MessageEnd(USAGE)]


def documents(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream in this format's grammar: blocks in order, never two at once."""
    found = [msgspec.json.decode(data) for _, data in events(body)]
    open_block, count = None, 0
    for one in found:
        if one["type"] == "content_block_start":
            assert open_block is None
            assert one["index"] == count
            open_block, count = count, count + 1
        elif one["type"] in ("content_block_delta", "content_block_stop"):
            assert one["index"] == open_block
            if one["type"] == "content_block_stop":
                open_block = None
        elif one["type"] in ("message_delta", "message_stop"):
            assert open_block is None
    return found


def kinds(body: bytes) -> list[str]:
    return [one["type"].removeprefix("content_block_") for one in documents(body)]


def without_pings(found: list[Event]) -> list[Event]:
    return [event for event in found if not isinstance(event, Ping)]


def test_what_was_read_is_written_again() -> None:
    found, _ = run([BLOCKS])
    body = write(*found)
    documents(body)
    again, _ = run([body])
    # Ids and the model are the gateway's.
    start, first = again[0], found[0]
    assert isinstance(start, MessageStart)
    assert isinstance(first, MessageStart)
    assert (start.id, start.model, start.usage) == ("msg_0199ab", "premium", first.usage)
    assert without_pings(again)[1:] == without_pings(found)[1:]
    assert again.count(Ping()) == found.count(Ping())


def test_the_first_bytes_go_out_with_the_first_event_and_each_delta_as_it_comes() -> None:
    writer = DIALECT.writer(ASKED)
    start = writer.write(MessageStart(None, None))
    assert b'"input_tokens":0' in start
    assert writer.write(BlockStart(0, Text(""))) == b""
    assert b'"text":"a"' in writer.write(Delta(0, "a"))
    assert writer.write(Ping()) == b'event: ping\ndata: {"type": "ping"}\n\n'
    assert b'"text":"b\\n"' in writer.write(Delta(0, "b\n"))
    writer.write(BlockStop(0))
    assert b'"tool_use"' in writer.write(BlockStart(1, ToolCall("c", "f", "")))
    assert b'"partial_json":"{\\"a"' in writer.write(Delta(1, '{"a', "arguments"))


def test_the_end_tells_usage_for_good() -> None:
    body = write(
        *framed(BlockStart(0, Text("Hi")), BlockStop(0), stop="stop_sequence", sequence="Z")
    )
    *_, delta, stop = documents(body)
    assert delta == {
        "type": "message_delta",
        "delta": {"stop_reason": "stop_sequence", "stop_sequence": "Z"},
        "usage": {
            "input_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2,
            "output_tokens": 4, "output_tokens_details": {"thinking_tokens": 1},
        },
    }  # fmt: skip
    assert stop == {"type": "message_stop"}
    seen = read_stream(OURS, body)
    assert (seen.choices[0].text, seen.choices[0].stop) == ("Hi", "stop_sequence")


def test_blocks_that_overlap_are_written_one_after_the_other() -> None:
    body = write(*framed(
        BlockStart(0, ToolCall("a", "f", "")),
        Delta(0, '{"x"', "arguments"),
        BlockStart(1, ToolCall("b", "g", "")),
        Delta(1, '{"y":', "arguments"),
        BlockStart(2, Text("")),
        Delta(0, ":1}", "arguments"),
        Delta(2, "late"),
        BlockStop(2),
        Delta(1, "2}", "arguments"),
        BlockStop(0),
        BlockStop(1),
        stop="tool_call",
    ))  # fmt: skip
    assert kinds(body) == [
        "message_start", "start", "delta", "delta", "stop", "start", "delta", "delta", "stop",
        "start", "delta", "stop", "message_delta", "message_stop",
    ]  # fmt: skip
    seen = read_stream(OURS, body).choices[0]
    assert seen.calls == (SeenCall("a", "f", {"x": 1}), SeenCall("b", "g", {"y": 2}))
    assert (seen.text, seen.stop) == ("late", "tool_use")


def test_the_live_call_is_not_held_up_by_those_that_wait() -> None:
    writer = DIALECT.writer(ASKED)
    for event in (MessageStart(None, None), BlockStart(0, ToolCall("a", "f", ""))):
        writer.write(event)
    assert writer.write(BlockStart(1, ToolCall("b", "g", ""))) == b""
    assert writer.write(Delta(1, "{}", "arguments")) == b""
    assert b"partial_json" in writer.write(Delta(0, "{}", "arguments"))
    assert writer.write(BlockStop(0)).count(b"event: ") == 3


def test_a_call_without_arguments_has_no_deltas_and_reads_as_an_empty_object() -> None:
    body = write(*framed(BlockStart(0, ToolCall("a", "f", "")), BlockStop(0), stop="tool_call"))
    assert "delta" not in kinds(body)
    assert read_stream(OURS, body).choices[0].calls == (SeenCall("a", "f", {}),)


@pytest.mark.parametrize("arguments", ['{"a": "cu', "[]", '{"a":1}}'])
def test_a_call_whose_arguments_are_no_object_ends_for_want_of_tokens(arguments: str) -> None:
    call = (BlockStart(0, ToolCall("a", "f", "")), Delta(0, arguments, "arguments"), BlockStop(0))
    assert (
        documents(write(*framed(*call, stop="tool_call")))[-2]["delta"]["stop_reason"]
        == "max_tokens"
    )


def test_a_call_in_plain_text_is_not_given() -> None:
    call = (
        BlockStart(0, ToolCall("a", "f", "", custom=True)), Delta(0, "plain", "arguments"),
        BlockStop(0),
    )  # fmt: skip
    body = write(*framed(*call, stop="tool_call"))
    assert kinds(body) == ["message_start", "message_delta", "message_stop"]
    assert read_stream(OURS, body).choices[0].stop == "max_tokens"


def test_empty_blocks_are_not_begun() -> None:
    body = write(*framed(
        BlockStart(0, Text("")), BlockStop(0), BlockStart(1, Thinking("")), BlockStop(1),
        BlockStart(2, Refusal("")), BlockStop(2), BlockStart(3, Text("")), Delta(3, ""),
        BlockStop(3),
    ))  # fmt: skip
    assert kinds(body) == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize("early", [True, False])
def test_a_signature_comes_last_in_its_block_and_a_foreign_one_is_sealed(early: bool) -> None:
    signature = Delta(0, "s.1", "signature", "gemini")
    thoughts = [signature, Delta(0, "why")] if early else [Delta(0, "why"), signature]
    body = write(*framed(BlockStart(0, Thinking("")), *thoughts, BlockStop(0)))
    deltas = [one["delta"]["type"] for one in documents(body) if "index" in one and "delta" in one]
    assert deltas == ["thinking_delta", "signature_delta"]
    again, _ = run([body])
    assert Delta(0, "s.1", "signature", "gemini") in again


def test_thoughts_that_are_not_shown_have_a_block_for_their_signature() -> None:
    start = BlockStart(0, Thinking("", Signature(OURS, "c2ln")))
    body = write(*framed(start, BlockStop(0)))
    assert kinds(body)[1:4] == ["start", "delta", "stop"]
    assert documents(body)[2]["delta"] == {"type": "signature_delta", "signature": "c2ln"}


@pytest.mark.parametrize("late", [True, False])
def test_a_calls_foreign_signature_goes_beside_it_and_comes_back(late: bool) -> None:
    signature = Signature("gemini", "Ci+/=")
    call = ToolCall("a", "f", "", signature=None if late else signature)
    more = [Delta(0, signature.value, "signature", "gemini")] if late else []
    body = write(*framed(
        BlockStart(0, call), Delta(0, "{}", "arguments"), *more, BlockStop(0), stop="tool_call"
    ))  # fmt: skip
    documents(body)
    content = [
        one["content_block"] for one in documents(body) if one["type"] == "content_block_start"
    ]
    turn = {"role": "assistant", "content": content}
    again = DIALECT.read_request(
        msgspec.json.encode({"model": "m", "messages": [turn]}), model=None, stream=None
    )
    assert again.messages[0].content == (ToolCall("a", "f", "{}", signature=signature),)


def test_citations_are_told_inside_the_text_that_they_are_of() -> None:
    link = Citation("https://example.com", "T", "q")
    body = write(*framed(
        BlockStart(0, Text("")), Delta(0, "abc"), BlockStop(0),
        BlockStart(1, link), BlockStop(1), BlockStart(2, Citation(title="none")), BlockStop(2),
        BlockStart(3, Text("")), BlockStart(4, link), BlockStop(4), Delta(3, "d"), BlockStop(3),
        BlockStart(5, Thinking("")), BlockStart(6, link), BlockStop(6), Delta(5, "t"),
        BlockStop(5),
    ))  # fmt: skip
    assert kinds(body) == [
        "message_start", "start", "delta", "delta", "stop", "start", "delta", "delta", "delta",
        "stop", "start", "delta", "stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert read_stream(OURS, body).choices[0].text == "abcd"


def test_a_refusal_is_text_and_its_reason() -> None:
    body = write(*framed(BlockStart(0, Refusal("")), Delta(0, "No."), BlockStop(0)))
    seen = read_stream(OURS, body).choices[0]
    assert (seen.text, seen.stop) == ("No.", "refusal")


def test_of_several_choices_the_first_is_written() -> None:
    body = write(
        MessageStart(None, None), BlockStart(0, Text("")), BlockStart(1, Text(""), 1),
        Delta(1, "other"), Delta(0, "first"), BlockStop(0), BlockStop(1), Finish("end"),
        Finish("max_tokens", choice=1), MessageEnd(None),
    )  # fmt: skip
    seen = read_stream(OURS, body).choices[0]
    assert (seen.text, seen.stop) == ("first", "end_turn")


@pytest.mark.parametrize(
    ("kind", "told"),
    [("overloaded_error", "overloaded_error"), (None, "api_error"), ("server_error", "api_error")],
)
def test_an_error_is_this_formats_event_and_nothing_comes_after(
    kind: str | None, told: str
) -> None:
    writer = DIALECT.writer(ASKED)
    writer.write(MessageStart(None, None))
    writer.write(BlockStart(0, ToolCall("a", "f", "")))
    error = writer.write(StreamError("went\nwrong", kind))
    (one,) = [(name, msgspec.json.decode(data)) for name, data in events(error)]
    assert one == (
        "error", {"type": "error", "error": {"type": told, "message": "went\nwrong"}},
    )  # fmt: skip
    assert writer.write(MessageEnd(None)) == b""
    assert writer.write(Ping()) == b""


def test_nothing_comes_after_the_end() -> None:
    writer = DIALECT.writer(ASKED)
    for event in framed(BlockStart(0, Text("x")), BlockStop(0)):
        last = writer.write(event)
    assert last.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert writer.write(MessageEnd(None)) == b""
    assert writer.write(StreamError("late")) == b""


EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(an.RawMessageStreamEvent)
BLOCK: st.SearchStrategy[Block] = st.sampled_from(
    [Text(""), Thinking(""), ToolCall("a.b", "f", ""), Refusal(""), Text("begun"),
     ToolCall("c", "g", '{"a"'), Thinking("", Signature("gemini", "s")),
     ToolCall("d", "h", "", signature=Signature("gemini", "s")),
     Thinking("", Signature("openai_responses", "e"), redacted=True), Citation("https://e.com"),
     Opaque(OURS, b'{"type":"redacted_thinking",\n"data":"x"}', "new"), Opaque("gemini", b"{}")]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_the_order_of_blocks_the_sdk_takes_every_event(data: st.DataObject) -> None:
    given: list[Event] = [MessageStart("x", "y", USAGE)]
    open_blocks: dict[int, Block] = {}
    count = 0
    for step in data.draw(st.lists(st.integers(0, 2), max_size=20)):
        if step == 0 or not open_blocks:
            block = data.draw(BLOCK)
            given.append(BlockStart(count, block))
            open_blocks[count] = block
            count += 1
            continue
        index = data.draw(st.sampled_from(sorted(open_blocks)))
        if step == 1:
            del open_blocks[index]
            given.append(BlockStop(index))
        elif isinstance(open_blocks[index], ToolCall):
            given.append(Delta(index, data.draw(st.sampled_from(["{", "}", ""])), "arguments"))
        elif not isinstance(open_blocks[index], Opaque | Citation):
            given.append(Delta(index, data.draw(st.text(max_size=3))))
    given += [BlockStop(index) for index in open_blocks]
    body = write(*given, Finish("end"), MessageEnd(USAGE))
    for one in documents(body):
        if one["type"] != "ping":
            EVENT.validate_python(one)
    said = "".join(
        event.text for event in given
        if isinstance(event, Delta) and event.kind == "text"
        and any(isinstance(one, BlockStart) and one.index == event.index
                and isinstance(one.block, Text | Refusal) for one in given)
    )  # fmt: skip
    again, _ = run([body])
    texts = {
        one.index for one in again if isinstance(one, BlockStart) and isinstance(one.block, Text)
    }
    written = [one.text for one in again if isinstance(one, Delta) and one.index in texts]
    assert sorted("".join(written).replace("begun", "")) == sorted(said.replace("begun", ""))
