"""Anthropic Messages requests and answers, by way of the neutral model."""

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk_schemas import check_request, read_answer

from gateway.errors import GatewayError
from gateway.wire import call_ids
from gateway.wire.anthropic_messages_dialect import DIALECT
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
from gateway.wire.format import Asked, Toward
from gateway.wire.neutral import Usage

VECTORS = Path(__file__).parent.parent / "vectors/anthropic_messages"
OURS = "anthropic_messages"
HELLO = Message("user", (Text("Hello"),))
PLAIN = Request(format="openai_chat", model="m", stream=False, messages=(HELLO,))
SONNET_4 = Toward("claude-sonnet-4-20250514", "anthropic", 64000)
OPUS_4_8 = Toward("claude-opus-4-8", "anthropic", 128000)


def asked(**more: Any) -> Asked:
    return Asked(msgspec.structs.replace(PLAIN, **more), "premium", "0199-ab-cd", 1_790_000_000)


def read(document: Any) -> Request:
    return DIALECT.read_request(msgspec.json.encode(document), model=None, stream=None)


def wrote(toward: Toward = SONNET_4, **more: Any) -> tuple[dict[str, Any], list[str]]:
    """The body for an upstream, as the SDK could have sent it, and what was ignored."""
    body, ignored = DIALECT.write_request(msgspec.structs.replace(PLAIN, **more), toward)
    check_request(OURS, body)
    return msgspec.json.decode(body), ignored


def refused(toward: Toward = SONNET_4, **more: Any) -> str | None:
    with pytest.raises(GatewayError) as caught:
        DIALECT.write_request(msgspec.structs.replace(PLAIN, **more), toward)
    assert caught.value.code == "unsupported_parameter"
    return caught.value.param


# --- reading requests -------------------------------------------------------------------------


def test_a_coding_clients_request_is_read_whole() -> None:
    body = (VECTORS / "coding_turn.json").read_bytes()
    found = DIALECT.read_request(body, model=None, stream=None)
    assert found.system == (Text("billing: cli 9.9"), Text("You write code.", "1h"))
    assert [one.role for one in found.messages] == ["user", "assistant", "user", "system"]
    assert found.messages[1].content == (
        Thinking("Two reads.", Signature(OURS, "EqQBCgIYAhIk")),
        Thinking("", Signature(OURS, "EmwKAhgB"), redacted=True),
        Text("Reading."),
        ToolCall("toolu_01", "Read", '{"path": "a", "at": 1.0e5}'),
        ToolCall("toolu_02", "Read", "{}"),
    )
    image = Image(url="https://example.com/a.png")
    assert found.messages[2].content == (
        ToolResult("toolu_01", (Text("one"),)),
        ToolResult("toolu_02", (Text("no such file"), image), is_error=True, cache="5m"),
    )
    assert [(one.name, one.cache) for one in found.tools] == [("Read", None), ("Write", "5m")]
    assert b"1.10" in (found.tools[1].schema or b"")
    assert found.reasoning == Reasoning("high", -1, show=True)
    assert found.user == '{"device_id":"d1","session_id":"s1"}'
    assert (found.stream, found.max_output_tokens, found.temperature) == (True, 32000, 1)
    assert found.unknown == ("context_management", "tools.eager_input_streaming")
    assert dict(found.spelled) == {
        "image_data": "messages.0.content",
        "thinking_history": "messages.1.content",
        "tool_result_error": "messages.2.content",
        "image_url": "messages.2.content",
        "tool_result_image": "messages.2.content",
        "late_system": "messages.3.role",
        "tools": "tools",
        "prompt_cache": "cache_control",
        "max_output_tokens": "max_tokens",
        "temperature": "temperature",
        "user": "metadata.user_id",
        "reasoning": "thinking",
    }


def test_a_coding_clients_request_comes_out_as_it_went_in() -> None:
    body = (VECTORS / "coding_turn.json").read_bytes()
    found = DIALECT.read_request(body, model=None, stream=None)
    written, ignored = DIALECT.write_request(found, Toward(found.model, "anthropic"))
    check_request(OURS, written)
    again = DIALECT.read_request(written, model=None, stream=None)
    assert not ignored
    told = {"spelled", "unknown"}
    # 1 is the default, and thinking goes with no other.
    expected = msgspec.structs.replace(found, temperature=None, reasoning=again.reasoning)
    for name in set(Request.__struct_fields__) - told:
        assert getattr(again, name) == getattr(expected, name), name
    assert b'{"path": "a", "at": 1.0e5}' in written
    assert b"1.10" in written


