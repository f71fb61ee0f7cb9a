"""Decides whether a request is tried again, continued or ended after a failed attempt. No other module decides this.

Workers call `decide` when an attempt fails or when they shut down; routers and agents call it when a worker has died.
The caller carries out the decision.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from tokenlane.config.cli.sentences import sentence
from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import Interrupted, LlmError, RateLimited
from tokenlane.routing.contract.messages import Obstacle

from .candidates import is_same_model
from .interruptions import final
from .policy import Policy, RolePolicy

FREE_RETRIES, RETRY_MS = 10, 1_000
"""The retry budget, of which lua/shared/retry_budget.lua takes: how many retries are free of delay, besides as many as
the failed lane runs at once; and how long the budget takes to pay for one."""

_BASE_MS = 200
_CAP_MS = 30_000
_LONGEST_PAUSE_MS = 3_600_000
_LONGEST_BUDGET_DELAY_MS = 30_000
_AGENT_PAUSE_MS = 2_000
_MOST_AVOIDED = 8


@dataclass(frozen=True)
class AttemptFailed:
    """The attempt ended with an error. `reached`: whether it reached the model server. An attempt that did not reach it
    does not count as a start, and its lane has stopped accepting work. `delivered`: whether this attempt delivered part
    of the answer. `is_lacking`: whether the lane lacks what the request needs, its model or its role's plugin, so that
    another lane may serve the request. `lane_pauses`: whether its lane pauses if the model server asks for that; if
    not, the request waits."""

    error: LlmError
    reached: bool = True
    delivered: bool = False
    is_lacking: bool = False
    lane_pauses: bool = True


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
class PayloadLost:
    """The Redis server has lost the request's payload, and knows the request only from the beats of its worker."""


Cause: TypeAlias = AttemptFailed | WorkerLost | WorkerDraining | LaneStopped | PayloadLost


@dataclass(frozen=True)
class History:
    """The attempts of a request so far, as far as the caller knows them.

    `lane`: the lane of the failed attempt. `model`: the model that wrote the latest part of the answer. `starts`: how
    often the request was started, including this attempt. `crashes`: how many workers died while they ran earlier
    attempts. `delivered`: how many deltas of the answer the agent may have received. `obstacle`: why no lane can
    continue them. `restarts`: whether the agent allows that the answer begins anew. `begun_anew`: whether it has, so
    that the deltas of earlier attempts do not count as delivered. `left_ms`: the time until the request's deadline.
    """

    needs: Needs = field(default_factory=Needs)
    lane: str = ""
    model: str = ""
    starts: int = 1
    crashes: int = 0
    delivered: int = 0
    obstacle: Obstacle = ""
    restarts: bool = False
    begun_anew: bool = False
    left_ms: float = math.inf

    @property
    def has_part(self) -> bool:
        """Whether the agent may have part of an answer, even if that part is void."""
        return self.delivered > 0 or self.begun_anew

    @property
    def can_continue(self) -> bool:
        """Whether another attempt can continue the delivered part of the answer. Agents of older versions do not name
        the model that wrote this part; then no attempt can."""
        return not self.obstacle and bool(self.model)


@dataclass(frozen=True)
class End:
    """End the request with this error."""

    error: LlmError


@dataclass(frozen=True)
class TryAgain:
    """Try the request again with these needs, after `due_ms`.

    `counts`: whether the failed attempt counts as a start. `alone`: whether the next lane must run nothing else because
    this request may have killed its workers. `longest_delay_ms`: for how long the pool's retry budget may delay the
    retry; None if the retry takes nothing from the budget.
    """

    needs: Needs
    due_ms: int = 0
    counts: bool = True
    alone: bool = False
    longest_delay_ms: int | None = None


@dataclass(frozen=True)
class Forget:
    """Delete what the pool still knows of the request. An agent that has a copy of it submits it again."""


@dataclass(frozen=True)
class Continue:
    """Continue the answer on this lane, after the part that the agent has."""


