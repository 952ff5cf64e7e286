"""Provider keys at rest: what is sealed opens in its own row, with its own master, and only so."""

import os
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.accounts import vault as vaults
from gateway.accounts.vault import Sealed, Vault, path_of
from gateway.errors import Conflict, StoreError
from gateway.ledger.records import ProviderKey

NOTHING: dict[str, str] = {}
TEXT = "sk-provider-0123456789abcdefghij"
MASTER = bytes(range(32))
OTHER = bytes(range(1, 33))


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "gateway.db")


def a_row(key_id: str = "pk_1", provider: str = "openai") -> ProviderKey:
    return ProviderKey(key_id, provider, "sk-p…ghij", 1, 0, b"")


def a_vault(master: bytes = MASTER, following: bytes | None = None) -> Vault:
    environ = {"GATEWAY_MASTER": master.hex()}
    if following is not None:
        environ["GATEWAY_MASTER_NEXT"] = following.hex()
    return Vault.load("/nowhere/gateway.db", environ)


def prepared(store: str) -> Vault:
    vault = Vault.load(store, NOTHING)
    vault.prepare()
    return vault


# --- sealing ----------------------------------------------------------------------------------


def test_what_is_sealed_opens_and_does_not_show() -> None:
    vault = a_vault()
    row = vault.seal(a_row(), TEXT)
    assert vault.open(row) == TEXT
    assert row.version == vaults.version_of(MASTER)
    assert len(row.sealed) == 12 + len(TEXT) + 16
    assert TEXT.encode()[:8] not in row.sealed


def test_the_same_text_is_never_sealed_the_same_way_twice() -> None:
    vault = a_vault()
    nonces = {vault.seal(a_row(), TEXT).sealed[:12] for _ in range(1000)}
    assert len(nonces) == 1000


@given(st.text(min_size=1, max_size=200), st.text(max_size=20), st.text(max_size=20))
def test_any_text_of_any_row_opens_again(text: str, key_id: str, provider: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    key_id, provider = (one.encode("utf-8", "ignore").decode() for one in (key_id, provider))
    vault = a_vault()
    assert vault.open(vault.seal(a_row(key_id, provider), text)) == text


@pytest.mark.parametrize(
    "other",
    [a_row("pk_2"), a_row(provider="anthropic"), a_row("pk_1x"), a_row("k_1", "openaip")],
    ids=lambda row: f"{row.provider}-{row.id}",
)
def test_two_rows_cannot_swap_what_they_hold(other: ProviderKey) -> None:
    vault = a_vault()
    one, two = vault.seal(a_row(), TEXT), vault.seal(other, "sk-another-key-0123456789")
    for row, taken in ((one, two), (two, one)):
        with pytest.raises(Sealed, match="damaged, or moved here from another row") as refused:
            vault.open(msgspec.structs.replace(row, sealed=taken.sealed))
        assert f"{row.id} of {row.provider}" in str(refused.value)


def test_a_boundary_between_provider_and_id_cannot_be_moved() -> None:
    vault = a_vault()
    row = vault.seal(a_row("b\0c", "a"), TEXT)
    with pytest.raises(Sealed):
        vault.open(msgspec.structs.replace(row, id="c", provider="a\0b"))


@given(st.data())
@settings(max_examples=300)
def test_no_changed_cut_or_lengthened_byte_is_accepted(data: st.DataObject) -> None:
    vault = a_vault()
    row = vault.seal(a_row(), TEXT)
    sealed = row.sealed
    how = data.draw(st.sampled_from(["flip", "cut", "append", "drop_front"]))
    at = data.draw(st.integers(0, len(sealed) - 1))
    if how == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        sealed = sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :]
    elif how == "cut":
        sealed = sealed[:at]
    elif how == "append":
        sealed += data.draw(st.binary(min_size=1, max_size=20))
    else:
        sealed = sealed[at + 1 :]
    with pytest.raises(Sealed, match="damaged") as refused:
        vault.open(msgspec.structs.replace(row, sealed=sealed))
    assert TEXT not in str(refused.value)


def test_another_master_is_told_from_damage() -> None:
    row = a_vault(OTHER).seal(a_row(), TEXT)
    with pytest.raises(Sealed) as refused:
        a_vault().open(row)
    assert str(refused.value) == (
        "provider key pk_1 of openai: sealed with a master key that is not in GATEWAY_MASTER"
    )


def test_a_row_that_claims_another_version_does_not_open() -> None:
    vault = a_vault(MASTER, OTHER)
    row = vault.seal(a_row(), TEXT)
    assert row.version == vaults.version_of(OTHER)
    with pytest.raises(Sealed, match="damaged"):
        vault.open(msgspec.structs.replace(row, version=vaults.version_of(MASTER)))


def test_a_vault_does_not_show_its_masters() -> None:
    shown = repr(a_vault())
    assert MASTER.hex() not in shown
    assert repr(MASTER) not in shown


# --- where the master comes from --------------------------------------------------------------


