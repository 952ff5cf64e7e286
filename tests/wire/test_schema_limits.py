"""What a provider cannot hold an answer to is said in words and told, or refused by its field.

What Anthropic takes is checked by the demo's own reading of its rules (`gateway/demo/strictness`).
"""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.strictness import anthropic_output
from gateway.errors import GatewayError
from gateway.wire import registry
from gateway.wire.format import Toward

CLAUDE = Toward("claude-opus-4-5", "anthropic", 8192)
GEMINI = Toward("gemini-2.5-pro", "google", 8192)
FIELDS = {
    "openai_chat": "response_format",
    "openai_responses": "text.format",
    "gemini": "generationConfig.responseJsonSchema",
}
NUMBER = {"type": "integer", "description": "How many.", "minimum": 0, "maximum": 9}


def asks(caller: str, schema: Any, *, strict_tool: Any = None) -> bytes:
    """A question whose answer, or the arguments of whose tool, are to be of a schema."""
    document: dict[str, Any]
    match caller:
        case "openai_chat":
            document = {"model": "m", "messages": [{"role": "user", "content": "Go"}]}
            if schema is not None:
                form = {"name": "x", "strict": True, "schema": schema}
                document["response_format"] = {"type": "json_schema", "json_schema": form}
            if strict_tool is not None:
                function = {"name": "f", "strict": True, "parameters": strict_tool}
                document["tools"] = [{"type": "function", "function": function}]
        case "openai_responses":
            form = {"type": "json_schema", "name": "x", "strict": True, "schema": schema}
            document = {"model": "m", "input": "Go", "text": {"format": form}}
        case _:
            config = {"responseMimeType": "application/json", "responseJsonSchema": schema}
            document = {"contents": [{"parts": [{"text": "Go"}]}], "generationConfig": config}
    return msgspec.json.encode(document)


def written(caller: str, upstream: str, body: bytes, toward: Toward) -> tuple[Any, list[str]]:
    model, stream = ("m", False) if caller == "gemini" else (None, None)
    request = registry.DIALECTS[caller].read_request(body, model=model, stream=stream)
    out, ignored = registry.DIALECTS[upstream].write_request(request, toward)
    return msgspec.json.decode(out), ignored


def to_claude(schema: Any, caller: str = "openai_chat") -> tuple[Any, list[str]]:
    found, ignored = written(caller, "anthropic_messages", asks(caller, schema), CLAUDE)
    return found["output_config"]["format"]["schema"], ignored


def to_gemini(schema: Any) -> tuple[Any, list[str]]:
    found, ignored = written("openai_chat", "gemini", asks("openai_chat", schema), GEMINI)
    return found["generationConfig"]["responseJsonSchema"], ignored


def an_object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": [*properties],
        "additionalProperties": False,
    }  # fmt: skip


# --- Anthropic --------------------------------------------------------------------------------


@pytest.mark.parametrize("caller", FIELDS)
def test_bounds_are_said_to_claude_in_words_and_told_to_the_caller(caller: str) -> None:
    schema, ignored = to_claude(an_object(n=NUMBER), caller)
    words = 'How many.\nMust hold too: {"minimum":0,"maximum":9}'
    assert schema == an_object(n={"type": "integer", "description": words})
    assert ignored == [f"{FIELDS[caller]}.minimum", f"{FIELDS[caller]}.maximum"]


@pytest.mark.parametrize(
    ("inner", "left", "words"),
    [
        ({"type": "string", "minLength": 2, "maxLength": 5}, {"type": "string"},
         '{"minLength":2,"maxLength":5}'),
        ({"type": "number", "multipleOf": 0.5}, {"type": "number"}, '{"multipleOf":0.5}'),
        ({"type": "array", "items": {"type": "null"}, "minItems": 3, "uniqueItems": True},
         {"type": "array", "items": {"type": "null"}, "minItems": 1},
         '{"uniqueItems":true,"minItems":3}'),
        ({"type": "string", "format": "uint8"}, {"type": "string"}, '{"format":"uint8"}'),
        ({"type": "string", "pattern": "^(?=a)"}, {"type": "string"}, '{"pattern":"^(?=a)"}'),
        ({"oneOf": [{"type": "null"}]}, {"anyOf": [{"type": "null"}]}, '{"oneOf":"exactly one"}'),
        ({"type": "string", "not": {"const": "x", "minLength": 1}}, {"type": "string"},
         '{"not":{"const":"x","minLength":1}}'),
    ],
)  # fmt: skip
def test_a_word_that_claude_has_not_is_said_where_it_stands(
    inner: Any, left: Any, words: str
) -> None:
    schema, ignored = to_claude(an_object(n=inner))
    assert schema == an_object(n={**left, "description": "Must hold too: " + words})
    assert {one.rpartition(".")[2] for one in ignored} == set(msgspec.json.decode(words))


def test_what_claude_holds_to_stays_as_it_is() -> None:
    some: Any = {"type": "array", "items": {"enum": ["a", 1]}, "minItems": 1}
    named = an_object(
        minimum={"type": "string", "pattern": "^[a-z]+$"},
        at={"type": "string", "format": "date-time"},
        some=some,
        either={"anyOf": [{"const": 1}, {"type": "null"}]},
    )
    assert to_claude(named) == (named, [])


