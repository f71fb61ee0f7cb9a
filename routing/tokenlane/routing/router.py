"""The dispatcher: reads what waits and which lanes have room, chooses, and gives requests to lanes.

Routers run as tasks inside worker processes, or alone. There is no leader: two that choose the same head are told
apart by the `dispatch` script. Those of rank 0 and 1 work; the others only ask for their rank.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, get_args

from .contract.errors import LlmError
from .contract.kinds import KINDS
from .contract.messages import Failed, Kind, Priority
from .decide.lanes.offer import LaneView
from .decide.no_candidate import nobody, not_pulled
from .decide.order import Head, order
from .decide.policy import Policy, all_heard_ms, candidates, pullers
from .store.hub import Hub
from .store.pool import Pool
from .store.survey import Survey
from .support.tasks import keep_going, together

__all__ = ["Placement", "Plan", "Refusal", "Wish", "plan", "run_router"]

logger = logging.getLogger(__name__)

_SWEEP_EVERY_S = 0.25
_SECOND_WAITS_S = 0.01
_WORKING_RANKS = 2
_PRIORITIES: tuple[Priority, ...] = get_args(Priority)

_Slots: TypeAlias = tuple[str, Kind]
_Options: TypeAlias = list[tuple[LaneView, str]]


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
class Wish:
    """A model that a lane is to pull for a request that waits."""

    lane: str
    model: str


@dataclass(frozen=True)
class Plan:
    """What to do with the heads of one survey."""

    placements: tuple[Placement, ...]
    refusals: tuple[Refusal, ...]
    wishes: tuple[Wish, ...] = ()

    @property
    def all(self) -> tuple[Placement | Refusal, ...]:
        """Everything that takes a head off its queue."""
        return self.placements + self.refusals


def plan(survey: Survey, policy: Policy) -> Plan:
    """Choose lanes for the heads of all queues, those of the highest priority first.

    Each asks for the best of its lanes that has credit. A lane takes as many as it has credit for, in the order of
    `queues.order`; who is left asks again. A lane for which more of a priority waits than could be chosen now is left
    alone by lower ones of that kind.
    """
    weights = {name: role.weight for name, role in policy.roles.items()}
    options: dict[str, _Options] = {}
    for queue in {head.queue.name: head.queue for head in survey.heads}.values():
        options[queue.name] = list(candidates(policy, queue.role, queue.needs, survey.lanes, queue.kind))
    credit: dict[_Slots, int] = {}
    placements: list[Placement] = []
    placed: set[str] = set()
    refusals: list[Refusal] = []
    wishes: dict[Wish, None] = {}
    for priority in _PRIORITIES:
        heads = left = [head for head in survey.heads if head.queue.priority == priority]
        while left and (asked := _asked(left, options, credit)):
            for slots, those in asked.items():
                taken = list(islice(order(those, weights, slots[0]), credit[slots]))
                placements += [_placement(head, slots[0], options) for head in taken]
                credit[slots] -= len(taken)
                placed |= {head.id for head in taken}
            left = [head for head in left if head.id not in placed]
        for head in heads:
            if head.more:
                credit |= {(lane.name, head.queue.kind): 0 for lane, _ in options[head.queue.name]}
            if not options[head.queue.name]:
                wish = _wish(head, policy, survey.lanes)
                if isinstance(wish, Wish):
                    wishes[wish] = None
                elif head.waited_ms >= policy.patience_ms and survey.watched_ms >= all_heard_ms(policy.lease_ms):
                    refusals.append(Refusal(head, wish))
    return Plan(tuple(placements), tuple(refusals), tuple(wishes))


def _asked(
    heads: Sequence[Head], options: Mapping[str, _Options], credit: dict[_Slots, int]
) -> dict[_Slots, list[Head]]:
    """The heads by what each asks for; without those whose lanes have no credit left."""
    asked: defaultdict[_Slots, list[Head]] = defaultdict(list)
    best: dict[str, _Slots | None] = {}
    for head in heads:
        name = head.queue.name
        if name not in best:
            best[name] = _best(options[name], head.queue.kind, credit)
        if (slots := best[name]) is not None:
            asked[slots].append(head)
    return asked


def _best(options: _Options, kind: Kind, credit: dict[_Slots, int]) -> _Slots | None:
    for lane, _ in options:
        slots = lane.name, kind
        if slots not in credit:
            credit[slots] = lane.credit_for(kind)
        if credit[slots] > 0:
            return slots
    return None


def _placement(head: Head, name: str, options: Mapping[str, _Options]) -> Placement:
    model = next(model for lane, model in options[head.queue.name] if lane.name == name)
    return Placement(head, name, model)


def _wish(head: Head, policy: Policy, lanes: Sequence[LaneView]) -> Wish | LlmError:
    """What is to be pulled for a head without candidates; why nothing is."""
    queue = head.queue
    if not KINDS[queue.kind].follows_routes:
        return nobody(queue, policy, lanes)
    found = list(pullers(policy, queue.role, queue.needs, lanes))
    for lane, model in found:
        if model not in lane.offer.unpulled:
            return Wish(lane.name, model)
    return not_pulled(*found[0]) if found else nobody(queue, policy, lanes)


async def run_router(pool: Pool, hub: Hub, *, host: str) -> None:
    """Sweep and dispatch until cancelled. `host` is part of the router's name: ranks go to different hosts first."""
    router = _Router(pool, f"{host}/{secrets.token_hex(4)}")
    await keep_going("router", lambda: router.run(hub), pool.internal_errors)


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
        swept = await self._pool.beats.sweep(self._name, rank_only=idle, revision=revision)
        self._rank = swept.rank
        if self._rank >= _WORKING_RANKS:
            # The jitter keeps idle routers of many hosts from asking all at once.
            await asyncio.sleep(random.uniform(1, 2))
            return
        await self._dispatch_all()
        clock = asyncio.get_running_loop().time
        while not swept.more and clock() < next_sweep_at and await self._is_rung(next_sweep_at):
            if self._rank > 0:
                await asyncio.sleep(_SECOND_WAITS_S)
            await self._dispatch_all()

    async def _is_rung(self, until: float) -> bool:
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
                self._policy = await self._pool.policies.read()
            chosen = plan(survey, self._policy)
            done = await together(
                *(self._place(placement) for placement in chosen.placements),
                *(self._refuse(refusal) for refusal in chosen.refusals),
            )
            await self._wish_for(chosen.wishes, survey)
            # What comes later rings; only what waited behind a head that has gone is to be looked at now.
            if not any(gone and choice.head.more for gone, choice in zip(done, chosen.all, strict=True)):
                return

    async def _wish_for(self, wishes: Sequence[Wish], survey: Survey) -> None:
        """Tell lanes what to pull, at every turn until they say that they do: a word may be lost."""
        pulled = {(lane.name, model) for lane in survey.lanes for model in lane.offer.pulling}
        said = [wish for wish in wishes if (wish.lane, wish.model) not in pulled]
        if said:
            await self._pool.publish([(self._pool.keys.lane_wishes(wish.lane), wish.model.encode()) for wish in said])

    async def _place(self, placement: Placement) -> bool:
        token = secrets.token_hex(8)
        return await self._pool.requests.dispatch(placement.head, placement.lane, placement.model, token) is not None

    async def _refuse(self, refusal: Refusal) -> bool:
        report = refusal.error.report()
        message = Failed(attempt=refusal.head.attempt, error=report)
        return await self._pool.requests.refuse(refusal.head.id, report.code, message.to_wire())
