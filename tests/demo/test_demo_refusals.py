"""What is unsound or does not exist is refused as the provider refuses it."""

from typing import Any

import pytest
from demo_provider import GEMINI, MESSAGES, provider

USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/chat/completions", 405),
        ("GET", "/v1/models/gpt-unheard-of", 404),
        ("GET", "/v1/responses/resp_none", 404),
        ("GET", "/v1/files/file-none", 404),
        ("GET", "/v1/batches/batch_none", 404),
        ("GET", "/anthropic/v1/nothing", 404),
        ("GET", "/anthropic/v1/models/claude-unheard-of", 404),
        ("GET", "/gemini/v1beta/nothing", 404),
        ("POST", "/gemini/v1beta/models/demo:dream", 404),
        ("GET", "/gemini/v1beta/models/unheard-of", 404),
    ],
)
async def test_what_does_not_exist_is_an_error_of_the_right_shape(
    method: str, path: str, status: int
) -> None:
    async with provider() as demo:
        answer = await demo.call(method, path)
        assert answer.status == status
        document = answer.json()
        if path.startswith("/anthropic"):
            assert document["type"] == "error"
            assert document["error"].keys() == {"type", "message"}
        elif path.startswith("/gemini"):
            assert document["error"]["code"] == status
            assert document["error"]["status"] == "NOT_FOUND"
        else:
            assert document["error"].keys() == {"message", "type", "param", "code"}


OPEN = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
PARTIAL = {**OPEN, "additionalProperties": False, "required": []}


def function(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def shaped(schema: Any) -> dict[str, Any]:
    named = {"name": "n", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}


def calls(call_id: str) -> dict[str, Any]:
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return {"role": "assistant", "tool_calls": [call]}


CALLS = calls("c1")

BAD_CHAT: list[tuple[Any, str | None, str | None]] = [
    (b"{", None, None),
    (b"[]", None, None),
    ({"messages": [USER]}, None, None),
    ({"model": "demo"}, "messages", "missing_required_parameter"),
    ({"model": "demo", "messages": "x"}, "messages", "invalid_type"),
    ({"model": "demo", "messages": []}, "messages", "empty_array"),
    ({"model": "demo", "messages": [{"role": "x"}]}, "messages[0].role", "invalid_value"),
    ({"model": "demo", "messages": [{"role": "user"}]}, "messages[0].content", "invalid_type"),
    (
        {"model": "demo", "messages": [{"role": "tool", "content": "x"}]},
        "messages[0].tool_call_id",
        "missing_required_parameter",
    ),
    (
        {"model": "demo", "messages": [{"role": "tool", "tool_call_id": "a", "content": "x"}]},
        "messages[0]",
        "invalid_value",
    ),
    (
        {"model": "demo", "messages": [USER], "temperature": 3},
        "temperature",
        "decimal_above_max_value",
    ),
    (
        {"model": "demo", "messages": [USER], "max_tokens": 0},
        "max_tokens",
        "integer_below_min_value",
    ),
    ({"model": "demo", "messages": [USER], "max_tokens": "9"}, "max_tokens", "invalid_type"),
    ({"model": "demo", "messages": [USER], "n": 129}, "n", "integer_above_max_value"),
    (
        {"model": "demo", "messages": [USER], "stop": list("abcde")},
        "stop",
        "array_above_max_length",
    ),
    ({"model": "demo", "messages": [USER], "tool_choice": "auto"}, "tool_choice", "invalid_value"),
    (
        {"model": "demo", "messages": [USER], "stream_options": {"include_usage": True}},
        "stream_options",
        "invalid_value",
    ),
    (
        {"model": "demo", "messages": [USER], "response_format": {"type": "json_object"}},
        "messages",
        "invalid_value",
    ),
    ({"model": "demo", "messages": [USER], "tools": [{}]}, "tools[0].type", None),
    (
        {"model": "demo", "messages": [USER], "tools": [function(name="a b")]},
        "tools[0].function.name",
        "invalid_value",
    ),
    (
        {"model": "demo", "messages": [USER], "tools": [function(parameters={"type": "OBJECT"})]},
        "tools[0].function.parameters",
        "invalid_function_parameters",
    ),
    (
        {"model": "demo", "messages": [USER], "tools": [function(parameters={"type": "array"})]},
        "tools[0].function.parameters",
        "invalid_function_parameters",
    ),
    (
        {"model": "demo", "messages": [USER], "tools": [function(parameters=OPEN, strict=True)]},
        "tools[0].function.parameters",
        "invalid_function_parameters",
    ),
    *(
        (
            {"model": "demo", "messages": [USER], "response_format": shaped(schema)},
            "response_format",
            None,
        )
        for schema in (OPEN, PARTIAL, {"type": "array"}, {"type": "STRING"})
    ),
    ({"model": "demo", "messages": [USER, CALLS]}, "messages", None),
    ({"model": "demo", "messages": [USER, CALLS, USER]}, "messages", None),
    (
        {"model": "demo", "messages": [USER, calls("c" * 41)]},
        "messages[1].tool_calls[0].id",
        "string_above_max_length",
    ),
    (
        {"model": "gpt-5", "messages": [USER], "max_tokens": 9},
        "max_tokens",
        "unsupported_parameter",
    ),
    (
        {"model": "o3", "messages": [USER], "temperature": 0.5},
        "temperature",
        "unsupported_value",
    ),
    ({"model": "gpt-4o", "messages": [USER], "reasoning_effort": "low"}, None, None),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD_CHAT)
async def test_an_unsound_chat_request_is_a_400_that_names_the_field(
    body: Any, param: str | None, code: str | None
) -> None:
    async with provider() as demo:
        answer = await demo.post("/v1/chat/completions", body)
        assert answer.status == 400
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] == param
        assert code is None or error["code"] == code


