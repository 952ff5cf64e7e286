"""Coding agents before a provider of each format: their whole calls, tools, thoughts, compaction.

The calls are in the shape that Claude Code, Codex and Gemini CLI send (`tests/vectors/agents`); the
commands themselves run in `tests/clients/test_agent_commands.py`.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import agent_calls
import msgspec
import pytest
from agent_calls import AGENTS, FORMATS, RESULT, SIGNATURE, THOUGHT, Tool, Turn, continued
from harness import Answer, Call, Running, Upstream, gateway_before, reply, scenario
from translated_calls import ALIASES, UPSTREAMS, json
from translated_calls import answer as whole_answer

MORE = """
[models.on_openai_responses]
targets = ["openai/gpt-4o"]
"""
TARGETS = [*UPSTREAMS, "openai_responses"]
PAIRS = [
    (agent, target)
    for agent in AGENTS
    for target in TARGETS
    # Only who speaks Responses is asked in it.
    if target != "openai_responses" or FORMATS[agent] == target
]
TRANSLATED = [(agent, target) for agent, target in PAIRS if FORMATS[agent] != target]

Pair = tuple[str, str]
pairs = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "->".join(pair))
translated = pytest.mark.parametrize("pair", TRANSLATED, ids=lambda pair: "->".join(pair))
codex = pytest.mark.parametrize(
    "target", [target for agent, target in TRANSLATED if agent == "codex"]
)


class Site:
    """A gateway, its upstream, and a key; `call` is an agent's call."""

    def __init__(self, gateway: Running, upstream: Upstream, key: bytes) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.key = key

    async def call(self, agent: str, target: str, body: bytes, path: str | None = None) -> Answer:
        told = (path or AGENTS[agent]["path"]).replace("{model}", f"on_{target}")
        fields = [agent_calls.credential(agent, self.key), *agent_calls.headers(agent)]
        return await self.gateway.call(told, body, key=b"", fields=fields)

    async def turn(self, agent: str, target: str, name: str = "turn", **more: Any) -> Turn:
        body = agent_calls.body(agent, name, f"on_{target}", **more)
        got = await self.call(agent, target, body)
        assert got.status == 200, got
        turn = agent_calls.read(agent, got.body)
        assert turn.ended
        return turn

    def asked(self, number: int) -> Any:
        return msgspec.json.decode(self.upstream.calls[number].body)


@contextlib.asynccontextmanager
async def site(directory: Path, script: Callable[[Call], Awaitable[None]]) -> AsyncIterator[Site]:
    async with gateway_before(directory, script, more=ALIASES + MORE) as (gateway, upstream):
        yield Site(gateway, upstream, await gateway.key())


def tool_of(agent: str) -> Tool:
    found = AGENTS[agent]["tool"]
    return Tool(found["name"], json(found["arguments"]).decode())


def script_of(*answers: Tool | str) -> Callable[[Call], Awaitable[None]]:
    """An upstream that gives these answers, one after the other."""
    left = list(answers)

    async def script(call: Call) -> None:
        one = left.pop(0)
        await agent_calls.answer(
            call, one if isinstance(one, Tool) else None, one if isinstance(one, str) else ""
        )

    return script


def called(agent: str, turn: Turn) -> tuple[str, Any]:
    """The one call of a turn: its name and its arguments, as the agent's client has them."""
    match agent:
        case "claude_code":
            (block,) = (one for one in turn.kept if one["type"] == "tool_use")
            return block["name"], block["input"]
        case "codex":
            (item,) = (one for one in turn.kept if one["type"] == "function_call")
            return item["name"], msgspec.json.decode(item["arguments"])
    (call,) = (one["functionCall"] for one in turn.kept if "functionCall" in one)
    return call["name"], call["args"]


