"""llama.cpp's server in a child process, for as long as a block runs."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from tokenlane.config.host.child_processes import start_or_kill, wait_or_kill
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import LlmError, ProviderDown
from tokenlane.routing.support.tasks import background

from . import MODEL_NAME
from .model import Progress, fetch

logger = logging.getLogger(__name__)

SLOT_TOKENS = 2048
"""The context of one slot."""

CAPACITY = 4
"""Slots, where the lane does not say how many."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
STEADY_S = 10.0
"""One that was started again and dies sooner than this is given up."""


def needs_server(lane: LaneSettings) -> bool:
    """Whether the lane is for the built-in model, and nobody serves it yet."""
    return lane.provider == "builtin" and lane.endpoint is None


@asynccontextmanager
async def with_own_server(lane: LaneSettings, progress: Progress | None = None) -> AsyncIterator[LaneSettings]:
    """The lane, with a model server of its own if it needs one; the model is fetched if need be.

    Args:
        progress: as `fetch` takes it.

    Raises:
        LlmError: as `fetch` and `builtin_server`.
    """
    if not needs_server(lane):
        yield lane
        return
    async with builtin_server(await fetch(progress), lane.capacity or CAPACITY) as endpoint:
        yield replace(lane, endpoint=endpoint)


@asynccontextmanager
async def builtin_server(model_path: Path, capacity: int = CAPACITY) -> AsyncIterator[str]:
    """Serve the model on a free port of 127.0.0.1 and give the endpoint once it answers.

    A server that dies is started again at the same port. It ends when its standard input does, so it never outlives
    this process, however that dies.

    Args:
        capacity: slots, that is requests answered at once, each with `SLOT_TOKENS` of context.

    Raises:
        ProviderDown: it did not start, or not again; the block is cancelled for that.
    """
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    try:
        async with background() as tasks:
            tasks.create_task(_keep(model_path, capacity, ready), name="tokenlane model server")
            yield await ready
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _keep(model_path: Path, capacity: int, ready: asyncio.Future[str]) -> None:
    """Run the server, again and again, and tell the endpoint of the first, which is that of all."""
    clock, again = asyncio.get_running_loop().time, False
    while True:
        port = urlsplit(ready.result()).port or 0 if again else 0
        async with _process(model_path, capacity, port) as (process, endpoint):
            if not again:
                ready.set_result(endpoint)
            since = clock()
            code = await process.wait()
        if again and clock() - since < STEADY_S:
            raise _not_started(f"it ended with code {code}, soon after it had been started again")
        logger.warning("the built-in model server ended with code %d; starting it again", code)
        again = True


@asynccontextmanager
async def _process(model_path: Path, capacity: int, port: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await start_or_kill(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tokenlane.worker.builtin", str(model_path), str(capacity), str(port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # the server's log could quote prompts
            start_new_session=True,  # the terminal's Ctrl-C is for us; we drain first
        )
    )
    patience_s = 0.0
    try:
        endpoint = await _endpoint(process)
        patience_s = STOP_TIMEOUT_S
        yield process, endpoint
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await wait_or_kill(process, patience_s)


async def _endpoint(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
            if not line:
                raise _not_started(f"its process ended with code {await process.wait()}")
    except TimeoutError as error:
        if isinstance(error, LlmError):
            raise
        raise _not_started(f"it was not ready within {START_TIMEOUT_S:g} s") from None
    try:
        said: dict[str, str] = json.loads(line)
    except ValueError:
        raise _not_started("its process broke off") from None
    if "endpoint" not in said:
        raise _not_started(said.get("error", "it does not say why").rstrip("."))
    return said["endpoint"]


def _not_started(reason: str) -> ProviderDown:
    return ProviderDown(
        f"The built-in model server did not start: {reason}. Check that tokenlane[builtin] is installed and that half "
        "a gigabyte of memory is free; `--provider` names a model server of your own instead.",
        retryable=False,
        provider="builtin",
        model=MODEL_NAME,
    )
