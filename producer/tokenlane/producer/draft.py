"""The answer as it grows, delta by delta."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO

from tokenlane.routing.messages import Answer, FinishReason, TokenDelta, ToolCall, ToolCallDelta, Usage

__all__ = ["Draft"]


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: StringIO = field(default_factory=StringIO, repr=False)


class Draft:
    """What has been said so far. `size` is its length in characters."""

    def __init__(self) -> None:
        self._text = StringIO()
        self._reasoning = StringIO()
        self._calls: dict[int, _Call] = {}
        self.size = 0
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.model = ""
        self.lane = ""

    @property
    def text(self) -> str:
        return self._text.getvalue()

    def add(self, delta: TokenDelta) -> None:
        """Append the next piece."""
        self._text.write(delta.text)
        self._reasoning.write(delta.reasoning)
        self.size += len(delta.text) + len(delta.reasoning)
        for piece in delta.tool_calls:
            self._add_call(piece)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = delta.usage or self.usage
        self.model = delta.model or self.model
        self.lane = delta.lane or self.lane

    def answer(self, request_id: str) -> Answer:
        """The whole, once nothing more comes."""
        return Answer(
            request_id=request_id,
            text=self.text,
            reasoning=self._reasoning.getvalue(),
            tool_calls=tuple(
                ToolCall(id=call.id or f"call_{index}", name=call.name, arguments=call.arguments.getvalue())
                for index, call in sorted(self._calls.items())
            ),
            finish_reason=self.finish_reason,
            usage=self.usage or Usage(),
            model=self.model,
            lane=self.lane,
        )

    def _add_call(self, piece: ToolCallDelta) -> None:
        call = self._calls.setdefault(piece.index, _Call())
        call.id = call.id or piece.id or ""
        call.name = call.name or piece.name or ""
        call.arguments.write(piece.arguments)
        self.size += len(piece.arguments)
