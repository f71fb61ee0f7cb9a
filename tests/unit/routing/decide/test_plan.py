"""Which lane a plan gives to whom."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from tests.lanes import chats, lane_view

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.wire import Priority, new_id
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.lanes.state import RESTART_MS
from tokenlane.routing.decide.plan import Survey, plan
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.role_fairness import Head


def test_lanes_go_to_roles_by_weight() -> None:
    """If more requests wait than lanes have slots, roles get slots in proportion to their weights."""
    heads = [
        Head(Queue(role, "chat", "normal", Needs()), "a", new_id(), 0, more=True, served=0, waited_ms=0, place=place)
        for role in ("planner", "coder")
        for place in range(8)
    ]
    lane = lane_view("first", "p", limit=8)
    policy = Policy(roles={"coder": RolePolicy(weight=3)})
    placed = plan(Survey(0, 7, tuple(heads), (lane,)), policy).placements
    assert Counter(placement.head.queue.role for placement in placed) == {"coder": 6, "planner": 2}


def test_a_request_whose_best_lane_is_full_gets_the_next_lane() -> None:
    """Lanes fill up one after another; a lane for which more of a priority waits is left alone by lower ones."""

    def heads(role: str, priority: Priority, times: int) -> list[Head]:
        queue = Queue(role, "chat", priority, Needs())
        return [Head(queue, "a", new_id(), 0, more=True, served=0, waited_ms=0, place=place) for place in range(times)]

    room = {"first": 2, "second": 3, "third": 3}
    lanes = tuple(lane_view(name, "p", limit=limit) for name, limit in room.items())
    routes = {"planner": ("first", "second"), "coder": ("second", "third")}
    roles = {role: RolePolicy(route=tuple(Candidate(lane=it) for it in route)) for role, route in routes.items()}
    waiting = (*heads("coder", "low", 4), *heads("planner", "normal", 4))
    placed = plan(Survey(0, 7, waiting, lanes), Policy(roles=roles)).placements
    lanes_of = [(placement.head.queue.role, placement.lane) for placement in placed]
    assert lanes_of == [("planner", "first")] * 2 + [("planner", "second")] * 2 + [("coder", "third")] * 3


@pytest.mark.parametrize("model", ["another", None])
def test_nothing_is_refused_before_all_lanes_that_live_were_heard(model: str | None) -> None:
    """Of a server that was wiped or away, workers that live are still to be heard of: what waits there for a lane, or
    for another one than those known by now, waits until each has had the time to beat."""
    policy = Policy(patience_ms=0, lease_ms=3_000)
    known = () if model is None else (lane_view("first", "first"),)
    queue = Queue("planner", "chat", "normal", Needs(model=model))
    head = Head(queue, "agent", "id", 0, more=False, served=0, waited_ms=60_000)
    for watched_ms, refusals in ((0, 0), (1_999, 0), (2_000, 1), (math.inf, 1)):
        assert len(plan(Survey(0, 0, (head,), known, watched_ms=watched_ms), policy).refusals) == refusals


def test_an_answer_that_no_lane_can_continue_is_refused() -> None:
    """It waits while the lane that could continue it is being restarted, and is interrupted after that."""
    able = lane_view("able", offer=chats(1, abilities={"m": ("chat", "prefill")}), state="gone")
    plain = lane_view("plain", offer=chats(1, pulls=True))
    head = Head(
        Queue("planner", "chat", "normal", Needs(continues="m")), "a", "id", 1, more=False, served=0, waited_ms=60_000
    )
    for beat_ms, code in ((RESTART_MS, None), (RESTART_MS + 1, "interrupted")):
        planned = plan(Survey(0, 0, (head,), (replace(able, beat_ms=beat_ms), plain)), Policy())
        assert [refusal.error.code for refusal in planned.refusals] == ([code] if code else [])
        assert (*planned.placements, *planned.pulls) == ()


def test_a_refused_request_asks_other_lanes() -> None:
    """It does not ask the lanes that refused it again. Other requests may still get these lanes."""
    queue = Queue("planner", "chat", "normal", Needs())
    heads = [Head(queue, "a", f"id{place}", 0, more=False, served=0, waited_ms=0, place=place) for place in range(3)]
    lanes = tuple(lane_view(name, "p") for name in ("first", "second", "third"))
    policy = Policy(roles={"planner": RolePolicy(route=tuple(Candidate(lane=lane.name) for lane in lanes))})
    refused = {"id0": frozenset({"first", "second"}), "id2": frozenset({"first", "second", "third"})}
    placed = plan(Survey(0, 0, tuple(heads), lanes), policy, refused).placements
    assert {(it.head.id, it.lane) for it in placed} == {("id0", "third"), ("id1", "first")}


def test_a_lane_that_is_reserved_for_a_suspect_accepts_no_other_request() -> None:
    """Other requests get their next lane. A suspect prefers a lane that is already empty."""
    queue = Queue("planner", "chat", "normal", Needs())
    suspect, other = (
        Head(queue, "agent", new_id(), 0, more=False, served=0, waited_ms=0, suspect=suspect)
        for suspect in (True, False)
    )
    route = (Candidate(lane="first"), Candidate(lane="second"))
    policy = Policy(roles={"planner": RolePolicy(route=route)})

    def lane_of(head: Head, *lanes: LaneView) -> list[str]:
        return [placement.lane for placement in plan(Survey(0, 0, (head,), lanes), policy).placements]

    kept, free = lane_view("first", limit=4, reserved_for=suspect.id), lane_view("second", limit=4)
    busy = lane_view("first", limit=4, queued=1)
    assert lane_of(other, kept, free) == ["second"]
    assert lane_of(other, kept) == []
    assert lane_of(suspect, kept, free) == ["first"]
    assert lane_of(suspect, busy, free) == ["second"]
    assert lane_of(suspect, busy) == ["first"]  # dispatch refuses, and keeps it from filling up
