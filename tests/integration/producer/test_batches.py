"""Batches of `tokenlane serve` in a sealed pool of real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from tests.batches import KEY, begun, chat_lines, ended, lines_of
from tests.integration.farm import Child, Farm, farm
from tests.integration.servers import free_port

from tokenlane.benches.simulator import Simulator
from tokenlane.config import exit_codes as exits

SEALED = {"TOKENLANE_POOL_KEY": KEY.reveal()}


@asynccontextmanager
async def served(farmed: Farm, port: int, directory: Path) -> AsyncIterator[Child]:
    gateway = await farmed.tokenlane("serve", "--port", str(port), "--files", str(directory), **SEALED)
    await gateway.says("/v1")
    yield gateway


@pytest.mark.kills
@pytest.mark.timeout(120)
async def test_a_killed_gateway_leaves_each_line_with_one_answer(redis_url: str, tmp_path: Path) -> None:
    """It is killed three times in mid-batch; another goes on each time, and no byte of a prompt is on the disk."""
    texts = [f"secret question {number}" for number in range(200)]
    port, files = free_port(), tmp_path / "files"
    async with Simulator(api="vllm", capacity=8, ttft_ms=40, tokens=4) as backend, farm(tmp_path, redis_url) as farmed:
        await farmed.worker("lane", backend, provider="vllm", **SEALED)
        async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=5) as sdk:
            async with served(farmed, port, files):
                batch = await begun(sdk, chat_lines(texts, model="sim"))
                first = farmed.children[-1]
                for part in (20, 60, 120):
                    while (batch := await sdk.batches.retrieve(batch.id)).request_counts is None or (
                        batch.request_counts.completed < part
                    ):
                        await asyncio.sleep(0.05)
                    await first.kill()
                    async with served(farmed, port, files) as first:
                        pass
                batch = await ended(sdk, batch.id, 60)
                lines = await lines_of(sdk, batch.output_file_id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 200, "completed": 200, "failed": 0}
    assert sorted(line["custom_id"] for line in lines) == sorted(texts)
    assert not [path for path in files.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


async def test_a_pool_without_a_key_gets_no_files(redis_url: str, tmp_path: Path) -> None:
    async with farm(tmp_path, redis_url) as farmed:
        gateway = await farmed.tokenlane("serve", "--port", "0", "--files", str(tmp_path / "files"))
        assert (await gateway.ended()).code == exits.USAGE
    assert not (tmp_path / "files").exists()
