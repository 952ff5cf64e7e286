"""Requests and whole answers of Responses: what is read of them, and what is written."""

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from responses_cases import TOWARD, asked_of, request_of, written
from sdk_schemas import check_request
from sdk_schemas import read_answer as read_by_sdk

from gateway.errors import GatewayError
from gateway.wire import signatures
from gateway.wire.conversation import (
    Answer,
    Audio,
    Block,
    Choice,
    Citation,
    Document,
    Feature,
    Image,
    Message,
    Opaque,
    OutputFormat,
    Reasoning,
    Refusal,
    Request,
    Signature,
    StopReason,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.wire.format import Toward
from gateway.wire.neutral import Usage
from gateway.wire.openai_responses_dialect import DIALECT

VECTORS = Path(__file__).resolve().parents[1] / "vectors/openai_responses"
CLAUDE = Signature("anthropic_messages", "EqQB.with.dots")
GEMINI = Signature("gemini", "CiQB")


def neutral(*messages: Message, **fields: Any) -> Request:
    """A request of another format."""
    return Request(format="other", model="m", stream=False, messages=messages, **fields)


def said(*blocks: Block) -> Message:
    return Message("assistant", blocks)


def asked(*blocks: Block) -> Message:
    return Message("user", blocks)


def answer_of(*blocks: Block, stop: StopReason = "end") -> Answer:
    usage = Usage(input_tokens=10, output_tokens=8, cache_read_input_tokens=4, reasoning_tokens=3)
    return Answer(id="x", model="y", choices=(Choice(blocks, stop),), usage=usage)


def answered(answer: Answer, request: Request | None = None) -> Any:
    """An answer as it is written, and read by the SDK's types."""
    body = DIALECT.write_answer(answer, asked_of(request))
    read_by_sdk("openai_responses", body)
    return msgspec.json.decode(body)


def refused(code: str, **fields: Any) -> str | None:
    with pytest.raises(GatewayError) as error:
        request_of(**fields)
    assert error.value.code == code
    assert error.value.param is not None
    assert error.value.param in error.value.message
    return error.value.param


def test_every_feature_has_its_support() -> None:
    assert tuple(sorted(DIALECT.support)) == tuple(sorted(get_args(Feature)))
    assert set(DIALECT.support.values()) <= {"yes", "ignored", "refused"}


# -- requests read -----------------------------------------------------------------------------


def test_a_coding_agents_request_is_read() -> None:
    body = (VECTORS / "coding_agent.json").read_bytes()
    request = DIALECT.read_request(body, model=None, stream=None)
    assert request.stream
    assert request.system == (
        Text("You are a coding agent in a terminal."),
        Text("<permissions>read-only</permissions>"),
    )
    context, question, turn, results = request.messages
    assert (context.role, question.role, turn.role, results.role) == (
        "user", "user", "assistant", "user",
    )  # fmt: skip
    assert question.content[1] == Image("image/png", "iVBORw0KGgo=")
    assert turn.content == (
        Thinking(
            "**Looking at the log**\n\nIt is long.",
            Signature("openai_responses", "gAAAAAB-own-state"),
        ),
        Text("Let me look."),
        ToolCall("call_1", "exec_command", '{"cmd": "tail -n 5 build.log", "limit": 1.0}'),
        ToolCall("call_2", "apply_patch", "*** Begin Patch\n*** End Patch", custom=True),
        ToolCall("call_3", "mcp__docs__search", ""),
    )
    assert results.content == (
        ToolResult("call_1", (Text("error: no such file"),)),
        ToolResult("call_2", (Text("Done"),)),
        ToolResult(
            "call_3", (Text("found"), Image(url="https://docs.example/a.png", detail="high"))
        ),
    )
    command, patch, search = request.tools
    assert b'"maximum": 1e3' in (command.schema or b"")
    assert patch.custom
    assert patch.grammar == ("lark", 'start: "x"')
    assert (search.name, search.namespace) == ("mcp__docs__search", "mcp__docs__")
    assert request.reasoning == Reasoning(effort="high", show=True)
    assert request.parallel_tool_calls is False
    assert dict(request.spelled) == {
        "custom_tools": "tools[1]",
        "tool_grammar": "tools[1].format",
        "tools": "tools",
        "image_data": "input[2].content[1].image_url",
        "thinking_history": "input[3]",
        "image_detail": "input[10].output[1].detail",
        "image_url": "input[10].output[1].image_url",
        "tool_result_image": "input[10].output",
        "verbosity": "text.verbosity",
        "reasoning": "reasoning",
        "parallel_tool_calls": "parallel_tool_calls",
    }
    assert request.unknown == (
        "prompt_cache_key", "client_metadata", "tools[2].description",
        "tools[2].tools[0].defer_loading", "input[4].phase",
    )  # fmt: skip


def test_input_may_be_one_string_or_none_where_the_provider_keeps_the_conversation() -> None:
    assert request_of(input="hi").messages == (asked(Text("hi")),)
    assert request_of(input=None, previous_response_id="resp_1").messages == ()
    assert refused("invalid_request", input=None) == "input"


@pytest.mark.parametrize(
    ("feature", "fields", "field"),
    [
        ("stored_state", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("stored_state", {"conversation": "conv_1"}, "conversation"),
        ("stored_state", {"prompt": {"id": "pmpt_1"}}, "prompt"),
        ("stored_state", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ("stored_state", {"input": [{"type": "compaction", "id": "x"}]}, "input[0]"),
        ("store", {"store": True}, "store"),
        ("background", {"background": True}, "background"),
        ("truncation", {"truncation": "auto"}, "truncation"),
        ("service_tier", {"service_tier": "flex"}, "service_tier"),
        ("moderation", {"moderation": {"model": "m"}}, "moderation"),
        ("include", {"include": ["web_search_call.action.sources"]}, "include"),
        ("logprobs", {"include": ["message.output_text.logprobs"]}, "include"),
        ("logprobs", {"top_logprobs": 2}, "top_logprobs"),
        ("verbosity", {"text": {"verbosity": "high"}}, "text.verbosity"),
        ("json_object", {"text": {"format": {"type": "json_object"}}}, "text.format"),
        ("temperature_above_1", {"temperature": 1.5}, "temperature"),
        ("user", {"safety_identifier": "u"}, "safety_identifier"),
        ("provider_tools", {"tools": [{"type": "web_search"}]}, "tools[0]"),
        ("provider_tools", {"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ("opaque_history", {"input": [{"type": "web_search_call", "id": "w"}]}, "input[0]"),
    ],
)
def test_a_feature_is_known_by_the_field_that_asks_for_it(
    feature: Feature, fields: dict[str, Any], field: str
) -> None:
    assert request_of(**fields).spelled[feature] == field


@pytest.mark.parametrize(
    "fields",
    [
        {"store": False, "background": False, "truncation": "disabled", "service_tier": "auto"},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto"},
        {"include": ["reasoning.encrypted_content"], "top_logprobs": 0, "reasoning": {}},
        {"parallel_tool_calls": True, "metadata": {}, "user": None, "tools": []},
        {"stream_options": {"include_obfuscation": False}, "stream": False},
    ],
)
def test_what_is_so_anyway_is_no_feature(fields: dict[str, Any]) -> None:
    request = request_of(**fields)
    assert request.spelled == {}
    assert request.unknown == ()


def test_later_system_text_keeps_its_place() -> None:
    turns = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "system", "content": "d"},
    ]
    request = request_of(input=turns)
    assert request.system == (Text("a"), Text("b"))
    assert request.messages == (asked(Text("c")), Message("system", (Text("d"),)))
    assert request.spelled == {"late_system": "input[3].role"}


def test_tools_given_in_the_conversation_are_tools() -> None:
    more = {"type": "additional_tools", "role": "developer", "tools": [
        {"type": "function", "name": "f", "parameters": None, "strict": True}
    ]}  # fmt: skip
    request = request_of(input=[{"role": "user", "content": "hi"}, more])
    assert request.tools == (Tool("f", strict=True),)
    assert request.spelled["strict_tools"] == "input[1].tools[0].strict"


@pytest.mark.parametrize(
    ("part", "block"),
    [
        ({"file_url": "https://a/b.pdf"}, Document(url="https://a/b.pdf")),
        (
            {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"},
            Document("application/pdf", "JVBE", name="a.pdf"),
        ),
        ({"file_data": "JVBE"}, Document("application/pdf", "JVBE")),
        ({"file_data": "data:text/plain;base64,aGk="}, Document("text/plain", text="hi")),
        ({"file_data": "data:text/csv,a%2Cb"}, Document("text/csv", text="a,b")),
    ],
)
def test_files_are_documents(part: dict[str, Any], block: Document) -> None:
    content = [{"type": "input_file", **part}]
    request = request_of(input=[{"role": "user", "content": content}])
    assert request.messages == (asked(block),)


def test_a_file_by_its_id_stays_what_it_is() -> None:
    part = {"type": "input_image", "file_id": "file-1"}
    request = request_of(input=[{"role": "user", "content": [part]}])
    assert request.spelled["file_id"] == "input[0].content[0].file_id"
    (message,) = request.messages
    (block,) = message.content
    assert isinstance(block, Opaque)
    assert written(request)[0]["input"][0]["content"] == [part]


@pytest.mark.parametrize(
    ("choice", "read"),
    [
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "f"}, ToolChoice("required", ("f",))),
        ({"type": "custom", "name": "c"}, ToolChoice("required", ("c",))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [
                {"type": "function", "name": "f"}, {"type": "custom", "name": "c"},
            ]},
            ToolChoice("auto", ("f", "c")),
        ),
    ],
)  # fmt: skip
def test_choices_of_tools_come_back(choice: Any, read: ToolChoice) -> None:
    tools = [
        {"type": "function", "name": "f", "parameters": {"type": "object"}},
        {"type": "custom", "name": "c"},
    ]
    request = request_of(tools=tools, tool_choice=choice)
    assert request.tool_choice == read
    assert written(request)[0]["tool_choice"] == choice


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [{"role": "robot", "content": "hi"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "output": ""}]}, "input[0].call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0].image_url"),
        ({"input": [{"type": "message", "role": 7}]}, "input[0].role"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"temperature": "hot"}, "temperature"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"model": None}, "model"),
    ],
)  # fmt: skip
def test_what_is_no_request_names_its_field(fields: dict[str, Any], param: str) -> None:
    assert refused("invalid_request", **fields) == param


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_bytes_that_are_no_request_are_refused(body: bytes) -> None:
    with pytest.raises(GatewayError) as error:
        DIALECT.read_request(body, model=None, stream=None)
    assert error.value.code == "invalid_request"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "call_id", "name", "output", "text", "tools"]
            )
            | st.text(max_size=4),
            inner
            | st.sampled_from(["message", "reasoning", "function_call", "input_text", "namespace"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["input", "tools", "tool_choice", "text", "reasoning", "include", "x"]),
        _JSON,
    )
)
def test_any_json_reads_or_is_refused_by_its_field(fields: dict[str, Any]) -> None:
    try:
        request = request_of(**fields)
        DIALECT.write_request(request, TOWARD)
    except GatewayError as caught:
        error: GatewayError | None = caught
    else:
        error = None
    assert error is None or error.code in ("invalid_request", "unsupported_parameter")
    assert error is None or error.param


