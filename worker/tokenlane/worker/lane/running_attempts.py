"""The attempts that a worker runs: it stops them, and reports the end of each to observers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.messages import Handover
from tokenlane.routing.decide.lanes.offer import Running
from tokenlane.routing.decide.recovery import History
from tokenlane.routing.store.request_life import ClaimedAttempt

from .outlet import Outlet

_MOST_UNBEGUN = 256
"""How many stops for attempts that have not begun are remembered. Most such attempts ended here, or run elsewhere."""

StopReason = Literal["cancelled", "expired", "stale", "draining", "broken_off"]
"""Why an attempt stops: its agent gave it up, its deadline passed, a newer attempt runs, the worker shuts down, the
agent has a part of the answer from an earlier attempt."""


class Stopped(Exception):
    """The attempt was stopped, possibly before it began."""

    __match_args__ = ("reason",)

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason: StopReason = reason


class Run:
    """One attempt, from its start to its end. `since` and `deadline` are in seconds of the loop's clock."""

    def __init__(self, started: ClaimedAttempt, attempt: int, outlet: Outlet) -> None:
        loop = asyncio.get_running_loop()
        self.id = started.envelope.id
        self.attempt = attempt
        self.started = started
        self.outlet = outlet
        self.since = loop.time()
        self.deadline = self.since + started.left_ms / 1000
        self.reason: StopReason | None = "cancelled" if started.cancelled else None
        self.handover: asyncio.Future[Handover] = loop.create_future()
        self._timeout: asyncio.Timeout | None = None

    def stop(self, reason: StopReason) -> None:
        """Cancel the block inside `stoppable`. The first reason counts."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0)

    @asynccontextmanager
    async def stoppable(self) -> AsyncIterator[None]:
        """Cancel the block at the deadline, or when `stop` is called.

        Raises:
            Stopped: the block was cancelled, possibly before it began.
        """
        self._raise_if_stopped()
        self._timeout = timeout = asyncio.timeout_at(self.deadline)
        try:
            async with timeout:
                yield
        except Exception:  # the block may turn its cancellation into another error
            if timeout.expired():
                self.stop("expired")
            self._raise_if_stopped()
            raise
        finally:
            self._timeout = None

    def _raise_if_stopped(self) -> None:
        if self.reason is not None:
            raise Stopped(self.reason) from None

    @property
    def left_ms(self) -> int:
        """Milliseconds to the deadline, 0 when it has passed."""
        return max(0, int(1000 * (self.deadline - asyncio.get_running_loop().time())))

    def ms_until(self, at: float | None = None) -> float:
        """Milliseconds from the start on the lane to a moment of the loop's clock; None: to now."""
        now = asyncio.get_running_loop().time()
        return round(1000 * ((now if at is None else at) - self.since), 1)

    def history(self, lane: str, delivered: int) -> History:
        """The history of the request's attempts. `delivered`: the number of deltas that the agent may have."""
        return History(self.started.needs, lane, self.started.starts, delivered=delivered, left_ms=self.left_ms)

    def running(self) -> Running:
        """The run as the worker's beat reports it."""
        envelope = self.started.envelope
        return Running(
            id=self.id,
            attempt=self.attempt,
            client=envelope.client,
            agent=envelope.agent,
            role=envelope.role,
            kind=envelope.kind,
            left_ms=self.left_ms,
        )


class Runs:
    """All attempts that a worker runs now."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, int], Run] = {}
        self._unbegun: dict[tuple[str, int], StopReason] = {}
        self.closing = False

    def __iter__(self) -> Iterator[Run]:
        return iter(tuple(self._runs.values()))

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, request_id: str, attempt: int) -> Run | None:
        """The run of that attempt, if this worker runs it."""
        return self._runs.get((request_id, attempt))

    def stop(self, request_id: str, attempt: int, reason: StopReason) -> None:
        """Stop that attempt now, or as soon as it begins here."""
        if (run := self.get(request_id, attempt)) is not None:
            run.stop(reason)
            return
        self._unbegun[request_id, attempt] = reason
        if len(self._unbegun) > _MOST_UNBEGUN:
            del self._unbegun[next(iter(self._unbegun))]

    @contextmanager
    def holding(self, run: Run) -> Iterator[None]:
        """List the run among the worker's runs as long as the block lasts."""
        if (reason := self._unbegun.pop((run.id, run.attempt), None)) is not None:
            run.stop(reason)
        if self.closing:
            run.stop("draining")
        self._runs[run.id, run.attempt] = run
        try:
            yield
        finally:
            del self._runs[run.id, run.attempt]

    def close(self) -> None:
        """Stop all runs, and all that begin later, because the worker shuts down."""
        self.closing = True
        for run in self:
            run.stop("draining")


@dataclass(frozen=True)
class AttemptEnded:
    """An attempt that is over, without its content. `became`: what became of its request. `code`: the code of the error
    that broke it, or why it was stopped; empty if the answer is whole. `why`: the error's text.

    `waited_ms` counts from acceptance to the start on the lane, `first_token_ms` (None: no token came) from that start.
    `usage`: the time in all, and the tokens if the model server has counted them.
    """

    envelope: Envelope
    attempt: int
    lane: str
    model: str
    became: str
    code: str
    why: str
    waited_ms: float
    first_token_ms: float | None
    usage: Usage


Observer: TypeAlias = Callable[[AttemptEnded], None]
