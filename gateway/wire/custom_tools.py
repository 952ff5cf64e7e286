r"""Custom tools, whose input is plain text, toward formats and models that know functions only.

A custom tool is written as a function with one argument, a string called `input` (`as_function`),
and a call of it in the history likewise (`as_arguments`). On the way back a call of a function that
the caller knows as a custom tool becomes one again: `restored` for whole answers, `CustomCalls` for
streams, where the text goes out as it comes, whatever the cut. A grammar that the input has to keep
to is told to the model in the description, as nothing there can enforce it. A call of another shape
than was asked for is given to the caller as the model wrote it: the caller's own check of the input
tells the model what is wrong with it. Pure; used by writers of requests and by `translate.py`.
"""

import re

import msgspec

from gateway.wire.conversation import Answer, Block, Request, Tool, ToolCall
from gateway.wire.events import BlockStart, BlockStop, Delta, Event

ARGUMENT = "input"

_SCHEMA = msgspec.json.encode(
    {
        "type": "object",
        "properties": {
            ARGUMENT: {
                "type": "string",
                "description": "The whole input of the tool, as plain text.",
            }
        },
        "required": [ARGUMENT],
    }
)
_GRAMMAR = "The input must keep to this grammar (%s):\n\n%s"

_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_OPENING_CHARS_MAX = 64
"""What may stand before the text; a model that writes more writes something else."""

_HIGH = r"u[dD][89abAB][0-9a-fA-F]{2}"
_LOW = r"u[dD][c-fC-F][0-9a-fA-F]{2}"
# Whole characters of a JSON string. What should have been escaped passes as it is, so does what
# only looks like an escape, and half of a pair waits for the other half.
_WHOLE = re.compile(
    rf'(?:[^"\\]|\\(?:{_HIGH}\\{_LOW}|(?!{_HIGH}(?:\\|\\u[0-9a-fA-F]{{0,3}})?\Z)'
    r"(?:u(?:[0-9a-fA-F]{4}|(?![0-9a-fA-F]{0,3}\Z)(?![0-9a-fA-F]{4}))|[^u])))*",
    re.DOTALL,
)
_ESCAPE = re.compile(rf"\\(?:({_HIGH})\\({_LOW})|u([0-9a-fA-F]{{4}})|(.))", re.DOTALL)
_SHORT = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def as_function(tool: Tool) -> Tool:
    """A custom tool as a function with one argument."""
    told = [tool.description] if tool.description else []
    if tool.grammar is not None:
        told.append(_GRAMMAR % tool.grammar)
    return msgspec.structs.replace(
        tool, custom=False, grammar=None, schema=_SCHEMA, description="\n\n".join(told) or None
    )


def as_arguments(call: ToolCall) -> ToolCall:
    """A call of a custom tool as one of that function."""
    arguments = msgspec.json.encode({ARGUMENT: call.arguments}).decode()
    return msgspec.structs.replace(call, custom=False, arguments=arguments)


def names(request: Request) -> frozenset[str]:
    """The custom tools of a request."""
    return frozenset(tool.name for tool in request.tools if tool.custom)


def restored(answer: Answer, custom: frozenset[str]) -> Answer:
    """A whole answer, its calls of the caller's custom tools as such."""
    choices = tuple(
        msgspec.structs.replace(one, content=tuple(_block(block, custom) for block in one.content))
        for one in answer.choices
    )
    return msgspec.structs.replace(answer, choices=choices)


def _block(block: Block, custom: frozenset[str]) -> Block:
    if not isinstance(block, ToolCall) or block.custom or block.name not in custom:
        return block
    text = _Text()
    return msgspec.structs.replace(
        block, custom=True, arguments=text.feed(block.arguments) + text.end()
    )


class CustomCalls:
    """The same for the events of one stream."""

    def __init__(self, custom: frozenset[str]) -> None:
        self._custom = custom
        self._open: dict[int, _Text] = {}

    def restored(self, events: list[Event]) -> list[Event]:
        """The events with the caller's custom calls as such."""
        out: list[Event] = []
        for event in events:
            match event:
                case BlockStart(index=index, block=ToolCall(custom=False) as call) if (
                    call.name in self._custom
                ):
                    text = self._open[index] = _Text()
                    said = text.feed(call.arguments)
                    block = msgspec.structs.replace(call, custom=True, arguments=said)
                    out.append(msgspec.structs.replace(event, block=block))
                case Delta(index=index, kind="arguments") if index in self._open:
                    out += _said(index, self._open[index].feed(event.text))
                case BlockStop(index=index) if index in self._open:
                    out += _said(index, self._open.pop(index).end())
                    out.append(event)
                case _:
                    out.append(event)
        return out


def _said(index: int, text: str) -> list[Event]:
    return [Delta(index, text, "arguments")] if text else []


class _Text:
    r"""The text in `{"input":"..."}`, as pieces of that come in."""

    def __init__(self) -> None:
        self._pieces: list[str] = []  # as they came, until it is known what they are
        self._chars = 0
        self._rest: str | None = None  # of the string, once in it: what is not yet whole
        self._over = False

    def feed(self, piece: str) -> str:
        """Take the next piece; return what it adds to the text."""
        if self._over:
            return ""
        if self._rest is None:
            self._pieces.append(piece)
            self._chars += len(piece)
            if self._chars - len(piece) > _OPENING_CHARS_MAX:
                return ""
            found = _OPENING.match("".join(self._pieces))
            if found is None:
                return ""
            self._rest, piece = "", found.string[found.end() :]
        pending = self._rest + piece
        whole = _WHOLE.match(pending)
        assert whole is not None  # it may be empty
        self._rest = pending[whole.end() :]
        self._over = self._rest.startswith('"')
        return _ESCAPE.sub(_character, whole[0])

    def end(self) -> str:
        """No more comes; return what remains. A call that was cut short keeps what it has."""
        if self._rest is not None:
            return ""
        raw = "".join(self._pieces)
        try:
            found = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            return raw
        if isinstance(found, dict):
            values = [found[ARGUMENT]] if ARGUMENT in found else list(found.values())
            if len(values) == 1 and isinstance(values[0], str):
                return values[0]
        return raw


def _character(escape: re.Match[str]) -> str:
    high, low, alone, other = escape.groups()
    if high is not None:
        return chr(0x10000 + ((int(high[1:], 16) & 0x3FF) << 10) + (int(low[1:], 16) & 0x3FF))
    if alone is not None:
        code = int(alone, 16)
        # Half of a pair alone is no character, and no UTF-8.
        return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)
    return _SHORT.get(other, other)
