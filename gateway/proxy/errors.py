"""A `GatewayError`, rendered in the caller's format: whole answers and mid-stream events. Pure.

Shapes: OpenAI `{"error":{message,type,param,code}}` (platform.openai.com/docs/guides/error-codes),
Anthropic `{"type":"error","error":{type,message},"request_id"}` (docs.anthropic.com/en/api/errors),
Gemini `{"error":{code,message,status,details}}` (ai.google.dev/gemini-api/docs/troubleshooting,
google.rpc.Status), all read 2026-08. Used by the handler, the exchange and `api/`.
"""

import math
import re
from typing import assert_never

import orjson

from gateway.config import Family
from gateway.errors import GatewayError, Stage
from gateway.proxy.endpoints import Endpoint
from gateway.wire.conversation import AnswerError

_OPENAI_TYPES = {
    400: "invalid_request_error",
    # OpenAI itself says invalid_request_error, but its clients' wrappers (LiteLLM) tell a bad key
    # from a bad request by this where the message is not OpenAI's own.
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_GEMINI_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_SEQUENCE = re.compile(rb'"sequence_number":\s*(\d+)')


def body(error: GatewayError, family: Family, request_id: str | None) -> bytes:
    """The JSON body of an error answer."""
    return orjson.dumps(document(error, family, request_id))


def document(error: GatewayError, family: Family, request_id: str | None) -> dict[str, object]:
    """The error envelope as a value."""
    if family == "openai":
        return {
            "error": {
                "message": error.message,
                "type": _OPENAI_TYPES.get(error.status, "server_error"),
                "param": error.param,
                "code": error.code,
            }
        }
    if family == "anthropic":
        return {
            "type": "error",
            "error": {
                "type": _ANTHROPIC_TYPES.get(error.status, "api_error"),
                "message": error.message,
            },
            "request_id": request_id,
        }
    if family == "gemini":
        details: list[dict[str, object]] = [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": error.code.upper(),
                "domain": "gateway",
            }
        ]
        if error.retry_after_s is not None:
            details.append(_retry_info(error.retry_after_s))
        return {
            "error": {
                "code": error.status,
                "message": error.message,
                "status": _GEMINI_STATUS.get(error.status, "INTERNAL"),
                "details": details,
            }
        }
    assert_never(family)


def foreign_status(status: int, family: Family) -> int:
    """The status shown for one of another family's upstream: 529 is Anthropic's alone."""
    return 503 if status == 529 and family != "anthropic" else status


def foreign(status: int, error: AnswerError, family: Family, request_id: str) -> bytes:
    """The error answer of an upstream that speaks another format, in the caller's.

    The message is the upstream's own; type and status word are those of the caller's format for the
    HTTP status, `code` is the upstream's word.
    """
    message = error.message or f"The upstream said {status}"
    if family == "openai":
        kind = _OPENAI_TYPES.get(
            status, "server_error" if status >= 500 else "invalid_request_error"
        )
        code = error.code or error.type
        told: dict[str, object] = {"message": message, "type": kind, "param": None, "code": code}
        return orjson.dumps({"error": told})
    if family == "anthropic":
        kind = _ANTHROPIC_TYPES.get(
            status, "api_error" if status >= 500 else "invalid_request_error"
        )
        kind = "overloaded_error" if status == 529 else kind
        return orjson.dumps(
            {
                "type": "error",
                "error": {"type": kind, "message": message},
                "request_id": request_id,
            }
        )
    word = _GEMINI_STATUS.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    details: list[dict[str, object]] = []
    if error.retry_after_s is not None:
        details.append(_retry_info(error.retry_after_s))
    return orjson.dumps(
        {"error": {"code": status, "message": message, "status": word, "details": details}}
    )


def _retry_info(seconds: float) -> dict[str, object]:
    return {
        "@type": "type.googleapis.com/google.rpc.RetryInfo",
        "retryDelay": f"{seconds:g}s",
    }


def all_failed(stage: Stage, why: str = "") -> GatewayError:
    """The 503 of a call that no target answered; the receipt tells what became of each."""
    message = f"All upstream providers failed; {why}" if why else "All upstream providers failed"
    return GatewayError("upstream_error", message, stage=stage, retry_after_s=1)


def headers(error: GatewayError) -> bytes:
    """Header lines that belong to an error: when to come back, and whether to."""
    if error.retry_after_s is None:
        # SDKs would otherwise repeat what cannot succeed (peers' users: endless retries).
        return b"x-should-retry: false\r\n" if error.retry == "never" else b""
    seconds = max(1, math.ceil(error.retry_after_s))
    milliseconds = max(1, math.ceil(error.retry_after_s * 1000))
    return b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (seconds, milliseconds)


def stream_event(error: GatewayError, endpoint: Endpoint, request_id: str, last: bytes) -> bytes:
    """The in-format event that ends a broken stream; `last` is what was sent before it.

    Responses streams number their events, so the number goes on from the last one sent.
    """
    family = endpoint.family
    if endpoint.format == "openai_responses":
        numbers = _SEQUENCE.findall(last)
        event = {
            "type": "response.failed",
            "sequence_number": int(numbers[-1]) + 1 if numbers else 0,
            "response": {
                "id": request_id,
                "object": "response",
                "status": "failed",
                "error": {"code": error.code, "message": error.message},
                "incomplete_details": None,
                "output": [],
            },
        }
        return b"event: response.failed\ndata: " + orjson.dumps(event) + b"\n\n"
    data = body(error, family, request_id)
    if family == "anthropic":
        return b"event: error\ndata: " + data + b"\n\n"
    if endpoint.array:
        return b",\n" + data + b"\n]"
    if family == "gemini":
        return b"data: " + data + b"\r\n\r\n"
    return b"data: " + data + b"\n\n"
