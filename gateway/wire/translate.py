"""One format in front of another: requests out, answers and streams back, losses told.

`Translation` is one call's: `request` is read once from the caller's body and written for each
target that is tried; `answer` and `tap` bring back what came. What the target's format has no
place for is refused before anything is sent (`unsupported_parameter`), or, where it is a hint
that cannot change the meaning, left out and named in `ignored`. Sans-io. Used by the proxy.
"""

import msgspec

from gateway.errors import GatewayError
from gateway.wire import custom_tools
from gateway.wire.conversation import (
    Answer,
    AnswerError,
    Block,
    Refusal,
    Request,
    Text,
    Thinking,
    ToolCall,
)
from gateway.wire.events import (
    BlockStart,
    BlockStop,
    Delta,
    Event,
    Finish,
    MessageEnd,
    MessageStart,
    StreamError,
    Truncated,
)
from gateway.wire.format import Asked, Dialect, Toward
from gateway.wire.neutral import Metered, StreamFault


class Translation:
    """One call, from one dialect (`caller`) to another (`upstream`)."""

    def __init__(self, caller: Dialect, upstream: Dialect, request: Request) -> None:
        self.caller = caller
        self.upstream = upstream
        self.request = request
        self.ignored: list[str] = []
        self._custom = custom_tools.names(request)

    def body(self, toward: Toward) -> bytes:
        """The request's body for an upstream; sets `ignored`.

        Raises `GatewayError` `unsupported_parameter` with the caller's field as `param`.
        """
        left_out = losses(self.request, self.upstream)
        try:
            body, more = self.upstream.write_request(self.request, toward)
        except GatewayError as exc:
            raise _named(exc) from None
        self.ignored = list(dict.fromkeys(left_out + more)) if left_out or more else []
        return body

    def answer(self, body: bytes, asked: Asked) -> bytes | AnswerError | None:
        """A whole answer in the caller's format; the error it tells of; None: it is none."""
        found = self.read(body)
        if found is None or found.error is not None:
            return None if found is None else found.error
        return self.caller.write_answer(found, asked)

    def streamed_answer(self, body: bytes, asked: Asked) -> bytes | AnswerError | None:
        """The same for a caller who asked for a stream and an upstream that sent none."""
        found = self.read(body)
        if found is None or found.error is not None:
            return None if found is None else found.error
        return self._streamed(found, asked)

    def written(self, answer: Answer, asked: Asked) -> bytes:
        """An answer that was read, as its caller wants it: a stream where one was asked for."""
        if self.request.stream:
            return self._streamed(answer, asked)
        return self.caller.write_answer(answer, asked)

    def _streamed(self, answer: Answer, asked: Asked) -> bytes:
        return b"".join(map(self.caller.writer(asked).write, events_of(answer)))

    def read(self, body: bytes) -> Answer | None:
        """A whole answer of the upstream's; None: it is none."""
        found = self.upstream.read_answer(body)
        if found is None or not self._custom:
            return found
        return custom_tools.restored(found, self._custom)

    def tap(self, asked: Asked) -> "TranslatingTap":
        """Translates a stream as its bytes come."""
        return TranslatingTap(self.upstream, self.caller, asked)


def _named(error: GatewayError) -> GatewayError:
    """The same with its field in its words: not every format's error has a place for it."""
    if error.param is None or error.param in error.message:
        return error
    message = f"{error.param}: {error.message}"
    return GatewayError(error.code, message, stage=error.stage, param=error.param)


def losses(request: Request, dialect: Dialect) -> list[str]:
    """The caller's fields that a format leaves out; raises where one of them may not be."""
    ignored: list[str] = []
    supports = dialect.support
    for feature, field in request.spelled.items():
        support = supports[feature]
        if support == "yes":
            continue
        if support == "refused":
            raise GatewayError(
                "unsupported_parameter",
                f"{field} cannot be expressed in the {dialect.name} format of this model's "
                "provider",
                param=field,
            )
        ignored.append(field)
    ignored += request.unknown
    return ignored


def metered_of(answer: Answer) -> Metered:
    """What a tap would tell of an answer that reports its usage and no error."""
    return Metered(
        usage=answer.usage,
        complete=True,
        fault=None,
        text_bytes=0,
        response_id=answer.id,
        response_model=answer.model,
    )


def events_of(answer: Answer) -> list[Event]:
    """A whole answer as the events of a stream."""
    events: list[Event] = [MessageStart(answer.id, answer.model, None, answer.created_s)]
    index = 0
    for number, choice in enumerate(answer.choices):
        for block in choice.content:
            events += _block_events(index, block, number)
            index += 1
        events.append(Finish(choice.stop, choice.stop_sequence, number))
    events.append(MessageEnd(answer.usage))
    return events


def _block_events(index: int, block: Block, choice: int) -> list[Event]:
    replace = msgspec.structs.replace
    opened: Block
    match block:
        case Thinking(redacted=False, text=text) | Text(text=text):
            opened, said = replace(block, text=""), Delta(index, text)
        case Refusal(text=text):
            opened, said = Refusal(""), Delta(index, text)
        case ToolCall(arguments=text):
            opened, said = replace(block, arguments=""), Delta(index, text, "arguments")
        case _:
            return [BlockStart(index, block, choice), BlockStop(index)]
    deltas = [said] if text else []
    return [BlockStart(index, opened, choice), *deltas, BlockStop(index)]


class TranslatingTap:
    """A stream's reader and writer as a `StreamTap`, so that the proxy relays it like any other.

    What goes out is the caller's format. `content` and `terminal` are as for taps; the terminal is
    kept back until `release`.
    """

    __slots__ = ("_calls", "_fault", "_held", "_read", "_reader", "_write", "content", "terminal")

    def __init__(self, upstream: Dialect, caller: Dialect, asked: Asked) -> None:
        self.terminal = False
        self.content = False
        self._reader = upstream.reader()
        self._read = self._reader.feed
        self._write = caller.writer(asked).write
        custom = custom_tools.names(asked.request)
        self._calls = custom_tools.CustomCalls(custom) if custom else None
        self._held = b""
        self._fault: StreamFault | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; return what may be sent on now."""
        events = self._read(data)
        if len(events) == 1 and type(event := events[0]) is Delta and self._calls is None:
            self.content = True  # nearly every read of a stream
            return self._write(event)
        return self._written(events)

    def _written(self, events: list[Event]) -> bytes:
        out = []
        if self._calls is not None:
            events = self._calls.restored(events)
        for event in events:
            written = self._write(event)
            if isinstance(event, MessageEnd):
                self.terminal = True
                self._held += written
                continue
            if isinstance(event, StreamError):
                self._fault = StreamFault(event.type, event.message)
            elif isinstance(event, (BlockStart, Delta)):
                self.content = True
            out.append(written)
        return b"".join(out)

    def end(self) -> bytes:
        """The upstream closed cleanly: some formats' end is just that."""
        try:
            return self._written(self._reader.eof())
        except Truncated:
            return b""

    def release(self) -> bytes:
        """Return everything held."""
        held, self._held = self._held, b""
        return held

    def drop_partial(self) -> bytes:
        """The upstream broke: what was read of a partial event is gone with it."""
        return b""

    def metered(self) -> Metered:
        """What is known so far."""
        found = self._reader.metered()
        fault = self._fault or found.fault
        return msgspec.structs.replace(found, fault=fault, complete=self.terminal and fault is None)
