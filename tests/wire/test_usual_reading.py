"""What is usual is read by a shorter way, to the same: requests, answers, events, what they tell.

Each short way is compared with the general one: on random documents of the usual shape and near it,
and on everything that was recorded.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_records import Record, bodies, records

from gateway.errors import GatewayError
from gateway.wire import (
    anthropic_messages_answers,
    anthropic_messages_requests,
    anthropic_messages_usual,
    gemini_answers,
    gemini_requests,
    gemini_usual,
    openai_chat_answers,
    openai_chat_requests,
    openai_chat_usual,
    registry,
)
from gateway.wire.anthropic_messages_streams import MessagesStreamReader
from gateway.wire.conversation import Answer, Request
from gateway.wire.translate import metered_of

TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["", " ", '"cache_control"', "é\n"]))
NUMBERS = st.sampled_from([None, 0, 0.2, 1, 1.5, 2, -1, 64])


def near(usual: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these members, and now and then one that is not usual."""
    odd = {
        "stop": st.just("x"),
        "name": st.just("Ada"),
        "tools": st.just([]),
        "made_up": st.just(1),
    }
    return st.fixed_dictionaries({}, optional={**usual, **odd})


CHAT = near(
    {
        "model": st.sampled_from(["gpt-4o", "", None]),
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
                    "content": st.one_of(TEXTS, st.none(), st.just([])),
                },
                optional={"name": st.just("Ada")},
            ),
            max_size=4,
        ),
        "stream": st.sampled_from([None, True, False]),
        "stream_options": st.sampled_from([None, {"include_usage": True}, {}]),
        "max_tokens": NUMBERS,
        "max_completion_tokens": NUMBERS,
        "temperature": NUMBERS,
        "top_p": NUMBERS,
    }
)
MESSAGES = near(
    {
        "model": st.sampled_from(["claude-sonnet-4-5", "", None]),
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["user", "assistant", "system"]),
                    "content": st.one_of(TEXTS, st.just([])),
                }
            ),
            max_size=4,
        ),
        "system": st.one_of(TEXTS, st.none(), st.just([])),
        "max_tokens": NUMBERS,
        "stream": st.sampled_from([None, True, False]),
        "temperature": NUMBERS,
        "top_p": NUMBERS,
        "top_k": NUMBERS,
    }
)
GEMINI_PARTS = st.lists(
    st.fixed_dictionaries(
        {"text": st.one_of(TEXTS, st.none())},
        optional={"thought": st.booleans(), "thoughtSignature": st.just("YWJj")},
    ),
    max_size=2,
)
GEMINI = near(
    {
        "contents": st.lists(
            st.fixed_dictionaries(
                {"parts": GEMINI_PARTS},
                optional={"role": st.sampled_from(["user", "model", "function", "", None])},
            ),
            max_size=4,
        ),
        "systemInstruction": st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {"parts": GEMINI_PARTS}, optional={"role": st.sampled_from(["user", "x", None])}
            ),
        ),
        "generationConfig": st.fixed_dictionaries(
            {},
            optional={
                "maxOutputTokens": NUMBERS,
                "temperature": NUMBERS,
                "topP": NUMBERS,
                "topK": NUMBERS,
                "top_k": NUMBERS,
                "candidateCount": NUMBERS,
                "seed": NUMBERS,
            },
        ),
    }
)
PATH_MODEL = "gemini-2.5-flash"


def generally(wire_format: str, body: bytes) -> Request | None:
    """What the general reader makes of it; None: it refuses."""
    try:
        if wire_format == "gemini":
            return gemini_requests.read_request(body, model=PATH_MODEL, stream=True)
        if wire_format == "openai_chat":
            return openai_chat_requests.read_request(body)
        return anthropic_messages_requests.read_request(body)
    except GatewayError:
        return None


def shortly(wire_format: str, body: bytes) -> Request | None:
    """What the short way makes of it; None: it is not usual."""
    if wire_format == "openai_chat":
        return openai_chat_usual.read_request(body)
    if wire_format == "gemini":
        return gemini_usual.read_request(body, model=PATH_MODEL, stream=True)
    return anthropic_messages_usual.read_request(body, stream=None)


def check_request(wire_format: str, body: bytes) -> bool:
    """Compare; whether it was a usual one."""
    found = shortly(wire_format, body)
    if found is None:
        return False
    general = generally(wire_format, body)
    assert found == general
    assert general is not None
    assert list(found.spelled) == list(general.spelled)
    return True


