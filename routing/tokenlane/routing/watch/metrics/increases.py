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
    """What a worker has counted since its start.

    `counted`: of what, by its full names. `labels`: the labels under which the counter `name` reports it now, in which
    `other` may stand for names.
    """

    worker: str
    name: str
    counted: tuple[str, ...]
    labels: tuple[str, ...]
    value: int


class Increases:
    """Counters over all workers since this object was created. What workers counted before that is not in them."""

    def __init__(self) -> None:
        self._totals: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._last: dict[tuple[str, str, tuple[str, ...]], Count] | None = None

    def add(self, counts: Iterable[Count]) -> dict[tuple[str, tuple[str, ...]], int]:
        """Take the workers' present counts; return the counters by name and labels."""
        # The labels of a count may change, so its full names tell which count it continues.
        present, before = {(count.worker, count.name, count.counted): count for count in counts}, self._last
        for key, count in present.items():
            last = count if before is None else before.get(key)
            self._totals[count.name, count.labels] += max(0, count.value - (0 if last is None else last.value))
        # A worker that was cut off from Redis comes back with its counts, so they are kept while it is away.
        away = {key: count for key, count in (before or {}).items() if key not in present}
        self._last = dict(list(away.items())[-_MOST_AWAY:]) | present
        # A series ends when no worker is left that counts it, or each new name of a lane would stay for ever.
        counted = {(count.name, count.labels) for count in self._last.values()}
        self._totals = Counter({key: total for key, total in self._totals.items() if key in counted})
        return dict(self._totals)
