"""Every shape of an answer that is known is read as what it is, or fails once and clearly, however it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
from tests.unit.worker.providers.stream_shapes import SHAPES, Fails, Shape, Whole

from tokenlane.producer.link.answer_builder import AnswerBuilder
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.recovery import AttemptFailed, History, TryAgain, decide
from tokenlane.worker.providers.answers.text_filters import StopWordFilter, TextFilter, ThinkTagFilter
from tokenlane.worker.providers.ollama.answer import OllamaAnswerReader
from tokenlane.worker.providers.openai.answer import OpenAiAnswerReader
from tokenlane.worker.providers.parsing.frames import Frames

if TYPE_CHECKING:
    from tokenlane.worker.providers.answers.reader import AnswerReader


def read(
    shape: Shape, chunks: Sequence[bytes], before: Sequence[TextFilter] | None = None
) -> tuple[AnswerBuilder, LlmError | None]:
    """What an agent has of it in the end, and the error if it is not whole.

    Args:
        before: filters in place of the one for reasoning.
    """
    stops = [StopWordFilter(shape.stops)] if shape.stops else []
    filters: list[TextFilter] = [*([ThinkTagFilter()] if before is None else before), *stops]
    reader = {"openai": OpenAiAnswerReader, "ollama": OllamaAnswerReader}[shape.dialect]
    answer: AnswerReader = reader(shape.asked, filters, logprobs=shape.logprobs)
    frames, builder = Frames(), AnswerBuilder()
    try:
        for chunk in chunks:
            for event in frames.feed(chunk):
                delta = answer.take(event)
                if delta is not None:
                    builder.add(delta)
        for delta in answer.end(frames):
            builder.add(delta)
    except LlmError as error:
        return builder, error
    return builder, None


def outcome(shape: Shape, chunks: Sequence[bytes]) -> tuple[object, ...]:
    """All that tells one outcome from another."""
    builder, error = read(shape, chunks)
    told = None if error is None else (type(error), error.message, error.retryable, error.detail)
    return builder.build("0" * 32).model_dump(), told


def cut(stream: bytes, size: int) -> list[bytes]:
    return [stream[place : place + size] for place in range(0, len(stream), size)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_shape_is_read_as_what_it_is(shape: Shape) -> None:
    """Text, reasoning, calls, usage and logprobs are all there; what cannot be read says which field, and its words."""
    builder, error = read(shape, [shape.stream])
    answer = builder.build("0" * 32)
    match shape.expected:
        case Whole() as whole:
            assert error is None
            calls = tuple((call.id, call.name, call.arguments) for call in answer.tool_calls)
            usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.cached_tokens)
            logprobs = tuple((token.token, token.logprob, len(token.top_logprobs)) for token in answer.logprobs)
            found = Whole(
                answer.text, answer.reasoning, calls, str(answer.finish_reason), usage, logprobs, answer.model
            )
            assert found == whole
        case Fails() as fails:
            assert error is not None
            begun = bool(answer.text or answer.reasoning or answer.tool_calls)
            decision = decide(AttemptFailed(error), History(delivered=int(begun)), Policy())
            again = isinstance(decision, TryAgain)
            assert (error.code, again, answer.text) == (fails.code, fails.retryable, fails.after)
            assert fails.says in error.message
            assert fails.detail in error.detail


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_however_it_is_cut(shape: Shape) -> None:
    """Byte by byte, or in pieces that meet no border of an event, the outcome is that of the whole."""
    whole = outcome(shape, [shape.stream])
    sizes = (1, 2, 7, 61) if len(shape.stream) < 10_000 else (4099,)
    for size in sizes:
        assert outcome(shape, cut(shape.stream, size)) == whole


class _PassesAll:
    """A filter that changes nothing and is never finished, so that no piece takes the fast path."""

    is_finished = False

    def feed(self, text: str) -> tuple[str, str]:
        return text, ""

    def flush(self) -> tuple[str, str]:
        return "", ""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_fast_path_reads_the_same_answer(shape: Shape) -> None:
    """The fast path for pieces of plain text and the path through filters read the same answer."""
    (short, error), (long, its) = (read(shape, [shape.stream], before) for before in ([], [_PassesAll()]))
    assert short.build("0" * 32) == long.build("0" * 32)
    assert (type(error), getattr(error, "detail", None)) == (type(its), getattr(its, "detail", None))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_message_holds_what_was_said(shape: Shape) -> None:
    """What a server wrote is in the detail alone."""
    _, error = read(shape, [shape.stream])
    if error is not None:
        assert "PROMPT" not in f"{error} {error!r}"
        assert LETTERS not in f"{error} {error!r}"


LETTERS = "your messages resulted in"
"""A part of a server's words."""
