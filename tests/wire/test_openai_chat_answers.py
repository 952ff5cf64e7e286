"""Whole answers and errors of OpenAI chat, read and written."""

from typing import Any

import msgspec
import orjson
import pytest
import sdk_schemas
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import call_ids
from gateway.wire.conversation import (
    Answer,
    AnswerError,
    Block,
    Choice,
    Citation,
    Image,
    Refusal,
    Request,
    Text,
    Thinking,
    ToolCall,
)
from gateway.wire.format import Asked
from gateway.wire.neutral import Usage
from gateway.wire.openai_chat_dialect import DIALECT


def asked(**members: Any) -> Asked:
    request = Request(format="openai_chat", model="p", stream=False, **members)
    return Asked(request, "premium", "77", 1_790_000_000)


def answered(message: dict[str, Any], reason: str | None = "stop", **members: Any) -> Answer:
    choice = {"index": 0, "message": message, "finish_reason": reason}
    body = {"id": "c-1", "model": "m", "created": 5, "choices": [choice], **members}
    found = DIALECT.read_answer(msgspec.json.encode(body))
    assert found is not None
    return found


def test_an_answer_that_is_written_is_one_to_the_sdk_and_says_the_same_again() -> None:
    blocks: tuple[Block, ...] = (
        Thinking("hm"),
        Text("Hello"),
        Citation("https://e.com", "E", "said", 0, 5),
        Image("image/png", "aaaa"),
        ToolCall("a", "f", '{"n": 1.10}'),
    )
    usage = Usage(input_tokens=5, output_tokens=3, cache_read_input_tokens=2, reasoning_tokens=1)
    answer = Answer(id="x", model="y", choices=(Choice(blocks, "tool_call"),), usage=usage)
    body = DIALECT.write_answer(answer, asked())
    seen = sdk_schemas.read_answer("openai_chat", body)
    assert seen.choices[0].calls == (sdk_schemas.SeenCall("a", "f", {"n": 1.1}),)
    again = DIALECT.read_answer(body)
    assert again == Answer(
        id="chatcmpl-77", model="premium", choices=(Choice(blocks, "tool_call"),), usage=usage,
        created_s=1_790_000_000,
    )  # fmt: skip


def test_a_caller_of_functions_gets_a_function_call() -> None:
    answer = Answer(id="x", model="y", choices=(Choice((ToolCall("a", "f", ""),), "tool_call"),))
    body = orjson.loads(DIALECT.write_answer(answer, asked(spelled={"tools": "functions"})))
    assert body["choices"][0]["message"]["function_call"] == {"name": "f", "arguments": "{}"}
    assert body["choices"][0]["finish_reason"] == "function_call"
    assert "tool_calls" not in body["choices"][0]["message"]


def test_a_refusal_in_words_is_content_and_any_other_a_filter() -> None:
    words = Answer(id="x", model="y", choices=(Choice((Refusal("No."),), "refusal"),))
    (choice,) = sdk_schemas.read_answer("openai_chat", DIALECT.write_answer(words, asked())).choices
    assert (choice.refusal, choice.stop) == ("No.", "stop")
    silent = Answer(id="x", model="y", choices=(Choice((), "refusal"),))
    (choice,) = sdk_schemas.read_answer(
        "openai_chat", DIALECT.write_answer(silent, asked())
    ).choices
    assert choice.stop == "content_filter"


