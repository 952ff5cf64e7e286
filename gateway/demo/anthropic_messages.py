"""Anthropic Messages: `POST /v1/messages` and `/v1/messages/count_tokens`.

Grammar of the API reference, August 2026: `message_start` with the input's usage, `ping`, blocks
that never overlap (thinking with its signature last, text, tool_use with `input_json_delta`),
`message_delta` with the cumulative usage, `message_stop`. Input counts exclude what the cache read
or wrote. Called by `server.py`.
"""

from typing import Any

import orjson

from gateway.demo.answer import Answer, compose
from gateway.demo.anthropic_blocks import Body
from gateway.demo.anthropic_input import Reading, read
from gateway.demo.reply import Refusal, Reply, error_object, json_reply, new_id
from gateway.demo.seals import seal
from gateway.demo.state import DemoState
from gateway.demo.switches import Switches

_Block = tuple[dict[str, Any], list[dict[str, Any]]]

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tools": "tool_use",
    "stop_sequence": "stop_sequence",
}


def create(
    state: DemoState, body: Body, switches: Switches, *, beta: bool, request_id: str
) -> Reply:
    """Answer a message request, streamed or not."""
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise Refusal(400, "stream: Input should be a valid boolean")
    reading = read(body, switches, counting=False, beta=beta)
    answer = compose(reading.ask)
    usage = None if switches.nousage else _usage(state, body["model"], reading)
    message: dict[str, Any] = {
        "model": body["model"],
        "id": new_id("msg_01", 22),
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }
    if stream:
        return Reply(
            content_type="text/event-stream; charset=utf-8",
            events=_events(message, _blocks(answer, shown=reading.shows_thoughts), answer, usage),
            fault=lambda after: [_fault(request_id)],
        )
    message["content"] = _content(answer, shown=reading.shows_thoughts)
    message |= _stop(answer)
    if usage is not None:
        message["usage"] = {**usage, **_output(answer)}
    return json_reply("anthropic", message)


def count_tokens(body: Body, switches: Switches, *, beta: bool) -> Reply:
    """Answer a count: what `create` would report as input, cached or not."""
    reading = read(body, switches, counting=True, beta=beta)
    return json_reply("anthropic", {"input_tokens": len(reading.ask.prompt)})


def _usage(state: DemoState, model: str, reading: Reading) -> dict[str, Any]:
    prompt = reading.ask.prompt
    cache = state.prompts.explicit(model, prompt, reading.marks)
    written = cache.written_5m + cache.written_1h
    return {
        "input_tokens": len(prompt) - cache.read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cache.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": cache.written_5m,
            "ephemeral_1h_input_tokens": cache.written_1h,
        },
        "output_tokens": 1,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }


def _output(answer: Answer) -> dict[str, Any]:
    return {
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"thinking_tokens": len(answer.thinking)},
    }


def _stop(answer: Answer) -> dict[str, Any]:
    return {
        "stop_reason": _STOP_REASONS[answer.finish],
        "stop_sequence": answer.stop_sequence,
        "stop_details": None,
    }


def _content(answer: Answer, *, shown: bool) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    if answer.thinking:
        text = answer.thinking_text
        thought = {"type": "thinking", "thinking": text if shown else "", "signature": seal(text)}
        content.append(thought)
    if answer.text:
        content.append({"type": "text", "text": answer.plain_text})
    content += [
        {
            **_tool_use(call.name),
            # Arguments that were cut are no object; the document form has no place for them.
            "input": orjson.loads(call.arguments) if call.complete else {},
        }
        for call in answer.calls
    ]
    return content


def _tool_use(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": new_id("toolu_01", 22), "name": name, "input": {}}


def _events(
    message: dict[str, Any], blocks: list[_Block], answer: Answer, usage: dict[str, Any] | None
) -> list[bytes]:
    opening = message if usage is None else {**message, "usage": usage}
    events = [_frame("message_start", message=opening)]
    for index, (block, deltas) in enumerate(blocks):
        events.append(_frame("content_block_start", index=index, content_block=block))
        if index == 0:
            events.append(_frame("ping"))
        events += [_frame("content_block_delta", index=index, delta=delta) for delta in deltas]
        events.append(_frame("content_block_stop", index=index))
    closing: dict[str, Any] = {"delta": _stop(answer)}
    if usage is not None:
        # Cumulative: these replace what message_start said.
        repeated = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        closing["usage"] = {
            **{name: usage[name] for name in repeated},
            **_output(answer),
        }
    events.append(_frame("message_delta", **closing))
    events.append(_frame("message_stop"))
    return events


def _blocks(answer: Answer, *, shown: bool) -> list[_Block]:
    """Each block as it starts, with its deltas."""
    blocks: list[_Block] = []
    if answer.thinking:
        pieces = answer.thinking if shown else ()
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
        deltas.append({"type": "signature_delta", "signature": seal(answer.thinking_text)})
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas))
    if answer.text:
        deltas = [{"type": "text_delta", "text": piece} for piece in answer.text]
        blocks.append(({"type": "text", "text": ""}, deltas))
    for call in answer.calls:
        deltas = [
            {"type": "input_json_delta", "partial_json": piece} for piece in ("", *call.pieces)
        ]
        blocks.append((_tool_use(call.name), deltas))
    return blocks


def _frame(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def _fault(request_id: str) -> bytes:
    refusal = Refusal(529, "Overloaded")
    data = orjson.dumps(error_object("anthropic", refusal, request_id))
    return b"event: error\ndata: %b\n\n" % data
