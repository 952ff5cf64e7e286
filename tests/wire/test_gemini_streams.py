"""Gemini's streams, read and written, and held to what Google's own SDK makes of them."""

import base64
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
import pytest
from gemini_records import choices_of, collect
from google import genai
from google.genai import errors, types

from gateway.wire.conversation import (
    Choice,
    Citation,
    Image,
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
    Truncated,
    check_grammar,
)
from gateway.wire.format import Asked
from gateway.wire.gemini_dialect import DIALECT
from gateway.wire.neutral import Usage
from gateway.wire.tap import TAP_EVENT_BYTES_MAX

REQUEST = Request(format="gemini", model="g", stream=True)
BOTH = pytest.mark.parametrize("array", [False, True])
START = MessageStart("m-1", "claude", Usage(12, 0))
END = MessageEnd(Usage(12, 30, 4, None, 10))


def written(events: Sequence[Event], *, array: bool = False) -> bytes:
    check_grammar(events)
    writer = DIALECT.writer(Asked(REQUEST, "alias", "id-1", 1_790_000_000, array))
    return b"".join(map(writer.write, events))


def chunks(body: bytes, *, array: bool = False) -> list[dict[str, Any]]:
    if array:
        found: list[dict[str, Any]] = msgspec.json.decode(body)
        return found
    assert body.endswith(b"\r\n\r\n")
    events = [one for one in body.split(b"\r\n\r\n") if one.strip()]
    assert all(one.strip().startswith(b"data: ") and b"\n" not in one.strip() for one in events)
    return [msgspec.json.decode(one.strip().removeprefix(b"data: ")) for one in events]


