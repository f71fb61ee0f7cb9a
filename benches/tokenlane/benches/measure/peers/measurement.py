"""Compares tokenlane with its peers: first token, throughput, CPU, memory, and what a kill costs.

Each peer moves the answers of the same simulated model server to an asker, with new processes and a new Redis server.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis

from tokenlane.benches.measure import metronome
from tokenlane.benches.measure.child_process import ChildProcess, child_process, meanwhile
from tokenlane.benches.measure.clients import RoundTimes
from tokenlane.benches.measure.figures import Times
from tokenlane.benches.measure.host.machine import describe_machine, describe_versions
from tokenlane.benches.measure.host.server_processes import used_cpu_s
from tokenlane.benches.measure.overhead import Level
from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import UserError
from tokenlane.config.host.embedded_server import EmbeddedServer

from . import losses
from .between import Intermediary, between, processes_of
from .catalog import PEERS, Peer, Place, free_port
from .environments import environment_of
from .programs.rounds import Watched
from .report import AtStreams, Comparison, Loss, Memory, OfPeer

_START_TIMEOUT_S = 90.0
_ROUND_TIMEOUT_S = 150.0
_RETRY_S = 0.2
_MOST_STREAMS = 1000


@dataclass(frozen=True)
class Plan:
    """A whole measurement.

    Args:
        levels: the requests at each number of streams.
        memory_streams: how many streams are open while memory is measured.
        memory_s: how long they wait for their first token, and how long they stream.
        patience_s: how long the readers of a killed peer wait in silence.
    """

    levels: tuple[Level, ...]
    memory_streams: int
    memory_s: float
    patience_s: float


FULL = Plan(
    (
        Level(1, 64, 30, 2, spacing_ms=5),
        Level(16, 64, 4, 2, spacing_ms=25),
        Level(64, 64, 2, 2, spacing_ms=25),
        Level(256, 64, 1, 2, spacing_ms=50),
        Level(1000, 32, 1, 2, spacing_ms=100),
    ),
    memory_streams=256,
    memory_s=4,
    patience_s=90,
)
QUICK = Plan((Level(1, 4, 2, 1, 1, 2), Level(16, 4, 1, 1, 1, 2)), memory_streams=4, memory_s=0.4, patience_s=20)


@dataclass(frozen=True)
class _Running:
    asker: ChildProcess
    between: Intermediary

    async def cpu_s(self) -> tuple[float, float]:
        """Return the CPU seconds that what stands between and the asker have used so far."""
        return await self.between.cpu_s(), used_cpu_s(processes_of(self.asker.process.pid))

    async def load(self, level: Level, spread_s: float) -> RoundTimes:
        """Run a round of requests, whose streams start within `spread_s`."""
        asking = self.asker.ask(
            RoundTimes, "load", streams=level.streams, answers=level.answers, tokens=level.tokens, spread_s=spread_s
        )
        async with asyncio.timeout(_ROUND_TIMEOUT_S):
            return await asking

    async def until_it_answers(self) -> None:
        """Ask until an answer arrives. A proxy that is not up yet refuses; a queue waits for its worker.

        Raises:
            UserError: no answer arrived in time.
        """
        reason: str | None = "nothing arrived"
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while reason is not None:
                    asking = self.asker.ask(list[Watched], "watch", streams=1, tokens=2, patience_s=_START_TIMEOUT_S)
                    (answer,) = await asking
                    reason = answer.error
                    await asyncio.sleep(_RETRY_S)
        except TimeoutError:
            wrote = self.between.last_line() or "nothing"
            raise UserError(f"no answer within {_START_TIMEOUT_S:g} s: {reason}; it wrote: {wrote}") from None


@asynccontextmanager
async def _running(peer: Peer, python: Path, model_url: str, streams: int) -> AsyncIterator[_Running]:
    async with EmbeddedServer(listen=("127.0.0.1", free_port())) as server:
        redis_url = server.public_url("127.0.0.1")
        # The server's directory is removed even if this process is killed.
        place = Place(python, server.socket.parent, redis_url, model_url, free_port(), streams)
        # The settings of whoever measures must not change what is measured.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENLANE_")}  # noqa: TID251
        variables = {**kept, **place.variables, "TOKENLANE_LOG__LEVEL": "error"}
        async with (
            Redis.from_url(redis_url) as redis,
            between(peer, place, variables, redis) as process,
            peer.asker(place, variables) as asker,
        ):
            running = _Running(asker, process)
            await running.until_it_answers()
            yield running


async def measure(
    plan: Plan, peers: Sequence[str], *, kills: bool, fresh: bool, progress: Callable[[str], None] = lambda line: None
) -> Comparison:
    """Run the whole measurement.

    Args:
        peers: the names of the peers.
        kills: also measure what a kill costs.
        fresh: make the virtual environments again.
        progress: called with a line of text before each part.

    Raises:
        UserError: the model server or the embedded server did not start.
    """
    return Comparison(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(),
        peers=[await _of_peer(plan, PEERS[name], kills=kills, fresh=fresh, progress=progress) for name in peers],
    )


async def _of_peer(plan: Plan, peer: Peer, *, kills: bool, fresh: bool, progress: Callable[[str], None]) -> OfPeer:
    """Measure a peer. What fails is the reason in its part of the report, and does not end the measurement."""
    part = OfPeer(peer=peer.name, packages=list(peer.packages))
    try:
        progress(f"{peer.name}: its environment")
        python = await environment_of(peer, fresh=fresh)
        if plan.levels:
            await _measure_costs(plan, peer, python, part, progress)
        if kills and peer.between is not None and peer.is_killed:
            progress(f"{peer.name}: a kill")
            part.loss = await _measure_loss(plan, peer, python)
    except UserError as error:
        part.failure = str(error)
    except TimeoutError:
        part.failure = f"a round was not over within {_ROUND_TIMEOUT_S:g} s."
    return part


async def _measure_costs(plan: Plan, peer: Peer, python: Path, part: OfPeer, progress: Callable[[str], None]) -> None:
    async with child_process(metronome.metronome) as server:
        url = await server.ask(str, "tcp_url")
        async with _running(peer, python, url, _MOST_STREAMS) as running:
            progress(f"{peer.name}: memory")
            part.memory = await _memory(running, server, plan.memory_streams, plan.memory_s) if peer.between else None
            for level in plan.levels:
                progress(f"{peer.name}: {level.streams} streams")
                await server.ask(type(None), "pace", first_ms=level.first_ms, spacing_ms=level.spacing_ms)
                part.levels.append(await _at(running, level))


async def _memory(running: _Running, server: ChildProcess, streams: int, for_s: float) -> Memory:
    """Measure the memory without streams, while all wait for their first token, and while all stream."""
    at_rest = await running.between.memory_mb()
    await server.ask(type(None), "pace", first_ms=1000 * for_s, spacing_ms=50)
    # The requests start within half of `for_s`, so all wait after three quarters of it and stream after seven.
    level = Level(streams, answers=1, tokens=round(for_s / 0.05), rounds=1)
    async with meanwhile(running.load(level, spread_s=for_s / 2)) as asking:
        await asyncio.sleep(for_s * 3 / 4)
        waiting = await running.between.memory_mb()
        await asyncio.sleep(for_s)
        streaming = await running.between.memory_mb()
        await asking
    return Memory(
        at_rest_mb=at_rest,
        streams=streams,
        waiting_kb=1000 * (waiting - at_rest) / streams,
        streaming_kb=1000 * (streaming - at_rest) / streams,
    )


async def _at(running: _Running, level: Level) -> AtStreams:
    before = await running.cpu_s()
    answer_s = (level.first_ms + level.spacing_ms * (level.tokens - 1)) / 1000
    rounds = [await running.load(level, spread_s=answer_s) for _ in range(level.rounds)]
    after = await running.cpu_s()
    first_ms = [time_ms for times in rounds for time_ms in times.first_ms]
    failed = [line for times in rounds for line in times.failed]
    tokens = sum(len(times.first_ms) + len(times.delta_ms) for times in rounds)
    cpu_us = [1e6 * (now - then) / tokens if tokens else None for now, then in zip(after, before, strict=True)]
    return AtStreams(
        streams=level.streams,
        answers=level.streams * level.answers * level.rounds,
        tokens=level.tokens,
        first_ms=Times.of(first_ms) if len(first_ms) > 1 else None,
        tokens_per_s=tokens / sum(times.took_s for times in rounds),
        offered=level.streams * level.answers * level.tokens / (answer_s * (level.answers + 1 - 1 / level.streams)),
        between_us=cpu_us[0],
        asker_us=cpu_us[1],
        failed=len(failed),
        reason=failed[0] if failed else "",
    )


async def _measure_loss(plan: Plan, peer: Peer, python: Path) -> Loss:
    async with Simulator(
        api="vllm",
        models=(metronome.MODEL,),
        tokens=losses.TOKENS,
        itl_ms=losses.SPACING_MS,
        capacity=2 * losses.ANSWERS,
    ) as server:
        async with _running(peer, python, server.url, losses.ANSWERS) as running:
            return await losses.lose(server, running.asker, running.between, plan.patience_s)
