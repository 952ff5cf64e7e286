"""What admins set about upstreams, as rows: provider keys, provider settings, model settings.

Functions over a connection, as in `store.py`: those that write are for `Ledger.execute`, those that
only list are also for `Ledger.read`. Called by `accounts/upstream_settings.py`. A provider key is
sealed before it comes here. What is named and not there is Missing; other contradictions are a
Conflict.
"""

import sqlite3
from collections.abc import Iterable

import msgspec

from gateway.errors import Conflict, Missing
from gateway.ledger.records import ModelSettings, ProviderKey, ProviderSettings

# --- provider keys ----------------------------------------------------------------------------

_PROVIDER_KEY = """SELECT id, provider, hint, created_ms, version, sealed, disabled_ms
    FROM provider_keys"""


def add_provider_key(conn: sqlite3.Connection, key: ProviderKey) -> ProviderKey:
    """Add a key; Conflict where its id is taken."""
    try:
        conn.execute(
            "INSERT INTO provider_keys VALUES (?, ?, ?, ?, ?, ?, ?)", msgspec.structs.astuple(key)
        )
    except sqlite3.IntegrityError as exc:
        raise Conflict(f"key: there is a provider key {key.id!r} already") from exc
    return key


def list_provider_keys(conn: sqlite3.Connection) -> list[ProviderKey]:
    """Every key, disabled ones too, first added first."""
    return [ProviderKey(*row) for row in conn.execute(f"{_PROVIDER_KEY} ORDER BY created_ms, id")]


def provider_key(conn: sqlite3.Connection, key_id: str) -> ProviderKey:
    """The key of that id; Missing where there is none."""
    for row in conn.execute(f"{_PROVIDER_KEY} WHERE id = ?", (key_id,)):
        return ProviderKey(*row)
    raise Missing(f"key: there is no provider key {key_id!r}")


def disable_provider_key(conn: sqlite3.Connection, key_id: str, at_ms: int) -> ProviderKey:
    """Take a key out of use; one disabled before keeps its time. Missing where there is none."""
    conn.execute(
        "UPDATE provider_keys SET disabled_ms = coalesce(disabled_ms, ?) WHERE id = ?",
        (at_ms, key_id),
    )
    return provider_key(conn, key_id)


def enable_provider_key(conn: sqlite3.Connection, key_id: str) -> ProviderKey:
    """Put a key into use again. Missing where there is none."""
    conn.execute("UPDATE provider_keys SET disabled_ms = NULL WHERE id = ?", (key_id,))
    return provider_key(conn, key_id)


def remove_provider_key(conn: sqlite3.Connection, key_id: str) -> ProviderKey:
    """Forget a key; returns what it was. Missing where there is none."""
    key = provider_key(conn, key_id)
    conn.execute("DELETE FROM provider_keys WHERE id = ?", (key_id,))
    return key


def reseal_provider_keys(conn: sqlite3.Connection, keys: Iterable[ProviderKey]) -> None:
    """Replace what is sealed of each key, and the version of the master key that did it."""
    conn.executemany(
        "UPDATE provider_keys SET version = ?, sealed = ? WHERE id = ?",
        [(key.version, key.sealed, key.id) for key in keys],
    )


# --- providers --------------------------------------------------------------------------------


def list_provider_settings(conn: sqlite3.Connection) -> list[ProviderSettings]:
    """What is set about providers, by name."""
    rows = conn.execute(
        """SELECT provider, paused_ms, paused_by, format, base_url, catalog
        FROM provider_settings ORDER BY provider"""
    )
    return [ProviderSettings(*row) for row in rows]


def put_provider_settings(conn: sqlite3.Connection, settings: ProviderSettings) -> ProviderSettings:
    """Set all that is set about a provider; a row that would say nothing is taken away."""
    if settings == ProviderSettings(settings.provider):
        conn.execute("DELETE FROM provider_settings WHERE provider = ?", (settings.provider,))
    else:
        conn.execute(
            "INSERT OR REPLACE INTO provider_settings VALUES (?, ?, ?, ?, ?, ?)",
            msgspec.structs.astuple(settings),
        )
    return settings


def remove_provider(conn: sqlite3.Connection, provider: str) -> None:
    """Forget all that was set about a provider, its keys and models. Missing where nothing was."""
    gone = 0
    for statement in (
        "DELETE FROM provider_settings WHERE provider = ?",
        "DELETE FROM provider_keys WHERE provider = ?",
        "DELETE FROM model_settings WHERE provider = ?",
    ):
        gone += conn.execute(statement, (provider,)).rowcount
    if not gone:
        raise Missing(f"provider: nothing was set about {provider!r}")


# --- models -----------------------------------------------------------------------------------


def list_model_settings(conn: sqlite3.Connection) -> list[ModelSettings]:
    """What is set about models, by provider and model."""
    rows = conn.execute(
        """SELECT provider, model, enabled, multiplier, price, context_length, max_output_tokens
        FROM model_settings ORDER BY provider, model"""
    )
    return [
        ModelSettings(
            provider,
            model,
            bool(enabled),
            multiplier,
            None if price is None else msgspec.json.decode(price, type=dict[str, str]),
            *bounds,
        )
        for provider, model, enabled, multiplier, price, *bounds in rows
    ]


def put_model_settings(conn: sqlite3.Connection, settings: ModelSettings) -> ModelSettings:
    """Set all that is set about a model."""
    conn.execute(
        "INSERT OR REPLACE INTO model_settings VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            settings.provider,
            settings.model,
            settings.enabled,
            settings.multiplier,
            None if settings.price is None else msgspec.json.encode(settings.price).decode(),
            settings.context_length,
            settings.max_output_tokens,
        ),
    )
    return settings


def remove_model_settings(conn: sqlite3.Connection, provider: str, model: str) -> None:
    """Forget what was set about a model. Missing where nothing was."""
    cursor = conn.execute(
        "DELETE FROM model_settings WHERE provider = ? AND model = ?", (provider, model)
    )
    if not cursor.rowcount:
        raise Missing(f"model: nothing was set about {provider}/{model}")
