"""Lines come out the same however the bytes were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract.errors import UnreadableAnswer
from tokenlane.worker.providers.parsing.ndjson import LineReader

PARTS = st.sampled_from([b'{"a": "\xf0\x9f\x98\x80"}', b"\n", b"\r\n", b"\r", b"x", b"\n\n"])
STREAMS = st.one_of(st.binary(max_size=60), st.lists(PARTS, max_size=20).map(b"".join))


def reference(stream: bytes) -> list[bytes]:
    """The ended lines of the whole stream, empty ones left out."""
    lines = [line.removesuffix(b"\r") for line in stream.split(b"\n")[:-1]]
    return [line for line in lines if line]


@given(STREAMS, st.lists(st.integers(0, 60), max_size=12))
def test_any_split_gives_the_same_lines(stream: bytes, cuts: list[int]) -> None:
    """Wherever a stream is cut, in a character, in a line end, the lines are those of the whole stream."""
    places = sorted({0, *(min(cut, len(stream)) for cut in cuts), len(stream)})
    reader = LineReader()
    chunks = [stream[start:end] for start, end in pairwise(places)]
    assert [line for chunk in chunks for line in reader.feed(chunk)] == reference(stream)


@pytest.mark.parametrize("stream", [b"x" * 100, b"x" * 90 + b"\n", b"a\n" + b"x" * 65])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_huge_line_is_refused(stream: bytes, step: int) -> None:
    """A line over the limit, ended or not, is one clear error instead of memory."""
    reader = LineReader(max_line_bytes=64)
    chunks = [stream[place : place + step] for place in range(0, len(stream), step)]
    with pytest.raises(UnreadableAnswer, match=r"\b64\b"):
        [reader.feed(chunk) for chunk in chunks]
