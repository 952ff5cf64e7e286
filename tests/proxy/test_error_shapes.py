"""`proxy.errors`: every code in every family's envelope, and how a broken stream ends."""

from typing import Any, get_args

import msgspec
import pytest

from gateway.config import Family
from gateway.errors import CODES, GatewayError
from gateway.proxy import errors
from gateway.proxy.endpoints import Endpoint, classify

FAMILIES: tuple[Family, ...] = get_args(Family)


def body(code: str, family: Family, **more: Any) -> Any:
    error = GatewayError(code, 'a "quoted" message\n€', **more)
    return msgspec.json.decode(errors.body(error, family, "id-1"))


@pytest.mark.parametrize("code", CODES)
def test_openai_clients_get_all_four_members(code: str) -> None:
    found = body(code, "openai", param="model")["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert (found["code"], found["param"]) == (code, "model")
    assert found["message"] == 'a "quoted" message\n€'
    assert body(code, "openai")["error"]["param"] is None
    if CODES[code][0] >= 500 and CODES[code][0] != 504:
        assert found["type"] == "server_error"


@pytest.mark.parametrize("code", CODES)
def test_anthropic_clients_get_a_type_they_know(code: str) -> None:
    found = body(code, "anthropic")
    assert found["type"] == "error"
    assert found["request_id"] == "id-1"
    assert found["error"]["type"] in {
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "api_error",
        "timeout_error",
        "overloaded_error",
    }


@pytest.mark.parametrize("code", CODES)
def test_gemini_clients_get_a_google_status(code: str) -> None:
    found = body(code, "gemini", retry_after_s=1.5)["error"]
    assert set(found) == {"code", "message", "status", "details"}
    assert found["code"] == CODES[code][0]
    assert found["status"].isupper()
    reason, retry = found["details"]
    assert reason["reason"] == code.upper()
    assert retry["retryDelay"] == "1.5s"
    assert len(body(code, "gemini")["error"]["details"]) == 1


def test_retrying_is_advised_exactly_where_it_can_help() -> None:
    wait = GatewayError("rate_limit_exceeded", "x", retry_after_s=1.2)
    assert errors.headers(wait) == b"retry-after: 2\r\nretry-after-ms: 1200\r\n"
    soon = GatewayError("rate_limit_exceeded", "x", retry_after_s=0.0001)
    assert errors.headers(soon) == b"retry-after: 1\r\nretry-after-ms: 1\r\n"
    assert errors.headers(GatewayError("invalid_request", "x")) == b"x-should-retry: false\r\n"
    assert errors.headers(GatewayError("rate_limit_exceeded", "x")) == b""


def endpoint(path: str, query: str = "") -> Endpoint:
    found = classify(path, query, ())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("path", "query", "start", "end"),
    [
        ("/v1/chat/completions", "", b'data: {"error":', b"}\n\n"),
        ("/v1/completions", "", b'data: {"error":', b"}\n\n"),
        ("/v1/messages", "", b'event: error\ndata: {"type":"error",', b"}\n\n"),
        ("/v1/responses", "", b'event: response.failed\ndata: {"type":', b"}\n\n"),
        ("/v1beta/models/g:streamGenerateContent", "alt=sse", b'data: {"error":', b"\r\n\r\n"),
        ("/v1beta/models/g:streamGenerateContent", "", b',\n{"error":', b"}\n]"),
    ],
)
def test_a_broken_stream_ends_in_one_event_of_its_format(
    path: str, query: str, start: bytes, end: bytes
) -> None:
    error = GatewayError("upstream_timeout", "line one\nline two")
    event = errors.stream_event(error, endpoint(path, query), "id-1", b"")
    assert event.startswith(start)
    assert event.endswith(end)
    assert b"[DONE]" not in event
    assert event.count(b"line one\\nline two") == 1


@pytest.mark.parametrize(
    ("last", "number"),
    [
        (b'data: {"type":"x","sequence_number":41}\n\n', 42),
        (b'data: {"sequence_number":7}\n\ndata: {"sequence_number": 8 ,"x":1}\n\n', 9),
        (b"", 0),
        (b": ping\n\n", 0),
    ],
)
def test_the_numbers_of_a_responses_stream_go_on(last: bytes, number: int) -> None:
    error = GatewayError("upstream_timeout", "x")
    event = errors.stream_event(error, endpoint("/v1/responses"), "id-1", last)
    data = msgspec.json.decode(event.partition(b"data: ")[2])
    assert data["sequence_number"] == number
    assert data["response"]["error"] == {"code": "upstream_timeout", "message": "x"}
