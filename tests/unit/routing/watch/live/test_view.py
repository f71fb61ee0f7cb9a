from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.lanes import lane_view
from tests.unit.routing.watch.test_pool_health import LANE, QUEUE, ROLE, WELL, with_lanes

from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.watch.live.roles import BEHIND_MS, Standing
from tokenlane.routing.watch.live.trends import Trends
from tokenlane.routing.watch.live.view import LiveView, live_view
from tokenlane.routing.watch.snapshot import Failures, Rates, Slots, Snapshot

DOWN = replace(LANE, state=LaneState.DOWN, why="nothing listens there")
PAUSES = replace(LANE, state=LaneState.PAUSED, why="its model server answered with rate_limited")
FAILING = replace(
    ROLE, waiting=0, oldest_ms=None, rates=Rates(failed=0.1), failures=(Failures("provider_down", "gpu0", 6),)
)


def view_of(snapshot: Snapshot) -> LiveView:
    trends = Trends()
    trends.add(snapshot)
    return live_view(snapshot, trends)


def waiting(oldest_ms: int, **others: Any) -> Snapshot:
    """The pool with all slots taken and requests that wait."""
    lane = replace(LANE, slots={"chat": Slots(4, running=4)})
    full = lane_view(lane.name, lane.provider, lane.endpoint, lane.models, 4, queued=4)
    return replace(
        WELL,
        lanes=(lane,),
        views=(full,),
        roles=(replace(ROLE, oldest_ms=oldest_ms),),
        queues=(replace(QUEUE, oldest_ms=oldest_ms),),
        **others,
    )


@pytest.mark.parametrize(
    ("snapshot", "standing", "severity"),
    [
        (replace(WELL, roles=(), queues=()), None, "ok"),
        (replace(WELL, roles=(replace(ROLE, waiting=0, oldest_ms=None),), queues=()), Standing.WELL, "ok"),
        (waiting(BEHIND_MS), Standing.WAITING, "ok"),
        (waiting(BEHIND_MS + 1), Standing.BEHIND, "warn"),
        (waiting(1, paused=("coder",)), Standing.PAUSED, "warn"),
        (with_lanes(DOWN, queues=(replace(QUEUE, oldest_ms=1),)), Standing.STUCK, "fail"),
        (with_lanes(PAUSES, queues=(replace(QUEUE, oldest_ms=1),)), Standing.WAITING, "ok"),
        (replace(WELL, routers=()), Standing.STUCK, "fail"),
        (replace(WELL, roles=(FAILING,), queues=()), Standing.FAILING, "fail"),
    ],
)
def test_how_a_role_stands(snapshot: Snapshot, standing: Standing | None, severity: str) -> None:
    """The headline has the severity of the worst role, and names the role unless all keep up."""
    view = view_of(snapshot)
    assert [role.standing for role in view.roles] == ([] if standing is None else [standing])
    assert view.headline.severity == severity
    assert ("coder" in view.headline.text) == (severity != "ok")


def test_the_headline_names_role_lane_and_reason() -> None:
    """How many wait, for how long, for which lane, and why that cannot work; and what to do."""
    down = lane_view(DOWN.name, state="down", why=DOWN.why)
    headline = view_of(replace(with_lanes(DOWN), views=(down,))).headline
    assert all(fact in headline.text for fact in ("coder", "2", "20 s", "gpu0"))
    assert DOWN.why in headline.why
    assert "model servers" in headline.advice


def test_a_lane_that_fails_while_others_serve() -> None:
    """A role that is behind, and a lane that is down, stand in one headline; alone the lane is one too."""
    behind = waiting(BEHIND_MS + 1)
    down = replace(DOWN, name="gpu1", endpoint="http://gpu:8001")
    both = view_of(replace(behind, lanes=(*behind.lanes, down)))
    assert both.headline.severity == "fail"
    assert "coder" in both.headline.text
    assert all(fact in both.headline.why for fact in ("'gpu0' (4 of 4)", "'gpu1'", DOWN.why))
    assert [lane.name for lane in both.lanes] == ["gpu1", "gpu0"]
    alone = view_of(with_lanes(LANE, down, roles=(), queues=()))
    assert (alone.headline.severity, "gpu1" in alone.headline.text) == ("fail", True)


def test_the_worst_role_comes_first() -> None:
    """A role that is stuck before one that fails, before one that waits longer for a slot; others are counted."""
    snapshot = waiting(60_000, paused=("stopped",))
    roles = (*snapshot.roles, replace(FAILING, role="failing"), replace(ROLE, role="stuck", oldest_ms=5))
    stuck = replace(QUEUE, role="stuck", oldest_ms=5, needs=QUEUE.needs.model_copy(update={"model": "unknown"}))
    view = view_of(replace(snapshot, roles=roles, queues=(*snapshot.queues, stuck)))
    assert [role.name for role in view.roles] == ["stuck", "failing", "coder", "stopped"]
    assert "unknown" in view.headline.text
    assert "2 more roles" in view.headline.text
    assert view.roles[-1].is_paused


def test_priorities_of_a_role_are_one_row() -> None:
    """Counts and failures add up; the oldest request of all is the one that is explained."""
    high = replace(ROLE, priority="high", waiting=5, oldest_ms=90_000, failures=(Failures("timeout", "gpu0", 1),))
    parts = (replace(ROLE, failures=(Failures("timeout", "gpu0", 2), Failures("no_lane", "", 1))), high)
    queues = (QUEUE, replace(QUEUE, priority="high", waiting=5, oldest_ms=90_000))
    (role,) = view_of(replace(WELL, roles=parts, queues=queues)).roles
    assert (role.waiting, role.oldest_ms) == (7, 90_000)
    assert role.failures == (Failures("timeout", "gpu0", 3), Failures("no_lane", "", 1))


def test_the_load_of_a_lane() -> None:
    """It is that of the kind of work that fills the lane most; commands do not count."""
    slots = {"chat": Slots(4, 1, 0), "embed": Slots(2, 1, 1), "command": Slots(1, 1, 0)}
    (lane,) = view_of(with_lanes(replace(LANE, slots=slots))).lanes
    assert (lane.running, lane.queued, lane.limit) == (1, 1, 2)
    (idle,) = view_of(with_lanes(replace(LANE, slots={"chat": Slots(4), "embed": Slots(32)}))).lanes
    assert idle.limit == 4


def test_lanes_of_all_states_are_shown_the_worst_first() -> None:
    """A lane that is down comes before one that pauses, and that before one that is up."""
    lanes = [replace(LANE, name=f"lane-{state}", state=state) for state in LaneState]
    states = [lane.state for lane in view_of(with_lanes(*lanes)).lanes]
    assert sorted(states) == sorted(LaneState)
    assert states.index(LaneState.DOWN) < states.index(LaneState.PAUSED) < states.index(LaneState.UP)


def test_lanes_that_left_long_ago_are_not_shown() -> None:
    """A lane that was shut down in order stays for a minute, as it may come back."""
    left = replace(LANE, state=LaneState.LEFT, beat_ms=30_000)
    assert len(view_of(with_lanes(left)).lanes) == 1
    assert len(view_of(with_lanes(replace(left, beat_ms=61_000))).lanes) == 0
