"""What the tests of all pairs of formats share: the pairs, what callers asked, what must come out.

The pairs are made from the registry, so a new format is tried with no line here but those that say
how its SDK is called (`sdk_schemas.py`).
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from sdk_schemas import Seen, SeenChoice
from wire_records import Record, records

from gateway.wire import call_ids, registry
from gateway.wire.conversation import Request, StopReason
from gateway.wire.format import Asked, Dialect

PAIRS = [(one, other) for one in registry.DIALECTS for other in registry.DIALECTS if one != other]
"""Two different formats; which is the caller's, the test says."""

CREATED_S = 1_790_000_000
NEVER_GENERATES = "openai.compact"


def dialect(name: str) -> Dialect:
    return registry.DIALECTS[name]


def asked(caller: str, *, stream: bool, array: bool = False) -> Asked:
    """What a plain question in a format asked."""
    request = Request(format=caller, model="premium", stream=stream, include_usage=True, choices=8)
    return Asked(request, "premium", "0199-aaaa-bbbb", CREATED_S, array)


@cache
def of_format(name: str) -> tuple[Record, ...]:
    return tuple(one for one in records() if one.format == name and one.endpoint != NEVER_GENERATES)


def answers(name: str) -> Iterator[Record]:
    """Whole answers of a format."""
    return (one for one in of_format(name) if one.status == 200 and not one.streamed)


def streams(name: str) -> Iterator[Record]:
    """Streams of a format that came as SSE: an upstream is always asked for that."""
    return (
        one for one in of_format(name)
        if one.status == 200 and one.streamed and "array_stream" not in one.tags
    )  # fmt: skip


