"""Values of metrics: numbers, histograms, and the limit on names in labels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from .table import BY_NAME, MOST_NAMES, OTHER


class Histogram:
    """Counts values in buckets. `observe` takes less than a microsecond, so it may be called for each message."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """The upper bound of each bucket, and how many values are at most that; the last bound is infinity."""
        names = (*(str(bound) for bound in self._bounds), "+Inf")
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))


class Sample(NamedTuple):
    """The value of a metric for one combination of its labels, which are in the order of the table."""

    name: str
    labels: tuple[str, ...]
    value: float | Histogram


class Names:
    """Limits how many names a label has. The first `most` names stand for themselves, and all others are `other`."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._known: set[str] = set()
        self.omitted: set[str] = set()

    def of(self, name: str) -> str:
        """The label for a name."""
        if name in self._known:
            return name
        if len(self._known) < self._most:
            self._known.add(name)
            return name
        return OTHER

    def replace(self, present: Iterable[str]) -> None:
        """Forget names that are no longer present, so that present names take their places."""
        names = dict.fromkeys(present)
        self._known &= names.keys()
        self.omitted = {name for name in names if self.of(name) == OTHER}


class Histograms:
    """The histograms of one metric, one for each combination of labels."""

    def __init__(self, name: str) -> None:
        self._name, self._bounds = name, BY_NAME[name].bounds
        self._by_labels: dict[tuple[str, ...], Histogram] = {}

    def of(self, *labels: str) -> Histogram:
        """The histogram with these labels, which are in the order of the table."""
        if (histogram := self._by_labels.get(labels)) is None:
            histogram = self._by_labels[labels] = Histogram(self._bounds)
        return histogram

    def __iter__(self) -> Iterator[Sample]:
        return (Sample(self._name, labels, histogram) for labels, histogram in self._by_labels.items())
