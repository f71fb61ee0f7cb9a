"""Runs llama.cpp's server with the built-in model in a child process, as long as a block lasts."""

from __future__ import annotations

import asyncio
import json
import logging
import os
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
_WAITS_ASLEEP = {"OMP_WAIT_POLICY": "passive"}
"""Without this, the threads of llama.cpp wait for each other busily. Then a program that wants one of their cores makes
the server several times slower."""


def needs_builtin_server(lane: LaneSettings) -> bool:
    """Whether the lane serves the built-in model and its settings name no endpoint."""
    return lane.provider == "builtin" and lane.endpoint is None


def is_installed() -> bool:
    """Whether the extra `builtin` is installed. Without it the built-in model's server cannot start."""
    return find_spec("xllamacpp") is not None


@asynccontextmanager
async def with_builtin_server(lane: LaneSettings, progress: Progress | None = None) -> AsyncIterator[LaneSettings]:
    """Run the built-in model's server if the lane needs it, and yield the lane with that server's endpoint. The model
    is downloaded if it is missing.

    Raises:
        LlmError: see `fetch` and `builtin_server`.
    """
    if not needs_builtin_server(lane):
        yield lane
        return
    async with builtin_server(await fetch(progress), lane.capacity or CAPACITY) as endpoint:
        yield replace(lane, endpoint=endpoint)


@asynccontextmanager
async def builtin_server(model_path: Path, capacity: int = CAPACITY) -> AsyncIterator[str]:
    """Serve the model at a free port of 127.0.0.1. Yields the endpoint once the server answers.

    A server that dies is restarted at the same port. It exits when its standard input ends, so it never outlives this
    process, however this process dies.

    Args:
        capacity: the number of slots (requests at once), each with `SLOT_TOKENS` of context.

    Raises:
        ProviderDown: the server could not be started; or it died and could not be restarted, which cancels the block.
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
            raise _not_started(f"it exited with code {code} soon after a restart")
        logger.warning("the built-in model server exited with code %d; restarting it", code)
        again = True


@asynccontextmanager
async def _process(model_path: Path, capacity: int, port: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await start_or_kill(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tokenlane.worker.builtin", str(model_path), str(capacity), str(port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # its log could quote prompts
            env={**_WAITS_ASLEEP, **os.environ},  # noqa: TID251 - passed on, not read
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
            report = json.loads(line) if line else {"error": f"its process exited with code {await process.wait()}"}
    except TimeoutError:
        report = {"error": f"it was not ready within {START_TIMEOUT_S:g} s"}
    except ValueError:
        report = {"error": "its process printed something other than a report"}
    if "endpoint" not in report:
        raise _not_started(report.get("error", "its process gave no reason").rstrip("."))
    return str(report["endpoint"])


def _not_started(reason: str) -> ProviderDown:
    return ProviderDown(
        f"The built-in model server did not start: {reason}. If a module is missing, {install_advice('builtin')}. "
        "Check that half a gigabyte of memory is free, or name another model server with --provider and --endpoint.",
        retryable=False,
        provider="builtin",
        model=MODEL_NAME,
    )
