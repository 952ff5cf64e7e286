"""Requests of OpenAI chat, read and written, and what it has a place for."""

from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
import sdk_schemas
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.wire import call_ids
from gateway.wire.conversation import (
    Audio,
    Block,
    Document,
    Feature,
    Image,
    Message,
    Opaque,
    OutputFormat,
    Reasoning,
    Request,
    Signature,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.wire.format import Dialect, Toward
from gateway.wire.openai_chat_dialect import DIALECT

VECTORS = Path(__file__).parent.parent / "vectors" / "openai_chat"
NINE = 9


def read(model: str | None = None, **body: Any) -> Request:
    document = {"model": "premium", "messages": [{"role": "user", "content": "Hi"}], **body}
    return DIALECT.read_request(orjson.dumps(document), model=model, stream=None)


def write(request: Request, provider: str = "openai", model: str = "m") -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(sent(request, provider, model)[0])
    return body


def sent(
    request: Request, provider: str = "openai", model: str = "m", most: int | None = None
) -> tuple[bytes, list[str]]:
    return DIALECT.write_request(request, Toward(model, provider, most))


def foreign(*messages: Message, **members: Any) -> Request:
    """A request as another format's reader makes it."""
    return Request(
        format="anthropic_messages", model="premium", stream=False, messages=messages, **members
    )


def assistant(*blocks: Block) -> Message:
    return Message("assistant", blocks)


def user(*blocks: Block) -> Message:
    return Message("user", blocks)


def test_it_is_a_dialect_and_says_of_every_feature_what_it_makes_of_it() -> None:
    dialect: Dialect = DIALECT
    assert set(dialect.support) == set(get_args(Feature))


# Reading requests.


@pytest.fixture(name="full", scope="module")
def read_vector() -> Request:
    body = (VECTORS / "request.json").read_bytes()
    return DIALECT.read_request(body, model=None, stream=None)


def test_a_request_is_read_with_all_its_messages(full: Request) -> None:
    assert full.system == (Text("Answer in French."), Text("Be brief.", cache="1h"))
    said = user(
        Text("What is on these?"),
        Image("image/png", "iVBORw0K", detail="low"),
        Image(url="https://example.com/cat.jpg"),
        Audio("audio/wav", "UklGRg=="),
        Document("application/pdf", "JVBERi0=", name="a.pdf"),
    )
    assert full.messages == (
        Message("user", said.content, "ana"),
        assistant(
            Thinking("Two calls."),
            ToolCall("call_1", "look", '{"big": 1.10, "id": 12345678901234567890123}'),
            ToolCall("call_2", "shell", "ls -l", custom=True),
        ),
        user(ToolResult("call_2", (Text("a.pdf"),))),
        user(ToolResult("call_1", (Text("a cat"),))),
        Message("system", (Text("Now in German."),)),
        user(Text("And?")),
    )


def test_a_request_is_read_with_all_its_settings(full: Request) -> None:
    assert [(one.name, one.strict, one.custom) for one in full.tools] == [
        ("look", True, False), ("ping", None, False), ("shell", None, True),
    ]  # fmt: skip
    assert full.tools[2].grammar == ("lark", "start: /.+/")
    assert full.tool_choice == ToolChoice("required", ("look", "shell"))
    assert full.output == OutputFormat(b'{"type": "object"}', "answer", None, strict=True)
    assert full.reasoning == Reasoning("high")
    assert full.stop == ("END", "FIN")
    assert (full.max_output_tokens, full.choices, full.seed, full.user) == (900, 2, 7, "u-1")
    assert (full.temperature, full.top_p, full.frequency_penalty) == (1.5, 0.9, 0.5)
    assert full.stream
    assert full.include_usage
    assert full.unknown == ("prompt_cache_key", "grammar")


def test_what_is_in_use_is_told_by_its_callers_fields(full: Request) -> None:
    spelled = dict(full.spelled)
    assert spelled == {
        "prompt_cache": "messages[1].content[0].cache_control",
        "image_data": "messages[2].content[1].image_url",
        "image_detail": "messages[2].content[1].image_url.detail",
        "image_url": "messages[2].content[2].image_url",
        "audio": "messages[2].content[3].input_audio",
        "document_data": "messages[2].content[4].file.file_data",
        "message_name": "messages[2].name",
        "thinking_history": "messages[3].reasoning_content",
        "late_system": "messages[6].role",
        "tools": "tools",
        "strict_tools": "tools[0].function.strict",
        "custom_tools": "tools[2]",
        "tool_grammar": "tools[2].custom.format",
        "tool_choice": "tool_choice",
        "tool_choice_several": "tool_choice",
        "parallel_tool_calls": "parallel_tool_calls",
        "json_schema": "response_format",
        "reasoning": "reasoning_effort",
        "max_output_tokens": "max_completion_tokens",
        "stop": "stop",
        "temperature": "temperature",
        "temperature_above_1": "temperature",
        "top_p": "top_p",
        "seed": "seed",
        "choices": "n",
        "frequency_penalty": "frequency_penalty",
        "user": "user",
    }


def test_a_request_written_for_openai_says_the_same_and_is_one_of_its_sdk(full: Request) -> None:
    body, ignored = sent(full)
    sdk_schemas.check_request("openai_chat", body)
    again = DIALECT.read_request(body, model="premium", stream=None)
    assert again.messages[2:] == full.messages[2:]
    for name in ("tools", "tool_choice", "output", "reasoning", "stop", "temperature", "choices"):
        assert getattr(again, name) == getattr(full, name)
    # OpenAI has no cache markers, and no place for thoughts in the history.
    assert ignored == ["messages[1].content[0].cache_control", "messages[3].reasoning_content"]


def test_numbers_and_the_order_of_keys_stay_as_they_were(full: Request) -> None:
    body, _ = sent(full)
    assert b'"minimum": 1.10}, "a": {}' in body
    assert rb"{\"big\": 1.10, \"id\": 12345678901234567890123}" in body


def test_plain_defaults_are_not_in_use() -> None:
    request = read(
        n=1, stop=[], logprobs=False, presence_penalty=0, parallel_tool_calls=True, metadata={},
        tool_choice="auto", response_format={"type": "text"}, user=None, stream=None, tools=None,
        logit_bias={}, modalities=["text"], store=None, reasoning_effort=None, temperature=None,
    )  # fmt: skip
    assert request.spelled == {}
    assert request.unknown == ()


def test_a_null_says_nothing_wherever_it_stands() -> None:
    message = dict.fromkeys(
        ("content", "name", "tool_calls", "function_call", "refusal", "audio", "reasoning_content",
         "reasoning", "reasoning_details", "cache_control", "annotations", "unknown"),
    )  # fmt: skip
    settings = dict.fromkeys(
        ("tools", "tool_choice", "functions", "function_call", "response_format", "reasoning",
         "thinking", "web_search_options", "stop", "logit_bias", "audio", "verbosity", "n", "x"),
    )  # fmt: skip
    request = read(messages=[{"role": "assistant", **message}, {"role": "user"}], **settings)
    assert request.messages == (assistant(), user())
    assert request.spelled == {}
    assert request.unknown == ()
    assert (request.tools, request.tool_choice, request.output) == ((), None, None)


def test_the_path_may_say_the_model_and_the_stream() -> None:
    body = b'{"messages":[{"role":"user","content":"Hi"}]}'
    request = DIALECT.read_request(body, model="deployed", stream=True)
    assert (request.model, request.stream) == ("deployed", True)


def test_legacy_functions_are_tools_and_results_find_their_calls() -> None:
    request = read(
        messages=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "function_call": {"name": "f", "arguments": '{"a":1}'}},
            {"role": "function", "name": "f", "content": "one"},
        ],
        functions=[{"name": "f", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
    )
    made = call_ids.made("", 1)
    assert request.tools == (Tool("f", schema=b'{"type":"object"}'),)
    assert request.tool_choice == ToolChoice("required", ("f",))
    assert request.messages[1:] == (
        assistant(ToolCall(made, "f", '{"a":1}')),
        user(ToolResult(made, (Text("one"),), "f")),
    )
    assert request.spelled["tools"] == "functions"
    sdk_schemas.check_request("openai_chat", sent(request)[0])


def test_empty_ids_of_calls_are_matched_in_order() -> None:
    function = {"name": "f", "arguments": "{}"}
    request = read(
        messages=[
            {"role": "assistant", "tool_calls": [{"id": "", "function": function}] * 2},
            {"role": "tool", "tool_call_id": "", "content": "one"},
            {"role": "tool", "tool_call_id": "", "content": "two"},
        ]
    )
    first, second = request.messages[0].content
    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert first.id != second.id
    results = [one.content[0] for one in request.messages[1:]]
    assert results == [
        ToolResult(first.id, (Text("one"),)), ToolResult(second.id, (Text("two"),)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reasoning_effort": "max"}, Reasoning("xhigh")),
        ({"reasoning": {"effort": "low", "exclude": True}}, Reasoning("low", None, show=False)),
        ({"reasoning": {"max_tokens": 2000}}, Reasoning(None, 2000)),
        ({"reasoning": {"enabled": True}}, Reasoning(None, -1)),
        ({"thinking": {"type": "disabled"}}, Reasoning(None, 0)),
        ({"thinking": {"type": "enabled"}}, Reasoning(None, -1)),
        ({"enable_thinking": False}, Reasoning(None, 0)),
        ({"include_reasoning": True}, Reasoning(None, None, show=True)),
    ],
)
def test_every_spelling_of_how_much_to_think_is_read(
    fields: dict[str, Any], expected: Reasoning
) -> None:
    request = read(**fields)
    assert request.reasoning == expected
    assert request.spelled["reasoning"] == next(iter(fields))


def test_what_only_this_format_knows_is_kept_for_it_and_told() -> None:
    parts = [
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "video_url", "video_url": {"url": "https://e.com/v.mp4"}},
        {"type": "hologram", "x": [1.10]},
    ]
    request = read(
        messages=[{"role": "user", "content": parts}], tools=[{"type": "search", "k": 1}],
        web_search_options={"search_context_size": "low"},
    )  # fmt: skip
    assert [type(one) for one in request.messages[0].content] == [Opaque] * 3
    assert request.spelled == {
        "file_id": "messages[0].content[0].file.file_id",
        "video": "messages[0].content[1].type",
        "opaque_history": "messages[0].content[2].type",
        "provider_tools": "tools[0]",
    }
    body = write(request)
    assert body["messages"][0]["content"] == parts
    assert body["tools"] == [{"type": "search", "k": 1}]
    assert body["web_search_options"] == {"search_context_size": "low"}


