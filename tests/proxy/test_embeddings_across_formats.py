"""Embeddings of a provider that speaks the other format: what goes out, what comes back, its price.

OpenAI's callers before a Gemini-format provider, Gemini's before an OpenAI-format one.
"""

import base64
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import Answer, Call, Running, Upstream, gateway_before, reply, scenario

from gateway.ledger.catalog import Catalog
from gateway.ledger.prices import cost
from gateway.wire.neutral import Usage

ALIASES = """
[models.at_google]
targets = ["google/gemini-embedding-001"]

[models.at_openai]
targets = ["openai/text-embedding-3-small"]

[models.google_first]
targets = ["google/gemini-embedding-001", "openai/text-embedding-3-small"]

[models.openai_first]
targets = ["openai/text-embedding-3-small", "google/gemini-embedding-001"]

[models.at_anthropic]
targets = ["anthropic/claude-sonnet-4-5"]
"""
TOKENS = 11
VECTORS = (b"[0.50,-1.0e-3]", b"[0.25,2]")
PRICED = {
    "openai": ("openai", "text-embedding-3-small"), "gemini": ("google", "gemini-embedding-001")
}  # fmt: skip

Script = Callable[[Call], Awaitable[None]]


@contextlib.asynccontextmanager
async def site(
    directory: Path, script: Script, **sections: str
) -> AsyncIterator[tuple[Running, Upstream, bytes]]:
    async with gateway_before(directory, script, more=ALIASES, **sections) as (gateway, upstream):
        yield gateway, upstream, await gateway.key()


def raw(vector: bytes) -> msgspec.Raw:
    return msgspec.Raw(vector)


def answer(family: str, count: int, *, usage: bool = True) -> bytes:
    vectors = [raw(VECTORS[index % 2]) for index in range(count)]
    document: dict[str, Any]
    if family == "gemini":
        document = {"embeddings": [{"values": one} for one in vectors]}
        if usage:
            document["usageMetadata"] = {"promptTokenCount": TOKENS}
        return msgspec.json.encode(document)
    data = [
        {"object": "embedding", "index": index, "embedding": one}
        for index, one in enumerate(vectors)
    ]
    document = {"object": "list", "data": data[::-1], "model": "text-embedding-3-small"}
    if usage:
        document["usage"] = {"prompt_tokens": TOKENS, "total_tokens": TOKENS}
    return msgspec.json.encode(document)


def family_of(call: Call) -> str:
    return "gemini" if "/v1beta/" in call.target else "openai"


def texts_of(call: Call) -> list[str]:
    body = msgspec.json.decode(call.body)
    if family_of(call) == "openai":
        assert body["encoding_format"] == "float"
        found: list[str] = body["input"]
        return found
    return [one["content"]["parts"][0]["text"] for one in body["requests"]]


async def embeds(call: Call) -> None:
    await call.send(reply(answer(family_of(call), len(texts_of(call)))))


async def embeds_without_usage(call: Call) -> None:
    await call.send(reply(answer(family_of(call), len(texts_of(call)), usage=False)))


def price(family: str, tokens: int) -> int:
    model = Catalog.load().find(*PRICED[family])
    assert model is not None
    charged = cost(Usage(tokens), model.price)
    assert charged
    return charged


def asks(model: str, value: Any = "Oslo", **more: Any) -> bytes:
    return msgspec.json.encode({"model": model, "input": value, **more})


def part(text: str, **more: Any) -> dict[str, Any]:
    return {"content": {"parts": [{"text": text}]}, **more}


def gemini(model: str, method: str = "embedContent") -> str:
    return f"/v1beta/models/{model}:{method}"


async def embed(gateway: Running, key: bytes, caller: str, model: str) -> Answer:
    """Two texts, by a caller of either family."""
    if caller == "openai":
        return await gateway.call("/v1/embeddings", asks(model, ["Oslo", "Rome"]), key=key)
    body = msgspec.json.encode({"requests": [part("Oslo"), part("Rome")]})
    return await gateway.call(gemini(model, "batchEmbedContents"), body, key=key)


def vectors_in(caller: str, got: Answer) -> list[Any]:
    if caller == "openai":
        return [one["embedding"] for one in got.json()["data"]]
    return [one["values"] for one in got.json()["embeddings"]]


def usage_in(caller: str, got: Answer) -> int:
    found: int
    if caller == "openai":
        used = got.json()["usage"]
        assert used["prompt_tokens"] == used["total_tokens"]
        found = used["prompt_tokens"]
    else:
        found = got.json()["usageMetadata"]["promptTokenCount"]
    return found


