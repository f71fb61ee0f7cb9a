"""One reader's view of a request in a Redis pool; `request_state.py` has the table of its states.

The view makes no calls and runs no tasks: the link and the heartbeat report events to its methods, and carry out the
steps that the methods return. All times are in seconds on the loop's clock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import assert_never, get_args

from tokenlane.producer.link.delta_buffer import MessageToWorker
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
from tokenlane.routing.contract.messages import Attached, ChannelMessage, Completed, Failed, Progressed
from tokenlane.routing.decide.interruptions import answer_lost
from tokenlane.routing.decide.no_candidate import no_lane
from tokenlane.routing.decide.recovery import may_submit_again
from tokenlane.routing.decide.wait_cause import Wait, WaitingRequest
from tokenlane.routing.store.request_life import Attachment, Ending, RequestStatus

from .pool_view import PoolView
from .replays import ReplayRequest, Replays
from .request_state import RequestState, Step
from .timings import Timings

_LAPSED_S = 0.01


class RedisRequest(OpenRequest):
    """One reader's view of a request. A request may have several readers, in this process and in others.

    One reader owns the request: if the owner leaves, the request is cancelled, and only the owner's answer so far is
    handed over to a later attempt.

    Attributes:
        state: the state of the request as this reader knows it.
        owned: whether this reader owns the request.
        cancels_for_all: whether to cancel the request for readers in other processes, too.
        deadline: when the link gives up; None until the client has attached to the request.
        check_at: when the heartbeat checks the request, even if messages still arrive.
        left, left_at: set once the reader has left, and when that was.
        is_being_sent: whether a call that submits or attaches to the request is under way.
        replays: asks a worker for missing messages.

    Args:
        client: the client's id.
        copy: the envelope and payload, to submit again if the pool loses the request; None if another client sent it.
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
        may_restart: bool = False,
        waiting: Wait | str | None = None,
    ) -> None:
        super().__init__(request_id, position=position, may_restart=may_restart, waiting=waiting)
        self.state = RequestState.QUEUED
        self.owned = True
        self.cancels_for_all = False
        self.deadline = deadline
        self.check_at = math.inf
        self.left = asyncio.Event()
        self.left_at = -math.inf
        self._client = client
        self._timings = timings
        self._clock = clock
        self._copy = copy
        self._since = self._opened_at = self._heard_at = clock()
        self.is_being_sent = self._may_be_in_pool = self._may_miss_messages = False
        self.replays = Replays(clock)
        self._rest_wanted_from = -1

    @property
    def must_be_cancelled(self) -> bool:
        """Whether the pool may still have the request, and this reader must cancel it."""
        over = self._buffer.ended_by_pool and not self.is_being_sent
        return self._may_be_in_pool and not over and (self.cancels_for_all or self.owned)

    def is_silent(self, for_s: float) -> bool:
        """Whether the pool has the request, and no message has arrived for this long."""
        if self.is_being_sent or not self._may_be_in_pool or self.state is RequestState.ENDED:
            return False
        is_queued = self.state is RequestState.QUEUED  # then the pool says why
        return self._heard_at <= self._clock() - (0 if is_queued else for_s)

    # Sending the request.

    @contextmanager
    def sending(self) -> Iterator[None]:
        """A block that sends the request. Until it ends, the status of the request in the pool is outdated."""
        was_in_pool, self._may_be_in_pool, self.is_being_sent = self._may_be_in_pool, True, True
        try:
            yield
        except (QueueFull, RequestCancelled, DeadlineExceeded):  # the pool did not accept it
            self._may_be_in_pool = was_in_pool
            raise
        finally:
            self.is_being_sent = False

    def submission(self) -> tuple[Envelope, bytes, int]:
        """The envelope with the remaining time to live, the payload, and the newest known attempt.

        Raises:
            DeadlineExceeded: the time to live has passed.
        """
        assert self._copy is not None
        assert self.deadline is not None
        left_s = self.deadline - self._timings.deadline_grace_s - self._clock()
        if left_s <= 0:
            raise self._buffer.overdue()
        envelope = self._copy[0].model_copy(update={"time_to_live_ms": math.ceil(1000 * left_s)})
        return envelope, self._copy[1], self._buffer.attempt

    def receive_attachment(self, attachment: Attachment) -> None:
        """Take in the status of a request of which the pool has made this client the owner.

        Raises:
            RequestLost: the pool does not know the request.
            BadRequest: the answer ended before the position that the reader asked for.
        """
        status, timings = attachment.status, self._timings
        if status.state == "missing":
            raise RequestLost(
                "The pool does not know this request: it ended over an hour ago or was lost, or the id is wrong."
            )
        if (beyond := self._buffer.error_beyond(status.end)) is not None:
            raise beyond
        if self._buffer.ended:  # by a message that arrived in the meantime
            return
        ended = status.state in get_args(Ending)
        is_queued = not (ended or status.state == "running")
        self._why_waiting = f"waiting in the queue of role {attachment.role!r}" if is_queued else None
        left_s = max(attachment.left_ms / 1000, timings.attach_ended_s if ended else 0)
        self.deadline = self._clock() + left_s + timings.deadline_grace_s
        self._buffer.ignore_attempts_before(status.attempt)
        self.report_gap()
        again_s = timings.replay_every_s if ended else timings.possible_gap_replay_every_s
        self.replays.want(status.worker, status.attempt, again_s)

    def report_resubmission(self, error: Exception | None) -> None:
        """Take in the outcome of submitting a lost request again; without an error the pool has accepted it."""
        self.owned |= error is None
        if self.state is not RequestState.MISSING:
            return
        if error is None:
            self._enter(RequestState.QUEUED)
            self._why_waiting = "this request, or the end of its answer, was lost, and it waits in its queue again"
        elif isinstance(error, QueueFull):  # every beat tries again, since the pool had accepted the request before
            self._why_waiting = f"the pool cannot accept this request again yet: {error.message.rstrip('.')}"
        elif not isinstance(error, PoolUnavailable):
            self.give_up(error if isinstance(error, LlmError) else RequestLost())

    # Events.

    def receive(self, message: ChannelMessage) -> list[MessageToWorker]:
        if isinstance(message, Attached):
            self.owned &= message.client == self._client
            return []
        buffer, timings = self._buffer, self._timings
        if message.attempt < buffer.attempt:
            return buffer.receive(message) if self.owned else []
        buffer.outage = ""
        before = (buffer.attempt, buffer.position)
        handover = buffer.receive(message)
        self._heard_at, self.check_at = self._clock(), math.inf
        progress = message if isinstance(message, Progressed) else None
        self._why_waiting = f"lane {progress.lane!r}: {progress.progress.step}" if progress else None
        if before != (buffer.attempt, buffer.position):
            self.replays.stop()
            self._may_miss_messages &= buffer.has_gap
        self._enter(RequestState.RUNNING)
        if buffer.has_gap:
            self.replays.want(buffer.worker, buffer.attempt, timings.replay_every_s)
            # Once the worker has sent the end again, it no longer has what is missing.
            is_over = isinstance(message, Completed | Failed) and self.replays.have_waited(timings.ended_patience_s)
            if is_over and not (buffer.lacks_part and self._prepare_to_resubmit(buffer.attempt)):
                self.give_up(answer_lost("part"))
        self._changed.set()
        return handover if self.owned else []

    def report_gap(self) -> None:
        """Note that messages may be missing."""
        self._heard_at = -math.inf
        self._may_miss_messages = True
        self.replays.want(self._buffer.worker, self._buffer.attempt, self._timings.possible_gap_replay_every_s)

    def report_reconnection(self) -> None:
        """Note that the connection to the pool was lost, and is there again. From now on the worker has all its time
        again to publish the missing messages, since it may not have received the request for them."""
        self.replays.stop()
        self.report_gap()

    def due_replay(self) -> tuple[ReplayRequest, MessageToWorker] | None:
        """The replay request that is due now, with its message to the worker; None if none is due."""
        replay = self.replays.due()
        return None if replay is None else (replay, MessageToWorker(replay.worker, self._buffer.replay(replay.attempt)))

    def report_outage(self, why: str) -> None:
        """Note that the pool does not answer, and why."""
        self.check_at = math.inf
        self._buffer.outage = why
        if self._why_waiting is not None:
            self.wait(why, self._buffer.attempt)

    def follow_status(self, status: RequestStatus, asked_at: float, pool: PoolView) -> list[Step]:
        """Take in the status of the request in the pool.

        Args:
            asked_at: when the client asked for the status. It is ignored if a message has arrived since.

        Returns:
            The steps for the link to carry out.
        """
        self.check_at, self._buffer.outage = math.inf, ""
        if self.is_being_sent or self.state is RequestState.ENDED or self._heard_at > asked_at:
            return []
        if status.lapses_ms is not None:
            self.check_at = self._clock() + status.lapses_ms / 1000 + _LAPSED_S
        steps: list[Step] = [] if status.state == "missing" else self._check_owner(status.owner)
        match status.state:
            case "missing":
                steps += self._when_missing(pool)
            case "waiting" | "delayed" | "dispatched":
                self._when_queued(status, status.waiting or WaitingRequest(status.state, None), pool)
            case "running":
                self._when_running(status)
            case "completed" | "failed" | "cancelled" | "expired":
                steps += self._when_ending(status, status.state)
            case _:
                assert_never(status.state)
        self._changed.set()
        return steps

    def give_up(self, error: LlmError) -> None:
        super().give_up(error)
        self.state = RequestState.ENDED

    def leave(self, *, everywhere: bool = False) -> None:
        """End the request, since its reader has left.

        Args:
            everywhere: cancel the request for all readers.
        """
        self.give_up(RequestCancelled())
        self.cancels_for_all |= everywhere
        if not self.left.is_set():
            self.left_at = self._clock()
            self.left.set()

    # Changes of state.

    def _enter(self, state: RequestState) -> None:
        if self._buffer.ended:
            state = RequestState.ENDED
        if state is not self.state:
            self.state, self._since = state, self._clock()

    def _has_been_for(self, seconds: float) -> bool:
        """Whether the request has been in its state for this long. If not, the heartbeat will check it at that time."""
        if self._clock() < self._since + seconds:
            self.check_at = self._since + seconds
            return False
        return True

    def _check_owner(self, owner: str) -> list[Step]:
        if not self.owned or owner == self._client:
            return []
        if owner:
            self.owned = False  # another client has attached, and the message about it was lost
        elif self._copy is None:
            return ["reclaim"]
        return []

    def _when_missing(self, pool: PoolView) -> list[Step]:
        self._enter(RequestState.MISSING)
        self.replays.want(self._buffer.worker, self._buffer.attempt, self._timings.possible_gap_replay_every_s)
        if not self._has_been_for(pool.all_heard_s):
            return []  # a worker that runs the request registers it again with its next beat
        may_submit = may_submit_again(self._copy is not None, has_ended=self._buffer.ended_by_pool)
        if may_submit or (self._buffer.lacks_part and self._prepare_to_resubmit(self._buffer.attempt)):
            return ["resubmit"]
        self.give_up(RequestLost())
        return []

    def _when_queued(self, status: RequestStatus, waiting: WaitingRequest, pool: PoolView) -> None:
        self._enter(RequestState.QUEUED)
        self.wait(pool.explain(waiting), status.attempt - (status.state == "dispatched"))
        if pool.is_deserted(self._opened_at, self._clock()):
            self.give_up(no_lane(pool.server))

    def _when_running(self, status: RequestStatus) -> None:
        self._enter(RequestState.RUNNING)
        self._why_waiting = None
        if self._may_miss_messages:
            self.replays.want(status.worker, status.attempt, self._timings.possible_gap_replay_every_s)
        if self._buffer.has_gap and self.replays.have_waited(self._timings.running_patience_s):
            self.give_up(answer_lost("part"))

    def _when_ending(self, status: RequestStatus, state: Ending) -> list[Step]:
        is_outdated = state == "completed" and status.attempt < self._buffer.attempt
        if is_outdated and self._copy is not None and self.owned:
            self._enter(RequestState.MISSING)
            return ["resubmit"]
        self._enter(RequestState.ENDING)
        self._why_waiting = None
        if not status.worker:
            over = self._has_been_for(self._timings.last_message_s)
        elif not (over := self.replays.have_waited(self._timings.ended_patience_s)):
            self.replays.want(status.worker, status.attempt, self._timings.replay_every_s)
        if over:
            self._buffer.ignore_attempts_before(status.attempt)
            lacks_rest = state == "completed" and status.end != self._buffer.position
            if lacks_rest and self._prepare_to_resubmit(status.attempt):
                return ["resubmit"]
            self._buffer.end_as(state, status.end, status.code)
            self._enter(RequestState.ENDED)
        return []

    def _prepare_to_resubmit(self, attempt: int) -> bool:
        """Prepare to submit the request again, so that another attempt continues the answer: this one has completed it,
        and no worker keeps the end. Return False if the request may not be submitted again for that."""
        has_copy, position = self._copy is not None and self.owned, self._buffer.position
        if not may_submit_again(has_copy, has_ended=True, has_progressed=position > self._rest_wanted_from):
            return False
        self._rest_wanted_from, self._may_miss_messages = position, False
        self._buffer.drop_attempt(attempt)
        self.replays.stop()
        self._enter(RequestState.MISSING)
        self.check_at = self._clock()
        return True
