"""How an attempt ended: its outcome and the code for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.attempt_end import NotResumedReason
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.results import Result
from tokenlane.routing.decide.recovery import End, TryAgain
from tokenlane.worker.lane.running_attempts import Stopped


@dataclass(frozen=True)
class Answered:
    """The attempt completed the answer. `result` holds it, unless the request is a chat: its answer was streamed."""

    usage: Usage
    result: Result | None = None


class NotResumed(Exception):
    """The attempt gives no output: the agent may have part of the answer, and this attempt cannot continue it.

    `why`: what prevents that. `decision`: what becomes of the request.
    """

    __match_args__ = ("decision",)

    def __init__(self, why: NotResumedReason, decision: End | TryAgain) -> None:
        super().__init__(why)
        self.why: NotResumedReason = why
        self.decision = decision


AttemptOutcome: TypeAlias = Answered | LlmError | Stopped | NotResumed
"""How an attempt ended: it completed its answer, failed, was stopped, or did not resume the answer."""


def code_of(outcome: AttemptOutcome) -> str:
    """Why the attempt ended: the code of its error, or a code of `contract/attempt_end.py`; '' if it completed its
    answer."""
    match outcome:
        case LlmError():
            return outcome.code
        case Stopped(reason):
            return reason
        case NotResumed():
            return outcome.why
        case Answered():
            return ""
