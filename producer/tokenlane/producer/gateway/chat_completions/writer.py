"""Writes an answer as the chunks of a Chat Completions stream."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import to_json

from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.openai_errors import error_body
from tokenlane.producer.gateway.question import Begun
from tokenlane.routing.contract.answers import Answer, TokenDelta, ToolCallDelta

from .request import ChatQuestion
from .whole import answered_by, tier_of, usage_of


class ChunkWriter:
    """An `AnswerWriter`. The reasoning stands in `reasoning_content`, the tokens' probabilities in `logprobs`."""

    def __init__(self, question: ChatQuestion, begun: Begun) -> None:
        self._with_usage = question.wants_usage
        fields = {
            "id": f"chatcmpl-{begun.request_id}",
            "object": "chat.completion.chunk",
            "created": begun.created_s,
            "model": begun.model,
            **tier_of(question, begun),
        }
        self._head = b'data: %b,"choices":[' % to_json(fields)[:-1]
        self._text = self._head + b'{"index":0,"delta":{"content":'

    def begin(self) -> bytes:
        return self._chunk(b'{"role":"assistant","content":""}')

    def ping(self, waiting: str) -> bytes:
        return f": {waiting or 'ping'}\n\n".encode()

    def deltas(self, deltas: Sequence[TokenDelta]) -> bytes:
        return b"".join(map(self._delta, deltas))

    def end(self, answer: Answer) -> bytes:
        by = b',"x_tokenlane":%b' % to_json(answered_by(answer))
        last = self._chunk(b"{}", b"", to_json(answer.finish_reason or "stop"), by)
        if self._with_usage:
            last += self._head + b'],"usage":%b}\n\n' % to_json(usage_of(answer.usage))
        return last + b"data: [DONE]\n\n"

    def fail(self, failure: Failure) -> bytes:
        return b"data: %b\n\n" % to_json(error_body(failure))

    def _delta(self, delta: TokenDelta) -> bytes:
        if delta.text and not (delta.reasoning or delta.tool_calls or delta.logprobs):
            return self._text + to_json(delta.text) + b'},"finish_reason":null}]}\n\n'
        fields: list[bytes] = []
        if delta.reasoning:
            fields.append(b'"reasoning_content":' + to_json(delta.reasoning))
        if delta.text:
            fields.append(b'"content":' + to_json(delta.text))
        if delta.tool_calls:
            fields.append(b'"tool_calls":' + to_json([_tool_call(call) for call in delta.tool_calls]))
        logprobs = b',"logprobs":{"content":%b,"refusal":null}' % to_json(delta.logprobs) if delta.logprobs else b""
        return self._chunk(b"{%b}" % b",".join(fields), logprobs) if fields or logprobs else b""

    def _chunk(self, delta: bytes, logprobs: bytes = b"", finish_reason: bytes = b"null", more: bytes = b"") -> bytes:
        choice = b'{"index":0,"delta":%b%b,"finish_reason":%b}]' % (delta, logprobs, finish_reason)
        return self._head + choice + more + b"}\n\n"


def _tool_call(call: ToolCallDelta) -> dict[str, object]:
    """A piece of a tool call, as in OpenAI's API. Only the first piece has the id, the type and the name."""
    first = {"id": call.id, "type": "function"} if call.id is not None else {}
    name = {"name": call.name} if call.name is not None else {}
    extra = {"extra_content": call.extra_content} if call.extra_content is not None else {}
    return {"index": call.index, **first, "function": {**name, "arguments": call.arguments}, **extra}
