"""Measures the overhead of tokenlane over direct requests to a server: time to first token, time and CPU per token.

A bare HTTP client and an agent take turns. Both send the same requests to the same simulated model server: the client
directly, the agent through an embedded Redis server and a worker. Each of them is a process. With one stream, the agent
also measures the floor before each request. All figures come from one run, so ratios stay valid if the machine's speed
drifts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from statistics import median

from redis.asyncio import Redis

from tokenlane.config.host.embedded_server import EmbeddedServer

from . import clients, floor, metronome
from .child_process import ChildProcess, child_process
from .clients import RoundTimes
from .figures import AtStreams, Cpu, Overhead, Times, bars_of
from .host.machine import describe_machine, describe_versions
from .idle import idle


@dataclass(frozen=True)
class Level:
    """The requests of each round: `answers` of `tokens` each, one after another, in each of `streams`. `rounds` rounds
    are direct and as many go through tokenlane, by turns.

    Args:
        first_ms: the time to the model server's first token.
        spacing_ms: the time between its tokens.
    """

    streams: int
    tokens: int
    answers: int
    rounds: int
    first_ms: float = 10
    spacing_ms: float = 20


@dataclass(frozen=True)
class MeasurementPlan:
    """A whole measurement: its levels, and the seconds without requests. At one stream the server answers at once."""

    levels: tuple[Level, ...]
    idle_s: float


FULL = MeasurementPlan(
    (
        Level(1, 2, 100, 10, first_ms=0, spacing_ms=1),
        Level(16, 128, 3, 4),
        Level(64, 128, 2, 4),
        Level(256, 128, 1, 4, spacing_ms=50),  # at 20 ms two cores are full, and its p99 is their backlog
    ),
    idle_s=20,
)
QUICK = MeasurementPlan(
    (
        Level(1, 2, 5, 1, first_ms=0, spacing_ms=1),
        *(Level(streams, 8, 1, 1, first_ms=1, spacing_ms=2) for streams in (16, 64, 256)),
    ),
    idle_s=1,
)


@dataclass(frozen=True)
class _Processes:
    redis: Redis
    backend: ChildProcess
    worker: ChildProcess
    bare: ChildProcess
    agent: ChildProcess

    async def server_cpu_s(self) -> float:
        used = await self.redis.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    async def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds that each process has used so far."""
        used = {name: await getattr(self, name).cpu_s() for name in ("backend", "worker", "bare", "agent")}
        return {**used, "server": await self.server_cpu_s()}


@asynccontextmanager
async def _processes(most_streams: int) -> AsyncIterator[_Processes]:
    async with (
        EmbeddedServer() as server,
        Redis.from_url(server.url) as redis,
        child_process(metronome.metronome) as backend,
        child_process(floor.echo, redis=server.url),
    ):
        url = await backend.ask(str, "url")
        async with (
            child_process(clients.worker, redis=server.url, endpoint=url, capacity=most_streams) as worker,
            child_process(clients.bare, endpoint=url) as bare,
            child_process(clients.agent, redis=server.url) as agent,
        ):
            await worker.ask(bool, "ready")
            yield _Processes(redis, backend, worker, bare, agent)


@dataclass(frozen=True)
class _Round:
    """The times of one client in one round, and the CPU seconds that each process used in it."""

    times: RoundTimes
    cpu_s: dict[str, float]

    def cpu_us(self, process: str) -> float:
        """Return the CPU time of a process in microseconds a token."""
        return 1e6 * self.cpu_s[process] / (len(self.times.first_ms) + len(self.times.delta_ms))


async def _round(processes: _Processes, client: ChildProcess, level: Level) -> _Round:
    answer_s = (level.first_ms + level.spacing_ms * level.tokens) / 1000
    before = await processes.cpu_s()
    times = await clients.ask_for_round(
        client, streams=level.streams, answers=level.answers, tokens=level.tokens, spread_s=answer_s
    )
    after = await processes.cpu_s()
    return _Round(times, {name: after[name] - before[name] for name in after})


async def measure(plan: MeasurementPlan, progress: Callable[[str], None] = lambda line: None) -> Overhead:
    """Run the whole measurement.

    Args:
        progress: called with a line of text before each round.

    Raises:
        UserError: a process of the measurement exited early, or the embedded server did not start.
    """
    levels: list[AtStreams] = []
    async with _processes(max(level.streams for level in plan.levels)) as processes:
        for client in (processes.bare, processes.agent):
            await client.cpu_s()  # waits until both run
        for level in plan.levels:
            await processes.backend.ask(type(None), "pace", first_ms=level.first_ms, spacing_ms=level.spacing_ms)
            ask_directly = partial(_round, processes, processes.bare, level)
            ask_tokenlane = partial(_round, processes, processes.agent, level)
            await ask_directly()
            await ask_tokenlane()
            direct, through = [], []
            for number in range(level.rounds):
                progress(f"{level.streams} streams, round {number + 1} of {level.rounds}")
                direct.append(await ask_directly())
                through.append(await ask_tokenlane())
            levels.append(_at(level, direct, through))
        progress("idle")
        at_rest = await idle(processes.worker.cpu_s, processes.server_cpu_s, plan.idle_s)
    return Overhead(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(),
        levels=levels,
        idle=at_rest,
        bars=list(bars_of(levels, at_rest)),
    )


def _at(level: Level, direct: Sequence[_Round], through: Sequence[_Round]) -> AtStreams:
    def pooled(rounds: Sequence[_Round], kind: str) -> list[float]:
        return [time_ms for each in rounds for time_ms in getattr(each.times, kind)]

    def cpu(process: str, *rounds: _Round) -> float:
        return median(each.cpu_us(process) for each in rounds)

    def over_bare(*names: str) -> float:
        pairs = zip(through, direct, strict=True)
        return median(sum(map(ours.cpu_us, names)) / bare.cpu_us("bare") for ours, bare in pairs)

    direct_first, direct_token = Times.of(pooled(direct, "first_ms")), Times.of(pooled(direct, "delta_ms"))
    floor_ms = pooled(through, "floor_ms")
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
            bare=cpu("bare", *direct),
            worker=cpu("worker", *through),
            agent=cpu("agent", *through),
            server=cpu("server", *through),
            backend=cpu("backend", *direct, *through),
            worker_over_bare=over_bare("worker"),
            worker_and_server_over_bare=over_bare("worker", "server"),
        ),
    )
