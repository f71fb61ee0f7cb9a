"""The examples in docs/examples run as they are written, with only the address and a key in their environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import copy, which

import pytest
from tests.clients.behind import NPM, Door
from tests.repository import ROOT

FOLDER = ROOT / "docs" / "examples"
NO_CLIENTS = {"filters.py", "openai_batch.py"}
"""Examples of something else, and one that needs a gateway with files: the tests of batches run it."""
ANSWERS = {"instructor_object.py": "inhabitants=1"}
"""What examples print that print something else than the simulated text."""
EXAMPLES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".sh", ".mjs"))


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in NO_CLIENTS])
def test_an_example(name: str, door: Door, tmp_path: Path) -> None:
    """It prints the model's answer."""
    if name.endswith(".mjs"):
        if which("node") is None or not NPM.exists():
            pytest.skip("no node, or no packages from npm: `make test-clients` installs them")
        command = ["node", str(copy(FOLDER / name, NPM))]  # beside the packages, where node looks for them
    else:
        command = [sys.executable if name.endswith(".py") else "bash", str(FOLDER / name)]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "OPENAI_BASE_URL": door.openai,
        "OPENAI_API_KEY": door.key,
        "ANTHROPIC_BASE_URL": door.url,
        "ANTHROPIC_API_KEY": door.key,
        "TOKENLANE_REDIS_URL": door.redis_url,
    }
    asked = len(door.simulator.log)
    ended = subprocess.run(
        [*command, "sim"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=150
    )
    assert ended.returncode == 0, ended.stderr
    assert ANSWERS.get(name, "w0 w1 w2") in ended.stdout
    if name == "durable_dbos.py":  # ten tries of its step
        assert ended.stdout.count("w0 w1 w2") == 11
        assert len(door.simulator.log) == asked + 1
