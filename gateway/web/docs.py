"""`/docs`: the documentation for those who call this server, signed in or not.

`DOCS` lists the pages with their sections; each is a template of its own, whose samples have this
server's address, a model that it serves and, for who is signed in, the beginning of a key of
theirs. Tables that something else decides are made from that: codes from `errors.CODES`, what is
lost between formats from the dialects, limits and header names from the configuration.
`pricing.py` and `openapi_page.py` make the two pages of reference with `rendered`.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from gateway.config import Family
from gateway.errors import CODES, GatewayError
from gateway.ledger.records import Key
from gateway.proxy.errors import body
from gateway.web import samples
from gateway.web.samples import Filled, Filling
from gateway.web.site import Page, Visit
from gateway.wire import registry
from gateway.wire.build_table import TITLES, lost

NO_KEY = "YOUR_KEY"

_RECEIPT_ID = "01998f1e-6c0a-7c3e-9d6b-3f0a4f0c2b11"
"""Of an example."""


class Doc(NamedTuple):
    """A page: its address, what it is called, under which head it is listed, its sections.

    `sections` are the anchors of the page with their headings, in order.
    """

    path: str
    title: str
    group: str
    sections: Mapping[str, str]

    @property
    def template(self) -> str:
        """Its file."""
        return f"docs{self.path.removeprefix('/docs') or '/start'}.html"


_START, _ENDPOINTS, _GUIDES, _REFERENCE = "Start", "Endpoints", "How it works", "Reference"

DOCS = (
    Doc("/docs", "Quick start", _START, {
        "key": "Get an API key", "call": "Make a call", "receipt": "Read its receipt",
        "next": "Where to go on",
    }),
    Doc("/docs/authentication", "Authentication", _START, {
        "keys": "Keys of this server", "spellings": "Where a key may stand",
        "byok": "Your own provider key", "care": "Keys and care",
    }),
    Doc("/docs/sdks", "SDK set-up", _START, {
        "openai": "OpenAI", "anthropic": "Anthropic", "google": "google-genai",
        "langchain": "LangChain", "litellm": "LiteLLM", "base-urls": "Base URLs",
    }),
    Doc("/docs/agents", "Agents and apps", _START, {
        "claude-code": "Claude Code", "codex": "Codex", "gemini-cli": "Gemini CLI",
        "open-webui": "Open WebUI", "differences": "On a model of another format",
    }),
    Doc("/docs/chat", "Chat completions", _ENDPOINTS, {
        "request": "A request", "stream": "Streamed", "notes": "Good to know",
    }),
    Doc("/docs/responses", "Responses", _ENDPOINTS, {
        "request": "A request", "stream": "Streamed", "state": "Stored responses",
    }),
    Doc("/docs/messages", "Messages", _ENDPOINTS, {
        "request": "A request", "stream": "Streamed", "notes": "Good to know",
    }),
    Doc("/docs/gemini", "generateContent", _ENDPOINTS, {
        "request": "A request", "stream": "Streamed", "notes": "Good to know",
    }),
    Doc("/docs/embeddings", "Embeddings", _ENDPOINTS, {
        "openai": "In OpenAI's format", "gemini": "In Gemini's format", "formats": "Between them",
    }),
    Doc("/docs/tokens", "Token counts", _ENDPOINTS, {
        "messages": "Of Messages", "responses": "Of Responses", "gemini": "Of generateContent",
        "estimates": "Estimates",
    }),
    Doc("/docs/models", "Models", _ENDPOINTS, {
        "list": "The list", "one": "One model", "names": "How a name is resolved",
    }),
    Doc("/docs/receipts", "Receipts", _ENDPOINTS, {
        "find": "From call to receipt", "one": "One receipt", "fields": "What it says",
        "list": "Your receipts", "proof": "The chain",
    }),
    Doc("/docs/account", "Account and usage", _ENDPOINTS, {
        "account": "Balance and limits", "usage": "Usage", "redeem": "Redeem a code",
    }),
    Doc("/docs/streaming", "Streaming", _GUIDES, {
        "frames": "What arrives", "usage": "Usage at the end", "errors": "Errors in mid-stream",
        "leaving": "Leaving early",
    }),
    Doc("/docs/tools", "Tools and formats", _GUIDES, {
        "tools": "Tools", "structured": "Structured output", "formats": "Between the formats",
        "lost": "What is refused, what is left out",
    }),
    Doc("/docs/billing", "Billing", _GUIDES, {
        "cost": "What a call costs", "charged": "What is charged, by how it ended",
        "holds": "Holds", "caps": "Caps", "multipliers": "Multipliers", "own": "Own keys",
    }),
    Doc("/docs/limits", "Limits", _GUIDES, {
        "limits": "Requests, tokens, at once", "headers": "Header fields",
        "refused": "When a limit is reached", "sizes": "Sizes and times",
    }),
    Doc("/docs/errors", "Errors", _GUIDES, {
        "shape": "Their shape", "codes": "All codes", "retry": "Trying again",
        "handling": "In a program",
    }),
    Doc("/docs/pricing", "Prices", _REFERENCE, {}),
    Doc("/docs/api", "API reference", _REFERENCE, {}),
)  # fmt: skip

MEANINGS: Mapping[str, str] = {
    "invalid_request": "The body is not JSON, or a field has the wrong type; the field is named. "
    "As 431: a header line over 16 KiB.",
    "unknown_model_pricing": "No such model here, or one without a price.",
    "unsupported_parameter": "The provider's format has no place for a field; it is named.",
    "invalid_api_key": "The key is missing, mistyped, unknown, revoked, or has expired.",
    "insufficient_balance": "The worst case of this call does not fit into what is free of the "
    "balance: top up, or lower max_tokens.",
    "call_cap_exceeded": "The worst case is above the cap per call of this model; the message says "
    "which max_tokens would fit.",
    "model_not_allowed": "This key may not call this model.",
    "permission_denied": "This key may not do that: for example an admin's key that calls a model.",
    "not_found": "No such path, receipt or model for this key.",
    "method_not_allowed": "The path exists, but not with this method.",
    "conflict": "What is asked contradicts what is there: for example a code redeemed before.",
    "request_too_large": "The body is larger than this server reads.",
    "idempotency_key_reused": "Admin API: the same Idempotency-Key came with other parameters.",
    "rate_limit_exceeded": "A limit of your key or account is reached; the message says which, "
    "retry-after how long to wait.",
    "provider_paused": "The operator, or the day's spending, has paused the provider.",
    "internal_error": "The gateway failed. Nothing is charged.",
    "bad_upstream_response": "The provider's answer is no HTTP, not what it says it is, or refuses "
    "this server's own key.",
    "no_active_api_keys": "No provider of this model has a key here that works.",
    "upstream_error": "Every provider that was tried failed.",
    "ledger_unavailable": "Receipts cannot be written now. Nothing was sent to a provider.",
    "shutting_down": "The server is stopping.",
    "upstream_timeout": "No provider answered in time.",
}
"""When a code is answered."""
assert set(MEANINGS) == set(CODES)

_BY_PATH = {doc.path: doc for doc in DOCS}


async def article(visit: Visit) -> web.StreamResponse:
    """Any page that is a template and nothing else."""
    return await rendered(visit, errors=_errors(), shapes=_shapes(), losses=_losses())


async def rendered(visit: Visit, **values: Any) -> web.Response:
    """The page of this path, in the frame of the documentation."""
    doc = _BY_PATH[visit.path]
    at = DOCS.index(doc)
    key = _key(visit)
    filling = await _filling(visit, key)
    return await visit.render(
        doc.template,
        doc=doc,
        docs=DOCS,
        before=DOCS[at - 1] if at else None,
        after=DOCS[at + 1] if at + 1 < len(DOCS) else None,
        samples=Filled(filling),
        first_call=samples.first_call(filling.base_url, filling.key, filling.model),
        filling=filling,
        key=key,
        picture=_picture(visit, "docs-keys.png"),
        byok=_byok(visit),
        **values,
    )


def _key(visit: Visit) -> Key | None:
    """A key of who is signed in that can call: the one whose beginning samples show."""
    if visit.viewer is None:
        return None
    accounts = visit.site.context.accounts
    now_ms = visit.site.services.wall_ms()
    for key in accounts.list_keys(visit.user.name):
        if not key.admin and accounts.key_status(key, now_ms) == "active":
            return key
    return None


async def _filling(visit: Visit, key: Key | None) -> Filling:
    services, server = visit.site.services, visit.site.config.server
    allowed = None if key is None else key.models
    chat = await samples.first_of(services, "chat", allowed)
    # Nothing can be called: what the operator named, or what a fresh server has.
    named = next(iter(visit.site.config.models), "demo")
    return Filling(
        base_url=visit.base_url,
        key=NO_KEY if key is None else f"{key.hint}…",
        model=chat or (allowed[0] if allowed else named),
        embedding=await samples.first_of(services, "embedding", allowed) or "demo-embed",
        receipt_id_header=server.receipt_id_header,
        receipt_url_header=server.receipt_url_header,
    )


def _picture(visit: Visit, name: str) -> str | None:
    """The address of a picture; None where it was not made."""
    try:
        return visit.site.static.path(name)
    except KeyError:
        return None


def _byok(visit: Visit) -> Mapping[str, str]:
    """By API, the provider that a call with the caller's own key goes to; {} where none may."""
    byok, providers = visit.site.config.byok, visit.site.config.providers
    if not byok.enabled:
        return {}
    owners = {"OpenAI": byok.openai, "Anthropic": byok.anthropic, "Gemini": byok.gemini}
    return {api: name for api, name in owners.items() if name in providers}


