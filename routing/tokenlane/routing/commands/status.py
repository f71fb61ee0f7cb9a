"""`tokenlane status`: shows a snapshot of a pool and its problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter

from tokenlane.config.cli.output import SEVERITY_STYLES, Table, show, show_json
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import age
from tokenlane.config.exit_codes import FAILED, OK
from tokenlane.routing.contract.worker_report import Hits
from tokenlane.routing.decide.lanes.state import LaneState, has_left
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.server.sentinel_errors import address_text
from tokenlane.routing.watch.finding import Finding
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.pool_health import MAX_WAIT_S, find_problems
from tokenlane.routing.watch.snapshot import LaneStatus, LastError, RoleStatus, Snapshot, WorkerStatus
from tokenlane.routing.watch.unused_pool import examine_use, is_unused, other_pools

from .pool_session import pool_session

_Row = TypeVar("_Row")

_STYLES = {
    **{state.value: SEVERITY_STYLES[state.severity] for state in LaneState},
    "left": "dim",
    "silent": SEVERITY_STYLES["fail"],
}


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; docs/status.md describes its fields.")] = False,
    check: Annotated[
        bool, typer.Option(help="Print one line per problem. Exit code 1 if any is more than a warning.")
    ] = False,
    max_wait: Annotated[
        float, typer.Option(help="How many seconds a role's oldest request may wait before --check reports it.", min=0)
    ] = MAX_WAIT_S,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Show waiting and running requests, and the lanes, workers and routers that serve them."""
    snapshot, of_use, primary = pool_session(redis, pool, _look)
    problems = (*of_use, *find_problems(snapshot, max_wait))
    fails = any(problem.severity == "fail" for problem in problems)
    if as_json:
        show_json(as_document(snapshot, problems, primary))
    elif check:
        show("\n".join([*([] if fails else [_ok_line(snapshot)]), *([_problem_lines(problems)] if problems else [])]))
    else:
        show(*_parts(snapshot, problems))
    raise typer.Exit(FAILED if check and fails else OK)


async def _look(pool: Pool) -> tuple[Snapshot, tuple[Finding, ...], str | None]:
    """A snapshot of the pool, a finding if nobody uses the pool, and the primary that Sentinels name."""
    snapshot = await take_snapshot(pool)
    others = await other_pools(pool) if is_unused(snapshot) else ()
    address = pool.server.sentinels.address if pool.server.sentinels else None
    return snapshot, tuple(examine_use(snapshot, others)), address_text(address) if address else None


def as_document(snapshot: Snapshot, problems: tuple[Finding, ...], primary: str | None = None) -> dict[str, Any]:
    """The snapshot and its problems as JSON, without the policy, the fallback lane and the lanes as routers see them.

    Args:
        primary: the address of the primary, as Sentinels name it; None if the pool's URL names no Sentinels.
    """
    tree = TypeAdapter(Snapshot).dump_python(
        snapshot, mode="json", exclude={"policy", "fallback", "views", "sentinels"}
    )
    causes = [snapshot.cause_of(queue) for queue in snapshot.queues]
    queues = [
        {**queue.pop("needs"), **queue, "waits_for": cause.brief, "why": cause.explanation}
        for queue, cause in zip(tree["queues"], causes, strict=True)
    ]
    return {**tree, "primary": primary, "queues": queues, "problems": [problem.document() for problem in problems]}


def _ok_line(snapshot: Snapshot) -> str:
    lanes = sum(lane.state == "up" for lane in snapshot.lanes)
    counts = ((lanes, "lane"), (len(snapshot.routers), "router"))
    up = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts)
    return f"ok: {up} up, {_work(snapshot)}"


def _problem_lines(problems: tuple[Finding, ...]) -> str:
    return "\n".join(
        f"{'warning: ' if problem.severity == 'warn' else ''}{problem.code}: {one_line(str(problem))}"
        for problem in problems
    )


