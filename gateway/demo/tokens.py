"""The demo's tokenizer and its prompt cache.

Contract: one tokenizer serves the text that is streamed, every usage report and every counting
endpoint, so the numbers of one request always agree with one another. About four bytes of English
make a token. The prompt cache answers "how much of this prompt was seen before", as providers do
for long prefixes; it holds digests only, a bounded number of them. Used by the demo alone.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

_TOKEN = re.compile(
    r" ?[A-Za-z0-9]{1,5}"  # a word, or a part of a long one, with the space before it
    r"| ?[^\x00-\x7f]"  # one character beyond ASCII
    r"| ?[!-/:-@\[-`{-~]{1,3}"  # punctuation
    r"|\s{1,8}"
    r"|[\x00-\x7f]",  # control characters: every character belongs to some token
)

CACHE_PREFIX_TOKENS_MIN = 1024
"""Shorter prefixes are never cached (OpenAI and Anthropic documentation, August 2026)."""

CACHE_BLOCK_TOKENS = 128
"""Implicit caching goes by steps of this many tokens (OpenAI documentation, August 2026)."""

CACHE_ENTRIES_MAX = 16384
"""Digests remembered; about 100 bytes each, so the cache stays below 2 MiB."""

Lifetime = Literal["5m", "1h"]


def split(text: str) -> list[str]:
    """Cut `text` into tokens; joined they are `text` again.

    Any leading run of the tokens, joined and split again, gives the same tokens, so an answer cut
    at `max_tokens` is reported with exactly that many.
    """
    return _TOKEN.findall(text)


def count(text: str) -> int:
    """How many tokens `text` has."""
    return len(split(text))


def media_tokens(payload: str, tokens: int) -> list[str]:
    """`tokens` stand-ins for an image, a sound or a file, distinct for each `payload`."""
    digest = hashlib.blake2b(payload.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return [f"<{digest}>"] * tokens


class Mark(msgspec.Struct, frozen=True):
    """An explicit cache point: the prompt up to `position` (in tokens) is to be kept."""

    position: int
    lifetime: Lifetime


class CacheCounts(msgspec.Struct, frozen=True):
    """Tokens of one prompt by what the cache did with them; the rest was neither."""

    read: int = 0
    written_5m: int = 0
    written_1h: int = 0


class PromptCache:
    """Remembers prompts' prefixes, the least recently used forgotten first."""

    def __init__(self, entries_max: int = CACHE_ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def implicit(self, scope: str, tokens: Sequence[str]) -> int:
        """Tokens of the longest remembered prefix, whole blocks; remembers this prompt.

        The last token is never served from the cache: a model has to read something.
        """
        blocks = max(len(tokens) - 1, 0) // CACHE_BLOCK_TOKENS
        ends = [(index + 1) * CACHE_BLOCK_TOKENS for index in range(blocks)]
        ends = [end for end in ends if end >= CACHE_PREFIX_TOKENS_MIN]
        keys = self._digests(scope, tokens, ends)
        read = max(
            (end for end, key in zip(ends, keys, strict=True) if key in self._seen), default=0
        )
        self._remember(keys)
        return read

    def explicit(self, scope: str, tokens: Sequence[str], marks: Sequence[Mark]) -> CacheCounts:
        """What the cache points of a prompt read and write; `marks` in ascending position."""
        usable = [mark for mark in marks if mark.position >= CACHE_PREFIX_TOKENS_MIN]
        keys = self._digests(scope, tokens, [mark.position for mark in usable])
        read = 0
        for mark, key in zip(usable, keys, strict=True):
            if key in self._seen:
                read = mark.position
        written = {"5m": 0, "1h": 0}
        done = read
        for mark in usable:
            if mark.position > done:
                written[mark.lifetime] += mark.position - done
                done = mark.position
        self._remember(keys)
        return CacheCounts(read=read, written_5m=written["5m"], written_1h=written["1h"])

    def _digests(self, scope: str, tokens: Sequence[str], ends: Iterable[int]) -> list[bytes]:
        running = hashlib.blake2b(scope.encode("utf-8", "surrogatepass"), digest_size=16)
        digests = []
        start = 0
        for end in ends:
            running.update("\x00".join(("", *tokens[start:end])).encode("utf-8", "surrogatepass"))
            start = end
            digests.append(running.digest())
        return digests

    def _remember(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._seen[key] = None
            self._seen.move_to_end(key)
        while len(self._seen) > self._entries_max:
            self._seen.popitem(last=False)
