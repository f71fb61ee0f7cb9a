"""A request in a Redis pool, as one of its readers sees it; `request_state.py` draws its states.

It makes no calls and runs no tasks: link and heartbeat report by its methods what happens, and carry out the steps that
it returns. All times are the loop's, in seconds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import assert_never, get_args

from tokenlane.producer.link.delta_buffer import ToWorker
from tokenlane.producer.link.link import Composed
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
from tokenlane.routing.decide.recovery import answer_lost, may_submit_again
from tokenlane.routing.store.request_life import Attachment, Ending, RequestStatus

from .pool_view import PoolView
from .request_state import Interrupt, ReplayRequest, RequestState, Step
from .timings import Timings

_LAPSED_S = 0.01


class RedisRequest(OpenRequest):
    """One reader's view of a request. A request may have several readers, in this process and in others. One of them
    owns it: if the owner leaves, the request is cancelled, and only the owner tells later attempts which deltas it has.

    Attributes:
        state: the state of the request.
        owned: whether this reader owns the request.
        for_all: whether cancelling also ends the request for readers in other processes.
        deadline: when the link gives the request up; None if that is not known yet.
        look_at: when to ask the pool for the request's state, even if messages still arrive.
        left: set once the reader has left.
        left_at: when the reader left.

    Args:
        client: the client's name.
        copy: the request, to be submitted again if the pool loses it; None if another client sent it.
    """

    def __init__(
        self,
        request_id: str,
        client: str,
        timings: Timings,
        clock: Callable[[], float],
        *,
        copy: Composed | None = None,
        deadline: float | None = None,
        position: int = 0,
        waiting: str | None = None,
    ) -> None:
        super().__init__(request_id, position=position, waiting=waiting)
        self.state = RequestState.QUEUED
        self.owned = True
        self.for_all = False
        self.deadline = deadline
        self.look_at = inf
        self.left = asyncio.Event()
        self.left_at = -inf
        self._client = client
        self._timings = timings
        self._clock = clock
        self._copy = copy
        self._role = copy[0].role if copy is not None else ""
        self._since = self._opened_at = self._heard_at = clock()
        self._under_way = self._may_be_in_pool = False
        self._may_lack_messages = False
        self._replay: ReplayRequest | None = None

    @property
    def is_to_be_cancelled(self) -> bool:
        """Whether the pool may still have the request, and this reader is the one to cancel it."""
        over = self._buffer.ended_by_pool and not self._under_way
        return self._may_be_in_pool and not over and (self.for_all or self.owned)

    def is_silent(self, for_s: float) -> bool:
        """Whether the pool has the request, and no message came for so long."""
        if self._under_way or self.state is RequestState.ENDED:
            return False
        return self._heard_at <= self._clock() - for_s

    # Sending it.

    @contextmanager
    def sending(self) -> Iterator[None]:
        """The block sends the request to the pool; until it ends, what the pool says of the request is outdated."""
        was_in_pool, self._may_be_in_pool, self._under_way = self._may_be_in_pool, True, True
        try:
            yield
        except (QueueFull, RequestCancelled, DeadlineExceeded):  # the pool has surely not taken it
            self._may_be_in_pool = was_in_pool
            raise
        finally:
            self._under_way = False

    def to_send(self) -> tuple[Envelope, bytes, int]:
        """The envelope with the time that is left, the payload, and the newest known attempt.

        Raises:
            DeadlineExceeded: no time is left.
        """
        assert self._copy is not None
        assert self.deadline is not None
        envelope, payload = self._copy
        left_s = self.deadline - self._timings.deadline_grace_s - self._clock()
        if left_s <= 0:
            raise DeadlineExceeded
        envelope = envelope.model_copy(update={"time_to_live_ms": math.ceil(1000 * left_s)})
        return envelope, payload, self._buffer.attempt

    def attached(self, held: Attachment, pool: PoolView) -> None:
        """The pool has made this client the owner, and says how the request stands.

        Raises:
            RequestLost: the pool does not know the request.
            BadRequest: its answer has ended before the position that the reader wants.
        """
        status, timings = held.status, self._timings
        if status.state == "missing":
            raise RequestLost(
                "the pool does not know this request: it ended over an hour ago or was lost, or the id is wrong"
            )
        if (beyond := self._buffer.beyond(status.end)) is not None:
            raise beyond
        if self._buffer.ended:  # by a message that came meanwhile
            return
        ended = status.state in get_args(Ending)
        self._role = held.role
        self.waiting = None if ended or status.state == "running" else pool.why_queued(held.role)
        left_s = max(held.left_ms / 1000, timings.ended_left_s if ended else 0)
        self.deadline = self._clock() + left_s + timings.deadline_grace_s
        self._buffer.begin_at(status.attempt)
        self.messages_lost()
        again_s = timings.replay_again_s if ended else timings.gap_replay_again_s
        self._want_replay(status.worker, status.attempt, again_s)

    def sent_again(self, error: Exception | None) -> None:
        """A request that the pool had lost was sent again; without an error the pool has it."""
        self.owned |= error is None
        if self.state is not RequestState.MISSING:
            return
        if error is None:
            self._enter(RequestState.QUEUED)
        elif isinstance(error, QueueFull):  # the pool had accepted it: every beat tries again
            self.waiting = f"the pool lost this request, and cannot take it in again yet: {error.message}"
        elif not isinstance(error, PoolUnavailable):
            self.give_up(error if isinstance(error, LlmError) else RequestLost())

    # What comes.

    def message(self, message: ChannelMessage) -> ToWorker | None:
        if isinstance(message, Attached):
            self.owned &= message.client == self._client
            return None
        buffer = self._buffer
        before = (buffer.attempt, buffer.position)
        handover = buffer.receive(message)
        self._heard_at, self.look_at = self._clock(), inf
        self.waiting = f"lane {message.lane!r}: {message.progress.step}" if isinstance(message, Progressed) else None
        if before != (buffer.attempt, buffer.position):
            self._replay = None
            self._may_lack_messages &= buffer.has_gap
        if buffer.has_gap:
            self._want_replay(buffer.worker, buffer.attempt, self._timings.replay_again_s)
        self._enter(RequestState.RUNNING)
        self._changed.set()
        return handover if self.owned else None

    def messages_lost(self) -> None:
        """The connection was lost for a while: messages may be missing."""
        self._heard_at = -inf
        self._may_lack_messages = True
        self._want_replay(self._buffer.worker, self._buffer.attempt, self._timings.gap_replay_again_s)

    @property
    def wants_replay(self) -> bool:
        """Whether a worker is to publish messages again, now or later."""
        return self._replay is not None

    def due_replay(self) -> tuple[ReplayRequest, ToWorker] | None:
        """The replay that a worker is to be asked for now, if any, and the message that asks for it."""
        now, replay = self._clock(), self._replay
        if replay is None or replay.due_at > now:
            return None
        replay.due_at = now + replay.every_s
        return replay, ToWorker(replay.worker, self._buffer.replay(replay.attempt))

    def pool_away(self, why: str) -> None:
        """The pool does not answer."""
        self.look_at = inf
        if self.waiting is not None:
            self.waiting = why

    def follow_status(self, status: RequestStatus, asked_at: float, pool: PoolView) -> list[Step]:
        """The pool says how the request stands.

        Args:
            asked_at: when the pool was asked. A message that came since is newer.

        Returns:
            What is to be done.
        """
        self.look_at = inf
        if self._under_way or self.state is RequestState.ENDED or self._heard_at > asked_at:
            return []
        if status.lapses_ms is not None:
            self.look_at = self._clock() + status.lapses_ms / 1000 + _LAPSED_S
        steps: list[Step] = [] if status.state == "missing" else self._claim(status.owner)
        match status.state:
            case "missing":
                steps += self._missing(pool)
            case "waiting" | "delayed" | "dispatched":
                steps += self._queued(status, pool)
            case "running":
                self._running(status)
            case "completed" | "failed" | "cancelled" | "expired":
                self._ending(status, status.state)
            case _:
                assert_never(status.state)
        self._changed.set()
        return steps

    def own(self, *, here: bool) -> None:
        """This reader owns the request from now on, or another does."""
        self.owned = here

    def interrupted(self, error: LlmError) -> None:
        """The pool has carried out `Interrupt`."""
        self._buffer.ended_by_pool = True
        self.give_up(error)

    def give_up(self, error: LlmError) -> None:
        super().give_up(error)
        self.state = RequestState.ENDED

    def leave(self, *, everywhere: bool = False) -> None:
        """The reader has gone.

        Args:
            everywhere: the request is to end for all readers.
        """
        self.give_up(RequestCancelled())
        self.for_all |= everywhere
        if not self.left.is_set():
            self.left_at = self._clock()
            self.left.set()

    # The rest.

    def _enter(self, state: RequestState) -> None:
        if self._buffer.ended:
            state = RequestState.ENDED
        if state is not self.state:
            self.state, self._since = state, self._clock()

    def _has_been_for(self, seconds: float) -> bool:
        """Whether the request has been in its state for so long; if not, it is looked at then."""
        if self._clock() < self._since + seconds:
            self.look_at = self._since + seconds
            return False
        return True

    def _want_replay(self, worker: str, attempt: int, every_s: float) -> None:
        """Have a worker, if one is known, publish again what has not come."""
        if not worker:
            return
        if self._replay is None or (self._replay.worker, self._replay.attempt) != (worker, attempt):
            self._replay = ReplayRequest(worker, attempt, every_s)
        self._replay.every_s = every_s

    def _waits_for_replay(self, for_s: float) -> bool:
        """Whether a worker was first asked for the replay so long ago."""
        return self._replay is not None and self._clock() - self._replay.first_sent_at >= for_s

    def _claim(self, owner: str) -> list[Step]:
        if not self.owned or owner == self._client:
            return []
        if owner:
            self.owned = False  # another client has attached, and its message was lost
        elif self._copy is None:
            return ["own again"]
        return []

    def _missing(self, pool: PoolView) -> list[Step]:
        self._enter(RequestState.MISSING)
        self._want_replay(self._buffer.worker, self._buffer.attempt, self._timings.gap_replay_again_s)
        if not self._has_been_for(pool.all_heard_s):
            return []  # with its next beat, a worker that runs the request makes it known again
        if may_submit_again(self._copy is not None, self._buffer.position):
            return ["send again"]
        self.give_up(RequestLost())
        return []

    def _queued(self, status: RequestStatus, pool: PoolView) -> list[Step]:
        if self._buffer.position > 0 and self._buffer.attempt > 0:
            return self._broken_off(status)
        self._enter(RequestState.QUEUED)
        self.waiting = pool.why_waiting(self._role, self._copy and self._copy[0], status)
        if pool.is_deserted(self._opened_at, self._clock()):
            self.give_up(no_lane(pool.pool))
        return []

    def _broken_off(self, status: RequestStatus) -> list[Step]:
        self._enter(RequestState.BROKEN_OFF)
        self.waiting = None
        if not self._has_been_for(self._timings.taken_up_s):
            return []
        answer = self._buffer.answer
        error = answer_lost("worker").at(lane=answer.lane or None, model=answer.model or None)
        if self.owned:
            return [Interrupt(status.attempt, self._buffer.position, error)]
        self.give_up(error)
        return []

    def _running(self, status: RequestStatus) -> None:
        self._enter(RequestState.RUNNING)
        self.waiting = None
        if self._may_lack_messages:
            self._want_replay(status.worker, status.attempt, self._timings.gap_replay_again_s)
        if self._buffer.has_gap and self._waits_for_replay(self._timings.running_patience_s):
            self.give_up(answer_lost("part"))

    def _ending(self, status: RequestStatus, state: Ending) -> None:
        self._enter(RequestState.ENDING)
        self.waiting = None
        if not status.worker:
            over = self._has_been_for(self._timings.last_message_s)
        elif not (over := self._waits_for_replay(self._timings.ended_patience_s)):
            self._want_replay(status.worker, status.attempt, self._timings.replay_again_s)
        if over:
            self._buffer.end_as(state, status.end, status.code)
            self._enter(RequestState.ENDED)
