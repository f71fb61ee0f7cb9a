from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.lanes import chats, in_state, lane_view
from tests.unit.routing.watch.test_pool_health import QUEUE, ROLE, WELL

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.results import Progress
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.decide.wait_cause import WaitCause, wait_cause
from tokenlane.routing.watch.pool_health import find_problems
from tokenlane.routing.watch.snapshot import Snapshot


def seen(*lanes: LaneView, **others: Any) -> Snapshot:
    """A pool with these lanes, as routers see them."""
    return replace(WELL, views=lanes, **others)


def cause(snapshot: Snapshot, **needs: Any) -> WaitCause:
    """Why the requests with these needs wait."""
    return wait_cause(snapshot.facts, replace(QUEUE, needs=Needs(size=64, **needs)).key)


def test_a_full_lane() -> None:
    """Every lane that may serve the queue is named with its limit."""
    found = cause(seen(lane_view("gpu0", limit=4, queued=4), lane_view("gpu1", limit=2, queued=2)))
    assert found.brief == "a slot on gpu0, gpu1"
    assert "'gpu0' (4 of 4)" in found.explanation
    assert "'gpu1' (2 of 2)" in found.explanation


def test_a_free_lane() -> None:
    """Requests for a lane with free slots wait for their dispatch, or for a router."""
    free = lane_view("gpu0", limit=4, queued=1)
    assert cause(seen(free)).brief == "dispatch to gpu0"
    assert cause(seen(free, routers=())).brief == "a router"


@pytest.mark.parametrize(
    ("queued", "ahead", "brief"),
    [
        (3, 0, "dispatch to gpu0"),
        (3, 1, "a slot on gpu0"),
        (2, 1, "dispatch to gpu0"),
        (1, 30, "a slot on gpu0"),
        (0, 30, "dispatch to gpu0"),
    ],
)
def test_a_slot_that_is_free_for_a_moment(queued: int, ahead: int, brief: str) -> None:
    """It is for those who come first: the others wait for more. But where a whole lane is idle, no router works."""
    found = wait_cause(seen(lane_view("gpu0", limit=4, queued=queued)).facts, QUEUE.key, ahead)
    assert found.brief == brief
    assert found.takes_turns


def test_a_reserved_lane() -> None:
    """While a request must run alone on a lane, others wait."""
    assert cause(seen(lane_view("gpu0", limit=4, reserved_for="another"))).brief == "a slot on gpu0"


@pytest.mark.parametrize("state", ["down", "loading", "paused", "draining", "gone", "left"])
def test_a_closed_lane(state: str) -> None:
    """A lane that may serve the queue and accepts no work is named with its state."""
    found = cause(seen(lane_view("gpu0", state=state, why="it refuses connections", beat_ms=20_000)))
    assert found.brief == f"lane gpu0 ({state})"
    assert "'gpu0'" in found.explanation
    assert ("it refuses connections" in found.explanation) == (state in ("down", "loading", "paused"))
    assert found.passes == (state == "paused")
    assert found.advice


def test_no_lane_for_a_model() -> None:
    """The explanation is the error that a router would send, with the models that are available."""
    found = cause(seen(lane_view("gpu0", models=("m1", "m2"))), model="m3")
    assert found.brief == "a lane with model m3"
    assert "m1, m2" in found.explanation


def test_no_lane_of_the_route() -> None:
    """A route that leads to no connected lane is the cause."""
    policy = Policy(roles={"coder": RolePolicy(route=(Candidate(lane="gpu9"),))})
    found = cause(seen(lane_view("gpu0"), policy=policy))
    assert (found.brief, "route" in found.explanation) == ("a lane of its route", True)
    assert cause(seen()).brief == "a lane"


def test_a_model_that_a_lane_pulls() -> None:
    """The progress of the pull, or that it failed."""
    offer = chats(1).model_copy(update={"pulls": True})
    pulling = offer.model_copy(update={"pulling": {"m3": Progress(step="download", done_bytes=1, total_bytes=2)}})
    for of_lane, word in ((offer, "'m3'"), (pulling, "download"), (failed(offer), "could not pull")):
        found = cause(seen(lane_view("gpu0", models=("m1",), offer=of_lane)), model="m3")
        assert (found.brief, word in found.explanation) == ("a pull of m3 on gpu0", True), found


def test_an_answer_that_broke_off() -> None:
    """The explanation names the model whose answer waits, and the lane or the refusal that decides about it."""
    able = lane_view("gpu0", limit=1, queued=1, models=("m1",), offer=chats(1, abilities={"m1": ("chat", "prefill")}))
    plain = lane_view("gpu1", models=("m1",))
    full, away = cause(seen(able, plain), continues="m1"), replace(able, facts=in_state("gone"), beat_ms=20_000)
    gone = cause(seen(away, plain), continues="m1")
    refused = cause(seen(plain), continues="m1")
    assert [it.brief for it in (full, gone)] == ["a slot on gpu0", "lane gpu0 (gone)"]
    assert refused.brief == "a lane that can continue its answer"
    for found, lane in ((full, "'gpu0'"), (gone, "'gpu0'"), (refused, "'gpu1'")):
        assert "'m1'" in found.explanation
        assert lane in found.explanation


def failed(offer: Any) -> Any:
    return offer.model_copy(update={"unpulled": {"m3": "provider_down"}})


def test_findings_name_the_cause() -> None:
    """Both findings about waiting requests explain why the oldest waits."""
    full = seen(lane_view("gpu0", limit=4, queued=4))
    (finding,) = find_problems(full, 10)
    assert (finding.code, "'gpu0' (4 of 4)" in finding.observed) == ("waits_long", True)
    queues = (replace(QUEUE, needs=Needs(model="m2")), replace(QUEUE, oldest_ms=100))
    away = seen(lane_view("gpu0", models=("m1",), state="up"), queues=queues, roles=(ROLE,))
    assert [(it.code, "m1" in it.observed) for it in find_problems(away, 10)] == [
        ("unserved", True),
        ("waits_long", True),
    ]