def test_an_object_that_does_not_say_so_is_closed_wherever_it_stands() -> None:
    loose: dict[str, Any] = {**an_object(a={"type": "string"})}
    del loose["additionalProperties"]
    closed = {**loose, "additionalProperties": False}
    either = {**loose, "type": ["object", "null"]}
    outer = {**loose, "properties": {"b": {"type": "array", "items": loose}, "c": either}}
    outer |= {"$defs": {"d": loose}, "anyOf": [loose]}
    schema, ignored = to_claude(outer)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["b"]["items"] == closed
    assert schema["properties"]["c"] == {**either, "additionalProperties": False}
    assert (schema["$defs"]["d"], schema["anyOf"], ignored) == (closed, [closed], [])


TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": an_object(next={"$ref": "#/$defs/list"}),
        "list": {"type": "array", "items": {"$ref": "#/$defs/node"}},
    },
}
SHAPES = {
    "names of any kind": an_object(n={"type": "object", "additionalProperties": {"type": "null"}}),
    "anything more": {"type": "object", "additionalProperties": True},
    "a tree": TREE,
    "itself": an_object(child={"$ref": "#"}),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("caller", FIELDS)
def test_a_shape_that_claude_cannot_give_is_refused_by_the_callers_field(
    caller: str, shape: str
) -> None:
    with pytest.raises(GatewayError) as refused:
        to_claude(SHAPES[shape], caller)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", FIELDS[caller])


def test_definitions_that_are_used_twice_are_no_circle() -> None:
    twice = an_object(a={"$ref": "#/$defs/d"}, b={"$ref": "#/$defs/d"})
    schema = {**twice, "$defs": {"d": an_object(x={"type": "null"})}}
    assert to_claude(schema) == (schema, [])


def test_a_strict_tool_keeps_its_shape_or_is_not_strict_and_both_are_told() -> None:
    def tool(schema: Any) -> tuple[Any, list[str]]:
        body = asks("openai_chat", None, strict_tool=schema)
        found, ignored = written("openai_chat", "anthropic_messages", body, CLAUDE)
        return found["tools"][0], ignored

    bounded, ignored = tool(an_object(n={"type": "integer", "minimum": 0}))
    assert bounded["strict"] is True
    assert "minimum" not in bounded["input_schema"]["properties"]["n"]
    assert ignored == ["tools.minimum"]
    tree = {**TREE, "type": "object", "additionalProperties": False}
    circular, ignored = tool(tree)
    assert "strict" not in circular
    assert circular["input_schema"] == tree
    assert ignored == ["tools[0].function.strict"]


# --- Gemini -----------------------------------------------------------------------------------


def test_what_gemini_would_pass_over_in_silence_is_said_in_words_and_told() -> None:
    schema, ignored = to_gemini(an_object(n={"type": "string", "pattern": "^a", "maxLength": 3}))
    words = 'Must hold too: {"pattern":"^a","maxLength":3}'
    assert schema == an_object(n={"type": "string", "description": words})
    assert ignored == ["response_format.pattern", "response_format.maxLength"]


def test_what_gemini_spells_otherwise_is_spelled_so() -> None:
    kind = {"const": "cat", "title": "Kind"}
    owner = {"$ref": "#/$defs/d", "description": "Whose."}
    definitions = {"$defs": {"d": {"type": "string"}}}
    schema, ignored = to_gemini({**an_object(kind=kind, owner=owner), **definitions})
    assert schema["properties"] == {
        "kind": {"title": "Kind", "enum": ["cat"], "type": "string"},
        "owner": {"description": "Whose.", "anyOf": [{"$ref": "#/$defs/d"}]},
    }
    assert ignored == []


def test_what_gemini_knows_stays_as_it_is() -> None:
    known = an_object(n=NUMBER, some={"type": "array", "items": {"$ref": "#/$defs/d"}})
    known |= {"$defs": {"d": an_object(next={"$ref": "#/$defs/d"})}}
    assert to_gemini(known) == (known, [])


# --- any schema -------------------------------------------------------------------------------

_WORDS = (
    "type", "properties", "required", "items", "anyOf", "oneOf", "$defs", "$ref", "minimum",
    "maxLength", "minItems", "additionalProperties", "const", "not", "pattern", "format", "",
)  # fmt: skip
_SCHEMAS = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(["object", "string", "#/$defs/a", "#", 0, 2, ["object", "null"]]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*_WORDS, "a"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(_WORDS), _SCHEMAS, max_size=5))
def test_claude_is_sent_no_schema_that_it_refuses_and_gemini_is_sent_any(schema: Any) -> None:
    with contextlib.suppress(GatewayError):  # one that it cannot give
        sent, _ = to_claude(schema)
        assert anthropic_output(sent) is None
        assert to_claude(sent) == (sent, [])
    relaxed, _ = to_gemini(schema)
    assert to_gemini(relaxed) == (relaxed, [])