# -- requests written --------------------------------------------------------------------------


def test_nothing_is_kept_at_the_provider() -> None:
    body, _ = written(neutral(asked(Text("hi"))))
    assert body["store"] is False
    assert body["include"] == ["reasoning.encrypted_content"]


def test_tools_of_others_are_not_strict_unless_they_are_said_to_be() -> None:
    schema = b'{"type":"object","properties":{"b":{"maximum":1.0e2},"a":{}}}'
    request = neutral(
        asked(Text("hi")), tools=(Tool("f", "does", schema), Tool("g", strict=True), Tool("h"))
    )
    body, _ = DIALECT.write_request(request, TOWARD)
    assert schema in body
    check_request("openai_responses", body)
    f, g, h = msgspec.json.decode(body)["tools"]
    assert (f["strict"], g["strict"], h["strict"]) == (False, True, False)
    assert h["parameters"] == {"type": "object", "properties": {}}


def test_a_conversation_becomes_items() -> None:
    request = neutral(
        asked(Text("look"), Image("image/png", "AAAA"), Document("application/pdf", "JVBE")),
        said(Text("a"), Citation(url="u"), Text("b"),
             ToolCall("t1", "f", ""), ToolCall("t2", "g", '{"x":')),
        asked(ToolResult("t1", (Text("one"),)),
              ToolResult("t2", (Text("two"), Image(url="https://a/b.png"))), Text("go on")),
        system=(Text("be"), Text("brief")),
    )  # fmt: skip
    body, left_out = written(request)
    check_request("openai_responses", msgspec.json.encode(body))
    assert left_out == ["citations"]
    assert body["instructions"] == "be\n\nbrief"
    assert body["input"] == [
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "look"},
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
            {"type": "input_file", "filename": "document.pdf",
             "file_data": "data:application/pdf;base64,JVBE"},
        ]},
        {"type": "message", "role": "assistant", "content": "ab"},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "t1"},
        {"type": "function_call", "name": "g", "arguments": '{"x":', "call_id": "t2"},
        {"type": "function_call_output", "call_id": "t1", "output": "one"},
        {"type": "function_call_output", "call_id": "t2", "output": [
            {"type": "input_text", "text": "two"},
            {"type": "input_image", "image_url": "https://a/b.png", "detail": "auto"},
        ]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go on"}]},
    ]  # fmt: skip


