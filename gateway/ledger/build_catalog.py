"""Build `model_catalog.json` from the PyPI package genai-prices.

    python -m gateway.ledger.build_catalog [--date YYYY-MM-DD]   write the file, print what changed
    python -m gateway.ledger.build_catalog --check               fail where the file would change

For developers only: nothing imports this at run time, and genai-prices is a development
dependency. The result is a function of the installed genai-prices and the date alone, and is
reviewed as a diff: one model to a line, keys sorted. Standard prices are taken: a batch, flex,
priority or fast tier that a request may ask for is not in the catalog.

What is not taken over as it stands is said here, with its reason: `PROVIDERS` (which, and under
which name), `_is_dropped`, `FREE`, and the facts that genai-prices lacks, at the end of the tables.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version as installed_version
from pathlib import Path

import msgspec
from genai_prices import data, types

from gateway.ledger.catalog import (
    SHIPPED,
    CatalogRecord,
    ChangeRecord,
    Kind,
    ModelRecord,
    PriceRecord,
    ProviderRecord,
    TierRecord,
)
from gateway.ledger.prices import CLASSES, usd_text

PACKAGE = "genai-prices"
CATALOG_FILE = Path(__file__).with_name(SHIPPED)

# Ours -> theirs. Makers first, then hosts of others' models: `Catalog.provider_of` keeps the order.
# OpenRouter is left out: it names models `openai/gpt-4o`, which here means a provider and its
# model, and what it charges depends on the host that it picks for each call.
PROVIDERS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "google",
    "deepseek": "deepseek",
    "moonshot": "moonshotai",
    "mistral": "mistral",
    "xai": "x-ai",
    "cohere": "cohere",
    "perplexity": "perplexity",
    "zai": "zai",
    "minimax": "minimax",
    "groq": "groq",
    "cerebras": "cerebras",
    "together": "together",
    "fireworks": "fireworks",
    "azure": "azure",
}

FALLBACK = {"azure": ("openai", "anthropic", "deepseek", "xai", "moonshot")}
"""Azure sells these makers' models under their names and, unless listed itself, at their prices."""

FREE = {("openai", "moderation")} | {
    ("google", model) for model in ("gemma-3", "gemma-3n", "gemma-4-26b-a4b-it", "gemma-4-31b-it")
}
"""No price because there is none to pay. Any other model without a token price is left out, so
that a request for it is refused as unpriced instead of served for nothing."""

PRICE_KEYS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_5m_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "input_audio",
    "cache_audio_read_mtok": "cache_read_audio",
    "output_audio_mtok": "output_audio",
    "input_image_mtok": "input_image",
    "cache_image_read_mtok": "cache_read_image",
    "output_image_mtok": "output_image",
}
_UNIT = re.compile(r"_(mtok|kcount|mchars|kpages)\Z")

# What genai-prices lacks, as vendors' model pages have it (developers.openai.com/api/docs/models,
# platform.claude.com/docs/en/models, ai.google.dev/gemini-api/docs/models), gathered 2026-11-21. A
# model is missing here where no figure was at hand: None says "not known", a guess would not.
MAX_OUTPUT_TOKENS: dict[str, dict[int, str]] = {
    "openai": {
        4096: "gpt-3.5-turbo gpt-3.5-turbo-1106 gpt-4-turbo gpt-4o-2024-05-13",
        8192: "gpt-4",
        16384: "gpt-4o gpt-4o-mini gpt-4o-audio-preview gpt-4o-mini-audio-preview"
        " gpt-4o-search-preview gpt-audio gpt-audio-mini gpt-5.3",
        32768: "gpt-4.1 gpt-4.1-mini gpt-4.1-nano o1-preview",
        65536: "o1-mini",
        100000: "o1 o1-pro o3 o3-deep-research o3-mini o3-pro o4-mini o4-mini-deep-research"
        " codex-mini",
        128000: "gpt-5 gpt-5-mini gpt-5-nano gpt-5.1 gpt-5.1-codex-mini gpt-5.2 gpt-5.2-pro"
        " gpt-5.3-codex gpt-5.4 gpt-5.4-mini gpt-5.4-nano gpt-5.4-pro gpt-5.5 gpt-5.5-pro"
        " gpt-5.6-luna gpt-5.6-sol gpt-5.6-terra gpt-6-sol gpt-6.1-sol",
        272000: "gpt-5-pro",
    },
    "anthropic": {
        4096: "claude-3-haiku claude-3-opus-latest claude-3-sonnet",
        8192: "claude-3-5-haiku-latest claude-3-5-sonnet",
        32000: "claude-opus-4-0 claude-opus-4-1",
        64000: "claude-haiku-4-5 claude-opus-4-5 claude-sonnet-4-0 claude-sonnet-4-5",
        # 3.7 reaches it only with the beta header `output-128k-2025-02-19`.
        128000: "claude-3-7-sonnet-latest claude-fable-5 claude-fable-5-1 claude-fable-5-2"
        " claude-haiku-5-5 claude-opus-4-6 claude-opus-4-7 claude-opus-4-8 claude-opus-5"
        " claude-opus-5-5 claude-sonnet-4-6 claude-sonnet-5 claude-sonnet-5-5",
    },
    "google": {
        8192: "gemini-1.5-flash gemini-1.5-pro gemini-2.0-flash gemini-2.0-flash-lite",
        65536: "gemini-2.5-flash gemini-2.5-flash-lite gemini-2.5-pro gemini-3-flash-preview"
        " gemini-3-pro-preview gemini-3.1-pro-preview gemini-3.8-flash",
    },
}
CONTEXT_LENGTH = {
    ("google", "gemini-2.5-pro"): 1_048_576,
    ("google", "gemini-3-pro-preview"): 1_048_576,
    ("google", "gemini-3.1-pro-preview"): 1_048_576,
    ("openai", "text-embedding-3-large"): 8192,
    ("openai", "text-embedding-3-small"): 8192,
}
RATES: dict[tuple[str, str], dict[str, Decimal]] = {
    ("openai", "gpt-4o-audio-preview"): {"input_audio": Decimal(40), "output_audio": Decimal(80)},
    ("openai", "gpt-4o-mini-audio-preview"): {
        "input_audio": Decimal(10),
        "output_audio": Decimal(20),
    },
}

