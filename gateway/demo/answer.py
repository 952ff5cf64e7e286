"""What the demo says: the same answer to the same question, whatever the wire format.

Each format reads its request into an `Ask` and writes the `Answer` in its own grammar. The text
echoes the user's words, so that a caller sees its content come round, and goes on with words drawn
from the prompt's digest. A tool is called when the choice forces one, or when the last message
mentions it by name. Pure: no clock, no randomness beyond the digest. Used by the demo alone.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import orjson

from gateway.demo import tokens
from gateway.demo.schema import sample

ECHO_TOKENS_MAX = 256
"""Of a long message only the opening is echoed."""

DEFAULT_MAX_TOKENS = 4096

RECALLING = "I remember why I asked for that."
"""Said where a provider's own thoughts, signed, came back with the results of the calls."""

Choice = Literal["auto", "none", "required"]
Finish = Literal["stop", "length", "tools", "stop_sequence"]

# Five letters at the most: with the space before it each word is one token.
_WORDS = (
    "river amber quiet stone light maple north early paper glass field ocean cedar morning sound "
    "clear slow bright round plain green candle harbor silver gentle winter summer garden window "
    "train letter music copper bread salt rain cloud hill lamp road wheel boat sand fern moss bell"
)
WORDS = tuple(word for word in _WORDS.split() if len(word) <= 5)


class Tool(msgspec.Struct, frozen=True):
    """A tool on offer; `schema` is that of its arguments."""

    name: str
    schema: dict[str, Any]


class ToolResult(msgspec.Struct, frozen=True):
    """A result the caller brought back in the last turn; `name` is the tool's, or the call's id."""

    name: str
    text: str


class Ask(msgspec.Struct, frozen=True):
    """One request, in no format: what the answer depends on.

    `prompt` is the whole input as tokens. `recalls`: the thoughts that led to the results came back
    with them. `seen` are sentences about the pictures of the last turn
    (`images.sentence`). `only` narrows `tools` to those that may be called;
    `choice` says whether one may, must or must not be. `schema` asks for JSON of that schema,
    `json_object` for any. `thinking_tokens` is 0 where the model is not to think. `length` is the
    exact length of the text (the `tokens` switch). `variant` tells the answers of `n > 1` apart.
    """

    prompt: tuple[str, ...]
    user_text: str = ""
    results: tuple[ToolResult, ...] = ()
    seen: tuple[str, ...] = ()
    recalls: bool = False
    tools: tuple[Tool, ...] = ()
    choice: Choice = "auto"
    only: tuple[str, ...] = ()
    parallel: bool = True
    schema: dict[str, Any] | None = None
    json_object: bool = False
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    thinking_tokens: int = 0
    length: int | None = None
    seed: str = ""
    variant: int = 0


class Call(msgspec.Struct, frozen=True):
    """A tool call; `pieces` joined are its arguments, JSON text unless `complete` is False."""

    name: str
    pieces: tuple[str, ...]
    complete: bool = True

    @property
    def arguments(self) -> str:
        """The arguments as JSON text (cut short where not `complete`)."""
        return "".join(self.pieces)


class Answer(msgspec.Struct, frozen=True):
    """What was said, as tokens: `thinking` first, then `text` or `calls`."""

    thinking: tuple[str, ...]
    text: tuple[str, ...]
    calls: tuple[Call, ...]
    finish: Finish
    stop_sequence: str | None = None

    @property
    def thinking_text(self) -> str:
        """The thinking in one piece."""
        return "".join(self.thinking)

    @property
    def plain_text(self) -> str:
        """The text in one piece."""
        return "".join(self.text)

    @property
    def visible_tokens(self) -> int:
        """Tokens of text and calls."""
        calls = sum(tokens.count(call.name) + len(call.pieces) for call in self.calls)
        return len(self.text) + calls

    @property
    def output_tokens(self) -> int:
        """Every token on the way out, thinking included."""
        return len(self.thinking) + self.visible_tokens


