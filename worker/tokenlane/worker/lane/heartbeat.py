"""Sends a worker's beats, which announce its lane, renew its leases, and reveal attempts that it has to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from tokenlane.routing.contract.errors import LaneConflict, LlmError
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.offer import Announcement, ServerFailure, WorkerInfo
from tokenlane.routing.decide.lanes.state import UP, LaneState
from tokenlane.routing.store.beats import RenewReply
from tokenlane.routing.store.pool import Pool

from .availability import Availability
from .running_attempts import Runs

logger = logging.getLogger(__name__)

_BEATS_PER_LEASE = 3
_RETRY_S = 0.1


class Heartbeat:
    """Sends three beats in each lease, even while nothing runs. The pool's policy sets the length of the lease."""

    def __init__(
        self,
        pool: Pool,
        worker: str,
        availability: Availability,
        worker_info: WorkerInfo,
        runs: Runs,
        report: Callable[[], WorkerReport] = WorkerReport,
    ) -> None:
        self.worker_info = worker_info
        self._pool, self._worker, self._availability = pool, worker, availability
        self._runs, self._report = runs, report
        self._registered: tuple[WorkerInfo, str] | None = None  # as last sent, with the key ids
        self._failure: ServerFailure | None = None
        self._last_announced: tuple[Announcement, LaneState] | None = None
        self._listeners: list[Callable[[], None]] = []
        self._pause_s = 0.0
        self._failing = False
        self.conflict: str | None = None
        """The endpoint whose worker uses the lane's name, so that this worker gets no work; None if there is none."""
        self._wake = asyncio.Event()
        self._beat_lock, self._announce_lock = asyncio.Lock(), asyncio.Lock()

    async def open(self) -> None:
        """Send the first beat. From then on, routers may dispatch work to the lane.

        Raises:
            LaneConflict: workers for another endpoint use the lane's name.
            PoolUnavailable: the pool does not answer.
        """
        beat, lane = await self._renew(), self._availability.announcement
        if beat.conflict is not None:
            raise LaneConflict(
                f"The lane's name is in use for {beat.conflict}, but this worker serves {lane.endpoint}: choose "
                "another name with --lane, or stop the other worker (a killed worker keeps the name for another "
                f"{beat.lease_ms / 1000:g} s).",
                provider=lane.provider,
                lane=lane.lane,
            )

    async def run(self) -> None:
        """Send beats until cancelled. During an outage of Redis, a beat is tried every 0.1 s."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S if self._failing else self._pause_s):
                    await self._wake.wait()
            self._wake.clear()
            await self.beat()

    def beat_soon(self) -> None:
        """Do not wait for the next beat's time: the lane has changed, or a control message may have been lost."""
        self._wake.set()

    def announce_soon(self) -> None:
        """Do not wait for the next beat's time if the lane is not as the latest beat announced it."""
        if self._has_changed:
            self.beat_soon()

    async def announce(self) -> None:
        """Send a beat now if the lane is not as the latest beat announced it. An error is logged and not raised.

        Of several calls at the same time, the first sends a beat for all.
        """
        async with self._announce_lock:
            if self._has_changed:
                await self.beat()

    @property
    def is_registered(self) -> bool:
        """Whether the pool knows the worker, and its latest beat arrived."""
        return self._registered is not None and not self._failing

    @property
    def _has_changed(self) -> bool:
        return self._last_announced != (self._availability.announced, self._availability.state)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each beat that announces a changed offer or state."""
        self._listeners.append(callback)

    def report_failure(self, code: str) -> None:
        """Report this error code of the model server with the next beat. A newer code replaces an older one."""
        self._failure = ServerFailure(code, asyncio.get_running_loop().time())

    async def beat(self) -> None:
        """Announce the lane as it is now, and renew all leases. An error is logged and not raised."""
        try:
            beat = await self._renew()
            self._failing = False
        except LlmError as error:
            if not self._failing:
                logger.warning(
                    "lane %r cannot send its beat, retrying: %s", self._availability.announcement.lane, error
                )
            self._failing = True
            return
        if beat.conflict not in (None, self.conflict):
            lane = self._availability.announcement.lane
            logger.error("lane %r gets no work: another worker uses its name for %s", lane, beat.conflict)
        self.conflict = beat.conflict

    async def _renew(self) -> RenewReply:
        # Beats must not overlap: an older one could undo the announcement that the lane drains.
        async with self._beat_lock:
            held = [run for run in self._runs if run.renews_lease]
            failure, lane = self._failure, self._availability
            announced = lane.announced, lane.state
            beat = await self._pool.beats.renew(
                self._worker,
                lane.announced,
                [run.describe() for run in held],
                accepts_new_work=not lane.draining,
                condition=lane.condition,
                fault=failure,
                report=self._report(),
            )
            changed, self._last_announced = announced != self._last_announced, announced
        self._pause_s = beat.lease_ms / 1000 / _BEATS_PER_LEASE
        for run, outcome in zip(held, beat.outcomes, strict=True):
            if outcome != "mine":
                run.stop(outcome)
        if changed:
            for callback in self._listeners:
                callback()
        if beat.registered and self._failure is failure:
            self._failure = None
        self._pool.keychain.reread()
        now = self.worker_info, self._pool.keychain.held
        if beat.conflict is None and not (beat.registered and now == self._registered):
            await self._pool.beats.register(self._worker, lane.announcement.lane, self.worker_info)
            self._registered = now
            if lane.condition != UP:
                self.beat_soon()  # the pool stores the condition of registered workers only
        return beat