def test_an_answer_of_thoughts_alone_has_empty_content() -> None:
    answer = Answer(id="x", model="y", choices=(Choice((Thinking("hm"),), "max_tokens"),))
    message = orjson.loads(DIALECT.write_answer(answer, asked()))["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("", "hm")


@pytest.mark.parametrize(
    ("message", "reason", "stop"),
    [
        ({"content": "a"}, "stop", "end"),
        ({"content": "a"}, "eos", "end"),
        ({"content": "a"}, "length", "max_tokens"),
        ({"content": "a"}, None, "max_tokens"),
        ({"content": "a"}, "", "max_tokens"),
        ({"content": "a"}, "content_filter", "refusal"),
        ({"refusal": "a"}, "stop", "refusal"),
        ({"refusal": "a"}, "length", "max_tokens"),
        ({"tool_calls": [{"id": "a", "function": {"name": "f"}}]}, "stop", "tool_call"),
        ({"tool_calls": [{"id": "a", "function": {"name": "f"}}]}, "", "tool_call"),
        ({"tool_calls": [{"id": "a", "function": {"name": "f"}}]}, "length", "max_tokens"),
        ({"content": "a"}, "tool_calls", "end"),
    ],
)
def test_why_an_answer_ended_follows_from_what_it_holds(
    message: dict[str, Any], reason: str | None, stop: str
) -> None:
    assert answered(message, reason).choices[0].stop == stop


def test_odd_calls_are_read() -> None:
    calls = [
        {"id": "", "function": {"name": "f", "arguments": {"big": 10**30}}},
        {"id": "b", "function": {"name": ""}, "custom": {"name": "c", "input": "x"}},
        {"id": "", "function": {"name": "", "arguments": ""}},
        {"function": {"name": "g", "arguments": None}},
    ]  # fmt: skip
    found = answered({"content": None, "tool_calls": calls, "function_call": {"name": ""}})
    assert found.choices[0].content == (
        ToolCall(call_ids.made("c-1", 0), "f", '{"big":1000000000000000000000000000000}'),
        ToolCall("b", "c", "x", custom=True),
        ToolCall(call_ids.made("c-1", 2), "g", ""),
    )


@pytest.mark.parametrize(
    "members",
    [
        {"error": {"message": "boom", "code": 502}},
        {"choices": [{"finish_reason": "error", "error": {"message": "boom", "code": 502}}]},
        {"choices": [{"message": {"content": None}, "finish_reason": None}]},
        {"choices": []},
    ],
)
def test_an_answer_that_is_none_is_an_error(members: dict[str, Any]) -> None:
    found = answered({"content": "a"}, "stop", **members)
    assert found.error is not None
    assert found.choices == ()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"<html>", b'{"choices":{}}'])
def test_what_is_no_answer_is_none(body: bytes) -> None:
    assert DIALECT.read_answer(body) is None


@given(st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from((
        "index", "message", "content", "tool_calls", "function", "name", "arguments", "id",
        "finish_reason", "refusal", "reasoning", "reasoning_details", "error", "audio", "images",
        "image_url", "url", "annotations", "url_citation", "custom", "type", "text", "data",
    )), inner, max_size=4),
))  # fmt: skip
def test_no_answer_makes_the_reader_raise(choice: Any) -> None:
    found = DIALECT.read_answer(msgspec.json.encode({"choices": [choice], "id": choice}))
    assert found is None or found.choices or found.error


# Errors.


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b'{"error":{"message":"Bad key","type":"t","code":"invalid_api_key"}}',
         AnswerError("Bad key", "t", "invalid_api_key")),
        (401, b'{"detail":"Invalid API Key"}', AnswerError("Invalid API Key")),
        (404, b'{"error":"No such model"}', AnswerError("No such model")),
        (400, b'{"code":"3051","object":"error","message":"No logprobs","type":"x"}',
         AnswerError("No logprobs", "x", "3051")),
        (401, b'{"error":{"message":"Missing","code":401}}', AnswerError("Missing", None, "401")),
        (429, b'[{"error":{"code":429,"message":"Slow down","status":"RESOURCE_EXHAUSTED",'
         b'"details":[{"@type":"x","retryDelay":"3.5s"}]}}]',
         AnswerError("Slow down", "RESOURCE_EXHAUSTED", "429", 3.5)),
        (502, b"<html>Bad gateway</html>",
         AnswerError("The upstream answered 502 without saying why")),
        (500, b"", AnswerError("The upstream answered 500 without saying why")),
        (500, b"out of memory", AnswerError("out of memory")),
        (500, b'{"error":{}}', AnswerError("The upstream answered 500")),
    ],
)  # fmt: skip
def test_an_error_is_read_in_whatever_shape_it_comes(
    status: int, body: bytes, expected: AnswerError
) -> None:
    assert DIALECT.read_error(status, body) == expected


@given(st.binary(max_size=100))
def test_no_error_body_raises(body: bytes) -> None:
    assert DIALECT.read_error(500, body).message
