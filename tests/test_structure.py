"""The shape of the code base: who may import whom, sizes, names, locks, and a complete config.toml.

Everything is read from the files, so a new module or key is held to the rules without a line here.
A new room under gateway/ must be given its place in `MAY_IMPORT`.
"""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gateway import config as cfg

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gateway"

MODULE_LINES_MAX = 550
FUNCTION_LINES_MAX = 70

# A room is a directory or a module right under gateway/. What stands above may be imported below.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "unit": set(),
    "demo": set(),
    "config": {"errors"},
    "wire": {"errors"},
    "limits": {"errors"},
    "ledger": {"errors", "wire.neutral"},
    "metrics": {"ledger"},
    "accounts": {"errors", "ledger"},
    "alerts": {"errors", "ledger", "config"},
    "first_run": {"accounts", "config"},
    "admin": {"errors", "ledger", "accounts", "alerts", "config"},
    "proxy": {"errors", "wire", "limits", "ledger", "accounts", "alerts", "config", "metrics"},
    "api": {
        "errors", "ledger", "accounts", "alerts", "config", "metrics", "proxy", "__version__",
        # What the description lists.
        "admin.routes", "admin.verbs",
    },
    "web": {
        "errors", "ledger", "accounts", "alerts", "config", "metrics", "proxy", "__version__",
        # Pages change things through the verbs; the documentation renders the descriptions.
        "admin", "api.openapi", "api.models", "wire.build_table", "wire.registry",
    },
    "logs": {"errors", "config", "ledger", "proxy"},
    "control": {
        "errors", "config", "ledger", "accounts", "alerts", "admin", "proxy", "logs",
    },
    "app": {
        "errors", "config", "control", "wire", "limits", "ledger", "metrics", "accounts",
        "alerts", "admin", "proxy", "api", "web", "logs", "first_run", "demo",
    },
    "cli": {"errors", "config", "unit", "admin", "app"},
    "packaging": {"__version__", "cli"},
    "__main__": {"cli"},
    "__init__": set(),
}  # fmt: skip

_HTTP = {"aiohttp", "http", "httptools", "urllib"}
_WORLD = {"asyncio", "datetime", "logging", "os", "random", "secrets", "socket", "ssl", "threading"}
MUST_NOT_IMPORT: dict[str, set[str]] = {
    "wire": _HTTP | _WORLD | {"time", "sqlite3"},
    "limits": _HTTP | {"time", "sqlite3"},
    "ledger": _HTTP | {"prometheus_client"},
    "accounts": _HTTP,
    "proxy": {"sqlite3", "aiosqlite"},
    "api": {"sqlite3", "aiosqlite"},
    "web": {"sqlite3", "aiosqlite"},
    "app": {"sqlite3", "aiosqlite"},
}

SQL_LIVES_IN = {
    "ledger/store.py", "ledger/batch.py", "ledger/schema.py", "ledger/money.py",
    "ledger/usage.py", "ledger/control.py", "ledger/search.py", "ledger/sign_in.py",
    "ledger/overview.py",
    "ledger/listing.py",
}  # fmt: skip
# Beside the ledger, those who hand functions to it name the type of a connection and its errors.
SQLITE_IS_KNOWN_TO = {
    "accounts/accounts.py", "accounts/sign_in.py", "accounts/upstream_settings.py",
    "admin/client.py", "alerts/sent.py",
}  # fmt: skip

_SQL = re.compile(
    r"\bSELECT\s[\s\S]*\bFROM\b|\bINSERT\s+(OR\s+\w+\s+)?INTO\b|\bUPDATE\s+\w+\s+SET\b"
    r"|\bDELETE\s+FROM\b|\b(CREATE|DROP|ALTER)\s+(TABLE|INDEX|TRIGGER|VIEW)\b|\bPRAGMA\s+\w"
)


