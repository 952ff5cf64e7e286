"""The same small conversation in every format: as a caller asks it, and as an upstream answers.

`CALLERS` are the formats that a client may speak, `UPSTREAMS` those that a provider is asked in
when it does not speak the caller's. Answers are read back by the few fields that all clients read.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from harness import Call, chunk

from gateway.proxy.routing import SPOKEN
from gateway.wire import registry

MODELS = {
    "openai_chat": ("openai", "gpt-4o"),
    "anthropic_messages": ("anthropic", "claude-sonnet-4-5"),
    "gemini": ("google", "gemini-2.5-flash"),
}
"""By upstream format: the provider of `harness.config_text`, and a model that has a price."""

CALLERS = list(registry.DIALECTS)
UPSTREAMS = [one for one in SPOKEN.values() if one in CALLERS]
FAMILIES = {
    "openai_chat": "openai", "openai_responses": "openai",
    "anthropic_messages": "anthropic", "gemini": "gemini",
}  # fmt: skip
PAIRS = [(one, other) for one in CALLERS for other in UPSTREAMS if one != other]
PAIR_IDS = [f"{one}->{other}" for one, other in PAIRS]

TEXT = "Grüße aus Oslo: 5°"
INPUT, CACHED, OUTPUT = 20, 4, 7
ARGUMENTS = '{"city":"Oslo","days":1.50}'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "number"}}}

ALIASES = """
[providers.compatible]
format = "openai"
base_url = "{url}/compatible"
keys = ["provider-key-compatible"]
catalog = "openai"
responses = false

[models.on_openai_chat]
targets = ["compatible/gpt-4o"]

[models.on_anthropic_messages]
targets = ["anthropic/claude-sonnet-4-5"]

[models.on_gemini]
targets = ["google/gemini-2.5-flash"]

[models.first_its_own]
targets = ["openai/gpt-4o", "anthropic/claude-sonnet-4-5"]

[models.first_another]
targets = ["google/gemini-2.5-flash", "openai/gpt-4o"]
"""


def json(value: Any) -> bytes:
    return msgspec.json.encode(value)


# --- what a caller asks -----------------------------------------------------------------------


def path(caller: str, model: str, *, stream: bool = False, array: bool = False) -> str:
    match caller:
        case "openai_chat":
            return "/v1/chat/completions"
        case "openai_responses":
            return "/v1/responses"
        case "anthropic_messages":
            return "/v1/messages"
    method = "streamGenerateContent" if stream else "generateContent"
    return f"/v1beta/models/{model}:{method}" + ("?alt=sse" if stream and not array else "")


def question(
    caller: str, model: str, *, stream: bool = False, tool: bool = False, **more: Any
) -> bytes:
    """The body of a question; `more` are fields of the caller's format."""
    body = _asks(caller, model) | more
    if stream and caller != "gemini":
        body["stream"] = True
    if stream and caller == "openai_chat":
        body["stream_options"] = {"include_usage": True}
    if tool:
        body["tools"] = [_defined(caller)]
    return json(body)


def _asks(caller: str, model: str) -> dict[str, Any]:
    match caller:
        case "openai_chat":
            return {"model": model, "messages": [{"role": "user", "content": "Weather?"}]}
        case "openai_responses":
            return {"model": model, "input": "Weather?"}
        case "anthropic_messages":
            turn = {"role": "user", "content": "Weather?"}
            return {"model": model, "max_tokens": 500, "messages": [turn]}
    return {"contents": [{"role": "user", "parts": [{"text": "Weather?"}]}]}


def _defined(caller: str) -> dict[str, Any]:
    match caller:
        case "openai_chat":
            return {"type": "function", "function": _tool("parameters")}
        case "openai_responses":
            return {"type": "function", "strict": False, **_tool("parameters")}
        case "anthropic_messages":
            return _tool("input_schema")
    return {"functionDeclarations": [_tool("parametersJsonSchema")]}


def _tool(schema: str) -> dict[str, Any]:
    return {"name": "weather", "description": "The weather.", schema: SCHEMA}


# --- what an upstream answers -----------------------------------------------------------------


def usage(upstream: str) -> dict[str, Any]:
    match upstream:
        case "openai_chat":
            return {
                "prompt_tokens": INPUT, "completion_tokens": OUTPUT,
                "total_tokens": INPUT + OUTPUT, "prompt_tokens_details": {"cached_tokens": CACHED},
            }  # fmt: skip
        case "anthropic_messages":
            return {
                "input_tokens": INPUT - CACHED, "cache_read_input_tokens": CACHED,
                "cache_creation_input_tokens": 0, "output_tokens": OUTPUT,
            }  # fmt: skip
    return {
        "promptTokenCount": INPUT, "candidatesTokenCount": OUTPUT,
        "cachedContentTokenCount": CACHED, "totalTokenCount": INPUT + OUTPUT,
    }  # fmt: skip


