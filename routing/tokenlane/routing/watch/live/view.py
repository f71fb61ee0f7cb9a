"""The live view of a pool at one moment: a headline, roles and lanes with the worst first, and what else is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from tokenlane.config.cli.sentences import counted, sentence
from tokenlane.routing.decide.lanes.state import LaneState, has_left
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.routing.watch.pool_health import examine_pool
from tokenlane.routing.watch.snapshot import LaneStatus, Snapshot

from .roles import LiveRole, Standing, live_roles
from .trends import Trends

_OF_ROLES = (Code.UNSERVED, Code.WAITS_LONG, Code.ROLE_FAILS)
"""Findings that a role's row has already."""
_WORST_FIRST = ("down", "gone", "loading", "paused", "degraded", "draining", "up", "left")


@dataclass(frozen=True)
class Headline:
    """What is most important now, in one sentence; why it is so, and what to do about it, each a sentence or empty.
    `severity`: `ok`, `warn` or `fail`."""

    severity: str
    text: str
    why: str = ""
    advice: str = ""


@dataclass(frozen=True)
class LiveLane:
    """A lane. `running`, `queued` and `limit`: of the kind of work that fills it most.
    `tokens_per_s`: None if it is not known yet. `error`: the code of its newest error, or ''."""

    name: str
    state: LaneState
    running: int
    queued: int
    limit: int
    models: tuple[str, ...]
    tokens_per_s: float | None
    why: str
    error: str
    is_drained: bool


@dataclass(frozen=True)
class LiveView:
    """A pool at the moment `time_ms`, by the server's clock.

    `roles` and `lanes`: the worst first. `problems`: what is wrong besides what the sentences of the roles say.
    `delayed`: how many requests wait for a set time before their next attempt.
    """

    pool: str
    time_ms: int
    headline: Headline
    roles: tuple[LiveRole, ...]
    lanes: tuple[LiveLane, ...]
    problems: tuple[Finding, ...]
    routers: int
    clients: int
    delayed: int

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(role.waiting for role in self.roles)

    @property
    def running(self) -> int:
        """How many requests lanes have been given."""
        return sum(role.running for role in self.roles)


def live_view(snapshot: Snapshot, trends: Trends) -> LiveView:
    """The view of the newest snapshot, which `trends` has already."""
    roles = live_roles(snapshot, trends)
    problems = tuple(
        finding for finding in examine_pool(snapshot) if finding.is_problem and finding.code not in _OF_ROLES
    )
    shown = (lane for lane in snapshot.lanes if not has_left(lane.state, lane.beat_ms))
    lanes = sorted((_live_lane(lane, trends) for lane in shown), key=lambda it: (_WORST_FIRST.index(it.state), it.name))
    return LiveView(
        pool=snapshot.pool,
        time_ms=snapshot.time_ms,
        headline=_headline(roles, problems),
        roles=roles,
        lanes=tuple(lanes),
        problems=problems,
        routers=len(snapshot.routers),
        clients=snapshot.clients.known,
        delayed=snapshot.delayed,
    )


def _live_lane(lane: LaneStatus, trends: Trends) -> LiveLane:
    work = (slots for kind, slots in lane.slots.items() if kind != "command" and slots.limit)
    slots = max(work, key=lambda it: (it.running + it.queued) / it.limit, default=lane.chats)
    return LiveLane(
        name=lane.name,
        state=lane.state,
        running=slots.running,
        queued=slots.queued,
        limit=slots.limit,
        models=lane.models,
        tokens_per_s=trends.tokens_per_s(lane),
        why=lane.why,
        error=lane.error.code if lane.error else "",
        is_drained=lane.drained,
    )


def _headline(roles: tuple[LiveRole, ...], problems: tuple[Finding, ...]) -> Headline:
    """The worst role, if one is not well, and what is broken."""
    worst = next((role for role in roles[:1] if role.standing < Standing.WAITING), None)
    broken = next((finding for finding in problems if finding.severity == "fail"), None)
    if worst is None:
        return _all_keep_up(roles) if broken is None else _broken(broken)
    others = sum(role.standing < Standing.WAITING for role in roles) - 1
    more = f" {counted(others, 'more role is', 'more roles are')} not well." if others else ""
    text, why, advice = sentence(worst.sentence) + more, _capitalised(worst.why), _capitalised(worst.advice)
    if broken is None or worst.standing is Standing.STUCK:  # its reason says which lanes cannot work, and why
        return Headline(worst.standing.severity, text, why, advice)
    return Headline("fail", text, f"{why} {_broken(broken).text}".strip(), _broken(broken).advice or advice)


def _broken(finding: Finding) -> Headline:
    return Headline("fail", _capitalised(finding.observed), advice=_capitalised(finding.advice))


def _capitalised(text: str) -> str:
    """Part of a sentence as a sentence; empty if it is empty."""
    return sentence(f"{text[:1].upper()}{text[1:]}") if text else ""


def _all_keep_up(roles: tuple[LiveRole, ...]) -> Headline:
    waiting, running = sum(role.waiting for role in roles), sum(role.running for role in roles)
    runs = counted(running, "request runs", "requests run")
    if waiting:
        return Headline("ok", f"Every role keeps up: {runs}, {counted(waiting, 'waits', 'wait')} for a slot.")
    return Headline("ok", f"Nothing waits, {runs}.")
