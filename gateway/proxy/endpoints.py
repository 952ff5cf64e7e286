"""Paths -> endpoints: what a path asks for, in which format, of which provider. Pure.

The first family of rules is the public contract (`/v1/chat/completions`, `/v1beta/models/…`), the
second is `/v1/{provider}/{path}`, the last "anything else a provider knows". `/api/v1/…` is the
same as `/v1/…`, a doubled version collapses, doubled slashes too. Used by the handler.
"""

import re
from collections.abc import Collection
from urllib.parse import unquote

import msgspec

from gateway.config import Family

METERED = {
    ("openai", "chat/completions"): "openai_chat",
    ("openai", "responses"): "openai_responses",
    ("openai", "responses/compact"): "openai_responses",
    ("openai", "embeddings"): "openai_embeddings",
    ("openai", "completions"): "openai_completions",
    ("anthropic", "messages"): "anthropic_messages",
}
FREE = {
    ("openai", "responses/input_tokens"),
    ("openai", "moderations"),
    ("anthropic", "messages/count_tokens"),
}
"""Calls that their providers do not bill: forwarded, receipted, never charged."""

COUNTS = {
    ("openai", "responses/input_tokens"): "openai_responses",
    ("anthropic", "messages/count_tokens"): "anthropic_messages",
    ("gemini", "countTokens"): "gemini",
}
"""Calls that ask for the tokens of a request, and the format of that request."""

COUNTING = "counting"
"""What such a call wants of a provider, in the words of `Endpoint.wants`."""

COMPACTING = "compacting"
"""What `responses/compact` wants: a provider that has the Responses API itself."""

GEMINI_METHODS = {
    "generateContent": "gemini",
    "streamGenerateContent": "gemini",
    "embedContent": "gemini_embeddings",
    "batchEmbedContents": "gemini_embeddings",
    "countTokens": "native",
}
_LABELLED = frozenset(
    (
        "assistants", "audio", "batches", "cachedContents", "chat", "completions", "containers",
        "conversations", "corpora", "embeddings", "evals", "fileSearchStores", "files",
        "fine_tuning", "graders", "images", "interactions", "messages", "models", "moderations",
        "operations", "organization", "organizations", "realtime", "responses", "skills", "threads",
        "tunedModels", "uploads", "vector_stores", "videos",
    )
)  # fmt: skip
"""First words of native paths that name receipts and metrics; callers make up all others."""

_GEMINI = re.compile(r"^(models|tunedModels)/(?P<model>[^/:]+(?:/[^/:]+)*):(?P<method>[A-Za-z]+)$")
_STATE = re.compile(r"^responses/(?P<id>[^/]+)(?:/(?:cancel|input_items))?$")
_VERSIONS = re.compile(r"^/(?:api/)?(?P<version>v1|v1beta)(?:/(?:v1beta|v1))?/(?P<rest>.*)$")
_UPLOAD = re.compile(r"^/(?:api/)?upload/(?:v1beta|v1)/(?P<rest>.*)$")


MODEL_CHARS_MAX = 512
"""Of the name that a request asks for: names are remembered with where they lead, kept with the
receipts, and shown on pages, 50 of them at once."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for.

    `path` is relative to the provider's base URL. `format` is a wire format of
    `wire.registry.FORMATS`; `label` is bounded (it names receipts and metrics). `provider` is
    set where the path names one. `state_id` is the id of a stored response that the call is
    about. `free` calls are not billed by providers; one neither metered nor free is *unmetered*:
    its cost cannot be told from its answer. `counts` is the format of the request whose tokens are
    asked for. `wants` is what providers of another format can be asked for in theirs: the format,
    or `COUNTING`; `COMPACTING` and "" are asked for in the caller's alone.
    """

    family: Family
    format: str
    path: str
    label: str
    provider: str | None = None
    model: str | None = None
    streams: bool = False
    array: bool = False
    upload: bool = False
    state_id: str | None = None
    free: bool = False
    counts: str | None = None
    wants: str = ""

    @property
    def metered(self) -> bool:
        """Whether the answer tells what it costs."""
        return self.format != "native"


