"""Every recorded answer, whole and cut: the bytes that come out, and the usage that is read."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from wire_records import Record, bodies, cut, random_cuts, run, streams

from gateway.wire import registry
from gateway.wire.neutral import Metered, SidePass, Usage

pytestmark = pytest.mark.recorded

PARTS = {
    "cached_input_read": "cache_read_input_tokens",
    "cache_write": "cache_creation_input_tokens",
    "cache_write_5m": "cache_write_5m",
    "cache_write_1h": "cache_write_1h",
    "reasoning": "reasoning_tokens",
    "input_audio": "input_audio_tokens",
    "input_image": "input_image_tokens",
    "input_tool_use": "input_tool_use_tokens",
    "output_audio": "output_audio_tokens",
    "output_image": "output_image_tokens",
    "server_tool_requests": "server_tool_requests",
}

INCOMPLETE = {
    "658f07f4a21d321c7d7b": "ends in an error event, without [DONE]",
    "8cb65a91cc50939ffdfb": "ends in an error event, without [DONE]",
    "4614c3ba1a94c7790737": "a vendor's own grammar, without usage, finish or [DONE]",
}
"""Streams that tell no ending; all others must be seen to complete."""

BYTE_BY_BYTE_BYTES_MAX = 64 * 1024


def expected(record: Record) -> Usage | None:
    """Map `expected_usage` to `Usage`, field for field."""
    found = record.expected_usage
    if found is None:
        return None
    parts: dict[str, Any] = {ours: found.get(theirs) for theirs, ours in PARTS.items()}
    if "completion_tokens_details" in found["raw"]:
        # The records list image output for Gemini alone; OpenAI's shape tells it too.
        details = found["raw"]["completion_tokens_details"] or {}
        parts["output_image_tokens"] = details.get("image_tokens")
    besides = [
        SidePass(
            kind=one["type"],
            model=one["model"],
            input_tokens=one["input_uncached"] + one["cached_input_read"] + one["cache_write"],
            output_tokens=one["output"],
            cache_read_input_tokens=one["cached_input_read"],
            cache_creation_input_tokens=one["cache_write"],
            cache_write_5m=0,
            cache_write_1h=0,
        )
        for one in found.get("billed_besides", ())
    ]
    return Usage(
        input_tokens=found["input"],
        output_tokens=found["output"],
        billed_besides=besides or None,
        **parts,
    )


def check(record: Record, found: Metered) -> str | None:
    if found.usage != expected(record):
        return f"{record.id}: {found.usage} instead of {expected(record)}"
    if found.complete is (record.id in INCOMPLETE):
        return f"{record.id}: complete is {found.complete}"
    if record.expected_usage and found.complete is not record.expected_usage["complete"]:
        return f"{record.id}: complete is {found.complete}"
    return None


def whole(record: Record) -> list[int]:
    return []


def scattered(record: Record) -> list[int]:
    return random_cuts(record.body, record.id)


def every_byte(record: Record) -> list[int]:
    return list(range(1, len(record.body)))


@pytest.mark.parametrize("cuts", [whole, scattered, every_byte])
def test_streams_come_out_as_they_went_in_and_are_metered(
    cuts: Callable[[Record], list[int]],
) -> None:
    wrong = []
    tried = 0
    for record in streams():
        body = record.body
        if cuts is every_byte and len(body) > BYTE_BY_BYTE_BYTES_MAX:
            continue
        out, found = run(record.tap(), cut(body, cuts(record)))
        tried += 1
        if out != body:
            wrong.append(f"{record.id}: other bytes")
        if problem := check(record, found):
            wrong.append(problem)
    assert not wrong
    assert tried >= (520 if cuts is every_byte else 580)


@pytest.mark.parametrize("cuts", [whole, scattered, every_byte])
def test_bodies_are_metered(cuts: Callable[[Record], list[int]]) -> None:
    wrong = []
    for record in bodies():
        if cuts is every_byte and len(record.body) > BYTE_BY_BYTE_BYTES_MAX:
            continue
        tap = registry.body_tap(record.format)
        for piece in cut(record.body, cuts(record)):
            tap.feed(piece)
        if problem := check(record, tap.metered()):
            wrong.append(problem)
    assert not wrong


def test_native_reads_the_same_counts_whatever_the_shape() -> None:
    wrong = []
    for record in bodies():
        tap = registry.body_tap("native")
        tap.feed(record.body)
        if tap.metered().usage != expected(record):
            wrong.append(f"{record.id}: {tap.metered().usage} instead of {expected(record)}")
    assert not wrong


def test_provider_contradictions_are_reported_as_they_stand() -> None:
    """`ambiguous` records: cached above prompt, reasoning above completion. Raw counts stand."""
    seen = 0
    for record in [*streams(), *bodies()]:
        found = record.expected_usage
        if not found or not found.get("ambiguous"):
            continue
        seen += 1
        raw, usage = found["raw"], expected(record)
        assert usage is not None
        assert usage.input_tokens == raw["prompt_tokens"]
        assert usage.output_tokens == raw["completion_tokens"]
    assert seen >= 19


def test_the_ending_of_a_stream_waits_for_release() -> None:
    endings = {
        "openai_chat": b"data: [DONE]",
        "openai_completions": b"data: [DONE]",
        "anthropic_messages": b'"message_stop"',
        "openai_responses": b'"response":{',
    }
    seen = set()
    for record in streams():
        ending = endings.get(record.format)
        if ending is None or not record.body.endswith(b"\n\n") or ending not in record.body:
            continue
        tap = record.tap()
        sent = b"".join(map(tap.feed, cut(record.body, scattered(record))))
        if not tap.terminal:
            assert record.id in INCOMPLETE
            continue
        held = tap.release()
        assert sent + held == record.body
        assert ending in held
        assert sent.count(b"[DONE]") == 0 or record.format == "openai_responses"
        assert b"message_stop" not in sent
        seen.add(record.format)
    assert seen == set(endings)


def usage_only(event: bytes) -> bool:
    data = event.strip().removeprefix(b"data:").strip()
    if not data.startswith(b"{"):
        return False
    chunk = msgspec.json.decode(data)
    return chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)


def test_only_the_usage_chunk_is_taken_out_of_a_chat_stream() -> None:
    stripped = 0
    for record in streams():
        if record.format != "openai_chat":
            continue
        end = b"\r\n\r\n" if b"\r\n\r\n" in record.body else b"\n\n"
        events = record.body.split(end)
        kept = end.join(one for one in events if not usage_only(one))
        for cuts in (whole, scattered):
            out, found = run(record.tap(strip_usage=True), cut(record.body, cuts(record)))
            assert out == kept, record.id
            assert found.usage == expected(record)
        stripped += kept != record.body
    assert stripped >= 90


def test_text_of_chat_streams_is_estimated_within_a_factor_of_two() -> None:
    """Chat is where usage may be left out: only then is the estimate used."""
    ratios = {}
    for record in streams():
        choices = (record.expected_content or {}).get("choices", [])
        text = sum(
            len((one.get("text") or "").encode()) + one.get("reasoning_chars", 0)
            for one in choices
            if not one.get("tool_calls")
        )
        if record.format == "openai_chat" and text >= 300:
            _, found = run(record.tap(), cut(record.body, []))
            ratios[record.id] = found.text_bytes / text
    far = {name: ratio for name, ratio in ratios.items() if not 0.5 <= ratio <= 2}
    assert len(ratios) >= 50
    assert len(far) / len(ratios) < 0.1, far
