"""Anthropic Messages: whole answers and errors, read and written, and usage in its convention.

Reading is lenient: what a provider adds is passed over or kept as `Opaque`. Usage is counted by the
meter of the taps (`anthropic_messages.py`). Sources: docs.anthropic.com, "Messages", "Handling stop
reasons", "Errors" (November 2026), and recorded traffic. Used by the dialect.
"""

import re
from typing import Annotated

import msgspec

from gateway.errors import GatewayError
from gateway.wire import anthropic_messages as meter
from gateway.wire import lenient
from gateway.wire.anthropic_messages_blocks import (
    FORMAT,
    compact,
    content_of,
    object_of,
    quoted,
    written_call,
    written_call_signature,
    written_citation,
    written_text,
    written_thinking,
)
from gateway.wire.conversation import (
    Answer,
    AnswerError,
    Audio,
    Block,
    Choice,
    Citation,
    Document,
    Opaque,
    Refusal,
    StopReason,
    Text,
    Thinking,
    ToolCall,
)
from gateway.wire.format import Asked
from gateway.wire.neutral import Usage

STOPS: dict[str, StopReason] = {
    "end_turn": "end",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_call",
    "pause_turn": "pause",
    "refusal": "refusal",
}
STOP_WORDS: dict[StopReason, str] = {
    "end": "end_turn",
    "max_tokens": "max_tokens",
    "tool_call": "tool_use",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
    "pause": "pause_turn",
}

_MESSAGE_CHARS_MAX = 2000
_TOO_LONG = re.compile(
    r"prompt is too long|exceeds? (the )?(model's )?(maximum )?context|context window",
    re.IGNORECASE,
)


class _Message(msgspec.Struct, frozen=True):
    type: str | None = None
    id: msgspec.Raw = lenient.ABSENT
    model: msgspec.Raw = lenient.ABSENT
    content: list[msgspec.Raw] | None = None
    stop_reason: msgspec.Raw = lenient.ABSENT
    stop_sequence: msgspec.Raw = lenient.ABSENT
    usage: msgspec.Raw = lenient.ABSENT
    error: msgspec.Raw = lenient.ABSENT


class _UsualText(msgspec.Struct, tag="text", forbid_unknown_fields=True, gc=False):
    text: str
    citations: None = None


class _UsualMessage(msgspec.Struct, gc=False):
    """The message that most are: text, of the usual types."""

    content: Annotated[list[_UsualText], msgspec.Meta(min_length=1)]
    stop_reason: Annotated[str, msgspec.Meta(min_length=1)]
    usage: meter.AnthropicUsage
    type: str | None = None
    id: str | None = None
    model: str | None = None
    stop_sequence: None = None
    error: None = None


_MESSAGE = msgspec.json.Decoder(_Message)
_USUAL = msgspec.json.Decoder(_UsualMessage)


# -- reading -----------------------------------------------------------------------------------


def stop_of(reason: str, calls: bool) -> StopReason:
    """The neutral reason for a provider's word; whether there are calls is told by the content."""
    stop = STOPS.get(reason, "end")
    if stop == "end" and calls:
        return "tool_call"
    return "end" if stop == "tool_call" and not calls else stop


def read_answer(body: bytes) -> Answer | None:
    """Read a whole answer; None where it is none of this format.

    One without a stop reason is an error, not an end.
    """
    return _usual(body) or _unusual(body)


def _usual(body: bytes) -> Answer | None:
    """Read a usual answer in one decode; None where it is not one."""
    try:
        found = _USUAL.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    stop = stop_of(found.stop_reason, calls=False)
    return Answer(
        id=found.id or None,
        model=found.model or None,
        choices=(Choice(tuple([Text(one.text) for one in found.content]), stop),),
        usage=meter.usage_from(found.usage),
    )


def _unusual(body: bytes) -> Answer | None:
    found = lenient.decode(_MESSAGE, body)
    if found is None:
        return None
    if found.content is None:
        fault = lenient.fault(found.error)
        if fault is None and found.type != "error":
            return None
        error = read_error(200, body)
        return Answer(id=None, model=None, choices=(), error=error)
    counts = meter.read_usage(found.usage)
    blocks = _blocks(found.content)
    reason = lenient.text(found.stop_reason)
    choices: tuple[Choice, ...] = ()
    problem = None
    if reason is None:
        problem = AnswerError("The answer has no stop reason: it was cut")
    else:
        stop = stop_of(reason, any(isinstance(block, ToolCall) for block in blocks))
        sequence = lenient.text(found.stop_sequence)
        choices = (Choice(blocks, stop, sequence if stop == "stop_sequence" else None),)
    return Answer(
        id=lenient.text(found.id),
        model=lenient.text(found.model),
        choices=choices,
        usage=meter.usage_from(counts) if counts is not None else None,
        error=problem,
    )


def _blocks(raws: list[msgspec.Raw]) -> tuple[Block, ...]:
    try:
        return content_of(raws, [])
    except msgspec.DecodeError:
        return tuple(block for raw in raws for block in _block(raw))


def _block(raw: msgspec.Raw) -> tuple[Block, ...]:
    # A block of a known name and another shape is kept like one of an unknown name.
    try:
        return content_of([raw], [])
    except msgspec.DecodeError:
        return (Opaque(FORMAT, bytes(raw), "unknown"),) if lenient.is_object(raw) else ()


