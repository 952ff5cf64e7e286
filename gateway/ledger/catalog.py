"""Which models exist, what they cost and how much they hold.

The catalog is one reviewed file, `model_catalog.json` beside this module, built by
`build_catalog.py` and read strictly: an unknown field, a negative price or a name claimed twice is
refused with its path. Prices stand in the file as exact decimal text, US dollars per million
tokens, and leave here as the integers of `prices.Price`.

Anyone above `wire` may call it. Look-ups are synchronous, cached within a bound, and safe on
the hot path (0.2 µs once cached). Provider names here are the catalog's own (`openai`,
`anthropic`, `google`, …); a caller whose configuration names its providers otherwise translates
first.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from functools import lru_cache, partial
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from gateway.errors import ConfigError
from gateway.ledger.prices import Price, PriceOf, Tier, nano_from_text

SHIPPED = "model_catalog.json"

MODEL_NAME_CHARS_MAX = 256
"""A longer name is unknown unread: bounds what a client can pin in the cache or feed a pattern."""

LOOKUPS_CACHED_MAX = 4096
"""Names remembered per question, known or not: made-up names of full length hold under 12 MB."""

SECONDS_PER_DAY = 86_400

Kind = Literal[
    "chat",
    "completion",
    "embedding",
    "image",
    "moderation",
    "realtime",
    "rerank",
    "speech",
    "transcription",
]


class Model(msgspec.Struct, frozen=True):
    """One model of one provider, at the price of the moment it was asked for.

    `id` is the catalog's name, which need not be the one asked with. `context_length` (tokens in
    and out together, for most vendors) and `max_output_tokens` are None where not known.
    `price_version` names the catalog for receipts. `charges_besides` names what the vendor
    charges for apart from tokens (web searches, a fee per request, …), which `price` leaves out.
    """

    provider: str
    id: str
    name: str
    kind: Kind
    price: Price
    price_version: str
    context_length: int | None = None
    max_output_tokens: int | None = None
    deprecated: bool = False
    charges_besides: tuple[str, ...] = ()


# The file. Every field of a record is checked by msgspec, which names the path of what it refuses.

Usd = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,7}(\.[0-9]{1,9})?\Z")]
Tokens = Annotated[int, msgspec.Meta(gt=0, le=1_000_000_000)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MODEL_NAME_CHARS_MAX)]


class RatesRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """US dollars per million tokens as text; the classes are those of `prices.Price`."""

    input: Usd
    output: Usd | None = None
    cache_read: Usd | None = None
    cache_write: Usd | None = None
    cache_write_1h: Usd | None = None
    reasoning: Usd | None = None
    input_audio: Usd | None = None
    cache_read_audio: Usd | None = None
    output_audio: Usd | None = None
    input_image: Usd | None = None
    cache_read_image: Usd | None = None
    output_image: Usd | None = None


class TierRecord(RatesRecord, frozen=True, kw_only=True):
    """All prices of a request with more than `above` tokens of input."""

    above: Tokens


class PriceRecord(RatesRecord, frozen=True, kw_only=True):
    """The prices of a model, by length of input where the vendor tells lengths apart."""

    tiers: tuple[TierRecord, ...] = ()


class ChangeRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Another price, from a date on or between two times of every day (UTC). The last that holds.

    `daily` may run over midnight; its end is not part of it.
    """

    price: PriceRecord
    since: date | None = None
    daily: tuple[time_of_day, time_of_day] | None = None


class ModelRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """One model. `aliases` are other exact names; `patterns` match in the order of the file.

    A pattern is text with `*` at its start, its end or both, or `re:` and a regular expression
    that may match anywhere. All names are compared in lower case. `hidden` keeps an id that is no
    name to call (`ft:gpt-4o`) out of lists and out of exact matches.
    """

    id: Name
    name: str
    kind: Kind
    price: PriceRecord
    context_length: Tokens | None = None
    max_output_tokens: Tokens | None = None
    aliases: tuple[Name, ...] = ()
    patterns: tuple[Name, ...] = ()
    deprecated: bool = False
    hidden: bool = False
    charges_besides: tuple[str, ...] = ()
    changes: tuple[ChangeRecord, ...] = ()


class ProviderRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """One provider. What it lacks is looked for among the models of the `fallback` providers."""

    id: Name
    name: str
    models: tuple[ModelRecord, ...]
    fallback: tuple[Name, ...] = ()


class CatalogRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file: `date` is the day whose prices it holds, `version` what receipts quote."""

    date: date
    source: str
    version: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    providers: tuple[ProviderRecord, ...]


class _Change(msgspec.Struct, frozen=True):
    """Model `model` while `start <= now < end`, where now counts seconds of time or of the day."""

    daily: bool
    start: int
    end: int | None
    model: Model

    def holds(self, now: float) -> bool:
        moment = now % SECONDS_PER_DAY if self.daily else now
        if self.end is None:
            return moment >= self.start
        if self.end < self.start:
            return moment >= self.start or moment < self.end
        return self.start <= moment < self.end


class _Scheduled(msgspec.Struct, frozen=True):
    """A model whose price depends on when it is asked for."""

    base: Model
    changes: tuple[_Change, ...]

    def at(self, now: float) -> Model:
        for change in reversed(self.changes):
            if change.holds(now):
                return change.model
        return self.base


_Listed = Model | _Scheduled
_Matches = Callable[[str], bool]


class _Provider(msgspec.Struct, frozen=True):
    id: str
    listed: tuple[_Listed, ...]
    exact: dict[str, _Listed]
    patterns: tuple[tuple[_Matches, _Listed], ...]
    fallback: tuple[str, ...]

    def match(self, name: str) -> _Listed | None:
        """The model that a lower-case name means here, by exact name first, then by pattern."""
        found = self.exact.get(name)
        if found is not None:
            return found
        for matches, listed in self.patterns:
            if matches(name):
                return listed
        return None


class Catalog:
    """All known models. Immutable; a reload loads another.

    `version`, `source` and `date` are the file's; `providers` its provider names in order.
    """

    def __init__(self, record: CatalogRecord, clock: Callable[[], float] = time.time) -> None:
        """Index a checked record. Raises ValueError, naming the place, where it contradicts."""
        self.version = record.version
        self.source = record.source
        self.date = record.date
        self._clock = clock
        self._providers = _index(record)
        self.providers = tuple(self._providers)
        # Not of methods: a catalog that its own caches hold would outlive its reload, half a
        # megabyte each time, as the cycle collector seldom looks.
        self._look_up = lru_cache(LOOKUPS_CACHED_MAX)(partial(_resolve, self._providers))
        self._owners = lru_cache(LOOKUPS_CACHED_MAX)(
            partial(_resolve_everywhere, self._providers, self._look_up)
        )

    @classmethod
    def load(cls, path: str | None = None, *, clock: Callable[[], float] = time.time) -> "Catalog":
        """Read a catalog file, the shipped one where `path` is None.

        `clock` gives seconds since 1970 and decides which scheduled price holds. Raises
        ConfigError that opens with the file and names the place in it.
        """
        try:
            if path is None:
                data = resources.files(__package__).joinpath(SHIPPED).read_bytes()
            else:
                data = Path(path).read_bytes()
            return cls(msgspec.json.decode(data, type=CatalogRecord), clock)
        except OSError as error:
            raise ConfigError(f"{path or SHIPPED}: cannot be read: {error.strerror}") from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise ConfigError(f"{path or SHIPPED}: {error}") from error

    def find(self, provider: str, model: str) -> Model | None:
        """The model that `provider` (a catalog name) means by `model`, None where unknown.

        Tried in turn: the exact id or alias, the patterns, the name with its date written out
        (`-20240513` as `-2024-05-13`), without its date, without `-latest`; then the providers
        that this one falls back on. Case and a leading `models/` (Gemini) do not matter.
        """
        if len(model) > MODEL_NAME_CHARS_MAX:
            return None
        found = self._look_up(provider, model)
        return found.at(self._clock()) if isinstance(found, _Scheduled) else found

    def models(self, provider: str) -> list[Model]:
        """The models of a provider by id, without those it only falls back on; [] if unknown."""
        known = self._providers.get(provider)
        return [] if known is None else [self._now(listed) for listed in known.listed]

    def provider_of(self, model: str) -> list[tuple[str, Model]]:
        """Every provider that serves a model of this name, with its model, in catalog order.

        Makers stand before hosts in the catalog, and a provider that only falls back on another
        comes last.
        """
        if len(model) > MODEL_NAME_CHARS_MAX:
            return []
        return [(provider, self._now(listed)) for provider, listed in self._owners(model)]

    def price_of(self, provider: str) -> PriceOf:
        """A function from a model name to its price at `provider`, for `prices.cost`."""

        def price_of(name: str) -> Price | None:
            model = self.find(provider, name)
            return None if model is None else model.price

        return price_of

    def _now(self, listed: _Listed) -> Model:
        return listed.at(self._clock()) if isinstance(listed, _Scheduled) else listed


def _resolve(providers: Mapping[str, _Provider], provider: str, model: str) -> _Listed | None:
    known = providers.get(provider)
    if known is None:
        return None
    own = _first_match(known, model)
    if own is not None:
        return own
    for other in known.fallback:
        found = _first_match(providers[other], model)
        if found is not None:
            return _relabelled(found, provider)
    return None


def _resolve_everywhere(
    providers: Mapping[str, _Provider],
    look_up: Callable[[str, str], _Listed | None],
    model: str,
) -> tuple[tuple[str, _Listed], ...]:
    own: list[tuple[str, _Listed]] = []
    borrowed: list[tuple[str, _Listed]] = []
    for provider, known in providers.items():
        found = look_up(provider, model)
        if found is not None:
            direct = _first_match(known, model) is not None
            (own if direct else borrowed).append((provider, found))
    return (*own, *borrowed)


_COMPACT_DATE = re.compile(r"([-@])(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\Z")
_DATE = re.compile(r"[-@](20\d\d-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])|(0[1-9]|1[0-2])-20\d\d)\Z")
_REVISION = re.compile(r"-(latest|00\d)\Z")


def _spellings(model: str) -> Iterator[str]:
    """The names under which a model may be listed, most exact first."""
    name = model.lower().removeprefix("models/")
    yield name
    dashed = _COMPACT_DATE.sub(r"-\2-\3-\4", name)
    if dashed != name:
        yield dashed
    for ending in (_DATE, _REVISION):
        plain = ending.sub("", name)
        if plain != name:
            yield plain


def _first_match(provider: _Provider, model: str) -> _Listed | None:
    for name in _spellings(model):
        found = provider.match(name)
        if found is not None:
            return found
    return None


def _relabelled(listed: _Listed, provider: str) -> _Listed:
    """The same model as sold by another provider."""
    if isinstance(listed, Model):
        return msgspec.structs.replace(listed, provider=provider)
    return _Scheduled(
        msgspec.structs.replace(listed.base, provider=provider),
        tuple(
            msgspec.structs.replace(
                change, model=msgspec.structs.replace(change.model, provider=provider)
            )
            for change in listed.changes
        ),
    )


def _index(record: CatalogRecord) -> dict[str, _Provider]:
    known = {provider.id for provider in record.providers}
    providers: dict[str, _Provider] = {}
    for number, provider in enumerate(record.providers):
        where = f"$.providers[{number}]"
        if provider.id in providers:
            raise ValueError(f"provider {provider.id!r} is listed twice - at `{where}`")
        for other in provider.fallback:
            if other not in known:
                raise ValueError(f"no provider {other!r} - at `{where}.fallback`")
        providers[provider.id] = _index_provider(provider, record.version, where)
    return providers


def _index_provider(provider: ProviderRecord, version: str, where: str) -> _Provider:
    listed: list[_Listed] = []
    exact: dict[str, _Listed] = {}
    patterns: list[tuple[_Matches, _Listed]] = []
    for number, record in enumerate(provider.models):
        place = f"{where}.models[{number}]"
        model = _listed(record, provider.id, version, place)
        names = record.aliases if record.hidden else (record.id, *record.aliases)
        for name in {name.lower(): None for name in names}:
            if name in exact:
                raise ValueError(f"the name {name!r} is taken - at `{place}`")
            exact[name] = model
        patterns.extend((_matcher(pattern, place), model) for pattern in record.patterns)
        if not record.hidden:
            listed.append(model)
    return _Provider(provider.id, tuple(listed), exact, tuple(patterns), provider.fallback)


def _listed(record: ModelRecord, provider: str, version: str, place: str) -> _Listed:
    base = Model(
        provider=provider,
        id=record.id,
        name=record.name,
        kind=record.kind,
        price=_price(record.price, f"{place}.price"),
        price_version=version,
        context_length=record.context_length,
        max_output_tokens=record.max_output_tokens,
        deprecated=record.deprecated,
        charges_besides=record.charges_besides,
    )
    if not record.changes:
        return base
    changes = (
        _change(change, base, f"{place}.changes[{number}]")
        for number, change in enumerate(record.changes)
    )
    return _Scheduled(base, tuple(changes))


def _change(change: ChangeRecord, base: Model, place: str) -> _Change:
    model = msgspec.structs.replace(base, price=_price(change.price, f"{place}.price"))
    if change.daily is not None and change.since is None:
        start, end = (_second_of_day(moment) for moment in change.daily)
        return _Change(daily=True, start=start, end=end, model=model)
    if change.since is not None and change.daily is None:
        midnight = datetime.combine(change.since, time_of_day(), UTC)
        return _Change(daily=False, start=int(midnight.timestamp()), end=None, model=model)
    raise ValueError(f"either `since` or `daily`, and not both - at `{place}`")


def _second_of_day(moment: time_of_day) -> int:
    return moment.hour * 3600 + moment.minute * 60 + moment.second


def _price(record: PriceRecord, place: str) -> Price:
    aboves = [tier.above for tier in record.tiers]
    if any(low >= high for low, high in pairwise(aboves)):
        raise ValueError(f"tiers are not in order - at `{place}.tiers`")
    tiers = tuple(Tier(tier.above, _rates(tier)) for tier in record.tiers)
    return _rates(record, tiers)


def _rates(record: RatesRecord, tiers: tuple[Tier, ...] = ()) -> Price:
    return Price(
        input=nano_from_text(record.input),
        output=0 if record.output is None else nano_from_text(record.output),
        cache_read=_nano(record.cache_read),
        cache_write=_nano(record.cache_write),
        cache_write_1h=_nano(record.cache_write_1h),
        reasoning=_nano(record.reasoning),
        input_audio=_nano(record.input_audio),
        cache_read_audio=_nano(record.cache_read_audio),
        output_audio=_nano(record.output_audio),
        input_image=_nano(record.input_image),
        cache_read_image=_nano(record.cache_read_image),
        output_image=_nano(record.output_image),
        tiers=tiers,
    )


def _nano(usd: str | None) -> int | None:
    return None if usd is None else nano_from_text(usd)


def _matcher(pattern: str, place: str) -> _Matches:
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern.removeprefix("re:"))
        except re.error as error:
            raise ValueError(f"{pattern!r} is no expression: {error} - at `{place}`") from error
        return lambda name: expression.search(name) is not None
    literal = pattern.strip("*").lower()
    if not literal or "*" in literal:
        raise ValueError(f"{pattern!r}: `*` stands at an end only - at `{place}`")
    if pattern.startswith("*") and pattern.endswith("*"):
        return lambda name: literal in name
    if pattern.startswith("*"):
        return lambda name: name.endswith(literal)
    if pattern.endswith("*"):
        return lambda name: name.startswith(literal)
    raise ValueError(f"{pattern!r} has no `*`: it is an alias - at `{place}`")
