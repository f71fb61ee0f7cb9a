"""Explains one request to operators: its state, what it waits for, its place in the queue and an estimate."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from tokenlane.config.cli.sentences import age
from tokenlane.routing.decide.queue_place import QueuePlace
from tokenlane.routing.store.request_records import RequestRecord

from .snapshot import QueueStatus, Snapshot
from .wait_cause import WaitCause, wait_cause

_HIDDEN = ("queue", "place")
"""Attributes of a record that its document has in another form."""


@dataclass(frozen=True)
class RequestReport:
    """A request, and what it waits for; None if it runs or has ended."""

    record: RequestRecord
    cause: WaitCause | None

    @property
    def place(self) -> QueuePlace | None:
        """The request's place in its queue; without an estimate if no slot that becomes free would serve it."""
        place = self.record.place
        return place if place is None or (self.cause and self.cause.takes_turns) else replace(place, pace_ms=None)

    @property
    def priority(self) -> str:
        """The request's priority; empty if the server knows the request only from its worker."""
        return self.record.queue.priority if self.record.queue else ""

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        place = self.place
        facts = {name: value for name, value in asdict(self.record).items() if name not in _HIDDEN}
        return {
            **facts,
            "priority": self.priority,
            "waits_for": self.cause.brief if self.cause else "",
            "why": self.cause.explanation if self.cause else "",
            "advice": self.cause.advice if self.cause else "",
            "position": place.position if place else None,
            "in_queue": place.waiting if place else None,
            "estimate_ms": place.estimate_ms if place else None,
        }


def report(snapshot: Snapshot, record: RequestRecord) -> RequestReport:
    """Explain a request with a snapshot of its pool."""
    return RequestReport(record, _cause(snapshot, record))


def _cause(snapshot: Snapshot, record: RequestRecord) -> WaitCause | None:
    if record.state == "delayed":
        soon = age(record.due_ms)
        return WaitCause(
            f"its next attempt, in {soon}", f"its last attempt failed, and it is tried again in {soon}", ""
        )
    if record.state == "dispatched":
        explanation = f"lane {record.lane!r} has the request, and a worker is about to start it"
        return WaitCause(f"a worker of {record.lane}", explanation, "")
    if record.state != "waiting":
        return None
    if record.queue is None:
        explanation = "this version of tokenlane cannot read what it asks for"
        return WaitCause("-", explanation, "run the same version of tokenlane on all hosts")
    queue = record.queue
    return wait_cause(snapshot, QueueStatus(queue.role, queue.kind, queue.priority, queue.needs, 1, record.age_ms))
