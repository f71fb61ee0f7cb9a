"""`tokenlane lanes`: lists a pool's lanes, and stops and resumes new work on one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from tokenlane.config.cli.output import SEVERITY_STYLES, Table, show, show_json
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import age, counted
from tokenlane.config.exit_codes import UserError
from tokenlane.config.settings.load import pool_name
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.snapshot import LaneStatus, Snapshot

from . import completion
from .pool_session import pool_session

_STYLES = {state.value: SEVERITY_STYLES[state.severity] for state in LaneState}

lanes = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_Lane = Annotated[str, typer.Argument(help="The lane's name.", metavar="LANE", autocompletion=completion.lanes)]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@lanes.command()
def ls(as_json: _AsJson = False, redis: RedisUrl = None, pool: PoolName = None) -> None:
    """List the lanes that had a worker in the last hour, and drained lanes."""
    snapshot = pool_session(redis, pool, take_snapshot)
    forgotten = [name for name in snapshot.drained if name not in {lane.name for lane in snapshot.lanes}]
    if as_json:
        documents = [_document(lane) for lane in snapshot.lanes]
        show_json({"v": 1, "pool": snapshot.pool, "lanes": documents, "drained": snapshot.drained})
        return
    if snapshot.lanes:
        rows = [[cell(lane) for cell in _COLUMNS.values()] for lane in snapshot.lanes]
        show(Table(tuple(_COLUMNS), rows, _STYLES, splits=True))
    else:
        typer.echo(f"No worker has served a lane of pool {snapshot.pool} in the last hour.")
    for name in forgotten:
        show(f"An operator drained lane {name}, which no worker has served in the last hour.")


@lanes.command()
def drain(lane: _Lane, as_json: _AsJson = False, redis: RedisUrl = None, pool: PoolName = None) -> None:
    """Give a lane no new work until `resume`, whichever workers serve it. Requests that run there go on."""

    async def ask(opened: Pool) -> tuple[bool, Snapshot]:
        _check_known(await take_snapshot(opened), lane)
        return await opened.drain_lane(lane), await take_snapshot(opened)

    changed, snapshot = pool_session(redis, pool, ask)
    drained = next((each for each in snapshot.lanes if each.name == lane), None)
    running = _running(drained) if drained else 0
    if as_json:
        facts = {"lane": lane, "drained": True, "changed": changed, "running": running}
        show_json({"v": 1, "pool": snapshot.pool, **facts})
        return
    gets = "is drained and gets" if changed else "was already drained and gets"
    still = f" {counted(running, 'request still runs', 'requests still run')} on it." if running else ""
    show(f"Lane {lane} {gets} no new work until `tokenlane lanes resume {lane}`.{still}")


@lanes.command()
def resume(lane: _Lane, as_json: _AsJson = False, redis: RedisUrl = None, pool: PoolName = None) -> None:
    """Let a drained lane get new work again."""

    async def ask(opened: Pool) -> bool:
        changed = await opened.resume_lane(lane)
        if not changed:
            _check_known(await take_snapshot(opened), lane)
        return changed

    changed = pool_session(redis, pool, ask)
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), "lane": lane, "drained": False, "changed": changed})
    else:
        show(f"Lane {lane} {'gets new work again' if changed else 'was not drained'}.")


def _check_known(snapshot: Snapshot, lane: str) -> None:
    names = {each.name for each in snapshot.lanes} | set(snapshot.drained)
    if lane not in names:
        raise UserError(
            f"Pool {snapshot.pool} has no lane {lane!r}. Its lanes: {', '.join(sorted(names)) or 'none'}.",
            {"lane": lane},
        )


def _running(lane: LaneStatus) -> int:
    return sum(slots.running + slots.queued for slots in lane.slots.values())


_COLUMNS: dict[str, Callable[[LaneStatus], str]] = {
    "LANE": lambda lane: lane.name,
    "STATE": lambda lane: lane.state,
    "RUNNING": lambda lane: str(_running(lane)),
    "LIMIT": lambda lane: str(lane.chats.limit or "-"),  # 0 until the lane's model server has answered
    "WORKERS": lambda lane: str(sum(worker.is_alive for worker in lane.workers)),
    "BEAT": lambda lane: f"{age(lane.beat_ms)} ago",
    "PROVIDER": lambda lane: lane.provider,
    "ENDPOINT": lambda lane: lane.endpoint,
    "WHY": lambda lane: lane.why or "-",
}


def _document(lane: LaneStatus) -> dict[str, Any]:
    return {
        "name": lane.name,
        "state": lane.state,
        "why": lane.why,
        "drained": lane.drained,
        "running": _running(lane),
        "limit": lane.chats.limit,
        "workers": [worker.name for worker in lane.workers if worker.is_alive],
        "beat_ms": lane.beat_ms,
        "provider": lane.provider,
        "endpoint": lane.endpoint,
        "models": lane.models,
    }
