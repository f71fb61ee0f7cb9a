"""The states of a request in a Redis pool, as its reader knows them, and the steps that its link takes.

| what happens                | queued     | running    | broken off | missing    | ending     | ended |
|-----------------------------|------------|------------|------------|------------|------------|-------|
| a message                   | running    | running    | running    | running    | running    | ended |
| the last message            | ended      | ended      | ended      | ended      | ended      | ended |
| messages lost               | queued     | running    | broken off | missing    | ending     | ended |
| stands queued, nothing came | queued     | queued     | -          | queued     | queued     | ended |
| stands queued, a part came  | broken off | broken off | broken off | broken off | broken off | ended |
| stands running              | running    | running    | running    | running    | running    | ended |
| stands ended                | ending     | ending     | ending     | ending     | ending     | ended |
| unknown to the pool         | missing    | missing    | missing    | missing    | missing    | ended |
| sent again                  | queued     | running    | broken off | queued     | ending     | ended |
| given up, or left           | ended      | ended      | ended      | ended      | ended      | ended |

While the request is being sent, reports of its state are ignored, since they are outdated. A request that stays
missing, broken off or ending is sent again or ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Literal, NamedTuple, TypeAlias

from tokenlane.routing.contract.errors import LlmError


class RequestState(StrEnum):
    """`QUEUED`: no running attempt is known. `RUNNING`: one is. `BROKEN_OFF`: the attempt that gave a part of the
    answer is over, and no other has begun. `MISSING`: the pool does not know the request. `ENDING`: the pool has ended
    the request, and its last messages have not come. `ENDED`: nothing more comes."""

    QUEUED = "queued"
    RUNNING = "running"
    BROKEN_OFF = "broken off"
    MISSING = "missing"
    ENDING = "ending"
    ENDED = "ended"


class Interrupt(NamedTuple):
    """End the request for all its readers, unless an attempt after this one has begun."""

    attempt: int
    position: int
    error: LlmError


Step: TypeAlias = Literal["send again", "own again"] | Interrupt
"""What the link is to do with the pool."""


@dataclass(eq=False)
class ReplayRequest:
    """Asks the worker of one attempt, every `every_s` until something comes, to publish again what has not come."""

    worker: str
    attempt: int
    every_s: float
    due_at: float = 0
    first_sent_at: float = inf

    def sent(self, now: float) -> None:
        """It was published, for the first time or again."""
        self.first_sent_at = min(self.first_sent_at, now)
