"""The OpenAPI 3.1 description of what is served. Pure; `/openapi.json` shows it.

Bodies of the forwarded formats are the vendors' and are only named here; what is ours (receipts,
accounts, errors, and the admin API: `openapi_admin.py`) is described in full.
"""

from typing import Any

import msgspec

from gateway import __version__
from gateway.accounts.statement import Statement
from gateway.api import openapi_admin
from gateway.api.account import Account, Redeem, Redemption
from gateway.api.openapi_admin import COMPONENTS, Schema, answers, json_body
from gateway.errors import CODES

_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_NULLABLE_INTEGER: Schema = {"type": ["integer", "null"]}
_NULLABLE_STRING: Schema = {"type": ["string", "null"]}
_NUMBER: Schema = {"type": ["number", "null"]}


def _object(properties: dict[str, Schema], **more: Any) -> Schema:
    return {"type": "object", "properties": properties, **more}


def _ref(name: str) -> Schema:
    return {"$ref": f"{COMPONENTS}{name}"}


_USAGE = _object(
    {
        "input_tokens": _INTEGER,
        "output_tokens": _INTEGER,
        "cache_read_input_tokens": _NULLABLE_INTEGER,
        "cache_creation_input_tokens": _NULLABLE_INTEGER,
        "reasoning_tokens": _NULLABLE_INTEGER,
        "total_tokens": _INTEGER,
        "source": {"enum": ["reported", "partial", "estimated", "none"]},
    }
)
_ATTEMPT = _object(
    {
        "provider": _STRING,
        "model": _STRING,
        "outcome": _STRING,
        "status": _NULLABLE_INTEGER,
        "ms": {"type": "number"},
    }
)
_RECEIPT = _object(
    {
        "id": {"type": "string", "format": "uuid"},
        "object": {"const": "receipt"},
        "created_at": {"type": "string", "format": "date-time"},
        "status": {"enum": ["succeeded", "failed", "cancelled", "in_progress"]},
        "failure": {
            "anyOf": [
                {"type": "null"},
                _object({"stage": _STRING, "code": _STRING, "message": _STRING}),
            ]
        },
        "request": _object(
            {
                "endpoint": _STRING,
                "format": _STRING,
                "model": _STRING,
                "stream": {"type": "boolean"},
                "bytes": _INTEGER,
            }
        ),
        "route": _object(
            {
                "provider": _NULLABLE_STRING,
                "model": _NULLABLE_STRING,
                "format": _NULLABLE_STRING,
                "translated": {"type": "boolean"},
                "upstream_request_id": _NULLABLE_STRING,
                "attempts": {"type": "array", "items": _ATTEMPT},
            }
        ),
        "usage": {"$ref": "#/components/schemas/Usage"},
        "cost": _object(
            {
                "currency": {"const": "USD"},
                "amount": _NULLABLE_STRING,
                "nano_usd": _NULLABLE_INTEGER,
                "held_nano_usd": _NULLABLE_INTEGER,
                "billed": {"type": "boolean"},
                "price_version": _NULLABLE_STRING,
                "price": {"type": ["object", "null"], "additionalProperties": _STRING},
                "rate_multiplier": _STRING,
                "model_multiplier": _STRING,
            }
        ),
        "timing": _object(
            {
                "connect_ms": _NUMBER,
                "first_byte_ms": _NUMBER,
                "total_ms": _NUMBER,
                "gateway_ms": _NUMBER,
            }
        ),
        "http_status": _NULLABLE_INTEGER,
        "integrity": {
            "anyOf": [
                {"type": "null"},
                _object({"sequence": _INTEGER, "previous": _STRING, "hash": _STRING}),
            ]
        },
    }
)
_ERROR = _object(
    {
        "error": _object(
            {
                "message": _STRING,
                "type": _STRING,
                "param": _NULLABLE_STRING,
                "code": {"enum": sorted(CODES)},
            }
        )
    }
)

# path -> (method, summary, tag, request content type)
_PROXIED: tuple[tuple[str, str, str, str], ...] = (
    ("/v1/chat/completions", "post", "Chat completions (OpenAI), JSON or SSE", "OpenAI"),
    ("/v1/responses", "post", "Responses (OpenAI), JSON or SSE", "OpenAI"),
    ("/v1/responses/compact", "post", "Compact a conversation", "OpenAI"),
    ("/v1/responses/input_tokens", "post", "Count input tokens", "OpenAI"),
    ("/v1/responses/{id}", "get", "Read a stored response", "OpenAI"),
    ("/v1/responses/{id}", "delete", "Delete a stored response", "OpenAI"),
    ("/v1/responses/{id}/cancel", "post", "Cancel a background response", "OpenAI"),
    ("/v1/embeddings", "post", "Embeddings (OpenAI)", "OpenAI"),
    ("/v1/completions", "post", "Legacy completions (OpenAI)", "OpenAI"),
    ("/v1/moderations", "post", "Moderations (OpenAI)", "OpenAI"),
    ("/v1/messages", "post", "Messages (Anthropic), JSON or SSE", "Anthropic"),
    ("/v1/messages/count_tokens", "post", "Count tokens (Anthropic)", "Anthropic"),
    ("/v1beta/models/{model}:generateContent", "post", "Generate (Gemini)", "Gemini"),
    ("/v1beta/models/{model}:streamGenerateContent", "post",
     "Generate (Gemini), SSE with alt=sse, else a streamed JSON array", "Gemini"),
    ("/v1beta/models/{model}:countTokens", "post", "Count tokens (Gemini)", "Gemini"),
    ("/v1beta/models/{model}:embedContent", "post", "Embed (Gemini)", "Gemini"),
    ("/v1beta/models/{model}:batchEmbedContents", "post", "Embed many (Gemini)", "Gemini"),
    ("/v1/{provider}/{path}", "post", "A provider's own path, forwarded", "Passthrough"),
)  # fmt: skip

