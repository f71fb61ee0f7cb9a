"""`tokenlane status`: the pool at one moment, and whether something is wrong with it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from tokenlane.config.cli.output import Table, age, show, show_json
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import FAILED, OK
from tokenlane.config.settings.load import find_pool, pool_name
from tokenlane.routing.contract.worker_report import Hits
from tokenlane.routing.decide.lanes.state import has_left
from tokenlane.routing.watch.finding import Finding
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.pool_health import problems
from tokenlane.routing.watch.snapshot import LaneStatus, LastError, RoleStatus, Snapshot, WorkerStatus

from .pool_session import pool_session

_LOOKS = {
    "up": "green",
    "degraded": "yellow",
    "loading": "yellow",
    "draining": "yellow",
    "down": "bold red",
    "left": "dim",
    "gone": "bold red",
    "silent": "bold red",
}


def status(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON; docs/status.md says what each field is.")] = False,
    check: Annotated[bool, typer.Option(help="Only what is wrong, a line each; exit code 1 if anything is.")] = False,
    max_wait: Annotated[float, typer.Option(help="Seconds the oldest request of a role may wait.", min=0)] = 60.0,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Show what waits, what runs, and who serves it."""
    seen = pool_session(find_pool(redis), pool_name(pool), take_snapshot)
    wrong = problems(seen, max_wait)
    fails = any(problem.severity == "fail" for problem in wrong)
    if as_json:
        show_json(as_document(seen, wrong))
    elif check:
        show("\n".join([*([] if fails else [_all_well(seen)]), *([_lines(wrong)] if wrong else [])]))
    else:
        show(*_parts(seen, wrong))
    raise typer.Exit(FAILED if check and fails else OK)


def as_document(seen: Snapshot, wrong: tuple[Finding, ...]) -> dict[str, Any]:
    """What `--json` writes: the snapshot's tree without what routers make of it, and what is wrong."""
    tree = TypeAdapter(Snapshot).dump_python(seen, mode="json", exclude={"policy", "views"})
    return {**tree, "problems": [problem.document() for problem in wrong]}


def _all_well(seen: Snapshot) -> str:
    lanes = sum(lane.state == "up" for lane in seen.lanes)
    return f"ok: {lanes} lanes up, {len(seen.routers)} routers, {_waiting(seen)} waiting, {_running(seen)} running"


def _lines(wrong: tuple[Finding, ...]) -> str:
    return "\n".join(
        f"{'warning: ' if problem.severity == 'warn' else ''}{problem.code}: {one_line(str(problem))}"
        for problem in wrong
    )


def _parts(seen: Snapshot, wrong: tuple[Finding, ...]) -> list[str | Table]:
    parts: list[str | Table] = [_summary(seen)]
    if seen.roles:
        parts.append(_roles(seen.roles))
    if seen.lanes:
        gone_by = [lane for lane in seen.lanes if has_left(lane.state, lane.beat_ms)]
        parts.append(_lanes(tuple(lane for lane in seen.lanes if lane not in gone_by)))
        if gone_by:
            told = ", ".join(f"{lane.name} {age(lane.beat_ms)} ago" for lane in gone_by)
            parts.append(f"left     {told}")
        pulls = [(lane.name, *pull) for lane in seen.lanes for pull in lane.offer.pulling.items()]
        if pulls:
            parts.append("\n".join(f"pull     lane {lane}: {model}, {progress}" for lane, model, progress in pulls))
        parts.append(_workers([worker for lane in seen.lanes for worker in lane.workers]))
    return [*parts, _lines(wrong)] if wrong else parts


def _summary(seen: Snapshot) -> str:
    lags = f", not seen yet by {', '.join(seen.lagging)}" if seen.lagging else ""
    deciding = sum(router.revision is not None for router in seen.routers)
    silent = f", {seen.clients.silent} of them silent" if seen.clients.silent else ""
    delayed = f", {seen.delayed} delayed" if seen.delayed else ""
    nobody = not (seen.roles or seen.lanes or seen.routers or seen.clients.known or seen.delayed)
    return "\n".join(
        (
            f"pool     {seen.pool}{': empty, nobody uses it' if nobody else ''}",
            f"policy   {f'revision {seen.revision}' if seen.revision else 'the built-in default'}{lags}",
            f"key      {seen.key_id or 'none: requests are not sealed'}",
            f"routers  {len(seen.routers)}, {deciding} of them deciding",
            f"clients  {seen.clients.known}{silent}",
            f"work     {_waiting(seen)} waiting{delayed}, {_running(seen)} running",
            *_survived(seen),
            *(f"unknown  {what}; another version, or something else, has written it" for what in seen.unknown),
        )
    )


def _survived(seen: Snapshot) -> list[str]:
    """A line on the processes that met bugs of tokenlane's, if any did."""
    counts = {worker.name: worker.report.internal_errors for lane in seen.lanes for worker in lane.workers}
    counts |= {router.name: router.internal_errors for router in seen.routers}
    told = ", ".join(f"{count} in {name}" for name, count in counts.items() if count)
    return [f"bugs     {told}: its log says where; please report it"] if told else []


def _waiting(seen: Snapshot) -> int:
    return sum(role.waiting for role in seen.roles)


def _running(seen: Snapshot) -> int:
    return sum(role.running for role in seen.roles)


def _roles(roles: tuple[RoleStatus, ...]) -> Table:
    headings = ("ROLE", "PRIORITY", "WAITING", "OLDEST", "RUNNING", "IN/S", "DONE/S", "FAILED/S")
    rows = [
        (
            role.role,
            role.priority,
            str(role.waiting),
            age(role.oldest_ms),
            str(role.running),
            *tuple(f"{rate:.2f}" for rate in (role.rates.accepted, role.rates.completed, role.rates.failed)),
        )
        for role in roles
    ]
    return Table(headings, rows, {})


def _lanes(lanes: tuple[LaneStatus, ...]) -> Table:
    headings = ("LANE", "STATE", "RUNNING", "QUEUED", "LIMIT", "BEAT", "PROVIDER", "ENDPOINT", "MODELS", "LAST ERROR")
    rows = [
        (
            lane.name,
            lane.state,
            str(lane.chats.running),
            str(lane.chats.queued),
            str(lane.chats.limit),
            age(lane.beat_ms),
            lane.provider,
            lane.endpoint,
            ", ".join(lane.models),
            _error(lane.error),
        )
        for lane in lanes
    ]
    return Table(headings, rows, _LOOKS)


def _workers(workers: list[WorkerStatus]) -> Table:
    headings = (
        "WORKER",
        "LANE",
        "STATE",
        "RUNNING",
        "BEAT",
        "POLICY",
        "CACHE",
        "HOST",
        "TOKENLANE",
        "SERVER",
        "LAST ERROR",
    )
    rows = [
        (
            worker.name,
            worker.lane,
            worker.state,
            str(worker.running),
            age(worker.beat_ms),
            "-" if worker.revision is None else str(worker.revision),
            _share(worker.report.cache),
            worker.host or "-",
            worker.versions.get("tokenlane", "-"),
            worker.versions.get("server", "-"),
            _error(worker.error),
        )
        for worker in workers
    ]
    return Table(headings, rows, _LOOKS)


def _error(error: LastError | None) -> str:
    return f"{error.code}, {age(error.age_ms)} ago" if error else "-"


def _share(cache: Hits) -> str:
    """How much of what it was asked for the cache had."""
    return f"{cache.found / cache.asked:.0%}" if cache.asked else "-"
