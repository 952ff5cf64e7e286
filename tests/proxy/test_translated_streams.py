"""Streams across formats over real sockets: nothing waits for what comes after it.

The upstream sends the first half, then waits until the caller has read what that half says; a
gateway that held anything back would stand still, and the test would run out of time.
"""

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from harness import Call, Client, chunk, gateway_before, request_bytes, scenario, until
from translated_calls import (
    ALIASES,
    ARGUMENTS,
    PAIR_IDS,
    PAIRS,
    SSE,
    TEXT,
    events,
    path,
    question,
    read_stream,
    upstream_format,
)

Pair = tuple[str, str]
pairs = pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)

COMMENT = b": still thinking\n\n"
PINGS = {
    "openai_chat": COMMENT,
    "anthropic_messages": b'event: ping\ndata: {"type":"ping"}\n\n',
    "gemini": COMMENT,
}
"""What says in an upstream's format that it is still there."""

KEPT_ALIVE = {
    "openai_chat": b": keep-alive\n\n",
    "openai_responses": b": ping\n\n",
    "anthropic_messages": b"event: ping\n",
    "gemini": b"\r\n",
}
"""What a caller reads of it."""


@contextlib.asynccontextmanager
async def reading(
    pair: Pair, directory: Path, said: Callable[[str], list[list[bytes]]], *, tool: bool = False
) -> AsyncIterator[tuple[Client, Callable[[], None]]]:
    """A caller who has the head of a stream; the other value lets the upstream say its next part.

    `said` are the parts of the stream of an upstream's format; the first is sent at once.
    """
    caller, upstream_name = pair
    steps = 0

    async def in_parts(call: Call) -> None:
        first, *others = said(upstream_format(call))
        await call.send(SSE, *map(chunk, first))
        for number, part in enumerate(others):
            await until(lambda number=number: steps > number)  # type: ignore[misc]
            await call.send(*map(chunk, part))
        await call.send(b"0\r\n\r\n")

    def go_on() -> None:
        nonlocal steps
        steps += 1

    async with gateway_before(directory, in_parts, more=ALIASES) as (gateway, _):
        key = await gateway.key()
        model = f"on_{upstream_name}"
        client = await gateway.client()
        body = question(caller, model, stream=True, tool=tool)
        target = path(caller, model, stream=True)
        fields = [(b"Authorization", b"Bearer " + key)]
        await client.send(request_bytes("POST", target, fields, body))
        status, _ = await client.head()
        assert status == 200
        yield client, go_on


async def read_until(client: Client, wanted: bytes, seen: bytes = b"") -> bytes:
    while wanted not in seen:
        piece = await client.piece()
        assert piece, seen
        seen += piece
    return seen


async def rest(client: Client) -> bytes:
    seen = b""
    while piece := await client.piece():
        seen += piece
    return seen


def split_after(said: list[bytes], sign: bytes) -> int:
    return next(at for at, one in enumerate(said) if sign in one) + 1


def escaped(arguments: str) -> bytes:
    """As within a string of JSON."""
    return arguments.replace('"', '\\"').encode()


@pairs
@scenario
async def test_the_arguments_of_a_call_reach_the_caller_as_they_come(
    pair: Pair, tmp_path: Path
) -> None:
    caller, upstream_name = pair
    head = ARGUMENTS[:5] if upstream_name == "anthropic_messages" else ARGUMENTS[:9]

    def said(upstream: str) -> list[list[bytes]]:
        out = events(upstream, tool=True)
        if upstream == "gemini":
            return [out]  # a call is one piece
        if caller == "gemini":  # it has a call once that is whole
            # In chat completions nothing but the next call, or the end, says that one is.
            at = len(out) - 1 if upstream == "anthropic_messages" else len(out)
            return [out[:at], out[at:]]
        at = split_after(out, escaped(head))
        return [out[:at], out[at:]]

    async with reading(pair, tmp_path, said, tool=True) as (client, go_on):
        if "gemini" in pair:
            seen = await read_until(client, b"weather")
        else:
            seen = await read_until(client, escaped(head))
            assert b"1.50" not in seen
        go_on()
        found = read_stream(caller, seen + await rest(client))
        assert (found.name, found.ended) == ("weather", True)
        assert msgspec.json.decode(found.arguments) == msgspec.json.decode(ARGUMENTS)


@pairs
@scenario
async def test_a_sign_of_life_is_passed_on_while_nothing_else_comes(
    pair: Pair, tmp_path: Path
) -> None:
    caller, _ = pair

    def said(upstream: str) -> list[list[bytes]]:
        out = events(upstream)
        at = split_after(out, TEXT[:5].encode())
        return [out[:at], [PINGS[upstream]], out[at:]]

    async with reading(pair, tmp_path, said) as (client, go_on):
        seen = await read_until(client, TEXT[:5].encode())
        while not seen.endswith(b"\n\n") and not seen.endswith(b"\r\n\r\n"):
            seen += await client.piece()
        go_on()
        alive = await client.piece()
        assert KEPT_ALIVE[caller] in alive
        assert TEXT[5:].encode() not in alive
        go_on()
        assert read_stream(caller, seen + alive + await rest(client)).text == TEXT


@pytest.mark.parametrize("pair", [one for one in PAIRS if one[0] == "openai_responses"], ids=str)
@scenario
async def test_a_sign_of_life_before_a_stream_breaks_off_costs_no_number(
    pair: Pair, tmp_path: Path
) -> None:
    def said(upstream: str) -> list[list[bytes]]:
        out = events(upstream)
        return [out[: split_after(out, TEXT[:5].encode())], [PINGS[upstream]]]

    async with reading(pair, tmp_path, said) as (client, go_on):
        seen = await read_until(client, TEXT[:5].encode())
        go_on()
        seen = await read_until(client, KEPT_ALIVE["openai_responses"], seen) + await rest(client)
        assert read_stream("openai_responses", seen).error is not None
        numbers = [int(one) for one in re.findall(rb'"sequence_number":(\d+)', seen)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > 3
