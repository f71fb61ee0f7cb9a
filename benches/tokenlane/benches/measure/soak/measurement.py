"""Runs a soak: a worker and an agent work steadily while another worker, connections and the model server fail.

The soak consists of rounds with the same faults in each, so their medians can be compared. In each round
all connections to Redis are cut, the model server fails some requests, and the other worker is killed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TypeAlias

from redis.asyncio import Redis

from tokenlane.benches.measure.child_process import ChildProcess, child_process
from tokenlane.benches.measure.clients import LANE
from tokenlane.benches.measure.host.machine import describe_machine, describe_versions
from tokenlane.benches.measure.worker_processes import worker_process
from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import UserError
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import connect
from tokenlane.routing.support.tasks import background

from .processes import ROLES, agent, held_by, worker
from .report import MEMORY, SHORTEST_WARM_UP, Soak, SoakFigure

STREAMS = 8
_NAME = "soak"
"""The name by which the server knows the connections of the soak itself."""
_OTHER_LANE = "restarted"
_TOKENS, _SPACING_MS = 16, 20
_ROUND_S, _FEWEST_ROUNDS = 30.0, 3
_WARM_UP = 4
"""One of so many rounds is warm-up."""
_SAMPLES = 30
"""How often each figure is measured in a round."""
_FAILURES = (FaultScript(status=503), FaultScript(cut_after=5), FaultScript(error_after=5))
_RECORD_KEPT_MS = 10_000
_MOST_FAILED = 0.1

_Sample: TypeAlias = Mapping[tuple[str, str], float]
"""The values of all figures at one time, by process and name."""


@dataclass(frozen=True)
class SoakPlan:
    """The number and length of the rounds."""

    rounds: int
    round_s: float

    @classmethod
    def of(cls, minutes: float) -> SoakPlan:
        """Rounds of 30 s, or 3 shorter ones."""
        rounds = max(_FEWEST_ROUNDS, round(60 * minutes / _ROUND_S))
        return cls(rounds, 60 * minutes / rounds)


@dataclass(frozen=True)
class _Site:
    """The processes of the soak, and the connection by which the soak itself asks the Redis server."""

    server: EmbeddedServer
    redis: Redis
    model_server: Simulator
    worker: ChildProcess
    agent: ChildProcess

    async def sample(self) -> _Sample:
        """Measure each figure once."""
        info = await self.redis.info()
        keys = info["db0"]["keys"] - info["db0"]["expires"]
        counts = {
            "worker": (self.worker.process.pid, await self.worker.ask(dict[str, float], "count")),
            "agent": (self.agent.process.pid, await self.agent.ask(dict[str, float], "count")),
            "Redis server": (
                int(info["process_id"]),
                {"memory in use (MB)": int(info["used_memory"]) / 1e6, "keys that do not expire": keys},
            ),
        }
        sample: dict[tuple[str, str], float] = {}
        for process, (number, counted) in counts.items():
            held = held_by(number)
            figures = {MEMORY: held.memory_mb, **counted, "connections": held.connections, "open files": held.files}
            sample.update({(process, name): value for name, value in figures.items()})
        return sample

    async def forget_ended_requests(self) -> None:
        """Have the records of ended requests expire soon, whose number would otherwise grow for an hour."""
        pattern = f"{Keys().prefix}request:*"
        async with self.redis.pipeline(transaction=False) as commands:
            async for key in self.redis.scan_iter(pattern, count=1000):
                commands.pexpire(key, _RECORD_KEPT_MS, xx=True, lt=True)  # a live request does not expire
            await commands.execute()

    async def cut_connections(self) -> None:
        """Have the server close all connections but those of the soak itself."""
        for client in await self.redis.client_list():
            if client["name"] != _NAME:
                await self.redis.client_kill_filter(_id=client["id"])


async def measure(minutes: float, progress: Callable[[str], None] = lambda line: None) -> Soak:
    """Run the whole soak.

    Args:
        progress: called with a line of text before each round.

    Raises:
        UserError: a process exited early; many requests failed; this system has no /proc.
        ExceptionGroup: the other worker did not start.
    """
    plan = SoakPlan.of(minutes)
    rounds: list[_Sample] = []
    async with _site() as site:
        began_s = time.monotonic()
        for number in range(plan.rounds):
            progress(f"round {number + 1} of {plan.rounds}")
            rounds.append(await _round(site, plan))
        round_s = (time.monotonic() - began_s) / plan.rounds
        ended = await site.agent.ask(Counter[str], "ended")
    _check(ended)
    warm_up = min(max(plan.rounds // _WARM_UP, SHORTEST_WARM_UP), plan.rounds - _FEWEST_ROUNDS)
    return Soak(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(),
        minutes=minutes,
        streams=STREAMS,
        round_s=round_s,
        warm_up=warm_up,
        ended=dict(ended),
        figures=[
            SoakFigure.of(process, name, [sample[process, name] for sample in rounds], warm_up, round_s)
            for process, name in rounds[0]
        ],
    )


def _check(ended: Counter[str]) -> None:
    """Raise an error if the load was not steady, since the figures then mean nothing."""
    failed = ended.total() - ended["answered"] - ended["cancelled"]
    if failed > _MOST_FAILED * ended.total():
        raise UserError(f"The measurement failed: {failed} of {ended.total()} requests failed, by code: {dict(ended)}.")


@asynccontextmanager
async def _site() -> AsyncIterator[_Site]:
    lanes = (LANE, _OTHER_LANE)
    routes = (lanes, lanes[::-1])
    roles = {
        role: RolePolicy(route=tuple(Candidate(lane=lane) for lane in route))
        for role, route in zip(ROLES, routes, strict=True)
    }
    async with (
        EmbeddedServer() as server,
        Redis.from_url(server.url, client_name=_NAME) as redis,
        Simulator(tokens=_TOKENS, itl_ms=_SPACING_MS, capacity=2 * STREAMS) as model_server,
    ):
        async with connect(server.url) as pool:
            await pool.policies.write(Policy(roles=roles, lease_ms=2000, max_crashes=100))
        serving = child_process(worker, redis=server.url, endpoint=model_server.url, capacity=STREAMS)
        async with serving as working:
            await working.ask(bool, "ready")
            async with child_process(agent, redis=server.url, streams=STREAMS) as asking:
                yield _Site(server, redis, model_server, working, asking)


async def _round(site: _Site, plan: SoakPlan) -> _Sample:
    """Measure the figures again and again during the faults of a round, and return their medians."""
    for child in (site.worker, site.agent):
        await child.ask(int, "collect")
    samples = []
    async with background() as tasks:
        disturbing = tasks.create_task(_disturb(site, plan.round_s / 4))
        while not disturbing.done():
            await asyncio.sleep(plan.round_s / _SAMPLES)
            samples.append(await site.sample())
            await site.forget_ended_requests()
    return {figure: median(sample[figure] for sample in samples) for figure in samples[0]}


async def _disturb(site: _Site, pause_s: float) -> None:
    """Start the other worker, and cause the faults of a round, each after a pause. Pause at the end."""
    round_ends_s = asyncio.get_running_loop().time() + 4 * pause_s
    async with worker_process(site.server.url, _OTHER_LANE, site.model_server, STREAMS) as other:
        await asyncio.sleep(pause_s)
        await site.cut_connections()
        await asyncio.sleep(pause_s)
        site.model_server.faults.extend(_FAILURES)
        await asyncio.sleep(pause_s)
        other.kill()
    await asyncio.sleep(round_ends_s - asyncio.get_running_loop().time())
