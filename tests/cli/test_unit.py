"""`gateway unit` prints a unit that systemd takes, rates as hardened, and lets drain."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway import unit
from gateway.accounts import secret
from gateway.cli import main

EXPOSURE_MAX = 1.5

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def values(text: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


@pytest.fixture
def text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    config = tmp_path / "config.toml"
    config.write_text("[server]\ndrain_seconds = 100.5\n")
    assert main(["unit", "--config", str(config)]) == 0
    return capsys.readouterr().out


def test_systemd_has_more_patience_than_draining_takes(text: str) -> None:
    assert int(values(text, "TimeoutStopSec")[0]) > 100.5 + 5
    assert values(text, "KillSignal") == ["SIGTERM"]


def test_the_secret_comes_as_the_credential_that_is_looked_for(text: str) -> None:
    assert values(text, "LoadCredential") == [f"{secret.CREDENTIAL}:/etc/gateway/secret"]


def test_of_what_takes_resources_threads_may_only_change_their_priority(text: str) -> None:
    # Only ever for the worse: there is no capability to go the other way.
    *refused, allowed = values(text, "SystemCallFilter")
    assert any("@resources" in one and one.startswith("~") for one in refused)
    assert allowed == "setpriority"
    assert values(text, "CapabilityBoundingSet") == [""]


def test_the_unit_starts_this_command_on_this_configuration(text: str, tmp_path: Path) -> None:
    (start,) = values(text, "ExecStart")
    assert start.startswith("/")
    assert start.endswith(f" --config {tmp_path}/config.toml serve")


def test_what_systemd_would_expand_is_escaped() -> None:
    text = unit.render(command="/opt/a b/gate%way", config="/etc/$HOME/c.toml", drain_s=1)
    assert values(text, "ExecStart") == [
        '"/opt/a b/gate%%way" --config /etc/$$HOME/c.toml serve',
    ]


def test_a_path_that_the_unit_would_hide_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["/nowhere/gateway"])
    assert main(["unit"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "/usr/local/bin/gateway --config /etc/gateway/config.toml serve" in captured.out
    monkeypatch.setattr("os.path.abspath", lambda path: f"/home/ann/{path}")
    (tmp_path / "c.toml").write_text("")
    assert main(["unit", "--config", "c.toml"]) == 0
    assert "cannot see /home/ann/c.toml (ProtectHome=yes)" in capsys.readouterr().err


def test_a_configuration_that_is_wrong_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unit", "--config", str(tmp_path / "absent.toml")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "absent.toml: no such file" in captured.err


@needs_systemd
def test_systemd_rates_the_exposure_within_the_promise(text: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.service"
    path.write_text(text)
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", path],
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    found = re.search(r"exposure level for gateway\.service: ([\d.]+)", rated.stdout)
    assert found, rated
    assert float(found[1]) <= EXPOSURE_MAX


@needs_systemd
def test_systemd_knows_every_directive(tmp_path: Path) -> None:
    path = tmp_path / "gateway.service"
    path.write_text(unit.render(command="/bin/true", config="/etc/gateway/config.toml", drain_s=30))
    verified = subprocess.run(
        ["systemd-analyze", "verify", path],
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    assert "gateway.service:" not in verified.stderr, verified.stderr
