"""Operators stop and resume new work while lanes run and agents wait."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.lanes import lane_of
from tests.integration.life import audit, raw
from tests.waiting import until

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import RequestCancelled
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool

ONLY_GPU0 = Policy(roles={"local": RolePolicy(route=(Candidate(lane="gpu0"),))})


def lane_settings(name: str, simulator: Simulator) -> LaneSettings:
    """A lane of this simulator with one slot."""
    return LaneSettings(name, "openai", simulator.url, capacity=1)


async def test_a_drained_lane_finishes_its_work_and_gets_no_more(pool: Pool, client: Client, redis_url: str) -> None:
    """Its running answer goes on, other lanes serve what they may, and the rest waits, with the cause."""
    await pool.policies.write(ONLY_GPU0)
    async with (
        asyncio.timeout(60),
        Simulator(faults=[FaultScript(hold_after=2)]) as first,
        Simulator() as second,
        lane_of(redis_url, lane_settings("gpu0", first)),
        lane_of(redis_url, lane_settings("gpu1", second)),
    ):
        async with client.chat("q", role="local") as running:
            await first.held()
            assert await pool.drain_lane("gpu0")
            assert (await client.complete("q", role="r")).lane == "gpu1"
            first.release()
            assert {delta.lane async for delta in running} == {"gpu0"}
        async with client.chat("q", role="local") as waiting:
            await until(lambda: "an operator drained it" in (waiting.waiting or ""))
            assert (await client.complete("q", role="r")).lane == "gpu1"
            assert await pool.resume_lane("gpu0")
            assert {delta.lane async for delta in waiting} == {"gpu0"}
        await audit(raw(pool))


async def test_a_lane_whose_workers_restart_stays_drained(pool: Pool, client: Client, redis_url: str) -> None:
    """A new worker of the lane gets no work either, before an operator resumes the lane."""
    async with asyncio.timeout(60), Simulator() as simulator:
        async with lane_of(redis_url, lane_settings("gpu0", simulator)):
            assert await pool.drain_lane("gpu0")
        async with lane_of(redis_url, lane_settings("gpu0", simulator)):
            async with client.chat("q", role="r") as waiting:
                await until(lambda: "an operator drained it" in (waiting.waiting or ""))
                assert await pool.resume_lane("gpu0")
                assert {delta.lane async for delta in waiting} == {"gpu0"}


async def test_requests_of_a_paused_role_wait_or_are_purged(pool: Pool, client: Client, redis_url: str) -> None:
    """Their agents learn the cause. A purge ends them, and the error names the command; `resume` lets them start."""
    async with (
        asyncio.timeout(60),
        Simulator() as simulator,
        lane_of(redis_url, lane_settings("gpu0", simulator)),
    ):
        assert await pool.pause_role("r")
        async with client.chat("q", role="r") as waiting:
            await until(lambda: "an operator paused" in (waiting.waiting or ""))
            assert (await client.complete("q", role="other")).text
            assert await pool.requests.purge([waiting.request_id]) == 1
            with pytest.raises(RequestCancelled, match="roles purge"):
                _ = [delta async for delta in waiting]
        async with client.chat("q", role="r") as waiting:
            await until(lambda: "an operator paused" in (waiting.waiting or ""))
            assert await pool.resume_role("r")
            assert {delta.lane async for delta in waiting} == {"gpu0"}
        await audit(raw(pool))
