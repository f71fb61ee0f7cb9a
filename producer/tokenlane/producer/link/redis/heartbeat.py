"""The client's beat: keeps its requests from being taken for orphans, and finds what pub/sub has lost.

A beat is sent every 2 s, whatever the streams do. It asks the pool about each request that has been silent for that
long, and again when the lease of its attempt is over: an answer that broke off is ended also where no router and no
worker is left to end it. How a request stands is passed to it without an await in between; what it wants to be done for
that is done afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress

from tokenlane.producer.link.link import Timings
from tokenlane.routing.carry_out_recovery import recover
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import together

from .redis_link import RedisLink
from .redis_request import RedisRequest
from .request_state import Interrupt, Step

logger = logging.getLogger(__name__)

_PERIODS_A_LEASE = 3
_BATCH = 128


class Heartbeat:
    """The beat of one client."""

    def __init__(self, pool: Pool, link: RedisLink, timings: Timings) -> None:
        self._pool = pool
        self._link = link
        self._timings = timings
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            silent = self._silent()
            batches = [silent[i : i + _BATCH] for i in range(0, len(silent), _BATCH)] or [[]]
            for number, batch in enumerate(batches):
                await self._try_beat(batch, counting=number == 0)
                pause_s = self._timings.beat_again_s if self._link.view.is_away else self._period_s / len(batches)
                await self._look_until(self._clock() + pause_s)

    async def beat(self, requests: Sequence[RedisRequest] = (), *, counting: bool = False) -> None:
        """Beat once, and see to these requests.

        Args:
            counting: ask for requests that the pool has and this client does not hold, and cancel them.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        asked_at, view = self._clock(), self._link.view
        ids, held = [request.id for request in requests], self._link.held if counting else None
        checked = await self._pool.beats.check(self._link.client, ids, held=held)
        if checked.lapsed:
            await recover(self._pool, checked.lapsed)
            checked = await self._pool.beats.check(self._link.client, ids, held=held)
        if view.is_away:
            logger.info("the pool is back")
        view.update(checked, self._clock())
        if view.needs_policy(checked):
            with suppress(LlmError):  # only words hang on it
                view.policy = await self._pool.policies.read()
        steps: list[Coroutine[None, None, None]] = []
        for request, standing in zip(requests, checked.standings, strict=True):
            try:
                steps += [self._take(request, step) for step in request.standing(standing, asked_at, view)]
            except Exception as error:  # the other requests are seen to all the same
                self._pool.internal_errors.note("judging of a request", error)
            if request.ended:
                self._link.leave(request)
        await together(*steps, self._cancel_strangers(checked.strangers))

    async def _try_beat(self, requests: Sequence[RedisRequest], *, counting: bool = False) -> None:
        for request in requests:
            request.asked_about()
        try:
            await self.beat(requests, counting=counting)
        except LlmError as error:
            view = self._link.view
            if not view.is_away:
                logger.warning("the pool is away, streams wait until their deadlines: %s", error)
            view.is_away = True
            for request in self._link:
                request.pool_away(str(error))

    async def _look_until(self, until: float) -> None:
        """Wait until then. Requests that want to be looked at before, and are silent, are seen to at their time."""
        while (now := self._clock()) < until:
            due = [request for request in self._link if request.look_at <= now]
            if due:
                await self._try_beat(due[:_BATCH])
            else:
                await asyncio.sleep(min([until, *(request.look_at for request in self._link)]) - now)

    async def _take(self, request: RedisRequest, step: Step) -> None:
        try:
            match step:
                case "send again":
                    await self._link.send_again(request)
                case "own again":
                    await self._pool.requests.attach(self._link.client, request.id)
                case Interrupt():
                    await self._interrupt(request, step)
        except LlmError:
            raise
        except Exception as error:
            self._pool.internal_errors.note("judging of a request", error)
        finally:
            if request.ended:
                self._link.leave(request)

    async def _interrupt(self, request: RedisRequest, step: Interrupt) -> None:
        """End the request for all who read it. Another attempt that has begun meanwhile asks how far this has got."""
        if await self._pool.requests.interrupt(self._link.client, request.id, step.attempt, step.position, step.error):
            request.interrupted(step.error)

    @property
    def _period_s(self) -> float:
        """A worker's death is to be noticed within a lease and a second, so a request's silence within a lease."""
        return min(self._timings.beat_every_s, self._link.view.lease_ms / 1000 / _PERIODS_A_LEASE)

    def _silent(self) -> list[RedisRequest]:
        return [request for request in self._link if request.is_silent(self._period_s)]

    async def _cancel_strangers(self, ids: Sequence[str]) -> None:
        """Cancel what the pool has of this client and nobody here wants: what was submitted too late, and what an
        older snapshot of the server's has brought back."""
        unwanted = [request_id for request_id in ids if request_id not in self._link]
        await together(*(self._pool.requests.cancel(request_id, self._link.client) for request_id in unwanted))
