"""What a worker tells of itself with every beat, for those who watch the pool. No script looks inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import Field

from .wire import WIRE_VERSION, Value

Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]


class Hits(Value):
    """What a cache of vectors was asked for: vectors that were there, and in all."""

    found: Count = 0
    asked: Count = 0


class AttemptsReport(Value):
    """How attempts ended: by `KIND:WHAT BECAME OF THE REQUEST`, and those that broke by the code of why."""

    ended: Mapping[str, Count] = {}
    errors: Mapping[str, Count] = {}
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class DeliveryReport(Value):
    """How output was published: flushes, the messages in them, and what agents asked for again."""

    flushes: Count = 0
    messages: Count = 0
    replays: Count = 0
    kept_bytes: Count = 0


class WorkerReport(Value):
    """Counts since the worker started. A counter to come is a field here, and what fills it: every field has a default,
    since workers of other versions send fewer."""

    v: int = WIRE_VERSION
    cache: Hits = Hits()
    internal_errors: Count = 0
    attempts: AttemptsReport = AttemptsReport()
    delivery: DeliveryReport = DeliveryReport()