def test_a_body_to_be_counted_is_the_same_without_max_tokens() -> None:
    document = {"model": "m", "messages": [{"role": "user", "content": "x"}], "system": "s"}
    found = read(document)
    assert found.max_output_tokens is None
    assert "max_output_tokens" not in found.spelled
    body, _ = DIALECT.write_count(
        msgspec.structs.replace(found, temperature=0.5, stop=("x",), stream=True), SONNET_4
    )
    assert msgspec.json.decode(body).keys() == {"model", "messages", "system"}


def test_system_text_at_the_front_of_the_turns_is_the_system_text() -> None:
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    found = read({"model": "m", "messages": turns, "system": ""})
    assert found.system == (Text("a"),)
    assert found.messages == (Message("user", (Text("b"),)),)
    assert "late_system" not in found.spelled


def test_a_mark_on_the_whole_request_is_one_on_its_last_block() -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}]
    found = read({"model": "m", "messages": turns, "cache_control": {"type": "ephemeral"}})
    assert found.messages[0].content == (Text("a"), Text("b", "5m"))


@pytest.mark.parametrize(
    ("choice", "mode", "names", "parallel"),
    [
        ({"type": "auto"}, "auto", (), None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", (), False),
        ({"type": "tool", "name": "f"}, "required", ("f",), None),
        ({"type": "auto", "disable_parallel_tool_use": False}, "auto", (), None),
        ({"type": "none"}, "none", (), None),
    ],
)  # fmt: skip
def test_tool_choices_are_read(
    choice: Any, mode: Any, names: tuple[str, ...], parallel: bool | None
) -> None:
    found = read({"model": "m", "messages": [], "tool_choice": choice})
    assert found.tool_choice == ToolChoice(mode, names)
    assert found.parallel_tool_calls is parallel
    assert ("parallel_tool_calls" in found.spelled) is (parallel is False)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Reasoning(None, 2048, True)),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, Reasoning(None, -1, False)),
        ({"thinking": {"type": "disabled"}}, Reasoning(None, 0)),
        ({"output_config": {"effort": "max"}}, Reasoning("xhigh")),
        ({}, None),
    ],
)
def test_how_much_to_think_is_read(more: Any, expected: Reasoning | None) -> None:
    assert read({"model": "m", "messages": [], **more}).reasoning == expected


def test_what_only_this_format_knows_is_kept_as_it_came() -> None:
    server = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    file = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 1}
    turns = [{"role": "user", "content": [file]}, {"role": "assistant", "content": [server]}]
    found = read({"model": "m", "messages": turns, "tools": [search], "mcp_servers": [{"a": 1}]})
    (kept,) = found.messages[1].content
    assert isinstance(kept, Opaque)
    assert (kept.format, kept.kind) == (OURS, "server_tool_use")
    assert msgspec.json.decode(kept.json) == server
    opaque = found.tools[0].opaque
    assert opaque is not None
    assert msgspec.json.decode(opaque.json) == search
    spelled = dict(found.spelled)
    assert spelled["file_id"] == "messages.0.content"
    assert spelled["opaque_history"] == "messages.1.content"
    assert spelled["provider_tools"] == "tools.0.type"
    for feature in ("file_id", "opaque_history", "provider_tools"):
        assert DIALECT.support[feature] == "refused"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"{", None),
        (b'{"model":"m"}', None),
        (b'{"model":"m","messages":[{"role":"wizard","content":""}]}', "messages[0].role"),
        (b'{"messages":[],"max_tokens":"many"}', "max_tokens"),
        (b'{"messages":[{"role":"user","content":[{"type":"text"}]}]}', "messages.0.content"),
        (b'{"messages":[{"role":"user","content":[{"text":"x"}]}]}', "messages.0.content"),
        (b'{"messages":[{"role":"user","content":[7]}]}', "messages.0.content"),
        (b'{"messages":[],"tools":[{"description":"nameless"}]}', "tools.0"),
        (b'{"messages":[],"tool_choice":{"type":"tool"}}', "tool_choice"),
        (b'{"messages":[],"thinking":{"type":"enabled"}}', "thinking.budget_tokens"),
        (b'{"messages":[],"output_config":{"effort":"huge"}}', "output_config.effort"),
        (b'{"messages":[],"output_format":{"type":"xml","schema":{}}}', "output_format"),
    ],
)
def test_what_is_no_request_is_refused_by_its_field(body: bytes, param: str | None) -> None:
    with pytest.raises(GatewayError) as caught:
        DIALECT.read_request(body, model=None, stream=None)
    assert caught.value.code == "invalid_request"
    assert caught.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "role", "source", "input", "id", "name"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
