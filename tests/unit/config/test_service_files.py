"""The files in `config/systemd` that run a worker as a service."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from tests.documents import fenced
from tests.repository import ROOT

from tokenlane.config.settings.environment import SECRETS, SHORT_NAMES

SYSTEMD = ROOT / "config" / "systemd"
UNIT, ENVIRONMENT = SYSTEMD / "tokenlane-worker.service", SYSTEMD / "worker.env"


def service() -> dict[str, str]:
    """The section `[Service]` of the unit."""
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    return dict(unit["Service"])


def test_the_page_quotes_the_files() -> None:
    """docs/workers.md shows both files as they are."""
    page = (ROOT / "docs" / "workers.md").read_text(encoding="utf-8")
    assert fenced("ini", page) == [file.read_text(encoding="utf-8") for file in (UNIT, ENVIRONMENT)]


def test_a_stop_leaves_time_to_drain() -> None:
    """systemd kills the worker later than the worker itself ends its requests."""
    program, *arguments = shlex.split(service()["ExecStart"])
    assert Path(program).is_absolute()
    assert int(service()["TimeoutStopSec"]) > int(arguments[arguments.index("--drain") + 1])


def test_a_worker_without_its_pool_starts_again() -> None:
    """However often it fails: a pool that does not answer ends a worker with the exit code of wrong settings."""
    assert "StartLimitIntervalSec=0" in UNIT.read_text(encoding="utf-8").splitlines()
    assert service()["Restart"] == "on-failure"
    assert "RestartPreventExitStatus" not in service()


def test_secrets_are_only_in_the_environment_file() -> None:
    """The environment file sets variables that tokenlane reads, and the unit, which every user can read, has none."""
    lines = [line for line in ENVIRONMENT.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    names = {line.partition("=")[0].removeprefix("TOKENLANE_") for line in lines}
    assert {"REDIS_URL", "POOL_KEY"} <= names <= {*SHORT_NAMES, *SECRETS}
    assert service()["EnvironmentFile"].endswith(f"/{ENVIRONMENT.name}")
    assert not any(name in UNIT.read_text(encoding="utf-8") for name in names)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """Apart from the path of the command, which differs on each host."""
    unit = tmp_path / UNIT.name
    program = shlex.split(service()["ExecStart"])[0]
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(program, sys.executable), encoding="utf-8")
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert (verified.returncode, verified.stderr) == (0, "")
