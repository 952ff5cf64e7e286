"""Gemini's countTokens, read and written."""

import gzip
from typing import Any

import msgspec
import pytest
from google.genai import types
from wire_records import directory

from gateway.errors import GatewayError
from gateway.wire import gemini_counting as counting
from gateway.wire.conversation import Message, Text, Tool
from gateway.wire.format import Toward

HELLO = [{"role": "user", "parts": [{"text": "hello"}]}]


def test_turns_alone_and_a_whole_request_are_read() -> None:
    alone = counting.read_count_request(msgspec.json.encode({"contents": HELLO}), model="g")
    assert alone.messages == (Message("user", (Text("hello"),)),)
    inner = {
        "model": "models/inner",
        "contents": HELLO,
        "system_instruction": {"parts": {"text": "be short"}},
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
    }
    body = msgspec.json.encode({"generate_content_request": inner})
    whole = counting.read_count_request(body, model=None)
    assert whole.model == "inner"
    assert whole.system == (Text("be short"),)
    assert whole.tools == (Tool("f"),)
    assert counting.read_count_request(body, model="path").model == "path"


def test_what_is_written_is_read_again() -> None:
    first = counting.read_count_request(msgspec.json.encode({"contents": HELLO}), model="g")
    written, ignored = counting.write_count_request(first, Toward("gemini-3-pro", "google"))
    assert ignored == []
    assert msgspec.json.decode(written)["generateContentRequest"]["model"] == "models/gemini-3-pro"
    assert counting.read_count_request(written, model="g") == first


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"contents":5}', b'{"contents":[]}', b"x"])
def test_what_asks_for_nothing_is_refused(body: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        counting.read_count_request(body, model="g")
    assert refused.value.code == "invalid_request"


def test_counts_are_read_and_written() -> None:
    document: Any = msgspec.json.decode(counting.write_count_answer(13))
    types.CountTokensResponse.model_validate(document)
    assert counting.read_count_answer(counting.write_count_answer(13)) == 13
    for body in (b"", b"{}", b'{"totalTokens":-1}', b'{"totalTokens":"x"}'):
        assert counting.read_count_answer(body) is None


@pytest.mark.recorded
def test_recorded_exchanges_are_read() -> None:
    found = directory() / "google_count_tokens.jsonl.gz"
    if not found.is_file():
        pytest.skip("no recorded traffic: set GATEWAY_RECORDED_DIR to its directory")
    counts = []
    for line in gzip.decompress(found.read_bytes()).splitlines():
        record: Any = msgspec.json.decode(line)
        asked = counting.read_count_request(
            msgspec.json.encode(record["request_body"]), model=record["model"]
        )
        assert asked.messages
        counts.append(counting.read_count_answer(record["response_body_text"].encode()))
    assert sorted(filter(None, counts)) == [5, 10]
