"""What holds in all four chat formats: one answer, whole or streamed, with one set of counts."""

import base64
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from demo_grammar import Said
from demo_pictures import png
from demo_provider import (
    CHAT,
    FORMATS,
    GEMINI,
    GEMINI_ARRAY,
    MESSAGES,
    RESPONSES,
    Format,
    provider,
)

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 3}},
    "required": ["city", "days"],
}
# As strictly as those providers want it that hold an answer to a schema.
CLOSED = {
    **PARAMETERS,
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "enum": [3, 4]}},
    "additionalProperties": False,
}
ARGUMENTS = {"city": "demo city", "days": 3}
NAMES = ("get_weather", "get_time")

STOPPED = {"openai_chat": "stop", "openai_responses": "completed", "anthropic_messages": "end_turn"}
CUT = {
    "openai_chat": "length",
    "openai_responses": "incomplete",
    "anthropic_messages": "max_tokens",
}

in_every_format = pytest.mark.parametrize("fmt", FORMATS, ids=str)


async def ask(
    fmt: Format,
    text: str = "hello",
    *,
    stream: bool,
    model: str = "demo+pace=0+first=0",
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Said:
    async with provider() as demo:
        body = fmt.body(model, text, stream)
        if change is not None:
            change(body)
        answer = await demo.post(fmt.path(model, stream), body)
        assert answer.status == 200, answer.body
        return fmt.read_stream(answer.body) if stream else fmt.read_document(answer.json())


def offer(fmt: Format, body: dict[str, Any], **extra: Any) -> None:
    """Put the two tools into a request, in its format."""
    if fmt is CHAT:
        functions = [{"name": name, "parameters": PARAMETERS} for name in NAMES]
        body["tools"] = [{"type": "function", "function": function} for function in functions]
    elif fmt is RESPONSES:
        body["tools"] = [
            {"type": "function", "name": name, "parameters": PARAMETERS} for name in NAMES
        ]
    elif fmt is MESSAGES:
        body["tools"] = [{"name": name, "input_schema": PARAMETERS} for name in NAMES]
    else:
        declared = [{"name": name, "parameters": PARAMETERS} for name in NAMES]
        body["tools"] = [{"functionDeclarations": declared}]
    body.update(extra)


def limit(fmt: Format, body: dict[str, Any], tokens: int) -> None:
    if fmt in (GEMINI, GEMINI_ARRAY):
        body["generationConfig"] = {"maxOutputTokens": tokens}
    else:
        body["max_output_tokens" if fmt is RESPONSES else "max_tokens"] = tokens


@in_every_format
@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
async def test_the_answer_echoes_the_users_words(fmt: Format, stream: bool) -> None:
    said = await ask(fmt, 'tell me of ÄÖ 漢字 🙂\n"quoted"', stream=stream)
    assert 'You said: "tell me of ÄÖ 漢字 🙂\n"quoted"".' in said.text
    assert said.finish == STOPPED.get(fmt.name, "STOP")


@in_every_format
async def test_a_stream_says_what_the_document_says_with_the_same_counts(fmt: Format) -> None:
    whole = await ask(fmt, stream=False)
    streamed = await ask(fmt, stream=True)
    assert streamed == whole
    assert whole.input_tokens
    assert whole.output_tokens


@in_every_format
async def test_tokens_sets_the_length_exactly(fmt: Format) -> None:
    said = await ask(fmt, stream=True, model="demo+tokens=77+pace=0+first=0")
    assert said.output_tokens == 77
    assert said.finish == STOPPED.get(fmt.name, "STOP")


@in_every_format
@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
async def test_the_token_limit_cuts_the_answer_and_says_so(fmt: Format, stream: bool) -> None:
    said = await ask(fmt, stream=stream, change=lambda body: limit(fmt, body, 20))
    assert said.output_tokens == 20
    assert said.finish == CUT.get(fmt.name, "MAX_TOKENS")


@in_every_format
@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
async def test_tools_named_in_the_question_are_called_in_parallel(
    fmt: Format, stream: bool
) -> None:
    said = await ask(
        fmt, "get_weather, then get time!", stream=stream, change=lambda body: offer(fmt, body)
    )
    assert [name for name, _ in said.calls] == list(NAMES)
    assert all(orjson.loads(arguments) == ARGUMENTS for _, arguments in said.calls)
    assert said.text == ""
    expected = {"openai_chat": "tool_calls", "anthropic_messages": "tool_use"}
    assert said.finish == expected.get(fmt.name, STOPPED.get(fmt.name, "STOP"))


@in_every_format
async def test_tools_not_named_are_left_alone(fmt: Format) -> None:
    said = await ask(fmt, "forget_weather", stream=True, change=lambda body: offer(fmt, body))
    assert said.calls == []
    assert said.text


CHOICES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # format: a named tool, any tool, none
    "openai_chat": (
        {"tool_choice": {"type": "function", "function": {"name": "get_time"}}},
        {"tool_choice": "required"},
        {"tool_choice": "none"},
    ),
    "openai_responses": (
        {"tool_choice": {"type": "function", "name": "get_time"}},
        {"tool_choice": "required"},
        {"tool_choice": "none"},
    ),
    "anthropic_messages": (
        {"tool_choice": {"type": "tool", "name": "get_time"}},
        {"tool_choice": {"type": "any"}},
        {"tool_choice": {"type": "none"}},
    ),
    "gemini": (
        {
            "toolConfig": {
                "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["get_time"]}
            }
        },
        {"tool_config": {"function_calling_config": {"mode": "ANY"}}},
        {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}},
    ),
}


