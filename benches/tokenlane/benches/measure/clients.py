"""The processes of a measurement that send and serve requests: a bare HTTP client, an agent and a worker.

Both clients run rounds of streams, or watch what becomes of answers: `peers/programs/rounds.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import BaseModel, JsonValue

from tokenlane.config.exit_codes import UserError
from tokenlane.config.host.socket_urls import socket_of
from tokenlane.config.settings.values import LaneSettings, RedisSettings, TokenSpans
from tokenlane.producer import Client
from tokenlane.routing.support.tasks import background
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.run_and_drain import run_worker

from .child_process import ChildProcess, Tasks
from .floor import asking
from .metronome import MODEL
from .peers.programs.rounds import Arrivals, load, watch

_QUESTION = "How long does a token take?"
_ROLE = "planner"
LANE = "lane1"
"""The lane of the worker."""


class RoundTimes(BaseModel):
    """The times that one client measured in one round, in milliseconds, and how long the round took, in seconds.

    `failed`: why answers failed, one line for each.
    """

    first_ms: list[float]
    delta_ms: list[float]
    floor_ms: list[float]
    took_s: float
    failed: list[str]


async def ask_for_round(client: ChildProcess, **arguments: JsonValue) -> RoundTimes:
    """Have a client run a round.

    Args:
        arguments: those of `load`.

    Raises:
        UserError: an answer failed.
    """
    times = await client.ask(RoundTimes, "load", **arguments)
    if times.failed:
        raise UserError(
            f"The measurement failed: {len(times.failed)} answers of {client.name} failed, the first with "
            f"{times.failed[0]}. Run it again; if it fails again, this is an error of tokenlane."
        )
    return times


@asynccontextmanager
async def bare(endpoint: str) -> AsyncIterator[Tasks]:
    """Run the process of the bare client: httpx over aiohttp, the cheapest common way to read streams."""
    socket = socket_of(endpoint)
    # Without a limit: aiohttp's default of 100 connections would bound the streams.
    connector = aiohttp.UnixConnector(str(socket), limit=0) if socket else aiohttp.TCPConnector(limit=0)
    transport = AiohttpTransport(client=aiohttp.ClientSession(connector=connector))
    base_url = "http://localhost" if socket else endpoint
    async with httpx.AsyncClient(base_url=base_url, transport=transport, timeout=None) as http:

        async def ask(tokens: int, arrivals: Arrivals) -> None:
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

        yield {"load": partial(load, ask), "watch": partial(watch, ask)}


@asynccontextmanager
async def agent(redis: str, *, measures_floor: bool = True) -> AsyncIterator[Tasks]:
    """Run the process of the agent. It also measures the floor, for which another process must run `floor.echo`."""
    async with Client(redis, key=[]) as client, asking(redis) as floor:

        async def ask(tokens: int, arrivals: Arrivals) -> None:
            async with client.chat(_QUESTION, role=_ROLE, max_tokens=tokens) as stream:
                async for delta in stream:
                    if delta.text:
                        arrivals.append((time.monotonic_ns(), delta.text))

        yield {"load": partial(load, ask, floor=floor if measures_floor else None), "watch": partial(watch, ask)}


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
