"""The demo's pieces on their own: tokens, the prompt cache, switches, values for schemas."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.answer import WORDS, Ask, compose
from gateway.demo.schema import sample
from gateway.demo.switches import SWITCHES, BadSwitch, Switches, parse
from gateway.demo.tokens import CACHE_BLOCK_TOKENS, Mark, PromptCache, count, media_tokens, split


@given(st.text(max_size=200))
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text


@given(st.text(max_size=120), st.integers(0, 60))
def test_any_leading_run_of_tokens_splits_into_itself(text: str, length: int) -> None:
    head = split(text)[:length]
    assert split("".join(head)) == head


def test_english_has_about_four_bytes_to_a_token() -> None:
    text = (
        "A gateway stands between programs and providers, and every call leaves its receipt. " * 9
    )
    assert 3 <= len(text) / count(text) <= 5


def test_every_word_of_the_answers_is_one_token() -> None:
    assert [word for word in WORDS if count(f" {word}") != 1] == []


def test_a_short_prompt_is_never_cached() -> None:
    cache = PromptCache()
    tokens = split("word " * 500)
    assert [cache.implicit("m", tokens), cache.implicit("m", tokens)] == [0, 0]


def test_a_long_prefix_is_cached_from_the_second_time_on_in_whole_blocks() -> None:
    cache = PromptCache()
    shared = split("word " * 1500)
    assert cache.implicit("m", [*shared, "one"]) == 0
    read = cache.implicit("m", [*shared, "two"])
    assert read == len(shared) // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS
    assert cache.implicit("other model", [*shared, "two"]) == 0


def test_a_whole_prompt_is_never_served_from_the_cache() -> None:
    cache = PromptCache()
    tokens = ["x"] * (CACHE_BLOCK_TOKENS * 10)
    cache.implicit("m", tokens)
    assert cache.implicit("m", tokens) == len(tokens) - CACHE_BLOCK_TOKENS


def test_cache_points_write_first_and_read_later_by_lifetime() -> None:
    cache = PromptCache()
    tokens = ["x"] * 3000
    marks = [Mark(1500, "1h"), Mark(2500, "5m")]
    first = cache.explicit("m", tokens, marks)
    assert (first.read, first.written_1h, first.written_5m) == (0, 1500, 1000)
    second = cache.explicit("m", [*tokens[:1500], *["y"] * 1500], marks)
    assert (second.read, second.written_1h, second.written_5m) == (1500, 0, 1000)


def test_the_prompt_cache_forgets_its_oldest_entries() -> None:
    cache = PromptCache(entries_max=20)
    for number in range(50):
        cache.implicit("m", media_tokens(str(number), 2000))
    assert len(cache) == 20
    assert cache.implicit("m", media_tokens("49", 2000)) > 0
    assert cache.implicit("m", media_tokens("0", 2000)) == 0


def test_a_plain_model_name_has_no_switches() -> None:
    assert parse("demo") == ("demo", Switches())


def test_switches_are_read_from_the_model_name() -> None:
    base, switches = parse("gpt-4o+status=429+retry_after=2+delay=10+nousage+framing=close")
    assert base == "gpt-4o"
    assert switches == Switches(status=429, retry_after=2, delay=10, nousage=True, framing="close")


def test_every_documented_switch_is_a_field_and_every_field_documented() -> None:
    assert [switch.name for switch in SWITCHES] != []
    assert {switch.name for switch in SWITCHES} == set(Switches.__struct_fields__)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("demo+stahl=3", "stahl"),
        ("demo+", "''"),
        ("demo+cut", "cut"),
        ("demo+cut=", "cut"),
        ("demo+cut=-1", "cut"),
        ("demo+cut=1.5", "cut"),
        ("demo+cut=٣", "cut"),
        ("demo+delay=600001", "delay"),
        ("demo+status=200", "status"),
        ("demo+status=600", "status"),
        ("demo+reset=no", "reset"),
        ("demo+framing=gzip", "framing"),
        ("demo+pace=1+pace=2", "pace"),
        ("demo+cut=1+stall=2", "stall"),
        ("demo+retry_after=2", "retry_after"),
        ("demo+tokens=99999999999999999999", "tokens"),
    ],
)
def test_a_bad_switch_is_named(model: str, named: str) -> None:
    with pytest.raises(BadSwitch, match=named):
        parse(model)


ADDRESS = {
    "type": "object",
    "properties": {"street": {"type": "string"}, "number": {"type": "integer"}},
    "required": ["street"],
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (ADDRESS, {"street": "demo street"}),
        ({"type": "object", "properties": {"a": {"type": "boolean"}}}, {"a": True}),
        ({"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}, {"a": "demo a"}),
        ({"enum": ["red", "blue"]}, "red"),
        ({"const": 7}, 7),
        ({"type": "integer", "minimum": 10}, 10),
        ({"type": "integer", "exclusiveMinimum": 10}, 11),
        ({"type": "integer", "exclusiveMinimum": 2.5}, 3),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "number", "exclusiveMaximum": 1}, 0.5),
        ({"type": "integer", "multipleOf": 5, "minimum": 7}, 10),
        ({"type": "string", "minLength": 12}, "demo valuexx"),
        ({"type": "string", "maxLength": 3}, "dem"),
        ({"type": "string", "format": "date"}, "2026-01-02"),
        ({"type": "array", "items": {"type": "integer"}}, [1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, []),
        ({"type": ["null", "integer"]}, 1),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 1),
        ({"allOf": [ADDRESS, {"required": ["number"]}]}, {"street": "demo street", "number": 1}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, 1),
        ({"type": "null"}, None),
    ],
)
def test_a_sample_satisfies_its_schema(schema: dict[str, Any], value: Any) -> None:
    assert sample(schema) == value


def test_a_schema_that_doubles_at_every_step_is_sampled_in_bounds() -> None:
    node: dict[str, Any] = {"type": "object", "required": ["l", "r"]}
    node["properties"] = {"l": {"$ref": "#/$defs/n"}, "r": {"$ref": "#/$defs/n"}}
    value = sample({"$ref": "#/$defs/n", "$defs": {"n": node}})
    assert isinstance(value, dict)


def test_a_tree_that_may_end_ends() -> None:
    child = {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}
    node = {"type": "object", "properties": {"l": child, "r": child}, "required": ["l", "r"]}
    value = sample({"$ref": "#/$defs/n", "$defs": {"n": node}})
    assert str(value).count("None") < 40


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_KEYWORDS = st.sampled_from(
    [
        *("type", "properties", "required", "items", "enum", "anyOf", "allOf", "$ref", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minItems", "maxItems", "minLength", "maxLength", "prefixItems"),
    ]
)
_VALUES = _SCALARS | st.sampled_from(["object", "array", "string", "integer", "number", "#/a"])
_SCHEMAS = st.recursive(
    _VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYWORDS, inner, max_size=5),
    max_leaves=12,
)


@given(_SCHEMAS)
def test_no_schema_however_odd_breaks_the_sampler(schema: Any) -> None:
    sample(schema)


def test_the_same_question_gets_the_same_answer_and_another_another() -> None:
    ask = Ask(prompt=("a",), user_text="a")
    assert compose(ask) == compose(ask)
    assert compose(ask).text != compose(Ask(prompt=("b",), user_text="a")).text


@given(st.text(max_size=80), st.integers(0, 60), st.integers(0, 60))
def test_an_answer_never_exceeds_its_budget(text: str, budget: int, thinking: int) -> None:
    ask = Ask(
        prompt=tuple(split(text)), user_text=text, max_tokens=budget, thinking_tokens=thinking
    )
    answer = compose(ask)
    assert answer.output_tokens <= budget
    assert count(answer.plain_text) == len(answer.text)