_Query = tuple[tuple[str, Schema], ...]

_LISTING: _Query = (
    ("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
    ("after", _STRING),
    ("status", {"enum": ["succeeded", "failed", "cancelled"]}),
    ("model", _STRING),
)
_USAGE_QUERY: _Query = (
    ("since", {"type": "string", "format": "date"}),
    ("until", {"type": "string", "format": "date"}),
    ("group_by", {"type": "string", "default": "day", "description": "of day, model, key"}),
    ("key_id", _STRING),
    ("model", _STRING),
)

_RECEIPTS = _object(
    {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": f"{COMPONENTS}Receipt"}},
        "has_more": {"type": "boolean"},
        "last_id": _NULLABLE_STRING,
    }
)

# method, path, summary, tag, query, what is sent, what is answered
_OWN: tuple[tuple[str, str, str, str, _Query, Schema | None, Schema | None], ...] = (
    ("get", "/v1/receipts", "Receipts of this caller, newest first", "Receipts", _LISTING, None,
     _RECEIPTS),
    ("get", "/v1/receipts/{id}", "One receipt", "Receipts", (), None, _ref("Receipt")),
    ("get", "/v1/models", "Models, priced as this caller is billed", "Models", (), None, None),
    ("get", "/v1/models/{id}", "One model", "Models", (), None, None),
    ("get", "/v1beta/models", "Models in Gemini's shape", "Models", (), None, None),
    ("get", "/v1beta/models/{id}", "One model in Gemini's shape", "Models", (), None, None),
    ("get", "/v1/account", "The calling key's user: balance, limits, today", "Account", (), None,
     _ref("Account")),
    ("post", "/v1/account/redeem", "Redeem a code", "Account", (), _ref("Redeem"),
     _ref("Redemption")),
    ("get", "/v1/usage", "Sums of the calling key's user", "Account", _USAGE_QUERY, None,
     _ref("Statement")),
    ("get", "/", "Says what answers here", "Operations", (), None, None),
    ("get", "/healthz", "Alive", "Operations", (), None, None),
    ("get", "/readyz", "Ready for requests", "Operations", (), None, None),
    ("get", "/metrics", "Prometheus metrics", "Operations", (), None, None),
    ("get", "/openapi.json", "This document", "Operations", (), None, None),
)  # fmt: skip


def document(server_url: str) -> dict[str, Any]:
    """The whole description, for a server at `server_url`."""
    paths: dict[str, dict[str, Any]] = {}
    for path, method, summary, tag in _PROXIED:
        paths.setdefault(path, {})[method] = _operation(path, summary, tag, _forwarded())
    for method, path, summary, tag, query, sent, answered in _OWN:
        operation = _operation(path, summary, tag, answers(answered))
        if tag == "Operations":
            operation["security"] = []
        operation["parameters"] += [
            {"name": name, "in": "query", "schema": schema} for name, schema in query
        ]
        if sent is not None:
            operation["requestBody"] = json_body(sent)
        paths.setdefault(path, {})[method] = operation
    admin_paths, admin_schemas = openapi_admin.described()
    paths.update(admin_paths)
    _, account_schemas = msgspec.json.schema_components(
        (Account, Redeem, Redemption, Statement), ref_template=f"{COMPONENTS}{{name}}"
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "LLM gateway", "version": __version__},
        "servers": [{"url": server_url}],
        "security": [{"bearer": []}, {"x-api-key": []}, {"x-goog-api-key": []}],
        "paths": paths,
        "components": {
            "schemas": {
                **admin_schemas,
                **account_schemas,
                "Receipt": _RECEIPT,
                "Usage": _USAGE,
                "Error": _ERROR,
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "x-goog-api-key": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
            },
        },
    }


def _operation(path: str, summary: str, tag: str, answers: dict[str, Any]) -> dict[str, Any]:
    names = [part.split("}")[0] for part in path.split("{")[1:]]
    return {
        "summary": summary,
        "tags": [tag],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": _STRING} for name in names
        ],
        "responses": answers,
    }


def _forwarded() -> dict[str, Any]:
    found = answers(None)
    found["200"]["headers"] = {
        "X-Badgr-Receipt-Id": {"schema": _STRING, "description": "Id of this call's receipt"},
        "X-AIBADGR-Receipt-URL": {"schema": _STRING, "description": "Where to read it"},
    }
    return found
