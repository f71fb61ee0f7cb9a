"""The base class of the answer readers: collects the pieces, the end and the usage of an answer, and says why an answer
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
from tokenlane.worker.providers.parsing.shape import Shape, kind_of, wrong_field
from tokenlane.worker.providers.parsing.sse import Event

from .contents import reasoning_of, refuse_unsupported, text_of
from .half_characters import HalfCharacters
from .logprobs import logprobs_of
from .text_filters import StopWords, TextFilter, rest_of

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
"""Finish reasons of answers that the server did not finish, but may finish on another try."""
_MISREAD = (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError, RecursionError)
"""The errors that Python raises if a JSON value has an unexpected type."""


class AnswerReader:
    """The state of one answer while it is read.

    Guarantee: no delta is returned if the model server answers with another model than the requested one, and `last`
    returns only if the model server marked the answer as complete.

    Args:
        filters: the filters through which the text passes.
        logprobs: whether the request asks for log probabilities.
    """

    shape: ClassVar[Shape]
    """The expected form of an event."""

    def __init__(self, asked: str, filters: Sequence[TextFilter] = (), *, logprobs: bool = False) -> None:
        self.events = 0
        """How many events have arrived. Comments that keep the connection alive do not count."""
        self.delivered = False
        """A delta has been returned."""
        self.finish_reason: FinishReason | None = None
        self.done = False
        """The server has closed the answer: no more events follow."""
        self.stopped = False
        """A stop word has ended the answer. The model server may not know that and may send more."""
        self._asked = asked
        self._model = asked
        self._usage: Usage | None = None
        self._calls = ToolCalls()
        self._filters = filters
        """The filters that may still change the text."""
        self._stops = next((each for each in filters if isinstance(each, StopWords)), None)
        self._wants_logprobs = logprobs
        self._has_text = self._has_reasoning = False
        self._pieces = 0
        """How many pieces of text went through the filters."""
        self._passes = not (filters or logprobs)
        """Text becomes a delta unchanged: the answer has not finished, and no filter or log probability is due."""
        self._goes_on = False
        """The server sent more after a finish reason."""
        self._halves = HalfCharacters()
        self._strange = ""
        """Describes an event that the server sent in place of an answer."""

    def take(self, event: Event) -> TokenDelta | None:
        """The delta in this event, if it holds one."""
        raise NotImplementedError

    @property
    def begun(self) -> bool:
        """The model server has sent content or a finish reason. Framing, roles and empty pieces do not count."""
        return self._has_text or self._has_reasoning or self.finish_reason is not None or len(self._calls) > 0

    @property
    def ending(self) -> bool:
        """Everything but the usage has arrived. Some servers send a finish reason with each piece, which is ignored."""
        return self.finish_reason is not None and not self._goes_on

    def end(self, frames: Frames) -> Iterator[TokenDelta]:
        """The remaining deltas, once the stream has ended. They include the last delta of the answer.

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
        """The last delta, with the finish reason and the usage, once the stream has ended.

        Raises:
            Interrupted: the stream ended without a finish reason.
            UnreadableAnswer: the stream held something other than an answer, or a tool call has no name.
        """
        if self.finish_reason is None:
            if self._strange and not self.begun:
                raise unreadable(self._strange)
            raise self._interrupted("The model server's stream ended before the answer was whole.")
        if self._calls.has_nameless_call and self.finish_reason != "length":
            raise unreadable("a tool call in it has no name")
        # Some servers finish a tool call with "stop".
        called = len(self._calls) and self.finish_reason == "stop" and not self.stopped
        last = TokenDelta(finish_reason="tool_calls" if called else self.finish_reason, model=self._model)
        if self._usage is None and self.stopped:
            self._usage = Usage(completion_tokens=self._pieces)  # a minimum: we hung up before the server counted
        if self._usage is not None:
            last.usage = self._usage
        text, reasoning = rest_of(self._filters)
        if text:
            last.text = text
        if reasoning:
            last.reasoning = reasoning
        return last

    def _piece(self, piece: dict[str, Any], logprobs: tuple[TokenLogprob, ...] = ()) -> TokenDelta | None:
        """The delta from a message or from a piece of a message."""
        refuse_unsupported(piece)
        text, thought = text_of(piece)
        reasoning = reasoning_of(piece) + thought
        called = piece.get("tool_calls") or piece.get("function_call")
        calls = tuple(self._tool_calls(piece)) if called else ()
        if self.stopped or not (text or reasoning or calls or logprobs):
            return None
        if text or reasoning or calls:
            self._goes_on = self._goes_on or self.finish_reason is not None
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
        self._filters = [each for each in self._filters if not each.over]
        self._passes = not (self._filters or self._wants_logprobs or self.finish_reason)
        if self._stops is not None and self._stops.reached:
            self.stopped, self.finish_reason, self._goes_on = True, "stop", False
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
        """The log probabilities of a piece. Malformed ones are ignored unless the request asked for them."""
        try:
            return logprobs_of(value)
        except _MISREAD:
            if self._wants_logprobs:
                raise
            return ()

    def _check_logprobs(self, logprobs: tuple[TokenLogprob, ...]) -> None:
        if self._wants_logprobs and not logprobs and not self._has_text:
            raise BadRequest(
                "The server does not send the requested `logprobs`: leave them out, or route this role to another "
                "provider."
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
        self.finish_reason, self._passes = _FINISH[word], False

    def _count(self, usage: Usage) -> None:
        """Keep the newest counts. Some servers send counts with each piece, and some send zeros at the end."""
        if self._usage is None or usage.prompt_tokens or usage.completion_tokens:
            self._usage = usage

    def _delta(self, value: Any) -> TokenDelta | None:
        """The delta in this event, parsed from JSON, if it holds one."""
        raise NotImplementedError

    def _read(self, data: bytes) -> TokenDelta | None:
        """The delta in an event.

        Raises:
            UnreadableAnswer: the event does not belong to this dialect.
        """
        stopped = self.stopped
        try:
            # from_json takes half the time of json.loads, and decodes UTF-8 itself.
            return self._delta(from_json(data))
        except LlmError:
            if stopped:  # the answer was already complete
                return None
            raise
        except _MISREAD as error:
            problem = error
        # Not chained: the message of such an error quotes the text.
        mended = self._halves.mended(data)
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
        # A server that deliberately closed an incomplete answer would do so again, after generating for nothing.
        return Interrupted(message, retryable=not (self.done and self.begun))


def wrong_model(named: str) -> ModelNotFound:
    """The error for an answer from another model than the requested one."""
    return ModelNotFound(
        "The model server answered with another model than the requested one: check the lane's models.",
        detail=f"it answered with {named[:256]!r}",
    )
