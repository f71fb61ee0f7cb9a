"""The response to one request, sent in pieces: its status is open until the first piece, and pings fill long pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import Send


@dataclass(frozen=True)
class Pauses:
    """How long a response may be silent.

    Args:
        first_byte_s: after how long a response begins, though its status may still turn out to be wrong.
        ping_every_s: after how long a silent response sends a ping.
        slow_client_s: how long a client may take to read what was sent before the gateway gives it up.
    """

    first_byte_s: float = 0.08
    ping_every_s: float = 8.0
    slow_client_s: float = 60.0


class Outlet:
    """Sends one response.

    Attributes:
        has_begun: whether the status and headers have been sent.

    Args:
        headers: makes the response's headers when it begins.
    """

    def __init__(self, send: Send, headers: Callable[[], Mapping[str, str]]) -> None:
        self.has_begun = False
        self._send = send
        self._headers = headers
        self._lock = asyncio.Lock()  # a ping stands between two pieces, never in one
        self._clock = asyncio.get_running_loop().time
        self._active_at = self._clock()

    async def write(self, data: bytes) -> None:
        """Send a piece, after the status 200 if it is the first one."""
        if not data:
            return
        async with self._lock:
            self._active_at = self._clock()
            await self._begin(200, self._headers())
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            self._active_at = self._clock()

    async def end(self) -> None:
        """End the response. A client that does not see this end knows that something is missing."""
        async with self._lock:
            await self._begin(200, self._headers())
            await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send the whole response, which must not have begun."""
        async with self._lock:
            await self._begin(status, headers)
            await self._send({"type": "http.response.body", "body": body})

    async def keep_open(self, ping: Callable[[], bytes], pauses: Pauses, too_slow: asyncio.Event) -> None:
        """Send a ping after each long pause, until cancelled.

        Args:
            ping: makes a ping; the first one may begin the response.
            too_slow: is set if the client does not read.
        """
        try:
            await self._keep_open(ping, pauses)
        except TimeoutError:
            too_slow.set()

    async def _keep_open(self, ping: Callable[[], bytes], pauses: Pauses) -> None:
        """Send pings. Raises `TimeoutError` if the client does not read."""
        await asyncio.sleep(pauses.first_byte_s)
        if not self.has_begun:
            async with asyncio.timeout(pauses.slow_client_s):
                await self.write(ping())
        while True:
            silent_s = self._clock() - self._active_at
            if self._lock.locked():
                if silent_s >= pauses.slow_client_s:
                    raise TimeoutError
                await asyncio.sleep(pauses.slow_client_s - silent_s)
            elif silent_s >= pauses.ping_every_s:
                async with asyncio.timeout(pauses.slow_client_s):
                    await self.write(ping())
            else:
                await asyncio.sleep(pauses.ping_every_s - silent_s)

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        if self.has_begun:
            return
        self.has_begun = True
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