def history(target: str, asked: Any) -> tuple[Any, Any, list[Any]]:
    """Of a request as the upstream got it: a call's name, its arguments, and all tool results."""
    match target:
        case "openai_chat":
            (call,) = (one for m in asked["messages"] for one in m.get("tool_calls") or ())
            results = [m["content"] for m in asked["messages"] if m["role"] == "tool"]
            function = call["function"]
            return function["name"], msgspec.json.decode(function["arguments"]), results
        case "anthropic_messages":
            blocks = [b for m in asked["messages"] for b in m["content"] if isinstance(b, dict)]
            (use,) = (one for one in blocks if one["type"] == "tool_use")
            results = [one["content"] for one in blocks if one["type"] == "tool_result"]
            return use["name"], use["input"], results
        case "openai_responses":
            (item,) = (one for one in asked["input"] if one["type"] == "function_call")
            results = [
                one["output"] for one in asked["input"] if one["type"] == "function_call_output"
            ]
            return item["name"], msgspec.json.decode(item["arguments"]), results
    parts = [part for turn in asked["contents"] for part in turn["parts"]]
    (found,) = (part["functionCall"] for part in parts if "functionCall" in part)
    returned = [part["functionResponse"] for part in parts if "functionResponse" in part]
    results = [one["response"]["output"] for one in returned]
    return found["name"], found["args"], results


def text_of(result: Any) -> str:
    return result if isinstance(result, str) else "".join(part["text"] for part in result)


# --- a tool's call, and its result ------------------------------------------------------------


@pairs
@scenario
async def test_an_agent_calls_its_tool_and_goes_on_with_the_result(
    pair: Pair, tmp_path: Path
) -> None:
    agent, target = pair
    tool = tool_of(agent)
    async with site(tmp_path, script_of(tool, "All tidy.")) as one:
        turn = await one.turn(agent, target)
        assert called(agent, turn) == (tool.name, msgspec.json.decode(tool.arguments))
        assert turn.input_tokens == 20
        last = await one.turn(agent, target, **continued(agent, turn))
        assert last.text == "All tidy."
        name, arguments, results = history(target, one.asked(1))
        assert (name, arguments) == (tool.name, msgspec.json.decode(tool.arguments))
        assert [text_of(result) for result in results] == [RESULT]


@pairs
@scenario
async def test_the_system_prompt_and_every_tool_reach_the_model(pair: Pair, tmp_path: Path) -> None:
    agent, target = pair
    async with site(tmp_path, script_of("Hello.")) as one:
        await one.turn(agent, target)
        asked = one.upstream.calls[0].body.decode()
        vector = json(AGENTS[agent]["turn"]).decode()
        for prose in ("You help with code.", "Be brief.", "A helper called Explore can be asked.",
                      "You write code.", "Every command may be run.", "Today is Saturday.",
                      "Tidy up the notes", "Reads a file.", "Edits files by a patch.",
                      "Asks one.", "Lists a directory."):  # fmt: skip
            assert (prose in asked) is (prose in vector), prose


# --- thoughts ---------------------------------------------------------------------------------


SIGNED = [
    *(("claude_code", target) for target in ("anthropic_messages", "gemini")),
    *(("codex", target) for target in ("anthropic_messages", "gemini", "openai_responses")),
    ("gemini_cli", "gemini"),
]


@pytest.mark.parametrize("pair", SIGNED, ids=lambda pair: "->".join(pair))
@scenario
async def test_signed_thoughts_come_back_to_the_provider_that_signed_them(
    pair: Pair, tmp_path: Path
) -> None:
    agent, target = pair
    async with site(tmp_path, script_of(tool_of(agent), "All tidy.")) as one:
        turn = await one.turn(agent, target)
        await one.turn(agent, target, **continued(agent, turn))
        asked = one.asked(1)
        match target:
            case "anthropic_messages":
                blocks = next(m["content"] for m in asked["messages"] if m["role"] == "assistant")
                assert blocks[0] == {
                    "type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE,
                }  # fmt: skip
                assert blocks[1]["type"] == "tool_use"
            case "openai_responses":
                (thought,) = (item for item in asked["input"] if item["type"] == "reasoning")
                assert thought["encrypted_content"] == SIGNATURE
            case _:
                parts = [part for turn in asked["contents"] for part in turn["parts"]]
                (call,) = (part for part in parts if "functionCall" in part)
                assert call["thoughtSignature"] == SIGNATURE


