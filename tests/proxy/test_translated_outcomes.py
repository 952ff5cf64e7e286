"""How calls across formats end, and what they cost: failures, refusals, and usage in full.

Usage is told with everything that a provider counts apart: tokens read from and written to a cache,
and reasoning. Each caller is told it in its own format's convention, and the receipt has the same.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import Answer, Call, Running, gateway_before, reply, scenario
from translated_calls import (
    ALIASES,
    CALLERS,
    MODELS,
    PAIR_IDS,
    PAIRS,
    TEXT,
    answer,
    asks_for_stream,
    events,
    path,
    question,
    read_stream,
    stream,
    upstream_format,
)

from gateway.ledger.catalog import Catalog
from gateway.ledger.prices import cost
from gateway.wire.neutral import Usage

Pair = tuple[str, str]
pairs = pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
both = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])


async def ask(gateway: Running, key: bytes, pair: Pair, streamed: bool) -> Answer:
    caller, upstream = pair
    model = f"on_{upstream}"
    body = question(caller, model, stream=streamed)
    return await gateway.call(path(caller, model, stream=streamed), body, key=key)


def documents(body: bytes) -> list[Any]:
    """The events of a stream."""
    lines = body.replace(b"\r\n", b"\n").split(b"\n")
    data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    return [msgspec.json.decode(one) for one in data if one != b"[DONE]"]


# --- usage ------------------------------------------------------------------------------------

USED: dict[str, Usage] = {
    "openai_chat": Usage(100, 50, cache_read_input_tokens=30, reasoning_tokens=20),
    "anthropic_messages": Usage(
        100, 50, cache_read_input_tokens=30, cache_creation_input_tokens=10,
        cache_write_5m=6, cache_write_1h=4, reasoning_tokens=None,
    ),
    "gemini": Usage(100, 50, cache_read_input_tokens=30, reasoning_tokens=20),
}  # fmt: skip
"""By upstream: what the call used, in the meaning of receipts."""

TOLD: dict[str, dict[str, Any]] = {
    "openai_chat": {
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 20},
    },
    "anthropic_messages": {
        "input_tokens": 60, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 10,
        "cache_creation": {"ephemeral_5m_input_tokens": 6, "ephemeral_1h_input_tokens": 4},
        "output_tokens": 50,
    },
    "gemini": {
        "promptTokenCount": 100, "cachedContentTokenCount": 30, "candidatesTokenCount": 30,
        "thoughtsTokenCount": 20, "totalTokenCount": 150,
    },
}  # fmt: skip
"""By upstream: the same as its provider tells it."""


def with_usage(upstream: str, document: Any) -> Any:
    """An answer, or an event of one, with the usage above where it tells any."""
    told = TOLD[upstream]
    if upstream == "gemini":
        return document | {"usageMetadata": told}
    if document.get("type") == "message_start":
        early = {**told, "output_tokens": 1}
        return document | {"message": document["message"] | {"usage": early}}
    return document | {"usage": told} if document.get("usage") else document


def counted(caller: str, found: Any) -> dict[str, int]:
    """Usage as a caller reads it, in the words of receipts; what it is not told is not there."""
    match caller:
        case "openai_chat":
            before, after = found["prompt_tokens_details"], found.get("completion_tokens_details")
            assert found["total_tokens"] == found["prompt_tokens"] + found["completion_tokens"]
            return {
                "input_tokens": found["prompt_tokens"],
                "output_tokens": found["completion_tokens"],
                "cache_read_input_tokens": before["cached_tokens"],
                "reasoning_tokens": after["reasoning_tokens"] if after else 0,
            }
        case "openai_responses":
            before, after = found["input_tokens_details"], found["output_tokens_details"]
            assert found["total_tokens"] == found["input_tokens"] + found["output_tokens"]
            return {
                "input_tokens": found["input_tokens"],
                "output_tokens": found["output_tokens"],
                "cache_read_input_tokens": before["cached_tokens"],
                "cache_creation_input_tokens": before["cache_write_tokens"],
                "reasoning_tokens": after["reasoning_tokens"],
            }
        case "anthropic_messages":
            read, written = (
                found["cache_read_input_tokens"], found["cache_creation_input_tokens"] or 0
            )  # fmt: skip
            return {
                "input_tokens": found["input_tokens"] + read + written,
                "output_tokens": found["output_tokens"],
                "cache_read_input_tokens": read,
                "cache_creation_input_tokens": written,
            }
    thoughts = found.get("thoughtsTokenCount", 0)
    output = found["candidatesTokenCount"] + thoughts
    assert found["totalTokenCount"] == found["promptTokenCount"] + output
    return {
        "input_tokens": found["promptTokenCount"],
        "output_tokens": output,
        "cache_read_input_tokens": found["cachedContentTokenCount"],
        "reasoning_tokens": thoughts,
    }


def last_usage(caller: str, body: bytes, *, streamed: bool) -> Any:
    """The usage of an answer: in a stream what was told of it last."""
    name = "usageMetadata" if caller == "gemini" else "usage"
    found = None
    for one in documents(body) if streamed else [msgspec.json.decode(body)]:
        told = one.get("response", one) if caller == "openai_responses" else one
        found = told.get(name) or found
    assert found is not None
    return found


@both
@pairs
@scenario
async def test_the_caller_is_told_what_the_receipt_says_whatever_was_cached_or_thought(
    pair: Pair, streamed: bool, tmp_path: Path
) -> None:
    caller, upstream_name = pair

    async def counts(call: Call) -> None:
        name = upstream_format(call)
        if not asks_for_stream(call):
            whole = msgspec.json.decode(answer(name))
            await call.send(reply(msgspec.json.encode(with_usage(name, whole))))
            return
        out = []
        for event in events(name):
            before, data, after = event.partition(b"data: ")
            if not data or after.startswith(b"[DONE]"):
                out.append(event)
                continue
            document = msgspec.json.encode(with_usage(name, msgspec.json.decode(after)))
            out.append(before + data + document + b"\n\n")
        await stream(call, out)

    async with gateway_before(tmp_path, counts, more=ALIASES) as (gateway, _):
        key = await gateway.key()
        got = await ask(gateway, key, pair, streamed)
        assert got.status == 200, got
        used = USED[upstream_name]
        found = counted(caller, last_usage(caller, got.body, streamed=streamed))
        for name, count in found.items():
            assert count == (getattr(used, name) or 0), name
        receipt = await gateway.receipt(got, key)
        assert receipt["usage"]["source"] == "reported"
        assert receipt["usage"]["total_tokens"] == 150
        for name in found:
            assert (receipt["usage"][name] or 0) == found[name], name
        model = Catalog.load().find(*MODELS[upstream_name])
        assert model is not None
        assert receipt["cost"]["nano_usd"] == cost(used, model.price) > 0


# --- failures with status 200 -----------------------------------------------------------------

SPENT = {"promptTokenCount": 9, "totalTokenCount": 9}
HALF: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": TEXT}]}, "index": 0}
FAILED: dict[str, dict[str, Any]] = {
    "a blocked prompt": {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": SPENT},
    "a malformed call": {
        "candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "index": 0}],
        "usageMetadata": SPENT,
    },
    "an unexpected call": {
        "candidates": [{**HALF, "finishReason": "UNEXPECTED_TOOL_CALL"}], "usageMetadata": SPENT,
    },
}  # fmt: skip


@both
@pytest.mark.parametrize("kind", FAILED)
@pytest.mark.parametrize("caller", [one for one in CALLERS if one != "gemini"])
@scenario
async def test_an_answer_that_failed_at_gemini_is_an_error_and_never_an_end(
    caller: str, kind: str, streamed: bool, tmp_path: Path
) -> None:
    async def fails(call: Call) -> None:
        body = msgspec.json.encode(FAILED[kind])
        if asks_for_stream(call):
            await stream(call, [b"data: %b\r\n\r\n" % body])
        else:
            await call.send(reply(body))

    async with gateway_before(tmp_path, fails, more=ALIASES) as (gateway, _):
        key = await gateway.key()
        got = await ask(gateway, key, (caller, "gemini"), streamed)
        if got.status == 200:
            found = read_stream(caller, got.body)
            assert found.error is not None
            assert not found.ended
        else:
            assert got.status == (400 if "prompt" in kind else 502), got
            assert got.json()["error"]["message"]
        receipt = await gateway.receipt(got, key)
        assert receipt["status"] == "failed"
        assert receipt["failure"]["stage"] in ("upstream_status", "upstream_stream")
        charged = receipt["cost"]["nano_usd"]
        if receipt["usage"]["source"] == "none":
            assert charged == 0
        else:
            assert (receipt["usage"]["source"], receipt["usage"]["input_tokens"]) == ("partial", 9)


# --- refusals ---------------------------------------------------------------------------------

ENDS: dict[str, str] = {
    "openai_chat": '"finish_reason":"stop"',
    "anthropic_messages": '"stop_reason":"end_turn"',
    "gemini": '"finishReason":"STOP"',
}
REFUSALS: dict[str, str] = {
    "openai_chat": '"finish_reason":"content_filter"',
    "anthropic_messages": '"stop_reason":"refusal"',
    "gemini": '"finishReason":"SAFETY"',
}
"""The end of an answer, and what stands in its place where the provider's filter ended it."""

