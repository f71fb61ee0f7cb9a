"""The live view of a pool at one moment: a headline, roles and lanes with the worst first, and what else is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenlane.config.cli.sentences import counted, sentence
from tokenlane.routing.decide.lanes.state import LaneState, has_left
from tokenlane.routing.watch.finding import Code, Finding, Severity
from tokenlane.routing.watch.pool_health import find_problems
from tokenlane.routing.watch.snapshot import LaneStatus, Snapshot

from .roles import LiveRole, Standing, live_roles
from .trends import Trends

ROLES_SHOWN = LANES_SHOWN = 100
"""How many roles and lanes a view has, the worst of all."""
_WORST_FIRST: tuple[Severity, ...] = ("fail", "warn", "ok")


@dataclass(frozen=True)
class Headline:
    """What is most important now, in one sentence; why it is so, and what to do about it, each a sentence or empty.
    `severity`: `ok`, `warn` or `fail`."""

    severity: Severity
    text: str
    why: str = ""
    advice: str = ""


@dataclass(frozen=True)
class LiveLane:
    """A lane. `running`, `queued` and `limit`: of the kind of work that fills it most.
    `tokens_per_s`: None if it is not known yet. `error`: the code of its newest error, or ''.
    `loads`: whether it loads and unloads models on command, as far as its worker says."""

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
    loads: bool


@dataclass(frozen=True)
class LiveView:
    """A pool at the moment `time_ms`, by the server's clock.

    `roles` and `lanes`: the worst of them, the worst first; `more_roles` and `more_lanes`: how many are left out.
    `accepting`: how many lanes accept work. `problems`: what is wrong besides what the sentences of the roles say.
    `waiting`, `running`: the requests of all roles. `delayed`: how many requests wait for a set time before their next
    attempt.
    """

    pool: str
    time_ms: int
    headline: Headline
    roles: tuple[LiveRole, ...]
    more_roles: int
    lanes: tuple[LiveLane, ...]
    more_lanes: int
    accepting: int
    problems: tuple[Finding, ...]
    routers: int
    clients: int
    waiting: int
    running: int
    delayed: int


def live_view(snapshot: Snapshot, trends: Trends) -> LiveView:
    """The view of the newest snapshot, which `trends` has already."""
    roles = live_roles(snapshot, trends)
    by_name = {role.name: role for role in roles}
    problems = tuple(
        it for it in find_problems(snapshot) if it.subject not in by_name or not by_name[it.subject].states(it)
    )
    shown = (lane for lane in snapshot.lanes if not has_left(lane.state, lane.beat_ms))
    lanes = sorted(shown, key=lambda lane: (_WORST_FIRST.index(lane.state.severity), lane.state.is_away, lane.name))
    return LiveView(
        pool=snapshot.pool,
        time_ms=snapshot.time_ms,
        headline=_headline(roles, problems),
        roles=roles[:ROLES_SHOWN],
        more_roles=len(roles[ROLES_SHOWN:]),
        lanes=tuple(_live_lane(lane, trends) for lane in lanes[:LANES_SHOWN]),
        more_lanes=len(lanes[LANES_SHOWN:]),
        accepting=sum(lane.state.accepts_work for lane in lanes),
        problems=problems,
        routers=len(snapshot.routers),
        clients=snapshot.clients.known,
        waiting=sum(role.waiting for role in roles),
        running=sum(role.running for role in roles),
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
        loads=not {"load", "unload"} & lane.offer.unsupported.keys(),
    )


def _headline(roles: tuple[LiveRole, ...], problems: tuple[Finding, ...]) -> Headline:
    """What concerns every role, or else the worst role, if one is not well, and what is broken."""
    worst = next((role for role in roles[:1] if role.standing < Standing.WAITING), None)
    full = next((finding for finding in problems if finding.code is Code.MEMORY and finding.severity == "fail"), None)
    broken = full or next((finding for finding in problems if finding.severity == "fail"), None)
    if worst is None:
        return _all_keep_up(roles) if broken is None else _broken(broken)
    others = sum(role.standing < Standing.WAITING for role in roles) - 1
    more = f" {counted(others, 'more role is', 'more roles are')} not well." if others else ""
    text, advice = sentence(worst.sentence) + more, _capitalised(worst.advice)
    if full is not None:
        return replace(_broken(full), why=text)
    why = _capitalised(worst.cause.explanation) if worst.cause else ""
    if worst.standing is Standing.STUCK:  # the cause says which lanes cannot work, and why
        return Headline(worst.severity, text, why, advice)
    broken = broken or next((finding for finding in problems if finding.code is Code.LANE_SILENT), None)
    if broken is None:
        return Headline(worst.severity, text, why, advice)
    severity = "fail" if broken.severity == "fail" else worst.severity
    return Headline(severity, text, f"{why} {_broken(broken).text}".strip(), _broken(broken).advice or advice)


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
