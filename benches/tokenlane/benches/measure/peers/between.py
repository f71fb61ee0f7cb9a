"""Runs what stands between asker and model server, and reads its CPU time and its memory."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from redis.asyncio import Redis

from tokenlane.benches.measure.host.server_processes import resident_mb, used_cpu_s
from tokenlane.config.host.child_processes import Child, spawn

from .catalog import Peer, Place

_STOP_TIMEOUT_S = 10.0


def processes_of(session: int) -> list[int]:
    """Return the ids of the processes in a session, without the shell that `spawn` leaves there."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, OSError):  # no process, or it ended meanwhile
            process = int(entry.name)
            if os.getsid(process) == session and (entry / "comm").read_text().strip() != "sh":
                found.append(process)
    return found


class Intermediary:
    """What stands between asker and model server: the peer's processes, and the Redis server if its answers pass it."""

    def __init__(self, peer: Peer, place: Place, variables: dict[str, str], redis: Redis) -> None:
        self._peer, self._place, self._variables, self._redis = peer, place, variables, redis
        self._child: Child | None = None

    async def start(self) -> None:
        """Start the peer's processes. Their output is in the file `output`."""
        if self._peer.between is None:
            return
        with self._output.open("ab") as output:
            self._child = await spawn(
                *self._peer.between(self._place), output=output, errors=output, environment=self._variables
            )

    async def stop(self) -> None:
        """End the peer's processes."""
        child, self._child = self._child, None
        if child is not None:
            await child.end(_STOP_TIMEOUT_S)

    async def kill(self) -> None:
        """Kill the peer's processes with SIGKILL."""
        assert self._child is not None
        for process in processes_of(self._child.process.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        await self.stop()

    async def cpu_s(self) -> float:
        """Return the CPU seconds used so far."""
        used = used_cpu_s(self._processes())
        if self._peer.through_redis:
            info = await self._redis.info("cpu")
            used += float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
        return used

    async def memory_mb(self) -> float:
        """Return the resident memory."""
        used = resident_mb(self._processes())
        if self._peer.through_redis:
            used += float((await self._redis.info("memory"))["used_memory_rss"]) / 1e6
        return used

    def _processes(self) -> list[int]:
        return processes_of(self._child.process.pid) if self._child else []

    @property
    def _output(self) -> Path:
        return self._place.directory / "output"

    def last_line(self) -> str:
        """Return the last line that the peer's processes wrote; empty if there is none."""
        lines = self._output.read_text(errors="replace").split("\n") if self._output.exists() else []
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


@asynccontextmanager
async def between(peer: Peer, place: Place, variables: dict[str, str], redis: Redis) -> AsyncIterator[Intermediary]:
    """Run what stands between, as long as the block runs."""
    running = Intermediary(peer, place, variables, redis)
    try:
        await running.start()
        yield running
    finally:
        await running.stop()
