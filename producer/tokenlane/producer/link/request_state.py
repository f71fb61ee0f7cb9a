"""How a request stands at its pool, as its agent's side knows it, and what its link is to do for that.

| what happens                 | queued     | running    | broken off | missing    | ended |
|------------------------------|------------|------------|------------|------------|-------|
| a message                    | running    | running    | running    | running    | ended |
| the last message             | ended      | ended      | ended      | ended      | ended |
| messages lost                | queued     | running    | broken off | missing    | ended |
| stands queued, nothing came  | queued     | queued     | -          | queued     | ended |
| stands queued, a part came   | broken off | broken off | broken off | broken off | ended |
| stands running               | running    | running    | running    | running    | ended |
| stands ended, no worker left | ended      | ended      | ended      | ended      | ended |
| unknown to the pool          | missing    | missing    | missing    | missing    | ended |
| sent again                   | queued     | running    | broken off | queued     | ended |
| given up, or left            | ended      | ended      | ended      | ended      | ended |

While its submission is under way, it does not hear how it stands. What has been missing or broken off for long is sent
again, or ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from tokenlane.routing.contract.errors import LlmError

__all__ = ["Interrupt", "RequestState", "Step"]


class RequestState(StrEnum):
    """`QUEUED`: no attempt of it is known to run. `RUNNING`: one is. `BROKEN_OFF`: the attempt that gave a part of the
    answer is over, and no other has begun. `MISSING`: the pool does not know it. `ENDED`: nothing more comes."""

    QUEUED = "queued"
    RUNNING = "running"
    BROKEN_OFF = "broken off"
    MISSING = "missing"
    ENDED = "ended"


@dataclass(frozen=True)
class Interrupt:
    """End it in the pool for all who read it, unless another attempt than this has begun."""

    attempt: int
    position: int
    error: LlmError


Step: TypeAlias = Literal["send again", "own again"] | Interrupt
"""What its link is to do."""