def test_unknown_members_of_messages_are_told_once_and_empty_ones_are_not() -> None:
    request = read(
        messages=[
            {"role": "user", "content": "Hi", "weight": 1},
            {"role": "assistant", "content": "Ho", "weight": 2, "annotations": []},
            {"role": "user", "content": "Hi"},
        ]
    )
    assert request.unknown == ("messages.weight",)


def test_unknown_members_of_objects_deep_inside_are_told_and_the_rest_keeps_its_bytes() -> None:
    body = b"""{"model": "m", "x-y": 1, "thinking": {"type": "enabled", "clear": false},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi", "mood": "low"}]},
            {"role": "assistant", "tool_calls": [{"id": "a", "index": 0, "mark": 1, "function":
                {"name": "f", "arguments": "{}"}}]}],
        "tools": [{"type": "function", "defer": true, "function":
            {"name": "f", "parameters": {"minimum": 1.10, "maximum": 12345678901234567890123}}}],
        "response_format": {"type": "json_schema", "json_schema":
            {"name": "a", "schema": {"x": 1.10}, "mode": "loose"}}}"""
    request = DIALECT.read_request(body, model=None, stream=None)
    assert request.unknown == (
        "x-y", "thinking.clear", "messages.content.mood", "messages.tool_calls.mark",
        "tools.defer", "response_format.json_schema.mode",
    )  # fmt: skip
    assert request.tools[0].schema == b'{"minimum": 1.10, "maximum": 12345678901234567890123}'
    assert request.output is not None
    assert request.output.schema == b'{"x": 1.10}'


