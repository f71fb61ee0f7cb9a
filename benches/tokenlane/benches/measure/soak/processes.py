"""The processes that a soak watches, a worker and an agent, and what any process holds: memory, sockets, open files."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenlane.benches.measure import clients
from tokenlane.benches.measure.child_process import Tasks
from tokenlane.config.exit_codes import UserError
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.support.tasks import background

ROLES = ("planner", "coder")
"""Every other stream asks in each of these roles."""
_QUESTION = "Count."
_CANCELS_EVERY = 16
_EVERY_S = 0.5
"""How often each stream asks, so that the load is the same however fast the machine is at the moment."""


@dataclass(frozen=True)
class Held:
    """What a process holds. `files`: its open file descriptors that are no sockets."""

    memory_mb: float
    connections: int
    files: int


def held_by(process: int) -> Held:
    """Read from /proc what a process of the user holds.

    Raises:
        UserError: this system has no /proc, or the process ended.
    """
    proc = Path("/proc", str(process))
    try:
        pages = int((proc / "statm").read_text().split()[1])
        links = [_target(entry) for entry in (proc / "fd").iterdir()]
    except OSError as error:
        raise UserError(
            f"The soak cannot read {error.filename}: {error.strerror}. It needs Linux's /proc, and processes that run."
        ) from error
    sockets = sum(link.startswith("socket:") for link in links)
    files = sum(not link.startswith("socket:") for link in links if link)
    return Held(memory_mb=pages * resource.getpagesize() / 1e6, connections=sockets, files=files)


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except FileNotFoundError:  # closed in the meantime
        return ""


async def _collect() -> int:
    """Collect garbage. Python itself does so only once there is a quarter more than before, which looks like a leak."""
    return gc.collect()


async def _count() -> dict[str, float]:
    return {"objects (thousands)": sys.getallocatedblocks() / 1000, "tasks": len(asyncio.all_tasks())}


@asynccontextmanager
async def worker(redis: str, endpoint: str, capacity: int) -> AsyncIterator[Tasks]:
    """Run the process of the worker that lives through all faults.

    Its task `collect` collects garbage. Its task `count` counts its objects and asyncio tasks.
    """
    logging.disable(logging.WARNING)  # they are about the faults
    async with clients.worker(redis, endpoint, capacity, provider="llamacpp") as tasks:
        yield {**tasks, "collect": _collect, "count": _count}


@asynccontextmanager
async def agent(redis: str, streams: int) -> AsyncIterator[Tasks]:
    """Run the process of the agent, which asks at a steady pace in each of its streams, and cancels some requests.

    Its tasks `collect` and `count` are those of the worker. Its task `ended` returns how many requests were answered
    and cancelled, and how many failed with each error code.
    """
    logging.disable(logging.WARNING)
    ended = Counter[str]()

    async def ask(role: str, *, cancels: bool) -> str:
        async with client.chat(_QUESTION, role=role) as stream:
            async for _ in stream:
                if cancels:
                    return "cancelled"
        return "answered"

    async def stream(number: int) -> None:
        clock = asyncio.get_running_loop().time
        for count in itertools.count(number):
            next_s = clock() + _EVERY_S
            try:
                ended[await ask(ROLES[number % len(ROLES)], cancels=count % _CANCELS_EVERY == 0)] += 1
            except LlmError as error:
                ended[error.code] += 1
            await asyncio.sleep(next_s - clock())

    async def count_ended() -> Counter[str]:
        return ended

    async with Client(redis, key=KeyRing()) as client, background() as tasks:
        for number in range(streams):
            tasks.create_task(stream(number))
        yield {"collect": _collect, "count": _count, "ended": count_ended}
