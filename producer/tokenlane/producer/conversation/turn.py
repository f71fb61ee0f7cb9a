"""One question of a conversation, from its wait for its turn until its answer is in the history or it is taken back."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeAlias

from pydantic import JsonValue

from tokenlane.producer.link.link import Link
from tokenlane.producer.link.open_request import OpenRequest
from tokenlane.routing.contract.errors import ContextTooLong, ImagesNotAccepted, LlmError, RequestCancelled
from tokenlane.routing.contract.requests import Message
from tokenlane.routing.contract.wire import new_id

from .images import has_images, without_images
from .one_at_a_time import OneAtATime
from .record import Record

Send: TypeAlias = Callable[[str, Sequence[Message]], Coroutine[None, None, OpenRequest]]
"""Submits a chat request with this id and these messages."""


class Turn:
    """A question, which is sent again if it does not fit the model: shorter, or without the images of earlier turns.

    Attributes:
        request_id: the id of the first request.
        has_turn: whether the question keeps others from their turn.

    Args:
        ask: returns the messages that the turn adds before the answer: a question, or none after tool results. Called
            once the question has its turn, it raises BadRequest if they are out of place.
        tools: the tools of the request.
        keeps_partial: whether the text of an answer that broke off is kept.
        sends_again: whether the question may be sent again.
    """

    def __init__(
        self,
        record: Record,
        order: OneAtATime,
        link: Link,
        send: Send,
        ask: Callable[[], list[Message]],
        tools: list[dict[str, JsonValue]] | None,
        *,
        keeps_partial: bool,
        sends_again: bool,
    ) -> None:
        self._record, self._order, self._link, self._send, self._ask = record, order, link, send, ask
        self._tools, self._keeps_partial, self._sends_again = tools, keeps_partial, sends_again
        self.request_id = new_id()
        self.has_turn = False
        self._after: list[Message] = []
        self._question: list[Message] = []
        self._sent: list[Message] = []
        self._request: OpenRequest | None = None
        self._sending_again = asyncio.Lock()
        self._interrupted = asyncio.Event()
        self._leaves_out_images = False

    async def begin(self) -> OpenRequest:
        """Wait for the turn, and send the question.

        Raises:
            ConversationBusy: another question has its turn, and questions do not wait; or another process changed the
                conversation.
            RequestCancelled: a later question interrupted this one.
            BadRequest: the question is out of place, or the request is not valid.
            OSError: the conversation's file cannot be used.
            LlmError: the pool refused the request.
        """
        await self._order.enter(self.interrupt)
        self.has_turn = True
        try:
            await self._record.refresh()
            self._after, self._question = self._record.messages, self._ask()
            return await self._submit(self.request_id)
        except BaseException:
            self.abandon()
            raise

    async def send_again(self, failed: OpenRequest, error: LlmError) -> OpenRequest | None:
        """Send the question again if that may help after this error and nothing was delivered.

        Returns:
            The new request, which another reader may have sent already; None if it would not help.
        """
        async with self._sending_again:
            if failed is not self._request:
                return self._request
            if not self._sends_again or self._interrupted.is_set() or failed.end.first_at is not None:
                return None
            match error:
                case ContextTooLong():
                    may_help = self._record.halve(self._question, self._tools)
                case ImagesNotAccepted():
                    may_help = self._leave_out_images(error)
                case _:
                    may_help = False
            if not may_help:
                return None
            await self._link.close(failed)
            return await self._submit(new_id())

    async def settle(self) -> None:
        """End the turn: add the question with its complete answer to the history, or take the question back.

        Only the first call has an effect.

        Raises:
            ConversationBusy: another process has changed the conversation in its file; the answer is not added.
            OSError: the file cannot be written; the answer is not added.
        """
        request = self._request
        if not self.has_turn or request is None:
            return
        self.has_turn = False
        try:
            if request.ended and request.error is None:
                answer = await request.finish()
                self._record.estimate.learn(answer.usage, self._sent, self._tools)
                await self._record.append([*self._question, answer.message], after=self._after)
            elif self._keeps_partial and request.text:
                partial = Message(role="assistant", content=request.text)
                await self._record.append([*self._question, partial], after=self._after)
        finally:
            self._order.leave()

    def abandon(self) -> None:
        """End the turn and take the question back, without waiting."""
        if self.has_turn:
            self.has_turn = False
            self._order.leave()

    async def interrupt(self) -> None:
        """Cancel the request, since a later question interrupts this one, and end the turn."""
        self._interrupted.set()
        if self._request is not None:
            if not self._request.ended:
                await self._link.close(self._request, everywhere=True)
            await self.settle()

    async def _submit(self, request_id: str) -> OpenRequest:
        refusal = RequestCancelled("A later question interrupted this one.").at(request_id=request_id)
        if self._interrupted.is_set():
            raise refusal
        messages = self._record.prompt(self._question, self._tools)
        self._sent = without_images(messages) if self._leaves_out_images else messages
        request = await self._send(request_id, self._sent)
        if self._interrupted.is_set():
            await self._link.close(request, everywhere=True)
            raise refusal
        self._request = request
        return request

    def _leave_out_images(self, error: ImagesNotAccepted) -> bool:
        """Leave out the images of earlier turns, with a warning. Returns False if that does not help."""
        if self._leaves_out_images or any(map(has_images, self._question)) or not any(map(has_images, self._sent)):
            return False
        self._leaves_out_images = True
        warnings.warn(
            f"model {error.model!r} on lane {error.lane!r} does not accept images: the images of earlier turns are "
            "left out of this request, and stay in the conversation",
            UserWarning,
            stacklevel=_level_of_the_caller(),
        )
        return True


def _level_of_the_caller() -> int:
    """How far up the stack, seen from the function that calls this one, the code is that uses tokenlane. An agent that
    has no frame there, such as one that uses the synchronous client, is not found: then 1."""
    frame, level = inspect.currentframe(), 0
    while frame is not None:
        module = str(frame.f_globals.get("__name__")).partition(".")[0]
        if module == "asyncio":
            break
        if module not in ("tokenlane", "contextlib"):
            return level
        frame, level = frame.f_back, level + 1
    return 1