DEMO = ProviderRecord(
    id="demo",
    name="Demo",
    models=(
        ModelRecord(
            id="demo",
            name="Demo",
            kind="chat",
            price=PriceRecord(input="1.00", output="2.00", cache_read="0.10", cache_write="1.25"),
            context_length=128_000,
            patterns=("demo+*",),
        ),
        ModelRecord(
            id="demo-embed",
            name="Demo embeddings",
            kind="embedding",
            price=PriceRecord(input="0.02"),
            context_length=8192,
            patterns=("demo-embed+*",),
        ),
    ),
)
"""The built-in upstream: prices of our own making, so that a first request shows a real charge."""


def build(day: date) -> CatalogRecord:
    """The catalog as of `day`: prices in force then, and the changes already announced."""
    theirs = {provider.id: provider for provider in data.providers}
    providers = [
        ProviderRecord(
            id=ours,
            name=theirs[their_id].name,
            fallback=FALLBACK.get(ours, ()),
            models=tuple(_models(ours, theirs[their_id].models, day)),
        )
        for ours, their_id in PROVIDERS.items()
    ]
    providers.append(DEMO)
    source = f"{PACKAGE} {installed_version(PACKAGE)}"
    digest = hashlib.sha256(msgspec.json.encode(providers, order="sorted")).hexdigest()
    return CatalogRecord(
        date=day,
        source=source,
        # The digest keeps two catalogs of one day and one package apart on receipts.
        version=f"{day.isoformat()}/{source.replace(' ', '-')}/{digest[:8]}",
        providers=tuple(providers),
    )


def render(catalog: CatalogRecord) -> bytes:
    """The file: JSON, one model to a line, so that a diff reads as a list of models."""

    def text(value: object) -> str:
        return msgspec.json.encode(value, order="sorted").decode()

    blocks = []
    for provider in catalog.providers:
        head = text({"fallback": provider.fallback, "id": provider.id})[:-1]
        lines = ",\n".join(text(model) for model in provider.models)
        blocks.append(f'{head},"models":[\n{lines}\n],"name":{text(provider.name)}}}')
    return (
        f'{{"date":{text(catalog.date)},\n"providers":[\n'
        + ",\n".join(blocks)
        + f'\n],\n"source":{text(catalog.source)},\n"version":{text(catalog.version)}}}\n'
    ).encode()


def summary(old: CatalogRecord | None, new: CatalogRecord) -> list[str]:
    """What a reviewer should look at: models added, removed, and each field that changed."""
    before, after = _by_name(old), _by_name(new)
    lines = [f"+ {name}" for name in after if name not in before]
    lines += [f"- {name}" for name in before if name not in after]
    for name, model in after.items():
        if name in before and before[name] != model:
            for field in sorted(before[name].keys() | model.keys()):
                was, now = before[name].get(field), model.get(field)
                if was != now:
                    lines.append(f"~ {name} {field}: {was} -> {now}")
    return lines