@dataclass(frozen=True)
class Restart:
    """Begin the answer anew on this lane. The part that the agent has becomes void."""


Decision: TypeAlias = End | TryAgain | Forget
Resumption: TypeAlias = Continue | Restart | TryAgain | End


def decide(cause: Cause, history: History, policy: Policy) -> Decision:
    """Decide whether to try a request again after a failed attempt.

    If the agent already has part of the answer, the next attempt continues it; if no attempt can, the request ends
    unless the agent allows that the answer begins anew. If the lane failed, the next attempt runs on another lane,
    provided that one has credit.
    """
    if isinstance(cause, AttemptFailed) and not _may_succeed_next(cause, history):
        return End(cause.error)
    if isinstance(cause, PayloadLost):
        return Forget()
    if history.delivered > 0:
        if not (history.can_continue or history.restarts):
            return End(_cannot_continue(history, cause))
        history = replace(history, needs=_needs_to_continue(history))
    match cause:
        case AttemptFailed(_, reached):
            return _after_error(cause, history, policy) if reached else TryAgain(_elsewhere(history), counts=False)
        case WorkerLost(alone):
            return _after_crash(history, policy, alone=alone)
        case WorkerDraining():
            # The first start counts if the agent has part of the answer: a later start asks the agent for it.
            return TryAgain(history.needs, counts=history.starts == 1 and history.delivered > 0)
        case LaneStopped():
            return TryAgain(_elsewhere(history))
        case _:
            assert_never(cause)


def decide_resumption(history: History, role: RolePolicy, model: str, *, can_prefill: bool) -> Resumption:
    """Decide what a lane does with a request if the agent already has part of the answer from an earlier attempt.

    A lane that must not continue the answer gives the request back once, for a lane that can. If no lane can, this lane
    begins the answer anew if the agent allows that.

    Args:
        history: the attempts so far, with the answer as the agent describes it: `delivered`, `model`, `obstacle`.
        role: the policy for the request's role.
        model: the model that this lane uses for the request.
        can_prefill: whether that model can continue a partial answer.
    """
    if history.can_continue:
        is_placed = history.needs.continues == history.model
        may_use = is_same_model(history.model, model) or (role.continue_with == "any" and is_placed)
        if can_prefill and may_use:
            return Continue()
        if not is_placed:
            return TryAgain(_needs_to_continue(history), counts=False)
    if history.restarts:
        return Restart()
    return End(_cannot_continue(history))


def decide_without_handover(history: History) -> TryAgain:
    """Decide what happens to a request whose agent did not reply in time to a worker that asked how much it has.

    The agent may be cut off for a while, so the request waits, and no attempt holds a slot meanwhile. The pool cancels
    the request when the agent's beats have been missing for too long.
    """
    due_ms = min(_AGENT_PAUSE_MS, history.left_ms / 2)
    return TryAgain(history.needs, due_ms=int(due_ms), counts=False)


def _needs_to_continue(history: History) -> Needs:
    """The request's needs, with the model whose answer the next attempt continues; none if no attempt can."""
    continues = history.model if history.can_continue else None
    restarts = history.restarts and continues is not None
    return history.needs.model_copy(update={"continues": continues, "restarts": restarts})


def _may_succeed_next(failed: AttemptFailed, history: History) -> bool:
    """Whether the next attempt may succeed. A lane that lacks what the request needs gets it again only if no other
    lane has room: then the error is final."""
    return failed.error.retryable or (failed.is_lacking and history.lane not in history.needs.avoid)


