"""Reads the four formats' answers to what was said, and checks the order of events on the way.

Written from the vendors' references, apart from the code that writes these streams. Every reader
raises AssertionError at the first event out of place.
"""

from typing import Any

import msgspec
import orjson

Body = dict[str, Any]


class Said(msgspec.Struct):
    """One answer, in no format. Counts are as the format reports them, None where it did not."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, str]] = []
    finish: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


def frames(body: bytes, line_end: bytes = b"\n") -> list[tuple[str | None, bytes]]:
    """The events of an SSE body: (event name, data). The body ends with a whole event."""
    assert body.endswith(line_end * 2), body[-80:]
    found = []
    for block in body[: -2 * len(line_end)].split(line_end * 2):
        name, data = None, None
        for line in block.split(line_end):
            field, _, value = line.partition(b": ")
            if field == b"event":
                name = value.decode()
            else:
                assert field == b"data", line
                assert data is None, block
                data = value
        assert data is not None, block
        found.append((name, data))
    return found


def read_chat_document(document: Body) -> Said:
    assert document["object"] == "chat.completion"
    [choice] = document["choices"]
    message = choice["message"]
    calls = [
        (call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", [])
    ]
    said = Said(text=message["content"] or "", calls=calls, finish=choice["finish_reason"])
    if "usage" in document:
        _add_openai_usage(said, document["usage"], "prompt_tokens", "completion_tokens")
    return said


def read_chat_stream(body: bytes) -> Said:
    *events, (name, last) = frames(body)
    assert name is None
    assert last == b"[DONE]"
    said = Said()
    names: list[str] = []
    arguments: list[str] = []
    ids = set()
    for number, (_, data) in enumerate(events):
        chunk = orjson.loads(data)
        assert chunk["object"] == "chat.completion.chunk"
        ids.add(chunk["id"])
        if not chunk["choices"]:
            assert number == len(events) - 1, "usage comes last"
            assert said.finish is not None
            _add_openai_usage(said, chunk["usage"], "prompt_tokens", "completion_tokens")
            continue
        assert chunk.get("usage") is None
        [choice] = chunk["choices"]
        assert said.finish is None, "nothing comes after the finish"
        delta = choice["delta"]
        assert ("role" in delta) == (number == 0)
        said.text += delta.get("content") or ""
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(names)
                names.append(call["function"]["name"])
                arguments.append("")
            assert call["index"] == len(names) - 1
            arguments[-1] += call["function"]["arguments"]
        said.finish = choice["finish_reason"]
    assert len(ids) == 1
    assert said.finish is not None
    said.calls = list(zip(names, arguments, strict=True))
    return said


def read_responses_document(document: Body) -> Said:
    assert document["object"] == "response"
    said = Said(finish=document["status"])
    for item in document["output"]:
        if item["type"] == "message":
            said.text += "".join(part["text"] for part in item["content"])
        elif item["type"] == "function_call":
            said.calls = [*said.calls, (item["name"], item["arguments"])]
        else:
            assert item["type"] == "reasoning"
            said.thinking += "".join(part["text"] for part in item["summary"])
    if document["usage"] is not None:
        _add_openai_usage(said, document["usage"], "input_tokens", "output_tokens")
    return said


def read_responses_stream(body: bytes) -> Said:
    events = []
    for number, (name, data) in enumerate(frames(body)):
        event = orjson.loads(data)
        assert event["type"] == name
        assert event["sequence_number"] == number
        events.append(event)
    created, progress, *middle, last = events
    assert created["type"] == "response.created"
    assert progress["type"] == "response.in_progress"
    assert created["response"]["output"] == []
    assert last["type"] == f"response.{last['response']['status']}"
    said = read_responses_document(last["response"])
    done: list[Body] = []
    while middle:
        opened, middle = middle[0], middle[1:]
        assert opened["type"] == "response.output_item.added"
        assert opened["output_index"] == len(done)
        inner = []
        while middle[0]["type"] != "response.output_item.done":
            inner.append(middle[0])
            middle = middle[1:]
        closed, middle = middle[0], middle[1:]
        assert closed["output_index"] == len(done)
        assert closed["item"]["id"] == opened["item"]["id"]
        _check_responses_item(closed["item"], inner)
        done.append(closed["item"])
    assert done == last["response"]["output"]
    return said


def _check_responses_item(item: Body, inner: list[Body]) -> None:
    kinds = [event["type"].removeprefix("response.") for event in inner]
    assert all(event["item_id"] == item["id"] for event in inner)
    joined = "".join(event["delta"] for event in inner if event["type"].endswith(".delta"))
    middle = len(inner)
    match item["type"]:
        case "message":
            middle -= 3
            expected = ["content_part.added", *["output_text.delta"] * middle]
            assert kinds == [*expected, "output_text.done", "content_part.done"]
            assert joined == item["content"][0]["text"] == inner[-2]["text"]
        case "function_call":
            deltas = ["function_call_arguments.delta"] * (middle - 1)
            assert kinds == [*deltas, "function_call_arguments.done"]
            assert joined == item["arguments"] == inner[-1]["arguments"]
        case "reasoning" if item["summary"]:
            part, text = "reasoning_summary_part", "reasoning_summary_text"
            deltas = [f"{text}.delta"] * (middle - 3)
            assert kinds == [f"{part}.added", *deltas, f"{text}.done", f"{part}.done"]
            assert joined == item["summary"][0]["text"]
        case _:
            assert kinds == []


def read_messages_document(document: Body) -> Said:
    assert document["type"] == "message"
    assert document["role"] == "assistant"
    said = Said(finish=document["stop_reason"])
    for block in document["content"]:
        match block["type"]:
            case "text":
                said.text += block["text"]
            case "thinking":
                assert block["signature"]
                said.thinking += block["thinking"]
            case "tool_use":
                arguments = orjson.dumps(block["input"]).decode()
                said.calls = [*said.calls, (block["name"], arguments)]
            case other:
                raise AssertionError(other)
    if "usage" in document:
        _add_messages_usage(said, document["usage"])
    return said


def read_messages_stream(body: bytes) -> Said:
    events = []
    for name, data in frames(body):
        event = orjson.loads(data)
        assert event["type"] == name
        if name != "ping":
            events.append(event)
    opening, *blocks, delta, stop = events
    assert [opening["type"], delta["type"], stop["type"]] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    content: list[Body] = []
    current: Body | None = None
    for event in blocks:
        if event["type"] == "content_block_start":
            assert current is None, "blocks do not overlap"
            assert event["index"] == len(content)
            current = {**event["content_block"], "_json": ""}
        elif event["type"] == "content_block_delta":
            assert current is not None
            _apply_messages_delta(current, event["delta"])
        else:
            assert event["type"] == "content_block_stop"
            assert current is not None
            if current["type"] == "tool_use":
                current["input"] = orjson.loads(current["_json"])
            content.append(current)
            current = None
        assert event["index"] == len(content) - (event["type"] == "content_block_stop")
    assert current is None
    usage = {**opening["message"].get("usage", {}), **delta.get("usage", {})}
    message = {**opening["message"], "content": content, **delta["delta"]}
    message.pop("usage", None)
    if usage:
        message["usage"] = usage
    return read_messages_document(message)


def _apply_messages_delta(block: Body, delta: Body) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            assert not block["signature"], "the signature comes last"
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            block["_json"] += delta["partial_json"]
        case other:
            raise AssertionError(other)


def read_gemini_document(document: Body) -> Said:
    said = Said()
    _add_gemini_chunk(said, document)
    return said


def read_gemini_stream(body: bytes) -> Said:
    events = frames(body, b"\r\n")
    assert all(name is None for name, _ in events)
    return _read_gemini_chunks([orjson.loads(data) for _, data in events])


def read_gemini_array(body: bytes) -> Said:
    return _read_gemini_chunks(orjson.loads(body))


def _read_gemini_chunks(chunks: list[Body]) -> Said:
    said = Said()
    for chunk in chunks:
        assert said.finish is None, "nothing comes after the finish"
        _add_gemini_chunk(said, chunk)
    assert said.finish is not None
    assert len({chunk["responseId"] for chunk in chunks}) == 1
    return said


def _add_gemini_chunk(said: Said, chunk: Body) -> None:
    [candidate] = chunk["candidates"]
    for part in candidate["content"].get("parts", []):
        if "functionCall" in part:
            call = part["functionCall"]
            said.calls = [*said.calls, (call["name"], orjson.dumps(call["args"]).decode())]
        elif part.get("thought"):
            said.thinking += part["text"]
        else:
            said.text += part["text"]
    said.finish = candidate.get("finishReason")
    usage = chunk.get("usageMetadata")
    if usage is not None:
        output = usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0)
        assert usage["totalTokenCount"] == usage["promptTokenCount"] + output
        said.input_tokens = usage["promptTokenCount"]
        said.output_tokens = output


def _add_openai_usage(said: Said, usage: Body, input_name: str, output_name: str) -> None:
    said.input_tokens, said.output_tokens = usage[input_name], usage[output_name]
    assert usage["total_tokens"] == usage[input_name] + usage[output_name]


def _add_messages_usage(said: Said, usage: Body) -> None:
    cached = usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"]
    said.input_tokens = usage["input_tokens"] + cached
    said.output_tokens = usage["output_tokens"]
