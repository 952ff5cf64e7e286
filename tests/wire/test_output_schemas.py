"""Schemas of looser callers as strict providers take them: narrowed, or left alone and told."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import registry
from gateway.wire.format import Toward
from gateway.wire.output_schemas import strict

NOTE = {"anyOf": [{"type": "string"}, {"type": "null"}]}
LOOSE: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "note": NOTE},
    "required": ["a"],
}
CLOSED = {**LOOSE, "additionalProperties": False}
STRICT = {**CLOSED, "required": ["a", "note"]}


def encoded(schema: object) -> bytes:
    return msgspec.json.encode(schema)


def decoded(schema: bytes | None) -> Any:
    return None if schema is None else msgspec.json.decode(schema)


def test_properties_that_may_be_null_become_required_where_all_have_to_be() -> None:
    assert decoded(strict(encoded(LOOSE))) == STRICT
    assert strict(encoded(STRICT)) == encoded(STRICT)
    assert decoded(strict(encoded({"type": "object"})))["additionalProperties"] is False
    listed = {**LOOSE, "properties": {"a": {"type": ["string", "null"]}}, "required": []}
    assert decoded(strict(encoded(listed)))["required"] == ["a"]


@pytest.mark.parametrize(
    "change",
    [
        {"required": ["note"]},
        {"allOf": [{"required": ["a"]}]},
        {"properties": {"a": {"type": "string", "maxLength": 3}, "note": NOTE}},
        {"additionalProperties": True},
        {"additionalProperties": {"type": "string"}},
        {"required": "a"},
        {"properties": []},
        {"properties": {"a": {"$ref": "#/$defs/x"}}, "required": []},
    ],
)
def test_a_schema_that_would_come_to_mean_something_else_is_not_made_strict(
    change: dict[str, Any],
) -> None:
    assert strict(encoded({**LOOSE, **change})) is None


_VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from(["object", "string", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "required",
                    "items",
                    "anyOf",
                    "$defs",
                    "additionalProperties",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_VALUES)
def test_no_schema_breaks_the_narrowing_and_doing_it_twice_changes_nothing(schema: Any) -> None:
    held = strict(encoded(schema))
    assert held is None or strict(held) == held


def messages_request(schema: dict[str, Any]) -> bytes:
    return encoded(
        {
            "model": "m",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "x"}],
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
            "tools": [{"name": "f", "input_schema": schema, "strict": True}],
        }
    )


@pytest.mark.parametrize("target", ["openai_chat", "openai_responses"])
def test_what_anthropic_holds_openai_is_asked_to_hold_or_not_to(target: str) -> None:
    read = registry.DIALECTS["anthropic_messages"].read_request

    def written(schema: dict[str, Any]) -> tuple[list[Any], list[str]]:
        request = read(messages_request(schema), model=None, stream=None)
        body, ignored = registry.DIALECTS[target].write_request(request, Toward("gpt-5", "openai"))
        found = msgspec.json.decode(body)
        if target == "openai_chat":
            output, tool = found["response_format"]["json_schema"], found["tools"][0]["function"]
        else:
            output, tool = found["text"]["format"], found["tools"][0]
        return [output["strict"], output["schema"], tool["strict"], tool["parameters"]], ignored

    assert written(CLOSED) == ([True, STRICT, True, STRICT], [])
    optional = {**CLOSED, "required": ["note"]}
    asked, ignored = written(optional)
    assert asked == [False, optional, False, optional]
    assert ignored == ["output_config.format", "tools.0.strict"]


def test_a_gemini_callers_schema_is_closed_toward_anthropic() -> None:
    body = {
        "contents": [{"parts": [{"text": "x"}]}],
        "generationConfig": {
            "responseMimeType": "application/json",
            "responseJsonSchema": LOOSE,
        },
    }
    request = registry.DIALECTS["gemini"].read_request(encoded(body), model="m", stream=False)
    written, _ = registry.DIALECTS["anthropic_messages"].write_request(
        request, Toward("claude-opus-4-5", "anthropic")
    )
    assert msgspec.json.decode(written)["output_config"]["format"]["schema"] == CLOSED


def test_a_gemini_callers_schema_is_held_to_by_openai_where_it_can_be() -> None:
    def written(schema: dict[str, Any]) -> tuple[Any, list[str]]:
        config = {"responseMimeType": "application/json", "responseJsonSchema": schema}
        body = {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config}
        request = registry.DIALECTS["gemini"].read_request(encoded(body), model="m", stream=False)
        sent, ignored = registry.DIALECTS["openai_chat"].write_request(
            request, Toward("gpt-5", "openai")
        )
        found = msgspec.json.decode(sent)["response_format"]["json_schema"]
        return (found["strict"], found["schema"]), ignored

    assert written(LOOSE) == ((True, STRICT), [])
    for loose in (
        {"type": "array", "items": LOOSE},
        {"anyOf": [LOOSE]},
        {**LOOSE, "anyOf": [LOOSE]},
        {**LOOSE, "required": []},
    ):
        assert written(loose) == ((False, loose), ["generationConfig.responseJsonSchema"])


def test_googles_two_alphabets_of_base64_are_one_to_others() -> None:
    part = {"inlineData": {"mimeType": "image/png", "data": "-_-_-w"}}
    body = encoded({"contents": [{"parts": [part, {"text": "x"}]}]})
    request = registry.DIALECTS["gemini"].read_request(body, model="m", stream=False)
    written, _ = registry.DIALECTS["anthropic_messages"].write_request(
        request, Toward("claude-opus-4-5", "anthropic")
    )
    image = msgspec.json.decode(written)["messages"][0]["content"][0]
    assert image["source"]["data"] == "+/+/+w=="
