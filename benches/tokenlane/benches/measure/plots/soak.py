"""Plots a soak as SVG: a column for each process, with a panel for each figure over time and its trend."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby

from tokenlane.benches.measure.soak.report import Soak, SoakFigure

from .page import page

_WIDTH, _HEIGHT, _GAP, _TOP = 290.0, 110.0, 50.0, 60.0
_NARROWEST = 0.05
"""The least height of a panel, as a part of the figure's level, so that noise looks like noise."""


def svg(report: Soak) -> str:
    """Return the plot as the text of an SVG file, for light and dark backgrounds."""
    columns = [[*figures] for _, figures in groupby(report.figures, key=lambda figure: figure.process)]
    width = _GAP + len(columns) * (_WIDTH + _GAP)
    height = _TOP + max(map(len, columns)) * (_HEIGHT + _GAP)
    panels = (
        f'<g transform="translate({_GAP + column * (_WIDTH + _GAP):g} {_TOP + row * (_HEIGHT + _GAP):g})">'
        f"{''.join(_panel(figure, report))}</g>"
        for column, figures in enumerate(columns)
        for row, figure in enumerate(figures)
    )
    title = (
        f"{report.minutes:g} minutes at {report.streams} streams, with the same faults in each round. "
        f"The shaded warm-up does not count. Measured at {report.measured_at}"
    )
    return page(title, width, height, panels)


def _panel(figure: SoakFigure, report: Soak) -> Iterator[str]:
    """The parts of a panel, whose upper left corner is at 0, 0."""
    values, trend, last = figure.rounds, figure.trend, len(figure.rounds) - 1
    low, high = min(values), max(values)
    margin = max(0.05 * (high - low), (_NARROWEST * abs(trend.level) - (high - low)) / 2, 1e-9)
    low, high = low - margin, high + margin

    def at(number: float, value: float) -> str:
        return f"{number / last * _WIDTH:.1f},{(high - value) / (high - low) * _HEIGHT:.1f}"

    (x1, y1), (x2, y2) = (
        at(number, value).split(",") for number, value in ((report.warm_up, trend.first), (last, trend.last))
    )
    kind = "trend grows" if trend.reading == "grows" else "trend"
    yield f'<rect class="warm-up" width="{x1}" height="{_HEIGHT:g}"/>'
    yield f'<rect class="panel" width="{_WIDTH:g}" height="{_HEIGHT:g}"/>'
    yield f'<polyline class="values" points="{" ".join(at(*point) for point in enumerate(values))}"/>'
    yield f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
    yield f'<text y="-6">{escape(figure.process)}: {escape(figure.name)}</text>'
    growth = f"{trend.at_least:z.1f} to {trend.at_most:z.1f} % an hour: {trend.reading}"
    yield f'<text class="small end" x="{_WIDTH:g}" y="{_HEIGHT + 14:g}">{growth}</text>'
    yield f'<text class="small end" x="-4" y="10">{high:.4g}</text>'
    yield f'<text class="small end" x="-4" y="{_HEIGHT:g}">{low:.4g}</text>'
