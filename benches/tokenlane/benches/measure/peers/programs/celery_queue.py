"""Celery with gevent, as its documentation advises for tasks that wait: a task streams the answer, and publishes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import httpx
import redis
from celery import Celery

from .channel import END, open_redis, read_answer, token_message
from .environment import MODEL_URL, REDIS_URL, body
from .model_server import text_of
from .rounds import Arrivals, Ask

app = Celery("answers", broker=REDIS_URL)
app.conf.task_ignore_result = True


@cache
def _clients() -> tuple[httpx.Client, redis.Redis]:
    http = httpx.Client(base_url=MODEL_URL, timeout=None, limits=httpx.Limits(max_connections=None))
    return http, redis.Redis.from_url(REDIS_URL)


@app.task
def answer(channel: str, tokens: int) -> None:
    """The task."""
    http, server = _clients()
    with http.stream("POST", "/v1/chat/completions", json=body(tokens)) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if text := text_of(line):
                server.publish(channel, token_message(text))
    server.publish(channel, END)


@asynccontextmanager
async def asking() -> AsyncIterator[Ask]:
    """Yield the asker. Celery's `delay` blocks, so a thread calls it, as in an asynchronous web server."""

    async def enqueue(channel: str, tokens: int) -> object:
        return await asyncio.to_thread(answer.delay, channel, tokens)

    async def ask(tokens: int, arrivals: Arrivals) -> None:
        await read_answer(client, enqueue, tokens, arrivals)

    async with open_redis() as client:
        yield ask
