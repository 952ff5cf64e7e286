"""Recorded Responses traffic, read and written: requests, answers, streams and errors."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from responses_cases import (
    asked_of,
    joined,
    of_responses,
    read_stream,
    request_of,
    write_stream,
    written,
)
from sdk_schemas import arguments, check_request
from sdk_schemas import read_answer as read_by_sdk
from sdk_schemas import read_stream as stream_by_sdk
from test_taps_on_recorded_traffic import expected as usage_of
from wire_records import Record, cut, random_cuts

from gateway.wire.conversation import (
    Answer,
    Block,
    Choice,
    Citation,
    Message,
    Opaque,
    Refusal,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from gateway.wire.events import StreamError, Truncated
from gateway.wire.format import Toward
from gateway.wire.openai_responses import ResponsesStreamTap
from gateway.wire.openai_responses_dialect import DIALECT

pytestmark = pytest.mark.recorded

STOPS = {
    "completed": "end",
    "complete": "end",
    "incomplete": "max_tokens",
    "incomplete:max_output_tokens": "max_tokens",
}
QUEUED = "856b44c2438125e753bc"
BYTE_BY_BYTE_BYTES_MAX = 40_000


def requests() -> Iterator[tuple[Record, Request]]:
    for record in of_responses():
        if bytes(record.request_body) != b"null":
            body = bytes(record.request_body)
            yield record, DIALECT.read_request(body, model=None, stream=None)


def seen(content: tuple[Block, ...]) -> dict[str, Any]:
    """The content of an answer in the words of `expected_content`."""
    return {
        "text": "".join(one.text for one in content if isinstance(one, Text)),
        "refusal": "".join(one.text for one in content if isinstance(one, Refusal)) or None,
        "tool_calls": [
            {
                "name": one.name,
                "arguments": one.arguments if one.custom else arguments(one.arguments),
                "id": one.id,
            }
            for one in content
            if isinstance(one, ToolCall)
        ],
    }


def wanted(record: Record) -> dict[str, Any]:
    assert record.expected_content is not None
    (choice,) = record.expected_content["choices"]
    return {key: choice[key] for key in ("text", "refusal", "tool_calls")}


def stop_wanted(record: Record) -> str:
    assert record.expected_content is not None
    (choice,) = record.expected_content["choices"]
    stop = STOPS[choice["stop"]]
    return "tool_call" if stop == "end" and choice["tool_calls"] else stop


# -- requests ----------------------------------------------------------------------------------


def test_every_request_reads_and_says_what_it_uses() -> None:
    found = {record.id: request for record, request in requests()}
    assert len(found) == 389
    for request in found.values():
        # Nothing to say at all is a prompt kept at the provider.
        assert request.messages or request.system or "stored_state" in request.spelled
        for tool in request.tools:
            assert tool.opaque is not None or "tools" in request.spelled
        for message in request.messages:
            for block in message.content:
                if isinstance(block, Opaque):
                    assert {"opaque_history", "stored_state"} & set(request.spelled)


def plain(request: Request) -> Any:
    """A request without what the round trip changes, each for the reason given."""
    replace = msgspec.structs.replace
    messages: list[Message] = []
    for message in request.messages:
        content: list[Block] = []
        for block in message.content:
            if isinstance(block, Refusal):
                block = Text(block.text)  # the assistant's words have no parts of other kinds
            if isinstance(block, Thinking) and block.signature is None:
                continue  # left out, and told: only encrypted reasoning may go back
            if isinstance(block, Text):
                block = replace(block, cache=None)  # caching is the provider's own affair here
                if not block.text:
                    continue  # says nothing
                if message.role == "assistant" and content and isinstance(content[-1], Text):
                    content[-1] = Text(content[-1].text + block.text)  # one text without parts
                    continue
            content.append(block)
        if all(isinstance(block, Thinking) for block in content):
            continue  # left out, and told: models before gpt-5.6 refuse thoughts without their item
        messages.append(replace(message, content=tuple(content)))
    return (
        request.model, request.stream,
        "\n\n".join(one.text for one in request.system if isinstance(one, Text)),
        tuple(messages), request.tools, request.output, request.reasoning,
        request.tool_choice, request.max_output_tokens, request.user, dict(request.metadata),
        # What models have anyway is not sent: those that reason would refuse the field.
        None if request.temperature == 1 else request.temperature,
        None if request.top_p == 1 else request.top_p,
        request.parallel_tool_calls if request.tools else None,
    )  # fmt: skip


def test_every_request_comes_back_the_same_and_is_one_that_the_sdk_could_send() -> None:
    for record, request in requests():
        if not request.model:
            continue  # its prompt, kept at the provider, names the model
        toward = Toward(request.model, "other")  # OpenAI's own limits are not everyone's
        body, _ = DIALECT.write_request(request, toward)
        again = DIALECT.read_request(body, model=None, stream=None)
        assert plain(again) == plain(request), record.id
        if not any(tool.opaque for tool in request.tools):
            check_request("openai_responses", body)


def test_calls_and_results_pair_by_their_call_ids() -> None:
    pairs = 0
    for record, request in requests():
        ids = {
            block.id
            for message in request.messages
            for block in message.content
            if isinstance(block, ToolCall)
        }
        for message in request.messages:
            for block in message.content:
                if isinstance(block, ToolResult) and "stored_state" not in request.spelled:
                    assert block.call_id in ids, record.id
                    pairs += 1
    assert pairs > 100


# -- answers -----------------------------------------------------------------------------------


def answers() -> Iterator[tuple[Record, Answer]]:
    for record in of_responses():
        if record.status == 200 and not record.streamed:
            answer = DIALECT.read_answer(record.body)
            assert answer is not None, record.id
            yield record, answer


def test_every_answer_reads_with_its_text_calls_stop_and_usage() -> None:
    read = 0
    for record, answer in answers():
        if record.id == QUEUED:
            assert answer.error is not None
            assert answer.error.type == "queued"
            continue
        assert answer.error is None
        (choice,) = answer.choices
        assert seen(choice.content) == wanted(record), record.id
        assert choice.stop == stop_wanted(record), record.id
        assert answer.usage == usage_of(record), record.id
        assert (answer.id or "", answer.model is not None) > ("", False)
        read += 1
    assert read == 341


def kept(choice: Choice) -> list[Block]:
    """An answer's content without what the round trip changes, each for the reason given."""
    content: list[Block] = []
    citations: list[Block] = []
    for block in choice.content:
        if isinstance(block, Citation):
            citations.append(block)
            continue
        if isinstance(block, Text) and content and isinstance(content[-1], Text):
            # Texts that follow each other become one part, whoever split them into items.
            content[-1] = Text(content[-1].text + block.text)
            continue
        if isinstance(block, ToolCall) and not block.custom and not block.arguments:
            block = msgspec.structs.replace(block, arguments="{}")  # no arguments are an object
        content.append(block)
    # The places of citations move with the texts before theirs.
    return [*content, *(msgspec.structs.replace(one, start=0, end=0, title=one.title or "")
                        for one in citations if isinstance(one, Citation))]  # fmt: skip


