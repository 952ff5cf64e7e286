"""Gemini's dialect, rule by rule: what is read, what is written, what is refused."""

import base64
import contextlib
from collections.abc import Mapping
from typing import Any, get_args

import msgspec
import pytest
from gemini_records import choices_of, collect
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.wire.conversation import (
    Answer,
    AnswerError,
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
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.wire.events import (
    Event,
    Finish,
    StreamError,
    Truncated,
    check_grammar,
)
from gateway.wire.format import Asked, Toward
from gateway.wire.gemini_dialect import DIALECT
from gateway.wire.gemini_outgoing import SKIP_VALIDATION
from gateway.wire.neutral import Usage

GEMINI_3 = Toward("gemini-3-pro-preview", "google")
GEMINI_2 = Toward("gemini-2.5-flash", "google")
ASKED = Asked(Request(format="gemini", model="g", stream=True), "alias", "id-1", 1_790_000_000)
HELLO = {"role": "user", "parts": [{"text": "hello"}]}


def read(**members: Any) -> Request:
    body = msgspec.json.encode({"contents": [HELLO], **members})
    return DIALECT.read_request(body, model="g", stream=False)


def said(*messages: Message, toward: Toward = GEMINI_3, **members: Any) -> dict[str, Any]:
    """A request of another format's, written, and held to the SDK's types."""
    request = Request(
        format=members.pop("format", "openai_chat"),
        model="alias",
        stream=False,
        messages=messages or (Message("user", (Text("hello"),)),),
        **members,
    )
    written, _ = DIALECT.write_request(request, toward)
    return valid(msgspec.json.decode(written))


def valid(document: dict[str, Any]) -> dict[str, Any]:
    for content in document["contents"]:
        types.Content.model_validate(content)
    for tool in document.get("tools", ()):
        types.Tool.model_validate(tool)
    if "systemInstruction" in document:
        types.Content.model_validate(document["systemInstruction"])
    types.ToolConfig.model_validate(document.get("toolConfig", {}))
    types.GenerationConfig.model_validate(document.get("generationConfig", {}))
    return document


def ignored(*messages: Message, toward: Toward = GEMINI_3, **members: Any) -> list[str]:
    request = Request(format="openai_chat", model="a", stream=False, messages=messages, **members)
    return DIALECT.write_request(request, toward)[1]


def answer(*blocks: Block, stop: Any = "end", usage: Usage | None = None) -> dict[str, Any]:
    whole = Answer(id="x", model="m", choices=(Choice(blocks, stop),), usage=usage)
    document: dict[str, Any] = msgspec.json.decode(DIALECT.write_answer(whole, ASKED))
    types.GenerateContentResponse.model_validate(document)
    return document


def parts_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = document["candidates"][0]["content"].get("parts", [])
    return parts


def calls(*blocks: Block) -> tuple[Message, ...]:
    return (Message("user", (Text("go"),)), Message("assistant", blocks))


# -- Requests read ---------------------------------------------------------------------------------


def test_every_feature_has_its_place_in_the_table() -> None:
    assert set(DIALECT.support) == set(get_args(Feature))


def test_snake_case_and_camel_case_say_the_same() -> None:
    camel = {
        "systemInstruction": {"parts": [{"text": "be short"}]},
        "generationConfig": {
            "topK": 4, "maxOutputTokens": 9, "stopSequences": ["a"],
            "thinkingConfig": {"thinkingBudget": 7, "includeThoughts": True},
        },
        "tools": [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": {"a_b": 1}}]}],
        "toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["f"], "mode": "ANY"}},
    }  # fmt: skip
    snake = {
        "system_instruction": {"parts": {"text": "be short"}},
        "generation_config": {
            "top_k": "4", "max_output_tokens": 9.0, "stop_sequences": ["a"],
            "thinking_config": {"thinking_budget": 7, "include_thoughts": True},
        },
        "tools": {"function_declarations": [{"name": "f", "parameters_json_schema": {"a_b": 1}}]},
        "tool_config": {
            "function_calling_config": {"allowed_function_names": ["f"], "mode": "ANY"}
        },
    }  # fmt: skip
    one, other = read(**camel), read(**snake)
    assert msgspec.structs.replace(one, spelled={}) == msgspec.structs.replace(other, spelled={})
    assert one.tools[0].schema == b'{"a_b":1}'
    assert one.top_k == 4
    assert one.spelled["top_k"] == "generationConfig.topK"
    assert other.spelled["top_k"] == "generation_config.top_k"
    assert other.spelled["tool_choice"] == "tool_config.function_calling_config"


def test_unknown_fields_are_named_and_the_rest_is_read() -> None:
    found = read(
        generationConfig={"temperature": 1.5, "warp": 9, "nothing": None},
        contents=[{"parts": [{"text": "a", "glow": 1}], "role": "user"}],
        frobnicate=True,
    )
    assert set(found.unknown) == {"generationConfig.warp", "contents.parts.glow", "frobnicate"}
    assert found.messages[0].content == (Text("a"),)
    assert found.temperature == 1.5
    assert found.spelled["temperature_above_1"] == "generationConfig.temperature"


def test_a_part_of_an_unknown_kind_is_kept_for_gemini_alone() -> None:
    found = read(contents=[{"parts": [{"newThing": {"x": 1}}]}])
    (block,) = found.messages[0].content
    assert isinstance(block, Opaque)
    assert msgspec.json.decode(block.json) == {"newThing": {"x": 1}}
    assert found.spelled["opaque_history"] == "contents.parts"
    written = msgspec.json.decode(DIALECT.write_request(found, GEMINI_3)[0])
    assert written["contents"][0]["parts"] == [{"newThing": {"x": 1}}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"{", None),
        (b'{"contents":[{"parts":[{"text":"\xff"}]}]}', None),
        (b'{"contents":[]}', "contents"),
        (b'{"contents":[{"role":"system","parts":[{"text":"a"}]}]}', "contents.role"),
        (b'{"contents":[{"parts":[{"text":5}]}]}', "contents.parts.text"),
        (b'{"contents":[{"parts":[{"text":"a","thought_signature":{}}]}]}',
         "contents.parts.thoughtSignature"),
        (b'{"contents":[{}],"generationConfig":{"topK":1,"top_k":2}}', "topK"),
        (b'{"contents":[{}],"generationConfig":{"candidateCount":0}}',
         "generationConfig.candidateCount"),
        (b'{"contents":[{}],"toolConfig":{"functionCallingConfig":{"mode":"MAYBE"}}}',
         "toolConfig.functionCallingConfig.mode"),
        (b'{"contents":[{}],"tools":[{"functionDeclarations":[{"name":1}]}]}',
         "tools.functionDeclarations.name"),
        (b'{"contents":[{}],"generationConfig":{"thinkingConfig":{"thinkingLevel":"TOTAL"}}}',
         "generationConfig.thinkingConfig.thinkingLevel"),
        (b'{"contents":5,"tools":x}', None),
        (b'{"contents":' + b"[" * 5000 + b"]" * 5000 + b"}", None),
    ],
)  # fmt: skip
def test_bodies_that_make_no_sense_are_refused_by_field(body: bytes, param: str | None) -> None:
    with pytest.raises(GatewayError) as refused:
        DIALECT.read_request(body, model="g", stream=False)
    assert refused.value.code == "invalid_request"
    assert refused.value.param == param or param is None


