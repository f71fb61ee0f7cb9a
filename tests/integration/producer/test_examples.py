"""The examples of the documentation that need a pool run in one, with a simulated Ollama behind its lane."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from tests.documents import examples_of, run_example
from tests.integration.lanes import lane_of
from tests.repository import ROOT

from tokenlane.benches.simulator import Simulator
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client, PoolUnavailable
from tokenlane.worker.providers import default_registry

RUN_ELSEWHERE = {
    "agents": ("Answers that another lane continues", "One process, many agents"),
    "anthropic": ("Use it",),
    "conversations": (
        *("Conversations", "Two questions at once", "Keep a conversation", "Without a conversation"),
        *("Continue an answer", "Pictures", "Tools", "Structured answers"),
    ),
    "errors": ("Send again",),
    "hooks": ("In an agent", "Token hooks", "Request hooks"),
    "failures": ("A whole agent",),
    "openai-chat": ("Ask", "Vectors"),
    "testing": ("Test an agent", "Handlers", "Embeddings"),
}
PAGES_OF_AGENTS = ("agents", "embeddings", "failures", "models")
RUN_HERE = {
    "agents": ("Connect", "Ask and stream", "Show why a request waits", "Code that is not asynchronous", "Ask once"),
    "embeddings": ("Embeddings",),
    "failures": ("Redis is away", "An agent restarts"),
    "models": ("From Python",),
    "providers": ("Check it",),
    "simulator": ("From Python",),
}


@pytest.fixture
async def ollama(redis_url: str) -> AsyncIterator[str]:
    """The URL of a simulated Ollama, with its lane at work."""
    async with Simulator(api="ollama", models=["phi3", "embed-mini"], pullable=["qwen3:8b"]) as server:
        async with lane_of(redis_url, LaneSettings("ollama0", "ollama", server.url)):
            yield server.url


def test_every_example_is_run() -> None:
    """Each heading with Python code is in one of the two tables."""
    pages = sorted(page.stem for page in (ROOT / "docs").glob("*.md"))
    written = {page: sorted(found) for page in pages if (found := examples_of(page))}
    run = {page: sorted((*RUN_HERE.get(page, ()), *RUN_ELSEWHERE.get(page, ()))) for page in RUN_HERE | RUN_ELSEWHERE}
    assert written == run


@pytest.mark.parametrize(
    ("page", "heading"),
    [(page, heading) for page, headings in RUN_HERE.items() for heading in headings if page in PAGES_OF_AGENTS],
)
async def test_an_example_runs(page: str, heading: str, ollama: str, redis_url: str) -> None:
    """It runs as it is written; only the pool's URL is the test's."""
    (code,) = examples_of(page)[heading]
    code = re.sub(r'Client\("redis://.*?"(.*?)(, key="tlk1-…")?\)', rf'Client("{redis_url}"\1)', code)
    async with Client(redis_url) as client:
        async with client.chat("hello", role="planner") as joined:
            first = await anext(aiter(joined))
            names: dict[str, Any] = {"client": client, "request_id": joined.request_id, "last": first}
            if heading.startswith("Code that is not"):
                code = code.replace("Client()", f'Client("{redis_url}")')
                await asyncio.to_thread(exec, code, {})
            else:
                await run_example(code, asyncio=asyncio, Client=Client, PoolUnavailable=PoolUnavailable, **names)


async def test_the_conformance_suite_in_a_test() -> None:
    """The example checks a provider."""
    (code,) = examples_of("providers")["Check it"]
    code = code.replace("my-model", "phi3")
    async with Simulator(api="ollama", models=["phi3"]) as server:
        async with default_registry().create(LaneSettings("ollama0", "ollama", server.url)) as provider:
            names = await run_example(code, provider=provider)
    assert names["report"].passed


async def test_the_simulator_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    """Its log has two requests, the second cut off by the fault."""
    (code,) = examples_of("simulator")["From Python"]

    async def ask_twice(url: str) -> None:
        async with aiohttp.ClientSession(url) as session:
            for _ in range(2):
                body = {"model": "phi3", "messages": [{"role": "user", "content": "hello"}]}
                async with session.post("/api/chat", json=body) as answer:
                    with suppress(aiohttp.ClientPayloadError):
                        await answer.read()

    assert "...  #" in code
    await run_example(code.replace("...  #", "await ask_twice(simulator.url)  #"), ask_twice=ask_twice)
    assert re.findall(r"'(completed|failed)'", capsys.readouterr().out) == ["completed", "failed"]
