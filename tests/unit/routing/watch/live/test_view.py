from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.lanes import lane_view
from tests.unit.routing.watch.test_pool_health import LANE, QUEUE, ROLE, WELL, with_lanes

from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.watch.finding import Code
from tokenlane.routing.watch.live.roles import BEHIND_MS, Standing
from tokenlane.routing.watch.live.trends import Trends
from tokenlane.routing.watch.live.view import LANES_SHOWN, ROLES_SHOWN, LiveView, live_view
from tokenlane.routing.watch.snapshot import Failures, Memory, Rates, Slots, Snapshot, WorkerStatus

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


def states(text: str, part: str) -> bool:
    """Whether a text has this part of a sentence, as its first words or others."""
    return bool(part) and part.casefold() in text.casefold()


def test_the_headline_names_role_lane_and_reason() -> None:
    """How many wait, for how long, for which lane, and why that cannot work; and what to do."""
    down = lane_view(DOWN.name, state="down", why=DOWN.why)
    view = view_of(replace(with_lanes(DOWN), views=(down,)))
    assert all(fact in view.headline.text for fact in ("coder", "2", "20 s", "gpu0"))
    assert DOWN.why in view.headline.why
    assert states(view.headline.advice, view.roles[0].advice)


def test_a_lane_that_fails_while_others_serve() -> None:
    """A role that is behind, and a lane that is down, stand in one headline; alone the lane is one too."""
    behind = waiting(BEHIND_MS + 1)
    down = replace(DOWN, name="gpu1", endpoint="http://gpu:8001")
    both = view_of(replace(behind, lanes=(*behind.lanes, down)))
    assert both.headline.severity == "fail"
    assert "coder" in both.headline.text
    assert all(fact in both.headline.why for fact in ("gpu0", "gpu1", DOWN.why))
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
    assert all(fact in view.headline.text for fact in ("stuck", "unknown", "2"))
    assert view.roles[-1].is_paused


def test_priorities_of_a_role_are_one_row() -> None:
    """Counts and failures add up; the oldest request of all is the one that is explained."""
    high = replace(ROLE, priority="high", waiting=5, oldest_ms=90_000, failures=(Failures("timeout", "gpu0", 1),))
    parts = (replace(ROLE, failures=(Failures("timeout", "gpu0", 2), Failures("no_lane", "", 1))), high)
    queues = (QUEUE, replace(QUEUE, priority="high", waiting=5, oldest_ms=90_000))
    (role,) = view_of(replace(WELL, roles=parts, queues=queues)).roles
    assert (role.waiting, role.oldest_ms) == (7, 90_000)
    assert role.failures == (Failures("timeout", "gpu0", 3), Failures("no_lane", "", 1))


def test_the_worst_queue_decides_how_a_role_stands() -> None:
    """A request for a model that no lane has is named, however many older ones wait for a slot, and only those that
    wait for the model count as such. What the role's sentence leaves out stays a problem."""
    lost = replace(QUEUE, waiting=1, oldest_ms=60_000, needs=QUEUE.needs.model_copy(update={"model": "unknown"}))
    snapshot = waiting(61_000)
    queues = (replace(snapshot.queues[0], waiting=11), lost)
    snapshot = replace(snapshot, roles=(replace(ROLE, waiting=12, oldest_ms=61_000),), queues=queues)
    view = view_of(snapshot)
    (role,) = view.roles
    assert (role.standing, role.oldest_ms) == (Standing.STUCK, 61_000)
    assert "unknown" in role.waits_for
    assert all(fact in view.headline.text for fact in ("1 of 12", role.waits_for, "60 s"))
    assert [problem.code for problem in view.problems] == [Code.WAITS_LONG]  # that of the 11 others


def test_a_finding_that_a_role_states_is_no_further_problem() -> None:
    """The row of a role has it already; a role that is red there is one that `status --check` reports as failing."""
    late = view_of(waiting(61_000))
    assert (late.problems, late.headline.severity, late.roles[0].severity) == ((), "fail", "fail")
    assert states(late.headline.text, late.roles[0].waits_for)
    failing = view_of(replace(WELL, roles=(FAILING,), queues=()))
    assert failing.problems == ()
    stuck = view_of(with_lanes(roles=(replace(FAILING, waiting=2, oldest_ms=20_000),)))
    assert [problem.code for problem in stuck.problems] == [Code.NO_LANE, Code.ROLE_FAILS]


def test_all_ends_count_as_ended() -> None:
    """Requests that expired or were cancelled ended, too."""
    rates = Rates(completed=1, failed=2, cancelled=4, expired=8, retried=16)
    view = view_of(replace(WELL, roles=(replace(ROLE, rates=rates),)))
    assert (view.roles[0].ended, view.roles[0].samples[-1].ended) == (15, 15)


