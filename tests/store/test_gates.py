"""The gates of a plan and those of the store are the same."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Literal, get_args

import pytest
from tests.integration import life
from tests.integration.life import PREFIX, raw

from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.decide.lanes.gates import why_not
from tokenlane.routing.decide.role_fairness import Head
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies.values import as_list, as_text

LANE = "lane1"
STATE, MARK, WORKERS = (f"{PREFIX}lane:{LANE}:{part}" for part in ("state", "alone", "workers"))

Kept = Literal["", "itself", "waiting", "running", "elsewhere", "ended"]


@dataclass(frozen=True)
class Case:
    """What is known of a lane and a request."""

    kind: Kind
    accepts_work: bool
    limit: int
    chats: int
    embeds: int
    commands: int
    suspect: bool
    kept: Kept
    drained: bool = False


KEPT: tuple[Kept, ...] = get_args(Kept)
CASES = [
    Case(*facts)
    for facts in product(
        ("chat", "embed"),
        (True, False),
        (0, 1, 2),
        (0, 1, 2),
        (0, 1),
        (0, 1),
        (False, True),
        KEPT,
        (False, False, False, True),
    )
]


async def arrange(pool: Pool, case: Case) -> Head:
    """Have the server hold the case; the request as a survey has it."""
    redis = raw(pool)
    await redis.flushdb()
    envelope = life.envelope()
    await life.submit(pool, envelope.model_copy(update={"kind": case.kind}))
    other = await life.submit(pool, life.envelope(role="coder"))
    if case.suspect:
        await redis.hset(f"{PREFIX}request:{envelope.id}", "suspect", 1)
    now_ms = (await pool.survey()).now_ms
    offer = json.dumps({"limits": {"embed": case.limit}})
    await redis.hset(
        STATE, mapping={"provider": "sim", "models": "[]", "limit": case.limit, "offer": offer, "seen": now_ms}
    )
    await redis.zadd(f"{PREFIX}lanes", {LANE: now_ms})
    await redis.zadd(WORKERS, {"worker1": now_ms if case.accepts_work else now_ms - 60_000})
    for kind, count in (("chat", case.chats), ("embed", case.embeds), ("command", case.commands)):
        for number in range(count):
            await redis.zadd(Keys().lane_queue(LANE, kind), {f"job{number}": number})
    if case.drained:
        await pool.drain_lane(LANE)
    if case.kept:
        keeper = envelope.id if case.kept == "itself" else other
        await redis.set(MARK, keeper, px=60_000)
        where = {"running": LANE, "elsewhere": "lane2"}.get(case.kept)
        if where is not None:
            await redis.hset(f"{PREFIX}request:{keeper}", mapping={"state": "running", "lane": where})
        elif case.kept == "ended":
            await redis.hset(f"{PREFIX}request:{keeper}", "state", "completed")
    (head,) = [head for head in (await pool.survey()).heads if head.id == envelope.id]
    return head


@pytest.mark.many_commands
async def test_a_plan_and_the_store_answer_alike(pool: Pool) -> None:
    """For whatever is known of a lane and a request, the plan's gates say what `dispatch` does, and why."""
    reasons: Counter[str] = Counter()
    for case in Random(7).sample(CASES, 250):
        head = await arrange(pool, case)
        survey = await pool.survey()
        (lane,) = survey.lanes
        reason = why_not(head, lane)
        reply = await pool.scripts.run("dispatch", head.id, head.queue.name, head.agent, LANE, "m", "token")
        outcome = as_text(as_list(reply)[0])
        assert outcome == (reason or "dispatched"), case
        reasons[outcome] += 1
    assert reasons.keys() == {"dispatched", "drained", "closed", "reserved", "full", "occupied"}, reasons


async def test_a_kind_that_a_lane_does_not_serve_is_closed_to_it(pool: Pool) -> None:
    """Whatever its other kinds have room for."""
    for kind in KINDS:
        head = await arrange(pool, Case(kind, True, 1, 0, 0, 0, suspect=False, kept=""))
        (lane,) = (await pool.survey()).lanes
        assert why_not(head, lane) == ("closed" if kind == "command" else None)


async def test_a_drained_lane_gets_no_work_until_it_is_resumed(pool: Pool) -> None:
    """Neither restarts of its workers nor beats resume it, and no other lane is affected."""
    free = Case("chat", True, 1, 0, 0, 0, suspect=False, kept="", drained=True)
    head = await arrange(pool, free)
    await life.beat(pool, "worker2", life.LANE)
    assert await life.dispatch(pool, head.id) is None
    assert await pool.drain_lane(LANE) is False
    assert await pool.resume_lane(LANE) is True
    assert await pool.resume_lane(LANE) is False
    assert await life.dispatch(pool, head.id) is not None
