"""The events of a streamed answer, and the grammar that every reader keeps to.

    MessageStart
    ( BlockStart Delta* BlockStop | Ping )*      blocks may overlap; each has an index of its own
    Finish+                                      one per choice
    MessageEnd
or, anywhere after the first byte, StreamError and nothing more.

A reader of a format without explicit blocks (OpenAI chat, Gemini) makes their life up once, here at
the source; no writer has to. A stream that ends without its end is no `Finish`: `eof` of the reader
raises `Truncated`, and nobody invents one.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from gateway.wire.conversation import Block, StopReason
from gateway.wire.neutral import Usage


class MessageStart(msgspec.Struct, frozen=True):
    """The answer begins. `usage` is what is known by now (Anthropic tells the input here)."""

    id: str | None
    model: str | None
    usage: Usage | None = None
    created_s: int | None = None


class BlockStart(msgspec.Struct, frozen=True):
    """A block begins: `block` as far as it is known, its text or arguments still to come.

    Indexes count up from 0 over all choices. Images, audio, citations and opaque blocks are whole.
    """

    index: int
    block: Block
    choice: int = 0


class Delta(msgspec.Struct, frozen=True):
    """More of a block: its text, a call's arguments, or its signature (whole).

    `format` says of a signature where it was issued, as `Signature.format` does.
    """

    index: int
    text: str
    kind: Literal["text", "arguments", "signature"] = "text"
    format: str = ""


class BlockStop(msgspec.Struct, frozen=True):
    """A block is complete."""

    index: int


class Finish(msgspec.Struct, frozen=True):
    """A choice is complete; all its blocks are."""

    stop: StopReason
    stop_sequence: str | None = None
    choice: int = 0


class MessageEnd(msgspec.Struct, frozen=True):
    """The answer is complete: the format's own terminal was seen."""

    usage: Usage | None = None


class StreamError(msgspec.Struct, frozen=True):
    """The upstream told of an error in its stream, or gave an answer that is none."""

    message: str
    type: str | None = None
    code: str | None = None


class Ping(msgspec.Struct, frozen=True):
    """The upstream is alive: a ping, or a comment."""


Event = MessageStart | BlockStart | Delta | BlockStop | Finish | MessageEnd | StreamError | Ping


class Truncated(Exception):
    """The stream ended without its end."""


class GrammarError(AssertionError):
    """A reader's events are in an order that they must not be in."""


def check_grammar(events: Iterable[Event]) -> None:
    """Raise `GrammarError` unless these are the events of one stream, complete or cut short."""
    checker = Grammar()
    for event in events:
        checker.see(event)


class Grammar:
    """`check_grammar`, event by event."""

    def __init__(self) -> None:
        self.started = False
        self.over = False
        self._open: dict[int, int] = {}
        self._next = 0
        self._finished: set[int] = set()

    def see(self, event: Event) -> None:
        """Take the next event; raises `GrammarError`."""
        if self.over:
            raise GrammarError(f"{event} after the end")
        if isinstance(event, Ping):
            return
        if isinstance(event, StreamError):
            self.over = True
            return
        if isinstance(event, MessageStart):
            if self.started:
                raise GrammarError("a second MessageStart")
            self.started = True
            return
        if not self.started:
            raise GrammarError(f"{event} before MessageStart")
        self._inside(event)

    def _inside(self, event: BlockStart | Delta | BlockStop | Finish | MessageEnd) -> None:
        match event:
            case BlockStart(index=index, choice=choice):
                if index != self._next or choice in self._finished:
                    raise GrammarError(f"{event}: index {self._next} is next")
                self._open[index] = choice
                self._next += 1
            case Delta(index=index) if index not in self._open:
                raise GrammarError(f"{event}: no such block is open")
            case BlockStop(index=index):
                if self._open.pop(index, None) is None:
                    raise GrammarError(f"{event}: no such block is open")
            case Finish(choice=choice):
                if choice in self._finished or choice in self._open.values():
                    raise GrammarError(f"{event}: it is finished, or has open blocks")
                self._finished.add(choice)
            case MessageEnd():
                if not self._finished or self._open:
                    raise GrammarError("MessageEnd with nothing finished, or with open blocks")
                self.over = True
            case _:
                pass
