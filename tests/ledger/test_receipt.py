import csv
import io
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.entry import Attempt, Entry, Failure, Opening, PriceShown
from gateway.ledger.receipt import amount, export, render, render_in_progress, timestamp
from gateway.ledger.records import Receipt
from gateway.wire.neutral import SidePass, Usage

OPENING = Opening(
    id="01a1fd13-fb96-7264-9405-a1fcbbabbde0",
    owner="user:7",
    created_ms=1_795_237_200_123,
    endpoint="/v1/chat/completions",
    format="openai_chat",
    model="premium",
    stream=True,
    bytes=412,
    user_id=7,
)
ENTRY = Entry(
    opening=OPENING,
    status="succeeded",
    http_status=200,
    provider="anthropic",
    route_model="claude-sonnet",
    route_format="anthropic_messages",
    translated=True,
    upstream_request_id="req_1",
    attempts=[
        Attempt("openai", "gpt-4o", "upstream_status", 429, 31.0),
        Attempt("anthropic", "claude-sonnet", "succeeded", 200, 1800.25),
    ],
    usage=Usage(10, 8, 0, 0, 0),
    usage_source="reported",
    cost_nano_usd=105_000,
    billed=True,
    price=PriceShown("v7", {"input_per_mtok": "2.50", "output_per_mtok": "10.00"}),
    connect_ms=0.0,
    first_byte_ms=212.4,
    total_ms=1840.2,
    gateway_ms=0.21,
)


def shown(entry: Entry) -> dict[str, Any]:
    text = render(entry, sequence=4211, previous=b"\x01" * 32, hash=b"\x02" * 32)
    return msgspec.json.decode(text, type=dict[str, Any])


def test_a_receipt_is_the_documented_json_member_for_member() -> None:
    text = render(ENTRY, sequence=4211, previous=b"\x01" * 32, hash=b"\x02" * 32).decode()
    assert text == (
        '{"id":"01a1fd13-fb96-7264-9405-a1fcbbabbde0","object":"receipt",'
        '"created_at":"2026-11-21T05:00:00.123Z","status":"succeeded","failure":null,'
        '"request":{"endpoint":"/v1/chat/completions","format":"openai_chat","model":"premium",'
        '"stream":true,"bytes":412},'
        '"route":{"provider":"anthropic","model":"claude-sonnet","format":"anthropic_messages",'
        '"translated":true,"upstream_request_id":"req_1","attempts":['
        '{"provider":"openai","model":"gpt-4o","outcome":"upstream_status","status":429,"ms":31.0},'
        '{"provider":"anthropic","model":"claude-sonnet","outcome":"succeeded","status":200,'
        '"ms":1800.25}]},'
        '"usage":{"input_tokens":10,"output_tokens":8,"cache_read_input_tokens":0,'
        '"cache_creation_input_tokens":0,"reasoning_tokens":0,"total_tokens":18,'
        '"source":"reported"},'
        '"cost":{"currency":"USD","amount":"0.000105","nano_usd":105000,"held_nano_usd":0,'
        '"billed":true,'
        '"price_version":"v7","price":{"input_per_mtok":"2.50","output_per_mtok":"10.00"},'
        '"rate_multiplier":"1","model_multiplier":"1"},'
        '"timing":{"connect_ms":0.0,"first_byte_ms":212.4,"total_ms":1840.2,"gateway_ms":0.21},'
        '"http_status":200,'
        f'"integrity":{{"sequence":4211,"previous":"{"01" * 32}","hash":"{"02" * 32}"}}}}'
    )


def test_a_request_in_progress_has_the_same_members() -> None:
    text = render_in_progress(OPENING, OPENING.created_ms + 250)
    running = msgspec.json.decode(text, type=dict[str, Any])
    final = shown(ENTRY)
    assert list(running) == list(final)
    for part in ("request", "route", "usage", "cost", "timing"):
        assert list(running[part]) == list(final[part])
    assert running["status"] == "in_progress"
    assert running["request"] == final["request"]
    assert running["timing"]["total_ms"] == 250
    assert (running["failure"], running["http_status"], running["integrity"]) == (None, None, None)
    assert running["cost"]["nano_usd"] is running["cost"]["amount"] is None


