"""`tokenlane lanes` as operators run it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration import life
from tests.integration.farm import Ended
from tests.integration.life import LANE, PREFIX, WORKER, raw
from tests.verbs import run_in_thread

from tokenlane.config import exit_codes as exits
from tokenlane.routing.decide.wait_cause import wait_cause
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot


async def lanes(pool: Pool, *arguments: str) -> Ended:
    """Run the command."""
    return await run_in_thread("lanes", *arguments, "--redis", pool.server.url)


async def document(pool: Pool, *arguments: str) -> Any:
    """The command's JSON."""
    ended = await lanes(pool, *arguments, "--json")
    assert (ended.code, ended.error) == (exits.OK, "")
    return json.loads(ended.out)


async def test_draining_and_resuming(pool: Pool) -> None:
    """A drained lane finishes what runs and gets nothing new; `resume` ends that."""
    await life.running(pool)
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    drained = await document(pool, "drain", LANE.lane)
    assert (drained["drained"], drained["changed"], drained["running"]) == (True, True, 1)
    assert (await document(pool, "drain", LANE.lane))["changed"] is False
    waiting = await life.submit(pool)
    assert await life.dispatch(pool, waiting) is None
    (listed,) = (await document(pool, "ls"))["lanes"]
    assert (listed["name"], listed["state"], listed["drained"], listed["running"]) == (LANE.lane, "draining", True, 1)
    assert "operator" in listed["why"]
    (row,) = [line for line in (await lanes(pool, "ls")).out.splitlines() if line.startswith(LANE.lane)]
    assert row.split()[:4] == [LANE.lane, "draining", "1", "2"]
    await life.audit(raw(pool))
    resumed = await document(pool, "resume", LANE.lane)
    assert (resumed["drained"], resumed["changed"]) == (False, True)
    assert (await document(pool, "resume", LANE.lane))["changed"] is False
    assert await life.dispatch(pool, waiting) is not None
    await life.audit(raw(pool))


async def test_the_cause_of_waiting(pool: Pool) -> None:
    """Requests that only a drained lane may serve say so, and how to resume it."""
    await life.submit(pool)
    await life.open_lane(pool)
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    await pool.drain_lane(LANE.lane)
    snapshot = await take_snapshot(pool)
    cause = wait_cause(snapshot.facts, snapshot.queues[0].key)
    assert LANE.lane in cause.brief
    assert "operator" in cause.explanation
    assert f"tokenlane lanes resume {LANE.lane}" in cause.advice
    assert not snapshot.lanes[0].lacks_key
    status = await run_in_thread("status", "--redis", pool.server.url)
    assert "tokenlane lanes resume" in status.out


async def test_a_lane_that_the_pool_has_forgotten(pool: Pool) -> None:
    """It stays drained, is listed, and can be resumed."""
    await life.open_lane(pool)
    await document(pool, "drain", LANE.lane)
    await raw(pool).delete(f"{PREFIX}lanes", f"{PREFIX}lane:{LANE.lane}:state")
    listed = await document(pool, "ls")
    assert (listed["lanes"], listed["drained"]) == ([], [LANE.lane])
    assert LANE.lane in (await lanes(pool, "ls")).out
    assert (await document(pool, "resume", LANE.lane))["changed"] is True


@pytest.mark.parametrize("verb", ["drain", "resume"])
async def test_an_unknown_lane(pool: Pool, verb: str) -> None:
    """It is an error, which names the lanes of the pool."""
    await life.open_lane(pool)
    ended = await lanes(pool, verb, "nowhere", "--json")
    assert ended.code == exits.FAILED
    error = json.loads(ended.out)["error"]
    assert error["lane"] == "nowhere"
    assert LANE.lane in error["message"]
    assert await raw(pool).exists(f"{PREFIX}drained") == 0


async def test_a_pool_without_lanes(pool: Pool) -> None:
    """The list is a sentence, or empty."""
    assert "main" in (await lanes(pool, "ls")).out
    assert (await document(pool, "ls"))["lanes"] == []