@given(
    st.binary(max_size=200) | st.text(max_size=60).map(lambda one: one.encode("utf-8", "replace"))
)
def test_no_bytes_make_the_readers_raise_anything_else(body: bytes) -> None:
    with contextlib.suppress(GatewayError):
        DIALECT.read_request(body, model="g", stream=False)
    DIALECT.read_answer(body)
    DIALECT.read_error(500, body)
    for framed in (body, b"data: " + body + b"\n\n", b"[" + body):
        reader = DIALECT.reader()
        events = reader.feed(framed)
        with contextlib.suppress(Truncated):
            events += reader.eof()
        check_grammar(events)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["contents", "parts", "text", "role", "functionCall", "function_call", "name", "args",
             "candidates", "content", "finishReason", "index", "usageMetadata", "error", "tools",
             "promptFeedback", "blockReason", "thoughtSignature", "groundingMetadata",
             "functionDeclarations", "functionResponse", "response", "inlineData", "mimeType",
             "data", "fileData", "fileUri", "parameters", "generationConfig", "responseSchema",
             "groundingChunks", "groundingSupports", "segment", "endIndex"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@given(JSON)
def test_no_json_makes_the_readers_raise_anything_else(value: object) -> None:
    test_no_bytes_make_the_readers_raise_anything_else.hypothesis.inner_test(  # type: ignore[attr-defined]
        msgspec.json.encode(value)
    )


def test_calls_without_ids_get_some_and_results_find_theirs_by_name_and_order() -> None:
    def call(name: str, **more: Any) -> dict[str, Any]:
        return {"functionCall": {"name": name, "args": {}, **more}}

    def result(name: str, text: str, **more: Any) -> dict[str, Any]:
        return {"functionResponse": {"name": name, "response": {"output": text}, **more}}

    found = read(
        contents=[
            HELLO,
            {"role": "model", "parts": [call("f"), call("g"), call("f"), call("f", id="own")]},
            {"role": "user", "parts": [result("f", "1"), result("f", "3", id="own"),
                                       result("f", "2"), result("g", "4"), result("h", "5")]},
        ]
    )  # fmt: skip
    made = [one.id for one in found.messages[1].content if isinstance(one, ToolCall)]
    assert len(set(made)) == 4
    assert made[3] == "own"
    results = [one for one in found.messages[2].content if isinstance(one, ToolResult)]
    assert [one.call_id for one in results[:4]] == [made[0], "own", made[2], made[1]]
    assert results[4].call_id not in made
    assert [one.content for one in results[:2]] == [(Text("1"),), (Text("3"),)]


def test_results_are_what_google_says_they_are() -> None:
    def result(response: Any) -> ToolResult:
        part = {"functionResponse": {"name": "f", "response": response}}
        (block,) = read(contents=[{"role": "function", "parts": [part]}]).messages[0].content
        assert isinstance(block, ToolResult)
        return block

    assert result({"output": "fine"}).content == (Text("fine"),)
    assert not result({"output": "fine"}).is_error
    assert result({"error": "broken"}).is_error
    assert result({"error": "broken"}).content == (Text("broken"),)
    assert result({"result": 20}).content == (Text('{"result":20}'),)
    assert result({}).content == ()


def test_schemas_of_openapi_become_json_schema() -> None:
    schema = {
        "type": "OBJECT",
        "propertyOrdering": ["a"],
        "properties": {
            "a": {"type": "STRING", "nullable": True, "format": "enum", "enum": ["x"]},
            "min_items": {"type": "ARRAY", "min_items": "2", "items": {"type": "INTEGER"}},
            "b": {"any_of": [{"type": "NUMBER", "format": "float"}], "nullable": True},
        },
        "required": ["a"],
    }
    found = read(
        tools=[{"functionDeclarations": [{"name": "f", "parameters": schema}]}],
        generationConfig={"responseSchema": schema, "responseMimeType": "application/json"},
    )
    expected = {
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"], "enum": ["x", None]},
            "min_items": {"type": "array", "minItems": 2, "items": {"type": "integer"}},
            "b": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        },
        "required": ["a"],
    }
    assert found.tools[0].schema is not None
    assert msgspec.json.decode(found.tools[0].schema) == expected
    assert found.output is not None
    assert found.output.schema is not None
    assert msgspec.json.decode(found.output.schema) == expected
    assert found.spelled["json_schema"] == "generationConfig.responseSchema"


