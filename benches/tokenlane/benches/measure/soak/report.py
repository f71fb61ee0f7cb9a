"""The report of a soak: each figure's values and trend, the bars that they must hold, and both as a table."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, computed_field

from tokenlane.benches.measure.figures import Bar, line_of

from .trend import LIMIT_PERCENT, Trend, trend_of

MEMORY = "memory (MB)"
"""The resident memory, which allocators let grow for longer than a short soak lasts, though nothing is lost."""
_SETTLED_MINUTES = 60
SHORTEST_WARM_UP = 4
"""The rounds of 30 s until all buffers are full: a worker keeps an answer for a minute."""


class SoakFigure(BaseModel):
    """A figure of a process: its median in each round, and the trend of those after the warm-up."""

    process: str
    name: str
    rounds: list[float]
    trend: Trend

    @classmethod
    def of(cls, process: str, name: str, rounds: Sequence[float], warm_up: int, round_s: float) -> SoakFigure:
        """Return a figure with its trend. `warm_up`: the number of rounds that do not count."""
        return cls(process=process, name=name, rounds=list(rounds), trend=trend_of(rounds[warm_up:], round_s))


class Soak(BaseModel):
    """The report of a whole soak.

    `warm_up`: how many of the rounds do not count. `ended`: how many requests were answered and cancelled, and how many
    failed with each error code.
    """

    measured_at: str
    machine: str
    versions: str
    minutes: float
    streams: int
    round_s: float
    warm_up: int
    ended: dict[str, int]
    figures: list[SoakFigure]

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up was long enough for the growth after it to mean something."""
        return self.warm_up >= SHORTEST_WARM_UP

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def bars(self) -> list[Bar]:
        """A bar for each figure, for the growth that is certain, which is the lower end of its range.

        A soak without a full warm-up has none. Resident memory has one only in a soak of an hour or more.
        """
        return [
            Bar(
                name=f"certain growth in percent an hour, {figure.process}: {figure.name}",
                measured=max(figure.trend.at_least, 0),
                limit=LIMIT_PERCENT,
            )
            for figure in self.figures
            if self.is_warm and (figure.name != MEMORY or self.minutes >= _SETTLED_MINUTES)
        ]


_READINGS = {"steady": "steady", "grows": "GROWS", "open": "open: soak for longer"}


def table(report: Soak) -> str:
    """Return the report as Markdown, for benches/README.md."""
    ended = ", ".join(f"{count} {how}" for how, count in report.ended.items())
    lines = [
        f"{report.measured_at}, {report.machine}; {report.versions}.",
        "",
        f"{report.minutes:g} minutes in {len(report.figures[0].rounds)} rounds, of which {report.warm_up} are warm-up; "
        f"{report.streams} streams; requests: {ended}.",
        "",
        "| process | figure | at first | at last | growth, % an hour | 95 % range | reading |",
        "|---|---|--:|--:|--:|--:|---|",
        *(f"| {' | '.join(_cells(figure, is_warm=report.is_warm))} |" for figure in report.figures),
        "",
    ]
    return "\n".join([*lines, *map(line_of, report.bars)])


def _cells(figure: SoakFigure, *, is_warm: bool) -> tuple[str, ...]:
    trend = figure.trend
    return (
        figure.process,
        figure.name,
        f"{trend.first:.5g}",
        f"{trend.last:.5g}",
        f"{trend.slope:z.1f}",
        f"{trend.at_least:z.1f} to {trend.at_most:z.1f}",
        _READINGS[trend.reading if is_warm or trend.reading == "steady" else "open"],
    )