TYPES = st.sampled_from(
    ["text", "tool_use", "tool_result", "image", "document", "thinking", "redacted_thinking", "x"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TYPES, st.dictionaries(st.text(max_size=5), JSON), JSON), max_size=3))
def test_no_request_and_no_answer_makes_a_reader_raise_anything_but_a_refusal(parts: Any) -> None:
    content = [{**more, "content": inner, "type": kind} for kind, more, inner in parts]
    document = {"model": "m", "messages": [{"role": "user", "content": content}]}
    refusal = None
    try:
        read(document)
    except GatewayError as error:
        refusal = error.code
    assert refusal in (None, "invalid_request")
    answer = {"type": "message", "content": content, "stop_reason": "end_turn"}
    assert DIALECT.read_answer(msgspec.json.encode(answer)) is not None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_a_reader_raise_anything_but_a_refusal(body: bytes) -> None:
    with pytest.raises(GatewayError):
        DIALECT.read_request(body, model=None, stream=None)
    assert DIALECT.read_answer(body) is None
    assert DIALECT.read_error(500, body).message


# --- writing requests -------------------------------------------------------------------------


def test_turns_are_merged_and_results_come_first() -> None:
    call, other = ToolCall("a", "f", '{"x":1}'), ToolCall("b", "f", "")
    body, _ = wrote(
        messages=(
            HELLO,
            Message("assistant", (Text("I look"), call)),
            Message("assistant", (other,)),
            Message("user", (Text("while you look"),)),
            Message("user", (ToolResult("a", (Text("1"),)),)),
            Message("user", (ToolResult("b", (), is_error=True),)),
        )
    )
    turns = body["messages"]
    assert [one["role"] for one in turns] == ["user", "assistant", "user"]
    assert [one["type"] for one in turns[1]["content"]] == ["text", "tool_use", "tool_use"]
    assert [one.get("input") for one in turns[1]["content"]] == [None, {"x": 1}, {}]
    assert [one["type"] for one in turns[2]["content"]] == ["tool_result", "tool_result", "text"]
    assert turns[2]["content"][1] == {"type": "tool_result", "tool_use_id": "b", "is_error": True}


def test_a_late_system_message_keeps_its_place_and_is_marked() -> None:
    body, _ = wrote(
        system=(Text("first"),),
        messages=(HELLO, Message("assistant", (Text("Hi"),)), Message("system", (Text("late"),))),
    )
    assert body["system"] == [{"type": "text", "text": "first"}]
    assert body["messages"][2] == {
        "role": "user", "content": [{"type": "text", "text": "<system>\nlate\n</system>"}],
    }  # fmt: skip


def test_empty_text_is_left_out_and_a_prefill_does_not_end_in_blanks() -> None:
    body, _ = wrote(
        messages=(
            Message("user", (Text(""), Text(" \n"), Text("x"))),
            Message("user", (Text(""),)),
            Message("assistant", (Text("The answer is: \n"),)),
        )
    )
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "The answer is:"}]},
    ]


def test_max_tokens_is_the_callers_or_the_models() -> None:
    assert wrote(max_output_tokens=7)[0]["max_tokens"] == 7
    assert wrote()[0]["max_tokens"] == 64000
    assert wrote(Toward("unheard-of", "other"))[0]["max_tokens"] == 4096


def test_arguments_are_spliced_in_as_they_were_written() -> None:
    spelled = '{"b": 1.10, "a": [1.0e5, 123456789012345678901234567890]}'
    request = msgspec.structs.replace(
        PLAIN, messages=(HELLO, Message("assistant", (ToolCall("c", "f", spelled),)))
    )
    assert spelled.encode() in DIALECT.write_request(request, SONNET_4)[0]