def test_media_are_told_apart_by_type_and_by_who_can_fetch_them() -> None:
    plain = base64.b64encode(b"text").decode()
    found = read(
        contents=[
            {"parts": [
                {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
                {"inline_data": {"mime_type": "audio/wav", "data": "AA=="}},
                {"inlineData": {"mimeType": "application/pdf", "data": "AA=="}},
                {"inlineData": {"mimeType": "text/plain", "data": plain}},
                {"fileData": {"fileUri": "https://example.com/a.webp"}},
                {"fileData": {"fileUri": "https://youtu.be/x", "mimeType": "video/mp4"}},
                {"fileData": {"fileUri": "gs://bucket/a.png", "mimeType": "image/png"}},
                {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/1",
                              "mimeType": "application/pdf"}},
            ]}
        ]
    )  # fmt: skip
    blocks = found.messages[0].content
    assert blocks[:5] == (
        Image("image/png", "AA=="),
        Audio("audio/wav", "AA=="),
        Document("application/pdf", "AA=="),
        Document(text="text"),
        Image(None, url="https://example.com/a.webp"),
    )
    assert [type(one) for one in blocks[5:]] == [Opaque, Opaque, Opaque]
    for feature in ("image_data", "audio", "document_data", "document_text", "image_url", "video"):
        assert feature in found.spelled
    assert found.spelled["file_id"] == "contents.parts.fileData"
    assert "opaque_history" not in found.spelled