def classify(
    path: str, query: str, providers: Collection[str], *, speaks: Family | None = None
) -> Endpoint | None:
    """The endpoint of a raw path (no query), or None where there is none.

    `providers` are the configured names, `speaks` is the API family that the caller's header
    fields give away (`headers.spoken`). Dot segments are no endpoint: a path must not climb out of
    its base.
    """
    if "//" in path:
        path = re.sub(r"/{2,}", "/", path)
    if any(unquote(segment) in (".", "..") for segment in path.split("/")):
        return None
    if upload := _UPLOAD.match(path):
        return _native("gemini", upload["rest"], None, upload=True)
    match = _VERSIONS.match(path)
    if match is None or not match["rest"]:
        return None
    rest = match["rest"]
    head, _, tail = rest.partition("/")
    if head in providers and tail:
        tail = re.sub(r"^(?:v1beta|v1)/", "", tail)
        family = _family(tail, speaks)
        return _endpoint(family, tail, query, provider=head)
    gemini = match["version"] == "v1beta" or "/v1beta/" in path
    family = "gemini" if gemini else _family(rest, speaks)
    return _endpoint(family, rest, query, provider=None)


def as_family(endpoint: Endpoint, family: Family, query: str) -> Endpoint:
    """The same path read as another family's: a named provider settles what it speaks."""
    return _endpoint(family, endpoint.path, query, provider=endpoint.provider)


def _family(rest: str, speaks: Family | None) -> Family:
    if rest == "messages" or rest.startswith("messages/"):
        return "anthropic"
    if _GEMINI.match(rest):
        return "gemini"
    if speaks is not None and ("openai", rest) not in METERED:
        return speaks
    return "openai"


def _endpoint(family: Family, rest: str, query: str, *, provider: str | None) -> Endpoint:
    prefix = f"/v1/{provider}/" if provider else "/v1beta/" if family == "gemini" else "/v1/"
    if family == "gemini":
        if (match := _GEMINI.match(rest)) and match["method"] in GEMINI_METHODS:
            return _gemini(match, rest, query, provider, prefix)
        return _native(family, rest, provider)
    known = METERED.get((family, rest))
    if known is not None:
        return Endpoint(
            family=family,
            format=known,
            path=rest,
            label=prefix + rest,
            provider=provider,
            wants=COMPACTING if rest == "responses/compact" else known,
        )
    if (family, rest) in FREE:
        counts = COUNTS.get((family, rest))
        return Endpoint(
            family=family,
            format="native",
            path=rest,
            label=prefix + rest,
            provider=provider,
            free=True,
            counts=counts,
            wants="" if counts is None else COUNTING,
        )
    if family == "openai" and (state := _STATE.match(rest)):
        return Endpoint(
            family=family,
            format="native",
            path=rest,
            label=prefix + "responses/{id}",
            provider=provider,
            state_id=unquote(state["id"]),
            free=True,
        )
    return _native(family, rest, provider)


def _gemini(
    match: re.Match[str], rest: str, query: str, provider: str | None, prefix: str
) -> Endpoint:
    method = match["method"]
    streams = method == "streamGenerateContent"
    counts = COUNTS.get(("gemini", method))
    wire_format = GEMINI_METHODS[method]
    return Endpoint(
        family="gemini",
        format=wire_format,
        path=rest,
        label=f"{prefix}models/{{model}}:{method}",
        provider=provider,
        model=unquote(match["model"]),
        streams=streams,
        array=streams and "alt=sse" not in query,
        free=counts is not None,
        counts=counts,
        wants=wire_format if counts is None else COUNTING,
    )


def _native(family: Family, rest: str, provider: str | None, *, upload: bool = False) -> Endpoint:
    head = rest.partition("/")[0]
    label = head if head in _LABELLED else "other"
    prefix = f"/v1/{provider}/" if provider else "/v1beta/" if family == "gemini" else "/v1/"
    return Endpoint(
        family=family,
        format="native",
        path=rest,
        label=f"{prefix}{label}",
        provider=provider,
        upload=upload,
    )
