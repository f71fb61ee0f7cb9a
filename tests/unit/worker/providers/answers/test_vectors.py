"""Vectors come out in order, of one length, each of length 1, or not at all."""

from __future__ import annotations

from math import hypot, inf, nan
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract.errors import UnreadableAnswer
from tokenlane.worker.providers.answers.vectors import listed_vectors, unit_vectors

PARTS = st.floats(-(2.0**90), 2.0**90, width=32)
VECTORS = st.lists(st.lists(PARTS, min_size=3, max_size=3).filter(lambda parts: hypot(*parts) > 1e-15), max_size=5)


@given(VECTORS, st.randoms(use_true_random=False))
def test_order_and_length(vectors: list[list[float]], chance: Random) -> None:
    """Whatever order a list comes in, each input gets its vector, of length 1 and unchanged direction."""
    data = [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    chance.shuffle(data)
    found = listed_vectors(data, len(vectors))
    for vector, unit in zip(vectors, found, strict=True):
        assert hypot(*unit) == pytest.approx(1)
        assert [part * hypot(*vector) for part in unit] == pytest.approx(vector, rel=1e-4, abs=1e-4 * hypot(*vector))


def test_a_unit_vector_is_left_as_it_came() -> None:
    """What is of length 1 but for rounding is not rounded again."""
    assert unit_vectors([[0.6, 0.8000001]], 1) == [[0.6, 0.8000001]]


def test_a_list_without_numbers_is_in_order() -> None:
    """Servers that leave `index` out send the vectors in order."""
    assert listed_vectors([{"embedding": [1]}, {"embedding": [-1]}], 2) == [[1], [-1]]


@pytest.mark.parametrize(
    "vectors",
    [
        [[1.0]],
        [[1.0]] * 3,
        [[1.0], [1.0, 0.0]],
        [[], []],
        [[1.0], [0.0]],
        [[1.0], [nan]],
        [[1.0], [inf]],
        [[1.0], [10**400]],
    ],
)
def test_what_cannot_be_used(vectors: list[list[float]]) -> None:
    """Too few, too many, of several lengths, or without direction: one clear error."""
    with pytest.raises(UnreadableAnswer):
        unit_vectors(vectors, 2)


@pytest.mark.parametrize("indexes", [(0, 0), (1, 2), (0,)])
def test_one_vector_for_each_input(indexes: tuple[int, ...]) -> None:
    """A list that names an input twice, or none, is not usable."""
    with pytest.raises(UnreadableAnswer):
        listed_vectors([{"index": index, "embedding": [1.0]} for index in indexes], 2)
