"""Each format read and written again in itself: what recorded traffic comes back different in.

Requests, answers and streams are read, written by the same format, and read again. Every place in
which the second reading differs from the first is in `REASONS`, with why; a place that is not, and
a reason that nothing needs, fails. `docs/round-trips.md` shows that table:

    GATEWAY_WRITE_DOCS=1 .venv/bin/python -m pytest tests/wire/test_round_trips.py
"""

import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import pytest
from gemini_records import choices_of
from translation_cases import CREATED_S, answers, dialect, requests, streams

from gateway.wire import build_table, registry
from gateway.wire.conversation import Answer, Message, Request, Text, ToolCall
from gateway.wire.events import Event, MessageEnd, MessageStart, StreamError
from gateway.wire.format import Asked, Toward

PAGE = Path(__file__).resolve().parents[2] / "docs/round-trips.md"
Kind = Literal["requests", "answers", "streams"]

MERGED = "neighbours of one role are one turn, as the format wants it"
EMPTY = "texts without a word are left out: providers refuse them, and they say nothing"
FIELDS = "which fields asked for what: it follows from the other places"
UNKNOWN = "fields that the model of requests has no place for are told, and not written again"
OUR_ID = "the gateway's, as every answer's to a caller is"
OUR_MODEL = "the name that the caller asked for"
NO_PLACE = "citations without a page have no place: their index is the provider's own"
IDENTITY = {"id": OUR_ID, "model": OUR_MODEL}
COUNTS = {
    "usage.cache_read_input_tokens": "more is told cached than went in: no more than all is",
    "usage.reasoning_tokens": "more is told thought than came out: no more than all is",
}
CHAT_ANSWER = {
    **IDENTITY, **COUNTS,
    "created_s": "when the gateway answered",
    "content.ToolCall.arguments": "no arguments at all are an empty object",
}  # fmt: skip
RESPONSES_ANSWER = {
    **IDENTITY,
    "created_s": "when the gateway answered",
    "content.Citation.end": "a citation without an end is at one point: it ends where it starts",
}

REASONS: dict[str, dict[Kind, dict[str, str]]] = {
    "openai_chat": {
        "requests": {
            "spelled": FIELDS, "unknown": UNKNOWN,
            "include_usage": "usage is always asked for in streams, and taken out again",
            "tool_choice.mode": "a choice among no tools is not said, as servers refuse it",
            "messages.user.content.ToolResult.name": "its call says the name",
            "messages.assistant.content.Text.cache": (
                "an assistant's text is a string, which has no room for the mark; told"
            ),
            "messages.user.content.Document.name": "without one, a document has its URL's",
        },
        "answers": CHAT_ANSWER,
        "streams": CHAT_ANSWER | {
            "content.Thinking.signature.value": (
                "details that came in pieces are put together, which is how they go back"
            ),
        },
    },
    "openai_responses": {
        "requests": {
            "spelled": FIELDS, "unknown": UNKNOWN,
            "messages": EMPTY,
            "messages.user.content": EMPTY,
            "messages.assistant.content": "thoughts that nothing follows, or without encryption, "
            "are left out and told: they are refused; texts that follow each other are one",
            "messages.assistant.content.Text.text": "texts that follow each other are one",
            "messages.assistant.content.Thinking.text": "without encryption it is refused; told",
            "messages.assistant.content.Thinking.signature.format": "a thought that nothing "
            "follows is refused; told",
            "messages.assistant.content.Thinking.signature.value": "a thought that nothing "
            "follows is refused; told",
            "messages.user.content.Text.cache": "the provider caches by itself; told",
        },
        "answers": RESPONSES_ANSWER,
        "streams": RESPONSES_ANSWER | {
            "content": "texts that follow each other without an item between are one",
            "content.Text.text": "texts that follow each other without an item between are one",
        },
    },
    "anthropic_messages": {
        "requests": {
            "spelled": FIELDS, "unknown": UNKNOWN,
            "messages": MERGED,
            "messages.user.content": MERGED,
            "messages.system.content": MERGED,
            "messages.assistant.content": f"{MERGED}; {NO_PLACE}, and told",
            "messages.assistant.content.Citation.url": f"{NO_PLACE}; told",
            "messages.assistant.content.Citation.title": f"{NO_PLACE}; told",
            "messages.assistant.content.Citation.quoted": f"{NO_PLACE}; told",
            "temperature": "1 is the default, and thinking takes no other",
            "reasoning.effort": "4.6 knows none above high but max, which is more than was asked",
            "reasoning.budget_tokens": "an effort makes the models of others think, so it is "
            "written with adaptive thinking",
            "reasoning.show": "an effort makes the models of others think, so it is written with "
            "adaptive thinking, shown",
        },
        "answers": IDENTITY | {
            "usage.billed_besides": "passes billed besides are on the receipt; the format's place "
            "for them is the provider's own",
            "content": NO_PLACE,
            "content.Citation.quoted": NO_PLACE,
        },
        "streams": IDENTITY | {
            "content": f"{NO_PLACE}; a text without a word is none",
            "content.Citation.title": NO_PLACE,
            "content.Citation.quoted": NO_PLACE,
        },
    },
    "gemini": {
        "requests": {
            "spelled": FIELDS, "unknown": UNKNOWN,
            "messages": MERGED,
            "messages.user.content": MERGED,
            "messages.assistant.content": MERGED,
            "messages.assistant.content.ToolCall.signature.format": "Gemini 3 refuses a call that "
            "nobody signed: it gets the mark that Google documents for that",
            "messages.assistant.content.ToolCall.signature.value": "Gemini 3 refuses a call that "
            "nobody signed: it gets the mark that Google documents for that",
            "system": EMPTY,
            "tool_choice.mode": "a choice among none but the provider's own tools is not said",
        },
        "answers": IDENTITY,
        "streams": IDENTITY,
    },
}  # fmt: skip
"""In what a second reading may differ from the first, and why."""