def test_reasoning_goes_back_with_its_item_and_alone_not_at_all() -> None:
    own = Thinking("so", Signature("openai_responses", "rs_1 gAAA"))
    spelled: dict[Feature, str] = {"thinking_history": "messages[1].content[0]"}
    body, left_out = written(neutral(asked(Text("a")), said(own), said(ToolCall("t", "f", "{}")),
                                     spelled=spelled))  # fmt: skip
    assert left_out == []
    assert [item["type"] for item in body["input"]] == ["message", "reasoning", "function_call"]
    assert body["input"][1] == {
        "id": "rs_1", "type": "reasoning", "encrypted_content": "gAAA",
        "summary": [{"type": "summary_text", "text": "so"}],
    }  # fmt: skip
    body, left_out = written(
        neutral(asked(Text("a")), said(own), asked(Text("b")), spelled=spelled)
    )
    assert left_out == ["messages[1].content[0]"]
    assert [item["type"] for item in body["input"]] == ["message", "message"]


def test_signatures_of_words_and_calls_are_left_out_and_told() -> None:
    request = neutral(
        said(Text("b", signature=GEMINI), ToolCall("t", "f", "{}", signature=GEMINI)),
        spelled={"thinking_history": "contents[0].parts[0].thoughtSignature"},
    )
    body, left_out = DIALECT.write_request(request, TOWARD)
    assert GEMINI.value.encode() not in body
    assert left_out == ["contents[0].parts[0].thoughtSignature"]


