"""`tokenlane status`: shows a snapshot of a pool, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter

from tokenlane.config.cli.output import Table, age, show, show_json
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import FAILED, OK
from tokenlane.routing.contract.worker_report import Hits
from tokenlane.routing.decide.lanes.state import has_left
from tokenlane.routing.watch.finding import Finding
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.pool_health import problems
from tokenlane.routing.watch.snapshot import LaneStatus, LastError, RoleStatus, Snapshot, WorkerStatus

from .pool_session import pool_session

_Row = TypeVar("_Row")

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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; docs/status.md describes its fields.")] = False,
    check: Annotated[bool, typer.Option(help="One line per problem. Exit code 1 for any but warnings.")] = False,
    max_wait: Annotated[float, typer.Option(help="Seconds that the oldest request of a role may wait.", min=0)] = 60.0,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Show waiting and running requests, and the lanes, workers and routers that serve them."""
    seen = pool_session(redis, pool, take_snapshot)
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
    """The snapshot and its problems as JSON, without the policy and the lanes as routers see them."""
    tree = TypeAdapter(Snapshot).dump_python(seen, mode="json", exclude={"policy", "views"})
    queues = [{**queue.pop("needs"), **queue} for queue in tree["queues"]]
    return {**tree, "queues": queues, "problems": [problem.document() for problem in wrong]}


def _all_well(seen: Snapshot) -> str:
    lanes = sum(lane.state == "up" for lane in seen.lanes)
    counts = ((lanes, "lane"), (len(seen.routers), "router"))
    up = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts)
    return f"ok: {up} up, {_work(seen)}"


def _lines(wrong: tuple[Finding, ...]) -> str:
    return "\n".join(
        f"{'warning: ' if problem.severity == 'warn' else ''}{problem.code}: {one_line(str(problem))}"
        for problem in wrong
    )


def _parts(seen: Snapshot, wrong: tuple[Finding, ...]) -> list[str | Table]:
    parts: list[str | Table] = [_summary(seen)]
    if seen.roles:
        parts.append(_table(_ROLE_COLUMNS, seen.roles))
    if seen.lanes:
        left = [lane for lane in seen.lanes if has_left(lane.state, lane.beat_ms)]
        parts.append(_table(_LANE_COLUMNS, [lane for lane in seen.lanes if lane not in left]))
        if left:
            parts.append(f"left     {', '.join(f'{lane.name} {age(lane.beat_ms)} ago' for lane in left)}")
        pulls = [(lane.name, *pull) for lane in seen.lanes for pull in lane.offer.pulling.items()]
        if pulls:
            parts.append("\n".join(f"pull     {model} to lane {lane}, {progress}" for lane, model, progress in pulls))
        parts.append(_table(_WORKER_COLUMNS, [worker for lane in seen.lanes for worker in lane.workers]))
    return [*parts, _lines(wrong)] if wrong else parts


def _summary(seen: Snapshot) -> str:
    lags = f", not read yet by {', '.join(seen.lagging)}" if seen.lagging else ""
    deciding = sum(router.revision is not None for router in seen.routers)
    silent = f", {seen.clients.silent} silent" if seen.clients.silent else ""
    is_unused = not (seen.roles or seen.lanes or seen.routers or seen.clients.known or seen.delayed)
    errors = {worker.name: worker.report.internal_errors for lane in seen.lanes for worker in lane.workers}
    errors |= {router.name: router.internal_errors for router in seen.routers}
    bugs = ", ".join(f"{count} in {name}" for name, count in errors.items() if count)
    return "\n".join(
        (
            f"pool     {seen.pool}{' (unused)' if is_unused else ''}",
            f"policy   {f'revision {seen.revision}' if seen.revision else 'the built-in default'}{lags}",
            f"key      {seen.key_id or 'none: requests are not sealed'}",
            f"routers  {len(seen.routers)}, {deciding} active",
            f"clients  {seen.clients.known}{silent}",
            f"work     {_work(seen)}",
            *([f"bugs     {bugs}: please report them with the log of that process"] if bugs else []),
            *(f"unknown  {part}: another version of tokenlane, or another program, wrote it" for part in seen.unknown),
        )
    )


def _work(seen: Snapshot) -> str:
    delayed = f", {seen.delayed} delayed" if seen.delayed else ""
    waiting = sum(role.waiting for role in seen.roles)
    return f"{waiting} waiting{delayed}, {sum(role.running for role in seen.roles)} running"


_ROLE_COLUMNS: dict[str, Callable[[RoleStatus], str]] = {
    "ROLE": lambda role: role.role,
    "PRIORITY": lambda role: role.priority,
    "WAITING": lambda role: str(role.waiting),
    "OLDEST": lambda role: age(role.oldest_ms),
    "RUNNING": lambda role: str(role.running),
    "IN/S": lambda role: f"{role.rates.accepted:.2f}",
    "DONE/S": lambda role: f"{role.rates.completed:.2f}",
    "FAILED/S": lambda role: f"{role.rates.failed:.2f}",
}
_LANE_COLUMNS: dict[str, Callable[[LaneStatus], str]] = {
    "LANE": lambda lane: lane.name,
    "STATE": lambda lane: lane.state,
    "RUNNING": lambda lane: str(lane.chats.running),
    "QUEUED": lambda lane: str(lane.chats.queued),
    "LIMIT": lambda lane: str(lane.chats.limit),
    "BEAT": lambda lane: age(lane.beat_ms),
    "PROVIDER": lambda lane: lane.provider,
    "ENDPOINT": lambda lane: lane.endpoint,
    "MODELS": lambda lane: ", ".join(lane.models),
    "LAST ERROR": lambda lane: _error(lane.error),
}
_WORKER_COLUMNS: dict[str, Callable[[WorkerStatus], str]] = {
    "WORKER": lambda worker: worker.name,
    "LANE": lambda worker: worker.lane,
    "STATE": lambda worker: worker.state,
    "RUNNING": lambda worker: str(worker.running),
    "BEAT": lambda worker: age(worker.beat_ms),
    "POLICY": lambda worker: "-" if worker.revision is None else str(worker.revision),
    "CACHE": lambda worker: _share(worker.report.cache),
    "HOST": lambda worker: worker.host or "-",
    "TOKENLANE": lambda worker: worker.versions.get("tokenlane", "-"),
    "SERVER": lambda worker: worker.versions.get("server", "-"),
    "LAST ERROR": lambda worker: _error(worker.error),
}


def _table(columns: Mapping[str, Callable[[_Row], str]], rows: Iterable[_Row]) -> Table:
    return Table(tuple(columns), [[cell(row) for cell in columns.values()] for row in rows], _LOOKS)


def _error(error: LastError | None) -> str:
    return f"{error.code}, {age(error.age_ms)} ago" if error else "-"


def _share(cache: Hits) -> str:
    """The share of vectors that came from the cache."""
    return f"{cache.found / cache.asked:.0%}" if cache.asked else "-"
