"""The lists of models, in each family's shape.

Two names are listed, but every name answers: so the demo can stand in for a provider whose models
have prices. Called by `server.py`.
"""

from typing import Any

from gateway.demo.reply import Refusal, Reply, json_reply
from gateway.demo.switches import BadSwitch, parse

CHAT_MODEL = "demo"
EMBEDDING_MODEL = "demo-embed"
MODELS = (CHAT_MODEL, EMBEDDING_MODEL)

_CREATED = 1_767_225_600
_CREATED_AT = "2026-01-01T00:00:00Z"
_CONTEXT_TOKENS = 200_000


def openai_list() -> Reply:
    """Answer `GET /v1/models`."""
    data = [_openai_model(name) for name in MODELS]
    return json_reply("openai", {"object": "list", "data": data})


def openai_one(name: str) -> Reply:
    """Answer `GET /v1/models/{id}`; a listed name may carry switches."""
    if not _known(name):
        message = f"The model '{name}' does not exist"
        raise Refusal(
            404, message, param="model", kind="invalid_request_error", code="model_not_found"
        )
    return json_reply("openai", _openai_model(name))


def anthropic_list() -> Reply:
    """Answer Anthropic's `GET /v1/models`."""
    data = [_anthropic_model(CHAT_MODEL)]
    ends = {"first_id": CHAT_MODEL, "last_id": CHAT_MODEL}
    return json_reply("anthropic", {"data": data, "has_more": False, **ends})


def anthropic_one(name: str) -> Reply:
    """Answer Anthropic's `GET /v1/models/{id}`."""
    if not _known(name):
        raise Refusal(404, f"model: {name}")
    return json_reply("anthropic", _anthropic_model(name))


def gemini_list() -> Reply:
    """Answer `GET /v1beta/models`."""
    return json_reply("gemini", {"models": [_gemini_model(name) for name in MODELS]})


def gemini_one(name: str) -> Reply:
    """Answer `GET /v1beta/models/{model}`."""
    if not _known(name):
        message = f"models/{name} is not found for API version v1beta. Call ListModels to see the "
        raise Refusal(404, message + "list of available models and their supported methods.")
    return json_reply("gemini", _gemini_model(name))


def _known(name: str) -> bool:
    try:
        base, _ = parse(name)
    except BadSwitch:
        return False
    return base in MODELS


def _openai_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "demo"}


def _anthropic_model(name: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": "Demo",
        "created_at": _CREATED_AT,
        "max_input_tokens": _CONTEXT_TOKENS,
        "max_tokens": 64_000,
    }


def _gemini_model(name: str) -> dict[str, Any]:
    embeds = name.startswith(EMBEDDING_MODEL)
    chat = ["generateContent", "countTokens"]
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": "Demo",
        "description": "The built-in upstream, for trying things out.",
        "inputTokenLimit": _CONTEXT_TOKENS,
        "outputTokenLimit": 64_000,
        "supportedGenerationMethods": ["embedContent"] if embeds else chat,
        "temperature": 1.0,
        "topP": 0.95,
        "topK": 64,
        "maxTemperature": 2.0,
    }