PART = "messages[0].content[0]"


def said(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": "Hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"model": ""}, "model"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"content": "Hi"}]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].tool_call_id"),
        (said({"type": "text"}), f"{PART}.text"),
        (
            said({"type": "image_url", "image_url": {"url": "data:image/png,x"}}),
            f"{PART}.image_url",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stop": [1]}, "stop[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"reasoning_effort": "heroic"}, "reasoning_effort"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        read(**body)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert "`" not in caught.value.message


def test_a_response_format_that_no_other_has_is_refused() -> None:
    with pytest.raises(GatewayError) as caught:
        read(response_format={"type": "regex"})
    assert caught.value.code == "unsupported_parameter"


@given(st.binary(max_size=80) | st.text().map(str.encode))
def test_no_body_raises_anything_but_a_refusal(body: bytes) -> None:
    with pytest.raises(GatewayError):
        DIALECT.read_request(body, model=None, stream=None)


# Writing requests.


def test_results_come_right_after_their_calls_and_what_is_no_text_after_them() -> None:
    request = foreign(
        user(Text("Go")),
        assistant(Text("Yes"), ToolCall("a", "f", ""), ToolCall("b", "g", "{}")),
        user(
            Text("and hurry"),
            ToolResult("a", (Text("one"), Image("image/png", "aaaa"))),
            ToolResult("b", (), is_error=True),
        ),
    )
    body = write(request)
    sdk_schemas.check_request("openai_chat", orjson.dumps(body))
    roles = [one["role"] for one in body["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user", "user"]
    calls = body["messages"][1]["tool_calls"]
    assert [one["function"]["arguments"] for one in calls] == ["{}", "{}"]
    assert body["messages"][2] == {"role": "tool", "tool_call_id": "a", "content": "one"}
    assert body["messages"][3]["content"] == "Error: "
    assert body["messages"][4]["content"] == [
        {"type": "text", "text": "Returned by the tool call a:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}},
    ]
    assert body["messages"][5]["content"] == "and hurry"


def test_an_error_that_says_so_itself_is_not_called_one_again() -> None:
    told = user(ToolResult("a", (Text("error: no"),), is_error=True))
    assert write(foreign(told))["messages"][0]["content"] == "error: no"


def test_neighbouring_messages_with_calls_become_one() -> None:
    body = write(
        foreign(
            assistant(Text("Let me")),
            assistant(ToolCall("a", "f", "{}")),
            assistant(ToolCall("b", "f", "{}")),
            user(ToolResult("a", (Text("1"),))),
            user(ToolResult("b", (Text("2"),))),
        )
    )
    assert [one["role"] for one in body["messages"]] == ["assistant", "tool", "tool"]
    assert body["messages"][0]["content"] == "Let me"
    assert len(body["messages"][0]["tool_calls"]) == 2


def test_a_document_of_text_is_text_and_one_with_data_a_file() -> None:
    body = write(
        foreign(user(Document(text="Once", name="Tale"), Document("application/pdf", "JVBE")))
    )
    text, file = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "Tale\n\nOnce"}
    assert file["file"] == {
        "filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBE",
    }  # fmt: skip


def test_a_document_by_url_goes_where_it_can_and_is_refused_elsewhere() -> None:
    request = foreign(
        user(Document(url="https://e.com/a.pdf")), spelled={"document_url": "the.field"}
    )
    (part,) = write(request, "mistral")["messages"][0]["content"]
    assert part == {"type": "document_url", "document_url": "https://e.com/a.pdf"}
    with pytest.raises(GatewayError) as caught:
        write(request, "openai")
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "the.field")


@pytest.mark.parametrize(
    "block",
    [Image("image/png", "aaaa"), Audio("audio/wav", "aaaa"), Opaque("gemini", b"{}", "thing")],
)
def test_what_an_assistant_cannot_say_here_is_refused(block: Block) -> None:
    with pytest.raises(GatewayError) as caught:
        write(foreign(assistant(block)))
    assert caught.value.code == "unsupported_parameter"


def test_tools_of_another_format_are_refused() -> None:
    tool = Tool("search", opaque=Opaque("gemini", b"{}", "search"))
    with pytest.raises(GatewayError) as caught:
        write(foreign(user(Text("Hi")), tools=(tool,), spelled={"provider_tools": "tools[0]"}))
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools[0]")


def test_signatures_of_another_format_are_left_out_with_their_thoughts_and_told() -> None:
    thought = Thinking("SECRET", Signature("anthropic_messages", "SECRET"))
    request = foreign(
        user(Text("Hi")), assistant(thought, Text("Ho")),
        spelled={"thinking_history": "messages.1.content.0"},
    )  # fmt: skip
    for provider in ("openai", "deepseek", "openrouter"):
        body, ignored = sent(request, provider)
        assert b"SECRET" not in body
        assert ignored == ["messages.1.content.0"]


@pytest.mark.parametrize(
    ("provider", "field"),
    [("deepseek", "reasoning_content"), ("groq", "reasoning"), ("openai", None), ("mistral", None)],
)
def test_thoughts_that_nobody_signed_go_back_where_they_are_taken(
    provider: str, field: str | None
) -> None:
    request = foreign(user(Text("Hi")), assistant(Thinking("hm"), Text("Ho")))
    body, ignored = sent(request, provider)
    message = orjson.loads(body)["messages"][1]
    assert message == {"role": "assistant", "content": "Ho"} | ({field: "hm"} if field else {})
    assert bool(ignored) is (field is None)


def test_details_that_were_signed_go_back_to_a_server_of_their_kind() -> None:
    details = [{"type": "reasoning.encrypted", "data": "x", "index": 0}]
    request = read(messages=[{"role": "assistant", "content": "Ho", "reasoning_details": details}])
    assert write(request, "openrouter")["messages"][0]["reasoning_details"] == details
    assert sent(request, "deepseek")[1] == ["messages[0].reasoning_details"]


def test_a_prefill_is_marked_where_it_can_be_and_refused_elsewhere() -> None:
    request = foreign(user(Text("Hi")), assistant(Text("{")), spelled={"prefill": "messages.1"})
    assert write(request, "mistral")["messages"][1]["prefix"] is True
    assert write(request, "moonshot")["messages"][1]["partial"] is True
    with pytest.raises(GatewayError) as caught:
        write(request, "openai")
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "messages.1")


