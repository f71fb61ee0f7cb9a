"""The outcome of an attempt, and what becomes of its request."""

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
    """The attempt completed the answer. `result` holds it, unless the request is a chat: its answer was streamed."""

    usage: Usage
    result: Result | None = None


AttemptOutcome: TypeAlias = Answered | LlmError | Stopped
"""How an attempt ended: it completed its answer, failed, or was stopped."""

RequestOutcome: TypeAlias = Ending | Literal["requeued", "left"]
"""What became of the request. `left`: another attempt runs it, or a router recovers it when its lease runs out."""
