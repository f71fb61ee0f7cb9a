"""Checks the requests of a pool's roles from one snapshot: whether they wait, are refused or fail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tokenlane.config.cli.sentences import counted
from tokenlane.routing.decide.candidates import candidates
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.decide.policy import RolePolicy
from tokenlane.routing.decide.wait_cause import WaitCause

from .finding import Code, Finding
from .snapshot import Failures, QueueStatus, Rates, RoleStatus, Snapshot

FAILURES_A_MINUTE = 3
"""From how many requests in a minute that fail or expire a role may count as failing."""
_CODES_SHOWN = 3


def examine_queues(snapshot: Snapshot) -> Iterator[Finding]:
    """Check for requests that no lane may serve, that were refused, and for roles most of whose requests fail."""
    yield from _unserved(snapshot)
    for role in snapshot.roles:
        yield from _refused(snapshot, role)
    for name, priorities in snapshot.roles_by_name().items():
        yield from _failing(name, total_rates(priorities), total_failures(priorities))


def _unserved(snapshot: Snapshot) -> Iterator[Finding]:
    # A paused lane is like a busy one: it serves its requests soon, unless they wait for longer than --max-wait.
    lanes = [lane for lane in snapshot.views if lane.state.accepts_work or lane.state is LaneState.PAUSED]
    # Queues differ by more than the line shows, such as the size of their prompts: one line for all that look the same.
    similar: defaultdict[tuple[str, str, WaitCause], list[QueueStatus]] = defaultdict(list)
    for queue in snapshot.queues:
        # A request may wait for patience_ms for a worker that is about to connect. Then a router refuses it.
        if queue.oldest_ms < snapshot.policy.patience_ms:
            continue
        if next(candidates(snapshot.policy, queue.role, queue.needs, lanes, queue.kind), None) is None:
            similar[queue.role, f"{queue.priority}{_wanted(queue)}", snapshot.cause_of(queue)].append(queue)
    for (role, priority, cause), queues in similar.items():
        waiting, oldest_ms = sum(queue.waiting for queue in queues), max(queue.oldest_ms for queue in queues)
        observed = (
            f"{_describe_waiting(role, priority, waiting, oldest_ms)}, and no lane that accepts work may serve them: "
            f"{cause.explanation}"
        )
        yield Finding(Code.UNSERVED, "fail", observed, cause.advice, role, cause)


def _describe_waiting(role: str, priority: str, waiting: int, oldest_ms: int) -> str:
    """The beginning of a sentence about a role's waiting requests."""
    requests = counted(waiting, "request waits", "requests wait")
    return f"role {role!r}, priority {priority}: {requests}, the oldest for {oldest_ms / 1000:.0f} s"


def _wanted(queue: QueueStatus) -> str:
    wanted = {"provider": queue.needs.provider, "model": queue.needs.model, "answer of model": queue.needs.continues}
    text = ", ".join(f"{name} {value!r}" for name, value in wanted.items() if value)
    return f" ({text})" if text else ""


def _refused(snapshot: Snapshot, role: RoleStatus) -> Iterator[Finding]:
    if not role.rates.refused:
        return
    policy, limits = snapshot.policy, snapshot.policy.roles.get(role.role, RolePolicy()).limits
    refused = counted(max(1, round(60 * role.rates.refused)), "request was", "requests were")
    observed = (
        f"role {role.role!r}, priority {role.priority}: {refused} refused in the last minute; the limits are "
        f"{limits.depth or policy.depth} requests of the role (depth) and {limits.in_flight or policy.in_flight} of an "
        "agent (in_flight)"
    )
    advice = (
        "add lanes, or raise the limits with `tokenlane policy apply`; `tokenlane keys ls` shows whether an API key is "
        "at its own limit"
    )
    yield Finding(Code.REQUESTS_REFUSED, "fail", observed, advice, role.role)


def total_rates(priorities: Sequence[RoleStatus]) -> Rates:
    """The rates of all priorities of a role, added up."""
    return sum((status.rates for status in priorities), Rates())


def total_failures(priorities: Sequence[RoleStatus]) -> tuple[Failures, ...]:
    """The failures of all priorities of a role, added up, the most frequent failure first."""
    requests: defaultdict[tuple[str, str], int] = defaultdict(int)
    for failure in (failure for status in priorities for failure in status.failures):
        requests[failure.code, failure.lane] += failure.requests
    return tuple(Failures(*which, count) for which, count in sorted(requests.items(), key=lambda it: (-it[1], it[0])))


def fails(rates: Rates) -> bool:
    """Whether several of a role's requests failed or expired in the last minute, and more than completed.

    Args:
        rates: those of all priorities of the role. config/alerts.yml has the same rule.
    """
    unanswered = rates.failed + rates.expired
    return round(60 * unanswered) >= FAILURES_A_MINUTE and unanswered > rates.completed


def describe_ends(rates: Rates, failures: Sequence[Failures]) -> str:
    """How a role's requests ended in the last minute, as part of a sentence."""
    failed, expired, completed = (round(60 * rate) for rate in (rates.failed, rates.expired, rates.completed))
    shown = [f"{it.requests} {it.code}{f' on {it.lane}' if it.lane else ''}" for it in failures[:_CODES_SHOWN]]
    if others := sum(it.requests for it in failures[_CODES_SHOWN:]):
        shown.append(f"{others} others")
    codes = f" ({', '.join(shown)})" if shown else ""
    ends = [*([f"{failed} failed{codes}"] if failed else []), *([f"{expired} expired"] if expired else [])]
    done = counted(completed, "request", "requests") if rates.completed else "no request"
    return f"in the last minute {' and '.join(ends)}, and {done} completed"


def failing_advice(rates: Rates) -> str:
    """What to do about a role most of whose requests fail or expire."""
    if rates.failed >= rates.expired:
        return "look up each error code in docs/errors.md; the worker's log has a line for each failure"
    return (
        "check whether the model servers of the role's lanes still answer (`tokenlane lanes ls`, the workers' logs); "
        "if they do, add lanes, or give the requests more time"
    )


def _failing(role: str, rates: Rates, failures: Sequence[Failures]) -> Iterator[Finding]:
    if fails(rates):
        observed = f"role {role!r}: {describe_ends(rates, failures)}"
        yield Finding(Code.ROLE_FAILS, "fail", observed, failing_advice(rates), role)


def examine_waits(snapshot: Snapshot, max_wait_s: float) -> Iterator[Finding]:
    """Check whether the oldest request of any role waits for more than `max_wait_s` seconds."""
    for role in snapshot.roles:
        if role.oldest_ms is not None and role.oldest_ms > 1000 * max_wait_s:
            waiting = _describe_waiting(role.role, role.priority, role.waiting, role.oldest_ms)
            observed = f"{waiting}; the limit (--max-wait) is {max_wait_s:g} s"
            advice, cause = "add lanes, or raise --max-wait", None
            if (queue := snapshot.oldest_queue(role)) is not None:
                cause = snapshot.cause_of(queue)
                observed, advice = f"{observed}; the oldest waits for {cause.brief}: {cause.explanation}", cause.advice
            yield Finding(Code.WAITS_LONG, "fail", observed, advice, role.role, cause)
