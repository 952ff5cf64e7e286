"""The traps that translating gateways fall into, one test each; in every pair where it can be one.

What goes in is written by hand, as providers send it; what comes out is read by the caller's SDK
(`sdk_schemas.py`), or looked at as JSON where the SDK hides what is meant.
"""

from typing import Any

import msgspec
import pytest
from sdk_schemas import Seen, check_request, events, read_answer, read_stream
from translation_cases import PAIRS, asked, dialect, stop_seen, usage_seen
from wire_records import cut

from gateway.errors import GatewayError
from gateway.wire import registry
from gateway.wire.format import Toward
from gateway.wire.translate import Translation

TO_GEMINI = [one for one in registry.DIALECTS if one != "gemini"]
CALLERS_OF: dict[str, list[str]] = {
    upstream: [one for one, other in PAIRS if other == upstream] for upstream in registry.DIALECTS
}


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def translated(caller: str, upstream: str, body: bytes) -> Seen:
    wanted = asked(caller, stream=False)
    out = Translation(dialect(caller), dialect(upstream), wanted.request).answer(body, wanted)
    assert isinstance(out, bytes), out
    return read_answer(caller, out)


def streamed_bytes(caller: str, upstream: str, body: bytes) -> tuple[bytes, bool]:
    """What a caller gets of a stream, the same in pieces of a byte, and whether it was whole."""
    outs = []
    for offsets in ([], list(range(1, len(body)))):
        wanted = asked(caller, stream=True)
        tap = Translation(dialect(caller), dialect(upstream), wanted.request).tap(wanted)
        out = b"".join(map(tap.feed, cut(body, offsets))) + tap.end()
        outs.append((out + tap.release(), tap.terminal))
    assert outs[0] == outs[1]
    return outs[0]


def streamed(caller: str, upstream: str, body: bytes) -> Seen:
    out, whole = streamed_bytes(caller, upstream, body)
    assert whole, out[-300:]
    return read_stream(caller, out)


def requested(caller: str, upstream: str, document: Any) -> Any:
    """The body that goes out; it must be one of the target's SDK."""
    model = "m" if caller == "gemini" else None
    request = dialect(caller).read_request(
        encoded(document), model=model, stream=False if model else None
    )
    body = Translation(dialect(caller), dialect(upstream), request).body(
        Toward("m", "openai", 4096)
    )
    check_request(upstream, body)
    return msgspec.json.decode(body)


def sse(*documents: Any, done: bool = False) -> bytes:
    out = b"".join(b"data: %b\n\n" % encoded(one) for one in documents)
    return out + (b"data: [DONE]\n\n" if done else b"")


def chat_chunk(delta: Any, stop: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": stop}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [choice], **more}


def chat_answer(message: Any, stop: str | None, **usage: Any) -> bytes:
    counts = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42, **usage}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": stop}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    return encoded({**head, "choices": [choice], "usage": counts})


def gemini_chunk(parts: list[Any], stop: str | None = None, **usage: int) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if stop is not None:
        candidate["finishReason"] = stop
    chunk = {"candidates": [candidate], "responseId": "r", "modelVersion": "m"}
    return {**chunk, "usageMetadata": usage} if usage else chunk


def chat_call(index: int, name: str, arguments: str, call_id: str | None) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    call = {"index": index, "type": "function", "function": function}
    return call if call_id is None else {**call, "id": call_id}


DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 20},
    "completion_tokens_details": {"reasoning_tokens": 7},
}

# --- streams out ------------------------------------------------------------------------------


@pytest.mark.parametrize("upstream", CALLERS_OF.get("openai_responses", []))
def test_every_responses_event_has_its_number_and_its_name(upstream: str) -> None:
    bodies = {
        "openai_chat": sse(
            chat_chunk({"role": "assistant", "content": "a"}),
            chat_chunk({"tool_calls": [chat_call(0, "f", '{"x":1}', "c1")]}),
            chat_chunk({}, "tool_calls"), done=True,
        ),
        "anthropic_messages": b"".join(
            b"event: %b\ndata: %b\n\n" % (one["type"].encode(), encoded(one))
            for one in messages_events([("text", "a"), ("tool_use", '{"x":1}')], "tool_use")
        ),
        "gemini": sse(
            gemini_chunk([{"text": "a"}]),
            gemini_chunk([{"functionCall": {"name": "f", "args": {"x": 1}}}], "STOP"),
        ),
    }  # fmt: skip
    out, _ = streamed_bytes("openai_responses", upstream, bodies[upstream])
    found = [(named, msgspec.json.decode(data)) for named, data in events(out)]
    assert [one["sequence_number"] for _, one in found] == list(range(len(found)))
    assert all(named == one["type"] for named, one in found)
    assert found[0][0] == "response.created"
    assert found[-1][0] == "response.completed"
    ids = {one["item_id"] for _, one in found if "item_id" in one}
    assert ids == {one["item"]["id"] for named, one in found if "output_item" in (named or "")}


