"""Reads an answer from the lines of Ollama's native chat stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta, Usage
from tokenlane.worker.providers.answers.reader import AnswerReader, wrong_model
from tokenlane.worker.providers.errors.http_errors import error_of, refusal_in_stream, unreadable
from tokenlane.worker.providers.parsing.json_shape import OLLAMA_LINE, Shape, count_of, names_of
from tokenlane.worker.providers.parsing.sse import MESSAGE, Event

from .names import same_model_name

_NO_ANSWER = {"load", "unload"}
"""The `done_reason` of an answer to a request that only loads or unloads the model."""


class OllamaAnswerReader(AnswerReader):
    """Turns the lines of one answer into deltas. Only a line with `done` completes an answer."""

    shape: ClassVar[Shape] = OLLAMA_LINE

    def take(self, event: Event) -> TokenDelta | None:
        """The delta in this line; None if it has no content.

        Raises:
            LlmError: the line is an error, comes from another model, or does not belong to a chat stream.
        """
        data, name = event
        if name not in (MESSAGE, "error") or not data or data == b"[DONE]":
            return None
        self.events += 1
        return self._read(data)

    def _delta(self, line: Any) -> TokenDelta | None:
        message, done = line.get("message"), line.get("done")
        if not isinstance(message, dict) or line.get("error"):
            error = error_of(line)
            if error is not None:
                raise refusal_in_stream(error)
        model = line.get("model")
        if model and model != self._requested and not same_model_name(model, self._requested):
            raise wrong_model(model)
        if message is None and not done:
            raise unreadable(f"it has a line without `message`; its fields are {names_of(line)}")
        logprobs = line.get("logprobs")
        if message and len(message) == 2 and self._text_passes and not (done or logprobs) and "role" in message:
            text = message.get("content")
            if text and isinstance(text, str):
                self.delivered = self._has_text = True
                return TokenDelta(text=text, model=self._model)
        delta = self._piece(message or {}, self._logprobs(logprobs) if logprobs else ())
        if done:
            self._ended(line)
        return delta

    def _tool_calls(self, piece: dict[str, Any]) -> Iterator[ToolCallDelta]:
        # Each line has complete calls. Old servers do not number the calls, and new servers number from 0 in each line.
        for call in piece.get("tool_calls") or ():
            if isinstance(call.get("function"), dict):
                call = {**call, "function": {**call["function"], "arguments": call["function"].get("arguments") or {}}}
            placed = self._tool_call(call, None, complete=True)
            if placed is not None:
                yield placed

    def _ended(self, line: dict[str, Any]) -> None:
        reason = line.get("done_reason") or "stop"
        if reason in _NO_ANSWER:
            raise unreadable(f"its `done_reason` is `{reason}`: the model was only loaded or unloaded")
        self._finish(reason)
        self.done = True
        if "prompt_eval_count" in line or "eval_count" in line:  # Ollama leaves out a count of 0
            prompt, completion = count_of(line.get("prompt_eval_count")), count_of(line.get("eval_count"))
            self._count(Usage(prompt_tokens=prompt, completion_tokens=completion))
