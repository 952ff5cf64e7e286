"""The cheap reading of conversations proves nothing that the strict one would not bound.

Whatever it takes for plain is read again by `known.py` alone, with the fields of tool calls and
results that it passes over taken out; nothing may come of that but the same counts.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from wire_records import FORMAT_OF, records

from gateway.errors import GatewayError
from gateway.wire import demand, plain
from gateway.wire.envelope import peek
from gateway.wire.known import Found

CHAT, RESPONSES, MESSAGES, GEMINI = (
    "openai_chat", "openai_responses", "anthropic_messages", "gemini",
)  # fmt: skip
FORMATS = [name for name, reader in demand._READERS.items() if reader.plain is not None]
URL = "https://a.b/c.png"
PNG = "data:image/png;base64,iVBORw0KGgo="
LONG = "long " * 4000

KEPT: dict[str, frozenset[str]] = {
    "tool_use": frozenset({"type", "cache_control"}),
    "tool_result": frozenset({"type", "content", "cache_control"}),
    "function_call": frozenset({"type"}),
    "custom_tool_call": frozenset({"type"}),
    "function_call_output": frozenset({"type", "output"}),
    "custom_tool_call_output": frozenset({"type", "output"}),
}
"""What is looked at of calls and results; of results `NEVER` too, where it does not belong."""

NEVER = frozenset({"source", "file_id", "image_url"})


def told(found: Found) -> tuple[Any, ...]:
    return (found.unbounded, found.images, found.image_bytes, found.audio, found.cache,
            found.tool_prompts)  # fmt: skip


def walked(body: bytes, wire_format: str, *, cheaply: bool) -> Found | None:
    """What is found, by the cheap reading (None where it proves nothing) or by the strict one."""
    reader = demand._READERS[wire_format]
    fields = peek(body, wire_format).fields
    found = Found()
    if cheaply:
        assert reader.plain is not None
        if reader.main not in fields or not reader.plain(fields[reader.main], found):
            return None
        found.plain = True
    try:
        reader.walk(fields, found)
    except (msgspec.DecodeError, RecursionError):
        found.unbounded = True
    return found


def reduced(value: Any) -> Any:
    """A body without what is passed over of its tool calls and results."""
    if isinstance(value, list):
        return [reduced(one) for one in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    kept = KEPT.get(kind) if isinstance(kind, str) else None
    if kept is None:
        return {key: reduced(one) for key, one in value.items()}
    if "content" in kept or "output" in kept:
        kept |= {name for name in NEVER if value.get(name) is not None}
    return {key: reduced(one) for key, one in value.items() if key in kept}


def strict_of(body: dict[str, Any], wire_format: str) -> Found:
    main = demand._READERS[wire_format].main
    kept = {**body, main: reduced(body[main])} if main in body else body
    found = walked(msgspec.json.encode(kept), wire_format, cheaply=False)
    assert found is not None
    return found


# -- bodies ------------------------------------------------------------------------------------

CONTROL = {"type": "ephemeral"}
LONGER = {"type": "ephemeral", "ttl": "1h"}
TEXT = {"type": "text", "text": "Hi"}
INPUT_TEXT = {"type": "input_text", "text": "Hi"}
IMAGE_URL = {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}
INPUT_IMAGE = {"type": "input_image", "image_url": PNG}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAA="}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

CHAT_LIST: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [TEXT, {**TEXT, "cache_control": CONTROL}, IMAGE_URL]},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "so"},
    {"role": "tool", "tool_call_id": "c", "content": [TEXT]},
    {"role": "user", "content": LONG, "name": "ann"},
]
RESPONSES_LIST: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": [INPUT_TEXT, INPUT_IMAGE]},
    {"type": "message", "role": "user", "content": LONG},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_1"},
    {"type": "function_call_output", "call_id": "c", "output": "1"},
    {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "i"},
    {"type": "custom_tool_call_output", "call_id": "d", "output": [INPUT_TEXT, INPUT_IMAGE]},
    {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
     "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]},
]  # fmt: skip
MESSAGES_LIST: list[dict[str, Any]] = [
    {"role": "user", "content": [TEXT, PICTURE, {**TEXT, "cache_control": LONGER}]},
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "tool_use", "id": "1", "name": "f", "input": {"source": {"type": "url"}}}]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "1", "content": [TEXT, PICTURE], "is_error": False},
        {"type": "tool_result", "tool_use_id": "2", "content": "1", "cache_control": CONTROL}]},
    {"role": "user", "content": LONG},
]  # fmt: skip
GEMINI_LIST: list[dict[str, Any]] = [
    {"role": "user", "parts": [
        {"text": "Hi"}, {"inlineData": {"mimeType": "image/png", "data": "AAA="}}]},
    {"role": "model", "parts": [
        {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "s"},
        {"text": "so", "thought": True}]},
    {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"a": 1}}}]},
]  # fmt: skip
WHOLE: dict[str, list[dict[str, Any]]] = {
    CHAT: CHAT_LIST, RESPONSES: RESPONSES_LIST, MESSAGES: MESSAGES_LIST, GEMINI: GEMINI_LIST,
}  # fmt: skip

NAMES = [
    "type",
    "role",
    "content",
    "text",
    "parts",
    "output",
    "source",
    "image_url",
    "url",
    "file",
    "file_id",
    "file_url",
    "file_data",
    "fileData",
    "inlineData",
    "inline_data",
    "input_audio",
    "audio",
    "images",
    "image",
    "video_url",
    "cache_control",
    "ttl",
    "encrypted_content",
    "tool_calls",
    "input",
    "id",
    "summary",
    "data",
    "media_type",
    "mimeType",
    "functionResponse",
    "made_up",
]
KINDS = [
    "text",
    "image",
    "image_url",
    "file",
    "input_file",
    "input_image",
    "input_audio",
    "document",
    "search_result",
    "tool_use",
    "tool_result",
    "message",
    "reasoning",
    "item_reference",
    "function_call",
    "function_call_output",
    "server_tool_use",
    "container_upload",
    "compaction",
    "url",
    "base64",
    "ephemeral",
    "application/pdf",
    "user",
]
VALUES: list[Any] = [
    None, "", "Hi", URL, PNG, [], {}, True, 7, [TEXT], [PICTURE], [IMAGE_URL], [INPUT_IMAGE],
    CONTROL, LONGER, {"type": "url", "url": URL}, {"url": URL}, {"url": PNG},
    PICTURE["source"], [{"type": "input_file", "file_id": "file-1"}], [{"type": "text"}],
    [{"type": "image", "source": {"type": "url", "url": URL}}], {"fileUri": "files/1"},
    {"mimeType": "audio/ogg", "data": "T2dn"}, {"name": "f", "parts": [{"inlineData": {}}]},
]  # fmt: skip


def values() -> st.SearchStrategy[Any]:
    """Values of their own, since they are changed."""
    return st.sampled_from([msgspec.json.encode(one) for one in VALUES]).map(msgspec.json.decode)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from objects(one)
    elif isinstance(value, list):
        for one in value:
            yield from objects(one)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Some turns of a conversation, of which up to three fields are not as they should be."""
    wire_format = draw(st.sampled_from(FORMATS))
    turns = draw(st.lists(st.sampled_from(WHOLE[wire_format]), min_size=1, max_size=4))
    turns = msgspec.json.decode(msgspec.json.encode(turns))
    for _ in range(draw(st.integers(0, 3))):
        nodes = list(objects(turns))
        node = nodes[draw(st.integers(0, len(nodes) - 1))]
        names = [*NAMES, *sorted(node)] if node else NAMES
        name = draw(st.sampled_from(names))
        kinds = st.sampled_from(KINDS)
        node[name] = draw(kinds if name in ("type", "role") else values() | kinds)
        if draw(st.booleans()):  # in another order
            last = draw(st.sampled_from(sorted(node)))
            node[last] = node.pop(last)
    return wire_format, {"model": "m", demand._READERS[wire_format].main: turns}


