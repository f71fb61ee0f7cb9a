"""Collects the serialized deltas of one attempt until the publisher's next flush."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.messages import (
    ChannelMessage,
    Deltas,
    Handover,
    Obstacle,
    Progressed,
    delta_piece,
    deltas_writer,
)
from tokenlane.routing.contract.results import Progress
from tokenlane.routing.telemetry.batches import BatchSpans

from .attempt_key import AttemptKey
from .replay_memory import REPLAY_BYTES

if TYPE_CHECKING:
    from .publisher import Publisher


@dataclass(frozen=True)
class Unpublished:
    """The last deltas of an answer, which no flush has published. `first`: the position of the first of them."""

    first: int
    deltas: list[TokenDelta]

    @property
    def end(self) -> int:
        """The number of deltas in the complete answer."""
        return self.first + len(self.deltas)


def _plain(message: bytes) -> bytes:
    return message


class Outlet:
    """The output of one attempt, on its way to the request's `channel`. `Publisher.open` creates it.

    `first_put_at` and `published_at`: when the first delta came, and when deltas were last published, by the event
    loop's clock. `unsent`: after `close`, how many deltas no message has carried to the agent.
    `batch_spans`: records the batches, if wanted.

    Args:
        is_sealed: whether the request is sealed. Then nothing can be put or sent before `seal_with`.
    """

    def __init__(
        self, publisher: Publisher, attempt: AttemptKey, channel: str, model: str, *, is_sealed: bool = False
    ) -> None:
        self.attempt = attempt
        self.channel = channel
        self.first_put_at: float | None = None
        self.batch_spans: BatchSpans | None = None
        self.published_at: float | None = None
        self.unsent = 0
        self._publisher = publisher
        self.begun_by = 0
        self.start = 0
        self._seal: Callable[[bytes], bytes] | None = None if is_sealed else _plain
        self._served_as = model
        self._name_model(model)
        self._first = 0
        self._has_text = self._has_reasoning = self._has_calls = False
        self._waiting: list[TokenDelta] = []
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._waiting_since_ns = 0

    def continue_after(self, part: Handover) -> None:
        """Continue the answer after the part that the agent has. Call this before the first `put`.

        The text of the part is kept for clients that attach later, since the worker that sent it may be dead.
        """
        self.start = self._first = part.position
        self._has_text = True
        self.begun_by = part.begun_by
        self._name_model(self.model)
        self._forget_part()
        if part.text and len(part.text) + len(part.reasoning) <= REPLAY_BYTES and self._seal is not None:
            replayed = Deltas(
                attempt=self.attempt.number,
                worker=self._publisher.worker,
                lane=part.lane,
                model=part.model,
                first=0,
                deltas=[TokenDelta(reasoning=part.reasoning, text=part.text)],
                begun_by=part.begun_by,
                stands_for=part.position,
            )
            self._publisher.memory.keep(self.attempt, part.position, self._seal(replayed.to_wire()))

    def restart(self) -> None:
        """Begin the answer anew: what the agent has from earlier attempts is void. Call this before the first `put`."""
        self.begun_by = self.attempt.number
        self.start = self._first = 0
        self._has_text = False
        self._name_model(self.model)
        self._forget_part()

    @property
    def obstacle(self) -> Obstacle:
        """Why no later attempt can continue the deltas published so far; empty if one can."""
        if self._has_calls:
            return "tool_call"
        return "reasoning" if self._has_reasoning and not self._has_text else ""

    def seal_with(self, seal: Callable[[bytes], bytes]) -> None:
        """Seal every message from now on with this function."""
        self._seal = seal

    def put(self, delta: TokenDelta) -> None:
        """Publish the next delta of the answer soon. The caller must not use the delta afterwards.

        Raises:
            ValueError: the text cannot be JSON, for example because it holds half a surrogate pair.
        """
        if delta.model:
            if delta.model != self.model:
                self._name_model(delta.model)
            delta.model_fields_set.discard("model")  # the message names the model once for all its deltas
        piece = delta_piece(delta)
        is_first = self.first_put_at is None
        if is_first:
            self.first_put_at = asyncio.get_running_loop().time()
        if not self._waiting:
            self._publisher.schedule(self, is_first=is_first)
            if self.batch_spans is not None:
                self._waiting_since_ns = time.time_ns()
        self._waiting.append(delta)
        self._pieces.append(piece)
        self._waiting_bytes += len(piece)

    @property
    def is_full(self) -> bool:
        """Whether so many bytes wait for a flush that no more should be read from the model server."""
        return self._waiting_bytes > self._publisher.unflushed_bytes

    async def wait_for_room(self) -> None:
        """Wait until the outlet is no longer full."""
        while self.is_full:
            await self._publisher.wait_for_flush()

    async def send(self, message: ChannelMessage) -> None:
        """Publish a message that is not part of the answer, without waiting for a flush. Nothing is published if the
        request is sealed and the worker has not opened it.

        Raises:
            LlmError: the pool does not answer.
        """
        if self._seal is not None:
            await self._publisher.pool.publish([(self.channel, self._seal(message.to_wire()))])

    def write_ending(self, message: ChannelMessage) -> bytes:
        """Serialize and seal the message that ends the request. It stays plain if the worker could not open the
        request: then nothing of an answer is in it."""
        wire = message.to_wire()
        return wire if self._seal is None else self._seal(wire)

    async def report_progress(self, progress: Progress) -> None:
        """Report progress to the agent. A report that cannot be published is dropped, since the next is newer."""
        publisher = self._publisher
        with suppress(LlmError):
            await self.send(
                Progressed(attempt=self.attempt.number, worker=publisher.worker, lane=publisher.lane, progress=progress)
            )

    def take_message(self) -> bytes:
        """Return the waiting deltas as one message, and keep the message for replays."""
        assert self._seal is not None, "a delta of a sealed request that was not opened"
        message = self._seal(self._write(self._first, self._pieces))
        self._count_sent(len(self._pieces))
        for delta in self._waiting:
            if delta.text:
                self._has_text = True
            if delta.reasoning:
                self._has_reasoning = True
            if delta.tool_calls:
                self._has_calls = True
        self._clear()
        self._publisher.memory.keep(self.attempt, self._first, message)
        return message

    async def close(self) -> Unpublished:
        """Wait for a flush in flight, then return the deltas that were not published. No flush takes them any more.

        If only reasoning was published and these deltas have text, they are published first: with its first text, a
        later attempt can continue the answer.
        """
        await self._publisher.stop_flushing(self)
        if self.obstacle == "reasoning" and any(delta.text for delta in self._waiting):
            with suppress(LlmError):
                await self._publisher.pool.publish([(self.channel, self.take_message())])
        rest = Unpublished(self._first, self._waiting)
        self.unsent = len(self._waiting)
        self._clear()
        return rest

    def end(self, message: bytes, *, deltas: int = 0, missed: bool = False) -> None:
        """Keep the message that ended the request, for agents that missed it.

        Args:
            deltas: how many of the deltas that `close` returned are in the message: all or none.
            missed: whether no agent may have received the message.
        """
        self.unsent -= deltas
        self._count_sent(deltas)
        self._publisher.memory.end(self.attempt, message)
        if missed:
            self._publisher.missed_endings.add(self.attempt)

    def discard(self) -> None:
        """Forget the attempt's messages: a later attempt answers the request."""
        self._publisher.memory.forget(self.attempt)

    def _count_sent(self, deltas: int) -> None:
        if self.batch_spans is not None and deltas:
            self.batch_spans.record(self._first, self._first + deltas - 1, self._waiting_since_ns)
        self._first += deltas
        self._publisher.count(deltas)

    def _forget_part(self) -> None:
        """Forget the part of an earlier attempt, which is all that is kept before the first `put`."""
        self._publisher.memory.forget(self.attempt)
        self._publisher.memory.open(self.attempt)

    def _clear(self) -> None:
        self._waiting, self._pieces, self._waiting_bytes = [], [], 0

    def _name_model(self, model: str) -> None:
        self._write = deltas_writer(
            *(self.attempt.number, self._publisher.worker, self._publisher.lane, model),
            begun_by=self.begun_by,
            served_as="" if model == self._served_as else self._served_as,
        )
        self.model = model
