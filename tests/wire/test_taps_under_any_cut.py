"""Taps on small vectors and made-up bytes: cut everywhere, too large, malformed, misspelled."""

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import registry, sse, tap
from gateway.wire.format import StreamTap
from gateway.wire.neutral import Metered, SidePass, StreamFault, Usage

VECTORS = Path(__file__).parent.parent / "vectors"

CHAT = Usage(
    input_tokens=20,
    output_tokens=7,
    cache_read_input_tokens=4,
    reasoning_tokens=3,
    input_audio_tokens=0,
)
GEMINI = Usage(
    input_tokens=46,
    output_tokens=16,
    cache_read_input_tokens=8,
    reasoning_tokens=11,
    input_image_tokens=10,
    input_tool_use_tokens=6,
)

# vector -> usage, complete, fault type, response id, response model
VECTOR_ANSWERS: dict[str, tuple[Usage | None, bool, str | None, str | None, str | None]] = {
    "openai_chat/stream.sse": (CHAT, True, None, "chatcmpl-1", "m-1"),
    "openai_chat/stream_crlf.sse": (CHAT, True, None, "chatcmpl-1", "m-1"),
    "openai_chat/stream_cr.sse": (CHAT, True, None, "chatcmpl-1", "m-1"),
    "openai_chat/stream_bom_no_final_newline.sse": (CHAT, True, None, "chatcmpl-1", "m-1"),
    "openai_chat/error.sse": (None, False, "server_error", "chatcmpl-2", None),
    "openai_responses/stream.sse": (
        Usage(
            input_tokens=30,
            output_tokens=9,
            cache_read_input_tokens=10,
            cache_creation_input_tokens=5,
            reasoning_tokens=2,
        ),
        True,
        None,
        "resp_1",
        "m-2",
    ),
    "openai_responses/failed.sse": (None, True, "server_error", "resp_2", "m-2"),
    "anthropic_messages/stream.sse": (
        Usage(
            input_tokens=67,
            output_tokens=40,
            cache_read_input_tokens=5,
            cache_creation_input_tokens=50,
            cache_write_5m=20,
            cache_write_1h=30,
            reasoning_tokens=8,
            server_tool_requests={"web_search_requests": 2},
            billed_besides=[
                SidePass(
                    kind="advisor_message",
                    model="m-4",
                    input_tokens=107,
                    output_tokens=3,
                    cache_read_input_tokens=7,
                )
            ],
        ),
        True,
        None,
        "msg_1",
        "m-3",
    ),
    "anthropic_messages/error.sse": (
        Usage(input_tokens=10, output_tokens=1),
        False,
        "overloaded_error",
        "msg_2",
        "m-3",
    ),
    "gemini/stream.sse": (GEMINI, True, None, "r-1", "m-5"),
    "gemini/array.json": (GEMINI, True, None, "r-1", "m-5"),
    "gemini/array_error.json": (None, False, "UNAVAILABLE", None, None),
    "native/image.sse": (
        Usage(input_tokens=40, output_tokens=60, input_image_tokens=30),
        True,
        None,
        None,
        None,
    ),
}


def new_tap(vector: str) -> StreamTap:
    return registry.stream_tap(vector.split("/")[0], json_array=vector.endswith(".json"))


def vector_bytes(vector: str) -> bytes:
    return (VECTORS / vector).read_bytes()


def run(one: StreamTap, pieces: list[bytes]) -> tuple[bytes, Metered, bool, bool]:
    out = b"".join(map(one.feed, pieces))
    found = one.metered()
    return out + one.release(), found, one.terminal, one.content


def shown(found: Metered) -> tuple[Usage | None, bool, StreamFault | None, str | None, str | None]:
    return found.usage, found.complete, found.fault, found.response_id, found.response_model


