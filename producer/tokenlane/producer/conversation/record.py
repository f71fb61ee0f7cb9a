"""The record of a conversation: its messages in memory and, if the agent named one, in a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from tokenlane.routing.contract.requests import Message

from .one_at_a_time import CHANGED, ConversationBusy
from .saved import SavedConversation
from .trim import KEPT_SHARE, TokenEstimate, sent, shorten

if TYPE_CHECKING:
    from .file import ConversationFile


class Record:
    """What a conversation holds.

    Attributes:
        messages: all messages, in their order; never a question without its answer.
        left_out: how many of the oldest, the system's not counted, are no longer sent.
        estimate: estimates the tokens of prompts.
        file: where else the messages are; None if only here.
    """

    def __init__(
        self,
        messages: Iterable[Message],
        max_input_tokens: int | None,
        file: ConversationFile | None = None,
        left_out: int = 0,
    ) -> None:
        self.messages = list(messages)
        self.left_out = left_out
        self.estimate = TokenEstimate()
        self.file = file
        self._max_input_tokens = max_input_tokens

    def prompt(self, question: Sequence[Message], tools: Sequence[dict[str, JsonValue]] | None) -> list[Message]:
        """The messages to send for a question, shortened if the estimate exceeds the conversation's limit."""
        messages, limit = [*self.messages, *question], self._max_input_tokens
        if limit is not None and self.estimate.of(sent(messages, self.left_out), tools) > limit:
            self.left_out = shorten(messages, self.left_out, KEPT_SHARE * limit, self.estimate, tools)
        return sent(messages, self.left_out)

    def halve(self, question: Sequence[Message], tools: Sequence[dict[str, JsonValue]] | None) -> bool:
        """Leave out about half of what `prompt` returned. Returns False if only the newest turn was left."""
        messages = [*self.messages, *question]
        target = self.estimate.of(sent(messages, self.left_out), tools) / 2
        left_out = shorten(messages, self.left_out, target, self.estimate, tools)
        shorter, self.left_out = left_out > self.left_out, left_out
        return shorter

    async def refresh(self) -> None:
        """Take over what another process has written to the file.

        Raises:
            ConversationBusy: it has, and this process holds results of tool calls that are not written yet.
            OSError: the file cannot be used.
        """
        if self.file is None:
            return
        stored = self.file.stored
        saved = await self.file.read_if_changed()
        if saved is None:
            return
        has_results = 0 < stored < len(self.messages)  # also those that were added during the read
        self.messages, self.left_out = saved.messages, saved.left_out
        if has_results:
            raise ConversationBusy(CHANGED)

    async def append(self, messages: Sequence[Message], *, after: Sequence[Message]) -> None:
        """Add an answered question.

        Args:
            after: the `messages` as they were when the question was asked.

        Raises:
            ConversationBusy: another process has changed the conversation since then; nothing is added.
            OSError: the file cannot be used; nothing is added.
        """
        if after is not self.messages:
            raise ConversationBusy(CHANGED)
        whole = [*after, *messages]
        if self.file is not None:
            await self.file.write(whole, self.left_out)
        self.messages = whole

    async def replace(self, saved: SavedConversation) -> None:
        """Replace all messages. Raises the errors of `append`."""
        if self.file is not None:
            await self.file.write(saved.messages, saved.left_out, anew=True)
        self.messages, self.left_out = list(saved.messages), saved.left_out