ASSISTANT_USE = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}],
}
UNSIGNED = {
    "role": "assistant",
    "content": [{"type": "thinking", "thinking": "a", "signature": ""}],
}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
CLOSED = {"type": "object", "properties": {}, "additionalProperties": False}
UPPER = {"type": "object", "properties": {"a": {"type": "STRING"}}}


def said(block: Any) -> dict[str, Any]:
    return {"role": "user", "content": [block]}


def use_of(change: dict[str, Any]) -> dict[str, Any]:
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {}, **change}
    return {"role": "assistant", "content": [use]}


def output(schema: dict[str, Any]) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


BAD_MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens: Field required"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": None}, "messages: Field required"),
    ({"messages": []}, "at least one message"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": ""}]}, "non-empty"),
    ({"messages": [USER, ASSISTANT_USE, USER]}, "without `tool_result`"),
    ({"messages": [USER, ASSISTANT_USE]}, "without `tool_result`"),
    ({"messages": [USER, UNSIGNED, USER]}, "Invalid `signature`"),
    ({"temperature": 1.5}, "temperature: range: 0..1"),
    ({"frequency_penalty": 1}, "frequency_penalty: Extra inputs are not permitted"),
    ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "1024"),
    ({"thinking": {"type": "enabled", "budget_tokens": 4000}}, "greater than"),
    ({"thinking": {"type": "adaptive"}, "temperature": 0.5}, "set to 1 when thinking"),
    (
        {"thinking": {"type": "adaptive"}, "tools": [TOOL], "tool_choice": {"type": "any"}},
        "forces tool use",
    ),
    ({"tools": [{"name": "f"}]}, "tools.0.custom.input_schema"),
    ({"tool_choice": {"type": "auto"}}, "while providing tools"),
    ({"stop_sequences": [" "]}, "non-whitespace"),
    ({"model": None}, "model: Field required"),
    ({"tools": [{**TOOL, "name": "a.b"}]}, "tools.0.custom.name"),
    ({"tools": [{**TOOL, "input_schema": UPPER}]}, "JSON schema is invalid"),
    ({"messages": [said({"type": "text", "text": " "})]}, "non-whitespace"),
    (
        {"messages": [said({"type": "text", "text": "a", "detail": "b"})]},
        "messages.0.content.0.text.detail: Extra inputs are not permitted",
    ),
    ({"messages": [said(ASSISTANT_USE["content"][0])]}, "can only be in `assistant` messages"),
    ({"messages": [USER, use_of({"id": "a:b"})]}, "tool_use.id: String should match"),
    ({"messages": [USER, use_of({"input": "{}"})]}, "tool_use.input"),
    (output({"type": "object"}), "'additionalProperties' must be explicitly set to false"),
    (output({**CLOSED, "additionalProperties": True}), "'additionalProperties: true' is not"),
    (
        output({**CLOSED, "properties": {"a": {"type": "integer", "minimum": 1}}}),
        "For 'integer' type, properties minimum are not supported",
    ),
    (output({**CLOSED, "properties": {"a": {"type": "INTEGER"}}}), "not valid under any"),
]