@in_every_format
async def test_the_tool_choice_is_obeyed(fmt: Format) -> None:
    named, required, none = CHOICES[fmt.name.removesuffix("_array")]
    said = await ask(fmt, stream=True, change=lambda body: offer(fmt, body, **named))
    assert [name for name, _ in said.calls] == ["get_time"]
    said = await ask(fmt, stream=True, change=lambda body: offer(fmt, body, **required))
    assert [name for name, _ in said.calls] == ["get_weather"]
    said = await ask(fmt, "get_time", stream=True, change=lambda body: offer(fmt, body, **none))
    assert said.calls == []


async def test_one_call_at_a_time_where_that_is_asked_for() -> None:
    question = "get_weather and get_time"

    def change(body: dict[str, Any]) -> None:
        offer(CHAT, body, parallel_tool_calls=False)

    assert len((await ask(CHAT, question, stream=True, change=change)).calls) == 1

    def change_messages(body: dict[str, Any]) -> None:
        offer(MESSAGES, body, tool_choice={"type": "auto", "disable_parallel_tool_use": True})

    assert len((await ask(MESSAGES, question, stream=True, change=change_messages)).calls) == 1


def bring_result(fmt: Format, body: dict[str, Any]) -> None:
    """Turn a request into the one that follows a call of get_weather."""
    offer(fmt, body)
    if fmt is CHAT:
        function = {"name": "get_weather", "arguments": "{}"}
        calls = [{"id": "call_1", "type": "function", "function": function}]
        body["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 °C"},
        ]
    elif fmt is RESPONSES:
        made = {"type": "function_call", "call_id": "call_1", "name": "get_weather"}
        body["input"] = [
            {"role": "user", "content": body["input"]},
            {**made, "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny, 21 °C"},
        ]
    elif fmt is MESSAGES:
        use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny, 21 °C"}
        body["messages"] += [
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]
    else:
        function_call = {"functionCall": {"name": "get_weather", "args": {}}}
        response: dict[str, Any] = {"name": "get_weather", "response": {"sky": "sunny, 21 °C"}}
        body["contents"] += [
            {"role": "model", "parts": [function_call]},
            {"role": "user", "parts": [{"functionResponse": response}]},
        ]


@in_every_format
@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
async def test_a_tools_result_is_quoted_in_the_answer(fmt: Format, stream: bool) -> None:
    said = await ask(fmt, "get_weather", stream=stream, change=lambda body: bring_result(fmt, body))
    assert said.calls == []
    assert "get_weather" in said.text
    assert "sunny, 21 °C" in said.text


