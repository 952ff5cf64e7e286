"""What admins set about upstreams: provider keys, pauses, base URLs, models. A snapshot, and verbs.

The snapshot (`stored_keys`, `providers`, `models`) goes before the configuration wherever they
disagree; whoever builds providers and routes from it sets `on_change`. A verb commits through the
ledger's writer first and changes the snapshot only then, as in `accounts.py`. Provider keys are
sealed in the store (`vault.py`) and plain in memory; nothing here shows one, `repr` included.

A key is bound to the host it was given for: while a provider has keys, its base URL may not be set
to another origin, or whoever may set URLs could read every key by it.

Event-loop thread only. Called by `app.py` (`load`), the admin verbs (all else) and the daily stop
(`pause`). Names that are not there are Missing, other contradictions a Conflict; both open with the
field at fault.
"""

import asyncio
import logging
import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, TypeVar

import msgspec

from gateway.accounts import keys
from gateway.accounts.accounts import wall_clock_ms
from gateway.accounts.vault import Sealed, Vault
from gateway.errors import Conflict
from gateway.ledger import control
from gateway.ledger.catalog import MODEL_NAME_CHARS_MAX, RatesRecord
from gateway.ledger.records import ModelSettings, ProviderKey, ProviderSettings
from gateway.ledger.writer import Ledger

PausedBy = Literal["admin", "daily_stop"]
Format = Literal["openai", "anthropic", "gemini"]

CheckUrl = Callable[[str], Awaitable[str]]
"""Gives a base URL in its one spelling, or raises Conflict: `proxy.guard.check_base_url`."""

KEY_CHARS_MIN = 8
KEY_CHARS_MAX = 4096
TOKENS_MAX = 1_000_000_000

_HINT_CHARS = 4
_ID_CHARS = 16
_FORMATS = ("openai", "anthropic", "gemini")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KEY = re.compile(rf"[\x21-\x7e]{{{KEY_CHARS_MIN},{KEY_CHARS_MAX}}}")
_MODEL = re.compile(rf"[\x21-\x7e]{{1,{MODEL_NAME_CHARS_MAX}}}")
_MULTIPLIER = re.compile(r"[0-9]{1,4}(\.[0-9]{1,9})?")

_log = logging.getLogger("gateway.accounts")

T = TypeVar("T")


class Rotation(msgspec.Struct, frozen=True):
    """A new master key seals: `resealed` keys, all by `version`. `left_to_do` is the operator's."""

    version: int
    resealed: int
    left_to_do: str | None = None


