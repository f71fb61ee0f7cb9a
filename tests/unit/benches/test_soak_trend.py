"""The trend of `bench soak`: what counts as growth, and how sure a reading is."""

from __future__ import annotations

import random

import pytest

from tokenlane.benches.measure.soak.report import MEMORY, SHORTEST_WARM_UP, Soak, SoakFigure, table
from tokenlane.benches.measure.soak.trend import Trend, trend_of

MINUTE_S = 60.0


def noisy(count: int, percent_per_hour: float, noise: float) -> list[float]:
    """A value of about 100 each minute, which grows at this rate."""
    chance = random.Random(1)
    return [100 + percent_per_hour * number / 60 + chance.gauss(0, noise) for number in range(count)]


def test_a_constant_figure_is_steady() -> None:
    """Equal values leave no doubt, even in a short run."""
    assert trend_of([7.0] * 6, MINUTE_S) == Trend(level=7, first=7, last=7, slope=0, at_least=0, at_most=0)
    assert trend_of([7.0] * 6, MINUTE_S).reading == "steady"


def test_growth_is_in_percent_of_the_level_an_hour() -> None:
    """A figure that grows from 100 to 102 within an hour grows by 2 % of its level of 101."""
    trend = trend_of([100 + 2 * number / 60 for number in range(61)], MINUTE_S)
    assert (trend.level, trend.first, trend.last) == pytest.approx((101, 100, 102))
    assert (trend.slope, trend.at_least, trend.at_most) == pytest.approx((200 / 101,) * 3)
    assert trend.reading == "grows"


@pytest.mark.parametrize(("grows_by", "reading"), [(0, "steady"), (3, "grows")])
def test_a_long_run_tells_in_spite_of_noise(grows_by: float, reading: str) -> None:
    """Two hours with 0.3 % of noise tell 0 % from 3 % an hour."""
    assert trend_of(noisy(120, grows_by, 0.3), MINUTE_S).reading == reading


def test_a_short_noisy_run_leaves_the_question_open() -> None:
    """Ten minutes with the same noise prove neither, and the range contains the truth."""
    trend = trend_of(noisy(10, 0, 0.3), MINUTE_S)
    assert trend.reading == "open"
    assert trend.at_least < 0 < trend.at_most


def test_outliers_and_one_step_are_no_growth() -> None:
    """A figure that jumps once, and one with a few values far off, do not grow."""
    assert trend_of([100.0] * 20 + [104.0] * 40, MINUTE_S).slope == 0
    assert trend_of([100.0, 100, 900, 100, 100, 100, 100, 0, 100, 100, 100, 100], MINUTE_S).reading == "steady"


def test_a_task_lost_at_every_fault_is_growth() -> None:
    """Whole numbers that rise now and then grow, since no fault takes them down again."""
    assert trend_of([20.0 + number // 3 for number in range(20)], MINUTE_S).reading == "grows"


@pytest.mark.parametrize(
    ("warm_up", "minutes", "names"), [(0, 1, []), (4, 4, ["objects"]), (4, 60, [MEMORY, "objects"])]
)
def test_growth_is_certain_only_after_a_full_warm_up(warm_up: int, minutes: float, names: list[str]) -> None:
    """Buffers fill for two minutes, so growth without that warm-up has no bar and is called open, not certain."""
    rising = [100.0 + number for number in range(9)]
    figures = [SoakFigure.of("worker", name, rising, warm_up, 30) for name in (MEMORY, "objects")]
    assert {figure.trend.reading for figure in figures} == {"grows"}
    report = Soak(
        measured_at="",
        machine="",
        versions="",
        minutes=minutes,
        streams=8,
        round_s=30,
        warm_up=warm_up,
        ended={},
        figures=figures,
    )
    assert [bar.name.rpartition(": ")[2] for bar in report.bars] == names
    assert ("GROWS" in table(report)) == (warm_up >= SHORTEST_WARM_UP)
