"""Reading an answer from the lines of Ollama's own chat stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from tokenlane.routing.messages import FinishReason, TokenDelta, ToolCallDelta, Usage

from .answer import AnswerReader, wrong_model
from .filters import TextFilter
from .ollama_names import full_name
from .refusal import refusal_in_stream

__all__ = ["OllamaAnswerReader"]

_FINISH: dict[str | None, FinishReason] = {None: "stop", "": "stop", "stop": "stop", "length": "length"}
"""Of a line with `done`. Others are no answer: `load` and `unload` say that the model was only moved."""


class OllamaAnswerReader(AnswerReader):
    """Turns the lines of one answer into deltas. Only a line with `done` says that it is whole.

    Args:
        name: that of the model there, if it is another.
    """

    def __init__(self, asked: str, filters: Sequence[TextFilter] = (), name: str | None = None) -> None:
        super().__init__(asked, filters)
        self._name = name or asked

    def take(self, line: bytes) -> TokenDelta | None:
        """The delta this line holds, if it holds one.

        Raises:
            LlmError: it is an error, comes from another model, or is not what a chat stream holds.
        """
        self.events += 1
        return self._read(line, self._delta)

    def _delta(self, line: Any) -> TokenDelta | None:
        if line.get("error") is not None:
            raise refusal_in_stream(line["error"])
        model = line.get("model")
        if model and model != self._name and full_name(model) != full_name(self._name):
            raise wrong_model(model)
        delta = self._piece(line["message"])
        if line.get("done"):
            self._finish(line)
        return delta

    def _piece(self, message: dict[str, Any]) -> TokenDelta | None:
        text, reasoning, calls = message.get("content"), message.get("thinking"), message.get("tool_calls")
        if not (reasoning or calls or self._filters):
            if not text:
                return None
            self.delivered = True
            return TokenDelta(text=text, model=self._model)
        return self._delta_of(text, reasoning, tuple(self._tool_call(call) for call in calls or ()))

    def _tool_call(self, call: dict[str, Any]) -> ToolCallDelta:
        # Each call comes whole. Old servers number none, and new ones begin anew in each line.
        index, self._called = self._called, self._called + 1
        function = call["function"]
        return ToolCallDelta(
            index=index,
            id=call.get("id") or f"call_{index}",
            name=function["name"],
            arguments=to_json(function.get("arguments") or {}).decode(),
        )

    def _finish(self, line: dict[str, Any]) -> None:
        reason = line.get("done_reason")
        if reason not in _FINISH:
            raise self._broken_off(reason)
        self.finish_reason = _FINISH[reason]
        self.done = True
        if "prompt_eval_count" in line or "eval_count" in line:  # a count of nothing is left out
            self._usage = Usage(
                prompt_tokens=line.get("prompt_eval_count") or 0, completion_tokens=line.get("eval_count") or 0
            )
