"""Thoughts: who thinks how, what is shown, and what has to come back between tool calls."""

from typing import Any

import pytest
from demo_provider import CHAT, GEMINI, MESSAGES, RESPONSES, Answered, provider
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.answer import RECALLING
from gateway.demo.gemini_names import SKIPPED
from gateway.demo.seals import is_sealed, seal

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
THOUGHT = "The user wants an answer."


@given(st.text(), st.text())
def test_a_seal_is_known_again_with_its_thought_alone(text: str, other: str) -> None:
    signature = seal(text)
    assert is_sealed(signature)
    assert is_sealed(signature.replace("+", "-").replace("/", "_").rstrip("="), text)
    assert is_sealed(signature, other) is (text == other)


@pytest.mark.parametrize(
    "forged", ["", "AAAA", "ZGVtbw==", "ä", "not base64", seal("a")[:-8], seal("a")[::-1]]
)
def test_a_forged_or_cut_seal_is_not_taken(forged: str) -> None:
    assert not is_sealed(forged)


def message(answer: Answered) -> str:
    assert answer.status == 400, answer.body
    found: str = answer.json()["error"]["message"]
    return found


# --- Anthropic --------------------------------------------------------------------------------

BUDGET = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
ADAPTIVE = {"thinking": {"type": "adaptive"}}
SHOWN = {"thinking": {"type": "adaptive", "display": "summarized"}}
TOOLS = {"tools": [{"name": "f", "input_schema": SCHEMA}]}


async def messages(model: str, *said: Any, **more: Any) -> Answered:
    turns = [
        {"role": "assistant" if place % 2 else "user", "content": content}
        for place, content in enumerate(said)
    ]
    async with provider() as demo:
        body = {"model": model, "max_tokens": 4000, "messages": turns, **more}
        return await demo.post(MESSAGES.path(model, False), body)


@pytest.mark.parametrize(
    ("model", "asked", "shown"),
    [
        ("demo", BUDGET, True),
        ("demo", ADAPTIVE, True),
        ("claude-sonnet-4-5", BUDGET, True),
        ("claude-opus-4-6", BUDGET, True),
        ("claude-opus-4-6", ADAPTIVE, True),
        ("claude-opus-4-7", ADAPTIVE, False),
        ("claude-opus-4-7", SHOWN, True),
    ],
)
async def test_a_claude_thinks_as_its_generation_does(
    model: str, asked: dict[str, Any], shown: bool
) -> None:
    answer = await messages(model, "x", **asked)
    assert answer.status == 200, answer.body
    thought, text = answer.json()["content"]
    assert (thought["type"], text["type"]) == ("thinking", "text")
    assert thought["thinking"].startswith(THOUGHT) is shown
    assert bool(thought["thinking"]) is shown
    assert is_sealed(thought["signature"])
    assert answer.json()["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    back = await messages(model, "x", [thought, text], "y", **asked)
    assert back.status == 200, back.body


@pytest.mark.parametrize(
    ("model", "asked", "told"),
    [
        ("claude-3-5-haiku-20241022", BUDGET, "does not support thinking"),
        ("claude-sonnet-4-5-20250929", ADAPTIVE, "adaptive thinking is not supported"),
        ("claude-sonnet-4-20250514", ADAPTIVE, "adaptive thinking is not supported"),
        ("claude-opus-4-7", BUDGET, '"thinking.type.enabled" is not supported'),
        ("demo", {"output_config": {"effort": "much"}}, "output_config.effort"),
    ],
)
async def test_a_claude_refuses_to_think_otherwise(
    model: str, asked: dict[str, Any], told: str
) -> None:
    assert told in message(await messages(model, "x", **asked))


USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": "b"}}
RETURNED = [{"type": "tool_result", "tool_use_id": "t1", "content": "r"}]
SIGNED = {"type": "thinking", "thinking": "a", "signature": seal("a")}


@pytest.mark.parametrize("before", [[SIGNED], [{"type": "redacted_thinking", "data": seal("a")}]])
async def test_a_turn_that_goes_on_by_budget_begins_with_its_thoughts(before: list[Any]) -> None:
    answer = await messages("demo", "use f", [*before, USE], RETURNED, **BUDGET, **TOOLS)
    assert answer.status == 200, answer.body
    assert RECALLING in answer.json()["content"][1]["text"]
    bare = await messages("demo", "use f", [USE], RETURNED, **BUDGET, **TOOLS)
    assert "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`" in message(bare)
    adapted = await messages("demo", "use f", [USE], RETURNED, **ADAPTIVE, **TOOLS)
    assert adapted.status == 200
    assert RECALLING not in adapted.json()["content"][1]["text"]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "b", "signature": seal("a")},
        {"type": "thinking", "thinking": "a"},
        {"type": "redacted_thinking", "data": "AAAA"},
    ],
)
async def test_only_the_providers_own_thoughts_come_back(block: dict[str, Any]) -> None:
    told = message(await messages("demo", "x", [block, {"type": "text", "text": "y"}], "z"))
    assert "Invalid `" in told