def read_error(status: int, body: bytes) -> AnswerError:
    """What an error answer says: any JSON, text, HTML, nothing. Never raises."""
    value = lenient.anything(body)
    if not isinstance(value, dict):
        return AnswerError(value if isinstance(value, str) and value else _plain(status, body))
    inner = value.get("error", value)
    if isinstance(inner, str) and inner:
        inner = {"message": inner}
    found = inner if isinstance(inner, dict) and inner else value
    message = next((found[k] for k in ("message", "detail", "error") if found.get(k)), None)
    if not isinstance(message, str):
        message = msgspec.json.encode(message).decode() if message else f"HTTP {status}"
    kind, code = found.get("type"), found.get("code")
    if _TOO_LONG.search(message):
        code = "context_length_exceeded"
    return AnswerError(
        message[:_MESSAGE_CHARS_MAX],
        type=kind if isinstance(kind, str) else None,
        code=str(code) if isinstance(code, str | int) and not isinstance(code, bool) else None,
    )


def _plain(status: int, body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    markup = text.startswith("<") or not text or text[0] in "[{"
    return f"HTTP {status}" if markup else text[:_MESSAGE_CHARS_MAX]


# -- writing -----------------------------------------------------------------------------------


def write_answer(answer: Answer, asked: Asked) -> bytes:
    """A whole answer. Of several choices the first is written: this format has but one.

    A call whose arguments are no JSON object has no place: the answer ends before it, for want of
    tokens. Raises `GatewayError` `bad_upstream_response` where there is no choice at all.
    """
    if not answer.choices:
        raise GatewayError(
            "bad_upstream_response", "The upstream's answer has no content", stage="upstream_stream"
        )
    choice = answer.choices[0]
    blocks, cut, refused = _written(choice.content)
    stop: StopReason = "refusal" if refused else "max_tokens" if cut else choice.stop
    opening = b'{"id":%b,"type":"message","role":"assistant","model":%b,"content":[' % (
        quoted(message_id(asked)), quoted(asked.model),
    )  # fmt: skip
    stopped = stop_members(stop, choice.stop_sequence)
    usage = quoted(usage_object(answer.usage or Usage()))
    return b'%b%b],%b,"usage":%b}' % (opening, b",".join(blocks), stopped, usage)


def message_id(asked: Asked) -> str:
    """The id of an answer, in this format's shape."""
    return "msg_" + asked.id.replace("-", "")


def stop_members(stop: StopReason, sequence: str | None) -> bytes:
    """`stop_reason`, `stop_sequence` and, for refusals, `stop_details`."""
    spelled = quoted(sequence) if stop == "stop_sequence" and sequence is not None else b"null"
    details = b',"stop_details":{"type":"refusal","category":null,"explanation":null}'
    return b'"stop_reason":"%b","stop_sequence":%b%b' % (
        STOP_WORDS[stop].encode(), spelled, details if stop == "refusal" else b"",
    )  # fmt: skip


def _written(content: tuple[Block, ...]) -> tuple[list[bytes], bool, bool]:
    """The blocks, whether a call was cut, whether the model refused."""
    out: list[bytes] = []
    refused = False
    for at, block in enumerate(content):
        if isinstance(block, ToolCall):
            spelled = None if block.custom else object_of(block.arguments)
            if spelled is None:
                return out, True, refused
            if block.signature is not None and block.signature.format != FORMAT:
                out.append(written_call_signature(block.signature, "next"))
            out.append(written_call(block, spelled))
            continue
        if isinstance(block, Text) and block.text:
            out.append(written_text(block.text, citations=_cited(content, at)))
            continue
        refused = refused or isinstance(block, Refusal)
        written = write_whole(block)
        if written is not None:
            out.append(written)
    return out, False, refused


def _cited(content: tuple[Block, ...], at: int) -> bytes:
    """The citations that follow a text block, as a JSON list; b"" for none."""
    found = []
    for block in content[at + 1 :]:
        if not isinstance(block, Citation):
            break
        written = written_citation(block)
        if written is not None:
            found.append(written)
    return b"[%b]" % b",".join(found) if found else b""


def write_whole(block: Block) -> bytes | None:
    """A block that needs no neighbour; None for what an answer has no place for: images, sound."""
    match block:
        case Thinking():
            return written_thinking(block) if block.text or block.signature else None
        case Refusal(text=text) | Document(text=str(text)):
            return written_text(text) if text else None
        case Audio(transcript=str(text)):
            return written_text(text)
        case Opaque(format=format, json=json) if format == FORMAT:
            return compact(json)
        case _:
            return None


def usage_object(usage: Usage, *, streamed: bool = False) -> dict[str, object]:
    """Usage in this format's convention: input without what was read from or written to a cache.

    `streamed`: as `message_delta` has it, which does not split cache writes by lifetime.
    """
    read = usage.cache_read_input_tokens or 0
    written = usage.cache_creation_input_tokens or 0
    found: dict[str, object] = {
        "input_tokens": max(usage.input_tokens - read - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.output_tokens,
    }
    if not streamed and (usage.cache_write_5m is not None or usage.cache_write_1h is not None):
        found["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_5m or 0,
            "ephemeral_1h_input_tokens": usage.cache_write_1h or 0,
        }
    if usage.reasoning_tokens is not None:
        found["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.server_tool_requests:
        named = ("web_search_requests", "web_fetch_requests")
        found["server_tool_use"] = dict.fromkeys(named, 0) | usage.server_tool_requests
    return found
