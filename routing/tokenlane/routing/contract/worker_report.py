"""The counters that a worker sends with every beat, for `tokenlane status` and metrics. Redis scripts ignore them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from .wire import WIRE_VERSION, Value

Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]
Code: TypeAlias = Annotated[str, Field(max_length=128)]
_FEW = Field(max_length=256)
"""Limits counts by name. Workers count a few dozen names, so no worker sends a report with more."""

BreakerState: TypeAlias = Literal["closed", "open", "half-open"]
"""The state of a worker's circuit breaker. `open`: its model server failed most requests, so none starts now.
`half-open`: one request at a time does, to see whether the server works again."""


class Hits(Value):
    """`asked`: how many vectors the worker looked up in its cache; `found`: how many of these the cache had."""

    found: Count = 0
    asked: Count = 0


class AttemptsReport(Value):
    """The worker's attempts.

    `ended`: the number of attempts for each `KIND:STATE`, where STATE is the request's state after the attempt;
    `errors`: the number of failed attempts for each error code; `failing`: the number of attempts that the model server
    failed since the newest completed attempt, for each error code. `failing_code`: the error code of the newest of
    these; `failing_ms`: how many ms before the beat that attempt ended. `continued`: the number of attempts that
    continued an answer; `wasted_deltas`: the number of deltas of cancelled or expired requests that no agent received.
    """

    ended: Annotated[Mapping[Code, Count], _FEW] = {}
    errors: Annotated[Mapping[Code, Count], _FEW] = {}
    failing: Annotated[Mapping[Code, Count], _FEW] = {}
    failing_code: Code = ""
    failing_ms: Count = 0
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    continued: Count = 0
    wasted_deltas: Count = 0


class DeliveryReport(Value):
    """The output that the worker published. Each flush publishes several messages together, each with `deltas` of one
    answer. `replays`: how often an agent that missed messages asked for them again; `kept_bytes`: the bytes kept now
    for such replays. `dropped`: how many messages to the worker were dropped because it could not read them."""

    flushes: Count = 0
    messages: Count = 0
    deltas: Count = 0
    replays: Count = 0
    kept_bytes: Count = 0
    dropped: Count = 0


class WorkerReport(Value):
    """Counts since the worker started. Every field has a default, since workers of other versions may leave it out.

    `silent_ms`: for how long, at the beat, the worker has run chats without a new token; None if it runs no chat.
    `plugins`: the prompt plugins that it can use, as policies name them; None if it does not know yet, has too many to
    list, or is of an older version.
    """

    v: int = WIRE_VERSION
    cache: Hits = Hits()
    internal_errors: Count = 0
    attempts: AttemptsReport = AttemptsReport()
    delivery: DeliveryReport = DeliveryReport()
    breaker: BreakerState = "closed"
    silent_ms: Count | None = None
    plugins: Annotated[tuple[Annotated[str, Field(max_length=128)], ...], _FEW] | None = None

    @property
    def tells_silence(self) -> bool:
        """Whether the worker's version reports `silent_ms`, be it None."""
        return "silent_ms" in self.model_fields_set
