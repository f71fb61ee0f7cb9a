"""Sends an encoded answer to a client step by step, with the faults of a script."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.benches.simulator.request_log import Received

from .clock import Clock
from .http_answer import HttpAnswer

_ENDLESS_BYTES = 1 << 30
_BLOCK = b"x" * 65_536


class Encoded(Protocol):
    """An answer in a dialect's encoding, divided into steps such as tokens."""

    @property
    def steps(self) -> int:
        """The number of steps."""
        ...

    @property
    def stream_type(self) -> str:
        """The content type of the stream."""
        ...

    @property
    def late_head(self) -> bool:
        """Whether the headers wait for the first step."""
        ...

    @property
    def ping(self) -> bytes:
        """The bytes that keep a connection open without content."""
        ...

    @property
    def malformed(self) -> bytes:
        """The bytes of a step with invalid JSON."""
        ...

    @property
    def huge_start(self) -> bytes:
        """The first bytes of an endless line."""
        ...

    def frames(self) -> Iterator[bytes]:
        """Yield the bytes of each step; empty for a step that is sent together with a later step."""
        ...

    def ending(self) -> Iterator[bytes]:
        """Yield all bytes after the last step."""
        ...

    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Yield an error in the stream, and the end of the stream."""
        ...

    def unloaded(self) -> Iterator[bytes]:
        """Yield the end of a stream whose model is unloaded."""
        ...

    def stop(self, finish: str, sent: int) -> None:
        """End the answer after the first `sent` steps, with this finish reason."""
        ...

    def unstreamed_body(self) -> JsonValue:
        """Return the body of the answer without a stream."""
        ...

    def headers(self) -> dict[str, str]:
        """Return the headers of an answer without a stream."""
        ...


class SendError(Exception):
    """The answer failed before anything was sent, so the server should send this error."""

    def __init__(self, status: int, error: JsonValue) -> None:
        super().__init__(status)
        self.status, self.error = status, error


class CloseConnection(Exception):
    """The answer failed before anything was sent, and the server should close the connection."""


class StaySilent(Exception):
    """The server should send nothing more and leave the connection open."""


class _EndEarly(Exception):
    """The script ends the answer before it is complete."""

    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut


class Player:
    """Sends one encoded answer to one client.

    Args:
        wire: the connection; None for an answer without a stream.
        changed: called when the answer begins to be held.
    """

    def __init__(
        self,
        clock: Clock,
        received: Received,
        script: FaultScript,
        encoded: Encoded,
        wire: HttpAnswer | None,
        changed: Callable[[], None],
    ) -> None:
        self._clock, self._changed = clock, changed
        self._received, self._script, self._encoded, self._wire = received, script, encoded, wire
        self._at = 0
        self._stopped = False
        self._frames = encoded.frames()
        self._last = b""

    def stop(self, finish: str) -> None:
        """End the answer with this finish reason, instead of sending more steps."""
        self._stopped = True
        self._encoded.stop(finish, self._at)

    def _send_until(self, until: int) -> Iterator[bool]:
        """Send a step each time the iterator advances, up to `until`; yield False if the client reads too slowly."""
        wire, received, frames, plain = self._wire, self._received, self._frames, self._script.split_bytes is None
        while not self._stopped:
            if wire is not None and wire.blocked:
                yield False
                continue
            data = next(frames)
            self._at = received.sent = self._at + 1
            if wire is not None and data:
                self._last = data
                if plain and wire.begun:
                    wire.chunk(data)
                else:
                    self._write(data)
            if self._at >= until:
                return
            yield True

    async def perform(self, first_s: float, next_s: float) -> web.StreamResponse | None:
        """Send the whole answer. Without a stream, only wait as long as sending would take, and return None.

        Raises:
            SendError: the answer failed before anything was sent.
            CloseConnection: the answer failed before anything was sent, and the connection must be closed.
            StaySilent: the script requires silence from here on.
        """
        try:
            if not self._encoded.late_head:
                self._head()
            await self._steps(first_s, next_s)
            for data in self._encoded.ending():
                await self._write_slowly(data)
        except _EndEarly as over:
            self._received.end("failed")
            if self._wire is None:
                raise (CloseConnection() if over.cut else SendError(500, self._script.error)) from None
            self._head()
            return self._wire.cut() if over.cut else self._wire.end()
        self._head()
        return None if self._wire is None else self._wire.end()

    async def _steps(self, first_s: float, next_s: float) -> None:
        steps = self._encoded.steps
        places = [place for place in self._script.places() if place <= steps]
        wait_s = first_s
        if not steps or 0 in places:
            await asyncio.sleep(first_s)
            wait_s = 0
        for place in dict.fromkeys((*places, steps)):
            if place > self._at and not self._stopped:
                await self._play(place, wait_s, next_s)
                wait_s = next_s
            if place in places and not self._stopped:
                await self._inject_faults(place)

    async def _play(self, until: int, first_s: float, next_s: float) -> None:
        if not self._script.split_ms:
            await self._clock.play(self._send_until(until), first_s, next_s)
            return
        await asyncio.sleep(first_s)
        while self._at < until and not self._stopped:
            data = next(self._frames)
            await self._write_slowly(data)
            self._last = data or self._last
            self._at += 1
            self._received.sent = self._at
            await asyncio.sleep(next_s)

    def _head(self) -> None:
        if self._wire is not None and not self._wire.begun:
            kind = self._script.content_type or self._encoded.stream_type
            self._wire.head(200, {"Content-Type": kind, "Cache-Control": "no-cache"})

    def _write(self, data: bytes) -> None:
        assert self._wire is not None
        if not self._wire.begun:
            self._head()
        size = self._script.split_bytes
        if size is None:
            self._wire.chunk(data)
            return
        for start in range(0, len(data), size):
            self._wire.chunk(data[start : start + size])

    async def _write_slowly(self, data: bytes) -> None:
        """Write data in the pieces and with the pauses that the script demands."""
        if self._wire is None or not data:
            return
        if not self._script.split_ms:
            self._write(data)
            return
        self._head()
        size = self._script.split_bytes or 1
        for start in range(0, len(data), size):
            self._wire.chunk(data[start : start + size])
            await asyncio.sleep(self._script.split_ms / 1000)

    async def _inject_faults(self, place: int) -> None:
        """Do what the script demands before step `place`."""
        script, encoded = self._script, self._encoded
        if script.stall_after == place:
            await asyncio.sleep(script.stall_ms / 1000)
        if script.hold_after == place:
            await self._hold()
        if script.duplicate_after == place:
            await self._write_slowly(self._last)
        if script.malformed_after == place:
            await self._write_slowly(encoded.malformed)
        if script.huge_line_after == place:
            await self._write_slowly(encoded.huge_start + b"x" * script.huge_line_bytes)
        if script.endless_line_after == place:
            await self._endless(encoded.huge_start)
        await self._end_early(place)

    async def _end_early(self, place: int) -> None:
        """End the answer before step `place`, if the script demands that."""
        script, encoded = self._script, self._encoded
        if place in (script.error_after, script.unload_after):
            if self._wire is not None and not self._wire.begun:
                raise SendError(500, script.error)
            unloaded = script.unload_after == place
            for data in encoded.unloaded() if unloaded else encoded.error_bytes(500, script.error):
                await self._write_slowly(data)
            raise _EndEarly
        if script.half_open_after == place:
            raise StaySilent
        if script.cut_after == place:
            raise _EndEarly(cut=True)

    async def _hold(self) -> None:
        received, ping_ms = self._received, self._script.ping_ms
        received.held = True
        self._changed()
        while ping_ms is not None and not received.released.is_set():
            await self._write_slowly(self._encoded.ping)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ping_ms / 1000):
                    await received.released.wait()
        await received.released.wait()
        received.held = False

    async def _endless(self, start: bytes) -> None:
        if self._wire is None:
            raise _EndEarly(cut=True)
        self._head()
        if start:  # an empty chunk would end the body
            self._wire.chunk(start)
        for _ in range(_ENDLESS_BYTES // len(_BLOCK)):
            self._wire.chunk(_BLOCK)
            await self._wire.drained()
        raise _EndEarly(cut=True)
