"""Write `gateway.pyz`: one file with the gateway, its dependencies and the shipped config.toml.

`make dist` runs it (`python -m gateway.packaging.build dist/gateway.pyz`) with the Python of an
environment into which pip installed `requirements.lock` and checked its hashes. Each dependency is
taken from there file by file, and each file is held to the digest that was recorded when it was
installed, so nothing that was changed or added since gets in. Nothing is downloaded.

The same inputs give the same bytes: entries are sorted, dates are those of the zip epoch, and
byte-code is compiled for this archive (checked by content, not by time).
"""

import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath

import gateway
from gateway.packaging import bootstrap

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"

SHEBANG = b"#!/usr/bin/env python3\n"
NOT_SHIPPED = (".pyc", ".pyx", ".pxd", ".c", ".h")
"""Byte-code of the build machine's paths, and what extensions were compiled from."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_|(manylinux1|manylinux2010|manylinux2014)_")
_LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?P<marker> ;)?")


class BuildError(Exception):
    """The environment is not what the lock file says; the message is one line."""


def build(out: Path) -> None:
    """Write the archive to `out`. Raises `BuildError`."""
    wanted = list(pinned(LOCK.read_text()))
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch, "site")
        for one in wanted:
            _copy_distribution(one, site)
        _copy_gateway(site)
        _compile(site)
        packed = _zipped((path, path.relative_to(site)) for path in _files(site))
    facts = {
        "id": f"{gateway.__version__}-{hashlib.sha256(packed).hexdigest()[:16]}",
        "version": gateway.__version__,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "abi": bootstrap.abi(),
        "glibc": ".".join(map(str, glibc_needed(wanted))),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    half = out.with_name(out.name + ".part")
    half.write_bytes(_outer(facts, packed))
    half.chmod(0o755)
    half.replace(out)


def pinned(lock: str) -> Iterator[metadata.Distribution]:
    """The installed distributions that a lock file names.

    A line with a marker (`; python_full_version < '3.13'`) may be absent: pip left it out because
    it does not apply here. Any other absence, or another version, is a `BuildError`.
    """
    for line in lock.splitlines():
        pin = _PIN.match(line)
        if pin is None:
            continue
        try:
            found = metadata.distribution(pin["name"])
        except metadata.PackageNotFoundError:
            if pin["marker"]:
                continue
            raise BuildError(f"{pin['name']} is not installed") from None
        if found.version != pin["version"]:
            raise BuildError(
                f"{pin['name']}: {found.version} is installed, the lock says {pin['version']}"
            )
        yield found


def glibc_needed(distributions: Iterable[metadata.Distribution]) -> tuple[int, ...]:
    """The lowest glibc that every wheel says it runs on; empty if none has compiled parts.

    A wheel's tags (PEP 600) are alternatives, so its own need is the lowest of them.
    """
    needs = []
    for one in distributions:
        tags = [
            line.removeprefix("Tag: ")
            for line in (one.read_text("WHEEL") or "").splitlines()
            if line.startswith("Tag: ")
        ]
        own = [
            _LEGACY[found[3]] if found[3] else (int(found[1]), int(found[2]))
            for tag in tags
            if (found := _MANYLINUX.search(tag))
        ]
        if own:
            needs.append(min(own))
    return max(needs, default=())


def _copy_distribution(one: metadata.Distribution, site: Path) -> None:
    for entry in one.files or ():
        if ".." in entry.parts or entry.is_absolute() or entry.suffix in NOT_SHIPPED:
            continue  # scripts for bin/, which name the environment's Python
        content = entry.read_binary()
        if entry.hash is not None and _digest(entry.hash.mode, content) != entry.hash.value:
            raise BuildError(f"{entry} is not as it was installed; remove .venv and try again")
        if entry.hash is None:
            continue  # written by pip on this machine: RECORD itself, INSTALLER, REQUESTED
        _write(site, entry, content)


def _digest(algorithm: str, content: bytes) -> str:
    digest = hashlib.new(algorithm, content).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _copy_gateway(site: Path) -> None:
    package = ROOT / "gateway"
    for path in _files(package):
        if path.suffix not in NOT_SHIPPED:
            _write(site, PurePosixPath(path.relative_to(ROOT)), path.read_bytes())
    _write(site, PurePosixPath("gateway/config.toml"), (ROOT / "config.toml").read_bytes())
    _write(site, PurePosixPath("gateway/LICENSE"), (ROOT / "LICENSE").read_bytes())


def _write(site: Path, name: PurePosixPath, content: bytes) -> None:
    target = site / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _compile(site: Path) -> None:
    """Byte-code beside every module, never held to its source again: nobody changes either.

    In a process of its own with a fixed hash seed: the order of a constant set, and what is shared
    between constants, depend on what the process did before.
    """
    command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    done = subprocess.run(
        [*command, "-s", str(site), "-p", "gateway.pyz", str(site)],
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"a module could not be compiled: {done.stdout}{done.stderr}")


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _zipped(files: Iterable[tuple[Path, Path]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, name in files:
            archive.writestr(_member(name.as_posix(), zipfile.ZIP_DEFLATED), path.read_bytes())
    return buffer.getvalue()


def _outer(facts: dict[str, str], packed: bytes) -> bytes:
    buffer = io.BytesIO()
    buffer.write(SHEBANG)
    main = Path(bootstrap.__file__).read_bytes()
    listed = "".join(f"{key}={value}\n" for key, value in facts.items())
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(_member("__main__.py"), main)
        archive.writestr(_member("facts"), listed)
        archive.writestr(_member("site.zip"), packed)
    return buffer.getvalue()


def _member(name: str, compression: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = compression
    info.external_attr = 0o644 << 16
    return info


def main() -> int:
    """The command: where to write to is its one argument."""
    if len(sys.argv) != 2:
        print("usage: python -m gateway.packaging.build FILE", file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    try:
        build(out)
    except BuildError as exc:
        print(f"make dist: {exc}", file=sys.stderr)
        return 1
    size = os.path.getsize(out)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    print(f"{out}: {size / 1e6:.1f} MB, sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
