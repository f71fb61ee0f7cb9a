"""The processes of a measurement that send and serve requests: a bare HTTP client, an agent and a worker.

Both clients run a number of streams at once, and ask one question after another in each. They measure how long the
request took to the model server plus how long the first token took back, and how long each later token took back. The
time within the model server does not count.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import BaseModel

from tokenlane.config.host.socket_urls import socket_of
from tokenlane.config.settings.values import LaneSettings, RedisSettings, TokenSpans
from tokenlane.producer import Client
from tokenlane.routing.support.tasks import background
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.run_and_drain import run_worker

from .child_process import Tasks
from .floor import asking
from .metronome import MODEL, stamps

_QUESTION = "How long does a token take?"
_ROLE = "planner"
LANE = "lane1"
"""The lane of the worker."""


class RoundTimes(BaseModel):
    """The times that one client measured in one round, in milliseconds."""

    first_ms: list[float]
    delta_ms: list[float]
    floor_ms: list[float]


Arrivals: TypeAlias = list[tuple[int, str]]
"""The arrival time of each token, in nanoseconds of the monotonic clock, and its text."""


async def _round(
    ask: Callable[[int], Awaitable[Arrivals]],
    streams: int,
    answers: int,
    tokens: int,
    spread_s: float,
    floor: Callable[[], Awaitable[float]] | None = None,
) -> dict[str, list[float]]:
    """Run `streams` streams at once, and ask `answers` questions one after another in each. The starts of the streams
    are spread evenly over `spread_s` seconds.

    Args:
        floor: measures the floor (see `floor.py`) before each question, if there is only one stream.
    """
    first_ms, delta_ms, floor_ms = list[float](), list[float](), list[float]()

    async def stream(number: int) -> None:
        await asyncio.sleep(spread_s * number / streams)
        for _ in range(answers):
            if floor is not None and streams == 1:
                floor_ms.append(await floor())
            asked = time.monotonic_ns()
            (arrived, text), *later = await ask(tokens)
            request_arrived, token_sent = stamps(text)
            first_ms.append((request_arrived - asked + arrived - token_sent) / 1e6)
            delta_ms.extend((arrived - stamps(text)[1]) / 1e6 for arrived, text in later)
            assert len(later) + 1 == tokens

    async with asyncio.TaskGroup() as tasks:
        for number in range(streams):
            tasks.create_task(stream(number))
    return {"first_ms": first_ms, "delta_ms": delta_ms, "floor_ms": floor_ms}


@asynccontextmanager
async def bare(endpoint: str) -> AsyncIterator[Tasks]:
    """Run the process of the bare client: httpx over aiohttp, the cheapest common way to read streams."""
    # Without a limit: aiohttp's default of 100 connections would bound the streams.
    connector = aiohttp.UnixConnector(str(socket_of(endpoint)), limit=0)
    transport = AiohttpTransport(client=aiohttp.ClientSession(connector=connector))
    async with httpx.AsyncClient(base_url="http://localhost", transport=transport, timeout=None) as http:

        async def ask(tokens: int) -> Arrivals:
            arrivals: Arrivals = []
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": _QUESTION}],
                "max_tokens": tokens,
                "stream": True,
            }
            async with http.stream("POST", "/v1/chat/completions", json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    choices = json.loads(line[6:])["choices"]
                    if choices and (text := choices[0]["delta"].get("content")):
                        arrivals.append((time.monotonic_ns(), text))
            return arrivals

        yield {"load": partial(_round, ask)}


@asynccontextmanager
async def agent(redis: str) -> AsyncIterator[Tasks]:
    """Run the process of the agent, which also measures the floor."""
    async with Client(redis, key=[]) as client, asking(redis) as floor:

        async def ask(tokens: int) -> Arrivals:
            arrivals: Arrivals = []
            async with client.chat(_QUESTION, role=_ROLE, max_tokens=tokens) as stream:
                async for delta in stream:
                    if delta.text:
                        arrivals.append((time.monotonic_ns(), delta.text))
            return arrivals

        yield {"load": partial(_round, ask, floor=floor)}


@asynccontextmanager
async def worker(
    redis: str,
    endpoint: str,
    capacity: int,
    *,
    provider: str = "openai",
    token_spans: TokenSpans = "sampled",
) -> AsyncIterator[Tasks]:
    """Run the process of the worker, which also routes. The task `ready` returns once its lane accepts work."""
    settings = LaneSettings(LANE, provider, endpoint=endpoint, capacity=capacity)
    opened, stopping = asyncio.Event(), asyncio.Event()

    async def on_ready(_: object) -> None:
        opened.set()

    async with background() as tasks:
        lane = open_lane(settings, RedisSettings(redis), token_spans=token_spans)
        running = tasks.create_task(run_worker(lane, on_ready=on_ready, stopping=stopping))
        yield {"ready": opened.wait}
        stopping.set()
        await running
