"""The attempts that a worker runs now: how they are stopped, and the event of their end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.attempt_end import StopReason
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.messages import Handover
from tokenlane.routing.contract.sealing.messages import Opener, Sealer
from tokenlane.routing.decide.lanes.offer import Running
from tokenlane.routing.decide.recovery import History
from tokenlane.routing.store.replies.claim import ClaimedAttempt

from .attempt_key import AttemptKey
from .outlet import Outlet

_MAX_EARLY_STOPS = 256
"""How many stops are remembered for attempts that do not run here. Most of these have ended or run elsewhere."""


class Stopped(Exception):
    """The attempt was stopped, possibly before its work began."""

    __match_args__ = ("reason",)

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason: StopReason = reason


class Run:
    """One attempt while it runs.

    `started_at` and `deadline` are times of the event loop's clock. `handover`: the agent's reply to `Resume`.
    `partial`: the part of the answer that the agent has and this attempt continues; None if the attempt answers from
    the beginning. `has_schema`: whether the answer must match a schema. `restarts`: whether the agent allows that the
    answer begins anew. `renews_lease`: whether the worker's beats name the attempt.
    """

    def __init__(self, claim: ClaimedAttempt, attempt: int, outlet: Outlet) -> None:
        loop = asyncio.get_running_loop()
        self.id = claim.envelope.id
        self.attempt = attempt
        self.key = AttemptKey(self.id, attempt)
        self.claim = claim
        self.outlet = outlet
        self.started_at = loop.time()
        self.deadline = self.started_at + claim.left_ms / 1000
        self.stop_reason: StopReason | None = "cancelled" if claim.cancelled else None
        self.handover: asyncio.Future[Handover] = loop.create_future()
        self.partial: Handover | None = None
        self.has_schema = self.restarts = False
        self.renews_lease = True
        self._pieces: dict[int, Handover] = {}
        self._opener: Opener | None = None
        self._timeout: asyncio.Timeout | None = None

    @property
    def is_sealed(self) -> bool:
        """Whether the agent seals what it sends about the request."""
        return self.claim.envelope.key_id is not None

    def use_key(self, key: PoolKey) -> None:
        """Seal the attempt's messages, and open those of the agent, with the key of the request."""
        self.outlet.seal_with(Sealer(key, self.id, "answer").seal)
        self._opener = Opener(lambda: (key,), self.id, "handover")

    def open(self, sealed: bytes) -> bytes | None:
        """Return a sealed message of the agent; None if it cannot be opened."""
        return None if self._opener is None else self._opener.open(sealed)

    def stop(self, reason: StopReason) -> None:
        """Stop the attempt by cancelling its `stoppable` block. Only the first reason counts."""
        if self.stop_reason is not None:
            return
        self.stop_reason = reason
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0)

    @property
    def arrived_pieces(self) -> int:
        """How many pieces of an incomplete reply to `Resume` have arrived."""
        return len(self._pieces)

    @property
    def is_handover_arriving(self) -> bool:
        """Whether part of the agent's reply to `Resume` has arrived, but not all of it."""
        return bool(self._pieces) and not self.handover.done()

    def receive_handover(self, piece: Handover) -> None:
        """Take in a piece of the agent's reply to `Resume`. All pieces of a reply have the same position."""
        if self.handover.done() or not 0 <= piece.piece < piece.pieces:
            return
        if any((known.position, known.pieces) != (piece.position, piece.pieces) for known in self._pieces.values()):
            self._pieces = {}  # the agent has replied again, to a repeated question
        self._pieces[piece.piece] = piece
        if len(self._pieces) == piece.pieces:
            pieces = [self._pieces[number] for number in range(piece.pieces)]
            whole = {name: "".join(getattr(each, name) for each in pieces) for name in ("text", "reasoning")}
            self._pieces = {}
            self.handover.set_result(piece.model_copy(update=whole | {"piece": 0, "pieces": 1}))

    @asynccontextmanager
    async def stoppable(self) -> AsyncIterator[None]:
        """Cancel the block at the deadline, or when `stop` is called.

        Raises:
            Stopped: the block was cancelled, possibly before it began.
        """
        if self.left_ms == 0:  # a timeout lets the block run until it first waits
            self.stop("expired")
        self._raise_if_stopped()
        self._timeout = timeout = asyncio.timeout_at(self.deadline)
        try:
            async with timeout:
                yield
        except Exception:  # the block may turn the cancellation into another exception
            if timeout.expired():
                self.stop("expired")
            self._raise_if_stopped()
            raise
        finally:
            self._timeout = None

    def _raise_if_stopped(self) -> None:
        if self.stop_reason is not None:
            raise Stopped(self.stop_reason) from None

    @property
    def left_ms(self) -> int:
        """Milliseconds until the deadline; 0 after it."""
        return max(0, int(1000 * (self.deadline - asyncio.get_running_loop().time())))

    def elapsed_ms(self, until: float | None = None) -> float:
        """Milliseconds from the start on the lane to `until`, a time of the loop's clock; by default to now."""
        now = asyncio.get_running_loop().time()
        return round(1000 * ((now if until is None else until) - self.started_at), 1)

    def history(self, lane: str, delivered: int) -> History:
        """The request's history, for the recovery policy. `delivered`: how many deltas the agent may have received."""
        partial = self.partial
        return History(
            self.claim.needs,
            lane,
            self.claim.model if partial is None or delivered > partial.position else partial.model,
            starts=self.claim.starts,
            delivered=delivered,
            obstacle=self.outlet.obstacle or ("schema" if self.has_schema else ""),
            restarts=self.restarts,
            begun_anew=self.outlet.begun_by > 0,
            left_ms=self.left_ms,
        )

    def describe(self) -> Running:
        """Describe the attempt for the worker's beat."""
        envelope = self.claim.envelope
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
        self._runs: dict[AttemptKey, Run] = {}
        self._early_stops: dict[AttemptKey, StopReason] = {}
        self.closed_at = math.inf
        """When the worker stopped its runs, on the event loop's clock; infinity while it has not."""

    @property
    def closing(self) -> bool:
        """Whether the worker has stopped its runs, because it shuts down."""
        return self.closed_at < math.inf

    def __iter__(self) -> Iterator[Run]:
        return iter(tuple(self._runs.values()))

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, request_id: str, attempt: int) -> Run | None:
        """The run of the attempt, or None if this worker does not run it."""
        return self._runs.get(AttemptKey(request_id, attempt))

    def stop(self, request_id: str, attempt: int, reason: StopReason) -> None:
        """Stop the attempt. If it does not run here yet, stop it as soon as it starts."""
        if (run := self.get(request_id, attempt)) is not None:
            run.stop(reason)
            return
        self._early_stops[AttemptKey(request_id, attempt)] = reason
        if len(self._early_stops) > _MAX_EARLY_STOPS:
            del self._early_stops[next(iter(self._early_stops))]

    @contextmanager
    def register(self, run: Run) -> Iterator[None]:
        """Make the run one of the worker's runs for the duration of the block."""
        if (reason := self._early_stops.pop(run.key, None)) is not None:
            run.stop(reason)
        if self.closing:
            run.stop("draining")
        self._runs[run.key] = run
        try:
            yield
        finally:
            del self._runs[run.key]

    def silent_ms(self, newest_token_at: float) -> int | None:
        """For how long chats have run without a new token: since the newest token of the worker, or since the start of
        the oldest running chat if that was later. None if no chat runs.

        Args:
            newest_token_at: when the newest token was published, on the event loop's clock.
        """
        starts = [run.started_at for run in self if run.claim.envelope.kind == "chat"]
        if not starts:
            return None
        return round(1000 * (asyncio.get_running_loop().time() - max(newest_token_at, min(starts))))

    def close(self) -> None:
        """Stop all runs, and every run that starts later, because the worker shuts down."""
        self.closed_at = min(self.closed_at, asyncio.get_running_loop().time())
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
    http_status: int | None
    """The HTTP status with which the model server refused the request, if it did."""
    waited_ms: float
    """From the acceptance of the request to the start of the attempt on the lane."""
    first_token_ms: float | None
    """From the start on the lane to the first token; None if no token came."""
    usage: Usage
    """The duration of the attempt, and the tokens if the model server counted them."""
    starts: int = 1
    """How often the request was started, including this attempt, without attempts that cost no start."""
    is_first: bool = True
    """Whether no worker started the request before, not even for an attempt that was not counted as a start."""
    is_continued: bool = False
    """Whether the attempt continued an answer which another attempt had begun."""
    unsent_deltas: int = 0
    """How many deltas the model server sent that no message carried to the agent."""


Observer: TypeAlias = Callable[[AttemptEnded], None]
