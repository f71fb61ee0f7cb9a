"""The files in `config/systemd` that run tokenlane as services; `tests/integration/whole/test_systemd.py` runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.documents import fenced
from tests.repository import ROOT
from tests.systemd import FOLDER, Unit, units

from tokenlane.config.settings.environment import SECRETS, SHORT_NAMES

UNITS = units()
PAGE = (ROOT / "docs" / "deploy-systemd.md").read_text(encoding="utf-8")
EXPOSURE = 2.0
"""The most that `systemd-analyze security` may give a unit, of 10."""
DRAIN_S = 30
"""The default of `worker --drain`; other verbs stop sooner."""
each = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)


def analyzed(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What `systemd-analyze` finds in all units, apart from the path of the command, which differs on each host."""
    for unit in UNITS:
        text = unit.file.read_text(encoding="utf-8")
        (folder / unit.file.name).write_text(text.replace(unit.command()[0], sys.executable), encoding="utf-8")
    files = sorted(folder.glob("*.service"))
    return subprocess.run(("systemd-analyze", *options, *files), capture_output=True, text=True, timeout=60)


def variables(file: Path) -> dict[str, str]:
    """The variables that an environment file sets."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_the_page_quotes_the_files() -> None:
    """docs/deploy-systemd.md shows the environment file and the lanes as they are."""
    assert fenced("ini", PAGE)[0] == (FOLDER / "worker.env").read_text(encoding="utf-8")
    assert fenced("toml", PAGE) == [(FOLDER / "llm.toml").read_text(encoding="utf-8")]


def test_a_proxy_gives_the_page_its_name() -> None:
    """What the page shows of nginx passes on the name that the dashboard's changed command allows."""
    (command,) = re.findall(r"^ExecStart=(.+)$", fenced("ini", PAGE)[1], re.MULTILINE)
    (proxy,) = fenced("nginx", PAGE)
    name = re.search(r"^ +server_name (\S+);$", proxy, re.MULTILINE)
    (unit,) = [unit for unit in UNITS if unit.name == "tokenlane-dashboard"]
    assert name is not None
    assert command.split() == [*unit.command(), "--allow-host", name[1]]
    assert re.search(r"^ +proxy_set_header Host \$host;$", proxy, re.MULTILINE)
    assert f"proxy_pass http://{unit.command()[-1]};" in proxy


@each
def test_a_stop_leaves_time_to_drain(unit: Unit) -> None:
    """systemd kills the process later than the process itself ends its requests."""
    program, *arguments = unit.command("gpu0")
    assert Path(program).is_absolute()
    drain = int(arguments[arguments.index("--drain") + 1]) if "--drain" in arguments else DRAIN_S - 1
    assert int(unit.value("TimeoutStopSec")) > drain


@each
def test_a_service_without_its_pool_starts_again(unit: Unit) -> None:
    """However often it fails: a pool that does not answer ends a process with the exit code of wrong settings."""
    assert unit.value("StartLimitIntervalSec") == "0"
    assert unit.value("Restart") == "on-failure"
    assert unit.values("RestartPreventExitStatus") == []


@each
def test_secrets_are_only_in_environment_files(unit: Unit) -> None:
    """The unit, which every user can read, sets none of the variables of the environment files."""
    names = {name.removeprefix("TOKENLANE_") for file in FOLDER.glob("*.env") for name in variables(file)}
    assert {"REDIS_URL", "POOL_KEY"} <= names <= {*SHORT_NAMES, *SECRETS}
    assert not any(name in unit.file.read_text(encoding="utf-8") for name in names)


def test_only_services_that_need_the_key_have_it() -> None:
    """Workers, and the dashboard, which sends lanes commands to load models. Each connects as its Redis user."""
    files = {unit.name: variables(FOLDER / Path(unit.value("EnvironmentFile")).name) for unit in UNITS}
    assert {unit.value("EnvironmentFile") for unit in UNITS} == {
        f"/etc/tokenlane/{file.name}" for file in FOLDER.glob("*.env")
    }
    with_key = {name for name, values in files.items() if "TOKENLANE_POOL_KEY" in values}
    assert with_key == {"tokenlane-worker@", "tokenlane-dashboard", "tokenlane-gateway"}
    users = {name: urlsplit(values["TOKENLANE_REDIS_URL"]).username for name, values in files.items()}
    assert users == {
        "tokenlane-worker@": "worker",
        "tokenlane-router": "router",
        "tokenlane-exporter": "ops",
        "tokenlane-dashboard": "ops",
        "tokenlane-gateway": "agent",
    }


@each
def test_only_a_worker_connects_to_model_servers(unit: Unit) -> None:
    """So say the comments of the units."""
    assert ("model servers" in unit.file.read_text(encoding="utf-8")) == (unit.command()[1] == "worker")


@each
def test_all_have_the_same_sandbox(unit: Unit) -> None:
    """What limits one service limits the others."""
    assert len(unit.sandbox()) > 20
    assert unit.sandbox() == UNITS[0].sandbox()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
class TestSystemd:
    """What systemd says about the units."""

    def test_accepts_them(self, tmp_path: Path) -> None:
        """No unit has an unknown setting or a wrong value."""
        verified = analyzed(tmp_path, "verify")
        assert (verified.returncode, verified.stderr) == (0, "")

    def test_finds_them_well_sandboxed(self, tmp_path: Path) -> None:
        """The exposure of each is low."""
        rated = analyzed(tmp_path, "security", "--offline=true", "--no-pager")
        found = re.findall(r"exposure level for (\S+): ([\d.]+)", rated.stdout)
        assert len(found) == len(UNITS), rated.stdout + rated.stderr
        assert [name for name, exposure in found if float(exposure) > EXPOSURE] == []
