"""Builds the complete answer from its deltas."""

from __future__ import annotations

import time
from io import StringIO

from tokenlane.routing.contract.answers import Answer, FinishReason, TokenDelta, TokenLogprob, Usage
from tokenlane.routing.contract.tool_calls import ToolCalls

_LOGPROB_SIZE = 64
"""The size, in characters, that counts for a token's log probability, and again for each alternative."""


class AnswerBuilder:
    """Collects the deltas of an answer.

    Attributes:
        size: the size of the answer so far, in characters.
        tokens: an estimate of the tokens of the answer so far: model servers send most tokens in a delta of their own.
        has_text: whether the answer has text.
        has_reasoning: whether the answer has reasoning.
        has_tool_calls: whether the answer has a tool call, or a part of one.
        first_at: when the first delta arrived, on the clock `time.monotonic`.
    """

    def __init__(self) -> None:
        self._text = StringIO()
        self._reasoning = StringIO()
        self._calls = ToolCalls()
        self._logprobs: list[TokenLogprob] = []
        self.size = 0
        self.tokens = 0
        self.has_text = self.has_reasoning = self.has_tool_calls = False
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.model = ""
        self.lane = ""
        self.first_at: float | None = None

    @property
    def text(self) -> str:
        return self._text.getvalue()

    @property
    def reasoning(self) -> str:
        return self._reasoning.getvalue()

    def add(self, delta: TokenDelta) -> None:
        """Append the next delta."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        if delta.text:
            self.has_text = True
            self._text.write(delta.text)
            self.size += len(delta.text)
        if delta.text or delta.reasoning:
            self.tokens += 1
        if delta.reasoning:
            self.has_reasoning = True
            self._reasoning.write(delta.reasoning)
            self.size += len(delta.reasoning)
        if delta.tool_calls:
            self.has_tool_calls = True
            for piece in delta.tool_calls:
                self._calls.add(piece.index, piece.id, piece.name, piece.arguments, extra=piece.extra_content)
                self.size += len(piece.arguments)
        if delta.logprobs:
            self._logprobs += delta.logprobs
            self.size += sum(_LOGPROB_SIZE * (1 + len(token.top_logprobs)) for token in delta.logprobs)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = delta.usage or self.usage
        self.model = delta.model or self.model
        self.lane = delta.lane or self.lane

    def build(self, request_id: str) -> Answer:
        """Return the complete answer. Call it after the last delta."""
        return Answer(
            request_id=request_id,
            text=self.text,
            reasoning=self.reasoning,
            tool_calls=self._calls.calls(),
            finish_reason=self.finish_reason,
            usage=self.usage or Usage(),
            model=self.model,
            lane=self.lane,
            logprobs=tuple(self._logprobs),
        )