# -- the proof ---------------------------------------------------------------------------------


@given(conversations())
def test_what_is_taken_for_plain_is_bounded_and_counted_the_same(
    conversation: tuple[str, dict[str, Any]],
) -> None:
    wire_format, body = conversation
    found = walked(msgspec.json.encode(body), wire_format, cheaply=True)
    if found is not None:
        assert told(found) == told(strict_of(body, wire_format))


@given(conversations(), st.data())
def test_escapes_and_spaces_change_nothing(
    conversation: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    wire_format, body = conversation
    spelled = msgspec.json.encode(body)
    indent = data.draw(st.sampled_from([None, None, 0, 2]))
    if indent is not None:
        spelled = msgspec.json.format(spelled, indent=indent)
    start = spelled.index(b"[")  # the envelope reads what is before
    letters = [at for at in range(start, min(len(spelled), start + 2000))
               if chr(spelled[at]).isalpha() and spelled[at - 1 : at] != b"\\"]  # fmt: skip
    for at in sorted(data.draw(st.lists(st.sampled_from(letters), max_size=4, unique=True)))[::-1]:
        spelled = spelled[:at] + b"\\u%04x" % spelled[at] + spelled[at + 1 :]
    try:
        assert msgspec.json.decode(spelled) == body
    except msgspec.DecodeError:
        assume(False)  # it was no string: true, false or null
    found = walked(spelled, wire_format, cheaply=True)
    if found is not None:
        assert (
            told(found)[:1] + told(found)[3:]
            == told(strict_of(body, wire_format))[:1] + told(strict_of(body, wire_format))[3:]
        )
        assert found.images == strict_of(body, wire_format).images


@given(conversations(), st.data())
def test_a_key_said_twice_is_bounded_whichever_counts(
    conversation: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    wire_format, body = conversation
    main = demand._READERS[wire_format].main
    nodes = [one for one in objects(body[main]) if one]
    node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
    name = data.draw(st.sampled_from(sorted(node)))
    other = data.draw(values() | st.sampled_from(KINDS))
    first, second = data.draw(st.permutations([node.pop(name), other]))
    node |= {name: first, f"{name}\0twice": second}
    spelled = msgspec.json.encode(body).replace(b"\\u0000twice", b"")
    del node[f"{name}\0twice"]
    found = walked(spelled, wire_format, cheaply=True)
    if found is None:
        return
    for value in (first, second):
        node[name] = value
        one = strict_of(body, wire_format)
        assert not one.unbounded
        assert not one.audio or found.audio
        assert (found.cache or "") in ((one.cache or ""), "1h", *(["5m"] if not one.cache else []))


@pytest.mark.parametrize("wire_format", FORMATS)
def test_all_that_agents_send_is_taken_for_plain(wire_format: str) -> None:
    body = {"model": "m", demand._READERS[wire_format].main: WHOLE[wire_format]}
    found = walked(msgspec.json.encode(body), wire_format, cheaply=True)
    assert found is not None
    assert told(found) == told(strict_of(body, wire_format))
    assert found.images == {CHAT: 1, RESPONSES: 2, MESSAGES: 2, GEMINI: 1}[wire_format]


PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
ODD: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"role": "user", "content": [{**TEXT, "image": URL}]}),
    (CHAT, {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}),
    (CHAT, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}),
    (CHAT, {"role": "user", "content": "Hi", "images": [URL]}),
    (CHAT, {"role": "assistant", "audio": {"id": "audio_1"}}),
    (RESPONSES, {"id": "msg_1"}),
    (RESPONSES, {"type": "message", "role": "user", "id": "msg_1", "content": None}),
    (RESPONSES, {"type": "item_reference", "id": "msg_1"}),
    (RESPONSES, {"type": "reasoning", "id": "rs_1", "encrypted_content": ""}),
    (RESPONSES, {"type": "reasoning", "id": "rs_1", "encrypted_content": None}),
    (RESPONSES, {"type": "reasoning", "id": "rs_1"}),
    (RESPONSES, {"type": "message", "role": "user", "content": [
        {"type": "input_image", "image_url": PNG, "file_id": "file-1"}]}),
    (RESPONSES, {"type": "function_call_output", "output": [
        {"type": "input_file", "file_url": URL}]}),
    (RESPONSES, {"type": "function_call_output", "output": "1", "file_id": "file-1"}),
    (MESSAGES, {"role": "user", "content": [{"type": "image", "source": PDF}]}),
    (MESSAGES, {"role": "user", "content": [{"type": "document", "source": PDF}]}),
    (MESSAGES, {"role": "user", "content": [{"type": "container_upload", "file_id": "file_1"}]}),
    (MESSAGES, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [
        {"type": "image", "source": {"type": "url", "url": URL}}]}]}),
    (MESSAGES, {"role": "user", "content": "Hi", "made_up_tomorrow": 1}),
    (GEMINI, {"role": "user", "parts": [{"fileData": {"fileUri": "files/1"}}]}),
    (GEMINI, {"role": "user", "parts": [{"text": "Hi", "made_up_tomorrow": 1}]}),
    (GEMINI, {"role": "user", "parts": [
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}}]}),
    (GEMINI, {"role": "user", "parts": [
        {"functionResponse": {"name": "f", "response": {}, "parts": [{"inlineData": {}}]}}]}),
]  # fmt: skip