def messages_events(blocks: list[tuple[str, str]], stop: str | None) -> list[dict[str, Any]]:
    message: dict[str, Any] = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 20, "output_tokens": 1},
    }  # fmt: skip
    out: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, (kind, said) in enumerate(blocks):
        start: dict[str, Any] = {"type": kind, "text": ""}
        delta: dict[str, Any] = {"type": "text_delta", "text": said}
        if kind == "tool_use":
            start = {"type": kind, "id": f"toolu_{index}", "name": "f", "input": {}}
            delta = {"type": "input_json_delta", "partial_json": said}
        out += [
            {"type": "content_block_start", "index": index, "content_block": start},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    delta = {"stop_reason": stop, "stop_sequence": None}
    out += [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 12}},
        {"type": "message_stop"},
    ]
    return out


def messages_stream(blocks: list[tuple[str, str]], stop: str | None) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (one["type"].encode(), encoded(one))
        for one in messages_events(blocks, stop)
    )


@pytest.mark.parametrize("upstream", [one for one in TO_GEMINI if one != "openai_responses"])
def test_a_gemini_stream_tells_usage_with_what_was_cached(upstream: str) -> None:
    counts = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42, **DETAILS}
    body = messages_stream([("text", "hi")], "end_turn")
    if upstream == "openai_chat":
        last = {**chat_chunk({}), "choices": [], "usage": counts}
        body = sse(chat_chunk({"content": "hi"}), chat_chunk({}, "stop"), last, done=True)
    seen = streamed("gemini", upstream, body)
    counted = usage_seen("gemini", seen)
    assert (counted["input"], counted["output"], counted["cached_input_read"]) == (30, 12, 20)
    assert counted["reasoning"] == (7 if upstream == "openai_chat" else 0)


def test_gemini_json_counts_cached_and_reasoning_tokens_in_its_own_way() -> None:
    body = chat_answer({"content": "hi"}, "stop", **DETAILS)
    wanted = asked("gemini", stream=False)
    translation = Translation(dialect("gemini"), dialect("openai_chat"), wanted.request)
    out = translation.answer(body, wanted)
    assert isinstance(out, bytes)
    told = msgspec.json.decode(out)["usageMetadata"]
    # Cached tokens are part of the prompt, thoughts stand beside the candidates'.
    assert told["promptTokenCount"] == 30
    assert told["cachedContentTokenCount"] == 20
    assert told["candidatesTokenCount"] == 5
    assert told["thoughtsTokenCount"] == 7
    assert told["totalTokenCount"] == 42


# --- tools ------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "number", "exclusiveMinimum": 0}, "s": {"enum": ["a", "b"]}},
    "required": ["n"],
    "additionalProperties": False,
}


def schema_in(upstream: str, document: Any) -> Any:
    (tool,) = document["tools"]
    match upstream:
        case "openai_chat":
            return tool["function"]["parameters"]
        case "openai_responses":
            return tool["parameters"]
        case "anthropic_messages":
            return tool["input_schema"]
    (function,) = tool["functionDeclarations"]
    return function["parametersJsonSchema"]


@pytest.mark.parametrize("upstream", CALLERS_OF.get("gemini", []))
def test_a_gemini_tool_with_a_json_schema_keeps_its_schema(upstream: str) -> None:
    function = {"name": "f", "description": "d", "parametersJsonSchema": SCHEMA}
    found = requested(
        "gemini", upstream,
        {"contents": [{"role": "user", "parts": [{"text": "x"}]}],
         "tools": [{"functionDeclarations": [function]}]},
    )  # fmt: skip
    assert schema_in(upstream, found) == SCHEMA


