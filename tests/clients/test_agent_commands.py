"""The commands `claude`, `codex` and `gemini` themselves, each on a model behind each format.

Each is run as its user would run it, with the settings that the README gives, in a directory and a
home of its own. It is told to use its shell; the demo calls that with a command of the name `demo`,
which a script on the path answers. What the agent says in the end is what that script printed.

Found on PATH, or below `GATEWAY_AGENTS_DIR` (`npm install --prefix DIR @anthropic-ai/claude-code
@openai/codex @google/gemini-cli`); without them these tests are skipped.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from client_site import Caller, Site

pytestmark = pytest.mark.clients

RUN_S = 90.0
PRINTED = "the script was run"
MODELS = {"gpt-5": "openai", "claude-opus-4-5": "anthropic", "gemini-2.5-pro": "google"}

CODEX_CONFIG = """
model = "{model}"
model_provider = "gateway"
web_search = "disabled"
check_for_update_on_startup = false

[model_providers.gateway]
name = "gateway"
base_url = "{url}/v1"
env_key = "GATEWAY_KEY"
wire_api = "responses"

[analytics]
enabled = false
"""
GEMINI_SETTINGS = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "privacy": {"usageStatisticsEnabled": False},
    "general": {"enableAutoUpdate": False},
}


class Agent(msgspec.Struct, frozen=True):
    """A command: the provider of its own format, what it is told, and its settings.

    `settings` writes files below a home and returns environment variables.
    """

    own: str
    words: tuple[str, ...]
    settings: Callable[[Path, str, str, str], dict[str, str]]


def claude_settings(_home: Path, url: str, key: str, model: str) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": key, "ANTHROPIC_MODEL": model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }  # fmt: skip


def codex_settings(home: Path, url: str, key: str, model: str) -> dict[str, str]:
    directory = home / ".codex"
    directory.mkdir()
    (directory / "config.toml").write_text(CODEX_CONFIG.format(url=url, model=model))
    return {"GATEWAY_KEY": key}


def gemini_settings(home: Path, url: str, key: str, model: str) -> dict[str, str]:
    directory = home / ".gemini"
    directory.mkdir()
    (directory / "settings.json").write_bytes(msgspec.json.encode(GEMINI_SETTINGS))
    return {"GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": key, "GEMINI_MODEL": model}


AGENTS = {
    "claude": Agent(
        "anthropic",
        ("--tools", "Bash", "--allowedTools", "Bash", "-p", "Use Bash"),
        claude_settings,
    ),
    "codex": Agent(
        "openai",
        ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox",
         "Use exec_command"),
        codex_settings,
    ),
    "gemini": Agent(
        "google", ("--skip-trust", "--yolo", "-p", "Use run_shell_command"), gemini_settings
    ),
}  # fmt: skip


def found(command: str) -> str:
    directory = os.environ.get("GATEWAY_AGENTS_DIR")
    path = None if directory is None else f"{directory}/node_modules/.bin"
    at = shutil.which(command, path=path)
    if at is None:
        pytest.skip(f"{command} is not installed: on PATH, or below GATEWAY_AGENTS_DIR")
    return at


def run(command: str, agent: Agent, directory: Path, settings: dict[str, str]) -> str:
    """What an agent prints, run in a home of its own where a script answers to `demo`."""
    scripts = directory / "bin"
    scripts.mkdir()
    script = scripts / "demo"
    script.write_text(f"#!/bin/sh\necho {PRINTED}\n")
    script.chmod(0o755)
    node = shutil.which("node")
    path = [str(scripts), *([] if node is None else [str(Path(node).parent)]), "/usr/bin", "/bin"]
    home = directory / "home"
    # Codex runs commands in a login shell, which makes a path of its own.
    (home / ".bash_profile").write_text(f"PATH={scripts}:$PATH\n")
    done = subprocess.run(
        [command, *agent.words],
        cwd=directory,
        env={
            "PATH": ":".join(path), "HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8",
            "NO_PROXY": "127.0.0.1", **settings,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=RUN_S,
        check=False,
    )  # fmt: skip
    printed = done.stdout.decode()
    assert done.returncode == 0, printed + done.stderr.decode()
    return printed


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_runs_its_shell_and_says_what_came_of_it(
    name: str, model: str, site: Site, gateway_key: Caller, tmp_path: Path
) -> None:
    command, agent = found(name), AGENTS[name]
    before = {receipt["id"] for receipt in site.receipts(gateway_key.key)}
    home = tmp_path / "home"
    home.mkdir()
    settings = agent.settings(home, site.gateway, gateway_key.key, model)
    printed = run(command, agent, tmp_path, settings)
    assert "answered" in printed
    assert PRINTED in printed
    receipts = [one for one in site.receipts(gateway_key.key) if one["id"] not in before]
    assert len(receipts) >= 2
    for receipt in receipts:
        assert receipt["status"] == "succeeded", receipt
        assert receipt["route"]["provider"] == MODELS[model]
        assert receipt["route"]["translated"] is (MODELS[model] != agent.own)
        assert receipt["usage"]["source"] == "reported"
