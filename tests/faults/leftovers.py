"""What processes hold while nothing happens: asyncio tasks, connections in use, and open files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from tests.integration.farm import Child

__all__ = ["WRITES_HOLDINGS", "Holdings", "find_leftovers", "idle_holdings"]

Holdings: TypeAlias = Mapping[str, Any]

_MARK: Final = "holdings: "
WRITES_HOLDINGS: Final = f"""
import asyncio, gc, json, signal, sys
import redis.asyncio

def _write_holdings(*_):
    try:
        tasks = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    except RuntimeError:  # the loop does not run yet
        return
    in_use = 0
    gc.unfreeze()  # a worker hides the objects of its start from gc
    for each in gc.get_objects():
        if isinstance(each, redis.asyncio.ConnectionPool):
            in_use += len(each._in_use_connections)
        elif "aiohttp" in sys.modules and isinstance(each, sys.modules["aiohttp"].BaseConnector):
            in_use += len(each._acquired)
    sys.stderr.write({_MARK!r} + json.dumps({{"tasks": tasks, "connections in use": in_use}}) + "\\n")
    sys.stderr.flush()

signal.signal(signal.SIGUSR1, _write_holdings)
"""
"""A process that runs this code first writes what it holds whenever it gets SIGUSR1."""
_PAUSE_S: Final = 0.2


async def idle_holdings(children: Mapping[str, Child]) -> dict[str, Holdings]:
    """What processes hold that have just started, once that does not change any more."""
    idle, before = dict[str, Holdings](), dict[str, Holdings]()
    async with asyncio.timeout(60):
        while len(idle) < len(children):
            now = await _look_at_all({name: child for name, child in children.items() if name not in idle})
            stable = {name: held for name, held in now.items() if held and held == before.get(name)}
            idle |= {name: held for name, held in stable.items() if not held["connections in use"]}
            before = now
            await asyncio.sleep(_PAUSE_S)
    return idle


async def find_leftovers(children: Mapping[str, Child], idle: Mapping[str, Holdings], within_s: float) -> list[str]:
    """What processes hold during all of this time that they do not hold when they are idle."""
    deadline, left = time.monotonic() + within_s, dict(children)
    while True:
        held = await _look_at_all(left)
        left = {name: child for name, child in left.items() if held[name] != idle[name]}
        if not left or time.monotonic() > deadline:
            return [f"{name} holds {held[name]}, and {idle[name]} when idle" for name in left]
        await asyncio.sleep(_PAUSE_S)


async def _look_at_all(children: Mapping[str, Child]) -> dict[str, Holdings]:
    held = await asyncio.gather(*map(_look, children.values()))
    return dict(zip(children, held, strict=True))


async def _look(child: Child) -> Holdings:
    """Ask a process what it holds. The answer has nothing if the process does not answer soon."""
    lines = child.error.count(_MARK)
    child.process.send_signal(signal.SIGUSR1)
    for _ in range(100):
        await asyncio.sleep(0.01)
        said = child.error.split(_MARK)[1:]
        if len(said) > lines and "\n" in said[-1]:
            return {**json.loads(said[-1].partition("\n")[0]), "files": _open_files(child.process.pid)}
    return {}


def _open_files(pid: int) -> list[str]:
    """The open files of a process that are neither sockets nor pipes nor its standard output and error."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(entry)
        except FileNotFoundError:  # closed in the meantime
            continue
        if name.startswith("/") and not name.startswith("/dev/") and not name.endswith((".out", ".err")):
            found.append(name.rpartition("/")[2])
    return sorted(found)
