"""Thoughts in OpenAI chat, which has no standard place for them.

Read: `reasoning_content` (DeepSeek, vLLM, llama.cpp, Z.ai), `reasoning` (Groq, OpenRouter) and
`reasoning_details` (OpenRouter, Vercel), whose objects also carry what a provider signed or
encrypted. These objects together, as JSON, are the `Signature` of the thinking block: they go back
to this format alone. Written: text as `reasoning_content`, such a signature as
`reasoning_details`. Used by the other `openai_chat` modules; pure.

Source: openrouter.ai/docs/use-cases/reasoning-tokens, api-docs.deepseek.com (2026-08), and recorded
traffic (0a9ac71a, 5e1c1635, 84febfbd).
"""

import msgspec
from msgspec import Raw

from gateway.wire import lenient
from gateway.wire.conversation import Signature, Thinking

NAME = "openai_chat"

_JOINED = ("text", "summary")
_OPAQUE = ("signature", "data")

SEPARATOR = "\n\n"
"""Between the texts of one answer's thinking blocks, where a format has but one field for them."""


def json_of(value: object) -> bytes:
    """JSON of what was decoded from a provider's; `null` where it is nested too deep for that."""
    try:
        return msgspec.json.encode(value)
    except RecursionError:
        return b"null"


class Details:
    """`reasoning_details`, put together from one answer or from the pieces of a stream.

    Pieces of one object have the same `index` and `type`; their texts are joined, of all else the
    last that says anything stands.
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[str, object]] = {}

    def add(self, pieces: object) -> str:
        """Take a list of pieces; return the text that they bring."""
        text = ""
        for piece in pieces if isinstance(pieces, list) else ():
            if not isinstance(piece, dict):
                continue
            key = (repr(piece.get("index")), repr(piece.get("type")))
            if isinstance(piece.get("data"), str):
                key = (f"{key[0]} {len(self._found)}", key[1])  # whole: never one of several pieces
            kept = self._found.setdefault(key, {})
            for name, value in piece.items():
                old = kept.get(name)
                if name in _JOINED and isinstance(value, str):
                    text += value
                    kept[name] = f"{old or ''}{value}"
                elif value not in (None, "") or name not in kept:
                    kept[name] = value
        return text

    def signature(self) -> Signature | None:
        """All objects so far, if one of them is signed or encrypted."""
        found = list(self._found.values())
        if not any(one.get(name) for one in found for name in _OPAQUE):
            return None
        return Signature(NAME, json_of(found).decode())

    def clear(self) -> None:
        """Begin anew."""
        self._found.clear()


def thinking_of(thought: str, details: object) -> Thinking | None:
    """The thinking of a whole message, of its text and its decoded `reasoning_details`."""
    if not details:
        return Thinking(thought) if thought else None
    found = Details()
    repeated = found.add(details)
    text = thought or repeated
    signature = found.signature()
    if not text and signature is None:
        return None
    return Thinking(text, signature, redacted=not text)


def read_details(raw: Raw) -> object:
    """`reasoning_details` decoded; None where it cannot be."""
    return lenient.anything(raw)


def own_details(signature: Signature | None) -> list[dict[str, object]] | None:
    """The `reasoning_details` that a signature of this format stands for."""
    if signature is None or signature.format != NAME:
        return None
    found = lenient.anything(signature.value.encode("utf-8", "replace"))
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        return None
    return found
