"""Token counts, whichever format the caller and the model's provider speak.

A provider is asked by its own counter and what it says is a real count. Where there is none, or it
fails, the answer is an estimate and says so.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import OWN_KEY, Answer, Call, Running, Upstream, gateway_before, reply, scenario

from gateway.accounts.changes import KeySpec

ALIASES = """
[providers.compatible]
format = "openai"
base_url = "{url}/compatible"
keys = ["provider-key-compatible"]
catalog = "openai"
responses = false

[models.on_openai]
targets = ["openai/gpt-4o"]

[models.on_anthropic]
targets = ["anthropic/claude-sonnet-4-5"]

[models.on_gemini]
targets = ["google/gemini-2.5-flash"]

[models.on_compatible]
targets = ["compatible/gpt-4o"]

[models.anthropic_then_gemini]
targets = ["anthropic/claude-sonnet-4-5", "google/gemini-2.5-flash"]

[models.compatible_then_gemini]
targets = ["compatible/gpt-4o", "google/gemini-2.5-flash"]
"""
TOKENS = 4321
CALLERS = ("openai", "anthropic", "gemini")
PATHS = {
    "openai": "/v1/responses/input_tokens",
    "anthropic": "/v1/messages/count_tokens",
    "gemini": "/v1beta/models/{}:countTokens",
}
COUNTERS = {
    "openai": "/v1/responses/input_tokens",
    "anthropic": "/anthropic/v1/messages/count_tokens",
    "gemini": "/v1beta/models/gemini-2.5-flash:countTokens",
}
FORMATS = {"openai": "openai_responses", "anthropic": "anthropic_messages", "gemini": "gemini"}
ANSWERS = {
    "openai": b'{"object": "response.input_tokens", "input_tokens": %d}' % TOKENS,
    "anthropic": b'{"input_tokens": %d}' % TOKENS,
    "gemini": b'{"totalTokens": %d, "promptTokensDetails": []}' % TOKENS,
}
PAIRS = [(one, other) for one in CALLERS for other in CALLERS if one != other]
pairs = pytest.mark.parametrize("pair", PAIRS, ids="->".join)
callers = pytest.mark.parametrize("caller", CALLERS)

Script = Callable[[Call], Awaitable[None]]


@contextlib.asynccontextmanager
async def site(
    directory: Path, script: Script, **sections: str
) -> AsyncIterator[tuple[Running, Upstream, bytes]]:
    async with gateway_before(directory, script, more=ALIASES, **sections) as (gateway, upstream):
        yield gateway, upstream, await gateway.key()


def asks(caller: str, model: str, **more: Any) -> bytes:
    turn = {"role": "user", "content": "W" * 400}
    if caller == "openai":
        body: dict[str, Any] = {"model": model, "input": [turn]}
    elif caller == "anthropic":
        body = {"model": model, "messages": [turn]}
    else:
        body = {"contents": [{"role": "user", "parts": [{"text": "W" * 400}]}]}
    return msgspec.json.encode(body | more)


async def count(
    gateway: Running, key: bytes, caller: str, model: str, body: bytes | None = None, **more: Any
) -> Answer:
    target = PATHS[caller].format(model)
    return await gateway.call(target, body or asks(caller, model, **more), key=key)


def told(caller: str, got: Answer) -> int:
    document = got.json()
    found: int
    if caller == "gemini":
        assert set(document) == {"totalTokens"}
        found = document["totalTokens"]
    else:
        assert document.pop("object", None) == (
            "response.input_tokens" if caller == "openai" else None
        )
        assert set(document) == {"input_tokens"}
        found = document["input_tokens"]
    return found


def is_estimate(caller: str, got: Answer) -> None:
    assert got.status == 200, got
    assert got.get(b"x-gateway-estimated") == b"true"
    assert 90 < told(caller, got) < 200


def family_of(call: Call) -> str:
    if "/anthropic/" in call.target:
        return "anthropic"
    return "gemini" if "/v1beta/" in call.target else "openai"


async def counts(call: Call) -> None:
    await call.send(reply(ANSWERS[family_of(call)]))


def answers(status: int, body: bytes = b'{"error":{"message":"no"}}') -> Script:
    async def script(call: Call) -> None:
        await call.send(reply(body, status=status))

    return script


# --- a real count -----------------------------------------------------------------------------


@pairs
@scenario
async def test_a_provider_of_another_format_counts_and_its_count_comes_back(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    caller, family = pair
    async with site(tmp_path, counts) as (gateway, upstream, key):
        got = await count(gateway, key, caller, f"on_{family}")
        assert got.status == 200, got
        assert told(caller, got) == TOKENS
        assert got.get(b"x-gateway-estimated") is None
        assert got.get(b"x-gateway-ignored") is None
        (call,) = upstream.calls
        assert (call.method, call.target) == ("POST", COUNTERS[family])
        assert b"W" * 400 in call.body
        assert key not in call.head + call.body
        provider = "google" if family == "gemini" else family
        assert f"provider-key-{provider}".encode() in call.head
        receipt = await gateway.receipt(got, key)
        assert receipt["status"] == "succeeded"
        route = receipt["route"]
        assert (route["provider"], route["format"]) == (provider, FORMATS[family])
        assert route["translated"] is True
        assert receipt["cost"]["nano_usd"] == 0
        assert receipt["usage"]["source"] == "none"


@callers
@scenario
async def test_the_same_format_passes_byte_for_byte(caller: str, tmp_path: Path) -> None:
    async with site(tmp_path, counts) as (gateway, _, key):
        got = await count(gateway, key, caller, f"on_{caller}")
        assert got.body == ANSWERS[caller]
        assert not (await gateway.receipt(got, key))["route"]["translated"]


@scenario
async def test_an_alias_is_replaced_inside_a_whole_request_of_geminis(tmp_path: Path) -> None:
    inner = {"model": "models/on_gemini", "contents": [{"parts": [{"text": "a"}]}]}
    body = msgspec.json.encode({"generateContentRequest": inner})
    async with site(tmp_path, counts) as (gateway, upstream, key):
        await count(gateway, key, "gemini", "on_gemini", body)
        assert upstream.calls[0].target == COUNTERS["gemini"]
        assert upstream.calls[0].body == body.replace(b"on_gemini", b"gemini-2.5-flash")


@scenario
async def test_tools_and_system_text_are_counted_with_the_turns(tmp_path: Path) -> None:
    tool = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
    more: Any = {"system": "Be brief.", "tools": [tool]}
    async with site(tmp_path, counts) as (gateway, upstream, key):
        for family in ("openai", "gemini"):
            await count(gateway, key, "anthropic", f"on_{family}", **more)
        assert all(b"Be brief." in one.body and b'"weather"' in one.body for one in upstream.calls)
        assert len(upstream.calls) == 2


@scenario
async def test_what_is_left_out_of_a_count_is_told(tmp_path: Path) -> None:
    async with site(tmp_path, counts) as (gateway, _, key):
        got = await count(gateway, key, "anthropic", "on_gemini", x_new=1)
        assert told("anthropic", got) == TOKENS
        assert got.get(b"x-gateway-ignored") == b"x_new"


# --- an estimate ------------------------------------------------------------------------------


@callers
@scenario
async def test_a_model_whose_provider_does_not_count_is_estimated(
    caller: str, tmp_path: Path
) -> None:
    async with site(tmp_path, counts) as (gateway, upstream, key):
        got = await count(gateway, key, caller, "on_compatible")
        is_estimate(caller, got)
        assert not upstream.calls
        receipt = await gateway.receipt(got, key)
        assert (receipt["status"], receipt["cost"]["nano_usd"]) == ("succeeded", 0)
        assert receipt["route"]["attempts"] == []


@callers
@pytest.mark.parametrize("status", [404, 405, 401, 403, 408, 429, 500, 501, 503, 529])
@scenario
async def test_counting_that_fails_at_the_provider_is_estimated(
    caller: str, status: int, tmp_path: Path
) -> None:
    async with site(tmp_path, answers(status)) as (gateway, upstream, key):
        for family in CALLERS:
            got = await count(gateway, key, caller, f"on_{family}")
            is_estimate(caller, got)
            receipt = await gateway.receipt(got, key)
            assert (receipt["status"], receipt["failure"]) == ("succeeded", None)
            assert receipt["route"]["provider"] is None
            (attempt,) = receipt["route"]["attempts"]
            assert (attempt["outcome"], attempt["status"]) == ("upstream_status", status)
        assert [family_of(one) for one in upstream.calls] == list(CALLERS)


@pairs
@pytest.mark.parametrize("body", [b"{}", b"<html>", b'{"input_tokens":"x","totalTokens":-1}'])
@scenario
async def test_an_answer_that_tells_no_count_is_estimated(
    pair: tuple[str, str], body: bytes, tmp_path: Path
) -> None:
    caller, family = pair
    async with site(tmp_path, answers(200, body)) as (gateway, _, key):
        is_estimate(caller, await count(gateway, key, caller, f"on_{family}"))


@callers
@scenario
async def test_a_provider_that_breaks_off_or_falls_silent_is_estimated(
    caller: str, tmp_path: Path
) -> None:
    async def breaks_off(call: Call) -> None:
        if family_of(call) == "anthropic":
            await call.gone(5)
        call.close()

    async with site(tmp_path, breaks_off, upstream="first_byte_seconds = 0.2") as (gateway, _, key):
        for family in CALLERS:
            got = await count(gateway, key, caller, f"on_{family}")
            is_estimate(caller, got)
            (attempt,) = (await gateway.receipt(got, key))["route"]["attempts"]
            expected = "upstream_timeout" if family == "anthropic" else "upstream_connect"
            assert attempt["outcome"] == expected


@scenario
async def test_a_prompt_that_only_the_counter_cannot_be_told_is_estimated(tmp_path: Path) -> None:
    # A chat goes on from a last turn of the assistant's; OpenAI's counter knows no such thing.
    body = msgspec.json.encode(
        {
            "model": "on_openai",
            "messages": [
                {"role": "user", "content": "W" * 400},
                {"role": "assistant", "content": "a"},
            ],
        }
    )
    async with site(tmp_path, counts) as (gateway, upstream, key):
        is_estimate("anthropic", await count(gateway, key, "anthropic", "on_openai", body))
        assert not upstream.calls


# --- neither ----------------------------------------------------------------------------------


@pairs
@pytest.mark.parametrize("status", [400, 413, 422])
@scenario
async def test_what_a_provider_has_against_the_request_stays_an_error(
    pair: tuple[str, str], status: int, tmp_path: Path
) -> None:
    caller, family = pair
    body = b'{"error":{"message":"turns must alternate"}}'
    async with site(tmp_path, answers(status, body)) as (gateway, _, key):
        got = await count(gateway, key, caller, f"on_{family}")
        assert got.status == status
        assert got.json()["error"]["message"] == "turns must alternate"
        assert got.get(b"x-gateway-estimated") is None
        assert (await gateway.receipt(got, key))["status"] == "failed"


@callers
@pytest.mark.parametrize("model", ["on_compatible", "another"])
@scenario
async def test_a_request_that_is_none_is_refused_and_not_estimated(
    caller: str, model: str, tmp_path: Path
) -> None:
    family = "gemini" if caller != "gemini" else "anthropic"
    model = model if model != "another" else f"on_{family}"
    broken: Any = {"openai": {"input": 5}, "anthropic": {"messages": 5}, "gemini": {"contents": 5}}
    async with site(tmp_path, counts) as (gateway, upstream, key):
        got = await count(gateway, key, caller, model, **broken[caller])
        assert got.status == 400
        assert not upstream.calls


@scenario
async def test_a_count_is_refused_for_what_the_call_itself_is_refused_for(tmp_path: Path) -> None:
    file = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
    turns = [{"role": "user", "content": [file]}]
    async with site(tmp_path, counts) as (gateway, upstream, key):
        for family in ("openai", "gemini"):
            counted = await count(gateway, key, "anthropic", f"on_{family}", messages=turns)
            called = await gateway.call(
                "/v1/messages",
                msgspec.json.encode({"model": f"on_{family}", "max_tokens": 9, "messages": turns}),
                key=key,
            )
            assert counted.status == called.status == 400
            assert counted.json()["error"] == called.json()["error"]
        assert not upstream.calls


@callers
@pytest.mark.parametrize("status", [404, 500])
@scenario
async def test_a_caller_with_a_key_of_their_own_gets_what_their_provider_says(
    caller: str, status: int, tmp_path: Path
) -> None:
    async with site(tmp_path, answers(status)) as (gateway, _, _):
        got = await count(gateway, OWN_KEY, caller, "some-model")
        assert (got.status, got.body) == (status, b'{"error":{"message":"no"}}')


@scenario
async def test_a_limit_is_no_failure_of_the_providers(tmp_path: Path) -> None:
    async with site(tmp_path, counts) as (gateway, _, _):
        key = await gateway.key("limited", KeySpec(rpm=1))
        assert (await count(gateway, key, "anthropic", "on_gemini")).status == 200
        assert (await count(gateway, key, "anthropic", "on_gemini")).status == 429


# --- several targets --------------------------------------------------------------------------


@callers
@scenario
async def test_a_count_fails_over_as_the_call_would(caller: str, tmp_path: Path) -> None:
    async def first_is_overloaded(call: Call) -> None:
        if family_of(call) == "anthropic":
            await call.send(reply(b"{}", status=529))
        else:
            await counts(call)

    async with site(tmp_path, first_is_overloaded) as (gateway, upstream, key):
        got = await count(gateway, key, caller, "anthropic_then_gemini")
        assert got.status == 200
        assert got.json()["totalTokens" if caller == "gemini" else "input_tokens"] == TOKENS
        assert got.get(b"x-gateway-estimated") is None
        assert [family_of(one) for one in upstream.calls] == ["anthropic", "gemini"]
        receipt = await gateway.receipt(got, key)
        assert receipt["route"]["translated"] is (caller != "gemini")


@pytest.mark.parametrize("caller", ["anthropic", "openai"])
@scenario
async def test_a_model_that_is_not_the_next_to_be_called_does_not_count(
    caller: str, tmp_path: Path
) -> None:
    async with site(tmp_path, answers(404)) as (gateway, upstream, key):
        is_estimate(caller, await count(gateway, key, caller, "compatible_then_gemini"))
        assert not upstream.calls
        is_estimate(caller, await count(gateway, key, caller, "anthropic_then_gemini"))
        assert [family_of(one) for one in upstream.calls] == ["anthropic"]


# --- state that a provider keeps --------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
@scenario
async def test_a_stored_response_is_counted_for_its_owner_alone(
    named: bool, tmp_path: Path
) -> None:
    async def stores_and_counts(call: Call) -> None:
        if call.target.endswith("/input_tokens"):
            await counts(call)
        else:
            await call.send(
                reply(
                    b'{"id":"resp_1","object":"response","status":"completed","output":[],'
                    b'"model":"gpt-4o","store":true,'
                    b'"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}'
                )
            )

    document: dict[str, Any] = {"input": "and?", "previous_response_id": "resp_1"}
    if named:
        document["model"] = "on_openai"
    body = msgspec.json.encode(document)
    async with site(tmp_path, stores_and_counts) as (gateway, upstream, key):
        other = await gateway.key("other")
        await gateway.call("/v1/responses", asks("openai", "on_openai"), key=key)
        assert (await count(gateway, other, "openai", "", body)).status == 404
        assert len(upstream.calls) == 1
        got = await count(gateway, key, "openai", "", body)
        assert (got.status, told("openai", got)) == (200, TOKENS)


@scenario
async def test_a_stored_response_is_neither_estimated_nor_counted_elsewhere(
    tmp_path: Path,
) -> None:
    async def stores_and_fails(call: Call) -> None:
        if call.target.endswith("/input_tokens"):
            await call.send(reply(b'{"error":{"message":"gone"}}', status=404))
        else:
            await call.send(
                reply(
                    b'{"id":"resp_1","object":"response","status":"completed","output":[],'
                    b'"model":"gpt-4o","usage":{"input_tokens":3,"output_tokens":4}}'
                )
            )

    async with site(tmp_path, stores_and_fails) as (gateway, _, key):
        await gateway.call("/v1/responses", asks("openai", "on_openai"), key=key)
        got = await count(gateway, key, "openai", "on_openai", previous_response_id="resp_1")
        assert (got.status, got.json()["error"]["message"]) == (404, "gone")
        for model in ("on_gemini", "on_compatible"):
            got = await count(gateway, key, "openai", model, previous_response_id="resp_1")
            assert got.status == 400
            assert got.json()["error"]["param"] == "previous_response_id"
