"""Counting by another format's counter: what is asked, what is told, what is left out of it."""

import gzip
from typing import Any

import msgspec
import pytest
from anthropic.types import MessageTokensCount
from google.genai import types as gemini_types
from openai.types.responses import InputTokenCountResponse
from wire_records import directory

from gateway.errors import GatewayError
from gateway.wire.conversation import Request, Text
from gateway.wire.counting_translation import COUNTERS, prompt_of, written
from gateway.wire.format import Toward

TOWARD = {
    "openai_responses": Toward("gpt-4o", "openai"),
    "anthropic_messages": Toward("claude-sonnet-4-5", "anthropic", 64_000),
    "gemini": Toward("gemini-2.5-flash", "google"),
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
ASKED: dict[str, dict[str, Any]] = {
    "openai_responses": {
        "model": "m",
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": "Weather?"}],
        "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}],
    },
    "anthropic_messages": {
        "model": "m",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
    },
    "gemini": {
        "generateContentRequest": {
            "model": "models/m",
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [{"role": "user", "parts": [{"text": "Weather?"}]}],
            "tools": [
                {"functionDeclarations": [{"name": "weather", "parametersJsonSchema": SCHEMA}]}
            ],
            "generationConfig": {"temperature": 1.5, "stopSequences": ["x"], "maxOutputTokens": 4},
        }
    },
}
FIELDS = {
    "openai_responses": {"model", "input", "instructions", "tools"},
    "anthropic_messages": {"model", "system", "messages", "tools"},
    "gemini": {"generateContentRequest"},
}
PAIRS = [(one, other) for one in COUNTERS for other in COUNTERS]


def read(name: str, body: bytes | None = None) -> Request:
    return COUNTERS[name].read_request(body or msgspec.json.encode(ASKED[name]), None)


@pytest.mark.parametrize(("caller", "counter"), PAIRS, ids="->".join)
def test_the_prompt_and_its_tools_are_counted_and_nothing_else_is_sent(
    caller: str, counter: str
) -> None:
    body, ignored = written(read(caller), counter, TOWARD[counter])
    assert not ignored
    document = msgspec.json.decode(body)
    assert set(document) == FIELDS[counter]
    if counter == "gemini":
        inner = document["generateContentRequest"]
        assert inner["model"] == "models/gemini-2.5-flash"
        assert inner.keys() <= {"model", "systemInstruction", "contents", "tools"}
    again = read(counter, body)
    assert again.system == (Text("Be brief."),)
    assert [block for one in again.messages for block in one.content] == [Text("Weather?")]
    (tool,) = again.tools
    assert tool.name == "weather"
    assert msgspec.json.decode(tool.schema or b"") == SCHEMA


def test_what_only_says_how_to_answer_is_no_reason_to_refuse_a_count() -> None:
    sampled = read("gemini")
    assert {"stop", "temperature_above_1", "max_output_tokens"} <= set(sampled.spelled)
    counted = prompt_of(sampled)
    assert (counted.stop, counted.temperature, counted.max_output_tokens) == ((), None, None)
    assert not set(counted.spelled) & {"stop", "temperature", "max_output_tokens"}
    assert "tools" in counted.spelled


def test_a_prompt_that_a_counter_cannot_be_told_is_refused_by_its_field() -> None:
    asked = read(
        "anthropic_messages",
        b'{"model":"m","messages":[{"role":"user","content":"a"},'
        b'{"role":"assistant","content":"b"}]}',
    )
    with pytest.raises(GatewayError) as refused:
        written(asked, "openai_responses", TOWARD["openai_responses"])
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "messages.1.role")
    assert written(asked, "anthropic_messages", TOWARD["anthropic_messages"])


def test_a_field_that_nobody_knows_is_told_as_left_out() -> None:
    body = msgspec.json.encode({**ASKED["anthropic_messages"], "x_new": 1})
    _, ignored = written(read("anthropic_messages", body), "gemini", TOWARD["gemini"])
    assert ignored == ["x_new"]


@pytest.mark.parametrize("name", COUNTERS)
def test_an_answer_is_read_as_it_is_written(name: str) -> None:
    counter = COUNTERS[name]
    assert counter.read_answer(counter.write_answer(13)) == 13
    assert counter.read_answer(counter.write_answer(0)) == 0
    for body in (b"", b"{}", b"[]", b"<html>", b'{"input_tokens":-1,"totalTokens":-1}',
                 b'{"input_tokens":"x","totalTokens":null}'):  # fmt: skip
        assert counter.read_answer(body) is None


def test_what_is_written_is_what_the_official_types_read() -> None:
    written_by = {name: counter.write_answer(13) for name, counter in COUNTERS.items()}
    openai = InputTokenCountResponse.model_validate_json(
        written_by["openai_responses"], strict=True
    )
    anthropic = MessageTokensCount.model_validate_json(
        written_by["anthropic_messages"], strict=True
    )
    gemini = gemini_types.CountTokensResponse.model_validate_json(written_by["gemini"])
    assert openai.input_tokens == anthropic.input_tokens == gemini.total_tokens == 13


RECORDS = {
    "openai_responses": ("openai_input_tokens", [11, 47]),
    "anthropic_messages": ("anthropic_count_tokens", [13, 16, 16, 1114]),
    "gemini": ("google_count_tokens", [5, 10]),
}


@pytest.mark.recorded
@pytest.mark.parametrize("name", COUNTERS)
def test_recorded_counts_are_read_and_can_be_asked_of_every_other_counter(name: str) -> None:
    file, expected = RECORDS[name]
    found = directory() / f"{file}.jsonl.gz"
    if not found.is_file():
        pytest.skip("no recorded traffic: set GATEWAY_RECORDED_DIR to its directory")
    counts = []
    for line in gzip.decompress(found.read_bytes()).splitlines():
        record: Any = msgspec.json.decode(line)
        counter = COUNTERS[name]
        asked = counter.read_request(msgspec.json.encode(record["request_body"]), record["model"])
        for other in COUNTERS:
            body, _ = written(asked, other, TOWARD[other])
            assert [one.content for one in read(other, body).messages]
        counts.append(counter.read_answer(record["response_body_text"].encode()))
    assert sorted(filter(None, counts)) == expected
