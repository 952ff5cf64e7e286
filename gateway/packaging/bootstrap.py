"""The `__main__.py` of `gateway.pyz`: unpack once, then run the command from there.

Compiled extensions cannot be loaded from inside a zip file, so the first start unpacks the archive
into a directory of its own, named by content; later starts find it. Only the standard library is
used, and only what Python 3.6 has, so that a Python too old to run the gateway can still say so.

The archive has three members: this file, `facts` (lines of `key=value`, see `build.py`), and
`site.zip` with the packages. `build.py` writes it; nothing imports this module but tests.
"""

import errno
import importlib.machinery
import io
import os
import shutil
import stat
import sys
import tempfile
import zipfile
import zipimport

PLACES = ("GATEWAY_UNPACK_DIR", "CACHE_DIRECTORY", "STATE_DIRECTORY")
"""Environment variables that name where to unpack; systemd sets the last two for a unit."""

CANNOT_RUN_HERE = 78
"""Exit code where the archive does not fit the machine (EX_CONFIG)."""

_RESTARTED = "GATEWAY_PYZ_RESTARTED"


def main(archive: str) -> int:
    """Run the process's command line with the packages in `archive`; returns the exit code."""
    facts = read_facts(archive)
    wrong = misfit(facts)
    if wrong:
        _restart_with_its_python(archive, facts["python"])
        return _refuse(wrong)
    try:
        site = unpacked(archive, facts["id"])
    except (OSError, zipfile.BadZipFile) as exc:
        return _refuse(f"cannot be unpacked: {exc}")
    sys.path[0] = site
    from gateway.cli import main as command

    return command()


# Annotations in quotes: before Python 3.9 `dict[...]` cannot be evaluated.


def read_facts(archive: str) -> "dict[str, str]":
    """What `build.py` noted about the archive: python, abi, glibc, id, version."""
    text = zipimport.zipimporter(archive).get_data("facts").decode("ascii")
    return dict(line.split("=", 1) for line in text.splitlines())


def abi() -> str:
    """What compiled extensions must match: interpreter, its version, system, machine."""
    return f"{importlib.machinery.EXTENSION_SUFFIXES[0]} {os.uname().machine}"


def misfit(facts: "dict[str, str]") -> str:
    """Why the archive cannot run here, in one line; empty if it can."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if here != facts["python"]:
        return f"was built for Python {facts['python']}, this is Python {here}"
    if abi() != facts["abi"]:
        return f"was built for {facts['abi']}, this is {abi()}"
    found = glibc()
    if found and facts["glibc"] and _numbers(found) < _numbers(facts["glibc"]):
        return f"needs glibc {facts['glibc']}, this system has {found}"
    return ""


def glibc() -> str:
    """The version of the C library, such as `2.36`; empty where it is another one."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2]
    except (ValueError, OSError):
        return ""


def unpacked(archive: str, content_id: str) -> str:
    """The directory with the archive's packages; unpacks them if no earlier start has.

    Raises OSError where there is no place for it. Only directories that nobody else can write to
    are used, so that nobody else can put code there.
    """
    refused = OSError(errno.EACCES, "no place to unpack to; set GATEWAY_UNPACK_DIR")
    for place in _places():
        root = os.path.join(place, "gateway-pyz")
        site = os.path.join(root, content_id)
        try:
            for path in (place, root):
                os.makedirs(path, 0o700, exist_ok=True)
                _check_private(path)
            if not os.path.isdir(site):
                _unpack(archive, root, site)
        except OSError as exc:
            refused = exc
        else:
            return site
    raise refused


def _places() -> "list[str]":
    named = [os.environ[name].split(":")[0] for name in PLACES if os.environ.get(name)]
    if os.environ.get("GATEWAY_UNPACK_DIR"):
        return named[:1]  # who names a place wants it there or not at all
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(cache):
        named.append(cache)
    return [*named, os.path.join(tempfile.gettempdir(), f"gateway-{os.geteuid()}")]


def _check_private(path: str) -> None:
    found = os.stat(path)
    if found.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(found.st_mode) & 0o022:
        raise OSError(errno.EPERM, "others can write there; set GATEWAY_UNPACK_DIR", path)


def _unpack(archive: str, root: str, site: str) -> None:
    half = tempfile.mkdtemp(prefix=".unpacking-", dir=root)
    try:
        with zipfile.ZipFile(archive) as outer:
            packed = io.BytesIO(outer.read("site.zip"))
        with zipfile.ZipFile(packed) as inner:
            inner.extractall(half)
        # A power cut after the rename must not leave a directory of empty files under that name.
        os.sync()
        os.rename(half, site)
    except OSError:
        if not os.path.isdir(site):  # else another start was faster
            raise
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _numbers(version: str) -> "list[int]":
    return [int(part) for part in version.split(".") if part.isdigit()]


def _restart_with_its_python(archive: str, python: str) -> None:
    """Start over with the Python the archive was built for, where the machine has it by name."""
    found = shutil.which(f"python{python}")
    if found and _RESTARTED not in os.environ:
        os.environ[_RESTARTED] = "1"
        os.execv(found, [found, archive, *sys.argv[1:]])


def _refuse(why: str) -> int:
    sys.stderr.write(f"gateway.pyz: {why}\n")
    return CANNOT_RUN_HERE


if __name__ == "__main__":
    sys.exit(main(sys.path[0]))