def test_urls_tell_what_they_are_by_their_ending() -> None:
    def linked(uri: str) -> object:
        part = {"fileData": {"fileUri": uri}}
        return read(contents=[{"parts": [part]}]).messages[0].content[0]

    assert linked("HTTPS://u:p@Example.com:8/a.b/c.JPG?x=y.pdf") == Image(
        url="HTTPS://u:p@Example.com:8/a.b/c.JPG?x=y.pdf"
    )
    assert linked("http://example.com/a.pdf#1") == Document(url="http://example.com/a.pdf#1")
    for uri in (
        "http://example.com/a",
        "https://www.youtube.com/a.png",
        "files/a.png",
        "x://a.png",
    ):
        assert isinstance(linked(uri), Opaque), uri


@pytest.mark.parametrize(
    ("calling", "choice"),
    [
        ({}, ToolChoice("auto")),
        ({"mode": "any"}, ToolChoice("required")),
        ({"mode": "ANY", "allowedFunctionNames": ["f"]}, ToolChoice("required", ("f",))),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["f"]}, ToolChoice("auto", ("f",))),
        ({"mode": "NONE"}, ToolChoice("none")),
    ],
)
def test_modes_of_calling_are_choices(calling: Any, choice: ToolChoice) -> None:
    found = read(toolConfig={"functionCallingConfig": calling})
    assert found.tool_choice == choice


def test_what_has_no_place_is_named_as_the_caller_spells_it() -> None:
    found = read(
        safetySettings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        cachedContent="cachedContents/1",
        tools=[{"googleSearch": {}}, {"code_execution": {}}],
        generationConfig={"responseLogprobs": True, "logprobs": 3, "mediaResolution": "LOW",
                          "responseModalities": ["TEXT", "IMAGE"], "speechConfig": {}},
        labels={"a": "b"},
    )  # fmt: skip
    assert found.spelled["safety_settings"] == "safetySettings"
    assert found.spelled["stored_state"] == "cachedContent"
    assert found.spelled["provider_tools"] == "tools.code_execution"
    assert found.spelled["logprobs"] == "generationConfig.responseLogprobs"
    assert found.spelled["audio_output"] == "generationConfig.speechConfig"
    assert "image_output" in found.spelled
    assert found.top_logprobs == 3
    assert found.metadata == {"a": "b"}
    assert [tool.name for tool in found.tools] == ["googleSearch", "codeExecution"]
    assert "safety_settings" not in read(safetySettings=[]).spelled


# -- Requests written ------------------------------------------------------------------------------


def test_results_stand_in_a_turn_of_their_own_in_front_of_what_else_is_said() -> None:
    document = said(
        *calls(ToolCall("a", "f", '{"x": 1.10}'), ToolCall("b", "g", "")),
        Message("user", (Text("and"), ToolResult("a", (Text("one"),)))),
        Message("user", (ToolResult("b", (Text('{"k":[1]}'),)), Text("then"))),
    )
    assert [one["role"] for one in document["contents"]] == ["user", "model", "user", "user"]
    results = document["contents"][2]["parts"]
    assert [one["functionResponse"]["name"] for one in results] == ["f", "g"]
    assert [one["functionResponse"]["response"] for one in results] == [
        {"output": "one"}, {"k": [1]},
    ]  # fmt: skip
    assert [one["text"] for one in document["contents"][3]["parts"]] == ["and", "then"]
    assert document["contents"][1]["parts"][1]["functionCall"]["args"] == {}


def test_arguments_and_schemas_keep_their_spelling() -> None:
    request = Request(
        format="openai_chat",
        model="a",
        stream=False,
        messages=calls(ToolCall("a", "f", '{"b": 1.10, "a": 12345678901234567890123}')),
        tools=(Tool("f", schema=b'{"type": "object", "x": 1.0e5}'),),
        output=OutputFormat(b'{"type": "object",  "y": 2.50}'),
    )
    written, _ = DIALECT.write_request(request, GEMINI_3)
    assert b'"args":{"b": 1.10, "a": 12345678901234567890123}' in written
    assert b'"parametersJsonSchema":{"type": "object", "x": 1.0e5}' in written
    assert b'"responseJsonSchema":{"type": "object",  "y": 2.50}' in written
    assert b'"responseMimeType":"application/json"' in written


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", "text", '{"a":1} x'])
def test_arguments_that_are_no_object_are_refused_in_history(arguments: str) -> None:
    with pytest.raises(GatewayError) as refused:
        said(*calls(ToolCall("a", "f", arguments)))
    assert refused.value.code == "unsupported_parameter"
    assert refused.value.param == "messages"
    with pytest.raises(GatewayError) as refused:
        said(*calls(ToolCall("a", "f", arguments)), format="openai_responses")
    assert refused.value.param == "input"


