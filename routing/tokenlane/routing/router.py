"""The router: dispatches waiting requests to the lanes that `decide/plan.py` chooses.

Every worker process runs a router as a task; `tokenlane router` runs only a router. Routers need no leader: if two of
them choose a lane for the same request, the `dispatch` script accepts the first choice. The routers of rank 0 and 1
dispatch; all others stand by, and only ask the pool for their rank.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from .carry_out_recovery import recover
from .contract.errors import LlmError
from .decide.plan import Placement, PullRequest, Refusal, Survey, plan
from .decide.policy import Policy
from .store.beats import SweepReply
from .store.hub import Hub
from .store.pool import Pool
from .support.tasks import gather_to_end, restart_on_error

logger = logging.getLogger(__name__)

_WORKING_RANKS = 2


@dataclass(frozen=True)
class Timings:
    """The pauses of a router. It also sweeps when its doorbell has not rung, since pub/sub may lose a ring.

    `sweep_every_s`: the pause between sweeps while requests wait or run. `rest_s`: the longest pause while no request
    waits or runs. `second_waits_s`: how long the router of rank 1 waits after a ring, to let the router of rank 0 go
    first.
    """

    sweep_every_s: float = 0.25
    rest_s: float = 1.0
    second_waits_s: float = 0.01


async def run_router(pool: Pool, hub: Hub, *, host: str, timings: Timings = Timings()) -> None:
    """Sweep and dispatch until cancelled.

    Args:
        host: the name of this host. The pool ranks the first router of every host before the second of any host.
    """
    router = _Router(pool, f"{host}/{secrets.token_hex(4)}", timings)
    await restart_on_error("router", lambda: router.run(hub), pool.internal_errors)


class _Router:
    def __init__(self, pool: Pool, name: str, timings: Timings) -> None:
        self._pool = pool
        self._name = name
        self._timings = timings
        self._rank = 0
        self._policy: Policy | None = None
        self._bell = asyncio.Event()

    async def run(self, hub: Hub) -> None:
        await hub.subscribe(self._pool.keys.doorbell, lambda _: self._bell.set(), self._bell.set)
        try:
            failing = False
            while True:
                try:
                    await self._sweep_and_dispatch()
                    failing = False
                except LlmError as error:
                    if not failing:
                        logger.warning("the router cannot use the pool, and tries again until it can: %s", error)
                    failing = True
                    await asyncio.sleep(self._timings.sweep_every_s)
        finally:
            hub.unsubscribe(self._pool.keys.doorbell)

    async def _sweep_and_dispatch(self) -> None:
        """Sweep once and dispatch. Then dispatch whenever the doorbell rings, until the next sweep is due."""
        clock = asyncio.get_running_loop().time
        swept_at, ranks_only = clock(), self._rank >= _WORKING_RANKS
        revision = None if ranks_only or self._policy is None else self._policy.revision
        swept = await self._pool.beats.sweep(self._name, rank_only=ranks_only, revision=revision)
        self._rank = swept.rank
        await recover(self._pool, swept.lapsed)
        if self._rank >= _WORKING_RANKS:
            if ranks_only:
                # The jitter keeps idle routers on many hosts from asking at the same time.
                await asyncio.sleep(random.uniform(0.5, 1) * swept.due_ms / 1000)
            return
        policy = self._policy
        if policy is None or swept.revision != policy.revision or swept.waits or swept.lapsed:
            policy = await self._dispatch_all()
        until = swept_at + self._rest_s(swept, policy)
        while not swept.more and clock() < until and await self._bell_rings(until):
            until = min(until, clock() + self._timings.sweep_every_s)  # a new request waits or runs
            if self._rank > 0:
                await asyncio.sleep(self._timings.second_waits_s)
            await self._dispatch_all()

    def _rest_s(self, swept: SweepReply, policy: Policy) -> float:
        """How long after this sweep the next sweep is due if the doorbell does not ring. A router that is silent for
        half a lease loses its rank."""
        if swept.waits or swept.runs:
            return self._timings.sweep_every_s
        return min(self._timings.rest_s, policy.lease_ms / 4000, swept.due_ms / 1000)

    async def _bell_rings(self, until: float) -> bool:
        """Wait for the doorbell, but not longer than until this time on the loop's clock; return whether it rang."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._bell.wait()
        rung = self._bell.is_set()
        self._bell.clear()
        return rung

    async def _dispatch_all(self) -> Policy:
        """Dispatch requests until no lane can accept another waiting request; return the pool's policy."""
        refused: dict[str, frozenset[str]] = {}
        while True:
            survey = await self._pool.survey()
            if self._policy is None or survey.revision != self._policy.revision:
                self._policy = await self._pool.policies.read()
            chosen = plan(survey, self._policy, refused)
            accepted = await gather_to_end(
                *(self._place(placement) for placement in chosen.placements),
                *(self._refuse(refusal) for refusal in chosen.refusals),
            )
            await self._request_pulls(chosen.pulls, survey)
            turned_away = [placement for placement, ok in zip(chosen.placements, accepted, strict=False) if not ok]
            for placement in turned_away:
                refused[placement.head.id] = refused.get(placement.head.id, frozenset()) | {placement.lane}
            # New requests ring the doorbell. Another survey is needed only for requests behind a dispatched head.
            more_wait = any(ok and choice.head.more for ok, choice in zip(accepted, chosen.all, strict=True))
            if not (turned_away or more_wait):
                return self._policy

    async def _request_pulls(self, pulls: Sequence[PullRequest], survey: Survey) -> None:
        """Ask lanes to pull models. A message may be lost, so ask at every survey until the lane announces the pull."""
        announced = {PullRequest(lane.name, model) for lane in survey.lanes for model in lane.offer.pulling}
        if wanted := [pull for pull in pulls if pull not in announced]:
            await self._pool.publish([(self._pool.keys.lane_pulls(pull.lane), pull.model.encode()) for pull in wanted])

    async def _place(self, placement: Placement) -> bool:
        token = secrets.token_hex(8)
        return await self._pool.requests.dispatch(placement.head, placement.lane, placement.model, token) is not None

    async def _refuse(self, refusal: Refusal) -> bool:
        return await self._pool.requests.fail(refusal.head.id, refusal.head.attempt, refusal.error)