def main(arguments: list[str] | None = None, *, file: Path = CATALOG_FILE) -> int:
    """The command. Returns its exit status: 1 where `--check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m gateway.ledger.build_catalog")
    parser.add_argument("--check", action="store_true", help="compare only; the file's own date")
    parser.add_argument("--date", type=date.fromisoformat, help="prices of this day (today)")
    options = parser.parse_args(arguments)
    data_before = file.read_bytes() if file.exists() else b""
    old = msgspec.json.decode(data_before, type=CatalogRecord) if data_before else None
    day = options.date or datetime.now(UTC).date()
    if options.check and old is not None:
        day = old.date
    new = build(day)
    rendered = render(new)
    write = sys.stdout.write
    for line in summary(old, new):
        write(line + "\n")
    if options.check:
        same = rendered == data_before
        write(f"{file.name} {'matches' if same else 'does not match'} {new.source} at {day}\n")
        return 0 if same else 1
    file.write_bytes(rendered)
    models = sum(len(provider.models) for provider in new.providers)
    write(f"{models} models of {len(new.providers)} providers, version {new.version}\n")
    return 0


def _by_name(catalog: CatalogRecord | None) -> dict[str, dict[str, object]]:
    return {
        f"{provider.id}/{model.id}": msgspec.to_builtins(model)
        for provider in (catalog.providers if catalog else ())
        for model in provider.models
    }


def _models(provider: str, models: Iterable[types.ModelInfo], day: date) -> Iterator[ModelRecord]:
    max_outputs = {
        model: tokens
        for tokens, names in MAX_OUTPUT_TOKENS.get(provider, {}).items()
        for model in names.split()
    }
    for model in models:
        if _is_dropped(provider, model.id):
            continue
        prices = _prices(provider, model, day)
        if prices is None:
            continue
        aliases, patterns = _names(model.match)
        # An id that its own rule does not match (at Fireworks, most) is no name that the API knows.
        model_id = model.id if model.is_match(model.id) or not aliases else aliases[0]
        besides = sorted({kept for price in _all_prices(model) for kept in _besides(price)})
        yield ModelRecord(
            id=model_id,
            name=model.name or model_id,
            kind=_kind(model_id, aliases),
            price=prices[0],
            context_length=CONTEXT_LENGTH.get((provider, model.id), model.context_window),
            max_output_tokens=max_outputs.get(model.id),
            aliases=tuple(alias for alias in aliases if alias != model_id.lower()),
            patterns=patterns,
            deprecated=bool(model.deprecated),
            hidden=not (model.is_match(model_id) and _may_be_called(model_id)),
            charges_besides=tuple(besides),
            changes=prices[1],
        )


def _is_dropped(provider: str, model: str) -> bool:
    """Names that the provider's own API does not serve, but that a request could be routed by.

    Google's gateway sells Claude through another API than Gemini's; `:free` and the like, and
    gpt-oss at OpenAI, are names of a reseller.
    """
    return (
        (provider == "google" and model.startswith("claude-"))
        or (provider == "openai" and model.startswith("gpt-oss-"))
        or (":" in model and not model.startswith("ft:"))
    )


def _may_be_called(model: str) -> bool:
    return not (model.startswith("ft:") or model.endswith("-") or model == "moderation")


def _kind(model: str, aliases: tuple[str, ...]) -> Kind:
    names = " ".join((model.lower(), *aliases))
    marks: tuple[tuple[str, Kind], ...] = (
        (r"embed", "embedding"),
        (r"^moderation", "moderation"),
        (r"rerank", "rerank"),
        (r"\bgpt-image|\bchatgpt-image", "image"),
        (r"\btts\b", "speech"),
        (r"transcribe|whisper", "transcription"),
        (r"realtime|\blive\b", "realtime"),
        (r"^(ada|babbage|curie|davinci)\b|^gpt-3.5-turbo-instruct", "completion"),
    )
    return next((kind for mark, kind in marks if re.search(mark, names)), "chat")


def _names(match: types.MatchLogic) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A rule of genai-prices as exact names and patterns (see `ModelRecord`)."""
    clauses = match.or_ if isinstance(match, types.ClauseOr) else [match]
    aliases: dict[str, None] = {}
    patterns: dict[str, None] = {}
    for clause in clauses:
        if isinstance(clause, types.ClauseEquals):
            aliases[clause.equals.lower()] = None
        elif isinstance(clause, types.ClauseStartsWith):
            patterns[f"{clause.starts_with.lower()}*"] = None
        elif isinstance(clause, types.ClauseEndsWith):
            patterns[f"*{clause.ends_with.lower()}"] = None
        elif isinstance(clause, types.ClauseContains):
            patterns[f"*{clause.contains.lower()}*"] = None
        else:
            patterns[f"re:{_expression(clause)}"] = None
    return tuple(aliases), tuple(patterns)


