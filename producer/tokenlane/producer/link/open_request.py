"""One request under way, as who asked sees it."""

from __future__ import annotations

import asyncio

from tokenlane.routing.contract.answers import Answer, TokenDelta, Usage
from tokenlane.routing.contract.errors import LlmError, ProviderDown
from tokenlane.routing.contract.messages import ChannelMessage
from tokenlane.routing.contract.results import Progress, Result

from .delta_buffer import DeltaBuffer, ToWorker


class OpenRequest:
    """What a link gives for a request. Readers await `next`, `finish`, `result` or `change`; its link alone changes it,
    by `message` and `give_up`.

    Args:
        position: the first of the answer's deltas that is wanted.
        waiting: why it has not started.
    """

    def __init__(self, request_id: str, *, position: int = 0, waiting: str | None = None) -> None:
        self.id = request_id
        self._buffer = DeltaBuffer(request_id, position=position)
        self._waiting = waiting
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def ended(self) -> bool:
        """Whether nothing more comes; `error` says why if the answer is not whole."""
        return self._buffer.ended

    @property
    def error(self) -> LlmError | None:
        return self._buffer.error

    @property
    def text(self) -> str:
        """The answer's text as far as it has come without a gap."""
        return self._buffer.text

    @property
    def usage(self) -> Usage | None:
        """What it cost; None before that is known."""
        return self._buffer.usage

    @property
    def progress(self) -> Progress | None:
        """How far the work is that comes before an answer."""
        return self._buffer.progress

    @property
    def waiting(self) -> str | None:
        """Why it has not started, for people; None once it has."""
        return self._waiting

    async def change(self) -> None:
        """Wait until something has come or it has ended."""
        self._changed.clear()
        await self._changed.wait()

    async def next(self) -> TokenDelta | None:
        """The next delta; None at the end.

        Raises:
            LlmError: what it failed with, after all deltas that came before.
        """
        buffer = self._buffer
        while (delta := buffer.pop()) is None:
            if buffer.error is not None:
                raise buffer.error
            if buffer.ended:
                return None
            await self.change()
        return delta

    async def finish(self) -> Answer:
        """Wait for the end; the whole answer.

        Raises:
            LlmError: what it failed with.
        """
        while not self._buffer.ended:
            await self.change()
        if self._buffer.error is not None:
            raise self._buffer.error
        return self._buffer.answer()

    async def result(self) -> Result:
        """Wait for the end; what came of a request that is no chat.

        Raises:
            LlmError: what it failed with.
        """
        await self.finish()
        if self._buffer.result is None:
            raise ProviderDown(
                "the lane's worker does not know this kind of request: start a newer one", retryable=False
            )
        return self._buffer.result

    def message(self, message: ChannelMessage) -> ToWorker | None:
        """Take a message of its channel; what its worker is to be answered, if anything."""
        reply = self._buffer.receive(message)
        self._changed.set()
        return reply

    def give_up(self, error: LlmError) -> None:
        """End it with this error, unless it has ended: as `Interrupted` if that breaks off an answer."""
        self._buffer.fail(error)
        self._waiting = None
        self._changed.set()