def _after_error(failed: AttemptFailed, history: History, policy: Policy) -> End | TryAgain:
    """Decide after a retryable error of an attempt that reached its model server.

    The pause before the next attempt doubles with every start, with full jitter. If the model server asked for a longer
    one, the lane pauses and not the request, unless the request is of a kind for which lanes do not pause. Half of the
    time until the deadline is the limit.

    An attempt that the model server refused with a 429 did no work, so it costs no start, and the pause of the lane
    limits how often the server is asked. Other retries are taken from the pool's retry budget, unless the agent has
    part of an answer: a broken answer is never lost to the budget.
    """
    error = failed.error
    is_refused = isinstance(error, RateLimited) and failed.lane_pauses and not failed.delivered
    if not is_refused and (history.starts >= policy.max_starts or history.left_ms <= 0):
        return End(final(error) if history.has_part else error)
    pause_ms = random.uniform(0, min(_CAP_MS, _BASE_MS * 2**history.starts))
    asked_ms = 0 if failed.lane_pauses else 1000 * (error.retry_after_s or 0)
    due_ms = int(min(max(pause_ms, asked_ms), history.left_ms / 2, _LONGEST_PAUSE_MS))
    if is_refused:
        return TryAgain(_elsewhere(history), due_ms, counts=False)
    longest_delay_ms = None if history.has_part else int(min(_LONGEST_BUDGET_DELAY_MS, history.left_ms / 2))
    return TryAgain(_elsewhere(history), due_ms, longest_delay_ms=longest_delay_ms)


def decide_without_budget(error: LlmError) -> End:
    """Decide what happens to a request that would be tried again after this error, if the pool's retry budget does not
    allow that in time. Its agent has no part of an answer."""
    report = error.report()
    reason = "The request was not tried again, because too many requests of the pool fail at present."
    message = f"{sentence(report.message)} {reason}"
    return End(LlmError.from_report(report.model_copy(update={"message": message})))


def _elsewhere(history: History) -> Needs:
    """The request's needs, with the failed lane as the latest of the lanes to avoid."""
    others = [lane for lane in history.needs.avoid if lane != history.lane]
    return history.needs.model_copy(update={"avoid": (*others, history.lane)[-_MOST_AVOIDED:]})


def _after_crash(history: History, policy: Policy, *, alone: bool) -> End | TryAgain:
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
    return End(Interrupted(f"{crashes} workers died while they ran this request; {blame}."))


_OBSTACLES: Mapping[Obstacle, str] = {
    "": "because the agent's version of tokenlane does not hand over the text",
    "tool_call": "because a tool call had begun",
    "reasoning": "because the model had only reasoned so far",
    "schema": "because it must match a schema",
    "part": "because the agent lacks its first part",
}
"""Why no lane can continue an answer, as the end of a sentence."""


def _cannot_continue(history: History, cause: Cause | None = None) -> Interrupted:
    """The error that ends a request whose answer broke off and that no attempt can continue. `cause`: why the answer
    broke off, if that is known."""
    why = "on this lane" if history.can_continue else _OBSTACLES[history.obstacle]
    message = f"{_how_broken(cause)} It cannot be continued {why}: send the request again."
    broken = Interrupted(message)
    if isinstance(cause, AttemptFailed):
        error = cause.error
        broken.detail = error.detail
        broken.at(provider=error.provider, lane=error.lane, model=error.model)
    return broken.at(lane=history.lane or None, model=history.model or None)


def _how_broken(cause: Cause | None) -> str:
    """How the answer broke off, as a sentence."""
    match cause:
        case AttemptFailed(error):
            return sentence(f"The answer broke off: {error.message}")
        case WorkerDraining():
            return "The worker was shut down before the answer was complete."
        case WorkerLost():
            return "The worker died or lost its connection before the answer was complete."
        case _:
            return "The answer broke off."


def may_submit_again(has_copy: bool, *, has_ended: bool, has_progressed: bool = False) -> bool:
    """Whether an agent with a copy of a request should submit it again: if the Redis server has lost the request, or if
    the request has ended and no worker keeps the rest of the answer. The answer is then continued. To end at some time,
    an agent asks for the rest again only if more of the answer has arrived since it last did (`has_progressed`)."""
    return has_copy and (has_progressed or not has_ended)
