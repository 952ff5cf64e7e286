"""Streams of OpenAI chat as compatible servers send them, read."""

from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from dialect_events import finishes, gathered, read, usage
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import call_ids
from gateway.wire.conversation import (
    Block,
    Citation,
    Image,
    Refusal,
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
)
from gateway.wire.neutral import Usage
from gateway.wire.openai_chat_dialect import DIALECT

VECTORS = Path(__file__).parent.parent / "vectors" / "openai_chat"


def vector(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


def chunk(choice: dict[str, Any] | None = None, **members: Any) -> bytes:
    body = {"id": "c-1", "model": "m", "choices": [] if choice is None else [choice], **members}
    return b"data: " + orjson.dumps(body) + b"\n\n"


def delta(**members: Any) -> bytes:
    return chunk({"index": 0, "delta": members, "finish_reason": None})


def end(reason: str = "stop") -> bytes:
    return chunk({"index": 0, "delta": {}, "finish_reason": reason}) + b"data: [DONE]\n\n"


def events_of(*pieces: bytes) -> list[Event]:
    return read(DIALECT.reader(), pieces)


def blocks_of(*pieces: bytes) -> list[Block]:
    return gathered(events_of(*pieces)).get(0, [])


def call(**members: Any) -> dict[str, Any]:
    function = {key: members.pop(key) for key in ("name", "arguments") if key in members}
    return {**members, "function": function}


def test_thoughts_text_and_calls_in_turns_are_blocks_of_their_own() -> None:
    events = events_of(vector("calls_in_turns.sse"))
    assert gathered(events) == {
        0: [
            Thinking("Hmm."),
            Text("Let me"),
            ToolCall("a", "one", '{"y": 1.10}'),
            ToolCall("b", "two", '{"x":2}'),
        ]
    }
    assert events[0] == MessageStart("chatcmpl-7", "m-1", None, 5)
    assert finishes(events) == {0: Finish("tool_call")}
    assert usage(events) == Usage(input_tokens=11, output_tokens=9, reasoning_tokens=2)
    assert Ping() in events


def test_choices_in_turns_are_told_apart_and_each_finishes_once() -> None:
    events = events_of(vector("choices_in_turns.sse"))
    assert gathered(events) == {1: [Text("bB")], 0: [Text("aA")]}
    assert finishes(events) == {0: Finish("end"), 1: Finish("max_tokens", None, 1)}
    assert isinstance(events[-1], MessageEnd)


@pytest.mark.parametrize("name", ["stream.sse", "stream_cr.sse", "stream_crlf.sse"])
def test_every_spelling_of_line_ends_is_the_same_stream(name: str) -> None:
    (text,) = blocks_of(vector(name))
    assert isinstance(text, Text)
    assert text.text.startswith('Grüße "usage":{ [DONE]half ')


def test_a_stream_with_a_mark_and_without_its_last_line_end_is_whole() -> None:
    assert usage(events_of(vector("stream_bom_no_final_newline.sse"))) is not None


@pytest.mark.parametrize("name", ["calls_in_turns.sse", "choices_in_turns.sse", "stream_crlf.sse"])
def test_the_events_of_a_vector_do_not_depend_on_how_it_is_cut(name: str) -> None:
    body = vector(name)
    whole = events_of(body)
    assert events_of(*(body[at : at + 1] for at in range(len(body)))) == whole
    for size in (2, 3, 5, 7, 11, 64, 257):
        assert events_of(*(body[at : at + size] for at in range(0, len(body), size))) == whole


def test_events_come_with_the_bytes_that_complete_them() -> None:
    reader = DIALECT.reader()
    assert reader.feed(b": hello\n\n") == [Ping()]
    assert [type(one) for one in reader.feed(delta(role="assistant", content=""))] == [MessageStart]
    first = reader.feed(delta(content="a"))
    assert first == [BlockStart(0, Text("")), Delta(0, "a")]
    assert reader.feed(delta(content="b")[:-1]) == []
    assert reader.feed(b"\n") == [Delta(0, "b")]


def test_calls_without_an_index_are_told_apart_by_their_ids_and_names() -> None:
    found = blocks_of(
        delta(tool_calls=[call(id="a", name="f", arguments='{"n":1}')]),
        delta(tool_calls=[call(id="b", name="f", arguments='{"n":')]),
        delta(tool_calls=[call(arguments="2}")]),
        end("tool_calls"),
    )
    assert found == [ToolCall("a", "f", '{"n":1}'), ToolCall("b", "f", '{"n":2}')]


def test_calls_that_all_say_index_0_are_told_apart() -> None:
    found = blocks_of(
        delta(
            tool_calls=[
                call(index=0, id="a", name="f", arguments="{}"),
                call(index=0, id="b", name="g", arguments="{}"),
            ]
        ),
        end(),
    )
    assert found == [ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}")]


def test_calls_with_empty_ids_get_unique_ones_that_do_not_change() -> None:
    pieces = (
        delta(tool_calls=[call(index=0, id="", name="f", arguments="{}")]),
        delta(tool_calls=[call(index=0, id="", name="f", arguments="{}")]),
        end(),
    )
    found = blocks_of(*pieces)
    ids = [one.id for one in found if isinstance(one, ToolCall)]
    assert ids == [call_ids.made("c-1", 0), call_ids.made("c-1", 1)]
    assert blocks_of(*pieces) == found


def test_a_name_and_an_id_that_every_delta_repeats_are_one_call() -> None:
    found = blocks_of(
        delta(tool_calls=[call(index=0, id="a", name="f", arguments='{"a"')]),
        delta(tool_calls=[call(index=0, id="a", name="f", arguments=":1}")]),
        delta(tool_calls=[call(index=0, id=None, name=None, arguments="")]),
        end(),
    )
    assert found == [ToolCall("a", "f", '{"a":1}')]


def test_a_call_that_is_whole_is_closed_when_the_next_begins() -> None:
    events = events_of(
        delta(tool_calls=[call(index=0, id="a", name="f", arguments='{"a":1}')]),
        delta(tool_calls=[call(index=1, id="b", name="g", arguments="")]),
        end(),
    )
    assert events.index(BlockStop(0)) < events.index(BlockStart(1, ToolCall("b", "g", "")))


def test_a_call_that_comes_whole_in_one_delta_is_whole() -> None:
    found = blocks_of(
        delta(tool_calls=[call(index=0, id="a", name="f", arguments='{"a":1}')]), end("stop")
    )
    assert found == [ToolCall("a", "f", '{"a":1}')]


def test_arguments_that_were_cut_end_for_want_of_tokens() -> None:
    pieces = (delta(tool_calls=[call(index=0, id="a", name="f", arguments='{"a":')]), end("length"))
    assert blocks_of(*pieces) == [ToolCall("a", "f", '{"a":')]
    assert finishes(events_of(*pieces)) == {0: Finish("max_tokens")}


def test_legacy_function_calls_are_calls() -> None:
    pieces = (
        delta(role="assistant", content=None, function_call={"name": "f", "arguments": ""}),
        delta(function_call={"arguments": '{"a":1}'}),
        end("function_call"),
    )
    assert blocks_of(*pieces) == [ToolCall(call_ids.made("c-1", 0), "f", '{"a":1}')]
    assert finishes(events_of(*pieces)) == {0: Finish("tool_call")}


@pytest.mark.parametrize(
    "thought",
    [
        {"reasoning_content": "Hm."},
        {"reasoning": "Hm."},
        {"reasoning": "Hm.", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "Hm."}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]},
    ],
)
def test_thoughts_are_read_in_every_spelling_and_never_as_text(thought: dict[str, Any]) -> None:
    assert blocks_of(delta(**thought), delta(content="Yes"), end()) == [
        Thinking("Hm."),
        Text("Yes"),
    ]


