"""Adds up what workers report about themselves to counters that never decrease.

A worker counts from its start and takes its counts with it when it ends. So the sum over a lane's workers would fall
whenever one ends, which Prometheus takes for a restart of the exporter. This module adds up increases instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

_MOST_AWAY = 10_000
"""How many counts of workers that are away are kept."""


class Count(NamedTuple):
    """A worker's count of one counter, with the counter's labels."""

    worker: str
    name: str
    labels: tuple[str, ...]
    value: int


class Increases:
    """Counters over all workers since this object was created. What workers counted before that is not in them."""

    def __init__(self) -> None:
        self._totals: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._last: dict[tuple[str, str, tuple[str, ...]], int] | None = None

    def add(self, counts: Iterable[Count]) -> dict[tuple[str, tuple[str, ...]], int]:
        """Take the workers' present counts; return the counters by name and labels."""
        present, before = {count[:3]: count.value for count in counts}, self._last
        for key, value in present.items():
            last = value if before is None else before.get(key, 0)
            self._totals[key[1:]] += max(0, value - last)
        # A worker that was cut off from Redis comes back with its counts, so they are kept while it is away.
        away = {key: value for key, value in (before or {}).items() if key not in present}
        self._last = dict(list(away.items())[-_MOST_AWAY:]) | present
        # A series ends when no worker is left that counts it, or each new name of a lane would stay for ever.
        counted = {key[1:] for key in self._last}
        self._totals = Counter({key: total for key, total in self._totals.items() if key in counted})
        return dict(self._totals)