@pytest.mark.parametrize("vector", VECTOR_ANSWERS)
def test_a_vector_means_the_same_however_it_is_cut(vector: str) -> None:
    body = vector_bytes(vector)
    usage, complete, fault, response_id, model = VECTOR_ANSWERS[vector]
    rng = random.Random(vector)
    cuts = [[], list(range(1, len(body)))]
    cuts += [[at] for at in range(1, len(body))]
    cuts += [sorted(rng.sample(range(len(body)), 6)) for _ in range(300)]
    outcomes = set()
    for offsets in cuts:
        bounds = [0, *offsets, len(body)]
        pieces = [body[a:b] for a, b in pairwise(bounds)]
        out, found, terminal, content = run(new_tap(vector), pieces)
        assert out == body
        assert found.usage == usage
        assert found.complete is complete
        assert (found.fault.type if found.fault else None) == fault
        assert (found.response_id, found.response_model) == (response_id, model)
        outcomes.add((terminal, content))
    assert len(outcomes) == 1


@pytest.mark.parametrize("vector", VECTOR_ANSWERS)
def test_a_vector_cut_short_is_not_complete(vector: str) -> None:
    body = vector_bytes(vector)
    if VECTOR_ANSWERS[vector][1]:
        last = max(body.rfind(b"finishReason"), body.rstrip().rfind(b'"'), body.rfind(b"[DONE]"))
        if vector.startswith("openai_chat"):
            last = body.find(b'"usage":{')  # finish and usage are enough where [DONE] is not sent
        if "gemini" in vector:
            last = body.find(b"finishReason")
        one = new_tap(vector)
        one.feed(body[:last])
        assert not one.metered().complete
        assert not one.terminal


@pytest.mark.parametrize("name", ["stream.sse", "stream_crlf.sse", "stream_cr.sse"])
def test_the_stripped_chunk_is_the_same_under_every_cut(name: str) -> None:
    body = vector_bytes(f"openai_chat/{name}")
    end = {"stream.sse": b"\n\n", "stream_crlf.sse": b"\r\n\r\n", "stream_cr.sse": b"\r\r"}[name]
    events = body.split(end)
    kept = end.join(one for one in events if b'"choices":[],"usage":{' not in one)
    assert kept != body
    for at in range(len(body)):
        one = registry.stream_tap("openai_chat", strip_usage=True)
        out, found, _, _ = run(one, [body[:at], body[at:]])
        assert out == kept
        assert found.usage == CHAT
    one = registry.stream_tap("openai_chat", strip_usage=True)
    out, _, _, _ = run(one, [body[at : at + 1] for at in range(len(body))])
    assert out == kept


def test_the_usage_chunk_is_stripped_though_it_ends_the_body_without_a_blank_line() -> None:
    body = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    one = registry.stream_tap("openai_chat", strip_usage=True)
    out, found, _, _ = run(one, [body])
    assert out == b""
    assert found.usage == Usage(input_tokens=1, output_tokens=2)


def test_chunks_with_choices_or_without_usage_are_not_stripped() -> None:
    first = b'data: {"choices":[],"prompt_filter_results":[],"usage":null}\n\n'
    both = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}\n\n'
    one = registry.stream_tap("openai_chat", strip_usage=True)
    assert one.feed(first) + one.feed(both) == first + both


DELTAS = {
    "openai_chat": b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"ab"}}],'
    b'"usage":null}\n\n',
    "openai_responses": b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","delta":"ab","sequence_number":4}\n\n',
    "anthropic_messages": b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"ab"}}\n\n',
    "gemini": b'data: {"candidates": [{"content": {"parts": [{"text": "ab"}]}}],'
    b'"usageMetadata": {"promptTokenCount": 3}}\r\n\r\n',
    "native": b'data: {"type":"speech.audio.delta","audio":"ab"}\n\n',
}


@pytest.mark.parametrize("format", DELTAS)
def test_the_usual_piece_passes_as_the_same_object(format: str) -> None:
    one = registry.stream_tap(format)
    for _ in range(tap.SAMPLES + 1):
        piece = bytes(bytearray(DELTAS[format] * 3))
        assert one.feed(piece) is piece
    assert one.content


@pytest.mark.parametrize("format", ["openai_chat", "openai_responses", "anthropic_messages"])
def test_text_is_counted_exactly_where_all_deltas_look_alike(format: str) -> None:
    one = registry.stream_tap(format)
    for _ in range(50):
        one.feed(DELTAS[format].replace(b'"ab"', b'"abcd"'))
    assert one.metered().text_bytes == 200


ENDINGS = {
    "openai_chat": b"data: [DONE]\n\n",
    "openai_responses": b'event: response.incomplete\ndata: {"type":"response.incomplete",'
    b'"response":{"usage":{"input_tokens":1,"output_tokens":2}}}\n\n',
    "anthropic_messages": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}


