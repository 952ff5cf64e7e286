"""How servers that speak OpenAI chat differ, by the catalog's name of the provider.

`server_of` gives what `openai_chat_upstream.py` writes a request by. A provider that is not listed
is taken for a server that takes what most of them do.

Sources: the API references of the servers named (2026-11), and recorded traffic.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from gateway.wire import call_ids
from gateway.wire.conversation import Effort


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """How a server takes what not all take alike. None or False: it has no place for it."""

    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    effort: Literal["family", "plain", "object", "switch", "high"] = "plain"
    """`reasoning_effort` as the model's family knows it; low to high; OpenRouter's `reasoning`;
    `thinking` on or off (with the effort beside it: DeepSeek); "high" or nothing."""
    thoughts: Literal["reasoning_content", "reasoning"] | None = "reasoning_content"
    details: bool = False
    cache_control: bool = False
    top_k: bool = False
    user: bool = True
    seed: str = "seed"
    stream_options: bool = True
    stops_max: int | None = None
    allowed_tools: bool = False
    custom_tools: bool = False
    prefill: str | None = None
    """The field that marks a last message as begun; "": none is needed."""
    document_url: Literal["file", "document_url"] | None = None
    audio: frozenset[str] | None = None
    """Kinds of sound; None: any."""
    refusals: bool = False
    ids: Literal["any", "short", "nine"] = "any"


_OPENAI = Server(
    limit="max_completion_tokens",
    effort="family",
    thoughts=None,
    stops_max=4,
    allowed_tools=True,
    custom_tools=True,
    audio=frozenset(("wav", "mp3")),
    refusals=True,
    ids="short",
)
_FRONT = Server(
    effort="object",
    thoughts="reasoning",
    details=True,
    cache_control=True,
    top_k=True,
    prefill="",
    document_url="file",
)
_MISTRAL = Server(
    effort="high",
    thoughts=None,
    user=False,
    seed="random_seed",
    stream_options=False,  # usage comes without being asked for
    prefill="prefix",
    document_url="document_url",
    ids="nine",
)
_STRICT = Server(thoughts=None)
_SERVERS: Mapping[str, Server] = {
    "openai": _OPENAI,
    "azure": _OPENAI,
    "openrouter": _FRONT,
    "vercel": _FRONT,
    "mistral": _MISTRAL,
    "deepseek": Server(effort="switch"),
    "zai": Server(effort="switch"),
    "moonshot": Server(effort="switch", prefill="partial"),
    "groq": Server(thoughts="reasoning", limit="max_completion_tokens"),
    "cerebras": Server(thoughts="reasoning", limit="max_completion_tokens"),
    "together": Server(thoughts=None, top_k=True),
    "fireworks": Server(top_k=True),
    "perplexity": Server(thoughts=None, top_k=True),
    "cohere": _STRICT,
    "google": _STRICT,
    "anthropic": _STRICT,
}
_OTHER = Server()

_EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh")
_EFFORT_OF_BUDGET: tuple[tuple[int, Effort], ...] = ((0, "none"), (4096, "low"), (16384, "medium"))
"""The largest budget, in tokens, that an effort stands for; above the last one it is "high"."""

# What the families of OpenAI's models take; one that is asked for more or less gets the nearest.
_FAMILIES: tuple[tuple[re.Pattern[str], tuple[Effort, ...]], ...] = (
    (re.compile(r"(gpt-[34]|chatgpt|text-|davinci)"), ()),
    (re.compile(r"o\d"), ("low", "medium", "high")),
    (re.compile(r"gpt-5(-(mini|nano|codex))?(-\d{4}|$)"), ("minimal", "low", "medium", "high")),
    (re.compile(r""), ("none", "low", "medium", "high", "xhigh")),
)
_WITHOUT_CUSTOM_TOOLS = re.compile(r"(gpt-[34]|chatgpt|o\d)")
PLAIN_EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")

_SHORT_ID = 40
"""OpenAI refuses ids of calls that have more characters."""

_NINE = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def server_of(provider: str) -> Server:
    """What is known of a provider's server."""
    return _SERVERS.get(provider, _OTHER)


def efforts_of(model: str) -> tuple[Effort, ...]:
    """The efforts that one of OpenAI's models takes; none: it does not reason."""
    name = model.rsplit("/", 1)[-1]
    return next(efforts for family, efforts in _FAMILIES if family.match(name))


def takes_custom_tools(server: Server, model: str) -> bool:
    """Whether a model takes tools whose input is plain text: OpenAI's own do, since GPT-5."""
    name = model.rsplit("/", 1)[-1]
    return server.custom_tools and _WITHOUT_CUSTOM_TOOLS.match(name) is None


def nearest(effort: Effort, known: tuple[Effort, ...]) -> Effort:
    """The effort among `known`, which is not empty, that comes closest; rather more than less."""
    place = _EFFORTS.index(effort)
    return min(known, key=lambda one: (abs(_EFFORTS.index(one) - place), -_EFFORTS.index(one)))


def effort_of(budget_tokens: int | None) -> Effort | None:
    """The effort that a budget stands for; None where the model is to see for itself."""
    if budget_tokens is None or budget_tokens < 0:
        return None
    for most, effort in _EFFORT_OF_BUDGET:
        if budget_tokens <= most:
            return effort
    return "high"


class Ids:
    """Ids of calls as a server takes them; within one request alike for a call and its result."""

    def __init__(self, kind: Literal["any", "short", "nine"]) -> None:
        self._kind = kind
        self._given: dict[str, str] = {}
        self._taken: set[str] = set()

    def __call__(self, call_id: str) -> str:
        """The id that is sent for this one."""
        if self._kind == "any" or (self._kind == "short" and len(call_id) <= _SHORT_ID):
            return call_id
        if call_id not in self._given:
            number = 0
            while (given := self._made(call_id, number)) in self._taken:
                number += 1
            self._given[call_id] = given
            self._taken.add(given)
        return self._given[call_id]

    def _made(self, call_id: str, number: int) -> str:
        if self._kind == "short":
            return call_ids.made(call_id, number)
        if not number and len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
            return call_id
        seed = f"{call_id}\n{number}".encode("utf-8", "surrogatepass")
        rest = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest(), "big")
        letters = []
        for _ in range(9):
            rest, letter = divmod(rest, len(_NINE))
            letters.append(_NINE[letter])
        return "".join(letters)
