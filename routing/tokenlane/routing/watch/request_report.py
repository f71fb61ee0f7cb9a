"""Explains one request to operators: its state, what it waits for, its place in the queue and an estimate."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tokenlane.routing.decide.queue_place import QueuePlace
from tokenlane.routing.decide.wait_cause import Wait, WaitCause
from tokenlane.routing.store.request_records import RequestRecord

from .snapshot import Snapshot

_HIDDEN = ("queue", "place", "is_over_budget")
"""Attributes of a record that its document has in another form."""


@dataclass(frozen=True)
class RequestReport:
    """A request, and what it waits for; None if it runs or has ended."""

    record: RequestRecord
    wait: Wait | None

    @property
    def cause(self) -> WaitCause | None:
        """What the request waits for."""
        return self.wait.cause if self.wait else None

    @property
    def place(self) -> QueuePlace | None:
        """The request's place in its queue, with an estimate if one is possible."""
        return self.wait.place if self.wait else None

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
    return RequestReport(record, None if record.waiting is None else Wait(snapshot.facts, record.waiting))