@functools.cache
def _errors() -> list[tuple[int, str, str, bool]]:
    """Status, code, when, and whether trying again can help."""
    return [
        (status, code, MEANINGS[code], retry == "yes") for code, (status, _, retry) in CODES.items()
    ]


@functools.cache
def _shapes() -> list[tuple[str, str]]:
    """One error as each API tells it."""
    error = GatewayError(
        "unknown_model_pricing", "Unknown model pricing: no-such-model", param="model"
    )
    families: tuple[tuple[str, Family], ...] = (
        ("OpenAI", "openai"), ("Anthropic", "anthropic"), ("Gemini", "gemini")
    )  # fmt: skip
    return [
        (api, msgspec.json.format(body(error, family, _RECEIPT_ID), indent=2).decode())
        for api, family in families
    ]


@functools.cache
def _losses() -> list[tuple[str, list[tuple[str, list[str], list[str]]]]]:
    """By the caller's format, and by the provider's: what is refused, and what is left out."""
    dialects = registry.DIALECTS.values()
    return [
        (
            TITLES[caller.name],
            [
                (
                    TITLES[target.name],
                    lost(caller, target, "refused"),
                    lost(caller, target, "ignored"),
                )
                for target in dialects
                if target is not caller
            ],
        )
        for caller in dialects
    ]


async def start(visit: Visit) -> web.StreamResponse:
    """What the address with a slash behind it means."""
    return visit.go("/docs")


PAGES = (
    *(
        Page("GET", doc.path, article, "anyone")
        for doc in DOCS
        if doc.path not in ("/docs/pricing", "/docs/api")
    ),
    Page("GET", "/docs/", start, "anyone"),
)