def _expression(clause: types.MatchLogic) -> str:
    """A rule as one regular expression, searched for in a lower-case name."""
    if isinstance(clause, types.ClauseRegex):
        return clause.regex
    if isinstance(clause, types.ClauseStartsWith):
        return f"^{re.escape(clause.starts_with.lower())}"
    if isinstance(clause, types.ClauseAnd):
        return "^" + "".join(f"(?=.*(?:{_expression(part)}))" for part in clause.and_)
    raise ValueError(f"a rule that the catalog cannot say yet: {clause}")


def _all_prices(model: types.ModelInfo) -> list[types.ModelPrice]:
    if isinstance(model.prices, list):
        return [conditional.prices for conditional in model.prices]
    return [model.prices]


def _prices(
    provider: str, model: types.ModelInfo, day: date
) -> tuple[PriceRecord, tuple[ChangeRecord, ...]] | None:
    """The price in force on `day` and those that will replace it by date or by hour.

    genai-prices takes the last condition that holds. What stands before the last that holds for
    good by `day` can therefore never be taken again and is left out.
    """
    if not isinstance(model.prices, list):
        record = _price_record(provider, model.id, model.prices)
        return None if record is None else (record, ())
    in_force = 0
    for position, conditional in enumerate(model.prices):
        start = conditional.constraint
        if start is None or (
            isinstance(start, types.StartDateConstraint) and start.start_date <= day
        ):
            in_force = position
    base = _price_record(provider, model.id, model.prices[in_force].prices)
    if base is None:
        return None
    changes: list[ChangeRecord] = []
    for conditional in model.prices[in_force + 1 :]:
        record = _price_record(provider, model.id, conditional.prices)
        if record is None:
            raise ValueError(f"{provider}/{model.id} will lose its price: decide what to do")
        when = conditional.constraint
        if isinstance(when, types.StartDateConstraint):
            changes.append(ChangeRecord(price=record, since=when.start_date))
        elif isinstance(when, types.TimeOfDateConstraint):
            hours = tuple(hour.replace(tzinfo=None) for hour in (when.start_time, when.end_time))
            changes.append(ChangeRecord(price=record, daily=(hours[0], hours[1])))
    return base, tuple(changes)


def _price_record(provider: str, model: str, price: types.ModelPrice) -> PriceRecord | None:
    """One set of prices, None where it has none per token."""
    rates = dict(_token_rates(price))
    rates.update(RATES.get((provider, model), {}))
    if (provider, model) in FREE:
        return PriceRecord(input="0.00")
    if "input" not in rates:
        return None
    if provider == "anthropic" and "cache_write" in rates and "cache_write_1h" not in rates:
        # The column "1h cache writes" is twice "Base input tokens" for every model at
        # platform.claude.com/docs/en/about-claude/pricing, 2026-11-21.
        rates["cache_write_1h"] = _doubled(rates["input"])
    starts = {
        tier.start
        for rate in rates.values()
        if isinstance(rate, types.TieredPrices)
        for tier in rate.tiers
    }
    tiers = tuple(
        msgspec.convert({"above": start, **_rate_texts(rates, start)}, TierRecord)
        for start in sorted(starts)
    )
    return msgspec.convert({**_rate_texts(rates, 0), "tiers": tiers}, PriceRecord)


_Rate = Decimal | types.TieredPrices


def _token_rates(price: types.ModelPrice) -> Iterator[tuple[str, _Rate]]:
    for key, rate in vars(price).items():
        if rate is not None and key in PRICE_KEYS:
            yield PRICE_KEYS[key], rate
        elif rate is not None and key.startswith("cache_"):
            raise ValueError(f"a caching price that the catalog has no class for: {key}")


def _besides(price: types.ModelPrice) -> Iterator[str]:
    for key, rate in vars(price).items():
        if rate is not None and key not in PRICE_KEYS:
            yield _UNIT.sub("", key)


def _doubled(rate: _Rate) -> _Rate:
    if isinstance(rate, Decimal):
        return 2 * rate
    tiers = [types.Tier(tier.start, 2 * tier.price) for tier in rate.tiers]
    return types.TieredPrices(2 * rate.base, tiers)


def _rate_texts(rates: dict[str, _Rate], input_tokens: int) -> dict[str, str]:
    """Each class's price where a request's input is just over `input_tokens`."""
    texts: dict[str, str] = {}
    for cls in CLASSES:
        if cls not in rates:
            continue
        rate = rates[cls]
        if isinstance(rate, types.TieredPrices):
            steps = [rate.base, *(tier.price for tier in rate.tiers if tier.start <= input_tokens)]
            usd = steps[-1]
        else:
            usd = rate
        nano_usd = usd.scaleb(9)
        if nano_usd != int(nano_usd):
            raise ValueError(f"{cls} is finer than a nano-USD: {usd}")
        texts[cls] = usd_text(int(nano_usd))
    return texts


if __name__ == "__main__":
    sys.exit(main())
