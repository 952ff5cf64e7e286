"""Answers that are one JSON document: what is read, and how much of it is kept."""

import pytest

from gateway.wire import registry, tap
from gateway.wire.format import BodyTap
from gateway.wire.neutral import StreamFault, Usage

USAGE = b'{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}'


def fed(format: str, *pieces: bytes) -> BodyTap:
    one = registry.body_tap(format)
    for piece in pieces:
        one.feed(piece)
    return one


def test_an_answer_tells_its_usage_id_and_model() -> None:
    found = fed("openai_chat", b'{"id":"x","model":"m","usage":' + USAGE + b"}").metered()
    assert found.usage == Usage(11, 7)
    assert (found.response_id, found.response_model, found.complete) == ("x", "m", True)


def test_a_truncated_answer_is_not_complete() -> None:
    found = fed("openai_chat", b'{"id":"x","usage":' + USAGE).metered()
    assert found.usage is None
    assert not found.complete


def test_an_error_told_with_200_is_a_fault() -> None:
    found = fed("openai_chat", b'{"error":{"message":"rate limited","code":429}}').metered()
    assert found.fault == StreamFault("429", "rate limited")


def test_text_is_counted_where_no_usage_is_reported() -> None:
    chat = b'{"choices":[{"message":{"role":"assistant","content":"' + b"ab" * 50 + b'"}}]}'
    assert fed("openai_chat", chat).metered().text_bytes == 100
    messages = b'{"type":"message","content":[{"type":"text","text":"abcd"}]}'
    assert fed("anthropic_messages", messages).metered().text_bytes == 4
    gemini = b'{"candidates":[{"content":{"parts":[{"text":"abc"}],"role":"model"}}]}'
    assert fed("gemini", gemini).metered().text_bytes == 3
    responses = b'{"output":[{"type":"message","id":"m","content":[{"text":"abcde"}]}]}'
    assert fed("openai_responses", responses).metered().text_bytes == 5


def test_counting_tokens_is_not_usage() -> None:
    for body in (b'{"input_tokens":13}', b'{"object":"response.input_tokens","input_tokens":9}'):
        assert fed("native", body).metered().usage is None
    assert fed("native", b'{"totalTokens":31}').metered().usage is None


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"data":[],"usage":{"input_tokens":4,"output_tokens":5,"total_tokens":9}}', Usage(4, 5)),
        (
            b'{"type":"message","usage":{"input_tokens":4,"cache_read_input_tokens":6,'
            b'"output_tokens":5}}',
            Usage(10, 5, cache_read_input_tokens=6),
        ),
        (b'{"usageMetadata":{"promptTokenCount":4,"thoughtsTokenCount":2}}',
         Usage(4, 2, reasoning_tokens=2)),
        (b'{"text":"hi","usage":{"type":"duration","seconds":3}}', None),
        (b"ID3\x04 not JSON at all", None),
        (b"", None),
    ],
)  # fmt: skip
def test_native_bodies_are_metered_in_any_shape(body: bytes, usage: Usage | None) -> None:
    assert fed("native", body).metered().usage == usage


def large(rest: bytes) -> list[bytes]:
    filler = b"A" * 65_536
    count = tap.BODY_DECODE_BYTES_MAX // len(filler) + 8
    return [b'{"data":[{"b64_json":"', *[filler] * count, b'"}],', rest]


@pytest.mark.parametrize("format", ["openai_chat", "native", "openai_embeddings"])
def test_usage_is_found_in_the_tail_of_a_large_body(format: str) -> None:
    rest = b'"usage": ' + USAGE + b', "metadata":{"a":[1,"}"]}}\n'
    found = fed(format, *large(rest)).metered()
    assert found.usage == Usage(11, 7)
    assert found.complete


def test_gemini_usage_is_found_in_the_tail_of_a_large_body() -> None:
    rest = b'"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":6},"modelVersion":"m"}'
    assert fed("gemini", *large(rest)).metered().usage == Usage(5, 6)


def test_only_a_usage_object_at_the_top_level_of_the_tail_counts() -> None:
    inner = b'"tool":{"input":{"usage":{"prompt_tokens":999}}}'
    before = fed("openai_chat", *large(b'"usage":' + USAGE + b"," + inner + b"}")).metered()
    assert before.usage == Usage(11, 7)
    alone = fed("openai_chat", *large(inner + b"}")).metered()
    assert alone.usage is None
    assert alone.complete
    quoted = fed("openai_chat", *large(b'"text":"\\"usage\\":{\\"prompt_tokens\\":9}"}')).metered()
    assert quoted.usage is None


def test_a_large_body_in_one_piece_keeps_a_bounded_tail() -> None:
    body = b"".join(large(b'"usage":' + USAGE + b"}"))
    one = fed("openai_chat", body)
    assert one.metered().usage == Usage(11, 7)
    pieces: list[bytes] = one._pieces  # type: ignore[attr-defined]
    assert sum(map(len, pieces)) <= tap.BODY_TAIL_BYTES


def test_memory_stays_bounded_however_long_a_body_is() -> None:
    one = registry.body_tap("native")
    for count in range(1, 20_001):
        one.feed(b"x" * 1000)
        if count % 500 == 0:
            pieces: list[bytes] = one._pieces  # type: ignore[attr-defined]
            assert sum(map(len, pieces)) <= tap.BODY_DECODE_BYTES_MAX + tap.BODY_TAIL_BYTES
    assert sum(map(len, pieces)) <= 2 * tap.BODY_TAIL_BYTES


def test_usage_beside_half_a_surrogate_pair_is_read() -> None:
    body = b'{"choices":[{"message":{"content":"\\ud83d"}}],"usage":' + USAGE + b"}"
    assert fed("openai_chat", body).metered().usage == Usage(11, 7)