@pytest.mark.parametrize("format", ENDINGS)
@pytest.mark.parametrize("deltas", [0, 20])
def test_the_terminal_event_and_all_after_it_stay_until_release(format: str, deltas: int) -> None:
    before, ending, after = DELTAS[format] * deltas, ENDINGS[format], b": bye\n\ndata: x"
    one = registry.stream_tap(format)
    assert one.feed(before + ending + after) == before
    assert one.terminal
    assert one.metered().complete
    assert one.feed(b"more") == b""
    assert one.release() == ending + after + b"more"
    assert one.feed(b"and more") == b"and more"
    assert one.release() == b""


@pytest.mark.parametrize("format", ENDINGS)
def test_dropping_a_partial_keeps_the_whole_events_held(format: str) -> None:
    one = registry.stream_tap(format)
    one.feed(ENDINGS[format] + b": bye\n\ndata: cut he")
    assert one.drop_partial() == ENDINGS[format] + b": bye\n\n"
    other = registry.stream_tap(format)
    assert other.feed(DELTAS[format] + b"data: cut he") == DELTAS[format]
    assert other.drop_partial() == b""


def test_a_long_partial_is_let_through_and_closed_when_it_is_dropped() -> None:
    one = registry.stream_tap("openai_chat")
    start = b'data: {"choices":[{"delta":{"content":"' + b"a" * tap.PARTIAL_EVENT_BYTES_MAX
    assert one.feed(start[:1000]) == b""
    assert one.feed(start[1000:]) == start
    assert one.drop_partial() == b"\n\n"


def test_usage_is_read_from_an_event_that_was_let_through_in_parts() -> None:
    image = b"A" * (2 * 1024 * 1024)
    body = (
        b'data: {"candidates": [{"content": {"parts": [{"inlineData": {"data": "' + image + b'"}}]}'
        b',"finishReason": "STOP"}],"usageMetadata": {"promptTokenCount": 7,'
        b'"candidatesTokenCount": 1290}}\r\n\r\n'
    )
    for size in (65536, len(body)):
        one = registry.stream_tap("gemini")
        sent = 0
        for at in range(0, len(body), size):
            sent += len(one.feed(body[at : at + size]))
            assert min(at + size, len(body)) - sent <= tap.PARTIAL_EVENT_BYTES_MAX
        assert sent == len(body)
        assert one.metered().usage == Usage(input_tokens=7, output_tokens=1290)
        assert one.metered().complete


@pytest.mark.parametrize(
    "head",
    [
        b'event: response.completed\ndata: {"type":"response.completed","response":{"output":"',
        b'data: {"response":{"output":"',
    ],
)
def test_a_long_terminal_event_is_never_let_through_early(head: bytes) -> None:
    body = (
        head + b"a" * (3 * 1024 * 1024) + b'","usage":{"input_tokens":5,"output_tokens":6}},'
        b'"type":"response.completed"}\n\n'
    )
    one = registry.stream_tap("openai_responses")
    for at in range(0, len(body), 50_000):
        assert one.feed(body[at : at + 50_000]) == b""
    assert one.terminal
    assert one.metered().usage == Usage(input_tokens=5, output_tokens=6)
    assert one.release() == body


def test_a_terminal_event_told_late_still_keeps_its_last_bytes() -> None:
    padding = b'data: {"padding":"' + b"a" * 40_000 + b'",'
    ending = b'"response":{"usage":{"input_tokens":5,"output_tokens":6}},"type":"response.failed"}'
    one = registry.stream_tap("openai_responses")
    assert one.feed(padding) == padding
    assert one.feed(ending + b"\n") == ending + b"\n"
    assert one.feed(b"\n") == b""
    assert one.terminal
    assert one.release() == b"\n"


def test_above_the_largest_event_bytes_pass_and_only_its_usage_is_lost() -> None:
    one = registry.stream_tap("openai_responses")
    head = b"event: response.completed\ndata: "
    piece = b"a" * (8 * 1024 * 1024)
    came = [head, piece, piece, piece, piece, piece, b'"usage":{"input_tokens":1}}\n', b"\n"]
    out = [one.feed(one_piece) for one_piece in came]
    assert sum(map(len, out)) == sum(map(len, came))
    assert one.metered().usage is None
    next_event = b'data: {"type":"response.completed","response":{"usage":{"input_tokens":9}}}\n\n'
    assert one.feed(next_event) == b""
    assert one.metered().usage == Usage(input_tokens=9)
    assert one.release() == next_event