def sdk(body: bytes) -> list[types.GenerateContentResponse]:
    """What google-genai reads from a stream."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body, headers={"content-type": "text/event-stream"})

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        options = types.HttpOptions(httpx_client=client)
        gemini = genai.Client(api_key="k", http_options=options)
        return list(gemini.models.generate_content_stream(model="g", contents="hello"))


def answered() -> list[Event]:
    """An answer with one block of every kind, two of them overlapping."""
    return [
        START,
        BlockStart(0, Thinking("")),
        Delta(0, "hm"),
        Delta(0, "Sig+/=", "signature", "anthropic_messages"),
        BlockStop(0),
        Ping(),
        BlockStart(1, Text("")),
        Delta(1, "Grüße "),
        Delta(1, '"you"\n'),
        BlockStop(1),
        BlockStart(2, Citation("https://a.example", "a", None, 0, 5)),
        BlockStop(2),
        BlockStart(3, ToolCall("call_1", "f", "")),
        BlockStart(4, ToolCall("call_2", "g", "")),
        Delta(3, '{"x": 1.', "arguments"),
        Delta(4, '{"y":\n 2}', "arguments"),
        Delta(3, "10}", "arguments"),
        BlockStop(3),
        BlockStop(4),
        BlockStart(5, Image("image/png", "AA==")),
        BlockStop(5),
        BlockStart(6, ToolCall("call_3", "h", "")),
        BlockStop(6),
        Finish("tool_call"),
        END,
    ]


def test_the_sdk_reads_what_is_written() -> None:
    seen = sdk(written(answered()))
    parts = [
        part
        for chunk in seen
        for candidate in chunk.candidates or ()
        for part in (candidate.content and candidate.content.parts) or ()
    ]
    assert "".join(one.text for one in parts if one.text and not one.thought) == 'Grüße "you"\n'
    assert "".join(one.text for one in parts if one.text and one.thought) == "hm"
    calls = [one.function_call for one in parts if one.function_call]
    assert [(one.name, one.id, one.args) for one in calls] == [
        ("f", "call_1", {"x": 1.10}), ("g", "call_2", {"y": 2}), ("h", "call_3", {}),
    ]  # fmt: skip
    assert [one.inline_data.data for one in parts if one.inline_data] == [b"\0"]
    last = seen[-1]
    assert last.candidates is not None
    assert last.candidates[0].finish_reason == types.FinishReason.STOP
    assert last.usage_metadata is not None
    assert last.usage_metadata.thoughts_token_count == 10
    assert last.usage_metadata.candidates_token_count == 20
    assert last.usage_metadata.cached_content_token_count == 4
    assert last.usage_metadata.total_token_count == 42
    assert {one.response_id for one in seen} == {"id-1"}
    assert {one.model_version for one in seen} == {"alias"}


@BOTH
def test_our_own_reader_reads_what_is_written(array: bool) -> None:
    body = written(answered(), array=array)
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        events = collect(DIALECT.reader(), pieces)
        (choice,) = choices_of(events)
        assert choice == Choice(
            (
                Thinking("hm", Signature("anthropic_messages", "Sig+/=")),
                Text('Grüße "you"\n'),
                ToolCall("call_1", "f", '{"x": 1.10}'),
                ToolCall("call_2", "g", '{"y":\n 2}' if array else '{"y":  2}'),
                Image("image/png", "AA=="),
                ToolCall("call_3", "h", "{}"),
                Citation("https://a.example", "a", None, 0, 5),
            ),
            "tool_call",
        )
        assert events[-1] == END


@BOTH
def test_every_chunk_tells_the_usage_that_is_known(array: bool) -> None:
    found = chunks(written(answered(), array=array), array=array)
    assert all(one["usageMetadata"]["promptTokenCount"] == 12 for one in found)
    assert [one["usageMetadata"].get("thoughtsTokenCount") for one in found][-2:] == [None, 10]
    assert [("finishReason" in one["candidates"][0]) for one in found].index(True) == len(found) - 1


def test_text_goes_out_as_it_comes_and_calls_when_they_are_complete() -> None:
    writer = DIALECT.writer(Asked(REQUEST, "a", "i", 0))
    sent = [bool(writer.write(event)) for event in answered()]
    assert sent == [
        False, False, True, True, False, True, False, True, True, False, False, False, False,
        False, False, False, False, True, True, True, False, False, True, False, True,
    ]  # fmt: skip


def test_choices_stay_apart() -> None:
    events: list[Event] = [
        MessageStart(None, None),
        BlockStart(0, Text(""), 0),
        BlockStart(1, Text(""), 1),
        Delta(1, "b"),
        Delta(0, "a"),
        BlockStop(0),
        BlockStop(1),
        Finish("end", None, 0),
        Finish("max_tokens", None, 1),
        MessageEnd(),
    ]
    again = collect(DIALECT.reader(), [written(events)])
    assert choices_of(again) == (Choice((Text("a"),), "end"), Choice((Text("b"),), "max_tokens"))


@pytest.mark.parametrize("arguments", ['{"a": "cu', "nothing"])
def test_a_call_that_was_cut_is_left_out_and_ends_as_cut(arguments: str) -> None:
    found = chunks(
        written(
            [
                START,
                BlockStart(0, ToolCall("c", "f", "")),
                Delta(0, arguments, "arguments"),
                BlockStop(0),
                Finish("tool_call"),
                END,
            ]
        )
    )
    assert [one["candidates"][0].get("finishReason") for one in found] == ["MAX_TOKENS"]


def test_refusals_end_in_safety_and_pauses_are_no_end() -> None:
    refusal: list[Event] = [START, BlockStart(0, Refusal("")), Delta(0, "I cannot."), BlockStop(0)]
    found = chunks(written([*refusal, Finish("end"), END]))
    assert found[0]["candidates"][0]["content"]["parts"] == [{"text": "I cannot."}]
    assert found[-1]["candidates"][0]["finishReason"] == "SAFETY"
    paused = chunks(written([START, Finish("pause"), END]))
    assert paused[-1]["candidates"][0]["finishReason"] == "OTHER"


@BOTH
@pytest.mark.parametrize("begun", [False, True])
def test_an_error_ends_a_stream_in_googles_envelope(array: bool, begun: bool) -> None:
    before: list[Event] = [START, BlockStart(0, Text("")), Delta(0, "a")] if begun else []
    error = StreamError("too busy", "overloaded_error")
    writer = DIALECT.writer(Asked(REQUEST, "alias", "id-1", 0, array))
    body = b"".join(writer.write(event) for event in [*before, error])
    assert writer.write(Delta(0, "more")) == b""
    assert writer.write(END) == b""
    last = chunks(body, array=array)[-1]
    assert last == {"error": {"code": 503, "message": "too busy", "status": "UNAVAILABLE"}}
    (found,) = [one for one in collect(DIALECT.reader(), [body]) if isinstance(one, StreamError)]
    assert (found.message, found.type) == ("too busy", "UNAVAILABLE")
    if not array:
        with pytest.raises(errors.ServerError, match="too busy"):
            sdk(body)


def test_nothing_comes_after_the_end() -> None:
    writer = DIALECT.writer(Asked(REQUEST, "a", "i", 0, array=True))
    events: list[Event] = [START, Finish("end"), END]
    body = b"".join(map(writer.write, events))
    assert body.endswith(b"]")
    assert writer.write(Ping()) == b""
    assert writer.write(StreamError("x")) == b""


@BOTH
def test_keep_alives_disturb_nobody(array: bool) -> None:
    events: list[Event] = [Ping(), START, Ping(), BlockStart(0, Text("")), Ping()]
    events += [Delta(0, "a"), Ping(), BlockStop(0), Finish("end"), END]
    body = written(events, array=array)
    assert [one.text for one in collect(DIALECT.reader(), [body]) if isinstance(one, Delta)] == [
        "a"
    ]
    if not array:
        assert "".join(one.text or "" for one in sdk(body)) == "a"
    else:
        assert len(msgspec.json.decode(body)) == 2


# -- Read --------------------------------------------------------------------------------------


def event(**document: Any) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\r\n\r\n"


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    ended = {"finishReason": reason} if reason else {}
    return {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **ended}


def test_a_reason_in_every_chunk_ends_nothing_early() -> None:
    body = event(candidates=[piece("a", "STOP")]) + event(candidates=[piece("b", "STOP")])
    events = collect(DIALECT.reader(), [body])
    assert choices_of(events) == (Choice((Text("ab"),), "end"),)
    assert [type(one) for one in events[-3:]] == [BlockStop, Finish, MessageEnd]


def test_the_last_usage_stands_as_a_whole() -> None:
    body = event(candidates=[piece("a")], usageMetadata={"promptTokenCount": 99})
    body += event(
        candidates=[piece("b", "STOP")],
        usageMetadata={"promptTokenCount": 40, "candidatesTokenCount": 2, "thoughtsTokenCount": 3},
    )
    reader = DIALECT.reader()
    events = collect(reader, [body])
    assert events[-1] == MessageEnd(Usage(40, 5, reasoning_tokens=3))
    assert events[0] == MessageStart(None, None, Usage(99, 0))
    metered = reader.metered()
    assert metered.usage == Usage(40, 5, reasoning_tokens=3)
    assert metered.complete
    assert metered.text_bytes == 2


def test_comments_are_signs_of_life() -> None:
    events = collect(DIALECT.reader(), [b": busy\r\n\r\n" + event(candidates=[piece("a", "STOP")])])
    assert isinstance(events[0], Ping)


def test_a_last_event_without_its_blank_line_counts() -> None:
    body = event(candidates=[piece("a", "STOP")]).rstrip()
    assert choices_of(collect(DIALECT.reader(), [body])) == (Choice((Text("a"),), "end"),)


@pytest.mark.parametrize("shape", ["sse", "array"])
def test_an_end_without_a_reason_is_a_cut(shape: str) -> None:
    whole = event(candidates=[piece("a")])
    body = whole if shape == "sse" else b"[" + whole[6:-4] + b"]"
    for end in range(len(body) + 1):
        reader = DIALECT.reader()
        events = reader.feed(body[:end])
        with pytest.raises(Truncated):
            reader.eof()
        check_grammar(events)


def test_one_of_two_choices_that_does_not_end_is_a_cut() -> None:
    reader = DIALECT.reader()
    reader.feed(event(candidates=[piece("a", "STOP"), {**piece("b"), "index": 1}]))
    with pytest.raises(Truncated):
        reader.eof()


def test_what_is_no_chunk_is_an_error_and_nothing_follows() -> None:
    reader = DIALECT.reader()
    events = reader.feed(b"data: <html>\r\n\r\n" + event(candidates=[piece("a", "STOP")]))
    assert [type(one) for one in events] == [StreamError]
    assert reader.eof() == []
    assert reader.feed(event(candidates=[piece("a", "STOP")])) == []
    assert reader.metered().fault is not None


def test_an_event_that_does_not_end_is_bounded() -> None:
    reader = DIALECT.reader()
    events: list[Event] = []
    block = b"data: " + b"x" * (4 * 1024 * 1024)
    for _ in range(TAP_EVENT_BYTES_MAX // len(block) + 2):
        events += reader.feed(block)
    assert [type(one) for one in events] == [StreamError]


def test_images_and_what_only_gemini_knows_are_blocks_of_their_own() -> None:
    data = base64.b64encode(b"image").decode()
    parts = [
        {"text": "a"},
        {"executableCode": {"language": "PYTHON", "code": "1"}},
        {"inlineData": {"mimeType": "image/png", "data": data}},
        {"text": "b"},
    ]
    body = event(candidates=[{"content": {"parts": parts}, "finishReason": "STOP"}])
    (choice,) = choices_of(collect(DIALECT.reader(), [body]))
    text, code, image, rest = choice.content
    assert (text, rest) == (Text("a"), Text("b"))
    assert image == Image("image/png", data)
    assert getattr(code, "kind", "") == "executableCode"
    assert msgspec.json.decode(getattr(code, "json", b"")) == parts[1]
