"""How a request stands at its pool, as its agent's side knows it, and what its link is to do for that.

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

While its submission is under way, it does not hear how it stands. What has been missing, broken off or ending
for long is sent again, or ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from tokenlane.routing.contract.errors import LlmError


class RequestState(StrEnum):
    """`QUEUED`: no attempt of it is known to run. `RUNNING`: one is. `BROKEN_OFF`: the attempt that gave a part of the
    answer is over, and no other has begun. `MISSING`: the pool does not know it. `ENDING`: the pool has ended it, and
    its last messages have not come. `ENDED`: nothing more comes."""

    QUEUED = "queued"
    RUNNING = "running"
    BROKEN_OFF = "broken off"
    MISSING = "missing"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True)
class Interrupt:
    """End it in the pool for all who read it, unless another attempt than this has begun."""

    attempt: int
    position: int
    error: LlmError


Step: TypeAlias = Literal["send again", "own again"] | Interrupt
"""What its link is to do."""
