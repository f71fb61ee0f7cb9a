"""What a token costs the simulator: CPU of its process, requests and idling included, over the tokens it sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import median

from pydantic import BaseModel

from .party import Party, Tasks, party
from .simulator import Simulator

__all__ = ["FULL", "QUICK", "Cost", "Plan", "measure", "server"]

BAR_US = 10.0
APIS = ("vllm", "ollama")
"""One that streams events, one that streams lines."""


class Plan(BaseModel):
    """How much is asked: answers of `tokens`, one in each stream, `rounds` times, the first of them to warm up."""

    streams: int = 64
    tokens: int
    spacing_ms: float
    rounds: int


FULL = Plan(tokens=1000, spacing_ms=10, rounds=4)
QUICK = Plan(tokens=50, spacing_ms=2, rounds=2)


class Cost(BaseModel):
    """Microseconds of CPU for a token, by dialect: the median of the rounds."""

    streams: int
    tokens: int
    spacing_ms: float
    cpu_us: dict[str, float]
    limit_us: float = BAR_US

    @property
    def held(self) -> bool:
        """Whether none is above the limit."""
        return max(self.cpu_us.values()) <= self.limit_us

    def told(self) -> str:
        """As lines of text."""
        asked = f"{self.streams} streams, answers of {self.tokens} tokens, one every {self.spacing_ms:g} ms each"
        lines = [f"- {api}: {cost:.2f} us of CPU a token" for api, cost in self.cpu_us.items()]
        verdict = "held" if self.held else "FALLS SHORT"
        return "\n".join([f"{asked}:", *lines, f"- bar {self.limit_us:g} us: {verdict}"])


async def measure(plan: Plan, progress: Callable[[str], None]) -> Cost:
    """Measure each dialect, in a process of its own."""
    cpu_us: dict[str, float] = {}
    for api in APIS:
        async with party(f"{__name__}:server", api=api, streams=plan.streams, spacing_ms=plan.spacing_ms) as backend:
            host, port = await backend.ask(tuple[str, int], "address")
            found = [await _round(backend, api, host, port, plan) for _ in range(plan.rounds)]
        cpu_us[api] = median(found[1:])
        progress(f"{api}: {cpu_us[api]:.2f} us")
    return Cost(streams=plan.streams, tokens=plan.tokens, spacing_ms=plan.spacing_ms, cpu_us=cpu_us)


async def _round(backend: Party, api: str, host: str, port: int, plan: Plan) -> float:
    before = await backend.cpu_s()
    async with asyncio.TaskGroup() as group:
        for _ in range(plan.streams):
            group.create_task(_ask(api, host, port, plan.tokens))
    return (await backend.cpu_s() - before) / (plan.streams * plan.tokens) * 1e6


async def _ask(api: str, host: str, port: int, tokens: int) -> None:
    """One answer, read to the end of its connection and thrown away: reading costs the same machine."""
    path = "/api/chat" if api == "ollama" else "/v1/chat/completions"
    limit = {"options": {"num_predict": tokens}} if api == "ollama" else {"max_tokens": tokens}
    messages = [{"role": "user", "content": "How much is a token?"}]
    body = json.dumps({"model": "sim", "messages": messages, "stream": True, **limit}).encode()
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
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
            host, _, port = simulator.url.removeprefix("http://").partition(":")
            return host, int(port)

        yield {"address": address}
