"""Token counts for models whose provider does not count in the caller's format: estimates.

Clients (Claude Code, the Gemini CLI) ask before long calls. The answer has the shape of the
caller's format and is marked by a header, `X-Gateway-Estimated: true`: it is no provider's count.
Used by the handler where routing finds no provider that counts. Pure.
"""

import orjson

from gateway.errors import GatewayError
from gateway.proxy.endpoints import Endpoint
from gateway.wire import demand, envelope, registry

ESTIMATED = b"X-Gateway-Estimated: true\r\n"

_COUNTED = {
    ("anthropic", "messages/count_tokens"): "anthropic_messages",
    ("openai", "responses/input_tokens"): "openai_responses",
}


def format_of(endpoint: Endpoint) -> str | None:
    """The format of what is to be counted, where an endpoint counts; else None."""
    if endpoint.family == "gemini" and endpoint.path.endswith(":countTokens"):
        return "gemini"
    return _COUNTED.get((endpoint.family, endpoint.path))


def estimated(body: bytes, endpoint: Endpoint, wire_format: str) -> bytes:
    """The answer; raises `GatewayError` where the request is none of its format."""
    dialect = registry.DIALECTS.get(wire_format)
    if dialect is None:
        raise GatewayError(
            "unsupported_parameter", "Tokens of this model are not counted", param="model"
        )
    asked = _counted(body, wire_format)
    dialect.read_request(asked, model=endpoint.model or "", stream=False)
    tokens = _tokens(asked, wire_format)
    if endpoint.family == "anthropic":
        return orjson.dumps({"input_tokens": tokens})
    if endpoint.family == "gemini":
        return orjson.dumps({"totalTokens": tokens})
    return orjson.dumps({"object": "response.input_tokens", "input_tokens": tokens})


def _counted(body: bytes, wire_format: str) -> bytes:
    """The request in question: Gemini may wrap it."""
    if wire_format != "gemini":
        return body
    fields = envelope.peek(body, wire_format).fields
    inner = fields.get("generateContentRequest") or fields.get("generate_content_request")
    return body if inner is None else bytes(inner)


def _tokens(body: bytes, wire_format: str) -> int:
    """About as many as a provider would count: text by its bytes, images at a usual size."""
    found = demand.read(body, envelope.peek(body, wire_format), wire_format)
    text = -(-(found.input_bytes - found.image_bytes) // demand.BYTES_PER_TOKEN_USUAL)
    return text + found.images * demand.IMAGE_TOKENS_USUAL