def test_every_answer_comes_back_the_same_and_is_one_that_the_sdk_reads() -> None:
    for record, answer in answers():
        if answer.error is not None:
            continue
        body = DIALECT.write_answer(answer, asked_of())
        again = DIALECT.read_answer(body)
        assert again is not None
        assert again.error is None
        (choice,), (before,) = again.choices, answer.choices
        assert kept(choice) == kept(before), record.id
        assert choice.stop == before.stop
        assert again.model == "premium"
        assert again.id == "resp_0199abcd"
        if not any(isinstance(block, Opaque) for block in before.content):
            sdk = read_by_sdk("openai_responses", body)
            assert sdk.choices[0].text == wanted(record)["text"]
            assert len(sdk.choices[0].calls) == len(wanted(record)["tool_calls"])
            assert sdk.usage is not None
            assert answer.usage is not None
            assert sdk.usage["total_tokens"] == answer.usage.total_tokens


# -- streams -----------------------------------------------------------------------------------


def streams() -> Iterator[Record]:
    return (one for one in of_responses() if one.status == 200 and one.streamed)


def test_every_stream_reads_with_its_text_calls_stop_and_usage() -> None:
    read = 0
    for record in streams():
        choice, usage = joined(read_stream(record.body))
        assert seen(choice.content) == wanted(record), record.id
        assert choice.stop == stop_wanted(record), record.id
        assert usage == usage_of(record), record.id
        read += 1
    assert read == 111


