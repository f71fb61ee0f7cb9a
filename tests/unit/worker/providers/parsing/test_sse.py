"""Server-sent events come out the same however the bytes were cut."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract.errors import UnreadableAnswer
from tokenlane.worker.providers.parsing.sse import MESSAGE, Event, SseReader

LINES = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data:  c",
        b"data",
        b"data: \xf0\x9f\x98\x80",
        b": note",
        b"event: error",
        b"id: 1",
        b"",
        b'{"a": 1}',
    ]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAMS = st.one_of(st.binary(max_size=60), st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=20).map(b"".join))


def reference(stream: bytes) -> list[Event]:
    """The standard's algorithm, on the whole stream at once, and our exception to it."""
    events: list[Event] = []
    data: list[bytes] = []
    name = ""
    for line in re.split(rb"\r\n|\n|\r", stream)[:-1]:
        if not line:
            if data:
                events.append((b"\n".join(data), name or MESSAGE))
            data, name = [], ""
            continue
        if line.startswith(b"{") and not data:
            events.append((line, name or MESSAGE))
            name = ""
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return events


def read(chunks: list[bytes]) -> list[Event]:
    reader = SseReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


@given(STREAMS, st.lists(st.integers(0, 60), max_size=12))
def test_any_split_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    """Wherever a stream is cut, the events are those of the whole stream read as the standard says."""
    places = sorted({0, *(min(cut, len(stream)) for cut in cuts), len(stream)})
    chunks = [stream[start:end] for start, end in pairwise(places)]
    assert read(chunks) == reference(stream)


@given(STREAMS)
def test_byte_by_byte(stream: bytes) -> None:
    """A stream that comes a byte at a time gives the same events too."""
    assert read([stream[place : place + 1] for place in range(len(stream))]) == reference(stream)


def test_several_data_lines_are_one_event() -> None:
    """`data` lines of an event are joined by a line feed, and its name is kept."""
    assert read([b"event: x\ndata: 1\ndata: 2\n\n"]) == [(b"1\n2", "x")]


def test_an_event_without_its_blank_line_is_dropped() -> None:
    """What the stream broke off in the middle of is no event."""
    assert read([b"data: 1\n\ndata: 2\n"]) == [(b"1", MESSAGE)]


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 100, b"data: xxxxxxxx\n" * 12, b"x" * 90 + b"\n"])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_huge_event_is_refused(stream: bytes, step: int) -> None:
    """An event, or a line without end, over the limit is one clear error instead of memory."""
    reader = SseReader(max_event_bytes=64)
    chunks = [stream[place : place + step] for place in range(0, len(stream), step)]
    with pytest.raises(UnreadableAnswer, match=r"\b64\b"):
        [reader.feed(chunk) for chunk in chunks]


@pytest.mark.parametrize(
    ("end", "events"),
    [
        (b'data: {"a":1}\n', [(b'{"a":1}', MESSAGE)]),
        (b'data: {"a":1}', [(b'{"a":1}', MESSAGE)]),
        (b"event: x\ndata: 1\ndata: 2", []),
        (b'{"a":1}', [(b'{"a":1}', MESSAGE)]),
        (b"data: [DONE]", [(b"[DONE]", MESSAGE)]),
        (b'data: {"a"', []),
        (b'{"a"', []),
        (b"event: x\n", []),
        (b": note", []),
    ],
)
def test_the_end_of_a_stream_completes_an_event(end: bytes, events: list[Event]) -> None:
    """Servers leave out the last blank line; what is no whole JSON was cut off, and is no event."""
    reader = SseReader()
    assert [*reader.feed(b"data: 1\n\n"), *reader.feed(end), *reader.rest()] == [(b"1", MESSAGE), *events]


def test_what_was_passed_over_is_kept_for_an_error() -> None:
    """Lines that no stream holds, up to a bound; comments, ids and times to wait are none of them."""
    reader = SseReader()
    reader.feed(b": note\nid: 1\nretry: 2\n\ndata: 3\nevent: x\n\n")
    assert reader.strange == b""
    reader.feed(b"<html>\nwords\n" + b"x" * 4000 + b"\nmore\n")
    assert reader.strange.startswith(b"<html>\nwords\nxxx")
    assert len(reader.strange) < 4000
