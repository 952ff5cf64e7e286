"""A stream that ends before its end is an error to the caller, in every pair, wherever it ends.

What its end is, is said here by the bytes of each format (`ENDS`), not by the readers: whatever
comes before that event must not bring the caller anything that ends a stream of theirs, and a
clean close there must be `Truncated`.
"""

import copy
import random
import re
from collections.abc import Iterator

import pytest
from translation_cases import PAIRS, asked, dialect, streams
from wire_records import Record, cut

from gateway.wire import registry, sse
from gateway.wire.events import StreamError, Truncated
from gateway.wire.translate import TranslatingTap, Translation

PAIR_IDS = [f"{one}->{other}" for one, other in PAIRS]

ENDS = {
    "openai_chat": re.compile(rb'"finish_reason":\s*"[^"]+"|\[DONE\]'),
    "openai_responses": re.compile(rb'"type":\s*"response\.(completed|incomplete|failed)"'),
    "anthropic_messages": re.compile(rb'"type":\s*"message_stop"'),
    "gemini": re.compile(rb'"finishReason":\s*"'),
}
"""What the event that ends a stream holds, as a provider sends it."""

MARKS = {
    "openai_chat": re.compile(rb"\[DONE\]"),
    "openai_responses": re.compile(rb"response\.(completed|incomplete)"),
    "anthropic_messages": re.compile(rb"message_stop"),
    "gemini": re.compile(rb'"finishReason"'),
}
"""What a client of the format takes for the end of a whole stream."""


