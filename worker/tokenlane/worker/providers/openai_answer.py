"""Reading an answer from the chunks of OpenAI's chat stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pydantic_core import to_json

from tokenlane.routing.messages import FinishReason, TokenDelta, ToolCallDelta, Usage

from .answer import AnswerReader, wrong_model
from .filters import TextFilter
from .refusal import refusal_in_stream
from .sse import Event

__all__ = ["OpenAiAnswerReader", "same_model"]

_SNAPSHOT = re.compile(r"-\d{4}")
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


def same_model(said: str, asked: str) -> bool:
    """Whether an answer is of the model asked for: back ends may answer with a dated snapshot of it."""
    return said == asked or (said.startswith(asked) and _SNAPSHOT.match(said, len(asked)) is not None)


class OpenAiAnswerReader(AnswerReader):
    """Turns the events of one answer into deltas. A refusal, which OpenAI sends in a field of its own, is text.

    Args:
        same_model: whether the model an answer names is the one that was asked for, in that order.
    """

    def __init__(
        self,
        asked: str,
        filters: Sequence[TextFilter] = (),
        same_model: Callable[[str, str], bool] = same_model,
    ) -> None:
        super().__init__(asked, filters)
        self._same_model = same_model

    def take(self, event: Event) -> TokenDelta | None:
        """The delta this event holds, if it holds one.

        Raises:
            LlmError: it is an error, comes from another model, or is not what a chat stream holds.
        """
        self.events += 1
        if event.data == b"[DONE]":
            self.done = True
            return None
        if not event.data:
            return None
        return self._read(event.data, self._error if event.name == "error" else self._delta)

    def _error(self, chunk: Any) -> NoReturn:
        error = chunk.get("error")
        raise refusal_in_stream(chunk if error is None else error)

    def _delta(self, chunk: Any) -> TokenDelta | None:
        if chunk.get("error") is not None:
            self._error(chunk)
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
        # A continued text comes as bare text.
        return self._piece(choice.get("delta") or {"content": choice.get("text")})

    def _piece(self, piece: dict[str, Any]) -> TokenDelta | None:
        text = piece.get("content")
        if text and len(piece) == 1 and not self._filters:
            self.delivered = True
            return TokenDelta(text=text, model=self._model)
        if refused := piece.get("refusal"):
            text = (text or "") + refused
        reasoning = piece.get("reasoning") or piece.get("reasoning_content")
        calls = piece.get("tool_calls")
        self._called += len(calls or ())
        return self._delta_of(text, reasoning, tuple(_tool_call(place, call) for place, call in enumerate(calls or ())))

    def _check_model(self, model: str) -> None:
        if not self._same_model(model, self._asked):
            raise wrong_model(model)
        self._model = model

    def _finish(self, reason: str) -> None:
        if reason not in _FINISH:
            raise self._broken_off(reason)
        self.finish_reason = _FINISH[reason]


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