def test_an_oversized_array_element_passes_and_the_next_is_read() -> None:
    one = registry.stream_tap("gemini", json_array=True)
    piece = b'\\"{' + b"a" * (12 * 1024 * 1024)
    came = [b'[{"a":"', piece, piece, piece, b"\\", b'"{"}', b',{"usageMetadata":']
    came += [b'{"promptTokenCount":4}}', b"]"]
    out = b"".join(map(one.feed, came)) + one.release()
    assert out == b"".join(came)
    assert one.metered().usage == Usage(input_tokens=4)


def test_the_first_content_is_told_from_openings_pings_and_comments() -> None:
    chat = registry.stream_tap("openai_chat")
    chat.feed(b": OPENROUTER PROCESSING\n\n")
    chat.feed(b'data: {"choices":[],"prompt_filter_results":[]}\n\n')
    chat.feed(b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n')
    assert not chat.content
    chat.feed(b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a"}]}}]}\n\n')
    assert chat.content
    messages = registry.stream_tap("anthropic_messages")
    stream = vector_bytes("anthropic_messages/stream.sse")
    messages.feed(stream[: stream.index(b"event: content_block_delta")])
    assert not messages.content
    messages.feed(stream[stream.index(b"event: content_block_delta") :])
    assert messages.content
    responses = registry.stream_tap("openai_responses")
    responses.feed(b'event: response.created\ndata: {"type":"response.created"}\n\n')
    responses.feed(b'event: keepalive\ndata: {"type":"keepalive"}\n\n')
    assert not responses.content
    failed = registry.stream_tap("openai_chat")
    failed.feed(b'data: {"error":{"message":"no"}}\n\n')
    assert not failed.content
    assert failed.metered().fault == StreamFault(None, "no")


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        (b'data: {"error":"plain words"}', StreamFault(None, "plain words")),
        (b'data: {"object":"error","message":"bad","code":400}', StreamFault("400", "bad")),
        (b'data: {"error":{"code":502,"message":"m"},"choices":[]}', StreamFault("502", "m")),
        (b'data: {"error":null,"choices":[]}', None),
        (b'data: {"error":{},"choices":[]}', None),
    ],
)
def test_errors_within_a_chat_stream_are_told(event: bytes, fault: StreamFault | None) -> None:
    one = registry.stream_tap("openai_chat")
    one.feed(DELTAS["openai_chat"] * 20 + event + b"\n\n")
    assert one.metered().fault == fault


def test_the_last_usage_of_a_gemini_stream_stands_as_a_whole() -> None:
    one = registry.stream_tap("gemini")
    one.feed(DELTAS["gemini"] * 20)
    assert one.metered().usage == Usage(input_tokens=3)
    last = b'data: {"candidates": [{"content": {"parts": [{"text": "a"}]}}],'
    last += b'"usageMetadata": {"promptTokenCount": 2,"candidatesTokenCount": 1}}\r\n\r\n'
    one.feed(DELTAS["gemini"] + last + b": x\r\n\r\n")
    assert one.metered().usage == Usage(input_tokens=2, output_tokens=1)
    assert not one.metered().complete


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (b'{"prompt_tokens":3.0,"completion_tokens":2}', Usage(3, 2)),
        (b'{"prompt_tokens":-3,"completion_tokens":2}', Usage(0, 2)),
        (b'{"prompt_tokens":1e300,"completion_tokens":2}', Usage(0, 2)),
        (b'{"prompt_tokens":true,"completion_tokens":"2"}', None),
        (b'{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":[1]}', Usage(3, 2)),
        (b'{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":-1}}', Usage(3)),
        (b"{}", None),
        (b"[]", None),
        (b'"no"', None),
        (b'{"total_tokens":9}', None),
        (
            b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":22,'
            b'"completion_tokens_details":{"reasoning_tokens":7}}',
            Usage(10, 12, reasoning_tokens=7),
        ),
        (
            b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":24,'
            b'"prompt_tokens_details":{"audio_tokens":9}}',
            Usage(19, 5, input_audio_tokens=9),
        ),
    ],
)
def test_odd_counts_are_left_out_and_the_rest_is_read(usage: bytes, found: Usage | None) -> None:
    one = registry.stream_tap("openai_chat")
    one.feed(b'data: {"choices":[{"delta":{"content":"\\ud83d"}}],"usage":' + usage + b"}\n\n")
    assert one.metered().usage == found


