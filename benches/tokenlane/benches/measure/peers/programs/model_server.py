"""Asks the model server for a streamed answer, as a task of a queue does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx

from .environment import MODEL_URL, body


def open_http() -> httpx.AsyncClient:
    """Open the client, which sets no limits of its own."""
    return httpx.AsyncClient(base_url=MODEL_URL, timeout=None, limits=httpx.Limits(max_connections=None))


def text_of(line: str) -> str:
    """Return the text in a line of the answer; empty if the line has none."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return ""
    choices = json.loads(line[6:])["choices"]
    return (choices[0]["delta"].get("content") or "") if choices else ""


async def answer(http: httpx.AsyncClient, tokens: int) -> AsyncIterator[str]:
    """Yield the text of each token."""
    async with http.stream("POST", "/v1/chat/completions", json=body(tokens)) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if text := text_of(line):
                yield text
