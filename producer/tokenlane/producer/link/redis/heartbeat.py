"""The client's heartbeat: it keeps the client's requests from being cancelled as orphans, and detects lost messages.

The client sends a beat every two seconds. With each beat it checks the requests for which no message has arrived since
the last one. It also checks a request when the lease of the request's attempt ends, so that the client itself can put
the request back into its queue, even if no router and no worker is left.
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
from .request_state import Step
from .timings import Timings

logger = logging.getLogger(__name__)

_BEATS_PER_LEASE = 3
_BATCH = 128


class ClientHeartbeat:
    """Sends one client's beats, and passes each reply to the requests that it concerns."""

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
                await self._try_beat(batch, counts_requests=number == 0)
                pause_s = self._timings.retry_every_s if self._link.view.is_away else period_s / len(batches)
                await self._check_requests_until(self._clock() + pause_s)

    async def beat(self, requests: Sequence[RedisRequest] = (), *, counts_requests: bool = False) -> None:
        """Send one beat, and check the states of these requests.

        Args:
            counts_requests: also find and cancel requests that belong to this client in the pool but that the client
                does not know.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        asked_at, view = self._clock(), self._link.view
        ids, held = [request.id for request in requests], self._link.owned_requests if counts_requests else None
        checked = await self._pool.beats.check(self._link.client, ids, held=held)
        if checked.lapsed:
            await recover(self._pool, checked.lapsed)
            checked = await self._pool.beats.check(self._link.client, ids, held=held)
        if view.is_away:
            logger.info("the pool answers again")
        view.update(checked, self._clock())
        if view.needs_policy:
            with suppress(LlmError):  # the policy is only needed to explain why requests wait
                view.policy = await self._pool.policies.read()
        pairs = zip(requests, checked.statuses, strict=True)
        updates = [self._update_request(request, status, asked_at) for request, status in pairs]
        await gather_to_end(*updates, self._cancel_unknown(checked.strangers))

    async def _try_beat(self, requests: Sequence[RedisRequest], *, counts_requests: bool = False) -> None:
        try:
            await self.beat(requests, counts_requests=counts_requests)
        except LlmError as error:
            if not self._link.view.is_away:
                logger.warning("the pool does not answer, streams wait until their deadlines: %s", error)
            self._link.view.is_away = True
            for request in self._link:
                request.report_outage(error.message)

    async def _check_requests_until(self, until: float) -> None:
        """Check each request at its `check_at`, until that time on the loop's clock."""
        while (now := self._clock()) < until:
            due = [request for request in self._link if request.check_at <= now]
            if due:
                await self._try_beat(due[:_BATCH])
            else:
                await asyncio.sleep(min([until, *(request.check_at for request in self._link)]) - now)

    async def _update_request(self, request: RedisRequest, status: RequestStatus, asked_at: float) -> None:
        """Pass a request its status in the pool, and carry out the steps that follow. A bug there affects no other
        request."""
        try:
            for step in request.follow_status(status, asked_at, self._link.view):
                await self._carry_out(request, step)
        except LlmError:
            raise
        except Exception as error:
            self._pool.internal_errors.record("updating a request", error)
        finally:
            if request.ended:
                self._link.leave(request)

    async def _carry_out(self, request: RedisRequest, step: Step) -> None:
        match step:
            case "resubmit":
                await self._link.resubmit(request)
            case "reclaim":
                await self._pool.requests.attach(self._link.client, request.id)

    async def _cancel_unknown(self, ids: Sequence[str]) -> None:
        """Cancel requests that belong to this client in the pool but that the client does not know.

        The submission of such a request arrived late, or the server was restored from an older snapshot.
        """
        unwanted = [request_id for request_id in ids if request_id not in self._link]
        await gather_to_end(*(self._pool.requests.cancel(request_id, self._link.client) for request_id in unwanted))
