"""What holds for all bytes, all cuts and all answers, in every format and every pair."""

import math
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from translation_cases import CREATED_S, PAIRS, asked, dialect
from wire_records import cut

from gateway.errors import GatewayError
from gateway.wire import call_ids, registry
from gateway.wire.conversation import (
    Answer,
    AnswerError,
    Block,
    Choice,
    Message,
    Request,
    StopReason,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.wire.events import (
    BlockStart,
    Delta,
    Event,
    Finish,
    Grammar,
    MessageEnd,
    StreamError,
    Truncated,
)
from gateway.wire.format import Toward
from gateway.wire.neutral import Usage
from gateway.wire.translate import Translation, events_of

PAIR_IDS = [f"{one}->{other}" for one, other in PAIRS]
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
THOROUGH = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

# --- any bytes --------------------------------------------------------------------------------

_WORDS = """
    messages role content text type tool_calls function name arguments id index model input
    output item delta response status error message code usage input_tokens output_tokens
    prompt_tokens completion_tokens choices finish_reason candidates parts functionCall args
    functionResponse finishReason usageMetadata promptTokenCount inlineData mimeType data
    thought thoughtSignature system systemInstruction contents generationConfig tools
    functionDeclarations parameters input_schema schema tool_choice source media_type url
    image_url tool_use tool_result tool_use_id thinking signature stop max_tokens temperature
    stop_reason content_block message_start content_block_start content_block_delta
    content_block_stop message_delta message_stop text_delta input_json_delta partial_json
    response.created response.output_item.added response.output_text.delta output_index
    content_index item_id response.completed call_id function_call function_call_output
    reasoning summary encrypted_content promptFeedback blockReason refusal user assistant
    developer tool auto required any end_turn completed incomplete incomplete_details reason
"""
WORDS = sorted(_WORDS.split())
SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 10**6) | st.sampled_from(WORDS)
    | st.text(max_size=9)
    | st.sampled_from([10**400, -1, 0.5, 1e308, "\x00", "é", "{", "[]", '{"a":1}'])
)  # fmt: skip
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6)
    ),
    max_leaves=25,
)


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def seeds(name: str) -> list[Any]:
    """Bodies that are nearly right: written by the format itself."""
    one = dialect(name)
    request = Request(
        format=name, model="m", stream=False,
        messages=(
            Message("user", (Text("a"),)),
            Message("assistant", (Text("b"), ToolCall("c1", "f", '{"a":1}'))),
            Message("user", (ToolResult("c1", (Text("r"),), "f"), Text("d"))),
        ),
        tools=(Tool("f", "says", b'{"type":"object","properties":{}}'),),
        tool_choice=ToolChoice("auto"), max_output_tokens=64, temperature=0.5,
    )  # fmt: skip
    body, _ = one.write_request(request, Toward("m", "openai", 64))
    return [
        msgspec.json.decode(body),
        msgspec.json.decode(one.write_answer(ANSWER, asked(name, stream=False))),
    ]


ANSWER = Answer(
    id="x", model="m", created_s=CREATED_S, usage=Usage(10, 5, reasoning_tokens=2),
    choices=(Choice((Text("hello"), ToolCall("c1", "f", '{"a":[1,{"b":"c"}]}')), "tool_call"),),
)  # fmt: skip


@st.composite
def broken(draw: st.DrawFn, name: str) -> bytes:
    """Documents of a format with some of their parts exchanged, removed, or doubled."""
    document = draw(st.sampled_from(seeds(name)))
    for _ in range(draw(st.integers(1, 4))):
        document = _altered(draw, document)
    data = encoded(document)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 3)) :]
    return data


def _altered(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: _altered(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(value) - 1))
        more = [value[at]] * draw(st.integers(0, 1))
        return [*value[:at], _altered(draw, value[at]), *more, *value[at + 1 :]]
    return draw(DOCUMENTS)


def bodies(name: str) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=200) | DOCUMENTS.map(encoded) | broken(name)


@pytest.mark.parametrize("name", registry.DIALECTS)
def test_a_request_is_read_or_refused_whatever_its_bytes(name: str) -> None:
    @THOROUGH
    @given(bodies(name))
    def holds(body: bytes) -> None:
        try:
            request = dialect(name).read_request(body, model="m", stream=False)
        except GatewayError as error:
            assert error.status == 400  # noqa: PT017 - one of two ways that are both right
            return
        assert request.format == name
        for target in registry.DIALECTS.values():
            try:
                out = Translation(dialect(name), target, request).body(Toward("m", "openai", 99))
            except GatewayError as error:
                assert (error.status, bool(error.param)) == (400, True)  # noqa: PT017
            else:
                msgspec.json.decode(out)

    holds()