def test_a_result_of_no_known_call_is_refused() -> None:
    with pytest.raises(GatewayError, match="belongs to no call") as refused:
        said(Message("user", (ToolResult("nobody", (Text("x"),)),)))
    assert refused.value.code == "unsupported_parameter"


def test_errors_of_functions_are_told_as_errors() -> None:
    document = said(
        *calls(ToolCall("a", "f", "{}")),
        Message("user", (ToolResult("a", (Text("no"), Text("way")), is_error=True),)),
    )
    response = document["contents"][2]["parts"][0]["functionResponse"]["response"]
    assert response == {"error": "no\nway"}


def test_images_of_results_go_inside_where_the_model_takes_them_there() -> None:
    messages = (
        *calls(ToolCall("a", "f", "{}")),
        Message("user", (ToolResult("a", (Text("see"), Image("image/png", "AA=="))),)),
    )
    inside = said(*messages, toward=GEMINI_3)["contents"]
    assert inside[2]["parts"][0]["functionResponse"]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
    ]
    beside = said(*messages, toward=GEMINI_2)["contents"]
    assert len(beside) == 4
    assert beside[3]["parts"] == [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}]


def test_the_first_call_of_a_step_is_signed_for_gemini_3_alone() -> None:
    messages = calls(ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}"))
    signed, unsigned = said(*messages)["contents"][1]["parts"]
    assert signed["thoughtSignature"] == SKIP_VALIDATION
    assert base64.b64decode(SKIP_VALIDATION) == b"skip_thought_signature_validator"
    assert "thoughtSignature" not in unsigned
    older = said(*messages, toward=GEMINI_2)["contents"][1]["parts"]
    assert not [one for one in older if "thoughtSignature" in one]
    own = said(*calls(ToolCall("a", "f", "{}", signature=Signature("gemini", "c2ln"))))
    assert own["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"


def test_thoughts_go_back_to_gemini_alone() -> None:
    own = Thinking("hm", Signature("gemini", "c2ln"))
    foreign = Thinking("hm", Signature("anthropic_messages", "sig"))
    spelled: Mapping[Feature, str] = {"thinking_history": "messages.content.thinking"}
    document = said(*calls(own, foreign, Text("so")), spelled=spelled)
    assert document["contents"][1]["parts"] == [
        {"text": "hm", "thought": True, "thoughtSignature": "c2ln"}, {"text": "so"},
    ]  # fmt: skip
    assert ignored(*calls(own), spelled=spelled) == []
    assert ignored(*calls(foreign), spelled=spelled) == ["messages.content.thinking"]
    assert ignored(*calls(Thinking("bare")), spelled=spelled) == ["messages.content.thinking"]
    signed = ToolCall("a", "f", "{}", signature=Signature("anthropic_messages", "sig"))
    assert ignored(*calls(signed), spelled=spelled) == ["messages.content.thinking"]
    assert ignored(*calls(Text("so"), Citation("https://a.example"))) == ["citations"]


def test_a_foreign_signature_survives_a_gemini_client() -> None:
    thinking = Thinking("hm", Signature("anthropic_messages", "EqQB+/=="))
    redacted = Thinking("", Signature("anthropic_messages", "cmVk"), redacted=True)
    document = answer(thinking, redacted, Text("so"))
    content = types.GenerateContentResponse.model_validate(document).candidates
    assert content is not None
    assert content[0].content is not None
    # The SDK gives bytes back in the alphabet for URLs.
    back = content[0].content.model_dump(mode="json", by_alias=True, exclude_none=True)
    found = read(contents=[HELLO, back, HELLO])
    assert found.messages[1].content == (thinking, redacted, Text("so"))


def test_system_text_stays_where_it_was_said() -> None:
    document = said(
        Message("user", (Text("a"),)),
        Message("system", (Text("be brief"),)),
        Message("user", (Text("b"),)),
        system=(Text("first"), Text("")),
    )
    assert document["systemInstruction"] == {"parts": [{"text": "first"}]}
    (turn,) = document["contents"]
    assert [one["text"] for one in turn["parts"]] == ["a", "<system>\nbe brief\n</system>", "b"]


def test_settings_are_spelled_as_gemini_has_them() -> None:
    document = said(
        temperature=1.5, top_p=0.5, top_k=3, max_output_tokens=10, presence_penalty=0.25,
        frequency_penalty=-0.5, seed=7, stop=("x",), choices=2, output=OutputFormat(),
    )  # fmt: skip
    assert document["generationConfig"] == {
        "temperature": 1.5, "topP": 0.5, "topK": 3, "maxOutputTokens": 10, "presencePenalty": 0.25,
        "frequencyPenalty": -0.5, "seed": 7, "stopSequences": ["x"], "candidateCount": 2,
        "responseMimeType": "application/json",
    }  # fmt: skip
    assert "generationConfig" not in said()


def test_what_is_said_of_a_schema_stands_in_it() -> None:
    described = OutputFormat(b' {"type": "object"}', description="A book")
    schema = said(output=described)["generationConfig"]["responseJsonSchema"]
    assert schema == {"description": "A book", "type": "object"}
    hello = Message("user", (Text("a"),))
    for taken in (b'{"description": "mine"}', b"{}", b"true"):
        output = OutputFormat(taken, description="A book")
        assert ignored(hello, output=output) == ["description"]
    named = Message("user", (Document("application/pdf", "AA==", name="a.pdf"),))
    assert ignored(named) == ["document.name"]


def test_what_gemini_takes_too_little_of_is_refused_by_field() -> None:
    spelled: Mapping[Feature, str] = {"stop": "stop_sequences", "choices": "n", "seed": "seed"}
    with pytest.raises(GatewayError) as refused:
        said(stop=tuple("abcdef"), spelled=spelled)
    assert refused.value.param == "stop_sequences"
    with pytest.raises(GatewayError) as refused:
        said(choices=9, spelled=spelled)
    assert refused.value.param == "n"
    hello = Message("user", (Text("a"),))
    assert ignored(hello, seed=2**40, spelled=spelled) == ["seed"]


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("auto", ("f",)), {"mode": "VALIDATED", "allowedFunctionNames": ["f"]}),
        (ToolChoice("required"), {"mode": "ANY"}),
        (ToolChoice("required", ("f",)), {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (ToolChoice("none"), {"mode": "NONE"}),
    ],
)
def test_choices_are_modes_of_calling(choice: ToolChoice, written: Any) -> None:
    document = said(tools=(Tool("f", "does f"),), tool_choice=choice)
    assert document["toolConfig"] == {"functionCallingConfig": written}
    assert document["tools"] == [
        {"functionDeclarations": [{"name": "f", "description": "does f"}]}
    ]  # fmt: skip
    assert "toolConfig" not in said(tool_choice=choice)


