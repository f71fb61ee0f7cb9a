from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.routing.watch.test_pool_health import LANE, ROLE, WELL, with_lanes

from tokenlane.routing.contract.worker_report import DeliveryReport, WorkerReport
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.watch.live.trends import SAMPLES, Trends
from tokenlane.routing.watch.snapshot import LaneStatus, Rates, Snapshot, WorkerStatus


def lane_at(beat_ms: int, **deltas: int) -> LaneStatus:
    """A lane whose workers have published so many deltas; the newest beat of each was sent so long ago."""
    workers = tuple(
        WorkerStatus(
            *(name, LANE.name, LaneState.UP, "host", {}, 0, beat_ms, 0, None),
            report=WorkerReport(delivery=DeliveryReport(deltas=count)),
        )
        for name, count in deltas.items()
    )
    return replace(LANE, workers=workers)


def at(time_ms: int, lane: LaneStatus) -> Snapshot:
    return with_lanes(lane, time_ms=time_ms)


def rate(*looks: tuple[int, int, dict[str, int]]) -> float | None:
    """Tokens per second after looks, each with its time, the time since the beat, and the deltas of each worker."""
    trends, lane = Trends(), LANE
    for time_ms, beat_ms, deltas in looks:
        lane = lane_at(beat_ms, **deltas)
        trends.add(at(time_ms, lane))
    return trends.tokens_per_s(lane)


def test_one_report_is_no_rate() -> None:
    """However often the same beat is seen."""
    assert rate((1_000, 100, {"w1": 5})) is None
    assert rate((1_000, 100, {"w1": 5}), (2_000, 1_100, {"w1": 5})) is None


def test_tokens_between_beats() -> None:
    """The time between two beats counts, not the time between two looks, and workers of a lane add up."""
    assert rate((1_000, 100, {"w1": 0}), (4_300, 400, {"w1": 90})) == pytest.approx(30)
    assert rate((1_000, 0, {"w1": 0, "w2": 0}), (2_000, 0, {"w1": 10, "w2": 5})) == pytest.approx(15)


def test_the_window_moves() -> None:
    """What a lane did more than ten seconds ago does not count."""
    busy_then_idle = [(second * 1_000, 0, {"w1": min(second, 30) * 50}) for second in range(45)]
    assert rate(*busy_then_idle) == 0
    assert rate(*busy_then_idle[:25]) == pytest.approx(50)


def test_a_count_that_begins_anew() -> None:
    """A worker that lost its count, or another worker of the lane, gives no negative rate."""
    assert rate((1_000, 0, {"w1": 900}), (2_000, 0, {"w1": 10})) is None
    assert rate((1_000, 0, {"w1": 900}), (2_000, 0, {"w2": 10})) is None


def test_samples_of_a_role() -> None:
    """They add up the priorities, are bounded, and go once the role has been idle for as long as they are kept."""
    trends = Trends()
    busy = (
        replace(ROLE, waiting=2, rates=Rates(accepted=1.0, completed=0.5)),
        replace(ROLE, priority="high", waiting=3, rates=Rates(failed=0.25)),
    )
    for second in range(SAMPLES + 5):
        trends.add(replace(WELL, time_ms=second * 1_000, roles=busy))
    samples = trends.samples(ROLE.role)
    assert len(samples) == SAMPLES
    newest = samples[-1]
    assert (newest.waiting, newest.accepted, newest.ended, newest.time_ms) == (5, 1.0, 0.75, (SAMPLES + 4) * 1_000)
    for second in range(SAMPLES):
        assert trends.samples(ROLE.role)
        trends.add(replace(WELL, time_ms=(SAMPLES + 5 + second) * 1_000, roles=()))
    assert trends.samples(ROLE.role) == ()
    assert trends.samples("another") == ()
