"""The pages of a worker, as Prometheus and orchestrators see them."""

from __future__ import annotations

from pathlib import Path

import aiohttp
from tests.integration.farm import eventually, farm

from tokenlane.benches.simulator import Simulator
from tokenlane.producer import Client


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def test_a_worker_with_metrics(tmp_path: Path, redis_url: str) -> None:
    """It is ready while its model server is up; its metrics have what it measured, and not what the exporter has."""
    async with farm(tmp_path, redis_url) as opened:
        async with Simulator() as simulator:
            worker = await opened.worker("gpu0", simulator, "--metrics", "127.0.0.1:0")
            url = worker.metrics_url
            assert await get(f"{url}/readyz") == (200, "ok\n")
            async with Client(redis_url) as client:
                async with client.chat("hi", role="planner") as stream:
                    await stream.answer()

            async def has_counted() -> bool:
                return "gen_ai_client_operation_duration_seconds_count" in (await get(f"{url}/metrics"))[1]

            await eventually(has_counted, child=worker)  # the agent has its answer before the worker counts it
            _, text = await get(f"{url}/metrics")
        labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_response_model="sim"'
        assert f"gen_ai_client_operation_time_to_first_chunk_seconds_count{{{labels}" in text
        assert 'tokenlane_queue_wait_seconds_count{pool="main",priority="normal",role="planner"} 1.0' in text
        assert 'tokenlane_delivery_interval_seconds_count{lane="gpu0",pool="main"}' in text
        assert "tokenlane_up" not in text

        async def is_unready() -> bool:
            status, reason = await get(f"{url}/readyz")
            return status == 503 and "gpu0" in reason

        await eventually(is_unready, child=worker)
        assert (await get(f"{url}/healthz"))[0] == 200
