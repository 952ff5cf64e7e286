"""OpenAI chat completions: `POST /v1/chat/completions`.

Reads the request into an `Ask`, writes the `Answer` as a `chat.completion` or as its chunks: a role
chunk, content or tool-call deltas, a finish chunk, with `include_usage` a chunk of usage alone, and
`[DONE]`. Grammar of the API reference, August 2026. With a named tool the finish reason is `stop`,
as the real API has it. A server that is asked by `thinking` shows what it thought, in
`reasoning_content`, and wants it back while it goes on calling tools. Called by `server.py`.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import orjson

from gateway.demo import tokens
from gateway.demo.answer import Answer, Ask, Tool, ToolResult, compose
from gateway.demo.openai_models import check_chat
from gateway.demo.openai_shapes import (
    EFFORT_TOKENS,
    Body,
    check_output_schema,
    check_role,
    check_sampling,
    effort_tokens,
    get_bool,
    get_list,
    get_object,
    get_stops,
    get_whole,
    invalid_value,
    missing,
    read_choice,
    read_content,
    read_tool,
    wrong_type,
)
from gateway.demo.reply import Refusal, Reply, error_object, json_reply, new_id
from gateway.demo.state import DemoState
from gateway.demo.switches import Switches

CALL_ID_CHARS_MAX = 40

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_FINISH = {"stop": "stop", "length": "length", "tools": "tool_calls", "stop_sequence": "stop"}


class Conversation(msgspec.Struct):
    """What the messages hold, gathered in one walk."""

    pieces: list[str]
    user_text: str = ""
    results: list[ToolResult] = []
    seen: list[str] = []
    recalls: bool = False
    call_names: dict[str, str] = {}
    open_calls: list[str] = []


def create(state: DemoState, body: Body, switches: Switches) -> Reply:
    """Answer a chat completion request."""
    stream = get_bool(body, "stream")
    options = get_object(body, "stream_options")
    if options and not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise invalid_value("stream_options", message)
    count = get_whole(body, "n", 1, 128) or 1
    named = isinstance(body.get("tool_choice"), dict) and "function" in body["tool_choice"]
    ask = read(body, switches)
    answers = [compose(msgspec.structs.replace(ask, variant=index)) for index in range(count)]
    cached = state.prompts.implicit(body["model"], ask.prompt)
    usage = None if switches.nousage else _usage(ask, answers, cached)
    writer = _Writer(body["model"], state.now(), named, aloud=_thinks_aloud(body))
    if not stream:
        return json_reply("openai", writer.document(answers, usage))
    include_usage = get_bool(options, "include_usage") and not switches.nousage
    return Reply(
        content_type="text/event-stream; charset=utf-8",
        events=list(writer.events(answers, usage if include_usage else None)),
        fault=fault,
    )


def read(body: Body, switches: Switches) -> Ask:
    """Check a request and read what the answer depends on."""
    check_sampling(body)
    check_chat(body["model"], body)
    messages = body.get("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects", messages)
    if not messages:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but "
        raise invalid_value("messages", message + "got an empty array instead.", "empty_array")
    talk = _read_messages(messages, thinks=_thinks_aloud(body))
    offered = _read_tools(body)
    tools = tuple(tool for tool, _ in offered)
    choice, only = read_choice(
        body.get("tool_choice", body.get("function_call")), [tool.name for tool in tools]
    )
    if body.get("tool_choice") is not None and not tools:
        message = "'tool_choice' is only allowed when 'tools' are specified."
        raise invalid_value("tool_choice", message)
    prompt = [*(piece for _, pieces in offered for piece in pieces), *talk.pieces]
    schema, json_object = _read_format(body, talk)
    budget = get_whole(body, "max_completion_tokens", 1)
    return Ask(
        prompt=tuple(prompt),
        user_text=talk.user_text,
        results=tuple(talk.results),
        seen=tuple(talk.seen),
        recalls=talk.recalls,
        tools=tools,
        choice=choice,
        only=only,
        parallel=get_bool(body, "parallel_tool_calls", True),
        schema=schema,
        json_object=json_object,
        stop=get_stops(body),
        max_tokens=budget if budget is not None else get_whole(body, "max_tokens", 1),
        thinking_tokens=_read_thinking(body),
        length=switches.tokens,
        seed=str(body.get("seed", "")),
    )


def _thinks_aloud(body: Body) -> bool:
    """Whether `thinking` is on: the switch of compatible servers, which show their thoughts.

    Source: api-docs.deepseek.com "Thinking mode", platform.kimi.ai "Thinking models" (2026-08).
    """
    kind = get_object(body, "thinking").get("type", "disabled")
    if kind not in ("enabled", "disabled"):
        message = f"Invalid value: '{kind}'. Supported values are: 'enabled' and 'disabled'."
        raise invalid_value("thinking.type", message)
    return bool(kind == "enabled")


def _read_thinking(body: Body) -> int:
    effort = effort_tokens(body.get("reasoning_effort"), "reasoning_effort")
    return effort or (EFFORT_TOKENS["medium"] if _thinks_aloud(body) else 0)


def _read_messages(messages: list[Any], *, thinks: bool) -> Conversation:
    talk = Conversation(pieces=[])
    for index, message in enumerate(messages):
        param = f"messages[{index}]"
        if not isinstance(message, dict):
            raise wrong_type(param, "an object", message)
        role = check_role(message.get("role"), ROLES, f"{param}.role")
        talk.pieces.append(f"<{role}>")
        if role not in {"tool", "function"}:
            _check_answered(talk)
            talk.results, talk.seen = [], []
        if role == "assistant":
            _read_calls(message, param, talk)
            talk.recalls = bool(message.get("reasoning_content"))
            _check_thought(message, index, thinks=thinks and not _asks_after(messages, index))
        text = _read_content(message, role, param, talk)
        if role == "user":
            talk.user_text = text
        elif role in {"tool", "function"}:
            _read_result(message, role, param, text, talk)
    _check_answered(talk)
    return talk


def _check_answered(talk: Conversation) -> None:
    """Whether every call was answered before anything else was said."""
    if talk.open_calls:
        message = (
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
        )
        raise Refusal(
            400,
            message + ", ".join(talk.open_calls),
            param="messages",
            kind="invalid_request_error",
        )


def _asks_after(messages: list[Any], index: int) -> bool:
    """Whether the user spoke again after a message, so that its turn is over."""
    return any(isinstance(one, dict) and one.get("role") == "user" for one in messages[index:])


def _check_thought(message: Body, index: int, *, thinks: bool) -> None:
    """Whether a turn that goes on has the thoughts that led to its calls."""
    if not thinks or not message.get("tool_calls"):
        return
    if not isinstance(message.get("reasoning_content"), str):
        text = "Missing `reasoning_content` field in the assistant message at message index"
        text = f"{text} {index}"
        raise Refusal(400, text, kind="invalid_request_error", code="invalid_request_error")


def _read_content(message: Body, role: str, param: str, talk: Conversation) -> str:
    content = message.get("content")
    if content is None:
        if role == "assistant" and (
            message.get("tool_calls") or message.get("function_call") or message.get("refusal")
        ):
            return ""
        raise wrong_type(f"{param}.content", "one of a string or array of objects", content)
    found = read_content(content, f"{param}.content")
    if found.seen and role != "user":
        text = (
            f"Invalid '{param}'. Image URLs are only allowed for messages with role 'user', but "
            f"this message with role '{role}' contains an image URL."
        )
        raise invalid_value(param, text)
    talk.pieces += found.pieces
    talk.seen += found.seen
    return found.text


def _read_calls(message: Body, param: str, talk: Conversation) -> None:
    for index, call in enumerate(get_list(message, "tool_calls")):
        where = f"{param}.tool_calls[{index}]"
        if not isinstance(call, dict):
            raise wrong_type(where, "an object", call)
        if not isinstance(call.get("id"), str):
            raise missing(f"{where}.id")
        if len(call["id"]) > CALL_ID_CHARS_MAX:
            length = f"Expected a string with maximum length {CALL_ID_CHARS_MAX}, but got a string "
            text = f"{length}with length {len(call['id'])} instead."
            text = f"Invalid '{where}.id': string too long. {text}"
            raise invalid_value(f"{where}.id", text, "string_above_max_length")
        function = call.get("function") or call.get("custom")
        if not isinstance(function, dict):
            raise missing(f"{where}.function")
        talk.call_names[call["id"]] = str(function.get("name", ""))
        talk.open_calls.append(call["id"])
        talk.pieces += tokens.split(str(function.get("name", "")))
        talk.pieces += tokens.split(str(function.get("arguments", function.get("input", ""))))


def _read_result(message: Body, role: str, param: str, text: str, talk: Conversation) -> None:
    if role == "function":
        talk.results = [*talk.results, ToolResult(str(message.get("name", "")), text)]
        return
    call_id = message.get("tool_call_id")
    if call_id is None:
        raise missing(f"{param}.tool_call_id")
    name = talk.call_names.get(call_id) if isinstance(call_id, str) else None
    if name is None:
        text = "messages with role 'tool' must answer a preceding message with 'tool_calls'."
        raise invalid_value(param, f"Invalid parameter: {text}")
    if call_id in talk.open_calls:
        talk.open_calls.remove(call_id)
    talk.results = [*talk.results, ToolResult(name, text)]


def _read_tools(body: Body) -> list[tuple[Tool, list[str]]]:
    offered = []
    for index, tool in enumerate(get_list(body, "tools")):
        param = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise wrong_type(param, "an object", tool)
        if tool.get("type") != "function":
            if "type" not in tool:
                raise missing(f"{param}.type")
            if tool["type"] != "custom":
                known = "'function' and 'custom'"
                message = f"Invalid value: '{tool['type']}'. Supported values are: {known}."
                raise invalid_value(f"{param}.type", message)
            continue
        read_in = read_tool(tool.get("function"), f"{param}.function")
        offered.append((read_in, tokens.split(orjson.dumps(tool["function"]).decode())))
    for index, function in enumerate(get_list(body, "functions")):
        read_in = read_tool(function, f"functions[{index}]")
        offered.append((read_in, tokens.split(orjson.dumps(function).decode())))
    return offered


def _read_format(body: Body, talk: Conversation) -> tuple[dict[str, Any] | None, bool]:
    wanted = get_object(body, "response_format")
    kind = wanted.get("type", "text")
    if kind == "json_schema":
        inner = get_object(wanted, "json_schema")
        if not isinstance(inner.get("name"), str):
            raise missing("response_format.json_schema.name")
        return check_output_schema(inner, "response_format"), False
    if kind == "json_object":
        if "json" not in "".join(talk.pieces).lower():
            message = "'messages' must contain the word 'json' in some form, to use "
            raise invalid_value("messages", message + "'response_format' of type 'json_object'.")
        return None, True
    if kind != "text":
        message = f"Invalid value: '{kind}'. Supported values are: "
        raise invalid_value(
            "response_format.type", message + "'json_object', 'json_schema', and 'text'."
        )
    return None, False


def _usage(ask: Ask, answers: list[Answer], cached: int) -> dict[str, Any]:
    prompt = len(ask.prompt)
    output = sum(answer.output_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(len(answer.thinking) for answer in answers),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class _Writer:
    """Writes answers as one document or as chunks, under one id."""

    def __init__(self, model: str, created: int, named: bool, *, aloud: bool) -> None:
        self._aloud = aloud
        self._envelope = {
            "id": new_id("chatcmpl-", 29),
            "object": "chat.completion",
            "created": created,
            "model": model,
        }
        self._named = named

    def document(self, answers: list[Answer], usage: dict[str, Any] | None) -> dict[str, Any]:
        document = {
            **self._envelope,
            "choices": [
                {
                    "index": index,
                    "message": self._message(answer),
                    "logprobs": None,
                    "finish_reason": self._finish(answer),
                }
                for index, answer in enumerate(answers)
            ],
        }
        if usage is not None:
            document["usage"] = usage
        return {**document, "service_tier": "default", "system_fingerprint": "fp_demo000000"}

    def events(self, answers: list[Answer], usage: dict[str, Any] | None) -> Iterator[bytes]:
        deltas = [self._deltas(answer) for answer in answers]
        # The answers of n > 1 come interleaved, as the real API sends them.
        while any(deltas):
            for index, waiting in enumerate(deltas):
                if waiting:
                    delta, finish = waiting.pop(0)
                    yield self._chunk([self._choice(index, delta, finish)], usage, last=False)
        if usage is not None:
            yield self._chunk([], usage, last=True)
        yield b"data: [DONE]\n\n"

    def _message(self, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if answer.calls else answer.plain_text,
            "refusal": None,
            "annotations": [],
        }
        if answer.thinking and self._aloud:
            message["reasoning_content"] = answer.thinking_text
        if answer.calls:
            message["tool_calls"] = [
                {
                    "id": new_id("call_"),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in answer.calls
            ]
        return message

    def _deltas(self, answer: Answer) -> list[tuple[dict[str, Any], str | None]]:
        opening = {"role": "assistant", "content": None if answer.calls else "", "refusal": None}
        deltas: list[tuple[dict[str, Any], str | None]] = [(opening, None)]
        if self._aloud:
            deltas += [({"reasoning_content": piece}, None) for piece in answer.thinking]
        deltas += [({"content": piece}, None) for piece in answer.text]
        for index, call in enumerate(answer.calls):
            function = {"name": call.name, "arguments": ""}
            head = {"index": index, "id": new_id("call_"), "type": "function", "function": function}
            deltas.append(({"tool_calls": [head]}, None))
            for piece in call.pieces:
                delta = {"index": index, "function": {"arguments": piece}}
                deltas.append(({"tool_calls": [delta]}, None))
        return [*deltas, ({}, self._finish(answer))]

    def _finish(self, answer: Answer) -> str:
        if answer.finish == "tools" and self._named:
            return "stop"
        return _FINISH[answer.finish]

    @staticmethod
    def _choice(index: int, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _chunk(
        self, choices: list[dict[str, Any]], usage: dict[str, Any] | None, *, last: bool
    ) -> bytes:
        chunk: dict[str, Any] = {
            **self._envelope,
            "object": "chat.completion.chunk",
            "service_tier": "default",
            "system_fingerprint": "fp_demo000000",
            "choices": choices,
        }
        if usage is not None:
            chunk["usage"] = usage if last else None
        return b"data: " + orjson.dumps(chunk) + b"\n\n"


def fault(after: int) -> list[bytes]:
    """The stream breaks off with an error line; no `[DONE]` follows."""
    refusal = Refusal(500, "The demo upstream failed while it was answering.")
    return [b"data: " + orjson.dumps(error_object("openai", refusal, None)) + b"\n\n"]
