"""What the page reads, as JSON. It has names, numbers, and texts of tokenlane, but no prompts and no answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tokenlane.routing.store.request_records import RequestRecord
from tokenlane.routing.watch.finding import Finding
from tokenlane.routing.watch.live.follow import Look
from tokenlane.routing.watch.live.roles import LiveRole
from tokenlane.routing.watch.live.view import LiveLane, LiveView
from tokenlane.routing.watch.request_report import RequestReport


def look_document(look: Look) -> dict[str, Any]:
    """One look at the pool. `view` is null before the first answer of Redis, `requests` and `failed` if not read."""
    requests = look.requests
    return {
        "outage": look.outage,
        "view": _view(look.view) if look.view is not None else None,
        "requests": None if requests is None else [_request(each) for each in requests.live],
        "more_requests": requests is not None and not requests.is_complete,
        "failed": None if requests is None else [_failed(record) for record in requests.failed],
    }


def history_document(look: Look) -> dict[str, list[list[float]]]:
    """The samples of each role: time in ms, waiting requests, requests per second that came and that ended."""
    return {
        role.name: [[sample.time_ms, sample.waiting, sample.accepted, sample.ended] for sample in role.samples]
        for role in (look.view.roles if look.view is not None else ())
    }


def _view(view: LiveView) -> dict[str, Any]:
    return {
        "pool": view.pool,
        "time_ms": view.time_ms,
        "headline": asdict(view.headline),
        "waiting": view.waiting,
        "running": view.running,
        "delayed": view.delayed,
        "accepting": view.accepting,
        "roles": [_role(role) for role in view.roles],
        "more_roles": view.more_roles,
        "lanes": [_lane(lane) for lane in view.lanes],
        "more_lanes": view.more_lanes,
        "problems": [_problem(finding) for finding in view.problems],
    }


def _role(role: LiveRole) -> dict[str, Any]:
    fields = ("name", "waiting", "oldest_ms", "running", "accepted", "ended", "waits_for", "is_paused")
    return {
        **{name: getattr(role, name) for name in fields},
        "standing": role.standing.name.lower(),
        "severity": role.severity,
        "failures": [asdict(failure) for failure in role.failures],
    }


def _lane(lane: LiveLane) -> dict[str, Any]:
    return {**asdict(lane), "severity": lane.state.severity}


def _problem(finding: Finding) -> dict[str, Any]:
    return {"severity": finding.severity, "text": finding.observed, "advice": finding.advice}


def _request(each: RequestReport) -> dict[str, Any]:
    record, place = each.record, each.place
    fields = ("id", "role", "state", "age_ms", "lane", "model", "starts")
    return {
        **{name: getattr(record, name) for name in fields},
        "priority": each.priority,
        "waits_for": each.cause.brief if each.cause else "",
        "why": each.cause.explanation if each.cause else "",
        "position": place.position if place else None,
        "in_queue": place.waiting if place else None,
        "starts_in": place.starts_in if place else "",
        "is_stopping": bool(record.stops),
    }


def _failed(record: RequestRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("id", "role", "lane", "code", "ended_ms")}
