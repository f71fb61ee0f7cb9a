"""Runs llama.cpp's server with the built-in model in a child process, as long as a block lasts."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from tokenlane.config.extras import install_advice
from tokenlane.config.host.child_processes import start_or_kill, wait_or_kill
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import ProviderDown
from tokenlane.routing.support.tasks import background

from . import MODEL_NAME
from .model import Progress, fetch

logger = logging.getLogger(__name__)

SLOT_TOKENS = 2048
"""The context of one slot."""
CAPACITY = 4
"""The default number of slots."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
STEADY_S = 10.0
"""A restarted server that dies sooner than this is not restarted again."""


def needs_server(lane: LaneSettings) -> bool:
    """Whether the lane is for the built-in model and its settings name no server."""
    return lane.provider == "builtin" and lane.endpoint is None


def is_installed() -> bool:
    """Whether the extra `builtin` is installed, without which the model's server cannot start."""
    return find_spec("xllamacpp") is not None


@asynccontextmanager
async def with_own_server(lane: LaneSettings, progress: Progress | None = None) -> AsyncIterator[LaneSettings]:
    """Run a model server for the lane if it needs one, downloading the model if it is missing. Yield the lane with its
    endpoint.

    Raises:
        LlmError: see `fetch` and `builtin_server`.
    """
    if not needs_server(lane):
        yield lane
        return
    async with builtin_server(await fetch(progress), lane.capacity or CAPACITY) as endpoint:
        yield replace(lane, endpoint=endpoint)


@asynccontextmanager
async def builtin_server(model_path: Path, capacity: int = CAPACITY) -> AsyncIterator[str]:
    """Serve the model on a free port of 127.0.0.1; the endpoint, once it answers.

    A server that dies is started again at the same port. It ends when its standard input does, so it never outlives
    this process, however that dies.

    Args:
        capacity: the number of slots (requests at once), each with `SLOT_TOKENS` of context.

    Raises:
        ProviderDown: the server could not be started or restarted. The block is cancelled then.
    """
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    try:
        async with background() as tasks:
            tasks.create_task(_keep(model_path, capacity, ready), name="tokenlane model server")
            yield await ready
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _keep(model_path: Path, capacity: int, ready: asyncio.Future[str]) -> None:
    """Run the server, and restart it when it dies. `ready` gets the endpoint, which stays the same after a restart."""
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
            stderr=asyncio.subprocess.DEVNULL,  # its log could quote prompts
            start_new_session=True,  # so that a terminal's Ctrl-C reaches only the worker, which drains first
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
            report = json.loads(line) if line else {"error": f"its process ended with code {await process.wait()}"}
    except TimeoutError:
        report = {"error": f"it was not ready within {START_TIMEOUT_S:g} s"}
    except ValueError:
        report = {"error": "its process broke off"}
    if "endpoint" not in report:
        raise _not_started(report.get("error", "it does not say why").rstrip("."))
    return str(report["endpoint"])


def _not_started(reason: str) -> ProviderDown:
    return ProviderDown(
        f"The built-in model server did not start: {reason}. If a module is missing, {install_advice('builtin')}. "
        "It also needs half a gigabyte of free memory. Or name a model server of your own with `--provider`.",
        retryable=False,
        provider="builtin",
        model=MODEL_NAME,
    )
