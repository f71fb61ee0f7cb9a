"""The output of `tokenlane config` that docs/configuration.md shows is what the command prints."""

from __future__ import annotations

import os
import shlex
from contextlib import chdir
from pathlib import Path

from tests.documents import commands_of, fenced
from tests.repository import ROOT
from tests.verbs import run_redirected

FILE = """\
[redis]
url = "redis://gpu-hub:6379"

[lanes.gpu0]
provider = "ollama"
"""


def columns(line: str) -> list[str]:
    """A line's words, however they are aligned."""
    return line.split()


def test_the_documented_output_is_what_the_command_prints(tmp_path: Path) -> None:
    """Every documented line is printed; `…` stands for lines that are left out."""
    (tmp_path / "llm.toml").write_text(FILE, encoding="utf-8")
    (block,) = fenced("console", (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"))
    command = commands_of(f"```console\n{block}```\n")[-1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENLANE_")}
    places = {"TOKENLANE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "TOKENLANE_POOL": "blue"}
    with chdir(tmp_path):
        ended = run_redirected(shlex.split(command)[1:], {**kept, **places, "NO_COLOR": "1", "TERMINAL_WIDTH": "200"})
    printed = [columns(line) for line in ended.out.splitlines()]
    documented = [columns(line) for line in block.splitlines() if line and not line.startswith(("$", "…"))]
    assert documented
    assert [line for line in documented if line not in printed] == []
