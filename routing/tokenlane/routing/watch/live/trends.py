"""What only successive snapshots show: how many requests of a role waited, and which tokens a lane produces."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from tokenlane.routing.watch.queue_health import total_rates
from tokenlane.routing.watch.snapshot import LaneStatus, Snapshot

SAMPLES = 120
"""How many samples of each role are kept: two minutes of them, at one a second."""
_WINDOW_MS = 10_000
"""The time over which tokens per second are averaged. Workers report every third of a lease, by default every 3.3 s."""


@dataclass(frozen=True)
class Sample:
    """A role at one moment: its waiting requests, and how many requests per second came and ended in the last minute.

    `ended` counts requests that completed, failed, were cancelled or expired.
    """

    time_ms: int
    waiting: int
    accepted: float
    ended: float


@dataclass(frozen=True)
class _Report:
    """The number of deltas that a worker had published since its start, when it sent a beat."""

    beat_at_ms: int
    deltas: int


class Trends:
    """Compares the snapshots of one pool, which are added in the order in which they were taken."""

    def __init__(self) -> None:
        self._samples: defaultdict[str, deque[Sample]] = defaultdict(lambda: deque(maxlen=SAMPLES))
        self._reports: dict[str, deque[_Report]] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Add a snapshot that is newer than all before it."""
        self._add_samples(snapshot)
        workers = {worker.name: worker for lane in snapshot.lanes for worker in lane.workers if worker.is_alive}
        self._reports = {name: self._reports.get(name) or deque(maxlen=SAMPLES) for name in workers}
        for name, worker in workers.items():
            _extend(self._reports[name], _Report(snapshot.time_ms - worker.beat_ms, worker.report.delivery.deltas))

    def samples(self, role: str) -> tuple[Sample, ...]:
        """The role's samples, the oldest first."""
        return tuple(self._samples.get(role, ()))

    def tokens_per_s(self, lane: LaneStatus) -> float | None:
        """How many tokens per second the lane's live workers produced lately; None until one of them reported twice.

        A delta counts as one token, as it is with nearly all model servers.
        """
        rates = [_rate(self._reports.get(worker.name, ())) for worker in lane.workers]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known else None

    def _add_samples(self, snapshot: Snapshot) -> None:
        by_role = snapshot.roles_by_name()
        for role in by_role.keys() | self._samples.keys():
            priorities = by_role.get(role, [])
            rates, waiting = total_rates(priorities), sum(status.waiting for status in priorities)
            self._samples[role].append(Sample(snapshot.time_ms, waiting, rates.accepted, rates.ended))
            if not priorities and not any(sample.waiting or sample.accepted for sample in self._samples[role]):
                del self._samples[role]


def _extend(reports: deque[_Report], newest: _Report) -> None:
    """Add a report unless it is known. A worker that lost its counts begins anew."""
    if reports and newest.deltas < reports[-1].deltas:
        reports.clear()
    if not reports or newest.beat_at_ms > reports[-1].beat_at_ms:
        reports.append(newest)


def _rate(reports: Iterable[_Report]) -> float | None:
    """Deltas per second between the newest report and the oldest one in the window, or at least the one before it."""
    newest_first = tuple(reversed(tuple(reports)))
    if len(newest_first) < 2:
        return None
    newest, *older = newest_first
    oldest = [older[0], *takewhile(lambda it: newest.beat_at_ms - it.beat_at_ms <= _WINDOW_MS, older[1:])][-1]
    return 1000 * (newest.deltas - oldest.deltas) / (newest.beat_at_ms - oldest.beat_at_ms)