TOWARD = {"openai_chat": "openrouter", "anthropic_messages": "anthropic", "gemini": "google"}
"""Whose prices a request is written for: for chat, a server that takes what most of them do."""

Facts = Counter[tuple[str, Any]]


def facts(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All that a value says: each place with what stands there, in no order but that of sets.

    Places in lists have no number, so that what moves by one is not all that follows it; how many
    there are is said besides. JSON is compared by what it means.
    """
    match value:
        case msgspec.Struct():
            for name in value.__struct_fields__:
                inner = getattr(value, name)
                if inner not in (None, (), {}, "", False):
                    yield from facts(inner, f"{path}.{name}" if path else name)
        case tuple() | list():
            yield f"{path}: how many", len(value)
            for one in value:
                kind = type(one).__name__ if isinstance(one, msgspec.Struct) else ""
                role = getattr(one, "role", None)
                yield from facts(one, f"{path}.{role or kind}" if role or kind else path)
        case dict():
            for name, inner in value.items():
                yield from facts(inner, f"{path}.{name}")
        case bytes():
            yield path, meaning(value)
        case str() if path.endswith(".arguments"):
            yield path, meaning(value.encode())
        case _:
            yield path, value


def meaning(raw: bytes) -> Any:
    try:
        return msgspec.json.encode(msgspec.json.decode(raw), order="deterministic")
    except msgspec.DecodeError:
        return raw


def places(first: Any, again: Any) -> set[str]:
    """Where two readings differ, by the places of `REASONS`."""
    before, after = Counter(facts(first)), Counter(facts(again))
    return {place_of(path) for path, _ in (before - after) + (after - before)}


def place_of(path: str) -> str:
    """A place as the page has it: all that is said of a list, or of its members, is the list."""
    path = path.removesuffix(": how many").replace("choices.Choice.content", "content")
    for whole in ("spelled", "unknown", "usage.billed_besides"):
        if path.startswith(whole):
            return whole
    return "messages" if path.endswith(".role") else path


# --- what comes back --------------------------------------------------------------------------


def request_pairs(name: str) -> Iterator[tuple[str, Request, Request]]:
    for record, document in requests(name):
        model = document.get("model") or "m"
        body = msgspec.json.encode({"model": model, **document} if name != "gemini" else document)
        path_model, stream = (model, False) if name == "gemini" else (None, None)
        first = dialect(name).read_request(body, model=path_model, stream=stream)
        toward = Toward(first.model, TOWARD.get(name, "other"), 1_000_000)
        written, _ = dialect(name).write_request(first, toward)
        again = dialect(name).read_request(written, model=path_model, stream=stream)
        yield record.id, first, again


def asked(name: str) -> Asked:
    request = Request(format=name, model="premium", stream=True, include_usage=True)
    return Asked(request, "premium", "0199-aaaa", CREATED_S)


def answer_pairs(name: str) -> Iterator[tuple[str, Answer, Answer]]:
    for record in answers(name):
        first = dialect(name).read_answer(record.body)
        assert first is not None, record.id
        if first.error is not None:
            continue
        again = dialect(name).read_answer(dialect(name).write_answer(first, asked(name)))
        assert again is not None, record.id
        yield record.id, first, again


def stream_pairs(name: str) -> Iterator[tuple[str, Answer, Answer]]:
    for record in streams(name):
        events = heard(name, record.body)
        if any(isinstance(event, StreamError) for event in events):
            continue
        writer = dialect(name).writer(asked(name))
        again = heard(name, b"".join(map(writer.write, events)))
        yield record.id, told(events), told(again)


def heard(name: str, body: bytes) -> list[Event]:
    reader = dialect(name).reader()
    return reader.feed(body) + reader.eof()


def told(events: list[Event]) -> Answer:
    """The answer that the events of a whole stream tell."""
    (start,) = [one for one in events if isinstance(one, MessageStart)]
    (end,) = [one for one in events if isinstance(one, MessageEnd)]
    return Answer(
        id=start.id, model=start.model, choices=choices_of(events), usage=end.usage,
        created_s=start.created_s,
    )  # fmt: skip


PAIRS_OF = {"requests": request_pairs, "answers": answer_pairs, "streams": stream_pairs}


# --- the page ---------------------------------------------------------------------------------

INTRODUCTION = """\
# There and back

Every recorded request, answer and stream was read, written by the same format and read again; both
readings mean the same, but for the places below. (Where both sides speak one format nothing of this
happens: the bytes pass.) A place is one of the neutral model, `gateway/wire/conversation.py`; how
often it differs is of the recorded ones, of which the head of each table says how many there are.
What is *told* is in `X-Gateway-Ignored`.

    GATEWAY_WRITE_DOCS=1 .venv/bin/python -m pytest tests/wire/test_round_trips.py

writes this page; without the variable the same test holds it to what it sees.
"""


class Found(msgspec.Struct, frozen=True):
    """Of one format and kind: how many there were, and how often each place differed."""

    tried: int
    differed: dict[str, int]


@cache
def found(name: str, kind: Kind) -> Found:
    tried = 0
    differed: Counter[str] = Counter()
    for _, first, again in PAIRS_OF[kind](name):
        tried += 1
        differed.update(places(first, again))
    return Found(tried, dict(differed))


def page() -> str:
    return "\n".join([INTRODUCTION, *(section(name) for name in registry.DIALECTS)])


def section(name: str) -> str:
    lines = [f"## {build_table.TITLES.get(name, name)}", ""]
    for kind in get_args(Kind):
        seen = found(name, kind)
        lines += [f"| {seen.tried} {kind}: what differs | how often | why |", "|---|---|---|"]
        lines += [
            f"| `{place}` | {seen.differed.get(place, 0)} | {why} |"
            for place, why in REASONS[name][kind].items()
        ]
        lines.append("")
    return "\n".join(lines)


CASES = [(name, kind) for name in registry.DIALECTS for kind in get_args(Kind)]


@pytest.mark.recorded
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_comes_back_differs_where_there_is_a_reason_and_nowhere_else(
    case: tuple[str, Kind],
) -> None:
    name, kind = case
    seen = found(name, kind)
    assert seen.tried > 50
    assert set(seen.differed) == set(REASONS[name][kind])


@pytest.mark.recorded
def test_the_page_says_what_was_seen() -> None:
    if os.environ.get("GATEWAY_WRITE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


def test_a_difference_is_found_wherever_it_is() -> None:
    call = ToolCall("a", "f", '{"n": 1}')
    first = Request(
        format="x", model="m", stream=False, messages=(Message("assistant", (Text("hi"), call)),)
    )
    same = Request(
        format="x", model="m", stream=False,
        messages=(Message("assistant", (Text("hi"), ToolCall("a", "f", '{"n":1}'))),),
    )  # fmt: skip
    assert places(first, same) == set()
    other = Message("assistant", (Text("ho"), ToolCall("a", "f", '{"n":2}'), Text("")))
    changed = msgspec.structs.replace(first, messages=(other,), temperature=1.0)
    assert places(first, changed) == {
        "messages.assistant.content", "messages.assistant.content.Text.text",
        "messages.assistant.content.ToolCall.arguments", "temperature",
    }  # fmt: skip