class UpstreamSettings:
    """The snapshot. Make one with `load`; there is one per open ledger."""

    def __init__(
        self,
        ledger: Ledger,
        vault: Vault,
        clock_ms: Callable[[], int],
        check_base_url: CheckUrl | None,
    ) -> None:
        self._ledger = ledger
        self._vault = vault
        self._clock_ms = clock_ms
        self._check_base_url = check_base_url
        self._keys: dict[str, ProviderKey] = {}
        self._texts: dict[str, str] = {}
        self._unusable: dict[str, str] = {}
        self._stored_keys: dict[str, tuple[tuple[str, str], ...]] = {}
        self._providers: dict[str, ProviderSettings] = {}
        self._models: dict[tuple[str, str], ModelSettings] = {}
        self._order = asyncio.Lock()
        self._writing: set[asyncio.Task[object]] = set()
        self.on_change: Callable[[], None] | None = None
        """Called after each change of the snapshot, before the verb that made it returns."""

    @classmethod
    async def load(
        cls,
        ledger: Ledger,
        vault: Vault,
        *,
        clock_ms: Callable[[], int] = wall_clock_ms,
        check_base_url: CheckUrl | None = None,
    ) -> "UpstreamSettings":
        """Read all that was set. A key that does not open is logged, and not used.

        `check_base_url` refuses what is not a public https address; without it no base URL is set.
        """
        settings = cls(ledger, vault, clock_ms, check_base_url)
        found, providers, models = await ledger.read(
            lambda conn: (
                control.list_provider_keys(conn),
                control.list_provider_settings(conn),
                control.list_model_settings(conn),
            )
        )
        for key in found:
            settings._keys[key.id] = key
            settings._open(key)
        settings._providers = {one.provider: one for one in providers}
        settings._models = {(one.provider, one.model): one for one in models}
        settings._collect()
        return settings

    def __repr__(self) -> str:
        return f"UpstreamSettings({len(self._keys)} keys, {len(self._unusable)} unusable)"

    # The snapshot

    @property
    def stored_keys(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        """Provider -> (id, secret text) of each key in use, first added first. A new object after
        each change; never print it.
        """
        return self._stored_keys

    @property
    def providers(self) -> Mapping[str, ProviderSettings]:
        """What is set about providers, by name. A new object after each change."""
        return self._providers

    @property
    def models(self) -> Mapping[tuple[str, str], ModelSettings]:
        """What is set about models, by provider and model. A new object after each change."""
        return self._models

    @property
    def unusable(self) -> Mapping[str, str]:
        """Id of each key that does not open -> why, in one line."""
        return self._unusable

    def list_keys(self, provider: str | None = None) -> list[ProviderKey]:
        """All keys or one provider's, disabled ones too, first added first."""
        found = [one for one in self._keys.values() if provider in (None, one.provider)]
        return sorted(found, key=lambda one: (one.created_ms, one.id))

    # Provider keys

    async def add_key(self, provider: str, text: str) -> ProviderKey:
        """Seal a provider's key and use it from now on; only its hint can be seen again."""
        _check_name(provider)
        text = text.strip()
        if text.startswith("env:") or not _KEY.fullmatch(text):
            raise Conflict(
                f"key: expected the key itself: {KEY_CHARS_MIN} to {KEY_CHARS_MAX} printable ASCII "
                "characters without spaces"
            )
        row = ProviderKey(
            id="pk_" + keys.random_text(_ID_CHARS),
            provider=provider,
            hint=hint(text),
            created_ms=self._clock_ms(),
            version=0,
            sealed=b"",
        )

        async def add() -> ProviderKey:
            for key_id, known in self._texts.items():
                if known == text and self._keys[key_id].provider == provider:
                    raise Conflict(f"key: {provider} has this key already, as {key_id}")
            await self._prepare_vault()
            sealed = self._vault.seal(row, text)
            await self._ledger.execute(lambda conn: control.add_provider_key(conn, sealed))
            self._keys[sealed.id] = sealed
            self._texts[sealed.id] = text
            self._changed()
            return sealed

        return await self._in_order(add)

    async def disable_key(self, key_id: str) -> ProviderKey:
        """Use a key no longer, and keep it; disabling twice changes nothing."""
        now_ms = self._clock_ms()
        return await self._commit(
            lambda conn: control.disable_provider_key(conn, key_id, now_ms), self._put_key
        )

    async def enable_key(self, key_id: str) -> ProviderKey:
        """Use a disabled key again. Conflict where it does not open."""

        def change(conn: sqlite3.Connection) -> ProviderKey:
            key = control.enable_provider_key(conn, key_id)
            if key_id in self._unusable:
                raise Conflict(f"key: {self._unusable[key_id]}")
            return key

        return await self._commit(change, self._put_key)

    async def remove_key(self, key_id: str) -> ProviderKey:
        """Forget a key."""

        def apply(key: ProviderKey) -> None:
            self._forget_key(key.id)

        return await self._commit(lambda conn: control.remove_provider_key(conn, key_id), apply)

    async def rotate_master(self) -> Rotation:
        """Seal every key anew under a new master key; see `vault.py` for what a crash leaves.

        Conflict where a key does not open: it would be lost with the old master, so it is to be
        removed first. StoreError where a step could not be written: nothing is lost, rotate again.
        """

        async def rotate() -> Rotation:
            if self._unusable:
                why = next(iter(self._unusable.values()))
                raise Conflict(f"key: {why}; remove it first")
            await asyncio.to_thread(self._vault.begin_rotation)
            rows = [
                self._vault.seal(key, self._texts[key_id]) for key_id, key in self._keys.items()
            ]
            await self._ledger.execute(lambda conn: control.reseal_provider_keys(conn, rows))
            self._keys = {row.id: row for row in rows}
            left_to_do = await asyncio.to_thread(self._vault.end_rotation)
            return Rotation(self._vault.version, len(rows), left_to_do)

        return await self._in_order(rotate)

    # Providers

    async def pause(self, provider: str, by: PausedBy) -> ProviderSettings:
        """Send nothing to a provider until it is resumed; pausing twice keeps the first pause."""
        _check_name(provider)
        now_ms = self._clock_ms()

        def paused(before: ProviderSettings) -> ProviderSettings:
            if before.paused_ms is not None:
                return before
            return msgspec.structs.replace(before, paused_ms=now_ms, paused_by=by)

        return await self._change_provider(provider, paused)

    async def resume(self, provider: str) -> ProviderSettings:
        """Use a paused provider again; resuming one that is not paused changes nothing."""
        _check_name(provider)
        return await self._change_provider(
            provider,
            lambda before: msgspec.structs.replace(before, paused_ms=None, paused_by=None),
        )

    async def set_base_url(
        self,
        provider: str,
        format: Format,
        base_url: str,
        catalog: str | None = None,
    ) -> ProviderSettings:
        """Say where a provider is; one that the configuration does not know is made by it.

        `catalog` names the provider of the catalog that prices it. Conflict where it is not a
        public https address, or where the provider has keys that were added for another host (or
        for the configured one): remove them first, and add them again.
        """
        _check_name(provider)
        if format not in _FORMATS:
            raise Conflict(f"format: expected one of {', '.join(_FORMATS)}")
        if catalog is not None:
            _check_name(catalog, "catalog")
        if self._check_base_url is None:
            raise Conflict("base_url: is set while a server runs, which checks where it leads")
        url = await self._check_base_url(base_url)

        def moved(before: ProviderSettings) -> ProviderSettings:
            has_keys = any(key.provider == provider for key in self._keys.values())
            if has_keys and _origin(before.base_url) != _origin(url):
                raise Conflict(
                    f"base_url: {provider} has keys that were given for another host: "
                    "remove them first"
                )
            return msgspec.structs.replace(before, format=format, base_url=url, catalog=catalog)

        return await self._change_provider(provider, moved)

    async def remove_provider(self, provider: str) -> None:
        """Forget all that admins set about a provider: its pause, URL, keys and models."""

        def apply(_: None) -> None:
            for key in self.list_keys(provider):
                self._forget_key(key.id)
            self._providers = {
                name: one for name, one in self._providers.items() if name != provider
            }
            self._models = {at: one for at, one in self._models.items() if at[0] != provider}

        await self._commit(lambda conn: control.remove_provider(conn, provider), apply)

    # Models

    async def set_model(self, settings: ModelSettings) -> ModelSettings:
        """Set all that is set about a model of a provider; what is None is the catalog's."""
        _check_model(settings)

        def apply(done: ModelSettings) -> None:
            self._models = {**self._models, (done.provider, done.model): done}

        return await self._commit(lambda conn: control.put_model_settings(conn, settings), apply)

    async def remove_model(self, provider: str, model: str) -> None:
        """Forget what was set about a model: the catalog's word is good again."""

        def apply(_: None) -> None:
            self._models = {at: one for at, one in self._models.items() if at != (provider, model)}

        await self._commit(lambda conn: control.remove_model_settings(conn, provider, model), apply)

    # Committing and applying

    async def _in_order(self, change: Callable[[], Awaitable[T]]) -> T:
        """Run one verb at a time, each to its end even if the caller is cancelled (its client hung
        up): what is in the store and not in the snapshot would be wrong until the next start.
        """

        async def run() -> T:
            async with self._order:
                return await change()

        task = asyncio.get_running_loop().create_task(run())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return await asyncio.shield(task)

    async def _commit(
        self, change: Callable[[sqlite3.Connection], T], apply: Callable[[T], None]
    ) -> T:
        async def run() -> T:
            result = await self._ledger.execute(change)
            apply(result)
            self._changed()
            return result

        return await self._in_order(run)

    async def _change_provider(
        self, provider: str, change: Callable[[ProviderSettings], ProviderSettings]
    ) -> ProviderSettings:
        async def run() -> ProviderSettings:
            before = self._providers.get(provider, ProviderSettings(provider))
            after = change(before)
            if after == before:
                return before
            await self._ledger.execute(lambda conn: control.put_provider_settings(conn, after))
            others = {name: one for name, one in self._providers.items() if name != provider}
            empty = after == ProviderSettings(provider)
            self._providers = others if empty else {**others, provider: after}
            self._changed()
            return after

        return await self._in_order(run)

    async def _prepare_vault(self) -> None:
        if not self._vault.ready:
            if self._keys:
                # A fresh master would be written over by the old one when that is restored.
                why = next(iter(self._unusable.values()))
                raise Conflict(f"key: {why}; restore it, or remove the key")
            await asyncio.to_thread(self._vault.prepare)

    def _open(self, key: ProviderKey) -> None:
        try:
            self._texts[key.id] = self._vault.open(key)
        except Sealed as exc:
            self._unusable[key.id] = str(exc)
            _log.error("%s", exc)

    def _put_key(self, key: ProviderKey) -> None:
        self._keys[key.id] = key

    def _forget_key(self, key_id: str) -> None:
        self._keys.pop(key_id, None)
        self._texts.pop(key_id, None)
        self._unusable.pop(key_id, None)

    def _changed(self) -> None:
        self._collect()
        if self.on_change is not None:
            self.on_change()

    def _collect(self) -> None:
        collected: dict[str, tuple[tuple[str, str], ...]] = {}
        for key in self.list_keys():
            if key.disabled_ms is None and key.id in self._texts:
                one = (key.id, self._texts[key.id])
                collected[key.provider] = (*collected.get(key.provider, ()), one)
        self._stored_keys = collected


def hint(text: str) -> str:
    """What may be shown of a provider key: its two ends, and never more than a third of it."""
    shown = min(_HINT_CHARS, len(text) // 6)
    return f"{text[:shown]}…{text[-shown:]}" if shown else "…"


def _origin(url: str | None) -> str:
    """Scheme, host and port of a URL in its one spelling."""
    return "" if url is None else "/".join(url.split("/", 3)[:3])


def _check_name(name: str, field: str = "provider") -> None:
    if not _NAME.fullmatch(name):
        raise Conflict(f"{field}: a name has only a-z 0-9 . _ - and at most 64 of them")


def _check_model(settings: ModelSettings) -> None:
    _check_name(settings.provider)
    if not _MODEL.fullmatch(settings.model):
        raise Conflict(
            f"model: expected 1 to {MODEL_NAME_CHARS_MAX} printable ASCII characters, no spaces"
        )
    if not _MULTIPLIER.fullmatch(settings.multiplier):
        raise Conflict('multiplier: expected a plain decimal from 0 to 9999, such as "1.25"')
    for field in ("context_length", "max_output_tokens"):
        tokens = getattr(settings, field)
        if tokens is not None and not 1 <= tokens <= TOKENS_MAX:
            raise Conflict(f"{field}: expected 1 to {TOKENS_MAX}")
    if settings.price is not None:
        try:
            msgspec.convert(settings.price, RatesRecord)
        except msgspec.ValidationError as exc:
            raise Conflict(f"price: US dollars per million tokens as text: {exc}") from None
