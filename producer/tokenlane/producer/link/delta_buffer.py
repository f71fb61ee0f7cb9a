"""One request as its agent sees it: what came back, in order, once, from the newest attempt only.

Pure and synchronous. Messages go in by `receive`, in whatever order and as often as they come; deltas come out by `pop`
exactly as they were sent. What is to be said to a worker is returned, never sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, assert_never

from tokenlane.routing.contract.answers import Answer, TokenDelta, Usage
from tokenlane.routing.contract.errors import (
    BadRequest,
    DeadlineExceeded,
    ErrorReport,
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
from tokenlane.routing.decide.recovery import answer_lost, seen_with_a_part
from tokenlane.routing.store.request_life import Ending

from .answer_builder import AnswerBuilder

UNREAD_DELTAS = 1024
LONGEST_ANSWER = 32 * 1024 * 1024  # characters
_MOST_UNREAD = 64 * UNREAD_DELTAS
_MERGED_SIZE = 4096  # characters; longer pieces grow no further, or merging would take quadratic time
_HELD_DELTAS = 4096


class ToWorker(NamedTuple):
    """A message for a worker's control channel."""

    worker: str
    message: Replay | Handover


class DeltaBuffer:
    """The state of one request.

    `attempt`: the newest heard of. `worker`: who speaks for it, '' before anybody has. `position`: the next contiguous
    one. `ended`: nothing more comes; `error` says why if the answer is not whole. `ended_by_pool`: the pool has ended
    it. `progress`: how far the work is that comes before an answer. `result`: what came of a request that is no chat.

    Guarantee: every delta is popped once and in order. Where a reader leaves more than `UNREAD_DELTAS` unread,
    neighbours are merged: a merged delta has the position of its last part.

    Args:
        position: the first one wanted, where the agent has those before it already.
    """

    def __init__(
        self,
        request_id: str,
        *,
        position: int = 0,
        unread_deltas: int = UNREAD_DELTAS,
        longest_answer: int = LONGEST_ANSWER,
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
        self._first = position
        self._builder = AnswerBuilder()
        self._unread: deque[TokenDelta] = deque()
        self._held: dict[int, TokenDelta] = {}
        self._ending: Completed | Failed | None = None
        self._handed_over = 0
        self._unread_deltas = unread_deltas
        self._longest_answer = longest_answer

    @property
    def text(self) -> str:
        """The answer's text as far as it has come without a gap."""
        return self._builder.text

    @property
    def usage(self) -> Usage | None:
        """What the request cost; None before that is known."""
        return self._builder.usage

    @property
    def has_gap(self) -> bool:
        """Whether deltas are known to exist that have not come."""
        return not self.ended and (bool(self._held) or self._ending is not None)

    def answer(self) -> Answer:
        """All that has come, as one."""
        return self._builder.answer(self.request_id)

    def pop(self) -> TokenDelta | None:
        """The next delta for the agent; None if there is none now."""
        return self._unread.popleft() if self._unread else None

    def replay(self, attempt: int = 0) -> Replay:
        """The question for all that has not come."""
        return Replay(id=self.request_id, attempt=max(attempt, self.attempt), after=self.position)

    def beyond(self, end: int | None) -> BadRequest | None:
        """The error of a whole answer of so many deltas if the first one wanted would come after them."""
        if end is None or self._first <= end:
            return None
        ended = f"ended with position {end - 1}, before the one given" if end else "is empty, and has no position"
        return BadRequest(f"the answer of {self.request_id} {ended}")

    def receive(self, message: ChannelMessage) -> ToWorker | None:
        """Take one message of the request's channel; returns the answer it wants."""
        if isinstance(message, Resume):
            return ToWorker(message.worker, self._handover(message))
        if self.ended or message.attempt < self.attempt or isinstance(message, Attached):
            return None
        self._rise(message.attempt)
        match message:
            case Deltas():
                self._take(message, message.deltas)
            case Progressed():
                self.worker = message.worker
                self.progress = message.progress
            case Completed() | Failed():
                self.ended_by_pool = True
                self._take(message, message.deltas)
                self._ending = message
            case Cancelled():
                self.ended_by_pool = True
                self.fail(RequestCancelled())
            case Expired():
                self.ended_by_pool = True
                self.fail(DeadlineExceeded())
            case _:
                assert_never(message)
        if isinstance(self._ending, Completed) and self._ending.result is not None:
            self.position = self._ending.end
        if self._ending is not None and self.position >= self._ending.end:
            self._end_with(self._ending)
        return None

    def begin_at(self, attempt: int) -> None:
        """Hear attempts from this one on."""
        self.attempt = max(self.attempt, attempt)

    def end_as(self, state: Ending, end: int | None, code: str) -> None:
        """End it as the pool says that it ended, where no worker can say so any more.

        Args:
            end: how many deltas a whole answer has.
            code: that of the error with which it failed.
        """
        self.ended_by_pool = True
        match state:
            case "completed" if end == self.position:
                self.complete()
            case "completed":
                self.fail(self.beyond(end) or answer_lost("end"))
            case "failed":
                self.fail(LlmError.from_report(ErrorReport(code=code)))
            case "cancelled":
                self.fail(LlmError.from_report(ErrorReport(code="cancelled")))
            case "expired":
                self.fail(DeadlineExceeded())
            case _:
                assert_never(state)

    def complete(self, usage: Usage | None = None) -> None:
        """End it: the answer is whole."""
        if not self.ended:
            self._builder.usage = usage or self._builder.usage
            self._end()

    def fail(self, error: LlmError) -> None:
        """End it with an error; with `Interrupted` if that broke off an answer that had begun."""
        if not self.ended:
            self.error = self._seen_by_agent(error)
            self._end()

    def _rise(self, attempt: int) -> None:
        if attempt > self.attempt:
            self._handed_over = self.position if self.attempt else 0
            self.attempt = attempt
            self.worker = ""
            self._held.clear()
            self._ending = None

    def _handover(self, asked: Resume) -> Handover:
        stale = asked.attempt < self.attempt
        self._rise(asked.attempt)
        if not stale:
            self.worker = asked.worker
        state = "stale" if stale else "done" if self.ended else "open"
        return Handover(id=self.request_id, attempt=asked.attempt, state=state, position=self.position)

    def _take(self, message: Deltas | Completed | Failed, deltas: Sequence[TokenDelta]) -> None:
        self.worker = message.worker or self.worker
        if deltas and message.first < self._handed_over:
            # Agreed with the request's owner, who had less than this agent, which only listens.
            self.fail(answer_lost("begun anew"))
        for position, delta in enumerate(deltas, message.first):
            if position < self.position or position in self._held:
                continue
            if position > self.position and len(self._held) >= _HELD_DELTAS:
                break
            delta.request_id, delta.attempt, delta.position = self.request_id, message.attempt, position
            delta.lane, delta.model = message.lane, message.model
            if position == self.position:
                self._accept(delta)
            else:
                self._held[position] = delta
            while (held := self._held.pop(self.position, None)) is not None:
                self._accept(held)

    def _accept(self, delta: TokenDelta) -> None:
        if self.ended:
            return
        self.position += 1
        self._builder.add(delta)
        full = len(self._unread) >= self._unread_deltas
        if not (full and _merge(self._unread[-1], delta)):
            self._unread.append(delta)
        if self._builder.size > self._longest_answer or len(self._unread) > _MOST_UNREAD:
            limit = f"{self._longest_answer} characters or {_MOST_UNREAD} unread deltas"
            self.fail(LlmError(f"the answer is longer than {limit}: ask for less with max_tokens, or read faster"))

    def _end_with(self, ending: Completed | Failed) -> None:
        if isinstance(ending, Completed):
            self._builder.model, self._builder.lane = ending.model, ending.lane
            self.result = ending.result
            if (beyond := self.beyond(ending.end)) is not None:
                self.fail(beyond)
            self.complete(ending.usage)
        else:
            self.fail(LlmError.from_report(ending.error))

    def _end(self) -> None:
        self.ended = True
        self._held.clear()

    def _seen_by_agent(self, error: LlmError) -> LlmError:
        if self.position > 0:
            error = seen_with_a_part(error)
        if isinstance(error, Interrupted):
            error.partial = self.text
        if isinstance(error, Interrupted | DeadlineExceeded):
            error.at(lane=self._builder.lane, model=self._builder.model)
        return error


def _merge(last: TokenDelta, delta: TokenDelta) -> bool:
    """Append `delta` to `last` if both are plain text, or both plain reasoning, and `last` is not too long."""
    size = len(last.text) + len(last.reasoning) + len(last.logprobs)
    if size >= _MERGED_SIZE or not (_plain(last) and _plain(delta)):
        return False
    if bool(last.reasoning) != bool(delta.reasoning) or last.attempt != delta.attempt:
        return False
    last.text += delta.text
    last.reasoning += delta.reasoning
    last.logprobs += delta.logprobs
    last.position = delta.position
    return True


def _plain(delta: TokenDelta) -> bool:
    if delta.tool_calls or delta.finish_reason is not None or delta.usage is not None:
        return False
    return not (delta.text and delta.reasoning)