def test_what_was_signed_comes_with_its_thoughts_put_together() -> None:
    def piece(**members: Any) -> bytes:
        return delta(reasoning_details=[{"type": "reasoning.text", "index": 0, **members}])

    events = events_of(
        piece(text="Hm", signature=""), piece(text="m."), piece(signature="s1", text=""),
        delta(content="Yes"), end(),
    )  # fmt: skip
    (signed,) = [one for one in events if isinstance(one, Delta) and one.kind == "signature"]
    assert signed.format == "openai_chat"
    assert orjson.loads(signed.text) == [
        {"type": "reasoning.text", "index": 0, "text": "Hmm.", "signature": "s1"}
    ]


def test_what_is_encrypted_alone_is_a_redacted_block_before_the_text() -> None:
    encrypted = {"type": "reasoning.encrypted", "data": "xyz", "index": 0}
    thinking, text = blocks_of(delta(reasoning_details=[encrypted]), delta(content="Yes"), end())
    assert isinstance(thinking, Thinking)
    assert thinking.redacted
    assert thinking.signature is not None
    assert orjson.loads(thinking.signature.value) == [encrypted]
    assert text == Text("Yes")


def test_a_refusal_is_one_and_a_refusal_cut_short_is_cut() -> None:
    pieces = (delta(refusal="I "), delta(refusal="won't"))
    assert blocks_of(*pieces, end()) == [Refusal("I won't")]
    assert finishes(events_of(*pieces, end())) == {0: Finish("refusal")}
    assert finishes(events_of(*pieces, end("length"))) == {0: Finish("max_tokens")}


