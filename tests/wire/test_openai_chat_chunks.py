"""Streams of OpenAI chat, written."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
import sdk_schemas
from dialect_events import gathered, read
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import call_ids
from gateway.wire.conversation import (
    Block,
    Citation,
    Opaque,
    Refusal,
    Request,
    Signature,
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
)
from gateway.wire.format import Asked
from gateway.wire.neutral import Usage
from gateway.wire.openai_chat_dialect import DIALECT


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


def asked(**members: Any) -> Asked:
    settings = {"include_usage": True, **members}
    request = Request(format="openai_chat", model="p", stream=True, **settings)
    return Asked(request, "premium", "77", 1_790_000_000)


def written(events: list[Event], **members: Any) -> bytes:
    writer = DIALECT.writer(asked(**members))
    return b"".join(map(writer.write, events))


def told(*blocks: tuple[Block, list[str]], stop: Finish | None = None) -> list[Event]:
    """The events of an answer of these blocks and what each says."""
    events: list[Event] = [MessageStart("x", "y")]
    for index, (block, texts) in enumerate(blocks):
        kind: Any = "arguments" if isinstance(block, ToolCall) else "text"
        events.append(BlockStart(index, block))
        events += [Delta(index, text, kind) for text in texts]
        events.append(BlockStop(index))
    usage = Usage(input_tokens=5, output_tokens=3, cache_read_input_tokens=2, reasoning_tokens=1)
    return [*events, stop or Finish("end"), MessageEnd(usage)]


def test_what_is_written_is_a_stream_to_the_sdk() -> None:
    body = written(
        told(
            (Thinking(""), ["H", "m"]),
            (Thinking(""), ["more"]),
            (Text(""), ["He", "llo"]),
            (Text(""), ["!"]),
            (ToolCall("a", "f", ""), ['{"n":', "1}"]),
            (ToolCall("b", "g", ""), []),
            stop=Finish("tool_call"),
        )
    )
    seen = sdk_schemas.read_stream("openai_chat", body)
    (choice,) = seen.choices
    assert choice.text == "Hello!"
    assert choice.calls == (
        sdk_schemas.SeenCall("a", "f", {"n": 1}),
        sdk_schemas.SeenCall("b", "g", {}),
    )
    assert choice.stop == "tool_calls"
    assert (seen.id, seen.model) == ("chatcmpl-77", "premium")
    assert seen.usage is not None
    assert seen.usage["prompt_tokens_details"]["cached_tokens"] == 2
    assert gathered(events_of(body))[0][0] == Thinking("Hm\n\nmore")


def test_usage_is_told_only_to_who_asked_for_it() -> None:
    events = told((Text(""), ["a"]))
    assert b'"usage":{' in written(events)
    assert b'"usage":null' in written(events)
    assert b'"usage"' not in written(events, include_usage=False)


def test_the_first_byte_leaves_with_the_first_event_and_nothing_after_the_end() -> None:
    writer = DIALECT.writer(asked())
    assert writer.write(Ping()) == b": keep-alive\n\n"
    assert writer.write(MessageStart("x", "y")).endswith(b"\n\n")
    for event in told((Text(""), ["a"]))[1:]:
        writer.write(event)
    for event in (*told((Text(""), ["a"])), Ping(), StreamError("late")):
        assert writer.write(event) == b""


def test_an_error_is_the_last_thing_written_and_no_done_follows() -> None:
    body = written(
        [MessageStart("x", "y"), StreamError("boom", "overloaded_error", "c"), MessageEnd(None)]
    )
    last = body.split(b"\n\n")[-2]
    assert orjson.loads(last.removeprefix(b"data: ")) == {
        "error": {"message": "boom", "type": "server_error", "param": None, "code": "c"}
    }
    assert b"[DONE]" not in body


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        (Finish("end"), "stop"),
        (Finish("max_tokens"), "length"),
        (Finish("stop_sequence", "END"), "stop"),
        (Finish("refusal"), "content_filter"),
        (Finish("pause"), "length"),
    ],
)
def test_every_end_has_its_word(stop: Finish, reason: str) -> None:
    seen = sdk_schemas.read_stream("openai_chat", written(told((Text(""), ["a"]), stop=stop)))
    assert seen.choices[0].stop == reason


def test_a_refusal_in_words_is_content_and_ends_as_any() -> None:
    body = written(told((Refusal(""), ["I ", "won't"]), stop=Finish("refusal")))
    (choice,) = sdk_schemas.read_stream("openai_chat", body).choices
    assert (choice.refusal, choice.text, choice.stop) == ("I won't", "", "stop")


def test_choices_keep_their_numbers_and_each_begins_with_its_role() -> None:
    events: list[Event] = [
        MessageStart("x", "y"),
        BlockStart(0, Text("")),
        BlockStart(1, Text(""), 1),
        Delta(1, "b"),
        Delta(0, "a"),
        BlockStop(1),
        BlockStop(0),
        Finish("end", None, 1),
        Finish("max_tokens", None, 0),
        MessageEnd(None),
    ]
    body = written(events, choices=2)
    seen = sdk_schemas.read_stream("openai_chat", body)
    assert [one.text for one in seen.choices] == ["a", "b"]
    assert body.count(b'"role":"assistant"') == 2


def test_calls_that_overlap_keep_their_indexes() -> None:
    body = written(
        [
            MessageStart("x", "y"),
            BlockStart(0, ToolCall("a", "f", "")),
            BlockStart(1, ToolCall("b", "g", "")),
            Delta(1, "[2", "arguments"),
            Delta(0, "[1]", "arguments"),
            Delta(1, "]", "arguments"),
            BlockStop(0),
            BlockStop(1),
            Finish("tool_call"),
            MessageEnd(None),
        ]
    )
    (choice,) = sdk_schemas.read_stream("openai_chat", body).choices
    assert [(one.id, one.arguments) for one in choice.calls] == [("a", [1]), ("b", [2])]


def test_a_caller_of_functions_gets_a_function_call() -> None:
    body = written(
        told((ToolCall("a", "f", ""), ['{"n":1}']), stop=Finish("tool_call")),
        spelled={"tools": "functions"},
    )
    assert b"tool_calls" not in body
    assert b'"finish_reason":"function_call"' in body
    assert gathered(events_of(body)) == {
        0: [ToolCall(call_ids.made("chatcmpl-77", 0), "f", '{"n":1}')]
    }


def test_signatures_of_other_formats_and_opaque_blocks_of_theirs_are_not_written() -> None:
    body = written(
        [
            MessageStart("x", "y"),
            BlockStart(0, Thinking("", Signature("anthropic_messages", "SECRET1"))),
            Delta(0, "hm"),
            Delta(0, "SECRET2", "signature", "gemini"),
            BlockStop(0),
            BlockStart(1, Opaque("gemini", b'"SECRET3"')),
            BlockStop(1),
            Finish("end"),
            MessageEnd(None),
        ]
    )
    assert b"SECRET" not in body
    assert b'"reasoning_content":"hm"' in body


def test_signatures_of_this_format_go_back_as_they_came() -> None:
    details = [{"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}]
    came = (delta(reasoning="hm", reasoning_details=details), delta(content="a"), end())
    body = written(events_of(*came))
    (again,) = [e for e in events_of(body) if isinstance(e, Delta) and e.kind == "signature"]
    assert orjson.loads(again.text) == details


def test_citations_say_their_place_in_all_of_the_text() -> None:
    body = written(
        told(
            (Text(""), ["one "]),
            (Text(""), ["two"]),
            (Citation("https://e.com", "E"), []),
            (Citation("https://f.com", None, "q", 1, 2), []),
            (Citation(None, "no page"), []),
        )
    )
    found = [one for one in gathered(events_of(body))[0] if isinstance(one, Citation)]
    assert found == [
        Citation("https://e.com", "E", None, 4, 7),
        Citation("https://f.com", None, "q", 5, 6),
    ]


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_text_and_arguments_come_back_as_they_were(texts: list[str], pieces: list[str]) -> None:
    events = told((Text(""), texts), (ToolCall("a", "f", ""), pieces), stop=Finish("tool_call"))
    found = gathered(events_of(written(events))).get(0, [])
    text = "".join(one.text for one in found if isinstance(one, Text))
    (call,) = [one for one in found if isinstance(one, ToolCall)]
    assert text == "".join(texts)
    assert call.arguments == ("".join(pieces) or "{}")


@pytest.mark.parametrize("make", [DIALECT.reader, lambda: DIALECT.writer(asked())])
def test_states_are_not_shared(make: Callable[[], object]) -> None:
    assert make() is not make()
