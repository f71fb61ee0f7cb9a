"""Who is served when: agents inside a queue, queues of one priority, priorities; and how long a full queue lasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.integration import life
from tests.integration.life import LANE, PREFIX, WORKER, Asked, audit, raw
from tests.lanes import chats

from tokenlane.routing.contract.errors import QueueFull
from tokenlane.routing.contract.wire import Priority, new_id
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.plan import plan
from tokenlane.routing.decide.policy import Policy, RolePolicy
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.role_fairness import Head, fair_order
from tokenlane.routing.store.pool import Pool

WIDE = Announcement(LANE.lane, LANE.provider, LANE.endpoint, LANE.models, offer=chats(10_000))


async def serve(pool: Pool, times: int, weights: Mapping[str, int] | None = None) -> list[tuple[Head, int]]:
    """Dispatch one head after another, as a router with one free place would."""
    await life.beat(pool, WORKER, WIDE)
    served = []
    for _ in range(times):
        head = next(fair_order((await pool.survey()).heads, weights or {}, WIDE.lane))
        attempt = await pool.requests.dispatch(head, WIDE.lane, "m1", new_id())
        assert attempt is not None
        served.append((head, attempt))
    return served


async def agents(pool: Pool, times: int) -> list[str]:
    """Whom the next dispatches serve."""
    return [head.agent for head, _ in await serve(pool, times)]


async def ask(pool: Pool, agent: str, times: int = 1, *, role: str = "planner", priority: Priority = "normal") -> None:
    """Submit requests of an agent."""
    for _ in range(times):
        await life.submit(pool, life.envelope(agent=agent, role=role, priority=priority))


@pytest.mark.many_commands
async def test_agents_take_turns(pool: Pool) -> None:
    """An agent with a thousand requests before it waits for one of them at a time."""
    await ask(pool, "hog", 1000)
    await ask(pool, "late", 3)
    assert (await agents(pool, 6)).count("late") == 3
    await audit(raw(pool))


async def test_the_heads_of_one_survey_come_in_the_order_of_many(pool: Pool) -> None:
    """Placing all heads of each survey serves agents as placing one head of each does, with other agents waiting and
    requests of various numbers."""
    await life.beat(pool, WORKER, WIDE)
    for role in ("at once", "one by one"):
        role = role.replace(" ", "-")
        for agent, times in (("a", 9), ("b", 1), ("c", 30), ("d", 4)):
            await ask(pool, agent, times, role=role)
    at_once: list[str] = []
    while heads := [
        head for head in fair_order((await pool.survey()).heads, {}, WIDE.lane) if head.queue.role == "at-once"
    ]:
        assert len(heads) == min(16, 44 - len(at_once))
        assert {head.more for head in heads} == {len(at_once) + len(heads) < 44}
        for head in heads:
            assert await pool.requests.dispatch(head, WIDE.lane, "m1", new_id()) is not None
            at_once.append(head.agent)
    one_by_one: list[str] = []
    while heads := list(fair_order((await pool.survey()).heads, {}, WIDE.lane)):
        assert await pool.requests.dispatch(heads[0], WIDE.lane, "m1", new_id()) is not None
        one_by_one.append(heads[0].agent)
    assert at_once == one_by_one


async def test_no_more_heads_than_there_is_room(pool: Pool) -> None:
    """A survey looks for as many requests as the lanes can take, and for one at least."""
    await ask(pool, "a", 30)
    assert len((await pool.survey()).heads) == 1
    await life.beat(pool, WORKER, LANE)
    assert len((await pool.survey()).heads) == LANE.offer.limit_of("chat")


async def test_a_newcomer_has_no_credit_from_the_past(pool: Pool) -> None:
    """Who comes when others have been served for long takes turns from then on, and does not catch up."""
    await ask(pool, "early", 50)
    await agents(pool, 20)
    await ask(pool, "late", 20)
    assert 4 <= (await agents(pool, 10)).count("late") <= 6
    await audit(raw(pool))


@pytest.mark.many_commands
async def test_cancelled_requests_cost_nothing(pool: Pool) -> None:
    """Who submits and cancels a thousand requests is served as if it had not."""
    await ask(pool, "other", 10)
    for _ in range(1000):
        await pool.requests.cancel(await life.submit(pool, life.envelope(agent="fickle")))
    await ask(pool, "fickle", 3)
    assert (await agents(pool, 6)).count("fickle") == 3
    await audit(raw(pool))


@pytest.mark.parametrize("due_ms", [0, 60_000])
async def test_a_requeued_request_comes_first_and_is_not_charged(pool: Pool, due_ms: int) -> None:
    """What a lane gave back is its agent's next, and its agent's turn is given back with it."""
    await ask(pool, "a", 5)
    await ask(pool, "b", 5)
    ((head, attempt),) = await serve(pool, 1)
    assert head.agent == "a"
    await pool.requests.requeue(head.id, attempt, WORKER, due_ms)
    await audit(raw(pool))
    if due_ms:
        assert await agents(pool, 2) == ["a", "b"]
        await life.pass_delay(pool, head.id)
        await life.sweep(pool)
    again = [(it.agent, it.id) for it, _ in await serve(pool, 2)]
    assert ("a", head.id) in again
    assert {agent for agent, _ in again} == {"a", "b"}
    await audit(raw(pool))


async def test_a_requeued_request_comes_first_from_a_queue_of_its_own(pool: Pool) -> None:
    """Where other lanes may have it by now, it is still served before what its role asked for later."""
    await ask(pool, "a", 5)
    (head, attempt), _ = await serve(pool, 2)
    await ask(pool, "a")  # something has happened since the last turn of its role
    elsewhere = replace(head.queue, needs=head.queue.needs.model_copy(update={"avoid": ("another",)}))
    await pool.requests.requeue(head.id, attempt, WORKER, queue=elsewhere)
    assert [it.id for it, _ in await serve(pool, 1)] == [head.id]
    await audit(raw(pool))


async def test_what_was_not_charged_is_not_given_back(pool: Pool) -> None:
    """A request that was dispatched alone cost nothing, so giving it back is worth no turn."""
    await ask(pool, "a")
    ((head, attempt),) = await serve(pool, 1)
    await ask(pool, "b", 5)
    await ask(pool, "a", 4)
    served = await agents(pool, 2)
    await pool.requests.requeue(head.id, attempt, WORKER)
    served += await agents(pool, 4)
    assert served.count("a") == served.count("b") == 3
    await audit(raw(pool))


async def test_an_outdated_choice_harms_no_turns(pool: Pool) -> None:
    """A router that dispatches what is no longer first does not move those who wait back."""
    await ask(pool, "a", 5)
    await ask(pool, "b", 5)
    await life.beat(pool, WORKER, WIDE)
    for _ in range(3):
        newest = await life.submit(pool, life.envelope(agent="a"))
        assert await life.dispatch(pool, newest) is not None
        await ask(pool, "b")
        await audit(raw(pool))
    assert await agents(pool, 2) == ["b", "b"]


async def test_higher_priorities_first(pool: Pool) -> None:
    """High is served before normal, normal before low."""
    for priority in ("low", "high", "normal", "low", "high", "normal"):
        await ask(pool, "a", priority=priority)
    served = [head.queue.priority for head, _ in await serve(pool, 6)]
    assert served == ["high", "high", "normal", "normal", "low", "low"]


async def test_queues_of_one_priority_take_turns(pool: Pool) -> None:
    """Roles are served in turn, however many requests each has."""
    await ask(pool, "a", 20, role="planner")
    await ask(pool, "a", 5, role="coder")
    served = [head.queue.role for head, _ in await serve(pool, 10)]
    assert served.count("coder") == 5
    await audit(raw(pool))


async def weigh(pool: Pool, **weights: int) -> Mapping[str, int]:
    """Give roles these weights."""
    await pool.policies.write(Policy(roles={role: RolePolicy(weight=weight) for role, weight in weights.items()}))
    return weights


async def test_a_role_has_turns_as_long_as_its_weight(pool: Pool) -> None:
    """Where roles wait for the same lane, as many of each are served as their weights say."""
    weights = await weigh(pool, planner=3, critic=2)
    for role in ("planner", "coder", "critic"):
        await ask(pool, "a", 20, role=role)
    served = [head.queue.role for head, _ in await serve(pool, 18, weights)]
    for begin in range(0, 18, 6):
        assert Counter(served[begin : begin + 6]) == {"planner": 3, "critic": 2, "coder": 1}
    await audit(raw(pool))


async def test_a_role_has_one_turn_however_many_queues_it_has(pool: Pool) -> None:
    """Requests that need different things are in different queues, and count as one role all the same; its queues take
    turns."""
    for role, model in (("planner", None), ("planner", "m1"), ("coder", None)):
        for _ in range(9):
            await life.submit(pool, life.envelope(agent="a", role=role, model=model))
    served = [head.queue for head, _ in await serve(pool, 12)]
    assert [queue.role for queue in served].count("coder") == 6
    assert [queue.needs.model for queue in served].count("m1") == 3
    await audit(raw(pool))


async def test_all_heads_at_once_are_ordered_as_one_by_one(pool: Pool) -> None:
    """Placing all heads of each survey serves roles as placing one head of each does, whatever their weights."""
    weights = await weigh(pool, planner=3, critic=2)
    orders = []
    for at_once in (False, True):
        await life.beat(pool, WORKER, WIDE)
        for role, times in (("planner", 12), ("coder", 5), ("critic", 9)):
            await ask(pool, "a", times, role=role)
        served: list[str] = []
        while heads := list(fair_order((await pool.survey()).heads, weights, WIDE.lane)):
            for head in heads if at_once else heads[:1]:
                assert await pool.requests.dispatch(head, WIDE.lane, "m1", new_id()) is not None
                served.append(head.queue.role)
        orders.append(served)
    assert orders[0] == orders[1]


async def route(pool: Pool) -> list[tuple[str, str]]:
    """Place what a router would place now, and end it; lane and role of each."""
    placed = plan(await pool.survey(), Policy()).placements
    for placement in placed:
        assert await pool.requests.dispatch(placement.head, placement.lane, placement.model, new_id()) is not None
        await pool.requests.cancel(placement.head.id)
    return [(placement.lane, placement.head.queue.role) for placement in placed]


async def test_what_another_lane_does_for_a_role_costs_it_no_turn(pool: Pool) -> None:
    """A role that is served by a lane of its own all the time has its turns at the lane that others use too."""
    await life.beat(pool, WORKER, replace(LANE, offer=chats(1)))
    await life.beat(
        pool, "worker2", replace(LANE, lane="lane2", endpoint="http://gpu2:8080", models=("x1",), offer=chats(1))
    )
    for role, model in (("planner", "m1"), ("planner", "x1"), ("coder", "m1")):
        for _ in range(9):
            await life.submit(pool, life.envelope(agent="a", role=role, model=model))
    served = Counter([place for _ in range(8) for place in await route(pool)])
    assert served == {("lane2", "planner"): 8, ("lane1", "planner"): 4, ("lane1", "coder"): 4}
    await audit(raw(pool))


@pytest.mark.parametrize("model", ["nobody-has", "x1"])
async def test_what_cannot_be_placed_keeps_nothing_of_its_role_waiting(model: str, pool: Pool) -> None:
    """A role of which a request waits for another lane, or for one that is not there, has its turns all the same."""
    await life.beat(pool, WORKER, replace(LANE, offer=chats(1)))
    await life.beat(
        pool, "worker2", replace(LANE, lane="lane2", endpoint="http://gpu2:8080", models=("x1",), offer=chats(0))
    )
    await life.submit(pool, life.envelope(agent="a", role="planner", model=model))
    await ask(pool, "a", 9, role="planner")
    await ask(pool, "a", 9, role="coder")
    served = Counter([role for _ in range(8) for _, role in await route(pool)])
    assert served == {"planner": 4, "coder": 4}
    await audit(raw(pool))


async def test_a_role_that_comes_back_has_no_turns_left_over(pool: Pool) -> None:
    """A role of which nothing waits any more keeps nothing of its turn."""
    weights = await weigh(pool, planner=4)
    await ask(pool, "a", 1, role="planner")
    await ask(pool, "a", 20, role="coder")
    assert [head.queue.role for head, _ in await serve(pool, 2, weights)] == ["planner", "coder"]
    await ask(pool, "a", 20, role="planner")
    served = [head.queue.role for head, _ in await serve(pool, 10, weights)]
    assert served == ["coder", *["planner"] * 4, "coder", *["planner"] * 4]
    await audit(raw(pool))


async def test_a_queue_that_empties_and_fills_does_not_come_first_for_ever(pool: Pool) -> None:
    """A queue that ran empty and fills again takes its place behind those that wait."""
    await ask(pool, "hog", 20, role="planner")
    served = []
    for _ in range(10):
        await ask(pool, "quick", role="coder")
        served += [head.queue.role for head, _ in await serve(pool, 1)]
    assert 4 <= served.count("planner") <= 6


async def test_an_empty_queue_keeps_no_books(pool: Pool) -> None:
    """Virtual time and finish tags go with the last one that waits."""
    await ask(pool, "a", 3)
    await ask(pool, "b", 3)
    await serve(pool, 4)
    assert [key for key in await life.dump(raw(pool)) if key.endswith((":paid", ":clock"))]
    await serve(pool, 2)
    assert not [key for key in await life.dump(raw(pool)) if ":queue" in key or ":turn" in key]


async def test_tags_the_clock_has_passed_are_deleted(pool: Pool) -> None:
    """An agent that has not come back keeps no finish tag once the others have caught up."""
    await ask(pool, "a", 20)
    for number in range(5):
        await ask(pool, f"once{number}")
    await serve(pool, 15)
    (paid,) = [value for key, value in (await life.dump(raw(pool))).items() if key.endswith(":paid")]
    assert set(paid) == {"a"}


async def end(pool: Pool, after_ms: int, *, ran_ms: int | None = None) -> None:
    """Run the next request, and end it `after_ms` after the one before. `ran_ms`: how long it ran;
    default: since that end."""
    await life.beat(pool, WORKER, WIDE)
    head = (await pool.survey()).heads[0]
    asked = await life.running(pool, head.id)
    now_ms = (await pool.survey()).now_ms
    await raw(pool).hset(f"{PREFIX}request:{asked.id}", "started", now_ms - (after_ms if ran_ms is None else ran_ms))
    if await raw(pool).exists(f"{PREFIX}drain:planner"):
        await raw(pool).hset(f"{PREFIX}drain:planner", "at", now_ms - after_ms)
    assert await life.finish(pool, asked)


async def refused_for_s(pool: Pool) -> float:
    """When a full role says to come back."""
    with pytest.raises(QueueFull) as refused:
        await life.submit(pool)
    assert refused.value.retry_after_s is not None
    return refused.value.retry_after_s


async def test_a_full_role_says_when_to_come_back(pool: Pool) -> None:
    """The pause asked for follows the measured time between two ends, and idle times do not count."""
    await pool.policies.write(Policy(depth=5))
    await ask(pool, "a", 5)
    assert await refused_for_s(pool) == pytest.approx(1.0)
    for _ in range(4):
        await end(pool, after_ms=30_000)
        await ask(pool, "a")
    assert await refused_for_s(pool) == pytest.approx(30.0, abs=2)
    for _ in range(30):
        await end(pool, after_ms=2_000, ran_ms=30_000)
        await ask(pool, "a")
    assert await refused_for_s(pool) == pytest.approx(2.0, abs=1)
    for _ in range(5):
        await end(pool, after_ms=2_000)
    await ask(pool, "a", 2)
    await end(pool, after_ms=500_000, ran_ms=2_000)
    await ask(pool, "a", 4)
    assert await refused_for_s(pool) == pytest.approx(2.0, abs=1)
    await audit(raw(pool))


async def test_a_time_without_a_worker_makes_no_full_queue_slow(pool: Pool) -> None:
    """The time between two ends counts from the start of the later request, if that is later than the earlier end."""
    await pool.policies.write(Policy(in_flight=2))
    await ask(pool, "agent1", 2)
    await end(pool, after_ms=8000)
    await ask(pool, "agent1")
    await end(pool, after_ms=3_600_000, ran_ms=8000)
    await ask(pool, "agent1")
    assert await refused_for_s(pool) == pytest.approx(8.0, abs=0.5)


async def test_only_requests_that_ran_are_measured(pool: Pool) -> None:
    """A request that is cancelled while it waits says nothing about how long others run."""
    await pool.policies.write(Policy(depth=3))
    await ask(pool, "a", 3)
    await end(pool, after_ms=8000)
    await ask(pool, "a")
    await raw(pool).hset(f"{PREFIX}drain:planner", "at", (await pool.survey()).now_ms - 50_000)
    await pool.requests.cancel((await pool.survey()).heads[0].id)
    await ask(pool, "a")
    assert await refused_for_s(pool) == pytest.approx(8.0, abs=0.5)


async def test_heads_say_what_routers_need(pool: Pool) -> None:
    """A head carries its queue, its newest attempt, its place, and whether more waits than heads are told."""
    asked: Asked = await life.running(pool)
    await pool.requests.requeue(asked.id, asked.attempt, WORKER)
    (head,) = (await pool.survey()).heads
    assert (head.id, head.attempt, head.more) == (asked.id, asked.attempt, False)
    assert head.queue == Queue.of(life.envelope())
    other = await life.submit(pool)
    heads = (await pool.survey()).heads
    assert [(head.id, head.place, head.more) for head in heads] == [(asked.id, 0, False), (other, 1, False)]