@pytest.mark.parametrize("name", registry.DIALECTS)
def test_an_answer_is_read_or_is_none_whatever_its_bytes(name: str) -> None:
    @THOROUGH
    @given(bodies(name))
    def holds(body: bytes) -> None:
        one = dialect(name)
        error = one.read_error(500, body)
        assert isinstance(error, AnswerError)
        found = one.read_answer(body)
        if found is None or found.error is not None:
            return
        assert found.choices
        for caller in registry.DIALECTS.values():
            for stream in (False, True):
                wanted = asked(caller.name, stream=stream)
                translation = Translation(caller, one, wanted.request)
                translate = translation.streamed_answer if stream else translation.answer
                assert isinstance(translate(body, wanted), bytes)

    holds()


MARK = "ZQZQ"


def marked_answer() -> Answer:
    """An answer whose every string has a place where its bytes can be spoilt."""
    said = (
        Thinking(MARK), Text(MARK), ToolCall("c1" + MARK, "f" + MARK, f'{{"a":["{MARK}"]}}'),
    )  # fmt: skip
    return Answer(
        id=MARK, model=MARK, created_s=CREATED_S, choices=(Choice(said, "tool_call"),),
        usage=Usage(1, 1),
    )  # fmt: skip


def spoilt(body: bytes) -> list[bytes]:
    """The body with one of its marks after the other turned into bytes that are no text."""
    marks = [at for at in range(len(body)) if body.startswith(MARK.encode(), at)]
    assert marks
    return [body[:at] + b"\x80\xff" + body[at + 2 :] for at in marks]


@pytest.mark.parametrize("name", registry.DIALECTS)
def test_bytes_that_are_no_text_are_refused_or_replaced_but_never_a_crash(name: str) -> None:
    one = dialect(name)
    whole = one.write_answer(marked_answer(), asked(name, stream=False))
    streamed = _written(name, events_of(marked_answer()))
    request = Request(
        format=name, model="m", stream=False, max_output_tokens=99,
        messages=(
            Message("user", (Text(MARK),)),
            Message("assistant", marked_answer().choices[0].content[1:]),
            Message("user", (ToolResult("c1" + MARK, (Text(MARK),), "f" + MARK),)),
        ),
        tools=(Tool("f" + MARK, MARK, b'{"type":"object","title":"ZQZQ"}'),),
    )  # fmt: skip
    asking, _ = one.write_request(request, Toward("m", "openai", 64))
    for body in spoilt(asking):
        with pytest.raises(GatewayError) as refused:
            one.read_request(body, model="m", stream=False)
        assert refused.value.code == "invalid_request"
    for body in spoilt(whole):
        one.read_error(400, body)
        found = one.read_answer(body)
        for caller in registry.DIALECTS.values():
            if found is not None and found.error is None:
                caller.write_answer(found, asked(caller.name, stream=False)).decode()
    for body in spoilt(streamed):
        events, _ = _read(name, [body])
        for spoken in registry.DIALECTS:
            _written(spoken, events).decode()


@st.composite
def stream_bytes(draw: st.DrawFn, name: str) -> bytes:
    """Streams that are nearly right: real events, some altered, lost, doubled or out of place."""
    events = _written(name, events_of(ANSWER)).split(b"\n\n")
    pieces: list[bytes] = []
    for event in events:
        what = draw(st.integers(0, 9))
        if what == 0:
            continue
        if what == 1:
            pieces.append(event)
        if what == 2:
            event = _altered_event(draw, event)
        if what == 3:
            event = draw(st.binary(max_size=30)).replace(b"\n", b"")
        pieces.append(event)
    if draw(st.booleans()):
        pieces = draw(st.permutations(pieces))
    return b"\n\n".join(pieces) + draw(st.sampled_from([b"\n\n", b"", b"\n", b"\r\n\r\n"]))


def _altered_event(draw: st.DrawFn, event: bytes) -> bytes:
    head, mark, data = event.partition(b"data: ")
    try:
        document = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return event
    return head + mark + encoded(_altered(draw, document))


def _written(name: str, events: list[Event]) -> bytes:
    writer = dialect(name).writer(asked(name, stream=True))
    return b"".join(map(writer.write, events))


@pytest.mark.parametrize("name", registry.DIALECTS)
def test_a_stream_keeps_to_the_grammar_whatever_its_bytes_and_cuts(name: str) -> None:
    @THOROUGH
    @given(stream_bytes(name) | st.binary(max_size=200), st.data())
    def holds(body: bytes, data: st.DataObject) -> None:
        offsets = data.draw(st.lists(st.integers(0, len(body)), max_size=6))
        whole, ended = _read(name, [body])
        assert _read(name, list(cut(body, sorted(offsets)))) == (whole, ended)
        grammar = Grammar()
        for event in whole:
            grammar.see(event)
        assert ended == any(isinstance(one, MessageEnd) for one in whole)
        for caller in registry.DIALECTS:
            if caller != name:
                _written(caller, whole)

    holds()


def _read(name: str, pieces: list[bytes]) -> tuple[list[Event], bool]:
    """The events of a stream, neighbouring deltas joined, and whether it had its end."""
    reader = dialect(name).reader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    try:
        events += reader.eof()
    except Truncated:
        return events, False
    return events, any(isinstance(one, MessageEnd) for one in events)


