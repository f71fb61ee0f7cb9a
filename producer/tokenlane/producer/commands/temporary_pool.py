"""Runs the demo's processes: a temporary pool, which is a `tokenlane up`, and further commands.

All of them end when this process ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tokenlane.config.host.child_processes import start_or_kill, wait_or_kill

_STOP_TIMEOUT_S = 60.0


@asynccontextmanager
async def temporary_pool(*options: str) -> AsyncIterator[tuple[Process, dict[str, Any] | None]]:
    """Run a pool that other commands do not find. Yields what `serving` yields for its `tokenlane up`."""
    async with serving("up", "--private", *options) as started:
        yield started


@asynccontextmanager
async def serving(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Process, dict[str, Any] | None]]:
    """Run `tokenlane up` or `tokenlane worker` in a child process, and stop it at the end of the block. Yields the
    process and the facts that it reports once its lane is open, or None if it exits first.

    Args:
        environment: the environment of the command; None: that of this process.
    """
    process = await start_or_kill(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tokenlane.config", *arguments, "--json", "--supervised"),
            stdin=PIPE,
            stdout=PIPE,
            env=environment,
            start_new_session=True,  # so that Ctrl-C in the terminal interrupts only this process
        )
    )
    try:
        yield process, await _until_ready(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await wait_or_kill(process, _STOP_TIMEOUT_S)


async def _until_ready(process: Process) -> dict[str, Any] | None:
    assert process.stdout is not None
    facts: dict[str, Any] = {}
    async for line in process.stdout:
        event = json.loads(line)
        facts |= event
        if event.get("event") in ("ready", "waiting"):
            return facts
    return None
