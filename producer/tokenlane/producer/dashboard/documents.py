"""What the page reads, as JSON. It has names, numbers, and texts of tokenlane, but no prompts and no answers.

The page reads each field of these documents under the field's name. Times that end in `_ms` are milliseconds.
"""

from __future__ import annotations

from typing import TypeAlias, TypedDict

from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.store.request_records import RequestRecord
from tokenlane.routing.watch.finding import Finding, Severity
from tokenlane.routing.watch.live.follow import Look
from tokenlane.routing.watch.live.roles import LiveRole
from tokenlane.routing.watch.live.view import Headline, LiveLane, LiveView
from tokenlane.routing.watch.request_report import RequestReport
from tokenlane.routing.watch.snapshot import Failures

HistoryDocument: TypeAlias = dict[str, list[tuple[int, int, float, float]]]
"""The samples of each role: time in ms, waiting requests, requests per second that came and that ended."""


class HeadlineDocument(TypedDict):
    """What is most important now; see `Headline`."""

    severity: Severity
    text: str
    why: str
    advice: str


class FailuresDocument(TypedDict):
    """Failed requests of the last minute; see `Failures`."""

    code: str
    lane: str
    requests: int


class RoleDocument(TypedDict):
    """A role; see `LiveRole`. `standing`: in lower case."""

    name: str
    standing: str
    severity: Severity
    waiting: int
    oldest_ms: int | None
    running: int
    accepted: float
    ended: float
    waits_for: str
    is_paused: bool
    failures: list[FailuresDocument]


class LaneDocument(TypedDict):
    """A lane; see `LiveLane`."""

    name: str
    state: LaneState
    severity: Severity
    running: int
    queued: int
    limit: int
    models: tuple[str, ...]
    tokens_per_s: float | None
    why: str
    error: str
    is_drained: bool
    loads: bool


class ProblemDocument(TypedDict):
    """What is wrong, and what to do about it; see `Finding`."""

    severity: Severity
    text: str
    advice: str


class ViewDocument(TypedDict):
    """The pool at one moment; see `LiveView`."""

    pool: str
    time_ms: int
    headline: HeadlineDocument
    waiting: int
    running: int
    delayed: int
    accepting: int
    roles: list[RoleDocument]
    more_roles: int
    lanes: list[LaneDocument]
    more_lanes: int
    problems: list[ProblemDocument]


class RequestDocument(TypedDict):
    """A request that waits or runs; see `RequestReport` and `RequestRecord`."""

    id: str
    role: str
    priority: str
    state: str
    age_ms: int
    lane: str
    model: str
    starts: int
    waits_for: str
    why: str
    position: int | None
    in_queue: int | None
    starts_in: str
    is_stopping: bool


class FailedDocument(TypedDict):
    """A failed request; see `RequestRecord`."""

    id: str
    role: str
    lane: str
    code: str
    ended_ms: int | None


class LookDocument(TypedDict):
    """One look at the pool. `view` is null before the first answer of Redis, `requests` and `failed` if not read."""

    outage: str
    view: ViewDocument | None
    requests: list[RequestDocument] | None
    more_requests: bool
    failed: list[FailedDocument] | None


def look_document(look: Look) -> LookDocument:
    """One look at the pool, as the page reads it."""
    requests = look.requests
    return LookDocument(
        outage=look.outage,
        view=None if look.view is None else _view(look.view),
        requests=None if requests is None else [_request(each) for each in requests.live],
        more_requests=requests is not None and not requests.is_complete,
        failed=None if requests is None else [_failed(record) for record in requests.failed],
    )


def history_document(look: Look) -> HistoryDocument:
    """What the charts of each role need of the time before this look."""
    return {
        role.name: [(sample.time_ms, sample.waiting, sample.accepted, sample.ended) for sample in role.samples]
        for role in (look.view.roles if look.view is not None else ())
    }


def _view(view: LiveView) -> ViewDocument:
    return ViewDocument(
        pool=view.pool,
        time_ms=view.time_ms,
        headline=_headline(view.headline),
        waiting=view.waiting,
        running=view.running,
        delayed=view.delayed,
        accepting=view.accepting,
        roles=[_role(role) for role in view.roles],
        more_roles=view.more_roles,
        lanes=[_lane(lane) for lane in view.lanes],
        more_lanes=view.more_lanes,
        problems=[_problem(finding) for finding in view.problems],
    )


def _headline(headline: Headline) -> HeadlineDocument:
    return HeadlineDocument(severity=headline.severity, text=headline.text, why=headline.why, advice=headline.advice)


def _role(role: LiveRole) -> RoleDocument:
    return RoleDocument(
        name=role.name,
        standing=role.standing.name.lower(),
        severity=role.severity,
        waiting=role.waiting,
        oldest_ms=role.oldest_ms,
        running=role.running,
        accepted=role.accepted,
        ended=role.ended,
        waits_for=role.waits_for,
        is_paused=role.is_paused,
        failures=[_failures(failures) for failures in role.failures],
    )


def _failures(failures: Failures) -> FailuresDocument:
    return FailuresDocument(code=failures.code, lane=failures.lane, requests=failures.requests)


def _lane(lane: LiveLane) -> LaneDocument:
    return LaneDocument(
        name=lane.name,
        state=lane.state,
        severity=lane.state.severity,
        running=lane.running,
        queued=lane.queued,
        limit=lane.limit,
        models=lane.models,
        tokens_per_s=lane.tokens_per_s,
        why=lane.why,
        error=lane.error,
        is_drained=lane.is_drained,
        loads=lane.loads,
    )


def _problem(finding: Finding) -> ProblemDocument:
    return ProblemDocument(severity=finding.severity, text=finding.observed, advice=finding.advice)


def _request(each: RequestReport) -> RequestDocument:
    record, place = each.record, each.place
    return RequestDocument(
        id=record.id,
        role=record.role,
        priority=each.priority,
        state=record.state,
        age_ms=record.age_ms,
        lane=record.lane,
        model=record.model,
        starts=record.starts,
        waits_for=each.cause.brief if each.cause else "",
        why=each.cause.explanation if each.cause else "",
        position=place.position if place else None,
        in_queue=place.waiting if place else None,
        starts_in=place.starts_in if place else "",
        is_stopping=bool(record.stops),
    )


def _failed(record: RequestRecord) -> FailedDocument:
    return FailedDocument(id=record.id, role=record.role, lane=record.lane, code=record.code, ended_ms=record.ended_ms)