def _parts(snapshot: Snapshot, problems: tuple[Finding, ...]) -> list[str | Table]:
    parts: list[str | Table] = [_summary(snapshot)]
    if snapshot.roles:
        columns = {**_ROLE_COLUMNS, "WAITS FOR": lambda role: _waits_for(snapshot, role)}
        parts.append(_table(columns, snapshot.roles))
    if snapshot.paused:
        parts.append(f"paused   {', '.join(snapshot.paused)}, until `tokenlane roles resume ROLE`")
    if snapshot.lanes:
        left = [lane for lane in snapshot.lanes if has_left(lane.state, lane.beat_ms)]
        parts.append(_table(_LANE_COLUMNS, [lane for lane in snapshot.lanes if lane not in left]))
        if left:
            parts.append(f"left     {', '.join(f'{lane.name} {age(lane.beat_ms)} ago' for lane in left)}")
        if snapshot.drained:
            parts.append(f"drained  {', '.join(snapshot.drained)}, until `tokenlane lanes resume LANE`")
        pulls = [(lane.name, *pull) for lane in snapshot.lanes for pull in lane.offer.pulling.items()]
        if pulls:
            parts.append("\n".join(f"pull     {model} to lane {lane}, {progress}" for lane, model, progress in pulls))
        parts.append(_table(_WORKER_COLUMNS, [worker for lane in snapshot.lanes for worker in lane.workers]))
    return [*parts, _problem_lines(problems)] if problems else parts


def _summary(snapshot: Snapshot) -> str:
    lags = f", not read yet by {', '.join(snapshot.lagging)}" if snapshot.lagging else ""
    deciding = sum(router.revision is not None for router in snapshot.routers)
    silent = f", {snapshot.clients.silent} silent" if snapshot.clients.silent else ""
    is_empty = not (snapshot.roles or snapshot.lanes or snapshot.routers or snapshot.clients.known or snapshot.delayed)
    errors = {worker.name: worker.report.internal_errors for lane in snapshot.lanes for worker in lane.workers}
    errors |= {router.name: router.internal_errors for router in snapshot.routers}
    bugs = ", ".join(f"{count} in {name}" for name, count in errors.items() if count)
    return "\n".join(
        (
            f"pool     {snapshot.pool}{' (unused)' if is_empty else ''}",
            *(f"redis    {finding.observed}" for finding in snapshot.sentinels[:1]),
            f"policy   {f'revision {snapshot.revision}' if snapshot.revision else 'the built-in default'}{lags}",
            f"key      {snapshot.key_id or 'none: requests and answers are not sealed'}",
            f"routers  {len(snapshot.routers)}, {deciding} active",
            f"clients  {snapshot.clients.known}{silent}",
            f"work     {_work(snapshot)}",
            *([f"bugs     {bugs}: please report them with the log of that process"] if bugs else []),
            *(
                f"unknown  {part}: another version of tokenlane, or another program, wrote it"
                for part in snapshot.unknown
            ),
        )
    )


def _work(snapshot: Snapshot) -> str:
    delayed = f", {snapshot.delayed} delayed" if snapshot.delayed else ""
    waiting = sum(role.waiting for role in snapshot.roles)
    return f"{waiting} waiting{delayed}, {sum(role.running for role in snapshot.roles)} running"


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
    "LIMIT": lambda lane: str(lane.chats.limit or "-"),  # 0 until the lane's model server has answered
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


def _waits_for(snapshot: Snapshot, role: RoleStatus) -> str:
    """What the role's oldest request of this priority waits for."""
    queue = snapshot.oldest_queue(role)
    return snapshot.cause_of(queue).brief if queue else "-"


def _table(columns: Mapping[str, Callable[[_Row], str]], rows: Iterable[_Row]) -> Table:
    return Table(tuple(columns), [[cell(row) for cell in columns.values()] for row in rows], _STYLES, splits=True)


def _error(error: LastError | None) -> str:
    return f"{error.code}, {age(error.age_ms)} ago" if error else "-"


def _share(cache: Hits) -> str:
    """The share of vectors that came from the cache."""
    return f"{cache.found / cache.asked:.0%}" if cache.asked else "-"
