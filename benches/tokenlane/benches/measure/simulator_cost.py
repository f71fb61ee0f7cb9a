"""What a token costs the simulator: CPU of its process, requests and idling included, over the tokens it sent.

Beside it stands what nothing but the system call costs, writing as many bytes at the same pace: no server can be below.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import median
from typing import TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel

from tokenlane.benches.simulator import Simulator

from .child_process import ChildProcess, Tasks, child_process

__all__ = ["FULL", "QUICK", "Cost", "Plan", "measure", "server", "writer"]

BAR_US = 10.0
APIS = ("vllm", "ollama")
"""One that streams events, one that streams lines."""
_TOKEN = b"x" * 250
"""About what either sends for one."""


class Level(BaseModel):
    """How much is asked: answers of `tokens`, one in each stream, `rounds` times, the first of them to warm up.

    Args:
        spacing_ms: between the tokens of a stream; 0: none, so that the process is never idle.
    """

    streams: int = 64
    tokens: int
    spacing_ms: float
    rounds: int


Plan: TypeAlias = tuple[Level, ...]

FULL: Plan = (Level(tokens=4000, spacing_ms=0, rounds=4), Level(tokens=1000, spacing_ms=10, rounds=4))
QUICK: Plan = (Level(tokens=100, spacing_ms=0, rounds=2), Level(tokens=50, spacing_ms=2, rounds=2))


class AtPace(BaseModel):
    """Microseconds of CPU for a token, the median of the rounds: by dialect, and for writing it alone."""

    streams: int
    tokens: int
    spacing_ms: float
    cpu_us: dict[str, float]
    write_us: float

    def held(self, limit_us: float) -> bool:
        """Whether no dialect is above the limit."""
        return max(self.cpu_us.values()) <= limit_us


class Cost(BaseModel):
    """A whole measurement. The bar is that of every pace."""

    paces: list[AtPace]
    limit_us: float = BAR_US

    @property
    def held(self) -> bool:
        """Whether no dialect is above the limit."""
        return all(at.held(self.limit_us) for at in self.paces)

    def told(self) -> str:
        """As lines of text."""
        lines = []
        for at in self.paces:
            pace = f"one every {at.spacing_ms:g} ms each" if at.spacing_ms else "without a pause"
            costs = ", ".join(f"{api} {cost:.1f}" for api, cost in at.cpu_us.items())
            lines.append(
                f"- {at.streams} streams, answers of {at.tokens} tokens, {pace}: {costs} us of CPU a token; "
                f"writing alone {at.write_us:.1f}; bar {self.limit_us:g}: "
                f"{'held' if at.held(self.limit_us) else 'FALLS SHORT'}"
            )
        return "\n".join(lines)


async def measure(plan: Plan, progress: Callable[[str], None]) -> Cost:
    """Measure each dialect at each pace, in a process of its own."""
    return Cost(paces=[await _at(level, progress) for level in plan])


async def _at(level: Level, progress: Callable[[str], None]) -> AtPace:
    cpu_us: dict[str, float] = {}
    for api in APIS:
        at = f"{__name__}:{server.__name__}"
        async with child_process(at, api=api, streams=level.streams, spacing_ms=level.spacing_ms) as backend:
            cpu_us[api] = await _cost(backend, level, _question(api, level.tokens))
        progress(f"{api}, {level.spacing_ms:g} ms: {cpu_us[api]:.2f} us")
    at = f"{__name__}:{writer.__name__}"
    async with child_process(at, streams=level.streams, tokens=level.tokens, spacing_ms=level.spacing_ms) as bare:
        write_us = await _cost(bare, level, b"")
    progress(f"writing alone, {level.spacing_ms:g} ms: {write_us:.2f} us")
    return AtPace(**level.model_dump(exclude={"rounds"}), cpu_us=cpu_us, write_us=write_us)


async def _cost(backend: ChildProcess, level: Level, question: bytes) -> float:
    host, port = await backend.ask(tuple[str, int], "address")
    return median([await _round(backend, host, port, question, level) for _ in range(level.rounds)][1:])


async def _round(backend: ChildProcess, host: str, port: int, question: bytes, level: Level) -> float:
    before = await backend.cpu_s()
    async with asyncio.TaskGroup() as group:
        for _ in range(level.streams):
            group.create_task(_ask(host, port, question))
    return (await backend.cpu_s() - before) / (level.streams * level.tokens) * 1e6


def _question(api: str, tokens: int) -> bytes:
    path = "/api/chat" if api == "ollama" else "/v1/chat/completions"
    limit = {"options": {"num_predict": tokens}} if api == "ollama" else {"max_tokens": tokens}
    messages = [{"role": "user", "content": "How much is a token?"}]
    body = json.dumps({"model": "sim", "messages": messages, "stream": True, **limit}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _ask(host: str, port: int, question: bytes) -> None:
    """One answer, read to the end of its connection and thrown away: reading costs the same machine."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(question)
    try:
        while await reader.read(65_536):
            pass
    finally:
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def server(api: str, streams: int, spacing_ms: float) -> AsyncIterator[Tasks]:
    """The simulator, as a process. The task `address` tells where it listens."""
    async with Simulator(api=api, capacity=streams, itl_ms=spacing_ms, ttft_ms=spacing_ms, tokens=20_000) as simulator:

        async def address() -> tuple[str, int]:
            parts = urlsplit(simulator.url)
            return parts.hostname or "", parts.port or 0

        yield {"address": address}


@asynccontextmanager
async def writer(streams: int, tokens: int, spacing_ms: float) -> AsyncIterator[Tasks]:
    """Who only writes, as a process: to `streams` connections at a time, at one beat. `address` tells where."""
    arrived: list[asyncio.StreamWriter] = []

    async def beat(clients: list[asyncio.StreamWriter]) -> None:
        files = [client.get_extra_info("socket").fileno() for client in clients]
        clock = asyncio.get_running_loop().time
        next_at = clock()
        for _ in range(tokens):
            next_at = max(next_at + spacing_ms / 1000, clock())
            await asyncio.sleep(next_at - clock())
            for file in files:
                _write(file)
        for client in clients:
            client.close()

    async def arrive(_: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        arrived.append(client)
        if len(arrived) == streams:
            clients, arrived[:] = list(arrived), []
            await beat(clients)

    listening = await asyncio.start_server(arrive, "127.0.0.1", 0)

    async def address() -> tuple[str, int]:
        host, port = listening.sockets[0].getsockname()
        return host, port

    async with listening:
        yield {"address": address}


def _write(file: int) -> None:
    try:
        os.write(file, _TOKEN)
    except BlockingIOError:  # its reader is behind; the next one goes
        return
