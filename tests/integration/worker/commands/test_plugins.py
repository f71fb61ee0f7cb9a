"""`tokenlane plugins`, and the commands of docs/plugins.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.documents import commands_of
from tests.repository import ROOT
from tests.unit.worker.hooks.plugins import BRIEF, FAILS, LOOPS, WASI, plugin

from tokenlane.worker.hooks.prompt_plugins import digest_of

CHECK_BRIEF, INSTALL, WIT, BUILD, CHECK_STYLE = commands_of((ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"))


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in a folder with the project's documentation, with the programs of this Python first."""
    if not (folder / "docs").exists():
        (folder / "docs").symlink_to(ROOT / "docs")
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": programs, "TOKENLANE_HOME": str(folder / "home")}
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_the_example_is_checked(tmp_path: Path) -> None:
    """With the hash for the policy, and the texts as the plugin changes them."""
    checked = run(CHECK_BRIEF, tmp_path)
    lines = dict(line.split(maxsplit=1) for line in checked.stdout.splitlines())
    assert (checked.returncode, lines["plugin"], lines["call"].split()[1]) == (0, digest_of(BRIEF), "ms")
    assert json.loads(lines["user"]) == "Hello.\n\nAnswer in one sentence."
    assert json.loads(lines["system"]) == "You are an assistant."


def test_the_texts_and_the_metadata_are_options(tmp_path: Path) -> None:
    (tmp_path / "p.wat").write_bytes(plugin({"system": ""}))
    checked = run("tokenlane plugins check p.wat --system a --user b --metadata '{\"c\": 1}' --json", tmp_path)
    report = json.loads(checked.stdout)
    assert (report["system"], report["user"], report["plugin"]) == (None, "b", digest_of(plugin({"system": ""})))
    assert run("tokenlane plugins check p.wat --metadata 3", tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("code", "why"),
    [(WASI, "wasi_snapshot_preview1"), (LOOPS, "fuel"), (FAILS, "no day given for a secret"), (None, "")],
)
def test_what_cannot_be_used_is_explained(code: bytes | None, why: str, tmp_path: Path) -> None:
    """The plugin's own error, too: here it is the author who reads it."""
    if code is not None:
        (tmp_path / "p.wasm").write_bytes(code)
    checked = run("tokenlane plugins check p.wasm", tmp_path)
    assert (checked.returncode, checked.stdout) == (1, "")
    assert "p.wasm" in checked.stderr
    assert why in checked.stderr


@pytest.mark.deployed
@pytest.mark.timeout(300)
def test_a_plugin_in_python(tmp_path: Path) -> None:
    """componentize-py builds the example from the interface as it is printed, and it needs no imports."""
    assert INSTALL == "pip install componentize-py"
    for command in (WIT, BUILD):
        built = run(command, tmp_path)
        assert built.returncode == 0, built.stderr
    checked = run(CHECK_STYLE, tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "Today is Monday." in checked.stdout
    lacking = run(CHECK_STYLE.replace("Monday", "M").replace('"day"', '"today"'), tmp_path)
    assert "the metadata lacks 'day'" in lacking.stderr