@pytest.mark.parametrize("arguments", ['{"a": "cut', "[1]", "null", '"text"', "plain"])
def test_history_with_arguments_that_are_no_object_is_refused(arguments: str) -> None:
    turns = (HELLO, Message("assistant", (ToolCall("c", "f", arguments),)))
    assert refused(messages=turns) == "messages"
    assert refused(messages=turns, format="openai_responses") == "input"


def test_ids_are_spelled_so_that_they_are_taken_and_come_back() -> None:
    odd = "functions.weather:0"
    body, _ = wrote(
        messages=(
            HELLO,
            Message("assistant", (ToolCall(odd, "f", ""),)),
            Message("user", (ToolResult(odd, (Text("1"),)),)),
        )
    )
    sent = body["messages"][1]["content"][0]["id"]
    assert sent == body["messages"][2]["content"][0]["tool_use_id"] == call_ids.safe(odd)
    again = read(body)
    assert isinstance(again.messages[1].content[0], ToolCall)
    assert again.messages[1].content[0].id == odd


def test_only_thoughts_that_were_signed_here_go_back() -> None:
    own = Thinking("mine", Signature(OURS, "c2ln"))
    hidden = Thinking("", Signature(OURS, "Emw"), redacted=True)
    foreign = Thinking("theirs", Signature("gemini", "x"))
    turns = (HELLO, Message("assistant", (own, hidden, foreign, Thinking("bare"), Text("Hi"))))
    spelled: dict[Feature, str] = {"thinking_history": "messages[1].reasoning"}
    body, ignored = wrote(messages=(*turns, HELLO), spelled=spelled)
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "mine", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "Emw"},
        {"type": "text", "text": "Hi"},
    ]
    assert ignored == ["messages[1].reasoning"]


