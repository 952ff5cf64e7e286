"""OpenAI Responses: `POST /v1/responses` and the calls around it.

Creates, streams, stores, fetches, deletes, cancels and compacts responses, and counts their input.
Grammar of the API reference, August 2026: `response.created`, `response.in_progress`, then per item
its added, delta and done events, and one `response.completed` or `response.incomplete` with the
whole response; `sequence_number` has no gaps. Stored responses feed `previous_response_id`. A
`background` response is queued and becomes ready with time. Called by `server.py`.
"""

from typing import Any

import msgspec
import orjson

from gateway.demo import tokens
from gateway.demo.answer import Answer, Ask, compose
from gateway.demo.openai_response_input import read
from gateway.demo.openai_shapes import Body, get_bool, get_list, get_object, get_string
from gateway.demo.reply import Refusal, Reply, json_reply, new_id
from gateway.demo.seals import seal
from gateway.demo.state import DemoState, Shelf
from gateway.demo.switches import Switches

BACKGROUND_S = 1.0
"""How long a background response takes."""

_ECHOED: tuple[tuple[str, Any], ...] = (
    ("instructions", None),
    ("max_output_tokens", None),
    ("max_tool_calls", None),
    ("parallel_tool_calls", True),
    ("previous_response_id", None),
    ("prompt_cache_key", None),
    ("safety_identifier", None),
    ("temperature", 1.0),
    ("tool_choice", "auto"),
    ("tools", []),
    ("top_logprobs", 0),
    ("top_p", 1.0),
    ("truncation", "disabled"),
    ("user", None),
    ("metadata", {}),
)


class Stored(msgspec.Struct):
    """A response kept: the object, and the input items that led to it."""

    response: dict[str, Any]
    items: list[Any]
    ready_at: float = 0.0


Shelved = Shelf[Stored]


def create(state: DemoState, shelf: Shelved, body: Body, switches: Switches) -> Reply:
    """Answer a create request, streamed or not."""
    reading = read(body, _earlier(shelf, body), switches)
    cached = state.prompts.implicit(body["model"], reading.ask.prompt)
    answer = compose(reading.ask)
    usage = None if switches.nousage else _usage(reading.ask, answer, cached)
    draft = _skeleton(state, body)
    done = _finished(draft, _items(body, answer), answer, usage, state.now())
    background = get_bool(body, "background")
    if get_bool(body, "store", True):
        ready_at = state.clock() + BACKGROUND_S if background else 0.0
        shelf.put(draft["id"], Stored(done, [*reading.items, *done["output"]], ready_at))
    if get_bool(body, "stream"):
        events = _Events(draft)
        return Reply(
            content_type="text/event-stream; charset=utf-8",
            events=events.write(answer, done),
            fault=lambda after: events.fault(after, draft),
        )
    if background:
        return json_reply("openai", {**draft, "status": "queued", "background": True})
    return json_reply("openai", done)


def fetch(state: DemoState, shelf: Shelved, response_id: str) -> Reply:
    """Answer `GET /v1/responses/{id}`."""
    stored = _find(shelf, response_id)
    if stored.ready_at > state.clock():
        return json_reply("openai", _pending(stored.response, "in_progress"))
    return json_reply("openai", stored.response)


def delete(shelf: Shelved, response_id: str) -> Reply:
    """Answer `DELETE /v1/responses/{id}`."""
    _find(shelf, response_id)
    shelf.pop(response_id)
    return json_reply("openai", {"id": response_id, "object": "response", "deleted": True})


def cancel(state: DemoState, shelf: Shelved, response_id: str) -> Reply:
    """Answer `POST /v1/responses/{id}/cancel`: only a background response can be cancelled."""
    stored = _find(shelf, response_id)
    if not stored.response["background"]:
        raise Refusal(400, "Cannot cancel a synchronous response.")
    if stored.ready_at > state.clock():
        stored.response = _pending(stored.response, "cancelled")
        stored.ready_at = 0.0
    return json_reply("openai", stored.response)


