"""Node's packages of providers, as tests use them: installed once, called by a script of ours.

`node/ask.mjs` makes one call and prints what came. The packages are those of `package-lock.json`.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
from client_site import environment

NODE = Path(__file__).parent / "node"
INSTALL_S = 120
CALL_S = 30


def install(directory: Path, packages: Path = NODE) -> None:
    """Install what `packages` locks there; skips the test where that is impossible."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(packages / name, directory)
    try:
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=directory,
            env=dict(os.environ),
            capture_output=True,
            encoding="utf-8",
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci took more than {INSTALL_S} s")
    if done.returncode != 0 and any(f" {code}" in done.stderr for code in ("E404", "E403")):
        pytest.fail(done.stderr[-2000:])
    if done.returncode != 0:
        pytest.skip(f"npm ci: {done.stderr[-300:]}")


def ask(
    modules: Path, base_url: str, key: str, model: str, *words: str, retries: int = 0
) -> dict[str, Any]:
    """What a client, and its call, of `node/ask.mjs` say; `modules` is where they are installed."""
    done = subprocess.run(
        ["node", str(NODE / "ask.mjs"), *words],
        env={
            **environment(),
            **{"BASE_URL": base_url, "API_KEY": key, "MODEL": model, "MODULES": str(modules)},
            "RETRIES": str(retries),
        },
        capture_output=True,
        timeout=CALL_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    said: dict[str, Any] = orjson.loads(done.stdout)
    return said
