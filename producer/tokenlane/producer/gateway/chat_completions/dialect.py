"""The dialect of Chat Completions: its parts, and the shape of its errors."""

from __future__ import annotations

from tokenlane.producer.gateway.dialect import AnswerWriter, JsonBody
from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.openai_errors import error_body
from tokenlane.producer.gateway.question import Begun, Question
from tokenlane.routing.contract.answers import Answer

from .request import ChatQuestion, read
from .whole import completion
from .writer import ChunkWriter


class ChatCompletions:
    """Chat Completions, as a `Dialect`."""

    def read(self, body: JsonBody) -> ChatQuestion:
        return read(body)

    def writer(self, question: Question, begun: Begun) -> AnswerWriter:
        return ChunkWriter(_own(question), begun)

    def whole(self, question: Question, begun: Begun, answer: Answer) -> object:
        return completion(_own(question), begun, answer)

    def error(self, failure: Failure) -> object:
        return error_body(failure)


def _own(question: Question) -> ChatQuestion:
    assert isinstance(question, ChatQuestion), "questions come from `read`"
    return question
