"""The reply of lua/snapshot.lua as named tuples. The comment at the top of the script describes each part."""

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
    accepts_new_work: bool
    lane: str
    host: str | None
    versions: str | None
    revision: str | None
    error: str
    error_at: int
    report: str
    keys: str | None
    condition: str
    why: str


class RouterReply(NamedTuple):
    name: str
    beat: int
    revision: str | None
    internal_errors: int


class Count(NamedTuple):
    role: str
    priority: str
    what: str
    requests: int


class Failure(NamedTuple):
    role: str
    priority: str
    code: str
    lane: str
    requests: int


class RatesReply(NamedTuple):
    window_ms: int
    counts: list[Count]
    failures: list[Failure]


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
    clients: tuple[int, int]
    rates: RatesReply
    delayed: int
    swept: int
    keys: KeysReply
    lane_facts: list[str]
    drained: list[str]
    paused: list[str]
    retries_paid_at: int


def decoded(reply: object) -> SnapshotReply:
    """The script's reply, validated."""
    return _adapter().validate_python(_as_text(reply))


@cache
def _adapter() -> TypeAdapter[SnapshotReply]:
    return TypeAdapter(SnapshotReply)


def _as_text(reply: object) -> object:
    """The reply with its bytes decoded: pydantic accepts no bytes for a literal."""
    if isinstance(reply, list):
        return [_as_text(part) for part in reply]
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