OTHER = {"openai": "gemini", "gemini": "openai"}
MODELS = {"openai": "at_google", "gemini": "at_openai"}
callers = pytest.mark.parametrize("caller", OTHER)


@callers
@scenario
async def test_vectors_come_back_in_the_callers_format_metered_and_priced(
    caller: str, tmp_path: Path
) -> None:
    async with site(tmp_path, embeds) as (gateway, upstream, key):
        got = await embed(gateway, key, caller, MODELS[caller])
        assert got.status == 200, got
        assert got.get(b"content-type") == b"application/json"
        assert got.get(b"x-gateway-ignored") is None
        assert got.get(b"x-gateway-estimated") is None
        assert vectors_in(caller, got) == [[0.5, -0.001], [0.25, 2]]
        assert b"0.50,-1.0e-3" in got.body
        assert usage_in(caller, got) == TOKENS
        (call,) = upstream.calls
        assert family_of(call) == OTHER[caller]
        assert texts_of(call) == ["Oslo", "Rome"]
        assert key not in call.head + call.body
        receipt = await gateway.receipt(got, key)
        assert receipt["status"] == "succeeded"
        assert receipt["request"]["format"] == f"{caller}_embeddings"
        route = receipt["route"]
        assert (route["format"], route["translated"]) == (f"{OTHER[caller]}_embeddings", True)
        assert (route["provider"], route["model"]) == PRICED[OTHER[caller]]
        assert (receipt["usage"]["input_tokens"], receipt["usage"]["output_tokens"]) == (TOKENS, 0)
        assert receipt["usage"]["source"] == "reported"
        assert receipt["cost"]["nano_usd"] == price(OTHER[caller], TOKENS)
        assert receipt["cost"]["billed"] is True
        funds = gateway.gateway.accounts.funds(gateway.gateway.accounts.user_named("somebody").id)
        assert (funds.balance, funds.held) == (10**12 - receipt["cost"]["nano_usd"], 0)


@scenario
async def test_providers_are_asked_as_their_own_clients_would(tmp_path: Path) -> None:
    async with site(tmp_path, embeds) as (gateway, upstream, key):
        body = asks("at_google", "Oslo", dimensions=256)
        assert (await gateway.call("/v1/embeddings", body, key=key)).status == 200
        body = msgspec.json.encode(part("Oslo", outputDimensionality=256))
        assert (await gateway.call(gemini("at_openai"), body, key=key)).status == 200
        google, openai = upstream.calls
        assert google.target == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
        assert google.get(b"x-goog-api-key") == b"provider-key-google"
        model = "models/gemini-embedding-001"
        assert msgspec.json.decode(google.body) == {
            "requests": [part("Oslo", model=model, outputDimensionality=256)]
        }
        assert openai.target == "/v1/embeddings"
        assert openai.get(b"authorization") == b"Bearer provider-key-openai"
        assert msgspec.json.decode(openai.body) == {
            "model": "text-embedding-3-small", "input": ["Oslo"], "dimensions": 256,
            "encoding_format": "float",
        }  # fmt: skip


@scenario
async def test_base64_is_made_for_a_caller_who_wants_it(tmp_path: Path) -> None:
    async with site(tmp_path, embeds) as (gateway, _, key):
        body = asks("at_google", "Oslo", encoding_format="base64")
        got = await gateway.call("/v1/embeddings", body, key=key)
        packed = base64.b64decode(got.json()["data"][0]["embedding"])
        assert struct.unpack("<2f", packed) == pytest.approx((0.5, -0.001))


@scenario
async def test_one_text_of_geminis_comes_back_as_one_vector(tmp_path: Path) -> None:
    async with site(tmp_path, embeds) as (gateway, _, key):
        body = msgspec.json.encode(part("Oslo"))
        got = await gateway.call(gemini("at_openai"), body, key=key)
        assert got.json()["embedding"] == {"values": [0.5, -0.001]}


