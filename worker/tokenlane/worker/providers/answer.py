"""Reading an answer from the chunks of OpenAI's chat stream."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json

from tokenlane.routing.errors import Interrupted, ModelNotFound, ProviderDown
from tokenlane.routing.messages import FinishReason, TokenDelta, ToolCallDelta, Usage

from .refusal import MAX_DETAIL_BYTES, refusal_in_stream
from .sse import Event

__all__ = ["AnswerReader"]

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "repetition": "stop",
}
"""The marks of a whole answer. Any other, such as `abort`, says that it is not whole."""


class AnswerReader:
    """Turns the events of one answer into deltas.

    Guarantee: no delta is returned from a back end that answers with another model than the one asked for, and `last`
    returns only if the back end said that the answer is whole.
    """

    def __init__(self, asked: str) -> None:
        self.events = 0
        """How many have come; comments that only keep the connection alive are none."""
        self.delivered = False
        """A delta has been returned."""
        self.finish_reason: FinishReason | None = None
        self.done = False
        """`[DONE]` has come: nothing follows."""
        self._asked = asked
        self._model = asked
        self._usage: Usage | None = None

    def take(self, event: Event) -> TokenDelta | None:
        """The delta this event holds, if it holds one.

        Raises:
            LlmError: it is an error, comes from another model, or is not what a chat stream holds.
        """
        data = event.data
        self.events += 1
        if data == b"[DONE]":
            self.done = True
            return None
        if not data:
            return None
        try:
            # About half the cost of json.loads, and it decodes UTF-8 itself.
            return self._delta(from_json(data), event)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            # Not chained: such an error holds the text it failed on.
            raise ProviderDown(
                f"The back end's stream holds something that is no chat chunk ({type(error).__name__}).",
                detail=data[:MAX_DETAIL_BYTES].decode("utf-8", "replace"),
            ) from None

    def last(self) -> TokenDelta:
        """The last delta, with the finish reason and the usage, once the stream has ended.

        Raises:
            Interrupted: the stream ended without a finish reason.
        """
        if self.finish_reason is None:
            raise self._interrupted("The back end's stream ended before the answer was whole.")
        if self._usage is None:
            return TokenDelta(finish_reason=self.finish_reason, model=self._model)
        return TokenDelta(finish_reason=self.finish_reason, model=self._model, usage=self._usage)

    def _delta(self, chunk: Any, event: Event) -> TokenDelta | None:
        error = chunk.get("error")
        if error is not None or event.name == "error":
            raise refusal_in_stream(chunk if error is None else error)
        model = chunk.get("model")
        if model and model != self._model:
            self._check_model(model)
        usage = chunk.get("usage")
        if usage:
            self._usage = _usage(usage)
        choices = chunk.get("choices")
        if not choices:
            return None
        choice = choices[0]
        reason = choice.get("finish_reason")
        if reason:
            self._finish(reason)
        return self._piece(choice.get("delta") or {})

    def _piece(self, piece: dict[str, Any]) -> TokenDelta | None:
        text = piece.get("content")
        reasoning = piece.get("reasoning") or piece.get("reasoning_content")
        calls = piece.get("tool_calls")
        if reasoning or calls:
            delta = TokenDelta(
                text=text or "",
                reasoning=reasoning or "",
                tool_calls=tuple(_tool_call(index, call) for index, call in enumerate(calls or ())),
                model=self._model,
            )
        elif text:
            delta = TokenDelta(text=text, model=self._model)
        else:
            return None
        self.delivered = True
        return delta

    def _check_model(self, model: str) -> None:
        # Back ends may answer with a dated snapshot of the model that was asked for.
        if not model.startswith(f"{self._asked}-"):
            raise ModelNotFound(
                "The back end answered with another model than the one asked for: check the lane's models.",
                detail=f"it answered with {model[:256]!r}",
            )
        self._model = model

    def _finish(self, reason: str) -> None:
        if reason not in _FINISH:
            error = self._interrupted("The back end broke the answer off.")
            error.detail = f"finish_reason {reason[:256]!r}"
            raise error
        self.finish_reason = _FINISH[reason]

    def _interrupted(self, message: str) -> Interrupted:
        return Interrupted(message, retryable=not self.delivered)


def _tool_call(position: int, call: dict[str, Any]) -> ToolCallDelta:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    index = call.get("index")
    return ToolCallDelta(
        index=position if index is None else index,
        id=call.get("id"),
        name=function.get("name"),
        # Some back ends send the arguments parsed.
        arguments=to_json(arguments).decode() if isinstance(arguments, dict) else arguments or "",
    )


def _usage(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
    )
