"""`routing.Router`: model name -> targets, in the order of the README, and what admins change."""

from typing import Any

import pytest

from gateway import config as cfg
from gateway.errors import GatewayError
from gateway.ledger.catalog import Catalog
from gateway.ledger.records import ModelSettings, ProviderSettings
from gateway.proxy import providers as runtime
from gateway.proxy.endpoints import COMPACTING
from gateway.proxy.overlay import KNOWN_MAX
from gateway.proxy.routing import CACHE_MAX, Offer, Route, Router, Target

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

[models.shared]
targets = ["google/gemini-2.5-flash", "mirror/gpt-4o", "anthropic/claude-opus-4-5", "openai/gpt-4o"]
strategy = "weighted"
weights = [7, 1, 2, 4]

[models.even]
targets = ["mirror/gpt-4o", "openai/gpt-4o"]
strategy = "weighted"

[models.quick]
targets = ["mirror/gpt-4o", "openai/gpt-4o"]
strategy = "latency"

[model_map]
"gpt-3.5*" = "premium"
"claude-?" = "anthropic/claude-opus-4-5"
"loop*" = "loop-1"
"split-*" = "shared"
"""
CATALOG = Catalog.load()


def router(*models: ModelSettings) -> Router:
    config = cfg.parse(TEXT)
    settings = {(one.provider, one.model): one for one in models}
    return Router(config, runtime.build(config, None), CATALOG, settings)


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


def test_providers_are_built_from_the_configuration() -> None:
    found = runtime.build(cfg.parse(TEXT), None)
    keys = [found["openai"].pool.next_key("m", 0.0) for _ in range(4)]
    assert [key.text for key in keys if key] == [b"k1", b"k2", b"k1", b"k2"]
    assert found["mirror"].keyless
    assert found["mirror"].active
    assert not found["google"].active
    base = found["mirror"].bases["openai"]
    assert (base.origin.netloc, base.prefix) == ("mirror.test:8080", "")
    assert found["openai"].bases["openai"].origin.netloc == "api.openai.test"


# --- strategies -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["shared", "split-anything"])
def test_weights_stay_with_their_targets_when_others_cannot_serve(model: str) -> None:
    route = router().route(model, "openai", None)
    assert targets(route) == [("mirror", "gpt-4o"), ("openai", "gpt-4o")]
    assert (route.strategy, route.weights) == ("weighted", (1, 4))


def test_a_route_has_the_strategy_of_its_alias_and_failover_without_one() -> None:
    table = router()
    even, quick = table.route("even", "openai", None), table.route("quick", "openai", None)
    assert (even.strategy, even.weights) == ("weighted", (1, 1))
    assert (quick.strategy, quick.weights) == ("latency", ())
    for model in ("premium", "gpt-4o", "openai/gpt-4o"):
        assert table.route(model, "openai", None).strategy == "failover"


# --- what admins set about models -------------------------------------------------------------


def test_a_session_is_compacted_by_a_responses_api_or_by_nobody() -> None:
    text = TEXT.replace('catalog = "openai"', 'catalog = "openai"\nresponses = false')
    config = cfg.parse(text)
    table = Router(config, runtime.build(config, None), CATALOG, {})
    assert targets(table.route("gpt-4o", "openai", None, COMPACTING)) == [("openai", "gpt-4o")]
    assert table.route("gpt-4o", "openai", None, COMPACTING).targets[0].speaks is None
    for name in ("mirror/gpt-4o", "anthropic/claude-opus-4-5"):
        with pytest.raises(GatewayError) as refused:
            table.route(name, "openai", None, COMPACTING)
        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "model")
        assert "has no Responses API" in refused.value.message


def target(table: Router, provider: str, model: str) -> Target:
    return table.route(f"{provider}/{model}", "openai", None).targets[0]


def test_a_disabled_model_is_no_target() -> None:
    table = router(ModelSettings("openai", "gpt-4o", enabled=False))
    assert targets(table.route("gpt-4o", "openai", None)) == [("mirror", "gpt-4o")]
    assert targets(table.route("premium", "openai", None)) == [("mirror", "gpt-4o")]
    for name in ("openai/gpt-4o", "openai/gpt-4o-2024-08-06", "openai/GPT-4o"):
        with pytest.raises(GatewayError) as refused:
            table.route(name, "openai", None)
        assert (refused.value.code, refused.value.stage) == ("not_found", "routing")
        assert refused.value.message == f"Model {name} is disabled"
    assert targets(table.route("openai/gpt-4o-mini", "openai", None)) == [("openai", "gpt-4o-mini")]


def test_a_callers_own_key_reaches_a_disabled_model() -> None:
    table = router(ModelSettings("openai", "gpt-4o", enabled=False))
    assert targets(table.own("gpt-4o", "openai", None)) == [("openai", "gpt-4o")]


def test_a_price_override_goes_before_the_catalog_with_a_version_of_its_own() -> None:
    price = {"input": "7", "output": "0.000000001"}
    table = router(ModelSettings("openai", "gpt-4o", price=price))
    known = table.known(target(table, "openai", "gpt-4o"))
    assert known is not None
    assert (known.price.input, known.price.output) == (7_000_000_000, 1)
    assert known.price.cache_read is None
    assert known.price_version.startswith("override:")
    assert known.context_length == 128_000
    mirrored = table.known(target(table, "mirror", "gpt-4o"))
    assert mirrored is not None
    assert mirrored.price.input == 2_500_000_000
    assert mirrored.price_version == CATALOG.version
    same = router(ModelSettings("openai", "gpt-4o", price=dict(reversed(price.items()))))
    other = router(ModelSettings("openai", "gpt-4o", price={**price, "input": "8"}))
    versions = [
        one.price_version
        for each in (same, other)
        if (one := each.known(target(each, "openai", "gpt-4o"))) is not None
    ]
    assert versions[0] == known.price_version != versions[1]


@pytest.mark.parametrize("spelling", ["gpt-4o", "gpt-4o-2024-08-06", "GPT-4O", "models/gpt-4o"])
def test_what_is_set_for_a_listed_model_holds_for_its_other_spellings(spelling: str) -> None:
    table = router(ModelSettings("openai", "gpt-4o", multiplier="3", price={"input": "9"}))
    one = target(table, "openai", spelling)
    assert table.multiplier(one) == "3"
    known = table.known(one)
    assert known is not None
    assert known.price.input == 9_000_000_000


def test_a_spelling_with_settings_of_its_own_goes_by_those_alone() -> None:
    table = router(
        ModelSettings("openai", "gpt-4o", multiplier="3"),
        ModelSettings("openai", "gpt-4o-2024-08-06", multiplier="2"),
    )
    assert table.multiplier(target(table, "openai", "gpt-4o-2024-08-06")) == "2"
    assert table.multiplier(target(table, "openai", "gpt-4o")) == "3"
    assert table.multiplier(target(table, "openai", "gpt-4o-mini")) == "1"
    assert table.multiplier(target(table, "mirror", "gpt-4o")) == "1"


def test_a_model_that_the_catalog_does_not_know_is_callable_at_its_own_price() -> None:
    settings = ModelSettings(
        "unpriced", "llama3", price={"input": "0.05", "output": "0.1"},
        context_length=8192, max_output_tokens=2048,
    )  # fmt: skip
    table = router(settings)
    route = table.route("unpriced/llama3", "openai", None)
    assert targets(route) == [("unpriced", "llama3")]
    known = table.known(route.targets[0])
    assert known is not None
    assert (known.id, known.price.output) == ("llama3", 100_000_000)
    assert (known.context_length, known.max_output_tokens) == (8192, 2048)
    with pytest.raises(GatewayError) as refused:
        table.route("unpriced/llama4", "openai", None)
    assert refused.value.code == "unknown_model_pricing"


def test_without_a_price_settings_do_not_make_a_model_free() -> None:
    with pytest.raises(GatewayError) as refused:
        router(ModelSettings("unpriced", "llama3", multiplier="2")).route(
            "unpriced/llama3", "openai", None
        )
    assert refused.value.code == "unknown_model_pricing"


@pytest.mark.parametrize(
    "settings",
    [
        ModelSettings("openai", "gpt-4o", price={"output": "1"}),
        ModelSettings("openai", "gpt-4o", price={"input": "1", "words": "1"}),
        ModelSettings("openai", "gpt-4o", price={"input": "-1"}),
        ModelSettings("openai", "gpt-4o", price={"input": "1e3"}),
        ModelSettings("openai", "gpt-4o", multiplier="-2"),
        ModelSettings("openai", "gpt-4o", multiplier="a lot"),
        ModelSettings("openai", "gpt-4o", multiplier="NaN"),
        ModelSettings("openai", "gpt-4o", multiplier="Infinity"),
        ModelSettings("openai", "gpt-4o", price={"input": "1", "tiers": "1"}),
    ],
)
def test_settings_that_cannot_be_billed_by_leave_the_model_without_a_price(
    settings: ModelSettings, caplog: pytest.LogCaptureFixture
) -> None:
    table = router(settings)
    with pytest.raises(GatewayError) as refused:
        table.route("openai/gpt-4o", "openai", None)
    assert refused.value.code == "unknown_model_pricing"
    assert "openai/gpt-4o" in caplog.text
    assert targets(table.route("gpt-4o", "openai", None)) == [("mirror", "gpt-4o")]


def test_a_scheduled_price_changes_under_settings_that_leave_it_alone() -> None:
    now = [1_800_000_000.0]
    catalog = Catalog.load(clock=lambda: now[0])
    config = cfg.parse('[providers.deepseek]\nformat = "openai"\nbase_url = "http://d.test"\n')
    name = next(
        one.id
        for one in catalog.models("deepseek")
        if len({price_at(catalog, now, one.id, hour) for hour in range(24)}) > 1
    )
    settings = {("deepseek", name): ModelSettings("deepseek", name, max_output_tokens=5)}
    table = Router(config, runtime.build(config, None), catalog, settings)
    route = table.route(name, "openai", None)
    seen = set()
    for hour in range(24):
        now[0] = 1_800_000_000.0 + hour * 3600
        known = table.known(route.targets[0])
        assert known is not None
        assert known.max_output_tokens == 5
        assert known.price.input == price_at(catalog, now, name, hour)
        seen.add(known.price.input)
    assert len(seen) > 1


def price_at(catalog: Catalog, now: list[float], name: str, hour: int) -> int:
    now[0] = 1_800_000_000.0 + hour * 3600
    found = catalog.find("deepseek", name)
    assert found is not None
    return found.price.input


def test_prices_of_side_passes_follow_the_settings_too() -> None:
    table = router(ModelSettings("openai", "gpt-4o-mini", price={"input": "5"}))
    price_of = table.price_of(target(table, "openai", "gpt-4o"))
    mini, plain = price_of("gpt-4o-mini"), price_of("gpt-4o")
    assert mini is not None
    assert plain is not None
    assert (mini.input, plain.input) == (5_000_000_000, 2_500_000_000)
    assert price_of("no-such-model") is None


def test_models_with_settings_are_remembered_within_a_bound() -> None:
    table = router(ModelSettings("openai", "gpt-4o", multiplier="2"))
    route = table.route("openai/gpt-4o", "openai", None).targets[0]
    for number in range(KNOWN_MAX + 10):
        table.known(Target(route.provider, route.base, f"gpt-4o-{number}"))
    assert len(table._overlay._known) <= KNOWN_MAX
    assert table.known(route) is table.known(route)


def test_offers_are_what_can_be_called_at_what_it_costs() -> None:
    table = router(
        ModelSettings("openai", "gpt-4o", enabled=False),
        ModelSettings("openai", "gpt-4o-mini", multiplier="1.5"),
        ModelSettings("unpriced", "llama3", price={"input": "1"}, multiplier="2"),
        ModelSettings("unpriced", "off", price={"input": "1"}, enabled=False),
        ModelSettings("unpriced", "nameless", multiplier="2"),
    )
    found = runtime.build(cfg.parse(TEXT), None)
    offered = {one.id: one for one in table.offers(found["openai"])}
    assert "gpt-4o" not in offered
    assert "gpt-4.1" in offered
    assert offered["gpt-4o-mini"].multiplier == "1.5"
    assert offered["gpt-4.1"].multiplier == "1"
    added: list[Offer] = list(table.offers(found["unpriced"]))
    assert [(one.id, one.model.price.input, one.multiplier) for one in added] == [
        ("unpriced/llama3", 1_000_000_000, "2")
    ]
    for offer in (*offered.values(), *added):
        assert table.known(table.route(offer.id, "openai", None).targets[0]) is not None


# --- what admins set about providers ----------------------------------------------------------


def built(
    *settings: ProviderSettings, **stored: list[tuple[str, str]]
) -> dict[str, runtime.Provider]:
    return runtime.build(cfg.parse(TEXT), None, {one.provider: one for one in settings}, stored)


def texts(provider: runtime.Provider) -> list[tuple[str | None, bytes]]:
    return [(key.id, key.text) for key in provider.pool.keys]


def test_stored_keys_stand_before_those_of_the_configuration() -> None:
    found = built(openai=[("id1", "stored-1"), ("id2", "k2")], google=[("id3", "stored-3")])
    assert texts(found["openai"]) == [("id1", b"stored-1"), ("id2", b"k2"), (None, b"k1")]
    assert found["google"].active


def test_a_stored_key_ends_a_providers_being_keyless() -> None:
    found = built(mirror=[("id1", "stored-1")])["mirror"]
    assert not found.keyless
    assert texts(found) == [("id1", b"stored-1")]


def test_an_admin_can_add_a_provider_which_waits_for_a_key() -> None:
    settings = ProviderSettings(
        "extra", format="openai", base_url="https://extra.test/v1", catalog="openai"
    )
    found = built(settings)["extra"]
    assert not found.active
    assert not found.keyless
    found = built(settings, extra=[("id1", "stored-1")])["extra"]
    assert found.active
    assert found.catalog_name == "openai"
    base = found.bases["openai"]
    assert (base.origin.netloc, base.prefix, base.origin.guarded) == ("extra.test", "/v1", True)


def test_keys_of_the_configuration_do_not_go_to_a_base_url_that_an_admin_set() -> None:
    settings = ProviderSettings("openai", format="openai", base_url="https://other.test/v1")
    found = built(settings)["openai"]
    assert texts(found) == []
    assert not found.active
    assert texts(built(settings, openai=[("id1", "s")])["openai"]) == [("id1", b"s")]
    assert found.bases["openai"].origin.guarded


def test_settings_without_a_base_url_change_no_address() -> None:
    found = built(ProviderSettings("unpriced", paused_ms=1, catalog="openai"))["unpriced"]
    assert found.catalog_name == "openai"
    assert not found.bases["openai"].origin.guarded
    assert "extra" not in built(ProviderSettings("extra", paused_ms=1))


def test_no_key_shows_where_a_provider_is_printed() -> None:
    found = built(openai=[("id1", "a-stored-secret-key-of-a-provider")])
    told = repr((found["openai"], vars(found["openai"]), found["openai"].pool.keys))
    assert "a-stored-secret-key-of-a-provider" not in told
