"""Hostile answers, such as endless headers. They end when the client disconnects, or at a size limit."""

from __future__ import annotations

import zlib

from aiohttp import web

from .http_answer import HttpAnswer

_HEADERS_BYTES = 256 * 1024 * 1024
_ZEROS = bytes(1 << 20)


async def endless_headers(wire: HttpAnswer) -> web.StreamResponse:
    """Send a status line and endless headers."""
    wire.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    block = b"".join(b"X-Simulated-%d: %b\r\n" % (number, b"x" * 200) for number in range(64))
    for _ in range(_HEADERS_BYTES // len(block)):
        if wire.closing:
            break
        wire.raw(block)
        await wire.drained()
    return wire.cut()


async def bomb(wire: HttpAnswer, size: int, kind: str) -> web.StreamResponse:
    """Send a small compressed body that decompresses to `size` bytes."""
    packer = zlib.compressobj(9, wbits=31)
    wire.head(200, {"Content-Type": kind, "Content-Encoding": "gzip"})
    for start in range(0, size, len(_ZEROS)):
        if wire.closing:
            break
        if data := packer.compress(_ZEROS[: size - start]):
            wire.chunk(data)
        await wire.drained()
    wire.chunk(packer.flush())
    return wire.end()