def python_files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def local(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported(path: Path) -> Iterator[str]:
    """Every name a module imports, anywhere in it, absolute and with its parts."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{local(path)} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(f"{allowed}.")


# --- directions -------------------------------------------------------------------------------


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room_of(path) for path in python_files("gateway")} <= set(MAY_IMPORT)


def test_the_order_of_rooms_has_no_circle() -> None:
    left = {room: {one.split(".")[0] for one in below} for room, below in MAY_IMPORT.items()}
    while left:
        lowest = {room for room, below in left.items() if not below & set(left)}
        assert lowest, f"a circle among {sorted(left)}"
        for room in lowest:
            del left[room]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    wrong = [
        f"{local(path)}: {name}"
        for path in python_files("gateway")
        if room_of(path) == room
        for name in imported(path)
        if name.split(".")[0] == "gateway" and name != "gateway"
        and not any(
            is_within(name.removeprefix("gateway."), one) for one in {room, *MAY_IMPORT[room]}
        )
    ]  # fmt: skip
    assert not wrong


@pytest.mark.parametrize("room", MUST_NOT_IMPORT)
def test_a_room_stays_clear_of_what_is_not_its_business(room: str) -> None:
    wrong = [
        f"{local(path)}: {name}"
        for path in python_files("gateway")
        if room_of(path) == room
        for name in imported(path)
        if name.split(".")[0] in MUST_NOT_IMPORT[room]
    ]
    assert not wrong


def test_only_the_shipped_code_is_imported_by_the_shipped_code() -> None:
    wrong = [
        f"{local(path)}: {name}"
        for path in python_files("gateway")
        for name in imported(path)
        if name.split(".")[0] in {"tests", "bench", "pytest"}
    ]
    assert not wrong


def test_sql_is_written_in_the_store_and_nowhere_else() -> None:
    found = set()
    for path in python_files("gateway"):
        tree = tree_of(path)
        prose = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in prose and _SQL.search(text):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == SQL_LIVES_IN


def test_sqlite_is_known_to_the_ledger_and_to_who_hands_it_functions() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in python_files("gateway")
        if room_of(path) != "ledger"
        and any(name.split(".")[0] in {"sqlite3", "aiosqlite"} for name in imported(path))
    }
    assert found <= SQLITE_IS_KNOWN_TO


_IMPORT_EACH = """
import importlib, os, sys
import aiohttp.web, aiosqlite, httptools, msgspec, orjson, prometheus_client, uvloop
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        assert not [one for one in sys.modules if one.split(".")[0] == "gateway"]
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{name} does not import alone")
"""


def test_every_module_imports_alone() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in python_files("gateway")
    ]
    # Without PYTHONDONTWRITEBYTECODE, each import but the first costs a few milliseconds.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_EACH, *names],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- sizes and names --------------------------------------------------------------------------


def test_no_module_holds_two_ideas() -> None:
    long = {
        local(path): lines
        for path in python_files("gateway", "bench")
        if (lines := len(path.read_text().splitlines())) > MODULE_LINES_MAX
    }
    assert not long


def test_functions_can_be_seen_whole() -> None:
    long = [
        f"{local(path)}: {node.name}, {lines} lines"
        for path in python_files("gateway", "bench", "tests")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long


def test_names_say_what_a_file_is_for() -> None:
    vague = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)", re.IGNORECASE)
    paths = [*python_files("gateway", "bench", "tests"), *(path for path in PACKAGE.rglob("*"))]
    assert not [local(path) for path in paths if vague.search(path.stem)]
    classes = [
        node.name
        for path in python_files("gateway")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Utils", "Helper", "Manager"))
    ]
    assert not classes


def test_nothing_is_left_for_later_in_a_comment() -> None:
    later = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    texts = [
        *python_files("gateway", "bench"),
        *(ROOT / name for name in ("Makefile", "config.toml", "pyproject.toml", ".ci/run")),
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
    assert not [local(path) for path in texts if later.search(path.read_text())]


def test_every_module_opens_with_its_contract() -> None:
    silent = [
        local(path)
        for path in python_files("gateway", "bench")
        if path.read_text().strip() and not ast.get_docstring(tree_of(path))
    ]
    assert not silent


def test_the_top_level_holds_what_the_design_names_and_nothing_else() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout: which files belong to it cannot be told")
    allowed = {
        ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "bench",
        "config.toml", "docs", "gateway", "pyproject.toml", "requirements.lock", "tests",
    }  # fmt: skip
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= allowed


# --- locks ------------------------------------------------------------------------------------

LOCKS = ["requirements.lock", "tests/requirements.lock"]
_PIN = re.compile(r"([a-z0-9][a-z0-9.-]*)==([^\s;]+)( ; [^\\]+)?")
_HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}")


def pins(lock: str) -> dict[str, set[str]]:
    """Package -> versions (several where the Python decides). Fails on a line that pins nothing."""
    logical = re.sub(r"\\\n", "\\\\", (ROOT / lock).read_text()).splitlines()
    found: dict[str, set[str]] = {}
    for line in logical:
        if line.lstrip().startswith("#") or not line.strip():
            continue
        pin, *hashes = line.split("\\")
        match = _PIN.fullmatch(pin.strip())
        assert match, f"{lock}: {pin!r} is no exact version"
        assert hashes, f"{lock}: {pin} has no hash"
        assert all(_HASH.fullmatch(one.rstrip()) for one in hashes), f"{lock}: {pin}"
        found.setdefault(match[1], set()).add(match[2])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_line_by_hash_and_names_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert len(pins(lock)) > 10
    assert "://" not in text
    assert not re.search(r"^\s*(-[a-z]\b|--(?!hash=))", text, re.MULTILINE)


def test_what_is_tested_is_what_runs() -> None:
    run, test = (pins(lock) for lock in LOCKS)
    assert {name: test.get(name) for name in run} == run


def test_the_locks_answer_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = project["project"]["dependencies"], project["dependency-groups"]["test"]
    for lock, lines in zip(LOCKS, asked, strict=True):
        pinned = pins(lock)
        for wanted in map(Requirement, lines):
            versions = pinned.get(canonicalize_name(wanted.name))
            assert versions, f"{lock} lacks {wanted.name}"
            assert all(wanted.specifier.contains(one) for one in versions), f"{lock}: {wanted}"


# --- config.toml ------------------------------------------------------------------------------

SHIPPED = ROOT / "config.toml"
SECTIONS = ("server", "store", "keys", "admin", "dashboard", "byok", "billing", "limits",
            "upstream", "alerts", "log")  # fmt: skip


def fields(kind: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)}


def test_the_shipped_configuration_loads_and_says_the_defaults() -> None:
    shipped, bare = cfg.load(SHIPPED), cfg.Config()
    assert [name for name in SECTIONS if getattr(shipped, name) != getattr(bare, name)] == []
    assert {"openai", "anthropic", "google", "deepseek", "moonshot", "demo"} <= set(
        shipped.providers
    )


def test_the_shipped_configuration_shows_every_key_that_does_something() -> None:
    text = SHIPPED.read_text()
    tables = tomllib.loads(text)
    missing = {
        f"{section}.{key}"
        for section in SECTIONS
        for key in fields(type(getattr(cfg.Config(), section)))
        if key not in tables.get(section, {})
    }
    for name, section, kind in (("x", "providers", cfg.Provider), ("y", "models", cfg.Model)):
        used = {key for table in tables[section].values() for key in table}
        described = set(re.findall(r"^#   ([a-z_]+(?:, [a-z_]+)*)", text, re.MULTILINE))
        words = {word for group in described for word in group.split(", ")}
        missing |= {f"{section}.{name}.{key}" for key in fields(kind) - used - words}
    assert fields(cfg.Config) == {*SECTIONS, "providers", "models", "model_map"}
    assert not missing


# --- make -------------------------------------------------------------------------------------


def make_targets() -> dict[str, str]:
    """Target -> what `make help` says about it."""
    makefile = (ROOT / "Makefile").read_text()
    return dict(re.findall(r"^([a-z]+):.*?(?:## (.*))?$", makefile, re.MULTILINE))


def test_make_offers_what_the_product_promises_and_explains_each() -> None:
    targets = make_targets()
    assert {"help", "run", "test", "check", "bench", "dist", "lock", "clean"} <= set(targets)
    assert not [name for name, said in targets.items() if not said]


def test_every_make_command_in_the_documentation_exists() -> None:
    pages = [*ROOT.glob("*.md"), ROOT / "bench/README.md", *(ROOT / "docs").rglob("*.md")]
    wrong = [
        f"{local(page)}: make {target}"
        for page in pages
        for target in re.findall(r"(?:`|^    |^\$ )make ([a-z-]+)", page.read_text(), re.MULTILINE)
        if target not in make_targets()
    ]
    assert not wrong
