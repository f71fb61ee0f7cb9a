"""What `tokenlane demo --kill` says about the answer, and what it finds wrong with one."""

from __future__ import annotations

import pytest

from tokenlane.producer import Answer, TokenDelta, Usage
from tokenlane.producer.commands.demo_kill import Arrival, faults_in, summary


def arrivals(*positions: int, lanes: str = "aab", at_s: tuple[float, ...] = (0, 1, 3.5)) -> list[Arrival]:
    """Deltas with these positions; each lane is an attempt of its own."""
    return [
        Arrival(TokenDelta(attempt=ord(lane), lane=lane, position=position, text=f"{position} "), moment)
        for position, lane, moment in zip(positions, lanes, at_s, strict=True)
    ]


def answer(text: str, attempts: int = 2) -> Answer:
    """A complete answer."""
    return Answer(request_id="1", text=text, usage=Usage(attempts=attempts))


def test_an_answer_that_went_on() -> None:
    """The summary has the attempts, both lanes, the pause between the attempts, and the check of the positions."""
    assert not list(faults_in(arrivals(0, 1, 2), answer("0 1 2 ")))
    first, pause, checked = summary(arrivals(0, 1, 2), answer("0 1 2 "))
    assert {"2.", "a", "b"} <= set(first.split())
    assert "2.5 s" in pause
    assert "0 to 2" in checked


@pytest.mark.parametrize(
    ("got", "whole"),
    [
        (arrivals(0, 2, 3), answer("0 2 3 ")),
        (arrivals(0, 1, 1), answer("0 1 1 ")),
        (arrivals(0, 1, 2), answer("0 2 ")),
        (arrivals(0, 1, 2, lanes="aaa"), answer("0 1 2 ", attempts=1)),
    ],
    ids=["gap", "repeat", "text", "no failover"],
)
def test_what_is_wrong_is_not_called_right(got: list[Arrival], whole: Answer) -> None:
    """A gap, a repeat, another text and an answer of one attempt are faults, and the summary claims nothing."""
    assert list(faults_in(got, whole))
    assert len(list(summary(got, whole))) == 2
