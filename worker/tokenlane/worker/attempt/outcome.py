"""How an attempt ended, and what became of its request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.results import Result
from tokenlane.routing.store.request_life import Ending
from tokenlane.worker.lane.running_attempts import Stopped


@dataclass(frozen=True)
class Answered:
    """The back end has given the whole answer. `result`: the answer to a request that is no chat."""

    usage: Usage
    result: Result | None = None


Outcome: TypeAlias = Answered | LlmError | Stopped
"""How an attempt ended: the answer is whole, the attempt failed, or it was stopped."""

Became: TypeAlias = Ending | Literal["requeued", "left"]
"""What became of the request. `left`: to a newer attempt, or to its lease."""
