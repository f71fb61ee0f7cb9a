"""The states of a request as its reader knows them, and the steps that its link takes.

| what happens          | queued  | running | missing | ending  | ended |
|-----------------------|---------|---------|---------|---------|-------|
| a message             | running | running | running | running | ended |
| the last message      | ended   | ended   | ended   | ended   | ended |
| a gap in the messages | queued  | running | missing | ending  | ended |
| queued in the pool    | queued  | queued  | queued  | queued  | ended |
| running in the pool   | running | running | running | running | ended |
| ended in the pool     | ending  | ending  | ending  | ending  | ended |
| unknown to the pool   | missing | missing | missing | missing | ended |
| submitted again       | queued  | running | queued  | ending  | ended |
| given up or left      | ended   | ended   | ended   | ended   | ended |

Whether part of the answer has arrived makes no difference: an answer that broke off is queued until a lane continues
it. While the request is being sent, its status in the pool is ignored, since it is outdated. A request that stays
missing or ending is submitted again or ended. If no worker keeps the end of a complete answer, the request becomes
missing, and stays so until the pool has accepted it again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias


class RequestState(StrEnum):
    """The state of a request.

    `QUEUED`: no attempt runs, as far as the reader knows. `RUNNING`: an attempt runs. `MISSING`: the pool does not know
    the request, or no worker keeps the end of its answer. `ENDING`: the pool has ended the request, but its last
    messages have not arrived. `ENDED`: no more messages are expected.
    """

    QUEUED = "queued"
    RUNNING = "running"
    MISSING = "missing"
    ENDING = "ending"
    ENDED = "ended"


Step: TypeAlias = Literal["resubmit", "reclaim"]
"""What the link must do with the pool: submit the request again, or attach to it again."""