@pytest.mark.parametrize("upstream", CALLERS_OF.get("gemini", []))
def test_a_gemini_tool_with_an_openapi_schema_becomes_json_schema(upstream: str) -> None:
    declared = {"type": "OBJECT", "properties": {"n": {"type": "NUMBER", "nullable": True}}}
    found = requested(
        "gemini", upstream,
        {"contents": [{"role": "user", "parts": [{"text": "x"}]}],
         "tools": [{"functionDeclarations": [{"name": "f", "parameters": declared}]}]},
    )  # fmt: skip
    schema = schema_in(upstream, found)
    assert schema["type"] == "object"
    kind = schema["properties"]["n"]
    assert sorted(kind.get("type") or [one["type"] for one in kind["anyOf"]]) == ["null", "number"]


@pytest.mark.parametrize("caller", TO_GEMINI)
def test_a_schema_that_openapi_cannot_say_reaches_gemini_as_json_schema(caller: str) -> None:
    tool = {
        "openai_chat": {"type": "function", "function": {"name": "f", "parameters": SCHEMA}},
        "openai_responses": {
            "type": "function", "name": "f", "parameters": SCHEMA, "strict": False,
        },
        "anthropic_messages": {"name": "f", "input_schema": SCHEMA},
    }[caller]  # fmt: skip
    said = [{"role": "user", "content": "x"}]
    turns = {"input": said} if caller == "openai_responses" else {"messages": said}
    found = requested(caller, "gemini", {"model": "m", "max_tokens": 9, **turns, "tools": [tool]})
    assert schema_in("gemini", found) == SCHEMA


