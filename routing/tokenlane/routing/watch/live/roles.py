"""How each role of a pool stands: whether its requests keep up, and if not, why and what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from tokenlane.config.cli.sentences import age, counted
from tokenlane.routing.decide.wait_cause import WaitCause
from tokenlane.routing.watch.finding import Code, Finding, Severity
from tokenlane.routing.watch.pool_health import MAX_WAIT_S
from tokenlane.routing.watch.queue_health import describe_ends, failing_advice, fails, total_failures, total_rates
from tokenlane.routing.watch.snapshot import Failures, QueueStatus, Rates, RoleStatus, Snapshot

from .trends import Sample, Trends

BEHIND_MS = 10_000
"""A role whose requests have waited longer is behind, even if they take turns."""


class Standing(IntEnum):
    """How a role stands, the worst first.

    `STUCK`: requests wait for something that no ending request brings, such as a lane that is down. `FAILING`: most of
    its requests failed or expired in the last minute. `BEHIND`: requests have waited long for a slot, or for the end of
    a lane's pause. `PAUSED`: an operator paused it, and requests wait. `WAITING`: requests wait, but not for long.
    `WELL`: nothing waits.
    """

    STUCK = 0
    FAILING = 1
    BEHIND = 2
    PAUSED = 3
    WAITING = 4
    WELL = 5

    @property
    def severity(self) -> Severity:
        """`fail`, `warn` or `ok`, as findings have it."""
        return "fail" if self <= Standing.FAILING else "warn" if self <= Standing.PAUSED else "ok"


@dataclass(frozen=True)
class LiveRole:
    """A role, with its requests of all priorities.

    Args:
        severity: that of its standing; `fail` also if a request waits so long that `status --check` fails.
        oldest_ms: for how long its oldest request has waited; None if none waits.
        accepted, ended: requests per second over the last minute.
        failures: the failed requests of the last minute, the most frequent failure first.
        cause: why requests wait; if they wait for several things, for the worst of them. None if none waits.
        sentence: how the role stands, without a full stop; empty if nothing waits or fails.
        samples: how it developed, the oldest first.
    """

    name: str
    standing: Standing
    severity: Severity
    waiting: int
    oldest_ms: int | None
    running: int
    accepted: float
    ended: float
    failures: tuple[Failures, ...]
    cause: WaitCause | None
    sentence: str
    advice: str
    is_paused: bool
    samples: tuple[Sample, ...]

    @property
    def waits_for(self) -> str:
        """What requests wait for, in a few words; empty if none waits."""
        return self.cause.brief if self.cause else ""

    def states(self, finding: Finding) -> bool:
        """Whether the role's sentence says what the finding says."""
        if finding.code is Code.ROLE_FAILS:
            return self.standing is Standing.FAILING
        return finding.cause is not None and finding.cause == self.cause


def live_roles(snapshot: Snapshot, trends: Trends) -> tuple[LiveRole, ...]:
    """The pool's roles, the worst first."""
    queues: defaultdict[str, list[QueueStatus]] = defaultdict(list)
    for queue in snapshot.queues:
        queues[queue.role].append(queue)
    roles = [
        _live_role(
            name,
            priorities,
            _waits(snapshot, queues[name]),
            trends.samples(name),
            is_paused=name in snapshot.paused,
        )
        for name, priorities in snapshot.roles_by_name().items()
    ]
    return tuple(sorted(roles, key=lambda role: (role.standing, -(role.oldest_ms or 0), role.name)))


@dataclass(frozen=True)
class _Wait:
    """A role's requests that wait for the same: why, how many they are, and for how long the oldest has waited."""

    cause: WaitCause
    waiting: int
    oldest_ms: int
    standing: Standing


def _waits(snapshot: Snapshot, queues: Sequence[QueueStatus]) -> list[_Wait]:
    """What the requests of a role's queues wait for, the worst first."""
    by_brief: defaultdict[str, list[tuple[WaitCause, QueueStatus]]] = defaultdict(list)
    for queue in sorted(queues, key=lambda queue: -queue.oldest_ms):
        cause = snapshot.cause_of(queue)
        by_brief[cause.brief].append((cause, queue))
    waits = []
    for (cause, oldest), *others in by_brief.values():
        waiting = oldest.waiting + sum(queue.waiting for _, queue in others)
        standing = _standing(cause, oldest.oldest_ms, is_paused=oldest.role in snapshot.paused)
        waits.append(_Wait(cause, waiting, oldest.oldest_ms, standing))
    return sorted(waits, key=lambda wait: (wait.standing, -wait.oldest_ms))


def _standing(cause: WaitCause, oldest_ms: int, *, is_paused: bool) -> Standing:
    if is_paused:
        return Standing.PAUSED
    if not (cause.takes_turns or cause.passes):
        return Standing.STUCK
    return Standing.BEHIND if oldest_ms > BEHIND_MS else Standing.WAITING


def _live_role(
    name: str,
    priorities: Sequence[RoleStatus],
    waits: Sequence[_Wait],
    samples: tuple[Sample, ...],
    *,
    is_paused: bool,
) -> LiveRole:
    rates, failures = total_rates(priorities), total_failures(priorities)
    worst, waiting = next(iter(waits), None), sum(status.waiting for status in priorities)
    oldest_ms = max((wait.oldest_ms for wait in waits), default=None)
    standing = worst.standing if worst else Standing.WELL
    if fails(rates) and standing not in (Standing.STUCK, Standing.PAUSED):
        standing = Standing.FAILING
    waits_long = oldest_ms is not None and oldest_ms > 1000 * MAX_WAIT_S
    advice = worst.cause.advice if worst else ""
    return LiveRole(
        name=name,
        standing=standing,
        severity="fail" if waits_long else standing.severity,
        waiting=waiting,
        oldest_ms=oldest_ms,
        running=sum(status.running for status in priorities),
        accepted=rates.accepted,
        ended=rates.ended,
        failures=failures,
        cause=worst.cause if worst else None,
        sentence=_sentence(name, standing, worst, waiting, rates, failures),
        advice=failing_advice(rates) if standing is Standing.FAILING else advice,
        is_paused=is_paused,
        samples=samples,
    )


_VERBS = {
    Standing.STUCK: "is stuck",
    Standing.FAILING: "fails",
    Standing.BEHIND: "is behind",
    Standing.PAUSED: "is paused",
    Standing.WAITING: "keeps up",
}


def _sentence(
    name: str,
    standing: Standing,
    worst: _Wait | None,
    waiting: int,
    rates: Rates,
    failures: Sequence[Failures],
) -> str:
    parts = [describe_ends(rates, failures)] if standing is Standing.FAILING else []
    if worst is not None:
        parts.append(_describe_wait(worst, waiting))
    return f"{name} {_VERBS[standing]}: {'; '.join(parts)}" if parts else ""


def _describe_wait(wait: _Wait, waiting: int) -> str:
    """How many of a role's waiting requests wait for this, and for how long."""
    if wait.waiting >= waiting:
        requests = counted(waiting, "request waits", "requests wait")
    else:
        requests = f"{wait.waiting} of {waiting} waiting requests {'waits' if wait.waiting == 1 else 'wait'}"
    return f"{requests} for {wait.cause.brief}, the oldest for {age(wait.oldest_ms)}"