def test_a_foreign_signature_of_a_call_is_left_out_and_told() -> None:
    spelled: dict[Feature, str] = {"thinking_history": "contents.parts.thoughtSignature"}
    call = ToolCall("c", "f", "{}", signature=Signature("gemini", "x"))
    body, ignored = wrote(messages=(HELLO, Message("assistant", (call,))), spelled=spelled)
    assert body["messages"][1]["content"] == [
        {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    ]
    assert ignored == ["contents.parts.thoughtSignature"]


def test_media_take_the_shapes_of_this_format() -> None:
    plain = base64.b64encode(b"a,b\n").decode()
    body, _ = wrote(
        messages=(
            Message(
                "user",
                (
                    Image("image/png", "iVBO", cache="5m"),
                    Image(url="https://example.com/a.png"),
                    Document("application/pdf", "JVBE", name="a.pdf"),
                    Document("text/csv", plain),
                    Document(text="words"),
                    Document(url="https://example.com/a.pdf"),
                ),
            ),
        )
    )
    blocks = body["messages"][0]["content"]
    assert [one["source"] for one in blocks] == [
        {"type": "base64", "media_type": "image/png", "data": "iVBO"},
        {"type": "url", "url": "https://example.com/a.png"},
        {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
        {"type": "text", "media_type": "text/plain", "data": "a,b\n"},
        {"type": "text", "media_type": "text/plain", "data": "words"},
        {"type": "url", "url": "https://example.com/a.pdf"},
    ]
    assert blocks[0]["cache_control"] == {"type": "ephemeral"}
    assert blocks[2]["title"] == "a.pdf"


@pytest.mark.parametrize(
    ("block", "feature"),
    [
        (Audio("audio/wav", "UklG"), "audio"),
        (Document("application/zip", "UEsD"), "document_data"),
        (Document("text/plain", "/w=="), "document_data"),
        (Image(data="iVBO"), "image_data"),
        (Opaque("openai_responses", b"{}", "web_search_call"), "opaque_history"),
    ],
)
def test_what_has_no_place_is_refused_by_the_callers_field(block: Block, feature: Feature) -> None:
    field = f"messages[0].{feature}"
    for turn in (block, ToolResult("c", (block,))):
        turns = (Message("user", (turn,)),)
        assert refused(messages=turns, spelled={feature: field}) == field


def test_tools_have_a_schema_with_a_type_and_their_choice() -> None:
    tools = (
        Tool("plain"),
        Tool("typed", "d", b'{"type":"object","properties":{"n":{"maximum":1.10}}}', strict=True),
        Tool("bare", schema=b' {"properties":{}}', cache="1h"),
        Tool("empty", schema=b"{}", strict=False),
    )
    body, ignored = wrote(
        OPUS_4_8,
        tools=tools, tool_choice=ToolChoice("required", ("bare",)), parallel_tool_calls=False,
    )  # fmt: skip
    assert [one["input_schema"]["type"] for one in body["tools"]] == ["object"] * 4
    assert [one.get("strict") for one in body["tools"]] == [None, True, None, None]
    assert body["tools"][2]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert body["tool_choice"] == {
        "type": "tool",
        "name": "bare",
        "disable_parallel_tool_use": True,
    }
    assert ignored == ["tools.maximum"]


def test_a_choice_among_several_leaves_the_others_out() -> None:
    tools = (Tool("a"), Tool("b"), Tool("c"))
    body, _ = wrote(tools=tools, tool_choice=ToolChoice("required", ("a", "c")))
    assert [one["name"] for one in body["tools"]] == ["a", "c"]
    assert body["tool_choice"] == {"type": "any"}
    body, _ = wrote(tools=tools, tool_choice=ToolChoice("auto", ("b",)))
    assert [one["name"] for one in body["tools"]] == ["b"]
    assert body["tool_choice"] == {"type": "auto"}
    body, _ = wrote(tools=tools, tool_choice=ToolChoice("none"), parallel_tool_calls=False)
    assert body["tool_choice"] == {"type": "none"}
    assert "tool_choice" not in wrote(tool_choice=ToolChoice("auto"))[0]


def test_strictness_is_told_as_ignored_where_models_do_not_know_it() -> None:
    spelled: dict[Feature, str] = {"strict_tools": "tools[0].function.strict"}
    body, ignored = wrote(tools=(Tool("a", strict=True),), spelled=spelled)
    assert "strict" not in body["tools"][0]
    assert ignored == ["tools[0].function.strict"]


def test_tools_of_another_kind_are_refused() -> None:
    spelled: dict[Feature, str] = {"provider_tools": "tools[0]"}
    search = Tool("s", opaque=Opaque("gemini", b"{}", "googleSearch"))
    assert refused(tools=(search,), spelled=spelled) == "tools[0]"


def test_a_schema_for_the_output_keeps_its_description() -> None:
    wanted = OutputFormat(b'{"type":"object","properties":{}}', "person", "A person", True)
    body, _ = wrote(OPUS_4_8, output=wanted)
    schema: dict[str, object] = {"description": "A person", "type": "object", "properties": {}}
    # Anthropic refuses an output schema whose objects are open.
    schema["additionalProperties"] = False
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    spelled: dict[Feature, str] = {"json_object": "response_format"}
    assert refused(output=OutputFormat(), spelled=spelled) == "response_format"


def test_a_blank_stop_sequence_is_refused() -> None:
    assert wrote(stop=("a", "b"))[0]["stop_sequences"] == ["a", "b"]
    assert "stop_sequences" not in wrote()[0]
    assert refused(stop=("a", "\n"), spelled={"stop": "stop"}) == "stop"


def test_hints_are_sent_where_they_fit_and_told_where_they_do_not() -> None:
    spelled: dict[Feature, str] = {"user": "user", "prompt_cache": "prompt_cache_key"}
    body, ignored = wrote(user="u-1", spelled=spelled)
    assert body["metadata"] == {"user_id": "u-1"}
    assert ignored == ["prompt_cache_key"]
    body, ignored = wrote(user="u" * 300, spelled=spelled)
    assert "metadata" not in body
    assert ignored == ["user", "prompt_cache_key"]


# --- thinking and sampling --------------------------------------------------------------------


def thinking(toward: Toward, wanted: Reasoning, **more: Any) -> tuple[Any, Any, list[str]]:
    spelled: dict[Feature, str] = {"reasoning": "reasoning_effort", "top_k": "topK"}
    body, ignored = wrote(toward, reasoning=wanted, spelled=spelled, **more)
    return body.get("thinking"), body.get("output_config"), ignored


def enabled(budget: int) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": budget}


@pytest.mark.parametrize(
    ("model", "wanted", "expected"),
    [
        ("claude-3-5-haiku-20241022", Reasoning("high"), (None, None)),
        ("claude-3-7-sonnet-latest", Reasoning("high"), (enabled(16384), None)),
        ("claude-sonnet-4-20250514", Reasoning("low"), (enabled(2048), None)),
        ("claude-sonnet-4@20250514", Reasoning(None, 5000), (enabled(5000), None)),
        ("claude-opus-4-5-20251101", Reasoning("minimal"), (enabled(1024), None)),
        ("claude-haiku-4-5", Reasoning("none"), (None, None)),
        ("claude-sonnet-4-6", Reasoning(None, 5000), (enabled(5000), None)),
        ("claude-sonnet-4-6", Reasoning("xhigh"), ({"type": "adaptive"}, "high")),
        ("claude-opus-4-6", Reasoning(None, 0), ({"type": "disabled"}, None)),
        ("claude-opus-4-8", Reasoning("xhigh"), ({"type": "adaptive"}, "xhigh")),
        ("claude-opus-4-7", Reasoning(None, -1), ({"type": "adaptive"}, None)),
        ("claude-sonnet-5", Reasoning(None, 4000), ({"type": "adaptive"}, "medium")),
        ("claude-fable-5", Reasoning("minimal"), ({"type": "adaptive"}, "low")),
        ("claude-mythos-preview", Reasoning("none"), (None, None)),
        ("kimi-k2", Reasoning("medium"), (enabled(8192), None)),
    ],
)
def test_each_generation_is_asked_to_think_in_its_own_way(
    model: str, wanted: Reasoning, expected: tuple[Any, str | None]
) -> None:
    found, config, ignored = thinking(Toward(model, "anthropic", 64000), wanted)
    assert found == expected[0]
    assert config == (None if expected[1] is None else {"effort": expected[1]})
    lost = model in ("claude-3-5-haiku-20241022", "claude-mythos-preview", "claude-sonnet-5")
    assert ignored == (["reasoning_effort"] if lost else [])


def test_a_budget_stays_below_the_limit_of_the_answer() -> None:
    assert thinking(SONNET_4, Reasoning("high"), max_output_tokens=4000) == (
        enabled(3000),
        None,
        [],
    )
    found, _, ignored = thinking(SONNET_4, Reasoning(None, 9000), max_output_tokens=4000)
    assert found == enabled(3000)
    assert ignored == ["reasoning_effort"]
    found, _, ignored = thinking(SONNET_4, Reasoning(None, 512), max_output_tokens=1024)
    assert found is None
    assert ignored == ["reasoning_effort"]


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0.2},
        {"top_p": 0.5},
        {"tools": (Tool("f"),), "tool_choice": ToolChoice("required")},
        {
            "tools": (Tool("f"),),
            "messages": (
                HELLO,
                Message("assistant", (ToolCall("c", "f", ""),)),
                Message("user", (ToolResult("c", (Text("1"),)),)),
            ),
        },
    ],
)
def test_thinking_gives_way_to_what_it_does_not_go_with_and_that_is_told(more: Any) -> None:
    found, _, ignored = thinking(SONNET_4, Reasoning("low"), **more)
    assert found is None
    assert ignored == ["reasoning_effort"]