def requests(name: str) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Requests of a format as documents; those that the provider took."""
    for one in of_format(name):
        found = msgspec.json.decode(one.request_body)
        if isinstance(found, dict) and one.status == 200:
            yield one, found


# --- what must come out -----------------------------------------------------------------------

STOPS: dict[str, dict[str | None, StopReason]] = {
    "openai_chat": {
        "stop": "end", "length": "max_tokens", "tool_calls": "tool_call",
        "content_filter": "refusal", "function_call": "tool_call",
    },
    "openai_responses": {
        "completed": "end", "max_output_tokens": "max_tokens", "content_filter": "refusal",
    },
    "anthropic_messages": {
        "end_turn": "end", "max_tokens": "max_tokens", "tool_use": "tool_call",
        "stop_sequence": "stop_sequence", "refusal": "refusal", "pause_turn": "pause",
    },
    "gemini": {"STOP": "end", "MAX_TOKENS": "max_tokens", "SAFETY": "refusal"},
}  # fmt: skip
"""What the words of a format mean to its users. Calls tell of themselves where it has no word."""


def stop_seen(name: str, choice: SeenChoice) -> StopReason:
    stop = STOPS[name][choice.stop]
    if stop == "end" and choice.calls and name in ("openai_responses", "gemini"):
        return "tool_call"
    return stop


def usage_seen(name: str, seen: Seen) -> dict[str, int | None]:
    """Usage as an SDK tells it, in the meaning of `expected_usage`."""
    found = seen.usage
    assert found is not None
    counts: dict[str, int | None]
    match name:
        case "openai_chat":
            before = found["prompt_tokens_details"] or {}
            after = found["completion_tokens_details"] or {}
            assert found["total_tokens"] == found["prompt_tokens"] + found["completion_tokens"]
            counts = {
                "input": found["prompt_tokens"], "output": found["completion_tokens"],
                "cached_input_read": before.get("cached_tokens"),
                "reasoning": after.get("reasoning_tokens"),
            }  # fmt: skip
        case "openai_responses":
            assert found["total_tokens"] == found["input_tokens"] + found["output_tokens"]
            counts = {
                "input": found["input_tokens"], "output": found["output_tokens"],
                "cached_input_read": found["input_tokens_details"]["cached_tokens"],
                "cache_write": found["input_tokens_details"]["cache_write_tokens"],
                "reasoning": found["output_tokens_details"]["reasoning_tokens"],
            }  # fmt: skip
        case "anthropic_messages":
            read = found["cache_read_input_tokens"] or 0
            written = found["cache_creation_input_tokens"] or 0
            counts = {
                "input": found["input_tokens"] + read + written, "output": found["output_tokens"],
                "cached_input_read": read, "cache_write": written,
            }  # fmt: skip
        case "gemini":
            thoughts = found["thoughts_token_count"] or 0
            extra = found["tool_use_prompt_token_count"] or 0
            counts = {
                "input": found["prompt_token_count"] + extra,
                "output": (found["candidates_token_count"] or 0) + thoughts,
                "cached_input_read": found["cached_content_token_count"],
                "reasoning": thoughts,
            }  # fmt: skip
            assert found["total_token_count"] == counts["input"] + (counts["output"] or 0)  # type: ignore[operator]
    return counts


def usage_expected(record: Record, names: Iterator[str]) -> dict[str, int | None]:
    assert record.expected_usage is not None
    return {name: record.expected_usage.get(name) for name in names}


def differences(caller: str, record: Record, seen: Seen, *, stream: bool) -> list[str]:
    """In what an answer that came out is not the one that went in."""
    wanted = expected_choices(record)
    if len(seen.choices) != len(wanted):
        return [f"{len(seen.choices)} choices instead of {len(wanted)}"]
    found = [
        f"{where}: {got!r} instead of {want!r}"
        for choice, one in zip(seen.choices, wanted, strict=True)
        for where, got, want in _compared(caller, choice, one, stream=stream)
        if got != want
    ]
    if record.expected_usage is not None and not record.expected_usage.get("ambiguous"):
        got_usage = usage_seen(caller, seen)
        want_usage = usage_expected(record, iter(got_usage))
        for name, count in got_usage.items():
            if (count or 0) != (want_usage[name] or 0):
                found.append(f"usage {name}: {count} instead of {want_usage[name]}")
    return found


def expected_choices(record: Record) -> list[dict[str, Any]]:
    """The recorded choices: calls that have a name, and the reason of the end in our words."""
    expected = record.expected_content
    assert expected is not None
    choices = []
    for one in expected["choices"]:
        calls = [call for call in one["tool_calls"] if call["name"]]  # "" is a field left empty
        choice = {**one, "tool_calls": calls}
        choices.append({**choice, "stop": _stop_expected(choice, record.format)})
    return choices


TAKES_OBJECTS = ("anthropic_messages", "gemini")
"""Formats whose calls have a JSON object, not text."""


def _stop_expected(choice: dict[str, Any], name: str) -> StopReason | None:
    word = choice["stop"]
    if name == "openai_responses":
        word = str(word).removeprefix("incomplete:")
    stop = STOPS[name].get(word)
    return "tool_call" if stop == "end" and choice["tool_calls"] else stop


def _compared(
    caller: str, choice: SeenChoice, wanted: Any, *, stream: bool
) -> Iterator[tuple[str, Any, Any]]:
    text, refusal = wanted["text"] or "", wanted["refusal"] or ""
    objects = caller in TAKES_OBJECTS
    if objects:  # which have no place for a refusal's words
        yield "text", choice.text, text + refusal
    else:
        yield "text", choice.text, text
        yield "refusal", choice.refusal, refusal
    calls = wanted["tool_calls"]
    stop = wanted["stop"]
    cut = [one for one in calls if not isinstance(one["arguments"], dict)]
    if cut and objects:
        # Arguments that were cut are no object: the call is not given, the reason is.
        calls = [one for one in calls if one not in cut]
        stop = "max_tokens"
    if stop == "stop_sequence" and caller != "anthropic_messages":
        stop = "end"
    if stop is not None and not refusal:
        yield "stop", stop_seen(caller, choice), stop
    if cut and stream and caller == "anthropic_messages":
        return  # its arguments went out as they came, before it was known that they are cut
    yield "calls", [one.name for one in choice.calls], [one["name"] for one in calls]
    yield "arguments", [one.arguments for one in choice.calls], [one["arguments"] for one in calls]
    ids = [one.id for one in choice.calls]
    yield "calls without an id of their own", [one for one, n in Counter(ids).items() if n > 1], []
    yield "missing ids", [one for one in ids if not one], []
    given = [one["id"] for one in calls]
    yield (
        "ids",
        [call_ids.restored(one or "") for one, want in zip(ids, given, strict=False) if want],
        [want for want in given if want],
    )
