"""`routing.Router`: model name -> targets, in the order of the README."""

from typing import Any

import pytest

from gateway import config as cfg
from gateway.errors import GatewayError
from gateway.ledger.catalog import Catalog
from gateway.proxy import providers as runtime
from gateway.proxy.routing import CACHE_MAX, Route, Router

TEXT = """
[providers.openai]
format = "openai"
base_url = "https://api.openai.test/v1"
keys = ["k1", "k2"]

[providers.anthropic]
format = "anthropic"
base_url = "https://api.anthropic.test/v1"
keys = ["k"]

[providers.google]
format = "gemini"
base_url = "https://google.test/v1beta"
keys = ["env:GATEWAY_NO_SUCH_KEY"]

[providers.mirror]
format = "openai"
base_url = "http://mirror.test:8080"
catalog = "openai"

[providers.unpriced]
format = "openai"
base_url = "http://unpriced.test"

[models.premium]
targets = ["anthropic/claude-opus-4-5", "openai/gpt-4o", "mirror/gpt-4o", "unpriced/x"]

[models.gpt-4o-mini]
targets = ["mirror/gpt-4o"]

[models.dead]
targets = ["google/gemini-2.5-flash"]

[models.free]
targets = ["unpriced/x"]

[model_map]
"gpt-3.5*" = "premium"
"claude-?" = "anthropic/claude-opus-4-5"
"loop*" = "loop-1"
"""


def router() -> Router:
    config = cfg.parse(TEXT)
    return Router(config, runtime.build(config, None), Catalog.load())


def targets(route: Route) -> list[tuple[str, str]]:
    return [(one.provider.name, one.model) for one in route.targets]


@pytest.mark.parametrize(
    ("model", "family", "named", "expected"),
    [
        ("premium", "openai", None, [("openai", "gpt-4o"), ("mirror", "gpt-4o")]),
        ("premium", "anthropic", None, [("anthropic", "claude-opus-4-5")]),
        ("gpt-4o-mini", "openai", None, [("mirror", "gpt-4o")]),
        ("gpt-4o", "openai", None, [("openai", "gpt-4o"), ("mirror", "gpt-4o")]),
        ("gpt-4o-2024-08-06", "openai", None,
         [("openai", "gpt-4o-2024-08-06"), ("mirror", "gpt-4o-2024-08-06")]),
        ("openai/gpt-4o", "openai", None, [("openai", "gpt-4o")]),
        ("mirror/gpt-4o", "openai", None, [("mirror", "gpt-4o")]),
        ("gpt-3.5-turbo-anything", "openai", None, [("openai", "gpt-4o"), ("mirror", "gpt-4o")]),
        ("claude-9", "anthropic", None, [("anthropic", "claude-opus-4-5")]),
        ("gpt-4o", "openai", "mirror", [("mirror", "gpt-4o")]),
        ("openai/gpt-4o", "openai", "openai", [("openai", "gpt-4o")]),
    ],
)  # fmt: skip
def test_a_gateway_key_is_routed(
    model: str, family: Any, named: str | None, expected: list[tuple[str, str]]
) -> None:
    assert targets(router().route(model, family, named)) == expected


@pytest.mark.parametrize(
    ("model", "family", "code", "says"),
    [
        ("nothing", "openai", "unknown_model_pricing", "nothing"),
        ("free", "openai", "unknown_model_pricing", "free"),
        ("openai/", "openai", "unknown_model_pricing", "openai/"),
        ("nobody/gpt-4o", "openai", "unknown_model_pricing", "nobody/gpt-4o"),
        ("loop-2", "openai", "unknown_model_pricing", "loop-2"),
        ("", "openai", "unknown_model_pricing", ""),
        ("dead", "gemini", "no_active_api_keys", "google"),
        ("claude-opus-4-5", "openai", "unsupported_parameter", "claude-opus-4-5"),
        ("gpt-4o", "gemini", "unsupported_parameter", "gpt-4o"),
    ],
)
def test_a_gateway_key_is_refused_what_cannot_be_priced_or_served(
    model: str, family: Any, code: str, says: str
) -> None:
    with pytest.raises(GatewayError) as refused:
        router().route(model, family, None)
    assert refused.value.code == code
    assert refused.value.stage == "routing"
    assert says in refused.value.message


@pytest.mark.parametrize(
    ("model", "family", "named", "expected"),
    [
        ("gpt-4o", "openai", None, ("openai", "gpt-4o")),
        ("no-such-model", "openai", None, ("openai", "no-such-model")),
        ("claude-opus-4-5", "anthropic", None, ("anthropic", "claude-opus-4-5")),
        ("gemini-2.5-flash", "gemini", None, ("google", "gemini-2.5-flash")),
        ("mirror/any", "openai", None, ("mirror", "any")),
        ("openai/gpt-4o", "openai", None, ("openai", "gpt-4o")),
        ("anthropic/claude", "openai", None, ("openai", "anthropic/claude")),
        ("premium", "openai", None, ("openai", "gpt-4o")),
        ("premium", "anthropic", None, ("anthropic", "claude-opus-4-5")),
        ("any", "openai", "mirror", ("mirror", "any")),
    ],
)
def test_a_callers_own_key_goes_to_the_owner_of_the_format(
    model: str, family: Any, named: str | None, expected: tuple[str, str]
) -> None:
    assert targets(router().own(model, family, named)) == [expected]


def test_routes_are_remembered_within_a_bound() -> None:
    table = router()
    for number in range(CACHE_MAX + 10):
        table.own(f"made-up-{number}", "openai", None)
    assert len(table._own) <= CACHE_MAX
    assert table.route("gpt-4o", "openai", None) is table.route("gpt-4o", "openai", None)


def test_an_owner_that_is_not_configured_is_not_found() -> None:
    config = cfg.parse('[providers.openai]\nformat = "openai"\nbase_url = "https://x.test"')
    table = Router(config, runtime.build(config, None), Catalog.load())
    with pytest.raises(GatewayError) as refused:
        table.own("claude", "anthropic", None)
    assert refused.value.code == "not_found"
    with pytest.raises(GatewayError) as refused:
        table.own("claude", "anthropic", "openai")
    assert "does not speak" in refused.value.message


def test_keys_of_a_provider_take_turns() -> None:
    found = runtime.build(cfg.parse(TEXT), None)
    assert [found["openai"].next_key() for _ in range(4)] == [b"k1", b"k2", b"k1", b"k2"]
    assert found["mirror"].next_key() is None
    assert found["mirror"].active
    assert not found["google"].active
    base = found["mirror"].bases["openai"]
    assert (base.origin.netloc, base.prefix) == ("mirror.test:8080", "")
    assert found["openai"].bases["openai"].origin.netloc == "api.openai.test"