def answer(upstream: str, *, tool: bool = False) -> bytes:
    """A whole answer: the text, or a call of the tool."""
    match upstream:
        case "openai_chat":
            function = {"name": "weather", "arguments": ARGUMENTS}
            calls = [{"id": "call_1", "type": "function", "function": function}]
            message: dict[str, Any] = {"role": "assistant", "content": None if tool else TEXT}
            if tool:
                message["tool_calls"] = calls
            stop = "tool_calls" if tool else "stop"
            return json(
                {
                    "id": "chatcmpl-1", "object": "chat.completion", "created": 1,
                    "model": "gpt-4o-2024", "usage": usage(upstream),
                    "choices": [{"index": 0, "message": message, "finish_reason": stop}],
                }
            )  # fmt: skip
        case "anthropic_messages":
            block: dict[str, Any] = {"type": "text", "text": TEXT}
            if tool:
                block = {
                    "type": "tool_use", "id": "call_1", "name": "weather",
                    "input": msgspec.Raw(ARGUMENTS.encode()),
                }  # fmt: skip
            return json(
                {
                    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
                    "content": [block], "stop_reason": "tool_use" if tool else "end_turn",
                    "stop_sequence": None, "usage": usage(upstream),
                }
            )  # fmt: skip
    return json(_gemini_chunk([_gemini_part(tool)], "STOP"))


def _gemini_part(tool: bool) -> dict[str, Any]:
    if not tool:
        return {"text": TEXT}
    return {"functionCall": {"name": "weather", "args": msgspec.Raw(ARGUMENTS.encode())}}


def _gemini_chunk(parts: list[Any], stop: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if stop is not None:
        candidate["finishReason"] = stop
    return {
        "candidates": [candidate], "usageMetadata": usage("gemini"),
        "modelVersion": "gemini-x", "responseId": "r1",
    }  # fmt: skip


def events(upstream: str, *, tool: bool = False) -> list[bytes]:
    """The same as a stream, event by event; the last one is the terminal."""
    match upstream:
        case "openai_chat":
            return [*map(_chat_event, _chat_deltas(tool)), b"data: [DONE]\n\n"]
        case "anthropic_messages":
            return [
                b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json(one))
                for one in _messages_events(tool)
            ]
    if tool:
        chunks = [_gemini_chunk([_gemini_part(True)], "STOP")]
    else:
        said = (TEXT[:5], None), (TEXT[5:], "STOP")
        chunks = [_gemini_chunk([{"text": text}], stop) for text, stop in said]
    return [b"data: %b\r\n\r\n" % json(one) for one in chunks]


def _chat_deltas(tool: bool) -> list[dict[str, Any]]:
    def choice(delta: dict[str, Any], stop: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": stop}]}

    def arguments(text: str, **more: Any) -> dict[str, Any]:
        call = {"index": 0, "function": {"arguments": text}, **more}
        return choice({"tool_calls": [call]})

    if tool:
        opening = arguments("", id="call_1", type="function")
        opening["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] = "weather"
        deltas = [opening, arguments(ARGUMENTS[:9]), arguments(ARGUMENTS[9:])]
    else:
        deltas = [choice({"content": TEXT[:5]}), choice({"content": TEXT[5:]})]
    return [
        choice({"role": "assistant", "content": "" if not tool else None}), *deltas,
        choice({}, "tool_calls" if tool else "stop"),
        {"choices": [], "usage": usage("openai_chat")},
    ]  # fmt: skip


def _chat_event(document: dict[str, Any]) -> bytes:
    head = {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024"
    }  # fmt: skip
    return b"data: %b\n\n" % json(head | document)


def _messages_events(tool: bool) -> list[dict[str, Any]]:
    block: dict[str, Any] = {"type": "text", "text": ""}
    kind, name, said = "text_delta", "text", TEXT
    if tool:
        block = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}
        kind, name, said = "input_json_delta", "partial_json", ARGUMENTS
    message: dict[str, Any] = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": usage("anthropic_messages") | {"output_tokens": 1},
    }  # fmt: skip
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": kind, name: piece}}
            for piece in (said[:5], said[5:])
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use" if tool else "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": OUTPUT},
        },
        {"type": "message_stop"},
    ]


SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def upstream_format(call: Call) -> str:
    """In which format the gateway asked."""
    if "/messages" in call.target:
        return "anthropic_messages"
    return "gemini" if "/v1beta/" in call.target else "openai_chat"


