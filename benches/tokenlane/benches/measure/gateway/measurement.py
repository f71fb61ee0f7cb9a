"""Measures the gateway: an agent with a `Client` and an HTTP client of the gateway take turns on the same pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from statistics import median

from starlette.requests import Request

from tokenlane.benches.measure import clients, metronome
from tokenlane.benches.measure.child_process import ChildProcess, Tasks, child_process
from tokenlane.benches.measure.clients import RoundTimes
from tokenlane.benches.measure.figures import Times
from tokenlane.benches.measure.host.machine import describe_machine, describe_versions
from tokenlane.benches.measure.overhead import Level
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.producer import Client
from tokenlane.producer.gateway.access.caller import Caller
from tokenlane.producer.gateway.app import batch_keeper, gateway_app
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.files.shelf import Shelf
from tokenlane.producer.gateway.http.server import serve_asgi
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.keychain import Keychain
from tokenlane.routing.support.tasks import background

from .report import AtStreams, GatewayCost

FULL = (Level(1, 2, 100, 6, first_ms=0, spacing_ms=1), Level(64, 128, 2, 6))
QUICK = (Level(1, 2, 5, 1, first_ms=0, spacing_ms=1), Level(64, 8, 1, 1, first_ms=1, spacing_ms=2))


@asynccontextmanager
async def gateway(redis: str, files: str | None = None) -> AsyncIterator[Tasks]:
    """Run the process of the gateway. The task `url` returns its URL.

    Args:
        files: the directory for files and batches; None for a gateway without them.
    """

    async def caller_of(_: Request) -> Caller:
        return Caller("gateway", role="planner")

    async def policy() -> Policy:
        return Policy()

    async def why_not_ready() -> str:
        return ""

    async with Client(redis, key=[]) as client, background() as tasks:
        door, keeper = Door(client, caller_of, policy), None
        if files is not None:
            keeper = batch_keeper(door, Shelf(Path(files), Keychain(KeyRing((PoolKey(token_bytes(32)),)), "pool")))
            tasks.create_task(keeper.keep(), name="batches")
        app = gateway_app(door, why_not_ready, keeper)
        async with serve_asgi(app, ("127.0.0.1", 0), option="--listen") as url:

            async def its_url() -> str:
                return url

            yield {"url": its_url}


@dataclass(frozen=True)
class _Round:
    times: RoundTimes
    cpu_s: float

    @property
    def cpu_us(self) -> float:
        """The CPU time in microseconds a token."""
        return 1e6 * self.cpu_s / (len(self.times.first_ms) + len(self.times.delta_ms))


async def measure(plan: Sequence[Level], progress: Callable[[str], None] = lambda line: None) -> GatewayCost:
    """Run the whole measurement.

    Raises:
        UserError: a process of the measurement exited early, or the embedded server did not start.
    """
    most = max(level.streams for level in plan)
    async with EmbeddedServer() as server, child_process(metronome.metronome) as backend:
        endpoint = await backend.ask(str, "url")
        async with (
            child_process(clients.worker, redis=server.url, endpoint=endpoint, capacity=most) as worker,
            child_process(clients.agent, redis=server.url, measures_floor=False) as agent,
            child_process(gateway, redis=server.url) as door,
            child_process(clients.bare, endpoint=await door.ask(str, "url")) as asker,
        ):
            await worker.ask(bool, "ready")
            levels: list[AtStreams] = []
            for level in plan:
                await backend.ask(type(None), "pace", first_ms=level.first_ms, spacing_ms=level.spacing_ms)
                await _round(agent, agent, level)
                await _round(asker, door, level)
                pairs: list[tuple[_Round, _Round]] = []
                for number in range(level.rounds):
                    progress(f"{level.streams} streams, round {number + 1} of {level.rounds}")
                    pairs.append((await _round(agent, agent, level), await _round(asker, door, level)))
                levels.append(_at(level, pairs))
    return GatewayCost(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(),
        levels=levels,
    )


async def _round(asker: ChildProcess, measured: ChildProcess, level: Level) -> _Round:
    """Run a round of requests. `measured`: the process whose CPU time counts."""
    answer_s = (level.first_ms + level.spacing_ms * level.tokens) / 1000
    before = await measured.cpu_s()
    times = await clients.ask_for_round(
        asker, streams=level.streams, answers=level.answers, tokens=level.tokens, spread_s=answer_s
    )
    return _Round(times, await measured.cpu_s() - before)


def _at(level: Level, pairs: Sequence[tuple[_Round, _Round]]) -> AtStreams:
    direct, through = zip(*pairs, strict=True)

    def first(rounds: Sequence[_Round]) -> Times:
        return Times.of([time_ms for each in rounds for time_ms in each.times.first_ms])

    return AtStreams(
        streams=level.streams,
        tokens=level.tokens,
        answers=level.streams * level.answers * level.rounds,
        client_first_ms=first(direct),
        gateway_first_ms=first(through),
        agent_us=median(each.cpu_us for each in direct),
        gateway_us=median(each.cpu_us for each in through),
        hop_us=median(ours.cpu_us - agent.cpu_us for agent, ours in pairs),
    )