@pytest.mark.parametrize("signature", [None, CLAUDE])
def test_thoughts_of_others_are_left_out_and_told(signature: Signature | None) -> None:
    request = neutral(
        said(Thinking("secret", signature), Text("b")),
        spelled={"thinking_history": "messages[0].content[0]"},
    )
    body, left_out = DIALECT.write_request(request, TOWARD)
    assert b"secret" not in body
    assert left_out == ["messages[0].content[0]"]


def test_ids_that_are_too_long_stay_pairs() -> None:
    long = "toolu_" + "x" * 90
    body, _ = written(
        neutral(said(ToolCall(long, "f", "{}")), asked(ToolResult(long, (Text("r"),))))
    )
    call, result = body["input"]
    assert call["call_id"] == result["call_id"]
    assert len(call["call_id"]) <= 64


@pytest.mark.parametrize(
    ("model", "reasoning", "sent"),
    [
        ("gpt-5.6", Reasoning(effort="low", show=True), {"effort": "low", "summary": "auto"}),
        ("gpt-5.6", Reasoning(budget_tokens=0), {"effort": "none"}),
        ("gpt-5-mini", Reasoning(budget_tokens=0), {"effort": "minimal"}),
        ("o4-mini", Reasoning(budget_tokens=0), {"effort": "low"}),
        ("o4-mini", Reasoning(budget_tokens=4000), {"effort": "low"}),
        ("o4-mini", Reasoning(budget_tokens=10000), {"effort": "medium"}),
        ("o4-mini", Reasoning(budget_tokens=31999), {"effort": "high"}),
        ("o4-mini", Reasoning(budget_tokens=-1, show=True), {"summary": "auto"}),
        ("gpt-4o", Reasoning(budget_tokens=0), None),
    ],
)
def test_a_budget_becomes_the_effort_that_spends_about_as_much(
    model: str, reasoning: Reasoning, sent: Any
) -> None:
    request = neutral(asked(Text("hi")), reasoning=reasoning, spelled={"reasoning": "thinking"})
    body, left_out = written(request, Toward(model, "openai"))
    assert body.get("reasoning") == sent
    assert left_out == []


