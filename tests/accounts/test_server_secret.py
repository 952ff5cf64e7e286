"""The server secret is made once, kept private, and never replaced in silence."""

import base64
import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.accounts import secret
from gateway.errors import StoreError

NOTHING: dict[str, str] = {}


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "gateway.db")


def test_the_first_use_makes_a_private_file_of_32_random_bytes(store: str) -> None:
    value = secret.load(store, NOTHING)
    path = Path(store + ".secret")
    assert len(value) == 32
    assert path.read_text().strip() == value.hex()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_is_private_under_any_umask(store: str) -> None:
    before = os.umask(0)
    try:
        secret.load(store, NOTHING)
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(store + ".secret").stat().st_mode) == 0o600


def test_later_uses_read_the_same_secret_and_leave_nothing_else_behind(
    store: str, tmp_path: Path
) -> None:
    assert secret.load(store, NOTHING) == secret.load(store, NOTHING)
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.db.secret"]


def test_many_at_once_agree_on_one_secret(store: str) -> None:
    barrier = threading.Barrier(8)
    found: list[bytes] = []

    def load() -> None:
        barrier.wait()
        found.append(secret.load(store, NOTHING))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_store_without_its_secret_is_refused_and_none_is_made(store: str) -> None:
    Path(store).write_bytes(b"SQLite format 3\0")
    with pytest.raises(StoreError, match=r"gateway\.db\.secret is missing but the store"):
        secret.load(store, NOTHING)
    assert not Path(store + ".secret").exists()


@pytest.mark.parametrize("size", [32, 48, 64])
def test_the_environment_gives_the_secret_as_hex_or_base64(store: str, size: int) -> None:
    value = os.urandom(size)
    for text in (
        value.hex(),
        value.hex().upper(),
        base64.b64encode(value).decode(),
        base64.urlsafe_b64encode(value).decode(),
        base64.b64encode(value).decode().rstrip("="),
        value.hex() + "\n",
    ):
        assert secret.load(store, {"GATEWAY_SECRET": text}) == value
    assert not Path(store + ".secret").exists()


@pytest.mark.parametrize(
    "text",
    ["00" * 31, "00" * 65, base64.b64encode(b"x" * 31).decode(), "not base64!", "é" * 64, "="],
)
def test_a_bad_secret_in_the_environment_is_refused_without_quoting_it(
    store: str, text: str
) -> None:
    with pytest.raises(StoreError, match="GATEWAY_SECRET") as caught:
        secret.load(store, {"GATEWAY_SECRET": text})
    assert text not in str(caught.value)


def test_systemd_gives_the_secret_as_a_credential(store: str, tmp_path: Path) -> None:
    value = os.urandom(32)
    (tmp_path / "gateway-secret").write_text(value.hex() + "\n")
    assert secret.load(store, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == value
    assert not Path(store + ".secret").exists()


def test_credentials_of_other_names_leave_the_file_in_charge(store: str, tmp_path: Path) -> None:
    kept = secret.load(store, NOTHING)
    assert secret.load(store, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == kept


def test_an_environment_that_contradicts_the_file_is_refused(store: str) -> None:
    kept = secret.load(store, NOTHING)
    assert secret.load(store, {"GATEWAY_SECRET": kept.hex()}) == kept
    with pytest.raises(StoreError, match="different secrets"):
        secret.load(store, {"GATEWAY_SECRET": os.urandom(32).hex()})


def test_a_file_that_others_can_read_is_refused(store: str) -> None:
    secret.load(store, NOTHING)
    Path(store + ".secret").chmod(0o640)
    with pytest.raises(StoreError, match="chmod 600"):
        secret.load(store, NOTHING)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"abc\n", b"00" * 16])
def test_a_damaged_file_is_refused_and_left_alone(store: str, content: bytes) -> None:
    path = Path(store + ".secret")
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"gateway\.db\.secret"):
        secret.load(store, NOTHING)
    assert path.read_bytes() == content


def test_a_missing_directory_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be made: No such file or directory"):
        secret.load(str(tmp_path / "absent" / "gateway.db"), NOTHING)
