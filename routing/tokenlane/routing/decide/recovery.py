"""Decides what becomes of a request whose attempt broke: it ends or is tried again. Nothing else decides that.

Workers ask when one of their attempts fails or they shut down; routers and agents ask when a worker died. The caller
carries the decision out.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import Interrupted, LlmError, ProviderDown, RequestLost, UnreadableAnswer

from .policy import Policy

_BASE_MS = 200
_CAP_MS = 30_000
_MOST_AVOIDED = 8

_BREAKS_OFF = RequestLost | ProviderDown | UnreadableAnswer
"""Errors that interrupt an answer, besides retryable ones."""


@dataclass(frozen=True)
class AttemptFailed:
    """The attempt ended with an error. `reached`: it reached its back end. Otherwise it does not count as a start: its
    lane was not ready, and has stopped taking new work."""

    error: LlmError
    reached: bool = True


@dataclass(frozen=True)
class WorkerLost:
    """The worker died or lost its connection while it ran the request. `alone`: it ran nothing else."""

    alone: bool = False


@dataclass(frozen=True)
class WorkerDraining:
    """The worker is shutting down."""


@dataclass(frozen=True)
class LaneStopped:
    """No worker of the lane started the attempt in time."""


@dataclass(frozen=True)
class PoolForgot:
    """The server has lost the request."""


Cause: TypeAlias = AttemptFailed | WorkerLost | WorkerDraining | LaneStopped | PoolForgot


@dataclass(frozen=True)
class History:
    """The attempts so far, as far as the caller knows them.

    `lane`: where the attempt broke. `starts`: how often the request was started, this attempt included. `crashes`: how
    many workers died while they ran it, before this attempt. `delivered`: deltas that its agent may have received.
    `left_ms`: until the request's deadline.
    """

    needs: Needs = field(default_factory=Needs)
    lane: str = ""
    starts: int = 1
    crashes: int = 0
    delivered: int = 0
    left_ms: float = math.inf


@dataclass(frozen=True)
class End:
    """End it with this error."""

    error: LlmError


@dataclass(frozen=True)
class TryAgain:
    """Start the request again, on a lane that meets these needs, after `due_ms`. `counts`: the broken attempt counts as
    a start. `alone`: on a lane that runs nothing else, because the request may be what kills workers."""

    needs: Needs
    due_ms: int = 0
    counts: bool = True
    alone: bool = False


Decision: TypeAlias = End | TryAgain


def decide(cause: Cause, history: History, policy: Policy) -> Decision:
    """Decide about one broken attempt.

    If the agent has a part of the answer, the request ends: a second attempt would give another answer. If the lane
    failed, the request is tried on another lane, as long as one has credit.
    """
    if history.delivered > 0:
        return End(_interruption(cause, history.lane))
    match cause:
        case AttemptFailed(error, reached):
            return _after_error(error, history, policy, reached=reached)
        case WorkerLost(alone):
            return _after_crash(history, policy, alone=alone)
        case WorkerDraining():
            return TryAgain(history.needs)
        case LaneStopped():
            return TryAgain(_elsewhere(history))
        case PoolForgot():
            return End(RequestLost())
        case _:
            assert_never(cause)


def _after_error(error: LlmError, history: History, policy: Policy, *, reached: bool) -> Decision:
    """Pauses double with every start, with full jitter; `retry_after_s` is a lower bound. A request that could not
    start again before its deadline ends now. A request that did not reach its back end waits again at once, and that
    attempt does not count.
    """
    if not error.retryable:
        return End(error)
    if not reached:
        return TryAgain(_elsewhere(history), counts=False)
    if history.starts >= policy.max_starts:
        return End(error)
    pause_ms = random.uniform(0, min(_CAP_MS, _BASE_MS * 2**history.starts))
    due_ms = max(pause_ms, 1000 * (error.retry_after_s or 0))
    if due_ms >= history.left_ms:
        return End(error)
    return TryAgain(_elsewhere(history), due_ms=int(due_ms))


def _elsewhere(history: History) -> Needs:
    """The request's needs, with the lane that failed among the lanes to avoid."""
    others = [lane for lane in history.needs.avoid if lane != history.lane]
    return history.needs.model_copy(update={"avoid": (*others, history.lane)[-_MOST_AVOIDED:]})


def _after_crash(history: History, policy: Policy, *, alone: bool) -> Decision:
    """A crash counts against every request that the worker ran. So the last try of a request is alone on its lane: if
    that worker dies too, the request is to blame."""
    crashes = history.crashes + 1
    if crashes < policy.max_crashes:
        return TryAgain(history.needs, alone=crashes + 1 >= policy.max_crashes)
    blame = (
        ", the last of them while it ran nothing else"
        if alone
        else "; they also ran others, and another request may be to blame: send it again"
    )
    return End(Interrupted(f"{crashes} workers died while they ran this request{blame}"))


def _interruption(cause: Cause, lane: str) -> LlmError:
    """The error that ends a request of which a part was delivered."""
    match cause:
        case AttemptFailed(error):
            if isinstance(error, Interrupted) and error.retryable:
                final = Interrupted(error.message, detail=error.detail)
                return final.at(provider=error.provider, lane=error.lane, model=error.model)
            return error
        case WorkerDraining():
            return Interrupted("the worker was shut down in the middle of the answer: send it again", lane=lane)
        case WorkerLost() | LaneStopped():
            return answer_lost("worker")
        case PoolForgot():
            return RequestLost()
        case _:
            assert_never(cause)


def error_with_a_part(error: LlmError) -> LlmError:
    """The error that an agent raises if it has a part of the answer: `Interrupted`, unless the request itself is to
    blame."""
    broke_off = error.retryable or isinstance(error, _BREAKS_OFF) or type(error) is LlmError
    if isinstance(error, Interrupted) or not broke_off:
        return error
    interrupted = Interrupted(f"the answer broke off: {error.message}")
    interrupted.at(provider=error.provider, lane=error.lane, model=error.model)
    interrupted.__cause__ = error
    return interrupted


_LOST = {
    "begun anew": "the answer was started again for another client that is attached to it: ask again",
    "part": "a part of the answer was lost, and its worker no longer has it: ask again",
    "worker": "the worker that ran it went away after a part of the answer was delivered: send it again",
    "end": "the end of the answer was lost, and no worker has it any more: ask again",
}


def answer_lost(what: Literal["begun anew", "part", "worker", "end"]) -> Interrupted:
    """The error of an agent that can no longer get the whole answer."""
    return Interrupted(_LOST[what])


def may_submit_again(has_copy: bool, delivered: int) -> bool:
    """Whether an agent submits a request again that the server has lost. The agent has the last copy; but after a part
    of the answer, a second attempt would give another answer."""
    return has_copy and delivered == 0
