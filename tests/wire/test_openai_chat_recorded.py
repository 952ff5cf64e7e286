"""Every recorded exchange of OpenAI chat: read as the records say, and back and forth."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import sdk_schemas
from dialect_events import finishes, gathered, joined, read, usage
from test_taps_on_recorded_traffic import expected as expected_usage
from wire_records import Record, cut, random_cuts, records

from gateway.errors import GatewayError
from gateway.wire.conversation import (
    Answer,
    Block,
    Choice,
    Citation,
    Document,
    Message,
    Opaque,
    Refusal,
    Request,
    Signature,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from gateway.wire.events import Event, MessageEnd, MessageStart, StreamError, Truncated
from gateway.wire.format import Asked, Toward
from gateway.wire.neutral import Usage
from gateway.wire.openai_chat_dialect import DIALECT
from gateway.wire.translate import events_of

pytestmark = pytest.mark.recorded

BYTE_BY_BYTE_BYTES_MAX = 12 * 1024
CUTS = 2

ENDS_IN_AN_ERROR = {"658f07f4a21d321c7d7b", "8cb65a91cc50939ffdfb"}

THOUGHTS_THE_RECORDS_DO_NOT_COUNT = {
    "35615ec17e6964e71270": 39,  # in `reasoning_details` alone
    "9a364496c0d50f601d32": 1276,
}

STOPS = {
    "stop": "end",
    "eos": "end",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_call",
    "function_call": "tool_call",
}

URL_ELSEWHERE = {"256eb10f", "ff1350b4"}
"""Requests with a document by URL, which OpenAI itself has no place for."""


def of_chat() -> Iterator[Record]:
    return (one for one in records() if one.endpoint == "openai.chat")


def chat_requests() -> Iterator[tuple[Record, Request]]:
    for record in of_chat():
        body = msgspec.json.decode(record.request_body)
        if isinstance(body, dict):
            model = body.get("model") or "in-the-path"
            yield record, DIALECT.read_request(bytes(record.request_body), model=model, stream=None)


def chat_answers() -> Iterator[tuple[Record, Answer]]:
    for record in of_chat():
        if record.status == 200 and not record.streamed:
            answer = DIALECT.read_answer(record.body)
            assert answer is not None, record.id
            yield record, answer


def chat_streams() -> Iterator[tuple[Record, list[Event]]]:
    for record in of_chat():
        if record.status == 200 and record.streamed:
            yield record, read(DIALECT.reader(), [record.body])


def asked(request: Request | None = None) -> Asked:
    plain = Request(format="openai_chat", model="p", stream=True, include_usage=True)
    return Asked(request or plain, "premium", "77", 1_790_000_000)


def said(blocks: list[Block], kind: type[Text | Refusal | Thinking]) -> str:
    return "".join(block.text for block in blocks if isinstance(block, kind))


def arguments(text: str) -> Any:
    return sdk_schemas.arguments(text) if text else {}


def compare(record: Record, choices: dict[int, list[Block]], stops: dict[int, str]) -> None:
    """What was read is what the record says."""
    assert record.expected_content is not None
    wanted = record.expected_content["choices"]
    assert sorted(stops) == list(range(len(wanted))), record.id
    for number, want in enumerate(wanted):
        blocks = choices.get(number, [])
        assert said(blocks, Text) == want["text"], record.id
        assert said(blocks, Refusal) == (want["refusal"] or ""), record.id
        thoughts = THOUGHTS_THE_RECORDS_DO_NOT_COUNT.get(record.id, want["reasoning_chars"])
        assert len(said(blocks, Thinking)) == thoughts, record.id
        # A call of nothing, all of whose members are empty, is none (0d347caa).
        calls = [one for one in want["tool_calls"] if one["name"]]
        found = [one for one in blocks if isinstance(one, ToolCall)]
        assert [(one.name, arguments(one.arguments)) for one in found] == [
            (one["name"], one["arguments"]) for one in calls
        ], record.id
        for call, one in zip(found, calls, strict=True):
            assert call.id, record.id
            assert one["id"] in (None, "", call.id), record.id
        assert stops[number] == expected_stop(want, calls), record.id


def expected_stop(want: Any, calls: list[Any]) -> str:
    if not want["stop"]:
        return "tool_call" if calls else "max_tokens"
    stop = STOPS[want["stop"]]
    if stop == "end":
        return "tool_call" if calls else "refusal" if want["refusal"] else "end"
    return stop


def test_every_answer_is_read_as_the_records_say() -> None:
    count = 0
    for record, answer in chat_answers():
        assert answer.error is None, record.id
        choices = {number: list(one.content) for number, one in enumerate(answer.choices)}
        compare(record, choices, {n: one.stop for n, one in enumerate(answer.choices)})
        assert answer.usage == expected_usage(record), record.id
        count += 1
    assert count > 500


def test_every_stream_is_read_as_the_records_say() -> None:
    count = 0
    for record, events in chat_streams():
        count += 1
        assert isinstance(next(e for e in events if not is_ping(e)), MessageStart), record.id
        if record.id in ENDS_IN_AN_ERROR:
            assert isinstance(events[-1], StreamError)
            continue
        assert isinstance(events[-1], MessageEnd), record.id
        compare(record, gathered(events), {n: one.stop for n, one in finishes(events).items()})
        assert usage(events) == expected_usage(record), record.id
    assert count > 250


def is_ping(event: Event) -> bool:
    return type(event).__name__ == "Ping"


def test_no_cut_changes_the_events_of_a_stream() -> None:
    for record, events in chat_streams():
        body = record.body
        for number in range(CUTS):
            pieces = cut(body, random_cuts(body, f"{record.id}{number}"))
            assert read(DIALECT.reader(), pieces) == events, record.id


def test_every_small_stream_byte_by_byte_is_the_same() -> None:
    count = 0
    for record, events in chat_streams():
        body = record.body
        if len(body) <= BYTE_BY_BYTE_BYTES_MAX:
            count += 1
            assert read(DIALECT.reader(), cut(body, list(range(len(body))))) == events, record.id
    assert count > 100


def test_a_stream_cut_before_its_last_chunk_never_ends_well() -> None:
    for record, _ in chat_streams():
        if record.id in ENDS_IN_AN_ERROR:
            continue
        body = record.body
        finish = body.rfind(b'"finish_reason":"')
        at = body.rfind(b"data:", 0, finish if finish >= 0 else len(body) // 2)
        reader = DIALECT.reader()
        events = reader.feed(body[:at])
        ended = [one for one in events if isinstance(one, MessageEnd)]
        assert not ended, record.id
        if b'"usage"' not in body[:at]:
            with pytest.raises(Truncated):
                reader.eof()


def test_every_error_is_read() -> None:
    count = 0
    for record in of_chat():
        if record.status >= 400:
            count += 1
            error = DIALECT.read_error(record.status, record.body)
            assert error.message
            assert "without saying why" not in error.message, record.id
    assert count > 20


# There and back.


def test_every_answer_written_is_one_to_the_sdk_and_reads_the_same() -> None:
    for record, answer in chat_answers():
        body = DIALECT.write_answer(answer, asked())
        sdk_schemas.read_answer("openai_chat", body)
        again = DIALECT.read_answer(body)
        assert again is not None
        assert again.usage == clamped(answer.usage), record.id
        assert again.choices == tuple(map(told, answer.choices)), record.id


def clamped(usage: Usage | None) -> Usage | None:
    """No part is told as more than the whole, whatever the provider said (0bc7a348, 0eaaa97c)."""
    if usage is None:
        return None
    read, thought = usage.cache_read_input_tokens, usage.reasoning_tokens
    return msgspec.structs.replace(
        usage,
        cache_read_input_tokens=None if read is None else min(read, usage.input_tokens),
        reasoning_tokens=None if thought is None else min(thought, usage.output_tokens),
    )


def told(choice: Choice) -> Choice:
    """What an answer says again: no arguments are `{}`, a citation without a page is none."""
    content: list[Block] = []
    for block in choice.content:
        if isinstance(block, ToolCall) and not block.arguments:
            content.append(msgspec.structs.replace(block, arguments="{}"))
        elif isinstance(block, Citation):
            text = said(list(choice.content), Text)
            start, end = block.start or 0, len(text) if block.end is None else block.end
            content.append(Citation(block.url, block.title, block.quoted, start, end))
        else:
            content.append(block)
    return Choice(tuple(content), choice.stop, choice.stop_sequence)


def test_every_stream_written_is_one_to_the_sdk_and_reads_the_same() -> None:
    for record, events in chat_streams():
        if record.id in ENDS_IN_AN_ERROR:
            continue
        writer = DIALECT.writer(asked())
        body = b"".join(map(writer.write, events))
        sdk_schemas.read_stream("openai_chat", body)
        again = read(DIALECT.reader(), [body])
        assert usage(again) == clamped(usage(events)), record.id
        assert finishes(again) == finishes(events), record.id
        found, wanted = gathered(again), gathered(events)
        assert found.keys() == wanted.keys()
        for number, blocks in wanted.items():
            assert joined(map(told_in_a_stream, found[number])) == joined(
                map(told_in_a_stream, blocks)
            ), record.id


def told_in_a_stream(block: Block) -> Block:
    """No arguments are `{}`; the objects that were signed are numbered anew."""
    if isinstance(block, Thinking) and block.signature is not None:
        details = msgspec.json.decode(block.signature.value)
        signed = repr([{**one, "index": None} for one in details])
        return Thinking(block.text, Signature("", signed), block.redacted)
    if isinstance(block, ToolCall) and not block.arguments:
        return msgspec.structs.replace(block, arguments="{}")
    return block


def test_every_answer_as_a_stream_says_the_same() -> None:
    for record, answer in chat_answers():
        writer = DIALECT.writer(asked())
        body = b"".join(map(writer.write, events_of(answer)))
        seen = sdk_schemas.read_stream("openai_chat", body)
        whole = sdk_schemas.read_answer("openai_chat", DIALECT.write_answer(answer, asked()))
        assert seen.choices == whole.choices, record.id


def test_every_request_written_for_openai_is_one_of_its_sdk() -> None:
    """Of those that hold nothing that only other servers take."""
    count = refused = 0
    for record, request in chat_requests():
        if "document_url" in request.spelled:
            with pytest.raises(GatewayError) as caught:
                DIALECT.write_request(request, Toward("gpt-5.4", "openai"))
            assert caught.value.param == request.spelled["document_url"]
            assert record.id[:8] in URL_ELSEWHERE
            refused += 1
            continue
        body, _ = DIALECT.write_request(request, Toward("gpt-5.4", "openai"))
        if not {"video", "provider_tools", "opaque_history"} & request.spelled.keys():
            sdk_schemas.check_request("openai_chat", body)
            count += 1
    assert count > 700
    assert refused == len(URL_ELSEWHERE)


def test_every_request_written_for_a_server_that_takes_most_reads_the_same() -> None:
    fields = [
        name for name in Request.__struct_fields__
        if name not in ("model", "messages", "spelled", "unknown", "include_usage", "tool_choice")
    ]  # fmt: skip
    count = 0
    for record, request in chat_requests():
        body, ignored = DIALECT.write_request(request, Toward("m", "openrouter"))
        again = DIALECT.read_request(body, model=None, stream=None)
        for name in fields:
            assert getattr(again, name) == getattr(request, name), (record.id, name)
        if request.tools:  # a choice among none is left out
            assert again.tool_choice == request.tool_choice, record.id
        found, wanted = blocks_of(again.messages), blocks_of(request.messages)
        assert found == wanted, record.id
        if ignored:
            # Markers on an assistant's text, which goes out as a string.
            assert ignored == [request.spelled["prompt_cache"]], record.id
        count += 1
    assert count > 700


def blocks_of(messages: tuple[Message, ...]) -> list[tuple[str, str | None, Block]]:
    """All blocks with who said them, less what the format does not say again.

    The name of a tool beside its result, which its call has; markers on an assistant's text; the
    parts that an assistant's text came in; where one document by URL had no name, the URL's.
    """
    out: list[tuple[str, str | None, Block]] = []
    for message in messages:
        blocks: list[Block] = []
        for block in message.content:
            one = block
            if isinstance(one, ToolResult):
                one = msgspec.structs.replace(one, name=None)
            elif isinstance(one, Text) and message.role == "assistant":
                one = Text(one.text)
            elif isinstance(one, Document) and one.url is not None:
                one = Document(url=one.url)
            elif isinstance(one, Opaque):
                one = Opaque(one.format, msgspec.json.format(one.json, indent=-1), one.kind)
            blocks.append(one)
        whole = joined(blocks) if message.role == "assistant" else blocks
        out += [(message.role, message.name, one) for one in whole]
    return out
