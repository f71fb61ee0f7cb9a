"""The counters that a worker sends with every beat, for status and metrics. No script reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import Field

from .wire import WIRE_VERSION, Value

Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]


class Hits(Value):
    """Vectors that the cache was asked for, and those it had (`found`)."""

    found: Count = 0
    asked: Count = 0


class AttemptsReport(Value):
    """How attempts ended. `ended`: by `KIND:STATE OF THE REQUEST`; `errors`: broken attempts by error code."""

    ended: Mapping[str, Count] = {}
    errors: Mapping[str, Count] = {}
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class DeliveryReport(Value):
    """How output was published: flushes, messages in them, and replays for agents that lacked some."""

    flushes: Count = 0
    messages: Count = 0
    replays: Count = 0
    kept_bytes: Count = 0


class WorkerReport(Value):
    """Counters since the worker started. A new counter is a field here and the code that fills it. Every field has a
    default, since workers of other versions may not send it."""

    v: int = WIRE_VERSION
    cache: Hits = Hits()
    internal_errors: Count = 0
    attempts: AttemptsReport = AttemptsReport()
    delivery: DeliveryReport = DeliveryReport()
