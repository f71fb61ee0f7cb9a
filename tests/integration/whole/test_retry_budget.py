"""During an outage, failed attempts add little load to the model servers."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.lanes import lane_of

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import LlmError, ProviderDown
from tokenlane.worker.lane.model_server import circuit_breaker

REQUESTS, RECOVERED, CAPACITY, FREE = 300, 100, 4, 10


async def test_a_failing_server_sees_its_load_and_the_floor(
    client: Client, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every chat fails, and no circuit breaker opens. Once the free retries are used, only one request per second is
    tried again, and the others end with the error. When the server works again, each new
    request takes one attempt. In all, the server sees at most 1.1 times the requests that the agents sent."""

    async def ask(time_to_live_ms: int) -> LlmError | None:
        try:
            await client.complete("q", role="r", time_to_live_ms=time_to_live_ms)
        except LlmError as error:
            return error
        return None

    monkeypatch.setattr(circuit_breaker, "LEAST_FAILED", 10_000)
    async with Simulator(api="vllm", capacity=CAPACITY, tokens=2) as simulator:
        settings = LaneSettings("gpu0", "vllm", simulator.url, capacity=CAPACITY)
        async with lane_of(redis_url, settings):
            simulator.faults.extend([FaultScript(status=500)] * 1_000)
            probes, clock = len(simulator.log), asyncio.get_running_loop().time
            began = clock()
            errors = await asyncio.gather(*(ask(4_000) for _ in range(REQUESTS)))
            offered = REQUESTS + FREE + CAPACITY + clock() - began + 1
            assert all(errors)
            assert any(type(error) is ProviderDown for error in errors)
            assert REQUESTS / 5 < len(simulator.log) - probes <= offered
            simulator.faults.clear()
            failed = len(simulator.log)
            assert not any(await asyncio.gather(*(ask(60_000) for _ in range(RECOVERED))))
            assert len(simulator.log) - failed == RECOVERED
            assert len(simulator.log) - probes <= 1.1 * (REQUESTS + RECOVERED)
