"""What becomes of a request whose attempt failed. Decided here and nowhere else.

That a back end could not even be reached is an attempt's failure only after its client has tried to connect again for
under a second.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TypeAlias

from tokenlane.routing.contract.errors import LlmError

__all__ = ["Budget", "Decision", "Fail", "Requeue", "decide"]

_BASE_MS = 200
_CAP_MS = 30_000


@dataclass(frozen=True)
class Budget:
    """What is left to a request. `starts`: how often it has been started; `delivered`: deltas its agent may have.

    `reached`: the attempt got as far as its back end. One that did not is none: its lane was not ready, and takes no
    new work by now.
    """

    starts: int
    max_starts: int
    delivered: int
    left_ms: int
    reached: bool = True


@dataclass(frozen=True)
class Requeue:
    """Give it back to the queue, to wait `due_ms` before any lane may have it. `counts`: as one of its starts."""

    due_ms: int
    counts: bool = True


@dataclass(frozen=True)
class Fail:
    """End it with this error."""

    error: LlmError


Decision: TypeAlias = Requeue | Fail


def decide(error: LlmError, budget: Budget) -> Decision:
    """Choose for one failed attempt.

    What is not retryable fails. So does what the agent has seen a part of: a second attempt would say something else.
    Pauses double with every start, with full jitter; a `retry_after_s` is a lower bound. What could not start again
    before its deadline fails now. What did not reach its back end waits again at once, as if it had not been started.
    """
    if not error.retryable or budget.delivered > 0:
        return Fail(error)
    if not budget.reached:
        return Requeue(0, counts=False)
    if budget.starts >= budget.max_starts:
        return Fail(error)
    pause_ms = random.uniform(0, min(_CAP_MS, _BASE_MS * 2**budget.starts))
    due_ms = max(pause_ms, 1000 * (error.retry_after_s or 0))
    if due_ms >= budget.left_ms:
        return Fail(error)
    return Requeue(int(due_ms))
