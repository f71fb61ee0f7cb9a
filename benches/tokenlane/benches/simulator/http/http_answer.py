"""Writes HTTP answers without aiohttp: a token costs little more than a system call, and faults can violate HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

_BLOCKED_BYTES = 64 * 1024
"""If so many bytes wait to be sent, the client reads too slowly."""


class HttpAnswer:
    """The answer to one request. Writes to a lost connection are ignored, since aiohttp cancels the handler."""

    def __init__(self, request: web.Request) -> None:
        assert request.transport is not None
        self._transport = request.transport
        plain = self._transport.get_extra_info("ssl_object") is None
        plain_socket = self._transport.get_extra_info("socket") if plain else None
        self._file: int | None = None if plain_socket is None else plain_socket.fileno()
        self._chunked = request.version >= HttpVersion11
        self.keeps = self._chunked and request.keep_alive
        """Whether the connection stays open for another request."""
        self.begun = False
        self._waits = True
        """Whether the transport may still have bytes to send."""

    @property
    def blocked(self) -> bool:
        """Whether the client reads too slowly."""
        return self._waits and self._transport.get_write_buffer_size() > _BLOCKED_BYTES

    @property
    def closing(self) -> bool:
        """Whether the connection is closed or closing."""
        return self._transport.is_closing()

    async def drained(self) -> None:
        """Wait until the client has read enough."""
        await asyncio.sleep(0)
        while self.blocked and not self.closing:  # noqa: ASYNC110 - a transport has no event for this
            await asyncio.sleep(0.005)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Write the status and the headers. The length of the body is unknown."""
        framing = {"Transfer-Encoding": "chunked"} if self._chunked else {"Connection": "close"}
        lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
        lines += [f"{name}: {value}" for name, value in {**headers, **framing}.items()]
        self.begun = True
        self.raw("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))

    def chunk(self, data: bytes) -> None:
        """Write a piece of the body."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._waits or self._file is None or self._transport.is_closing():
            self.raw(data)
            return
        try:
            sent = os.write(self._file, data)
        except OSError:  # the buffer is full, or the connection broke: `raw` finds out
            sent = 0
        if sent < len(data):
            self.raw(data[sent:])

    def raw(self, data: bytes) -> None:
        """Write bytes, if possible directly to the socket: writing through the transport costs twice as much."""
        transport = self._transport
        if transport.is_closing():  # another connection may have the file descriptor by now
            return
        if self._file is not None and not (self._waits and transport.get_write_buffer_size()):
            self._waits = False
            try:
                sent = os.write(self._file, data)
            except BlockingIOError:
                sent = 0
            except OSError:  # the connection was reset; the transport notices when it reads
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._waits = True
        transport.write(data)

    def end(self) -> web.StreamResponse:
        """End the body, and return a response for aiohttp."""
        if self._chunked:
            self.raw(b"0\r\n\r\n")
        return _Written(keep=self.keeps)

    def cut(self) -> web.StreamResponse:
        """Close the connection before the end of the body, and return a response for aiohttp."""
        self._transport.close()
        return _Written(keep=False)


class _Written(web.StreamResponse):
    """A response that was already written."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self._kept = keep

    @property
    def keep_alive(self) -> bool:
        return self._kept

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Simulated"