def test_a_tool_turn_with_its_signed_thoughts_thinks_on() -> None:
    turn = (Thinking("t", Signature(OURS, "s")), ToolCall("c", "f", ""))
    turns = (HELLO, Message("assistant", turn), Message("user", (ToolResult("c", ()),)))
    found, _, ignored = thinking(SONNET_4, Reasoning("low"), messages=turns)
    assert found == enabled(2048)
    assert not ignored
    bare = (HELLO, Message("assistant", turn[1:]), Message("user", (ToolResult("c", ()),)))
    assert thinking(OPUS_4_8, Reasoning("low"), messages=bare)[0] == {"type": "adaptive"}


def test_top_k_gives_way_to_thinking_and_that_is_told() -> None:
    body, ignored = wrote(
        SONNET_4, reasoning=Reasoning("low"), top_k=64, top_p=0.95, temperature=1,
        spelled={"top_k": "generationConfig.topK"},
    )  # fmt: skip
    assert "top_k" not in body
    assert "temperature" not in body
    assert body["top_p"] == 0.95
    assert ignored == ["generationConfig.topK"]
    assert wrote(top_k=64)[0]["top_k"] == 64


def test_temperature_above_one_is_refused_not_clamped() -> None:
    assert wrote(temperature=0.7)[0]["temperature"] == 0.7
    assert refused(temperature=1.5, spelled={"temperature": "temperature"}) == "temperature"


