"""Lets one question of a conversation through at a time: further ones wait, are refused, or interrupt it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from tokenlane.routing.contract.errors import LlmError, RequestCancelled

OnBusy: TypeAlias = Literal["queue", "reject", "interrupt"]
"""What a question does while another one is answered: wait for its turn, be refused, or interrupt the answer."""

CHANGED = "Another process has changed this conversation in its file meanwhile."
"""Why a conversation is busy although no question has its turn here."""

Stop: TypeAlias = Callable[[], Awaitable[None]]
"""Ends the question that has its turn, and calls `leave` for it."""


class ConversationBusy(LlmError):
    """The conversation answers another question.

    Ask again after its end, or open the conversation with on_busy="queue" or "interrupt". If the conversation is in a
    file, another process may have changed it there: `refresh` the conversation, and ask again.
    """

    code = "conversation_busy"


class OneAtATime:
    """The questions of a conversation that have or wait for their turn. They get it in the order in which they came."""

    def __init__(self, on_busy: OnBusy) -> None:
        self._on_busy = on_busy
        self._stop: Stop | None = None  # of the question that has its turn
        self._waiting: deque[tuple[asyncio.Future[None], Stop]] = deque()

    async def enter(self, stop: Stop) -> None:
        """Wait for a turn. It lasts until `leave`.

        With "interrupt", the questions that wait are refused, and the one that has its turn is stopped.

        Args:
            stop: called if a later question interrupts this one, maybe before `enter` has returned.

        Raises:
            ConversationBusy: another question has its turn, and `on_busy` is "reject".
            RequestCancelled: a later question interrupted this one while it waited.
        """
        if self._stop is None:
            self._stop = stop
            return
        if self._on_busy == "reject":
            raise ConversationBusy
        turn = asyncio.get_running_loop().create_future()
        interrupted = self._stop if self._on_busy == "interrupt" else None
        if interrupted is not None:
            self._refuse_waiting()
        self._waiting.append((turn, stop))
        try:
            if interrupted is not None:
                await interrupted()
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()
            turn.cancel()
            raise

    def leave(self) -> None:
        """End the turn, and give the next question its turn."""
        self._stop = None
        while self._waiting:
            turn, stop = self._waiting.popleft()
            if not turn.done():
                self._stop = stop
                turn.set_result(None)
                return

    def _refuse_waiting(self) -> None:
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(RequestCancelled("A later question interrupted this one before it was sent."))