def test_what_was_not_reported_is_null_and_not_zero() -> None:
    entry = Entry(
        opening=OPENING,
        status="failed",
        http_status=429,
        failure=Failure("rate_limit", "rate_limit_exceeded", "Rate limit exceeded: 10 RPM"),
        cost_nano_usd=None,
    )
    receipt = shown(entry)
    assert receipt["failure"] == {
        "stage": "rate_limit",
        "code": "rate_limit_exceeded",
        "message": "Rate limit exceeded: 10 RPM",
    }
    assert receipt["usage"] == {
        "input_tokens": None,
        "output_tokens": None,
        "cache_read_input_tokens": None,
        "cache_creation_input_tokens": None,
        "reasoning_tokens": None,
        "total_tokens": None,
        "source": "none",
    }
    assert receipt["cost"]["amount"] is receipt["cost"]["nano_usd"] is None
    assert receipt["cost"]["price"] is receipt["cost"]["price_version"] is None


def test_usage_of_nothing_is_zero_and_not_null() -> None:
    entry = Entry(opening=OPENING, status="succeeded", http_status=200, usage=Usage())
    usage = shown(entry)["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (0, 0, 0)
    assert usage["cache_read_input_tokens"] is None


def test_further_parts_of_usage_are_shown_where_known() -> None:
    usage = Usage(
        100,
        9,
        cache_creation_input_tokens=30,
        cache_write_5m=10,
        cache_write_1h=20,
        input_audio_tokens=0,
        server_tool_requests={"web_search_requests": 2},
        billed_besides=[SidePass("compaction", input_tokens=5)],
    )
    entry = Entry(opening=OPENING, status="succeeded", http_status=200, usage=usage)
    told = shown(entry)["usage"]
    assert (told["cache_write_5m"], told["cache_write_1h"], told["input_audio_tokens"]) == (
        10,
        20,
        0,
    )
    assert told["server_tool_requests"] == {"web_search_requests": 2}
    assert told["billed_besides"] == [{"kind": "compaction", "input_tokens": 5}]
    assert "output_audio_tokens" not in told


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (105_000, "0.000105"),
        (10**9, "1"),
        (1_500_000_000, "1.5"),
        (10 * 10**9, "10"),
        (-2_000_000_001, "-2.000000001"),
    ],
)
def test_an_amount_is_exact_and_short(nano_usd: int, text: str) -> None:
    assert amount(nano_usd) == text


@given(st.integers(min_value=-(2**63), max_value=2**63))
def test_an_amount_reads_back_as_the_same_money(nano_usd: int) -> None:
    text = amount(nano_usd)
    assert Decimal(text) * 10**9 == nano_usd
    assert "E" not in text
    assert not ("." in text and text.endswith("0"))


@given(st.integers(min_value=0, max_value=4_000_000_000_000))
def test_a_timestamp_keeps_its_milliseconds(ms: int) -> None:
    text = timestamp(ms)
    assert text[-5] == "."
    assert text.endswith(f"{ms % 1000:03d}Z")
    assert len(text) == len("2026-11-21T05:00:00.123Z")


def receipt(entry: Entry) -> Receipt:
    return Receipt(1, bytes(32), b"\x02" * 32, entry)


def test_an_export_is_one_receipt_to_a_line() -> None:
    lines = list(export([receipt(ENTRY), receipt(ENTRY)], "jsonl"))
    assert lines == [render(ENTRY, sequence=1, previous=bytes(32), hash=b"\x02" * 32) + b"\n"] * 2


def test_a_table_opens_with_its_header_and_keeps_every_value() -> None:
    text = b"".join(export([receipt(ENTRY)], "csv")).decode()
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["id"] == OPENING.id
    assert row["created_at"] == "2026-11-21T05:00:00.123Z"
    assert (row["amount_usd"], row["nano_usd"], row["billed"]) == ("0.000105", "105000", "true")
    assert (row["input_tokens"], row["failure_code"]) == ("10", "")


def test_a_table_of_nothing_is_its_header() -> None:
    (line,) = export([], "csv")
    assert line.startswith(b"sequence,id,")


@pytest.mark.parametrize("model", ['=HYPERLINK("x")', "+1", "-1", "@x", "\tx"])
def test_a_table_holds_no_formulas(model: str) -> None:
    opening = msgspec.structs.replace(OPENING, model=model)
    entry = Entry(opening=opening, status="succeeded", http_status=200)
    text = b"".join(export([receipt(entry)], "csv")).decode()
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["model"] == f"'{model}"
