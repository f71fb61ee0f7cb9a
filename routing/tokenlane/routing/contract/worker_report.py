"""The counters that a worker sends with every beat, for `tokenlane status` and metrics. No script reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import Field

from .wire import WIRE_VERSION, Value

Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]


class Hits(Value):
    """How many vectors were looked up in the cache (`asked`), and how many of them were in it (`found`)."""

    found: Count = 0
    asked: Count = 0


class AttemptsReport(Value):
    """How many attempts ended in which way. `ended`: keyed by `KIND:STATE`, the state being the request's after the
    attempt; `errors`: failed attempts, keyed by error code."""

    ended: Mapping[str, Count] = {}
    errors: Mapping[str, Count] = {}
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class DeliveryReport(Value):
    """How output was published: flushes, the messages in them, replays for agents that missed messages, and the bytes
    kept for replays."""

    flushes: Count = 0
    messages: Count = 0
    replays: Count = 0
    kept_bytes: Count = 0


class WorkerReport(Value):
    """Counters since the worker started. Every field has a default, since workers of other versions may not send it."""

    v: int = WIRE_VERSION
    cache: Hits = Hits()
    internal_errors: Count = 0
    attempts: AttemptsReport = AttemptsReport()
    delivery: DeliveryReport = DeliveryReport()
