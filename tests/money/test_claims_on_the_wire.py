"""Claims seen from both sides of a running gateway: bounds that are set, refusals, failover."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from harness import (
    Call,
    Running,
    Script,
    Upstream,
    answering,
    gateway_before,
    reply,
    scenario,
)
from shop import chat

USD = 10**9
CENT = 10**7
GEMINI = "/v1beta/models/gemini-2.5-flash:generateContent"
MORE = """
[providers.other]
format = "openai"
base_url = "{url}/other/v1"
catalog = "mistral"
keys = ["provider-key-other"]
[providers.backup]
format = "openai"
base_url = "{url}/backup/v1"
catalog = "openai"
keys = ["provider-key-backup"]
[models.ladder]
targets = ["openai/gpt-4o-mini", "backup/gpt-4o"]
"""


@contextlib.asynccontextmanager
async def capped(
    directory: Path, script: Script, caps: dict[str, int]
) -> AsyncIterator[tuple[Running, Upstream, bytes]]:
    """A gateway, its upstream, and the key of a user with a dollar and these caps."""
    async with gateway_before(directory, script, more=MORE) as (running, upstream):
        key = await running.key("ada", credit_nano_usd=USD)
        for model, nano_usd in caps.items():
            await running.gateway.accounts.set_cap("ada", model, nano_usd)
        yield running, upstream, key


SPELLINGS = [
    pytest.param(
        "/v1/chat/completions",
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}],"top_p":0.10}',
        ("max_completion_tokens",),
        id="chat",
    ),
    pytest.param(
        "/v1/other/chat/completions",
        b'{"model":"mistral-small-latest","messages":[{"role":"user","content":"Hello"}]}',
        ("max_tokens",),
        id="chat of another vendor",
    ),
    pytest.param(
        "/v1/chat/completions",
        b'{"max_completion_tokens": null, "model": "gpt-4o", "messages": [{"role": "user", '
        b'"content": "Hello"}], "top_p": 0.10}',
        ("max_completion_tokens",),
        id="chat that says null",
    ),
    pytest.param(
        "/v1/completions",
        b'{"model":"gpt-3.5-turbo-instruct","prompt":"Hello","top_p":0.10}',
        ("max_tokens",),
        id="completions",
    ),
    pytest.param(
        "/v1/responses",
        b'{"model":"gpt-4o","input":"Hello","top_p":0.10}',
        ("max_output_tokens",),
        id="responses",
    ),
    pytest.param(
        "/v1/messages",
        b'{"model":"claude-sonnet-4-5","messages":[{"role":"user","content":"Hello"}]}',
        ("max_tokens",),
        id="messages",
    ),
    pytest.param(
        GEMINI,
        b'{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}',
        ("generationConfig", "maxOutputTokens"),
        id="gemini",
    ),
    pytest.param(
        GEMINI,
        b'{"generationConfig":{"topP":0.10},"contents":[{"role":"user","parts":[{"text":"Hi"}]}]}',
        ("generationConfig", "maxOutputTokens"),
        id="gemini with a config",
    ),
]


def model_of(target: str, body: bytes) -> str:
    model = msgspec.json.decode(body).get("model", "gemini-2.5-flash")
    assert isinstance(model, str)
    return model


@pytest.mark.parametrize(("target", "body", "path"), SPELLINGS)
def test_the_bound_that_a_cap_sets_is_spelled_as_the_upstream_reads_it(
    tmp_path: Path, target: str, body: bytes, path: tuple[str, ...]
) -> None:
    cap = 2 * CENT // 10

    @scenario
    async def run() -> None:
        caps = {model_of(target, body): cap}
        async with capped(tmp_path, answering(reply()), caps) as (running, upstream, key):
            answer = await running.call(target, body, key=key)
            assert answer.status == 200, answer.body
            (call,) = upstream.calls
            seen, sent = msgspec.json.decode(call.body), msgspec.json.decode(body)
            place, wanted = seen, sent
            for name in path[:-1]:
                place, wanted = place[name], wanted.setdefault(name, {})
            bound = wanted[path[-1]] = place[path[-1]]
            assert 0 < bound < 20_000
            assert seen == sent
            assert call.body.count(b"0.10") == body.count(b"0.10"), "every other byte stays"
            receipt = await running.receipt(answer, key)
            assert 0 < receipt["cost"]["held_nano_usd"] <= cap

    run()


@pytest.mark.parametrize(("target", "body", "path"), SPELLINGS)
def test_a_call_that_no_bound_fits_is_refused_in_its_own_dialect_and_goes_nowhere(
    tmp_path: Path, target: str, body: bytes, path: tuple[str, ...]
) -> None:
    del path

    @scenario
    async def run() -> None:
        caps = {model_of(target, body): 1}
        async with capped(tmp_path, answering(reply()), caps) as (running, upstream, key):
            answer = await running.call(target, body, key=key)
            assert answer.status == 402
            told = answer.json()
            assert "no max_tokens fits" in told["error"]["message"]
            assert ("type" in told) is (target == "/v1/messages")
            if target == GEMINI:
                assert told["error"]["code"] == 402
            assert answer.get(b"retry-after") is None
            assert not upstream.calls
            receipt = await running.receipt(answer, key)
            assert (receipt["status"], receipt["failure"]["stage"]) == ("failed", "balance")
            assert receipt["failure"]["code"] == "call_cap_exceeded"
            assert receipt["cost"]["nano_usd"] == receipt["cost"]["held_nano_usd"] == 0

    run()


@scenario
async def test_embeddings_have_no_answer_to_bound_and_pass_as_they_are(tmp_path: Path) -> None:
    body = b'{"model":"text-embedding-3-small","input":["Hello",  "you"]}'
    target = "/v1/embeddings"
    caps = {"text-embedding-3-small": CENT}
    async with capped(tmp_path, answering(reply()), caps) as (running, upstream, key):
        assert (await running.call(target, body, key=key)).status == 200
        assert upstream.calls[0].body == body
        await running.gateway.accounts.set_cap("ada", "text-embedding-3-small", 1)
        answer = await running.call(target, body, key=key)
        assert answer.status == 402
        assert answer.json()["error"]["message"].endswith("no max_tokens fits")
        assert len(upstream.calls) == 1


@scenario
async def test_refusals_leave_requests_and_tokens_of_the_limits_to_who_asks_next(
    tmp_path: Path,
) -> None:
    async with capped(tmp_path, answering(reply()), {"gpt-4o": 1}) as (running, upstream, key):
        accounts, target = running.gateway.accounts, "/v1/chat/completions"
        for _ in range(5):
            refused = await running.call(target, chat("gpt-4o", max_tokens=100), key=key)
            assert refused.status == 402
        assert not upstream.calls
        funds = accounts.funds(accounts.user_named("ada").id)
        assert (funds.balance, funds.held) == (USD, 0)
        await accounts.set_cap("ada", "gpt-4o", None)
        answer = await running.call(target, chat("gpt-4o", max_tokens=100), key=key)
        assert answer.status == 200
        for kind, most in ((b"requests", 1), (b"tokens", 200)):
            limit = int(answer.get(b"x-ratelimit-limit-" + kind) or 0)
            left = int(answer.get(b"x-ratelimit-remaining-" + kind) or 0)
            assert 0 < limit - left <= most, "this call alone"


def first_fails(body: bytes) -> Script:
    """The first provider of the ladder fails, the other answers."""

    async def script(call: Call) -> None:
        if call.target.startswith("/backup/"):
            await call.send(reply(body))
        else:
            await call.send(reply(b'{"error":{"message":"no"}}', status=500))

    return script


ANSWER = msgspec.json.encode(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4o",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }
)


@scenario
async def test_the_next_target_is_held_for_and_charged_at_its_own_price(tmp_path: Path) -> None:
    body = chat("ladder", max_tokens=100)
    async with capped(tmp_path, first_fails(ANSWER), {}) as (running, upstream, key):
        answer = await running.call("/v1/chat/completions", body, key=key)
        assert answer.status == 200
        assert [call.target.split("/")[1] for call in upstream.calls] == ["v1", "backup"]
        receipt = await running.receipt(answer, key)
        assert receipt["cost"]["nano_usd"] == 10 * 2500 + 20 * 10_000
        assert receipt["cost"]["held_nano_usd"] >= (len(body) * 2500 + 100 * 10_000)
        assert [one["outcome"] for one in receipt["route"]["attempts"]] == [
            "upstream_status", "succeeded",
        ]  # fmt: skip


@scenario
async def test_a_next_target_that_cannot_be_paid_is_passed_over_and_the_client_is_told(
    tmp_path: Path,
) -> None:
    body = chat("ladder", max_tokens=1000)
    async with capped(tmp_path, first_fails(ANSWER), {}) as (running, upstream, key):
        accounts = running.gateway.accounts
        await accounts.correct("ada", CENT // 2 - USD, "half a cent is left")
        answer = await running.call("/v1/chat/completions", body, key=key)
        assert answer.status == 503
        assert "passed over: Insufficient credit balance" in answer.json()["error"]["message"]
        assert [call.target.split("/")[1] for call in upstream.calls] == ["v1"]
        receipt = await running.receipt(answer, key)
        assert receipt["status"] == "failed"
        assert receipt["cost"]["nano_usd"] == 0
        assert [one["outcome"] for one in receipt["route"]["attempts"]] == [
            "upstream_status", "balance",
        ]  # fmt: skip
        funds = accounts.funds(accounts.user_named("ada").id)
        assert (funds.balance, funds.held) == (CENT // 2, 0)