def test_ids_of_calls_are_such_as_the_server_takes_and_still_belong_together() -> None:
    ids = ["functions.f:0", "x" * 50, "toolu_1", "abcdefgh9"]
    request = foreign(
        assistant(*(ToolCall(one, "f", "{}") for one in ids)),
        user(*(ToolResult(one, (Text("1"),)) for one in ids)),
    )
    for provider in ("openai", "mistral", "deepseek"):
        called, *results = write(request, provider)["messages"]
        given = [one["id"] for one in called["tool_calls"]]
        assert [one["tool_call_id"] for one in results] == given
        assert len(set(given)) == len(ids)
        if provider == "openai":
            assert max(map(len, given)) <= 40
            assert given[0] == ids[0]
        elif provider == "mistral":
            assert all(len(one) == NINE and one.isalnum() for one in given)
            assert given[3] == ids[3]
        else:
            assert given == ids


@pytest.mark.parametrize(
    ("provider", "key"), [("openai", "max_completion_tokens"), ("mistral", "max_tokens")]
)
def test_the_limit_has_the_servers_name_and_is_no_more_than_the_model_makes(
    provider: str, key: str
) -> None:
    request = foreign(user(Text("Hi")), max_output_tokens=32_000, seed=3, user="u")
    body = orjson.loads(sent(request, provider, most=8192)[0])
    assert body[key] == 8192
    assert ("random_seed" in body) is (provider == "mistral")
    assert ("user" in body) is (provider != "mistral")


