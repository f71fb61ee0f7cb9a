"""A kind of work is a row of one table: a new row goes the whole way, and nothing else knows it by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest
from tests.integration import life
from tests.integration.life import CLIENT, LANE, WORKER, audit, raw

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.kinds import KINDS, KindOfWork, kind_of
from tokenlane.routing.contract.messages import Completed, channel_message
from tokenlane.routing.contract.requests import Request
from tokenlane.routing.contract.results import Result
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.lanes.offer import Announcement, Offer, Running
from tokenlane.routing.decide.plan import plan
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.snapshot import Slots


class TuneRequest(Request):
    """Something that takes long and comes to a lane by no route."""

    dataset: str


class Tuned(Result):
    """What comes of it."""

    type: Literal["tuned"] = "tuned"
    name: str


@pytest.fixture
async def tuning_pool(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    tune = KindOfWork(TuneRequest, Tuned, "tune", slots=1, follows_routes=False, is_long=True)
    monkeypatch.setitem(KINDS, "tune", tune)
    async with connect(redis_url) as pool:
        yield pool


async def test_a_kind_that_is_added_to_the_table_goes_the_whole_way(tuning_pool: Pool) -> None:
    """Submitted, chosen a lane for, dispatched, started and finished; and shown at each step."""
    pool, request = tuning_pool, TuneRequest(role="trainer", dataset="letters")
    lane = Announcement(LANE.lane, LANE.provider, LANE.endpoint, LANE.models, Offer(limits={"tune": 1}))
    await life.beat(pool, WORKER, lane)
    for _ in range(2):
        asked = Envelope(
            id=new_id(), client=CLIENT, agent="a", role="trainer", kind=kind_of(request), needs=Needs(lane=LANE.lane)
        )
        await pool.requests.submit(asked, request.to_wire())
    assert [(queue.kind, queue.waiting) for queue in (await take_snapshot(pool)).queues] == [("tune", 2)]

    (placement,) = plan(await pool.survey(), Policy()).placements
    attempt = await pool.requests.dispatch(placement.head, placement.lane, placement.model, "token")
    assert attempt is not None
    assert plan(await pool.survey(), Policy()).placements == ()  # its only slot is taken
    started = await pool.requests.start(placement.head.id, attempt, WORKER)
    assert started is not None
    assert KINDS[started.envelope.kind].request.model_validate_json(started.payload) == request
    (seen,) = (await take_snapshot(pool)).lanes
    assert (seen.slots["tune"], seen.chats.running) == (Slots(1, running=1), 0)
    held = Running(started.envelope.id, attempt, CLIENT, "a", "trainer", "tune", 60_000)
    assert await life.beat(pool, WORKER, lane, held) == ("mine",)

    result = Tuned(name="adapter")
    completed = Completed(
        attempt=attempt, worker=WORKER, lane=LANE.lane, model="", first=0, end=1, usage=Usage(), result=result
    )
    assert await pool.requests.finish(started.envelope.id, attempt, WORKER, "completed", 1, "", completed.to_wire())
    told = channel_message(completed.to_wire())
    assert isinstance(told, Completed)
    assert told.result == result
    assert len(plan(await pool.survey(), Policy()).placements) == 1
    await audit(raw(pool))