@pytest.mark.parametrize(("wire_format", "turn"), ODD)
@pytest.mark.parametrize("last", [True, False])
def test_one_odd_turn_among_plain_ones_is_not_overlooked(
    wire_format: str, turn: dict[str, Any], last: bool
) -> None:
    whole = WHOLE[wire_format]
    turns = [*whole, turn] if last else [turn, *whole]
    body = {"model": "m", demand._READERS[wire_format].main: turns}
    assert walked(msgspec.json.encode(body), wire_format, cheaply=True) is None
    assert strict_of(body, wire_format).unbounded


# -- a few long texts --------------------------------------------------------------------------

AT_START = b'{"model":"m","messages":[{"role":"user","content":"%b"' % (b"x" * plain.LARGE_BYTES)
FILE = b'[{"type":"file","file":{"file_id":"file-1"}}]'


@pytest.mark.parametrize("wire_format", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    "end",
    [b"}]}", b'},{"role":"user","content":"a"}]}', b'},{"content":"say \\"role\\""}]}',
     b'}], "n": 1}'],
)  # fmt: skip
def test_a_few_long_texts_are_not_decoded(wire_format: str, end: bytes) -> None:
    fields = peek(AT_START + end, wire_format).fields
    assert plain._few_texts(fields["messages"])