@pytest.mark.parametrize(
    ("model", "asked", "written", "told"),
    [
        ("gemini-3-pro", Reasoning("medium", show=True),
         {"includeThoughts": True, "thinkingLevel": "MEDIUM"}, False),
        ("gemini-flash-latest", Reasoning("minimal"), {"thinkingLevel": "MINIMAL"}, False),
        ("gemini-3-pro", Reasoning("none"), {"thinkingLevel": "LOW"}, True),
        ("gemini-3-flash", Reasoning("xhigh"), {"thinkingLevel": "HIGH"}, False),
        ("gemini-2.5-flash", Reasoning("low"), {"thinkingBudget": 1024}, False),
        ("gemini-2.5-flash", Reasoning("none"), {"thinkingBudget": 0}, False),
        ("gemini-2.5-pro", Reasoning("none"), {"thinkingBudget": 128}, True),
        ("gemini-2.5-flash", Reasoning(budget_tokens=31999), {"thinkingBudget": 24576}, False),
        ("gemini-2.5-pro", Reasoning(budget_tokens=31999), {"thinkingBudget": 31999}, False),
        ("gemini-2.5-pro", Reasoning(budget_tokens=-1), {"thinkingBudget": -1}, False),
        ("gemini-2.0-flash", Reasoning("high"), None, True),
        ("gemini-2.0-flash", Reasoning("none"), None, False),
    ],
)  # fmt: skip
def test_thinking_is_asked_for_as_the_model_has_it(
    model: str, asked: Reasoning, written: Any, told: bool
) -> None:
    toward = Toward(model, "google")
    document = said(toward=toward, reasoning=asked)
    assert document.get("generationConfig", {}).get("thinkingConfig") == written
    spelled: Mapping[Feature, str] = {"reasoning": "reasoning_effort"}
    hello = Message("user", (Text("a"),))
    left = ignored(hello, toward=toward, reasoning=asked, spelled=spelled)
    assert left == (["reasoning_effort"] if told else [])


