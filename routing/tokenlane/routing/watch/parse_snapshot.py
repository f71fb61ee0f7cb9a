"""Takes a snapshot of a pool by parsing the reply of lua/snapshot.lua.

Another version of tokenlane, or another program, may have written parts of the data. `Snapshot.unknown` names each part
that cannot be parsed; all other parts are still shown.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache
from typing import TypeGuard, TypeVar, get_args

from pydantic import TypeAdapter

from tokenlane.config.cli.sentences import counted
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Priority
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.fallback_lane import is_fallback
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.lanes.state import LaneState, LaneWorkers, lane_state
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.recovery import RETRY_MS
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies.lane import parse_lane

from .redis_health import examine_sentinels
from .snapshot import (
    CLIENT_SILENT_MS,
    ROUTER_SILENT_MS,
    SCHEMA_VERSION,
    ClientsStatus,
    Failures,
    LaneStatus,
    LastError,
    Memory,
    QueueStatus,
    Rates,
    RoleStatus,
    RouterStatus,
    Slots,
    Snapshot,
    WorkerState,
    WorkerStatus,
)
from .snapshot_reply import Job, LaneReply, RatesReply, SnapshotReply, decoded

_NUMBER = re.compile(r"[0-9]{1,15}")
_RATES = {field.name for field in fields(Rates)}

_Parsed = TypeVar("_Parsed")


async def take_snapshot(pool: Pool) -> Snapshot:
    """Take a snapshot of the pool.

    Raises:
        PoolUnavailable: the pool does not answer.
    """
    reply = decoded(await pool.snapshot_reply(CLIENT_SILENT_MS))
    memory = _memory(await pool.commands.ask_about("INFO", "memory"))
    sentinels = await examine_sentinels(pool)
    policy = (_policy(reply.document) or Policy()).model_copy(update={"revision": reply.revision})
    queues = tuple(sorted(_queues(reply), key=lambda queue: (queue.role, _rank(queue.priority))))
    workers = tuple(_workers(reply, policy.lease_ms))
    lanes = sorted(((_view(reply, lane, workers), lane.jobs) for lane in reply.lanes), key=lambda lane: lane[0].name)
    views = tuple(view for view, _ in lanes)
    states = tuple(_lane(view, jobs, workers) for view, jobs in lanes)
    routers = tuple(
        RouterStatus(router.name, reply.now - router.beat, _number(router.revision), router.internal_errors)
        for router in sorted(reply.routers)
        if reply.now - router.beat <= ROUTER_SILENT_MS
    )
    revisions = (*((it.name, it.revision) for it in routers), *((it.name, it.revision) for it in workers))
    sealing = tuple(reply.keys.sealing.split())
    return Snapshot(
        v=SCHEMA_VERSION,
        pool=pool.keys.pool,
        time_ms=reply.now,
        revision=reply.revision,
        key_id=next(iter(sealing), None),
        keys=sealing,
        retiring=tuple(reply.keys.retiring.split()),
        prepared=tuple(reply.keys.prepared.split()),
        roles=tuple(_roles(reply, queues)),
        queues=queues,
        lanes=tuple(lane for lane in states if not is_fallback(lane.name)),
        fallback=next((lane for lane in states if is_fallback(lane.name)), None),
        views=views,
        drained=tuple(sorted(reply.drained)),
        paused=tuple(sorted(reply.paused)),
        routers=routers,
        clients=ClientsStatus(*reply.clients),
        delayed=reply.delayed,
        swept_ms=reply.now - reply.swept if reply.swept else None,
        lagging=tuple(name for name, revision in revisions if revision not in (None, reply.revision)),
        policy=policy,
        unknown=tuple(_unknown(reply, views)),
        unpaid_retries=max(0, reply.retries_paid_at - reply.now) / RETRY_MS,
        memory=memory,
        sentinels=sentinels,
    )


def _memory(info: object) -> Memory | None:
    match info:
        case {"used_memory": int(used), "maxmemory": int(limit)}:
            return Memory(used, limit)
    return None


def _unknown(reply: SnapshotReply, lanes: tuple[LaneView, ...]) -> Iterator[str]:
    """Name each part that cannot be parsed. In the snapshot, such a part is empty, 0 or its default."""
    if _policy(reply.document) is None:
        yield f"the policy, revision {reply.revision}"
    for queue in reply.queues:
        if _parsed(Queue.parse, queue.name) is None:
            yield f"the queue {queue.name!r}, in which {counted(queue.waiting, 'request waits', 'requests wait')}"
    for lane in lanes:
        yield from (f"the {part} of lane {lane.name!r}" for part in lane.unread)
    yield from _unknown_of_processes(reply)
    jobs = (job.priority for lane in reply.lanes for job in lane.jobs)
    for priority in sorted({*jobs, *(count.priority for count in reply.rates.counts)} - {*get_args(Priority)}):
        yield f"requests of priority {priority!r}"
    for event in sorted({count.what for count in reply.rates.counts} - _RATES):
        yield f"requests counted as {event!r}"


def _unknown_of_processes(reply: SnapshotReply) -> Iterator[str]:
    for worker in reply.workers:
        if _versions(worker.versions) is None:
            yield f"the versions of worker {worker.name!r}"
        if _report(worker.report) is None:
            yield f"the report of worker {worker.name!r}"
        if worker.revision is not None and _number(worker.revision) is None:
            yield f"the policy revision of worker {worker.name!r}"
    for router in reply.routers:
        if router.revision is not None and _number(router.revision) is None:
            yield f"the policy revision of router {router.name!r}"


def _parsed(parse: Callable[[str], _Parsed], text: str) -> _Parsed | None:
    """The parsed text; None if it cannot be parsed."""
    try:
        return parse(text)
    except ValueError:
        return None


def _policy(document: str | None) -> Policy | None:
    return _parsed(Policy.model_validate_json, document or "{}")


@cache
def _texts() -> TypeAdapter[dict[str, str]]:
    return TypeAdapter(dict[str, str])


def _versions(document: str | None) -> dict[str, str] | None:
    return _parsed(_texts().validate_json, document or "{}")


def _report(document: str) -> WorkerReport | None:
    return _parsed(WorkerReport.model_validate_json, document or "{}")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def _is_priority(word: str) -> TypeGuard[Priority]:
    return word in get_args(Priority)


def _rank(priority: Priority) -> int:
    return get_args(Priority).index(priority)


def _queues(reply: SnapshotReply) -> Iterator[QueueStatus]:
    for queue in reply.queues:
        if (parsed := _parsed(Queue.parse, queue.name)) is not None:
            yield QueueStatus(parsed.role, parsed.kind, parsed.priority, parsed.needs, queue.waiting, queue.oldest_ms)


def _workers(reply: SnapshotReply, lease_ms: int) -> Iterator[WorkerStatus]:
    running = Counter(job.worker for lane in reply.lanes for job in lane.jobs if job.state == "running")
    for worker in sorted(reply.workers):
        age = reply.now - worker.beat
        state: WorkerState = lane_state(LaneWorkers(worker.condition, accepting_workers=int(worker.accepts_new_work)))
        if age > lease_ms:
            state = LaneState.LEFT if state is LaneState.DRAINING else "silent"
        yield WorkerStatus(
            name=worker.name,
            lane=worker.lane,
            state=state,
            host=worker.host,
            versions=_versions(worker.versions) or {},
            running=running[worker.name],
            beat_ms=age,
            revision=_number(worker.revision),
            error=LastError(worker.error, reply.now - worker.error_at) if worker.error else None,
            report=_report(worker.report) or WorkerReport(),
            keys=None if worker.keys is None else tuple(worker.keys.split()),
            why=worker.why,
        )


def _view(reply: SnapshotReply, lane: LaneReply, workers: tuple[WorkerStatus, ...]) -> LaneView:
    """The lane as routers see it, with the states that its workers report."""
    view = parse_lane(reply.lane_facts, lane.known)
    alive = [worker for worker in workers if worker.lane == view.name and worker.is_alive]
    return replace(view, facts=replace(view.facts, beats=bool(alive), unready=sum(map(_is_unready, alive))))


def _is_unready(worker: WorkerStatus) -> bool:
    return worker.state != "silent" and worker.state.is_unready


def _lane(view: LaneView, jobs: list[Job], workers: tuple[WorkerStatus, ...]) -> LaneStatus:
    serving = tuple(worker for worker in workers if worker.lane == view.name)
    errors = [worker.error for worker in serving if worker.error is not None]
    reasons = (worker.why for worker in serving if worker.why and worker.is_alive)
    count = Counter((job.kind, job.state) for job in jobs)
    return LaneStatus(
        name=view.name,
        state=view.state,
        provider=view.provider,
        endpoint=view.endpoint,
        models=view.models,
        slots={
            kind: Slots(limit, count[kind, "running"], count[kind, "dispatched"])
            for kind in KINDS
            if (limit := view.offer.limits.get(kind)) is not None
        },
        beat_ms=view.beat_ms,
        error=min(errors, key=lambda error: error.age_ms, default=None),
        workers=serving,
        offer=view.offer,
        why=view.why if view.state.is_unready or view.is_drained else next(reasons, ""),
        drained=view.is_drained,
    )


def _roles(reply: SnapshotReply, queues: tuple[QueueStatus, ...]) -> Iterator[RoleStatus]:
    """All roles and priorities with waiting or running requests, or with requests counted in the last minute."""
    jobs = (job for lane in reply.lanes for job in lane.jobs)
    running = Counter((job.role, job.priority) for job in jobs if _is_priority(job.priority))
    waits: defaultdict[tuple[str, Priority], list[QueueStatus]] = defaultdict(list)
    for queue in queues:
        waits[queue.role, queue.priority].append(queue)
    rates, failures = _rates(reply.rates), _failures(reply.rates)
    for role, priority in sorted({*running, *rates, *waits}, key=lambda key: (key[0], _rank(key[1]))):
        of_role = waits.get((role, priority), [])
        yield RoleStatus(
            role=role,
            priority=priority,
            waiting=sum(queue.waiting for queue in of_role),
            oldest_ms=max((queue.oldest_ms for queue in of_role), default=None),
            running=running[role, priority],
            rates=rates.get((role, priority), Rates()),
            failures=tuple(failures.get((role, priority), ())),
        )


def _rates(reply: RatesReply) -> dict[tuple[str, Priority], Rates]:
    counts: defaultdict[tuple[str, Priority], dict[str, float]] = defaultdict(dict)
    for it in reply.counts:
        if _is_priority(it.priority):
            of_role = counts[it.role, it.priority]
            if it.what in _RATES:
                of_role[it.what] = round(1000 * it.requests / reply.window_ms, 3)
    return {key: Rates(**of_role) for key, of_role in counts.items()}


def _failures(reply: RatesReply) -> dict[tuple[str, str], list[Failures]]:
    """The failures of each role and priority, the most frequent first."""
    failures: defaultdict[tuple[str, str], list[Failures]] = defaultdict(list)
    for it in sorted(reply.failures, key=lambda it: (-it.requests, it.code, it.lane)):
        failures[it.role, it.priority].append(Failures(it.code, it.lane, it.requests))
    return failures