@pytest.mark.parametrize(("change", "message"), BAD_MESSAGES)
async def test_an_unsound_message_request_is_a_400_in_anthropics_words(
    change: dict[str, Any], message: str
) -> None:
    async with provider() as demo:
        body = {**MESSAGES.body("demo", "x", False), **change}
        answer = await demo.post("/anthropic/v1/messages", body)
        assert answer.status == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert message in answer.json()["error"]["message"]


async def test_anthropic_wants_its_version_header_and_a_beta_header_admits_unknown_fields() -> None:
    async with provider() as demo:
        body = {**MESSAGES.body("demo", "x", False), "brand_new": 1}
        answer = await demo.post("/anthropic/v1/messages", body, anthropic_version="")
        assert answer.status == 400
        assert "anthropic-version" in answer.json()["error"]["message"]
        answer = await demo.post("/anthropic/v1/messages?beta=true", body, anthropic_beta="new-1")
        assert answer.status == 200


TEXT = {"role": "user", "parts": [{"text": "x"}]}


def part(**data: Any) -> dict[str, Any]:
    return {"role": "model" if "functionCall" in data else "user", "parts": [data]}


CALLED = part(functionCall={"name": "f", "args": {}})
ANSWERED = part(functionResponse={"name": "f", "response": {}})


def declared(**more: Any) -> dict[str, Any]:
    return {"functionDeclarations": [{"name": "f", **more}]}


def answered(**config: Any) -> dict[str, Any]:
    return {"generationConfig": {"responseMimeType": "application/json", **config}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contents": []}, "contents is not specified"),
        ({"messages": []}, 'Unknown name "messages"'),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "valid role"),
        ({"contents": [{"parts": []}]}, "must not be empty"),
        ({"contents": [{"parts": [{}]}]}, "initialized field"),
        ({"generationConfig": {"temperature": 9}}, "temperature"),
        ({"generationConfig": {"stopSequences": list("abcdef")}}, "at most 5"),
        ({"generationConfig": {"responseSchema": {"type": "OBJECT"}}}, "response_mime_type"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "MAYBE"}}}, "TYPE_ENUM"),
        ({"contents": [{"parts": [{"text": "x"}], "name": "y"}]}, 'Unknown name "name" at'),
        ({"contents": [{"parts": [{"text": "x", "type": "text"}]}]}, 'Unknown name "type" at'),
        ({"contents": [part(functionCall={"name": "f", "arguments": {}})]}, '"arguments"'),
        ({"contents": [part(functionCall={"args": {}})]}, "Name cannot be empty"),
        ({"contents": [part(functionResponse={"name": "f", "content": {}})]}, '"content"'),
        ({"contents": [part(functionResponse={"response": {}})]}, "Name cannot be empty"),
        ({"contents": [ANSWERED]}, "comes immediately after a function call turn"),
        ({"contents": [CALLED, TEXT]}, "number of function response parts"),
        ({"contents": [CALLED, {"parts": ANSWERED["parts"] * 2}]}, "number of function response"),
        ({"contents": [TEXT, CALLED]}, "end with a user role"),
        ({"generationConfig": {"maxTokens": 5}}, 'Unknown name "maxTokens"'),
        ({"tools": [declared(strict=True)]}, 'Unknown name "strict" at'),
        ({"tools": [declared(name="1f")]}, "Invalid function name"),
        ({"tools": [declared(parameters={"exclusiveMinimum": 1})]}, '"exclusiveMinimum" at'),
        ({"tools": [declared(parametersJsonSchema={"type": "STRING"})]}, "not valid under"),
        ({"tools": [declared(parameters={}, parametersJsonSchema={})]}, "only one of"),
        (
            {"toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["f"]}}},
            "must be ANY or VALIDATED",
        ),
        (answered(responseSchema={"properties": {"a": {"oneOf": []}}}), '"oneOf" at'),
        (answered(responseJsonSchema={"type": "OBJECT"}), "not valid under any"),
    ],
)
async def test_an_unsound_gemini_request_is_an_invalid_argument(
    change: dict[str, Any], message: str
) -> None:
    async with provider() as demo:
        body = {**GEMINI.body("demo", "x", False), **change}
        answer = await demo.post(GEMINI.path("demo", False), body)
        assert answer.status == 400
        assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
        assert message in answer.json()["error"]["message"]
