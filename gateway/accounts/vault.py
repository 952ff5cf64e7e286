"""Provider keys at rest: sealed with AES-256-GCM under a master key that is not in the store.

The master key is read from the first of these that is there:

1. `GATEWAY_MASTER` in the environment: 32 bytes as hex or base64;
2. `$CREDENTIALS_DIRECTORY/gateway-master`, where systemd's `LoadCredential=` puts it (same text);
3. `<store path>.master`, mode 0600: made with 32 random bytes when the first key is sealed.

A master key's *version* is a number derived from it, so that a row sealed with another master is
told from a damaged one, wherever the master came from and in whatever order masters were used.

Rotation, of the file: a new master is appended and the file synced; every row is sealed anew in one
transaction; the old masters are dropped from the file. After a crash at any point the file holds
every master that a row needs, and rotating again finishes the work. Rotation, of a given master:
the new one is given beside it as `GATEWAY_MASTER_NEXT` or `gateway-master-next`; everything sealed
from then on is sealed with it, rotating seals the rest anew, and the operator then gives it as the
master. The last line of the file, or the next master, is the one that seals.

What is sealed is bound to its row: provider, id and version are authenticated with it, and a row
moved under another provider or id does not open. Blocks on files; used by `upstream_settings.py`,
which calls it off the loop, and by nobody else. Raises StoreError and Sealed, in one line that
quotes no key.
"""

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.accounts import secret
from gateway.errors import Conflict, StoreError
from gateway.ledger.records import ProviderKey

ENVIRONMENT = "GATEWAY_MASTER"
CREDENTIAL = "gateway-master"
NEXT_ENVIRONMENT = "GATEWAY_MASTER_NEXT"
NEXT_CREDENTIAL = "gateway-master-next"

MASTER_BYTES = 32

NONCE_BYTES = 12
"""96 random bits (NIST SP 800-38D §8.2.2): safe for 2³² seals under one master."""

TAG_BYTES = 16

_VERSION_BYTES = 6
"""48 bits: a number that every reader of JSON takes exactly."""

_Keyring = dict[int, bytes]
"""Master keys by version; the last one seals."""


class Sealed(Exception):
    """A row does not open; the message says which row and why."""


def path_of(store_path: str) -> Path:
    """Where a store's master keys are kept, unless they are given."""
    return Path(f"{store_path}.master")


def version_of(master: bytes) -> int:
    """The number that rows name a master key by; says nothing else about it."""
    digest = hashlib.blake2b(master, digest_size=_VERSION_BYTES, person=b"gateway master").digest()
    return int.from_bytes(digest, "big")


class Vault:
    """The master keys of one store. Make one with `load`."""

    def __init__(
        self, path: Path, keyring: _Keyring, given_as: str | None, following: bool
    ) -> None:
        self._path = path
        self._keyring = keyring
        self._given_as = given_as
        self._following = following

    @classmethod
    def load(cls, store_path: str, environ: Mapping[str, str] = os.environ) -> "Vault":
        """Read the master keys; there may be none yet. StoreError where they cannot be had."""
        path = path_of(store_path)
        kept = _read_keyring(path)
        given = _given(environ)
        following = _given(environ, next_one=True)
        if given is None:
            if following is not None:
                raise StoreError(
                    f"{following[0]} is set, but no {ENVIRONMENT} beside it: it is for rotation"
                )
            return cls(path, kept, None, following=False)
        source, master = given
        if kept and version_of(master) not in kept:
            raise StoreError(
                f"{source} and {path} hold different master keys: one of them is not this store's; "
                "remove the wrong one"
            )
        keyring = _appended(kept, master)
        if following is None or following[1] == master:
            return cls(path, keyring, source, following=False)
        return cls(path, _appended(keyring, following[1]), source, following=True)

    def __repr__(self) -> str:
        return f"Vault({self._given_as or self._path}, {len(self._keyring)} master keys)"

    @property
    def ready(self) -> bool:
        """Whether there is a master key. Without one nothing opens, and `prepare` makes one."""
        return bool(self._keyring)

    @property
    def version(self) -> int:
        """The version of the master key that seals; only where `ready`."""
        return next(reversed(self._keyring))

    def prepare(self) -> None:
        """Make the first master key where there is none, durably. StoreError where it cannot be.

        Only where no row was ever sealed, and by the process that holds the store's lock.
        """
        if self._keyring:
            return
        kept = _read_keyring(self._path)  # put back since `load`: it is not to be written over
        if not kept:
            kept = _appended({}, secrets.token_bytes(MASTER_BYTES))
            _write(self._path, kept, first=True)
        self._keyring = kept

    def seal(self, key: ProviderKey, text: str) -> ProviderKey:
        """`key` with `text` sealed for its row by the present master. Only where `ready`."""
        version = self.version
        nonce = secrets.token_bytes(NONCE_BYTES)
        cipher = AESGCM(self._keyring[version])
        sealed = nonce + cipher.encrypt(nonce, text.encode(), _bound_to(key, version))
        return msgspec.structs.replace(key, version=version, sealed=sealed)

    def open(self, key: ProviderKey) -> str:
        """The text that is sealed in a row; Sealed where it does not open."""
        master = self._keyring.get(key.version)
        if master is None:
            raise Sealed(
                f"provider key {key.id} of {key.provider}: sealed with a master key that is not in "
                f"{self._given_as or self._path}"
            )
        nonce, sealed = key.sealed[:NONCE_BYTES], key.sealed[NONCE_BYTES:]
        try:
            if len(sealed) < TAG_BYTES:
                raise InvalidTag
            return AESGCM(master).decrypt(nonce, sealed, _bound_to(key, key.version)).decode()
        except InvalidTag:
            raise Sealed(
                f"provider key {key.id} of {key.provider}: damaged, or moved here from another row"
            ) from None

    def begin_rotation(self) -> None:
        """From here on a new master seals; the old ones still open. Durable when it returns.

        Conflict where the master is given and no next one beside it, StoreError where the file
        cannot be written: nothing has changed then.
        """
        if self._given_as is None:
            known = {**_read_keyring(self._path), **self._keyring}
            keyring = _appended(known, secrets.token_bytes(MASTER_BYTES))
            _write(self._path, keyring)
            self._keyring = keyring
        elif not self._following:
            raise Conflict(
                f"master: it is given as {self._given_as}: give the new one beside it, as "
                f"{NEXT_ENVIRONMENT} or the credential {NEXT_CREDENTIAL}, start again and rotate"
            )

    def end_rotation(self) -> str | None:
        """Drop all masters but the one that seals: call it when every row is sealed with that.

        Returns what is left for the operator to do where the master is given. StoreError where
        the file cannot be written: the old masters are then still in it, and rotating again
        drops them.
        """
        if self._given_as is not None:
            return (
                f"give the new master key as {self._given_as} from now on, without a next one: "
                "the old one opens nothing any more"
            )
        last = {self.version: self._keyring[self.version]}
        _write(self._path, last)
        self._keyring = last
        return None