# --- Gemini -----------------------------------------------------------------------------------


async def gemini(model: str, *contents: Any, **config: Any) -> Answered:
    body = {
        "contents": list(contents),
        "tools": [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": SCHEMA}]}],
        "generationConfig": config,
    }
    async with provider() as demo:
        return await demo.post(GEMINI.path(model, False), body)


ASKED = {"role": "user", "parts": [{"text": "use f"}]}
RESULT = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}


def call(signature: str | None) -> dict[str, Any]:
    part: dict[str, Any] = {"functionCall": {"name": "f", "args": {"a": "b"}}}
    if signature is not None:
        part["thoughtSignature"] = signature
    return {"role": "model", "parts": [part]}


@pytest.mark.parametrize(
    ("model", "thinking", "thought"),
    [
        ("demo", None, False),
        ("gemini-2.5-pro", None, False),
        ("gemini-3-pro-preview", None, True),
        ("gemini-3-flash-preview", {"thinkingLevel": "LOW"}, True),
        ("gemini-2.5-flash", {"thinkingBudget": 0}, False),
        ("gemini-2.5-flash", {"thinkingBudget": -1}, True),
        ("gemini-2.5-pro", {"thinkingBudget": 128}, True),
    ],
)
async def test_a_gemini_thinks_as_its_release_does(
    model: str, thinking: dict[str, Any] | None, thought: bool
) -> None:
    answer = await gemini(model, ASKED, **({"thinkingConfig": thinking} if thinking else {}))
    assert answer.status == 200, answer.body
    document = answer.json()
    assert ("thoughtsTokenCount" in document["usageMetadata"]) is thought
    [part] = document["candidates"][0]["content"]["parts"]
    assert ("thoughtSignature" in part) is thought


@pytest.mark.parametrize(
    ("model", "thinking", "told"),
    [
        ("gemini-2.0-flash", {"thinkingBudget": 100}, "Thinking is not enabled"),
        ("gemini-2.5-pro", {"thinkingLevel": "LOW"}, "Thinking level is not supported"),
        ("gemini-2.5-pro", {"thinkingBudget": 0}, "Budget 0 is invalid"),
        ("gemini-2.5-pro", {"thinkingBudget": 127}, "between 128 and 32768"),
        ("gemini-2.5-flash", {"thinkingBudget": 24577}, "between 0 and 24576"),
        ("gemini-3-pro", {"thinkingLevel": "LOW", "thinkingBudget": 9}, "only one of"),
        ("gemini-3-pro", {"thinkingLevel": "SOME"}, "TYPE_ENUM"),
        ("gemini-3-pro", {"thinkingBudget": "many"}, "TYPE_INT32"),
        ("gemini-3-pro", {"budget": 9}, 'Unknown name "budget"'),
    ],
)
async def test_a_gemini_refuses_to_think_otherwise(
    model: str, thinking: dict[str, Any], told: str
) -> None:
    assert told in message(await gemini(model, ASKED, thinkingConfig=thinking))