def compact(state: DemoState, shelf: Shelved, body: Body, switches: Switches) -> Reply:
    """Answer `POST /v1/responses/compact`: the user's messages, and the rest sealed in one item."""
    reading = read(body, _earlier(shelf, body), switches)
    sealed = orjson.dumps(reading.items)
    kept = [
        {
            "type": "message",
            "id": new_id("msg_", 48),
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_text", "text": text}],
        }
        for text in reading.user_texts
    ]
    compaction = {
        "type": "compaction",
        "id": new_id("cmp_", 48),
        "encrypted_content": seal(sealed.decode()),
    }
    usage = _usage(reading.ask, Answer((), tuple(tokens.split("summary")), (), "stop"), 0)
    document = {
        "id": new_id("resp_", 48),
        "object": "response.compaction",
        "created_at": state.now(),
        "output": [*kept, compaction],
        "usage": None if switches.nousage else usage,
    }
    return json_reply("openai", document)


def input_tokens(state: DemoState, shelf: Shelved, body: Body, switches: Switches) -> Reply:
    """Answer `POST /v1/responses/input_tokens`: what `create` would report as its input."""
    reading = read(body, _earlier(shelf, body), switches)
    count = len(reading.ask.prompt)
    return json_reply("openai", {"object": "response.input_tokens", "input_tokens": count})


def _earlier(shelf: Shelved, body: Body) -> list[Any]:
    """The items of the response that this one continues."""
    earlier = get_string(body, "previous_response_id")
    if earlier is None:
        return []
    stored = shelf.get(earlier)
    if stored is None:
        raise Refusal(
            400,
            f"Previous response with id '{earlier}' not found.",
            param="previous_response_id",
            kind="invalid_request_error",
            code="previous_response_not_found",
        )
    return stored.items


def _find(shelf: Shelved, response_id: str) -> Stored:
    stored = shelf.get(response_id)
    if stored is None:
        message = f"Response with id '{response_id}' not found."
        raise Refusal(404, message, kind="invalid_request_error")
    return stored


def _pending(response: dict[str, Any], status: str) -> dict[str, Any]:
    return {**response, "status": status, "output": [], "usage": None, "completed_at": None}


def _skeleton(state: DemoState, body: Body) -> dict[str, Any]:
    """The response as it stands before anything was said."""
    reasoning = get_object(body, "reasoning")
    text = get_object(body, "text")
    return {
        "id": new_id("resp_", 48),
        "object": "response",
        "created_at": state.now(),
        "status": "in_progress",
        "background": get_bool(body, "background"),
        "completed_at": None,
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "model": body["model"],
        "output": [],
        "presence_penalty": 0.0,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "service_tier": "default",
        "store": get_bool(body, "store", True),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": "medium"},
        "usage": None,
        **{name: default if body.get(name) is None else body[name] for name, default in _ECHOED},
    }


def _finished(
    draft: dict[str, Any],
    items: list[dict[str, Any]],
    answer: Answer,
    usage: dict[str, Any] | None,
    now: int,
) -> dict[str, Any]:
    cut = answer.finish == "length"
    return {
        **draft,
        "status": "incomplete" if cut else "completed",
        "completed_at": None if cut else now,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": items,
        "usage": usage,
    }


def _items(body: Body, answer: Answer) -> list[dict[str, Any]]:
    """The output items: reasoning if it thought, then a message or the calls."""
    items: list[dict[str, Any]] = []
    if answer.thinking:
        thought: dict[str, Any] = {"id": new_id("rs_", 48), "type": "reasoning", "summary": []}
        if get_object(body, "reasoning").get("summary"):
            thought["summary"] = [{"type": "summary_text", "text": answer.thinking_text}]
        if "reasoning.encrypted_content" in get_list(body, "include"):
            thought["encrypted_content"] = seal(answer.thinking_text)
        items.append(thought)
    items += [
        {
            "id": new_id("fc_", 48),
            "type": "function_call",
            "status": "completed" if call.complete else "incomplete",
            "arguments": call.arguments,
            "call_id": new_id("call_"),
            "name": call.name,
        }
        for call in answer.calls
    ]
    # An answer that was cut while it still thought has no message at all.
    if not answer.calls and (answer.text or answer.finish != "length"):
        part = {
            "type": "output_text", "annotations": [], "logprobs": [], "text": answer.plain_text,
        }  # fmt: skip
        items.append(
            {
                "id": new_id("msg_", 48),
                "type": "message",
                "status": "incomplete" if answer.finish == "length" else "completed",
                "role": "assistant",
                "content": [part],
            }
        )
    return items