def final_response(record: Record) -> bytes:
    lines = [line for line in record.body.splitlines() if line.startswith(b"data: {")]
    return bytes(msgspec.json.decode(lines[-1][6:], type=dict[str, msgspec.Raw])["response"])


def test_a_stream_tells_what_its_final_response_does() -> None:
    for record in streams():
        choice, usage = joined(read_stream(record.body))
        answer = DIALECT.read_answer(final_response(record))
        assert answer is not None
        assert usage == answer.usage
        (whole,) = answer.choices
        if not whole.content:
            continue  # some servers leave the output out of it
        assert by_kind(choice) == by_kind(whole), record.id


def by_kind(choice: Choice) -> list[Any]:
    found: list[Any] = []
    for block in choice.content:
        match block:
            case Thinking(signature=signature):
                # Each event encrypts them anew.
                found.append((Thinking, block.text, signature is None))
            case Opaque(kind=kind):
                found.append((Opaque, kind))
            case Text(text=""):
                pass
            case _:
                found.append(block)
    return found


def test_no_cut_changes_what_a_stream_says() -> None:
    for record in streams():
        whole = read_stream(record.body)
        assert read_stream(*cut(record.body, random_cuts(record.body, record.id))) == whole
        windows = record.body.replace(b"\n", b"\r\n")
        assert read_stream(*cut(windows, random_cuts(windows, record.id))) == whole, record.id
        if len(record.body) <= BYTE_BY_BYTE_BYTES_MAX:
            assert read_stream(*cut(record.body, list(range(len(record.body))))) == whole


def test_every_stream_is_written_as_one_that_the_sdk_reads() -> None:
    for record in streams():
        events = read_stream(record.body)
        choice, usage = joined(events)
        out = write_stream(events, asked_of())
        again, usage_again = joined(read_stream(out))
        assert kept(again) == kept(choice), record.id
        assert again.stop == choice.stop
        if usage is not None:
            assert usage_again is not None
            assert usage_again.total_tokens == usage.total_tokens
        if not any(isinstance(block, Opaque) for block in choice.content):
            sdk = stream_by_sdk("openai_responses", out)
            assert sdk.choices[0].text == wanted(record)["text"]


def test_a_stream_is_written_as_its_whole_answer_is() -> None:
    for record in streams():
        events = read_stream(record.body)
        choice, usage = joined(events)
        answer = Answer(id=None, model=None, choices=(choice,), usage=usage)
        whole = msgspec.json.decode(DIALECT.write_answer(answer, asked_of()))
        last = final_response_of(write_stream(events, asked_of()))
        assert last == whole, record.id


def final_response_of(body: bytes) -> Any:
    return msgspec.json.decode(body.rstrip().rpartition(b"\ndata: ")[2])["response"]


def test_a_stream_that_was_cut_is_never_finished() -> None:
    for record in streams():
        body = record.body
        terminal = max(body.rfind(one) for one in (b"response.completed", b"response.incomplete"))
        last = body.rfind(b"\n\n", 0, terminal)
        for at in (last // 2, last, last + 42):
            reader = DIALECT.reader()
            events = reader.feed(body[:at])
            assert not any(isinstance(event, StreamError) for event in events)
            with pytest.raises(Truncated):
                reader.eof()
            assert not reader.metered().complete


def test_the_reader_meters_what_the_tap_does() -> None:
    for record in streams():
        tap, reader = ResponsesStreamTap(), DIALECT.reader()
        tap.feed(record.body)
        reader.feed(record.body)
        by_tap, by_reader = tap.metered(), reader.metered()
        assert by_reader.usage == by_tap.usage
        assert by_reader.complete
        assert by_reader.response_id == by_tap.response_id
        assert by_reader.response_model == by_tap.response_model


# -- errors ------------------------------------------------------------------------------------


def test_every_recorded_error_says_its_message() -> None:
    read = 0
    for record in of_responses():
        if record.status != 200:
            error = DIALECT.read_error(record.status, record.body)
            assert error.message in msgspec.json.decode(record.body)["error"]["message"]
            assert error.type == "invalid_request_error"
            assert error.code is not None
            read += 1
    assert read == 6


def test_a_request_of_the_tests_own_is_like_the_recorded_ones() -> None:
    request = request_of()
    assert request.messages == (Message("user", (Text("hi"),)),)
    assert written(request)[0]["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    ]