async def test_gemini_3_wants_the_signature_of_a_call_while_the_turn_goes_on() -> None:
    for model in ("gemini-3-pro-preview", "gemini-3.1-flash-lite"):
        told = message(await gemini(model, ASKED, call(None), RESULT))
        assert "missing a thought_signature" in told
        over = await gemini(model, ASKED, call(None), RESULT, ASKED)
        assert over.status == 200, over.body
    assert (await gemini("gemini-2.5-pro", ASKED, call(None), RESULT)).status == 200


@pytest.mark.parametrize("signature", [seal("a"), *sorted(SKIPPED)])
async def test_a_gemini_knows_its_own_signature_from_the_documented_ones(signature: str) -> None:
    answer = await gemini("gemini-3-pro-preview", ASKED, call(signature), RESULT)
    assert answer.status == 200, answer.body
    said = answer.json()["candidates"][0]["content"]["parts"][-1]["text"]
    assert (RECALLING in said) is (signature not in SKIPPED)


async def test_a_signature_that_is_nobodys_is_refused() -> None:
    told = message(await gemini("gemini-2.5-pro", ASKED, call("bm90IG1pbmU="), RESULT))
    assert told == "Corrupted thought signature."


# --- OpenAI -----------------------------------------------------------------------------------

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":"b"}'}}
FUNCTIONS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
USER = {"role": "user", "content": "use f"}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "r"}


async def chat(*said: Any, model: str = "demo", **more: Any) -> Answered:
    async with provider() as demo:
        body = {"model": model, "messages": list(said), "tools": FUNCTIONS, **more}
        return await demo.post(CHAT.path(model, False), body)


async def test_a_server_that_thinks_aloud_wants_its_thoughts_back_between_calls() -> None:
    aloud: Any = {"thinking": {"type": "enabled"}}
    answer = await chat({"role": "user", "content": "x"}, **aloud)
    thought = answer.json()["choices"][0]["message"]["reasoning_content"]
    assert thought.startswith(THOUGHT)
    turn = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    told = message(await chat(USER, turn, TOOL, **aloud))
    assert told == "Missing `reasoning_content` field in the assistant message at message index 1"
    kept = await chat(USER, {**turn, "reasoning_content": thought}, TOOL, **aloud)
    assert RECALLING in kept.json()["choices"][0]["message"]["content"]
    assert (await chat(USER, turn, TOOL, USER, **aloud)).status == 200
    assert "'sometimes'" in message(await chat(USER, thinking={"type": "sometimes"}))


async def test_openais_own_models_think_and_do_not_show_it() -> None:
    answer = await chat({"role": "user", "content": "x"}, model="gpt-5", reasoning_effort="low")
    document = answer.json()
    assert "reasoning_content" not in document["choices"][0]["message"]
    assert document["usage"]["completion_tokens_details"]["reasoning_tokens"] == 16


async def respond(*items: Any, **more: Any) -> Answered:
    async with provider() as demo:
        body = {
            "model": "demo",
            "input": list(items),
            "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
            **more,
        }
        return await demo.post(RESPONSES.path("demo", False), body)


REASONED = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal("a")}
CALLED = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "r"}


async def test_an_encrypted_thought_is_taken_back_from_its_provider_alone() -> None:
    answer = await respond(USER, REASONED, CALLED, OUTPUT)
    assert answer.status == 200, answer.body
    assert RECALLING in answer.json()["output"][-1]["content"][0]["text"]
    forged = await respond(USER, {**REASONED, "encrypted_content": "AAAA"}, CALLED, OUTPUT)
    assert forged.json()["error"]["code"] == "invalid_encrypted_content"
    assert "rs_1" in message(forged)


@pytest.mark.parametrize(
    "items", [(USER, REASONED), (USER, REASONED, USER), (USER, CALLED, REASONED, OUTPUT)]
)
async def test_a_thought_alone_is_refused(items: tuple[Any, ...]) -> None:
    told = message(await respond(*items))
    assert (
        told == "Item 'rs_1' of type 'reasoning' was provided without its required following item."
    )


@pytest.mark.parametrize("items", [(USER, CALLED), (USER, REASONED, CALLED, USER)])
async def test_a_call_without_its_output_is_refused(items: tuple[Any, ...]) -> None:
    assert message(await respond(*items)) == "No tool output found for function call c1."
