"""The state of a lane, from what is known of its workers."""

from __future__ import annotations

import pytest

from tokenlane.routing.decide.lanes.state import LaneState, LaneWorkers, lane_state


@pytest.mark.parametrize(
    ("told", "accepts_new_work", "beats", "state"),
    [
        ("up", True, True, "up"),
        ("", True, True, "up"),
        ("down", True, True, "up"),
        ("loading", False, True, "loading"),
        ("paused", False, True, "paused"),
        ("down", False, True, "down"),
        ("draining", False, True, "draining"),
        ("up", False, True, "down"),
        ("", False, True, "down"),
        ("of a newer version", False, True, "down"),
        ("draining", False, False, "left"),
        ("up", False, False, "gone"),
        ("loading", False, False, "gone"),
        ("paused", False, False, "gone"),
        ("down", False, False, "gone"),
    ],
)
def test_the_state_of_a_lane(told: str, accepts_new_work: bool, beats: bool, state: str) -> None:
    """A lane with a worker that accepts work is up; a lane has left only if its last worker stopped in order."""
    assert lane_state(LaneWorkers(told, beats, accepting_workers=int(accepts_new_work))) is LaneState(state)


@pytest.mark.parametrize(("beats", "state"), [(True, "draining"), (False, "gone")])
def test_the_state_of_a_drained_lane(beats: bool, state: str) -> None:
    """It drains while it has workers, whether they accept work or not."""
    for accepting in (0, int(beats)):
        facts = LaneWorkers("up", beats, accepting_workers=accepting, is_drained=True)
        assert lane_state(facts) is LaneState(state)
