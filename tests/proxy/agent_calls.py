"""What coding agents send, and how they go on: `tests/vectors/agents`, played against any upstream.

`said` is an upstream's stream that thinks, signs its thoughts and calls a tool, in each format;
`Turn` is what an agent keeps of an answer, read as its own client reads it, and `continued` the
next request that it makes of that: its history with the answer, and the tool's result.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from harness import Call, chunk
from translated_calls import SSE, json, upstream_format, usage

VECTORS = Path(__file__).resolve().parents[1] / "vectors/agents"
AGENTS: dict[str, dict[str, Any]] = {
    path.stem: msgspec.json.decode(path.read_bytes()) for path in sorted(VECTORS.glob("*.json"))
}
FORMATS = {
    "claude_code": "anthropic_messages", "codex": "openai_responses", "gemini_cli": "gemini",
}  # fmt: skip
assert AGENTS.keys() == FORMATS.keys()

THOUGHT = "They want it tidy."
SIGNATURE = "c2lnbmVkLWJ5LXRoZS1wcm92aWRlcg=="
RESULT = "total 0"

Json = dict[str, Any]


class Tool(msgspec.Struct, frozen=True):
    """A call as an upstream makes it: arguments as JSON text, in pieces as they come."""

    name: str
    arguments: str

    @property
    def pieces(self) -> list[str]:
        text = self.arguments
        return [text[at : at + 7] for at in range(0, len(text), 7)]


def headers(agent: str) -> list[tuple[bytes, bytes]]:
    """The header fields of an agent, without its key."""
    found: Mapping[str, str] = AGENTS[agent]["headers"]
    return [(name.encode(), value.encode()) for name, value in found.items()]


def credential(agent: str, key: bytes) -> tuple[bytes, bytes]:
    """The header field that an agent puts its key in."""
    name = AGENTS[agent]["credential"].encode()
    return name, (b"Bearer " if name == b"Authorization" else b"") + key


def body(agent: str, name: str, model: str, **more: Any) -> bytes:
    """One of the agent's bodies; where its format has the model in the body, with it."""
    found = {**AGENTS[agent][name], **more}
    return json(found if agent == "gemini_cli" else {"model": model, **found})


# --- what an upstream answers -----------------------------------------------------------------


def said(upstream: str, tool: Tool | None, text: str = "") -> list[bytes]:
    """A stream: a signed thought, and a call, or else a text."""
    match upstream:
        case "openai_chat":
            return [
                b"data: %b\n\n" % (one if isinstance(one, bytes) else json(one))
                for one in [*map(_chat_chunk, _chat_deltas(tool, text)), b"[DONE]"]
            ]
        case "anthropic_messages":
            return [
                b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json(one))
                for one in _messages_events(tool, text)
            ]
        case "openai_responses":
            return [
                b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json(one))
                for one in _responses_events(tool, text)
            ]
    parts: list[Json] = [{"text": THOUGHT, "thought": True}]
    if tool is not None:
        call = {"name": tool.name, "args": msgspec.Raw(tool.arguments.encode())}
        parts.append({"functionCall": call, "thoughtSignature": SIGNATURE})
    else:
        parts.append({"text": text})
    return [
        b"data: %b\r\n\r\n" % json(_gemini_chunk(part, last=number == len(parts) - 1))
        for number, part in enumerate(parts)
    ]


def _chat_deltas(tool: Tool | None, text: str) -> list[Json]:
    def choice(stop: str | None = None, **delta: Any) -> Json:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": stop}]}

    def call(arguments: str, **more: Any) -> Json:
        one = {"index": 0, **more}
        one["function"] = {"arguments": arguments, **more.get("function", {})}
        return choice(tool_calls=[one])

    deltas = [choice(role="assistant", content=None if tool else text)]
    if tool is not None:
        deltas.append(call("", id="call_1", type="function", function={"name": tool.name}))
        deltas += [call(piece) for piece in tool.pieces]
    last: Json = {"choices": [], "usage": usage("openai_chat")}
    return [*deltas, choice("tool_calls" if tool else "stop"), last]


def _chat_chunk(document: Json) -> Json:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024"}
    return head | document