def asks_for_stream(call: Call) -> bool:
    if upstream_format(call) == "gemini":
        return "streamGenerateContent?alt=sse" in call.target
    return msgspec.json.decode(call.body).get("stream") is True


async def stream(call: Call, pieces: list[bytes], *, end: bool = True) -> None:
    last = [b"0\r\n\r\n"] if end else []
    await call.send(SSE, *map(chunk, pieces), *last)


# --- what a caller reads ----------------------------------------------------------------------


class Read(msgspec.Struct):
    """What a client makes of an answer, whole or streamed."""

    text: str = ""
    arguments: str = ""
    name: str = ""
    usage: tuple[int, int, int] = (0, 0, 0)
    """Input, cached, output."""
    error: Any = None
    ended: bool = False


def read(caller: str, body: bytes) -> Read:
    """A whole answer."""
    found = Read(ended=True)
    document = msgspec.json.decode(body)
    _READERS[caller](found, document, False)
    return found


def read_stream(caller: str, body: bytes) -> Read:
    """A stream: everything after its terminal, or after an error, is one event too many."""
    found = Read()
    for event in filter(None, body.replace(b"\r\n", b"\n").split(b"\n\n")):
        assert not found.ended or caller == "gemini", event
        assert found.error is None, event
        data = b"".join(line[5:].strip() for line in event.splitlines() if line[:5] == b"data:")
        if data == b"[DONE]":
            found.ended = True
        elif data:
            _READERS[caller](found, msgspec.json.decode(data), True)
    return found


def _chat(found: Read, document: Any, streamed: bool) -> None:
    if "error" in document:
        found.error = document["error"]
        return
    for choice in document["choices"]:
        said = choice["delta" if streamed else "message"]
        found.text += said.get("content") or ""
        for call in said.get("tool_calls") or ():
            found.name += call["function"].get("name") or ""
            found.arguments += call["function"].get("arguments") or ""
    if told := document.get("usage"):
        cached = (told.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        found.usage = (told["prompt_tokens"], cached, told["completion_tokens"])


def _responses(found: Read, document: Any, streamed: bool) -> None:
    if streamed:
        kind = document["type"]
        if kind in ("error", "response.failed"):
            found.error = document.get("response", document)
        if kind not in ("response.completed", "response.incomplete"):
            return
        document, found.ended = document["response"], True
    for item in document["output"]:
        if item["type"] == "message":
            found.text += "".join(part["text"] for part in item["content"])
        elif item["type"] == "function_call":
            found.name, found.arguments = item["name"], item["arguments"]
    told = document["usage"]
    cached = told["input_tokens_details"]["cached_tokens"]
    found.usage = (told["input_tokens"], cached, told["output_tokens"])


def _messages(found: Read, document: Any, streamed: bool) -> None:
    if not streamed:
        for block in document["content"]:
            _messages_block(found, block)
        _messages_usage(found, document["usage"])
        return
    match document["type"]:
        case "content_block_start":
            _messages_block(found, document["content_block"] | {"input": ""})
        case "content_block_delta":
            found.text += document["delta"].get("text", "")
            found.arguments += document["delta"].get("partial_json", "")
        case "message_delta":
            _messages_usage(found, document["usage"])
        case "message_stop":
            found.ended = True
        case "error":
            found.error = document["error"]


def _messages_block(found: Read, block: Any) -> None:
    found.text += block.get("text", "")
    if block["type"] == "tool_use":
        found.name = block["name"]
        found.arguments = block["input"] and json(block["input"]).decode()


def _messages_usage(found: Read, told: Any) -> None:
    cached = told.get("cache_read_input_tokens") or 0
    written = told.get("cache_creation_input_tokens") or 0
    found.usage = (told["input_tokens"] + cached + written, cached, told["output_tokens"])


def _gemini(found: Read, document: Any, streamed: bool) -> None:
    if "error" in document:
        found.error = document["error"]
        return
    for candidate in document.get("candidates", ()):
        for part in candidate.get("content", {}).get("parts", ()):
            found.text += part.get("text", "")
            if call := part.get("functionCall"):
                found.name, found.arguments = call["name"], json(call["args"]).decode()
    if told := document.get("usageMetadata"):
        cached = told.get("cachedContentTokenCount") or 0
        output = told.get("candidatesTokenCount", 0) + told.get("thoughtsTokenCount", 0)
        found.usage = (told["promptTokenCount"], cached, output)
    # No terminal: its users take the answer that has its reason as whole.
    if any("finishReason" in one for one in document.get("candidates", ())):
        found.ended = True


_READERS: dict[str, Callable[[Read, Any, bool], None]] = {
    "openai_chat": _chat,
    "openai_responses": _responses,
    "anthropic_messages": _messages,
    "gemini": _gemini,
}
