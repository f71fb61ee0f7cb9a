"""The state of a lane, from what is known of its workers."""

from __future__ import annotations

import pytest

from tokenlane.routing.decide.lanes.state import LaneState, LaneWorkers, lane_state


@pytest.mark.parametrize(
    ("told", "takes_new_work", "beats", "state"),
    [
        ("up", True, True, "up"),
        ("", True, True, "up"),
        ("down", True, True, "up"),
        ("loading", False, True, "loading"),
        ("down", False, True, "down"),
        ("draining", False, True, "draining"),
        ("up", False, True, "down"),
        ("", False, True, "down"),
        ("of a newer version", False, True, "down"),
        ("draining", False, False, "left"),
        ("up", False, False, "gone"),
        ("loading", False, False, "gone"),
        ("down", False, False, "gone"),
    ],
)
def test_the_state_of_a_lane(told: str, takes_new_work: bool, beats: bool, state: str) -> None:
    """Whoever takes work is up, whatever another of its workers said last; only who stops in order has left."""
    assert lane_state(LaneWorkers(told, beats, accepting_workers=int(takes_new_work))) is LaneState(state)