def test_models_that_do_not_reason_are_not_asked_to() -> None:
    request = neutral(
        asked(Text("hi")),
        reasoning=Reasoning(budget_tokens=9999),
        spelled={"reasoning": "thinking"},
    )
    body, left_out = written(request, Toward("gpt-4.1", "openai"))
    assert {"reasoning", "include"}.isdisjoint(body)
    assert left_out == ["thinking"]


def test_what_openai_would_refuse_by_its_size_names_the_callers_field() -> None:
    spelled: dict[Feature, str] = {"max_output_tokens": "max_tokens", "user": "metadata.user_id"}
    request = neutral(asked(Text("hi")), user="u" * 65, spelled=spelled)
    body, left_out = written(request)
    assert "user" not in body
    assert left_out == ["metadata.user_id"]
    assert written(request, Toward("grok", "xai"))[0]["user"] == "u" * 65
    request = neutral(asked(Text("hi")), max_output_tokens=1, spelled=spelled)
    with pytest.raises(GatewayError) as error:
        written(request)
    assert (error.value.code, error.value.param) == ("unsupported_parameter", "max_tokens")
    assert written(request, Toward("grok", "xai"))[0]["max_output_tokens"] == 1


def test_sampling_that_models_have_anyway_is_not_sent() -> None:
    assert "temperature" not in written(neutral(asked(Text("hi")), temperature=1.0))[0]
    body, _ = written(neutral(asked(Text("hi")), temperature=0.0, top_p=0.5))
    assert (body["temperature"], body["top_p"]) == (0.0, 0.5)


def test_output_formats_are_flat() -> None:
    schema = b'{"type":"object","properties":{},"additionalProperties":false}'
    body, _ = written(neutral(asked(Text("hi")), output=OutputFormat(schema, strict=True)))
    assert body["text"] == {
        "format": {"type": "json_schema", "name": "output", "strict": True,
                   "schema": msgspec.json.decode(schema)}
    }  # fmt: skip
    assert written(neutral(asked(Text("hi")), output=OutputFormat()))[0]["text"] == {
        "format": {"type": "json_object"}
    }


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (neutral(asked(Audio("audio/wav", "AA")), spelled={"audio": "messages[0]"}), "messages[0]"),
        (neutral(said(Image(url="https://a/b")), spelled={"image_url": "x"}), "x"),
        (neutral(tools=(Tool("w", opaque=Opaque("gemini", b"{}")),),
                 spelled={"provider_tools": "tools[0].googleSearch"}), "tools[0].googleSearch"),
        (neutral(system=(Image(url="https://a/b"),)), "system"),
    ],
)  # fmt: skip
def test_what_has_no_place_is_refused_by_the_callers_name(request_: Request, param: str) -> None:
    with pytest.raises(GatewayError) as error:
        DIALECT.write_request(request_, TOWARD)
    assert (error.value.code, error.value.param) == ("unsupported_parameter", param)


def test_foreign_blocks_of_earlier_turns_are_left_out_and_told() -> None:
    request = neutral(
        said(Opaque("anthropic_messages", b'{"type":"server_tool_use"}'), Text("it is 3")),
        asked(ToolResult("t", (Text("r"),), is_error=True)),
        spelled={"opaque_history": "messages[0].content[0]", "tool_result_error": "messages[1]"},
    )
    body, left_out = DIALECT.write_request(request, TOWARD)
    assert b"server_tool_use" not in body
    assert left_out == ["messages[0].content[0]", "messages[1]"]


