"""The virtual environments of the peers, in the user's cache directory.

Each is made when its peer is measured for the first time, and again if a version changes.
"""

from __future__ import annotations

import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from platformdirs import user_cache_path

from tokenlane.config.exit_codes import UserError
from tokenlane.config.host.child_processes import spawn

from . import programs
from .catalog import Peer

_MADE = "tokenlane-peer.txt"
"""A file in each finished environment, with the packages that it was made for."""
_STOP_TIMEOUT_S = 5.0


class NotInstalled(UserError):
    """A peer's packages could not be installed here."""


async def environment_of(peer: Peer, *, fresh: bool = False) -> Path:
    """Return the interpreter of a peer's environment, which is made if there is none yet.

    Args:
        fresh: make the environment again in any case.

    Raises:
        NotInstalled: the packages could not be installed.
    """
    if not peer.packages:
        return Path(sys.executable)
    home = user_cache_path("tokenlane") / "bench-peers" / peer.name
    python = home / "bin" / "python"
    wanted = "\n".join(peer.packages)
    made = home / _MADE
    if fresh or not made.exists() or made.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        await _run(peer, sys.executable, "-m", "venv", home)
        await _run(peer, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages)
        made.write_text(wanted)
    _link_programs(home)
    return python


async def _run(peer: Peer, *command: str | Path) -> None:
    child = await spawn(*command, output=PIPE, errors=STDOUT)
    try:
        output, _ = await child.process.communicate()
    finally:
        await child.end(_STOP_TIMEOUT_S)
    if child.process.returncode:
        lines = output.decode(errors="replace").splitlines()
        reason = next(
            (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no output"
        )
        raise NotInstalled(f"The packages of {peer.name} cannot be installed: {reason[:300]}")


def _link_programs(home: Path) -> None:
    """Make `programs` importable there under its usual name, without the rest of tokenlane."""
    (packages,) = home.glob("lib/python*/site-packages")
    link = packages.joinpath(*programs.__name__.split("."))
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(programs.__file__).parent)