@callers
@scenario
async def test_what_the_upstream_does_not_tell_is_estimated_and_the_answer_says_so(
    caller: str, tmp_path: Path
) -> None:
    async with site(tmp_path, embeds_without_usage) as (gateway, _, key):
        got = await embed(gateway, key, caller, MODELS[caller])
        assert got.status == 200
        assert got.get(b"x-gateway-estimated") == b"true"
        receipt = await gateway.receipt(got, key)
        assert receipt["usage"]["source"] == "estimated"
        tokens = -(-receipt["request"]["bytes"] // 4)
        assert receipt["usage"]["input_tokens"] == usage_in(caller, got) == tokens
        assert receipt["cost"]["nano_usd"] == price(OTHER[caller], tokens)


@callers
@pytest.mark.parametrize("count", [1, 3])
@scenario
async def test_another_number_of_vectors_than_of_texts_is_no_answer_and_costs_nothing(
    caller: str, count: int, tmp_path: Path
) -> None:
    async def miscounts(call: Call) -> None:
        await call.send(reply(answer(family_of(call), count)))

    async with site(tmp_path, miscounts) as (gateway, _, key):
        got = await embed(gateway, key, caller, MODELS[caller])
        assert got.status == 502
        assert f"{count} vectors to 2 texts" in got.json()["error"]["message"]
        receipt = await gateway.receipt(got, key)
        assert receipt["failure"]["code"] == "bad_upstream_response"
        assert receipt["cost"]["nano_usd"] == 0


@callers
@pytest.mark.parametrize("body", [b"{}", b"[1]", b"<html>", b'{"embeddings":[],"data":[]}'])
@scenario
async def test_an_answer_without_vectors_is_a_bad_gateway(
    caller: str, body: bytes, tmp_path: Path
) -> None:
    async def nonsense(call: Call) -> None:
        await call.send(reply(body))

    async with site(tmp_path, nonsense) as (gateway, _, key):
        got = await embed(gateway, key, caller, MODELS[caller])
        assert got.status == 502
        assert (await gateway.receipt(got, key))["cost"]["nano_usd"] == 0


@scenario
async def test_a_number_that_no_float_holds_is_the_upstreams_fault(tmp_path: Path) -> None:
    async def overflows(call: Call) -> None:
        await call.send(reply(b'{"embeddings":[{"values":[1e300]}]}'))

    async with site(tmp_path, overflows) as (gateway, _, key):
        body = asks("at_google", encoding_format="base64")
        got = await gateway.call("/v1/embeddings", body, key=key)
        assert got.status == 502
        assert got.json()["error"]["code"] == "bad_upstream_response"


ERRORS = {
    "gemini": b'{"error":{"code":400,"message":"too long","status":"INVALID_ARGUMENT"}}',
    "openai": b'{"error":{"message":"too long","type":"invalid_request_error","code":null}}',
}


@callers
@scenario
async def test_an_upstreams_error_keeps_its_status_in_the_callers_envelope(
    caller: str, tmp_path: Path
) -> None:
    async def refuses(call: Call) -> None:
        await call.send(reply(ERRORS[family_of(call)], status=400))

    async with site(tmp_path, refuses) as (gateway, _, key):
        got = await embed(gateway, key, caller, MODELS[caller])
        assert got.status == 400
        error = got.json()["error"]
        assert error["message"] == "too long"
        if caller == "openai":
            assert error["type"] == "invalid_request_error"
        else:
            assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
        receipt = await gateway.receipt(got, key)
        assert (receipt["status"], receipt["cost"]["nano_usd"]) == ("failed", 0)


@scenario
async def test_hints_of_the_callers_format_are_left_out_and_told(tmp_path: Path) -> None:
    async with site(tmp_path, embeds) as (gateway, _, key):
        got = await gateway.call("/v1/embeddings", asks("at_google", user="u"), key=key)
        assert (got.status, got.get(b"x-gateway-ignored")) == (200, b"user")
        body = msgspec.json.encode(part("Oslo", taskType="CLUSTERING", title="T"))
        got = await gateway.call(gemini("at_openai"), body, key=key)
        assert (got.status, got.get(b"x-gateway-ignored")) == (200, b"taskType, title")


IMAGE = {"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}]}}
REFUSED: list[tuple[str, Any, str]] = [
    ("/v1/embeddings", {"model": "at_google", "input": [1, 2]}, "input"),
    (gemini("at_openai"), IMAGE, "content"),
    (
        gemini("at_openai", "batchEmbedContents"),
        {"requests": [part("a"), part("b", outputDimensionality=3)]},
        "requests.outputDimensionality",
    ),
]


@pytest.mark.parametrize(("target", "document", "field"), REFUSED, ids=["tokens", "image", "sizes"])
@scenario
async def test_what_the_other_format_cannot_say_is_refused_before_anything_is_sent(
    target: str, document: Any, field: str, tmp_path: Path
) -> None:
    async with site(tmp_path, embeds) as (gateway, upstream, key):
        got = await gateway.call(target, msgspec.json.encode(document), key=key)
        assert got.status == 400
        error = got.json()["error"]
        assert field in error["message"]
        told = error.get("code") if "details" not in error else error["details"][0]["reason"]
        assert told in ("unsupported_parameter", "UNSUPPORTED_PARAMETER")
        assert not upstream.calls
        receipt = await gateway.receipt(got, key)
        assert receipt["failure"]["code"] == "unsupported_parameter"
        assert receipt["cost"]["nano_usd"] == 0


@callers
@scenario
async def test_a_provider_without_embeddings_is_named_in_the_refusal(
    caller: str, tmp_path: Path
) -> None:
    async with site(tmp_path, embeds) as (gateway, upstream, key):
        got = await embed(gateway, key, caller, "at_anthropic")
        assert got.status == 400
        assert "anthropic" in got.json()["error"]["message"]
        assert (await gateway.receipt(got, key))["failure"]["code"] == "unsupported_parameter"
        assert not upstream.calls


@callers
@pytest.mark.parametrize("model", ["google_first", "openai_first"])
@scenario
async def test_a_target_of_either_format_takes_over_from_one_of_the_other(
    caller: str, model: str, tmp_path: Path
) -> None:
    first = model.partition("_")[0].replace("google", "gemini")

    async def first_is_overloaded(call: Call) -> None:
        if family_of(call) == first:
            await call.send(reply(b'{"error":{"message":"busy"}}', status=503))
        elif first == caller:  # the other one is asked in its own format
            await embeds(call)
        else:
            await call.send(reply(answer(caller, 2)))

    async with site(tmp_path, first_is_overloaded) as (gateway, upstream, key):
        got = await embed(gateway, key, caller, model)
        assert got.status == 200, got
        assert len(vectors_in(caller, got)) == 2
        assert [family_of(one) for one in upstream.calls] == [first, OTHER[first]]
        receipt = await gateway.receipt(got, key)
        assert [one["outcome"] for one in receipt["route"]["attempts"]] == [
            "upstream_status", "succeeded",
        ]  # fmt: skip
        assert receipt["route"]["translated"] is (OTHER[first] != caller)
        assert receipt["cost"]["nano_usd"] == price(OTHER[first], TOKENS)


@scenario
async def test_a_target_that_cannot_be_told_is_passed_over_for_one_that_can(
    tmp_path: Path,
) -> None:
    async def embeds_tokens(call: Call) -> None:
        await call.send(reply(answer("openai", 1)))

    async with site(tmp_path, embeds_tokens) as (gateway, upstream, key):
        got = await gateway.call("/v1/embeddings", asks("google_first", [1, 2]), key=key)
        assert got.status == 200
        assert [family_of(one) for one in upstream.calls] == ["openai"]


@callers
@scenario
async def test_the_same_format_passes_byte_for_byte(caller: str, tmp_path: Path) -> None:
    async def same(call: Call) -> None:
        await call.send(reply(answer(family_of(call), 2)))

    async with site(tmp_path, same) as (gateway, _, key):
        got = await embed(gateway, key, caller, MODELS[OTHER[caller]])
        assert got.body == answer(caller, 2)
        assert not (await gateway.receipt(got, key))["route"]["translated"]


@scenario
async def test_an_alias_is_replaced_wherever_geminis_bodies_name_their_model(
    tmp_path: Path,
) -> None:
    async def same(call: Call) -> None:
        await call.send(reply(answer("gemini", 2)))

    async with site(tmp_path, same) as (gateway, upstream, key):
        one = part("Oslo", model="models/at_google")
        body = msgspec.json.encode({"requests": [one, one]})
        target = gemini("at_google", "batchEmbedContents")
        assert (await gateway.call(target, body, key=key)).status == 200
        (call,) = upstream.calls
        assert call.target == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
        assert call.body == body.replace(b"models/at_google", b"models/gemini-embedding-001")


@callers
@scenario
async def test_a_call_that_the_balance_does_not_cover_is_refused_before_it_is_sent(
    caller: str, tmp_path: Path
) -> None:
    async with site(tmp_path, embeds) as (gateway, upstream, _):
        poor = await gateway.key("poor", credit_nano_usd=1)
        got = await embed(gateway, poor, caller, MODELS[caller])
        assert got.status == 402
        assert not upstream.calls
