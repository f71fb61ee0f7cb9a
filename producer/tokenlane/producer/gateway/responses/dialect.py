"""The dialect of Responses for one caller: its parts, and the shape of its errors."""

from __future__ import annotations

from tokenlane.producer.gateway.dialect import AnswerWriter, JsonBody
from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.openai_errors import error_body
from tokenlane.producer.gateway.question import Begun, Question
from tokenlane.routing.contract.answers import Answer, TokenDelta, ToolCallDelta

from .conversations import Conversations
from .request import ResponsesQuestion, read
from .snapshot import snapshot, status_of
from .writer import EventWriter


class Responses:
    """Responses, as a `Dialect`.

    Args:
        conversations: what earlier requests asked and got.
        agent: the caller's agent, whose conversations the caller may go on with.
        may_be_background: whether the gateway runs responses in the background.
    """

    def __init__(self, conversations: Conversations, agent: str, *, may_be_background: bool) -> None:
        self._conversations = conversations
        self._agent = agent
        self._may_be_background = may_be_background

    def read(self, body: JsonBody) -> Question:
        return read(
            body, lambda named: self._conversations.of(named, self._agent), may_be_background=self._may_be_background
        )

    def writer(self, question: Question, begun: Begun) -> AnswerWriter:
        asked = as_responses(question)
        return EventWriter(
            begun,
            asked.shown,
            as_summary=asked.as_summary,
            ended=lambda answer: self.remember(asked, begun, answer),
        )

    def whole(self, question: Question, begun: Begun, answer: Answer) -> object:
        asked = as_responses(question)
        self.remember(asked, begun, answer)
        return snapshot(begun, asked.shown, status_of(answer), output_of(asked, begun, answer), answer=answer)

    def error(self, failure: Failure) -> object:
        return error_body(failure)

    def remember(self, question: ResponsesQuestion, begun: Begun, answer: Answer) -> None:
        """Keep a conversation for the requests that go on with it."""
        if question.is_remembered:
            asked = question.messages[bool(question.shown["instructions"]) :]
            self._conversations.keep(begun.request_id, self._agent, asked, answer)


def as_responses(question: Question) -> ResponsesQuestion:
    """The question as this dialect has read it."""
    assert isinstance(question, ResponsesQuestion)
    return question


def output_of(question: ResponsesQuestion, begun: Begun, answer: Answer) -> list[dict[str, object]]:
    """The items of a complete answer."""
    writer = EventWriter(begun, question.shown, as_summary=question.as_summary)
    writer.deltas([TokenDelta(reasoning=answer.reasoning, text=answer.text)])
    calls = (
        ToolCallDelta(index=place, id=call.id, name=call.name, arguments=call.arguments)
        for place, call in enumerate(answer.tool_calls)
    )
    writer.deltas([TokenDelta(tool_calls=tuple(calls))])
    return writer.output(status_of(answer))
