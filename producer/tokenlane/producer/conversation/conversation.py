"""A conversation of an agent: it asks questions with everything that was said before."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from tokenlane.config.extras import install_advice
from tokenlane.producer.compose import refuse_unknown
from tokenlane.producer.link.link import Link
from tokenlane.producer.response_format import ResponseFormat, to_openai_format
from tokenlane.producer.stream import open_chat
from tokenlane.routing.contract.answers import Answer, Parsed
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import ChatOptions, Message
from tokenlane.routing.contract.wire import new_id

from .answer_stream import ConversationStream
from .history import Parts, Question, open_calls, question_message, result_message, system_size
from .one_at_a_time import ConversationBusy, OneAtATime
from .options import ConversationOptions, Settings, checked_id
from .record import Record
from .saved import SavedConversation, read_saved
from .turn import Turn

if TYPE_CHECKING:
    from .file import ConversationFile


def open_conversation(link: Link, options: ConversationOptions, *, role: str, agent: str) -> Conversation:
    """Create a conversation; see `Client.conversation`."""
    settings = Settings.of(options, role=role, agent=agent)
    name = options.get("id")
    name = new_id() if name is None else checked_id(name)
    path, system = options.get("file"), options.get("system")
    record = Record(
        [] if system is None else [Message(role="system", content=system)],
        settings.max_input_tokens,
        None if path is None else _file(Path(path).absolute(), name),
    )
    return Conversation(link, settings, name, record)


class Conversation:
    """The questions and answers of a conversation, in the agent's memory and, if it names one, in a file of its own.

    `Client.conversation` creates it. A question that gets no complete answer is taken back, so that a question always
    follows an answer.

    Attributes:
        id: the conversation's id, which every request carries.
    """

    def __init__(self, link: Link, settings: Settings, id: str, record: Record) -> None:
        self.id = id
        self._link, self._settings, self._record = link, settings, record
        self._order = OneAtATime(settings.on_busy)

    def __repr__(self) -> str:
        return f"<Conversation {self.id!r} of role {self._settings.role!r}, {len(self._record.messages)} messages>"

    @property
    def messages(self) -> list[Message]:
        """All messages so far, as a new list. A conversation in a file has those of the last `refresh` or `ask`."""
        return list(self._record.messages)

    @property
    def left_out(self) -> int:
        """How many of the oldest messages, those of the system not counted, are no longer sent."""
        return self._record.left_out

    @property
    def open_calls(self) -> list[str]:
        """The ids of the last answer's tool calls that have no result yet, in their order."""
        return open_calls(self._record.messages)

    def ask(
        self,
        question: Question | None = None,
        *,
        response_format: ResponseFormat[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> ConversationStream[Parsed]:
        """Return a stream of the answer. Entering the stream sends the question, as soon as it is its turn.

        Args:
            question: a text, a list of parts, or a message of the user; None after results of tool calls.
            response_format: see `Client.chat`.
            options: see `ChatOptions`. A question with an `idempotency_key` is not sent again by the conversation.

        Raises:
            TypeError: an option does not exist, or is the conversation's own.
            BadRequest: the question is not a valid message of the user.
        """
        refuse_unknown(options, ChatOptions, "response_format")
        if "conversation" in options:
            raise TypeError("`conversation` is the conversation's own id: set `id` in `Client.conversation`")
        asked = [] if question is None else [question_message(question)]
        turn = Turn(
            self._record,
            self._order,
            self._link,
            partial(
                open_chat,
                self._link,
                options={**options, "conversation": self.id},
                shape=to_openai_format(response_format),
                role=self._settings.role,
                agent=self._settings.agent,
            ),
            lambda: self._in_place(asked),
            options.get("tools"),
            keeps_partial=self._settings.keep_partial,
            sends_again=options.get("idempotency_key") is None,
        )
        model = response_format if isinstance(response_format, type) else None
        return ConversationStream(self._link, turn, model, options.get("metadata"))

    async def complete(
        self,
        question: Question | None = None,
        *,
        response_format: ResponseFormat[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> Answer[Parsed]:
        """Ask a question and return the complete answer. Arguments and errors are those of `ask` and its stream."""
        async with self.ask(question, response_format=response_format, **options) as stream:
            return await stream.answer()

    def add_tool_result(self, call_id: str, content: str | Parts) -> None:
        """Add the result of a tool call of the last answer. The next `ask` sends it.

        Raises:
            ValueError: the last answer has no such call, or its result was added already.
            BadRequest: `content` is neither text nor a list of parts.
        """
        if call_id not in (waiting := self.open_calls):
            those = ", ".join(waiting) or "none"
            raise ValueError(f"no tool call {call_id!r} waits for a result; the calls that do: {those}")
        self._record.messages.append(result_message(call_id, content))

    async def fork(self, id: str | None = None) -> Conversation:
        """Return a new conversation with the same messages, in the same file if this one is in a file.

        Raises:
            ValueError: the file has a conversation with this id.
            ConversationBusy, OSError: as in `refresh`.
        """
        name = new_id() if id is None else checked_id(id)
        await self._record.refresh()
        messages, left_out, file = self._record.messages, self._record.left_out, self._record.file
        record = Record(messages, self._settings.max_input_tokens, file and _file(file.path, name), left_out)
        try:
            await record.append([], after=record.messages)
        except ConversationBusy:
            raise ValueError(f"the file already has a conversation {name!r}") from None
        return Conversation(self._link, self._settings, name, record)

    def save(self) -> str:
        """Return the conversation as JSON, for `load`. It holds everything that was said: keep it as safe as that."""
        saved = SavedConversation(messages=self._record.messages, left_out=self._record.left_out)
        return saved.to_wire().decode()

    async def load(self, saved: str | bytes) -> None:
        """Replace all messages by those of a saved conversation. While a question is answered, this waits for its turn,
        is refused or interrupts the answer, as a question would.

        Raises:
            ValueError: the text is no saved conversation, or a newer version saved it.
            ConversationBusy, OSError: as when a question is asked.
        """
        parsed = read_saved(saved)
        await self._replace(lambda: parsed)

    async def clear(self) -> None:
        """Remove all messages but those of the system. Gets its turn, and raises errors, as `load` does."""
        await self._replace(self._cleared)

    async def refresh(self) -> None:
        """Read the conversation from its file, as every `ask` does first. Without a file, do nothing.

        Raises:
            ConversationBusy: another process has changed it, and results of tool calls that were added here are lost.
            OSError: the file cannot be used.
        """
        await self._record.refresh()

    async def _replace(self, saved: Callable[[], SavedConversation]) -> None:
        await self._order.enter(_go_on)
        try:
            await self._record.refresh()
            await self._record.replace(saved())
        finally:
            self._order.leave()

    def _cleared(self) -> SavedConversation:
        messages = self._record.messages
        return SavedConversation(messages=messages[: system_size(messages)])

    def _in_place(self, question: list[Message]) -> list[Message]:
        """Return the question, since the messages so far allow it."""
        messages = self._record.messages
        if calls := open_calls(messages):
            raise BadRequest(
                f"The last answer calls tools, and {len(calls)} of the calls have no result yet: `add_tool_result` "
                "for each of `open_calls`, then ask."
            )
        if not question and not (messages and messages[-1].role == "tool"):
            raise BadRequest("There is nothing to answer: ask a question. Only after results of tools is none needed.")
        return question


async def _go_on() -> None:
    """What a question that interrupts does to `load` and `clear`: it waits for them."""


def _file(path: Path, conversation: str) -> ConversationFile:
    """The conversation in that file, which is not opened yet.

    Raises:
        RuntimeError: the extra for files is not installed.
    """
    try:
        from .file import ConversationFile  # needs an extra, which conversations in memory do not
    except ModuleNotFoundError as error:
        raise RuntimeError(f"a conversation in a file needs `aiosqlite`: {install_advice('conversations')}") from error
    return ConversationFile(path, conversation)
