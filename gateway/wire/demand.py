"""The most that a request can use, as its body says: what holds and token limits start from.

`read` must never say too little, or a caller could spend what was not held. So it does not look
for what is dear: `known.py` lists what is known to cost no more than its bytes, and whatever else
a body has is taken for more than it holds (`unbounded`), be it content by URL or id, a tool that
the provider runs, a document, or a field made up tomorrow. `plain.py` reads the common kinds of
content faster. Used by admission; pure.

Measured (CPython 3.11, one busy core), after `envelope.peek`: 1 KB of chat 2.1 µs, of Messages
1.8 µs, of Gemini 2.0 µs; 100 KB in one message 32 µs, in 250 messages 85 µs, as 250 parts 48 µs;
140 KB of a coding agent in 500 blocks 150 µs; an image of 1 MB 0.26 ms. To pass over the messages
of the agent, unread, takes 61 µs.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec
from msgspec import Raw, field

from gateway.errors import GatewayError
from gateway.wire import known, plain
from gateway.wire.envelope import Envelope
from gateway.wire.known import Fields, Found
from gateway.wire.neutral import Demand

CHOICES_MAX = 128
"""What OpenAI allows `n` (API reference, November 2026)."""

TEMPLATE_TOKENS = 512
"""Tokens that a provider may put around a request: its chat template, a line about the date. Only
vendors that lead every chat with a long prompt of their own take more."""

TOOL_PROMPT_TOKENS = 1024
"""Tokens of the prompt that a provider adds where there are tools, and again for each tool that it
defines itself: up to 804 and 735 at Anthropic (docs "Tool use", November 2026)."""

IMAGE_TOKENS_USUAL = 1000
"""Tokens of an image towards a limit per minute: between Gemini's 258 and Anthropic's 1,600."""

BYTES_PER_TOKEN_USUAL = 4


class _Generation(msgspec.Struct, gc=False):
    """What of a generation config says how much comes out, and of which kind."""

    candidates: Raw = field(name="candidateCount", default=Raw())
    candidates_snake: Raw = field(name="candidate_count", default=Raw())
    modalities: list[str] | None = field(name="responseModalities", default=None)
    modalities_snake: list[str] | None = field(name="response_modalities", default=None)


_GENERATION = msgspec.json.Decoder(_Generation | None)
_TEXTS = msgspec.json.Decoder(list[str] | None)
_RAWS = msgspec.json.Decoder(list[Raw])


class _Output(NamedTuple):
    """How many answers, and of which kinds besides text. Models that make images do so unasked."""

    choices: int = 1
    audio: bool = False
    image: bool = True


_ONE_ANSWER = _Output()


def _one(_: Fields) -> _Output:
    return _ONE_ANSWER


def _chat(fields: Fields) -> _Output:
    choices = 1
    for key in ("n", "best_of"):
        if key in fields:
            choices = max(choices, _choices(fields[key], key))
    if "modalities" not in fields:
        return _ONE_ANSWER if choices == 1 else _Output(choices)
    try:
        names = _TEXTS.decode(fields["modalities"])
    except msgspec.ValidationError:
        raise _wrong("modalities must be a list of names.", "modalities") from None
    return _Output(choices, *_kinds(names)) if names else _Output(choices)


def _completions(fields: Fields) -> _Output:
    return _Output(_chat(fields).choices * _prompts(fields.get("prompt")))


def _prompts(raw: Raw | None) -> int:
    """How many prompts there are: an array of token numbers is one, of texts or arrays many."""
    if raw is None or memoryview(raw)[0] != 0x5B:
        return 1
    prompts = _RAWS.decode(raw)
    return max(sum(memoryview(prompt)[0] in b'"[' for prompt in prompts), 1)


def _gemini(fields: Fields) -> _Output:
    choices = 1
    names: list[str] = []
    for outer in ("generationConfig", "generation_config"):
        if outer not in fields:
            continue
        try:
            config = _GENERATION.decode(fields[outer]) or _Generation()
        except msgspec.ValidationError:
            raise _wrong(f"{outer}.responseModalities must be a list of names.", outer) from None
        for candidates in (config.candidates, config.candidates_snake):
            if candidates:
                choices = max(choices, _choices(candidates, f"{outer}.candidateCount"))
        names += [*(config.modalities or ()), *(config.modalities_snake or ())]
    audio, image = _kinds(names) if names else (True, True)
    return _Output(choices, audio, image)


def _kinds(names: list[str]) -> tuple[bool, bool]:
    """Whether audio, and whether images, can come of these modalities."""
    kinds = {name.lower() for name in names}
    return not kinds <= {"text", "image"}, not kinds <= {"text", "audio"}


def _choices(raw: Raw, param: str) -> int:
    spelled = bytes(raw)
    if spelled == b"null":
        return 1
    choices = int(spelled) if len(spelled) <= 3 and spelled.isdigit() else 0
    if not 0 < choices <= CHOICES_MAX:
        raise _wrong(f"{param} must be a whole number from 1 to {CHOICES_MAX}.", param)
    return choices


def _wrong(message: str, param: str) -> GatewayError:
    return GatewayError("invalid_request", message, param=param)


# -- all formats -------------------------------------------------------------------------------


class _Reader(msgspec.Struct, frozen=True):
    """How one format is read: the top-level fields known to bring in nothing but themselves.

    `plain` tells cheaply of the field `main`, the list that a conversation is in, whether it is
    text; `walk` reads all else, and that list where it is not.
    """

    known: frozenset[str]
    walk: Callable[[Fields, Found], None]
    output: Callable[[Fields], _Output]
    main: str = ""
    plain: Callable[[Raw, Found], bool] | None = None
    generates: bool = True


_READERS = {
    "openai_chat": _Reader(known.CHAT, known.chat, _chat, "messages", plain.chat),
    "openai_responses": _Reader(known.RESPONSES, known.responses, _one, "input", plain.responses),
    "openai_completions": _Reader(known.COMPLETIONS, known.completions, _completions),
    "openai_embeddings": _Reader(known.OPENAI_EMBEDDINGS, known.embeddings, _one, generates=False),
    "anthropic_messages": _Reader(
        known.ANTHROPIC, known.anthropic, _one, "messages", plain.anthropic
    ),
    "gemini": _Reader(known.GEMINI, known.gemini, _gemini, "contents", plain.gemini),
    "gemini_embeddings": _Reader(
        known.GEMINI_EMBEDDINGS, known.gemini_embeddings, _one, generates=False
    ),
}


def read(body: bytes, seen: Envelope, wire_format: str) -> Demand:
    """What `body` can use at most; `seen` is its envelope, `peek(body, wire_format)`.

    A format without a reader is taken for unbounded. Raises GatewayError `invalid_request` where
    the number of answers (`n`, `best_of`, `candidateCount`) is not a whole number from 1 to
    `CHOICES_MAX`, or their kinds are no list.
    """
    reader = _READERS.get(wire_format)
    if reader is None:
        return Demand(
            len(body), seen.max_output_tokens, unbounded=True, input_audio=True, input_image=True,
            output_audio=True, output_image=True, cache_write="1h",
        )  # fmt: skip
    fields = seen.fields
    found = Found()
    main = fields.get(reader.main)
    if main is not None and reader.plain is not None:
        found.plain = reader.plain(main, found)
        if not found.plain:
            found = Found()  # without what it came upon on the way
    try:
        reader.walk(fields, found)
    except (msgspec.DecodeError, RecursionError):
        found.unbounded = True
        found.cache = "1h"
    unbounded = found.unbounded or not (
        fields.keys() <= reader.known or _only_nulls(fields, reader.known)
    )
    output = reader.output(fields)
    return Demand(
        len(body),
        seen.max_output_tokens if reader.generates else 0,
        output.choices,
        unbounded,
        _is_separate(fields, wire_format),
        found.images,
        found.image_bytes,
        TEMPLATE_TOKENS + found.tool_prompts * TOOL_PROMPT_TOKENS,
        unbounded or found.audio,
        unbounded or found.images > 0,
        output.audio,
        output.image,
        found.cache,
    )


def tokens(demand: Demand, default_output: int) -> int:
    """A fair guess at what a request will use, for limits per minute.

    `default_output` stands in for a limit on output that the body does not name.
    """
    text = demand.input_bytes - demand.image_bytes
    output = demand.max_output_tokens
    return (
        -(-text // BYTES_PER_TOKEN_USUAL)
        + demand.images * IMAGE_TOKENS_USUAL
        + demand.choices * (default_output if output is None else output)
    )


def _is_null(raw: Raw | None) -> bool:
    return raw is None or bytes(raw) == b"null"


def _only_nulls(fields: Fields, known: frozenset[str]) -> bool:
    """Whether every field that is not known is null, as some clients send all of theirs."""
    return all(_is_null(raw) for key, raw in fields.items() if key not in known)


def _is_separate(fields: Fields, wire_format: str) -> bool:
    """Whether the body holds a list of inputs that are read one by one."""
    key = _LISTS.get(wire_format)
    raw = None if key is None else fields.get(key)
    return raw is not None and memoryview(raw)[0] == 0x5B


_LISTS = {
    "openai_completions": "prompt",
    "openai_embeddings": "input",
    "gemini_embeddings": "requests",
}
