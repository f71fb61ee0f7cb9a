"""The exporter's values: reads all metrics of a pool from one snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict
from typing import get_args

from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.worker_report import BreakerState
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.decide.recovery import FREE_RETRIES
from tokenlane.routing.store.access.api_key import QuotaUse
from tokenlane.routing.store.request_life import RequestOutcome
from tokenlane.routing.watch.pool_health import find_problems
from tokenlane.routing.watch.snapshot import LaneStatus, Snapshot, WorkerStatus

from .increases import Count, Increases
from .samples import Names, Sample
from .table import MOST_NAMES, OTHER

_OUTCOMES = {outcome for literal in get_args(RequestOutcome) for outcome in get_args(literal)}
_OLDEST, _SILENT = "tokenlane_oldest_request_seconds", "tokenlane_lane_silent_seconds"


class PoolSamples:
    """Makes the samples of one pool, snapshot after snapshot. It keeps the counters, and which names are reported."""

    def __init__(self, most_names: int = MOST_NAMES) -> None:
        self._increases, self._most_names = Increases(), most_names
        self._roles, self._lanes, self._codes = Names(most_names), Names(most_names), Names(most_names)

    def of(self, snapshot: Snapshot, quotas: Iterable[QuotaUse] = ()) -> list[Sample]:
        """The samples of a snapshot, and of the limits of API keys. Values that share their labels, since their names
        are omitted, are added up; of ages, the greatest counts."""
        self._roles.replace(role.role for role in snapshot.roles)
        lanes = _lanes(snapshot)
        self._lanes.replace(lane.name for lane in lanes)
        reports = [worker.report for lane in lanes for worker in lane.workers]
        self._codes.replace(code for report in reports for code in report.attempts.errors)
        merged: dict[tuple[str, tuple[str, ...]], float] = {}
        for name, labels, value in (*self._samples(snapshot), *self._quotas(quotas)):
            before = merged.get((name, labels), 0)
            merged[name, labels] = max(before, value) if name in (_OLDEST, _SILENT) else before + value
        return [Sample(*key, value) for key, value in merged.items()]

    def _samples(self, snapshot: Snapshot) -> Iterator[tuple[str, tuple[str, ...], float]]:
        yield from _pool(snapshot)
        yield from self._queues(snapshot)
        for lane in _lanes(snapshot):
            yield from self._lane(lane)
        counts = (count for lane in _lanes(snapshot) for worker in lane.workers for count in self._counts(lane, worker))
        for (name, labels), total in self._increases.add(counts).items():
            yield name, labels, total
        for label, names in (("role", self._roles), ("lane", self._lanes), ("code", self._codes)):
            yield "tokenlane_names_omitted", (label,), len(names.omitted)

    def _queues(self, snapshot: Snapshot) -> Iterator[tuple[str, tuple[str, ...], float]]:
        for role in snapshot.roles:
            labels = (self._roles.of(role.role), role.priority)
            yield "tokenlane_waiting_requests", labels, role.waiting
            yield _OLDEST, labels, (role.oldest_ms or 0) / 1000
            yield "tokenlane_running_requests", labels, role.running
            for event, rate in asdict(role.rates).items():
                yield "tokenlane_requests_per_second", (*labels, event), rate

    def _quotas(self, quotas: Iterable[QuotaUse]) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """Those with the least headroom have their names, so that an alert finds what is spent."""
        least_first = sorted(quotas, key=lambda quota: (quota.headroom, quota.name))
        for number, quota in enumerate(least_first):
            label = quota.name if number < self._most_names else OTHER
            yield "tokenlane_quota_in_flight", (label,), quota.in_flight
            yield "tokenlane_quota_limit", (label,), quota.limit
        yield "tokenlane_names_omitted", ("quota",), max(0, len(least_first) - self._most_names)

    def _lane(self, lane: LaneStatus) -> Iterator[tuple[str, tuple[str, ...], float]]:
        name = self._lanes.of(lane.name)
        for state in LaneState:
            yield "tokenlane_lane_state", (name, state), int(lane.state is state)
        for kind, slots in lane.slots.items():
            yield "tokenlane_lane_running", (name, kind), slots.running
            yield "tokenlane_lane_queued", (name, kind), slots.queued
            yield "tokenlane_lane_limit", (name, kind), slots.limit
        if lane.silent_ms is not None:
            yield _SILENT, (name,), lane.silent_ms / 1000
        breakers = Counter(worker.report.breaker for worker in lane.workers if worker.is_alive)
        for breaker in get_args(BreakerState):
            yield "tokenlane_lane_breakers", (name, breaker), breakers[breaker]
        for worker_state, workers in Counter(worker.state for worker in lane.workers).items():
            yield "tokenlane_workers", (name, worker_state), workers

    def _counts(self, lane: LaneStatus, worker: WorkerStatus) -> Iterator[Count]:
        report, label = worker.report, self._lanes.of(lane.name)

        def count(metric: str, value: int, *names: str) -> Count:
            return Count(worker.name, metric, (lane.name, *names), (label, *names), value)

        for ended, attempts in report.attempts.ended.items():
            kind, _, outcome = ended.partition(":")
            reported = label, _known(kind, KINDS), _known(outcome, _OUTCOMES)
            yield Count(worker.name, "tokenlane_attempts_total", (lane.name, kind, outcome), reported, attempts)
        for code, attempts in report.attempts.errors.items():
            by_code = label, self._codes.of(code)
            yield Count(worker.name, "tokenlane_attempt_errors_total", (lane.name, code), by_code, attempts)
        yield count("tokenlane_tokens_total", report.attempts.prompt_tokens, "input")
        yield count("tokenlane_tokens_total", report.attempts.completion_tokens, "output")
        for metric, value in {
            "tokenlane_wasted_tokens_total": report.attempts.wasted_deltas,
            "tokenlane_continued_answers_total": report.attempts.continued,
            "tokenlane_resends_total": report.delivery.replays,
            "tokenlane_cache_lookups_total": report.cache.asked,
            "tokenlane_cache_hits_total": report.cache.found,
            "tokenlane_internal_errors_total": report.internal_errors,
        }.items():
            yield count(metric, value)


def _known(name: str, names: Container[str]) -> str:
    """The label for a name that a worker reports, perhaps one of another version."""
    return name if name in names else OTHER


def _lanes(snapshot: Snapshot) -> tuple[LaneStatus, ...]:
    """All lanes. The fallback lane takes its place among the named ones before any other."""
    return snapshot.lanes if snapshot.fallback is None else (snapshot.fallback, *snapshot.lanes)


def _pool(snapshot: Snapshot) -> Iterator[tuple[str, tuple[str, ...], float]]:
    yield "tokenlane_up", (), 1
    yield "tokenlane_delayed_requests", (), snapshot.delayed
    yield "tokenlane_routers", (), len(snapshot.routers)
    if snapshot.swept_ms is not None:
        yield "tokenlane_sweep_age_seconds", (), snapshot.swept_ms / 1000
    yield "tokenlane_clients", ("live",), snapshot.clients.known - snapshot.clients.silent
    yield "tokenlane_clients", ("silent",), snapshot.clients.silent
    yield "tokenlane_retries_unpaid", (), snapshot.unpaid_retries
    limits = (lane.chats.limit for lane in snapshot.lanes)
    yield "tokenlane_retries_allowed", (), FREE_RETRIES + max(limits, default=0)
    if snapshot.memory is not None:
        yield "tokenlane_redis_memory_bytes", (), snapshot.memory.used
        yield "tokenlane_redis_memory_limit_bytes", (), snapshot.memory.limit
    for problem in find_problems(snapshot):
        yield "tokenlane_problems", (problem.code, problem.severity), 1
