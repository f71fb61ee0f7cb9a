"""A TCP proxy that disturbs the connections through it, and searches what passes for text that must not be readable."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

__all__ = ["TcpProxy", "tcp_proxy"]

_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Connection:
    """A client's connection, and the connection to the server that belongs to it."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    flows: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()

    def reset(self) -> None:
        for writer in self.writers:
            if writer.transport.is_closing():
                continue
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class TcpProxy:
    """A proxy on a loopback port. Get one with `tcp_proxy`.

    Args:
        server_port: the loopback port of the server.
        mark: bytes that must not pass; `leaks` counts them.
    """

    def __init__(self, server_port: int, mark: bytes | None = None) -> None:
        self.port = 0
        self.leaks = 0
        self._server_port = server_port
        self._mark = mark
        self._delay_s = 0.0
        self._refuses = False
        self._connections: set[_Connection] = set()
        self._all_flow = asyncio.Event()
        self._all_flow.set()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def cut(self) -> None:
        """Close all connections."""
        for connection in tuple(self._connections):
            connection.close()

    def reset(self) -> None:
        """Reset all connections."""
        for connection in tuple(self._connections):
            connection.reset()

    async def refuse(self, seconds: float) -> None:
        """Reset all connections, and every new one for this time."""
        self._refuses = True
        try:
            self.reset()
            await asyncio.sleep(seconds)
        finally:
            self._refuses = False

    async def delay(self, seconds: float) -> None:
        """Delay each piece of data by 50 ms for this time."""
        self._delay_s = 0.05
        try:
            await asyncio.sleep(seconds)
        finally:
            self._delay_s = 0

    async def stall(self, seconds: float) -> None:
        """Hold all data back for this time, also those of new connections, and deliver them then."""
        self._all_flow.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._all_flow.set()

    async def half_open(self, seconds: float) -> None:
        """Lose what the present connections carry for this time, and reset them then. New connections work."""
        present = tuple(self._connections)
        for connection in present:
            connection.flows.clear()
        await asyncio.sleep(seconds)
        for connection in present:
            connection.reset()
            connection.flows.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        try:
            if self._refuses:
                raise ConnectionError
            answers, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection((writer, server))
        connection.flows.set()
        self._connections.add(connection)
        try:
            await asyncio.gather(self._pass_on(connection, reader, server), self._pass_on(connection, answers, writer))
        finally:
            self._connections.discard(connection)
            connection.close()

    async def _pass_on(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        tail = b""
        with suppress(OSError, RuntimeError):
            while data := await reader.read(65536):
                if self._mark is not None:
                    self.leaks += (tail + data).count(self._mark)
                    tail = data[1 - len(self._mark) :]
                await self._all_flow.wait()
                await connection.flows.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.close()


@asynccontextmanager
async def tcp_proxy(server_port: int, mark: bytes | None = None) -> AsyncIterator[TcpProxy]:
    """A proxy in front of a loopback port. At the end it closes all connections."""
    proxy = TcpProxy(server_port, mark)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(asyncio.CancelledError):  # asyncio would log it
            await proxy.serve(reader, writer)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
