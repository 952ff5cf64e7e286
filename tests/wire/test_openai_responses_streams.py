"""Streams of Responses, event by event: as they are read, and as they are written."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from responses_cases import asked_of, joined, read_stream, request_of, write_stream
from sdk_schemas import events as sse_events
from sdk_schemas import read_stream as stream_by_sdk
from wire_records import cut

from gateway.wire.conversation import (
    Answer,
    Block,
    Choice,
    Citation,
    Image,
    Opaque,
    Refusal,
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
from gateway.wire.neutral import Usage
from gateway.wire.openai_responses_dialect import DIALECT
from gateway.wire.tap import TAP_EVENT_BYTES_MAX
from gateway.wire.translate import events_of

USAGE = Usage(input_tokens=10, output_tokens=8)
GEMINI = Signature("gemini", "CiQB")
CLAUDE = Signature("anthropic_messages", "EqQB")


def event(kind: str, **members: Any) -> bytes:
    """One event of a stream as a provider sends it."""
    data = msgspec.json.encode({"type": kind, **members})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


CREATED = event("response.created", response={"id": "resp_1", "model": "m-2", "created_at": 7.0})
COMPLETED = event("response.completed", response={
    "id": "resp_1", "status": "completed", "output": [],
    "usage": {"input_tokens": 10, "output_tokens": 8},
})  # fmt: skip


def streamed(*events: bytes, end: bytes = COMPLETED) -> Choice:
    choice, usage = joined(read_stream(CREATED, *events, end))
    assert usage == USAGE
    return choice


def told(events: Iterable[Event], request: Any = None) -> list[dict[str, Any]]:
    """The events that are written, each named and numbered as it must be; comments left out."""
    found: list[dict[str, Any]] = []
    for named, data in sse_events(write_stream(events, asked_of(request))):
        document = msgspec.json.decode(data)
        assert named == document["type"]
        assert document.pop("sequence_number") == len(found)
        found.append(document)
    return found


def kinds(events: Iterable[Event]) -> list[str]:
    return [one["type"].removeprefix("response.") for one in told(events)]


def whole(*inner: Event, stop: StopReason = "end") -> list[Event]:
    events = [MessageStart("x", "y"), *inner, Finish(stop), MessageEnd(USAGE)]
    check_grammar(events)
    return events


# -- read --------------------------------------------------------------------------------------


def test_the_opening_tells_who_answers() -> None:
    (start,) = DIALECT.reader().feed(CREATED)
    assert start == MessageStart("resp_1", "m-2", None, 7)


def test_each_delta_comes_out_as_it_comes_in() -> None:
    reader = DIALECT.reader()
    reader.feed(CREATED)
    delta = event("response.output_text.delta", output_index=0, content_index=0, delta="Hi")
    assert reader.feed(delta) == [BlockStart(0, Text("")), Delta(0, "Hi")]
    assert reader.feed(delta) == [Delta(0, "Hi")]
    assert reader.metered().text_bytes == 4


def test_calls_may_overlap() -> None:
    calls = [
        event("response.output_item.added", output_index=at,
              item={"type": "function_call", "call_id": f"c{at}", "name": "f", "arguments": ""})
        for at in (0, 1)
    ]  # fmt: skip
    more = [
        event("response.function_call_arguments.delta", output_index=at, delta=text)
        for at, text in ((0, '{"a"'), (1, "{"), (0, ":1}"), (1, "}"))
    ]
    choice = streamed(*calls, *more)
    assert choice == Choice(
        (ToolCall("c0", "f", '{"a":1}'), ToolCall("c1", "f", "{}")), "tool_call"
    )


@pytest.mark.parametrize("at_once", ["added", "arguments.done", "item.done"])
def test_a_call_may_come_at_once(at_once: str) -> None:
    empty = {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}
    full = {**empty, "arguments": "{}"}
    events = {
        "added": [event("response.output_item.added", output_index=0, item=full)],
        "arguments.done": [
            event("response.output_item.added", output_index=0, item=empty),
            event("response.function_call_arguments.done", output_index=0, arguments="{}"),
        ],
        "item.done": [],
    }[at_once]
    done = event("response.output_item.done", output_index=0, item=full)
    assert streamed(*events, done).content == (ToolCall("c", "f", "{}"),)


def test_a_text_that_only_its_end_tells_is_read() -> None:
    place = {"output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "Hello", "annotations": []}
    choice = streamed(
        event("response.content_part.added", **place, part={"type": "output_text", "text": ""}),
        event("response.output_text.delta", **place, delta="He"),
        event("response.output_text.done", **place, text="Hello"),
        event("response.content_part.done", **place, part=part),
    )
    assert choice == Choice((Text("Hello"),), "end")


def test_a_response_without_events_of_its_own_is_read_from_its_end() -> None:
    item = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    end = event("response.completed", response={
        "status": "completed", "output": [item],
        "usage": {"input_tokens": 10, "output_tokens": 8},
    })  # fmt: skip
    assert streamed(end=end).content == (Text("Hi"),)


def test_citations_follow_the_text_that_they_are_of() -> None:
    place = {"output_index": 0, "content_index": 0}
    note = {
        "type": "url_citation",
        "url": "https://a",
        "title": "A",
        "start_index": 0,
        "end_index": 2,
    }
    choice = streamed(
        event("response.output_text.annotation.added", **place, annotation=note),
        event("response.output_text.delta", **place, delta="It"),
    )
    assert choice.content == (Text("It"), Citation("https://a", "A", None, 0, 2))


def test_parts_of_a_summary_are_paragraphs_and_its_state_is_the_last() -> None:
    choice = streamed(
        event("response.output_item.added", output_index=0,
              item={"type": "reasoning", "id": "rs_1", "encrypted_content": "first"}),
        event("response.reasoning_summary_text.delta", output_index=0, summary_index=0, delta="a"),
        event("response.reasoning_summary_text.delta", output_index=0, summary_index=1, delta="b"),
        event("response.output_item.done", output_index=0, item={
            "type": "reasoning", "id": "rs_1", "encrypted_content": "last",
            "summary": [{"text": "a"}, {"text": "b"}],
        }),
    )  # fmt: skip
    assert choice.content == (Thinking("a\n\nb", Signature("openai_responses", "rs_1 last")),)


def test_reasoning_that_says_nothing_is_no_block() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    assert streamed(
        event("response.output_item.added", output_index=0, item=item),
        event("response.output_item.done", output_index=0, item=item),
    ) == Choice((), "end")


def test_items_of_tools_that_the_provider_runs_come_whole() -> None:
    item = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    image = {"type": "image_generation_call", "id": "ig_1", "result": "AAAA"}
    choice = streamed(
        event("response.output_item.added", output_index=0, item={**item, "status": "searching"}),
        event("response.web_search_call.searching", output_index=0),
        event("response.output_item.done", output_index=0, item=item),
        event("response.output_item.done", output_index=1, item=image),
    )
    opaque, drawn = choice.content
    assert isinstance(opaque, Opaque)
    assert msgspec.json.decode(opaque.json) == item
    assert drawn == Image("image/png", "AAAA")


@pytest.mark.parametrize(
    ("reason", "stop"), [("max_output_tokens", "max_tokens"), ("content_filter", "refusal")]
)
def test_an_incomplete_response_says_why(reason: str, stop: str) -> None:
    end = event("response.incomplete", response={
        "status": "incomplete", "incomplete_details": {"reason": reason},
        "usage": {"input_tokens": 10, "output_tokens": 8},
    })  # fmt: skip
    place = {"output_index": 0, "content_index": 0}
    refusal = event("response.refusal.delta", **place, delta="I can")
    assert streamed(refusal, end=end) == Choice((Refusal("I can"),), stop)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        (event("error", code="c", message="m", param=None), StreamError("m", None, "c")),
        (event("error", error={"type": "t", "code": 5, "message": "m"}),
         StreamError("m", "t", "5")),
        (b'data: {"error":{"message":"m"}}\n\n', StreamError("m")),
        (
            event("response.failed", response={
                "status": "failed", "error": {"code": "server_error", "message": "m"}
            }),
            StreamError("m", None, "server_error"),
        ),
        (event("response.failed", response={}), StreamError("The response failed.")),
        (
            event("response.cancelled", response={"status": "cancelled"}),
            StreamError("The response is cancelled.", "cancelled"),
        ),
        (b"data: {oops\n\n", StreamError("An event of the stream could not be read.")),
    ],
)  # fmt: skip
def test_an_error_ends_the_stream_and_nothing_comes_after(
    ending: bytes, error: StreamError
) -> None:
    reader = DIALECT.reader()
    events = reader.feed(CREATED + event("response.output_text.delta", delta="a") + ending)
    assert events[-1] == error
    check_grammar(events)
    assert reader.feed(COMPLETED) == []
    assert reader.eof() == []


def test_signs_of_life_are_pings() -> None:
    reader = DIALECT.reader()
    assert reader.feed(b": working\n\n") == [Ping()]
    assert reader.feed(event("keepalive", sequence_number=3)) == [Ping()]


def test_what_no_sdk_knows_is_passed_over() -> None:
    new = event("response.brand_new.delta", output_index=4, delta={"not": "text"})
    assert streamed(new, b"data: [DONE]\n\n") == Choice((), "end")


def test_odd_types_lose_themselves_and_nothing_else() -> None:
    odd = b'data: {"type":"response.output_text.delta","output_index":"0","delta":"a\\ud83d"}\n\n'
    assert streamed(odd).content == (Text("a\ufffd"),)


def test_a_last_event_may_lack_its_blank_line() -> None:
    assert streamed(end=COMPLETED.rstrip()) == Choice((), "end")


def test_a_stream_that_just_ends_is_truncated() -> None:
    reader = DIALECT.reader()
    reader.feed(CREATED + COMPLETED[:-30])
    with pytest.raises(Truncated):
        reader.eof()


def test_an_event_that_never_ends_is_given_up() -> None:
    reader = DIALECT.reader()
    piece = b"x" * (TAP_EVENT_BYTES_MAX // 4)
    events = [one for _ in range(6) for one in reader.feed(piece)]
    assert events == [StreamError("An event of the stream is too large.")]


_PIECES = [
    CREATED,
    COMPLETED,
    b"\n\n",
    b"data: ",
    event("response.output_text.delta", delta="a"),
    event("response.output_item.done", item={}),
]


@given(st.lists(st.binary(max_size=40) | st.sampled_from(_PIECES)))
def test_no_bytes_make_a_reader_raise(pieces: list[bytes]) -> None:
    reader = DIALECT.reader()
    events = [one for piece in pieces for one in reader.feed(piece)]
    try:
        events += reader.eof()
    except Truncated:
        assert not any(isinstance(one, MessageEnd | StreamError) for one in events)
    check_grammar(events)


_VALUES = st.one_of(
    st.none(), st.integers(-1, 3), st.text(max_size=4),
    st.fixed_dictionaries({"type": st.sampled_from(
        ["message", "reasoning", "function_call", "output_text", "refusal", "x"]
    )}),
    st.just({"type": "message", "content": [{"type": "output_text", "text": "abc"}]}),
)  # fmt: skip
_EVENTS = st.builds(
    lambda kind, members: event(kind, **members),
    st.sampled_from([
        *(f"response.output_item.{one}" for one in ("added", "done")),
        *(f"response.content_part.{one}" for one in ("added", "done")),
        *(f"response.output_text.{one}" for one in ("delta", "done", "annotation.added")),
        *(f"response.function_call_arguments.{one}" for one in ("delta", "done")),
        "response.reasoning_summary_text.delta", "response.reasoning_text.delta",
        "response.refusal.delta", "response.created", "response.completed", "keepalive",
    ]),
    st.dictionaries(
        st.sampled_from(["output_index", "content_index", "item", "part", "delta", "text",
                         "arguments", "response", "annotation", "summary_index"]),
        _VALUES,
    ),
)  # fmt: skip


@given(st.lists(_EVENTS, max_size=12), st.randoms(use_true_random=False))
def test_any_events_keep_to_the_grammar_however_they_are_cut(parts: list[bytes], rng: Any) -> None:
    body = CREATED + b"".join(parts) + COMPLETED
    events = read_stream(body)
    assert read_stream(*cut(body, [rng.randrange(len(body)) for _ in range(9)])) == events
    write_stream(events, asked_of())


# -- written -----------------------------------------------------------------------------------


def test_the_first_event_opens_the_stream() -> None:
    created, in_progress = told([MessageStart("x", "y")])
    assert (created["type"], in_progress["type"]) == ("response.created", "response.in_progress")
    assert created["response"]["status"] == "in_progress"
    assert created["response"]["model"] == "premium"


def test_a_text_goes_out_in_its_message_and_part() -> None:
    events = whole(BlockStart(0, Text("")), Delta(0, "Hi"), Delta(0, " \u00fc\n"), BlockStop(0))
    found = told(events)
    assert [one["type"].removeprefix("response.") for one in found] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    first, second = (one for one in found if one["type"] == "response.output_text.delta")
    assert (first["delta"], second["delta"]) == ("Hi", " \u00fc\n")
    assert len({one["item_id"] for one in found if "item_id" in one}) == 1
    response = found[-1]["response"]
    assert response["output"] == [found[-2]["item"]]
    assert response["output"][0]["content"][0]["text"] == "Hi \u00fc\n"
    assert response["usage"]["total_tokens"] == 18
    seen = stream_by_sdk("openai_responses", write_stream(events, asked_of()))
    assert seen.choices[0].text == "Hi \u00fc\n"


def test_arguments_go_out_as_they_come_and_none_are_an_object() -> None:
    events = whole(
        BlockStart(0, ToolCall("a", "f", "")), BlockStart(1, ToolCall("b", "g", "")),
        Delta(0, '{"x', "arguments"), Delta(0, '":1}', "arguments"), BlockStop(0), BlockStop(1),
        stop="tool_call",
    )  # fmt: skip
    found = told(events)
    deltas = [
        (one["output_index"], one["delta"])
        for one in found
        if one["type"] == "response.function_call_arguments.delta"
    ]
    assert deltas == [(0, '{"x'), (0, '":1}'), (1, "{}")]
    first, second = found[-1]["response"]["output"]
    assert (first["call_id"], first["arguments"]) == ("a", '{"x":1}')
    assert (second["call_id"], second["arguments"]) == ("b", "{}")
    assert found[-1]["type"] == "response.completed"
    stream_by_sdk("openai_responses", write_stream(events, asked_of()))


def test_cut_arguments_end_as_incomplete() -> None:
    found = told(
        whole(BlockStart(0, ToolCall("a", "f", "")), Delta(0, '{"x', "arguments"), BlockStop(0),
              stop="max_tokens")
    )  # fmt: skip
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert found[-1]["response"]["output"][0]["arguments"] == '{"x'
    assert found[-1]["response"]["output"][0]["status"] == "incomplete"


def test_custom_calls_have_events_of_their_own() -> None:
    call = ToolCall("a", "patch", "", custom=True)
    events = whole(
        BlockStart(0, call), Delta(0, "***", "arguments"), BlockStop(0), stop="tool_call"
    )
    assert kinds(events)[2:6] == [
        "output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done",
        "output_item.done",
    ]  # fmt: skip
    seen = stream_by_sdk("openai_responses", write_stream(events, asked_of()))
    assert seen.choices[0].calls[0].arguments == "***"


def test_thoughts_go_out_as_a_summary_with_the_signature_of_their_issuer() -> None:
    events = whole(
        BlockStart(0, Thinking("")), Delta(0, "so"), Delta(0, "EqQB", "signature", CLAUDE.format),
        BlockStop(0), BlockStart(1, Thinking("", CLAUDE, redacted=True)), BlockStop(1),
        BlockStart(2, Text("a")), BlockStop(2),
    )  # fmt: skip
    assert kinds(events)[2:10] == [
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
        "output_item.added", "output_item.done",
    ]  # fmt: skip
    output = told(events)[-1]["response"]["output"]
    again = request_of(input=output).messages[0].content
    assert again == (
        Thinking("so", CLAUDE), Thinking("", CLAUDE, redacted=True), Text("a"),
    )  # fmt: skip


@pytest.mark.parametrize("late", [False, True])
def test_the_signature_of_a_call_goes_beside_it(late: bool) -> None:
    call = ToolCall("a", "f", "", signature=None if late else GEMINI)
    signed = [Delta(0, GEMINI.value, "signature", "gemini")] if late else []
    events = whole(
        BlockStart(0, call), *signed, BlockStop(0), BlockStart(1, ToolCall("b", "g", "")),
        BlockStop(1), stop="tool_call",
    )  # fmt: skip
    output = told(events)[-1]["response"]["output"]
    assert request_of(input=output).messages[0].content == (
        ToolCall("a", "f", "{}", signature=GEMINI), ToolCall("b", "g", "{}"),
    )  # fmt: skip


def test_texts_that_follow_each_other_go_on_in_one_part_with_their_citations() -> None:
    events = whole(
        BlockStart(0, Text("")), Delta(0, "It is "), BlockStop(0),
        BlockStart(1, Text("")), Delta(1, "cold"), BlockStop(1),
        BlockStart(2, Citation("https://a", "A")), BlockStop(2),
        BlockStart(3, Opaque("anthropic_messages", b"{}")), BlockStop(3),
        BlockStart(4, Text(" now")), BlockStop(4),
    )  # fmt: skip
    found = told(events)
    assert [one["type"] for one in found].count("response.content_part.added") == 1
    (note,) = (one for one in found if one["type"] == "response.output_text.annotation.added")
    assert (note["annotation"]["start_index"], note["annotation"]["end_index"]) == (6, 10)
    (item,) = found[-1]["response"]["output"]
    assert item["content"][0]["text"] == "It is cold now"
    assert item["content"][0]["annotations"] == [note["annotation"]]


def test_a_refusal_is_a_part_of_its_own() -> None:
    found = told(
        whole(BlockStart(0, Text("a")), BlockStop(0), BlockStart(1, Refusal("")), Delta(1, "no"),
              BlockStop(1), stop="refusal")
    )  # fmt: skip
    assert found[-1]["type"] == "response.completed"
    (item,) = found[-1]["response"]["output"]
    assert [part["type"] for part in item["content"]] == ["output_text", "refusal"]
    assert item["content"][1]["refusal"] == "no"


def test_a_text_that_is_open_while_a_call_begins_goes_on() -> None:
    events = whole(
        BlockStart(0, Text("")), Delta(0, "a"), BlockStart(1, ToolCall("t", "f", "")),
        Delta(0, "b"), Delta(1, "{}", "arguments"), BlockStop(0), BlockStop(1), stop="tool_call",
    )  # fmt: skip
    message, call = told(events)[-1]["response"]["output"]
    assert message["content"][0]["text"] == "ab"
    assert call["arguments"] == "{}"
    stream_by_sdk("openai_responses", write_stream(events, asked_of()))


def test_images_and_blocks_of_its_own_go_out_whole() -> None:
    item = b'{"type":"web_search_call","id":"ws_1","status":"completed"}'
    events = whole(
        BlockStart(0, Image("image/webp", "AAAA")), BlockStop(0),
        BlockStart(1, Opaque("openai_responses", item)), BlockStop(1),
        BlockStart(2, Image(url="https://a/b.png")), BlockStop(2),
    )  # fmt: skip
    drawn, searched, linked = told(events)[-1]["response"]["output"]
    assert (drawn["result"], drawn["output_format"]) == ("AAAA", "webp")
    assert searched["id"] == "ws_1"
    assert linked["content"][0]["text"] == "![image](https://a/b.png)"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StreamError("late", "overloaded_error"), "server_error"),
        (StreamError("late", "rate_limit_exceeded"), "rate_limit_exceeded"),
        (StreamError("late", None, "context_length_exceeded"), "context_length_exceeded"),
    ],
)
def test_an_error_is_a_failed_response_and_nothing_comes_after(
    error: StreamError, code: str
) -> None:
    writer = DIALECT.writer(asked_of())
    opening = writer.write(MessageStart("x", "y")) + writer.write(BlockStart(0, Text("a")))
    out = writer.write(error)
    assert writer.write(MessageEnd(USAGE)) == b""
    ((name, data),) = sse_events(out)
    failed = msgspec.json.decode(data)
    assert name == failed["type"] == "response.failed"
    assert failed["sequence_number"] == len(list(sse_events(opening)))
    assert failed["response"]["error"] == {"code": code, "message": "late"}
    assert failed["response"]["status"] == "failed"


def test_nothing_comes_after_the_end_and_pings_are_comments_before_it() -> None:
    writer = DIALECT.writer(asked_of())
    assert writer.write(Ping()) == b": ping\n\n"
    for one in whole(BlockStart(0, Text("a")), BlockStop(0)):
        writer.write(one)
    for after in (Ping(), StreamError("x"), MessageEnd(None)):
        assert writer.write(after) == b""


_BLOCKS: st.SearchStrategy[Block] = st.one_of(
    st.builds(Text, st.text(max_size=9)),
    st.builds(Refusal, st.text(max_size=9)),
    st.builds(Thinking, st.text(max_size=9), st.sampled_from([None, CLAUDE, GEMINI])),
    st.builds(ToolCall, st.sampled_from(["a", ""]), st.just("f"), st.sampled_from(["", "{}", "{"]),
              st.just(False), st.sampled_from([None, GEMINI])),
    st.builds(Citation, st.just("https://a"), st.none() | st.just("A")),
    st.builds(Image, st.just("image/png"), st.just("AAAA")),
    st.just(Opaque("gemini", b"{}")),
)  # fmt: skip


@given(
    st.lists(_BLOCKS, max_size=7), st.sampled_from(["end", "max_tokens", "refusal", "tool_call"])
)
def test_a_stream_ends_with_the_response_that_a_whole_answer_is(
    blocks: list[Block], stop: StopReason
) -> None:
    answer = Answer(id="x", model="y", choices=(Choice(tuple(blocks), stop),), usage=USAGE)
    found = told(events_of(answer))
    whole_answer = msgspec.json.decode(DIALECT.write_answer(answer, asked_of()))
    response = found[-1]["response"]
    assert response == whole_answer
    assert [item["id"] for item in response["output"]] == [
        one["item"]["id"] for one in found if one["type"] == "response.output_item.added"
    ]
    stream_by_sdk("openai_responses", write_stream(events_of(answer), asked_of()))
