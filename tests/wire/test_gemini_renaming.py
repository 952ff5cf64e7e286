"""The model's name inside Gemini's bodies: replaced where there is one, and nothing else."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import envelope
from gateway.wire.gemini_renaming import renamed


def changed(body: bytes, model: str = "to") -> bytes:
    return renamed(body, envelope.peek(body, "native"), model)


def test_every_place_that_says_a_model_says_the_new_one() -> None:
    one = b'{"model": "models/a", "content": {"parts": [{"text": "x"}]}, "n": 1.50}'
    assert changed(b'{"requests": [%b, %b]}' % (one, one)) == b'{"requests":[%b,%b]}' % (
        (b'{"model":"models/to","content":{"parts": [{"text": "x"}]},"n":1.50}',) * 2
    )
    assert changed(b'{"model":"models/a","content":{}}') == b'{"model":"models/to","content":{}}'
    for key in (b"generateContentRequest", b"generate_content_request"):
        counted = b'{"%b":{"contents":[],"model":"models/a"}}' % key
        assert changed(counted) == counted.replace(b"models/a", b"models/to")


@pytest.mark.parametrize(
    "body",
    [
        b'{"contents": [{"parts": [{"text": "model"}]}]}',
        b'{"requests": [{"content": {"model": "models/a"}}, 5]}',
        b'{"requests": {"model": "models/a"}}',
        b'{"generateContentRequest": "model"}',
    ],
)
def test_a_body_that_says_none_is_the_very_same(body: bytes) -> None:
    assert changed(body) is body


@given(
    st.dictionaries(
        st.sampled_from(("model", "requests", "generateContentRequest", "content", "x")),
        st.recursive(
            st.none() | st.integers(-9, 9) | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(("model", "a")), inner, max_size=2)
            ),
            max_leaves=6,
        ),
    )
)
def test_all_else_stays_whatever_it_is(document: dict[str, Any]) -> None:
    found = msgspec.json.decode(changed(msgspec.json.encode(document)))

    def expected(value: Any) -> Any:
        if isinstance(value, dict) and "model" in value:
            return {**value, "model": "models/to"}
        return value

    wanted = expected(document)
    if "generateContentRequest" in wanted:
        wanted = {
            **wanted, "generateContentRequest": expected(wanted["generateContentRequest"])
        }  # fmt: skip
    if isinstance(wanted.get("requests"), list):
        wanted = {**wanted, "requests": [expected(one) for one in wanted["requests"]]}
    assert found == wanted