def events(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The events of a stream and where they begin."""
    start = 0
    while (end := sse.event_end(body, start)) >= 0:
        yield start, body[start:end]
        start = end
    if start < len(body):
        yield start, body[start:]


def untold(record: Record) -> bytes:
    """A stream up to the event that tells its end; all of one that never tells it."""
    end = ENDS[record.format]
    return next(
        (record.body[:at] for at, event in events(record.body) if end.search(event)), record.body
    )


def single(name: str) -> Iterator[Record]:
    """Streams of one choice: of several, each has an end."""
    for record in streams(name):
        content = record.expected_content
        assert content is not None
        if len(content["choices"]) == 1:
            yield record


def tap_of(pair: tuple[str, str]) -> TranslatingTap:
    caller, upstream = pair
    wanted = asked(caller, stream=True)
    return Translation(dialect(caller), dialect(upstream), wanted.request).tap(wanted)


def untouched(caller: str, out: bytes, tap: TranslatingTap) -> bool:
    """Whether nothing of it looks like the end of a stream."""
    found = tap.metered()
    return not (tap.terminal or found.complete or MARKS[caller].search(out + tap.release()))


@pytest.mark.recorded
@pytest.mark.parametrize("name", registry.DIALECTS)
def test_a_clean_close_at_any_event_before_the_end_is_told(name: str) -> None:
    cuts = 0
    for record in single(name):
        reader = dialect(name).reader()
        failed = False
        for _, event in events(untold(record)):
            failed = failed or any(isinstance(one, StreamError) for one in reader.feed(event))
            if failed:
                break
            with pytest.raises(Truncated):
                copy.deepcopy(reader).eof()
            cuts += 1
    assert cuts > 150


@pytest.mark.recorded
@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_no_caller_is_told_an_end_that_did_not_come(pair: tuple[str, str]) -> None:
    caller, upstream = pair
    streamed = 0
    for record in single(upstream):
        body = untold(record)
        tap = tap_of(pair)
        out = b"".join(map(tap.feed, cut(body, [at for at, _ in events(body) if at])))
        assert untouched(caller, out, tap), record.id
        assert untouched(caller, out + tap.end(), tap), record.id
        streamed += 1
    assert streamed > 40


@pytest.mark.recorded
@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_a_cut_inside_an_event_is_no_end_either(pair: tuple[str, str]) -> None:
    caller, upstream = pair
    for record in single(upstream):
        rng = random.Random(record.id)
        body = untold(record)
        end = ENDS[upstream].search(record.body, len(body))
        # Also inside the very event that tells the end: it lacks its last bytes.
        near = () if end is None else (rng.randint(len(body), end.start()),)
        for at in (*(rng.randrange(len(body) + 1) for _ in range(3)), *near):
            tap = tap_of(pair)
            out = tap.feed(record.body[:at]) + tap.drop_partial()
            assert untouched(caller, out, tap), (record.id, at)
            tap = tap_of(pair)
            out = tap.feed(record.body[:at]) + tap.end()
            assert untouched(caller, out, tap), (record.id, at)


# --- errors in the stream ---------------------------------------------------------------------

CALL = b'{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":"{\\"a\\":"}}'
CHAT_CHUNK = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":%b,"finish_reason":null}]}\n\n'
)
RESPONSE = b'{"id":"resp_1","object":"response","status":"%b","output":[]%b}'
RESPONSES_EVENT = b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n'
MESSAGE = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],'
    b'"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":1}}'
)


def responses_event(kind: bytes, number: int, more: bytes) -> bytes:
    return RESPONSES_EVENT % (kind, kind, number, more)


def anthropic_event(kind: bytes, more: bytes) -> bytes:
    return b'event: %b\ndata: {"type":"%b",%b}\n\n' % (kind, kind, more)


def gemini_event(candidate: bytes) -> bytes:
    return b'data: {"candidates":[%b],"responseId":"r","modelVersion":"m"}\r\n\r\n' % candidate


OPENINGS = {
    "openai_chat": CHAT_CHUNK % b'{"role":"assistant","content":"Hel"}',
    "openai_responses": (
        responses_event(b"response.created", 0, b'"response":' + RESPONSE % (b"in_progress", b""))
        + responses_event(
            b"response.output_item.added", 1,
            b'"output_index":0,"item":{"id":"msg_1","type":"message","role":"assistant",'
            b'"status":"in_progress","content":[]}',
        )
        + responses_event(
            b"response.content_part.added", 2,
            b'"item_id":"msg_1","output_index":0,"content_index":0,'
            b'"part":{"type":"output_text","text":"","annotations":[]}',
        )
        + responses_event(
            b"response.output_text.delta", 3,
            b'"item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hel","logprobs":[]',
        )
    ),
    "anthropic_messages": (
        anthropic_event(b"message_start", b'"message":' + MESSAGE)
        + anthropic_event(
            b"content_block_start", b'"index":0,"content_block":{"type":"text","text":""}'
        )
        + anthropic_event(
            b"content_block_delta", b'"index":0,"delta":{"type":"text_delta","text":"Hel"}'
        )
    ),
    "gemini": gemini_event(b'{"content":{"role":"model","parts":[{"text":"Hel"}]},"index":0}'),
}  # fmt: skip
"""A stream of each format that has begun."""

FAILED = b'"error":{"code":"server_error","message":"Overloaded"}'
FAILURES = {
    "openai_chat": {
        "an error": b'data: {"error":{"message":"Overloaded","type":"server_error"}}\n\n',
        "an error as text": b'data: {"error":"Overloaded"}\n\n',
    },
    "openai_responses": {
        "an error": responses_event(
            b"error", 4, b'"code":"server_error","message":"Overloaded","param":null'
        ),
        "a failed response": responses_event(
            b"response.failed", 4, b'"response":' + RESPONSE % (b"failed", b"," + FAILED)
        ),
    },
    "anthropic_messages": {
        "an error": anthropic_event(
            b"error", b'"error":{"type":"overloaded_error","message":"Overloaded"}'
        ),
    },
    "gemini": {
        "an error": (
            b'data: {"error":{"code":503,"message":"Overloaded","status":"UNAVAILABLE"}}\r\n\r\n'
        ),
        "a malformed call": gemini_event(
            b'{"finishReason":"MALFORMED_FUNCTION_CALL","finishMessage":"Overloaded","index":0}'
        ),
        "an unexpected call": gemini_event(
            b'{"content":{},"finishReason":"UNEXPECTED_TOOL_CALL","index":0}'
        ),
    },
}  # fmt: skip
FAILURES["gemini"]["a blocked prompt"] = (
    b'data: {"promptFeedback":{"blockReason":"SAFETY","blockReasonMessage":"Overloaded"},'
    b'"usageMetadata":{"promptTokenCount":4,"totalTokenCount":4}}\r\n\r\n'
)
TOLD = {
    "openai_chat": re.compile(rb'data: \{"error":\{[^\n]+\}\n\n\Z'),
    "openai_responses": re.compile(rb"event: (response\.failed|error)\ndata: [^\n]+\n\n\Z"),
    "anthropic_messages": re.compile(rb'event: error\ndata: \{"type":"error",[^\n]+\n\n\Z'),
    "gemini": re.compile(rb'data: \{"error":\{"code":\d+,[^\n]+\}(\r\n|\n){2}\Z'),
}
"""The last event of a stream that failed, in each format."""

CASES = [
    (caller, upstream, kind)
    for caller, upstream in PAIRS
    for kind in FAILURES.get(upstream, ())
]  # fmt: skip


@pytest.mark.parametrize("begun", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("case", CASES, ids="->".join)
def test_a_failure_in_the_stream_is_the_callers_error_and_nothing_follows(
    case: tuple[str, str, str], begun: bool
) -> None:
    caller, upstream, kind = case
    pair = caller, upstream
    body = (OPENINGS[upstream] if begun else b"") + FAILURES[upstream][kind]
    for pieces in (cut(body, []), cut(body, list(range(1, len(body))))):
        tap = tap_of(pair)
        out = b"".join(map(tap.feed, pieces))
        assert TOLD[caller].search(out), out
        assert len(TOLD[caller].findall(out)) == 1
        if "unexpected" not in kind:
            assert b"Overloaded" in out
        assert tap.metered().fault is not None
        # Whatever an upstream still says, and its close, change nothing.
        assert tap.feed(FAILURES[upstream][kind]) + tap.end() == b""
        assert untouched(caller, out, tap)


WHOLE_FAILURES = {
    "openai_chat": {"an error": b'{"error":{"message":"Overloaded","type":"server_error"}}'},
    "openai_responses": {
        "a failed response": RESPONSE % (b"failed", b"," + FAILED),
        "one that is queued": RESPONSE % (b"queued", b""),
        "one that goes on": RESPONSE % (b"in_progress", b""),
        "one that was cancelled": RESPONSE % (b"cancelled", b""),
    },
    "anthropic_messages": {
        "an error": b'{"type":"error","error":{"type":"api_error","message":"Overloaded"}}'
    },
    "gemini": {
        "a blocked prompt": b'{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"}}',
        "a malformed call": (
            b'{"candidates":[{"finishReason":"MALFORMED_FUNCTION_CALL","index":0}]}'
        ),
        "no candidates": b'{"candidates":[],"modelVersion":"m"}',
        "an error": b'{"error":{"code":503,"message":"Overloaded","status":"UNAVAILABLE"}}',
    },
}
WHOLE_CASES = [
    (caller, upstream, kind)
    for caller, upstream in PAIRS
    for kind in WHOLE_FAILURES.get(upstream, ())
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("case", WHOLE_CASES, ids="->".join)
def test_an_answer_that_failed_is_no_answer(case: tuple[str, str, str], stream: bool) -> None:
    caller, upstream, kind = case
    wanted = asked(caller, stream=stream)
    translation = Translation(dialect(caller), dialect(upstream), wanted.request)
    translate = translation.streamed_answer if stream else translation.answer
    out = translate(WHOLE_FAILURES[upstream][kind], wanted)
    assert not isinstance(out, bytes), out
    if out is not None:
        assert out.message
