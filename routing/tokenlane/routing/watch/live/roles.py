"""How each role of a pool stands: whether its requests keep up, and if not, why and what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from tokenlane.config.cli.sentences import age, counted
from tokenlane.routing.decide.wait_cause import WaitCause, wait_cause
from tokenlane.routing.watch.queue_health import describe_failures, fails
from tokenlane.routing.watch.snapshot import Failures, RoleStatus, Snapshot

from .trends import Sample, Trends, ended_per_s

BEHIND_MS = 10_000
"""A role whose oldest request has waited longer is behind, even if its requests take turns."""


class Standing(IntEnum):
    """How a role stands, the worst first.

    `STUCK`: its oldest request waits for something that no ending request brings, such as a lane that is down.
    `FAILING`: several of its requests failed in the last minute, and none completed. `BEHIND`: its oldest request has
    waited long for a slot, or for the end of a lane's pause. `PAUSED`: an operator paused it, and requests wait.
    `WAITING`: requests wait, but not for long. `WELL`: nothing waits.
    """

    STUCK = 0
    FAILING = 1
    BEHIND = 2
    PAUSED = 3
    WAITING = 4
    WELL = 5

    @property
    def severity(self) -> str:
        """`fail`, `warn` or `ok`, as findings have it."""
        return "fail" if self <= Standing.FAILING else "warn" if self <= Standing.PAUSED else "ok"


@dataclass(frozen=True)
class LiveRole:
    """A role, with its requests of all priorities.

    Args:
        oldest_ms: for how long its oldest request has waited; None if none waits.
        accepted, ended: requests per second over the last minute. `ended`: completed or failed.
        failures: the failed requests of the last minute, the most frequent failure first.
        waits_for: what the oldest request waits for, in a few words. `why`: the same explained, as part of a sentence.
        sentence: how the role stands, without a full stop; empty if nothing waits or fails.
        samples: how it developed, the oldest first.
    """

    name: str
    standing: Standing
    waiting: int
    oldest_ms: int | None
    running: int
    accepted: float
    ended: float
    failures: tuple[Failures, ...]
    waits_for: str
    why: str
    advice: str
    sentence: str
    is_paused: bool
    samples: tuple[Sample, ...]


def live_roles(snapshot: Snapshot, trends: Trends) -> tuple[LiveRole, ...]:
    """The pool's roles, the worst first."""
    by_role: defaultdict[str, list[RoleStatus]] = defaultdict(list)
    for status in snapshot.roles:
        by_role[status.role].append(status)
    for role in snapshot.paused:
        by_role.setdefault(role, [])
    roles = [_live_role(snapshot, name, parts, trends.samples(name)) for name, parts in by_role.items()]
    return tuple(sorted(roles, key=lambda role: (role.standing, -(role.oldest_ms or 0), role.name)))


def _live_role(snapshot: Snapshot, name: str, parts: Sequence[RoleStatus], samples: tuple[Sample, ...]) -> LiveRole:
    oldest = max(parts, key=lambda part: part.oldest_ms or -1, default=None)
    queue = snapshot.oldest_queue(oldest) if oldest else None
    cause = wait_cause(snapshot.facts, queue.key) if queue else None
    oldest_ms = queue.oldest_ms if queue else None
    waiting, failures = sum(part.waiting for part in parts), _failures(parts)
    is_paused = name in snapshot.paused
    standing = _standing(cause, oldest_ms or 0, is_failing=any(map(fails, parts)), is_paused=is_paused)
    return LiveRole(
        name=name,
        standing=standing,
        waiting=waiting,
        oldest_ms=oldest_ms,
        running=sum(part.running for part in parts),
        accepted=sum(part.rates.accepted for part in parts),
        ended=sum(ended_per_s(part.rates) for part in parts),
        failures=failures,
        waits_for=cause.brief if cause else "",
        why=cause.explanation if cause else "",
        advice=cause.advice if cause else "",
        sentence=_sentence(name, standing, waiting, oldest_ms, cause, failures),
        is_paused=is_paused,
        samples=samples,
    )


def _failures(parts: Sequence[RoleStatus]) -> tuple[Failures, ...]:
    """The failures of all priorities, added up."""
    requests: defaultdict[tuple[str, str], int] = defaultdict(int)
    for failure in (failure for part in parts for failure in part.failures):
        requests[failure.code, failure.lane] += failure.requests
    return tuple(Failures(*which, count) for which, count in sorted(requests.items(), key=lambda it: (-it[1], it[0])))


def _standing(cause: WaitCause | None, oldest_ms: int, *, is_failing: bool, is_paused: bool) -> Standing:
    if cause is not None and is_paused:
        return Standing.PAUSED
    if cause is not None and not (cause.takes_turns or cause.passes):
        return Standing.STUCK
    if is_failing:
        return Standing.FAILING
    if cause is None:
        return Standing.WELL
    return Standing.BEHIND if oldest_ms > BEHIND_MS else Standing.WAITING


_VERBS = {
    Standing.STUCK: "is stuck",
    Standing.BEHIND: "is behind",
    Standing.PAUSED: "is paused",
    Standing.WAITING: "keeps up",
}


def _sentence(
    name: str,
    standing: Standing,
    waiting: int,
    oldest_ms: int | None,
    cause: WaitCause | None,
    failures: Sequence[Failures],
) -> str:
    if standing is Standing.FAILING:
        return f"{name} fails: no request completed in the last minute{describe_failures(failures)}"
    if cause is None:
        return ""
    waits = counted(waiting, "request waits", "requests wait")
    return f"{name} {_VERBS[standing]}: {waits} for {cause.brief}, the oldest for {age(oldest_ms)}"
