"""A request that a link has submitted or attached to, for the code that awaits its answer or result."""

from __future__ import annotations

import asyncio

from tokenlane.routing.contract.answers import Answer, TokenDelta, Usage
from tokenlane.routing.contract.errors import LlmError, ProviderDown
from tokenlane.routing.contract.messages import ChannelMessage
from tokenlane.routing.contract.results import Progress, Result
from tokenlane.routing.decide.queue_place import QueuePlace
from tokenlane.routing.decide.wait_cause import Wait
from tokenlane.routing.telemetry.request import RequestEnd

from .delta_buffer import DeltaBuffer, MessageToWorker


class OpenRequest:
    """One reader's view of a request. Readers await `next`, `finish`, `result` or `wait_for_message`.

    Only the link changes the view, through `receive` and `give_up`.

    Args:
        waiting: why the request has not started.
        position: the position of the first delta for the reader.
        may_restart: whether the reader allows the answer to begin anew.
    """

    def __init__(
        self, request_id: str, *, position: int = 0, may_restart: bool = False, waiting: Wait | str | None = None
    ) -> None:
        self.id = request_id
        self._why_waiting = waiting
        self._buffer = DeltaBuffer(request_id, position=position, may_restart=may_restart)
        self._buffer.note_waiting(waiting or "")
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def waiting(self) -> str | None:
        """Why the request has not started, or why its answer does not go on, as text for people; None while it runs."""
        return None if self._why_waiting is None else str(self._why_waiting)

    @property
    def place(self) -> QueuePlace | None:
        """The request's place in its queue; None if it does not wait there, or if the pool has not told it yet."""
        return self._why_waiting.place if isinstance(self._why_waiting, Wait) else None

    @property
    def ended(self) -> bool:
        """Whether the request has ended. If the answer is not complete, `error` is set."""
        return self._buffer.ended

    @property
    def error(self) -> LlmError | None:
        return self._buffer.error

    @property
    def text(self) -> str:
        """The answer's text up to the first missing delta."""
        return self._buffer.answer.text

    @property
    def usage(self) -> Usage | None:
        """The tokens and time that the request took; None until they are known."""
        return self._buffer.answer.usage

    @property
    def end(self) -> RequestEnd:
        """How the request ended, for its span."""
        answer = self._buffer.answer
        return RequestEnd(self.error, answer.usage, answer.lane, answer.model, answer.finish_reason, answer.first_at)

    @property
    def progress(self) -> Progress | None:
        """The latest progress of a command; None if the worker has reported none."""
        return self._buffer.progress

    async def wait_for_message(self) -> None:
        """Wait for the next message or the end. Returns at once if the request has ended."""
        if not self._buffer.ended:
            self._changed.clear()
            await self._changed.wait()

    async def next(self) -> TokenDelta | None:
        """Wait for the next delta. Returns None after the last one.

        Raises:
            LlmError: the request failed. It is raised after all deltas that arrived before.
        """
        while (delta := self._buffer.pop()) is None:
            if self._buffer.error is not None:
                raise self._buffer.error
            if self._buffer.ended:
                return None
            await self.wait_for_message()
        return delta

    async def next_batch(self) -> list[TokenDelta]:
        """Wait for the next delta, and return all that have arrived; an empty list after the last one.

        Raises:
            LlmError: the request failed. It is raised after all deltas that arrived before.
        """
        delta, batch = await self.next(), list[TokenDelta]()
        while delta is not None:
            batch.append(delta)
            delta = self._buffer.pop()
        return batch

    async def finish(self) -> Answer:
        """Wait for the end and return the complete answer.

        Raises:
            LlmError: the request failed.
        """
        while not self._buffer.ended:
            await self.wait_for_message()
        if self._buffer.error is not None:
            raise self._buffer.error
        return self._buffer.answer.build(self.id)

    async def result(self) -> Result:
        """Wait for the end and return the result of an embed request or a command.

        Raises:
            LlmError: the request failed.
        """
        await self.finish()
        if self._buffer.result is None:
            raise ProviderDown(
                "The lane's worker does not know this kind of request: update tokenlane on its host.", retryable=False
            ).at(request_id=self.id)
        return self._buffer.result

    def receive(self, message: ChannelMessage) -> list[MessageToWorker]:
        """Take in a message from the request's channel. Returns the handover if a worker asks for it."""
        handover = self._buffer.receive(message)
        self._changed.set()
        return handover

    def wait(self, why: Wait | str, ended_attempt: int) -> None:
        """Note why the request waits to start.

        Args:
            ended_attempt: all attempts up to this number have ended.
        """
        self._why_waiting = why
        self._buffer.note_waiting(why, ended_attempt)

    def expire(self) -> None:
        """End the request, since its deadline has passed and the pool has not ended it."""
        self.give_up(self._buffer.overdue())

    def give_up(self, error: LlmError) -> None:
        """End the request with this error, or with `Interrupted` if part of the answer has arrived."""
        self._buffer.fail(error)
        self._why_waiting = None
        self._changed.set()
