"""A worker's beat: announces its lane, renews the leases of all it runs, and learns what it must stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from tokenlane.routing.contract.errors import LaneConflict, LlmError
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.offer import Announcement, Facts, Fault
from tokenlane.routing.decide.lanes.state import UP, Condition
from tokenlane.routing.store.beats import Beat
from tokenlane.routing.store.pool import Pool
from tokenlane.worker.attempt.attempts import Runs

__all__ = ["Lease"]

logger = logging.getLogger(__name__)

_BEATS_A_LEASE = 3
_RETRY_S = 0.1


class Lease:
    """Beats three times a lease, with nothing running too. The lease is what the pool's policy says."""

    def __init__(
        self,
        pool: Pool,
        worker: str,
        announcement: Announcement,
        facts: Facts,
        runs: Runs,
        report: Callable[[], WorkerReport] = WorkerReport,
        condition: Condition = UP,
    ) -> None:
        self._pool = pool
        self._worker = worker
        self._announcement = announcement
        self._facts = facts
        self._registered = True  # unless the pool says otherwise
        self._fault: Fault | None = None
        self._runs = runs
        self._report = report
        self._condition = condition
        self._changed: list[Callable[[], None]] = []
        self._takes_new_work = True
        self._pause_s = 0.0
        self._failing = False
        self._conflict: str | None = None
        self._keys: str | None = None  # their ids, as last announced
        self._hurry = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    async def open(self) -> None:
        """Beat for the first time; the lane may be given work from now on.

        Raises:
            LaneConflict: workers of another endpoint hold the lane's name.
            PoolUnavailable: the pool does not answer.
        """
        beat = await self._renew()
        if beat.conflict is not None:
            raise LaneConflict(
                f"the lane's name is in use for {beat.conflict}, and this worker would serve "
                f"{self._announcement.endpoint}: choose another name with --lane, or stop the other worker (one that "
                f"was killed holds the name for another {beat.lease_ms / 1000:g} s)",
                provider=self._announcement.provider,
                lane=self._announcement.lane,
            )

    async def run(self) -> None:
        """Beat until cancelled, whatever Redis does; the first beat after an outage comes at once."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S if self._failing else self._pause_s):
                    await self._hurry.wait()
            self._hurry.clear()
            await self._beat()

    def hurry(self) -> None:
        """Beat now: something may have been missed."""
        self._hurry.set()

    @property
    def announcement(self) -> Announcement:
        """What is said of the lane."""
        return self._announcement

    @property
    def condition(self) -> Condition:
        """How the back end is; the lane takes new work only while that is up."""
        return self._condition

    def on_change(self, then: Callable[[], None]) -> None:
        """Call this whenever something else is said of the lane, or its back end is found otherwise."""
        self._changed.append(then)

    def announce(self, announcement: Announcement) -> None:
        """Say from now on this of the lane: its models, their abilities or its limit may have changed, nothing else."""
        if announcement != self._announcement:
            self._announcement = announcement
            self._tell_of_change()
            self.hurry()

    async def find(self, condition: Condition) -> None:
        """Say from now on this of the back end, and tell routers so at once."""
        self._condition = condition
        await self._beat()
        self._tell_of_change()

    def know(self, facts: Facts) -> None:
        """Say this of the worker with the next beat: its back end may be of another version."""
        if facts != self._facts:
            self._facts, self._registered = facts, False

    def note(self, code: str) -> None:
        """Tell the pool with the next beat that the back end failed, and how; the newest counts."""
        self._fault = Fault(code, asyncio.get_running_loop().time())

    async def withdraw(self) -> None:
        """Take no new work from now on, and tell routers so at once; what runs is renewed all the same."""
        self._takes_new_work = False
        await self._beat()

    def _tell_of_change(self) -> None:
        for then in self._changed:
            then()

    async def _beat(self) -> None:
        try:
            beat = await self._renew()
            self._failing = False
        except LlmError as error:
            if not self._failing:
                logger.warning("lane %r cannot renew its leases: %s", self._announcement.lane, error)
            self._failing = True
            return
        if beat.conflict not in (None, self._conflict):
            logger.error("lane %r gets no work: its name is in use for %s", self._announcement.lane, beat.conflict)
        self._conflict = beat.conflict

    async def _renew(self) -> Beat:
        # One at a time, or an older beat could take a withdrawal back.
        async with self._one_at_a_time:
            held, fault = list(self._runs), self._fault
            beat = await self._pool.beats.renew(
                self._worker,
                self._announcement,
                [run.running() for run in held],
                takes_new_work=self._takes_new_work,
                condition=self._condition,
                fault=fault,
                report=self._report(),
            )
        self._pause_s = beat.lease_ms / 1000 / _BEATS_A_LEASE
        for run, hold in zip(held, beat.holds, strict=True):
            if hold != "mine":
                run.stop(hold)
        if beat.registered and self._fault is fault:
            self._fault = None
        self._pool.keychain.reread()
        keys = self._pool.keychain.held
        if beat.conflict is None and not (beat.registered and self._registered and keys == self._keys):
            await self._pool.beats.register(self._worker, self._announcement.lane, self._facts)
            self._registered, self._keys = True, keys
            if self._condition != UP:
                self.hurry()  # only of who is registered it is kept
        return beat