@given(CHAT)
def test_a_usual_chat_request_is_read_as_the_general_reader_reads_it(asked: dict[str, Any]) -> None:
    check_request("openai_chat", msgspec.json.encode(asked))


@given(MESSAGES)
def test_a_usual_messages_request_is_read_as_the_general_reader_reads_it(
    asked: dict[str, Any],
) -> None:
    check_request("anthropic_messages", msgspec.json.encode(asked))


@given(GEMINI)
def test_a_usual_gemini_request_is_read_as_the_general_reader_reads_it(
    asked: dict[str, Any],
) -> None:
    check_request("gemini", msgspec.json.encode(asked))


@pytest.mark.parametrize(
    ("wire_format", "asked"),
    [
        (
            "openai_chat",
            {
                "model": "m",
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "u"},
                    {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "u"},
                ],
                "max_tokens": 5,
                "temperature": 0.5,
                "top_p": 0.9,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        ),
        (
            "anthropic_messages",
            {
                "model": "m",
                "system": "s",
                "messages": [{"role": "user", "content": "u"}],
                "max_tokens": 5,
                "temperature": 0.5,
                "top_k": 4,
                "stream": True,
            },
        ),
        (
            "gemini",
            {
                "contents": [
                    {"role": "user", "parts": [{"text": "u"}, {"text": "v"}]},
                    {"role": "model", "parts": [{"text": "a"}]},
                    {"parts": [{"text": "u"}]},
                ],
                "systemInstruction": {"role": "user", "parts": [{"text": "s"}]},
                "generationConfig": {
                    "topK": 4,
                    "topP": 0.9,
                    "maxOutputTokens": 5,
                    "temperature": 1,
                    "candidateCount": 1,
                },
            },
        ),
    ],
)
def test_plain_conversations_are_usual(wire_format: str, asked: dict[str, Any]) -> None:
    assert check_request(wire_format, msgspec.json.encode(asked))


@given(
    st.fixed_dictionaries(
        {"content": TEXTS},
        optional={"role": st.just("assistant"), "refusal": st.sampled_from([None, "no"]),
                  "annotations": st.just([]), "reasoning_content": TEXTS},
    ),
    st.sampled_from(["stop", "length", "error", "content_filter", "eos", "", None]),
    st.sampled_from([None, "word", 7]),
    st.sampled_from([{"prompt_tokens": 3, "completion_tokens": 2}, {}, {"prompt_tokens": 3.0}]),
)  # fmt: skip
def test_a_usual_chat_answer_is_read_as_the_general_reader_reads_it(
    message: dict[str, Any], reason: str | None, matched: object, usage: dict[str, Any]
) -> None:
    choice = {"index": 0, "message": message, "finish_reason": reason, "stop_reason": matched}
    document = {"id": "a", "object": "chat.completion", "created": 5, "model": "m"}
    body = msgspec.json.encode({**document, "choices": [choice], "usage": usage})
    found = openai_chat_usual.read_answer(body)
    assert found in (None, openai_chat_answers.read_answer(body))


def test_a_plain_chat_answer_is_usual() -> None:
    assert openai_chat_usual.read_answer(
        b'{"id":"a","object":"chat.completion","created":5,"model":"m","choices":[{"index":0,'
        b'"message":{"role":"assistant","content":"Hi","refusal":null,"annotations":[]},'
        b'"logprobs":null,"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":3,"completion_tokens":2}}'
    )


