"""Writes an answer as the chunks of a Chat Completions stream."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic_core import to_json

from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.openai_errors import error_body
from tokenlane.producer.gateway.question import Begun
from tokenlane.routing.contract.answers import Answer, TokenDelta

from .whole import usage_of


class ChunkWriter:
    """An `AnswerWriter`. `with_usage`: whether a last chunk has the usage."""

    def __init__(self, begun: Begun, *, with_usage: bool) -> None:
        self._with_usage = with_usage
        self._head = (
            b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":%b,"choices":['
            % (begun.request_id.encode(), begun.created_s, to_json(begun.model))
        )

    def begin(self) -> bytes:
        return self._chunk(b'{"role":"assistant","content":""}')

    def ping(self, waiting: str) -> bytes:
        return f": {waiting or 'ping'}\n".encode()

    def deltas(self, deltas: Sequence[TokenDelta]) -> bytes:
        return b"".join(map(self._delta, deltas))

    def end(self, answer: Answer) -> bytes:
        last = self._chunk(b"{}", to_json(answer.finish_reason or "stop"))
        if self._with_usage:
            usage = json.dumps(usage_of(answer.usage)).encode()
            last += self._head + b'],"usage":%b}\n\n' % usage
        return last + b"data: [DONE]\n\n"

    def fail(self, failure: Failure) -> bytes:
        return b"data: %b\n\n" % to_json(error_body(failure))

    def _delta(self, delta: TokenDelta) -> bytes:
        if not delta.text:
            return b""
        return self._chunk(b'{"content":%b}' % to_json(delta.text))

    def _chunk(self, delta: bytes, finish_reason: bytes = b"null") -> bytes:
        return self._head + b'{"index":0,"delta":%b,"finish_reason":%b}]}\n\n' % (delta, finish_reason)
