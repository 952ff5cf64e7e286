"""A running gateway between two formats: what goes out, what comes back, what it is billed."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import (
    Answer,
    Call,
    Running,
    Upstream,
    gateway_before,
    reply,
    request_bytes,
    scenario,
    until,
)
from translated_calls import (
    ALIASES,
    ARGUMENTS,
    CACHED,
    CALLERS,
    FAMILIES,
    INPUT,
    MODELS,
    OUTPUT,
    PAIR_IDS,
    PAIRS,
    SCHEMA,
    TEXT,
    UPSTREAMS,
    Read,
    answer,
    asks_for_stream,
    events,
    path,
    question,
    read,
    read_stream,
    stream,
    upstream_format,
)

from gateway.ledger.catalog import Catalog
from gateway.ledger.prices import cost
from gateway.wire.neutral import Usage

Pair = tuple[str, str]
pairs = pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)


@contextlib.asynccontextmanager
async def site(
    directory: Path, script: Callable[[Call], Awaitable[None]], **sections: str
) -> AsyncIterator[tuple[Running, Upstream, bytes]]:
    """A gateway before an upstream that plays all providers, and a key."""
    more = ALIASES + sections.pop("more", "")
    async with gateway_before(directory, script, more=more, **sections) as (gateway, upstream):
        yield gateway, upstream, await gateway.key()


async def says(call: Call) -> None:
    """Answers in the format that it was asked in, streamed where that was asked."""
    name = upstream_format(call)
    if asks_for_stream(call):
        await stream(call, events(name))
    else:
        await call.send(reply(answer(name)))


async def calls_the_tool(call: Call) -> None:
    name = upstream_format(call)
    if asks_for_stream(call):
        await stream(call, events(name, tool=True))
    else:
        await call.send(reply(answer(name, tool=True)))


async def ask(
    gateway: Running, key: bytes, pair: Pair, *, streamed: bool = False, **more: Any
) -> Answer:
    caller, upstream = pair
    model = f"on_{upstream}"
    body = question(caller, model, stream=streamed, **more)
    return await gateway.call(path(caller, model, stream=streamed), body, key=key)


def is_whole(found: Read) -> None:
    assert found.ended
    assert found.error is None
    assert found.usage == (INPUT, CACHED, OUTPUT)


def price_of(upstream: str) -> int:
    """What the conversation costs at its target, in nano-USD."""
    provider, name = MODELS[upstream]
    model = Catalog.load().find(provider, name)
    assert model is not None
    used = Usage(INPUT, OUTPUT, cache_read_input_tokens=CACHED)
    charged = cost(used, model.price)
    assert charged
    return charged


# --- what goes out and comes back -------------------------------------------------------------


@pairs
@scenario
async def test_a_whole_answer_comes_back_in_the_callers_format(pair: Pair, tmp_path: Path) -> None:
    caller, upstream_name = pair
    async with site(tmp_path, says) as (gateway, upstream, key):
        got = await ask(gateway, key, pair)
        assert got.status == 200, got
        assert got.get(b"content-type") == b"application/json"
        found = read(caller, got.body)
        assert found.text == TEXT
        is_whole(found)
        (call,) = upstream.calls
        assert upstream_format(call) == upstream_name
        assert not asks_for_stream(call)
        assert key not in call.head + call.body
        is_receipted(await gateway.receipt(got, key), pair)


@pairs
@scenario
async def test_a_stream_comes_back_as_events_of_the_callers_format(
    pair: Pair, tmp_path: Path
) -> None:
    caller, _ = pair
    async with site(tmp_path, says) as (gateway, upstream, key):
        got = await ask(gateway, key, pair, streamed=True)
        assert got.status == 200, got
        assert got.get(b"content-type") == b"text/event-stream"
        assert got.complete
        found = read_stream(caller, got.body)
        assert found.text == TEXT
        is_whole(found)
        assert asks_for_stream(upstream.calls[0])
        is_receipted(await gateway.receipt(got, key), pair)


def is_receipted(receipt: Any, pair: Pair) -> None:
    caller, upstream = pair
    assert receipt["status"] == "succeeded"
    assert receipt["request"]["format"] == caller
    route = receipt["route"]
    assert (route["format"], route["translated"]) == (upstream, True)
    used = receipt["usage"]
    assert (used["input_tokens"], used["output_tokens"]) == (INPUT, OUTPUT)
    assert used["cache_read_input_tokens"] == CACHED
    assert used["source"] == "reported"
    assert receipt["cost"]["nano_usd"] == price_of(upstream)


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pairs
@scenario
async def test_a_tool_call_comes_back_with_its_arguments(
    pair: Pair, streamed: bool, tmp_path: Path
) -> None:
    caller, _ = pair
    async with site(tmp_path, calls_the_tool) as (gateway, upstream, key):
        got = await ask(gateway, key, pair, streamed=streamed, tool=True)
        assert got.status == 200, got
        found = (read_stream if streamed else read)(caller, got.body)
        assert found.name == "weather"
        assert msgspec.json.decode(found.arguments) == msgspec.json.decode(ARGUMENTS)
        is_whole(found)
        sent = upstream.calls[0].body
        assert b'"weather"' in sent
        assert msgspec.json.encode(SCHEMA["properties"]) in sent


@pytest.mark.parametrize("upstream_name", UPSTREAMS)
@scenario
async def test_the_same_format_is_never_translated(upstream_name: str, tmp_path: Path) -> None:
    pair = upstream_name, upstream_name
    async with site(tmp_path, says) as (gateway, upstream, key):
        got = await ask(gateway, key, pair)
        assert got.body == answer(upstream_name)
        assert not (await gateway.receipt(got, key))["route"]["translated"]
        assert len(upstream.calls) == 1


@pytest.mark.skipif("gemini" not in CALLERS, reason="no such format yet")
@pytest.mark.parametrize("upstream_name", [one for one in UPSTREAMS if one != "gemini"])
@scenario
async def test_a_gemini_stream_without_sse_is_one_array(upstream_name: str, tmp_path: Path) -> None:
    model = f"on_{upstream_name}"
    async with site(tmp_path, says) as (gateway, _, key):
        target = path("gemini", model, stream=True, array=True)
        got = await gateway.call(target, question("gemini", model), key=key)
        assert got.get(b"content-type") == b"application/json"
        chunks = msgspec.json.decode(got.body)
        assert len(chunks) > 1
        parts = [
            part for one in chunks for candidate in one.get("candidates", ())
            for part in candidate.get("content", {}).get("parts", ())
        ]  # fmt: skip
        assert "".join(part.get("text", "") for part in parts) == TEXT
        assert chunks[-1]["usageMetadata"]["promptTokenCount"] == INPUT


@pairs
@scenario
async def test_an_answer_that_is_no_stream_still_reaches_a_caller_who_asked_for_one(
    pair: Pair, tmp_path: Path
) -> None:
    async def whole(call: Call) -> None:
        await call.send(reply(answer(upstream_format(call))))

    caller, _ = pair
    async with site(tmp_path, whole) as (gateway, _, key):
        got = await ask(gateway, key, pair, streamed=True)
        assert got.get(b"content-type") == b"text/event-stream"
        found = read_stream(caller, got.body)
        assert found.text == TEXT
        is_whole(found)
        assert (await gateway.receipt(got, key))["cost"]["nano_usd"] == price_of(pair[1])


@pairs
@scenario
async def test_the_first_event_is_not_held_until_the_next(pair: Pair, tmp_path: Path) -> None:
    go_on: list[bool] = []

    async def slow(call: Call) -> None:
        name = upstream_format(call)
        said = events(name)
        first = next(at for at, one in enumerate(said) if TEXT[:5].encode() in one) + 1
        await stream(call, said[:first], end=False)
        await until(lambda: bool(go_on))
        await call.send(*(b"%x\r\n%b\r\n" % (len(one), one) for one in said[first:]), b"0\r\n\r\n")

    caller, upstream_name = pair
    async with site(tmp_path, slow) as (gateway, _, key):
        model = f"on_{upstream_name}"
        client = await gateway.client()
        await client.send(
            _request(path(caller, model, stream=True), question(caller, model, stream=True), key)
        )
        status, _ = await client.head()
        assert status == 200
        seen = b""
        while TEXT[:5].encode() not in seen:
            seen += await client.piece()
        go_on.append(True)
        while piece := await client.piece():
            seen += piece
        assert read_stream(caller, seen).text == TEXT


def _request(target: str, body: bytes, key: bytes) -> bytes:
    return request_bytes("POST", target, [(b"Authorization", b"Bearer " + key)], body)


# --- losses -----------------------------------------------------------------------------------


class Odd(msgspec.Struct):
    """A field that a target has no place for."""

    caller: str
    upstream: str
    fields: dict[str, Any]
    param: str


HARM = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}

IGNORED = [
    Odd("openai_chat", "anthropic_messages", {"seed": 7}, "seed"),
    Odd("openai_chat", "gemini", {"user": "u1"}, "user"),
    Odd("openai_responses", "anthropic_messages", {"truncation": "auto"}, "truncation"),
    Odd("openai_responses", "gemini", {"prompt_cache_key": "k"}, "prompt_cache_key"),
    Odd("anthropic_messages", "openai_chat", {"x_unknown": 1}, "x_unknown"),
    Odd("anthropic_messages", "gemini", {"metadata": {"user_id": "u"}}, "metadata.user_id"),
    Odd("gemini", "openai_chat", {"safetySettings": [HARM]}, "safetySettings"),
    Odd("gemini", "anthropic_messages", {"xUnknown": 1}, "xUnknown"),
]
REFUSED = [
    Odd("openai_chat", "anthropic_messages", {"logprobs": True}, "logprobs"),
    Odd("openai_chat", "gemini", {"logit_bias": {"1": 5}}, "logit_bias"),
    Odd("openai_responses", "anthropic_messages", {"conversation": "conv_1"}, "conversation"),
    Odd("openai_responses", "gemini", {"background": True}, "background"),
    Odd("anthropic_messages", "openai_chat", {"tools": [SEARCH]}, "tools.0.type"),
    Odd("gemini", "openai_chat", {"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
    Odd("gemini", "anthropic_messages", {"cachedContent": "cachedContents/1"}, "cachedContent"),
]


def spoken(cases: list[Odd]) -> list[Odd]:
    return [one for one in cases if {one.caller, one.upstream} <= set(CALLERS)]


def name_of(one: Odd) -> str:
    return f"{one.caller}->{one.upstream}:{one.param}"


@pytest.mark.parametrize("odd", spoken(IGNORED), ids=name_of)
@scenario
async def test_what_is_left_out_is_told_in_a_header(odd: Odd, tmp_path: Path) -> None:
    async with site(tmp_path, says) as (gateway, upstream, key):
        for streamed in (False, True):
            got = await ask(
                gateway, key, (odd.caller, odd.upstream), streamed=streamed, **odd.fields
            )
            assert got.status == 200, got
            assert got.get(b"x-gateway-ignored") == odd.param.encode()
        plain = await ask(gateway, key, (odd.caller, odd.upstream))
        assert plain.get(b"x-gateway-ignored") is None
        assert msgspec.json.decode(upstream.calls[0].body) == msgspec.json.decode(
            upstream.calls[2].body
        )


@pytest.mark.parametrize("odd", spoken(REFUSED), ids=name_of)
@scenario
async def test_what_would_change_the_answer_is_refused_by_name(odd: Odd, tmp_path: Path) -> None:
    async with site(tmp_path, says) as (gateway, upstream, key):
        got = await ask(gateway, key, (odd.caller, odd.upstream), **odd.fields)
        assert got.status == 400, got
        error = got.json()["error"]
        assert odd.param.split(".")[0].split("[")[0] in error["message"]
        if FAMILIES[odd.caller] == "openai":
            assert error["code"] == "unsupported_parameter"
            assert error["param"] == odd.param
        assert not upstream.calls
        receipt = await gateway.receipt(got, key)
        assert receipt["failure"]["code"] == "unsupported_parameter"
        assert receipt["cost"]["nano_usd"] == 0


@pytest.mark.skipif("anthropic_messages" not in CALLERS, reason="no such format yet")
@scenario
async def test_names_that_callers_make_up_cannot_break_the_header(tmp_path: Path) -> None:
    async with site(tmp_path, says) as (gateway, _, key):
        odd: dict[str, Any] = {"x\r\nSet-Cookie: a=b": 1, "é" * 3000: 2}
        got = await ask(gateway, key, ("openai_chat", "anthropic_messages"), **odd)
        assert got.status == 200
        assert got.get(b"set-cookie") is None
        told = got.get(b"x-gateway-ignored")
        assert told is not None
        assert len(told) <= 1000


# --- errors -----------------------------------------------------------------------------------

UPSTREAM_ERRORS = {
    "openai_chat": {"error": {"message": "Too fast.", "type": "rate", "code": "rate_limited"}},
    "anthropic_messages": {
        "type": "error", "error": {"type": "rate_limit_error", "message": "Too fast."}
    },
    "gemini": {"error": {"code": 429, "message": "Too fast.", "status": "RESOURCE_EXHAUSTED"}},
}  # fmt: skip
WORDS = {
    "openai": ("type", {429: "rate_limit_error", 400: "invalid_request_error"}),
    "anthropic": ("type", {429: "rate_limit_error", 400: "invalid_request_error"}),
    "gemini": ("status", {429: "RESOURCE_EXHAUSTED", 400: "INVALID_ARGUMENT"}),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("status", [400, 429])
@pairs
@scenario
async def test_an_upstreams_error_keeps_its_status_in_the_callers_envelope(
    pair: Pair, status: int, streamed: bool, tmp_path: Path
) -> None:
    async def refuses(call: Call) -> None:
        told = msgspec.json.encode(UPSTREAM_ERRORS[upstream_format(call)])
        await call.send(reply(told, status=status, fields=[(b"retry-after", b"17")]))

    family = FAMILIES[pair[0]]
    async with site(tmp_path, refuses) as (gateway, _, key):
        got = await ask(gateway, key, pair, streamed=streamed)
        assert got.status == status, got
        assert got.get(b"retry-after") == b"17"
        assert got.get(b"content-type") == b"application/json"
        error = got.json()["error"]
        assert error["message"] == "Too fast."
        name, words = WORDS[family]
        assert error[name] == words[status]
        if family == "gemini":
            assert error["code"] == status
        if family == "anthropic":
            assert got.json()["type"] == "error"
        receipt = await gateway.receipt(got, key)
        assert receipt["failure"]["stage"] == "upstream_status"
        assert receipt["cost"]["nano_usd"] == 0


@pairs
@scenario
async def test_an_answer_that_is_none_of_its_format_is_a_bad_gateway(
    pair: Pair, tmp_path: Path
) -> None:
    async def babbles(call: Call) -> None:
        await call.send(reply(b"<html>busy</html>", kind=b"text/html"))

    async with site(tmp_path, babbles) as (gateway, _, key):
        got = await ask(gateway, key, pair)
        assert got.status == 502
        assert "error" in got.json()
        assert (await gateway.receipt(got, key))["cost"]["nano_usd"] == 0


@pytest.mark.skipif("gemini" not in CALLERS, reason="no such format yet")
@pytest.mark.parametrize("caller", [one for one in CALLERS if one != "gemini"])
@scenario
async def test_a_blocked_prompt_is_an_error_to_everybody(caller: str, tmp_path: Path) -> None:
    blocked = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
    }

    async def blocks(call: Call) -> None:
        body = msgspec.json.encode(blocked)
        if asks_for_stream(call):
            await stream(call, [b"data: %b\r\n\r\n" % body])
        else:
            await call.send(reply(body))

    async with site(tmp_path, blocks) as (gateway, _, key):
        whole = await ask(gateway, key, (caller, "gemini"))
        assert whole.status == 400
        assert "error" in whole.json()
        streamed = await ask(gateway, key, (caller, "gemini"), streamed=True)
        found = read_stream(caller, streamed.body)
        assert found.error is not None
        assert not found.ended
        assert (await gateway.receipt(streamed, key))["status"] == "failed"


# --- streams that break -----------------------------------------------------------------------


def opening(upstream: str) -> list[bytes]:
    """A stream up to its first text."""
    said = events(upstream)
    return said[: next(at for at, one in enumerate(said) if TEXT[:5].encode() in one) + 1]


@pytest.mark.parametrize("how", ["eof", "reset", "chunked_end"])
@pairs
@scenario
async def test_a_stream_that_breaks_off_is_an_error_event_and_a_failed_receipt(
    pair: Pair, how: str, tmp_path: Path
) -> None:
    async def breaks(call: Call) -> None:
        await stream(call, opening(upstream_format(call)), end=how == "chunked_end")
        if how == "eof":
            call.close()
        elif how == "reset":
            call.reset()

    caller, upstream_name = pair
    async with site(tmp_path, breaks) as (gateway, _, key):
        got = await ask(gateway, key, pair, streamed=True)
        found = read_stream(caller, got.body)
        assert not found.ended
        if got.status == 200:
            assert found.error is not None
        receipt = await gateway.receipt(got, key)
        assert receipt["status"] == "failed"
        assert receipt["failure"]["stage"] == "upstream_stream"
        expected = {"openai_chat": "none"}.get(upstream_name, "partial")
        assert receipt["usage"]["source"] == expected


ERROR_EVENTS = {
    "openai_chat": b'data: {"error":{"message":"Overloaded","type":"server_error"}}\n\n',
    "anthropic_messages": (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
        b'"message":"Overloaded"}}\n\n'
    ),
    "gemini": (
        b'data: {"error":{"code":503,"message":"Overloaded","status":"UNAVAILABLE"}}\r\n\r\n'
    ),
}


@pairs
@scenario
async def test_an_upstreams_error_event_becomes_the_callers(pair: Pair, tmp_path: Path) -> None:
    async def fails(call: Call) -> None:
        name = upstream_format(call)
        await stream(call, [*opening(name), ERROR_EVENTS[name]])

    caller, _ = pair
    async with site(tmp_path, fails) as (gateway, _, key):
        got = await ask(gateway, key, pair, streamed=True)
        assert got.status == 200
        found = read_stream(caller, got.body)
        assert found.text == TEXT[:5] or caller == "openai_responses"
        assert not found.ended
        assert b"Overloaded" in msgspec.json.encode(found.error)
        receipt = await gateway.receipt(got, key)
        assert receipt["status"] == "failed"
        assert receipt["failure"]["stage"] == "upstream_stream"


@pairs
@scenario
async def test_a_client_that_leaves_pays_for_what_came(pair: Pair, tmp_path: Path) -> None:
    gone: list[bool] = []

    async def streams_on(call: Call) -> None:
        await stream(call, opening(upstream_format(call)), end=False)
        gone.append(await call.gone())

    caller, upstream_name = pair
    async with site(tmp_path, streams_on) as (gateway, _, key):
        model = f"on_{upstream_name}"
        client = await gateway.client()
        body = question(caller, model, stream=True)
        await client.send(_request(path(caller, model, stream=True), body, key))
        _, fields = await client.head()
        receipt_id = Answer(200, fields, b"").receipt_id
        seen = b""
        while TEXT[:5].encode() not in seen:
            seen += await client.piece()
        client.close()
        await until(lambda: bool(gone) and not gateway.gateway.services.exchanges)
        assert gone == [True]
        receipt = await gateway.receipt(receipt_id, key)
        assert receipt["status"] == "cancelled"
        assert receipt["failure"]["stage"] == "client_disconnect"
        reported = upstream_name != "openai_chat"
        assert receipt["usage"]["source"] == ("partial" if reported else "estimated")
        if reported:
            assert receipt["usage"]["input_tokens"] == INPUT
        assert receipt["cost"]["nano_usd"] > 0


# --- routes -----------------------------------------------------------------------------------


@pytest.mark.skipif("anthropic_messages" not in CALLERS, reason="no such format yet")
@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@scenario
async def test_a_target_of_another_format_takes_over_from_one_of_the_same(
    streamed: bool, tmp_path: Path
) -> None:
    async def fails_natively(call: Call) -> None:
        if upstream_format(call) == "openai_chat":
            await call.send(reply(b'{"error":"down"}', status=500))
        else:
            await says(call)

    async with site(tmp_path, fails_natively) as (gateway, upstream, key):
        body = question("openai_chat", "first_its_own", stream=streamed, seed=5)
        got = await gateway.call("/v1/chat/completions", body, key=key)
        found = (read_stream if streamed else read)("openai_chat", got.body)
        assert found.text == TEXT
        is_whole(found)
        assert got.get(b"x-gateway-ignored") == b"seed"
        assert [upstream_format(one) for one in upstream.calls] == [
            "openai_chat", "anthropic_messages",
        ]  # fmt: skip
        receipt = await gateway.receipt(got, key)
        assert receipt["route"]["translated"]
        assert [one["outcome"] for one in receipt["route"]["attempts"]] == [
            "upstream_status", "succeeded",
        ]  # fmt: skip
        assert receipt["cost"]["nano_usd"] == price_of("anthropic_messages")


@pytest.mark.skipif("gemini" not in CALLERS, reason="no such format yet")
@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@scenario
async def test_a_target_of_the_same_format_takes_over_from_one_of_another(
    streamed: bool, tmp_path: Path
) -> None:
    async def fails_elsewhere(call: Call) -> None:
        if upstream_format(call) == "gemini":
            await call.send(reply(b"{}", status=503))
        else:
            await says(call)

    async with site(tmp_path, fails_elsewhere) as (gateway, upstream, key):
        body = question("openai_chat", "first_another", stream=streamed, user="u1")
        got = await gateway.call("/v1/chat/completions", body, key=key)
        assert upstream.calls[1].body == body.replace(b"first_another", b"gpt-4o")
        assert got.body == (b"".join(events("openai_chat")) if streamed else answer("openai_chat"))
        assert got.get(b"x-gateway-ignored") is None
        receipt = await gateway.receipt(got, key)
        assert not receipt["route"]["translated"]
        assert receipt["cost"]["nano_usd"] == price_of("openai_chat")


@pytest.mark.skipif("gemini" not in CALLERS, reason="no such format yet")
@scenario
async def test_a_target_that_cannot_say_it_is_passed_over_for_one_that_can(
    tmp_path: Path,
) -> None:
    async with site(tmp_path, says) as (gateway, upstream, key):
        body = question("openai_chat", "first_another", logit_bias={"50256": -100})
        got = await gateway.call("/v1/chat/completions", body, key=key)
        assert got.status == 200
        assert [upstream_format(one) for one in upstream.calls] == ["openai_chat"]


MAX_TOKENS: dict[str, Callable[[Any], Any]] = {
    "openai_chat": lambda body: body.get("max_completion_tokens") or body.get("max_tokens"),
    "anthropic_messages": lambda body: body["max_tokens"],
    "gemini": lambda body: body["generationConfig"]["maxOutputTokens"],
}


@pytest.mark.parametrize(
    "pair", [one for one in PAIRS if one[0] != "anthropic_messages"], ids="->".join
)
@scenario
async def test_a_cap_on_a_call_is_set_in_the_targets_spelling(pair: Pair, tmp_path: Path) -> None:
    caller, upstream_name = pair
    provider, name = MODELS[upstream_name]
    model = Catalog.load().find(provider, name)
    assert model is not None
    async with site(tmp_path, says) as (gateway, upstream, key):
        cap = 100 * cost(Usage(0, 10), model.price)
        await gateway.gateway.accounts.set_cap("somebody", f"on_{upstream_name}", cap)
        got = await ask(gateway, key, (caller, upstream_name))
        assert got.status == 200, got
        sent = MAX_TOKENS[upstream_name](msgspec.json.decode(upstream.calls[0].body))
        assert 0 < sent < 1000


# --- counting ---------------------------------------------------------------------------------


@pytest.mark.skipif("anthropic_messages" not in CALLERS, reason="no such format yet")
@scenario
async def test_tokens_are_estimated_where_no_provider_counts_in_anthropics_shape(
    tmp_path: Path,
) -> None:
    async with site(tmp_path, says) as (gateway, upstream, key):
        body = question("anthropic_messages", "on_openai_chat", system="S" * 4000)
        got = await gateway.call("/v1/messages/count_tokens", body, key=key)
        assert got.status == 200, got
        assert set(got.json()) == {"input_tokens"}
        assert 500 < got.json()["input_tokens"] < 4100
        assert got.get(b"x-gateway-estimated") == b"true"
        assert not upstream.calls
        assert (await gateway.receipt(got, key))["cost"]["nano_usd"] == 0


@pytest.mark.skipif("gemini" not in CALLERS, reason="no such format yet")
@pytest.mark.parametrize("wrapped", [False, True])
@scenario
async def test_tokens_are_estimated_where_no_provider_counts_in_geminis_shape(
    wrapped: bool, tmp_path: Path
) -> None:
    contents: Any = {"contents": [{"role": "user", "parts": [{"text": "W" * 4000}]}]}
    if wrapped:
        contents = {"generateContentRequest": {"model": "models/on_openai_chat", **contents}}
    async with site(tmp_path, says) as (gateway, upstream, key):
        got = await gateway.call(
            "/v1beta/models/on_openai_chat:countTokens", msgspec.json.encode(contents), key=key
        )
        assert got.status == 200, got
        assert set(got.json()) == {"totalTokens"}
        assert 500 < got.json()["totalTokens"] < 4100
        assert got.get(b"x-gateway-estimated") == b"true"
        assert not upstream.calls