# --- any answer -------------------------------------------------------------------------------

PLAIN = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12
)
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=50)
ARGUMENTS = st.dictionaries(
    NAMES, st.integers(-5, 10**12) | st.floats(-4, 4) | PLAIN | st.lists(st.booleans(), max_size=2),
    max_size=3,
)  # fmt: skip
STOPS: list[StopReason] = ["end", "max_tokens", "refusal"]


@st.composite
def plain_answers(draw: st.DrawFn) -> Answer:
    """Answers that every format can give: thoughts, then text, then calls."""
    content: list[Block] = []
    if draw(st.booleans()):
        content.append(Thinking(draw(PLAIN)))
    texts = draw(st.lists(PLAIN, max_size=3))
    content += map(Text, texts)
    ids = draw(st.lists(IDS, max_size=3, unique=True))
    content += [ToolCall(one, draw(NAMES), encoded(draw(ARGUMENTS)).decode()) for one in ids]
    stop: StopReason = "tool_call" if ids else draw(st.sampled_from(STOPS))
    if not texts and not ids and stop == "end":
        content.append(Text(draw(PLAIN)))
    reasoning, cached = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    usage = Usage(
        cached + draw(st.integers(0, 99)), reasoning + draw(st.integers(0, 99)),
        cache_read_input_tokens=cached, reasoning_tokens=reasoning,
    )  # fmt: skip
    return Answer(
        id="x", model="m", created_s=CREATED_S, choices=(Choice(tuple(content), stop),), usage=usage
    )


def meaning(answer: Answer) -> tuple[Any, ...]:
    """What every format must keep of a plain answer."""
    (choice,) = answer.choices
    usage = answer.usage
    assert usage is not None
    return (
        "".join(one.text for one in choice.content if isinstance(one, Text)),
        [
            (call_ids.restored(one.id), one.name, _close(msgspec.json.decode(one.arguments)))
            for one in choice.content if isinstance(one, ToolCall)
        ],
        choice.stop, usage.input_tokens, usage.output_tokens,
        usage.cache_read_input_tokens or 0,
    )  # fmt: skip


def _close(value: Any) -> Any:
    assert not isinstance(value, float) or math.isfinite(value)
    return value


@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_any_answer_crosses_any_pair_unchanged_in_meaning(pair: tuple[str, str]) -> None:
    caller, upstream = pair

    @QUICK
    @given(plain_answers())
    def holds(answer: Answer) -> None:
        there = dialect(upstream).write_answer(answer, asked(upstream, stream=False))
        wanted = asked(caller, stream=False)
        translation = Translation(dialect(caller), dialect(upstream), wanted.request)
        out = translation.answer(there, wanted)
        assert isinstance(out, bytes)
        found = dialect(caller).read_answer(out)
        assert found is not None
        assert meaning(found) == meaning(answer)

    holds()


@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_any_stream_crosses_any_pair_unchanged_in_meaning_however_it_is_cut(
    pair: tuple[str, str],
) -> None:
    caller, upstream = pair

    @QUICK
    @given(plain_answers(), st.data())
    def holds(answer: Answer, data: st.DataObject) -> None:
        there = _written(upstream, events_of(answer))
        offsets = data.draw(st.lists(st.integers(0, len(there)), max_size=5))
        outs = []
        for pieces in (cut(there, []), cut(there, sorted(offsets))):
            wanted = asked(caller, stream=True)
            tap = Translation(dialect(caller), dialect(upstream), wanted.request).tap(wanted)
            outs.append(b"".join(map(tap.feed, pieces)) + tap.end() + tap.release())
            assert tap.metered().complete
        assert outs[0] == outs[1]
        found = collected(caller, outs[0])
        assert meaning(found) == meaning(answer)

    holds()


def collected(name: str, body: bytes) -> Answer:
    """The events of a stream as one whole answer; blocks of several choices are not told apart."""
    events, ended = _read(name, [body])
    assert ended
    blocks: dict[int, Block] = {}
    usage: Usage | None = None
    stop: StopReason | None = None
    for event in events:
        match event:
            case BlockStart(index=index, block=block):
                blocks[index] = block
            case Delta(index=index, text=text, kind="text"):
                block = blocks[index]
                assert isinstance(block, Text | Thinking)
                blocks[index] = msgspec.structs.replace(block, text=block.text + text)
            case Delta(index=index, text=text, kind="arguments"):
                block = blocks[index]
                assert isinstance(block, ToolCall)
                blocks[index] = msgspec.structs.replace(block, arguments=block.arguments + text)
            case Finish():
                stop = event.stop
            case MessageEnd():
                usage = event.usage
            case StreamError():
                raise AssertionError(event)
    assert stop is not None
    content = tuple(
        msgspec.structs.replace(one, arguments=one.arguments or "{}")
        if isinstance(one, ToolCall) else one
        for one in blocks.values()
    )  # fmt: skip
    return Answer(id=None, model=None, choices=(Choice(content, stop),), usage=usage)