def test_what_only_another_format_knows_is_refused() -> None:
    foreign = Opaque("openai_responses", b"{}", "web_search_call")
    for members in (
        {"messages": calls(foreign)},
        {"tools": (Tool("web_search", opaque=foreign),)},
        {"messages": (Message("user", (Image(data="AA=="),)),)},
    ):
        with pytest.raises(GatewayError) as refused:
            DIALECT.write_request(
                Request(format="openai_responses", model="a", stream=False, **members), GEMINI_3
            )
        assert refused.value.code == "unsupported_parameter"


# -- Answers ---------------------------------------------------------------------------------------


def read_answer(*candidates: Any, **members: Any) -> Answer:
    body = msgspec.json.encode({"candidates": candidates, **members})
    found = DIALECT.read_answer(body)
    assert found is not None
    return found


def candidate(*parts: Any, reason: str | None = "STOP", **members: Any) -> dict[str, Any]:
    ended = {"finishReason": reason} if reason else {}
    return {"content": {"parts": parts, "role": "model"}, **ended, **members}


def streamed(*chunks: Any) -> list[Event]:
    body = b"".join(b"data: %b\r\n\r\n" % msgspec.json.encode(chunk) for chunk in chunks)
    return collect(DIALECT.reader(), [body])


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "content_filter"),
        ({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}, "MALFORMED_FUNCTION_CALL"),
        ({"candidates": [{"finishReason": "UNEXPECTED_TOOL_CALL"}]}, "UNEXPECTED_TOOL_CALL"),
        ({"candidates": [{"finishReason": "SOMETHING_NEW"}]}, "SOMETHING_NEW"),
        ({"error": {"code": 503, "message": "later", "status": "UNAVAILABLE"}}, "UNAVAILABLE"),
    ],
)
def test_an_answer_that_is_none_is_an_error(document: Any, kind: str) -> None:
    found = DIALECT.read_answer(msgspec.json.encode(document))
    assert found is not None
    assert found.error is not None
    assert found.error.type == kind
    (error,) = [one for one in streamed(document) if isinstance(one, StreamError)]
    assert error.type == kind
    assert error.message == found.error.message


@pytest.mark.parametrize("document", [{"candidates": []}, {"candidates": [{"content": {}}]}])
def test_an_answer_without_a_reason_to_finish_is_no_answer(document: Any) -> None:
    found = DIALECT.read_answer(msgspec.json.encode(document))
    assert found is not None
    assert found.error is not None
    with pytest.raises(Truncated):
        streamed(document)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"choices":[]}', b"<html>"])
def test_what_is_no_answer_of_gemini_is_told_apart(body: bytes) -> None:
    assert DIALECT.read_answer(body) is None


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("STOP", "end"),
        ("MAX_TOKENS", "max_tokens"),
        ("SAFETY", "refusal"),
        ("RECITATION", "refusal"),
    ],
)
def test_reasons_to_finish(reason: str, stop: str) -> None:
    document = candidate({"text": "a"}, reason=reason)
    assert read_answer(document).choices[0].stop == stop
    events = streamed({"candidates": [document]})
    assert [one.stop for one in events if isinstance(one, Finish)] == [stop]


def test_calls_that_end_in_stop_are_calls_and_have_ids_of_their_own() -> None:
    call = {"functionCall": {"name": "f", "args": {"a": 1}}}
    document = {"candidates": [candidate(call, call, {"functionCall": {"name": "g"}})]}
    first = DIALECT.read_answer(msgspec.json.encode({**document, "responseId": "r1"}))
    other = DIALECT.read_answer(msgspec.json.encode({**document, "responseId": "r2"}))
    nameless = DIALECT.read_answer(msgspec.json.encode(document))
    assert first is not None
    assert other is not None
    assert nameless is not None
    assert first.choices[0].stop == "tool_call"
    ids = [
        one.id
        for found in (first, other, nameless)
        for one in found.choices[0].content
        if isinstance(one, ToolCall)
    ]
    assert len(set(ids)) == 9
    last = first.choices[0].content[2]
    assert isinstance(last, ToolCall)
    assert last.arguments == "{}"


def test_a_signature_on_an_empty_text_at_the_end_belongs_to_the_text() -> None:
    chunks = (
        {"candidates": [candidate({"text": "hm", "thought": True}, reason=None)]},
        {"candidates": [candidate({"text": "abc"}, reason=None)]},
        {"candidates": [candidate({"text": "", "thoughtSignature": "c2ln"})]},
    )
    content = (Thinking("hm"), Text("abc", signature=Signature("gemini", "c2ln")))
    assert choices_of(streamed(*chunks))[0].content == content
    whole = candidate(*[one["candidates"][0]["content"]["parts"][0] for one in chunks])
    assert read_answer(whole).choices[0].content == content


