"""Reads an answer from the chunks of OpenAI's chat stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

from pydantic_core import from_json

from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.worker.providers.answers.contents import reasoning_of, text_of
from tokenlane.worker.providers.answers.model_names import same_model
from tokenlane.worker.providers.answers.reader import AnswerReader, wrong_model
from tokenlane.worker.providers.answers.text_filters import TextFilter
from tokenlane.worker.providers.errors.http_errors import error_of, refusal_in_stream, unreadable
from tokenlane.worker.providers.parsing.json_shape import OPENAI_CHUNK, Shape, count_of, names_of
from tokenlane.worker.providers.parsing.sse import MESSAGE, Event

_WITHOUT_CHOICES = {"choices", "usage", "x_groq", "timings", "prompt_progress"}
"""A chunk without content has one of these fields."""


class OpenAiAnswerReader(AnswerReader):
    """Turns the events of one answer into deltas. OpenAI's separate `refusal` field counts as text.

    Args:
        same_model: whether the model named in the answer (first argument) is the requested model (second argument).
    """

    shape: ClassVar[Shape] = OPENAI_CHUNK

    def __init__(
        self,
        requested: str,
        filters: Sequence[TextFilter] = (),
        same_model: Callable[[str, str], bool] = same_model,
        *,
        logprobs: bool = False,
    ) -> None:
        super().__init__(requested, filters, logprobs=logprobs)
        self._same_model = same_model
        self._choice: int | None = None
        self._message = False
        """Whether a complete message has arrived, in addition to pieces or instead of them."""

    def take(self, event: Event) -> TokenDelta | None:
        """The delta in this event; None if it has no content.

        Raises:
            LlmError: the event is an error, comes from another model, or does not belong to a chat stream.
        """
        data, name = event
        if name != MESSAGE:
            return self._named(data, name)
        self.events += 1
        if data[:1] == b"{":
            return self._read(data)
        data = data.strip()
        if data == b"[DONE]":
            self.done = True
            return None
        return self._read(data) if data else None

    def _named(self, data: bytes, name: str) -> TokenDelta | None:
        """The delta in an event with a name. Events with unknown names are ignored, as the standard requires, unless
        they have content or an error."""
        try:
            value = from_json(data)
        except ValueError:
            value = data.decode("utf-8", "replace")
        if name == "error":
            self.events += 1
            error = error_of(value)
            raise refusal_in_stream(value if error is None else error)
        if isinstance(value, dict) and (value.get("choices") or value.get("error")):
            return self.take((data, MESSAGE))
        self.done = self.done or data.strip() == b"[DONE]"
        return None

    def _delta(self, value: Any) -> TokenDelta | None:
        if not isinstance(value, dict):
            self._refuse_other_json(value)
        chunk: dict[str, Any] = value
        if chunk.get("error"):
            raise refusal_in_stream(error_of(chunk))
        model = chunk.get("model")
        if model and model != self._model:
            self._check_model(model)
        if usage := chunk.get("usage"):
            self._count(_usage(usage))
        choices = chunk.get("choices")
        if not choices:
            self._without_choices(chunk)
            return None
        choice = choices[0]
        if len(choices) > 1 or choice.get("index") != self._choice:
            self._check_choice(choices)
        piece = choice.get("delta")
        plain = piece and len(piece) == 1 and self._text_passes
        if plain and not (choice.get("finish_reason") or choice.get("logprobs") or choice.get("error")):
            text = piece.get("content")
            if text and isinstance(text, str):
                self.delivered = self._has_text = True
                return TokenDelta(text=text, model=self._model)
        return self._any_choice(chunk, choice)

    def _any_choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> TokenDelta | None:
        delta = self._content(choice)
        if reason := choice.get("finish_reason"):
            self._ended(chunk, choice, reason)
        elif choice.get("error"):
            raise refusal_in_stream(choice["error"])
        return delta

    def _content(self, choice: dict[str, Any]) -> TokenDelta | None:
        piece, logprobs = choice.get("delta") or {}, choice.get("logprobs")
        tokens = self._logprobs(logprobs) if logprobs else ()
        delta = self._piece(piece, tokens) if piece else None
        if delta is None and choice.get("message"):
            return self._piece(self._without_pieces(choice["message"]), tokens)
        if delta is None and choice.get("text"):  # from the completions API
            return self._piece({"content": choice["text"]}, tokens)
        return delta

    def _without_pieces(self, message: dict[str, Any]) -> dict[str, Any]:
        """A complete message without the content that has already arrived in pieces. Some servers send pieces and then
        the complete message, some only the message.

        Raises:
            UnreadableAnswer: it is the second message, and it is unclear whether it continues or repeats the first.
        """
        text, thought = text_of(message)
        reasoning = thought + reasoning_of(message)
        calls = {name: message[name] for name in ("tool_calls", "function_call") if message.get(name)}
        if self._message and (text or reasoning or calls):
            raise unreadable("it has `choices[0].message` more than once, and these may be pieces or repetitions")
        self._message = True
        return {
            **message,
            "content": "" if self._has_text else text,
            "refusal": None,
            "reasoning": "" if self._has_reasoning else reasoning,
            "reasoning_content": None,
            "thinking": None,
            "tool_calls": None if len(self._calls) else calls.get("tool_calls"),
            "function_call": None if len(self._calls) else calls.get("function_call"),
        }

    def _ended(self, chunk: dict[str, Any], choice: dict[str, Any], reason: str) -> None:
        """Take the finish reason and the usage from the last chunk."""
        if choice.get("error"):
            raise refusal_in_stream(choice["error"])
        self._finish(reason)
        usage = choice.get("usage") or (chunk.get("x_groq") or {}).get("usage")
        if usage:
            self._count(_usage(usage))
        elif self._usage is None and (timings := chunk.get("timings")):
            self._count(_usage_from_timings(timings))

    def _without_choices(self, chunk: dict[str, Any]) -> None:
        error = error_of(chunk)
        if error is not None:
            raise refusal_in_stream(error)
        if usage := (chunk.get("x_groq") or {}).get("usage"):
            self._count(_usage(usage))
        if (
            not self._unexpected
            and not _WITHOUT_CHOICES & chunk.keys()
            and chunk.get("object") != "chat.completion.chunk"
        ):
            self._unexpected = f"it has events without `choices`, whose fields are {names_of(chunk)}"

    def _check_choice(self, choices: list[dict[str, Any]]) -> None:
        """Check that all choices have the same index, since the request asks for one answer. Any index will do."""
        for choice in choices:
            index = choice.get("index")
            if index is not None and self._choice not in (None, index):
                raise unreadable("it has several `choices`, but the request requested for one")
            self._choice = index if index is not None else self._choice

    def _check_model(self, model: str) -> None:
        if not self._same_model(model, self._requested):
            raise wrong_model(model)
        self._model = model

    def _refuse_other_json(self, chunk: object) -> NoReturn:
        error = error_of(chunk)
        if error is not None:
            raise refusal_in_stream(error)
        raise TypeError


def _usage(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=count_of(usage.get("prompt_tokens") or usage.get("input_tokens")),
        completion_tokens=count_of(usage.get("completion_tokens") or usage.get("output_tokens")),
        cached_tokens=count_of(
            details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or usage.get("cached_tokens")
        ),
    )


def _usage_from_timings(timings: dict[str, Any]) -> Usage:
    """The usage in llama.cpp's `timings`, in which `prompt_n` excludes cached tokens."""
    cached = count_of(timings.get("cache_n"))
    return Usage(
        prompt_tokens=cached + count_of(timings.get("prompt_n")),
        completion_tokens=count_of(timings.get("predicted_n")),
        cached_tokens=cached,
    )
