"""The base class of the answer readers. It collects an answer's pieces, end and usage, and explains why an answer
cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic_core import from_json, to_json

from tokenlane.routing.contract.answers import FinishReason, TokenDelta, TokenLogprob, ToolCallDelta, Usage
from tokenlane.routing.contract.errors import BadRequest, Interrupted, LlmError, ModelNotFound
from tokenlane.routing.contract.tool_calls import ToolCalls
from tokenlane.worker.providers.errors.http_errors import unreadable
from tokenlane.worker.providers.parsing.frames import Frames
from tokenlane.worker.providers.parsing.json_shape import Shape, kind_of, wrong_field
from tokenlane.worker.providers.parsing.sse import Event

from .contents import reasoning_of, refuse_unsupported, text_of
from .half_characters import HalfCharacters
from .logprobs import logprobs_of
from .text_filters import ContinuationFilter, StopWordFilter, TextFilter, flush_filters

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "complete": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "function_call": "tool_calls",
    "max_tokens": "length",
    "model_length": "length",
    "repetition": "stop",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "stop_sequence": "stop",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
}
_BROKEN_OFF = {
    "abort",
    "aborted",
    "canceled",
    "cancelled",
    "error",
    "failed",
    "insufficient_system_resource",
    "network_error",
    "timeout",
}
"""Finish reasons of incomplete answers. Another try may complete them."""
_MISREAD = (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError, RecursionError)
"""The errors that Python raises when a JSON value has an unexpected type."""


class AnswerReader:
    """The state of one answer while it is read.

    Guarantee: if another model than the requested one answers, no delta is returned. `last` returns only if the model
    server marked the answer as complete.

    Args:
        requested: the name of the requested model.
        filters: the filters through which the text passes, in this order.
        logprobs: whether the request asks for log probabilities.
    """

    shape: ClassVar[Shape]
    """The expected form of an event's JSON."""

    def __init__(self, requested: str, filters: Sequence[TextFilter] = (), *, logprobs: bool = False) -> None:
        self.events = 0
        """How many events have arrived. Comments, which keep the connection open, do not count."""
        self.delivered = False
        """Whether a delta has been returned."""
        self.finish_reason: FinishReason | None = None
        self.done = False
        """Whether the server has marked the end of its stream, after which no events follow."""
        self.stopped = False
        """Whether a stop word has ended the answer. The model server may not have noticed it and may send more."""
        self._requested = requested
        self._model = requested
        self._usage: Usage | None = None
        self._calls = ToolCalls()
        self._filters = filters
        """The filters that are not finished."""
        self._continues = any(isinstance(each, ContinuationFilter) for each in filters)
        """Whether the answer continues a partial answer."""
        self._stops = next((each for each in filters if isinstance(each, StopWordFilter)), None)
        self._logprobs_requested = logprobs
        self._has_text = self._has_reasoning = False
        self._pieces = 0
        """How many pieces of text have passed through the filters."""
        self._text_passes = not (filters or logprobs)
        """Whether text becomes a delta unchanged: no filter is left, no log probabilities are requested, and no finish
        reason has arrived."""
        self._continued_after_finish = False
        """Whether the server sent content after a finish reason."""
        self._half_characters = HalfCharacters()
        self._unexpected = ""
        """Describes the first event that is not part of an answer; empty if there was none."""

    def take(self, event: Event) -> TokenDelta | None:
        """The delta in this event, if it holds one."""
        raise NotImplementedError

    @property
    def begun(self) -> bool:
        """Whether content or a finish reason has arrived. Framing, roles and empty pieces do not count."""
        return self._has_text or self._has_reasoning or self.finish_reason is not None or len(self._calls) > 0

    @property
    def ending(self) -> bool:
        """Whether everything but the usage has arrived. A finish reason before more content, as some servers send with
        each piece, does not count."""
        return self.finish_reason is not None and not self._continued_after_finish

    def end(self, frames: Frames) -> Iterator[TokenDelta]:
        """The remaining deltas after the end of the stream, up to and including the answer's last delta.

        Raises:
            LlmError: see `take` and `last`.
        """
        for event in frames.rest():
            delta = self.take(event)
            if delta is not None:
                yield delta
        if not self.events and frames.strange:
            raise unreadable("it is neither a stream of events nor JSON", frames.strange)
        yield self.last()

    def last(self) -> TokenDelta:
        """The answer's last delta, with the finish reason and the usage, after the end of the stream.

        Raises:
            Interrupted: the stream ended without a finish reason.
            UnreadableAnswer: the stream contained something other than an answer, or a tool call without a name.
        """
        if self.finish_reason is None:
            if self._unexpected and not self.begun:
                raise unreadable(self._unexpected)
            raise self._interrupted("The model server's stream ended before the answer was complete.")
        if self._calls.has_nameless_call and self.finish_reason != "length":
            raise unreadable("a tool call in it has no name")
        # Some servers finish a tool call with "stop".
        called = len(self._calls) and self.finish_reason == "stop" and not self.stopped
        last = TokenDelta(finish_reason="tool_calls" if called else self.finish_reason, model=self._model)
        if self._usage is None and self.stopped:
            # We closed the stream before the server sent its count, so this is a minimum.
            self._usage = Usage(completion_tokens=self._pieces)
        if self._usage is not None:
            last.usage = self._usage
        text, reasoning = flush_filters(self._filters)
        if text:
            last.text = text
        if reasoning:
            last.reasoning = reasoning
        return last

    def _piece(self, piece: dict[str, Any], logprobs: tuple[TokenLogprob, ...] = ()) -> TokenDelta | None:
        """The delta for a message, or for a piece of a message; None if it has no content."""
        refuse_unsupported(piece)
        text, thought = text_of(piece)
        reasoning = reasoning_of(piece) + thought
        called = piece.get("tool_calls") or piece.get("function_call")
        calls = tuple(self._tool_calls(piece)) if called else ()
        if self.stopped or not (text or reasoning or calls or logprobs):
            return None
        if text or reasoning or calls:
            self._continued_after_finish = self._continued_after_finish or self.finish_reason is not None
        self._has_reasoning = self._has_reasoning or bool(reasoning)
        if text:
            self._check_logprobs(logprobs)
            self._has_text = True
            if self._filters:
                text, thought = self._filtered(text)
                reasoning += thought
        return self._delta_of(text, reasoning, calls, logprobs)

    def _delta_of(
        self, text: str, reasoning: str, calls: tuple[ToolCallDelta, ...], logprobs: tuple[TokenLogprob, ...]
    ) -> TokenDelta | None:
        if not (text or reasoning or calls or logprobs):
            return None
        delta = TokenDelta(text=text, model=self._model)
        if reasoning:
            delta.reasoning = reasoning
        if calls:
            delta.tool_calls = calls
        if logprobs:
            delta.logprobs = logprobs
        self.delivered = True
        return delta

    def _filtered(self, text: str) -> tuple[str, str]:
        self._pieces += 1
        reasoning = ""
        for each in self._filters:
            text, thought = each.feed(text)
            reasoning += thought
        self._filters = [each for each in self._filters if not each.is_finished]
        self._text_passes = not (self._filters or self._logprobs_requested or self.finish_reason)
        if self._stops is not None and self._stops.reached:
            self.stopped, self.finish_reason, self._continued_after_finish = True, "stop", False
        return text, reasoning

    def _tool_calls(self, piece: dict[str, Any]) -> Iterator[ToolCallDelta]:
        for call in piece.get("tool_calls") or ():
            placed = self._tool_call(call, call.get("index"))
            if placed is not None:
                yield placed
        if old := piece.get("function_call"):  # OpenAI's old field, for a single call
            placed = self._tool_call({"function": old}, 0)
            if placed is not None:
                yield placed

    def _tool_call(self, call: dict[str, Any], number: int | None, *, complete: bool = False) -> ToolCallDelta | None:
        if number is not None and not isinstance(number, int):
            raise TypeError
        if call.get("custom"):
            raise unreadable("it holds a call of a `custom` tool, which tokenlane does not support")
        function = call.get("function") or {}
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # some servers send an object instead of a string
            arguments, complete = to_json(arguments).decode(), True
        identity = call.get("id")
        return self._calls.add(
            number,
            str(identity) if isinstance(identity, int) else identity,
            function.get("name"),
            arguments or "",
            complete=complete,
            extra=call.get("extra_content"),
        )

    def _logprobs(self, value: Any) -> tuple[TokenLogprob, ...]:
        """The log probabilities of a piece. Malformed ones are ignored unless the request asks for them."""
        try:
            return logprobs_of(value)
        except _MISREAD:
            if self._logprobs_requested:
                raise
            return ()

    def _check_logprobs(self, logprobs: tuple[TokenLogprob, ...]) -> None:
        if self._logprobs_requested and not logprobs and not self._has_text:
            raise BadRequest(
                "The model server did not send the requested `logprobs`: leave the option out, or route this role to "
                "another provider."
            )

    def _finish(self, reason: str) -> None:
        """Record the finish reason that the model server sent."""
        if self.stopped:
            return
        word = reason.lower()
        if word in _BROKEN_OFF:
            error = self._interrupted("The model server ended the answer before it was complete.")
            error.detail = f"finish reason {word!r}"
            raise error
        if word not in _FINISH:
            named = f"`{word}`" if word.isidentifier() and len(word) <= 32 else "unlike any known"
            raise unreadable(f"its finish reason is {named}, which does not say whether the answer is complete")
        self.finish_reason, self._text_passes = _FINISH[word], False

    def _count(self, usage: Usage) -> None:
        """Keep the newest counts. Some servers send counts with each piece. Zeros are ignored, since some servers send
        them last."""
        if self._usage is None or usage.prompt_tokens or usage.completion_tokens:
            self._usage = usage

    def _delta(self, value: Any) -> TokenDelta | None:
        """The delta in an event, whose JSON is already parsed; None if the event has no content."""
        raise NotImplementedError

    def _read(self, data: bytes) -> TokenDelta | None:
        """The delta in an event.

        Raises:
            UnreadableAnswer: the event has a form that this dialect does not have.
        """
        stopped = self.stopped
        try:
            # from_json takes half the time of json.loads, and also decodes UTF-8.
            return self._delta(from_json(data))
        except LlmError:
            if stopped:  # the answer was already complete
                return None
            raise
        except _MISREAD as error:
            problem = error
        # The error below is not chained to this one, whose message quotes the text.
        mended = self._half_characters.mended(data)
        if mended is not None:
            return self._read(mended)
        if stopped:
            return None
        raise unreadable(self._wrong_with(data, problem), data)

    def _wrong_with(self, data: bytes, problem: Exception) -> str:
        try:
            value = json.loads(data)
        except UnicodeDecodeError:
            return "an event in it is not UTF-8"
        except (ValueError, RecursionError):
            return f"an event in it, of {len(data)} bytes, is not JSON"
        if not isinstance(value, dict):
            return f"an event in it is {kind_of(value)}"
        return wrong_field(value, self.shape) or f"an event in it has an unknown form ({type(problem).__name__})"

    def _interrupted(self, message: str) -> Interrupted:
        # If the server itself ended an answer that it had not completed, another try would end in the same way.
        return Interrupted(message, retryable=not (self.done and self.begun))


def wrong_model(named: str) -> ModelNotFound:
    """The error for an answer that comes from another model than the requested one."""
    return ModelNotFound(
        "The model server answered with another model than the requested one: run `tokenlane models ls`, and check "
        "the lane's models.",
        detail=f"it answered with {named[:256]!r}",
    )