def test_a_view_has_the_worst_of_many_roles_and_lanes() -> None:
    """The others are counted, and their requests are in the sums."""
    roles = tuple(replace(ROLE, role=f"role{i}", waiting=1) for i in range(ROLES_SHOWN + 5))
    queues = tuple(replace(QUEUE, role=role.role, oldest_ms=100 + i) for i, role in enumerate(roles))
    lanes = (*(replace(LANE, name=f"gpu{i}", endpoint="") for i in range(LANES_SHOWN + 7)), replace(DOWN, name="last"))
    view = view_of(with_lanes(*lanes, roles=roles, queues=queues))
    assert (len(view.roles), view.more_roles, view.waiting) == (ROLES_SHOWN, 5, ROLES_SHOWN + 5)
    assert view.roles[0].name == roles[-1].role
    assert (len(view.lanes), view.more_lanes, view.accepting) == (LANES_SHOWN, 8, LANES_SHOWN + 7)
    assert view.lanes[0].name == "last"


GIB = 1024**3
WORKER = WorkerStatus("w1", LANE.name, LaneState.UP, "host", {}, 4, 0, 0, None, WorkerReport(silent_ms=20_000))
HANGING = replace(LANE, slots={"chat": Slots(4, running=4)}, workers=(WORKER,))
LOST = replace(QUEUE, needs=QUEUE.needs.model_copy(update={"model": "unknown"}))


@pytest.mark.parametrize(
    ("snapshot", "standing", "code", "text", "why"),
    [
        pytest.param(
            *(replace(WELL, queues=(LOST,)), Standing.STUCK, None),
            *(["coder", "2", "unknown"], ["unknown"]),
            id="no lane has the model",
        ),
        pytest.param(
            *(waiting(20_000), Standing.BEHIND, None),
            *(["coder", "2", "gpu0", "20 s"], ["4 of 4"]),
            id="all slots are taken",
        ),
        pytest.param(
            replace(waiting(20_000), lanes=(HANGING,), roles=(replace(ROLE, rates=Rates(expired=3)),)),
            *(Standing.FAILING, Code.LANE_SILENT),
            *(["coder", "180 expired", "gpu0"], ["gpu0", "4", "20 s"]),
            id="the model server hangs",
        ),
        pytest.param(
            *(replace(waiting(20_000), memory=Memory(GIB, GIB)), Standing.BEHIND, Code.MEMORY),
            *(["1024"], ["coder", "gpu0"]),
            id="Redis is full",
        ),
        pytest.param(
            *(replace(WELL, roles=(FAILING,), queues=()), Standing.FAILING, None),
            *(["coder", "6 provider_down", "gpu0"], []),
            id="the role fails",
        ),
    ],
)
def test_a_person_reads_which_role_is_behind_and_why(
    snapshot: Snapshot, standing: Standing, code: Code | None, text: list[str], why: list[str]
) -> None:
    """The headline alone names it and the reason. It says what to do about the problem with that code, if there is one,
    and else about the role."""
    view = view_of(snapshot)
    (role,), headline = view.roles, view.headline
    assert role.standing is standing
    assert headline.severity == ("warn" if standing is Standing.BEHIND and code is None else "fail")
    assert [fact for fact in text if fact not in headline.text] == []
    assert [fact for fact in why if fact not in headline.why] == []
    problem = next((each for each in view.problems if each.code is code), role)
    assert states(headline.advice, problem.advice)


def test_redis_is_full_while_every_role_keeps_up() -> None:
    """It concerns every role, so it is the headline."""
    view = view_of(replace(WELL, roles=(), queues=(), memory=Memory(GIB, GIB)))
    (problem,) = view.problems
    assert (problem.code, view.headline.severity) == (Code.MEMORY, "fail")
    assert states(view.headline.text, problem.observed)
    assert states(view.headline.advice, problem.advice)


def test_the_load_of_a_lane() -> None:
    """It is that of the kind of work that fills the lane most; commands do not count."""
    slots = {"chat": Slots(4, 1, 0), "embed": Slots(2, 1, 1), "command": Slots(1, 1, 0)}
    (lane,) = view_of(with_lanes(replace(LANE, slots=slots))).lanes
    assert (lane.running, lane.queued, lane.limit) == (1, 1, 2)
    (idle,) = view_of(with_lanes(replace(LANE, slots={"chat": Slots(4), "embed": Slots(32)}))).lanes
    assert idle.limit == 4


def test_lanes_of_all_states_are_shown_the_worst_first() -> None:
    """By their severity, which each state has; of lanes that are well, those that left come last."""
    lanes = [replace(LANE, name=f"lane-{state}", state=state) for state in LaneState]
    states = [lane.state for lane in view_of(with_lanes(*lanes)).lanes]
    assert sorted(states) == sorted(LaneState)
    assert [state.severity for state in states] == ["fail"] * 2 + ["warn"] * 4 + ["ok"] * 2
    assert states[-2:] == [LaneState.UP, LaneState.LEFT]


def test_lanes_that_left_long_ago_are_not_shown() -> None:
    """A lane that was shut down in order stays for a minute, as it may come back."""
    left = replace(LANE, state=LaneState.LEFT, beat_ms=30_000)
    assert len(view_of(with_lanes(left)).lanes) == 1
    assert len(view_of(with_lanes(replace(left, beat_ms=61_000))).lanes) == 0
