"""The catalog: what the shipped file says, what a bad file is refused for, and who built it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.errors import ConfigError
from gateway.ledger import catalog as catalog_module
from gateway.ledger.catalog import (
    LOOKUPS_CACHED_MAX,
    MODEL_NAME_CHARS_MAX,
    Catalog,
    Model,
)
from gateway.ledger.prices import CLASSES, NANO_PER_USD, Price, cost
from gateway.wire.neutral import Usage

SHIPPED_FILE = Path(catalog_module.__file__).with_name(catalog_module.SHIPPED)


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return Catalog.load(clock=lambda: datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp())


def usd(amount: str) -> int:
    return int(Decimal(amount) * NANO_PER_USD)


def found(catalog: Catalog, provider: str, name: str) -> Model:
    model = catalog.find(provider, name)
    assert model is not None, f"{provider} has no {name}"
    return model


# What the shipped file says.


def test_the_file_names_its_source_date_and_version(shipped: Catalog) -> None:
    assert shipped.source.startswith("genai-prices ")
    assert shipped.date.isoformat() in shipped.version
    assert shipped.source.replace(" ", "-") in shipped.version
    assert found(shipped, "openai", "gpt-4o").price_version == shipped.version


def test_the_main_providers_are_listed_makers_before_hosts(shipped: Catalog) -> None:
    order = list(shipped.providers)
    assert order[:5] == ["openai", "anthropic", "google", "deepseek", "moonshot"]
    assert {"mistral", "xai", "cohere", "perplexity", "groq", "cerebras"} < set(order)
    assert {"together", "fireworks", "azure", "demo"} < set(order)
    assert order.index("mistral") < order.index("groq") < order.index("azure")
    assert all(shipped.models(provider) for provider in order)


def test_gpt_4o_has_its_list_price_and_limits(shipped: Catalog) -> None:
    model = found(shipped, "openai", "gpt-4o")
    assert model.price == Price(input=usd("2.5"), output=usd("10"), cache_read=usd("1.25"))
    assert (model.context_length, model.max_output_tokens) == (128_000, 16_384)
    assert (model.provider, model.id, model.kind) == ("openai", "gpt-4o", "chat")
    assert "web_searches" in model.charges_besides


def test_claude_has_both_cache_writes_and_its_long_context_tier(shipped: Catalog) -> None:
    model = found(shipped, "anthropic", "claude-sonnet-4-5")
    assert (model.price.input, model.price.output) == (usd("3"), usd("15"))
    assert model.price.cache_read == usd("0.30")
    assert model.price.cache_write == usd("3.75")
    assert model.price.cache_write_1h == usd("6")
    (tier,) = model.price.tiers
    assert tier.above == 200_000
    assert (tier.price.input, tier.price.output) == (usd("6"), usd("22.5"))
    assert tier.price.cache_write_1h == usd("12")


def test_a_1_hour_cache_write_costs_twice_the_input_at_every_claude(shipped: Catalog) -> None:
    for model in shipped.models("anthropic"):
        for price in (model.price, *(tier.price for tier in model.price.tiers)):
            if price.cache_write is not None:
                assert price.cache_write_1h == 2 * price.input, model.id


def test_gemini_has_its_tiers_audio_and_cached_audio(shipped: Catalog) -> None:
    pro = found(shipped, "google", "gemini-2.5-pro")
    assert pro.price.at(200_000).input == usd("1.25")
    assert pro.price.at(200_001).input == usd("2.5")
    assert pro.price.at(200_001).output == usd("15")
    assert (pro.context_length, pro.max_output_tokens) == (1_048_576, 65_536)
    flash = found(shipped, "google", "gemini-2.5-flash")
    assert flash.price.input_audio == usd("1")
    assert flash.price.cache_read_audio == usd("0.1")


def test_kinds_are_told_apart(shipped: Catalog) -> None:
    kinds = {
        ("openai", "gpt-4o"): "chat",
        ("openai", "text-embedding-3-small"): "embedding",
        ("openai", "omni-moderation-latest"): "moderation",
        ("openai", "gpt-image-1"): "image",
        ("openai", "gpt-4o-mini-tts"): "speech",
        ("openai", "gpt-4o-transcribe"): "transcription",
        ("openai", "gpt-realtime"): "realtime",
        ("openai", "davinci-002"): "completion",
        ("google", "gemini-embedding-001"): "embedding",
        ("google", "gemini-2.5-flash-image"): "chat",
        ("azure", "text-embedding-ada-002"): "embedding",
    }
    for (provider, name), kind in kinds.items():
        assert found(shipped, provider, name).kind == kind, name


def test_no_float_is_anywhere_and_nothing_is_negative(shipped: Catalog) -> None:
    for provider in shipped.providers:
        for model in shipped.models(provider):
            for price in (model.price, *(tier.price for tier in model.price.tiers)):
                rates = [getattr(price, cls) for cls in CLASSES]
                assert all(rate is None or type(rate) is int for rate in rates), model.id
                assert all(rate is None or rate >= 0 for rate in rates), model.id


def test_only_models_known_to_be_free_cost_nothing(shipped: Catalog) -> None:
    usage = Usage(input_tokens=10**6, output_tokens=10**6)
    free = {
        (provider, model.id)
        for provider in shipped.providers
        for model in shipped.models(provider)
        if cost(usage, model.price) == 0
    }
    assert free == {
        ("google", "gemma-3"),
        ("google", "gemma-3n"),
        ("google", "gemma-4-26b-a4b-it"),
        ("google", "gemma-4-31b-it"),
    }


def test_the_demo_model_is_found_with_all_its_switches(shipped: Catalog) -> None:
    demo = found(shipped, "demo", "demo+status=429+retry_after=2")
    assert demo == found(shipped, "demo", "demo")
    assert demo.price == Price(
        input=usd("1"), output=usd("2"), cache_read=usd("0.1"), cache_write=usd("1.25")
    )
    assert demo.context_length == 128_000
    assert found(shipped, "demo", "demo-embed").price.input == usd("0.02")
    assert shipped.find("demo", "demonstration") is None


# Finding.


@pytest.mark.parametrize(
    ("provider", "name", "model_id"),
    [
        ("openai", "gpt-4o", "gpt-4o"),
        ("openai", "GPT-4o", "gpt-4o"),
        ("openai", "gpt-4o-2024-11-20", "gpt-4o"),
        ("openai", "gpt-4o-20241120", "gpt-4o"),
        ("openai", "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("openai", "gpt-4o-20240513", "gpt-4o-2024-05-13"),
        ("openai", "gpt-4o-2031-01-31", "gpt-4o"),
        ("openai", "gpt-5.4-nano-2026-03-17", "gpt-5.4-nano"),
        ("openai", "gpt-4.1-latest", "gpt-4.1"),
        ("openai", "ft:gpt-4o-2024-08-06:acme::abc", "ft:gpt-4o"),
        ("anthropic", "claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("anthropic", "claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
        ("anthropic", "claude-opus-4-20250514", "claude-opus-4-0"),
        ("anthropic", "claude-opus-4-1-20250805", "claude-opus-4-1"),
        ("google", "models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("google", "gemini-2.5-flash-001", "gemini-2.5-flash"),
        ("google", "gemini-2.5-pro-preview-tts", "gemini-2.5-pro-tts"),
        ("mistral", "mistral-large-latest", "mistral-large"),
        ("cohere", "command-r-08-2024", "command-r"),
        ("deepseek", "deepseek-chat", "deepseek-chat"),
        ("moonshot", "kimi-k3", "kimi-k3"),
        ("together", "meta-llama/llama-3.3-70b-instruct-turbo", None),
        (
            "fireworks",
            "accounts/fireworks/models/kimi-k3",
            "accounts/fireworks/models/kimi-k3",
        ),
    ],
)
def test_dated_and_undated_names_find_their_model(
    shipped: Catalog, provider: str, name: str, model_id: str | None
) -> None:
    expected = "meta-llama/Llama-3.3-70B-Instruct-Turbo" if model_id is None else model_id
    assert found(shipped, provider, name).id == expected


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "gpt-99"),
        ("openai", ""),
        ("openai", "gpt-4o-"),
        ("openai", "gpt-4o-2024-13-45"),
        ("openai", "claude-opus-5"),
        ("openai", "gpt-oss-120b"),
        ("openai", "ft:gpt-4o"),
        ("google", "claude-3-5-sonnet"),
        ("groq", "whisper-large-v3"),
        ("no-such-provider", "gpt-4o"),
    ],
)
def test_names_that_are_not_served_or_not_priced_per_token_are_unknown(
    shipped: Catalog, provider: str, name: str
) -> None:
    assert shipped.find(provider, name) is None


def test_azure_falls_back_on_the_makers_under_its_own_name(shipped: Catalog) -> None:
    model = found(shipped, "azure", "gpt-35-turbo")
    assert (model.provider, model.id) == ("azure", "gpt-3.5-turbo")
    assert model.price == found(shipped, "openai", "gpt-3.5-turbo").price
    assert found(shipped, "azure", "deepseek-chat").provider == "azure"
    assert "gpt-3.5-turbo" not in {model.id for model in shipped.models("azure")}


def test_an_undecorated_name_is_offered_by_its_maker_first(shipped: Catalog) -> None:
    assert [name for name, _ in shipped.provider_of("gpt-4o-2024-08-06")] == ["openai", "azure"]
    assert [name for name, _ in shipped.provider_of("claude-opus-4-5")] == ["anthropic", "azure"]
    assert [name for name, _ in shipped.provider_of("gemini-2.5-flash")] == ["google"]
    # Azure sells these itself, yet after their maker.
    assert [name for name, _ in shipped.provider_of("o3-mini")] == ["openai", "azure"]
    hosts = [name for name, _ in shipped.provider_of("openai/gpt-oss-120b")]
    assert hosts == ["groq", "together"]
    assert shipped.provider_of("no-such-model") == []
    assert all(model.provider == name for name, model in shipped.provider_of("deepseek-chat"))


def test_lists_hold_only_names_that_can_be_called(shipped: Catalog) -> None:
    for provider in shipped.providers:
        for model in shipped.models(provider):
            assert found(shipped, provider, model.id) == model
    names = {model.id for model in shipped.models("openai")}
    assert not {name for name in names if name.startswith("ft:")}
    assert shipped.models("no-such-provider") == []


def test_prices_of_other_models_can_be_looked_up_for_side_passes(shipped: Catalog) -> None:
    price_of = shipped.price_of("anthropic")
    assert price_of("claude-opus-4-5") == found(shipped, "anthropic", "claude-opus-4-5").price
    assert price_of("gpt-4o") is None


def test_unknown_names_do_not_grow_memory() -> None:
    catalog = Catalog.load()
    for number in range(2 * LOOKUPS_CACHED_MAX):
        assert catalog.find("demo", f"made-up-{number}") is None
    assert catalog._look_up.cache_info().currsize == LOOKUPS_CACHED_MAX
    before = catalog._look_up.cache_info()
    assert catalog.find("demo", "demo+" + "x" * MODEL_NAME_CHARS_MAX) is None
    assert catalog.provider_of("demo+" + "x" * MODEL_NAME_CHARS_MAX) == []
    assert catalog._look_up.cache_info() == before


# Prices that change by date or by hour.


@dataclass
class Clock:
    now: float = 0.0

    def set(self, iso: str) -> None:
        self.now = datetime.fromisoformat(iso).timestamp()

    def __call__(self) -> float:
        return self.now


def test_an_announced_price_holds_from_its_date_on() -> None:
    clock = Clock()
    catalog = Catalog.load(clock=clock)
    clock.set("2026-11-30T23:59:59+00:00")
    assert found(catalog, "google", "gemini-4-argon").price.input == usd("2")
    clock.set("2026-12-01T00:00:00+00:00")
    assert found(catalog, "google", "gemini-4-argon").price.input == usd("4")
    assert dict(catalog.provider_of("gemini-4-argon"))["google"].price.input == usd("4")
    listed = {model.id: model for model in catalog.models("google")}
    assert listed["gemini-4-argon"].price.output == usd("20")


@pytest.mark.parametrize(
    ("at", "amount"),
    [("00:59:59", "0.15"), ("01:00:00", "0.30"), ("03:59:59", "0.30"), ("04:00:00", "0.15")],
)
def test_a_price_by_the_hour_follows_the_clock_in_utc(at: str, amount: str) -> None:
    clock = Clock()
    clock.set(f"2026-11-21T{at}+00:00")
    catalog = Catalog.load(clock=clock)
    assert found(catalog, "deepseek", "deepseek-flash").price.input == usd(amount)


# Files that are refused.

MODEL: dict[str, Any] = {"id": "m", "name": "M", "kind": "chat", "price": {"input": "1.00"}}


def written(path: Path, *models: dict[str, Any], **changes: Any) -> str:
    record = {
        "date": "2026-01-01",
        "source": "by hand",
        "version": "v1",
        "providers": [{"id": "p", "name": "P", "models": list(models) or [MODEL]}],
    }
    path.joinpath("catalog.json").write_bytes(msgspec.json.encode(record | changes))
    return str(path / "catalog.json")


def test_a_file_of_the_operators_own_is_read(tmp_path: Path) -> None:
    catalog = Catalog.load(written(tmp_path))
    assert found(catalog, "p", "M").price == Price(input=usd("1"))
    assert catalog.version == "v1"


def test_a_price_over_midnight_holds_on_both_sides_of_it(tmp_path: Path) -> None:
    clock = Clock()
    night = {"daily": ["22:00:00", "06:30:00"], "price": {"input": "0.50"}}
    catalog = Catalog.load(written(tmp_path, MODEL | {"changes": [night]}), clock=clock)
    for at, amount in [
        ("21:59:59", "1"),
        ("22:00:00", "0.5"),
        ("00:00:00", "0.5"),
        ("06:29:59", "0.5"),
        ("06:30:00", "1"),
    ]:
        clock.set(f"2026-06-01T{at}+00:00")
        assert found(catalog, "p", "m").price.input == usd(amount), at


def test_of_several_changes_the_last_that_holds_is_taken(tmp_path: Path) -> None:
    clock = Clock()
    changes = [
        {"since": "2026-02-01", "price": {"input": "2.00"}},
        {"since": "2026-03-01", "price": {"input": "3.00"}},
        {"daily": ["12:00:00", "13:00:00"], "price": {"input": "4.00"}},
    ]
    catalog = Catalog.load(written(tmp_path, MODEL | {"changes": changes}), clock=clock)
    for at, amount in [
        ("2026-01-31T23:59:59", "1"),
        ("2026-02-28T23:59:59", "2"),
        ("2026-03-01T00:00:00", "3"),
        ("2026-03-01T12:30:00", "4"),
        ("2026-01-01T12:30:00", "4"),
    ]:
        clock.set(f"{at}+00:00")
        assert found(catalog, "p", "m").price.input == usd(amount), at


def test_a_provider_that_only_falls_back_is_offered_last_wherever_it_is_listed(
    tmp_path: Path,
) -> None:
    night = {"daily": ["00:00:00", "06:00:00"], "price": {"input": "0.50"}}
    reseller = {"id": "reseller", "name": "R", "models": [], "fallback": ["maker"]}
    maker = {"id": "maker", "name": "M", "models": [MODEL | {"changes": [night]}]}
    clock = Clock()
    catalog = Catalog.load(written(tmp_path, providers=[reseller, maker]), clock=clock)
    offered = catalog.provider_of("m")
    assert [name for name, _ in offered] == ["maker", "reseller"]
    assert [(model.provider, model.price.input) for _, model in offered] == [
        ("maker", usd("0.5")),
        ("reseller", usd("0.5")),
    ]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"price": {"input": "-1.00"}}, "$.providers[0].models[0].price.input"),
        ({"price": {"input": 1.5}}, "$.providers[0].models[0].price.input"),
        ({"price": {"input": "1e3"}}, "$.providers[0].models[0].price.input"),
        ({"price": {"input": "1.0000000001"}}, "$.providers[0].models[0].price.input"),
        ({"price": {"output": "1.00"}}, "$.providers[0].models[0].price"),
        ({"price": {"input": "1", "inptu": "1"}}, "$.providers[0].models[0].price"),
        ({"pirce": {}}, "$.providers[0].models[0]"),
        ({"kind": "chatty"}, "$.providers[0].models[0].kind"),
        ({"context_length": 0}, "$.providers[0].models[0].context_length"),
        ({"patterns": ["re:("]}, "$.providers[0].models[0]"),
        ({"patterns": ["*"]}, "$.providers[0].models[0]"),
        ({"patterns": ["a*b"]}, "$.providers[0].models[0]"),
        ({"patterns": ["plain"]}, "$.providers[0].models[0]"),
        ({"changes": [{"price": {"input": "1"}}]}, "$.providers[0].models[0].changes[0]"),
        (
            {
                "price": {
                    "input": "1",
                    "tiers": [{"above": 2, "input": "1"}, {"above": 1, "input": "1"}],
                }
            },
            "$.providers[0].models[0].price.tiers",
        ),
    ],
)
def test_a_bad_model_is_refused_with_its_file_and_place(
    tmp_path: Path, change: dict[str, Any], place: str
) -> None:
    path = written(tmp_path, MODEL | change)
    with pytest.raises(ConfigError) as refused:
        Catalog.load(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert f"`{place}`" in str(refused.value)


def test_contradictions_between_records_are_refused(tmp_path: Path) -> None:
    clash = MODEL | {"id": "n", "aliases": ["M"]}
    with pytest.raises(ConfigError, match=r"'m' is taken .*models\[1\]"):
        Catalog.load(written(tmp_path, MODEL, clash))
    provider = {"id": "p", "name": "P", "models": [MODEL]}
    with pytest.raises(ConfigError, match=r"listed twice .*providers\[1\]"):
        Catalog.load(written(tmp_path, providers=[provider, provider]))
    with pytest.raises(ConfigError, match=r"no provider 'q' .*fallback"):
        Catalog.load(written(tmp_path, providers=[provider | {"fallback": ["q"]}]))


def test_a_missing_or_garbled_file_is_refused_by_name(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match=r"nowhere\.json: cannot be read"):
        Catalog.load(missing)
    garbled = tmp_path / "garbled.json"
    garbled.write_bytes(b'{"date": \xff')
    with pytest.raises(ConfigError, match=r"garbled\.json: "):
        Catalog.load(str(garbled))


# The build. genai-prices is a development dependency; without it there is nothing to compare with.


def test_the_file_has_one_model_to_a_line() -> None:
    lines = SHIPPED_FILE.read_text().splitlines()
    record = msgspec.json.decode(SHIPPED_FILE.read_bytes(), type=catalog_module.CatalogRecord)
    models = sum(len(provider.models) for provider in record.providers)
    of_models = [line for line in lines if '"kind":' in line]
    assert len(of_models) == models > 500
    for line in of_models:
        model = msgspec.json.decode(line.removesuffix(","))
        assert list(model) == sorted(model)


def test_the_committed_file_is_what_the_build_gives(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("genai_prices")
    from gateway.ledger import build_catalog

    assert build_catalog.main(["--check"]) == 0, capsys.readouterr().out


def test_the_check_fails_and_names_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("genai_prices")
    from gateway.ledger import build_catalog

    altered = tmp_path / "model_catalog.json"
    text = SHIPPED_FILE.read_text()
    changed = text.replace('"input":"2.50","output":"10.00"', '"input":"2.40","output":"10.00"', 1)
    assert changed != text
    altered.write_text(changed)
    assert build_catalog.main(["--check"], file=altered) == 1
    out = capsys.readouterr().out
    assert "~ openai/" in out
    assert "'input': '2.40'" in out
    assert altered.read_text() == changed, "a check must not write"


def test_a_build_writes_the_same_bytes_for_the_same_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shipped: Catalog
) -> None:
    pytest.importorskip("genai_prices")
    from gateway.ledger import build_catalog

    fresh = tmp_path / "model_catalog.json"
    assert build_catalog.main(["--date", shipped.date.isoformat()], file=fresh) == 0
    assert fresh.read_bytes() == SHIPPED_FILE.read_bytes()
    assert "+ openai/gpt-4o" in capsys.readouterr().out.splitlines()
    assert build_catalog.main(["--check"], file=fresh) == 0


MOMENTS = [
    "2026-11-21T00:10:00+00:00",
    "2026-11-21T02:00:00+00:00",
    "2026-11-21T12:00:00+00:00",
    "2027-01-01T07:00:00+00:00",
]


def usages() -> Iterator[tuple[Usage, dict[str, int]]]:
    """The same answers as ours and as genai-prices counts them, below and above every tier."""
    for input_tokens in (999, 100_001, 150_000, 199_999, 200_000, 250_000, 280_001, 600_000):
        read, write, output = input_tokens // 3, input_tokens // 4, input_tokens // 5
        yield (
            Usage(input_tokens=input_tokens, output_tokens=output),
            {"input_tokens": input_tokens, "output_tokens": output},
        )
        yield (
            Usage(
                input_tokens=input_tokens,
                output_tokens=output,
                cache_read_input_tokens=read,
                cache_creation_input_tokens=write,
            ),
            {
                "input_tokens": input_tokens,
                "output_tokens": output,
                "cache_read_tokens": read,
                "cache_write_tokens": write,
            },
        )


def test_every_model_costs_what_the_source_computes_at_any_time() -> None:
    pytest.importorskip("genai_prices")
    from genai_prices import data, types

    from gateway.ledger.build_catalog import PROVIDERS, RATES

    clock = Clock()
    catalog = Catalog.load(clock=clock)
    theirs = {provider.id: provider for provider in data.providers}
    compared = 0
    for moment in MOMENTS:
        clock.set(moment)
        for provider, their_id in PROVIDERS.items():
            for model in catalog.models(provider):
                source = theirs[their_id].find_model(model.id)
                assert source is not None, model.id
                if "requests" in model.charges_besides or (provider, model.id) in RATES:
                    continue
                prices = source.get_prices(datetime.fromisoformat(moment))
                for ours, counts in usages():
                    total = prices.calc_price(types.Usage(**counts))["total_price"]
                    expected = int((total * NANO_PER_USD + Decimal("0.5")) // 1)
                    assert cost(ours, model.price) == expected, (model.id, moment, counts)
                    compared += 1
    assert compared > 20_000


def test_every_exact_name_of_the_source_finds_the_same_model(shipped: Catalog) -> None:
    pytest.importorskip("genai_prices")
    from genai_prices import data

    from gateway.ledger.build_catalog import PROVIDERS

    theirs = {provider.id: provider for provider in data.providers}
    record = msgspec.json.decode(SHIPPED_FILE.read_bytes(), type=catalog_module.CatalogRecord)
    for provider in record.providers:
        if provider.id not in PROVIDERS:
            continue
        for model in provider.models:
            for name in model.aliases:
                source = theirs[PROVIDERS[provider.id]].find_model(name)
                assert source is not None, name
                ours = found(shipped, provider.id, name)
                assert source.is_match(ours.id) or ours.id.lower() == source.id.lower(), name