# -- answers -----------------------------------------------------------------------------------


def test_an_answer_is_written_as_a_whole_response() -> None:
    request = request_of(
        temperature=0.5, metadata={"a": "b"}, max_output_tokens=99, tools=[
            {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": None}
        ], text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    )  # fmt: skip
    body = answered(
        answer_of(Thinking("hm"), Text("Hi"), ToolCall("t1", "f", ""), stop="tool_call"), request
    )
    assert body["id"] == "resp_0199abcd"
    assert body["status"] == "completed"
    assert (body["model"], body["created_at"]) == ("premium", 1_790_000_000)
    assert (body["temperature"], body["max_output_tokens"]) == (0.5, 99)
    assert body["tools"][0]["name"] == "f"
    assert body["text"]["format"]["name"] == "n"
    thoughts, message, call = body["output"]
    assert thoughts["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert message["content"][0]["text"] == "Hi"
    assert (call["arguments"], call["status"], call["call_id"]) == ("{}", "completed", "t1")
    assert {item["id"].split("_")[0] for item in body["output"]} == {"rs", "msg", "fc"}
    assert body["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 18,
    }


@pytest.mark.parametrize(
    ("stop", "blocks", "status", "reason"),
    [
        ("end", (Text("a"),), "completed", None),
        ("stop_sequence", (Text("a"),), "completed", None),
        ("max_tokens", (Text("a"),), "incomplete", "max_output_tokens"),
        ("pause", (Text("a"),), "incomplete", "max_output_tokens"),
        ("refusal", (Text("a"),), "incomplete", "content_filter"),
        ("refusal", (Refusal("no"),), "completed", None),
        ("max_tokens", (Refusal("no"),), "incomplete", "max_output_tokens"),
    ],
)
def test_an_answer_says_how_it_ended(
    stop: StopReason, blocks: tuple[Block, ...], status: str, reason: str | None
) -> None:
    body = answered(answer_of(*blocks, stop=stop))
    assert body["status"] == status
    assert (body["incomplete_details"] or {}).get("reason") == reason
    assert body["output"][-1]["status"] == status


def test_texts_that_follow_each_other_are_one_with_their_citations_in_place() -> None:
    body = answered(
        answer_of(
            Text("It is "), Text("cold"), Citation("https://a", "A"), Text(", very."),
            Citation("https://b", "B", start=2, end=6), Opaque("anthropic_messages", b"{}"),
            Text(" Yes"),
        )
    )  # fmt: skip
    ((part,),) = [item["content"] for item in body["output"]]
    assert part["text"] == "It is cold, very. Yes"
    assert [(one["start_index"], one["end_index"]) for one in part["annotations"]] == [
        (6, 10), (12, 16),
    ]  # fmt: skip


def test_cut_arguments_stay_as_they_are_and_are_called_incomplete() -> None:
    body = answered(answer_of(ToolCall("t", "f", '{"a": [1,'), stop="max_tokens"))
    assert body["output"][0]["arguments"] == '{"a": [1,'
    assert body["output"][0]["status"] == "incomplete"
    assert body["status"] == "incomplete"


def test_calls_without_ids_get_ids_of_their_own() -> None:
    body = answered(answer_of(ToolCall("", "f", "{}"), ToolCall("", "f", "{}")))
    first, second = (item["call_id"] for item in body["output"])
    assert first != second
    assert first.startswith("call_")


def test_a_namespaced_call_goes_back_to_its_namespace() -> None:
    request = DIALECT.read_request(
        (VECTORS / "coding_agent.json").read_bytes(), model=None, stream=None
    )
    body = answered(answer_of(ToolCall("t", "mcp__docs__search", "{}")), request)
    assert (body["output"][0]["name"], body["output"][0]["namespace"]) == ("search", "mcp__docs__")


def test_signatures_of_others_come_back_to_their_issuer_through_the_callers_history() -> None:
    blocks: tuple[Block, ...] = (
        Thinking("why", CLAUDE),
        Thinking("", Signature("anthropic_messages", "redacted!"), redacted=True),
        Text("well"),
        ToolCall("t1", "f", "{}", signature=GEMINI),
        ToolCall("t2", "f", "{}"),
    )
    output = answered(answer_of(*blocks, stop="tool_call"))["output"]
    again = request_of(input=[{"role": "user", "content": "hi"}, *output])
    assert again.messages[1] == said(*blocks)


def test_a_carried_signature_that_came_after_its_call_finds_it() -> None:
    late = {"type": "reasoning", "summary": [],
            "encrypted_content": signatures.sealed(GEMINI, "previous")}  # fmt: skip
    call = {"type": "function_call", "call_id": "t", "name": "f", "arguments": "{}"}
    request = request_of(input=[call, late])
    assert request.messages == (said(ToolCall("t", "f", "{}", signature=GEMINI)),)
    assert request_of(input=[late]).messages == ()


def test_a_carried_signature_is_for_the_very_next_call() -> None:
    carrier = {"type": "reasoning", "summary": [],
               "encrypted_content": signatures.sealed(GEMINI, "next")}  # fmt: skip
    call = {"type": "function_call", "call_id": "t", "name": "f", "arguments": "{}"}
    words = {"role": "assistant", "content": "a"}
    request = request_of(input=[carrier, words, call])
    assert request.messages == (said(Text("a"), ToolCall("t", "f", "{}")),)


def test_fields_that_no_other_format_has_are_told_once() -> None:
    call = {"type": "function_call", "call_id": "t", "name": "f", "namespace": "f"}
    request = request_of(input=[call, {**call, "call_id": "u"}])
    assert request.unknown == ("input[0].namespace",)


@pytest.mark.parametrize(
    ("body", "message", "kind"),
    [
        ({"status": "failed", "error": {"code": "server_error", "message": "oh"}}, "oh", None),
        ({"status": "failed", "output": []}, "The response failed.", None),
        ({"status": "cancelled", "output": []}, "The response is cancelled.", "cancelled"),
        ({"status": "in_progress"}, "The response is in progress.", "in_progress"),
        ({"error": "plain"}, "plain", None),
    ],
)
def test_a_response_that_is_none_is_an_error(
    body: dict[str, Any], message: str, kind: str | None
) -> None:
    answer = DIALECT.read_answer(msgspec.json.encode(body))
    assert answer is not None
    assert answer.error is not None
    assert (answer.error.message, answer.error.type) == (message, kind)
    assert answer.choices == ()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"<html>", b'{"output":[]}', b'{"status":"completed"}']
)
def test_what_is_no_response_is_no_answer(body: bytes) -> None:
    assert DIALECT.read_answer(body) is None