def _bound_to(key: ProviderKey, version: int) -> bytes:
    """The authenticated data of a row. MessagePack: no two rows read as the same bytes."""
    return msgspec.msgpack.encode(("provider key", key.provider, key.id, version))


def _appended(keyring: _Keyring, master: bytes) -> _Keyring:
    version = version_of(master)
    return {known: one for known, one in keyring.items() if known != version} | {version: master}


def _given(environ: Mapping[str, str], *, next_one: bool = False) -> tuple[str, bytes] | None:
    name = NEXT_ENVIRONMENT if next_one else ENVIRONMENT
    if text := environ.get(name, ""):
        return name, _parse(text, name)
    if directory := environ.get("CREDENTIALS_DIRECTORY", ""):
        path = Path(directory) / (NEXT_CREDENTIAL if next_one else CREDENTIAL)
        try:
            return str(path), _parse(path.read_text(encoding="ascii"), str(path))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise StoreError(f"{path} cannot be read: {_reason(exc)}") from None
    return None


def _parse(text: str, source: str) -> bytes:
    master = secret.parse(text, source)
    if len(master) != MASTER_BYTES:
        raise StoreError(f"{source} holds {len(master)} bytes: a master key has {MASTER_BYTES}")
    return master


def _read_keyring(path: Path) -> _Keyring:
    """The masters of a file, one to a line; empty where there is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise StoreError(f"{path} is not a file")
            if stat.S_IMODE(mode) & 0o077:
                raise StoreError(f"{path} can be read by other users: run chmod 600 {path}")
            lines = file.read().split()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise StoreError(f"{path} cannot be read: {_reason(exc)}") from None
    if not lines:
        raise StoreError(f"{path} is empty: restore it, or remove it and add the keys again")
    keyring: _Keyring = {}
    for line in lines:
        keyring = _appended(keyring, _parse(line, str(path)))
    return keyring


def _write(path: Path, keyring: _Keyring, *, first: bool = False) -> None:
    """Put a keyring in place of the file, whole and synced, or leave the file as it was.

    The draft has one name, so that a crash leaves no more than one, and the next write takes it
    away. `first` refuses to write over a file.
    """
    draft = path.with_name(f"{path.name}.new")
    text = "".join(f"{master.hex()}\n" for master in keyring.values())
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if first:
            os.link(draft, path)
            os.unlink(draft)
        else:
            os.replace(draft, path)
        _sync_directory(path.parent)
    except OSError as exc:
        raise StoreError(f"{path} cannot be written: {_reason(exc)}") from None


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(exc: Exception) -> str:
    return exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else "not plain text"
