"""The vectors of Gemini's format, read by its dialect: whole, byte by byte, at random cuts."""

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from gemini_records import choices_of, collect
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.conversation import (
    Choice,
    Image,
    Message,
    Reasoning,
    Signature,
    Text,
    Thinking,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.wire.events import StreamError
from gateway.wire.gemini_dialect import DIALECT
from gateway.wire.neutral import Usage

VECTORS = Path(__file__).parents[1] / "vectors" / "gemini"
CALLS = (VECTORS / "calls.sse").read_bytes()
STREAMS = ("calls.sse", "stream.sse", "array.json", "array_error.json")


def test_a_stream_with_thoughts_and_calls() -> None:
    events = collect(DIALECT.reader(), [CALLS])
    (choice,) = choices_of(events)
    thinking, text, first, second, third, signature = choice.content
    assert thinking == Thinking("The user wants two cities.")
    assert text == Text("Wörter für beide 🌦")
    calls = [one for one in (first, second, third) if isinstance(one, ToolCall)]
    assert [(one.name, one.arguments) for one in calls] == [
        ("weather", '{"city": "Köln","days": 1.50}'),
        ("weather", '{"city": "Bonn"}'),
        ("now", "{}"),
    ]
    assert len({one.id for one in calls}) == 3
    assert calls[0].signature == Signature("gemini", "c2lnbmVkLTE=")
    assert signature == Text("", signature=Signature("gemini", "c2lnbmVkLTI="))
    assert choice.stop == "tool_call"
    assert events[-1] == msgspec.structs.replace(
        events[-1], usage=Usage(31, 53, cache_read_input_tokens=16, reasoning_tokens=12)
    )


@pytest.mark.parametrize("name", STREAMS)
def test_no_vector_depends_on_where_it_is_cut(name: str) -> None:
    body = (VECTORS / name).read_bytes()
    whole = collect(DIALECT.reader(), [body])
    assert collect(DIALECT.reader(), [body[at : at + 1] for at in range(len(body))]) == whole
    for at in range(len(body)):
        assert collect(DIALECT.reader(), [body[:at], body[at:]]) == whole
    if name == "array_error.json":
        assert [type(one) for one in whole] == [StreamError]


@given(st.lists(st.integers(0, len(CALLS)), max_size=12).map(sorted))
def test_no_cuts_at_random_change_the_events(cuts: list[int]) -> None:
    edges = [0, *cuts, len(CALLS)]
    pieces = [CALLS[start:end] for start, end in pairwise(edges)]
    assert collect(DIALECT.reader(), pieces) == collect(DIALECT.reader(), [CALLS])


def test_both_spellings_of_a_stream_say_the_same() -> None:
    sse = (VECTORS / "stream.sse").read_bytes()
    array = (VECTORS / "array.json").read_bytes()
    found = [choices_of(collect(DIALECT.reader(), [one])) for one in (sse, array)]
    assert found[0] == found[1] == (Choice((Text('Hel "usageMetadata"lo'),), "end"),)


def test_a_turn_of_a_conversation_is_read() -> None:
    body = (VECTORS / "turn.json").read_bytes()
    found = DIALECT.read_request(body, model="m", stream=True)
    assert found.system == (Text("Answer in one line."),)
    question, calls, results = found.messages
    assert question.content[1] == Image("image/png", "iVBORw0KGgo=")
    ids = [one.id for one in calls.content if isinstance(one, ToolCall)]
    assert results == Message(
        "user",
        (
            ToolResult(ids[0], (Text("11 degrees"),), "weather"),
            ToolResult(ids[1], (Text("no such station"),), "weather", is_error=True),
        ),
    )
    assert found.tool_choice == ToolChoice("auto")
    assert found.reasoning == Reasoning("low", None, True)
    assert found.max_output_tokens == 800
    assert set(found.spelled) == {
        "image_data", "thinking_history", "tool_result_error", "tools", "tool_choice",
        "temperature", "max_output_tokens", "reasoning", "safety_settings",
    }  # fmt: skip
    assert found.unknown == ()