def test_models_that_take_one_of_temperature_and_top_p_are_not_sent_both() -> None:
    both = {"temperature": 0.5, "top_p": 0.9, "spelled": {"top_p": "top_p"}}
    assert wrote(SONNET_4, **both)[0]["top_p"] == 0.9
    assert refused(Toward("claude-sonnet-4-5", "anthropic"), **both) == "top_p"
    body, _ = wrote(Toward("claude-sonnet-4-5", "anthropic"), temperature=0.5, top_p=1)
    assert "top_p" not in body


# --- answers ----------------------------------------------------------------------------------


def answer(*content: Block, stop: StopReason = "end", **more: Any) -> Answer:
    usage = Usage(input_tokens=100, output_tokens=9, cache_read_input_tokens=60)
    return Answer(id="x", model="y", choices=(Choice(content, stop),), usage=usage, **more)


def written(found: Answer) -> dict[str, Any]:
    """The answer's document; the SDK reads it."""
    body = DIALECT.write_answer(found, asked())
    seen = read_answer(OURS, body)
    assert seen.model == "premium"
    return msgspec.json.decode(body, type=dict[str, Any])


def test_an_answer_has_this_formats_shape() -> None:
    found = written(answer(Text("Hi"), ToolCall("c.1", "f", '{"a":1.10}'), stop="tool_call"))
    assert found == {
        "id": "msg_0199abcd", "type": "message", "role": "assistant", "model": "premium",
        "content": [
            {"type": "text", "text": "Hi"},
            {"type": "tool_use", "id": call_ids.safe("c.1"), "name": "f", "input": {"a": 1.1}},
        ],
        "stop_reason": "tool_use", "stop_sequence": None,
        "usage": {
            "input_tokens": 40, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 60,
            "output_tokens": 9,
        },
    }  # fmt: skip
    assert b"1.10" in DIALECT.write_answer(answer(ToolCall("c", "f", '{"a":1.10}')), asked())


def test_usage_never_goes_below_zero_and_keeps_its_parts() -> None:
    usage = Usage(
        input_tokens=50, output_tokens=9, cache_read_input_tokens=60,
        cache_creation_input_tokens=5, cache_write_5m=2, cache_write_1h=3, reasoning_tokens=4,
        server_tool_requests={"web_search_requests": 2},
    )  # fmt: skip
    found = written(msgspec.structs.replace(answer(Text("x")), usage=usage))["usage"]
    assert found["input_tokens"] == 0
    assert found["cache_creation"] == {
        "ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3,
    }  # fmt: skip
    assert found["output_tokens_details"] == {"thinking_tokens": 4}
    assert found["server_tool_use"] == {"web_search_requests": 2, "web_fetch_requests": 0}


def test_a_cut_call_is_not_given_and_the_answer_ends_for_want_of_tokens() -> None:
    found = written(answer(Text("Hi"), ToolCall("c", "f", '{"a":"cu'), stop="tool_call"))
    assert [one["type"] for one in found["content"]] == ["text"]
    assert found["stop_reason"] == "max_tokens"


def test_a_refusal_is_text_and_its_reason() -> None:
    found = written(answer(Refusal("I will not")))
    assert found["content"] == [{"type": "text", "text": "I will not"}]
    assert found["stop_reason"] == "refusal"
    assert found["stop_details"]["type"] == "refusal"


def test_a_stop_sequence_is_named_only_where_it_was_the_reason() -> None:
    choice = Choice((Text("x"),), "stop_sequence", "END")
    found = written(msgspec.structs.replace(answer(), choices=(choice,)))
    assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", "END")


def test_citations_are_of_the_text_before_them() -> None:
    cited = Citation("https://example.com", "T", "quoted", 0, 3)
    found = written(answer(Text("abc"), cited, Citation(title="no address"), Text("d")))
    assert [len(one.get("citations", ())) for one in found["content"]] == [1, 0]
    assert found["content"][0]["citations"][0]["url"] == "https://example.com"
    again = DIALECT.read_answer(msgspec.json.encode(found))
    assert again is not None
    back = again.choices[0].content
    assert back == (Text("abc"), Citation("https://example.com", "T", "quoted"), Text("d"))


