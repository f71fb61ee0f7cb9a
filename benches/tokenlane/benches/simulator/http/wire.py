"""Writes one HTTP answer past aiohttp: a token costs little more than a system call, and protocols can be broken."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

_BLOCKED_BYTES = 64 * 1024
"""A reader that lets so much pile up is waited for."""


class HttpAnswer:
    """The answer to one request. Writes to a lost connection are dropped: its handler is cancelled."""

    def __init__(self, request: web.Request) -> None:
        assert request.transport is not None
        self._transport = request.transport
        plain = self._transport.get_extra_info("ssl_object") is None
        plain_socket = self._transport.get_extra_info("socket") if plain else None
        self._file: int | None = None if plain_socket is None else plain_socket.fileno()
        self._chunked = request.version >= HttpVersion11
        self.keeps = self._chunked and request.keep_alive
        """Whether the connection carries another request."""
        self.begun = False
        self._waits = True
        """What was written before may not have left."""

    @property
    def blocked(self) -> bool:
        """Whether the client reads too slowly."""
        return self._waits and self._transport.get_write_buffer_size() > _BLOCKED_BYTES

    @property
    def closing(self) -> bool:
        """Whether the connection is closed or closing."""
        return self._transport.is_closing()

    async def drained(self) -> None:
        """Wait until the client has caught up."""
        await asyncio.sleep(0)
        while self.blocked and not self.closing:  # noqa: ASYNC110 - a transport rings no event
            await asyncio.sleep(0.005)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Write status and headers of a body of unknown length."""
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
        except OSError:  # that it is full, or whatever else: there is time to look
            sent = 0
        if sent < len(data):
            self.raw(data[sent:])

    def raw(self, data: bytes) -> None:
        """Write bytes, straight to the socket if possible: the transport costs twice as much."""
        transport = self._transport
        if transport.is_closing():  # the number of its file may be another's by now
            return
        if self._file is not None and not (self._waits and transport.get_write_buffer_size()):
            self._waits = False
            try:
                sent = os.write(self._file, data)
            except BlockingIOError:
                sent = 0
            except OSError:  # reset: the transport learns it by reading
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
        """Close the connection in mid-body, and return a response for aiohttp."""
        self._transport.close()
        return _Written(keep=False)


class _Written(web.StreamResponse):
    """A response that is already written."""

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
