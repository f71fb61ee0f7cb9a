"""For how long a lane pauses if its model server asks for that."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract.errors import BadRequest, LlmError, ProviderDown, RateLimited, Unauthorized
from tokenlane.worker.lane.model_server.requested_pause import LONGEST_PAUSE_S, RequestedPause

FIRST_S = 2.0


class Lane:
    """A lane's pause, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pause = RequestedPause(FIRST_S)

    def fail(self, error: LlmError, left_s: float = math.inf) -> float:
        """Record an error. Return for how long the lane pauses from now on."""
        self.pause.record_error(error, left_s, self.now)
        return max(0.0, self.pause.ends_at - self.now)


@pytest.mark.parametrize(
    ("error", "left_s", "pause_s"),
    [
        (RateLimited(retry_after_s=7), math.inf, 7),
        (ProviderDown(retry_after_s=7), math.inf, 7),
        (RateLimited(retry_after_s=7), 10, 5),
        (RateLimited(retry_after_s=86_400), math.inf, LONGEST_PAUSE_S),
        (RateLimited(), math.inf, FIRST_S),
        (RateLimited(retry_after_s=0), math.inf, FIRST_S),
        (RateLimited(), 1, 0.5),
        (RateLimited(), 0.1, 0.5),
        (RateLimited(retry_after_s=0.2), 0.1, 0.2),
        (ProviderDown(), math.inf, 0),
        (ProviderDown(retry_after_s=0), math.inf, 0),
        (ProviderDown(retry_after_s=math.inf), math.inf, LONGEST_PAUSE_S),
        (ProviderDown(retry_after_s=math.nan), math.inf, 0),
        (RateLimited(retryable=False, retry_after_s=7), math.inf, 0),
        (BadRequest(retry_after_s=7), math.inf, 0),
        (Unauthorized(), math.inf, 0),
    ],
)
def test_the_length_of_a_pause(error: LlmError, left_s: float, pause_s: float) -> None:
    """It is what the server asked for, at most half of the time that the request has left, and at most five minutes."""
    assert Lane().fail(error, left_s) == pytest.approx(pause_s)


@given(st.lists(st.tuples(st.none() | st.floats(0, 1000), st.floats(0, 1000), st.floats(0, 100)), min_size=1))
def test_nothing_shortens_a_pause(errors: list[tuple[float | None, float, float]]) -> None:
    """Neither a later error nor an answer ends it earlier, and its length has a limit."""
    lane, ends_at = Lane(), -math.inf
    for retry_after_s, left_s, passed_s in errors:
        lane.fail(RateLimited(retry_after_s=retry_after_s), left_s)
        lane.pause.record_answer()
        assert lane.pause.ends_at >= ends_at
        assert lane.pause.ends_at <= lane.now + LONGEST_PAUSE_S
        ends_at = lane.pause.ends_at
        lane.now += passed_s


def test_without_retry_after_each_pause_that_does_not_help_is_twice_as_long() -> None:
    """Requests that started before the pause make it no longer. After an answer, the first length applies again."""
    lane, pauses = Lane(), []
    for _ in range(7):
        pauses.append(lane.fail(RateLimited()))
        lane.now += 0.5
        assert lane.fail(RateLimited()) == pauses[-1]
        lane.now = lane.pause.ends_at
        assert not lane.pause.lasts(lane.now)
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
    lane.pause.record_answer()
    assert lane.fail(RateLimited()) == FIRST_S


def test_a_server_that_says_it_loads_is_left_to_its_health_checks() -> None:
    """They find out sooner that it works again."""
    error = ProviderDown(retry_after_s=60)
    error.server_condition = "loading"
    assert Lane().fail(error) == 0