@pytest.mark.parametrize(
    ("provider", "model", "asked", "fields", "told"),
    [
        ("openai", "gpt-5.4", Reasoning(None, 31_999), {"reasoning_effort": "high"}, False),
        ("openai", "gpt-5.4", Reasoning(None, 0), {"reasoning_effort": "none"}, False),
        ("openai", "gpt-5.4", Reasoning(None, -1), {"reasoning_effort": "medium"}, False),
        ("openai", "gpt-5-mini", Reasoning("none"), {"reasoning_effort": "minimal"}, True),
        ("openai", "o3", Reasoning("xhigh"), {"reasoning_effort": "high"}, True),
        ("openai", "gpt-4o", Reasoning(None, 4000), {}, True),
        ("deepseek", "m", Reasoning(None, 4000), {"thinking": {"type": "enabled"}}, False),
        ("deepseek", "m", Reasoning("none"), {"thinking": {"type": "disabled"}}, False),
        ("openrouter", "m", Reasoning(None, 4000), {"reasoning": {"max_tokens": 4000}}, False),
        ("openrouter", "m", Reasoning("low", None, show=False),
         {"reasoning": {"effort": "low", "exclude": True}}, False),
        ("mistral", "m", Reasoning("low"), {"reasoning_effort": "high"}, True),
        ("groq", "m", Reasoning("none"), {}, True),
        ("groq", "m", Reasoning(None, None, show=True), {}, True),
    ],
)  # fmt: skip
def test_how_much_to_think_is_said_as_the_server_knows_it(
    provider: str, model: str, asked: Reasoning, fields: dict[str, Any], told: bool
) -> None:
    request = foreign(user(Text("Hi")), reasoning=asked, spelled={"reasoning": "thinking"})
    body, ignored = sent(request, provider, model)
    found = orjson.loads(body)
    names = ("reasoning_effort", "reasoning", "thinking")
    assert {name: found[name] for name in names if name in found} == fields
    assert ignored == (["thinking"] if told else [])


