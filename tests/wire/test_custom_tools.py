"""Custom tools as functions of one argument: the text comes back, however it was cut."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import custom_tools
from gateway.wire.conversation import Answer, Choice, Text, Tool, ToolCall
from gateway.wire.custom_tools import CustomCalls
from gateway.wire.events import BlockStart, BlockStop, Delta, Event

CUSTOM = frozenset(("patch",))


def through(arguments: str, cuts: list[int], opening: int = 0) -> str:
    """The text of a call whose arguments come in pieces, the first of them with its start."""
    edges = [opening, *cuts, len(arguments)]
    pieces = [arguments[a:b] for a, b in pairwise(edges)]
    calls = CustomCalls(CUSTOM)
    out: list[Event] = []
    call = ToolCall("c", "patch", arguments[:opening])
    said: list[Event] = [Delta(0, one, "arguments") for one in pieces]
    for event in [BlockStart(0, call), *said, BlockStop(0)]:
        out += calls.restored([event])
    start, *deltas, stop = out
    assert isinstance(start, BlockStart)
    assert isinstance(start.block, ToolCall)
    assert start.block.custom
    assert stop == BlockStop(0)
    text = start.block.arguments
    for delta in deltas:
        assert isinstance(delta, Delta)
        text += delta.text
    return text


def whole(arguments: str) -> str:
    answer = Answer(
        id=None, model=None, choices=(Choice((ToolCall("c", "patch", arguments),), "tool_call"),)
    )
    (block,) = custom_tools.restored(answer, CUSTOM).choices[0].content
    assert isinstance(block, ToolCall)
    assert block.custom
    return block.arguments


def escaped(text: str) -> str:
    """JSON with nothing but ASCII, as many providers write it."""
    units = text.encode("utf-16-be")
    pairs = zip(units[::2], units[1::2], strict=True)
    spelled = "".join(f"\\u{high:02x}{low:02X}" for high, low in pairs)
    return f'{{ "input" : "{spelled}"}}'


@settings(deadline=None)
@given(text=st.text(), ascii_only=st.booleans(), data=st.data())
def test_a_text_comes_back_however_its_call_was_cut(
    text: str, ascii_only: bool, data: st.DataObject
) -> None:
    call = custom_tools.as_arguments(ToolCall("c", "patch", text, custom=True))
    arguments = escaped(text) if ascii_only else call.arguments
    assert msgspec.json.decode(arguments) == {"input": text}
    places = st.integers(0, len(arguments))
    opening, *cuts = sorted(data.draw(st.lists(places, min_size=1, max_size=8)))
    assert through(arguments, cuts, opening) == text
    assert through(arguments, list(range(1, len(arguments)))) == text
    assert whole(arguments) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"patch":"a"}', "a"),
        ('{"note":"b","input":"a"}', "a"),
        ('{"input":"a","note":"b"}', "a"),
        ('{"input":{"a":1}}', '{"input":{"a":1}}'),
        ('{"a":"1","b":"2"}', '{"a":"1","b":"2"}'),
        ("*** Begin Patch", "*** Begin Patch"),
        ("{}", "{}"),
        ("", ""),
        ('{"input":"line\nline\t"}', "line\nline\t"),
        (r'{"input":"\u12G4 \x"}', "u12G4 x"),
        (r'{"input":"\ud83d and \ude42"}', "\ufffd and \ufffd"),
        (r'{"input":"cut \ud83', "cut "),
        (r'{"input":"cut' + "\\", "cut"),
    ],
)
def test_a_call_of_another_shape_is_given_as_it_was_written(arguments: str, text: str) -> None:
    assert whole(arguments) == text
    assert through(arguments, list(range(1, len(arguments)))) == text


@pytest.mark.parametrize("hostile", ["\\uZZ", "\\ud83d", "\\", "x", "\n"])
def test_a_long_text_takes_time_in_proportion_however_it_is_spelled(hostile: str) -> None:
    """What is waiting for its other half must stay short: nothing is read twice."""
    text = custom_tools._Text()
    text.feed('{"input":"')
    for _ in range(2000):
        text.feed(hostile)
        assert len(text._rest or "") <= 16


def test_other_blocks_pass_between_the_pieces_of_a_call() -> None:
    events: list[Event] = [
        BlockStart(0, Text("")),
        BlockStart(1, ToolCall("c", "patch", "")),
        Delta(0, "said"),
        Delta(1, '{"input":"a', "arguments"),
        BlockStart(2, ToolCall("d", "other", "")),
        Delta(2, '{"input":"kept"}', "arguments"),
        BlockStop(2),
        Delta(1, 'b"}', "arguments"),
        BlockStop(1),
        BlockStop(0),
    ]
    out = CustomCalls(CUSTOM).restored(events)
    calls: dict[int, Any] = {1: "", 2: ""}
    for event in out:
        if isinstance(event, Delta) and event.index in calls:
            calls[event.index] += event.text
    assert calls == {1: "ab", 2: '{"input":"kept"}'}
    assert [event for event in out if isinstance(event, Delta) and event.index == 0] == [events[2]]


def test_a_grammar_is_told_in_the_description() -> None:
    tool = Tool("patch", "Edits.", custom=True, grammar=("lark", "start: LF"))
    found = custom_tools.as_function(tool)
    assert not found.custom
    assert (found.description or "").startswith("Edits.\n\n")
    assert "(lark)" in (found.description or "")
    assert (found.description or "").endswith("start: LF")
    assert msgspec.json.decode(found.schema or b"")["required"] == ["input"]
    assert custom_tools.as_function(Tool("bare", custom=True)).description is None
