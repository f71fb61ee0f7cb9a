"""Decides whether a request is tried again or ends after an attempt has failed. No other module decides this.

Workers call `decide` when an attempt fails or when they shut down; routers and agents call it when a worker has died.
The caller carries out the decision.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import Interrupted, LlmError, ProviderDown, RequestLost, UnreadableAnswer
from tokenlane.routing.contract.messages import Obstacle

from .policy import Policy

_BASE_MS = 200
_CAP_MS = 30_000
_MOST_AVOIDED = 8

_BREAKS_OFF = RequestLost | ProviderDown | UnreadableAnswer
"""Errors that count as interruptions of an answer, in addition to retryable errors."""


@dataclass(frozen=True)
class AttemptFailed:
    """The attempt ended with an error. `reached`: whether it reached the model server. An attempt that did not reach it
    does not count as a start, and its lane has stopped accepting work."""

    error: LlmError
    reached: bool = True


@dataclass(frozen=True)
class WorkerLost:
    """The worker died or lost its connection to Redis while it ran the request. `alone`: whether its lane ran nothing
    else."""

    alone: bool = False


@dataclass(frozen=True)
class WorkerDraining:
    """The worker is shutting down."""


@dataclass(frozen=True)
class LaneStopped:
    """No worker of the lane started the attempt in time."""


@dataclass(frozen=True)
class PoolForgot:
    """The Redis server has lost the request."""


Cause: TypeAlias = AttemptFailed | WorkerLost | WorkerDraining | LaneStopped | PoolForgot


@dataclass(frozen=True)
class History:
    """The attempts of a request so far, as far as the caller knows them.

    `lane` and `model`: those of the failed attempt. `starts`: how often the request was started, with this attempt.
    `crashes`: how many workers died while they ran earlier attempts. `delivered`: how many deltas the agent may have
    received. `obstacle`: why no lane can continue them. `restarts`: whether the agent allows that the answer begins
    anew. `left_ms`: the time until the request's deadline.
    """

    needs: Needs = field(default_factory=Needs)
    lane: str = ""
    model: str = ""
    starts: int = 1
    crashes: int = 0
    delivered: int = 0
    obstacle: Obstacle = ""
    restarts: bool = False
    left_ms: float = math.inf


@dataclass(frozen=True)
class End:
    """End the request with this error."""

    error: LlmError


@dataclass(frozen=True)
class TryAgain:
    """Try the request again with these needs, after `due_ms`. `counts`: whether the failed attempt counts as a start.
    `alone`: whether the next lane must run nothing else, because this request may have killed its workers."""

    needs: Needs
    due_ms: int = 0
    counts: bool = True
    alone: bool = False


Decision: TypeAlias = End | TryAgain


def decide(cause: Cause, history: History, policy: Policy) -> Decision:
    """Decide whether to try a request again after a failed attempt.

    If the agent already has part of the answer, the request ends, since another attempt would give a different answer.
    If the lane failed, the next attempt runs on another lane, provided that one has credit.
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
    """Decide after an error. The pause before the next attempt doubles with every start, with full jitter, and is at
    least `retry_after_s`. If it would end after the deadline, the request ends now. If the attempt did not reach its
    model server, the request waits again without a pause, and the attempt does not count as a start.
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
    """The request's needs, with the failed lane as the latest of the lanes to avoid."""
    others = [lane for lane in history.needs.avoid if lane != history.lane]
    return history.needs.model_copy(update={"avoid": (*others, history.lane)[-_MOST_AVOIDED:]})


def _after_crash(history: History, policy: Policy, *, alone: bool) -> Decision:
    """Decide after a worker's death. A crash counts against every request that the worker ran, so the last attempt of a
    request runs alone on its lane: if that worker dies, too, the request is probably the cause."""
    crashes = history.crashes + 1
    if crashes < policy.max_crashes:
        return TryAgain(history.needs, alone=crashes + 1 >= policy.max_crashes)
    blame = (
        "the last of them ran nothing else, so the request is probably the cause: read the workers' logs before you "
        "send it again"
        if alone
        else "they also ran other requests, which may be the cause: send the request again"
    )
    return End(Interrupted(f"{crashes} workers died while they ran this request; {blame}"))


def _interruption(cause: Cause, lane: str) -> LlmError:
    """The error that ends a request if part of its answer was delivered."""
    match cause:
        case AttemptFailed(error):
            if isinstance(error, Interrupted) and error.retryable:
                final = Interrupted(error.message, detail=error.detail)
                return final.at(provider=error.provider, lane=error.lane, model=error.model)
            return error
        case WorkerDraining():
            return Interrupted(
                "the worker was shut down before the answer was complete: send the request again", lane=lane
            )
        case WorkerLost() | LaneStopped():
            return answer_lost("worker")
        case PoolForgot():
            return RequestLost()
        case _:
            assert_never(cause)


def as_interruption(error: LlmError) -> LlmError:
    """The error that an agent raises if it already has part of the answer: an `Interrupted`, unless the request itself
    is the cause of the error."""
    broke_off = error.retryable or isinstance(error, _BREAKS_OFF) or type(error) is LlmError
    if isinstance(error, Interrupted) or not broke_off:
        return error
    interrupted = Interrupted(f"the answer broke off: {error.message}")
    interrupted.at(provider=error.provider, lane=error.lane, model=error.model)
    interrupted.__cause__ = error
    return interrupted


_LOST = {
    "restarted": "a new attempt restarted the answer for another client of this request: send the request again",
    "part": "part of the answer did not arrive, and its worker no longer keeps that part: send the request again",
    "worker": "the worker died or lost its connection before the answer was complete: send the request again",
    "end": "the end of the answer did not arrive, and no worker keeps it any longer: send the request again",
}


def answer_lost(what: Literal["restarted", "part", "worker", "end"]) -> Interrupted:
    """The error for an agent that can no longer get the whole answer."""
    return Interrupted(_LOST[what])


def may_submit_again(has_copy: bool, delivered: int) -> bool:
    """Whether an agent should submit a request again after the Redis server has lost it: if the agent has a copy of the
    request, and no part of the answer was delivered, since another attempt would give a different answer."""
    return has_copy and delivered == 0