def test_a_choice_among_several_is_said_or_the_others_are_left_out() -> None:
    tools = (Tool("a"), Tool("b"), Tool("c"))
    request = foreign(user(Text("Hi")), tools=tools, tool_choice=ToolChoice("required", ("a", "b")))
    assert write(request)["tool_choice"]["allowed_tools"]["mode"] == "required"
    body = write(request, "deepseek")
    assert [one["function"]["name"] for one in body["tools"]] == ["a", "b"]
    assert body["tool_choice"] == "required"


def test_nothing_is_said_of_tools_where_there_are_none() -> None:
    request = foreign(user(Text("Hi")), tool_choice=ToolChoice("auto"), parallel_tool_calls=False)
    assert write(request).keys() == {"model", "messages"}


def test_markers_of_the_cache_go_to_servers_that_take_them_and_are_told_elsewhere() -> None:
    request = foreign(
        user(Text("Hi", cache="1h")), tools=(Tool("f", cache="5m"),),
        spelled={"prompt_cache": "cache_control"},
    )  # fmt: skip
    body = write(request, "openrouter")
    (part,) = body["messages"][0]["content"]
    assert part["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert body["tools"][0]["cache_control"] == {"type": "ephemeral"}
    found, ignored = sent(request, "openai")
    assert b"cache_control" not in found
    assert ignored == ["cache_control"]


def test_more_stop_sequences_than_openai_takes_are_refused() -> None:
    request = foreign(user(Text("Hi")), stop=("a", "b", "c", "d", "e"))
    with pytest.raises(GatewayError):
        write(request)
    assert write(request, "deepseek")["stop"] == ["a", "b", "c", "d", "e"]


def test_a_stream_is_always_asked_for_its_usage() -> None:
    request = Request(format="gemini", model="p", stream=True, messages=(user(Text("Hi")),))
    assert write(request)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in write(request, "mistral")


def test_a_schema_has_a_name_that_is_allowed() -> None:
    request = foreign(user(Text("Hi")), output=OutputFormat(b'{"type":"object"}', "My schema!"))
    assert write(request)["response_format"]["json_schema"]["name"] == "My_schema_"
    plain = foreign(user(Text("Hi")), output=OutputFormat())
    assert write(plain)["response_format"] == {"type": "json_object"}
