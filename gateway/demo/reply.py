"""What a demo endpoint returns, and each provider's error envelope and headers.

An endpoint is a plain function from a decoded request to a `Reply`, or raises `Refusal`; it never
touches the connection. `delivery.py` sends the reply, with whatever the switches ask for. Used by
the demo alone.
"""

import secrets
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import orjson

Family = Literal["openai", "anthropic", "gemini"]
"""Whose envelope, headers and credentials an endpoint uses."""

_BASE62 = string.ascii_letters + string.digits

# (type, code) of OpenAI's envelope by status; other statuses take those of 400 or 500.
_OPENAI_TYPES: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", "service_unavailable"),
}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_GEMINI_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Reply(msgspec.Struct, frozen=True):
    """An answer to send: a document (`body`) or a stream (`events`, one network write each).

    `fault(n)` gives the pieces that turn a stream into the format's error after `n` events;
    streams that are not events (sound) have none.
    """

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = {}
    events: list[bytes] | None = None
    fault: Callable[[int], list[bytes]] | None = None


class Refusal(Exception):
    """A request that is answered with an error.

    `kind` and `code` default to what the family says for the status; `param` is OpenAI's field at
    fault; `details` is Gemini's list.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        kind: str | None = None,
        code: str | None = None,
        details: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.kind = kind
        self.code = code
        self.details = details


def new_id(prefix: str, length: int = 24) -> str:
    """An identifier as providers make them: a prefix and random letters and digits."""
    return prefix + "".join(secrets.choice(_BASE62) for _ in range(length))


def pretty(value: Any) -> bytes:
    """JSON as OpenAI and Google send documents: indented, with a line end."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def json_reply(family: Family, value: Any, *, status: int = 200) -> Reply:
    """A document in the family's own JSON style."""
    if family == "anthropic":
        return Reply(body=orjson.dumps(value), status=status)
    if family == "gemini":
        content_type = "application/json; charset=UTF-8"
        return Reply(body=pretty(value), status=status, content_type=content_type)
    return Reply(body=pretty(value), status=status)


def error_object(family: Family, refusal: Refusal, request_id: str | None) -> dict[str, Any]:
    """The error envelope of a family (shapes of the vendors' references, August 2026)."""
    status = refusal.status
    if family == "anthropic":
        default = "api_error" if status >= 500 else "invalid_request_error"
        kind = refusal.kind or _ANTHROPIC_TYPES.get(status, default)
        return {
            "type": "error",
            "error": {"type": kind, "message": refusal.message},
            "request_id": request_id,
        }
    if family == "gemini":
        default = "INTERNAL" if status >= 500 else "INVALID_ARGUMENT"
        error: dict[str, Any] = {
            "code": status,
            "message": refusal.message,
            "status": _GEMINI_STATUSES.get(status, default),
        }
        if refusal.details:
            error["details"] = refusal.details
        return {"error": error}
    kind, code = _OPENAI_TYPES.get(status, _OPENAI_TYPES[500 if status >= 500 else 400])
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.kind or kind,
            "param": refusal.param,
            # A refusal that names its own kind or field decides its code as well.
            "code": refusal.code if refusal.kind or refusal.param or refusal.code else code,
        }
    }


def refuse(family: Family, refusal: Refusal, request_id: str) -> Reply:
    """The reply to a refused request."""
    reply = json_reply(family, error_object(family, refusal, request_id), status=refusal.status)
    headers: dict[str, str] = {}
    if family != "gemini":
        headers["x-should-retry"] = (
            "true" if refusal.status in {408, 409, 429} or (refusal.status >= 500) else "false"
        )
    return msgspec.structs.replace(reply, headers=headers)


def switched_status(
    family: Family, status: int, retry_after_s: int | None, request_id: str
) -> Reply:
    """The answer that the `status` switch asks for; 429 says a second where nothing is given."""
    if status == 429 and retry_after_s is None:
        retry_after_s = 1
    if status < 400:
        location = {"location": "/redirected"}
        return Reply(status=status, headers=location, content_type="text/plain")
    details = None
    if family == "gemini" and retry_after_s is not None:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        details = [{"@type": kind, "retryDelay": f"{retry_after_s}s"}]
    refusal = Refusal(status, _switched_message(family, status), details=details)
    reply = refuse(family, refusal, request_id)
    headers = dict(reply.headers)
    if retry_after_s is not None and family != "gemini":
        headers["retry-after"] = str(retry_after_s)
        if family == "openai":
            headers["retry-after-ms"] = str(retry_after_s * 1000)
    return msgspec.structs.replace(reply, headers=headers)


def _switched_message(family: Family, status: int) -> str:
    if status == 529 and family == "anthropic":
        return "Overloaded"
    if status == 429:
        return "Rate limit reached on the demo upstream. Please try again later."
    return f"The demo upstream answers {status}, as the model name asks."


def family_headers(
    family: Family, request_id: str, spent_ms: int, tokens_in: int
) -> dict[str, str]:
    """The headers a family puts on every answer; rate figures are plausible, not enforced."""
    if family == "gemini":
        return {
            "vary": "Origin, X-Origin, Referer",
            "x-content-type-options": "nosniff",
            "server-timing": f"gfet4t7; dur={spent_ms}",
        }
    if family == "anthropic":
        now = datetime.now(UTC)
        reset = (now + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        headers = {"request-id": request_id, "anthropic-organization-id": "demo"}
        limits = {
            "requests": (4000, 3999),
            "input-tokens": (2_000_000, max(2_000_000 - tokens_in, 0)),
            "output-tokens": (400_000, 400_000),
            "tokens": (2_400_000, max(2_400_000 - tokens_in, 0)),
        }
        for name, (limit, remaining) in limits.items():
            headers[f"anthropic-ratelimit-{name}-limit"] = str(limit)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(remaining)
            headers[f"anthropic-ratelimit-{name}-reset"] = reset
        return headers
    return {
        "x-request-id": request_id,
        "openai-processing-ms": str(spent_ms),
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "6ms",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-tokens": str(max(2_000_000 - tokens_in, 0)),
        "x-ratelimit-reset-tokens": "1ms",
        # The real host's front sets a cookie on every answer; a proxy has to keep it from callers.
        "set-cookie": "__demo_bm=1; path=/; HttpOnly; Secure; SameSite=None",
    }
