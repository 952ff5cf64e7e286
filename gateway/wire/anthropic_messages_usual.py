"""The usual Messages request, read in one decode and written in one encode: turns of plain text
and a few settings.

What is not plainly that is None, and goes through `anthropic_messages_requests.py` and
`anthropic_messages_bodies.py`, which would read the same and write the same bytes
(tests/wire/test_usual_reading.py, tests/wire/test_usual_writing.py). Used by the dialect; pure.
Measured (CPython 3.11, 1 KB): read in 2.6 µs instead of 9, written in 2.2 instead of 7.3.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import orjson

from gateway.wire.anthropic_messages_blocks import FORMAT
from gateway.wire.anthropic_messages_bodies import MAX_TOKENS_DEFAULT
from gateway.wire.conversation import Block, Feature, Message, Request, Text
from gateway.wire.format import Toward
from gateway.wire.usual import is_plain, texts_of

_Said = Annotated[str, msgspec.Meta(min_length=1)]


class _Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    role: Literal["user", "assistant"]
    content: str


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: _Said
    messages: Annotated[list[_Turn], msgspec.Meta(min_length=1)]
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    system: _Said | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


_BODY = msgspec.json.Decoder(_Body)
_MARK = b'"cache_control"'


def read_request(body: bytes, *, stream: bool | None) -> Request | None:
    """The request, where it is a usual one; `stream` where the body does not say it."""
    try:
        found = _BODY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    turns = found.messages
    if turns[-1].role == "assistant" or body.find(_MARK) >= 0:
        return None  # an answer that is begun; a mark, or a text about marks
    spelled: dict[Feature, str] = {}
    if found.max_tokens is not None:
        spelled["max_output_tokens"] = "max_tokens"
    if found.temperature is not None:
        spelled["temperature"] = "temperature"
    if found.top_p is not None:
        spelled["top_p"] = "top_p"
    if found.top_k is not None:
        spelled["top_k"] = "top_k"
    return Request(
        format=FORMAT,
        model=found.model,
        stream=found.stream if found.stream is not None else bool(stream),
        system=() if found.system is None else (Text(found.system),),
        messages=tuple([Message(turn.role, (Text(turn.content),)) for turn in turns]),
        max_output_tokens=found.max_tokens,
        temperature=found.temperature,
        top_p=found.top_p,
        top_k=found.top_k,
        spelled=spelled,
    )


def write_request(request: Request, toward: Toward) -> bytes | None:
    """The body for a Messages upstream, where the request is a usual one: nothing is left out."""
    temperature = None if request.temperature == 1 else request.temperature  # 1 is the default
    top_p = None if request.top_p == 1 else request.top_p
    if not is_plain(request) or (
        temperature is not None and (temperature > 1 or top_p is not None)
    ):
        return None
    messages = _messages(request)
    system = _written(request.system)
    if not messages or (request.system and not system):
        return None
    body: dict[str, object] = {
        "model": toward.model,
        "max_tokens": request.max_output_tokens or toward.max_output_tokens or MAX_TOKENS_DEFAULT,
        "messages": messages,
    }
    if request.stream:
        body["stream"] = True
    if system:
        body["system"] = system
    if temperature is not None:
        body["temperature"] = temperature
    if top_p is not None:
        body["top_p"] = top_p
    if request.top_k is not None:
        body["top_k"] = request.top_k
    return orjson.dumps(body)


def _messages(request: Request) -> list[dict[str, object]]:
    """Turns of texts, neighbours merged; an empty list where there is anything else."""
    messages: list[dict[str, object]] = []
    before = None
    blocks: list[dict[str, str]] = []
    for message in request.messages:
        role = message.role
        said = _written(message.content)
        if not said or role == "system":
            return []
        if role == before:
            blocks += said
        else:
            blocks, before = said, role
            messages.append({"role": role, "content": blocks})
    return messages if before == "user" else []


def _written(content: Sequence[Block]) -> list[dict[str, str]]:
    """Texts as blocks; an empty list where one is blank, or none."""
    blocks = []
    for text in texts_of(content):
        if text.isspace():
            return []
        blocks.append({"type": "text", "text": text})
    return blocks
