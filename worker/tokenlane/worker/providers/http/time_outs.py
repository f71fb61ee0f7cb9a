"""How long each part of a back end's streamed answer is waited for. What a lane can set of it is in its settings."""

from __future__ import annotations

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import Timeout

from .reading import Reading

# After the finish mark only the usage is missing, after the last event only the end of the body, which lets the
# connection be used again. Neither is worth a failure or a long wait.
USAGE_GRACE_S = 5.0
CLOSE_GRACE_S = 0.2
# An answer that was cut at a stop word has ended on most servers too, which then say what it cost.
STOPPED_GRACE_S = 1.0


def next_piece_s(lane: LaneSettings, answer: Reading) -> float:
    """How long the next piece of an answer that has begun may take."""
    if answer.done:
        return CLOSE_GRACE_S
    if answer.ending:
        return min(USAGE_GRACE_S, lane.token_timeout_s)
    return lane.token_timeout_s


def overdue(lane: LaneSettings, answer: Reading, waited_s: float) -> Timeout:
    """The error of an answer of which a part did not come in time, so many seconds after it was asked for."""
    if waited_s >= lane.total_timeout_s:
        return Timeout(f"The answer was not whole after {lane.total_timeout_s:g} s.")
    what, limit_s = ("next", lane.token_timeout_s) if answer.begun else ("first", lane.first_token_timeout_s)
    return Timeout(f"The back end sent no {what} token within {limit_s:g} s.")