@pytest.mark.parametrize("wire_format", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    "end",
    [
        b',"content":%b,"content":"Hi"}]}' % FILE,
        b',"c\\u006fntent":%b,"content":"Hi"}]}' % FILE,
        b'},{"content":%b},{"content":"Hi"}]}' % FILE,
        b',"images":"%b"}]}' % URL.encode(),
        b',"role":"user"}]}',
        b' }]}',
        b'} ]}',
        b'},{}]}',
        b'},7,"a"}]}',
    ],
)  # fmt: skip
def test_whatever_else_is_in_them_is_not_overlooked(wire_format: str, end: bytes) -> None:
    try:
        fields = peek(AT_START + end, wire_format).fields
    except GatewayError:
        return  # refused before it is looked into
    assert not plain._few_texts(fields["messages"])
    assert demand.read(
        AT_START + end, peek(AT_START + end, wire_format), wire_format
    ).unbounded == (
        b"file" in end or b"images" in end or (wire_format == MESSAGES and end == b"},7]}")
    )


# -- where it gives up -------------------------------------------------------------------------


@pytest.mark.parametrize("wire_format", FORMATS)
def test_what_it_came_upon_before_it_gave_up_is_counted_once(wire_format: str) -> None:
    odds: dict[str, dict[str, Any]] = {
        CHAT: {"role": "ipython", "content": "Hi"},
        RESPONSES: {"role": "user", "content": "Hi"},
        MESSAGES: {"role": "system", "content": "Hi"},
        GEMINI: {"role": "tool", "parts": []},
    }
    main = demand._READERS[wire_format].main
    body = {"model": "m", main: [*WHOLE[wire_format], odds[wire_format]]}
    spelled = msgspec.json.encode(body)
    assert walked(spelled, wire_format, cheaply=True) is None
    found = demand.read(spelled, peek(spelled, wire_format), wire_format)
    strict = strict_of(body, wire_format)
    assert (found.unbounded, found.images, found.image_bytes) == (
        False, strict.images, strict.image_bytes,
    )  # fmt: skip


@pytest.mark.recorded
def test_recorded_requests_are_bounded_as_by_the_strict_reading() -> None:
    compared = cheap = 0
    for record in records():
        body = bytes(record.request_body)
        if FORMAT_OF.get(record.endpoint) not in FORMATS or not body.startswith(b"{"):
            continue
        try:
            strict = walked(body, record.format, cheaply=False)
        except GatewayError:
            continue
        compared += 1
        found = walked(body, record.format, cheaply=True)
        if found is not None:
            cheap += 1
            assert strict is not None
            assert told(found) == told(strict), record.id
    assert compared > 1000
    assert cheap > 0.7 * compared, f"{cheap} of {compared}"
