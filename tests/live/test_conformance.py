"""The conformance suite on llama.cpp's real server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from tests.matrix import agrees

from tokenlane.config.settings.values import LaneSettings
from tokenlane.worker.builtin import MODEL_NAME, model
from tokenlane.worker.builtin.server import builtin_server
from tokenlane.worker.providers import default_registry
from tokenlane.worker.providers.conformance import Report, check_provider

pytestmark = [pytest.mark.live, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

EMBEDDING_SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias, params.hostnames, params.port = sys.argv[1], {sys.argv[2]}, ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.embedding, params.verbosity = 2048, 2, True, -1
params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(params)
print(server.listening_address, file=sys.stderr, flush=True)
sys.stdin.read()
import os; os._exit(0)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[str]:
    """A server with two slots."""
    async with builtin_server(await model.fetch(), capacity=2) as address:
        yield address


@asynccontextmanager
async def embedding_server(file: Path) -> AsyncIterator[str]:
    """One that was started for embeddings."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", EMBEDDING_SERVER, str(file), MODEL_NAME),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            while not (line := await process.stderr.readline()).startswith(b"http://"):
                assert line
        yield line.decode().strip()
    finally:
        process.stdin.close()
        await process.communicate()


async def checked(name: str, endpoint: str, only: list[str] | None = None) -> Report:
    async def busy() -> int:
        async with httpx.AsyncClient(base_url=endpoint) as client:
            return sum(slot["is_processing"] for slot in (await client.get("/slots")).json())

    async with default_registry().create(LaneSettings("gpu0", name, endpoint)) as provider:
        return await check_provider(provider, MODEL_NAME, name=name, busy=busy, only=only)


@pytest.mark.parametrize("name", ["builtin", "openai"])
async def test_on_the_built_in_server(name: str, endpoint: str) -> None:
    """No promise is broken, and what works is what is written down."""
    agrees(name, "real server", await checked(name, endpoint))


async def test_llama_cpp_with_embeddings(endpoint: str) -> None:
    """Started for embeddings it makes them, and chats all the same."""
    chats = await checked("llamacpp", endpoint)
    async with embedding_server(await model.fetch()) as embeds:
        agrees("llamacpp", "real server", chats, await checked("llamacpp", embeds, ["chat", "embed"]))
