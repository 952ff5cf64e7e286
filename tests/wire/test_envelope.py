"""The envelope of a request: what is read, what is refused, and that only named bytes change."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from wire_records import records

from gateway.errors import GatewayError
from gateway.wire.envelope import MAX_TOKENS_MAX, Envelope, peek, rewrite

CHAT = "openai_chat"


def refused(body: bytes, format: str = CHAT) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        peek(body, format)
    assert caught.value.code == "invalid_request"
    assert caught.value.status == 400
    return caught.value


def told(found: Envelope) -> dict[str, Any]:
    return {
        name: getattr(found, name)
        for name in found.__struct_fields__
        if name not in ("fields", "gap")
    }


def test_a_chat_request_tells_its_fields() -> None:
    found = peek(
        b'{"model":"gpt","messages":[{"role":"user","model":"no"}],"stream":true,'
        b'"max_completion_tokens":50,"max_tokens":70,"stream_options":{"include_usage":true}}',
        CHAT,
    )
    assert told(found) == {
        "model": "gpt",
        "stream": True,
        "max_output_tokens": 70,
        "include_usage": True,
        "store": None,
        "previous_response_id": None,
    }


def test_a_responses_request_tells_its_fields() -> None:
    body = b'{"model":"o","max_output_tokens":9,"store":false,"previous_response_id":"resp_1"}'
    found = peek(body, "openai_responses")
    assert (found.max_output_tokens, found.store, found.previous_response_id) == (
        9,
        False,
        "resp_1",
    )
    assert not found.stream


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (b'{"generationConfig":{"maxOutputTokens":64,"temperature":1.0}}', 64),
        (b'{"generation_config":{"max_output_tokens":65}}', 65),
        (b'{"generationConfig":null}', None),
        (b'{"contents":[]}', None),
    ],
)
def test_a_gemini_request_needs_no_model(body: bytes, limit: int | None) -> None:
    found = peek(body, "gemini")
    assert (found.model, found.stream, found.max_output_tokens) == (None, False, limit)


def test_null_means_absent() -> None:
    found = peek(b'{"model":null,"stream":null,"max_tokens":null,"stream_options":null}', CHAT)
    assert told(found) == told(peek(b"{}", CHAT))


def test_native_bodies_are_read_as_far_as_they_are_understood() -> None:
    found = peek(b'{"model":["a"],"stream":"yes","max_tokens":-1}', "native")
    assert (found.model, found.stream, found.max_output_tokens) == (None, False, None)
    assert peek(b'{"model":"tts-1","stream":true}', "native").stream


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"nope", None),
        (b"[]", None),
        (b'"model"', None),
        (b'{"model":"a"', None),
        (b'{"model":"a"}x', None),
        (b'{"model":"a","n":NaN}', None),
        (b'{"model":"a","n":Infinity}', None),
        (b'{"model":"a","n":01}', None),
        (b'{"model":"a",}', None),
        (b'{"x":"\\ud800"}', None),
        (b'{"x":["\\udc00"]}', None),
        (b'{"\\ud800":1}', None),
        (b'{"x":"\xff"}', None),
        (b'{"\xff":1}', None),
        (b'{"x":"\xed\xa0\x80"}', None),
        (b'\xef\xbb\xbf{"model":"a"}', None),
        (b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}", None),
        (b'{"model":5}', "model"),
        (b'{"model":{"a":1}}', "model"),
        (b'{"stream":"true"}', "stream"),
        (b'{"stream":1}', "stream"),
        (b'{"max_tokens":0}', "max_tokens"),
        (b'{"max_tokens":-5}', "max_tokens"),
        (b'{"max_tokens":1.5}', "max_tokens"),
        (b'{"max_tokens":1e3}', "max_tokens"),
        (b'{"max_tokens":"9"}', "max_tokens"),
        (b'{"max_tokens":2147483648}', "max_tokens"),
        (b'{"max_completion_tokens":' + b"9" * 400 + b"}", "max_completion_tokens"),
        (b'{"stream_options":[]}', "stream_options"),
        (b'{"stream_options":{"include_usage":1}}', "stream_options.include_usage"),
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","model":"a"}', "model"),
        (b'{"model":"a","mod\\u0065l":"b"}', "model"),
        (b'{"mod\\u0065l":"a","x":1,"model":"a"}', "model"),
        (b'{ "stream": true, "stream": true }', "stream"),
        (b'{"max_tokens": 5, "max_tokens": 50000}', "max_tokens"),
        (b'{"max_tokens":5,"max_tokens":55}', "max_tokens"),
        (b'{"stream_options":{"include_usage":true,"include_usage":false}}',
         "stream_options.include_usage"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_in_one_way_is_refused(body: bytes, param: str | None) -> None:
    assert refused(body).param == param


def test_the_other_formats_name_their_own_field() -> None:
    assert refused(b'{"max_tokens":0}', "anthropic_messages").param == "max_tokens"
    assert refused(b'{"store":1}', "openai_responses").param == "store"
    assert refused(b'{"previous_response_id":1}', "openai_responses").param
    found = refused(b'{"generationConfig":{"maxOutputTokens":0}}', "gemini")
    assert found.param == "generationConfig.maxOutputTokens"
    assert peek(b'{"max_tokens":2147483647}', CHAT).max_output_tokens == MAX_TOKENS_MAX


def test_more_models_than_the_cache_holds_are_still_read_right() -> None:
    for n in range(3000):
        assert peek(b'{"model":"m-%d"}' % n, CHAT).model == f"m-{n}"


@pytest.mark.parametrize(
    ("body", "out"),
    [
        (b'{"model":"a"}', b'{"model":"zz"}'),
        (b'{"model":"a","x":{"model":"a"},"y":1.10}', b'{"model":"zz","x":{"model":"a"},"y":1.10}'),
        (b'{"x":{"model":"a"}, "model": "a"}', b'{"x":{"model":"a"}, "model": "zz"}'),
        (b'\n{ "mod\\u0065l" :\t"a" }\n', b'\n{ "mod\\u0065l" :\t"zz" }\n'),
        (b'{"n": 12345678901234567890123, "model": "\\u0061", "z": 1E5}',
         b'{"n": 12345678901234567890123, "model": "zz", "z": 1E5}'),
        ('{"é": 1, "model": "a"}'.encode(), '{"é": 1, "model": "zz"}'.encode()),
        ('{"é":1,"model":"a"}'.encode(), '{"é":1,"model":"zz"}'.encode()),
        (b'{"x":1}', b'{"x":1,"model":"zz"}'),
    ],
)  # fmt: skip
def test_another_model_changes_only_its_own_bytes(body: bytes, out: bytes) -> None:
    assert rewrite(body, peek(body, CHAT), model="zz") == out


@pytest.mark.parametrize(
    ("body", "out"),
    [
        (b'{"a":1}', b'{"a":1,"stream_options":{"include_usage":true}}'),
        (b"{}", b'{"stream_options":{"include_usage":true}}'),
        (b' { } ', b' { "stream_options":{"include_usage":true}} '),
        (b'{"stream_options":null,"a":1.0}', b'{"stream_options":{"include_usage":true},"a":1.0}'),
        (b'{"stream_options":{}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"a": 1, "stream_options": {"x": 1}}',
         b'{"a": 1, "stream_options": {"x": 1,"include_usage":true}}'),
        (b'{"stream_options":{"include_usage": false ,"y":2}}',
         b'{"stream_options":{"include_usage": true ,"y":2}}'),
        (b'{"stream_options":{"include_usage":null}}',
         b'{"stream_options":{"include_usage":true}}'),
    ],
)  # fmt: skip
def test_usage_is_asked_for_in_place(body: bytes, out: bytes) -> None:
    assert rewrite(body, peek(body, CHAT), include_usage=True) == out
    assert peek(out, CHAT).include_usage


def test_model_and_usage_are_set_together() -> None:
    body = b'{"stream_options":{},"model":"a","t":0.10}'
    out = rewrite(body, peek(body, CHAT), model='q"\u00e9', include_usage=True)
    expected = '{"stream_options":{"include_usage":true},"model":"q\\"\u00e9","t":0.10}'
    assert out == expected.encode()
    out = rewrite(b"{}", peek(b"{}", CHAT), model="a", include_usage=True)
    assert out == b'{"model":"a","stream_options":{"include_usage":true}}'


@pytest.mark.parametrize(
    ("body", "key", "out"),
    [
        (b'{"model":"a"}', "max_tokens", b'{"model":"a","max_tokens":77}'),
        (b'{"max_tokens": null, "x": 1.10}', "max_tokens", b'{"max_tokens": 77, "x": 1.10}'),
        (b'{"max_completion_tokens":null}', "max_tokens",
         b'{"max_completion_tokens":null,"max_tokens":77}'),
        (b'{\n "input" : "a" }', "max_output_tokens",
         b'{\n "input" : "a" ,"max_output_tokens":77}'),
        (b"{}", "max_tokens", b'{"max_tokens":77}'),
    ],
)  # fmt: skip
def test_a_limit_on_output_is_set_in_place(body: bytes, key: str, out: bytes) -> None:
    seen = peek(body, "openai_completions")
    assert rewrite(body, seen, max_output_tokens=77, max_tokens_key=key) == out


@pytest.mark.parametrize(
    ("body", "out"),
    [
        (b'{"contents":[]}', b'{"contents":[],"generationConfig":{"maxOutputTokens":77}}'),
        (b'{"generationConfig":null}', b'{"generationConfig":{"maxOutputTokens":77}}'),
        (b'{"generation_config":null}', b'{"generation_config":{"maxOutputTokens":77}}'),
        (b'{"generationConfig":{},"a":1.0}',
         b'{"generationConfig":{"maxOutputTokens":77},"a":1.0}'),
        (b'{"generation_config": {"temperature": 0.10}}',
         b'{"generation_config": {"temperature": 0.10,"maxOutputTokens":77}}'),
        (b'{"generationConfig":null,"generation_config":{"max_output_tokens":null}}',
         b'{"generationConfig":null,"generation_config":{"max_output_tokens":77}}'),
    ],
)  # fmt: skip
def test_geminis_limit_goes_into_the_generation_config(body: bytes, out: bytes) -> None:
    assert rewrite(body, peek(body, "gemini"), max_output_tokens=77) == out
    assert peek(out, "gemini").max_output_tokens == 77


def test_model_usage_and_limit_are_set_together() -> None:
    body = b'{"stream_options":{},"model":"a","t":0.10}'
    out = rewrite(
        body, peek(body, CHAT), model="b", include_usage=True, max_output_tokens=5,
        max_tokens_key="max_completion_tokens",
    )  # fmt: skip
    assert out == (
        b'{"stream_options":{"include_usage":true},"model":"b","t":0.10,"max_completion_tokens":5}'
    )


def test_the_same_object_comes_back_where_nothing_changes() -> None:
    body = b'{"model":"a","stream_options":{"include_usage":true}}'
    assert rewrite(body, peek(body, CHAT), model="a", include_usage=True) is body
    assert rewrite(body, peek(body, CHAT)) is body


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    ["messages", "temperature", "user", "\\", '"', "a,b", "a: b", "{", "}"]
)
READ = ("model", "stream", "max_tokens", "max_completion_tokens", "stream_options")
SPACES = st.sampled_from([b"", b" ", b"\n  ", b"\t"])


def spelled(draw: Any, text: str) -> bytes:
    """Spell a string as JSON, some of its characters escaped that need not be."""
    out = b'"'
    for char in text:
        if ord(char) < 0x10000 and draw(st.integers(0, 9)) == 0:
            out += b"\\u%04x" % ord(char)
        else:
            out += msgspec.json.encode(char)[1:-1]
    return out + b'"'


class Made(msgspec.Struct):
    body: bytes
    members: dict[str, bytes]
    order: list[tuple[str, bytes]]
    model_at: int


@st.composite
def bodies(draw: Any) -> Made:
    """Make a request body in some spacing."""
    extra = draw(st.dictionaries(KEYS.filter(lambda key: key not in READ), VALUES, max_size=5))
    members: dict[str, bytes] = {key: msgspec.json.encode(value) for key, value in extra.items()}
    model = draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=8))
    if model is not None:
        members["model"] = spelled(draw, model)
    for key, choices in (
        ("stream", [b"true", b"false", b"null"]),
        ("max_tokens", [b"1", b"4096", b"null"]),
        ("stream_options", [b"null", b"{}", b'{"include_usage":false}', b'{ "x" : [1] }']),
    ):
        value = draw(st.none() | st.sampled_from(choices))
        if value is not None:
            members[key] = value
    style = draw(st.sampled_from(["compact", "spaced", "any"]))
    order = draw(st.permutations(list(members.items())))

    def gap() -> bytes:
        drawn: bytes = draw(SPACES) if style == "any" else b" " if style == "spaced" else b""
        return drawn

    def edge() -> bytes:
        return gap() if style == "any" else b""

    body = edge() + b"{" + edge()
    model_at = -1
    for n, (key, value) in enumerate(order):
        body += edge() + b"," + gap() if n else b""
        body += spelled(draw, key) if style == "any" else msgspec.json.encode(key)
        body += edge() + b":" + gap()
        model_at = len(body) if key == "model" else model_at
        body += value
    body += edge() + b"}" + edge()
    return Made(body, members, order, model_at)


@settings(max_examples=300, deadline=None)
@given(made=bodies(), model=st.text(st.characters(codec="utf-8"), max_size=8))
def test_rewriting_changes_the_named_values_and_no_other_byte(made: Made, model: str) -> None:
    body, members = made.body, made.members
    found = peek(body, CHAT)
    before = msgspec.json.decode(body)
    assert found.model == before.get("model")
    assert found.stream == bool(before.get("stream"))
    assert found.max_output_tokens == before.get("max_tokens")
    out = rewrite(body, found, model=model, include_usage=True)
    after = msgspec.json.decode(out)
    options = {**(before.get("stream_options") or {}), "include_usage": True}
    assert after == {**before, "model": model, "stream_options": options}
    assert list(after)[: len(before)] == list(before)
    again = peek(out, CHAT)
    assert (again.model, again.include_usage) == (model, True)
    for key, value in members.items():
        if key not in ("model", "stream_options"):
            assert bytes(again.fields[key]) == value
    named = rewrite(body, found, model=model)
    if model == before.get("model"):
        assert named is body
    elif made.model_at >= 0:
        after_model = made.model_at + len(members["model"])
        spliced = body[: made.model_at] + msgspec.json.encode(model) + body[after_model:]
        assert named == spliced


@settings(max_examples=300, deadline=None)
@given(made=bodies(), data=st.data())
def test_a_key_said_twice_is_always_refused(made: Made, data: Any) -> None:
    body = made.body
    assume(made.order)
    key, value = data.draw(st.sampled_from(made.order))
    other = data.draw(st.sampled_from([value, b"null", b'"' + b"a" * 30 + b'"', b"{}"]))
    member = spelled(data.draw, key) + data.draw(SPACES) + b":" + data.draw(SPACES) + other
    if data.draw(st.booleans()):
        at = body.index(b"{") + 1
        twice = body[:at] + member + b"," + body[at:]
    else:
        at = body.rindex(b"}")
        twice = body[:at] + data.draw(SPACES) + b"," + data.draw(SPACES) + member + body[at:]
    assert refused(twice).param == key


@settings(max_examples=300, deadline=None)
@example(b'{"model":"a","x":1')
@example(b"{" + b'"a":{' * 3000)
@given(st.binary(max_size=80) | st.lists(st.sampled_from(
    [b"{", b"}", b'"model"', b":", b",", b'"', b"\\", b"1", b" ", b"null", b'"a"', b"\xff", b"\x00"]
), max_size=24).map(b"".join))  # fmt: skip
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for format in (CHAT, "openai_responses", "anthropic_messages", "gemini", "native"):
        with suppress(GatewayError):
            found = peek(body, format)
            assert msgspec.json.decode(rewrite(body, found, model="m"))["model"] == "m"


@pytest.mark.recorded
def test_recorded_requests_are_read_and_come_back_untouched() -> None:
    seen = 0
    for record in records():
        body = bytes(record.request_body)
        if not body.startswith(b"{"):
            continue
        decoded = msgspec.json.decode(body)
        found = peek(body, record.format)
        if not record.format.startswith("gemini"):
            assert found.model == decoded.get("model"), record.id
            assert found.stream == bool(decoded.get("stream")), record.id
        assert rewrite(body, found) is body
        if found.model is not None:
            renamed = rewrite(body, found, model="another/model")
            assert msgspec.json.decode(renamed) == {**decoded, "model": "another/model"}
            assert len(renamed) == len(body) - len(found.fields["model"]) + 15
        seen += 1
    assert seen > 1500