SEEN = {
    "openai_chat": b'"finish_reason":"content_filter"',
    "openai_responses": b'"incomplete_details":{"reason":"content_filter"}',
    "anthropic_messages": b'"stop_reason":"refusal"',
    "gemini": b'"finishReason":"SAFETY"',
}
"""What a caller sees of it."""


@both
@pairs
@scenario
async def test_an_answer_that_a_filter_ended_says_so_and_is_paid_for(
    pair: Pair, streamed: bool, tmp_path: Path
) -> None:
    caller, upstream_name = pair
    end, refused = ENDS[upstream_name], REFUSALS[upstream_name]

    async def refuses(call: Call) -> None:
        name = upstream_format(call)
        said = events(name) if asks_for_stream(call) else [answer(name)]
        out = [one.replace(end.encode(), refused.encode()) for one in said]
        assert out != said
        if asks_for_stream(call):
            await stream(call, out)
        else:
            await call.send(reply(out[0]))

    async with gateway_before(tmp_path, refuses, more=ALIASES) as (gateway, _):
        key = await gateway.key()
        got = await ask(gateway, key, pair, streamed)
        assert got.status == 200, got
        assert SEEN[caller] in got.body.replace(b" ", b"")
        assert TEXT[:5].encode() in got.body
        receipt = await gateway.receipt(got, key)
        assert (receipt["status"], receipt["usage"]["source"]) == ("succeeded", "reported")
        assert receipt["cost"]["nano_usd"] > 0