@scenario
async def test_claude_goes_on_without_thinking_where_gemini_cli_kept_no_thoughts(
    tmp_path: Path,
) -> None:
    async with site(tmp_path, script_of(tool_of("gemini_cli"), "All tidy.")) as one:
        turn = await one.turn("gemini_cli", "anthropic_messages")
        assert one.asked(0)["thinking"] == {"type": "enabled", "budget_tokens": 8192}
        await one.turn("gemini_cli", "anthropic_messages", **continued("gemini_cli", turn))
        assert "thinking" not in one.asked(1)


# --- Codex's tools ----------------------------------------------------------------------------


def functions(target: str, asked: Any) -> dict[str, Any]:
    """The schemas of the functions that a model was given."""
    match target:
        case "openai_chat":
            found = [tool["function"] for tool in asked["tools"]]
            return {one["name"]: one["parameters"] for one in found}
        case "anthropic_messages":
            return {one["name"]: one["input_schema"] for one in asked["tools"]}
    (declared,) = asked["tools"]
    return {one["name"]: one["parametersJsonSchema"] for one in declared["functionDeclarations"]}


@codex
@scenario
async def test_a_patch_is_asked_for_as_a_functions_argument_and_comes_back_as_plain_text(
    target: str, tmp_path: Path
) -> None:
    patch = AGENTS["codex"]["patch"]
    tool = Tool(patch["name"], json({"input": patch["input"]}).decode())
    async with site(tmp_path, script_of(tool, "Patched.")) as one:
        body = agent_calls.body("codex", "turn", f"on_{target}")
        got = await one.call("codex", target, body)
        turn = agent_calls.read("codex", got.body)
        (item,) = (kept for kept in turn.kept if kept["type"] == "custom_tool_call")
        assert (item["name"], item["input"]) == (patch["name"], patch["input"])
        deltas = pieces(got.body, "response.custom_tool_call_input.delta")
        assert "".join(deltas) == patch["input"]
        assert target == "gemini" or len(deltas) > 1  # Gemini gives a call in one piece
        schema = functions(target, one.asked(0))["apply_patch"]
        assert schema["required"] == ["input"]
        assert "start: " in one.upstream.calls[0].body.decode()
        assert b"tools[1].format" in (got.get(b"X-Gateway-Ignored") or b"")
        await one.turn("codex", target, **continued("codex", turn))
        name, arguments, results = history(target, one.asked(1))
        assert (name, arguments) == (patch["name"], {"input": patch["input"]})
        assert [text_of(result) for result in results] == [RESULT]


def pieces(data: bytes, kind: str) -> list[str]:
    """The texts of all deltas of a kind."""
    lines = [line[5:] for line in data.split(b"\n") if line[:5] == b"data:"]
    documents = [msgspec.json.decode(line) for line in lines if line.strip() != b"[DONE]"]
    return [one["delta"] for one in documents if one["type"] == kind]


@codex
@scenario
async def test_a_script_of_codexs_code_mode_keeps_its_group(target: str, tmp_path: Path) -> None:
    run = AGENTS["codex"]["script"]
    tool = Tool(f"{run['namespace']}__{run['name']}", json({"input": run["input"]}).decode())
    async with site(tmp_path, script_of(tool, "Ran.")) as one:
        turn = await one.turn("codex", target, "code_mode")
        (item,) = (kept for kept in turn.kept if kept["type"] == "custom_tool_call")
        assert {name: item[name] for name in run} == run
        more = continued("codex", turn, first="code_mode")
        assert (await one.turn("codex", target, "code_mode", **more)).text == "Ran."
        name, arguments, results = history(target, one.asked(1))
        assert (name, arguments) == (tool.name, {"input": run["input"]})
        assert [text_of(result) for result in results] == [RESULT]


@codex
@scenario
async def test_a_grouped_function_is_called_by_its_group(target: str, tmp_path: Path) -> None:
    grouped = AGENTS["codex"]["grouped"]
    tool = Tool("team__ask", json(grouped["arguments"]).decode())
    async with site(tmp_path, script_of(tool)) as one:
        turn = await one.turn("codex", target)
        (item,) = (kept for kept in turn.kept if kept["type"] == "function_call")
        assert (item["namespace"], item["name"]) == (grouped["namespace"], grouped["name"])


