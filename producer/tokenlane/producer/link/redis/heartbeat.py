"""The client's heartbeat: it keeps the client's requests from being cancelled as orphans, and finds lost messages.

A beat is sent every 2 s, whatever the streams do. It asks the pool about each request that was silent for that long,
and again when the lease of the request's attempt ends: the client itself ends an answer that broke off, even if no
router and no worker is left to do so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from tokenlane.routing.carry_out_recovery import recover
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_life import RequestStatus
from tokenlane.routing.support.tasks import gather_to_end

from .redis_link import RedisLink
from .redis_request import RedisRequest
from .request_state import Interrupt, Step
from .timings import Timings

logger = logging.getLogger(__name__)

_BEATS_PER_LEASE = 3
_BATCH = 128


class ClientHeartbeat:
    """The heartbeat of one client."""

    def __init__(self, pool: Pool, link: RedisLink, timings: Timings) -> None:
        self._pool = pool
        self._link = link
        self._timings = timings
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Send beats until cancelled."""
        while True:
            period_s = min(self._timings.beat_every_s, self._link.view.checked.lease_ms / 1000 / _BEATS_PER_LEASE)
            silent = [request for request in self._link if request.is_silent(period_s)]
            batches = [silent[i : i + _BATCH] for i in range(0, len(silent), _BATCH)] or [[]]
            for number, batch in enumerate(batches):
                await self._try_beat(batch, counting=number == 0)
                pause_s = self._timings.again_s if self._link.view.is_away else period_s / len(batches)
                await self._look_until(self._clock() + pause_s)

    async def beat(self, requests: Sequence[RedisRequest] = (), *, counting: bool = False) -> None:
        """Send one beat, and ask for the state of these requests.

        Args:
            counting: also ask for requests that the pool has under this client's name and the client does not hold, and
                cancel them.

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
        if view.needs_policy:
            with suppress(LlmError):  # it only serves to explain why requests wait
                view.policy = await self._pool.policies.read()
        judged = [
            self._judge(request, status, asked_at) for request, status in zip(requests, checked.statuses, strict=True)
        ]
        await gather_to_end(*judged, self._cancel_strangers(checked.strangers))

    async def _try_beat(self, requests: Sequence[RedisRequest], *, counting: bool = False) -> None:
        try:
            await self.beat(requests, counting=counting)
        except LlmError as error:
            if not self._link.view.is_away:
                logger.warning("the pool is away, streams wait until their deadlines: %s", error)
            self._link.view.is_away = True
            for request in self._link:
                request.pool_away(error.message)

    async def _look_until(self, until: float) -> None:
        """Wait until then, and meanwhile ask about each request at its `look_at`."""
        while (now := self._clock()) < until:
            due = [request for request in self._link if request.look_at <= now]
            if due:
                await self._try_beat(due[:_BATCH])
            else:
                await asyncio.sleep(min([until, *(request.look_at for request in self._link)]) - now)

    async def _judge(self, request: RedisRequest, status: RequestStatus, asked_at: float) -> None:
        """Pass a request how it stands and carry out what follows. A bug in that harms no other request."""
        try:
            for step in request.follow_status(status, asked_at, self._link.view):
                await self._carry_out(request, step)
        except LlmError:
            raise
        except Exception as error:
            self._pool.internal_errors.record("judging of a request", error)
        finally:
            if request.ended:
                self._link.leave(request)

    async def _carry_out(self, request: RedisRequest, step: Step) -> None:
        match step:
            case "send again":
                await self._link.send_again(request)
            case "own again":
                await self._pool.requests.attach(self._link.client, request.id)
            case Interrupt(attempt, position, error):
                # Refused if another attempt has begun meanwhile: its worker asks how far this client has got.
                owner = self._link.client
                if await self._pool.requests.fail(request.id, attempt, error, owner=owner, end=position):
                    request.interrupted(error)

    async def _cancel_strangers(self, ids: Sequence[str]) -> None:
        """Cancel requests that the pool has under this client's name and the client does not hold: one was submitted
        too late, or an older snapshot of the server brought it back."""
        unwanted = [request_id for request_id in ids if request_id not in self._link]
        await gather_to_end(*(self._pool.requests.cancel(request_id, self._link.client) for request_id in unwanted))
