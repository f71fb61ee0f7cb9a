"""Takes the deltas of one attempt, written as they will be sent, until the publisher's next flush."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.messages import delta_piece, deltas_writer

from .replay_memory import AttemptKey

if TYPE_CHECKING:
    from .publisher import Publisher


@dataclass(frozen=True)
class Rest:
    """The deltas of an answer that were not published, from position `first`."""

    first: int
    deltas: list[TokenDelta]

    @property
    def end(self) -> int:
        """How many deltas the answer has."""
        return self.first + len(self.deltas)


class Outlet:
    """Where one attempt's deltas go: from here to its request's `channel`. Get one with `Publisher.open`."""

    def __init__(self, publisher: Publisher, attempt: AttemptKey, channel: str, model: str) -> None:
        self.attempt = attempt
        self.channel = channel
        self.first_put_at: float | None = None
        self._publisher = publisher
        self._speak_as(model)
        self._first = 0
        self._waiting: list[TokenDelta] = []
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0

    def start_at(self, position: int) -> None:
        """The agent has all before `position`; call this before the first `put`."""
        self._first = position

    def put(self, delta: TokenDelta) -> None:
        """Take the next delta of the answer. It belongs to the outlet from now on.

        Raises:
            ValueError: no JSON can carry it, as half a surrogate pair.
        """
        if delta.model:
            if delta.model != self.model:
                self._speak_as(delta.model)
            delta.model_fields_set.discard("model")  # the message names it once
        piece = delta_piece(delta)
        begins = self.first_put_at is None
        if begins:
            self.first_put_at = asyncio.get_running_loop().time()
        if not self._waiting:
            self._publisher.ready(self, begins=begins)
        self._waiting.append(delta)
        self._pieces.append(piece)
        self._waiting_bytes += len(piece)

    @property
    def crowded(self) -> bool:
        """More waits for a flush than should."""
        return self._waiting_bytes > self._publisher.unflushed_bytes

    async def room(self) -> None:
        """Wait until the outlet is no longer crowded."""
        while self.crowded:
            await self._publisher.landed()

    def take(self) -> bytes:
        """What waits, as one message, which is kept for replays."""
        message = self._write(self._first, self._pieces)
        self._first += len(self._pieces)
        self._clear()
        self._publisher.memory.keep(self.attempt, self._first, message)
        return message

    async def close(self) -> Rest:
        """Wait for a flush in flight, and hand back what no flush has taken; it is not published any more."""
        await self._publisher.withdraw(self)
        rest = Rest(self._first, self._waiting)
        self._clear()
        return rest

    def end(self, message: bytes) -> None:
        """Keep the message that ended the request, for agents that missed it."""
        self._publisher.memory.end(self.attempt, message)

    def discard(self) -> None:
        """Forget the attempt: another one will speak for the request."""
        self._publisher.memory.forget(self.attempt)

    def _clear(self) -> None:
        self._waiting, self._pieces, self._waiting_bytes = [], [], 0

    def _speak_as(self, model: str) -> None:
        self._write = deltas_writer(self.attempt[1], self._publisher.worker, self._publisher.lane, model)
        self.model = model