def _messages_events(tool: Tool | None, text: str) -> list[Json]:
    def block(index: int, opened: Json, *deltas: Json) -> list[Json]:
        return [
            {"type": "content_block_start", "index": index, "content_block": opened},
            *({"type": "content_block_delta", "index": index, "delta": one} for one in deltas),
            {"type": "content_block_stop", "index": index},
        ]

    message: Json = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": usage("anthropic_messages") | {"output_tokens": 1},
    }  # fmt: skip
    events = block(
        0, {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": THOUGHT},
        {"type": "signature_delta", "signature": SIGNATURE},
    )  # fmt: skip
    if tool is not None:
        opened = {"type": "tool_use", "id": "toolu_1", "name": tool.name, "input": {}}
        pieces = ({"type": "input_json_delta", "partial_json": one} for one in tool.pieces)
        events += block(1, opened, *pieces)
    else:
        events += block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": text})
    stop = {"stop_reason": "tool_use" if tool else "end_turn", "stop_sequence": None}
    return [
        {"type": "message_start", "message": message}, *events,
        {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]  # fmt: skip


def _responses_events(tool: Tool | None, text: str) -> list[Json]:
    thought = {
        "id": "rs_1", "type": "reasoning", "encrypted_content": SIGNATURE,
        "summary": [{"type": "summary_text", "text": THOUGHT}],
    }  # fmt: skip
    item: Json = {
        "id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }  # fmt: skip
    if tool is not None:
        item = {
            "id": "fc_1", "type": "function_call", "call_id": "call_1", "name": tool.name,
            "arguments": tool.arguments, "status": "completed",
        }  # fmt: skip
    response: Json = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4o",
        "status": "in_progress", "output": [], "usage": None,
    }  # fmt: skip
    told = {
        "input_tokens": 20, "output_tokens": 7, "total_tokens": 27,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 3},
    }  # fmt: skip
    done = response | {"status": "completed", "output": [thought, item], "usage": told}
    return [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.done", "output_index": 0, "item": thought},
        {"type": "response.output_item.done", "output_index": 1, "item": item},
        {"type": "response.completed", "response": done},
    ]


def _gemini_chunk(part: Json, *, last: bool) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": [part]}, "index": 0}
    if last:
        candidate["finishReason"] = "STOP"
    return {
        "candidates": [candidate], "usageMetadata": usage("gemini"),
        "modelVersion": "gemini-x", "responseId": "r1",
    }  # fmt: skip


def asked_in(call: Call) -> str:
    """In which format the upstream was asked."""
    return "openai_responses" if call.target.endswith("/responses") else upstream_format(call)


async def answer(call: Call, tool: Tool | None, text: str = "") -> None:
    await call.send(SSE, *map(chunk, said(asked_in(call), tool, text)), b"0\r\n\r\n")


# --- what an agent reads, and goes on with ----------------------------------------------------


class Turn(msgspec.Struct):
    """What an agent keeps of an answer: blocks, items or parts as its format has them."""

    kept: list[Json] = []
    text: str = ""
    ended: bool = False
    input_tokens: int = 0


def read(agent: str, data: bytes) -> Turn:
    """Read a stream as the agent's client does."""
    turn = Turn()
    for line in data.splitlines():
        if line[:5] != b"data:":
            continue
        document = msgspec.json.decode(line[5:])
        assert "error" not in document, document
        {"claude_code": _messages, "codex": _responses, "gemini_cli": _gemini}[agent](
            turn, document
        )
    return turn


def _messages(turn: Turn, document: Json) -> None:
    match document["type"]:
        case "content_block_start":
            block = document["content_block"]
            turn.kept.append(block | ({"input": ""} if block["type"] == "tool_use" else {}))
        case "content_block_delta":
            for name, piece in document["delta"].items():
                key = "input" if name == "partial_json" else name
                if key != "type":
                    turn.kept[document["index"]][key] += piece
        case "message_start" | "message_delta":
            told = document.get("usage") or document["message"]["usage"]
            if told.get("input_tokens"):
                turn.input_tokens = told["input_tokens"] + told.get("cache_read_input_tokens", 0)
        case "message_stop":
            turn.ended = True
            for block in turn.kept:
                if block["type"] == "tool_use":
                    block["input"] = msgspec.json.decode(block["input"])
                turn.text += block.get("text", "")


def _responses(turn: Turn, document: Json) -> None:
    match document["type"]:
        case "response.output_item.done":
            item = document["item"]
            turn.kept.append(item)
            if item["type"] == "message":
                turn.text += "".join(part["text"] for part in item["content"])
        case "response.completed":
            turn.ended = True
            turn.input_tokens = document["response"]["usage"]["input_tokens"]


def _gemini(turn: Turn, document: Json) -> None:
    for candidate in document["candidates"]:
        for part in candidate["content"].get("parts", ()):
            # The CLI keeps what was said and called, and of thoughts nothing.
            if not part.get("thought"):
                turn.kept.append(part)
                turn.text += part.get("text", "")
        turn.ended = turn.ended or "finishReason" in candidate
    if told := document.get("usageMetadata"):
        turn.input_tokens = told["promptTokenCount"]


def continued(agent: str, turn: Turn, *last: Json, first: str = "turn") -> Json:
    """The fields of the request after an answer: history, the results of its calls, `last`."""
    vector = AGENTS[agent][first]
    if agent == "claude_code":
        results = [
            {"type": "tool_result", "tool_use_id": one["id"], "content": RESULT, "is_error": False}
            for one in turn.kept
            if one["type"] == "tool_use"
        ]
        said_so_far = {"role": "assistant", "content": turn.kept}
        user = {"role": "user", "content": [*results, *(b for one in last for b in one["content"])]}
        return {"messages": [*vector["messages"], said_so_far, user]}
    if agent == "codex":
        results = [
            {"type": f"{one['type']}_output", "call_id": one["call_id"], "output": RESULT}
            for one in turn.kept
            if one["type"] in ("function_call", "custom_tool_call")
        ]
        return {"input": [*vector["input"], *turn.kept, *results, *last]}
    responses = [
        {"functionResponse": {
            "id": call.get("id"), "name": call["name"], "response": {"output": RESULT}}}
        for one in turn.kept
        if (call := one.get("functionCall"))
    ]  # fmt: skip
    parts = [*responses, *(part for one in last for part in one["parts"])]
    model = {"role": "model", "parts": turn.kept}
    return {"contents": [*vector["contents"], model, {"role": "user", "parts": parts}]}
