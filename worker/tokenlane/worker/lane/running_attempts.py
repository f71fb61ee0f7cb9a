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

_MAX_EARLY_STOPS = 256
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
        self.started_at = loop.time()
        self.deadline = self.started_at + started.left_ms / 1000
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

    def elapsed_ms(self, until: float | None = None) -> float:
        """Milliseconds from the start on the lane to a moment of the loop's clock; None: to now."""
        now = asyncio.get_running_loop().time()
        return round(1000 * ((now if until is None else until) - self.started_at), 1)

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
        self._early_stops: dict[tuple[str, int], StopReason] = {}
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
        self._early_stops[request_id, attempt] = reason
        if len(self._early_stops) > _MAX_EARLY_STOPS:
            del self._early_stops[next(iter(self._early_stops))]

    @contextmanager
    def register(self, run: Run) -> Iterator[None]:
        """List the run among the worker's runs as long as the block lasts."""
        if (reason := self._early_stops.pop((run.id, run.attempt), None)) is not None:
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
    """The end of an attempt: the event that observers receive. It holds no prompt and no output."""

    envelope: Envelope
    attempt: int
    lane: str
    model: str
    request_outcome: str
    """`completed`, `failed`, `cancelled`, `expired`, `requeued`, or `left` to another worker."""
    code: str
    """The code of the error that ended the attempt, or the reason why it was stopped; empty for a complete answer."""
    why: str
    """The error's message; empty if there was no error."""
    waited_ms: float
    """From the acceptance of the request to the start of the attempt on the lane."""
    first_token_ms: float | None
    """From the start on the lane to the first token; None if no token came."""
    usage: Usage
    """The duration of the attempt, and the tokens if the model server counted them."""


Observer: TypeAlias = Callable[[AttemptEnded], None]