def test_citations_and_images_are_blocks() -> None:
    cited = {"type": "url_citation", "url_citation": {"url": "https://e.com", "title": "E"}}
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
    found = blocks_of(
        delta(content="See"), delta(annotations=[cited]), delta(images=[shown]), end()
    )
    assert found == [Text("See"), Citation("https://e.com", "E"), Image("image/png", "aaaa")]


def test_a_matched_stop_text_is_told() -> None:
    last = chunk({"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"})
    events = events_of(delta(content="a"), last, b"data: [DONE]\n\n")
    assert finishes(events) == {0: Finish("stop_sequence", "END")}


@pytest.mark.parametrize(
    "bad",
    [
        b'data: {"error": {"message": "boom", "type": "t", "code": 17}}\n\n',
        b'event: error\ndata: {"error": {"message": "boom", "type": "t", "code": "17"}}\n\n',
        chunk({"index": 0, "delta": {}, "error": {"message": "boom", "type": "t", "code": 17}}),
        b'data: {"object": "error", "message": "boom", "type": "t", "code": 17}\n\n',
    ],
)
def test_an_error_in_the_stream_is_one_and_ends_it(bad: bytes) -> None:
    events = events_of(delta(content="a"), bad, delta(content="b"), end())
    assert events[-1] == StreamError("boom", "t", "17")


@pytest.mark.parametrize("reason", ["error", "insufficient_system_resource", "network_error"])
def test_a_finish_that_says_failure_is_an_error(reason: str) -> None:
    events = events_of(delta(content="a"), end(reason))
    assert isinstance(events[-1], StreamError)
    assert not finishes(events)


def test_bytes_that_cannot_be_read_are_an_error_and_not_skipped() -> None:
    events = events_of(delta(content="a"), b"data: {oops\n\n", end())
    assert isinstance(events[-1], StreamError)


@pytest.mark.parametrize(
    "cut",
    [
        (),
        (delta(content="a"),),
        (delta(content="a"), b"data: {"),
        (delta(content="a"), chunk({"index": 0, "delta": {}, "finish_reason": "stop"})),
    ],
)
def test_a_stream_that_is_cut_is_truncated(cut: tuple[bytes, ...]) -> None:
    with pytest.raises(Truncated):
        events_of(*cut)


def test_a_finish_and_usage_without_done_are_an_end() -> None:
    last = chunk(
        {"index": 0, "delta": {}, "finish_reason": "stop"},
        usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    )
    events = events_of(delta(content="a"), last)
    assert isinstance(events[-1], MessageEnd)


def test_done_without_a_finish_is_never_a_good_end() -> None:
    for pieces in ((delta(content="a"), b"data: [DONE]\n\n"), (b"data: [DONE]\n\n",)):
        assert isinstance(events_of(*pieces)[-1], StreamError)


def test_usage_is_the_taps() -> None:
    reader = DIALECT.reader()
    reader.feed(vector("calls_in_turns.sse"))
    metered = reader.metered()
    assert metered.usage is not None
    assert metered.response_id == "chatcmpl-7"
    assert metered.complete


KEYS = (
    "choices", "index", "delta", "message", "content", "tool_calls", "function", "name",
    "arguments", "id", "custom", "type", "input", "reasoning", "reasoning_details", "text", "data",
    "signature", "finish_reason", "error", "usage", "refusal", "images", "annotations",
    "function_call", "url_citation", "image_url", "url", "thinking",
)  # fmt: skip

json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 3) | st.text(max_size=4) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=25,
)


@given(
    st.lists(st.fixed_dictionaries({"choices": st.lists(json_like, max_size=3)}), max_size=4),
    st.booleans(),
)
def test_no_chunk_makes_the_reader_raise_or_break_the_grammar(
    chunks: list[dict[str, Any]], done: bool
) -> None:
    body = b"".join(b"data: " + msgspec.json.encode(one) + b"\n\n" for one in chunks)
    try:
        events_of(body + (b"data: [DONE]\n\n" if done else b""))
    except Truncated:
        assert not done


@given(st.dictionaries(st.sampled_from(("delta", "message")), json_like), st.integers(0, 2))
def test_no_choice_makes_the_reader_raise_or_break_the_grammar(
    choice: dict[str, Any], number: int
) -> None:
    body = msgspec.json.encode({"choices": [{"index": number, "finish_reason": "stop", **choice}]})
    events_of(b"data: " + body + b"\n\ndata: [DONE]\n\n")


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_make_the_reader_raise_and_no_cut_changes_what_they_are(
    body: bytes, at: int
) -> None:
    def outcome(*pieces: bytes) -> object:
        try:
            return events_of(*pieces)
        except Truncated:
            return "cut"

    assert outcome(body[:at], body[at:]) == outcome(body)