FOREIGN = Signature("gemini", "Ci+/=.9")


@pytest.mark.parametrize(
    "content",
    [
        (Thinking("why", FOREIGN), Text("Hi")),
        (Thinking("", Signature("openai_responses", "enc"), redacted=True), Text("Hi")),
        (ToolCall("c", "f", "{}", signature=FOREIGN), ToolCall("d", "f", "{}")),
        (Text("Hi"), ToolCall("c", "f", "{}"), ToolCall("d", "f", "{}", signature=FOREIGN)),
    ],
)
def test_another_providers_state_goes_to_the_client_and_comes_back(
    content: tuple[Block, ...],
) -> None:
    found = written(answer(*content))
    turn = {"role": "assistant", "content": found["content"]}
    again = read({"model": "m", "messages": [turn]})
    assert again.messages[0].content == content


def test_what_an_answer_has_no_place_for_does_not_break_it() -> None:
    strange = Opaque("openai_responses", b'{"type":"web_search_call"}', "web_search_call")
    sound = Audio("audio/wav", "UklG", "spoken")
    found = written(answer(strange, Image("image/png", "iVBO"), sound, Text(""), Thinking("")))
    assert found["content"] == [{"type": "text", "text": "spoken"}]


@pytest.mark.parametrize(
    ("reason", "calls", "stop"),
    [
        ("end_turn", True, "tool_call"), ("tool_use", True, "tool_call"),
        ("tool_use", False, "end"), ("max_tokens", True, "max_tokens"),
        ("model_context_window_exceeded", False, "max_tokens"), ("pause_turn", False, "pause"),
        ("refusal", False, "refusal"), ("new_reason", False, "end"),
    ],
)  # fmt: skip
def test_the_content_tells_of_calls_whatever_the_reason_says(
    reason: str, calls: bool, stop: StopReason
) -> None:
    content = [{"type": "tool_use", "id": "a", "name": "f", "input": {}}] if calls else []
    document = {"type": "message", "content": content, "stop_reason": reason}
    found = DIALECT.read_answer(msgspec.json.encode(document))
    assert found is not None
    assert found.choices[0].stop == stop


def test_an_answer_without_a_reason_or_with_an_error_is_none() -> None:
    found = DIALECT.read_answer(b'{"type":"message","content":[],"stop_reason":null}')
    assert found is not None
    assert found.error is not None
    assert not found.choices
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    found = DIALECT.read_answer(body)
    assert found is not None
    assert found.error is not None
    assert (found.error.type, found.error.message) == ("overloaded_error", "Overloaded")
    assert DIALECT.read_answer(b'{"choices":[]}') is None
    assert DIALECT.read_answer(b'"text"') is None


def test_half_a_surrogate_pair_does_not_cost_the_answer() -> None:
    body = rb'{"content":[{"type":"text","text":"a\ud83d"}],"stop_reason":"end_turn"}'
    found = DIALECT.read_answer(body)
    assert found is not None
    assert found.choices[0].content == (Text("a�"),)


@pytest.mark.parametrize(
    ("body", "message", "kind", "code"),
    [
        (b'{"type":"error","error":{"type":"a_error","message":"m"}}', "m", "a_error", None),
        (b'{"error":{"message":"prompt is too long: 9 tokens > 8 maximum"}}',
         "prompt is too long: 9 tokens > 8 maximum", None, "context_length_exceeded"),
        (b'{"detail":"d"}', "d", None, None),
        (b'{"error":"text"}', "text", None, None),
        (b'{"object":"error","message":"m","code":3051}', "m", None, "3051"),
        (b'{"error":{}}', "HTTP 502", None, None),
        (b'{"detail":[{"loc":["body"]}]}', '[{"loc":["body"]}]', None, None),
        (b"<html>Bad gateway</html>", "HTTP 502", None, None),
        (b"upstream connect error", "upstream connect error", None, None),
        (b"", "HTTP 502", None, None),
        (b"[1]", "HTTP 502", None, None),
    ],
)  # fmt: skip
def test_errors_are_read_whatever_their_shape(
    body: bytes, message: str, kind: str | None, code: str | None
) -> None:
    found = DIALECT.read_error(502, body)
    assert (found.message, found.type, found.code) == (message, kind, code)