@codex
@scenario
async def test_searches_offered_beside_codexs_own_tools_are_left_out_and_told(
    target: str, tmp_path: Path
) -> None:
    async with site(tmp_path, script_of("Hello.")) as one:
        body = agent_calls.body("codex", "turn", f"on_{target}")
        got = await one.call("codex", target, body)
        told = (got.get(b"X-Gateway-Ignored") or b"").decode().split(", ")
        assert {"tools.tool_search", "tools.web_search"} <= set(told)
        assert functions(target, one.asked(0)).keys() == {
            "exec_command", "apply_patch", "team__ask",
        }  # fmt: skip


# --- searches that are all that is asked ------------------------------------------------------


@pytest.mark.parametrize(
    "pair", [pair for pair in TRANSLATED if "search" in AGENTS[pair[0]]], ids="->".join
)
@scenario
async def test_a_call_for_nothing_but_a_search_is_refused_by_name(
    pair: Pair, tmp_path: Path
) -> None:
    agent, target = pair
    async with site(tmp_path, script_of()) as one:
        got = await one.call(agent, target, agent_calls.body(agent, "search", f"on_{target}"))
        assert got.status == 400
        assert b"tools." in got.body
        assert not one.upstream.calls


@codex
@scenario
async def test_a_search_that_is_forced_is_refused(target: str, tmp_path: Path) -> None:
    async with site(tmp_path, script_of()) as one:
        forced = {"type": "web_search"}
        body = agent_calls.body("codex", "turn", f"on_{target}", tool_choice=forced)
        got = await one.call("codex", target, body)
        assert (got.status, got.json()["error"]["param"]) == (400, "tool_choice")


@pytest.mark.parametrize("target", ["openai_chat", "gemini"])
@scenario
async def test_a_search_that_claude_code_forces_is_refused(target: str, tmp_path: Path) -> None:
    async with site(tmp_path, script_of()) as one:
        tools = [*AGENTS["claude_code"]["turn"]["tools"], *AGENTS["claude_code"]["search"]["tools"]]
        choice = {"type": "tool", "name": "web_search"}
        body = agent_calls.body(
            "claude_code", "turn", f"on_{target}", tools=tools, tool_choice=choice
        )
        got = await one.call("claude_code", target, body)
        assert got.status == 400
        assert "tool_choice" in got.json()["error"]["message"]


# --- compaction and counting ------------------------------------------------------------------


@pairs
@scenario
async def test_a_session_is_summed_up_by_the_model_it_runs_on(pair: Pair, tmp_path: Path) -> None:
    agent, target = pair
    async with site(tmp_path, script_of(tool_of(agent), "Summary.")) as one:
        turn = await one.turn(agent, target)
        more = continued(agent, turn, AGENTS[agent]["compaction"])
        assert (await one.turn(agent, target, **more)).text == "Summary."
        asked = one.upstream.calls[1].body
        said = AGENTS[agent]["compaction"]
        (part,) = said.get("content") or said["parts"]
        assert json(part["text"]).strip(b'"') in asked


@codex
@scenario
async def test_a_compaction_by_the_provider_is_refused_by_name(target: str, tmp_path: Path) -> None:
    async with site(tmp_path, script_of()) as one:
        vector = AGENTS["codex"]
        items = [*vector["turn"]["input"], vector["remote_compaction"]]
        got = await one.call(
            "codex", target, agent_calls.body("codex", "turn", f"on_{target}", input=items)
        )
        assert (got.status, got.json()["error"]["param"]) == (400, f"input[{len(items) - 1}]")
        body = json({"model": f"on_{target}", "input": vector["turn"]["input"]})
        got = await one.call("codex", target, body, "/v1/responses/compact")
        assert (got.status, got.json()["error"]["code"]) == (400, "unsupported_parameter")
        assert got.json()["error"]["param"] == "model"
        assert not one.upstream.calls


