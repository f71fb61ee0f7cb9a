"""Keeps values in memory, for a stated time and within a stated size; the oldest go first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

KEEP_S = 600.0
"""How long values are kept."""
MOST_BYTES = 64 * 1024 * 1024
_MOST_GONE = 100_000


class Shelf(Generic[T]):
    """Values by their ids.

    Args:
        keep_s: how long a value is kept.
        most_bytes: how large all values together may be.
        clock: returns the time in seconds.
    """

    def __init__(
        self, keep_s: float = KEEP_S, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keep_s = keep_s
        self._most_bytes = most_bytes
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, int, T]] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._size = 0

    def put(self, name: str, value: T, size: int) -> None:
        """Keep a value of so many bytes. A value that is larger than everything may be is gone at once."""
        self.drop(name)
        self._kept[name] = self._clock() + self._keep_s, size, value
        self._size += size
        self._tidy()

    def get(self, name: str) -> T | None:
        """The value; None if it is not kept."""
        self._tidy()
        return self._kept[name][2] if name in self._kept else None

    def drop(self, name: str) -> bool:
        """Forget a value. Returns whether it was kept."""
        if name not in self._kept:
            return False
        self._size -= self._kept.pop(name)[1]
        return True

    def had(self, name: str) -> bool:
        """Whether this value was kept, and is gone for its age or for the sake of younger ones."""
        return name in self._gone

    def _tidy(self) -> None:
        while self._kept:
            name, (until, _, _) = next(iter(self._kept.items()))
            if self._size <= self._most_bytes and self._clock() < until:
                return
            self.drop(name)
            self._gone[name] = None
            if len(self._gone) > _MOST_GONE:
                self._gone.popitem(last=False)
