"""`tokenlane top`: watches a pool's roles and lanes on a terminal."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from tokenlane.config.cli.live_screen import live_screen
from tokenlane.config.cli.output import Table, console, rendered, show
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import age, counted, sentence
from tokenlane.config.host.stop_signals import stop_event
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import background
from tokenlane.routing.watch.live.follow import Look, follow
from tokenlane.routing.watch.live.roles import LiveRole, Standing
from tokenlane.routing.watch.live.trends import SAMPLES, Sample, Trends
from tokenlane.routing.watch.live.view import LiveLane, LiveView, live_view
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.snapshot import Failures

from .pool_session import pool_session

_Row = TypeVar("_Row")

_SPARKS = "▁▂▃▄▅▆▇█"
_SPARK_CELLS = 20
_BAR_CELLS = 10
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_STYLES = {
    **{state.value: _COLOURS[state.severity] for state in LaneState},
    "left": "dim",
    **{standing.name.lower(): _COLOURS[standing.severity] for standing in Standing},
}
_OTHER_LINES = 14
"""The lines of a picture without the rows of roles and lanes, with some space for failures and problems."""


def top(redis: RedisUrl = None, pool: PoolName = None) -> None:
    """Watch a pool: which role is behind and why, the load of each lane, and recent failures. Press q to end it.

    Without a terminal, or on one that cannot be drawn anew, it prints one picture and ends.
    """
    redraws = sys.stdout.isatty() and not console().is_dumb_terminal
    pool_session(redis, pool, _watch if redraws else _print_once)


async def _print_once(pool: Pool) -> None:
    snapshot, trends = await take_snapshot(pool), Trends()
    trends.add(snapshot)
    show(*(part for _, part in _parts(Look(live_view(snapshot, trends)), height=None)))


async def _watch(pool: Pool) -> None:
    changed, terminal = asyncio.Event(), console()
    newest: Look | None = None

    async def look_on() -> None:
        nonlocal newest
        async with aclosing(follow(pool)) as looks:
            async for look in looks:
                newest = look
                changed.set()

    async def draw() -> None:
        while await changed.wait():
            changed.clear()
            if newest is not None:
                screen.update(_picture(newest, *terminal.size), refresh=True)

    with stop_event() as quitting, live_screen(terminal, changed, quitting) as screen:
        async with background() as tasks:
            tasks.create_task(look_on())
            tasks.create_task(draw())
            await quitting.wait()


def _picture(look: Look, width: int, height: int) -> RenderableType:
    """The parts under each other, with an empty line between two. The terminal cuts off what does not fit."""
    lines: list[RenderableType] = []
    for style, part in _parts(look, height):
        lines += [*([""] if lines else []), rendered(part, width) if isinstance(part, Table) else _styled(part, style)]
    return Group(*lines)


def _styled(text: str, style: str) -> Text:
    return Text("\n".join(one_line(line) for line in text.splitlines()), style=style)


def _parts(look: Look, height: int | None) -> Iterator[tuple[str, str | Table]]:
    """What a picture shows: texts, each with its style, and tables.

    Args:
        height: the lines of the terminal; None if the picture may be of any height.
    """
    if look.outage:
        stale = " The figures below are older than that." if look.view is not None else ""
        yield _COLOURS["fail"], f"{look.outage}{stale}"
    if look.view is None:
        return
    view, rows = look.view, max(3, (height - _OTHER_LINES) // 2) if height else None
    headline = view.headline
    yield "", _summary(view)
    yield _COLOURS[headline.severity], "\n".join(filter(None, (headline.text, headline.why, headline.advice)))
    if view.roles:
        yield "", _table(_ROLE_COLUMNS, view.roles[:rows])
        yield from _rest(len(view.roles[:rows]), len(view.roles) + view.more_roles, "role", "roles")
    if view.lanes:
        yield "", _table(_LANE_COLUMNS, view.lanes[:rows])
        yield from _rest(len(view.lanes[:rows]), len(view.lanes) + view.more_lanes, "lane", "lanes")
    failures = [(role.name, failure) for role in view.roles for failure in role.failures]
    if failures:
        yield "", _table(_FAILURE_COLUMNS, sorted(failures, key=lambda row: -row[1].requests)[:rows])
    problems = [sentence(finding.observed) for finding in view.problems]
    if problems:
        yield "", "\n".join(problems)


def _summary(view: LiveView) -> str:
    time = datetime.fromtimestamp(view.time_ms / 1000, UTC).strftime("%H:%M:%S UTC")
    delayed = f", {view.delayed} delayed" if view.delayed else ""
    return "   ".join(
        (
            f"pool {view.pool}",
            time,
            f"{view.accepting} of {counted(len(view.lanes) + view.more_lanes, 'lane', 'lanes')} up",
            counted(view.routers, "router", "routers"),
            counted(view.clients, "client", "clients"),
            f"{view.waiting} waiting{delayed}, {view.running} running",
        )
    )


_ROLE_COLUMNS: dict[str, Callable[[LiveRole], str]] = {
    "ROLE": lambda role: role.name,
    "STANDING": lambda role: role.standing.name.lower(),
    "WAITING": lambda role: str(role.waiting),
    "OLDEST": lambda role: age(role.oldest_ms),
    "RUNNING": lambda role: str(role.running),
    "IN/S": lambda role: f"{role.accepted:.2f}",
    "ENDED/S": lambda role: f"{role.ended:.2f}",
    "WAITING, LAST 2 MIN": lambda role: _sparkline(role.samples),
    "WAITS FOR": lambda role: role.waits_for or "-",
}
_LANE_COLUMNS: dict[str, Callable[[LiveLane], str]] = {
    "LANE": lambda lane: lane.name,
    "STATE": lambda lane: lane.state,
    "LOAD": lambda lane: _load(lane),
    "TOKENS/S": lambda lane: "-" if lane.tokens_per_s is None else f"{lane.tokens_per_s:.0f}",
    "MODELS": lambda lane: ", ".join(lane.models),
    "WHY": lambda lane: lane.why or (f"last error: {lane.error}" if lane.error else "-"),
}
_FAILURE_COLUMNS: dict[str, Callable[[tuple[str, Failures]], str]] = {
    "FAILED, LAST MINUTE": lambda row: str(row[1].requests),
    "ROLE": lambda row: row[0],
    "LANE": lambda row: row[1].lane or "-",
    "ERROR": lambda row: row[1].code,
}


def _table(columns: Mapping[str, Callable[[_Row], str]], rows: Sequence[_Row]) -> Table:
    return Table(tuple(columns), [[cell(row) for cell in columns.values()] for row in rows], _STYLES, splits=True)


def _rest(shown: int, known: int, singular: str, plural: str) -> Iterator[tuple[str, str]]:
    if known > shown:
        yield "", f"and {counted(known - shown, singular, plural)} more, which are better off"


def _sparkline(samples: Sequence[Sample]) -> str:
    """How many requests waited in the last two minutes. Each character stands for the most in its share of that time,
    and is blank if nobody looked then."""
    cell_ms = 1000 * SAMPLES // _SPARK_CELLS  # samples are taken once a second
    most: dict[int, int] = {}
    for sample in samples:
        cells_ago = (samples[-1].time_ms - sample.time_ms) // cell_ms
        most[cells_ago] = max(most.get(cells_ago, 0), sample.waiting)
    shown = [most.get(cells_ago) for cells_ago in reversed(range(_SPARK_CELLS))]
    highest = max((count for count in shown if count is not None), default=0)
    if not highest:
        return "-"
    last = len(_SPARKS) - 1
    return "".join(" " if count is None else _SPARKS[math.ceil(count / highest * last)] for count in shown)


def _load(lane: LiveLane) -> str:
    """A bar of the lane's slots, and their numbers."""
    taken = lane.running + lane.queued
    full = min(_BAR_CELLS, math.ceil(_BAR_CELLS * taken / lane.limit)) if lane.limit else 0
    return f"{'█' * full}{'░' * (_BAR_CELLS - full)} {taken}/{lane.limit or '-'}"
