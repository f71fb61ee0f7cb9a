"""A model server that is healthy but fails its requests gets few of them, and all of them again once it works."""

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
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import ProviderDown, UnreadableAnswer
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.model_server.circuit_breaker import LEAST_FAILED
from tokenlane.worker.lane.timings import Timings

ROUTE = RolePolicy(route=(Candidate(lane="bad"), Candidate(lane="good")))
CAPACITY, REQUESTS = 4, 60


@asynccontextmanager
async def bad_lane(url: str, fault: FaultScript, cooldown_s: float) -> AsyncIterator[tuple[Simulator, Lane]]:
    """A lane whose model server fails every request in this way."""
    async with Simulator(api="vllm", capacity=CAPACITY, tokens=3, loaded=["sim"]) as simulator:
        settings = LaneSettings("bad", "vllm", simulator.url, capacity=CAPACITY)
        async with lane_of(url, settings, Timings(cooldown_s=cooldown_s, check_s=0.05)) as lane:
            simulator.log.clear()  # it also has what the worker asked to learn what the server can do
            simulator.faults.extend([fault] * 1_000)
            yield simulator, lane


FAULTS = {
    "HTTP 500": FaultScript(status=500),
    "HTTP 503": FaultScript(status=503),
    "closed without an answer": FaultScript(drop=True),
    "cut": FaultScript(cut_after=1),
    "no end": FaultScript(no_end=True),
    "unreadable": FaultScript(malformed_after=0),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_another_lane_serves_all_requests(pool: Pool, client: Client, redis_url: str, fault: FaultScript) -> None:
    """The failing lane is first in the route and gets only as many requests as show that it fails."""
    await pool.policies.write(Policy(roles={"r": ROUTE}))
    async with (
        bad_lane(redis_url, fault, 3600) as (simulator, lane),
        Simulator(api="vllm", capacity=CAPACITY, tokens=3, loaded=["sim"]) as works,
        lane_of(redis_url, LaneSettings("good", "vllm", works.url, capacity=CAPACITY)),
    ):
        refused = list[UnreadableAnswer]()

        async def ask(requests: int) -> None:
            for _ in range(requests):
                try:
                    answer = await client.complete("q", role="r")
                except UnreadableAnswer as error:  # such an answer ends its request
                    refused.append(error)
                else:
                    assert (answer.text, answer.lane) == ("w0 w1 w2 ", "good")

        await asyncio.gather(*(ask(REQUESTS // CAPACITY) for _ in range(CAPACITY)))
        assert LEAST_FAILED <= len(simulator.log) <= LEAST_FAILED + 2 * CAPACITY
        assert len(refused) == (len(simulator.log) if fault.malformed_after == 0 else 0)
        assert lane.readiness.breaker_state == "open"
        bad = (await take_snapshot(pool)).lanes[0]
        assert (bad.name, bad.state, bad.workers[0].report.breaker) == ("bad", "down", "open")
        assert "requests failed" in bad.why


async def test_a_server_that_works_again_shows_it_with_one_request_at_a_time(pool: Pool, redis_url: str) -> None:
    """Requests for the only lane wait meanwhile, without starts, and their agents learn why."""
    async with (
        bad_lane(redis_url, FAULTS["HTTP 500"], 0.1) as (simulator, lane),
        quick_client(redis_url) as client,
    ):
        failing = [asyncio.ensure_future(client.complete("q", role="r")) for _ in range(LEAST_FAILED + CAPACITY)]
        await until(lambda: lane.readiness.breaker_state == "open")
        async with client.chat("q", role="r") as stream:
            await until(lambda: "requests failed" in (stream.waiting or ""))
            simulator.faults.clear()
            waiting = [asyncio.ensure_future(client.complete("q", role="r")) for _ in range(4 * CAPACITY)]
            most = 0

            def is_closed() -> bool:
                nonlocal most
                most = max(most, sum(received.ended is None for received in simulator.log))
                return lane.readiness.breaker_state == "closed"

            await until(is_closed)
            assert most <= 1
            assert [delta.text async for delta in stream if delta.text] == ["w0 ", "w1 ", "w2 "]
        answers = await asyncio.gather(*waiting)
        assert {answer.usage.attempts for answer in answers} == {1}
        assert {answer.text for answer in await asyncio.gather(*failing)} == {"w0 w1 w2 "}

        async def is_open() -> bool:
            view = (await pool.survey()).lanes[0]
            return (view.state, view.offer.limit_of("chat"), view.why) == ("up", CAPACITY, "")

        await eventually(is_open)


async def test_one_of_two_workers_whose_requests_fail(pool: Pool, client: Client, redis_url: str) -> None:
    """Each worker has a breaker of its own. The other worker serves the lane meanwhile, up to the lane's limit, even
    while the first one accepts a single request."""
    settings, timings = LaneSettings("both", "fake"), Timings(cooldown_s=0.1)
    fails, works = FakeProvider(error=ProviderDown("HTTP 500"), slots=CAPACITY), FakeProvider(slots=CAPACITY)
    async with lane_of(redis_url, settings, timings, provider=fails) as lane:
        failing = [asyncio.ensure_future(client.complete("q", role="r")) for _ in range(LEAST_FAILED + CAPACITY)]
        await until(lambda: lane.readiness.breaker_state == "open")
        async with lane_of(redis_url, settings, timings, provider=works):
            assert {answer.text for answer in await asyncio.gather(*failing)} == {"abc"}
            works.hold_after = 0
            held = [asyncio.ensure_future(client.complete("q", role="r")) for _ in range(CAPACITY)]
            await until(lambda: works.holding == CAPACITY)

            async def is_explained() -> bool:
                (both,) = (await take_snapshot(pool)).lanes
                breakers = {worker.report.breaker for worker in both.workers}
                is_served = both.state in ("up", "degraded") and both.chats.limit == CAPACITY
                return is_served and "requests failed" in both.why and len(breakers) == 2

            await eventually(is_explained)
            works.go.set()
            assert {answer.text for answer in await asyncio.gather(*held)} == {"abc"}
