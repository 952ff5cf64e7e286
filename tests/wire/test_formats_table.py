"""The page about what is lost between formats: made from the code, and the code keeps to it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from translation_cases import PAIRS, requests

from gateway.errors import GatewayError
from gateway.wire import build_table, registry
from gateway.wire import embeddings_translation as embeddings
from gateway.wire.conversation import Feature, Request, Support
from gateway.wire.format import Dialect
from gateway.wire.translate import losses

PAGE = Path(__file__).resolve().parents[2] / "docs/formats.md"


def test_the_page_is_what_the_dialects_say() -> None:
    assert PAGE.read_text() == build_table.page(registry.DIALECTS)


@pytest.mark.parametrize("name", registry.DIALECTS)
def test_every_format_says_of_every_feature_what_it_makes_of_it(name: str) -> None:
    support = registry.DIALECTS[name].support
    assert set(support) == set(build_table.WORDS)
    assert set(support.values()) <= {"yes", "ignored", "refused"}


class Plain:
    """As much of a dialect as the table needs."""

    def __init__(self, name: str, support: dict[Feature, Support]) -> None:
        self.name = name
        self.support: dict[Feature, Support] = {
            **dict.fromkeys(build_table.WORDS, "refused"), **support,
        }  # fmt: skip


def test_a_cell_has_what_the_caller_can_ask_and_the_target_cannot_be_asked() -> None:
    yes: dict[Feature, Support] = dict.fromkeys(build_table.WORDS, "yes")
    lacks: dict[Feature, Support] = {"tools": "refused", "seed": "ignored", "background": "refused"}
    chat: Dialect = Plain("openai_chat", yes)  # type: ignore[assignment]
    other: Dialect = Plain("b", yes | lacks)  # type: ignore[assignment]
    assert build_table.lost(chat, other, "refused") == [build_table.WORDS["tools"]]
    assert build_table.lost(chat, other, "ignored") == [build_table.WORDS["seed"]]
    shown = build_table.page({"openai_chat": chat, "b": other})
    assert "\n## From OpenAI chat\n\n| to | refused | ignored |\n|---|---|---|\n" in shown
    assert f"| b | {build_table.WORDS['tools']} | {build_table.WORDS['seed']} |\n" in shown
    assert "| OpenAI chat | nothing | nothing |\n" in shown


def test_a_format_that_is_new_is_taken_to_ask_for_everything() -> None:
    new: Dialect = Plain("new", {})  # type: ignore[assignment]
    assert build_table.lost(new, new, "refused") == list(build_table.WORDS.values())


@pytest.mark.recorded
@pytest.mark.parametrize("name", registry.DIALECTS)
def test_what_a_format_is_said_not_to_ask_for_nobody_asked_for(name: str) -> None:
    asked = {
        feature
        for _, document in requests(name)
        for feature in registry.DIALECTS[name].read_request(
            msgspec.json.encode({"model": "m", **document}), model="m", stream=False
        ).spelled
    }  # fmt: skip
    assert len(asked) > 10
    assert not asked & build_table.UNSPOKEN[name]


@pytest.mark.parametrize("pair", PAIRS, ids="->".join)
def test_what_the_page_says_is_what_happens(pair: tuple[str, str]) -> None:
    caller, target = (registry.DIALECTS[name] for name in pair)
    for feature in build_table.WORDS:
        request = Request(
            format=caller.name, model="m", stream=False, spelled={feature: f"its.{feature}"}
        )
        match target.support[feature]:
            case "refused":
                with pytest.raises(GatewayError) as refused:
                    losses(request, target)
                assert refused.value.code == "unsupported_parameter"
                assert refused.value.param == f"its.{feature}"
                assert f"its.{feature}" in refused.value.message
            case "ignored":
                assert losses(request, target) == [f"its.{feature}"]
            case "yes":
                assert losses(request, target) == []


def test_fields_that_nobody_knows_are_told_as_ignored() -> None:
    request = Request(format="a", model="m", stream=False, unknown=("x_one", "deep.two"))
    for target in registry.DIALECTS.values():
        assert losses(request, target) == ["x_one", "deep.two"]
        both = msgspec.structs.replace(request, spelled={"tools": "tools"})
        assert losses(both, target) == ["x_one", "deep.two"]


TEXT: Any = {"content": {"parts": [{"text": "a"}]}}
EMBEDDINGS: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "OpenAI": (
        lambda more: embeddings.read_openai(msgspec.json.encode({"input": "a", **more})),
        [({"input": [1, 2]}, "input as numbers of tokens")],
        ("user",),
    ),
    "Gemini": (
        lambda more: embeddings.read_gemini(
            msgspec.json.encode({"requests": [{**TEXT, **more}, TEXT]}), "batchEmbedContents"
        ),
        [
            ({"content": {"parts": [{"inlineData": {}}]}}, "content other than text"),
            ({"outputDimensionality": 3}, "several `outputDimensionality` in one batch"),
        ],
        ("taskType", "title"),
    ),
}


@pytest.mark.parametrize("caller", EMBEDDINGS)
def test_what_the_page_says_of_embeddings_is_what_happens(caller: str) -> None:
    read, refused, ignored = EMBEDDINGS[caller]
    section = PAGE.read_text().partition("## Embeddings")[2].partition("\n## ")[0]
    (row,) = (line for line in section.splitlines() if line.startswith(f"| {caller} | "))
    _, _, _, told_refused, told_ignored, _ = row.split("|")
    assert [words.strip() for words in told_refused.split(";")] == [words for _, words in refused]
    for more, _ in refused:
        with pytest.raises(GatewayError) as told:
            read(more)
        assert told.value.code == "unsupported_parameter"
    asked = read({**dict.fromkeys(ignored, "x"), "other": 1})
    assert {name.rpartition(".")[2] for name in asked.left_out} == {*ignored, "other"}
    assert all(f"`{name}`" in told_ignored for name in ignored)
