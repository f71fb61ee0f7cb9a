"""The reply of lua/snapshot.lua by names, where each part of it is described."""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

from pydantic import TypeAdapter

from tokenlane.routing.contract.wire import Kind


class QueueReply(NamedTuple):
    name: str
    waiting: int
    oldest_ms: int


class Job(NamedTuple):
    state: Literal["running", "dispatched"]
    worker: str
    role: str
    priority: str
    kind: Kind


class LaneReply(NamedTuple):
    known: list[str | int | None]
    jobs: list[Job]


class WorkerReply(NamedTuple):
    name: str
    beat: int
    takes_new_work: bool
    lane: str
    host: str | None
    versions: str | None
    revision: str | None
    error: str
    error_at: int
    report: str
    keys: str | None
    told: str
    why: str


class RouterReply(NamedTuple):
    name: str
    beat: int
    revision: str | None
    survived: int


class ClientsReply(NamedTuple):
    known: int
    silent: int


class Count(NamedTuple):
    role: str
    priority: str
    what: str
    requests: int


class RatesReply(NamedTuple):
    window_ms: int
    counts: list[Count]


class KeysReply(NamedTuple):
    sealing: str
    retiring: str
    prepared: str


class SnapshotReply(NamedTuple):
    now: int
    revision: int
    document: str | None
    queues: list[QueueReply]
    lanes: list[LaneReply]
    workers: list[WorkerReply]
    routers: list[RouterReply]
    clients: ClientsReply
    rates: RatesReply
    delayed: int
    swept: int
    keys: KeysReply
    lane_facts: list[str]


def decoded(answer: object) -> SnapshotReply:
    """The answer of the script, read."""
    return _adapter().validate_python(_as_text(answer))


@cache
def _adapter() -> TypeAdapter[SnapshotReply]:
    return TypeAdapter(SnapshotReply)


def _as_text(answer: object) -> object:
    """The answer with text for bytes, which pydantic takes for no literal."""
    if isinstance(answer, list):
        return [_as_text(part) for part in answer]
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
