"""What admins set about upstreams: durable before it is used, refused by field, never shown."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upstream_site import SECRET, any_url, key_text, never_fatal, opened, texts

from gateway.accounts.upstream_settings import UpstreamSettings, hint
from gateway.accounts.vault import Vault, path_of
from gateway.errors import Conflict, Missing, StoreError
from gateway.ledger.records import ModelSettings, ProviderSettings
from gateway.ledger.writer import Ledger


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[UpstreamSettings]:
    async with opened(tmp_path) as made:
        yield made


def altered(directory: Path, statement: str, *values: object) -> None:
    """Change the store behind the gateway's back."""
    with contextlib.closing(sqlite3.connect(directory / "gateway.db")) as conn, conn:
        conn.execute(statement, values)


def every_byte(directory: Path) -> bytes:
    """All that lies in the files of a directory."""
    return b"".join(one.read_bytes() for one in directory.iterdir() if one.is_file())


# --- provider keys ----------------------------------------------------------------------------


async def test_added_keys_are_used_in_the_order_they_came(settings: UpstreamSettings) -> None:
    one = await settings.add_key("openai", key_text(1))
    two = await settings.add_key("openai", f"  {key_text(2)}\n")
    other = await settings.add_key("anthropic", key_text(1))
    assert settings.stored_keys == {
        "openai": ((one.id, key_text(1)), (two.id, key_text(2))),
        "anthropic": ((other.id, key_text(1)),),
    }
    assert [key.id for key in settings.list_keys()] == [one.id, two.id, other.id]
    assert settings.list_keys("openai") == [one, two]


async def test_a_restart_finds_what_was_set(tmp_path: Path) -> None:
    async with opened(tmp_path) as settings:
        kept = await settings.add_key("openai", key_text(1))
        off = await settings.disable_key((await settings.add_key("openai", key_text(2))).id)
        await settings.remove_key((await settings.add_key("openai", key_text(3))).id)
        await settings.pause("openai", "daily_stop")
        await settings.set_base_url("extra", "openai", "https://extra.test/v1", "openai")
        await settings.set_model(
            ModelSettings("extra", "m", False, "1.5", {"input": "2.50", "output": "10"}, 8192, 1024)
        )
        before = dict(settings.providers), dict(settings.models), settings.list_keys()
    async with opened(tmp_path) as settings:
        assert (dict(settings.providers), dict(settings.models), settings.list_keys()) == before
        assert settings.stored_keys == {"openai": ((kept.id, key_text(1)),)}
        assert settings.list_keys() == [kept, off]
        assert settings.providers["openai"].paused_by == "daily_stop"
        assert settings.models["extra", "m"].price == {"input": "2.50", "output": "10"}


async def test_a_disabled_key_is_not_used_until_it_is_enabled(settings: UpstreamSettings) -> None:
    key = await settings.add_key("openai", key_text(1))
    off = await settings.disable_key(key.id)
    assert off.disabled_ms is not None
    assert settings.stored_keys == {}
    assert await settings.disable_key(key.id) == off
    assert await settings.enable_key(key.id) == key
    assert texts(settings) == {"openai": [key_text(1)]}


async def test_a_removed_key_is_gone(settings: UpstreamSettings, tmp_path: Path) -> None:
    key = await settings.add_key("openai", key_text(1))
    assert await settings.remove_key(key.id) == key
    assert settings.stored_keys == {}
    assert settings.list_keys() == []
    for verb in (settings.remove_key, settings.disable_key, settings.enable_key):
        with pytest.raises(Missing, match=f"key: there is no provider key '{key.id}'"):
            await verb(key.id)


