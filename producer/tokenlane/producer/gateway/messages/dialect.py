"""The dialect of Messages: its parts, and the shape of its errors."""

from __future__ import annotations

from tokenlane.producer.gateway.anthropic_errors import error_body
from tokenlane.producer.gateway.dialect import AnswerWriter, JsonBody
from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.question import Begun, Question
from tokenlane.routing.contract.answers import Answer

from .request import read
from .whole import message_of
from .writer import EventWriter


class Messages:
    """Messages, as a `Dialect`."""

    def read(self, body: JsonBody) -> Question:
        return read(body)

    def writer(self, question: Question, begun: Begun) -> AnswerWriter:
        return EventWriter(begun)

    def whole(self, question: Question, begun: Begun, answer: Answer) -> object:
        return message_of(begun, answer)

    def error(self, failure: Failure) -> object:
        return error_body(failure)
