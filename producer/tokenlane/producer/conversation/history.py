"""The messages of a conversation: which may follow which, and how questions and tool results become messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pydantic import ValidationError

from tokenlane.producer.invalid_requests import explain
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import Message

Parts: TypeAlias = Sequence[Mapping[str, object]]
"""The content of a message as parts in OpenAI's format: texts and images."""
Question: TypeAlias = str | Message | Mapping[str, object] | Parts
"""A question: its text, its parts, or a message of the user."""


def question_message(question: Question) -> Message:
    """Return the question as a message.

    Raises:
        BadRequest: it is not a valid message of the user. The error does not quote it.
    """
    message = question if isinstance(question, Message) else _message(question)
    if message.role != "user":
        raise BadRequest(f"A question is a message of the user, but this one has the role {message.role!r}.")
    return message


def result_message(call_id: str, content: str | Parts) -> Message:
    """Return the result of a tool call as a message. Raises the errors of `question_message`."""
    return _validated({"role": "tool", "tool_call_id": call_id, "content": content})


def system_size(messages: Sequence[Message]) -> int:
    """How many messages at the beginning are the system's or the developer's."""
    return next(
        (place for place, each in enumerate(messages) if each.role not in ("system", "developer")), len(messages)
    )


def open_calls(messages: Sequence[Message]) -> list[str]:
    """The ids of the last answer's tool calls that have no result yet, in their order."""
    answered: set[str] = set()
    for message in reversed(messages):
        if message.role != "tool":
            return [call_id for call_id in _call_ids(message) if call_id not in answered]
        answered.add(message.tool_call_id or "")
    return []


def check_order(messages: Sequence[Message]) -> None:
    """Check that these are messages of a conversation between two questions.

    After the system's messages, questions of the user and answers take turns, and every tool call of an answer has its
    result before the next message that is no result. Only the last answer's calls may lack results.

    Raises:
        ValueError: a message is out of place. The error names its place and role.
    """
    last, waiting = "answer", set[str]()
    for place, message in enumerate(messages[system_size(messages) :], system_size(messages)):
        allowed = {
            "user": not waiting and last != "question",
            "assistant": not waiting and last != "answer",
            "tool": message.tool_call_id in waiting,
        }
        if not allowed.get(message.role):
            raise ValueError(f"message {place}, of role {message.role!r}, is out of place in a conversation")
        waiting = waiting - {message.tool_call_id} if message.role == "tool" else {*_call_ids(message)}
        last = {"user": "question", "assistant": "answer"}.get(message.role, "result")
    if last == "question":
        raise ValueError("the last message is a question without an answer: leave it out, and ask it")


def _call_ids(message: Message) -> list[str]:
    return [str(call.get("id")) for call in message.tool_calls or ()]


def _message(question: object) -> Message:
    if isinstance(question, Mapping):
        return _validated(question)
    return _validated({"role": "user", "content": question})


def _validated(fields: Mapping[str, object]) -> Message:
    content = fields.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        fields = {**fields, "content": list(content)}
    try:
        return Message.model_validate(fields)
    except ValidationError as error:
        raise BadRequest(explain(error)) from None