CALLS_IN_ONE = {
    "openai_chat": sse(
        chat_chunk(
            {
                "role": "assistant",
                "tool_calls": [
                    chat_call(at, "f", f'{{"n":{at}}}', f"call_{at}") for at in range(3)
                ],
            }
        ),
        chat_chunk({}, "tool_calls"), done=True,
    ),
    "gemini": sse(
        gemini_chunk(
            [{"functionCall": {"name": "f", "args": {"n": at}}} for at in range(3)], "STOP"
        )
    ),
    "anthropic_messages": messages_stream(
        [("tool_use", f'{{"n":{at}}}') for at in range(3)], "tool_use"
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", [one for one in PAIRS if one[1] in CALLS_IN_ONE], ids="->".join)
def test_parallel_calls_in_one_chunk_are_as_many_calls(pair: tuple[str, str]) -> None:
    caller, upstream = pair
    (choice,) = streamed(caller, upstream, CALLS_IN_ONE[upstream]).choices
    assert [(one.name, one.arguments) for one in choice.calls] == [
        ("f", {"n": at}) for at in range(3)
    ]
    assert len({one.id for one in choice.calls}) == 3
    assert stop_seen(caller, choice) == "tool_call"


@pytest.mark.parametrize("caller", CALLERS_OF.get("openai_chat", []))
def test_interleaved_calls_are_told_apart(caller: str) -> None:
    def more(index: int, text: str) -> dict[str, Any]:
        return chat_chunk({"tool_calls": [{"index": index, "function": {"arguments": text}}]})

    body = sse(
        chat_chunk({"tool_calls": [chat_call(0, "f", "", "c0"), chat_call(1, "g", "", "c1")]}),
        more(1, '{"b"'), more(0, '{"a"'), more(1, ":2}"), more(0, ":1}"),
        chat_chunk({}, "tool_calls"), done=True,
    )  # fmt: skip
    (choice,) = streamed(caller, "openai_chat", body).choices
    assert [(one.name, one.arguments) for one in choice.calls] == [
        ("f", {"a": 1}), ("g", {"b": 2}),
    ]  # fmt: skip


STOPPED_CALLS = {
    "openai_chat": (
        chat_answer(
            {"content": None, "tool_calls": [chat_call(0, "f", '{"n":1}', "c1")]}, "stop"
        ),
        sse(
            chat_chunk({"tool_calls": [chat_call(0, "f", '{"n":1}', "c1")]}),
            chat_chunk({}, "stop"), done=True,
        ),
    ),
    "gemini": (
        encoded(gemini_chunk([{"functionCall": {"name": "f", "args": {"n": 1}}}], "STOP")),
        sse(
            gemini_chunk([{"functionCall": {"name": "f", "args": {"n": 1}}}]),
            gemini_chunk([{"text": ""}], "STOP"),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", [one for one in PAIRS if one[1] in STOPPED_CALLS], ids="->".join)
def test_calls_that_end_in_stop_end_in_a_tool_call(pair: tuple[str, str]) -> None:
    caller, upstream = pair
    whole, stream = STOPPED_CALLS[upstream]
    for seen in (translated(caller, upstream, whole), streamed(caller, upstream, stream)):
        (choice,) = seen.choices
        assert [one.arguments for one in choice.calls] == [{"n": 1}]
        assert stop_seen(caller, choice) == "tool_call"


@pytest.mark.parametrize("pair", [one for one in PAIRS if one[0] == "gemini"], ids="->".join)
def test_results_without_ids_find_their_calls_by_name_and_order(pair: tuple[str, str]) -> None:
    calls = [{"functionCall": {"name": "f", "args": {"n": at}}} for at in range(2)]
    results = [{"functionResponse": {"name": "f", "response": {"v": at}}} for at in range(2)]
    found = requested(
        *pair,
        {"contents": [
            {"role": "user", "parts": [{"text": "x"}]},
            {"role": "model", "parts": calls},
            {"role": "user", "parts": results},
        ]},
    )  # fmt: skip
    text = encoded(found)
    ids = _ids_of_calls(found)
    assert len(set(ids)) == 2
    for one in ids:
        assert text.count(encoded(one)) == 2, text


def _ids_of_calls(value: Any) -> list[str]:
    """Every `call_id`, `tool_use` id or chat call id of a request, in order."""
    if isinstance(value, list):
        return [found for one in value for found in _ids_of_calls(one)]
    if not isinstance(value, dict):
        return []
    if value.get("type") == "function_call":
        return [value["call_id"]]
    if value.get("type") == "tool_use" or ("function" in value and "id" in value):
        return [value["id"]]
    return [found for one in value.values() for found in _ids_of_calls(one)]


@pytest.mark.parametrize("caller", TO_GEMINI)
def test_gemini_gets_the_name_of_the_function_that_a_result_is_of(caller: str) -> None:
    chat = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"n":1.50}'}}
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "plain text"},
    ]  # fmt: skip
    call = {"type": "tool_use", "id": "c1", "name": "f", "input": {"n": 1.5}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "plain text"}
    documents: dict[str, Any] = {
        "openai_chat": {"messages": chat},
        "openai_responses": {"input": [
            {"role": "user", "content": "x"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"n":1.50}'},
            {"type": "function_call_output", "call_id": "c1", "output": "plain text"},
        ]},
        "anthropic_messages": {"max_tokens": 9, "messages": [
            {"role": "user", "content": "x"}, {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]},
    }  # fmt: skip
    found = requested(caller, "gemini", {"model": "m", **documents[caller]})
    parts = [part for turn in found["contents"] for part in turn["parts"]]
    (made,) = [part["functionCall"] for part in parts if "functionCall" in part]
    (given,) = [part["functionResponse"] for part in parts if "functionResponse" in part]
    assert (made["name"], made["args"]) == ("f", {"n": 1.5})
    assert given["name"] == "f"
    assert isinstance(given["response"], dict)
    assert "plain text" in given["response"].values()


@pytest.mark.parametrize(
    ("caller", "upstream", "field"),
    [
        ("anthropic_messages", "openai_chat", "stop_sequences"),
        ("anthropic_messages", "gemini", "stop_sequences"),
        ("gemini", "openai_chat", "generationConfig.stopSequences"),
    ],
)
def test_a_value_that_a_target_cannot_take_is_refused_in_words_that_name_the_field(
    caller: str, upstream: str, field: str
) -> None:
    stops = [f"stop {n}" for n in range(6)]
    document: dict[str, object]
    if caller == "gemini":
        document = {"contents": [{"parts": [{"text": "x"}]}]}
        document["generationConfig"] = {"stopSequences": stops}
    else:
        turn = {"role": "user", "content": "x"}
        document = {"model": "m", "max_tokens": 9, "messages": [turn], "stop_sequences": stops}
    with pytest.raises(GatewayError) as refused:
        requested(caller, upstream, document)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", field)
    assert field in refused.value.message


@pytest.mark.parametrize("said", ["Name a cat.", "Name a cat, as Json."])
def test_json_of_no_schema_is_asked_of_openai_in_a_word_that_it_insists_on(said: str) -> None:
    document = {
        "contents": [{"parts": [{"text": said}]}],
        "generationConfig": {"responseMimeType": "application/json"},
    }
    found = requested("gemini", "openai_chat", document)
    assert found["response_format"] == {"type": "json_object"}
    told = [one["content"] for one in found["messages"] if one["role"] == "system"]
    assert told == ([] if "Json" in said else ["Answer in JSON."])


@pytest.mark.parametrize("upstream", [one for one in CALLERS_OF if one != "openai_chat"])
def test_arguments_that_were_cut_are_not_made_up_toward_objects(upstream: str) -> None:
    document = {
        "model": "m",
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "tool_calls": [chat_call(0, "f", '{"n":1', "c1")]},
            {"role": "tool", "tool_call_id": "c1", "content": "r"},
        ],
    }  # fmt: skip
    if upstream == "openai_responses":  # which has arguments as text, too
        assert '{"n":1' in [one.get("arguments") for one in requested(
            "openai_chat", upstream, document
        )["input"]]  # fmt: skip
        return
    with pytest.raises(GatewayError) as refused:
        requested("openai_chat", upstream, document)
    assert refused.value.code == "unsupported_parameter"
    assert refused.value.param is not None
    assert refused.value.param.startswith("messages")


@pytest.mark.parametrize("caller", ["anthropic_messages", "gemini"])
def test_an_answer_whose_arguments_were_cut_ends_for_want_of_tokens(caller: str) -> None:
    body = chat_answer(
        {"content": "a", "tool_calls": [chat_call(0, "f", '{"n":1', "c1")]}, "tool_calls"
    )
    (choice,) = translated(caller, "openai_chat", body).choices
    assert stop_seen(caller, choice) == "max_tokens"
    assert not choice.calls
    assert choice.text == "a"


# --- endings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("caller", CALLERS_OF.get("openai_chat", []))
def test_a_refusal_keeps_its_words_and_one_that_is_cut_short_is_no_end(caller: str) -> None:
    opening = [
        chat_chunk({"role": "assistant", "refusal": "I can"}),
        chat_chunk({"refusal": "not"}),
    ]
    (choice,) = streamed(
        caller, "openai_chat", sse(*opening, chat_chunk({}, "stop"), done=True)
    ).choices
    assert choice.text + choice.refusal == "I cannot"
    if caller == "anthropic_messages":
        assert choice.stop == "refusal"
    (choice,) = streamed(
        caller, "openai_chat", sse(*opening, chat_chunk({}, "length"), done=True)
    ).choices
    assert choice.text + choice.refusal == "I cannot"
    assert stop_seen(caller, choice) in ("max_tokens", "refusal")
    _, whole = streamed_bytes(caller, "openai_chat", sse(*opening))
    assert not whole


NO_REASON = {
    "openai_chat": (
        chat_answer({"content": "hi"}, None), sse(chat_chunk({"content": "hi"}), done=True),
    ),
    "anthropic_messages": (
        encoded(
            {"id": "m", "type": "message", "role": "assistant", "model": "m",
             "content": [{"type": "text", "text": "hi"}], "stop_reason": None,
             "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
        ),
        messages_stream([("text", "hi")], None),
    ),
    "gemini": (
        encoded(gemini_chunk([{"text": "hi"}])), sse(gemini_chunk([{"text": "hi"}])),
    ),
    "openai_responses": (
        encoded({"id": "resp_1", "object": "response", "output": [], "status": "in_progress"}),
        sse({"type": "response.created", "sequence_number": 0,
             "response": {"id": "resp_1", "object": "response", "output": []}}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", [one for one in PAIRS if one[1] in NO_REASON], ids="->".join)
def test_an_answer_without_a_reason_of_its_end_has_none_invented(pair: tuple[str, str]) -> None:
    caller, upstream = pair
    whole, stream = NO_REASON[upstream]
    wanted = asked(caller, stream=False)
    translation = Translation(dialect(caller), dialect(upstream), wanted.request)
    out = translation.answer(whole, wanted)
    if isinstance(out, bytes):
        # Some servers of OpenAI's format tell no reason in whole answers: no normal end, then.
        (choice,) = read_answer(caller, out).choices
        assert (upstream, stop_seen(caller, choice)) == ("openai_chat", "max_tokens")
    _, ended = streamed_bytes(caller, upstream, stream)
    assert not ended


@pytest.mark.parametrize("caller", CALLERS_OF.get("gemini", []))
def test_a_finish_told_twice_is_told_once(caller: str) -> None:
    body = sse(gemini_chunk([{"text": "hi"}], "STOP"), gemini_chunk([], "STOP"))
    (choice,) = streamed(caller, "gemini", body).choices
    assert choice.text == "hi"
    assert stop_seen(caller, choice) == "end"


@pytest.mark.parametrize("caller", CALLERS_OF.get("openai_chat", []))
def test_an_answer_of_thoughts_alone_is_still_an_answer(caller: str) -> None:
    body = sse(chat_chunk({"reasoning_content": "hm"}), chat_chunk({}, "length"), done=True)
    (choice,) = streamed(caller, "openai_chat", body).choices
    assert choice.text == ""
    assert stop_seen(caller, choice) == "max_tokens"


# --- thoughts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS, ids="->".join)
def test_thoughts_are_never_shown_as_text(pair: tuple[str, str]) -> None:
    caller, upstream = pair
    thought = "SECRET THOUGHT"
    bodies: dict[str, Any] = {
        "openai_chat": chat_answer({"content": "hi", "reasoning_content": thought}, "stop"),
        "anthropic_messages": encoded(
            {"id": "m", "type": "message", "role": "assistant", "model": "m",
             "content": [{"type": "thinking", "thinking": thought, "signature": "c2ln"},
                         {"type": "redacted_thinking", "data": "ZGF0YQ=="},
                         {"type": "text", "text": "hi"}],
             "stop_reason": "end_turn", "stop_sequence": None,
             "usage": {"input_tokens": 1, "output_tokens": 1}}
        ),
        "gemini": encoded(
            gemini_chunk([{"text": thought, "thought": True},
                          {"text": "hi", "thoughtSignature": "c2ln"}], "STOP")
        ),
        "openai_responses": encoded(
            {"id": "resp_1", "object": "response", "created_at": 1, "model": "m",
             "status": "completed",
             "output": [
                 {"type": "reasoning", "id": "rs_1", "encrypted_content": "ZW5j",
                  "summary": [{"type": "summary_text", "text": thought}]},
                 {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                  "content": [{"type": "output_text", "text": "hi", "annotations": []}]},
             ],
             "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}}
        ),
    }  # fmt: skip
    (choice,) = translated(caller, upstream, bodies[upstream]).choices
    assert choice.text == "hi"
    assert choice.thoughts == thought


def test_a_temperature_above_one_is_refused_toward_anthropic_not_clamped() -> None:
    document = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    found = requested("openai_chat", "anthropic_messages", {**document, "temperature": 0.9})
    assert found["temperature"] == 0.9
    with pytest.raises(GatewayError) as refused:
        requested("openai_chat", "anthropic_messages", {**document, "temperature": 1.2})
    assert refused.value.param == "temperature"


@pytest.mark.parametrize("upstream", CALLERS_OF.get("openai_chat", []))
def test_an_empty_list_of_stop_sequences_is_left_out(upstream: str) -> None:
    document = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    assert requested("openai_chat", upstream, {**document, "stop": []}) == requested(
        "openai_chat", upstream, document
    )


@pytest.mark.parametrize("upstream", CALLERS_OF.get("openai_chat", []))
def test_results_of_parallel_calls_come_back_together_and_first(upstream: str) -> None:
    calls = [chat_call(at, "f", f'{{"n":{at}}}', f"c{at}") for at in range(2)]
    found = requested(
        "openai_chat", upstream,
        {"model": "m", "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c0", "content": "r0"},
            {"role": "tool", "tool_call_id": "c1", "content": "r1"},
            {"role": "user", "content": "go on"},
        ]},
    )  # fmt: skip
    if upstream == "anthropic_messages":
        *_, last = found["messages"]
        assert [one["type"] for one in last["content"]] == ["tool_result", "tool_result", "text"]
        roles = [one["role"] for one in found["messages"]]
        assert roles == ["user", "assistant", "user"]
    text = encoded(found)
    assert text.index(b"r0") < text.index(b"r1") < text.index(b"go on")
