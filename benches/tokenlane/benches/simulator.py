"""A model server without a model: a real one's dialect, deterministic text, and faults on demand.

Used by tests and benchmarks, in process (`async with Simulator() as simulator`) or as `tokenlane simulate`. A request's
fate is the `simulate` object in its body, else the next of the simulator's faults, else an ordinary answer. What it
received, and how each request ended, is kept and served under `/simulator/`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Literal, Self

from aiohttp import web
from pydantic import JsonValue

from .dialects import DIALECTS, Dialect, Spoken
from .dialects.dialect import Page
from .script import Script

__all__ = ["Received", "Simulator"]

KEPT = 10_000
"""Requests remembered."""

Ending = Literal["completed", "refused", "failed", "disconnected"]


@dataclass
class Received:
    """One chat request as it came in, and how it ended so far."""

    index: int
    body: bytes
    headers: dict[str, str]
    model: str
    peer: str
    """The connection it came over."""
    sent: int = 0
    """Pieces of text sent."""
    held: bool = False
    ended: Ending | None = None
    released: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    cut: Callable[[], None] = field(default=lambda: None, repr=False)
    """Closes its connection."""

    def summary(self) -> dict[str, JsonValue]:
        """What `/simulator/log` tells of it."""
        return {
            "index": self.index,
            "body": self.body.decode("utf-8", "backslashreplace"),
            "model": self.model,
            "sent": self.sent,
            "held": self.held,
            "ended": self.ended,
        }


class _Ended(Exception):
    """The script ends the answer here, unfinished."""


class Simulator:
    """The server, an async context manager.

    Args:
        api: whose dialect it speaks, one of `dialects.DIALECTS`.
        tokens: pieces in an ordinary answer; `max_tokens` may lower it.
        capacity: requests answered at once; others wait, as llama.cpp's do.
        faults: what the first requests meet, in order, unless their body says.
        tls: to be reached by https.
    """

    def __init__(
        self,
        *,
        api: str = "openai",
        host: str = "127.0.0.1",
        port: int = 0,
        ttft_ms: float = 0,
        itl_ms: float = 0,
        tokens: int = 16,
        capacity: int = 4,
        models: Sequence[str] = ("sim",),
        faults: Sequence[Script] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.log: deque[Received] = deque(maxlen=KEPT)
        self.url = ""
        self._host, self._port, self._tls = host, port, tls
        self._ttft_ms, self._itl_ms, self._tokens = ttft_ms, itl_ms, tokens
        self.faults = deque(faults)
        self._slots: list[Received | None] = [None] * capacity
        self._slot_freed = asyncio.Semaphore(capacity)
        self._dialect = DIALECTS[api](models, lambda: [None if slot is None else slot.index for slot in self._slots])
        self._count = 0
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        pages: dict[str, Page] = {
            f"POST {self._dialect.chat_path}": self._chat,
            **self._dialect.pages(),
            "GET /simulator/log": self._show_log,
            "GET /simulator/wait": self._wait_for,
            "POST /simulator/release": self._release,
        }
        for name, page in pages.items():
            method, path = name.split(" ")
            app.router.add_route(method, path, page)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, ssl_context=self._tls).start()
        self.url = f"{'https' if self._tls else 'http'}://{self._host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        self.release()
        await self._runner.cleanup()

    @property
    def running(self) -> int:
        """Slots in use."""
        return sum(slot is not None for slot in self._slots)

    def release(self, index: int | None = None) -> None:
        """Let a held answer go on: that of request `index`, or all."""
        for received in self.log:
            if index is None or received.index == index:
                received.released.set()

    def cut(self) -> None:
        """Close the connections of all answers under way."""
        for received in self.log:
            if received.ended is None:
                received.cut()

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10) -> None:
        """Wait until `condition` holds; it is looked at whenever a request comes, moves on or ends.

        Raises:
            TimeoutError: it did not in time.
        """
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(condition)

    async def held(self, count: int = 1) -> None:
        """Wait until `count` answers are held."""
        await self.wait_for(lambda: sum(received.held for received in self.log) >= count)

    async def ended(self, count: int = 1) -> None:
        """Wait until `count` requests have ended and every slot is free of them."""
        await self.wait_for(lambda: sum(received.ended is not None for received in self.log) >= count)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # What a back end serves.

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            parsed: dict[str, JsonValue] = json.loads(body)
            script = self._script(parsed)
        except ValueError as error:
            return web.json_response(self._dialect.error(400, str(error)), status=400)
        received = Received(self._count, body, dict(request.headers), str(parsed.get("model", "")), _peer(request))
        received.cut = partial(_close, request)
        self._count += 1
        self.log.append(received)
        await self._notify()
        try:
            return await self._serve(request, received, parsed, script)
        except (asyncio.CancelledError, ConnectionError):
            received.ended = "disconnected"
            raise
        finally:
            received.held = False
            received.cut = lambda: None  # a connection may serve others by now
            await asyncio.shield(self._notify())

    def _script(self, parsed: dict[str, JsonValue]) -> Script:
        if "simulate" in parsed:
            return Script.model_validate(parsed["simulate"])
        return self.faults.popleft() if self.faults else Script()

    async def _serve(
        self, request: web.Request, received: Received, parsed: dict[str, JsonValue], script: Script
    ) -> web.StreamResponse:
        if script.drop or script.status is not None:
            received.ended = "refused"
        if script.drop:
            _close(request)
            return web.Response()
        if script.status is not None:
            return self._refusal(script, script.status)
        async with self._slot_freed:
            slot = self._slots.index(None)
            self._slots[slot] = received
            try:
                return await self._stream(request, received, parsed, script)
            finally:
                self._slots[slot] = None

    async def _stream(
        self, request: web.Request, received: Received, parsed: dict[str, JsonValue], script: Script
    ) -> web.StreamResponse:
        kind = script.content_type or self._dialect.stream_type
        response = web.StreamResponse(headers={"Content-Type": kind, "Cache-Control": "no-cache"})
        await response.prepare(request)
        pieces = list(self._pieces(parsed, script))
        spoken = Spoken(received.index, script.answers_as or received.model, len(received.body) // 4, script)
        answer = _Answer(response, received, script, spoken, self._dialect)
        try:
            await asyncio.sleep(_or(script.ttft_ms, self._ttft_ms) / 1000)
            for position, piece in enumerate(pieces):
                await self._happen(answer, position)
                if position and (pause_ms := _or(script.itl_ms, self._itl_ms)):
                    await asyncio.sleep(pause_ms / 1000)
                await answer.piece(piece)
            await self._happen(answer, len(pieces))
        except _Ended:
            received.ended = "failed"
            if script.cut_after is not None:
                _close(request)
            return response
        await answer.finish(len(pieces))
        await response.write_eof()
        received.ended = "completed"
        return response

    def _pieces(self, parsed: dict[str, JsonValue], script: Script) -> Iterator[str]:
        if script.pieces is not None:
            yield from script.pieces
            return
        wanted = script.tokens if script.tokens is not None else self._tokens
        limit = self._dialect.wanted_tokens(parsed)
        for number in range(wanted if limit is None else min(wanted, limit)):
            yield f"w{number} "

    async def _happen(self, answer: _Answer, position: int) -> None:
        """What the script has in store before piece `position`."""
        script, received = answer.script, answer.received
        if script.hold_after == position:
            received.held = True
            await self._notify()
            await self._hold(answer)
            received.held = False
        if script.malformed_after == position:
            await answer.write(self._dialect.malformed)
        if script.huge_line_after == position:
            await answer.write(self._dialect.huge_start + b"x" * script.huge_line_bytes)
        if script.error_after == position:
            for part in self._dialect.error_in_stream(script.error):
                await answer.write(part)
            raise _Ended
        if script.cut_after == position:
            raise _Ended

    async def _hold(self, answer: _Answer) -> None:
        ping_ms, released = answer.script.ping_ms, answer.received.released
        while ping_ms is not None and not released.is_set():
            await answer.write(self._dialect.ping)
            await asyncio.sleep(ping_ms / 1000)
        await released.wait()

    def _refusal(self, script: Script, status: int) -> web.Response:
        headers = {"Retry-After": script.retry_after, "Location": script.location}
        return web.json_response(
            self._dialect.error(status, script.error),
            status=status,
            headers={name: value for name, value in headers.items() if value is not None},
        )

    # What a test asks of the simulator itself.

    async def _show_log(self, _: web.Request) -> web.Response:
        return web.json_response([received.summary() for received in self.log])

    async def _wait_for(self, request: web.Request) -> web.Response:
        """Answers once as many as the query says were `received`, are `held` or have `ended`; 408 after 30 s."""
        count, held, ended = (int(request.query.get(name, 0)) for name in ("received", "held", "ended"))
        try:
            await self.wait_for(
                lambda: (
                    len(self.log) >= count
                    and sum(received.held for received in self.log) >= held
                    and sum(received.ended is not None for received in self.log) >= ended
                ),
                timeout_s=30,
            )
        except TimeoutError:
            return web.Response(status=408)
        return await self._show_log(request)

    async def _release(self, request: web.Request) -> web.Response:
        """Releases request `?index=`, or all."""
        index = request.query.get("index")
        self.release(int(index) if index is not None else None)
        return web.Response(status=204)


@dataclass
class _Answer:
    response: web.StreamResponse
    received: Received
    script: Script
    spoken: Spoken
    dialect: Dialect

    async def piece(self, text: str) -> None:
        await self.write(self.dialect.piece(self.spoken, text))
        self.received.sent += 1

    async def finish(self, tokens: int) -> None:
        for part in self.dialect.ending(self.spoken, tokens):
            await self.write(part)

    async def write(self, data: bytes) -> None:
        size = self.script.split_bytes or len(data)
        for start in range(0, len(data), size):
            await self.response.write(data[start : start + size])


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _peer(request: web.Request) -> str:
    return "" if request.transport is None else str(request.transport.get_extra_info("peername"))


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
