"""The place of a request in its queue, in words."""

from __future__ import annotations

import pytest

from tokenlane.routing.decide.queue_place import QueuePlace


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "1 s"), (3_400, "3 s"), (41_000, "40 s"), (59_000, "60 s"), (100_000, "2 min"), (9_000_000, "2 h")],
)
def test_an_estimate_has_few_digits(milliseconds: int, text: str) -> None:
    """It shows no precision that it does not have."""
    assert QueuePlace(1, 3, milliseconds).starts_in == f"about {text}"


def test_the_estimate_grows_with_the_position() -> None:
    """Each request ahead takes as long as the queue's pace says."""
    assert QueuePlace(4, 9, 10_000).estimate_ms == 40_000
    assert "about 40 s" in str(QueuePlace(4, 9, 10_000))


def test_an_unknown_estimate_is_not_mentioned() -> None:
    """Without a measured pace there is only the place."""
    assert QueuePlace(2, 3).estimate_ms is None
    assert "about" not in str(QueuePlace(2, 3))
    assert "2 of 3" in str(QueuePlace(2, 3))
