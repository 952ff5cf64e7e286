"""However odd a request is, the demo answers it or refuses it; it never fails of itself."""

import base64
import copy
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections.abc import Callable
from typing import Any

import pytest
from demo_pictures import png

from gateway.demo import (
    anthropic_messages,
    embeddings,
    gemini,
    media,
    moderations,
    openai_chat,
    openai_completions,
    openai_responses,
)
from gateway.demo.reply import Refusal, Reply
from gateway.demo.seals import seal
from gateway.demo.state import DemoState, Shelf
from gateway.demo.switches import Switches

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
STRICT = {**SCHEMA, "additionalProperties": False}
FUNCTION = {"name": "f", "description": "d", "parameters": STRICT, "strict": True}
PIXELS = base64.b64encode(png(3, 2)).decode()
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXELS}"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

CHAT_BODY = {
    "model": "demo",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "use f"}, IMAGE]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    "stop": ["x"],
    "n": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 40,
    "reasoning_effort": "low",
}
RESPONSES_BODY = {
    "model": "demo",
    "instructions": "i",
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "use f"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PIXELS}"},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "a"}],
            "encrypted_content": seal("a"),
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "r"},
    ],
    "tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "f"}]},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "max_output_tokens": 50,
    "stream": True,
}
CACHED = {"type": "ephemeral", "ttl": "1h"}
MESSAGES_BODY = {
    "model": "demo",
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "s", "cache_control": CACHED}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "use f", "cache_control": CACHED}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "a", "signature": seal("a")},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": PIXELS},
                        },
                        {"type": "image", "source": {"type": "url", "url": "https://a.example/b"}},
                    ],
                }
            ],
        },
    ],
    "tools": [{"name": "f", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"format": {"type": "json_schema", "schema": STRICT}, "effort": "low"},
    "stop_sequences": ["x"],
    "stream": True,
}
GEMINI_BODY = {
    "systemInstruction": {"parts": [{"text": "s"}]},
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "use f"},
                {"inlineData": {"mimeType": "image/png", "data": PIXELS}},
                {"fileData": {"mimeType": "image/png", "fileUri": "https://a.example/b"}},
            ],
        },
        {
            "role": "model",
            "parts": [
                {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": seal("a")},
            ],
        },
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"r": 1}}}]},
    ],
    "tools": [{"functionDeclarations": [{"name": "f", "parameters": SCHEMA}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "VALIDATED", "allowedFunctionNames": ["f"]}},
    "generationConfig": {
        "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 9},
        "responseMimeType": "application/json",
        "responseSchema": SCHEMA,
        "stopSequences": ["x"],
        "candidateCount": 2,
        "maxOutputTokens": 30,
    },
}
EMBED_BODY = {
    "requests": [{"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 4}],
    "content": {"parts": [{"text": "a"}]},
    "outputDimensionality": 4,
}

Act = Callable[[DemoState, Any], Reply]

PLAIN = Switches()

REMOVED = object()

ACTS: dict[str, tuple[Act, dict[str, Any]]] = {
    "chat": (lambda state, body: openai_chat.create(state, body, PLAIN), CHAT_BODY),
    "responses": (
        lambda state, body: openai_responses.create(state, Shelf(), body, PLAIN),
        RESPONSES_BODY,
    ),
    "compact": (
        lambda state, body: openai_responses.compact(state, Shelf(), body, PLAIN),
        RESPONSES_BODY,
    ),
    "messages": (
        lambda state, body: anthropic_messages.create(
            state, body, PLAIN, beta=True, request_id="req_1"
        ),
        MESSAGES_BODY,
    ),
    "count_tokens": (
        lambda state, body: anthropic_messages.count_tokens(body, PLAIN, beta=False),
        {key: MESSAGES_BODY[key] for key in ("model", "system", "messages", "tools")},
    ),
    "generate": (lambda state, body: gemini.generate(state, "demo", body, PLAIN), GEMINI_BODY),
    "stream": (
        lambda state, body: gemini.stream(state, "gemini-3-pro", body, PLAIN, sse=True),
        GEMINI_BODY,
    ),
    "count": (lambda state, body: gemini.count_tokens(state, "demo", body, PLAIN), GEMINI_BODY),
    "embed": (lambda state, body: gemini.embed(state, "demo", body, PLAIN), EMBED_BODY),
    "embed_batch": (lambda state, body: gemini.embed_batch(state, "demo", body, PLAIN), EMBED_BODY),
    "embeddings": (
        lambda state, body: embeddings.create(state, body, PLAIN),
        {"model": "demo", "input": ["a", "b"], "dimensions": 4, "encoding_format": "base64"},
    ),
    "completions": (
        lambda state, body: openai_completions.create(state, body, PLAIN),
        {"model": "demo", "prompt": ["a"], "n": 2, "stream": True, "echo": True, "stop": "x"},
    ),
    "moderations": (
        lambda state, body: moderations.create(state, body, PLAIN),
        {"model": "demo", "input": [{"type": "text", "text": "a"}]},
    ),
    "images": (
        lambda state, body: media.create_image(state, body, PLAIN),
        {"model": "demo", "prompt": "a", "n": 1},
    ),
    "speech": (
        lambda state, body: media.speak(state, body, PLAIN),
        {"model": "demo", "input": "a", "voice": "b"},
    ),
}

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 1.5, 1e300, 2**63, "", "x", "auto"),
    *([], [[]], [None], ["x"], [{}], {}, {"type": "x"}, {"x": None}),
)


def slots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    if isinstance(value, dict):
        inner = list(value.items())
    else:
        inner = list(enumerate(value)) if isinstance(value, list) else []
    found = [(*path, key) for key, _ in inner]
    for key, child in inner:
        found += slots(child, (*path, key))
    return found


@pytest.mark.parametrize("name", ACTS)
def test_the_sound_request_that_oddities_are_put_into_is_answered(name: str) -> None:
    act, body = ACTS[name]
    assert act(DemoState(), copy.deepcopy(body)).status == 200


def changed(body: Any, way: tuple[Any, ...], value: Any) -> Any:
    """A copy of a body with another value at the end of a way; `REMOVED` takes the field away."""
    made = copy.deepcopy(body)
    holder = made
    for step in way[:-1]:
        holder = holder[step]
    if value is REMOVED:
        del holder[way[-1]]
    else:
        holder[way[-1]] = copy.deepcopy(value)
    return made


@pytest.mark.parametrize("name", ACTS)
def test_any_odd_value_in_any_place_is_answered_or_refused(name: str) -> None:
    act, sound = ACTS[name]
    statuses = set()
    for way in slots(sound):
        if way == ("model",):
            continue  # the server has read it before an endpoint is called
        for odd in (REMOVED, *ODD):
            body = changed(sound, way, odd)
            try:
                statuses.add(act(DemoState(), body).status)
            except Refusal as refusal:
                statuses.add(refusal.status)
            except Exception as error:
                raise AssertionError(f"{way} = {odd!r}") from error
    assert statuses == {200, 400}


async def test_the_demo_runs_alone_and_stops_on_a_signal() -> None:
    process = await create_subprocess_exec(
        sys.executable, "-m", "gateway.demo", "--port", "0", stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line.startswith(b"demo upstream on http://127.0.0.1:")
    process.terminate()
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