@pytest.mark.parametrize(
    "pair",
    [pair for pair in TRANSLATED if pair[0] != "codex"],
    ids="->".join,
)
@scenario
async def test_tokens_are_counted_for_a_model_of_another_format(pair: Pair, tmp_path: Path) -> None:
    agent, target = pair

    async def counts(call: Call) -> None:
        told = {"input_tokens": 11, "totalTokens": 11}
        await call.send(reply(json(told)))

    paths = {
        "claude_code": "/v1/messages/count_tokens?beta=true",
        "gemini_cli": f"/v1beta/models/on_{target}:countTokens",
    }
    async with site(tmp_path, counts) as one:
        body = agent_calls.body(agent, "count", f"on_{target}")
        got = await one.call(agent, target, body, paths[agent])
        assert got.status == 200, got
        assert got.json()["input_tokens" if agent == "claude_code" else "totalTokens"] > 0


@pytest.mark.parametrize("target", UPSTREAMS)
@scenario
async def test_gemini_clis_question_who_speaks_next_keeps_its_schema(
    target: str, tmp_path: Path
) -> None:
    async def says(call: Call) -> None:
        await call.send(reply(whole_answer(agent_calls.asked_in(call))))

    async with site(tmp_path, says) as one:
        body = agent_calls.body("gemini_cli", "next_speaker", f"on_{target}")
        path = f"/v1beta/models/on_{target}:generateContent"
        got = await one.call("gemini_cli", target, body, path)
        assert got.status == 200, got
        assert b'"enum":["user","model"]' in one.upstream.calls[0].body.replace(b" ", b"")


@pytest.mark.parametrize("target", [target for target in UPSTREAMS if target != "gemini"])
@scenario
async def test_a_result_that_gemini_cli_says_twice_is_said_once(
    target: str, tmp_path: Path
) -> None:
    async with site(tmp_path, script_of(tool_of("gemini_cli"), "All tidy.")) as one:
        turn = await one.turn("gemini_cli", target)
        more = continued("gemini_cli", turn)
        more["contents"][-1]["parts"] *= 2
        await one.turn("gemini_cli", target, **more)
        assert [text_of(result) for result in history(target, one.asked(1))[2]] == [RESULT]


# --- headers, and what a call is held for -----------------------------------------------------


@pairs
@scenario
async def test_an_agents_headers_go_along_to_its_own_format_alone(
    pair: Pair, tmp_path: Path
) -> None:
    agent, target = pair
    async with site(tmp_path, script_of("Hello.")) as one:
        await one.turn(agent, target)
        call = one.upstream.calls[0]
        own = FORMATS[agent] == target
        assert ("?beta=true" in call.target) is (own and agent == "claude_code")
        assert call.get(b"user-agent") == AGENTS[agent]["headers"]["User-Agent"].encode()
        for name in (
            "anthropic-beta",
            "originator",
            "session_id",
            "OpenAI-Beta",
            "x-goog-api-client",
        ):
            sent = AGENTS[agent]["headers"].get(name)
            assert call.get(name.encode()) == (sent.encode() if own and sent else None), name
        assert all(one.key not in value for _, value in call.fields)


@pytest.mark.parametrize("agent", AGENTS)
@scenario
async def test_a_call_is_held_at_what_its_bytes_can_cost(agent: str, tmp_path: Path) -> None:
    """Not at the whole context of a model: a small balance has to do for an agent."""
    target = "anthropic_messages"
    async with site(tmp_path, script_of("Hello.")) as one:
        more: dict[str, Any] = {}
        if agent == "codex":
            # Its web search reads what nobody knows; the README says how to switch it off.
            tools = AGENTS[agent]["turn"]["tools"]
            more["tools"] = [tool for tool in tools if tool["type"] != "web_search"]
        body = agent_calls.body(agent, "turn", f"on_{target}", **more)
        got = await one.call(agent, target, body)
        assert got.status == 200
        receipt = await one.gateway.receipt(got, one.key)
        dearest_nano_usd = 6_000  # a token of input, written to a cache for an hour
        output = 15_000 * (AGENTS[agent]["turn"].get("max_tokens") or 4096)
        bytes_and_prompts = len(body) + 4000
        assert receipt["cost"]["held_nano_usd"] <= bytes_and_prompts * dearest_nano_usd + output