def _usage(ask: Ask, answer: Answer, cached: int) -> dict[str, Any]:
    count = len(ask.prompt)
    return {
        "input_tokens": count,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": len(answer.thinking)},
        "total_tokens": count + answer.output_tokens,
    }


class _Events:
    """Writes a response as its events, numbered from 0."""

    def __init__(self, draft: dict[str, Any]) -> None:
        self._draft = draft
        self._events: list[bytes] = []

    def write(self, answer: Answer, done: dict[str, Any]) -> list[bytes]:
        """All events of an answer, whose final response is `done`."""
        self._add("response.created", response=self._draft)
        self._add("response.in_progress", response=self._draft)
        calls = iter(answer.calls)
        for index, item in enumerate(done["output"]):
            if item["type"] == "reasoning":
                self._reasoning(index, item, answer)
            elif item["type"] == "function_call":
                self._call(index, item, next(calls).pieces)
            else:
                self._message(index, item, answer)
        self._add(f"response.{done['status']}", response=done)
        return self._events

    def fault(self, after: int, draft: dict[str, Any]) -> list[bytes]:
        """The failure that follows `after` events: an `error` first thing, else the response's."""
        message = "The demo upstream failed while it was answering."
        error = {"code": "server_error", "message": message}
        if after == 0:
            return [_frame("error", {**error, "param": None, "sequence_number": 0})]
        failed = {**draft, "status": "failed", "error": error}
        return [_frame("response.failed", {"response": failed, "sequence_number": after})]

    def _add(self, kind: str, **fields: Any) -> None:
        self._events.append(_frame(kind, {**fields, "sequence_number": len(self._events)}))

    def _reasoning(self, index: int, item: dict[str, Any], answer: Answer) -> None:
        opened = {**item, "summary": []}
        self._add("response.output_item.added", item=opened, output_index=index)
        place = {"item_id": item["id"], "output_index": index, "summary_index": 0}
        for summary in item["summary"]:
            part = "response.reasoning_summary_part"
            text = "response.reasoning_summary_text"
            self._add(f"{part}.added", **place, part={"type": "summary_text", "text": ""})
            for piece in answer.thinking:
                self._add(f"{text}.delta", **place, delta=piece)
            self._add(f"{text}.done", **place, text=summary["text"])
            self._add(f"{part}.done", **place, part=summary)
        self._add("response.output_item.done", item=item, output_index=index)

    def _call(self, index: int, item: dict[str, Any], pieces: tuple[str, ...]) -> None:
        opened = {**item, "status": "in_progress", "arguments": ""}
        self._add("response.output_item.added", item=opened, output_index=index)
        place = {"item_id": item["id"], "output_index": index}
        for piece in pieces:
            self._add("response.function_call_arguments.delta", **place, delta=piece)
        kind = "response.function_call_arguments.done"
        self._add(kind, **place, arguments=item["arguments"], name=item["name"])
        self._add("response.output_item.done", item=item, output_index=index)

    def _message(self, index: int, item: dict[str, Any], answer: Answer) -> None:
        opened = {**item, "status": "in_progress", "content": []}
        self._add("response.output_item.added", item=opened, output_index=index)
        place = {"item_id": item["id"], "output_index": index, "content_index": 0}
        part = item["content"][0]
        self._add("response.content_part.added", **place, part={**part, "text": ""})
        for piece in answer.text:
            self._add("response.output_text.delta", **place, delta=piece, logprobs=[])
        self._add("response.output_text.done", **place, text=part["text"], logprobs=[])
        self._add("response.content_part.done", **place, part=part)
        self._add("response.output_item.done", item=item, output_index=index)


def _frame(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))