def want_schema(fmt: Format, body: dict[str, Any]) -> None:
    if fmt is CHAT:
        named = {"name": "trip", "schema": CLOSED, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif fmt is RESPONSES:
        wanted = {"type": "json_schema", "name": "trip", "schema": PARAMETERS}
        body["text"] = {"format": wanted}
    elif fmt is MESSAGES:
        body["output_config"] = {"format": {"type": "json_schema", "schema": CLOSED}}
    else:
        body["generationConfig"] = {
            "responseMimeType": "application/json",
            "responseSchema": PARAMETERS,
        }


@in_every_format
@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
async def test_an_answer_of_a_schema_is_valid_json_of_it(fmt: Format, stream: bool) -> None:
    said = await ask(fmt, stream=stream, change=lambda body: want_schema(fmt, body))
    assert orjson.loads(said.text) == ARGUMENTS


def think(fmt: Format, body: dict[str, Any]) -> None:
    if fmt is CHAT:
        body["reasoning_effort"] = "low"
    elif fmt is RESPONSES:
        body["reasoning"] = {"effort": "low", "summary": "auto"}
    elif fmt is MESSAGES:
        body["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    else:
        body["generationConfig"] = {"thinkingConfig": {"includeThoughts": True}}


@in_every_format
async def test_thinking_is_counted_and_shown_where_the_format_shows_it(fmt: Format) -> None:
    plain = await ask(fmt, stream=True)
    thought = await ask(fmt, stream=True, change=lambda body: think(fmt, body))
    whole = await ask(fmt, stream=False, change=lambda body: think(fmt, body))
    assert thought == whole
    assert thought.output_tokens is not None
    assert plain.output_tokens is not None
    assert bool(thought.thinking) == (fmt is not CHAT)
    assert plain.thinking == ""
    assert thought.text.startswith('You said: "hello".')
    assert thought.output_tokens > plain.output_tokens - 16


# Anthropic's budget for thinking is always below the limit.
@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt is not MESSAGES], ids=str)
async def test_thinking_can_use_up_the_whole_budget(fmt: Format) -> None:
    def change(body: dict[str, Any]) -> None:
        think(fmt, body)
        if fmt in (GEMINI, GEMINI_ARRAY):
            body["generationConfig"]["maxOutputTokens"] = 16
        else:
            limit(fmt, body, 16)

    for stream in (False, True):
        said = await ask(fmt, stream=stream, change=change)
        assert (said.text, said.output_tokens) == ("", 16)
        assert said.finish == CUT.get(fmt.name, "MAX_TOKENS")


# OpenAI chat has no counting endpoint.
@pytest.mark.parametrize("fmt", [RESPONSES, MESSAGES, GEMINI], ids=str)
async def test_a_request_weighs_the_same_wherever_it_is_counted(fmt: Format) -> None:
    async with provider() as demo:
        body = fmt.body("demo", "count this, please", False)
        offer(fmt, body)
        answered = fmt.read_document((await demo.post(fmt.path("demo", False), body)).json())
        if fmt is RESPONSES:
            counted = (await demo.post("/v1/responses/input_tokens", body)).json()["input_tokens"]
        elif fmt is MESSAGES:
            path = "/anthropic/v1/messages/count_tokens"
            counted = (await demo.post(path, body)).json()["input_tokens"]
        else:
            path = "/gemini/v1beta/models/demo:countTokens"
            whole = {"generateContentRequest": {"model": "models/demo", **body}}
            counted = (await demo.post(path, whole)).json()["totalTokens"]
        assert counted == answered.input_tokens


@in_every_format
async def test_an_image_weighs_a_fixed_number_of_tokens(fmt: Format) -> None:
    pixels = base64.b64encode(png(3, 2)).decode()
    parts: dict[str, Any] = {
        "openai_chat": {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{pixels}"},
        },
        "openai_responses": {"type": "input_image", "image_url": f"data:image/png;base64,{pixels}"},
        "anthropic_messages": {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": pixels},
        },
        "gemini": {"inlineData": {"mimeType": "image/png", "data": pixels}},
    }
    part = parts[fmt.name.removesuffix("_array")]

    def change(body: dict[str, Any]) -> None:
        if fmt is RESPONSES:
            text = {"type": "input_text", "text": body["input"]}
            body["input"] = [{"role": "user", "content": [text, part]}]
        elif fmt in (CHAT, MESSAGES):
            text = {"type": "text", "text": body["messages"][0]["content"]}
            body["messages"][0]["content"] = [text, part]
        else:
            body["contents"][0]["parts"].append(part)

    plain = await ask(fmt, stream=False)
    pictured = await ask(fmt, stream=True, change=change)
    assert plain.input_tokens is not None
    assert pictured.input_tokens is not None
    weight = 85 if fmt in (CHAT, RESPONSES) else 258
    assert pictured.input_tokens - plain.input_tokens == weight
    seen = "I see an image/png of 3 x 2 pixels."
    assert pictured.text.startswith(f'You said: "hello". {seen}')
