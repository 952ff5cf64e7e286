"""The server secret: what keys are hashed with and the receipt chain is sealed with.

Read from the first of these that is there:

1. `GATEWAY_SECRET` in the environment: 32 to 64 bytes as hex or base64;
2. `$CREDENTIALS_DIRECTORY/gateway-secret`, where systemd's `LoadCredential=` puts it (same text);
3. `<store path>.secret`, mode 0600, made with 32 random bytes (hex) on first use.

Losing the secret makes every issued key unusable and every receipt unverifiable, so a new one is
made only while there is no store yet: a store without its secret is refused, and so is a secret
from 1 or 2 that contradicts the file. Called once by whatever opens the store.
"""

import base64
import binascii
import contextlib
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import StoreError

ENVIRONMENT = "GATEWAY_SECRET"
CREDENTIAL = "gateway-secret"

BYTES_MIN = 32
BYTES_MAX = 64
"""The longest key BLAKE2b takes (RFC 7693 §2.1)."""

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")


def path_of(store_path: str) -> Path:
    """Where the secret of a store is kept."""
    return Path(f"{store_path}.secret")


def load(store_path: str, environ: Mapping[str, str] = os.environ) -> bytes:
    """The secret of this store, made if neither exists yet. Raises `StoreError` in one line."""
    path = path_of(store_path)
    given = _given(environ)
    kept = _read_private(path)
    if given is not None:
        source, value = given
        if kept is not None and kept != value:
            raise StoreError(
                f"{source} and {path} hold different secrets: one of them is not this store's; "
                "remove the wrong one"
            )
        return value
    if kept is not None:
        return kept
    if _has_content(Path(store_path)):
        raise StoreError(
            f"{path} is missing but the store {store_path} exists: its keys and receipts cannot "
            f"be checked without it; restore the file, or set {ENVIRONMENT}"
        )
    return _create(path)


def parse(text: str, source: str) -> bytes:
    """Decode a secret given as hex or base64; `StoreError` names `source`, never the text.

    Text that reads as both is taken as hex.
    """
    text = text.strip()
    if _HEX.fullmatch(text):
        value = bytes.fromhex(text)
    else:
        try:
            padded = text + "=" * (-len(text) % 4)
            value = base64.b64decode(padded, altchars=_altchars(text), validate=True)
        except (binascii.Error, ValueError):
            raise StoreError(f"{source} is neither hex nor base64") from None
    if not BYTES_MIN <= len(value) <= BYTES_MAX:
        raise StoreError(
            f"{source} holds {len(value)} bytes: expected {BYTES_MIN} to {BYTES_MAX}, as hex or "
            "base64"
        )
    return value


def _altchars(text: str) -> bytes:
    return b"-_" if "-" in text or "_" in text else b"+/"


def _given(environ: Mapping[str, str]) -> tuple[str, bytes] | None:
    if text := environ.get(ENVIRONMENT, ""):
        return ENVIRONMENT, parse(text, ENVIRONMENT)
    if directory := environ.get("CREDENTIALS_DIRECTORY", ""):
        path = Path(directory) / CREDENTIAL
        with contextlib.suppress(FileNotFoundError):
            return str(path), parse(_read(path), str(path))
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as exc:
        raise StoreError(f"{path} cannot be read: {_reason(exc)}") from None


def _read_private(path: Path) -> bytes | None:
    try:
        mode = path.stat().st_mode
        text = _read(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StoreError(f"{path} cannot be read: {_reason(exc)}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise StoreError(f"{path} can be read by other users: run chmod 600 {path}")
    return parse(text, str(path))


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise StoreError(f"{path} cannot be read: {_reason(exc)}") from None


def _create(path: Path) -> bytes:
    """Write a new secret under a name of its own, then link it to `path`.

    The link fails if another process was first (then its secret is the one), and nobody can ever
    read a half-written file, as they could between O_EXCL on `path` itself and the write.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    text = secrets.token_hex(BYTES_MIN) + "\n"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            os.unlink(draft)
        _sync_directory(path.parent)
    except OSError as exc:
        raise StoreError(f"{path} cannot be made: {_reason(exc)}") from None
    kept = _read_private(path)
    if kept is None:
        raise StoreError(f"{path} vanished while it was made")
    return kept


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(exc: Exception) -> str:
    return exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else "not plain text"
