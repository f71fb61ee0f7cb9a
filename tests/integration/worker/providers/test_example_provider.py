"""The example in the documentation is a package that installs, and a provider that keeps its promises."""

from __future__ import annotations

import os
import sys
from asyncio import create_subprocess_exec, subprocess
from pathlib import Path

from tests.repository import ROOT

EXAMPLE = ROOT / "docs" / "example-provider"


async def run(*command: str, **environment: str) -> tuple[int | None, str]:
    process = await create_subprocess_exec(
        *(sys.executable, "-m", *command), env={**os.environ, **environment}, stdout=subprocess.PIPE
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


def test_it_is_short() -> None:
    """Under 40 lines."""
    assert len((EXAMPLE / "tokenlane_parrot.py").read_text().splitlines()) < 40


async def test_it_installs_and_conforms(tmp_path: Path) -> None:
    """Installed, its name is one of the providers, and the suite finds no broken promise."""
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    code, _ = await run("pip", "install", *options, "--target", str(tmp_path), str(EXAMPLE))
    assert code == 0
    code, table = await run(
        *("tokenlane.worker.providers.conformance", "--provider", "parrot", "--model", "parrot"),
        PYTHONPATH=str(tmp_path),
    )
    assert code == 0, table
    assert " failed " not in table
    assert not list(EXAMPLE.glob("*.egg-info"))
