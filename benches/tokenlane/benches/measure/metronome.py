"""A model server with minimal CPU cost. At each beat of its clock, every open stream gets its next token.

Servers that batch do the same. The text of a token is the time when the request arrived and the time when the token was
sent, in nanoseconds of the machine's monotonic clock, so the receiver can calculate how long both ways took.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from .child_process import Tasks

MODEL = "metronome"
_BACKLOG = 2048  # a thousand clients may connect at the same moment


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# Composed once, with stamps of one width: a token costs little more than the system call.
_PIECE = _chunk(
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1760000000,"model":"metronome",'
    b'"choices":[{"index":0,"delta":{"content":"' + b"0" * 20 + b" " + b"0" * 20 + b' "},"finish_reason":null}]}\n\n'
).replace(b"0" * 20, b"%020d")
_END = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1760000000,"model":"metronome",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1760000000,"model":"metronome",'
    b'"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":%d,"total_tokens":%d}}\n\n'
    b"data: [DONE]\n\n"
)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_PAGE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_MODELS = b'{"object":"list","data":[{"id":"metronome","object":"model"}]}'
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class _Clock:
    """Sends the next token of all open answers at each beat. It has no timer while no answer is open."""

    def __init__(self) -> None:
        self._first_s = 0.0
        self._spacing_s = 0.001
        self._next_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._beating: dict[_Connection, None] = {}

    async def set_pace(self, first_ms: float, spacing_ms: float) -> None:
        """Set the time to an answer's first token, and between its tokens."""
        self._first_s, self._spacing_s = first_ms / 1000, spacing_ms / 1000

    def start(self, connection: _Connection) -> None:
        """Begin an answer. Its first token is sent after the set time, and all others at the beats."""
        asyncio.get_running_loop().call_later(self._first_s, self._first, connection)

    def forget(self, connection: _Connection) -> None:
        """Forget a closed connection."""
        self._beating.pop(connection, None)

    def _first(self, connection: _Connection) -> None:
        if connection.beat():
            self._beating[connection] = None
            if self._timer is None:
                self._set(asyncio.get_running_loop().time())

    def _set(self, last_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._next_s = max(last_s + self._spacing_s, loop.time())
        self._timer = loop.call_at(self._next_s, self._beat)

    def _beat(self) -> None:
        self._timer = None
        for connection in list(self._beating):
            if not connection.beat():
                del self._beating[connection]
        if self._beating:
            self._set(self._next_s)


class _Connection(asyncio.Protocol):
    """A connection with a minimal HTTP. It writes directly to the socket, since a transport costs twice as much."""

    def __init__(self, clock: _Clock) -> None:
        self._clock = clock
        self._socket = -1
        self._received = b""
        self._came = 0
        self._tokens = self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._socket = transport.get_extra_info("socket").fileno()

    def connection_lost(self, error: Exception | None) -> None:
        self._left = 0
        self._clock.forget(self)

    def data_received(self, data: bytes) -> None:
        came = time.monotonic_ns()
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if not found or len(rest) < size:
            return
        self._received = rest[size:]
        if head.startswith(b"POST"):
            self._came = came
            asked = json.loads(rest[:size])
            self._tokens = self._left = asked.get("max_completion_tokens") or asked["max_tokens"]
            os.write(self._socket, _STREAM_HEAD)
            self._clock.start(self)
        else:
            os.write(self._socket, _PAGE_HEAD % len(_MODELS) + _MODELS)

    def beat(self) -> bool:
        """Send the next token, and return whether more follow. Disconnect a client that reads too slowly."""
        if self._left <= 0:
            return False
        self._left -= 1
        try:
            os.write(self._socket, _PIECE % (self._came, time.monotonic_ns()))
            if self._left == 0:
                os.write(self._socket, _chunk(_END % (self._tokens, self._tokens + 8)) + _chunk(b""))
        except OSError:
            self._left = 0
            self._transport.close()
        return self._left > 0


@asynccontextmanager
async def metronome() -> AsyncIterator[Tasks]:
    """Run the process of the server. The task `url` returns its URL, and the task `pace` sets the pace of the clock.

    It listens at a Unix socket: a write to another process over TCP takes 8 us of CPU at least, mostly the kernel's. It
    also listens at a port of 127.0.0.1, for clients that know no Unix sockets; the task `tcp_url` returns that URL.
    """
    clock = _Clock()

    async def url() -> str:
        return f"unix://{quote(str(at))}"

    async def tcp_url() -> str:
        return f"http://127.0.0.1:{tcp.sockets[0].getsockname()[1]}"

    with TemporaryDirectory(prefix="tokenlane-") as directory:
        at = Path(directory) / "metronome.sock"
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Connection(clock), at)
        tcp = await loop.create_server(lambda: _Connection(clock), "127.0.0.1", backlog=_BACKLOG)
        yield {"url": url, "tcp_url": tcp_url, "pace": clock.set_pace}
        server.close()
        tcp.close()
