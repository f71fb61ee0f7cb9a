"""What the readers of all dialects share: when an answer is whole, whose it is, and what to say if it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic_core import from_json

from tokenlane.routing.errors import Interrupted, ModelNotFound, ProviderDown
from tokenlane.routing.messages import FinishReason, TokenDelta, ToolCallDelta, Usage

from .filters import TextFilter, rest_of
from .refusal import MAX_DETAIL_BYTES

__all__ = ["AnswerReader", "wrong_model"]


class AnswerReader:
    """The state of one answer while it is read.

    Guarantee: no delta is returned from a back end that answers with another model than the one asked for, and `last`
    returns only if the back end said that the answer is whole.
    """

    def __init__(self, asked: str, filters: Sequence[TextFilter] = ()) -> None:
        self.events = 0
        """How many have come; comments that only keep the connection alive are none."""
        self.delivered = False
        """A delta has been returned."""
        self.finish_reason: FinishReason | None = None
        self.done = False
        """Nothing follows."""
        self._asked = asked
        self._model = asked
        self._usage: Usage | None = None
        self._called = 0
        """Tool calls so far."""
        self._filters = filters
        """Not empty while the text does not pass as it comes."""

    def last(self) -> TokenDelta:
        """The last delta, with the finish reason and the usage, once the stream has ended.

        Raises:
            Interrupted: the stream ended without a finish reason.
        """
        if self.finish_reason is None:
            raise self._interrupted("The back end's stream ended before the answer was whole.")
        # Some servers end a call of a tool as they end text.
        reason: FinishReason = "tool_calls" if self._called and self.finish_reason == "stop" else self.finish_reason
        last = TokenDelta(finish_reason=reason, model=self._model)
        if self._usage is not None:
            last.usage = self._usage
        text, reasoning = rest_of(self._filters)
        if text:
            last.text = text
        if reasoning:
            last.reasoning = reasoning
        return last

    def _delta_of(
        self, text: str | None, reasoning: str | None, calls: tuple[ToolCallDelta, ...] = ()
    ) -> TokenDelta | None:
        """The delta of these, whatever is left of the text."""
        if text and self._filters:
            text, thought = self._filtered(text)
            reasoning = (reasoning or "") + thought
        if reasoning or calls:
            delta = TokenDelta(text=text or "", reasoning=reasoning or "", tool_calls=calls, model=self._model)
        elif text:
            delta = TokenDelta(text=text, model=self._model)
        else:
            return None
        self.delivered = True
        return delta

    def _filtered(self, text: str) -> tuple[str, str]:
        reasoning = ""
        for each in self._filters:
            text, thought = each.feed(text)
            reasoning += thought
        self._filters = [each for each in self._filters if not each.over]
        return text, reasoning

    def _read(self, data: bytes, delta: Callable[[Any], TokenDelta | None]) -> TokenDelta | None:
        """What `delta` makes of this JSON.

        Raises:
            ProviderDown: it is not what a stream of this dialect holds.
        """
        try:
            # About half the cost of json.loads, and it decodes UTF-8 itself.
            return delta(from_json(data))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            # Not chained: such an error holds the text it failed on.
            raise ProviderDown(
                f"The back end's stream holds something that is no chat chunk ({type(error).__name__}).",
                detail=data[:MAX_DETAIL_BYTES].decode("utf-8", "replace"),
            ) from None

    def _broken_off(self, reason: object) -> Interrupted:
        error = self._interrupted("The back end broke the answer off.")
        error.detail = f"finish reason {str(reason)[:256]!r}"
        return error

    def _interrupted(self, message: str) -> Interrupted:
        return Interrupted(message, retryable=not self.delivered)


def wrong_model(said: str) -> ModelNotFound:
    """The error for an answer that comes from another model."""
    return ModelNotFound(
        "The back end answered with another model than the one asked for: check the lane's models.",
        detail=f"it answered with {said[:256]!r}",
    )
