"""The stream of an answer in a conversation, which ends the question's turn together with the answer."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType

from pydantic import JsonValue

from tokenlane.producer.link.link import Link
from tokenlane.producer.stream import ChatStream
from tokenlane.routing.contract.answers import Answer, Parsed, TokenDelta
from tokenlane.routing.contract.errors import LlmError

from .turn import Turn


class ConversationStream(ChatStream[Parsed]):
    """The answer to a question of a conversation. A complete answer is in the conversation's messages as soon as the
    stream has been read to its end, or its block is left.

    Raises, when entered, besides the errors of `ChatStream`:
        ConversationBusy: the conversation answers another question, or another process has changed it.
        BadRequest: the question is out of place, for example since calls of tools have no results yet.
        OSError: the conversation's file cannot be used.

    Raises, at the end of the answer, besides the errors of `ChatStream`:
        ConversationBusy: another process has changed the conversation in its file; the answer is not added.
        OSError: the file cannot be written; the answer is not added.
    """

    def __init__(
        self,
        link: Link,
        turn: Turn,
        model: type[Parsed] | None = None,
        metadata: dict[str, JsonValue] | None = None,
    ) -> None:
        super().__init__(turn.request_id, link, turn.begin, model, metadata)
        self._turn = turn

    async def cancel(self) -> None:
        await super().cancel()
        await self._turn.settle()

    async def answer(self) -> Answer[Parsed]:
        while True:
            request = self._entered()
            try:
                await request.finish()
            except LlmError as error:
                await self._send_again(error)
            else:
                break
        await self._turn.settle()
        return await super().answer()

    async def __anext__(self) -> TokenDelta:
        while True:
            try:
                return await super().__anext__()
            except StopAsyncIteration:
                await self._turn.settle()
                raise
            except LlmError as error:
                await self._send_again(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            if kind is not None and issubclass(kind, GeneratorExit):
                self._turn.abandon()
            else:
                await self._turn.settle()

    def __del__(self) -> None:
        super().__del__()
        if self._loop is not None and self._turn.has_turn:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._turn.abandon)

    async def _send_again(self, error: LlmError) -> None:
        """Go on with a new request, or end the turn and raise the error."""
        failed = self._entered()
        request = await self._turn.send_again(failed, error)
        if request is None:
            await self._turn.settle()
            raise error
        self._request = request
