"""What a body can use at most: nothing dear is missed, what is plain is not taken for dear."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.wire import demand, registry
from gateway.wire.envelope import peek
from gateway.wire.neutral import Demand

CHAT, RESPONSES, MESSAGES = "openai_chat", "openai_responses", "anthropic_messages"
COMPLETIONS, EMBEDDINGS = "openai_completions", "openai_embeddings"
PNG = "data:image/png;base64,iVBORw0KGgo="


def read(body: bytes | dict[str, Any], wire_format: str) -> Demand:
    spelled = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return demand.read(spelled, peek(spelled, wire_format), wire_format)


def chat(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}], **more}


def messages(*blocks: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": list(blocks)}],
            **more}  # fmt: skip


def responses(*items: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "input": list(items), **more}


def gemini(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}], **more}


TEXT = {"type": "text", "text": "Hi"}
SAID = {"role": "user", "content": "Hi"}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}

PLAIN: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"model": "m", "messages": [SAID, {"role": "assistant", "content": None}]}),
    (CHAT, chat(TEXT, {"type": "refusal", "refusal": "no"})),
    (CHAT, {"messages": [SAID, {"role": "assistant", "tool_calls": [CALL]},
                         {"role": "tool", "tool_call_id": "c", "content": "1"}],
            "tools": [FUNCTION, {"type": "custom", "custom": {"name": "c"}}]}),
    (CHAT, chat(TEXT, web_search_options=None, conversation=None, reasoning={"effort": "low"})),
    (CHAT, {"messages": [{**SAID, "audio": None}], "response_format": {"type": "json_object"}}),
    (CHAT, {"messages": [{"role": "user", "content": 'send {"type":"image_url"} and file_id'}]}),
    (RESPONSES, {"input": "Hi", "previous_response_id": None, "conversation": None}),
    (RESPONSES, responses(SAID, {"type": "message", **SAID})),
    (RESPONSES, responses(
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        tools=[{"type": "function", "name": "f"}, {"type": "local_shell"}])),
    (RESPONSES, responses(
        {"type": "additional_tools", "role": "developer", "tools": [
            {"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": "c"}]}]},
        SAID, tools=[{"type": "tool_search", "execution": "client", "parameters": {}}])),
    (MESSAGES, messages(TEXT, system="s", tools=[{"name": "f", "input_schema": {}}])),
    (MESSAGES, messages(
        TEXT, {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "tool_use", "id": "1", "name": "f", "input": {"source": {"type": "url"}}},
        {"type": "tool_result", "tool_use_id": "1", "content": [TEXT], "is_error": False},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
        {"type": "search_result", "source": "https://a.b", "title": "t", "content": [TEXT]},
        system=[TEXT], tools=[{"type": "bash_20250124", "name": "bash"}])),
    (MESSAGES, messages(TEXT, context_management={"edits": [
        {"type": "clear_thinking_20251015", "keep": "all"},
        {"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens", "value": 1}}]})),
    (COMPLETIONS, {"model": "m", "prompt": "Hi", "suffix": "!"}),
    (EMBEDDINGS, {"model": "m", "input": "Hi", "dimensions": 8}),
    ("gemini", gemini({"text": "Hi"}, systemInstruction={"parts": [{"text": "s"}]})),
    ("gemini", gemini(
        {"functionCall": {"name": "f", "args": {"fileData": 1}}, "thoughtSignature": "s"},
        {"functionResponse": {"name": "f", "response": {"parts": [1]}}},
        tools=[{"functionDeclarations": [{"name": "f"}]}], cachedContent=None)),
    ("gemini_embeddings", {"content": {"parts": [{"text": "Hi"}]}}),
    ("gemini_embeddings", {"requests": [{"model": "m", "content": {"parts": [{"text": "a"}]}}]}),
]  # fmt: skip


@pytest.mark.parametrize(("wire_format", "body"), PLAIN)
def test_a_plain_request_is_bounded_by_its_bytes(wire_format: str, body: dict[str, Any]) -> None:
    found = read(body, wire_format)
    assert not found.unbounded
    assert found.input_bytes == len(msgspec.json.encode(body))
    assert (found.images, found.image_bytes) == (0, 0)
    assert not found.input_audio
    assert not found.input_image
    assert not found.output_audio or wire_format == "gemini"
    assert found.template_tokens >= demand.TEMPLATE_TOKENS


URL = "https://a.b/c.png"
FILE = {"type": "file", "file_id": "file_1"}
BY_URL = {"type": "url", "url": URL}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
EXTRA: list[dict[str, Any]] = [
    {"cachedContent": "cachedContents/1"},
    {"cached_content": "cachedContents/1"},
    {"tools": [{"googleSearch": {}}]},
    {"tools": [{"functionDeclarations": [], "urlContext": {}}]},
    {"tools": [{"code_execution": {}}]},
    {"systemInstruction": {"parts": [{"fileData": {"fileUri": "files/1"}}]}},
]
DEAR: list[tuple[str, dict[str, Any]]] = [
    (CHAT, chat({"type": "image_url", "image_url": {"url": URL}})),
    (CHAT, chat({"type": "image_url", "image_url": {"url": "data:application/pdf;base64,JVBE"}})),
    (CHAT, chat({"type": "image_url", "image_url": URL})),
    (CHAT, chat({"type": "file", "file": {"file_id": "file-1"}})),
    (CHAT, chat({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE"}})),
    (CHAT, chat({"type": "video_url", "video_url": {"url": URL}})),
    (CHAT, chat({"type": "text", "text": "a", "image": URL})),
    (CHAT, {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
    (CHAT, {"messages": [{"role": "user", "content": {"type": "image_url"}}]}),
    (CHAT, {"messages": [{**SAID, "images": [URL]}]}),
    (CHAT, {"messages": {"role": "user"}}),
    (CHAT, chat(TEXT, web_search_options={})),
    (CHAT, chat(TEXT, plugins=[{"id": "web"}])),
    (CHAT, chat(TEXT, models=["dearer"])),
    (CHAT, chat(TEXT, tools=[{"type": "web_search", "web_search": {}}])),
    (CHAT, chat(TEXT, tools=[{"type": "builtin_function"}])),
    (CHAT, chat(TEXT, made_up_tomorrow=True)),
    (RESPONSES, {"input": "Hi", "previous_response_id": "resp_1"}),
    (RESPONSES, {"input": "Hi", "conversation": "conv_1"}),
    (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
    (RESPONSES, {"input": "Hi", "context_management": [{"type": "compaction"}]}),
    (RESPONSES, {"input": "Hi", "reasoning": {"mode": "pro"}}),
    (RESPONSES, responses({"type": "item_reference", "id": "msg_1"})),
    (RESPONSES, responses({"id": "msg_1"})),
    (RESPONSES, responses(SAID, {"type": "message", "id": "msg_1", "content": None})),
    (RESPONSES, responses({"type": "reasoning", "id": "rs_1", "summary": []})),
    (RESPONSES, responses({"type": "image_generation_call", "id": "ig_1", "result": None})),
    *((RESPONSES, responses({"role": "user", "content": [part]})) for part in (
        {"type": "input_image", "image_url": URL},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_file", "file_url": URL},
        {"type": "input_file", "file_data": "data:application/pdf;base64,JVBE"})),
    (RESPONSES, responses({"type": "function_call_output", "call_id": "c",
                           "output": [{"type": "input_file", "file_id": "file-1"}]})),
    *((RESPONSES, {"input": "Hi", "tools": [{"type": one}]}) for one in (
        "web_search", "web_search_preview", "file_search", "code_interpreter", "mcp",
        "image_generation", "computer_use_preview", "computer", "shell", "tool_search")),
    *((MESSAGES, messages({"type": kind, "source": source}))
      for kind in ("image", "document") for source in (BY_URL, FILE)),
    (MESSAGES, messages({"type": "document", "source": PDF})),
    (MESSAGES, messages({"type": "tool_result", "tool_use_id": "1",
                         "content": [{"type": "image", "source": BY_URL}]})),
    (MESSAGES, messages({"type": "container_upload", "file_id": "file_1"})),
    (MESSAGES, messages({"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}})),
    (MESSAGES, messages(TEXT, mcp_servers=[{"type": "url", "url": URL}])),
    (MESSAGES, messages(TEXT, container="c_1")),
    (MESSAGES, messages(TEXT, context_management={"edits": [{"type": "compact_20260112"}]})),
    (MESSAGES, messages(TEXT, context_management={"edits": [], "more": 1})),
    (RESPONSES, responses(SAID, {"type": "additional_tools", "tools": [{"type": "web_search"}]})),
    *((RESPONSES, {"input": "Hi", "tools": [{"type": "namespace", "name": "n", "tools": [one]}]})
      for one in ({"type": "web_search"}, {"type": "tool_search"},
                  {"type": "tool_search", "execution": "server"})),
    *((MESSAGES, messages(TEXT, tools=[{"type": one, "name": "t"}])) for one in (
        "web_search_20250305", "web_fetch_20250910", "code_execution_20250825", "mcp_toolset",
        "computer_20250124", "bash_code_execution", "custom\n", "xbash_1")),
    *(("gemini", gemini(part)) for part in (
        {"fileData": {"fileUri": "files/1"}},
        {"file_data": {"file_uri": "files/1"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}},
        {"inlineData": {"mimeType": "audio/ogg", "data": "T2dn"}},
        {"inline_data": {"mime_type": "video/mp4", "data": "AAAA"}},
        {"functionResponse": {"name": "f", "parts": [{"inlineData": {}}]}})),
    *(("gemini", gemini({"text": "Hi"}, **extra)) for extra in EXTRA),
    ("gemini_embeddings", {"requests": [{"content": {"parts": [{"fileData": {}}]}}]}),
]  # fmt: skip


@pytest.mark.parametrize(("wire_format", "body"), DEAR)
def test_what_brings_in_more_than_the_body_holds_is_unbounded(
    wire_format: str, body: dict[str, Any]
) -> None:
    found = read(body, wire_format)
    assert found.unbounded
    assert found.input_audio
    assert found.input_image


@given(st.data(), st.sampled_from(DEAR))
def test_no_spelling_of_its_keys_hides_it(data: st.DataObject, dear: tuple[str, Any]) -> None:
    wire_format, body = dear
    indent = data.draw(st.sampled_from([None, 0, 2]))
    spelled = msgspec.json.encode(body)
    if indent is not None:
        spelled = msgspec.json.format(spelled, indent=indent)
    # Only what the walks look at: a top-level key said in escapes is read by the envelope.
    at = data.draw(st.integers(0, len(spelled) - 1))
    if chr(spelled[at]).isalpha() and spelled[at - 1 : at] != b"\\":
        escaped = spelled[:at] + b"\\u%04x" % spelled[at] + spelled[at + 1 :]
        try:
            msgspec.json.decode(escaped)
        except msgspec.DecodeError:
            return  # it was no string: true, false or null
        spelled = escaped
    assert read(spelled, wire_format).unbounded


@pytest.mark.parametrize(
    ("wire_format", "body"),
    [
        (CHAT, b'{"messages":[{"content":[{"type":"file","file":{}}],"content":"Hi"}]}'),
        (CHAT, b'{"messages":[{"content":[{"type":"image_url","image_url":'
               b'{"url":"https://a.b","url":"data:image/png;base64,AA=="}}]}]}'),
        (CHAT, b'{"messages":[],"tools":[{"type":"web_search","type":"function"}]}'),
        (MESSAGES, b'{"messages":[{"content":[{"type":"image","source":{"type":"url","url":"u"},'
                   b'"source":{"type":"base64","media_type":"image/png","data":"AA"}}]}]}'),
        ("gemini", b'{"contents":[{"parts":[{"fileData":{}}],"parts":[]}]}'),
    ],
)  # fmt: skip
def test_a_key_said_twice_hides_nothing(wire_format: str, body: bytes) -> None:
    assert read(body, wire_format).unbounded


@pytest.mark.parametrize(
    ("wire_format", "body", "size"),
    [
        (CHAT, chat(TEXT, {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}), 34),
        (RESPONSES, responses({"content": [{"type": "input_image", "image_url": PNG}]}), 34),
        (RESPONSES, responses({"type": "function_call_output", "call_id": "c",
                               "output": [{"type": "input_image", "image_url": PNG}]}), 34),
        (MESSAGES, messages({"type": "image", "source": {
            "type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}), 14),
        ("gemini", gemini({"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}), 14),
        ("gemini", gemini({"inline_data": {"mime_type": "image/png", "data": "iVBORw0KGgo="}}), 14),
    ],
)  # fmt: skip
def test_an_inline_image_is_counted_and_its_bytes_are_told_apart(
    wire_format: str, body: dict[str, Any], size: int
) -> None:
    found = read(body, wire_format)
    assert (found.unbounded, found.images, found.image_bytes) == (False, 1, size)
    assert found.input_image
    slashes = msgspec.json.encode(body).replace(b"/", b"\\/")  # as PHP writes them
    assert read(slashes, wire_format).images == 1


def test_images_are_counted_wherever_they_are() -> None:
    image = {"type": "image",
             "source": {"type": "base64", "media_type": "image/gif", "data": "R0"}}  # fmt: skip
    result = {"type": "tool_result", "tool_use_id": "1", "content": [image, TEXT, image]}
    assert read(messages(image, result), MESSAGES).images == 3


def test_sound_is_noted() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}
    found = read(chat(sound), CHAT)
    assert (found.unbounded, found.input_audio, found.input_image) == (False, True, False)


@pytest.mark.parametrize(
    ("more", "audio", "image"),
    [
        ({}, False, True),
        ({"modalities": None}, False, True),
        ({"modalities": ["text"]}, False, False),
        ({"modalities": ["text", "audio"]}, True, False),
        ({"modalities": ["image", "text"]}, False, True),
        ({"modalities": ["smell"]}, True, True),
    ],
)
def test_what_comes_out_in_chat_is_what_was_asked_for(
    more: dict[str, Any], audio: bool, image: bool
) -> None:
    found = read(chat(TEXT, **more), CHAT)
    assert (found.output_audio, found.output_image) == (audio, image)


@pytest.mark.parametrize("outer", ["generationConfig", "generation_config"])
@pytest.mark.parametrize("inner", ["responseModalities", "response_modalities"])
def test_what_comes_out_of_gemini_is_what_was_asked_for(outer: str, inner: str) -> None:
    found = read(gemini({"text": "a"}, **{outer: {inner: ["TEXT"]}}), "gemini")
    assert (found.output_audio, found.output_image) == (False, False)
    found = read(gemini({"text": "a"}, **{outer: {inner: ["Audio"]}}), "gemini")
    assert (found.output_audio, found.output_image) == (True, False)
    found = read(gemini({"text": "a"}), "gemini")
    assert (found.output_audio, found.output_image) == (True, True)


@pytest.mark.parametrize(
    ("wire_format", "body", "choices"),
    [
        (CHAT, chat(TEXT), 1),
        (CHAT, chat(TEXT, n=None), 1),
        (CHAT, chat(TEXT, n=128), 128),
        (COMPLETIONS, {"prompt": "a", "n": 2, "best_of": 5}, 5),
        (COMPLETIONS, {"prompt": ["a", "b", "c"], "n": 2}, 6),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, 2),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, 1),
        ("gemini", gemini({"text": "a"}, generationConfig={"candidateCount": 3}), 3),
        ("gemini", gemini({"text": "a"}, generation_config={"candidate_count": 4}), 4),
        ("gemini", gemini({"text": "a"}, generationConfig=None), 1),
    ],
)
def test_every_answer_asked_for_counts(
    wire_format: str, body: dict[str, Any], choices: int
) -> None:
    assert read(body, wire_format).choices == choices


@pytest.mark.parametrize("spelled", ["0", "129", "-1", "1.0", "1e2", '"2"', "true", "[1]", "1000"])
@pytest.mark.parametrize(
    ("wire_format", "body", "param"),
    [
        (CHAT, '{"messages":[],"n":%s}', "n"),
        (COMPLETIONS, '{"prompt":"a","n":%s}', "n"),
        (COMPLETIONS, '{"prompt":"a","best_of":%s}', "best_of"),
        ("gemini", '{"generationConfig":{"candidateCount":%s}}', "generationConfig.candidateCount"),
    ],
)
def test_a_number_of_answers_that_is_none_is_refused_by_name(
    spelled: str, wire_format: str, body: str, param: str
) -> None:
    with pytest.raises(GatewayError) as refused:
        read((body % spelled).encode(), wire_format)
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)
    assert refused.value.message == f"{param} must be a whole number from 1 to 128."


@pytest.mark.parametrize(
    ("wire_format", "body"),
    [(CHAT, {"modalities": "text"}), ("gemini", {"generationConfig": {"responseModalities": 1}})],
)
def test_modalities_that_are_no_list_are_refused(wire_format: str, body: dict[str, Any]) -> None:
    with pytest.raises(GatewayError, match="must be a list of names"):
        read(body, wire_format)


SHORT, LONG = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}


@pytest.mark.parametrize(
    ("body", "cache"),
    [
        (messages(TEXT), None),
        (messages({**TEXT, "cache_control": None}), None),
        (messages({**TEXT, "cache_control": SHORT}), "5m"),
        (messages({**TEXT, "cache_control": LONG}, {**TEXT, "cache_control": SHORT}), "1h"),
        (messages(TEXT, system=[{**TEXT, "cache_control": SHORT}]), "5m"),
        (messages(TEXT, tools=[{"name": "f", "cache_control": LONG}]), "1h"),
        (messages(TEXT, cache_control=SHORT), "5m"),
        (messages({"type": "tool_result", "content": [{**TEXT, "cache_control": LONG}]}), "1h"),
        (messages({"type": "document", "source": PDF}), "1h"),
    ],
)
def test_writing_to_a_cache_is_noted_with_its_dearest_lifetime(
    body: dict[str, Any], cache: str | None
) -> None:
    assert read(body, MESSAGES).cache_write == cache


def test_openais_formats_may_cache_unasked() -> None:
    assert read(chat(TEXT), CHAT).cache_write == "5m"
    assert read({"input": "Hi"}, RESPONSES).cache_write == "5m"
    assert read({"prompt": "Hi"}, COMPLETIONS).cache_write == "5m"


def test_tools_bring_prompts_of_their_own() -> None:
    base = demand.TEMPLATE_TOKENS
    one = base + demand.TOOL_PROMPT_TOKENS
    assert read(chat(TEXT), CHAT).template_tokens == base
    assert read(chat(TEXT, tools=[FUNCTION] * 5), CHAT).template_tokens == one
    assert read(chat(TEXT, functions=[{"name": "f"}]), CHAT).template_tokens == one
    tools = [{"type": "bash_20250124"}, {"type": "text_editor_20250728"}, {"type": "custom"}]
    found = read(messages(TEXT, tools=tools), MESSAGES)
    assert found.template_tokens == base + 3 * demand.TOOL_PROMPT_TOKENS


def test_a_list_of_inputs_is_read_one_by_one() -> None:
    assert read({"input": ["a", "b"]}, EMBEDDINGS).separate
    assert not read({"input": "a"}, EMBEDDINGS).separate
    assert read({"requests": []}, "gemini_embeddings").separate
    assert read({"prompt": ["a"]}, COMPLETIONS).separate
    assert not read(responses(SAID), RESPONSES).separate


def test_embeddings_generate_nothing() -> None:
    found = read({"input": "abc", "max_tokens": 7}, EMBEDDINGS)
    assert found.max_output_tokens == 0
    assert demand.tokens(found, 4096) == -(-found.input_bytes // 4)


def test_the_guess_for_token_limits_is_a_fair_one() -> None:
    assert demand.tokens(Demand(401, 50), 4096) == 101 + 50
    assert demand.tokens(Demand(400, None, choices=3), 4096) == 100 + 3 * 4096
    photo = Demand(1_000_400, 50, images=1, image_bytes=1_000_000)
    assert demand.tokens(photo, 4096) == 100 + demand.IMAGE_TOKENS_USUAL + 50


def test_deep_nesting_is_unbounded_not_an_error() -> None:
    block: Any = TEXT
    for _ in range(40):
        block = {"type": "tool_result", "content": [block]}
    assert not read(messages(block), MESSAGES).unbounded
    depth = 2000
    deep = b'{"type":"tool_result","content":[' * depth + b"]}" * depth
    body = b'{"messages":[{"content":[' + deep + b"]}]}"
    try:
        seen = peek(body, MESSAGES)
    except GatewayError:
        return  # refused before it is looked into
    assert demand.read(body, seen, MESSAGES).unbounded


def test_a_format_without_a_reader_is_unbounded_in_every_way() -> None:
    found = read({"model": "m"}, "native")
    assert found.unbounded
    assert found.cache_write == "1h"
    assert {name for name in registry.FORMATS if name not in demand._READERS} == {"native"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["text", "", "a", URL, PNG]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "text", "content", "parts", "source", "input", "role", "url"]),
        inner, max_size=3,
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    st.sampled_from([name for name in registry.FORMATS if name != "native"]),
    st.dictionaries(
        st.sampled_from(
            ["messages", "input", "contents", "tools", "system", "prompt", "content", "requests"]
        ),
        JSON, max_size=4,
    ),
)  # fmt: skip
def test_no_shape_of_a_body_is_an_error(wire_format: str, body: dict[str, Any]) -> None:
    found = read(body, wire_format)
    assert found.input_bytes >= found.image_bytes
    assert found.choices >= 1
