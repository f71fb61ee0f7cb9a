"""The dispatcher: reads what waits and which lanes have room, chooses, and gives requests to lanes.

Routers run as tasks inside worker processes, or alone. There is no leader: two that choose the same head are told
apart by the `dispatch` script. Those of rank 0 and 1 work; the others only ask for their rank.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from contextlib import suppress
from dataclasses import dataclass

from .advice import nobody
from .errors import LlmError
from .hub import Hub
from .messages import Failed, Kind
from .policy import Policy, candidates
from .pool import Pool, Survey
from .queues import Head, order

__all__ = ["Placement", "Plan", "Refusal", "plan", "run_router"]

logger = logging.getLogger(__name__)

_SWEEP_EVERY_S = 0.25
_SECOND_WAITS_S = 0.01
_WORKING_RANKS = 2


@dataclass(frozen=True)
class Placement:
    """A request that a lane is to have, and the model to use there."""

    head: Head
    lane: str
    model: str


@dataclass(frozen=True)
class Refusal:
    """A request that no lane can serve, and why."""

    head: Head
    error: LlmError


@dataclass(frozen=True)
class Plan:
    """What to do with the heads of one survey."""

    placements: tuple[Placement, ...]
    refusals: tuple[Refusal, ...]

    @property
    def all(self) -> tuple[Placement | Refusal, ...]:
        """Everything to do."""
        return self.placements + self.refusals


def plan(survey: Survey, policy: Policy) -> Plan:
    """Choose lanes for the heads of all queues: first come, first chosen, in the order of `queues.order`.

    A lane for which more of a higher priority waits than could be chosen now is left alone by lower ones of that kind.
    """
    credit: dict[tuple[str, Kind], int] = {}
    reserved: dict[tuple[str, Kind], str] = {}
    placements: list[Placement] = []
    refusals: list[Refusal] = []
    for head in order(survey.heads):
        priority, kind = head.queue.priority, head.queue.kind
        options = list(candidates(policy, head.queue.role, head.queue.needs, survey.lanes, kind))
        if not options and head.waited_ms >= policy.patience_ms:
            refusals.append(Refusal(head, nobody(head.queue, policy, survey.lanes)))
        for lane, model in options:
            slots = lane.name, kind
            left = credit.setdefault(slots, lane.credit_for(kind))
            if left > 0 and reserved.get(slots, priority) == priority:
                credit[slots] = left - 1
                placements.append(Placement(head, lane.name, model))
                break
        if head.more:
            for lane, _ in options:
                reserved.setdefault((lane.name, kind), priority)
    return Plan(tuple(placements), tuple(refusals))


async def run_router(pool: Pool, hub: Hub, *, host: str) -> None:
    """Sweep and dispatch until cancelled. `host` is part of the router's name: ranks go to different hosts first."""
    await _Router(pool, f"{host}/{secrets.token_hex(4)}").run(hub)


class _Router:
    def __init__(self, pool: Pool, name: str) -> None:
        self._pool = pool
        self._name = name
        self._rank = 0
        self._policy: Policy | None = None
        self._bell = asyncio.Event()

    async def run(self, hub: Hub) -> None:
        await hub.subscribe(self._pool.keys.doorbell, lambda _: self._bell.set(), self._bell.set)
        try:
            failing = False
            while True:
                try:
                    await self._turn()
                    failing = False
                except LlmError as error:
                    if not failing:
                        logger.warning("routing pauses: %s", error)
                    failing = True
                    await asyncio.sleep(_SWEEP_EVERY_S)
        finally:
            hub.unsubscribe(self._pool.keys.doorbell)

    async def _turn(self) -> None:
        """Sweep once; then dispatch at every ring of the doorbell until the next sweep is due."""
        next_sweep_at = asyncio.get_running_loop().time() + _SWEEP_EVERY_S
        idle = self._rank >= _WORKING_RANKS
        revision = None if idle or self._policy is None else self._policy.revision
        swept = await self._pool.sweep(self._name, rank_only=idle, revision=revision)
        self._rank = swept.rank
        if self._rank >= _WORKING_RANKS:
            # The jitter keeps idle routers of many hosts from asking all at once.
            await asyncio.sleep(random.uniform(1, 2))
            return
        await self._dispatch_all()
        clock = asyncio.get_running_loop().time
        while not swept.more and clock() < next_sweep_at and await self._rung(next_sweep_at):
            if self._rank > 0:
                await asyncio.sleep(_SECOND_WAITS_S)
            await self._dispatch_all()

    async def _rung(self, until: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._bell.wait()
        rung = self._bell.is_set()
        self._bell.clear()
        return rung

    async def _dispatch_all(self) -> None:
        while True:
            survey = await self._pool.survey()
            if self._policy is None or survey.revision != self._policy.revision:
                self._policy = await self._pool.policy()
            chosen = plan(survey, self._policy)
            done = await asyncio.gather(
                *(self._place(placement) for placement in chosen.placements),
                *(self._refuse(refusal) for refusal in chosen.refusals),
            )
            # What comes later rings; only what waited behind a head that has gone is to be looked at now.
            if not any(gone and choice.head.more for gone, choice in zip(done, chosen.all, strict=True)):
                return

    async def _place(self, placement: Placement) -> bool:
        attempt = await self._pool.dispatch(placement.head, placement.lane, placement.model, token=secrets.token_hex(8))
        return attempt is not None

    async def _refuse(self, refusal: Refusal) -> bool:
        report = refusal.error.report()
        message = Failed(attempt=refusal.head.attempt, error=report)
        return await self._pool.refuse(refusal.head.id, report.code, message.to_wire())
