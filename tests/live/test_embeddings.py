"""Embeddings of a real model: llama.cpp's server, started for them, behind a worker process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.integration.farm import farm
from tests.live.test_conformance import embedding_server

from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.producer import Client, ContextTooLong

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

TEXTS = ["A kitten sleeps on the sofa.", "A young cat is asleep on the couch.", "The stock market fell today."]


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_a_real_server_embeds(model_file: Path, tmp_path: Path) -> None:
    """Vectors of length 1, in order, alike for alike texts; the same from the cache when the server is gone; a text
    that is too long is refused, and what is asked beside it is not."""
    environment = {"TOKENLANE_HOME": str(tmp_path), "TOKENLANE_EMBEDDINGS__CACHE_MB": "4"}
    async with EmbeddedServer(tmp_path / "redis") as server, farm(tmp_path, server.url) as processes:
        async with Client(server.url) as client:
            async with embedding_server(model_file) as endpoint:
                options = ("--provider", "llamacpp", "--endpoint", endpoint)
                worker = await processes.tokenlane("worker", "--json", "--lane", "gpu0", *options, **environment)
                await worker.says('"worker"')  # a client asks no empty pool for long
                found = await client.embed(TEXTS, role="indexer")
                assert (found.lane, found.dimensions, found.is_fallback) == ("gpu0", 576, False)
                assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-5) for vector in found.vectors)
                cat, kitten, stock = found.vectors
                assert likeness(cat, kitten) > likeness(cat, stock)
                long, short = await asyncio.gather(
                    client.embed("word " * 3000, role="indexer"),
                    client.embed("something short", role="indexer"),
                    return_exceptions=True,
                )
                assert isinstance(long, ContextTooLong)
                assert not isinstance(short, BaseException)
            again = await client.embed(TEXTS[::-1], role="indexer")
            assert again.vectors == found.vectors[::-1]
            assert (await worker.end()).code == 0
