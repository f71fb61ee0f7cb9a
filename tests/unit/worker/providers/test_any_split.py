"""From bytes to deltas: whatever a stream holds and wherever it is cut, the outcome is the same, and never a crash."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.worker.providers.stream_shapes import SHAPES

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import LlmError
from tokenlane.worker.providers.answers.reader import AnswerReader
from tokenlane.worker.providers.answers.text_filters import (
    ContinuationFilter,
    StopWordFilter,
    TextFilter,
    ThinkTagFilter,
)
from tokenlane.worker.providers.ollama.answer import OllamaAnswerReader
from tokenlane.worker.providers.openai.answer import OpenAiAnswerReader
from tokenlane.worker.providers.parsing.frames import Frames

Outcome = tuple[list[TokenDelta], str]


def filters() -> list[TextFilter]:
    return [ThinkTagFilter(), ContinuationFilter("a b"), StopWordFilter(["é😀", "ab"])]


def read_openai(chunks: Sequence[bytes]) -> Outcome:
    """The deltas, and how it ended."""
    return _read(OpenAiAnswerReader("m", filters()), chunks)


def read_ollama(chunks: Sequence[bytes]) -> Outcome:
    """The same of Ollama's dialect."""
    return _read(OllamaAnswerReader("m", filters()), chunks)


def _read(answer: AnswerReader, chunks: Sequence[bytes]) -> Outcome:
    frames = Frames()
    deltas: list[TokenDelta] = []
    try:
        for chunk in chunks:
            for event in frames.feed(chunk):
                delta = answer.take(event)
                deltas += [] if delta is None else [delta]
        deltas.extend(answer.end(frames))
        return deltas, "whole"
    except LlmError as error:
        return deltas, f"{error.code} {error.message} {error.retryable} {error.detail}"


TEXT = st.text(alphabet='ab é😀"\\\n<think>/\u2028', max_size=8)
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT | st.dictionaries(TEXT, TEXT, max_size=2)})},
    optional={"index": st.integers(0, 2), "id": TEXT},
)
DELTA = st.fixed_dictionaries(
    {},
    optional={
        "content": TEXT | st.none(),
        "reasoning": TEXT,
        "thinking": TEXT,
        "tool_calls": st.lists(CALL, max_size=2),
    },
)
CHUNK = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries({"delta": DELTA, "finish_reason": st.sampled_from([None, "stop"])}), max_size=1
        )
    },
    optional={"model": st.sampled_from(["m", "m-2026", "n"]), "error": TEXT | st.none(), "usage": st.none()},
)
LINE = st.fixed_dictionaries(
    {"message": DELTA},
    optional={"model": st.sampled_from(["m", "m:latest", "n"]), "error": TEXT, "done": st.booleans()},
)


def encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


SHAPE = st.sampled_from([shape.stream for shape in SHAPES if len(shape.stream) < 10_000])
EVENTS = st.lists(
    st.one_of(
        CHUNK.map(lambda chunk: b"data: " + encoded(chunk) + b"\n\n"),
        st.sampled_from([b": ping\n\n", b"data: [DONE]\r\n\r\n", b"event: error\r", b"data:{\n\n", b"\r\n", b"{}\n"]),
        st.binary(max_size=12),
        SHAPE,
    ),
    max_size=6,
).map(b"".join)
LINES = st.lists(
    st.one_of(
        LINE.map(lambda line: encoded(line) + b"\n"),
        st.sampled_from([b"\n", b"\r\n", b"{}\n"]),
        st.binary(max_size=12),
        SHAPE,
    ),
    max_size=6,
).map(b"".join)


@pytest.mark.parametrize(("read", "streams"), [(read_openai, EVENTS), (read_ollama, LINES)], ids=["openai", "ollama"])
def test_any_split_gives_the_same(
    read: Callable[[Sequence[bytes]], Outcome], streams: st.SearchStrategy[bytes]
) -> None:
    """Cut anywhere, in a character, in a number, in a line end, the deltas and the end are those of the whole."""

    @given(streams, st.lists(st.integers(0, 2000), max_size=20))
    def cut(stream: bytes, cuts: list[int]) -> None:
        places = sorted({0, *(min(place, len(stream)) for place in cuts), len(stream)})
        whole = read([stream])
        assert read([stream[start:end] for start, end in pairwise(places)]) == whole
        assert read([stream[place : place + 1] for place in range(len(stream))]) == whole

    cut()
