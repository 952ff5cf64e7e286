"""Rows of upstream settings: what is written is what is listed, and the wrong id is told."""

import sqlite3
from collections.abc import Callable
from typing import TypeVar

import pytest

from gateway.errors import Conflict, Missing
from gateway.ledger import control
from gateway.ledger.records import ModelSettings, ProviderKey, ProviderSettings
from gateway.ledger.writer import Ledger

KEY = ProviderKey("pk_1", "openai", "sk-a…9xyz", 5, 2**48 - 1, b"\x00sealed\xff")

T = TypeVar("T")


def writing(
    write: Callable[[sqlite3.Connection, T], T], value: T
) -> Callable[[sqlite3.Connection], T]:
    return lambda conn: write(conn, value)


async def test_keys_are_listed_as_they_were_added_oldest_first(ledger: Ledger) -> None:
    newer = ProviderKey("pk_0", "openai", "…", 6, 1, b"x", 7)
    for key in (newer, KEY):
        await ledger.execute(writing(control.add_provider_key, key))
    assert await ledger.read(control.list_provider_keys) == [KEY, newer]


async def test_an_id_is_taken_once(ledger: Ledger) -> None:
    await ledger.execute(lambda conn: control.add_provider_key(conn, KEY))
    other = ProviderKey("pk_1", "anthropic", "…", 6, 1, b"x")
    with pytest.raises(Conflict, match="there is a provider key 'pk_1' already"):
        await ledger.execute(lambda conn: control.add_provider_key(conn, other))
    assert await ledger.read(control.list_provider_keys) == [KEY]


async def test_sealing_anew_changes_version_and_seal_and_nothing_else(ledger: Ledger) -> None:
    await ledger.execute(lambda conn: control.add_provider_key(conn, KEY))
    anew = ProviderKey("pk_1", "ignored", "ignored", 0, 7, b"anew", 9)
    await ledger.execute(lambda conn: control.reseal_provider_keys(conn, [anew]))
    assert await ledger.read(control.list_provider_keys) == [
        ProviderKey("pk_1", "openai", "sk-a…9xyz", 5, 7, b"anew")
    ]


async def test_settings_that_say_nothing_have_no_row(ledger: Ledger) -> None:
    paused = ProviderSettings("openai", 1, "admin")
    moved = ProviderSettings("extra", None, None, "gemini", "https://extra.test", "google")
    for one in (paused, moved):
        await ledger.execute(writing(control.put_provider_settings, one))
    assert await ledger.read(control.list_provider_settings) == [moved, paused]
    await ledger.execute(
        lambda conn: control.put_provider_settings(conn, ProviderSettings("openai"))
    )
    assert await ledger.read(control.list_provider_settings) == [moved]


async def test_models_keep_their_prices_as_text(ledger: Ledger) -> None:
    priced = ModelSettings("a", "m", True, "1.50", {"input": "2.50", "output": "0.000000001"}, 8, 4)
    plain = ModelSettings("a", "n", enabled=False)
    for one in (plain, priced):
        await ledger.execute(writing(control.put_model_settings, one))
    assert await ledger.read(control.list_model_settings) == [priced, plain]
    await ledger.execute(lambda conn: control.remove_model_settings(conn, "a", "m"))
    assert await ledger.read(control.list_model_settings) == [plain]


async def test_what_is_not_there_is_missing(ledger: Ledger) -> None:
    for change in (
        lambda conn: control.remove_provider_key(conn, "pk_9"),
        lambda conn: control.disable_provider_key(conn, "pk_9", 1),
        lambda conn: control.enable_provider_key(conn, "pk_9"),
        lambda conn: control.remove_provider(conn, "nobody"),
        lambda conn: control.remove_model_settings(conn, "a", "m"),
    ):
        with pytest.raises(Missing):
            await ledger.execute(change)