def test_no_master_is_made_before_there_is_something_to_seal(store: str, tmp_path: Path) -> None:
    vault = Vault.load(store, NOTHING)
    assert not vault.ready
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_the_first_master_is_a_private_file_of_32_random_bytes(store: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        vault = prepared(store)
    finally:
        os.umask(before)
    path = path_of(store)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert vault.version == vaults.version_of(bytes.fromhex(path.read_text()))
    assert [one.name for one in path.parent.iterdir()] == ["gateway.db.master"]


def test_a_later_start_opens_what_an_earlier_one_sealed(store: str) -> None:
    row = prepared(store).seal(a_row(), TEXT)
    again = Vault.load(store, NOTHING)
    again.prepare()
    assert again.open(row) == TEXT


def test_a_master_put_back_since_the_start_is_not_written_over(store: str) -> None:
    vault = Vault.load(store, NOTHING)
    row = prepared(store).seal(a_row(), TEXT)
    vault.prepare()
    assert vault.open(row) == TEXT


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_file_that_others_can_read_is_refused(store: str, mode: int) -> None:
    prepared(store)
    path_of(store).chmod(mode)
    with pytest.raises(StoreError, match="can be read by other users: run chmod 600"):
        Vault.load(store, NOTHING)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"zz zz", "neither hex nor base64|holds"),
        (b"00" * 31, "holds 31 bytes"),
        (b"00" * 33, "holds 33 bytes"),
        (b"00" * 32 + b"\n" + b"11" * 20, "holds 20 bytes"),
        (b"\xff\xfe", "not plain text"),
    ],
)
def test_a_file_that_holds_no_master_is_refused_and_kept(
    store: str, content: bytes, why: str
) -> None:
    path = path_of(store)
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreError, match=why) as refused:
        Vault.load(store, NOTHING)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused_without_waiting(store: str) -> None:
    os.mkfifo(path_of(store), 0o600)
    with pytest.raises(StoreError, match="is not a file"):
        Vault.load(store, NOTHING)


def test_a_credential_of_systemd_is_a_master(store: str, tmp_path: Path) -> None:
    (tmp_path / "gateway-master").write_text(MASTER.hex() + "\n")
    vault = Vault.load(store, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert a_vault().open(vault.seal(a_row(), TEXT)) == TEXT
    assert not path_of(store).exists()


def test_a_given_master_may_be_that_of_the_file_and_no_other(store: str) -> None:
    vault = prepared(store)
    text = path_of(store).read_text().strip()
    assert Vault.load(store, {"GATEWAY_MASTER": text}).version == vault.version
    with pytest.raises(StoreError, match="hold different master keys") as refused:
        Vault.load(store, {"GATEWAY_MASTER": MASTER.hex()})
    assert MASTER.hex() not in str(refused.value)
    assert text not in str(refused.value)


def test_a_next_master_alone_is_a_mistake(store: str) -> None:
    with pytest.raises(StoreError, match="GATEWAY_MASTER_NEXT is set, but no GATEWAY_MASTER"):
        Vault.load(store, {"GATEWAY_MASTER_NEXT": MASTER.hex()})


@pytest.mark.parametrize("size", [31, 33, 64])
def test_a_given_master_has_32_bytes(store: str, size: int) -> None:
    with pytest.raises(StoreError, match=f"GATEWAY_MASTER holds {size} bytes"):
        Vault.load(store, {"GATEWAY_MASTER": bytes(size).hex()})


# --- rotation ---------------------------------------------------------------------------------


def test_a_rotation_ends_with_one_master_that_opens_what_was_sealed_anew(store: str) -> None:
    vault = prepared(store)
    before = vault.seal(a_row(), TEXT)
    vault.begin_rotation()
    after = vault.seal(before, vault.open(before))
    assert after.version != before.version
    assert vault.end_rotation() is None
    again = Vault.load(store, NOTHING)
    assert again.open(after) == TEXT
    for old in (vault, again):
        with pytest.raises(Sealed, match="sealed with a master key that is not in"):
            old.open(before)
    assert len(path_of(store).read_text().split()) == 1
    assert stat.S_IMODE(path_of(store).stat().st_mode) == 0o600


def test_between_its_steps_a_rotation_opens_both_here_and_after_a_restart(store: str) -> None:
    vault = prepared(store)
    before = vault.seal(a_row(), TEXT)
    vault.begin_rotation()
    after = vault.seal(before, TEXT)
    for one in (vault, Vault.load(store, NOTHING)):
        assert one.open(before) == one.open(after) == TEXT
        assert one.version == after.version


def test_a_given_master_is_not_rotated_without_the_next_one() -> None:
    for vault in (a_vault(), a_vault(MASTER, MASTER)):
        with pytest.raises(Conflict, match="GATEWAY_MASTER_NEXT or the credential gateway-master"):
            vault.begin_rotation()


def test_a_given_master_is_rotated_to_the_next_one(tmp_path: Path, store: str) -> None:
    before = a_vault().seal(a_row(), TEXT)
    (tmp_path / "gateway-master").write_text(MASTER.hex())
    (tmp_path / "gateway-master-next").write_text(OTHER.hex())
    vault = Vault.load(store, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    vault.begin_rotation()
    after = vault.seal(before, vault.open(before))
    left = vault.end_rotation()
    assert left is not None
    assert f"as {tmp_path / 'gateway-master'} from now on" in left
    assert a_vault(OTHER).open(after) == TEXT
    assert not path_of(store).exists()
