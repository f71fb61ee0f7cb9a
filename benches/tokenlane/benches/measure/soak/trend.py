"""Fits a line to a figure over time: Theil and Sen's slope, which single outliers and steps do not move.

The slope is the median of the slopes between all pairs of values. Its range follows from the number of values, as in
Sen, "Estimates of the regression coefficient based on Kendall's tau" (1968): few or scattered values give a wide range.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Literal, TypeAlias

from pydantic import BaseModel, computed_field

LIMIT_PERCENT = 1.0
"""The most by which a figure may grow in an hour, in percent of its level."""
_Z_95 = 1.96

Reading: TypeAlias = Literal["steady", "grows", "open"]
"""`steady`: the whole range of the slope is at or below the limit; `grows`: the whole range is above it; `open`: the
limit is within the range, so only a longer run can tell."""


class Trend(BaseModel):
    """A line through the values of a figure, with slopes in percent of the figure's level in an hour.

    `level`: the median of the values. `first`, `last`: the line at the first and the last value. `at_least`, `at_most`:
    the range that contains the slope with a confidence of 95 %; for fewer than 4 values, the range of all slopes.
    """

    level: float
    first: float
    last: float
    slope: float
    at_least: float
    at_most: float

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def reading(self) -> Reading:
        """What the range says about growth."""
        if self.at_least > LIMIT_PERCENT:
            return "grows"
        return "steady" if self.at_most <= LIMIT_PERCENT else "open"


def trend_of(values: Sequence[float], interval_s: float) -> Trend:
    """Fit a line to at least two values that were measured `interval_s` seconds apart."""
    slopes = sorted((values[j] - values[i]) / (j - i) for i, j in combinations(range(len(values)), 2))
    slope = median(slopes)
    low, high = _ranks(values)
    level = median(values)
    start = median(value - slope * number for number, value in enumerate(values))
    percent_per_hour = 100 / (level or 1) * 3600 / interval_s
    return Trend(
        level=level,
        first=start,
        last=start + slope * (len(values) - 1),
        slope=slope * percent_per_hour,
        at_least=slopes[low] * percent_per_hour,
        at_most=slopes[high] * percent_per_hour,
    )


def _ranks(values: Sequence[float]) -> tuple[int, int]:
    """The ranks of the slopes at both ends of the range, among all slopes in order."""
    count = len(values)
    pairs = count * (count - 1) // 2
    ties = sum(same * (same - 1) * (2 * same + 5) for same in Counter(values).values())
    spread = _Z_95 * math.sqrt((count * (count - 1) * (2 * count + 5) - ties) / 18)
    low, high = round((pairs - spread) / 2) - 1, round((pairs + spread) / 2)
    return max(low, 0), min(high, pairs - 1)
