"""What becomes of a request whose attempt broke: it ends, is tried again, or is continued. Nothing else decides that.

Workers ask when an attempt of theirs fails or they shut down, routers and agents when a worker died. Pure: whoever asks
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
"""Errors that break off an answer which has begun, besides those worth another try."""


@dataclass(frozen=True)
class AttemptFailed:
    """The attempt ended with an error. `reached`: it got as far as its back end. One that did not is no try: its lane
    was not ready, and takes no new work by now."""

    error: LlmError
    reached: bool = True


@dataclass(frozen=True)
class WorkerLost:
    """The worker died, or was cut off, while it ran the request. `alone`: it ran nothing else."""

    alone: bool = False


@dataclass(frozen=True)
class WorkerDraining:
    """The worker shuts down."""


@dataclass(frozen=True)
class LaneStopped:
    """No worker of the lane started the attempt in time."""


@dataclass(frozen=True)
class PoolForgot:
    """The server has lost the request."""


Cause: TypeAlias = AttemptFailed | WorkerLost | WorkerDraining | LaneStopped | PoolForgot


@dataclass(frozen=True)
class History:
    """What was tried so far, as far as who asks knows it.

    `lane`: of the attempt that broke. `starts`: how often the request was started, that attempt included. `crashes`:
    how many workers died while they ran it, before that. `delivered`: deltas its agent may have.
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
    """Run it anew, on a lane that meets these needs, after `due_ms`. `counts`: the attempt that broke is one of its
    starts. `alone`: on a lane that runs nothing else, for the request may be what kills workers."""

    needs: Needs
    due_ms: int = 0
    counts: bool = True
    alone: bool = False


Decision: TypeAlias = End | TryAgain


def decide(cause: Cause, history: History, policy: Policy) -> Decision:
    """Choose for one broken attempt.

    Of what the agent has seen a part a second attempt would say something else: the request ends. What is tried again
    since its lane failed is for another lane, if one has credit.
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
    """Pauses double with every start, with full jitter; a `retry_after_s` is a lower bound. What could not start again
    before its deadline ends now. What did not reach its back end waits again at once, as if it had not been started.

    That a back end could not be connected to is an attempt's failure only after its client has tried again for under a
    second.
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
    """The request's needs, to be met by another lane than the one that failed, if one can."""
    needs = history.needs
    others = [lane for lane in needs.avoid if lane != history.lane]
    return needs.model_copy(update={"avoid": (*others, history.lane)[-_MOST_AVOIDED:]})


def _after_crash(history: History, policy: Policy, *, alone: bool) -> Decision:
    """All that a dying worker runs is counted as crashed, so before its last try a request runs alone: who dies then is
    to blame."""
    crashes = history.crashes + 1
    if crashes < policy.max_crashes:
        return TryAgain(history.needs, alone=crashes + 1 >= policy.max_crashes)
    blame = (
        ", the last of them while it ran nothing else"
        if alone
        else "; it was not alone there, and another request may be to blame: send it again"
    )
    return End(Interrupted(f"given up: {crashes} workers died while running it{blame}"))


def _interruption(cause: Cause, lane: str) -> LlmError:
    """What ends a request of which a part was delivered. Where that is an error, agents see it as
    `seen_with_a_part`."""
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


def seen_with_a_part(error: LlmError) -> LlmError:
    """How an agent that has a part of the answer sees the error the request ended with: as `Interrupted`, where it says
    nothing of the request itself."""
    broke_off = error.retryable or isinstance(error, _BREAKS_OFF) or type(error) is LlmError
    if isinstance(error, Interrupted) or not broke_off:
        return error
    interrupted = Interrupted(f"the answer broke off: {error.message}")
    interrupted.at(provider=error.provider, lane=error.lane, model=error.model)
    interrupted.__cause__ = error
    return interrupted


_LOST = {
    "begun anew": "the answer was begun anew, for another client that is attached to it: ask again",
    "part": "a part of the answer was lost and its worker does not have it: ask again",
    "worker": "the worker that ran it went away after a part of the answer was delivered: send it again",
    "end": "the end of the answer was lost and no worker has it any more: ask again",
}


def answer_lost(what: Literal["begun anew", "part", "worker", "end"]) -> Interrupted:
    """The error of an agent that cannot get the answer whole any more, though no attempt broke."""
    return Interrupted(_LOST[what])


def may_submit_again(has_copy: bool, delivered: int) -> bool:
    """Whether an agent submits a request that the server has lost again, under its id. It is the last copy; but of an
    answer that has begun, a second attempt would say something else."""
    return has_copy and delivered == 0
