"""A command that ends with the process that started it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from tests.integration.farm import eventually

STARTER = """
import asyncio, sys
from asyncio.subprocess import DEVNULL
from tokenlane.config.host.child_processes import spawn

async def main():
    child = await spawn("sleep", "1000", output=DEVNULL, errors=DEVNULL)
    print(child.process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.kills
async def test_a_command_ends_with_its_killed_parent(frozen: bool) -> None:
    """A parent killed by SIGKILL leaves no command behind, not even a frozen one."""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", STARTER, stdout=PIPE)
    assert parent.stdout is not None
    command = int(await parent.stdout.readline())

    async def runs() -> bool:
        return b"sleep\0" in await asyncio.to_thread(Path(f"/proc/{command}/cmdline").read_bytes)

    async def is_gone() -> bool:
        try:
            return not await runs()
        except OSError:
            return True

    await eventually(runs)
    if frozen:
        os.kill(command, signal.SIGSTOP)
    parent.kill()
    await parent.wait()
    await eventually(is_gone)