def compose(ask: Ask) -> Answer:
    """Answer `ask`; the same request always gets the same answer."""
    rng = random.Random(_seed(ask))
    budget = ask.max_tokens if ask.max_tokens is not None else DEFAULT_MAX_TOKENS
    if ask.length is not None and ask.max_tokens is None:
        budget = max(budget, ask.length + ask.thinking_tokens)
    thinking = tuple(_think(rng, min(ask.thinking_tokens, budget)))
    budget -= len(thinking)
    called = _tools_to_call(ask)
    if called:
        calls, complete = _calls(called, budget)
        return Answer(thinking, (), calls, "tools" if complete else "length")
    text, stopped_by = _cut_at_stop(_text(ask, rng), ask.stop)
    pieces = tokens.split(text)
    if len(pieces) > budget:
        return Answer(thinking, tuple(pieces[:budget]), (), "length")
    finish: Finish = "stop" if stopped_by is None else "stop_sequence"
    return Answer(thinking, tuple(pieces), (), finish, stopped_by)


def _seed(ask: Ask) -> int:
    digest = hashlib.blake2b(digest_size=8)
    digest.update("\x00".join(ask.prompt).encode("utf-8", "surrogatepass"))
    digest.update(f"\x00{ask.seed}\x00{ask.variant}".encode())
    return int.from_bytes(digest.digest(), "big")


def _think(rng: random.Random, wanted: int) -> list[str]:
    opening = "The user wants an answer. I look at the question, then at the tools and the format."
    return tokens.split(opening + _words(rng, wanted))[:wanted]


def _words(rng: random.Random, wanted: int) -> str:
    """About `wanted` tokens of sentences; never fewer."""
    out = []
    for index in range(wanted):
        word = rng.choice(WORDS)
        out.append(" " + (word.capitalize() if index % 9 == 0 else word))
        if index % 9 == 8:
            out.append(".")
    return "".join(out)


def _text(ask: Ask, rng: random.Random) -> str:
    if ask.schema is not None:
        return orjson.dumps(sample(ask.schema)).decode()
    opening = _opening(ask)
    if ask.json_object:
        return orjson.dumps({"answer": opening}).decode()
    if ask.length is not None:
        pieces = tokens.split(opening + _words(rng, ask.length))
        return "".join(pieces[: ask.length])
    return f"{opening}{_words(rng, rng.randint(12, 28))}."


def _opening(ask: Ask) -> str:
    said = [f'The tool {result.name} answered: "{_head(result.text)}".' for result in ask.results]
    if not said and ask.user_text:
        said.append(f'You said: "{_head(ask.user_text)}".')
    if ask.results and ask.recalls:
        said.append(RECALLING)
    said += ask.seen
    return " ".join(said) or "Hello from the demo model."


def _head(text: str) -> str:
    # Five bytes to a token at the most, so a 10 MB message is not split only to echo its start.
    pieces = tokens.split(text[: ECHO_TOKENS_MAX * 8])
    return "".join(pieces[:ECHO_TOKENS_MAX])


def _cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    found = [(text.find(stop), stop) for stop in stops if stop and stop in text]
    if not found:
        return text, None
    position, stop = min(found, key=lambda hit: hit[0])
    return text[:position], stop


def _tools_to_call(ask: Ask) -> list[Tool]:
    if ask.choice == "none" or not ask.tools:
        return []
    allowed = [tool for tool in ask.tools if not ask.only or tool.name in ask.only]
    mentioned = [tool for tool in allowed if _mentions(ask.user_text, tool.name)]
    if ask.results:
        # The last turn brought results: answer them, unless a call is demanded all the same.
        mentioned = []
    if ask.choice == "required" and not mentioned:
        mentioned = allowed[:1]
    return mentioned if ask.parallel else mentioned[:1]


def _mentions(text: str, name: str) -> bool:
    spoken = name.replace("_", " ").replace("-", " ")
    words = "|".join(re.escape(word) for word in {name, spoken} if word)
    return bool(words) and re.search(rf"(?<!\w)(?:{words})(?!\w)", text, re.IGNORECASE) is not None


def _calls(called: Sequence[Tool], budget: int) -> tuple[tuple[Call, ...], bool]:
    calls: list[Call] = []
    for tool in called:
        pieces = tokens.split(orjson.dumps(sample(tool.schema)).decode())
        budget -= tokens.count(tool.name)
        if budget <= 0:
            return tuple(calls), False
        if len(pieces) > budget:
            calls.append(Call(tool.name, tuple(pieces[:budget]), complete=False))
            return tuple(calls), False
        calls.append(Call(tool.name, tuple(pieces)))
        budget -= len(pieces)
    return tuple(calls), True
