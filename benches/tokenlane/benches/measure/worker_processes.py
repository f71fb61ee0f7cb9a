"""Starts worker and router processes that a measurement may kill or freeze, unlike those of `child_process`."""

from __future__ import annotations

import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import UserError
from tokenlane.config.host.child_processes import spawn

_STOP_TIMEOUT_S = 20.0


@asynccontextmanager
async def worker_process(
    redis: str, lane: str, server: Simulator, capacity: int, *, pool: str = "main"
) -> AsyncIterator[Process]:
    """Run `tokenlane worker` for a lane. Yields its process once the lane accepts work.

    Raises:
        UserError: the worker exited before that.
    """
    options = (
        "--pool",
        pool,
        "--lane",
        lane,
        "--provider",
        "llamacpp",
        "--endpoint",
        server.url,
        "--capacity",
        str(capacity),
    )
    async with _process("worker", "--json", "--drain", "0", *options, redis=redis) as process:
        assert process.stdout is not None
        if not await process.stdout.readline():
            raise UserError(
                f"The measurement failed: the worker of lane {lane} exited with code {await process.wait()}."
            )
        yield process


@asynccontextmanager
async def router_process(redis: str) -> AsyncIterator[Process]:
    """Run `tokenlane router`."""
    async with _process("router", redis=redis) as process:
        yield process


@asynccontextmanager
async def _process(*arguments: str, redis: str) -> AsyncIterator[Process]:
    # The settings of whoever measures must not change what is measured.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENLANE_")}  # noqa: TID251
    child = await spawn(
        *(sys.executable, "-m", "tokenlane.config", *arguments, "--redis", redis),
        output=PIPE,
        errors=DEVNULL if arguments[0] == "router" else sys.stderr.fileno(),
        environment={**kept, "TOKENLANE_LOG__LEVEL": "error"},  # not a line for each request and each fault
    )
    try:
        yield child.process
    finally:
        await child.end(_STOP_TIMEOUT_S)
