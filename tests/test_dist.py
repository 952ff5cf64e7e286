"""`gateway.pyz`: what is in it, where it starts, how fast, and what it says where it cannot.

Every start here is the file run as a process, with an environment of its own.
"""

import ast
import base64
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import pytest
from packaging.utils import canonicalize_name

from gateway.packaging import bootstrap, build

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS_MAX = 1.0


class Pyz(NamedTuple):
    """A built archive, its bytes at build time, and a directory with it unpacked in."""

    path: Path
    content: bytes
    unpack_dir: Path


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Pyz:
    directory = tmp_path_factory.mktemp("dist")
    path = directory / "gateway.pyz"
    build.build(path)
    unpack_dir = directory / "unpacked"
    done = run(path, "--help", GATEWAY_UNPACK_DIR=unpack_dir)
    assert done.returncode == 0, done.stderr
    return Pyz(path, path.read_bytes(), unpack_dir)


def environment(**extra: object) -> dict[str, str]:
    """Nothing of the test's own environment but where programs are, so that no start is helped."""
    return {"PATH": os.environ["PATH"], **{name: str(value) for name, value in extra.items()}}


def run(
    archive: Path, *words: str, cwd: Path | None = None, **extra: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, archive, *words],
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def serving(pyz: Pyz, cwd: Path, *words: str) -> Iterator[tuple[str, list[str]]]:
    """Run `serve` until it listens; gives its base URL and what it said before. Stopped after."""
    process = subprocess.Popen(
        [sys.executable, pyz.path, "serve", *words],
        cwd=cwd,
        env=environment(GATEWAY_UNPACK_DIR=pyz.unpack_dir, JOURNAL_STREAM="0:0"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if "listening on" in line:
                break
        else:
            pytest.fail(f"it stopped: {said}")
        yield said[-1].split()[-1], said
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def status_of(url: str) -> int:
    with urlopen(url, timeout=10) as answer:
        return int(answer.status)


def with_facts(pyz: Pyz, path: Path, change: Callable[[str], str]) -> Path:
    """A copy of the archive that says something else about itself."""
    with zipfile.ZipFile(io.BytesIO(pyz.content)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content.decode()) if name == "facts" else content)
    return path


# --- starting ---------------------------------------------------------------------------------


def test_it_is_a_program_of_its_own(pyz: Pyz) -> None:
    assert os.access(pyz.path, os.X_OK)
    assert pyz.content.startswith(b"#!/usr/bin/env python3\n")
    done = subprocess.run(
        [pyz.path, "--help"],
        env=environment(GATEWAY_UNPACK_DIR=pyz.unpack_dir),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "serve" in done.stdout


def test_it_serves_in_an_empty_directory_and_says_by_which_configuration(
    pyz: Pyz, tmp_path: Path
) -> None:
    # The port of the shipped file may be taken on the machine that tests: take any.
    (shipped,) = pyz.unpack_dir.glob("gateway-pyz/*/gateway/config.toml")
    assert shipped.read_bytes() == (ROOT / "config.toml").read_bytes()
    shipped.write_text(shipped.read_text().replace("port = 8000 ", "port = 0 ", 1))
    try:
        refused = run(pyz.path, "users", "list", cwd=tmp_path, GATEWAY_UNPACK_DIR=pyz.unpack_dir)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "no gateway has run here" in refused.stderr
        assert list(tmp_path.iterdir()) == []
        with serving(pyz, tmp_path) as (base, said):
            assert status_of(f"{base}/healthz") == 200
            assert said[0] == f"gateway: no config.toml here, using {shipped}\n"
            made = run(
                pyz.path, "users", "create", "ann", cwd=tmp_path, GATEWAY_UNPACK_DIR=pyz.unpack_dir
            )
            assert made.returncode == 0, made.stderr
        assert (tmp_path / "gateway.db").exists()
        assert not (tmp_path / "config.toml").exists()
    finally:
        shipped.write_bytes((ROOT / "config.toml").read_bytes())


def test_a_configuration_in_the_directory_goes_before_the_shipped_one(
    pyz: Pyz, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text('[server]\nportt = 1\n[store]\npath = "x.db"\n')
    done = run(pyz.path, "check-config", cwd=tmp_path, GATEWAY_UNPACK_DIR=pyz.unpack_dir)
    assert (done.returncode, done.stderr) == (1, "gateway: server.portt: unknown key\n")


def test_it_starts_within_a_second_once_unpacked(pyz: Pyz, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        (ROOT / "config.toml").read_text().replace("port = 8000 ", "port = 0 ", 1)
    )
    to_help, to_health = [], []
    # The best of some: what is measured is the program, not what else the machine is doing.
    for _ in range(3):
        began = time.perf_counter()
        assert run(pyz.path, "--help", GATEWAY_UNPACK_DIR=pyz.unpack_dir).returncode == 0
        to_help.append(time.perf_counter() - began)
        began = time.perf_counter()
        with serving(pyz, tmp_path) as (base, _):
            assert status_of(f"{base}/healthz") == 200
            to_health.append(time.perf_counter() - began)
            assert status_of(f"{base}/dashboard/sign-in") == status_of(f"{base}/docs") == 200
    assert min(to_help) < START_SECONDS_MAX
    assert min(to_health) < START_SECONDS_MAX


def test_first_starts_at_the_same_time_unpack_it_once(pyz: Pyz, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        starts = [
            threads.submit(run, pyz.path, "--help", GATEWAY_UNPACK_DIR=tmp_path) for _ in range(4)
        ]
        assert [start.result().returncode for start in starts] == [0] * 4
    assert len(list((tmp_path / "gateway-pyz").iterdir())) == 1


def test_it_finds_a_place_where_there_is_no_home(pyz: Pyz, tmp_path: Path) -> None:
    done = run(pyz.path, "unit", HOME="/proc/none", TMPDIR=tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    place = tmp_path / f"gateway-{os.geteuid()}"
    assert place.stat().st_mode & 0o777 == 0o700
    assert list((place / "gateway-pyz").iterdir())


def test_it_puts_no_code_where_others_can_write(pyz: Pyz, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    done = run(pyz.path, "--help", GATEWAY_UNPACK_DIR=shared)
    assert done.returncode == bootstrap.CANNOT_RUN_HERE
    assert "others can write there" in done.stderr
    assert list(shared.iterdir()) == []


def test_a_unit_unpacks_into_its_own_cache(pyz: Pyz, tmp_path: Path) -> None:
    done = run(pyz.path, "--help", HOME="/", CACHE_DIRECTORY=tmp_path, STATE_DIRECTORY="/proc/x")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "gateway-pyz").iterdir())


# --- refusing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ("python=3.99", r"was built for Python 3\.99, this is Python 3\.\d+"),
        ("abi=.abi3.so vax", r"was built for \.abi3\.so vax, this is \S+ \S+"),
        ("glibc=99.1", r"needs glibc 99\.1, this system has 2\.\d+"),
    ],
)
def test_what_does_not_fit_the_machine_is_said_in_one_line(
    pyz: Pyz, tmp_path: Path, fact: str, said: str
) -> None:
    if fact.startswith("glibc") and not bootstrap.glibc():
        pytest.skip("this system's C library is not glibc")
    key = fact.partition("=")[0]
    other = with_facts(
        pyz, tmp_path / "gateway.pyz", lambda facts: re.sub(f"(?m)^{key}=.*$", fact, facts)
    )
    done = run(other, "serve", GATEWAY_UNPACK_DIR=tmp_path)
    assert (done.returncode, done.stdout) == (bootstrap.CANNOT_RUN_HERE, "")
    assert re.fullmatch(rf"gateway\.pyz: {said}\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.pyz"]


def test_it_starts_over_with_the_python_it_was_built_for_where_there_is_one(
    pyz: Pyz, tmp_path: Path
) -> None:
    other = with_facts(
        pyz,
        tmp_path / "gateway.pyz",
        lambda facts: re.sub(r"(?m)^python=.*$", "python=3.99", facts),
    )
    right = tmp_path / "python3.99"
    right.write_text('#!/bin/sh\necho "$@"\n')
    right.chmod(0o755)
    done = run(other, "keys", "list", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (0, f"{other} keys list\n")


def test_a_python_too_old_to_run_it_can_still_read_its_first_file() -> None:
    source = Path(bootstrap.__file__).read_text()
    ast.parse(source, feature_version=(3, 6))


# --- the content ------------------------------------------------------------------------------


def test_the_same_sources_give_the_same_bytes(pyz: Pyz, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "gateway.packaging.build", tmp_path / "again.pyz"],
        cwd=ROOT,
        env=environment(PYTHONHASHSEED=7),
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert (tmp_path / "again.pyz").read_bytes() == pyz.content


def test_it_holds_what_the_lock_names_and_nothing_of_the_machine_it_was_made_on(pyz: Pyz) -> None:
    with zipfile.ZipFile(io.BytesIO(pyz.content)) as outer:
        assert outer.namelist() == ["__main__.py", "facts", "site.zip"]
        packed = io.BytesIO(outer.read("site.zip"))
    with zipfile.ZipFile(packed) as site:
        names = site.namelist()
        foreign = [
            name
            for name in names
            if str(ROOT).encode() in (content := site.read(name)) or sys.prefix.encode() in content
        ]
    assert foreign == []
    assert {"gateway/config.toml", "gateway/LICENSE", "gateway/ledger/model_catalog.json"} <= {
        *names
    }
    locked = {one.metadata["Name"] for one in build.pinned(build.LOCK.read_text())}
    held = {name.split("-")[0] for name in names if name.endswith(".dist-info/METADATA")}
    assert set(map(canonicalize_name, held)) == set(map(canonicalize_name, locked))


def test_every_module_comes_with_its_byte_code(pyz: Pyz) -> None:
    with zipfile.ZipFile(io.BytesIO(pyz.content)) as outer:
        names = set(zipfile.ZipFile(io.BytesIO(outer.read("site.zip"))).namelist())
    tag = sys.implementation.cache_tag
    sources = [Path(name) for name in names if name.endswith(".py")]
    assert len(sources) > 200
    assert [
        str(path)
        for path in sources
        if f"{path.parent}/__pycache__/{path.stem}.{tag}.pyc".removeprefix("./") not in names
    ] == []


# --- the environment it is made from ----------------------------------------------------------


def distribution(directory: Path, *, name: str = "thing", wheel: str = "") -> metadata.Distribution:
    """An installed package of one module, as pip would have recorded it."""
    info = directory / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "WHEEL").write_text(wheel)
    (directory / f"{name}.py").write_text("x = 1\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"x = 1\n").digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(
        f"{name}.py,sha256={digest},6\n{name}-1.0.dist-info/RECORD,,\n../../bin/{name},,\n"
    )
    return metadata.PathDistribution(info)


def test_a_file_that_changed_since_it_was_installed_is_not_shipped(tmp_path: Path) -> None:
    one = distribution(tmp_path / "environment")
    build._copy_distribution(one, tmp_path / "site")
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["thing.py"]
    (tmp_path / "environment" / "thing.py").write_text("x = 2\n")
    with pytest.raises(build.BuildError, match=r"thing\.py is not as it was installed"):
        build._copy_distribution(one, tmp_path / "other")


def test_an_environment_that_is_not_the_lock_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, name="thing")
    monkeypatch.syspath_prepend(tmp_path)
    assert [one.version for one in build.pinned("# a comment\nthing==1.0 \\\n    --hash=…")] == [
        "1.0"
    ]
    with pytest.raises(build.BuildError, match=r"thing: 1\.0 is installed, the lock says 2\.0"):
        list(build.pinned("thing==2.0 \\\n"))
    with pytest.raises(build.BuildError, match="no-such-thing is not installed"):
        list(build.pinned("no-such-thing==1.0 \\\n"))
    assert list(build.pinned("no-such-thing==1.0 ; sys_platform == 'win32' \\\n")) == []


def test_the_glibc_needed_is_that_of_the_most_demanding_wheel(tmp_path: Path) -> None:
    def wheel(name: str, *tags: str) -> metadata.Distribution:
        text = "".join(f"Tag: {tag}\n" for tag in tags)
        return distribution(tmp_path / name, name=name, wheel=text)

    pure = wheel("pure", "py3-none-any")
    old = wheel("old", "cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux2014_x86_64")
    either = wheel("either", "cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux1_x86_64")
    new = wheel("new", "cp311-cp311-manylinux_2_28_x86_64")
    assert build.glibc_needed([pure]) == ()
    assert build.glibc_needed([pure, old, either]) == (2, 17)
    assert build.glibc_needed([old, new, pure]) == (2, 28)