@given(
    st.lists(TEXTS, max_size=3),
    st.sampled_from(["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "", None]),
    st.sampled_from([None, "word"]),
    st.sampled_from([{"input_tokens": 3, "output_tokens": 2}, {}, {"input_tokens": 3.0}]),
)
def test_a_usual_messages_answer_is_read_as_the_general_reader_reads_it(
    texts: list[str], reason: str | None, sequence: str | None, usage: dict[str, Any]
) -> None:
    blocks = [{"type": "text", "text": text} for text in texts]
    document: dict[str, Any] = {"id": "a", "type": "message", "model": "m", "stop_reason": reason}
    document |= {"stop_sequence": sequence, "usage": usage}
    body = msgspec.json.encode({**document, "content": blocks})
    for block in blocks:
        block["made_up"] = "1"
    longer = msgspec.json.encode({**document, "content": blocks})
    read = anthropic_messages_answers.read_answer
    assert read(body) == read(longer)


@given(
    st.fixed_dictionaries(
        {"text": TEXTS},
        optional={"thought": st.booleans(), "thoughtSignature": st.just("YWJj"),
                  "made_up": st.just(1)},
    ),
    st.sampled_from(["STOP", "MAX_TOKENS", "SAFETY", "CONTINUATION", "MALFORMED_FUNCTION_CALL",
                     "new", "", None]),
    st.dictionaries(
        st.sampled_from(["role", "index", "finishMessage", "groundingMetadata", "error",
                         "promptFeedback", "responseId", "modelVersion"]),
        st.sampled_from([None, "word", 7, {}]),
        max_size=2,
    ),
    st.sampled_from([
        {"promptTokenCount": 3, "candidatesTokenCount": 2, "thoughtsTokenCount": 4},
        {"promptTokenCount": 3, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 3}]},
        {"promptTokenCount": 9, "cachedContentTokenCount": 1, "candidatesTokensDetails": [
            {"modality": "AUDIO", "tokenCount": 3}, {"modality": "IMAGE"}]},
        {"promptTokenCount": 3.0}, {"promptTokenCount": -1}, {}, None,
    ]),
)  # fmt: skip
def test_a_usual_gemini_answer_is_read_as_the_general_reader_reads_it(
    part: dict[str, Any], reason: str | None, more: dict[str, Any], usage: dict[str, Any] | None
) -> None:
    candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}}
    candidate |= {"finishReason": reason, "index": 0}
    document: dict[str, Any] = {"candidates": [candidate], "usageMetadata": usage}
    for name, value in more.items():
        beside = ("role", "index", "finishMessage", "groundingMetadata")
        (candidate if name in beside else document)[name] = value
    body = msgspec.json.encode(document)
    assert gemini_usual.read_answer(body) in (None, gemini_answers.read_answer(body))


def test_a_plain_gemini_answer_is_usual() -> None:
    assert gemini_usual.read_answer(
        b'{"candidates":[{"content":{"parts":[{"text":"Hi"}],"role":"model"},'
        b'"finishReason":"STOP","avgLogprobs":-0.1,"index":0}],"usageMetadata":'
        b'{"promptTokenCount":3,"candidatesTokenCount":2,"totalTokenCount":5},'
        b'"modelVersion":"gemini-2.5-flash","responseId":"a"}'
    )


OPENING = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"a","model":"m"}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
)


@given(
    TEXTS,
    st.sampled_from([0, 1, -1]),
    st.sampled_from(["text_delta", "thinking_delta", "made_up"]),
    st.sampled_from([b"", b"  ", b"\r"]),
)
def test_a_usual_event_is_read_as_a_cut_one(
    text: str, index: int, kind: str, padding: bytes
) -> None:
    data = {"type": "content_block_delta", "index": index, "delta": {"type": kind, "text": text}}
    event = b"event: content_block_delta\ndata: %b%b\n\n" % (msgspec.json.encode(data), padding)
    whole, cut = MessagesStreamReader(), MessagesStreamReader()
    whole.feed(OPENING)
    cut.feed(OPENING)
    # A reader that holds a part of an event goes the general way.
    assert whole.feed(event) == [*cut.feed(event[:9]), *cut.feed(event[9:])]
    assert whole.metered() == cut.metered()


@pytest.mark.recorded
def test_every_recorded_request_that_is_usual_is_read_as_the_general_reader_reads_it() -> None:
    usual = [
        record
        for record in records()
        if record.format in ("openai_chat", "anthropic_messages", "gemini")
        and check_request(record.format, request_of(record))
    ]
    assert len(usual) > 100
    assert sum(record.format == "gemini" for record in usual) > 10


@pytest.mark.recorded
def test_every_recorded_gemini_answer_that_is_usual_is_read_as_the_general_reader_reads_it() -> (
    None
):
    usual = 0
    for record in bodies():
        found = gemini_usual.read_answer(record.body) if record.format == "gemini" else None
        if found is not None:
            assert found == gemini_answers.read_answer(record.body), record.id
            usual += 1
    assert usual > 10


def request_of(record: Record) -> bytes:
    """The recorded request's body."""
    return msgspec.json.encode(record.request_body)


@pytest.mark.recorded
def test_every_recorded_answer_tells_of_itself_what_a_tap_finds() -> None:
    told = 0
    for record in bodies():
        if record.format not in registry.DIALECTS or b'"error"' in record.body:
            continue
        answer: Answer | None = registry.dialect(record.format).read_answer(record.body)
        if answer is None or answer.error is not None or answer.usage is None:
            continue
        tap = registry.body_tap(record.format)
        tap.feed(record.body)
        assert metered_of(answer) == tap.metered(), record.id
        told += 1
    assert told > 500