def test_a_signature_on_nothing_is_kept() -> None:
    call = {"functionCall": {"name": "f", "args": {}, "id": "a"}, "thoughtSignature": "b25l"}
    document = candidate(call, {"text": "", "thoughtSignature": "dHdv"})
    content = (
        ToolCall("a", "f", "{}", signature=Signature("gemini", "b25l")),
        Text("", signature=Signature("gemini", "dHdv")),
    )
    assert read_answer(document).choices[0].content == content
    assert choices_of(streamed({"candidates": [document]}))[0].content == content
    assert parts_of(answer(*content)) == [call, {"text": "", "thoughtSignature": "dHdv"}]


def test_sources_are_citations_with_their_place_in_characters() -> None:
    text = "Grüße. Ruby 4 is out."
    start, end = text.index("Ruby"), len(text)
    grounding: dict[str, Any] = {
        "groundingChunks": [{"web": {"uri": "https://a.example", "title": "a"}}],
        "groundingSupports": [
            {"groundingChunkIndices": [0, 7],
             "segment": {"startIndex": len(text[:start].encode()), "endIndex": len(text.encode())}},
        ],
    }  # fmt: skip
    document = candidate({"text": text}, groundingMetadata=grounding)
    cited = Citation("https://a.example", "a", None, start, end)
    assert read_answer(document).choices[0].content == (Text(text), cited)
    assert choices_of(streamed({"candidates": [document]}))[0].content == (Text(text), cited)
    written = answer(Text(text), cited)["candidates"][0]["groundingMetadata"]
    segment = written["groundingSupports"][0]["segment"]
    assert segment == {**grounding["groundingSupports"][0]["segment"], "text": text[start:end]}


def test_usage_keeps_thoughts_beside_candidates_and_cached_inside_the_prompt() -> None:
    usage = Usage(
        input_tokens=100, output_tokens=50, cache_read_input_tokens=30, reasoning_tokens=20,
        input_tool_use_tokens=10, input_audio_tokens=5, output_image_tokens=7,
    )  # fmt: skip
    told = answer(Text("a"), usage=usage)["usageMetadata"]
    assert told["promptTokenCount"] == 90
    assert told["cachedContentTokenCount"] == 30
    assert told["candidatesTokenCount"] == 30
    assert told["thoughtsTokenCount"] == 20
    assert told["toolUsePromptTokenCount"] == 10
    assert told["totalTokenCount"] == 150
    again = DIALECT.read_answer(msgspec.json.encode(answer(Text("a"), usage=usage)))
    assert again is not None
    assert again.usage == msgspec.structs.replace(
        usage, input_image_tokens=None, output_audio_tokens=None
    )


def test_answers_say_the_callers_model_and_the_gateways_id() -> None:
    document = answer(Text("a"), Opaque("openai_responses", b"{}", "x"), Citation())
    assert document["modelVersion"] == "alias"
    assert document["responseId"] == "id-1"
    assert parts_of(document) == [{"text": "a"}]


@pytest.mark.parametrize("arguments", ['{"a": "cu', "[]"])
def test_a_call_that_was_cut_ends_as_cut(arguments: str) -> None:
    document = answer(Text("a"), ToolCall("i", "f", arguments), stop="tool_call")
    assert document["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert parts_of(document) == [{"text": "a"}]


def test_a_refusal_is_text_that_ends_in_safety() -> None:
    document = answer(Refusal("I cannot."))
    assert parts_of(document) == [{"text": "I cannot."}]
    assert document["candidates"][0]["finishReason"] == "SAFETY"
    assert answer(stop="pause")["candidates"][0]["finishReason"] == "OTHER"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            b'[{"error":{"code":429,"message":"slow","status":"RESOURCE_EXHAUSTED","details":['
            b'{"@type":"x/google.rpc.RetryInfo","retryDelay":"37.5s"},{"reason":"RATE"}]}}]',
            AnswerError("slow", "RESOURCE_EXHAUSTED", "RATE", 37.5),
        ),
        (b'{"error":"text"}', AnswerError("text")),
        (b'{"detail":"text"}', AnswerError("text")),
        (b"plain", AnswerError("plain")),
        (b"<html>", AnswerError("The provider answered with status 500.")),
        (b"", AnswerError("The provider answered with status 500.")),
    ],
)
def test_errors_are_read_tolerantly(body: bytes, error: AnswerError) -> None:
    assert DIALECT.read_error(500, body) == error
