"""Measures how long an answer pauses when the worker that streams it is killed: from the kill to the next token.

Several pools on one Redis server are measured at the same time. Each has two workers, which also route, on a lane each.
One worker streams an answer and is killed with SIGKILL at a random moment within a third of a lease, which is how often
workers renew their leases. The other worker continues the answer. Every answer is checked against the text that the
simulated model server gives without a kill.
"""

from __future__ import annotations

import random
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel

from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import UserError
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.producer import Client
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import connect
from tokenlane.worker.providers.http.gather_or_cancel import gather_or_cancel

from .figures import Bar, Times, line_of
from .host.machine import describe_machine, describe_versions
from .worker_processes import worker_process

ALLOWANCE_S = 1.0
"""How much longer than the lease an answer may pause."""
_KILLED, _SURVIVOR = "killed", "survivor"
_ROLE = "planner"
_ROUTE = RolePolicy(route=(Candidate(lane=_KILLED), Candidate(lane=_SURVIVOR)))
_SPACING_MS = 20
_TOKENS = 2000
_TEXT = "".join(f"w{number} " for number in range(_TOKENS))


@dataclass(frozen=True)
class RecoveryPlan:
    """A whole measurement: at each lease, so many kills in each of the pools."""

    leases_s: tuple[float, ...]
    pools: int
    kills: int


FULL = RecoveryPlan((2.0, 10.0), pools=5, kills=4)
QUICK = RecoveryPlan((1.0,), pools=2, kills=1)


class AtLease(BaseModel):
    """The pauses at one lease: `pause_ms` from the kill to the first token of the worker that continues the answer."""

    lease_s: float
    pause_ms: Times


class Recovery(BaseModel):
    """The report of a whole measurement."""

    measured_at: str
    machine: str
    versions: str
    leases: list[AtLease]
    bars: list[Bar]


async def measure(plan: RecoveryPlan, progress: Callable[[str], None] = lambda line: None) -> Recovery:
    """Run the whole measurement.

    Args:
        progress: called with a line of text before each lease.

    Raises:
        UserError: an answer lost or repeated text; a worker or the embedded server did not start.
    """
    chance = random.Random(0)
    leases = []
    for lease_s in plan.leases_s:
        progress(f"{plan.pools * plan.kills} kills at a lease of {lease_s:g} s")
        async with (
            EmbeddedServer() as redis,
            Simulator(tokens=_TOKENS, itl_ms=_SPACING_MS, capacity=4 * plan.pools) as server,
        ):
            pools = [
                _in_pool(f"pool{number}", redis.url, server, lease_s, [chance.random() for _ in range(plan.kills)])
                for number in range(plan.pools)
            ]
            pauses_ms = [pause_ms for pauses_ms in await gather_or_cancel(*pools) for pause_ms in pauses_ms]
        leases.append(AtLease(lease_s=lease_s, pause_ms=Times.of(pauses_ms)))
    return Recovery(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(),
        leases=leases,
        bars=[
            Bar(
                name=f"kill to first continued token at a lease of {at.lease_s:g} s, p99, in ms",
                measured=at.pause_ms.p99,
                limit=1000 * (at.lease_s + ALLOWANCE_S),
            )
            for at in leases
        ],
    )


async def _in_pool(pool: str, redis: str, server: Simulator, lease_s: float, moments: list[float]) -> list[float]:
    """Kill a worker at each of these moments, in thirds of a lease after its first token. Returns the pauses in ms."""
    async with connect(redis, pool) as opened:
        await opened.policies.write(Policy(roles={_ROLE: _ROUTE}, lease_ms=int(1000 * lease_s)))
    pauses_ms = []
    async with (
        worker_process(redis, _SURVIVOR, server, 1, pool=pool),
        Client(redis, pool=pool, key=KeyRing()) as client,
    ):
        for moment in moments:
            async with worker_process(redis, _KILLED, server, 1, pool=pool) as worker:
                pauses_ms.append(await _pause_ms(client, worker, moment * lease_s / 3))
    return pauses_ms


async def _pause_ms(client: Client, worker: Process, delay_s: float) -> float:
    """Stream an answer, kill its worker, and return the time to the first token of the other worker."""
    text, position, attempt = "", 0, 0
    kill_at_s = killed_at_s = 0.0
    async with client.chat("Count.", role=_ROLE) as stream:
        async for delta in stream:
            now_s = time.monotonic()
            if delta.position != position or not _TEXT.startswith(text := text + delta.text):
                raise UserError("The measurement failed: an answer has a gap or a repeat.")
            position += 1
            if attempt == 0:
                attempt, kill_at_s = delta.attempt, now_s + delay_s
            if delta.attempt != attempt:
                return 1000 * (now_s - killed_at_s)
            if not killed_at_s and now_s >= kill_at_s:
                worker.kill()
                killed_at_s = time.monotonic()
    raise UserError("The measurement failed: an answer ended before its worker was killed.")


def table(report: Recovery) -> str:
    """Return the report as Markdown, for benches/README.md."""
    lines = [
        f"{report.measured_at}, {report.machine}; {report.versions}.",
        "",
        "| lease, s | kills | pause p50, ms | pause p99, ms |",
        "|--:|--:|--:|--:|",
        *(
            f"| {at.lease_s:g} | {at.pause_ms.samples} | {at.pause_ms.p50:.0f} | {at.pause_ms.p99:.0f} |"
            for at in report.leases
        ),
        "",
    ]
    return "\n".join([*lines, *map(line_of, report.bars)])
