"""What operators read about one request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.lanes import lane_view
from tests.unit.routing.watch.test_pool_health import QUEUE, WELL

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.queue_place import QueuePlace
from tokenlane.routing.store.request_records import RequestRecord
from tokenlane.routing.watch.request_report import report
from tokenlane.routing.watch.snapshot import Snapshot

FULL = replace(WELL, views=(lane_view("gpu0", limit=1, queued=1),))
WAITING = RequestRecord(
    id="1",
    state="waiting",
    role=QUEUE.role,
    kind="chat",
    agent="a",
    client="c",
    queue=Queue(QUEUE.role, "chat", QUEUE.priority, Needs(size=64)),
    attempt=0,
    starts=0,
    crashes=0,
    age_ms=1_000,
    left_ms=1_000,
    lane="",
    model="",
    worker="",
    started_ms=None,
    ended_ms=None,
    code="",
    stops="",
    due_ms=0,
    payload_kept=False,
    place=QueuePlace(2, 3, 20_000),
    attempts=(),
)


def test_a_request_that_waits_for_a_slot_has_an_estimate() -> None:
    """Its cause is that of its queue."""
    found = report(FULL, WAITING).document()
    assert found["waits_for"] == "a slot on gpu0"
    assert (found["position"], found["in_queue"], found["estimate_ms"]) == (2, 3, 40_000)


@pytest.mark.parametrize("seen", [replace(FULL, routers=()), replace(FULL, views=(lane_view("gpu0", state="down"),))])
def test_without_a_lane_or_a_router_there_is_no_estimate(seen: Snapshot) -> None:
    """However fast the queue drained before."""
    found = report(seen, WAITING).document()
    assert found["waits_for"]
    assert (found["position"], found["in_queue"], found["estimate_ms"]) == (2, 3, None)


@pytest.mark.parametrize("state", ["running", "completed", "failed"])
def test_a_request_that_does_not_wait(state: str) -> None:
    """It waits for nothing."""
    found = report(FULL, replace(WAITING, state=state, place=None)).document()
    assert (found["waits_for"], found["why"], found["position"]) == ("", "", None)


def test_a_request_of_another_version() -> None:
    """What this version cannot read is named as the cause."""
    assert report(FULL, replace(WAITING, queue=None)).document()["why"]