@given(
    st.dictionaries(st.sampled_from(["id", "model", "status", "output", "usage", "error"]), _JSON)
)
def test_any_json_is_an_answer_or_none(body: dict[str, Any]) -> None:
    answer = DIALECT.read_answer(msgspec.json.encode(body))
    if answer is not None and answer.error is None:
        DIALECT.write_answer(answer, asked_of())


@pytest.mark.parametrize(
    ("body", "message", "kind", "code"),
    [
        (b'{"error":{"message":"m","type":"t","code":"c"}}', "m", "t", "c"),
        (b'{"error":"text"}', "text", None, None),
        (b'{"detail":"gone"}', "gone", None, None),
        (b'{"code":"3051","object":"error","message":"m"}', "m", None, "3051"),
        (b'[{"error":{"code":404,"message":"m"}}]', "m", None, "404"),
        (b'{"error":{"message":null,"code":null}}', "The provider answered 418.", None, None),
        (b"busy", "busy", None, None),
        (b"<html>x</html>", "The provider answered 418.", None, None),
        (b"", "The provider answered 418.", None, None),
        (b"\xff\xfe", "\ufffd\ufffd", None, None),
    ],
)
def test_errors_are_read_whatever_their_shape(
    body: bytes, message: str, kind: str | None, code: str | None
) -> None:
    error = DIALECT.read_error(418, body)
    assert (error.message, error.type, error.code) == (message, kind, code)