NOISE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"\n", b"\r", b"\r\n", b"\n\n", b"data: ", b"data:", b"event: message_stop", b"[DONE]",
            b"event: response.completed\n", b'{"type":"response.completed","response":{}}',
            b'{"usage":{"prompt_tokens":1}}', b'{"choices":[],"usage":{"prompt_tokens":1}}',
            b'{"choices":[{"delta":{"content":"x"}}]}', b'{"choices":[[]],"error":5,"id":{}}',
            b'{"type":"message_start","message":{"usage":{"input_tokens":[1]}}}',
            b'{"candidates":[{"content":3,"finishReason":1}],"usageMetadata":[]}',
            b'{"usageMetadata":{"promptTokenCount":1}}', b"[" * 2000, b'{"a":' * 600, b'"\\',
            b"\xef\xbb\xbf", b"\xff",
            b'{"type":"content_block_delta","delta":{"text":"a"}}', b"content_block_delta\n",
            b'{"type":"response.x.delta","delta":"a"}', b'{"error":{"message":[1],"type":{}}}',
        ]
    ),
    st.sampled_from(list(DELTAS.values()) + list(ENDINGS.values())),
)  # fmt: skip
TAPS = [(name, False) for name in registry.FORMATS] + [("gemini", True)]


@pytest.mark.parametrize(("format", "json_array"), TAPS)
@settings(max_examples=120, deadline=None)
@given(parts=st.lists(NOISE, max_size=25), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_no_bytes_whatsoever_upset_a_tap(
    format: str, json_array: bool, parts: list[bytes], cuts: list[int]
) -> None:
    body = b"".join(parts)
    offsets = sorted(min(at, len(body)) for at in cuts)
    bounds = [0, *offsets, len(body)]
    pieces = [body[a:b] for a, b in pairwise(bounds)]
    once = run(registry.stream_tap(format, json_array=json_array), [body])
    cut = run(registry.stream_tap(format, json_array=json_array), pieces)
    single = run(
        registry.stream_tap(format, json_array=json_array),
        [body[at : at + 1] for at in range(len(body))],
    )
    assert once[0] == cut[0] == single[0] == body
    assert shown(once[1]) == shown(cut[1]) == shown(single[1])
    assert once[2:] == cut[2:] == single[2:]
    stripped = {
        run(registry.stream_tap(format, strip_usage=True, json_array=json_array), how)[0]
        for how in ([body], pieces)
    }
    assert len(stripped) == 1
    one = registry.stream_tap(format, json_array=json_array)
    for piece in pieces:
        one.feed(piece)
        one.metered()
    one.drop_partial()
    assert shown(one.metered()) == shown(once[1])


@pytest.mark.parametrize("format", registry.FORMATS)
@settings(max_examples=100, deadline=None)
@given(parts=st.lists(NOISE, max_size=6))
def test_no_bytes_whatsoever_upset_a_body_tap(format: str, parts: list[bytes]) -> None:
    whole, pieces = registry.body_tap(format), registry.body_tap(format)
    whole.feed(b"".join(parts))
    for part in parts:
        pieces.feed(part)
    assert whole.metered() == pieces.metered()


@pytest.mark.parametrize(
    ("buffer", "end"),
    [
        (b"", 0),
        (b"d", 0),
        (b"\n\n", 2),
        (b"\n\nd", 2),  # one byte of the next event has come: it is not part of this one
        (b"\r\n\r\n", 4),
        (b"\r\n\r\nd", 4),
        (b"a\n\nb\r\n\r\nc", 8),
        (b"a\r\n\r\nb\n\nc", 8),
    ],
)
def test_whole_events_end_with_their_blank_line_and_no_later(buffer: bytes, end: int) -> None:
    assert sse.whole_end(buffer) == end
