"""A request that a pool in Redis has. Its link tells it what happens, by the methods below, and carries out what it
answers; nobody else changes it. `request_state.py` draws its states. All times are the loop's, in seconds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from math import inf
from typing import assert_never, get_args

from tokenlane.producer.link.delta_buffer import ToWorker
from tokenlane.producer.link.link import Timings
from tokenlane.producer.link.open_request import OpenRequest
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import (
    DeadlineExceeded,
    LlmError,
    PoolUnavailable,
    QueueFull,
    RequestCancelled,
    RequestLost,
)
from tokenlane.routing.contract.messages import Attached, ChannelMessage, Progressed
from tokenlane.routing.decide.no_candidate import no_lane
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.recovery import End, History, PoolForgot, WorkerLost, answer_lost, decide
from tokenlane.routing.store.request_life import Attachment, Ending, Standing

from .pool_view import PoolView
from .replays import Question, Replays
from .request_state import Interrupt, RequestState, Step
from .submission import Submission

_LAPSED_S = 0.01


class RedisRequest(OpenRequest):
    """Of one client. Several may read one request, here and in other processes; one of them owns it: leaving that one
    cancels the request, and later attempts are told how far that one has got.

    Args:
        client: the client's name.
        copy: what is sent again should the pool lose it; None where another client has sent it.
        deadline: when it is given up; None where only the pool knows that.
    """

    def __init__(
        self,
        request_id: str,
        client: str,
        timings: Timings,
        clock: Callable[[], float],
        *,
        copy: tuple[Envelope, bytes] | None = None,
        deadline: float | None = None,
        position: int = 0,
        waiting: str | None = None,
    ) -> None:
        super().__init__(request_id, position=position, waiting=waiting)
        self._client = client
        self._timings = timings
        self._clock = clock
        self._copy = copy
        self._role = copy[0].role if copy is not None else ""
        self._deadline = deadline
        self._state = RequestState.QUEUED
        self._since = self._opened_at = self._heard_at = clock()
        self._look_at = inf
        self._left = asyncio.Event()
        self._owned, self._everywhere = True, False
        self._uncertain = False  # messages may have been lost
        self._replays = Replays()
        self.submission = Submission()

    @property
    def state(self) -> RequestState:
        return self._state

    @property
    def owned(self) -> bool:
        """Whether it is this reader that owns the request."""
        return self._owned

    @property
    def deadline(self) -> float | None:
        """When it is given up; None before that is known."""
        return self._deadline

    @property
    def look_at(self) -> float:
        """When the pool is to be asked how it stands, though that was asked not long ago."""
        return self._look_at

    @property
    def is_to_be_cancelled(self) -> bool:
        """Whether the pool may have it, and is to be told that nobody wants it any more."""
        over = self._buffer.ended_by_pool and not self.submission.under_way
        return self.submission.may_have_arrived and not over and (self._everywhere or self._owned)

    @property
    def for_all(self) -> bool:
        """Whether it is to be cancelled even if another client owns it."""
        return self._everywhere

    def is_silent(self, for_s: float) -> bool:
        """Whether the pool has it, and nothing of it has come for that long."""
        if self.submission.under_way or self._state is RequestState.ENDED:
            return False
        return self._heard_at <= self._clock() - for_s

    # Sending it.

    def to_send(self) -> tuple[Envelope, bytes, int]:
        """Its envelope with the time it has left, its payload, and the newest attempt heard of.

        Raises:
            DeadlineExceeded: its time is up.
        """
        assert self._copy is not None
        assert self._deadline is not None
        envelope, payload = self._copy
        left_s = self._deadline - self._timings.deadline_grace_s - self._clock()
        if left_s <= 0:
            raise DeadlineExceeded
        envelope = envelope.model_copy(update={"time_to_live_ms": math.ceil(1000 * left_s)})
        return envelope, payload, self._buffer.attempt

    def attached(self, held: Attachment, pool: PoolView) -> None:
        """The pool has made it this client's, and says how it stands.

        Raises:
            RequestLost: the pool does not know it.
            BadRequest: it has ended before the position that is wanted.
        """
        standing, timings = held.standing, self._timings
        if standing.state == "missing":
            raise RequestLost(
                f"the pool knows no request {self.id}: it ended an hour ago, was lost or never was; ask again"
            )
        if (beyond := self._buffer.beyond(standing.end)) is not None:
            raise beyond
        if self._buffer.ended:  # by what came on its channel meanwhile
            return
        ended = standing.state in get_args(Ending)
        self._role = held.role
        self._waiting = None if ended or standing.state == "running" else pool.why_queued(held.role)
        self._deadline = self._clock() + timings.deadline_grace_s
        self._deadline += max(held.left_ms / 1000, timings.ended_left_s if ended else 0)
        self._buffer.begin_at(standing.attempt)
        self.messages_lost()
        again_s = timings.replay_again_s if ended else timings.gap_replay_again_s
        self._replays.ask(standing.worker, standing.attempt, again_s)

    def sent_again(self, error: Exception | None) -> None:
        """The pool has answered to a request that it had lost; None: it has it again."""
        if error is None:
            self._owned = True
        if self._state is not RequestState.MISSING:
            return
        if error is None:
            self._enter(RequestState.QUEUED)
        elif isinstance(error, QueueFull):  # it was accepted once: it is sent again with each beat
            self._waiting = f"the pool lost this request, and cannot take it in again yet: {error}"
        elif not isinstance(error, PoolUnavailable):
            self.give_up(error if isinstance(error, LlmError) else RequestLost())

    # What comes.

    def message(self, message: ChannelMessage) -> ToWorker | None:
        if isinstance(message, Attached):
            self._owned &= message.client == self._client
            return None
        buffer = self._buffer
        before = (buffer.attempt, buffer.position)
        reply = buffer.receive(message)
        self._heard_at, self._look_at = self._clock(), inf
        self._waiting = f"lane {message.lane!r}: {message.progress.step}" if isinstance(message, Progressed) else None
        if before != (buffer.attempt, buffer.position):
            self._replays.answered()
            self._uncertain &= buffer.has_gap
        if buffer.has_gap:
            self._replays.ask(buffer.worker, buffer.attempt, self._timings.replay_again_s)
        self._enter(RequestState.RUNNING)
        self._changed.set()
        return reply if self._owned else None  # its owner answers

    def messages_lost(self) -> None:
        """The connection was lost for a while: messages may be missing."""
        self._heard_at = -inf
        self._uncertain = True
        self._replays.ask(self._buffer.worker, self._buffer.attempt, self._timings.gap_replay_again_s)

    @property
    def has_question(self) -> bool:
        """Whether there is something to ask of a worker, now or later."""
        return self._replays.pending

    def due_question(self) -> tuple[Question, ToWorker] | None:
        """What is to be asked of a worker now, if anything; the question is to be told when it is `sent`."""
        question = self._replays.due(self._clock())
        if question is None:
            return None
        return question, ToWorker(question.worker, self._buffer.replay(question.attempt))

    def asked_about(self) -> None:
        """The pool is being asked how it stands."""
        self._look_at = inf

    def pool_away(self, why: str) -> None:
        """The pool does not answer."""
        if self._waiting is not None:
            self._waiting = why

    def standing(self, standing: Standing, asked_at: float, pool: PoolView) -> list[Step]:
        """The pool says how it stands; what is to be done for that.

        Args:
            asked_at: when it was asked. What was heard since is newer.
        """
        if self.submission.under_way or self._state is RequestState.ENDED or self._heard_at > asked_at:
            return []
        self._look_at = inf if standing.lapses_ms is None else self._clock() + standing.lapses_ms / 1000 + _LAPSED_S
        steps: list[Step] = [] if standing.state == "missing" else self._claim(standing.owner)
        match standing.state:
            case "missing":
                steps += self._missing(pool)
            case "waiting" | "delayed" | "dispatched":
                steps += self._queued(standing, pool)
            case "running":
                self._running(standing)
            case "completed" | "failed" | "cancelled" | "expired":
                self._ending(standing, standing.state)
            case _:
                assert_never(standing.state)
        self._changed.set()
        return steps

    # Its readers.

    def own(self, *, here: bool) -> None:
        """It is this reader that owns the request, or another."""
        self._owned = here

    def interrupted(self, error: LlmError) -> None:
        """The pool has ended it, since its answer broke off."""
        self._buffer.ended_by_pool = True
        self.give_up(error)

    def give_up(self, error: LlmError) -> None:
        super().give_up(error)
        self._state = RequestState.ENDED

    def leave(self, *, everywhere: bool = False) -> None:
        """Its reader has gone.

        Args:
            everywhere: it is to end for all readers.
        """
        self.give_up(RequestCancelled())
        self._everywhere |= everywhere
        self._left.set()

    async def left(self) -> None:
        """Wait until its reader has gone."""
        await self._left.wait()

    # The rest.

    def _enter(self, state: RequestState) -> None:
        if self._buffer.ended:
            state = RequestState.ENDED
        if state is not self._state:
            self._state, self._since = state, self._clock()

    @property
    def _history(self) -> History:
        return History(delivered=self._buffer.position)

    def _has_been_for(self, seconds: float) -> bool:
        """Whether it has been in its state for that long; else it is looked at then."""
        now = self._clock()
        if now < self._since + seconds:
            self._look_at = self._since + seconds
            return False
        return True

    def _claim(self, owner: str) -> list[Step]:
        if not self._owned or owner == self._client:
            return []
        if owner:
            self._owned = False  # another client has attached, and pub/sub lost the news
        elif self._copy is None:
            return ["own again"]
        return []

    def _missing(self, pool: PoolView) -> list[Step]:
        self._enter(RequestState.MISSING)
        self._replays.ask(self._buffer.worker, self._buffer.attempt, self._timings.gap_replay_again_s)
        if not self._has_been_for(pool.all_heard_s):
            return []  # a worker that runs it writes it anew with its next beat
        decision = decide(PoolForgot(kept=self._copy is not None), self._history, Policy())
        if isinstance(decision, End):
            self.give_up(decision.error)
            return []
        return ["send again"]

    def _queued(self, standing: Standing, pool: PoolView) -> list[Step]:
        if self._buffer.position > 0 and self._buffer.attempt > 0:
            return self._broken_off(standing)
        self._enter(RequestState.QUEUED)
        self._waiting = pool.why_waiting(self._role, self._copy and self._copy[0], standing)
        if pool.is_deserted(self._opened_at, self._clock()):
            self.give_up(no_lane())
        return []

    def _broken_off(self, standing: Standing) -> list[Step]:
        self._enter(RequestState.BROKEN_OFF)
        self._waiting = None
        if not self._has_been_for(self._timings.taken_up_s):
            return []
        decision = decide(WorkerLost(), self._history, Policy())
        if isinstance(decision, End) and self._owned:
            return [Interrupt(standing.attempt, self._buffer.position, decision.error)]
        if isinstance(decision, End):
            self.give_up(decision.error)
        return []

    def _running(self, standing: Standing) -> None:
        self._enter(RequestState.RUNNING)
        self._waiting = None
        if self._uncertain:
            self._replays.ask(standing.worker, standing.attempt, self._timings.gap_replay_again_s)
        if self._buffer.has_gap and self._replays.unanswered(self._clock(), self._timings.running_patience_s):
            self.give_up(answer_lost("part"))

    def _ending(self, standing: Standing, state: Ending) -> None:
        self._enter(RequestState.ENDING)
        self._waiting = None
        if not standing.worker:
            over = self._has_been_for(self._timings.last_message_s)
        elif not (over := self._replays.unanswered(self._clock(), self._timings.ended_patience_s)):
            self._replays.ask(standing.worker, standing.attempt, self._timings.replay_again_s)
        if over:
            self._buffer.end_as(state, standing.end, standing.code)
            self._enter(RequestState.ENDED)
