"""Puts the messages of a request in order: returns each delta once, by position, and only from the newest attempt.

The buffer does no I/O. `receive` accepts messages in any order and any number of times, and `pop` returns the deltas in
the order in which they were sent. Messages for a worker are returned to the caller, who sends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, assert_never

from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.errors import (
    BadRequest,
    DeadlineExceeded,
    ErrorReport,
    HookFailed,
    Interrupted,
    LlmError,
    RequestCancelled,
)
from tokenlane.routing.contract.messages import (
    Attached,
    Cancelled,
    ChannelMessage,
    Completed,
    Deltas,
    Expired,
    Failed,
    Handover,
    Progressed,
    Replay,
    Resume,
)
from tokenlane.routing.contract.results import Progress, Result
from tokenlane.routing.decide.interruptions import answer_lost, as_interruption, deadline_exceeded
from tokenlane.routing.decide.wait_cause import Wait
from tokenlane.routing.store.request_life import Ending

from .answer_builder import AnswerBuilder
from .handover import make_handover
from .unread_deltas import UNREAD_DELTAS, UnreadDeltas

MAX_ANSWER_SIZE = 32 * 1024 * 1024  # characters
_MAX_UNREAD_DELTAS = 64 * UNREAD_DELTAS
_MAX_EARLY_DELTAS = 4096
_PURGED = "An operator cancelled all waiting requests of the role with `tokenlane roles purge`."
_ORPHANED = "The pool cancelled the request, since its client sent no beat for the orphan_ms of the pool's policy."


class MessageToWorker(NamedTuple):
    """A message, and the worker to whose control channel it goes."""

    worker: str
    message: Replay | Handover


class DeltaBuffer:
    """The messages received for one request.

    Guarantee: every delta is popped once and in order. If more than `UNREAD_DELTAS` are unread, new deltas are merged
    into the last one; a merged delta has the position of its last part.

    If an attempt begins the answer anew and the reader allows that, everything before is void: the unread deltas are
    dropped, positions begin at 0 again, and the next delta is marked as `restarted`.

    Attributes:
        attempt: the newest attempt that has sent a message.
        worker: the worker that runs this attempt; '' if no message has named it.
        position: the position of the first missing delta.
        ended: whether the request has ended. If the answer is not complete, `error` says why.
        ended_by_pool: whether the pool itself has ended the request.
        progress: the latest progress of a command.
        result: the result of an embed request or a command.
        answer: the answer so far.
        outage: why the pool does not answer; '' if it does.

    Args:
        position: the position of the first delta for the reader, who already has the deltas before it.
        may_restart: whether the reader allows the answer to begin anew. If not, the request then fails.
        unread_deltas: the number of unread deltas from which on deltas are merged.
        longest_answer: the size, in characters, at which an answer fails.
    """

    def __init__(
        self,
        request_id: str,
        *,
        position: int = 0,
        may_restart: bool = False,
        unread_deltas: int = UNREAD_DELTAS,
        longest_answer: int = MAX_ANSWER_SIZE,
    ) -> None:
        self.request_id = request_id
        self.attempt = 0
        self.worker = ""
        self.position = position
        self.ended = False
        self.ended_by_pool = False
        self.error: LlmError | None = None
        self.progress: Progress | None = None
        self.result: Result | None = None
        self.outage = ""
        self._first = position
        self.answer = AnswerBuilder()
        self._unread = UnreadDeltas(unread_deltas)
        self._early: dict[int, TokenDelta] = {}
        self._ending: Completed | Failed | None = None
        self._handed_over = 0
        self._served_as = ""
        self._may_restart = may_restart
        self._begun_by = 0
        self._begins_anew = False
        self._waits_after = 0
        self._why_waiting: Wait | str = ""
        self._longest_answer = longest_answer

    @property
    def has_gap(self) -> bool:
        """Whether a later delta has arrived before earlier ones."""
        return not self.ended and (bool(self._early) or self._ending is not None)

    @property
    def lacks_part(self) -> bool:
        """Whether the last message of a complete answer has arrived, but not all deltas before it."""
        return isinstance(self._ending, Completed) and not self.ended

    def pop(self) -> TokenDelta | None:
        """The next delta for the reader; None if it has not arrived yet."""
        return self._unread.pop()

    def replay(self, attempt: int = 0) -> Replay:
        """Make the message that asks a worker to publish the missing deltas again."""
        return Replay(id=self.request_id, attempt=max(attempt, self.attempt), after=self.position)

    def error_beyond(self, end: int | None) -> BadRequest | None:
        """The error if an answer of `end` deltas ends before the reader's first position; else None."""
        if end is None or self._first <= end:
            return None
        ended = f"ended with position {end - 1}, before the given position" if end else "is empty, and has no position"
        return BadRequest(f"The answer {ended}.")

    def receive(self, message: ChannelMessage) -> list[MessageToWorker]:
        """Take in a message from the request's channel. Returns the handover if the message asks for it."""
        if isinstance(message, Resume):
            return [MessageToWorker(message.worker, part) for part in self._handover(message)]
        if self.ended or message.attempt < self.attempt or isinstance(message, Attached):
            return []
        self._begin_attempt(message.attempt)
        match message:
            case Deltas():
                self._add_deltas(message)
            case Progressed():
                self.worker = message.worker
                self.progress = message.progress
            case Completed() | Failed():
                self.ended_by_pool = True
                self._add(message, message.deltas)
                self._ending = message
            case Cancelled():
                self.end_as("cancelled", code=message.code)
            case Expired():
                self.end_as("expired", code=message.code)
            case _:
                assert_never(message)
        if isinstance(self._ending, Completed) and self._ending.result is not None:
            self.position = self._ending.end
        if self._ending is not None and self.position >= self._ending.end:
            self._end_with(self._ending)
        return []

    def ignore_attempts_before(self, attempt: int) -> None:
        """Ignore messages of earlier attempts."""
        self.attempt = max(self.attempt, attempt)

    def drop_attempt(self, attempt: int) -> None:
        """Ignore an attempt from now on, although it ended the request: a later attempt continues the answer."""
        self._begin_attempt(attempt + 1)
        self.ended_by_pool = False

    def note_waiting(self, why: Wait | str, ended_attempt: int = 0) -> None:
        """Note why the request waits to start, for the error if its time to live passes first.

        Args:
            ended_attempt: all attempts up to this number have ended; 0 if there was none.
        """
        self._why_waiting, self._waits_after = why, ended_attempt

    def end_as(self, state: Ending, end: int | None = None, code: str = "") -> None:
        """End the request as its status in the pool says.

        Args:
            end: the number of deltas in the complete answer.
            code: the code of the error with which the request failed; "orphaned" if its client had vanished,
                "purged" if an operator purged its role; for an expired request, why its last attempt had ended.
        """
        self.ended_by_pool = True
        match state:
            case "completed" if end == self.position:
                self.complete()
            case "completed":
                self.fail(self.error_beyond(end) or answer_lost("end"))
            case "failed":
                self.fail(LlmError.from_report(ErrorReport(code=code)))
            case "cancelled":
                self.fail(RequestCancelled({"orphaned": _ORPHANED, "purged": _PURGED}.get(code, "")))
            case "expired":
                self.fail(self.overdue(code))
            case _:
                assert_never(state)

    def complete(self, usage: Usage | None = None) -> None:
        """End the request with a complete answer."""
        if not self.ended:
            self.answer.usage = usage or self.answer.usage
            self._end()

    def fail(self, error: LlmError) -> None:
        """End the request with an error, or with `Interrupted` if part of the answer has arrived."""
        if self.ended:
            return
        if self.position > 0:
            error = as_interruption(error)
        if isinstance(error, Interrupted | HookFailed):
            error.partial = self.answer.text
        if isinstance(error, Interrupted | DeadlineExceeded):
            error.at(lane=self.answer.lane, model=self.answer.model)
        self.error = error.at(request_id=self.request_id)
        self._end()

    def overdue(self, ended_by: str = "") -> DeadlineExceeded:
        """The error of a request whose time to live has passed. `ended_by`: why its last attempt ended, if known."""
        waits = bool(self._why_waiting) and self.attempt <= self._waits_after
        why_waiting = str(self._why_waiting) if waits else ""
        return deadline_exceeded(why_waiting, ended_by, self.outage, was_started=self.attempt > 0)

    def _begin_attempt(self, attempt: int) -> None:
        if attempt > self.attempt:
            self._handed_over = self.position if self.attempt else 0
            self.attempt = attempt
            self.worker = ""
            self._early.clear()
            self._ending = None

    def _handover(self, resume: Resume) -> list[Handover]:
        if resume.attempt < self.attempt:
            return [Handover(id=self.request_id, attempt=resume.attempt, state="stale")]
        self._begin_attempt(resume.attempt)
        self.worker = resume.worker
        if self.ended:
            return [Handover(id=self.request_id, attempt=resume.attempt, state="done")]
        return make_handover(
            self.request_id,
            resume.attempt,
            self.answer,
            model=self._served_as,
            position=self.position,
            joined_at=self._first,
            begun_by=self._begun_by,
        )

    def begin_anew(self, attempt: int) -> None:
        """Drop the answer so far, since this attempt began another one."""
        self._begun_by = attempt
        if self.position == 0:
            return
        if not self._may_restart:
            self.fail(answer_lost("restarted"))
            return
        self.answer = AnswerBuilder()
        self._unread.clear()
        self.position = self._first = self._handed_over = 0
        self._begins_anew = True

    def _add_deltas(self, message: Deltas) -> None:
        if message.stands_for:
            self._add_replayed_part(message)
        else:
            self._served_as = message.served_as or message.model
            self._add(message, message.deltas)

    def _add(self, message: Deltas | Completed | Failed, deltas: Sequence[TokenDelta]) -> None:
        self.worker = message.worker or self.worker
        # An attempt that failed before its first delta leaves the earlier answer as it is.
        has_answer = bool(deltas) or isinstance(message, Completed) or (isinstance(message, Failed) and message.end > 0)
        if message.begun_by > self._begun_by and has_answer:
            self.begin_anew(message.begun_by)
        if deltas and message.first < self._handed_over:
            # The attempt continues from the owner's position, and this reader has received more than the owner.
            self.fail(answer_lost("owner"))
        for position, delta in enumerate(deltas, message.first):
            if position < self.position or position in self._early:
                continue
            if position > self.position and len(self._early) >= _MAX_EARLY_DELTAS:
                break
            self._take(delta, position, message)

    def _add_replayed_part(self, message: Deltas) -> None:
        """Add the text that the owner handed over to this attempt, if this reader has only the beginning of it."""
        if message.begun_by > self._begun_by:
            self.begin_anew(message.begun_by)
        part, known = "".join(delta.text for delta in message.deltas), self.answer.text
        thought = "".join(delta.reasoning for delta in message.deltas)
        if self._first > 0 or self.position >= message.stands_for or not part.startswith(known):
            return
        self.answer.tokens += message.stands_for - 1 - self.position  # the one delta stands for so many more
        self.position = message.stands_for - 1
        self._early = {position: delta for position, delta in self._early.items() if position > self.position}
        delta = TokenDelta(text=part[len(known) :], reasoning=thought[len(self.answer.reasoning) :])
        self._take(delta, self.position, message)

    def _take(self, delta: TokenDelta, position: int, message: Deltas | Completed | Failed) -> None:
        """Take in a delta, and the deltas after it that arrived before it."""
        delta.request_id, delta.attempt, delta.position = self.request_id, message.attempt, position
        delta.lane, delta.model = message.lane, message.model
        self._early[position] = delta
        while (held := self._early.pop(self.position, None)) is not None:
            self.add(held)

    def add(self, delta: TokenDelta) -> None:
        """Append the next delta to the answer, and to those that the reader has not read."""
        if self.ended:
            return
        self.position += 1
        if delta.restarted != self._begins_anew:  # setting a field of a model costs more than reading it
            delta.restarted = self._begins_anew
        self._begins_anew = False
        self.answer.add(delta)
        self._unread.put(delta)
        if self.answer.size > self._longest_answer or len(self._unread) > _MAX_UNREAD_DELTAS:
            limit = f"{self._longest_answer} characters or {_MAX_UNREAD_DELTAS} unread deltas"
            self.fail(LlmError(f"The answer is longer than {limit}: lower max_tokens, or read faster."))

    def _end_with(self, ending: Completed | Failed) -> None:
        if isinstance(ending, Completed):
            if self._begins_anew:  # the new answer is empty, and has no delta that could say so
                self.add(TokenDelta(request_id=self.request_id, attempt=self.attempt, lane=ending.lane))
            self.answer.model, self.answer.lane = ending.model, ending.lane
            self.result = ending.result
            if (beyond := self.error_beyond(ending.end)) is not None:
                self.fail(beyond)
            self.complete(ending.usage)
        else:
            error = LlmError.from_report(ending.error)
            self.fail(as_interruption(error, refused=not ending.worker) if self.position > 0 else error)

    def _end(self) -> None:
        self.ended = True
        self._early.clear()
