"""A model server that answers 429, or 503 with `Retry-After`, gets no requests until the pause is over; others do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.integration.clients import quick_client
from tests.integration.farm import eventually
from tests.integration.lanes import lane_of
from tests.waiting import until
from tests.workshop import FakeProvider

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client, DeadlineExceeded
from tokenlane.routing.contract.errors import RateLimited
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.request_report import report
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.timings import TIMINGS, Timings

ROUTE = RolePolicy(route=(Candidate(lane="busy"), Candidate(lane="idle")))
CAPACITY = 4


@asynccontextmanager
async def simulated_lane(
    url: str, name: str, *faults: FaultScript, timings: Timings = TIMINGS
) -> AsyncIterator[tuple[Simulator, Lane]]:
    """A lane whose model server does this with its first requests, and answers the others."""
    async with Simulator(api="vllm", capacity=CAPACITY, tokens=3, loaded=["sim"]) as simulator:
        async with lane_of(url, LaneSettings(name, "vllm", simulator.url, capacity=CAPACITY), timings) as lane:
            simulator.log.clear()  # it also has what the worker asked to learn what the server can do
            simulator.faults.extend(faults)
            yield simulator, lane


@pytest.mark.parametrize("status", [429, 503])
async def test_another_lane_serves_the_requests_meanwhile(
    pool: Pool, client: Client, redis_url: str, status: int
) -> None:
    """It serves the refused request at once, and all later ones. Operators see the state of the first lane and why."""
    await pool.policies.write(Policy(roles={"r": ROUTE}))
    refuses = FaultScript(status=status, retry_after="120")
    async with simulated_lane(redis_url, "busy", refuses) as (busy, lane), simulated_lane(redis_url, "idle"):
        async with asyncio.timeout(10):
            answers = [await client.complete("q", role="r") for _ in range(8)]
            answers += await asyncio.gather(*(client.complete("q", role="r") for _ in range(CAPACITY)))
        assert {(answer.text, answer.lane) for answer in answers} == {("w0 w1 w2 ", "idle")}
        assert [received.ended for received in busy.log] == ["refused"]
        assert answers[0].usage.attempts == (1 if status == 429 else 2), "a 429 costs no start"
        paused = (await take_snapshot(pool)).lanes[0]
        assert (paused.name, paused.state, lane.readiness.breaker_state) == ("busy", "paused", "closed")
        assert f"(HTTP {status})" in paused.why


async def test_requests_for_the_only_lane_wait_and_get_their_second_chance(pool: Pool, redis_url: str) -> None:
    """However long a pause the server asks for: it takes half of the time that the request has left at most."""
    refuses = FaultScript(status=429, retry_after="3600")
    async with simulated_lane(redis_url, "busy", refuses) as (busy, lane), quick_client(redis_url) as client:
        async with client.chat("q", role="r", time_to_live_ms=3_000) as stream:
            await until(lambda: "is paused: " in (stream.waiting or ""))
            assert "rate_limited (HTTP 429)" in (stream.waiting or "")
            (record,) = await pool.records.read([stream.request_id])
            cause = report(await take_snapshot(pool), record).cause
            assert cause is not None
            assert (cause.brief, "rate_limited" in cause.explanation) == ("lane busy (paused)", True)
            assert [delta.text async for delta in stream if delta.text] == ["w0 ", "w1 ", "w2 "]
        assert [received.ended for received in busy.log] == ["refused", "completed"]
        await until(lambda: lane.availability.state == "up")


async def test_a_server_that_always_refuses_costs_no_tries(pool: Pool, redis_url: str) -> None:
    """Its requests end at their deadlines, and their errors name the cause. Each pause is longer than the last."""
    await pool.policies.write(Policy(max_starts=2))
    refuses = [FaultScript(status=429)] * 100
    quick = Timings(cooldown_s=0.05)
    async with (
        simulated_lane(redis_url, "busy", *refuses, timings=quick) as (busy, _),
        quick_client(redis_url) as client,
    ):
        with pytest.raises(DeadlineExceeded) as late:
            await client.complete("q", role="r", time_to_live_ms=2_500)
        assert "rate_limited" in late.value.message
        assert 3 <= len(busy.log) <= 20


async def test_only_the_worker_that_was_refused_pauses(pool: Pool, client: Client, redis_url: str) -> None:
    """Workers of a lane may reach different servers. The lane is degraded, and the other worker serves its requests."""
    settings = LaneSettings("both", "fake")
    refuses, works = FakeProvider(error=RateLimited(retry_after_s=120)), FakeProvider(slots=CAPACITY)
    async with lane_of(redis_url, settings, provider=refuses) as lane:
        request = asyncio.ensure_future(client.complete("q", role="r"))
        await until(lambda: lane.availability.state == "paused")
        async with lane_of(redis_url, settings, provider=works):
            assert (await request).text == "abc"
            assert {(await client.complete("q", role="r")).text for _ in range(3)} == {"abc"}

            async def is_explained() -> bool:
                (both,) = (await take_snapshot(pool)).lanes
                return both.state == "degraded" and "rate_limited" in both.why

            await eventually(is_explained)
    assert len(refuses.requests) == 1