async def test_the_same_key_is_not_added_twice(settings: UpstreamSettings) -> None:
    first = await settings.add_key("openai", key_text(1))
    with pytest.raises(Conflict, match=f"key: openai has this key already, as {first.id}") as no:
        await settings.add_key("openai", key_text(1))
    assert key_text(1) not in str(no.value)
    outcomes = await asyncio.gather(
        *(settings.add_key("openai", key_text(2)) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(one, Conflict) for one in outcomes) == 19
    assert texts(settings) == {"openai": [key_text(1), key_text(2)]}


@pytest.mark.parametrize(
    "text",
    ["", "short", "has space in it", "line\nbreak-in-it", "head\r\nx-evil: 1", "café-0123456789",
     "nul\x00in-the-text", "k" * 4097, "env:OPENAI_API_KEY"],
)  # fmt: skip
async def test_what_cannot_be_a_key_is_refused_and_not_quoted(
    settings: UpstreamSettings, text: str
) -> None:
    with pytest.raises(Conflict, match=r"^key: expected the key itself") as refused:
        await settings.add_key("openai", text)
    assert not text or text not in str(refused.value)
    assert settings.list_keys() == []


@pytest.mark.parametrize("name", ["", "Open AI", "a/b", "../x", "a" * 65, ".x", "ü"])
async def test_what_cannot_name_a_provider_is_refused(
    settings: UpstreamSettings, name: str
) -> None:
    with pytest.raises(Conflict, match=r"^provider: a name has only"):
        await settings.add_key(name, key_text(1))
    with pytest.raises(Conflict, match=r"^provider: a name has only"):
        await settings.pause(name, "admin")
    with pytest.raises(Conflict, match=r"^provider: a name has only"):
        await settings.set_base_url(name, "openai", "https://x.test")
    with pytest.raises(Conflict, match=r"^provider: a name has only"):
        await settings.set_model(ModelSettings(name, "m"))


@given(st.text(st.characters(codec="ascii"), max_size=100))
def test_a_hint_shows_at_most_a_third(text: str) -> None:
    head, tail = hint(text).split("…")
    assert len(head) == len(tail) <= 4
    assert 3 * (len(head) + len(tail)) <= len(text)
    assert text.startswith(head)
    assert text.endswith(tail)


def test_a_hint_is_the_two_ends() -> None:
    assert hint("sk-abcdefghijklmnopqrs9xyz") == "sk-a…9xyz"
    assert hint("12345678") == "1…8"


async def test_no_key_is_in_the_store_or_in_any_text_of_the_settings(tmp_path: Path) -> None:
    async with opened(tmp_path) as settings:
        added = [await settings.add_key("openai", key_text(number)) for number in range(30)]
        await settings.rotate_master()
        shown = f"{settings!r} {added!r} {settings.list_keys()!r} {settings.unusable!r}"
        held = every_byte(tmp_path)
    held += every_byte(tmp_path)
    for number in range(30):
        assert key_text(number) not in shown
        assert key_text(number).encode() not in held
        assert key_text(number)[10:25].encode() not in held


# --- keys that do not open --------------------------------------------------------------------


async def test_two_rows_swapped_in_the_store_are_named_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as settings:
        one = await settings.add_key("openai", key_text(1))
        two = await settings.add_key("openai", key_text(2))
        three = await settings.add_key("anthropic", key_text(3))
    altered(tmp_path, "UPDATE provider_keys SET sealed = ? WHERE id = ?", two.sealed, one.id)
    altered(tmp_path, "UPDATE provider_keys SET sealed = ? WHERE id = ?", one.sealed, two.id)
    altered(tmp_path, "UPDATE provider_keys SET provider = 'evil' WHERE id = ?", three.id)
    async with opened(tmp_path) as settings:
        assert settings.stored_keys == {}
        assert set(settings.unusable) == {one.id, two.id, three.id}
        assert settings.unusable[three.id] == (
            f"provider key {three.id} of evil: damaged, or moved here from another row"
        )
        assert sorted(caplog.messages) == sorted(settings.unusable.values())
        await settings.disable_key(one.id)
        with pytest.raises(Conflict, match=r"^key: provider key .* damaged"):
            await settings.enable_key(one.id)
        assert settings.list_keys()[0].disabled_ms is not None
        # The gateway goes on: other keys can be added and used.
        await settings.add_key("openai", key_text(4))
        assert texts(settings) == {"openai": [key_text(4)]}
        await settings.remove_key(one.id)
        assert set(settings.unusable) == {two.id, three.id}


async def test_a_lost_master_is_told_and_not_replaced_in_silence(tmp_path: Path) -> None:
    async with opened(tmp_path) as settings:
        key = await settings.add_key("openai", key_text(1))
    master = path_of(str(tmp_path / "gateway.db"))
    kept = master.read_bytes()
    master.unlink()
    async with opened(tmp_path) as settings:
        assert settings.stored_keys == {}
        with pytest.raises(Conflict, match=r"is not in .*gateway\.db\.master; restore it") as told:
            await settings.add_key("openai", key_text(2))
        assert key.id in str(told.value)
        assert not master.exists()
    master.write_bytes(kept)
    master.chmod(0o600)
    async with opened(tmp_path) as settings:
        assert texts(settings) == {"openai": [key_text(1)]}
    master.unlink()
    async with opened(tmp_path) as settings:
        await settings.remove_key(key.id)
        await settings.add_key("openai", key_text(2))
        assert texts(settings) == {"openai": [key_text(2)]}


# --- providers --------------------------------------------------------------------------------


async def test_a_pause_holds_until_it_is_resumed_and_the_first_one_counts(
    settings: UpstreamSettings,
) -> None:
    first = await settings.pause("openai", "daily_stop")
    assert (first.paused_by, first.paused_ms is None) == ("daily_stop", False)
    assert await settings.pause("openai", "admin") == first
    assert settings.providers == {"openai": first}
    assert await settings.resume("openai") == ProviderSettings("openai")
    assert settings.providers == {}
    assert await settings.resume("openai") == ProviderSettings("openai")


async def test_a_resumed_provider_keeps_its_base_url(settings: UpstreamSettings) -> None:
    made = await settings.set_base_url("extra", "gemini", "https://extra.test/v1beta", "google")
    await settings.pause("extra", "admin")
    assert await settings.resume("extra") == made
    assert made == ProviderSettings(
        "extra", None, None, "gemini", "https://extra.test/v1beta", "google"
    )


async def test_a_base_url_is_kept_as_the_check_spells_it(settings: UpstreamSettings) -> None:
    made = await settings.set_base_url("extra", "openai", "https://extra.test/v1/")
    assert made.base_url == "https://extra.test/v1"


async def test_a_refused_base_url_changes_nothing(tmp_path: Path) -> None:
    async def refuse(url: str) -> str:
        raise Conflict("base_url: no")

    ledger = await Ledger.open(
        str(tmp_path / "gateway.db"), secret=SECRET, durability="full", on_fatal=never_fatal
    )
    vault = Vault.load(str(tmp_path / "gateway.db"), {})
    for check, why in ((refuse, "no"), (None, "is set while a server runs")):
        settings = await UpstreamSettings.load(ledger, vault, check_base_url=check)
        with pytest.raises(Conflict, match=rf"^base_url: {why}"):
            await settings.set_base_url("extra", "openai", "https://extra.test/v1")
        assert settings.providers == {}
    await ledger.close()


async def test_keys_do_not_follow_a_base_url_to_another_host(settings: UpstreamSettings) -> None:
    refused = r"^base_url: openai has keys that were given for another host"
    key = await settings.add_key("openai", key_text(1))
    await settings.disable_key(key.id)
    with pytest.raises(Conflict, match=refused):
        await settings.set_base_url("openai", "openai", "https://evil.test/v1")
    await settings.remove_key(key.id)
    await settings.set_base_url("openai", "openai", "https://one.test/v1")
    await settings.add_key("openai", key_text(2))
    for other in ("https://two.test/v1", "https://one.test:8443/v1", "https://one.test.evil.test"):
        with pytest.raises(Conflict, match=refused):
            await settings.set_base_url("openai", "openai", other)
    moved = await settings.set_base_url("openai", "openai", "https://one.test/v2")
    assert settings.providers == {"openai": moved}
    assert moved.base_url == "https://one.test/v2"


async def test_a_removed_provider_leaves_nothing_behind(tmp_path: Path) -> None:
    async with opened(tmp_path) as settings:
        for name in ("extra", "other"):
            await settings.set_base_url(name, "openai", f"https://{name}.test")
            await settings.add_key(name, key_text(1))
            await settings.set_model(ModelSettings(name, "m"))
            await settings.pause(name, "admin")
        await settings.remove_provider("extra")
        for one in (settings.providers, settings.stored_keys):
            assert list(one) == ["other"]
        assert list(settings.models) == [("other", "m")]
        with pytest.raises(Missing, match="provider: nothing was set about 'extra'"):
            await settings.remove_provider("extra")
        before = settings.providers, settings.stored_keys, settings.models
    async with opened(tmp_path) as settings:
        assert (settings.providers, settings.stored_keys, settings.models) == before


@pytest.mark.parametrize("format", ["all", "", "OpenAI"])
async def test_an_unknown_format_is_refused(settings: UpstreamSettings, format: str) -> None:
    with pytest.raises(Conflict, match=r"^format: expected one of openai, anthropic, gemini"):
        await settings.set_base_url("extra", format, "https://x.test")  # type: ignore[arg-type]


# --- models -----------------------------------------------------------------------------------


async def test_a_model_is_set_whole_and_unset(settings: UpstreamSettings) -> None:
    first = ModelSettings("openai", "gpt-4o", multiplier="1.25", max_output_tokens=100)
    assert await settings.set_model(first) == first
    second = ModelSettings("openai", "gpt-4o", enabled=False)
    await settings.set_model(second)
    assert settings.models == {("openai", "gpt-4o"): second}
    await settings.remove_model("openai", "gpt-4o")
    assert settings.models == {}
    with pytest.raises(Missing, match="model: nothing was set about openai/gpt-4o"):
        await settings.remove_model("openai", "gpt-4o")


@pytest.mark.parametrize(
    ("settings_of", "field"),
    [
        (ModelSettings("openai", ""), "model"),
        (ModelSettings("openai", "a b"), "model"),
        (ModelSettings("openai", "m" * 257), "model"),
        (ModelSettings("openai", "m", multiplier="-1"), "multiplier"),
        (ModelSettings("openai", "m", multiplier="1e3"), "multiplier"),
        (ModelSettings("openai", "m", multiplier=""), "multiplier"),
        (ModelSettings("openai", "m", multiplier="NaN"), "multiplier"),
        (ModelSettings("openai", "m", multiplier="99999"), "multiplier"),
        (ModelSettings("openai", "m", multiplier="١"), "multiplier"),
        (ModelSettings("openai", "m", multiplier="1.5\n"), "multiplier"),
        (ModelSettings("openai", "m", context_length=0), "context_length"),
        (ModelSettings("openai", "m", max_output_tokens=10**9 + 1), "max_output_tokens"),
        (ModelSettings("openai", "m", price={}), "price"),
        (ModelSettings("openai", "m", price={"output": "1"}), "price"),
        (ModelSettings("openai", "m", price={"input": "-1"}), "price"),
        (ModelSettings("openai", "m", price={"input": "1.0000000001"}), "price"),
        (ModelSettings("openai", "m", price={"input": "1e9"}), "price"),
        (ModelSettings("openai", "m", price={"input": "12345678"}), "price"),
        (ModelSettings("openai", "m", price={"input": "1", "inputs": "1"}), "price"),
    ],
)
async def test_a_model_out_of_bounds_is_refused_with_the_field(
    settings: UpstreamSettings, settings_of: ModelSettings, field: str
) -> None:
    with pytest.raises(Conflict, match=rf"^{field}: "):
        await settings.set_model(settings_of)
    assert settings.models == {}


# --- the order of things ----------------------------------------------------------------------


async def test_whoever_builds_from_the_settings_is_told_after_each_change(
    settings: UpstreamSettings,
) -> None:
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        held = sum(map(len, settings.stored_keys.values()))
        seen.append((held, len(settings.providers), len(settings.models)))

    settings.on_change = look
    key = await settings.add_key("openai", key_text(1))
    await settings.disable_key(key.id)
    await settings.enable_key(key.id)
    await settings.pause("openai", "admin")
    await settings.pause("openai", "admin")  # changes nothing
    await settings.set_model(ModelSettings("openai", "m"))
    await settings.remove_model("openai", "m")
    await settings.resume("openai")
    await settings.set_base_url("extra", "openai", "https://x.test")
    await settings.remove_provider("extra")
    await settings.remove_key(key.id)
    with pytest.raises(Missing):
        await settings.remove_key(key.id)
    assert seen == [
        (1, 0, 0), (0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 1, 0), (1, 0, 0), (1, 1, 0),
        (1, 0, 0), (0, 0, 0),
    ]  # fmt: skip


async def test_a_snapshot_taken_before_a_change_stays_as_it_was(settings: UpstreamSettings) -> None:
    await settings.add_key("openai", key_text(1))
    await settings.pause("openai", "admin")
    await settings.set_model(ModelSettings("openai", "m"))
    taken = settings.stored_keys, settings.providers, settings.models
    sizes = [len(one) for one in taken]
    await settings.remove_provider("openai")
    assert [len(one) for one in taken] == sizes == [1, 1, 1]


async def test_a_verb_whose_caller_is_gone_runs_to_its_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as settings:
        told = asyncio.Event()
        settings.on_change = told.set
        task = asyncio.get_running_loop().create_task(settings.add_key("openai", key_text(1)))
        while not settings._writing:  # noqa: ASYNC110 - one turn of the loop
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            await told.wait()
        assert texts(settings) == {"openai": [key_text(1)]}
    async with opened(tmp_path) as settings:
        assert texts(settings) == {"openai": [key_text(1)]}


async def test_what_the_store_refuses_is_not_applied(tmp_path: Path) -> None:
    ledger = await Ledger.open(
        str(tmp_path / "gateway.db"), secret=SECRET, durability="full", on_fatal=never_fatal
    )
    vault = Vault.load(str(tmp_path / "gateway.db"), {})
    settings = await UpstreamSettings.load(ledger, vault, check_base_url=any_url)
    key = await settings.add_key("openai", key_text(1))
    before = settings.stored_keys, settings.providers, settings.models
    changes: list[None] = []
    settings.on_change = lambda: changes.append(None)
    await ledger.close()
    for verb in (
        settings.add_key("openai", key_text(2)),
        settings.disable_key(key.id),
        settings.remove_key(key.id),
        settings.pause("openai", "admin"),
        settings.set_base_url("extra", "openai", "https://x.test"),
        settings.set_model(ModelSettings("openai", "m")),
        settings.remove_provider("openai"),
    ):
        with pytest.raises(StoreError, match="the ledger is closed"):
            await verb
    assert (settings.stored_keys, settings.providers, settings.models) == before
    assert changes == []
