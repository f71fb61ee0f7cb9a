"""Which processes still run. One that has ended and is not reaped yet does not: in containers that takes seconds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from tokenlane.config.host.embedded_server import EmbeddedServer

__all__ = ["group_is_gone", "is_gone", "pid_of", "until_gone"]

_PROC = Path("/proc")


def pid_of(server: EmbeddedServer) -> int:
    """The process id of a running embedded server."""
    assert server._child is not None
    return server._child.process.pid


def is_gone(pid: int) -> bool:
    """Whether that process has ended."""
    if not (_PROC / "self" / "stat").exists():
        return _refused(lambda: os.kill(pid, 0))
    return pid not in _groups()


def group_is_gone(group: int) -> bool:
    """Whether all processes of the group have ended."""
    if not (_PROC / "self" / "stat").exists():
        return _refused(lambda: os.killpg(group, 0))
    return group not in _groups().values()


async def until_gone(group: int) -> None:
    """Wait for the last process of the group."""
    async with asyncio.timeout(10):
        while not group_is_gone(group):
            await asyncio.sleep(0.01)


def _groups() -> dict[int, int]:
    """The group of each process that has not ended."""
    found = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except OSError:  # it has just been reaped
            continue
        if state not in "ZX":
            found[int(stat.parent.name)] = int(group)
    return found


def _refused(signal: Callable[[], None]) -> bool:
    try:
        signal()
    except ProcessLookupError:
        return True
    return False
