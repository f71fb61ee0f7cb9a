"""A proxy in front of a Redis server that resets its connections, as load balancers and NATs do with idle ones."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.asyncio.connection import parse_url

__all__ = ["Resetting", "resetting"]

_RESET = struct.pack("ii", 1, 0)


class Resetting:
    """`url`: where it listens. `resets`: how many connections it has reset."""

    def __init__(self, behind: str) -> None:
        self.url = ""
        self.resets = 0
        self._behind = parse_url(behind)
        self._open: set[asyncio.StreamWriter] = set()

    def reset(self) -> None:
        """Reset all connections of clients, now."""
        for writer in tuple(self._open):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
            self.resets += 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        path = self._behind.get("path")
        if path is not None:
            there, back = await asyncio.open_unix_connection(path)
        else:
            there, back = await asyncio.open_connection(self._behind["host"], self._behind["port"])
        self._open.add(writer)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pour(reader, back))
                tasks.create_task(_pour(there, writer))
        finally:
            self._open.discard(writer)
            writer.close()
            back.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, RuntimeError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.close()


@asynccontextmanager
async def resetting(behind: str) -> AsyncIterator[Resetting]:
    """A proxy on loopback in front of the server at that URL, gone at the end."""
    proxy = Resetting(behind)
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        await proxy.serve(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    try:
        yield proxy
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
